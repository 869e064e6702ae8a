"""
The admin's first page: spend at a glance, what to look at, the latest calls, or how to make the first.

Sums of days come from the rollups, as on the usage pages; those of all time are one row.
What is looked for without an index is bounded, so the page costs the same however much
there is.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import F, FloatField, Max, Q
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode

from billing.admin.calls import calls_table, first_call_url
from billing.admin.naming import holder_link, key_names
from billing.admin.overspend import COUNTED_PERIODS, SPENT, overspend_of
from billing.admin.usage.filters import month_of
from billing.budgets.bars import Bar
from billing.models import (
    Alert,
    BudgetPeriod,
    DeliveryLane,
    HolderType,
    ReconcileRun,
    SpendLog,
    SpendTotal,
    WebhookEndpoint,
)
from billing.models.spend_total import GATEWAY_ID
from billing.reporting import words
from billing.reporting.reports import Filters, by_day
from customers.admin.display import link_to, moment
from customers.words import count, usd

LATEST_CALLS = 10
LISTED_BUDGETS = 5
CLOSE = 0.8  # of a limit: spent, provisional and held together


class Sum(NamedTuple):
    """What the calls of some days cost, USD."""

    cost: Decimal
    calls: int


class Noticed(NamedTuple):
    """Something to look at: a line, already with its link, and the bar of a budget."""

    text: str
    bar: Bar | None = None


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the overview to the index page's context (setting UNFOLD["DASHBOARD_CALLBACK"])."""
    if not request.user.has_perm("billing.view_spendlog"):
        return context
    context |= {"has_overview": True, "title": "Overview"}
    logs = list(SpendLog.objects.select_related("key").order_by("-pk")[:LATEST_CALLS])
    if not logs:
        context["first_call_url"] = first_call_url()
        return context
    at = timezone.now()
    context["cards"] = _cards(at=at)
    context["noticed"] = list(_noticed(request, at=at))
    context["close"] = f"{CLOSE * 100:.0f} %"
    context["latest_calls"] = calls_table(logs)
    context["logs_url"] = reverse("admin:billing_spendlog_changelist")
    return context


# -- figures ---------------------------------------------------------------------------


def _cards(*, at: datetime) -> list[dict[str, str]]:
    zone = ZoneInfo(settings.REPORTING_TIME_ZONE)
    today = at.astimezone(zone).date()
    first = today.replace(day=1)
    before_first, before_last = month_of(first - timedelta(days=1))
    before_last = min(before_last, before_first + (today - first))  # the same days of the month before
    days = {row.day: row.figures for row in by_day(Filters(start=before_first, end=today))}

    def spent(start: date, end: date) -> Sum:
        found = [figures for day, figures in days.items() if start <= day <= end]
        return Sum(sum((each.cost for each in found), Decimal(0)), sum(each.calls for each in found))

    usage = reverse("usage:overview")
    yesterday = today - timedelta(days=1)
    total = SpendTotal.objects.filter(holder_type=HolderType.GATEWAY, holder_id=GATEWAY_ID).first()
    total = total or SpendTotal()
    month, month_before = spent(first, today), spent(before_first, before_last)
    compared = words.change(month.cost, month_before.cost)
    return [
        _spend_card(
            f"Spend today, {zone.key}",
            spent(today, today),
            f"all of yesterday: {words.short_usd(spent(yesterday, yesterday).cost)}",
            f"{usage}?period=today",
        ),
        _spend_card(
            f"Spend in {first:%B}",
            month,
            f"{compared} from {words.short_usd(month_before.cost)} by {before_last:%B} {before_last.day}"
            if month_before.calls
            else f"none by {before_last:%B} {before_last.day}",
            f"{usage}?period=this-month&compare=previous",
        ),
        _spend_card("Spend, all time", Sum(total.cost, total.calls), "what providers bill"),
        {
            "label": "Unpriced calls, all time",
            "text": count(total.unpriced_calls),
            "note": "not in the spend: their models have no price"
            if total.unpriced_calls
            else "every call has a cost",
            "url": reverse("admin:billing_repricing_unpriced") if total.unpriced_calls else "",
        },
        _verified_card(),
        _overspend_card(),
    ]


