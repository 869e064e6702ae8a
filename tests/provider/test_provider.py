"""The fake provider against the real `openai` and `anthropic` SDKs, and its bill against sums by hand."""

import gzip
import http.client
import json
import subprocess
import sys
import tempfile
import time
import unittest
from fractions import Fraction
from pathlib import Path
from typing import Any

import anthropic
import openai

from tests.provider import ProviderProcess
from tests.provider.bill import cost_nano_usd
from tests.provider.process import PROJECT_ROOT

HELLO = [{"role": "user", "content": "Hello, how are you?"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}


def usage(**buckets: int) -> dict[str, int]:
    names = ("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning")
    return {**dict.fromkeys(names, 0), **buckets}


class ProviderTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.provider = ProviderProcess().start()
        cls.addClassCleanup(cls.provider.stop)
        cls.openai = openai.OpenAI(
            base_url=cls.provider.url + "/v1", api_key="sk-test", max_retries=0, timeout=10
        )
        cls.addClassCleanup(cls.openai.close)
        cls.anthropic = anthropic.Anthropic(
            base_url=cls.provider.url, api_key="sk-ant", max_retries=0, timeout=10
        )
        cls.addClassCleanup(cls.anthropic.close)

    def setUp(self):
        self.provider.reset()

    def chat(self, fake: dict[str, Any] | None = None, **options: Any):
        options = {"model": "gpt-4o-mini", "messages": HELLO, **options}
        return self.openai.chat.completions.create(**options, extra_body={"fake": fake or {}})

    def message(self, fake: dict[str, Any] | None = None, **options: Any):
        options = {"model": "claude-haiku-4-5", "messages": HELLO, "max_tokens": 1000, **options}
        return self.anthropic.messages.create(**options, extra_body={"fake": fake or {}})

    def raw(self, path: str, body: dict[str, Any]) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self.provider.url.removeprefix("http://"), timeout=10)
        self.addCleanup(connection.close)
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response, response.read()

    def only_entry(self) -> dict[str, Any]:
        [entry] = self.provider.settled_bill()["entries"]
        return entry


