"""
Where a caller's key is read from: the same for proxied routes and for the API.

The order is LiteLLM's, so that a provider's own token may stand in `Authorization`
while the gateway's key is in `x-litellm-api-key` (Claude Code with a subscription).
"""

import base64
import binascii
from collections.abc import Callable

_RAW_HEADERS = ("api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key")


class MalformedKey(ValueError):
    """`Authorization` carries something else than `Bearer <key>`."""


def read_secret(header: Callable[[str], str | None], *, own_header: str = "") -> str | None:
    """Return the caller's key, or None where no header has one.

    header: returns a header's value by its lower-case name, or None; own_header: the
    operator's (`KEY_HEADER`, lower case), before all others.
    Raises: MalformedKey.
    """
    if own_header and (value := header(own_header)):
        return _without_scheme(value) or value.strip()
    if value := header("x-litellm-api-key"):
        return _without_scheme(value) or value.strip()
    if value := header("authorization"):
        if value.startswith("Bearer sk-"):  # nearly always
            return value[7:].rstrip()
        secret = _without_scheme(value)
        if secret is None:
            raise MalformedKey
        return secret
    for name in _RAW_HEADERS:
        if value := header(name):
            return value.strip()
    return None


def _without_scheme(value: str) -> str | None:
    """Return what follows `Bearer ` or `Basic `, or None without such a prefix."""
    scheme, _, rest = value.strip().partition(" ")
    rest = rest.strip()
    if not rest:
        return None
    if scheme.lower() == "bearer":
        return rest
    if scheme.lower() == "basic":
        return rest if rest.startswith("sk-") else _password_of(rest)
    return None


def _password_of(encoded: str) -> str:
    """Return the password of `Basic` credentials, or the text itself where it is none."""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2] or encoded
    except (binascii.Error, UnicodeDecodeError):
        return encoded
