"""
Reconciliation: proves that everything derived from the log says what the log says.

    sealed balances + spend logs + adjustments = spend totals = budget periods = daily spend = overview

All of it is compared in one snapshot of the database. What differs is left in temporary
tables, as what is missing: what should be there minus what is. A repair adds just that, in
small transactions. It may do so while calls are booked: those add the same to the log and to
what is derived, so what was missing in the snapshot stays missing until it is added.

The log is read once, month by month (`log_sums.py`). Of **sealed days**, whose logs are
gone (`retention.py`), `DailySpend` is the record: its holders' balances prove it, it proves
the overview, and a repair leaves both alone.

Amounts are nano-dollars. Log rows and adjustments are never changed.
"""

import contextlib
import fcntl
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from django.db import connection, transaction

from billing.booking.partitions import month_start, next_month
from billing.booking.rollups import OVERVIEW, SPEND, Rollup, on_conflict_add, open_days
from billing.booking.summaries import SUMMARIES, Summary
from billing.books.log_sums import (
    IS_OF_A_CALL,
    TOTAL_SUMS,
    Slices,
    add_adjustments,
    add_logs,
    boundary_of,
    by_holder,
    create_sums,
    digest,
    each,
    in_periods,
    instant_of,
    is_postgresql,
    latest,
    month_of,
    newline,
    tag_set_id,
    total_figures,
    uuid_of,
    written_key,
)
from billing.books.sealed import Days, days_of_month, kept_since, sealed_days
from billing.budgets.periods import lock_periods, retried
from billing.models import BudgetPeriod, ClosedMonth, HolderType, ReconcileRun, SpendTotal
from billing.models.daily_spend import NO_TAGS, SUMS
from billing.models.spend_total import MASTER_KEY_ID
from customers.ids import first_uuid7_at
from customers.money import from_nano, plain_usd

EXAMPLES = 20  # differences that are told one by one
MONEY = ("cost", "charge", "spent_cost", "spent_charge", "held", "provisional")
Progress = Callable[[str, int, int], None]  # what, how much of it is done, and how much there is

_WRITE_SECONDS = {"sqlite": 0.025, "postgresql": 0.25}  # what a repair's transactions aim at (S)
_MOST_ROWS = {"sqlite": 2_000, "postgresql": 20_000}  # of one transaction
_PAUSE_SECONDS = 0.005  # between two of them on SQLite, whose busy handler is unfair
_REPAIR_LOCK = 0x5350454E44  # PostgreSQL's advisory lock: any number that nobody else uses
_PERIOD_SUMS = ("spent_cost", "spent_charge", "held", "provisional")
_ROLLUPS = (("daily spend", SPEND), ("daily overview", OVERVIEW))
_BOOKED, _SETS, _LEFT = "reconcile_booked", "reconcile_sets", "reconcile_left"
_LATEST_ID = uuid.UUID(int=(1 << 128) - 1)


class AlreadyRepairing(Exception):
    """Another process repairs or seals: what is missing must not be added twice."""


class Difference(NamedTuple):
    """One figure that is not what the log says. off_by: what it is minus what it should be."""

    table: str
    row: str
    column: str
    off_by: str


class Comparison(NamedTuple):
    """What was compared. `differing` counts the rows that differ in each table."""

    started_at: datetime
    seconds: float
    rows_compared: int
    differing: dict[str, int]
    examples: list[Difference]
    kept_since: date | None  # logs before were removed: sealed balances stand for them
    lasting: int  # of the differing rows, those that no repair can make good

    @property
    def differences(self) -> int:
        return sum(self.differing.values())


class Scope(NamedTuple):
    """What is compared: everything, or the days of a month and the periods that lie in it."""

    days: Days | None
    sealed: list[Days]  # of these, or of a part of them, logs were removed

    @property
    def is_in(self) -> str:
        return "1 = 1" if self.days is None else _among_days([self.days])

    @property
    def is_sealed(self) -> str:
        return _among_days(self.sealed)

    @property
    def is_open(self) -> str:
        return f"({self.is_in} AND NOT {self.is_sealed})"

    @property
    def is_month_in(self) -> str:
        """Return the condition for a month to be compared as a whole."""
        if self.days is None:
            return "1 = 1"
        months = {days_of_month(day) for day in self.days}
        whole = [each for each in months if self.days.first <= each.first and each.last <= self.days.last]
        return _among_days(whole, "month")


