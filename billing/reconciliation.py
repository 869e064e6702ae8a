"""
Reconciliation: proves that everything derived from the log says what the log says.

    spend logs + adjustments = spend totals = budget periods = daily spend = by tags = overview

All of it is compared in one snapshot of the database. What differs is left in temporary
tables, as what is missing: what should be there minus what is. A repair adds just that, in
small transactions. It may do so while calls are booked: those add the same to the log and to
what is derived, so what was missing in the snapshot stays missing until it is added.

Amounts are nano-dollars. Log rows and adjustments are never changed.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction

from billing.models import Adjustment, BudgetPeriod, HolderType, ReconcileRun, SpendTotal
from billing.models.daily_spend import (
    DIMENSIONS,
    LATENCY_BOUNDS_MS,
    LATENCY_BUCKETS,
    MASTER_KEY,
    NO_DEPLOYMENT,
    NO_TAGS,
    SUMS,
)
from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID
from billing.periods import lock_periods, retried
from billing.rollups import CACHED, ESTIMATED, FAILED, ROLLUPS, TIMED, Rollup, on_conflict_add
from billing.usage import BUCKETS
from customers.money import from_nano, plain_usd

EXAMPLES = 20  # differences that are told one by one
MONEY = ("cost", "charge", "spent_cost", "spent_charge")
_WRITE_SECONDS = {"sqlite": 0.025, "postgresql": 0.25}  # what a repair's transactions aim at (S)
_MOST_ROWS = {"sqlite": 2_000, "postgresql": 20_000}  # of one transaction
_PAUSE_SECONDS = 0.005  # between two of them on SQLite, whose busy handler is unfair
_REPAIR_LOCK = 0x5350454E44  # PostgreSQL's advisory lock: any number that nobody else uses
_TOTAL_SUMS = (
    "cost", "charge", "calls", "failed_calls", "unpriced_calls", "prompt_tokens", "completion_tokens",
)  # fmt: skip
_PERIOD_SUMS = ("spent_cost", "spent_charge")
# As `Usage` derives them.
_PROMPT = "input_uncached + cache_read + cache_write_5m + cache_write_1h + input_audio + input_image"
_COMPLETION = "output_text + reasoning + output_audio + output_image"


class AlreadyRepairing(Exception):
    """Another process repairs: what is missing must not be added twice."""


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

    @property
    def differences(self) -> int:
        return sum(self.differing.values())


class Missing(NamedTuple):
    """A temporary table of what one derived table lacks: a numbered row for each that differs."""

    name: str  # of what is derived, as it is told
    table: str
    row: str  # an expression that names the row
    columns: tuple[str, ...]  # that are compared, and told
    select: str  # `row`'s columns, and what each of `columns` lacks
    order: str  # in which everybody locks rows of this table
    add: str  # a statement that adds rows of `{chunk}` to the table

    @property
    def temporary(self) -> str:
        return f"reconcile_{self.table}"


def compare(*, at: datetime) -> Comparison:
    """Compare everything in one snapshot. at: now."""
    try:
        return _compare(at)
    finally:
        _drop_temporary_tables()


def repair(*, at: datetime, progress: Callable[[str, int, int], None]) -> Comparison:
    """Compare everything, then add what is missing; return what was compared before.

    progress: told of the table, how many of its rows are done, and how many there are.
    Raises: AlreadyRepairing.
    """
    with _alone():
        try:
            found = _compare(at)
            for missing in _missing_tables():
                if found.differing[missing.name]:
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
        examples=[example._asdict() for example in found.examples],
    )


# -- comparing -----------------------------------------------------------------------


def _compare(at: datetime) -> Comparison:
    begun = time.monotonic()
    _drop_temporary_tables()
    with _snapshot(), connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE reconcile_booked AS {_booked()}")
        compared = _count(cursor, "billing_spendlog") + _count(cursor, "billing_adjustment")
        differing: dict[str, int] = {}
        examples: list[Difference] = []
        for missing in _missing_tables():
            cursor.execute(
                f"CREATE TEMPORARY TABLE {missing.temporary} AS SELECT missing.*, "
                f"ROW_NUMBER() OVER (ORDER BY {missing.order}) AS number FROM ({missing.select}) AS missing"
            )
            compared += _count(cursor, missing.table)
            differing[missing.name] = _count(cursor, missing.temporary)
            examples += _examples(cursor, missing, EXAMPLES - len(examples))
    return Comparison(at, time.monotonic() - begun, compared, differing, examples)


@contextlib.contextmanager
def _snapshot() -> Iterator[None]:
    """See the database as it is at one instant, and hold up nobody."""
    if connection.in_atomic_block:
        yield  # the caller's transaction decides what is seen
    elif connection.vendor == "postgresql":
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
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
    with connection.cursor() as cursor:
        for name in ("reconcile_booked", *(missing.temporary for missing in _missing_tables())):
            cursor.execute(f"DROP TABLE IF EXISTS {_temporary_schema()}.{name}")


def _temporary_schema() -> str:
    return "pg_temp" if connection.vendor == "postgresql" else "temp"


def _count(cursor: Any, table: str) -> int:
    cursor.execute(f"SELECT COUNT(*) FROM {table}")
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
    return plain_usd(from_nano(off_by)) if column in MONEY else str(off_by)


# -- what is booked --------------------------------------------------------------------


def _booked() -> str:
    """Return a query for the sums of logs and adjustments by `DIMENSIONS`, with the tags beside their set.

    An initial spend is of no day: it is left out here.
    """
    keys = [name for name in DIMENSIONS if name != "tag_set_id"]
    grouped = ", ".join([*keys, "tags"])
    sums = ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in SUMS)
    return (
        f"SELECT {', '.join(keys)}, {_tag_set_id()} AS tag_set_id, tags, last_call_at, {', '.join(SUMS)} "
        "FROM ("
        f"SELECT {grouped}, MAX(last_call_at) AS last_call_at, {sums} "
        f"FROM ({_logs()} UNION ALL {_adjustments()}) AS booked GROUP BY {grouped}) AS booked"
    )


def _logs() -> str:
    figures = {
        "cost": "COALESCE(log.cost, 0)",
        "charge": "COALESCE(log.charge, 0)",
        "calls": "1",
        "failed_calls": _one_if(f"log.status IN {_texts(FAILED)}"),
        "unpriced_calls": _one_if("log.cost IS NULL"),
        "estimated_calls": _one_if(f"log.usage_source IN {_texts(ESTIMATED)}"),
        "cache_hits": _one_if(f"log.usage_source = '{CACHED}'"),
        **{bucket: f"log.{bucket}" for bucket in BUCKETS},
        "latency_ms_sum": f"CASE WHEN log.status = '{TIMED}' THEN log.latency_ms ELSE 0 END",
        **{name: _one_if(f"log.status = '{TIMED}' AND {bounds}") for name, bounds in _latency_buckets()},
    }
    return (
        f"SELECT {_dimensions('log', 'log', 'log.started_at')}, log.started_at AS last_call_at, "
        f"{', '.join(f'{figures[name]} AS {name}' for name in SUMS)} FROM billing_spendlog AS log"
    )


def _adjustments() -> str:
    figures = {"cost": "adjustment.cost", "charge": "adjustment.charge"}
    no_call = "CAST(NULL AS timestamptz)" if connection.vendor == "postgresql" else "NULL"
    return (
        f"SELECT {_dimensions('adjustment', 'log', 'adjustment.booked_at')}, {no_call}, "
        f"{', '.join(figures.get(name, '0') for name in SUMS)} "
        "FROM billing_adjustment AS adjustment "
        "LEFT JOIN billing_spendlog AS log ON log.id = adjustment.log_id "
        f"WHERE {_IS_OF_A_CALL}"
    )


_IS_OF_A_CALL = f"adjustment.reason <> '{Adjustment.Reason.INITIAL_SPEND.value}'"


def _dimensions(who: str, how: str, instant: str) -> str:
    """Return the dimensions of a row, and its tags. who, how: the tables that say them."""
    columns = {
        "day": _day(instant),
        "key_id": f"COALESCE({who}.key_id, {_uuid(MASTER_KEY.hex)})",
        "model": f"{who}.model",
        "deployment_id": f"COALESCE({how}.deployment_id, {NO_DEPLOYMENT})",
        **{name: f"COALESCE({who}.{name}, '')" for name in ("team_id", "customer_id", "user_id")},
        **{
            name: f"COALESCE({how}.{name}, '')"
            for name in ("provider", "upstream_model", "dialect", "client_tool")
        },
    }
    named = [f"{columns[name]} AS {name}" for name in DIMENSIONS if name != "tag_set_id"]
    return ", ".join([*named, f"{who}.tags AS tags"])


def _latency_buckets() -> Iterator[tuple[str, str]]:
    """Return each bucket's column and the condition for a log to be in it."""
    lower = None
    for name, upper in zip(LATENCY_BUCKETS, [*LATENCY_BOUNDS_MS, None], strict=True):
        bounds = [] if lower is None else [f"log.latency_ms > {lower}"]
        bounds += [] if upper is None else [f"log.latency_ms <= {upper}"]
        yield name, " AND ".join(bounds)
        lower = upper


