"""Teams and their members through the API (contract 5.4)."""

from datetime import UTC, datetime
from decimal import Decimal
from unittest import mock

from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import BudgetPeriod, SpendTotal
from customers.models import AuditLog, Budget, Team, TeamMembership, User, VirtualKey
from customers.services import create_key, delete_teams
from tests.billing.making import book_calls, make_call
from tests.customers.calling import BAD_TEXTS, HUGE, ApiTestCase, CastTestCase, key_of, make_user


class NewTeamTests(ApiTestCase):
    def test_it_has_the_contract_s_fields(self):
        row = self.post(
            "/team/new",
            {
                "team_id": "t-sales", "team_alias": "Sales", "max_budget": 200.0, "budget_duration": "30d",
                "members_with_roles": [{"role": "admin", "user_id": "u-17"}],
            },
        )  # fmt: skip

        contract = {
            "team_id": "t-sales", "team_alias": "Sales", "organization_id": None, "admins": [], "members": [],
            "members_with_roles": [{"role": "admin", "user_id": "u-17", "user_email": None}],
            "metadata": {}, "tpm_limit": None, "rpm_limit": None, "max_budget": 200, "soft_budget": None,
            "budget_duration": "30d", "models": [], "blocked": False, "spend": 0,
            "max_parallel_requests": None, "model_id": None, "litellm_model_table": None,
            "team_member_budget_table": None,
        }  # fmt: skip
        self.assertEqual({name: row[name] for name in contract}, contract)
        self.assertGreater(datetime.fromisoformat(row["budget_reset_at"]), timezone.now())
        self.assertTrue(row["created_at"].endswith("Z") and row["updated_at"].endswith("Z"))
        self.assertEqual((row["budget_id"], row["litellm_budget_table"]), (None, None))
        self.assertEqual((row["created_by"], row["updated_by"]), ("default_user_id", "default_user_id"))

    def test_without_anything_it_has_an_id_and_no_limits(self):
        row = self.post("/team/new")

        team = Team.objects.get()
        self.assertEqual((row["team_id"], row["team_alias"], team.budget), (team.pk, None, None))
        self.assertEqual(row["members_with_roles"], [])

    def test_all_that_is_given_comes_back(self):
        given = {
            "models": ["gpt-4o", "gpt-4o-mini"], "model_aliases": {"fast": "gpt-4o-mini"}, "tags": ["blue"],
            "metadata": {"cost": {"centre": "4711"}}, "blocked": True, "organization_id": "org-1",
            "guardrails": ["pii"], "tpm_limit": 1000, "rpm_limit": 0, "max_parallel_requests": 3,
            "soft_budget": 1.5, "max_budget": 2, "team_member_permissions": ["/key/generate"],
        }  # fmt: skip

        row = self.post("/team/new", given)

        self.assertEqual({name: row[name] for name in given}, given)

    def test_limits_by_model_are_one_thing_however_they_are_given(self):
        row = self.post(
            "/team/new",
            {
                "model_max_budget": {"gpt-4o": {"budget_limit": 5, "time_period": "1d"}},
                "model_rpm_limit": {"gpt-4o": 60, "o3": 2},
                "model_tpm_limit": {"o3": 1000},
            },
        )

        budget = Team.objects.get().budget
        self.assertEqual(
            budget.model_max_budget,
            {
                "gpt-4o": {"budget_limit": "5", "time_period": "1d", "rpm_limit": 60},
                "o3": {"rpm_limit": 2, "tpm_limit": 1000},
            },
        )
        self.assertEqual(row["model_rpm_limit"], {"gpt-4o": 60, "o3": 2})

    def test_a_tier_is_shown_by_its_id_and_as_a_table(self):
        Budget.objects.create(pk="gold", max_budget=Decimal("0.000000001"), budget_duration="1d")

        row = self.post("/team/new", {"budget_id": "gold"})

        self.assertEqual((row["budget_id"], row["litellm_budget_table"]["budget_id"]), ("gold", "gold"))
        self.assertEqual(row["max_budget"], 1e-9)
        self.assertIsNotNone(row["litellm_budget_table"]["budget_reset_at"])

    def test_members_are_found_or_made(self):
        make_user("kim", email="Kim@Example.com")

        row = self.post(
            "/team/new",
            {
                "members_with_roles": [
                    {"role": "admin", "user_email": "kim@example.com"},
                    {"role": "user", "user_email": "new@example.com"},
                    {"user_id": "u-new"},
                ],
                "admins": ["kim-2"],
                "members": ["u-new", "u-other"],
            },
        )  # fmt: skip

        made = User.objects.get(email="new@example.com")
        self.assertEqual(
            [(member["role"], member["user_id"]) for member in row["members_with_roles"]],
            [("admin", "kim"), ("user", made.pk), ("user", "u-new"), ("admin", "kim-2"), ("user", "u-other")],
        )
        self.assertEqual(
            (made.has_usable_password(), made.is_staff, made.role), (False, False, "internal_user")
        )

    def test_its_maker_administers_it_where_that_is_a_user(self):
        boss = key_of(make_user("boss", role="proxy_admin"))

        row = self.post("/team/new", {}, key=boss)

        self.assertEqual(
            row["members_with_roles"], [{"role": "admin", "user_id": "boss", "user_email": None}]
        )
        self.assertEqual(Team.objects.get().created_by, "boss")

    def test_members_may_have_a_budget_each(self):
        row = self.post(
            "/team/new",
            {"team_member_budget": 10, "team_member_budget_duration": "1d", "team_member_rpm_limit": 5},
        )

        table = row["team_member_budget_table"]
        self.assertEqual((table["max_budget"], table["budget_duration"], table["rpm_limit"]), (10, "1d", 5))

    @override_settings(TEAM_DEFAULTS={"max_budget": Decimal(7), "models": ["gpt-4o"], "rpm_limit": 9})
    def test_the_operator_s_defaults_fill_what_is_missing(self):
        Budget.objects.create(pk="gold", max_budget=1)

        missing = self.post("/team/new", {"rpm_limit": None})
        tiered = self.post("/team/new", {"budget_id": "gold", "models": []})

        self.assertEqual(
            (missing["max_budget"], missing["models"], missing["rpm_limit"]), (7, ["gpt-4o"], None)
        )
        self.assertEqual((tiered["max_budget"], tiered["models"], tiered["rpm_limit"]), (1, [], None))

    def test_what_is_wrong_is_told_and_nothing_is_done(self):
        self.post("/team/new", {"team_id": "taken"})
        self.post("/team/new", {"team_id": "gone"})
        delete_teams(ids=["gone"], at=timezone.now())
        make_user("kim")
        twice = [{"user_id": "kim"}, {"user_id": "kim"}]
        for body, status, param, fragment in (
            ({"team_id": "taken"}, 400, "team_id", "exists already"),
            ({"team_id": "gone"}, 400, "team_id", "was deleted"),
            ({"soft_budget": 5, "max_budget": 5}, 400, "soft_budget", "less than"),
            ({"max_budget": -1}, 400, "max_budget", ""),
            ({"rpm_limit": -1}, 400, "rpm_limit", ""),
            ({"budget_duration": "monthlyish", "max_budget": 1}, 400, "budget_duration", "monthly"),
            ({"budget_id": "none"}, 404, "budget_id", "/budget/new"),
            ({"budget_id": "none", "max_budget": 1}, 400, "budget_id", "either"),
            (
                {"budget_limits": [{"max_budget": 1, "budget_duration": "1 day"}]},
                400,
                "budget_limits",
                "window 1",
            ),
            ({"tpd_limit": 5}, 400, "tpd_limit", "tpm_limit"),
            ({"model_max_budget": {"gpt-4o": {"budget_limit": "x"}}}, 400, "model_max_budget", "gpt-4o"),
            ({"model_rpm_limit": {"gpt-4o": -1}}, 400, "model_max_budget", "rpm_limit"),
            ({"metadata": {"tags": [1]}}, 400, "metadata", "tags"),
            ({"team_member_permissions": ["/team/delete"]}, 400, "team_member_permissions", "/key/generate"),
            ({"members_with_roles": twice}, 400, "user_id", "already"),
            ({"members": ["default_user_id"]}, 400, "user_id", "master key"),
        ):
            with self.subTest(body):
                error = self.refused("/team/new", body, status=status)

                self.assertEqual(error["param"], param)
                self.assertIn(fragment, error["message"].lower() if fragment.islower() else error["message"])
        self.assertEqual(Team.objects.count(), 2)
        self.assertEqual(Budget.objects.count(), 0)
        self.assertEqual(TeamMembership.objects.count(), 0)

    def test_a_request_of_the_wrong_shape_is_422(self):
        bodies = [
            {name: text} for name in ("team_id", "team_alias", "organization_id") for text in BAD_TEXTS[1:]
        ]
        bodies += [
            {"max_budget": "many"}, {"max_budget": True}, {"max_budget": 1e-10}, {"max_budget": HUGE},
            {"tpm_limit": HUGE}, {"tpm_limit": 1.5}, {"models": "gpt-4o"}, {"models": [""]}, {"models": {}},
            {"metadata": []}, {"metadata": "x"}, {"blocked": "perhaps"}, {"model_aliases": {"a": {}}},
            {"members_with_roles": [{}]}, {"members_with_roles": [{"role": "owner", "user_id": "a"}]},
            {"members_with_roles": [{"user_email": "nobody"}]}, {"members_with_roles": {"user_id": "a"}},
            {"members_with_roles": [{"user_id": "a"}] * 501}, {"budget_duration": []}, {"tags": [None]},
            {"budget_duration": "1" * 21}, {"model_rpm_limit": [1]}, [], "text", 7,
        ]  # fmt: skip
        for body in bodies:
            with self.subTest(body):
                response = self.send("POST", "/team/new", body)

                self.assertEqual(response.status_code, 422, response.content)
                self.assertIsInstance(response.json()["detail"], list)
        for raw in (b'{"team_id": "a\\u0000"}', b'{"team_id": "\\ud800"}', b"{", b'{"team_id": "\xff"}'):
            self.assertIn(self.send("POST", "/team/new", raw).status_code, (400, 422), raw)
        self.assertFalse(Team.objects.exists())


