"""
The webhook sink: posts an event to an endpoint, signed as Standard Webhooks has it.

    webhook-id: evt_…            the event's id, the same at every attempt
    webhook-timestamp: 1770109424
    webhook-signature: v1,…      one for each secret in force, separated by spaces

The body is the event's text, byte for byte. An answer of 2xx is a success, 410 says that
nobody listens there any more, all else is tried again. Redirects are not followed.

Source: the Standard Webhooks specification, standardwebhooks.com, version 1; signed by
its own library.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from django.conf import settings
from standardwebhooks import Webhook

from billing.models import Channel, Delivery, Event, WebhookEndpoint
from billing.sinks.base import Outcome
from billing.webhooks.egress import GuardedTransport, RefusedAddress
from customers.sealing import CannotUnseal
from spendproject import __version__

_MAX_READ = 8192  # bytes of an answer that are read; what is longer costs its connection
GONE = 410
_USER_AGENT = f"spend-gateway/{__version__}"
MakeTransport = Callable[[int], httpx.AsyncBaseTransport]  # given: how many connections at most


class WebhookSink:
    """Posts to the endpoints it was given; one pool of connections for each."""

    channel = Channel.WEBHOOK.value

    def __init__(
        self,
        *,
        make_transport: MakeTransport = lambda connections: GuardedTransport(max_connections=connections),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._make_transport = make_transport
        self._clock = clock
        self._posts: dict[int, _Post] = {}
        self._replaced: list[_Post] = []  # of endpoints that were edited; may have posts under way

    async def send(self, delivery: Delivery, event: Event) -> Outcome:
        """Post once. Needs `delivery.endpoint`, loaded."""
        endpoint = delivery.endpoint
        assert endpoint is not None
        post = self._posts.get(endpoint.pk)
        if post is None or post.updated_at != endpoint.updated_at:
            if post is not None:
                self._replaced.append(post)
            post = self._posts[endpoint.pk] = _Post(
                endpoint, self._make_transport(endpoint.max_concurrency), at=self._clock()
            )
        return await post.send(event, at=self._clock())

    async def close(self) -> None:
        for post in (*self._posts.values(), *self._replaced):
            await post.transport.aclose()
        self._posts.clear()


class _Post:
    """One endpoint, ready to be posted to."""

    def __init__(
        self, endpoint: WebhookEndpoint, transport: httpx.AsyncBaseTransport, *, at: datetime
    ) -> None:
        self.transport = transport
        self.updated_at = endpoint.updated_at
        self._endpoint = endpoint
        self._url = httpx.URL(endpoint.url)
        self._timeout_s = settings.WEBHOOK_TIMEOUT_SECONDS
        self._signers: list[Webhook] = []
        self._signers_until: datetime | None = at  # when a secret runs out; `at`: not made yet

    async def send(self, event: Event, *, at: datetime) -> Outcome:
        try:
            request = self._request(event, at)
        except CannotUnseal:
            return Outcome(False, error="The secret cannot be read: was SECRET_KEY changed? Rotate it.")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._attempt(request)
        except RefusedAddress as error:
            return Outcome(False, error=str(error))
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(False, error=f"No answer within {self._timeout_s:g} s.")
        except (httpx.HTTPError, OSError) as error:
            return Outcome(False, error=f"{_problem(error)}: {error}"[:500])

    def _request(self, event: Event, at: datetime) -> httpx.Request:
        if self._signers_until is not None and at >= self._signers_until:
            secrets = self._endpoint.signing_secrets(at=at)
            self._signers = [Webhook(secret) for secret in secrets]
            self._signers_until = self._endpoint.previous_secret_until if len(secrets) > 1 else None
        signatures = " ".join(
            signer.sign(msg_id=event.wire_id, timestamp=at, data=event.text) for signer in self._signers
        )
        return httpx.Request(
            "POST",
            self._url,
            headers={
                "content-type": "application/json",
                "user-agent": _USER_AGENT,
                "accept-encoding": "identity",
                "webhook-id": event.wire_id,
                "webhook-timestamp": str(int(at.timestamp())),
                "webhook-signature": signatures,
            },
            content=event.text.encode(),
            extensions={
                "timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_s),
            },
        )

    async def _attempt(self, request: httpx.Request) -> Outcome:
        response = await self.transport.handle_async_request(request)
        try:
            answer = await _beginning(response)
        finally:
            await response.aclose()
        status = response.status_code
        if 200 <= status < 300:
            return Outcome(True, status, answer)
        error = _WORDS.get(status, "")
        if 300 <= status < 400:
            error = f"Redirects are not followed (to {response.headers.get('location', 'nowhere')[:200]})."
        return Outcome(
            False, status, answer,
            retry_after=_retry_after(response.headers.get("retry-after")),
            permanent=status == GONE,
            error=error,
        )  # fmt: skip


_WORDS = {GONE: "Gone: the receiver does not want events any more. The endpoint was switched off."}


async def _beginning(response: httpx.Response) -> str:
    """Read an answer as far as it is kept; undecoded, so that nothing small becomes big."""
    read = b""
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) > _MAX_READ:
            break
    return read[:_MAX_READ].decode("utf-8", "replace")


def _retry_after(said: str | None) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date; None where it says neither."""
    if not said:
        return None
    if said.strip().isdigit():
        return float(said.strip()[:9])
    try:
        at = parsedate_to_datetime(said)
    except (ValueError, TypeError):
        return None
    return max(0.0, at.timestamp() - time.time())


def _problem(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "No connection"
    return "The connection broke"
