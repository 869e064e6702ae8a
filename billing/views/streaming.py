"""Long answers, sent piece by piece: so that a year of customers needs no more memory than a day of them."""

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from rest_framework.request import Request


def streamed(
    request: Request, chunks: Iterator[bytes], *, content_type: str, headers: dict[str, str] | None = None
) -> StreamingHttpResponse:
    """Return the chunks as an answer.

    The first one is made at once: what is wrong is then still told as an error.
    """
    first = next(chunks, b"")
    whole = chain([first], chunks)
    # Under ASGI Django would collect an ordinary iterator before it sends anything.
    body = _in_thread(whole) if isinstance(request._request, ASGIRequest) else whole
    return StreamingHttpResponse(body, content_type=content_type, headers=headers)


def json_array(rows: Iterable[Iterable[Any]]) -> Iterator[bytes]:
    """Write the rows of all batches as one JSON array, a chunk a batch. They have no Decimals."""
    before = b"["
    for batch in rows:
        encoded = b",".join(map(msgspec.json.encode, batch))
        if encoded:
            yield before + encoded
            before = b","
    yield b"[]" if before == b"[" else b"]"


async def _in_thread(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    def following() -> bytes | None:
        return next(chunks, None)  # its StopIteration must not cross into a coroutine

    while (chunk := await sync_to_async(following)()) is not None:
        yield chunk
