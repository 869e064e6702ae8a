"""
Changing and making many users at once: each as `update_user` and `create_user` would, all with a
handful of statements.

All are read, then changed in memory, one after the other. Of those that are changed, what is
wrong with one leaves the others changed; of those that are made, all are or none. At last
everything is written: budgets first, as `docs/locking.md` has it.
"""

import copy
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet

from customers.actors import MASTER_KEY_USER_ID, current_actor
from customers.models import Budget, TrackedModel, User
from customers.models.user import new_user_id
from customers.refusals import Refused
from customers.services.budgets import find_budget, plan_budget
from customers.services.defaults import enforceable_limits, with_defaults
from customers.services.users import check_id_is_free, email_taken, id_taken, is_username, set_fields


class Outcome(NamedTuple):
    """What became of one change. user: as it is now; None: nothing was changed, `reason` says why."""

    user: User | None
    reason: str | None = None


class _Draft(NamedTuple):
    """A user as it is to be written, with those fields of it and of its budget that are."""

    user: User
    fields: frozenset[str] = frozenset()
    budget_fields: frozenset[str] = frozenset()


@transaction.atomic
def update_users(changes: Sequence[Mapping[str, Any]], *, at: datetime) -> list[Outcome]:
    """Change users, each named by its `user_id`, else by its `user_email`. Returns what became of each."""
    drafting = _Drafting(changes)
    outcomes = [drafting.take(given) for given in changes]
    drafting.write(at)
    return outcomes


class _Drafting:
    def __init__(self, changes: Sequence[Mapping[str, Any]]) -> None:
        emails = {each["user_email"] for each in changes if each.get("user_email")}
        ids = {each["user_id"] for each in changes if each.get("user_id")}
        users = User.objects.listed().select_related("budget")
        having = list(users.with_emails(emails)) if emails else []
        self._drafts = {user.pk: _Draft(user) for user in [*users.filter(pk__in=ids), *having]}
        self._stored_emails = {pk: draft.user.email.lower() for pk, draft in self._drafts.items()}
        self._ids_by_email = {user.email.lower(): user.pk for user in having}
        tiers = {each["budget_id"] for each in changes if each.get("budget_id") is not None}
        self._tiers = Budget.objects.in_bulk(tiers) if tiers else {}

    def take(self, given: Mapping[str, Any]) -> Outcome:
        """Draft one change on top of those before it."""
        if given.get("user_id"):
            user_id = given["user_id"]
        else:  # the e-mail names the user, and is no change
            user_id = self._ids_by_email.get(given["user_email"].lower())
            given = {name: value for name, value in given.items() if name != "user_email"}
        draft = self._drafts.get(user_id)
        if draft is None:
            return Outcome(None, "no such user: make it with POST /user/new")
        try:
            changed = self._changed(draft, given)
        except Refused as error:
            return Outcome(None, str(error))
        except ValidationError as error:
            return Outcome(None, " ".join(error.messages))
        if changed.user.email != draft.user.email:
            self._ids_by_email.pop(draft.user.email.lower(), None)
            if changed.user.email:
                self._ids_by_email[changed.user.email.lower()] = user_id
        self._drafts[user_id] = changed
        return Outcome(changed.user)

    def _changed(self, draft: _Draft, given: Mapping[str, Any]) -> _Draft:
        """Return the next draft; the one before stays as it is, should this one be refused."""
        user = copy.copy(draft.user)
        fields = set_fields(user, given)
        if "email" in fields and self._ids_by_email.get(user.email.lower(), user.pk) != user.pk:
            raise email_taken(user.email)
        budget = copy.copy(user.budget)
        budget, written = plan_budget(budget, enforceable_limits(budget, given), find=self._tier)
        budget_fields = frozenset(written)
        if user.budget is not None and budget is not None and budget.pk == user.budget.pk:
            budget_fields |= draft.budget_fields
        user.budget = budget
        user.updated_by = current_actor().id
        return _Draft(user, draft.fields | {*fields, "budget", "updated_by", "updated_at"}, budget_fields)

    def _tier(self, budget_id: str) -> Budget:
        found = self._tiers.get(budget_id)
        return find_budget(budget_id) if found is None else found

    def write(self, at: datetime) -> None:
        drafts = [draft for draft in self._drafts.values() if draft.fields]
        budgets = [(draft.user.budget, draft.budget_fields) for draft in drafts if draft.user.budget]
        new = [budget for budget, _ in budgets if budget._state.adding]
        if new:
            Budget.objects.bulk_create(new)
        _write_changed(Budget, [(budget, fields) for budget, fields in budgets if budget not in new], at)
        self._free_emails(drafts)
        _write_changed(User, [(draft.user, draft.fields) for draft in drafts], at)

    def _free_emails(self, drafts: Iterable[_Draft]) -> None:
        """Take e-mails off those whose e-mail another of them gets: the database compares row by row."""
        new = {draft.user.pk: draft.user.email.lower() for draft in drafts if "email" in draft.fields}
        wanted = {email for pk, email in new.items() if email and email != self._stored_emails[pk]}
        passed_on = [pk for pk in new if self._stored_emails[pk] in wanted]
        if passed_on:
            # Past the change log: what follows in this transaction is the change.
            QuerySet(User).filter(pk__in=passed_on).update(email="")


