"""Budgets: the tiers of limits that holders attach to."""

from django.contrib import admin

from customers.admin.common import GatewayAdmin
from customers.admin.display import usd
from customers.models import Budget


@admin.register(Budget)
class BudgetAdmin(GatewayAdmin):
    empty_list = (
        "A budget is a tier of limits, such as $100 a month, that customers, keys, teams, users and tags "
        "attach to. Make one here, then choose it on their pages."
    )
    list_display = (
        "id", "max_usd", "soft_usd", "budget_duration", "mode",
        "rpm_limit", "tpm_limit", "max_parallel_requests",
    )  # fmt: skip
    search_fields = ("id__startswith",)
    search_help_text = "Beginning of the id"
    ordering = ("-created_at", "id")
    fieldsets = (
        (None, {"fields": ("id", "max_budget", "soft_budget", "budget_duration", "mode")}),
        ("Rate limits", {"fields": ("rpm_limit", "tpm_limit", "max_parallel_requests")}),
        ("Limits by model", {"fields": ("model_max_budget",)}),
    )

    @admin.display(description="max", ordering="max_budget")
    def max_usd(self, budget: Budget) -> str:
        return usd(budget.max_budget)

    @admin.display(description="soft", ordering="soft_budget")
    def soft_usd(self, budget: Budget) -> str:
        return usd(budget.soft_budget)