def _one_if(condition: str) -> str:
    return f"CASE WHEN {condition} THEN 1 ELSE 0 END"


def _texts(values: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


# -- expressions that databases spell differently --------------------------------------


def _is_postgresql() -> bool:
    return connection.vendor == "postgresql"


def _day(instant: str) -> str:
    zone = settings.REPORTING_TIME_ZONE  # `billing.E001`: it is one
    if _is_postgresql():
        return f"CAST({instant} AT TIME ZONE '{zone}' AS date)"
    return f"django_datetime_cast_date({instant}, '{zone}', 'UTC')"


def _uuid(digits: str) -> str:
    return f"CAST('{digits}' AS uuid)" if _is_postgresql() else f"'{digits}'"


def _digest(text: str, digits: int) -> str:
    if _is_postgresql():
        return f"substr(encode(sha256(convert_to({text}, 'UTF8')), 'hex'), 1, {digits})"
    return f"substr(SHA256({text}), 1, {digits})"  # Django adds the function to SQLite


def _tag_set_id() -> str:
    """Return `rollups.tag_set_id` of the column `tags`."""
    if _is_postgresql():
        joined = (
            "(SELECT string_agg(each.value, chr(31) ORDER BY each.at) "
            "FROM jsonb_array_elements_text(tags) WITH ORDINALITY AS each(value, at))"
        )
        digest = f"CAST({_digest(joined, 32)} AS uuid)"
        return f"CASE WHEN tags = '[]' THEN {_uuid(NO_TAGS.hex)} ELSE {digest} END"
    joined = "(SELECT group_concat(value, char(31)) FROM json_each(tags))"
    return f"CASE WHEN json_array_length(tags) = 0 THEN '{NO_TAGS.hex}' ELSE {_digest(joined, 32)} END"


def _row_id(rollup: Rollup) -> str:
    """Return `rollups.row_id` of a row with the rollup's dimensions."""
    if _is_postgresql():
        texts = [f"replace(CAST({name} AS text), '-', '')" if name.endswith(("key_id", "set_id")) else
                 f"CAST({name} AS text)" for name in rollup.dimensions[1:]]  # fmt: skip
        digest = _digest(" || chr(31) || ".join(texts), 24)
        return f"CAST(to_char(day, 'YYYYMMDD') || {digest} AS uuid)"
    digest = _digest(" || char(31) || ".join(rollup.dimensions[1:]), 24)
    return f"replace(day, '-', '') || {digest}"


def _each(column: str) -> str:
    """Return what joins a table with the texts of a JSON list in one of its columns, as `each.value`."""
    if _is_postgresql():
        return f"CROSS JOIN LATERAL jsonb_array_elements_text(CAST({column} AS jsonb)) AS each(value)"
    return f"CROSS JOIN json_each({column}) AS each"


def _bytewise(column: str) -> str:
    """Return a column sorted as Python sorts, not by a collation."""
    return f'{column} COLLATE "C"' if _is_postgresql() else column


def _written_key(column: str) -> str:
    """Return a key's id as totals name its holder."""
    if _is_postgresql():
        return f"CAST({column} AS text)"
    cuts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return " || '-' || ".join(f"substr({column}, {start}, {length})" for start, length in cuts)


def _first_id_at(instant: str) -> str:
    """Return the smallest id of a log of that instant, which is a whole millisecond."""
    if _is_postgresql():
        digits = f"lpad(to_hex(CAST(extract(epoch FROM {instant}) * 1000 AS bigint)), 12, '0')"
        return f"CAST({digits} || '70008000000000000000' AS uuid)"
    ms = f"strftime('%s', {instant}) * 1000 + substr(strftime('%f', {instant}), 4, 3)"
    return f"printf('%012x', {ms}) || '70008000000000000000'"


# -- what is derived -------------------------------------------------------------------


def _missing_tables() -> list[Missing]:
    """Return what is compared. Tag sets come first: rollups are read through them."""
    return [
        _missing_tag_sets(),
        _missing_tag_set_members(),
        *map(_missing_in_rollup, ("daily spend", "daily spend by tags", "daily overview"), ROLLUPS),
        _missing_in_totals(),
        _missing_in_periods(),
    ]


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


def _missing_in_rollup(name: str, rollup: Rollup) -> Missing:
    keys, sums = ", ".join(rollup.dimensions), ", ".join(SUMS)
    lacking = _lacking(
        keys,
        f"SELECT {keys}, {sums} FROM reconcile_booked",
        f"SELECT {keys}, {_negative(SUMS)} FROM {rollup.table}",
        SUMS,
    )
    named = ["model", "customer_id", "team_id", "user_id"]
    row = " || ' ' || ".join(
        [
            "CAST(day AS text)",
            *(f"'{column}=' || {column}" for column in named if column in rollup.dimensions),
        ]
    )
    return Missing(
        name,
        rollup.table,
        row,
        SUMS,
        f"SELECT {_row_id(rollup)} AS id, lacking.* FROM ({lacking}) AS lacking",
        "id",
        f"INSERT INTO {rollup.table} (id, {keys}, {sums}) SELECT id, {keys}, {sums} FROM {{chunk}} "
        f"{on_conflict_add(rollup)}",
    )


def _missing_tag_sets() -> Missing:
    tags = "CAST(tags AS jsonb)" if _is_postgresql() else "tags"
    return Missing(
        "sets of tags",
        "billing_tagset",
        "tags",
        ("rows_lacking",),
        "SELECT tag_set_id AS id, MIN(CAST(tags AS text)) AS tags, 1 AS rows_lacking FROM reconcile_booked "
        f"WHERE tag_set_id <> {_uuid(NO_TAGS.hex)} "
        "AND NOT EXISTS (SELECT 1 FROM billing_tagset AS known WHERE known.id = tag_set_id) "
        "GROUP BY tag_set_id",
        "id",
        f"INSERT INTO billing_tagset (id, tags) SELECT id, {tags} FROM {{chunk}} ON CONFLICT (id) DO NOTHING",
    )


def _missing_tag_set_members() -> Missing:
    return Missing(
        "tags of sets",
        "billing_tagsetmember",
        "tag",
        ("rows_lacking",),
        "SELECT lacking.*, 1 AS rows_lacking FROM ("
        f"SELECT tag_set_id, each.value AS tag FROM "
        "(SELECT tag_set_id, MIN(CAST(tags AS text)) AS listed FROM reconcile_booked "
        "GROUP BY tag_set_id) AS sets "
        f"{_each('listed')} EXCEPT SELECT tag_set_id, tag FROM billing_tagsetmember) AS lacking",
        f"tag_set_id, {_bytewise('tag')}",
        "INSERT INTO billing_tagsetmember (tag_set_id, tag) SELECT tag_set_id, tag FROM {chunk} "
        "ON CONFLICT (tag_set_id, tag) DO NOTHING",
    )


def _missing_in_totals() -> Missing:
    keys, sums = "holder_type, holder_id", ", ".join(_TOTAL_SUMS)
    table = SpendTotal._meta.db_table
    latest = "GREATEST" if _is_postgresql() else "MAX"
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in _TOTAL_SUMS)
    lacking = _lacking(
        keys,
        " UNION ALL ".join([*_spent_in_calls(), *_initially_spent()]),
        f"SELECT {keys}, {_negative(_TOTAL_SUMS)}, NULL FROM {table}",
        _TOTAL_SUMS,
        "MAX(last_call_at) AS last_call_at",
    )
    return Missing(
        "spend totals",
        table,
        "holder_type || ' ' || holder_id",
        _TOTAL_SUMS,
        lacking,
        f"{_bytewise('holder_type')}, {_bytewise('holder_id')}",
        f"INSERT INTO {table} ({keys}, {sums}, last_call_at) "
        f"SELECT {keys}, {sums}, last_call_at FROM {{chunk}} "
        f"ON CONFLICT (holder_type, holder_id) DO UPDATE SET {added}, last_call_at = {latest}("
        f"COALESCE({table}.last_call_at, EXCLUDED.last_call_at), "
        f"COALESCE(EXCLUDED.last_call_at, {table}.last_call_at))",
    )


