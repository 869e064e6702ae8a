"""
The demo provider: answers every dialect inside the process, for a first call without an account.

An httpx transport like the real one, reached by the base URL `demo://builtin`. It
counts a token per word, so that the sums of a first try can be checked by eye. Its
prices are ordinary rows (provider `demo`).
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec

DEMO_SCHEME = "demo:"
DEMO_BASE_URL = "demo://builtin"
_WORD_SECONDS = 0.02
_REPLY = (
    "Hello from the demo model. This answer was metered, priced and booked like any other: "
    "open the admin and look for it in the logs."
)


class DemoTransport(httpx.AsyncBaseTransport):
    """Plays a provider."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["before_send"]()
        try:
            body: dict[str, Any] = msgspec.json.decode(request.extensions["body"])
        except (msgspec.MsgspecError, RecursionError) as error:
            return _json({"error": {"message": str(error), "type": "invalid_request_error"}}, status=400)
        path = request.url.path
        prompt = max(1, len(_text_in(body).split()))
        if path.endswith("/messages/count_tokens"):
            return _json({"input_tokens": prompt})
        if path.endswith("/embeddings"):
            return _json(_embeddings(body, prompt))
        kind = _Chat if path.endswith("/chat/completions") else _ANSWERS[path.rsplit("/", 1)[-1]]
        answer = kind(body, prompt)
        if body.get("stream"):
            return httpx.Response(
                200, headers={"content-type": "text/event-stream"}, stream=_Paced(answer.events(body))
            )
        return _json(answer.whole())


class _Paced(httpx.AsyncByteStream):
    def __init__(self, events: Iterator[bytes]) -> None:
        self._events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self._events:
            await asyncio.sleep(_WORD_SECONDS)
            yield event


class _Chat:
    def __init__(self, body: dict[str, Any], prompt: int) -> None:
        self.id = f"chatcmpl-demo-{uuid.uuid4().hex[:12]}"
        self.model = body.get("model", "demo")
        self.words = [word + " " for word in _REPLY.split()]
        self.usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(self.words),
            "total_tokens": prompt + len(self.words),
        }

    def _object(self, kind: str, choice: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": 0, **choice}]
        return {"id": self.id, "object": kind, "created": 0, "model": self.model, "choices": choices, **more}

    def whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.words).strip()}
        return self._object(
            "chat.completion", {"message": message, "finish_reason": "stop"}, usage=self.usage
        )

    def events(self, body: dict[str, Any]) -> Iterator[bytes]:
        kind = "chat.completion.chunk"
        yield _event(self._object(kind, {"delta": {"role": "assistant", "content": ""}}))
        for word in self.words:
            yield _event(self._object(kind, {"delta": {"content": word}, "finish_reason": None}))
        yield _event(self._object(kind, {"delta": {}, "finish_reason": "stop"}))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(self._object(kind, None, usage=self.usage))
        yield b"data: [DONE]\n\n"


class _Completion(_Chat):
    def whole(self) -> dict[str, Any]:
        choice = {"text": "".join(self.words).strip(), "finish_reason": "stop"}
        return self._object("text_completion", choice, usage=self.usage)

    def events(self, body: dict[str, Any]) -> Iterator[bytes]:
        for word in self.words:
            yield _event(self._object("text_completion", {"text": word, "finish_reason": None}))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield _event(self._object("text_completion", None, usage=self.usage))
        yield b"data: [DONE]\n\n"


class _Message:
    def __init__(self, body: dict[str, Any], prompt: int) -> None:
        self.words = [word + " " for word in _REPLY.split()]
        self.prompt = prompt
        self.message = {
            "id": f"msg_demo_{uuid.uuid4().hex[:12]}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model", "demo"),
            "stop_sequence": None,
        }

    def whole(self) -> dict[str, Any]:
        return {
            **self.message,
            "content": [{"type": "text", "text": "".join(self.words).strip()}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": self.prompt, "output_tokens": len(self.words)},
        }

    def events(self, body: dict[str, Any]) -> Iterator[bytes]:
        usage = {"input_tokens": self.prompt, "output_tokens": 1}
        start = {**self.message, "content": [], "stop_reason": None, "usage": usage}
        yield _named_event({"type": "message_start", "message": start})
        block = {"type": "text", "text": ""}
        yield _named_event({"type": "content_block_start", "index": 0, "content_block": block})
        for word in self.words:
            delta = {"type": "text_delta", "text": word}
            yield _named_event({"type": "content_block_delta", "index": 0, "delta": delta})
        yield _named_event({"type": "content_block_stop", "index": 0})
        ending = {"stop_reason": "end_turn", "stop_sequence": None}
        count = {"output_tokens": len(self.words)}
        yield _named_event({"type": "message_delta", "delta": ending, "usage": count})
        yield _named_event({"type": "message_stop"})


class _Response:
    def __init__(self, body: dict[str, Any], prompt: int) -> None:
        self.words = [word + " " for word in _REPLY.split()]
        self.item = {"id": f"msg_{uuid.uuid4().hex[:12]}", "type": "message", "role": "assistant"}
        self.base = {
            "id": f"resp_demo_{uuid.uuid4().hex[:12]}",
            "object": "response",
            "created_at": 0,
            "model": body.get("model", "demo"),
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        self.usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": len(self.words),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + len(self.words),
        }

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": "".join(self.words).strip(), "annotations": []}

    def whole(self) -> dict[str, Any]:
        item = {**self.item, "status": "completed", "content": [self._part()]}
        return {**self.base, "status": "completed", "output": [item], "usage": self.usage}

    def events(self, body: dict[str, Any]) -> Iterator[bytes]:
        numbers = iter(range(10_000))
        place = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}

        def event(kind: str, **fields: Any) -> bytes:
            return _named_event({"type": kind, "sequence_number": next(numbers), **fields})

        started = {**self.base, "status": "in_progress", "output": []}
        yield event("response.created", response=started)
        item = {**self.item, "status": "in_progress", "content": []}
        yield event("response.output_item.added", output_index=0, item=item)
        yield event("response.content_part.added", **place, part={**self._part(), "text": ""})
        for word in self.words:
            yield event("response.output_text.delta", **place, delta=word, logprobs=[])
        yield event("response.output_text.done", **place, text=self._part()["text"], logprobs=[])
        yield event("response.content_part.done", **place, part=self._part())
        yield event("response.output_item.done", output_index=0, item=self.whole()["output"][0])
        yield event("response.completed", response=self.whole())


_ANSWERS: dict[str, Any] = {
    "completions": _Completion,
    "messages": _Message,
    "responses": _Response,
}


def _embeddings(body: dict[str, Any], prompt: int) -> dict[str, Any]:
    given = body.get("input", "")
    count = len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
    # 8 zeros in base64 float32, which the OpenAI SDK asks for, or as numbers.
    vector: Any = "A" * 43 + "=" if body.get("encoding_format") == "base64" else [0.0] * 8
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"object": "list", "model": body.get("model", "demo"), "data": data, "usage": usage}


def _text_in(value: Any) -> str:
    """Return every text of a call's prompt."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(map(_text_in, value))
    if isinstance(value, dict):
        return " ".join(
            _text_in(value[name])
            for name in ("system", "instructions", "messages", "prompt", "input", "content", "text")
            if name in value
        )
    return ""


def _json(body: dict[str, Any], *, status: int = 200) -> httpx.Response:
    return httpx.Response(
        status,
        headers={"content-type": "application/json"},
        stream=httpx.ByteStream(msgspec.json.encode(body)),
    )


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _named_event(body: dict[str, Any]) -> bytes:
    return f"event: {body['type']}\n".encode() + _event(body)
