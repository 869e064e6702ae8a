"""An edit by staff is in force on every worker within two seconds: limits, blocks, keys."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.chaos.support.purchases import make_budget, new_customer, purchase
from tests.chaos.support.shop import Shop, connection_of_thread
from tests.chaos.support.shoppers import buy
from tests.chaos.support.wire import Connection
from tests.chaos.support.workers import connection_to_each

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

IN_FORCE_SECONDS = 2.0
_GIVES_UP_SECONDS = 10.0


class Staff:
    """What staff does to one customer and one key, in the gateway's database."""

    def __init__(self, customer_id: str) -> None:
        from customers.models import Customer
        from customers.services import create_key

        self.key, self.secret = create_key()
        self.customer = Customer.objects.create(pk=customer_id)
        self._budget: Any = None

    def set_limit(self, usd: str) -> None:
        if self._budget is None:
            self._budget = make_budget(max_budget=usd)
            self.customer.budget = self._budget
            self.customer.save()
        self._budget.max_budget = usd
        self._budget.save()

    def block_customer(self, blocked: bool) -> None:
        from customers.services import set_customers_blocked

        set_customers_blocked(ids=[self.customer.pk], blocked=blocked)

    def block_key(self, blocked: bool) -> None:
        from customers.services import set_keys_blocked

        set_keys_blocked(ids=[self.key.pk], blocked=blocked)

    def revoke_key(self) -> None:
        from customers.services import delete_keys

        delete_keys(ids=[self.key.pk], at=datetime.now(UTC))


EDITS: list[tuple[str, Callable[[Staff], None], str, str]] = [
    # what is done, how a call is answered then, and the error's type
    ("a budget of nothing is attached", lambda staff: staff.set_limit("0"), "400", "budget_exceeded"),
    ("the limit is raised", lambda staff: staff.set_limit("1"), "200", ""),
    ("the limit is lowered", lambda staff: staff.set_limit("0.000001"), "400", "budget_exceeded"),
    ("the limit is raised again", lambda staff: staff.set_limit("1"), "200", ""),
    ("the customer is blocked", lambda staff: staff.block_customer(True), "403", "auth_error"),
    ("the customer is unblocked", lambda staff: staff.block_customer(False), "200", ""),
    ("the key is blocked", lambda staff: staff.block_key(True), "401", "auth_error"),
    ("the key is unblocked", lambda staff: staff.block_key(False), "200", ""),
    ("the key is revoked", lambda staff: staff.revoke_key(), "401", "token_not_found_in_db"),
]


def test_every_worker_knows_of_an_edit_within_two_seconds(shop: Shop):
    staff = shop.gateway.execute_orm(Staff, new_customer("edited"))

    seconds = asyncio.run(_edit_and_watch(shop, staff))

    print("in force after: " + "; ".join(f"{what} {after:.2f} s" for what, after in seconds.items()))
    assert not {what: after for what, after in seconds.items() if after > IN_FORCE_SECONDS}


async def _edit_and_watch(shop: Shop, staff: Staff) -> dict[str, float]:
    """Do one edit after the other; return how long each took to be in force everywhere."""
    connections = await connection_to_each(shop.gateway)
    try:
        await _in_force(connections, staff, "200", "")  # from now on each of them knows the key
        seconds = {}
        for what, edit, status, error_type in EDITS:
            began_at = time.monotonic()
            await asyncio.to_thread(_edit, shop, edit, staff)
            await _in_force(connections, staff, status, error_type)
            seconds[what] = time.monotonic() - began_at
    finally:
        for connection in connections.values():
            connection.close()
    return seconds


def _edit(shop: Shop, edit: Callable[[Staff], None], staff: Staff) -> None:
    with connection_of_thread(shop.gateway):
        shop.gateway.execute_orm(edit, staff)


async def _in_force(connections: dict[int, Connection], staff: Staff, status: str, error_type: str) -> None:
    """Wait until every worker answers like that, two times running."""
    await asyncio.gather(
        *(_answers(connection, staff, status, error_type) for connection in connections.values())
    )


async def _answers(connection: Connection, staff: Staff, status: str, error_type: str) -> None:
    gives_up_at = time.monotonic() + _GIVES_UP_SECONDS
    seen = 0
    while seen < 2:
        call = purchase(staff.customer.pk, "by-token", max_tokens=10, fake={"output_tokens": 1})
        attempt = await buy(connection, call, staff.secret)
        is_wanted = attempt.outcome == status and (attempt.error or {"type": ""})["type"] == error_type
        seen = seen + 1 if is_wanted else 0
        assert time.monotonic() < gives_up_at, f"still answered {attempt.outcome} {attempt.error}"
        await asyncio.sleep(0.02)
