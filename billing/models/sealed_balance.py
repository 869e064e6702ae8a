"""
What is left of log rows that retention removed: the sums that go on proving everything else.

A row goes in the transaction that adds it to its balances (`billing/books/retention.py`), so at
every instant: sealed balances + logs + adjustments = totals = rollups = periods. The days
of a sealed month are no longer made again from the log: `DailySpend` is then its own
record, and the balances of its holders prove it.
"""

from django.db import models

from billing.models.ledger_model import LedgerModel
from billing.models.spend_total import HolderType
from customers.money import UsdField


class SealedMonth(LedgerModel):
    """A month, in UTC as partitions are, whose log rows were removed, or are being removed."""

    month = models.DateField(primary_key=True)  # its first day
    calls = models.BigIntegerField(default=0)
    cost = UsdField("cost, USD", default=0)
    charge = UsdField("charge, USD", default=0)
    sealed_at = models.DateTimeField(null=True)  # null: under way, or it was interrupted

    class Meta:
        verbose_name = "sealed month"

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class SealedBalance(LedgerModel):
    """What the removed calls of one month and one holder add up to; the columns are those of `SpendTotal`.

    The month is that of the calls' days in the reporting time zone, as rollups have them.
    """

    month = models.DateField()  # its first day
    holder_type = models.CharField(max_length=12, choices=HolderType)
    holder_id = models.CharField(max_length=511)
    cost = UsdField("cost, USD")
    charge = UsdField("charge, USD")
    calls = models.BigIntegerField()
    failed_calls = models.BigIntegerField()
    unpriced_calls = models.BigIntegerField()
    prompt_tokens = models.BigIntegerField()
    completion_tokens = models.BigIntegerField()
    last_call_at = models.DateTimeField()

    class Meta:
        verbose_name = "sealed balance"
        constraints = [
            models.UniqueConstraint(fields=["month", "holder_type", "holder_id"], name="sealed_balance_once")
        ]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {self.holder_type} {self.holder_id}"


class SealedPeriod(LedgerModel):
    """What a budget period has of removed calls. No foreign key: the ledger never deletes a period."""

    period_id = models.BigIntegerField(primary_key=True)
    cost = UsdField("cost, USD")
    charge = UsdField("charge, USD")

    class Meta:
        verbose_name = "sealed part of a budget period"

    def __str__(self) -> str:
        return f"{self.cost} of period {self.period_id}"
