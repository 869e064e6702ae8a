"""
What would these days have cost at other prices? Worked out from the rollups, not from the log.

For each customer and model, the tokens that were used are multiplied by the rates in force today,
of a source of prices or of another model. What rollups do not say is told instead of guessed:

    long prompts      a tier counts call by call; the answer is a range, from no call above a
                      threshold to every call above the highest
    service tiers     calls count as standard ones
    units             seconds, images and characters are not in rollups: rows of calls whose price has
                      such rates are marked
    rounding          each call is rounded by itself; of N calls that may be N half nano-dollars
    without a price   calls are counted, and in no sum

Adjustments count as cost on the day they were booked. Amounts are nano-dollars.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from django.db.models import Sum

from billing.models import DailySpend, Price
from billing.prices.pricing import PriceBook, Rates, ResolvedPrice
from billing.prices.sources import canonical_model
from billing.usage import BUCKETS, Usage

_SOURCES = {source.value for source in Price.Source} - {Price.Source.DEPLOYMENT.value}


class BadQuestion(ValueError):
    """The days, the source or a model are not what there is; the text says which."""


class Question(NamedTuple):
    """first, last: days, included. source: whose prices; empty: whichever wins, as for calls.

    instead: (provider, model) → (provider, model) whose price is taken.
    """

    first: date
    last: date
    source: str = ""
    instead: Mapping[tuple[str, str], tuple[str, str]] = {}


class Answer(NamedTuple):
    """What one model's calls of one customer cost, and what they would have: from least to most."""

    customer_id: str  # empty: none, or of all customers
    provider: str
    model: str  # as it went upstream
    calls: int
    cost_nano: int
    least_nano: int | None  # None: no price
    most_nano: int | None
    has_units: bool  # the price has rates of what rollups do not say

    @property
    def least_difference(self) -> int | None:
        return None if self.least_nano is None else self.least_nano - self.cost_nano

    @property
    def most_difference(self) -> int | None:
        return None if self.most_nano is None else self.most_nano - self.cost_nano

    @property
    def is_exact(self) -> bool:
        return self.least_nano == self.most_nano and not self.has_units


class Answers(NamedTuple):
    """total, by model and by customer: the largest cost first."""

    total: Answer
    unpriced_calls: int  # that are in no sum of what it would have cost
    by_model: list[Answer]
    by_customer: list[Answer]
    lines: list[Answer]


def answer(question: Question, *, at: datetime) -> Answers:
    """Work it out. Two queries. at: whose prices are in force. Raises: BadQuestion."""
    _check(question)
    rows = _rows(question)
    wanted = {_asked(question, row) for row in rows}
    listed = Price.objects.listed_for(wanted, canonical_model=canonical_model)
    if question.source:
        listed = listed.filter(source=question.source)
    book = PriceBook(listed, canonical_model=canonical_model)
    known = {pair: book.find(*pair, at_s=at.timestamp()) for pair in wanted}
    lines = [_line(row, known[_asked(question, row)]) for row in rows]
    lines.sort(key=lambda line: (-line.cost_nano, line.customer_id, line.provider, line.model))
    return Answers(
        _added(lines, "", "", ""),
        sum(line.calls for line in lines if line.least_nano is None),
        _grouped(lines, by_customer=False),
        _grouped(lines, by_customer=True),
        lines,
    )


def _check(question: Question) -> None:
    if question.first > question.last:
        raise BadQuestion(f"{question.first} is after {question.last}.")
    if question.source and question.source not in _SOURCES:
        raise BadQuestion(
            f"There is no source of prices {question.source!r}: one of {', '.join(sorted(_SOURCES))}."
        )


def _asked(question: Question, row: Mapping[str, Any]) -> tuple[str, str]:
    pair = row["provider"], row["upstream_model"]
    return question.instead.get(pair, pair)


def _rows(question: Question) -> list[Any]:
    """Return the sums of calls that went to a provider."""
    rows = DailySpend.objects.filter(day__range=(question.first, question.last)).exclude(provider="")
    sums = {f"sum_{name}": Sum(name) for name in BUCKETS}
    return list(
        rows.values("customer_id", "provider", "upstream_model").annotate(
            spent=Sum("cost"),
            number=Sum("calls"),
            free=Sum("failed_calls") + Sum("cache_hits"),
            unpriced=Sum("unpriced_calls"),
            **sums,
        )
    )


def _line(row: Mapping[str, Any], price: ResolvedPrice | None) -> Answer:
    usage = Usage(*(row[f"sum_{name}"] or 0 for name in BUCKETS))
    billed = max(0, row["number"] - row["free"])
    costs = [_cost(rates, usage, billed) for rates in _possible(price)] if price else []
    return Answer(
        row["customer_id"],
        row["provider"],
        row["upstream_model"],
        row["number"],
        int(row["spent"].scaleb(9)),
        min(costs, default=None),
        max(costs, default=None),
        price is not None and any(bool(rates.units) for rates in _possible(price)),
    )


def _possible(price: ResolvedPrice) -> list[Rates]:
    return [price.base, *(rates for _, rates in price.tiers)]


def _cost(rates: Rates, usage: Usage, calls: int) -> int:
    millionths = sum(map(int.__mul__, usage, rates.per_mtok))
    whole, rest = divmod(millionths, 1_000_000)
    apiece = usage.web_searches * rates.per_web_search + calls * rates.per_request
    return whole + (rest >= 500_000) + apiece


def _grouped(lines: Sequence[Answer], *, by_customer: bool) -> list[Answer]:
    groups: dict[tuple[str, str, str], list[Answer]] = {}
    for line in lines:
        key = (line.customer_id, "", "") if by_customer else ("", line.provider, line.model)
        groups.setdefault(key, []).append(line)
    found = [_added(each, *key) for key, each in groups.items()]
    return sorted(found, key=lambda line: (-line.cost_nano, line.customer_id, line.provider, line.model))


def _added(lines: Sequence[Answer], customer_id: str, provider: str, model: str) -> Answer:
    """Add up lines. Of those without a price the calls count, but no amount: neither side would be known."""
    priced = [line for line in lines if line.least_nano is not None and line.most_nano is not None]
    return Answer(
        customer_id,
        provider,
        model,
        sum(line.calls for line in lines),
        sum(line.cost_nano for line in priced),
        sum(line.least_nano or 0 for line in priced) if priced else None,
        sum(line.most_nano or 0 for line in priced) if priced else None,
        any(line.has_units for line in lines),
    )
