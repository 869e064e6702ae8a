"""
One customer's page: what limits it and how long that lasts, what it spent, on what, and why.

Figures are of the days in the address; limits are those of now, and are asked for again
every few seconds. Sums come from the rollups; sessions, failures and the latest calls
from a bounded look at the log.
"""

from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.http import urlencode

from billing.admin.budgeted import LOG_FILTERS
from billing.admin.calls import calls_table
from billing.admin.naming import MODELS
from billing.admin.refusal import explain_refusal
from billing.admin.usage.breakdowns import BROKEN_DOWN_BY, breakdown
from billing.admin.usage.cards import Summary, cards, summary_of
from billing.admin.usage.charts import LABELS, chart, stack_of
from billing.admin.usage.export import FORMATS, MOST_LINES, export
from billing.admin.usage.filters import CUSTOM, PERIODS, Asked, BadAddress, default, month_of, read
from billing.admin.usage.parts import categories, notes, permitted
from billing.admin.usage.tables import Table, logs_url, read_table
from billing.admin.usage.tabs import OVERVIEW, Tab
from billing.budgets.customer_limits import Limit, Outlook, behind, limits_on, outlooks
from billing.models import HolderType, ReconcileRun
from billing.models.spend_total import GATEWAY_ID
from billing.reporting import words
from billing.reporting.customer_calls import LOOKED_AT, Failure, look
from billing.reporting.drawings import burn_up
from billing.reporting.reports import by, one_instant
from customers.models import Customer
from customers.words import count, usd

PAGE = Tab("customer", "Customer", None, "", "day")
STACKS = ("model", "key", "client")
MONTHS = 12
SHOWN = 10  # sessions, and kinds of failure
LATEST = 20  # calls
_PRESETS = ("7d", "30d", "90d")


def customer_page(request: HttpRequest) -> HttpResponse:
    """Show one customer. An address that asks for what there is not is told so, with a 400."""
    at = timezone.now()
    today = _today(at)
    problems: list[str] = []
    try:
        asked = _read(request, today)
    except BadAddress as error:
        asked, problems = default(today), error.problems
    context = {
        **admin.site.each_context(request),
        "title": "Usage",
        "is_fullwidth": "1",
        "asked": asked,
        "problems": problems,
        "customers_url": reverse("usage:customers") + asked.only().query(),
    }
    if not problems:
        with one_instant():
            context |= _figures(request, asked, at)
    return TemplateResponse(request, "admin/usage/customer.html", context, status=400 if problems else 200)


def limits_view(request: HttpRequest) -> HttpResponse:
    """Return the limits of now alone, for the script that keeps them up to date."""
    at = timezone.now()
    try:
        asked = _read(request, _today(at))
    except BadAddress as error:
        return HttpResponseBadRequest(str(error), content_type="text/plain; charset=utf-8")
    customer_id = _id(asked)
    with one_instant():
        tags = [row.name for row in by(asked.filters, "tag", limit=SHOWN, order="charge")]
        context = _limits(request, asked, customer_id, _customer(customer_id), tags, at)
    return TemplateResponse(request, "admin/usage/customer_limits.html", context)


def export_view(request: HttpRequest, *, format_: str) -> HttpResponse:
    """Send what the chart is made of: a line for each day and model."""
    if format_ not in FORMATS:
        return HttpResponseBadRequest("There is no such export.", content_type="text/plain; charset=utf-8")
    at = timezone.now()
    try:
        asked = _read(request, _today(at))
    except BadAddress as error:
        return HttpResponseBadRequest(str(error), content_type="text/plain; charset=utf-8")
    with one_instant():
        table = read_table(
            asked, OVERVIEW, summary_of(asked, "charge"), user=request.user, at=at, every=MOST_LINES
        )
    return export(format_, asked, PAGE, table)


def page_url(customer_id: str, asked: Asked | None = None) -> str:
    """Return the address of a customer's page, about the days of `asked`."""
    query = f"?{urlencode({'customer': customer_id})}"
    if asked is not None:
        query = asked.only(customer=(customer_id,)).query()
    return reverse(PAGE.url_name) + query


def _read(request: HttpRequest, today: date) -> Asked:
    asked = read(request.GET, today=today, sorts=(), stacks=STACKS, rows=())
    if not asked.one("customer"):
        raise BadAddress(["Name one customer: ?customer=acme."])
    if len(asked.chosen) > 1 or asked.compare == "customers" or asked.search or asked.page > 1:
        raise BadAddress(
            ["This page is about all calls of one customer. To filter them further, use the overview."]
        )
    return asked


def _id(asked: Asked) -> str:
    return asked.chosen["customer"][0]


def _customer(customer_id: str) -> Customer | None:
    return Customer.objects.select_related("budget").filter(pk=customer_id).first()


