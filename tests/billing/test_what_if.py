"""What days would have cost at other prices: worked out by hand beside the rollups."""

import io
import json
from datetime import date
from decimal import Decimal

from django.core.management import CommandError, call_command
from django.test import TestCase

from billing.models import Price
from billing.prices.what_if import BadQuestion, Question, answer
from billing.usage import Usage
from tests.billing.making import NOON, book_calls, make_call

DAY = date(2026, 7, 15)
USAGE = Usage(input_uncached=1_000, cache_read=500, output_text=200, web_searches=2)


def call(model="gpt-a", customer="acme", cost="0.01", **closed):
    told = {"provider": "openai", "upstream_model": model, "usage": USAGE, **closed}
    return make_call(at=NOON, cost_usd=cost, model=model, customer_id=customer, closed=told)


def price(model="gpt-a", **fields) -> Price:
    rates = {"input_per_mtok_usd": Decimal(2), "output_per_mtok_usd": Decimal(8), **fields}
    return Price.objects.create(provider=fields.pop("provider", "openai"), model=model, **rates)


class WhatIfTests(TestCase):
    def ask(self, **question):
        return answer(Question(DAY, DAY, **question), at=NOON)

    def test_tokens_are_multiplied_by_the_rates_of_now(self):
        price(
            cache_read_per_mtok_usd=Decimal("0.5"),
            per_web_search_usd=Decimal("0.01"),
            per_request_usd=Decimal("0.001"),
        )
        book_calls(call(), call(), call(customer="bits", cost="0.02"))

        found = self.ask()

        each = (
            (Decimal(2) * 1_000 + Decimal("0.5") * 500 + 8 * 200) / 1_000_000
            + 2 * Decimal("0.01")
            + Decimal("0.001")
        )
        self.assertEqual(found.total.least_nano, int(3 * each * 10**9))
        self.assertTrue(found.total.is_exact)
        self.assertEqual(found.total.least_difference, int((3 * each - Decimal("0.04")) * 10**9))
        self.assertEqual(
            [(line.customer_id, line.calls) for line in found.by_customer], [("acme", 2), ("bits", 1)]
        )

    def test_long_context_tiers_make_it_a_range(self):
        price(
            long_context_tiers=[
                {"above_prompt_tokens": 1_200, "input_per_mtok_usd": "4", "output_per_mtok_usd": "16"}
            ]
        )
        book_calls(call())

        total = self.ask().total

        least = (2 * 1_500 + 8 * 200) * 1_000
        self.assertEqual((total.least_nano, total.most_nano), (least, 2 * least))
        self.assertFalse(total.is_exact)

    def test_another_model_or_source_may_be_asked_for(self):
        price()
        price("gpt-b", input_per_mtok_usd=Decimal(1), output_per_mtok_usd=Decimal(1))
        price(source="genai_prices", input_per_mtok_usd=Decimal(20), output_per_mtok_usd=Decimal(20))
        book_calls(call())

        cheaper = self.ask(instead={("openai", "gpt-a"): ("openai", "gpt-b")}).total
        other = self.ask(source="genai_prices").total

        self.assertEqual(cheaper.least_nano, 1_700 * 1_000)
        self.assertEqual(other.least_nano, 1_700 * 20_000)

    def test_what_has_no_price_is_counted_and_in_no_sum(self):
        price()
        book_calls(call(), call(model="unheard-of", cost="5"))

        found = self.ask()

        self.assertEqual(found.unpriced_calls, 1)
        self.assertEqual(found.total.cost_nano, 10_000_000)
        self.assertIsNone(next(line for line in found.by_model if line.model == "unheard-of").least_nano)

    def test_a_question_about_what_there_is_not_is_refused(self):
        for question in (Question(DAY, date(2026, 7, 1)), Question(DAY, DAY, "deployment")):
            with self.assertRaises(BadQuestion):
                answer(question, at=NOON)

    def test_the_command_tells_people_and_programs(self):
        price()
        book_calls(call())
        out = io.StringIO()
        call_command("what_if", "--month", "2026-07", stdout=out)
        self.assertIn("$0.01 → $0.0046 (difference -$0.0054)", out.getvalue())

        out = io.StringIO()
        call_command("what_if", "--month", "2026-07", "--json", stdout=out)
        told = json.loads(out.getvalue(), parse_float=Decimal)
        self.assertEqual(told["by_model"][0]["least_usd"], Decimal("0.0046"))
        with self.assertRaises(CommandError):
            call_command("what_if", "--month", "2026-07", "--instead", "gpt-a", stdout=out)
