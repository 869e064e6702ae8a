"""
A worker is killed when its admission is being committed: what it held is given back, soon (H3).

No record of the call was written, and it was never sent. The database is made to commit
slowly, so that the kill falls into an instant that is else too short to hit.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from django.db import connection

from tests import services
from tests.chaos.support.books import billed_to, settled_books
from tests.chaos.support.processes import Process
from tests.chaos.support.purchases import TOKEN, key_for_customers, new_customer, purchase
from tests.chaos.support.shop import Shop, connection_of_thread
from tests.chaos.support.workers import connection_to_each, kill_and_wait_for_holds, workers_of
from tests.gateway import is_true_within

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not services.is_postgresql(), reason="only PostgreSQL can be made to commit slowly"),
]

HELD_SECONDS = 5
COMMIT_SECONDS = 0.5
TOKENS = 777  # no other test's calls hold just so much


def test_a_call_whose_worker_died_before_its_first_record_holds_nothing(shop: Shop):
    key = key_for_customers(shop.gateway, max_budget="0.001", mode="strict")
    customer = new_customer("unopened")

    with _slow_commits(shop):
        held_for = asyncio.run(_kill_while_it_commits(shop, key, customer))
    books, bill = settled_books(shop.gateway, shop.provider, stays_s=3)

    period = books.period_of(customer)
    print(f"held for {held_for:.1f} s after the kill")
    assert TOKENS * TOKEN in [state.held for state in shop.witness.states(period["id"])], "nothing was held"
    assert not billed_to(bill, customer), "the worker was killed too late"
    assert held_for <= HELD_SECONDS
    assert (period["spent_charge"], period["held"]) == (0, 0)


@contextlib.contextmanager
def _slow_commits(shop: Shop) -> Iterator[None]:
    """Have the database take its time to commit this test's hold. It commits also for the dead."""
    with shop.gateway.orm(), connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION commit_slowly() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_sleep({COMMIT_SECONDS}); RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON billing_hold INITIALLY DEFERRED "
            f"FOR EACH ROW WHEN (NEW.amount = {TOKENS * TOKEN}) EXECUTE FUNCTION commit_slowly()"
        )
    try:
        yield
    finally:
        with shop.gateway.orm(), connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION commit_slowly CASCADE")


async def _kill_while_it_commits(shop: Shop, key: str, customer: str) -> float:
    """Kill the worker that is having the call admitted; return for how many seconds it still holds."""
    connections = await connection_to_each(shop.gateway)
    [worker] = [worker for worker in workers_of(shop.gateway) if worker.pid == next(iter(connections))]
    call = purchase(customer, "by-token", max_tokens=TOKENS)
    await connections[worker.pid].send(call.request(key))
    held_for = await asyncio.to_thread(_kill, shop, worker)
    for each in connections.values():
        each.close()
    return held_for


def _kill(shop: Shop, worker: Process) -> float:
    with connection_of_thread(shop.gateway):
        assert is_true_within(5, lambda: _is_committing(shop)), "the call does not come to its admission"
        return kill_and_wait_for_holds(shop.gateway, worker, committed_after_s=COMMIT_SECONDS).seconds


def _is_committing(shop: Shop) -> bool:
    with shop.gateway.orm(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        )
        return cursor.fetchone() is not None
