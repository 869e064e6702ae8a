"""The admin of budgets: bars of now, periods of ever, previews, fresh starts, why a call was refused."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.db import connection
from django.test import SimpleTestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.admin.attached import holders_text, is_held, of_holders, with_holder_counts
from billing.admin.overspend import overspend_of
from billing.admin.replay import replay
from billing.budgets.bars import Allowance, Bar, Holder, allowances, bars_now
from billing.budgets.periods import PeriodKey, ensure_periods, start_afresh
from billing.models import BudgetPeriod, HolderType, SpendLog, SpendTotal
from billing.models.spend_total import GATEWAY_ID
from customers.durations import parse_duration
from customers.models import Budget, Customer, GatewayLimits, Tag, Team, TeamMembership, User, VirtualKey
from customers.services import create_key
from tests.admin_pages import AdminTestCase, make_log
from tests.billing.budgets import admitted, settle
from tests.billing.making import book_calls, make_call

HOSTILE = "<script>alert('x')</script>{{7*7}}"
QUOTED_HOSTILE = "_3Cscript_3Ealert('x')_3C_2Fscript_3E{{7*7}}"


def make_budget(max_usd: str | None = "50", duration: str = "1mo", **fields) -> Budget:
    limit = None if max_usd is None else Decimal(max_usd)
    return Budget.objects.create(
        **{"id": "free", "max_budget": limit, "budget_duration": duration, **fields}
    )  # fmt: skip


def period_now(
    budget: Budget, holder_type: str = "customer", holder_id: str = "acme", scope: str = ""
) -> PeriodKey:
    limit = next(limit for limit in allowances(budget) if limit.scope == scope)
    return limit.period((holder_type, holder_id), timezone.now())


def spend(*amounts_usd: str, at: datetime | None = None, **who) -> None:
    """Have calls booked, of the customer acme unless `who` says otherwise."""
    who = who or {"customer_id": "acme"}
    book_calls(*(make_call(cost_usd=amount, at=at or timezone.now(), **who) for amount in amounts_usd))


def rows(**filters) -> list[tuple]:
    """Return (generation, spent, held) of each period."""
    periods = BudgetPeriod.objects.filter(**filters).order_by("generation")
    return [(period.generation, period.spent, period.held) for period in periods]


class BudgetPagesTestCase(AdminTestCase):
    def setUp(self):
        super().setUp()
        self.budget = make_budget()
        self.acme = Customer.objects.create(id="acme", budget=self.budget)
        self.page = self.url(Customer, "change", "acme")

    def log_in_viewer(self) -> None:
        """Log in Bob, who may look at everything here and change nothing."""
        bob = User.objects.create_user("bob", password="battery staple", is_staff=True)
        bob.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
        self.client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")


class BarArithmeticTests(SimpleTestCase):
    def bar(self, limit: str | None, spent: str, held: str = "0", provisional: str = "0") -> Bar:
        key = PeriodKey("customer", "acme", "", "all", datetime(1970, 1, 1, tzinfo=UTC), None)
        amounts = [Decimal(amount) for amount in (spent, held, provisional)]
        return Bar(key, key.starts_at, None, None if limit is None else Decimal(limit), *amounts)

    def test_parts_are_drawn_against_the_limit(self):
        bar = self.bar("10", spent="2.5", held="1", provisional="0.5")

        self.assertEqual(bar.parts, [("spent", "25.00"), ("provisional", "5.00"), ("held", "10.00")])
        self.assertIsNone(bar.limit_mark)
        self.assertEqual(bar.left, Decimal("10") - Decimal("2.5") - 1 - Decimal("0.5"))

    def test_what_is_over_the_limit_is_drawn_with_a_mark_where_it_is(self):
        bar = self.bar("10", spent="15", held="5")

        self.assertEqual(bar.parts, [("spent", "75.00"), ("held", "25.00")])
        self.assertEqual(bar.limit_mark, "50.00")
        self.assertEqual((bar.left, bar.overspend), (0, 5))

    def test_at_the_limit_it_is_used_up_and_a_nano_below_it_is_not(self):
        self.assertTrue(self.bar("10", spent="9", provisional="1").is_used_up)
        self.assertFalse(self.bar("10", spent="9.999999999").is_used_up)
        self.assertFalse(self.bar("10", spent="9", held="1").is_used_up)

    def test_a_limit_of_nothing_divides_nothing(self):
        bar = self.bar("0", spent="0")

        self.assertEqual((bar.parts, bar.limit_mark, bar.is_used_up), ([], None, True))


class BarTests(BudgetPagesTestCase):
    def test_it_says_what_is_spent_held_provisional_and_left(self):
        key = period_now(self.budget)
        settle(admitted((key, "50"), at=timezone.now()), cost_usd="12.40")
        settle(admitted((key, "50"), at=timezone.now(), amount_usd="1"), cost_usd=None)
        for _ in range(3):
            admitted((key, "50"), at=timezone.now(), amount_usd="0.20")

        response = self.client.get(self.page)

        self.assertContains(response, "$12.40 spent")
        self.assertContains(response, "$1.00 provisional for 1 call without a price")
        self.assertContains(response, "$0.60 held by 3 calls under way")
        self.assertContains(response, "$36.00 left")
        self.assertContains(response, f"to {key.ends_at:%Y-%m-%d} 00:00, UTC; then from zero again")

    def test_a_period_without_a_call_is_empty_and_nothing_is_written_for_it(self):
        with CaptureQueriesContext(connection) as queries:
            response = self.client.get(self.page)

        self.assertContains(response, "No call yet in this period")
        self.assertContains(response, "$50.00 left")
        self.assertFalse(BudgetPeriod.objects.exists())
        self.assertFalse([query for query in queries if query["sql"].startswith(("INSERT", "UPDATE"))])

    def test_it_says_how_far_it_went_over(self):
        admitted((period_now(self.budget), "50"), at=timezone.now())
        spend("50.25")

        self.assertContains(self.client.get(self.page), "$0.25 over the limit")

    def test_a_customer_is_measured_by_the_charge_and_a_team_by_the_cost(self):
        Team.objects.create(id="research", budget=self.budget)
        ensure_periods([period_now(self.budget), period_now(self.budget, "team", "research")])
        book_calls(
            make_call(
                cost_usd="2", closed={"charge_nano": 3 * 10**9}, at=timezone.now(), customer_id="acme",
                team_id="research",
            )
        )  # fmt: skip

        self.assertContains(self.client.get(self.page), "$3.00 spent")
        self.assertContains(self.client.get(self.url(Team, "change", "research")), "$2.00 spent")

    def test_a_fresh_start_by_a_clock_that_is_ahead_shows_when_it_has_come(self):
        key = period_now(self.budget)
        ensure_periods([key])
        spend("2")
        start_afresh([key], at=timezone.now() + timedelta(minutes=1))

        self.assertContains(self.client.get(self.page), "$2.00 spent")

    def test_limits_by_model_have_bars_of_their_own(self):
        self.budget.model_max_budget = {"gpt-4o": {"budget_limit": "5", "time_period": "1d"}}
        self.budget.save()
        ensure_periods([period_now(self.budget), period_now(self.budget, scope="gpt-4o")])
        spend("1")

        panel = self.client.get(self.page).context["budget_panel"]

        shown = [
            (each["bar"].period.scope, each["bar"].spent, each["bar"].limit) for each in panel[0]["bars"]
        ]
        self.assertEqual(shown, [("", 1, 50), ("gpt-4o", 1, 5)])

    def test_every_holder_has_one(self):
        bob = User.objects.create(id="bob", username="bob", budget=self.budget)
        team = Team.objects.create(id="research", budget=self.budget)
        TeamMembership.objects.create(team=team, user=bob, budget=self.budget)
        key, _ = create_key(alias="shop", budget=self.budget)
        tag = Tag.objects.create(name="blue", budget=self.budget)
        limits = GatewayLimits.current()
        GatewayLimits.objects.update(budget=self.budget)
        pages = (
            ("customer", "acme", self.acme), ("user", "bob", bob), ("team", "research", team),
            ("team_member", "research\nbob", team), ("key", str(key.pk), key), ("tag", "blue", tag),
            ("gateway", GATEWAY_ID, limits),
        )  # fmt: skip
        ensure_periods([period_now(self.budget, kind, holder_id) for kind, holder_id, _ in pages])
        spend(
            "7.5", customer_id="acme", user_id="bob", team_id="research", key_id=key.pk.bytes, tags=["blue"]
        )

        for kind, holder_id, row in pages:
            with self.subTest(holder=kind):
                panel = self.client.get(self.url(type(row), "change", row.pk)).context["budget_panel"]
                shown = {each["holder"].key: each["bars"][0]["bar"].spent for each in panel}
                self.assertEqual(shown[kind, holder_id], Decimal("7.5"))

    def test_a_customer_without_a_budget_has_the_default_of_the_gateway(self):
        GatewayLimits.current()
        GatewayLimits.objects.update(customer_budget=self.budget)
        Customer.objects.create(id="globex")
        ensure_periods([period_now(self.budget, holder_id="globex")])
        spend("4", customer_id="globex")

        response = self.client.get(self.url(Customer, "change", "globex"))

        self.assertContains(response, "the default of customers without their own")
        self.assertContains(response, "$4.00 spent")

    def test_a_limit_that_came_with_a_key_is_shown_as_the_last_call_had_it(self):
        Customer.objects.create(id="globex")
        admitted((period_now(self.budget, holder_id="globex"), "5"), customer_id="globex", at=timezone.now())

        bars = self.client.get(self.url(Customer, "change", "globex")).context["budget_panel"][0]["bars"]

        self.assertEqual([each["bar"].limit for each in bars], [5])

    def test_without_any_budget_the_page_says_so(self):
        Customer.objects.create(id="globex")

        self.assertContains(
            self.client.get(self.url(Customer, "change", "globex")), "nothing limits the spend here"
        )

    def test_a_list_shows_the_tightest_with_one_query_for_all_rows(self):
        self.budget.model_max_budget = {"gpt-4o": {"budget_limit": "5"}}
        self.budget.save()
        ensure_periods([period_now(self.budget), period_now(self.budget, scope="gpt-4o")])
        spend("4")
        self.client.get(self.url(Customer, "changelist"))
        with CaptureQueriesContext(connection) as queries:
            response = self.client.get(self.url(Customer, "changelist"))
        self.assertContains(response, "$4.00 of $5.00 for gpt-4o")
        self.assertContains(response, "+1 more")

        for number in range(20):
            Customer.objects.create(id=f"customer {number}", budget=self.budget)

        with self.assertNumQueries(len(queries)):
            self.client.get(self.url(Customer, "changelist"))

    def test_lists_of_holders_without_budgets_ask_for_no_period(self):
        Team.objects.create(id="research")

        with CaptureQueriesContext(connection) as queries:
            self.client.get(self.url(Team, "changelist"))

        self.assertFalse([query for query in queries if "billing_budgetperiod" in query["sql"]])

    def test_a_budget_that_cannot_be_read_breaks_no_page(self):
        Budget.objects.update(budget_duration="soon", model_max_budget={"gpt-4o": 7})

        self.assertContains(self.client.get(self.page), "it never ends")

    def test_what_callers_send_is_escaped(self):
        Customer.objects.create(id=HOSTILE, alias=HOSTILE, budget=self.budget)
        self.budget.model_max_budget = {HOSTILE: {"budget_limit": "5"}}
        self.budget.save()
        ensure_periods([period_now(self.budget, holder_id=HOSTILE, scope=scope) for scope in ("", HOSTILE)])
        spend("1", customer_id=HOSTILE, model=HOSTILE)

        base = f"/admin/customers/customer/{QUOTED_HOSTILE}"
        pages = (
            f"{base}/change/", f"{base}/live/", f"{base}/periods/", f"{base}/afresh/?window=1mo UTC v1",
            self.url(Customer, "changelist"), self.url(Budget, "change", "free"),
        )  # fmt: skip
        for page in pages:
            with self.subTest(page=page):
                response = self.client.get(page)
                self.assertContains(response, "&lt;script&gt;alert(")
                self.assertNotContains(response, "<script>alert(")


class LiveTests(BudgetPagesTestCase):
    def test_it_answers_with_the_bars_alone_as_they_are_now(self):
        live = self.client.get(self.page).context["live_url"]
        ensure_periods([period_now(self.budget)])
        spend("1.25")

        response = self.client.get(live)

        self.assertContains(response, "$1.25 spent")
        self.assertNotContains(response, "<html")
        self.assertIn("no-store", response["Cache-Control"])

    def test_the_page_names_it_and_loads_the_script_from_a_file(self):
        response = self.client.get(self.page)

        self.assertContains(response, f'data-live="{self.url(Customer, "live", "acme")}"')
        self.assertContains(response, "spend/live.js")

    def test_charlie_sees_none(self):
        self.log_in_charlie()

        for page in ("live", "periods", "afresh"):
            with self.subTest(page=page):
                self.assertEqual(self.client.get(self.url(Customer, page, "acme")).status_code, 403)

    def test_of_nobody_there_is_none(self):
        for page in ("live", "periods", "afresh"):
            with self.subTest(page=page):
                self.assertEqual(self.client.get(self.url(Customer, page, "nobody")).status_code, 404)


class PeriodsTests(BudgetPagesTestCase):
    def shown(self, query: str = "") -> list[BudgetPeriod]:
        response = self.client.get(self.url(Customer, "periods", "acme") + query)
        self.assertEqual(response.status_code, 200)
        return [each["bar"] for each in response.context["periods"]]

    def make_days(self, number: int) -> None:
        """Make daily periods, the last one yesterday's."""
        daily = Allowance("", Decimal(1), parse_duration("1d"))
        now = timezone.now()
        ensure_periods(
            daily.period(("customer", "acme"), now - timedelta(days=day)) for day in range(1, number + 1)
        )

    def test_they_are_listed_newest_first_with_the_limit_of_then(self):
        self.make_days(3)
        BudgetPeriod.objects.update(spent_charge=Decimal("1.5"), last_limit=Decimal(1))

        response = self.client.get(self.url(Customer, "periods", "acme"))

        starts = [each["bar"].counts_from for each in response.context["periods"]]
        self.assertEqual(starts, sorted(starts, reverse=True))
        self.assertContains(response, "<strong>$1.50 of $1.00</strong>", count=3)
        self.assertContains(response, "$0.50 over the limit", count=3)

    def test_a_fresh_start_is_a_period_of_its_own(self):
        key = period_now(self.budget)
        ensure_periods([key])
        spend("2")
        start_afresh([key], at=timezone.now() + timedelta(seconds=1))

        self.assertEqual([(bar.generation, bar.spent) for bar in self.shown()], [(1, 0), (0, 2)])
        self.assertContains(self.client.get(self.url(Customer, "periods", "acme")), "Started afresh at")

    def test_pages_of_a_long_history_have_each_period_once(self):
        self.make_days(120)
        url, seen = self.url(Customer, "periods", "acme"), []

        while url:
            response = self.client.get(url)
            seen.append([each["bar"].row_id for each in response.context["periods"]])
            url = (
                response.context["older_url"]
                and self.url(Customer, "periods", "acme") + response.context["older_url"]
            )

        self.assertEqual([len(page) for page in seen], [50, 50, 20])
        self.assertEqual(len({row for page in seen for row in page}), 120)

    def test_a_page_makes_a_fixed_number_of_queries(self):
        self.make_days(2)
        self.shown()
        with CaptureQueriesContext(connection) as queries:
            self.shown()
        self.make_days(60)

        with self.assertNumQueries(len(queries)):
            self.shown()

    def test_each_limit_has_a_list_of_its_own(self):
        self.make_days(2)
        ensure_periods([period_now(self.budget)])

        self.assertEqual(len(self.shown("?window=1d UTC v1")), 2)
        self.assertEqual(len(self.shown("?window=1mo UTC v1")), 1)

    def test_a_cursor_that_is_none_is_the_first_page(self):
        self.make_days(2)

        for cursor in ("nonsense", "-1", "9" * 30, "0"):
            with self.subTest(cursor=cursor):
                self.assertEqual(len(self.shown(f"?before={cursor}")), 2)

    def test_its_calls_are_those_of_the_stretch_to_the_millisecond(self):
        key = period_now(self.budget)
        ensure_periods([key])
        cut = timezone.now().replace(microsecond=0)
        start_afresh([key], at=cut)
        millisecond = timedelta(milliseconds=1)
        before = make_log(at=cut - millisecond, customer=self.acme)
        after = [make_log(at=cut, customer=self.acme), make_log(at=cut + millisecond, customer=self.acme)]
        make_log(at=cut, customer=Customer.objects.create(id="globex"))
        make_log(at=key.starts_at - millisecond, customer=self.acme)

        periods = self.client.get(self.url(Customer, "periods", "acme")).context["periods"]
        found = [
            {log.pk for log in self.client.get(period["logs_url"]).context["cl"].result_list}
            for period in periods
        ]

        self.assertEqual(found, [{log.pk for log in after}, {before.pk}])

    def test_of_a_limit_by_model_they_are_the_calls_of_the_model(self):
        self.budget.model_max_budget = {"gpt-4o": {"budget_limit": "5"}}
        self.budget.save()
        ensure_periods([period_now(self.budget, scope="gpt-4o")])
        wanted = make_log(at=timezone.now(), customer=self.acme, model="gpt-4o")
        make_log(at=timezone.now(), customer=self.acme, model="o3")

        page = self.client.get(self.url(Customer, "periods", "acme"))

        logs = self.client.get(page.context["periods"][0]["logs_url"]).context["cl"].result_list
        self.assertEqual(list(logs), [wanted])

    def test_the_calls_of_each_holder_are_found(self):
        bob = User.objects.create(id="bob", username="bob", budget=self.budget)
        team = Team.objects.create(id="research", budget=self.budget)
        TeamMembership.objects.create(team=team, user=bob, budget=self.budget)
        at = timezone.now()
        wanted = make_log(at=at, team=team, user=bob)
        make_log(at=at, team=team), make_log(at=at, user=bob)
        keys = [
            period_now(self.budget, kind, holder_id)
            for kind, holder_id in (("team", "research"), ("team_member", "research\nbob"), ("user", "bob"))
        ]
        ensure_periods(keys)

        for key, row, number in zip(keys, (team, team, bob), (2, 1, 2), strict=True):
            with self.subTest(holder=key.holder_type):
                page = self.client.get(self.url(type(row), "periods", row.pk), {"holder": key.holder_id})
                logs = self.client.get(page.context["periods"][0]["logs_url"]).context["cl"].result_list
                self.assertEqual(len(logs), number)
                self.assertIn(wanted, logs)

    def test_without_any_the_page_says_how_they_come_to_be(self):
        self.assertContains(self.client.get(self.url(Customer, "periods", "acme")), "No period yet")


