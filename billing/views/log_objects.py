"""
A call as LiteLLM's spend log has it (contract 6.2), with fields of ours behind.

`spend` is the call's cost; one that has no price spends 0 there, and `cost` below says
null. The parts of `cost_breakdown` add up to `total_cost`, to the last nano-dollar.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from django.db.models.functions import Length

from billing.booking.rollups import CACHED, FAILED
from billing.models import Price, SpendLog
from billing.prices.pricing import ResolvedPrice, explain_cost, resolve
from billing.reporting.log_reading import MASTER_KEY_NAME
from billing.usage import DISCOUNT, Usage, unit_of
from customers.models import Team, VirtualKey
from customers.money import from_nano, to_nano

_CALL_TYPES = {
    "openai_chat": "acompletion",
    "openai_completions": "atext_completion",
    "openai_embeddings": "aembedding",
    "openai_responses": "aresponses",
    "anthropic_messages": "anthropic_messages",
}
# Part of a cost, as LiteLLM names it → the lines of "explain this cost" that it adds up.
_PARTS = {
    "input_cost": ("input_uncached", "input_audio", "input_image"),
    "cache_read_cost": ("cache_read",),
    "cache_creation_cost": ("cache_write_5m", "cache_write_1h"),
    "output_cost": ("output_text", "reasoning", "output_audio", "output_image"),
    "tool_usage_cost": ("web_searches", "file_searches", "code_sessions", "map_searches"),
    "request_cost": ("request", "reported_cost"),
    "discount_amount": (DISCOUNT,),
}
_UNITS_COST = "units_cost"  # seconds, characters, images and the like: LiteLLM has no name for them
_PART_OF = {bucket: part for part, buckets in _PARTS.items() for bucket in buckets}
_ALWAYS_SHOWN = ("input_cost", "cache_read_cost", "output_cost")
_MAX_BODIES, _MAX_BODY_CHARACTERS = 100, 8_000_000
_ZERO = Decimal(0)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Behind(NamedTuple):
    """The rows that a list of calls names: read once for all of them. A purged one is missing."""

    keys: Mapping[uuid.UUID, VirtualKey]
    teams: Mapping[str, Team]
    prices: Mapping[int, ResolvedPrice]


def behind(logs: Iterable[SpendLog]) -> Behind:
    """Return what `logs` name. Three queries at most."""
    keys = VirtualKey.objects.in_bulk({log.key_id for log in logs if log.key_id is not None})
    teams = Team.objects.in_bulk({log.team_id for log in logs if log.team_id is not None})
    prices = Price.objects.in_bulk({log.price_id for log in logs if log.price_id is not None})
    return Behind(keys, teams, {price.pk: resolve(price) for price in prices.values()})


def log_objects(logs: Sequence[SpendLog], *, with_charge: bool) -> list[dict[str, Any]]:
    """Return calls as lists have them: without what was asked and answered. Three queries at most."""
    named = behind(logs)
    return [log_object(log, named, with_charge=with_charge) for log in logs]


def full_log_objects(logs: Sequence[SpendLog], *, with_charge: bool) -> list[dict[str, Any]]:
    """Return calls, newest first, with what was asked and answered (`_kept_bodies`). Five queries at most."""
    bodies = _kept_bodies(logs)
    rows = log_objects(logs, with_charge=with_charge)
    return [_with_bodies(row, bodies.get(log.pk)) for log, row in zip(logs, rows, strict=True)]


def log_object(log: SpendLog, named: Behind, *, with_charge: bool) -> dict[str, Any]:
    """Return one call. Makes no query.

    with_charge: for callers who may see everybody's spend; others see the cost alone.
    """
    usage, key = log.usage, key_name(log.key_id, named.keys)
    status = "failure" if log.status in FAILED else "success"
    row = {
        "request_id": log.response_id or str(log.pk),
        "call_type": _CALL_TYPES.get(log.dialect, log.dialect),
        "api_key": key,
        "spend": _ZERO if log.cost is None else log.cost,
        "total_tokens": usage.total_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "startTime": log.started_at,
        "endTime": log.ended_at,
        "completionStartTime": _first_token_at(log),
        "request_duration_ms": log.latency_ms,
        "model": log.upstream_model or log.model,
        "model_id": "" if log.deployment_id is None else str(log.deployment_id),
        "model_group": log.model,
        "custom_llm_provider": log.provider,
        "api_base": "",
        "user": log.user_id or "",
        "end_user": log.customer_id or "",
        "team_id": log.team_id,
        "organization_id": None,
        "cache_hit": "True" if log.usage_source == CACHED else "False",
        "cache_key": _cache_key(log),
        "request_tags": log.tags,
        "requester_ip_address": "",
        "session_id": log.session_id or None,
        "status": status,
        "agent_id": None,
        "mcp_namespaced_tool_name": None,
        "metadata": _metadata(log, usage, named, key=key, status=status),
        "litellm_call_id": str(log.pk),
        "client_call_id": log.client_call_id or None,
        "gateway_status": log.status,
        "http_status": log.http_status,
        "cost": log.cost,
        "usage_source": log.usage_state,
        "dialect": log.dialect,
        "stream": log.streamed,
        "client_left": log.client_left,
        "client_tool": log.client_tool or None,
        "user_agent": log.user_agent or None,
        "upstream": log.upstream or None,
        "service_tier": log.service_tier or None,
        "units": log.units,
        "ttft_ms": log.first_token_ms,
        "attempts": log.attempts,
    }
    return {**row, "charge": log.charge} if with_charge else row


def key_name(key_id: uuid.UUID | None, keys: Mapping[uuid.UUID, VirtualKey]) -> str:
    """Return a key's hash, as LiteLLM names keys; the id of one that was purged."""
    if key_id is None:
        return MASTER_KEY_NAME
    return keys[key_id].token_hash if key_id in keys else str(key_id)


def _first_token_at(log: SpendLog) -> Any:
    if log.first_token_ms is None:
        return log.ended_at
    return log.started_at + timedelta(milliseconds=log.first_token_ms)


def _cache_key(log: SpendLog) -> str:
    came_from = log.metadata.get("cache_hit") if log.usage_source == CACHED else None
    return str(came_from.get("key", "")) if isinstance(came_from, dict) else "Cache OFF"


def _metadata(log: SpendLog, usage: Usage, named: Behind, *, key: str, status: str) -> dict[str, Any]:
    virtual_key = named.keys.get(log.key_id) if log.key_id is not None else None
    team = named.teams.get(log.team_id) if log.team_id is not None else None
    return {
        "user_api_key": key,
        "user_api_key_alias": virtual_key.alias if virtual_key else None,
        "user_api_key_team_id": log.team_id,
        "user_api_key_team_alias": (team.alias or None) if team else None,
        "user_api_key_user_id": log.user_id,
        "user_api_key_org_id": None,
        "spend_logs_metadata": log.metadata.get("spend_logs_metadata"),
        "requester_ip_address": "",
        "status": status,
        "additional_usage_values": _details(usage),
        "usage_object": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "cost_breakdown": _cost_breakdown(log, usage, named.prices),
        "error_information": _error_information(log),
    }


def _details(usage: Usage) -> dict[str, Any]:
    """Return what is known of usage besides its totals: those counts which are not 0."""
    written = usage.cache_write_5m + usage.cache_write_1h
    prompt = {
        "cached_tokens": usage.cache_read,
        "cache_creation_tokens": written,
        "audio_tokens": usage.input_audio,
        "image_tokens": usage.input_image,
    }
    completion = {
        "reasoning_tokens": usage.reasoning,
        "audio_tokens": usage.output_audio,
        "image_tokens": usage.output_image,
    }
    details = {
        "prompt_tokens_details": {name: count for name, count in prompt.items() if count},
        "completion_tokens_details": {name: count for name, count in completion.items() if count},
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read,
        "web_search_requests": usage.web_searches,
    }
    return {name: value for name, value in details.items() if value}


def _cost_breakdown(
    log: SpendLog, usage: Usage, prices: Mapping[int, ResolvedPrice]
) -> dict[str, Decimal] | None:
    """Return the parts of the cost and their sum; the sum alone where the price is gone; None: unpriced."""
    if log.cost is None:
        return None
    total = to_nano(log.cost)
    price = prices.get(log.price_id) if log.price_id is not None else None
    parts = explain_cost(price, usage, log.units, log.service_tier)
    if not parts or sum(part.cost_nano for part in parts) != total:
        return {"total_cost": log.cost}
    nanos = dict.fromkeys(_ALWAYS_SHOWN, 0)
    for part in parts:
        name = _PART_OF.get(_bucket_of(part.bucket), _UNITS_COST)
        nanos[name] = nanos.get(name, 0) + part.cost_nano
    return {**{name: from_nano(nano) for name, nano in nanos.items()}, "total_cost": log.cost}


def _bucket_of(part: str) -> str:
    """Return the bucket that counts a part: that of a unit with a rate of its own, or the part itself."""
    unit = unit_of(part)
    return (unit.part_of if unit else None) or part


def _error_information(log: SpendLog) -> dict[str, Any] | None:
    if not log.error_type and log.status not in FAILED:
        return None
    return {
        "error_code": "" if log.http_status is None else str(log.http_status),
        "error_class": log.error_type,
        "error_message": log.error_message,
        "llm_provider": log.provider,
        "traceback": "",
    }


# -- what was asked and answered: kept only with STORE_PROMPTS ---------------------------


def body_objects(request_body: str, response_body: str) -> dict[str, Any]:
    """Return `messages`, `response`, `proxy_server_request`: JSON as it was sent, {} where none was kept."""
    asked = _json_object(request_body)
    messages = [asked[name] for name in ("messages", "input", "prompt") if name in asked]
    return {
        "messages": messages[0] if messages else {},
        "response": _json_object(response_body),
        "proxy_server_request": asked,
    }


