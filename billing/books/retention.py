"""
Retention: removes the logs of months that are over, and keeps what they add up to.

A month is **sealed**: the sums of its calls are added to `SealedBalance`, by holder, and to
`SealedPeriod`, by budget period, in the transaction that removes the rows. So whatever
interrupts it, sealed balances and logs together are what they were, and the next run goes
on. Totals, rollups and periods stay as they are.

    PostgreSQL: sums of the partition → everybody out of the log, for a moment → detached → dropped
    elsewhere, and for rows in the default partition: chunk by chunk

Some rows stay: calls that may still be corrected (`_MAY_GO`). A row that is booked into
a sealed month later is sealed by the next run.
"""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from billing.booking.journal import ForeignJournal, Position, adopt, read
from billing.booking.ledger import LOG_COLUMNS
from billing.booking.partitions import TABLE, month_start, next_month, partition_months, partition_name
from billing.booking.records import Closed, Opened
from billing.books.log_sums import (
    TOTAL_SUMS,
    Slices,
    add_logs,
    boundary_of,
    by_holder,
    create_sums,
    in_periods,
    is_postgresql,
    latest,
    month_of,
    total_figures,
    uuid_of,
)
from billing.books.reconciliation import alone, compare
from billing.books.sealed import SEAL_LOCK, days_touched
from billing.budgets.leases import LEASE_EXPIRED
from billing.installation import installation_id
from billing.models import Hold, JournalCheckpoint, SealedMonth
from customers.ids import first_uuid7_at

Progress = Callable[[str, int, int], None]  # what, how much of it is done, and how much there is

# A call that was booked by its estimate may be corrected by its journal, one that holds
# something by its price.
_MAY_GO = (
    f"(log.error_type <> '{LEASE_EXPIRED}' "
    "AND NOT EXISTS (SELECT 1 FROM billing_hold AS hold WHERE hold.call_id = log.id))"
)
_SUMS, _IDS, _PERIODS, _NEW_PERIODS, _KEPT = (
    "seal_sums", "seal_ids", "seal_periods", "seal_new_periods", "seal_kept",
)  # fmt: skip
_DETACHED = "_sealed"  # what the name of a partition ends with that waits to be dropped
_PERIOD_COLUMNS = "id, holder_type, holder_id, scope, counts_from, ends_at"
_CHUNK_SECONDS = {"sqlite": 0.025, "postgresql": 0.25}  # what a chunk's transaction aims at (S)
_MOST_ROWS = 5_000  # of one chunk
_PAUSE_SECONDS = 0.005  # between two of them on SQLite, whose busy handler is unfair
_LOCK_TIMEOUT = "200ms"  # so long new readers and writers may queue behind us
_LOCK_ATTEMPTS = 60
_LOCK_PAUSE_SECONDS = 0.5


class NotSealable(Exception):
    """The month's logs must stay for now; the message says why."""


class Sealing(NamedTuple):
    """What was done to a month. locked_seconds: how long nobody could read or write the log."""

    month: date
    calls: int
    kept: int
    seconds: float
    locked_seconds: float


class Month(NamedTuple):
    """A month in UTC, as partitions are."""

    start: datetime

    @classmethod
    def of(cls, month: date) -> "Month":
        return cls(datetime(month.year, month.month, 1, tzinfo=UTC))

    @property
    def end(self) -> datetime:
        return next_month(self.start)

    @property
    def day(self) -> date:
        return self.start.date()

    @property
    def has_log(self) -> str:
        """Return the condition for a log to be of this month."""
        first, behind = first_uuid7_at(self.start), first_uuid7_at(self.end)
        return f"log.id >= {uuid_of(first.hex)} AND log.id < {uuid_of(behind.hex)}"


def due_months(*, keep: int, at: datetime) -> list[date]:
    """Return the months whose logs may go, the oldest first. keep: whole months before `at`'s own."""
    horizon = month_start(at)
    for _ in range(keep):
        horizon = month_start(datetime.fromtimestamp(horizon.timestamp() - 1, UTC))
    found = {month.date() for month in partition_months() if month < horizon}
    after = datetime(1970, 1, 1, tzinfo=UTC)
    with connection.cursor() as cursor:
        while after < horizon:
            cursor.execute(
                f"SELECT log.id FROM {TABLE} AS log WHERE log.id >= {uuid_of(first_uuid7_at(after).hex)} "
                f"AND log.id < {uuid_of(first_uuid7_at(horizon).hex)} AND {_MAY_GO} ORDER BY log.id LIMIT 1"
            )
            row = cursor.fetchone()
            if row is None:
                break
            log_id = row[0] if isinstance(row[0], uuid.UUID) else uuid.UUID(row[0])
            month = month_start(datetime.fromtimestamp((log_id.int >> 80) / 1000, UTC))
            found.add(month.date())
            after = next_month(month)
    return sorted(found)


