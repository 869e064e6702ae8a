"""
A cancelled read ends, also where the provider's next bytes come in the same instant.

Else a call would go on past its grace and its time limit.
"""

import asyncio
import contextlib

import httpx
from django.test import SimpleTestCase

from proxy.transport import GatewayTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class CancelTest(SimpleTestCase):
    def test_no_cancelled_reader_reads_on(self):
        went_on = asyncio.run(_cancel_many(100))

        self.assertEqual(went_on, 0)


async def _cancel_many(count: int) -> int:
    """Cancel that many readers of a busy stream, and return how many read on."""
    streams: list[asyncio.Task] = []

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            while True:
                writer.write(b"5\r\nhello\r\n")
                await writer.drain()
                await asyncio.sleep(0.0005)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(stream, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = GatewayTransport(connect_timeout_s=5, read_timeout_s=30)
    went_on = sum([await _reads_on_when_cancelled(transport, url) for _ in range(count)])
    await transport.aclose()
    server.close()
    await asyncio.wait_for(asyncio.gather(*streams), timeout=10)  # each ends when its reader hangs up
    return went_on


async def _reads_on_when_cancelled(transport: GatewayTransport, url: str) -> bool:
    is_cancelled = read_on = False

    async def read() -> None:
        nonlocal read_on
        response = await transport.handle_async_request(httpx.Request("GET", url))
        try:
            while not read_on:
                await response.stream.read_chunk()
                read_on = is_cancelled
        finally:
            await response.stream.aclose()

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    is_cancelled = True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return read_on
