"""
Where price rows come from: the `genai-prices` package, which ships its data.

Reads the package's typed data; the rows are ours (`Price`). Its tiers start above
a number of input tokens and apply to the whole call, as ours do. Prices of a time of day
are left out. Source: genai-prices 0.2, genai_prices/types.py, data/units.yml.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from django.db import transaction
from genai_prices import data
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from billing.models import Price
from billing.models.price import PRICING_FIELDS
from billing.prices.litellm_rates import threshold_of
from customers.money import plain_usd

_NANO = Decimal("0.000000001")  # what a rate field keeps; a few listed rates have a tail of divisions
_ALWAYS = datetime.min.replace(tzinfo=UTC)

# Their field → ours. Thousands of searches become one search below.
_FIELDS = {
    "input_mtok": "input_per_mtok_usd",
    "cache_read_mtok": "cache_read_per_mtok_usd",
    "cache_write_mtok": "cache_write_5m_per_mtok_usd",
    "cache_write_1h_mtok": "cache_write_1h_per_mtok_usd",
    "output_mtok": "output_per_mtok_usd",
    "output_reasoning_mtok": "reasoning_per_mtok_usd",
    "input_audio_mtok": "input_audio_per_mtok_usd",
    "output_audio_mtok": "output_audio_per_mtok_usd",
    "input_image_mtok": "input_image_per_mtok_usd",
    "output_image_mtok": "output_image_per_mtok_usd",
}


_APIECE = {"requests_kcount": "per_request_usd", "web_searches_kcount": "per_web_search_usd"}
# Their rate → our unit, and what theirs is multiplied by.
_UNITS: dict[str, tuple[str, Decimal | int]] = {
    "cache_audio_read_mtok": ("cache_read_audio", 1),
    "cache_image_read_mtok": ("cache_read_image", 1),
    "input_video_mtok": ("input_video", 1),
    "output_video_mtok": ("output_video", 1),
    "output_citation_mtok": ("citation_tokens", 1),
    "input_mchars": ("input_characters", 1),
    "input_audio_hours": ("input_audio_ms", Decimal(1) / 3600),
    "audio_hours": ("input_audio_ms", Decimal(1) / 3600),
    "input_document_kpages": ("pages", Decimal("0.001")),
    "input_annotated_document_kpages": ("annotated_pages", Decimal("0.001")),
    "storage_searches_kcount": ("file_searches", Decimal("0.001")),
}
# Their condition → our service tier. `fast` is OpenAI's other word for priority.
_SERVICE_TIERS = {
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("processing", "batch"): "batch",
    ("speed", "fast"): "speed:fast",
}


@lru_cache(maxsize=1)
def _providers() -> dict[str, Any]:
    return {provider.id: provider for provider in data.providers}


def canonical_model(provider: str, model: str) -> str | None:
    """Return the listed name of a dated or aliased model (`gpt-4o-2024-08-06` → `gpt-4o`), or None."""
    known = _providers().get(provider)
    if known is None:
        return None
    found = known.find_model(model.lower())
    return found.id if found is not None else None


@lru_cache(maxsize=1)
def context_windows() -> dict[tuple[str, str], int]:
    """Return how many tokens a model reads at most, where that is known, by (provider, listed name)."""
    return {
        (provider.id, model.id): model.context_window
        for provider in data.providers
        for model in provider.models
        if model.context_window
    }


def genai_prices_rows() -> Iterator[Price]:
    """Yield unsaved prices of every model the package knows, dated where it is."""
    for provider in data.providers:
        for model in provider.models:
            yield from _rows_of(provider.id, model)


def _rows_of(provider: str, model: ModelInfo) -> Iterator[Price]:
    """Yield the model's rows, the latest last: it alone has the service tiers, whose past nobody tells."""
    if not isinstance(model.prices, list):
        dated: list[tuple[datetime | None, ModelPrice]] = [(None, model.prices)]
    else:
        dated = [
            (_start_of(conditional.constraint), conditional.prices)
            for conditional in model.prices
            if conditional.constraint is None or isinstance(conditional.constraint, StartDateConstraint)
        ]
    dated.sort(key=lambda pair: pair[0] or _ALWAYS)
    for effective_from, rates in dated:
        price = _row(provider, model.id, rates, effective_from=effective_from)
        if not price.has_rates:
            if not model.id.endswith(":free"):
                continue  # nobody knows: not the same as free
            price.input_per_mtok_usd = price.output_per_mtok_usd = Decimal(0)
        if (effective_from, rates) == dated[-1]:
            price.service_tiers = _service_tiers(provider, model, price.long_context_tiers)
        yield price


