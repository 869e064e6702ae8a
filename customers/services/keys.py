"""What is done to virtual keys: create, rotate, block, delete. Each owns its transaction."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction

from customers.keys import display_name, generate_secret, hash_secret
from customers.models import VirtualKey


@transaction.atomic
def create_key(**fields: Any) -> tuple[VirtualKey, str]:
    """Make a virtual key. Returns (the key, its secret): the only time the secret is known."""
    secret = generate_secret()
    key = VirtualKey(token_hash=hash_secret(secret), display_name=display_name(secret), **fields)
    key.full_clean(exclude=["token_hash", "display_name"])
    key.save()
    return key, secret


@transaction.atomic
def rotate_key(*, key: VirtualKey) -> str:
    """Give a key a new secret; the old one stops working. Returns the new secret."""
    secret = generate_secret()
    key.token_hash, key.display_name = hash_secret(secret), display_name(secret)
    key.save(update_fields=["token_hash", "display_name", "updated_at"])
    return secret


def set_keys_blocked(*, ids: Iterable[Any], blocked: bool) -> int:
    """Block or unblock keys; in force on every worker within two seconds. Returns how many changed."""
    return (
        VirtualKey.objects.listed().filter(pk__in=list(ids)).exclude(blocked=blocked).update(blocked=blocked)
    )


def delete_keys(*, ids: Iterable[Any], at: datetime) -> int:
    """Retire keys: they stop working, their logs and totals stay. Returns how many changed."""
    return (
        VirtualKey.objects.listed().filter(pk__in=list(ids)).update(deleted_at=at, blocked=True, alias=None)
    )
