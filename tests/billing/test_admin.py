"""The admin of logs, prices, totals, and the overview."""

import re
from datetime import timedelta
from decimal import Decimal

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import (
    BudgetPeriod,
    DeliveryLane,
    HolderType,
    JournalCheckpoint,
    Price,
    ReconcileRun,
    SpendLog,
    SpendTotal,
)
from billing.prices.pricing import resolve
from billing.usage import Usage
from billing.webhooks.endpoints import create_endpoint
from customers.models import Customer, Team
from customers.money import from_nano
from customers.services import create_key
from tests.admin_pages import NOON, AdminTestCase, make_log, make_price
from tests.billing.making import book_calls, make_call


class PagesTests(AdminTestCase):
    def test_every_page_answers_while_there_is_nothing(self):
        self.assert_every_page_answers("billing")

    def test_every_page_answers_with_rows(self):
        make_log(price=make_price())
        SpendTotal.objects.create(holder_type=HolderType.TEAM_MEMBER, holder_id="research\nbob")
        JournalCheckpoint.objects.create(journal_id="01890000-0000-7000-8000-000000000000")

        self.assert_every_page_answers("billing")

    def test_ledgers_refuse_add_change_and_delete(self):
        log = make_log()
        total = SpendTotal.objects.create(holder_type=HolderType.GATEWAY, holder_id="gateway")
        for row in (log, total):
            model = type(row)
            with self.subTest(model=model.__name__):
                self.assertEqual(self.client.get(self.url(model, "add")).status_code, 403)
                self.assertEqual(self.client.post(self.url(model, "change", row.pk), {}).status_code, 403)
                self.assertEqual(self.client.post(self.url(model, "delete", row.pk)).status_code, 403)


