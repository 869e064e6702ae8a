"""
OpenAI Responses: POST /v1/responses.

`input_tokens` includes cached and written tokens, `output_tokens` includes reasoning.
A stream's usage is in its last event, response.completed, or response.incomplete
where the request's own max_output_tokens cut the answer short; there is no [DONE].

Source: openai-python, types/responses/response.py, response_usage.py, response_*_event.py
"""

import itertools
from typing import Any

from tests.provider import sse
from tests.provider.calls import Call
from tests.provider.dialects.openai_shared import error_body, headers

__all__ = ["body", "error_body", "events", "headers"]

NAME = "openai_responses"
ID_PREFIX = "resp_"
PROMPT_FIELDS = ("instructions", "input")
MAXIMUM_FIELDS = ("max_output_tokens",)
CAN_STREAM = True
CACHES = True
CACHES_1H = False
INPUT_INCLUDES_CACHE = True

ECHOED = {  # what the answer repeats of the request, and its default
    "background": False, "instructions": None, "max_output_tokens": None, "max_tool_calls": None,
    "metadata": {}, "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None}, "safety_identifier": None, "store": True,
    "temperature": 1.0, "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto",
    "tools": [], "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "user": None,
}  # fmt: skip


def usage(call: Call) -> dict[str, Any]:
    return {
        "input_tokens": call.input_tokens,
        "input_tokens_details": {"cached_tokens": call.cache_read, "cache_write_tokens": call.cache_write_5m},
        "output_tokens": call.output_tokens,
        "output_tokens_details": {"reasoning_tokens": call.reasoning_tokens},
        "total_tokens": call.input_tokens + call.output_tokens,
    }


def body(call: Call) -> dict[str, Any]:
    status = "incomplete" if call.was_cut_short else "completed"
    answer = response(call, status, [item(call, status, call.text)])
    if call.was_cut_short:
        answer["incomplete_details"] = {"reason": "max_output_tokens"}
    answer["usage"] = None if call.fake.no_usage else usage(call)
    return answer


def events(call: Call) -> sse.Frames:
    numbers = itertools.count()
    last = body(call)
    where: dict[str, Any] = {"item_id": item_id(call), "output_index": 0}

    def event(kind: str, **fields: Any) -> bytes:
        return sse.event({"type": kind, "sequence_number": next(numbers), **fields})

    yield event("response.created", response=response(call, "in_progress", [])), False
    yield event("response.in_progress", response=response(call, "in_progress", [])), False
    yield event("response.output_item.added", output_index=0, item=item(call, "in_progress", None)), False
    if call.tool:
        for piece in call.pieces:
            yield event("response.function_call_arguments.delta", **where, delta=piece), True
        arguments = call.tool["arguments"]
        yield event("response.function_call_arguments.done", **where, arguments=arguments), False
    else:
        where["content_index"] = 0
        yield event("response.content_part.added", **where, part=part("")), False
        for piece in call.pieces:
            yield event("response.output_text.delta", **where, delta=piece, logprobs=[]), True
        yield event("response.output_text.done", **where, text=call.text, logprobs=[]), False
        yield event("response.content_part.done", **where, part=part(call.text)), False
    yield event("response.output_item.done", output_index=0, item=last["output"][0]), False
    yield event(f"response.{last['status']}", response=last), False


def response(call: Call, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": call.id,
        "object": "response",
        "created_at": call.created,
        "completed_at": call.created if status == "completed" else None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": call.model_in_response,
        "output": output,
        "service_tier": call.fake.service_tier or "default",
        "usage": None,
        **{name: call.request.get(name, default) for name, default in ECHOED.items()},
    }


def item(call: Call, status: str, text: str | None) -> dict[str, Any]:
    """Return the one output item; `text` is None while it is still empty."""
    if call.tool:
        return {
            "id": item_id(call),
            "type": "function_call",
            "status": status,
            "call_id": "call_" + call.request_id.removeprefix("req_"),
            "name": call.tool["name"],
            "arguments": text or "",
        }
    content = [] if text is None else [part(text)]
    return {"id": item_id(call), "type": "message", "status": status, "role": "assistant", "content": content}


def part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def item_id(call: Call) -> str:
    return ("fc_" if call.tool else "msg_") + call.request_id.removeprefix("req_")
