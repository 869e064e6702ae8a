"""Users through the API (contract 5.5)."""

from datetime import datetime, timedelta
from decimal import Decimal
from importlib import import_module
from types import SimpleNamespace
from unittest import mock

from django.apps import apps
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.core.management import CommandError
from django.db import IntegrityError, connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import SpendLog, SpendTotal
from customers.keys import hash_secret
from customers.models import AuditLog, Budget, Team, TeamMembership, User, VirtualKey
from customers.services import create_key
from tests.billing.making import book_calls, make_call
from tests.customers.calling import BAD_TEXTS, HUGE, ApiTestCase, CastTestCase, key_of, make_user


class NewUserTests(ApiTestCase):
    def test_it_has_the_contract_s_fields_and_a_key(self):
        row = self.post(
            "/user/new",
            {
                "user_id": "u-17", "user_email": "kim@example.com", "max_budget": 50.0,
                "budget_duration": "30d", "key_alias": "kim-dev", "duration": "90d",
                "aliases": {"fast": "gpt-4o-mini"},
            },
        )  # fmt: skip

        contract = {
            "user_id": "u-17", "user_alias": None, "user_email": "kim@example.com",
            "user_role": "internal_user", "teams": [], "max_budget": 50, "budget_duration": "30d", "spend": 0,
            "models": [], "metadata": {},
            "tpm_limit": None, "rpm_limit": None, "model_spend": {}, "model_max_budget": {},
            "organizations": None, "key_alias": "kim-dev", "duration": "90d",
        }  # fmt: skip
        self.assertEqual({name: row[name] for name in contract}, contract)
        key = VirtualKey.objects.get()
        self.assertEqual((key.token_hash, row["token"], row["token_id"]), (hash_secret(row["key"]),) * 3)
        self.assertEqual((key.user_id, key.model_aliases), ("u-17", {"fast": "gpt-4o-mini"}))
        self.assertAlmostEqual(
            key.expires_at, timezone.now() + timedelta(days=90), delta=timedelta(minutes=1)
        )
        self.assertEqual(datetime.fromisoformat(row["expires"]), key.expires_at)
        self.assertGreater(datetime.fromisoformat(row["budget_reset_at"]), timezone.now())
        self.assertIsNone(key.budget)  # the limits are the user's
        self.assertEqual(self.get("/key/info", key=row["key"])["info"]["user_id"], "u-17")

    def test_without_a_key_there_is_none(self):
        row = self.post("/user/new", {"auto_create_key": False, "user_alias": "Kim", "models": ["gpt-4o"]})

        self.assertEqual((row["key"], row["token"], row["expires"]), (None, None, None))
        self.assertEqual((row["user_alias"], row["models"]), ("Kim", ["gpt-4o"]))
        self.assertEqual(User.objects.get().pk, row["user_id"])
        self.assertFalse(VirtualKey.objects.exists())

    def test_it_cannot_log_into_the_admin_whatever_its_role(self):
        self.post("/user/new", {"user_id": "boss", "user_role": "proxy_admin"})

        boss = User.objects.get()
        self.assertEqual((boss.role, boss.is_staff, boss.is_superuser), ("proxy_admin", False, False))
        self.assertFalse(boss.has_usable_password())
        self.assertIsNone(ModelBackend().authenticate(None, username="boss", password=""))

    def test_it_is_called_by_its_id_in_the_admin_where_that_can_be(self):
        User.objects.create(username="taken")

        for user_id, is_name in (
            ("kim@example.com", True),
            ("taken", False),
            ("has blanks", False),
            ("x" * 200, False),
        ):
            self.post("/user/new", {"user_id": user_id, "auto_create_key": False})
            self.assertEqual(User.objects.get(pk=user_id).username == user_id, is_name, user_id)

    def test_it_joins_teams(self):
        for name in ("red", "blue"):
            Team.objects.create(pk=name)

        row = self.post(
            "/user/new",
            {
                "user_id": "kim",
                "teams": ["red", {"team_id": "blue", "user_role": "admin", "max_budget_in_team": 3}],
            },
        )

        self.assertEqual(row["teams"], ["red", "blue"])
        blue = TeamMembership.objects.get(team="blue")
        self.assertEqual((blue.role, blue.budget.max_budget), ("admin", 3))

    def test_what_it_spent_before_is_its_total(self):
        row = self.post("/user/new", {"user_id": "kim", "spend": 5.25})

        self.assertEqual(row["spend"], 5.25)
        self.assertEqual(SpendTotal.objects.get().holder_id, "kim")  # nobody else's, no day's
        self.assertFalse(SpendLog.objects.exists())

    def test_all_that_is_given_comes_back(self):
        given = {
            "organizations": ["org-1"], "sso_user_id": "sso|17", "permissions": {"get_spend_routes": True},
            "metadata": {"a": {"b": [1, "c"]}}, "tpm_limit": 10, "rpm_limit": 0, "max_parallel_requests": 3,
            "user_role": "internal_user_viewer", "soft_budget": 1,
        }  # fmt: skip

        row = self.post("/user/new", {**given, "auto_create_key": False})

        self.assertEqual({name: row[name] for name in given}, given)

    @override_settings(
        USER_DEFAULTS={"max_budget": Decimal(7), "user_role": "internal_user_viewer", "models": ["a"]}
    )
    def test_the_operator_s_defaults_fill_what_is_missing(self):
        missing = self.post("/user/new", {})
        given = self.post("/user/new", {"max_budget": None, "user_role": "internal_user", "models": []})

        self.assertEqual(
            (missing["max_budget"], missing["user_role"], missing["models"]),
            (7, "internal_user_viewer", ["a"]),
        )
        self.assertEqual(
            (given["max_budget"], given["user_role"], given["models"]), (None, "internal_user", [])
        )

    @override_settings(KEY_UPPER_BOUNDS={"duration": "30d", "max_budget": Decimal(9)})
    def test_its_key_is_within_the_bounds_of_keys(self):
        self.post("/user/new", {"user_id": "kim"})
        error = self.refused("/user/new", {"duration": "31d"})

        key = VirtualKey.objects.get()
        self.assertEqual((key.budget.max_budget, error["param"]), (9, "duration"))
        self.assertEqual(User.objects.count(), 1)

    def test_who_is_there_already_is_409(self):
        make_user("kim", email="kim@example.com")
        for body, param in (
            ({"user_id": "kim"}, "user_id"),
            ({"user_email": "KIM@example.com"}, "user_email"),
        ):
            with self.subTest(body):
                self.assertEqual(self.refused("/user/new", body, status=409)["param"], param)
        self.assertEqual((User.objects.count(), VirtualKey.objects.count()), (1, 0))

    def test_an_id_is_never_used_again_and_an_e_mail_is(self):
        self.post("/user/new", {"user_id": "kim", "user_email": "kim@example.com"})
        self.post("/user/delete", {"user_ids": ["kim"]})

        error = self.refused("/user/new", {"user_id": "kim"}, status=409)
        self.post("/user/new", {"user_id": "kim-2", "user_email": "kim@example.com"})

        self.assertIn("was deleted", error["message"])

    def test_what_is_wrong_is_told_and_nothing_is_done(self):
        create_key(alias="ci")
        for body, status, param in (
            ({"user_id": "default_user_id"}, 400, "user_id"),
            ({"teams": ["nobody"]}, 404, "teams"),
            ({"budget_id": "none"}, 404, "budget_id"),
            ({"max_budget": -1}, 400, "max_budget"),
            ({"spend": -1}, 400, "spend"),
            ({"spend": 1, "key_alias": "ci"}, 400, "key_alias"),
            ({"budget_duration": "often", "max_budget": 1}, 400, "budget_duration"),
            ({"duration": "often"}, 400, "duration"),
            ({"budget_limits": [{"max_budget": 1}]}, 400, "budget_limits"),
        ):
            with self.subTest(body):
                self.assertEqual(self.refused("/user/new", body, status=status)["param"], param)
        self.assertEqual(
            (User.objects.count(), VirtualKey.objects.count(), SpendTotal.objects.count()), (0, 1, 0)
        )

    def test_a_request_of_the_wrong_shape_is_422(self):
        bodies = [{name: text} for name in ("user_id", "user_alias", "key_alias") for text in BAD_TEXTS[1:]]
        bodies += [
            {"user_role": "owner"}, {"user_email": "nobody"}, {"user_email": 5}, {"teams": "red"},
            {"teams": [[]]},
            {"teams": [{"team_id": "a", "user_role": "boss"}]}, {"spend": "much"},
            {"auto_create_key": "maybe"},
            {"models": {}}, {"metadata": []}, {"max_budget": HUGE}, {"aliases": {"a": {}}}, [], 5,
        ]  # fmt: skip
        for body in bodies:
            with self.subTest(body):
                self.assertEqual(self.send("POST", "/user/new", body).status_code, 422)
        for raw in (b'{"user_id": "a\\u0000"}', b'{"user_alias": "\\ud800"}', b"{"):
            self.assertIn(self.send("POST", "/user/new", raw).status_code, (400, 422), raw)
        self.assertFalse(User.objects.exists())

    def test_the_secret_of_its_key_is_in_no_audit_entry(self):
        row = self.post("/user/new", {"user_id": "kim"})

        told = " ".join(f"{entry.before} {entry.after}" for entry in AuditLog.objects.all())
        self.assertIn("kim", told)
        self.assertNotIn(row["key"], told)
        self.assertNotIn(row["token"], told)


