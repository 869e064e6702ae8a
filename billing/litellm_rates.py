"""
LiteLLM's names of rates, in USD per token, → fields of `Price`, in USD per million tokens.

Used where config.yaml gives rates of a model, and where a whole cost map is read
(`billing/cost_map.py`). Arithmetic and names only.

Source: LiteLLM 1.109, model_prices_and_context_window.json.
"""

import re
from decimal import Decimal

PER_TOKEN = {
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
ABOVE = re.compile(r"(?P<rate>.+)_above_(?P<thousands>[1-9][0-9]{0,5})k_tokens")
_MILLION = 1_000_000
_NANO = Decimal("0.000000001")  # what a rate field keeps
_LARGEST = Decimal(10) ** 9


def is_rate(name: str) -> bool:
    return "cost_per" in name or "_cost" in name or name == "tiered_pricing"


def per_million(per_token: Decimal) -> Decimal:
    """Return a rate per token as one per million tokens. Raises: ValueError."""
    if not 0 <= per_token < _LARGEST:
        raise ValueError("write a rate in USD of at least 0, per token or apiece")
    return apiece(per_token * _MILLION)


def apiece(rate: Decimal) -> Decimal:
    """Return a rate as a field of `Price` keeps it. Raises: ValueError."""
    if not 0 <= rate < _LARGEST:
        raise ValueError("write a rate in USD of at least 0, per token or apiece")
    return rate.quantize(_NANO)
