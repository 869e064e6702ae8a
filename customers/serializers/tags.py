"""What the API takes of tags (contract 5.6)."""

from rest_framework import serializers

from customers.api.fields import BudgetWindows, FreeObject, Id, Names, Usd, Whole
from customers.api.paging import page_fields


class TagFields(serializers.Serializer):
    """POST /tag/new and /tag/update."""

    name = Id(help_text="What calls say: x-litellm-tags, metadata.tags.")
    description = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=10_000, trim_whitespace=False
    )
    models = Names(required=False, allow_null=True, help_text="Ids of deployments; kept, not enforced.")
    model_info = FreeObject(required=False, allow_null=True)
    budget_id = Id(required=False, allow_null=True, help_text="A budget that it shares with others.")
    max_budget = Usd(required=False, allow_null=True, help_text="USD per budget_duration.")
    soft_budget = Usd(required=False, allow_null=True, help_text="USD from which on a warning is sent.")
    budget_duration = serializers.CharField(
        required=False, allow_null=True, max_length=20, help_text="1d, 1w, 1mo, …, or monthly."
    )
    max_parallel_requests = Whole(required=False, allow_null=True, max_value=2**31 - 1)
    tpm_limit = Whole(required=False, allow_null=True)
    rpm_limit = Whole(required=False, allow_null=True)
    model_max_budget = FreeObject(
        required=False, allow_null=True, help_text='{"gpt-4o": {"budget_limit": 5, "time_period": "1d"}}'
    )
    budget_limits = BudgetWindows(required=False, allow_null=True)


class TagNames(serializers.Serializer):
    """POST /tag/info."""

    names = Names(allow_empty=False)


class TagName(serializers.Serializer):
    """POST /tag/delete."""

    name = Id()


class TagListQuery(serializers.Serializer):
    """GET /tag/list. Without `page` and `page_size` all are listed."""

    start_date = serializers.DateField(required=False, help_text="Of tags without a row: last called since.")
    end_date = serializers.DateField(required=False, help_text="Of tags without a row: last called until.")
    page, page_size = page_fields(size=100, largest=1000).values()
