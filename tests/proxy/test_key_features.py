"""What a key says of its calls: routes, names of models, secrets within their grace, limits, its user."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.test import TestCase
from django.utils import timezone

from customers.keys import generate_secret, hash_secret
from customers.models import Team, User, VirtualKey
from customers.services.keys import create_key, rotate_key
from proxy import admission
from proxy.callers import MASTER, Caller, load_callers
from proxy.dialects.base import Ask
from proxy.errors import RouteNotAllowed
from proxy.identification import Said
from tests.gateway import GatewayProcess, is_true_within

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
IN_FORCE_SECONDS = 2.0


@pytest.fixture
def post(http: httpx.Client, customer: str) -> Callable[..., httpx.Response]:
    """Make a call with a key."""

    def call(secret: str, model: str = "gpt-4o-mini", path: str = CHAT) -> httpx.Response:
        body = {"model": model, "user": customer, "max_tokens": 5, "fake": {"tag": customer}}
        body["messages"] = [{"role": "user", "content": "Hello"}]
        return http.post(path, headers={"authorization": f"Bearer {secret}"}, json=body)

    return call


@pytest.fixture
def api(http: httpx.Client) -> Callable[..., Any]:
    """Call the API with the master key, and return what it answers."""

    def call(path: str, **fields: Any) -> Any:
        response = http.post(path, json=fields)
        assert response.status_code == 200, response.text
        return response.json()

    return call


@pytest.mark.processes
class TestRoutes:
    @pytest.mark.parametrize(("key_type", "calls", "lists"), [
        ("default", 200, 200), ("llm_api", 200, 200), ("management", 403, 403), ("read_only", 403, 200),
    ])  # fmt: skip
    def test_a_key_s_type_says_whether_it_may_call_a_model(self, post, api, http, key_type, calls, lists):
        secret = api("/key/generate", key_type=key_type)["key"]

        assert post(secret).status_code == calls
        assert http.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == lists

    def test_the_refusal_is_in_the_caller_s_dialect_and_booked(self, post, api, gateway):
        made = api("/key/generate", key_type="management")

        openai = post(made["key"])
        anthropic = post(made["key"], "claude-haiku-4-5", MESSAGES)

        error = openai.json()["error"]
        assert (openai.status_code, error["type"], error["code"]) == (403, "auth_error", "403")
        assert "management_routes" in error["message"]
        assert (anthropic.status_code, anthropic.json()["type"]) == (403, "error")
        assert anthropic.json()["error"]["type"] == "permission_error"
        rows = gateway.wait_booked(2, key__token_hash=made["token"])
        assert [(row["status"], row["cost"]) for row in rows] == [("refused", 0)] * 2

    def test_single_paths_are_allowed_with_and_without_v1(self, post, api):
        secret = api("/key/generate", allowed_routes=["/chat/completions", "/key/info"])["key"]

        assert post(secret).status_code == 200
        assert post(secret, path="/chat/completions").status_code == 200
        assert post(secret, "claude-haiku-4-5", MESSAGES).status_code == 403


@pytest.mark.processes
class TestAliases:
    def test_a_key_s_own_name_for_a_model_is_that_model(self, post, api, http, gateway, customer):
        made = api("/key/generate", aliases={"fast": "gpt-4o-mini", "fake": "nothing-is-called-this"})

        response = post(made["key"], "fast")

        assert response.status_code == 200, response.text
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["model"], row["status"]) == ("gpt-4o-mini", "success")
        assert row["cost"] > 0
        headers = {"authorization": f"Bearer {made['key']}"}
        names = [model["id"] for model in http.get("/v1/models", headers=headers).json()["data"]]
        assert "fast" in names
        assert "fake" not in names
        assert http.get("/v1/models/fast", headers=headers).status_code == 200
        assert post(made["key"], "fake").status_code == 400

    def test_the_upstream_is_asked_by_its_own_name(self, post, api, as_billed):
        secret = api("/key/generate", aliases={"fast": "gpt-4o-mini"})["key"]

        assert post(secret, "fast").status_code == 200

        as_billed()

    def test_what_counts_for_access_is_the_model_that_is_meant(self, post, api):
        allowed = api("/key/generate", aliases={"fast": "gpt-4o-mini"}, models=["gpt-4o-mini"])["key"]
        sneaky = api("/key/generate", aliases={"gpt-4o": "gpt-4o-mini"}, models=["gpt-4o"])["key"]

        assert post(allowed, "fast").status_code == 200
        assert post(sneaky, "gpt-4o").status_code == 403

    def test_a_team_s_names_are_behind_its_keys_own(self, post, gateway, customer):
        team = gateway.execute_orm(
            Team.objects.create, model_aliases={"fast": "gpt-4o", "small": "gpt-4o-mini"}
        )
        _, secret = gateway.create_key(team=team, model_aliases={"fast": "gpt-4o-mini"})

        assert post(secret, "fast").status_code == post(secret, "small").status_code == 200

        assert {row["model"] for row in gateway.wait_booked(2, customer_id=customer)} == {"gpt-4o-mini"}


@pytest.mark.processes
class TestRotation:
    def test_within_its_grace_the_old_secret_calls_as_the_same_key(self, post, api, gateway):
        made = api("/key/generate")
        assert post(made["key"]).status_code == 200

        new = api(f"/key/{made['key']}/regenerate", grace_period="3s")

        assert post(new["key"]).status_code == 200
        assert post(made["key"]).status_code == 200
        gateway.wait_booked(3, key__token_hash=new["token"])
        assert is_true_within(3 + IN_FORCE_SECONDS, lambda: post(made["key"]).status_code == 401)
        error = post(made["key"]).json()["error"]
        assert (error["type"], error["code"]) == ("token_not_found_in_db", "401")
        assert post(new["key"]).status_code == 200

    def test_one_that_was_never_used_before_works_within_its_grace_too(self, post, api):
        made = api("/key/generate")

        api(f"/key/{made['key']}/regenerate", grace_period="1h")

        assert post(made["key"]).status_code == 200

    def test_without_a_grace_it_ends_within_two_seconds(self, post, api):
        made = api("/key/generate")
        assert post(made["key"]).status_code == 200

        api(f"/key/{made['key']}/regenerate")

        assert is_true_within(IN_FORCE_SECONDS, lambda: post(made["key"]).status_code == 401)


@pytest.mark.processes
class TestChanges:
    """What the API says is in force for the calls within two seconds."""

    def test_a_key_can_be_blocked_unblocked_and_deleted(self, post, api):
        secret = api("/key/generate")["key"]
        assert post(secret).status_code == 200

        for path, fields, status in (
            ("/key/block", {"key": secret}, 401), ("/key/unblock", {"key": secret}, 200),
            ("/key/delete", {"keys": [secret]}, 401),
        ):  # fmt: skip
            api(path, **fields)

            assert is_true_within(IN_FORCE_SECONDS, lambda status=status: post(secret).status_code == status)

    def test_a_budget_of_its_own_limits_it_and_counts_from_zero_when_it_is_told_to(self, post, api, http):
        made = api("/key/generate", max_budget=0.000000001, budget_duration="1d")
        assert post(made["key"]).status_code == 400

        api("/key/update", key=made["key"], max_budget=10)
        assert is_true_within(IN_FORCE_SECONDS, lambda: post(made["key"]).status_code == 200)
        spent = lambda: http.get("/key/info", params={"key": made["key"]}).json()["info"]["spend"]  # noqa: E731
        assert is_true_within(5, lambda: spent() > 0)
        reset = api(f"/key/{made['token']}/reset_spend", reset_to=0)

        assert reset["previous_spend"] == reset["total_spend"] == spent()
        assert post(made["key"]).status_code == 200

    def test_requests_a_minute_are_limited_by_model(self, post, api):
        secret = api("/key/generate", model_rpm_limit={"gpt-4o-mini": 1})["key"]

        assert [post(secret).status_code for _ in range(2)] == [200, 429]
        assert post(secret, "gpt-4o").status_code == 200

    def test_a_deactivated_user_s_keys_stop(self, post, gateway):
        user = gateway.execute_orm(User.objects.create, username=uuid.uuid4().hex)
        _, secret = gateway.create_key(user=user)
        assert post(secret).status_code == 200

        gateway.execute_orm(User.objects.filter(pk=user.pk).update, is_active=False)

        assert is_true_within(IN_FORCE_SECONDS, lambda: post(secret).status_code == 401)

    def test_a_user_s_list_of_models_counts_for_its_own_keys_and_not_for_its_team_s(self, post, gateway):
        user = gateway.execute_orm(User.objects.create, username=uuid.uuid4().hex, allowed_models=["gpt-4o"])
        team = gateway.execute_orm(Team.objects.create)
        own, of_team = gateway.create_key(user=user)[1], gateway.create_key(user=user, team=team)[1]

        refused = post(own)

        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "user_model_access_denied")
        assert post(own, "gpt-4o").status_code == 200
        assert post(of_team).status_code == 200


@pytest.mark.processes
class TestSecrecy:
    def test_no_secret_is_in_the_gateway_s_log(self, gateway: GatewayProcess, http, post, api):
        made = api("/key/generate", max_budget=1)
        secrets = [made["key"], generate_secret()]
        for secret in secrets:
            http.post(f"/key/{secret}/regenerate", json={"grace_period": "nonsense"})
            http.post(f"/key/{secret}/reset_spend", json={"reset_to": 5})
            http.get(f"/key/{secret}/nothing")
            http.get("/key/info", params={"key": f"{secret}x"})
            http.post("/key/update", json={"key": secret, "max_budget": -1})
            post(secret, "no-such-model")

        log = gateway.log_text()

        assert "/key/sk-.../regenerate" in log  # the refusals are there
        for secret in (*secrets, hash_secret(secrets[1])):
            assert secret not in log


class LoadingTests(TestCase):
    """What is read of a key, without a process."""

    def test_both_secrets_of_a_rotated_key_are_found_in_one_query(self):
        now = timezone.now()
        key, old = create_key(alias="a")
        new = rotate_key(key=key, grace=timedelta(hours=1), at=now)

        with self.assertNumQueries(1):
            found = load_callers([hash_secret(old), hash_secret(new)])

        self.assertEqual({caller.key_id for caller in found.values()}, {key.pk.bytes})
        self.assertEqual(found[hash_secret(old)].secret_until_s, (now + timedelta(hours=1)).timestamp())
        self.assertIsNone(found[hash_secret(new)].secret_until_s)

    def test_a_secret_that_is_not_asked_for_is_not_told(self):
        key, old = create_key()
        new = rotate_key(key=key, grace=timedelta(hours=1), at=timezone.now())

        self.assertEqual(set(load_callers([hash_secret(old)])), {hash_secret(old)})
        self.assertEqual(set(load_callers([hash_secret(new)])), {hash_secret(new)})

    def test_one_whose_grace_is_over_is_unknown(self):
        key, old = create_key()
        rotate_key(key=key, grace=timedelta(seconds=1), at=timezone.now() - timedelta(seconds=1))

        self.assertEqual(load_callers([hash_secret(old)]), {})

    def test_nothing_is_found_by_the_secret_that_a_new_key_never_had(self):
        create_key()

        self.assertEqual(load_callers([""]), {})
        self.assertEqual(VirtualKey.objects.get().previous_token_hash, "")


class RuleTests(TestCase):
    """The rules themselves."""

    def may(self, routes: tuple[str, ...], path: str) -> bool:
        try:
            admission.check_route(Caller(routes=routes), path, admission.CALLS)
        except RouteNotAllowed:
            return False
        return True

    def test_a_route_is_allowed_by_name_beginning_or_group(self):
        for routes, path, expected in (
            ((), CHAT, True), (("llm_api_routes",), CHAT, True), (("info_routes",), CHAT, False),
            (("/v1/chat/completions",), "/chat/completions", True), (("/v1/chat/*",), CHAT, True),
            (("/chat/*",), CHAT, True), (("/v1/embeddings",), CHAT, False), (("/spend/*",), CHAT, False),
            (("*",), CHAT, True), (("/v1",), CHAT, False), (("info_routes", "/v1/*"), CHAT, True),
        ):  # fmt: skip
            with self.subTest(f"{routes} {path}"):
                self.assertEqual(self.may(routes, path), expected)

    def test_the_master_key_goes_everywhere(self):
        admission.check_route(MASTER, CHAT, admission.CALLS)

    def test_a_name_stands_for_a_model_once(self):
        caller = Caller(model_aliases={"a": "b", "b": "c"})
        ask = Ask("a", "a", False, b"{}", Said())

        self.assertEqual(admission.by_real_name(ask, caller), ask._replace(model="b"))
        self.assertIs(admission.by_real_name(ask._replace(model="c"), caller).model, "c")

    def test_names_that_stand_for_no_text_are_ignored(self):
        team = Team.objects.create(model_aliases={"a": 5, "b": "c", "d": None})
        _, secret = create_key(team=team)

        self.assertEqual(load_callers([hash_secret(secret)])[hash_secret(secret)].model_aliases, {"b": "c"})
