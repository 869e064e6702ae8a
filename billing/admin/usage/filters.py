"""
The address of a usage page: what is asked for, out of its query and into a new one.

    /admin/usage/customers/?period=7d&customer=acme&customer=globex&sort=-calls

Nothing is kept elsewhere: whoever is sent the address sees the same page, and Back undoes.
Days are those of the reporting time zone. What an address may say is checked here, all
of it, so that a mistyped filter is told and not passed over.
"""

import calendar
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from django.http import QueryDict
from django.utils.http import urlencode

from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.reports import Filters
from customers.text import is_clean_id, is_clean_text

# Each filter, by its name in the address, and what it is in a report.
FIELDS = {
    "customer": "customers",
    "key": "keys",
    "team": "teams",
    "user": "users",
    "model": "models",
    "tag": "tags",
    "client": "client_tools",
}
# Those of which a call may have none: `?no=customer`.
OPTIONAL = ("customer", "team", "user", "client")
MOST_DAYS = 366
MOST_CHOSEN = 50  # of one filter
DEFAULT_PERIOD = "30d"
CUSTOM = "custom"
COMPARISONS = ("previous", "customers")
_OTHERS = ("period", "from", "to", "no", "stack", "rows", "compare", "sort", "q", "page")
_MOST_PAGES = 1_000_000
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def month_of(day: date) -> tuple[date, date]:
    """Return the first and the last day of a day's month."""
    return day.replace(day=1), day.replace(day=calendar.monthrange(day.year, day.month)[1])


def _days(number: int) -> Callable[[date], tuple[date, date]]:
    return lambda today: (today - timedelta(days=number - 1), today)


def _yesterday(today: date) -> tuple[date, date]:
    return today - timedelta(days=1), today - timedelta(days=1)


# Name, label, and the first and the last day, given today.
PERIODS: dict[str, tuple[str, Callable[[date], tuple[date, date]]]] = {
    "today": ("Today", _days(1)),
    "yesterday": ("Yesterday", _yesterday),
    "7d": ("7 days", _days(7)),
    "30d": ("30 days", _days(30)),
    "90d": ("90 days", _days(90)),
    "this-month": ("This month", lambda today: (today.replace(day=1), today)),
    "last-month": ("Last month", lambda today: month_of(today.replace(day=1) - timedelta(days=1))),
}


class BadAddress(ValueError):
    """An address asks for what there is not. `problems`: a sentence for each, that says what to do."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a usage page was asked for. Empty texts are the tab's own choice."""

    start: date
    end: date  # included
    period: str = DEFAULT_PERIOD
    chosen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # "" among them: calls of none
    stack: str = ""
    rows: str = ""
    compare: str = ""
    sort: str = ""
    search: str = ""
    page: int = 1

    @property
    def days(self) -> list[date]:
        return [self.start + timedelta(days=number) for number in range((self.end - self.start).days + 1)]

    @property
    def filters(self) -> Filters:
        return self._filters(self.start, self.end)

    @property
    def before(self) -> tuple[date, date]:
        """Return the period before: the month before a month, else as many days.

        The days of a month that is not over are held against the same days of the one before.
        """
        before_start = self.start - timedelta(days=1)
        if self.start.day == 1 and (self.start, self.end) == month_of(self.start):
            return month_of(before_start)
        if self.period == "this-month":
            first, last = month_of(before_start)
            return first, min(last, first + (self.end - self.start))
        return before_start - (self.end - self.start), before_start

    @property
    def filters_before(self) -> Filters:
        return self._filters(*self.before)

    @property
    def is_filtered(self) -> bool:
        return bool(self.chosen)

    def one(self, name: str) -> str | None:
        """Return what a filter is set to, if that is one thing."""
        values = self.chosen.get(name, ())
        return values[0] if len(values) == 1 else None

    def query(self, **changes: Any) -> str:
        """Return the address' query with some of it changed, from `?` on. A new order begins at page 1."""
        asked = replace(self, **{"page": 1, **changes})
        said: list[tuple[str, Any]] = []
        if asked.period == CUSTOM:
            said += [("from", asked.start.isoformat()), ("to", asked.end.isoformat())]
        elif asked.period != DEFAULT_PERIOD:
            said.append(("period", asked.period))
        said += [(name, value) for name, values in asked.chosen.items() for value in values if value]
        said += [("no", name) for name, values in asked.chosen.items() if "" in values]
        others = {"stack": asked.stack, "rows": asked.rows, "compare": asked.compare, "sort": asked.sort}
        said += [(name, value) for name, value in others.items() if value]
        said += [("q", asked.search)] if asked.search else []
        said += [("page", asked.page)] if asked.page > 1 else []
        return f"?{urlencode(said)}"

    def with_one(self, name: str, value: str) -> "Asked":
        """Return the same, for calls of one customer, key, … alone; the table is another one then."""
        chosen = {**self.chosen, name: (value,)}
        return replace(self, chosen=chosen, stack="", rows="", compare="", sort="", search="", page=1)

    def only(self, **chosen: tuple[str, ...]) -> "Asked":
        """Return the same days, for these calls alone and no other filter."""
        return replace(self, chosen=chosen, stack="", rows="", compare="", sort="", search="", page=1)

    def without(self, name: str, value: str) -> "Asked":
        left = tuple(each for each in self.chosen[name] if each != value)
        chosen = {other: values for other, values in self.chosen.items() if other != name}
        return replace(self, chosen={**chosen, name: left} if left else chosen, page=1)

    def _filters(self, start: date, end: date) -> Filters:
        chosen: dict[str, Any] = {FIELDS[name]: list(values) for name, values in self.chosen.items()}
        return Filters(start=start, end=end, **chosen)


