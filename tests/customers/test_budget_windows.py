"""Further windows of a budget: read, kept, told by every holder's route, and compared with what is spent."""

from datetime import timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError
from django.test import SimpleTestCase, TestCase
from django.utils import timezone

from billing.books.adjustments import initial_spend
from billing.budgets.bars import Holder, allowances, bars_now
from billing.budgets.periods import ensure_periods
from billing.budgets.status import spending_of
from billing.bulk import microseconds
from billing.models import HolderType
from customers.budget_windows import MOST_WINDOWS, read_windows
from customers.models import Budget, Customer, Team, TeamMembership, User
from proxy.tiers import Behind, LimitsOfHolders, Tiers, holders, tier_of
from proxy.tiers import Holder as TierHolder
from tests.customers.exact_calls import ExactApiTestCase, instant

DAY_AND_MONTH = [{"budget_duration": "1d", "max_budget": 5}, {"budget_duration": "30d", "max_budget": 50}]


class ReadingTests(SimpleTestCase):
    def assert_refused(self, value, *fragments):
        with self.assertRaises(ValidationError) as raised:
            read_windows(value)
        told = " ".join(raised.exception.messages)
        for fragment in fragments:
            self.assertIn(fragment, told)

    def test_the_canonical_form(self):
        windows = read_windows([{"budget_duration": "24h", "max_budget": 0.1}, *DAY_AND_MONTH[1:]])

        self.assertEqual(
            [window.as_json() for window in windows],
            [{"budget_duration": "1d", "max_budget": "0.1"}, {"budget_duration": "1mo", "max_budget": "50"}],
        )
        self.assertEqual(read_windows(None), [])

    def test_what_answers_add_is_taken_back(self):
        [window] = read_windows([{**DAY_AND_MONTH[0], "reset_at": "2026-02-04T00:00:00Z"}])

        self.assertEqual(window.as_json(), {"budget_duration": "1d", "max_budget": "5"})

    def test_what_is_wrong_is_named_with_its_number(self):
        self.assert_refused({"1d": 5}, "Write a list")
        self.assert_refused([5], "window 1", "object")
        self.assert_refused([*DAY_AND_MONTH, {"max_budget": 1}], "window 3", "give budget_duration")
        self.assert_refused([{"budget_duration": "1d"}], "give max_budget")
        self.assert_refused([{"budget_duration": "1d", "max_budget": -1}], "at least 0")
        self.assert_refused([{"budget_duration": "1d", "max_budget": "0.1234567891"}], "window 1")
        self.assert_refused([{"budget_duration": "1d", "max_budget": True}], "window 1")
        self.assert_refused([{"budget_duration": "1 day", "max_budget": 1}], "budget_duration '1 day'")
        self.assert_refused([{**DAY_AND_MONTH[0], "rpm": 1}], "'rpm' is unknown")

    def test_one_duration_has_one_limit_however_it_is_written(self):
        self.assert_refused(
            [*DAY_AND_MONTH, {"budget_duration": "24h", "max_budget": 6}], "two limits for 1d"
        )
        self.assert_refused(
            [{"budget_duration": f"{hours}h", "max_budget": 1} for hours in range(1, MOST_WINDOWS + 2)],
            f"at most {MOST_WINDOWS}",
        )


class CleaningTests(SimpleTestCase):
    def test_max_budget_is_the_limit_of_its_own_duration(self):
        budget = Budget(max_budget=Decimal(1), budget_duration="daily", budget_limits=DAY_AND_MONTH)

        with self.assertRaises(ValidationError) as raised:
            budget.clean()

        self.assertIn("two limits for 1d", raised.exception.message_dict["budget_limits"][0])

    def test_without_max_budget_its_duration_is_free(self):
        budget = Budget(budget_duration="daily", budget_limits=DAY_AND_MONTH)

        budget.clean()

        self.assertEqual(budget.budget_limits[1], {"budget_duration": "1mo", "max_budget": "50"})


