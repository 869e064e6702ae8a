"""Spend reports: /global/spend/report and each caller's own, by contract 6.1 and decisions 9 and 26."""

import json
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

from django.db import connection
from django.test.utils import CaptureQueriesContext

from billing.books.adjustments import adjust
from billing.models import Adjustment, SpendLog
from billing.usage import Usage
from billing.views import spend as spend_views
from customers.keys import hash_secret
from customers.models import Customer, Team, TeamMembership, User, VirtualKey
from tests.billing.making import book_calls, make_call
from tests.customers.calling import MASTER, ApiTestCase

FIRST = datetime(2026, 2, 1, 9, tzinfo=UTC)
RANGE = {"start_date": "2026-02-01", "end_date": "2026-02-05"}
MASTER_NAME = "litellm_proxy_master_key"
ZERO = Decimal(0)


class SpendTestCase(ApiTestCase):
    """A few hundred calls of all kinds over five days, booked as the recorder does."""

    @classmethod
    def setUpTestData(cls):
        dice = random.Random(7)
        cls.sales = Team.objects.create(pk="t-sales", alias="Sales")
        cls.labs = Team.objects.create(pk="t-labs")  # which has no alias
        for name in ("alice", "bob", "charlie"):
            User.objects.create(pk=name, username=name)
        TeamMembership.objects.create(team=cls.sales, user_id="alice", role="admin")
        TeamMembership.objects.create(team=cls.sales, user_id="bob", role="user")
        cls.keys = {
            name: VirtualKey.objects.create(
                token_hash=hash_secret(f"sk-key-of-{name}"), display_name="sk-...", alias=name, user_id=name
            )
            for name in ("alice", "bob", "charlie")
        }
        cls.purged = uuid.UUID(int=77)  # calls of a key whose row is gone
        ids = [None, cls.purged, *(key.pk for key in cls.keys.values())]
        book_calls(*(cls.random_call(dice, ids, number) for number in range(300)))
        Customer.objects.filter(pk="acme").update(alias="Acme Ltd")
        priced = SpendLog.objects.exclude(cost=None).filter(customer_id="acme").first()
        adjust(
            priced, cost_nano=7, charge_nano=-250_000_000,
            reason=Adjustment.Reason.REPRICING, at=FIRST + timedelta(days=2),
        )  # fmt: skip
        cls.adjusted = priced

    @staticmethod
    def random_call(dice: random.Random, ids: list[uuid.UUID | None], number: int) -> Any:
        status = dice.choice(["success"] * 6 + ["failure", "refused", "interrupted"])
        source = dice.choice(["provider"] * 5 + ["partial", "estimated", "cache"])
        is_unpriced = status == "success" and dice.random() < 0.1
        cost = None if is_unpriced else dice.randrange(10**9) if status != "refused" else 0
        key_id, model = dice.choice(ids), dice.choice(["gpt-4o", "claude", "in-house"])
        return make_call(
            at=FIRST + timedelta(days=dice.choice([0, 1, 2, 4]), seconds=number),
            key_id=None if key_id is None else key_id.bytes,
            team_id=dice.choice([None, "t-sales", "t-labs"]),
            user_id=dice.choice([None, "alice", "bob", "charlie"]),
            customer_id=dice.choice([None, "acme", "=beta", "gamma"]),
            model=model,
            dialect="anthropic_messages" if model == "claude" else "openai_chat",
            tags=dice.sample(["a", "b", "c:d"], dice.randrange(4)),
            client_tool=dice.choice(["", "Claude Code", "curl"]),
            closed={
                "status": status,
                "usage_source": source,
                "cost_nano": cost,
                "charge_nano": None if cost is None else cost + dice.randrange(10**6),
                "provider": "openai" if status != "refused" else "",
                "upstream_model": dice.choice(["gpt-4o-2024-08-06", "upstream-x"])
                if status != "refused"
                else "",
                "usage": Usage(*(dice.randrange(1000) for _ in range(11))),
            },
        )

    def facts(self) -> Iterator[tuple[SpendLog, str, Decimal, Decimal, int]]:
        """Yield (call, day, cost, charge, calls) of each call and adjustment, read from the log by hand."""
        for log in SpendLog.objects.all():
            yield log, log.started_at.date().isoformat(), log.cost or ZERO, log.charge or ZERO, 1
        for each in Adjustment.objects.all():
            day = each.booked_at.date().isoformat()
            yield SpendLog.objects.get(pk=each.log_id), day, each.cost, each.charge, 0

    def summed(
        self, of: Callable[[SpendLog, str], Any], *, charge: bool = False, where: Any = lambda log: True
    ) -> dict[Any, Decimal]:
        """Return Σ of what calls spent, by what `of` says of each."""
        sums: dict[Any, Decimal] = defaultdict(Decimal)
        for log, day, cost, charged, _ in self.facts():
            if where(log):
                sums[of(log, day)] += charged if charge else cost
        return dict(sums)

    def key_name(self, log: SpendLog) -> str:
        hashes = {key.pk: key.token_hash for key in self.keys.values()}
        return MASTER_NAME if log.key_id is None else hashes.get(log.key_id, str(log.key_id))

    def ask(self, path: str, *, key: str = MASTER, status: int = 200, **query: Any) -> Any:
        response = self.client.get(path, query, headers={"authorization": f"Bearer {key}"})
        self.assertEqual(response.status_code, status, response)
        body = b"".join(response.streaming_content) if response.streaming else response.content
        self.answered = response
        return json.loads(body, parse_float=Decimal)

    def report(self, **query: Any) -> Any:
        return self.ask("/global/spend/report", **{**RANGE, **query})