class Missing(NamedTuple):
    """A temporary table of what one derived table lacks: a numbered row for each that differs."""

    name: str  # of what is derived, as it is told
    table: str
    temporary: str
    row: str  # an expression that names the row
    columns: tuple[str, ...]  # that are compared, and told
    select: str  # `row`'s columns, and what each of `columns` lacks
    order: str  # in which everybody locks rows of this table
    add: str  # a statement that adds rows of `{chunk}` to the table; empty: nothing can

    @property
    def has_days(self) -> bool:
        return self.table in (SPEND.table, OVERVIEW.table)


def compare(*, at: datetime, days: Days | None = None, progress: Progress | None = None) -> Comparison:
    """Compare in one snapshot. at: now. days: only these, and the periods that lie in them; no totals.

    progress: told of what is read, how much of it is done, and how much there is.
    """
    try:
        return _compare(at, Scope(days, []), progress)
    finally:
        _drop_temporary_tables()


def repair(*, at: datetime, progress: Progress, days: Days | None = None) -> Comparison:
    """Compare, then add what is missing; return what was compared before.

    Nothing of sealed days is repaired: their logs are gone; nor of closed months. Raises: AlreadyRepairing.
    """
    with alone():
        try:
            scope = Scope(days, [])
            found = _compare(at, scope, progress)
            for missing in _missing_tables(scope):
                if found.differing[missing.name] and missing.add:
                    if missing.has_days:
                        _leave_closed_months(missing)
                    _add(missing, found.differing[missing.name], progress)
            return found
        finally:
            _drop_temporary_tables()


def record(found: Comparison, *, repaired: bool) -> ReconcileRun:
    """Keep the result, for the pages that say when the sums were last verified."""
    return ReconcileRun.objects.create(
        started_at=found.started_at,
        seconds=found.seconds,
        rows_compared=found.rows_compared,
        differences=found.differences,
        repaired=repaired,
        kept_since=found.kept_since,
        examples=[example._asdict() for example in found.examples],
    )


def _among_days(ranges: Sequence[Days], column: str = "day") -> str:
    each_range = [f"{column} BETWEEN '{days.first}' AND '{days.last}'" for days in ranges]
    return f"({' OR '.join(each_range) or '1 = 0'})"


# -- comparing -----------------------------------------------------------------------


def _compare(at: datetime, scope: Scope, progress: Progress | None) -> Comparison:
    begun = time.monotonic()
    _drop_temporary_tables()
    with _snapshot(), connection.cursor() as cursor:
        scope.sealed[:] = sealed_days()
        compared = _add_up(cursor, scope, progress)
        differing: dict[str, int] = {}
        examples: list[Difference] = []
        lasting = 0
        counted = set()
        for missing in _missing_tables(scope):
            cursor.execute(
                f"CREATE TEMPORARY TABLE {missing.temporary} AS SELECT missing.*, "
                f"ROW_NUMBER() OVER (ORDER BY {missing.order}) AS number FROM ({missing.select}) AS missing"
            )
            if missing.table not in counted:
                counted.add(missing.table)
                compared += _count(cursor, missing.table, scope.is_in if missing.has_days else "")
            differing[missing.name] = _count(cursor, missing.temporary)
            lasting += 0 if missing.add else differing[missing.name]
            examples += _examples(cursor, missing, EXAMPLES - len(examples))
        return Comparison(at, time.monotonic() - begun, compared, differing, examples, kept_since(), lasting)


def _add_up(cursor: Any, scope: Scope, progress: Progress | None) -> int:
    """Add up logs and adjustments by everything that is compared; return how many rows there are.

    One pass over the log, a month at a time: what is kept in memory has the size of a month's sums.
    """
    create_sums(cursor, _BOOKED)
    slices = Slices(cursor)
    months = list(_months(cursor, scope))
    compared = 0
    for number, condition in enumerate(months, 1):
        add_logs(cursor, _BOOKED, condition, slices)
        compared += _count(cursor, "billing_spendlog AS log", condition)
        if progress is not None:
            progress("log: month", number, len(months))
    bounds = ""
    if scope.days is not None:
        starts, ends = instant_of(scope.days.starts_at), instant_of(scope.days.ends_at)
        bounds = f"adjustment.booked_at >= {starts} AND adjustment.booked_at < {ends}"
    add_adjustments(cursor, _BOOKED, bounds or "1 = 1")
    compared += _count(cursor, "billing_adjustment AS adjustment", bounds)
    _add_up_sets(cursor)
    if scope.sealed:
        _add_up_sealed(cursor, scope)
    if is_postgresql():
        cursor.execute(f"ANALYZE {_BOOKED}")  # or it would be taken for small
    return compared