class UpdateTests(ApiTestCase):
    def setUp(self):
        self.kim = make_user("kim", email="kim@example.com", alias="Kim")

    def test_only_what_is_sent_changes(self):
        answer = self.post(
            "/user/update", {"user_id": "kim", "max_budget": 0, "user_role": "internal_user_viewer"}
        )

        row = answer["data"]
        self.assertEqual((answer["user_id"], row["user_alias"], row["max_budget"]), ("kim", "Kim", 0))
        self.assertEqual((row["user_role"], row["user_email"]), ("internal_user_viewer", "kim@example.com"))

    def test_null_takes_away(self):
        self.post("/user/update", {"user_id": "kim", "max_budget": 5, "models": ["a"]})

        nothing = dict.fromkeys(("max_budget", "models", "user_alias", "user_email", "user_role"))
        row = self.post("/user/update", {"user_id": "kim", **nothing})["data"]

        self.assertEqual((row["max_budget"], row["models"], row["user_alias"]), (None, [], None))
        self.assertEqual((row["user_email"], row["user_role"]), (None, "internal_user"))

    def test_a_user_is_named_by_its_e_mail_too(self):
        row = self.post("/user/update", {"user_email": "KIM@example.com", "user_alias": "K"})["data"]

        self.assertEqual(
            (row["user_id"], row["user_alias"], row["user_email"]), ("kim", "K", "kim@example.com")
        )

    def test_who_is_not_there_is_made_without_a_key(self):
        by_id = self.post("/user/update", {"user_id": "new", "max_budget": 5})
        by_email = self.post("/user/update", {"user_email": "new@example.com"})

        self.assertEqual((by_id["user_id"], by_id["data"]["max_budget"]), ("new", 5))
        self.assertEqual(by_email["data"]["user_email"], "new@example.com")
        self.assertFalse(VirtualKey.objects.exists())

    def test_somebody_else_s_e_mail_is_409(self):
        make_user("lee", email="lee@example.com")

        error = self.refused("/user/update", {"user_id": "kim", "user_email": "LEE@example.com"}, status=409)

        self.assertEqual(error["param"], "user_email")
        self.kim.refresh_from_db()
        self.assertEqual(self.kim.email, "kim@example.com")

    def test_a_deleted_user_is_409(self):
        self.post("/user/delete", {"user_ids": ["kim"]})

        self.refused("/user/update", {"user_id": "kim", "user_alias": "K"}, status=409)

    def test_neither_id_nor_e_mail_is_422(self):
        self.assertEqual(self.send("POST", "/user/update", {"user_alias": "K"}).status_code, 422)

    def test_a_role_makes_nobody_staff_and_leaves_staff_as_they_are(self):
        staff = User.objects.create_superuser("admin", password="secret")

        self.post("/user/update", {"user_id": "kim", "user_role": "proxy_admin"})
        self.post(
            "/user/update",
            {"user_id": staff.pk, "user_role": "internal_user", "password": "x", "is_staff": False},
        )

        self.kim.refresh_from_db()
        staff.refresh_from_db()
        self.assertEqual((self.kim.is_staff, self.kim.is_superuser), (False, False))
        self.assertEqual(
            (staff.is_staff, staff.is_superuser, staff.check_password("secret")), (True, True, True)
        )


