"""
Text from outside, cleaned once at the edge, so that no later step meets a bad byte.

PostgreSQL refuses NUL in text; lone surrogates cannot be encoded; line breaks in
an id forge headers and log lines. Ids are refused, descriptions are repaired.
"""

import math
import re
from typing import Any

MAX_ID_LENGTH = 255
# C0 and C1 controls, line and paragraph separators, lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_clean_id(value: str) -> bool:
    """Tell whether `value` may be an identifier: 1 to 255 printable characters, no blank at either end.

    Calls name customers, users and tags without blanks around them (contract 2.2): an id with one would
    be somebody whom no call ever means.
    """
    return is_clean_text(value) and value[0] != " " and value[-1] != " "


def is_clean_text(value: str) -> bool:
    """Tell whether `value` may be looked for, or be a part of an id: 1 to 255 printable characters."""
    if not 0 < len(value) <= MAX_ID_LENGTH:
        return False
    # Optimization: nearly every id is plain ASCII, and that is known faster than a search.
    return (value.isascii() and value.isprintable()) or _UNPRINTABLE.search(value) is None


def clean_line(value: str, limit: int = MAX_ID_LENGTH) -> str:
    """Return free text (a user agent, an error message) as one storable line."""
    line = value[:limit]
    if line.isascii() and line.isprintable():
        return line
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", line)


MAX_JSON_DEPTH = 20
_LARGEST = 2**63 - 1


def is_storable_json(value: Any, *, depth: int = MAX_JSON_DEPTH) -> bool:
    """Tell whether a decoded JSON value can be kept, and read again by everybody.

    Journals take numbers of 64 bits, and readers that recurse give up after some hundred levels.
    """
    if isinstance(value, dict):
        return depth > 0 and all(is_storable_json(each, depth=depth - 1) for each in value.values())
    if isinstance(value, list):
        return depth > 0 and all(is_storable_json(each, depth=depth - 1) for each in value)
    if isinstance(value, int):
        return -_LARGEST <= value <= _LARGEST
    return not isinstance(value, float) or math.isfinite(value)
