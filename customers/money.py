"""
Money at rest: signed integers of nano-dollars in the database, `Decimal` in Python.

A nano-dollar is 10⁻⁹ USD; 64 bits of them reach ±9.2 billion dollars. Sums of
integers are equal on every database, which is what makes "one number" provable.
How a price becomes a cost is in `billing/prices/pricing.py`.
"""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.expressions import Combinable

NANO_PER_USD = 1_000_000_000
_PLACES = 9
_LIMIT_USD = Decimal(2**63).scaleb(-_PLACES)


class TooPrecise(ValueError):
    """An amount has more than nine decimal places and would have to be rounded."""


def to_nano(amount: Decimal | int) -> int:
    """Return `amount` USD as whole nano-dollars.

    Raises: TooPrecise rather than round, TypeError on a float.
    """
    if isinstance(amount, float):
        raise TypeError("money is Decimal, never float")
    whole = int(Decimal(amount).scaleb(_PLACES))
    if from_nano(whole) != amount:  # compared exactly; `scaleb` rounds what is longer than 28 digits
        raise TooPrecise(f"{amount} USD has more than {_PLACES} decimal places")
    return whole


def from_nano(nano: int) -> Decimal:
    """Return nano-dollars as USD."""
    return Decimal(int(nano)).scaleb(-_PLACES)


def plain_usd(amount: Decimal) -> str:
    """Write `amount` without an exponent and without trailing zeros: `0.001112`, `25`."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class UsdField(models.BigIntegerField):
    """An exact amount of USD: a `Decimal` in Python, nano-dollars in the database.

    In SQL arithmetic the database sees the nano-dollars: say `Value(amount, UsdField())`,
    and wrap a result that is read in `ExpressionWrapper(…, UsdField())`.
    """

    # For the type checker: what may be written to and is read from a model's attribute.
    _pyi_private_set_type: Decimal | int | Combinable  # type: ignore[assignment]
    _pyi_private_get_type: Decimal  # type: ignore[assignment]

    description = "An exact amount of USD"

    def get_prep_value(self, value: Any) -> int | None:
        return None if value is None else to_nano(self._decimal(value))

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Decimal | None:
        return None if value is None else from_nano(value)

    def to_python(self, value: Any) -> Decimal | None:
        if value is None or value == "":
            return None
        try:
            amount = self._decimal(value)
            if abs(amount) >= _LIMIT_USD:
                raise ValueError("beyond 64 bits of nano-dollars")
            to_nano(amount)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ValidationError(f"not an amount of USD with at most {_PLACES} decimal places") from error
        return amount

    def formfield(self, **kwargs: Any) -> forms.Field | None:
        return models.Field.formfield(
            self, **{"form_class": forms.DecimalField, "max_digits": 19, "decimal_places": _PLACES, **kwargs}
        )

    def value_to_string(self, obj: models.Model) -> str:
        value = self.value_from_object(obj)
        return "" if value is None else plain_usd(Decimal(str(value)))

    @property
    def validators(self) -> list:
        # The integer field's range validators would compare USD with nano-dollars.
        return list(self._validators)  # type: ignore[attr-defined]

    @staticmethod
    def _decimal(value: Any) -> Decimal:
        if isinstance(value, float):
            raise TypeError("money is Decimal, never float")
        return value if isinstance(value, Decimal) else Decimal(str(value))
