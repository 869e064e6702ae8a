"""
Many rows in one statement, in the same words on PostgreSQL and SQLite.

    source = given((("bigint", "id"), ("bigint", "held")), rows)
    f"UPDATE … SET held = given.held FROM {source.sql} WHERE … = given.id", source.parameters

PostgreSQL takes arrays apart, SQLite JSON. Values are always parameters; the names in
the statements are our own. Also here: how instants and UUIDs are written and read in
statements that do not go through the ORM.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.db import connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_to_json = msgspec.json.Encoder().encode


class Given(NamedTuple):
    """A piece of a statement, `given` as a table or a condition, and the parameters it takes."""

    sql: str
    parameters: list[Any]


def given(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> Given:
    """Return `rows` as a table, in their order.

    columns: (PostgreSQL type, name) of each row's values. Values are numbers and texts:
    instants, UUIDs and JSON go in as the texts that the functions below make.
    """
    if connection.vendor == "postgresql":
        arrays = ", ".join(f"%s::{type_}[]" for type_, _ in columns)
        names = ", ".join(name for _, name in columns)
        lists = [array(column) for column in zip(*rows, strict=True)] or ["{}" for _ in columns]
        return Given(f"unnest({arrays}) AS given({names})", lists)
    values = ", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, (_, name) in enumerate(columns))
    return Given(f"(SELECT {values} FROM json_each(%s)) AS given", [_to_json(rows).decode()])


def prepared(cursor: Any, statement: str, parameters: Sequence[Any] = ()) -> Any:
    """Execute a statement whose text never changes, and return the cursor that has its rows.

    Optimization: PostgreSQL keeps it parsed and planned for the connection. For the short
    statements of admission and settlement that is most of the work.
    """
    # Where somebody looks on (DEBUG, tests, an `execute_wrapper`), it is Django's cursor that tells them.
    is_watched = connection.queries_logged or connection.execute_wrappers
    if connection.vendor != "postgresql" or is_watched:
        cursor.execute(statement, parameters)
        return cursor
    connection.ensure_connection()
    # Django switches preparing off altogether; psycopg then ignores `prepare=True` in silence.
    connection.connection.prepare_threshold = 0
    with connection.wrap_database_errors:
        return psycopg.Cursor(connection.connection).execute(statement, parameters, prepare=True)


def among(column: str, type_: str, values: Sequence[Any]) -> Given:
    """Return a condition: `column` is one of the values. Numbers and texts, as in `given`."""
    if connection.vendor == "postgresql":
        return Given(f"{column} = ANY(%s::{type_}[])", [array(values)])
    return Given(f"{column} IN (SELECT value FROM json_each(%s))", [_to_json(values).decode()])


def array(column: Sequence[Any]) -> str:
    """Return a column as PostgreSQL writes arrays. Optimization: psycopg takes 2 µs for each value."""
    kinds = set(map(type, column))
    if kinds == {int}:  # Optimization: a fifth of the time of the general way below; so is plain text
        return "{" + str([*column])[1:-1] + "}"
    if kinds == {str}:
        text = '","'.join(column)
        if "\\" not in text and text.count('"') == 2 * (len(column) - 1):
            return '{"' + text + '"}'
    return "{" + ",".join([_element(value) for value in column]) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def for_update(*, skip_locked: bool = False) -> str:
    """Return what locks the selected rows. SQLite has one writer: its transactions cannot meet."""
    if connection.vendor != "postgresql":
        return ""
    return "FOR UPDATE SKIP LOCKED" if skip_locked else "FOR UPDATE"


def database_time(seconds: float) -> str:
    """Return an expression for so many seconds from now by the database's clock."""
    if connection.vendor == "postgresql":
        return f"clock_timestamp() + interval '{seconds:.3f} seconds'"
    # As Django writes instants. The percent signs are doubled for statements with parameters.
    return f"strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '{seconds:+.3f} seconds')"


def uuid_text(raw: bytes) -> str:
    """Return a UUID as both databases take it: SQLite stores 32 hex digits, PostgreSQL reads them."""
    return raw.hex()


def uuid_bytes(value: uuid.UUID | str) -> bytes:
    """Return the 16 bytes of a UUID that either database returned."""
    return value.bytes if isinstance(value, uuid.UUID) else bytes.fromhex(value)


def timestamp(us: int) -> str:
    """Return Unix microseconds as naive UTC: SQLite stores that, PostgreSQL's session is in UTC."""
    second, fraction = divmod(us, 1_000_000)
    return f"{_second(second)}.{fraction:06d}"


@lru_cache(maxsize=1024)
def _second(at_s: int) -> str:
    # Optimization: the calls of a batch fall into a few seconds.
    return datetime.fromtimestamp(at_s, UTC).replace(tzinfo=None).isoformat(" ")


def instant(at: datetime) -> str:
    """Return an aware instant as Django writes it.

    Without a fraction where it has none, unlike `timestamp`: SQLite compares texts, and
    these sort right with each other as long as all bounds are of one kind.
    """
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ")


def microseconds(at: datetime | str) -> int:
    """Return an instant that either database returned as Unix microseconds.

    SQLite returns naive UTC; and the text itself where it does not see that it is a column.
    """
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def from_microseconds(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND
