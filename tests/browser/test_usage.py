"""
The usage pages in a real browser: what people click, what they see, what they hear.

Needs Chromium; the checks of accessibility need axe-core besides (`make browser`). A run
without them skips by name; CI names both in CI_REQUIRES.
"""

from datetime import timedelta
from decimal import Decimal

from django.utils import timezone

from billing.models import ReconcileRun
from customers.models import Budget, Customer
from tests.billing.making import book_calls, make_call
from tests.browser.chromium import Page
from tests.browser.pages import BrowserTestCase, needs_axe

USAGE = "/admin/usage/"
CHART = "document.querySelector('[data-usage-chart]')?.dataset.drawn"
NAME_OF_FOCUS = (
    "((it) => it.name || it.getAttribute('href') || it.className || it.localName)(document.activeElement)"
)
TABS = ("", "customers/", "models/", "keys/", "teams/", "users/", "tags/", "clients/")


class UsageInABrowser(BrowserTestCase):
    @classmethod
    def make_rows(cls) -> None:
        now = timezone.now()
        Customer.objects.create(id="acme", budget=Budget.objects.create(id="pro", max_budget=Decimal(100)))
        book_calls(
            *(
                make_call(
                    cost_usd=f"{day}.25", customer_id=customer, model=model, at=now - timedelta(days=day),
                    team_id="red", user_id="bob", tags=["search"], client_tool="curl",
                )
                for day in range(1, 6)
                for customer, model in (("acme", "gpt-4o"), ("globex", "o3"), ("initech", "o3"), (None, "o3"))
            ),
            make_call(cost_usd=None, customer_id="acme", model="in-house", at=now),
        )  # fmt: skip
        ReconcileRun.objects.create(started_at=now, seconds=1, rows_compared=9, differences=0)

    def names(self, page: Page) -> list[str]:
        return page.evaluate(
            "[...document.querySelectorAll('.usage-table tbody tr.is-name th')]"
            ".map((each) => each.innerText.trim())"
        )

    def test_two_customers_are_filtered_by_typing_and_enter(self):
        with self.page(f"{USAGE}customers/") as page:
            for customer in ("acme", "globex"):
                page.type('[name="customer"][type="text"]', customer)
                loads = page.loads
                page.press("Enter")
                page.wait_load(loads)

            self.assertEqual(self.address(page), "/admin/usage/customers/?customer=acme&customer=globex")
            self.assertEqual(self.names(page), ["acme", "globex"])

            page.click('[aria-label="Remove the filter Customer acme"]')
            self.assertEqual(self.names(page), ["globex"])
            loads = page.loads
            page.evaluate("history.back()")
            page.wait("document.querySelectorAll('tr.is-name').length === 2", "the page before")

    def test_a_filter_suggests_what_there_is_as_one_types(self):
        with self.page(f"{USAGE}customers/") as page:
            page.type('[name="customer"][type="text"]', "glo")

            page.wait(
                "(list => list.length === 1 && list[0].value === 'globex')"
                "(document.querySelectorAll('#usage-customer-list option'))",
                "the one suggestion",
            )

    def test_customers_are_compared(self):
        with self.page(f"{USAGE}customers/?customer=acme&customer=globex") as page:
            page.evaluate("document.querySelector('[name=compare]').value = 'customers'")
            page.click("[data-usage-form] button")

            heads = page.evaluate(
                "[...document.querySelectorAll('[aria-labelledby=usage-comparison-title] thead th')]"
                ".map((each) => each.innerText)"
            )
            self.assertEqual(heads, ["acme", "globex"])
            page.wait(CHART, "the chart")
            drawn = page.evaluate("Chart.getChart('usage-chart').data.datasets.map((each) => each.type)")
            self.assertEqual(drawn, ["line", "line"])

    def test_from_usage_down_to_the_calls(self):
        with self.page(USAGE) as page:
            page.click('.usage-tabs a[href*="customers"]')
            page.click("tr.is-name th a")
            self.assertIn("?customer=", self.address(page))
            page.wait(CHART, "the chart")
            page.click("[aria-labelledby=usage-categories-title] tbody a")

            self.assertIn("/admin/billing/spendlog/?customer=", self.address(page))
            self.assertGreater(page.evaluate("document.querySelectorAll('#result_list tbody tr').length"), 0)

    def test_the_export_has_what_the_table_shows(self):
        with self.page(f"{USAGE}customers/?sort=name") as page:
            shown = self.names(page)
            text = page.evaluate(
                "fetch(document.querySelector('.usage-export').href).then((each) => each.text())"
            )

            exported = [line.split(",")[1] for line in text.splitlines() if line.startswith("name,")]
            self.assertEqual(exported, shown)

    def test_the_chart_is_drawn_in_the_colours_of_its_theme(self):
        colour = "Chart.getChart('usage-chart').data.datasets[0].backgroundColor"
        with self.page(USAGE) as light, self.page(USAGE, dark=True) as dark:
            light.wait(CHART, "the chart")
            dark.wait(CHART, "the chart")

            self.assertTrue(dark.evaluate("document.documentElement.classList.contains('dark')"))
            self.assertNotEqual(light.evaluate(colour), dark.evaluate(colour))
            # The theme changes while one looks on.
            light.evaluate("document.documentElement.classList.add('dark')")
            light.wait(f"{colour} === '{dark.evaluate(colour)}'", "the chart to follow the theme")

    def test_no_width_has_a_page_that_scrolls_sideways(self):
        # Two charts and two tables apart from each other; the other tabs have the same parts.
        for path in ("", "customers/", "tags/", "?customer=acme&compare=previous"):
            with self.subTest(path=path), self.page(f"{USAGE}{path}") as page:
                page.wait(CHART, "the chart")

                self.assert_no_width_scrolls_sideways(page)

    def test_all_can_be_done_with_the_keyboard(self):
        with self.page(f"{USAGE}customers/") as page:
            reached: set[str] = set()
            for _ in range(120):
                page.press("Tab")
                reached.add(page.evaluate(NAME_OF_FOCUS))
            for name in ("customer", "from", "compare", "q", "usage-scroll", "summary"):
                self.assertIn(name, reached)
            self.assertTrue(any("export.csv" in each for each in reached))
            self.assertTrue(any("sort=" in each for each in reached))

    def test_a_chart_that_cannot_be_drawn_says_where_its_figures_are(self):
        with self.page(USAGE) as page:
            page.call(
                "Page.addScriptToEvaluateOnNewDocument",
                source="Object.defineProperty(window, 'Chart', {value: null, writable: false})",
            )
            self.open(page, USAGE)
            text = page.wait(
                "document.querySelector('[data-usage-chart-state]').innerText.includes('could not') && "
                "document.querySelector('[data-usage-chart-state]').innerText",
                "the message",
            )
            self.assertIn("Its figures are in the table below", text)
            page.errors.clear()  # the theme's own script wants its Chart

    @needs_axe
    def test_axe_finds_nothing(self):
        cases = [
            *TABS, "customers/?customer=acme&customer=globex&compare=customers",
            "?customer=acme&compare=previous", "?period=century", "?customer=nobody",
        ]  # fmt: skip
        for path in cases:
            with self.subTest(path=path), self.page(f"{USAGE}{path}") as page:
                self.assert_axe_finds_nothing(page, ".usage")
                page.errors[:] = [each for each in page.errors if "status of 400" not in each]

    @needs_axe
    def test_axe_finds_nothing_on_a_narrow_screen(self):
        with self.page(f"{USAGE}customers/", width=360) as page:
            self.assert_axe_finds_nothing(page, ".usage")
