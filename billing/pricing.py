"""
From usage to cost: the price book and its arithmetic.

Rates are USD per million tokens, held here as integers of 10⁻⁹ USD per million
tokens. A call's cost is computed exactly over all buckets and rounded once, half
even, to the nano-dollar. A rate that a price does not give is stood in for:

    cache read, cache write 5 min → input      cache write 1 h → cache write 5 min
    reasoning, audio out, image out → output   audio in, image in → input

An explicit 0 is a price. Above a long-context threshold the tier's rates apply to
the whole call, decided by all prompt tokens. No query, clock or setting here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from billing.models.price import RATE_FIELDS, Price
from billing.usage import BUCKETS, Usage
from customers.money import NANO_PER_USD

_TOKENS_PER_RATE = 1_000_000

# bucket → (its rate field, the bucket whose rate stands in)
_RATE_OF_BUCKET = {
    "input_uncached": ("input_per_mtok_usd", None),
    "cache_read": ("cache_read_per_mtok_usd", "input_uncached"),
    "cache_write_5m": ("cache_write_5m_per_mtok_usd", "input_uncached"),
    "cache_write_1h": ("cache_write_1h_per_mtok_usd", "cache_write_5m"),
    "output_text": ("output_per_mtok_usd", None),
    "reasoning": ("reasoning_per_mtok_usd", "output_text"),
    "input_audio": ("input_audio_per_mtok_usd", "input_uncached"),
    "output_audio": ("output_audio_per_mtok_usd", "output_text"),
    "input_image": ("input_image_per_mtok_usd", "input_uncached"),
    "output_image": ("output_image_per_mtok_usd", "output_text"),
}
_TOKEN_BUCKETS = tuple(_RATE_OF_BUCKET)
assert (*_TOKEN_BUCKETS, "web_searches") == BUCKETS


class Rates(NamedTuple):
    """The rates in force for one call: integers of 10⁻⁹ USD, per million tokens or apiece."""

    per_mtok: tuple[int, ...]  # in the order of `BUCKETS`, tokens only
    per_web_search: int
    per_request: int


class CostPart(NamedTuple):
    """One line of "explain this cost": quantity times rate, and its share of the rounded cost."""

    bucket: str
    quantity: int
    rate_usd: Decimal
    per: int  # the rate is for this many: 1,000,000 tokens, or 1
    cost_nano: int


@dataclass(frozen=True, slots=True)
class ResolvedPrice:
    """A price row made ready for the hot path: integers, stand-ins filled in."""

    price_id: int
    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()  # (above this many prompt tokens, rates), ascending
    is_free: bool = field(init=False)

    def __post_init__(self) -> None:
        rates = (self.base, *(tier for _, tier in self.tiers))
        costs = any(any(rate.per_mtok) or rate.per_web_search or rate.per_request for rate in rates)
        object.__setattr__(self, "is_free", not costs)

    def rates_for(self, usage: Usage) -> Rates:
        rates = self.base
        if self.tiers:
            prompt_tokens = usage.prompt_tokens
            for above, tier in self.tiers:
                if prompt_tokens <= above:
                    break
                rates = tier
        return rates

    def cost_nano(self, usage: Usage) -> int:
        """Return the exact cost in nano-dollars, rounded once, half even."""
        rates = self.rates_for(usage)
        # Optimization: most calls fill two or three buckets of eleven; multiplying by zero is the cheap way.
        tokens_nano = _half_even(sum(map(int.__mul__, usage, rates.per_mtok)))
        return tokens_nano + usage.web_searches * rates.per_web_search + rates.per_request

    def estimate_nano(self, input_tokens: int, output_tokens: int) -> int:
        """Return `cost_nano` of uncached input and plain output alone: every call asks this once."""
        if self.tiers:
            return self.cost_nano(Usage(input_uncached=input_tokens, output_text=output_tokens))
        per_mtok = self.base.per_mtok
        return _half_even(input_tokens * per_mtok[0] + output_tokens * per_mtok[4]) + self.base.per_request

    def worst_rates(self, input_tokens: int, *, writes_cache: bool) -> tuple[int, int, int]:
        """Return the dearest (input rate, output rate, price per request) that so many tokens may meet.

        writes_cache: the call may have its input written to the provider's cache.
        """
        all_rates = [self.base, *(rates for above, rates in self.tiers if input_tokens > above)]
        return (
            max(max(rates.per_mtok[: 4 if writes_cache else 2]) for rates in all_rates),
            max(max(rates.per_mtok[4:6]) for rates in all_rates),
            max(rates.per_request for rates in all_rates),
        )

    def explain(self, usage: Usage) -> list[CostPart]:
        """Return the lines whose costs add up to `cost_nano(usage)`, by largest remainder (M2)."""
        rates = self.rates_for(usage)
        lines = [
            (bucket, count, rate, _TOKENS_PER_RATE)
            for bucket, count, rate in zip(_TOKEN_BUCKETS, usage, rates.per_mtok, strict=False)
            if count
        ]
        if usage.web_searches:
            lines.append(("web_searches", usage.web_searches, rates.per_web_search, 1))
        if rates.per_request:
            lines.append(("request", 1, rates.per_request, 1))
        exact = [Fraction(count * rate, per) for _, count, rate, per in lines]
        shown = [int(share) for share in exact]
        missing = self.cost_nano(usage) - sum(shown)
        by_remainder = sorted(range(len(lines)), key=lambda i: exact[i] - shown[i], reverse=True)
        for i in by_remainder[:missing]:
            shown[i] += 1
        return [
            CostPart(bucket, count, Decimal(rate).scaleb(-9), per, cost)
            for (bucket, count, rate, per), cost in zip(lines, shown, strict=True)
        ]


def _half_even(millionths: int) -> int:
    """Return tokens times rates as whole nano-dollars."""
    whole, rest = divmod(millionths, _TOKENS_PER_RATE)
    if rest * 2 > _TOKENS_PER_RATE or (rest * 2 == _TOKENS_PER_RATE and whole & 1):
        return whole + 1
    return whole


def resolve(price: Price) -> ResolvedPrice:
    """Return `price` with stand-ins filled in. Makes no query."""
    given = {name: getattr(price, name) for name in RATE_FIELDS}
    tiers = tuple(
        (int(tier["above_prompt_tokens"]), _rates({**given, **_decimals(tier)}))
        for tier in price.long_context_tiers
    )
    return ResolvedPrice(price_id=price.pk, base=_rates(given), tiers=tiers)


def _decimals(tier: Mapping[str, Any]) -> dict[str, Decimal]:
    return {name: Decimal(str(tier[name])) for name in RATE_FIELDS if tier.get(name) is not None}


def _rates(given: Mapping[str, Decimal | None]) -> Rates:
    per_mtok: dict[str, int] = {}
    for bucket, (name, stand_in) in _RATE_OF_BUCKET.items():
        rate = given[name]
        if rate is not None:
            per_mtok[bucket] = int(rate * NANO_PER_USD)
        else:
            per_mtok[bucket] = per_mtok[stand_in] if stand_in else 0
    # The eleventh factor meets `web_searches`, which is priced apiece.
    return Rates(
        per_mtok=(*per_mtok.values(), 0),
        per_web_search=int((given["per_web_search_usd"] or 0) * NANO_PER_USD),
        per_request=int((given["per_request_usd"] or 0) * NANO_PER_USD),
    )


_PRECEDENCE = {source: rank for rank, source in enumerate(Price.Source.values)}


class PriceBook:
    """All prices, ready to be asked: which row applies to this provider's model at this instant?"""

    def __init__(
        self, prices: Iterable[Price], *, canonical_model: Callable[[str, str], str | None] | None = None
    ) -> None:
        """
        canonical_model: (provider, model) → the name under which a dated or aliased
            model is listed, or None: see `billing.price_sources.canonical_model`.
        """
        self._rows: dict[tuple[str, str], list[tuple[int, float, ResolvedPrice]]] = {}
        self.models: dict[str, set[str]] = {}
        for price in prices:
            if price.source == Price.Source.DEPLOYMENT:
                continue
            since = price.effective_from.timestamp() if price.effective_from else float("-inf")
            row = (_PRECEDENCE[price.source], since, resolve(price))
            self._rows.setdefault((price.provider, price.model), []).append(row)
            self.models.setdefault(price.provider, set()).add(price.model)
        for rows in self._rows.values():
            rows.sort(key=lambda row: (row[0], row[1]), reverse=True)
        self._canonical_model = canonical_model
        self._canonical: dict[tuple[str, str], str | None] = {}

    def find(self, provider: str, model: str, *, at_s: float) -> ResolvedPrice | None:
        """Return the price at Unix time `at_s`: the highest source that has one, then its latest row."""
        rows = self._rows.get((provider, model))
        if rows is None:
            name = self._canonical_name(provider, model)
            rows = self._rows.get((provider, name)) if name else None
        if rows is None:
            return None
        for _, since, price in rows:
            if since <= at_s:
                return price
        return None

    def dearest(self, provider: str, *, at_s: float) -> ResolvedPrice | None:
        """Return the provider's price with the highest rate of output, then input; None if it has none."""
        known = (self.find(provider, model, at_s=at_s) for model in self.models.get(provider, ()))
        prices = [price for price in known if price is not None]
        return max(prices, key=lambda price: (price.base.per_mtok[4], price.base.per_mtok[0]), default=None)

    def _canonical_name(self, provider: str, model: str) -> str | None:
        if self._canonical_model is None:
            return None
        key = (provider, model)
        if key not in self._canonical:
            if len(self._canonical) > 10_000:  # names come from callers
                self._canonical.clear()
            self._canonical[key] = self._canonical_model(provider, model)
        return self._canonical[key]
