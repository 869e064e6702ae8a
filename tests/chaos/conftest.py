"""
Fixtures of the fault tests: most have their own provider and gateway, for they break them.

Those of budgets share a `shop`: several workers take long to start.
"""

import random
from collections.abc import Iterator

import pytest

from tests.chaos.support import scale
from tests.chaos.support.behind import database_wire
from tests.chaos.support.proof import assert_reconciled, proving
from tests.chaos.support.shop import WORKERS, Shop, open_shop
from tests.chaos.support.tcp_proxy import DatabaseWire
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess


@pytest.fixture(autouse=True)
def _proven(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have each test end with the proof that its gateways' sums are what their logs say."""
    monkeypatch.setattr(GatewayProcess, "stop", proving(GatewayProcess.stop))
    yield
    if "shop" in request.fixturenames:  # it goes on after the test
        assert_reconciled(request.getfixturevalue("shop").gateway)


@pytest.fixture
def rng() -> random.Random:
    """What a test draws from. Run it again with the CHAOS_SEED that a failure shows."""
    seed = scale.seed()
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def provider() -> Iterator[ProviderProcess]:
    with ProviderProcess() as process:
        yield process


@pytest.fixture(scope="package", params=WORKERS, ids=lambda workers: f"{workers}-workers")
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with open_shop(request.param) as shop:
        yield shop


@pytest.fixture
def wire() -> Iterator[DatabaseWire]:
    """A wire to PostgreSQL that may be cut."""
    with database_wire() as wire:
        yield wire
