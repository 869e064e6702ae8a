"""The API of virtual keys (contract 5.3), over the real routes."""

import threading
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import connections
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

from billing.models import Adjustment, BudgetPeriod
from customers.keys import hash_secret
from customers.models import AuditLog, Budget, Customer, Team, TeamMembership, User, VirtualKey
from customers.services import create_key
from tests.billing.budgets import check_the_books
from tests.billing.making import book_calls, make_call, total

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
UNKNOWN = hash_secret("sk-nobody-has-this-one")


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


class KeyApi:
    """The calls that the tests make, for any of Django's test cases."""

    client: Any

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        return self.client.post(
            path, {} if body is None else body, content_type="application/json", headers=headers or MASTER
        )

    def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
        return self.client.get(path, query, headers=headers or MASTER)

    def made(self, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        response = self.post("/key/generate", fields, headers)
        assert response.status_code == 200, response.content
        return response.json()

    def info(self, name: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        response = self.get("/key/info", headers, key=name)
        assert response.status_code == 200, response.content
        return response.json()["info"]

    def assert_error(
        self, response: Any, status: int, type_: str | None = None, param: str | None = None
    ) -> str:
        assert response.status_code == status, (response.status_code, response.content)
        error = response.json()["error"]
        assert error["code"] == str(status)
        assert type_ is None or error["type"] == type_, error
        assert param is None or error["param"] == param, error
        return error["message"]


class KeyApiCase(KeyApi, TestCase):
    def post(self, *args: Any, **kwargs: Any) -> Any:
        with self.captureOnCommitCallbacks(execute=True):  # the test's own transaction never ends
            return super().post(*args, **kwargs)


class PayerTests(KeyApiCase):
    def setUp(self):
        Customer.objects.bulk_create([Customer(pk="acme"), Customer(pk="gone", deleted_at=timezone.now())])

    def payer(self, body: dict[str, Any]) -> tuple[str, str | None]:
        return body["payer_policy"], body["customer_id"]

    def test_a_key_may_be_made_for_one_customer_and_be_given_back_to_all(self):
        body = self.made(payer_policy="fixed", customer_id="acme")
        self.assertEqual(self.payer(body), ("fixed", "acme"))
        self.assertEqual(self.payer(self.info(body["key"])), ("fixed", "acme"))

        changed = self.post("/key/update", {"key": body["key"], "payer_policy": None, "customer_id": None})

        self.assertEqual(self.payer(changed.json()), ("trusted", None))
        self.assertEqual(self.payer(self.made()), ("trusted", None))

    def test_who_pays_has_to_be_there(self):
        for fields, status, param in (
            ({"payer_policy": "fixed"}, 400, None),
            ({"payer_policy": "fixed", "customer_id": "nobody"}, 404, "customer_id"),
            ({"payer_policy": "fixed", "customer_id": "gone"}, 404, "customer_id"),
        ):
            with self.subTest(fields):
                message = self.assert_error(self.post("/key/generate", fields), status, param=param)
                self.assertRegex(message, "needs a customer|/customer/new")
        self.assertEqual(self.post("/key/generate", {"payer_policy": "odd"}).status_code, 422)
        self.assertFalse(VirtualKey.objects.exists())

    def test_a_key_s_own_user_cannot_say_who_pays(self):
        bob = User.objects.create(pk="bob", username="bob")
        headers = bearer(create_key(user=bob)[1])
        fixed = self.made(user_id="bob", payer_policy="fixed", customer_id="acme")

        for path, fields in (
            ("/key/generate", {"payer_policy": "fixed", "customer_id": "acme"}),
            ("/key/generate", {"customer_id": "acme"}),
            ("/key/update", {"key": fixed["token"], "payer_policy": "trusted"}),
            ("/key/update", {"key": fixed["token"], "payer_policy": None}),
            ("/key/update", {"key": fixed["token"], "customer_id": None}),
            ("/key/regenerate", {"key": fixed["token"], "payer_policy": "trusted"}),
        ):
            with self.subTest(path=path, fields=fields):
                self.assert_error(self.post(path, fields, headers), 403, "auth_error")

        self.assertEqual(self.payer(self.info(fixed["token"])), ("fixed", "acme"))
        echo = {"key": fixed["token"], "payer_policy": "fixed", "customer_id": "acme", "key_alias": "mine"}
        self.assertEqual(self.post("/key/update", echo, headers).status_code, 200)
        self.assertEqual(self.post("/key/generate", {"payer_policy": "trusted"}, headers).status_code, 200)


class GenerateTests(KeyApiCase):
    def test_the_answer_has_the_contract_s_fields(self):
        team = Team.objects.create(pk="t-sales")
        user = User.objects.create(pk="u-17", username="u-17")

        body = self.made(
            key_alias="acme-prod", duration="90d", user_id="u-17", team_id="t-sales",
            models=["gpt-4o-mini"], metadata={"cost_center": "4711"}, max_budget=25.0,
            budget_duration="30d", rpm_limit=60,
        )  # fmt: skip

        stored = VirtualKey.objects.get()
        self.assertEqual((stored.team, stored.user), (team, user))
        secret = body["key"]
        expected = {
            "key": secret, "key_name": f"sk-...{secret[-4:]}", "key_alias": "acme-prod",
            "token": hash_secret(secret), "token_id": hash_secret(secret), "duration": "90d",
            "user_id": "u-17", "team_id": "t-sales", "organization_id": None, "project_id": None,
            "agent_id": None, "models": ["gpt-4o-mini"], "aliases": {}, "config": {}, "permissions": {},
            "metadata": {"cost_center": "4711"}, "spend": 0, "max_budget": 25, "soft_budget": None,
            "budget_duration": "30d", "budget_id": None, "max_parallel_requests": None, "tpm_limit": None,
            "rpm_limit": 60, "model_max_budget": {}, "model_rpm_limit": None, "model_tpm_limit": None,
            "allowed_cache_controls": [], "allowed_routes": [], "guardrails": None, "tags": None,
            "enforced_params": None, "blocked": False, "litellm_budget_table": None,
            "created_by": "default_user_id", "updated_by": "default_user_id",
        }  # fmt: skip
        self.assertEqual({name: body.get(name, "missing") for name in expected}, expected)
        self.assertRegex(secret, "^sk-[A-Za-z0-9_-]{22}$")
        self.assertRegex(body["expires"], r"^\d{4}-\d\d-\d\dT.*Z$")
        self.assertEqual(stored.expires_at - stored.created_at, timedelta(days=90) - self._late(stored, 90))

    def _late(self, key: VirtualKey, days: int) -> timedelta:
        """Return how long after the request's instant the row was made: less than a second."""
        late = timedelta(days=days) - (key.expires_at - key.created_at)
        self.assertLess(abs(late), timedelta(seconds=1))
        return late

    def test_a_key_with_nothing_said_may_all_and_has_no_budget(self):
        body = self.made()

        self.assertFalse(Budget.objects.exists())
        self.assertEqual((body["models"], body["max_budget"], body["expires"]), ([], None, None))
        self.assertEqual((body["user_id"], body["team_id"], body["status"]), (None, None, "active"))

    def test_the_user_s_own_example_works(self):
        body = self.made(
            max_budget=10.00, budget_duration="monthly", models=["grok-code-fast-1", "perplexity-sonar-pro"]
        )

        self.assertEqual((body["max_budget"], body["budget_duration"]), (10, "monthly"))
        self.assertIsNotNone(body["budget_reset_at"])

    def test_limits_of_its_own_are_a_budget_for_it_alone(self):
        self.made(max_budget=5, tpm_limit=100)

        budget = Budget.objects.get()
        self.assertEqual((budget.is_private, budget.max_budget, budget.tpm_limit), (True, 5, 100))

    def test_a_tier_is_shared_and_shown(self):
        Budget.objects.create(pk="gold", max_budget=100, rpm_limit=7)

        body = self.made(budget_id="gold")

        self.assertEqual((body["budget_id"], body["max_budget"], body["rpm_limit"]), ("gold", 100, 7))
        self.assertEqual(body["litellm_budget_table"]["budget_id"], "gold")
        self.assertEqual(Budget.objects.count(), 1)

    def test_limits_by_model_are_one_budget_and_come_back_as_they_went(self):
        body = self.made(
            model_max_budget={"gpt-4o": {"budget_limit": 5.5, "time_period": "1d"}},
            model_rpm_limit={"gpt-4o": 60, "o3": 3},
            model_tpm_limit={"o3": 1000},
        )

        limits = Budget.objects.get().model_max_budget
        self.assertEqual(
            limits,
            {
                "gpt-4o": {"budget_limit": "5.5", "time_period": "1d", "rpm_limit": 60},
                "o3": {"rpm_limit": 3, "tpm_limit": 1000},
            },
        )
        self.assertEqual(body["model_max_budget"], {"gpt-4o": {"budget_limit": 5.5, "time_period": "1d"}})
        self.assertEqual(body["model_rpm_limit"], {"gpt-4o": 60, "o3": 3})
        self.assertEqual(body["model_tpm_limit"], {"o3": 1000})

    def test_tags_may_stand_in_the_metadata(self):
        for fields in (
            {"tags": ["a", "b"], "metadata": {"k": 1}},
            {"metadata": {"k": 1, "tags": ["a", "b"]}},
        ):
            body = self.made(**fields)

            self.assertEqual(VirtualKey.objects.get(token_hash=body["token"]).tags, ["a", "b"])
            self.assertEqual(body["tags"], ["a", "b"])
            self.assertEqual(body["metadata"], {"k": 1, "tags": ["a", "b"]})

    def test_fields_without_effect_are_kept(self):
        given = {
            "organization_id": "org", "permissions": {"get_spend_routes": True}, "guardrails": ["pii"],
            "config": {"a": [1]}, "auto_rotate": True, "rotation_interval": "30d",
        }  # fmt: skip
        body = self.made(**given)

        kept = self.info(body["token"])
        self.assertEqual({name: kept[name] for name in given}, given)

    def test_an_initial_spend_is_booked_as_an_adjustment(self):
        body = self.made(spend=5, max_budget=20, budget_duration="30d")

        key = VirtualKey.objects.get()
        self.assertEqual((body["spend"], self.info(body["token"])["spend"]), (5, 5))
        self.assertEqual(total("key", str(key.pk)), 5)
        self.assertEqual(Adjustment.objects.get().key_id, key.pk)
        self.assertEqual(total("gateway", "gateway"), 0)

    def test_a_key_type_is_shown_as_its_routes(self):
        for key_type, routes in (
            ("default", []), ("llm_api", ["llm_api_routes"]), ("management", ["management_routes"]),
            ("read_only", ["info_routes"]),
        ):  # fmt: skip
            body = self.made(key_type=key_type)

            self.assertEqual((body["key_type"], body["allowed_routes"]), (key_type, routes))

    def test_a_service_account_s_key_belongs_to_a_team_alone(self):
        Team.objects.create(pk="t")

        response = self.post("/key/service-account/generate", {"team_id": "t", "key_alias": "ci"})

        self.assertEqual(response.status_code, 200)
        self.assertEqual((response.json()["team_id"], response.json()["user_id"]), ("t", None))
        without = self.post("/key/service-account/generate", {"key_alias": "x"})
        self.assert_error(without, 400, param="team_id")
        with_user = self.post("/key/service-account/generate", {"team_id": "t", "user_id": "u"})
        self.assert_error(with_user, 400, param="user_id")

    def test_its_period_is_ready_when_it_calls(self):
        self.made(max_budget=1, budget_duration="1d")

        self.assertEqual(BudgetPeriod.objects.get().holder_id, str(VirtualKey.objects.get().pk))

    def test_a_duration_without_an_amount_says_when_its_period_ends(self):
        token = self.made(rpm_limit=5, budget_duration="1d")["token"]

        tomorrow = (timezone.now() + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00")
        self.assertTrue(self.info(token)["budget_reset_at"].startswith(tomorrow))

    def test_sent_twice_with_one_idempotency_key_it_is_one_key(self):
        headers = {**MASTER, "idempotency-key": "once"}

        answers = [self.post("/key/generate", {"key_alias": "a"}, headers).json() for _ in range(2)]

        self.assertEqual(answers[0], answers[1])
        self.assertEqual(VirtualKey.objects.count(), 1)


class ChosenSecretTests(KeyApiCase):
    def test_a_secret_of_one_s_own_is_taken(self):
        secret = "sk-chosen-by-myself"

        body = self.made(key=secret)

        self.assertEqual((body["key"], body["token"]), (secret, hash_secret(secret)))

    def test_what_is_no_key_is_refused(self):
        for secret in ("sk-short", "no-prefix-but-long-enough", "sk-with spaces in it", "sk-ключ-ключ-ключ",
                       "sk-" + "x" * 400, ""):  # fmt: skip
            with self.subTest(secret[:20]):
                response = self.post("/key/generate", {"key": secret})

                self.assertIn(response.status_code, (400, 422))
        self.assertFalse(VirtualKey.objects.exists())

    def test_sixteen_characters_are_enough_and_fifteen_are_not(self):
        self.made(key="sk-" + "x" * 13)

        self.assert_error(self.post("/key/generate", {"key": "sk-" + "x" * 12}), 400, param="key")

    def test_nobody_gets_a_secret_that_is_or_was_somebody_s(self):
        secret = "sk-chosen-by-myself"
        key, _ = create_key(secret=secret)
        rotated = self.post(f"/key/{key.token_hash}/regenerate", {"grace_period": "1h"})
        self.assertEqual(rotated.status_code, 200)
        self.made(key="sk-another-of-my-own")
        self.post("/key/delete", {"keys": ["sk-another-of-my-own"]})

        for taken in (secret, rotated.json()["key"], "sk-another-of-my-own", settings.MASTER_KEY):
            message = self.assert_error(self.post("/key/generate", {"key": taken}), 400, param="key")

            self.assertNotIn(taken, message)

    @override_settings(DISABLE_CUSTOM_API_KEYS=True)
    def test_they_can_be_forbidden(self):
        self.assert_error(self.post("/key/generate", {"key": "sk-chosen-by-myself"}), 403, param="key")
        self.made()


class DefaultsTests(KeyApiCase):
    @override_settings(KEY_DEFAULTS={"max_budget": Decimal(10), "models": ["gpt-4o"]})
    def test_defaults_fill_what_is_missing_and_nothing_that_was_said(self):
        plain, said = self.made(), self.made(max_budget=3, models=[])

        self.assertEqual((plain["max_budget"], plain["models"]), (10, ["gpt-4o"]))
        self.assertEqual((said["max_budget"], said["models"]), (3, []))

    @override_settings(KEY_DEFAULTS={"max_budget": Decimal(10)})
    def test_a_tier_needs_no_default_limits(self):
        Budget.objects.create(pk="gold", max_budget=100)

        self.assertEqual(self.made(budget_id="gold")["max_budget"], 100)

    BOUNDS = {
        "max_budget": Decimal(10), "budget_duration": "30d", "duration": "90d", "rpm_limit": 60,
    }  # fmt: skip

    @override_settings(KEY_UPPER_BOUNDS=BOUNDS)
    def test_bounds_fill_nulls(self):
        body = self.made(max_budget=None, rpm_limit=5)

        self.assertEqual((body["max_budget"], body["budget_duration"], body["rpm_limit"]), (10, "30d", 5))
        self.assertIsNotNone(body["expires"])

    @override_settings(KEY_UPPER_BOUNDS=BOUNDS)
    def test_more_than_a_bound_is_refused(self):
        for fields, param in (
            ({"max_budget": 10.000000001}, "max_budget"), ({"rpm_limit": 61}, "rpm_limit"),
            ({"budget_duration": "60d"}, "budget_duration"), ({"duration": "91d"}, "duration"),
            ({"duration": "-1"}, "duration"),
        ):  # fmt: skip
            with self.subTest(fields):
                self.assert_error(self.post("/key/generate", fields), 400, param=param)
        self.made(max_budget=10, rpm_limit=60, budget_duration="1mo", duration="90d")

    @override_settings(KEY_UPPER_BOUNDS=BOUNDS)
    def test_a_change_keeps_within_them_too(self):
        token = self.made(max_budget=4)["token"]

        self.assert_error(self.post("/key/update", {"key": token, "max_budget": 11}), 400, param="max_budget")
        self.post("/key/update", {"key": token, "max_budget": None})
        self.assertEqual(self.info(token)["max_budget"], 10)

    @override_settings(KEY_UPPER_BOUNDS=BOUNDS)
    def test_a_tier_beyond_them_is_refused(self):
        Budget.objects.create(pk="gold", max_budget=100, budget_duration="1d", rpm_limit=1)
        Budget.objects.create(pk="free", max_budget=1, budget_duration="1d", rpm_limit=1)

        self.assert_error(self.post("/key/generate", {"budget_id": "gold"}), 400, param="max_budget")
        self.assertEqual(self.made(budget_id="free")["max_budget"], 1)


class InfoTests(KeyApiCase):
    def test_it_has_the_contract_s_fields_and_no_hash(self):
        secret = self.made(key_alias="acme-prod", max_budget=25, budget_duration="30d", rpm_limit=60)["key"]
        key = VirtualKey.objects.get()
        book_calls(make_call(key_id=key.pk.bytes, cost_usd="1.2345", at=timezone.now()))

        body = self.get("/key/info", key=secret).json()

        info = body["info"]
        self.assertEqual(body["key"], key.token_hash)
        expected = {
            "key_name": key.display_name, "key_alias": "acme-prod", "spend": 1.2345, "expires": None,
            "models": [], "aliases": {}, "config": {}, "user_id": None, "team_id": None, "permissions": {},
            "max_parallel_requests": None, "metadata": {}, "tpm_limit": None, "rpm_limit": 60,
            "max_budget": 25, "budget_duration": "30d", "allowed_cache_controls": [], "allowed_routes": [],
            "model_spend": {}, "model_max_budget": {}, "soft_budget_cooldown": False, "budget_id": None,
            "organization_id": None, "blocked": False, "litellm_budget_table": None, "status": "active",
        }  # fmt: skip
        self.assertEqual({name: info.get(name, "missing") for name in expected}, expected)
        self.assertTrue(info["budget_reset_at"].endswith("Z") and info["created_at"].endswith("Z"))
        self.assertNotIn("token", info)
        self.assertEqual(info["budget_period"]["remaining"], 25 - 1.2345)

    def test_every_name_of_a_key_will_do(self):
        made = self.made()

        for name in (made["key"], made["token"]):
            self.assertEqual(self.get("/key/info", key=name).json()["key"], made["token"])

    def test_without_a_name_it_is_the_key_that_asks(self):
        made = self.made(key_alias="myself")

        self.assertEqual(self.get("/key/info", bearer(made["key"])).json()["info"]["key_alias"], "myself")
        self.assert_error(self.get("/key/info"), 400, param="key")

    def test_one_that_is_not_there_is_404(self):
        for name in (UNKNOWN, "sk-nobody-has-this-one", "x", "0" * 64):
            message = self.assert_error(self.get("/key/info", key=name), 404, "not_found_error", "key")

            self.assertNotIn("nobody-has", message)

    def test_several_are_told_at_once_and_unknown_ones_left_out(self):
        keys = [self.made() for _ in range(3)]
        names = [keys[2]["key"], UNKNOWN, keys[0]["token"], keys[2]["token"]]

        with self.assertNumQueries(3):
            body = self.post("/v2/key/info", {"keys": names}).json()

        self.assertEqual(body["key"], [keys[2]["token"], keys[0]["token"]])
        self.assertEqual(
            [row["key_name"] for row in body["info"]], [keys[2]["key_name"], keys[0]["key_name"]]
        )

    def test_states_are_told(self):
        blocked, expired = self.made(blocked=True), self.made(duration="1d")
        VirtualKey.objects.filter(token_hash=expired["token"]).update(expires_at=timezone.now())

        self.assertEqual(self.info(blocked["token"])["status"], "revoked")
        self.assertEqual(self.info(expired["token"])["status"], "expired")

    def test_a_key_asks_whether_it_is_well(self):
        made = self.made()

        response = self.post("/key/health", headers=bearer(made["key"]))

        self.assertEqual(response.json(), {"key": "healthy", "logging_callbacks": None})


class UpdateTests(KeyApiCase):
    def setUp(self):
        self.key = self.made(
            key_alias="a", models=["gpt-4o"], max_budget=5, rpm_limit=7, metadata={"x": 1}, tags=["t"],
            model_max_budget={"gpt-4o": {"budget_limit": 2, "time_period": "1d"}},
            model_rpm_limit={"gpt-4o": 9}, duration="1d",
        )  # fmt: skip

    def update(self, **fields: Any) -> dict[str, Any]:
        response = self.post("/key/update", {"key": self.key["token"], **fields})
        self.assertEqual(response.status_code, 200, response.content)
        return response.json()

    def test_only_what_is_sent_changes(self):
        before = self.info(self.key["token"])

        self.update(max_budget=6)

        after = self.info(self.key["token"])
        changed = {name for name in before if before[name] != after[name]}
        self.assertEqual(changed, {"max_budget", "updated_at", "budget_period"})

    def test_each_field_can_be_set_and_cleared(self):
        Budget.objects.create(pk="customers", max_budget=1)
        for name, value, cleared in (
            ("models", ["o3"], []), ("max_budget", 9, None), ("max_budget", 0, None),
            ("soft_budget", 4, None), ("rpm_limit", 0, None), ("tpm_limit", 8, None),
            ("max_parallel_requests", 2, None), ("budget_duration", "7d", None),
            ("aliases", {"fast": "o3"}, {}), ("tags", ["u"], None),
            ("allowed_routes", ["/key/*"], []), ("model_rpm_limit", {"o3": 1}, None),
            ("model_max_budget", {"o3": {"budget_limit": 1, "time_period": None}}, {}),
            ("blocked", True, False), ("end_user_budget_id", "customers", None),
            ("mode", "strict", "standard"),
            ("organization_id", "o", None), ("key_alias", "b", None), ("key_type", "llm_api", "default"),
        ):  # fmt: skip
            with self.subTest(name):
                self.assertEqual(self.update(**{name: value})[name], value)
                self.assertEqual(self.info(self.key["token"])[name], value)
                self.assertEqual(self.update(**{name: None})[name], cleared)

    def test_what_is_said_of_models_leaves_the_other_fields_alone(self):
        self.assertEqual(
            self.update(model_max_budget={"o3": {"budget_limit": 1}})["model_rpm_limit"], {"gpt-4o": 9}
        )
        body = self.update(model_rpm_limit={"o3": 5})
        self.assertEqual(body["model_rpm_limit"], {"o3": 5})
        self.assertEqual(body["model_max_budget"], {"o3": {"budget_limit": 1, "time_period": None}})
        self.assertEqual(self.update(model_max_budget={})["model_rpm_limit"], {"o3": 5})

    def test_metadata_replaces_metadata_and_not_the_tags(self):
        body = self.update(metadata={"y": 2})

        self.assertEqual((body["metadata"], body["tags"]), ({"y": 2, "tags": ["t"]}, ["t"]))

    def test_an_echo_of_what_it_has_changes_nothing(self):
        before = self.info(self.key["token"])
        sent = {name: value for name, value in before.items() if name not in ("expires", "budget_id")}

        self.update(**sent)

        after = self.info(self.key["token"])
        self.assertEqual({**before, "updated_at": after["updated_at"]}, after)

    def test_the_key_comes_back_as_it_was_named(self):
        for name in (self.key["key"], self.key["token"]):
            self.assertEqual(self.post("/key/update", {"key": name, "rpm_limit": 1}).json()["key"], name)

    def test_it_may_be_named_by_its_alias(self):
        response = self.post("/key/update", {"key_alias": "a", "rpm_limit": 3})

        self.assertEqual((response.status_code, response.json()["rpm_limit"]), (200, 3))
        self.assertEqual(response.json()["key_alias"], "a")

    def test_minus_one_is_for_ever_and_a_duration_counts_from_now(self):
        self.assertIsNone(self.update(duration="-1")["expires"])
        expires = datetime.fromisoformat(self.update(duration="1mo")["expires"])
        self.assertLess(abs(expires - timezone.now() - timedelta(days=30)), timedelta(seconds=5))

    def test_a_shared_tier_is_cloned_before_it_is_changed(self):
        Budget.objects.create(pk="gold", max_budget=100, rpm_limit=50)
        other = self.made(budget_id="gold")
        self.post("/key/update", {"key": self.key["token"], "budget_id": "gold"})

        body = self.update(rpm_limit=1)

        self.assertEqual((body["max_budget"], body["rpm_limit"], body["budget_id"]), (100, 1, None))
        self.assertEqual(self.info(other["token"])["rpm_limit"], 50)

    def test_owners_can_be_changed(self):
        Team.objects.create(pk="t")
        User.objects.create(pk="u", username="u")

        body = self.update(team_id="t", user_id="u")
        self.assertEqual((body["team_id"], body["user_id"]), ("t", "u"))
        body = self.update(team_id=None, user_id=None)
        self.assertEqual((body["team_id"], body["user_id"]), (None, None))

    def test_owners_that_are_not_there_are_404(self):
        for name in ("team_id", "user_id"):
            response = self.post("/key/update", {"key": self.key["token"], name: "nobody"})

            self.assert_error(response, 404, param=name)

    def test_an_unknown_key_is_404_and_none_is_400(self):
        self.assert_error(self.post("/key/update", {"key": UNKNOWN}), 404, "not_found_error", "key")
        self.assert_error(self.post("/key/update", {"key_alias": "zzz"}), 404)
        self.assert_error(self.post("/key/update", {"rpm_limit": 1}), 400, param="key")

    def test_a_second_alias_of_one_name_is_refused(self):
        self.made(key_alias="b")

        self.assert_error(
            self.post("/key/update", {"key": self.key["token"], "key_alias": "b"}), 400, param="key_alias"
        )
        self.assert_error(self.post("/key/generate", {"key_alias": "b"}), 400, param="key_alias")
        self.update(key_alias="a")  # its own

    def test_a_refused_change_leaves_nothing_half_done(self):
        before = self.info(self.key["token"])

        response = self.post(
            "/key/update", {"key": self.key["token"], "max_budget": 99, "allowed_routes": ["nonsense"]}
        )

        self.assert_error(response, 400, param="allowed_routes")
        self.assertEqual(self.info(self.key["token"]), before)
        self.assertEqual(Budget.objects.get().max_budget, 5)

    def test_a_temporary_increase_is_kept(self):
        body = self.update(temp_budget_increase=10, temp_budget_expiry="2030-01-01T00:00:00Z")

        self.assertEqual(body["temp_budget_increase"], 10)
        self.assertEqual(body["temp_budget_expiry"], "2030-01-01T00:00:00Z")


class BulkTests(KeyApiCase):
    def test_one_that_fails_leaves_the_others_changed(self):
        keys = [self.made(max_budget=1) for _ in range(3)]

        response = self.post(
            "/key/bulk_update",
            {
                "keys": [
                    {"key": keys[0]["token"], "max_budget": 2},
                    {"key": keys[1]["key"], "max_budget": -1},
                    {"key": UNKNOWN, "max_budget": 2},
                    {"key": keys[2]["key"], "tags": ["x"]},
                ]
            },
        )

        body = response.json()
        self.assertEqual(response.status_code, 200)
        self.assertEqual(body["total_requested"], 4)
        self.assertEqual(
            [(each["key"], each["key_info"]["max_budget"]) for each in body["successful_updates"]],
            [(keys[0]["token"], 2), (keys[2]["key"], 1)],
        )
        self.assertEqual([each["key"] for each in body["failed_updates"]], [keys[1]["key"], UNKNOWN])
        self.assertTrue(all(each["failed_reason"] for each in body["failed_updates"]))
        self.assertEqual(self.info(keys[1]["token"])["max_budget"], 1)

    def test_more_than_five_hundred_are_refused(self):
        rows = [{"key": UNKNOWN}] * 501

        self.assert_error(self.post("/key/bulk_update", {"keys": rows}), 400, param="keys")
        self.assertEqual(self.post("/key/bulk_update", {"keys": rows[:500]}).status_code, 200)

    def test_it_is_for_proxy_admins(self):
        user = User.objects.create(pk="bob", username="bob")
        _, secret = create_key(user=user)

        self.assert_error(self.post("/key/bulk_update", {"keys": [{"key": secret}]}, bearer(secret)), 403)


class DeleteTests(KeyApiCase):
    def test_deleted_keys_are_gone_and_their_figures_stay(self):
        made = self.made(key_alias="a")
        key = VirtualKey.objects.get()
        book_calls(make_call(key_id=key.pk.bytes, cost_usd="0.5"))

        response = self.post("/key/delete", {"keys": [made["key"]]})

        self.assertEqual(response.json(), {"deleted_keys": [made["key"]]})
        self.assert_error(self.get("/key/info", key=made["key"]), 404, "not_found_error")
        self.assert_error(self.post("/key/health", headers=bearer(made["key"])), 401)
        self.assertEqual(total("key", str(key.pk)), Decimal("0.5"))
        self.made(key_alias="a")

    def test_aliases_will_do_and_unknown_ones_are_left_out(self):
        made = self.made(key_alias="a")

        response = self.post("/key/delete", {"key_aliases": ["a", "zzz"], "keys": [UNKNOWN, made["token"]]})

        self.assertEqual(response.json(), {"deleted_keys": [made["token"], "a"]})

    def test_when_none_is_there_it_is_404(self):
        self.assert_error(self.post("/key/delete", {"keys": [UNKNOWN]}), 404, "not_found_error", "key")
        missing = self.post("/key/delete", {"key_aliases": ["zzz"]})
        self.assert_error(missing, 404, param="key_aliases")
        self.assertIn("the alias 'zzz'", missing.json()["error"]["message"])
        self.assert_error(self.post("/key/delete", {}), 400)
        self.assert_error(self.post("/key/delete", {"keys": []}), 400)


class ListTests(KeyApiCase):
    def test_hashes_are_listed_page_by_page_the_newest_first(self):
        tokens = [self.made()["token"] for _ in range(5)]

        pages = [self.get("/key/list", page=page, size=2).json() for page in (1, 2, 3, 4)]

        self.assertEqual([page["keys"] for page in pages],
                         [tokens[4:2:-1], tokens[2:0:-1], tokens[:1], []])  # fmt: skip
        self.assertEqual(
            {name: pages[1][name] for name in ("total_count", "current_page", "total_pages")},
            {"total_count": 5, "current_page": 2, "total_pages": 3},
        )

    def test_whole_rows_take_a_fixed_number_of_queries(self):
        Budget.objects.create(pk="gold", max_budget=1, budget_duration="1d")
        user = User.objects.create(pk="u", username="u", email="u@example.com")
        for _ in range(7):
            create_key(user=user, budget_id="gold")

        for size in (1, 7):
            with self.assertNumQueries(4):
                body = self.get("/key/list", return_full_object="true", size=size, expand="user").json()

            self.assertEqual(len(body["keys"]), size)
        row = body["keys"][0]
        self.assertEqual(len(row["token"]), 64)
        self.assertEqual(row["user"]["user_email"], "u@example.com")
        self.assertEqual(row["litellm_budget_table"]["budget_id"], "gold")

    def test_it_is_filtered(self):
        team = Team.objects.create(pk="t")
        user = User.objects.create(pk="u", username="u")
        TeamMembership.objects.create(team=team, user=user)
        of_user, _ = create_key(
            user=user, alias="Prod one", extras={"organization_id": "o", "project_id": "p"}
        )
        of_team, secret = create_key(team=team, blocked=True)
        by_user, _ = create_key(created_by="u", expires_at=timezone.now())
        gone, _ = create_key(alias="gone")
        VirtualKey.objects.filter(pk=gone.pk).update(deleted_at=timezone.now(), alias=None)

        for query, keys in (
            ({}, [of_user, of_team, by_user]),
            ({"user_id": "u"}, [of_user]),
            ({"user_id": "u", "include_created_by_keys": "true"}, [of_user, by_user]),
            ({"user_id": "u", "include_team_keys": "true"}, [of_user, of_team]),
            ({"team_id": "t"}, [of_team]),
            ({"organization_id": "o"}, [of_user]),
            ({"project_id": "p"}, [of_user]),
            ({"key_hash": of_team.token_hash}, [of_team]),
            ({"key_hash": secret}, [of_team]),
            ({"key_hash": "nonsense"}, []),
            ({"key_alias": "Prod one"}, [of_user]),
            ({"key_alias": "Prod"}, []),
            ({"search": "prod"}, [of_user]),
            ({"search": secret[-4:]}, [of_team]),
            ({"status": "active"}, [of_user]),
            ({"status": "expired"}, [by_user]),
            ({"status": "revoked"}, [of_team]),
            ({"status": "deleted"}, [gone]),
        ):
            with self.subTest(query):
                response = self.get("/key/list", **query)

                self.assertEqual(set(response.json()["keys"]), {key.token_hash for key in keys})

    def test_it_is_sorted_by_any_column_and_those_without_a_value_come_last(self):
        keys = [
            create_key(alias=alias, budget=Budget.objects.create(max_budget=limit) if limit else None)[0]
            for alias, limit in (("b", 1), ("a", 3), ("c", None))
        ]
        b, a, c = (key.token_hash for key in keys)
        book_calls(make_call(key_id=keys[2].pk.bytes, cost_usd="2"), make_call(key_id=keys[0].pk.bytes))

        for by, order, tokens in (
            ("key_alias", "asc", [a, b, c]), ("key_alias", "desc", [c, b, a]),
            ("created_at", "asc", [b, a, c]), ("max_budget", "asc", [b, a, c]),
            ("max_budget", "desc", [a, b, c]), ("spend", "desc", [c, b, a]),
        ):  # fmt: skip
            with self.subTest(f"{by} {order}"):
                self.assertEqual(self.get("/key/list", sort_by=by, sort_order=order).json()["keys"], tokens)

    def test_aliases_are_listed(self):
        for alias in ("b", "A-one", "a-two", None):
            create_key(alias=alias)

        body = self.get("/key/aliases", size=2, search="a-").json()

        self.assertEqual(sorted(body["aliases"]), ["A-one", "a-two"])
        self.assertEqual(
            (body["total_count"], body["current_page"], body["total_pages"], body["size"]), (2, 1, 1, 2)
        )

    def test_what_no_query_may_say_is_422(self):
        for query in (
            {"page": 0}, {"page": "x"}, {"size": 101}, {"size": 0}, {"sort_by": "token_hash"},
            {"sort_order": "up"}, {"status": "?"}, {"expand": "team"}, {"user_id": "a\0b"},
            {"return_full_object": "maybe"},
        ):  # fmt: skip
            with self.subTest(query):
                response = self.get("/key/list", **query)

                self.assertEqual(response.status_code, 422)
                self.assertEqual(response.json()["detail"][0]["loc"][0], "query")


class RegenerateTests(KeyApiCase):
    def test_it_is_the_same_row_with_a_new_secret(self):
        made = self.made(key_alias="a", max_budget=5)

        response = self.post(f"/key/{made['key']}/regenerate", {"max_budget": 6})

        body = response.json()
        self.assertEqual(response.status_code, 200)
        self.assertNotEqual(body["key"], made["key"])
        self.assertEqual((body["key_alias"], body["max_budget"]), ("a", 6))
        self.assertEqual(body["token"], hash_secret(body["key"]))
        self.assertEqual(VirtualKey.objects.count(), 1)
        self.assert_error(self.post("/key/health", headers=bearer(made["key"])), 401)
        self.assertEqual(self.post("/key/health", headers=bearer(body["key"])).status_code, 200)

    def test_the_body_may_name_it(self):
        made = self.made()

        for name in (made["token"], None):
            response = self.post("/key/regenerate", {"key": name})

            self.assertEqual(response.status_code, 200 if name else 400)

    def test_within_its_grace_the_old_secret_is_the_same_key(self):
        made = self.made(key_alias="a")

        body = self.post("/key/regenerate", {"key": made["key"], "grace_period": "1h"}).json()

        for secret in (made["key"], body["key"]):
            self.assertEqual(self.get("/key/info", bearer(secret)).json()["key"], body["token"])
        self.assertEqual(self.info(made["key"])["key_alias"], "a")
        VirtualKey.objects.update(previous_valid_until=timezone.now())
        self.assert_error(self.get("/key/info", bearer(made["key"])), 401)
        self.assert_error(self.get("/key/info", key=made["key"]), 404)

    def test_a_second_time_ends_the_first_one_s_grace(self):
        made = self.made()
        body = self.post("/key/regenerate", {"key": made["key"], "grace_period": "1h"}).json()

        self.post("/key/regenerate", {"key": body["key"]})

        for secret in (made["key"], body["key"]):
            self.assert_error(self.get("/key/info", bearer(secret)), 401)

    def test_the_new_secret_may_be_chosen(self):
        made = self.made()

        body = self.post(f"/key/{made['token']}/regenerate", {"new_key": "sk-chosen-by-myself"}).json()

        self.assertEqual(body["key"], "sk-chosen-by-myself")
        self.assert_error(
            self.post(f"/key/{body['token']}/regenerate", {"new_key": "nonsense"}), 400, param="new_key"
        )

    def test_what_it_cannot_do_is_refused_and_the_old_secret_stays(self):
        made = self.made()

        for path, fields, status in (
            (UNKNOWN, {}, 404), (made["token"], {"grace_period": "soon"}, 400), ("x\0y", {}, 404),
            (made["token"], {"max_budget": -1}, 400),
        ):  # fmt: skip
            self.assert_error(self.post(f"/key/{path}/regenerate", fields), status)
        self.assertEqual(self.post("/key/health", headers=bearer(made["key"])).status_code, 200)


class BlockTests(KeyApiCase):
    def test_a_blocked_key_is_refused_until_it_is_unblocked(self):
        made = self.made()

        body = self.post("/key/block", {"key": made["key"]}).json()
        self.assertEqual((body["token"], body["blocked"]), (made["token"], True))
        self.assert_error(self.post("/key/health", headers=bearer(made["key"])), 401, "auth_error")
        body = self.post("/key/unblock", {"key": made["token"]}).json()
        self.assertEqual((body["token"], body["blocked"]), (made["token"], False))
        self.assertEqual(self.post("/key/health", headers=bearer(made["key"])).status_code, 200)

    def test_one_that_is_not_there_is_404(self):
        for path in ("/key/block", "/key/unblock"):
            self.assert_error(self.post(path, {"key": UNKNOWN}), 404, "not_found_error", "key")


class ResetTests(KeyApiCase):
    def test_the_period_counts_from_zero_and_the_total_stays(self):
        made = self.made(max_budget=5, budget_duration="30d")
        key = VirtualKey.objects.get()
        book_calls(make_call(key_id=key.pk.bytes, cost_usd="2", at=timezone.now()))

        response = self.post(f"/key/{made['key']}/reset_spend", {"reset_to": 0})

        body = response.json()
        self.assertEqual(response.status_code, 200)
        self.assertEqual(
            {
                name: body[name]
                for name in ("key_hash", "spend", "previous_spend", "max_budget", "total_spend")
            },
            {"key_hash": made["token"], "spend": 0, "previous_spend": 2, "max_budget": 5, "total_spend": 2},
        )
        self.assertEqual(body["budget_reset_at"], made["budget_reset_at"])
        info = self.info(made["token"])
        self.assertEqual((info["spend"], info["budget_period"]["spent"]), (2, 0))
        self.assertEqual(AuditLog.objects.latest("pk").after, {"spent_in_period": "0"})
        check_the_books()

    def test_the_periods_of_models_count_from_zero_too(self):
        made = self.made(model_max_budget={"gpt-4o": {"budget_limit": 5}})
        key = VirtualKey.objects.get()
        book_calls(make_call(key_id=key.pk.bytes, cost_usd="2"))

        body = self.post(f"/key/{made['token']}/reset_spend", {"reset_to": 0}).json()

        self.assertEqual((body["previous_spend"], body["max_budget"]), (2, None))
        self.assertEqual([period.spent for period in BudgetPeriod.objects.order_by("generation")], [2, 0])

    def test_what_cannot_be_reset_is_refused(self):
        with_budget, without = self.made(max_budget=5), self.made()

        for token, reset_to, status in (
            (with_budget["token"], 1, 400), (with_budget["token"], -1, 400), (without["token"], 0, 400),
            (UNKNOWN, 0, 404),
        ):  # fmt: skip
            self.assert_error(self.post(f"/key/{token}/reset_spend", {"reset_to": reset_to}), status)
        self.assertEqual(self.post(f"/key/{with_budget['token']}/reset_spend", {}).status_code, 422)


class RoleTests(KeyApiCase):
    """Alice administers the team, Bob is on it, Charlie must see nothing of either."""

    def setUp(self):
        self.team = Team.objects.create(pk="red", alias="Red")
        self.people = {
            name: User.objects.create(pk=name, username=name) for name in ("alice", "bob", "charlie")
        }
        TeamMembership.objects.create(team=self.team, user=self.people["alice"], role="admin")
        TeamMembership.objects.create(team=self.team, user=self.people["bob"])
        self.secrets = {
            name: create_key(user=user, alias=f"{name}'s")[1] for name, user in self.people.items()
        }
        self.secrets["viewer"] = create_key(
            user=User.objects.create(pk="vera", username="vera", role=User.Role.INTERNAL_USER_VIEWER)
        )[1]
        self.secrets["proxy viewer"] = create_key(
            user=User.objects.create(pk="paul", username="paul", role=User.Role.PROXY_ADMIN_VIEWER)
        )[1]
        self.secrets["program"] = create_key(alias="program")[1]
        self.of_team, self.of_team_secret = create_key(team=self.team, alias="red's")

    def headers(self, name: str) -> dict[str, str]:
        return bearer(self.secrets[name])

    def test_an_internal_user_makes_keys_for_itself_alone(self):
        made = self.made(self.headers("bob"))

        self.assertEqual((made["user_id"], made["created_by"]), ("bob", "bob"))
        self.assertEqual(self.made(self.headers("bob"), user_id="bob")["user_id"], "bob")
        for user_id in ("charlie", "nobody", None):
            self.assert_error(self.post("/key/generate", {"user_id": user_id}, self.headers("bob")), 403)

    def test_a_team_s_admin_makes_its_keys(self):
        headers = self.headers("alice")

        self.assertEqual(self.made(headers, team_id="red")["user_id"], "alice")
        self.assertEqual(self.made(headers, team_id="red", user_id="bob")["user_id"], "bob")
        self.assertIsNone(self.made(headers, team_id="red", user_id=None)["user_id"])
        self.assert_error(self.post("/key/generate", {"team_id": "red", "user_id": "charlie"}, headers), 403)
        service = self.post("/key/service-account/generate", {"team_id": "red"}, headers)
        self.assertEqual(service.json()["user_id"], None)

    def test_a_member_may_not_unless_the_team_lets_it(self):
        error = self.post("/key/generate", {"team_id": "red"}, self.headers("bob"))
        self.assert_error(error, 403, "team_member_permission_error")
        self.team.member_permissions = ["/key/generate"]
        self.team.save()

        self.assertEqual(self.made(self.headers("bob"), team_id="red")["user_id"], "bob")
        self.assert_error(
            self.post("/key/service-account/generate", {"team_id": "red"}, self.headers("bob")), 403
        )

    def test_for_an_outsider_a_team_is_not_there(self):
        theirs = self.post("/key/generate", {"team_id": "red"}, self.headers("charlie"))
        nobodys = self.post("/key/generate", {"team_id": "blue"}, self.headers("charlie"))

        self.assertEqual(
            self.assert_error(theirs, 404).replace("red", "_"),
            self.assert_error(nobodys, 404).replace("blue", "_"),
        )

    def test_charlie_sees_nothing_of_the_team(self):
        headers, token = self.headers("charlie"), self.of_team.token_hash
        self.assert_error(self.get("/key/info", headers, key=token), 403)
        self.assert_error(self.post("/key/delete", {"keys": [token]}, headers), 403)
        self.assertEqual(
            self.post("/v2/key/info", {"keys": [token]}, headers).json(), {"key": [], "info": []}
        )
        for path, body in (
            ("/key/update", {"key": token, "rpm_limit": 1}), ("/key/update", {"key_alias": "red's"}),
            ("/key/block", {"key": token}), ("/key/unblock", {"key": token}),
            (f"/key/{token}/regenerate", {}), ("/key/regenerate", {"key": token}),
            (f"/key/{token}/reset_spend", {"reset_to": 0}),
        ):  # fmt: skip
            with self.subTest(path):
                self.assert_error(self.post(path, body, headers), 404)
        self.assertEqual(self.get("/key/aliases", headers).json()["aliases"], ["charlie's"])
        listed = self.get("/key/list", headers, include_team_keys="true", user_id="bob").json()
        self.assertEqual((listed["keys"], listed["total_count"]), ([], 0))

    def test_everybody_lists_what_it_reaches(self):
        for name, aliases in (
            ("alice", ["alice's", "red's"]), ("bob", ["bob's"]), ("charlie", ["charlie's"]),
            ("program", ["program"]), ("viewer", []),
            ("proxy viewer", ["alice's", "bob's", "charlie's", "program", "red's"]),
        ):  # fmt: skip
            with self.subTest(name):
                self.assertEqual(self.get("/key/aliases", self.headers(name)).json()["aliases"], aliases)

    def test_viewers_and_programs_change_nothing(self):
        for name in ("viewer", "proxy viewer", "program"):
            headers, own = self.headers(name), self.secrets[name]
            for path, body in (
                ("/key/generate", {}), ("/key/update", {"key": own, "max_budget": 1000}),
                ("/key/delete", {"keys": [own]}), ("/key/regenerate", {"key": own}),
                ("/key/block", {"key": own}), ("/key/bulk_update", {"keys": [{"key": own}]}),
                (f"/key/{own}/reset_spend", {"reset_to": 0}),
            ):  # fmt: skip
                with self.subTest(f"{name}: {path.replace(own, '…')}"):
                    self.assert_error(self.post(path, body, headers), 403)

    def test_a_key_can_be_handed_to_nobody_that_its_owner_does_not_reach(self):
        headers, own = self.headers("bob"), self.secrets["bob"]

        for fields, status in (
            ({"user_id": "charlie"}, 403), ({"user_id": None}, 403), ({"team_id": "red"}, 403),
            ({"team_id": "blue"}, 404),
        ):  # fmt: skip
            self.assert_error(self.post("/key/update", {"key": own, **fields}, headers), status)
        key = VirtualKey.objects.get(token_hash=hash_secret(own))
        self.assertEqual((key.user_id, key.team_id), ("bob", None))

    def test_what_others_decide_its_owner_does_not_undo(self):
        blocked, _ = create_key(user=self.people["bob"], blocked=True)
        budget = Budget.objects.create(max_budget=1)
        spent, _ = create_key(user=self.people["bob"], budget=budget)
        headers = self.headers("bob")

        for path, body in (
            ("/key/unblock", {"key": blocked.token_hash}),
            ("/key/update", {"key": blocked.token_hash, "blocked": False}),
            ("/key/update", {"key": blocked.token_hash, "blocked": None}),
            (f"/key/{spent.token_hash}/reset_spend", {"reset_to": 0}),
            ("/key/generate", {"spend": 1}),
        ):
            with self.subTest(path):
                self.assert_error(self.post(path, body, headers), 403)
        self.assertTrue(VirtualKey.objects.get(pk=blocked.pk).blocked)

    def test_a_member_changes_a_team_s_key_of_its_own_only_where_the_team_lets_it(self):
        key, _ = create_key(team=self.team, user=self.people["bob"])
        change = {"key": key.token_hash, "max_budget": 1000}
        response = self.post("/key/update", change, self.headers("bob"))
        self.assert_error(response, 403, "team_member_permission_error")
        self.team.member_permissions = ["/key/update"]
        self.team.save()

        self.assertEqual(self.post("/key/update", change, self.headers("bob")).status_code, 200)
        self.assertEqual(self.post("/key/unblock", change, self.headers("alice")).status_code, 200)

    def test_types_confine_what_a_key_may_ask(self):
        for key_type, may_read, may_write in (
            ("default", True, True), ("llm_api", False, False), ("management", True, True),
            ("read_only", True, False),
        ):  # fmt: skip
            _, secret = create_key(user=self.people["bob"], key_type=key_type)
            with self.subTest(key_type):
                read = self.get("/key/info", bearer(secret)).status_code
                written = self.post("/key/generate", {}, bearer(secret)).status_code

                self.assertEqual((read, written), (200 if may_read else 403, 200 if may_write else 403))


class BadInputTests(KeyApiCase):
    """Nothing that is sent makes a 5xx, and what is refused leaves nothing behind."""

    def test_fields_of_the_wrong_shape_are_422(self):
        for fields in (
            {"models": "gpt-4o"}, {"models": [1.5, {}]}, {"max_budget": "much"}, {"max_budget": []},
            {"max_budget": True}, {"max_budget": 1e-10}, {"rpm_limit": 1.5}, {"rpm_limit": 2**63},
            {"tpm_limit": "x"}, {"metadata": []}, {"metadata": "x"}, {"aliases": {"a": 1.5}},
            {"aliases": {"a": {}}}, {"aliases": {"a\n": "b"}}, {"aliases": []}, {"key_type": "king"},
            {"key_alias": "x" * 256}, {"key_alias": "a\nb"}, {"key_alias": {}}, {"user_id": []},
            {"tags": "a"}, {"tags": ["a\tb"]}, {"tags": ["x"] * 65}, {"blocked": "perhaps"},
            {"allowed_routes": {}}, {"model_max_budget": [1]}, {"model_rpm_limit": 4}, {"mode": "loose"},
            {"metadata": {"tags": 5}}, {"temp_budget_expiry": "soon"}, {"config": {"a": 10**30}},
            {"spend": "x"}, {"duration": "1" * 50}, {"key": 1.5}, {"key": []},
        ):  # fmt: skip
            with self.subTest(fields):
                response = self.post("/key/generate", fields)

                self.assertIn(response.status_code, (400, 422), response.content)
                if response.status_code == 422:
                    self.assertEqual(response.json()["detail"][0]["loc"][0], "body")
        self.assertFalse(VirtualKey.objects.exists() or Budget.objects.exists())

    def test_values_that_make_no_sense_are_400(self):
        for fields in (
            {"max_budget": -1}, {"max_budget": 10**12}, {"soft_budget": -0.5}, {"rpm_limit": -1},
            {"max_parallel_requests": -1}, {"budget_duration": "fortnight"}, {"budget_duration": "0d"},
            {"duration": "forever"}, {"duration": "-2"}, {"duration": "900000d"}, {"budget_id": "nobody"},
            {"end_user_budget_id": "nobody"}, {"allowed_routes": ["chat"]}, {"spend": -1},
            {"model_max_budget": {"m": {"budget_limit": -1}}},
            {"model_max_budget": {"m": 5}}, {"model_max_budget": {"m": {"budget_limit": "x", "y": 1}}},
            {"model_max_budget": {"": {"budget_limit": 1}}}, {"model_rpm_limit": {"m": -1}},
            {"model_rpm_limit": {"m": "x"}}, {"model_rpm_limit": {"m": None}}, {"tpd_limit": 5},
            {"budget_limits": [{"budget_duration": "1 day", "max_budget": 5}]}, {"user_id": "nobody"},
            {"budget_id": "nobody", "max_budget": 1},
        ):  # fmt: skip
            with self.subTest(fields):
                response = self.post("/key/generate", {"key_alias": "bad", **fields})

                self.assertIn(response.status_code, (400, 404, 422), response.content)
        self.assertFalse(VirtualKey.objects.exists())
        self.assertFalse(Budget.objects.exists() or Adjustment.objects.exists())

    def test_bodies_that_are_none_are_refused(self):
        for body in (b"{", b"[]", b'"x"', b"null", b"\xff", b'{"key_alias": "\\ud800"}',
                     b'{"key_alias": "a\\u0000b"}', b'{"max_budget": 1e999}', b"[" * 5000,
                     b'{"metadata": ' + b'{"a":' * 30 + b"1" + b"}" * 31):  # fmt: skip
            for path in ("/key/generate", "/key/update", "/key/delete", "/key/bulk_update", "/key/block",
                         "/key/regenerate", "/v2/key/info", "/key/abc/reset_spend"):  # fmt: skip
                with self.subTest(path, body=body[:20]):
                    response = self.client.post(path, body, content_type="application/json", headers=MASTER)

                    self.assertIn(response.status_code, (400, 404, 422))
        self.assertFalse(VirtualKey.objects.exists())

    def test_names_that_are_none_are_not_found(self):
        for name in ("x", "sk-", "a" * 64, "0" * 63, "%00", "../..", "%ff", "é", "x" * 900):
            with self.subTest(name[:10]):
                self.assertIn(self.get("/key/info", key=name).status_code, (404, 422))
                response = self.post(f"/key/{name}/regenerate", {})
                self.assertIn(response.status_code, (404, 405))

    def test_other_methods_are_405(self):
        self.assertEqual(self.get("/key/generate").status_code, 405)
        self.assertEqual(self.post("/key/list").status_code, 405)


class SecrecyTests(KeyApiCase):
    def test_a_secret_is_in_the_answer_that_makes_it_and_nowhere_else(self):
        with self.assertNoLogs("customers"), self.assertNoLogs("billing"):
            made = self.made(max_budget=5)
            again = self.post(f"/key/{made['token']}/regenerate", {"grace_period": "1h"}).json()
        token = again["token"]
        answers = [
            self.get("/key/info", key=token), self.post("/v2/key/info", {"keys": [again["key"]]}),
            self.get("/key/list", return_full_object="true"), self.post("/key/block", {"key": again["key"]}),
            self.post(f"/key/{again['key']}/reset_spend", {"reset_to": 0}),
            self.post("/key/generate", {"key": again["key"]}),
        ]  # fmt: skip

        for answer in answers:
            for secret in (made["key"], again["key"]):
                self.assertNotIn(secret, answer.content.decode())
        entries = [str((entry.before, entry.after, entry.name)) for entry in AuditLog.objects.all()]
        for secret in (made["key"], again["key"], made["token"], token):
            self.assertNotIn(secret, "".join(entries))

    def test_the_audit_log_tells_who_did_what(self):
        made = self.made(key_alias="a")
        self.post("/key/block", {"key": made["token"]}, {**MASTER, "litellm-changed-by": "carol"})

        entry = AuditLog.objects.filter(kind="customers.virtualkey").latest("pk")
        self.assertEqual((entry.action, entry.via, entry.changed_by), ("updated", "api", "carol"))
        self.assertEqual((entry.before, entry.after), ({"blocked": False}, {"blocked": True}))
        self.assertEqual(VirtualKey.objects.get().updated_by, "carol")


class MeetingTests(KeyApi, TransactionTestCase):
    """Calls that meet. On SQLite they take turns; on PostgreSQL nothing may go round in a circle."""

    def test_changes_of_one_key_at_a_time_all_come_through(self):
        made = self.made(max_budget=1, rpm_limit=1)
        statuses: list[int] = []

        def change(number: int) -> None:
            try:
                client = self.client_class()
                path, body = (
                    ("/key/update", {"key": made["token"], "max_budget": number, "metadata": {"n": number}})
                    if number % 2
                    else ("/key/block", {"key": made["token"]})
                )
                for _ in range(5):
                    response = client.post(path, body, content_type="application/json", headers=MASTER)
                    statuses.append(response.status_code)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=change, args=(number,)) for number in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        self.assertEqual(statuses, [200] * 30)
        self.assertEqual(Budget.objects.count(), 1)

    def test_of_two_keys_with_one_alias_one_is_made(self):
        statuses: list[int] = []
        start = threading.Barrier(4)

        def make() -> None:
            try:
                client = self.client_class()
                start.wait(10)
                response = client.post(
                    "/key/generate", {"key_alias": "one"}, content_type="application/json", headers=MASTER
                )
                statuses.append(response.status_code)
            finally:
                connections.close_all()

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        self.assertEqual(statuses.count(200), 1, statuses)
        self.assertTrue(set(statuses) <= {200, 400, 409}, statuses)
        self.assertEqual(VirtualKey.objects.count(), 1)
