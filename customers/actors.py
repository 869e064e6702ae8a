"""
Who is changing things right now: set at the edge, read where a change is recorded.

The API sets the key that called, the admin who is logged in, a command its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

MASTER_KEY_USER_ID = "default_user_id"  # LiteLLM's name of whoever has the master key


class Actor(NamedTuple):
    """Somebody who changes things, and from where. Empty texts: not known, or nobody."""

    via: str  # api, admin, command, config, system
    user_id: str = ""
    name: str = ""  # what people know it by: a key's name, a user's, a command's
    changed_by: str = ""  # on whose behalf: the header `litellm-changed-by`
    address: str = ""

    @property
    def id(self) -> str:
        """Return what `created_by` and `updated_by` say."""
        return self.changed_by or self.user_id or self.name


SYSTEM = Actor("system", name="system")
_current: ContextVar[Actor] = ContextVar("actor", default=SYSTEM)


def current_actor() -> Actor:
    return _current.get()


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Have `actor` be the one who changes things in this block."""
    token = _current.set(actor)
    try:
        yield
    finally:
        _current.reset(token)