class UpdateTeamTests(CastTestCase):
    def test_only_what_is_sent_changes(self):
        self.post("/team/update", {"team_id": "red", "max_budget": 5, "budget_duration": "1d", "tags": ["a"]})

        answer = self.post("/team/update", {"team_id": "red", "team_alias": "Crimson", "max_budget": 0})

        self.assertEqual(answer["team_id"], "red")
        row = answer["data"]
        self.assertEqual((row["team_alias"], row["max_budget"], row["budget_duration"]), ("Crimson", 0, "1d"))
        self.assertEqual(row["tags"], ["a"])
        self.assertEqual(Budget.objects.count(), 1)

    def test_null_takes_away(self):
        self.post(
            "/team/update",
            {"team_id": "red", "max_budget": 5, "rpm_limit": 1, "models": ["gpt-4o"], "blocked": True},
        )

        nothing = dict.fromkeys(("max_budget", "rpm_limit", "models", "blocked", "team_alias", "metadata"))
        row = self.post("/team/update", {"team_id": "red", **nothing})["data"]

        self.assertEqual(
            (row["max_budget"], row["rpm_limit"], row["models"], row["blocked"]), (None, None, [], False)
        )
        self.assertEqual((row["team_alias"], row["metadata"]), (None, {}))

    def test_limits_of_its_own_leave_a_shared_tier_alone(self):
        gold = Budget.objects.create(pk="gold", max_budget=10, budget_duration="1d")
        self.post("/team/update", {"team_id": "red", "budget_id": "gold"})

        row = self.post("/team/update", {"team_id": "red", "max_budget": 3})["data"]

        gold.refresh_from_db()
        self.assertEqual((gold.max_budget, row["max_budget"], row["budget_duration"]), (10, 3, "1d"))
        self.assertIsNone(row["budget_id"])

    def test_another_name_is_no_matter_where_a_tier_warns_above_its_limit(self):
        Budget.objects.create(pk="odd", max_budget=1, soft_budget=2)
        Team.objects.filter(pk="red").update(budget_id="odd")

        self.post("/team/update", {"team_id": "red", "team_alias": "Crimson"})
        error = self.refused("/team/update", {"team_id": "red", "max_budget": 2})

        self.assertEqual(error["param"], "soft_budget")

    def test_rates_of_one_model_leave_the_others_alone(self):
        self.post("/team/update", {"team_id": "red", "model_max_budget": {"o3": {"budget_limit": 1}}})
        self.post("/team/update", {"team_id": "red", "model_rpm_limit": {"o3": 5, "gpt-4o": 6}})

        self.post("/team/update", {"team_id": "red", "model_rpm_limit": {"gpt-4o": 7}})

        self.red.refresh_from_db()
        self.assertEqual(
            self.red.budget.model_max_budget, {"o3": {"budget_limit": "1"}, "gpt-4o": {"rpm_limit": 7}}
        )

    def test_patch_does_the_same(self):
        response = self.send("PATCH", "/team/red", {"team_alias": "Crimson"})

        self.assertEqual(response.status_code, 200, response.content)
        self.assertEqual(response.json()["data"]["team_alias"], "Crimson")
        self.assertEqual(self.send("PATCH", "/team/nobody", {}).status_code, 404)
        self.assertEqual(self.send("PATCH", "/team/red%00", {}).status_code, 404)
        self.assertEqual(self.send("GET", "/team/red").status_code, 405)

    def test_who_changed_it_is_told(self):
        self.send(
            "POST", "/team/update", {"team_id": "red", "team_alias": "X"}, **{"litellm-changed-by": "kim"}
        )

        entry = AuditLog.objects.filter(kind="customers.team").latest("id")
        self.assertEqual((entry.via, entry.changed_by, entry.before["alias"]), ("api", "kim", "Red"))
        self.red.refresh_from_db()
        self.assertEqual(self.red.updated_by, "kim")

    def test_an_idempotency_key_makes_one_team_of_two_requests(self):
        header = {"idempotency-key": "once"}

        first, again = (self.post("/team/new", {"max_budget": 1}, **header) for _ in range(2))

        self.assertEqual(first, again)
        self.assertEqual(Team.objects.count(), 2)

    def test_an_unknown_team_is_404(self):
        for path, body in (
            ("/team/update", {}),
            ("/team/block", {}),
            ("/team/unblock", {}),
            ("/team/model/add", {"models": ["a"]}),
            ("/team/model/delete", {"models": ["a"]}),
            ("/team/member_add", {"member": {"user_id": "a"}}),
            ("/team/member_update", {"user_id": "a"}),
            ("/team/member_delete", {"user_id": "a"}),
            ("/team/permissions_update", {"team_member_permissions": []}),
        ):
            with self.subTest(path):
                error = self.refused(path, {"team_id": "nobody", **body}, status=404)

                self.assertEqual((error["type"], error["param"]), ("not_found", "team_id"))
                self.assertEqual(self.send("POST", path, body).status_code, 422)
        self.assertEqual(
            self.get("/team/info", {"team_id": "no\0body"}, status=422)["detail"][0]["loc"],
            ["query", "team_id"],
        )
        self.assertFalse(User.objects.filter(pk="a").exists())