def model_of(log: SpendLog) -> str:
    return log.upstream_model or log.model


def found(days: Iterable[dict[str, Any]], kind: str, *names: str) -> dict[Any, Decimal]:
    """Return a report's sums by day, the names of what it lists, model and key."""
    sums = {}
    for day in days:
        for each in day[kind]:
            for line in each["metadata"]:
                of = (
                    day["group_by_day"][:10],
                    *(each[name] for name in names),
                    line["model"],
                    line["api_key"],
                )
                assert of not in sums
                sums[of] = line["spend"]
    return sums


class ReportTests(SpendTestCase):
    def test_by_team_it_is_the_log_to_the_last_nano_dollar(self):
        days = self.report()

        self.assertEqual(
            found(days, "teams", "team_id"),
            self.summed(lambda log, day: (day, log.team_id, model_of(log), self.key_name(log))),
        )
        self.assertEqual([day["group_by_day"] for day in days], sorted(day["group_by_day"] for day in days))
        self.assertEqual(days[0]["group_by_day"], "2026-02-01T00:00:00+00:00")

    def test_by_customer_it_tells_what_each_is_charged_and_calls_of_none(self):
        days = self.report(group_by="customer")

        self.assertEqual(
            found(days, "customers", "customer"),
            self.summed(
                lambda log, day: (day, log.customer_id or "", model_of(log), self.key_name(log)), charge=True
            ),
        )
        self.assertIn("", {each["customer"] for day in days for each in day["customers"]})

    def test_a_team_and_a_customer_together_have_a_report_of_their_own(self):
        days = self.report(team_id="t-sales", customer_id="acme")

        self.assertEqual(
            found(days, "teams_customers", "team_id", "customer"),
            self.summed(
                lambda log, day: (day, log.team_id, log.customer_id, model_of(log), self.key_name(log)),
                charge=True,
                where=lambda log: (log.team_id, log.customer_id) == ("t-sales", "acme"),
            ),
        )

    def test_each_total_is_the_sum_of_its_lines_and_the_most_is_first(self):
        for query, kind in (({}, "teams"), ({"group_by": "customer"}, "customers")):
            for day in self.report(**query)[:2]:
                spent = [each["total_spend"] for each in day[kind]]
                self.assertEqual(spent, sorted(spent, reverse=True))
                for each in day[kind]:
                    lines = [line["spend"] for line in each["metadata"]]
                    self.assertEqual(each["total_spend"], sum(lines))
                    self.assertEqual(lines, sorted(lines, reverse=True))

    def test_tokens_and_unpriced_and_estimated_calls_are_counted(self):
        logs = list(SpendLog.objects.all())

        lines = [line for day in self.report() for each in day["teams"] for line in each["metadata"]]

        for name, expected in (
            ("total_tokens", sum(log.usage.total_tokens for log in logs)),
            ("requests", len(logs)),
            ("unpriced_requests", sum(log.cost is None for log in logs)),
            ("estimated_requests", sum(log.usage_source in ("partial", "estimated") for log in logs)),
        ):
            self.assertEqual(sum(line[name] for line in lines), expected, name)

    def test_by_key_it_has_no_days(self):
        rows = self.report(group_by="api_key")

        self.assertEqual(
            {row["api_key"]: row["total_cost"] for row in rows},
            self.summed(lambda log, _: self.key_name(log)),
        )
        for row in rows:
            self.assertEqual(row["total_cost"], sum(each["total_cost"] for each in row["model_details"]))
        logs = list(SpendLog.objects.all())
        self.assertEqual(
            sum(row["total_input_tokens"] for row in rows), sum(log.usage.prompt_tokens for log in logs)
        )
        self.assertEqual(
            sum(row["total_output_tokens"] for row in rows), sum(log.usage.completion_tokens for log in logs)
        )

    def test_every_filter_is_honoured_in_every_form(self):
        filters = {
            "api_key": ("sk-key-of-alice", lambda log: log.key_id == self.keys["alice"].pk),
            "internal_user_id": ("bob", lambda log: log.user_id == "bob"),
            "team_id": ("t-sales", lambda log: log.team_id == "t-sales"),
            "customer_id": ("acme", lambda log: log.customer_id == "acme"),
        }
        for names in (
            ["team_id"], ["customer_id"], ["api_key"], ["internal_user_id"], ["api_key", "customer_id"],
            ["api_key", "internal_user_id", "team_id"], ["internal_user_id", "team_id", "customer_id"],
        ):  # fmt: skip
            for group_by in ("team", "customer", "api_key"):
                with self.subTest(names=names, group_by=group_by):
                    rows = self.report(group_by=group_by, **{name: filters[name][0] for name in names})

                    is_charged = "customer_id" in names or (group_by == "customer" and names == ["team_id"])
                    expected = self.summed(
                        lambda log, day: None,
                        charge=is_charged,
                        where=lambda log, names=names: all(filters[name][1](log) for name in names),
                    )
                    self.assertEqual(total_of(rows), expected.get(None, ZERO))

    def test_keys_go_by_their_hash_the_master_key_by_its_name_and_a_purged_one_by_its_id(self):
        for named in (self.keys["bob"].token_hash, MASTER_NAME, str(self.purged)):
            with self.subTest(named):
                [row] = self.report(api_key=named)

                self.assertEqual(row["api_key"], named)
        self.assertEqual(self.report(api_key="sk-of-nobody"), [])

    def test_teams_without_an_alias_are_unassigned(self):
        names = {(each["team_name"], each["team_id"]) for day in self.report() for each in day["teams"]}

        self.assertEqual(
            names, {("Sales", "t-sales"), ("Unassigned Team", "t-labs"), ("Unassigned Team", None)}
        )

    def test_the_fields_of_the_contract_are_there(self):
        [team, *_] = self.report()[0]["teams"]
        self.assertLessEqual({"team_name", "total_spend", "metadata"}, set(team))
        self.assertLessEqual({"model", "api_key", "spend", "total_tokens"}, set(team["metadata"][0]))
        [row, *_] = self.report(group_by="api_key")
        self.assertEqual(
            list(row)[:5],
            ["api_key", "total_cost", "total_input_tokens", "total_output_tokens", "model_details"],
        )

    def test_days_are_included_at_both_ends_and_nothing_is_an_empty_list(self):
        self.assertEqual(len(self.report(start_date="2026-02-05")), 1)
        self.assertEqual(len(self.report(start_date="2026-02-04")), 1)
        self.assertEqual(self.report(start_date="2020-01-01", end_date="2020-02-01"), [])
        self.assertEqual(self.report(group_by="api_key", start_date="2020-01-01", end_date="2020-02-01"), [])

    def test_a_long_report_is_made_in_parts_and_says_the_same(self):
        whole = self.report(group_by="customer")

        with mock.patch.object(spend_views, "_CALLS_OF_MANY", 50):
            self.assertEqual(self.report(group_by="customer"), whole)
            for at_once in (1, 2):
                with mock.patch.object(spend_views, "_CUSTOMERS_AT_ONCE", at_once):
                    self.assertEqual(self.report(group_by="customer"), whole)

    def test_the_number_of_queries_does_not_grow(self):
        for query, queries in (({}, 6), ({"group_by": "customer"}, 4), ({"group_by": "api_key"}, 3)):
            with self.subTest(query), self.assertNumQueries(queries):
                self.report(**query)

    def test_the_log_is_never_read(self):
        with CaptureQueriesContext(connection) as captured:
            for group_by in ("team", "customer", "api_key"):
                self.report(group_by=group_by)

        self.assertNotIn("billing_spendlog", "".join(query["sql"] for query in captured))


