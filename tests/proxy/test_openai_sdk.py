"""The `openai` SDK through a real gateway: what it gets, and what is booked for it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.processes

HELLO = [{"role": "user", "content": "Hello, how are you?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture
def options(gateway, customer) -> dict[str, Any]:
    return {
        "base_url": f"{gateway.url}/v1",
        "api_key": gateway.master_key,
        "max_retries": 0,
        "timeout": 20,
        "default_headers": {"x-litellm-customer-id": customer},
    }


@pytest.fixture
def sdk(options) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**options) as client:
        yield client


@pytest.fixture
def fake(customer):
    """Return the `extra_body` that makes the provider behave, and bill under the customer's id."""
    return lambda **fields: {"fake": {"tag": customer, **fields}}


class TestChatCompletions:
    def test_a_plain_call_is_booked_as_billed(self, sdk, fake, as_billed):
        answer = sdk.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, extra_body=fake(input_tokens=1_000, output_tokens=3)
        )

        [row] = as_billed()
        assert answer.choices[0].message.content == "tok1 tok2 tok3 "
        assert answer.usage.total_tokens == 1_003
        assert row["cost"] == 1_000 * 150 + 3 * 600
        assert row["client_tool"] == "OpenAI SDK"
        assert row["model"] == row["upstream_model"] == "gpt-4o-mini"

    def test_cached_written_and_reasoning_tokens_land_in_buckets_of_their_own(self, sdk, fake, as_billed):
        usage = {"input_tokens": 900, "cached_tokens": 500, "cache_write_5m": 100}
        usage |= {"output_tokens": 70, "reasoning_tokens": 40}

        sdk.chat.completions.create(model="gpt-4o", messages=HELLO, extra_body=fake(**usage))

        [row] = as_billed()
        assert (row["input_uncached"], row["cache_read"], row["cache_write_5m"]) == (300, 500, 100)
        assert (row["output_text"], row["reasoning"]) == (30, 40)
        assert row["cost"] == (300 + 100) * 2_500 + 500 * 1_250 + (30 + 40) * 10_000

    def test_a_half_nano_dollar_is_rounded_as_the_provider_rounds(self, sdk, fake, as_billed):
        # 0.075 USD per million cached tokens: an odd number of them ends in half a nano-dollar.
        usage = {"input_tokens": 1_001, "cached_tokens": 1_001, "output_tokens": 0, "text": ""}

        for _ in range(2):
            sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, extra_body=fake(**usage))

        assert [row["cost"] for row in as_billed(2)] == [1_001 * 75] * 2

    def test_a_tool_call_comes_through(self, sdk, fake, as_billed):
        tools = [{"type": "function", "function": {"name": "look_up", "parameters": CITY}}]
        options = {"model": "gpt-4o-mini", "messages": HELLO, "tools": tools}

        plain = sdk.chat.completions.create(**options, extra_body=fake(tool_call=True))
        with sdk.chat.completions.stream(**options, extra_body=fake(tool_call=True)) as stream:
            streamed = stream.get_final_completion()

        for answer in (plain, streamed):
            [call] = answer.choices[0].message.tool_calls
            assert call.function.name == "look_up"
            assert "Paris" in call.function.arguments
        as_billed(2)

    def test_a_stream_is_booked_though_the_client_did_not_ask_for_its_usage(self, sdk, fake, as_billed):
        usage = {"input_tokens": 500, "cached_tokens": 200, "output_tokens": 12, "reasoning_tokens": 5}

        chunks = list(
            sdk.chat.completions.create(
                model="gpt-4o-mini", messages=HELLO, stream=True, extra_body=fake(**usage)
            )
        )

        [row] = as_billed()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == "".join(f"tok{number} " for number in range(1, 13))
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        assert row["first_token_ms"] is not None
        assert row["first_token_ms"] <= row["latency_ms"]

    def test_a_stream_gives_its_usage_to_a_client_that_asks(self, sdk, fake, as_billed):
        chunks = list(
            sdk.chat.completions.create(
                model="gpt-4o-mini",
                messages=HELLO,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=fake(input_tokens=500, output_tokens=12),
            )
        )

        as_billed()
        assert chunks[-1].choices == []
        assert chunks[-1].usage.total_tokens == 512

    def test_the_async_client_is_served_alike(self, options, fake, as_billed):
        async def call() -> list[Any]:
            async with openai.AsyncOpenAI(**options) as client:
                plain = client.chat.completions.create(
                    model="gpt-4o-mini", messages=HELLO, extra_body=fake(output_tokens=4)
                )
                answer = await plain
                stream = await client.chat.completions.create(
                    model="gpt-4o-mini", messages=HELLO, stream=True, extra_body=fake(output_tokens=4)
                )
                text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                return [answer.choices[0].message.content, text]

        assert asyncio.run(call()) == ["tok1 tok2 tok3 tok4 "] * 2
        assert [row["client_tool"] for row in as_billed(2)] == ["OpenAI SDK"] * 2

    def test_many_calls_at_once_are_each_booked_once(self, options, fake, as_billed, gateway, customer):
        async def call() -> None:
            async with openai.AsyncOpenAI(**options) as client:
                await asyncio.gather(
                    *(
                        client.chat.completions.create(
                            model="gpt-4o-mini",
                            messages=HELLO,
                            extra_body=fake(input_tokens=100 + number, output_tokens=1, delay_ms=5),
                        )
                        for number in range(40)
                    )
                )

        asyncio.run(call())

        rows = gateway.wait_booked(40, customer_id=customer)
        assert sorted(row["input_uncached"] for row in rows) == list(range(100, 140))
        total = gateway.total("customer", customer)
        assert (total["calls"], total["cost"]) == (40, sum(range(100, 140)) * 150 + 40 * 600)