class BlockTests(CastTestCase):
    def test_blocking_and_unblocking(self):
        _, secret = create_key(team=self.red)

        blocked = self.post("/team/block", {"team_id": "red"})
        refused = self.send("GET", "/key/info", key=secret)
        unblocked = self.post("/team/unblock", {"team_id": "red"})

        self.assertEqual((blocked["team_id"], blocked["blocked"], unblocked["blocked"]), ("red", True, False))
        self.assertEqual(refused.status_code, 401)


class DeleteTests(CastTestCase):
    def test_its_keys_go_its_members_leave_its_logs_stay(self):
        key, _ = create_key(team=self.red, user=self.bob, alias="ci")
        self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": 1})
        book_calls(make_call(team_id="red", cost_usd="0.5"))

        answer = self.post("/team/delete", {"team_ids": ["red"]})

        self.assertEqual(answer, {"deleted_teams": ["red"]})
        key.refresh_from_db()
        self.assertEqual((key.deleted_at is not None, key.alias), (True, None))
        self.assertFalse(TeamMembership.objects.exists())
        self.assertFalse(Budget.objects.exists())
        self.assertEqual(SpendTotal.objects.get(holder_type="team").cost, Decimal("0.5"))
        self.assertEqual(self.get("/team/list"), [])
        self.refused("/team/info?team_id=red", status=404, method="GET")
        self.assertEqual(self.get("/user/info", {"user_id": "bob"})["user_info"]["teams"], [])

    def test_one_unknown_id_and_none_is_deleted(self):
        error = self.refused("/team/delete", {"team_ids": ["red", "nobody"]}, status=404)

        self.assertIn("nobody", error["message"])
        self.assertTrue(Team.objects.filter(pk="red", deleted_at=None).exists())
        self.assertEqual(self.send("POST", "/team/delete", {"team_ids": []}).status_code, 422)


