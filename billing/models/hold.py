"""An amount set aside in one budget period for one call."""

from django.db import models

from billing.models.budget_period import BudgetPeriod
from billing.models.ledger_model import LedgerModel
from customers.money import UsdField


class Hold(LedgerModel):
    """What one call may cost one period: a lease that the call's worker renews while it lives.

    A call has one hold on each period it is limited by, made together and taken away
    together. The one of its first limit carries the `attribution`: what is needed to
    book the call by its estimate when its worker never comes back (H2).

    A hold without a lease is what an unpriced call left behind: it counts in the
    period's `provisional`, until the call gets a price (H7).
    """

    call_id = models.UUIDField()
    # Optimization: a hold is made and taken away for every call under a budget, by the ledger
    # alone, which never deletes a period: each index and check would be paid for twice a call.
    period = models.ForeignKey(
        BudgetPeriod, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="holds"
    )
    amount = UsdField("held, USD")
    journal_id = models.UUIDField()
    started_at = models.DateTimeField()
    lease_expires_at = models.DateTimeField(null=True, db_index=True)  # read by the sweep over expired leases
    attribution = models.JSONField(null=True)  # `billing.budgets.holds.Attribution`

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["call_id", "period"], name="hold_once_per_period"),
            models.CheckConstraint(condition=models.Q(amount__gte=0), name="hold_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.amount} for {self.call_id}"
