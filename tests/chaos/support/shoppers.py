"""Clients that buy: all at once, or on and on while something happens; and what became of each call."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tests.chaos.support.leaving import leave_at_random
from tests.chaos.support.purchases import Purchase
from tests.chaos.support.wire import Connection

_OPENING_AT_ONCE = 64


class Attempt(NamedTuple):
    """One call as its client saw it; times are Unix seconds."""

    purchase: Purchase
    began_at: float
    ended_at: float
    outcome: str  # a status, `left`, or what broke
    error: dict[str, Any] | None = None  # of an answer that is none

    @property
    def is_over_budget(self) -> bool:
        return self.error is not None and self.error.get("type") == "budget_exceeded"


async def buy_at_once(port: int, key: str, purchases: Iterable[Purchase]) -> list[Attempt]:
    """Send all calls in the same instant, each over a connection that was open before."""
    turns = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def connected() -> Connection:
        async with turns:
            return await Connection.open(port)

    wanted = list(purchases)
    connections = await asyncio.gather(*(connected() for _ in wanted))
    try:
        return await asyncio.gather(
            *(buy(connection, each, key) for connection, each in zip(connections, wanted, strict=True))
        )
    finally:
        for connection in connections:
            connection.close()


async def buy(connection: Connection, purchase: Purchase, key: str) -> Attempt:
    """Make one call and read its whole answer. Raises: ConnectionError, TimeoutError."""
    began_at = time.time()
    head, body = await connection.answer(purchase.request(key))
    error = None if head.status == 200 else json.loads(body)["error"]
    return Attempt(purchase, began_at, time.time(), str(head.status), error)


class Shoppers:
    """`clients` that call until something is over, some of them leaving in the middle.

    make: draws the next call. leaving: the share of calls whose client hangs up.
    """

    def __init__(
        self,
        port: int,
        key: str,
        make: Callable[[], Purchase],
        rng: random.Random,
        *,
        leaving: float = 0.0,
        pause_s: float = 0.0,
    ) -> None:
        self._port = port
        self._key = key
        self._make = make
        self._rng = rng
        self._leaving = leaving
        self._pause_s = pause_s
        self._is_over = False
        self.attempts: list[Attempt] = []

    async def during(self, clients: int, happening: Callable[[], None]) -> None:
        """Have them call while `happening` runs in a thread, then let them finish."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._shop())
            try:
                await asyncio.to_thread(happening)
            finally:
                self._is_over = True

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(
            "over budget" if attempt.is_over_budget else attempt.outcome for attempt in self.attempts
        )

    async def _shop(self) -> None:
        connection: Connection | None = None
        while not self._is_over:
            purchase = self._make()
            began_at = time.time()
            try:
                if self._rng.random() < self._leaving:
                    attempt = await self._leave(purchase)
                else:
                    connection = connection or await Connection.open(self._port)
                    attempt = await buy(connection, purchase, self._key)
            except (OSError, TimeoutError, ValueError) as error:  # a worker was killed
                attempt = Attempt(purchase, began_at, time.time(), type(error).__name__)
                if connection is not None:
                    connection.close()
                connection = None
                await asyncio.sleep(0.05)
            self.attempts.append(attempt)
            await asyncio.sleep(self._pause_s * self._rng.random())
        if connection is not None:
            connection.close()

    async def _leave(self, purchase: Purchase) -> Attempt:
        began_at = time.time()
        await leave_at_random(purchase, self._key, self._port, self._rng)
        return Attempt(purchase, began_at, time.time(), "left")
