"""Whom a call is booked to: sources and their order, coercion, bad ids (contract 2)."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.processes

ROUTES = {
    "/v1/chat/completions": "gpt-4o-mini",
    "/v1/completions": "gpt-3.5-turbo-instruct",
    "/v1/embeddings": "text-embedding-3-small",
    "/v1/responses": "gpt-4.1-mini",
    "/v1/messages": "claude-haiku-4-5",
    "/v1/messages/count_tokens": "claude-haiku-4-5",
}
BOOKED_ROUTES = [path for path in ROUTES if not path.endswith("count_tokens")]
CHAT = "/v1/chat/completions"


@pytest.fixture
def post(http: httpx.Client) -> Callable[..., httpx.Response]:
    """Post a call of the least words, with more fields and headers."""

    def send(
        fields: dict[str, Any] | None = None, headers: dict[str, Any] | None = None, path: str = CHAT
    ) -> httpx.Response:
        body = {"model": ROUTES[path], "input": "Hello", "max_tokens": 5}
        body |= {"prompt": "Hello", "messages": [{"role": "user", "content": "Hello"}], **(fields or {})}
        return http.post(path, json=body, headers=headers)

    return send


@pytest.fixture
def booked(post, gateway) -> Callable[..., dict[str, Any]]:
    """Make a call as `post` does and return its row, found by a call id of our own."""

    def row_of(
        fields: dict[str, Any] | None = None, headers: dict[str, Any] | None = None, path: str = CHAT
    ) -> dict[str, Any]:
        call_id = uuid.uuid4().hex
        response = post(fields, {"x-litellm-call-id": call_id, **(headers or {})}, path)
        assert response.status_code == 200, response.text
        assert response.headers["x-litellm-call-id"] == call_id
        [row] = gateway.wait_booked(1, client_call_id=call_id)
        return row

    return row_of


class TestCustomer:
    # Each as (headers, fields), the first that is there counts.
    SOURCES = (
        ({"x-litellm-customer-id": "by-customer-header"}, {}),
        ({"X-LiteLLM-End-User-Id": "by-end-user-header"}, {}),
        ({"X-OpenWebUI-User-Email": "by-mapped-header@example.org"}, {}),
        ({}, {"user": "by-user"}),
        ({}, {"litellm_metadata": {"user": "by-litellm-metadata"}}),
        ({}, {"metadata": {"user_id": "by-metadata"}}),
        ({}, {"safety_identifier": "by-safety-identifier"}),
    )
    WINNERS = (
        "by-customer-header",
        "by-end-user-header",
        "by-mapped-header@example.org",
        "by-user",
        "by-litellm-metadata",
        "by-metadata",
        "by-safety-identifier",
    )

    @pytest.mark.parametrize("first", range(len(SOURCES)))
    def test_the_first_source_in_the_contract_s_order_counts(self, booked, first):
        headers: dict[str, str] = {}
        fields: dict[str, Any] = {}
        for its_headers, its_fields in self.SOURCES[first:]:
            headers |= its_headers
            fields |= its_fields

        assert booked(fields, headers)["customer_id"] == self.WINNERS[first]

    def test_without_any_source_there_is_no_customer(self, booked):
        assert booked()["customer_id"] is None

    @pytest.mark.parametrize("path", BOOKED_ROUTES)
    def test_every_route_reads_the_same_sources(self, booked, path):
        assert booked({"user": "alice"}, path=path)["customer_id"] == "alice"
        assert booked({"metadata": {"user_id": "bob"}}, path=path)["customer_id"] == "bob"

    @pytest.mark.parametrize(
        ("value", "customer"),
        [
            ("acme", "acme"),
            ("  acme ", "acme"),
            ("Zażółć gęślą jaźń", "Zażółć gęślą jaźń"),
            ("🦔", "🦔"),
            ("x" * 255, "x" * 255),
            (42, "42"),
            (0, "0"),
            (4.5, "4.5"),
            (12345678901234567890, "12345678901234567890"),
            (None, None),
            ("", None),
            ("   ", None),
            (True, None),
            (["acme"], None),
            ({"id": "acme"}, None),
        ],
    )
    def test_a_body_s_value_becomes_text_or_nothing(self, booked, value, customer):
        assert booked({"user": value})["customer_id"] == customer

    def test_a_value_that_is_no_id_leaves_the_next_source_its_turn(self, booked):
        fields = {"user": "", "litellm_metadata": {"user": None}, "metadata": {"user_id": "the-next"}}

        assert booked(fields, {"x-litellm-customer-id": ""})["customer_id"] == "the-next"

    def test_metadata_may_be_written_as_a_json_text(self, booked):
        assert booked({"metadata": json.dumps({"user_id": "alice"})})["customer_id"] == "alice"
        assert booked({"litellm_metadata": json.dumps({"user": "bob"})})["customer_id"] == "bob"
        assert booked({"metadata": "{not json"})["customer_id"] is None

    def test_a_header_in_utf_8_is_read_as_that(self, booked):
        assert booked(headers={"x-litellm-customer-id": "Zażółć".encode()})["customer_id"] == "Zażółć"
        assert (
            booked(headers={"x-litellm-customer-id": "Müller".encode("latin-1")})["customer_id"] == "Müller"
        )

    def test_it_is_one_customer_for_all_keys(self, post, gateway, customer):
        for _ in range(2):
            _, secret = gateway.create_key()
            post({"user": customer}, {"authorization": f"Bearer {secret}"})

        gateway.wait_booked(2, customer_id=customer)
        assert gateway.total("customer", customer)["calls"] == 2

    def test_a_failed_call_makes_no_customer(self, post, gateway, customer):
        from customers.models import Customer

        def is_known() -> bool:
            return gateway.execute_orm(Customer.objects.filter(pk=customer).exists)

        post({"user": customer, "fake": {"status": 500}})
        gateway.wait_booked(1, customer_id=customer)
        assert not is_known()

        post({"user": customer})
        gateway.wait_booked(2, customer_id=customer)
        assert is_known()


class TestFixedPayer:
    @pytest.fixture
    def headers(self, gateway, customer) -> dict[str, str]:
        """Return the headers of a key that always pays as `customer`."""
        from customers.models import Customer

        payer = gateway.execute_orm(Customer.objects.create, pk=customer)
        _, secret = gateway.create_key(payer_policy="fixed", customer=payer)
        return {"authorization": f"Bearer {secret}"}

    def test_it_pays_without_being_named(self, booked, headers, customer):
        assert booked(headers=headers)["customer_id"] == customer

    def test_it_may_be_named(self, booked, headers, customer):
        assert booked({"user": customer}, headers)["customer_id"] == customer

    def test_another_may_not(self, post, headers, customer, gateway, provider):
        response = post({"user": "somebody-else", "fake": {"tag": customer}}, headers)

        assert response.status_code == 403
        assert repr(customer) in response.json()["error"]["message"]
        assert provider.bill(tag=customer)["count"] == 0


class TestClients:
    def test_open_webui_names_user_and_customer(self, booked):
        row = booked(
            headers={
                "X-OpenWebUI-User-Name": "Alice%20Liddell",
                "X-OpenWebUI-User-Id": "7f1c1c9e-alice",
                "X-OpenWebUI-User-Email": "alice@example.org",
                "X-OpenWebUI-User-Role": "admin",
            }
        )

        assert (row["customer_id"], row["user_id"]) == ("alice@example.org", "7f1c1c9e-alice")
        assert row["client_tool"] == "Open WebUI"

    OLD = f"user_{'0a' * 32}_account_11111111-2222-3333-4444-555555555555_session_66666666-7777-8888"
    WITHOUT_ACCOUNT = f"user_{'0a' * 32}_account__session_66666666-7777-8888"
    JSON = json.dumps(
        {
            "device_id": "0a" * 32,
            "account_uuid": "11111111-2222-3333-4444-555555555555",
            "session_id": "66666666-7777-8888",
        }
    )

    @pytest.mark.parametrize(
        ("user_id", "customer"),
        [
            (OLD, "11111111-2222-3333-4444-555555555555"),
            (WITHOUT_ACCOUNT, "0a" * 32),
            (JSON, "11111111-2222-3333-4444-555555555555"),
        ],
    )
    def test_claude_code_s_user_id_is_account_and_session(self, booked, user_id, customer):
        row = booked(
            {"metadata": {"user_id": user_id}},
            {"user-agent": "claude-cli/2.1.0 (external, cli)"},
            path="/v1/messages",
        )

        assert (row["customer_id"], row["session_id"]) == (customer, "66666666-7777-8888")
        assert row["client_tool"] == "Claude Code"

    def test_the_header_overrides_claude_code_s_account_and_keeps_its_session(self, booked):
        row = booked({"metadata": {"user_id": self.OLD}}, {"x-litellm-customer-id": "acme"}, "/v1/messages")

        assert (row["customer_id"], row["session_id"]) == ("acme", "66666666-7777-8888")

    def test_claude_code_s_user_id_reaches_the_provider_as_it_is(self, booked, provider):
        booked({"metadata": {"user_id": self.OLD}}, path="/v1/messages")

        assert provider.requests()[-1]["body"]["metadata"] == {"user_id": self.OLD}

    def test_the_session_may_be_named(self, booked):
        assert booked(headers={"x-litellm-session-id": "session-1"})["session_id"] == "session-1"
        assert booked(headers={"x-litellm-trace-id": "trace-1"})["session_id"] == "trace-1"

    def test_notes_for_the_log_are_kept_and_not_sent(self, booked, provider):
        notes = {"ticket": 7, "team": "Ünicode"}

        in_body = booked({"metadata": {"spend_logs_metadata": notes, "kept": "yes"}})
        assert provider.requests()[-1]["body"]["metadata"] == {"kept": "yes"}
        in_header = booked(headers={"x-litellm-spend-logs-metadata": json.dumps(notes)})

        assert in_body["metadata"] == in_header["metadata"] == {"spend_logs_metadata": notes}


class TestTags:
    AGENT = {"user-agent": "codex_cli_rs/0.40 (Linux)"}
    AGENT_TAGS = ["User-Agent: codex_cli_rs", "User-Agent: codex_cli_rs/0.40 (Linux)"]

    def test_they_are_merged_in_order_and_without_doubles(self, booked, gateway):
        from customers.models import Team

        team = gateway.execute_orm(Team.objects.create, tags=["team:a", "both"])
        _, secret = gateway.create_key(tags=["key:a", "both"], team=team)
        headers = {"authorization": f"Bearer {secret}", "x-litellm-tags": "one, two ,,both", **self.AGENT}
        fields = {"metadata": {"tags": ["three", "one"]}, "litellm_metadata": {"tags": ["four"]}}

        row = booked(fields, headers)

        own = ["key:a", "both", "team:a", "one", "two", "three", "four"]
        assert row["tags"] == own + self.AGENT_TAGS
        assert row["client_tool"] == "Codex"

    def test_a_body_s_tags_replace_the_header_s(self, booked):
        row = booked({"tags": ["by-body"]}, {"x-litellm-tags": "by-header", **self.AGENT})

        assert row["tags"] == ["by-body", *self.AGENT_TAGS]

    @pytest.mark.parametrize("path", BOOKED_ROUTES)
    def test_they_are_counted_and_do_not_reach_the_provider(self, booked, gateway, provider, path):
        tag = f"tag:{uuid.uuid4().hex}"

        row = booked({"metadata": {"tags": [tag]}, "litellm_metadata": {"tags": [tag]}}, path=path)

        assert gateway.total("tag", tag)["cost"] == row["cost"] > 0
        assert tag not in json.dumps(provider.requests()[-1]["body"])

    @pytest.mark.parametrize(
        "fields",
        [
            {"tags": ["x" * 256]},
            {"tags": [""]},
            {"tags": ["line\r\nbreak"]},
            {"metadata": {"tags": ["a\u0000b"]}},
            {"metadata": {"tags": "no list"}},
            {"metadata": {"tags": [1, 2]}},
            {"litellm_metadata": {"tags": [None]}},
            {"tags": [f"tag-{number}" for number in range(65)]},
        ],
    )
    def test_an_unusable_tag_is_refused(self, post, fields):
        response = post(fields)

        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert "tag" in response.json()["error"]["param"]

    def test_as_many_tags_as_are_allowed(self, booked):
        tags = [f"tag-{number}" for number in range(64)]

        assert booked({"tags": tags})["tags"][:64] == tags


class TestBadIds:
    BAD = ("x" * 256, "a\u0000b", "a\nb", "a\r\nb: c", "a\tb", "a\u007fb", "a\u0085b", "a\u2028b")

    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("value", BAD, ids=repr)
    def test_one_in_the_body_is_refused_in_the_dialect(self, post, gateway, provider, customer, path, value):
        response = post({"user": value, "fake": {"tag": customer}}, {"x-litellm-tags": customer}, path)

        assert response.status_code == 400
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert "The id in user" in error["message"]
        if path.startswith("/v1/messages"):
            assert response.json()["type"] == "error"
        else:
            assert (error["param"], error["code"]) == ("user", "400")
        assert provider.bill(tag=customer)["count"] == 0

    @pytest.mark.parametrize(
        "header", ["x-litellm-customer-id", "x-litellm-end-user-id", "x-litellm-call-id"]
    )
    @pytest.mark.parametrize("value", [b"x" * 256, b"a\tb", "a\u2028b".encode(), b"a\x85b"])
    def test_one_in_a_header_is_refused(self, post, header, value):
        response = post(headers={header: value})

        assert response.status_code == 400
        assert response.json()["error"]["param"] == header

    def test_one_that_is_half_a_character_is_refused(self, http):
        body = b'{"model": "gpt-4o-mini", "messages": [], "user": "a\\ud800b"}'

        response = http.post(CHAT, content=body, headers={"content-type": "application/json"})

        assert response.status_code == 400

    def test_the_refusal_is_a_row_that_costs_nothing(self, post, gateway):
        key, secret = gateway.create_key()

        post({"user": "a\u0000b"}, {"authorization": f"Bearer {secret}"})

        [row] = gateway.wait_booked(1, key_id=key.pk)
        assert (row["status"], row["http_status"], row["cost"]) == ("refused", 400, 0)
        assert row["customer_id"] is None
        assert gateway.total("key", str(key.pk))["cost"] == 0
