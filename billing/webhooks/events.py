"""
The outbox: events are written in the transaction that makes them true, with a delivery for each receiver.

    number → events → deliveries          … commit … wake the deliverer

Numbers are drawn from one row, whose lock is held until commit: they become visible in
order, so a reader of `/events` misses none (E2). The counter is the last lock that a
transaction takes (docs/locking.md). In the ledger it costs nothing: bookings wait for
each other at the gateway's total anyway.

Who is told is read from a snapshot of the endpoints that is at most a second old. What
`spend_tracked` says is in `spend_events.py`, how events travel in `deliverer.py`.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction

from billing.bulk import array, instant, prepared
from billing.models import Channel, WebhookEndpoint
from billing.models.delivery import lane_of
from billing.models.event import wire_id
from billing.webhooks.wakeups import wake_deliverer
from customers.api.json import write_exact
from customers.ids import uuid7_at

_SNAPSHOT_SECONDS = 1.0


class NewEvent(NamedTuple):
    """An event to be written.

    body: what is posted, amounts as `Decimal`; id, timestamp and sequence are added to it.
    emails: to whom it is mailed; slack: whether Slack is told; webhook: whether the
    endpoints are that want it.
    """

    type: str
    group: str
    customer_id: str
    body: dict[str, Any]
    emails: tuple[str, ...] = ()
    slack: bool = False
    webhook: bool = True


class Receiver(NamedTuple):
    """An endpoint, as far as who is told depends on it. Empty filters let everything through."""

    endpoint_id: int
    lane: str
    event_types: frozenset[str]
    customer_ids: frozenset[str]

    def wants(self, event_type: str, customer_id: str) -> bool:
        return (not self.event_types or event_type in self.event_types) and (
            not self.customer_ids or customer_id in self.customer_ids
        )


class Target(NamedTuple):
    """Where one delivery goes."""

    channel: str
    endpoint_id: int | None
    lane: str
    target: str = ""


class Written(NamedTuple):
    """An event as it is inserted: `text` is what is posted."""

    id: str  # 32 hex digits
    sequence: int
    type: str
    group: str
    customer_id: str
    text: str
    targets: Sequence[Target]


def write_events(cursor: Any, events: Sequence[NewEvent], *, at: datetime) -> list[uuid.UUID]:
    """Write events and their deliveries, in the caller's transaction; return the events' ids, in order.

    Locks the event counter until the transaction ends: call it behind all other locks.
    Commit wakes the deliverer. Five statements at most, however many events.
    """
    if not events:
        return []
    first = draw_sequences(cursor, len(events))
    milliseconds = int(at.timestamp() * 1000)
    ids, written = [], []
    for sequence, event in enumerate(events, first):
        event_id = uuid7_at(milliseconds)
        ids.append(event_id)
        body = {**event.body, "id": wire_id(event_id), "timestamp": at, "sequence": sequence}
        text = write_exact(body)
        targets = list(_targets(event))
        written.append(
            Written(event_id.hex, sequence, event.type, event.group, event.customer_id, text, targets)
        )
    insert(cursor, written, at=at)
    return ids


def _targets(event: NewEvent) -> Iterator[Target]:
    if event.webhook:
        for receiver in current_receivers():
            if receiver.wants(event.type, event.customer_id):
                yield target_of(receiver)
    if event.slack:
        yield Target(Channel.SLACK.value, None, lane_of(Channel.SLACK))
    for address in dict.fromkeys(event.emails):
        yield Target(Channel.EMAIL.value, None, lane_of(Channel.EMAIL), address)


def target_of(receiver: Receiver) -> Target:
    return Target(Channel.WEBHOOK.value, receiver.endpoint_id, receiver.lane)


def draw_sequences(cursor: Any, count: int) -> int:
    """Take the next `count` numbers and return the first. Locks the counter until the transaction ends."""
    row = prepared(
        cursor,
        "INSERT INTO billing_eventcounter (id, value) VALUES (1, %s) "
        "ON CONFLICT (id) DO UPDATE SET value = billing_eventcounter.value + EXCLUDED.value RETURNING value",
        [count],
    ).fetchone()
    return row[0] - count + 1


def insert(cursor: Any, events: Sequence[Written], *, at: datetime) -> None:
    """Insert numbered events and their deliveries; have the deliverer woken when that is committed."""
    _insert_events(cursor, events, instant(at))
    insert_deliveries(cursor, [(event.id, target) for event in events for target in event.targets], at=at)


_EVENT_COLUMNS = "id, sequence, type, event_group, customer_id, text, created_at"


def _insert_events(cursor: Any, events: Sequence[Written], now: str) -> None:
    if connection.vendor != "postgresql":
        cursor.executemany(
            f"INSERT INTO billing_event ({_EVENT_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [(*event[:6], now) for event in events],
        )
        return
    # Optimization: written as COPY reads it, in one piece; psycopg takes 1 µs for each value.
    lines = "".join(
        [
            f"{each.id}\t{each.sequence}\t{each.type}\t{each.group}\t{_copied(each.customer_id)}\t"
            f"{_copied(each.text)}\t{now}\n"
            for each in events
        ]
    )
    with (
        connection.wrap_database_errors,
        cursor.copy(f"COPY billing_event ({_EVENT_COLUMNS}) FROM STDIN") as copy,
    ):
        copy.write(lines)


def _copied(text: str) -> str:
    """Return a text as COPY's text format has it."""
    text = text.replace("\\", "\\\\")
    return text if text.isprintable() else text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def insert_deliveries(cursor: Any, wanted: Sequence[tuple[str, Target]], *, at: datetime) -> None:
    """Insert deliveries, due at once. wanted: the event's id in hex, and where it goes."""
    if not wanted:
        return
    # Optimization: there are many events and few targets; each is sent once.
    numbers: dict[Target, int] = {}
    events = [(event_id, numbers.setdefault(target, len(numbers))) for event_id, target in wanted]
    if connection.vendor == "postgresql":
        sources = (
            "unnest(%s::uuid[], %s::integer[]) AS event(id, target_number)",
            "unnest(%s::integer[], %s::text[], %s::bigint[], %s::text[], %s::text[]) "
            "AS target(number, channel, endpoint_id, lane, target)",
        )
        rows = [(number, *target) for target, number in numbers.items()]
        parameters = [array(column) for table in (events, rows) for column in zip(*table, strict=True)]
    else:
        sources = (_EVENTS_OF_JSON, _TARGETS_OF_JSON)
        parameters = [
            write_exact(events),
            write_exact([(number, *target) for target, number in numbers.items()]),
        ]
    prepared(
        cursor,
        "INSERT INTO billing_delivery (event_id, channel, endpoint_id, lane, target, state, attempts, "
        "since, next_attempt_at, last_answer, last_error, failures) "
        "SELECT event.id, target.channel, target.endpoint_id, target.lane, target.target, 'due', 0, "
        f"{_moment()}, {_moment()}, '', '', '[]' "
        f"FROM {sources[0]} JOIN {sources[1]} ON target.number = event.target_number",
        [instant(at), instant(at), *parameters],
    )
    transaction.on_commit(wake_deliverer)


