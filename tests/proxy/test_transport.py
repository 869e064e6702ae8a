"""
The transport's failures by name: what was provably not sent, and what may have been billed.

Against sockets that misbehave below HTTP, which `tests/provider` cannot.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from proxy.transport import PyreqwestTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Accept one connection, read the request, let `answer` do as it likes, and hang up at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    answer(connection)
                    if answer is hang:
                        done.wait(10)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def hang(connection: socket.socket) -> None:
    """Send nothing, and keep the connection."""


def send(url: str, *, read_timeout_s: float = 0.3) -> bytes:
    """Post to `url` and return the answer's body."""

    async def call() -> bytes:
        transport = PyreqwestTransport(connect_timeout_s=1, read_timeout_s=read_timeout_s)
        try:
            response = await transport.handle_async_request(httpx.Request("POST", url, content=b"{}"))
            try:
                return b"".join([chunk async for chunk in response.stream])
            finally:
                await response.stream.aclose()
        finally:
            await transport.aclose()

    return asyncio.run(call())


class TestProvablyNotSent:
    def test_nobody_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        with pytest.raises(httpx.ConnectError):
            send(f"http://127.0.0.1:{port}/v1")

    def test_there_is_no_such_host(self):
        with pytest.raises(httpx.ConnectError):
            send("http://no-such-host.invalid/v1")

    def test_nobody_accepts(self):
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # fill the queue of connections that wait to be accepted
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(listener.getsockname())

            with pytest.raises(httpx.ConnectTimeout):
                send(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", read_timeout_s=3)


class TestPerhapsBilled:
    def test_no_answer_in_time(self):
        with server(hang) as url, pytest.raises(httpx.ReadTimeout):
            send(url)

    @pytest.mark.parametrize(
        "said",
        [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"nonsense\r\n\r\n"],
        ids=["nothing", "half", "nonsense"],
    )
    def test_a_broken_answer(self, said):
        with server(lambda connection: connection.sendall(said)) as url, pytest.raises(httpx.ReadError):
            send(url)

    def test_a_body_that_is_cut_off(self):
        said = HEAD + b"content-length: 100\r\n\r\nshort"

        with server(lambda connection: connection.sendall(said)) as url, pytest.raises(httpx.ReadError):
            send(url)


def test_a_whole_answer_arrives():
    said = HEAD + b"content-length: 5\r\n\r\nhello"

    with server(lambda connection: connection.sendall(said)) as url:
        assert send(url) == b"hello"