def _months(cursor: Any, scope: Scope) -> Iterator[str]:
    """Return a condition for the logs of each month that has any."""
    after, end = uuid.UUID(int=0), _LATEST_ID
    if scope.days is not None:
        after, end = first_uuid7_at(scope.days.starts_at), first_uuid7_at(scope.days.ends_at)
    while True:
        cursor.execute(
            f"SELECT id FROM billing_spendlog WHERE id >= {uuid_of(after.hex)} AND id < {uuid_of(end.hex)} "
            "ORDER BY id LIMIT 1"
        )
        found = cursor.fetchone()
        if found is None:
            return
        first = found[0] if isinstance(found[0], uuid.UUID) else uuid.UUID(found[0])
        behind = min(end, _month_after(first))
        yield f"log.id >= {uuid_of(after.hex)} AND log.id < {uuid_of(behind.hex)}"
        after = behind


def _month_after(log_id: uuid.UUID) -> uuid.UUID:
    try:
        return first_uuid7_at(next_month(month_start(datetime.fromtimestamp((log_id.int >> 80) / 1000, UTC))))
    except (ValueError, OverflowError, OSError):
        return _LATEST_ID  # an id of no year that we know


def _add_up_sets(cursor: Any) -> None:
    """Note the tags of each set, where it is known: those of calls, else those that its id is a hash of."""
    text = "CAST(tags AS text)"
    cursor.execute(
        f"CREATE TEMPORARY TABLE {_SETS} AS SELECT tag_set_id, MIN(tags) AS tags FROM ("
        f"SELECT tag_set_id, {text} AS tags FROM {_BOOKED} WHERE tag_set_id <> {uuid_of(NO_TAGS.hex)} "
        f"UNION ALL SELECT id, {text} FROM billing_tagset WHERE id = {tag_set_id('tags')}"
        ") AS known GROUP BY tag_set_id"
    )


def _add_up_sealed(cursor: Any, scope: Scope) -> None:
    """Add up what is left of sealed days' spend without the calls and adjustments that are still there."""
    keys = "key_id, team_id, user_id, customer_id, tag_set_id"
    sums = [name for name in SUMS if not name.startswith("latency")]
    where = f"WHERE {scope.is_sealed} AND {scope.is_in}"
    cursor.execute(
        f"CREATE TEMPORARY TABLE {_LEFT} AS SELECT lines.*, COALESCE(known.tags, '[]') AS tags FROM ("
        f"SELECT month, {keys}, {', '.join(f'CAST(SUM({name}) AS bigint) AS {name}' for name in sums)} FROM ("
        f"SELECT {month_of('day')} AS month, {keys}, {', '.join(sums)} FROM {SPEND.table} {where} "
        f"UNION ALL SELECT {month_of('day')}, {keys}, {_negative(sums)} FROM {_BOOKED} {where}"
        f") AS both_sides WHERE {scope.is_month_in} GROUP BY month, {keys}) AS lines "
        f"LEFT JOIN {_SETS} AS known ON known.tag_set_id = lines.tag_set_id"
    )


@contextlib.contextmanager
def _snapshot() -> Iterator[None]:
    """See the database as it is at one instant, and hold up nobody but who drops a partition."""
    if connection.in_atomic_block:
        yield  # the caller's transaction decides what is seen
    elif connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            # Before the snapshot: a partition that is dropped is gone from old snapshots too.
            cursor.execute("LOCK TABLE billing_spendlog IN ACCESS SHARE MODE")
            cursor.execute("SET LOCAL work_mem = '64MB'")
            yield
    else:
        # `atomic` would begin with the writer's lock. Temporary tables are in a file of their own.
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise


def _drop_temporary_tables() -> None:
    schema = "pg_temp" if is_postgresql() else "temp"
    everything = _missing_tables(Scope(None, [days_of_month(date(2000, 1, 1))]))
    with connection.cursor() as cursor:
        for name in (_BOOKED, _SETS, _LEFT, *(missing.temporary for missing in everything)):
            cursor.execute(f"DROP TABLE IF EXISTS {schema}.{name}")


