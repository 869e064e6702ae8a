"""
Memory (bar 6): a thousand open streams fit into 300 MB, and what served a hundred
thousand calls holds hardly more than what served a few thousand.
"""

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.chaos.support.calls import STREAMING_ROUTES, Call, make_call
from tests.chaos.support.processes import resident_bytes
from tests.chaos.support.scale import IS_LONG, scaled
from tests.chaos.support.settling import settled_accounts
from tests.chaos.support.wire import Connection
from tests.gateway import GatewayProcess, is_true_within
from tests.provider import ProviderProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

MB = 1024 * 1024
OPEN_STREAMS = scaled(150, 1000)
WARM_UP = scaled(2_000, 5_000)
CALLS = scaled(5_000, 100_000)
CLIENTS = 32


def test_open_streams_fit_into_300_mb(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    gateway = make_gateway()
    at_rest = resident_bytes(gateway.pid)

    most = asyncio.run(_hold_streams(gateway, provider, rng))

    print(f"{OPEN_STREAMS} open streams: {most / MB:.0f} MB, at rest {at_rest / MB:.0f} MB")
    assert most < 300 * MB


def test_memory_does_not_grow_with_the_calls_served(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    gateway = make_gateway()
    asyncio.run(_call_many(gateway, WARM_UP, rng))
    _wait_booked(gateway, WARM_UP)
    warm = resident_bytes(gateway.pid)

    asyncio.run(_call_many(gateway, CALLS, rng))
    _wait_booked(gateway, WARM_UP + CALLS)
    after = resident_bytes(gateway.pid)

    growth = after - warm
    print(f"{WARM_UP} calls: {warm / MB:.1f} MB, {CALLS} more: {after / MB:.1f} MB ({growth / warm:+.1%})")
    # Few calls tell a leak from an arena's last page only roughly.
    assert growth <= max(0.10 * warm, 0 if IS_LONG else 15 * MB)
    accounts = settled_accounts(gateway, provider)
    accounts.assert_once()
    assert accounts.booked == accounts.billed


async def _hold_streams(gateway: GatewayProcess, provider: ProviderProcess, rng: random.Random) -> int:
    """Open the streams, read them all for a while, and return the most memory that this took."""
    calls = [
        make_call(
            rng,
            route=rng.choice(STREAMING_ROUTES),
            streamed=True,
            chunks=400,
            chunk_delay_ms=250,
            tool_call=False,
        )
        for _ in range(OPEN_STREAMS)
    ]
    readers: list[asyncio.Task[None]] = []
    for call in calls:
        connection = await Connection.open(gateway.port)
        await connection.send(call.request(gateway.master_key))
        readers.append(asyncio.create_task(_read_on(connection)))
    is_open = await asyncio.to_thread(is_true_within, 60, lambda: provider.live() >= OPEN_STREAMS)
    assert is_open, f"only {provider.live()} streams are open"
    most = 0
    for _ in range(scaled(12, 40)):
        most = max(most, resident_bytes(gateway.pid))
        await asyncio.sleep(0.25)
    assert provider.live() >= OPEN_STREAMS, "streams ended too early to count"
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return most


async def _read_on(connection: Connection) -> None:
    with connection:
        head = await connection.head()
        async for _ in connection.pieces(head):
            pass


async def _call_many(gateway: GatewayProcess, count: int, rng: random.Random) -> None:
    """Make `count` calls, every tenth of them streamed, each for a customer of its own."""
    left = count

    async def client() -> None:
        nonlocal left
        with await Connection.open(gateway.port) as connection:
            while left > 0:
                left -= 1
                head, _ = await connection.answer(_small_call(rng).request(gateway.master_key))
                assert head.status == 200

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def _small_call(rng: random.Random) -> Call:
    return make_call(
        rng, streamed=None if rng.random() < 0.15 else False, chunks=5, output_tokens=5, reasoning_tokens=0
    )


def _wait_booked(gateway: GatewayProcess, count: int) -> None:
    from billing.models import SpendLog

    is_booked = is_true_within(60, lambda: gateway.execute_orm(SpendLog.objects.count) >= count)
    assert is_booked, "the recorder does not keep up"
