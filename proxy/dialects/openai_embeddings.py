"""
OpenAI embeddings: POST /v1/embeddings. Never streamed; all tokens are input.

Source: openai-python, src/openai/types/create_embedding_response.py
"""

from typing import Any

import msgspec

from proxy.dialects import base, bounds
from proxy.dialects.base import Ask, edited
from proxy.dialects.openai_chat import Meter, output_limit_field, read_answer
from proxy.dialects.openai_shared import base_url, credential_headers, error_body, stream_error
from proxy.identification import Said

__all__ = [
    "Meter",
    "base_url",
    "credential_headers",
    "edited",
    "error_body",
    "output_limit_field",
    "read_answer",
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


_call = msgspec.json.Decoder(_Call)


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
