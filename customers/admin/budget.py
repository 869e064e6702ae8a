"""Budgets, the tiers of limits that holders attach to. Who has them: `billing/admin/budget.py`."""

from django.contrib import admin

from customers.admin.common import GatewayAdmin
from customers.models import Budget
from customers.words import count, usd


class BudgetAdmin(GatewayAdmin):
    empty_list = (
        "A budget is a tier of limits, such as $100 a month, that customers, keys, teams, users and tags "
        "attach to. Make one here, then choose it on their pages."
    )
    search_fields = ("id__startswith",)
    search_help_text = "Beginning of the id"
    ordering = ("-created_at", "id")
    fieldsets = (
        (None, {"fields": ("id", "max_budget", "budget_duration", "mode", "soft_budget")}),
        ("Rate limits", {"fields": ("rpm_limit", "tpm_limit", "max_parallel_requests")}),
        ("Further windows", {"fields": ("budget_limits",)}),
        ("Limits by model", {"fields": ("model_max_budget",)}),
        ("Raised for a time", {"fields": ("temp_budget_increase", "temp_budget_expiry")}),
    )
    help_texts = {
        "id": "What programs name it by. It is chosen once.",
        "max_budget": "What each holder may spend in a period. A call that does not fit is refused. "
        "Empty: no limit; 0: no call at all.",
        "soft_budget": "From this amount on a warning is sent; no call is refused.",
        "budget_duration": "How long a period is: a whole number and s, m, h, d, w or mo, such as 12h, 1d, "
        "2w, 1mo, 3mo; or hourly, daily, weekly, monthly. 30d is the calendar month. Periods follow the "
        "calendar: months begin on the 1st. Empty: one period for all time.",
        "mode": "What is held for a call under way, until its cost is known. Standard: what this model's "
        "answers typically cost; a longer answer may take the spend a little over the limit. Strict: the "
        "most it can cost, so that the limit holds; calls are refused sooner.",
        "rpm_limit": "Of each holder, in any 60 seconds. Empty: no limit.",
        "tpm_limit": "Of each holder, in any 60 seconds. Empty: no limit.",
        "max_parallel_requests": "How many calls of each holder may be under way at once. Empty: no limit.",
        "temp_budget_increase": "Added to the limit until then.",
        "budget_limits": "Limits in other durations, each by itself, as JSON: "
        '[{"budget_duration": "1d", "max_budget": "5"}] besides a limit a month. Amounts are USD.',
        "model_max_budget": "Limits of single models, besides those above, as JSON. Keys may be left out: "
        '{"gpt-4o": {"budget_limit": "5", "time_period": "1d", "rpm_limit": 60, "tpm_limit": 100000}}. '
        "Amounts are USD.",
    }

    @admin.display(description="limit, USD", ordering="max_budget")
    def max_usd(self, budget: Budget) -> str:
        return usd(budget.max_budget)

    @admin.display(description="soft limit, USD", ordering="soft_budget")
    def soft_usd(self, budget: Budget) -> str:
        return usd(budget.soft_budget)

    @admin.display(description="duration", ordering="budget_duration")
    def duration_text(self, budget: Budget) -> str:
        return budget.budget_duration or "all time"

    @admin.display(description="mode", ordering="mode")
    def mode_text(self, budget: Budget) -> str:
        return budget.mode

    @admin.display(description="requests/min", ordering="rpm_limit")
    def rpm(self, budget: Budget) -> str:
        return count(budget.rpm_limit)

    @admin.display(description="tokens/min", ordering="tpm_limit")
    def tpm(self, budget: Budget) -> str:
        return count(budget.tpm_limit)

    @admin.display(description="parallel calls", ordering="max_parallel_requests")
    def parallel(self, budget: Budget) -> str:
        return count(budget.max_parallel_requests)
