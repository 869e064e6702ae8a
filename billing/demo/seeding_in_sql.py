# ruff: noqa: S608  the names in the statements are our own
"""
Demo data in bulk: what `seeding.py` draws, drawn, written and added up by PostgreSQL itself.

For an empty log without budget periods alone. A month is one transaction: its calls go into a
table of their own, which becomes the month's partition when it is full and has its indexes then;
rollups and totals of them are written beside it. So whoever is interrupted leaves whole months.

The log is locked from when a month is put in place until it is committed: seconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import accumulate, groupby
from typing import Any

from django.db import connection, transaction

from billing.booking.ledger import LOG_COLUMNS
from billing.booking.partitions import TABLE, ensure_partitions, month_start, partition_bounds, partition_name
from billing.booking.rollups import OVERVIEW, SPEND, ensure_tag_sets, on_conflict_add, open_days, summed
from billing.books.log_sums import (
    TOTAL_SUMS,
    Slices,
    add_logs,
    by_holder,
    create_sums,
    total_figures,
)
from billing.books.reconciliation import row_id_in_sql
from billing.models import BudgetPeriod, SpendLog, SpendTotal
from billing.models.daily_spend import SUMS

Progress = Callable[[str, int, int], None]

_CALLERS, _SHAPES, _CALLS, _SUMS, _BY_HOLDER, _NEW = (
    "seed_callers", "seed_shapes", "seed_calls", "seed_sums", "seed_by_holder", "billing_spendlog_seeded",
)  # fmt: skip
_HOUR_MS = 3_600_000
_NAMED_BY = "key_id, team_id, user_id, customer_id, tag_set_id, tags"


def can_seed() -> bool:
    """Tell whether everything derived from the log can be made of these calls alone."""
    is_empty = not SpendLog.objects.exists() and not BudgetPeriod.objects.exists()
    return connection.vendor == "postgresql" and is_empty


def seed_in_sql(
    *,
    callers: Sequence[tuple[tuple, str]],
    caller_columns: Sequence[str],
    shapes: Mapping[str, Sequence[tuple[int, tuple]]],
    shape_columns: Sequence[str],
    days: Iterable[tuple[int, int]],
    hours: Sequence[int],
    favourite: float,
    tag_sets: Iterable[tuple[str, ...]],
    rows: int,
    progress: Progress,
) -> None:
    """Write calls, rollups and totals.

    callers: (values of `caller_columns`, model that most calls are for), who calls most first.
    shapes: by model, (milliseconds it took, values of `shape_columns`). days: (its first
    millisecond, how many calls). hours: how often each hour of a day is drawn. favourite: which
    part of a caller's calls is for its model.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '256MB'")
        cursor.execute("SET maintenance_work_mem = '512MB'")
        try:
            with transaction.atomic():
                ensure_tag_sets(cursor, tag_sets)
            _note_shapes(cursor, shapes, shape_columns)
            _note_callers(cursor, callers, caller_columns, shapes)
            drawing = _Drawing(len(callers), hours, favourite, sum(map(len, shapes.values())))
            written = 0
            for month, of_month in groupby(days, key=lambda day: month_start(_instant(day[0]))):
                with transaction.atomic():
                    written = _write_month(
                        cursor, month, of_month, drawing, lambda done: progress("calls", done, rows), written
                    )
        finally:
            for name in (_CALLERS, _SHAPES, _CALLS, _SUMS, _BY_HOLDER):
                cursor.execute(f"DROP TABLE IF EXISTS pg_temp.{name}")
            cursor.execute("RESET work_mem")
            cursor.execute("RESET maintenance_work_mem")


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


# -- what is drawn from ----------------------------------------------------------------


def _note_shapes(
    cursor: Any, shapes: Mapping[str, Sequence[tuple[int, tuple]]], columns: Sequence[str]
) -> None:
    listed = ", ".join(columns)
    cursor.execute(
        f"CREATE TEMPORARY TABLE {_SHAPES} AS SELECT 0 AS number, 0 AS took_ms, {listed} FROM {TABLE} LIMIT 0"
    )
    everything = [shape for of_model in shapes.values() for shape in of_model]
    _copy(cursor, _SHAPES, ((number, took, *values) for number, (took, values) in enumerate(everything)))


