"""The Logs page in a real browser: live mode, the drawer, filters by keyboard; and bars that keep live."""

from datetime import datetime, timedelta
from decimal import Decimal

from django.urls import reverse
from django.utils import timezone

from billing.budgets.bars import allowances
from billing.budgets.periods import ensure_periods
from customers.models import Budget, Customer
from tests.admin_pages import make_price
from tests.billing.making import book_calls, make_call
from tests.browser.chromium import Page
from tests.browser.pages import BrowserTestCase, needs_axe

LOGS = "/admin/billing/spendlog/"
SHOW = "document.querySelector('[data-logs-show]')"
STATE = "document.querySelector('[data-logs-state]').innerText"
DRAWER = "document.querySelector('.logs-drawer')"
FACTS = "document.querySelector('.logs-drawer .logs-facts')?.innerText"
FIRST_CALL = "document.querySelector('#result_list tbody .field-time a')"
FOCUS = "document.activeElement"
# Pages wait for seconds between two questions; tests need not.
IN_A_HURRY = (
    "{ const wait = setTimeout; window.setTimeout = (run, ms, ...rest) => wait(run, ms / 20, ...rest); }"
)
COUNTS_FETCHES = "{ const ask = fetch; window.asked = 0; window.fetch = (...all) => (asked++, ask(...all)); }"
COUNTS_TIMERS = (
    "{ const wait = setTimeout; window.timers = 0;"
    " window.setTimeout = (...all) => (timers++, wait(...all)); }"
)
SEEN_OR_NOT = (
    "((state) => { Object.defineProperty(document, 'visibilityState', {value: state, configurable: true});"
    " timers = 0; document.dispatchEvent(new Event('visibilitychange')); return timers; })"
)