class FreshStartTests(BudgetPagesTestCase):
    def setUp(self):
        super().setUp()
        self.key = period_now(self.budget)
        admitted((self.key, "50"), at=timezone.now() - timedelta(seconds=1), amount_usd="1")
        spend("12", at=timezone.now() - timedelta(seconds=1))
        panel = self.client.get(self.page).context["budget_panel"]
        self.afresh = panel[0]["bars"][0]["afresh_url"]

    def test_it_asks_first_and_writes_nothing(self):
        response = self.client.get(self.afresh)

        self.assertContains(response, "$12.00 spent")
        self.assertContains(response, "up to $50.00 more may be spent")
        self.assertEqual(rows(), [(0, 12, 1)])

    def test_then_a_new_row_counts_from_zero_and_the_old_one_stays(self):
        response = self.client.post(self.afresh)

        self.assertRedirects(response, self.page)
        self.assertEqual(rows(), [(0, 12, 1), (1, 0, 0)])
        self.assertIn("$12.00 of $50.00", LogEntry.objects.get().change_message)

    def test_who_may_only_look_is_not_offered_it_and_refused(self):
        self.log_in_viewer()

        self.assertNotContains(self.client.get(self.page), "Start afresh")
        self.assertEqual(self.client.post(self.afresh).status_code, 403)
        self.assertEqual(rows(), [(0, 12, 1)])

    def test_a_limit_that_is_not_in_force_cannot_be_started(self):
        for query in ("?window=1d UTC v1", "?scope=gpt-4o&window=1mo UTC v1", "?holder=globex"):
            with self.subTest(query=query):
                url = self.url(Customer, "afresh", "acme") + query
                self.assertEqual(self.client.post(url).status_code, 404)
        self.assertEqual(rows(), [(0, 12, 1)])


