"""The alert: that somebody was told."""

import uuid

from django.db import models

from billing.models.alert_rule import AlertRule
from customers.money import UsdField


class Alert(models.Model):
    """One rule came true, for one holder, in one period, at one threshold and one limit.

    Inserted in the transaction that found out, with the event that tells of it. The
    unique constraint is what makes "once" true: whoever comes second inserts nothing. A
    raised limit is another limit, and opens a new set of thresholds.

    `holder_type` is a `HolderType`, or `model`, `upstream`, `endpoint`. A budget's period is
    named as in `BudgetPeriod`; of other rules `window` is `day`, `hour` or the report's.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # The name stays when the rule goes. No constraint: a rule may be deleted while this is booked.
    rule = models.ForeignKey(
        AlertRule, null=True, on_delete=models.SET_NULL, db_constraint=False, related_name="alerts"
    )
    rule_name = models.CharField("rule", max_length=255)
    kind = models.CharField(max_length=20, choices=AlertRule.Kind)
    holder_type = models.CharField("whose", max_length=12)
    holder_id = models.CharField("which one", max_length=511)
    scope = models.CharField("model", max_length=255, blank=True)
    window = models.CharField(max_length=100)
    starts_at = models.DateTimeField("period begins at")
    generation = models.PositiveIntegerField(default=0)
    threshold = models.CharField(max_length=40)  # digits as text: it is part of the key, and must be exact
    limit = UsdField("limit, USD", default=0)
    spent = UsdField("spent, USD", default=0)
    event_type = models.CharField("event", max_length=40)
    event_id = models.UUIDField(null=True, db_index=True)  # events are pruned before alerts
    message = models.TextField()
    raised_at = models.DateTimeField(db_index=True)  # the list, newest first; the sweep over old ones

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "rule", "holder_type", "holder_id", "scope", "window", "starts_at", "generation",
                    "threshold", "limit",
                ],
                name="alert_once",
            ),
        ]  # fmt: skip
        indexes = [
            # What was told of one holder: its own page.
            models.Index(fields=["holder_type", "holder_id", "-raised_at"], name="alert_holder"),
        ]

    def __str__(self) -> str:
        return self.rule_name
