"""
How bytes come through the transport: one by one, untouched, and no further than they should.

Against a small asyncio server that shows what reached it. The transport's failures
are in test_transport.py.
"""

import asyncio
import contextlib
import gzip
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from unittest import mock

import httpx
from django.test import SimpleTestCase

from proxy.relay import BodyReader
from proxy.transport import GatewayTransport, raw_headers_of

CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Request:
    """One request as it reached the server, and the connection to answer on."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.line, _, rest = head.decode("latin-1").partition("\r\n")
        self.headers = dict(line.lower().split(": ", 1) for line in rest.split("\r\n") if line)
        self.body = body
        self.is_closed = asyncio.Event()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def send_whole(self, body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> None:
        await self.send(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), headers, body))

    def close(self) -> None:
        self._writer.close()

    async def until_closed(self) -> None:
        """Wait until the other side hangs up."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read()
        self.is_closed.set()


Answer = Callable[[Request], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator["Server"]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 26)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


class Server:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.url = ""
        self.requests: list[Request] = []
        self.connections = 0
        self.tasks: set[asyncio.Task] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(reader, writer, head[:-4], b"")
                request.body = await reader.readexactly(int(request.headers.get("content-length", 0)))
                self.requests.append(request)
                await self._answer(request)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the test is over, or the other side hung up
        finally:
            writer.close()


class TransportCase(SimpleTestCase):
    @contextlib.asynccontextmanager
    async def sending(self, answer: Answer, **timeouts):
        """Yield (server, send): send posts to the server and returns the response."""
        given = {"connect_timeout_s": 2, "read_timeout_s": 5, **timeouts}
        transport = GatewayTransport(**given)
        responses = []

        async def send(path: str = "/", *, body: bytes = b"{}", before_send=None, **headers: str):
            request = httpx.Request(
                "POST",
                server.url + path,
                headers=headers,
                stream=httpx.ByteStream(body),
                extensions={"body": body, "before_send": before_send},
            )
            response = await transport.handle_async_request(request)
            responses.append(response)
            return response

        async with asyncio.timeout(20), serving(answer) as server:
            try:
                yield server, send
            finally:
                for response in responses:
                    await response.stream.aclose()
                await transport.aclose()


class StreamingTests(TransportCase):
    async def test_each_chunk_arrives_before_the_next_is_sent(self):
        was_taken = asyncio.Event()

        async def answer(request):
            await request.send(CHUNKED)
            for i in range(5):
                await request.send_chunk(b"chunk %d" % i)
                await was_taken.wait()  # nothing more is sent before this one was read
                was_taken.clear()
            await request.send_chunk(b"")

        async with self.sending(answer) as (_, send):
            response = await send()
            taken = []
            while (chunk := await response.stream.read_chunk()) is not None:
                taken.append(chunk)
                was_taken.set()

        self.assertEqual(taken, [b"chunk %d" % i for i in range(5)])

    async def test_the_head_arrives_before_the_body(self):
        may_go_on = asyncio.Event()

        async def answer(request):
            await request.send(CHUNKED)
            await may_go_on.wait()
            await request.send_chunk(b"late")
            await request.send_chunk(b"")

        async with self.sending(answer) as (_, send):
            response = await send()
            may_go_on.set()

            self.assertEqual(response.status_code, 200)
            self.assertEqual(await BodyReader(response).read(100), (b"late", True))

    async def test_a_provider_is_not_read_faster_than_its_client(self):
        """Without read-ahead the sockets' buffers fill, and the provider has to wait."""
        sent = []

        async def answer(request):
            await request.send(CHUNKED)
            for _ in range(1_000):
                await request.send_chunk(b"x" * 65_536)
                sent.append(1)
            await request.send_chunk(b"")

        async with self.sending(answer) as (_, send):
            response = await send()
            size = len(await response.stream.read_chunk())
            await asyncio.sleep(0.3)
            before = len(sent)
            while (chunk := await response.stream.read_chunk()) is not None:
                size += len(chunk)

        self.assertLess(before, 500)
        self.assertEqual(size, 1_000 * 65_536)

    async def test_iterating_gives_the_same_bytes(self):
        async def answer(request):
            await request.send(CHUNKED)
            for part in (b"one", b"two"):
                await request.send_chunk(part)
            await request.send_chunk(b"")

        async with self.sending(answer) as (_, send):
            response = await send()

            self.assertEqual(b"".join([chunk async for chunk in response.stream]), b"onetwo")


