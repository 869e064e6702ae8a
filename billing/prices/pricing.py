"""
From usage to cost: the price book and its arithmetic.

Rates are USD per million tokens, held here as integers of 10⁻⁹ USD per million
tokens. A call's cost is computed exactly over all buckets and units and rounded once,
half even, to the nano-dollar. A rate that a price does not give is stood in for:

    cache read, cache write 5 min → input      cache write 1 h → cache write 5 min
    reasoning, audio out, image out → output   audio in, image in → input

An explicit 0 is a price. Above a long-context threshold the tier's rates apply to
the whole call, decided by all prompt tokens. A service tier's rates stand before the
standard ones, each by itself; of a batch those that are not given are halved. The rules
in full, with examples: docs/prices.md. No query, clock or setting here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from billing.models.price import RATE_FIELDS, Price
from billing.prices.model_names import WILDCARD, names_of, service_tier_of
from billing.usage import (
    BUCKETS,
    DISCOUNT,
    FLAGS,
    MARGIN,
    MARGIN_FIXED,
    REPORTED_COST,
    UNITS,
    Units,
    Usage,
    unit_of,
)
from customers.money import NANO_PER_USD

_TOKENS_PER_RATE = 1_000_000
_PPM = 1_000_000  # a discount or margin of the whole
_BATCH = "batch"

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
_TOKEN_RATES = frozenset(name for name, _ in _RATE_OF_BUCKET.values())


class Rates(NamedTuple):
    """The rates in force for one call: integers of 10⁻⁹ USD, per million tokens or apiece."""

    per_mtok: tuple[int, ...]  # in the order of `BUCKETS`, tokens only
    per_web_search: int
    per_request: int
    units: Mapping[str, int]  # for as many as `Unit.per` says


class Table(NamedTuple):
    """Rates by the length of the prompt."""

    base: Rates
    tiers: tuple[tuple[int, Rates], ...]  # (above this many prompt tokens, rates), ascending

    def rates_for(self, usage: Usage) -> Rates:
        rates = self.base
        if self.tiers:
            prompt_tokens = usage.prompt_tokens
            for above, tier in self.tiers:
                if prompt_tokens <= above:
                    break
                rates = tier
        return rates


class CostPart(NamedTuple):
    """One line of "explain this cost": quantity times rate, and its share of the rounded cost."""

    bucket: str
    quantity: int
    rate_usd: Decimal
    per: int  # the rate is for this many: 1,000,000 tokens, 1,000 milliseconds, or 1
    cost_nano: int


class Conditions(NamedTuple):
    """Why a call has the rates it has, where they are not the standard ones."""

    service_tiers: tuple[str, ...]  # whose rates stand before the standard ones; `speed:fast` too
    above_prompt_tokens: int | None  # the long-context threshold that was crossed


class _Line(NamedTuple):
    """A quantity and its rate in nano-dollars."""

    name: str
    quantity: int
    rate: int
    per: int

    @property
    def millionths(self) -> int:
        """Return the exact cost in millionths of a nano-dollar."""
        return self.quantity * self.rate * (_TOKENS_PER_RATE // self.per)


@dataclass(frozen=True, slots=True)
class ResolvedPrice:
    """A price row made ready for the hot path: integers, stand-ins filled in."""

    price_id: int
    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()  # (above this many prompt tokens, rates), ascending
    said: "_Said | None" = field(default=None, compare=False)  # what the row says, for service tiers
    source: str = ""  # of the row
    provider: str = ""
    model: str = ""  # as the row has it: `gpt-4o`, or a wildcard
    is_free: bool = field(init=False)
    _tables: dict[tuple[str, ...], Table] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        rates = (self.base, *(tier for _, tier in self.tiers))
        costs = any(
            any(rate.per_mtok) or rate.per_web_search or rate.per_request or any(rate.units.values())
            for rate in rates
        )
        object.__setattr__(self, "is_free", not costs)
        object.__setattr__(self, "_tables", {(): Table(self.base, self.tiers)})

    @property
    def provider_reports_count(self) -> bool:
        """Tell whether a cost that the provider reports is taken instead: not where staff set the price."""
        return self.source not in (Price.Source.ADMIN, Price.Source.DEPLOYMENT)

    def rates_for(self, usage: Usage, units: Units | None = None, service_tier: str = "") -> Rates:
        """Return the rates of the whole call: by its service tier, and by the length of its prompt."""
        return self._table(self._names(units, service_tier)).rates_for(usage)

    def cost_nano(self, usage: Usage, units: Units | None = None, service_tier: str = "") -> int:
        """Return the exact cost in nano-dollars, rounded once, half even."""
        if units:
            rates = self.rates_for(usage, units, service_tier)
            return _rounded(_millionths(usage, units, rates), units)
        # Optimization: most calls have no units, and are served at the standard tier.
        rates = self.base
        if self.tiers or service_tier:
            rates = self.rates_for(usage, None, service_tier)
        # Optimization: most calls fill two or three buckets of eleven; multiplying by zero is the cheap way.
        tokens_nano = _half_even(sum(map(int.__mul__, usage, rates.per_mtok)))
        return tokens_nano + usage.web_searches * rates.per_web_search + rates.per_request

    def estimate_nano(self, input_tokens: int, output_tokens: int, service_tier: str = "") -> int:
        """Return `cost_nano` of uncached input and plain output alone: every call asks this once."""
        if self.tiers or service_tier:
            usage = Usage(input_uncached=input_tokens, output_text=output_tokens)
            return self.cost_nano(usage, None, service_tier)
        per_mtok = self.base.per_mtok
        return _half_even(input_tokens * per_mtok[0] + output_tokens * per_mtok[4]) + self.base.per_request

    def worst_rates(self, input_tokens: int, *, writes_cache: bool) -> tuple[int, int, int]:
        """Return the dearest (input rate, output rate, price per request) that so many tokens may meet.

        Standard rates: a call that asks for a dearer service tier is not bounded by them
        (`proxy/dialects/bounds.py`). writes_cache: the call may have its input written to the
        provider's cache.
        """
        all_rates = [self.base, *(rates for above, rates in self.tiers if input_tokens > above)]
        return (
            max(max(rates.per_mtok[: 4 if writes_cache else 2]) for rates in all_rates),
            max(max(rates.per_mtok[4:6]) for rates in all_rates),
            max(rates.per_request for rates in all_rates),
        )

    def covers(self, usage: Usage, units: Units | None) -> bool:
        """Tell whether there is a rate for what was used. A call of nothing but what has none is unpriced."""
        said = self.said
        if said is None or (said.has_token_rates and not units):
            return True
        tokens = usage.total_tokens
        if tokens and (said.has_token_rates or self.base.per_request):
            return True
        measured = [name for name in units or () if (unit := unit_of(name)) and unit.is_measured]
        return (not tokens or bool(measured)) and all(
            _rate_of_unit(self.base, name) is not None for name in measured
        )

    def conditions(self, usage: Usage, units: Units | None = None, service_tier: str = "") -> Conditions:
        """Return which of the row's rates a call has."""
        names = self._names(units, service_tier)
        above = [above for above, _ in self._table(names).tiers if usage.prompt_tokens > above]
        return Conditions(names, max(above, default=None))

    def explain(self, usage: Usage, units: Units | None = None, service_tier: str = "") -> list[CostPart]:
        """Return the lines whose costs add up to `cost_nano`, by largest remainder (M2)."""
        return _shares(self._lines(usage, units, service_tier), units)

    def _lines(self, usage: Usage, units: Units | None, service_tier: str) -> list[_Line]:
        rates = self.rates_for(usage, units, service_tier)
        left, of_units = [*usage], []
        for name, quantity in (units or {}).items():
            unit, rate = unit_of(name), _rate_of_unit(rates, name)
            if unit is None or rate is None:
                continue
            if unit.part_of is not None:
                bucket = BUCKETS.index(unit.part_of)
                quantity = min(quantity, left[bucket])
                left[bucket] -= quantity
            if quantity:
                of_units.append(_Line(name, quantity, rate, unit.per))
        lines = [
            _Line(bucket, count, rate, _TOKENS_PER_RATE)
            for bucket, count, rate in zip(_TOKEN_BUCKETS, left, rates.per_mtok, strict=False)
            if count
        ]
        if left[-1]:
            lines.append(_Line("web_searches", left[-1], rates.per_web_search, 1))
        lines += of_units
        if rates.per_request:
            lines.append(_Line("request", 1, rates.per_request, 1))
        return lines

    def _names(self, units: Units | None, service_tier: str) -> tuple[str, ...]:
        """Return the service tiers whose rates count, the later ones first."""
        tier = service_tier_of(service_tier) if service_tier else ""
        if not tier and not units:
            return ()
        known = self.said.service_tiers if self.said else {}
        names: tuple[str, ...] = (tier,) if tier and (tier in known or tier == _BATCH) else ()
        if units and known:
            names += tuple(flag for flag in FLAGS if flag in units and flag in known)
        return names

    def _table(self, names: tuple[str, ...]) -> Table:
        table = self._tables.get(names)
        if table is None:
            # There are as many as the row names, and their combinations.
            table = self._tables[names] = _table(self.said or _NOTHING_SAID, names)
        return table