def _today(at: datetime) -> date:
    return at.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date()


def _figures(request: HttpRequest, asked: Asked, at: datetime) -> dict[str, Any]:
    """Return all that the page shows: the same number of queries whatever there is."""
    customer_id = _id(asked)
    customer = _customer(customer_id)
    summary = summary_of(asked, "charge")
    total = summary.total
    breakdowns = {tab.slug: breakdown(asked, summary, tab, user=request.user) for tab in BROKEN_DOWN_BY}
    nothing = Table(lines=[], foot=[], of=0, amounts={})
    return {
        "customer_id": customer_id,
        "customer": customer,
        "label": str(customer) if customer is not None else customer_id,
        "settings_url": _settings_url(request, customer),
        "links_url": _links_url(request, customer),
        "overview_url": reverse(OVERVIEW.url_name) + asked.only(customer=(customer_id,)).query(),
        "logs_url": logs_url(asked, {}),
        "picker": _picker(asked, _today(at)),
        "limits_url": f"{reverse('usage:customer-limits')}{asked.query(stack='', compare='')}",
        **_limits(request, asked, customer_id, customer, breakdowns["tags"].names, at),
        "summary": summary,
        "total": total,
        "cards": cards(asked, summary),
        "before": words.span(*asked.before),
        "notes": notes(asked, summary),
        "chart": chart(asked, PAGE, summary, nothing) if total.calls else None,
        "stacks": _stacks(asked),
        "exports": [
            (
                each.upper(),
                f"{reverse('usage:customer-export', args=[each])}{asked.query(stack='', compare='')}",
            )
            for each in FORMATS
        ],
        "breakdowns": list(breakdowns.values()),
        "categories": categories(asked, summary),
        **_calls(asked, customer_id, summary),
        "verified": ReconcileRun.objects.order_by("-pk").first(),
    }


# -- the head of the page --------------------------------------------------------------


def _settings_url(request: HttpRequest, customer: Customer | None) -> str:
    if customer is None or not request.user.has_perm("customers.view_customer"):
        return ""
    return reverse("admin:customers_customer_change", args=[quote(customer.pk)])


def _links_url(request: HttpRequest, customer: Customer | None) -> str:
    if customer is None or not request.user.has_perm("customers.change_customer"):
        return ""
    return f"{reverse('usage:handout-links')}?{urlencode({'customer': customer.pk})}"


def _picker(asked: Asked, today: date) -> dict[str, Any]:
    """Return the months to choose from, this one first, and the usual stretches of days."""
    page = reverse(PAGE.url_name)
    months, first = [], today.replace(day=1)
    for _ in range(MONTHS):
        is_this = first == today.replace(day=1)
        start, end = month_of(first)
        query = (
            asked.query(period="this-month") if is_this else asked.query(period=CUSTOM, start=start, end=end)
        )
        shown = (start, today) if is_this else (start, end)
        is_chosen = (asked.start, asked.end) in (shown, (start, end))
        months.append({"label": f"{first:%b %Y}", "url": page + query, "is_chosen": is_chosen})
        first = (first - timedelta(days=1)).replace(day=1)
    presets = [
        {"label": PERIODS[name][0], "url": page + asked.query(period=name), "is_chosen": asked.period == name}
        for name in _PRESETS
    ]
    has_month = any(month["is_chosen"] for month in months)
    return {
        "months": months,
        "presets": presets,
        "is_custom": asked.period == CUSTOM and not has_month,
        "zone": settings.REPORTING_TIME_ZONE,
        "compare_url": page + asked.query(compare="" if asked.compare else "previous"),
    }


def _stacks(asked: Asked) -> list[dict[str, Any]]:
    current = stack_of(asked, PAGE)
    page = reverse(PAGE.url_name)
    return [
        {
            "label": f"by {LABELS[name]}",
            "url": page + asked.query(stack="" if name == STACKS[0] else name),
            "is_chosen": name == current,
        }
        for name in STACKS
    ]


# -- limits ----------------------------------------------------------------------------


def _limits(
    request: HttpRequest,
    asked: Asked,
    customer_id: str,
    customer: Customer | None,
    tags: list[str],
    at: datetime,
) -> dict[str, Any]:
    """Return the limits in the order of enforcement, the customer's own with their outlook."""
    found = limits_on(customer_id, customer, behind(customer_id, asked.start, asked.end, tags), at=at)
    of_customer = iter(outlooks(customer_id, found, at=at))
    return {
        "limits": [_limit(request, limit, number, of_customer, at) for number, limit in enumerate(found, 1)],
        "asked": asked,
    }