class LogsTests(AdminTestCase):
    def listed(self, query: str = "") -> list[SpendLog]:
        response = self.client.get(self.url(SpendLog, "changelist") + query)
        self.assertEqual(response.status_code, 200)
        return response.context["cl"].result_list

    def test_it_never_counts_and_makes_two_queries_for_the_page(self):
        for second in range(3):
            make_log(at=NOON + timedelta(seconds=second))
        self.listed()

        with CaptureQueriesContext(
            connection,
        ) as queries:
            self.listed()

        # session, user, what was booked, the last month that was dropped, the page's ids, its calls
        self.assertEqual(len(queries), 6)
        self.assertFalse([query for query in queries if "COUNT(" in query["sql"].upper()])

    def test_it_pages_by_key_newest_first_and_back(self):
        logs = [make_log(at=NOON + timedelta(seconds=second)) for second in range(120)]
        newest_first = [log.pk for log in reversed(logs)]

        first = self.client.get(self.url(SpendLog, "changelist")).context["cl"]
        second = self.client.get(self.url(SpendLog, "changelist") + first.paginator.older_url).context["cl"]
        third = self.client.get(self.url(SpendLog, "changelist") + second.paginator.older_url).context["cl"]
        back = self.client.get(self.url(SpendLog, "changelist") + third.paginator.newer_url).context["cl"]

        pages = [[log.pk for log in page.result_list] for page in (first, second, third, back)]
        self.assertEqual(
            pages, [newest_first[:50], newest_first[50:100], newest_first[100:], newest_first[50:100]]
        )
        self.assertIsNone(first.paginator.newer_url)
        self.assertIsNone(third.paginator.older_url)

    def test_a_cursor_that_is_none_is_the_first_page(self):
        log = make_log()

        self.assertEqual(self.listed("?before=nonsense"), [log])

    def test_an_unpriced_call_is_never_shown_as_0(self):
        make_log(cost=None, charge=None, input_uncached=10)

        response = self.client.get(self.url(SpendLog, "changelist"))

        self.assertContains(response, "unpriced")
        self.assertNotContains(response, "$0.00")

    def test_each_filter_finds_its_calls(self):
        now = timezone.now()
        team = Team.objects.create(id="research")
        key, _ = create_key(alias="shop", team=team)
        make_log(at=now)
        wanted = make_log(
            at=now - timedelta(hours=1), customer=Customer.objects.create(id="ada"), key=key, team=team,
            model="o3", status="failure", usage_source="estimated", tags=["blue"], streamed=True,
        )  # fmt: skip
        queries = (
            "customer=ada", f"key__id__exact={key.pk}", "team__id__exact=research", "model=o3", "tag=blue",
            "status__exact=failure", "usage=estimated", "streamed__exact=1", f"q={wanted.pk}",
        )  # fmt: skip
        for query in queries:
            with self.subTest(query=query):
                self.assertEqual(self.listed(f"?{query}"), [wanted])

    def test_a_form_with_empty_fields_filters_nothing(self):
        log = make_log()
        empty = (
            "?customer=&key__id__exact=&team__id__exact=&model=&tag=&status__exact=&usage=&streamed__exact="
        )

        response = self.client.get(
            self.url(SpendLog, "changelist") + empty + "&started_at_from=&started_at_to="
        )

        self.assertEqual(response.context["cl"].result_list, [log])
        self.assertFalse(response.context["cl"].has_active_filters)

    def test_nonsense_in_a_filter_finds_nothing(self):
        make_log()

        for query in ("customer=%00", "model=a%0Ab", "tag=%00", "session=%00", "q=nonsense"):
            with self.subTest(query=query):
                self.assertEqual(self.listed(f"?{query}"), [])

    def test_unpriced_is_a_state_of_its_own(self):
        now = timezone.now()
        priced, unpriced = make_log(at=now), make_log(at=now, cost=None, charge=None)

        self.assertEqual(self.listed("?usage=unpriced"), [unpriced])
        self.assertEqual(self.listed("?usage=provider"), [priced])

    def test_days_are_whole_and_both_included(self):
        midnight = NOON.replace(hour=0)
        before = make_log(at=midnight - timedelta(milliseconds=1))
        start, end = make_log(at=midnight), make_log(at=midnight + timedelta(days=1, milliseconds=-1))
        after = make_log(at=midnight + timedelta(days=1))

        self.assertEqual(self.listed("?started_at_from=2026-03-10&started_at_to=2026-03-10"), [end, start])
        self.assertEqual(self.listed("?started_at_from=2026-03-11"), [after])
        self.assertEqual(self.listed("?started_at_to=2026-03-09"), [before])

    def test_charlie_sees_no_log(self):
        log = make_log()
        self.log_in_charlie()

        self.assertEqual(self.client.get(self.url(SpendLog, "changelist")).status_code, 403)
        self.assertEqual(self.client.get(self.url(SpendLog, "change", log.pk)).status_code, 403)


