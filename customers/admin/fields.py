"""Form fields of the admin: lists one per line, JSON of one kind, amounts, secrets that are never shown."""

import json
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget

from customers.money import plain_usd
from customers.text import MAX_ID_LENGTH, is_clean_id


def validate_id(value: str) -> None:
    if not is_clean_id(value):
        raise ValidationError(f"Write 1 to {MAX_ID_LENGTH} characters without control characters.")


class LinesField(forms.CharField):
    """A JSON list of names, edited one per line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"widget": UnfoldAdminTextareaWidget({"rows": 4}), "required": False, **kwargs})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]
        names = [line.strip() for line in (super().to_python(value) or "").split("\n")]
        return list(dict.fromkeys(name for name in names if name))

    def validate(self, value: Any) -> None:
        super().validate(value)
        for name in value:
            if not is_clean_id(name):
                raise ValidationError(
                    f"“%(name)s” is no name: up to {MAX_ID_LENGTH} characters without control characters.",
                    params={"name": name[:40]},
                )

    def run_validators(self, value: Any) -> None:
        """Skip the text validators: each name was validated."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return (initial or []) != self.to_python(data)


class KindedJsonField(forms.JSONField):
    """JSON that must be an object (or a list), empty where nothing is written."""

    def __init__(self, *, kind: type[dict] | type[list], **kwargs: Any) -> None:
        self.kind = kind
        super().__init__(**{"widget": UnfoldAdminTextareaWidget({"rows": 4}), "required": False, **kwargs})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, InvalidJSONInput):
            return value
        return json.dumps(value, ensure_ascii=False, cls=self.encoder, indent=2)

    def to_python(self, value: Any) -> Any:
        try:
            return super().to_python(value)
        except ValidationError:
            raise ValidationError(f"This is not JSON: {_fault(value)}.") from None

    def clean(self, value: Any) -> Any:
        cleaned = super().clean(value)
        if cleaned is None:
            return self.kind()
        if not isinstance(cleaned, self.kind):
            raise ValidationError(
                "Write a JSON object: {…}." if self.kind is dict else "Write a JSON list: […]."
            )
        if "\\u0000" in str(value):
            raise ValidationError("PostgreSQL cannot store the character U+0000.")
        return cleaned


def _fault(text: str) -> str:
    """Say what keeps `text` from being JSON, and where."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, character {error.colno}: {error.msg}"
    except (ValueError, RecursionError):
        pass
    return "it cannot be read"


class PlainUsdField(forms.DecimalField):
    """An amount of USD, shown as it is written: `3`, not `3.000000000`."""

    def prepare_value(self, value: Any) -> Any:
        return plain_usd(value) if isinstance(value, Decimal) else value


class SecretField(forms.CharField):
    """A secret that is written and never shown; left blank, the stored one stays."""

    def __init__(self, **kwargs: Any) -> None:
        widget = UnfoldAdminPasswordWidget({"autocomplete": "new-password"})
        super().__init__(**{"widget": widget, "required": False, **kwargs})

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(data)
