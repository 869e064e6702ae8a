"""Demo data: a log whose sums are right, of a company that could be."""

from collections import Counter
from io import StringIO

from django.core.management import CommandError, call_command
from django.db import connection
from django.test import TestCase
from django.utils import timezone

from billing.books.reconciliation import compare
from billing.models import Price, SpendLog, SpendTotal
from billing.prices.pricing import resolve
from customers.models import Customer, VirtualKey
from tests.billing.making import book_calls, make_call

ROWS = 3_000


def seed(*arguments: str) -> str:
    output = StringIO()
    call_command(
        "seed_demo", "--rows", str(ROWS), "--customers", "50", "--days", "10", *arguments, stdout=output
    )
    return output.getvalue()


class SeedTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.told = seed()

    def test_it_leaves_nothing_that_differs(self):
        self.assertEqual(SpendLog.objects.count(), ROWS)
        self.assertEqual(compare(at=timezone.now()).differences, 0)

    def test_it_tells_how_far_it_is(self):
        self.assertIn(f"calls: {ROWS:,} of {ROWS:,} (100%", self.told)
        # PostgreSQL adds up what it draws; else a repair does.
        self.assertIn("summaries: " if connection.vendor == "postgresql" else "daily spend: ", self.told)

    def test_a_few_customers_call_most(self):
        calls = Counter(SpendLog.objects.exclude(customer=None).values_list("customer_id", flat=True))

        ranked = [count for _, count in calls.most_common()]
        self.assertGreater(sum(ranked[:5]), 0.4 * sum(ranked))
        self.assertGreater(ranked[0], 5 * ranked[20])
        self.assertEqual(Customer.objects.count(), 50)

    def test_calls_are_of_all_kinds(self):
        for name, least in (
            ("status", 3),
            ("usage_source", 4),
            ("model", 7),
            ("dialect", 4),
            ("client_tool", 4),
        ):
            with self.subTest(name):
                self.assertGreaterEqual(len(set(SpendLog.objects.values_list(name, flat=True))), least)
        self.assertTrue(SpendLog.objects.filter(cost=None).exists())
        self.assertTrue(SpendTotal.objects.filter(holder_type="tag", holder_id="env:prod").exists())

    def test_every_cost_is_that_of_the_price_it_names(self):
        prices = {price.pk: resolve(price) for price in Price.objects.all()}

        priced = SpendLog.objects.exclude(price=None)
        self.assertGreater(len(priced), ROWS / 2)
        for log in priced:
            self.assertEqual(int(log.cost.scaleb(9)), prices[log.price_id].cost_nano(log.usage))
            self.assertEqual(log.charge, log.cost)

    def test_rows_are_those_of_days_before_today_in_the_order_of_their_ids(self):
        logs = list(SpendLog.objects.order_by("pk").values_list("started_at", "ended_at"))

        self.assertEqual([started for started, _ in logs], sorted(started for started, _ in logs))
        self.assertLess(logs[-1][0].date(), timezone.now().date())
        self.assertEqual(len({started.date() for started, _ in logs}), 10)
        self.assertTrue(all(ended > started for started, ended in logs))

    def test_it_adds_to_a_log_only_when_told_so(self):
        with self.assertRaisesMessage(CommandError, "--yes"):
            seed()

        seed("--yes")

        self.assertEqual(SpendLog.objects.count(), 2 * ROWS)
        self.assertEqual(VirtualKey.objects.filter(alias__startswith="demo key").count(), 100)
        self.assertEqual(compare(at=timezone.now()).differences, 0)


class RefusalTests(TestCase):
    def test_a_log_with_real_calls_is_left_alone(self):
        book_calls(make_call(customer_id="acme"))

        with self.assertRaisesMessage(CommandError, "The log has calls already"):
            seed()

        self.assertEqual((SpendLog.objects.count(), Customer.objects.count()), (1, 1))

    def test_numbers_below_one_are_refused(self):
        for option in ("--rows", "--customers", "--days"):
            with self.assertRaisesMessage(CommandError, "at least 1"):
                call_command("seed_demo", option, "0")
