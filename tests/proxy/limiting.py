"""
Limiters with a clock that is moved by hand, and a Redis that can be taken away.

    async with shared_limiter() as shared:
        shared.now_ms += 60_000
        taken = await shared.take(rule)
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from unittest import mock
from urllib.parse import urlsplit

import redis.asyncio

from proxy.rate_limits import redis as redis_module
from proxy.rate_limits.limiter import LEASE_SECONDS, RateLimiter, Taken
from proxy.rate_limits.memory import MemoryCounters
from proxy.rate_limits.redis import RedisCounters
from proxy.rate_limits.rules import Rule
from tests import services

MINUTE_MS = 60_000
START_MS = 1_000 * MINUTE_MS


class Limiter:
    """A limiter and its clock. Holders get a suffix of their own: one Redis serves several runs."""

    def __init__(self, limiter: RateLimiter) -> None:
        self.limiter = limiter
        self.suffix = uuid.uuid4().hex[:12]
        self._now_ms = START_MS

    @property
    def now_ms(self) -> int:
        return self._now_ms

    async def move(self, ms: int) -> None:
        """Let time pass, in milliseconds."""
        self._now_ms += ms

    async def take(self, *rules: Rule, tokens: int = 0) -> Taken:
        mine = [rule._replace(holder=f"{rule.holder} {self.suffix}", label=rule.holder) for rule in rules]
        return await self.limiter.take(uuid.uuid4().bytes, mine, input_tokens=tokens, output_tokens=0)

    def renew(self) -> None:
        """Renew the leases now."""
        self.limiter._renewed_at = float("-inf")
        self.limiter.sweep()


class SharedLimiter(Limiter):
    """Reads its time from a key in Redis, as the script does."""

    def __init__(self, limiter: RateLimiter, client: redis.asyncio.Redis) -> None:
        super().__init__(limiter)
        self.client = client

    @property
    def clock(self) -> str:
        return f"local now = tonumber(redis.call('GET', 'rate:clock:{self.suffix}'))"

    async def move(self, ms: int) -> None:
        await super().move(ms)
        await self.client.set(f"rate:clock:{self.suffix}", self._now_ms, px=600_000)


def memory_limiter() -> Limiter:
    made = Limiter(RateLimiter())
    made.limiter._memory = MemoryCounters(lease_ms=LEASE_SECONDS * 1000, clock=lambda: made.now_ms)
    return made


@contextlib.asynccontextmanager
async def shared_limiter(beside: Limiter | None = None) -> AsyncIterator[SharedLimiter]:
    """A limiter on the real Redis, however slow this machine is; with the holders and clock of `beside`."""
    url = services.redis_url()
    client = redis.asyncio.Redis.from_url(url)
    made = SharedLimiter(RateLimiter(redis_url=url), client)
    if beside is not None:
        made.suffix = beside.suffix
    made.limiter._redis = RedisCounters(url, lease_ms=LEASE_SECONDS * 1000, clock=made.clock)
    await made.move(0)
    with mock.patch.object(redis_module, "ANSWER_SECONDS", 10):
        await made.limiter.start()
        try:
            assert made.limiter.degraded is None, made.limiter.degraded
            yield made
        finally:
            await made.limiter.stop()
            await client.aclose()


class Wire:
    """A wire to the real Redis that can be held (nothing passes) and cut."""

    def __init__(self) -> None:
        self._passes = asyncio.Event()
        self._passes.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        parts = urlsplit(services.redis_url())
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self._port}").geturl()

    async def mend(self) -> None:
        self._passes.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def hold(self) -> None:
        self._passes.clear()

    def pass_on(self) -> None:
        self._passes.set()

    async def cut(self) -> None:
        """End every connection and take no new one."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(services.redis_url())
        far_reader, far_writer = await asyncio.open_connection(parts.hostname, parts.port or 6379)
        self._writers += [writer, far_writer]
        for pair in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._carry(*pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._passes.wait()
                writer.write(data)
            writer.close()


@contextlib.asynccontextmanager
async def wired_limiter(*, answer_s: float = 10, web_workers: int = 1) -> AsyncIterator[tuple[Limiter, Wire]]:
    """A started limiter whose Redis is at the far end of a wire. answer_s: how long it waits for it."""
    wire = Wire()
    await wire.mend()
    made = Limiter(RateLimiter(redis_url=wire.url, web_workers=web_workers))
    with mock.patch.object(redis_module, "ANSWER_SECONDS", answer_s):
        await made.limiter.start()
        try:
            yield made, wire
        finally:
            await made.limiter.stop()
            await wire.cut()
