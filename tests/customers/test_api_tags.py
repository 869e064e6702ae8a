"""Tags in the API: /tag/* (contract 5.6)."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.test import TestCase

from billing.models import BudgetPeriod, HolderType, SpendTotal
from customers.models import AuditLog, Budget, Tag, Team, TeamMembership, User
from customers.services import create_key

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


def make_total(name: str, cost: str = "0", *, at: datetime = NOON, **fields: Any) -> SpendTotal:
    return SpendTotal.objects.create(
        holder_type=HolderType.TAG, holder_id=name, cost=Decimal(cost), last_call_at=at, **fields
    )


class TagTestCase(TestCase):
    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.client.post(
            f"/tag/{path}", content, content_type="application/json", headers={**MASTER, **(headers or {})}
        )

    def made(self, **fields: Any) -> dict[str, Any]:
        response = self.post("new", fields)
        self.assertEqual(response.status_code, 200, response.content)
        return response.json()["tag"]

    def info(self, name: str) -> dict[str, Any]:
        return self.post("info", {"names": [name]}).json()[name]

    def listed(self, **query: Any) -> Any:
        return self.client.get("/tag/list", query, headers=MASTER)

    def assert_detail(self, response: Any, status: int) -> str:
        self.assertEqual(response.status_code, status, response.content)
        return response.json()["detail"]["error"]


class NewTests(TagTestCase):
    def test_it_answers_with_the_contract_s_fields(self):
        response = self.post("new", {"name": "engineering", "description": "Cost centre 4711"})

        body = response.json()
        self.assertEqual(response.status_code, 200)
        self.assertIsInstance(body["message"], str)
        tag = body["tag"]
        contract = {
            "name": "engineering",
            "description": "Cost centre 4711",
            "models": [],
            "model_info": {},
            "created_by": "default_user_id",
            "litellm_budget_table": None,
            "spend": 0,
        }
        self.assertEqual({name: tag[name] for name in contract}, contract)
        for name in ("created_at", "updated_at"):
            self.assertTrue(tag[name].endswith("Z"), tag[name])

    def test_limits_of_its_own_are_a_budget_inside_it(self):
        tag = self.made(name="a", max_budget=10.5, budget_duration="1mo", rpm_limit=7, tpm_limit=0)

        table = tag["litellm_budget_table"]
        self.assertEqual(
            (table["max_budget"], table["budget_duration"], table["rpm_limit"], table["tpm_limit"]),
            (10.5, "1mo", 7, 0),
        )
        self.assertEqual(table["budget_id"], tag["budget_id"])
        self.assertIsNotNone(table["budget_reset_at"])
        self.assertTrue(Budget.objects.get(pk=tag["budget_id"]).is_private)

    def test_a_budget_counts_what_was_spent_before_it(self):
        with self.captureOnCommitCallbacks(execute=True):
            self.made(name="a", max_budget=10, budget_duration="1d")

        period = BudgetPeriod.objects.get(holder_type=HolderType.TAG, holder_id="a")
        self.assertEqual(period.spent_cost, 0)

    def test_it_may_share_a_budget(self):
        Budget.objects.create(id="tier", max_budget=Decimal(3))

        self.assertEqual(self.made(name="a", budget_id="tier")["litellm_budget_table"]["max_budget"], 3)

    def test_its_spend_is_what_its_calls_cost(self):
        make_total("a", "0.000000007", calls=3, failed_calls=1, prompt_tokens=10, completion_tokens=5)

        response = self.post("new", {"name": "a"})

        self.assertIn(b'"spend":0.000000007', response.content)
        tag = response.json()["tag"]
        self.assertEqual((tag["requests"], tag["failed_requests"], tag["total_tokens"]), (3, 1, 15))

    def test_a_second_of_one_name_is_400(self):
        self.made(name="a", description="first")

        self.assertIn("exists already", self.assert_detail(self.post("new", {"name": "a"}), 400))
        self.assertEqual(self.info("a")["description"], "first")

    def test_an_unknown_budget_is_404_and_nothing_is_made(self):
        self.assert_detail(self.post("new", {"name": "a", "budget_id": "none"}), 404)

        self.assertFalse(Tag.objects.exists())

    def test_a_bad_limit_is_400_and_leaves_nothing(self):
        for limits in (
            {"max_budget": -1},
            {"budget_duration": "fortnight"},
            {"budget_duration": "0d"},
            {"rpm_limit": -5},
            {"model_max_budget": {"gpt-4o": {"budget_limit": -1}}},
            {"budget_id": "x", "max_budget": 1},
        ):
            with self.subTest(limits):
                self.assert_detail(self.post("new", {"name": "a", **limits}), 400)

                self.assertFalse(Tag.objects.exists() or Budget.objects.exists())
                self.assertFalse(AuditLog.objects.exists())

    def test_a_request_of_the_wrong_shape_is_422(self):
        for body in (
            {},
            {"name": None},
            {"name": ""},
            {"name": "x" * 256},
            {"name": "a\nb"},
            {"name": ["a"]},
            {"name": "a", "models": "gpt-4o"},
            {"name": "a", "models": [None]},
            {"name": "a", "max_budget": True},
            {"name": "a", "max_budget": "much"},
            {"name": "a", "rpm_limit": 1.5},
            {"name": "a", "rpm_limit": 2**70},
            {"name": "a", "max_parallel_requests": 2**40},
            {"name": "a", "model_info": [1]},
            [],
            "[1]",
        ):
            with self.subTest(body=body):
                response = self.post("new", body)

                self.assertEqual(response.status_code, 422, response.content)
                self.assertTrue(response.json()["detail"][0]["msg"])
        self.assertFalse(Tag.objects.exists())

    def test_what_is_no_json_is_400(self):
        for body in (b"{", b'{"name": "\\ud800"}', b'{"name": "a\\u0000"}', b"\xff", b'{"name": NaN}'):
            with self.subTest(body):
                self.assertEqual(self.post("new", body).status_code, 400)

    def test_names_are_data(self):
        for name in (
            "a b&c=d",
            "Zażółć 🦔",
            "'; DROP TABLE customers_tag; --",
            "x" * 255,
            "User-Agent: curl/8",
        ):
            with self.subTest(name):
                self.assertEqual(self.made(name=name)["name"], name)
                self.assertEqual(self.info(name)["name"], name)


class UpdateTests(TagTestCase):
    def test_what_is_not_sent_stays(self):
        self.made(name="a", description="d", models=["m1"], max_budget=5, rpm_limit=9)

        tag = self.post("update", {"name": "a", "max_budget": 6}).json()["tag"]

        self.assertEqual((tag["description"], tag["models"]), ("d", ["m1"]))
        table = tag["litellm_budget_table"]
        self.assertEqual((table["max_budget"], table["rpm_limit"]), (6, 9))

    def test_null_and_zero_are_values(self):
        self.made(name="a", description="d", models=["m1"], max_budget=5, rpm_limit=9)

        tag = self.post(
            "update", {"name": "a", "description": None, "models": [], "max_budget": 0, "rpm_limit": None}
        ).json()["tag"]

        self.assertEqual((tag["description"], tag["models"]), (None, []))
        table = tag["litellm_budget_table"]
        self.assertEqual((table["max_budget"], table["rpm_limit"]), (0, None))

    def test_limits_of_its_own_leave_a_shared_budget_as_it_was(self):
        Budget.objects.create(id="tier", max_budget=Decimal(3), rpm_limit=4)
        for name in ("a", "b"):
            self.made(name=name, budget_id="tier")

        tag = self.post("update", {"name": "a", "max_budget": 9}).json()["tag"]

        table = tag["litellm_budget_table"]
        self.assertNotEqual(table["budget_id"], "tier")
        self.assertEqual((table["max_budget"], table["rpm_limit"]), (9, 4))
        self.assertEqual(self.info("b")["litellm_budget_table"]["max_budget"], 3)

    def test_budget_id_null_detaches(self):
        Budget.objects.create(id="tier", max_budget=Decimal(3))
        self.made(name="a", budget_id="tier")

        tag = self.post("update", {"name": "a", "budget_id": None}).json()["tag"]

        self.assertEqual((tag["budget_id"], tag["litellm_budget_table"]), (None, None))

    def test_an_unknown_one_is_404(self):
        self.assertIn("/tag/new", self.assert_detail(self.post("update", {"name": "none"}), 404))
        self.assertFalse(Tag.objects.exists())

    def test_a_refused_change_changes_nothing(self):
        self.made(name="a", description="d", max_budget=5)

        self.assert_detail(self.post("update", {"name": "a", "description": "e", "max_budget": -1}), 400)

        self.assertEqual(self.info("a")["description"], "d")

    def test_who_changed_it_is_in_the_audit_log(self):
        self.made(name="a")

        self.post("update", {"name": "a", "description": "e"}, {"litellm-changed-by": "alice"})

        entry = AuditLog.objects.filter(kind="customers.tag").latest("id")
        self.assertEqual(
            (entry.object_id, entry.changed_by, entry.after), ("a", "alice", {"description": "e"})
        )


class InfoTests(TagTestCase):
    def test_it_is_a_map_by_name(self):
        for name in ("a", "b", "c"):
            self.made(name=name)

        body = self.post("info", {"names": ["c", "a", "a"]}).json()

        self.assertEqual(list(body), ["c", "a"])

    def test_an_unknown_one_is_404_and_named(self):
        self.made(name="a")

        message = self.assert_detail(self.post("info", {"names": ["a", "none"]}), 404)

        self.assertTrue(message.endswith("names: none"), message)

    def test_the_shape_is_checked(self):
        for body in ({}, {"names": "a"}, {"names": []}, {"names": ["x" * 256]}, {"names": ["a"] * 1001}):
            self.assertEqual(self.post("info", body).status_code, 422)

    def test_it_makes_as_many_queries_for_one_as_for_many(self):
        for number in range(5):
            self.made(name=f"t{number}", max_budget=1)
        with self.assertNumQueries(3):  # tags, totals, periods
            self.post("info", {"names": ["t0"]})

        with self.assertNumQueries(3):
            self.post("info", {"names": [f"t{number}" for number in range(5)]})


class ListTests(TagTestCase):
    def test_it_has_stored_tags_and_those_only_seen_on_calls(self):
        self.made(name="stored", max_budget=1)
        make_total("stored", "0.5")
        make_total("seen", "0.25", calls=2)

        rows = self.listed().json()

        self.assertEqual([row["name"] for row in rows], ["stored", "seen"])
        self.assertEqual([row["models"] for row in rows], [[], None])
        self.assertEqual([row["spend"] for row in rows], [0.5, 0.25])
        self.assertEqual(set(rows[0]), set(rows[1]))

    def test_dates_choose_among_the_seen_ones(self):
        self.made(name="stored")
        for day in (9, 10, 11):
            make_total(f"seen-{day}", at=datetime(2026, 3, day, 23, 59, tzinfo=UTC))
        for query, expected in (
            ({"start_date": "2026-03-10"}, ["stored", "seen-10", "seen-11"]),
            ({"end_date": "2026-03-10"}, ["stored", "seen-10", "seen-9"]),
            ({"start_date": "2026-03-10", "end_date": "2026-03-10"}, ["stored", "seen-10"]),
            ({"end_date": "9999-12-31"}, ["stored", "seen-10", "seen-11", "seen-9"]),
        ):
            with self.subTest(query):
                self.assertEqual([row["name"] for row in self.listed(**query).json()], expected)

    def test_a_bad_query_is_422(self):
        for query in ({"start_date": "March"}, {"end_date": "2026-02-30"}, {"page": 0}, {"page_size": 1001}):
            self.assertEqual(self.listed(**query).status_code, 422, query)

    def test_pages_go_over_both(self):
        for name in ("a", "b", "c"):
            Tag.objects.create(name=name)
        for name in ("x", "y"):
            make_total(name)
        pages = [self.listed(page=page, page_size=2) for page in (1, 2, 3, 4)]

        names = [[row["name"] for row in response.json()] for response in pages]

        self.assertEqual(names, [["a", "b"], ["c", "x"], ["y"], []])
        self.assertEqual((pages[0]["x-total-count"], pages[0]["x-total-pages"]), ("5", "3"))

    def test_more_than_it_lists_at_once_have_to_be_paged(self):
        SpendTotal.objects.bulk_create(
            SpendTotal(holder_type=HolderType.TAG, holder_id=f"t{number}") for number in range(10_001)
        )

        self.assertIn("page_size", self.assert_detail(self.listed(), 400))
        self.assertEqual(len(self.listed(page=2).json()), 100)

    def test_it_makes_a_fixed_number_of_queries(self):
        for number in range(5):
            self.made(name=f"t{number}", max_budget=1)
            make_total(f"seen{number}")

        with self.assertNumQueries(6):  # two counts, tags, their totals and periods, the seen ones
            self.listed()


class DeleteTests(TagTestCase):
    def test_it_goes_with_its_own_limits_and_its_spend_stays(self):
        self.made(name="a", max_budget=1)
        make_total("a", "0.5")

        response = self.post("delete", {"name": "a"})

        self.assertEqual((response.status_code, list(response.json())), (200, ["message"]))
        self.assertFalse(Tag.objects.exists() or Budget.objects.exists())
        self.assertEqual([(row["name"], row["spend"]) for row in self.listed().json()], [("a", 0.5)])

    def test_a_shared_budget_stays(self):
        Budget.objects.create(id="tier", max_budget=Decimal(3))
        self.made(name="a", budget_id="tier")

        self.post("delete", {"name": "a"})

        self.assertTrue(Budget.objects.filter(pk="tier").exists())

    def test_an_unknown_one_is_404(self):
        self.assert_detail(self.post("delete", {"name": "none"}), 404)
        self.assertEqual(self.post("delete", {}).status_code, 422)

    def test_the_same_call_twice_with_one_key_is_one(self):
        self.made(name="a")
        once = {"Idempotency-Key": "delete-a"}

        answers = [self.post("delete", {"name": "a"}, once) for _ in range(2)]

        self.assertEqual([answer.status_code for answer in answers], [200, 200])
        self.assertEqual(answers[0].content, answers[1].content)


class AccessTests(TagTestCase):
    """Alice runs the gateway, Vera may look, Bob administers a team, Charlie has a key."""

    def headers_of(self, role: str | None, **fields: Any) -> dict[str, str]:
        user = User.objects.create(username=f"u{User.objects.count()}", role=role) if role else None
        _, secret = create_key(user=user, **fields)
        return {"authorization": f"Bearer {secret}"}

    def statuses(self, headers: dict[str, str]) -> list[int]:
        """Return the answers to info, list, update, delete and new."""
        Tag.objects.get_or_create(name="a")
        reads = [
            self.post("info", {"names": ["a"]}, headers).status_code,
            self.client.get("/tag/list", headers=headers).status_code,
        ]
        return reads + [
            self.post(path, {"name": name}, headers).status_code
            for path, name in (("update", "a"), ("delete", "a"), ("new", "b"))
        ]

    def test_alice_may_do_all(self):
        self.assertEqual(self.statuses(self.headers_of(User.Role.PROXY_ADMIN)), [200] * 5)

    def test_vera_may_look(self):
        headers = self.headers_of(User.Role.PROXY_ADMIN_VIEWER)

        self.assertEqual(self.statuses(headers), [200, 200, 403, 403, 403])

    def test_bob_and_charlie_may_not(self):
        team = Team.objects.create(id="research")
        bob = self.headers_of(User.Role.INTERNAL_USER, team=team)
        TeamMembership.objects.create(team=team, user=User.objects.get(), role=TeamMembership.Role.ADMIN)
        for headers in (bob, self.headers_of(None), self.headers_of(User.Role.INTERNAL_USER_VIEWER)):
            self.assertEqual(self.statuses(headers), [403] * 5)
        self.assertTrue(Tag.objects.filter(name="a").exists())

    def test_nobody_else_may(self):
        response = self.client.get("/tag/list")

        self.assertEqual(response.status_code, 401)
        self.assertEqual(response.json()["error"]["type"], "auth_error")  # not in the `detail` envelope

    def test_a_key_that_only_reads_may_read(self):
        user = User.objects.create(username="root", role=User.Role.PROXY_ADMIN)
        _, secret = create_key(user=user, key_type="read_only")

        self.assertEqual(self.statuses({"authorization": f"Bearer {secret}"}), [200, 200, 403, 403, 403])


class PeriodTests(TagTestCase):
    def test_the_running_period_is_told(self):
        self.made(name="a", max_budget=10, budget_duration="1d")

        period = self.info("a")["budget_period"]

        self.assertEqual((period["limit"], period["spent"], period["remaining"]), (10, 0, 10))
        self.assertEqual(period["ends_at"], self.info("a")["budget_reset_at"])
        length = datetime.fromisoformat(period["ends_at"]) - datetime.fromisoformat(period["starts_at"])
        self.assertEqual(length, timedelta(days=1))