def calls_of(month: date) -> int:
    """Return how many of a month's rows may go."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE} AS log WHERE {Month.of(month).has_log} AND {_MAY_GO}")
        return cursor.fetchone()[0]


def seal_month(month: date, *, at: datetime, progress: Progress) -> Sealing:
    """Seal a month and remove its logs, or what an interrupted run left of them. at: now.

    Raises: NotSealable, with nothing changed; AlreadyRepairing.
    """
    begun = time.monotonic()
    sealing = Month.of(month)
    with alone():
        check_sealable(month, at=at)
        try:
            _drop_temporary_tables()
            _drop_detached()
            locked_seconds = 0.0
            if sealing.start in partition_months():
                locked_seconds = _detach_partition(sealing, progress)
                _drop_detached()
            _remove_in_chunks(sealing, progress)
        finally:
            _drop_temporary_tables()
        SealedMonth.objects.filter(pk=sealing.day).update(sealed_at=timezone.now())
    sealed = SealedMonth.objects.get(pk=sealing.day)
    return Sealing(sealing.day, sealed.calls, _count_kept(sealing), time.monotonic() - begun, locked_seconds)


def check_sealable(month: date, *, at: datetime) -> None:
    """Raise NotSealable where the month's logs must stay for now."""
    sealing = Month.of(month)
    if sealing.end > at:
        raise NotSealable(f"{month:%Y-%m} is not over")
    under_way = Hold.objects.filter(lease_expires_at__isnull=False, started_at__lt=sealing.end).count()
    if under_way:
        raise NotSealable(f"{under_way} calls that started before the end of {month:%Y-%m} are under way")
    journal = _journal_with_calls_before(sealing.end)
    if journal is not None:
        raise NotSealable(f"journal {journal} has calls of {month:%Y-%m}, or before, that are not booked")
    found = compare(at=at, days=days_touched(sealing.day))
    if found.differences:
        raise NotSealable(
            f"{found.differences} rows about {month:%Y-%m} differ from the log: "
            f"run manage.py reconcile --repair --month {month:%Y-%m}"
        )


def _journal_with_calls_before(end: datetime) -> str | None:
    """Return the name of a journal on this machine that has calls to be booked that started before `end`."""
    folder = Path(settings.JOURNAL_DIR)
    end_ms = int(end.timestamp() * 1000)
    known = {checkpoint.pk.hex: checkpoint for checkpoint in JournalCheckpoint.objects.all()}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        checkpoint = known.get(path.name.replace("-", ""))
        if checkpoint is not None and checkpoint.finished:
            continue
        # That of a dead process may have calls that began long before its checkpoint, and never ended.
        orphan = adopt(path)
        start = Position(0, 0)
        if orphan is not None:
            orphan.release()
        elif checkpoint is not None:
            start = Position(checkpoint.segment, checkpoint.position)
        try:
            for record, _ in read(path, start, installation_id=installation_id()):
                if isinstance(record, Opened | Closed) and int.from_bytes(record.call_id[:6], "big") < end_ms:
                    return path.name
        except (ForeignJournal, OSError):
            continue  # of another installation; or gone meanwhile: it was booked
    return None


# -- sealing -----------------------------------------------------------------------------


def _seal(cursor: Any, sealing: Month) -> int:
    """Add the table of sums to the month's balances; return how many calls that is."""
    sums = ", ".join(TOTAL_SUMS)
    added = ", ".join(f"{name} = billing_sealedbalance.{name} + EXCLUDED.{name}" for name in TOTAL_SUMS)
    spent = by_holder(_SUMS, f"{month_of('day')} AS month, {total_figures()}, last_call_at")
    cursor.execute(
        f"INSERT INTO billing_sealedbalance (month, holder_type, holder_id, {sums}, last_call_at) "
        f"SELECT month, holder_type, holder_id, {_summed(TOTAL_SUMS)}, MAX(last_call_at) "
        f"FROM ({spent}) AS spent WHERE TRUE GROUP BY month, holder_type, holder_id "
        f"ON CONFLICT (month, holder_type, holder_id) DO UPDATE SET {added}, last_call_at = "
        f"{latest()}(billing_sealedbalance.last_call_at, EXCLUDED.last_call_at)"
    )
    _seal_periods(cursor, _PERIODS)
    cursor.execute(f"SELECT {', '.join(f'COALESCE(SUM({name}), 0)' for name in TOTAL_SUMS[:3])} FROM {_SUMS}")
    cost, charge, calls = cursor.fetchone()
    cursor.execute(
        "UPDATE billing_sealedmonth SET cost = cost + %s, charge = charge + %s, calls = calls + %s, "
        "sealed_at = NULL WHERE month = %s",
        [cost, charge, calls, sealing.day],
    )
    return calls