def _count(cursor: Any, table: str, condition: str = "") -> int:
    cursor.execute(f"SELECT COUNT(*) FROM {table}{f' WHERE {condition}' if condition else ''}")
    return cursor.fetchone()[0]


def _examples(cursor: Any, missing: Missing, limit: int) -> list[Difference]:
    if limit <= 0:
        return []
    cursor.execute(
        f"SELECT {missing.row}, {', '.join(missing.columns)} FROM {missing.temporary} AS missing "
        f"WHERE number <= {limit} ORDER BY number"
    )
    found = [
        Difference(missing.name, row, column, _told(column, -lacking))
        for row, *values in cursor.fetchall()
        for column, lacking in zip(missing.columns, values, strict=True)
        if lacking
    ]
    return found[:limit]


def _told(column: str, off_by: int) -> str:
    if column == "last_call_at":
        return "another instant"
    return plain_usd(from_nano(off_by)) if column in MONEY else str(off_by)


# -- what is derived -------------------------------------------------------------------


def _missing_tables(scope: Scope) -> list[Missing]:
    """Return what is compared. Tag sets come first: rollups are read through them."""
    found = [
        _missing_tag_sets(scope),
        _missing_tag_set_members(),
        _surplus_tag_set_members(),
        *(_missing_in_rollup(name, rollup, scope) for name, rollup in _ROLLUPS),
    ]
    if scope.sealed:
        found += [_missing_in_sealed_spend(scope), _missing_in_sealed_overview(scope)]
    found += [_missing_in_summary(summary, scope) for summary in SUMMARIES]
    if scope.days is None:
        found += [_missing_in_totals(), _missing_last_calls()]
    return [*found, _missing_in_periods(scope)]


def _lacking(keys: str, should_be: str, actual: str, sums: Sequence[str], more: str = "") -> str:
    """Return a query for `keys` and, of each of the sums, what should be minus what is, where they differ.

    should_be, actual: queries for `keys`, the sums (in `actual` negative), and what `more` sums up.
    """
    listed = ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in sums)
    differ = " OR ".join(f"SUM({name}) <> 0" for name in sums)
    both = f"({should_be} UNION ALL {actual}) AS both_sides"
    listed += f", {more}" if more else ""
    return f"SELECT {keys}, {listed} FROM {both} GROUP BY {keys} HAVING {differ}"


def _negative(names: Iterable[str]) -> str:
    return ", ".join(f"-{name}" for name in names)


# -- rollups -----------------------------------------------------------------------------


def _missing_in_rollup(name: str, rollup: Rollup, scope: Scope) -> Missing:
    keys, sums = ", ".join(rollup.dimensions), ", ".join(SUMS)
    lacking = _lacking(
        keys,
        f"SELECT {keys}, {sums} FROM {_BOOKED} WHERE {scope.is_open}",
        f"SELECT {keys}, {_negative(SUMS)} FROM {rollup.table} WHERE {scope.is_open}",
        SUMS,
    )
    return Missing(
        name,
        rollup.table,
        f"reconcile_{rollup.table}",
        _named(rollup.dimensions),
        SUMS,
        f"SELECT {row_id_in_sql(rollup)} AS id, lacking.* FROM ({lacking}) AS lacking",
        "id",
        f"INSERT INTO {rollup.table} (id, {keys}, {sums}) SELECT id, {keys}, {sums} "
        f"FROM {{chunk}} AS chunk WHERE TRUE {on_conflict_add(rollup)}",
    )


def _named(dimensions: Sequence[str]) -> str:
    """Return what names a row of a rollup: its day, and who and what it is about."""
    told = ("model", "customer_id", "team_id", "user_id")
    named = (f"'{column}=' || {column}" for column in told if column in dimensions)
    return " || ' ' || ".join(["CAST(day AS text)", *named])


def row_id_in_sql(rollup: Rollup) -> str:
    """Return `rollups.row_id` of a row with the rollup's dimensions."""
    if is_postgresql():
        texts = [f"replace(CAST({name} AS text), '-', '')" if name.endswith(("key_id", "set_id")) else
                 f"CAST({name} AS text)" for name in rollup.dimensions[1:]]  # fmt: skip
        return f"CAST(to_char(day, 'YYYYMMDD') || {digest(' || chr(31) || '.join(texts), 24)} AS uuid)"
    return f"replace(day, '-', '') || {digest(' || char(31) || '.join(rollup.dimensions[1:]), 24)}"


