"""What a sink is: it tries once to tell one receiver of one event, and says how that went."""

from typing import NamedTuple, Protocol

from billing.models import Delivery, Event


class Outcome(NamedTuple):
    """How one attempt went.

    status: HTTP's, where there was an answer; answer: what it said; retry_after: seconds
    the receiver asks for; permanent: trying again makes no sense; error: what to tell staff
    where there was no answer.
    """

    ok: bool
    status: int | None = None
    answer: str = ""
    retry_after: float | None = None
    permanent: bool = False
    error: str = ""


class Sink(Protocol):
    """One channel. It lives as long as one run of the deliverer, in that run's event loop."""

    channel: str

    async def send(self, delivery: Delivery, event: Event) -> Outcome:
        """Try once. No database, no exception for what a receiver does wrong, done within the time limit."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
