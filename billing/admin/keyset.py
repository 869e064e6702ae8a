"""
Paging through the log by key: "older than this call", "newer than that one".

The table is never counted and no page is found by an offset: every page costs the
same, on any number of rows.
"""

import uuid
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.views import ChangeList

from customers.ids import first_uuid7_at

BEFORE, AFTER = "before", "after"
LOOK_BACK = timedelta(days=7)
# What an index leads with, or bounds. Any other filter reads call after call until
# the page is full, which for a rare one is all of them.
_INDEXED = {"customer", "key__id__exact", "team__id__exact", "model", "status__exact", "tag", "q"}
_UNINDEXED = {"user", "usage", "streamed__exact", "client_tool"}
_BOUNDS = {"started_at_from", "started_at_to"}


class KeysetPages:
    """Stands where the list expects its paginator."""

    template_name = "admin/keyset_pagination.html"

    def __init__(self, *, per_page: int, newer_url: str | None, older_url: str | None) -> None:
        self.per_page, self.newer_url, self.older_url = per_page, newer_url, older_url


class KeysetChangeList(ChangeList):
    """Rows by descending id; `?before=` and `?after=` name the row to go on from."""

    looked_back_to = None

    def get_filters_params(self, params: Any = None) -> dict[str, Any]:
        # A form sends its empty fields too: those filter nothing.
        given = super().get_filters_params(params)
        return {name: values for name, values in given.items() if any(values) and name not in (BEFORE, AFTER)}

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        return super().get_query_string(new_params, [*(remove or ()), BEFORE, AFTER])

    def get_ordering(self, request: HttpRequest, queryset: QuerySet) -> list[str]:
        return ["-pk"]

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet:
        queryset = super().get_queryset(request, exclude_parameters)
        filters = set(self.get_filters_params())
        if filters & _UNINDEXED and not filters & (_INDEXED | _BOUNDS) and not self.query:
            self.looked_back_to = timezone.now() - LOOK_BACK
            queryset = queryset.filter(pk__gte=first_uuid7_at(self.looked_back_to))
        return queryset

    def get_results(self, request: HttpRequest) -> None:
        size = self.list_per_page
        before, after = _cursor(request.GET.get(BEFORE)), _cursor(request.GET.get(AFTER))
        if after is not None:
            found = list(self.queryset.filter(pk__gt=after).order_by("pk")[: size + 1])
            rows, has_newer, has_older = found[:size][::-1], len(found) > size, True
        else:
            queryset = self.queryset if before is None else self.queryset.filter(pk__lt=before)
            found = list(queryset[: size + 1])
            rows, has_newer, has_older = found[:size], before is not None, len(found) > size
        self.result_list = rows
        self.result_count = self.full_result_count = len(rows)
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all = self.multi_page = False
        self.paginator = KeysetPages(
            per_page=size,
            newer_url=self.get_query_string({AFTER: rows[0].pk}) if rows and has_newer else None,
            older_url=self.get_query_string({BEFORE: rows[-1].pk}) if rows and has_older else None,
        )


def _cursor(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        return None
