"""
Deliveries: which are due, who has them, when they are tried again.

    due → leased → delivered
     ↑        ↓
     └── failed once … failed for good (and due again when replayed)

A worker takes what it posts by a conditional UPDATE with a lease, posts outside of any
transaction, and writes down how it went, if the lease is still its own (E1). A worker
that dies lets its leases run out. The posting itself is in `deliverer.py`.

A lane is what one receiver has to get: one webhook endpoint, Slack, e-mail. One worker
at a time has a lane; a lane whose receiver fails again and again pauses, and is then
tried with one delivery at a time.
"""

import random
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from billing.bulk import for_update, given, instant
from billing.models import Channel, Delivery, DeliveryLane, Event, WebhookEndpoint
from billing.models.delivery import lane_of
from customers.ids import first_uuid7_at

# After the first attempt fails, the second follows this much later, and so on: about three days in all.
RETRY_DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 43200, 72000, 86400)
)
JITTER = 0.2  # each delay is up to a fifth shorter or longer
# What a paused lane never tried is given up after the same time.
RETRY_FOR = timedelta(days=4)
LONGEST_RETRY_AFTER = timedelta(days=1)

LANE_LEASE = timedelta(seconds=15)
PAUSE_AFTER = 20  # failures in a row
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
LONGEST_LANE_PAUSE = timedelta(hours=1)  # that a receiver can ask for

MAX_ANSWER = 2000  # characters that are kept of an answer
_MAX_ERROR = 500
_CHUNK = 500  # rows a statement changes: on SQLite others wait meanwhile
MOST_REPLAYED = 10_000
MOST_COUNTED = 10_000
_to_json = msgspec.json.Encoder().encode


class Result(NamedTuple):
    """How an attempt went, ready to be written. `next_attempt_at` None: nothing is left to do."""

    delivery_id: int
    state: Delivery.State
    at: datetime
    next_attempt_at: datetime | None
    status: int | None
    answer: str
    error: str
    failure: dict[str, Any] | None


def next_attempt(delivery: Delivery, *, at: datetime, retry_after: float | None = None) -> datetime | None:
    """Return when a delivery whose attempt at `at` failed is tried again; None: never."""
    if delivery.attempts >= len(RETRY_DELAYS):
        return None
    delay = RETRY_DELAYS[delivery.attempts] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  no secret
    if retry_after is not None:
        delay = max(delay, min(timedelta(seconds=max(0.0, retry_after)), LONGEST_RETRY_AFTER))
    return None if at + delay > delivery.since + RETRY_FOR else at + delay


def pause_after(failures_in_a_row: int) -> timedelta | None:
    """Return how long a lane pauses after so many failures; None: it goes on."""
    beyond = failures_in_a_row - PAUSE_AFTER
    if beyond < 0:
        return None
    return min(_FIRST_PAUSE * 2 ** min(beyond, 10), _LONGEST_PAUSE)


# -- lanes ---------------------------------------------------------------------------


def open_lanes() -> dict[str, WebhookEndpoint | None]:
    """Return every lane that may be worked: active endpoints, Slack, e-mail. One query."""
    endpoints = WebhookEndpoint.objects.filter(is_active=True)
    lanes: dict[str, WebhookEndpoint | None] = {
        lane_of(Channel.WEBHOOK, endpoint.pk): endpoint for endpoint in endpoints
    }
    return {**lanes, lane_of(Channel.SLACK): None, lane_of(Channel.EMAIL): None}


def due_lanes(names: Sequence[str], *, at: datetime) -> list[str]:
    """Return which of the lanes have something due, do not pause, and are nobody's. One query."""
    source = given((("text", "name"),), [(name,) for name in names])
    now = instant(at)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT given.name FROM {source.sql} LEFT JOIN billing_deliverylane AS lane "
            "ON lane.name = given.name WHERE (lane.paused_until IS NULL OR lane.paused_until <= %s) "
            "AND (lane.held_until IS NULL OR lane.held_until <= %s) "
            "AND EXISTS (SELECT 1 FROM billing_delivery AS delivery WHERE delivery.lane = given.name "
            "AND delivery.next_attempt_at <= %s)",
            [*source.parameters, now, now, now],
        )
        return [name for (name,) in cursor.fetchall()]


