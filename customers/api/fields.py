"""Serializer fields for what many requests have: money, ids, durations, free-form objects."""

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from customers.money import UsdField
from customers.text import MAX_ID_LENGTH, MAX_JSON_DEPTH, is_clean_id

_USD = UsdField()
_MAX_TEXT = 100_000  # characters of all of a free-form object's texts
LARGEST = 2**63 - 1  # what a column of whole numbers holds


@extend_schema_field({"type": "number"})
class Usd(serializers.Field):
    """An amount of USD with at most nine decimal places: a number, or its digits as text.

    Its sign is the model's business: it says 400, with what to do.
    """

    default_error_messages = {"invalid": "Write an amount of USD with at most nine decimal places: 12.5."}

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, int | Decimal | str):
            self.fail("invalid")
        try:
            amount = _USD.to_python(data)
        except ValidationError:
            self.fail("invalid")
        if amount is None:
            self.fail("invalid")
        return amount

    def to_representation(self, value: Decimal) -> Decimal:
        return value


class Id(serializers.CharField):
    """An id or a name: 1 to 255 printable characters. A number is none, as in LiteLLM."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **{"max_length": MAX_ID_LENGTH, **kwargs})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text = super().to_internal_value(data)
        if text and not is_clean_id(text):
            raise serializers.ValidationError(
                "Write 1 to 255 printable characters, no blank at either end.", code="value_error"
            )
        return text


class Whole(serializers.IntegerField):
    """A whole number that the database can hold. `1.0` and `"1"` are taken, 1.5 and true are not."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"max_value": LARGEST, "min_value": -LARGEST, **kwargs})

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


class Names(serializers.ListField):
    """A list of names: of models, of tags."""

    child = Id()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"max_length": 1000, **kwargs})


@extend_schema_field({"type": "object"})
class ModelLimits(serializers.Field):
    """Limits by model, with exact amounts. What they may say, the budget's own validation tells (400)."""

    default_error_messages = {  # whose braces are formats
        "invalid": 'Write an object by model: {{"gpt-4o": {{"budget_limit": 5, "time_period": "1d"}}}}.'
    }

    def __init__(self, **kwargs: Any) -> None:
        shape = 'By model: {"gpt-4o": {"budget_limit": 5, "time_period": "1d", "rpm_limit": 60}}.'
        super().__init__(**{"help_text": shape, **kwargs})

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail("invalid")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field({"type": "array", "items": {"type": "object"}})
class BudgetWindows(serializers.Field):
    """Further windows, with exact amounts. What they may say, the budget's own validation tells (400)."""

    default_error_messages = {  # whose braces are formats
        "invalid": 'Write a list: [{{"budget_duration": "1d", "max_budget": 5}}].'
    }

    def __init__(self, **kwargs: Any) -> None:
        shape = 'Besides max_budget, each by itself: [{"budget_duration": "1d", "max_budget": 5}].'
        super().__init__(**{"help_text": shape, **kwargs})

    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list):
            self.fail("invalid")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field({"type": "object"})
class FreeObject(serializers.Field):
    """A JSON object of the caller's own: kept and returned, bounded in size and depth."""

    default_error_messages = {
        "invalid": "Write a JSON object.",
        "too_large": "This is more than can be kept: 100,000 characters, 20 levels.",
    }

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail("invalid")
        self._left = _MAX_TEXT
        return self._storable(data, MAX_JSON_DEPTH)

    def _storable(self, value: Any, depth: int) -> Any:
        """Return `value` as JSON columns take it: numbers with a point become floats."""
        if depth < 0:
            self.fail("too_large")
        if isinstance(value, dict):
            return {self._storable(key, 0): self._storable(item, depth - 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self._storable(item, depth - 1) for item in value]
        self._left -= len(value) if isinstance(value, str) else 8
        if self._left < 0:
            self.fail("too_large")
        if isinstance(value, Decimal):
            number = float(value)
            if number in (float("inf"), float("-inf")):
                self.fail("too_large")
            return number
        if isinstance(value, int) and abs(value) > LARGEST:
            self.fail("too_large")
        return value

    def to_representation(self, value: Any) -> Any:
        return value
