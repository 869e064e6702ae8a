"""
LiteLLM's names of rates, in USD per token, → ours, in USD per million tokens.

Rates of a call above a number of prompt tokens (`…_above_200k_tokens`) become tiers.
Those that have no place in `Price` yet (seconds, characters, images, service tiers,
batches) are named, not dropped in silence.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from billing.litellm_rates import ABOVE, PER_TOKEN, apiece, is_rate, per_million
from spendproject.config_keys import decimal


class Rates(NamedTuple):
    """The rates of one entry: fields of `Price`. Empty: the entry says nothing of prices."""

    base: dict[str, Decimal]
    tiers: list[dict[str, Any]]
    unsupported: list[str]


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
        above = ABOVE.fullmatch(name)
        field = PER_TOKEN.get(above["rate"] if above else name)
        try:
            value = resolved(value)
            if above and field:
                tier = tiers.setdefault(int(above["thousands"]) * 1000, {})
                tier[field] = str(per_million(decimal(value)))
            elif field:
                base[field] = per_million(decimal(value))
            elif name == "input_cost_per_request":
                base["per_request_usd"] = apiece(decimal(value))
            elif name == "search_context_cost_per_query" and isinstance(value, dict):
                medium = value.get("search_context_size_medium")
                if medium is not None:
                    base["per_web_search_usd"] = apiece(decimal(medium))
            else:
                unsupported.append(name)
        except ValueError as error:
            problem(name, str(error))
    listed = [{"above_prompt_tokens": start, **tiers[start]} for start in sorted(tiers)]
    return Rates(base, listed, unsupported)
