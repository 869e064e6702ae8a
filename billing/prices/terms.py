"""
What the installation has agreed on beside the prices: discounts and margins by provider.

A discount is a fraction off what the provider's price says, so it makes the cost smaller. A
margin is put on top of the cost, in the charge: a fraction of it, an amount for each call, or
both; one of `global` counts for providers that have none of their own. Both are noted among a
call's units, in millionths and nano-dollars, so that its arithmetic can be done again after
the settings have changed.

Written as `openai:0.05` and `global:0.1`, `openai:0.1+0.0005` (COST_DISCOUNTS, COST_MARGINS).
LiteLLM: cost_discount_config, cost_margin_config.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from billing.prices.cost_map import provider_slug
from billing.prices.pricing import ResolvedPrice
from billing.usage import DISCOUNT, MARGIN, MARGIN_FIXED, REPORTED_COST, Units, Usage

GLOBAL = "global"
_PPM = 1_000_000
_MOST_MARGIN = 100  # times the cost
# Whose answers say what the call cost, as the price lists cannot: they pass calls on to others.
_REPORTING = frozenset(("openrouter", "perplexity", "litellm_proxy"))


class Margin(NamedTuple):
    ppm: int  # of the cost
    nano: int  # for each call


class Terms(NamedTuple):
    """Discounts, in millionths, and margins; both by provider."""

    discounts: Mapping[str, int] = {}
    margins: Mapping[str, Margin] = {}

    def of(self, provider: str) -> dict[str, int] | None:
        """Return what is to be noted among the units of the provider's calls."""
        if not self.discounts and not self.margins:
            return None
        margin = self.margin_of(provider)
        noted = {
            DISCOUNT: self.discounts.get(provider, 0), MARGIN: margin.ppm, MARGIN_FIXED: margin.nano
        }  # fmt: skip
        return {name: number for name, number in noted.items() if number} or None

    def margin_of(self, provider: str) -> Margin:
        return self.margins.get(provider) or self.margins.get(GLOBAL) or _NO_MARGIN


_NO_MARGIN = Margin(0, 0)


def read_terms(discounts: Iterable[str], margins: Iterable[str]) -> Terms:
    """Return the terms that the settings say. Raises: ValueError with what is wrong."""
    return Terms(dict(map(_discount, discounts)), dict(map(_margin, margins)))


def _discount(entry: str) -> tuple[str, int]:
    provider, _, fraction = entry.partition(":")
    ppm = _millionths(fraction, entry)
    if ppm > _PPM:
        raise ValueError(f"{entry!r}: a discount is at most 1, all of the cost")
    return provider_slug(provider.strip()), ppm


def _margin(entry: str) -> tuple[str, Margin]:
    provider, _, said = entry.partition(":")
    fraction, _, fixed = said.partition("+")
    ppm = _millionths(fraction, entry)
    nano = _millionths(fixed or "0", entry, per=1_000_000_000)
    if ppm > _MOST_MARGIN * _PPM:
        raise ValueError(f"{entry!r}: a margin is a fraction of the cost, 0.1 for ten percent")
    return provider_slug(provider.strip()), Margin(ppm, nano)


def _millionths(text: str, entry: str, *, per: int = _PPM) -> int:
    try:
        number = Decimal(text.strip()) * per
    except InvalidOperation:
        number = Decimal(-1)
    if not number.is_finite() or number < 0 or number != int(number):
        raise ValueError(f"{entry!r} is not written as provider:0.05, six decimals; of an amount nine")
    return int(number)


def with_search_size(units: Units | None, usage: Usage, size: str) -> Units | None:
    """Return units that say how much context a call's searches had; an answer's own word counts first."""
    if not size or not usage.web_searches or any(name.startswith("web_searches:") for name in units or ()):
        return units
    return {**(units or {}), f"web_searches:{size}": usage.web_searches}


def billed_units(
    units: Units | None, *, provider: str, price: ResolvedPrice | None, terms: Terms
) -> dict[str, int] | None:
    """Return what a call's cost is worked out with beside its tokens: what it used, and the terms.

    A cost that the provider reports counts for those that pass calls on, unless staff have set
    the model's price themselves.
    """
    if units and REPORTED_COST in units:
        is_taken = provider in _REPORTING and (price is None or price.provider_reports_count)
        if not is_taken:
            units = {name: count for name, count in units.items() if name != REPORTED_COST}
    noted = terms.of(provider)
    known = {**(units or {}), **(noted or {})}
    return known or None
