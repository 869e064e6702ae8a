"""
Whose a key may be, by who asks.

    proxy admin      anybody's
    team admin       its teams' keys, of their members or of nobody
    internal user    its own keys; its team's only where the team lets its members
                     (`Team.member_permissions`)

A key without a user makes and changes no keys: what it may, somebody else decided.

Whoever makes a key knows its secret. So one in another's name only makes calls: else a
team's admin could act in the API as any user that it adds to its team.
"""

from collections.abc import Mapping
from typing import Any

from customers.allowed_routes import LLM_API, routes_of
from customers.api.access import Reach
from customers.api.callers import ApiCaller
from customers.api.errors import ApiError, NotFound
from customers.models import Team, TeamMembership, User, VirtualKey

GENERATE, UPDATE, DELETE, REGENERATE, BLOCK = (
    "/key/generate",
    "/key/update",
    "/key/delete",
    "/key/regenerate",
    "/key/block",
)


def owners_of_new_key(
    given: Mapping[str, Any], *, caller: ApiCaller, reach: Reach, is_service_account: bool = False
) -> dict[str, Any]:
    """Return {"user": …, "team": …} of a key to be made. Raises: ApiError where it may not be theirs."""
    _require_person(caller, reach)
    team = _team(given["team_id"], caller, reach, GENERATE) if given.get("team_id") is not None else None
    # A proxy admin's role is not for the programs that it makes keys for.
    by_default = None if reach.is_all else caller.user_id
    user_id = None if is_service_account else given.get("user_id", by_default)
    _check_user(user_id, team, caller, reach)
    return {"user": _user(user_id), "team": team}


def owners_of_changed_key(
    given: Mapping[str, Any], key: VirtualKey, *, caller: ApiCaller, reach: Reach
) -> dict[str, Any]:
    """Return those of "user" and "team" that a request changes. Raises: ApiError."""
    changed: dict[str, Any] = {}
    if "team_id" in given and given["team_id"] != key.team_id:
        team_id = given["team_id"]
        changed["team"] = None if team_id is None else _team(team_id, caller, reach, UPDATE)
    has_another_user = "user_id" in given and given["user_id"] != key.user_id
    if changed or has_another_user:
        user_id = given["user_id"] if has_another_user else key.user_id
        _check_user(user_id, changed.get("team", key.team), caller, reach)
        if has_another_user:
            changed["user"] = _user(user_id)
    return changed


def check_may_change(key: VirtualKey, route: str, *, caller: ApiCaller, reach: Reach) -> None:
    """Refuse whoever may not do `route` to a key that it reaches. Raises: ApiError."""
    _require_person(caller, reach)
    if key.team is not None and not manages(key, reach) and route not in key.team.member_permissions:
        raise _not_permitted(key.team.pk, route)


def manages(key: VirtualKey, reach: Reach) -> bool:
    """Tell whether the caller is set over this key: a proxy admin, or an admin of its team."""
    return reach.is_all or key.team_id in reach.team_ids


def require_manager(key: VirtualKey, what: str, *, reach: Reach) -> None:
    """Raises: ApiError where the key's own user asks for what others decide for it."""
    if not manages(key, reach):
        raise _forbidden(f"Only a proxy admin or an admin of the key's team may {what}.")


def check_payer(given: Mapping[str, Any], key: VirtualKey | None, *, reach: Reach) -> None:
    """Refuse who may not say who pays for a key's calls. key: as it is; None: it is to be made.

    What is sent back as it is changes nothing. Raises: ApiError.
    """
    trusted = VirtualKey.PayerPolicy.TRUSTED
    was = (trusted, None) if key is None else (key.payer_policy, key.customer_id)
    wanted = (given.get("payer_policy", was[0]) or trusted, given.get("customer_id", was[1]))
    if wanted != was:
        require_proxy_admin("say who pays for a key's calls", reach=reach)


def require_proxy_admin(what: str, *, reach: Reach) -> None:
    """Raises: ApiError."""
    if not reach.is_all:
        raise _forbidden(f"Only a proxy admin may {what}.")


def type_of_new_key(given: Mapping[str, Any], user: User | None, *, caller: ApiCaller, reach: Reach) -> Any:
    """Return the type that a key to be made has: where nothing is said, what it may be."""
    is_anothers = user is not None and not reach.is_all and user.pk != caller.user_id
    default = VirtualKey.KeyType.LLM_API if is_anothers else VirtualKey.KeyType.DEFAULT
    return given.get("key_type") or default


def check_own_name(key: VirtualKey, *, caller: ApiCaller, reach: Reach) -> None:
    """Refuse who would know the secret of a key that acts in the API as another user. Raises: ApiError."""
    if reach.is_all or key.user_id is None or key.user_id == caller.user_id or routes_of(key) == [LLM_API]:
        return
    raise _forbidden(
        f"This would let you act as {key.user_id}. A key in another's name may only make calls: give it the "
        "key_type llm_api and no allowed_routes."
    )


# -- helpers ---------------------------------------------------------------------------


def _require_person(caller: ApiCaller, reach: Reach) -> None:
    if not reach.is_all and caller.user_id is None:
        raise _forbidden("This key has no user, so it may not make or change keys. Ask a proxy admin.")


def _team(team_id: str, caller: ApiCaller, reach: Reach, route: str) -> Team:
    team = Team.objects.filter(pk=team_id, deleted_at=None).first()
    is_on_it = reach.has_team(team_id) or team_id in caller.team_ids
    if team is None or not is_on_it:
        raise NotFound(f"no team with id {team_id}", param="team_id")
    if not reach.has_team(team_id) and route not in team.member_permissions:
        raise _not_permitted(team_id, route)
    return team


def _check_user(user_id: str | None, team: Team | None, caller: ApiCaller, reach: Reach) -> None:
    if reach.is_all or user_id == caller.user_id:
        return
    if team is not None and reach.has_team(team):
        is_member = user_id is None or TeamMembership.objects.filter(team=team, user_id=user_id).exists()
        if is_member:
            return
    raise _forbidden("You make keys for yourself; a team's admin also for its members, with the team_id.")


def _user(user_id: str | None) -> User | None:
    if user_id is None:
        return None
    user = User.objects.filter(pk=user_id, deleted_at=None).first()
    if user is None:
        raise NotFound(f"no user with id {user_id}: make it with POST /user/new", param="user_id")
    return user


def _forbidden(message: str) -> ApiError:
    return ApiError(message, status=403, type="auth_error")


def _not_permitted(team_id: str, route: str) -> ApiError:
    return ApiError(
        f"Members of team {team_id} may not call {route} for its keys. Ask an admin of the team.",
        status=403,
        type="team_member_permission_error",
    )
