"""
Many calls of almost nothing: at $0.0000001 each, the sum is exact wherever it is shown (M2).

20,000 calls in the suite, 1,000,000 with CHAOS=long: exactly $0.10.
"""

import csv
import io
import json
import os
from datetime import timedelta
from decimal import Decimal

from django.db.models import Sum
from django.test import override_settings
from django.utils import timezone

from billing.models import DailySpend, Price, SpendLog
from billing.models.spend_total import GATEWAY_ID
from billing.prices.pricing import resolve
from billing.usage import Usage
from customers.money import from_nano
from proxy.calls import _written
from tests.billing.making import book_calls, make_call, total
from tests.customers.calling import ApiTestCase

CALLS = 1_000_000 if os.environ.get("CHAOS") == "long" else 20_000
_A_BATCH = 2_000
EACH = Decimal("0.0000001")


@override_settings(REPORTING_TIME_ZONE="UTC")
class ExactSumTests(ApiTestCase):
    @classmethod
    def setUpTestData(cls):
        cls.price = Price.objects.create(provider="openai", model="tiny", input_per_mtok_usd=Decimal("0.1"))
        usage = Usage(input_uncached=1)
        nano = resolve(cls.price).cost_nano(usage)
        assert from_nano(nano) == EACH
        cls.at = timezone.now() - timedelta(hours=1)
        for start in range(0, CALLS, _A_BATCH):
            closed = {
                "usage": usage,
                "price_id": cls.price.pk,
                "provider": "openai",
                "upstream_model": "tiny",
            }
            book_calls(
                *(
                    make_call(
                        at=cls.at, cost_usd=f"{EACH:f}", customer_id="acme", model="tiny", closed=closed,
                    )
                    for _ in range(start, start + _A_BATCH)
                )
            )  # fmt: skip
        cls.expected = EACH * CALLS

    def test_a_million_of_them_are_ten_cents(self):
        self.assertEqual(EACH * 1_000_000, Decimal("0.10"))

    def test_the_log_the_totals_and_the_rollup_agree(self):
        self.assertEqual(SpendLog.objects.count(), CALLS)
        self.assertEqual(SpendLog.objects.aggregate(sum=Sum("cost"))["sum"], self.expected)
        self.assertEqual(total("gateway", GATEWAY_ID), self.expected)
        self.assertEqual(total("customer", "acme"), self.expected)
        self.assertEqual(DailySpend.objects.aggregate(sum=Sum("cost"))["sum"], self.expected)

    def test_the_api_s_reports_agree(self):
        day = self.at.date().isoformat()
        days = f"start_date={day}&end_date={day}"
        for path, found in (
            ("/global/spend", lambda answer: answer["spend"]),
            ("/customer/info?end_user_id=acme", lambda answer: answer["spend"]),
            (f"/customer/daily/activity?{days}", lambda answer: answer["metadata"]["total_spend"]),
            (
                f"/global/spend/report?{days}&group_by=customer",
                lambda answer: answer[0]["customers"][0]["total_spend"],
            ),
        ):
            with self.subTest(path=path):
                response = self.send("GET", path)
                self.assertEqual(response.status_code, 200)
                # The text itself: one encoder writes exact decimals.
                text = b"".join(response).decode()
                answer = json.loads(text, parse_float=Decimal)
                self.assertEqual(Decimal(found(answer)), self.expected)

    def test_the_csv_agrees(self):
        day = self.at.date().isoformat()
        response = self.send("GET", f"/customer/daily/activity/export?start_date={day}&end_date={day}")
        rows = list(csv.DictReader(io.StringIO(b"".join(response).decode())))

        self.assertEqual(sum(Decimal(row["spend (USD)"]) for row in rows), self.expected)

    def test_a_call_s_header_says_it_exactly(self):
        self.assertEqual(_written(100), b"0.0000001")
