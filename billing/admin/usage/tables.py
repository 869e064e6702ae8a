"""
The table of a usage page: one line a day, or a customer, key, model …, and what they add up to.

Lines end in those that make the sum come out: what is on other pages, the calls of none,
the total. The export writes the same lines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Q
from django.urls import reverse
from django.utils.http import urlencode

from billing.admin.budgeted import LOG_FILTERS
from billing.admin.naming import MODELS
from billing.admin.usage.cards import Summary, points
from billing.admin.usage.filters import CUSTOM, FIELDS, OPTIONAL, Asked
from billing.admin.usage.tabs import OVERVIEW, Tab
from billing.budgets.bars import Bar, bars_now, tightest
from billing.models import HolderType
from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting import words
from billing.reporting.reports import (
    Amounts,
    Dimension,
    Figures,
    Filters,
    Row,
    amounts,
    amounts_by_day,
    by,
    by_day,
    less,
    ranked,
    untagged,
)
from customers.models import Customer, Team, User, VirtualKey
from customers.words import EMPTY, count, usd

PER_PAGE = 25
_MOST_ALIKE = 1_000  # names that a search finds besides
_HOLDERS = {
    "customer": HolderType.CUSTOMER,
    "key": HolderType.KEY,
    "team": HolderType.TEAM,
    "user": HolderType.USER,
    "tag": HolderType.TAG,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table."""

    kind: str  # "name", "rest", "none" or "total"
    id: str
    label: str
    figures: Figures
    spend: Decimal
    total_spend: Decimal
    model: str = ""  # of a line for a day and a model
    spend_before: Decimal | None = None
    url: str = ""  # the page about these calls alone
    holder_url: str = ""
    logs_url: str = ""
    line: str = ""  # the points of its small line
    bar: Bar | None = None
    others: int = 0  # bars besides
    note: str = ""

    @property
    def spend_text(self) -> str:
        return words.short_usd(self.spend) + ("*" if self.figures.unpriced_calls else "")

    @property
    def spend_title(self) -> str:
        without = self.figures.unpriced_calls
        return usd(self.spend) + (f", without {words.plural(without, 'unpriced call')}" if without else "")

    @property
    def share(self) -> str:
        return words.percent(self.spend, self.total_spend)

    @property
    def share_width(self) -> str:
        """Return the share as the width of a bar, in per cent."""
        whole = self.total_spend
        return f"{min(Decimal(100), max(Decimal(0), self.spend * 100 / whole)):.1f}" if whole else "0"

    @property
    def change(self) -> str:
        return EMPTY if self.spend_before is None else words.change(self.spend, self.spend_before)

    @property
    def change_title(self) -> str:
        return "" if self.spend_before is None else f"before: {usd(self.spend_before)}"

    @property
    def calls(self) -> str:
        return count(self.figures.calls)

    @property
    def success(self) -> str:
        return words.percent(self.figures.successful_calls, self.figures.calls)

    @property
    def failed(self) -> str:
        return count(self.figures.failed_calls)

    @property
    def tokens(self) -> str:
        return words.short_count(self.figures.usage.total_tokens)

    @property
    def tokens_title(self) -> str:
        usage = self.figures.usage
        return f"{count(usage.prompt_tokens)} in, {count(usage.completion_tokens)} out"

    @property
    def per_mtok(self) -> Decimal | None:
        """Return USD per million tokens; None where there are none."""
        tokens = self.figures.usage.total_tokens
        return self.spend * 1_000_000 / tokens if tokens else None

    @property
    def rate(self) -> str:
        if self.figures.unpriced_calls and not self.spend:
            return EMPTY
        return words.short_usd(self.per_mtok) + ("*" if self.figures.unpriced_calls else "")

    @property
    def p95(self) -> str:
        return words.duration(self.figures.p95_ms)

    @property
    def cached(self) -> str:
        return words.percent(self.figures.cache_hits, self.figures.calls)


@dataclass(frozen=True, kw_only=True)
class Table:
    """The lines of one page, and how many there are on all."""

    lines: list[Line]
    foot: list[Line]
    of: int | None  # None: so many that they were not counted
    amounts: dict[str, dict[date, Amounts]]  # by name and day: what its small lines are drawn from
    page: int = 1
    has_more: bool = False  # lines behind these

    @property
    def has_bars(self) -> bool:
        return any(line.bar for line in self.lines)


class _Nobody(NamedTuple):
    """The calls of no customer, no team, …: their figures now, what they spent before, and on each day."""

    figures: Figures | None  # None: not asked for, or there is none
    spend_before: Decimal | None
    by_day: dict[date, Amounts]


