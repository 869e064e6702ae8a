"""A gateway whose way to its database is a wire that a test can cut (`tcp_proxy.py`)."""

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from tests.chaos.support.tcp_proxy import DatabaseWire
from tests.gateway import GatewayProcess


class GatewayBehind(GatewayProcess):
    """A gateway behind the wire; the test's own queries go past it."""

    def __init__(self, wire: DatabaseWire, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        parts = urlsplit(self.database_url)
        user = parts.netloc.rpartition("@")[0]
        address = f"{user}@127.0.0.1:{wire.port}" if user else f"127.0.0.1:{wire.port}"
        self.environment["DATABASE_URL"] = parts._replace(netloc=address).geturl()


@contextlib.contextmanager
def database_wire() -> Iterator[DatabaseWire]:
    """Run a wire to the PostgreSQL server of this run."""
    server = urlsplit(os.environ["DATABASE_URL"])
    with DatabaseWire(server.hostname or "127.0.0.1", server.port or 5432) as wire:
        yield wire