class CallTests(AdminTestCase):
    usage = Usage(input_uncached=1_000, cache_read=10_000, output_text=333, web_searches=2)

    def page(self, log: SpendLog):
        return self.client.get(self.url(SpendLog, "change", log.pk))

    def test_it_explains_the_cost_to_the_last_digit(self):
        price = make_price(cache_read_per_mtok_usd=Decimal("1.25"), per_web_search_usd=Decimal("0.01"))
        cost = from_nano(resolve(price).cost_nano(self.usage))
        expected = (
            Decimal("2.5") * 1_000 / 1_000_000
            + Decimal("1.25") * 10_000 / 1_000_000
            + Decimal(10) * 333 / 1_000_000
            + Decimal("0.01") * 2
        )
        log = make_log(price=price, cost=cost, charge=cost, **self.usage._asdict())

        response = self.page(log)

        self.assertEqual(cost, expected)
        self.assertEqual(
            response.context["explanation"].table["rows"],
            [
                ["input uncached", "1,000", "$2.50 per million tokens", "$0.0025"],
                ["cache read", "10,000", "$1.25 per million tokens", "$0.0125"],
                ["output text", "333", "$10.00 per million tokens", "$0.00333"],
                ["web searches", "2", "$0.01 each", "$0.02"],
            ],
        )
        self.assertContains(response, "$0.03833")
        self.assertContains(response, "equals the cost of this call")
        self.assertContains(response, self.url(Price, "change", price.pk))

    def test_it_says_so_when_the_sum_is_not_the_cost(self):
        log = make_log(price=make_price(), cost=Decimal("0.1"), **self.usage._asdict())

        self.assertContains(self.page(log), "booked at another cost")

    def test_it_names_the_long_context_tier(self):
        tiers = [{"above_prompt_tokens": 5_000, "input_per_mtok_usd": "5"}]
        log = make_log(price=make_price(long_context_tiers=tiers), **self.usage._asdict())

        self.assertContains(self.page(log), "more than 5,000 prompt tokens")

    def test_an_unpriced_call_says_what_to_do(self):
        log = make_log(cost=None, charge=None, upstream_model="gpt-6", input_uncached=10)

        response = self.page(log)

        self.assertContains(response, "its cost is not known")
        self.assertContains(response, "/admin/billing/price/add/?provider=openai&amp;model=gpt-6")

    def test_a_call_that_used_nothing_cost_nothing(self):
        log = make_log(status="refused", usage_source="none")

        self.assertContains(self.page(log), "Nothing was used")

    def test_it_shows_every_attempt(self):
        attempts = [
            {"upstream": "one", "deployment_id": 1, "status": 529},
            {"upstream": "two", "error": "ConnectError"},
        ]

        response = self.page(make_log(attempts=attempts))

        self.assertContains(response, "529")
        self.assertContains(response, "ConnectError")

    def test_what_it_refers_to_may_be_gone(self):
        log = make_log(
            customer_id="gone", key_id="01890000-0000-7000-8000-000000000000", team_id="gone", user_id="gone",
            price_id=999_999_999,
        )  # fmt: skip

        self.assertContains(self.page(log), "is gone")
        self.assertEqual(self.client.get(self.url(SpendLog, "changelist")).status_code, 200)
        SpendLog.objects.all().delete()


class PriceTests(AdminTestCase):
    form = {"provider": "openai", "model": "gpt-6", "input_per_mtok_usd": "1", "long_context_tiers": ""}

    def test_a_row_is_read_and_never_edited_or_deleted(self):
        price = make_price()

        response = self.client.get(self.url(Price, "change", price.pk))

        self.assertNotContains(response, 'name="_save"')
        self.assertContains(response, "Add a new row that starts with these rates")
        self.assertEqual(self.client.post(self.url(Price, "change", price.pk), self.form).status_code, 403)
        self.assertEqual(self.client.post(self.url(Price, "delete", price.pk)).status_code, 403)

    def test_staff_add_rows_as_staff(self):
        self.client.post(self.url(Price, "add"), self.form)

        price = Price.objects.get()
        self.assertEqual((price.source, price.long_context_tiers), ("admin", []))

    def test_a_row_made_from_a_deployment_is_its_override(self):
        self.client.post(self.url(Price, "add"), {**self.form, "_popup": "1"})

        self.assertEqual(Price.objects.get().source, "deployment")

    def test_the_same_row_twice_is_an_error_on_the_form(self):
        for _ in range(2):
            response = self.client.post(self.url(Price, "add"), self.form)

        self.assertEqual(response.status_code, 200)
        self.assertEqual(Price.objects.count(), 1)

    def test_the_list_makes_a_fixed_number_of_queries(self):
        for model in ("a", "b", "c"):
            make_price(model=model)
        self.client.get(self.url(Price, "changelist"))

        with self.assertNumQueries(5):  # session, user, two counts, the page
            self.client.get(self.url(Price, "changelist"))


