"""Texts as spreadsheets may open them: a cell that begins with = + - @ would be taken for a formula."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def spreadsheet_safe(value: Any) -> Any:
    """Return a cell that no spreadsheet computes. Numbers stay numbers, negative ones too."""
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal()
