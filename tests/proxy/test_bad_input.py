"""
What is wrong from the caller's or the provider's side, over real sockets.

Each: a clear error in the caller's dialect, the right status, never a 500, and no row
that claims a cost.
"""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.gateway import GatewayProcess

pytestmark = pytest.mark.processes

MODELS = {
    "/v1/chat/completions": "gpt-4o-mini",
    "/v1/completions": "gpt-3.5-turbo-instruct",
    "/v1/embeddings": "text-embedding-3-small",
    "/v1/responses": "gpt-4.1-mini",
    "/v1/messages": "claude-haiku-4-5",
    "/v1/messages/count_tokens": "claude-haiku-4-5",
}
ROUTES = tuple(MODELS)
BOOKED = ROUTES[:-1]
STREAMED = tuple(path for path in BOOKED if path != "/v1/embeddings")
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def gateway(provider) -> Iterator[GatewayProcess]:
    """A gateway that takes a megabyte at most, and whose log must stay without a traceback."""
    with GatewayProcess(provider=provider, MAX_BODY_MB=1, BODY_IDLE_SECONDS=1) as process:
        yield process
        assert "Traceback" not in process.log_text()


def body_of(path: str, customer: str = "nobody", **fields: Any) -> dict[str, Any]:
    fake = {"tag": customer, **fields.pop("fake", {})}
    body = {"model": MODELS[path], "max_tokens": 5, "prompt": "Hello", "input": "Hello", "user": customer}
    return {**body, "messages": [{"role": "user", "content": "Hello"}], "fake": fake, **fields}


