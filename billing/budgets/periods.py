"""
Rows of budget periods: made on first use, found by key, moved by the ledger.

A row always equals what is booked (spend logs and adjustments) of calls that started
in [counts_from, ends_at). Making one therefore takes the lock of the holder's total,
which the recorder takes too, before it looks for periods: whoever comes second sees
what the other did. Lock order: docs/locking.md. Amounts are nano-dollars.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet, Sum

from billing.books.sealed import SEAL_LOCK, sealed_days, sealed_spend
from billing.bulk import (
    array,
    from_microseconds,
    given,
    instant,
    microseconds,
    prepared,
    timestamp,
)
from billing.models import Adjustment, HolderType, SealedPeriod, SpendLog
from billing.models.attributed import AttributedQuerySet
from customers.money import from_nano, to_nano

_FOREVER = float("inf")
_MILLISECOND_US = 1000
_TRIES = 5
_FILL_TIMEOUT = "60s"
_MUST_RETRY = {"40P01", "40001"}  # PostgreSQL: deadlock detected, serialization failure


class PeriodKey(NamedTuple):
    """Which period of whose budget. `ends_at` follows from the rest; None: it never ends."""

    holder_type: str
    holder_id: str
    scope: str  # a model name, or empty for all
    window: str
    starts_at: datetime
    ends_at: datetime | None

    @property
    def is_charged(self) -> bool:
        """Tell whether its limit is compared with the charge, not with the cost (M4)."""
        return self.holder_type == HolderType.CUSTOMER


class KnownPeriod(NamedTuple):
    """A row as it was seen. Only its end may change since: by "start afresh"."""

    id: int
    generation: int
    counts_from_us: int
    ends_us: float

    def contains(self, at_us: int) -> bool:
        return self.counts_from_us <= at_us < self.ends_us


class KnownPeriods:
    """What one thread remembers of the rows, so that it finds them by id. Never the amounts."""

    def __init__(self, *, most: int = 100_000) -> None:
        self._most = most
        self._rows: dict[PeriodKey, list[KnownPeriod]] = {}

    def find(self, key: PeriodKey, at_us: int) -> KnownPeriod | None:
        """Return the generation that counts a call which started at `at_us`."""
        for row in self._rows.get(key, ()):
            if row.contains(at_us):
                return row
        return None

    def learn(self, rows: Mapping[PeriodKey, list[KnownPeriod]]) -> None:
        self._rows.update(rows)

    def trim(self) -> None:
        """Keep within bounds. Between batches: within one, all of its rows are needed."""
        if len(self._rows) > self._most:
            self._rows.clear()

    def forget(self, keys: Iterable[PeriodKey]) -> None:
        for key in keys:
            self._rows.pop(key, None)


# -- finding and making --------------------------------------------------------------

_KEY_COLUMNS = (
    ("integer", "number"),
    ("text", "holder_type"),
    ("text", "holder_id"),
    ("text", "scope"),
    ("text", "period_window"),  # WINDOW is a word of SQL
    ("timestamptz", "starts_at"),
)


def load_periods(keys: Collection[PeriodKey]) -> dict[PeriodKey, list[KnownPeriod]]:
    """Return the rows that there are of each key, the latest generation first. One query."""
    listed = list(keys)
    source = given(
        _KEY_COLUMNS, [(number, *key[:4], instant(key.starts_at)) for number, key in enumerate(listed)]
    )
    found: dict[PeriodKey, list[KnownPeriod]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT given.number, period.id, period.generation, period.counts_from, period.ends_at "
            f"FROM {source.sql} JOIN billing_budgetperiod AS period "
            "ON period.holder_type = given.holder_type AND period.holder_id = given.holder_id "
            'AND period.scope = given.scope AND period."window" = given.period_window '
            "AND period.starts_at = given.starts_at ORDER BY period.generation DESC",
            source.parameters,
        )
        for number, period_id, generation, counts_from, ends_at in cursor.fetchall():
            row = KnownPeriod(period_id, generation, microseconds(counts_from), end_us(ends_at))
            found.setdefault(listed[number], []).append(row)
    return found


def ensure_periods(keys: Iterable[PeriodKey]) -> dict[PeriodKey, list[KnownPeriod]]:
    """Make the rows that are missing, filled with what was booked before (H5); return all rows.

    Attaching a budget calls this ahead: in the middle of a period it may read the
    holder's log of that period, and bookings for the holder wait meanwhile.
    """
    wanted = set(keys)
    found = load_periods(wanted)
    if wanted - found.keys():
        retried(lambda: _make(wanted - found.keys()))
        found = load_periods(wanted)
    return found


def _make(wanted: set[PeriodKey]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # The hold desk's connection is impatient; a sum over a month of log may take longer.
            # And no month may be sealed meanwhile.
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true), pg_advisory_xact_lock_shared(%s)",
                [_FILL_TIMEOUT, SEAL_LOCK],
            )
        totals = lock_totals(cursor, {key[:2] for key in wanted})
        # Behind the lock: another process may have made them while we waited for it.
        missing = sorted(wanted - load_periods(wanted).keys(), key=lambda key: key[:5])
        adjustments = _adjustments_of(missing)
        sealed = _sealed(missing)
        rows = []
        for key in missing:
            cost, charge = _booked(key, key.starts_at, totals[key[:2]], adjustments, sealed.get(key, (0, 0)))
            rows.append(_new_row(key, key.starts_at, 0, cost, charge))
        _insert(cursor, rows)
        if sealed:
            _note_sealed(sealed)


def start_afresh(keys: Iterable[PeriodKey], *, at: datetime) -> None:
    """Have the periods count from zero, from the instant `at` on.

    Each key's row ends at `at`, and the next generation begins. Calls that started before
    belong to the old row, also those under way: their holds stay with it and settle
    there, so the new one begins with nothing held, and admits up to the full limit. A
    period that has ended stays as it is.
    """
    wanted = ensure_periods(keys).keys()
    if wanted:
        retried(lambda: _cut(wanted, at))


def _cut(wanted: Collection[PeriodKey], at: datetime) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        totals = lock_totals(cursor, {key[:2] for key in wanted})
        adjustments = _adjustments_of(wanted)
        latest = {key: rows[0] for key, rows in load_periods(wanted).items()}
        lock_periods(cursor, [row.id for row in latest.values()])
        ended, begun = [], []
        for key, row in sorted(latest.items(), key=lambda item: item[1].id):
            # On a whole millisecond, the precision of the ids that logs are read by. Behind
            # the beginning, also where another process's clock was ahead.
            at_us = microseconds(at) // _MILLISECOND_US * _MILLISECOND_US
            cut_us = max(at_us, row.counts_from_us + _MILLISECOND_US)
            if cut_us >= row.ends_us:
                continue
            cut = from_microseconds(cut_us)
            # Usually nothing; but clocks differ, and a call may have been booked that started later.
            cost, charge = _booked(key, cut, totals[key[:2]], adjustments)
            late_cost, late_charge = _adjusted_after(key, row, cut, adjustments)
            ended.append((row.id, instant(cut), cost + late_cost, charge + late_charge))
            begun.append(_new_row(key, cut, row.generation + 1, cost, charge))
        if ended:
            source = given(
                (("bigint", "id"), ("timestamptz", "ends_at"), ("bigint", "cost"), ("bigint", "charge")),
                ended,
            )
            cursor.execute(
                "UPDATE billing_budgetperiod AS period SET ends_at = given.ends_at, "
                "spent_cost = period.spent_cost - given.cost, "
                "spent_charge = period.spent_charge - given.charge "
                f"FROM {source.sql} WHERE period.id = given.id",
                source.parameters,
            )
        _insert(cursor, begun)


def _new_row(key: PeriodKey, counts_from: datetime, generation: int, cost: int, charge: int) -> tuple:
    ends_at = None if key.ends_at is None else instant(key.ends_at)
    return (*key[:4], instant(key.starts_at), instant(counts_from), ends_at, generation, cost, charge)


_ROW_COLUMNS = (
    *_KEY_COLUMNS[1:],
    ("timestamptz", "counts_from"),
    ("timestamptz", "ends_at"),
    ("integer", "generation"),
    ("bigint", "spent_cost"),
    ("bigint", "spent_charge"),
)


def _insert(cursor: Any, rows: Sequence[tuple]) -> None:
    if not rows:
        return
    source = given(_ROW_COLUMNS, rows)
    cursor.execute(
        'INSERT INTO billing_budgetperiod (holder_type, holder_id, scope, "window", starts_at, counts_from, '
        "ends_at, generation, spent_cost, spent_charge, held, provisional) "
        "SELECT holder_type, holder_id, scope, period_window, starts_at, counts_from, "
        f"ends_at, generation, spent_cost, spent_charge, 0, 0 FROM {source.sql}",
        source.parameters,
    )


# -- what was booked before ------------------------------------------------------------


class Total(NamedTuple):
    """What a holder's locked `SpendTotal` says."""

    cost: int
    charge: int
    last_call_us: float  # of the latest start; before all time where there was no call


