"""
Daily activity as a file: a row per day, entity, key and model, as CSV or JSON.

Sent as it is made, a few days at a time. Nothing is left out: calls without an entity have
an empty name. A call with several tags has a row under each.
"""

import csv
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from typing import Any

import msgspec
from django.conf import settings
from django.http.response import HttpResponseBase
from django.urls import path
from rest_framework.request import Request
from rest_framework.serializers import Serializer

from billing.reporting.reports import Dimension, Filters, Group, grouped, in_parts
from billing.views.activity import (
    CUSTOMER,
    ENDPOINTS,
    TAG,
    TEAM,
    USER,
    ActivityView,
    Entity,
    filters_of,
    metrics_of,
)
from billing.views.ranges import key_names
from billing.views.streaming import json_array, streamed
from customers.api import Action
from customers.api.schema import described
from customers.serializers import spend as shapes

_MOST_CALLS = 20_000  # of the days that are held in memory at once
_DIMENSIONS: tuple[Dimension, ...] = ("key", "model", "upstream_model", "provider", "dialect")
_SPREADSHEET_STARTS = ("=", "+", "-", "@", "\t", "\r")

# Field → the column's head in CSV, with its unit.
_HEADS = {
    "date": "date ({zone})",
    "entity": "{entity}",
    "alias": "{entity} alias",
    "api_key": "api_key (hash)",
    "key_alias": "key_alias",
    "model_group": "model_group",
    "model": "model",
    "provider": "provider",
    "endpoint": "endpoint",
    "spend": "spend (USD)",
    "prompt_tokens": "prompt_tokens (tokens)",
    "completion_tokens": "completion_tokens (tokens)",
    "cache_read_input_tokens": "cache_read_input_tokens (tokens)",
    "cache_creation_input_tokens": "cache_creation_input_tokens (tokens)",
    "total_tokens": "total_tokens (tokens)",
    "successful_requests": "successful_requests (requests)",
    "failed_requests": "failed_requests (requests)",
    "api_requests": "api_requests (requests)",
    "unpriced_requests": "unpriced_requests (requests)",
    "estimated_requests": "estimated_requests (requests)",
    "cache_hits": "cache_hits (requests)",
}

_Rows = list[dict[str, Any]]


def export_rows(entity: Entity, filters: Filters) -> Iterator[_Rows]:
    """Yield the rows, some days at a time, in the order of days and names."""
    for part in in_parts(filters, most_calls=_MOST_CALLS):
        groups = grouped(part, ("day", entity.dimension, *_DIMENSIONS))
        if entity.is_tag and part.tags is None:
            groups += _untagged(part)
        groups.sort()
        keys = key_names({group.names[2] for group in groups})
        described = entity.described({group.names[1] for group in groups})
        rows = []
        for group in groups:
            day, name, key, model, upstream_model, provider, dialect = group.names
            rows.append(
                {
                    "date": day.isoformat(),
                    "entity": name,
                    "alias": described.get(name, {}).get("alias") or "",
                    "api_key": keys[key].hash,
                    "key_alias": keys[key].alias or "",
                    "model_group": model,
                    "model": upstream_model or model,
                    "provider": provider,
                    "endpoint": ENDPOINTS.get(dialect, dialect),
                    **msgspec.structs.asdict(metrics_of(group.tally, entity)),
                }
            )
        yield rows


def _untagged(part: Filters) -> list[Group]:
    groups = grouped(msgspec.structs.replace(part, tags=[""]), ("day", *_DIMENSIONS))
    return [Group((group.names[0], "", *group.names[1:]), group.tally) for group in groups]


def csv_lines(entity: Entity, batches: Iterator[_Rows]) -> Iterator[bytes]:
    """Write rows as CSV, a chunk a batch, with a first line that names columns and units."""
    zone = settings.REPORTING_TIME_ZONE
    yield _lines([[head.format(zone=zone, entity=entity.name) for head in _HEADS.values()]])
    for rows in batches:
        if rows:
            yield _lines([[_cell(row[name]) for name in _HEADS] for row in rows])


def _cell(value: Any) -> Any:
    """Return a value as a cell. A text that a spreadsheet would compute is marked as a text."""
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()  # an amount: a number, also below zero
    if isinstance(value, str) and value.startswith(_SPREADSHEET_STARTS):
        return "'" + value
    return value


def _lines(rows: list[list[Any]]) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


class ExportView(ActivityView):
    """What all exports share."""

    def export(self, request: Request, shape: type[Serializer]) -> HttpResponseBase:
        given = self.query(shape)
        filters = filters_of(self.entity, given, self.reach)
        batches = export_rows(self.entity, filters)
        write, content_type = _FORMATS[given["format"]]
        days = f"{filters.start}-{filters.end}"
        return streamed(
            request,
            write(self.entity, batches),
            content_type=content_type,
            headers={
                "Content-Disposition": f'attachment; filename="{self.entity.name}-{days}.{given["format"]}"'
            },
        )


_FORMATS: Mapping[str, tuple[Callable[[Entity, Iterator[_Rows]], Iterator[bytes]], str]] = {
    "csv": (csv_lines, "text/csv; charset=utf-8"),
    "json": (lambda entity, batches: json_array(batches), "application/json"),
}
_EXAMPLE = "date (UTC),customer,customer alias,…,spend (USD),…\r\n2026-02-03,acme-042,Acme Ltd,…,0.42,…\r\n"


class UserActivityExport(ExportView):
    """Activity of users as a file. Users get their own."""

    actions = {"GET": Action.READ_SPEND}
    entity = USER

    @described(query=shapes.UserActivityExport, answer=_EXAMPLE, media_type="text/csv")
    def get(self, request: Request) -> HttpResponseBase:
        return self.export(request, shapes.UserActivityExport)


class TeamActivityExport(ExportView):
    """Activity of teams as a file. Who administers teams gets those; everybody else their own calls."""

    actions = {"GET": Action.READ_SPEND}
    entity = TEAM

    @described(query=shapes.TeamActivityExport, answer=_EXAMPLE, media_type="text/csv")
    def get(self, request: Request) -> HttpResponseBase:
        return self.export(request, shapes.TeamActivityExport)


class TagActivityExport(ExportView):
    """Activity of tags as a file. A call with several tags has a row under each."""

    actions = {"GET": Action.READ_ALL_SPEND}
    entity = TAG

    @described(query=shapes.TagActivityExport, answer=_EXAMPLE, media_type="text/csv")
    def get(self, request: Request) -> HttpResponseBase:
        return self.export(request, shapes.TagActivityExport)


class CustomerActivityExport(ExportView):
    """Activity of customers as a file. Spend is what they are charged."""

    actions = {"GET": Action.READ_ALL_SPEND}
    entity = CUSTOMER

    @described(query=shapes.CustomerActivityExport, answer=_EXAMPLE, media_type="text/csv")
    def get(self, request: Request) -> HttpResponseBase:
        return self.export(request, shapes.CustomerActivityExport)


urlpatterns = [
    path("user/daily/activity/export", UserActivityExport.as_view()),
    path("team/daily/activity/export", TeamActivityExport.as_view()),
    path("tag/daily/activity/export", TagActivityExport.as_view()),
    path("customer/daily/activity/export", CustomerActivityExport.as_view()),
    path("end_user/daily/activity/export", CustomerActivityExport.as_view()),
]
