"""
The ledger: writes finished calls to the database, exactly once, in one transaction.

    fence → spend logs → customers → totals → daily rollups → typical outputs → holds → periods → events

The fence moves the journal's checkpoint from where it is known to be; of two
recorders only one succeeds. Sums are integers of nano-dollars. Reading the journal
and retrying is in `recorder.py`.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from billing.booking.journal import Position
from billing.booking.records import CallRecords, Closed, Opened
from billing.booking.rollups import add_calls, milliseconds
from billing.books.adjustments import Correction, Why, adjust_all
from billing.books.closed_months import require_same, split_late
from billing.budgets.settlement import learn_typical_outputs, settle
from billing.bulk import array, prepared, timestamp, uuid_text
from billing.models import Adjustment, SpendLog, SpendTotal
from billing.models.spend_total import holders
from billing.webhooks.spend_events import track_spend

_SPENT_NOTHING = frozenset({SpendLog.Status.FAILURE, SpendLog.Status.REFUSED, SpendLog.Status.NOT_SENT})


class LostFence(Exception):
    """Another recorder moved this journal's checkpoint: what we read must not be booked by us."""


class HoldGone(Exception):
    """A call that was to be booked by its estimate holds nothing any more."""


class Booking(NamedTuple):
    """A stretch of one journal: its finished calls, and the positions before and behind them."""

    journal_id: uuid.UUID
    calls: Sequence[CallRecords]
    before: Position
    behind: Position


def book(booking: Booking) -> None:
    """Write the calls and move the checkpoint, together or not at all.

    Raises: LostFence; any database error, with nothing written.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        move_checkpoint(cursor, booking.journal_id, booking.before, booking.behind)
        if booking.calls:
            _write(cursor, booking.calls)


def book_estimates(calls: Sequence[CallRecords]) -> None:
    """Book calls whose journal may never come, in return for their holds.

    Raises: HoldGone where a call no longer holds anything: it was released, or settled
    by its journal; any database error. Nothing is written then.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        if _write(cursor, calls) != len(calls):
            raise HoldGone


def _write(cursor: Any, calls: Sequence[CallRecords]) -> int:
    """Write the calls, in the order of docs/locking.md. Returns: how many of them held something."""
    at = datetime.now(UTC)
    told, (calls, late) = calls, split_late(calls, at=at)
    holders_of = [_holders(call.opened) for call in calls]
    _insert_logs(cursor, calls)
    _upsert_customers(cursor, calls)
    totals = _add_totals(cursor, calls, holders_of)
    require_same(told, late, at=at)
    add_calls(cursor, calls)
    learn_typical_outputs(cursor, calls)
    held = settle(cursor, calls, holders_of, totals)
    if late:
        _book_late(told, late, at)
    track_spend(cursor, told)
    return held


def _book_late(calls: Sequence[CallRecords], late: Sequence[int], at: datetime) -> None:
    """Book today what calls of closed months cost: their own days' sums stay as they are.

    Behind the locks of their holders' totals, which this transaction has: nobody is between.
    """
    ids = {uuid.UUID(bytes=calls[number].opened.call_id): calls[number].closed for number in late}
    adjust_all(
        [
            Correction(log, closed.cost_nano or 0, closed.charge_nano or 0, closed.price_id)
            for pk, closed in ids.items()
            if (log := SpendLog.objects.filter(pk=pk).first()) is not None
        ],
        why=Why(Adjustment.Reason.LATE_CALL, at, "The call was booked when its month was closed."),
    )


def move_checkpoint(cursor: Any, journal_id: uuid.UUID, before: Position, behind: Position) -> None:
    """The fence: take the checkpoint from `before` to `behind`. Raises: LostFence."""
    journal, now = uuid_text(journal_id.bytes), datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
    if before == Position(0, 0):
        cursor.execute(
            "INSERT INTO billing_journalcheckpoint (journal_id, segment, position, finished, updated_at) "
            "VALUES (%s, 0, 0, %s, %s) ON CONFLICT (journal_id) DO NOTHING",
            [journal, False, now],
        )
    cursor.execute(
        "UPDATE billing_journalcheckpoint SET segment = %s, position = %s, updated_at = %s "
        "WHERE journal_id = %s AND segment = %s AND position = %s",
        [behind.segment, behind.offset, now, journal, before.segment, before.offset],
    )
    if cursor.rowcount != 1:
        raise LostFence(f"journal {journal_id} is no longer at {before.segment}:{before.offset}")


# -- spend logs --------------------------------------------------------------------

