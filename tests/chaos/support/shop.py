"""
The gateway that the tests of budgets share: with several workers, and a witness in its database.

Tests are told apart by their customers; whose limits are edited, or who cuts the
database off, makes a gateway of its own.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from django.db import connection

from tests import services
from tests.chaos.support.purchases import expect_short_answers, make_models
from tests.chaos.support.scale import IS_LONG
from tests.chaos.support.witness import Witness
from tests.chaos.support.workers import make_gateway_of
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess

# SQLite is for one web process.
WORKERS = ([1, 4, 8] if IS_LONG else [4]) if services.is_postgresql() else [1]
MOST_WORKERS = max(WORKERS)


class Shop(NamedTuple):
    gateway: GatewayProcess
    provider: ProviderProcess
    witness: Witness


@contextlib.contextmanager
def open_shop(workers: int) -> Iterator[Shop]:
    """Run a provider and a gateway.

    The gateway waits a second for a provider that hangs; what a standard budget holds for
    two models is far less than they cost.
    """
    with ProviderProcess() as provider:
        gateway = make_gateway_of(
            workers,
            provider=provider,
            DISCONNECT_GRACE_SECONDS=5,
            RECORDER_SECONDS=0.05,  # as in production: tests of other things book sooner
        )
        gateway.execute_orm(make_models, read_timeout_s=1)
        gateway.execute_orm(expect_short_answers, "gpt-4o", "claude-sonnet-4-5")
        witness = Witness(gateway).install()
        with gateway:
            yield Shop(gateway, provider, witness)


@contextlib.contextmanager
def connection_of_thread(gateway: GatewayProcess) -> Iterator[None]:
    """Close in the end what this thread's queries on the gateway's database have opened."""
    try:
        yield
    finally:
        with gateway.orm():
            connection.close()
