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
from pathlib import Path

import pytest

from billing.booking.journal import Journal, segment_path, segments_of
from billing.booking.records import Closed, Opened, Sent
from billing.installation import installation_id
from billing.usage import Usage
from customers.ids import uuid7_bytes
from tests import services
from tests.chaos.support.accounts import Accounts
from tests.chaos.support.calls import STREAMING_ROUTES, Call, make_call
from tests.chaos.support.load import Load
from tests.chaos.support.processes import Process, descendants
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
    return make_call(
        rng, delay_ms=rng.uniform(20, 300), chunk_delay_ms=rng.uniform(0, 20), chunks=rng.randrange(5, 20)
    )


def _kill_again_and_again(gateway: SupervisedGateway) -> None:
    """Kill every three seconds, or later where the machine takes long to start a process."""
    for _ in range(KILLS):
        next_at = time.monotonic() + SECONDS_BETWEEN_KILLS
        gateway.wait_until_it_answers()
        time.sleep(max(1.2, next_at - time.monotonic()))
        gateway.the("manage.py", "serve").kill()


def _assert_none_was_made_up(accounts: Accounts, load: Load) -> None:
    """Assert that nothing is booked that was not sent, but for what a kill met on the doorstep.

    `sent` is written before the first byte leaves: the other way round, a kill in between
    would lose a call that is billed. One that strikes in just that instant books by its
    estimate a call that never arrived; that is rare, and visible as `interrupted`.
    """
    assert set(accounts.rows) <= set(load.calls), "a row of nobody's"
    unseen = [
        rows[0] for name, rows in accounts.rows.items() if name not in accounts.entries and rows[0]["cost"]
    ]
    assert all(row["status"] == "interrupted" for row in unseen)
    if len(unseen) > KILLS:  # on a busy machine it is one in five
        accounts.assert_nothing(accounts.unseen())
    print(f"{len(unseen)} calls were killed between being written down and being sent")


@pytest.mark.skipif(not services.is_postgresql(), reason="several web processes: PostgreSQL only")
def test_workers_end_with_their_parent_and_their_calls_are_booked(
    provider: ProviderProcess, rng: random.Random
):
    with SupervisedGateway(provider=provider, WEB_WORKERS=2, DRAIN_SECONDS=1) as gateway:
        parent = gateway.the("manage.py", "serve")
        workers = [process for process in descendants(parent.pid) if "spawn_main" in process.command]
        load = Load(gateway.port, gateway.master_key, _quick_call, rng)

        asyncio.run(load.during(8, lambda: _kill_once(gateway, parent)))

        assert is_true_within(15, lambda: not any(worker.is_alive() for worker in workers)), "workers stay"
        gateway.wait_until_it_answers()
        accounts = settled_accounts(gateway, provider, stays_s=3)
        print(f"clients saw {dict(load.outcomes)}; {accounts}")
        assert len(workers) == 2
        assert gateway.the("manage.py", "serve").pid != parent.pid
        accounts.assert_nothing(accounts.lost() + accounts.doubled() + accounts.different())


def _kill_once(gateway: SupervisedGateway, process: Process) -> None:
    time.sleep(1.5)
    process.kill()
    time.sleep(2)
    gateway.wait_until_it_answers()


# -- SIGTERM -------------------------------------------------------------------------