class ClaimTests(SimpleTestCase):
    """What a call has to fit under."""

    def limits(self, budget, model="m"):
        at = microseconds(timezone.now())
        behind = Behind(key_id="k", key_label="key", key_tier=tier_of(budget))
        found: list[TierHolder] = list(holders(Tiers(), behind, user_pays_in_team=False))
        return LimitsOfHolders(ZoneInfo("UTC")).find(found, model, at)

    def test_each_window_is_a_claim_of_its_own(self):
        budget = Budget(
            max_budget=Decimal(100), budget_duration="1w", budget_limits=DAY_AND_MONTH,
            model_max_budget={"m": {"budget_limit": "1", "time_period": "1d"}},
        )  # fmt: skip
        budget.clean()

        claims = self.limits(budget).claims

        self.assertEqual(
            [(claim.period.scope, claim.period.window.split()[0], claim.limit_nano) for claim in claims],
            [
                ("", "1w", 100 * 10**9), ("", "1d", 5 * 10**9), ("", "1mo", 50 * 10**9), ("m", "1d", 10**9),
            ],
        )  # fmt: skip

    def test_windows_alone_limit(self):
        self.assertEqual(len(self.limits(Budget(budget_limits=DAY_AND_MONTH)).claims), 2)

    def test_a_temporary_increase_raises_max_budget_alone(self):
        budget = Budget(
            max_budget=Decimal(1), budget_limits=DAY_AND_MONTH, temp_budget_increase=Decimal(1),
            temp_budget_expiry=timezone.now() + timedelta(days=1),
        )  # fmt: skip

        self.assertEqual([claim.limit_nano // 10**9 for claim in self.limits(budget).claims], [2, 5, 50])


class BarTests(TestCase):
    def test_each_window_has_a_bar_and_its_use(self):
        at = timezone.now()
        budget = Budget.objects.create(max_budget=Decimal(7), budget_limits=DAY_AND_MONTH)
        customer = Customer.objects.create(pk="acme", budget=budget)
        initial_spend(customer_id=customer.pk, amount=Decimal(2), at=at)
        ensure_periods(each.period(("customer", "acme"), at) for each in allowances(budget))

        bars = bars_now([Holder("customer", "acme", "acme", budget)], at=at)["customer", "acme"]
        spending = spending_of(HolderType.CUSTOMER, [("acme", budget)], at=at)["acme"]

        self.assertEqual(
            [(bar.duration, bar.limit, bar.is_window) for bar in bars],
            [("all time", 7, False), ("1d", 5, True), ("1mo", 50, True)],
        )
        self.assertEqual(spending.period["limit"], 7)
        usage = spending.usage["budget_limits_usage"]
        self.assertEqual({name: each["max_budget"] for name, each in usage.items()}, {"1d": 5, "1mo": 50})
        self.assertEqual({name: each["current_spend"] for name, each in usage.items()}, {"1d": 2, "1mo": 2})


class RouteTests(ExactApiTestCase):
    """Every holder's routes take and tell them."""

    def assert_told(self, row):
        self.assertEqual(
            [{name: each[name] for name in DAY_AND_MONTH[0]} for each in row["budget_limits"]],
            [{"budget_duration": "1d", "max_budget": 5.0}, {"budget_duration": "1mo", "max_budget": 50.0}],
        )
        for each in row["budget_limits"]:
            self.assertGreater(instant(each["reset_at"]), timezone.now())

    def test_budgets(self):
        made = self.done(self.post("/budget/new", {"budget_id": "gold", "budget_limits": DAY_AND_MONTH}))
        self.assert_told(made)

        again = self.done(self.post("/budget/update", made))
        self.assert_told(again)

        cleared = self.done(self.post("/budget/update", {"budget_id": "gold", "budget_limits": None}))
        self.assertIsNone(cleared["budget_limits"])

    def test_keys(self):
        made = self.done(self.post("/key/generate", {"budget_limits": DAY_AND_MONTH, "max_budget": 99}))
        self.assert_told(made)

        info = self.done(self.get("/key/info", key=made["key"]))["info"]
        self.assert_told(info)
        self.assertEqual(set(info["budget_limits_usage"]), {"1d", "1mo"})
        self.assertEqual(info["budget_limits_usage"]["1d"]["current_spend"], 0)
        self.assertIsNone(info["model_max_budget_usage"])

        self.done(
            self.post(
                "/key/update",
                {"key": made["key"], "model_max_budget": {"m": {"budget_limit": 2, "time_period": "1d"}}},
            )
        )
        info = self.done(self.get("/key/info", key=made["key"]))["info"]
        self.assert_told(info)
        self.assertEqual(
            info["model_max_budget_usage"],
            {"m": {"current_spend": 0, "budget_limit": 2, "time_period": "1d"}},
        )

    def test_customers_tags_teams_users_and_members(self):
        customer = self.done(self.post("/customer/new", {"user_id": "c", "budget_limits": DAY_AND_MONTH}))
        self.assert_told(customer["litellm_budget_table"])
        self.assertEqual(set(customer["budget_limits_usage"]), {"1d", "1mo"})

        self.done(self.post("/tag/new", {"name": "t", "budget_limits": DAY_AND_MONTH}))
        tag = self.done(self.post("/tag/info", {"names": ["t"]}))["t"]
        self.assert_told(tag["litellm_budget_table"])

        self.assert_told(self.done(self.post("/team/new", {"team_id": "t", "budget_limits": DAY_AND_MONTH})))
        made = self.post("/user/new", {"user_id": "u", "budget_limits": DAY_AND_MONTH})
        self.assert_told(self.done(made))

    def test_a_member_keeps_the_team_s_windows_where_it_gets_limits_of_its_own(self):
        of_members = Budget.objects.create(budget_limits=DAY_AND_MONTH)
        team = Team.objects.create(pk="t", member_budget=of_members)
        TeamMembership.objects.create(team=team, user=User.objects.create(pk="u", username="u"))

        self.done(self.post("/team/member_update", {"team_id": "t", "user_id": "u", "max_budget_in_team": 9}))

        own = TeamMembership.objects.select_related("budget").get().budget
        self.assertEqual((own.max_budget, len(own.budget_limits)), (9, 2))

    def test_what_is_wrong_is_refused_and_nothing_is_made(self):
        wrong = [{"budget_duration": "1d", "max_budget": 1}, {"budget_duration": "24h", "max_budget": 2}]

        for path in ("/key/generate", "/budget/new", "/user/new", "/team/new"):
            with self.subTest(path=path):
                before = Budget.objects.count()
                self.assertEqual(self.post(path, {"budget_limits": wrong})[0], 400)
                self.assertEqual(Budget.objects.count(), before)