class EmailTests(ApiTestCase):
    def test_the_database_keeps_an_e_mail_one_user_s_in_any_case(self):
        make_user("kim", email="kim@example.com")
        make_user("lee", email="")
        make_user("may", email="")

        with self.assertRaises(IntegrityError), transaction.atomic():
            make_user("pat", email="KIM@example.com")

    def test_the_admin_says_so(self):
        make_user("kim", email="kim@example.com")
        self.client.force_login(User.objects.create_superuser("alice"))

        response = self.client.post(
            "/admin/customers/user/add/",
            {"username": "pat", "email": "Kim@example.com", "role": "internal_user"},
        )

        self.assertContains(response, "A user with this e-mail exists already.")
        self.assertFalse(User.objects.filter(username="pat").exists())

    def test_the_migration_names_those_who_share_one(self):
        migration = import_module("customers.migrations.0007_unique_emails")
        editor = SimpleNamespace(connection=connection)
        make_user("kim", email="kim@example.com")
        migration.refuse_shared_emails(apps, editor)
        with connection.cursor() as cursor:
            cursor.execute("DROP INDEX user_email_in_any_case")  # until the test's transaction ends
        make_user("lee", email="Kim@Example.com")

        with self.assertRaisesRegex(CommandError, r"kim@example.com: user kim\n.*: user lee\n"):
            migration.refuse_shared_emails(apps, editor)


