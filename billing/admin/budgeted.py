"""
Budgets on the pages of those who have them: the bars of now, the periods of ever, a fresh start.

A mixin for the admin of a holder's model. Bars are read once for a whole list; on a
holder's page a small script asks for them again every few seconds.
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Max, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.views import ChangeList

from billing.budgets.bars import Bar, Holder, bars_now, duration_text, tightest, with_calls
from billing.budgets.periods import PeriodKey, start_afresh
from billing.models import BudgetPeriod, HolderType
from customers.words import EMPTY

PERIODS_PER_PAGE = 50

# The filter of the Logs page that finds a holder's calls. A team member's takes two.
LOG_FILTERS = {
    HolderType.CUSTOMER: "customer",
    HolderType.KEY: "key__id__exact",
    HolderType.TEAM: "team__id__exact",
    HolderType.USER: "user",
    HolderType.TAG: "tag",
}


class BudgetedMixin:
    """Put before the admin class of a model with a `budget`."""

    holder_type: HolderType

    # -- who ---------------------------------------------------------------------------

    def holders(self, row: Any) -> list[Holder]:
        """Return whose budgets a row's page shows, its own first."""
        return self.listed_holders([row])

    def listed_holders(self, rows: list[Any]) -> list[Holder]:
        """Return the holder of each row of a list."""
        return [Holder(self.holder_type, str(row.pk), str(row), row.budget) for row in rows]

    # -- the list ----------------------------------------------------------------------

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Read the bars of the page's rows, all with one query."""
        changelist = super().get_changelist_instance(request)  # type: ignore[misc]
        rows = list(changelist.result_list)
        holders = self.listed_holders(rows)
        bars = bars_now(holders, at=timezone.now()) if rows else {}
        for row, holder in zip(rows, holders, strict=True):
            row.budget_bars = bars[holder.key]
        changelist.result_list = rows
        return changelist

    @admin.display(description="budget")
    def budget_now(self, row: Any) -> str:
        bar = tightest(row.budget_bars)
        if bar is None:
            return EMPTY
        context = {"bar": bar, "others": len(row.budget_bars) - 1}
        return render_to_string("admin/budget_column.html", context)

    # -- the page ----------------------------------------------------------------------

    def budget_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """Return what the page of `row` says about its budget."""
        return {"budget_panel": self._panel(request, row), "live_url": self._url("live", row)}

    def _panel(self, request: HttpRequest, row: Any) -> list[dict[str, Any]]:
        """Return what is shown of each holder on a row's page."""
        holders = self.holders(row)
        bars = bars_now(holders, at=timezone.now())
        counted = iter(with_calls([bar for holder in holders for bar in bars[holder.key]]))
        may_start = self.has_change_permission(request, row)  # type: ignore[attr-defined]
        return [
            {
                "holder": holder,
                "periods_url": self._url("periods", row, holder),
                "bars": [
                    {
                        "bar": next(counted),
                        "afresh_url": self._url("afresh", row, holder, bar.period) if may_start else "",
                    }
                    for bar in bars[holder.key]
                ],
            }
            for holder in holders
        ]

    # -- views of a holder ---------------------------------------------------------------

    def get_urls(self) -> list:
        views = {"live": self.live_view, "periods": self.periods_view, "afresh": self.afresh_view}
        opts = self.opts  # type: ignore[attr-defined]
        return [
            path(
                f"<path:object_id>/{name}/",
                self.admin_site.admin_view(view),  # type: ignore[attr-defined]
                name=f"{opts.app_label}_{opts.model_name}_{name}",
            )
            for name, view in views.items()
        ] + super().get_urls()  # type: ignore[misc]

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return the bars of now alone, for the script that keeps them up to date."""
        row = self._row(request, object_id)
        return TemplateResponse(
            request, "admin/budget_bars.html", {"budget_panel": self._panel(request, row)}
        )

    def periods_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the periods of one of a holder's limits, newest first."""
        row = self._row(request, object_id)
        holder = self._chosen(request, row)
        rows = BudgetPeriod.objects.filter(holder_type=holder.type, holder_id=holder.id)
        kinds = _kinds(rows)
        kind = _kind(request, kinds)
        periods = rows.filter(scope=kind[0], window=kind[1]) if kind else rows.none()
        before = _row_before(request, periods)
        if before is not None:
            periods = periods.filter(starts_at__lte=before.starts_at).exclude(
                starts_at=before.starts_at, generation__gte=before.generation
            )
        found = list(periods.order_by("-starts_at", "-generation")[: PERIODS_PER_PAGE + 1])
        bars = with_calls([Bar.of(row, row.last_limit) for row in found[:PERIODS_PER_PAGE]])
        now = timezone.now()
        context = {
            "title": "Budget periods",
            "holder": holder,
            "kinds": [
                {"text": _kind_text(*each), "url": _kind_url(holder, each), "is_chosen": each == kind}
                for each in kinds
            ],
            "zone": bars[0].zone if bars else "",
            "periods": [
                {
                    "bar": bar,
                    "is_running": bar.ends_at is None or bar.ends_at > now,
                    "logs_url": _logs_url(request, holder, bar),
                }
                for bar in bars
            ],
            "newest_url": _kind_url(holder, kind) if kind and before else "",
            "older_url": _kind_url(holder, kind, before=bars[-1].row_id)
            if kind and len(found) > PERIODS_PER_PAGE
            else "",
        }
        return TemplateResponse(request, "admin/budget_periods.html", self._context(request, row, context))

    def afresh_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask, and then have one limit of a holder count from zero."""
        row = self._row(request, object_id)
        if not self.has_change_permission(request, row):  # type: ignore[attr-defined]
            raise PermissionDenied
        holder, at = self._chosen(request, row), timezone.now()
        wanted = request.GET.get("scope", ""), request.GET.get("window", "")
        bars = [
            bar
            for bar in bars_now([holder], at=at)[holder.key]
            if (bar.period.scope, bar.period.window) == wanted
        ]
        if not bars:
            raise Http404
        bar = with_calls(bars)[0]
        if request.method == "POST":
            with transaction.atomic():
                start_afresh([bar.period], at=at)
                self.log_change(request, row, f"Started the budget afresh: {bar.spent_of_limit} was spent.")  # type: ignore[attr-defined]
            messages.success(request, f"{holder.label}: the period counts from zero as of now.")
            return HttpResponseRedirect(self._page_url(row))
        context = {
            "title": "Start afresh",
            "holder": holder,
            "bar": bar,
            "back_url": self._page_url(row),
        }
        return TemplateResponse(request, "admin/budget_afresh.html", self._context(request, row, context))

    # -- helpers -------------------------------------------------------------------------

    def _row(self, request: HttpRequest, object_id: str) -> Any:
        row = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):  # type: ignore[attr-defined]
            raise PermissionDenied
        return row

    def _chosen(self, request: HttpRequest, row: Any) -> Holder:
        holders = self.holders(row)
        wanted = request.GET.get("holder", holders[0].id)
        for holder in holders:
            if holder.id == wanted:
                return holder
        raise Http404

    def _url(self, name: str, row: Any, holder: Holder | None = None, period: PeriodKey | None = None) -> str:
        opts = self.opts  # type: ignore[attr-defined]
        url = reverse(f"admin:{opts.app_label}_{opts.model_name}_{name}", args=[quote(str(row.pk))])
        query = {"holder": holder.id} if holder else {}
        query |= {"scope": period.scope, "window": period.window} if period else {}
        return f"{url}?{urlencode(query)}" if query else url

    def _page_url(self, row: Any) -> str:
        opts = self.opts  # type: ignore[attr-defined]
        return reverse(f"admin:{opts.app_label}_{opts.model_name}_change", args=[quote(str(row.pk))])

    def _context(self, request: HttpRequest, row: Any, context: dict[str, Any]) -> dict[str, Any]:
        site = self.admin_site.each_context(request)  # type: ignore[attr-defined]
        return {**site, "opts": self.opts, "original": row, "page_url": self._page_url(row), **context}  # type: ignore[attr-defined]


def _kinds(periods: QuerySet[BudgetPeriod]) -> list[tuple[str, str]]:
    """Return (scope, window) of each limit that had periods: of all models first, then the latest."""
    kinds = periods.values_list("scope", "window").annotate(latest=Max("counts_from"))
    return [(scope, window) for scope, window, _ in kinds.order_by("scope", "-latest", "window")]


def _kind(request: HttpRequest, kinds: list[tuple[str, str]]) -> tuple[str, str] | None:
    wanted = request.GET.get("scope", ""), request.GET.get("window", "")
    return wanted if wanted in kinds else next(iter(kinds), None)


def _kind_text(scope: str, window: str) -> str:
    zone = window.split(" ")[1:2]
    return ", ".join([duration_text(window), *zone, scope or "all models"])


def _kind_url(holder: Holder, kind: tuple[str, str], **more: Any) -> str:
    return f"?{urlencode({'holder': holder.id, 'scope': kind[0], 'window': kind[1], **more})}"


def _row_before(request: HttpRequest, periods: QuerySet[BudgetPeriod]) -> BudgetPeriod | None:
    """Return the row that the page goes on behind; None on the first page."""
    number = request.GET.get("before", "")
    return periods.filter(pk=number).first() if number.isdecimal() and len(number) < 19 else None


def _logs_url(request: HttpRequest, holder: Holder, bar: Bar) -> str:
    """Return the address of the calls that a period counts; empty for those who may not see them."""
    if not request.user.has_perm("billing.view_spendlog"):
        return ""
    query = {}
    if holder.type == HolderType.TEAM_MEMBER:
        team_id, _, user_id = holder.id.partition("\n")
        query = {LOG_FILTERS[HolderType.TEAM]: team_id, LOG_FILTERS[HolderType.USER]: user_id}
    elif holder.type != HolderType.GATEWAY:
        query = {LOG_FILTERS[HolderType(holder.type)]: holder.id}
    if bar.period.scope:
        query["model"] = bar.period.scope
    if bar.begins:
        query["started_at_from"] = bar.counts_from.isoformat()
    if bar.ends_at:
        query["started_at_to"] = bar.ends_at.isoformat()
    return f"{reverse('admin:billing_spendlog_changelist')}?{urlencode(query)}"
