"""
Virtual keys: contract 5.3. What they look like is in `key_objects.py`.

Whose a key may be is decided in `customers/api/key_owners.py`.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.admin.naming import UuidText
from billing.books.adjustments import initial_spend
from billing.budgets.bars import Holder, bars_now
from billing.budgets.periods import start_afresh
from billing.budgets.status import prepare_periods, prepare_periods_of_many, spending_of
from billing.models import HolderType, SpendTotal
from billing.views import examples
from billing.views.key_objects import key_objects
from customers.api import Action, ApiError, ManagementView, key_owners
from customers.api.errors import BadRequest, NotFound
from customers.api.paging import page_of
from customers.api.schema import described
from customers.filtersets import KeyFilter
from customers.models import VirtualKey
from customers.models.audit_log import record_audit
from customers.money import UsdField
from customers.refusals import Refused
from customers.serializers.keys import (
    MOST_KEYS,
    AliasPageQuery,
    ChangedKey,
    ChangedKeys,
    DeletedKeys,
    KeyPageQuery,
    KeyQuery,
    NamedKey,
    NamedKeys,
    NewKey,
    RegeneratedKey,
    ResetKeySpend,
)
from customers.services.defaults import with_defaults
from customers.services.key_limits import lifetime, within_bounds
from customers.services.keys import (
    change_key,
    check_chosen_secret,
    delete_keys,
    find_key,
    find_keys,
    find_keys_of_aliases,
    make_key,
    no_such_key,
    rotate_key,
)

_ZERO = Decimal(0)
_SORTED_BY = {
    "key_alias": "alias",
    "key_name": "display_name",
    "expires": "expires_at",
    "spend": "total_spend",
    "max_budget": "budget__max_budget",
}


class KeyView(ManagementView):
    """What the routes of one key share."""

    def to_change(self, key: VirtualKey | None, route: str, *, name: str) -> VirtualKey:
        """Return `key` if the caller may do `route` to it. name: what the request calls it.

        Raises: NotFound, also where it is out of reach; ApiError 403.
        """
        if key is None or not self.reach.has_key(key):
            raise no_such_key(name)
        key_owners.check_may_change(key, route, caller=self.caller, reach=self.reach)
        return key

    def change(self, key: VirtualKey, given: Mapping[str, Any], *, at: datetime) -> None:
        """Change what is given of a key that the caller may change, and prepare its periods.

        Raises: ApiError, ValidationError.
        """
        self.change_alone(key, given, at=at)
        prepare_periods(HolderType.KEY, str(key.pk), key.budget)

    def change_alone(self, key: VirtualKey, given: Mapping[str, Any], *, at: datetime) -> None:
        """Change a key, and leave its periods to who changes many."""
        if key.blocked and "blocked" in given and not given["blocked"]:
            key_owners.require_manager(key, "unblock it", reach=self.reach)
        key_owners.check_payer(given, key, reach=self.reach)
        owners = key_owners.owners_of_changed_key(given, key, caller=self.caller, reach=self.reach)
        change_key(key=key, given=within_bounds(given, is_new=False), at=at, **owners)
        if not given.keys().isdisjoint(("user_id", "key_type", "allowed_routes")):
            key_owners.check_own_name(key, caller=self.caller, reach=self.reach)

    def made(self, key: VirtualKey, secret: str, given: Mapping[str, Any], *, at: datetime) -> dict[str, Any]:
        """Return the one answer that shows a secret."""
        [row] = key_objects([key], at=at)
        return {"key": secret, "token_id": key.token_hash, "duration": given.get("duration"), **row}


class GenerateKey(KeyView):
    """Make a key; its secret is in this answer alone."""

    actions = {"POST": Action.WRITE_KEYS}
    is_service_account = False

    @described(
        body=NewKey,
        answer=examples.MADE_KEY,
        example={"key_alias": "acme-prod", "team_id": "t-sales", "duration": "90d", "max_budget": 25},
    )
    def post(self, request: Request) -> Response:
        at = timezone.now()
        given = with_defaults(getattr(settings, "KEY_DEFAULTS", {}), self.body(NewKey))
        if self.is_service_account:
            _check_service_account(given)
        given = within_bounds(given, is_new=True)
        owners = key_owners.owners_of_new_key(
            given, caller=self.caller, reach=self.reach, is_service_account=self.is_service_account
        )
        key_owners.check_payer(given, None, reach=self.reach)
        key_id = uuid.uuid4()
        if given.get("spend"):
            key_owners.require_proxy_admin("give a key a spend to begin with", reach=self.reach)
            initial_spend(key_id=key_id, amount=given["spend"], at=at)  # before the save: docs/locking.md
        key_type = key_owners.type_of_new_key(given, owners["user"], caller=self.caller, reach=self.reach)
        key, secret = make_key(given={**given, "key_type": key_type}, at=at, id=key_id, **owners)
        key_owners.check_own_name(key, caller=self.caller, reach=self.reach)
        prepare_periods(HolderType.KEY, str(key.pk), key.budget)
        return Response(self.made(key, secret, given, at=at))


class GenerateServiceAccountKey(GenerateKey):
    """Make a key that belongs to a team, and to no user."""

    is_service_account = True


def _check_service_account(given: Mapping[str, Any]) -> None:
    if given.get("team_id") is None:
        raise BadRequest("A service account's key belongs to a team: give team_id.", param="team_id")
    if given.get("user_id") is not None:
        raise BadRequest("A service account's key belongs to no user: leave user_id out.", param="user_id")


class UpdateKey(KeyView):
    """Change what is sent of a key; null takes a limit away."""

    actions = {"POST": Action.WRITE_KEYS}

    @described(
        body=ChangedKey,
        answer=examples.CHANGED_KEY,
        example={"key": "sk-EXAMPLE0000000000000xQ", "max_budget": 50},
    )
    def post(self, request: Request) -> Response:
        at, given = timezone.now(), self.body(ChangedKey)
        name = given.pop("key", None)
        found = find_key(name, at=at) if name else self._of_alias(given)
        key = self.to_change(found, key_owners.UPDATE, name=name or "")
        self.change(key, given, at=at)
        [row] = key_objects([key], at=at)
        return Response({"key": name or key.token_hash, **row})

    def _of_alias(self, given: dict[str, Any]) -> VirtualKey | None:
        """Return the key that the request names by its alias, which is then nothing to change."""
        alias = given.pop("key_alias", None)
        if not alias:
            raise BadRequest("Say which key: `key`, its secret or hash, or `key_alias`.", param="key")
        return find_keys_of_aliases([alias]).get(alias)


class UpdateKeys(KeyView):
    """Change many keys, each by itself: one that fails leaves the others changed."""

    actions = {"POST": Action.WRITE_KEYS}

    @described(
        body=ChangedKeys,
        answer=examples.KEY_RESULTS,
        example={"keys": [{"key": "sk-EXAMPLE0000000000000xQ", "max_budget": 50}]},
    )
    def post(self, request: Request) -> Response:
        key_owners.require_proxy_admin("change many keys at once", reach=self.reach)
        sent = request.data.get("keys") if isinstance(request.data, dict) else None
        if isinstance(sent, list) and len(sent) > MOST_KEYS:
            raise BadRequest(f"At most {MOST_KEYS} keys in one request; here are {len(sent)}.", param="keys")
        at, rows = timezone.now(), self.body(ChangedKeys)["keys"]
        found = find_keys([row["key"] for row in rows], at=at)
        changed: list[tuple[str, VirtualKey]] = []
        failed: list[dict[str, Any]] = []
        for row in rows:
            given = dict(row)
            name = given.pop("key")
            try:
                with transaction.atomic():
                    key = self.to_change(found.get(name), key_owners.UPDATE, name=name)
                    self.change_alone(key, given, at=at)
            except (ApiError, Refused, ValidationError, IntegrityError) as error:
                failed.append({"key": name, "key_info": None, "failed_reason": _reason(error)})
            else:
                changed.append((name, key))
        prepare_periods_of_many(HolderType.KEY, [(str(key.pk), key.budget) for _, key in changed])
        objects = key_objects([key for _, key in changed], at=at)
        return Response(
            {
                "total_requested": len(rows),
                "successful_updates": [
                    {"key": name, "key_info": row} for (name, _), row in zip(changed, objects, strict=True)
                ],
                "failed_updates": failed,
            }
        )


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return " ".join(error.messages)
    if isinstance(error, IntegrityError):
        return "Another call changed the same at the same time."
    return str(error)


def _not_yours(verb: str, *, param: str) -> ApiError:
    return ApiError(f"This key is not yours to {verb}.", status=403, type="auth_error", param=param)


class DeleteKeys(KeyView):
    """Delete keys: they stop working; their logs and totals stay."""

    actions = {"POST": Action.WRITE_KEYS}

    @described(
        body=DeletedKeys,
        answer={"deleted_keys": ["sk-EXAMPLE0000000000000xQ"]},
        example={"keys": ["sk-EXAMPLE0000000000000xQ"]},
    )
    def post(self, request: Request) -> Response:
        at, given = timezone.now(), self.body(DeletedKeys)
        names, aliases = given.get("keys") or [], given.get("key_aliases") or []
        if not names and not aliases:
            raise BadRequest("Say which keys: `keys`, by secret or hash, or `key_aliases`.", param="keys")
        found = {**find_keys(names, at=at), **find_keys_of_aliases(aliases)}
        if not found and not names:
            message = f"There is no key with the alias {aliases[0]!r}."
            raise NotFound(message, param="key_aliases", type="not_found_error")
        if not found:
            raise no_such_key(names[0])
        for key in found.values():
            if not self.reach.has_key(key):
                raise _not_yours("delete", param="keys")
            key_owners.check_may_change(key, key_owners.DELETE, caller=self.caller, reach=self.reach)
        delete_keys(ids=[key.pk for key in found.values()], at=at)
        return Response({"deleted_keys": list(found)})


class KeyInfo(KeyView):
    """One key: its limits and its spend."""

    actions = {"GET": Action.READ_KEYS}

    @described(query=KeyQuery, answer={"key": examples.KEY["token"], "info": examples.KEY_INFO})
    def get(self, request: Request) -> Response:
        at, name = timezone.now(), self.query(KeyQuery).get("key")
        if name is None:
            key = self.caller.key
            if key is None:
                raise BadRequest("The master key has no row: say which key, ?key=…", param="key")
        else:
            key = find_key(name, at=at)
            if key is None:
                raise no_such_key(name)
            if not self.reach.has_key(key):
                raise _not_yours("see", param="key")
        [row] = key_objects([key], at=at, has_hash=False)
        return Response({"key": key.token_hash, "info": row})


class KeysInfo(KeyView):
    """Several keys; those that are not there, or not yours, are left out."""

    actions = {"POST": Action.READ_KEYS}
    reads_by_post = True

    @described(
        body=NamedKeys,
        answer={"key": [examples.KEY["token"]], "info": [examples.KEY_INFO]},
        example={"keys": ["sk-EXAMPLE0000000000000xQ"]},
    )
    def post(self, request: Request) -> Response:
        at = timezone.now()
        found = find_keys(self.body(NamedKeys)["keys"], at=at).values()
        keys = {key.pk: key for key in found if self.reach.has_key(key)}.values()
        rows = key_objects(keys, at=at, has_hash=False)
        return Response({"key": [key.token_hash for key in keys], "info": rows})


class ListKeys(KeyView):
    """Keys, page by page: their hashes, or whole rows."""

    actions = {"GET": Action.READ_KEYS}

    @described(
        query=KeyPageQuery,
        answer={"keys": [examples.KEY["token"]], "total_count": 1, "current_page": 1, "total_pages": 1},
        also=[
            {
                "keys": [{**examples.KEY, "user": examples.KEY_OWNER}],
                "total_count": 1,
                "current_page": 1,
                "total_pages": 1,
            }
        ],
    )
    def get(self, request: Request) -> Response:
        at, query = timezone.now(), self.query(KeyPageQuery)
        reached = VirtualKey.objects.filter(self.reach.keys()).select_related("budget", "user")
        keys = _sorted(KeyFilter(query, reached).qs, query["sort_by"], query["sort_order"])
        page = page_of(keys, number=query["page"], size=query["size"])
        rows: list[Any] = [key.token_hash for key in page.rows]
        if query["return_full_object"] or query.get("expand"):
            rows = key_objects(page.rows, at=at, has_user="user" in query.get("expand", ()))
        return Response(
            {
                "keys": rows,
                "total_count": page.total,
                "current_page": page.number,
                "total_pages": page.pages,
            }
        )


def _sorted(keys: QuerySet, by: str, order: str) -> QuerySet:
    """Return the keys in an order that is the same on each database: those without a value last."""
    if by == "spend":
        totals = SpendTotal.objects.filter(holder_type=HolderType.KEY, holder_id=UuidText(OuterRef("pk")))
        keys = keys.annotate(
            total_spend=Coalesce(
                Subquery(totals.values("cost")), Value(0, UsdField()), output_field=UsdField()
            )
        )
    column = F(_SORTED_BY.get(by, by))
    if order == "asc":
        return keys.order_by(column.asc(nulls_last=True), "pk")
    return keys.order_by(column.desc(nulls_last=True), "-pk")


class KeyAliases(KeyView):
    """The names of keys, page by page, in the order of the alphabet."""

    actions = {"GET": Action.READ_KEYS}

    @described(
        query=AliasPageQuery,
        answer={"aliases": ["acme-prod"], "total_count": 1, "current_page": 1, "total_pages": 1, "size": 50},
    )
    def get(self, request: Request) -> Response:
        query = self.query(AliasPageQuery)
        keys = VirtualKey.objects.listed().filter(self.reach.keys(), alias__isnull=False)
        if "search" in query:
            keys = keys.filter(alias__icontains=query["search"])
        aliases = keys.order_by("alias").values_list("alias", flat=True)
        page = page_of(aliases, number=query["page"], size=query["size"])
        return Response(
            {
                "aliases": page.rows,
                "total_count": page.total,
                "current_page": page.number,
                "total_pages": page.pages,
                "size": page.size,
            }
        )


class RegenerateKey(KeyView):
    """Give a key a new secret, and change what else is sent."""

    actions = {"POST": Action.WRITE_KEYS}

    @described(
        body=RegeneratedKey,
        answer=examples.MADE_KEY,
        example={"key": "sk-EXAMPLE0000000000000xQ", "grace_period": "24h"},
    )
    def post(self, request: Request, key: str | None = None) -> Response:
        at, given = timezone.now(), self.body(RegeneratedKey)
        name = given.pop("key", None) if key is None else key
        if not name:
            raise BadRequest("Say which key: `key`, its secret or hash.", param="key")
        given.pop("key", None)
        secret, grace = given.pop("new_key", None), given.pop("grace_period", None)
        row = self.to_change(find_key(name, at=at), key_owners.REGENERATE, name=name)
        if secret is not None:
            check_chosen_secret(secret, param="new_key")
        if given:
            self.change(row, given, at=at)
        key_owners.check_own_name(row, caller=self.caller, reach=self.reach)
        secret = rotate_key(
            key=row,
            secret=secret,
            grace=lifetime(grace, param="grace_period") if grace else None,
            at=at,
        )
        return Response(self.made(row, secret, given, at=at))


class BlockKey(KeyView):
    """Have a key refused, until it is unblocked."""

    actions = {"POST": Action.WRITE_KEYS}
    blocked = True

    @described(body=NamedKey, answer=examples.KEY, example={"key": "sk-EXAMPLE0000000000000xQ"})
    def post(self, request: Request) -> Response:
        at, name = timezone.now(), self.body(NamedKey)["key"]
        key = self.to_change(find_key(name, at=at), key_owners.BLOCK, name=name)
        self.change(key, {"blocked": self.blocked}, at=at)
        return Response(key_objects([key], at=at)[0])


class UnblockKey(BlockKey):
    """Let a key's calls through again."""

    blocked = False