class BudgetFormTests(BudgetPagesTestCase):
    def form(self, **fields) -> dict:
        return {
            "max_budget": "50",
            "budget_duration": "1mo",
            "mode": "standard",
            "model_max_budget": "{}",
            **fields,
        }

    def test_the_list_says_what_each_limits_and_who_has_it_in_a_fixed_number_of_queries(self):
        Budget.objects.update(rpm_limit=6000, tpm_limit=1_000_000, max_parallel_requests=7)
        for name in ("ada", "bob"):
            Customer.objects.create(id=name, budget=self.budget)
        create_key(alias="shop", budget=self.budget)
        self.client.get(self.url(Budget, "changelist"))

        with self.assertNumQueries(6):  # session, user, overspend, two counts, the page
            response = self.client.get(self.url(Budget, "changelist"))

        for text in ("$50.00", "1mo", "standard", "6,000", "1,000,000", "3 customers, 1 key"):
            self.assertContains(response, text)

    def test_it_says_who_has_it_by_default(self):
        create_key(alias="shop", customer_budget=self.budget)
        GatewayLimits.current()
        GatewayLimits.objects.update(customer_budget=self.budget, budget=self.budget)

        self.assertContains(
            self.client.get(self.url(Budget, "changelist")),
            "1 customer, the gateway, customers of 1 key, customers without another",
        )

    def test_members_limited_by_their_team_s_budget_are_its_holders(self):
        tier = Budget.objects.create(id="members", max_budget=5)
        team = Team.objects.create(id="red", member_budget=tier)
        TeamMembership.objects.create(team=team, user=self.alice)

        found = with_holder_counts(Budget.objects.filter(pk="members")).get()

        self.assertEqual((holders_text(found), is_held(tier)), ("members of 1 team", True))
        member = SpendTotal.objects.create(
            holder_type=HolderType.TEAM_MEMBER, holder_id=f"red\n{self.alice.pk}", cost=1, charge=1
        )
        self.assertEqual(list(SpendTotal.objects.filter(of_holders(tier))), [member])

    def test_amounts_are_shown_as_they_are_written(self):
        self.assertContains(self.client.get(self.url(Budget, "change", "free")), 'value="50"')

    def test_limits_by_model_are_kept_canonical_and_exact(self):
        written = '{"gpt-4o": {"max_budget": 0.123456789, "budget_duration": "30d"}}'

        self.client.post(self.url(Budget, "add"), self.form(id="pro", model_max_budget=written))

        self.assertEqual(
            Budget.objects.get(pk="pro").model_max_budget,
            {"gpt-4o": {"budget_limit": "0.123456789", "time_period": "1mo"}},
        )

    def test_what_is_no_json_is_said_with_its_place(self):
        response = self.client.post(
            self.url(Budget, "add"), self.form(id="pro", model_max_budget='{\n"gpt-4o" 5}')
        )

        self.assertContains(response, "This is not JSON: line 2, character 10")
        self.assertFalse(Budget.objects.filter(pk="pro").exists())

    def test_wrong_limits_are_said_by_model(self):
        written = '{"gpt-4o": {"budget_limit": -1}, "o3": {"period": "1d"}}'

        response = self.client.post(self.url(Budget, "add"), self.form(id="pro", model_max_budget=written))

        self.assertContains(response, "must be an amount of at least 0")
        self.assertContains(response, "&#x27;period&#x27; is unknown")

    def test_its_page_lists_the_biggest_holders_with_their_bars(self):
        Customer.objects.create(id="globex", budget=self.budget)
        ensure_periods([period_now(self.budget), period_now(self.budget, holder_id="globex")])
        spend("1")
        spend("2", customer_id="globex")

        context = self.client.get(self.url(Budget, "change", "free")).context

        self.assertEqual([each["bar"].spent for each in context["holder_bars"]], [2, 1])

    def test_keys_are_named_and_not_numbered(self):
        key, _ = create_key(alias="shop", budget=self.budget)
        spend("1", key_id=key.pk.bytes)

        response = self.client.get(self.url(Budget, "change", "free"))

        self.assertContains(response, self.url(VirtualKey, "change", key.pk))
        self.assertIn("shop", response.context["holder_bars"][0]["link"])


