"""
Small drawings (SVG) that need no script: a period's spend against its limit, spend per day in a stack.

Plain arithmetic: coordinates are texts in the drawing's own units, for a template to write
into attributes. Pages that are handed out use nothing else: they load no script at all.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from billing.budgets.customer_limits import Outlook

WIDTH, HEIGHT = 100, 40
_HEADROOM = Decimal("1.05")


class BurnUp(NamedTuple):
    """What a period spent until each day, where its limit is, and where its pace leads."""

    spent: str  # points of a line
    area: str  # the same, closed along the ground
    projected: str  # points of a dashed line; empty: no forecast
    limit_y: str
    is_over: bool  # at the pace of late the limit does not last


def burn_up(outlook: Outlook, *, at: datetime) -> BurnUp | None:
    """Return the drawing of an outlook; None where days do not add up to its period, or nothing limits it."""
    bar, forecast = outlook.bar, outlook.forecast
    if not outlook.days or bar.limit is None or bar.ends_at is None:
        return None
    at_end = forecast.at_end if forecast is not None and forecast.at_end is not None else None
    top = max(bar.limit, bar.spent, at_end or Decimal(0)) * _HEADROOM or Decimal(1)
    length = bar.ends_at - bar.counts_from

    def x(span: timedelta) -> str:
        return f"{min(1.0, max(0.0, span / length)) * WIDTH:.2f}"

    def y(amount: Decimal) -> str:
        return f"{HEIGHT - float(max(Decimal(0), amount) / top) * HEIGHT:.2f}"

    ends = [timedelta(days=number) for number in range(1, len(outlook.days))]
    now = x(at - bar.counts_from)
    amounts = [amount for _, amount in outlook.days]
    points = [f"0.00,{y(Decimal(0))}"]
    points += [f"{x(end)},{y(amount)}" for end, amount in zip(ends, amounts, strict=False)]
    points.append(f"{now},{y(amounts[-1])}")
    return BurnUp(
        spent=" ".join(points),
        area=" ".join([*points, f"{now},{HEIGHT}"]),
        projected="" if at_end is None else f"{now},{y(amounts[-1])} {WIDTH},{y(at_end)}",
        limit_y=y(bar.limit),
        is_over=forecast is not None and forecast.exceeds_at is not None,
    )


class Block(NamedTuple):
    """One part of one day's stack."""

    x: str
    y: str
    width: str
    height: str
    colour: int  # from 1, by the place of its name
    title: str


class DayLabel(NamedTuple):
    x: str
    text: str


class Stack(NamedTuple):
    """Spend per day, each name in a colour."""

    blocks: list[Block]
    top: Decimal  # the highest day


def stack(days: Sequence[date], series: Sequence[tuple[str, Sequence[Decimal]]], *, title: str) -> Stack:
    """Return the blocks of a stacked chart. title: with {day}, {name} and {amount} to be put in."""
    heights = [
        sum((max(Decimal(0), values[at]) for _, values in series), Decimal(0)) for at in range(len(days))
    ]
    top = max(heights, default=Decimal(0))
    if not top:
        return Stack([], top)
    step = WIDTH / len(days)
    blocks = []
    for at, day in enumerate(days):
        ground = float(HEIGHT)
        for number, (name, values) in enumerate(series, start=1):
            if values[at] <= 0:
                continue
            height = float(values[at] / top) * HEIGHT
            ground -= height
            blocks.append(
                Block(
                    f"{at * step + step * 0.08:.3f}", f"{ground:.3f}", f"{step * 0.84:.3f}", f"{height:.3f}",
                    number, title.format(day=day.isoformat(), name=name, amount=values[at]),
                )
            )  # fmt: skip
    return Stack(blocks, top)
