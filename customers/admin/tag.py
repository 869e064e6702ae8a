"""Tags, without their spend: see `billing/admin/holders.py`."""

from customers.admin.common import GatewayAdmin


class TagAdmin(GatewayAdmin):
    empty_list = (
        "A tag is a label on calls. Calls may carry any tag; "
        "make one here to describe it or to give it a budget."
    )
    search_fields = ("name__icontains",)
    search_help_text = "Part of the name"
    ordering = ("name",)
    list_select_related = ("budget",)
    autocomplete_fields = ("budget",)
    fieldsets = ((None, {"fields": ("name", "description", "budget")}),)
