"""How figures are written for people, on pages and in terminals: exact, with their unit."""

from decimal import Decimal

from customers.money import plain_usd

EMPTY = "-"


def usd(amount: Decimal | int | None) -> str:
    """Write an exact amount with two decimals or as many as it has: `$12.50`, `$0.001112`."""
    if amount is None:
        return EMPTY
    sign = "-" if amount < 0 else ""
    whole, _, places = plain_usd(abs(Decimal(amount))).partition(".")
    return f"{sign}${int(whole):,}.{places.ljust(2, '0')}"


def count(number: int | None) -> str:
    return EMPTY if number is None else f"{number:,}"
