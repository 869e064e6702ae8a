"""
Adjustments: corrections of what was booked.

    totals → adjustment → holds (provisional ones) → periods that still run

A transaction of its own, safe to do twice: it books the difference between what the
call should have cost and what is booked for it so far. Log rows never change (M3).
"""

from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Sum

from billing.bulk import given, microseconds
from billing.holds import take_holds
from billing.models import Adjustment, SpendLog
from billing.models.spend_total import holders
from billing.periods import Moves, lock_totals, retried, running_periods
from customers.money import from_nano, to_nano


def adjust(
    log: SpendLog,
    *,
    cost_nano: int,
    charge_nano: int,
    reason: Adjustment.Reason,
    at: datetime,
    note: str = "",
) -> Adjustment | None:
    """Bring what is booked for `log` to these amounts; None where it was that already.

    at: now; periods that ended before are closed and stay as they are. A call that had
    no price gives back what its periods kept for it provisionally.
    """
    return retried(lambda: _adjust(log, cost_nano, charge_nano, reason, at, note))


def _adjust(
    log: SpendLog, cost_nano: int, charge_nano: int, reason: Adjustment.Reason, at: datetime, note: str
) -> Adjustment | None:
    behind = holders(
        key_id=str(log.key_id) if log.key_id else None,
        team_id=log.team_id,
        user_id=log.user_id,
        customer_id=log.customer_id,
        tags=log.tags,
    )
    with transaction.atomic(), connection.cursor() as cursor:
        # First, so that of two corrections of one call the second sees the first.
        lock_totals(cursor, behind)
        booked_cost, booked_charge = _booked_for(log)
        cost, charge = cost_nano - booked_cost, charge_nano - booked_charge
        moves = Moves()
        if log.cost is None:
            for hold in take_holds(cursor, "hold.call_id = %s", [log.pk.hex], provisional=True):
                moves.add(hold.period_id, provisional=-hold.amount_nano)
        adjustment = None
        if cost or charge:
            adjustment = Adjustment.objects.create(
                log_id=log.pk,
                started_at=log.started_at,
                booked_at=at,
                reason=reason,
                note=note,
                customer_id=log.customer_id,
                key_id=log.key_id,
                team_id=log.team_id,
                user_id=log.user_id,
                tags=log.tags,
                model=log.model,
                cost=from_nano(cost),
                charge=from_nano(charge),
            )
            _add_to_totals(cursor, behind, cost, charge)
            _add_to_periods(cursor, behind, log, at, cost, charge, moves)
        moves.write(cursor)
    return adjustment


def _booked_for(log: SpendLog) -> tuple[int, int]:
    sums = Adjustment.objects.filter(log_id=log.pk).aggregate(cost=Sum("cost"), charge=Sum("charge"))
    return (
        to_nano((log.cost or 0) + (sums["cost"] or 0)),
        to_nano((log.charge or 0) + (sums["charge"] or 0)),
    )


def _add_to_totals(cursor: Any, behind: list[tuple[str, str]], cost: int, charge: int) -> None:
    source = given((("text", "holder_type"), ("text", "holder_id")), behind)
    cursor.execute(
        "UPDATE billing_spendtotal AS total SET cost = total.cost + %s, charge = total.charge + %s "
        f"FROM {source.sql} "
        "WHERE total.holder_type = given.holder_type AND total.holder_id = given.holder_id",
        [cost, charge, *source.parameters],
    )


def _add_to_periods(
    cursor: Any,
    behind: list[tuple[str, str]],
    log: SpendLog,
    at: datetime,
    cost: int,
    charge: int,
    moves: Moves,
) -> None:
    started_us = microseconds(log.started_at)
    running = running_periods(cursor, behind, first_us=max(started_us, microseconds(at)), last_us=started_us)
    for periods in running.values():
        for period in periods:
            if period.counts(started_us, log.model):
                moves.add(period.id, cost=cost, charge=charge)
