"""Explain a cost: the price it was booked at, and the multiplication that anyone can redo."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from billing.models import Adjustment, Price, SpendLog
from billing.prices.pricing import CostPart, explain_cost, resolve
from billing.usage import DISCOUNT, MARGIN, MARGIN_FIXED, OWN_PRICE, REPORTED_COST
from customers.admin.display import link_to, moment
from customers.money import from_nano
from customers.words import EMPTY, count, usd


@dataclass(frozen=True)
class Explanation:
    """What the page of one call says about its cost."""

    table: dict[str, Any] | None = None  # as the theme's table component takes it
    sum: str = ""
    is_equal: bool = False  # the sum is the booked cost
    price: str = ""  # links to the price's page
    price_from: str = ""
    price_source: str = ""
    listed_as: str = ""  # the row's name of the model, where it is not the call's
    service_tier: str = ""  # whose rates stand before the standard ones
    long_context: int | None = None  # the call had more prompt tokens than this, so its tier's rates apply
    notes: tuple[str, ...] = ()  # discount, margin, a cost that the provider told
    add_price_url: str = ""  # for an unpriced call: where to give its model a price
    model: str = ""


def explain(log: SpendLog) -> Explanation:
    """Return the arithmetic of `log.cost`. Reads `log.price`: select it along."""
    called = log.upstream_model or log.model
    model = f"{log.provider}/{called}"
    price = resolve(log.price) if log.price is not None else None
    parts = [] if log.cost is None else explain_cost(price, log.usage, log.units, log.service_tier)
    if not parts and (price is None or log.cost is None):
        is_unpriced = log.cost is None and log.provider
        return Explanation(add_price_url=_add_price_url(log) if is_unpriced else "", model=model)
    total = from_nano(sum(part.cost_nano for part in parts))
    found = Explanation(
        table={
            "headers": ["bucket", "quantity", "rate", "part of the cost"],
            "rows": [_row(part) for part in parts],
        },
        sum=usd(total),
        is_equal=total == log.cost,
        notes=tuple(_notes(log)),
        model=model,
    )
    if price is None or log.price is None or (log.units and REPORTED_COST in log.units):
        return found
    conditions = price.conditions(log.usage, log.units, log.service_tier)
    return replace(
        found,
        price=link_to(Price, log.price.pk, str(log.price)),
        price_from=moment(log.price.effective_from) if log.price.effective_from else "",
        price_source=log.price.get_source_display(),
        listed_as=price.model if price.model != called else "",
        service_tier=", ".join(conditions.service_tiers),
        long_context=conditions.above_prompt_tokens,
    )


@dataclass(frozen=True)
class Correction:
    """One adjustment of a call, as its page tells it."""

    at: str
    reason: str
    actor: str
    note: str
    cost: str
    charge: str  # empty: as the cost
    price: str  # a link, where a price row says it


@dataclass(frozen=True)
class Corrected:
    """What became of a call's cost since it was booked."""

    corrections: tuple[Correction, ...]
    cost: str  # with them
    charge: str


def corrected(log: SpendLog) -> Corrected | None:
    """Return the adjustments of a call, oldest first; None: there are none. One query."""
    rows = list(Adjustment.objects.filter(log_id=log.pk).order_by("pk"))
    if not rows:
        return None
    return Corrected(
        tuple(
            Correction(
                moment(row.booked_at),
                row.get_reason_display(),
                row.actor,
                row.note,
                usd(row.cost),
                usd(row.charge) if row.charge != row.cost else "",
                link_to(Price, row.price_id, "price") if row.price_id else "",
            )
            for row in rows
        ),
        usd((log.cost or 0) + sum(row.cost for row in rows)),
        usd((log.charge or 0) + sum(row.charge for row in rows)),
    )


def _notes(log: SpendLog) -> Iterator[str]:
    """Say what decided the cost or the charge besides the price."""
    units = log.units or {}
    if REPORTED_COST in units:
        yield "The answer itself told this cost; it is taken as it is."
    if discount := units.get(DISCOUNT):
        yield f"Discount {_percent(discount)} off what the price says."
    if price_id := units.get(OWN_PRICE):
        own = link_to(Price, price_id, "own price")
        yield format_html("The charge, {}, is by an {} of the rate card.", usd(log.charge), own)
    margin, fixed = units.get(MARGIN, 0), units.get(MARGIN_FIXED, 0)
    if margin or fixed:
        said = [_percent(margin)] if margin else []
        said += [usd(from_nano(fixed))] if fixed else []
        yield f"Margin in the charge: {' and '.join(said)}; the charge is {usd(log.charge)}."


def _percent(ppm: int) -> str:
    return f"{Decimal(ppm).scaleb(-4).normalize():f} %"


def _row(part: CostPart) -> list[str]:
    if part.bucket == DISCOUNT:
        return [_words(part.bucket), EMPTY, EMPTY, usd(from_nano(part.cost_nano))]
    return [
        _words(part.bucket),
        count(part.quantity),
        f"{usd(part.rate_usd)} {_each(part)}",
        usd(from_nano(part.cost_nano)),
    ]


def _each(part: CostPart) -> str:
    """Say what a rate is for."""
    if part.per == 1:
        return "each"
    if part.per == 1_000:
        return "per second"
    return "per million" if part.bucket.endswith(("characters", "pixels")) else "per million tokens"


_WORDS = {DISCOUNT: "discount"}


def _words(name: str) -> str:
    """Return a bucket's or unit's name for people: `output images, 1024x1024`."""
    unit, _, kind = name.partition(":")
    said = _WORDS.get(unit) or unit.replace("_", " ")
    return f"{said}, {kind}" if kind else said


def _add_price_url(log: SpendLog) -> str:
    model = {"provider": log.provider, "model": log.upstream_model or log.model}
    return f"{reverse('admin:billing_price_add')}?{urlencode(model)}"