def _spend_card(label: str, spend: Sum, note: str, url: str = "") -> dict[str, str]:
    return {
        "label": label,
        "text": words.short_usd(spend.cost),
        "title": usd(spend.cost),
        "note": f"{words.plural(spend.calls, 'call')}; {note}",
        "url": url,
    }


def _verified_card() -> dict[str, str]:
    """Tell how the last comparison of the log with all that is derived from it went."""
    run = ReconcileRun.objects.order_by("-pk").first()
    label = "Sums against the log"
    if run is None:
        return {"label": label, "text": "not yet", "note": "compared every night, or by manage.py reconcile"}
    note = f"compared {run.started_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if run.differences:
        note += ", since repaired" if run.repaired else ": run manage.py reconcile --repair"
    kind = "is-wrong" if run.differences and not run.repaired else ""
    return {
        "label": label,
        "text": words.plural(run.differences, "difference"),
        "note": note,
        "kind": kind,
    }


def _overspend_card() -> dict[str, str]:
    over = overspend_of(BudgetPeriod.objects.all())
    return {
        "label": "Overspent budgets",
        "text": words.short_usd(over.total),
        "title": usd(over.total),
        "note": str(over),
        "url": reverse("admin:customers_budget_changelist") if over.periods else "",
    }


# -- what asks to be looked at -----------------------------------------------------------


def _noticed(request: HttpRequest, *, at: datetime) -> Iterator[Noticed]:
    if request.user.has_perm("billing.view_delivery"):
        yield from _failing_receivers()
    yield from _close_budgets(at=at)
    if request.user.has_perm("billing.view_alert"):
        yield from _alerts(at=at)


def _failing_receivers() -> Iterator[Noticed]:
    lanes = list(DeliveryLane.objects.filter(failing_since__isnull=False).order_by("failing_since", "pk"))
    ids = [int(number) for lane in lanes if (number := lane.name.partition(":")[2])]
    endpoints = WebhookEndpoint.objects.in_bulk(ids) if ids else {}
    for lane in lanes:
        channel, _, number = lane.name.partition(":")
        endpoint = endpoints.get(int(number)) if number else None
        if number and (endpoint is None or not endpoint.is_active):
            continue  # deleted or switched off: nothing is posted there
        who = link_to(WebhookEndpoint, endpoint.pk, str(endpoint)) if endpoint else _all_of(channel)
        yield Noticed(
            format_html("{} has not taken what it was sent since {} UTC", who, moment(lane.failing_since))
        )


def _all_of(channel: str) -> str:
    url = reverse("admin:billing_delivery_changelist") + "?" + urlencode({"channel": channel})
    return format_html(
        '<a class="text-link" href="{}">{}</a>', url, {"email": "E-mail"}.get(channel, "Slack")
    )


def _close_budgets(*, at: datetime) -> Iterator[Noticed]:
    """Yield budgets that are nearly or wholly taken, the fullest first, of the latest periods."""
    taken = Cast(SPENT + F("held") + F("provisional"), FloatField())  # of a share no digit is shown
    latest = BudgetPeriod.objects.aggregate(pk=Max("pk"))["pk"] or 0
    rows = (
        BudgetPeriod.objects.filter(pk__gt=latest - COUNTED_PERIODS, counts_from__lte=at, last_limit__gt=0)
        .filter(Q(ends_at__isnull=True) | Q(ends_at__gt=at))
        .annotate(share=taken / Cast(F("last_limit"), FloatField()))
        .filter(share__gte=CLOSE)
        .order_by("-share", "pk")
    )
    found = list(rows[: LISTED_BUDGETS + 1])
    names = key_names((row.holder_type, row.holder_id) for row in found)
    for row in found[:LISTED_BUDGETS]:
        yield Noticed(holder_link(row.holder_type, row.holder_id, names), Bar.of(row, row.last_limit))
    if len(found) > LISTED_BUDGETS:
        url = reverse("admin:customers_budget_changelist")
        yield Noticed(
            format_html('<a class="text-link" href="{}">More budgets</a> are close to their limit', url)
        )


def _alerts(*, at: datetime) -> Iterator[Noticed]:
    told = Alert.objects.filter(raised_at__gt=at - timedelta(days=1)).count()
    if told:
        url = reverse("admin:billing_alert_changelist")
        yield Noticed(
            format_html('<a class="text-link" href="{}">{}</a> in 24 hours', url, words.plural(told, "alert"))
        )
