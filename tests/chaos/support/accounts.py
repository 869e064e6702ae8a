"""
The provider's bill beside the gateway's log, call by call, and what is wrong between them.

Calls are joined by name (`calls.py`), and where a row has a response id, that must be
the bill's. Amounts are whole nano-dollars.
"""

from collections import defaultdict
from typing import Any, NamedTuple

_SHOWN = 12  # differences of one kind that a failure prints


class Accounts(NamedTuple):
    """What was billed and what was booked for one set of calls."""

    entries: dict[str, dict[str, Any]]  # the provider's, by name
    rows: dict[str, list[dict[str, Any]]]  # the gateway's, by name

    @classmethod
    def of(cls, bill: dict[str, Any], rows: list[dict[str, Any]]) -> "Accounts":
        by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_name[row["customer_id"] or f"nobody's {row['id']}"].append(row)
        entries = {entry["tag"]: entry for entry in bill["entries"]}
        assert len(entries) == len(bill["entries"]), "a call reached the provider twice"
        return cls(entries, dict(by_name))

    @property
    def billed(self) -> int:
        return sum(entry["cost_nano_usd"] for entry in self.entries.values())

    @property
    def booked(self) -> int:
        return sum(row["cost"] or 0 for rows in self.rows.values() for row in rows)

    @property
    def joined(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The (entry, row) of each call that both sides know."""
        return [(entry, self.rows[name][0]) for name, entry in self.entries.items() if name in self.rows]

    def lost(self) -> list[str]:
        return [
            f"{name}: billed, no row: {_entry(entry)}"
            for name, entry in self.entries.items()
            if name not in self.rows
        ]

    def doubled(self) -> list[str]:
        return [
            f"{name}: {len(rows)} rows: {'; '.join(map(_row, rows))}"
            for name, rows in self.rows.items()
            if len(rows) > 1
        ]

    def unseen(self) -> list[str]:
        """Rows that cost something (or nobody knows what) for calls that the provider never received."""
        return [
            f"{name}: costs, was never received: {_row(row)}"
            for name, rows in self.rows.items()
            for row in rows
            if name not in self.entries and row["cost"] != 0
        ]

    def different(self) -> list[str]:
        """Calls that carry the provider's own usage, but not its cost or its id."""
        found = []
        for entry, row in self.joined:
            if row["usage_source"] != "provider":
                continue
            has_other_id = row["response_id"] not in ("", entry["id"])
            if row["cost"] != entry["cost_nano_usd"] or row["charge"] != row["cost"] or has_other_id:
                found.append(f"{entry['tag']}: {_entry(entry)}, but {_row(row)}")
        return found

    def share_from_provider(self) -> float:
        """Return which share of the calls that the provider saw carries its own usage."""
        sources = [row["usage_source"] for _, row in self.joined]
        return sources.count("provider") / max(1, len(sources))

    def counts(self, field: str) -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for rows in self.rows.values():
            for row in rows:
                found[row[field]] += 1
        return dict(found)

    def assert_once(self) -> None:
        """Assert that every billed call has exactly one row, and every cost a billed call."""
        self.assert_nothing(self.lost() + self.doubled() + self.unseen() + self.different())

    def assert_nothing(self, problems: list[str]) -> None:
        if problems:
            more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
            raise AssertionError(
                "\n".join([f"{len(problems)} differences; {self}", *problems[:_SHOWN], *more])
            )

    def __str__(self) -> str:
        rows = sum(map(len, self.rows.values()))
        return (
            f"{len(self.entries)} calls billed {self.billed} nano, "
            f"{rows} rows booked {self.booked} nano ({self.booked - self.billed:+d}); "
            f"{self.share_from_provider():.1%} with the provider's usage; "
            f"status {self.counts('status')}, usage {self.counts('usage_source')}"
        )


def _entry(entry: dict[str, Any]) -> str:
    aborted = ", aborted" if entry["aborted"] else ""
    kind = "stream" if entry["stream"] else "plain"
    what = f"{entry['dialect']} {kind}{aborted}"
    return f"billed {entry['cost_nano_usd']} ({what}, {entry['usage']}, {entry['id']})"


def _row(row: dict[str, Any]) -> str:
    usage = {
        name: row[name] for name in ("input_uncached", "cache_read", "output_text", "reasoning") if row[name]
    }
    return (
        f"booked {row['cost']} ({row['status']}, {row['usage_source']}, {row['error_type'] or 'no error'}, "
        f"{usage}, {row['response_id'] or 'no id'})"
    )