class InfoTests(CastTestCase):
    def test_it_has_the_contract_s_shape(self):
        create_key(team=self.red, user=self.bob, alias="bob-dev")
        book_calls(make_call(team_id="red", user_id="bob", cost_usd="0.25", at=timezone.now()))
        with self.captureOnCommitCallbacks(execute=True):  # the period is made, of what was spent before
            self.post("/team/update", {"team_id": "red", "max_budget": 200, "budget_duration": "30d"})

        answer = self.get("/team/info", {"team_id": "red"})

        self.assertEqual(list(answer), ["team_id", "team_info", "keys", "team_memberships"])
        self.assertEqual((answer["team_info"]["spend"], answer["team_info"]["max_budget"]), (0.25, 200))
        self.assertEqual(answer["team_info"]["budget_period"]["spent"], 0.25)
        [key] = answer["keys"]
        self.assertEqual((key["key_alias"], key["team_alias"]), ("bob-dev", "Red"))
        self.assertEqual(key["token"], VirtualKey.objects.get(alias="bob-dev").token_hash)
        bobs = answer["team_memberships"][1]
        contract = {"user_id": "bob", "team_id": "red", "budget_id": None, "spend": 0.25, "total_spend": 0.25}
        self.assertEqual({name: bobs[name] for name in contract}, contract)
        self.assertIsNone(bobs["litellm_budget_table"])

    def test_a_member_without_its_own_budget_is_shown_with_the_team_s(self):
        self.post("/team/update", {"team_id": "red", "team_member_budget": 5})
        self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": 1})

        members = self.get("/team/info", {"team_id": "red"})["team_memberships"]

        shown = [
            (m["user_id"], m["litellm_budget_table"]["max_budget"], m["has_budget_of_its_own"])
            for m in members
        ]
        self.assertEqual(shown, [("alice", 5, False), ("bob", 1, True)])

    def test_charlie_sees_nothing_of_it(self):
        error = self.refused("/team/info?team_id=red", status=404, key=self.charlies, method="GET")

        self.assertEqual(
            error, self.refused("/team/info?team_id=red", status=404, key=self.charlies, method="GET")
        )
        absent = self.refused("/team/info?team_id=blue", status=404, key=self.charlies, method="GET")
        self.assertEqual(absent["message"].replace("blue", "red"), error["message"])
        self.assertEqual(self.get("/team/list", key=self.charlies), [])
        self.assertEqual(self.get("/v2/team/list", key=self.charlies)["total"], 0)

    def test_bob_sees_his_team_and_of_keys_and_spend_his_own(self):
        create_key(team=self.red, user=self.alice, alias="alice-red")
        create_key(team=self.red, user=self.bob, alias="bob-red")

        answer = self.get("/team/info", {"team_id": "red"}, key=self.bobs)
        listed = self.get("/team/list", key=self.bobs)

        self.assertEqual([key["key_alias"] for key in answer["keys"]], ["bob-red"])
        self.assertEqual([member["user_id"] for member in answer["team_memberships"]], ["bob"])
        self.assertEqual(len(answer["team_info"]["members_with_roles"]), 2)
        self.assertEqual([key["key_alias"] for key in listed[0]["keys"]], ["bob-red"])

    def test_alice_sees_all_of_her_team(self):
        create_key(team=self.red, user=self.bob, alias="bob-red")

        answer = self.get("/team/info", {"team_id": "red"}, key=self.alices)

        self.assertEqual([key["key_alias"] for key in answer["keys"]], ["bob-red"])
        self.assertEqual([member["user_id"] for member in answer["team_memberships"]], ["alice", "bob"])

    def test_a_team_s_own_key_sees_its_team(self):
        _, secret = create_key(team=self.red)

        answer = self.get("/team/info", {"team_id": "red"}, key=secret)

        self.assertEqual(len(answer["keys"]), 1)


