"""
The reports of the commands, as sheets: what is in a line, in which order, and what is said below.

The figures are those of `billing/reporting/reports.py`, all of one command at one instant. The notes
are never left out: what nobody is charged for, what has no price, what is estimated.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from django.conf import settings

from billing.admin.naming import key_names
from billing.management.tables import (
    NAME,
    NONE,
    PART,
    REST,
    TOTAL,
    Line,
    Sheet,
    as_text,
    printable,
    spend_nano,
)
from billing.models import HolderType
from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.reports import Dimension, Filters, Tally, grouped, tally
from billing.reporting.words import percent, span
from customers.money import from_nano
from customers.words import usd

# Those that a call may be without: their line is shown even where it is empty.
_OPTIONAL = ("customer", "team", "user", "tag")


def by_dimension(filters: Filters, dimension: Dimension, *, limit: int | None) -> Sheet:
    """Return a line for each name, the most spend first (days in their order), and the total.

    limit: of so many names (of days: the last); those beyond are one line. By tag there is
    no such line, since a call counts under each of its tags.
    """
    is_charged = is_about_customers(filters) or dimension == "customer"
    found = {str(group.names[0]): group.tally for group in grouped(filters, (dimension,))}
    none = found.pop("", Tally())
    if dimension == "tag" and filters.tags is None:
        none = tally(msgspec.structs.replace(filters, tags=[""]))
    if dimension == "day":
        names = sorted(found, reverse=True)
        kept = sorted(names[:limit])
    else:
        names = sorted(found, key=lambda name: (-spend_nano(found[name], is_charged=is_charged), name))
        kept = names[:limit]
    lines = [Line(NAME, (name,), found[name]) for name in kept]
    if len(kept) < len(names) and dimension != "tag":
        lines.append(Line(REST, (), _sum(found[name] for name in names[len(kept) :])))
    if dimension in _OPTIONAL or none.calls:
        lines.append(Line(NONE, (), none))
    whole = tally(filters)
    lines.append(Line(TOTAL, (), whole))
    return Sheet(
        (dimension,), lines, is_charged, whole, _shown(dimension, kept), beyond=len(names) - len(kept)
    )


def by_day_model_key(filters: Filters, *, limit: int) -> Sheet:
    """Return a line for each day, in their order, and below it the parts that spent most, by model and key.

    limit: of so many parts a day; those beyond are one line.
    """
    is_charged = is_about_customers(filters)
    days: dict[str, list[Line]] = {}
    for group in grouped(filters, ("day", "model", "key")):
        names = tuple(map(str, group.names))
        days.setdefault(names[0], []).append(Line(PART, names, group.tally))
    lines: list[Line] = []
    for day in sorted(days):
        parts = sorted(
            days[day], key=lambda line: (-spend_nano(line.tally, is_charged=is_charged), line.names)
        )
        lines.append(Line(NAME, (day,), _sum(part.tally for part in parts)))
        lines += parts[:limit]
        if len(parts) > limit:
            lines.append(Line(REST, (day,), _sum(part.tally for part in parts[limit:])))
    whole = tally(filters)
    keys = [line.names[2] for line in lines if line.kind == PART]
    return Sheet(
        ("day", "model", "key"),
        [*lines, Line(TOTAL, (), whole)],
        is_charged,
        whole,
        _shown("key", keys),
    )


def is_about_customers(filters: Filters) -> bool:
    """Tell whether spend is what customers are charged, as in `billing.reporting.reports`."""
    return filters.customers is not None or bool(filters.without_customers)


def unattributed(filters: Filters) -> Tally:
    """Return what the calls of the report without a customer add up to."""
    if filters.customers is not None and "" not in filters.customers:
        return Tally()
    return tally(msgspec.structs.replace(filters, customers=[""]))


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for each in tallies:
        total = total.plus(each)
    return total


def _shown(dimension: str, names: Iterable[str]) -> Callable[[str, str], str]:
    """Return how names are told: a key by its name, as far as it has one. One query for keys."""
    keys: dict[str, str] = {}
    if dimension == "key":
        ids = {name for name in names if name != MASTER_KEY_ID}
        keys = key_names((HolderType.KEY.value, id_) for id_ in ids) | {MASTER_KEY_ID: "master key"}
    return lambda heading, name: keys.get(name, name) if heading == "key" else name


# -- a whole report ----------------------------------------------------------------------


def told(title: str, filters: Filters, sheet: Sheet, free: Tally, out: Any, *, has_colour: bool) -> str:
    """Return a report for people: what it is about, the table, and what is not in its sums."""
    lines = [f"{title}, {span(filters.start, filters.end)} ({settings.REPORTING_TIME_ZONE})"]
    chosen = [f"{name} {printable(', '.join(map(_named, names)))}" for name, names in _given(filters).items()]
    lines += [f"Of {'; '.join(chosen)}"] if chosen else []
    lines.append("")
    lines.append(as_text(sheet, out, has_colour=has_colour) if sheet.whole.calls else "No calls.")
    return "\n".join([*lines, "", *notes(sheet, free)])


def notes(sheet: Sheet, free: Tally) -> list[str]:
    """Return what is always said. free: the calls without a customer."""
    amount, whole = (spend_nano(each, is_charged=sheet.is_charged) for each in (free, sheet.whole))
    of = sheet.whole
    said = [
        f"Unattributed  {usd(from_nano(amount))} ({percent(amount, whole)}) of {_requests(free.calls)} "
        "without a customer",
        f"Unpriced      {_requests(of.unpriced_calls)} whose model has no price: their cost is unknown, "
        "and in no sum",
        f"Estimated     {_requests(of.estimated_calls)} whose usage the provider did not tell",
    ]
    if sheet.beyond:
        said.append(f"{sheet.beyond:,} more have no line: --limit N shows so many")
    if sheet.is_charged:
        said.append("Amounts are what customers are charged.")
    if "tag" in sheet.headings:
        said.append("A call counts under each of its tags, and once in the total.")
    return said


def document(filters: Filters, sheet: Sheet, free: Tally, rows: Any) -> dict[str, Any]:
    """Return a report as a JSON object around its rows."""
    return {
        "from": filters.start,
        "to": filters.end,
        "time_zone": settings.REPORTING_TIME_ZONE,
        "by": list(sheet.headings),
        "filters": {name: list(names) for name, names in _given(filters).items()},
        "spend_is": "charge" if sheet.is_charged else "cost",
        "rows": rows,
        "unattributed": {
            "spend_usd": from_nano(spend_nano(free, is_charged=sheet.is_charged)),
            "requests": free.calls,
        },
        "unpriced_requests": sheet.whole.unpriced_calls,
        "estimated_requests": sheet.whole.estimated_calls,
    }


def _given(filters: Filters) -> dict[str, Sequence[str]]:
    given = {
        "customer": filters.customers,
        "key": filters.keys,
        "team": filters.teams,
        "user": filters.users,
        "tag": filters.tags,
        "model": filters.models,
    }
    return {name: names for name, names in given.items() if names is not None}


def _named(name: str) -> str:
    return name or "(none)"


def _requests(number: int) -> str:
    return f"{number:,} request{'' if number == 1 else 's'}"
