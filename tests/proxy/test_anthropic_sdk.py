"""The `anthropic` SDK through a real gateway: what it gets, and what is booked for it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

pytestmark = pytest.mark.processes

HELLO = [{"role": "user", "content": "Hello, how are you?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
USAGE = {
    "input_tokens": 10,
    "cached_tokens": 100,
    "cache_write_5m": 20,
    "cache_write_1h": 30,
    "output_tokens": 6,
}
COST = 10 * 1_000 + 100 * 100 + 20 * 1_250 + 30 * 2_000 + 6 * 5_000


@pytest.fixture
def options(gateway, customer) -> dict[str, Any]:
    return {
        "base_url": gateway.url,
        "api_key": gateway.master_key,
        "max_retries": 0,
        "timeout": 20,
        "default_headers": {"x-litellm-customer-id": customer},
    }


@pytest.fixture
def sdk(options) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(**options) as client:
        yield client


@pytest.fixture
def message(customer):
    """Return the arguments of a message that the provider bills under the customer's id."""

    def arguments(*, model: str = "claude-haiku-4-5", **fields: Any) -> dict[str, Any]:
        body = {"fake": {"tag": customer, **fields}}
        return {"model": model, "messages": HELLO, "max_tokens": 1_000, "extra_body": body}

    return arguments


class TestMessages:
    def test_a_plain_call_is_booked_as_billed(self, sdk, message, as_billed):
        answer = sdk.messages.create(**message(**USAGE))

        [row] = as_billed()
        assert answer.content[0].text == "tok1 tok2 tok3 tok4 tok5 tok6 "
        assert row["cost"] == COST
        assert (row["input_uncached"], row["cache_read"]) == (10, 100)
        assert (row["cache_write_5m"], row["cache_write_1h"]) == (20, 30)
        assert row["client_tool"] == "Anthropic SDK"
        assert row["service_tier"] == "standard"

    def test_a_stream_is_booked_as_billed(self, sdk, message, as_billed):
        events = list(sdk.messages.create(**message(**USAGE), stream=True))

        [row] = as_billed()
        assert [events[0].type, events[-1].type] == ["message_start", "message_stop"]
        assert row["cost"] == COST
        assert row["first_token_ms"] is not None

    @pytest.mark.parametrize("repeats", [False, True])
    def test_the_stream_helper_adds_it_up(self, sdk, message, as_billed, repeats):
        usage = {**USAGE, "repeat_input_usage": repeats}

        with sdk.messages.stream(**message(model="claude-haiku-4-5-20251001", **usage)) as stream:
            answer = stream.get_final_message()

        [row] = as_billed()
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 6)
        assert row["cost"] == COST
        assert row["upstream_model"] == "claude-haiku-4-5-20251001"

    @pytest.mark.parametrize("stream", [False, True])
    def test_thinking_tokens_land_in_a_bucket_of_their_own(self, sdk, message, as_billed, stream):
        answer = sdk.messages.create(**message(output_tokens=50, reasoning_tokens=30), stream=stream)
        if stream:
            list(answer)

        [row] = as_billed()
        assert (row["output_text"], row["reasoning"]) == (20, 30)

    @pytest.mark.parametrize("stream", [False, True])
    def test_web_searches_are_counted(self, sdk, message, gateway, customer, stream):
        answer = sdk.messages.create(**message(web_search_requests=2), stream=stream)
        if stream:
            list(answer)

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["web_searches"] == 2

    def test_a_tool_use_comes_through(self, sdk, message, as_billed):
        options = {**message(tool_call=True), "tools": [{"name": "look_up", "input_schema": CITY}]}

        plain = sdk.messages.create(**options)
        with sdk.messages.stream(**options) as stream:
            streamed = stream.get_final_message()

        as_billed(2)
        for answer in (plain, streamed):
            assert answer.stop_reason == "tool_use"
            assert answer.content[0].input["city"] == "Paris"

    def test_a_beta_call_takes_its_beta_upstream(self, sdk, message, as_billed, provider, customer):
        sdk.beta.messages.create(**message(**USAGE), betas=["context-1m-2025-08-07"])

        as_billed()
        [seen] = [
            request
            for request in provider.requests()
            if (request["body"] or {}).get("fake", {}).get("tag") == customer
        ]
        assert seen["headers"]["anthropic-beta"] == "context-1m-2025-08-07"
        assert "anthropic-version" in seen["headers"]

    def test_the_async_client_is_served_alike(self, options, message, as_billed):
        async def call() -> list[str]:
            async with anthropic.AsyncAnthropic(**options) as client:
                plain = await client.messages.create(**message(output_tokens=4))
                async with client.messages.stream(**message(output_tokens=4)) as stream:
                    streamed = await stream.get_final_message()
            return [plain.content[0].text, streamed.content[0].text]

        assert asyncio.run(call()) == ["tok1 tok2 tok3 tok4 "] * 2
        as_billed(2)

    def test_a_key_as_bearer_token_serves_as_well(self, options, message, as_billed):
        token = {"auth_token": options["api_key"], "api_key": None}
        with anthropic.Anthropic(**{**options, **token}) as client:
            client.messages.create(**message(**USAGE))

        as_billed()


class TestOtherRoutes:
    def test_counting_tokens_is_free_and_leaves_no_row(self, sdk, message, gateway, customer):
        arguments = message(input_tokens=123)
        del arguments["max_tokens"]

        counted = sdk.messages.count_tokens(**arguments)

        sdk.messages.create(**message())
        assert counted.input_tokens == 123
        [row] = gateway.wait_booked(1, customer_id=customer)
        assert row["dialect"] == "anthropic_messages"

    def test_models_come_in_anthropic_s_shape(self, sdk):
        page = sdk.models.list(limit=1000)

        names = [model.id for model in page.data]
        assert "claude-haiku-4-5" in names
        assert (page.first_id, page.last_id, page.has_more) == (names[0], names[-1], False)

    def test_one_model_is_found_and_another_is_not(self, sdk):
        assert sdk.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5"
        with pytest.raises(anthropic.NotFoundError, match="nothing-like-it"):
            sdk.models.retrieve("nothing-like-it")


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "error", "kind"),
        [
            (400, anthropic.BadRequestError, "invalid_request_error"),
            (404, anthropic.NotFoundError, "not_found_error"),
            (429, anthropic.RateLimitError, "rate_limit_error"),
            (500, anthropic.InternalServerError, "api_error"),
            (529, anthropic.InternalServerError, "overloaded_error"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_provider_s_error_is_passed_on_and_costs_nothing(
        self, sdk, message, gateway, customer, status, error, kind, stream
    ):
        with pytest.raises(error) as caught:
            sdk.messages.create(**message(status=status), stream=stream)

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert caught.value.status_code == status
        assert caught.value.body["error"]["type"] == row["error_type"] == kind
        assert (row["status"], row["http_status"], row["cost"]) == ("failure", status, 0)

    def test_our_own_refusals_are_written_as_anthropic_s(self, sdk, options, message):
        with (
            anthropic.Anthropic(**{**options, "api_key": "sk-nobody-knows-this"}) as stranger,
            pytest.raises(anthropic.AuthenticationError) as refused,
        ):
            stranger.messages.create(**message())
        with pytest.raises(anthropic.BadRequestError, match=r"/v1/messages.*no-such-model") as unknown:
            sdk.messages.create(**message(model="no-such-model"))

        assert refused.value.body["error"]["type"] == "authentication_error"
        assert unknown.value.body["error"]["type"] == "invalid_request_error"
        assert unknown.value.body["request_id"] == unknown.value.response.headers["x-litellm-call-id"]