_EVENTS_OF_JSON = (
    "(SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS target_number "
    "FROM json_each(%s)) AS event"
)
_TARGETS_OF_JSON = (
    "(SELECT json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS channel, "
    "json_extract(value, '$[2]') AS endpoint_id, json_extract(value, '$[3]') AS lane, "
    "json_extract(value, '$[4]') AS target FROM json_each(%s)) AS target"
)


def _moment() -> str:
    # In a SELECT list PostgreSQL would take it for text.
    return "%s::timestamptz" if connection.vendor == "postgresql" else "%s"


# -- who is told -----------------------------------------------------------------------


class _Snapshot:
    """The active endpoints, read again when they were read more than a second ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._receivers: tuple[Receiver, ...] = ()
        self._read_at = float("-inf")

    def current(self) -> tuple[Receiver, ...]:
        if time.monotonic() - self._read_at > _SNAPSHOT_SECONDS:
            with self._lock:
                receivers = tuple(_receivers())
                self._receivers, self._read_at = receivers, time.monotonic()
        return self._receivers

    def forget(self) -> None:
        self._read_at = float("-inf")


def _receivers() -> Iterator[Receiver]:
    rows = WebhookEndpoint.objects.filter(is_active=True).order_by("pk")
    for endpoint_id, types, customers in rows.values_list("pk", "event_types", "customer_ids"):
        lane = lane_of(Channel.WEBHOOK, endpoint_id)
        yield Receiver(endpoint_id, lane, frozenset(types), frozenset(customers))


_snapshot = _Snapshot()


def current_receivers() -> tuple[Receiver, ...]:
    """Return the active endpoints, as of at most a second ago. Mostly no query."""
    return _snapshot.current()


def forget_receivers() -> None:
    """Have the endpoints read again: after a change in this process, and between tests."""
    _snapshot.forget()


def customer_group() -> str:
    """Return the `event_group` of customers: LiteLLM's documentation says one thing, its code another."""
    return "end_user" if settings.EVENT_GROUPS == "litellm" else "customer"
