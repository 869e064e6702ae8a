"""
Budgets that go over a threshold, found in the transaction that books.

What is looked at is the state, not the step: a row that is at 85 % now is told at 80 %,
whether it came there by this call, by a lowered limit or by a rule that is new. So
nothing is missed, and the constraint on `Alert` keeps it to once. What this process has
seen to be told is remembered, so that a row near its limit costs a look into a set, not a
query. The first call that a budget refuses tells of the budget, too: it may never reach
100 % (E3).
"""

import logging
import time
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from django.db import OperationalError, transaction
from django.db.models import Q

from billing.alerts.budgets import soft_budgets
from billing.alerts.raising import Finding, raise_alerts
from billing.alerts.rules import BudgetRules, budget_rules
from billing.booking.records import CallRecords
from billing.budgets.periods import Moved, Moves
from billing.bulk import from_microseconds
from billing.models import AlertRule, BudgetPeriod, HolderType, SpendLog
from billing.models.spend_total import team_member_id
from customers.money import from_nano, to_nano

logger = logging.getLogger(__name__)

_MOST_REMEMBERED = 200_000
# How often what cannot be told by the row alone is looked at again: whose soft budget it is,
# whether the period that refused was started afresh.
_LOOK_AGAIN_SECONDS = 60
_REFUSED = SpendLog.Status.REFUSED.value
_BY_A_BUDGET = "budget_exceeded"

_seen: set[Hashable] = set()


def write_and_tell(cursor: Any, moves: Moves, calls: Iterable[CallRecords] = ()) -> None:
    """Write the moves, then tell of budgets that went over a threshold, and of those that refused `calls`.

    The last of a transaction but the outbox: alerts are locked behind the periods.
    """
    rules = budget_rules()
    moved = moves.write(cursor, watch=rules.watch)
    reached = _reached(rules, moved)
    refused = _refusals(rules, calls)
    if not reached.keys and not refused:
        return
    try:
        with transaction.atomic():  # a savepoint: whatever goes wrong in here, the calls are booked
            at = datetime.now(UTC)
            found = [*_findings(reached, at), *_refusal_findings(rules, refused)]
            raise_alerts(cursor, found, at=at)
    except OperationalError:
        raise  # the whole booking is tried again
    except Exception:
        logger.exception("alerts could not be raised; they are tried again with the next call")
        return
    keys = [*reached.keys, *(refusal.key for refusal in refused)]
    transaction.on_commit(partial(_remember, keys))


def _remember(keys: Iterable[Hashable]) -> None:
    if len(_seen) > _MOST_REMEMBERED:
        _seen.clear()
    _seen.update(keys)


def _minute() -> int:
    return int(time.monotonic()) // _LOOK_AGAIN_SECONDS


def forget_seen() -> None:
    """Have everything looked at again by this process."""
    _seen.clear()


# -- thresholds ----------------------------------------------------------------------


class _Reached(NamedTuple):
    """What rows have reached that this process has not seen told. rules, soft: ids of rules, by period."""

    keys: list[Hashable]
    rules: dict[int, list[int]]
    soft: set[int]
    moved: dict[int, Moved]


def _reached(rules: BudgetRules, moved: Sequence[Moved]) -> _Reached:
    reached = _Reached([], {}, set(), {})
    for row in moved:
        if row.limit_nano is not None:
            for rule in rules.shares:
                key = ("share", row.id, rule, row.limit_nano)
                if rule.is_reached(row.spent_nano, row.limit_nano) and key not in _seen:
                    reached.keys.append(key)
                    reached.rules.setdefault(row.id, []).append(rule.id)
                    reached.moved[row.id] = row
        if rules.soft_nano and row.spent_nano >= rules.soft_nano[0]:
            amounts = bisect_right(rules.soft_nano, row.spent_nano)
            look: Hashable = ("soft", row.id, amounts, _minute())
            if look not in _seen:
                reached.keys.append(look)
                reached.soft.add(row.id)
                reached.moved[row.id] = row
    return reached


def _findings(reached: _Reached, at: datetime) -> Iterator[Finding]:
    periods = BudgetPeriod.objects.in_bulk(list(reached.moved))
    wanted = {rule_id for ids in reached.rules.values() for rule_id in ids}
    rules = AlertRule.objects.in_bulk(wanted)
    for period_id, rule_ids in reached.rules.items():
        moved = reached.moved[period_id]
        for rule_id in rule_ids:
            rule = rules.get(rule_id)
            if rule is not None and rule.threshold is not None:
                assert moved.limit_nano is not None
                yield of_period(rule, periods[period_id], rule.threshold, from_nano(moved.limit_nano))
    yield from soft_findings([periods[period_id] for period_id in reached.soft], at=at)