def _seal_periods(cursor: Any, periods: str) -> None:
    cursor.execute(
        "INSERT INTO billing_sealedperiod (period_id, cost, charge) "
        f"SELECT id, spent_cost, spent_charge FROM ({in_periods(_SUMS, periods)}) AS spent WHERE TRUE "
        "ON CONFLICT (period_id) DO UPDATE SET cost = billing_sealedperiod.cost + EXCLUDED.cost, "
        "charge = billing_sealedperiod.charge + EXCLUDED.charge"
    )


def _summed(names: tuple[str, ...]) -> str:
    return ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in names)


def _create_temporary_tables(cursor: Any) -> None:
    create_sums(cursor, _SUMS)
    cursor.execute(f"CREATE TEMPORARY TABLE {_IDS} AS SELECT id FROM {TABLE} LIMIT 0")
    for name in (_PERIODS, _NEW_PERIODS):
        cursor.execute(
            f"CREATE TEMPORARY TABLE {name} AS SELECT {_PERIOD_COLUMNS} FROM billing_budgetperiod LIMIT 0"
        )
        cursor.execute(f"CREATE INDEX {name}_holder ON {name} (holder_type, holder_id)")


def _drop_temporary_tables() -> None:
    schema = "pg_temp" if is_postgresql() else "temp"
    with connection.cursor() as cursor:
        for name in (_SUMS, _IDS, _PERIODS, _NEW_PERIODS, _KEPT):
            cursor.execute(f"DROP TABLE IF EXISTS {schema}.{name}")


def _note_periods(cursor: Any, sealing: Month, into: str, condition: str) -> int:
    """Note the budget periods that a call of this month may count in. Returns how many."""
    cursor.execute(
        f"INSERT INTO {into} SELECT {_PERIOD_COLUMNS} "
        f"FROM billing_budgetperiod WHERE counts_from < {boundary_of(sealing.end)} "
        f"AND (ends_at IS NULL OR ends_at > {boundary_of(sealing.start)}) AND {condition}"
    )
    return cursor.rowcount


def _begin(cursor: Any, sealing: Month) -> None:
    cursor.execute(
        "INSERT INTO billing_sealedmonth (month, calls, cost, charge) VALUES (%s, 0, 0, 0) "
        "ON CONFLICT (month) DO NOTHING",
        [sealing.day],
    )


# -- PostgreSQL: a partition as a whole ----------------------------------------------------


def _detach_partition(sealing: Month, progress: Progress) -> float:
    """Seal a partition and take it out, in one transaction; return how many seconds the log was locked."""
    partition = partition_name(sealing.start)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL work_mem = '64MB'")
        _begin(cursor, sealing)
        # A late call of this month waits from here on; it is then booked into the default partition.
        cursor.execute(f"LOCK TABLE {partition} IN SHARE MODE")
        _create_temporary_tables(cursor)
        _note_periods(cursor, sealing, _PERIODS, "TRUE")
        add_logs(cursor, _SUMS, _MAY_GO, Slices(cursor), source=partition)
        cursor.execute(f"ANALYZE {_SUMS}, {_PERIODS}")
        calls = _seal(cursor, sealing)
        progress(f"{sealing.day:%Y-%m}: sealed", calls, calls)
        columns = ", ".join(LOG_COLUMNS)
        cursor.execute(
            f"CREATE TEMPORARY TABLE {_KEPT} AS SELECT {columns} FROM {partition} AS log WHERE NOT {_MAY_GO}"
        )
        begun = _lock_out(cursor, partition, progress)
        # Nobody makes a period now. One that was made while we counted has these calls, too.
        # Optimization: adding up for none takes as long as for many, and the log is locked.
        if _note_periods(cursor, sealing, _NEW_PERIODS, f"id NOT IN (SELECT id FROM {_PERIODS})"):
            _seal_periods(cursor, _NEW_PERIODS)
        # Taken out now, dropped later: to remove its files may take a second.
        cursor.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {partition}")
        cursor.execute(f"ALTER TABLE {partition} RENAME TO {partition}{_DETACHED}")
        cursor.execute(f"INSERT INTO {TABLE} ({columns}) SELECT {columns} FROM {_KEPT}")
    locked_seconds = time.monotonic() - begun
    _drop_temporary_tables()
    return locked_seconds


