"""Paging through tables that grow: no page of the admin counts a big one."""

from typing import Any

from django.core.paginator import Page, Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from unfold.views import ChangeList

CAP = 10_000
_NO_FILTER = {"p", "o", "q", "e", "_popup", "_to_field", "term", "app_label", "model_name", "field_name"}


class CappedPaginator(Paginator):
    """Counts to 10,000 and pages no further: beyond, one searches."""

    template_name = "admin/capped_pagination.html"
    is_filtered = True
    object_list: QuerySet

    @cached_property
    def _counted(self) -> int:
        return self.object_list.order_by().values("pk")[: CAP + 1].count()

    @cached_property
    def count(self) -> int:
        return min(self._counted, CAP)

    def page(self, number: Any) -> Page:
        """Return one page, each of its rows read by its id.

        Optimization: what is skipped on the way to a deep page is skipped without its joins and sums.
        """
        number = self.validate_number(number)
        start = (number - 1) * self.per_page
        ids = self.object_list.values("pk")[start : start + self.per_page]
        return Page(self.object_list.filter(pk__in=ids), number, self)

    @property
    def is_capped(self) -> bool:
        return self._counted > CAP

    @cached_property
    def estimate(self) -> int | None:
        """Return PostgreSQL's own estimate of the whole table, where there is one."""
        connection = connections[self.object_list.db]
        if self.is_filtered or not self.is_capped or connection.vendor != "postgresql":
            return None
        with connection.cursor() as cursor:
            table = self.object_list.model._meta.db_table
            cursor.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", [table])
            row = cursor.fetchone()
        return row[0] if row and row[0] > CAP else None


class CappedChangeList(ChangeList):
    """A list that says how many rows there are at the bottom only, where the cap is explained."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count


class CappedAdminMixin:
    """For a model with many rows: put before the admin class."""

    paginator = CappedPaginator
    show_full_result_count = False
    list_max_show_all = 0
    list_disable_select_all = True  # one action over a million rows is one transaction over them

    changelist: type[ChangeList] = CappedChangeList

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return self.changelist

    def get_paginator(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Paginator:
        paginator = super().get_paginator(request, *args, **kwargs)  # type: ignore[misc]
        paginator.is_filtered = bool(request.GET.get("q") or set(request.GET) - _NO_FILTER)
        return paginator
