"""
Streams in passing: usage read from every form they take, bytes left as they are (invariant C3).
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.comparing import assert_is_as_billed
from tests.gateway import GatewayProcess
from tests.provider import ProviderProcess

pytestmark = pytest.mark.processes

MODELS = {
    "/v1/chat/completions": "gpt-4o-mini",
    "/v1/completions": "gpt-3.5-turbo-instruct",
    "/v1/responses": "gpt-4.1-mini",
    "/v1/messages": "claude-haiku-4-5",
}
ROUTES = tuple(MODELS)
WITH_USAGE_CHUNK = ROUTES[:2]
CHAT = "/v1/chat/completions"


@pytest.fixture
def body(customer: str) -> Callable[..., dict[str, Any]]:
    def make(path: str = CHAT, **fields: Any) -> dict[str, Any]:
        fake = {"tag": customer, "input_tokens": 100, "output_tokens": 7, **fields.pop("fake", {})}
        words = {"prompt": "Hi", "input": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
        common = {"model": MODELS[path], "stream": True, "max_tokens": 50, "user": customer}
        return {**common, **words, "fake": fake, **fields}

    return make


@pytest.fixture
def direct(provider) -> Iterator[httpx.Client]:
    """A client that calls the provider itself."""
    with httpx.Client(base_url=provider.url, trust_env=False, verify=False, timeout=30) as client:
        yield client


def steady(stream: bytes) -> bytes:
    """Return a stream without what differs from call to call: times and the numbers in ids."""
    stream = re.sub(rb'"(created|created_at|completed_at)":\d+', rb'"\1":0', stream)
    return re.sub(rb"[0-9a-f]{24}", b"0", stream)


def chunks_of(stream: bytes) -> list[Any]:
    """Return the JSON of each event that has some."""
    lines = [line[6:] for line in stream.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


class TestBytes:
    ODD = 'Zażółć gęślą jaźń 🦔 \u2028 <&>\\ "quoted" \n\n data: [DONE]\n\n'

    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize(
        "fake",
        [{}, {"crlf": True}, {"split": 1}, {"split": 7, "crlf": True}, {"tool_call": True}, {"text": ODD}],
        ids=["plain", "crlf", "split", "split crlf", "tool", "odd text"],
    )
    def test_they_are_the_provider_s_where_the_client_asks_for_usage(self, http, direct, body, path, fake):
        call = body(path, fake=fake, stream_options={"include_usage": True})

        ours, theirs = http.post(path, json=call), direct.post(path, json=call)

        assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert steady(ours.content) == steady(theirs.content)

    @pytest.mark.parametrize("path", WITH_USAGE_CHUNK)
    @pytest.mark.parametrize("fake", [{}, {"crlf": True}, {"split": 3}], ids=["plain", "crlf", "split"])
    def test_only_the_usage_chunk_is_taken_out_where_it_does_not(self, http, direct, body, path, fake):
        ours = http.post(path, json=body(path, fake=fake)).content
        theirs = direct.post(path, json=body(path, fake=fake, stream_options={"include_usage": True})).content

        end = b"\r\n\r\n" if "crlf" in fake else b"\n\n"
        events = [event for event in theirs.split(end) if b'"choices":[]' not in event]
        assert steady(ours) == steady(end.join(events))
        assert len(theirs.split(end)) == len(events) + 1

    def test_the_client_s_other_stream_options_are_kept(self, http, body, provider):
        http.post(CHAT, json=body(stream_options={"include_obfuscation": False}))

        sent = provider.requests()[-1]["body"]["stream_options"]
        assert sent == {"include_obfuscation": False, "include_usage": True}

    def test_one_that_declines_usage_does_not_get_it(self, http, body, as_billed):
        stream = http.post(CHAT, json=body(stream_options={"include_usage": False})).content

        assert all(chunk["choices"] for chunk in chunks_of(stream))
        as_billed()

    def test_a_compressed_stream_arrives_uncompressed(self, http, body, as_billed):
        response = http.post(CHAT, json=body(fake={"gzip": True, "split": 5}))

        as_billed()
        assert "content-encoding" not in response.headers
        text = "".join(
            chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(response.content)
        )
        assert text == "tok1 tok2 tok3 tok4 tok5 tok6 tok7 "


class TestUsage:
    FORMS = (
        {},
        {"crlf": True},
        {"split": 1},
        {"split": 10, "crlf": True},
        {"gzip": True},
        {"usage_in_last_chunk": True},
        {"usage_in_last_chunk": True, "split": 4},
        {"repeat_input_usage": True},
        {"tool_call": True},
        {"chunks": 1},
        {"text": "", "output_tokens": 0},
    )

    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("fake", FORMS, ids=str)
    def test_it_is_booked_as_billed_in_every_form(self, http, body, as_billed, path, fake):
        usage = {"input_tokens": 321, "output_tokens": 40}
        if path != "/v1/completions":
            usage |= {"cached_tokens": 100, "cache_write_5m": 10, "reasoning_tokens": 5}
        if fake.get("output_tokens") == 0:
            usage |= {"reasoning_tokens": 0}

        assert http.post(path, json=body(path, fake={**usage, **fake})).status_code == 200

        as_billed()

    @pytest.mark.parametrize("path", WITH_USAGE_CHUNK)
    def test_usage_in_the_last_content_chunk_is_not_taken_out(self, http, body, path):
        stream = http.post(path, json=body(path, fake={"usage_in_last_chunk": True})).content

        *_, last = chunks_of(stream)
        assert last["choices"][0]["finish_reason"] == "stop"
        assert last["usage"]["completion_tokens"] == 7

    @pytest.mark.parametrize("path", ROUTES)
    def test_none_at_all_is_estimated_and_says_so(self, http, gateway, provider, customer, body, path):
        http.post(path, json=body(path, fake={"no_usage": True, "output_tokens": 12}))

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert (row["status"], row["usage_source"]) == ("success", "estimated")
        assert row["output_text"] > 0
        assert row["input_uncached"] > 0
        assert row["cost"] > 0

    def test_an_estimate_learns_from_calls_that_told(self, make_gateway, customer, provider):
        gateway = make_gateway()
        headers = {"authorization": f"Bearer {gateway.master_key}", "x-litellm-customer-id": customer}
        body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "x" * 4_000}]}
        told = {"tag": customer, "input_tokens": 900, "output_tokens": 60, "chunks": 20}

        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client:
            for fake in (told, {**told, "no_usage": True}):
                client.post(CHAT, json={**body, "fake": fake})

        first, second = gateway.wait_booked(2, customer_id=customer)
        assert [first["usage_source"], second["usage_source"]] == ["provider", "estimated"]
        assert abs(second["cost"] - first["cost"]) < 0.05 * first["cost"]

    def test_a_plain_answer_without_usage_is_estimated_too(self, http, gateway, customer, body):
        response = http.post(CHAT, json=body(stream=False, fake={"no_usage": True}))

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["usage_source"] == "estimated"
        assert float(response.headers["x-litellm-response-cost"]) > 0

    @pytest.mark.parametrize("path", ROUTES)
    def test_a_compressed_plain_answer_is_read(self, http, body, as_billed, path):
        response = http.post(path, json=body(path, stream=False, fake={"gzip": True}))

        as_billed()
        assert response.json()
        assert "content-encoding" not in response.headers

    def test_an_answer_above_the_buffer_passes_and_is_metered(self, http, body, as_billed):
        response = http.post(CHAT, json=body(stream=False, fake={"big": 9_000_000}))

        as_billed()
        assert len(response.json()["choices"][0]["message"]["content"]) == 9_000_000
        assert "x-litellm-response-cost" not in response.headers

    def test_a_large_stream_passes_and_is_metered(self, http, body, as_billed):
        response = http.post(CHAT, json=body(fake={"big": 3_000_000, "chunks": 30}))

        as_billed()
        assert len(response.content) > 3_000_000


class TestTime:
    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("asks", [False, True])
    def test_chunks_arrive_one_by_one(self, http, gateway, provider, customer, body, path, asks):
        options = {"stream_options": {"include_usage": True}} if asks else {}
        call = body(path, **options, fake={"chunks": 4, "chunk_delay_ms": 40})

        with http.stream("POST", path, json=call) as response:
            arrived = []
            for _ in response.iter_raw():
                arrived.append(time.monotonic())
                if len(arrived) == 1:
                    [entry] = provider.bill(tag=customer)["entries"]
                    assert not entry["finished"]

        assert len(arrived) >= 4
        assert arrived[-1] - arrived[0] >= 0.1
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["first_token_ms"] < row["latency_ms"] - 50

    def test_a_stream_with_pauses_is_one_call(self, http, gateway, provider, customer, body):
        http.post(CHAT, json=body(fake={"chunks": 3, "delay_ms": 100, "chunk_delay_ms": 100}))

        [row] = gateway.wait_booked(1, customer_id=customer)
        [entry] = provider.settled_bill(tag=customer)["entries"]
        assert_is_as_billed(row, entry)
        assert row["first_token_ms"] >= 100
        assert row["latency_ms"] >= 400


class TestClientLeaves:
    @pytest.mark.parametrize("path", ROUTES)
    def test_the_call_is_read_to_its_end_and_booked_as_billed(self, http, as_billed, body, path):
        call = body(path, fake={"chunks": 5, "chunk_delay_ms": 40})

        with http.stream("POST", path, json=call) as response:
            next(response.iter_raw())

        [row] = as_billed()
        assert row["client_left"] is True

    def test_beyond_the_grace_it_is_cut_and_booked_by_what_was_seen(
        self, make_gateway, customer, provider, body
    ):
        gateway = make_gateway(DISCONNECT_GRACE_SECONDS=0.2)
        call = body(fake={"output_tokens": 1_000, "chunks": 1_000, "chunk_delay_ms": 20})
        headers = {"authorization": f"Bearer {gateway.master_key}"}

        with (
            httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client,
            client.stream("POST", CHAT, json=call) as response,
        ):
            next(response.iter_raw())

        [row] = gateway.wait_booked(1, customer_id=customer)
        [entry] = provider.settled_bill(tag=customer)["entries"]
        assert (row["status"], row["usage_source"]) == ("failure", "partial")
        assert (row["http_status"], row["error_type"]) == (499, "client_disconnect")
        assert entry["aborted"]
        assert 0 < row["output_text"] <= entry["usage"]["output"] + 1

    def test_a_plain_call_is_read_to_its_end_too(self, http, as_billed, body):
        call = body(stream=False, fake={"delay_ms": 400})

        with pytest.raises(httpx.ReadTimeout):
            http.post(CHAT, json=call, timeout=httpx.Timeout(5, read=0.1))

        as_billed()


@pytest.fixture(scope="module")
def client_that_gets_costs(provider: ProviderProcess) -> Iterator[httpx.Client]:
    with GatewayProcess(provider=provider, INCLUDE_COST_IN_STREAMING_USAGE="true") as gateway:
        headers = {"authorization": f"Bearer {gateway.master_key}"}
        with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, verify=False) as client:
            yield client


class TestCostInTheStream:
    @pytest.mark.parametrize("path", ROUTES)
    @pytest.mark.parametrize("fake", [{}, {"crlf": True, "split": 9}], ids=["plain", "split crlf"])
    def test_the_usage_event_carries_the_cost(
        self, client_that_gets_costs, provider, customer, body, path, fake
    ):
        call = body(path, stream_options={"include_usage": True}, fake=fake)

        stream = client_that_gets_costs.post(path, json=call).content

        [entry] = provider.settled_bill(tag=customer)["entries"]
        costs = re.findall(rb'"cost":([0-9.]+)', stream)
        assert [round(float(cost) * 10**9) for cost in costs] == [entry["cost_nano_usd"]]
        assert chunks_of(stream)