class SavingTests(BudgetPagesTestCase):
    form = BudgetFormTests.form

    def setUp(self):
        super().setUp()
        self.key = period_now(self.budget)
        admitted((self.key, "50"), at=timezone.now() - timedelta(seconds=1), amount_usd="1")
        spend("12", at=timezone.now() - timedelta(seconds=1))

    def save(self, **fields):
        return self.client.post(self.url(Budget, "change", "free"), self.form(**fields))

    def test_another_limit_asks_before_anything_is_saved(self):
        response = self.save(max_budget="20")

        self.assertContains(response, "starts afresh: 1 period counts from zero")
        self.assertContains(response, '<input type="hidden" name="max_budget" value="20">')
        self.budget.refresh_from_db()
        self.assertEqual(self.budget.max_budget, 50)
        self.assertEqual(rows(), [(0, 12, 1)])

    def test_keeping_saves_the_limit_and_leaves_the_periods_alone(self):
        with CaptureQueriesContext(connection) as queries:
            response = self.save(max_budget="20", _spent="keep")

        self.assertRedirects(response, self.url(Budget, "changelist"))
        self.budget.refresh_from_db()
        self.assertEqual(self.budget.max_budget, 20)
        self.assertEqual(rows(), [(0, 12, 1)])
        writes = [query["sql"] for query in queries if query["sql"].startswith(("UPDATE", "INSERT"))]
        self.assertFalse([sql for sql in writes if "budgetperiod" in sql or "spendtotal" in sql])

    def test_starting_afresh_saves_and_begins_the_next_generation(self):
        self.save(max_budget="20", _spent="afresh")

        self.budget.refresh_from_db()
        self.assertEqual(self.budget.max_budget, 20)
        self.assertEqual(rows(), [(0, 12, 1), (1, 0, 0)])

    def test_a_save_that_fails_starts_nothing_afresh(self):
        self.client.raise_request_exception = False
        with mock.patch.object(Budget, "save", side_effect=OSError):
            self.save(max_budget="20", _spent="afresh")

        self.assertEqual(rows(), [(0, 12, 1)])

    def test_another_duration_counts_what_was_booked_in_its_period_or_nothing(self):
        self.save(budget_duration="1200mo", _spent="keep")
        budget = Budget.objects.get()
        self.assertEqual(
            bars_now([Holder("customer", "acme", "", budget)], at=timezone.now())["customer", "acme"][
                0
            ].row_id,
            None,
        )
        ensure_periods([period_now(budget)])
        self.assertEqual(rows(window=period_now(budget).window), [(0, 12, 0)])

        self.save(budget_duration="1199mo", _spent="afresh")

        self.assertEqual(rows(window=period_now(Budget.objects.get()).window), [(0, 12, 0), (1, 0, 0)])

    def test_only_the_limits_that_changed_start_afresh(self):
        self.save(model_max_budget='{"gpt-4o": {"budget_limit": "5"}}', _spent="afresh")

        self.assertEqual(rows(scope=""), [(0, 12, 1)])
        self.assertEqual(rows(scope="gpt-4o"), [(0, 12, 0), (1, 0, 0)])

    def test_holders_without_a_call_in_the_period_get_no_row(self):
        for name in ("globex", "hooli"):
            Customer.objects.create(id=name, budget=self.budget)
        spend("3", customer_id="globex", at=self.key.starts_at - timedelta(milliseconds=1))

        self.save(max_budget="20", _spent="afresh")

        self.assertEqual(set(BudgetPeriod.objects.values_list("holder_id", flat=True)), {"acme"})

    def test_it_does_not_ask_where_no_limit_on_spend_changes(self):
        for fields in (
            {"rpm_limit": "5"},
            {"budget_duration": "30d"},
            {"max_budget": "50.00"},
            {"max_budget": ""},
        ):
            with self.subTest(fields=fields):
                self.assertEqual(self.save(**fields).status_code, 302)

    def test_it_does_not_ask_where_nobody_has_the_budget(self):
        Customer.objects.update(budget=None)

        self.assertEqual(self.save(max_budget="20").status_code, 302)

    def test_an_error_is_told_before_the_question(self):
        self.assertContains(self.save(max_budget="20", budget_duration="soon"), "is no duration")

    def test_too_many_periods_are_kept_and_it_says_so(self):
        Customer.objects.create(id="globex", budget=self.budget)
        spend("1", customer_id="globex")

        with mock.patch("billing.admin.budget.MOST_AFRESH", 1):
            self.assertContains(self.save(max_budget="20"), "too many to start afresh at once")
            response = self.save(max_budget="20", _spent="afresh")

        self.assertIn("What is spent is kept", " ".join(map(str, get_messages(response.wsgi_request))))
        self.assertEqual(rows(holder_id="acme"), [(0, 12, 1)])

    def test_who_may_only_look_cannot_save(self):
        self.log_in_viewer()

        self.assertEqual(self.save(max_budget="20", _spent="afresh").status_code, 403)
        self.assertEqual(rows(), [(0, 12, 1)])

    def test_customers_by_default_start_afresh_too_unless_they_have_their_own(self):
        Customer.objects.update(budget=None)
        key, _ = create_key(alias="shop", customer_budget=self.budget)
        Customer.objects.create(id="globex")
        Customer.objects.create(id="hooli", budget=make_budget(id="own"))
        for name in ("globex", "hooli"):
            spend("3", customer_id=name, key_id=key.pk.bytes, at=timezone.now() - timedelta(seconds=1))

        self.save(max_budget="20", _spent="afresh")

        self.assertEqual(rows(holder_id="globex"), [(0, 3, 0), (1, 0, 0)])
        self.assertEqual(rows(holder_id="acme"), [(0, 12, 1)])  # never called with that key
        self.assertEqual(rows(holder_id="hooli"), [])

    def test_of_the_gateways_default_too(self):
        Customer.objects.update(budget=None)
        GatewayLimits.current()
        GatewayLimits.objects.update(customer_budget=self.budget)

        self.save(max_budget="20", _spent="afresh")

        self.assertEqual(rows(holder_id="acme"), [(0, 12, 1), (1, 0, 0)])

    def test_no_form_of_a_holder_writes_what_is_spent(self):
        limits = GatewayLimits.current()
        forms = (
            (Customer, "acme", {"alias": "Acme", "metadata": "{}"}),
            (GatewayLimits, limits.pk, {"budget": "free", "customer_budget": "free"}),
        )
        for model, pk, form in forms:
            with self.subTest(model=model.__name__), CaptureQueriesContext(connection) as queries:
                self.assertEqual(self.client.post(self.url(model, "change", pk), form).status_code, 302)
                writes = [query["sql"] for query in queries if query["sql"].startswith(("UPDATE", "INSERT"))]
                self.assertFalse([sql for sql in writes if "budgetperiod" in sql or "spendtotal" in sql])
        self.assertEqual(rows(), [(0, 12, 1)])


