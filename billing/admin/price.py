"""Prices: rows are added and never edited, because logs name the row they were charged by."""

import json
from contextlib import suppress
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IS_POPUP_VAR
from django.core.exceptions import ValidationError
from django.db.models import F
from django.forms import Form
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from unfold.contrib.filters.admin import ChoicesRadioFilter

from billing.models import Price
from billing.models.price import NESTED_FIELDS, RATE_FIELDS
from customers.admin.common import GatewayAdmin, LedgerAdmin
from customers.admin.display import moment
from customers.words import EMPTY, usd


def _rate_column(name: str, description: str) -> Any:
    @admin.display(description=description, ordering=name)
    def column(price: Price) -> str:
        return usd(getattr(price, name))

    return column


class PriceForm(forms.ModelForm):
    def clean(self) -> dict[str, Any]:
        """Refuse a second row for an instant, as the database would: the form has no source field."""
        cleaned = super().clean() or self.cleaned_data
        named = {name: cleaned.get(name) for name in ("provider", "model", "effective_from")}
        rows = Price.objects.filter(source=Price.Source.ADMIN, **named)
        if IS_POPUP_VAR not in self.data and rows.exists():
            raise ValidationError("Staff have entered a row from this instant on: choose a later one.")
        return cleaned


@admin.register(Price)
class PriceAdmin(GatewayAdmin):
    form = PriceForm
    empty_list = (
        "A price says what a provider charges for a model from a day on. "
        "“manage.py bootstrap” loads those that genai-prices knows."
    )
    list_display = (
        "provider",
        "model",
        _rate_column("input_per_mtok_usd", "input, USD/M tokens"),
        _rate_column("output_per_mtok_usd", "output, USD/M tokens"),
        _rate_column("cache_read_per_mtok_usd", "cache read, USD/M tokens"),
        "valid_from",
        "source",
    )
    list_display_links = ("model",)
    list_filter = (("source", ChoicesRadioFilter),)
    search_fields = ("provider__icontains", "model__icontains")
    search_help_text = "Provider or model"
    ordering = ("provider", "model", F("effective_from").desc(nulls_last=True), "-pk")
    fieldsets = (
        (None, {"fields": ("provider", "model", "effective_from")}),
        ("Tokens", {"fields": RATE_FIELDS[:6]}),
        ("Audio and images", {"fields": RATE_FIELDS[6:10]}),
        ("Apiece", {"fields": (*RATE_FIELDS[10:], "unit_rates")}),
        ("Long context, service tiers and batches", {"fields": ("long_context_tiers", "service_tiers")}),
    )  # fmt: skip
    readonly_extra = ("source", "created_at", "copy_link")
    has_change_permission = LedgerAdmin.has_change_permission
    has_delete_permission = LedgerAdmin.has_delete_permission

    def get_fieldsets(self, request: HttpRequest, obj: Price | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        return (
            (None, {"fields": (*self.fieldsets[0][1]["fields"], *self.readonly_extra)}),
            *self.fieldsets[1:],
        )

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Read what `copy_link` wrote: the form takes objects, an address has texts."""
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        for name in NESTED_FIELDS:
            with suppress(ValueError, TypeError):
                initial[name] = json.loads(initial[name]) if name in initial else {}
        return {name: value for name, value in initial.items() if value or name not in NESTED_FIELDS}

    def get_readonly_fields(self, request: HttpRequest, obj: Price | None = None) -> tuple[str, ...]:
        return () if obj is None else self.readonly_extra

    def save_model(self, request: HttpRequest, obj: Price, form: Form, change: bool) -> None:
        # The pop-up is opened from a deployment: such a price counts for deployments
        # that name it, and not for every deployment of the provider's model.
        is_override = IS_POPUP_VAR in request.POST
        obj.source = Price.Source.DEPLOYMENT if is_override else Price.Source.ADMIN
        super().save_model(request, obj, form, change)

    @admin.display(description="valid from, UTC", ordering="effective_from")
    def valid_from(self, price: Price) -> str:
        return moment(price.effective_from) if price.effective_from else "always"

    @admin.display(description="to change it")
    def copy_link(self, price: Price) -> str:
        if not self.opts or price.pk is None:
            return EMPTY
        given = {"provider": price.provider, "model": price.model}
        given |= {name: rate for name in RATE_FIELDS if (rate := getattr(price, name)) is not None}
        # The form takes these as text, in an address too.
        given |= {name: json.dumps(said) for name in NESTED_FIELDS if (said := getattr(price, name))}
        return format_html(
            '<a class="text-link" href="{}?{}">Add a new row that starts with these rates</a>. '
            "This one stays: logs refer to it.",
            reverse("admin:billing_price_add"),
            urlencode(given),
        )
