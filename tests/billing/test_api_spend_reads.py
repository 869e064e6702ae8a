"""The small reads of spend, by contract 6.4: each against sums of the log."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

from billing.booking.rollups import FAILED
from billing.budgets.status import prepare_periods
from billing.models import BudgetPeriod, HolderType, SpendLog, SpendTotal
from billing.views import ranges
from customers.models import AuditLog, Budget, Customer, GatewayLimits
from tests.billing.test_api_spend import FIRST, MASTER_NAME, RANGE, ZERO, SpendTestCase, model_of


class ReadTests(SpendTestCase):
    """On the last day with calls: so the last 30 days have all of them."""

    def setUp(self):
        now = mock.patch.object(ranges.timezone, "now", return_value=FIRST + timedelta(days=4))
        now.start()
        self.addCleanup(now.stop)

    def spent(self, rows: list[dict[str, Any]], name: str, spend: str = "total_spend") -> dict[str, Decimal]:
        self.assertEqual(len({row[name] for row in rows}), len(rows))
        amounts = [row[spend] for row in rows]
        self.assertEqual(amounts, sorted(amounts, reverse=True))
        return {row[name]: row[spend] for row in rows}

    def by_tag(self) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for log, _, cost, _, _ in self.facts():
            for tag in log.tags:
                sums[tag] = sums.get(tag, ZERO) + cost
        return sums

    def test_tags(self):
        by_tag = self.by_tag()

        self.assertEqual(self.spent(self.ask("/spend/tags"), "individual_request_tag"), by_tag)
        told = self.ask("/global/spend/tags", **RANGE)
        self.assertEqual(self.spent(told["spend_per_tag"], "name", "spend"), by_tag)
        tagged = self.summed(lambda log, _: None, where=lambda log: log.tags)
        self.assertEqual(told["deduplicated"]["spend"], tagged[None])
        two = self.ask("/global/spend/tags", tags="a,b", **RANGE)["spend_per_tag"]
        self.assertEqual(self.spent(two, "name", "spend"), {tag: by_tag[tag] for tag in "ab"})
        self.assertEqual(self.ask("/global/spend/tags", tags="all-tags", **RANGE), told)
        self.assertEqual(self.ask("/global/spend/all_tag_names"), {"tag_names": ["a", "b", "c:d"]})
        [first] = self.ask("/spend/tags", start_date="2026-02-05", end_date="2026-02-05")[:1]
        self.assertLess(first["total_spend"], max(by_tag.values()))

    def test_everything_and_the_gateways_budget(self):
        self.assertEqual(
            self.ask("/global/spend"),
            {
                "spend": self.summed(lambda log, _: None)[None],
                "max_budget": None,
                "unpriced_requests": SpendLog.objects.filter(cost=None).count(),
            },
        )
        GatewayLimits.objects.update_or_create(
            pk=1, defaults={"budget": Budget.objects.create(pk="all", max_budget="100")}
        )
        self.assertEqual(self.ask("/global/spend")["max_budget"], Decimal(100))

    def test_days(self):
        days = {row["date"]: row["spend"] for row in self.ask("/global/spend/logs")}
        self.assertEqual(days, self.summed(lambda log, day: day))
        alice = self.keys["alice"]
        rows = self.ask("/global/spend/logs", api_key=alice.token_hash)
        self.assertEqual({row["api_key"] for row in rows}, {alice.token_hash})
        self.assertEqual(
            {row["date"]: row["spend"] for row in rows},
            self.summed(lambda log, day: day, where=lambda log: log.key_id == alice.pk),
        )
        self.assertEqual(self.ask("/global/spend/logs", api_key="sk-of-nobody"), [])

    def test_keys(self):
        expected = self.summed(lambda log, _: self.key_name(log))
        rows = self.ask("/global/spend/keys")
        self.assertEqual(self.spent(rows, "api_key"), expected)
        self.assertEqual(len(self.ask("/global/spend/keys", limit=2)), 2)
        del expected[MASTER_NAME], expected[str(self.purged)]
        self.assertEqual(self.spent(self.ask("/spend/keys"), "token", "spend"), expected)

    def test_users(self):
        expected = self.summed(lambda log, _: log.user_id, where=lambda log: log.user_id)
        self.assertEqual(self.spent(self.ask("/spend/users"), "user_id", "spend"), expected)
        [bob] = self.ask("/spend/users", user_id="bob")
        self.assertEqual(bob["spend"], expected["bob"])

    def test_teams(self):
        told = self.ask("/global/spend/teams")

        names = {"t-sales": "Sales", "t-labs": "t-labs", None: "Unassigned Team"}
        expected = self.summed(lambda log, _: names[log.team_id])
        self.assertEqual(self.spent(told["total_spend_per_team"], "team_id"), expected)
        self.assertEqual(set(told["teams"]), set(expected))
        days = {
            (day["date"], name): spend
            for day in told["daily_spend"]
            for name, spend in day.items()
            if name != "date"
        }
        self.assertEqual(days, self.summed(lambda log, day: (day, names[log.team_id])))

    def test_customers_are_told_the_charge(self):
        rows = self.post("/global/spend/end_users", {})
        charged = self.summed(lambda log, _: log.customer_id or "", charge=True)
        self.assertEqual(
            {row["end_user"]: Decimal(str(row["total_spend"])).quantize(Decimal("1e-9")) for row in rows},
            {name: spend.quantize(Decimal("1e-9")) for name, spend in charged.items()},
        )
        self.assertEqual(sum(row["total_count"] for row in rows), SpendLog.objects.count())
        one = self.post("/global/spend/end_users", {"startTime": "2026-02-05T00:00:00.000Z", "api_key": None})
        on_day = SpendLog.objects.filter(started_at__gte=FIRST.replace(day=5, hour=0)).count()
        self.assertEqual(sum(row["total_count"] for row in one), on_day)
        self.post("/global/spend/end_users", {"startTime": "soon"}, status=400)
        self.post("/global/spend/end_users", {"startTime": "2026-03-05"}, status=400)
        ids = sorted(Customer.objects.values_list("pk", flat=True))
        self.assertEqual(self.ask("/global/all_end_users"), {"end_users": ids})

    def test_models_and_providers(self):
        models = self.ask("/global/spend/models")
        self.assertEqual(self.spent(models, "model"), self.summed(lambda log, _: model_of(log)))
        self.assertEqual(len(self.ask("/global/spend/models", limit=1)), 1)
        providers = self.ask("/global/spend/provider", **RANGE)
        self.assertEqual(self.spent(providers, "provider", "spend"), self.summed(lambda log, _: log.provider))

    def test_activity(self):
        logs = list(SpendLog.objects.all())
        told = self.ask("/global/activity", **RANGE)
        self.assertEqual(told["daily_data"][0]["date"], "Feb 01")
        self.assertEqual(told["sum_api_requests"], len(logs))
        self.assertEqual(told["sum_total_tokens"], sum(log.usage.total_tokens for log in logs))
        self.assertEqual(
            {each["model"]: each["sum_api_requests"] for each in self.ask("/global/activity/model", **RANGE)},
            {model: sum(log.model == model for log in logs) for model in ("gpt-4o", "claude", "in-house")},
        )
        failed = sum(log.status in FAILED for log in logs)
        self.assertEqual(self.ask("/global/activity/exceptions", **RANGE)["sum_num_exceptions"], failed)
        by_deployment = self.ask("/global/activity/exceptions/deployment", **RANGE)
        self.assertEqual(sum(each["sum_num_exceptions"] for each in by_deployment), failed)

    def test_what_has_no_dates_is_refused(self):
        for path in (
            "/global/spend/tags", "/global/spend/provider", "/global/activity", "/global/activity/model",
            "/global/activity/exceptions", "/global/activity/exceptions/deployment",
        ):  # fmt: skip
            self.ask(path, status=400)
        self.ask("/spend/tags", start_date="2026-03-01", end_date="2026-02-01", status=400)
        self.ask("/global/spend/keys", limit=0, status=422)
        self.ask("/global/spend/models", limit="many", status=422)

    def test_everybodys_spend_is_for_those_who_see_all_of_it(self):
        for path in (
            "/spend/keys", "/spend/users", "/spend/tags", "/global/spend", "/global/spend/logs",
            "/global/spend/keys", "/global/spend/teams", "/global/all_end_users", "/global/spend/models",
        ):  # fmt: skip
            self.ask(path, key="sk-key-of-alice", status=403)

    def test_each_read_makes_few_queries(self):
        for path, queries in (
            ("/spend/tags", 2), ("/global/spend", 3), ("/global/spend/logs", 2), ("/global/spend/keys", 3),
            ("/global/spend/teams", 3), ("/global/spend/models", 2), ("/spend/keys", 2), ("/spend/users", 3),
        ):  # fmt: skip
            with self.subTest(path), self.assertNumQueries(queries):
                self.ask(path)

    def test_there_are_no_budgets_of_providers_and_nothing_to_refresh(self):
        self.assertEqual(self.ask("/provider/budgets"), {"providers": {}})
        self.assertEqual(self.post("/global/spend/refresh")["status"], "success")


class ResetTests(SpendTestCase):
    def setUp(self):
        self.budget = Budget.objects.create(pk="tier", max_budget="50", budget_duration="")
        self.alice = self.keys["alice"]
        self.alice.budget = self.sales.budget = self.budget
        self.alice.save()
        self.sales.save()
        with self.captureOnCommitCallbacks(execute=True):
            for holder_type, holder_id in (("key", str(self.alice.pk)), ("team", "t-sales")):
                prepare_periods(HolderType(holder_type), holder_id, self.budget)

    def running(self) -> list[Decimal]:
        rows = BudgetPeriod.objects.filter(ends_at=None).order_by("pk")  # ended generations have an end
        self.assertEqual(len(rows), 2)
        return [row.spent for row in rows]

    def test_running_periods_of_keys_and_teams_count_from_zero_and_totals_stay(self):
        self.assertTrue(all(self.running()))
        totals = list(SpendTotal.objects.order_by("pk").values())

        told = self.post("/global/spend/reset")

        self.assertEqual((told["status"], told["periods"]), ("success", 2))
        self.assertEqual(self.running(), [0, 0])
        self.assertEqual(list(SpendTotal.objects.order_by("pk").values()), totals)
        self.assertEqual(AuditLog.objects.filter(after__has_key="spent_in_period").count(), 2)

    def test_it_takes_the_master_key(self):
        self.alice.user.role = "proxy_admin"
        self.alice.user.save()

        self.refused("/global/spend/reset", status=401, key="sk-key-of-alice")

        self.assertTrue(all(self.running()))


class TagReportTests(SpendTestCase):
    def setUp(self):
        now = mock.patch.object(ranges.timezone, "now", return_value=FIRST + timedelta(days=4))
        now.start()
        self.addCleanup(now.stop)

    def users_of(self, tag: str, *days: int) -> int:
        logs = [log for log in SpendLog.objects.all() if tag in log.tags]
        return len({log.user_id for log in logs if log.user_id and (not days or log.started_at.day in days)})

    def test_the_summary_counts_calls_and_users_of_each_tag(self):
        rows = self.ask("/tag/summary", **RANGE)["results"]

        costs = self.summed(lambda log, _: tuple(log.tags))
        for row in rows:
            tag = row["tag"]
            self.assertEqual(row["total_spend"], sum(spend for tags, spend in costs.items() if tag in tags))
            logs = [log for log in SpendLog.objects.all() if tag in log.tags]
            failed = sum(log.status in FAILED for log in logs)
            self.assertEqual((row["total_requests"], row["failed_requests"]), (len(logs), failed))
            self.assertEqual(row["successful_requests"], len(logs) - failed)
            self.assertEqual(row["unique_users"], self.users_of(tag))
        self.assertEqual({row["tag"] for row in rows}, {"a", "b", "c:d"})
        [one] = self.ask("/tag/summary", tag_filter="a", **RANGE)["results"]
        self.assertEqual(one["tag"], "a")
        self.assertEqual(self.ask("/tag/summary")["results"], rows)  # of the last 30 days
        self.ask("/tag/summary", start_date="2026-02-01", status=400)

    def test_all_tags_are_distinct(self):
        tags = [row["tag"] for row in self.ask("/tag/distinct")["results"]]
        self.assertEqual(tags, ["a", "b", "c:d"])

    def test_users_are_active_by_day_week_and_month(self):
        for row in self.ask("/tag/dau")["results"]:
            self.assertEqual(row["active_users"], self.users_of(row["tag"], int(row["date"][-2:])))
        for path, start in (("/tag/wau", "2026-01-30"), ("/tag/mau", "2026-01-07")):
            rows = self.ask(path, tag_filters="a,b")["results"]
            self.assertEqual([row["tag"] for row in rows], ["a", "b"])
            for row in rows:
                self.assertEqual((row["period_start"], row["period_end"]), (start, "2026-02-05"))
                self.assertEqual(row["active_users"], self.users_of(row["tag"]))

    def test_users_of_client_tools_come_in_pages(self):
        told = self.ask("/tag/user-agent/per-user-analytics")

        logs = list(SpendLog.objects.all())
        self.assertEqual(
            {(row["user_id"], row["user_agent"]): row["total_requests"] for row in told["results"]},
            {
                (user, tool or None): sum((log.user_id, log.client_tool) == (user, tool) for log in logs)
                for user, tool in {(log.user_id, log.client_tool) for log in logs}
            },
        )
        self.assertEqual(told["total_count"], len(told["results"]))
        second = self.ask("/tag/user-agent/per-user-analytics", page=2, page_size=2)
        self.assertEqual(second["results"], told["results"][2:4])
        curl = self.ask("/tag/user-agent/per-user-analytics", tag_filter="curl")["results"]
        self.assertEqual({row["user_agent"] for row in curl}, {"curl"})
