"""
The deliverer: takes due deliveries lane by lane, posts them, and writes down how it went.

One event loop for all lanes of a worker. Each lane has its own task, its own posts under
way and its own connections, so that a slow receiver delays nobody else. What touches the
database runs in the calling thread, a batch at a time, while posts go on. What is claimed
is in `deliveries.py`.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db import transaction

from billing.models import Delivery, DeliveryLane, WebhookEndpoint
from billing.sinks.base import Outcome, Sink
from billing.sinks.webhook import GONE
from billing.webhooks import deliveries
from billing.webhooks.deliveries import Result
from billing.webhooks.endpoints import switch_off

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_STEP_SECONDS = 0.05  # how long outcomes gather before they are written
_BATCH = 128  # deliveries that a lane claims at most at a time
_RENEW_SECONDS = 5.0
_LEASE_MARGIN = timedelta(seconds=20)  # of a claimed delivery, beyond one post's time limit
_OTHER_CONCURRENCY = 4  # posts at a time of lanes that are no endpoint's
_TOO_MANY = frozenset({429, 503})  # their Retry-After speaks for the whole lane

Clock = Callable[[], datetime]
_running = threading.Lock()  # one deliverer per process is enough: it works all lanes


def deliver(
    *,
    sinks: Callable[[], Mapping[str, Sink]],
    seconds: float,
    linger: float,
    clock: Clock = lambda: datetime.now(UTC),
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Deliver what is due until `seconds` are over, or nothing was due for `linger` seconds.

    sinks: called in the event loop. Safe to run any number of times at the same time: in one
    process the second returns at once, in others it takes other lanes.

    Returns: how many attempts were made.
    """
    if not _running.acquire(blocking=False):
        return 0
    try:
        return async_to_sync(_run)(sinks, seconds, linger, clock, should_stop)
    finally:
        _running.release()


async def _run(
    sinks: Callable[[], Mapping[str, Sink]],
    seconds: float,
    linger: float,
    clock: Clock,
    should_stop: Callable[[], bool],
) -> int:
    made = sinks()
    try:
        return await Deliverer(made, clock=clock, should_stop=should_stop).run(seconds, linger)
    finally:
        for sink in made.values():
            await sink.close()


