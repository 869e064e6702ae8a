"""One period of a budget, and the amounts held in it by calls in flight."""

from django.db import models
from django.db.models import Q

from billing.models.spend_total import HolderType
from customers.money import UsdField


class BudgetPeriod(models.Model):
    """What a holder spent in one period of its budget: [starts_at, ends_at).

    The period is part of the key, so nothing is ever reset and history stays. A
    reset "now" is the next `generation` of the same period. `window` names
    duration, time zone and anchor; `scope` is a model name, or empty for all.
    """

    holder_type = models.CharField(max_length=12, choices=HolderType)
    holder_id = models.CharField(max_length=511)
    scope = models.CharField(max_length=255, blank=True)
    window = models.CharField(max_length=100)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)  # null: a budget without duration never ends
    generation = models.PositiveIntegerField(default=0)
    spent_cost = UsdField("spent (cost), USD", default=0)
    spent_charge = UsdField("spent (charge), USD", default=0)
    held = UsdField("held, USD", default=0)
    provisional = UsdField("provisional, USD", default=0)

    class Meta:
        verbose_name = "budget period"
        constraints = [
            models.UniqueConstraint(
                fields=["holder_type", "holder_id", "scope", "window", "starts_at", "generation"],
                name="budget_period_once",
            ),
            models.CheckConstraint(condition=Q(held__gte=0), name="budget_period_held_not_negative"),
            models.CheckConstraint(
                condition=Q(provisional__gte=0), name="budget_period_provisional_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.holder_type} {self.holder_id} from {self.starts_at:%Y-%m-%d %H:%M}"


class Hold(models.Model):
    """An amount set aside in one period for one call: a lease its worker renews.

    Carries what is needed to book the call as estimated when its worker never
    comes back: see the invariants H1 to H3 in `docs/architecture.md`.
    """

    call_id = models.UUIDField()
    period = models.ForeignKey(BudgetPeriod, on_delete=models.PROTECT, related_name="holds")
    amount = UsdField("held, USD")
    journal_id = models.UUIDField()
    started_at = models.DateTimeField()
    lease_expires_at = models.DateTimeField(db_index=True)  # read by the sweep over expired leases
    attribution = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["call_id", "period"], name="hold_once_per_period"),
            models.CheckConstraint(condition=Q(amount__gte=0), name="hold_not_negative"),
        ]
        indexes = [models.Index(fields=["journal_id"], name="hold_journal")]  # read when a journal is adopted

    def __str__(self) -> str:
        return f"{self.amount} for {self.call_id}"
