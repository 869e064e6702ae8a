"""
Explain a refusal: whose limit it was, and the addition that anyone can redo.

    spent + provisional + held + this call's hold > limit

The gateway leaves the figures of that moment in the call's metadata: amounts are USD,
as text. What cannot be read is not explained; the row's error message says what it can.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

from billing.admin.naming import holder_link
from billing.models import HolderType, SpendLog
from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID, team_member_id
from customers.admin.display import moment
from customers.words import usd

# Rate limits name scopes in LiteLLM's words.
_LITELLM_SCOPES = {"api_key": HolderType.KEY, "end_user": HolderType.CUSTOMER}
_RATES = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "max_parallel_requests": "calls at the same time",
}
_MODES = {
    "standard": "what this model's answers typically cost",
    "strict": "the most that this call could have cost",
}


@dataclass(frozen=True)
class Refusal:
    """What the page of a refused call says about why."""

    sentences: list[SafeString]
    parts: list[tuple[str, str]] = field(default_factory=list)  # (what, amount): they add up to `sum`
    sum: str = ""
    relation: str = ""  # of the sum to the limit: "more than", or "all of"
    limit: str = ""


def explain_refusal(log: SpendLog) -> Refusal | None:
    """Return why a limit refused `log`, or None where it does not say so."""
    told = log.metadata.get("refusal") if isinstance(log.metadata, dict) else None
    if not isinstance(told, dict):
        return None
    try:
        return _of_rate(log, told) if "rate_limit_type" in told else _of_budget(log, told)
    except (KeyError, TypeError, ValueError, InvalidOperation):
        return None


def _of_budget(log: SpendLog, told: dict[str, Any]) -> Refusal:
    limit, spent, held, provisional, hold = (
        Decimal(str(told[name])) for name in ("limit", "spent", "held", "provisional", "hold")
    )
    who = _who(log, told)
    model = format_html(" for the model {}", told["model"]) if told.get("model") else ""
    total = spent + provisional + held + hold
    if spent + provisional >= limit:
        sentences = [
            format_html("The budget of {}{} was used up: a call at its limit is refused.", who, model)
        ]
    else:
        left = max(Decimal(0), limit - spent - provisional - held)
        sentences = [
            format_html(
                "The budget of {}{} had {} left, and this call had to set {} aside: {}.",
                who, model, usd(left), usd(hold), _MODES.get(str(told.get("mode")), "what it might cost"),
            )
        ]  # fmt: skip
    parts = [
        ("Spent in the period", usd(spent)),
        ("Provisional, for calls without a price", usd(provisional)),
        ("Held by other calls under way", usd(held)),
        ("Held for this call, had it been admitted", usd(hold)),
    ]
    resets_at = _instant(told.get("resets_at"))
    sentences.append(
        format_html("The period ends at {} UTC, and the next begins at zero.", moment(resets_at))
        if resets_at
        else SafeString("The budget has no duration: it stays used until its limit is raised.")
    )
    relation = "more than" if total > limit else "with nothing left of"
    return Refusal(sentences, parts, usd(total), relation, usd(limit))


def _of_rate(log: SpendLog, told: dict[str, Any]) -> Refusal:
    kind = _RATES.get(str(told["rate_limit_type"]), str(told["rate_limit_type"]))
    sentences = [
        format_html("{} had reached the limit of {} {}.", _who(log, told), f"{int(told['limit']):,}", kind)
    ]
    reset_at = _instant(told.get("reset_at"))
    if reset_at:
        sentences.append(format_html("A call could pass again at {} UTC.", moment(reset_at)))
    return Refusal(sentences)


def _who(log: SpendLog, told: dict[str, Any]) -> SafeString | str:
    """Name the holder, with a link to where its budget is shown."""
    scope, holder_id = str(told["scope"]), str(told.get("id", ""))
    try:
        kind = HolderType(_LITELLM_SCOPES.get(scope, scope))
    except ValueError:  # of a model: `model_per_key`, …
        return f"{scope.replace('_', ' ')} {holder_id}".strip()
    match kind:
        case HolderType.GATEWAY:
            return holder_link(kind, GATEWAY_ID)
        case HolderType.TEAM_MEMBER if log.team_id and log.user_id:
            return holder_link(kind, team_member_id(log.team_id, log.user_id))
        case HolderType.KEY if holder_id == MASTER_KEY_ID:
            return "the master key"
        case HolderType.KEY if log.key is not None:
            return holder_link(kind, holder_id, {holder_id: str(log.key)})
    return holder_link(kind, holder_id)


def _instant(told: Any) -> datetime | None:
    """Read an instant. Rate limits write `2026-12-01 00:00:00 UTC`."""
    try:
        instant = datetime.fromisoformat(str(told).replace(" UTC", "+00:00"))
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