def hold_lane(name: str, holder: uuid.UUID, *, at: datetime) -> DeliveryLane | None:
    """Take a lane, or keep it for longer; return how it goes with it, or None where another has it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_deliverylane (name, holder, held_until, failures_in_a_row) "
            "VALUES (%s, %s, %s, 0) ON CONFLICT (name) DO UPDATE "
            "SET holder = EXCLUDED.holder, held_until = EXCLUDED.held_until "
            "WHERE billing_deliverylane.held_until IS NULL OR billing_deliverylane.held_until <= %s "
            "OR billing_deliverylane.holder = EXCLUDED.holder",
            [name, holder.hex, instant(at + LANE_LEASE), instant(at)],
        )
        is_held = cursor.rowcount == 1
    return DeliveryLane.objects.get(pk=name) if is_held else None


def write_lane(lane: DeliveryLane, *, holder: uuid.UUID, release: bool = False) -> None:
    """Write down how it goes with a lane that `holder` has; let go of it with `release`."""
    fields: dict[str, Any] = {
        "paused_until": lane.paused_until,
        "failures_in_a_row": lane.failures_in_a_row,
        "failing_since": lane.failing_since,
        "last_success_at": lane.last_success_at,
    }
    if release:
        fields |= {"holder": None, "held_until": None}
    DeliveryLane.objects.filter(pk=lane.pk, holder=holder).update(**fields)


# -- claiming and finishing ----------------------------------------------------------


def claim(lane: str, count: int, *, lease: uuid.UUID, at: datetime, until: datetime) -> list[Delivery]:
    """Lease up to `count` due deliveries of a lane, the oldest first, and return them with their events."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_delivery SET state = 'leased', lease = %s, next_attempt_at = %s WHERE id IN "
            "(SELECT id FROM billing_delivery WHERE lane = %s AND next_attempt_at <= %s "
            f"ORDER BY next_attempt_at, id LIMIT %s {for_update(skip_locked=True)}) "
            "AND next_attempt_at <= %s RETURNING id",
            [lease.hex, instant(until), lane, instant(at), count, instant(at)],
        )
        ids = [row[0] for row in cursor.fetchall()]
    if not ids:
        return []
    return list(Delivery.objects.filter(pk__in=ids).select_related("event").order_by("pk"))


def release(delivery_ids: Iterable[int], *, lease: uuid.UUID, at: datetime) -> None:
    """Give back what was leased and not tried."""
    Delivery.objects.filter(pk__in=list(delivery_ids), lease=lease, state=Delivery.State.LEASED).update(
        state=Delivery.State.DUE, lease=None, next_attempt_at=at
    )


def finish(results: Sequence[Result], *, lease: uuid.UUID) -> None:
    """Write down how attempts went, of those that are still leased to us. One statement."""
    if not results:
        return
    # In the order of ids, as whoever else writes several deliveries.
    source = given(_RESULT_COLUMNS, [_result_row(each) for each in sorted(results)])
    if connection.vendor == "postgresql":
        failures = "failures || COALESCE(given.failure::jsonb, '[]'::jsonb)"
    else:
        failures = (
            "CASE WHEN given.failure IS NULL THEN failures "
            "ELSE json_insert(failures, '$[#]', json(json_extract(given.failure, '$[0]'))) END"
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_delivery SET state = given.state, attempts = attempts + 1, lease = NULL, "
            "next_attempt_at = given.due_at, last_attempt_at = given.at, last_status = given.status, "
            "last_answer = given.answer, last_error = given.error, delivered_at = given.delivered_at, "
            f"failures = {failures} FROM {source.sql} "
            "WHERE billing_delivery.id = given.id AND billing_delivery.lease = %s",
            [*source.parameters, lease.hex],
        )


_RESULT_COLUMNS = (
    ("bigint", "id"),
    ("text", "state"),
    ("timestamptz", "due_at"),
    ("timestamptz", "at"),
    ("timestamptz", "delivered_at"),
    ("integer", "status"),
    ("text", "answer"),
    ("text", "error"),
    ("text", "failure"),
)


def _result_row(result: Result) -> tuple:
    at = instant(result.at)
    return (
        result.delivery_id,
        result.state.value,
        None if result.next_attempt_at is None else instant(result.next_attempt_at),
        at,
        at if result.state == Delivery.State.DELIVERED else None,
        result.status,
        storable(result.answer, MAX_ANSWER),
        storable(result.error, _MAX_ERROR),
        None if result.failure is None else _to_json([result.failure]).decode(),
    )


def storable(text: str, longest: int) -> str:
    """Return the beginning of what a stranger sent, without what a database refuses."""
    return text[:longest].replace("\0", "�").encode("utf-8", "replace").decode()


# -- again, and no more ----------------------------------------------------------------


