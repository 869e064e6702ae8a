"""What is done to users: make, change, delete."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet

from customers.actors import MASTER_KEY_USER_ID, current_actor
from customers.models import Budget, TeamMembership, User, VirtualKey
from customers.models.user import new_user_id
from customers.refusals import Missing, Refused, Taken
from customers.services.budgets import budget_of_holder
from customers.services.defaults import enforceable_limits, with_defaults
from customers.services.keys import delete_keys

# The API's names of what a user has, and ours; None is the empty value.
_FIELDS: Mapping[str, tuple[str, Any]] = {
    "user_alias": ("alias", ""),
    "user_email": ("email", ""),
    "user_role": ("role", User.Role.INTERNAL_USER.value),
    "models": ("allowed_models", []),
    "metadata": ("metadata", {}),
}
# LiteLLM's fields that have no effect here.
EXTRAS = ("organizations", "sso_user_id", "permissions", "object_permission", "guardrails")
_LONGEST_USERNAME = 150


def find_user(*, user_id: str | None = None, email: str | None = None) -> User | None:
    """Return a user who was not deleted, by id, else by e-mail in any case; None: there is none."""
    users = User.objects.filter(deleted_at=None).select_related("budget")
    if user_id:
        return users.filter(pk=user_id).first()
    return users.with_emails([email]).first() if email else None


def get_user(user_id: str, *, param: str = "user_id") -> User:
    """Return a user. Raises: Missing."""
    user = find_user(user_id=user_id)
    if user is None:
        raise Missing(f"no user with id {user_id}", param=param)
    return user


@transaction.atomic
def create_user(*, given: Mapping[str, Any]) -> User:
    """Make a user without a password: who logs into the admin is decided there.

    given: fields by the API's names. Raises: Taken, Refused, Missing, ValidationError.
    """
    given = with_defaults(getattr(settings, "USER_DEFAULTS", {}), given)
    user_id = given.get("user_id") or new_user_id()
    check_id_is_free(user_id)
    who = current_actor().id
    user = User(pk=user_id, username=_username_for(user_id), created_by=who, updated_by=who)
    user.set_unusable_password()
    set_fields(user, given)
    _check_email(user)
    user.budget = budget_of_holder(None, enforceable_limits(None, given))
    user.save(force_insert=True)
    return user


@transaction.atomic
def update_user(*, user: User, given: Mapping[str, Any]) -> User:
    """Change those fields of a user that are given. Raises as `create_user`."""
    changed = set_fields(user, given)
    if "email" in changed:
        _check_email(user)
    user.budget = budget_of_holder(user.budget, enforceable_limits(user.budget, given))
    user.updated_by = current_actor().id
    user.save(update_fields=[*changed, "budget", "updated_by", "updated_at"])
    return user


@transaction.atomic
def delete_users(*, ids: Iterable[str], at: datetime) -> int:
    """Retire users: they leave their teams, their keys stop working; logs and totals stay.

    Their ids are never used again, their e-mails may be. Returns how many.
    Raises: Missing for the first unknown id; Refused for the last superuser. Then nothing is done.
    """
    wanted = list(dict.fromkeys(ids))
    known = set(User.objects.filter(pk__in=wanted, deleted_at=None).values_list("pk", flat=True))
    for user_id in wanted:
        if user_id not in known:
            raise Missing(f"no user with id {user_id}; nobody was deleted", param="user_ids")
    if are_last_superusers(wanted):
        raise Refused(
            "This would delete the last superuser, and nobody could log into the admin any more: "
            "make another one first.",
            param="user_ids",
        )
    keys = VirtualKey.objects.listed().filter(user_id__in=wanted)
    delete_keys(ids=list(keys.order_by("pk").values_list("pk", flat=True)), at=at)
    end_memberships(TeamMembership.objects.filter(user_id__in=wanted))
    return User.objects.filter(pk__in=wanted).update(
        deleted_at=at, is_active=False, email="", updated_at=at, updated_by=current_actor().id
    )


def are_last_superusers(ids: Sequence[str]) -> bool:
    """Tell whether without these users nobody could manage the admin any more."""
    superusers = User.objects.filter(is_superuser=True, is_active=True)
    return superusers.filter(pk__in=ids).exists() and not superusers.exclude(pk__in=ids).exists()


def end_memberships(memberships: QuerySet) -> None:
    """Delete memberships, and the budgets that were theirs alone. In the caller's transaction."""
    ended = list(memberships.order_by("pk").values_list("pk", "budget_id"))
    TeamMembership.objects.filter(pk__in=[pk for pk, _ in ended]).delete()
    Budget.objects.filter(pk__in=[budget_id for _, budget_id in ended if budget_id], is_private=True).delete()


def check_id_is_free(user_id: str) -> None:
    """Raises: Taken for an id that a user has, or had; Refused for the master key's own."""
    if user_id == MASTER_KEY_USER_ID:
        raise Refused(f"{MASTER_KEY_USER_ID} is who has the master key: choose another id.", param="user_id")
    taken = User.objects.filter(pk=user_id).only("deleted_at").first()
    if taken is not None:
        raise id_taken(taken)


def id_taken(user: User) -> Taken:
    if user.deleted_at is not None:
        message = f"user {user.pk} was deleted; its id is not used again, since its history keeps it"
    else:
        message = f"a user with id {user.pk} exists already"
    return Taken(message, param="user_id")


def set_fields(user: User, given: Mapping[str, Any]) -> list[str]:
    """Set what is given, but for limits, checked. Returns the names of our fields that were set."""
    changed: list[str] = []
    for name, (field, empty) in _FIELDS.items():
        if name in given:
            setattr(user, field, empty if given[name] is None else given[name])
            changed.append(field)
    extras = {name: given[name] for name in EXTRAS if name in given}
    if extras:
        user.extras = {**user.extras, **extras}
        changed.append("extras")
    user.full_clean(
        exclude=["username", "password", "budget"], validate_unique=False, validate_constraints=False
    )
    return changed


def _check_email(user: User) -> None:
    """Raises: Taken where somebody else has the e-mail. Of two at the same time the database refuses one."""
    if user.email and User.objects.with_emails([user.email]).exclude(pk=user.pk).exists():
        raise email_taken(user.email)


def email_taken(email: str) -> Taken:
    return Taken(f"a user with the e-mail {email} exists already", param="user_email")


def _username_for(user_id: str) -> str:
    """Return what the user is called in the admin: its id, unless that cannot be, or is taken."""
    can_be = is_username(user_id) and not User.objects.filter(username=user_id).exists()
    return user_id if can_be else str(uuid.uuid4())


def is_username(user_id: str) -> bool:
    """Tell whether a user can be called so in the admin, if nobody else is."""
    try:
        UnicodeUsernameValidator()(user_id)
    except ValidationError:
        return False
    return len(user_id) <= _LONGEST_USERNAME
