"""
What the OpenAI dialects have in common: credentials, errors, the usage of chat.

`prompt_tokens` includes cached reads and cache writes, `completion_tokens` includes
reasoning; our buckets are disjoint, so both are subtracted. Who speaks this dialect has
fields of their own besides:

    DeepSeek     prompt_cache_hit_tokens, in prompt_tokens
    Moonshot     cached_tokens beside them, in prompt_tokens
    LiteLLM      cache_read_input_tokens, cache_creation_input_tokens, in prompt_tokens
    xAI, Gemini  reasoning beside completion_tokens: it is what total_tokens has more
    xAI          num_sources_used: what a live search found, billed apiece
    Perplexity   reasoning_tokens and citation_tokens beside completion_tokens,
                 num_search_queries, search_context_size, cost.total_cost
    OpenRouter   cost, in USD; server_tool_use
    Mistral      prompt_audio_seconds

Sources: openai-python, src/openai/types/completion_usage.py; the API references of the others.
"""

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from billing.usage import REPORTED_COST, Usage
from proxy.errors import GatewayError


class _CacheWrites(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = 0


class _CachedDetails(msgspec.Struct):
    audio_tokens: int | None = 0
    image_tokens: int | None = 0


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = 0
    cache_write_tokens: int | None = 0
    cache_creation_tokens: int | None = 0
    audio_tokens: int | None = 0
    image_tokens: int | None = 0
    video_tokens: int | None = 0
    cached_tokens_details: _CachedDetails | None = None
    cache_creation_token_details: _CacheWrites | None = None


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = 0
    audio_tokens: int | None = 0
    image_tokens: int | None = 0
    video_tokens: int | None = 0


class ChatUsage(msgspec.Struct):
    """What an answer says. Fields of single providers are `Any`: a strange one must not fail the call."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: Any = None
    cached_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    reasoning_tokens: Any = None
    citation_tokens: Any = None
    num_search_queries: Any = None
    search_context_size: Any = None
    num_sources_used: Any = None
    server_tool_use: Any = None
    prompt_audio_seconds: Any = None
    cost: msgspec.Raw = msgspec.Raw()


def usage_of(said: ChatUsage, *, has_searched: bool = False) -> Usage | None:
    """Return OpenAI's usage in disjoint buckets; None where it says nothing. No bucket is ever negative."""
    prompt, completion, total = said.prompt_tokens, said.completion_tokens, said.total_tokens
    if prompt is None and completion is None:
        return None
    prompt, completion, produced = prompt or 0, completion or 0, said.completion_tokens_details
    apart = (total or 0) - prompt - completion
    if apart <= 0 and said.reasoning_tokens and _is_perplexity(said):
        apart = _whole(said.reasoning_tokens)
    if apart > 0:
        reasoning = (produced.reasoning_tokens if produced else 0) or apart
        produced = msgspec.structs.replace(produced or CompletionDetails(), reasoning_tokens=reasoning)
        completion += apart
    usage = buckets(
        prompt,
        completion,
        said.prompt_tokens_details,
        produced,
        cached=_whole(said.prompt_cache_hit_tokens or said.cached_tokens or said.cache_read_input_tokens),
        written=_whole(said.cache_creation_input_tokens),
    )
    searches = _searches(said) or int(has_searched)
    return usage._replace(web_searches=searches) if searches else usage


def units_of(said: ChatUsage) -> dict[str, int] | None:
    """Return what the answer used beside tokens, or None."""
    units = parts_of(said.prompt_tokens_details, said.completion_tokens_details)
    cost = bytes(said.cost)
    if cost and (nano := _reported_nano(cost)) is not None:
        units[REPORTED_COST] = nano
    if said.citation_tokens:
        units["citation_tokens"] = _whole(said.citation_tokens)
    if said.search_context_size in _SIZES and (searches := _searches(said)):
        units[f"web_searches:{said.search_context_size}"] = searches
    if said.prompt_audio_seconds:
        units["input_audio_ms"] = _whole(said.prompt_audio_seconds) * 1000
    return {name: count for name, count in units.items() if count or name == REPORTED_COST} or None


_SIZES = ("low", "medium", "high")


def _is_perplexity(said: ChatUsage) -> bool:
    return said.citation_tokens is not None or said.num_search_queries is not None


def _searches(said: ChatUsage) -> int:
    """Return how many are billed. Perplexity takes one fee a call where it names the context's size."""
    if said.search_context_size in _SIZES:
        return 1
    if said.num_search_queries or said.num_sources_used:
        return _whole(said.num_search_queries or said.num_sources_used)
    tools = said.server_tool_use
    return _whole(tools.get("web_search_requests")) if isinstance(tools, dict) else 0


def parts_of(given: PromptDetails | None, produced: CompletionDetails | None) -> dict[str, int]:
    """Return the parts of buckets that may have a rate of their own."""
    units = {}
    if given is not None:
        if given.cached_tokens_details is not None:
            units["cache_read_audio"] = given.cached_tokens_details.audio_tokens or 0
            units["cache_read_image"] = given.cached_tokens_details.image_tokens or 0
        if given.video_tokens:
            units["input_video"] = given.video_tokens
    if produced is not None and produced.video_tokens:
        units["output_video"] = produced.video_tokens
    return {name: count for name, count in units.items() if count > 0}


def _reported_nano(cost: bytes) -> int | None:
    """Return a cost that is told in USD, as a number or as `total_cost`; None where it is neither."""
    try:
        if cost.startswith(b"{"):
            cost = bytes(_members.decode(cost).get("total_cost", b""))
        usd = Decimal(cost.decode())
    except (InvalidOperation, UnicodeDecodeError, msgspec.MsgspecError):
        return None
    return round(usd.scaleb(9)) if usd.is_finite() and 0 <= usd < _MOST_USD else None


_MOST_USD = 1_000_000  # of one call
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _whole(value: Any) -> int:
    """Return a count that is none of OpenAI's; 0 for whatever is no number of at least 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < _MOST else 0


_MOST = 1 << 53


def buckets(
    prompt: int | None,
    completion: int | None,
    prompt_details: PromptDetails | None,
    completion_details: CompletionDetails | None,
    *,
    cached: int = 0,
    written: int = 0,
) -> Usage:
    """Return counts that contain one another as disjoint buckets.

    cached, written: where the details do not say so.
    """
    prompt, completion = max(0, prompt or 0), max(0, completion or 0)
    if prompt_details is None and completion_details is None and not cached and not written:
        return Usage(input_uncached=prompt, output_text=completion)
    given = prompt_details or _NO_PROMPT_DETAILS
    produced = completion_details or _NO_COMPLETION_DETAILS
    written = given.cache_write_tokens or given.cache_creation_tokens or written
    if not (
        written or given.audio_tokens or given.image_tokens or produced.audio_tokens or produced.image_tokens
    ):
        # Optimization: text with cached input and reasoning, which nearly every call is.
        read, uncached = _share(given.cached_tokens or cached, prompt)
        reasoning, text_out = _share(produced.reasoning_tokens, completion)
        return Usage(uncached, read, 0, 0, text_out, reasoning)
    # Each part is cut to what is left, so that the parts never exceed the whole.
    read, left = _share(given.cached_tokens or cached, prompt)
    written, left = _share(written, left)
    hours = given.cache_creation_token_details
    written_1h, written_5m = _share(hours.ephemeral_1h_input_tokens if hours else 0, written)
    was_cached = given.cached_tokens_details or _NO_CACHED_DETAILS
    audio_in, left = _share((given.audio_tokens or 0) - (was_cached.audio_tokens or 0), left)
    image_in, uncached = _share((given.image_tokens or 0) - (was_cached.image_tokens or 0), left)
    reasoning, left = _share(produced.reasoning_tokens, completion)
    audio_out, left = _share(produced.audio_tokens, left)
    image_out, text_out = _share(produced.image_tokens, left)
    return Usage(
        input_uncached=uncached,
        cache_read=read,
        cache_write_5m=written_5m,
        cache_write_1h=written_1h,
        output_text=text_out,
        reasoning=reasoning,
        input_audio=audio_in,
        output_audio=audio_out,
        input_image=image_in,
        output_image=image_out,
    )


_NO_PROMPT_DETAILS = PromptDetails()
_NO_COMPLETION_DETAILS = CompletionDetails()
_NO_CACHED_DETAILS = _CachedDetails()


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
