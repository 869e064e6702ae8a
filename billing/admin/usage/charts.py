"""
The chart of a usage page: spend per day, stacked by model, customer or what the tab is about.

The names that spent most are drawn by themselves, all others as one, calls of none as
another: a stack is as high as the day's spend on the cards. Amounts go out as exact
decimal texts; the same figures stand below the chart as a table.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

from django.urls import reverse
from django.utils.html import format_html, format_html_join

from billing.admin.usage.cards import Summary
from billing.admin.usage.filters import FIELDS, Asked
from billing.admin.usage.tables import Table, known, only
from billing.admin.usage.tabs import Tab
from billing.reporting import words
from billing.reporting.reports import Amounts, Dimension, amounts_by_day, ranked
from customers.money import plain_usd
from customers.words import usd

DRAWN = 7  # names, each in a colour of its own
LABELS = {
    "model": "model",
    "customer": "customer",
    "key": "key",
    "team": "team",
    "user": "user",
    "client": "client tool",
}
_NONE = {"customer": "Unattributed", "team": "No team", "user": "No user", "client": "Unknown client"}


class Series(NamedTuple):
    """One colour of the chart. kind: "name", "none", "rest", or "before", the line of the period before."""

    name: str
    kind: str
    values: list[Decimal]  # a day each

    @property
    def total(self) -> Decimal:
        return sum(self.values, Decimal(0))


def stack_of(asked: Asked, tab: Tab) -> str:
    """Return what the chart is stacked by: as asked for, else as the tab is about, else by model."""
    if asked.compare == "customers":
        return "customer"
    return asked.stack or tab.stacks[0]


def chart(asked: Asked, tab: Tab, summary: Summary, table: Table) -> dict[str, Any]:
    """Return what the template shows, with `data` for the script. Up to three queries."""
    name = stack_of(asked, tab)
    series = _stack(asked, tab, summary, table, name)
    is_comparing = asked.compare == "customers"
    if asked.compare == "previous":
        series.append(_before(asked, summary))
    return {
        "stack": LABELS[name],
        "has_spend": any(value for each in series for value in each.values),
        "is_stacked": not is_comparing,
        "data": {
            "days": [day.isoformat() for day in asked.days],
            "isStacked": not is_comparing,
            "series": [
                {"name": each.name, "kind": each.kind, "values": [plain_usd(value) for value in each.values]}
                for each in series
            ],
        },
        "legend": _legend(series),
        "series": series,
        "body": _body(asked.days, series),
    }


def _stack(asked: Asked, tab: Tab, summary: Summary, table: Table, name: str) -> list[Series]:
    dimension: Dimension = "client_tool" if name == "client" else name  # type: ignore[assignment]
    is_top_of_table = (
        tab.filter == name and asked.sort in ("", "-spend") and not asked.search and table.page == 1
    )
    if is_top_of_table:
        names = [line.id for line in table.lines[:DRAWN]]
        labels = {line.id: line.label for line in table.lines}
        amounts: Mapping[str, Mapping[date, Amounts]] = table.amounts
    else:
        names = ranked(asked.filters, dimension, order=summary.money, limit=DRAWN).names
        amounts = amounts_by_day(only(asked.filters, dimension, _with_none(asked, name, names)), dimension)
        rows = known(dimension, names)
        labels = {each: rows.label(each) for each in names}
    days = asked.days
    drawn = [Series(labels[each], "name", _values(days, amounts.get(each, {}), summary)) for each in names]
    if "" in _with_none(asked, name, names):
        drawn.append(Series(_NONE.get(name, "None"), "none", _values(days, amounts.get("", {}), summary)))
    rest = [
        (summary.spend(summary.days[day]) if day in summary.days else Decimal(0))
        - sum((each.values[at] for each in drawn), Decimal(0))
        for at, day in enumerate(days)
    ]
    if any(rest):
        drawn.append(Series(f"All other {LABELS[name]}s", "rest", rest))
    return [each for each in drawn if each.kind == "name" or any(each.values)]


def _with_none(asked: Asked, name: str, names: Sequence[str]) -> list[str]:
    if name == "key":
        return [*names]
    chosen = getattr(asked.filters, FIELDS[name])
    return [*names, ""] if chosen is None or "" in chosen else [*names]


def _values(days: Sequence[date], amounts: Mapping[date, Amounts], summary: Summary) -> list[Decimal]:
    return [getattr(amounts[day], summary.money) if day in amounts else Decimal(0) for day in days]


def _before(asked: Asked, summary: Summary) -> Series:
    """Return the spend of the period before, its first day on the first day; a shorter one ends early."""
    start, end = asked.before
    found = [
        summary.days_before.get(date.fromordinal(day))
        for day in range(start.toordinal(), end.toordinal() + 1)
    ]
    values = [Decimal(0) if each is None else summary.spend(each) for each in found][: len(asked.days)]
    return Series(f"Before, {words.span(start, end)}", "before", values)


def _legend(series: Sequence[Series]) -> list[dict[str, Any]]:
    whole = sum((each.total for each in series if each.kind != "before"), Decimal(0))
    return [
        {
            "name": each.name,
            "kind": each.kind,
            "amount": words.short_usd(each.total),
            "title": usd(each.total),
            "share": "" if each.kind == "before" else words.percent(each.total, whole),
        }
        for each in series
    ]


def _body(days: Sequence[date], series: Sequence[Series]) -> str:
    """Return the rows of the table below the chart: a day each."""
    # Optimization: a year of eight names is thousands of cells, which the template engine takes its time for.
    return format_html_join(
        "\n",
        '<tr><th scope="row">{}</th>{}</tr>',
        (
            (
                day.isoformat(),
                format_html_join("", "<td>{}</td>", ((_cell(each.values[at : at + 1]),) for each in series)),
            )
            for at, day in enumerate(days)
        ),
    )


def _cell(values: Sequence[Decimal]) -> str:
    return usd(values[0]) if values else format_html("<span>{}</span>", "-")


def stack_links(asked: Asked, tab: Tab) -> list[dict[str, Any]]:
    """Return the choices of what the chart is stacked by."""
    current = stack_of(asked, tab)
    page = reverse(tab.url_name)
    return [
        {
            "label": f"by {LABELS[name]}",
            "url": page + asked.query(stack="" if name == tab.stacks[0] else name, compare=_kept(asked)),
            "is_chosen": name == current,
        }
        for name in tab.stacks
    ]


def _kept(asked: Asked) -> str:
    """A comparison of customers is a stack of its own."""
    return "" if asked.compare == "customers" else asked.compare
