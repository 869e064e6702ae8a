"""
One call as the dialects and the bill see it: its model, its counts, its answer.

All counts are tokens. `input_tokens` is the number the dialect's own usage shows;
`input_uncached`, `cache_read`, `cache_write_5m`, `cache_write_1h` and `output_tokens`
are disjoint; `reasoning_tokens` lie inside `output_tokens`.
"""

import itertools
import json
import os
import time
from functools import lru_cache
from types import ModuleType
from typing import Any

from tests.provider.behaviour import Behaviour

DEFAULT_OUTPUT_TOKENS = 20
MOST_DEFAULT_CHUNKS = 2_000  # a million output tokens shall not mean eight megabytes of text
WORTH_READING = ("content", "text", "input", "output", "arguments")

_run = os.urandom(5).hex()  # ids stay unique when the provider is started again
_numbers = itertools.count(1)


@lru_cache(maxsize=256)
def words(count: int) -> tuple[str, ...]:
    return tuple(f"tok{number} " for number in range(1, count + 1))


def cut(text: str, count: int) -> tuple[str, ...]:
    """Cut `text` into `count` pieces of nearly equal length, fewer if it has fewer characters."""
    count = min(count, len(text))
    return tuple(text[i * len(text) // count : (i + 1) * len(text) // count] for i in range(count))


def text_length(value: Any) -> int:
    """Count the characters a prompt is made of; a number is a token, four of them."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(text_length(item) for item in value)
    if isinstance(value, dict):
        return sum(text_length(value[name]) for name in WORTH_READING if name in value)
    return 4 if isinstance(value, int) else 0


class Call:
    """A request accepted by the provider; raises ValueError where its counts contradict each other."""

    __slots__ = (
        "cache_read",
        "cache_write_1h",
        "cache_write_5m",
        "created",
        "delta_count",
        "dialect",
        "fake",
        "id",
        "input_tokens",
        "input_uncached",
        "is_stream",
        "model",
        "output_tokens",
        "pieces",
        "reasoning_tokens",
        "request",
        "request_id",
        "tool",
        "user",
        "was_cut_short",
    )  # fmt: skip

    def __init__(self, dialect: ModuleType, request: dict[str, Any], fake: Behaviour) -> None:
        self.dialect = dialect
        self.request = request
        self.fake = fake
        self.model: str = request["model"]
        number = f"{_run}{next(_numbers):014x}"
        self.request_id = f"req_{number}"
        self.id = fake.response_id or (dialect.ID_PREFIX + number if dialect.ID_PREFIX else self.request_id)
        self.created = int(time.time())
        metadata = request.get("metadata")
        self.user = request.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)
        self.is_stream = bool(dialect.CAN_STREAM and request.get("stream"))
        self._count_input()
        self._count_output()
        self._write_answer()

    @property
    def model_in_response(self) -> str:
        return self.fake.model_in_response or self.model

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def forget(self) -> None:
        """Drop what only the answer needed: a bill of a million calls must fit in memory."""
        self.request = {}
        self.pieces = ()

    def _count_input(self) -> None:
        fake, dialect = self.fake, self.dialect
        self.cache_read = self.cache_write_5m = self.cache_write_1h = 0
        if dialect.CACHES:
            self.cache_read, self.cache_write_5m = fake.cached_tokens, fake.cache_write_5m
        if dialect.CACHES_1H:
            self.cache_write_1h = fake.cache_write_1h
        included = self.cache_read + self.cache_write_5m if dialect.INPUT_INCLUDES_CACHE else 0
        if fake.input_tokens is None:
            length = sum(text_length(self.request.get(name)) for name in dialect.PROMPT_FIELDS)
            self.input_tokens = max(1, length // 4, included)
        else:
            self.input_tokens = fake.input_tokens
        self.input_uncached = self.input_tokens - included
        if self.input_uncached < 0:
            raise ValueError(
                "fake: input_tokens includes cached and written tokens, and is less than they are"
            )

    def _count_output(self) -> None:
        fake = self.fake
        self.was_cut_short = False
        self.reasoning_tokens = fake.reasoning_tokens
        if not self.dialect.MAXIMUM_FIELDS:  # embeddings have no output
            self.output_tokens = self.reasoning_tokens = 0
        elif fake.output_tokens is not None and not fake.obeys_maximum:
            self.output_tokens = fake.output_tokens
        else:
            wanted = fake.output_tokens or max(DEFAULT_OUTPUT_TOKENS, self.reasoning_tokens)
            most = next((self.request[n] for n in self.dialect.MAXIMUM_FIELDS if self.request.get(n)), wanted)
            answers = self.request.get("n") or 1 if fake.obeys_maximum else 1
            self.output_tokens = min(wanted, most) * answers
            self.was_cut_short = most < wanted
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError("fake: output_tokens includes reasoning_tokens, and is less than they are")

    def _write_answer(self) -> None:
        """Set `pieces`, the content deltas, which together are the text or the tool's arguments."""
        fake = self.fake
        count = fake.chunks if fake.chunks is not None else min(self.output_tokens, MOST_DEFAULT_CHUNKS)
        self.tool: dict[str, str] | None = None
        if fake.tool_call:
            given = fake.tool_call if isinstance(fake.tool_call, dict) else {}
            arguments = json.dumps(given.get("arguments", {"city": "Paris", "unit": "celsius"}))
            name = given.get("name") or self._first_tool_name() or "get_weather"
            self.tool = {"name": name, "arguments": arguments}
            self.pieces = cut(arguments, max(1, count))
        elif fake.big is not None:
            self.pieces = cut("x" * fake.big, max(1, count))
        elif fake.text is not None:
            self.pieces = cut(fake.text, max(1, count))
        else:
            self.pieces = words(count)
        self.delta_count = len(self.pieces)

    def _first_tool_name(self) -> str | None:
        """Return the name of the request's first tool; chat completions keep it one level deeper."""
        for tool in self.request.get("tools") or ():
            return tool.get("name") or (tool.get("function") or {}).get("name")
        return None
