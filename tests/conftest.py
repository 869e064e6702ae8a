"""
Fixtures that every test may use, and what a run says about the machine it ran on.

`provider` and `gateway` are shared by the whole run: a test is told apart from the
others by an id of its own (`customer`), never by an empty table. One that kills,
blocks everything or needs other settings makes its own with `make_gateway`.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests import services
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess

pytest.register_assert_rewrite("tests.comparing")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail at once where CI lacks a service it should have: no silent fall-back (CI_REQUIRES)."""
    missing = services.missing(os.environ.get("CI_REQUIRES", ""))
    if missing:
        pytest.exit(f"CI_REQUIRES names services that do not answer: {', '.join(missing)}", returncode=3)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"ran on {services.description()}")


@pytest.fixture(scope="session", autouse=True)
def _permit(django_db_blocker: Any) -> None:
    GatewayProcess.database_permit = django_db_blocker.unblock


@pytest.fixture(scope="session")
def provider() -> Iterator[ProviderProcess]:
    """The fake provider behind `gateway`. Its bill is asked by tag."""
    with ProviderProcess() as process:
        yield process


@pytest.fixture(scope="session")
def gateway(provider: ProviderProcess) -> Iterator[GatewayProcess]:
    """A running gateway, shared by the run."""
    with GatewayProcess(provider=provider) as process:
        yield process


@pytest.fixture
def make_gateway(provider: ProviderProcess) -> Iterator[Callable[..., GatewayProcess]]:
    """Make and start gateways with settings of their own: `make_gateway(MAX_BODY_MB=1)`."""
    made: list[GatewayProcess] = []

    def make(**options: Any) -> GatewayProcess:
        process = GatewayProcess(**{"provider": provider, **options})
        made.append(process)
        return process.start()

    yield make
    for process in made:
        process.stop()


@pytest.fixture
def customer() -> str:
    """A customer id that no other test uses."""
    return f"customer-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def as_billed(
    gateway: GatewayProcess, provider: ProviderProcess, customer: str
) -> Callable[..., list[dict[str, Any]]]:
    """Return the rows of `customer`, each asserted to be what the provider's own bill says.

    The calls carry the customer's id also as `fake.tag`.
    """

    def check(count: int = 1) -> list[dict[str, Any]]:
        rows = gateway.wait_booked(count, customer_id=customer)
        entries = provider.settled_bill(tag=customer)["entries"]
        assert len(rows) == len(entries) == count
        from tests.comparing import assert_is_as_billed  # after its asserts are rewritten

        for row, entry in zip(rows, entries, strict=True):
            assert_is_as_billed(row, entry)
        return rows

    return check


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    """A client of the gateway that carries the master key."""
    # Optimization: verify=False, or each client reads all the certificates that it never needs.
    headers = {"authorization": f"Bearer {gateway.master_key}"}
    with httpx.Client(
        base_url=gateway.url, headers=headers, trust_env=False, verify=False, timeout=30
    ) as client:
        yield client
