"""
Budgets, with who has them and what they do: declared in `customers/admin/budget.py`.

Saving other limits on spend asks first. It shows what they would have refused in the
last 30 days, and whether the periods under way keep what is spent or start afresh.
"""

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from billing.admin import replay
from billing.admin.attached import (
    KEY_CALLS_READ,
    biggest,
    holders_text,
    is_held,
    of_holders,
    with_holder_counts,
)
from billing.admin.naming import holder_link, key_names
from billing.admin.overspend import overspend_of
from billing.budgets.bars import Allowance, Holder, allowances, bars_now, tightest
from billing.budgets.periods import PeriodKey, ensure_periods, start_afresh
from billing.models import BudgetPeriod, SpendTotal
from customers.admin.budget import BudgetAdmin
from customers.models import Budget
from customers.words import EMPTY, count

SHOWN_HOLDERS = 20
MOST_AFRESH = 2_000  # periods: a save in one transaction, which bookings for their holders wait for
_MADE_AT_ONCE = 100
TOO_MANY = (
    f"More than {count(MOST_AFRESH)} periods have spend in them, too many to start afresh at once. "
    "What is spent is kept; start the holders that matter afresh on their own pages."
)
SPENT = "_spent"  # what the confirmation asks: KEEP or AFRESH
KEEP, AFRESH = "keep", "afresh"


@admin.register(Budget)
class BudgetSpendAdmin(BudgetAdmin):
    list_display = (
        "id", "max_usd", "duration_text", "mode_text", "soft_usd", "rpm", "tpm", "parallel", "attached",
    )  # fmt: skip
    list_before_template = "admin/budgets_overspent.html"
    change_form_outer_after_template = "admin/budget_holders.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return with_holder_counts(super().get_queryset(request))

    @admin.display(description="holders")
    def attached(self, budget: Budget) -> str:
        return holders_text(budget) or EMPTY

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        over = {"overspend": overspend_of(BudgetPeriod.objects.all())}
        return super().changelist_view(request, {**over, **(extra_context or {})})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        budget = self.get_object(request, unquote(object_id))
        shown = {} if budget is None else _holders_context(budget)
        return super().change_view(request, object_id, form_url, {**shown, **(extra_context or {})})

    # -- saving, which may ask first ---------------------------------------------------

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        if request.method == "POST" and object_id is not None:
            changed = self._changed(request, object_id)
            if changed is not None and request.POST.get(SPENT) not in (KEEP, AFRESH):
                return self._ask(request, *changed)
            if changed is not None and request.POST[SPENT] == AFRESH:
                # Ahead of the transaction that saves, a few at a time: making rows reads the log.
                keys = _periods_with_spend(*changed, at=timezone.now()) or []
                for start in range(0, len(keys), _MADE_AT_ONCE):
                    ensure_periods(keys[start : start + _MADE_AT_ONCE])
        return super().changeform_view(request, object_id, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        if change and request.POST.get(SPENT) == AFRESH:
            at = timezone.now()
            limits = _other_allowances(Budget.objects.get(pk=obj.pk), obj)
            keys = _periods_with_spend(obj, limits, at=at)
            if keys is None:
                messages.warning(request, TOO_MANY)
            else:
                start_afresh(keys, at=at)  # before the save: nothing slow may follow that (docs/locking.md)
                messages.success(request, f"Counting from zero as of now: {_number(keys)}.")
        super().save_model(request, obj, form, change)

    def _changed(self, request: HttpRequest, object_id: str) -> tuple[Budget, list[Allowance]] | None:
        """Return the budget as it would be saved and its new limits; None where nobody would notice them."""
        stored = self.get_object(request, unquote(object_id))
        if stored is None or not self.has_change_permission(request, stored):
            return None
        budget = Budget.objects.get(pk=stored.pk)
        form = self.get_form(request, stored, change=True)(request.POST, instance=budget)
        if not form.is_valid():
            return None
        limits = _other_allowances(stored, budget)
        return (budget, limits) if limits and is_held(stored) else None

    def _ask(self, request: HttpRequest, budget: Budget, limits: list[Allowance]) -> HttpResponse:
        at = timezone.now()
        keys = _periods_with_spend(budget, limits, at=at)
        context = {
            **self.admin_site.each_context(request),
            "title": "Before it is saved",
            "opts": self.opts,
            "original": budget,
            "preview": replay.preview(budget, at=at),
            "days": replay.DAYS,
            "most_holders": replay.MOST_HOLDERS,
            "most_calls": replay.MOST_CALLS,
            "key_calls": KEY_CALLS_READ,
            "spending": len(keys or ()),
            "too_many": TOO_MANY if keys is None else "",
            "given": [
                (name, value)
                for name, values in request.POST.lists()
                if name not in (SPENT, "csrfmiddlewaretoken")
                for value in values
            ],
        }
        return TemplateResponse(request, "admin/budget_save.html", context)


def _other_allowances(before: Budget, after: Budget) -> list[Allowance]:
    """Return the limits on spend that are new, or have another amount or duration."""
    known = set(allowances(before))
    return [allowance for allowance in allowances(after) if allowance not in known]


def _periods_with_spend(budget: Budget, limits: list[Allowance], *, at: datetime) -> list[PeriodKey] | None:
    """Return the periods under way of holders that called within them; None where there are too many.

    Of the others nothing is spent, so there is nothing to start afresh.
    """
    attached = of_holders(budget)
    keys: list[PeriodKey] = []
    for limit in limits:
        starts_at = limit.period(("", ""), at).starts_at
        totals = SpendTotal.objects.filter(attached, last_call_at__gte=starts_at)
        holders = totals.values_list("holder_type", "holder_id").order_by("pk")
        keys += [limit.period(holder, at) for holder in holders[: MOST_AFRESH + 1 - len(keys)]]
        if len(keys) > MOST_AFRESH:
            return None
    return keys


def _number(keys: list[PeriodKey]) -> str:
    return "1 period" if len(keys) == 1 else f"{count(len(keys))} periods"


def _holders_context(budget: Budget) -> dict[str, Any]:
    """Return what a budget's page says of those who have it: the biggest, each with its tightest bar."""
    keys = biggest(budget, SHOWN_HOLDERS)
    bars = bars_now([Holder(*key, "", budget) for key in keys], at=timezone.now())
    names = key_names(keys)
    attached = BudgetPeriod.objects.filter(of_holders(budget)) if is_held(budget) else None
    return {
        "holder_bars": [
            {"link": holder_link(*key, names), "bar": tightest(bars[key]), "others": len(bars[key]) - 1}
            for key in keys
        ],
        "shown_holders": SHOWN_HOLDERS,
        "overspend": attached is not None and overspend_of(attached),
    }
