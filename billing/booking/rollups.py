"""
Rollups: adds what is booked to its day's rows, in the ledger's transaction.

    tag sets → days opened → daily spend → daily overview

Each upsert is one statement on PostgreSQL, sorted by id: an upsert locks row by row in
the order it is given. Sums are whole numbers: nano-dollars, calls, tokens, milliseconds.
Reading them is in `reports.py`; `reconciliation.py` makes the same rows from the log, in SQL.
"""

import zoneinfo
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from hashlib import sha256
from operator import add
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.db import connection

from billing.booking.records import CallRecords
from billing.bulk import among, array, given, microseconds, prepared
from billing.models import DailyOverview, DailySpend, SpendLog
from billing.models.daily_spend import (
    COUNTS,
    DIMENSIONS,
    LATENCY_BOUNDS_MS,
    LATENCY_BUCKETS,
    MASTER_KEY,
    NO_DEPLOYMENT,
    NO_TAGS,
    OVERVIEW_DIMENSIONS,
    SUMS,
)

SEPARATOR = "\x1f"  # between the texts that an id is hashed of: none of them contains controls
FAILED = (SpendLog.Status.FAILURE.value, SpendLog.Status.REFUSED.value, SpendLog.Status.NOT_SENT.value)
ESTIMATED = (SpendLog.UsageSource.PARTIAL.value, SpendLog.UsageSource.ESTIMATED.value)
CACHED = SpendLog.UsageSource.CACHE.value
TIMED = SpendLog.Status.SUCCESS.value

DAY_LOCKS = 0x5350  # PostgreSQL's advisory locks of days: any number that nobody else uses
_MAX_MILLISECONDS = (1 << 31) - 1
_NO_TAGS, _MASTER_KEY = NO_TAGS.hex, MASTER_KEY.hex
_NO_BUCKET = (0,) * len(LATENCY_BUCKETS)
_BUCKETS = [(*_NO_BUCKET[:at], 1, *_NO_BUCKET[at + 1 :]) for at in range(len(LATENCY_BUCKETS))]
_TYPES = {"id": "uuid", "key_id": "uuid", "tag_set_id": "uuid", "day": "date", "deployment_id": "bigint"}
_to_json = msgspec.json.Encoder().encode

_Key = tuple[str, ...]
_Sums = Sequence[int]


class Rollup(NamedTuple):
    """A table, and the columns that its id is a hash of. It adds up `SUMS`."""

    table: str
    dimensions: tuple[str, ...]


SPEND = Rollup(DailySpend._meta.db_table, DIMENSIONS)
OVERVIEW = Rollup(DailyOverview._meta.db_table, OVERVIEW_DIMENSIONS)
ROLLUPS = (SPEND, OVERVIEW)  # the dimensions of each begin with those of the next


class Booked(NamedTuple):
    """What is to be added: the values of `DIMENSIONS`, those of `SUMS`, and the tags."""

    key: _Key
    sums: _Sums
    tags: tuple[str, ...]