class PreviewTests(BudgetPagesTestCase):
    def setUp(self):
        super().setUp()
        self.now = timezone.now()
        self.noon = self.now.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)

    def log(self, amount: str, *, at: datetime, **fields) -> SpendLog:
        given = {"customer": self.acme, "cost": Decimal(amount), "charge": Decimal(amount), **fields}
        return make_log(at=at, **given)

    def replayed(self, limit: str, duration: str | None = "1d", scope: str = "", holder=("customer", "acme")):
        limits = [Allowance(scope, Decimal(limit), parse_duration(duration) if duration else None)]
        return replay(*holder, limits, at=self.now)

    def test_a_call_is_refused_once_its_period_had_reached_the_limit(self):
        calls = [self.log("0.50", at=self.noon + timedelta(minutes=minute)) for minute in range(5)]
        self.log("0.50", at=self.noon - timedelta(days=1))

        replayed = self.replayed("1")

        self.assertEqual(replayed.refused, {call.pk for call in calls[2:]})  # 0.50 + 0.50 had reached 1
        self.assertEqual((replayed.calls, replayed.periods, replayed.is_partial), (6, 1, False))

    def test_spend_before_the_thirty_days_counts_in_its_period_and_refusals_do_not(self):
        since = self.now - timedelta(days=30)
        self.log("5", at=since - timedelta(minutes=2))
        self.log("5", at=since - timedelta(minutes=1))
        call = self.log("1", at=since + timedelta(minutes=1))

        self.assertEqual(self.replayed("4", duration=None).refused, {call.pk})

    def test_limits_of_a_model_count_its_calls_only(self):
        self.log("5", at=self.noon, model="o3")
        self.log("5", at=self.noon + timedelta(minutes=1), model="gpt-4o")
        call = self.log("1", at=self.noon + timedelta(minutes=2), model="gpt-4o")

        self.assertEqual(self.replayed("5", scope="gpt-4o").refused, {call.pk})

    def test_customers_are_measured_by_the_charge_and_others_by_the_cost(self):
        team = Team.objects.create(id="research")
        for minute in range(2):
            at = self.noon + timedelta(minutes=minute)
            self.log("1", at=at, charge=Decimal(3), team=team)

        self.assertEqual(len(self.replayed("3").refused), 1)
        self.assertEqual(len(self.replayed("3", holder=("team", "research")).refused), 0)

    def test_calls_that_were_never_served_are_left_out(self):
        for minute, status in enumerate(("success", "refused", "not_sent")):
            self.log("1", at=self.noon + timedelta(minutes=minute), status=status)

        self.assertEqual(self.replayed("1").calls, 1)

    def test_of_too_many_calls_the_latest_are_read_and_the_rest_is_said(self):
        for minute in range(4):
            self.log("1", at=self.noon + timedelta(minutes=minute))

        with mock.patch("billing.admin.replay.MOST_CALLS", 3):
            replayed = self.replayed("2")

        self.assertEqual((replayed.calls, len(replayed.refused), replayed.is_partial), (3, 1, True))

    def test_users_are_looked_for_among_the_latest_calls_of_everybody(self):
        bob = User.objects.create(id="bob", username="bob")
        for minute in range(3):
            self.log("1", at=self.noon + timedelta(minutes=minute), user=bob)
        self.log("1", at=self.noon + timedelta(minutes=3))

        with mock.patch("billing.admin.replay.MOST_UNINDEXED", 2):
            replayed = self.replayed("1", holder=("user", "bob"))

        self.assertEqual((replayed.calls, replayed.is_partial), (1, True))
        self.assertEqual(self.replayed("1", holder=("user", "bob")).calls, 3)

    def test_the_page_says_how_many_calls_of_whom_and_counts_each_once(self):
        Team.objects.create(id="research", budget=self.budget)
        for second in range(3):
            spend("10", at=self.noon + timedelta(seconds=second), customer_id="acme", team_id="research")

        response = self.client.post(
            self.url(Budget, "change", "free"),
            BudgetFormTests.form(self, max_budget="20", budget_duration="1d"),
        )

        self.assertContains(response, "<strong>1 call</strong>")
        self.assertContains(response, "in 2 periods of 2 holders")
        self.assertContains(response, "An approximation")

    def test_it_looks_at_the_biggest_holders_only(self):
        for number in range(3):
            Customer.objects.create(id=f"c{number}", budget=self.budget)
            spend(f"{number + 1}", customer_id=f"c{number}")

        with mock.patch("billing.admin.replay.MOST_HOLDERS", 2):
            response = self.client.post(
                self.url(Budget, "change", "free"), BudgetFormTests.form(self, max_budget="20")
            )

        self.assertEqual(
            list(response.context["preview"].by_holder), [("customer", "c2"), ("customer", "c1")]
        )