def error_of(response: httpx.Response, status: int, path: str) -> dict[str, Any]:
    """Assert that it is an error with `status` in the dialect of `path`; return what it says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    if path.startswith(("/v1/messages", "/messages")):
        assert body["type"] == "error"
        assert body["request_id"] == response.headers["x-litellm-call-id"]
        return body["error"]
    assert body["error"]["code"] == str(status)
    assert body["error"]["request_id"] == response.headers["x-litellm-call-id"]
    return body["error"]


def datas_of(stream: str) -> list[str]:
    """Return the data of each event."""
    lines = [block.splitlines() for block in stream.split("\n\n") if block]
    return ["\n".join(line[6:] for line in block if line.startswith("data: ")) for block in lines]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


class TestBodies:
    BROKEN = (
        b"",
        b"{",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b"7",
        b'{"model": "gpt-4o-mini",}',
        b'{"model": "gpt-4o-mini"} trailing',
        b'{"model": "gpt-4o-mini", "user": NaN}',
        b'{"model": "gpt-4o-mini", "user": "\x00"}',
        b'{"model": "gpt-4o-mini", "user": "\xff\xfe"}',
        b'{"model": "gpt-4o-mini", "messages": "\xed\xa0\x80"}',
        b'{"model": "gpt-4o-mini", "messages": "\x80"}',
        b"\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 5_000,
        b'{"a":' * 5_000,
        b'{"model": "gpt-4o-mini", "metadata": ' + b"[" * 5_000,
        '{"model": "gpt-4o-mini"}'.encode("utf-16"),
    )

    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
    def test_one_that_is_no_usable_json_is_refused(self, http, path, content):
        error = error_of(http.post(path, content=content, headers=JSON), 400, path)

        assert error["type"] == "invalid_request_error"
        assert "body" in error["message"]

    def test_the_message_says_where_it_stops_being_utf_8(self, http):
        error = error_of(http.post(CHAT, content=b'{"a": "\xff"}', headers=JSON), 400, CHAT)

        assert "not UTF-8 (at byte 7)" in error["message"]

    @pytest.mark.parametrize("path", STREAMED)
    @pytest.mark.parametrize("value", ["true", 1, [], {}])
    def test_a_stream_of_the_wrong_type_is_refused(self, http, gateway, provider, customer, path, value):
        error = error_of(http.post(path, json=body_of(path, customer, stream=value)), 400, path)

        assert "stream" in error["message"]
        assert provider.bill(tag=customer)["count"] == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"model": 7},
            {"model": ["gpt-4o-mini"]},
            {"stream": True, "stream_options": "usage"},
            {"stream": True, "stream_options": []},
        ],
    )
    def test_other_fields_of_the_wrong_type_are_refused(self, http, fields):
        error_of(http.post(CHAT, json=body_of(CHAT, **fields)), 400, CHAT)

    @pytest.mark.parametrize("fields", [{"stream": None}, {"stream": True, "stream_options": None}])
    def test_null_is_as_good_as_nothing(self, http, fields):
        assert http.post(CHAT, json=body_of(CHAT, **fields)).status_code == 200

    def test_strange_limits_are_the_provider_s_business(self, http):
        for value in (-1, 0, 1.5, "many", None, 10**30):
            response = http.post(CHAT, json=body_of(CHAT, max_tokens=value, fake={"status": 400}))

            assert response.status_code == 400

    @pytest.mark.parametrize(
        "value",
        [2**63, -(2**63), 2**64, 10**30, nested(20), nested(500), {"a": nested(20)}],
        ids=["2^63", "-2^63", "2^64", "10^30", "20", "500", "21"],
    )
    def test_notes_that_nobody_could_read_again_are_refused(self, http, gateway, provider, customer, value):
        notes = {"spend_logs_metadata": {"a": value}}
        by_body = http.post(CHAT, json=body_of(CHAT, customer, metadata=notes))
        by_header = http.post(
            CHAT,
            json=body_of(CHAT, customer),
            headers={"x-litellm-spend-logs-metadata": json.dumps({"a": value})},
        )

        for answer in (by_body, by_header):
            assert "64 bits" in error_of(answer, 400, CHAT)["message"]
        assert provider.bill(tag=customer)["count"] == 0
        assert http.get("/spend/logs", params={"user_id": "nobody"}).status_code == 200

    @pytest.mark.parametrize("field", ["n", "max_tokens", "max_completion_tokens", "best_of"])
    def test_numbers_beyond_all_bounds_are_answered(self, http, customer, field):
        for value in (2**31, 2**63, 2**64, 10**30):
            answer = http.post(CHAT, json=body_of(CHAT, customer, **{field: value}))

            assert answer.status_code in (200, 400)

    def test_tags_that_are_no_list_are_refused(self, http, customer):
        error_of(http.post(CHAT, json=body_of(CHAT, customer, tags="x")), 400, CHAT)

    @pytest.mark.parametrize("depth", [10, 100_000])
    def test_notes_for_the_log_may_be_nested_and_not_without_end(self, http, gateway, customer, depth):
        nested = '{"x":' + "[" * depth + "]" * depth + "}"

        by_header = http.post(
            CHAT, json=body_of(CHAT, customer), headers={"x-litellm-spend-logs-metadata": nested[:20_000]}
        )
        by_text = http.post(
            CHAT, json=body_of(CHAT, customer, metadata='{"spend_logs_metadata": ' + nested + "}")
        )

        assert (by_header.status_code, by_text.status_code) == (200, 200)
        rows = gateway.wait_booked(2, customer_id=customer)
        assert [bool(row["metadata"]) for row in rows] == [depth == 10] * 2

    def test_text_of_every_kind_reaches_the_provider_unchanged(self, http, provider, customer):
        text = "\u0000 \u001f \u2028 🦔 Zażółć \ufeff \U0010ffff </script> '; DROP TABLE"
        body = body_of(CHAT, customer, messages=[{"role": "user", "content": text}])

        assert http.post(CHAT, json=body).status_code == 200

        assert provider.requests()[-1]["body"]["messages"][0]["content"] == text

    def test_the_same_field_twice_is_read_by_us_as_by_the_provider(self, http, gateway, provider, customer):
        body = json.dumps(body_of(CHAT, "somebody-else"))
        twice = body[:-1] + f', "user": "{customer}", "fake": {{"tag": "{customer}"}}}}'

        assert http.post(CHAT, content=twice, headers=JSON).status_code == 200

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["cost"] == provider.settled_bill(tag=customer)["total_nano_usd"]

    def test_no_content_type_is_needed(self, http):
        content = json.dumps(body_of(CHAT))

        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            response = http.post(CHAT, content=content, headers={"content-type": kind})
            assert response.status_code == 200


class TestLargeBodies:
    LIMIT = 1024 * 1024

    def padded(self, path: str, size: int, customer: str = "nobody") -> bytes:
        """Return a good call of exactly `size` bytes."""
        body = json.dumps(body_of(path, customer)).encode()
        return body + b" " * (size - len(body))

    @pytest.mark.parametrize("path", ROUTES)
    def test_one_above_the_limit_is_413(self, http, path):
        error = error_of(http.post(path, content=self.padded(path, self.LIMIT + 1)), 413, path)

        assert "larger than 1 MB" in error["message"]
        assert error["type"] in ("invalid_request_error", "request_too_large")

    def test_one_at_the_limit_is_served(self, http, gateway, customer):
        response = http.post(CHAT, content=self.padded(CHAT, self.LIMIT, customer))

        assert response.status_code == 200
        gateway.wait_booked(1, customer_id=customer)

    def test_one_in_chunks_is_counted_as_it_comes(self, http):
        def chunks(count: int) -> Iterator[bytes]:
            head = json.dumps(body_of(CHAT)).encode()
            yield head
            for _ in range(count):
                yield b" " * 65_536

        assert http.post(CHAT, content=chunks(15)).status_code == 200
        error_of(http.post(CHAT, content=chunks(64)), 413, CHAT)

    @pytest.mark.parametrize(("size", "status"), [(LIMIT * 20, b"413"), (200, b"100")])
    def test_one_that_asks_before_it_is_sent_is_answered_at_once(self, gateway, size, status):
        head = self.head(gateway, f"content-length: {size}\r\nexpect: 100-continue\r\n")

        with connected(gateway) as client:
            client.sendall(head)
            first = client.recv(4096)

        assert first.split(b" ")[1] == status

    def test_one_that_stops_coming_is_given_up(self, gateway):
        with connected(gateway) as client:
            client.sendall(self.head(gateway, "content-length: 500\r\n") + b'{"model": ')
            answer = http.client.HTTPResponse(client)
            answer.begin()

            assert answer.status == 408
            assert "did not arrive" in json.load(answer)["error"]["message"]

    def test_a_client_that_hangs_up_meanwhile_leaves_nothing(self, gateway):
        with connected(gateway) as client:
            client.sendall(self.head(gateway, "content-length: 500\r\n") + b'{"model": ')

        assert "Traceback" not in gateway.log_text()

    def test_without_a_key_it_is_not_read(self, gateway):
        request = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {self.LIMIT * 500}\r\n\r\n"

        with connected(gateway) as client:
            client.sendall(request.encode())

            assert client.recv(4096).split(b" ")[1] == b"401"

    def test_the_refusal_is_a_row(self, http, gateway):
        key, secret = gateway.create_key()
        headers = {"authorization": f"Bearer {secret}"}

        http.post(CHAT, content=self.padded(CHAT, self.LIMIT + 1), headers=headers)

        [row] = gateway.wait_booked(1, key_id=key.pk)
        assert (row["status"], row["http_status"], row["cost"]) == ("refused", 413, 0)

    @staticmethod
    def head(gateway: GatewayProcess, headers: str) -> bytes:
        key = f"authorization: Bearer {gateway.master_key}\r\n"
        return f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{key}{headers}\r\n".encode()


def connected(gateway: GatewayProcess) -> socket.socket:
    address = urlsplit(gateway.url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


class TestRoutes:
    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_a_wrong_method_is_405(self, http, path, method):
        response = http.request(method, path)

        error_of(response, 405, path)
        assert response.headers["allow"] == "POST"

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/models/gpt-4o-mini"])
    def test_models_are_only_read(self, http, path):
        response = http.post(path, json={})

        error_of(response, 405, path)
        assert response.headers["allow"] == "GET"

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/nothing",
            "/v1",
            "/v1/",
            "/v1/chat",
            "/v1/messages/nothing",
            "/chat/completions/extra",
            "/v1/%00",
            "/v1/%ff%fe",
            "/v1/" + "x" * 5_000,
            "/v1/chat/completions%0d%0ax",
            "/v1//chat/completions",
        ],
    )
    def test_an_unknown_route_is_404(self, http, path):
        error = error_of(http.post(path, json={}), 404, path)

        assert error["type"] == "not_found_error"
        assert len(error["message"]) < 500

    def test_a_wrong_method_leaves_no_row(self, http, gateway):
        before = len(gateway.rows())

        http.get(CHAT)
        http.post("/v1/nothing")
        http.post(CHAT, json=body_of(CHAT))

        assert len(gateway.wait_booked(before + 1)) == before + 1

    @pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/models"])
    @pytest.mark.parametrize("host", ["evil.example", "", "localhost@evil.example", "a b"])
    def test_a_host_that_is_not_served_is_400(self, http, path, host):
        error = error_of(http.post(path, json=body_of(CHAT), headers={"host": host}), 400, path)

        assert "ALLOWED_HOSTS" in error["message"]

    def test_nonsense_instead_of_http_is_answered_with_400(self, gateway):
        with connected(gateway) as client:
            client.sendall(b"\x16\x03\x01 hello\r\n\r\n")

            assert b" 400 " in client.recv(4096)


class TestBadAnswers:
    """What the provider sends instead of an answer becomes 502 in the caller's dialect."""

    FAULTS = {
        "html": ({"html": True}, 502),
        "html of a balancer": ({"html": 503}, 503),
        "half a JSON": ({"half_json": True}, 502),
        "nothing": ({"empty": True}, 502),
        "no answer": ({"no_answer": True}, 502),
        "a redirect": ({"redirect": True}, 502),
        "a redirect into the house": ({"redirect": "http://127.0.0.1:1/metadata"}, 502),
    }

    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_plain_call(self, http, gateway, customer, path, fault):
        fake, status = self.FAULTS[fault]

        error = error_of(http.post(path, json=body_of(path, customer, fake=fake)), status, path)

        assert "Upstream " in error["message"]
        if path in BOOKED:
            [row] = gateway.wait_booked(1, customer_id=customer)
            assert (row["status"], row["http_status"]) == ("failure", status)
            assert (row["cost"], row["usage_source"]) == (0, "none")
            assert gateway.total("customer", customer)["cost"] == 0

    @pytest.mark.parametrize("path", STREAMED)
    @pytest.mark.parametrize("fault", ["html", "html of a balancer", "no answer", "a redirect"])
    def test_a_stream_that_never_begins(self, http, gateway, customer, path, fault):
        fake, status = self.FAULTS[fault]

        error_of(http.post(path, json=body_of(path, customer, stream=True, fake=fake)), status, path)

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["status"], row["cost"]) == ("failure", 0)

    @pytest.mark.parametrize("path", STREAMED)
    @pytest.mark.parametrize("fake", [{"half_json": True}, {"empty": True}, {"cut_after": 3}])
    def test_a_stream_that_breaks_off_ends_with_an_error_event(self, http, gateway, customer, path, fake):
        body = body_of(path, customer, stream=True, fake={"output_tokens": 20, **fake})

        response = http.post(path, json=body)

        assert response.status_code == 200
        *_, last = [data for data in datas_of(response.text) if data != "[DONE]"]
        assert "Upstream " in last
        assert json.loads(last)  # an event of its own, even behind half of one
        if path == "/v1/messages":
            assert json.loads(last)["error"]["type"] == "api_error"
        else:
            assert "upstream_error" in last
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["status"], row["usage_source"]) == ("failure", "partial")

    def test_an_error_without_json_keeps_its_status(self, http, customer):
        error = error_of(http.post(CHAT, json=body_of(CHAT, fake={"html": 500})), 500, CHAT)

        assert "text/html" in error["message"]
        assert "<html" not in error["message"]

    def test_a_usage_that_is_nonsense_is_not_believed(self, http, gateway, customer):
        # OpenAI's cached tokens are part of the prompt's; the provider refuses to say otherwise.
        response = http.post(CHAT, json=body_of(CHAT, customer, fake={"input_tokens": 1, "cached_tokens": 9}))

        assert response.status_code == 400
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["cost"] == 0

    def test_the_gateway_serves_on(self, http: httpx.Client):
        assert http.post(CHAT, json=body_of(CHAT)).status_code == 200
        assert http.get("/health/readiness").json()["calls_under_way"] == 0


def test_no_prompt_and_no_key_is_in_the_log(http: httpx.Client, gateway: GatewayProcess) -> None:
    secret_text = "a prompt that is nobody's business"
    call: Callable[..., httpx.Response] = http.post

    for fake in ({}, {"status": 500}, {"html": True}, {"no_answer": True}):
        call(CHAT, json=body_of(CHAT, messages=[{"role": "user", "content": secret_text}], fake=fake))
    call(CHAT, content=b'{"messages": "' + secret_text.encode())

    log = gateway.log_text()
    assert not [text for text in (secret_text, gateway.master_key, "Bearer") if text in log]
    assert not [row for row in gateway.rows() if row["request_body"] or row["response_body"]]
