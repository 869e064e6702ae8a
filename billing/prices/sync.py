"""
Bring the prices of a cost map into the price book: compare, write, and every night if told so.

Rows are added, never edited: a spend log keeps the price it was charged at. A rate that
changed counts from the sync on. So does a model that had a price of another source until
then; one that had none at all counts for all time, as with the packaged prices. A model
that is gone from the map keeps its last price: calls for it still cost something.

How sources rank is in `billing/prices/pricing.py`: a synced map beats the packaged prices, and
what staff entered beats both.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import transaction

from billing.models import Price, PriceSync
from billing.models.price import PRICING_FIELDS
from billing.prices.cost_map import PUBLISHED, BadCostMap, CostMap, load
from billing.prices.pricing import resolve
from customers.models.audit_log import record_audit, values_of

logger = logging.getLogger(__name__)

RUNS_AT = time(3, 0, tzinfo=UTC)  # as CELERY_BEAT_SCHEDULE has it; a test holds the two together
_ROW = 1
_LONGEST_OUTCOME = 500
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Changed(NamedTuple):
    """A model whose rates are others than our latest ones of the map."""

    before: Price
    after: Price

    @property
    def rates(self) -> dict[str, tuple[Any, Any]]:
        """Return what differs, by field: before and after. None: not given."""
        return {
            name: (getattr(self.before, name), getattr(self.after, name))
            for name in PRICING_FIELDS
            if getattr(self.before, name) != getattr(self.after, name)
        }


class Difference(NamedTuple):
    """What a map says that our rows of maps do not."""

    new: list[Price]
    changed: list[Changed]
    gone: list[Price]
    unchanged: int

    @property
    def rows(self) -> int:
        """Return how many rows it takes to follow the map."""
        return len(self.new) + len(self.changed)


def compare_prices(cost_map: CostMap) -> Difference:
    """Hold a map against the latest rows that were synced. One query."""
    latest: dict[tuple[str, str], Price] = {}
    for price in Price.objects.filter(source=Price.Source.COST_MAP):
        current = latest.get((price.provider, price.model))
        if current is None or _since(price) > _since(current):
            latest[price.provider, price.model] = price
    new, changed, unchanged = [], [], 0
    for price in cost_map.prices:
        before = latest.pop((price.provider, price.model), None)
        if before is None:
            new.append(price)
        elif (change := Changed(before, price)).rates:
            changed.append(change)
        else:
            unchanged += 1
    return Difference(new, changed, [latest[key] for key in sorted(latest)], unchanged)


def takeovers(new: Iterable[Price], *, at: datetime) -> list[Changed]:
    """Return those new prices that cost something else than the packaged one in force at `at`. One query.

    A first sync is mostly made of new rows; these are the ones that a bill shows.
    """
    in_force: dict[tuple[str, str], Price] = {}
    rows = Price.objects.filter(source__in=[Price.Source.GENAI_PRICES, Price.Source.ADMIN])
    # Staff's prices last: they win whatever their date.
    for price in sorted(rows, key=lambda row: (row.source == Price.Source.ADMIN, _since(row))):
        if _since(price) <= at:
            in_force[price.provider, price.model] = price
    found = []
    for price in new:
        before = in_force.get((price.provider, price.model))
        if before is None or before.source != Price.Source.GENAI_PRICES:
            continue  # unpriced until now, or staff's own price goes on
        ours, theirs = resolve(before), resolve(price)
        is_same = (ours.base, ours.tiers) == (theirs.base, theirs.tiers)
        if not is_same or before.service_tiers != price.service_tiers:
            found.append(Changed(before, price))
    return found


@transaction.atomic
def sync_prices(cost_map: CostMap, *, at: datetime) -> Difference:
    """Add a row for every price of the map that is new or changed, and return what was different.

    Locks the one row of `PriceSync` first: of two syncs the second finds what the first wrote.
    """
    PriceSync.objects.get_or_create(pk=_ROW)
    row = PriceSync.objects.select_for_update().get(pk=_ROW)
    found = compare_prices(cost_map)
    priced = set(Price.objects.exclude(source=Price.Source.DEPLOYMENT).values_list("provider", "model"))
    for price in found.new:
        price.effective_from = at if (price.provider, price.model) in priced else None
    for change in found.changed:
        # Never before the row that it follows, also where a clock was put back.
        change.after.effective_from = max(at, _since(change.before) + timedelta(microseconds=1))
    rows = [*found.new, *(change.after for change in found.changed)]
    if rows:
        Price.objects.bulk_create(rows, batch_size=500)
    _note(row, summary(found), at=at)
    return found


def summary(found: Difference) -> str:
    """Say a difference in one line."""
    return (
        f"{len(found.new):,} new, {len(found.changed):,} changed, {len(found.gone):,} gone, "
        f"{found.unchanged:,} unchanged"
    )


# -- every night -------------------------------------------------------------------------


def set_automatic(*, is_on: bool, source: str | None = None) -> PriceSync:
    """Switch the nightly sync on or off. source: None keeps the one of before."""
    given: dict[str, Any] = {"is_automatic": is_on} | ({} if source is None else {"source": source})
    with transaction.atomic():
        before = values_of(PriceSync, PriceSync.objects.select_for_update())
        row, _ = PriceSync.objects.update_or_create(pk=_ROW, defaults=given)
        record_audit(PriceSync, before, values_of(PriceSync, PriceSync.objects.all()))
    return row


def automatic() -> PriceSync:
    """Return the switch as it is. One query."""
    return PriceSync.objects.filter(pk=_ROW).first() or PriceSync(pk=_ROW)


def next_run(at: datetime) -> datetime:
    """Return when the nightly task runs next."""
    today = datetime.combine(at.astimezone(UTC).date(), RUNS_AT)
    return today if today > at else today + timedelta(days=1)


def sync_if_automatic(*, at: datetime) -> Difference | None:
    """Follow the map where the switch is on; None where it is off or the map cannot be had.

    What went wrong is logged and kept in the row: the prices stay as they are.
    """
    row = automatic()
    if not row.is_automatic:
        return None
    try:
        cost_map = load(row.source or PUBLISHED)
    except BadCostMap as error:
        logger.error("prices were not synced: %s", error)
        _note(row, f"failed: {error}", at=at)
        return None
    return sync_prices(cost_map, at=at)


def _note(row: PriceSync, outcome: str, *, at: datetime) -> None:
    row.checked_at, row.outcome = at, outcome[:_LONGEST_OUTCOME]
    row.save(update_fields=["checked_at", "outcome"])


def _since(price: Price) -> datetime:
    return price.effective_from or _LONG_AGO


def rate_text(rate: Any) -> str:
    """Write a rate as a diff shows it: `2.5`, `none`; tiers by where they begin, with the input rate."""
    if rate is None:
        return "none"
    if isinstance(rate, Decimal):
        return f"{rate.normalize():f}"
    if isinstance(rate, dict):
        said = [f"{name} {_part_text(part)}" for name, part in rate.items()]
    else:
        said = [
            f"{tier.get('input_per_mtok_usd', 'base')} above {tier['above_prompt_tokens']:,}" for tier in rate
        ]
    return "; ".join(said) or "none"


def _part_text(part: Any) -> str:
    """Write the rate of a unit, or those of a service tier that people look at."""
    if not isinstance(part, dict):
        return str(part)
    if "multiplier" in part:
        return f"times {part['multiplier']}"
    return f"{part.get('input_per_mtok_usd', 'base')} in, {part.get('output_per_mtok_usd', 'base')} out"
