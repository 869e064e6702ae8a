"""
The database is away for a while (bar 4): calls go on, and everything is booked afterwards, once.

Away means stopped (connections break, new ones are refused) or hanging (they are
taken, nothing comes back). It is a wire in front of PostgreSQL that is cut: other
tests go on using the server.
"""

import asyncio
import random
import time

import pytest

from tests import services
from tests.chaos.support.behind import GatewayBehind
from tests.chaos.support.calls import Call, make_call
from tests.chaos.support.load import Load
from tests.chaos.support.scale import scaled
from tests.chaos.support.settling import assert_totals_are_the_rows, is_alive, readiness, settled_accounts
from tests.chaos.support.tcp_proxy import DatabaseWire
from tests.chaos.support.wire import Connection
from tests.gateway import GatewayProcess, is_true_within
from tests.provider import ProviderProcess

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not services.is_postgresql(), reason="SQLite is never away: PostgreSQL only"),
]

AWAY_SECONDS = scaled(6, 20)
CLIENTS = scaled(20, 50)


@pytest.mark.parametrize("kind", ["stopped", "hanging"])
def test_no_call_fails_and_each_is_booked_once_when_the_database_was_away(
    kind: str, provider: ProviderProcess, wire: DatabaseWire, rng: random.Random
):
    with GatewayBehind(wire, provider=provider) as gateway:
        _, secret = gateway.create_key(alias="known")
        _, unseen_secret = gateway.create_key(alias="not seen yet")
        asyncio.run(_answer(make_call(rng), gateway, secret))  # from now on the key is known
        load = Load(gateway.port, secret, _quick_call, rng)
        told: list[str] = []

        asyncio.run(load.during(CLIENTS, lambda: _outage(kind, wire, gateway, rng, unseen_secret, told)))
        status_afterwards = asyncio.run(_answer(make_call(rng), gateway, unseen_secret))
        accounts = settled_accounts(gateway, provider, stays_s=2)

        print(f"away for {AWAY_SECONDS} s ({kind}); clients saw {dict(load.outcomes)}; {accounts}")
        assert not told, "; ".join(told)
        assert set(load.outcomes) == {"200"}, load.failures[:5]
        assert load.outcomes["200"] > 5 * AWAY_SECONDS, "there was no load to speak of"
        accounts.assert_once()
        assert accounts.booked == accounts.billed
        assert accounts.share_from_provider() == 1
        assert status_afterwards == 200, "a key that was asked for during the outage stays unknown"
        assert_totals_are_the_rows(gateway)


def _outage(
    kind: str,
    wire: DatabaseWire,
    gateway: GatewayProcess,
    rng: random.Random,
    unseen_secret: str,
    told: list[str],
) -> None:
    """Take the database away under load, look around meanwhile, and bring it back. told: what was wrong."""
    time.sleep(1.5)
    if _readiness(gateway) != 200:
        told.append("readiness is not healthy to begin with")
    ends_at = time.monotonic() + AWAY_SECONDS
    wire.stop() if kind == "stopped" else wire.hang()
    try:
        told += asyncio.run(_look_around(gateway, rng, unseen_secret))
        time.sleep(max(0, ends_at - time.monotonic()))
    finally:
        wire.resume()
    if not is_true_within(20, lambda: _readiness(gateway) == 200):
        told.append("readiness does not come back")


async def _look_around(gateway: GatewayProcess, rng: random.Random, unseen_secret: str) -> list[str]:
    """Return what is not as it should be while the database is away."""
    unseen, unknown, readiness_status, alive = await asyncio.gather(
        _answer(make_call(rng), gateway, unseen_secret),
        _answer(make_call(rng), gateway, "sk-nobody-knows-this-one"),
        asyncio.to_thread(_readiness, gateway),
        asyncio.to_thread(is_alive, gateway),
    )
    wrong = {
        f"a key not seen yet is answered {unseen}, not 503": unseen != 503,
        f"an unknown key is answered {unknown}, not 503": unknown != 503,
        f"readiness says {readiness_status}": readiness_status != 503,
        "liveness does not answer": not alive,
    }
    return [what for what, is_so in wrong.items() if is_so]


def _quick_call(rng: random.Random) -> Call:
    return make_call(rng, delay_ms=rng.uniform(20, 200), chunk_delay_ms=rng.uniform(0, 10), chunks=10)


async def _answer(call: Call, gateway: GatewayProcess, key: str) -> int:
    with await Connection.open(gateway.port) as connection:
        head, _ = await connection.answer(call.request(key))
    return head.status


def _readiness(gateway: GatewayProcess) -> int | str:
    try:
        return readiness(gateway, timeout_s=10)[0]
    except OSError as error:
        return f"nothing ({error})"