def _missing_in_sealed_spend(scope: Scope) -> Missing:
    """What daily spend of sealed days says by holder and month, beside the sealed balances."""
    keys, sums = "month, holder_type, holder_id", ", ".join(TOTAL_SUMS)
    left = by_holder(_LEFT, f"month, {total_figures()}")
    return Missing(
        "daily spend, sealed days",
        SPEND.table,
        "reconcile_sealed_spend",
        "CAST(month AS text) || ' ' || holder_type || ' ' || holder_id",
        TOTAL_SUMS,
        _lacking(
            keys,
            f"SELECT {keys}, {sums} FROM billing_sealedbalance WHERE {scope.is_month_in}",
            f"SELECT {keys}, {_negative(TOTAL_SUMS)} FROM ({left}) AS spent",
            TOTAL_SUMS,
        ),
        keys,
        "",
    )


def _missing_in_sealed_overview(scope: Scope) -> Missing:
    keys, sums = ", ".join(OVERVIEW.dimensions), ", ".join(SUMS)
    where = f"WHERE {scope.is_sealed} AND {scope.is_in}"
    return Missing(
        "daily overview, sealed days",
        OVERVIEW.table,
        "reconcile_sealed_overview",
        _named(OVERVIEW.dimensions),
        SUMS,
        _lacking(
            keys,
            f"SELECT {keys}, {sums} FROM {SPEND.table} {where}",
            f"SELECT {keys}, {_negative(SUMS)} FROM {OVERVIEW.table} {where}",
            SUMS,
        ),
        keys,
        "",
    )


def _missing_in_summary(summary: Summary, scope: Scope) -> Missing:
    """What a summary lacks of its rollup. A span that differs is opened: reports then read its days."""
    names, sums = ", ".join(summary.dimensions), ", ".join(SUMS)
    added = ", ".join(f"SUM({name}) AS {name}" for name in SUMS)
    spans = f"SELECT span.id FROM billing_closedspan AS span WHERE {_spans_in(scope)}"
    by_day = (
        f"SELECT day, {names}, {added} FROM {summary.rollup.table} WHERE {scope.is_in} GROUP BY day, {names}"
    )
    should_be = (
        f"SELECT span.id AS span, {', '.join(f'rollup.{name}' for name in summary.dimensions)}, {sums} "
        f"FROM ({by_day}) AS rollup JOIN billing_closedspan AS span "
        f"ON rollup.day >= span.day AND rollup.day <= span.last_day WHERE {_spans_in(scope)}"
    )
    actual = f"SELECT span, {names}, {_negative(SUMS)} FROM {summary.table} WHERE span IN ({spans})"
    return Missing(
        f"summaries by {', '.join(_short(name) for name in summary.dimensions)}",
        summary.table,
        f"reconcile_{summary.table}",
        f"(SELECT CAST(day AS text) || ' to ' || CAST(last_day AS text) FROM billing_closedspan AS closed "
        f"WHERE closed.id = missing.span) || ' ' || {_any_text(summary.dimensions)}",
        SUMS,
        _lacking(f"span, {names}", should_be, actual, SUMS),
        f"span, {names}",
        "DELETE FROM billing_closedspan WHERE id IN (SELECT span FROM {chunk} AS chunk)",
    )


def _spans_in(scope: Scope) -> str:
    if scope.days is None:
        return "1 = 1"
    return f"span.day >= '{scope.days.first}' AND span.last_day <= '{scope.days.last}'"


def _short(column: str) -> str:
    return column.removesuffix("_id").replace("_", " ")


def _any_text(columns: Sequence[str]) -> str:
    return " || ' ' || ".join(f"CAST({column} AS text)" for column in columns)


# -- sets of tags ------------------------------------------------------------------------


def _missing_tag_sets(scope: Scope) -> Missing:
    tags = "CAST(tags AS jsonb)" if is_postgresql() else "tags"
    needed = (
        f"SELECT tag_set_id FROM {_BOOKED} UNION SELECT tag_set_id FROM {SPEND.table} WHERE {scope.is_in}"
    )
    is_right = f"id = {tag_set_id('tags')}"
    return Missing(
        "sets of tags",
        "billing_tagset",
        "reconcile_billing_tagset",
        "COALESCE(tags, CAST(id AS text))",
        ("rows_lacking",),
        "SELECT wrong.id, known.tags, 1 AS rows_lacking FROM ("
        f"SELECT tag_set_id AS id FROM ({needed}) AS needed "
        f"WHERE tag_set_id <> {uuid_of(NO_TAGS.hex)} AND tag_set_id NOT IN (SELECT id FROM billing_tagset) "
        f"UNION SELECT id FROM billing_tagset WHERE NOT ({is_right})) AS wrong "
        f"LEFT JOIN {_SETS} AS known ON known.tag_set_id = wrong.id",
        "id",
        f"INSERT INTO billing_tagset (id, tags) SELECT id, {tags} FROM {{chunk}} AS chunk "
        "WHERE tags IS NOT NULL ON CONFLICT (id) DO UPDATE SET tags = EXCLUDED.tags",
    )


