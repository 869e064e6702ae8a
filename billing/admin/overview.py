"""
The admin's first page: spend at a glance, the latest calls, or how to make the first one.

All-time figures are one row. Those of today and of seven days add up the log by its
primary key, up to a number of calls that takes a moment; beyond it they are left
out rather than made slow.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Count, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from billing.admin.calls import calls_table, first_call_url
from billing.admin.overspend import overspend_of
from billing.models import BudgetPeriod, HolderType, SpendLog, SpendTotal
from billing.models.spend_total import GATEWAY_ID
from customers.words import count, usd

LATEST_CALLS = 10
ADDED_UP_CALLS = 20_000  # some 20 ms


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the overview to the index page's context (setting UNFOLD["DASHBOARD_CALLBACK"])."""
    if not request.user.has_perm("billing.view_spendlog"):
        return context
    context |= {"has_overview": True, "title": "Overview"}
    logs = list(SpendLog.objects.select_related("key").order_by("-pk")[:LATEST_CALLS])
    if not logs:
        context["first_call_url"] = first_call_url()
        return context
    total = SpendTotal.objects.filter(holder_type=HolderType.GATEWAY, holder_id=GATEWAY_ID).first()
    logs_url = reverse("admin:billing_spendlog_changelist")
    context["cards"] = _cards(total or SpendTotal(), logs_url, at=timezone.now())
    context["latest_calls"] = calls_table(logs)
    context["logs_url"] = logs_url
    return context


def _cards(total: SpendTotal, logs_url: str, *, at: datetime) -> list[dict[str, str]]:
    zone = ZoneInfo(settings.REPORTING_TIME_ZONE)
    midnight = at.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    today, today_calls = _spent_since(midnight)
    # What is too much for one day is too much for seven.
    week, week_calls = _spent_since(midnight - timedelta(days=6)) if today is not None else (None, None)
    too_many = f"more than {count(ADDED_UP_CALLS)} calls, see all time"
    return [
        {
            "label": f"Spend today, {zone.key}",
            "text": usd(today),
            "note": too_many if today is None else f"{count(today_calls)} calls",
        },
        {
            "label": "Spend in 7 days, today included",
            "text": usd(week),
            "note": too_many if week is None else f"{count(week_calls)} calls",
        },
        {"label": "Spend, all time", "text": usd(total.cost), "note": f"{count(total.calls)} calls"},
        {
            "label": "Unpriced calls, all time",
            "text": count(total.unpriced_calls),
            "note": "not in the spend: their models have no price"
            if total.unpriced_calls
            else "every call has a cost",
            "url": f"{logs_url}?usage=unpriced" if total.unpriced_calls else "",
        },
        _overspend_card(),
    ]


def _overspend_card() -> dict[str, str]:
    over = overspend_of(BudgetPeriod.objects.all())
    return {
        "label": "Overspent budgets",
        "text": usd(over.total),
        "note": str(over),
        "url": reverse("admin:customers_budget_changelist") if over.periods else "",
    }


def _spent_since(start: datetime) -> tuple[Decimal | None, int | None]:
    """Return (spend, calls) since `start`, or two Nones where there are too many calls to add up here."""
    logs = SpendLog.objects.started_between(start, None).order_by("pk")
    summed = logs[: ADDED_UP_CALLS + 1].aggregate(spend=Sum("cost"), calls=Count("pk"))
    if summed["calls"] > ADDED_UP_CALLS:
        return None, None
    return summed["spend"] or Decimal(0), summed["calls"]
