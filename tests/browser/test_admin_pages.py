"""Every page of the sidebar, and those of webhooks, in a real browser: there, and whole at every width."""

from datetime import timedelta
from decimal import Decimal

from django.utils import timezone

from billing.models import BudgetPeriod, Delivery, DeliveryLane, WebhookEndpoint
from billing.webhooks.endpoints import create_endpoint
from customers.models import RateCard
from tests.billing.alerts import afresh
from tests.billing.making import book_calls, make_call
from tests.browser.chromium import Page
from tests.browser.pages import BrowserTestCase, needs_axe

ENDPOINTS, DELIVERIES = "/admin/billing/webhookendpoint/", "/admin/billing/delivery/"
LONG_URL = "https://hooks.example.com/a/very/long/path/that/has/no/end/" + "0123456789" * 10
ACTIVE = "[...document.querySelectorAll('#nav-sidebar-apps a.active')].map((each) => each.pathname)"


class EveryPageInABrowser(BrowserTestCase):
    @classmethod
    def make_rows(cls) -> None:
        afresh()
        now = timezone.now()
        cls.endpoint, _ = create_endpoint(name="Billing system", url="https://hooks.example.com/spend")
        create_endpoint(name="", url=LONG_URL, is_active=False)
        RateCard.objects.create(name="Partners", multiplier=Decimal("1.2"))
        call = {"provider": "in-house", "upstream_model": "in-house-13b"}
        book_calls(
            make_call(at=now, customer_id="acme", cost_usd="1.25"),
            make_call(at=now, customer_id="acme", model="in-house", cost_usd=None, closed=call),
        )
        BudgetPeriod.objects.create(
            holder_type="customer", holder_id="acme", window="1d", starts_at=now, counts_from=now,
            ends_at=now + timedelta(days=1), last_limit=Decimal(1), spent_charge=Decimal("0.9"),
        )  # fmt: skip
        DeliveryLane.objects.create(name=f"webhook:{cls.endpoint.pk}", failing_since=now)
        Delivery.objects.update(
            state="failed", attempts=13, next_attempt_at=None, last_attempt_at=now, last_status=503,
            last_answer="<html>" + "x" * 300,
            failures=[{"at": now.isoformat(), "status": 503, "error": "", "ms": 12}],
        )  # fmt: skip

    def pages(self, page: Page) -> list[str]:
        """Return the addresses that the sidebar leads to."""
        links = "[...document.querySelectorAll('#nav-sidebar-apps a')].map((each) => each.pathname)"
        return list(dict.fromkeys(page.evaluate(links)))

    def test_whatever_the_sidebar_leads_to_is_there_and_fits_on_a_telephone(self):
        with self.page("/admin/") as page:
            paths = self.pages(page)
            self.assertGreater(len(paths), 25)
            page.resize(360, 900)
            for path in paths:
                with self.subTest(path):
                    self.open(page, path)
                    self.assertEqual(page.errors, [])
                    self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 360)

    @needs_axe
    def test_the_overview_is_accessible_and_names_what_to_look_at(self):
        with self.page("/admin/") as page:
            text = page.evaluate("document.querySelector('#content').innerText")
            for expected in ("$1.25", "Billing system has not taken", "customer acme", "$0.90 of $1.00"):
                self.assertIn(expected, text)
            self.assert_no_width_scrolls_sideways(page)
            page.resize(1280, 900)
            self.assert_axe_finds_nothing(page, "#content")

    def test_from_the_overview_to_the_price_that_is_missing(self):
        with self.page("/admin/") as page:
            page.click('.spend-cards a[href*="unpriced"]')

            self.assertIn("in-house-13b", page.evaluate("document.querySelector('#content').innerText"))
            self.assertEqual(page.evaluate(ACTIVE), [page.evaluate("location.pathname")])

    def test_webhooks_fit_into_every_width(self):
        delivery = Delivery.objects.order_by("pk").first()
        for path in (
            ENDPOINTS, f"{ENDPOINTS}{self.endpoint.pk}/change/", f"{ENDPOINTS}add/", DELIVERIES,
            f"{DELIVERIES}{delivery.pk}/change/",
        ):  # fmt: skip
            with self.subTest(path), self.page(path) as page:
                self.assert_no_width_scrolls_sideways(page)

    @needs_axe
    def test_webhooks_are_accessible(self):
        delivery = Delivery.objects.order_by("pk").first()
        for path in (ENDPOINTS, DELIVERIES, f"{DELIVERIES}{delivery.pk}/change/"):
            with self.subTest(path), self.page(path) as page:
                self.assert_axe_finds_nothing(page, "#content-main")

    def test_a_new_secret_is_shown_once(self):
        with self.page(f"{ENDPOINTS}{self.endpoint.pk}/change/") as page:
            page.click('a[href*="secret"]')
            page.click(".spend-panel form button")
            shown = page.evaluate("document.querySelector('.spend-copy input').value")

            self.assertRegex(shown, "^whsec_")
            self.open(page, f"{ENDPOINTS}{self.endpoint.pk}/change/")
            self.assertNotIn(shown, page.evaluate("document.documentElement.outerHTML"))
            self.assertNotIn(shown, str(WebhookEndpoint.objects.values()))
