"""
OpenAI embeddings: POST /v1/embeddings. Never streamed; all tokens are input, and some
servers (Voyage) say but their total.

Source: openai-python, src/openai/types/create_embedding_response.py
"""

from typing import Any

import msgspec

from proxy.dialects import base, bounds
from proxy.dialects.base import UNREADABLE, Answer, Ask, UnreadableAnswer, edited
from proxy.dialects.openai_chat import Meter, output_limit_field
from proxy.dialects.openai_shared import (
    PromptDetails,
    base_url,
    buckets,
    credential_headers,
    error_body,
    stream_error,
)
from proxy.identification import Said

__all__ = [
    "Meter",
    "base_url",
    "credential_headers",
    "edited",
    "error_body",
    "output_limit_field",
    "stream_error",
]

NAME = "openai_embeddings"
UPSTREAM_PATH = "/embeddings"
BILLABLE = True
HAS_OUTPUT = False

unbounded = bounds.in_completions


class _Call(msgspec.Struct):
    model: str | None = None
    user: Any = None
    metadata: Any = None
    litellm_metadata: Any = None
    safety_identifier: Any = None
    tags: Any = None
    cache: base.CacheControl | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class _Answer(msgspec.Struct):
    id: str | None = ""
    usage: _Usage | None = None


_call = msgspec.json.Decoder(_Call)
_answer = msgspec.json.Decoder(_Answer)


def read_call(body: bytes, model: str | None = None) -> Ask:
    """Raises: BadCall."""
    call = base.decode(_call, body)
    return Ask(
        model=base.model_of(call.model, model),
        body_model=call.model,
        streamed=False,
        body=body,
        said=Said(
            call.user, call.metadata, call.litellm_metadata, call.safety_identifier, call.tags, call.cache
        ),
    )


def read_answer(data: bytes) -> Answer:
    """Raises: UnreadableAnswer."""
    try:
        answer = _answer.decode(data)
    except UNREADABLE as error:
        raise UnreadableAnswer(str(error)) from error
    said = answer.usage
    tokens = None if said is None else said.prompt_tokens or said.total_tokens
    if said is None or tokens is None:
        return Answer(None, answer.id or "")
    return Answer(buckets(tokens, 0, said.prompt_tokens_details, None), answer.id or "")