class ListTests(CastTestCase):
    def setUp(self):
        super().setUp()
        self.blue = Team.objects.create(pk="blue", alias="Blue Sky", extras={"organization_id": "org-1"})
        TeamMembership.objects.create(team=self.blue, user=self.charlie)

    def test_a_bare_array_with_keys_and_members(self):
        create_key(team=self.red, alias="red-key")

        rows = self.get("/team/list")

        self.assertEqual([row["team_id"] for row in rows], ["red", "blue"])
        self.assertEqual([key["key_alias"] for key in rows[0]["keys"]], ["red-key"])
        self.assertEqual([member["user_id"] for member in rows[0]["team_memberships"]], ["alice", "bob"])

    def test_filters(self):
        for query, expected in (
            ({"user_id": "bob"}, ["red"]),
            ({"user_id": "nobody"}, []),
            ({"organization_id": "org-1"}, ["blue"]),
            ({"team_id": "blue"}, ["blue"]),
            ({"team_alias": "sky"}, ["blue"]),
            ({"team_alias": "%"}, []),
        ):
            with self.subTest(query):
                page = self.get("/v2/team/list", query)

                self.assertEqual([row["team_id"] for row in page["teams"]], expected)
                self.assertEqual(page["total"], len(expected))
        self.assertEqual([row["team_id"] for row in self.get("/team/list", {"user_id": "charlie"})], ["blue"])

    def test_pages(self):
        first = self.get("/v2/team/list", {"page_size": 1, "sort_by": "team_alias", "sort_order": "asc"})
        last = self.get(
            "/v2/team/list", {"page_size": 1, "page": 2, "sort_by": "team_alias", "sort_order": "asc"}
        )

        self.assertEqual([row["team_id"] for row in first["teams"] + last["teams"]], ["blue", "red"])
        paging = {name: first[name] for name in ("total", "page", "page_size", "total_pages")}
        self.assertEqual(paging, {"total": 2, "page": 1, "page_size": 1, "total_pages": 2})
        self.assertEqual(self.get("/v2/team/list", {"page": 9})["teams"], [])

    def test_bad_queries_are_422(self):
        for query in (
            {"page": 0}, {"page": "x"}, {"page_size": 101}, {"page": HUGE}, {"sort_by": "password"},
            {"sort_order": "up"}, {"team_id": "a\0"}, {"team_alias": "x" * 256},
        ):  # fmt: skip
            with self.subTest(query):
                self.get("/v2/team/list", query, status=422)

    def test_the_number_of_queries_does_not_grow_with_the_rows(self):
        for path in ("/team/list", "/v2/team/list?page_size=100"):
            self._make_teams(1, path)
            with CaptureQueriesContext(connection) as few:
                rows = len(self.get(path))
            self._make_teams(3, path)

            with self.subTest(path), self.assertNumQueries(len(few)):
                self.assertGreaterEqual(len(self.get(path)), rows)

    def _make_teams(self, number: int, name: str) -> None:
        for each in range(number):
            team = Team.objects.create(budget=Budget.objects.create(max_budget=1))
            user, budget = make_user(f"{name} {number} {each}"), Budget.objects.create(max_budget=1)
            TeamMembership.objects.create(team=team, user=user, budget=budget)
            create_key(team=team, budget=Budget.objects.create(max_budget=1))

    def test_a_list_that_is_too_long_says_to_page(self):
        with mock.patch("billing.views.teams.MOST_LISTED", 1):
            error = self.refused("/team/list", method="GET")

        self.assertIn("/v2/team/list", error["message"])