def _note_callers(
    cursor: Any,
    callers: Sequence[tuple[tuple, str]],
    columns: Sequence[str],
    shapes: Mapping[str, Sequence[Any]],
) -> None:
    """Note each caller with where the shapes of its model begin, and how many there are."""
    first, starts = 0, {}
    for model, of_model in shapes.items():
        starts[model] = (first, len(of_model))
        first += len(of_model)
    cursor.execute(
        f"CREATE TEMPORARY TABLE {_CALLERS} AS SELECT 0 AS number, 0 AS first_shape, 0 AS shapes, "
        f"{', '.join(columns)} FROM {TABLE} LIMIT 0"
    )
    _copy(cursor, _CALLERS, ((n, *starts[model], *values) for n, (values, model) in enumerate(callers)))
    cursor.execute(f"ANALYZE {_CALLERS}")
    cursor.execute(f"ANALYZE {_SHAPES}")


def _copy(cursor: Any, table: str, rows: Iterable[tuple]) -> None:
    """Copy rows. Their texts have no tabs, line breaks or backslashes."""
    with connection.wrap_database_errors, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        for row in rows:
            copy.write("\t".join(["\\N" if value is None else str(value) for value in row]) + "\n")


class _Drawing:
    """The statement that draws a day's calls: (first millisecond, how many) are its parameters."""

    def __init__(self, callers: int, hours: Sequence[int], favourite: float, shapes: int) -> None:
        weights = [*accumulate(1 / rank for rank in range(1, callers + 1))]
        listed = [hour for hour, weight in enumerate(hours) for _ in range(weight)]
        hour = f"('{{{','.join(map(str, listed))}}}'::int[])[1 + floor(random() * {len(listed)})::int]"
        caller = f"random() * {weights[-1]!r}::float8, '{{{','.join(map(repr, weights))}}}'::float8[]"
        draw = (
            f"SELECT %s + {hour} * {_HOUR_MS}::bigint + floor(random() * {_HOUR_MS})::bigint AS ms, "
            f"width_bucket({caller}) AS caller, random() AS is_other, random() AS which "
            "FROM generate_series(1, %s)"
        )
        shape = (
            f"CASE WHEN is_other < {favourite} THEN first_shape + floor(which * shapes)::int "
            f"ELSE floor(which * {shapes})::int END"
        )
        figures = {
            # A UUIDv7: what PostgreSQL draws has the variant's bits, and another version.
            "id": "CAST(lpad(to_hex(ms), 12, '0') || '7' || substr(gen_random_uuid()::text, 16) AS uuid)",
            "started_at": "to_timestamp(0) + ms * interval '1 millisecond'",
            "ended_at": "to_timestamp(0) + (ms + took_ms) * interval '1 millisecond'",
        }
        columns = ", ".join(figures.get(name, name) for name in LOG_COLUMNS)
        self.statement = (
            f"INSERT INTO {_CALLS} ({', '.join(LOG_COLUMNS)}) "
            f"WITH drawn AS MATERIALIZED ({draw}) SELECT {columns} FROM drawn "
            f"JOIN {_CALLERS} AS callers ON callers.number = drawn.caller "
            f"JOIN {_SHAPES} AS shapes ON shapes.number = {shape} ORDER BY ms"
        )


# -- writing ---------------------------------------------------------------------------


