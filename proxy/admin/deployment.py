"""Deployments: the model names callers use, and what serves them."""

from django.contrib import admin
from unfold.contrib.filters.admin import BooleanRadioFilter

from billing.models import Price
from customers.admin.common import GatewayAdmin
from customers.admin.display import link_to
from customers.words import usd
from proxy.models import Deployment, Upstream


@admin.register(Deployment)
class DeploymentAdmin(GatewayAdmin):
    empty_list = (
        "A deployment says which upstream serves a model name. "
        "A name that ends in * serves every model whose name begins so."
    )
    list_display = (
        "model_name", "upstream_link", "sent_as", "priority", "weight", "price_text", "is_active",
    )  # fmt: skip
    list_filter = (("is_active", BooleanRadioFilter),)
    list_select_related = ("upstream", "price")
    search_fields = ("model_name__icontains", "upstream__name__icontains", "upstream_model__icontains")
    search_help_text = "Model name or upstream"
    ordering = ("model_name", "priority", "pk")
    autocomplete_fields = ("upstream", "price")
    fieldsets = (
        (None, {"fields": ("model_name", "upstream", "upstream_model", "is_active")}),
        ("Which of several", {"fields": ("priority", "weight")}),
        ("What it costs", {"fields": ("base_model", "price")}),
    )

    @admin.display(description="upstream", ordering="upstream__name")
    def upstream_link(self, deployment: Deployment) -> str:
        return link_to(Upstream, deployment.upstream_id, deployment.upstream.name)

    @admin.display(description="sent as", ordering="upstream_model")
    def sent_as(self, deployment: Deployment) -> str:
        return deployment.upstream_model or "the same name"

    @admin.display(description="price, USD/M tokens in, out")
    def price_text(self, deployment: Deployment) -> str:
        price = deployment.price
        if price is None:
            return f"as {deployment.base_model}" if deployment.base_model else "as listed"
        rates = f"{usd(price.input_per_mtok_usd)}, {usd(price.output_per_mtok_usd)}"
        return link_to(Price, price.pk, rates)
