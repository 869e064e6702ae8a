"""
LiteLLM's names of rates, in USD per token or apiece, → ours.

Rates of a call above a number of prompt tokens (`…_above_200k_tokens`) become tiers, those
of service tiers and batches (`…_flex`) parts of their own: `billing/prices/litellm_rates.py`.
Those that have no place in `Price` are named, not dropped in silence.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from billing.prices.litellm_rates import MULTIPLIERS, SEARCH_SIZES, SEARCHES, Sheet, is_rate, place_of
from spendproject.config_keys import decimal

__all__ = ["Rates", "is_rate", "read_rates"]


class Rates(NamedTuple):
    """The rates of one entry: fields of `Price`. Empty: the entry says nothing of prices."""

    base: dict[str, Decimal]
    tiers: list[dict[str, Any]]
    unsupported: list[str]
    unit_rates: dict[str, str] = {}
    service_tiers: dict[str, dict[str, Any]] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.base or self.tiers or self.unit_rates or self.service_tiers)

    @property
    def nested(self) -> dict[str, Any]:
        """Return the fields of `Price` that are no single rate."""
        return {
            "long_context_tiers": self.tiers,
            "unit_rates": self.unit_rates,
            "service_tiers": self.service_tiers,
        }


def read_rates(
    said: Mapping[str, Any], resolved: Callable[[Any], Any], problem: Callable[[str, str], None]
) -> Rates:
    """Read the rates among `said`.

    resolved: returns what a reference to the environment stands for, or raises ValueError.
    problem: told the name and what to do where a rate is wrong.
    """
    sheet, unsupported, mode = Sheet(write=str), [], said.get("mode")
    for name, value in said.items():
        if not (is_rate(name) or name == MULTIPLIERS) or value is None:
            continue
        place = place_of(name, mode)
        try:
            value = resolved(value)
            if place is not None:
                sheet.put(place, decimal(value))
            elif name == SEARCHES and isinstance(value, dict):
                by_size = {size: value.get(f"search_context_size_{size}") for size in SEARCH_SIZES}
                sheet.put_searches(
                    {size: decimal(rate) for size, rate in by_size.items() if rate is not None}
                )
            elif name == MULTIPLIERS and isinstance(value, dict):
                for theirs, factor in value.items():
                    sheet.put_multiplier(theirs, decimal(factor))
            else:
                unsupported.append(name)
        except ValueError as error:
            problem(name, str(error))
    return Rates(sheet.base, sheet.tiers(), unsupported, sheet.unit_rates(), sheet.service_tiers())
