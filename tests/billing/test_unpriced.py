"""A model that has no price is never $0: what is not known is said, wherever the call is shown."""

import csv
import html
import io
import json
from decimal import Decimal

from django.urls import reverse
from django.utils import timezone

from billing.models import Price, SpendLog
from billing.models.price import PRICING_FIELDS
from customers.models import User
from proxy.models import Deployment, Upstream
from tests.billing.making import book_calls, make_call
from tests.customers.calling import ApiTestCase

MODEL = "nobody-lists-this"


class UnpricedTests(ApiTestCase):
    @classmethod
    def setUpTestData(cls):
        cls.at = timezone.now()
        cls.day = cls.at.date().isoformat()
        book_calls(
            make_call(
                at=cls.at, cost_usd=None, customer_id="acme", model=MODEL,
                closed={"provider": "openai", "upstream_model": MODEL},
            )
        )  # fmt: skip
        cls.log = SpendLog.objects.get()
        upstream = Upstream.objects.create(
            name="openai", provider="openai", openai_base_url="https://api.openai.example/v1"
        )
        Deployment.objects.create(model_name=MODEL, upstream=upstream, upstream_model=MODEL)
        cls.alice = User.objects.create_superuser("alice", password="correct horse")

    def answer(self, path: str):
        response = self.send("GET", path)
        self.assertEqual(response.status_code, 200)
        return json.loads(b"".join(response).decode(), parse_float=Decimal)

    def test_the_api_s_log_says_that_its_cost_is_not_known(self):
        [row] = self.answer(f"/spend/logs?request_id={self.log.pk}")

        self.assertIsNone(row["cost"])
        self.assertIsNone(row["charge"])
        self.assertIsNone(row["metadata"]["cost_breakdown"])
        self.assertEqual(row["usage_source"], "unpriced")

    def test_every_sum_of_the_api_says_how_many_calls_it_leaves_out(self):
        days = f"start_date={self.day}&end_date={self.day}"

        self.assertEqual(self.answer("/customer/info?end_user_id=acme")["unpriced_requests"], 1)
        report = self.answer(f"/global/spend/report?{days}&group_by=customer")
        self.assertEqual(report[0]["customers"][0]["unpriced_requests"], 1)
        activity = self.answer(f"/customer/daily/activity?{days}")
        self.assertEqual(activity["results"][0]["metrics"]["unpriced_requests"], 1)

    def test_the_csv_has_them_in_a_column(self):
        response = self.send(
            "GET", f"/customer/daily/activity/export?start_date={self.day}&end_date={self.day}"
        )
        [row] = csv.DictReader(io.StringIO(b"".join(response).decode()))

        self.assertEqual(row["unpriced_requests (requests)"], "1")

    def test_what_it_would_cost_is_no_answer(self):
        for path, body in (
            ("/spend/calculate", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}),
            ("/cost/estimate", {"model": MODEL, "input_tokens": 1000, "output_tokens": 1000}),
        ):
            response = self.send("POST", path, body)
            self.assertEqual(response.status_code, 400, path)
            self.assertIn("no price", response.json()["error"]["message"])

    def test_a_price_of_something_else_is_no_price(self):
        Price.objects.create(provider="openai", model=MODEL, unit_rates={"input_audio_ms": "0.0001"})
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}

        response = self.send(
            "POST", "/spend/calculate", {"model": MODEL, "completion_response": {"usage": usage}}
        )

        self.assertEqual(response.status_code, 400, response.content)

    def test_the_pages_of_the_admin_say_unpriced(self):
        self.client.force_login(self.alice)

        page = self.client.get(reverse("admin:billing_spendlog_change", args=[self.log.pk]))
        self.assertContains(page, "This call is unpriced")
        self.assertContains(page, MODEL)
        self.assertContains(self.client.get(reverse("admin:billing_spendlog_changelist")), "unpriced")

    def test_the_usage_page_and_its_file_mark_the_sum(self):
        self.client.force_login(self.alice)
        days = f"?from={self.day}&to={self.day}"

        page = self.client.get(f"/admin/usage/customers/{days}")
        self.assertContains(page, "of models without a price: not in the spend.")
        file = self.client.get(f"/admin/usage/customers/export.csv{days}")
        rows = {row["row"]: row for row in csv.DictReader(io.StringIO(file.content.decode()))}
        self.assertEqual((rows["name"]["unpriced"], rows["total"]["unpriced"]), ("1", "1"))


