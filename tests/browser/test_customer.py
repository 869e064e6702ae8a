"""A customer's page, its links, and the page that is handed out of it, in a real browser."""

from datetime import timedelta
from decimal import Decimal

from django.urls import reverse
from django.utils import timezone

from billing.budgets.bars import allowances
from customers.models import Budget, Customer, HandoutLink
from customers.services.handout_links import make_handout_link
from tests.billing.budgets import admitted, settle
from tests.billing.making import book_calls, make_call
from tests.browser.chromium import Page
from tests.browser.pages import BrowserTestCase, needs_axe

PAGE = "/admin/usage/customer/?customer=acme"
LINKS = "/admin/usage/customer/links/?customer=acme"
CHART = "document.querySelector('[data-usage-chart]')?.dataset.drawn"
HEADING = "document.querySelector('#usage-title, header h1').innerText"
LONG = "a-customer-with-a-very-long-name-that-has-no-place-to-break@example.com"


class ACustomerInABrowser(BrowserTestCase):
    @classmethod
    def make_rows(cls) -> None:
        now = timezone.now()
        budget = Budget.objects.create(id="pro", max_budget=Decimal(10), budget_duration="1mo")
        cls.acme = Customer.objects.create(id="acme", alias="Acme Corp", budget=budget)
        Customer.objects.create(id=LONG)
        limit = allowances(budget)[0].period(("customer", "acme"), now)
        settle(admitted((limit, "10"), customer_id="acme", at=now, amount_usd="0"), cost_usd="4.5")
        # Two months and a half ago, whatever day it is.
        cls.then = (now.replace(day=1) - timedelta(days=40)).replace(day=15)
        book_calls(
            make_call(
                at=cls.then, cost_usd="2.75", customer_id="acme", model="o3", tags=["search"],
                session_id="s-1",
            ),
            make_call(at=cls.then, cost_usd=None, customer_id="acme", model="in-house"),
            make_call(
                at=now, customer_id="acme", cost_usd="0",
                closed={"status": "failure", "error_message": "It failed."},
            ),
        )  # fmt: skip

    def hand_out(self, customer: Customer | None = None, **fields) -> str:
        at = timezone.now()
        _, token = make_handout_link(
            customer=customer or self.acme, kind=HandoutLink.Kind.PAGE, at=at,
            expires_at=at + timedelta(days=7), **fields,
        )  # fmt: skip
        return reverse("handout-page", args=[token])

    def figures(self, page: Page) -> str:
        return page.evaluate("document.querySelector('.usage-cards').innerText")

    # -- the page --------------------------------------------------------------------------

    def test_three_clicks_from_home_to_what_it_cost_then_and_one_to_why(self):
        month = f"{self.then:%Y-%m}-01"
        with self.page("/admin/") as page:
            page.click('a[href$="/customers/customer/"]')
            page.click('#result_list td.field-spend_and_why a[href*="customer=acme"]')
            page.click(f'.customer-picker a[href*="from={month}"]')

            self.assertIn("Acme Corp", page.evaluate(HEADING))
            self.assertIn("$2.75*", self.figures(page))
            page.wait(CHART, "the chart")
            page.click("[aria-labelledby=usage-categories-title] tbody a")
            self.assertIn("/admin/billing/spendlog/?customer=acme", self.address(page))
            self.assertGreater(page.evaluate("document.querySelectorAll('#result_list tbody tr').length"), 0)

    def test_no_width_scrolls_sideways(self):
        for path in (
            PAGE,
            "/admin/usage/customer/?customer=nobody",
            f"/admin/usage/customer/?customer={LONG}",
        ):
            with self.subTest(path=path), self.page(path) as page:
                self.assert_no_width_scrolls_sideways(page)

    @needs_axe
    def test_axe_finds_nothing(self):
        for path in (PAGE, "/admin/usage/customer/?customer=nobody"):
            with self.subTest(path=path), self.page(path) as page:
                self.assert_axe_finds_nothing(page, ".usage")

    # -- its links -------------------------------------------------------------------------

    def test_a_link_is_made_opened_and_taken_back(self):
        with self.page(LINKS) as page:
            page.type("[name=title]", "Made in a browser")
            page.click(".handout-form button")
            shown = page.evaluate("document.querySelector('#made').value")
            path = "/hand-out/" + shown.split("/hand-out/")[1]

            with self.page(path) as handed_out:
                self.assertEqual(handed_out.evaluate(HEADING), "Made in a browser")
            self.open(page, LINKS)
            page.click("table form button")
            self.assertIn("taken back", page.evaluate("document.body.innerText"))
            self.open(page, path)
            self.assertIn("410", "".join(page.errors))
            page.errors.clear()

    @needs_axe
    def test_axe_finds_nothing_where_links_are_made(self):
        self.hand_out(title="A link of axe's")
        with self.page(LINKS) as page:
            self.assert_no_width_scrolls_sideways(page)
            page.resize(1280, 900)
            self.assert_axe_finds_nothing(page, ".usage")

    # -- the page that is handed out ---------------------------------------------------------

    def test_it_is_of_its_own_colour_and_loads_nothing(self):
        with self.page(self.hand_out(title="Usage of Acme", colour="#7c3aed")) as page:
            self.assertEqual(page.evaluate(HEADING), "Usage of Acme")
            self.assertIn("rgb(124, 58, 237)", page.evaluate(
                "[...document.querySelectorAll('*')].flatMap((each) => ["
                "getComputedStyle(each).fill, getComputedStyle(each).backgroundColor,"
                "getComputedStyle(each).borderTopColor]).join()"
            ))  # fmt: skip
            self.assertEqual(page.evaluate("document.scripts.length"), 0)
            loaded = page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)")
            self.assertEqual([each for each in loaded if not each.startswith(self.live_server_url)], [])

    def test_it_follows_light_and_dark(self):
        ground = "getComputedStyle(document.body).backgroundColor"
        path = self.hand_out()
        with self.page(path) as light, self.page(path, dark=True) as dark:
            self.assertNotEqual(light.evaluate(ground), dark.evaluate(ground))

    def test_it_fits_into_every_width(self):
        for customer in (self.acme, Customer.objects.get(pk=LONG)):
            with self.subTest(customer.pk), self.page(self.hand_out(customer)) as page:
                self.assert_no_width_scrolls_sideways(page)

    @needs_axe
    def test_axe_finds_nothing_in_what_is_handed_out(self):
        for dark in (False, True):
            with self.subTest(dark=dark), self.page(self.hand_out(shows_keys=True), dark=dark) as page:
                self.assert_axe_finds_nothing(page, "body")
