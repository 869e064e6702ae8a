"""What one customer's spend is made of: by model, key, tag and client tool, the largest of each."""

from dataclasses import dataclass
from typing import Any

from django.urls import reverse

from billing.admin.usage.cards import Summary
from billing.admin.usage.filters import Asked
from billing.admin.usage.tables import Line, known, logs_url
from billing.admin.usage.tabs import OVERVIEW, TABS, Tab
from billing.reporting.reports import Row, by, less

MOST = 10
_NOTE_OF_TAGS = "A call counts under each of its tags: these lines may add up to more than the total."
_TABS = {tab.slug: tab for tab in TABS}
BROKEN_DOWN_BY = tuple(_TABS[slug] for slug in ("models", "keys", "tags", "clients"))


@dataclass(frozen=True)
class Breakdown:
    """One small table. The lines add up to the total, but for those of tags."""

    tab: Tab
    lines: list[Line]
    names: list[str]  # without the empty one, of calls that have none
    url: str  # the tab, with the same days and the same customer
    note: str


def breakdown(asked: Asked, summary: Summary, tab: Tab, *, user: Any) -> Breakdown:
    """Return the names that spent most, and the rest as one line. At most two queries."""
    assert tab.dimension is not None
    rows = by(asked.filters, tab.dimension, limit=MOST, order=summary.money)  # type: ignore[arg-type]
    holders = known(tab.dimension, [row.name for row in rows])
    total = summary.spend(summary.total)

    def line(row: Row) -> Line:
        return Line(
            kind="name" if row.name else "none",
            id=row.name,
            label=holders.label(row.name) if row.name else tab.none,
            figures=row.figures,
            spend=summary.spend(row.figures),
            total_spend=total,
            url=reverse(OVERVIEW.url_name) + asked.with_one(tab.filter, row.name).query() if row.name else "",
            holder_url=holders.url(row.name, user) if row.name else "",
            logs_url=logs_url(asked, {tab.filter: row.name}) if row.name else "",
        )

    lines = [line(row) for row in rows]
    is_by_tag = tab.dimension == "tag"
    rest = less(summary.total, [row.figures for row in rows])
    if not is_by_tag and rest.calls:
        lines.append(
            Line(
                kind="rest",
                id="",
                label=f"All other {tab.singular}s",
                figures=rest,
                spend=summary.spend(rest),
                total_spend=total,
            )
        )
    return Breakdown(
        tab=tab,
        lines=lines,
        names=[row.name for row in rows if row.name],
        url=reverse(tab.url_name) + asked.query(stack="", compare=""),
        note=_NOTE_OF_TAGS if is_by_tag and lines else "",
    )