def total_of(rows: list[dict[str, Any]]) -> Decimal:
    """Return what a report of any form adds up to."""
    if rows and "group_by_day" not in rows[0]:
        return sum((row["total_cost"] for row in rows), ZERO)
    kinds = ("teams", "customers", "teams_customers")
    listed = [each for day in rows for kind in kinds for each in day.get(kind, ())]
    return sum((each["total_spend"] for each in listed), ZERO)


class RefusalTests(SpendTestCase):
    def test_what_cannot_be_reported_is_refused_and_says_why(self):
        for query, status in (
            ({"start_date": ""}, 400),
            ({"end_date": ""}, 400),
            ({"start_date": "2026-02-31"}, 400),
            ({"start_date": "yesterday"}, 400),
            ({"start_date": "2026-02-06"}, 400),
            ({"group_by": "colour"}, 422),
            ({"team_id": "with\nline break"}, 422),
            ({"customer_id": "x" * 300}, 422),
            ({"start_date": "9" * 100}, 422),
        ):
            with self.subTest(query):
                told = self.ask("/global/spend/report", status=status, **{**RANGE, **query})

                self.assertTrue(told["detail"]["error"] if status == 400 else told["detail"][0]["msg"])

    def test_odd_names_find_nothing(self):
        for name in ("api_key", "internal_user_id", "team_id", "customer_id"):
            for odd in ("'; DROP TABLE", "%", "sk-", "\\", "9" * 60, "😀"):
                self.assertEqual(self.report(**{name: odd}), [])

    def test_any_day_of_the_calendar_can_be_asked_for(self):
        self.assertTrue(self.report(start_date="0001-01-01", end_date="9999-12-31"))


