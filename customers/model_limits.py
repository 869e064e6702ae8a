"""
What a budget allows by model: the JSON of `Budget.model_max_budget`, read into `ModelLimit`.

    {"gpt-4o": {"budget_limit": "5", "time_period": "1d", "tpm_limit": 100000, "rpm_limit": 60}}

Amounts are USD, with at most nine decimal places. They may be written as numbers and are
kept as text: to most who read JSON, a number is a float. LiteLLM's other names for two of
the keys, `max_budget` and `budget_duration`, are taken too.
"""

from typing import Any, NamedTuple

from django.core.exceptions import ValidationError

from customers.durations import Duration, parse_duration
from customers.money import UsdField, from_nano, plain_usd, to_nano
from customers.text import MAX_ID_LENGTH, is_clean_id

_ALIASES = {"max_budget": "budget_limit", "budget_duration": "time_period"}
_LARGEST_RATE = 2**63 - 1  # as the columns rpm_limit and tpm_limit
_USD = UsdField()


class ModelLimit(NamedTuple):
    """The limits of one model. None: no such limit; `duration` None: the budget is for all time."""

    limit_nano: int | None = None
    duration: Duration | None = None
    tpm_limit: int | None = None
    rpm_limit: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the canonical form, without what is not limited."""
        return {
            name: value
            for name, value in (
                ("budget_limit", None if self.limit_nano is None else plain_usd(from_nano(self.limit_nano))),
                ("time_period", None if self.duration is None else str(self.duration)),
                ("tpm_limit", self.tpm_limit),
                ("rpm_limit", self.rpm_limit),
            )
            if value is not None
        }


def read_model_limits(value: Any) -> dict[str, ModelLimit]:
    """Read limits by model name; null stands for no limit.

    Raises: ValidationError, a message for each model that is wrong.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValidationError(
            'Write an object by model: {"gpt-4o": {"budget_limit": 5, "time_period": "1d"}}.'
        )
    limits, errors = {}, []
    for model, entry in value.items():
        try:
            limits[model] = _read_limit(model, entry)
        except ValueError as error:
            errors.append(f"{model!r}: {error}")
    if errors:
        raise ValidationError(errors)
    return limits


def _read_limit(model: str, entry: Any) -> ModelLimit:
    """Raises: ValueError with a message to follow the model's name."""
    if not is_clean_id(model):
        raise ValueError(f"a model's name is 1 to {MAX_ID_LENGTH} printable characters.")
    if not isinstance(entry, dict):
        raise ValueError('write an object such as {"budget_limit": 5, "time_period": "1d"}.')
    given: dict[str, Any] = {}
    for key, value in entry.items():
        name = _ALIASES.get(key) or key
        if name in given:
            raise ValueError(f"{name} is given twice, once under its other name.")
        given[name] = value
    limit = ModelLimit(
        limit_nano=_read_amount(given.pop("budget_limit", None)),
        duration=_read_duration(given.pop("time_period", None)),
        tpm_limit=_read_rate("tpm_limit", given.pop("tpm_limit", None)),
        rpm_limit=_read_rate("rpm_limit", given.pop("rpm_limit", None)),
    )
    if given:
        raise ValueError(
            f"{next(iter(given))!r} is unknown; known are budget_limit, time_period, tpm_limit, rpm_limit."
        )
    if limit.limit_nano is None and limit.tpm_limit is None and limit.rpm_limit is None:
        raise ValueError("give budget_limit, tpm_limit or rpm_limit.")
    return limit


def _read_amount(value: Any) -> int | None:
    if value is None:
        return None
    try:
        amount = _USD.to_python(str(value))  # a float's shortest digits: those that were written, up to 15
    except ValidationError as error:
        raise ValueError(f"budget_limit is {value!r}, {error.message}.") from None
    if amount is None or amount < 0:
        raise ValueError(f"budget_limit is {value!r}, but must be an amount of at least 0.")
    return to_nano(amount)


def _read_duration(value: Any) -> Duration | None:
    if value is None or value == "":
        return None
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise ValueError(f"time_period {error}.") from None


def _read_rate(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _LARGEST_RATE:
        raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 0.")
    return value