class BulkUpdateTests(ApiTestCase):
    def setUp(self):
        for name in ("kim", "lee"):
            make_user(name)

    def test_what_is_wrong_with_one_leaves_the_others_changed(self):
        answer = self.post(
            "/user/bulk_update",
            {
                "users": [
                    {"user_id": "kim", "max_budget": 5},
                    {"user_id": "lee", "max_budget": 5, "rpm_limit": -1},
                    {"user_id": "nobody", "max_budget": 5},
                ]
            },
        )

        self.assertEqual(
            (answer["total_requested"], answer["successful_updates"], answer["failed_updates"]), (3, 1, 2)
        )
        done, wrong, unknown = answer["results"]
        self.assertEqual(
            (done["success"], done["error"], done["updated_user"]["max_budget"]), (True, None, 5)
        )
        self.assertEqual((wrong["user_id"], wrong["success"], wrong["updated_user"]), ("lee", False, None))
        self.assertIn("/user/new", unknown["error"])
        self.assertEqual((User.objects.count(), Budget.objects.count()), (2, 1))

    def test_e_mails_are_passed_on_and_swapped(self):
        User.objects.filter(pk="kim").update(email="kim@example.com")
        User.objects.filter(pk="lee").update(email="lee@example.com")

        answer = self.post(
            "/user/bulk_update",
            {
                "users": [
                    {"user_id": "kim", "user_email": "for-now@example.com"},
                    {"user_id": "lee", "user_email": "Kim@example.com"},
                    {"user_id": "kim", "user_email": "lee@example.com"},
                ]
            },
        )

        self.assertEqual(answer["failed_updates"], 0)
        emails = dict(User.objects.values_list("pk", "email"))
        self.assertEqual(emails, {"kim": "lee@example.com", "lee": "Kim@example.com"})

    def test_who_swaps_without_a_step_between_is_told_for_each(self):
        """One after the other: while the first is changed, the second still has the e-mail."""
        User.objects.filter(pk="kim").update(email="kim@example.com")
        User.objects.filter(pk="lee").update(email="lee@example.com")

        answer = self.post(
            "/user/bulk_update",
            {
                "users": [
                    {"user_id": "kim", "user_email": "lee@example.com"},
                    {"user_id": "lee", "user_email": "kim@example.com"},
                ]
            },
        )

        self.assertEqual(answer["failed_updates"], 2)
        self.assertIn("lee@example.com exists already", answer["results"][0]["error"])
        self.assertEqual(User.objects.get(pk="kim").email, "kim@example.com")

    def test_many_are_changed_with_a_handful_of_statements(self):
        ids = [f"u-{number:03}" for number in range(100)]
        User.objects.bulk_create([User(pk=pk, username=pk, email=f"{pk}@example.com") for pk in ids])
        self.post("/user/bulk_update", {"users": [{"user_id": pk, "max_budget": 1} for pk in ids[:50]]})

        with CaptureQueriesContext(connection) as queries:
            answer = self.post(
                "/user/bulk_update",
                {"users": [{"user_id": pk, "max_budget": 5, "user_alias": pk.upper()} for pk in ids]},
            )

        self.assertEqual((answer["successful_updates"], answer["failed_updates"]), (100, 0))
        self.assertEqual(
            set(User.objects.filter(pk__in=ids).values_list("alias", "budget__max_budget")),
            {(pk.upper(), 5) for pk in ids},
        )
        self.assertEqual(Budget.objects.count(), 100)
        self.assertLess(len(queries), 80 if connection.vendor == "sqlite" else 40)
        changes = AuditLog.objects.filter(kind="customers.user", action="updated", after__has_key="alias")
        self.assertEqual(changes.count(), 100)

    def test_changes_of_one_user_follow_one_another(self):
        answer = self.post(
            "/user/bulk_update",
            {
                "users": [
                    {"user_id": "kim", "max_budget": 5, "user_email": "kim@example.com"},
                    {"user_id": "kim", "rpm_limit": -1, "user_alias": "not this one"},
                    {"user_email": "KIM@example.com", "budget_duration": "1d", "user_alias": "Kim"},
                    {"user_id": "lee", "user_email": "Kim@Example.com"},
                    {"user_id": "lee", "budget_id": "no-such-tier"},
                ]
            },
        )

        self.assertEqual([each["success"] for each in answer["results"]], [True, False, True, False, False])
        kim = User.objects.select_related("budget").get(pk="kim")
        self.assertEqual(
            (kim.alias, kim.email, kim.budget.max_budget, kim.budget.budget_duration),
            ("Kim", "kim@example.com", 5, "1d"),
        )
        self.assertIn("exists already", answer["results"][3]["error"])
        self.assertEqual(Budget.objects.count(), 1)

    def test_all_users_get_the_same_each_with_a_budget_of_its_own(self):
        answer = self.post("/user/bulk_update", {"all_users": True, "user_updates": {"max_budget": 5}})

        self.assertEqual(answer["successful_updates"], 2)
        self.assertEqual(len(set(User.objects.values_list("budget", flat=True))), 2)

    def test_too_many_users_are_named_in_parts(self):
        with mock.patch("customers.serializers.users.MOST_CHANGED", 1):
            error = self.refused("/user/bulk_update", {"all_users": True, "user_updates": {"max_budget": 5}})

        self.assertEqual(error["param"], "all_users")

    def test_what_is_wrong_is_422(self):
        for body in (
            {}, {"users": []}, {"users": [{}]}, {"users": [{"user_id": "kim"}], "all_users": True},
            {"all_users": True}, {"all_users": True, "user_updates": {"user_email": "a@example.com"}},
            {"all_users": True, "user_updates": {"user_id": "kim"}}, {"users": [{"user_id": "kim"}] * 501},
        ):  # fmt: skip
            with self.subTest(body):
                self.assertEqual(self.send("POST", "/user/bulk_update", body).status_code, 422)