def _json_object(text: str) -> dict[str, msgspec.Raw]:
    """Return a JSON object with its members as they are written; an empty one for anything else."""
    try:
        return _members.decode(text) if text else {}
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return {}


def _with_bodies(row: dict[str, Any], kept: tuple[str, str] | None) -> dict[str, Any]:
    """Return the row with its bodies where the contract has them: before the metadata."""
    names = list(row)
    at = names.index("metadata")
    bodies = body_objects(*(kept or ("", "")))
    return {**{name: row[name] for name in names[:at]}, **bodies, **{name: row[name] for name in names[at:]}}


def _kept_bodies(logs: Sequence[SpendLog]) -> dict[uuid.UUID, tuple[str, str]]:
    """Return (request, response) by call of the newest calls, up to 100 of them and 8 million characters.

    A body may have megabytes, and a list thousands of calls: all of them would not fit into memory.
    """
    newest = SpendLog.objects.filter(pk__in=[log.pk for log in logs[:_MAX_BODIES]])
    sizes = newest.exclude(request_body="", response_body="").values_list(
        "pk", Length("request_body") + Length("response_body")
    )
    left, chosen = _MAX_BODY_CHARACTERS, []
    for id_, size in sizes.order_by("-pk"):
        left -= size
        if left < 0:
            break
        chosen.append(id_)
    if not chosen:
        return {}
    kept = SpendLog.objects.filter(pk__in=chosen).values_list("pk", "request_body", "response_body")
    return {id_: (request, response) for id_, request, response in kept}


# The contract's sample, for the OpenAPI document.
_KEY_HASH = "5f0c2f9a7d4a6b0d3c0f0a0b2e1d9c8b7a6f5e4d3c2b1a09f8e7d6c5b4a39281"
LIST_EXAMPLE: dict[str, Any] = {
    "request_id": "chatcmpl-A1b2C3",
    "call_type": "acompletion",
    "api_key": _KEY_HASH,
    "spend": Decimal("0.000282"),
    "total_tokens": 1720,
    "prompt_tokens": 1500,
    "completion_tokens": 220,
    "startTime": "2026-02-03T09:12:44.120000Z",
    "endTime": "2026-02-03T09:12:45.830000Z",
    "completionStartTime": "2026-02-03T09:12:44.700000Z",
    "request_duration_ms": 1710,
    "model": "gpt-4o-mini",
    "model_id": "7",
    "model_group": "gpt-4o-mini",
    "custom_llm_provider": "openai",
    "api_base": "",
    "user": "u-17",
    "end_user": "acme-042",
    "team_id": "t-sales",
    "organization_id": None,
    "cache_hit": "False",
    "cache_key": "Cache OFF",
    "request_tags": ["engineering", "User-Agent: OpenAI", "User-Agent: OpenAI/Python 1.60.0"],
    "requester_ip_address": "",
    "session_id": "0b0d4f9e",
    "status": "success",
    "agent_id": None,
    "mcp_namespaced_tool_name": None,
    "metadata": {
        "user_api_key": _KEY_HASH,
        "user_api_key_alias": "acme-prod",
        "user_api_key_team_id": "t-sales",
        "user_api_key_team_alias": "Sales",
        "user_api_key_user_id": "u-17",
        "user_api_key_org_id": None,
        "spend_logs_metadata": None,
        "requester_ip_address": "",
        "status": "success",
        "additional_usage_values": {"prompt_tokens_details": {"cached_tokens": 1000}},
        "usage_object": {"prompt_tokens": 1500, "completion_tokens": 220, "total_tokens": 1720},
        "cost_breakdown": {
            "input_cost": Decimal("0.000075"),
            "cache_read_cost": Decimal("0.000075"),
            "output_cost": Decimal("0.000132"),
            "total_cost": Decimal("0.000282"),
        },
        "error_information": None,
    },
    "litellm_call_id": "019c22bb-34f8-7c3e-9a51-0d5f6b7a8c90",
    "client_call_id": None,
    "gateway_status": "success",
    "http_status": 200,
    "cost": Decimal("0.000282"),
    "usage_source": "provider",
    "dialect": "openai_chat",
    "stream": False,
    "client_left": False,
    "client_tool": "OpenAI SDK",
    "user_agent": "OpenAI/Python 1.60.0",
    "upstream": "openai",
    "service_tier": None,
    "units": None,
    "ttft_ms": 580,
    "attempts": [{"deployment_id": 7, "upstream": "openai", "status": 200}],
    "charge": Decimal("0.000282"),
}
_MESSAGES = [{"role": "user", "content": "Hello"}]
BODIES_EXAMPLE: dict[str, Any] = {
    "messages": _MESSAGES,
    "response": {},
    "proxy_server_request": {"model": "gpt-4o-mini", "messages": _MESSAGES},
}
FULL_EXAMPLE = _with_bodies(LIST_EXAMPLE, None)
