"""Pages of a list, as LiteLLM has them: `page` from 1, `page_size` (or `size`)."""

from typing import Any, NamedTuple

from django.db.models import QuerySet
from rest_framework import serializers

from customers.api.fields import Whole

_LAST_PAGE = 1_000_000


class Page(NamedTuple):
    rows: list[Any]
    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.size)


def page_fields(*, size: int, largest: int = 100, name: str = "page_size") -> dict[str, serializers.Field]:
    """Return the query fields of a paged list, for a serializer's class body."""
    return {
        "page": Whole(min_value=1, max_value=_LAST_PAGE, default=1),
        name: Whole(min_value=1, max_value=largest, default=size),
    }


def page_of(queryset: QuerySet, *, number: int, size: int) -> Page:
    """Return one page of an ordered queryset, and how many rows there are in all. Two queries."""
    start = (number - 1) * size
    return Page(list(queryset[start : start + size]), number, size, queryset.count())
