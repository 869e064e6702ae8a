"""
What in a call may cost more than its bytes and its output limit tell (invariant H6).

A strict budget holds the worst case: a token is at least a byte of the body, and the
answer has at most `max_tokens`. Some fields break that: they name things that the
provider fetches, draws or runs, at a length that nobody knows before. They are found
here by name. Sources: openai-python, src/openai/types/chat/completion_create_params.py
and responses/response_create_params.py; anthropic-sdk-python, message_create_params.py.
"""

from typing import Any

import msgspec

from proxy.dialects.base import decode

_any = msgspec.json.Decoder()

_PLAIN_TOOLS = frozenset((None, "function", "custom"))
_PLAIN_TIERS = frozenset((None, "auto", "default", "standard", "standard_only", "flex"))

_PLAIN_CHOICES = (None, "standard", "global", "not_available")


def in_completions(body: bytes) -> list[str]:
    return _service_tier(decode(_any, body))


def in_chat(body: bytes) -> list[str]:
    call = decode(_any, body)
    found = _service_tier(call) + _given(call, "web_search_options", "audio")
    found += _tools(call)
    for message in _list(call.get("messages")):
        found += _parts(message, {"text", "refusal"}, "messages[].content")
    return list(dict.fromkeys(found))


def in_responses(body: bytes) -> list[str]:
    call = decode(_any, body)
    found = _service_tier(call)
    found += _given(call, "previous_response_id", "conversation", "prompt", "background")
    found += _tools(call)
    for item in _list(call.get("input")):
        found += _parts(item, {"input_text", "output_text", "text", "refusal"}, "input[].content")
        if isinstance(item, dict) and item.get("type") == "item_reference":
            found.append("input[]: item_reference")
    return list(dict.fromkeys(found))


def in_messages(body: bytes) -> list[str]:
    call = decode(_any, body)
    found = _service_tier(call) + _given(call, "mcp_servers", "container")
    found += [name for name in ("speed", "inference_geo") if call.get(name) not in _PLAIN_CHOICES]
    found += _tools(call)
    plain = {"text", "thinking", "redacted_thinking", "tool_use", "tool_result"}
    for message in _list(call.get("messages")):
        found += _parts(message, plain, "messages[].content")
    return list(dict.fromkeys(found))


def _given(call: dict[str, Any], *names: str) -> list[str]:
    return [name for name in names if call.get(name)]


def _service_tier(call: dict[str, Any]) -> list[str]:
    tier = call.get("service_tier")
    return [] if tier in _PLAIN_TIERS else [f"service_tier: {str(tier)[:40]}"]


def _tools(call: dict[str, Any]) -> list[str]:
    """Tools that the provider runs; those that the client runs are bytes of the body."""
    kinds = [tool.get("type") for tool in _list(call.get("tools")) if isinstance(tool, dict)]
    return [f"tools: {str(kind)[:40]}" for kind in kinds if kind not in _PLAIN_TOOLS]


def _parts(message: Any, plain: set[str], where: str) -> list[str]:
    """Parts of a message that are no text: a link of 40 bytes may be 100 pages."""
    if not isinstance(message, dict):
        return []
    found = []
    for part in _list(message.get("content")):
        if not isinstance(part, dict):
            continue
        kind = part.get("type")
        if kind not in plain:
            found.append(f"{where}: {str(kind)[:40]}")
        elif kind == "tool_result":
            found += _parts(part, plain, where)
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
