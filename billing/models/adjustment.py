"""A correction of what was booked. Spend logs never change; sums move by rows like these (M3)."""

from typing import Self

from django.conf import settings
from django.db import models

from billing.models.attributed import AttributedQuerySet, loose_foreign_key
from billing.models.ledger_model import LedgerModel
from billing.models.spend_total import MASTER_KEY_ID, HolderType
from customers.money import UsdField


class AdjustmentQuerySet(AttributedQuerySet):
    """Adjustments. An initial spend is of no call: it counts for the holder it names, and nobody else."""

    def of_calls(self) -> Self:
        """Return corrections of what calls cost."""
        return self.exclude(reason=Adjustment.Reason.INITIAL_SPEND)

    def of_holder(self, holder_type: str, holder_id: str) -> Self:
        found = super().of_holder(holder_type, holder_id)
        # These two have rows that name no key, or nobody at all.
        is_of_all = holder_type == HolderType.GATEWAY or (holder_type, holder_id) == (
            HolderType.KEY,
            MASTER_KEY_ID,
        )
        return found.of_calls() if is_of_all else found


class Adjustment(LedgerModel):
    """A difference to what one spend log says, booked when it became known.

    It moves the all-time totals of everyone behind the call, the figures of the day it
    is booked on, and those budget periods which contain the call's start and still ran
    then: [counts_from, ends_at) contains `started_at`, and `booked_at` is before
    `ends_at`. What has ended stays closed. An initial spend has no call: it moves the
    one holder that it names, and no day's figures.
    """

    class Reason(models.TextChoices):
        LATE_JOURNAL = "late_journal", "late journal: the call had been booked by its estimate"
        REPRICING = "repricing", "re-pricing"
        LATE_CALL = "late_call", "late call: its month was closed when it was booked"
        INITIAL_SPEND = "initial_spend", "initial spend"

    log_id = models.UUIDField(null=True, db_index=True)  # null: of no call of ours. Read per corrected call
    started_at = models.DateTimeField(db_index=True)  # the log's; read where a period is first used
    booked_at = models.DateTimeField()
    reason = models.CharField(max_length=20, choices=Reason)
    note = models.CharField(max_length=500, blank=True)
    actor = models.CharField(max_length=255, blank=True, db_default="")  # who did it; empty: the gateway
    repricing_id = models.BigIntegerField(null=True, blank=True)  # the run that it is of
    price_id = models.BigIntegerField(null=True, blank=True)  # the row that the call was priced by
    customer = loose_foreign_key("customers.Customer", "adjustments")
    key = loose_foreign_key("customers.VirtualKey", "adjustments")
    team = loose_foreign_key("customers.Team", "adjustments")
    user = loose_foreign_key(settings.AUTH_USER_MODEL, "adjustments")
    tags = models.JSONField(default=list)
    model = models.CharField(max_length=255, blank=True)
    # As the log has them, which retention may have removed when sums are compared again.
    deployment_id = models.BigIntegerField(null=True)
    provider = models.CharField(max_length=100, blank=True, db_default="")
    upstream_model = models.CharField(max_length=255, blank=True, db_default="")
    dialect = models.CharField(max_length=30, blank=True, db_default="")
    client_tool = models.CharField(max_length=40, blank=True, db_default="")
    cost = UsdField("cost, USD")
    charge = UsdField("charge, USD")
    # -1 where it gives a call its cost that had none: so many fewer are unpriced.
    unpriced_calls = models.IntegerField(default=0, db_default=0)

    objects = AdjustmentQuerySet.as_manager()

    class Meta:
        indexes = [
            # What one run of re-pricing did.
            models.Index(
                fields=["repricing_id", "id"],
                name="adjustment_repricing",
                condition=models.Q(repricing_id__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.cost} for {self.log_id or self.get_reason_display()}"