def _missing_tag_set_members() -> Missing:
    return Missing(
        "tags of sets",
        "billing_tagsetmember",
        "reconcile_billing_tagsetmember",
        "tag",
        ("rows_lacking",),
        f"SELECT lacking.*, 1 AS rows_lacking FROM (SELECT tag_set_id, each.value AS tag FROM {_SETS} "
        f"{each('tags')} EXCEPT SELECT tag_set_id, tag FROM billing_tagsetmember) AS lacking",
        f"tag_set_id, {_bytewise('tag')}",
        "INSERT INTO billing_tagsetmember (tag_set_id, tag) SELECT tag_set_id, tag FROM {chunk} AS chunk "
        "WHERE TRUE ON CONFLICT (tag_set_id, tag) DO NOTHING",
    )


def _surplus_tag_set_members() -> Missing:
    """Members of sets that do not have this tag, or that there are not."""
    return Missing(
        "tags of no set",
        "billing_tagsetmember",
        "reconcile_surplus_tags",
        "tag",
        ("rows_lacking",),
        "SELECT surplus.*, -1 AS rows_lacking FROM (SELECT tag_set_id, tag FROM billing_tagsetmember "
        f"WHERE tag_set_id IN (SELECT tag_set_id FROM {_SETS}) "
        "OR tag_set_id NOT IN (SELECT id FROM billing_tagset) "
        f"EXCEPT SELECT tag_set_id, each.value FROM {_SETS} {each('tags')}) AS surplus",
        f"tag_set_id, {_bytewise('tag')}",
        "DELETE FROM billing_tagsetmember WHERE EXISTS (SELECT 1 FROM {chunk} AS chunk "
        "WHERE chunk.tag_set_id = billing_tagsetmember.tag_set_id AND chunk.tag = billing_tagsetmember.tag)",
    )


def _bytewise(column: str) -> str:
    """Return a column sorted as Python sorts, not by a collation."""
    return f'{column} COLLATE "C"' if is_postgresql() else column


# -- totals ------------------------------------------------------------------------------

_TOTAL_ORDER = ("holder_type", "holder_id")


def _missing_in_totals() -> Missing:
    keys, sums = "holder_type, holder_id", ", ".join(TOTAL_SUMS)
    table = SpendTotal._meta.db_table
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in TOTAL_SUMS)
    sealed = f"SELECT {keys}, {sums}, last_call_at FROM billing_sealedbalance"
    lacking = _lacking(
        keys,
        " UNION ALL ".join(
            [by_holder(_BOOKED, f"{total_figures()}, last_call_at"), sealed, *_initially_spent()]
        ),
        f"SELECT {keys}, {_negative(TOTAL_SUMS)}, NULL FROM {table}",
        TOTAL_SUMS,
        "MAX(last_call_at) AS last_call_at",
    )
    return Missing(
        "spend totals",
        table,
        f"reconcile_{table}",
        "holder_type || ' ' || holder_id",
        TOTAL_SUMS,
        lacking,
        ", ".join(map(_bytewise, _TOTAL_ORDER)),
        f"INSERT INTO {table} ({keys}, {sums}, last_call_at) "
        f"SELECT {keys}, {sums}, last_call_at FROM {{chunk}} AS chunk WHERE TRUE "
        f"ON CONFLICT (holder_type, holder_id) DO UPDATE SET {added}, last_call_at = {latest()}("
        f"COALESCE({table}.last_call_at, EXCLUDED.last_call_at), "
        f"COALESCE(EXCLUDED.last_call_at, {table}.last_call_at))",
    )


