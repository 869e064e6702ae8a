"""
The secret of a virtual key: how it is made, written and recognised.

A secret is random, so its plain SHA-256 is as good as a salted one, and equal to
what LiteLLM stores: keys imported from there keep working. The secret itself is
shown once and never kept.
"""

import hashlib
import secrets

PREFIX = "sk-"
MIN_LENGTH = 16


def generate_secret() -> str:
    """Return a new secret: `sk-` and 22 URL-safe characters (128 random bits)."""
    return PREFIX + secrets.token_urlsafe(16)


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of the whole secret, prefix included, as 64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def display_name(secret: str) -> str:
    """Return what may be shown of a secret: `sk-...` and its last four characters."""
    return f"{PREFIX}...{secret[-4:]}"
