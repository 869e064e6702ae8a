"""
OpenAI chat completions: POST /v1/chat/completions. One choice, whatever `n` says.

`prompt_tokens` includes cached and written tokens, `completion_tokens` includes
reasoning. A stream carries usage only if `stream_options.include_usage` asks for it:
then `usage` is null on every chunk but an extra last one, whose `choices` is empty.

Source: openai-python, types/chat/chat_completion_chunk.py and types/completion_usage.py
"""

from typing import Any

from tests.provider import sse
from tests.provider.calls import Call
from tests.provider.dialects.openai_shared import (
    completion_usage,
    error_body,
    headers,
    model_body,
    models_body,
    wants_usage_chunk,
)

__all__ = ["body", "error_body", "events", "headers", "model_body", "models_body"]

NAME = "openai_chat"
ID_PREFIX = "chatcmpl-"
PROMPT_FIELDS = ("messages",)
MAXIMUM_FIELDS = ("max_completion_tokens", "max_tokens")
CAN_STREAM = True
CACHES = True
CACHES_1H = False
INPUT_INCLUDES_CACHE = True


def body(call: Call) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": call.text, "refusal": None, "annotations": []}
    if call.tool:
        message["content"] = None
        message["tool_calls"] = [{"id": tool_id(call), "type": "function", "function": call.tool}]
    answer = {
        **common(call, "chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(call)}],
    }
    if not call.fake.no_usage:
        answer["usage"] = completion_usage(call)
    return answer


def events(call: Call) -> sse.Frames:
    chunk = common(call, "chat.completion.chunk")
    has_usage = wants_usage_chunk(call)
    if has_usage:
        chunk["usage"] = None

    def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    start: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    if call.tool:
        function = {"name": call.tool["name"], "arguments": ""}
        start["content"] = None
        start["tool_calls"] = [{"index": 0, "id": tool_id(call), "type": "function", "function": function}]
    yield sse.data(choice(start)), False
    for piece in call.pieces:
        if call.tool:
            yield sse.data(choice({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})), True
        else:
            yield sse.data(choice({"content": piece})), True
    last = choice({}, finish_reason(call))
    if call.fake.usage_in_last_chunk and not call.fake.no_usage:
        yield sse.data({**last, "usage": completion_usage(call)}), False
    else:
        yield sse.data(last), False
        if has_usage:
            yield sse.data({**chunk, "choices": [], "usage": completion_usage(call)}), False
    yield b"data: [DONE]\n\n", False


def common(call: Call, kind: str) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model_in_response,
        "service_tier": call.fake.service_tier or "default",
        "system_fingerprint": "fp_fake",
    }


def tool_id(call: Call) -> str:
    return "call_" + call.request_id.removeprefix("req_")


def finish_reason(call: Call) -> str:
    return "tool_calls" if call.tool else "length" if call.was_cut_short else "stop"
