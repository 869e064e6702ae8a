"""
Webhook endpoints: made, changed, tested, switched off; by staff, the API and the environment.

A secret is returned by whoever makes it, and never again.
"""

import base64
import binascii
import logging
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connection, transaction

from billing.models import Channel, Delivery, Event, WebhookEndpoint
from billing.models.delivery import lane_of
from billing.models.webhook_endpoint import OVERLAP, SECRET_PREFIX
from billing.sinks.base import Outcome, Sink
from billing.sinks.webhook import WebhookSink
from billing.webhooks import deliveries
from billing.webhooks.events import NewEvent, Target, forget_receivers, insert_deliveries, write_events

logger = logging.getLogger(__name__)

_NOT_SET = "WEBHOOK_URL is not set any more."
_LEAST_SECRET_BYTES = 16
TEST_TYPE = "budget_crossed"


# -- by staff and the API --------------------------------------------------------------


def create_endpoint(**fields: Any) -> tuple[WebhookEndpoint, str]:
    """Make an endpoint and return it with its secret. Raises: ValidationError."""
    endpoint = WebhookEndpoint(**fields)
    secret = endpoint.make_secret()
    endpoint.full_clean()
    endpoint.save()
    forget_receivers()
    return endpoint, secret


def update_endpoint(endpoint: WebhookEndpoint, **fields: Any) -> WebhookEndpoint:
    """Change what is given. Switching it on again forgets why it was off. Raises: ValidationError."""
    for name, value in fields.items():
        setattr(endpoint, name, value)
    if fields.get("is_active"):
        endpoint.disabled_reason = ""
    endpoint.full_clean()
    endpoint.save()
    forget_receivers()
    return endpoint


def delete_endpoint(endpoint: WebhookEndpoint) -> None:
    """Delete an endpoint. What it had to get stays in the log, as given up, until it is pruned."""
    lane = lane_of(Channel.WEBHOOK, endpoint.pk)
    endpoint.delete()
    forget_receivers()
    Delivery.objects.filter(lane=lane, next_attempt_at__isnull=False).update(
        state=Delivery.State.FAILED, next_attempt_at=None, lease=None, last_error="The endpoint was deleted."
    )


def rotate_secret(endpoint: WebhookEndpoint, *, at: datetime, overlap: timedelta = OVERLAP) -> str:
    """Give an endpoint a new secret and return it; both sign until `overlap` is over."""
    secret = endpoint.rotate_secret(at=at, overlap=overlap)
    endpoint.save()
    return secret


def switch_off(endpoint: WebhookEndpoint, *, reason: str) -> None:
    """Post nothing more there, and say why. What waits is kept until it is too old."""
    with transaction.atomic():
        found = WebhookEndpoint.objects.filter(pk=endpoint.pk, is_active=True).first()
        if found is not None:
            found.is_active, found.disabled_reason = False, reason
            found.save(update_fields=["is_active", "disabled_reason", "updated_at"])
            logger.warning("webhook endpoint %d was switched off: %s", endpoint.pk, reason)
    forget_receivers()


# -- by the environment ----------------------------------------------------------------


def follow_environment() -> None:
    """Make the endpoint that WEBHOOK_URL and WEBHOOK_SECRET describe, or bring it up to date.

    Mostly one query. Staff may switch it off; it stays off until the URL changes.
    """
    url = settings.WEBHOOK_URL if is_webhook_on() else ""
    endpoint = WebhookEndpoint.objects.filter(source=WebhookEndpoint.Source.ENVIRONMENT).first()
    if not url:
        if endpoint is not None and endpoint.is_active:
            switch_off(endpoint, reason=_NOT_SET)
        return
    secret = settings.WEBHOOK_SECRET
    if secret and not is_secret(secret):
        return  # a system check says so
    if endpoint is None:
        endpoint = WebhookEndpoint(name="WEBHOOK_URL", url=url, source=WebhookEndpoint.Source.ENVIRONMENT)
        endpoint.set_secret(secret) if secret else endpoint.make_secret()
        with transaction.atomic():
            if not WebhookEndpoint.objects.filter(source=WebhookEndpoint.Source.ENVIRONMENT).exists():
                endpoint.save()
        forget_receivers()
        return
    _bring_up_to_date(endpoint, url, secret)


