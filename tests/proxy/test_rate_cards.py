"""Rate cards through the whole gateway: what a customer pays is charged, told and enforced."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from tests.gateway import GatewayProcess, is_true_within
from tests.proxy.test_budgets import DIME, _models, call, limit_customer, make_models, wait_for_edits

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def gateway(provider):
    with GatewayProcess(provider=provider) as process:
        process.execute_orm(make_models)
        assert is_true_within(3, lambda: "exact" in _models(process))
        yield process


@pytest.fixture
def card(gateway, customer):
    """Put the customer on a rate card: `card("1.2", own={"per_request_usd": …})`."""

    def give(multiplier: str, *, own: dict[str, Any] | None = None) -> None:
        gateway.execute_orm(_save, customer, multiplier, own)
        wait_for_edits(gateway)

    return give


def _save(customer: str, multiplier: str, own: dict[str, Any] | None) -> None:
    from billing.models import Price
    from customers.models import Customer, RateCard

    card = RateCard.objects.filter(name=customer).first() or RateCard(name=customer)
    card.multiplier = Decimal(multiplier)
    card.save()
    if own:
        Price.objects.create(
            provider="openai", model="gpt-4o-mini", source="deployment", rate_card=card, **own
        )
    holder = Customer.objects.filter(pk=customer).first() or Customer(pk=customer)
    holder.rate_card = card
    holder.save()


def test_the_charge_is_enforced_told_and_in_row_and_total(http, card, customer, gateway):
    card("1.2")
    limit_customer(gateway, customer, max_budget="0.25", budget_duration="1mo")

    answers = []
    for booked in (1, 2, 3):
        answers.append(call(http, customer))
        gateway.wait_booked(booked, customer_id=customer)

    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert answers[1].headers["x-litellm-customer-spend"] == "0.24"
    assert answers[1].headers["x-litellm-response-cost"] == "0.1"
    assert "has spent 0.24 of 0.25 USD" in answers[2].json()["error"]["message"]
    rows = gateway.wait_booked(3, customer_id=customer)
    assert [(row["cost"], row["charge"]) for row in rows[:2]] == [(DIME, 120_000_000)] * 2
    assert rows[0]["units"] == {"margin_ppm": 200_000}
    total = gateway.total("customer", customer)
    assert (total["cost"], total["charge"]) == (2 * DIME, 240_000_000)


def test_an_own_price_is_what_the_customer_pays(http, card, customer, gateway):
    card("1.2", own={"per_request_usd": Decimal("0.3")})
    limit_customer(gateway, customer, max_budget="0.5")

    answers = [call(http, customer) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 400]
    row = gateway.wait_booked(2, customer_id=customer)[0]
    assert (row["cost"], row["charge"]) == (DIME, 300_000_000)
    assert set(row["units"]) == {"own_price_id"}


def test_an_edited_multiplier_is_in_force_for_the_next_call(http, card, customer, gateway):
    card("0.9")
    call(http, customer)
    card("2")
    call(http, customer)

    rows = gateway.wait_booked(2, customer_id=customer)
    assert [row["charge"] for row in rows] == [90_000_000, 200_000_000]


def test_a_strict_budget_is_not_overspent_in_charge(http, card, customer, gateway):
    card("1.5")
    limit_customer(gateway, customer, max_budget="0.65", mode="strict")

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: call(http, customer, max_tokens=5), range(12)))

    passed = sum(answer.status_code == 200 for answer in answers)
    assert passed == 4  # of $0.15 each
    gateway.wait_booked(12, customer_id=customer)
    assert gateway.total("customer", customer)["charge"] == 600_000_000
