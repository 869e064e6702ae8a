"""
Golden costs: recorded answers, read by the dialects, priced, and held against sums done by hand.

The cases and how they are written are in `golden_cases.py`.
"""

from decimal import Decimal

import msgspec
from django.test import SimpleTestCase, TestCase

from billing.admin.explanation import explain
from billing.booking.records import Closed, decode, encode
from billing.models import Price, SpendLog
from billing.prices.pricing import cost_of, explain_cost, resolve
from billing.usage import BUCKETS, REPORTED_COST
from customers.money import from_nano, to_nano
from tests.billing import golden_cases as golden
from tests.billing.making import book_calls, make_call


class GoldenTests(SimpleTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        rows = golden.prices()
        for number, price in enumerate(rows, 1):
            price.pk = number
        cls.book = golden.book(rows)

    def test_there_are_enough_of_them_in_every_dialect(self):
        cases = golden.cases()

        self.assertGreaterEqual(sum(case["dialect"] is not None for case in cases), 80)
        self.assertEqual({case["dialect"] for case in cases} - {None}, set(golden.DIALECTS))
        self.assertGreaterEqual(sum("stream" in case for case in cases), 15)

    def test_the_costs_are_those_of_their_working(self):
        for case in golden.cases():
            with self.subTest(file=case["file"], case=case["name"]):
                self.assertEqual(round(golden.worked_out(case) * 10**9), golden.nano(case["cost"]))

    def test_each_costs_to_the_nano_dollar_what_was_worked_out(self):
        for case in golden.cases():
            with self.subTest(file=case["file"], case=case["name"]):
                self.assertEqual(golden.nano_of(case, self.book), golden.nano(case["cost"]))

    def test_the_lines_of_each_explanation_add_up_to_its_cost(self):
        for case in golden.cases():
            with self.subTest(file=case["file"], case=case["name"]):
                price = golden.price_of(case, self.book)
                parts = explain_cost(price, *golden.read(case, price))

                self.assertEqual(sum(part.cost_nano for part in parts), golden.nano(case["cost"]))

    def test_no_token_is_lost_and_none_is_counted_twice(self):
        for case in golden.cases():
            said = case.get("answer", {}).get("usage")
            if case["dialect"] != "openai_chat" or not said or "citation_tokens" in said:
                continue
            with self.subTest(file=case["file"], case=case["name"]):
                usage = golden.read(case, None).usage

                self.assertEqual(usage.prompt_tokens, said["prompt_tokens"])
                self.assertEqual(usage.total_tokens, said["total_tokens"])


class BookedTests(TestCase):
    """Every case as a call in the log: its arithmetic can be done again, from the database alone."""

    @classmethod
    def setUpTestData(cls):
        rows = golden.prices()
        Price.objects.bulk_create(rows)
        book = golden.book(rows)
        calls = []
        cls.expected = {}
        for case in golden.cases():
            price = golden.price_of(case, book)
            usage, units, service_tier = golden.read(case, price)
            closed = {
                "usage": usage,
                "units": units,
                "service_tier": service_tier,
                "price_id": price.price_id if price else None,
                "provider": case["provider"],
                "upstream_model": case["model"],
            }
            call = make_call(cost_usd=case["cost"], closed=closed)
            call.closed = decode(encode(call.closed))  # by way of the journal
            cls.expected[call.opened.call_id] = case
            calls.append(call)
        book_calls(*calls)

    def test_a_log_and_its_price_row_give_the_same_cost_again(self):
        logs = list(SpendLog.objects.select_related("price"))

        self.assertEqual(len(logs), len(self.expected))
        for log in logs:
            case = self.expected[log.pk.bytes]
            with self.subTest(file=case["file"], case=case["name"]):
                price = resolve(log.price) if log.price else None
                again = cost_of(price, log.usage, log.units, log.service_tier)

                self.assertEqual(again, to_nano(log.cost))
                self.assertEqual(log.cost, Decimal(case["cost"]))

    def test_the_page_of_each_explains_it(self):
        for log in SpendLog.objects.select_related("price"):
            case = self.expected[log.pk.bytes]
            with self.subTest(file=case["file"], case=case["name"]):
                explanation = explain(log)

                self.assertIs(explanation.is_equal, True)
                is_reported = REPORTED_COST in (log.units or {})
                self.assertEqual(bool(explanation.price_source), not is_reported)

    def test_a_later_price_changes_no_cost_of_before(self):
        for price in list(Price.objects.all()):
            Price.objects.create(
                provider=price.provider, model=price.model, source=Price.Source.ADMIN,
                input_per_mtok_usd=Decimal(999), output_per_mtok_usd=Decimal(999),
            )  # fmt: skip

        for log in SpendLog.objects.select_related("price"):
            price = resolve(log.price) if log.price else None
            again = cost_of(price, log.usage, log.units, log.service_tier)
            self.assertEqual(from_nano(again), log.cost)


class JournalTests(SimpleTestCase):
    def test_a_record_from_before_there_were_units_is_read(self):
        before = encode(make_call().closed)
        fields = len(Closed.__struct_fields__)

        raw = msgspec.msgpack.decode(before)
        older = msgspec.msgpack.encode(raw[:fields])  # the tag, and all fields but the last

        closed = decode(older)
        self.assertIsNone(closed.units)
        self.assertEqual(len(closed.usage), len(BUCKETS))
