"""
Where price rows come from: the `genai-prices` package, which ships its data.

Reads the package's typed data; the rows are ours (`Price`). Its tiers start above
a number of input tokens and apply to the whole call, as ours do. Time-of-day
prices and processing variants (batch, flex, priority) are left to the full price
book. Source: genai-prices 0.2, genai_prices/types.py.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django.db import transaction
from genai_prices import data
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

from billing.models import Price

_NANO = Decimal("0.000000001")  # what a rate field keeps; a few listed rates have a tail of divisions

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
    if not isinstance(model.prices, list):
        yield _row(provider, model.id, model.prices, effective_from=None)
        return
    for conditional in model.prices:
        constraint = conditional.constraint
        if constraint is None:
            yield _row(provider, model.id, conditional.prices, effective_from=None)
        elif isinstance(constraint, StartDateConstraint):
            start = datetime.combine(constraint.start_date, time.min, tzinfo=UTC)
            yield _row(provider, model.id, conditional.prices, effective_from=start)


def _row(provider: str, model: str, rates: ModelPrice, *, effective_from: datetime | None) -> Price:
    base: dict[str, Decimal] = {}
    tiers: dict[int, dict[str, str]] = {}
    for theirs, ours in _FIELDS.items():
        value = getattr(rates, theirs, None)
        if isinstance(value, TieredPrices):
            base[ours] = value.base
            for tier in value.tiers:
                tiers.setdefault(tier.start, {})[ours] = str(tier.price)
        elif value is not None:
            base[ours] = value
    per_thousand_requests = getattr(rates, "requests_kcount", None)
    if isinstance(per_thousand_requests, Decimal):
        base["per_request_usd"] = per_thousand_requests / 1000
    per_thousand_searches = getattr(rates, "web_searches_kcount", None)
    if isinstance(per_thousand_searches, Decimal):
        base["per_web_search_usd"] = per_thousand_searches / 1000
    return Price(
        provider=provider,
        model=model,
        source=Price.Source.GENAI_PRICES,
        effective_from=effective_from,
        long_context_tiers=[{"above_prompt_tokens": start, **tiers[start]} for start in sorted(tiers)],
        **{name: rate.quantize(_NANO) for name, rate in base.items()},
    )


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
    return price.effective_from or datetime.min.replace(tzinfo=UTC)


def _same_rates(one: Price, other: Price) -> bool:
    names = (*_FIELDS.values(), "per_request_usd", "per_web_search_usd", "long_context_tiers")
    return all(getattr(one, name) == getattr(other, name) for name in names)
