"""
Users, who own keys: contract 5.5.

A role says what a user's keys may do here. Who logs into the admin is decided there.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import (
    Count,
    F,
    OuterRef,
    Prefetch,
    QuerySet,
    Subquery,
    Value,
    prefetch_related_objects,
)
from django.db.models.functions import Coalesce
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.books.adjustments import initial_spend
from billing.budgets.status import Spending, prepare_periods, prepare_periods_of_many, spending_of
from billing.models import HolderType, SpendTotal
from billing.views import examples
from billing.views.key_objects import key_objects
from billing.views.limits import holder_limits, key_rows
from billing.views.team_objects import seen_keys, seen_teams, team_objects
from billing.views.teams import MOST_LISTED
from customers.api import Action, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.paging import page_of
from customers.api.schema import described
from customers.filtersets import UserFilter
from customers.models import Team, TeamMembership, User, VirtualKey
from customers.models.user import new_user_id
from customers.money import UsdField
from customers.serializers import users as shapes
from customers.services import users as services
from customers.services.defaults import with_defaults
from customers.services.key_limits import within_bounds
from customers.services.keys import make_key
from customers.services.many_users import Outcome, update_users
from customers.services.teams import NewMember, add_members

_MOST_KEYS = 10_000  # in the answer to who asks for all
_SORTED_BY = {
    "user_id": "pk",
    "user_email": "email",
    "user_alias": "alias",
    "user_role": "role",
    "spend": "total_spend",
    "max_budget": "budget__max_budget",
    "created_at": "date_joined",
}
_ROLES = {
    User.Role.PROXY_ADMIN: "Reads and changes everything.",
    User.Role.PROXY_ADMIN_VIEWER: "Reads everything, changes nothing.",
    User.Role.INTERNAL_USER: "Makes calls; reads and changes its own keys, reads its own spend.",
    User.Role.INTERNAL_USER_VIEWER: "Reads its own keys and spend, changes nothing.",
}
_AVAILABLE_ROLES = {
    role.value: {"description": description, "ui_label": role.label.capitalize()}
    for role, description in _ROLES.items()
}


class NewUser(ManagementView):
    """Make a user, and a first key for it unless `auto_create_key` is false."""

    actions = {"POST": Action.WRITE_USERS}

    @described(
        body=shapes.NewUser,
        answer=examples.NEW_USER,
        example={"user_email": "kim@example.com", "user_role": "internal_user", "max_budget": 50},
    )
    def post(self, request: Request) -> Response:
        given, at = self.body(shapes.NewUser), timezone.now()
        user_id = given.get("user_id") or new_user_id()
        services.check_id_is_free(user_id)
        if given.get("spend"):
            initial_spend(user_id=user_id, amount=given["spend"], at=at)  # before the save: docs/locking.md
        user = services.create_user(given={**given, "user_id": user_id})
        self._join(user, given.get("teams") or ())
        made = self._key(user, given, at) if given["auto_create_key"] else {}
        prepare_periods(HolderType.USER, user.pk, user.budget)
        [row] = user_objects([user], at=at)
        no_key = dict.fromkeys(("key", "token", "token_id", "key_name", "key_alias", "expires"))
        return Response({**no_key, **made, **row})

    def _join(self, user: User, teams: Iterable[Mapping[str, Any]]) -> None:
        for given in teams:
            team = Team.objects.filter(pk=given["team_id"], deleted_at=None).first()
            if team is None:
                raise NotFound(f"no team with id {given['team_id']}", param="teams")
            limits = {"max_budget": given["max_budget_in_team"]} if "max_budget_in_team" in given else {}
            add_members(team=team, members=[NewMember(user.pk, role=given["user_role"])], limits=limits)

    def _key(self, user: User, given: Mapping[str, Any], at: datetime) -> dict[str, Any]:
        """Make the user's first key. Returns what the answer shows of it: the secret, this once."""
        asked = {name: given[name] for name in ("key_alias", "duration", "aliases") if name in given}
        asked = within_bounds(with_defaults(getattr(settings, "KEY_DEFAULTS", {}), asked), is_new=True)
        key, secret = make_key(given=asked, at=at, user=user)
        prepare_periods(HolderType.KEY, str(key.pk), key.budget)
        [row] = key_objects([key], at=at)
        return {"key": secret, "token_id": key.token_hash, "duration": asked.get("duration"), **row}


class UpdateUser(ManagementView):
    """Change those fields of a user that are sent; a user that is not there is made, without a key."""

    actions = {"POST": Action.WRITE_USERS}

    @described(
        body=shapes.ChangedUser,
        answer={"user_id": "u-17", "data": examples.USER},
        example={"user_id": "u-17", "max_budget": 80},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.ChangedUser)
        user = named_user(given)
        if user is None:
            user = services.create_user(given=given)
        else:
            change(user, given)
        prepare_periods(HolderType.USER, user.pk, user.budget)
        [row] = user_objects([user], at=timezone.now())
        return Response({"user_id": user.pk, "data": row})