class Known(NamedTuple):
    """Rows of holders by id, as far as there are any."""

    rows: dict[str, Any]
    holder_type: HolderType | None

    def label(self, name: str) -> str:
        if self.holder_type == HolderType.KEY and name == MASTER_KEY_ID:
            return "Master key"
        row = self.rows.get(name)
        return str(row) if row is not None else name

    def url(self, name: str, user: Any) -> str:
        """Return the address of the holder's own page; empty where there is none, or not for this user."""
        if name not in self.rows or self.holder_type is None:
            return ""
        meta = MODELS[self.holder_type]._meta
        if not user.has_perm(f"{meta.app_label}.view_{meta.model_name}"):
            return ""
        return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[quote(name)])


def known(dimension: str, names: Iterable[str]) -> Known:
    """Return the rows of holders. At most one query; none for what has no rows, as models."""
    holder_type = _HOLDERS.get(dimension)
    ids = {name for name in names if name and name != MASTER_KEY_ID}
    if holder_type is None or not ids:
        return Known({}, holder_type)
    found = MODELS[holder_type]._default_manager.filter(pk__in=ids).select_related("budget")
    return Known({str(row.pk): row for row in found}, holder_type)


def read_table(asked: Asked, tab: Tab, summary: Summary, *, user: Any, at: datetime, every: int = 0) -> Table:
    """Read a page of the table. every: so many lines from the first on, without what is drawn in them."""
    if tab.dimension is None:
        return _days_table(asked, summary, every=every)
    return _names_table(asked, tab, summary, user=user, at=at, every=every)


# -- by name ---------------------------------------------------------------------------


def _names_table(asked: Asked, tab: Tab, summary: Summary, *, user: Any, at: datetime, every: int) -> Table:
    assert tab.dimension is not None
    filters, before = asked.filters, asked.filters_before
    ranking, page = _ranking(asked, tab, summary, every)
    names, has_none = ranking.names, _has_none(filters, tab)
    wanted = [*names, ""] if has_none else names
    figures = {row.name: row.figures for row in _of_names(filters, tab.dimension, wanted)}
    spent_before = {
        name: getattr(spent, summary.money)
        for name, spent in amounts(only(before, tab.dimension, wanted), tab.dimension).items()
    }
    by_name = {} if every else amounts_by_day(only(filters, tab.dimension, wanted), tab.dimension)
    rows = known(tab.dimension, names)
    bars = {} if every else _bars(rows, at)
    total = summary.spend(summary.total)

    def line(name: str) -> Line:
        found = figures[name]
        of_holder = bars.get(name, [])
        return Line(
            kind="name",
            id=name,
            label=rows.label(name),
            figures=found,
            spend=summary.spend(found),
            total_spend=total,
            spend_before=spent_before.get(name, Decimal(0)),
            url=_page_of(asked, tab, name),
            holder_url=rows.url(name, user),
            logs_url=logs_url(asked, {tab.filter: name}),
            line=_line(asked, by_name.get(name, {}), summary.money),
            bar=tightest(of_holder),
            others=len(of_holder) - 1,
        )

    lines = [line(name) for name in names]
    nobody = _Nobody(figures.get(""), spent_before.get(""), by_name.get("", {}))
    foot = _foot(asked, tab, summary, lines, ranking.of, _nobody(asked, tab, summary, nobody))
    return Table(lines=lines, foot=foot, of=ranking.of, amounts=by_name, page=page, has_more=ranking.has_more)


def _page_of(asked: Asked, tab: Tab, name: str) -> str:
    """Return the page about one name: a customer's own, where nothing else is filtered by."""
    if tab.filter == "customer" and asked.chosen.keys() <= {"customer"}:
        return reverse("usage:customer") + asked.only(customer=(name,)).query()
    return reverse(OVERVIEW.url_name) + asked.with_one(tab.filter, name).query()


