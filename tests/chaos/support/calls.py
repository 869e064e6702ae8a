"""
Calls drawn at random over all billable routes, each with a name of its own.

The name is the call's customer in the gateway's log and its `tag` on the provider's
bill: what has no response id (an interrupted call) is still found on both sides.
"""

import itertools
import random
from typing import Any, NamedTuple

from tests.chaos.support import wire

_WORDS = ("the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "with", "one", "have", "this")
_names = itertools.count(1)


class Route(NamedTuple):
    path: str
    models: tuple[str, ...]
    prompt_field: str  # `messages`, or the field that takes a text
    can_stream: bool = True


ROUTES = (
    Route("/v1/chat/completions", ("gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"), "messages"),
    Route("/v1/completions", ("gpt-3.5-turbo-instruct",), "prompt"),
    Route("/v1/embeddings", ("text-embedding-3-small", "text-embedding-3-large"), "input", can_stream=False),
    Route("/v1/responses", ("gpt-4o-mini", "gpt-4o"), "input"),
    Route("/v1/messages", ("claude-sonnet-4-5", "claude-haiku-4-5"), "messages"),
)
STREAMING_ROUTES = tuple(route for route in ROUTES if route.can_stream)


class Call(NamedTuple):
    name: str
    path: str
    body: dict[str, Any]
    is_streamed: bool

    def request(self, key: str) -> bytes:
        credential = (
            {"x-api-key": key} if self.path.endswith("/messages") else {"authorization": f"Bearer {key}"}
        )
        return wire.post(self.path, self.body, {**credential, "x-litellm-customer-id": self.name})


def make_call(
    rng: random.Random, *, route: Route | None = None, streamed: bool | None = None, **fake: Any
) -> Call:
    """Return a call with usage of every kind. streamed: None draws. fake: how the provider shall answer."""
    route = route or rng.choice(ROUTES)
    streamed = route.can_stream and (rng.random() < 0.6 if streamed is None else streamed)
    return _call(rng, route, streamed, {**_any_usage(rng), **fake})


def make_natural_call(rng: random.Random, *, words: int, **fake: Any) -> Call:
    """Return a streamed call whose tokens follow from its text, as with a real provider."""
    return _call(rng, rng.choice(STREAMING_ROUTES), True, fake, words=words)


def _call(rng: random.Random, route: Route, streamed: bool, fake: dict[str, Any], *, words: int = 8) -> Call:
    name = f"call-{next(_names):05d}-{rng.randrange(16**8):08x}"
    prompt = " ".join(rng.choices(_WORDS, k=words))
    body: dict[str, Any] = {"model": rng.choice(route.models), "user": name, "fake": {**fake, "tag": name}}
    body[route.prompt_field] = (
        [{"role": "user", "content": prompt}] if route.prompt_field == "messages" else prompt
    )
    if route.path.endswith("/messages"):
        body["max_tokens"] = 4096
        body["metadata"] = {"user_id": body.pop("user")}
    if streamed:
        body["stream"] = True
        if rng.random() < 0.3 and "completions" in route.path:
            body["stream_options"] = {"include_usage": True}
    return Call(name, route.path, body, streamed)


def _any_usage(rng: random.Random) -> dict[str, Any]:
    """Draw tokens: cached ones, reasoning, and now and then a tool call instead of text."""
    written = rng.choice((0, 0, rng.randrange(1, 500)))
    cached = rng.choice((0, 0, rng.randrange(1, 2000)))
    output = rng.randrange(5, 400)
    return {
        "input_tokens": written + cached + rng.randrange(1, 3000),
        "cached_tokens": cached,
        "cache_write_5m": written,
        "cache_write_1h": rng.choice((0, 0, rng.randrange(1, 300))),
        "output_tokens": output,
        "reasoning_tokens": rng.choice((0, 0, rng.randrange(0, output))),
        "chunks": rng.randrange(5, 40),
        "tool_call": rng.random() < 0.2,
    }
