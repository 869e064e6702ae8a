"""Which deployment answers, for whom, and what happens when one fails (invariant H9)."""

import json
import socket
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.gateway import GatewayProcess, is_true_within
from tests.provider import ProviderProcess

pytestmark = pytest.mark.processes

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


# The upstreams of a model, in the order of their priority, and how many such models the tests use up.
STOCK = {("a",): 5, ("a", "b"): 16, ("down",): 1, ("down", "a"): 1, ("impatient", "a"): 1, ("unset",): 1}


@pytest.fixture(scope="module")
def stock(gateway: GatewayProcess, provider: ProviderProcess) -> dict[tuple[str, ...], list[str]]:
    """Make all models at once, for the gateway to learn of them at once; return their names."""
    names = {
        upstreams: [f"routed-{uuid.uuid4().hex[:8]}" for _ in range(n)] for upstreams, n in STOCK.items()
    }
    gateway.execute_orm(_make_deployments, names, provider.url)
    with httpx.Client(
        headers={"authorization": f"Bearer {gateway.master_key}"}, trust_env=False, verify=False
    ) as client:
        url = f"{gateway.url}/v1/models/{names['a', 'b'][-1]}"
        assert is_true_within(3, lambda: client.get(url).status_code == 200)
    return names


def _make_deployments(names: dict[tuple[str, ...], list[str]], url: str) -> None:
    """Make upstreams and deployments.

    "a" and "b" lead to the provider, "impatient" too, with a short read timeout; where
    "down" leads, nobody listens; "unset" has no credential.
    """
    from proxy.models import Deployment, Upstream

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    common = {"provider": "openai", "openai_base_url": f"{url}/v1", "credential": "sk-openai-of-the-gateway"}
    own = {
        "a": {},
        "b": {},
        "impatient": {"read_timeout_s": 0.4},
        "down": {"openai_base_url": nobody},
        "unset": {"credential": "os.environ/NOT_SET_ANYWHERE"},
    }
    upstreams = {
        name: Upstream.objects.create(name=f"routing-{name}", **{**common, **fields})
        for name, fields in own.items()
    }
    Deployment.objects.bulk_create(
        Deployment(
            model_name=model, upstream=upstreams[name], upstream_model="gpt-4o-mini", priority=priority
        )
        for order, models in names.items()
        for model in models
        for priority, name in enumerate(order)
    )


@pytest.fixture
def served(stock: dict[tuple[str, ...], list[str]]) -> Callable[..., str]:
    """Return the name of a model with the given upstreams, which no other test uses."""
    return lambda *upstreams: stock[upstreams].pop()


@pytest.fixture
def post(http: httpx.Client, customer: str) -> Callable[..., httpx.Response]:
    def send(
        model: str, path: str = CHAT, *, key: str | None = None, stream: bool = False, **fake: Any
    ) -> httpx.Response:
        body = {"model": model, "max_tokens": 5, "stream": stream, "user": customer}
        fake = {"tag": customer, "key": customer, **fake}
        body |= {"messages": [{"role": "user", "content": "Hello"}], "fake": fake}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return http.post(path, json=body, headers=headers)

    return send


