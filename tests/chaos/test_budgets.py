"""
Budgets where the right sum is known: as much passes as the limit buys, and not one call more.

Hundreds of calls at once, at exact prices; and strict budgets among calls that are as dear
as they may be. A witness in the database sees every state that a period was in.
"""

import asyncio
from collections import Counter
from decimal import Decimal

import pytest

from tests.chaos.support.books import billed_to, settled_books
from tests.chaos.support.purchases import (
    DIME,
    TOKEN,
    Purchase,
    key_for_customers,
    new_customer,
    purchase,
)
from tests.chaos.support.scale import scaled
from tests.chaos.support.shop import Shop
from tests.chaos.support.shoppers import buy_at_once

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

ROUNDS = scaled(2, 20)
AT_ONCE = 500
SECONDS = scaled(4, 30)
CLIENTS = 30  # of each budget
USD = 1_000_000_000


# -- exact prices --------------------------------------------------------------------------


@pytest.mark.parametrize("price", ["by the call", "by tokens that are all used"])
def test_exactly_ten_of_five_hundred_calls_pass_where_ten_fit(shop: Shop, price: str):
    # Strict: what is held for tokens does not depend on what other calls usually used.
    key = key_for_customers(shop.gateway, max_budget="1", budget_duration="1mo", mode="strict")
    outcomes = []

    for _ in range(ROUNDS):
        customer = new_customer("race")
        calls = [_dime(customer) if price == "by the call" else _ten_cents_of_tokens(customer)
                 for _ in range(AT_ONCE)]  # fmt: skip
        attempts = asyncio.run(buy_at_once(shop.gateway.port, key, calls))
        outcomes.append(Counter(attempt.outcome for attempt in attempts))
        others = [attempt for attempt in attempts if attempt.outcome != "200" and not attempt.is_over_budget]
        assert not others, (outcomes[-1], others[0])
        assert _served(shop, customer) == 10
        _assert_spent(shop, customer, 10 * DIME)

    print(f"{ROUNDS} races: {outcomes[-1]}")
    assert outcomes == [{"200": 10, "400": AT_ONCE - 10}] * ROUNDS


def test_a_thousand_calls_of_a_dime_spend_five_dollars_of_five(shop: Shop):
    key = key_for_customers(shop.gateway, max_budget="5")
    customer = new_customer("thousand")

    attempts = asyncio.run(_in_turns(shop, key, [_dime(customer, delay_ms=10) for _ in range(1000)]))

    assert attempts == {"200": 50, "400": 950}
    assert _served(shop, customer) == 50
    _assert_spent(shop, customer, 5 * USD)


async def _in_turns(shop: Shop, key: str, calls: list[Purchase]) -> Counter[str]:
    """Make the calls, a hundred at a time, each hundred when the one before is answered."""
    outcomes: Counter[str] = Counter()
    for start in range(0, len(calls), 100):
        attempts = await buy_at_once(shop.gateway.port, key, calls[start : start + 100])
        outcomes.update(attempt.outcome for attempt in attempts)
    return outcomes


def _dime(customer: str, *, delay_ms: int = 300) -> Purchase:
    return purchase(customer, fake={"delay_ms": delay_ms})


def _ten_cents_of_tokens(customer: str) -> Purchase:
    fake = {"delay_ms": 300, "output_tokens": 100_000, "text": "short"}
    return purchase(customer, "by-token", max_tokens=100_000, fake=fake)


# -- the longest answers ---------------------------------------------------------------------

GREEDY = {"output_tokens": 1_000_000, "obeys_maximum": True, "delay_ms": 100, "chunks": 30}
# How calls are made dear, or their estimates: the model, what the request says, how it is answered.
DEAR = {
    "max_tokens": ("by-token", {"max_tokens": 500}, {}),
    "no max_tokens": ("by-token", {}, {}),
    "eight answers": ("by-token", {"max_tokens": 100, "n": 8}, {}),
    "no usage": ("by-token", {"max_tokens": 50}, {"no_usage": True, "text": "word " * 200}),
    "no usage in a stream": ("by-token", {"max_tokens": 50, "stream": True}, {"no_usage": True}),
    "a stream that breaks off": ("by-token", {"max_tokens": 100, "stream": True}, {"cut_after": 20}),
    "a stream that hangs": ("by-token", {"max_tokens": 100, "stream": True}, {"hang_after": 20}),
    "input of a stream that breaks off": (
        "gpt-4o-mini",
        {"max_tokens": 10, "stream": True},
        {"cut_after": 2},
    ),
}


