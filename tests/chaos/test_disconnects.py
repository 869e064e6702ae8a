"""
Clients that hang up or stop reading (bar 2): what the provider bills is booked all the same.

Within the grace the stream is read to its end, and the log is the bill to the
nano-dollar; beyond it what was seen is booked as an estimate. Nobody else notices.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos.support.calls import ROUTES, STREAMING_ROUTES, Call, make_call, make_natural_call
from tests.chaos.support.leaving import IN_THE_MIDDLE, leave_at_random
from tests.chaos.support.scale import scaled
from tests.chaos.support.settling import assert_totals_are_the_rows, settled_accounts
from tests.chaos.support.wire import Connection
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

CALLS = scaled(60, 500)
AT_ONCE = 50
STALLED = scaled(40, 200)


def test_it_books_the_whole_bill_when_clients_leave_and_the_grace_is_long(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    gateway = make_gateway(DISCONNECT_GRACE_SECONDS=30)
    calls = [
        make_call(
            rng,
            route=ROUTES[i % len(ROUTES)],
            delay_ms=rng.uniform(0, 300),
            chunk_delay_ms=rng.uniform(0, 40),
        )
        for i in range(CALLS)
    ]

    moments = asyncio.run(_all_leave(calls, gateway, rng))
    accounts = settled_accounts(gateway, provider)

    print(f"left: {dict(moments)}; {accounts}")
    accounts.assert_once()
    assert accounts.booked == accounts.billed
    assert accounts.share_from_provider() >= 0.99
    assert len(accounts.entries) > 0.8 * CALLS, "too few calls got as far as the provider"
    assert_totals_are_the_rows(gateway)


def test_it_books_an_estimate_near_the_bill_when_streams_go_on_beyond_the_grace(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    gateway = make_gateway(DISCONNECT_GRACE_SECONDS=0.4)
    asyncio.run(_teach(gateway, rng))
    calls = [_long_stream(rng) for _ in range(CALLS)]

    moments = asyncio.run(_all_leave(calls, gateway, rng, moment=IN_THE_MIDDLE))
    accounts = settled_accounts(gateway, provider)

    names = {call.name for call in calls}
    pairs = [(entry, row) for entry, row in accounts.joined if entry["tag"] in names]
    billed = sum(entry["cost_nano_usd"] for entry, _ in pairs)
    booked = sum(row["cost"] for _, row in pairs)
    print(f"left: {dict(moments)}; billed {billed}, booked {booked} ({booked / billed - 1:+.1%})")
    accounts.assert_once()
    partial = [(entry, row) for entry, row in pairs if row["usage_source"] == "partial"]
    assert len(partial) >= 0.97 * CALLS, (
        "on a machine that is too slow streams may end before their clients leave"
    )
    assert all(entry["aborted"] for entry, _ in partial), "the gateway did not hang up on the provider"
    assert all(row["client_left"] and row["http_status"] == 499 for _, row in partial)
    assert abs(booked - billed) <= 0.15 * billed
    assert _customers_exist(gateway, names), "a customer with spend has no row"


def test_stalled_clients_harm_no_one_and_are_metered_to_their_end(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    gateway = make_gateway(STALLED_CLIENT_SECONDS=1, STREAM_BUFFER_KB=64, DISCONNECT_GRACE_SECONDS=60)
    calls = [
        make_call(
            rng, route=STREAMING_ROUTES[i % len(STREAMING_ROUTES)], streamed=True, tool_call=False,
            big=1_000_000, chunks=200, chunk_delay_ms=10,
        )
        for i in range(STALLED)
    ]  # fmt: skip

    before, during = asyncio.run(_stall(calls, gateway, rng))
    accounts = settled_accounts(gateway, provider, timeout_s=120)

    print(f"healthy calls before {_told(before)}, during {_told(during)}; {accounts}")
    accounts.assert_once()
    assert accounts.booked == accounts.billed
    assert accounts.share_from_provider() == 1
    stalled = [accounts.rows[call.name][0] for call in calls]
    assert all(row["client_left"] for row in stalled), "a client that reads nothing did not count as gone"
    assert len(during) >= 10
    # Generous: the machine may be busy with other things. Who waits for a stalled one waits seconds.
    assert statistics.median(during) < max(10 * statistics.median(before), 0.25)
    assert max(during) < 3


# -- the clients -------------------------------------------------------------------


async def _all_leave(
    calls: list[Call], gateway: GatewayProcess, rng: random.Random, *, moment: str | None = None
) -> Counter[str]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(call: Call) -> str:
        async with turns:
            return await leave_at_random(call, gateway.master_key, gateway.port, rng, moment=moment)

    return Counter(await asyncio.gather(*map(one, calls)))


async def _teach(gateway: GatewayProcess, rng: random.Random) -> None:
    """Let some calls finish: what a model's tokens weigh is learned from them."""
    for _ in range(24):
        with await Connection.open(gateway.port) as connection:
            call = make_natural_call(rng, words=rng.randrange(300, 1500), output_tokens=rng.randrange(30, 60))
            head, _ = await connection.answer(call.request(gateway.master_key))
            assert head.status == 200


def _long_stream(rng: random.Random) -> Call:
    """Return a call whose answer takes several seconds: a token or two to an event, as models speak."""
    chunks = rng.randrange(100, 200)
    return make_natural_call(
        rng, words=rng.randrange(300, 1500), delay_ms=rng.uniform(0, 100),
        chunks=chunks, output_tokens=round(chunks * rng.uniform(1, 1.4)), chunk_delay_ms=rng.uniform(30, 60),
    )  # fmt: skip


async def _stall(
    calls: list[Call], gateway: GatewayProcess, rng: random.Random
) -> tuple[list[float], list[float]]:
    """Return a healthy client's latencies without stalled clients, and among them."""
    before = [await _healthy_call(gateway, rng) for _ in range(20)]
    stalled = await asyncio.gather(*(_stalled_client(call, gateway) for call in calls))
    during = []
    ends_at = time.monotonic() + 4  # more than what a stalled client is given
    while time.monotonic() < ends_at or len(during) < 10:
        during.append(await _healthy_call(gateway, rng))
        await asyncio.sleep(0.05)
    for connection in stalled:
        connection.close()
    return before, during


async def _stalled_client(call: Call, gateway: GatewayProcess) -> Connection:
    connection = await Connection.open(gateway.port, holds_little=True)
    await connection.send(call.request(gateway.master_key))
    head = await connection.head()
    assert head.status == 200
    return connection


async def _healthy_call(gateway: GatewayProcess, rng: random.Random) -> float:
    call = make_call(rng, chunks=10)
    began_at = time.monotonic()
    with await Connection.open(gateway.port) as connection:
        head, _ = await connection.answer(call.request(gateway.master_key))
    assert head.status == 200
    return time.monotonic() - began_at


def _customers_exist(gateway: GatewayProcess, names: set[str]) -> bool:
    from customers.models import Customer

    return gateway.execute_orm(Customer.objects.filter(pk__in=names).count) == len(names)


def _told(latencies: list[float]) -> str:
    return f"median {statistics.median(latencies) * 1000:.0f} ms, worst {max(latencies) * 1000:.0f} ms"
