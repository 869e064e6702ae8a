"""Bytes that only this installation can read: encrypted with a key derived from SECRET_KEY."""

import base64
import hashlib
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings


class CannotUnseal(ValueError):
    """SECRET_KEY was changed since, or these are not bytes that were sealed for this purpose."""


@lru_cache(maxsize=8)
def _cipher(purpose: str, secret_key: str) -> Fernet:
    digest = hashlib.sha256(f"{purpose}:{secret_key}".encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def seal(value: bytes, *, purpose: str) -> bytes:
    return _cipher(purpose, settings.SECRET_KEY).encrypt(value)


def unseal(sealed: bytes, *, purpose: str) -> bytes:
    """Raises: CannotUnseal."""
    try:
        return _cipher(purpose, settings.SECRET_KEY).decrypt(sealed)
    except InvalidToken as error:
        raise CannotUnseal(purpose) from error
