"""Wait until nothing moves any more: then bill and log can be compared."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from tests.chaos.support.accounts import Accounts
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def readiness(gateway: GatewayProcess, *, timeout_s: float = 10) -> tuple[int, dict[str, Any]]:
    """Return (status, what the gateway says of itself)."""
    try:
        with _opener.open(f"{gateway.url}/health/readiness", timeout=timeout_s) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def is_alive(gateway: GatewayProcess, *, timeout_s: float = 3) -> bool:
    """Tell whether liveness answers in time: if not, an orchestrator kills the process."""
    try:
        with _opener.open(f"{gateway.url}/health/liveness", timeout=timeout_s) as response:
            return response.status == 200
    except OSError:
        return False


def settled_accounts(
    gateway: GatewayProcess, provider: ProviderProcess, *, timeout_s: float = 60, stays_s: float = 0.5
) -> Accounts:
    """Wait until no call is under way and the journal is booked, then return bill and log.

    stays_s: look once more after that, so that what is booked late or twice is seen.
    """
    deadline = time.monotonic() + timeout_s
    while not _is_settled(gateway):
        if time.monotonic() > deadline:
            raise TimeoutError(f"calls or journal do not come to an end: {readiness(gateway)[1]}")
        time.sleep(0.1)
    provider.settled_bill(timeout_s=max(5.0, deadline - time.monotonic()))
    while read_accounts(gateway, provider).lost() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(stays_s)
    return read_accounts(gateway, provider)


def read_accounts(gateway: GatewayProcess, provider: ProviderProcess) -> Accounts:
    return Accounts.of(provider.bill(), gateway.rows())


def assert_totals_are_the_rows(gateway: GatewayProcess) -> None:
    """Assert that the all-time total counts each row once."""
    from billing.models.spend_total import GATEWAY_ID, HolderType

    rows = gateway.rows()
    total = gateway.total(HolderType.GATEWAY.value, GATEWAY_ID)
    assert total is not None
    assert total["calls"] == len(rows)
    assert total["cost"] == sum(row["cost"] or 0 for row in rows)


def _is_settled(gateway: GatewayProcess) -> bool:
    status, report = readiness(gateway)
    return status == 200 and report["calls_under_way"] == 0 and report["journal"]["backlog_bytes"] == 0
