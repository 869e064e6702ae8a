"""What it cost, and who is told."""

from billing.models.adjustment import Adjustment
from billing.models.alert import Alert
from billing.models.alert_rule import AlertRule
from billing.models.budget_period import BudgetPeriod
from billing.models.closed_month import ClosedMonth
from billing.models.daily_spend import (
    DailyOverview,
    DailySpend,
    ReconcileRun,
    TagSet,
    TagSetMember,
)
from billing.models.delivery import Channel, Delivery, DeliveryLane
from billing.models.event import Event, EventCounter
from billing.models.hold import Hold
from billing.models.journal_checkpoint import Installation, JournalCheckpoint
from billing.models.price import Price
from billing.models.price_sync import PriceSync
from billing.models.provider_bill import ProviderBill, ProviderBillLine
from billing.models.repricing import Repricing
from billing.models.sealed_balance import SealedBalance, SealedMonth, SealedPeriod
from billing.models.spend_log import SpendLog
from billing.models.spend_total import HolderType, SpendTotal
from billing.models.summary import (
    ClosedSpan,
    SummaryByCaller,
    SummaryByCustomer,
    SummaryByCustomerAndModel,
    SummaryByKey,
    SummaryByModel,
    SummaryByTags,
    SummaryByTagsAndModel,
    SummaryByTagsAndUser,
    SummaryByUser,
    SummaryByUserAndModel,
    SummaryWithoutCustomer,
)
from billing.models.typical_output import TypicalOutput
from billing.models.webhook_endpoint import WebhookEndpoint

__all__ = [
    "Adjustment",
    "Alert",
    "AlertRule",
    "BudgetPeriod",
    "Channel",
    "ClosedMonth",
    "ClosedSpan",
    "DailyOverview",
    "DailySpend",
    "Delivery",
    "DeliveryLane",
    "Event",
    "EventCounter",
    "Hold",
    "HolderType",
    "Installation",
    "JournalCheckpoint",
    "Price",
    "PriceSync",
    "ProviderBill",
    "ProviderBillLine",
    "ReconcileRun",
    "Repricing",
    "SealedBalance",
    "SealedMonth",
    "SealedPeriod",
    "SpendLog",
    "SpendTotal",
    "SummaryByCaller",
    "SummaryByCustomer",
    "SummaryByCustomerAndModel",
    "SummaryByKey",
    "SummaryByModel",
    "SummaryByTags",
    "SummaryByTagsAndModel",
    "SummaryByTagsAndUser",
    "SummaryByUser",
    "SummaryByUserAndModel",
    "SummaryWithoutCustomer",
    "TagSet",
    "TagSetMember",
    "TypicalOutput",
    "WebhookEndpoint",
]
