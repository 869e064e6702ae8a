"""
Anthropic messages: POST /v1/messages.

`input_tokens` leaves out cache reads and writes, which have fields of their own;
`output_tokens` includes thinking. In a stream message_start tells the input side with
a provisional output of 1, and message_delta the output so far: the last one counts.

Source: anthropic-sdk-python, types/usage.py, types/raw_message_*_event.py
"""

import json
from typing import Any

from tests.provider import sse
from tests.provider.calls import Call

NAME = "anthropic_messages"
ID_PREFIX = "msg_"
PROMPT_FIELDS = ("system", "messages")
MAXIMUM_FIELDS = ("max_tokens",)
CAN_STREAM = True
CACHES = True
CACHES_1H = True
INPUT_INCLUDES_CACHE = False

RATE_LIMITS = (
    b"anthropic-organization-id: fake-provider\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\n"
    b"anthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2030-01-01T00:00:00Z\r\n"
    b"anthropic-ratelimit-tokens-limit: 400000\r\n"
    b"anthropic-ratelimit-tokens-remaining: 399000\r\n"
    b"anthropic-ratelimit-tokens-reset: 2030-01-01T00:00:00Z\r\n"
)
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def headers(call: Call) -> bytes:
    return RATE_LIMITS + f"request-id: {call.request_id}\r\n".encode()


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    error = {"type": ERRORS.get(status, "api_error"), "message": message}
    return {"type": "error", "error": error, "request_id": request_id}


def model_body(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2025-09-29T00:00:00Z",
        "lifecycle": "active",
    }


def models_body(names: list[str]) -> dict[str, Any]:
    own = [name for name in names if name.startswith("claude")]
    return {
        "data": [model_body(name) for name in own],
        "has_more": False,
        "first_id": own[0],
        "last_id": own[-1],
    }


def input_usage(call: Call) -> dict[str, Any]:
    return {
        "input_tokens": call.input_tokens,
        "cache_creation_input_tokens": call.cache_write_5m + call.cache_write_1h,
        "cache_read_input_tokens": call.cache_read,
    }


def output_usage(call: Call) -> dict[str, Any]:
    usage: dict[str, Any] = {"output_tokens": call.output_tokens}
    if call.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": call.reasoning_tokens}
    if call.fake.web_search_requests:
        usage["server_tool_use"] = {
            "web_search_requests": call.fake.web_search_requests,
            "web_fetch_requests": 0,
        }
    return usage


def first_usage(call: Call) -> dict[str, Any]:
    """Return what message_start and a plain body say besides the output."""
    return {
        **input_usage(call),
        "cache_creation": {
            "ephemeral_5m_input_tokens": call.cache_write_5m,
            "ephemeral_1h_input_tokens": call.cache_write_1h,
        },
        "service_tier": call.fake.service_tier or "standard",
    }


def message(call: Call, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    whole = {
        "id": call.id,
        "type": "message",
        "role": "assistant",
        "model": call.model_in_response,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
    }
    return whole if call.fake.no_usage else {**whole, "usage": usage}


def body(call: Call) -> dict[str, Any]:
    if call.tool:
        block = {**tool_block(call), "input": json.loads(call.tool["arguments"])}
    else:
        block = {"type": "text", "text": call.text}
    whole = message(call, [block], {**first_usage(call), **output_usage(call)})
    whole["stop_reason"] = stop_reason(call)
    return whole


def events(call: Call) -> sse.Frames:
    start = message(call, [], {**first_usage(call), "output_tokens": min(1, call.output_tokens)})
    yield sse.event({"type": "message_start", "message": start}), False
    block = tool_block(call) if call.tool else {"type": "text", "text": ""}
    yield sse.event({"type": "content_block_start", "index": 0, "content_block": block}), False
    yield sse.event({"type": "ping"}), False
    if call.tool:  # the real one begins with an empty delta
        yield sse.event(block_delta({"type": "input_json_delta", "partial_json": ""})), False
    for piece in call.pieces:
        if call.tool:
            yield sse.event(block_delta({"type": "input_json_delta", "partial_json": piece})), True
        else:
            yield sse.event(block_delta({"type": "text_delta", "text": piece})), True
    yield sse.event({"type": "content_block_stop", "index": 0}), False
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason(call), "stop_sequence": None},
    }
    if not call.fake.no_usage:
        repeated = input_usage(call) if call.fake.repeat_input_usage or call.fake.web_search_requests else {}
        end["usage"] = {**repeated, **output_usage(call)}
    yield sse.event(end), False
    yield sse.event({"type": "message_stop"}), False


def block_delta(delta: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": delta}


def tool_block(call: Call) -> dict[str, Any]:
    tool_id = "toolu_" + call.request_id.removeprefix("req_")
    return {"type": "tool_use", "id": tool_id, "name": call.tool["name"], "input": {}}


def stop_reason(call: Call) -> str:
    return "tool_use" if call.tool else "max_tokens" if call.was_cut_short else "end_turn"