def _ranking(asked: Asked, tab: Tab, summary: Summary, every: int) -> tuple[Any, int]:
    """Return the names of the page, and which page that is: the last one where there is no such."""
    assert tab.dimension is not None
    sort = asked.sort or tab.default_sort
    order = sort.removeprefix("-")
    terms: dict[str, Any] = {
        "order": summary.money if order == "spend" else order,
        "ascending": not sort.startswith("-"),
        "search": asked.search,
        "alike": _alike(tab, asked.search) if asked.search else (),
    }
    if every:
        return ranked(asked.filters, tab.dimension, limit=every, **terms), 1
    page = asked.page
    ranking = ranked(asked.filters, tab.dimension, limit=PER_PAGE, offset=(page - 1) * PER_PAGE, **terms)
    if not ranking.names and ranking.of:
        page = -(-ranking.of // PER_PAGE)
        ranking = ranked(asked.filters, tab.dimension, limit=PER_PAGE, offset=(page - 1) * PER_PAGE, **terms)
    return ranking, page


def _alike(tab: Tab, search: str) -> list[str]:
    """Return ids of holders that go by another name, of which the search is a part. One query."""
    found: Any
    if tab.dimension == "customer":
        found = Customer.objects.matching(search)
    elif tab.dimension == "key":
        found = VirtualKey.objects.filter(Q(alias__icontains=search) | Q(display_name__icontains=search))
    elif tab.dimension == "team":
        found = Team.objects.filter(alias__icontains=search)
    elif tab.dimension == "user":
        of_user = Q(alias__icontains=search) | Q(email__icontains=search) | Q(username__icontains=search)
        found = User.objects.filter(of_user)
    else:
        return []
    ids = [str(pk) for pk in found.values_list("pk", flat=True)[:_MOST_ALIKE]]
    is_master = tab.dimension == "key" and search.lower() in "master key"
    return [*ids, MASTER_KEY_ID] if is_master else ids


def _has_none(filters: Filters, tab: Tab) -> bool:
    """Tell whether calls of none are among those asked for, as rows by an empty name."""
    if not tab.none or tab.dimension == "tag":
        return False
    chosen = getattr(filters, FIELDS[tab.filter])
    return chosen is None or "" in chosen


def only(filters: Filters, dimension: Dimension, names: Sequence[str]) -> Filters:
    """Return the filters for these names alone."""
    name = "client" if dimension == "client_tool" else dimension
    return msgspec.structs.replace(filters, **{FIELDS[name]: list(names)})


def _of_names(filters: Filters, dimension: Dimension, names: Sequence[str]) -> list[Row]:
    return by(only(filters, dimension, names), dimension, limit=len(names), order="name") if names else []


def _bars(rows: Known, at: datetime) -> dict[str, list[Bar]]:
    """Return the budget bars by id, as the holders' own lists show them."""
    if rows.holder_type is None or not rows.rows:
        return {}
    holders = admin.site.get_model_admin(MODELS[rows.holder_type]).listed_holders([*rows.rows.values()])  # type: ignore[attr-defined]
    return {holder_id: bars for (_, holder_id), bars in bars_now(holders, at=at).items()}


def _nobody(asked: Asked, tab: Tab, summary: Summary, found: _Nobody) -> _Nobody:
    """Return the calls of none. Those without a tag are no row of the report by tag: they are asked for."""
    if tab.dimension != "tag" or "tag" in asked.chosen:
        return found
    before = untagged(asked.filters_before)
    return _Nobody(untagged(asked.filters), summary.spend(before), {})


def _foot(
    asked: Asked, tab: Tab, summary: Summary, lines: Sequence[Line], of: int | None, nobody: _Nobody
) -> list[Line]:
    """Return the lines that make the sum come out. Those of tags do not add up, and it says so."""
    is_by_tag = tab.dimension == "tag"
    foot = []
    if not is_by_tag and (of is None or of > len(lines) or asked.search):
        shown = [line.figures for line in lines] + ([nobody.figures] if nobody.figures else [])
        others = f"all other {tab.singular}s"
        if of is not None and not asked.search:
            others = words.plural(of - len(lines), tab.singular)
        foot.append(_rest_line(summary, less(summary.total, shown), others))
    if tab.none and "" in asked.chosen.get(tab.filter, ("",)):
        foot.append(_none_line(asked, tab, summary, nobody))
    note = "a call counts under each of its tags, and here once" if is_by_tag else ""
    return [*foot, _total_line(asked, summary, note)]


def _rest_line(summary: Summary, rest: Figures, what: str) -> Line:
    return Line(
        kind="rest",
        id="",
        label=f"Not on this page: {what}",
        figures=rest,
        spend=summary.spend(rest),
        total_spend=summary.spend(summary.total),
    )


def _none_line(asked: Asked, tab: Tab, summary: Summary, nobody: _Nobody) -> Line:
    """Return the line of the calls of none: also where there is no such call, so that one knows."""
    figures = nobody.figures or less(summary.total, [summary.total])
    has_page = figures.calls and tab.filter in OPTIONAL
    return Line(
        kind="none",
        id="",
        label=tab.none,
        figures=figures,
        spend=summary.spend(figures),
        total_spend=summary.spend(summary.total),
        spend_before=nobody.spend_before or Decimal(0),
        url=reverse(OVERVIEW.url_name) + asked.with_one(tab.filter, "").query() if has_page else "",
        line=_line(asked, nobody.by_day, summary.money),
    )


def _total_line(asked: Asked, summary: Summary, note: str = "") -> Line:
    spend = summary.spend(summary.total)
    return Line(
        kind="total",
        id="",
        label="Total",
        figures=summary.total,
        spend=spend,
        total_spend=spend,
        spend_before=summary.spend(summary.total_before),
        line=points([summary.spend(summary.days[day]) if day in summary.days else 0 for day in asked.days]),
        logs_url=logs_url(asked, {}),
        note=note,
    )


def _line(asked: Asked, spent: dict[date, Amounts], money: str) -> str:
    return points([getattr(spent[day], money) if day in spent else 0 for day in asked.days])


# -- by day ----------------------------------------------------------------------------


def _days_table(asked: Asked, summary: Summary, *, every: int) -> Table:
    total = summary.spend(summary.total)
    overview = reverse(OVERVIEW.url_name)

    def line(day: date, figures: Figures, model: str | None) -> Line:
        of_day = replace(asked, period=CUSTOM, start=day, end=day)
        narrowed = of_day if model is None else of_day.with_one("model", model)
        return Line(
            kind="name",
            id=day.isoformat(),
            label=words.day_text(day),
            model=model or "",
            figures=figures,
            spend=summary.spend(figures),
            total_spend=total,
            url=overview + replace(narrowed, sort="").query(),
            logs_url=logs_url(of_day, {"model": model} if model else {}),
        )

    if is_by_model(asked):
        lines = [line(row.day, row.figures, row.name) for row in by_day(asked.filters, "model")]
    else:
        lines = [line(day, figures, None) for day, figures in summary.days.items()]
    sort = asked.sort or OVERVIEW.default_sort
    lines.sort(key=lambda each: (each.id, each.spend), reverse=True)
    lines.sort(key=_DAY_ORDERS[sort.removeprefix("-")], reverse=sort.startswith("-"))
    page = min(asked.page, max(1, -(-len(lines) // PER_PAGE)))
    first = (page - 1) * PER_PAGE
    shown = lines[:every] if every else lines[first : first + PER_PAGE]
    foot = [_total_line(asked, summary)]
    if len(shown) < len(lines):
        rest = less(summary.total, [each.figures for each in shown])
        foot.insert(0, _rest_line(summary, rest, words.plural(len(lines) - len(shown), "line")))
    return Table(
        lines=shown, foot=foot, of=len(lines), amounts={}, page=page, has_more=first + PER_PAGE < len(lines)
    )


_DAY_ORDERS: dict[str, Any] = {
    "day": lambda line: line.id,
    "spend": lambda line: line.spend,
    "calls": lambda line: line.figures.calls,
    "failed_calls": lambda line: line.figures.failed_calls,
    "total_tokens": lambda line: line.figures.usage.total_tokens,
    "rate": lambda line: line.per_mtok or Decimal(0),
}


def is_by_model(asked: Asked) -> bool:
    """Tell whether the overview has a line for each day and model: it does for one customer's pages."""
    return asked.rows == "day-model" or (not asked.rows and asked.one("customer") is not None)


# -- links -----------------------------------------------------------------------------


def logs_url(asked: Asked, more: dict[str, str], *, unpriced: bool = False) -> str:
    """Return the address of the calls behind a figure; empty where the Logs page cannot find just those."""
    chosen = {**asked.chosen, **{name: (value,) for name, value in more.items()}}
    found = {}
    for name, values in chosen.items():
        if len(values) != 1 or not values[0] or values[0] == MASTER_KEY_ID or name not in _LOG_FILTERS:
            return ""
        found[_LOG_FILTERS[name]] = values[0]
    zone = ZoneInfo(settings.REPORTING_TIME_ZONE)
    start = datetime.combine(asked.start, time.min, tzinfo=zone)
    end = datetime.combine(asked.end + timedelta(days=1), time.min, tzinfo=zone)
    query = {**found, "started_at_from": start.isoformat(), "started_at_to": end.isoformat()}
    query |= {"usage": "unpriced"} if unpriced else {}
    return f"{reverse('admin:billing_spendlog_changelist')}?{urlencode(query)}"


_LOG_FILTERS = {
    **{name: LOG_FILTERS[holder_type] for name, holder_type in _HOLDERS.items()},
    "model": "model",
    "client": "client_tool",
}