def default(today: date) -> Asked:
    """Return what is asked for by an address without a query."""
    start, end = PERIODS[DEFAULT_PERIOD][1](today)
    return Asked(start=start, end=end)


def read(
    query: QueryDict, *, today: date, sorts: Sequence[str], stacks: Sequence[str], rows: Sequence[str]
) -> Asked:
    """Return what an address asks for. Empty fields ask for nothing: forms send them.

    sorts, stacks, rows: what this tab's table and chart can be asked for.
    Raises: BadAddress.
    """
    problems: list[str] = []
    stripped = {name: [text.strip() for text in texts if text.strip()] for name, texts in query.lists()}
    given = {name: texts for name, texts in stripped.items() if texts}
    for name in given.keys() - FIELDS.keys() - set(_OTHERS):
        problems.append(f"“{name}” is no filter here: remove it from the address.")
    period, start, end = _read_days(given, today, problems)
    asked = Asked(
        period=period,
        start=start,
        end=end,
        chosen=_read_chosen(given, problems),
        stack=_one_of(given, "stack", stacks, problems),
        rows=_one_of(given, "rows", rows, problems),
        compare=_one_of(given, "compare", COMPARISONS, problems),
        sort=_one_of(given, "sort", [*sorts, *(f"-{name}" for name in sorts)], problems),
        search=_read_search(given, problems),
        page=_read_page(given, problems),
    )
    if problems:
        raise BadAddress(problems)
    return asked


def _read_days(given: Mapping[str, list[str]], today: date, problems: list[str]) -> tuple[str, date, date]:
    period = _one_of(given, "period", [*PERIODS, CUSTOM], problems)
    usual = (DEFAULT_PERIOD, *PERIODS[DEFAULT_PERIOD][1](today))
    first, last = _read_day(given, "from", problems), _read_day(given, "to", problems)
    if first is None and last is None:  # days that are given count more than a period
        if period == CUSTOM:
            problems.append("Choose the first and the last day, or one of the periods.")
        return (period, *PERIODS[period][1](today)) if period in PERIODS else usual
    last = last or max(today, first or today)
    first = first or last - timedelta(days=29)
    if last < first:
        problems.append(f"The last day, {last}, is before the first, {first}: swap them.")
    elif (last - first).days >= MOST_DAYS:
        problems.append(f"{first} to {last} is too long: at most {MOST_DAYS} days are shown at once.")
    elif first.year < 2000 or last.year > 2999:
        problems.append("Days are those from 2000-01-01 to 2999-12-31.")
    else:
        return CUSTOM, first, last
    return usual


def _read_day(given: Mapping[str, list[str]], name: str, problems: list[str]) -> date | None:
    texts = given.get(name, [])
    if not texts:
        return None
    try:
        return date.fromisoformat(texts[-1])
    except ValueError:
        problems.append(f"“{_shortened(texts[-1])}” is no day: write it as 2026-03-31.")
        return None


def _read_chosen(given: Mapping[str, list[str]], problems: list[str]) -> dict[str, tuple[str, ...]]:
    chosen: dict[str, tuple[str, ...]] = {}
    without = given.get("no", [])
    for name in without:
        if name not in OPTIONAL:
            problems.append(
                f"Calls cannot be asked for by “no {_shortened(name)}”. One of: {', '.join(OPTIONAL)}."
            )
    for name in FIELDS:
        values = [*dict.fromkeys(given.get(name, []))]
        for value in values:
            if not is_clean_id(value):
                problems.append(
                    f"“{_shortened(value)}” can be no {name}: at most 255 characters, on one line."
                )
            elif name == "key" and not _is_key(value):
                problems.append(
                    f"“{_shortened(value)}” is the id of no key: choose from the list, or {MASTER_KEY_ID}."
                )
        if len(values) > MOST_CHOSEN:
            problems.append(
                f"At most {MOST_CHOSEN} of one filter, and these are {len(values)}: leave some out."
            )
        values += [""] if name in without else []
        if values:
            chosen[name] = tuple(values)
    return chosen


def _is_key(text: str) -> bool:
    return text == MASTER_KEY_ID or _UUID.fullmatch(text) is not None


def _read_search(given: Mapping[str, list[str]], problems: list[str]) -> str:
    search = given.get("q", [""])[-1]
    if search and not is_clean_text(search):
        problems.append("Nothing can be found by that: search for a part of a name, on one line.")
        return ""
    return search


def _read_page(given: Mapping[str, list[str]], problems: list[str]) -> int:
    text = given.get("page", ["1"])[-1]
    if text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= _MOST_PAGES:
        return int(text)
    problems.append(f"“{_shortened(text)}” is no page: pages are numbered from 1.")
    return 1


def _one_of(given: Mapping[str, list[str]], name: str, choices: Sequence[str], problems: list[str]) -> str:
    text = given.get(name, [""])[-1]
    if not text or text in choices:
        return text
    known = f"One of: {', '.join(choices)}." if choices else "There is nothing to choose on this tab."
    problems.append(f"{name} cannot be “{_shortened(text)}”. {known}")
    return ""


def _shortened(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:60])
    return f"{shown}…" if len(text) > 60 else shown
