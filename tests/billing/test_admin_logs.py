"""The Logs page: filters together, how far it looks, the search, live mode, and a call's drawer."""

import itertools
import threading
import uuid
from datetime import timedelta
from decimal import Decimal
from unittest import mock, skipUnless

from django.db import connection
from django.test import Client, TransactionTestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.admin.keyset import MOST_NEW
from billing.admin.log_search import MOST_NAMED
from billing.booking import ledger
from billing.models import SpendLog
from customers.ids import uuid7_at
from customers.models import Customer, User
from customers.services import create_key
from tests import services
from tests.admin_pages import NOON, AdminTestCase, make_log, make_price
from tests.billing.making import book_calls, make_call

LOGS = "/admin/billing/spendlog/"


def ids_of(calls) -> list[uuid.UUID]:
    return [uuid.UUID(bytes=call.opened.call_id) for call in calls]


class ListTestCase(AdminTestCase):
    def page(self, query: str = ""):
        response = self.client.get(LOGS + query)
        self.assertEqual(response.status_code, 200)
        return response.context["cl"]

    def listed(self, query: str = "") -> list[SpendLog]:
        return self.page(query).result_list


class AmountFilterTests(ListTestCase):
    def test_both_ends_are_included(self):
        cheap, dear = (
            make_log(cost=Decimal(cost), latency_ms=ms) for cost, ms in (("0.1", 100), ("0.3", 900))
        )
        make_log(cost=Decimal("0.2"), latency_ms=500)
        make_log(cost=None, latency_ms=500)

        self.assertEqual(self.listed("?cost_min=0.3"), [dear])
        self.assertEqual(self.listed("?cost_max=0.1"), [cheap])
        self.assertEqual(self.listed("?latency_ms_min=900&latency_ms_max=900"), [dear])
        self.assertEqual(len(self.listed("?cost_min=0.100000001&cost_max=0.299999999")), 1)
        self.assertEqual(len(self.listed("?latency_ms_min=101&latency_ms_max=899")), 2)

    def test_what_is_no_amount_finds_nothing_and_is_told(self):
        make_log()
        cases = {
            "cost_min=x": "Cost in USD, the least: write a number.",
            "cost_max=-1": "Cost in USD, the most: write 0 or more.",
            "cost_min=0.0000000001": "write at most 9 decimal places",
            "latency_ms_max=99999999999": "write at most 2147483647",
            "cost_min=2&cost_max=1": "The least, 2, is more than the most, 1: swap them.",
            "cost_min=NaN": "write a number",
            "latency_ms_min=1.5": "write a number",
        }
        for query, message in cases.items():
            with self.subTest(query=query):
                response = self.client.get(f"{LOGS}?{query}")

                self.assertContains(response, message)
                self.assertEqual(response.context["cl"].result_list, [])
                self.assertIsNone(response.context["live"])