class GatewayLimitsTests(BudgetPagesTestCase):
    page_of_limits = "/admin/customers/gatewaylimits/"

    def test_a_look_at_it_makes_no_row_and_saving_makes_the_one(self):
        self.assertEqual(self.client.get(self.page_of_limits).status_code, 200)
        self.assertFalse(GatewayLimits.objects.exists())

        response = self.client.post(self.page_of_limits, {"budget": "free", "customer_budget": ""})

        self.assertRedirects(response, self.page_of_limits)
        self.assertEqual(
            GatewayLimits.objects.values_list("pk", "budget", "customer_budget").get(), (1, "free", None)
        )

    def test_it_shows_what_the_gateway_has_spent(self):
        GatewayLimits.current()
        GatewayLimits.objects.update(budget=self.budget)
        ensure_periods([period_now(self.budget, "gateway", GATEWAY_ID)])
        spend("3", "4", customer_id="acme")

        self.assertContains(self.client.get(self.page_of_limits), "$7.00 spent")

    def test_there_is_one_and_it_stays(self):
        limits = GatewayLimits.current()

        self.assertEqual(self.client.get(f"{self.page_of_limits}add/").status_code, 403)
        self.assertEqual(self.client.post(self.url(GatewayLimits, "delete", limits.pk)).status_code, 403)
        self.assertEqual(self.client.get(self.url(GatewayLimits, "change", 2)).status_code, 302)

    def test_the_sidebar_leads_there_unless_one_may_not_look(self):
        self.assertContains(self.client.get("/admin/"), f'href="{self.page_of_limits}"')
        self.log_in_charlie()

        self.assertNotContains(self.client.get("/admin/"), f'href="{self.page_of_limits}"')
        self.assertEqual(self.client.get(self.page_of_limits).status_code, 403)

    def test_a_key_says_what_its_customers_have(self):
        key, _ = create_key(alias="shop")
        form = {
            "alias": "shop", "payer_policy": "trusted", "allowed_models": "", "tags": "", "metadata": "{}",
            "key_type": "default", "allowed_routes": "", "model_aliases": "{}", "customer_budget": "free",
        }  # fmt: skip

        self.client.post(self.url(VirtualKey, "change", key.pk), form)

        self.assertEqual(VirtualKey.objects.get().customer_budget, self.budget)