def _write_month(
    cursor: Any,
    month: datetime,
    days: Iterable[tuple[int, int]],
    drawing: _Drawing,
    tell: Callable[[int], None],
    written: int,
) -> int:
    """Write a month; return how many calls are written in all."""
    cursor.execute("SET LOCAL jit = off")
    cursor.execute(f"DROP TABLE IF EXISTS pg_temp.{_CALLS}, pg_temp.{_SUMS}, pg_temp.{_BY_HOLDER}")
    cursor.execute(f"CREATE TEMPORARY TABLE {_CALLS} (LIKE {TABLE} INCLUDING DEFAULTS)")
    cursor.execute(f"CREATE TABLE {_NEW} (LIKE {TABLE} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    create_sums(cursor, _SUMS)
    cursor.execute(
        f"CREATE TEMPORARY TABLE {_BY_HOLDER} AS "
        f"SELECT {_NAMED_BY}, {total_figures()}, last_call_at FROM {_SUMS} LIMIT 0"
    )
    slices = Slices(cursor)
    for first_ms, count in days:
        cursor.execute(f"TRUNCATE {_CALLS}, {_SUMS}")
        cursor.execute(drawing.statement, [first_ms, count])
        cursor.execute(f"INSERT INTO {_NEW} SELECT * FROM {_CALLS}")
        add_logs(cursor, _SUMS, "1 = 1", slices, source=_CALLS)
        _add_to_rollups(cursor)
        _note_holders(cursor)
        written += count
        tell(written)
    _put_in_place(cursor, month)
    _add_to_totals(cursor)
    return written


def _add_to_rollups(cursor: Any) -> None:
    cursor.execute(f"SELECT DISTINCT day FROM {_SUMS}")
    days: set[date] = {row[0] for row in cursor.fetchall()}
    open_days(cursor, days)
    added = ", ".join(map(summed, SUMS))
    for rollup in (SPEND, OVERVIEW):
        names = ", ".join(rollup.dimensions)
        cursor.execute(
            f"INSERT INTO {rollup.table} (id, {names}, {', '.join(SUMS)}) "
            f"SELECT {row_id_in_sql(rollup)} AS id, {names}, {added} FROM {_SUMS} "
            f"GROUP BY {names} ORDER BY id {on_conflict_add(rollup)}"
        )


def _note_holders(cursor: Any) -> None:
    cursor.execute(
        f"INSERT INTO {_BY_HOLDER} SELECT {_NAMED_BY}, {_all_summed()}, MAX(last_call_at) "
        f"FROM (SELECT {_NAMED_BY}, {total_figures()}, last_call_at FROM {_SUMS}) AS sums "
        f"GROUP BY {_NAMED_BY}"
    )


def _add_to_totals(cursor: Any) -> None:
    holders, sums = "holder_type, holder_id", ", ".join(TOTAL_SUMS)
    table = SpendTotal._meta.db_table
    # Once more by the same: a customer that calls every day is one row then.
    month = (
        f"(SELECT {_NAMED_BY}, {_all_summed()}, MAX(last_call_at) AS last_call_at "
        f"FROM {_BY_HOLDER} GROUP BY {_NAMED_BY})"
    )
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in TOTAL_SUMS)
    cursor.execute(
        f"INSERT INTO {table} ({holders}, {sums}, last_call_at) "
        f"SELECT {holders}, {_all_summed()}, MAX(last_call_at) "
        f"FROM ({by_holder(month, f'{sums}, last_call_at')}) AS sums "
        f'GROUP BY {holders} ORDER BY holder_type COLLATE "C", holder_id COLLATE "C" '
        f"ON CONFLICT (holder_type, holder_id) DO UPDATE SET {added}, last_call_at = "
        f"GREATEST({table}.last_call_at, EXCLUDED.last_call_at)"
    )


def _all_summed() -> str:
    return ", ".join(f"{summed(name)} AS {name}" for name in TOTAL_SUMS)


def _put_in_place(cursor: Any, month: datetime) -> None:
    """Have the filled table be the month's partition, instead of the empty one."""
    name = partition_name(month)
    ensure_partitions(at=month)
    cursor.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
    cursor.execute(f"SELECT EXISTS (SELECT FROM {name})")
    if cursor.fetchone()[0]:  # somebody called meanwhile
        cursor.execute(f"INSERT INTO {name} SELECT * FROM {_NEW}")
        cursor.execute(f"DROP TABLE {_NEW}")
        return
    cursor.execute(f"DROP TABLE {name}")
    cursor.execute(f"ALTER TABLE {_NEW} RENAME TO {name}")
    start, end = partition_bounds(month)
    cursor.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')")
