"""
Settlement: what booked calls do to the budget periods of their holders.

In the ledger's transaction, behind the totals, whose locks keep the bounds of these
holders' periods as they are. The holds of a call go, and what it cost is added to
every period that contains its start, hold or no hold (H5). An unpriced call's holds
become `provisional` instead (H7). Period rows are written last, as sums (H10).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from billing.alerts.crossing import write_and_tell
from billing.booking.records import CallRecords
from billing.budgets.holds import leave_provisional, of_calls, take_holds
from billing.budgets.periods import Moves, RunningPeriod, running_periods
from billing.bulk import given, prepared
from billing.models import SpendLog

Holder = tuple[str, str]  # (type, id)

_KEEP_RECENT = 1000  # calls; with more, both counters of a typical output are halved


def settle(
    cursor: Any,
    calls: Sequence[CallRecords],
    holders_of: Sequence[Sequence[Holder]],
    added: Mapping[Holder, Sequence[int]],
) -> int:
    """Settle the calls and return how many of them held something.

    holders_of: everyone behind each call, in the order of `calls`. added: what the calls
    add to each holder's total, (cost, charge, …) in nano-dollars.
    """
    if not _are_there_periods(cursor):
        return 0
    moves = Moves()
    held = _return_holds(cursor, calls, moves)
    _add_spent(cursor, calls, holders_of, added, moves)
    write_and_tell(cursor, moves, calls)
    return held


def _are_there_periods(cursor: Any) -> bool:
    # Optimization: where nobody has a budget, this is all that settlement costs.
    return prepared(cursor, "SELECT 1 FROM billing_budgetperiod LIMIT 1").fetchone() is not None


def _return_holds(cursor: Any, calls: Iterable[CallRecords], moves: Moves) -> int:
    priced: list[bytes] = []
    unpriced: list[bytes] = []
    for call in calls:
        ids = unpriced if call.closed.cost_nano is None else priced
        ids.append(call.opened.call_id)
    gone = take_holds(cursor, *of_calls(priced)) if priced else []
    for hold in gone:
        moves.add(hold.period_id, held=-hold.amount_nano)
    left = leave_provisional(cursor, *of_calls(unpriced)) if unpriced else []
    for hold in left:
        moves.add(hold.period_id, held=-hold.amount_nano, provisional=hold.amount_nano)
    return len({hold.call for hold in [*gone, *left]})


def _add_spent(
    cursor: Any,
    calls: Sequence[CallRecords],
    holders_of: Sequence[Sequence[Holder]],
    added: Mapping[Holder, Sequence[int]],
    moves: Moves,
) -> None:
    starts = [call.opened.started_us for call in calls]
    spending = [holder for holder, sums in added.items() if sums[0] or sums[1]]
    periods = running_periods(cursor, spending, first_us=min(starts), last_us=max(starts))
    partial: dict[Holder, list[RunningPeriod]] = {}
    for holder, running in periods.items():
        cost, charge = added[holder][:2]
        for period in running:
            # Optimization: most count every call of a batch, whose sum is known already.
            if period.counts_all:
                moves.add(period.id, cost=cost, charge=charge)
            else:
                partial.setdefault(holder, []).append(period)
    if partial:
        _add_call_by_call(calls, holders_of, partial, moves)


def _add_call_by_call(
    calls: Sequence[CallRecords],
    holders_of: Sequence[Sequence[Holder]],
    periods: Mapping[Holder, Sequence[RunningPeriod]],
    moves: Moves,
) -> None:
    """Add what counts in periods that begin or end within the batch, or are of one model."""
    for call, behind in zip(calls, holders_of, strict=True):
        opened, closed = call.opened, call.closed
        for holder in behind:
            for period in periods.get(holder, ()):
                if period.counts(opened.started_us, opened.model):
                    moves.add(period.id, cost=closed.cost_nano or 0, charge=closed.charge_nano or 0)


def learn_typical_outputs(cursor: Any, calls: Iterable[CallRecords]) -> None:
    """Add the calls whose usage the provider reported to the figures of their models (H8)."""
    seen: dict[str, list[int]] = {}
    for call in calls:
        closed = call.closed
        if closed.usage_source == _BY_PROVIDER and closed.status == _SUCCESS and closed.upstream_model:
            figures = seen.setdefault(closed.upstream_model, [0, 0])
            figures[0] += 1
            figures[1] += closed.usage.completion_tokens
    if not seen:
        return
    source = given(
        (("text", "upstream_model"), ("bigint", "calls"), ("bigint", "output_tokens")),
        [(model, *figures) for model, figures in sorted(seen.items())],
    )
    halved = ", ".join(
        f"{name} = (known.{name} + EXCLUDED.{name}) "
        f"/ CASE WHEN known.calls + EXCLUDED.calls > {_KEEP_RECENT} THEN 2 ELSE 1 END"
        for name in ("calls", "output_tokens")
    )
    prepared(
        cursor,
        "INSERT INTO billing_typicaloutput AS known (upstream_model, calls, output_tokens) "
        f"SELECT upstream_model, calls, output_tokens FROM {source.sql} WHERE TRUE "
        f"ON CONFLICT (upstream_model) DO UPDATE SET {halved}",
        source.parameters,
    )


_SUCCESS = SpendLog.Status.SUCCESS.value
_BY_PROVIDER = SpendLog.UsageSource.PROVIDER.value