def _spent_in_calls() -> Iterator[str]:
    """Return a query for each type of holder: what `holders` says, of sums instead of one call."""
    tokens = f"{_PROMPT} AS prompt_tokens, {_COMPLETION} AS completion_tokens"
    figures = f"cost, charge, calls, failed_calls, unpriced_calls, {tokens}, last_call_at"
    nobody = _uuid(MASTER_KEY.hex)
    key = f"CASE WHEN key_id = {nobody} THEN '{MASTER_KEY_ID}' ELSE {_written_key('key_id')} END"
    newline = "chr(10)" if _is_postgresql() else "char(10)"
    booked = "reconcile_booked AS booked"
    for kind, holder, source in (
        (HolderType.GATEWAY, f"'{GATEWAY_ID}'", booked),
        (HolderType.KEY, key, booked),
        (HolderType.TEAM, "team_id", f"{booked} WHERE team_id <> ''"),
        (
            HolderType.TEAM_MEMBER,
            f"team_id || {newline} || user_id",
            f"{booked} WHERE team_id <> '' AND user_id <> ''",
        ),
        (HolderType.USER, "user_id", f"{booked} WHERE user_id <> ''"),
        (HolderType.CUSTOMER, "customer_id", f"{booked} WHERE customer_id <> ''"),
        (HolderType.TAG, "each.value", f"{booked} {_each('booked.tags')}"),
    ):
        yield f"SELECT '{kind.value}' AS holder_type, {holder} AS holder_id, {figures} FROM {source}"