class UpdateUsers(ManagementView):
    """Change several users: each for itself, so that what is wrong with one leaves the others changed."""

    actions = {"POST": Action.WRITE_USERS}

    @described(
        body=shapes.ChangedUsers,
        answer=examples.USER_RESULTS,
        example={"users": [{"user_id": "u-17", "max_budget": 80}]},
    )
    def post(self, request: Request) -> Response:
        given = self.body(shapes.ChangedUsers)
        wanted = self._of_all(given["user_updates"]) if given["all_users"] else given["users"]
        at = timezone.now()
        outcomes = update_users(wanted, at=at)
        changed = list({each.user.pk: each.user for each in outcomes if each.user is not None}.values())
        prefetch_related_objects(changed, _memberships())
        prepare_periods_of_many(HolderType.USER, [(user.pk, user.budget) for user in changed])
        rows = {row["user_id"]: row for row in user_objects(changed, at=at)}
        results = [_result(given, outcome, rows) for given, outcome in zip(wanted, outcomes, strict=True)]
        number = sum(result["success"] for result in results)
        return Response(
            {
                "results": results,
                "total_requested": len(results),
                "successful_updates": number,
                "failed_updates": len(results) - number,
            }
        )

    def _of_all(self, updates: Mapping[str, Any]) -> list[dict[str, Any]]:
        users = User.objects.filter(deleted_at=None).order_by("pk")
        ids = list(users.values_list("pk", flat=True)[: shapes.MOST_CHANGED + 1])
        if len(ids) > shapes.MOST_CHANGED:
            raise BadRequest(
                f"There are more than {shapes.MOST_CHANGED} users: name as many at a time in `users`.",
                param="all_users",
            )
        return [{**updates, "user_id": user_id} for user_id in ids]


def _result(given: Mapping[str, Any], outcome: Outcome, rows: Mapping[str, Any]) -> dict[str, Any]:
    user = outcome.user
    return {
        "user_id": user.pk if user else given.get("user_id"),
        "user_email": (user.email or None) if user else given.get("user_email"),
        "success": user is not None,
        "error": outcome.reason,
        "updated_user": rows[user.pk] if user else None,
    }


class UserInfo(ManagementView):
    """One user with its keys and teams; without a `user_id` the caller, to admins all keys and teams."""

    actions = {"GET": Action.READ_USERS}

    @described(query=shapes.UserQuery, answer=examples.USER_INFO)
    def get(self, request: Request) -> Response:
        user_id = self.query(shapes.UserQuery).get("user_id")
        at = timezone.now()
        if user_id is None and self.reach.is_all:
            return self._everything(at)
        user = seen_user(self, user_id)
        teams = seen_teams(self).filter(memberships__user=user)
        return Response(
            {
                "user_id": user.pk,
                "user_info": seen_objects(self, [user], at=at)[0],
                "keys": key_rows(seen_keys(self).filter(user=user), at=at),
                "teams": team_objects(list(teams.order_by("created_at", "pk")), at=at),
            }
        )

    def _everything(self, at: datetime) -> Response:
        teams = list(seen_teams(self).order_by("created_at", "pk")[: MOST_LISTED + 1])
        keys = VirtualKey.objects.listed()
        if len(teams) > MOST_LISTED or keys.count() > _MOST_KEYS:
            raise BadRequest(
                f"There are more than {MOST_LISTED} teams or {_MOST_KEYS} keys: say which user, or page "
                "through /v2/team/list and /key/list.",
                param="user_id",
            )
        return Response(
            {
                "user_id": None,
                "user_info": None,
                "keys": key_rows(keys, at=at),
                "teams": team_objects(teams, at=at),
            }
        )


class UserRow(ManagementView):
    """One user, without its keys."""

    actions = {"GET": Action.READ_USERS}

    @described(query=shapes.UserQuery, answer=examples.USER)
    def get(self, request: Request) -> Response:
        user = seen_user(self, self.query(shapes.UserQuery).get("user_id"))
        return Response(seen_objects(self, [user], at=timezone.now())[0])


class ListUsers(ManagementView):
    """A page of the users within reach, each with the number of its keys."""

    actions = {"GET": Action.READ_USERS}

    @described(
        query=shapes.UserPageQuery,
        answer={
            "users": [{**examples.USER, "key_count": 1}],
            "total": 1,
            "page": 1,
            "page_size": 25,
            "total_pages": 1,
        },
    )
    def get(self, request: Request) -> Response:
        asked = self.query(shapes.UserPageQuery)
        keys = VirtualKey.objects.listed().filter(user=OuterRef("pk")).order_by().values("user")
        count = Coalesce(Subquery(keys.annotate(number=Count("pk")).values("number")), 0)
        chosen = _sorted(UserFilter(asked, _listed(self)).qs, asked["sort_by"], asked["sort_order"])
        page = page_of(chosen.annotate(key_count=count), number=asked["page"], size=asked["page_size"])
        rows = seen_objects(self, page.rows, at=timezone.now())
        return Response(
            {
                "users": [
                    {**row, "key_count": user.key_count} for row, user in zip(rows, page.rows, strict=True)
                ],
                "total": page.total,
                "page": page.number,
                "page_size": page.size,
                "total_pages": page.pages,
            }
        )