def _start_of(constraint: StartDateConstraint | None) -> datetime | None:
    return None if constraint is None else datetime.combine(constraint.start_date, time.min, tzinfo=UTC)


def _row(provider: str, model: str, rates: ModelPrice, *, effective_from: datetime | None) -> Price:
    base, units, tiers = _layout(provider, rates)
    return Price(
        provider=provider,
        model=model,
        source=Price.Source.GENAI_PRICES,
        effective_from=effective_from,
        long_context_tiers=[{"above_prompt_tokens": start, **tiers[start]} for start in sorted(tiers)],
        unit_rates={name: plain_usd(rate) for name, rate in sorted(units.items())},
        **base,
    )


class _Layout(NamedTuple):
    base: dict[str, Decimal]
    units: dict[str, Decimal]
    tiers: dict[int, dict[str, str]]  # above so many prompt tokens: rates


def _layout(provider: str, rates: ModelPrice) -> _Layout:
    """Return the package's rates by where we keep them."""
    found = _Layout({}, {}, {})
    for theirs, ours in _FIELDS.items():
        value = getattr(rates, theirs, None)
        if isinstance(value, TieredPrices):
            found.base[ours] = value.base.quantize(_NANO)
            for tier in value.tiers:
                above = found.tiers.setdefault(threshold_of(provider, tier.start), {})
                above[ours] = str(tier.price)
        elif value is not None:
            found.base[ours] = value.quantize(_NANO)
    for theirs, ours in _APIECE.items():
        per_thousand = getattr(rates, theirs, None)
        if isinstance(per_thousand, Decimal):
            found.base[ours] = (per_thousand / 1000).quantize(_NANO)
    for theirs, (unit, times) in _UNITS.items():
        value = getattr(rates, theirs, None)
        if isinstance(value, Decimal):
            found.units[unit] = (value * times).quantize(_NANO)
    return found


def _service_tiers(
    provider: str, listed: ModelInfo, long_context: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the rates of service tiers and batches.

    There a plain rate counts at every length of the prompt; with us it would be the base rate
    of a row that has long-context rates, so it is written out for those as well.
    """
    found: dict[str, dict[str, Any]] = {}
    for variant in listed.price_variants or ():
        names = [_SERVICE_TIERS.get(condition) for condition in variant.when.items()]
        if len(names) != 1 or names[0] is None or isinstance(variant.constraint, TimeOfDateConstraint):
            continue
        base, units, tiers = _layout(provider, variant.prices)
        part: dict[str, Any] = {name: plain_usd(rate) for name, rate in base.items()}
        if units:
            part["unit_rates"] = {name: plain_usd(rate) for name, rate in sorted(units.items())}
        with_tiers = {name for tier in tiers.values() for name in tier}
        for tier in long_context:
            for name in sorted(base.keys() & tier.keys() - with_tiers):
                tiers.setdefault(tier["above_prompt_tokens"], {}).setdefault(name, part[name])
        if tiers:
            part["long_context_tiers"] = [
                {"above_prompt_tokens": start, **tiers[start]} for start in sorted(tiers)
            ]
        if part:
            found.setdefault(names[0], part)
    return {name: found[name] for name in sorted(found)}


@transaction.atomic
def load_genai_prices(*, at: datetime) -> int:
    """Add a row for every price that is new or differs from our latest one; return how many.

    A rate that changed between two versions of the package counts from `at`, unless
    the package dates it later: rows that logs refer to are never edited.
    """
    latest: dict[tuple[str, str], Price] = {}
    for price in Price.objects.filter(source=Price.Source.GENAI_PRICES):
        current = latest.get((price.provider, price.model))
        if current is None or _since(price) > _since(current):
            latest[price.provider, price.model] = price

    packaged: dict[tuple[str, str], list[Price]] = {}
    for price in genai_prices_rows():
        packaged.setdefault((price.provider, price.model), []).append(price)

    new: list[Price] = []
    for model, rows in packaged.items():
        if model not in latest:
            new += rows
            continue
        newest = max(rows, key=_since)
        if not _same_rates(latest[model], newest):
            if _since(newest) <= _since(latest[model]):
                newest.effective_from = at
            new.append(newest)
    Price.objects.bulk_create(new, batch_size=500)
    return len(new)


def _since(price: Price) -> datetime:
    return price.effective_from or _ALWAYS


def _same_rates(one: Price, other: Price) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in PRICING_FIELDS)
