"""
The views of the usage pages: read the address, read the reports, show them.

Every tab is the same page about another dimension. Whoever may view the log may see them.
"""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from django.conf import settings
from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone

from billing.admin.usage import customer, handout
from billing.admin.usage.cards import Summary, cards, summary_of
from billing.admin.usage.charts import chart, stack_links
from billing.admin.usage.export import FORMATS, MOST_LINES, export
from billing.admin.usage.filters import CUSTOM, FIELDS, PERIODS, Asked, BadAddress, default, read
from billing.admin.usage.parts import categories, notes, permitted
from billing.admin.usage.tables import PER_PAGE, Table, is_by_model, known, logs_url, read_table
from billing.admin.usage.tabs import DAY_ROWS, OVERVIEW, TABS, Tab
from billing.models import ReconcileRun, TagSetMember
from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting import words
from billing.reporting.reports import Dimension, Figures, Filters, by, less, one_instant, ranked
from customers.models import Customer, Team, User, VirtualKey
from customers.words import count

_FILTER_LABELS = {
    "customer": "Customer",
    "key": "Key",
    "team": "Team",
    "user": "User",
    "model": "Model",
    "tag": "Tag",
    "client": "Client tool",
}
_NONE_LABELS = {
    "customer": "unattributed",
    "team": "no team",
    "user": "no user",
    "client": "unknown client",
}
SUGGESTED = 10


def usage_page(request: HttpRequest, *, tab: Tab) -> HttpResponse:
    """Show one tab. An address that asks for what there is not is told so, with a 400."""
    at = timezone.now()
    today = at.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date()
    problems: list[str] = []
    try:
        asked = _read(request, tab, today)
    except BadAddress as error:
        asked, problems = default(today), error.problems
    context = {
        **admin.site.each_context(request),
        "title": "Usage",
        "is_fullwidth": "1",
        "tab": tab,
        "asked": asked,
        "problems": problems,
        "tabs": [{"tab": each, "url": _tab_url(asked, each), "is_chosen": each is tab} for each in TABS],
        "bar": _filter_bar(asked, tab),
        "reset_url": reverse(tab.url_name),
    }
    if not problems:
        with one_instant():
            context |= _figures(request, asked, tab, at)
    return TemplateResponse(request, "admin/usage/page.html", context, status=400 if problems else 200)


def _figures(request: HttpRequest, asked: Asked, tab: Tab, at: datetime) -> dict[str, Any]:
    """Return all that a page shows: the same number of queries whatever there is."""
    summary = summary_of(asked, _money(asked, tab))
    table = read_table(asked, tab, summary, user=request.user, at=at)
    total = summary.total
    return {
        "summary": summary,
        "total": total,
        "cards": cards(asked, summary),
        "before": words.span(*asked.before),
        "chart": chart(asked, tab, summary, table) if total.calls else None,
        "stacks": stack_links(asked, tab),
        "table": table,
        "headers": _headers(asked, tab, summary, table),
        "is_by_model": tab is OVERVIEW and is_by_model(asked),
        "row_choices": _row_choices(asked, tab),
        "pager": _pager(asked, tab, table),
        "search_fields": parse_qsl(asked.query(search="").removeprefix("?")),
        "exports": [
            (each.upper(), f"{reverse('usage:export', args=[tab.slug, each])}{asked.query()}")
            for each in FORMATS
        ],
        "notes": notes(asked, summary),
        "categories": categories(asked, summary) if tab is OVERVIEW and total.calls else None,
        "comparison": _comparison(asked, summary),
        "logs_url": logs_url(asked, {}),
        "subject": _subject(request, asked),
        "verified": ReconcileRun.objects.order_by("-pk").first(),
    }


def export_view(request: HttpRequest, *, slug: str, format_: str) -> HttpResponse:
    """Send a tab's table, all its pages."""
    tab = next((each for each in TABS if each.slug == slug), None)
    if tab is None or format_ not in FORMATS:
        return HttpResponseBadRequest("There is no such export.", content_type="text/plain; charset=utf-8")
    at = timezone.now()
    try:
        asked = _read(request, tab, at.astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date())
    except BadAddress as error:
        return HttpResponseBadRequest(str(error), content_type="text/plain; charset=utf-8")
    with one_instant():
        summary = summary_of(asked, _money(asked, tab))
        table = read_table(asked, tab, summary, user=request.user, at=at, every=MOST_LINES)
    if table.of is not None and table.of > MOST_LINES:
        return HttpResponseBadRequest(
            f"These are {count(table.of)} lines, and an export has at most {count(MOST_LINES)}: "
            "choose fewer days, or set a filter.",
            content_type="text/plain; charset=utf-8",
        )
    return export(format_, asked, tab, table)


def _read(request: HttpRequest, tab: Tab, today: date) -> Asked:
    return read(request.GET, today=today, sorts=tab.sorts, stacks=tab.stacks, rows=tab.rows)


