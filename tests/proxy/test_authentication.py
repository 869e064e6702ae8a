"""Who may call: every form of key and header, through a real gateway (contract 1.1, 1.5)."""

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone

from customers.keys import display_name, generate_secret, hash_secret
from tests.gateway import GatewayProcess, is_true_within

pytestmark = pytest.mark.processes

IN_FORCE_SECONDS = 2.0
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ROUTES = (CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses", MESSAGES, "/v1/messages/count_tokens")


@pytest.fixture
def anonymous(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, trust_env=False, verify=False, timeout=30) as client:
        yield client


@pytest.fixture
def call(anonymous: httpx.Client, customer: str) -> Callable[..., httpx.Response]:
    """Make a chat call with the given headers."""

    def post(headers: dict[str, Any], path: str = CHAT) -> httpx.Response:
        model = "claude-haiku-4-5" if path.startswith(MESSAGES) else "gpt-4o-mini"
        body = {"model": model, "user": customer, "max_tokens": 5, "fake": {"tag": customer}}
        body["messages"] = [{"role": "user", "content": "Hello"}]
        return anonymous.post(path, headers=headers, json=body)

    return post


@pytest.fixture
def secret(gateway: GatewayProcess) -> str:
    return gateway.create_key()[1]


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Assert that it is a refusal in OpenAI's envelope and return what it says."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == str(status)
    assert error["request_id"] == response.headers["x-litellm-call-id"]
    return error


class TestHeaderForms:
    FORMS = (
        ("x-litellm-api-key", "{}"),
        ("x-litellm-api-key", "Bearer {}"),
        ("x-litellm-api-key", "bearer {}"),
        ("x-litellm-api-key", "Basic {}"),
        ("Authorization", "Bearer {}"),
        ("Authorization", "bearer {}"),
        ("AUTHORIZATION", "Basic {}"),
        ("API-Key", "{}"),
        ("x-api-key", "{}"),
        ("x-goog-api-key", "{}"),
        ("Ocp-Apim-Subscription-Key", "{}"),
    )

    @pytest.mark.parametrize(("header", "form"), FORMS)
    def test_a_virtual_key_is_read_from_it(self, call, gateway, header, form):
        key, secret = gateway.create_key()

        assert call({header: form.format(secret)}).status_code == 200

        [row] = gateway.wait_booked(1, key_id=key.pk)
        assert row["status"] == "success"

    @pytest.mark.parametrize(("header", "form"), FORMS)
    def test_the_master_key_is_read_from_it(self, call, gateway, customer, header, form):
        assert call({header: form.format(gateway.master_key)}).status_code == 200

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["key_id"] is None

    def test_the_password_of_basic_credentials_is_a_key(self, call, secret):
        credentials = base64.b64encode(f"anyone:{secret}".encode()).decode()

        assert call({"authorization": f"Basic {credentials}"}).status_code == 200

    def test_our_own_header_comes_before_authorization(self, call, secret):
        token_of_a_provider = "Bearer sk-ant-oat01-of-a-subscription"

        assert call({"authorization": token_of_a_provider, "x-litellm-api-key": secret}).status_code == 200

    def test_authorization_comes_before_x_api_key(self, call, secret):
        response = call({"x-api-key": secret, **bearer("sk-nobody-knows-this")})

        assert error_of(response, 401)["type"] == "token_not_found_in_db"

    @pytest.mark.parametrize("path", ROUTES)
    def test_no_key_reaches_the_provider_by_any_header(self, call, gateway, provider, customer, path):
        _, secret = gateway.create_key()
        headers = {header: form.format(secret) for header, form in self.FORMS}
        headers |= {"cookie": "session=private", "x-litellm-api-key": secret, "x-forwarded-for": "10.0.0.1"}

        call(headers, path)

        seen = [request for request in provider.requests() if customer in json.dumps(request["body"])]
        for request in seen:
            told = json.dumps(request)
            assert secret not in told
            assert "session=private" not in told
            assert "10.0.0.1" not in told
            own = request["headers"].get("authorization") or request["headers"]["x-api-key"]
            assert own in ("Bearer sk-openai-of-the-gateway", "sk-ant-of-the-gateway")
        assert seen


class TestRefusals:
    def test_no_key(self, call):
        error = error_of(call({}), 401)

        assert error["type"] == "auth_error"
        assert "No api key passed in" in error["message"]

    @pytest.mark.parametrize("value", ["sk-1234567890abcdef", "Token sk-1234567890abcdef", "Bearer"])
    def test_authorization_that_carries_something_else(self, call, value):
        error = error_of(call({"authorization": value}), 401)

        assert error["type"] == "auth_error"
        assert "Malformed API Key" in error["message"]

    def test_a_key_that_is_none_of_ours_by_its_looks(self, call):
        error = error_of(call(bearer("abcdefghijklmnopqrstuv")), 401)

        assert error["type"] == "auth_error"
        assert "sk-...stuv" in error["message"]

    def test_an_unknown_key_is_shown_abbreviated_only(self, call):
        secret = generate_secret()

        error = error_of(call(bearer(secret)), 401)

        assert (error["type"], error["param"]) == ("token_not_found_in_db", "key")
        assert "Invalid proxy server token" in error["message"]
        assert secret not in error["message"]
        assert secret[-4:] in error["message"]

    @pytest.mark.parametrize(
        "value", [b"Bearer sk-\xff\xfe\x80", "Bearer sk-ключ".encode(), b"Bearer sk-\x85"]
    )
    def test_a_key_in_no_encoding_at_all(self, call, value):
        assert error_of(call({"authorization": value}), 401)["type"] == "token_not_found_in_db"

    def test_a_very_long_key(self, call):
        assert error_of(call(bearer("sk-" + "x" * 30_000)), 401)["type"] == "token_not_found_in_db"

    def test_an_expired_key(self, call, gateway):
        _, secret = gateway.create_key(expires_at=timezone.now() - timedelta(seconds=1))

        error = error_of(call(bearer(secret)), 401)

        assert error["type"] == "expired_key"
        assert "Expired Key" in error["message"]
        assert secret not in error["message"]

    def test_a_key_that_expires_while_it_is_in_use(self, call, gateway):
        _, secret = gateway.create_key(expires_at=timezone.now() + timedelta(seconds=1))

        assert call(bearer(secret)).status_code == 200
        assert is_true_within(1.5, lambda: call(bearer(secret)).status_code == 401)

    @pytest.mark.parametrize("path", ROUTES)
    def test_every_route_answers_in_its_dialect(self, call, path):
        response = call({}, path)

        assert response.status_code == 401
        if path.startswith(MESSAGES):
            assert response.json()["type"] == "error"
            assert response.json()["error"]["type"] == "authentication_error"
        else:
            assert error_of(response, 401)["type"] == "auth_error"

    def test_models_are_listed_for_keys_only(self, anonymous):
        openais = anonymous.get("/v1/models")
        anthropics = anonymous.get("/v1/models", headers={"anthropic-version": "2023-06-01"})

        assert error_of(openais, 401)["type"] == "auth_error"
        assert anthropics.json()["error"]["type"] == "authentication_error"

    def test_nothing_is_booked_or_sent(self, call, gateway, provider, customer):
        call({})
        call(bearer("sk-nobody-knows-this"))
        call(bearer(gateway.master_key))

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["key_id"] is None
        assert provider.settled_bill(tag=customer)["count"] == 1

    def test_no_key_is_in_the_log(self, call, gateway, secret):
        stranger = generate_secret()
        call(bearer(secret))
        call(bearer(stranger))

        log = gateway.log_text()
        assert not [key for key in (secret, stranger, gateway.master_key, "sk-openai-of") if key in log]


class TestChangesInForce:
    """What staff change is in force within two seconds, without a restart."""

    def test_a_blocked_key_is_refused_and_let_in_again(self, call, gateway):
        from customers.services import set_keys_blocked

        key, secret = gateway.create_key()
        assert call(bearer(secret)).status_code == 200

        gateway.execute_orm(set_keys_blocked, ids=[key.pk], blocked=True)

        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(secret)).status_code == 401)
        error = error_of(call(bearer(secret)), 401)
        assert error["type"] == "auth_error"
        assert "Key is blocked" in error["message"]
        gateway.execute_orm(set_keys_blocked, ids=[key.pk], blocked=False)
        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(secret)).status_code == 200)

    def test_a_blocked_team_takes_its_keys_along(self, call, gateway):
        from customers.models import Team
        from customers.services import set_teams_blocked

        team = gateway.execute_orm(Team.objects.create, alias="Alice's team")
        _, secret = gateway.create_key(team=team)
        assert call(bearer(secret)).status_code == 200

        gateway.execute_orm(set_teams_blocked, ids=[team.pk], blocked=True)

        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(secret)).status_code == 401)
        assert f"Team={team.pk} is blocked" in error_of(call(bearer(secret)), 401)["message"]
        gateway.execute_orm(set_teams_blocked, ids=[team.pk], blocked=False)
        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(secret)).status_code == 200)

    def test_a_blocked_customer_is_refused_whoever_calls(self, call, gateway, provider, customer):
        from customers.services import set_customers_blocked

        master = bearer(gateway.master_key)
        assert call(master).status_code == 200
        gateway.wait_booked(1, customer_id=customer)

        gateway.execute_orm(set_customers_blocked, ids=[customer], blocked=True)

        assert is_true_within(IN_FORCE_SECONDS, lambda: call(master).status_code == 403)
        error = error_of(call(master), 403)
        assert error["type"] == "auth_error"
        assert repr(customer) in error["message"]
        sent = provider.settled_bill(tag=customer)["count"]
        gateway.execute_orm(set_customers_blocked, ids=[customer], blocked=False)
        assert is_true_within(IN_FORCE_SECONDS, lambda: call(master).status_code == 200)
        refused = gateway.rows(customer_id=customer, status="refused")
        assert {(row["cost"], row["http_status"]) for row in refused} == {(0, 403)}
        assert len(gateway.rows(customer_id=customer, status="success")) >= sent

    def test_a_rotated_key_is_known_by_its_new_secret_only(self, call, gateway):
        from customers.services import rotate_key

        key, old = gateway.create_key()
        assert call(bearer(old)).status_code == 200

        new = gateway.execute_orm(rotate_key, key=key)

        assert call(bearer(new)).status_code == 200
        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(old)).status_code == 401)

    def test_a_deleted_key_is_unknown(self, call, gateway):
        from customers.services import delete_keys

        key, secret = gateway.create_key()
        assert call(bearer(secret)).status_code == 200

        gateway.execute_orm(delete_keys, ids=[key.pk], at=timezone.now())

        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(secret)).status_code == 401)
        assert error_of(call(bearer(secret)), 401)["type"] == "token_not_found_in_db"

    def test_a_key_that_was_unknown_at_first_is_known_once_it_is_there(self, call, gateway):
        from customers.models import VirtualKey

        secret = generate_secret()
        assert call(bearer(secret)).status_code == 401

        gateway.execute_orm(
            VirtualKey.objects.create, token_hash=hash_secret(secret), display_name=display_name(secret)
        )

        assert is_true_within(IN_FORCE_SECONDS, lambda: call(bearer(secret)).status_code == 200)

    def test_who_calls_is_in_the_row_and_in_the_totals(self, call, gateway, customer):
        from customers.models import Team, User

        team = gateway.execute_orm(Team.objects.create, alias="Alice's team")
        bob = gateway.execute_orm(User.objects.create, username=f"bob-{uuid.uuid4().hex}")
        key, secret = gateway.create_key(team=team, user=bob)

        call(bearer(secret))

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["key_id"], row["team_id"], row["user_id"]) == (key.pk, team.pk, bob.pk)
        holders = (("key", str(key.pk)), ("team", team.pk), ("user", bob.pk), ("customer", customer))
        for holder in (*holders, ("team_member", f"{team.pk}\n{bob.pk}")):
            assert gateway.total(*holder)["cost"] == row["cost"] > 0