def _initially_spent() -> Iterator[str]:
    """Return a query for each type of holder that an initial spend may name: it counts for no other."""
    for kind in (HolderType.KEY, HolderType.TEAM, HolderType.USER, HolderType.CUSTOMER):
        column = f"{kind.value}_id"
        holder = written_key(column) if kind == HolderType.KEY else column
        yield (
            f"SELECT '{kind.value}', {holder}, cost, charge, 0, 0, 0, 0, 0, NULL "
            "FROM billing_adjustment AS adjustment "
            f"WHERE {column} IS NOT NULL AND NOT ({IS_OF_A_CALL})"
        )


def _missing_last_calls() -> Missing:
    """Totals that name another instant than that of the holder's latest call."""
    table = SpendTotal._meta.db_table
    differs = "IS DISTINCT FROM" if is_postgresql() else "IS NOT"
    same = "IS NOT DISTINCT FROM" if is_postgresql() else "IS"
    calls = (
        f"{by_holder(_BOOKED, 'last_call_at')} "
        "UNION ALL SELECT holder_type, holder_id, last_call_at FROM billing_sealedbalance"
    )
    return Missing(
        "last calls of totals",
        table,
        "reconcile_last_calls",
        "holder_type || ' ' || holder_id",
        ("last_call_at",),
        "SELECT total.holder_type, total.holder_id, total.last_call_at AS was, latest.at AS should_be, "
        f"1 AS last_call_at FROM {table} AS total LEFT JOIN ("
        f"SELECT holder_type, holder_id, MAX(last_call_at) AS at FROM ({calls}) AS calls "
        "GROUP BY holder_type, holder_id) AS latest "
        "ON latest.holder_type = total.holder_type AND latest.holder_id = total.holder_id "
        f"WHERE total.last_call_at {differs} latest.at",
        ", ".join(map(_bytewise, _TOTAL_ORDER)),
        # One that a booking has moved since is right.
        f"UPDATE {table} AS total SET last_call_at = chunk.should_be FROM {{chunk}} AS chunk "
        "WHERE total.holder_type = chunk.holder_type AND total.holder_id = chunk.holder_id "
        f"AND total.last_call_at {same} chunk.was",
    )


# -- budget periods ----------------------------------------------------------------------


def _missing_in_periods(scope: Scope) -> Missing:
    table = BudgetPeriod._meta.db_table
    nothing_held = "0 AS held, 0 AS provisional"
    should_be = " UNION ALL ".join(
        [
            f"SELECT id, spent_cost, spent_charge, {nothing_held} FROM ({in_periods(_BOOKED)}) AS spent",
            "SELECT period_id, cost, charge, 0, 0 FROM billing_sealedperiod",
            *_adjusted_in_periods(),
            *_held_in_periods(),
        ]
    )
    lacking = _lacking(
        "id",
        f"SELECT id, {', '.join(_PERIOD_SUMS)} FROM ({should_be}) AS should_be WHERE {_is_period_in(scope)}",
        f"SELECT id, {_negative(_PERIOD_SUMS)} FROM {table} WHERE {_is_period_in(scope)}",
        _PERIOD_SUMS,
    )
    added = ", ".join(f"{name} = period.{name} + chunk.{name}" for name in _PERIOD_SUMS)
    return Missing(
        "budget periods",
        table,
        f"reconcile_{table}",
        "COALESCE((SELECT holder_type || ' ' || holder_id || ' from ' || CAST(counts_from AS text) "
        f"FROM {table} AS period WHERE period.id = missing.id), 'gone: ' || CAST(id AS text))",
        _PERIOD_SUMS,
        lacking,
        "id",
        f"UPDATE {table} AS period SET {added} FROM {{chunk}} AS chunk WHERE period.id = chunk.id",
    )


def _is_period_in(scope: Scope) -> str:
    if scope.days is None:
        return "1 = 1"
    starts, ends = boundary_of(scope.days.starts_at), boundary_of(scope.days.ends_at)
    return f"id IN (SELECT id FROM billing_budgetperiod WHERE counts_from >= {starts} AND ends_at <= {ends})"


def _adjusted_in_periods() -> Iterator[str]:
    """Return queries for what adjustments add. Those booked when the period was over do not count (M3)."""
    for kind, is_holder in _is_holder():
        yield (
            "SELECT period.id, adjustment.cost, adjustment.charge, 0, 0 "
            "FROM billing_budgetperiod AS period JOIN billing_adjustment AS adjustment "
            f"ON {is_holder} AND adjustment.started_at >= period.counts_from "
            "AND (period.ends_at IS NULL OR "
            "(adjustment.started_at < period.ends_at AND adjustment.booked_at < period.ends_at)) "
            "AND (period.scope = '' OR period.scope = adjustment.model) "
            f"WHERE period.holder_type = '{kind.value}'"
        )


