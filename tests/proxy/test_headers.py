"""What goes to the provider and what comes back, header by header (contract 4)."""

import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest

from customers.money import to_nano

pytestmark = pytest.mark.processes

MODELS = {
    "/v1/chat/completions": "gpt-4o-mini",
    "/v1/completions": "gpt-3.5-turbo-instruct",
    "/v1/embeddings": "text-embedding-3-small",
    "/v1/responses": "gpt-4.1-mini",
    "/v1/messages": "claude-haiku-4-5",
}
CHAT = "/v1/chat/completions"


@pytest.fixture
def post(http: httpx.Client, customer: str) -> Callable[..., httpx.Response]:
    def send(path: str = CHAT, headers: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
        fake = {"tag": customer, "input_tokens": 1_000, "output_tokens": 50, **fields.pop("fake", {})}
        body = {"model": MODELS[path], "max_tokens": 60, "user": customer, "fake": fake, **fields}
        body |= {"prompt": "Hi", "input": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
        return http.post(path, json=body, headers=headers)

    return send


@pytest.fixture
def seen(provider, customer) -> Callable[[], dict[str, str]]:
    """Return the headers of the last request that the provider got of this test's customer."""

    def headers() -> dict[str, str]:
        return [request for request in provider.requests() if customer in json.dumps(request["body"])][-1][
            "headers"
        ]

    return headers


class TestToTheClient:
    @pytest.mark.parametrize("path", MODELS)
    def test_cost_and_tokens_are_the_row_s(self, post, gateway, customer, path):
        headers = post(path).headers

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert to_nano(Decimal(headers["x-litellm-response-cost"])) == row["cost"] > 0
        tokens = sum(row[bucket] for bucket in ("input_uncached", "output_text", "reasoning"))
        assert headers["x-litellm-response-tokens"] == str(tokens)
        assert "e" not in headers["x-litellm-response-cost"].lower()

    def test_the_smallest_cost_is_written_out(self, post):
        cost = post("/v1/embeddings", fake={"input_tokens": 1}).headers["x-litellm-response-cost"]

        assert cost == "0.00000002"

    def test_the_call_says_what_served_it(self, post, gateway, provider, customer):
        headers = post().headers

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert headers["x-litellm-call-id"] == str(row["id"])
        assert headers["x-litellm-model-id"] == str(row["deployment_id"])
        assert headers["x-litellm-model-group"] == "gpt-4o-mini"
        assert headers["x-litellm-model-name"] == "openai/gpt-4o-mini"
        assert headers["x-litellm-model-api-base"] == f"{provider.url}/v1"
        assert headers["x-litellm-attempted-fallbacks"] == headers["x-litellm-attempted-retries"] == "0"
        assert headers["x-litellm-version"]
        assert float(headers["x-litellm-response-duration-ms"]) < 10_000

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_call_id_of_the_client_s_is_given_back_and_booked(self, post, gateway, stream):
        call_id = f"own-{uuid.uuid4()}"

        headers = post(headers={"x-litellm-call-id": call_id}, stream=stream).headers

        assert headers["x-litellm-call-id"] == call_id
        [row] = gateway.wait_booked(1, client_call_id=call_id)
        assert str(row["id"]) != call_id

    def test_a_stream_has_them_without_the_cost_it_cannot_know(self, post):
        headers = post(stream=True).headers

        assert headers["x-litellm-model-group"] == "gpt-4o-mini"
        assert headers["llm_provider-openai-version"] == "2020-10-01"
        assert "x-litellm-response-cost" not in headers

    @pytest.mark.parametrize("status", [400, 429, 500])
    def test_a_failed_call_costs_0(self, post, status):
        response = post(fake={"status": status})

        assert response.status_code == status
        assert response.headers["x-litellm-response-cost"] == "0"
        assert response.headers["x-litellm-model-group"] == "gpt-4o-mini"

    def test_the_provider_s_come_under_a_prefix_the_useful_ones_under_their_names_too(self, post):
        openais, anthropics = post().headers, post("/v1/messages").headers

        assert openais["llm_provider-x-ratelimit-remaining-requests"] == "9999"
        assert openais["x-ratelimit-remaining-requests"] == "9999"
        assert openais["llm_provider-openai-processing-ms"] == openais["openai-processing-ms"] == "12"
        assert openais["x-request-id"] == openais["llm_provider-x-request-id"]
        assert anthropics["request-id"] == anthropics["llm_provider-request-id"]
        assert anthropics["anthropic-ratelimit-requests-limit"] == "4000"

    def test_what_belongs_to_one_hop_does_not_come(self, post):
        response = post(stream=True)

        for name in ("content-length", "transfer-encoding", "content-type", "connection"):
            assert f"llm_provider-{name}" not in response.headers
        assert len(response.headers.get_list("content-type")) == 1

    def test_a_model_s_name_cannot_forge_a_header(self, post, gateway):
        response = post(model="gpt-x\r\nset-cookie: a=b")

        assert "set-cookie" not in response.headers

    def test_a_name_in_another_script_is_utf_8(self, post):
        response = post(model="gpt-ünï-🦔")

        assert response.status_code == 200
        assert dict(response.headers.raw)[b"x-litellm-model-group"] == "gpt-ünï-🦔".encode()


class TestToTheProvider:
    def test_an_identical_encoding_is_asked_for(self, post, seen):
        post(headers={"accept-encoding": "gzip, br, zstd"})

        assert seen()["accept-encoding"] == "identity"

    def test_it_gets_our_key_in_the_way_of_its_dialect(self, post, seen):
        post()
        assert seen()["authorization"] == "Bearer sk-openai-of-the-gateway"

        post("/v1/messages")
        assert seen()["x-api-key"] == "sk-ant-of-the-gateway"
        assert "authorization" not in seen()

    def test_what_providers_define_arrives(self, post, seen):
        sent = {
            "anthropic-beta": "context-1m-2025-08-07,prompt-caching",
            "anthropic-version": "2023-06-01",
            "openai-beta": "assistants=v2",
            "openai-organization": "org-1",
            "x-stainless-lang": "python",
            "user-agent": "agent/1.0",
            "idempotency-key": "once",
            "content-type": "application/json; charset=utf-8",
        }

        post("/v1/messages", headers=sent)

        assert sent.items() <= seen().items()

    def test_what_is_ours_or_the_caller_s_own_does_not(self, post, seen, gateway):
        kept_here = {
            "cookie": "session=private",
            "x-litellm-tags": "private",
            "x-litellm-customer-id": "private",
            "x-openwebui-user-email": "private@example.org",
            "x-forwarded-for": "10.0.0.1",
            "forwarded": "for=10.0.0.1",
            "x-real-ip": "10.0.0.1",
            "referer": "https://intranet.example/private",
            "x-anything-else": "private",
            "proxy-authorization": "Basic cHJpdmF0ZQ==",
            "traceparent": "00-private",
        }

        post(headers=kept_here)

        told = json.dumps(seen())
        assert not [name for name in kept_here if name in seen()]
        assert not [text for text in ("private", "10.0.0.1", gateway.master_key) if text in told]

    def test_the_host_is_the_provider_s(self, post, seen, provider):
        post()

        assert seen()["host"] == provider.url.removeprefix("http://")

    def test_the_body_goes_as_it_came_where_nothing_is_ours(self, http, provider, customer):
        odd = f'{{ "model":"gpt-4o-mini",\n "messages" : [], "user": "{customer}", "seed": 1.0e2 }}'

        http.post(CHAT, content=odd.encode())

        import hashlib

        assert provider.requests()[-1]["body_sha256"] == hashlib.sha256(odd.encode()).hexdigest()

    def test_an_upstream_s_own_headers_are_sent(self, http, gateway, provider, customer, seen):
        from proxy.models import Deployment, Upstream
        from tests.gateway import is_true_within

        def make() -> None:
            upstream = Upstream.objects.create(
                name=customer, provider="openai", openai_base_url=f"{provider.url}/v1", headers={"X-Org": "7"}
            )
            Deployment.objects.create(model_name=customer, upstream=upstream, upstream_model="gpt-4o-mini")

        gateway.execute_orm(make)
        assert is_true_within(2, lambda: http.get(f"/v1/models/{customer}").status_code == 200)

        http.post(CHAT, json={"model": customer, "messages": [], "user": customer})

        assert seen()["x-org"] == "7"
        assert "authorization" not in seen()  # it has no credential
