"""
What holders have and may spend right now, for the API: totals of ever, and the period under way.

Two queries for any number of holders.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from billing.budget_bars import Holder, allowances, bars_now
from billing.models import HolderType, SpendTotal
from billing.periods import ensure_periods
from customers.models import Budget

_ZERO = Decimal(0)


class Spending(NamedTuple):
    """Of one holder. A customer's amounts are what it is charged, everybody else's the cost."""

    spend: Decimal = _ZERO  # of ever
    cost: Decimal = _ZERO
    total: SpendTotal | None = None  # None: no call yet
    period: dict[str, Any] | None = None  # of the limit on all models; None: no such limit
    budget_reset_at: datetime | None = None  # None: no budget, or one for all time


def spending_of(
    holder_type: HolderType, budgets: Iterable[tuple[str, Budget | None]], *, at: datetime
) -> dict[str, Spending]:
    """Return what each holder spent. budgets: (id, the budget attached)."""
    holders = [Holder(holder_type, holder_id, holder_id, budget) for holder_id, budget in budgets]
    if not holders:
        return {}
    totals = {
        total.holder_id: total
        for total in SpendTotal.objects.filter(
            holder_type=holder_type, holder_id__in=[holder.id for holder in holders]
        )
    }
    limited = [holder for holder in holders if holder.budget is not None]
    bars = bars_now(limited, at=at) if limited else {}
    found = {}
    for holder in holders:
        total = totals.get(holder.id)
        cost = total.cost if total else _ZERO
        spend = total.charge if total and holder_type == HolderType.CUSTOMER else cost
        bar = next((bar for bar in bars.get(holder.key, ()) if not bar.period.scope), None)
        period = None
        if bar is not None:
            period = {
                "starts_at": bar.counts_from,
                "ends_at": bar.ends_at,
                "limit": bar.limit,
                "spent": bar.spent,
                "held": bar.held,
                "provisional": bar.provisional,
                "remaining": bar.left,
            }
        found[holder.id] = Spending(spend, cost, total, period, bar.ends_at if bar else None)
    return found


def prepare_periods(holder_type: HolderType, holder_id: str, budget: Budget | None) -> None:
    """Make the periods of a budget that was just attached, when the transaction has committed.

    In the middle of a period that reads the holder's log; else its next call would wait for it.
    """
    prepare_periods_of_many(holder_type, [(holder_id, budget)])


def prepare_periods_of_many(holder_type: HolderType, budgets: Iterable[tuple[str, Budget | None]]) -> None:
    """Do it for many holders at once. budgets: (id, the budget attached)."""
    attached = [(holder_id, budget) for holder_id, budget in budgets if budget is not None]
    if attached:
        transaction.on_commit(partial(_prepare, partial(_keys, holder_type, attached)), robust=True)


def _keys(holder_type: HolderType, attached: Iterable[tuple[str, Budget]], at: datetime) -> list[Any]:
    return [
        allowance.period((holder_type, holder_id), at)
        for holder_id, budget in attached
        for allowance in allowances(budget)
    ]


def _prepare(keys: Callable[[datetime], list[Any]]) -> None:
    ensure_periods(keys(timezone.now()))
