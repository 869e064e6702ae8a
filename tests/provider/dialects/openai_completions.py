"""
OpenAI text completions: POST /v1/completions. No cache, no tools; usage as in chat.

Source: openai-python, types/completion.py
"""

from typing import Any

from tests.provider import sse
from tests.provider.calls import Call
from tests.provider.dialects.openai_shared import error_body, headers, wants_usage_chunk

__all__ = ["body", "error_body", "events", "headers"]

NAME = "openai_completions"
ID_PREFIX = "cmpl-"
PROMPT_FIELDS = ("prompt",)
MAXIMUM_FIELDS = ("max_tokens",)
CAN_STREAM = True
CACHES = False
CACHES_1H = False
INPUT_INCLUDES_CACHE = True


def usage(call: Call) -> dict[str, int]:
    return {
        "prompt_tokens": call.input_tokens,
        "completion_tokens": call.output_tokens,
        "total_tokens": call.input_tokens + call.output_tokens,
    }


def body(call: Call) -> dict[str, Any]:
    answer = {**common(call), "choices": [choice(call.text, finish_reason(call))]}
    if not call.fake.no_usage:
        answer["usage"] = usage(call)
    return answer


def events(call: Call) -> sse.Frames:
    chunk = common(call)
    has_usage = wants_usage_chunk(call)
    if has_usage:
        chunk["usage"] = None
    for piece in call.pieces:
        yield sse.data({**chunk, "choices": [choice(piece, None)]}), True
    last = {**chunk, "choices": [choice("", finish_reason(call))]}
    if call.fake.usage_in_last_chunk and not call.fake.no_usage:
        yield sse.data({**last, "usage": usage(call)}), False
    else:
        yield sse.data(last), False
        if has_usage:
            yield sse.data({**chunk, "choices": [], "usage": usage(call)}), False
    yield b"data: [DONE]\n\n", False


def common(call: Call) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": "text_completion",
        "created": call.created,
        "model": call.model_in_response,
    }


def choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}


def finish_reason(call: Call) -> str:
    return "length" if call.was_cut_short else "stop"