class Deliverer:
    """One run over all lanes."""

    def __init__(self, sinks: Mapping[str, Sink], *, clock: Clock, should_stop: Callable[[], bool]) -> None:
        self.sinks = sinks
        self.clock = clock
        self.id = uuid.uuid4()
        self.attempts = 0
        self._should_stop = should_stop
        self._ends_at = 0.0
        self._lanes: dict[str, asyncio.Task] = {}

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends_at or self._should_stop()

    async def run(self, seconds: float, linger: float) -> int:
        self._ends_at = time.monotonic() + seconds
        idle_since = time.monotonic()
        try:
            while not self.is_over:
                await self._start_lanes()
                if self._lanes:
                    await asyncio.wait(
                        self._lanes.values(), timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                    self._forget_finished()
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since >= linger:
                    break
                else:
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._ends_at = 0.0  # lanes finish what is under way, and take no more
            if self._lanes:
                await asyncio.wait(self._lanes.values())
                self._forget_finished()
        return self.attempts

    async def _start_lanes(self) -> None:
        for name, endpoint, lane in await sync_to_async(self._hold_due)(list(self._lanes)):
            work = _Lane(self, lane, endpoint)
            self._lanes[name] = asyncio.create_task(work.run(), name=name)

    def _hold_due(self, running: list[str]) -> list[tuple[str, WebhookEndpoint | None, DeliveryLane]]:
        """Take the lanes that have something due. Two queries where there is none."""
        at = self.clock()
        lanes = deliveries.open_lanes()
        waiting = [name for name in lanes if name not in running and _channel(name) in self.sinks]
        found = []
        for name in deliveries.due_lanes(waiting, at=at):
            lane = deliveries.hold_lane(name, self.id, at=at)
            if lane is not None:
                found.append((name, lanes[name], lane))
        return found

    def _forget_finished(self) -> None:
        for name, task in list(self._lanes.items()):
            if task.done():
                del self._lanes[name]
                if error := task.exception():
                    logger.error("lane %s stopped: %s", name, error, exc_info=error)


class _Lane:
    """One lane, as long as it has something due."""

    def __init__(self, deliverer: Deliverer, lane: DeliveryLane, endpoint: WebhookEndpoint | None) -> None:
        self._deliverer = deliverer
        self._sink = deliverer.sinks[_channel(lane.name)]
        self._clock = deliverer.clock
        self._lane = lane
        self._endpoint = endpoint
        self._lease = deliverer.id
        self._concurrency = endpoint.max_concurrency if endpoint else _OTHER_CONCURRENCY
        self._ready: deque[Delivery] = deque()
        self._results: list[Result] = []
        self._under_way: set[asyncio.Task] = set()
        self._renew_at = time.monotonic() + _RENEW_SECONDS
        self._says_gone = False
        self._is_gone = False  # switched off or deleted
        self._is_lost = False  # another worker has the lane

    async def run(self) -> None:
        """Claim, post and write down, until nothing is due or something says stop."""
        try:
            while not await self._step():
                self._start_posts()
                if self._under_way:
                    await asyncio.wait(self._under_way, timeout=_STEP_SECONDS)
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way)
            await sync_to_async(self._let_go)()

    # -- the database's part -------------------------------------------------------------

    async def _step(self) -> bool:
        """Write what is done, claim what is next; return whether the lane is finished."""
        may_claim = not (self._deliverer.is_over or self._is_gone or self._is_lost or self._pauses())
        wanted = self._wanted() if may_claim else 0
        if self._results or wanted or time.monotonic() >= self._renew_at:
            # Taken here and not in the thread: posts go on meanwhile, and add to the next list.
            results, self._results = self._results, []
            claimed = await sync_to_async(self._write_and_claim)(results, wanted)
            self._ready.extend(claimed)
            if wanted and not claimed and not self._ready and not self._under_way:
                return True
        return not may_claim and not self._under_way and not self._results

    def _wanted(self) -> int:
        """Return how many more to claim: enough for the next step, few while the receiver fails."""
        if self._lane.failures_in_a_row >= deliveries.PAUSE_AFTER:
            return 0 if self._ready or self._under_way else 1
        has = len(self._ready)
        return _BATCH - has if has <= max(1, self._concurrency) else 0

    def _write_and_claim(self, results: list[Result], wanted: int) -> list[Delivery]:
        at = self._clock()
        with transaction.atomic():
            deliveries.finish(results, lease=self._lease)
            if self._is_gone:
                return []
            if time.monotonic() >= self._renew_at:
                self._renew(at)
            if not wanted or self._is_lost:
                return []
            until = at + timedelta(seconds=settings.WEBHOOK_TIMEOUT_SECONDS) + _LEASE_MARGIN
            return deliveries.claim(self._lane.name, wanted, lease=self._lease, at=at, until=until)

    def _renew(self, at: datetime) -> None:
        self._renew_at = time.monotonic() + _RENEW_SECONDS
        deliveries.write_lane(self._lane, holder=self._lease)
        self._is_lost = deliveries.hold_lane(self._lane.name, self._lease, at=at) is None
        if self._endpoint is not None:
            # Edited, switched off or deleted meanwhile.
            self._endpoint = WebhookEndpoint.objects.filter(pk=self._endpoint.pk, is_active=True).first()
            self._is_gone = self._endpoint is None

    def _let_go(self) -> None:
        at = self._clock()
        with transaction.atomic():
            deliveries.finish(self._results, lease=self._lease)
            if self._ready:
                deliveries.release([each.pk for each in self._ready], lease=self._lease, at=at)
            deliveries.write_lane(self._lane, holder=self._lease, release=True)
        self._results, self._ready = [], deque()
        if self._says_gone and self._endpoint is not None:
            switch_off(self._endpoint, reason="The receiver answered 410 Gone.")

    # -- posting -------------------------------------------------------------------------

    def _pauses(self) -> bool:
        paused_until = self._lane.paused_until
        return paused_until is not None and self._clock() < paused_until

    def _start_posts(self) -> None:
        if self._deliverer.is_over or self._is_gone or self._pauses():
            return
        limit = 1 if self._lane.failures_in_a_row >= deliveries.PAUSE_AFTER else self._concurrency
        while self._ready and len(self._under_way) < limit:
            task = asyncio.create_task(self._work())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _work(self) -> None:
        """Post one after the other, until nothing is ready or something says stop."""
        while self._ready and not (self._deliverer.is_over or self._is_gone or self._pauses()):
            delivery = self._ready.popleft()
            time_limit = timedelta(seconds=settings.WEBHOOK_TIMEOUT_SECONDS + 1)
            if delivery.next_attempt_at is None or self._clock() + time_limit > delivery.next_attempt_at:
                continue  # its lease ends too soon; it comes again after that
            await self._post(delivery)
            if self._lane.failures_in_a_row >= deliveries.PAUSE_AFTER:
                return

    async def _post(self, delivery: Delivery) -> None:
        delivery.endpoint = self._endpoint
        started = time.monotonic()
        try:
            outcome = await self._sink.send(delivery, delivery.event)
        except Exception as error:
            logger.exception("the sink %s failed", self._sink.channel)
            outcome = Outcome(False, error=f"{type(error).__name__}: an error of ours, see the log.")
        self._deliverer.attempts += 1
        ms = round((time.monotonic() - started) * 1000)
        self._results.append(self._judge(delivery, outcome, at=self._clock(), ms=ms))

    def _judge(self, delivery: Delivery, outcome: Outcome, *, at: datetime, ms: int) -> Result:
        lane = self._lane
        if outcome.ok:
            lane.failures_in_a_row, lane.failing_since, lane.paused_until = 0, None, None
            lane.last_success_at = at
            return Result(
                delivery.pk, Delivery.State.DELIVERED, at, None, outcome.status, outcome.answer, "", None
            )
        lane.failures_in_a_row += 1
        lane.failing_since = lane.failing_since or at
        pause = deliveries.pause_after(lane.failures_in_a_row)
        if outcome.status in _TOO_MANY and outcome.retry_after:
            asked = min(timedelta(seconds=outcome.retry_after), deliveries.LONGEST_LANE_PAUSE)
            pause = max(pause or asked, asked)
        if pause is not None:
            lane.paused_until = at + pause
        if outcome.status == GONE and self._endpoint is not None:
            self._says_gone = self._is_gone = True
        again_at = None
        if not outcome.permanent:
            again_at = deliveries.next_attempt(delivery, at=at, retry_after=outcome.retry_after)
        state = Delivery.State.FAILED if again_at is None else Delivery.State.DUE
        failure = {
            "at": at.isoformat(timespec="milliseconds"),
            "status": outcome.status,
            "error": deliveries.storable(outcome.error, 200),
            "ms": ms,
        }
        return Result(
            delivery.pk, state, at, again_at, outcome.status, outcome.answer, outcome.error, failure
        )


def _channel(lane: str) -> str:
    return lane.partition(":")[0]
