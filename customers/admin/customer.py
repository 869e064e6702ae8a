"""Customers, without their spend: see `billing/admin/holders.py`."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import BooleanRadioFilter

from customers.admin.common import BlockingMixin, DeletedFilter, RetiringAdmin
from customers.admin.display import blocked_badge, moment
from customers.admin.paging import CappedAdminMixin
from customers.models import Customer
from customers.services import delete_customers, set_customers_blocked
from customers.text import is_clean_text

_SHORTEST_INSIDE = 3  # an index of trigrams finds nothing shorter inside a text


class CustomerAdmin(BlockingMixin, CappedAdminMixin, RetiringAdmin):
    empty_list = (
        "A customer is an end user whose calls are billed. Customers appear by themselves with their first "
        "call that names them (the field “user” of a request, or a header); add one to set its limits before."
    )
    retire = staticmethod(delete_customers)
    retire_note = "It disappears from lists. Its id stays reserved; its logs, totals and block stay."
    set_blocked = staticmethod(set_customers_blocked)
    list_filter = (("blocked", BooleanRadioFilter), DeletedFilter)
    search_fields = ("search_text",)  # see `get_search_results`
    search_help_text = "Parts of the id or the name; of one or two letters, how one of them begins"
    ordering = ("-created_at",)
    autocomplete_fields = ("budget", "rate_card")
    fieldsets = (
        (None, {"fields": ("id", "alias", "blocked", "budget", "rate_card")}),
        ("Models", {"fields": ("allowed_models", "allowed_model_region", "default_model")}),
        ("Metadata", {"fields": ("metadata",)}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet, search_term: str
    ) -> tuple[QuerySet, bool]:
        """Find customers with every word in their id or name; short words at the beginning of one."""
        if search_term and not is_clean_text(search_term):
            return queryset.none(), False
        found, _ = super().get_search_results(request, queryset, "")
        for word in search_term.split():
            is_short = len(word) < _SHORTEST_INSIDE
            found = found.beginning_with(word) if is_short else found.matching(word)  # type: ignore[attr-defined]
        return found, False

    @admin.display(description="customer id", ordering="id")
    def customer_id(self, customer: Customer) -> str:
        return customer.pk

    @admin.display(description="blocked")
    def is_blocked(self, customer: Customer) -> str:
        return blocked_badge(customer.blocked)

    @admin.display(description="created, UTC", ordering="created_at")
    def created(self, customer: Customer) -> str:
        return moment(customer.created_at)