class OpenAIChatTests(ProviderTestCase):
    def test_it_answers_and_bills_a_plain_call(self):
        answer = self.chat({"input_tokens": 1_000, "output_tokens": 3, "tag": "t", "key": "k"}, user="alice")

        self.assertEqual(answer.choices[0].message.content, "tok1 tok2 tok3 ")
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.total_tokens, 1_003)
        entry = self.only_entry()
        self.assertEqual(entry["id"], answer.id)
        self.assertEqual(entry["request_id"], answer._request_id)
        self.assertEqual(entry["usage"], usage(input_uncached=1_000, output=3))
        self.assertEqual(entry["cost_nano_usd"], 1_000 * 150 + 3 * 600)
        self.assertEqual((entry["user"], entry["tag"], entry["key"]), ("alice", "t", "k"))
        self.assertEqual((entry["finished"], entry["aborted"], entry["billed"]), (True, False, True))

    def test_prompt_tokens_include_the_cached_and_output_the_reasoning_ones(self):
        fake = {"input_tokens": 100, "cached_tokens": 60, "output_tokens": 50, "reasoning_tokens": 40}

        answer = self.chat(fake, model="gpt-4o")

        self.assertEqual(answer.usage.prompt_tokens, 100)
        self.assertEqual(answer.usage.prompt_tokens_details.cached_tokens, 60)
        self.assertEqual(answer.usage.completion_tokens_details.reasoning_tokens, 40)
        entry = self.only_entry()
        self.assertEqual(entry["usage"], usage(input_uncached=40, cache_read=60, output=50, reasoning=40))
        self.assertEqual(entry["cost_nano_usd"], 40 * 2_500 + 60 * 1_250 + 50 * 10_000)

    def test_a_stream_tells_usage_only_when_asked(self):
        asked = list(self.chat({"output_tokens": 4}, stream=True, stream_options={"include_usage": True}))
        not_asked = list(self.chat({"output_tokens": 4}, stream=True))

        self.assertEqual(len(asked), 1 + 4 + 1 + 1)
        self.assertEqual(asked[-1].choices, [])
        self.assertEqual(asked[-1].usage.completion_tokens, 4)
        self.assertTrue(all("usage" in chunk.model_fields_set for chunk in asked))
        self.assertTrue(all(chunk.usage is None for chunk in asked[:-1]))
        self.assertEqual(len(not_asked), 1 + 4 + 1)
        self.assertTrue(all("usage" not in chunk.model_fields_set for chunk in not_asked))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in not_asked)
        self.assertEqual(text, "tok1 tok2 tok3 tok4 ")
        first, second = self.provider.settled_bill()["entries"]
        self.assertEqual(first["cost_nano_usd"], second["cost_nano_usd"])

    def test_usage_may_come_inside_the_last_chunk(self):
        chunks = list(
            self.chat({"usage_in_last_chunk": True}, stream=True, stream_options={"include_usage": True}),
        )

        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")
        self.assertEqual(chunks[-1].usage.completion_tokens, 20)

    def test_a_tool_call_is_streamed_in_pieces(self):
        tools = [{"type": "function", "function": {"name": "look_up", "parameters": WEATHER}}]

        plain = self.chat({"tool_call": True}, tools=tools)
        with self.openai.chat.completions.stream(
            model="gpt-4o-mini",
            messages=HELLO,
            tools=tools,
            extra_body={"fake": {"tool_call": True, "chunks": 5}},
        ) as stream:
            streamed = stream.get_final_completion()

        for answer in (plain, streamed):
            self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
            [call] = answer.choices[0].message.tool_calls
            self.assertEqual(call.function.name, "look_up")
            self.assertEqual(json.loads(call.function.arguments)["city"], "Paris")

    def test_crlf_splits_and_gzip_leave_the_answer_as_it_is(self):
        for fault in ({"crlf": True}, {"split": 7}, {"gzip": True}, {"gzip": True, "split": 5, "crlf": True}):
            with self.subTest(fault):
                fake = {"text": "größer als 5 €", "chunks": 4, **fault}
                chunks = list(self.chat(fake, stream=True, stream_options={"include_usage": True}))

                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
                self.assertEqual(text, "größer als 5 €")
                self.assertEqual(chunks[-1].usage.completion_tokens, 20)

    def test_the_request_s_maximum_limits_the_default_output(self):
        answer = self.chat(max_tokens=5)

        self.assertEqual(answer.usage.completion_tokens, 5)
        self.assertEqual(answer.choices[0].finish_reason, "length")

    def test_a_big_answer_has_that_many_bytes(self):
        answer = self.chat({"big": 3_000_000})

        self.assertEqual(len(answer.choices[0].message.content), 3_000_000)


