"""POST /spend/calculate and /cost/estimate: what a call would cost, by contract 6.5."""

from decimal import Decimal
from typing import Any

from billing.models import Price, SpendLog
from proxy.models import Deployment, Upstream
from tests.customers.calling import CastTestCase

MESSAGES = [{"role": "user", "content": "How much would this be? " * 10}]


class PricedTestCase(CastTestCase):
    def setUp(self):
        super().setUp()
        upstream = Upstream.objects.create(
            name="openai", provider="openai", openai_base_url="https://api.openai.example/v1"
        )
        Price.objects.create(
            provider="openai", model="listed-1", input_per_mtok_usd="0.15",
            cache_read_per_mtok_usd="0.075", output_per_mtok_usd="0.6",
        )  # fmt: skip
        own = Price.objects.create(
            provider="openai", model="listed-1", source=Price.Source.DEPLOYMENT, input_per_mtok_usd="1",
            output_per_mtok_usd="2",
        )  # fmt: skip
        for name, model, price in (("ours", "listed-1", None), ("dear", "listed-1", own), ("odd", "x", None)):
            Deployment.objects.create(model_name=name, upstream=upstream, upstream_model=model, price=price)


class CalculateTests(PricedTestCase):
    def cost(self, body: Any, *, status: int = 200, **options: Any) -> Any:
        response = self.send("POST", "/spend/calculate", body, **options)
        self.assertEqual(response.status_code, status, response.content)
        return Decimal(str(response.json()["cost"])) if status == 200 else response.json()["error"]

    def test_an_answer_costs_what_its_usage_does_in_each_dialect(self):
        chat = {
            "model": "ours",
            "usage": {
                "prompt_tokens": 1500, "completion_tokens": 220,
                "prompt_tokens_details": {"cached_tokens": 1000},
            },
        }  # fmt: skip
        message = {
            "type": "message",
            "usage": {"input_tokens": 500, "cache_read_input_tokens": 1000, "output_tokens": 220},
        }
        response = {
            "usage": {
                "input_tokens": 1500, "input_tokens_details": {"cached_tokens": 1000}, "output_tokens": 220,
            }
        }  # fmt: skip
        million = Decimal(1_000_000)
        expected = (500 * Decimal("0.15") + 1000 * Decimal("0.075") + 220 * Decimal("0.6")) / million
        self.assertEqual(self.cost({"completion_response": chat}), expected)
        for answer in (message, response):
            self.assertEqual(self.cost({"model": "ours", "completion_response": answer}), expected)

    def test_usage_below_zero_is_refused(self):
        answer = {"model": "ours", "usage": {"prompt_tokens": -5, "completion_tokens": 1}}

        self.assertEqual(
            self.cost({"completion_response": answer}, status=400)["param"], "completion_response"
        )

    def test_a_deployments_own_price_is_its_price(self):
        answer = {"usage": {"prompt_tokens": 1000, "completion_tokens": 1000}}
        for model, expected in (("dear", "0.003"), ("ours", "0.00075"), ("openai/listed-1", "0.00075")):
            self.assertEqual(self.cost({"model": model, "completion_response": answer}), Decimal(expected))

    def test_messages_are_estimated_and_said_to_be(self):
        response = self.post("/spend/calculate", {"model": "ours", "messages": MESSAGES})

        self.assertIs(response["is_estimated"], True)
        self.assertGreater(response["cost"], 0)
        longer = self.post("/spend/calculate", {"model": "ours", "messages": MESSAGES * 10})
        self.assertGreater(longer["cost"], response["cost"] * 9)

    def test_nothing_is_booked(self):
        self.cost({"model": "ours", "messages": MESSAGES})

        self.assertEqual(SpendLog.objects.count(), 0)

    def test_what_has_no_price_or_says_nothing_is_refused(self):
        usage = {"prompt_tokens": 1}
        for body, status in (
            ({}, 400),
            ({"model": "ours"}, 400),
            ({"messages": MESSAGES}, 400),
            ({"model": "odd", "messages": MESSAGES}, 400),
            ({"model": "no-such-model", "messages": MESSAGES}, 400),
            ({"model": "ours", "completion_response": {"usage": {}}}, 400),
            ({"model": "ours", "completion_response": {"usage": "many"}}, 400),
            ({"model": "ours", "completion_response": {"usage": {"prompt_tokens": "x"}}}, 400),
            ({"model": "ours", "completion_response": {"usage": {"prompt_tokens": 10**30}}}, 400),
            ({"completion_response": {"model": 7, "usage": usage}}, 400),
            ({"completion_response": {"model": "x" * 10_000, "usage": usage}}, 400),
        ):
            with self.subTest(body):
                self.assertTrue(self.cost(body, status=status)["message"])
        for body in ({"model": 7.5}, {"messages": "hi"}, {"completion_response": []}, {"model": "a\nb"}):
            self.assertEqual(self.send("POST", "/spend/calculate", body).status_code, 422)

    def test_users_are_told_prices_of_the_models_they_may_call(self):
        self.assertGreater(self.cost({"model": "ours", "messages": MESSAGES}, key=self.charlies), 0)


class EstimateTests(PricedTestCase):
    def test_a_day_and_a_month_are_so_many_requests(self):
        told = self.post(
            "/cost/estimate",
            {"model": "ours", "input_tokens": 1000, "output_tokens": 200, "num_requests_per_day": 100},
        )

        self.assertEqual(
            told,
            {
                "model": "ours", "input_tokens": 1000, "output_tokens": 200, "num_requests_per_day": 100,
                "num_requests_per_month": None, "cost_per_request": 0.00027,
                "input_cost_per_request": 0.00015,
                "output_cost_per_request": 0.00012, "daily_cost": 0.027, "monthly_cost": None,
            },
        )  # fmt: skip

    def test_its_fields_are_checked(self):
        whole = {"model": "ours", "input_tokens": 1, "output_tokens": 1}
        for name, bad in (("input_tokens", -1), ("output_tokens", 10**30), ("input_tokens", "many")):
            self.assertEqual(self.send("POST", "/cost/estimate", {**whole, name: bad}).status_code, 422)
        for name in whole:
            body = {**whole}
            del body[name]
            self.assertEqual(self.send("POST", "/cost/estimate", body).status_code, 422)
