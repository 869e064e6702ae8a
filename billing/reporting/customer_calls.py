"""
What only the log knows of a customer: its sessions, why its calls failed, the latest of them.

The log may have any number of rows, so this looks at the latest `LOOKED_AT` calls of the
days asked for, once, found by the index of the customer; and pages say so.
"""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from billing.booking.rollups import FAILED
from billing.models import SpendLog

LOOKED_AT = 2_000
_ZERO = Decimal(0)


class Session(NamedTuple):
    """The calls that named one session."""

    id: str
    calls: int
    unpriced_calls: int
    charge: Decimal
    first_at: datetime
    last_at: datetime


class Failure(NamedTuple):
    """Calls that failed, or were refused, alike."""

    status: str
    http_status: int | None
    error_type: str
    calls: int
    latest: SpendLog  # whose message says why


class Look(NamedTuple):
    """What was found among the latest calls."""

    sessions: list[Session]  # that cost most
    failures: list[Failure]  # the most frequent first
    latest: list[SpendLog]  # calls, newest first


class _Call(NamedTuple):
    id: uuid.UUID
    session_id: str
    charge: Decimal | None
    started_at: datetime
    status: str
    http_status: int | None
    error_type: str


def look(customer_id: str, start: datetime, end: datetime, *, most: int, latest: int) -> Look:
    """Look at the calls of a customer in [start, end). Two queries.

    most: sessions, and kinds of failure; latest: calls.
    """
    logs = SpendLog.objects.started_between(start, end).filter(customer_id=customer_id).order_by("-pk")
    calls = [_Call(*row) for row in logs.values_list(*_Call._fields)[:LOOKED_AT]]
    kinds = _kinds_of_failure(calls)[:most]
    ids = [call.id for call in calls[:latest]]
    wanted = [*ids, *(alike[0].id for alike in kinds)]
    found = SpendLog.objects.select_related("key").defer("request_body", "response_body").in_bulk(wanted)
    failures = [
        Failure(alike[0].status, alike[0].http_status, alike[0].error_type, len(alike), found[alike[0].id])
        for alike in kinds
        if alike[0].id in found
    ]
    return Look(_sessions(calls)[:most], failures, [found[id_] for id_ in ids if id_ in found])


def _sessions(calls: Sequence[_Call]) -> list[Session]:
    by_session: dict[str, list[_Call]] = defaultdict(list)
    for call in calls:
        if call.session_id:
            by_session[call.session_id].append(call)
    found = [
        Session(
            id_,
            len(of_session),
            sum(call.charge is None for call in of_session),
            sum((call.charge or _ZERO for call in of_session), _ZERO),
            of_session[-1].started_at,
            of_session[0].started_at,
        )
        for id_, of_session in by_session.items()
    ]
    return sorted(found, key=lambda session: (-session.charge, session.id))


def _kinds_of_failure(calls: Sequence[_Call]) -> list[list[_Call]]:
    """Return failed calls that are alike together, newest first."""
    by_kind: dict[tuple, list[_Call]] = defaultdict(list)
    for call in calls:
        if call.status in FAILED:
            by_kind[call.status, call.http_status or 0, call.error_type].append(call)
    return [by_kind[kind] for kind in sorted(by_kind, key=lambda kind: (-len(by_kind[kind]), kind))]