class PouringTests(TransportCase):
    async def test_each_piece_is_poured_as_it_comes(self):
        poured = []
        came = asyncio.Event()

        async def answer(request):
            await request.send(CHUNKED)
            for piece in (b"one", b"two", b"three"):
                came.clear()
                await request.send_chunk(piece)
                await came.wait()
            await request.send_chunk(b"")

        def sink(piece: bytes) -> bool:
            poured.append(piece)
            came.set()
            return True

        async with self.sending(answer) as (_, send):
            is_end = await BodyReader(await send()).pour(sink)

        self.assertEqual((poured, is_end), ([b"one", b"two", b"three"], True))

    async def test_a_full_sink_is_left_alone_until_the_next_pour(self):
        poured = []

        async def answer(request):
            await request.send(CHUNKED)
            for number in range(1_000):
                await request.send_chunk(b"%04d" % number)
            await request.send_chunk(b"")

        def sink(piece: bytes) -> bool:
            poured.append(piece)
            return False

        async with self.sending(answer) as (_, send):
            body = BodyReader(await send())
            while not await body.pour(sink):
                before = len(poured)
                await asyncio.sleep(0.001)
                self.assertEqual(len(poured), before)

        self.assertEqual(b"".join(poured), b"".join(b"%04d" % number for number in range(1_000)))

    async def test_what_the_sink_raises_comes_out(self):
        def sink(piece: bytes) -> bool:
            raise LookupError("no room for this")

        async def answer(request):
            await request.send_whole(b"{}")

        async with self.sending(answer) as (_, send):
            response = await send()
            with self.assertRaises(LookupError):
                await BodyReader(response).pour(sink)

    async def test_what_came_before_a_break_is_poured(self):
        poured = []

        async def answer(request):
            await request.send(CHUNKED + b"5\r\nfirst\r\nthis is no chunk\r\n")

        async with self.sending(answer) as (_, send):
            response = await send()
            with self.assertRaises(httpx.ReadError):
                await BodyReader(response).pour(lambda piece: poured.append(piece) or True)

        self.assertEqual(poured, [b"first"])


class BeforeSendTests(TransportCase):
    """The last word before a call may cost something: when there is a connection, before the first byte."""

    async def test_it_is_called_before_the_provider_hears_anything(self):
        heard = []

        async def answer(request):
            await request.send_whole(b"{}")

        async with self.sending(answer) as (server, send):
            await send(before_send=lambda: heard.append(len(server.requests)))
            await send(before_send=lambda: heard.append(len(server.requests)))

        self.assertEqual(heard, [0, 1])

    async def test_it_can_keep_the_request_from_being_sent(self):
        def refuse():
            raise LookupError("the disk is full")

        async def answer(request):
            await request.send_whole(b"{}")

        async with self.sending(answer) as (server, send):
            with self.assertRaises(LookupError):
                await send(before_send=refuse)
            await send()

        self.assertEqual((server.connections, len(server.requests)), (1, 1))

    async def test_it_is_not_called_where_nobody_listens(self):
        called = []
        request = httpx.Request(
            "POST", "http://127.0.0.1:1/", extensions={"before_send": lambda: called.append(1)}
        )

        with self.assertRaises(httpx.ConnectError):
            await GatewayTransport(connect_timeout_s=1, read_timeout_s=1).handle_async_request(request)

        self.assertEqual(called, [])