def _money(asked: Asked, tab: Tab) -> str:
    """Return which amount is the spend here: what customers are charged, where it is about them (M4)."""
    is_about_customers = tab.dimension == "customer" or "customer" in asked.chosen
    return "charge" if is_about_customers else "cost"


def _tab_url(asked: Asked, tab: Tab) -> str:
    stack = asked.stack if asked.stack in tab.stacks else ""
    return reverse(tab.url_name) + asked.query(stack=stack, sort="", search="", rows="")


# -- the filter bar --------------------------------------------------------------------


def _filter_bar(asked: Asked, tab: Tab) -> dict[str, Any]:
    page = reverse(tab.url_name)
    return {
        "periods": [
            {"label": label, "url": page + asked.query(period=name), "is_chosen": asked.period == name}
            for name, (label, _) in PERIODS.items()
        ],
        "is_custom": asked.period == CUSTOM,
        "zone": settings.REPORTING_TIME_ZONE,
        "fields": [
            {"name": name, "label": label, "suggest_url": reverse("usage:suggest", args=[name])}
            for name, label in _FILTER_LABELS.items()
        ],
        "chips": _chips(asked, page),
        "comparisons": [
            {"value": "", "label": "nothing", "is_chosen": not asked.compare},
            {"value": "previous", "label": "period before", "is_chosen": asked.compare == "previous"},
            {"value": "customers", "label": "customers", "is_chosen": asked.compare == "customers"},
        ],
        "hidden": [
            (name, value)
            for name, value in parse_qsl(asked.query().removeprefix("?"))
            if name in ("stack", "rows", "sort", "q")
        ],
    }  # fmt: skip


def _chips(asked: Asked, page: str) -> list[dict[str, str]]:
    """Return each thing that is filtered by, with the address without it."""
    chips = []
    for name, values in asked.chosen.items():
        rows = known(name, values)
        for value in values:
            chips.append(
                {
                    "name": "no" if value == "" else name,
                    "value": name if value == "" else value,
                    "label": _FILTER_LABELS[name],
                    "text": rows.label(value) if value else _NONE_LABELS[name],
                    "url": page + asked.without(name, value).query(),
                }
            )
    return chips


def suggest_view(request: HttpRequest, *, name: str) -> JsonResponse:
    """Answer what a filter can be set to that begins with, or has in it, `?q=`: ten at most."""
    part = request.GET.get("q", "").strip()
    if name not in FIELDS:
        return JsonResponse({"error": "There is no such filter."}, status=404)
    if len(part) > 255 or "\0" in part:
        return JsonResponse({"error": "Type less: at most 255 characters."}, status=400)
    return JsonResponse({"results": _suggestions(name, part)})


def _suggestions(name: str, part: str) -> list[dict[str, str]]:
    """Return values, and how they are called where that is something else."""
    found: Any
    if name == "customer":
        found = Customer.objects.listed().matching(part).order_by("pk").values_list("pk", "alias")
    elif name == "key":
        found = VirtualKey.objects.filter(Q(alias__icontains=part) | Q(display_name__icontains=part))
        keys = [(str(key.pk), str(key)) for key in found.order_by("alias", "pk")[:SUGGESTED]]
        found = [(MASTER_KEY_ID, "master key"), *keys] if part.lower() in "master key" else keys
    elif name == "team":
        found = Team.objects.filter(Q(pk__icontains=part) | Q(alias__icontains=part))
        found = found.order_by("pk").values_list("pk", "alias")
    elif name == "user":
        of_user = Q(pk__icontains=part) | Q(alias__icontains=part) | Q(email__icontains=part)
        found = User.objects.filter(of_user).order_by("pk").values_list("pk", "email")
    elif name == "tag":
        tags = TagSetMember.objects.filter(tag__icontains=part).order_by("tag")
        found = [(tag, "") for tag in tags.values_list("tag", flat=True).distinct()[:SUGGESTED]]
    else:
        dimension: Dimension = "client_tool" if name == "client" else "model"
        names = ranked(_lately(), dimension, order="calls", search=part, limit=SUGGESTED).names
        found = [(each, "") for each in names]
    return [{"value": value, "label": label if label != value else ""} for value, label in found[:SUGGESTED]]


def _lately() -> Filters:
    today = timezone.now().astimezone(ZoneInfo(settings.REPORTING_TIME_ZONE)).date()
    return default(today).filters


# -- around the table ------------------------------------------------------------------


