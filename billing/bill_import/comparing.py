"""
Billed beside booked: by day and model, how much of a provider's bill went through the gateway.

Booked is read from the daily rollup, adjustments included on the day they were booked. A model
of the bill takes in the names that stand for it (`billing/prices/model_names.py`): the bill may say
`gpt-4o` where calls went to `gpt-4o-2024-08-06`. Days of bills are UTC; where the reporting
zone is another, days do not match exactly and sums over several do better.

Of days that several imported files tell of, the last file counts.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Sum

from billing.bill_import.formats import BadBill, read_bill
from billing.models import DailyOverview, ProviderBill, ProviderBillLine
from billing.prices.model_names import names_of
from billing.prices.sources import canonical_model
from customers.money import from_nano, to_nano

LARGEST_GAPS = 20


class KnownBill(Exception):
    """The file was imported before; `bill` is the row."""

    def __init__(self, bill: ProviderBill) -> None:
        super().__init__(f"This file was imported already, as {bill}.")
        self.bill = bill


def import_bill(data: bytes, *, file_name: str, at: datetime, by: str) -> ProviderBill:
    """Keep what an export says by day and model; nothing else of it. at: now.

    Raises: BadBill; KnownBill, where the same file was imported before.
    """
    digest = sha256(data).hexdigest()
    known = ProviderBill.objects.filter(digest=digest).first()
    if known is not None:
        raise KnownBill(known)
    read = read_bill(data)
    days = [day for day, _ in read.lines]
    with transaction.atomic():
        bill = ProviderBill.objects.create(
            provider=read.provider,
            form=read.form,
            file_name=_base_name(file_name),
            digest=digest,
            first_day=min(days),
            last_day=max(days),
            imported_at=at,
            imported_by=by,
        )
        ProviderBillLine.objects.bulk_create(
            [
                ProviderBillLine(
                    bill=bill,
                    day=day,
                    model=model,
                    cost=None if billed.cost_nano is None else from_nano(billed.cost_nano),
                    input_tokens=billed.input_tokens,
                    output_tokens=billed.output_tokens,
                    requests=billed.requests,
                )
                for (day, model), billed in sorted(read.lines.items())
            ],
            batch_size=500,
        )
    return bill


def _base_name(file_name: str) -> str:
    return file_name.replace("\\", "/").rpartition("/")[2][:255]


class Compared(NamedTuple):
    """One model on one day: nano-dollars and tokens. None: the bill does not say."""

    day: date | None  # None: of all days
    model: str
    billed_nano: int | None
    booked_nano: int
    billed_tokens: int | None
    booked_tokens: int

    @property
    def gap_nano(self) -> int:
        """Return what was billed beyond what was booked; below 0: booked, but not billed."""
        return (self.billed_nano or 0) - self.booked_nano

    @property
    def coverage(self) -> Decimal | None:
        """Return what part of the bill is booked; of tokens where the bill has no amounts."""
        booked, billed = self.shared
        return Decimal(booked) / billed if billed else None

    @property
    def shared(self) -> tuple[int, int]:
        """Return (booked, billed): amounts, or tokens where the bill has no amounts."""
        if self.billed_nano is not None:
            return self.booked_nano, self.billed_nano
        return self.booked_tokens, self.billed_tokens or 0


class Comparison(NamedTuple):
    """A bill beside what was booked for its provider on its days."""

    total: Compared
    by_model: list[Compared]  # the largest gap first
    by_day: list[Compared]
    lines: list[Compared]  # by day and model, the largest gap first


def compare_bill(bill: ProviderBill) -> Comparison:
    """Compare one file with the rollup. Two queries."""
    billed = {(line.day, line.model): line for line in bill.lines.all()}
    booked = _booked(bill)
    has_models = any(model for _, model in billed)
    names = _Names(bill.provider, {model for _, model in billed} if has_models else set())
    sums: dict[tuple[date, str], list[int]] = defaultdict(lambda: [0, 0])
    for (day, model), (cost, tokens) in booked.items():
        known = sums[day, names.of(model) if has_models else ""]
        known[0] += cost
        known[1] += tokens
    has_costs = any(line.cost is not None for line in billed.values())
    has_tokens = any(line.input_tokens is not None for line in billed.values())
    lines = []
    for key in sorted({*billed, *sums}):
        line, (cost, tokens) = billed.get(key), sums.get(key, (0, 0))
        told = (line.input_tokens or 0) + (line.output_tokens or 0) if line else 0
        amount = to_nano(line.cost) if line and line.cost is not None else 0
        lines.append(
            Compared(*key, amount if has_costs else None, cost, told if has_tokens else None, tokens)
        )
    return Comparison(
        _added(lines, None, ""),
        _ranked(_added(each, None, model) for model, each in _grouped(lines, by_model=True)),
        [_added(each, day, "") for day, each in _grouped(lines, by_model=False)],
        _ranked(lines),
    )


def _ranked(lines: Iterable[Compared]) -> list[Compared]:
    def gap(line: Compared) -> int:
        tokens = 0 if line.billed_tokens is None else line.billed_tokens - line.booked_tokens
        return abs(line.gap_nano) if line.billed_nano is not None else abs(tokens)

    return sorted(lines, key=lambda line: (-gap(line), line.day or date.min, line.model))


def _grouped(lines: list[Compared], *, by_model: bool) -> list[tuple]:
    groups: dict = defaultdict(list)
    for line in lines:
        groups[line.model if by_model else line.day].append(line)
    return sorted(groups.items())


def _added(lines: list[Compared], day: date | None, model: str) -> Compared:
    def total(values: Iterable[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Compared(
        day,
        model,
        total(line.billed_nano for line in lines),
        sum(line.booked_nano for line in lines),
        total(line.billed_tokens for line in lines),
        sum(line.booked_tokens for line in lines),
    )


def _booked(bill: ProviderBill) -> dict[tuple[date, str], tuple[int, int]]:
    tokens = (
        "input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "output_text", "reasoning",
        "input_audio", "output_audio", "input_image", "output_image",
    )  # fmt: skip
    rows: Iterable[Any] = (
        DailyOverview.objects.filter(provider=bill.provider, day__range=(bill.first_day, bill.last_day))
        .values("day", "upstream_model")
        .annotate(spent=Sum("cost"), **{f"sum_{name}": Sum(name) for name in tokens})
    )
    return {
        (row["day"], row["upstream_model"]): (
            to_nano(row["spent"]),
            sum(row[f"sum_{name}"] for name in tokens),
        )
        for row in rows
    }


class _Names:
    """Which of a bill's names a model goes by."""

    def __init__(self, provider: str, billed: set[str]) -> None:
        self._provider = provider
        self._billed = billed
        # A bill may be the more exact one: `gpt-4o-2024-08-06`, where calls said `gpt-4o`.
        self._longer: dict[str, str] = {}
        for name in sorted(billed):
            for other in self._others(name):
                self._longer.setdefault(other, name)

    def of(self, model: str) -> str:
        for name in (model, *self._others(model)):
            if name in self._billed:
                return name
        for name in (model, *self._others(model)):
            if name in self._longer:
                return self._longer[name]
        return model

    def _others(self, model: str) -> list[str]:
        return names_of(self._provider, model, canonical_model=canonical_model)


def as_json(bill: ProviderBill, found: Comparison) -> dict:
    """Return the comparison for programs: amounts are exact numbers of USD."""

    def line(each: Compared) -> dict:
        told: dict = {} if each.day is None else {"day": each.day.isoformat()}
        return {
            **told,
            "model": each.model or None,
            "billed_usd": None if each.billed_nano is None else from_nano(each.billed_nano),
            "booked_usd": from_nano(each.booked_nano),
            "gap_usd": None if each.billed_nano is None else from_nano(each.gap_nano),
            "billed_tokens": each.billed_tokens,
            "booked_tokens": each.booked_tokens,
            "coverage": None if each.coverage is None else round(each.coverage, 6),
        }

    total = line(found.total)
    del total["model"]
    return {
        "provider": bill.provider,
        "form": bill.form,
        "first_day": bill.first_day.isoformat(),
        "last_day": bill.last_day.isoformat(),
        "total": total,
        "by_model": [line(each) for each in found.by_model],
        "by_day": [line(each) for each in found.by_day],
        "lines": [line(each) for each in found.lines],
    }


__all__ = ["BadBill", "Comparison", "KnownBill", "as_json", "compare_bill", "import_bill"]