class TogetherTests(ListTestCase):
    """Every filter at once, each of which alone would find more."""

    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        cls.key, _ = create_key(alias="shop")
        cls.fields = {
            "customer": Customer.objects.create(id="ada"), "key": cls.key, "model": "o3", "session_id": "s-1",
            "user_id": "bob", "tags": ["blue"], "status": "failure", "usage_source": "partial",
            "client_tool": "curl", "streamed": True, "cost": Decimal("0.5"), "latency_ms": 700,
        }  # fmt: skip
        cls.now = timezone.now()
        cls.wanted = make_log(at=cls.now - timedelta(minutes=5), **cls.fields)
        others = {
            "customer": None, "key": None, "model": "gpt-4o", "session_id": "", "user_id": None, "tags": [],
            "status": "success", "usage_source": "provider", "client_tool": "", "streamed": False,
            "cost": Decimal(3), "latency_ms": 9_000,
        }  # fmt: skip
        for name, value in others.items():
            make_log(at=cls.now - timedelta(minutes=4), **{**cls.fields, name: value})
        make_log(at=cls.now - timedelta(hours=3), **cls.fields)
        cls.query = (
            f"?customer=ada&key__id__exact={cls.key.pk}&model=o3&session=s-1&user=bob&tag=blue"
            "&status__exact=failure&usage=partial&client_tool=curl&streamed__exact=1&cost_min=0.1&cost_max=1"
            "&latency_ms_min=500&latency_ms_max=1000&period=1h"
        )

    def test_all_narrow_each_other(self):
        self.assertEqual(self.listed(self.query), [self.wanted])

    def test_also_with_the_search(self):
        self.assertEqual(self.listed(f"{self.query}&q=s-1"), [self.wanted])
        self.assertEqual(self.listed(f"{self.query}&q=s-2"), [])

    def test_all_stay_in_the_address_of_every_link(self):
        response = self.client.get(LOGS + self.query)

        context = response.context
        links = [period["url"] for period in context["periods"]]
        for name in ("customer=ada", "cost_min=0.1", "latency_ms_max=1000", "session=s-1"):
            self.assertTrue(all(name in link for link in links), name)
            self.assertIn(name, context["live"]["query"])
        self.assertEqual(
            [period["label"] for period in context["periods"] if period["is_chosen"]], ["Last hour"]
        )
        without = {each["text"]: each["url"] for each in context["chosen"]}
        self.assertEqual(len(without), 13)
        self.assertNotIn("cost_m", without["cost in USD: 0.1 to 1"])

    def test_a_period_is_up_to_now_or_whole_days(self):
        yesterday = self.now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(milliseconds=1)
        last = make_log(at=yesterday, model="of-yesterday")

        self.assertEqual(self.listed("?period=yesterday&model=of-yesterday"), [last])
        self.assertEqual(self.listed("?period=today&model=of-yesterday"), [])
        self.assertEqual(self.listed("?period=7d&model=of-yesterday"), [last])
        self.assertEqual(self.listed("?period=century"), [])