def test_short_streams_end_and_long_ones_are_cut_when_it_is_stopped_gently_twice(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    drain_s = scaled(2, 6)
    gateway = make_gateway(DRAIN_SECONDS=drain_s)

    for signals in (1, 2):  # the second time by somebody who is impatient
        short = [_open_stream(rng, seconds=rng.uniform(0.2, 0.4) * drain_s) for _ in range(OPEN_STREAMS // 2)]
        long = [_open_stream(rng, seconds=120) for _ in range(OPEN_STREAMS // 2)]
        ends, stopped_after_s = asyncio.run(_stop_with_open_streams(gateway, short + long, signals))
        gateway.start()
        accounts = settled_accounts(gateway, provider, stays_s=2.2)

        print(f"{OPEN_STREAMS} open streams: stopped after {stopped_after_s:.1f} s; {accounts}")
        accounts.assert_once()
        assert {ends[call.name] for call in short} == {"whole"}
        assert {ends[call.name] for call in long} == {"told that it was cut"}
        assert stopped_after_s < drain_s + 6, "the drain is waited for twice"
        rows = {name: rows[0] for name, rows in accounts.rows.items()}
        assert {rows[call.name]["usage_source"] for call in short} == {"provider"}
        assert {rows[call.name]["usage_source"] for call in long} == {"partial"}
        assert {rows[call.name]["error_type"] for call in long} == {"shutdown"}
    assert_totals_are_the_rows(gateway)


def test_worker_and_beat_come_back_alone_and_the_runner_lets_streams_end(
    supervised: SupervisedGateway, provider: ProviderProcess, rng: random.Random
):
    web = supervised.the("manage.py", "serve")
    killed = [_killed(supervised, "celery", "worker"), _killed(supervised, "celery", " beat ")]

    for words, old in zip((("celery", "worker"), ("celery", " beat ")), killed, strict=True):
        assert is_true_within(20, lambda words=words: supervised.running(*words)), f"{words} stays away"
        assert supervised.the(*words).pid != old.pid
    assert not any(process.is_alive() for process in killed), "what was killed left something behind"
    assert len(supervised.running("celery", " beat ")) == 1
    assert supervised.the("manage.py", "serve") == web, "the web process was harmed"

    streams = [_open_stream(rng, seconds=rng.uniform(0.5, 1.5)) for _ in range(OPEN_STREAMS)]
    below = descendants(supervised.pid)
    ends, _ = asyncio.run(_stop_with_open_streams(supervised, streams, 1))
    assert not any(process.is_alive() for process in below), "the runner left processes behind"
    supervised.start()
    accounts = settled_accounts(supervised, provider)

    print(accounts)
    assert set(ends.values()) == {"whole"}
    accounts.assert_once()
    assert accounts.booked == accounts.billed


def _killed(gateway: SupervisedGateway, *words: str) -> Process:
    """Wait for a process of ours, kill it and return what it was, with what it had started."""
    assert is_true_within(20, lambda: gateway.running(*words)), f"{words} does not run"
    process = gateway.the(*words)
    time.sleep(1.5)  # longer than what counts as a failed start
    process.kill()
    return process


def _open_stream(rng: random.Random, *, seconds: float) -> Call:
    chunks = 100
    route = rng.choice(STREAMING_ROUTES)
    return make_call(
        rng,
        route=route,
        streamed=True,
        chunks=chunks,
        chunk_delay_ms=seconds * 1000 / chunks,
        tool_call=False,
    )


async def _stop_with_open_streams(
    gateway: GatewayProcess, calls: list[Call], signals: int
) -> tuple[dict[str, str], float]:
    """Open all streams, stop the gateway, and return how each ended, by name, and how long stopping took."""
    opened = [asyncio.Event() for _ in calls]
    clients = [
        asyncio.create_task(_read_to_the_end(call, gateway, event))
        for call, event in zip(calls, opened, strict=True)
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
    return {
        call.name: end for call, end in zip(calls, await asyncio.gather(*clients), strict=True)
    }, stopped_after_s


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


# -- records that cannot be booked ---------------------------------------------------


def test_damaged_and_unbookable_records_stop_nothing(
    make_gateway: Callable[..., GatewayProcess], provider: ProviderProcess, rng: random.Random
):
    gateway = make_gateway(RECORDER_SECONDS=3600)  # nothing is booked before the kill
    calls = [make_call(rng) for _ in range(30)]
    asyncio.run(_all_answered(calls, gateway))
    is_true_within(2, lambda: False)  # the journal is synced every 50 ms
    gateway.kill()
    [damaged_path] = gateway.journal_dir.iterdir()
    _damage_the_middle(damaged_path, rng)
    poison = _craft_unbookable_journal(gateway)

    gateway.environment["RECORDER_SECONDS"] = "0.05"
    gateway.start()
    later = [make_call(rng) for _ in range(10)]
    asyncio.run(_all_answered(later, gateway))
    accounts = settled_accounts(gateway, provider, timeout_s=6, stays_s=2.2)

    print(accounts)
    assert not accounts.doubled()
    assert {call.name for call in later} <= set(accounts.rows), "later calls are not booked"
    quarantined = [rows[0] for rows in accounts.rows.values() if rows[0]["status"] == "quarantined"]
    damage = [row for row in quarantined if row["error_message"].startswith("Damaged bytes in journal")]
    assert len(damage) == 1
    assert damaged_path.name in damage[0]["error_message"]
    good = [row for rows in accounts.rows.values() for row in rows if row["usage_source"] == "provider"]
    assert len(good) >= len(calls) + len(later) - 2, "more is gone than the damaged bytes"
    for record in poison:
        [row] = gateway.rows(id=record.call_id.hex())
        # SQLite stores any length and any character: there nothing is wrong with it.
        assert row["status"] == "quarantined" or not services.is_postgresql()
        assert row["cost"] == record.cost_nano or record.cost_nano >= 1 << 63
    assert gateway.rows(customer_id="after-the-poison")[0]["status"] == "success"
    assert_totals_are_the_rows(gateway)


async def _all_answered(calls: list[Call], gateway: GatewayProcess) -> None:
    for call in calls:
        with await Connection.open(gateway.port) as connection:
            head, _ = await connection.answer(call.request(gateway.master_key))
            assert head.status == 200


def _damage_the_middle(journal: Path, rng: random.Random) -> None:
    """Overwrite some bytes in the middle of a dead process's journal, as a bad sector does."""
    path = segment_path(journal, segments_of(journal)[-1])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = rng.randbytes(40)
    path.write_bytes(data)


def _craft_unbookable_journal(gateway: GatewayProcess) -> list[Closed]:
    """Leave the journal of a dead process with records that no edge would have let in, and a good one."""
    journal = Journal(gateway.journal_dir, gateway.execute_orm(installation_id))
    poison = []
    for customer_id, cost_nano in (("x" * 300, 1_000), ("nul\0inside", 2_000), ("overflow", 1 << 63)):
        poison.append(_append_call(journal, customer_id, cost_nano))
    _append_call(journal, "after-the-poison", 3_000)
    journal.close()
    return poison


def _append_call(journal: Journal, customer_id: str, cost_nano: int) -> Closed:
    now_us = time.time_ns() // 1000
    opened = Opened(
        uuid7_bytes(now_us // 1000), now_us, "openai_chat", "gpt-4o", False, customer_id=customer_id
    )
    closed = Closed(
        opened.call_id, now_us, "success", 200, usage_source="estimated",
        usage=Usage(input_uncached=10), cost_nano=cost_nano, charge_nano=cost_nano,
    )  # fmt: skip
    sent = Sent(opened.call_id, None, "openai", "openai", "gpt-4o", None, 10, 10, cost_nano)
    journal.append(opened, sent, closed)
    return closed