def _limit(request: HttpRequest, limit: Limit, number: int, of_customer: Any, at: datetime) -> dict[str, Any]:
    budget = limit.budget
    return {
        "number": number,
        "limit": limit,
        "kind": HolderType(limit.holder.type).label,
        "is_gateway": limit.holder.type == HolderType.GATEWAY,
        "url": _holder_url(request, limit),
        "budget_url": reverse("admin:customers_budget_change", args=[quote(budget.pk)])
        if request.user.has_perm("customers.view_budget")
        else "",
        "rates": rates_text(limit),
        "bars": [
            {"bar": bar, **(outlook_context(next(of_customer), at) if limit.is_customers else {})}
            for bar in limit.bars
        ],
    }


def _holder_url(request: HttpRequest, limit: Limit) -> str:
    holder = limit.holder
    kind = HolderType(holder.type)
    meta = MODELS[kind]._meta
    if holder.id == GATEWAY_ID and kind == HolderType.GATEWAY:
        may = request.user.has_perm("customers.view_gatewaylimits")
        return reverse("admin:customers_gatewaylimits_changelist") if may else ""
    if limit.is_customers or not request.user.has_perm(f"{meta.app_label}.view_{meta.model_name}"):
        return ""
    pk = holder.id.partition("\n")[0]
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[quote(pk)])


def rates_text(limit: Limit) -> str:
    """Return what a budget limits besides spend, in words; empty where that is nothing."""
    budget = limit.budget
    said = [
        f"{count(number)} {what}"
        for number, what in (
            (budget.rpm_limit, "requests a minute"),
            (budget.tpm_limit, "tokens a minute"),
            (budget.max_parallel_requests, "calls at once"),
        )
        if number is not None
    ]
    return ", ".join(said)


def outlook_context(outlook: Outlook, at: datetime) -> dict[str, Any]:
    """Return the forecast in words, and its drawing."""
    bar, found = outlook.bar, outlook.forecast
    # One drawing says enough: that of all models.
    drawing = None if bar.period.scope else burn_up(outlook, at=at)
    context: dict[str, Any] = {"is_forecast": True, "drawing": drawing, "is_known": found is not None}
    if found is None:
        return context
    zone = ZoneInfo(bar.zone)
    day = found.exceeds_on(zone)
    return context | {
        "per_day": words.short_usd(found.per_day),
        "since": found.since.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)),
        "at_end": "" if found.at_end is None else words.short_usd(found.at_end),
        "at_end_title": "" if found.at_end is None else usd(found.at_end),
        "exceeds_on": "" if bar.is_used_up or day is None else day.isoformat(),
    }


# -- what only the log knows -----------------------------------------------------------


def _calls(asked: Asked, customer_id: str, summary: Summary) -> dict[str, Any]:
    found = look(customer_id, *_instants(asked), most=SHOWN, latest=LATEST)
    return {
        "sessions": [
            {
                "session": each,
                "spend": words.short_usd(each.charge) + ("*" if each.unpriced_calls else ""),
                "title": usd(each.charge),
                "calls": count(each.calls),
                "lasted": words.duration((each.last_at - each.first_at).total_seconds() * 1000),
            }
            for each in found.sessions
        ],
        "failures": [_failure(asked, each) for each in found.failures],
        "failed_calls": summary.total.failed_calls,
        "looked_at": count(LOOKED_AT),
        "is_partial": summary.total.calls > LOOKED_AT,
        "latest_calls": calls_table(found.latest) if found.latest else None,
    }


def _failure(asked: Asked, failure: Failure) -> dict[str, Any]:
    """Return one kind of failure: how often, and why, as its latest call says."""
    log = failure.latest
    refusal = explain_refusal(log)
    start, end = _instants(asked)
    query = urlencode(
        {
            LOG_FILTERS[HolderType.CUSTOMER]: _id(asked),
            "status__exact": failure.status,
            "started_at_from": start.isoformat(),
            "started_at_to": end.isoformat(),
        }
    )
    return {
        "failure": failure,
        "status": log.get_status_display(),
        "calls": count(failure.calls),
        "why": refusal.sentences if refusal is not None else [log.error_message] if log.error_message else [],
        "latest_url": reverse("admin:billing_spendlog_change", args=[log.pk]),
        "latest_at": log.started_at,
        "logs_url": f"{reverse('admin:billing_spendlog_changelist')}?{query}",
    }


def _instants(asked: Asked) -> tuple[datetime, datetime]:
    """Return when the days begin, and when the day after them does."""
    zone = ZoneInfo(settings.REPORTING_TIME_ZONE)
    return (
        datetime.combine(asked.start, time.min, tzinfo=zone),
        datetime.combine(asked.end + timedelta(days=1), time.min, tzinfo=zone),
    )


urlpatterns = [
    path("customer/", permitted(customer_page), name=PAGE.slug),
    path("customer/limits/", permitted(limits_view), name="customer-limits"),
    path("customer/export.<slug:format_>", permitted(export_view), name="customer-export"),
]
