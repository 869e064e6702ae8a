"""
How the usage pages write figures: short, with their unit, and never as more than they are.

What is shown is rounded; the exact amount stands in the element's title and in exports.
A rate is rounded down, so that 100 % is all of them.
"""

from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal

from customers.words import EMPTY

_LARGE = ((Decimal(10) ** 9, "B"), (Decimal(10) ** 6, "M"), (Decimal(10) ** 3, "k"))
MINUS = "\N{MINUS SIGN}"
_DIGITS = 3  # of an amount below a cent


def short_usd(amount: Decimal | None) -> str:
    """Write an amount to the cent, and to three digits where that would be nothing: `$12.50`, `$0.00112`."""
    if amount is None:
        return EMPTY
    if not amount:
        return "$0.00"
    sign, size = ("-" if amount < 0 else ""), abs(amount)
    places = 2 if size >= 1 else max(2, _DIGITS - 1 - size.adjusted())
    rounded = size.quantize(Decimal(1).scaleb(-min(places, 9)), rounding=ROUND_HALF_EVEN)
    return f"{sign}${rounded:,f}"


def short_count(number: int) -> str:
    """Write a whole number in at most four digits: `987`, `12.3 k`, `4.56 M`."""
    for size, letter in _LARGE:
        if abs(number) >= size:
            value = Decimal(number) / size
            return f"{value.quantize(Decimal(1).scaleb(-max(0, 2 - value.adjusted())))} {letter}"
    return f"{number:,}"


def percent(part: int | Decimal, whole: int | Decimal) -> str:
    """Write a share, rounded down to a tenth; a dash where there is nothing to share."""
    if not whole:
        return EMPTY
    tenths = int(Decimal(part) * 1000 / Decimal(whole))
    if not tenths and part > 0:
        return "<0.1 %"
    return f"{tenths // 10} %" if tenths in (0, 1000) else f"{Decimal(tenths).scaleb(-1)} %"


def change(now: Decimal | int | None, before: Decimal | int | None) -> str:
    """Write how much more or less it is than before: `+12 %`, `-3.4 %`, `new`."""
    if now is None or before is None or (not now and not before):
        return EMPTY
    if not before:
        return "new"
    ratio = (Decimal(now) - Decimal(before)) * 100 / abs(Decimal(before))
    places = Decimal("0.1") if abs(ratio) < 10 else Decimal(1)
    rounded = ratio.quantize(places)
    if not rounded:
        return "±0 %"
    return f"{'+' if rounded > 0 else MINUS}{abs(rounded):,f} %"


def duration(ms: float | None) -> str:
    """Write milliseconds: `430 ms`, `2.6 s`, `1 min 20 s`."""
    if ms is None:
        return EMPTY
    if ms < 1000:
        return f"{ms:,.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    return f"{int(ms // 60_000)} min {int(ms % 60_000 // 1000)} s"


def day_text(day: date) -> str:
    return f"{day:%a} {day.isoformat()}"


def span(start: date, end: date) -> str:
    return start.isoformat() if start == end else f"{start.isoformat()} to {end.isoformat()}"


def plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
