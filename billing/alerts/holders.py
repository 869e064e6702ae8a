"""
Holders as people name them, and as rules and alerts keep them.

A key is named by its secret or the hash of it and kept by the id of its row, which a new
secret does not change. A member of a team is named `team/user`, and kept with a line
break between the two, which no id contains. All others are kept as they are named.
"""

import uuid
from collections.abc import Iterable, Mapping

from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from billing.models.spend_total import GATEWAY_ID, MASTER_KEY_ID, HolderType, team_member_id
from billing.reporting.log_reading import MASTER_KEY_NAME
from customers.keys import named_hash
from customers.models import Team, TeamMembership, User, VirtualKey


def kept_holder_id(holder_type: str, name: str) -> str:
    """Return the id by which a holder is kept. At most one query.

    Customers and tags may be named before their first call; all others have to be there:
    nothing would ever be told of one that is not.

    Raises: ValidationError.
    """
    if not name:
        return ""
    match holder_type:
        case HolderType.GATEWAY:
            found = name if name == GATEWAY_ID else None
        case HolderType.KEY:
            found = MASTER_KEY_ID if name in (MASTER_KEY_ID, MASTER_KEY_NAME) else _key_id(name)
        case HolderType.TEAM:
            found = name if Team.objects.filter(pk=name).exists() else None
        case HolderType.USER:
            found = name if User.objects.filter(pk=name).exists() else None
        case HolderType.TEAM_MEMBER:
            found = _member_id(name)
        case _:
            return name
    if found is None:
        raise ValidationError({"holder_id": _UNKNOWN[HolderType(holder_type)]})
    return found


_UNKNOWN = {
    HolderType.GATEWAY: "There is one gateway: leave its id out.",
    HolderType.KEY: "There is no such key. Write the key, or the hash of it.",
    HolderType.TEAM: "There is no such team. Write its id.",
    HolderType.USER: "There is no such user. Write the id.",
    HolderType.TEAM_MEMBER: "There is no such member. Write the ids of team and user, a slash between.",
}


def _key_id(name: str) -> str | None:
    token_hash = named_hash(name)
    keys: QuerySet[VirtualKey] = VirtualKey.objects.all()
    if token_hash is not None:
        keys = keys.filter(token_hash=token_hash)
    elif (row_id := _uuid(name)) is not None:
        keys = keys.filter(pk=row_id)
    else:
        return None
    key_id = keys.values_list("pk", flat=True).first()
    return None if key_id is None else str(key_id)


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _member_id(name: str) -> str | None:
    """Return the kept id of `team/user`; an id may have slashes of its own, so each is tried."""
    if "\n" in name:
        team_id, _, user_id = name.partition("\n")
        pairs = [(team_id, user_id)]
    else:
        pairs = [(name[:at], name[at + 1 :]) for at, letter in enumerate(name) if letter == "/"]
    memberships = TeamMembership.objects.filter(team_id__in=[team_id for team_id, _ in pairs])
    members = set(memberships.values_list("team_id", "user_id"))
    return next((team_member_id(*pair) for pair in pairs if pair in members), None)


def told_holder_ids(kept: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
    """Return how the API names holders, by (type, kept id). At most one query."""
    holders = set(kept)
    keys = {key_id: _uuid(key_id) for holder_type, key_id in holders if holder_type == HolderType.KEY}
    wanted = [row_id for row_id in keys.values() if row_id is not None]
    hashes: dict[uuid.UUID | None, str] = {}
    if wanted:
        hashes.update(VirtualKey.objects.filter(pk__in=wanted).values_list("pk", "token_hash"))
    told = {}
    for holder_type, holder_id in holders:
        if holder_type != HolderType.KEY:
            name = holder_id.replace("\n", "/")
        elif holder_id == MASTER_KEY_ID:
            name = MASTER_KEY_NAME
        else:
            name = hashes.get(keys[holder_id], holder_id)
        told[holder_type, holder_id] = name
    return told
