"""Rate cards: what customers pay, with the card's own prices below it."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import StackedInline

from billing.admin.price import PriceForm
from billing.models import Price
from customers.admin.common import GatewayAdmin
from customers.admin.fields import PlainUsdField
from customers.models import RateCard
from customers.words import count

_SHOWN = (
    "provider", "model", "effective_from", "input_per_mtok_usd", "cache_read_per_mtok_usd",
    "cache_write_5m_per_mtok_usd", "cache_write_1h_per_mtok_usd", "output_per_mtok_usd",
    "reasoning_per_mtok_usd", "per_request_usd", "per_web_search_usd", "long_context_tiers", "unit_rates",
)  # fmt: skip


class OwnPriceForm(PriceForm):
    """One own price. A row that there is stays: calls were charged by it."""

    class Meta:
        model = Price
        fields = _SHOWN

    def clean(self) -> dict[str, Any]:
        return forms.ModelForm.clean(self) or self.cleaned_data


class OwnPrices(StackedInline):
    """Added, never edited: another price is another row, from an instant on."""

    model = Price
    fields = _SHOWN
    extra = 0
    verbose_name = "own price"
    verbose_name_plural = "own prices: what the customers of this card pay for a model"

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return GatewayAdmin.formfield_for_dbfield(RateCardAdmin._for_fields(), db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).order_by("provider", "model", "-effective_from", "-pk")


@admin.register(RateCard)
class RateCardAdmin(GatewayAdmin):
    empty_list = (
        "A rate card says what its customers pay: the provider's cost times a factor, or own prices of "
        "models. Customers without one pay the cost."
    )
    list_display = ("name", "multiplier_text", "own_prices_text", "customers_text", "description")
    search_fields = ("name__icontains",)
    search_help_text = "Part of the name"
    ordering = ("name",)
    fields = ("name", "multiplier", "description")
    inlines = (OwnPrices,)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "multiplier":
            kwargs["form_class"] = PlainUsdField  # 0.9, not 0.900000
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @classmethod
    def _for_fields(cls) -> GatewayAdmin:
        return admin.site._registry[RateCard]  # type: ignore[return-value]

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return (
            super()
            .get_queryset(request)
            .annotate(
                number_of_customers=Count("customers", distinct=True),
                number_of_prices=Count("own_prices", distinct=True),
            )
        )

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        for price in formset.save(commit=False):
            price.source = Price.Source.DEPLOYMENT  # it is in nobody's list but the card's
            price.save()

    @admin.display(description="multiplier", ordering="multiplier")
    def multiplier_text(self, card: RateCard) -> str:
        return f"{card.multiplier.normalize():f}"

    @admin.display(description="own prices")
    def own_prices_text(self, card: Any) -> str:
        return count(card.number_of_prices)

    @admin.display(description="customers")
    def customers_text(self, card: Any) -> str:
        url = f"{reverse('admin:customers_customer_changelist')}?rate_card__id__exact={card.pk}"
        return format_html('<a class="text-link" href="{}">{}</a>', url, count(card.number_of_customers))
