"""
Processes that die (bar 3): each call the provider served is exactly one row afterwards.

The web process is killed again and again under the product's own runner, stopped
gently with streams open, and started on a journal with damaged and unbookable
records.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from billing.journal import Journal, segment_path, segments_of
from billing.records import Closed, Opened, Sent
from billing.usage import Usage
from customers.ids import uuid7_bytes
from tests import services
from tests.chaos.support.accounts import Accounts
from tests.chaos.support.calls import STREAMING_ROUTES, Call, make_call, make_natural_call
from tests.chaos.support.load import Load
from tests.chaos.support.runner import SupervisedGateway
from tests.chaos.support.scale import scaled
from tests.chaos.support.settling import assert_totals_are_the_rows, settled_accounts
from tests.chaos.support.wire import Connection, HungUp
from tests.gateway import GatewayProcess, is_true_within
from tests.provider import ProviderProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

KILLS = scaled(4, 20)
SECONDS_BETWEEN_KILLS = 3
CLIENTS = scaled(20, 50)
OPEN_STREAMS = scaled(40, 200)


@pytest.fixture
def supervised(provider: ProviderProcess) -> Iterator[SupervisedGateway]:
    with SupervisedGateway(provider=provider, DRAIN_SECONDS=3) as gateway:
        yield gateway


# -- kill -9 -------------------------------------------------------------------------


def test_each_call_is_one_row_when_the_web_process_is_killed_again_and_again(
    supervised: SupervisedGateway, provider: ProviderProcess, rng: random.Random
):
    load = Load(supervised.port, supervised.master_key, _quick_call, rng)

    asyncio.run(load.during(CLIENTS, lambda: _kill_again_and_again(supervised)))
    supervised.wait_until_it_answers()
    accounts = settled_accounts(supervised, provider, stays_s=3)  # orphans are looked for every two seconds

    print(f"{KILLS} kills; clients saw {dict(load.outcomes)}; {accounts}")
    accounts.assert_nothing(accounts.lost() + accounts.doubled() + accounts.different())
    _assert_none_was_made_up(accounts, load)
    assert len(accounts.entries) > 10 * KILLS, "there was no load to speak of"
    assert accounts.counts("status").get("interrupted", 0) >= KILLS, "the kills met no call"
    assert_totals_are_the_rows(supervised)


def _quick_call(rng: random.Random) -> Call:
    return make_call(rng, delay_ms=rng.uniform(20, 300), chunk_delay_ms=rng.uniform(0, 20), chunks=rng.randrange(5, 20))


def _kill_again_and_again(gateway: SupervisedGateway) -> None:
    """Kill every three seconds, or later where the machine takes long to start a process."""
    for _ in range(KILLS):
        next_at = time.monotonic() + SECONDS_BETWEEN_KILLS
        gateway.wait_until_it_answers()
        time.sleep(max(1.2, next_at - time.monotonic()))
        gateway.the("manage.py", "serve").kill()


def _assert_none_was_made_up(accounts: Accounts, load: Load) -> None:
    assert set(accounts.rows) <= set(load.calls), "a row of nobody's"
    accounts.assert_nothing(accounts.unseen())


# -- SIGTERM -------------------------------------------------------------------------


@pytest.mark.parametrize("signals", [1, 2], ids=["once", "twice"])
def test_short_streams_end_and_long_ones_are_cut_when_it_is_stopped_gently(
    signals: int, make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    drain_s = 4
    gateway = make_gateway(DRAIN_SECONDS=drain_s)
    short = [_open_stream(rng, seconds=rng.uniform(1, 2.5)) for _ in range(OPEN_STREAMS // 2)]
    long = [_open_stream(rng, seconds=120) for _ in range(OPEN_STREAMS // 2)]

    ends, stopped_after_s = asyncio.run(_stop_with_open_streams(gateway, short + long, signals))
    gateway.start()
    accounts = settled_accounts(gateway, provider, stays_s=2.5)

    print(f"stopped after {stopped_after_s:.1f} s; {accounts}")
    accounts.assert_once()
    assert {ends[call.name] for call in short} == {"whole"}
    assert {ends[call.name] for call in long} == {"told that it was cut"}
    assert stopped_after_s < drain_s + 6, "the drain is waited for twice"
    sources = {name: rows[0]["usage_source"] for name, rows in accounts.rows.items()}
    assert {sources[call.name] for call in short} == {"provider"}
    assert {sources[call.name] for call in long} == {"partial"}
    assert {accounts.rows[call.name][0]["error_type"] for call in long} == {"shutdown"}
    assert_totals_are_the_rows(gateway)


def test_the_runner_lets_open_streams_end_when_it_is_stopped(
    supervised: SupervisedGateway, provider: ProviderProcess, rng: random.Random
):
    streams = [_open_stream(rng, seconds=rng.uniform(0.5, 1.5)) for _ in range(OPEN_STREAMS)]

    ends, _ = asyncio.run(_stop_with_open_streams(supervised, streams, 1))
    supervised.start()
    accounts = settled_accounts(supervised, provider, stays_s=2.5)

    print(accounts)
    assert set(ends.values()) == {"whole"}
    accounts.assert_once()
    assert accounts.booked == accounts.billed


def _open_stream(rng: random.Random, *, seconds: float) -> Call:
    chunks = 100
    route = rng.choice(STREAMING_ROUTES)
    return make_call(rng, route=route, streamed=True, chunks=chunks, chunk_delay_ms=seconds * 1000 / chunks, tool_call=False)


async def _stop_with_open_streams(
    gateway: GatewayProcess, calls: list[Call], signals: int
) -> tuple[dict[str, str], float]:
    """Open all streams, stop the gateway, and return how each ended, by name, and how long stopping took."""
    opened = [asyncio.Event() for _ in calls]
    clients = [
        asyncio.create_task(_read_to_the_end(call, gateway, event)) for call, event in zip(calls, opened, strict=True)
    ]
    async with asyncio.timeout(30):
        await asyncio.gather(*(event.wait() for event in opened))
    began_at = time.monotonic()
    for _ in range(signals - 1):
        gateway.process.terminate()
        await asyncio.sleep(0.3)
    status = await asyncio.to_thread(gateway.terminate)
    stopped_after_s = time.monotonic() - began_at
    assert status in (0, -signal.SIGTERM), gateway.log_text()[-2000:]
    return {call.name: end for call, end in zip(calls, await asyncio.gather(*clients), strict=True)}, stopped_after_s


async def _read_to_the_end(call: Call, gateway: GatewayProcess, opened: asyncio.Event) -> str:
    seen = b""
    with await Connection.open(gateway.port) as connection:
        await connection.send(call.request(gateway.master_key))
        head = await connection.head()
        opened.set()
        try:
            async for piece in connection.pieces(head):
                seen += piece
        except HungUp:
            return "cut off without a word"
    return "told that it was cut" if b"shutting down" in seen else "whole"
