"""The limits of the gateway, with what it spent of them."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse

from billing.admin.budgeted import BudgetedMixin
from billing.budgets.bars import Holder
from billing.models import HolderType
from billing.models.spend_total import GATEWAY_ID
from customers.admin.gateway import GatewayLimitsAdmin
from customers.models import GatewayLimits


@admin.register(GatewayLimits)
class GatewayLimitsSpendAdmin(BudgetedMixin, GatewayLimitsAdmin):
    holder_type = HolderType.GATEWAY
    change_form_outer_before_template = "admin/budget_panel.html"

    def holders(self, row: GatewayLimits) -> list[Holder]:
        return [Holder(self.holder_type, GATEWAY_ID, "the gateway", row.budget)]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        shown = {} if row is None else self.budget_context(request, row)
        return super().change_view(request, object_id, form_url, {**shown, **(extra_context or {})})
