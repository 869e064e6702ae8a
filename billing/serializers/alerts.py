"""What the API takes of alerts and their rules."""

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.models import AlertRule, HolderType
from customers.api.fields import Id, Usd, Whole
from customers.api.paging import page_fields


@extend_schema_field({"type": "number"})
class Threshold(serializers.Field):
    """A number of at least 0 with at most nine decimal places, or its digits as text."""

    default_error_messages = {"invalid": "Write a number such as 0.8 or 50."}

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, int | Decimal | str):
            self.fail("invalid")
        try:
            number = Decimal(data)
        except ArithmeticError:
            self.fail("invalid")
        if not number.is_finite() or not 0 <= number < 10**10 or number != round(number, 9):
            self.fail("invalid")
        return number

    def to_representation(self, value: Decimal) -> Decimal:
        return value


class RuleFields(serializers.Serializer):
    """What a rule is made of."""

    name = serializers.CharField(required=False, allow_null=True, allow_blank=True, max_length=255)
    threshold = Threshold(
        required=False,
        allow_null=True,
        help_text="budget: a share (0.8); daily_spend: USD; model_usage: a number of `unit`; spend_spike: "
        "times the usual; upstream_failing: a share of the calls.",
    )
    unit = serializers.ChoiceField(AlertRule.Unit.choices, required=False, help_text="Of model_usage.")
    minimum_usd = Usd(
        required=False, allow_null=True, help_text="Of spend_spike: days with less are passed over."
    )
    holder_type = serializers.ChoiceField(
        HolderType.choices, required=False, allow_null=True, allow_blank=True, help_text="Null: everybody."
    )
    holder_id = serializers.CharField(
        required=False, allow_null=True, allow_blank=True, max_length=511, help_text="Null: each of the type."
    )
    model = Id(required=False, allow_null=True, allow_blank=True)
    webhooks = serializers.BooleanField(required=False, help_text="Tell the webhook endpoints.")
    slack = serializers.BooleanField(required=False, help_text="Tell the channel of SLACK_WEBHOOK_URL.")
    email = serializers.BooleanField(required=False, help_text="Tell the addresses of ALERT_EMAILS.")
    emails = serializers.ListField(
        child=serializers.CharField(max_length=254),
        required=False,
        max_length=50,
        help_text="Tell these, too.",
    )
    slack_url = serializers.CharField(
        required=False,
        allow_null=True,
        allow_blank=True,
        max_length=500,
        help_text="Tell this channel, too. Never returned.",
    )
    endpoint_id = Whole(required=False, allow_null=True, help_text="Tell this webhook endpoint, too.")
    active = serializers.BooleanField(required=False)


class NewRule(RuleFields):
    """POST /alert/rule/new."""

    kind = serializers.ChoiceField(AlertRule.Kind.choices)


class ChangedRule(RuleFields):
    """POST /alert/rule/update."""

    rule_id = Whole()
    kind = serializers.ChoiceField(AlertRule.Kind.choices, required=False)


class RuleId(serializers.Serializer):
    """POST /alert/rule/delete."""

    rule_id = Whole()


class AlertQuery(serializers.Serializer):
    """GET /alert/list."""

    kind = serializers.ChoiceField(AlertRule.Kind.choices, required=False)
    holder_type = serializers.CharField(required=False, max_length=12)
    holder_id = serializers.CharField(required=False, max_length=511)
    page, page_size = page_fields(size=50, largest=500).values()