class KeptConnectionTests(TransportCase):
    async def test_a_connection_that_the_provider_closed_is_not_used_again(self):
        async def answer(request):
            await request.send_whole(b"{}")
            request.close()

        async with self.sending(answer) as (server, send):
            for _ in range(3):
                await BodyReader(await send()).read(100)
                await asyncio.sleep(0.02)

        self.assertEqual((server.connections, len(server.requests)), (3, 3))

    async def test_a_connection_that_is_to_be_closed_is_not_used_again(self):
        async def answer(request):
            await request.send_whole(b"{}", b"connection: close\r\n")

        async with self.sending(answer) as (server, send):
            for _ in range(3):
                await BodyReader(await send()).read(100)

        self.assertEqual((server.connections, len(server.requests)), (3, 3))

    async def test_bytes_nobody_asked_for_spoil_the_connection_and_not_the_answer(self):
        async def answer(request):
            await request.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n")

        async with self.sending(answer) as (server, send):
            for _ in range(3):
                self.assertEqual(await BodyReader(await send()).read(100), (b"{}", True))

        self.assertEqual(server.connections, 3)


class UntouchedTests(TransportCase):
    async def test_a_compressed_answer_stays_compressed(self):
        packed = gzip.compress(b'{"usage": 1}')

        async def answer(request):
            await request.send_whole(packed, b"content-encoding: gzip\r\n")

        async with self.sending(answer) as (_, send):
            response = await send()
            body = b"".join([chunk async for chunk in response.stream])

        self.assertEqual(body, packed)
        self.assertEqual(response.headers["content-encoding"], "gzip")

    async def test_a_redirect_is_an_answer(self):
        async def answer(request):
            await request.send_whole(b"", b"location: /elsewhere\r\n", b"307 Temporary Redirect")

        async with self.sending(answer) as (server, send):
            response = await send()

            self.assertEqual((response.status_code, len(server.requests)), (307, 1))

    async def test_an_error_is_an_answer(self):
        async def answer(request):
            await request.send_whole(b"{}", status=b"529 Overloaded")

        async with self.sending(answer) as (_, send):
            self.assertEqual((await send()).status_code, 529)

    async def test_proxies_of_the_environment_are_ignored(self):
        async def answer(request):
            await request.send_whole(b"{}")

        names = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        nowhere = dict.fromkeys(names, "http://127.0.0.1:9")
        with mock.patch.dict(os.environ, nowhere):
            async with self.sending(answer) as (server, send):
                self.assertEqual((await send()).status_code, 200)
                self.assertTrue(server.requests[0].line.startswith("POST / "))

    async def test_headers_go_and_come_as_they_are(self):
        async def answer(request):
            await request.send_whole(b"{}", b"x-a: 1\r\nx-a: 2\r\nX-Name: v\r\n")

        async with self.sending(answer) as (server, send):
            response = await send(**{"x-custom": "v", "accept-encoding": "identity"})
            headers = raw_headers_of(response)

        sent = server.requests[0].headers
        self.assertEqual((sent["x-custom"], sent["accept-encoding"]), ("v", "identity"))
        self.assertEqual([value for name, value in headers if name == b"x-a"], [b"1", b"2"])
        self.assertIn((b"x-name", b"v"), headers)
        self.assertEqual(response.headers["x-name"], "v")
        for name in ("cookie", "referer"):
            self.assertNotIn(name, sent)

    async def test_a_header_beyond_ascii_spoils_no_answer(self):
        async def answer(request):
            await request.send_whole(
                b"{}", b"x-a: 1\r\nx-city: S\xc3\xa3o Paulo\r\nx-old: caf\xe9\r\nx-a: 2\r\n"
            )

        async with self.sending(answer) as (_, send):
            response = await send()

            self.assertEqual(await BodyReader(response).read(100), (b"{}", True))
            self.assertEqual(
                [value for name, value in raw_headers_of(response) if name == b"x-a"], [b"1", b"2"]
            )

    async def test_no_cookie_is_kept_from_one_call_to_the_next(self):
        async def answer(request):
            await request.send_whole(b"{}", b"set-cookie: session=1; Path=/\r\n")

        async with self.sending(answer) as (server, send):
            for _ in range(2):
                await BodyReader(await send()).read(100)

        self.assertEqual(len(server.requests), 2)
        self.assertNotIn("cookie", server.requests[1].headers)

    async def test_large_bodies_go_both_ways(self):
        large = os.urandom(1 << 20) * 12

        async def answer(request):
            await request.send_whole(request.body)

        async with self.sending(answer) as (server, send):
            response = await send(body=large)
            body = b"".join([chunk async for chunk in response.stream])

        self.assertEqual(server.requests[0].body, large)
        self.assertEqual(body, large)

    async def test_a_small_answer_that_is_read_at_once_is_whole(self):
        for body in (b"", b"x", b"y" * 65_536, b"z" * 65_537, b"w" * 1_000_000):

            async def answer(request, body=body):
                await request.send_whole(body)

            async with self.sending(answer) as (_, send):
                response = await send()

                self.assertEqual(await BodyReader(response).read(2_000_000), (body, True), len(body))

    async def test_reading_stops_a_little_above_the_limit(self):
        async def answer(request):
            await request.send_whole(b"x" * 5_000_000)

        async with self.sending(answer) as (_, send):
            data, is_whole = await BodyReader(await send()).read(1_000_000)

        self.assertFalse(is_whole)
        self.assertGreater(len(data), 1_000_000)
        self.assertLess(len(data), 4_000_000)

    async def test_a_connection_is_used_again(self):
        async def answer(request):
            await request.send_whole(b"{}")

        async with self.sending(answer) as (server, send):
            for _ in range(5):
                response = await send()
                await BodyReader(response).read(100)
                await response.stream.aclose()

            self.assertEqual((server.connections, len(server.requests)), (1, 5))


