"""What is done to teams and their members: block, delete."""

from collections.abc import Iterable
from datetime import datetime

from customers.models import Team


def set_teams_blocked(*, ids: Iterable[str], blocked: bool) -> int:
    """Block or unblock teams with all their keys. Returns how many changed."""
    return Team.objects.filter(pk__in=list(ids)).exclude(blocked=blocked).update(blocked=blocked)


def delete_teams(*, ids: Iterable[str], at: datetime) -> int:
    """Retire teams: their keys stop working, history stays. Returns how many changed."""
    return Team.objects.filter(pk__in=list(ids), deleted_at=None).update(deleted_at=at, blocked=True)
