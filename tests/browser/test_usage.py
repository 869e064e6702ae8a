"""
The usage pages in a real browser: what people click, what they see, what they hear.

Needs Chromium; the checks of accessibility need axe-core besides (`make browser`). A run
without them skips by name; CI names both in CI_REQUIRES.
"""

import contextlib
import json
import unittest
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.utils import timezone

from billing.models import ReconcileRun
from customers.models import Budget, Customer, User
from tests import services
from tests.billing.making import book_calls, make_call
from tests.browser.chromium import Chromium, Page

CHART = "document.querySelector('[data-usage-chart]')?.dataset.drawn"
TABS = ("", "customers/", "models/", "keys/", "teams/", "users/", "tags/", "clients/")
# A rule of axe's is left out with its reason, and nothing else is.
_AXE_OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
}


@unittest.skipUnless(services.chromium(), "no Chromium here: apt install chromium")
class UsageInABrowser(StaticLiveServerTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns of a missing one
        super().setUpClass()
        cls.browser = cls.enterClassContext(Chromium(services.chromium()))

    def setUp(self) -> None:
        self.alice = User.objects.create_superuser("alice", password="correct horse")
        self.cookie = SessionStore()
        self.cookie["_auth_user_id"] = str(self.alice.pk)
        self.cookie["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
        self.cookie["_auth_user_hash"] = self.alice.get_session_auth_hash()
        self.cookie.save()
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

    @contextlib.contextmanager
    def page(
        self, path: str = "", *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> Iterator[Page]:
        """Open a usage page, and see to it that its console has nothing to complain of."""
        page = self.browser.page(width=width, height=height)
        page.set_cookie(self.live_server_url, settings.SESSION_COOKIE_NAME, self.cookie.session_key)
        if dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            page.call("Emulation.setEmulatedMedia", features=[scheme])
        self.open(page, path)
        yield page
        self.assertEqual(page.errors, [])

    def open(self, page: Page, path: str) -> None:
        page.open(f"{self.live_server_url}/admin/usage/{path}")

    def address(self, page: Page) -> str:
        return page.evaluate("location.pathname + location.search")

    def names(self, page: Page) -> list[str]:
        return page.evaluate(
            "[...document.querySelectorAll('.usage-table tbody tr.is-name th')]"
            ".map((each) => each.innerText.trim())"
        )

    def test_two_customers_are_filtered_by_typing_and_enter(self):
        with self.page("customers/") as page:
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
        with self.page("customers/") as page:
            page.type('[name="customer"][type="text"]', "glo")

            page.wait(
                "(list => list.length === 1 && list[0].value === 'globex')"
                "(document.querySelectorAll('#usage-customer-list option'))",
                "the one suggestion",
            )

    def test_customers_are_compared(self):
        with self.page("customers/?customer=acme&customer=globex") as page:
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
        with self.page() as page:
            page.click('.usage-tabs a[href*="customers"]')
            page.click("tr.is-name th a")
            self.assertIn("?customer=", self.address(page))
            page.wait(CHART, "the chart")
            page.click("[aria-labelledby=usage-categories-title] tbody a")

            self.assertIn("/admin/billing/spendlog/?customer=", self.address(page))
            self.assertGreater(page.evaluate("document.querySelectorAll('#result_list tbody tr').length"), 0)

    def test_the_export_has_what_the_table_shows(self):
        with self.page("customers/?sort=name") as page:
            shown = self.names(page)
            text = page.evaluate(
                "fetch(document.querySelector('.usage-export').href).then((each) => each.text())"
            )

            exported = [line.split(",")[1] for line in text.splitlines() if line.startswith("name,")]
            self.assertEqual(exported, shown)

    def test_the_chart_is_drawn_in_the_colours_of_its_theme(self):
        colour = "Chart.getChart('usage-chart').data.datasets[0].backgroundColor"
        with self.page() as light, self.page(dark=True) as dark:
            light.wait(CHART, "the chart")
            dark.wait(CHART, "the chart")

            self.assertTrue(dark.evaluate("document.documentElement.classList.contains('dark')"))
            self.assertNotEqual(light.evaluate(colour), dark.evaluate(colour))
            # The theme changes while one looks on.
            light.evaluate("document.documentElement.classList.add('dark')")
            light.wait(f"{colour} === '{dark.evaluate(colour)}'", "the chart to follow the theme")

    def test_no_width_has_a_page_that_scrolls_sideways(self):
        for width in (360, 768, 1280, 3840):
            for path in TABS:
                with self.subTest(width=width, path=path), self.page(path, width=width) as page:
                    self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), width)

    def test_all_can_be_done_with_the_keyboard(self):
        with self.page("customers/") as page:
            reached = set()
            for _ in range(120):
                page.press("Tab")
                reached.add(
                    page.evaluate(
                        "((it) => it.name || it.getAttribute('href') || it.className || it.localName)"
                        "(document.activeElement)"
                    )
                )
            for name in ("customer", "from", "compare", "q", "usage-scroll", "summary"):
                self.assertIn(name, reached)
            self.assertTrue(any("export.csv" in each for each in reached))
            self.assertTrue(any("sort=" in each for each in reached))

    def test_a_chart_that_cannot_be_drawn_says_where_its_figures_are(self):
        with self.page() as page:
            page.call(
                "Page.addScriptToEvaluateOnNewDocument",
                source="Object.defineProperty(window, 'Chart', {value: null, writable: false})",
            )
            self.open(page, "")
            text = page.wait(
                "document.querySelector('[data-usage-chart-state]').innerText.includes('could not') && "
                "document.querySelector('[data-usage-chart-state]').innerText",
                "the message",
            )
            self.assertIn("Its figures are in the table below", text)
            page.errors.clear()  # the theme's own script wants its Chart

    @unittest.skipUnless(services.axe(), "no axe-core here: make browser")
    def test_axe_finds_nothing(self):
        script = services.axe().read_text()
        cases = [(path, 1280, dark) for path in TABS for dark in (False, True)]
        cases += [
            ("customers/", 360, False),
            ("customers/?customer=acme&customer=globex&compare=customers", 1280, True),
            ("?customer=acme&compare=previous", 1280, False), ("?period=century", 1280, False),
            ("?customer=nobody", 1280, True),
        ]  # fmt: skip
        for path, width, dark in cases:
            with (
                self.subTest(path=path, width=width, dark=dark),
                self.page(path, width=width, dark=dark) as page,
            ):
                page.evaluate(script)
                options = json.dumps(_AXE_OPTIONS)
                found = page.evaluate(f"axe.run('.usage', {options}).then((result) => result.violations)")
                said = [
                    f"{each['id']}: {each['help']}: {node['html'][:200]} {node['any'][:1]}"
                    for each in found
                    for node in each["nodes"]
                ]
                self.assertEqual(said, [])
                page.errors[:] = [each for each in page.errors if "status of 400" not in each]