class LookBackTests(ListTestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        cls.old = make_log(at=NOON, cost=None, model="rare", session_id="s")
        cls.logs = [make_log(at=NOON + timedelta(minutes=minute)) for minute in range(1, 7)]

    def setUp(self) -> None:
        super().setUp()
        for name in ("LOOKED_AT", "LOOKED_AT_SCATTERED"):
            patch = mock.patch(f"billing.admin.keyset.{name}", 3)
            patch.start()
            self.addCleanup(patch.stop)

    def test_a_filter_without_an_index_says_how_far_it_looked_and_offers_to_look_further(self):
        response = self.client.get(f"{LOGS}?usage=unpriced")

        cl = response.context["cl"]
        self.assertEqual(cl.result_list, [])
        self.assertEqual((cl.looked_back.calls, cl.looked_back.since), (3, NOON + timedelta(minutes=3)))
        self.assertContains(response, "Looked through the newest 3 calls,")
        self.assertContains(response, "back to 2026-03-10 12:03 UTC")

        self.assertEqual(self.listed(cl.looked_back.further_url), [self.old])

    def test_who_looks_from_an_end_date_looks_as_far_from_there(self):
        end = (NOON + timedelta(minutes=3)).isoformat().replace("+", "%2B")

        self.assertEqual(self.listed(f"?usage=unpriced&started_at_to={end}"), [self.old])

    def test_what_an_index_finds_is_found_however_far(self):
        for query in ("model=rare", "session=s", "q=s"):
            with self.subTest(query=query):
                cl = self.page(f"?{query}")

                self.assertEqual((cl.result_list, cl.looked_back), ([self.old], None))

    def test_a_full_page_says_nothing(self):
        with mock.patch("billing.admin.spend_log.SpendLogAdmin.list_per_page", 2):
            cl = self.page("?usage=provider")
            older = self.page(cl.paginator.older_url)

        self.assertIsNone(cl.looked_back)
        self.assertEqual([log.pk for log in cl.result_list], [log.pk for log in self.logs[:-3:-1]])
        self.assertEqual([log.pk for log in older.result_list], [log.pk for log in self.logs[-3:-5:-1]])

    def test_the_way_back_passes_calls_that_do_not_match(self):
        newest = make_log(at=NOON + timedelta(hours=1), cost=None)

        cl = self.page(f"?usage=unpriced&after={self.old.pk}")

        self.assertEqual(cl.result_list, [])
        for _ in range(3):
            if cl.paginator.newer_url is None:
                break
            cl = self.page(cl.paginator.newer_url)
        self.assertEqual(cl.result_list, [newest])

    def test_of_two_filters_the_window_is_counted_in_calls_of_the_first(self):
        cl = self.page("?model=gpt-4o&usage=unpriced")

        self.assertEqual((cl.looked_back.calls, cl.looked_back.of), (3, "model"))


class SearchTests(ListTestCase):
    def test_it_finds_a_call_by_any_of_its_ids(self):
        key, _ = create_key(alias="shop-east")
        wanted = make_log(
            customer=Customer.objects.create(id="acme-north"), key=key, session_id="session-1",
            response_id="resp_1", client_call_id="client-1",
        )  # fmt: skip
        make_log(at=NOON + timedelta(hours=1), customer_id="globex", session_id="session-2")
        id_ = str(wanted.pk)
        for text in (
            id_, id_.upper(), id_.replace("-", ""), id_[:9], id_[:18], "acme-north", "acme", "shop-east",
            "shop", "session-1", "resp_1", "client-1", "  resp_1 ",
        ):  # fmt: skip
            with self.subTest(text=text):
                self.assertEqual(self.listed(f"?q={text}"), [wanted])

    def test_what_is_no_id_finds_nothing(self):
        make_log()
        for text in ("nonsense", "0199", "session-", "resp", "%25", "' OR 1=1 --", "x" * 300):
            with self.subTest(text=text):
                self.assertEqual(self.listed(f"?q={text}"), [])

    def test_a_customer_without_a_row_is_found_by_its_whole_id(self):
        wanted = make_log(customer_id="only-failed", status="failure")

        self.assertEqual(self.listed("?q=only-failed"), [wanted])
        self.assertEqual(self.listed("?q=only"), [])

    def test_it_pages_through_calls_of_several_customers_in_order(self):
        for number in range(3):
            Customer.objects.create(id=f"acme-{number}")
        logs = [
            make_log(at=NOON + timedelta(seconds=second), customer_id=f"acme-{second % 3}")
            for second in range(120)
        ]

        first = self.page("?q=acme")
        second = self.page(first.paginator.older_url)
        third = self.page(second.paginator.older_url)
        back = self.page(third.paginator.newer_url)

        pages = [[log.pk for log in cl.result_list] for cl in (first, second, third)]
        self.assertEqual(list(itertools.chain(*pages)), [log.pk for log in reversed(logs)])
        self.assertEqual(back.result_list, second.result_list)

    def test_its_queries_do_not_grow_with_what_begins_alike(self):
        def queries_of_search(customers: range) -> int:
            Customer.objects.bulk_create(Customer(id=f"many-{number:03}") for number in customers)
            with CaptureQueriesContext(connection) as queries:
                self.listed("?q=many")
            return len(queries)

        few = queries_of_search(range(MOST_NAMED))

        self.assertEqual(queries_of_search(range(MOST_NAMED, 5 * MOST_NAMED)), few)
        self.assertLess(few, 2 * MOST_NAMED + 1)


class LiveTests(ListTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = timezone.now()

    def open(self, query: str = "") -> dict:
        """Load the page; return what its script is told."""
        return self.client.get(LOGS + query).context["live"]

    def ask(self, live: dict, booked: int | None = None) -> dict:
        booked = live["booked"] if booked is None else booked
        response = self.client.get(f"{live['url']}{live['query']}&booked={booked}")
        self.assertEqual(response.status_code, 200)
        return response.json()

    def new(self, live: dict) -> list[str]:
        """Ask, and return what the page does not show, as its script does."""
        return [id_ for id_ in self.ask(live)["calls"] or [] if id_ not in live["shown"]]

    def call(self, *, seconds_ago: float = 0, **fields):
        return make_call(at=self.now - timedelta(seconds=seconds_ago), **fields)

    def book(self, *calls) -> list[str]:
        book_calls(*calls)
        return [str(id_) for id_ in ids_of(calls)]

    def test_while_nothing_is_booked_the_log_is_not_asked(self):
        self.book(self.call())
        live = self.open()

        with self.assertNumQueries(3):  # session, user, what was booked
            answer = self.ask(live)

        self.assertEqual(answer, {"booked": 1, "calls": None, "is_more": False})

    def test_a_new_call_is_told_until_it_is_shown(self):
        self.book(self.call(seconds_ago=9))
        live = self.open()
        new = self.book(self.call())

        answer = self.ask(live)
        self.assertEqual((self.new(live), answer["booked"]), (new, 2))
        self.assertIsNone(self.ask(live, booked=answer["booked"])["calls"])
        self.assertEqual(self.new(self.open()), [])

    def test_a_long_call_that_ends_late_is_told_though_it_stands_below_others(self):
        self.book(self.call(seconds_ago=1_500), self.call(seconds_ago=1))
        live = self.open()

        late = self.book(self.call(seconds_ago=1_200))

        self.assertEqual(self.new(live), late)
        self.assertIn(late[0], self.open()["shown"])

    def test_what_would_not_stand_on_the_page_is_not_told(self):
        self.book(*(self.call(seconds_ago=second) for second in range(60)))
        live = self.open()

        self.book(self.call(seconds_ago=3_600))

        self.assertEqual(self.new(live), [])
        self.assertEqual(len(self.ask(live)["calls"]), 49)  # the last one is where it looks from

    def test_it_tells_only_calls_that_pass_the_filters(self):
        self.book(self.call(seconds_ago=9, customer_id="ada"))
        for query in ("?customer=ada", "?cost_min=0.4", "?q=ada", "?tag=blue", "?period=1h&model=gpt-4o"):
            with self.subTest(query=query):
                live = self.open(query)
                new = self.book(self.call(customer_id="ada", tags=["blue"]))
                self.book(self.call(customer_id="bea", cost_usd="0.1", model="o3"))

                self.assertEqual(self.new(live), new)

    def test_the_calls_of_others_do_not_make_it_ask_the_log(self):
        self.book(self.call(customer_id="ada", tags=["blue"], team_id="red", user_id="bob"))
        for query in ("?customer=ada", "?tag=blue", "?team__id__exact=red", "?user=bob"):
            live = self.open(query)
            self.book(self.call(customer_id="bea"))

            with self.subTest(query=query):
                self.assertIsNone(self.ask(live)["calls"])

    def test_a_list_that_was_empty_is_told_of_its_first_call(self):
        live = self.open("?customer=ada&cost_min=0.1")

        new = self.book(self.call(customer_id="ada"))

        self.assertEqual(self.new(live), new)

    def test_more_than_can_be_told_are_said_to_be_more(self):
        live = self.open()
        self.book(*(self.call(seconds_ago=second) for second in range(50 + MOST_NEW)))

        answer = self.ask(live)

        self.assertEqual((len(answer["calls"]), answer["is_more"]), (50 + MOST_NEW, True))

    def test_only_the_first_page_is_live(self):
        log = make_log()

        self.assertIsNone(self.open(f"?before={log.pk}"))
        self.assertIsNone(self.open(f"?after={log.pk}"))

    def test_nonsense_is_answered(self):
        self.assertEqual(self.client.get(f"{LOGS}live/?above=x&booked=y").status_code, 200)
        self.assertEqual(self.client.get(f"{LOGS}live/?key__id__exact=x").status_code, 400)

    def test_charlie_is_told_nothing(self):
        self.log_in_charlie()

        self.assertEqual(self.client.get(f"{LOGS}live/").status_code, 403)
        self.client.logout()
        self.assertEqual(self.client.get(f"{LOGS}live/").status_code, 302)


@skipUnless(services.is_postgresql(), "SQLite has one writer: what commits late has begun late")
class LateCommitTests(TransactionTestCase):
    """Two recorders at once: the one that wrote its calls first commits last (E2)."""

    def setUp(self) -> None:
        self.client = Client()
        alice = User.objects.create_superuser("alice", password="correct horse")
        self.client.force_login(alice, backend="django.contrib.auth.backends.ModelBackend")
        self.has_written, self.may_commit = threading.Event(), threading.Event()

    def book_slowly(self, call) -> None:
        """Book in a connection of its own; wait between the call's row and the totals."""
        add_totals = ledger._add_totals

        def wait_and_add(*arguments):
            if threading.current_thread() is self.slow:
                self.has_written.set()
                self.may_commit.wait(30)
            return add_totals(*arguments)

        def run() -> None:
            try:
                book_calls(call)
            finally:
                connection.close()

        patch = mock.patch.object(ledger, "_add_totals", wait_and_add)
        patch.start()
        self.addCleanup(patch.stop)
        self.slow = threading.Thread(target=run)
        self.slow.start()
        self.addCleanup(self.slow.join)
        self.addCleanup(self.may_commit.set)
        self.assertTrue(self.has_written.wait(30))

    def test_a_call_that_commits_after_a_later_one_was_told_is_told_too(self):
        now = timezone.now()
        first, slow, quick = (make_call(at=now + timedelta(seconds=second)) for second in (0, 1, 2))
        book_calls(first)
        live = self.client.get(LOGS).context["live"]
        self.book_slowly(slow)
        book_calls(quick)

        told = self.ask(live, live["booked"])
        self.assertEqual(told["calls"], self.ids(quick, first))
        self.may_commit.set()
        self.slow.join(30)

        self.assertEqual(self.ask(live, told["booked"])["calls"], self.ids(quick, slow, first))

    def ask(self, live: dict, booked: int) -> dict:
        return self.client.get(f"{live['url']}{live['query']}&booked={booked}").json()

    def ids(self, *calls) -> list[str]:
        return [str(id_) for id_ in ids_of(calls)]


class DrawerTests(AdminTestCase):
    def drawer(self, log: SpendLog):
        return self.client.get(f"{LOGS}{log.pk}/drawer/")

    def test_it_tells_cost_time_attempts_tags_and_the_session(self):
        price = make_price()
        log = make_log(
            price=price, cost=Decimal("0.0025"), charge=Decimal("0.003"), input_uncached=1_000,
            session_id="s-1", tags=["blue"], latency_ms=3_000, first_token_ms=1_000, output_text=0,
            attempts=[{"upstream": "one", "status": 529}, {"upstream": "two", "status": 200}],
        )  # fmt: skip
        other = make_log(at=NOON + timedelta(seconds=1), session_id="s-1", model="of-the-session")
        make_log(at=NOON + timedelta(seconds=2), session_id="s-2", model="of-another")

        response = self.drawer(log)

        for text in ("equals the cost of this call", "$0.003", "2,000 ms", "529", "blue", "of-the-session"):
            self.assertContains(response, text)
        self.assertContains(response, f"{LOGS}{other.pk}/change/")
        self.assertContains(response, "?session=s-1")
        self.assertNotContains(response, "of-another")
        self.assertNotContains(response, "<html")

    def test_it_says_why_a_call_was_refused(self):
        refusal = {
            "scope": "customer", "id": "ada", "limit": "1", "spent": "1", "held": "0", "provisional": "0",
            "hold": "0.1", "mode": "strict",
        }  # fmt: skip
        log = make_log(
            status="refused", usage_source="none", customer_id="ada", metadata={"refusal": refusal}
        )

        self.assertContains(self.drawer(log), "was used up")

    def test_a_long_session_is_told_in_part(self):
        logs = [make_log(at=NOON + timedelta(seconds=second), session_id="s-1") for second in range(12)]
        self.drawer(logs[0])

        with self.assertNumQueries(5):  # session, user, the call, its corrections, its session
            response = self.drawer(logs[0])

        self.assertContains(response, "All of them, in the logs")
        self.assertContains(response, f"{logs[11].pk}/change/")
        self.assertNotContains(response, f"{logs[1].pk}/change/")

    def test_rates_are_of_the_time_after_the_first_token(self):
        log = make_log(latency_ms=3_000, first_token_ms=1_000, output_text=500)

        self.assertEqual(self.drawer(log).context["timing"].rate, "250 tokens a second")
        self.assertEqual(self.drawer(make_log(latency_ms=0, first_token_ms=0)).status_code, 200)

    def test_a_call_that_is_not_there_is_said_so(self):
        self.assertEqual(self.client.get(f"{LOGS}{uuid7_at(0)}/drawer/").status_code, 404)

    def test_charlie_sees_no_drawer(self):
        log = make_log()
        self.log_in_charlie()

        self.assertEqual(self.drawer(log).status_code, 403)


class EmptyTests(AdminTestCase):
    def test_a_fresh_installation_shows_the_first_call_to_make(self):
        response = self.client.get(LOGS)

        self.assertContains(response, "No logs yet")
        self.assertContains(response, "/v1/chat/completions")

    def test_a_filter_that_finds_nothing_shows_all_instead(self):
        response = self.client.get(f"{LOGS}?customer=ada")

        self.assertContains(response, "Nothing matches")
        self.assertNotContains(response, "/v1/chat/completions")
