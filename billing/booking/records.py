"""
The three records a call leaves in the journal, in this order.

    opened → sent → closed

`opened` says who calls for what; `sent`, that the provider may have seen it;
`closed`, how it ended and what it cost. A call with `opened` alone costs nothing;
one with `sent` but no `closed` is booked as estimated (J6). Records are msgpack
arrays: new fields go to the end, with a default, so that an older journal reads.
"""

from typing import Any

import msgspec

from billing.usage import NO_USAGE, Usage


class Opened(msgspec.Struct, array_like=True, tag=1, gc=False):
    """Who calls, for what, at which instant; and what to book if we never hear more."""

    call_id: bytes  # the 16 bytes of a UUIDv7
    started_us: int  # Unix microseconds of admission
    dialect: str
    model: str
    streamed: bool
    key_id: bytes | None = None
    team_id: str | None = None
    user_id: str | None = None
    customer_id: str | None = None
    tags: list[str] = []
    user_agent: str = ""
    client_tool: str = ""
    session_id: str = ""
    client_call_id: str = ""
    metadata: dict[str, Any] = {}
    request_body: str = ""


class Sent(msgspec.Struct, array_like=True, tag=2, gc=False):
    """The request is on its way to this deployment."""

    call_id: bytes
    deployment_id: int | None
    upstream: str
    provider: str
    upstream_model: str
    price_id: int | None
    # What to book if no `closed` follows: tokens, and their cost (None while the model has no price).
    estimated_input: int
    estimated_output: int
    estimate_nano: int | None
    # Where the customer is on a rate card: what it is charged then, and what decides that.
    estimate_charge_nano: int | None = None
    units: dict[str, int] | None = None


class Closed(msgspec.Struct, array_like=True, tag=3, gc=False):
    """How the call ended, what it used and what it cost."""

    call_id: bytes
    ended_us: int
    status: str
    http_status: int | None = None
    error_type: str = ""
    error_message: str = ""
    usage_source: str = "none"
    usage: Usage = NO_USAGE
    price_id: int | None = None
    cost_nano: int | None = 0
    charge_nano: int | None = 0
    deployment_id: int | None = None
    upstream: str = ""
    provider: str = ""
    upstream_model: str = ""
    response_id: str = ""
    service_tier: str = ""
    first_token_us: int | None = None  # after `started_us`
    attempts: list[dict[str, Any]] = []
    client_left: bool = False
    response_body: str = ""
    units: dict[str, int] | None = None  # beside the tokens (`billing/usage.py`)


Record = Opened | Sent | Closed

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)

encode = _encoder.encode
decode = _decoder.decode
"""Raises: msgspec.DecodeError on bytes that are no record."""


class CallRecords(msgspec.Struct, gc=False):
    """One finished call as the journal tells it."""

    opened: Opened
    closed: Closed


def interrupted(opened: Opened, sent: Sent | None, *, at_us: int) -> Closed:
    """Return how a call ends whose process died: not sent for nothing, else by its estimate."""
    if sent is None:
        return Closed(
            call_id=opened.call_id,
            ended_us=at_us,
            status="not_sent",
            error_type="interrupted",
            error_message="The gateway stopped before the call was sent upstream.",
        )
    return Closed(
        call_id=opened.call_id,
        ended_us=at_us,
        status="interrupted",
        error_type="interrupted",
        error_message="The gateway stopped while the call was under way; booked by its estimate.",
        usage_source="estimated",
        usage=Usage(input_uncached=sent.estimated_input, output_text=sent.estimated_output),
        price_id=sent.price_id,
        cost_nano=sent.estimate_nano,
        charge_nano=sent.estimate_nano if sent.estimate_charge_nano is None else sent.estimate_charge_nano,
        deployment_id=sent.deployment_id,
        upstream=sent.upstream,
        provider=sent.provider,
        upstream_model=sent.upstream_model,
        units=sent.units,
    )
