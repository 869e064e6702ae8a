"""
The gateway: everything one web process needs to serve calls, made at start-up.

One per process, living in its event loop; it owns the threads beside it (refresher,
syncer, recorder) and the registry of call tasks. The order of start and stop is
here and nowhere else (C7): stop taking calls, wait for those under way, cut what is
left, then drain the journal into the database.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
from django.db import connection

from billing.booking.estimates import Estimator
from billing.booking.journal import Journal, JournalFull
from billing.booking.recorder import Recorder, Syncer
from billing.booking.records import Record
from billing.booking.write_turn import WriteTurn
from billing.budgets.hold_desk import HoldDesk
from billing.installation import installation_id
from billing.prices.terms import read_terms
from billing.webhooks.endpoints import follow_environment
from customers.ids import uuid7_bytes, uuid7_text
from proxy.authentication import Authenticator
from proxy.body_waits import BodyWaits
from proxy.callers import Callers
from proxy.calls import Call
from proxy.catalog import Catalog, Target
from proxy.demo import DEMO_SCHEME, DemoTransport
from proxy.dialects.base import Ask, Dialect
from proxy.headers import Headers
from proxy.identification import Identifier
from proxy.rate_limits.limiter import RateLimiter
from proxy.refresher import Refresher
from proxy.response_cache import ResponseCache
from proxy.routing import Router
from proxy.tiers import CallLimits, LimitsOfHolders
from proxy.transport import GatewayTransport

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 1.0
_SETTLE_SECONDS = 5.0  # what calls that were cut get, to write their last record
_SQLITE_BATCH = 200  # about 20 ms
_DRAIN_JOURNAL_SECONDS = 10.0


class Limits(NamedTuple):
    """The settings that every call reads. Optimization: Django's settings object costs a look-up each."""

    call_s: float
    disconnect_grace_s: float
    stalled_client_s: float
    plain_answer_bytes: int
    stream_buffer_bytes: int
    cost_in_stream: bool
    stores_prompts: bool
    body_bytes: int
    bodies_bytes: int
    body_idle_s: float
    budget_status: int
    budgets_open_when_away: bool
    holds_unpriced: bool
    max_output_tokens: int
    unbounded_feature_tokens: int
    user_pays_in_team: bool
    needs_customer: bool

    @classmethod
    def of(cls, settings: Any) -> "Limits":
        return cls(
            call_s=settings.CALL_SECONDS,
            disconnect_grace_s=settings.DISCONNECT_GRACE_SECONDS,
            stalled_client_s=settings.STALLED_CLIENT_SECONDS,
            plain_answer_bytes=settings.PLAIN_ANSWER_BUFFER_BYTES,
            stream_buffer_bytes=settings.STREAM_BUFFER_BYTES,
            cost_in_stream=settings.INCLUDE_COST_IN_STREAMING_USAGE,
            stores_prompts=settings.STORE_PROMPTS,
            body_bytes=settings.MAX_BODY_BYTES,
            bodies_bytes=settings.MAX_BODIES_BYTES,
            body_idle_s=settings.BODY_IDLE_SECONDS,
            budget_status=settings.BUDGET_EXCEEDED_STATUS,
            budgets_open_when_away=settings.BUDGETS_WHEN_DB_DOWN == "open",
            holds_unpriced=settings.UNPRICED_UNDER_BUDGET == "hold",
            max_output_tokens=settings.MAX_OUTPUT_TOKENS,
            unbounded_feature_tokens=settings.UNBOUNDED_FEATURE_TOKENS,
            user_pays_in_team=settings.APPLY_USER_BUDGET_TO_TEAM_KEYS,
            needs_customer=settings.ENFORCE_CUSTOMER,
        )


