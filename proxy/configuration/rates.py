"""
LiteLLM's names of rates, in USD per token, → ours, in USD per million tokens.

Rates of a call above a number of prompt tokens (`…_above_200k_tokens`) become tiers.
Those that have no place in `Price` yet (seconds, characters, images, service tiers,
batches) are named, not dropped in silence.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from spendproject.config_keys import decimal

_MILLION = 1_000_000
_NANO = Decimal("0.000000001")  # what a rate field keeps
_LARGEST = Decimal(10) ** 9
_PER_TOKEN = {
    "input_cost_per_token": "input_per_mtok_usd",
    "output_cost_per_token": "output_per_mtok_usd",
    "output_cost_per_reasoning_token": "reasoning_per_mtok_usd",
    "cache_read_input_token_cost": "cache_read_per_mtok_usd",
    "input_cost_per_token_cache_hit": "cache_read_per_mtok_usd",
    "cache_creation_input_token_cost": "cache_write_5m_per_mtok_usd",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_per_mtok_usd",
    "input_cost_per_audio_token": "input_audio_per_mtok_usd",
    "output_cost_per_audio_token": "output_audio_per_mtok_usd",
    "input_cost_per_image_token": "input_image_per_mtok_usd",
    "output_cost_per_image_token": "output_image_per_mtok_usd",
}
_ABOVE = re.compile(r"(?P<rate>.+)_above_(?P<thousands>[1-9][0-9]{0,5})k_tokens")


class Rates(NamedTuple):
    """The rates of one entry: fields of `Price`. Empty: the entry says nothing of prices."""

    base: dict[str, Decimal]
    tiers: list[dict[str, Any]]
    unsupported: list[str]


def is_rate(name: str) -> bool:
    return "cost_per" in name or "_cost" in name or name == "tiered_pricing"


def read_rates(
    said: Mapping[str, Any], resolved: Callable[[Any], Any], problem: Callable[[str, str], None]
) -> Rates:
    """Read the rates among `said`.

    resolved: returns what a reference to the environment stands for, or raises ValueError.
    problem: told the name and what to do where a rate is wrong.
    """
    base: dict[str, Decimal] = {}
    tiers: dict[int, dict[str, str]] = {}
    unsupported = []
    for name, value in said.items():
        if not is_rate(name) or value is None:
            continue
        above = _ABOVE.fullmatch(name)
        field = _PER_TOKEN.get(above["rate"] if above else name)
        try:
            value = resolved(value)
            if above and field:
                tier = tiers.setdefault(int(above["thousands"]) * 1000, {})
                tier[field] = str(_per_million(value))
            elif field:
                base[field] = _per_million(value)
            elif name == "input_cost_per_request":
                base["per_request_usd"] = _rate(decimal(value))
            elif name == "search_context_cost_per_query" and isinstance(value, dict):
                medium = value.get("search_context_size_medium")
                if medium is not None:
                    base["per_web_search_usd"] = _rate(decimal(medium))
            else:
                unsupported.append(name)
        except ValueError as error:
            problem(name, str(error))
    listed = [{"above_prompt_tokens": start, **tiers[start]} for start in sorted(tiers)]
    return Rates(base, listed, unsupported)


def _per_million(value: Any) -> Decimal:
    return _rate(decimal(value) * _MILLION)


def _rate(rate: Decimal) -> Decimal:
    if not 0 <= rate < _LARGEST:
        raise ValueError("write a rate in USD of at least 0, per token or apiece")
    return rate.quantize(_NANO)