def lock_totals(cursor: Any, holders: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Total]:
    """Lock the totals of `holders` (type, id) and return them; those that are missing are made.

    In the order that the recorder upserts them in, which is not that of any collation:
    an upsert locks row by row in the order it is given.
    """
    source = given(
        (("text", "holder_type"), ("text", "holder_id")), [tuple(map(str, each)) for each in sorted(holders)]
    )
    cursor.execute(
        "INSERT INTO billing_spendtotal AS total (holder_type, holder_id, cost, charge, calls, failed_calls, "
        "unpriced_calls, prompt_tokens, completion_tokens) "
        f"SELECT holder_type, holder_id, 0, 0, 0, 0, 0, 0, 0 FROM {source.sql} WHERE TRUE "
        "ON CONFLICT (holder_type, holder_id) DO UPDATE SET calls = total.calls "
        "RETURNING holder_type, holder_id, cost, charge, last_call_at",
        source.parameters,
    )
    return {
        (holder_type, holder_id): Total(cost, charge, -_FOREVER if last is None else microseconds(last))
        for holder_type, holder_id, cost, charge, last in cursor.fetchall()
    }


def _sealed(keys: Collection[PeriodKey]) -> dict[PeriodKey, tuple[int, int]]:
    """Return (cost, charge) of removed calls, for periods that reach back that far: hardly ever one."""
    days = sealed_days() if keys else []
    found = {
        key: sealed_spend(*key[:2], scope=key.scope, since=key.starts_at, days=days)
        for key in keys
        if days and key.starts_at < days[-1].ends_at
    }
    return {key: sums for key, sums in found.items() if any(sums)}


