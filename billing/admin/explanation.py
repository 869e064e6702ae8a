"""Explain a cost: the price it was booked at, and the multiplication that anyone can redo."""

from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.http import urlencode

from billing.models import Price, SpendLog
from billing.pricing import CostPart, resolve
from customers.admin.display import link_to, moment
from customers.money import from_nano
from customers.words import count, usd


@dataclass(frozen=True)
class Explanation:
    """What the page of one call says about its cost."""

    table: dict[str, Any] | None = None  # as the theme's table component takes it
    sum: str = ""
    is_equal: bool = False  # the sum is the booked cost
    price: str = ""  # links to the price's page
    price_from: str = ""
    price_source: str = ""
    long_context: int | None = None  # the call had more prompt tokens than this, so its tier's rates apply
    add_price_url: str = ""  # for an unpriced call: where to give its model a price
    model: str = ""


def explain(log: SpendLog) -> Explanation:
    """Return the arithmetic of `log.cost`. Reads `log.price`: select it along."""
    model = f"{log.provider}/{log.upstream_model or log.model}"
    if log.price is None:
        is_unpriced = log.cost is None and log.provider
        return Explanation(add_price_url=_add_price_url(log) if is_unpriced else "", model=model)
    parts = resolve(log.price).explain(log.usage)
    total = from_nano(sum(part.cost_nano for part in parts))
    prompt_tokens = log.usage.prompt_tokens
    exceeded = [
        int(tier["above_prompt_tokens"])
        for tier in log.price.long_context_tiers
        if prompt_tokens > int(tier["above_prompt_tokens"])
    ]
    return Explanation(
        table={
            "headers": ["bucket", "quantity", "rate", "part of the cost"],
            "rows": [_row(part) for part in parts],
        },
        sum=usd(total),
        is_equal=total == log.cost,
        price=link_to(Price, log.price.pk, str(log.price)),
        price_from=moment(log.price.effective_from) if log.price.effective_from else "",
        price_source=log.price.get_source_display(),
        long_context=max(exceeded, default=None),
        model=model,
    )


def _row(part: CostPart) -> list[str]:
    unit = "each" if part.per == 1 else "per million tokens"
    return [
        part.bucket.replace("_", " "),
        count(part.quantity),
        f"{usd(part.rate_usd)} {unit}",
        usd(from_nano(part.cost_nano)),
    ]


def _add_price_url(log: SpendLog) -> str:
    model = {"provider": log.provider, "model": log.upstream_model or log.model}
    return f"{reverse('admin:billing_price_add')}?{urlencode(model)}"