class ManyMembersTests(ApiTestCase):
    def test_five_hundred_join_with_a_handful_of_statements(self):
        Team.objects.create(pk="big")
        known = [User(pk=f"k-{number}", username=f"k-{number}") for number in range(250)]
        User.objects.bulk_create(known)
        members = [{"user_id": user.pk} for user in known]
        members += [{"user_id": f"n-{number}"} for number in range(125)]
        members += [{"user_email": f"n{number}@example.com"} for number in range(125)]

        with CaptureQueriesContext(connection) as queries:
            answer = self.post(
                "/team/member_add", {"team_id": "big", "member": members, "max_budget_in_team": 2}
            )

        self.assertLess(len(queries), 120)  # not a few for each
        self.assertEqual(len(answer["updated_team_memberships"]), 500)
        self.assertEqual(TeamMembership.objects.filter(team_id="big", budget__max_budget=2).count(), 500)
        self.assertEqual(Budget.objects.count(), 500)  # each its own
        self.assertEqual(User.objects.filter(email__startswith="n").count(), 125)
        made = User.objects.get(pk="n-7")
        self.assertEqual((made.username, made.has_usable_password()), ("n-7", False))

    def test_all_or_none_join_and_nobody_is_made(self):
        Team.objects.create(pk="red")
        make_user("gone", deleted_at=timezone.now())
        for members, param in (
            ([{"user_id": "new"}, {"user_id": "gone"}], "user_id"),
            ([{"user_id": "new"}, {"user_id": "new"}], "user_id"),
            ([{"user_id": "new", "user_email": "a@b.test"}, {"user_email": "A@b.test"}], "user_email"),
            (
                [
                    {"user_id": "new", "user_email": "a@b.test"},
                    {"user_id": "other", "user_email": "A@b.test"},
                ],
                "user_email",
            ),
        ):
            with self.subTest(members):
                response = self.send("POST", "/team/member_add", {"team_id": "red", "member": members})
                self.assertIn(response.status_code, (400, 409), response.content)
                self.assertEqual(response.json()["error"]["param"], param)
                self.assertEqual((User.objects.count(), TeamMembership.objects.count()), (1, 0))

    @override_settings(USER_DEFAULTS={"max_budget": Decimal(3), "user_role": "internal_user_viewer"})
    def test_who_is_made_has_the_operator_s_defaults(self):
        Team.objects.create(pk="red")

        self.post("/team/member_add", {"team_id": "red", "member": [{"user_id": "a"}, {"user_id": "b"}]})

        made = list(User.objects.select_related("budget"))
        self.assertEqual(
            {(each.role, each.budget.max_budget) for each in made}, {("internal_user_viewer", 3)}
        )
        self.assertEqual(len({each.budget_id for each in made}), 2)


