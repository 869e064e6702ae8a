"""What it cost, and who is told."""

from billing.models.budget_period import BudgetPeriod, Hold
from billing.models.journal_checkpoint import Installation, JournalCheckpoint
from billing.models.price import Price
from billing.models.spend_log import SpendLog
from billing.models.spend_total import HolderType, SpendTotal

__all__ = [
    "BudgetPeriod",
    "Hold",
    "HolderType",
    "Installation",
    "JournalCheckpoint",
    "Price",
    "SpendLog",
    "SpendTotal",
]
