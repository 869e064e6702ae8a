"""
OpenAI text completions: POST /v1/completions.

Like chat, with `text` in place of messages. Source: openai-python,
src/openai/types/completion.py
"""

from typing import Any

import msgspec

from proxy.dialects import base, bounds, openai_chat
from proxy.dialects.base import UNREADABLE, Ask, edited
from proxy.dialects.openai_chat import read_answer
from proxy.dialects.openai_shared import (
    ChatUsage,
    base_url,
    credential_headers,
    error_body,
    stream_error,
    units_of,
    usage_of,
)

__all__ = ["base_url", "credential_headers", "edited", "error_body", "read_answer", "stream_error"]

NAME = "openai_completions"
UPSTREAM_PATH = "/completions"
BILLABLE = True
HAS_OUTPUT = True

unbounded = bounds.in_completions


class _Choice(msgspec.Struct):
    text: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = ""
    choices: list[_Choice] = []
    usage: ChatUsage | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk)


class _Answers(msgspec.Struct):
    best_of: Any = None
    prompt: Any = None


_answers = msgspec.json.Decoder(_Answers)


def read_call(body: bytes, model: str | None = None) -> Ask:
    """Raises: BadCall. The other fields that matter are those of chat."""
    ask = openai_chat.read_call(body, model)
    call = _answers.decode(body)
    prompts = len(call.prompt) if _is_list_of_prompts(call.prompt) else 1
    return ask._replace(choices=max(ask.choices, base.positive(call.best_of) or 1) * prompts)


def _is_list_of_prompts(prompt: Any) -> bool:
    """Tell several prompts from one that is given as tokens."""
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)


def output_limit_field(target: Any) -> str:
    return "max_tokens"


class Meter(base.Meter):
    def feed(self, data: bytes) -> bool:
        if data == b"[DONE]":
            self.is_complete = True
            return False
        try:
            chunk = _chunk.decode(data)
        except UNREADABLE:
            return False
        self.response_id = self.response_id or chunk.id or ""
        seen = sum(len(choice.text or "") for choice in chunk.choices)
        if seen:
            self.deltas += 1
            self.characters += seen
        if chunk.usage is not None:
            self.usage = usage_of(chunk.usage) or self.usage
            self.units = units_of(chunk.usage) or self.units
            return not chunk.choices
        self.failed = self.failed or chunk.error is not None
        return False
