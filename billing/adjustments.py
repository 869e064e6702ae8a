"""
Adjustments: corrections of what was booked.

    totals → adjustment → daily rollups → holds (provisional ones) → periods that still run

A transaction of its own, safe to do twice: it books the difference between what the
call should have cost and what is booked for it so far. Log rows never change (M3).

An initial spend is one, too: of no call, of the one holder it names, once (M5).
"""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Sum

from billing.bulk import given, microseconds
from billing.holds import take_holds
from billing.models import Adjustment, HolderType, SpendLog
from billing.models.spend_total import holders
from billing.periods import Moves, lock_totals, retried, running_periods
from billing.rollups import add_adjustment
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
            add_adjustment(cursor, log, cost_nano=cost, charge_nano=charge, at=at)
        moves = Moves()
        if log.cost is None:
            for hold in take_holds(cursor, "hold.call_id = %s", [log.pk.hex], provisional=True):
                moves.add(hold.period_id, provisional=-hold.amount_nano)
        if adjustment is not None:
            _add_to_periods(cursor, behind, log.started_at, log.model, at, cost, charge, moves)
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
    started_at: datetime,
    model: str,
    at: datetime,
    cost: int,
    charge: int,
    moves: Moves,
) -> None:
    started_us = microseconds(started_at)
    running = running_periods(cursor, behind, first_us=max(started_us, microseconds(at)), last_us=started_us)
    for periods in running.values():
        for period in periods:
            if period.counts(started_us, model):
                moves.add(period.id, cost=cost, charge=charge)


def initial_spend(
    *,
    customer_id: str | None = None,
    key_id: uuid.UUID | str | None = None,
    team_id: str | None = None,
    user_id: str | None = None,
    amount: Decimal,
    at: datetime,
) -> None:
    """Book what one holder spent before it came here: name exactly one. 0 books nothing.

    It moves the all-time total of that holder and its periods that run at `at`; nobody
    else's, and no day's figures: nothing was spent here.

    In the caller's transaction. Its locks come before the change counter's, so call this
    before the holder's row is saved; but a new customer's row comes first, as the ledger
    makes it first too (docs/locking.md). Raises: ValidationError below 0.
    """
    if amount < 0:
        raise ValidationError({"spend": "An initial spend is an amount of at least 0."})
    if not amount:
        return
    named = {
        HolderType.CUSTOMER: customer_id,
        HolderType.KEY: None if key_id is None else str(key_id),
        HolderType.TEAM: team_id,
        HolderType.USER: user_id,
    }
    [holder] = [(kind.value, name) for kind, name in named.items() if name is not None]
    nano = to_nano(amount)
    with transaction.atomic(), connection.cursor() as cursor:
        lock_totals(cursor, [holder])
        Adjustment.objects.create(
            started_at=at,
            booked_at=at,
            reason=Adjustment.Reason.INITIAL_SPEND,
            customer_id=customer_id,
            key_id=key_id,
            team_id=team_id,
            user_id=user_id,
            cost=amount,
            charge=amount,
        )
        _add_to_totals(cursor, [holder], nano, nano)
        moves = Moves()
        _add_to_periods(cursor, [holder], at, "", at, nano, nano, moves)
        moves.write(cursor)
