"""What it cost, and who is told."""

from billing.models.adjustment import Adjustment
from billing.models.budget_period import BudgetPeriod
from billing.models.daily_spend import (
    DailyOverview,
    DailySpend,
    DailyTagSpend,
    ReconcileRun,
    TagSet,
    TagSetMember,
)
from billing.models.hold import Hold
from billing.models.journal_checkpoint import Installation, JournalCheckpoint
from billing.models.price import Price
from billing.models.price_sync import PriceSync
from billing.models.spend_log import SpendLog
from billing.models.spend_total import HolderType, SpendTotal
from billing.models.typical_output import TypicalOutput

__all__ = [
    "Adjustment",
    "BudgetPeriod",
    "DailyOverview",
    "DailySpend",
    "DailyTagSpend",
    "Hold",
    "HolderType",
    "Installation",
    "JournalCheckpoint",
    "Price",
    "PriceSync",
    "ReconcileRun",
    "SpendLog",
    "SpendTotal",
    "TagSet",
    "TagSetMember",
    "TypicalOutput",
]
