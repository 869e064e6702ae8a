"""
The rules about budgets as whoever books sees them: a snapshot, at most two seconds old.

A rule that was edited since cannot tell twice or too much: before anything is told, the
rule's row is read again (`raising.py`).
"""

import math
import time
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from billing.budgets.periods import Watch
from billing.models import AlertRule
from customers.models import Budget
from customers.money import to_nano

_SECONDS = 2.0
_NEVER = (1 << 63) - 1


class BudgetRule(NamedTuple):
    """A rule about a share of budgets."""

    id: int
    share: Decimal
    updated_at: datetime  # so that an edited rule is another one

    def is_reached(self, spent_nano: int, limit_nano: int) -> bool:
        # Of a limit of 0 there are no shares: it is spent with the first cent.
        return (
            spent_nano > 0 and spent_nano >= limit_nano * self.share and (limit_nano > 0 or self.share >= 1)
        )


class BudgetRules(NamedTuple):
    """What may be told while calls are booked."""

    shares: tuple[BudgetRule, ...] = ()
    soft_rule_ids: tuple[int, ...] = ()
    soft_nano: tuple[int, ...] = ()  # the amounts that there are of soft budgets, ascending

    @property
    def watch(self) -> Watch | None:
        """Return which period rows are worth a look; None: none at all."""
        if not self.shares and not self.soft_nano:
            return None
        share = min((float(rule.share) for rule in self.shares), default=math.inf)
        # A little less: the database compares in floating point.
        return Watch(share * (1 - 1e-9), self.soft_nano[0] if self.soft_nano else _NEVER)


_known: tuple[float, BudgetRules] | None = None


def budget_rules() -> BudgetRules:
    """Return the rules. Two queries, every two seconds of a process that books."""
    global _known
    now = time.monotonic()
    if _known is None or now - _known[0] > _SECONDS:
        _known = (now, _load())
    return _known[1]


def forget_rules() -> None:
    """Have the rules read afresh by this process."""
    global _known
    _known = None


def _load() -> BudgetRules:
    kinds = (AlertRule.Kind.BUDGET, AlertRule.Kind.SOFT_BUDGET)
    rules = AlertRule.objects.filter(is_active=True, kind__in=kinds).order_by("pk")
    rows = list(rules.values_list("pk", "kind", "threshold", "updated_at"))
    soft_ids = tuple(pk for pk, kind, _, _ in rows if kind == AlertRule.Kind.SOFT_BUDGET)
    amounts: Iterable[Decimal | None] = ()
    if soft_ids:
        budgets = Budget.objects.filter(soft_budget__gt=0)
        amounts = budgets.order_by().values_list("soft_budget", flat=True).distinct()
    return BudgetRules(
        tuple(
            BudgetRule(pk, threshold, updated_at)
            for pk, kind, threshold, updated_at in rows
            if kind == AlertRule.Kind.BUDGET and threshold
        ),
        soft_ids,
        tuple(sorted(to_nano(amount) for amount in amounts if amount)),
    )
