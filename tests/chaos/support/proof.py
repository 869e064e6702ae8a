"""What every fault test ends with: the product's own proof that all sums are what the log says."""

from collections.abc import Callable
from datetime import UTC, datetime

from tests.gateway import GatewayProcess

_PROVEN = "is_proven"


def assert_reconciled(gateway: GatewayProcess) -> None:
    """Assert that `reconcile` finds nothing. It reads one snapshot: calls may be under way, workers dead."""
    from billing.books.reconciliation import compare

    found = gateway.execute_orm(compare, at=datetime.now(UTC))
    assert not found.differences, f"{found.differences} rows differ from the log: {found.examples}"


def leave_unproven(gateway: GatewayProcess) -> GatewayProcess:
    """Have a database pass whose sums a test writes by hand."""
    setattr(gateway, _PROVEN, True)
    return gateway


def proving(stop: Callable[[GatewayProcess], None]) -> Callable[[GatewayProcess], None]:
    """Return `GatewayProcess.stop` that asserts this before the database is dropped."""

    def prove_and_stop(gateway: GatewayProcess) -> None:
        try:
            if not getattr(gateway, _PROVEN, False):
                setattr(gateway, _PROVEN, True)
                assert_reconciled(gateway)
        finally:
            stop(gateway)

    return prove_and_stop
