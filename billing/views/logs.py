"""GET /spend/logs and its kin: calls as they were booked (contract 6.2, 6.3)."""

import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import SpendLog
from billing.models.spend_total import MASTER_KEY_ID
from billing.reporting.daily_sums import DaySums, daily_sums, sums_of
from billing.reporting.log_reading import (
    CAP,
    Found,
    Range,
    day_of,
    days_range,
    find_logs,
    moments_range,
    read_page,
)
from billing.views.log_objects import (
    BODIES_EXAMPLE,
    FULL_EXAMPLE,
    LIST_EXAMPLE,
    body_objects,
    full_log_objects,
    log_objects,
)
from billing.views.ranges import KeyNames, key_names
from billing.views.spend import usd
from customers.api import Action, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.schema import described
from customers.money import to_nano
from customers.serializers.logs import LogPageQuery, SessionQuery, SpendLogsQuery
from customers.text import is_clean_id

TRUNCATED = "x-litellm-spend-logs-truncated"
_ALWAYS = Range(None, None)
_MAX_PADDING = timedelta(days=366)


class SpendLogs(ManagementView):
    """Calls, newest first; or, with two dates, sums per day."""

    actions = {"GET": Action.READ_SPEND}

    @described(query=SpendLogsQuery, answer=[FULL_EXAMPLE])
    def get(self, request: Request) -> Response:
        given = self.query(SpendLogsQuery)
        start = day_of(given["start_date"], "start_date") if given.get("start_date") else None
        end = day_of(given["end_date"], "end_date") if given.get("end_date") else None
        between = days_range(start, end)
        # LiteLLM answers with calls where a date is missing; sums from one date on have to be asked for.
        if start is not None and (given["summarize"] or (given["summarize"] is None and end is not None)):
            return Response(self._summary(given, start, end or _today(), between))
        logs, is_truncated = _newest(find_logs(given, reach=self.reach, between=between))
        rows = full_log_objects(logs, with_charge=self.reach.is_all)
        return Response(rows, headers={TRUNCATED: "true"} if is_truncated else None)

    def _summary(
        self, given: Mapping[str, Any], start: date, end: date, between: Range
    ) -> list[dict[str, Any]]:
        if given.get("status"):
            raise BadRequest("Sums per day have no status: add summarize=false.", param="status")
        if given.get("request_id"):
            logs, _ = _newest(find_logs(given, reach=self.reach, between=between))
            return summary(sums_of(map(_spent, reversed(logs))), until=end)
        return summary(daily_sums(given, reach=self.reach, start=start, end=end), until=end)


class SpendLogsPage(ManagementView):
    """A page of calls, filtered and sorted."""

    actions = {"GET": Action.READ_SPEND}

    @described(
        query=LogPageQuery,
        answer={
            "data": [LIST_EXAMPLE], "total": 1, "page": 1, "page_size": 50, "total_pages": 1,
            "total_is_capped": False, "searched_since": None,
        },
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        given = self.query(LogPageQuery)
        for name in ("start_date", "end_date"):
            if not given.get(name):
                raise BadRequest(f"Say from when to when: {name}=YYYY-MM-DD HH:MM:SS.", param=name)
        between = moments_range(given["start_date"], given["end_date"])
        found = find_logs(given, reach=self.reach, between=between, sort_by=given["sort_by"])
        return Response(
            _page(found, given, sort_by=given["sort_by"], descending=given["sort_order"] == "desc", view=self)
        )


class SessionLogs(ManagementView):
    """A page of the calls of one session, from its first on."""

    actions = {"GET": Action.READ_SPEND}

    @described(
        query=SessionQuery,
        answer={
            "data": [LIST_EXAMPLE], "total": 1, "page": 1, "page_size": 50, "total_pages": 1,
            "total_is_capped": False, "searched_since": None,
        },
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        given = self.query(SessionQuery)
        found = find_logs(given, reach=self.reach, between=_ALWAYS)
        return Response(_page(found, given, sort_by="startTime", descending=False, view=self))


class SpendLogBodies(ManagementView):
    """What one call asked and was answered, where it was kept."""

    actions = {"GET": Action.READ_SPEND}

    @described(answer=BODIES_EXAMPLE)
    def get(self, request: Request, request_id: str) -> Response:
        log = None
        if is_clean_id(request_id):
            found = find_logs({"request_id": request_id}, reach=self.reach, between=_ALWAYS)
            log = found.logs.order_by("-pk").first()
        if log is None:
            raise NotFound("There is no call with this id.", param="request_id")
        return Response(body_objects(log.request_body, log.response_body))


def _newest(found: Found) -> tuple[list[SpendLog], bool]:
    """Return the newest calls, as many as one answer has, and whether there may be more. One query."""
    ordered = found.logs.order_by("-pk").defer("request_body", "response_body")
    logs = list(ordered[: CAP + 1])
    return logs[:CAP], len(logs) > CAP or found.since is not None


def _page(
    found: Found, given: Mapping[str, Any], *, sort_by: str, descending: bool, view: ManagementView
) -> dict[str, Any]:
    number, size = given["page"], given["page_size"]
    page = read_page(found, sort_by=sort_by, descending=descending, number=number, size=size)
    return {
        "data": log_objects(page.logs, with_charge=view.reach.is_all),
        "total": page.total,
        "page": number,
        "page_size": size,
        "total_pages": -(-page.total // size),
        "total_is_capped": page.is_capped,
        "searched_since": found.since,
    }


# -- sums per day ------------------------------------------------------------------------


def summary(days: Sequence[DaySums], *, until: date) -> list[dict[str, Any]]:
    """Return one object per day with calls, then empty days up to `until`: at most a year of them.

    days: in their order. One query.
    """
    if not days:
        return []
    names = key_names({key for day in days for key in day.keys})
    last = days[-1].day
    padding = min(until - last, _MAX_PADDING).days
    empty = (DaySums(last + timedelta(days=number)) for number in range(1, padding + 1))
    return [_told(day, names) for day in (*days, *empty)]


def _told(day: DaySums, names: Mapping[str, KeyNames]) -> dict[str, Any]:
    return {
        "startTime": day.day.isoformat(),
        "spend": usd(day.spend),
        "users": {name: usd(nano) for name, nano in day.users.items()},
        "models": {name: usd(nano) for name, nano in day.models.items()},
        **{names[key].hash: usd(nano) for key, nano in day.keys.items()},
    }


def _spent(log: SpendLog) -> tuple[date, str, str, str, int]:
    return (
        _reporting_day(log.started_at),
        MASTER_KEY_ID if log.key_id is None else str(log.key_id),
        log.user_id or "",
        log.upstream_model or log.model,
        to_nano(log.cost or 0),
    )


def _today() -> date:
    return _reporting_day(timezone.now())


def _reporting_day(at: datetime) -> date:
    return at.astimezone(zoneinfo.ZoneInfo(settings.REPORTING_TIME_ZONE)).date()


urlpatterns = [
    path("spend/logs", SpendLogs.as_view()),
    path("spend/logs/v2", SpendLogsPage.as_view()),
    path("spend/logs/ui", SpendLogsPage.as_view()),
    path("spend/logs/session/ui", SessionLogs.as_view()),
    path("spend/logs/ui/<path:request_id>", SpendLogBodies.as_view()),
]
