"""
Further windows of a budget: the JSON of `Budget.budget_limits`, read into `BudgetWindow`s.

    [{"budget_duration": "1d", "max_budget": "5"}, {"budget_duration": "1mo", "max_budget": "50"}]

Each limits by itself, besides `max_budget` in `budget_duration`. Amounts are USD, with at
most nine decimal places. They may be written as numbers and are kept as text: to most who
read JSON, a number is a float. What answers add to an entry (`reset_at`) is taken and not kept.
"""

from typing import Any, NamedTuple

from django.core.exceptions import ValidationError

from customers.durations import Duration, parse_duration
from customers.money import UsdField, from_nano, plain_usd, to_nano

MOST_WINDOWS = 10  # a call holds its amount in each
_USD = UsdField()


class BudgetWindow(NamedTuple):
    """What may be spent in each period of one duration."""

    duration: Duration
    limit_nano: int

    def as_json(self) -> dict[str, str]:
        """Return the canonical form."""
        limit = plain_usd(from_nano(self.limit_nano))
        return {"budget_duration": str(self.duration), "max_budget": limit}


def read_windows(value: Any) -> list[BudgetWindow]:
    """Read the windows, in the order given; null stands for none.

    Raises: ValidationError, a message for each entry that is wrong.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValidationError('Write a list: [{"budget_duration": "1d", "max_budget": 5}].')
    if len(value) > MOST_WINDOWS:
        raise ValidationError(f"A budget has at most {MOST_WINDOWS} further windows.")
    windows: list[BudgetWindow] = []
    errors = []
    for number, entry in enumerate(value, start=1):
        try:
            window = _read_window(entry)
            if any(other.duration == window.duration for other in windows):
                raise ValueError(f"there are two limits for {window.duration}.")
            windows.append(window)
        except ValueError as error:
            errors.append(f"window {number}: {error}")
    if errors:
        raise ValidationError(errors)
    return windows


def _read_window(entry: Any) -> BudgetWindow:
    """Raises: ValueError with a message to follow the window's number."""
    if not isinstance(entry, dict):
        raise ValueError('write an object such as {"budget_duration": "1d", "max_budget": 5}.')
    unknown = entry.keys() - {"budget_duration", "max_budget", "reset_at"}
    if unknown:
        raise ValueError(f"{min(unknown)!r} is unknown; known are budget_duration and max_budget.")
    return BudgetWindow(
        _read_duration(entry.get("budget_duration")),
        _read_amount(entry.get("max_budget")),
    )


def _read_duration(value: Any) -> Duration:
    if not isinstance(value, str) or not value:
        raise ValueError("give budget_duration, such as 1d; for all time there is max_budget itself.")
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"budget_duration {error}.") from None


def _read_amount(value: Any) -> int:
    if value is None or value == "":
        raise ValueError("give max_budget, an amount in USD.")
    try:
        amount = _USD.to_python(str(value))  # a float's shortest digits: those that were written, up to 15
    except ValidationError as error:
        raise ValueError(f"max_budget is {value!r}, {error.message}.") from None
    if amount is None or amount < 0:
        raise ValueError(f"max_budget is {value!r}, but must be an amount of at least 0.")
    return to_nano(amount)
