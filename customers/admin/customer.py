"""Customers, without their spend: see `billing/admin/holders.py`."""

from django.contrib import admin
from unfold.contrib.filters.admin import BooleanRadioFilter

from customers.admin.common import BlockingMixin, DeletedFilter, RetiringAdmin
from customers.admin.display import blocked_badge, moment
from customers.admin.paging import CappedAdminMixin
from customers.models import Customer
from customers.services import delete_customers, set_customers_blocked


class CustomerAdmin(BlockingMixin, CappedAdminMixin, RetiringAdmin):
    empty_list = (
        "A customer is an end user whose calls are billed. Customers appear by themselves with their first "
        "call that names them (the field “user” of a request, or a header); add one to set its limits before."
    )
    retire = staticmethod(delete_customers)
    retire_note = "It disappears from lists. Its id stays reserved; its logs, totals and block stay."
    set_blocked = staticmethod(set_customers_blocked)
    list_filter = (("blocked", BooleanRadioFilter), DeletedFilter)
    # One index each; a name is also found in its middle, for which the table is read.
    search_fields = ("id__startswith", "alias__icontains")
    search_help_text = "Beginning of the id, or part of the name"
    ordering = ("-created_at",)
    autocomplete_fields = ("budget",)
    fieldsets = (
        (None, {"fields": ("id", "alias", "blocked", "budget")}),
        ("Models", {"fields": ("default_model", "allowed_model_region")}),
        ("Metadata", {"fields": ("metadata",)}),
    )

    @admin.display(description="customer id", ordering="id")
    def customer_id(self, customer: Customer) -> str:
        return customer.pk

    @admin.display(description="blocked")
    def is_blocked(self, customer: Customer) -> str:
        return blocked_badge(customer.blocked)

    @admin.display(description="created, UTC", ordering="created_at")
    def created(self, customer: Customer) -> str:
        return moment(customer.created_at)
