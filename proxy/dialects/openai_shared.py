"""
What the OpenAI dialects have in common: credentials, errors, the usage of chat.

`prompt_tokens` includes cached reads and cache writes, `completion_tokens` includes
reasoning; our buckets are disjoint, so both are subtracted. Source:
openai-python, src/openai/types/completion_usage.py; DeepSeek's
`prompt_cache_hit_tokens` from its API reference.
"""

from typing import Any

import msgspec

from billing.usage import Usage
from proxy.errors import GatewayError


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    cache_creation_tokens: int | None = 0
    audio_tokens: int | None = 0
    image_tokens: int | None = 0


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = 0
    audio_tokens: int | None = 0
    image_tokens: int | None = 0


class ChatUsage(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = 0


def usage_of(said: ChatUsage) -> Usage:
    """Return OpenAI's usage in disjoint buckets. No bucket is ever negative."""
    return buckets(
        said.prompt_tokens,
        said.completion_tokens,
        said.prompt_tokens_details,
        said.completion_tokens_details,
        cached=said.prompt_cache_hit_tokens,
    )


def buckets(
    prompt: int | None,
    completion: int | None,
    prompt_details: PromptDetails | None,
    completion_details: CompletionDetails | None,
    *,
    cached: int | None = 0,
) -> Usage:
    prompt, completion = max(0, prompt or 0), max(0, completion or 0)
    if prompt_details is None and completion_details is None and not cached:
        return Usage(input_uncached=prompt, output_text=completion)
    given = prompt_details or PromptDetails()
    produced = completion_details or CompletionDetails()
    if not (
        given.audio_tokens or given.image_tokens or produced.audio_tokens or produced.image_tokens
    ) and not (given.cache_write_tokens or given.cache_creation_tokens):
        # Optimization: text with cached input and reasoning, which nearly every call is.
        read, uncached = _share(given.cached_tokens or cached, prompt)
        reasoning, text_out = _share(produced.reasoning_tokens, completion)
        return Usage(uncached, read, 0, 0, text_out, reasoning)
    # Each part is cut to what is left, so that the parts never exceed the whole.
    left = prompt
    read, left = _share(given.cached_tokens or cached, left)
    written, left = _share(given.cache_write_tokens or given.cache_creation_tokens, left)
    audio_in, left = _share(given.audio_tokens, left)
    image_in, uncached = _share(given.image_tokens, left)
    reasoning, left = _share(produced.reasoning_tokens, completion)
    audio_out, left = _share(produced.audio_tokens, left)
    image_out, text_out = _share(produced.image_tokens, left)
    return Usage(
        input_uncached=uncached,
        cache_read=read,
        cache_write_5m=written,
        output_text=text_out,
        reasoning=reasoning,
        input_audio=audio_in,
        output_audio=audio_out,
        input_image=image_in,
        output_image=image_out,
    )


def _share(part: int | None, whole: int) -> tuple[int, int]:
    """Return (the part, what is left of the whole)."""
    part = min(max(0, part or 0), whole)
    return part, whole - part


def base_url(target: Any) -> str:
    return target.openai_base_url


def credential_headers(target: Any) -> list[tuple[bytes, bytes]]:
    if not target.credential:
        return []
    return [(b"authorization", b"Bearer " + target.credential.encode("latin-1", "ignore"))]


def error_body(error: GatewayError, call_id: str) -> bytes:
    return msgspec.json.encode({"error": _error(error, call_id)})


def stream_error(error: GatewayError, call_id: str) -> bytes:
    """Return an error as it stands in a stream that has begun: an event, and the end."""
    return b"data: " + error_body(error, call_id) + b"\n\ndata: [DONE]\n\n"


def _error(error: GatewayError, call_id: str) -> dict[str, Any]:
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": str(int(error.status)),
        "request_id": call_id,
        **error.details,
    }
