"""One period of a budget: what was spent in it, and what is set aside by calls in flight."""

from decimal import Decimal

from django.db import models
from django.db.models import F, Q

from billing.models.ledger_model import LedgerModel
from billing.models.spend_total import HolderType
from customers.money import UsdField


class BudgetPeriod(LedgerModel):
    """What a holder spent in one period of its budget: by calls that started in [counts_from, ends_at).

    The period is part of the key, so nothing is ever reset and history stays. To
    "start afresh" ends the row at that instant and makes the next `generation` of the
    same period, which counts from there: each instant of a window has exactly one row.
    `window` names duration, time zone and anchor; `scope` is a model name, or empty for
    all. A customer's limit is compared with the charge, every other holder's with the
    cost (M4).
    """

    holder_type = models.CharField(max_length=12, choices=HolderType)
    holder_id = models.CharField(max_length=511)
    scope = models.CharField(max_length=255, blank=True)
    window = models.CharField(max_length=100)
    starts_at = models.DateTimeField()
    counts_from = models.DateTimeField()  # starts_at, or the instant this generation began
    ends_at = models.DateTimeField(null=True)  # null: a budget without duration never ends
    generation = models.PositiveIntegerField(default=0)
    spent_cost = UsdField("spent (cost), USD", default=0)
    spent_charge = UsdField("spent (charge), USD", default=0)
    # Σ of the holds with a lease, and of those that an unpriced call left behind (H7).
    held = UsdField("held, USD", default=0)
    provisional = UsdField("provisional, USD", default=0)
    # For the reader alone: admission compares with the budget as it is.
    last_limit = UsdField("limit of the last call admitted, USD", null=True)

    class Meta:
        verbose_name = "budget period"
        constraints = [
            models.UniqueConstraint(
                fields=["holder_type", "holder_id", "scope", "window", "starts_at", "generation"],
                name="budget_period_once",
            ),
            models.CheckConstraint(
                condition=Q(counts_from__gte=F("starts_at")), name="budget_period_counts_from_its_start"
            ),
            models.CheckConstraint(
                condition=Q(ends_at__isnull=True) | Q(ends_at__gt=F("counts_from")),
                name="budget_period_ends_after_it_begins",
            ),
            models.CheckConstraint(condition=Q(held__gte=0), name="budget_period_held_not_negative"),
            models.CheckConstraint(
                condition=Q(provisional__gte=0), name="budget_period_provisional_not_negative"
            ),
        ]
        indexes = [
            # Settlement looks for the periods of a call's holders that had not ended when it started.
            models.Index(fields=["holder_type", "holder_id", "ends_at"], name="budget_period_holder"),
        ]

    def __str__(self) -> str:
        return f"{self.holder_type} {self.holder_id} from {self.counts_from:%Y-%m-%d %H:%M}"

    @property
    def spent(self) -> Decimal:
        """Return what the limit is compared with."""
        return self.spent_charge if self.holder_type == HolderType.CUSTOMER else self.spent_cost

    @property
    def overspend_usd(self) -> Decimal:
        """Return what was spent above the limit of the last call admitted; 0 where none was."""
        return Decimal(0) if self.last_limit is None else max(Decimal(0), self.spent - self.last_limit)
