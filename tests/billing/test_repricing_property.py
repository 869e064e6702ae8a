"""
Any order of calls, late calls, prices, re-pricing, rate cards and closed months keeps the books.

After every step each period is what its logs, adjustments and holds add up to, row by row, and
closed months are what they were. At the end the reconciliation finds nothing.
"""

import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.test import TestCase
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing.books.closed_months import close_month, open_month
from billing.books.reconciliation import compare
from billing.models import Adjustment, ClosedMonth, DailyOverview, DailySpend, Price, SpendLog, SpendTotal
from billing.prices import repricing
from billing.prices.pricing import cost_of, resolve
from billing.prices.rate_cards import Card, charge_nano
from billing.prices.repricing import Selection
from billing.usage import Usage
from tests.billing.budgets import admitted, all_time, check_the_books, settle_calls
from tests.billing.making import CallRecords, make_call, make_closed

MODELS = ["gpt-a", "gpt-b"]
USAGE = Usage(input_uncached=1_001, output_text=203)
APRIL, MAY, NOW = (datetime(2026, month, 10, 12, tzinfo=UTC) for month in (4, 5, 6))


class Books(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self._atomic = transaction.atomic()
        self._atomic.__enter__()
        self.at = datetime.now(UTC)
        self.closed: dict = {}
        self.prices = 0

    def teardown(self):
        try:
            found = compare(at=self.at)
            assert found.differences == 0, found.examples
        finally:
            transaction.set_rollback(True)
            self._atomic.__exit__(None, None, None)

    @initialize()
    def a_budget(self):
        settle_calls(self._call("gpt-a", "acme", MAY, None))
        opened = admitted((all_time(), "100"), amount_usd="0.3", model="gpt-b", at=MAY)
        closed = make_closed(opened, cost_usd=None, provider="openai", upstream_model="gpt-b")
        settle_calls(CallRecords(opened, closed))

    def _call(self, model, customer, at, card):
        row = Price.objects.filter(model=model).order_by("-pk").first()
        price = resolve(row) if row else None
        units = card.noted(None, None) if card else None
        cost = cost_of(price, USAGE)
        return make_call(
            at=at, cost_usd="0", model=model, customer_id=customer, tags=["x"],
            closed={
                "provider": "openai", "upstream_model": model, "usage": USAGE, "units": units,
                "cost_nano": cost, "charge_nano": charge_nano(cost, None, USAGE, units),
                "price_id": price.price_id if price else None,
            },
        )  # fmt: skip

    @rule(
        model=st.sampled_from(MODELS),
        customer=st.sampled_from(["acme", "bits"]),
        at=st.sampled_from([APRIL, MAY, NOW]),
        margin=st.sampled_from([None, -100_000, 200_000]),
    )
    def call(self, model, customer, at, margin):
        settle_calls(self._call(model, customer, at, None if margin is None else Card(margin)))

    @rule(model=st.sampled_from(MODELS), rate=st.sampled_from(["0", "3", "2.7182818"]))
    def price(self, model, rate):
        self.prices += 1
        Price.objects.create(
            provider="openai",
            model=model,
            effective_from=APRIL - timedelta(days=100 - self.prices),
            input_per_mtok_usd=Decimal(rate),
        )

    @rule(model=st.sampled_from(MODELS), only_unpriced=st.booleans())
    def price_again(self, model, only_unpriced):
        selection = Selection("openai", model, None, self.at, only_unpriced)
        run = repricing.start(selection, actor="alice", note="", at=self.at)
        assert repricing.run(run, clock=lambda: self.at)

    @rule(month=st.sampled_from([APRIL, MAY]))
    def close_or_open(self, month):
        day = month.date().replace(day=1)
        if ClosedMonth.objects.filter(pk=day).exists():
            open_month(day)
            self.closed.pop(day)
        else:
            close_month(day, at=self.at, by="alice")
            self.closed[day] = self._month(day)

    @staticmethod
    def _month(day):
        rows = DailySpend.objects.filter(day__year=day.year, day__month=day.month)
        return sum(row.cost for row in rows), sum(row.charge for row in rows)

    @invariant()
    def closed_months_are_what_they_were(self):
        for day, amounts in self.closed.items():
            assert self._month(day) == amounts, day

    @invariant()
    def every_sum_says_the_same(self):
        check_the_books()
        for column in ("cost", "charge"):
            rows = [*SpendLog.objects.all(), *Adjustment.objects.all()]
            booked = sum((getattr(row, column) or 0 for row in rows), Decimal(0))
            total = SpendTotal.objects.filter(holder_type="gateway").first()
            assert (getattr(total, column) if total else 0) == booked
            for rollup in (DailySpend, DailyOverview):
                assert sum(getattr(row, column) for row in rollup.objects.all()) == booked


class PropertyTests(TestCase):
    def test_any_order_of_events_keeps_the_books(self):
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)
        run_state_machine_as_test(
            Books,
            settings=settings(
                max_examples=8,
                stateful_step_count=12,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
