"""
Upstream credentials: encrypted at rest, or a reference to the environment.

`os.environ/NAME` (LiteLLM's notation) is kept as it is and read when a catalog is
built; anything else is encrypted with a key derived from SECRET_KEY. A value that
can no longer be decrypted (SECRET_KEY was changed) reads as empty, and the
upstream counts as having no credential.
"""

import base64
import hashlib
import logging
import os
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.db import models

logger = logging.getLogger(__name__)
ENVIRONMENT_PREFIX = "os.environ/"
_ENCRYPTED_PREFIX = "fernet:"


@lru_cache(maxsize=4)
def _cipher(secret_key: str) -> Fernet:
    digest = hashlib.sha256(b"upstream-credential:" + secret_key.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def resolve(value: str) -> str:
    """Return what `value` stands for: the variable's content after `os.environ/`, else itself."""
    if value.startswith(ENVIRONMENT_PREFIX):
        return os.environ.get(value.removeprefix(ENVIRONMENT_PREFIX), "")
    return value


class EncryptedCredentialField(models.TextField):
    """Text that is only readable with SECRET_KEY; references to the environment stay plain."""

    def get_prep_value(self, value: Any) -> Any:
        if not value or str(value).startswith(ENVIRONMENT_PREFIX):
            return value
        return _ENCRYPTED_PREFIX + _cipher(settings.SECRET_KEY).encrypt(str(value).encode()).decode()

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if not value or not value.startswith(_ENCRYPTED_PREFIX):
            return value
        try:
            return (
                _cipher(settings.SECRET_KEY).decrypt(value.removeprefix(_ENCRYPTED_PREFIX).encode()).decode()
            )
        except InvalidToken:
            logger.error("a stored upstream credential cannot be decrypted: was SECRET_KEY changed?")
            return ""
