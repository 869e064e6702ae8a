"""
The unpriced queue: models whose calls have no cost yet, and what is known that comes nearest.

How many calls wait is read from the daily rollup, whose count goes down when a call gets its
price; tokens and instants from those calls' rows, by an index of calls without a cost. Calls
whose rows were removed count, but can no longer be priced.
"""

from datetime import datetime
from decimal import Decimal
from difflib import SequenceMatcher
from typing import NamedTuple

from django.db.models import Exists, F, Max, Min, OuterRef, QuerySet, Sum

from billing.models import Adjustment, DailyOverview, Hold, Price, SpendLog

_MOST_MODELS = 200
_SIMILAR = 0.5


class Unpriced(NamedTuple):
    """One model in the queue. Tokens, instants and `provisional`: of the calls that can be priced."""

    provider: str
    model: str  # as it was sent upstream
    calls: int
    calls_with_rows: int
    first_at: datetime | None
    last_at: datetime | None
    input_tokens: int
    output_tokens: int
    provisional: Decimal  # USD that budget periods keep for them, each call at its largest hold


def queue() -> list[Unpriced]:
    """Return the models, those with most calls first. Two queries a model."""
    waiting = (
        DailyOverview.objects.exclude(provider="")
        .values("provider", "upstream_model")
        .annotate(waiting=Sum("unpriced_calls"))
        .filter(waiting__gt=0)
        .order_by("-waiting", "provider", "upstream_model")
    )
    return [
        _unpriced(each["provider"], each["upstream_model"], each["waiting"])
        for each in waiting[:_MOST_MODELS]
    ]


def calls_without_price(provider: str, model: str) -> QuerySet:
    """Return the rows of a model's calls that wait for a price."""
    priced = Adjustment.objects.filter(log_id=OuterRef("pk"), unpriced_calls__lt=0)
    rows = SpendLog.objects.filter(provider=provider, upstream_model=model, cost__isnull=True)
    return rows.filter(~Exists(priced))


def _unpriced(provider: str, model: str, calls: int) -> Unpriced:
    logs = calls_without_price(provider, model)
    prompt = F("input_uncached") + F("cache_read") + F("cache_write_5m") + F("cache_write_1h")
    prompt = prompt + F("input_audio") + F("input_image")
    completion = F("output_text") + F("reasoning") + F("output_audio") + F("output_image")
    found = logs.aggregate(
        first=Min("started_at"), last=Max("started_at"), prompt=Sum(prompt), completion=Sum(completion)
    )
    return Unpriced(
        provider,
        model,
        calls,
        logs.count(),
        found["first"],
        found["last"],
        found["prompt"] or 0,
        found["completion"] or 0,
        _provisional(logs),
    )


def _provisional(logs: QuerySet) -> Decimal:
    held = Hold.objects.filter(lease_expires_at=None, call_id__in=logs.values("pk"))
    # A call has a hold on each of its periods, all of one amount.
    each = held.values("call_id").annotate(amount=Max("amount")).values_list("amount", flat=True)
    return sum(each, Decimal(0))


def nearest_price(provider: str, model: str) -> Price | None:
    """Return the latest price of the provider's model whose name is most like this one: where to start."""
    listed = Price.objects.filter(provider=provider).exclude(source=Price.Source.DEPLOYMENT)
    names = listed.exclude(model__endswith="*").values_list("model", flat=True).distinct()
    ranked = sorted(((_likeness(name, model), name) for name in names), reverse=True)
    if not ranked or ranked[0][0] < _SIMILAR:
        return None
    rows = listed.filter(model=ranked[0][1]).order_by(F("effective_from").desc(nulls_last=True), "-pk")
    return rows.first()


def _likeness(name: str, model: str) -> float:
    return SequenceMatcher(None, name.lower(), model.lower(), autojunk=False).ratio()
