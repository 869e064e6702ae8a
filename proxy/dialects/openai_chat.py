"""
OpenAI chat completions: POST /v1/chat/completions.

Usage of a stream is in an extra event before `[DONE]`, with `choices: []`, sent
only if `stream_options.include_usage` is set; some servers put it into the last
content event. Source: openai-python, src/openai/types/chat/chat_completion_chunk.py
"""

from typing import Any

import msgspec

from proxy.dialects import base, bounds
from proxy.dialects.base import UNREADABLE, Answer, Ask, UnreadableAnswer, edited
from proxy.dialects.openai_shared import (
    ChatUsage,
    base_url,
    credential_headers,
    error_body,
    stream_error,
    units_of,
    usage_of,
)
from proxy.identification import Said

__all__ = ["base_url", "credential_headers", "edited", "error_body", "stream_error"]

NAME = "openai_chat"
UPSTREAM_PATH = "/chat/completions"
BILLABLE = True
HAS_OUTPUT = True

unbounded = bounds.in_chat


class _Call(msgspec.Struct):
    model: str | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None
    user: Any = None
    metadata: Any = None
    litellm_metadata: Any = None
    safety_identifier: Any = None
    tags: Any = None
    cache: base.CacheControl | None = None
    service_tier: Any = None


class _Message(msgspec.Struct):
    annotations: Any = None


class _AnsweredChoice(msgspec.Struct):
    message: _Message | None = None


class _Answer(msgspec.Struct):
    id: str | None = ""
    choices: list[_AnsweredChoice] | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = ""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    annotations: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    usage: ChatUsage | None = None  # Moonshot


class _Groq(msgspec.Struct):
    usage: ChatUsage | None = None


class _Chunk(msgspec.Struct):
    id: str | None = ""
    choices: list[_Choice] = []
    usage: ChatUsage | None = None
    service_tier: str | None = ""
    error: msgspec.Raw = msgspec.Raw()
    x_groq: _Groq | None = None


_call = msgspec.json.Decoder(_Call)
_answer = msgspec.json.Decoder(_Answer)
_chunk = msgspec.json.Decoder(_Chunk)


def read_call(body: bytes, model: str | None = None) -> Ask:
    """Raises: BadCall."""
    call = base.decode(_call, body)
    streamed = bool(call.stream)
    wants_usage = call.stream_options is not None and call.stream_options.get("include_usage") is True
    return Ask(
        base.model_of(call.model, model),
        call.model,
        streamed,
        body,
        Said(call.user, call.metadata, call.litellm_metadata, call.safety_identifier, call.tags, call.cache),
        base.positive(call.max_completion_tokens, call.max_tokens),
        streamed and not wants_usage,
        base.positive(call.n) or 1,
        base.short(call.service_tier),
        base.search_size(body),
    )


def output_limit_field(target: Any) -> str:
    """Newer models of OpenAI's own refuse `max_tokens`; other servers know nothing else."""
    return "max_completion_tokens" if target.provider == "openai" else "max_tokens"


def read_answer(data: bytes) -> Answer:
    """Raises: UnreadableAnswer."""
    try:
        answer = _answer.decode(data)
    except UNREADABLE as error:
        raise UnreadableAnswer(str(error)) from error
    said = answer.usage
    if said is None:
        return Answer(None, answer.id or "", answer.service_tier or "")
    has_searched = any(_cites(choice.message) for choice in answer.choices or ())
    return Answer(
        usage_of(said, has_searched=has_searched), answer.id or "", answer.service_tier or "", units_of(said)
    )


def _cites(message: _Message | _Delta | None) -> bool:
    """Tell whether an answer cites the web: of a search OpenAI's chat says nothing else."""
    if message is None or not isinstance(message.annotations, list):
        return False
    return any(isinstance(each, dict) and each.get("type") == "url_citation" for each in message.annotations)


# How a token of text looks from OpenAI and whoever writes JSON without spaces.
_TEXT = b'"delta":{"content":"'


class Meter(base.Meter):
    _has_searched = False

    def takes(self, chunk: bytes) -> bool:
        start = chunk.find(_TEXT)
        if start < 0 or chunk.count(b"\n") != 2 or not chunk.endswith(b"\n\n"):
            return False
        if not chunk.startswith(b"data:") or not self.response_id:
            return False
        if b'"usage"' in chunk and b'"usage":null' not in chunk:
            return False
        start += len(_TEXT)
        seen = chunk.find(b'"', start) - start
        if seen > 0:
            self.deltas += 1
            self.characters += seen
        return True

    def feed(self, data: bytes) -> bool:
        if data == b"[DONE]":
            self.is_complete = True
            return False
        try:
            chunk = _chunk.decode(data)
        except UNREADABLE:
            return False
        if chunk.id and not self.response_id:
            self.response_id = chunk.id
        if chunk.service_tier:
            self.service_tier = chunk.service_tier
        for choice in chunk.choices:
            delta = choice.delta
            if delta is None:
                continue
            seen = len(delta.content or "") + len(delta.reasoning_content or "") + len(delta.refusal or "")
            seen += len(bytes(delta.tool_calls))
            self._has_searched = self._has_searched or _cites(delta)
            if seen:
                self.deltas += 1
                self.characters += seen
        said = chunk.usage or _said_elsewhere(chunk)
        if said is not None:
            self.usage = usage_of(said, has_searched=self._has_searched) or self.usage
            self.units = units_of(said) or self.units
            return not chunk.choices
        if bytes(chunk.error):
            self.failed = True
        return False


def _said_elsewhere(chunk: _Chunk) -> ChatUsage | None:
    """Return the usage that some servers put into their last content event, in a place of their own."""
    if chunk.x_groq is not None:
        return chunk.x_groq.usage
    return next((choice.usage for choice in chunk.choices if choice.usage is not None), None)
