"""What the API takes of budgets (contract 5.2)."""

from rest_framework import serializers

from customers.api.fields import BudgetWindows, Id, ModelLimits, Names, Usd, Whole
from customers.models import Budget


class BudgetLimits(serializers.Serializer):
    """The limits of one budget. Null takes a limit away."""

    max_budget = Usd(required=False, allow_null=True, help_text="USD that each holder may spend in a period.")
    soft_budget = Usd(required=False, allow_null=True, help_text="USD; warns, and refuses nothing.")
    budget_duration = serializers.CharField(
        max_length=20,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="1d, 1w, 1mo, 12h, … or daily, weekly, monthly; empty: for all time.",
    )
    mode = serializers.ChoiceField(
        Budget.Mode.choices,
        required=False,
        allow_null=True,
        help_text="What is held for a call under way: what answers usually cost, or the most it can.",
    )
    rpm_limit = Whole(required=False, allow_null=True, help_text="Requests a minute.")
    tpm_limit = Whole(required=False, allow_null=True, help_text="Tokens a minute.")
    max_parallel_requests = Whole(required=False, allow_null=True)
    model_max_budget = ModelLimits(required=False, allow_null=True)
    budget_limits = BudgetWindows(required=False, allow_null=True)
    temp_budget_increase = Usd(
        required=False, allow_null=True, help_text="USD added to max_budget until temp_budget_expiry."
    )
    temp_budget_expiry = serializers.DateTimeField(required=False, allow_null=True)
    tpd_limit = Whole(required=False, allow_null=True, help_text="Refused unless null: not enforced here.")


class BudgetFields(BudgetLimits):
    """POST /budget/new and /budget/update; on update only what is sent changes."""

    budget_id = Id(required=False, allow_null=True, help_text="Made where it is missing.")


class BudgetIds(serializers.Serializer):
    """POST /budget/info."""

    budgets = Names()


class BudgetId(serializers.Serializer):
    """POST /budget/delete."""

    id = Id()


class BudgetSettingsQuery(serializers.Serializer):
    """GET /budget/settings."""

    budget_id = Id()


class BudgetListQuery(serializers.Serializer):
    """GET /budget/list."""

    include_private = serializers.BooleanField(
        default=False, help_text="Also those made with one holder's own limits."
    )