def add_calls(cursor: Any, calls: Iterable[CallRecords]) -> None:
    """Add booked calls to the rows of the days they started on."""
    zone = settings.REPORTING_TIME_ZONE
    booked = []
    for call in calls:
        opened, closed = call.opened, call.closed
        tags = tuple(opened.tags)
        key = (
            day_of(opened.started_us // 1_000_000, zone),
            _MASTER_KEY if opened.key_id is None else opened.key_id.hex(),
            opened.team_id or "",
            opened.model,
            closed.provider,
            closed.upstream_model,
            str(closed.deployment_id or NO_DEPLOYMENT),
            opened.dialect,
            opened.client_tool,
            tag_set_id(tags),
            opened.customer_id or "",
            opened.user_id or "",
        )
        booked.append(Booked(key, _sums(call), tags))
    _add(cursor, booked)


class Moved(NamedTuple):
    """What a correction adds to a call's figures: nano-dollars, and -1 where it got its first price."""

    log: SpendLog
    cost_nano: int
    charge_nano: int
    unpriced: int


def add_adjustments(cursor: Any, moved: Iterable[Moved], *, at: datetime) -> None:
    """Add what calls cost more, or less, to the rows of the day they are adjusted on (M3)."""
    day = day_of(microseconds(at) // 1_000_000, settings.REPORTING_TIME_ZONE)
    booked = []
    for log, cost_nano, charge_nano, unpriced in moved:
        tags = tuple(log.tags)
        key = (
            day,
            _MASTER_KEY if log.key_id is None else log.key_id.hex,
            log.team_id or "",
            log.model,
            log.provider,
            log.upstream_model,
            str(log.deployment_id or NO_DEPLOYMENT),
            log.dialect,
            log.client_tool,
            tag_set_id(tags),
            log.customer_id or "",
            log.user_id or "",
        )
        sums = (cost_nano, charge_nano, 0, 0, unpriced, *[0] * (len(SUMS) - 5))
        booked.append(Booked(key, sums, tags))
    _add(cursor, booked)


assert SUMS[:5] == ("cost", "charge", "calls", "failed_calls", "unpriced_calls")


@lru_cache(maxsize=4096)
def day_of(at_s: int, zone: str) -> str:
    """Return the day of an instant (Unix seconds) in a time zone, as `2026-07-15`."""
    # Optimization: the calls of a batch fall into a few seconds.
    return datetime.fromtimestamp(at_s, UTC).astimezone(zoneinfo.ZoneInfo(zone)).date().isoformat()


@lru_cache(maxsize=4096)
def tag_set_id(tags: tuple[str, ...]) -> str:
    """Return the id of a call's tags, in their order, as 32 hexadecimal digits."""
    return _digest(SEPARATOR.join(tags))[:32] if tags else _NO_TAGS


def row_id(key: Sequence[str]) -> str:
    """Return the id of a rollup's row as 32 hexadecimal digits. key: its dimensions, the day first."""
    return key[0].replace("-", "") + _digest(SEPARATOR.join(key[1:]))[:24]


def summed(column: str) -> str:
    """Return what adds up a column of whole numbers, as 64 bits; 0 of none. Null counts as 0.

    Optimization: PostgreSQL's SUM of big integers keeps a `numeric` for each group; migration 0011 has
    another one.
    """
    return f"billing_sum({column})" if connection.vendor == "postgresql" else f"COALESCE(SUM({column}), 0)"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def milliseconds(us: int) -> int:
    """Return a duration as its column takes it: a journal may be adopted months later."""
    return min(max(0, us) // 1000, _MAX_MILLISECONDS)


def _sums(call: CallRecords) -> _Sums:
    """Return one call's values of `SUMS`."""
    opened, closed = call.opened, call.closed
    latency_ms, bucket = 0, _NO_BUCKET
    if closed.status == TIMED:
        latency_ms = milliseconds(closed.ended_us - opened.started_us)
        bucket = _BUCKETS[bisect_left(LATENCY_BOUNDS_MS, latency_ms)]
    return (
        closed.cost_nano or 0,
        closed.charge_nano or 0,
        1,
        1 if closed.status in FAILED else 0,
        1 if closed.cost_nano is None else 0,
        1 if closed.usage_source in ESTIMATED else 0,
        1 if closed.usage_source == CACHED else 0,
        *closed.usage,
        latency_ms,
        *bucket,
    )


# -- writing -------------------------------------------------------------------------


def _add(cursor: Any, booked: Sequence[Booked]) -> None:
    ensure_tag_sets(cursor, {each.tags for each in booked if each.tags})
    open_days(cursor, {date.fromisoformat(each.key[0]) for each in booked})
    rows: Iterable[tuple[_Key, _Sums]] = ((each.key, each.sums) for each in booked)
    for rollup in ROLLUPS:
        summed: dict[_Key, _Sums] = {}
        width = len(rollup.dimensions)
        for key, sums in rows:
            key = key[:width]
            known = summed.get(key)
            summed[key] = sums if known is None else [*map(add, known, sums)]
        _upsert(cursor, rollup, sorted([((row_id(key), *key), sums) for key, sums in summed.items()]))
        rows = summed.items()


def open_days(cursor: Any, days: Collection[date]) -> None:
    """Open the closed spans of days (`summaries.py`) that are written to: nobody closes them until we end."""
    for day in sorted(days):
        if connection.vendor == "postgresql":
            prepared(cursor, f"SELECT pg_advisory_xact_lock_shared({DAY_LOCKS}, %s::int)", [day.toordinal()])
        # A statement of its own: it sees what was closed while we waited for the lock.
        prepared(cursor, "DELETE FROM billing_closedspan WHERE day <= %s AND last_day >= %s", [day, day])


def ensure_tag_sets(cursor: Any, tag_sets: Iterable[tuple[str, ...]]) -> None:
    """Make the sets that are seen for the first time."""
    ids = {tag_set_id(tags): tags for tags in tag_sets}
    if not ids:
        return
    known = among("id", "uuid", sorted(ids))
    rows = prepared(cursor, f"SELECT id FROM billing_tagset WHERE {known.sql}", known.parameters).fetchall()
    missing = sorted(ids.keys() - {str(row[0]).replace("-", "") for row in rows})
    if not missing:
        return
    tag_set = "CAST(given.id AS uuid)" if connection.vendor == "postgresql" else "given.id"
    tags = "CAST(given.tags AS jsonb)" if connection.vendor == "postgresql" else "given.tags"
    sets = given((("text", "id"), ("text", "tags")), [(id_, _to_json(ids[id_]).decode()) for id_ in missing])
    cursor.execute(
        f"INSERT INTO billing_tagset (id, tags) SELECT {tag_set}, {tags} FROM {sets.sql} WHERE TRUE "
        "ON CONFLICT (id) DO NOTHING",
        sets.parameters,
    )
    members = given(
        (("text", "id"), ("text", "tag")), [(id_, tag) for id_ in missing for tag in dict.fromkeys(ids[id_])]
    )
    cursor.execute(
        f"INSERT INTO billing_tagsetmember (tag_set_id, tag) SELECT {tag_set}, given.tag FROM {members.sql} "
        "WHERE TRUE ON CONFLICT (tag_set_id, tag) DO NOTHING",
        members.parameters,
    )


def _upsert(cursor: Any, rollup: Rollup, rows: Sequence[tuple[_Key, _Sums]]) -> None:
    """Add the sums to their rows, which are made where they are missing. rows: sorted by id."""
    if not rows:
        return
    if connection.vendor == "postgresql":
        keys = [array(column) for column in zip(*(key for key, _ in rows), strict=True)]
        columns = dict(zip(SUMS, zip(*(sums for _, sums in rows), strict=True), strict=True))
        rare = tuple(any(any(columns[name]) for name in group) for group in _RARE)
        sums = [array(columns[name]) for name in _written(rare)]
        prepared(cursor, _statement(rollup, rare), [*keys, *sums])
    else:
        cursor.executemany(_statement_for_each(rollup), [(*key, *sums) for key, sums in rows])


# Optimization: sums that are 0 in whole batches. PostgreSQL takes a tenth of a microsecond to read a
# number, and as long to add it: what is 0 in all rows of a batch is neither sent nor added.
_RARE = (
    ("failed_calls", "unpriced_calls", "estimated_calls", "cache_hits"),
    ("cache_write_5m", "cache_write_1h"),
    ("reasoning",),
    ("input_audio", "output_audio", "input_image", "output_image", "web_searches"),
    LATENCY_BUCKETS[:3],
    LATENCY_BUCKETS[-4:],
)


@lru_cache
def _written(rare: tuple[bool, ...]) -> tuple[str, ...]:
    """Return the sums of a statement. rare: whether it has those of each group of `_RARE`."""
    left_out = {name for group, has in zip(_RARE, rare, strict=True) for name in group if not has}
    return tuple(name for name in SUMS if name not in left_out)


@lru_cache
def _statement(rollup: Rollup, rare: tuple[bool, ...]) -> str:
    """Return PostgreSQL's statement: an array for each column that is written."""
    key, written = ("id", *rollup.dimensions), _written(rare)
    types = [*(_TYPES.get(name, "text") for name in key), *map(_type_of_sum, written)]
    # Optimization: `FROM unnest(…, …)` would store each array apart before it reads them side by side.
    arrays = ", ".join(
        f"unnest(%s::{type_}[]) AS {name}" for type_, name in zip(types, (*key, *written), strict=True)
    )
    sums = ", ".join(name if name in written else "0" for name in SUMS)
    return (
        f"INSERT INTO {rollup.table} ({', '.join([*key, *SUMS])}) "
        f"SELECT {', '.join(key)}, {sums} FROM (SELECT {arrays}) AS given {on_conflict_add(rollup, written)}"
    )


@lru_cache
def _statement_for_each(rollup: Rollup) -> str:
    """Return SQLite's statement: a row at a time."""
    columns = ("id", *rollup.dimensions, *SUMS)
    marks = ", ".join(["%s"] * len(columns))
    return f"INSERT INTO {rollup.table} ({', '.join(columns)}) VALUES ({marks}) {on_conflict_add(rollup)}"


def _type_of_sum(name: str) -> str:
    return "integer" if name in COUNTS or name in LATENCY_BUCKETS else "bigint"


def on_conflict_add(rollup: Rollup, sums: Iterable[str] = SUMS) -> str:
    """Return the end of an INSERT: what to do with rows that there are."""
    added = ", ".join(f"{name} = {rollup.table}.{name} + EXCLUDED.{name}" for name in sums)
    return f"ON CONFLICT (id) DO UPDATE SET {added}"