def _drop_detached() -> None:
    """Drop the partitions that were taken out: also those of a run that was interrupted in between."""
    if not is_postgresql():
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE %s",
            [TABLE.replace("_", r"\_") + r"\_%" + _DETACHED.replace("_", r"\_")],
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {name}")


def _lock_out(cursor: Any, partition: str, progress: Progress) -> float:
    """Lock the log for what is done in a moment; return when. Raises: NotSealable where readers stay.

    Whoever reads the log meanwhile waits behind us while we wait: never for long.
    """
    for attempt in range(_LOCK_ATTEMPTS):
        try:
            with transaction.atomic():
                cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                cursor.execute(f"SELECT pg_advisory_xact_lock({SEAL_LOCK})")
                cursor.execute(f"LOCK TABLE ONLY {TABLE} IN ACCESS EXCLUSIVE MODE")
                begun = time.monotonic()
                cursor.execute(f"LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE")
            return begun
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in ("55P03", "40P01"):
                raise
        progress("waiting for whoever reads the log: attempt", attempt + 1, _LOCK_ATTEMPTS)
        time.sleep(_LOCK_PAUSE_SECONDS)
    raise NotSealable("the log is being read for long (a backup, a comparison); try again when that is over")


# -- chunk by chunk ------------------------------------------------------------------------


def _remove_in_chunks(sealing: Month, progress: Progress) -> None:
    """Seal and remove what is left of the month, in transactions short enough that nobody notices."""
    rows = calls_of(sealing.day)
    if not rows:
        with connection.cursor() as cursor:
            _begin(cursor, sealing)
        return
    with connection.cursor() as cursor:
        _create_temporary_tables(cursor)
    done, size, last_period = 0, 50, 0
    while True:
        begun = time.monotonic()
        removed, last_period = _remove_chunk(sealing, size, last_period)
        if not removed:
            return
        seconds = time.monotonic() - begun
        done += removed
        progress(f"{sealing.day:%Y-%m}: sealed and removed", done, max(done, rows))
        if seconds > _CHUNK_SECONDS[connection.vendor]:
            size = max(1, size // 2)
        elif seconds < _CHUNK_SECONDS[connection.vendor] / 3:
            size = min(2 * size, _MOST_ROWS)
        if connection.vendor == "sqlite":
            time.sleep(_PAUSE_SECONDS)


def _remove_chunk(sealing: Month, size: int, last_period: int) -> tuple[int, int]:
    """Seal and remove up to `size` rows; return how many, and the last period that is noted."""
    chunk = f"{sealing.has_log} AND log.id IN (SELECT id FROM {_IDS})"
    with transaction.atomic(), connection.cursor() as cursor:
        if is_postgresql():
            cursor.execute(f"SELECT pg_advisory_xact_lock({SEAL_LOCK})")
        for name in (_SUMS, _IDS):
            cursor.execute(f"DELETE FROM {name}")
        cursor.execute(
            f"INSERT INTO {_IDS} SELECT log.id FROM {TABLE} AS log WHERE {sealing.has_log} AND {_MAY_GO} "
            f"ORDER BY log.id LIMIT {size}"
        )
        removed = cursor.rowcount
        if not removed:
            return 0, last_period
        _begin(cursor, sealing)
        # One that is made between two chunks has the calls that are left, too.
        _note_periods(cursor, sealing, _PERIODS, f"id > {last_period}")
        cursor.execute("SELECT COALESCE(MAX(id), 0) FROM billing_budgetperiod")
        last_period = cursor.fetchone()[0]
        add_logs(cursor, _SUMS, chunk, None)
        _seal(cursor, sealing)
        cursor.execute(f"DELETE FROM {TABLE} AS log WHERE {chunk}")
        return removed, last_period


def _count_kept(sealing: Month) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {TABLE} AS log WHERE {sealing.has_log}")
        return cursor.fetchone()[0]
