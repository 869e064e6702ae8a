"""
OpenAI Responses: POST /v1/responses.

`input_tokens` includes cached ones, `output_tokens` includes reasoning. A stream ends
with `response.completed`, `.incomplete` or `.failed`, which carries the whole
response with its usage. Source: openai-python, src/openai/types/responses/
"""

from typing import Any

import msgspec

from billing.usage import Usage
from proxy.dialects import base, bounds
from proxy.dialects.base import UNREADABLE, Answer, Ask, UnreadableAnswer, edited
from proxy.dialects.openai_shared import (
    CompletionDetails,
    PromptDetails,
    base_url,
    buckets,
    credential_headers,
    error_body,
    parts_of,
)
from proxy.identification import Said

__all__ = ["base_url", "credential_headers", "edited", "error_body"]

NAME = "openai_responses"
UPSTREAM_PATH = "/responses"
BILLABLE = True
HAS_OUTPUT = True

unbounded = bounds.in_responses


class _Call(msgspec.Struct):
    model: str | None = None
    stream: bool | None = False
    max_output_tokens: Any = None
    user: Any = None
    metadata: Any = None
    litellm_metadata: Any = None
    safety_identifier: Any = None
    tags: Any = None
    cache: base.CacheControl | None = None
    service_tier: Any = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    input_tokens_details: PromptDetails | None = None
    output_tokens_details: CompletionDetails | None = None


class _Item(msgspec.Struct):
    type: str | None = ""
    action: Any = None
    container_id: Any = None


class _Response(msgspec.Struct):
    id: str | None = ""
    usage: _Usage | None = None
    service_tier: str | None = ""
    output: list[_Item] | None = None
    tools: msgspec.Raw = msgspec.Raw()


class _Event(msgspec.Struct):
    type: str | None = ""
    delta: Any = None
    response: _Response | None = None


_call = msgspec.json.Decoder(_Call)
_response = msgspec.json.Decoder(_Response)
_event = msgspec.json.Decoder(_Event)
_LAST = ("response.completed", "response.incomplete", "response.failed")


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
        max_output_tokens=base.positive(call.max_output_tokens),
        service_tier=base.short(call.service_tier),
        search_size=base.search_size(body),
    )


def output_limit_field(target: Any) -> str:
    return "max_output_tokens"


def read_answer(data: bytes) -> Answer:
    """Raises: UnreadableAnswer."""
    try:
        response = _response.decode(data)
    except UNREADABLE as error:
        raise UnreadableAnswer(str(error)) from error
    return Answer(_usage(response), response.id or "", response.service_tier or "", _units(response))


def _usage(response: _Response) -> Usage | None:
    said = response.usage
    if said is None:
        return None
    usage = buckets(
        said.input_tokens, said.output_tokens, said.input_tokens_details, said.output_tokens_details
    )
    searches = sum(map(_is_search, response.output or ()))
    return usage._replace(web_searches=searches) if searches else usage


def _is_search(item: _Item) -> bool:
    """Tell a web search from the pages that were opened after it: those are not billed."""
    if item.type != "web_search_call":
        return False
    return not isinstance(item.action, dict) or item.action.get("type", "search") == "search"


def _units(response: _Response) -> dict[str, int] | None:
    """Return what was used beside tokens: tools that are billed apiece."""
    said, items = response.usage, response.output or ()
    units = parts_of(said.input_tokens_details, said.output_tokens_details) if said else {}
    units["file_searches"] = sum(item.type == "file_search_call" for item in items)
    containers = [str(item.container_id) for item in items if item.type == "code_interpreter_call"]
    units["code_sessions"] = len(set(containers))  # one is used again by later calls of it
    size = base.search_size(bytes(response.tools))
    if size:
        units[f"web_searches:{size}"] = sum(map(_is_search, items))
    return {name: count for name, count in units.items() if count} or None


def stream_error(error: Any, call_id: str) -> bytes:
    """Return an `error` event (openai-python, response_error_event.py)."""
    event = {"type": "error", "code": error.type, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + msgspec.json.encode({**event, "sequence_number": 0}) + b"\n\n"


_TEXT_EVENT = b"event: response.output_text.delta\ndata: {"
_TEXT = b'"delta":"'


class Meter(base.Meter):
    def takes(self, chunk: bytes) -> bool:
        return self._takes_named(chunk, _TEXT_EVENT, _TEXT)

    def feed(self, data: bytes) -> bool:
        try:
            event = _event.decode(data)
        except UNREADABLE:
            return False
        if isinstance(event.delta, str) and event.delta:
            self.deltas += 1
            self.characters += len(event.delta)
        response = event.response
        if response is not None:
            self.response_id = self.response_id or response.id or ""
            if event.type in _LAST:
                self.is_complete = True
                self.failed = event.type == "response.failed"
                self.service_tier = response.service_tier or ""
                self.usage = _usage(response)
                self.units = _units(response)
        elif event.type == "error":
            self.failed = True
        return False