def _initially_spent() -> Iterator[str]:
    """Return a query for each type of holder that an initial spend may name: it counts for no other."""
    for kind in (HolderType.KEY, HolderType.TEAM, HolderType.USER, HolderType.CUSTOMER):
        column = f"{kind.value}_id"
        holder = _written_key(column) if kind == HolderType.KEY else column
        yield (
            f"SELECT '{kind.value}', {holder}, cost, charge, 0, 0, 0, 0, 0, NULL "
            "FROM billing_adjustment AS adjustment "
            f"WHERE {column} IS NOT NULL AND NOT ({_IS_OF_A_CALL})"
        )


def _missing_in_periods() -> Missing:
    table = BudgetPeriod._meta.db_table
    should_be = " UNION ALL ".join([*_spent_in_periods(), *_adjusted_in_periods()])
    lacking = _lacking("id", should_be, f"SELECT id, {_negative(_PERIOD_SUMS)} FROM {table}", _PERIOD_SUMS)
    added = ", ".join(f"{name} = period.{name} + chunk.{name}" for name in _PERIOD_SUMS)
    return Missing(
        "budget periods",
        table,
        "(SELECT holder_type || ' ' || holder_id || ' from ' || CAST(counts_from AS text) "
        f"FROM {table} AS period WHERE period.id = missing.id)",
        _PERIOD_SUMS,
        lacking,
        "id",
        f"UPDATE {table} AS period SET {added} FROM {{chunk}} AS chunk WHERE period.id = chunk.id",
    )