class InfoTests(CastTestCase):
    def test_it_has_the_contract_s_shape(self):
        User.objects.filter(pk="bob").update(email="bob@example.com")
        create_key(user=self.bob, team=self.red, alias="bob-red")
        self.post("/user/update", {"user_id": "bob", "max_budget": 50, "budget_duration": "30d"})
        book_calls(make_call(user_id="bob", cost_usd="4.2"))

        answer = self.get("/user/info", {"user_id": "bob"})

        self.assertEqual(list(answer), ["user_id", "user_info", "keys", "teams"])
        contract = {
            "user_id": "bob", "user_alias": None, "user_email": "bob@example.com",
            "user_role": "internal_user", "teams": ["red"], "max_budget": 50, "budget_duration": "30d",
            "spend": 4.2, "models": [],
            "metadata": {}, "tpm_limit": None, "rpm_limit": None, "model_spend": {}, "model_max_budget": {},
        }  # fmt: skip
        info = answer["user_info"]
        self.assertEqual({name: info[name] for name in contract}, contract)
        self.assertTrue(info["created_at"].endswith("Z") and info["budget_reset_at"].endswith("Z"))
        keys = [(key["key_alias"], key["team_alias"]) for key in answer["keys"]]
        self.assertEqual(keys, [(None, None), ("bob-red", "Red")])
        [team] = answer["teams"]
        self.assertEqual((team["team_id"], team["team_alias"]), ("red", "Red"))
        self.assertEqual(self.get("/v2/user/info", {"user_id": "bob"}), info)

    def test_without_an_id_it_is_the_caller(self):
        self.assertEqual(self.get("/user/info", key=self.bobs)["user_id"], "bob")
        self.assertEqual(self.get("/v2/user/info", key=self.bobs)["user_id"], "bob")

    def test_without_an_id_an_admin_has_all_keys_and_teams(self):
        answer = self.get("/user/info")

        self.assertEqual((answer["user_id"], answer["user_info"]), (None, None))
        self.assertEqual((len(answer["keys"]), len(answer["teams"])), (3, 1))
        with mock.patch("billing.views.users._MOST_KEYS", 2):
            self.assertIn("/key/list", self.refused("/user/info", method="GET")["message"])

    def test_a_key_without_a_user_has_to_say_which(self):
        _, secret = create_key()

        error = self.refused("/user/info", method="GET", status=404, key=secret)

        self.assertIn("user_id", error["message"])

    def test_an_unknown_or_deleted_user_is_404(self):
        self.post("/user/delete", {"user_ids": ["charlie"]})
        for path in ("/user/info", "/v2/user/info"):
            for user_id in ("nobody", "charlie", "default_user_id"):
                error = self.refused(f"{path}?user_id={user_id}", method="GET", status=404)
                self.assertEqual((error["type"], error["param"]), ("not_found", "user_id"))
            self.get(path, {"user_id": "a\0"}, status=422)

    def test_charlie_and_bob_are_nobody_s_business_but_their_own(self):
        for key, user_id, status in (
            (self.charlies, "bob", 404),
            (self.bobs, "charlie", 404),
            (self.bobs, "alice", 404),
            (self.alices, "charlie", 404),
            (self.alices, "bob", 200),
            (self.charlies, "charlie", 200),
        ):
            with self.subTest(user_id=user_id, key=key):
                self.get("/user/info", {"user_id": user_id}, key=key, status=status)
                self.get("/v2/user/info", {"user_id": user_id}, key=key, status=status)

    def test_alice_sees_of_bob_what_is_her_team_s(self):
        blue = Team.objects.create(pk="blue")
        TeamMembership.objects.create(team=blue, user=self.bob)
        create_key(user=self.bob, team=blue, alias="bob-blue")
        create_key(user=self.bob, team=self.red, alias="bob-red")

        answer = self.get("/user/info", {"user_id": "bob"}, key=self.alices)

        self.assertEqual([key["key_alias"] for key in answer["keys"]], ["bob-red"])
        self.assertEqual([team["team_id"] for team in answer["teams"]], ["red"])
        self.assertEqual(answer["user_info"]["teams"], ["red"])
        self.assertEqual(self.get("/user/info", key=self.bobs)["user_info"]["teams"], ["red", "blue"])