def _held_in_periods() -> Iterator[str]:
    """Return queries for what calls under way hold, and what unpriced ones left behind."""
    held = "SELECT period_id, 0, 0, {} FROM billing_hold WHERE lease_expires_at {}"
    yield held.format("amount, 0", "IS NOT NULL")
    yield held.format("0, amount", "IS NULL")


def _is_holder() -> Iterator[tuple[HolderType, str]]:
    """Return the condition for an adjustment to count for the period's holder, for each type of holder."""
    # An initial spend names one holder, and counts neither for the gateway nor as the master key's.
    row, holder = "adjustment", "period.holder_id"
    master = f"{holder} = '{MASTER_KEY_ID}'"
    if is_postgresql():
        is_key = f"{row}.key_id = CAST(NULLIF({holder}, '{MASTER_KEY_ID}') AS uuid)"
        has_tag = f"{row}.tags @> jsonb_build_array({holder})"
    else:
        is_key = f"{row}.key_id = replace({holder}, '-', '')"
        has_tag = f"EXISTS (SELECT 1 FROM json_each({row}.tags) AS each WHERE each.value = {holder})"
    yield HolderType.GATEWAY, IS_OF_A_CALL
    yield HolderType.KEY, is_key
    yield HolderType.KEY, f"{master} AND {row}.key_id IS NULL AND {IS_OF_A_CALL}"
    yield HolderType.TEAM, f"{row}.team_id = {holder}"
    yield HolderType.TEAM_MEMBER, f"{row}.team_id || {newline()} || {row}.user_id = {holder}"
    yield HolderType.USER, f"{row}.user_id = {holder}"
    yield HolderType.CUSTOMER, f"{row}.customer_id = {holder}"
    yield HolderType.TAG, has_tag


# -- repairing -------------------------------------------------------------------------


def _add(missing: Missing, rows: int, progress: Progress) -> None:
    """Add what is missing, in transactions short enough that nobody notices."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE INDEX {missing.temporary}_number ON {missing.temporary} (number)")
    done, size = 0, 100
    while done < rows:
        begun = time.monotonic()
        retried(lambda first=done, size=size: _add_chunk(missing, first, size))  # type: ignore[misc]
        done = min(rows, done + size)
        seconds = time.monotonic() - begun
        progress(f"{missing.name}: repaired", done, rows)
        if seconds > _WRITE_SECONDS[connection.vendor]:
            size = max(1, size // 2)
        elif seconds < _WRITE_SECONDS[connection.vendor] / 3:
            size = min(2 * size, _MOST_ROWS[connection.vendor])
        if connection.vendor == "sqlite":
            time.sleep(_PAUSE_SECONDS)


def _leave_closed_months(missing: Missing) -> None:
    """Take out the rows of closed months: their figures stay as they are until the month is opened."""
    months = ClosedMonth.objects.order_by("month").values_list("month", flat=True)
    closed = [days_of_month(month) for month in months]
    if closed:
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {missing.temporary} WHERE {_among_days(closed)}")


def _add_chunk(missing: Missing, first: int, size: int) -> None:
    chunk = (
        f"(SELECT * FROM {missing.temporary} WHERE number > {first} AND number <= {first + size} "
        "ORDER BY number)"
    )
    with transaction.atomic(), connection.cursor() as cursor:
        if missing.table == BudgetPeriod._meta.db_table:
            cursor.execute(f"SELECT id FROM {chunk} AS chunk ORDER BY number")
            lock_periods(cursor, [row[0] for row in cursor.fetchall()])
        if missing.has_days:
            cursor.execute(f"SELECT DISTINCT CAST(day AS text) FROM {chunk} AS chunk")
            open_days(cursor, {date.fromisoformat(row[0]) for row in cursor.fetchall()})
        cursor.execute(missing.add.format(chunk=chunk))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Be the only one who repairs or seals. The lock goes with the process. Raises: AlreadyRepairing."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [_REPAIR_LOCK])
            if not cursor.fetchone()[0]:
                raise AlreadyRepairing
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_REPAIR_LOCK])
        return
    with open(f"{connection.settings_dict['NAME']}.repair", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRepairing from None
        yield