LOG_COLUMNS = (
    "id", "started_at", "ended_at", "dialect", "streamed", "status", "http_status", "error_type",
    "error_message", "customer_id", "key_id", "team_id", "user_id", "tags", "session_id", "user_agent",
    "client_tool", "client_call_id", "client_left", "model", "deployment_id", "upstream", "provider",
    "upstream_model", "response_id", "service_tier", "attempts", "usage_source", "input_uncached",
    "cache_read", "cache_write_5m", "cache_write_1h", "output_text", "reasoning", "input_audio",
    "output_audio", "input_image", "output_image", "web_searches", "price_id", "cost", "charge",
    "latency_ms", "first_token_ms", "metadata", "request_body", "response_body", "units",
)  # fmt: skip
_COLUMN_LIST = ", ".join(f'"{name}"' for name in LOG_COLUMNS)
_to_json = msgspec.json.Encoder().encode


def _insert_logs(cursor: Any, calls: Sequence[CallRecords]) -> None:
    rows = map(_log_row, calls)
    if connection.vendor == "postgresql":
        statement = f"COPY billing_spendlog ({_COLUMN_LIST}) FROM STDIN"
        # Django wraps a cursor's own methods; what COPY raises would stay psycopg's.
        with connection.wrap_database_errors, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    else:
        marks = ", ".join(["%s"] * len(LOG_COLUMNS))
        cursor.executemany(
            f"INSERT INTO billing_spendlog ({_COLUMN_LIST}) VALUES ({marks})",
            list(rows),
        )


def _log_row(call: CallRecords) -> tuple:
    """Return the values of `LOG_COLUMNS`, as texts and numbers that every database takes."""
    opened, closed = call.opened, call.closed
    first_token_us = closed.first_token_us
    return (
        uuid_text(opened.call_id),
        timestamp(opened.started_us),
        timestamp(closed.ended_us),
        opened.dialect,
        opened.streamed,
        closed.status,
        closed.http_status,
        closed.error_type,
        closed.error_message,
        opened.customer_id,
        None if opened.key_id is None else uuid_text(opened.key_id),
        opened.team_id,
        opened.user_id,
        _to_json(opened.tags).decode() if opened.tags else "[]",
        opened.session_id,
        opened.user_agent,
        opened.client_tool,
        opened.client_call_id,
        closed.client_left,
        opened.model,
        closed.deployment_id,
        closed.upstream,
        closed.provider,
        closed.upstream_model,
        closed.response_id,
        closed.service_tier,
        _to_json(closed.attempts).decode() if closed.attempts else "[]",
        closed.usage_source,
        *closed.usage,
        closed.price_id,
        closed.cost_nano,
        closed.charge_nano,
        milliseconds(closed.ended_us - opened.started_us),
        None if first_token_us is None else milliseconds(first_token_us),
        _to_json(opened.metadata).decode() if opened.metadata else "{}",
        opened.request_body,
        closed.response_body,
        _to_json(closed.units).decode() if closed.units else None,
    )


# -- customers and totals ------------------------------------------------------------


def _upsert_customers(cursor: Any, calls: Iterable[CallRecords]) -> None:
    """Make the customers that are seen for the first time.

    A call that failed makes none, unless the provider bills it: a stream that broke off.
    """
    make_customers(
        cursor,
        {
            call.opened.customer_id
            for call in calls
            if call.opened.customer_id and (call.closed.status not in _SPENT_NOTHING or call.closed.cost_nano)
        },
    )


def make_customers(cursor: Any, ids: Iterable[str]) -> None:
    """Make the customers that there are not yet; leave all others as they are (H12)."""
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(" ")
    _insert_many(
        cursor,
        "INSERT INTO customers_customer (id, alias, blocked, allowed_model_region, default_model, metadata, "
        "created_at, updated_at)",
        (("text", "id"),),
        [(customer_id,) for customer_id in sorted(ids)],
        "{id}, '', FALSE, '', '', '{{}}', " + f"'{now}', '{now}'",
        "ON CONFLICT (id) DO NOTHING",
    )


_TOTAL_COLUMNS = (
    ("text", "holder_type"),
    ("text", "holder_id"),
    ("bigint", "cost"),
    ("bigint", "charge"),
    ("bigint", "calls"),
    ("bigint", "failed_calls"),
    ("bigint", "unpriced_calls"),
    ("bigint", "prompt_tokens"),
    ("bigint", "completion_tokens"),
    ("timestamptz", "last_call_at"),
)