class ResetSpend(KeyView):
    """Have the budget of a key count from zero, as of now. What was ever spent stays."""

    actions = {"POST": Action.WRITE_KEYS}

    @described(body=ResetKeySpend, answer=examples.RESET_KEY, example={"reset_to": 0})
    def post(self, request: Request, key: str) -> Response:
        at, reset_to = timezone.now(), self.body(ResetKeySpend)["reset_to"]
        row = self.to_change(find_key(key, at=at), key_owners.UPDATE, name=key)
        key_owners.require_manager(row, "start its budget afresh", reach=self.reach)
        if reset_to:
            raise BadRequest(
                "What was spent is not rewritten; only a period can count from zero: reset_to is 0.",
                param="reset_to",
            )
        holder = Holder(HolderType.KEY, str(row.pk), str(row), row.budget)
        bars = bars_now([holder], at=at)[holder.key]
        if not bars:
            raise BadRequest(
                "This key has no budget that could count from zero: give it a max_budget first.", param="key"
            )
        start_afresh([bar.period for bar in bars], at=at)
        was = {"alias": row.alias, "spent_in_period": str(bars[0].spent)}
        record_audit(VirtualKey, {row.pk: was}, {row.pk: {**was, "spent_in_period": "0"}})
        spending = spending_of(HolderType.KEY, [(str(row.pk), row.budget)], at=at)[str(row.pk)]
        return Response(
            {
                "key_hash": row.token_hash,
                "spend": _ZERO,
                "previous_spend": bars[0].spent,
                "max_budget": row.budget.max_budget if row.budget else None,
                "budget_reset_at": bars[0].ends_at,
                "total_spend": spending.spend,
            }
        )


class KeyHealth(KeyView):
    """Tell whether the key that asks works. LiteLLM also tries its logging callbacks; there are none here."""

    actions = {"POST": Action.READ_KEYS}
    reads_by_post = True

    @described(answer={"key": "healthy", "logging_callbacks": None})
    def post(self, request: Request) -> Response:
        return Response({"key": "healthy", "logging_callbacks": None})


urlpatterns = [
    path("key/generate", GenerateKey.as_view()),
    path("key/service-account/generate", GenerateServiceAccountKey.as_view()),
    path("key/update", UpdateKey.as_view()),
    path("key/bulk_update", UpdateKeys.as_view()),
    path("key/delete", DeleteKeys.as_view()),
    path("key/info", KeyInfo.as_view()),
    path("v2/key/info", KeysInfo.as_view()),
    path("key/list", ListKeys.as_view()),
    path("key/aliases", KeyAliases.as_view()),
    path("key/regenerate", RegenerateKey.as_view()),
    path("key/<str:key>/regenerate", RegenerateKey.as_view()),
    path("key/block", BlockKey.as_view()),
    path("key/unblock", UnblockKey.as_view()),
    path("key/<str:key>/reset_spend", ResetSpend.as_view()),
    path("key/health", KeyHealth.as_view()),
]