class TestOtherRoutes:
    def test_text_completions_plain_and_streamed(self, sdk, fake, as_billed):
        options = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon"}

        plain = sdk.completions.create(**options, extra_body=fake(input_tokens=7, output_tokens=3))
        chunks = list(
            sdk.completions.create(**options, stream=True, extra_body=fake(input_tokens=7, output_tokens=3))
        )

        rows = as_billed(2)
        assert (
            plain.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == "tok1 tok2 tok3 "
        )
        assert {row["cost"] for row in rows} == {7 * 1_500 + 3 * 2_000}

    def test_embeddings_in_both_encodings(self, sdk, fake, as_billed):
        options = {"model": "text-embedding-3-small", "input": ["one", "two"], "dimensions": 8}

        encoded = sdk.embeddings.create(**options, extra_body=fake(input_tokens=11))
        floats = sdk.embeddings.create(**options, encoding_format="float", extra_body=fake(input_tokens=11))

        rows = as_billed(2)
        assert [item.embedding for item in encoded.data] == [item.embedding for item in floats.data]
        assert [row["cost"] for row in rows] == [11 * 20] * 2

    def test_responses_plain_and_streamed(self, sdk, fake, as_billed):
        usage = {"input_tokens": 50, "cached_tokens": 20, "cache_write_5m": 5}
        usage |= {"output_tokens": 8, "reasoning_tokens": 6}
        options = {"model": "gpt-4.1-mini", "input": "Hello", "extra_body": fake(**usage)}

        plain = sdk.responses.create(**options)
        events = list(sdk.responses.create(**options, stream=True))

        rows = as_billed(2)
        assert plain.output_text == events[-1].response.output_text
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert {row["cost"] for row in rows} == {(25 + 5) * 400 + 20 * 100 + 8 * 1_600}

    def test_responses_call_a_function(self, sdk, fake, as_billed):
        tools = [{"type": "function", "name": "look_up", "parameters": CITY, "strict": False}]

        with sdk.responses.stream(
            model="gpt-4.1-mini", input="Hello", tools=tools, extra_body=fake(tool_call=True)
        ) as stream:
            [item] = stream.get_final_response().output

        as_billed()
        assert (item.type, item.name) == ("function_call", "look_up")

    def test_a_response_that_is_cut_short_is_booked_with_what_it_used(self, sdk, fake, as_billed):
        events = list(
            sdk.responses.create(
                model="gpt-4o", input="Hi", max_output_tokens=16, stream=True, extra_body=fake(chunks=4)
            )
        )

        [row] = as_billed()
        assert events[-1].type == "response.incomplete"
        assert row["output_text"] == 16


class TestModels:
    def test_the_list_has_the_priced_models_of_each_deployment(self, sdk):
        names = [model.id for model in sdk.models.list()]

        assert {"gpt-4o-mini", "text-embedding-3-small", "demo"} <= set(names)
        assert names == sorted(names)

    def test_one_model_is_found(self, sdk):
        assert sdk.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"

    def test_a_model_behind_a_wildcard_is_found_although_nobody_prices_it(self, sdk):
        assert sdk.models.retrieve("gpt-of-next-year").id == "gpt-of-next-year"

    def test_an_unknown_model_is_not_found(self, sdk):
        with pytest.raises(openai.NotFoundError, match="nothing-like-it"):
            sdk.models.retrieve("nothing-like-it")


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, openai.BadRequestError),
            (404, openai.NotFoundError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_provider_s_error_is_passed_on_and_costs_nothing(
        self, sdk, fake, gateway, customer, status, error, stream
    ):
        with pytest.raises(error) as caught:
            sdk.chat.completions.create(
                model="gpt-4o-mini", messages=HELLO, stream=stream, extra_body=fake(status=status)
            )

        [row] = gateway.wait_booked(1, customer_id=customer)
        assert caught.value.status_code == status
        assert caught.value.type == row["error_type"]
        assert (row["status"], row["http_status"]) == ("failure", status)
        assert (row["cost"], row["usage_source"]) == (0, "none")
        assert gateway.total("customer", customer)["failed_calls"] == 1

    def test_retry_after_reaches_the_client(self, sdk, fake):
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.chat.completions.create(
                model="gpt-4o-mini", messages=HELLO, extra_body=fake(status=429, retry_after=7)
            )

        assert caught.value.response.headers["retry-after"] == "7"

    def test_the_provider_s_refusal_of_our_key_is_not_said_to_be_the_client_s(self, sdk, fake):
        with pytest.raises(openai.AuthenticationError, match="refused the gateway's credential"):
            sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, extra_body=fake(status=401))

    def test_our_own_refusals_are_the_sdk_s_errors(self, sdk, options):
        with (
            openai.OpenAI(**{**options, "api_key": "sk-nobody-knows-this"}) as stranger,
            pytest.raises(openai.AuthenticationError, match="Invalid proxy server token"),
        ):
            stranger.models.list()
        with pytest.raises(openai.BadRequestError, match=r"/v1/chat/completions.*no-such-model") as caught:
            sdk.chat.completions.create(model="no-such-model", messages=HELLO)

        assert (caught.value.code, caught.value.param) == ("400", "model")
