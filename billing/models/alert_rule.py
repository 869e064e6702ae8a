"""The alert rule: what somebody wants to be told of, and where."""

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, validate_email
from django.db import models
from django.db.models import Q

from billing.models.spend_total import HolderType
from customers.models import TrackedModel
from customers.money import UsdField


class AlertRule(TrackedModel):
    """One thing to be told of. What was told is in `Alert`: at most once per holder, period and threshold.

    `threshold` is what the kind says (`THRESHOLDS`): a share of a budget (0.8), USD a day,
    calls a day, how many times the usual. A rule without a holder type is about everybody
    of its kind; without a holder id about each holder of the type.
    """

    class Kind(models.TextChoices):
        BUDGET = "budget", "a share of a budget is spent"
        SOFT_BUDGET = "soft_budget", "a soft budget is spent"
        PROJECTED_EXCEED = "projected_exceed", "a budget will probably be exceeded"
        DAILY_SPEND = "daily_spend", "a day's spend is over an amount"
        MODEL_USAGE = "model_usage", "a model's usage of a day is over a number"
        SPEND_SPIKE = "spend_spike", "a day's spend is a multiple of the usual"
        UNPRICED_MODEL = "unpriced_model", "a model has no price"
        UPSTREAM_FAILING = "upstream_failing", "an upstream is failing"
        ENDPOINT_FAILING = "endpoint_failing", "a webhook endpoint is failing"
        WEEKLY_REPORT = "weekly_report", "spend report, by the week"
        MONTHLY_REPORT = "monthly_report", "spend report, by the month"

    class Unit(models.TextChoices):
        CALLS = "calls", "calls"
        TOKENS = "tokens", "tokens"
        USD = "usd", "USD"

    class Source(models.TextChoices):
        STAFF = "staff", "made by staff"
        DEFAULT = "default", "there from the start"
        CONFIG = "config", "config.yaml"

    # The URL is a secret: whoever knows it can write into the channel.
    audit_hidden = ("sealed_slack_url",)

    name = models.CharField(max_length=255)
    kind = models.CharField(max_length=20, choices=Kind)
    threshold = models.DecimalField(
        max_digits=19, decimal_places=9, null=True, blank=True, validators=[MinValueValidator(Decimal(0))]
    )
    unit = models.CharField(
        max_length=10, choices=Unit, default=Unit.CALLS, help_text="What a model's usage is counted in."
    )
    minimum_usd = UsdField(
        "from this amount on, USD",
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="Of a multiple of the usual: days with less spend are not worth a message.",
    )
    holder_type = models.CharField("whose", max_length=12, choices=HolderType, blank=True)
    holder_id = models.CharField("which one", max_length=511, blank=True, help_text="Empty: each of them.")
    model = models.CharField(max_length=255, blank=True, help_text="The public name; empty: each model.")
    to_webhooks = models.BooleanField("webhooks", default=True)
    to_slack = models.BooleanField("Slack", default=True, help_text="The channel of SLACK_WEBHOOK_URL.")
    to_email = models.BooleanField("e-mail", default=True, help_text="The addresses of ALERT_EMAILS.")
    emails = models.JSONField("also to these addresses", default=list, blank=True)
    sealed_slack_url = models.TextField(blank=True, editable=False)
    endpoint = models.ForeignKey(
        "billing.WebhookEndpoint",
        verbose_name="also to this endpoint",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="alert_rules",
        help_text="Is told whatever events it asks for otherwise.",
    )
    is_active = models.BooleanField("active", default=True)
    source = models.CharField(max_length=10, choices=Source, default=Source.STAFF, editable=False)
    checked_at = models.DateTimeField(
        null=True, blank=True, editable=False
    )  # of kinds that are checked by beat
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "alert rule"
        constraints = [
            models.CheckConstraint(
                condition=Q(threshold__isnull=True) | Q(threshold__gte=0), name="alert_rule_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises: ValidationError, by field, where the kind needs something else."""
        problems: dict[str, str] = {}
        if self.kind in THRESHOLDS and not self.threshold:
            problems["threshold"] = f"Write {THRESHOLDS[self.kind]}."
        elif self.kind not in THRESHOLDS and self.threshold is not None:
            problems["threshold"] = "A rule of this kind has no threshold."
        elif self.kind == self.Kind.BUDGET and self.threshold and self.threshold > MOST_SHARE:
            problems["threshold"] = "Write a share: 0.8 for 80 %, 1 for all of the budget."
        elif self.kind == self.Kind.UPSTREAM_FAILING and self.threshold and self.threshold > 1:
            problems["threshold"] = "Write a share of the calls: 0.5 for half of them."
        elif self.kind == self.Kind.MODEL_USAGE and self.threshold and self._is_broken():
            problems["threshold"] = "Write a whole number."
        if self.kind == self.Kind.MODEL_USAGE and not self.model:
            problems["model"] = "Write the model's public name."
        if self.holder_id and not self.holder_type:
            problems["holder_id"] = "Say whose id this is."
        if self.holder_type == HolderType.TEAM_MEMBER and self.kind in BY_DAY:
            problems["holder_type"] = "The spend of a day is not known by team member; choose users or teams."
        if bad := _bad_emails(self.emails):
            problems["emails"] = bad
        if problems:
            raise ValidationError(problems)

    def _is_broken(self) -> bool:
        """Tell whether the threshold counts calls or tokens, but not whole ones."""
        return self.unit != self.Unit.USD and self.threshold != int(self.threshold or 0)

    def concerns(self, holder_type: str, holder_id: str) -> bool:
        return self.holder_type in ("", holder_type) and self.holder_id in ("", holder_id)


# What the threshold of a kind is, for those that have one.
THRESHOLDS: dict[str, str] = {
    AlertRule.Kind.BUDGET: "a share of the budget: 0.8 for 80 %",
    AlertRule.Kind.DAILY_SPEND: "an amount of USD a day",
    AlertRule.Kind.MODEL_USAGE: "how many calls, tokens or USD a day",
    AlertRule.Kind.SPEND_SPIKE: "how many times the mean of the seven days before",
    AlertRule.Kind.UPSTREAM_FAILING: "a share of the calls of the last minutes: 0.5 for half of them",
}
BY_DAY = (AlertRule.Kind.DAILY_SPEND, AlertRule.Kind.SPEND_SPIKE)
MOST_SHARE = 10


def _bad_emails(emails: Any) -> str:
    """Return what is wrong with a list of addresses, or nothing."""
    if not isinstance(emails, list) or len(emails) > 50:
        return "Write at most 50 addresses."
    for email in emails:
        try:
            validate_email(email)
        except (ValidationError, TypeError):
            return f"{str(email)[:100]!r} is no e-mail address."
    return ""
