"""
Upstream credentials: encrypted at rest, or a reference to the environment.

`os.environ/NAME` (LiteLLM's notation) is kept as it is and read when a catalog is
built; anything else is encrypted with a key derived from SECRET_KEY. A value that
can no longer be decrypted (SECRET_KEY was changed) reads as empty, and the
upstream counts as having no credential.
"""

import logging
import os
from typing import Any

from django.db import models

from customers.sealing import CannotUnseal, seal, unseal

logger = logging.getLogger(__name__)
ENVIRONMENT_PREFIX = "os.environ/"
_ENCRYPTED_PREFIX = "fernet:"
_PURPOSE = "upstream-credential"


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
        return _ENCRYPTED_PREFIX + seal(str(value).encode(), purpose=_PURPOSE).decode()

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if not value or not value.startswith(_ENCRYPTED_PREFIX):
            return value
        try:
            return unseal(value.removeprefix(_ENCRYPTED_PREFIX).encode(), purpose=_PURPOSE).decode()
        except CannotUnseal:
            logger.error("a stored upstream credential cannot be decrypted: was SECRET_KEY changed?")
            return ""