def _note_sealed(sealed: Mapping[PeriodKey, tuple[int, int]]) -> None:
    """Note what new periods have of removed calls: when sums are compared, no log says it."""
    SealedPeriod.objects.bulk_create(
        SealedPeriod(period_id=rows[0].id, cost=from_nano(sealed[key][0]), charge=from_nano(sealed[key][1]))
        for key, rows in load_periods(sealed).items()
    )


def _adjustments_of(keys: Collection[PeriodKey]) -> AttributedQuerySet | None:
    """Return the adjustments that periods of these keys may count, or None: nearly always."""
    if not keys:
        return None
    since = Adjustment.objects.filter(started_at__gte=min(key.starts_at for key in keys))
    return since if since.exists() else None


def _booked(
    key: PeriodKey,
    counts_from: datetime,
    total: Total,
    adjustments: AttributedQuerySet | None,
    sealed: tuple[int, int] = (0, 0),
) -> tuple[int, int]:
    """Return (cost, charge) of what was booked of calls that started in [counts_from, the period's end).

    Under the lock of the holder's total, which is `total`. An adjustment that came when
    the period was over does not count in it. sealed: of calls whose logs were removed.
    """
    if microseconds(counts_from) <= 0 and key.ends_at is None and not key.scope:
        return total.cost, total.charge  # all there ever was
    cost, charge = sealed
    if total.last_call_us >= microseconds(counts_from):
        logs = SpendLog.objects.of_holder(*key[:2]).started_between(counts_from, key.ends_at)
        log_cost, log_charge = _sums(logs, key.scope)
        cost, charge = cost + log_cost, charge + log_charge
    if adjustments is not None:
        counted = adjustments.of_holder(*key[:2]).filter(started_at__gte=counts_from)
        if key.ends_at is not None:
            counted = counted.filter(started_at__lt=key.ends_at, booked_at__lt=key.ends_at)
        more_cost, more_charge = _sums(counted, key.scope)
        cost, charge = cost + more_cost, charge + more_charge
    return cost, charge


