"""
The cards of a usage page: figures at a glance, each with its change and its days as a small line.

Card and line are made of the same report by day, as is the chart: they cannot disagree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cached_property
from typing import Any

from billing.admin.usage.filters import Asked
from billing.reporting import words
from billing.reporting.reports import Figures, added, by_day
from customers.words import EMPTY, count, usd

_WIDTH, _HEIGHT = 100, 28  # of a small line, in its own units


@dataclass(frozen=True)
class Summary:
    """What all calls of a page add up to, by day; and those of the period before."""

    days: Mapping[date, Figures]
    days_before: Mapping[date, Figures]
    money: str  # "charge" where a page is about customers, else "cost" (M4)

    @property
    def is_charged(self) -> bool:
        return self.money == "charge"

    def spend(self, figures: Figures) -> Decimal:
        return getattr(figures, self.money)

    @cached_property
    def total(self) -> Figures:
        return added(self.days.values(), is_charged=self.is_charged)

    @cached_property
    def total_before(self) -> Figures:
        return added(self.days_before.values(), is_charged=self.is_charged)


def summary_of(asked: Asked, money: str) -> Summary:
    """Two queries."""
    return Summary(
        {row.day: row.figures for row in by_day(asked.filters)},
        {row.day: row.figures for row in by_day(asked.filters_before)},
        money,
    )


def cards(asked: Asked, summary: Summary) -> list[dict[str, Any]]:
    """Return each card: its figure in short and in full, its change, a note, and the points of its line."""
    total, before = summary.total, summary.total_before

    def line(value: Callable[[Figures], Any], without_calls: int | None = 0) -> str:
        found = (summary.days.get(day) for day in asked.days)
        return points([without_calls if each is None else value(each) for each in found])

    return [_card(*each) for each in (
        (
            "Charged, USD" if summary.is_charged else "Spend, USD",
            words.short_usd(summary.spend(total)) + ("*" if total.unpriced_calls else ""),
            usd(summary.spend(total)),
            words.change(summary.spend(total), summary.spend(before)),
            f"before: {words.short_usd(summary.spend(before))}",
            line(summary.spend),
        ),
        (
            "Requests",
            words.short_count(total.calls),
            count(total.calls),
            words.change(total.calls, before.calls),
            f"before: {words.short_count(before.calls)}",
            line(lambda each: each.calls),
        ),
        (
            "Tokens",
            words.short_count(total.usage.total_tokens),
            count(total.usage.total_tokens),
            words.change(total.usage.total_tokens, before.usage.total_tokens),
            f"{words.short_count(total.usage.prompt_tokens)} in, "
            f"{words.short_count(total.usage.completion_tokens)} out",
            line(lambda each: each.usage.total_tokens),
        ),
        (
            "Success rate",
            words.percent(total.successful_calls, total.calls),
            f"{count(total.successful_calls)} of {count(total.calls)} requests",
            _points_of(_success(total), _success(before)),
            f"{count(total.failed_calls)} failed or refused",
            line(_success, None),
        ),
        (
            "Latency, p50 / p95",
            f"{words.duration(total.p50_ms)} / {words.duration(total.p95_ms)}",
            "Half of the successful calls, and 95 of 100, took at most this long",
            words.change(_whole(total.p95_ms), _whole(before.p95_ms)),
            f"p95 before: {words.duration(before.p95_ms)}",
            line(lambda each: each.p95_ms, None),
        ),
        (
            "Cache-hit rate",
            words.percent(total.cache_hits, total.calls),
            f"{count(total.cache_hits)} of {count(total.calls)} requests were answered from our own cache",
            _points_of(_hits(total), _hits(before)),
            f"{words.percent(total.usage.cache_read, total.usage.prompt_tokens)} of input read from "
            "caches of providers",
            line(_hits, None),
        ),
    )]  # fmt: skip


def _card(label: str, text: str, title: str, change: str, note: str, line: str) -> dict[str, str]:
    return {"label": label, "text": text, "title": title, "change": change, "note": note, "line": line}


def _success(figures: Figures) -> Decimal | None:
    return _rate(figures.successful_calls, figures.calls)


def _hits(figures: Figures) -> Decimal | None:
    return _rate(figures.cache_hits, figures.calls)


def points(values: Sequence[Any]) -> str:
    """Return the points of a small line (SVG), from the first day to the last. None is left out."""
    numbers = [None if value is None else float(value) for value in values]
    known = [0.0, *(number for number in numbers if number is not None)]
    top, bottom = max(known), min(known)
    if top == bottom:
        return ""
    step, height = _WIDTH / max(1, len(numbers) - 1), (_HEIGHT - 2) / (top - bottom)
    drawn = [
        (at * step, _HEIGHT - 1 - (number - bottom) * height)
        for at, number in enumerate(numbers)
        if number is not None
    ]
    if len(drawn) == 1:  # a line, too
        drawn = [(0.0, drawn[0][1]), (float(_WIDTH), drawn[0][1])]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)


def _rate(part: int, whole: int) -> Decimal | None:
    return Decimal(part) * 100 / whole if whole else None


def _whole(ms: float | None) -> int | None:
    return None if ms is None else round(ms)


def _points_of(now: Decimal | None, before: Decimal | None) -> str:
    """Write the change of a rate in percentage points."""
    if now is None or before is None:
        return EMPTY
    difference = (now - before).quantize(Decimal("0.1"))
    if not difference:
        return "±0 pp"
    return f"{'+' if difference > 0 else words.MINUS}{abs(difference)} pp"
