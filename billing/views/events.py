"""
GET /events: what happened, in order, for receivers that pull or that missed something.

The objects are those that webhooks post, with the same ids. Sequence numbers become
visible in their order, so whoever asks for what comes after the last one it has seen
misses nothing (E2).
"""

from typing import Any

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Event
from customers.api import Action, ManagementView
from customers.api.schema import described
from customers.serializers.webhooks import EventsQuery

EVENT = {
    "spend": 0.001112, "max_budget": None, "soft_budget": None, "token": "88dc28…", "customer_id": "krrish12",
    "user_id": None, "team_id": None, "team_alias": None, "organization_id": None, "user_email": None,
    "key_alias": None, "projected_exceeded_date": None, "projected_spend": None, "event": "spend_tracked",
    "event_group": "customer", "event_message": "Customer spend tracked. Customer=krrish12, spend=0.001112",
    "id": "evt_019c…", "timestamp": "2026-02-03T09:00:00Z", "sequence": 4711, "request_id": "chatcmpl-A1b2C3",
    "total_spend": 0.5,
}  # fmt: skip


class Events(ManagementView):
    """Events after a sequence number, in order."""

    actions = {"GET": Action.READ_ALL_SPEND}

    @described(
        query=EventsQuery,
        answer={"data": [EVENT], "next_after": 4711, "has_more": False, "oldest_sequence": 1},
    )
    def get(self, request: Request) -> Response:
        given = self.query(EventsQuery)
        found = Event.objects.filter(sequence__gt=given["after"])
        for name in ("customer_id", "type"):
            if name in given:
                found = found.filter(**{name: given[name]})
        rows = list(found.order_by("sequence")[: given["limit"] + 1])
        page = rows[: given["limit"]]
        answer: dict[str, Any] = {
            "data": [event.body for event in page],
            "next_after": page[-1].sequence if page else given["after"],
            "has_more": len(rows) > len(page),
            # Above next_after + 1: what lay between was pruned.
            "oldest_sequence": Event.objects.order_by("sequence").values_list("sequence", flat=True).first(),
        }
        return Response(answer)


urlpatterns = [path("events", Events.as_view())]