def _adjusted_after(
    key: PeriodKey, row: KnownPeriod, cut: datetime, adjustments: AttributedQuerySet | None
) -> tuple[int, int]:
    """Return what a row that ends at `cut` has of adjustments booked behind it: in that instant, say."""
    if adjustments is None:
        return 0, 0
    counted = adjustments.of_holder(*key[:2]).filter(
        started_at__gte=from_microseconds(row.counts_from_us), started_at__lt=cut, booked_at__gte=cut
    )
    return _sums(counted, key.scope)


def _sums(rows: QuerySet, scope: str) -> tuple[int, int]:
    if scope:
        rows = rows.filter(model=scope)
    sums = rows.aggregate(cost=Sum("cost"), charge=Sum("charge"))
    return to_nano(sums["cost"] or 0), to_nano(sums["charge"] or 0)


# -- moving --------------------------------------------------------------------------


class RunningPeriod(NamedTuple):
    """A row that counts calls of its holder, as far as the instants go that were asked about."""

    id: int
    scope: str
    counts_from_us: float  # infinite, like the end, where all those instants are inside
    ends_us: float

    @property
    def counts_all(self) -> bool:
        return not self.scope and self.counts_from_us == -_FOREVER and self.ends_us == _FOREVER

    def counts(self, started_us: int, model: str) -> bool:
        return self.counts_from_us <= started_us < self.ends_us and (not self.scope or self.scope == model)


def running_periods(
    cursor: Any, holders: Iterable[tuple[str, str]], *, first_us: int, last_us: int
) -> dict[tuple[str, str], list[RunningPeriod]]:
    """Return the periods of `holders` that begin by `last_us` and end after `first_us`, by holder.

    Under the locks of the holders' totals, which is what keeps their bounds as they are.
    """
    listed = list(holders)
    source = given(
        (("integer", "number"), ("text", "holder_type"), ("text", "holder_id")),
        [(number, *holder) for number, holder in enumerate(listed)],
    )
    first, last = timestamp(first_us), timestamp(last_us)
    # Two branches, or the index on the end would not be used: a holder may have years of history.
    # Optimization: a bound that cuts nothing off is not returned; reading it takes a microsecond.
    branches = " UNION ALL ".join(
        "SELECT holders.number, period.id, period.scope, "
        "CASE WHEN period.counts_from > %s THEN period.counts_from END, "
        "CASE WHEN period.ends_at <= %s THEN period.ends_at END "
        "FROM holders JOIN billing_budgetperiod AS period "
        "ON period.holder_type = holders.holder_type AND period.holder_id = holders.holder_id "
        f"WHERE period.counts_from <= %s AND {has_not_ended}"
        for has_not_ended in ("period.ends_at IS NULL", "period.ends_at > %s")
    )
    rows = prepared(
        cursor,
        f"WITH holders AS (SELECT number, holder_type, holder_id FROM {source.sql}) {branches}",
        [*source.parameters, first, last, last, first, last, last, first],
    ).fetchall()
    found: dict[tuple[str, str], list[RunningPeriod]] = {}
    for number, period_id, scope, counts_from, ends_at in rows:
        from_us = -_FOREVER if counts_from is None else microseconds(counts_from)
        found.setdefault(listed[number], []).append(RunningPeriod(period_id, scope, from_us, end_us(ends_at)))
    return found


class Watch(NamedTuple):
    """Which of the rows that move are worth a look: near their limit, or over an amount."""

    share: float  # of the limit; infinite: of no row
    amount_nano: int

    def sees(self, moved: "Moved") -> bool:
        is_near = moved.limit_nano is not None and moved.spent_nano >= moved.limit_nano * self.share
        return is_near or moved.spent_nano >= self.amount_nano