def tried(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return (upstream, status or error) of each attempt; nothing where the first was the last."""
    return [
        (attempt["upstream"].removeprefix("routing-"), attempt.get("error") or attempt["status"])
        for attempt in row["attempts"]
    ]


class TestModels:
    def test_an_unknown_one_is_refused_naming_route_and_model(self, post, gateway, customer):
        openais, anthropics = post("no-such-model"), post("no-such-model", MESSAGES)

        assert openais.status_code == anthropics.status_code == 400
        error = openais.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "400")
        assert "/v1/chat/completions" in error["message"]
        assert "'no-such-model'" in error["message"]
        assert "/v1/messages" in anthropics.json()["error"]["message"]
        rows = gateway.wait_booked(2, customer_id=customer)
        assert {(row["status"], row["model"], row["cost"]) for row in rows} == {
            ("refused", "no-such-model", 0)
        }

    @pytest.mark.parametrize("model", ["", None])
    def test_none_at_all_is_refused(self, http, model):
        response = http.post(CHAT, json={"model": model, "messages": []})

        assert response.status_code == 400
        assert response.json()["error"]["param"] == "model"

    @pytest.mark.parametrize("model", ["x" * 5_000, "a\u0000b", "a\r\nb", "../../admin", "gpt-\u2028"])
    def test_a_strange_name_is_data(self, http, model):
        response = http.post(CHAT, json={"model": model, "messages": [], "fake": {"status": 400}})

        assert response.status_code == 400

    def test_one_of_another_dialect_is_refused_saying_so(self, post):
        response = post("claude-haiku-4-5", CHAT)

        assert response.status_code == 400
        assert "not served on /v1/chat/completions" in response.json()["error"]["message"]

    def test_a_wildcard_serves_its_names_under_their_own(self, post, gateway, customer):
        assert post("gpt-4o-mini-2024-07-18").status_code == 200

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["model"] == row["upstream_model"] == "gpt-4o-mini-2024-07-18"
        assert row["cost"] > 0  # a dated name has its family's price

    def test_a_model_that_nobody_prices_is_unpriced_which_is_not_free(self, post, gateway, customer):
        response = post("gpt-of-next-year", input_tokens=1_000, output_tokens=5)

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["cost"] is row["charge"] is None
        assert (row["input_uncached"], row["output_text"]) == (1_000, 5)
        assert "x-litellm-response-cost" not in response.headers
        assert gateway.total("customer", customer)["unpriced_calls"] == 1

    def test_a_public_name_stands_for_the_upstream_s(self, post, served, gateway, provider, customer):
        model = served("a")

        response = post(model, input_tokens=1_000, output_tokens=5)

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["model"], row["upstream_model"]) == (model, "gpt-4o-mini")
        assert row["cost"] == 1_000 * 150 + 5 * 600
        assert response.headers["x-litellm-model-group"] == model
        assert response.headers["x-litellm-model-name"] == "openai/gpt-4o-mini"
        assert provider.settled_bill(tag=customer)["entries"][0]["model"] == "gpt-4o-mini"

    @pytest.mark.parametrize(
        "path",
        [
            "/engines/{}/chat/completions",
            "/openai/deployments/{}/chat/completions?api-version=2024-10-21",
            "/chat/completions",
        ],
    )
    def test_older_paths_name_it_in_the_path(self, http, gateway, provider, customer, path):
        body = {"messages": [], "user": customer, "fake": {"tag": customer}}
        body |= {"model": "gpt-4o-mini"} if "{}" not in path else {}

        assert http.post(path.format("gpt-4o-mini"), json=body).status_code == 200

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["model"], row["dialect"]) == ("gpt-4o-mini", "openai_chat")
        assert provider.settled_bill(tag=customer)["entries"][0]["model"] == "gpt-4o-mini"

    def test_one_whose_credential_is_missing_says_which(self, post, served):
        response = post(served("unset"))

        assert response.status_code == 400
        assert "NOT_SET_ANYWHERE" in response.json()["error"]["message"]

    def test_one_that_is_switched_off_is_served_no_more(self, post, served, gateway):
        from proxy.models import Deployment

        model = served("a")
        assert post(model).status_code == 200

        gateway.execute_orm(Deployment.objects.filter(model_name=model).update, is_active=False)

        assert is_true_within(2, lambda: post(model).status_code == 400)


class TestAllowLists:
    def test_a_key_s_list_is_all_it_may_use(self, post, gateway, customer):
        key, secret = gateway.create_key(allowed_models=["gpt-4o-mini", "claude-*"])

        assert post("gpt-4o-mini", key=secret).status_code == 200
        assert post("claude-haiku-4-5", MESSAGES, key=secret).status_code == 200
        refused = post("gpt-4o", key=secret)

        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["param"]) == (
            403,
            "key_model_access_denied",
            "model",
        )
        assert "Allowed: claude-*, gpt-4o-mini" in error["message"]
        [row] = [row for row in gateway.wait_booked(3, key_id=key.pk) if row["status"] == "refused"]
        assert (row["model"], row["cost"], row["customer_id"]) == ("gpt-4o", 0, customer)

    def test_its_team_s_list_counts_as_well(self, post, gateway):
        from customers.models import Team

        team = gateway.execute_orm(Team.objects.create, allowed_models=["gpt-4o"])
        _, secret = gateway.create_key(team=team, allowed_models=["gpt-4o", "gpt-4o-mini"])

        assert post("gpt-4o", key=secret).status_code == 200
        refused = post("gpt-4o-mini", key=secret)

        assert refused.status_code == 403
        assert refused.json()["error"]["type"] == "team_model_access_denied"

    def test_on_anthropic_s_route_it_is_a_permission_error(self, post, gateway):
        _, secret = gateway.create_key(allowed_models=["gpt-4o"])

        response = post("claude-haiku-4-5", MESSAGES, key=secret)

        assert response.status_code == 403
        assert response.json()["error"]["type"] == "permission_error"

    def test_the_list_of_models_shows_what_may_be_used(self, http, gateway):
        _, secret = gateway.create_key(allowed_models=["gpt-4o-mini", "demo"])
        headers = {"authorization": f"Bearer {secret}"}

        listed = http.get("/v1/models", headers=headers).json()["data"]

        assert [model["id"] for model in listed] == ["demo", "gpt-4o-mini"]
        assert http.get("/v1/models/gpt-4o", headers=headers).status_code == 404

    def test_a_changed_list_is_in_force_within_two_seconds(self, post, gateway):
        from customers.models import VirtualKey

        key, secret = gateway.create_key(allowed_models=["gpt-4o"])
        assert post("gpt-4o-mini", key=secret).status_code == 403

        gateway.execute_orm(VirtualKey.objects.filter(pk=key.pk).update, allowed_models=["all-proxy-models"])

        assert is_true_within(2, lambda: post("gpt-4o-mini", key=secret).status_code == 200)


class TestFailover:
    def test_from_one_that_cannot_be_reached(self, post, served, gateway, customer):
        response = post(served("down", "a"))

        assert response.status_code == 200
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert tried(row) == [("down", "ConnectError"), ("a", 200)]
        assert (row["status"], row["upstream"]) == ("success", "routing-a")
        assert row["cost"] > 0
        assert response.headers["x-litellm-attempted-fallbacks"] == "1"

    @pytest.mark.parametrize("status", [429, 500, 503, 529])
    @pytest.mark.parametrize("stream", [False, True])
    def test_from_one_that_refuses_for_now(self, post, served, gateway, provider, customer, status, stream):
        model = served("a", "b")

        response = post(model, stream=stream, status=status, fail_times=1)

        assert response.status_code == 200
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert tried(row) == [("a", status), ("b", 200)]
        bill = provider.settled_bill(tag=customer)
        assert row["cost"] == bill["total_nano_usd"]
        assert [entry["status"] for entry in bill["entries"]] == [status, 200]

    @pytest.mark.parametrize("status", [400, 404, 422])
    def test_not_from_one_that_finds_the_call_wrong(self, post, served, gateway, customer, status):
        response = post(served("a", "b"), status=status)

        assert response.status_code == status
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["upstream"], tried(row)) == ("routing-a", [])

    def test_when_all_refuse_the_last_one_s_answer_is_passed_on(self, post, served, gateway, customer):
        response = post(served("a", "b"), status=429)

        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert tried(row) == [("a", 429), ("b", 429)]
        assert (row["status"], row["cost"]) == ("failure", 0)

    def test_when_none_can_be_reached_it_is_said(self, post, served, gateway, customer):
        response = post(served("down"))

        assert response.status_code == 502
        assert "cannot be reached" in response.json()["error"]["message"]
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["status"], row["cost"], row["usage_source"]) == ("failure", 0, "none")

    def test_never_after_a_read_timeout_which_may_have_been_billed(
        self, post, served, gateway, provider, customer
    ):
        response = post(served("impatient", "a"), hang=True)

        assert response.status_code == 504
        assert "sent nothing for 0.4 seconds" in response.json()["error"]["message"]
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert tried(row) == [("impatient", "ReadTimeout")]
        assert row["status"] == "failure"
        assert provider.settled_bill(tag=customer)["count"] == 1

    def test_never_after_the_connection_broke_off_for_the_same_reason(
        self, post, served, gateway, provider, customer
    ):
        response = post(served("a", "b"), no_answer=True)

        assert response.status_code == 502
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert tried(row) == [("a", "ReadError")]
        assert provider.settled_bill(tag=customer)["count"] == 1

    def test_one_failure_does_not_take_down_a_model_s_only_deployment(self, post, served):
        model = served("a")

        assert [post(model, status=500).status_code, post(model).status_code] == [500, 200]

    def test_one_that_failed_is_tried_last_for_a_while(self, post, served, gateway, customer):
        model = served("a", "b")

        post(model, status=500, fail_times=1)
        post(model)

        rows = gateway.wait_booked(2, customer_id=customer)
        assert [tried(row) for row in rows] == [[("a", 500), ("b", 200)], []]
        assert rows[1]["upstream"] == "routing-b"

    def test_a_key_of_the_upstream_is_in_no_answer(self, post, served, gateway):
        response = post(served("a"), status=401)

        assert response.status_code == 401
        assert "sk-openai" not in json.dumps([response.text, *map(str, response.headers.items())])
        assert "sk-openai" not in gateway.log_text()
