"""
The call task: one proxied call from its first record to its last.

    rate limits → kept answer? → holds → opened → sent → answer → usage → price → closed

It is a task of its own, held by the gateway's registry: whatever happens to the
client's request, the call is read to its end (or to the end of the grace) and
settled. The view takes the head from `Call.head` and a stream's bytes from its
`Channel`, and may be cancelled anywhere (C1).

A call is tried on the next deployment only where the first attempt is provably
unbilled: no connection was made, or the provider refused with 429 or 5xx before
any answer. Never after a read timeout.
"""

import asyncio
import logging
import time
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import msgspec

from billing.booking.journal import JournalFull
from billing.booking.records import Closed, Opened, Sent
from billing.budgets import holds
from billing.budgets.hold_desk import HoldsAway
from billing.budgets.holds import Granted, Refused
from billing.prices.pricing import ResolvedPrice, cost_of
from billing.prices.rate_cards import Card, charge_nano
from billing.prices.terms import billed_units, with_search_size
from billing.usage import NO_USAGE, Units, Usage
from customers.money import NANO_PER_USD, from_nano
from customers.text import clean_line
from proxy import budgets
from proxy.catalog import Target
from proxy.channel import Channel
from proxy.dialects.base import Answer, Ask, Dialect, Meter, UnreadableAnswer
from proxy.errors import (
    DatabaseAway,
    GatewayError,
    JournalAway,
    OverBudget,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from proxy.headers import (
    VERSION_HEADER,
    Headers,
    UpstreamHeaders,
    for_upstream,
    from_upstream,
    safe,
    value_of,
)
from proxy.rate_limits.limiter import NOTHING_TAKEN
from proxy.relay import BodyReader, StreamRelay
from proxy.response_cache import Copy, Kept, Place, ResponseCache, is_answer
from proxy.tiers import UNLIMITED, CallLimits
from proxy.transport import raw_headers_of

if TYPE_CHECKING:
    from proxy.gateway import Gateway

logger = logging.getLogger(__name__)

MAX_METERED_BYTES = 64 * 1024 * 1024  # of one plain answer; beyond it usage is estimated
_ERROR_BYTES = 1024 * 1024
# Between looks at a budget that only holds fill. A booking takes a tenth of a second, on a busy
# machine several: who is refused at last has waited, who is let in was not refused for nothing.
_LOOK_SECONDS = (0.1, 0.1, 0.2, 0.3, 0.3)
_MAX_REMEMBERED = 1000
_UNBOUNDED = 1 << 62  # tokens
_FREE = frozenset(("none", "cache"))  # usage sources
_JSON = b"application/json"
_IDENTITY = (b"accept-encoding", b"identity")


class Head(NamedTuple):
    """What the view answers with: a whole body, or a channel of chunks."""

    status: int
    headers: Headers
    body: bytes = b""
    channel: Channel | None = None


class _Outcome(NamedTuple):
    """How a call ended, before it is priced."""

    status: str
    http_status: int
    usage: Usage = NO_USAGE
    usage_source: str = "none"
    response_id: str = ""
    service_tier: str = ""
    error_type: str = ""
    error_message: str = ""
    units: Units | None = None


class Call:
    """One call on its way. Made by `Gateway.start_call`, which runs it as a task."""

    # Optimization: what a call starts with is on the class; setting it each time takes 2 µs.
    task: asyncio.Task | None = None
    _can_be_cancelled = False  # a task that has not begun would never run, one that is ending is settled
    _is_opened = False
    _is_sent = False
    _is_closed = False
    _cut_reason = ""
    _client_left = False
    _target: Target | None = None
    _upstream_model = ""
    _price: ResolvedPrice | None = None
    _response: httpx.Response | None = None
    _body: BodyReader | None = None
    _relay: StreamRelay | None = None
    _channel: Channel | None = None
    _first_token_us: int | None = None
    _taken = NOTHING_TAKEN
    _granted: Granted | None = None
    _expectation: tuple[Target, Sent] | None = None
    _place: Place | None = None  # where its answer is to be kept
    _card: Card | None = None  # the customer's rate card when the call began
    _output_limit: int | None = None  # set by a strict budget where the call sets none

    def __init__(
        self,
        gateway: "Gateway",
        dialect: Dialect,
        ask: Ask,
        opened: Opened,
        call_id: str,
        targets: tuple[Target, ...],
        limits: CallLimits,
        caller_headers: Headers,
        query: str,
    ) -> None:
        self.head: asyncio.Future[Head] = gateway.loop.create_future()
        self.ends_at = time.monotonic() + gateway.limits.call_s
        self._gateway = gateway
        self._dialect = dialect
        self._ask = ask
        self._opened = opened
        self._call_id = call_id
        self._targets = targets
        self._limits = limits
        self._caller_headers = caller_headers
        self._query = query
        self._attempts: list[dict[str, Any]] = []
        if gateway.callers.rate_cards and opened.customer_id is not None:
            self._card = gateway.callers.card_of(opened.customer_id)

    # -- from outside --------------------------------------------------------------

    def client_left(self) -> None:
        """The client hung up, or stopped reading: go on for the grace, to get the provider's own usage."""
        # Of a call that is booked nothing is left to do; a timer would only keep it in memory.
        if not self._client_left and not self._is_closed:
            self._client_left = True
            grace = self._gateway.limits.disconnect_grace_s
            self._gateway.loop.call_later(grace, self.cut, "client_disconnect")

    def cut(self, reason: str) -> None:
        """Stop the call now; it settles with what was seen."""
        if self.task is not None and not self.task.done() and not self._cut_reason:
            self._cut_reason = reason
            if self._can_be_cancelled:
                self.task.cancel()

    # -- the task ------------------------------------------------------------------

    async def run(self) -> None:
        """Do the whole call. Never raises; the client gets an error in its dialect instead."""
        self._can_be_cancelled = True
        try:
            if self._cut_reason:
                raise asyncio.CancelledError
            if self._limits is not UNLIMITED:
                await self._fit_under_rate_limits()
            cache = self._gateway.response_cache
            # Before anything is held: what is free is not refused for lack of budget (H9).
            if cache is None or not await self._answer_from(cache):
                if self._limits is not UNLIMITED:
                    await self._fit_under_budgets()
                await self._answer()
        except GatewayError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            self._settle_cut()
        except Exception:
            logger.exception("call %s failed inside the gateway", self._call_id)
            self._refuse(GatewayError("The gateway failed on this call; its log names the call's id."))
        finally:
            self._can_be_cancelled = False
            self._taken.undo()  # what a call took that never got as far as to be closed
            if self._channel is not None:
                self._channel.end()
            try:
                await self._close_response()
            finally:
                self._gateway.calls.discard(self)
                # Optimization: what refers back to the call would keep all of it until the garbage
                # collector comes round; it would then stop the process for tens of milliseconds.
                self._body = self._relay = self._channel = None

    # -- limits ----------------------------------------------------------------------

    async def _fit_under_rate_limits(self) -> None:
        """Take what rate limits ask for. Raises: RateLimited."""
        gateway, limits = self._gateway, self._limits
        if limits.rules:
            expected = self._expected(self._targets[0])
            self._taken = await gateway.rate_limiter.take(
                self._opened.call_id,
                limits.rules,
                input_tokens=expected.estimated_input,
                output_tokens=expected.estimated_output,
            )

    async def _fit_under_budgets(self) -> None:
        """Hold what the call may cost. Raises: OverBudget, DatabaseAway."""
        gateway, limits = self._gateway, self._limits
        if limits.claims:
            amount = budgets.amount_of(
                gateway,
                self._dialect,
                self._ask,
                self._targets,
                limits,
                at_s=self._started_s,
                card=self._card,
            )
            if amount is not None:
                await self._hold(amount)

    async def _hold(self, amount: budgets.Amount) -> None:
        """Have the amount held. Raises: BudgetExceeded, DatabaseAway."""
        opened, limits = self._opened, self._limits
        ask = holds.Ask(
            opened.call_id,
            opened.started_us,
            self._gateway.journal.id,
            limits.claims,
            min(amount.nano, holds.MOST_NANO),
            holds.Attribution.of(opened, self._expected(self._targets[0])),
            min(amount.token_nano, holds.MOST_NANO),
            amount.least_tokens,
            amount.most_tokens,
        )
        decision = await self._decision(ask)
        if isinstance(decision, Refused):
            raise budgets.refusal(decision, limits, status=self._gateway.limits.budget_status)
        self._granted = decision
        if decision is not None and amount.most_tokens:
            self._output_limit = decision.units
            self._expectation = None  # the answer is shorter than was expected

    async def _decision(self, ask: holds.Ask) -> Granted | Refused | None:
        """Ask for holds; None: the database is away and the setting says to go on without.

        Where nothing but holds is in the way, those of calls that have just ended may be
        about to be settled: look again before a call is refused that fits.
        """
        try:
            decision = await self._gateway.hold_desk.admit(ask)
            for pause_s in _LOOK_SECONDS:
                if isinstance(decision, Granted) or not budgets.only_holds_are_in_the_way(decision):
                    break
                await asyncio.sleep(pause_s)
                decision = await self._gateway.hold_desk.admit(ask)
            return decision
        except HoldsAway as error:
            if self._gateway.limits.budgets_open_when_away:
                return None
            raise DatabaseAway(
                "The gateway's database cannot be reached, so budgets cannot be checked; try again later."
            ) from error

    # -- the response cache --------------------------------------------------------------

    async def _answer_from(self, cache: ResponseCache) -> bool:
        """Answer with what an identical call got, for nothing. Returns: whether there was such an answer."""
        place = cache.place_of(
            self._dialect, self._ask, self._opened, self._targets, self._caller_headers, self._query
        )
        if place is None or self._gateway.waits_for_disk:  # where no row can be written, nothing is answered
            return False
        kept = await cache.find(place) if place.is_read else None
        if kept is None:
            self._place = place if place.is_kept else None
            return False
        body = kept.body
        if self._ask.streamed and self._gateway.limits.cost_in_stream:
            body = _at_no_cost(self._dialect, body)
        came_from = {"key": place.key, "call_id": kept.call_id}
        self._opened.metadata = {**self._opened.metadata, "cache_hit": came_from}
        response_id = f"{kept.response_id or kept.call_id}_cache_hit{time.time():.6f}"
        closed = self._close(_Outcome("success", 200, NO_USAGE, "cache", response_id))
        await self._synced()
        headers = self._headers(kept.kind, None, closed)
        headers += ((b"x-litellm-cache-hit", b"true"), (b"x-litellm-cache-key", place.key.encode()))
        self._send_head(Head(200, headers, body))
        return True

    def _keep(self, outcome: _Outcome, kind: bytes, body: bytes | None) -> None:
        """Have identical calls answered with this answer, if the provider says that it is whole."""
        cache, place, response = self._gateway.response_cache, self._place, self._response
        if cache is None or place is None or body is None:
            return
        # A strict budget that was nearly spent may have cut the answer short.
        is_as_asked = self._output_limit is None and response is not None and response.status_code == 200
        if is_as_asked and outcome.status == "success" and outcome.usage_source == "provider":
            cache.keep(place, Kept(time.time(), self._call_id, outcome.response_id, kind, body))

    # -- the attempts ------------------------------------------------------------------

    async def _answer(self) -> None:
        targets = self._gateway.router.order(self._targets)
        for position, target in enumerate(targets):
            is_last = position == len(targets) - 1
            try:
                response = await self._send(target)
            except httpx.TransportError as error:
                failure = self._failed_attempt(target, error)
                if is_last or not _is_unbilled(error):
                    raise failure from error
                continue
            if _may_pass_on(response.status_code) and not is_last:
                self._note_attempt(target, status=response.status_code)
                self._gateway.router.failed(target)
                await self._close_response()
                continue
            if self._attempts:
                self._note_attempt(target, status=response.status_code)
            await self._take(target, response)
            return

    async def _send(self, target: Target) -> httpx.Response:
        """Send the call to one target and return the response's head."""
        gateway, ask, dialect = self._gateway, self._ask, self._dialect
        self._target = target
        self._upstream_model = target.upstream_model or ask.model
        self._price = gateway.catalog.price_of(target, self._upstream_model, at_s=self._started_s)
        body = dialect.edited(
            ask.body,
            model=None if self._upstream_model == ask.body_model else self._upstream_model,
            include_usage=ask.adds_usage,
            said=ask.said,
            output_limit=None
            if self._output_limit is None
            else (dialect.output_limit_field(target), self._output_limit),
        )
        headers = self._request_headers(target)
        url, url_text = target.url(dialect.base_url(target), dialect.UPSTREAM_PATH, self._query)
        request = httpx.Request(
            "POST",
            url,
            headers=headers.parsed,
            stream=httpx.ByteStream(body),
            extensions={
                "body": body,
                "url_text": url_text,
                "header_block": headers.block,
                "before_send": partial(self._journal_sent, target),
            },
        )
        response = await gateway.transport(target).handle_async_request(request)
        self._response = response  # first: what cannot be read must be closed all the same
        self._body = BodyReader(response)
        return response

    def _request_headers(self, target: Target) -> UpstreamHeaders:
        """Return what goes upstream. Optimization: a program sends the same headers with all its calls."""
        passed_on = tuple(for_upstream(self._caller_headers))
        key = (self._dialect.NAME, passed_on)
        headers = target.request_headers.get(key)
        if headers is None:
            credential = self._dialect.credential_headers(target)
            headers = UpstreamHeaders.of([*passed_on, *credential, *target.headers, _IDENTITY])
            if len(target.request_headers) > _MAX_REMEMBERED:
                target.request_headers.clear()
            target.request_headers[key] = headers
        return headers

    async def _take(self, target: Target, response: httpx.Response) -> None:
        """Relay and settle an answer whose head is there."""
        kind = value_of(b"content-type", raw_headers_of(response))
        if not response.is_success:
            if response.status_code >= 500 or response.status_code == 429:
                self._gateway.router.failed(target)
            await self._take_error(target, response, kind)
            return
        self._gateway.router.succeeded(target)
        if kind.startswith(b"text/event-stream"):
            await self._take_stream(target, response, kind)
        else:
            await self._take_plain(target, response, kind)

    # -- a plain answer ------------------------------------------------------------

    async def _take_plain(self, target: Target, response: httpx.Response, kind: bytes) -> None:
        data, is_whole = await self._read(response, self._gateway.limits.plain_answer_bytes)
        if not is_whole:
            await self._take_large(response, kind, data)
            return
        try:
            answer = self._dialect.read_answer(data)
        except UnreadableAnswer:
            raise UpstreamFailed(
                f"Upstream {target.upstream!r} answered 200 with {_described(data, kind)} instead of JSON."
            ) from None
        usage, source = answer.usage, "provider"
        if usage is None:
            usage, source = self._estimate_whole(len(data)), "estimated"
        outcome = _Outcome(
            "success", 200, usage, source, answer.response_id, answer.service_tier, units=answer.units
        )
        closed = self._close(outcome)
        if self._place is not None and not self._ask.streamed and b"json" in kind and is_answer(data):
            self._keep(outcome, kind, data)
        await self._synced()
        self._send_head(Head(200, self._headers(kind, response, closed), data))

    async def _take_large(self, response: httpx.Response, kind: bytes, data: bytes) -> None:
        """Pass on an answer above the buffer as it comes, without a cost header (C3)."""
        body = self._body_reader()
        channel = self._open_channel(response, kind)
        channel.put(data)
        metered = [data]
        size = len(data)
        failure: UpstreamFailed | None = None
        try:
            while (chunk := await body.read_chunk()) is not None:
                size += len(chunk)
                if size <= MAX_METERED_BYTES:
                    metered.append(chunk)
                channel.put(chunk)
                if channel.is_full:
                    await channel.wait_for_room(self._gateway.limits.stalled_client_s)
        except httpx.TransportError as error:
            failure = self._failed_attempt(self._target, error)
        try:
            answer = self._dialect.read_answer(b"".join(metered))
        except UnreadableAnswer:
            answer = Answer(None)
        usage, source = answer.usage, "provider"
        if usage is None:
            usage, source = self._estimate_whole(size), "estimated"
        outcome = _Outcome(
            "success", 200, usage, source, answer.response_id, answer.service_tier, units=answer.units
        )
        if failure is not None:
            outcome = outcome._replace(
                status="failure", error_type=failure.type, error_message=failure.message
            )
        self._close(outcome)
        if failure is not None:
            channel.break_off()
        channel.end()

    async def _read(self, response: httpx.Response, limit: int) -> tuple[bytes, bool]:
        """Return (up to a little more than `limit` bytes of the body, whether that is all)."""
        try:
            return await self._body_reader().read(limit)
        except httpx.TransportError as error:
            raise self._failed_attempt(self._target, error) from error

    def _body_reader(self) -> BodyReader:
        assert self._body is not None  # there is a response
        return self._body

    # -- a streamed answer -----------------------------------------------------------

    async def _take_stream(self, target: Target, response: httpx.Response, kind: bytes) -> None:
        relay = self._relay = StreamRelay(
            self._dialect.Meter(),
            hides_usage=self._ask.adds_usage,
            cost_of=self._cost_of if self._gateway.limits.cost_in_stream else None,
        )
        body = self._body_reader()
        channel = self._open_channel(response, kind)
        meter = relay.meter
        copy = self._new_copy()
        failure: GatewayError | None = None

        def forward(chunk: bytes) -> bool:
            forwarded = relay.feed(chunk)
            if copy is not None:
                copy.add(forwarded)
            if self._first_token_us is None and meter.deltas:
                self._first_token_us = time.time_ns() // 1000 - self._opened.started_us
            channel.put(forwarded)
            return not channel.is_full

        try:
            while not await body.pour(forward):
                await channel.wait_for_room(self._gateway.limits.stalled_client_s)
            rest = relay.finish()
            if not meter.is_complete and meter.usage is None:
                failure = UpstreamFailed(f"Upstream {target.upstream!r} ended the stream before its end.")
            else:
                channel.put(rest)
        except httpx.TransportError as error:
            failure = self._failed_attempt(target, error)
        if failure is not None:
            self._put_error(failure)
        outcome = self._stream_outcome(meter, failure)
        self._close(outcome)
        # One that ended inside an event is not kept: its end would be made up.
        if copy is not None and failure is None and meter.is_complete and not rest:
            self._keep(outcome, kind, copy.whole())
        await self._synced()
        channel.end()

    def _new_copy(self) -> Copy | None:
        """Return what a stream is put by in, where it may be kept."""
        cache = self._gateway.response_cache
        if cache is None or self._place is None or not self._ask.streamed:
            return None
        return Copy(cache.max_bytes)

    def _stream_outcome(self, meter: Meter, failure: GatewayError | None) -> _Outcome:
        usage, source = meter.usage, "provider"
        if usage is None:
            usage, source = self._estimate_partial(meter), "estimated" if meter.is_complete else "partial"
        has_failed = failure is not None or meter.failed
        return _Outcome(
            "failure" if has_failed else "success",
            200,
            usage,
            source,
            meter.response_id,
            meter.service_tier,
            "" if not has_failed else failure.type if failure else "upstream_error",
            ""
            if not has_failed
            else failure.message
            if failure
            else "The provider reported an error in the stream.",
            meter.units,
        )

    def _open_channel(self, response: httpx.Response, kind: bytes) -> Channel:
        channel = self._channel = Channel(self._gateway.limits.stream_buffer_bytes, on_gone=self.client_left)
        if self.head.cancelled():  # the client left before the first byte
            channel.client_left()
        self._send_head(Head(200, self._headers(kind, response, None), channel=channel))
        return channel

    # -- errors ----------------------------------------------------------------------

    async def _take_error(self, target: Target, response: httpx.Response, kind: bytes) -> None:
        """Pass a provider's error on with its status; put what is no JSON into our own words."""
        status = response.status_code
        data, _ = await self._read(response, _ERROR_BYTES)
        message, error_type = _error_in(data)
        if status in (401, 407):
            failure = UpstreamFailed(
                f"Upstream {target.upstream!r} refused the gateway's credential ({status})."
            )
            failure.status = status  # type: ignore[assignment]
            raise failure
        if message is None or status < 400:
            failure = UpstreamFailed(
                f"Upstream {target.upstream!r} answered {status} with {_described(data, kind)}."
            )
            if status >= 400:
                failure.status = status  # type: ignore[assignment]
            raise failure
        if target.credential:
            data = data.replace(target.credential.encode("latin-1", "ignore"), b"***")
            message = message.replace(target.credential, "***")
        closed = self._close(
            _Outcome("failure", status, error_type=error_type or "upstream_error", error_message=message)
        )
        self._send_head(Head(status, self._headers(kind, response, closed), data))

    def _failed_attempt(self, target: Target | None, error: httpx.TransportError) -> UpstreamFailed:
        """Note a transport failure and return what the caller is told."""
        assert target is not None
        self._gateway.router.failed(target)
        if self._response is not None and self._attempts and "status" in self._attempts[-1]:
            self._attempts[-1]["error"] = type(error).__name__
        else:
            self._note_attempt(target, error=type(error).__name__)
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError | httpx.PoolTimeout):
            return UpstreamFailed(f"Upstream {target.upstream!r} cannot be reached.")
        if isinstance(error, httpx.TimeoutException):
            return UpstreamTimeout(
                f"Upstream {target.upstream!r} sent nothing for {target.read_timeout_s:g} seconds."
            )
        return UpstreamFailed(f"Upstream {target.upstream!r} broke the connection off.")

    def _refuse(self, error: GatewayError) -> None:
        """Answer with an error of ours, and book the call as failed or refused, for nothing."""
        closed = None
        if error.refusal is not None:
            self._opened.metadata = {**self._opened.metadata, "refusal": error.refusal}
        if not self._is_closed:
            outcome = _Outcome(
                "refused" if isinstance(error, RateLimited | OverBudget) else "failure",
                int(error.status),
                error_type=error.type,
                error_message=error.message,
            )
            try:
                closed = self._close(outcome)
            except Exception:
                # Its client gets an answer, and nobody waits for what it holds, whatever is wrong with it.
                logger.exception("call %s cannot be recorded", self._call_id)
                if not self._is_sent:
                    self._gateway.hold_desk.give_back(self._opened.call_id)
        if self._channel is not None:
            self._put_error(error)
            return
        body = self._dialect.error_body(error, self._call_id)
        headers = self._headers(_JSON, self._response, closed)
        headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
        self._send_head(Head(int(error.status), headers, body))

    def _put_error(self, error: GatewayError) -> None:
        """Tell the client of an error after the answer has begun: by an event, or by cutting it off."""
        if self._channel is None:
            return
        if self._relay is None:
            self._channel.break_off()
        else:
            error_event = self._dialect.stream_error(error, self._call_id)
            self._channel.put(self._relay.end_half_event() + error_event)

    def _settle_cut(self) -> None:
        """End a call that was cut off: at the end of the grace, of the time allowed, or at shutdown."""
        message = _CUT_MESSAGES.get(self._cut_reason, "The call was cut off.")
        error = Unavailable(message)
        error.type = self._cut_reason or "cancelled"
        refusal = Head(503, [(b"content-type", _JSON)], self._dialect.error_body(error, self._call_id))
        if self._is_closed:
            self._send_head(refusal)  # it waited for the disk: the client still waits for an answer
            return
        if self._relay is not None:
            meter = self._relay.meter
            outcome = self._stream_outcome(meter, error)
            self._put_error(error)
        elif self._is_sent:
            # The provider is at work and will bill something: what was expected of the call.
            self._put_error(error)
            input_tokens, output_tokens = self._estimate_before(self._upstream_model)
            usage = Usage(input_uncached=input_tokens, output_text=output_tokens)
            outcome = _Outcome("interrupted", 503, usage, "estimated")
            outcome = outcome._replace(error_type=error.type, error_message=message)
        else:
            outcome = _Outcome("not_sent", 503, error_type=error.type, error_message=message)
        if self._cut_reason == "client_disconnect":
            outcome = outcome._replace(http_status=499)
        self._close(outcome)
        self._send_head(refusal)

    # -- records -----------------------------------------------------------------------

    def _journal_sent(self, target: Target) -> None:
        """Write down that the call is about to be sent; if that cannot be written, it is not sent."""
        if not self._dialect.BILLABLE:
            return
        sent = self._expected(target)
        try:
            if self._is_opened:
                self._gateway.journal.append(sent)
            else:
                # One write for both: nothing is awaited between them.
                self._gateway.journal.append(self._opened, sent)
                self._is_opened = True
        except JournalFull as error:
            logger.critical("the journal cannot be written: %s", error)
            raise JournalAway(
                "The gateway cannot record calls right now (disk full?), so it takes none."
            ) from error
        self._is_sent = True

    def _expected(self, target: Target) -> Sent:
        """Return what the call will probably use and cost at `target`."""
        known = self._expectation
        if known is not None and known[0] is target:
            return known[1]
        model = target.upstream_model or self._ask.model
        price = self._gateway.catalog.price_of(target, model, at_s=self._started_s)
        input_tokens, output_tokens = self._estimate_before(model)
        tier = self._ask.service_tier
        estimate_nano = price.estimate_nano(input_tokens, output_tokens, tier) if price else None
        estimate_charge_nano, units = None, None
        if self._card is not None:
            own = self._own_price(target)
            units = self._card.noted(None, own)
            usage = Usage(input_uncached=input_tokens, output_text=output_tokens)
            estimate_charge_nano = charge_nano(estimate_nano, own, usage, units, tier)
        expected = Sent(
            self._opened.call_id,
            target.deployment_id,
            target.upstream,
            target.provider,
            clean_line(model),
            price.price_id if price else None,
            input_tokens,
            output_tokens,
            estimate_nano,
            estimate_charge_nano,
            units,
        )
        self._expectation = (target, expected)
        return expected

    @property
    def _started_s(self) -> float:
        return self._opened.started_us / 1_000_000

    @property
    def _max_output_tokens(self) -> int | None:
        return self._ask.max_output_tokens or self._output_limit

    def _close(self, outcome: _Outcome) -> Closed:
        """Price the outcome and write the last record. What fails here is written as soon as it can be."""
        self._is_closed = True
        target, price, usage = self._target, self._price, outcome.usage
        service_tier = outcome.service_tier or (self._ask.service_tier if target else "")
        if outcome.usage_source in _FREE:
            cost_nano: int | None = 0
            units = None
        else:
            units = self._billed_units(usage, outcome.units)
            cost_nano = cost_of(price, usage, units, service_tier)
        closed = Closed(
            self._opened.call_id,
            time.time_ns() // 1000,
            outcome.status,
            outcome.http_status,
            clean_line(outcome.error_type, 60),
            clean_line(outcome.error_message, 500),
            outcome.usage_source,
            usage,
            price.price_id if price else None,
            cost_nano,
            charge_nano(cost_nano, self._own_price(target), usage, units, service_tier),
            target.deployment_id if target else None,
            target.upstream if target else "",
            target.provider if target else "",
            clean_line(self._upstream_model),
            clean_line(outcome.response_id),
            clean_line(service_tier, 30),
            self._first_token_us,
            self._attempts,
            self._client_left or self.head.cancelled(),
            units=units,
        )
        if not self._dialect.BILLABLE:
            return closed
        if self._is_sent or outcome.usage_source == "cache":
            self._taken.settle(usage)
        else:
            self._taken.undo()
        if outcome.usage_source == "provider" and outcome.status == "success":
            self._gateway.estimator.learn(
                self._upstream_model,
                body_bytes=len(self._ask.body),
                usage=usage,
                deltas=self._relay.meter.deltas if self._relay else 0,
            )
        self._gateway.append(*(() if self._is_opened else (self._opened,)), closed)
        return closed

    def _note_attempt(self, target: Target, *, status: int | None = None, error: str = "") -> None:
        attempt: dict[str, Any] = {"deployment_id": target.deployment_id, "upstream": target.upstream}
        if status is not None:
            attempt["status"] = status
        if error:
            attempt["error"] = error
        self._attempts.append(attempt)

    async def _synced(self) -> None:
        if self._gateway.waits_for_sync:
            await self._gateway.syncer.synced()

    # -- estimates -----------------------------------------------------------------------

    def _estimate_before(self, model: str) -> tuple[int, int]:
        input_tokens, output_tokens = self._gateway.estimator.before(
            model, body_bytes=len(self._ask.body), max_output_tokens=self._max_output_tokens
        )
        return min(input_tokens, self._most_input_tokens), output_tokens

    def _estimate_partial(self, meter: Meter) -> Usage:
        estimate = self._gateway.estimator.partial(
            self._upstream_model,
            body_bytes=len(self._ask.body),
            seen=meter.seen,
            deltas=meter.deltas,
            characters=meter.characters,
        )
        return self._bounded(estimate, seen=meter.seen, deltas=meter.deltas)

    def _estimate_whole(self, answer_bytes: int) -> Usage:
        estimate = self._gateway.estimator.whole(
            self._upstream_model,
            body_bytes=len(self._ask.body),
            answer_bytes=answer_bytes,
            is_text=self._dialect.NAME != "openai_embeddings",
        )
        return self._bounded(estimate)

    def _bounded(self, estimate: Usage, *, seen: Usage = NO_USAGE, deltas: int = 0) -> Usage:
        """Cut an estimate to the most that the call can use, but not below what was seen of it (C6).

        What was learned from other calls need not fit this one: its events may be shorter.
        """
        input_tokens = min(estimate.input_uncached, max(self._most_input_tokens, seen.input_uncached))
        output_tokens = estimate.output_text
        if self._max_output_tokens is not None:
            most = self._max_output_tokens * self._ask.choices
            output_tokens = min(output_tokens, max(most, seen.output_text, deltas))
        return estimate._replace(input_uncached=input_tokens, output_text=output_tokens)

    @property
    def _most_input_tokens(self) -> int:
        """Return what a strict budget takes for certain: that a token is at least a byte."""
        if not self._limits.is_strict:
            return _UNBOUNDED
        return len(self._ask.body) + self._gateway.limits.unbounded_feature_tokens

    def _cost_of(self, usage: Usage) -> Any:
        """Return what a stream that has told its usage costs; None while it is unpriced."""
        meter = self._relay.meter if self._relay else None
        units = self._billed_units(usage, meter.units if meter else None)
        service_tier = (meter.service_tier if meter else "") or self._ask.service_tier
        cost_nano = cost_of(self._price, usage, units, service_tier)
        return None if cost_nano is None else from_nano(cost_nano)

    def _billed_units(self, usage: Usage, units: Units | None) -> dict[str, int] | None:
        """Return what the cost is worked out with beside the tokens. Of searches the answer's word counts."""
        if self._ask.search_size:
            units = with_search_size(units, usage, self._ask.search_size)
        provider = self._target.provider if self._target else ""
        billed = billed_units(units, provider=provider, price=self._price, terms=self._gateway.terms)
        if self._card is None:
            return billed
        return self._card.noted(billed, self._own_price(self._target))

    def _own_price(self, target: Target | None) -> ResolvedPrice | None:
        """Return what the customer's rate card says that it pays for the model, if it says so."""
        if self._card is None or target is None:
            return None
        model = target.base_model or target.upstream_model or self._ask.model
        return self._card.own_price(target.provider, model, at_s=self._started_s)

    # -- the head --------------------------------------------------------------------------

    def _send_head(self, head: Head) -> None:
        if not self.head.done():
            self.head.set_result(head)

    def _headers(self, kind: bytes, response: httpx.Response | None, closed: Closed | None) -> Headers:
        """Return the answer's headers (contract 4). closed: None while a stream's cost is not known yet."""
        headers: Headers = [
            (b"content-type", kind or _JSON),
            (b"x-litellm-call-id", safe(self._opened.client_call_id or self._call_id)),
            (b"x-litellm-attempted-fallbacks", b"%d" % max(0, len(self._attempts) - 1)),
        ]
        if self._target is None:
            headers += (VERSION_HEADER, (b"x-litellm-model-group", safe(self._opened.model)))
        else:
            headers += self._target_headers(self._target)
        if closed is not None:
            duration_us = closed.ended_us - self._opened.started_us
            headers.append((b"x-litellm-response-duration-ms", b"%.3f" % (duration_us / 1000)))
            if closed.cost_nano is not None:
                headers.append((b"x-litellm-response-cost", _written(closed.cost_nano)))
            headers.append((b"x-litellm-response-tokens", b"%d" % closed.usage.total_tokens))
        if self._granted is not None:
            cost, charge = (closed.cost_nano, closed.charge_nano) if closed is not None else (0, 0)
            headers += budgets.headers(self._granted, self._limits, cost or 0, charge or 0)
        headers += self._taken.headers()
        if response is not None:
            headers += from_upstream(raw_headers_of(response))
        return headers

    def _target_headers(self, target: Target) -> Headers:
        """Return the headers that are the same for every call of this model to this target."""
        key = (self._dialect.NAME, self._opened.model)
        headers = target.answer_headers.get(key)
        if headers is None:
            headers = [
                VERSION_HEADER,
                (b"x-litellm-model-group", safe(self._opened.model)),
                (b"x-litellm-model-id", safe(target.model_id)),
                (b"x-litellm-model-name", safe(f"{target.provider}/{self._upstream_model}")),
                (b"x-litellm-model-api-base", safe(self._dialect.base_url(target))),
                (b"x-litellm-attempted-retries", b"0"),
            ]
            if len(target.answer_headers) > _MAX_REMEMBERED:  # behind a `*` callers choose the names
                target.answer_headers.clear()
            target.answer_headers[key] = headers
        return headers

    async def _close_response(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            try:
                await response.stream.aclose()  # type: ignore[union-attr]
            except Exception:
                logger.debug("closing an upstream response failed", exc_info=True)


def _at_no_cost(dialect: Dialect, stream: bytes) -> bytes:
    """Return a kept stream with a cost of 0 in its usage event (setting include_cost_in_streaming_usage)."""
    relay = StreamRelay(dialect.Meter(), hides_usage=False, cost_of=lambda usage: Decimal(0))
    return relay.feed(stream) + relay.finish()


def _written(nano: int) -> bytes:
    """Return nano-dollars as a plain decimal number of USD: `0.001112`, `0`, `25`."""
    whole, rest = divmod(nano, NANO_PER_USD)
    return (b"%d.%09d" % (whole, rest)).rstrip(b"0") if rest else b"%d" % whole


_CUT_MESSAGES = {
    "client_disconnect": "The client left, and the provider did not finish within the grace.",
    "time_limit": "The call took longer than the gateway allows.",
    "shutdown": "The gateway is shutting down.",
}


def _is_unbilled(error: httpx.TransportError) -> bool:
    """Tell whether the provider cannot have seen the request."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _may_pass_on(status: int) -> bool:
    return status == 429 or status >= 500


class _ErrorDetail(msgspec.Struct):
    message: str | None = None
    type: str | None = None


class _ErrorEnvelope(msgspec.Struct):
    error: _ErrorDetail | str | None = None


_error_envelope = msgspec.json.Decoder(_ErrorEnvelope)


def _error_in(data: bytes) -> tuple[str | None, str]:
    """Return (message, type) of a provider's JSON error; (None, "") where it is no JSON."""
    try:
        error = _error_envelope.decode(data).error
    except msgspec.ValidationError:
        return data[:400].decode("utf-8", "replace"), ""
    except (msgspec.DecodeError, RecursionError):
        return None, ""
    if isinstance(error, str):
        return error, ""
    if error is None:
        return data[:400].decode("utf-8", "replace"), ""
    return error.message or "", error.type or ""


def _described(data: bytes, kind: bytes) -> str:
    """Say what came instead of an answer."""
    if not data:
        return "an empty body"
    name = kind.partition(b";")[0].decode("latin-1").strip() or "no content type"
    return "broken or cut-off JSON" if "json" in name else f"{len(data)} bytes of {name}"
