"""Clients that call on and on, retry nothing and do not mind when the gateway dies."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

from tests.chaos.support.calls import Call
from tests.chaos.support.wire import Connection, HungUp


class Load:
    """`clients` of them at once, each on a connection of its own while that lasts."""

    def __init__(
        self, port: int, key: str, make: Callable[[random.Random], Call], rng: random.Random
    ) -> None:
        self._port = port
        self._key = key
        self._make = make
        self._rng = rng
        self._is_stopping = False
        self.calls: dict[str, Call] = {}  # everything that was tried, by name
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []  # answers that were no answer: status and first bytes
        self.slowest_s = 0.0

    async def during(self, clients: int, happening: Callable[[], None]) -> None:
        """Have `clients` call while `happening` runs in a thread, then let them finish."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self.client())
            try:
                await asyncio.to_thread(happening)
            finally:
                self._is_stopping = True

    async def client(self) -> None:
        """Call until it is over."""
        connection: Connection | None = None
        while not self._is_stopping:
            call = self._make(self._rng)
            self.calls[call.name] = call
            began_at = time.monotonic()
            try:
                connection = connection or await Connection.open(self._port)
                head, body = await connection.answer(call.request(self._key))
            except (ConnectionRefusedError, TimeoutError) as error:
                connection = await self._broken(connection, type(error).__name__)
                await asyncio.sleep(0.05)
                continue
            except (HungUp, ConnectionError, OSError):
                connection = await self._broken(connection, "cut off")
                continue
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_at)
            self.outcomes[str(head.status)] += 1
            if head.status != 200:
                self.failures.append(f"{head.status} {body[:300]!r}")
            if head.headers.get("connection") == "close":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def _broken(self, connection: Connection | None, what: str) -> None:
        self.outcomes[what] += 1
        if connection is not None:
            connection.close()