def test_a_strict_budget_is_not_overspent_by_the_longest_answers(shop: Shop):
    limit = 2_000_000
    key = key_for_customers(shop.gateway, max_budget="0.002", mode="strict")
    customers = {new_customer(how.replace(" ", "-")): how for how in DEAR}
    asyncio.run(_teach(shop))

    asyncio.run(_spend_all(shop, key, customers))
    books, bill = settled_books(shop.gateway, shop.provider)

    for customer, how in customers.items():
        period = books.period_of(customer)
        billed = sum(entry["usage"]["output"] * TOKEN for entry in billed_to(bill, customer))
        print(f"{how}: limit {limit}, spent {period['spent_charge']}, output billed {billed}")
        assert max(state.taken for state in shop.witness.states(period["id"])) <= limit, how
        if all(log["usage_source"] == "provider" for log in books.logs_of(customer) if log["cost"]):
            assert billed <= limit, how


async def _spend_all(shop: Shop, key: str, customers: dict[str, str]) -> None:
    """Call for all customers, twenty calls each at a time, until each was refused for its budget."""
    left = set(customers)
    for _ in range(50):
        calls = [_dear_call(customer, customers[customer]) for customer in left for _ in range(20)]
        attempts = await buy_at_once(shop.gateway.port, key, calls)
        left -= {attempt.purchase.customer for attempt in attempts if attempt.is_over_budget}
        if not left:
            return
    raise AssertionError(f"the budgets of {left} are never spent")


def _dear_call(customer: str, how: str) -> Purchase:
    model, said, answered = DEAR[how]
    return purchase(customer, model, fake={**GREEDY, **answered}, **said)


async def _teach(shop: Shop) -> None:
    """Let the workers see streams with 200 tokens an event, and hundreds in a byte that was sent.

    So answer those that hide what they write, and such are calls with links to pictures:
    what is estimated of other calls must not follow.
    """
    customer = new_customer("teacher")
    fake = {"input_tokens": 50_000, "output_tokens": 2_000, "chunks": 10}
    calls = [purchase(customer, "by-token", fake=fake, stream=True) for _ in range(40)]
    attempts = await buy_at_once(shop.gateway.port, shop.gateway.master_key, calls)
    assert {attempt.outcome for attempt in attempts} == {"200"}


def test_what_a_provider_bills_beyond_its_own_limit_is_booked_and_shows_as_overspend(shop: Shop):
    from billing.models import BudgetPeriod

    key = key_for_customers(shop.gateway, max_budget="0.001", mode="strict")
    customer = new_customer("overspent")
    call = purchase(customer, "by-token", max_tokens=1_000, fake={"output_tokens": 5_000, "text": "short"})

    [attempt] = asyncio.run(buy_at_once(shop.gateway.port, key, [call]))
    books, _ = settled_books(shop.gateway, shop.provider)
    [refused] = asyncio.run(buy_at_once(shop.gateway.port, key, [_dime(customer)]))

    assert attempt.outcome == "200"
    assert books.period_of(customer)["spent_charge"] == 5_000 * TOKEN
    period = shop.gateway.execute_orm(BudgetPeriod.objects.get, holder_id=customer)
    assert period.overspend_usd == Decimal("0.005") - Decimal("0.001")
    assert refused.is_over_budget and refused.error["spent"] == 0.005


# -- helpers ---------------------------------------------------------------------------------------


def _served(shop: Shop, customer: str) -> int:
    return len(billed_to(shop.provider.settled_bill(), customer))


def _assert_spent(shop: Shop, customer: str, nano: int) -> None:
    books, _ = settled_books(shop.gateway, shop.provider)
    period = books.period_of(customer)
    assert (period["spent_charge"], period["held"]) == (nano, 0)
    states = shop.witness.states(period["id"])
    assert max(state.taken for state in states) <= nano, "for a moment more was promised than there is"
