"""The limits that every holder's requests may carry (contract 5)."""

from rest_framework import serializers

from customers.api.fields import BudgetWindows, FreeObject, Id, Usd, Whole


class LimitFields(serializers.Serializer):
    """A tier (`budget_id`), or limits of the holder's own. Null takes a limit away."""

    budget_id = Id(required=False, allow_null=True, help_text="A tier that others may share.")
    max_budget = Usd(required=False, allow_null=True, help_text="USD in each period.")
    soft_budget = Usd(required=False, allow_null=True, help_text="USD; warns, and refuses nothing.")
    budget_duration = serializers.CharField(
        max_length=20,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="1d, 1w, 1mo, 12h, … or daily, weekly, monthly; empty: for all time.",
    )
    tpm_limit = Whole(required=False, allow_null=True, help_text="Tokens a minute.")
    rpm_limit = Whole(required=False, allow_null=True, help_text="Requests a minute.")
    max_parallel_requests = Whole(required=False, allow_null=True)
    model_max_budget = FreeObject(
        required=False, allow_null=True, help_text='{"gpt-4o": {"budget_limit": 5, "time_period": "1d"}}'
    )
    model_rpm_limit = FreeObject(
        required=False, allow_null=True, help_text='Requests a minute: {"gpt-4o": 60}'
    )
    model_tpm_limit = FreeObject(
        required=False, allow_null=True, help_text='Tokens a minute: {"gpt-4o": 100000}'
    )
    budget_limits = BudgetWindows(required=False, allow_null=True)
    # A limit of LiteLLM's that nothing here enforces: refused, where it says anything.
    tpd_limit = Whole(required=False, allow_null=True)
