"""Receivers of webhooks for tests, within the process; and a clock that is moved by hand."""

import json
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import httpx
from django.db import connection, transaction
from django.test import SimpleTestCase
from standardwebhooks import Webhook

from billing.models import WebhookEndpoint
from billing.sinks.webhook import WebhookSink
from billing.webhooks.deliverer import deliver
from billing.webhooks.endpoints import create_endpoint
from billing.webhooks.events import NewEvent, forget_receivers, write_events
from billing.webhooks.spend_events import _names
from tests.billing.making import NOON

Answer = Callable[[httpx.Request], httpx.Response]


class Clock:
    """Told by hand."""

    def __init__(self, at: datetime = NOON) -> None:
        self.now = at

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **span: float) -> None:
        self.now += timedelta(**span)


class Receiver:
    """Takes posts, checks their signatures as receivers do, and answers as it is told."""

    def __init__(self, answer: Answer | int = 200) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    def transport(self, connections: int) -> httpx.AsyncBaseTransport:
        return httpx.MockTransport(self._take)

    async def _take(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        is_status = isinstance(self.answer, int)
        return as_stream(httpx.Response(self.answer) if is_status else self.answer(request))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body_of(request) for request in self.requests]

    @property
    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.requests]

    def verify(self, secret: str, number: int = -1) -> Any:
        """Raises: standardwebhooks.WebhookVerificationError."""
        request = self.requests[number]
        return Webhook(secret).verify(request.content, dict(request.headers))


def as_stream(response: httpx.Response) -> httpx.Response:
    """Return a response that is still to be read, as one from a connection is."""
    return httpx.Response(
        response.status_code, headers=response.headers, stream=httpx.ByteStream(response.content)
    )


def body_of(request: httpx.Request) -> dict[str, Any]:
    return json.loads(request.content, parse_float=Decimal)


def make_endpoint(url: str = "https://receiver.example/hook", **fields: Any) -> tuple[WebhookEndpoint, str]:
    """Return an endpoint and its secret."""
    return create_endpoint(url=url, **fields)


def deliver_to(receiver: Receiver, clock: Clock, *, until: Callable[[], bool] = lambda: False) -> int:
    """Deliver what is due by `clock`, or until then, and return how many attempts that took."""
    return deliver(
        sinks=lambda: {"webhook": WebhookSink(make_transport=receiver.transport, clock=clock)},
        seconds=30,
        linger=0,
        clock=clock,
        should_stop=until,
    )


def posting_to(receiver: Receiver) -> AbstractContextManager:
    """Return what makes every post go to `receiver`."""

    def make_transport(*, max_connections: int) -> httpx.AsyncBaseTransport:
        return receiver.transport(max_connections)

    return mock.patch("billing.sinks.webhook.GuardedTransport", make_transport)


# -- the outbox --------------------------------------------------------------------------


def forget_what_is_cached(case: SimpleTestCase) -> None:
    """Have endpoints and names read anew: those of the test before are gone."""
    forget_receivers()
    _names._read_at = float("-inf")
    case.addCleanup(forget_receivers)


def write(*events: NewEvent, at: datetime = NOON) -> list[uuid.UUID]:
    """Write events in a transaction of their own, and return their ids."""
    with transaction.atomic(), connection.cursor() as cursor:
        return write_events(cursor, events, at=at)


def an_event(**fields: Any) -> NewEvent:
    given = {"type": "budget_crossed", "group": "customer", "customer_id": "acme", "body": {}, **fields}
    return NewEvent(**given)