class OwnReportTests(SpendTestCase):
    def test_only_admins_see_everybody(self):
        self.ask("/global/spend/report", key="sk-key-of-alice", status=403, **RANGE)

    def test_a_key_reports_itself(self):
        [row] = self.ask("/key/spend/report", key="sk-key-of-charlie", **RANGE)

        charlies = self.keys["charlie"]
        self.assertEqual(row["api_key"], charlies.token_hash)
        expected = self.summed(lambda log, _: None, where=lambda log: log.key_id == charlies.pk)
        self.assertEqual(row["total_cost"], expected[None])
        [row] = self.ask("/key/spend/report", **RANGE)
        self.assertEqual(row["api_key"], MASTER_NAME)

    def test_a_key_out_of_reach_is_not_there(self):
        messages = set()
        for named in (self.keys["alice"].token_hash, "0" * 64, MASTER_NAME, str(self.purged)):
            told = self.ask("/key/spend/report", key="sk-key-of-charlie", status=404, api_key=named, **RANGE)
            messages.add(told["detail"]["error"])
        self.assertEqual(len(messages), 1)
        for named in (self.keys["alice"].token_hash, MASTER_NAME):
            self.assertTrue(self.ask("/key/spend/report", api_key=named, **RANGE))

    def test_a_user_reports_its_own_calls(self):
        rows = self.ask("/user/spend/report", key="sk-key-of-bob", **RANGE)

        expected = self.summed(lambda log, _: self.key_name(log), where=lambda log: log.user_id == "bob")
        self.assertEqual({row["api_key"]: row["total_cost"] for row in rows}, expected)
        self.ask("/user/spend/report", key="sk-key-of-bob", user_id="alice", status=404, **RANGE)
        self.assertEqual(self.ask("/user/spend/report", user_id="bob", **RANGE), rows)
        self.ask("/user/spend/report", status=400, **RANGE)

    def test_whoever_administers_a_team_reports_it(self):
        days = self.ask("/team/spend/report", key="sk-key-of-alice", **RANGE)

        self.assertEqual({each["team_id"] for day in days for each in day["teams"]}, {"t-sales"})
        self.assertEqual(days, self.report(team_id="t-sales"))
        for key, team in (("alice", "t-labs"), ("bob", "t-sales"), ("charlie", "t-sales"), ("charlie", "")):
            self.ask("/team/spend/report", key=f"sk-key-of-{key}", team_id=team, status=404, **RANGE)
        self.assertEqual(self.ask("/team/spend/report", **RANGE), self.report())

    def test_a_year_is_the_most(self):
        for path in ("/key/spend/report", "/team/spend/report"):
            self.ask(path, start_date="2025-02-05", end_date="2026-02-05")
            self.ask(path, start_date="2025-02-04", end_date="2026-02-05", status=400)
