"""What a holder had spent before it came here (M5): it counts for that holder alone."""

import uuid
from datetime import timedelta
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.test import TestCase

from billing.books.adjustments import initial_spend
from billing.budgets.periods import ensure_periods
from billing.models import Adjustment, SpendTotal
from tests.billing.budgets import AUGUST, JULY, all_time, check_the_books, figures, july, usd
from tests.billing.making import NOON, book_calls, make_call, total

KEY = uuid.UUID("00000000-0000-7000-8000-000000000001")


class InitialSpendTests(TestCase):
    def test_it_is_of_the_named_holder_and_of_nobody_else(self):
        for holder, named in (
            (("customer", "acme"), {"customer_id": "acme"}),
            (("key", str(KEY)), {"key_id": KEY}),
            (("team", "red"), {"team_id": "red"}),
            (("user", "bob"), {"user_id": "bob"}),
        ):
            with self.subTest(holder[0]):
                SpendTotal.objects.all().delete()

                initial_spend(**named, amount=Decimal("5.25"), at=NOON)

                self.assertEqual(
                    list(
                        SpendTotal.objects.values_list("holder_type", "holder_id", "cost", "charge", "calls")
                    ),
                    [(*holder, Decimal("5.25"), Decimal("5.25"), 0)],
                )

    def test_it_is_added_to_what_is_booked(self):
        book_calls(make_call(cost_usd="0.5", customer_id="acme"))

        initial_spend(customer_id="acme", amount=Decimal("2"), at=NOON)

        self.assertEqual(total("customer", "acme"), Decimal("0.5") + 2)
        self.assertEqual(total("gateway", "gateway"), Decimal("0.5"))

    def test_it_counts_in_the_periods_that_run(self):
        ensure_periods([july(), all_time(), july(scope="gpt-4o"), july("gateway", "gateway")])

        initial_spend(customer_id="acme", amount=Decimal("2"), at=NOON)

        for key, spent in (
            (july(), "2"),
            (all_time(), "2"),
            (july(scope="gpt-4o"), "0"),
            (july("gateway", "gateway"), "0"),
        ):
            self.assertEqual(figures(key), usd(spent, "0", "0"))
        check_the_books()

    def test_it_counts_in_a_period_that_is_made_later_if_it_was_spent_in_it(self):
        initial_spend(customer_id="acme", amount=Decimal("2"), at=JULY + timedelta(days=1))
        initial_spend(customer_id="acme", amount=Decimal("3"), at=AUGUST)

        ensure_periods([july(), july("gateway", "gateway"), july("key", "master")])

        self.assertEqual(figures(july()), usd("2", "0", "0"))
        self.assertEqual(figures(july("gateway", "gateway")), usd("0", "0", "0"))
        self.assertEqual(figures(july("key", "master")), usd("0", "0", "0"))
        check_the_books()

    def test_nothing_books_nothing_and_less_is_refused(self):
        initial_spend(customer_id="acme", amount=Decimal(0), at=NOON)
        with self.assertRaises(ValidationError):
            initial_spend(customer_id="acme", amount=Decimal("-0.01"), at=NOON)

        self.assertFalse(Adjustment.objects.exists())
        self.assertFalse(SpendTotal.objects.exists())

    def test_it_names_exactly_one_holder(self):
        for named in ({}, {"customer_id": "acme", "team_id": "red"}):
            with self.assertRaises(ValueError):
                initial_spend(**named, amount=Decimal(1), at=NOON)

        self.assertFalse(Adjustment.objects.exists())