def _headers(asked: Asked, tab: Tab, summary: Summary, table: Table) -> list[dict[str, Any]]:
    """Return the column heads, with the address that sorts by each."""
    spend = "charged, USD" if summary.is_charged else "spend, USD"
    first = "day" if tab.dimension is None else tab.singular
    columns = [(first, "day" if tab.dimension is None else "name", False)]
    columns += [("model", "", False)] if tab is OVERVIEW and is_by_model(asked) else []
    columns += [(spend, "spend", True), ("share", "", True)]
    columns += [("change", "", True), ("per day", "", False)] if tab.dimension is not None else []
    columns += [
        ("requests", "calls", True), ("success", "failed_calls", True), ("tokens", "total_tokens", True),
        ("$ / M tokens", "rate", True), ("p95", "", True), ("cached", "", True),
    ]  # fmt: skip
    columns += [("budget", "", False)] if table.has_bars else []
    sort = asked.sort or tab.default_sort
    return [
        {"label": label, "is_number": is_number, **_sorting(asked, tab, name, sort)}
        for label, name, is_number in [*columns, ("links", "", True)]
    ]


def _sorting(asked: Asked, tab: Tab, name: str, sort: str) -> dict[str, str]:
    if name not in tab.sorts:
        return {}
    if sort.removeprefix("-") == name:
        is_ascending = not sort.startswith("-")
        wanted, direction = (
            (f"-{name}" if is_ascending else name),
            "ascending" if is_ascending else "descending",
        )
    else:
        wanted, direction = (name if name == "name" else f"-{name}"), ""
    url = reverse(tab.url_name) + asked.query(sort="" if wanted == tab.default_sort else wanted)
    return {"url": url, "direction": direction}


def _row_choices(asked: Asked, tab: Tab) -> list[dict[str, Any]]:
    if tab is not OVERVIEW:
        return []
    is_chosen = DAY_ROWS[int(is_by_model(asked))]
    page = reverse(tab.url_name)
    labels = (("day", "by day"), ("day-model", "by day and model"))
    return [
        {"label": label, "url": page + asked.query(rows=name), "is_chosen": name == is_chosen}
        for name, label in labels
    ]


def _pager(asked: Asked, tab: Tab, table: Table) -> dict[str, Any]:
    page, url = table.page, reverse(tab.url_name)
    first = (page - 1) * PER_PAGE + 1
    lines = "many lines" if table.of is None else words.plural(table.of, "line")
    return {
        "text": f"{count(first)} to {count(first + len(table.lines) - 1)} of {lines}" if table.lines else "",
        "previous_url": url + asked.query(page=page - 1) if page > 1 else "",
        "next_url": url + asked.query(page=page + 1) if table.has_more else "",
        "is_needed": page > 1 or table.has_more,
    }


def _comparison(asked: Asked, summary: Summary) -> dict[str, Any] | None:
    """Return chosen customers side by side, a column each; None where that was not asked for."""
    if asked.compare != "customers":
        return None
    chosen = asked.chosen.get("customer", ())
    if len(chosen) < 2:
        return {"customers": [], "rows": []}
    figures = {
        row.name: row.figures for row in by(asked.filters, "customer", limit=len(chosen), order="name")
    }
    nothing = less(summary.total, [summary.total])
    columns = [figures.get(name, nothing) for name in chosen]
    labels = known("customer", chosen)
    measures: list[tuple[str, Callable[[Figures], str]]] = [
        (
            "Spend charged, USD",
            lambda each: words.short_usd(each.charge) + ("*" if each.unpriced_calls else ""),
        ),
        ("Share of these", lambda each: words.percent(each.charge, summary.total.charge)),
        ("Requests", lambda each: count(each.calls)),
        ("Success rate", lambda each: words.percent(each.successful_calls, each.calls)),
        ("Tokens", lambda each: count(each.usage.total_tokens)),
        ("$ / M tokens", lambda each: _per_mtok(each)),
        ("Latency p50", lambda each: words.duration(each.p50_ms)),
        ("Latency p95", lambda each: words.duration(each.p95_ms)),
        ("Cache-hit rate", lambda each: words.percent(each.cache_hits, each.calls)),
    ]
    return {
        "customers": [labels.label(name) if name else "Unattributed" for name in chosen],
        "rows": [(label, [write(each) for each in columns]) for label, write in measures],
    }


def _per_mtok(figures: Figures) -> str:
    tokens = figures.usage.total_tokens
    return words.short_usd(figures.charge * 1_000_000 / tokens if tokens else None)


def _subject(request: HttpRequest, asked: Asked) -> dict[str, str] | None:
    """Return the one customer that a page is about."""
    chosen = asked.one("customer")
    if not chosen:
        return None
    rows = known("customer", [chosen])
    return {
        "id": chosen,
        "label": rows.label(chosen),
        "url": rows.url(chosen, request.user),
        "page_url": customer.page_url(chosen, asked),
    }


urlpatterns = [
    *customer.urlpatterns,
    *handout.urlpatterns,
    *(
        path("" if tab is OVERVIEW else f"{tab.slug}/", permitted(usage_page), {"tab": tab}, name=tab.slug)
        for tab in TABS
    ),
    path("<slug:slug>/export.<slug:format_>", permitted(export_view), name="export"),
    path("suggest/<slug:name>/", permitted(suggest_view), name="suggest"),
]
