"""
Rate cards: what a customer pays, where it is not what the provider bills.

    own price of the card for the model, in force when the call started
        → the charge is the call's usage at that price; discounts and the multiplier do not count
    else → the charge is the cost, times the card's multiplier
    no card → the cost, with COST_MARGINS

Own prices are `Price` rows that belong to a card, found like all others: by provider and
model, dated, with `*`. What decided a charge is noted among the call's units (`own_price_id`,
`margin_ppm`), so that it can be worked out again. An unpriced call has no charge either: it
gets both when it gets its price. Holds: the larger of cost and charge, for every budget.

No query here but `load_rate_cards`. Amounts are nano-dollars.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from billing.models import Price
from billing.prices.pricing import PriceBook, ResolvedPrice, charge_of
from billing.prices.sources import canonical_model
from billing.usage import DISCOUNT, MARGIN, MARGIN_FIXED, OWN_PRICE, REPORTED_COST, Units, Usage
from customers.models import RateCard

_NOT_IN_CHARGE = frozenset((DISCOUNT, MARGIN, MARGIN_FIXED, REPORTED_COST, OWN_PRICE))


class Card(NamedTuple):
    """A rate card as calls need it."""

    margin_ppm: int  # on top of the cost, in millionths of it; below 0: a discount
    own_prices: PriceBook | None = None

    def own_price(self, provider: str, model: str, *, at_s: float) -> ResolvedPrice | None:
        """Return the card's own price of a model, as it goes upstream, at Unix time `at_s`."""
        return self.own_prices.find(provider, model, at_s=at_s) if self.own_prices is not None else None

    def noted(self, units: Units | None, own: ResolvedPrice | None) -> dict[str, int] | None:
        """Return the units of a call, with what decides its charge. It stands in place of COST_MARGINS."""
        kept = {name: number for name, number in (units or {}).items() if name not in _MARGINS}
        if own is not None:
            kept[OWN_PRICE] = own.price_id
        elif self.margin_ppm:
            kept[MARGIN] = self.margin_ppm
        return kept or None


_MARGINS = frozenset((MARGIN, MARGIN_FIXED))


def charge_nano(
    cost_nano: int | None,
    own: ResolvedPrice | None,
    usage: Usage,
    units: Units | None,
    service_tier: str = "",
) -> int | None:
    """Return what the customer pays for a call; None while the call is unpriced.

    own: the own price of the customer's card. It may say nothing of what was used (seconds,
    at a price by token): then the cost counts.
    """
    if own is None or cost_nano is None:
        return charge_of(cost_nano, units)
    used = {name: number for name, number in units.items() if name not in _NOT_IN_CHARGE} if units else None
    if not own.covers(usage, used or None):
        return charge_of(cost_nano, units)
    return own.cost_nano(usage, used or None, service_tier)


def load_rate_cards() -> dict[int, Card]:
    """Return all cards by their ids. Two queries; not for the event loop."""
    own: dict[int, list[Price]] = defaultdict(list)
    for price in Price.objects.filter(rate_card__isnull=False):
        own[price.rate_card_id or 0].append(price)
    return {card.pk: card_of(card, own.get(card.pk, ())) for card in RateCard.objects.all()}


def card_of(card: RateCard, own_prices: Sequence[Price]) -> Card:
    book = PriceBook(own_prices, canonical_model=canonical_model, of_rate_card=True) if own_prices else None
    return Card(card.margin_ppm, book)
