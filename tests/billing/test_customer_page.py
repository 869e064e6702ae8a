"""One customer's page: its limits and how long they last, its figures, and why they are what they are."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock
from urllib.parse import parse_qs, urlencode, urlsplit

from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.budgets.customer_limits import outlooks
from billing.models import ReconcileRun
from billing.reporting.customer_calls import look
from billing.reporting.drawings import burn_up
from billing.usage import Usage
from customers.models import Budget, Customer, GatewayLimits, Tag, Team, TeamMembership, User
from customers.services import create_key
from tests.admin_pages import AdminTestCase
from tests.billing.budgets import admitted, all_time, july, settle
from tests.billing.making import NOON, book_calls, make_call, nano

PAGE = "usage:customer"
JULY = "from=2026-07-01&to=2026-07-31"


class CustomerPageTestCase(AdminTestCase):
    def setUp(self):
        super().setUp()
        patched = mock.patch("billing.admin.usage.customer.timezone.now", return_value=NOON)
        patched.start()
        self.addCleanup(patched.stop)

    def get(
        self, customer: str = "acme", query: str = JULY, *, name: str = PAGE, status: int = 200, **kwargs
    ):
        url = f"{reverse(name, **kwargs)}?{urlencode({'customer': customer})}&{query}"
        response = self.client.get(url)
        self.assertEqual(response.status_code, status, response.content[:2000])
        return response

    def limits(self, customer: str = "acme") -> list[tuple[str, str, str]]:
        """Return (kind, who, budget) of each limit, in order."""
        shown = self.get(customer).context["limits"]
        return [(each["kind"], each["limit"].holder.label, each["limit"].budget.pk) for each in shown]


class AddressTests(CustomerPageTestCase):
    def test_an_address_without_one_customer_says_what_to_do(self):
        for query, expected in (
            ("", "Name one customer"),
            ("?customer=acme&customer=globex", "Name one customer"),
            ("?customer=", "Name one customer"),
            ("?no=customer", "Name one customer"),
            ("?customer=acme&model=o3", "use the overview"),
            ("?customer=acme&compare=customers", "use the overview"),
            ("?customer=acme&from=2026-02-30", "write it as 2026-03-31"),
            ("?customer=a%00b", "can be no customer"),
            ("?customer=acme&colour=red", "is no filter here"),
        ):
            with self.subTest(query=query):
                response = self.client.get(reverse(PAGE) + query)

                self.assertContains(response, expected, status_code=400)
                self.assertContains(response, "Choose a customer", status_code=400)
                for name, args in (("usage:customer-limits", []), ("usage:customer-export", ["csv"])):
                    answer = self.client.get(reverse(name, args=args) + query)
                    self.assertContains(answer, expected, status_code=400)

    def test_it_is_for_those_who_may_see_the_log(self):
        Customer.objects.create(id="acme")
        paths = [
            reverse(PAGE), reverse("usage:customer-limits"), reverse("usage:customer-export", args=["csv"]),
        ]  # fmt: skip
        for path in paths:
            with self.subTest(path=path):
                self.log_in_charlie()
                self.assertEqual(self.client.get(f"{path}?customer=acme").status_code, 403)
                self.client.logout()
                self.assertEqual(self.client.get(f"{path}?customer=acme").status_code, 302)

    def test_a_customer_that_nobody_knows_is_told(self):
        response = self.get("nobody")

        self.assertContains(response, "No customer has this id")
        self.assertNotContains(response, reverse("usage:handout-links"))

    def test_a_customer_without_calls_is_told_and_has_its_limits(self):
        Customer.objects.create(id="acme", budget=Budget.objects.create(id="pro", max_budget=Decimal(5)))

        response = self.get()

        self.assertContains(response, "No call in these days")
        self.assertContains(response, "No call yet in this period.")
        self.assertContains(response, "<b>No forecast:</b> too little is known.")

    def test_ids_are_taken_as_they_are(self):
        for customer in ("acme/eu & <b>", "кот/日本", "a?b=c#d", "%2e%2e"):
            with self.subTest(customer=customer):
                book_calls(make_call(cost_usd="2", customer_id=customer))

                response = self.get(customer)

                self.assertEqual(response.context["total"].charge, 2)
                self.assertNotContains(response, "<b>&lt;")
                settings_page = self.client.get(response.context["settings_url"])
                self.assertEqual(settings_page.context["original"].pk, customer)
                self.assertIn(
                    response.context["overview_url"], response.content.decode().replace("&amp;", "&")
                )

    def test_a_blocked_or_deleted_customer_is_told_so(self):
        Customer.objects.create(id="acme", blocked=True)
        Customer.objects.create(id="gone", deleted_at=NOON)

        self.assertContains(self.get("acme"), "every call of this customer is refused")
        self.assertContains(self.get("gone"), "This customer was deleted")

    def test_the_customers_tab_list_and_page_lead_here_and_it_leads_back(self):
        book_calls(make_call(customer_id="acme"))
        here = f"{reverse(PAGE)}?customer=acme"

        [line] = self.client.get(reverse("usage:customers")).context["table"].lines
        self.assertEqual(line.url, here)
        narrowed = self.client.get(reverse("usage:customers") + "?model=gpt-4o").context["table"].lines[0]
        self.assertTrue(narrowed.url.startswith(f"{reverse('usage:overview')}?"))
        self.assertContains(self.client.get(reverse("admin:customers_customer_changelist")), f'href="{here}"')
        change = reverse("admin:customers_customer_change", args=["acme"])
        self.assertContains(self.client.get(change), f'href="{here}"')
        self.assertContains(self.client.get(reverse("usage:overview") + "?customer=acme"), f'href="{here}"')
        self.assertContains(self.get(query=""), f'href="{change}"')
        self.log_in_charlie()
        self.charlie.user_permissions.add(_permission("view_customer"))
        self.assertNotContains(self.client.get(change), here)
        self.assertNotContains(self.client.get(reverse("admin:customers_customer_changelist")), here)

    def test_march_is_three_clicks_from_the_first_page(self):
        march = datetime(2026, 3, 10, tzinfo=UTC)
        book_calls(
            make_call(cost_usd="3", customer_id="acme", at=march), make_call(cost_usd="1", customer_id="acme")
        )

        customers = reverse("admin:customers_customer_changelist")
        self.assertContains(self.client.get(reverse("admin:index")), f'href="{customers}"')
        self.assertContains(self.client.get(customers), f'href="{reverse(PAGE)}?customer=acme"')
        months = {month["label"]: month["url"] for month in self.get(query="").context["picker"]["months"]}
        response = self.client.get(months["Mar 2026"])

        self.assertEqual(response.context["total"].charge, 3)
        chosen = [month["label"] for month in response.context["picker"]["months"] if month["is_chosen"]]
        self.assertEqual(chosen, ["Mar 2026"])
        self.assertEqual(next(iter(months)), "Jul 2026")
        self.assertEqual(self.client.get(months["Jul 2026"]).context["total"].charge, 1)


def _permission(codename: str):
    from django.contrib.auth.models import Permission

    return Permission.objects.get(codename=codename)


class LimitTests(CustomerPageTestCase):
    def test_every_limit_is_shown_in_the_order_of_enforcement(self):
        budgets = {name: Budget.objects.create(id=name, max_budget=Decimal(9)) for name in "bcdegkt"}
        team = Team.objects.create(id="red", budget=budgets["t"], member_budget=budgets["b"])
        bob = User.objects.create_user("bob", password="x", id="bob", budget=budgets["e"])
        TeamMembership.objects.create(team=team, user=bob)
        Tag.objects.create(name="search", budget=budgets["g"])
        key, _ = create_key(alias="shop", budget=budgets["k"])
        limits = GatewayLimits.current()
        limits.budget = budgets["d"]
        limits.save()
        Customer.objects.create(id="acme", budget=budgets["c"])
        common = {"customer_id": "acme", "key_id": key.pk.bytes, "tags": ["search"]}
        book_calls(make_call(team_id="red", user_id="bob", **common))

        expected = [
            ("team member", "bob in red", "b"), ("key", "shop", "k"), ("team", "red", "t"),
            ("tag", "search", "g"), ("customer", "acme", "c"), ("gateway", "the gateway", "d"),
        ]  # fmt: skip
        self.assertEqual(self.limits(), expected)
        with override_settings(APPLY_USER_BUDGET_TO_TEAM_KEYS=True):
            self.assertIn(("user", "bob", "e"), self.limits())
        book_calls(make_call(user_id="bob", at=NOON - timedelta(hours=1), **common))
        self.assertEqual(self.limits(), [*expected[:4], ("user", "bob", "e"), *expected[4:]])

    def test_without_a_budget_of_its_own_it_has_its_keys_default_and_the_gateways(self):
        free = Budget.objects.create(id="free", max_budget=Decimal(1))
        trial = Budget.objects.create(id="trial", rpm_limit=5)
        key, _ = create_key(alias="shop", customer_budget=trial)
        limits = GatewayLimits.current()
        limits.customer_budget = free
        limits.save()
        book_calls(make_call(customer_id="acme", key_id=key.pk.bytes), make_call(customer_id="globex"))

        self.assertEqual(self.limits(), [("customer", "acme", "trial"), ("customer", "acme", "free")])
        self.assertContains(self.get(), "calls with the key shop: its default for customers")
        self.assertContains(self.get(), "Limited to 5 requests a minute.")
        self.assertEqual(self.limits("globex"), [("customer", "globex", "free")])
        self.assertContains(self.get("globex"), "all its calls: the gateway&#x27;s default for customers")

    def test_a_budget_that_limits_nothing_leaves_the_customer_to_the_default(self):
        limits = GatewayLimits.current()
        limits.customer_budget = Budget.objects.create(id="free", max_budget=Decimal(1))
        limits.save()
        Customer.objects.create(id="acme", budget=Budget.objects.create(id="empty", soft_budget=Decimal(1)))

        self.assertEqual(self.limits(), [("customer", "acme", "free")])

    def test_nothing_that_limits_is_said(self):
        Customer.objects.create(id="acme")

        self.assertContains(self.get(), "nothing limits what this customer spends")

    def test_bars_are_live_and_say_what_is_spent_and_held(self):
        budget = Budget.objects.create(id="pro", max_budget=Decimal(10), budget_duration="1mo")
        Customer.objects.create(id="acme", budget=budget)
        settle(admitted((july(), "10"), at=NOON - timedelta(hours=1)), cost_usd="2.5")
        admitted((july(), "10"), at=NOON, amount_usd="0.75")

        url = self.get().context["limits_url"]
        fragment = self.client.get(url)

        self.assertContains(self.get(), f'data-live="{url}"'.replace("&", "&amp;"))
        self.assertContains(fragment, "$2.50 of $10.00")
        self.assertContains(fragment, "$0.75 held by 1 call under way")
        self.assertNotContains(fragment, "<html")
        settle(admitted((july(), "10"), at=NOON), cost_usd="1")
        self.assertContains(self.client.get(url), "$3.50 of $10.00")

    def test_a_forecast_says_when_the_limit_is_reached(self):
        budget = Budget.objects.create(id="pro", max_budget=Decimal(40), budget_duration="1mo")
        Customer.objects.create(id="acme", budget=budget)
        for day in range(10):
            settle(admitted((july(), "40"), at=NOON - timedelta(days=day, hours=1)), cost_usd="2")

        [shown] = self.get().context["limits"][0]["bars"]

        # Seven days at $2, the last one half over; $20 of $40 are spent, and are reached within ten days.
        per_day = Decimal(14) / Decimal("6.5")
        self.assertEqual(shown["per_day"], f"${per_day:.2f}")
        days_left = (Decimal(40) - 20) / per_day
        self.assertEqual(shown["exceeds_on"], (NOON + timedelta(days=float(days_left))).date().isoformat())
        self.assertEqual(shown["at_end"], f"${20 + per_day * Decimal('16.5'):.2f}")
        self.assertTrue(shown["drawing"].is_over)
        self.assertContains(self.get(), f"Reaches the limit on {shown['exceeds_on']}")

    def test_too_little_is_said_instead_of_a_guess(self):
        budget = Budget.objects.create(id="pro", max_budget=Decimal(40), budget_duration="1mo")
        Customer.objects.create(id="acme", budget=budget)
        settle(admitted((july(), "40"), at=NOON - timedelta(hours=1)), cost_usd="2")

        self.assertContains(self.get(), "<b>No forecast:</b> too little is known.")
        self.assertNotContains(self.get(), "Reaches the limit")

    def test_a_budget_for_all_time_and_one_of_a_model_have_forecasts_of_their_own(self):
        by_model = {"o3": {"budget_limit": "5", "time_period": "1mo"}}
        budget = Budget.objects.create(id="pro", max_budget=Decimal(100), model_max_budget=by_model)
        Customer.objects.create(id="acme", budget=budget)
        of_o3 = july(scope="o3")
        for day in range(10):
            at = NOON - timedelta(days=day, hours=1)
            settle(admitted((all_time(), "100"), (of_o3, "5"), at=at, model="o3"), cost_usd="0.1")
            settle(admitted((all_time(), "100"), at=at), cost_usd="1")

        everything, o3 = self.get().context["limits"][0]["bars"]

        self.assertEqual((everything["at_end"], everything["drawing"]), ("", None))
        self.assertEqual(everything["per_day"], f"${Decimal('7.7') / Decimal('6.5'):.2f}")
        self.assertEqual(o3["per_day"], f"${Decimal('0.7') / Decimal('6.5'):.3f}")
        self.assertEqual(o3["exceeds_on"], "")

    def test_the_drawing_ends_at_what_the_bar_says(self):
        budget = Budget.objects.create(id="pro", max_budget=Decimal(40), budget_duration="1mo")
        customer = Customer.objects.create(id="acme", budget=budget)
        for day in (0, 3, 20):  # the last one was in June
            at = NOON - timedelta(days=day, hours=1)
            settle(admitted(*(((july(), "40"),) if day < 14 else ()), at=at), cost_usd="2")
        limits = [each["limit"] for each in self.get().context["limits"]]

        [outlook] = outlooks(customer.pk, limits, at=NOON)
        drawing = burn_up(outlook, at=NOON)

        self.assertEqual(outlook.bar.spent, 4)
        self.assertEqual(len(outlook.days), 15)
        self.assertEqual([amount for _, amount in outlook.days][10:], [0, 2, 2, 2, 4])
        # A limit of 40 is the top of the drawing, less 5 % of headroom; 14.5 of 31 days are over.
        self.assertEqual(drawing.limit_y, f"{40 - 40 / 1.05:.2f}")
        self.assertEqual(drawing.spent.split()[-1], f"{14.5 / 31 * 100:.2f},{40 - 40 * 4 / 42:.2f}")

    def test_periods_that_days_do_not_add_up_to_are_not_drawn(self):
        for duration in ("1d", "12h", ""):
            with self.subTest(duration=duration):
                name = f"acme-{duration}"
                budget = Budget.objects.create(max_budget=Decimal(5), budget_duration=duration)
                Customer.objects.create(id=name, budget=budget)

                [shown] = self.get(name).context["limits"][0]["bars"]

                self.assertIsNone(shown["drawing"])


class FigureTests(CustomerPageTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.key, _ = create_key(alias="shop")
        Customer.objects.create(id="acme", alias="Acme Corp")
        told = {
            "scope": "customer", "id": "acme", "limit": "1", "spent": "1", "held": "0", "provisional": "0",
            "hold": "0.5", "resets_at": "2026-08-01T00:00:00Z",
        }  # fmt: skip
        refused = {"status": "refused", "usage": Usage(), "http_status": 400, "error_type": "budget_exceeded"}
        book_calls(
            make_call(
                cost_usd="1", customer_id="acme", session_id="s-1", tags=["a", "b"],
                key_id=cls.key.pk.bytes,
            ),
            make_call(
                cost_usd="2", customer_id="acme", session_id="s-2", model="o3", tags=["b"],
                at=NOON - timedelta(days=1), closed={"charge_nano": nano("2.5")},
            ),
            make_call(cost_usd="0.25", customer_id="acme", session_id="s-1", at=NOON - timedelta(minutes=90)),
            make_call(cost_usd=None, customer_id="acme", session_id="s-3", client_tool="curl"),
            make_call(cost_usd="0", customer_id="acme", closed=refused, metadata={"refusal": told}),
            make_call(
                cost_usd="0", customer_id="acme", at=NOON - timedelta(hours=1),
                closed={"status": "failure", "usage": Usage(), "http_status": 503,
                        "error_type": "upstream_error", "error_message": "The provider is <busy>."},
            ),
            make_call(cost_usd="7", customer_id="acme", session_id="s-june", at=NOON - timedelta(days=20)),
            make_call(cost_usd="8", customer_id="globex", session_id="s-1"),
        )  # fmt: skip
        ReconcileRun.objects.create(started_at=NOON, seconds=1, rows_compared=9, differences=0)

    def test_cards_chart_breakdowns_and_export_are_one_sum(self):
        response = self.get()
        total = Decimal("3.75")

        self.assertEqual(response.context["total"].charge, total)
        drawn = response.context["chart"]["data"]["series"]
        self.assertEqual(sum(Decimal(value) for each in drawn for value in each["values"]), total)
        for breakdown in response.context["breakdowns"]:
            if breakdown.tab.slug != "tags":
                with self.subTest(breakdown.tab.slug):
                    self.assertEqual(sum(line.spend for line in breakdown.lines), total)
        rows = list(csv.DictReader(io.StringIO(self.export("csv").content.decode())))
        self.assertEqual(sum(Decimal(row["charge_usd"]) for row in rows if row["row"] == "name"), total)
        self.assertEqual([row["charge_usd"] for row in rows if row["row"] == "total"], ["3.75"])
        self.assertContains(response, "Verified 2026-07-15 12:00 UTC against the log: 0 differences.")

    def export(self, format_: str, customer: str = "acme"):
        return self.get(customer, name="usage:customer-export", args=[format_])

    def test_the_export_has_a_line_for_each_day_and_model(self):
        document = json.loads(self.export("json").content)

        self.assertEqual(document["filters"], {"customer": ["acme"]})
        self.assertEqual(
            {
                (row["day"], row["model"]): row["charge_usd"]
                for row in document["rows"]
                if row["row"] == "name"
            },
            {("2026-07-15", "gpt-4o"): "1.25", ("2026-07-14", "o3"): "2.5"},
        )
        self.get(name="usage:customer-export", args=["xml"], status=400)

    def test_no_cell_of_an_export_is_a_formula(self):
        book_calls(make_call(cost_usd="1", customer_id="=1+1", model="=cmd|' /C calc'!A0"))

        self.assertIn(",'=cmd|", self.export("csv", "=1+1").content.decode())

    def test_each_breakdown_has_its_lines_and_what_leads_further(self):
        response = self.get()
        found = {each.tab.slug: each for each in response.context["breakdowns"]}

        self.assertEqual([(line.label, line.spend) for line in found["models"].lines],
                         [("o3", Decimal("2.5")), ("gpt-4o", Decimal("1.25"))])  # fmt: skip
        self.assertEqual({line.label: line.spend for line in found["keys"].lines},
                         {"Master key": Decimal("2.75"), "shop": Decimal(1)})  # fmt: skip
        self.assertEqual([(line.label, line.spend) for line in found["tags"].lines],
                         [("b", Decimal("3.5")), ("a", Decimal(1))])  # fmt: skip
        self.assertIn("counts under each", found["tags"].note)
        self.assertIn("Unknown client", [line.label for line in found["clients"].lines])
        o3 = found["models"].lines[0]
        query = parse_qs(urlsplit(o3.url).query)
        self.assertEqual((query["customer"], query["model"]), (["acme"], ["o3"]))
        logs = self.client.get(o3.logs_url).context["cl"].result_list
        self.assertEqual([log.model for log in logs], ["o3"])
        self.assertEqual(self.client.get(found["keys"].url).context["total"].charge, Decimal("3.75"))

    def test_the_names_beyond_the_first_are_one_line(self):
        book_calls(
            *(make_call(cost_usd="0.1", customer_id="acme", model=f"m{number}") for number in range(12))
        )

        models = self.get().context["breakdowns"][0]

        self.assertEqual((len(models.lines), models.lines[-1].kind), (11, "rest"))
        self.assertEqual(models.lines[-1].label, "All other models")
        self.assertEqual(sum(line.figures.calls for line in models.lines), 6 + 12)

    def test_sessions_are_those_of_these_days_and_of_this_customer(self):
        shown = self.get().context["sessions"]

        self.assertEqual(
            [(each["session"].id, each["spend"], each["calls"], each["lasted"]) for each in shown],
            [
                ("s-2", "$2.50", "1", "0 ms"),
                ("s-1", "$1.25", "2", "90 min 0 s"),
                ("s-3", "$0.00*", "1", "0 ms"),
            ],
        )

    def test_errors_and_refusals_say_why(self):
        response = self.get()
        found = {each["failure"].error_type: each for each in response.context["failures"]}

        self.assertEqual({name: each["calls"] for name, each in found.items()},
                         {"upstream_error": "1", "budget_exceeded": "1"})  # fmt: skip
        self.assertContains(response, "The provider is &lt;busy&gt;.")
        self.assertContains(response, "was used up: a call at its limit is refused.")
        logs = self.client.get(found["budget_exceeded"]["logs_url"]).context["cl"].result_list
        self.assertEqual([log.error_type for log in logs], ["budget_exceeded"])
        self.assertEqual(self.client.get(found["upstream_error"]["latest_url"]).status_code, 200)

    def test_the_latest_calls_are_of_these_days(self):
        response = self.get()
        june = self.get(query="from=2026-06-01&to=2026-06-30")

        self.assertEqual(len(response.context["latest_calls"]["rows"]), 6)
        self.assertEqual(len(june.context["latest_calls"]["rows"]), 1)
        logs = self.client.get(response.context["logs_url"]).context["cl"].result_list
        self.assertEqual({log.customer_id for log in logs}, {"acme"})
        self.assertEqual(len(logs), 6)

    def test_what_is_looked_at_of_the_log_is_bounded_and_said(self):
        with (
            mock.patch("billing.reporting.customer_calls.LOOKED_AT", 2),
            mock.patch("billing.admin.usage.customer.LOOKED_AT", 2),
        ):
            response = self.get()

        self.assertContains(response, "Among the latest 2 calls of these days")
        found = response.context["sessions"]
        self.assertLessEqual(sum(int(each["calls"]) for each in found), 2)
        self.assertLessEqual(
            {each["session"].id for each in found}, {"s-1", "s-3"}
        )  # yesterday's is not among them

    def test_a_comparison_draws_the_period_before(self):
        series = self.get(query=f"{JULY}&compare=previous").context["chart"]["data"]["series"]

        self.assertEqual([each["name"] for each in series if each["kind"] == "before"],
                         ["Before, 2026-06-01 to 2026-06-30"])  # fmt: skip
        self.assertEqual(sum(Decimal(value) for value in series[-1]["values"]), 7)

    def test_the_chart_is_stacked_as_asked_for(self):
        for stack, names in (("key", {"Master key", "shop"}), ("client", {"curl", "Unknown client"})):
            with self.subTest(stack=stack):
                response = self.get(query=f"{JULY}&stack={stack}")
                self.assertEqual(
                    response.context["chart"]["stack"], {"client": "client tool"}.get(stack, stack)
                )
                self.assertEqual({each.name for each in response.context["chart"]["series"]}, names)

    def test_a_log_that_was_dropped_leaves_the_sums(self):
        from billing.models import SpendLog

        SpendLog.objects.all().delete()

        response = self.get()

        self.assertContains(response, "The log has none of them any more")
        self.assertEqual(response.context["total"].charge, Decimal("3.75"))

    @override_settings(REPORTING_TIME_ZONE="Asia/Tokyo")
    def test_calls_are_looked_for_in_the_days_of_the_reporting_zone(self):
        query = parse_qs(urlsplit(self.get().context["failures"][0]["logs_url"]).query)

        self.assertEqual(query["started_at_from"], ["2026-07-01T00:00:00+09:00"])
        self.assertEqual(query["started_at_to"], ["2026-08-01T00:00:00+09:00"])

    def test_it_makes_as_many_queries_however_much_there_is(self):
        few = self.queries()
        team = Team.objects.create(id="red")
        for number in range(30):
            key, _ = create_key(alias=f"key {number}", team=team)
            book_calls(
                make_call(
                    cost_usd="0.1", customer_id="acme", model=f"m{number}", key_id=key.pk.bytes,
                    tags=[f"t{number}"], team_id=f"red{number}", user_id=f"u{number}",
                    session_id=f"x{number}", at=NOON - timedelta(hours=number), client_tool=f"tool{number}",
                )
            )  # fmt: skip
        many = self.queries()

        # Besides: budgets of teams and of their members, of which there were none.
        self.assertEqual(len(many), len(few) + 2, "\n".join(each[:150] for each in many))
        self.assertLessEqual(len(many), 30)
        of_the_log = [each for each in many if "billing_spendlog" in each]
        self.assertEqual(len(of_the_log), 2)  # the latest calls in short, and some of them whole
        for each in of_the_log:
            self.assertTrue("LIMIT" in each or '"id" IN (' in each, each)

    def queries(self) -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            self.get()
        # Reports ask which of their days are summed up already; that is theirs to pin.
        return [each["sql"] for each in captured if "billing_closedspan" not in each["sql"]]


class CallsTests(CustomerPageTestCase):
    def sessions(self, customer: str, start: datetime, end: datetime) -> list[str]:
        return [each.id for each in look(customer, start, end, most=2, latest=1).sessions]

    def test_ties_are_told_in_one_order(self):
        book_calls(*(make_call(cost_usd="1", customer_id="acme", session_id=name) for name in "bca"))
        day = timedelta(days=1)

        self.assertEqual(self.sessions("acme", NOON - day, NOON + day), ["a", "b"])

    def test_a_call_of_an_instant_is_in_the_day_that_begins_with_it(self):
        book_calls(make_call(cost_usd="1", customer_id="acme", session_id="s"))
        day = timedelta(days=1)

        self.assertEqual(self.sessions("acme", NOON, NOON + day), ["s"])
        self.assertEqual(self.sessions("acme", NOON - day, NOON), [])
        self.assertEqual(self.sessions("globex", NOON, NOON + day), [])

    def test_failures_that_are_alike_are_one_and_the_latest_says_why(self):
        common = {"status": "failure", "usage": Usage(), "http_status": 503, "error_type": "upstream_error"}
        book_calls(
            *(
                make_call(
                    cost_usd="0", customer_id="acme", at=NOON - timedelta(minutes=minutes),
                    closed={**common, "error_message": f"busy {minutes}", **other},
                )
                for minutes, other in (
                    (1, {}), (2, {}), (3, {"http_status": None}), (4, {"http_status": 500}),
                )
            )
        )  # fmt: skip

        found = look("acme", NOON - timedelta(days=1), NOON, most=9, latest=2)

        self.assertEqual(
            [(each.http_status, each.calls, each.latest.error_message) for each in found.failures],
            [(503, 2, "busy 1"), (None, 1, "busy 3"), (500, 1, "busy 4")],
        )
        self.assertEqual([log.error_message for log in found.latest], ["busy 1", "busy 2"])
