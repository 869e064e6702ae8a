"""The pages of re-pricing, rate cards, closed months and bills: what staff see, and who may not."""

from datetime import timedelta
from decimal import Decimal

from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from django.utils import timezone

from billing.models import Adjustment, ClosedMonth, Price, ProviderBill, Repricing, SpendTotal
from customers.models import Customer, RateCard
from tests.admin_pages import AdminTestCase
from tests.billing.making import book_calls, make_call
from tests.billing.test_bill_import import OPENAI_COSTS

MODEL = "nobody-lists-this"
QUEUE = reverse("admin:billing_repricing_unpriced")
PRICE = reverse("admin:billing_repricing_price")
LOOK = reverse("admin:billing_repricing_look")
WHAT_IF = reverse("admin:billing_providerbill_what_if")
NAMED = f"?provider=openai&model={MODEL}"


class PagesTests(AdminTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.at = timezone.now() - timedelta(minutes=5)
        closed = {"provider": "openai", "upstream_model": MODEL}
        book_calls(
            *[
                make_call(at=cls.at, cost_usd=None, model=MODEL, customer_id=who, closed=closed)
                for who in ("acme", "bits")
            ]
        )

    def test_from_the_overview_to_the_queue_to_a_price_to_the_sum(self):
        Price.objects.create(
            provider="openai", model=f"{MODEL}-2", source="genai_prices", input_per_mtok_usd=Decimal("2.5")
        )
        self.assertContains(self.client.get(reverse("admin:index")), QUEUE)
        page = self.client.get(QUEUE)
        self.assertContains(page, "1 model, 2 calls")
        self.assertContains(page, MODEL)
        page = self.client.get(PRICE + NAMED)
        self.assertContains(page, 'value="2.5"')

        rates = {"input_per_mtok_usd": "3", "output_per_mtok_usd": "15"}
        answer = self.client.post(PRICE + NAMED, {"provider": "openai", "model": MODEL, **rates})
        self.assertEqual(Price.objects.get(model=MODEL).source, "admin")
        page = self.client.get(answer["Location"])
        self.assertContains(page, "+$0.012 over 2 customers")
        self.assertFalse(Adjustment.objects.exists())
        answer = self.client.post(LOOK, {"provider": "openai", "model": MODEL, "note": "July's list"})

        run = Repricing.objects.get()
        self.assertEqual((run.actor, run.note, run.changed_calls), ("alice", "July's list", 2))
        self.assertContains(self.client.get(answer["Location"]), "$0.012")
        self.assertEqual(SpendTotal.objects.get(holder_type="gateway").cost, Decimal("0.012"))
        self.assertContains(self.client.get(QUEUE), "Every call has a cost")

    def test_a_form_without_a_rate_is_asked_again(self):
        page = self.client.post(PRICE + NAMED, {"provider": "openai", "model": MODEL})

        self.assertContains(page, "Give at least one rate")
        self.assertFalse(Price.objects.filter(model=MODEL).exists())

    def test_who_may_not_is_refused(self):
        self.log_in_charlie()

        for url in (QUEUE, PRICE + NAMED, LOOK + NAMED, WHAT_IF):
            self.assertEqual(self.client.get(url).status_code, 403, url)
        self.assertEqual(self.client.post(LOOK, {"provider": "openai", "model": MODEL}).status_code, 403)

    def test_a_month_is_closed_and_opened(self):
        add = reverse("admin:billing_closedmonth_add")
        this_month = f"{timezone.now():%Y-%m}"
        self.assertContains(self.client.post(add, {"month": this_month}), "It is not over")
        self.assertContains(self.client.post(add, {"month": "March"}), "Write a month as 2026-03")

        self.client.post(add, {"month": "2026-03", "note": "billed"})

        row = ClosedMonth.objects.get()
        self.assertEqual((str(row), row.closed_by, row.note), ("2026-03", "alice", "billed"))
        self.assertContains(self.client.get(reverse("admin:billing_closedmonth_changelist")), "2026-03")
        self.client.post(reverse("admin:billing_closedmonth_delete", args=[row.pk]), {"post": "yes"})
        self.assertFalse(ClosedMonth.objects.exists())

    def test_a_rate_card_is_made_with_an_own_price_and_given_to_a_customer(self):
        own = {"provider": "openai", "model": "gpt-4o", "input_per_mtok_usd": "5",
               "long_context_tiers": "[]", "unit_rates": "{}"}  # fmt: skip
        inline = {f"own_prices-0-{name}": value for name, value in own.items()}
        counts = {"own_prices-TOTAL_FORMS": "1", "own_prices-INITIAL_FORMS": "0"}
        page = self.client.post(
            reverse("admin:customers_ratecard_add"),
            {"name": "resellers", "multiplier": "0.9", **counts, **inline},
        )
        self.assertEqual(page.status_code, 302, getattr(page, "context_data", {}).get("errors"))
        card = RateCard.objects.get()
        price = Price.objects.get(rate_card=card)
        self.assertEqual((price.source, price.input_per_mtok_usd), ("deployment", 5))
        url = reverse("admin:customers_ratecard_change", args=[card.pk])
        self.assertContains(self.client.get(url), "gpt-4o")
        self.assertContains(self.client.get(reverse("admin:customers_ratecard_changelist")), "0.9")

        Customer.objects.filter(pk="acme").update(rate_card=card)
        listed = self.client.get(
            f"{reverse('admin:customers_customer_changelist')}?rate_card__id__exact={card.pk}"
        )
        self.assertContains(listed, "acme")
        self.assertNotContains(listed, "bits")

    def test_a_bill_is_imported_and_compared(self):
        add = reverse("admin:billing_providerbill_add")

        bad = self.client.post(add, {"file": SimpleUploadedFile("a.csv", b"a,b\n")})
        self.assertContains(bad, "Expected is a CSV export")
        answer = self.client.post(add, {"file": SimpleUploadedFile("cost.csv", OPENAI_COSTS.encode())})

        bill = ProviderBill.objects.get()
        self.assertEqual(bill.imported_by, "alice")
        page = self.client.get(answer["Location"])
        self.assertContains(page, "$1.00 billed, $0.00 booked")
        self.assertEqual(
            self.client.get(reverse("admin:billing_providerbill_json", args=[bill.pk])).json()["total"][
                "billed_usd"
            ],
            1,
        )

    def test_what_other_prices_would_say(self):
        self.assertContains(self.client.get(WHAT_IF), "No call in these days")
        day = self.at.date().isoformat()
        page = self.client.get(f"{WHAT_IF}?start={day}&end={day}")
        self.assertContains(page, "2 calls have no price there")
        self.assertContains(self.client.get(f"{WHAT_IF}?start={day}&end={day}&model=x"), "Fill in both")