class MemberTests(CastTestCase):
    def test_adding_one_or_several(self):
        one = self.post(
            "/team/member_add", {"team_id": "red", "member": {"role": "user", "user_id": "charlie"}}
        )
        several = self.post(
            "/team/member_add",
            {
                "team_id": "red",
                "member": [{"role": "admin", "user_email": "new@example.com"}, {"user_id": "u-new"}],
                "max_budget_in_team": 2.5,
                "budget_duration": "1d",
            },
        )

        self.assertEqual(one["updated_users"], [{"user_id": "charlie", "user_email": None}])
        self.assertEqual(one["updated_team_memberships"][0]["litellm_budget_table"], None)
        self.assertEqual(len(several["members_with_roles"]), 5)
        self.assertEqual([user["user_email"] for user in several["updated_users"]], ["new@example.com", None])
        self.assertEqual(
            [m["litellm_budget_table"]["max_budget"] for m in several["updated_team_memberships"]], [2.5, 2.5]
        )
        budgets = set(TeamMembership.objects.exclude(budget=None).values_list("budget", flat=True))
        self.assertEqual(len(budgets), 2)  # one each: to change one is not to change the other

    def test_who_is_on_the_team_already_is_400_and_nobody_is_added(self):
        error = self.refused(
            "/team/member_add", {"team_id": "red", "member": [{"user_id": "charlie"}, {"user_id": "bob"}]}
        )

        self.assertEqual((error["type"], error["param"]), ("team_member_already_in_team", "user_id"))
        self.assertEqual(self.red.memberships.count(), 2)

    def test_a_deleted_user_cannot_join_again(self):
        self.post("/user/delete", {"user_ids": ["charlie"]})

        error = self.refused(
            "/team/member_add", {"team_id": "red", "member": {"user_id": "charlie"}}, status=409
        )

        self.assertIn("was deleted", error["message"])

    def test_alice_adds_members_bob_and_charlie_may_not(self):
        body = {"team_id": "red", "member": {"user_email": "new@example.com"}}

        for key, status in ((self.bobs, 403), (self.charlies, 403), (self.alices, 200)):
            response = self.send("POST", "/team/member_add", body, key=key)

            self.assertEqual(response.status_code, status, response.content)
            if status == 403:
                self.assertEqual(response.json()["error"]["type"], "team_member_permission_error")

    def test_an_admin_of_another_team_is_told_that_there_is_none(self):
        blue = Team.objects.create(pk="blue")
        TeamMembership.objects.create(team=blue, user=self.charlie, role="admin")
        TeamMembership.objects.create(team=blue, user=self.bob, role="admin")

        for key, status in ((self.charlies, 404), (self.bobs, 403)):  # Bob is on red, and knows of it
            body = {"team_id": "red", "member": {"user_id": "u-new"}}
            self.refused("/team/member_add", body, status=status, key=key)
        self.assertFalse(User.objects.filter(pk="u-new").exists())

    def test_changing_a_member(self):
        answer = self.post(
            "/team/member_update",
            {"team_id": "red", "user_id": "bob", "role": "admin", "max_budget_in_team": 4, "rpm_limit": 9},
        )

        self.assertEqual(
            {
                name: answer[name]
                for name in ("team_id", "user_id", "max_budget_in_team", "role", "rpm_limit")
            },
            {"team_id": "red", "user_id": "bob", "max_budget_in_team": 4, "role": "admin", "rpm_limit": 9},
        )
        membership = self.red.memberships.get(user=self.bob)
        self.assertEqual((membership.role, membership.budget.max_budget), ("admin", 4))

    def test_a_member_is_named_by_its_e_mail_too(self):
        User.objects.filter(pk="bob").update(email="Bob@Example.com")

        self.post("/team/member_update", {"team_id": "red", "user_email": "bob@example.COM", "role": "admin"})
        self.post("/team/member_delete", {"team_id": "red", "user_email": "bob@example.com"})

        self.assertEqual(list(self.red.memberships.values_list("user", flat=True)), ["alice"])

    def test_a_limit_of_its_own_keeps_the_team_s_others(self):
        self.post(
            "/team/update", {"team_id": "red", "team_member_budget": 10, "team_member_budget_duration": "1d"}
        )

        answer = self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "rpm_limit": 3})

        self.assertEqual((answer["max_budget_in_team"], answer["budget_duration"]), (10, "1d"))
        self.red.refresh_from_db()
        self.assertEqual((self.red.member_budget.max_budget, self.red.member_budget.rpm_limit), (10, None))

    def test_without_limits_of_its_own_it_has_the_team_s_again(self):
        self.post("/team/update", {"team_id": "red", "team_member_budget": 10})
        self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": 1})

        answer = self.post(
            "/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": None}
        )

        self.assertEqual(answer["max_budget_in_team"], 10)
        self.assertIsNone(self.red.memberships.get(user=self.bob).budget)
        self.assertEqual(Budget.objects.count(), 1)

    def test_who_leaves_loses_its_keys_of_the_team_alone(self):
        create_key(team=self.red, user=self.bob, alias="of-red")
        create_key(team=self.red, user=self.alice, alias="of-alice")
        self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": 1})

        answer = self.post("/team/member_delete", {"team_id": "red", "user_id": "bob"})

        self.assertEqual([member["user_id"] for member in answer["members_with_roles"]], ["alice"])
        aliases = set(VirtualKey.objects.listed().values_list("alias", flat=True))
        self.assertEqual(aliases, {None, "of-alice"})
        self.assertEqual(VirtualKey.objects.listed().filter(user=self.bob).count(), 1)
        self.assertFalse(Budget.objects.exists())

    def test_what_is_wrong_is_told(self):
        for path in ("/team/member_update", "/team/member_delete"):
            error = self.refused(path, {"team_id": "red", "user_id": "charlie"}, status=404)
            self.assertEqual(error["param"], "user_id")
            self.assertEqual(self.send("POST", path, {"team_id": "red"}).status_code, 422)
        named = {"team_id": "red", "user_id": "bob"}
        self.assertEqual(
            self.refused("/team/member_update", {**named, "max_budget_in_team": -1})["param"], "max_budget"
        )
        for wrong in (
            {"role": "owner"},
            {"rpm_limit": HUGE},
            {"max_budget_in_team": "x"},
            {"user_id": "a\nb"},
        ):
            self.assertEqual(
                self.send("POST", "/team/member_update", {**named, **wrong}).status_code, 422, wrong
            )
        for member in ([], {}, "bob", None, [{"user_id": "a"}, "b"], [{"user_email": "x"}]):
            body = {"team_id": "red", "member": member}
            self.assertEqual(self.send("POST", "/team/member_add", body).status_code, 422, member)