def _millionths(usage: Usage, units: Units, rates: Rates) -> int:
    """Return the exact cost in millionths of a nano-dollar: the sum of `_lines`, in a third of the time."""
    per_mtok, of_units = rates.per_mtok, rates.units
    apiece = usage[-1] * rates.per_web_search + rates.per_request
    total = sum(map(int.__mul__, usage, per_mtok)) + apiece * _TOKENS_PER_RATE
    left: dict[int, int] = {}
    for name, quantity in units.items() if of_units else ():
        known = _COUNTED.get(name) or _COUNTED.get(name.partition(":")[0])
        rate = _rate_of_unit(rates, name)
        if known is None or rate is None:
            continue
        bucket, times = known
        rate *= times
        if bucket is not None:
            was_left = left.get(bucket, usage[bucket])
            quantity = min(quantity, was_left)
            left[bucket] = was_left - quantity
            in_bucket = per_mtok[bucket] if bucket < _SEARCHES else rates.per_web_search * _TOKENS_PER_RATE
            rate -= in_bucket
        total += quantity * rate
    return total


_SEARCHES = BUCKETS.index("web_searches")
# unit → (the bucket that counts it too, how many millionths its rate is for one)
_COUNTED = {
    name: (BUCKETS.index(unit.part_of) if unit.part_of else None, _TOKENS_PER_RATE // unit.per)
    for name, unit in UNITS.items()
}


# -- the cost of a call ----------------------------------------------------------------


def cost_of(
    price: ResolvedPrice | None, usage: Usage, units: Units | None = None, service_tier: str = ""
) -> int | None:
    """Return what a call costs, in nano-dollars; None where nobody knows: it is unpriced.

    A cost that the provider reported, among the units, is taken as it is.
    """
    if units and REPORTED_COST in units:
        return units[REPORTED_COST]
    if price is None or not price.covers(usage, units):
        return None
    return price.cost_nano(usage, units, service_tier)


def charge_of(cost_nano: int | None, units: Units | None) -> int | None:
    """Return what the customer pays for a call: its cost, with the margin that is noted among the units."""
    if cost_nano is None or not units or not (MARGIN in units or MARGIN_FIXED in units):
        return cost_nano
    return _half_even(cost_nano * (_PPM + units.get(MARGIN, 0))) + units.get(MARGIN_FIXED, 0)


def explain_cost(
    price: ResolvedPrice | None, usage: Usage, units: Units | None = None, service_tier: str = ""
) -> list[CostPart]:
    """Return the lines whose costs add up to `cost_of`; none where the call is unpriced."""
    if units and REPORTED_COST in units:
        nano = units[REPORTED_COST]
        return [CostPart("reported_cost", 1, Decimal(nano).scaleb(-9), 1, nano)]
    if price is None or not price.covers(usage, units):
        return []
    return price.explain(usage, units, service_tier)


def _shares(lines: Sequence[_Line], units: Units | None) -> list[CostPart]:
    exact = [Fraction(line.millionths, _TOKENS_PER_RATE) for line in lines]
    total = _rounded(sum(line.millionths for line in lines), units)
    parts = [(line.name, line.quantity, Decimal(line.rate).scaleb(-9), line.per) for line in lines]
    if units and units.get(DISCOUNT):
        off_millionths = sum(line.millionths for line in lines) * units[DISCOUNT]
        exact.append(Fraction(-off_millionths, _TOKENS_PER_RATE * _PPM))
        parts.append((DISCOUNT, 1, -Decimal(off_millionths).scaleb(-21), 1))
    shown = [share.__floor__() for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: exact[i] - shown[i], reverse=True)
    for i in by_remainder[: total - sum(shown)]:
        shown[i] += 1
    return [CostPart(*part, cost) for part, cost in zip(parts, shown, strict=True)]


def _rounded(millionths: int, units: Units | None) -> int:
    """Return millionths of nano-dollars as whole ones, less the discount that is noted among the units."""
    discount_ppm = units.get(DISCOUNT, 0) if units else 0
    if not discount_ppm:
        return _half_even(millionths)
    return _divided(millionths * (_PPM - discount_ppm), _TOKENS_PER_RATE * _PPM)


def _half_even(millionths: int) -> int:
    """Return tokens times rates as whole nano-dollars."""
    return _divided(millionths, _TOKENS_PER_RATE)


def _divided(amount: int, by: int) -> int:
    """Return the quotient, rounded half even."""
    whole, rest = divmod(amount, by)
    if rest * 2 > by or (rest * 2 == by and whole & 1):
        return whole + 1
    return whole


# -- from a row to rates ---------------------------------------------------------------

_Part = Mapping[str, Any]  # rates by field, and `unit_rates`; texts or decimals


class _Said(NamedTuple):
    """What a price row says."""

    base: _Part
    tiers: Sequence[_Part]
    service_tiers: Mapping[str, _Part]

    @property
    def has_token_rates(self) -> bool:
        return bool(_TOKEN_RATES & self.base.keys())


_NOTHING_SAID = _Said({}, (), {})


def resolve(price: Price) -> ResolvedPrice:
    """Return `price` with stand-ins filled in. Makes no query."""
    base = {name: rate for name in RATE_FIELDS if (rate := getattr(price, name)) is not None}
    if price.unit_rates:
        base["unit_rates"] = price.unit_rates
    said = _Said(base, price.long_context_tiers, price.service_tiers or {})
    standard = _table(said, ())
    return ResolvedPrice(
        price.pk, standard.base, standard.tiers, said, price.source, price.provider, price.model
    )


def _table(said: _Said, names: tuple[str, ...]) -> Table:
    """Return the rates of the service tiers `names`, or the standard ones."""
    layers = [said.service_tiers.get(name, {}) for name in names]
    lists = [said.tiers, *(layer.get("long_context_tiers", ()) for layer in layers)]
    thresholds = sorted({int(tier["above_prompt_tokens"]) for tiers in lists for tier in tiers})
    standard = _halved if _BATCH in names else dict

    def rates_at(above: int | None) -> Rates:
        parts = [standard(said.base), *layers]
        if above is not None:
            parts += [standard(_at(lists[0], above)), *(_at(tiers, above) for tiers in lists[1:])]
        return _rates(parts)

    return Table(rates_at(None), tuple((above, rates_at(above)) for above in thresholds))


def _at(tiers: Sequence[_Part], above: int) -> _Part:
    """Return the highest tier that a prompt of more than `above` tokens has crossed."""
    crossed = [tier for tier in tiers if int(tier["above_prompt_tokens"]) <= above]
    return max(crossed, key=lambda tier: int(tier["above_prompt_tokens"]), default={})


def _halved(part: _Part) -> dict[str, Any]:
    """Return a part at half its rates: those of tokens and measured units, not those of tools and calls."""
    halved = {name: _half(rate) if name in _TOKEN_RATES else rate for name, rate in part.items()}
    if "unit_rates" in part:
        halved["unit_rates"] = {
            name: rate if name.partition(":")[0] in _TOOLS else _half(rate)
            for name, rate in part["unit_rates"].items()
        }
    return halved


_TOOLS = frozenset(
    name for name, unit in UNITS.items() if unit.per == 1 and not unit.is_measured
)  # billed by the call, in batches too


def _half(rate: Any) -> Decimal:
    return _nano(Decimal(str(rate)) / 2)


def _nano(rate: Decimal) -> Decimal:
    return rate.quantize(Decimal("1e-9"))  # what a rate field keeps, half even


def _rates(parts: Sequence[_Part]) -> Rates:
    """Return rates, those of later parts before those of earlier ones."""
    given: dict[str, int] = {}
    units: dict[str, int] = {}
    multiplier = Decimal(1)
    for part in parts:
        given |= {name: _integer(part[name]) for name in RATE_FIELDS if part.get(name) is not None}
        units |= {name: _integer(rate) for name, rate in part.get("unit_rates", {}).items()}
        multiplier *= Decimal(part.get("multiplier", 1))
    per_mtok: dict[str, int] = {}
    for bucket, (name, stand_in) in _RATE_OF_BUCKET.items():
        rate = given.get(name)
        per_mtok[bucket] = rate if rate is not None else per_mtok[stand_in] if stand_in else 0
    if multiplier != 1:
        per_mtok = {bucket: round(rate * multiplier) for bucket, rate in per_mtok.items()}
    # The eleventh factor meets `web_searches`, which is priced apiece.
    return Rates(
        per_mtok=(*per_mtok.values(), 0),
        per_web_search=given.get("per_web_search_usd", 0),
        per_request=given.get("per_request_usd", 0),
        units=units,
    )


def _integer(rate: Any) -> int:
    return int(_nano(Decimal(str(rate))) * NANO_PER_USD)


def _rate_of_unit(rates: Rates, name: str) -> int | None:
    """Return the rate of a unit: of its kind, else of the unit whatever its kind."""
    rate = rates.units.get(name)
    return rates.units.get(name.partition(":")[0]) if rate is None else rate


# -- the book --------------------------------------------------------------------------

_PRECEDENCE = {source: rank for rank, source in enumerate(Price.Source.values)}
_MAX_NAMES = 10_000


class PriceBook:
    """All prices, ready to be asked: which row applies to this provider's model at this instant?"""

    def __init__(
        self,
        prices: Iterable[Price],
        *,
        canonical_model: Callable[[str, str], str | None] | None = None,
        of_rate_card: bool = False,
    ) -> None:
        """
        of_rate_card: these are the own prices of one card.
        canonical_model: (provider, model) → the name under which a dated or aliased
            model is listed, or None: see `billing.prices.sources.canonical_model`.
        """
        self._rows: dict[tuple[str, str], list[tuple[int, float, ResolvedPrice]]] = {}
        self.models: dict[str, set[str]] = {}
        wildcards: dict[str, set[str]] = {}
        for price in prices:
            is_listed = of_rate_card or price.source != Price.Source.DEPLOYMENT
            if not is_listed or not price.has_rates:
                continue  # a row that says nothing is no price of 0
            since = price.effective_from.timestamp() if price.effective_from else float("-inf")
            row = (_PRECEDENCE[price.source], since, resolve(price))
            self._rows.setdefault((price.provider, price.model), []).append(row)
            listed = wildcards if price.model.endswith(WILDCARD) else self.models
            listed.setdefault(price.provider, set()).add(price.model)
        for rows in self._rows.values():
            rows.sort(key=lambda row: (row[0], row[1]), reverse=True)
        self._wildcards = {
            provider: sorted(names, key=len, reverse=True) for provider, names in wildcards.items()
        }
        self._canonical_model = canonical_model
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}

    def find(self, provider: str, model: str, *, at_s: float) -> ResolvedPrice | None:
        """Return the price at Unix time `at_s`, or None.

        Of the names that a model may be listed by (`billing/prices/model_names.py`) the first that has
        a row in force counts; of its rows the highest source, then the latest.
        """
        rows = self._rows.get((provider, model))
        if rows is not None and (price := _in_force(rows, at_s)) is not None:
            return price
        for name in self._other_names(provider, model):
            price = _in_force(self._rows[provider, name], at_s)
            if price is not None:
                return price
        return None

    def dearest(self, provider: str, *, at_s: float) -> ResolvedPrice | None:
        """Return the provider's price with the highest rate of output, then input; None if it has none."""
        known = (self.find(provider, model, at_s=at_s) for model in self.models.get(provider, ()))
        prices = [price for price in known if price is not None]
        return max(prices, key=lambda price: (price.base.per_mtok[4], price.base.per_mtok[0]), default=None)

    def _other_names(self, provider: str, model: str) -> tuple[str, ...]:
        """Return the names under which rows may stand for the model, in their order."""
        key = (provider, model)
        names = self._names.get(key)
        if names is None:
            if len(self._names) > _MAX_NAMES:  # names come from callers
                self._names.clear()
            listed = [
                name
                for name in names_of(provider, model, canonical_model=self._canonical_model)
                if (provider, name) in self._rows
            ]
            beginnings = self._wildcards.get(provider, ())
            listed += [name for name in beginnings if model.startswith(name.removesuffix(WILDCARD))]
            names = self._names[key] = tuple(listed)
        return names


def _in_force(rows: Iterable[tuple[int, float, ResolvedPrice]], at_s: float) -> ResolvedPrice | None:
    for _, since, price in rows:
        if since <= at_s:
            return price
    return None
