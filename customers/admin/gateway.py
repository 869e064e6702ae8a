"""The limits of the gateway itself, one page. Without its spend: see `billing/admin/gateway_limits.py`."""

from typing import Any

from django.http import HttpRequest, HttpResponse

from customers.admin.common import GatewayAdmin
from customers.models import GatewayLimits

_PK = "1"


class GatewayLimitsAdmin(GatewayAdmin):
    """The one row. Where a model has its list, this has its form."""

    autocomplete_fields = ("budget", "customer_budget")
    fieldsets = ((None, {"fields": ("budget", "customer_budget")}),)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return self.change_view(request, _PK, extra_context=extra_context)

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> GatewayLimits | None:
        """Return the row, made in memory where there is none: a look at the page writes nothing."""
        found = super().get_object(request, object_id, from_field)
        return GatewayLimits(pk=1) if found is None and object_id == _PK else found

    def save_model(self, request: HttpRequest, obj: GatewayLimits, form: Any, change: bool) -> None:
        GatewayLimits.current()
        super().save_model(request, obj, form, change)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: GatewayLimits | None = None) -> bool:
        return False