class HangingUpTests(TransportCase):
    """Whoever stops listening to a provider hangs up on it: it may stop generating, and billing."""

    async def endless(self, request):
        await request.send(CHUNKED)
        await request.send_chunk(b"first")
        await request.until_closed()

    async def silent(self, request):
        await request.until_closed()

    async def test_closing_a_response_closes_its_connection(self):
        async with self.sending(self.endless) as (server, send):
            response = await send()
            await response.stream.read_chunk()

            await response.stream.aclose()

            async with asyncio.timeout(3):
                await server.requests[0].is_closed.wait()

    async def test_cancelling_a_read_and_closing_closes_the_connection(self):
        async with self.sending(self.endless) as (server, send):
            response = await send()
            await response.stream.read_chunk()
            reading = asyncio.create_task(response.stream.read_chunk())
            await asyncio.sleep(0.05)

            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await response.stream.aclose()

            async with asyncio.timeout(3):
                await server.requests[0].is_closed.wait()
            self.assertTrue(reading.cancelled())

    async def test_a_call_cancelled_before_its_head_is_hung_up_on(self):
        async with self.sending(self.silent, read_timeout_s=60) as (server, send):
            sending = asyncio.create_task(send())
            while not server.requests:
                await asyncio.sleep(0.01)

            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

            async with asyncio.timeout(3):
                await server.requests[0].is_closed.wait()
            self.assertTrue(sending.cancelled())

    async def test_closing_twice_is_as_good_as_once(self):
        async with self.sending(self.endless) as (_, send):
            response = await send()

            await response.stream.aclose()
            await response.stream.aclose()


class TimeoutTests(TransportCase):
    async def test_a_silent_provider_is_a_read_timeout(self):
        async def answer(request):
            await request.until_closed()

        async with self.sending(answer, read_timeout_s=0.2) as (_, send):
            with self.assertRaises(httpx.ReadTimeout):
                await send()

    async def test_a_stream_that_falls_silent_is_a_read_timeout(self):
        async def answer(request):
            await request.send(CHUNKED)
            await request.send_chunk(b"first")
            await request.until_closed()

        async with self.sending(answer, read_timeout_s=0.2) as (_, send):
            response = await send()
            first = await response.stream.read_chunk()
            with self.assertRaises(httpx.ReadTimeout):
                await response.stream.read_chunk()

        self.assertEqual(first, b"first")

    async def test_timeouts_do_not_add_up(self):
        """A stream may take much longer than its timeout, as long as something comes."""

        async def answer(request):
            await request.send(CHUNKED)
            for _ in range(6):
                await asyncio.sleep(0.15)
                await request.send_chunk(b"x")
            await request.send_chunk(b"")

        async with self.sending(answer, connect_timeout_s=0.3, read_timeout_s=0.4) as (_, send):
            response = await send()
            body = b"".join([chunk async for chunk in response.stream])

        self.assertEqual(body, b"x" * 6)