class LogsInABrowser(BrowserTestCase):
    """Each test has a customer of its own: what others book is not on its pages."""

    @classmethod
    def make_rows(cls) -> None:
        cls.price = make_price()

    def setUp(self) -> None:
        self.now = timezone.now()
        self.customer = self._testMethodName[5:60]
        self.logs = f"{LOGS}?customer={self.customer}"

    def book(self, *, at: datetime | None = None, **fields) -> None:
        book_calls(make_call(at=at or timezone.now(), customer_id=self.customer, **fields))

    def models(self, page: Page) -> list[str]:
        return page.evaluate("[...document.querySelectorAll('td.field-model')].map((each) => each.innerText)")

    def wait_offer(self, page: Page) -> str:
        return page.wait(f"!{SHOW}.hidden && {SHOW}.innerText", "new calls to be offered")

    # -- live mode -------------------------------------------------------------------------

    def test_new_calls_are_offered_and_shown_where_they_belong(self):
        self.book(model="first", at=self.now - timedelta(seconds=60))
        self.book(model="second", at=self.now - timedelta(seconds=20))
        with self.page(self.logs, before=IN_A_HURRY) as page:
            loads = page.loads
            self.assertTrue(page.evaluate(f"{SHOW}.hidden"))
            self.book(model="newest")
            self.book(model="long", at=self.now - timedelta(seconds=40))  # began before others, ended last

            page.wait(f"{SHOW}.innerText.startsWith('2 new calls')", "both calls to be offered")
            said = page.evaluate("document.querySelector('[role=status][data-logs-said]').innerText")
            self.assertEqual(said, "New calls are there to be shown.")
            page.evaluate(f"{SHOW}.focus()")
            page.press("Enter")
            page.wait("document.querySelectorAll('tr.is-new').length === 2", "the new calls")

            self.assertEqual(self.models(page), ["newest", "second", "long", "first"])
            self.assertTrue(page.evaluate(f"{SHOW}.hidden"))
            page.wait(f"!!{FOCUS}.closest('tr.is-new')", "the focus on the newest of them")
            self.assertEqual(page.loads, loads)
            # It goes on from what it shows now.
            self.book(model="newer still")
            self.assertTrue(self.wait_offer(page).startswith("1 new call "))

    def test_an_empty_list_gets_its_first_call(self):
        with self.page(self.logs, before=IN_A_HURRY) as page:
            self.book(model="the very first")
            self.wait_offer(page)
            page.evaluate(f"{SHOW}.click()")

            page.wait(FIRST_CALL, "the call")
            self.assertEqual(self.models(page), ["the very first"])

    def test_paused_it_asks_nothing_until_it_goes_on(self):
        self.book()
        with self.page(self.logs, before=COUNTS_FETCHES + COUNTS_TIMERS) as page:
            page.evaluate("document.querySelector('[data-logs-pause]').focus()")
            page.press("Space")
            self.assertEqual(page.evaluate(f"asked = 0, {STATE}"), "Paused")
            self.assertEqual(
                page.evaluate("document.querySelector('[data-logs-pause]').getAttribute('aria-pressed')"),
                "true",
            )
            self.book()
            self.assertEqual(page.evaluate(f"{SEEN_OR_NOT}('visible')"), 0)
            self.assertEqual(page.evaluate("asked"), 0)
            # It stays so on the next page of the list.
            loads = page.loads
            page.evaluate("location.reload()")
            page.wait_load(loads)
            self.assertEqual(page.evaluate(STATE), "Paused")
            self.book()

            page.press("Tab")
            page.evaluate("document.querySelector('[data-logs-pause]').click()")
            page.evaluate(f"{SEEN_OR_NOT}('visible')")
            self.assertTrue(self.wait_offer(page).startswith("1 new call "))

    def test_while_nobody_looks_it_asks_nothing(self):
        self.book()
        with self.page(self.logs, before=COUNTS_TIMERS) as page:
            self.assertEqual(page.evaluate(f"{SEEN_OR_NOT}('hidden')"), 0)
            self.book()

            self.assertEqual(page.evaluate(f"{SEEN_OR_NOT}('visible')"), 1)
            self.assertTrue(self.wait_offer(page).startswith("1 new call "))

    def test_it_says_so_when_it_cannot_ask_and_goes_on_when_it_can(self):
        self.book()
        with self.page(self.logs, before=IN_A_HURRY) as page:
            page.call("Network.setBlockedURLs", urls=["*/live/*"])
            page.wait(f"{STATE}.startsWith('Not live: trying again in')", "the trouble to be told")
            page.call("Network.setBlockedURLs", urls=[])
            self.book()

            self.assertTrue(self.wait_offer(page).startswith("1 new call "))
            self.assertEqual(page.evaluate(STATE), "Live")
            page.errors[:] = [each for each in page.errors if "ERR_BLOCKED_BY_CLIENT" not in each]

    # -- the drawer ------------------------------------------------------------------------

    def book_session(self) -> None:
        closed = {"price_id": self.price.pk, "first_token_us": 500_000}
        self.book(model="gpt-4o", tags=["search"], session_id=self.customer, closed=closed)
        self.book(model="o3", session_id=self.customer, at=self.now - timedelta(seconds=9))

    def test_a_row_opens_it_and_escape_leads_back(self):
        self.book_session()
        with self.page(self.logs) as page:
            loads = page.loads
            page.evaluate("document.querySelector('#result_list tbody .field-latency').click()")

            facts = page.wait(FACTS, "the call")
            for text in (self.customer, "gpt-4o", "1,000 / 200", "search", "$0.50"):
                self.assertIn(text, facts)
            text = page.evaluate(f"{DRAWER}.innerText")
            for heading in ("Cost", "Timing", "Other calls of the session"):
                self.assertIn(heading, text)
            self.assertIn("o3", text)
            self.assertTrue(page.evaluate(f"{DRAWER}.contains({FOCUS})"))
            page.press("Escape")
            self.assertFalse(page.evaluate(f"{DRAWER}.open"))
            self.assertTrue(page.evaluate(f"{FOCUS} === {FIRST_CALL}"))
            self.assertEqual(page.loads, loads)

    def test_the_keyboard_opens_and_closes_it(self):
        self.book_session()
        with self.page(self.logs) as page:
            page.evaluate(f"{FIRST_CALL}.focus()")
            page.press("Enter")
            page.wait(FACTS, "the call")
            page.wait(f"{FOCUS}.hasAttribute('data-drawer-close')", "the focus on its way out")
            page.press("Enter")

            self.assertFalse(page.evaluate(f"{DRAWER}.open"))
            self.assertTrue(page.evaluate(f"{FOCUS} === {FIRST_CALL}"))

    def test_links_are_left_to_the_browser(self):
        self.book_session()
        prevented = (
            "((element, options) => { let was; addEventListener('click', (event) => {"
            " was = event.defaultPrevented; event.preventDefault(); }, {once: true});"
            " element.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true, ...options}));"
            " return was; })"
        )
        with self.page(self.logs) as page:
            customer = "document.querySelector('td.field-customer_id_link a')"
            self.assertFalse(page.evaluate(f"{prevented}({FIRST_CALL}, {{ctrlKey: true}})"))
            self.assertFalse(page.evaluate(f"{prevented}({customer}, {{}})"))
            self.assertFalse(page.evaluate(f"{DRAWER}.open"))
            self.assertTrue(page.evaluate(f"{prevented}({FIRST_CALL}, {{}})"))
            # Without the script the link leads to the call's page.
            self.assertRegex(page.evaluate(f"{FIRST_CALL}.pathname"), r"/spendlog/[0-9a-f-]{36}/change/$")

    def test_a_call_that_cannot_be_loaded_has_a_way_on(self):
        self.book_session()
        with self.page(self.logs) as page:
            page.call("Network.setBlockedURLs", urls=["*/drawer/"])
            page.evaluate(f"{FIRST_CALL}.click()")
            page.wait(f"{DRAWER}.innerText.includes('could not be loaded')", "the trouble to be told")
            self.assertRegex(page.evaluate(f"{DRAWER}.querySelector('a').pathname"), "/change/$")

            page.call("Network.setBlockedURLs", urls=[])
            page.evaluate(f"{DRAWER}.querySelector('[data-drawer-again]').click()")
            page.wait(FACTS, "the call")
            page.errors[:] = [each for each in page.errors if "ERR_BLOCKED_BY_CLIENT" not in each]

    def test_on_a_narrow_screen_it_is_the_screen(self):
        self.book_session()
        with self.page(self.logs, width=360) as page:
            page.evaluate(f"{FIRST_CALL}.click()")
            page.wait(FACTS, "the call")

            body = f"{DRAWER}.firstChild"
            self.assertEqual(page.evaluate(f"{DRAWER}.getBoundingClientRect().width"), 360)
            self.assertLessEqual(page.evaluate(f"{body}.scrollWidth"), page.evaluate(f"{body}.clientWidth"))

    # -- the page --------------------------------------------------------------------------

    def test_filters_are_reached_and_applied_with_the_keyboard(self):
        self.book(cost_usd="0.1")
        self.book(cost_usd="0.9", model="dear")
        with self.page(self.logs) as page:
            page.evaluate("document.querySelector('.change-list [role=button]').focus()")
            page.press("Enter")
            page.wait(f"!!{FOCUS}.closest('#filter-form')", "the focus in the filters")
            page.type("#filter-form [name=cost_min]", "0.5")
            loads = page.loads
            page.press("Enter")
            page.wait_load(loads)

            self.assertEqual(self.models(page), ["dear"])
            self.assertEqual(self.address(page), f"{self.logs}&cost_min=0.5")
            page.click('[aria-label="Remove the filter cost in USD: from 0.5"]')
            self.assertEqual(len(self.models(page)), 2)

    def test_no_width_scrolls_sideways(self):
        self.book(tags=["x" * 200], model="m" * 200, session_id="s" * 200)
        for query in ("", "&cost_min=x&period=today"):
            with self.subTest(query=query), self.page(self.logs + query) as page:
                self.assert_no_width_scrolls_sideways(page)

    @needs_axe
    def test_axe_finds_nothing(self):
        self.book(session_id="of-axe", tags=["a"], closed={"first_token_us": 500_000})
        self.book(session_id="of-axe", closed={"status": "failure", "error_message": "It failed."})
        for query in ("", "&model=none", "&cost_min=x"):
            with self.subTest(query=query), self.page(self.logs + query) as page:
                self.assert_axe_finds_nothing(page, "#content-main")
        with self.page(self.logs) as page:
            page.evaluate(f"{FIRST_CALL}.click()")
            page.wait(FACTS, "the call")
            self.assert_axe_finds_nothing(page, ".logs-drawer")

    # -- `data-live`, with the bars of a customer's budget ------------------------------------

    bars = "document.querySelector('[data-live]')"

    def make_budgeted(self) -> str:
        """Make the customer with a budget and spend of it; return the address of its page."""
        budget = Budget.objects.create(id=self.customer, max_budget=Decimal(100), budget_duration="1d")
        Customer.objects.create(id=self.customer, budget=budget)
        limit = allowances(budget)[0]
        ensure_periods([limit.period(("customer", self.customer), self.now)])
        return reverse("admin:customers_customer_change", args=[self.customer])

    def test_bars_follow_what_is_booked(self):
        with self.page(self.make_budgeted(), before=IN_A_HURRY) as page:
            loads = page.loads
            self.book(cost_usd="1.25")

            page.wait(f"{self.bars}.innerText.includes('$1.25')", "the spend")
            self.assertEqual(page.loads, loads)

    def test_bars_keep_still_under_somebody_s_keyboard(self):
        with self.page(self.make_budgeted(), before=IN_A_HURRY + COUNTS_FETCHES) as page:
            page.evaluate(f"{self.bars}.querySelector('a').focus()")
            self.book(cost_usd="1.25")
            page.evaluate("asked = 0")
            page.wait("asked >= 3", "it to have asked")
            self.assertNotIn("$1.25", page.evaluate(f"{self.bars}.innerText"))

            page.evaluate(f"{FOCUS}.blur()")
            page.wait(f"{self.bars}.innerText.includes('$1.25')", "the spend")
