"""
What is done to virtual keys: make, change, rotate, block, delete. Each owns its transaction.

Whose a key may be is in `api/key_owners.py`, what it may have in `key_limits.py`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from customers.actors import current_actor
from customers.allowed_routes import validate_routes
from customers.keys import abbreviated, check_secret, display_name, generate_secret, hash_secret, named_hash
from customers.models import Budget, Customer, VirtualKey
from customers.refusals import Missing, NotPermitted, Refused
from customers.services.budgets import budget_of_holder, find_budget
from customers.services.key_limits import expiry_of, limits_in

# What a request calls a column, and what the column has where the request says null.
_COLUMNS: dict[str, tuple[str, Any]] = {
    "key_alias": ("alias", None),
    "key_type": ("key_type", VirtualKey.KeyType.DEFAULT),
    "allowed_routes": ("allowed_routes", []),
    "models": ("allowed_models", []),
    "aliases": ("model_aliases", {}),
    "tags": ("tags", []),
    "metadata": ("metadata", {}),
    "blocked": ("blocked", False),
    "payer_policy": ("payer_policy", VirtualKey.PayerPolicy.TRUSTED),
}
# Without effect here: kept, and returned as they were given.
EXTRAS = (
    "organization_id",
    "project_id",
    "agent_id",
    "config",
    "permissions",
    "router_settings",
    "object_permission",
    "access_group_ids",
    "allowed_cache_controls",
    "allowed_passthrough_routes",
    "guardrails",
    "policies",
    "prompts",
    "enforced_params",
    "budget_fallbacks",
    "rpm_limit_type",
    "tpm_limit_type",
    "send_invite_email",
    "auto_rotate",
    "rotation_interval",
)
_NOT_EDITED = ("token_hash", "display_name")


# -- finding ---------------------------------------------------------------------------


def find_key(name: str, *, at: datetime) -> VirtualKey | None:
    """Return the key that is called `name`: its secret, or the hash of it. One query, or two."""
    return find_keys([name], at=at).get(name)


def find_keys(names: Iterable[str], *, at: datetime) -> dict[str, VirtualKey]:
    """Return the keys that are called `names`, by name. One query, or two.

    A secret that was replaced is its key's until its grace is over.
    """
    hashes = {name: named_hash(name) for name in names}
    wanted = [token_hash for token_hash in hashes.values() if token_hash is not None]
    if not wanted:
        return {}
    by_hash = {key.token_hash: key for key in _listed().filter(token_hash__in=wanted)}
    missing = [token_hash for token_hash in wanted if token_hash not in by_hash]
    if missing:
        replaced = _listed().filter(previous_token_hash__in=missing, previous_valid_until__gt=at)
        by_hash |= {key.previous_token_hash: key for key in replaced}
    return {name: by_hash[found] for name, found in hashes.items() if found is not None and found in by_hash}


def find_keys_of_aliases(aliases: Iterable[str]) -> dict[str, VirtualKey]:
    """Return the keys that have these aliases, by alias. One query."""
    return {str(key.alias): key for key in _listed().filter(alias__in=list(aliases))}


def _listed() -> QuerySet[VirtualKey]:
    return VirtualKey.objects.listed().select_related("budget", "customer_budget", "user", "team")


def no_such_key(name: str) -> Missing:
    return Missing(
        f"no key {abbreviated(name)}: name it by its secret (sk-…) or by the hash of that (GET /key/list)",
        param="key",
        type="not_found_error",
    )


# -- making and changing ---------------------------------------------------------------


@transaction.atomic
def create_key(*, secret: str | None = None, **fields: Any) -> tuple[VirtualKey, str]:
    """Make a virtual key. Returns (the key, its secret): the only time the secret is known.

    secret: one that somebody chose and `check_chosen_secret` let pass.
    """
    secret = secret or generate_secret()
    key = VirtualKey(token_hash=hash_secret(secret), display_name=display_name(secret), **fields)
    key.full_clean(exclude=_NOT_EDITED)
    key.save()
    return key, secret


@transaction.atomic
def make_key(*, given: Mapping[str, Any], at: datetime, **fields: Any) -> tuple[VirtualKey, str]:
    """Make a key as a request says it. Returns (the key, its secret).

    given: the request's fields, those that were sent; fields: columns besides, such as its
    owners. Raises: Refused, ValidationError.
    """
    secret = given.get("key")
    if secret is not None:
        check_chosen_secret(secret, param="key")
    who = current_actor().id
    columns = _columns_of(given, VirtualKey(), at=at)
    return create_key(secret=secret, **columns, **fields, created_by=who, updated_by=who)


@transaction.atomic
def change_key(*, key: VirtualKey, given: Mapping[str, Any], at: datetime, **fields: Any) -> None:
    """Change what is given of a key, and nothing else. Raises: Refused, ValidationError."""
    columns = {**_columns_of(given, key, at=at), **fields}
    for name, value in columns.items():
        setattr(key, name, value)
    key.full_clean(exclude=_NOT_EDITED, validate_unique=False)
    _save(key, columns)


@transaction.atomic
def rotate_key(
    *,
    key: VirtualKey,
    secret: str | None = None,
    grace: timedelta | None = None,
    at: datetime | None = None,
) -> str:
    """Give a key a new secret. Returns the new secret.

    The one it had stops working, after `grace` from `at` on where that is given; one before
    that stops at once. secret: one that somebody chose.
    """
    secret = secret or generate_secret()
    key.previous_token_hash, key.previous_valid_until = "", None
    if grace is not None and at is not None:
        key.previous_token_hash, key.previous_valid_until = key.token_hash, at + grace
    key.token_hash, key.display_name = hash_secret(secret), display_name(secret)
    _save(key, ("token_hash", "display_name", "previous_token_hash", "previous_valid_until"))
    return secret


def check_chosen_secret(secret: str, *, param: str) -> None:
    """Refuse a secret that nobody may have. Raises: Refused."""
    if settings.DISABLE_CUSTOM_API_KEYS:
        raise NotPermitted(
            f"Keys are made by the gateway here: leave {param} out.",
            param=param,
        )
    try:
        check_secret(secret)
    except ValueError as error:
        raise Refused(str(error), param=param) from None
    token_hash = hash_secret(secret)
    # Deleted keys count, too: their logs are known by the hash.
    taken = VirtualKey.objects.filter(Q(token_hash=token_hash) | Q(previous_token_hash=token_hash))
    if secret == settings.MASTER_KEY or taken.exists():
        raise Refused("This key is, or was, somebody's already: choose another.", param=param)


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


# -- helpers ---------------------------------------------------------------------------


def _save(key: VirtualKey, columns: Iterable[str]) -> None:
    key.updated_by = current_actor().id
    key.save(update_fields=[*columns, "updated_by", "updated_at"])


def _columns_of(given: Mapping[str, Any], key: VirtualKey, *, at: datetime) -> dict[str, Any]:
    """Return the columns that a request sets, with their values. Makes or changes the key's budget."""
    columns: dict[str, Any] = {}
    for name, (column, empty) in _COLUMNS.items():
        if name in given:
            columns[column] = empty if given[name] is None else given[name]
    if "alias" in columns:
        columns["alias"] = _free_alias(columns["alias"] or None, key)
    if "allowed_routes" in columns:
        _check_routes(columns["allowed_routes"])
    if "duration" in given:
        columns["expires_at"] = expiry_of(given["duration"], at=at)
    extras = {name: given[name] for name in EXTRAS if name in given}
    if extras:
        columns["extras"] = {**key.extras, **extras}
    if "customer_id" in given:
        columns["customer"] = _customer(given["customer_id"])
    if "end_user_budget_id" in given:
        columns["customer_budget"] = _customer_budget(given["end_user_budget_id"])
    budget = budget_of_holder(key.budget, limits_in(given, key.budget))
    if budget is not key.budget:
        columns["budget"] = budget
    return columns


def _free_alias(alias: str | None, key: VirtualKey) -> str | None:
    if alias is not None and VirtualKey.objects.filter(alias=alias).exclude(pk=key.pk).exists():
        raise Refused(f"A key with the alias {alias!r} exists already: choose another.", param="key_alias")
    return alias


def _check_routes(routes: list[str]) -> None:
    try:
        validate_routes(routes)
    except ValueError as error:
        raise Refused(str(error), param="allowed_routes") from None


def _customer(customer_id: str | None) -> Customer | None:
    if customer_id is None:
        return None
    customer = Customer.objects.listed().filter(pk=customer_id).first()
    if customer is None:
        raise Missing(
            f"no customer with id {customer_id}: make it with POST /customer/new", param="customer_id"
        )
    return customer


def _customer_budget(budget_id: str | None) -> Budget | None:
    return None if budget_id is None else find_budget(budget_id, param="end_user_budget_id")