def _add_totals(
    cursor: Any, calls: Iterable[CallRecords], holders_of: Iterable[list[tuple[str, str]]]
) -> dict[tuple[str, str], list[int]]:
    """Add each call to the all-time totals of every holder it has; return what was added to each."""
    totals: dict[tuple[str, str], list[int]] = {}
    for call, behind in zip(calls, holders_of, strict=True):
        amounts = _amounts(call)
        cost, charge, count, failed, unpriced, prompt, completion, started_us = amounts
        for holder in behind:
            total = totals.get(holder)
            if total is None:
                totals[holder] = [*amounts]
                continue
            # Optimization: eight times per call; a loop over the columns takes three times as long.
            total[0] += cost
            total[1] += charge
            total[2] += count
            total[3] += failed
            total[4] += unpriced
            total[5] += prompt
            total[6] += completion
            if started_us > total[7]:
                total[7] = started_us
    rows = [(*holder, *amounts[:7], timestamp(amounts[7])) for holder, amounts in sorted(totals.items())]
    names = [name for _, name in _TOTAL_COLUMNS]
    table = SpendTotal._meta.db_table
    later = "GREATEST" if connection.vendor == "postgresql" else "MAX"
    added = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in names[2:-1])
    _insert_many(
        cursor,
        f"INSERT INTO {table} ({', '.join(names)})",
        _TOTAL_COLUMNS,
        rows,
        ", ".join(f"{{{name}}}" for name in names),
        f"ON CONFLICT (holder_type, holder_id) DO UPDATE SET {added}, "
        # A total that was made for a budget period has seen no call yet.
        f"last_call_at = {later}(COALESCE({table}.last_call_at, EXCLUDED.last_call_at), "
        "EXCLUDED.last_call_at)",
    )
    return totals


def _amounts(call: CallRecords) -> tuple[int, ...]:
    closed, usage = call.closed, call.closed.usage
    return (
        closed.cost_nano or 0,
        closed.charge_nano or 0,
        1,
        1 if closed.status in _SPENT_NOTHING else 0,
        1 if closed.cost_nano is None else 0,
        usage.prompt_tokens,
        usage.completion_tokens,
        call.opened.started_us,
    )


def _holders(opened: Opened) -> list[tuple[str, str]]:
    return holders(
        key_id=None if opened.key_id is None else _written(opened.key_id),
        team_id=opened.team_id,
        user_id=opened.user_id,
        customer_id=opened.customer_id,
        tags=opened.tags,
    )


@lru_cache(maxsize=4096)
def _written(key_id: bytes) -> str:
    # Optimization: there are a few keys, and writing a UUID takes a microsecond.
    return str(uuid.UUID(bytes=key_id))


def _insert_many(
    cursor: Any,
    insert: str,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[tuple],
    values: str,
    conflict: str,
) -> None:
    """Insert `rows`, in their order, in one statement on PostgreSQL, one each on SQLite.

    columns: (PostgreSQL type, name) of each row's values; values: the SELECT list,
    with `{name}` where a row's value goes. All of it is our own text.
    """
    if not rows:
        return
    names = [name for _, name in columns]
    if connection.vendor == "postgresql":
        # Optimization: `FROM unnest(…, …)` would store each array apart before it reads them side by side.
        arrays = ", ".join(f"unnest(%s::{type_}[]) AS {name}" for type_, name in columns)
        select = values.format(**{name: name for name in names})
        prepared(
            cursor,
            f"{insert} SELECT {select} FROM (SELECT {arrays}) AS given {conflict}",
            [array(column) for column in zip(*rows, strict=True)],
        )
    else:
        select = values.format(**dict.fromkeys(names, "%s"))
        cursor.executemany(f"{insert} VALUES ({select}) {conflict}", rows)


# -- what cannot be booked as it is --------------------------------------------------


def quarantined(call: CallRecords, problem: str) -> CallRecords:
    """Return a minimal, always storable form of a call that the database refused: with its cost (J4)."""
    opened, closed = call.opened, call.closed
    minimal = type(opened)(
        call_id=opened.call_id,
        started_us=min(max(opened.started_us, 0), _LAST_STORABLE_US),
        dialect="unknown",
        model="",
        streamed=False,
    )
    return CallRecords(
        minimal,
        Closed(
            call_id=opened.call_id,
            ended_us=minimal.started_us,
            status=SpendLog.Status.QUARANTINED.value,
            error_type="quarantined",
            error_message=problem[:400].encode("ascii", "replace").decode().replace("\0", "?"),
            usage_source=SpendLog.UsageSource.NONE.value,
            cost_nano=_storable(closed.cost_nano),
            charge_nano=_storable(closed.charge_nano),
        ),
    )


def _storable(nano: int | None) -> int | None:
    return nano if nano is not None and abs(nano) < 1 << 62 else None


_LAST_STORABLE_US = 4_102_444_800_000_000  # the year 2100


def booked_ids(call_ids: Iterable[bytes]) -> set[bytes]:
    """Return which of these calls have a row."""
    ids = [uuid.UUID(bytes=call_id) for call_id in call_ids]
    found = SpendLog.objects.filter(pk__in=ids).values_list("pk", flat=True)
    return {call_id.bytes for call_id in found}


class _Undo(Exception):
    """Ends a rehearsal."""


def rehearse(call: CallRecords) -> None:
    """Write one call and undo it. Raises: what the database has against it."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            _write(cursor, [call])
            raise _Undo
    except _Undo:
        return
