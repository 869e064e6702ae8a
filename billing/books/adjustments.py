"""
Adjustments: corrections of what was booked.

    totals → adjustment → daily rollups → holds (provisional ones) → periods that still run

A transaction of its own, safe to do twice: it books the difference between what the
call should have cost and what is booked for it so far. Log rows never change (M3). A call
that gets its first price counts as unpriced no more: on the day that this is booked on.

An initial spend is one, too: of no call, of the one holder it names, once (M5).
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import connection, transaction

from billing.alerts.crossing import write_and_tell
from billing.booking.rollups import Moved, add_adjustments
from billing.books.closed_months import require_open
from billing.budgets.holds import of_calls, take_holds
from billing.budgets.periods import Moves, RunningPeriod, end_us, lock_totals, retried, running_periods
from billing.bulk import given, microseconds
from billing.models import Adjustment, BudgetPeriod, HolderType, SpendLog
from billing.models.spend_total import holders
from customers.money import from_nano, to_nano

Holder = tuple[str, str]  # (type, id)
# The total goes on from there: it must not come near the 9.2 billion USD that 64 bits hold.
_MOST_INITIAL_USD = 100_000_000


class Correction(NamedTuple):
    """What a call should have cost, in nano-dollars. price_id: the row that says so, if one does."""

    log: SpendLog
    cost_nano: int
    charge_nano: int
    price_id: int | None = None


class Why(NamedTuple):
    """What corrections are made for, when and by whom. at: now; they are booked on that day."""

    reason: Adjustment.Reason
    at: datetime
    note: str = ""
    actor: str = ""  # empty: the gateway
    repricing_id: int | None = None


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
    made = adjust_all([Correction(log, cost_nano, charge_nano)], why=Why(reason, at, note))
    return made[0] if made else None


def adjust_all(corrections: Sequence[Correction], *, why: Why) -> list[Adjustment]:
    """Do the same for several calls, each once, in one transaction; return what was booked.

    Raises: MonthIsClosed, where today is in a month that was closed.
    """
    return retried(lambda: _adjust_all(corrections, why))


def _adjust_all(corrections: Sequence[Correction], why: Why) -> list[Adjustment]:
    if not corrections:
        return []
    behind = {correction.log.pk: holders_of(correction.log) for correction in corrections}
    with transaction.atomic(), connection.cursor() as cursor:
        # First, so that of two corrections of one call the second sees the first.
        lock_totals(cursor, {holder for holders_ in behind.values() for holder in holders_})
        require_open(why.at)
        booked = booked_for([correction.log for correction in corrections])
        made, moved = [], []
        for correction in corrections:
            log = correction.log
            known = booked[log.pk]
            cost = correction.cost_nano - known.cost_nano
            charge = correction.charge_nano - known.charge_nano
            unpriced = -1 if log.cost is None and not known.is_priced else 0
            if cost or charge or unpriced:
                made.append(_adjustment(correction, cost, charge, unpriced, why))
                moved.append(Moved(log, cost, charge, unpriced))
        Adjustment.objects.bulk_create(made)
        _add_to_totals(cursor, _summed(moved, behind))
        if moved:
            add_adjustments(cursor, moved, at=why.at)
        moves = Moves()
        unpriced_ids = [correction.log.pk.bytes for correction in corrections if correction.log.cost is None]
        if unpriced_ids:
            for hold in take_holds(cursor, *of_calls(unpriced_ids), provisional=True):
                moves.add(hold.period_id, provisional=-hold.amount_nano)
        if moved:
            add_to_periods(cursor, moved, behind, why.at, moves)
        write_and_tell(cursor, moves)
    return made


def holders_of(log: SpendLog) -> list[Holder]:
    """Return everyone behind a call."""
    return holders(
        key_id=str(log.key_id) if log.key_id else None,
        team_id=log.team_id,
        user_id=log.user_id,
        customer_id=log.customer_id,
        tags=log.tags,
    )


def _adjustment(correction: Correction, cost: int, charge: int, unpriced: int, why: Why) -> Adjustment:
    log = correction.log
    return Adjustment(
        log_id=log.pk,
        started_at=log.started_at,
        booked_at=why.at,
        reason=why.reason,
        note=why.note,
        actor=why.actor,
        repricing_id=why.repricing_id,
        price_id=correction.price_id,
        customer_id=log.customer_id,
        key_id=log.key_id,
        team_id=log.team_id,
        user_id=log.user_id,
        tags=log.tags,
        model=log.model,
        deployment_id=log.deployment_id,
        provider=log.provider,
        upstream_model=log.upstream_model,
        dialect=log.dialect,
        client_tool=log.client_tool,
        cost=from_nano(cost),
        charge=from_nano(charge),
        unpriced_calls=unpriced,
    )


class Booked(NamedTuple):
    """What is booked for a call, its corrections included: nano-dollars; 0 while it has no price."""

    cost_nano: int
    charge_nano: int
    is_priced: bool
    is_late: bool  # a journal told its usage later: its log has an estimate


def booked_for(logs: Sequence[SpendLog]) -> dict[uuid.UUID, Booked]:
    """Return what is booked for each of the calls. One query."""
    found = {
        log.pk: Booked(to_nano(log.cost or 0), to_nano(log.charge or 0), log.cost is not None, False)
        for log in logs
    }
    rows = Adjustment.objects.filter(log_id__in=list(found))
    for log_id, cost, charge, unpriced, reason in rows.values_list(
        "log_id", "cost", "charge", "unpriced_calls", "reason"
    ):
        if log_id is None:
            continue
        known = found[log_id]
        found[log_id] = Booked(
            known.cost_nano + to_nano(cost),
            known.charge_nano + to_nano(charge),
            known.is_priced or unpriced < 0,
            known.is_late or reason == Adjustment.Reason.LATE_JOURNAL,
        )
    return found


def _summed(
    moved: Sequence[Moved], behind: Mapping[uuid.UUID, Sequence[Holder]]
) -> dict[Holder, tuple[int, int, int]]:
    sums: dict[Holder, tuple[int, int, int]] = {}
    for log, cost, charge, unpriced in moved:
        for holder in behind[log.pk]:
            known = sums.get(holder, (0, 0, 0))
            sums[holder] = known[0] + cost, known[1] + charge, known[2] + unpriced
    return sums


def _add_to_totals(cursor: Any, sums: Mapping[Holder, tuple[int, int, int]]) -> None:
    if not sums:
        return
    columns = (
        ("text", "holder_type"), ("text", "holder_id"),
        ("bigint", "cost"), ("bigint", "charge"), ("bigint", "unpriced_calls"),
    )  # fmt: skip
    source = given(columns, [(*map(str, holder), *added) for holder, added in sorted(sums.items())])
    added = ", ".join(f"{name} = total.{name} + given.{name}" for _, name in columns[2:])
    cursor.execute(
        f"UPDATE billing_spendtotal AS total SET {added} FROM {source.sql} "
        "WHERE total.holder_type = given.holder_type AND total.holder_id = given.holder_id",
        source.parameters,
    )


def add_to_periods(
    cursor: Any,
    moved: Sequence[Moved],
    behind: Mapping[uuid.UUID, Sequence[Holder]],
    at: datetime,
    moves: Moves,
) -> None:
    """Add to `moves` what the periods that contain a call's start and still run at `at` get."""
    starts = [microseconds(each.log.started_at) for each in moved]
    listed = {holder for each in moved for holder in behind[each.log.pk]}
    first_us = max(min(starts), microseconds(at))
    periods = running_periods(cursor, listed, first_us=first_us, last_us=max(starts))
    if len(moved) > 1:
        periods = _with_bounds(periods)
    for started_us, each in zip(starts, moved, strict=True):
        for holder in behind[each.log.pk]:
            for period in periods.get(holder, ()):
                if period.counts(started_us, each.log.model):
                    moves.add(period.id, cost=each.cost_nano, charge=each.charge_nano)


def _with_bounds(
    found: Mapping[Holder, Sequence[RunningPeriod]],
) -> dict[Holder, list[RunningPeriod]]:
    """Return the periods with all their bounds: what contains one call need not contain the next."""
    ids = [period.id for periods in found.values() for period in periods]
    bounds = {
        pk: (microseconds(counts_from), end_us(ends_at))
        for pk, counts_from, ends_at in BudgetPeriod.objects.filter(pk__in=ids).values_list(
            "pk", "counts_from", "ends_at"
        )
    }
    return {
        holder: [RunningPeriod(period.id, period.scope, *bounds[period.id]) for period in periods]
        for holder, periods in found.items()
    }


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
    if not 0 <= amount <= _MOST_INITIAL_USD:
        raise ValidationError(
            {"spend": f"An initial spend is an amount from 0 to {_MOST_INITIAL_USD:,} USD."}
        )
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
        _add_to_totals(cursor, {holder: (nano, nano, 0)})
        moves = Moves()
        at_us = microseconds(at)
        for period in running_periods(cursor, [holder], first_us=at_us, last_us=at_us).get(holder, ()):
            if period.counts(at_us, ""):
                moves.add(period.id, cost=nano, charge=nano)
        moves.write(cursor)
