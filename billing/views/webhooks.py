"""
Webhook endpoints and their deliveries: /webhook/*, and the test of them, /health/services.

For proxy admins alone. A secret is told by the call that makes it, and never again.
"""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.urls import path
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Delivery, WebhookEndpoint
from billing.models.delivery import Channel, lane_of
from billing.models.event import from_wire_id, wire_id
from billing.sinks.email import EmailSink
from billing.sinks.slack import SlackSink
from billing.webhooks import deliveries
from billing.webhooks.endpoints import (
    Tested,
    create_endpoint,
    delete_endpoint,
    post_test_event,
    rotate_secret,
    send_test_event,
    update_endpoint,
)
from billing.webhooks.wakeups import wake_deliverer
from customers.api import Action, Envelope, ManagementView
from customers.api.errors import ApiError, BadRequest, NotFound
from customers.api.schema import described
from customers.serializers.webhooks import (
    DeliveriesQuery,
    DeliveryId,
    Replay,
    Rotation,
    ServiceQuery,
    WebhookChanges,
    WebhookFields,
    WebhookId,
)

_MOST_TESTED = 20

WEBHOOK = {
    "webhook_id": 3, "name": "billing", "url": "https://billing.example.com/hook", "event_types": [],
    "customer_ids": [], "is_active": True, "disabled_reason": None, "max_concurrency": 16, "source": "staff",
    "previous_secret_until": None, "created_at": "2026-02-03T09:00:00Z", "updated_at": "2026-02-03T09:00:00Z",
}  # fmt: skip
DELIVERY = {
    "delivery_id": 41, "event_id": "evt_019c…", "event": "spend_tracked", "customer_id": "acme-042",
    "channel": "webhook", "webhook_id": 3, "target": None, "state": "delivered", "attempts": 1,
    "created_at": "2026-02-03T09:00:00Z", "next_attempt_at": None, "last_attempt_at": "2026-02-03T09:00:01Z",
    "last_status": 200, "last_answer": "ok", "last_error": None, "delivered_at": "2026-02-03T09:00:01Z",
    "failures": [{"at": "2026-02-03T09:00:00.500+00:00", "status": 500, "error": "", "ms": 12}],
}  # fmt: skip
_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  of the specification's example
_TEST = {
    "status": "success", "message": "…", "results": [
        {"receiver": "webhook 3", "webhook_id": 3, "event_id": "evt_019c…", "ok": True, "http_status": 200,
         "answer": "ok", "error": None}
    ],
}  # fmt: skip


class WebhookView(ManagementView):
    envelope = Envelope.DETAIL


class NewWebhook(WebhookView):
    """Make an endpoint. The answer has its secret, which is told only now."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}

    @described(
        body=WebhookFields,
        answer=WEBHOOK | {"secret": _SECRET},
        example={"url": "https://billing.example.com/hook", "event_types": ["spend_tracked"]},
    )
    def post(self, request: Request) -> Response:
        endpoint, secret = create_endpoint(**self.body(WebhookFields))
        return Response(webhook_object(endpoint) | {"secret": secret})


class UpdateWebhook(WebhookView):
    """Change what is sent of an endpoint; what is not sent stays."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}

    @described(body=WebhookChanges, answer=WEBHOOK, example={"webhook_id": 3, "is_active": False})
    def post(self, request: Request) -> Response:
        fields = self.body(WebhookChanges)
        endpoint = _endpoint(fields.pop("webhook_id"))
        return Response(webhook_object(update_endpoint(endpoint, **fields)))