class Moved(NamedTuple):
    """A period row after it moved. `limit_nano`: of the last call admitted; None: there was none."""

    id: int
    spent_nano: int
    limit_nano: int | None


class Moves:
    """What one transaction adds to periods, summed, to be written at its end (H10)."""

    def __init__(self) -> None:
        self._sums: dict[int, list[int]] = {}

    def add(
        self, period_id: int, *, cost: int = 0, charge: int = 0, held: int = 0, provisional: int = 0
    ) -> None:
        sums = self._sums.setdefault(period_id, [0, 0, 0, 0])
        sums[0] += cost
        sums[1] += charge
        sums[2] += held
        sums[3] += provisional

    @property
    def spent(self) -> dict[int, tuple[int, int]]:
        """Return what is added to each row's (spent cost, spent charge)."""
        return {period_id: (sums[0], sums[1]) for period_id, sums in self._sums.items()}

    def write(self, cursor: Any, *, watch: Watch | None = None) -> list[Moved]:
        """Add the sums to their rows. The last locks of a transaction: nothing may follow but its end.

        Returns: what `watch` asks for of the rows that moved.
        """
        rows = [(period_id, *sums) for period_id, sums in sorted(self._sums.items()) if any(sums)]
        if not rows:
            return []
        names = ("spent_cost", "spent_charge", "held", "provisional")
        source = given((("bigint", "id"), *(("bigint", name) for name in names)), rows)
        added = ", ".join(f"{name} = period.{name} + given.{name}" for name in names)
        update = f"UPDATE billing_budgetperiod AS period SET {added} FROM {source.sql}"
        if connection.vendor == "postgresql":
            # Optimization: one way to the database, while admissions wait for these rows. They are
            # locked in the order of their ids, as everybody does.
            ids = array([row[0] for row in rows])
            locked = f"WITH locked AS MATERIALIZED ({_LOCK})"
            update = f"{update}, locked WHERE locked.id = given.id AND period.id = locked.id"
            if watch is None:
                prepared(cursor, f"{locked} {update}", [ids, *source.parameters])
                return []
            # Optimization: nearly no row is near its limit; reading one takes as long as writing it.
            found = prepared(
                cursor,
                f"{locked}, moved AS ({update} "
                f"RETURNING period.id, {_spent('period.')} AS spent, period.last_limit) "
                "SELECT * FROM moved WHERE spent >= last_limit * %s::float8 OR spent >= %s",
                [ids, *source.parameters, watch.share, watch.amount_nano],
            ).fetchall()
            return [Moved(*row) for row in found]
        update = f"{update} WHERE period.id = given.id"
        if watch is None:
            cursor.execute(update, source.parameters)
            return []
        cursor.execute(f"{update} RETURNING id, {_spent('')}, last_limit", source.parameters)
        return [moved for moved in (Moved(*row) for row in cursor.fetchall()) if watch.sees(moved)]


_LOCK = "SELECT id FROM billing_budgetperiod WHERE id = ANY(%s::bigint[]) ORDER BY id FOR UPDATE"


def _spent(row: str) -> str:
    """Return what a limit is compared with: a customer's charge, everybody else's cost (M4)."""
    return f"CASE WHEN {row}holder_type = 'customer' THEN {row}spent_charge ELSE {row}spent_cost END"


def lock_periods(cursor: Any, ids: Iterable[int]) -> None:
    """Lock the rows in the order of their ids, as everybody does."""
    if connection.vendor == "postgresql":
        prepared(cursor, _LOCK, [array(list(ids))])


# -- helpers -------------------------------------------------------------------------

_Result = TypeVar("_Result")


def retried(work: Callable[[], _Result]) -> _Result:
    """Return what `work`, a transaction, returns. Of two that deadlock, one tries again (H10)."""
    for _ in range(_TRIES - 1):
        try:
            return work()
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in _MUST_RETRY or connection.in_atomic_block:
                raise
    return work()


def end_us(ends_at: datetime | str | None) -> float:
    """Return a period's end as Unix microseconds: infinity where it never ends."""
    return _FOREVER if ends_at is None else microseconds(ends_at)
