"""Runs of re-pricing: who priced which calls again, how far it is and what it came to. Closed months."""

from datetime import date
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from billing.admin import unpriced
from billing.books.closed_months import NotClosable, close_month, month_of, open_month
from billing.models import ClosedMonth, Repricing
from billing.prices import repricing
from customers.admin.common import GatewayAdmin, LedgerAdmin
from customers.admin.display import badge, moment
from customers.words import count, usd


@admin.register(Repricing)
class RepricingAdmin(LedgerAdmin):
    plural = "re-pricings"
    empty_list = (
        "When a model gets its price, or a price was wrong, its calls can be priced again. "
        "Begin with the unpriced calls, or on the page of a price."
    )
    list_display = (
        "model_text", "state", "calls_text", "changed", "cost_text", "charge_text", "actor", "created",
    )  # fmt: skip
    list_before_template = "admin/repricings_before.html"
    change_form_outer_before_template = "admin/repricing_run.html"
    ordering = ("-pk",)
    sortable_by = ()
    fields = (
        "model_text", "state", "from_text", "to_text", "only_unpriced", "calls_text", "changed", "cost_text",
        "charge_text", "actor", "note", "created", "finished",
    )  # fmt: skip
    readonly_fields = fields

    def get_urls(self) -> list[URLPattern]:
        views = {"unpriced": unpriced.queue_view, "price": unpriced.price_view, "look": unpriced.look_view}
        own = [
            path(f"{name}/", self.admin_site.admin_view(view), name=f"billing_repricing_{name}")
            for name, view in views.items()
        ]
        again = path(
            "<int:pk>/go-on/", self.admin_site.admin_view(self.go_on_view), name="billing_repricing_go_on"
        )
        return [*own, again, *super().get_urls()]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        run = self.get_object(request, unquote(object_id))
        return super().change_view(request, object_id, form_url, {"run": run, **(extra_context or {})})

    def go_on_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Do a few seconds' worth of a run that is not finished."""
        run = Repricing.objects.filter(pk=pk).first()
        if request.method == "POST" and run and request.user.has_perm("billing.add_repricing"):
            repricing.run(run, seconds=unpriced.RUN_SECONDS)
        return HttpResponseRedirect(reverse("admin:billing_repricing_change", args=[pk]))

    @admin.display(description="model")
    def model_text(self, run: Repricing) -> str:
        return str(run)

    @admin.display(description="state")
    def state(self, run: Repricing) -> str:
        return badge("finished", "success") if run.finished_at else badge("under way", "warning")

    @admin.display(description="calls looked at")
    def calls_text(self, run: Repricing) -> str:
        return count(run.calls)

    @admin.display(description="calls changed")
    def changed(self, run: Repricing) -> str:
        return count(run.changed_calls)

    @admin.display(description="cost, USD")
    def cost_text(self, run: Repricing) -> str:
        return usd(run.cost)

    @admin.display(description="charge, USD")
    def charge_text(self, run: Repricing) -> str:
        return usd(run.charge)

    @admin.display(description="begun, UTC")
    def created(self, run: Repricing) -> str:
        return moment(run.created_at)

    @admin.display(description="finished, UTC")
    def finished(self, run: Repricing) -> str:
        return moment(run.finished_at)

    @admin.display(description="calls from, UTC")
    def from_text(self, run: Repricing) -> str:
        return moment(run.starts_at) if run.starts_at else "the first"

    @admin.display(description="calls before, UTC")
    def to_text(self, run: Repricing) -> str:
        return moment(run.ends_at)


class ClosedMonthForm(forms.ModelForm):
    month = forms.CharField(max_length=7, help_text="Such as 2026-03; in the reporting time zone.")

    class Meta:
        model = ClosedMonth
        fields = ("month", "note")

    def clean_month(self) -> date:
        try:
            month = date.fromisoformat(f"{self.cleaned_data['month']}-01")
        except ValueError:
            raise forms.ValidationError("Write a month as 2026-03.") from None
        if ClosedMonth.objects.filter(pk=month).exists():
            raise forms.ValidationError("It is closed already.")
        if month >= month_of(timezone.now()):
            raise forms.ValidationError("It is not over: calls of it are still to come.")
        return month


@admin.register(ClosedMonth)
class ClosedMonthAdmin(GatewayAdmin):
    form = ClosedMonthForm
    empty_list = (
        "Close a month when its figures were billed: no sum of its days moves any more. "
        "What is corrected later is booked on the day of the correction."
    )
    list_display = ("month_text", "closed", "closed_by", "note")
    ordering = ("-month",)
    sortable_by = ()
    fields = ("month", "note")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ClosedMonth, form: Any, change: bool) -> None:
        by = request.user.get_username()
        try:
            made = close_month(obj.month, at=timezone.now(), by=by, note=obj.note)
        except NotClosable as error:
            messages.error(request, str(error))  # somebody else was faster than this form
            return
        obj.closed_at, obj.closed_by = made.closed_at, made.closed_by

    def delete_model(self, request: HttpRequest, obj: ClosedMonth) -> None:
        open_month(obj.month)

    @admin.display(description="month")
    def month_text(self, row: ClosedMonth) -> str:
        return str(row)

    @admin.display(description="closed, UTC")
    def closed(self, row: ClosedMonth) -> str:
        return moment(row.closed_at)