def _sorted(users: QuerySet, by: str, order: str) -> QuerySet:
    """Return the users in an order that is the same on each database: those without a value last."""
    if by == "spend":
        totals = SpendTotal.objects.filter(holder_type=HolderType.USER, holder_id=OuterRef("pk"))
        users = users.annotate(
            total_spend=Coalesce(
                Subquery(totals.values("cost")), Value(0, UsdField()), output_field=UsdField()
            )
        )
    column = F(_SORTED_BY.get(by, by))
    if order == "asc":
        return users.order_by(column.asc(nulls_last=True), "pk")
    return users.order_by(column.desc(nulls_last=True), "pk")


class DeleteUsers(ManagementView):
    """Delete users, all or none: their keys are deleted, they leave their teams, their logs stay."""

    actions = {"POST": Action.WRITE_USERS}

    @described(body=shapes.DeletedUsers, answer=1, example={"user_ids": ["u-17"]})
    def post(self, request: Request) -> Response:
        ids = self.body(shapes.DeletedUsers)["user_ids"]
        return Response(services.delete_users(ids=ids, at=timezone.now()))


class AvailableRoles(ManagementView):
    """What roles there are."""

    actions = {"GET": Action.READ_USERS}

    @described(answer=_AVAILABLE_ROLES)
    def get(self, request: Request) -> Response:
        return Response(_AVAILABLE_ROLES)


# -- finding and changing ----------------------------------------------------------------


def named_user(given: Mapping[str, Any]) -> User | None:
    """Return the user that a change is about: by its id, else by its e-mail."""
    return services.find_user(user_id=given.get("user_id"), email=given.get("user_email"))


def change(user: User, given: Mapping[str, Any]) -> None:
    """Change what is given of a user; an e-mail that names it is no change."""
    if not given.get("user_id"):
        given = {name: value for name, value in given.items() if name != "user_email"}
    services.update_user(user=user, given=given)


def seen_user(view: ManagementView, user_id: str | None) -> User:
    """Return a user within reach; None: the caller's own. Raises: NotFound."""
    wanted = user_id or view.caller.user_id
    if wanted is None:
        raise NotFound("This key has no user: say which, ?user_id=…", param="user_id")
    user = _listed(view).filter(pk=wanted).first()
    if user is None:
        raise NotFound(f"no user with id {wanted}", param="user_id")
    return user


def _listed(view: ManagementView) -> QuerySet:
    """Return the users within reach, with all that is written of them."""
    return (
        User.objects.filter(view.reach.users(), deleted_at=None)
        .select_related("budget")
        .prefetch_related(_memberships())
    )


def _memberships() -> Prefetch:
    memberships = TeamMembership.objects.filter(team__deleted_at=None).order_by("pk")
    return Prefetch("team_memberships", queryset=memberships)


# -- what is written of them -------------------------------------------------------------


def seen_objects(view: ManagementView, users: Sequence[User], *, at: datetime) -> list[dict[str, Any]]:
    """Return users as the caller sees them: of others, whoever administers a team sees that team alone."""
    rows = user_objects(users, at=at)
    if not view.reach.is_all:
        for row in rows:
            if row["user_id"] != view.caller.user_id:
                row["teams"] = [team for team in row["teams"] if team in view.reach.team_ids]
    return rows


def user_objects(users: Sequence[User], *, at: datetime) -> list[dict[str, Any]]:
    """Return users in the contract's shape. Of rows from `_listed`: two queries, however many."""
    spending = spending_of(HolderType.USER, [(user.pk, user.budget) for user in users], at=at)
    return [_user_object(user, spending[user.pk]) for user in users]


def _user_object(user: User, spending: Spending) -> dict[str, Any]:
    return {
        "user_id": user.pk,
        "user_alias": user.alias or None,
        "user_email": user.email or None,
        "user_role": user.role,
        "teams": [membership.team_id for membership in user.team_memberships.all()],
        "organizations": None,
        **holder_limits(user.budget, spending),
        "spend": spending.spend,
        "models": user.allowed_models,
        "metadata": user.metadata,
        "model_spend": {},
        "sso_user_id": None,
        "created_at": user.date_joined,
        "updated_at": user.updated_at,
        "requests": spending.total.calls if spending.total else 0,
        "is_active": user.is_active,
        "created_by": user.created_by or None,
        "updated_by": user.updated_by or None,
        **{name: value for name, value in user.extras.items() if name in services.EXTRAS},
    }


urlpatterns = [
    path("user/new", NewUser.as_view()),
    path("user/update", UpdateUser.as_view()),
    path("user/bulk_update", UpdateUsers.as_view()),
    path("user/info", UserInfo.as_view()),
    path("v2/user/info", UserRow.as_view()),
    path("user/list", ListUsers.as_view()),
    path("user/delete", DeleteUsers.as_view()),
    path("user/available_roles", AvailableRoles.as_view()),
]
