"""
Anthropic token counting: POST /v1/messages/count_tokens. Free, so it is on no bill.

Source: anthropic-sdk-python, types/message_tokens_count.py
"""

from tests.provider import sse
from tests.provider.calls import Call
from tests.provider.dialects.anthropic_messages import error_body, headers

__all__ = ["body", "error_body", "events", "headers"]

NAME = "anthropic_count_tokens"
ID_PREFIX = ""
PROMPT_FIELDS = ("system", "messages")
MAXIMUM_FIELDS = ()
CAN_STREAM = False
CACHES = False
CACHES_1H = False
INPUT_INCLUDES_CACHE = False


def body(call: Call) -> dict[str, int]:
    return {"input_tokens": call.input_tokens}


def events(call: Call) -> sse.Frames:
    raise NotImplementedError("a count does not stream")