def soft_findings(periods: Sequence[BudgetPeriod], *, at: datetime) -> Iterator[Finding]:
    """Yield those of `periods` that are above their soft budget, for each rule about these."""
    budgets = soft_budgets(periods, at=at)
    above = [
        period
        for period in periods
        if period.pk in budgets and period.spent >= (budgets[period.pk].soft_budget or 0)
    ]
    if not above:
        return
    for rule in AlertRule.objects.filter(kind=AlertRule.Kind.SOFT_BUDGET, is_active=True).order_by("pk"):
        for period in above:
            soft = Decimal(budgets[period.pk].soft_budget or 0)
            limit = budgets[period.pk].limit_at(at)
            yield of_period(rule, period, Decimal(1), soft, {"soft_budget": soft, "max_budget": limit})


def of_period(
    rule: AlertRule,
    period: BudgetPeriod,
    threshold: Decimal,
    limit: Decimal,
    more: dict[str, Any] | None = None,
) -> Finding:
    return Finding(
        rule,
        period.holder_type,
        period.holder_id,
        period.scope,
        period.window,
        period.starts_at,
        period.ends_at,
        period.generation,
        threshold,
        limit,
        period.spent,
        {"max_budget": limit, **(more or {})},
    )


# -- refusals ------------------------------------------------------------------------


class _Refusal(NamedTuple):
    """What a refused call's record says of the budget that refused it. Amounts: nano-dollars."""

    holder_type: str
    holder_id: str
    scope: str
    limit_nano: int
    resets_at: str | None
    started_us: int
    said: dict[str, Any]

    @property
    def key(self) -> Hashable:
        return ("refused", *self[:5], _minute())


def _refusals(rules: BudgetRules, calls: Iterable[CallRecords]) -> list[_Refusal]:
    """Return one refusal of each budget that this process has not seen told."""
    if not any(rule.share == 1 for rule in rules.shares):
        return []
    found: dict[Hashable, _Refusal] = {}
    for call in calls:
        if call.closed.status == _REFUSED and call.closed.error_type == _BY_A_BUDGET:
            refusal = _refusal(call)
            if refusal is not None and refusal.key not in _seen:
                found.setdefault(refusal.key, refusal)
    return list(found.values())


def _refusal(call: CallRecords) -> _Refusal | None:
    said = call.opened.metadata.get("refusal")
    if not isinstance(said, dict):
        return None  # a journal of an older version
    try:
        holder_type, holder_id, limit = said["scope"], said["id"], to_nano(Decimal(said["limit"]))
    except (TypeError, KeyError, ValueError, ArithmeticError):
        return None
    if holder_type == HolderType.TEAM_MEMBER:  # a line break is no character of a refusal
        holder_id = team_member_id(call.opened.team_id or "", call.opened.user_id or "")
    return _Refusal(
        holder_type,
        holder_id,
        said.get("model", ""),
        limit,
        said.get("resets_at"),
        call.opened.started_us,
        said,
    )


def _refusal_findings(rules: BudgetRules, refusals: Sequence[_Refusal]) -> Iterator[Finding]:
    if not refusals:
        return
    whole = AlertRule.objects.filter(pk__in=[rule.id for rule in rules.shares if rule.share == 1]).order_by(
        "pk"
    )
    for refusal in refusals:
        period = _period_of(refusal)
        if period is None:
            continue
        limit = from_nano(refusal.limit_nano)
        for rule in whole:
            yield of_period(rule, period, Decimal(1), limit, {"refusal": refusal.said})


def _period_of(refusal: _Refusal) -> BudgetPeriod | None:
    """Return the period that refused: of those that contain the call's start, the one with that end."""
    started_at = from_microseconds(refusal.started_us)
    not_ended = Q(ends_at__isnull=True) | Q(ends_at__gt=started_at)
    rows = BudgetPeriod.objects.filter(
        not_ended,
        holder_type=refusal.holder_type,
        holder_id=refusal.holder_id,
        scope=refusal.scope,
        counts_from__lte=started_at,
    ).order_by("-pk")
    for row in rows:
        ends_at = row.ends_at and row.ends_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if ends_at == refusal.resets_at:
            return row
    return None
