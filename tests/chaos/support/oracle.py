"""
Was a refusal right? Judged by who was really under way, not by what the gateway says.

What a call can cost at most is known beforehand (`purchases.py`), what it did cost from the
log. A refusal is false where all that could rightly count, at any moment of the refused
call, leaves room for it: what earlier calls cost, and the most of each call under way.
Amounts are whole nano-dollars, times Unix seconds.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from tests.chaos.support.books import Books
from tests.chaos.support.purchases import customer_of
from tests.chaos.support.shoppers import Attempt
from tests.chaos.support.workers import Kill

_UNBOOKED_SECONDS = 1  # a call that ended so long before its worker was killed may not have been booked


class Served(NamedTuple):
    """A call that was let through: under way from its start to its end, settled afterwards."""

    name: str
    began_at: float
    ended_at: float
    most: int
    cost: int


class Verdict(NamedTuple):
    """What the oracle says of one refusal."""

    attempt: Attempt
    limit: int
    asked: int
    counted: int  # the most that could rightly count
    just_ended: list[str]  # calls that ended less than a second before: was one of them still held?
    said: dict[str, int]  # the refusal's own figures

    @property
    def is_false(self) -> bool:
        return self.counted + self.asked <= self.limit

    @property
    def contradicts_itself(self) -> bool:
        """Tell whether the refusal's own figures leave room."""
        said = self.said
        return said["spent"] + said["provisional"] + said["held"] + said["hold"] <= said["limit"]

    def __str__(self) -> str:
        took_s = self.attempt.ended_at - self.attempt.began_at
        return (
            f"{self.attempt.purchase.name} asked for {self.asked} and was refused after {took_s:.2f} s: "
            f"at most {self.counted} of {self.limit} could count; said was {self.said}; "
            f"ended just before: {', '.join(self.just_ended) or 'nothing'}"
        )


class Oracle:
    """Knows every call of a test.

    attempts: all that clients made. journals: of each call that held something, by its id.
    kills: the calls of a killed worker count until whoever adopts its journal has settled them.
    """

    def __init__(
        self,
        attempts: Iterable[Attempt],
        books: Books,
        bill: dict[str, Any],
        *,
        journals: Mapping[uuid.UUID, str],
        kills: Sequence[Kill],
    ) -> None:
        self._kills = {journal: kill for kill in kills for journal in kill.journals}
        self._journals = journals
        by_name = {attempt.purchase.name: attempt for attempt in attempts}
        left_provider_at = {entry["tag"]: entry["ended_at"] for entry in bill["entries"]}
        self._served: dict[str, list[Served]] = defaultdict(list)
        for log in books.logs:
            attempt = by_name.get(log["client_call_id"])
            if attempt is not None and log["status"] != "refused":
                ended_at = self._end(attempt, log, left_provider_at.get(log["client_call_id"]))
                self._served[log["customer_id"]].append(
                    Served(
                        f"{log['client_call_id']} ({log['status']})",
                        attempt.began_at,
                        ended_at,
                        attempt.purchase.most or 0,
                        log["cost"] or 0,
                    )
                )

    def _end(self, attempt: Attempt, log: dict[str, Any], left_provider_at: float | None) -> float:
        """Return when a call was over: for its client, at the provider, and for who adopted it."""
        ended_at = max(attempt.ended_at, left_provider_at or 0.0)
        kill = self._kills.get(self._journals.get(log["id"], ""))
        if kill is not None and ended_at > kill.at - _UNBOOKED_SECONDS:
            ended_at = max(ended_at, kill.gone_at)
        return ended_at

    def judge(self, attempt: Attempt) -> Verdict:
        """Judge a refusal."""
        assert attempt.error is not None
        said = {
            name: _nano(attempt.error[name]) for name in ("limit", "spent", "held", "provisional", "hold")
        }
        counted, just_ended = 0, []
        for served in self._served[customer_of(attempt.purchase.name)]:
            if served.began_at <= attempt.ended_at:
                is_settled = served.ended_at < attempt.began_at
                counted += served.cost if is_settled else max(served.cost, served.most)
                ago_s = attempt.began_at - served.ended_at
                if 0 < ago_s < 1:
                    just_ended.append(f"{served.name} {ago_s:.3f} s ago")
        asked = attempt.purchase.most or said["hold"]
        return Verdict(attempt, said["limit"], asked, counted, just_ended, said)


def _nano(usd: Any) -> int:
    return int(Decimal(str(usd)).scaleb(9))
