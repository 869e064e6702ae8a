"""
Exports: the table of a usage page as CSV or JSON, all its pages, in the order and with the filters shown.

Amounts are exact decimals; a dash on the page is an empty field here.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpResponse

from billing.admin.usage.filters import Asked
from billing.admin.usage.tables import Line, Table
from billing.admin.usage.tabs import Tab
from billing.reporting.spreadsheets import spreadsheet_safe
from customers.money import plain_usd

MOST_LINES = 50_000
FORMATS = ("csv", "json")
_PLACES = 9  # of a rate: as an amount


def export(format_: str, asked: Asked, tab: Tab, table: Table) -> HttpResponse:
    records = [_record(tab, line) for line in (*table.lines, *table.foot)]
    name = f"usage-{tab.slug}-{asked.start.isoformat()}-{asked.end.isoformat()}.{format_}"
    body, content_type = (
        (_csv(records), "text/csv; charset=utf-8")
        if format_ == "csv"
        else (_json(asked, tab, records), "application/json")
    )
    return HttpResponse(
        body, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def _record(tab: Tab, line: Line) -> dict[str, Any]:
    """Return a line's figures by column. `row`: what the line is: name, rest, none or total."""
    figures, rate = line.figures, line.per_mtok
    who: dict[str, Any] = {"row": line.kind}
    if tab.dimension is None:
        who |= {"day": line.id or line.label, "model": line.model}
    else:
        who |= {tab.singular.replace(" ", "_"): line.id, "name": line.label}
    before = line.spend_before
    return {
        **who,
        "spend_usd": plain_usd(line.spend),
        "spend_before_usd": None if before is None else plain_usd(before),
        "cost_usd": plain_usd(figures.cost),
        "charge_usd": plain_usd(figures.charge),
        "share": _ratio(line.spend, line.total_spend),
        "requests": figures.calls,
        "successful": figures.successful_calls,
        "failed": figures.failed_calls,
        "unpriced": figures.unpriced_calls,
        "estimated": figures.estimated_calls,
        "cache_hits": figures.cache_hits,
        "prompt_tokens": figures.usage.prompt_tokens,
        "completion_tokens": figures.usage.completion_tokens,
        "total_tokens": figures.usage.total_tokens,
        "usd_per_mtok": None if rate is None else plain_usd(round(rate, _PLACES)),
        "p50_ms": None if figures.p50_ms is None else round(figures.p50_ms),
        "p95_ms": None if figures.p95_ms is None else round(figures.p95_ms),
    }


def _ratio(part: Any, whole: Any) -> str | None:
    return plain_usd(round(part / whole, 6)) if whole else None


def _csv(records: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(records[0])
    writer.writerows([spreadsheet_safe(value) for value in record.values()] for record in records)
    return out.getvalue()


def _json(asked: Asked, tab: Tab, records: Sequence[dict[str, Any]]) -> str:
    given = {name: list(values) for name, values in asked.chosen.items()}
    document = {
        "tab": tab.slug,
        "from": asked.start,
        "to": asked.end,
        "filters": given,
        "search": asked.search,
        "sort": asked.sort or tab.default_sort,
        "rows": records,
    }
    return json.dumps(document, cls=DjangoJSONEncoder, ensure_ascii=False, indent=1)