class ListTests(CastTestCase):
    def setUp(self):
        super().setUp()
        User.objects.filter(pk="alice").update(email="alice@example.com", role="proxy_admin_viewer")
        User.objects.filter(pk="bob").update(alias="Bobby")

    def ids(self, query: dict[str, object], **options: str) -> list[str]:
        page = self.get("/user/list", {"sort_by": "user_id", "sort_order": "asc", **query}, **options)
        self.assertEqual(page["total"], len(page["users"]))
        return [row["user_id"] for row in page["users"]]

    def test_rows_with_the_number_of_their_keys(self):
        create_key(user=self.bob)

        page = self.get("/user/list", {"sort_by": "user_id", "sort_order": "asc"})

        self.assertEqual(
            [(row["user_id"], row["key_count"]) for row in page["users"]],
            [("alice", 1), ("bob", 2), ("charlie", 1)],
        )
        paging = {name: page[name] for name in ("total", "page", "page_size", "total_pages")}
        self.assertEqual(paging, {"total": 3, "page": 1, "page_size": 25, "total_pages": 1})
        self.assertEqual(page["users"][1]["teams"], ["red"])

    def test_filters(self):
        for query, expected in (
            ({"role": "proxy_admin_viewer"}, ["alice"]),
            ({"user_ids": "bob, charlie,nobody"}, ["bob", "charlie"]),
            ({"user_email": "EXAMPLE.com"}, ["alice"]),
            ({"team": "red"}, ["alice", "bob"]),
            ({"search": "bobb"}, ["bob"]),
            ({"search": "harl"}, ["charlie"]),
            ({"search": "%"}, []),
        ):
            with self.subTest(query):
                self.assertEqual(self.ids(query), expected)

    def test_deleted_users_are_not_listed(self):
        self.post("/user/delete", {"user_ids": ["charlie"]})

        self.assertEqual(self.ids({}), ["alice", "bob"])

    def test_each_sees_who_is_within_reach(self):
        self.assertEqual(self.ids({}, key=self.bobs), ["bob"])
        self.assertEqual(self.ids({}, key=self.charlies), ["charlie"])
        self.assertEqual(self.ids({}, key=create_key()[1]), [])
        User.objects.filter(pk="alice").update(role="internal_user")
        self.assertEqual(self.ids({}, key=self.alices), ["alice", "bob"])

    def test_pages_and_orders(self):
        query = {"page_size": 2, "sort_by": "user_id", "sort_order": "desc"}

        pages = [self.get("/user/list", {**query, "page": page}) for page in (1, 2)]

        self.assertEqual(
            [row["user_id"] for page in pages for row in page["users"]], ["charlie", "bob", "alice"]
        )
        self.assertEqual((pages[0]["total"], pages[0]["total_pages"]), (3, 2))
        for order in ("user_email", "user_alias", "user_role", "created_at", "updated_at"):
            self.assertEqual(self.get("/user/list", {"sort_by": order})["total"], 3)

    def test_bad_queries_are_422(self):
        for query in (
            {"page": 0}, {"page_size": 101}, {"page": HUGE}, {"role": "owner"}, {"sort_by": "password"},
            {"search": "a\0"}, {"user_ids": "a\0"}, {"team": "x" * 256}, {"user_email": "a\0"},
        ):  # fmt: skip
            with self.subTest(query):
                self.get("/user/list", query, status=422)

    def test_the_number_of_queries_does_not_grow_with_the_rows(self):
        self._make_users("few", 1)
        with CaptureQueriesContext(connection) as few:
            self.get("/user/list")
        self._make_users("many", 4)

        with self.assertNumQueries(len(few)):
            self.assertEqual(self.get("/user/list")["total"], 8)

    def _make_users(self, name: str, number: int) -> None:
        for each in range(number):
            user = make_user(f"{name}-{each}", budget=Budget.objects.create(max_budget=1))
            TeamMembership.objects.create(team=self.red, user=user)
            create_key(user=user)


