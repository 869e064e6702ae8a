"""
What holders have and may spend right now, for the API: totals of ever, and the period under way.

Two queries for any number of holders.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing.budgets.bars import Bar, Holder, allowances, bars_now
from billing.budgets.periods import ensure_periods
from billing.models import HolderType, SpendTotal
from customers.durations import period_of
from customers.models import Budget

_ZERO = Decimal(0)
_NO_USAGE: Mapping[str, Any] = {"model_max_budget_usage": None, "budget_limits_usage": None}


class Spending(NamedTuple):
    """Of one holder. A customer's amounts are what it is charged, everybody else's the cost."""

    spend: Decimal = _ZERO  # of ever
    cost: Decimal = _ZERO
    total: SpendTotal | None = None  # None: no call yet
    period: dict[str, Any] | None = None  # of max_budget; None: no such limit
    budget_reset_at: datetime | None = None  # None: no budget, or one without a duration
    usage: Mapping[str, Any] = _NO_USAGE  # of further windows and of models, as LiteLLM names it


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
        own = bars.get(holder.key, ())
        bar = next((bar for bar in own if not bar.period.scope and not bar.is_window), None)
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
        # Of a budget without an amount as well: its duration says when the next period begins.
        ends_at = bar.ends_at if bar else _period_ends_at(holder.budget, at)
        found[holder.id] = Spending(spend, cost, total, period, ends_at, _usage(own) if own else _NO_USAGE)
    return found


def _period_ends_at(budget: Budget | None, at: datetime) -> datetime | None:
    if budget is None:
        return None
    return period_of(budget.duration(), at, settings.BUDGET_TIME_ZONE).ends_at


def _usage(bars: Sequence[Bar]) -> dict[str, Any]:
    """Return what is spent in the periods under way, by model and by further window; None: no such limit."""
    of_models = {
        bar.period.scope: {
            "current_spend": bar.spent,
            "budget_limit": bar.limit,
            "time_period": None if bar.ends_at is None else bar.duration,
        }
        for bar in bars
        if bar.period.scope
    }
    of_windows = {
        bar.duration: {"current_spend": bar.spent, "max_budget": bar.limit, "reset_at": bar.ends_at}
        for bar in bars
        if bar.is_window
    }
    return {"model_max_budget_usage": of_models or None, "budget_limits_usage": of_windows or None}


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