class OtherOpenAITests(ProviderTestCase):
    def test_text_completions(self):
        fake = {"output_tokens": 2}
        options = {"model": "gpt-3.5-turbo-instruct", "prompt": "abcdefgh", "extra_body": {"fake": fake}}

        plain = self.openai.completions.create(**options)
        options |= {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(self.openai.completions.create(**options))

        self.assertEqual(plain.choices[0].text, "tok1 tok2 ")
        self.assertEqual(chunks[-1].usage.completion_tokens, 2)
        bill = self.provider.settled_bill()
        self.assertEqual(bill["total_nano_usd"], 2 * (2 * 1_500 + 2 * 2_000))

    def test_embeddings_say_the_same_in_both_encodings(self):
        options = {"model": "text-embedding-3-small", "input": ["abcdefgh", "abcd"], "dimensions": 8}

        encoded = self.openai.embeddings.create(**options)
        floats = self.openai.embeddings.create(**options, encoding_format="float")

        self.assertEqual(len(encoded.data), 2)
        self.assertEqual([item.embedding for item in encoded.data], [item.embedding for item in floats.data])
        self.assertEqual(len(encoded.data[0].embedding), 8)
        self.assertEqual(encoded.usage.prompt_tokens, 3)
        self.assertEqual(self.provider.bill()["total_nano_usd"], 2 * 3 * 20)

    def test_responses_plain_and_streamed(self):
        fake = {"input_tokens": 50, "cached_tokens": 20, "output_tokens": 8, "reasoning_tokens": 5}
        options = {"model": "gpt-4.1-mini", "input": "Hello", "extra_body": {"fake": fake}}

        plain = self.openai.responses.create(**options)
        events = list(self.openai.responses.create(**options, stream=True))

        self.assertEqual(plain.output_text, "".join(f"tok{number} " for number in range(1, 9)))
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        self.assertEqual(events[0].type, "response.created")
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        self.assertEqual("".join(deltas), plain.output_text)
        last = events[-1]
        self.assertEqual(last.type, "response.completed")
        self.assertEqual(last.response.output_text, plain.output_text)
        self.assertEqual(last.response.usage.input_tokens_details.cached_tokens, 20)
        self.assertEqual(last.response.usage.output_tokens_details.reasoning_tokens, 5)
        cost = 30 * 400 + 20 * 100 + 8 * 1_600
        self.assertEqual(self.provider.settled_bill()["total_nano_usd"], 2 * cost)

    def test_responses_call_a_function(self):
        options = {
            "model": "gpt-4.1-mini",
            "input": "Hello",
            "tools": [{"type": "function", "name": "look_up", "parameters": WEATHER, "strict": False}],
            "extra_body": {"fake": {"tool_call": {"name": "look_up", "arguments": {"city": "Oslo"}}}},
        }

        plain = self.openai.responses.create(**options)
        with self.openai.responses.stream(**options) as stream:
            streamed = stream.get_final_response()

        for answer in (plain, streamed):
            [item] = answer.output
            self.assertEqual((item.type, item.name), ("function_call", "look_up"))
            self.assertEqual(item.arguments, '{"city": "Oslo"}')

    def test_responses_stop_at_their_maximum_as_incomplete(self):
        options = {"model": "gpt-4o", "input": "Hi", "max_output_tokens": 16}
        events = list(self.openai.responses.create(**options, stream=True))

        self.assertEqual(events[-1].type, "response.incomplete")
        self.assertEqual(events[-1].response.incomplete_details.reason, "max_output_tokens")
        self.assertEqual(events[-1].response.usage.output_tokens, 16)

    def test_models(self):
        self.assertIn("gpt-4o-mini", [model.id for model in self.openai.models.list()])
        self.assertEqual(self.openai.models.retrieve("gpt-4o").id, "gpt-4o")
        self.assertIn("claude-sonnet-4-5", [model.id for model in self.anthropic.models.list()])


class AnthropicTests(ProviderTestCase):
    fake = {
        "input_tokens": 10,
        "cached_tokens": 100,
        "cache_write_5m": 20,
        "cache_write_1h": 30,
        "output_tokens": 6,
    }
    cost = 10 * 1_000 + 100 * 100 + 20 * 1_250 + 30 * 2_000 + 6 * 5_000

    def test_a_plain_call_leaves_cached_tokens_out_of_the_input(self):
        answer = self.message(self.fake, metadata={"user_id": "bob"})

        self.assertEqual(answer.content[0].text, "tok1 tok2 tok3 tok4 tok5 tok6 ")
        self.assertEqual((answer.usage.input_tokens, answer.usage.output_tokens), (10, 6))
        self.assertEqual(answer.usage.cache_read_input_tokens, 100)
        self.assertEqual(answer.usage.cache_creation_input_tokens, 20 + 30)
        self.assertEqual(answer.usage.cache_creation.ephemeral_1h_input_tokens, 30)
        entry = self.only_entry()
        self.assertEqual(entry["cost_nano_usd"], self.cost)
        self.assertEqual(entry["user"], "bob")
        self.assertEqual(entry["request_id"], answer._request_id)

    def test_a_stream_starts_with_the_input_and_ends_with_the_output(self):
        events = list(self.message(self.fake, stream=True))

        kinds = [event.type for event in events]
        self.assertEqual(kinds[:2], ["message_start", "content_block_start"])
        self.assertEqual(kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])
        self.assertEqual(events[0].message.usage.output_tokens, 1)
        self.assertEqual(events[0].message.usage.cache_read_input_tokens, 100)
        self.assertEqual(events[-2].usage.output_tokens, 6)
        self.assertIsNone(events[-2].usage.input_tokens)
        self.assertEqual(self.only_entry()["cost_nano_usd"], self.cost)

    def test_the_sdk_s_own_stream_helper_adds_it_up(self):
        fake = {**self.fake, "repeat_input_usage": True, "web_search_requests": 2, "reasoning_tokens": 3}
        with self.anthropic.messages.stream(
            model="claude-haiku-4-5-20251001", messages=HELLO, max_tokens=100, extra_body={"fake": fake}
        ) as stream:
            answer = stream.get_final_message()

        self.assertEqual(answer.content[0].text, "tok1 tok2 tok3 tok4 tok5 tok6 ")
        self.assertEqual((answer.usage.input_tokens, answer.usage.output_tokens), (10, 6))
        self.assertEqual(answer.usage.server_tool_use.web_search_requests, 2)
        self.assertEqual(self.only_entry()["cost_nano_usd"], self.cost)

    def test_a_tool_use_is_streamed_as_partial_json(self):
        tools = [{"name": "look_up", "input_schema": WEATHER}]
        fake = {"tool_call": True}

        plain = self.message(fake, tools=tools)
        with self.anthropic.messages.stream(
            model="claude-haiku-4-5", messages=HELLO, max_tokens=100, tools=tools, extra_body={"fake": fake}
        ) as stream:
            streamed = stream.get_final_message()

        for answer in (plain, streamed):
            self.assertEqual(answer.stop_reason, "tool_use")
            self.assertEqual(answer.content[0].name, "look_up")
            self.assertEqual(answer.content[0].input["city"], "Paris")

    def test_counting_tokens_is_free(self):
        counted = self.anthropic.messages.count_tokens(
            model="claude-haiku-4-5", messages=HELLO, extra_body={"fake": {"input_tokens": 12}}
        )
        beta = self.anthropic.beta.messages.create(model="claude-haiku-4-5", messages=HELLO, max_tokens=10)

        self.assertEqual(counted.input_tokens, 12)
        self.assertEqual([entry["id"] for entry in self.provider.bill()["entries"]], [beta.id])