class Gateway:
    """A web process's state. Use `await start()` and `await stop()`; not reusable."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.limits = Limits.of(settings)
        self.body_waits = BodyWaits(settings.BODY_IDLE_SECONDS)
        self.loop = asyncio.get_running_loop()
        self.is_draining = False
        self._drained_by = 0.0  # the loop's time
        self.bodies_bytes = 0  # of all request bodies being read or relayed right now
        self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="lookup")
        self.callers = Callers(self._executor, hard_life_s=settings.KEY_HARD_LIFE_SECONDS)
        self.refresher = Refresher(self.callers, interval=settings.REFRESH_SECONDS)
        self.authenticator = Authenticator(
            self.callers, master_key=settings.MASTER_KEY, own_header=settings.KEY_HEADER
        )
        self.identifier = Identifier(
            header_mappings=settings.USER_HEADER_MAPPINGS,
            extra_tag_headers=settings.EXTRA_SPEND_TAG_HEADERS,
            user_agent_tags=settings.USER_AGENT_TAGS,
            rejects_metadata_tags=settings.REJECT_METADATA_TAGS,
            reads_metadata_user=settings.CUSTOMER_FROM_METADATA,
        )
        self.limits_of_holders = LimitsOfHolders(settings.BUDGET_TIME_ZONE)
        self.rate_limiter = RateLimiter(
            redis_url=settings.REDIS_URL,
            web_workers=settings.WEB_WORKERS,
            counted_tokens=settings.TOKEN_RATE_LIMIT_TYPE,
        )
        self.response_cache = ResponseCache.of(settings)
        self.router = Router(cooldown_s=settings.COOLDOWN_SECONDS)
        self.estimator = Estimator()
        self.terms = read_terms(settings.COST_DISCOUNTS, settings.COST_MARGINS)
        self.waits_for_sync = settings.JOURNAL_SYNC == "always"
        self.calls: set[Call] = set()
        self._transports: dict[tuple[float, float], httpx.AsyncBaseTransport] = {}
        self._demo = DemoTransport()
        self._unwritten: list[Record] = []
        self._sweeper: asyncio.Task | None = None
        self.journal: Journal
        self.syncer: Syncer
        self.recorder: Recorder
        self.hold_desk: HoldDesk

    @property
    def catalog(self) -> Catalog:
        return self.refresher.catalog

    async def start(self) -> None:
        """Load what serving needs and start the threads. Raises: what database and disk raise."""
        settings = self.settings
        installation = await self.loop.run_in_executor(self._executor, self._load)
        self.journal = Journal(settings.JOURNAL_DIR, installation)
        self.syncer = Syncer(self.journal)
        turn = WriteTurn()
        self.recorder = Recorder(
            self.journal,
            installation,
            interval=settings.RECORDER_SECONDS,
            batch=_batch(settings),
            keep_days=settings.JOURNAL_KEEP_DAYS,
            keep_bytes=settings.JOURNAL_KEEP_BYTES,
            turn=turn,
        )
        self.hold_desk = HoldDesk(self.journal.id, self.loop, turn, is_drained=self.recorder.has_caught_up)
        await self.rate_limiter.start()
        if self.response_cache is not None:
            await self.response_cache.start()
        for thread in (self.refresher, self.syncer, self.recorder, self.hold_desk):
            thread.start()
        self._sweeper = self.loop.create_task(self._sweep())

    def _load(self) -> Any:
        try:
            self.refresher.load()
            follow_environment()
            return installation_id()
        finally:
            connection.close()  # this thread may not be asked for anything again

    def begin_drain(self) -> None:
        """Give the calls under way DRAIN_SECONDS from now; then they are cut. Safe to call twice.

        Called at the signal, not when the server has closed its last connection: the
        client of a cut stream is to read why.
        """
        if not self.is_draining:
            self.is_draining = True
            self._drained_by = self.loop.time() + self.settings.DRAIN_SECONDS
            self.loop.call_at(self._drained_by, self._cut_calls)

    async def stop(self) -> None:
        """Finish what is under way, cut what takes too long, and bring everything into the database."""
        self.begin_drain()
        await self._wait_for_calls(self._drained_by - self.loop.time())
        self._cut_calls()
        await self._wait_for_calls(_SETTLE_SECONDS)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._write_unwritten()
        self.refresher.stop()
        await self.loop.run_in_executor(None, self._drain_journal)
        await self.rate_limiter.stop()
        if self.response_cache is not None:
            self.response_cache.close()
        for transport in self._transports.values():
            await transport.aclose()
        self._executor.shutdown(wait=False)

    def _cut_calls(self) -> None:
        for call in list(self.calls):
            call.cut("shutdown")

    async def _wait_for_calls(self, seconds: float) -> None:
        tasks = [call.task for call in self.calls if call.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, seconds))

    def _drain_journal(self) -> None:
        self.hold_desk.stop()
        self.syncer.stop()
        if not self.recorder.stop(deadline=time.monotonic() + _DRAIN_JOURNAL_SECONDS):
            logger.warning("the journal is not booked to its end; the next start does that")
        self.journal.close()

    # -- calls -----------------------------------------------------------------------

    def new_call_id(self) -> tuple[bytes, str, int]:
        """Return (id as bytes, id as text, Unix microseconds) of a call admitted now."""
        now_us = time.time_ns() // 1000
        call_id = uuid7_bytes(now_us // 1000)
        return call_id, uuid7_text(call_id), now_us

    def start_call(
        self,
        dialect: Dialect,
        ask: Ask,
        opened: Any,
        call_id: str,
        targets: tuple[Target, ...],
        limits: CallLimits,
        caller_headers: Headers,
        query: str = "",
    ) -> Call:
        """Start the call's task. The registry holds it: a task that nobody holds may vanish."""
        call = Call(self, dialect, ask, opened, call_id, targets, limits, caller_headers, query)
        self.calls.add(call)
        call.task = self.loop.create_task(call.run())
        return call

    def transport(self, target: Target) -> httpx.AsyncBaseTransport:
        """Return the connection pool for a target's timeouts."""
        if target.openai_base_url.startswith(DEMO_SCHEME):
            return self._demo
        key = (target.connect_timeout_s, target.read_timeout_s)
        transport = self._transports.get(key)
        if transport is None:
            transport = self._transports[key] = GatewayTransport(
                connect_timeout_s=key[0], read_timeout_s=key[1]
            )
        return transport

    # -- records that could not be written at once --------------------------------------

    def append(self, *records: Record) -> None:
        """Write records that must not get lost: if the disk refuses them now, until it takes them."""
        if self._unwritten:
            self._unwritten += records
            return
        try:
            self.journal.append(*records)
        except JournalFull as error:
            logger.critical("the journal cannot be written, %d records wait: %s", len(records), error)
            self._unwritten += records

    @property
    def waits_for_disk(self) -> bool:
        """Whether records could not be written; no new call is to add to them."""
        return bool(self._unwritten)

    def _write_unwritten(self) -> None:
        waiting, self._unwritten = self._unwritten, []
        if not waiting:
            return
        try:
            self.journal.append(*waiting)
            logger.warning("the journal can be written again")
        except JournalFull:
            self._unwritten = waiting

    async def _sweep(self) -> None:
        """Once a second: cut calls and bodies that take too long, retry unwritten records."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._write_unwritten()
            self.body_waits.sweep()
            self.rate_limiter.sweep()
            self.hold_desk.sweep()
            now = time.monotonic()
            for call in [call for call in self.calls if now > call.ends_at]:
                call.cut("time_limit")


def _batch(settings: Any) -> int:
    """Return how many calls to book at a time: on SQLite few, since everybody else waits meanwhile."""
    is_sqlite = "sqlite" in settings.DATABASES["default"]["ENGINE"]
    return min(settings.RECORDER_BATCH, _SQLITE_BATCH) if is_sqlite else settings.RECORDER_BATCH


_running: Gateway | None = None


def running() -> Gateway:
    """Return this process's gateway. Raises: RuntimeError outside a started web process."""
    if _running is None:
        raise RuntimeError("no gateway is running in this process")
    return _running


def set_running(gateway: Gateway | None) -> None:
    global _running
    _running = gateway