def _spent_in_periods() -> Iterator[str]:
    """Return a query for each type of holder: the sums of its logs in each of its periods."""
    after_all, end = _uuid("f" * 32), _first_id_at("period.ends_at")
    for kind, is_holder in _is_holder("log"):
        yield (
            "SELECT period.id AS id, "
            "COALESCE(log.cost, 0) AS spent_cost, COALESCE(log.charge, 0) AS spent_charge "
            "FROM billing_budgetperiod AS period JOIN billing_spendlog AS log "
            f"ON {is_holder} AND log.id >= {_first_id_at('period.counts_from')} "
            f"AND log.id < CASE WHEN period.ends_at IS NULL THEN {after_all} ELSE {end} END "
            "AND (period.scope = '' OR period.scope = log.model) "
            f"WHERE period.holder_type = '{kind.value}'"
        )


def _adjusted_in_periods() -> Iterator[str]:
    """Return the same of adjustments. Those booked when the period was over do not count in it (M3)."""
    for kind, is_holder in _is_holder("adjustment"):
        yield (
            "SELECT period.id, adjustment.cost, adjustment.charge "
            "FROM billing_budgetperiod AS period JOIN billing_adjustment AS adjustment "
            f"ON {is_holder} AND adjustment.started_at >= period.counts_from "
            "AND (period.ends_at IS NULL OR "
            "(adjustment.started_at < period.ends_at AND adjustment.booked_at < period.ends_at)) "
            "AND (period.scope = '' OR period.scope = adjustment.model) "
            f"WHERE period.holder_type = '{kind.value}'"
        )