def _write_changed(
    model: type[TrackedModel], rows: Iterable[tuple[Any, frozenset[str]]], at: datetime
) -> None:
    """Write of each row what changed: an edit of another field at this moment stays."""
    alike: dict[frozenset[str], list[Any]] = {}
    for row, fields in rows:
        if fields:
            row.updated_at = at
            alike.setdefault(fields, []).append(row)
    for fields, changed in alike.items():
        model.objects.bulk_update(changed, sorted(fields))


# -- making ------------------------------------------------------------------------------


class NewUsers:
    """Users found by id or e-mail, and drafts of those that are not there: a few queries, however many.

    ids, emails: all that will be asked for.
    """

    def __init__(self, *, ids: Iterable[str], emails: Iterable[str]) -> None:
        ids, emails = set(ids), set(emails)
        # With those that were deleted: their ids are not used again.
        self._by_id = User.objects.in_bulk(ids) if ids else {}
        having = User.objects.listed().with_emails(emails) if emails else ()
        self._by_email = {user.email.lower(): user for user in having}
        same_name = User.objects.filter(username__in=ids).values_list("username", flat=True)
        self._usernames = set(same_name) if ids else set()
        self._defaults = getattr(settings, "USER_DEFAULTS", {})
        tier = self._defaults.get("budget_id")
        self._tier = None if tier is None else Budget.objects.filter(pk=tier).first()
        self._made: list[User] = []

    def find_or_draft(self, *, user_id: str | None, email: str | None) -> User:
        """Return a user by id, else by e-mail; one that is not there is drafted, without a password.

        Raises: Taken, Refused, Missing, ValidationError.
        """
        user = self._by_id.get(user_id) if user_id else self._by_email.get((email or "").lower())
        if user is None:
            return self._draft({"user_id": user_id, "user_email": email})
        if user.deleted_at is not None:
            raise id_taken(user)
        return user

    def _draft(self, given: Mapping[str, Any]) -> User:
        given = with_defaults(self._defaults, given)
        user_id = given["user_id"] or new_user_id()
        if user_id == MASTER_KEY_USER_ID:
            check_id_is_free(user_id)
        who = current_actor().id
        user = User(pk=user_id, username=self._username(user_id), created_by=who, updated_by=who)
        user.set_unusable_password()
        set_fields(user, given)
        if user.email and user.email.lower() in self._by_email:
            raise email_taken(user.email)
        user.budget, _ = plan_budget(None, enforceable_limits(None, given), find=self._find_tier)
        self._by_id[user_id] = user
        if user.email:
            self._by_email[user.email.lower()] = user
        self._made.append(user)
        return user

    def _username(self, user_id: str) -> str:
        name = user_id if is_username(user_id) and user_id not in self._usernames else str(uuid.uuid4())
        self._usernames.add(name)
        return name

    def _find_tier(self, budget_id: str) -> Budget:
        return find_budget(budget_id) if self._tier is None else self._tier

    def write(self) -> None:
        """Write what was drafted. In the caller's transaction."""
        budgets = [user.budget for user in self._made if user.budget and user.budget._state.adding]
        Budget.objects.bulk_create(budgets)
        User.objects.bulk_create(self._made)