class WebhookInfo(WebhookView):
    """Tell what an endpoint is, and how posting to it goes."""

    actions = {"GET": Action.MANAGE_WEBHOOKS}

    @described(
        query=WebhookId,
        answer=WEBHOOK | {"health": {"waiting": 0, "oldest_since": None, "failing_since": None,
                                     "paused_until": None, "last_success_at": "2026-02-03T09:00:01Z"}},
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        endpoint = _endpoint(self.query(WebhookId)["webhook_id"])
        health = deliveries.health_of(lane_of(Channel.WEBHOOK, endpoint.pk))
        told = health._asdict()
        told.pop("name")
        return Response(webhook_object(endpoint) | {"health": told})


class WebhookList(WebhookView):
    """List the endpoints."""

    actions = {"GET": Action.MANAGE_WEBHOOKS}

    @described(answer=[WEBHOOK])
    def get(self, request: Request) -> Response:
        return Response([webhook_object(endpoint) for endpoint in WebhookEndpoint.objects.order_by("pk")])


class DeleteWebhook(WebhookView):
    """Delete an endpoint. What it did not get yet is given up."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}

    @described(body=WebhookId, answer={"message": "Webhook 3 was deleted."}, example={"webhook_id": 3})
    def post(self, request: Request) -> Response:
        endpoint_id = self.body(WebhookId)["webhook_id"]
        delete_endpoint(_endpoint(endpoint_id))
        return Response({"message": f"Webhook {endpoint_id} was deleted."})


class RotateSecret(WebhookView):
    """Make a new secret, told only now. Until the overlap is over, posts carry both signatures."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}

    @described(body=Rotation, answer=WEBHOOK | {"secret": _SECRET}, example={"webhook_id": 3})
    def post(self, request: Request) -> Response:
        given = self.body(Rotation)
        endpoint = _endpoint(given["webhook_id"])
        overlap = timedelta(hours=given["overlap_hours"])
        secret = rotate_secret(endpoint, at=timezone.now(), overlap=overlap)
        return Response(webhook_object(endpoint) | {"secret": secret})


class TestWebhook(WebhookView):
    """Post a test event to an endpoint now, and tell what it answered."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}
    reads_by_post = True  # no transaction: nothing may be posted within one
    posts_a_test = True

    @described(body=WebhookId, answer=_TEST, example={"webhook_id": 3})
    def post(self, request: Request) -> Response:
        endpoint = _endpoint(self.body(WebhookId)["webhook_id"])
        return _tested([(_name(endpoint), endpoint, post_test_event(endpoint))])


class HealthServices(WebhookView):
    """Test a service that others are told by: webhook, slack or email. Posts a test now."""

    posts_a_test = True  # what is not configured is 422, as LiteLLM tells it
    actions = {"GET": Action.MANAGE_GATEWAY}

    @described(query=ServiceQuery, answer=_TEST)
    def get(self, request: Request) -> Response:
        service = self.query(ServiceQuery)["service"]
        test = _TESTS.get(service)
        if test is None:
            raise _not_configured(f"There is no service {service!r}: {', '.join(_TESTS)}.")
        return _tested(test())


def _test_webhooks() -> list[tuple[str, WebhookEndpoint | None, Tested]]:
    endpoints = list(WebhookEndpoint.objects.filter(is_active=True).order_by("pk")[:_MOST_TESTED])
    if not endpoints:
        raise _not_configured(
            "No webhook endpoint is active: set WEBHOOK_URL, or make one with POST /webhook/new."
        )
    return [(_name(endpoint), endpoint, post_test_event(endpoint)) for endpoint in endpoints]


def _test_slack() -> list[tuple[str, WebhookEndpoint | None, Tested]]:
    if not settings.SLACK_WEBHOOK_URL:
        raise _not_configured("Slack is not configured: set SLACK_WEBHOOK_URL.")
    return [("Slack", None, send_test_event(SlackSink))]


def _test_email() -> list[tuple[str, WebhookEndpoint | None, Tested]]:
    if not settings.EMAIL_IS_CONFIGURED or not settings.ALERT_EMAILS:
        raise _not_configured("E-mail is not configured: set EMAIL_URL and ALERT_EMAILS.")
    return [
        (address, None, send_test_event(EmailSink, target=address))
        for address in settings.ALERT_EMAILS[:_MOST_TESTED]
    ]


_TESTS = {"webhook": _test_webhooks, "slack": _test_slack, "email": _test_email}


def _not_configured(message: str) -> ApiError:
    return ApiError(message, status=422, type="bad_request", param="service")


def _name(endpoint: WebhookEndpoint) -> str:
    return f"webhook {endpoint.pk}"


def _tested(tests: list[tuple[str, WebhookEndpoint | None, Tested]]) -> Response:
    results = [
        {
            "receiver": name,
            "webhook_id": None if endpoint is None else endpoint.pk,
            "event_id": tested.event.wire_id,
            "ok": tested.outcome.ok,
            "http_status": tested.outcome.status,
            "answer": deliveries.storable(tested.outcome.answer, deliveries.MAX_ANSWER) or None,
            "error": tested.outcome.error or None,
        }
        for name, endpoint, tested in tests
    ]
    failed = [each for each in results if not each["ok"]]
    if not failed:
        message = f"The test event arrived at {', '.join(name for name, _, _ in tests)}."
        return Response({"status": "success", "message": message, "results": results})
    first = failed[0]
    why = first["error"] or f"it answered {first['http_status']}"
    message = f"The test event did not arrive at {first['receiver']}: {why}"
    return Response({"status": "failure", "message": message, "results": results}, status=422)


class Deliveries(WebhookView):
    """The delivery log, the newest first."""

    actions = {"GET": Action.MANAGE_WEBHOOKS}

    @described(query=DeliveriesQuery, answer={"data": [DELIVERY], "next_before": 41})
    def get(self, request: Request) -> Response:
        given = self.query(DeliveriesQuery)
        found = Delivery.objects.select_related("event")
        if "webhook_id" in given:
            found = found.filter(lane=lane_of(Channel.WEBHOOK, given["webhook_id"]))
        if "state" in given:
            found = found.filter(state=given["state"])
        if "event_id" in given:
            found = found.filter(event_id=_event_id(given["event_id"]))
        if "before" in given:
            found = found.filter(pk__lt=given["before"])
        rows = list(found.order_by("-pk")[: given["limit"] + 1])
        page = rows[: given["limit"]]
        return Response(
            {
                "data": [delivery_object(each) for each in page],
                "next_before": page[-1].pk if len(rows) > len(page) else None,
            }
        )


class DeliveryInfo(WebhookView):
    """One delivery, with what is posted."""

    actions = {"GET": Action.MANAGE_WEBHOOKS}

    @described(
        query=DeliveryId, answer=DELIVERY | {"request": {"headers": {"webhook-id": "evt_…"}, "body": {}}}
    )
    def get(self, request: Request) -> Response:
        delivery = (
            Delivery.objects.select_related("event").filter(pk=self.query(DeliveryId)["delivery_id"]).first()
        )
        if delivery is None:
            raise NotFound("There is no such delivery; old ones are pruned.", param="delivery_id")
        return Response(delivery_object(delivery) | {"request": request_object(delivery)})


class ReplayDeliveries(WebhookView):
    """Deliver again: one delivery, or all that were given up."""

    actions = {"POST": Action.MANAGE_WEBHOOKS}

    @described(
        body=Replay,
        answer={"replayed": 12, "has_more": False},
        example={"webhook_id": 3, "since": "2026-02-01T00:00:00Z"},
    )
    def post(self, request: Request) -> Response:
        given = self.body(Replay)
        if "delivery_id" in given:
            found = Delivery.objects.filter(pk=given["delivery_id"])
            if not found.exists():
                raise NotFound("There is no such delivery; old ones are pruned.", param="delivery_id")
        else:
            found = deliveries.failed(endpoint_id=given.get("webhook_id"), since=given.get("since"))
        replayed = deliveries.replay(found, at=timezone.now())
        transaction.on_commit(wake_deliverer)
        return Response({"replayed": replayed, "has_more": replayed >= deliveries.MOST_REPLAYED})


# -- objects ---------------------------------------------------------------------------


def _endpoint(endpoint_id: int) -> WebhookEndpoint:
    endpoint = WebhookEndpoint.objects.filter(pk=endpoint_id).first()
    if endpoint is None:
        raise NotFound(f"There is no webhook {endpoint_id}.", param="webhook_id")
    return endpoint


def _event_id(text: str) -> Any:
    event_id = from_wire_id(text)
    if event_id is None:
        raise BadRequest("An event's id begins with evt_.", param="event_id")
    return event_id


def webhook_object(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """Return an endpoint as the API tells it: without its secrets."""
    return {
        "webhook_id": endpoint.pk,
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "customer_ids": endpoint.customer_ids,
        "is_active": endpoint.is_active,
        "disabled_reason": endpoint.disabled_reason or None,
        "max_concurrency": endpoint.max_concurrency,
        "source": endpoint.source,
        "previous_secret_until": endpoint.previous_secret_until,
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


def delivery_object(delivery: Delivery) -> dict[str, Any]:
    return {
        "delivery_id": delivery.pk,
        "event_id": wire_id(delivery.event_id),
        "event": delivery.event.type,
        "customer_id": delivery.event.customer_id or None,
        "channel": delivery.channel,
        "webhook_id": delivery.endpoint_id,
        "target": delivery.target or None,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "created_at": delivery.event.created_at,
        "next_attempt_at": delivery.next_attempt_at,
        "last_attempt_at": delivery.last_attempt_at,
        "last_status": delivery.last_status,
        "last_answer": delivery.last_answer or None,
        "last_error": delivery.last_error or None,
        "delivered_at": delivery.delivered_at,
        "failures": delivery.failures,
    }


def request_object(delivery: Delivery) -> dict[str, Any]:
    """Return what is posted. The signature is made anew for each attempt, and not kept."""
    sent_at = delivery.last_attempt_at
    return {
        "headers": {
            "content-type": "application/json",
            "webhook-id": delivery.event.wire_id,
            "webhook-timestamp": None if sent_at is None else str(int(sent_at.timestamp())),
        },
        "body": delivery.event.body,
    }


urlpatterns = [
    path("webhook/new", NewWebhook.as_view()),
    path("webhook/update", UpdateWebhook.as_view()),
    path("webhook/info", WebhookInfo.as_view()),
    path("webhook/list", WebhookList.as_view()),
    path("webhook/delete", DeleteWebhook.as_view()),
    path("webhook/rotate_secret", RotateSecret.as_view()),
    path("webhook/test", TestWebhook.as_view()),
    path("webhook/deliveries", Deliveries.as_view()),
    path("webhook/delivery", DeliveryInfo.as_view()),
    path("webhook/replay", ReplayDeliveries.as_view()),
    path("health/services", HealthServices.as_view()),
]