class RefusalTests(BudgetPagesTestCase):
    told = {
        "scope": "customer", "id": "acme", "limit": "50.00", "spent": "49.95", "held": "0.02",
        "provisional": "0.01", "hold": "0.03", "mode": "standard", "resets_at": "2026-12-01T00:00:00Z",
    }  # fmt: skip

    def page_of(self, told: object, **fields):
        given = {"status": "refused", "usage_source": "none", "error_message": "told to the caller", **fields}
        log = make_log(customer=self.acme, metadata={"refusal": told}, **given)
        return self.client.get(self.url(SpendLog, "change", log.pk))

    def test_it_adds_up_to_more_than_the_limit(self):
        response = self.page_of(self.told)

        refusal = response.context["refusal"]
        self.assertEqual(refusal.sum, "$50.01")  # 49.95 + 0.01 + 0.02 + 0.03
        self.assertEqual((refusal.relation, refusal.limit), ("more than", "$50.00"))
        self.assertContains(response, "had $0.02 left, and this call had to set $0.03 aside")
        self.assertContains(response, "2026-12-01 00:00:00")
        self.assertContains(response, f'href="{self.page}"')

    def test_a_budget_that_was_used_up_is_said_to_be(self):
        response = self.page_of({**self.told, "spent": "50.00", "held": "0", "provisional": "0", "hold": "0"})

        self.assertContains(response, "was used up")
        self.assertContains(response, "with nothing left of the limit")

    def test_it_names_every_kind_of_holder(self):
        team, bob = Team.objects.create(id="research"), User.objects.create(id="bob", username="bob")
        key, _ = create_key(alias="shop")
        kinds = (
            ("gateway", GATEWAY_ID, "the gateway", "/admin/customers/gatewaylimits/"),
            ("team", "research", "research", self.url(Team, "change", "research")),
            ("team_member", "research/bob", "bob in research", self.url(Team, "change", "research")),
            ("user", "bob", "bob", self.url(User, "change", "bob")),
            ("key", str(key.pk), "shop", self.url(VirtualKey, "change", key.pk)),
            ("tag", "blue", "blue", self.url(Tag, "change", "blue")),
        )
        for scope, holder_id, name, url in kinds:
            with self.subTest(scope=scope):
                told = {**self.told, "scope": scope, "id": holder_id}
                refusal = self.page_of(told, team=team, user=bob, key=key).context["refusal"]
                self.assertIn(name, refusal.sentences[0])
                self.assertIn(url, refusal.sentences[0])

    def test_a_rate_limit_is_a_sentence(self):
        told = {"scope": "end_user", "id": "acme", "rate_limit_type": "requests", "limit": 60,
                "reset_at": "2026-12-01 00:00:20 UTC"}  # fmt: skip

        response = self.page_of(told)

        self.assertContains(response, "had reached the limit of 60 requests per minute")
        self.assertContains(response, "2026-12-01 00:00:20")

    def test_what_cannot_be_read_leaves_the_message_that_the_caller_got(self):
        for told in (
            None,
            "no",
            {},
            {**self.told, "limit": "much"},
            {**self.told, "spent": None},
            {"scope": 7},
        ):
            with self.subTest(told=told):
                response = self.page_of(told)
                self.assertIsNone(response.context["refusal"])
                self.assertContains(response, "<p>told to the caller</p>")

    def test_calls_that_were_not_refused_are_not_asked_about(self):
        log = make_log(error_message="upstream failed", status="failure")

        self.assertNotContains(self.client.get(self.url(SpendLog, "change", log.pk)), "Why was this refused?")

    def test_it_is_escaped(self):
        for scope in ("customer", "model_per_key"):
            with self.subTest(scope=scope):
                response = self.page_of({**self.told, "scope": scope, "id": HOSTILE, "model": HOSTILE})
                self.assertIsNotNone(response.context["refusal"])
                self.assertNotContains(response, "<script>alert(")


