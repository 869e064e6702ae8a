"""
Anthropic Messages: POST /v1/messages.

`input_tokens` leaves out cached reads and writes, so nothing is subtracted there.
Thinking is inside `output_tokens`; `output_tokens_details` says how much of it. In a
stream `message_start` has the input side and a provisional output, `message_delta`
the cumulative output (the last one wins; newer servers repeat the input side there).
Source: anthropic-sdk-python, src/anthropic/types/usage.py, message_delta_usage.py,
output_tokens_details.py; errors: docs, "Errors"
"""

from typing import Any

import msgspec

from billing.usage import Usage
from proxy.dialects import base, bounds
from proxy.dialects.base import UNREADABLE, Answer, Ask, UnreadableAnswer, edited
from proxy.errors import GatewayError
from proxy.identification import Said

__all__ = ["edited"]

NAME = "anthropic_messages"
UPSTREAM_PATH = "/v1/messages"
BILLABLE = True
HAS_OUTPUT = True

unbounded = bounds.in_messages

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class _Call(msgspec.Struct):
    model: str | None = None
    stream: bool | None = False
    max_tokens: Any = None
    user: Any = None
    metadata: Any = None
    litellm_metadata: Any = None
    safety_identifier: Any = None
    tags: Any = None
    cache: base.CacheControl | None = None
    service_tier: Any = None


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = 0
    ephemeral_1h_input_tokens: int | None = 0


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _ServerToolUse(msgspec.Struct):
    web_search_requests: int | None = 0


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None
    server_tool_use: _ServerToolUse | None = None
    service_tier: str | None = ""
    speed: Any = None
    inference_geo: Any = None


class _Message(msgspec.Struct):
    id: str | None = ""
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Event(msgspec.Struct):
    type: str | None = ""
    message: _Message | None = None
    usage: _Usage | None = None
    delta: _Delta | None = None


_call = msgspec.json.Decoder(_Call)
_message = msgspec.json.Decoder(_Message)
_event = msgspec.json.Decoder(_Event)


def base_url(target: Any) -> str:
    return target.anthropic_base_url


def credential_headers(target: Any) -> list[tuple[bytes, bytes]]:
    if not target.credential:
        return []
    return [(b"x-api-key", target.credential.encode("latin-1", "ignore"))]


def read_call(body: bytes, model: str | None = None) -> Ask:
    """Raises: BadCall."""
    call = base.decode(_call, body)
    return Ask(
        model=base.model_of(call.model, model),
        body_model=call.model,
        streamed=bool(call.stream),
        body=body,
        said=Said(
            call.user, call.metadata, call.litellm_metadata, call.safety_identifier, call.tags, call.cache
        ),
        max_output_tokens=base.positive(call.max_tokens),
        service_tier=base.short(call.service_tier),
    )


def output_limit_field(target: Any) -> str:
    return "max_tokens"


def read_answer(data: bytes) -> Answer:
    """Raises: UnreadableAnswer."""
    try:
        message = _message.decode(data)
    except UNREADABLE as error:
        raise UnreadableAnswer(str(error)) from error
    said = message.usage
    if said is None or said.input_tokens is None:
        return Answer(None, message.id or "")
    return Answer(_buckets(said, Usage()), message.id or "", said.service_tier or "", _units(said))


def _units(said: _Usage) -> dict[str, int] | None:
    """Return what multiplies the rates of the call: fast mode, and a region that was asked for."""
    if not said.speed and not said.inference_geo:
        return None
    units = {}
    if said.speed == "fast":
        units["speed:fast"] = 1
    if said.inference_geo == "us":
        units["geo:us"] = 1
    return units or None


def _buckets(said: _Usage, before: Usage) -> Usage:
    """Return `said` in our buckets; what it leaves out stays as `before`. No bucket is ever negative."""
    written_5m, written_1h = before.cache_write_5m, before.cache_write_1h
    if said.cache_creation is not None:
        written_5m = _count(said.cache_creation.ephemeral_5m_input_tokens, 0)
        written_1h = _count(said.cache_creation.ephemeral_1h_input_tokens, 0)
    elif said.cache_creation_input_tokens is not None:
        # The total alone: whatever is not known to be written for an hour is written for five minutes.
        written_5m = max(0, said.cache_creation_input_tokens - written_1h)
    output = _count(said.output_tokens, before.completion_tokens)
    details, tools = said.output_tokens_details, said.server_tool_use
    thinking = before.reasoning if details is None else _count(details.thinking_tokens, 0)
    reasoning = min(thinking, output)
    return Usage(
        input_uncached=_count(said.input_tokens, before.input_uncached),
        cache_read=_count(said.cache_read_input_tokens, before.cache_read),
        cache_write_5m=written_5m,
        cache_write_1h=written_1h,
        output_text=output - reasoning,
        reasoning=reasoning,
        web_searches=before.web_searches if tools is None else _count(tools.web_search_requests, 0),
    )


def _count(said: int | None, otherwise: int) -> int:
    return otherwise if said is None else max(0, said)


def error_body(error: GatewayError, call_id: str) -> bytes:
    kind = _ERROR_TYPES.get(int(error.status), "api_error")
    if error.type == "budget_exceeded":
        kind = error.type
    said = {"type": kind, "message": error.message, **error.details}
    return msgspec.json.encode({"type": "error", "error": said, "request_id": call_id})


def stream_error(error: GatewayError, call_id: str) -> bytes:
    return b"event: error\ndata: " + error_body(error, call_id) + b"\n\n"


_TEXT_EVENT = b'event: content_block_delta\ndata: {"type":"content_block_delta"'
_TEXT = b'"text_delta","text":"'


class Meter(base.Meter):
    def takes(self, chunk: bytes) -> bool:
        return self._takes_named(chunk, _TEXT_EVENT, _TEXT)

    def feed(self, data: bytes) -> bool:
        try:
            event = _event.decode(data)
        except UNREADABLE:
            return False
        if event.delta is not None and event.type == "content_block_delta":
            delta = event.delta
            seen = len(delta.text or "") + len(delta.thinking or "") + len(delta.partial_json or "")
            if seen:
                self.deltas += 1
                self.characters += seen
        elif event.type == "message_start" and event.message is not None:
            self.response_id = event.message.id or ""
            if event.message.usage is not None:
                self.seen = _buckets(event.message.usage, self.seen)
                self.service_tier = event.message.usage.service_tier or ""
                self.units = _units(event.message.usage)
        elif event.type == "message_delta" and event.usage is not None:
            self.seen = _buckets(event.usage, self.seen)
            self.units = _units(event.usage) or self.units
            if event.usage.output_tokens is not None:
                self.usage = self.seen
        elif event.type == "message_stop":
            self.is_complete = True
        elif event.type == "error":
            self.failed = True
        return False