class StatedTests(ApiTestCase):
    """Which price won is told."""

    def test_calculate_says_which_row_and_which_tier(self):
        price = Price.objects.create(
            provider="openai", model="gpt-x", input_per_mtok_usd=Decimal(4), output_per_mtok_usd=Decimal(8),
            service_tiers={"flex": {"input_per_mtok_usd": "2", "output_per_mtok_usd": "4"}},
        )  # fmt: skip
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}

        answer = self.post(
            "/spend/calculate",
            {
                "model": "openai/gpt-x-2026-01-31",
                "completion_response": {"usage": usage, "service_tier": "flex"},
            },
        )

        self.assertEqual(Decimal(str(answer["cost"])), Decimal(2 * 10 + 4 * 5) / 1_000_000)
        self.assertEqual(
            (answer["price_id"], answer["price_source"], answer["priced_as"], answer["service_tier"]),
            (price.pk, "admin", "openai/gpt-x", "flex"),
        )

    def test_a_copy_of_a_row_starts_with_all_of_its_rates(self):
        price = Price.objects.create(
            provider="openai", model="gpt-x", input_per_mtok_usd=Decimal(4), unit_rates={"pages": "0.004"},
            service_tiers={"flex": {"input_per_mtok_usd": "2"}},
        )  # fmt: skip
        self.client.force_login(User.objects.create_superuser("alice", password="correct horse"))
        page = self.client.get(reverse("admin:billing_price_change", args=[price.pk])).content.decode()
        address = html.unescape(page.partition('href="/admin/billing/price/add/?')[2].partition('"')[0])

        form = self.client.get(f"/admin/billing/price/add/?{address}").context["adminform"].form
        fields = {name: form[name].value() or "" for name in form.fields}
        fields |= {"effective_from_0": "2030-01-01", "effective_from_1": "00:00"}
        response = self.client.post("/admin/billing/price/add/", fields)

        self.assertEqual(response.status_code, 302, response.context and response.context["errors"])
        copy = Price.objects.latest("pk")
        for name in PRICING_FIELDS:
            self.assertEqual(getattr(copy, name), getattr(Price.objects.get(pk=price.pk), name))
        self.assertNotEqual(copy.pk, price.pk)

    def test_a_log_s_page_says_which_row_and_why(self):
        price = Price.objects.create(
            provider="openai", model="gpt-x", input_per_mtok_usd=Decimal(4), output_per_mtok_usd=Decimal(8),
            service_tiers={"flex": {"input_per_mtok_usd": "2", "output_per_mtok_usd": "4"}},
            unit_rates={"file_searches": "0.0025"},
        )  # fmt: skip
        cost = (2 * 1_000 + 4 * 200) / Decimal(1_000_000) * Decimal("0.95") + Decimal("0.0025") * Decimal(
            "0.95"
        )
        closed = {
            "price_id": price.pk, "provider": "openai", "upstream_model": "gpt-x-2026-01-31",
            "service_tier": "flex", "units": {"file_searches": 1, "discount_ppm": 50_000},
        }  # fmt: skip
        book_calls(make_call(at=timezone.now(), cost_usd=str(cost), closed=closed))
        self.client.force_login(User.objects.create_superuser("alice", password="correct horse"))

        page = self.client.get(reverse("admin:billing_spendlog_change", args=[SpendLog.objects.get().pk]))

        self.assertContains(page, "equals the cost of this call")
        for said in (
            "is priced as <code>gpt-x</code>",
            "Rates of flex stand before",
            "file searches",
            "Discount 5 %",
        ):
            self.assertContains(page, said)
