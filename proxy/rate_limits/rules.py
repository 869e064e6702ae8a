"""
What may be limited: one rule says how much of what its holder may use.

Scopes are LiteLLM's words (contract 8.5): `gateway`, `api_key`, `user`, `team`,
`team_member`, `end_user`, `tag`, `model_per_key`, `model_per_team`, …; nothing here
depends on which there are.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

REQUESTS: Final = "requests"  # begun within the last minute
TOKENS: Final = "tokens"  # used within the last minute
PARALLEL: Final = "max_parallel_requests"  # under way now: each has a slot


class Rule(NamedTuple):
    """A limit of one holder. A call has at most one rule of the same scope, holder and kind."""

    scope: str
    holder: str  # its id; "" for the gateway
    kind: str
    limit: int
    label: str = ""  # what people know the holder by, where not by its id; of model_per_…: the model

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is counted together, whatever the limit is today."""
        return self[:3]


def rules_of(
    scope: str,
    holder: str,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    parallel_requests: int | None = None,
    label: str = "",
) -> tuple[Rule, ...]:
    """Return one holder's rules; None limits nothing, 0 refuses every call."""
    limits = ((PARALLEL, parallel_requests), (REQUESTS, requests_per_minute), (TOKENS, tokens_per_minute))
    return tuple(Rule(scope, holder, kind, limit, label) for kind, limit in limits if limit is not None)


class Answer(NamedTuple):
    """What a store says to a call that wants to take."""

    at_ms: int  # by the store's clock
    refused: int | None  # the position of the first rule without room: nothing was taken
    # For each rule (up to the refused one), before this call took: what is counted in the
    # current and in the previous minute; of slots: those that are taken, and 0.
    counts: list[tuple[int, int]]


class Changes(NamedTuple):
    """What a call brings back to a store: for each rule what to add, or, below 0, to take off.

    Slots can only be given back.
    """

    call_id: bytes
    taken_at_ms: int
    rules: Sequence[Rule]
    amounts: Sequence[int]


class Store(Protocol):
    """A home of counters."""

    def change(self, changes: Changes) -> None: ...
    def renew(self, slots: Sequence[tuple[bytes, Rule]]) -> None: ...
