"""Compact JSON and server-sent events. A stream is an iterator of (bytes, is a content delta)."""

import json
from collections.abc import Iterator
from typing import Any

Frames = Iterator[tuple[bytes, bool]]

# Optimization: one encoder for all, because json.dumps with options builds one per call.
# Text is sent as UTF-8, as the real providers do, so that a split can fall inside a character.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_json(value: Any) -> bytes:
    return _encode(value).encode("utf-8", "replace")


def data(value: Any) -> bytes:
    """Frame an OpenAI chunk: a data line only."""
    return b"data: " + to_json(value) + b"\n\n"


def event(value: dict[str, Any]) -> bytes:
    """Frame a typed event: its type is repeated on the event line."""
    return b"event: " + value["type"].encode() + b"\ndata: " + to_json(value) + b"\n\n"