def replay(deliveries: QuerySet[Delivery], *, at: datetime) -> int:
    """Make finished deliveries due again, from their first attempt on; return how many.

    Those that wait for their next attempt are due now; what is being posted is left alone.
    At most `MOST_REPLAYED` at a time: call again for the rest. The ids of the events stay.
    """
    finished = deliveries.filter(state__in=[Delivery.State.FAILED, Delivery.State.DELIVERED])
    waiting = deliveries.filter(state=Delivery.State.DUE, next_attempt_at__gt=at)
    replayed = waiting.update(next_attempt_at=at)
    while replayed < MOST_REPLAYED:
        ids = list(finished.order_by("pk").values_list("pk", flat=True)[:_CHUNK])
        if not ids:
            break
        # Checked again: another may replay the same at the same time.
        count = Delivery.objects.filter(pk__in=ids, next_attempt_at=None).update(
            state=Delivery.State.DUE, attempts=0, since=at, next_attempt_at=at
        )
        if not count:
            break
        replayed += count
    return replayed


def failed(*, endpoint_id: int | None = None, since: datetime | None = None) -> QuerySet[Delivery]:
    """Return deliveries that were given up, of one endpoint or all, of events since then or all."""
    deliveries = Delivery.objects.filter(state=Delivery.State.FAILED)
    if endpoint_id is not None:
        deliveries = deliveries.filter(lane=lane_of(Channel.WEBHOOK, endpoint_id))
    if since is not None:
        deliveries = deliveries.filter(event_id__gte=first_uuid7_at(since))
    return deliveries


def give_up_old(*, at: datetime) -> int:
    """Fail what has waited for longer than retries last: of paused lanes, of endpoints that are off."""
    count = 0
    while True:
        ids = list(
            Delivery.objects.filter(state=Delivery.State.DUE, since__lt=at - RETRY_FOR)
            .order_by("pk")
            .values_list("pk", flat=True)[:_CHUNK]
        )
        given_up = Delivery.objects.filter(pk__in=ids, state=Delivery.State.DUE).update(
            state=Delivery.State.FAILED,
            next_attempt_at=None,
            last_error="Given up: the receiver was off or failing all the time.",
        )
        count += given_up
        if not given_up:
            return count


def prune(*, at: datetime) -> int:
    """Delete events older than EVENT_KEEP_DAYS, with their deliveries; return how many events."""
    oldest_kept = first_uuid7_at(at - timedelta(days=settings.EVENT_KEEP_DAYS))
    count = 0
    while True:
        ids = list(
            Event.objects.filter(pk__lt=oldest_kept).order_by("pk").values_list("pk", flat=True)[:_CHUNK]
        )
        if not ids:
            return count
        with transaction.atomic():
            Delivery.objects.filter(event_id__in=ids)._raw_delete(using=connection.alias)
            deleted = Event.objects.filter(pk__in=ids)._raw_delete(using=connection.alias)
        if not deleted:  # another worker prunes
            return count
        count += deleted


# -- how it goes ---------------------------------------------------------------------


class LaneHealth(NamedTuple):
    """How it goes with one lane. waiting: at most `MOST_COUNTED`, which means that or more."""

    name: str
    waiting: int
    oldest_since: datetime | None
    failing_since: datetime | None
    paused_until: datetime | None
    last_success_at: datetime | None


def delivery_health() -> list[LaneHealth]:
    """Return how it goes with each lane that waits or fails. Two queries a lane, whatever waits there."""
    lanes = {lane.pk: lane for lane in DeliveryLane.objects.all()}
    found = [_health(name, lanes.get(name)) for name in sorted({*open_lanes(), *lanes})]
    return [health for health in found if health.waiting or health.failing_since is not None]


def health_of(name: str) -> LaneHealth:
    return _health(name, DeliveryLane.objects.filter(pk=name).first())


def _health(name: str, lane: DeliveryLane | None) -> LaneHealth:
    lane = lane or DeliveryLane(name=name)
    first = _waiting(name).order_by("next_attempt_at", "pk").values_list("since", flat=True).first()
    return LaneHealth(
        name,
        0 if first is None else count_waiting(name),
        first,
        lane.failing_since,
        lane.paused_until,
        lane.last_success_at,
    )


def count_waiting(name: str) -> int:
    """Return how many deliveries of a lane are due or under way: at most `MOST_COUNTED`."""
    return _waiting(name).values("pk")[:MOST_COUNTED].count()


def _waiting(name: str) -> QuerySet[Delivery]:
    return Delivery.objects.filter(lane=name, next_attempt_at__isnull=False)


def readiness() -> dict[str, Any]:
    """Return what /health/readiness tells of deliveries."""
    health = delivery_health()
    waiting = sum(lane.waiting for lane in health)
    return {
        "waiting": waiting,
        "waiting_is_capped": any(lane.waiting >= MOST_COUNTED for lane in health),
        "oldest_since": min((lane.oldest_since for lane in health if lane.oldest_since), default=None),
        "failing": [lane.name for lane in health if lane.failing_since is not None],
    }
