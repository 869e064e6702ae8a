"""
What the provider charges, in integers of nano-dollars, from its own price table.

Rules: a complete answer is billed in full, and so is a plain call whose client hung
up (the work was done). A stream that ends early, by whichever side, is billed its
whole input and the output written until then. A refusal (`Behaviour.is_billed` is
false) costs nothing. An unknown model has no price: its entry stays, its cost is None.
Web searches and service tiers are reported on the wire but not priced.

Prices: the public list prices of OpenAI and Anthropic, USD per million tokens. A
bucket without a price of its own is charged as uncached input.
"""

import re
import time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from tests.provider.calls import Call

#         model                     input   read     write5m write1h output
PRICES_USD_PER_MTOK = {
    "gpt-4o-mini":            ("0.15", "0.075", None,   None, "0.60"),
    "gpt-4o":                 ("2.50", "1.25",  None,   None, "10.00"),
    "gpt-4.1-mini":           ("0.40", "0.10",  None,   None, "1.60"),
    "gpt-3.5-turbo-instruct": ("1.50", None,    None,   None, "2.00"),
    "text-embedding-3-small": ("0.02", None,    None,   None, None),
    "text-embedding-3-large": ("0.13", None,    None,   None, None),
    "claude-sonnet-4-5":      ("3.00", "0.30",  "3.75", "6.00", "15.00"),
    "claude-haiku-4-5":       ("1.00", "0.10",  "1.25", "2.00", "5.00"),
}  # fmt: skip

_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


@lru_cache(maxsize=1024)
def prices_of(model: str) -> tuple[int, ...] | None:
    """Return nano-dollars per million tokens of each bucket, or None for a model without a price.

    A name matches exactly or without its date, so that gpt-4o-mini-2024-07-18 is
    gpt-4o-mini and gpt-4o-audio-preview is not gpt-4o.
    """
    row = PRICES_USD_PER_MTOK.get(model) or PRICES_USD_PER_MTOK.get(_DATE.sub("", model))
    if row is None:
        return None
    return tuple(int(Decimal(price or row[0]) * 10**9) for price in row)


def cost_nano_usd(model: str, usage: dict[str, int]) -> int | None:
    """Price the disjoint buckets; rounded once, half to even, over the exact sum."""
    prices = prices_of(model)
    if prices is None:
        return None
    buckets = ("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    exact = sum(usage[bucket] * price for bucket, price in zip(buckets, prices, strict=True))
    whole, rest = divmod(exact, 10**6)
    return whole + (rest > 500_000 or (rest == 500_000 and whole % 2))


class Entry:
    """One line of the bill; open until `end` is called. Sums are made when it is read."""

    __slots__ = ("aborted", "call", "deltas", "ended_at", "received_at", "status")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.status: int | None = None
        self.received_at = time.time()
        self.ended_at: float | None = None
        self.aborted = False
        self.deltas = 0  # content deltas of a stream written so far

    def end(self, *, aborted: bool = False) -> None:
        """Close the entry; `aborted` if either side ended before the answer was complete."""
        if self.ended_at is None:
            self.ended_at = time.time()
            self.aborted = aborted
            self.call.forget()

    def usage(self) -> dict[str, int]:
        call = self.call
        if not call.fake.is_billed:
            return dict.fromkeys(
                ("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning"), 0
            )
        output = call.output_tokens
        if call.is_stream and (self.aborted or self.ended_at is None):
            output = output * self.deltas // call.delta_count if call.delta_count else 0
        return {
            "input_uncached": call.input_uncached,
            "cache_read": call.cache_read,
            "cache_write_5m": call.cache_write_5m,
            "cache_write_1h": call.cache_write_1h,
            "output": output,
            "reasoning": min(call.reasoning_tokens, output),  # a model reasons before it speaks
        }

    def cost(self) -> int | None:
        return cost_nano_usd(self.call.model, self.usage()) if self.call.fake.is_billed else 0

    def as_dict(self) -> dict[str, Any]:
        call = self.call
        return {
            "id": call.id,
            "request_id": call.request_id,
            "dialect": call.dialect.NAME,
            "model": call.model,
            "stream": call.is_stream,
            "status": self.status,
            "received_at": self.received_at,
            "ended_at": self.ended_at,
            "finished": self.ended_at is not None,
            "aborted": self.aborted,
            "billed": call.fake.is_billed,
            "usage": self.usage(),
            "cost_nano_usd": self.cost(),
            "user": call.user,
            "tag": call.fake.tag,
            "key": call.fake.key or None,
        }


class Bill:
    """Every call accepted since the last reset, in order of arrival."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def open(self, call: Call) -> Entry:
        entry = Entry(call)
        self.entries.append(entry)
        return entry

    def as_dict(self, *, tag: str | None = None, with_entries: bool = True) -> dict[str, Any]:
        chosen = [entry for entry in self.entries if tag is None or entry.call.fake.tag == tag]
        costs = [entry.cost() for entry in chosen]
        return {
            "entries": [entry.as_dict() for entry in chosen] if with_entries else [],
            "count": len(chosen),
            "open": sum(entry.ended_at is None for entry in chosen),
            "unpriced": costs.count(None),
            "total_nano_usd": sum(cost for cost in costs if cost is not None),
        }