def _bring_up_to_date(endpoint: WebhookEndpoint, url: str, secret: str) -> None:
    is_new_secret = bool(secret) and not endpoint.has_secret(secret)
    is_back = endpoint.disabled_reason == _NOT_SET
    if endpoint.url == url and not is_new_secret and not is_back:
        return
    if endpoint.url != url or is_back:
        endpoint.url, endpoint.is_active, endpoint.disabled_reason = url, True, ""
    if is_new_secret:
        endpoint.rotate_secret(at=datetime.now(UTC))
        endpoint.set_secret(secret)
    endpoint.save()
    forget_receivers()


def is_webhook_on() -> bool:
    """Tell whether webhooks are among the channels that `alerting` names; unnamed, all are."""
    alerting = getattr(settings, "ALERTING", ())
    return not alerting or Channel.WEBHOOK.value in alerting


def is_secret(text: str) -> bool:
    """Tell whether `text` is a secret as Standard Webhooks has it: base64, with or without `whsec_`."""
    try:
        raw = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) >= _LEAST_SECRET_BYTES


# -- testing ---------------------------------------------------------------------------


class Tested(NamedTuple):
    event: Event
    outcome: Outcome


def post_test_event(endpoint: WebhookEndpoint) -> Tested:
    """Post a test event to an endpoint; as `send_test_event`."""
    return send_test_event(WebhookSink, endpoint=endpoint)


def send_test_event(
    sink_type: type[Sink], *, endpoint: WebhookEndpoint | None = None, target: str = ""
) -> Tested:
    """Send a test event now, once, and return what came of it. Not in a transaction.

    It is LiteLLM's test event, a budget that was crossed, and is in the log like any other.
    target: an e-mail address.
    """
    channel = sink_type.channel
    endpoint_id = None if endpoint is None else endpoint.pk
    lease = uuid.uuid4()
    at = datetime.now(UTC)
    with transaction.atomic(), connection.cursor() as cursor:
        (event_id,) = write_events(cursor, [_test_event()], at=at)
        to = Target(channel, endpoint_id, lane_of(channel, endpoint_id), target)
        insert_deliveries(cursor, [(event_id.hex, to)], at=at)
        Delivery.objects.filter(event_id=event_id).update(
            state=Delivery.State.LEASED,
            lease=lease,
            next_attempt_at=at + timedelta(seconds=settings.WEBHOOK_TIMEOUT_SECONDS + 30),
        )
    delivery = Delivery.objects.select_related("event").get(event_id=event_id)
    delivery.endpoint = endpoint
    outcome = async_to_sync(_send_once)(sink_type, delivery)
    deliveries.finish([_test_result(delivery, outcome)], lease=lease)
    return Tested(delivery.event, outcome)


async def _send_once(sink_type: type[Sink], delivery: Delivery) -> Outcome:
    sink = sink_type()
    try:
        return await sink.send(delivery, delivery.event)
    finally:
        await sink.close()


def _test_result(delivery: Delivery, outcome: Outcome) -> deliveries.Result:
    at = datetime.now(UTC)
    state = Delivery.State.DELIVERED if outcome.ok else Delivery.State.FAILED
    failure = None
    if not outcome.ok:
        failure = {
            "at": at.isoformat(timespec="milliseconds"),
            "status": outcome.status,
            "error": outcome.error,
        }
    return deliveries.Result(
        delivery.pk, state, at, None, outcome.status, outcome.answer, outcome.error, failure
    )


def _test_event() -> NewEvent:
    body = {
        "spend": Decimal(1),
        "max_budget": Decimal(0),
        "soft_budget": None,
        "token": None,
        "customer_id": None,
        "user_id": None,
        "team_id": None,
        "team_alias": None,
        "organization_id": None,
        "user_email": None,
        "key_alias": None,
        "projected_exceeded_date": None,
        "projected_spend": None,
        "event": TEST_TYPE,
        "event_group": "key",
        "event_message": "This is a test: nothing was spent.",
        "test": True,
    }
    return NewEvent(TEST_TYPE, "key", "", body, webhook=False)
