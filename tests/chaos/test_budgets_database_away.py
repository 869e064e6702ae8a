"""
The database is away under budgets: refused or let through, by the setting; nothing held is lost.

Away means stopped or hanging, as in `test_database_away.py`. One customer's budget is
taken up wholly by a stream that lives through the outage: while it lives nobody else of
his may pass, before, during and after, and when it has ended it is booked once.
"""

import asyncio
import time
from collections import Counter
from typing import NamedTuple

import pytest

from tests import services
from tests.chaos.support.behind import GatewayBehind
from tests.chaos.support.books import assert_provider_agrees, settled_books
from tests.chaos.support.purchases import (
    TOKEN,
    Purchase,
    key_for_customers,
    make_models,
    new_customer,
    purchase,
)
from tests.chaos.support.scale import IS_LONG, scaled
from tests.chaos.support.shoppers import buy_at_once
from tests.chaos.support.tcp_proxy import DatabaseWire
from tests.chaos.support.wire import Connection
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not services.is_postgresql(), reason="SQLite is never away: PostgreSQL only"),
]

AWAY_SECONDS = scaled(4, 20)
BACK_SECONDS = 5.0  # by then calls under a budget pass again
ANSWER_SECONDS = 8.0  # in which a call that cannot be checked is told so
CASES = [("closed", "stopped"), ("closed", "hanging"), ("open", "stopped"), ("open", "hanging")]


@pytest.mark.parametrize(("policy", "kind"), CASES if IS_LONG else CASES[1:3])
def test_budgets_hold_while_the_database_is_away_and_afterwards(
    policy: str, kind: str, provider: ProviderProcess, wire: DatabaseWire
):
    gateway = GatewayBehind(wire, provider=provider, BUDGETS_WHEN_DB_DOWN=policy, DISCONNECT_GRACE_SECONDS=1)
    gateway.execute_orm(make_models)
    key = key_for_customers(gateway, max_budget="0.001", mode="strict")  # a thousand tokens
    with gateway:
        seen = asyncio.run(_outage(gateway, wire, kind, key))
        books, bill = settled_books(gateway, provider)

    print(f"{policy}, {kind} for {AWAY_SECONDS} s: {seen}")
    assert seen.without_budget == {"200"}
    assert set(seen.under_budget) == ({"503"} if policy == "closed" else {"200"})
    assert seen.slowest_s < ANSWER_SECONDS
    assert seen.back_after_s < BACK_SECONDS
    assert seen.beside_the_stream == {"400"}, "what the stream held was lost"
    books.assert_agree()
    assert_provider_agrees(books, bill)
    assert all(log["cost"] == TOKEN for log in books.logs if log["status"] == "success")


class Seen(NamedTuple):
    """What clients saw of an outage, as statuses."""

    without_budget: set[str]
    under_budget: Counter[str]
    slowest_s: float
    back_after_s: float
    beside_the_stream: set[str]


async def _outage(gateway: GatewayProcess, wire: DatabaseWire, kind: str, key: str) -> Seen:
    busy, other = new_customer("busy"), new_customer("other")
    with await Connection.open(gateway.port) as connection:
        # For a minute, so that it outlives everything here; it also makes the key known.
        stream = purchase(
            busy, "by-token", max_tokens=1_000, stream=True,
            fake={"output_tokens": 1_000, "chunks": 600, "chunk_delay_ms": 100},
        )  # fmt: skip
        await connection.send(stream.request(key))
        assert (await connection.head()).status == 200
        before = await _statuses(gateway, key, busy)

        await asyncio.to_thread(wire.stop if kind == "stopped" else wire.hang)
        try:
            without, under, slowest_s = await _call_meanwhile(gateway, key, other)
        finally:
            await asyncio.to_thread(wire.resume)
        back_after_s = await _seconds_until_enforced(gateway, key, busy, other)
        after = await _statuses(gateway, key, busy, calls=5)
    return Seen(without, under, slowest_s, back_after_s, before | after)


async def _call_meanwhile(
    gateway: GatewayProcess, key: str, customer: str
) -> tuple[set[str], Counter[str], float]:
    """Call without and with a budget; return how that was answered, and the seconds of the slowest answer."""
    without: set[str] = set()
    under: Counter[str] = Counter()
    slowest_s = 0.0
    ends_at = time.monotonic() + AWAY_SECONDS
    await asyncio.sleep(0.2)  # a call that was about to be admitted may still be
    while time.monotonic() < ends_at:
        without |= await _statuses(gateway, gateway.master_key, new_customer())
        calls = [_small_call(customer) for _ in range(3)]
        for attempt in await buy_at_once(gateway.port, key, calls):
            under[attempt.outcome] += 1
            slowest_s = max(slowest_s, attempt.ended_at - attempt.began_at)
        await asyncio.sleep(0.2)
    return without, under, slowest_s


async def _seconds_until_enforced(gateway: GatewayProcess, key: str, busy: str, other: str) -> float:
    """Wait until budgets are asked again: who has room passes, who has none is refused."""
    began_at = time.monotonic()
    while time.monotonic() - began_at < 4 * BACK_SECONDS:
        passes, refused = await _statuses(gateway, key, other), await _statuses(gateway, key, busy)
        if (passes, refused) == ({"200"}, {"400"}):
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began_at


async def _statuses(gateway: GatewayProcess, key: str, customer: str, *, calls: int = 1) -> set[str]:
    wanted = [_small_call(customer) for _ in range(calls)]
    return {attempt.outcome for attempt in await buy_at_once(gateway.port, key, wanted)}


def _small_call(customer: str) -> Purchase:
    return purchase(customer, "by-token", max_tokens=10, fake={"output_tokens": 1})