class OverviewTests(AdminTestCase):
    def test_without_calls_it_shows_the_first_one_to_try(self):
        response = self.client.get("/admin/")

        self.assertContains(response, "No call has been made yet")
        self.assertContains(response, "/v1/chat/completions")
        self.assertContains(response, "&quot;demo&quot;" if b"&quot;demo" in response.content else '"demo"')

    def test_it_adds_up_today_and_the_month_beside_the_month_before(self):
        today = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
        first = today.replace(day=1)
        before = (first - timedelta(days=1)).replace(day=1)
        after = before + (today - first) + timedelta(days=1)  # the day after the same days
        for at, cost in ((today, "1"), (before, "0.5"), (after, "10" if after < first else "0")):
            book_calls(make_call(at=at, cost_usd=cost))
        book_calls(make_call(at=today, cost_usd="0.000000001"), make_call(at=today, cost_usd=None))

        # Session, user, latest calls, days, totals, reconcile, overspend, then what to look at: lanes,
        # the last period, alerts; and the budgets, where there is a period.
        with CaptureQueriesContext(connection) as queries:
            response = self.client.get("/admin/")

        self.assertLessEqual(len(queries), 14)
        of_today, month, ever, unpriced, verified, _ = response.context["cards"]
        self.assertEqual((of_today["text"], of_today["title"]), ("$1.00", "$1.000000001"))
        self.assertEqual(month["title"], "$1.000000001")
        self.assertIn("+100 % from $0.500", month["note"])
        self.assertEqual(ever["title"], "$11.500000001" if after < first else "$1.500000001")
        self.assertEqual((unpriced["text"], verified["text"]), ("1", "not yet"))
        self.assertContains(response, "Nothing: no budget under way is at 80 %")

    def test_it_costs_the_same_however_much_there_is(self):
        book_calls(make_call(at=timezone.now()))
        self.make_period("9", holder_id="acme")
        self.client.get("/admin/")
        with CaptureQueriesContext(connection) as few:
            self.client.get("/admin/")
        book_calls(*(make_call(at=timezone.now(), customer_id=f"c{n}") for n in range(5)))
        for number in range(8):
            self.make_period("9", holder_id=f"c{number}")

        with self.assertNumQueries(len(few)):
            response = self.client.get("/admin/")

        self.assertEqual(len(response.context["noticed"]), 5 + 1)
        self.assertContains(response, "More budgets</a> are close")

    def make_period(self, spent: str, **fields):
        now = timezone.now()
        return BudgetPeriod.objects.create(**{
            "holder_type": "customer", "window": "1d", "starts_at": now - timedelta(hours=1),
            "counts_from": now - timedelta(hours=1), "ends_at": now + timedelta(hours=1),
            "last_limit": Decimal(10), "spent_charge": Decimal(spent), **fields,
        })  # fmt: skip

    def test_it_names_budgets_close_to_their_limit_the_fullest_first(self):
        now = timezone.now()
        book_calls(make_call(at=now))
        self.make_period("8", holder_id="at-eighty")
        self.make_period("7.99", holder_id="below")
        self.make_period("5", holder_id="held", held=Decimal("4"))
        self.make_period("12", holder_id="over")
        self.make_period("9", holder_id="over-yesterday", ends_at=now - timedelta(minutes=1))
        self.make_period("9", holder_id="no-limit", last_limit=None)

        response = self.client.get("/admin/")

        texts = [re.sub("<[^>]*>", "", each.text) for each in response.context["noticed"]]
        self.assertEqual(texts, ["customer over", "customer held", "customer at-eighty"])
        self.assertContains(response, "$12.00 of $10.00")

    def test_it_names_receivers_that_fail_alerts_and_what_reconcile_found(self):
        now = timezone.now()
        book_calls(make_call(at=now))
        endpoint, _ = create_endpoint(name="Old CRM", url="https://hooks.example.com/x")
        off, _ = create_endpoint(name="Retired", url="https://hooks.example.com/y", is_active=False)
        for name in (f"webhook:{endpoint.pk}", f"webhook:{off.pk}", "slack"):
            DeliveryLane.objects.create(name=name, failing_since=now)
        DeliveryLane.objects.create(name="email", last_success_at=now)
        ReconcileRun.objects.create(started_at=now, seconds=1, rows_compared=9, differences=2)

        response = self.client.get("/admin/")

        self.assertContains(response, "has not taken what it was sent since", 2)
        for text in ("Old CRM", ">Slack</a>", "2 differences", "reconcile --repair"):
            self.assertContains(response, text)
        self.assertNotContains(response, "Retired")

    def test_charlie_sees_no_figures(self):
        make_log(cost=Decimal(7))
        self.log_in_charlie()

        response = self.client.get("/admin/")

        self.assertEqual(response.status_code, 200)
        self.assertNotContains(response, "Spend today")
