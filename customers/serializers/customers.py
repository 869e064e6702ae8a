"""What the API takes of customers (contract 5.1)."""

from typing import Any

from rest_framework import serializers

from customers.api.fields import FreeObject, Id, Names, Usd, Whole
from customers.models import Customer
from customers.serializers.budgets import BudgetLimits

LARGEST_PAGE = 100


class CustomerFields(BudgetLimits):
    """What a customer has: POST /customer/update; only what is sent changes."""

    user_id = Id(help_text="The id that calls name the customer by.")
    alias = Id(required=False, allow_null=True, allow_blank=True, help_text="Its name.")
    blocked = serializers.BooleanField(required=False)
    budget_id = Id(
        required=False, allow_null=True, help_text="A budget that it shares with others; null detaches it."
    )
    rate_card = Id(
        required=False,
        allow_null=True,
        help_text="The name of the rate card that says what it pays; null: what the providers bill.",
    )
    allowed_model_region = serializers.ChoiceField(
        Customer.Region.choices,
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="Its calls go to upstreams of this region alone.",
    )
    default_model = Id(
        required=False,
        allow_null=True,
        allow_blank=True,
        help_text="What serves its calls for a model that its region does not have.",
    )
    models = Names(required=False, allow_null=True, help_text="Those it may call; empty: all.")
    metadata = FreeObject(required=False, allow_null=True)


class NewCustomer(CustomerFields):
    """POST /customer/new."""

    spend = Usd(required=False, allow_null=True, help_text="USD that it had spent before it came here.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs.get("max_budget") is not None and attrs.get("budget_id") is not None:
            raise serializers.ValidationError(
                "Give either budget_id or max_budget, not both.", code="value_error"
            )
        return attrs


class CustomerIds(serializers.Serializer):
    """POST /customer/delete, /customer/block, /customer/unblock."""

    user_ids = Names(allow_empty=False)


class CustomerQuery(serializers.Serializer):
    """GET /customer/info."""

    end_user_id = serializers.CharField(trim_whitespace=False, help_text="The customer's id.")


class CustomerListQuery(serializers.Serializer):
    """GET /customer/list. Without `page` and `page_size` all are listed, up to 10,000."""

    page = Whole(required=False, min_value=1, max_value=1_000_000)
    page_size = Whole(required=False, min_value=1, max_value=LARGEST_PAGE, help_text="50 if not said.")
    search = Id(required=False, allow_blank=True, help_text="A part of the id or the name, in any case.")
