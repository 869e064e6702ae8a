"""
Nobody is refused for money that is still there, and what a killed worker held comes back.

Customers stay at the edge of their budgets for minutes, among clients that leave, providers
that fail and workers that are killed. Each refusal is judged by an oracle that knows all
calls; holds of killed workers must be gone within five seconds; in the end every sum agrees.
CHAOS_SECONDS sets how long this goes on.
"""

import asyncio
import os
import random
import threading
import time
from decimal import Decimal
from typing import Any

import pytest

from tests.chaos.support.books import assert_provider_agrees, settled_books
from tests.chaos.support.oracle import Oracle
from tests.chaos.support.purchases import (
    TOKEN,
    Purchase,
    make_budget,
    new_customer,
    purchase_by_token,
)
from tests.chaos.support.scale import scaled
from tests.chaos.support.shop import Shop, connection_of_thread
from tests.chaos.support.shoppers import Shoppers
from tests.chaos.support.workers import Kill, kill_and_wait_for_holds, workers_of
from tests.gateway import GatewayProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(3600)]

SECONDS = float(os.environ.get("CHAOS_SECONDS") or scaled(12, 180))
KILL_EVERY_SECONDS = 4
CUSTOMERS, CLIENTS = 12, 36
TOKENS = 1_000  # the longest answer: a tenth of a cent
FIRST_LIMIT = 20 * TOKENS * TOKEN
STEP = 2 * TOKENS * TOKEN  # by which a limit is raised where somebody was refused
HELD_SECONDS = 5


class Budgets:
    """Customers with strict budgets of their own, whose limits follow what is spent.

    Their key has a budget, too: it is never spent, but each call has a hold on it, and
    all calls meet at its row.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self.key = self._make_key()
        self.customers = [new_customer("edge") for _ in range(CUSTOMERS)]
        self._budgets = gateway.execute_orm(self._make)
        self.raises = 0

    def _make_key(self) -> str:
        budget = self._gateway.execute_orm(make_budget, max_budget="1000", budget_duration="1mo")
        return self._gateway.create_key(budget=budget)[1]

    def _make(self) -> dict[str, Any]:
        from customers.models import Customer

        budgets = {}
        for customer in self.customers:
            budget = make_budget(max_budget=str(Decimal(FIRST_LIMIT).scaleb(-9)), mode="strict")
            Customer.objects.create(pk=customer, budget=budget)
            budgets[customer] = budget
        return budgets

    def raise_spent(self) -> None:
        """Give a little more to those that are spent but for less than one call: they stay at the edge."""
        from billing.models import BudgetPeriod

        with self._gateway.orm():
            spent = dict(
                BudgetPeriod.objects.filter(holder_type="customer").values_list("holder_id", "spent_charge")
            )
            for customer, budget in self._budgets.items():
                left = budget.max_budget - spent.get(customer, 0)
                if left < Decimal(TOKENS * TOKEN).scaleb(-9):
                    budget.max_budget += Decimal(STEP).scaleb(-9)
                    budget.save()
                    self.raises += 1


def test_nobody_is_refused_what_is_there_and_killed_workers_hold_nothing(shop: Shop, rng: random.Random):
    gateway = shop.gateway
    budgets = Budgets(gateway)
    time.sleep(1.5)  # until the workers know them
    shoppers = Shoppers(
        gateway.port, budgets.key, lambda: _call(rng, rng.choice(budgets.customers)), rng,
        leaving=0.25, pause_s=0.2,
    )  # fmt: skip
    kills: list[Kill] = []

    asyncio.run(shoppers.during(CLIENTS, lambda: _keep_at_the_edge(gateway, budgets, kills, rng)))
    books, bill = settled_books(gateway, shop.provider, stays_s=3)

    refusals = [attempt for attempt in shoppers.attempts if attempt.is_over_budget]
    oracle = Oracle(shoppers.attempts, books, bill, journals=shop.witness.journals(), kills=kills)
    assert kills, "no worker was killed"
    verdicts = list(map(oracle.judge, refusals))
    false = [verdict for verdict in verdicts if verdict.is_false]
    print(
        f"{SECONDS:g} s, {len(workers_of(gateway))} workers, {budgets.raises} limits raised; "
        f"{dict(shoppers.outcomes)}; {len(refusals)} refusals, {len(false)} of them false; "
        f"{len(kills)} kills, held after one for {max(kill.seconds for kill in kills):.1f} s at most"
    )
    assert refusals, "nobody came to the edge"
    assert not false, "\n".join(map(str, false[:10]))
    assert not any(verdict.contradicts_itself for verdict in verdicts)
    assert all(kill.seconds <= HELD_SECONDS for kill in kills), kills
    books.assert_agree()
    assert_provider_agrees(books, bill)


def _call(rng: random.Random, customer: str) -> Purchase:
    """Return a call: four of five are answered well, the others in one of the ways providers fail."""
    times = {"delay_ms": rng.uniform(10, 250), "chunk_delay_ms": rng.uniform(0, 40)}
    failure: dict[str, Any] = rng.choice(
        (
            {"status": 500},
            {"status": 429},
            {"cut_after": 3},
            {"hang": True},
            {"hang_after": 2},
            {"no_answer": True},
        )
    )
    return purchase_by_token(rng, customer, tokens=TOKENS, **times, **(failure if rng.random() < 0.2 else {}))


def _keep_at_the_edge(
    gateway: GatewayProcess, budgets: Budgets, kills: list[Kill], rng: random.Random
) -> None:
    """Raise limits as they are spent, and kill workers now and then."""
    is_over = threading.Event()
    killer = threading.Thread(target=_kill_again_and_again, args=(gateway, kills, rng, is_over))
    killer.start()
    ends_at = time.monotonic() + SECONDS
    with connection_of_thread(gateway):
        while time.monotonic() < ends_at:
            budgets.raise_spent()
            time.sleep(0.2)
    is_over.set()
    killer.join()


def _kill_again_and_again(
    gateway: GatewayProcess, kills: list[Kill], rng: random.Random, is_over: threading.Event
) -> None:
    with connection_of_thread(gateway):
        while not is_over.wait(KILL_EVERY_SECONDS * rng.uniform(0.8, 1.2)):
            if workers := workers_of(gateway):
                kills.append(kill_and_wait_for_holds(gateway, rng.choice(workers)))
