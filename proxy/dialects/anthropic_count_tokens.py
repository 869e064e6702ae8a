"""Anthropic token counting: POST /v1/messages/count_tokens. Free: passed on, not booked."""

import msgspec

from proxy.dialects.anthropic_messages import (
    Meter,
    base_url,
    credential_headers,
    error_body,
    output_limit_field,
    read_call,
    stream_error,
    unbounded,
)
from proxy.dialects.base import UNREADABLE, Answer, UnreadableAnswer, edited

__all__ = [
    "Meter",
    "base_url",
    "credential_headers",
    "edited",
    "error_body",
    "output_limit_field",
    "read_call",
    "stream_error",
    "unbounded",
]

NAME = "anthropic_count_tokens"
UPSTREAM_PATH = "/v1/messages/count_tokens"
BILLABLE = False
HAS_OUTPUT = False

_counted = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_answer(data: bytes) -> Answer:
    """Raises: UnreadableAnswer."""
    try:
        _counted.decode(data)
    except UNREADABLE as error:
        raise UnreadableAnswer(str(error)) from error
    return Answer(usage=None)
