"""
The secret of a virtual key: how it is made, written, named and recognised.

A secret is random, so its plain SHA-256 is as good as a salted one, and equal to
what LiteLLM stores: keys imported from there keep working. The secret itself is
shown once and never kept.
"""

import hashlib
import logging
import re
import secrets

PREFIX = "sk-"
MIN_LENGTH = 16
MAX_LENGTH = 255
# What a header carries as it is: printable ASCII without spaces.
_SECRET = re.compile("sk-[!-~]*")
_HASH = re.compile("[0-9a-f]{64}")
_IN_TEXT = re.compile("sk-[A-Za-z0-9_-]{8,}")


def generate_secret() -> str:
    """Return a new secret: `sk-` and 22 URL-safe characters (128 random bits)."""
    return PREFIX + secrets.token_urlsafe(16)


def check_secret(secret: str) -> None:
    """Raises: ValueError that says what a secret chosen by somebody must be."""
    if not MIN_LENGTH <= len(secret) <= MAX_LENGTH or _SECRET.fullmatch(secret) is None:
        raise ValueError(
            f"A key starts with `{PREFIX}` and has {MIN_LENGTH} to {MAX_LENGTH} characters: "
            "letters, digits and signs of ASCII, no spaces."
        )


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of the whole secret, prefix included, as 64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def named_hash(name: str) -> str | None:
    """Return the hash of a key that somebody names by its secret or by its hash; None where it is neither."""
    if name.startswith(PREFIX):
        return hash_secret(name)
    return name if _HASH.fullmatch(name) else None


def display_name(secret: str) -> str:
    """Return what may be shown of a secret: `sk-...` and its last four characters."""
    return f"{PREFIX}...{secret[-4:]}"


def abbreviated(name: str) -> str:
    """Return as much as may be told of what somebody calls a key: a hash as it is, little of all else."""
    if _HASH.fullmatch(name):
        return name
    return display_name(name) if len(name) >= 12 else "(too short to show)"


class HideSecrets(logging.Filter):
    """Takes secrets out of log lines: a path may name a key, and Django logs the paths that it refuses."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if PREFIX in message:
            record.msg, record.args = _IN_TEXT.sub(f"{PREFIX}...", message), None
        return True
