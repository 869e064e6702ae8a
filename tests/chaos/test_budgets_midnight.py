"""
When a period ends, the next has begun: the first call passes, and nobody writes anything.

With the instants of calls given, for many customers on the days when the clock is
changed; and through running workers, over the end of a period of some seconds.
"""

import asyncio
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection

from tests.chaos.support.proof import leave_unproven
from tests.chaos.support.purchases import DIME, key_for_customers, new_customer, purchase
from tests.chaos.support.scale import scaled
from tests.chaos.support.shop import Shop
from tests.chaos.support.shoppers import buy_at_once
from tests.gateway import GatewayProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

CUSTOMERS = scaled(2_000, 100_000)
CALLERS = scaled(100, 1_000)
PERIOD_SECONDS = scaled(4, 60)
DIME_USD = Decimal("0.1")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BATCH = 64  # calls that are admitted together, as the gateway does it

# The local days on which Berlin's clock is changed, as instants: 23 hours, and 25.
CHANGED_DAYS = [
    (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC)),
    (datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC)),
]


# -- with given instants ---------------------------------------------------------------------


@pytest.fixture
def database() -> Iterator[GatewayProcess]:
    """A gateway's database, without the gateway."""
    gateway = leave_unproven(GatewayProcess())  # periods are written by hand
    yield gateway
    gateway.stop()


@pytest.mark.parametrize(("starts_at", "ends_at"), CHANGED_DAYS, ids=["23-hours", "25-hours"])
def test_spent_customers_pass_from_the_first_instant_of_the_next_day(
    database: GatewayProcess, starts_at: datetime, ends_at: datetime
):
    customers = [f"spent-{number:06d}" for number in range(CUSTOMERS)]
    with database.orm():
        _make_spent_periods(customers, "1d Europe/Berlin v1", starts_at, ends_at)
        before = _period_rows()

        first = _granted(customers, starts_at)
        last = _granted(customers, ends_at - timedelta(microseconds=1))
        after_the_refusals = _period_rows()
        began_at = time.monotonic()
        next_day = _granted(customers, ends_at)
        took = time.monotonic() - began_at
        of_old_day = {period: row for period, row in _period_rows().items() if period in before}

    print(f"{CUSTOMERS} customers: admitted on the next day in {took:.1f} s")
    assert (first, last, next_day) == (0, 0, CUSTOMERS)
    assert after_the_refusals == before, "a refusal, or midnight itself, wrote something"
    assert of_old_day == before, "the day that is over was touched"


def _make_spent_periods(customers: list[str], window: str, starts_at: datetime, ends_at: datetime) -> None:
    from billing.models import BudgetPeriod

    BudgetPeriod.objects.bulk_create(
        (
            BudgetPeriod(
                holder_type="customer", holder_id=customer, window=window, starts_at=starts_at,
                counts_from=starts_at, ends_at=ends_at, spent_cost=DIME_USD, spent_charge=DIME_USD,
            )
            for customer in customers
        ),
        batch_size=1_000,
    )  # fmt: skip


def _granted(customers: list[str], at: datetime) -> int:
    """Have each customer, with a dime a day, make a call of a dime at this instant; count who passes."""
    from billing.budgets.holds import Granted, admit
    from billing.budgets.periods import KnownPeriods
    from customers.durations import parse_duration
    from proxy.tiers import LimitsOfHolders, Tier

    tier = Tier("a dime a day", limit_nano=DIME, duration=parse_duration("1d"))
    limits, known = LimitsOfHolders(ZoneInfo("Europe/Berlin")), KnownPeriods()
    count = 0
    for start in range(0, len(customers), BATCH):
        asks = [_ask(customer, at, tier, limits) for customer in customers[start : start + BATCH]]
        decisions = admit(asks, lease_s=60, known=known)
        count += sum(isinstance(decision, Granted) for decision in decisions)
    return count


def _ask(customer: str, at: datetime, tier: Any, limits: Any) -> Any:
    """Return what the gateway asks for such a call."""
    from billing.budgets.holds import Ask, Attribution
    from proxy.tiers import Holder

    at_us = (at - EPOCH) // timedelta(microseconds=1)
    claims = limits.find([Holder("customer", customer, customer, tier)], "gpt-4o", at_us).claims
    who = Attribution("openai_chat", "gpt-4o", customer_id=customer)
    return Ask(uuid.uuid4().bytes, at_us, uuid.UUID(int=1), claims, DIME, who)


def _period_rows() -> dict[int, tuple]:
    """Return all that the periods' rows say, by id; on PostgreSQL also which transaction wrote them last."""
    version = "xmin::text" if connection.vendor == "postgresql" else "NULL"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id, {version}, period.* FROM billing_budgetperiod AS period")
        return {row[0]: row for row in cursor.fetchall()}


# -- through running workers -------------------------------------------------------------------


def test_workers_let_the_first_call_of_a_period_pass_and_write_nothing_before(shop: Shop):
    window = f"{PERIOD_SECONDS}s UTC v1" if PERIOD_SECONDS < 60 else "1m UTC v1"
    key = key_for_customers(shop.gateway, max_budget="0.1", budget_duration=f"{PERIOD_SECONDS}s")
    customers = [new_customer("period") for _ in range(CUSTOMERS)]
    callers = customers[:CALLERS]
    starts_at = _wait_for_next_period()
    ends_at = starts_at + timedelta(seconds=PERIOD_SECONDS)
    shop.gateway.execute_orm(_make_spent_periods, customers, window, starts_at, ends_at)

    before = _outcomes(shop, key, callers)
    snapshot = shop.gateway.execute_orm(_period_rows)
    assert datetime.now(UTC) < ends_at, "the machine is too slow for so short a period"
    time.sleep((ends_at - datetime.now(UTC)).total_seconds() + 0.3)
    behind_the_end = shop.gateway.execute_orm(_period_rows)
    after = _outcomes(shop, key, callers)
    shop.gateway.execute_orm(_remove_periods, starts_at)  # nobody spent what they say

    print(f"{CUSTOMERS} periods of {PERIOD_SECONDS} s ended; {CALLERS} customers called before and after")
    assert before == {"400"}
    assert behind_the_end == snapshot, "the end of a period wrote something"
    assert after == {"200"}


def _remove_periods(starts_at: datetime) -> None:
    from billing.models import BudgetPeriod

    BudgetPeriod.objects.filter(starts_at=starts_at, holder_id__startswith="period-").delete()


def _wait_for_next_period() -> datetime:
    """Return the beginning of a period that has just begun."""
    now = time.time()
    starts_at = (now // PERIOD_SECONDS + 1) * PERIOD_SECONDS
    time.sleep(starts_at - now + 0.05)
    return datetime.fromtimestamp(starts_at, UTC)


def _outcomes(shop: Shop, key: str, customers: list[str]) -> set[str]:
    calls = [purchase(customer) for customer in customers]
    return {attempt.outcome for attempt in asyncio.run(buy_at_once(shop.gateway.port, key, calls))}
