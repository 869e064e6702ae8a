"""Provider bills: what was billed beside what was booked. And what other prices would say."""

from datetime import date, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from billing.bill_import.comparing import (
    LARGEST_GAPS,
    BadBill,
    Compared,
    KnownBill,
    as_json,
    compare_bill,
    import_bill,
)
from billing.models import Price, ProviderBill
from billing.prices.what_if import Answer, BadQuestion, Question, answer
from billing.reporting.words import percent
from customers.admin.common import GatewayAdmin
from customers.admin.display import moment
from customers.api.json import write_exact
from customers.money import from_nano
from customers.words import EMPTY, count, usd

MOST_BYTES = 32 * 1024 * 1024
SHOWN = 100


class BillForm(forms.Form):
    file = forms.FileField(
        label="Export, CSV",
        help_text="Costs or usage, from the usage page of OpenAI or the cost and usage pages of Anthropic.",
    )

    def clean_file(self) -> bytes:
        file = self.cleaned_data["file"]
        if file.size > MOST_BYTES:
            raise ValidationError("The file is too large: export fewer days at once.")
        self.cleaned_data["file_name"] = file.name or ""
        return file.read()


@admin.register(ProviderBill)
class ProviderBillAdmin(GatewayAdmin):
    plural = "provider bills"
    empty_list = (
        "Import what OpenAI or Anthropic say they billed (a CSV export of costs or usage), and see by day "
        "and model how much of it went through here."
    )
    list_display = ("provider", "form", "first_day", "last_day", "file_name", "imported", "imported_by")
    list_display_links = ("provider", "first_day")
    list_before_template = "admin/bills_before.html"
    ordering = ("-pk",)
    sortable_by = ()

    def get_urls(self) -> list[URLPattern]:
        return [
            path("what-if/", self.admin_site.admin_view(what_if_view), name="billing_providerbill_what_if"),
            path(
                "<int:pk>/bill.json",
                self.admin_site.admin_view(self.json_view),
                name="billing_providerbill_json",
            ),
            *super().get_urls(),
        ]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = BillForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            try:
                bill = import_bill(
                    form.cleaned_data["file"],
                    file_name=form.cleaned_data["file_name"],
                    at=timezone.now(),
                    by=request.user.get_username(),
                )
            except KnownBill as known:
                messages.info(request, str(known))
                bill = known.bill
            except BadBill as error:
                form.add_error("file", str(error))
            if not form.errors:
                return HttpResponseRedirect(reverse("admin:billing_providerbill_change", args=[bill.pk]))
        context = {
            **self.admin_site.each_context(request), "title": "Import a bill", "opts": self.opts, "form": form
        }  # fmt: skip
        return TemplateResponse(request, "admin/bill_import.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        bill = self.get_object(request, unquote(object_id))
        if bill is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_permission(request, bill):
            raise PermissionDenied
        found = compare_bill(bill)
        has_costs = found.total.billed_nano is not None
        context = {
            **self.admin_site.each_context(request),
            "title": str(bill),
            "opts": self.opts,
            "original": bill,
            "has_costs": has_costs,
            "total": _figures(found.total),
            "models": _table("model", found.by_model[:SHOWN], lambda line: line.model or "not said"),
            "days": _table("day, UTC", found.by_day, lambda line: f"{line.day}"),
            "gaps": _table(
                "day, UTC, and model",
                found.lines[:LARGEST_GAPS],
                lambda line: f"{line.day} {line.model}".strip(),
            ),
        }
        return TemplateResponse(request, "admin/bill.html", context)

    def json_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        bill = self.get_object(request, str(pk))
        if bill is None or not self.has_view_permission(request, bill):
            raise PermissionDenied
        return HttpResponse(write_exact(as_json(bill, compare_bill(bill))), content_type="application/json")

    @admin.display(description="imported, UTC")
    def imported(self, bill: ProviderBill) -> str:
        return moment(bill.imported_at)


def _table(name: str, lines: list[Compared], named: Any) -> dict[str, Any]:
    has_costs = bool(lines) and lines[0].billed_nano is not None
    unit = "" if has_costs else " tokens"
    return {
        "headers": [name, f"billed{unit}", f"booked{unit}", "gap", "booked of it"],
        "rows": [[named(line), *_figures(line)] for line in lines],
    }


def _figures(line: Compared) -> list[str]:
    if line.billed_nano is not None:
        amounts = [usd(from_nano(nano)) for nano in (line.billed_nano, line.booked_nano, line.gap_nano)]
    else:
        billed = line.billed_tokens or 0
        amounts = [count(billed), count(line.booked_tokens), count(billed - line.booked_tokens)]
    booked, billed = line.shared
    return [*amounts, percent(booked, billed)]


# -- other prices --------------------------------------------------------------------------


class WhatIfForm(forms.Form):
    """Days, and whose prices. Calls of one model may be priced as those of another."""

    start = forms.DateField(label="From", widget=forms.DateInput(attrs={"type": "date"}))
    end = forms.DateField(label="To, included", widget=forms.DateInput(attrs={"type": "date"}))
    source = forms.ChoiceField(
        required=False,
        label="Prices",
        choices=[
            ("", "as calls get them today"),
            *((each.value, each.label) for each in Price.Source if each != Price.Source.DEPLOYMENT),
        ],
    )
    model = forms.CharField(required=False, max_length=400, label="Calls of", help_text="openai/gpt-4o")
    instead = forms.CharField(
        required=False, max_length=400, label="priced as", help_text="anthropic/claude-sonnet-4-5"
    )

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        for name in ("model", "instead"):
            said = given.get(name)
            if bool(said) != bool(given.get("instead" if name == "model" else "model")):
                self.add_error(name, "Fill in both, or none.")
            elif said and not all(said.partition("/")[::2]):
                self.add_error(name, "Write provider/model.")
        return given

    def question(self) -> Question:
        given = self.cleaned_data
        instead = {}
        if given["model"]:
            one, other = (given[name].partition("/")[::2] for name in ("model", "instead"))
            instead = {one: other}
        return Question(given["start"], given["end"], given["source"], instead)


def what_if_view(request: HttpRequest) -> HttpResponse:
    """Show what days would have cost at other prices. Writes nothing."""
    if not request.user.has_perm("billing.view_spendlog"):
        raise PermissionDenied
    at = timezone.now()
    last = at.date().replace(day=1) - timedelta(days=1)
    form = WhatIfForm(request.GET or {"start": _iso(last.replace(day=1)), "end": _iso(last)})
    context = {**admin.site.each_context(request), "title": "What other prices would say", "form": form}
    if form.is_valid():
        try:
            found = answer(form.question(), at=at)
        except BadQuestion as error:
            form.add_error(None, str(error))
        else:
            context |= {
                "found": found,
                "total": _told(found.total),
                "models": _answers("model", found.by_model, lambda line: f"{line.provider}/{line.model}"),
                "customers": _answers(
                    "customer", found.by_customer, lambda line: line.customer_id or "unattributed"
                ),
                "shown": SHOWN,
            }
    return TemplateResponse(request, "admin/what_if.html", context)


def _iso(day: date) -> str:
    return day.isoformat()


def _answers(name: str, lines: list[Answer], named: Any) -> dict[str, Any]:
    return {
        "headers": [name, "calls", "cost", "would have been", "difference"],
        "rows": [[named(line), count(line.calls), *_told(line)] for line in lines[:SHOWN]],
    }


def _told(line: Answer) -> list[str]:
    more = " and units, if any" if line.has_units else ""
    if line.least_nano is None:
        return [EMPTY, "no price", EMPTY]
    return [
        usd(from_nano(line.cost_nano)),
        _range(line.least_nano, line.most_nano) + more,
        _range(line.least_difference, line.most_difference),
    ]


def _range(least: int | None, most: int | None) -> str:
    low, high = usd(from_nano(least or 0)), usd(from_nano(most or 0))
    return low if low == high else f"{low} to {high}"