class OverspendTests(BudgetPagesTestCase):
    def make_period(self, spent: str, limit: str | None, **fields) -> BudgetPeriod:
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=BudgetPeriod.objects.count())
        given = {
            "holder_type": "customer", "holder_id": "acme", "window": "1d UTC v1", "starts_at": start,
            "counts_from": start, "ends_at": start + timedelta(days=1), "spent_charge": Decimal(spent),
            "last_limit": None if limit is None else Decimal(limit),
        }  # fmt: skip
        return BudgetPeriod.objects.create(**{**given, **fields})

    def test_it_is_the_largest_and_the_sum_of_what_went_over(self):
        self.make_period("10.25", "10")
        self.make_period("12", "10")
        self.make_period("10", "10")
        self.make_period("99", None)
        # A team's is its cost: here nothing, whatever it was charged.
        self.make_period("99", "10", holder_type="team", spent_cost=Decimal(10))

        over = overspend_of(BudgetPeriod.objects.all())

        self.assertEqual((over.largest, over.total, over.periods), (2, Decimal("0.25") + 2, 2))
        self.assertEqual(str(over), "max $2.00, sum $2.25, in 2 periods")

    def test_of_too_many_periods_the_latest_are_read_and_it_says_so(self):
        self.make_period("20", "10")
        self.make_period("11", "10")

        with mock.patch("billing.admin.overspend.COUNTED_PERIODS", 1):
            over = overspend_of(BudgetPeriod.objects.all())
            self.assertEqual(str(over), "max $1.00, sum $1.00, in 1 period of the latest 1")

    def test_overview_list_and_budget_show_it(self):
        make_log(at=timezone.now())
        self.make_period("10.25", "10")
        self.make_period("99", "1", holder_id="somebody else")
        spend("1")

        card = self.client.get("/admin/").context["cards"][-1]
        self.assertEqual((card["text"], card["note"]), ("$98.25", "max $98.00, sum $98.25, in 2 periods"))
        self.assertContains(
            self.client.get(self.url(Budget, "changelist")), "Overspent: max $98.00, sum $98.25, in 2 periods"
        )
        self.assertContains(
            self.client.get(self.url(Budget, "change", "free")),
            "Overspent: max $0.25, sum $0.25, in 1 period.",
        )
