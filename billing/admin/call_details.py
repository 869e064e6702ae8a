"""What the page of one call and its drawer tell beside the row itself: why, how long, what else."""

from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.http import urlencode

from billing.admin.calls import calls_table, duration_text
from billing.admin.explanation import corrected, explain
from billing.admin.refusal import explain_refusal
from billing.models import SpendLog
from customers.words import EMPTY

SESSION_CALLS = 10


@dataclass(frozen=True)
class Timing:
    """Where a call's time went."""

    total: str
    first_token: str = ""  # "": it has none, or did not stream
    first_token_percent: int = 0  # of the total
    rest: str = ""
    rate: str = ""  # tokens per second after the first one


@dataclass(frozen=True)
class Session:
    """The other calls of a call's session, the latest of them."""

    table: dict[str, Any]  # as the theme's table component takes it
    url: str  # all of them in the Logs
    is_more: bool


def details_of(log: SpendLog) -> dict[str, Any]:
    """Return the context of the templates about one call. One query, where it has a session."""
    return {
        "explanation": explain(log),
        "corrected": corrected(log),
        "refusal": explain_refusal(log),
        "attempts": attempts_table(log),
        "timing": timing_of(log),
        "session": session_of(log),
    }


def attempts_table(log: SpendLog) -> dict[str, Any] | None:
    """Return the attempts, or None where there were none. They are the gateway's own JSON."""
    rows = [
        [
            number,
            attempt.get("upstream") or EMPTY,
            attempt.get("deployment_id") or EMPTY,
            attempt.get("status") or EMPTY,
            attempt.get("error") or EMPTY,
        ]
        for number, attempt in enumerate(log.attempts, start=1)
        if isinstance(attempt, dict)
    ]
    headers = ["attempt", "upstream", "deployment", "HTTP status", "error"]
    return {"headers": headers, "rows": rows} if rows else None


def timing_of(log: SpendLog) -> Timing:
    total, first = duration_text(log.latency_ms), log.first_token_ms
    if first is None or not 0 <= first <= log.latency_ms:
        return Timing(total)
    rest_ms, tokens = log.latency_ms - first, log.usage.completion_tokens
    return Timing(
        total,
        first_token=duration_text(first),
        first_token_percent=round(100 * first / log.latency_ms) if log.latency_ms else 0,
        rest=duration_text(rest_ms),
        rate=f"{tokens * 1000 / rest_ms:,.0f} tokens a second" if tokens and rest_ms else "",
    )


def session_of(log: SpendLog) -> Session | None:
    """Return the other calls of the session, or None where the call has none."""
    if not log.session_id:
        return None
    # The index leaves out calls without a session: SQLite uses it only where it is told so.
    calls = SpendLog.objects.filter(session_id=log.session_id, session_id__gt="").exclude(pk=log.pk)
    latest = calls.select_related("key").defer("request_body", "response_body").order_by("-pk")
    others = list(latest[: SESSION_CALLS + 1])
    logs = reverse("admin:billing_spendlog_changelist")
    return Session(
        table=calls_table(others[:SESSION_CALLS]),
        url=f"{logs}?{urlencode({'session': log.session_id})}",
        is_more=len(others) > SESSION_CALLS,
    )
