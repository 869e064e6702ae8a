"""A few calls as a table: on the overview, on a customer's page. How one call is written, everywhere."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.utils.html import format_html

from billing.models import SpendLog
from customers.admin.display import badge, link_to, moment
from customers.models import Customer, VirtualKey
from customers.words import EMPTY, count, usd

STATUS_KINDS = {
    SpendLog.Status.SUCCESS: "success",
    SpendLog.Status.FAILURE: "danger",
    SpendLog.Status.REFUSED: "warning",
    SpendLog.Status.INTERRUPTED: "warning",
    SpendLog.Status.NOT_SENT: "",
    SpendLog.Status.QUARANTINED: "danger",
}
USAGE_KINDS = {
    "provider": "success",
    "cache": "info",
    "partial": "warning",
    "estimated": "warning",
    "unpriced": "danger",
}


def first_call_url() -> str:
    """Return where a fresh installation's first call goes."""
    return f"{settings.PUBLIC_URL.rstrip('/')}/v1/chat/completions"


def status_badge(log: SpendLog) -> str:
    return badge(log.get_status_display(), STATUS_KINDS.get(log.status, ""))  # type: ignore[call-overload]


def usage_badge(log: SpendLog) -> str:
    """Say where the figures come from. A call that used nothing has none to tell of."""
    state = log.usage_state
    return EMPTY if state == SpendLog.UsageSource.NONE else badge(state, USAGE_KINDS.get(state, ""))


def cost_text(log: SpendLog) -> str:
    """Write the cost; an unknown one is never a 0."""
    return "unpriced" if log.cost is None else usd(log.cost)


def tokens_text(log: SpendLog) -> str:
    usage = log.usage
    return format_html(
        '<span class="whitespace-nowrap">{} / {}</span>',
        count(usage.prompt_tokens),
        count(usage.completion_tokens),
    )


def duration_text(milliseconds: int) -> str:
    return f"{milliseconds:,} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:,.1f} s"


def latency_text(log: SpendLog) -> str:
    return duration_text(log.latency_ms)


def customer_text(log: SpendLog) -> str:
    return link_to(Customer, log.customer_id) if log.customer_id else EMPTY


def key_text(log: SpendLog) -> str:
    """Name the key. Reads `log.key`: select it along. A key may have been purged."""
    if log.key_id is None:
        return "master key"
    return link_to(VirtualKey, log.key_id, str(log.key)) if log.key else f"{log.key_id} (gone)"


def calls_table(logs: Iterable[SpendLog]) -> dict[str, Any]:
    """Return `logs` as the theme's table component takes them."""
    return {
        "headers": ["time, UTC", "customer", "key", "model", "status", "tokens in / out", "cost, USD"],
        "rows": [
            [
                link_to(SpendLog, log.pk, moment(log.started_at)),
                customer_text(log),
                key_text(log),
                format_html('<span class="break-all">{}</span>', log.model or EMPTY),
                status_badge(log),
                tokens_text(log),
                cost_text(log) if log.cost is not None else usage_badge(log),
            ]
            for log in logs
        ],
    }