class DeleteTests(CastTestCase):
    def test_it_answers_with_a_bare_number(self):
        _, secret = create_key(user=self.bob, alias="ci")
        self.post("/user/update", {"user_id": "bob", "max_budget": 5, "user_email": "bob@example.com"})
        book_calls(make_call(user_id="bob", cost_usd="0.5"))

        answer = self.post("/user/delete", {"user_ids": ["bob", "charlie", "bob"]})

        self.assertEqual(answer, 2)
        bob = User.objects.get(pk="bob")
        self.assertEqual((bob.is_active, bob.email), (False, ""))
        self.assertIsNotNone(bob.deleted_at)
        self.assertEqual(VirtualKey.objects.listed().count(), 1)  # Alice's
        self.assertEqual(self.send("GET", "/key/info", key=secret).status_code, 401)
        self.assertEqual([member["user_id"] for member in self._members()], ["alice"])
        self.assertEqual(SpendTotal.objects.get(holder_type="user").cost, Decimal("0.5"))

    def _members(self) -> list[dict[str, str]]:
        return self.get("/team/info", {"team_id": "red"})["team_info"]["members_with_roles"]

    def test_one_unknown_id_and_nobody_is_deleted(self):
        error = self.refused("/user/delete", {"user_ids": ["bob", "nobody", "no one"]}, status=404)

        self.assertIn("nobody", error["message"])
        self.assertFalse(User.objects.exclude(deleted_at=None).exists())
        self.assertEqual(VirtualKey.objects.listed().count(), 3)
        self.refused("/user/delete", {"user_ids": ["default_user_id"]}, status=404)
        for body in ({}, {"user_ids": []}, {"user_ids": "bob"}, {"user_ids": ["a\nb"]}):
            self.assertEqual(self.send("POST", "/user/delete", body).status_code, 422)

    def test_the_last_superuser_stays(self):
        admin = User.objects.create_superuser("admin", password="secret")

        error = self.refused("/user/delete", {"user_ids": ["bob", admin.pk]})
        User.objects.create_superuser("other", password="secret")
        self.post("/user/delete", {"user_ids": [admin.pk]})

        self.assertIn("last superuser", error["message"])
        self.assertTrue(User.objects.filter(pk="bob", deleted_at=None).exists())
        self.assertIsNone(ModelBackend().authenticate(None, username="admin", password="secret"))


class RoleTests(CastTestCase):
    def test_there_are_four(self):
        roles = self.get("/user/available_roles", key=self.bobs)

        self.assertEqual(set(roles), set(User.Role.values))
        for role in roles.values():
            self.assertEqual(set(role), {"description", "ui_label"})

    def test_a_key_acts_with_its_user_s_role(self):
        boss = key_of(make_user("boss", role="proxy_admin"))
        viewer = key_of(make_user("viewer", role="proxy_admin_viewer"))

        made = self.post("/user/new", {"user_id": "new", "auto_create_key": False}, key=boss)

        self.assertEqual(made["created_by"], "boss")
        self.get("/user/info", {"user_id": "new"}, key=viewer)
        for key in (viewer, self.alices, self.bobs, create_key()[1]):
            self.refused("/user/new", {}, status=403, key=key)
            self.refused("/user/update", {"user_id": "bob", "max_budget": 9}, status=403, key=key)
            self.refused("/user/delete", {"user_ids": ["bob"]}, status=403, key=key)
        self.assertEqual(settings.MASTER_KEY in str(list(AuditLog.objects.values())), False)