class ResetSpendTests(CastTestCase):
    PATH = "/team/red/member/bob/reset_spend"

    def test_the_period_under_way_counts_from_zero_and_the_total_stays(self):
        now = timezone.now()
        self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": 4})
        book_calls(make_call(team_id="red", user_id="bob", cost_usd="3", at=now))

        answer = self.post(self.PATH, {"reset_to": 0})

        self.assertEqual(answer["previous_spend"], 3)
        self.assertEqual((answer["spend"], answer["max_budget"], answer["budget_reset_at"]), (0, 4, None))
        latest = BudgetPeriod.objects.filter(holder_type="team_member").latest("generation")
        self.assertEqual((latest.generation, latest.spent_cost), (1, 0))
        self.assertEqual(SpendTotal.objects.get(holder_type="team_member").cost, 3)
        entry = AuditLog.objects.latest("id")
        self.assertEqual((entry.kind, entry.after), ("customers.teammembership", {"spend": 0}))

    def test_the_team_s_budget_for_members_counts_as_the_member_s(self):
        self.post(
            "/team/update", {"team_id": "red", "team_member_budget": 4, "team_member_budget_duration": "1d"}
        )
        book_calls(make_call(team_id="red", user_id="bob", cost_usd="3", at=timezone.now()))

        answer = self.post(self.PATH, {"reset_to": 0}, key=self.alices)

        self.assertEqual((answer["previous_spend"], answer["max_budget"]), (3, 4))
        self.assertGreater(datetime.fromisoformat(answer["budget_reset_at"]), datetime.now(UTC))

    def test_what_is_wrong_is_told(self):
        self.assertEqual(self.refused(self.PATH, {"reset_to": 0})["param"], "user_id")  # no budget
        self.post("/team/member_update", {"team_id": "red", "user_id": "bob", "max_budget_in_team": 4})
        for amount in (1, -1):
            self.assertEqual(self.refused(self.PATH, {"reset_to": amount})["param"], "reset_to")
        self.assertEqual(self.send("POST", self.PATH, {}).status_code, 422)
        self.refused("/team/red/member/nobody/reset_spend", {"reset_to": 0}, status=404)
        self.refused("/team/red/member/bo%00b/reset_spend", {"reset_to": 0}, status=404)
        self.refused("/team/blue/member/bob/reset_spend", {"reset_to": 0}, status=404)
        self.assertEqual(
            self.refused(self.PATH, {"reset_to": 0}, status=403, key=self.bobs)["type"],
            "team_member_permission_error",
        )


class ModelTests(CastTestCase):
    def test_adding_and_removing(self):
        added = self.post("/team/model/add", {"team_id": "red", "models": ["gpt-4o", "o3"]})
        again = self.post("/team/model/add", {"team_id": "red", "models": ["o3", "o4"]})
        removed = self.post("/team/model/delete", {"team_id": "red", "models": ["o3", "unknown"]})

        self.assertEqual(added["models"], ["gpt-4o", "o3"])
        self.assertEqual(again["models"], ["gpt-4o", "o3", "o4"])
        self.assertEqual(removed["models"], ["gpt-4o", "o4"])

    def test_removing_the_last_is_refused_for_it_would_allow_all(self):
        self.post("/team/model/add", {"team_id": "red", "models": ["gpt-4o"]})

        error = self.refused("/team/model/delete", {"team_id": "red", "models": ["gpt-4o"]})

        self.assertIn("every model", error["message"])
        self.red.refresh_from_db()
        self.assertEqual(self.red.allowed_models, ["gpt-4o"])


class TeamAdminTests(CastTestCase):
    """Alice runs her team; what it may spend and call is not hers to say."""

    def test_she_changes_its_name_and_its_members_limits(self):
        row = self.post(
            "/team/update",
            {"team_id": "red", "team_alias": "R", "metadata": {"a": 1}, "team_member_budget": 1},
            key=self.alices,
        )["data"]

        self.assertEqual((row["team_alias"], row["updated_by"]), ("R", "alice"))

    def test_she_does_not_change_what_it_may_spend_and_call(self):
        for given in (
            {"max_budget": 1000}, {"max_budget": None}, {"budget_id": None}, {"models": []}, {"tags": []},
            {"blocked": False}, {"rpm_limit": 9}, {"model_aliases": {}}, {"metadata": {"tags": []}},
        ):  # fmt: skip
            with self.subTest(given):
                error = self.refused("/team/update", {"team_id": "red", **given}, status=403, key=self.alices)

                self.assertEqual(error["type"], "team_member_permission_error")
        self.assertFalse(Budget.objects.exists())

    def test_she_neither_makes_blocks_nor_deletes_teams(self):
        for path, body in (
            ("/team/new", {}),
            ("/team/block", {"team_id": "red"}),
            ("/team/unblock", {"team_id": "red"}),
            ("/team/delete", {"team_ids": ["red"]}),
            ("/team/model/add", {"team_id": "red", "models": ["o3"]}),
            ("/team/model/delete", {"team_id": "red", "models": ["o3"]}),
        ):
            with self.subTest(path):
                error = self.refused(path, body, status=403, key=self.alices)

                self.assertEqual(error["type"], "team_member_permission_error")

    def test_bob_is_told_that_it_is_not_his_to_change(self):
        error = self.refused("/team/update", {"team_id": "red", "team_alias": "B"}, status=403, key=self.bobs)

        self.assertEqual(error["type"], "team_member_permission_error")

    def test_permissions(self):
        listed = self.get("/team/permissions_list", {"team_id": "red"}, key=self.bobs)
        changed = self.post(
            "/team/permissions_update",
            {"team_id": "red", "team_member_permissions": ["/key/generate"]},
            key=self.alices,
        )

        self.assertEqual((listed["team_id"], listed["team_member_permissions"]), ("red", []))
        self.assertIn("/key/generate", listed["all_available_permissions"])
        self.assertEqual(changed["team_member_permissions"], ["/key/generate"])
        self.refused("/team/permissions_update", {"team_id": "red", "team_member_permissions": ["/x"]})
        self.refused("/team/permissions_list?team_id=red", status=404, key=self.charlies, method="GET")
