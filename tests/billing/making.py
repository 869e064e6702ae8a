"""
Calls and journals for the tests of billing: what a web process would have written.

Money is given as text, in USD. `killed` plays the death of a process: its lock and
its files are let go without a last sync.
"""

import os
import tempfile
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from billing.booking.journal import Journal, Position, read
from billing.booking.ledger import Booking, book
from billing.booking.records import CallRecords, Closed, Opened, Record, Sent
from billing.models import SpendTotal
from billing.usage import Usage
from customers.ids import uuid7_at
from customers.money import to_nano

NOON = datetime(2026, 7, 15, 12, tzinfo=UTC)
INSTALLATION = uuid.UUID("00000000-0000-4000-8000-000000000001")
START = Position(0, 0)


def microseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def make_opened(*, at: datetime = NOON, **fields: Any) -> Opened:
    call_id = uuid7_at(int(at.timestamp() * 1000)).bytes
    given = {"dialect": "openai_chat", "model": "gpt-4o", "streamed": False, **fields}
    return Opened(**{"call_id": call_id, "started_us": microseconds(at), **given})


def make_sent(opened: Opened, *, cost_usd: str | None = "0.25", **fields: Any) -> Sent:
    given = {
        "deployment_id": 7,
        "upstream": "openai",
        "provider": "openai",
        "upstream_model": "gpt-4o-2024-08-06",
        "price_id": None,
        "estimated_input": 100,
        "estimated_output": 20,
        "estimate_nano": nano(cost_usd),
        **fields,
    }
    return Sent(call_id=opened.call_id, **given)


def make_closed(opened: Opened, *, cost_usd: str | None = "0.5", **fields: Any) -> Closed:
    given = {
        "call_id": opened.call_id,
        "ended_us": opened.started_us + 1_500_000,
        "status": "success",
        "http_status": 200,
        "usage_source": "provider",
        "usage": Usage(input_uncached=1_000, output_text=200),
        "cost_nano": nano(cost_usd),
        "charge_nano": nano(cost_usd),
        **fields,
    }
    return Closed(**given)


def make_call(
    *, cost_usd: str | None = "0.5", closed: dict[str, Any] | None = None, **fields: Any
) -> CallRecords:
    """Return a finished call. fields: of `opened`; closed: of `closed`."""
    opened = make_opened(**fields)
    return CallRecords(opened, make_closed(opened, cost_usd=cost_usd, **(closed or {})))


def nano(usd: str | None) -> int | None:
    return None if usd is None else to_nano(Decimal(usd))


# -- journals ------------------------------------------------------------------------


def make_folder(case: Any) -> Path:
    """Return a folder for journals that lasts as long as the test."""
    folder = tempfile.TemporaryDirectory(prefix="spend-journal-")
    case.addCleanup(folder.cleanup)
    return Path(folder.name)


def make_journal(case: Any, folder: Path, **options: Any) -> Journal:
    """Return a journal that is let go with the test."""
    journal = Journal(folder, options.pop("installation_id", INSTALLATION), **options)
    case.addCleanup(killed, journal)
    return journal


def killed(journal: Journal) -> Path:
    """Let go of a journal as a killed process does, and return where it is."""
    if journal._fd >= 0:
        for fd in (journal._fd, journal._lock_fd, *journal._unsynced):
            os.close(fd)
        journal._fd, journal._unsynced = -1, []
    return journal.path


def append_call(journal: Journal, call: CallRecords) -> CallRecords:
    journal.append(call.opened)
    journal.append(make_sent(call.opened))
    journal.append(call.closed)
    return call


def records_in(path: Path, start: Position = START, until: Position | None = None) -> list[Record]:
    """Return the records (and the damage) that a journal holds."""
    return [item for item, _ in read(path, start, installation_id=INSTALLATION, until=until)]


# -- what is booked ------------------------------------------------------------------


def book_calls(*calls: CallRecords) -> None:
    """Book the calls as the whole of a journal of their own."""
    book(Booking(uuid.uuid4(), calls, START, Position(1, 1)))


def total(holder_type: str, holder_id: str) -> Decimal:
    """Return what a holder has spent, in USD; 0 where it has no total."""
    found = SpendTotal.objects.filter(holder_type=holder_type, holder_id=holder_id).first()
    return found.cost if found else Decimal(0)