def _is_holder(row: str) -> Iterator[tuple[HolderType, str]]:
    """Return the condition for `row` to count for the period's holder, for each type of holder."""
    # An initial spend names one holder, and counts neither for the gateway nor as the master key's.
    of_a_call = _IS_OF_A_CALL if row == "adjustment" else "1 = 1"
    holder, master = "period.holder_id", f"period.holder_id = '{MASTER_KEY_ID}'"
    if _is_postgresql():
        is_key = f"{row}.key_id = CAST(NULLIF({holder}, '{MASTER_KEY_ID}') AS uuid)"
        newline, has_tag = "chr(10)", f"{row}.tags @> jsonb_build_array({holder})"
    else:
        is_key = f"{row}.key_id = replace({holder}, '-', '')"
        newline = "char(10)"
        has_tag = f"EXISTS (SELECT 1 FROM json_each({row}.tags) AS each WHERE each.value = {holder})"
    yield HolderType.GATEWAY, of_a_call
    yield HolderType.KEY, is_key
    yield HolderType.KEY, f"{master} AND {row}.key_id IS NULL AND {of_a_call}"
    yield HolderType.TEAM, f"{row}.team_id = {holder}"
    yield HolderType.TEAM_MEMBER, f"{row}.team_id || {newline} || {row}.user_id = {holder}"
    yield HolderType.USER, f"{row}.user_id = {holder}"
    yield HolderType.CUSTOMER, f"{row}.customer_id = {holder}"
    yield HolderType.TAG, has_tag


# -- repairing -------------------------------------------------------------------------


def _add(missing: Missing, rows: int, progress: Callable[[str, int, int], None]) -> None:
    """Add what is missing, in transactions short enough that nobody notices."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE INDEX {missing.temporary}_number ON {missing.temporary} (number)")
    done, size = 0, 100
    while done < rows:
        begun = time.monotonic()
        retried(lambda first=done, size=size: _add_chunk(missing, first, size))  # type: ignore[misc]
        done = min(rows, done + size)
        seconds = time.monotonic() - begun
        progress(missing.name, done, rows)
        if seconds > _WRITE_SECONDS[connection.vendor]:
            size = max(1, size // 2)
        elif seconds < _WRITE_SECONDS[connection.vendor] / 3:
            size = min(2 * size, _MOST_ROWS[connection.vendor])
        if connection.vendor == "sqlite":
            time.sleep(_PAUSE_SECONDS)


def _add_chunk(missing: Missing, first: int, size: int) -> None:
    chunk = (
        f"(SELECT * FROM {missing.temporary} WHERE number > {first} AND number <= {first + size} "
        "ORDER BY number)"
    )
    with transaction.atomic(), connection.cursor() as cursor:
        if missing.table == BudgetPeriod._meta.db_table:
            cursor.execute(f"SELECT id FROM {chunk} AS chunk ORDER BY number")
            lock_periods(cursor, [row[0] for row in cursor.fetchall()])
        # Without WHERE, SQLite would take what follows for a join's condition.
        is_update = missing.add.startswith("UPDATE")
        cursor.execute(missing.add.format(chunk=chunk if is_update else f"{chunk} AS chunk WHERE TRUE"))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Be the only one who repairs. The lock goes with the process. Raises: AlreadyRepairing."""
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