class FailureTests(ProviderTestCase):
    def test_openai_errors_are_the_sdk_s_own_and_free(self):
        for status, kind in (
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (404, openai.NotFoundError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ):
            with self.subTest(status), self.assertRaises(kind) as caught:
                self.chat({"status": status}, stream=True)
            self.assertTrue(caught.exception.type)
        bill = self.provider.settled_bill()
        self.assertEqual([entry["billed"] for entry in bill["entries"]], [False] * 6)
        self.assertEqual(bill["total_nano_usd"], 0)

    def test_anthropic_errors_are_the_sdk_s_own_and_free(self):
        for status, kind in (
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (404, "not_found_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (529, "overloaded_error"),
        ):
            with self.subTest(status), self.assertRaises(anthropic.APIStatusError) as caught:
                self.message({"status": status, "retry_after": 7})
            self.assertEqual(caught.exception.status_code, status)
            self.assertEqual(caught.exception.body["error"]["type"], kind)
            retry_after = caught.exception.response.headers.get("retry-after")
            self.assertEqual(retry_after, "7" if status == 429 else None)
        self.assertEqual(self.provider.settled_bill()["total_nano_usd"], 0)

    def test_it_fails_the_first_times_of_a_key_and_then_succeeds(self):
        fake = {"fail_times": 2, "status": 503, "key": "a"}

        client = self.openai.with_options(max_retries=2)
        client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_body={"fake": fake})

        self.assertEqual([entry["status"] for entry in self.provider.bill()["entries"]], [503, 503, 200])
        with self.assertRaises(openai.InternalServerError):
            self.chat({"fail_times": 1, "key": "b"})

    def test_bodies_that_are_not_what_they_should_be(self):
        body = {"model": "gpt-4o", "messages": HELLO}
        for fake, status, content_type in (
            ({"html": True}, 200, "text/html; charset=utf-8"),
            ({"html": 502}, 502, "text/html; charset=utf-8"),
            ({"redirect": True}, 302, None),
            ({"empty": True}, 200, "application/json"),
        ):
            with self.subTest(fake):
                response, content = self.raw("/v1/chat/completions", {**body, "fake": fake})
                self.assertEqual(response.status, status)
                self.assertEqual(response.getheader("content-type"), content_type)
                if "html" not in fake:
                    self.assertEqual(content, b"")

        _, content = self.raw("/v1/chat/completions", {**body, "fake": {"half_json": True}})
        with self.assertRaises(ValueError):
            json.loads(content)
        response, content = self.raw("/chat/completions", {**body, "fake": {"gzip": True}})
        self.assertEqual(response.getheader("content-encoding"), "gzip")
        self.assertEqual(json.loads(gzip.decompress(content))["object"], "chat.completion")
        billed = [entry["billed"] for entry in self.provider.settled_bill()["entries"]]
        self.assertEqual(billed, [False, False, False, True, True, True])

    def test_no_answer_is_free_and_no_usage_is_not(self):
        with self.assertRaises(openai.APIConnectionError):
            self.chat({"no_answer": True})
        answer = self.chat({"no_usage": True})
        chunks = list(self.chat({"no_usage": True}, stream=True, stream_options={"include_usage": True}))

        self.assertIsNone(answer.usage)
        self.assertTrue(all(chunk.usage is None for chunk in chunks))
        bill = self.provider.settled_bill()
        self.assertEqual([entry["billed"] for entry in bill["entries"]], [False, True, True])
        self.assertEqual(bill["entries"][1]["usage"], bill["entries"][2]["usage"])

    def test_a_misspelt_or_contradictory_behaviour_is_refused(self):
        for fake in (
            {"ouput_tokens": 3},
            {"input_tokens": 5, "cached_tokens": 6},
            {"output_tokens": 1, "reasoning_tokens": 2},
        ):
            with self.subTest(fake), self.assertRaises(openai.BadRequestError):
                self.chat(fake)
        self.assertEqual(self.provider.bill()["entries"], [])

    def test_defaults_lie_under_each_request_s_own(self):
        self.provider.behave(status=500, output_tokens=7)

        with self.assertRaises(openai.InternalServerError):
            self.chat()
        answer = self.chat({"status": None})
        self.provider.behave()

        self.assertEqual(answer.usage.completion_tokens, 7)
        self.assertEqual(self.chat().usage.completion_tokens, 20)


class HangUpTests(ProviderTestCase):
    def test_a_stream_the_client_leaves_is_billed_up_to_there(self):
        fake = {"input_tokens": 100, "output_tokens": 100, "chunks": 50, "chunk_delay_ms": 20}
        stream = self.chat(fake, stream=True)
        for _ in range(6):  # the role, then five deltas of two tokens
            next(stream)
        open_entry = self.provider.bill()["entries"][0]
        self.assertEqual(self.provider.live(), 1)

        stream.close()
        left_at = time.time()

        entry = self.only_entry()
        self.assertFalse(open_entry["finished"])
        self.assertTrue(entry["aborted"])
        self.assertLess(entry["ended_at"] - left_at, 0.1)
        self.assertGreaterEqual(entry["usage"]["output"], 10)
        self.assertLess(entry["usage"]["output"], 40)
        self.assertEqual(entry["usage"]["output"] % 2, 0)
        self.assertEqual(entry["cost_nano_usd"], 100 * 150 + entry["usage"]["output"] * 600)
        self.assertEqual(self.provider.live(), 0)

    def test_a_hang_up_is_noticed_during_a_long_sleep(self):
        stream = self.message({"chunk_delay_ms": 60_000, "input_tokens": 9}, stream=True)
        next(stream)

        stream.close()

        entry = self.only_entry()
        self.assertTrue(entry["aborted"])
        self.assertEqual(entry["usage"], usage(input_uncached=9))

    def test_a_stream_cut_by_the_provider_is_billed_up_to_there(self):
        received = []
        with self.assertRaises(openai.APIError):
            for chunk in self.chat({"cut_after": 4, "output_tokens": 10}, stream=True):
                received.append(chunk)

        self.assertEqual(len(received), 4)
        entry = self.only_entry()
        self.assertTrue(entry["aborted"])
        self.assertEqual(entry["usage"]["output"], 3)

    def test_a_stream_that_falls_silent_keeps_the_connection(self):
        stream = self.chat({"hang_after": 3, "output_tokens": 10}, stream=True, timeout=0.3)
        received = []

        with self.assertRaises(openai.APIError):
            for chunk in stream:
                received.append(chunk)

        self.assertEqual(len(received), 3)
        self.assertEqual(self.only_entry()["usage"]["output"], 2)

    def test_a_plain_call_the_client_leaves_is_billed_in_full(self):
        for fake in ({"hang": True}, {"delay_ms": 60_000}):
            with self.subTest(fake), self.assertRaises(openai.APITimeoutError):
                self.chat({"input_tokens": 10, "output_tokens": 10, **fake}, timeout=0.2)

        for entry in self.provider.settled_bill()["entries"]:
            self.assertTrue(entry["aborted"])
            self.assertEqual(entry["cost_nano_usd"], 10 * 150 + 10 * 600)


class BillTests(unittest.TestCase):
    def test_a_dated_name_has_the_price_of_its_model_and_another_name_has_none(self):
        million = usage(input_uncached=1_000_000)

        self.assertEqual(cost_nano_usd("gpt-4o-mini-2024-07-18", million), 150_000_000)
        self.assertEqual(cost_nano_usd("claude-sonnet-4-5-20250929", million), 3_000_000_000)
        self.assertIsNone(cost_nano_usd("gpt-4o-audio-preview", million))

    def test_a_bucket_without_a_price_is_charged_as_input(self):
        self.assertEqual(cost_nano_usd("gpt-3.5-turbo-instruct", usage(cache_read=2)), 2 * 1_500)

    def test_the_cost_is_exact(self):
        buckets = usage(input_uncached=7, cache_read=11, cache_write_5m=13, cache_write_1h=17, output=19)
        by_hand = Fraction("3") * 7 + Fraction("0.3") * 11 + Fraction("3.75") * 13 + 6 * 17 + 15 * 19

        self.assertEqual(cost_nano_usd("claude-sonnet-4-5", buckets), by_hand * 1_000)


class ControlTests(ProviderTestCase):
    def test_requests_are_shown_as_they_arrived(self):
        self.chat(extra_headers={"x-some": "header"})
        self.chat(messages=[{"role": "user", "content": "x" * 70_000}], user="alice")

        small, large = self.provider.requests()
        self.assertEqual((small["method"], small["path"]), ("POST", "/v1/chat/completions"))
        self.assertEqual(small["headers"]["x-some"], "header")
        self.assertEqual(small["headers"]["authorization"], "Bearer sk-test")
        self.assertEqual(small["body"]["messages"], HELLO)
        self.assertIn("messages", large["body_keys"])
        self.assertEqual(large["body"], {"model": "gpt-4o-mini", "user": "alice"})
        self.assertGreater(large["body_length"], 70_000)

    def test_the_bill_can_be_asked_by_tag(self):
        self.chat({"tag": "a"}, model="no-such-model")
        self.chat({"tag": "b"})

        self.assertEqual(self.provider.bill()["count"], 2)
        self.assertEqual(self.provider.bill()["unpriced"], 1)
        self.assertEqual([entry["tag"] for entry in self.provider.bill(tag="b")["entries"]], ["b"])
        self.assertEqual(self.provider.bill(entries=False)["entries"], [])

    def test_the_bill_is_written_on_exit(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bill.json"
            with ProviderProcess(bill_file=path) as provider:
                client = openai.OpenAI(base_url=provider.url, api_key="sk", max_retries=0)
                client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
                shown = provider.bill()
                client.close()

            self.assertEqual(json.loads(path.read_text()), shown)

    def test_it_imports_the_standard_library_only(self):
        script = (
            "import sys, tests.provider.provider as p;"
            "own = {n.split('.')[0] for n in sys.modules} - sys.stdlib_module_names;"
            "print(*sorted(n for n in own if not n.startswith('_') and n != 'tests'))"
        )

        # -S: no site-packages, so that nothing of the environment's own start-up is counted.
        found = subprocess.run(
            [sys.executable, "-S", "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
        )

        self.assertEqual(found.stdout.split(), [])
