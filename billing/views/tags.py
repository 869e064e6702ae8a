"""
Tags: /tag/* (contract 5.6).

A tag needs no row: calls may carry any. A row describes one, or gives it a budget. What
each has spent is read from the totals, never from the log.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import QuerySet
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.budgets.status import Spending, prepare_periods, spending_of
from billing.models import HolderType, SpendTotal
from billing.views import examples
from billing.views.budgets import budget_object
from customers.api import Action, Envelope, ManagementView
from customers.api.errors import BadRequest, NotFound
from customers.api.schema import described
from customers.models import Tag
from customers.serializers.tags import TagFields, TagListQuery, TagName, TagNames
from customers.services.tags import create_tag, delete_tag, update_tag

MOST_UNPAGED = 10_000
_SEEN = "Seen on calls; POST /tag/new gives it a description or a budget."


class TagView(ManagementView):
    envelope = Envelope.DETAIL


class NewTag(TagView):
    """Make a tag, with limits of its own or a shared budget."""

    actions = {"POST": Action.WRITE_TAGS}

    @described(
        body=TagFields,
        answer={"message": "Tag engineering was made.", "tag": examples.TAG},
        example={"name": "engineering", "description": "Cost centre 4711", "max_budget": 50},
    )
    def post(self, request: Request) -> Response:
        tag = create_tag(self.body(TagFields))
        return Response(_written(tag, f"Tag {tag.pk} was made."))


class UpdateTag(TagView):
    """Change what is sent of a tag; what is not sent stays."""

    actions = {"POST": Action.WRITE_TAGS}

    @described(
        body=TagFields,
        answer={"message": "Tag engineering was changed.", "tag": examples.TAG},
        example={"name": "engineering", "max_budget": 80},
    )
    def post(self, request: Request) -> Response:
        tag = update_tag(self.body(TagFields))
        return Response(_written(tag, f"Tag {tag.pk} was changed."))


class TagInfo(TagView):
    """Tell what tags are and have spent, by name."""

    actions = {"POST": Action.READ_TAGS}
    reads_by_post = True

    @described(
        body=TagNames,
        answer={"engineering": examples.TAG},
        example={"names": ["engineering"]},
    )
    def post(self, request: Request) -> Response:
        names = list(dict.fromkeys(self.body(TagNames)["names"]))
        tags = {tag.pk: tag for tag in Tag.objects.select_related("budget").filter(pk__in=names)}
        missing = [name for name in names if name not in tags]
        if missing:
            raise NotFound(f"no tags with these names: {', '.join(missing[:20])}", param="names")
        spending = _spending(tags.values(), at=timezone.now())
        return Response({name: tag_object(tags[name], spending[name]) for name in names})


class TagList(TagView):
    """List the stored tags, and below them those that were only seen on calls."""

    actions = {"GET": Action.READ_TAGS}

    @described(query=TagListQuery, answer=[examples.TAG])
    def get(self, request: Request) -> Response:
        query = self.query(TagListQuery)
        stored = Tag.objects.select_related("budget").order_by("pk")
        seen = _seen(query.get("start_date"), query.get("end_date"))
        counts = stored.count(), seen.count()
        start, end, headers = 0, sum(counts), {}
        if {"page", "page_size"} & set(request.query_params):
            size = query["page_size"]
            start, end = (query["page"] - 1) * size, query["page"] * size
            headers = {"x-total-count": str(sum(counts)), "x-total-pages": str(-(-sum(counts) // size))}
        elif end > MOST_UNPAGED:
            raise BadRequest(
                f"There are {end} tags: ask for pages with ?page=1&page_size=1000.", param="page_size"
            )
        tags = list(stored[start:end]) if start < counts[0] else []
        spending = _spending(tags, at=timezone.now())
        rows = [tag_object(tag, spending[tag.pk]) for tag in tags]
        if end > counts[0]:
            totals = seen[max(0, start - counts[0]) : end - counts[0]]
            rows += [seen_tag_object(total) for total in totals]
        return Response(rows, headers=headers)


class DeleteTag(TagView):
    """Forget a tag's description and limits. Calls may go on carrying it; what was spent stays."""

    actions = {"POST": Action.WRITE_TAGS}

    @described(
        body=TagName,
        answer={"message": "Tag engineering was deleted."},
        example={"name": "engineering"},
    )
    def post(self, request: Request) -> Response:
        name = self.body(TagName)["name"]
        delete_tag(name)
        return Response({"message": f"Tag {name} was deleted."})


def _written(tag: Tag, message: str) -> dict[str, Any]:
    prepare_periods(HolderType.TAG, tag.pk, tag.budget)
    return {"message": message, "tag": tag_object(tag, _spending([tag], at=timezone.now())[tag.pk])}


def _spending(tags: Iterable[Tag], *, at: datetime) -> dict[str, Spending]:
    return spending_of(HolderType.TAG, [(tag.pk, tag.budget) for tag in tags], at=at)


def _seen(start: date | None, end: date | None) -> QuerySet[SpendTotal]:
    """Return the totals of tags without a row, last called on these days, both included."""
    totals = SpendTotal.objects.filter(holder_type=HolderType.TAG).exclude(
        holder_id__in=Tag.objects.values("pk")
    )
    if start is not None:
        totals = totals.filter(last_call_at__gte=_midnight(start))
    if end is not None and end < date.max:
        totals = totals.filter(last_call_at__lt=_midnight(end + timedelta(days=1)))
    return totals.order_by("holder_id")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min, tzinfo=UTC)


def tag_object(tag: Tag, spending: Spending) -> dict[str, Any]:
    """Return a stored tag in the contract's shape, with additive fields. Makes no query."""
    table = budget_object(tag.budget) if tag.budget else None
    if table is not None:
        table["budget_reset_at"] = spending.budget_reset_at
    return {
        "name": tag.pk,
        "description": tag.description or None,
        "models": tag.allowed_deployments,
        "model_info": tag.model_info,
        "created_at": tag.created_at,
        "updated_at": tag.updated_at,
        "created_by": tag.created_by or None,
        "budget_id": tag.budget_id,
        "litellm_budget_table": table,
        "spend": spending.spend,
        "budget_reset_at": spending.budget_reset_at,
        "budget_period": spending.period,
        **spending.usage,
        **_calls(spending.total),
    }


def seen_tag_object(total: SpendTotal) -> dict[str, Any]:
    """Return a tag that has no row, in the same shape; `models` null tells it from one that has."""
    return {
        "name": total.holder_id,
        "description": _SEEN,
        "models": None,
        "model_info": None,
        "created_at": None,
        "updated_at": None,
        "created_by": None,
        "budget_id": None,
        "litellm_budget_table": None,
        "spend": total.cost,
        "budget_reset_at": None,
        "budget_period": None,
        "model_max_budget_usage": None,
        "budget_limits_usage": None,
        **_calls(total),
    }


def _calls(total: SpendTotal | None) -> dict[str, Any]:
    return {
        "requests": total.calls if total else 0,
        "failed_requests": total.failed_calls if total else 0,
        "unpriced_requests": total.unpriced_calls if total else 0,
        "total_tokens": total.prompt_tokens + total.completion_tokens if total else 0,
        "last_seen_at": total.last_call_at if total else None,
    }


urlpatterns = [
    path("tag/new", NewTag.as_view()),
    path("tag/update", UpdateTag.as_view()),
    path("tag/info", TagInfo.as_view()),
    path("tag/list", TagList.as_view()),
    path("tag/delete", DeleteTag.as_view()),
]
