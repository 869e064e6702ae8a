"""
OpenAI embeddings: POST /v1/embeddings. Input only: no output, no cache, no stream.

Base64 is little-endian float32; the SDK asks for it by default. Every value is a
multiple of 1/256, so that both encodings say exactly the same number. The answer
has no id on the wire: its entry on the bill is known by the request id.

Source: openai-python, types/create_embedding_response.py, resources/embeddings.py
"""

import base64
import struct
from functools import lru_cache
from typing import Any

from tests.provider import sse
from tests.provider.calls import Call
from tests.provider.dialects.openai_shared import error_body, headers

__all__ = ["body", "error_body", "events", "headers"]

NAME = "openai_embeddings"
ID_PREFIX = ""
PROMPT_FIELDS = ("input",)
MAXIMUM_FIELDS = ()
CAN_STREAM = False
CACHES = False
CACHES_1H = False
INPUT_INCLUDES_CACHE = True


@lru_cache(maxsize=256)
def vector(dimensions: int, seed: int) -> list[float]:
    return [((i * 31 + seed * 17) % 199 - 99) / 256 for i in range(dimensions)]


@lru_cache(maxsize=256)
def encoded_vector(dimensions: int, seed: int) -> str:
    return base64.b64encode(struct.pack(f"<{dimensions}f", *vector(dimensions, seed))).decode()


def body(call: Call) -> dict[str, Any]:
    given = call.request.get("input")
    # A list of numbers is one input, already cut into tokens.
    inputs = given if isinstance(given, list) and not (given and isinstance(given[0], int)) else [given]
    default = 3072 if call.model.startswith("text-embedding-3-large") else 1536
    dimensions = call.request.get("dimensions") or default
    encode = encoded_vector if call.request.get("encoding_format") == "base64" else vector
    answer = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(dimensions, len(str(item)) % 16)}
            for index, item in enumerate(inputs)
        ],
        "model": call.model_in_response,
    }
    if not call.fake.no_usage:
        answer["usage"] = {"prompt_tokens": call.input_tokens, "total_tokens": call.input_tokens}
    return answer


def events(call: Call) -> sse.Frames:
    raise NotImplementedError("embeddings do not stream")
