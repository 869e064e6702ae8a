"""
Races of calls whose cost nobody knows before: `strict` is never overspent, `standard` within its bound.

Calls cost 0.1 to 1.0 of their most, plain and streamed, at the provider's own prices; some
clients leave, and workers are killed. Two customers are raced for at the same time.
"""

import asyncio
import random
import threading
import time
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from tests.chaos.support.books import Books, assert_provider_agrees, billed_to, settled_books
from tests.chaos.support.purchases import CHAT, MESSAGES, Purchase, key_for_customers, new_customer, purchase
from tests.chaos.support.scale import IS_LONG, scaled
from tests.chaos.support.settling import is_alive
from tests.chaos.support.shop import Shop
from tests.chaos.support.shoppers import Shoppers
from tests.chaos.support.workers import workers_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

LIMIT_USD = scaled(Decimal("0.1"), Decimal(1))
CLIENTS = 30  # of each customer
SECONDS = scaled(4, 30)
MOST_SECONDS = 240
ENOUGH_REFUSALS = 20

# A model's dearest answer costs about a tenth of a cent; `standard` expects short ones of both (shop.py).
REAL_CALLS = ((CHAT, "gpt-4o", 120), (MESSAGES, "claude-sonnet-4-5", 80))


class Racer(NamedTuple):
    """One customer, and the clients that race for its budget."""

    mode: str
    customer: str
    crowd: Shoppers


@pytest.mark.parametrize("has_kills", [False, True] if IS_LONG else [True])
def test_a_race_stays_within_the_bound_of_its_mode(shop: Shop, has_kills: bool, rng: random.Random):
    racers = [_racer(shop, mode, rng) for mode in ("strict", "standard")]

    asyncio.run(_race(shop, racers, has_kills, rng))
    books, bill = settled_books(shop.gateway, shop.provider, stays_s=3 if has_kills else 0.5)

    for racer in racers:
        _assert_within_bound(racer, shop, books, bill)
    books.assert_agree()
    assert_provider_agrees(books, bill)


def _racer(shop: Shop, mode: str, rng: random.Random) -> Racer:
    key = key_for_customers(shop.gateway, max_budget=str(LIMIT_USD), mode=mode)
    customer = new_customer(mode)

    def make() -> Purchase:
        return _real_call(rng, customer, mode)

    return Racer(mode, customer, Shoppers(shop.gateway.port, key, make, rng, leaving=0.3, pause_s=0.3))


def _real_call(rng: random.Random, customer: str, mode: str) -> Purchase:
    path, model, tokens = rng.choice(REAL_CALLS)
    body: dict[str, Any] = {"max_tokens": tokens, "stream": rng.random() < 0.5}
    if mode == "strict" and path == CHAT and rng.random() < 0.02:
        del body["max_tokens"]  # it is sent with what the budget still buys
    fake = {
        "output_tokens": rng.randint(tokens // 10, tokens),
        "obeys_maximum": True,
        "delay_ms": rng.uniform(20, 200),
        "chunks": rng.randrange(3, 9),
        "chunk_delay_ms": rng.uniform(0, 30),
    }
    return purchase(customer, model, path=path, fake=fake, **body)


async def _race(shop: Shop, racers: list[Racer], has_kills: bool, rng: random.Random) -> None:
    """Race for a while, and until both budgets refuse."""
    is_over = threading.Event()

    def run() -> None:
        began_at = time.monotonic()
        while not (is_refused(racers) and time.monotonic() - began_at > SECONDS):
            assert time.monotonic() - began_at < MOST_SECONDS, "the race does not reach the limits"
            time.sleep(rng.uniform(0.3, 1))
            if has_kills and is_alive(shop.gateway):
                rng.choice(workers_of(shop.gateway)).kill()
        is_over.set()

    first, second = (racer.crowd for racer in racers)
    await asyncio.gather(first.during(CLIENTS, run), second.during(CLIENTS, is_over.wait))


def is_refused(racers: list[Racer]) -> bool:
    return all(racer.crowd.outcomes["over budget"] >= ENOUGH_REFUSALS for racer in racers)


def _assert_within_bound(racer: Racer, shop: Shop, books: Books, bill: dict[str, Any]) -> None:
    limit = int(LIMIT_USD.scaleb(9))
    period = books.period_of(racer.customer)
    spent, states = period["spent_charge"], shop.witness.states(period["id"])
    largest_held = max(state.held for state in states)
    billed = sum(entry["cost_nano_usd"] for entry in billed_to(bill, racer.customer))
    print(
        f"{racer.mode}: spent {spent} of {limit} ({spent - limit:+d}), billed {billed}, "
        f"held at most {largest_held}; {dict(racer.crowd.outcomes)}"
    )
    assert spent >= limit - largest_held, "somebody was refused what was there"
    # So `standard` is overspent by no more than what calls under way cost beyond their holds.
    assert max(state.taken for state in states if state.is_admission) <= limit, "one too many passed"
    if racer.mode == "strict":
        assert max(state.taken for state in states) <= limit, "for a moment more was promised than there is"
    # A call whose usage nobody reported is booked by an estimate, and may have been billed for more.
    assert billed <= max(limit, spent) + _billed_beyond_estimates(books, bill, racer.customer)


def _billed_beyond_estimates(books: Books, bill: dict[str, Any], customer: str) -> int:
    costs = {
        log["client_call_id"]: log["cost"]
        for log in books.logs_of(customer)
        if log["usage_source"] != "provider"
    }
    return sum(
        max(0, entry["cost_nano_usd"] - costs[entry["tag"]])
        for entry in billed_to(bill, customer)
        if entry["tag"] in costs
    )
