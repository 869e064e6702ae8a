"""
An HTTP/1.1 client on a bare socket, for clients that misbehave.

It reads only when told to, so that it can stop; it hangs up in the middle of
anything, gently or with a reset. One request at a time, kept alive unless closed.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 60


class Head(NamedTuple):
    status: int
    headers: dict[str, str]


class HungUp(ConnectionError):
    """The other side closed before its answer was complete."""


class Connection:
    """One client connection. `await Connection.open(port)`; every wait ends after a minute."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, *, holds_little: bool = False) -> "Connection":
        """holds_little: the kernel takes in no more than 100 KB for a client that does not read.

        By itself it takes megabytes, most of them on the sender's side; small segments
        keep that side small too.
        """
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if holds_little:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        connection = cls(sock)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await connection._loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return connection

    @property
    def socket_name(self) -> tuple[str, int]:
        """Return our own address: (host, port)."""
        return self._sock.getsockname()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._loop.sock_sendall(self._sock, data)

    async def head(self) -> Head:
        """Read the head of an answer. Raises: HungUp."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            await self._more()
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        pairs = (line.partition(":") for line in lines)
        return Head(int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs})

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, to its end. Raises: HungUp."""
        if "chunked" not in head.headers.get("transfer-encoding", ""):
            left = int(head.headers.get("content-length", 0))
            while left:
                if not self._buffer:
                    await self._more()
                piece = self._take(min(left, len(self._buffer)))
                left -= len(piece)
                yield piece
            return
        while size := int(await self._line(), 16):
            while len(self._buffer) < size + 2:
                await self._more()
            yield self._take(size + 2)[:-2]
        await self._line()

    async def body(self, head: Head) -> bytes:
        return b"".join([piece async for piece in self.pieces(head)])

    async def answer(self, request: bytes) -> tuple[Head, bytes]:
        """Send a request and read its whole answer."""
        await self.send(request)
        head = await self.head()
        return head, await self.body(head)

    def close(self) -> None:
        """Hang up with FIN; with RST where the kernel holds unread bytes."""
        self._sock.close()

    def reset(self) -> None:
        """Hang up with RST, as a killed machine's network stack does."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and stay."""
        self._sock.shutdown(socket.SHUT_WR)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def _more(self) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            data = await self._loop.sock_recv(self._sock, 65_536)
        if not data:
            raise HungUp("closed before the answer was complete")
        self._buffer += data

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._more()
        return self._take(end + 2)[:-2]

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def post(path: str, body: dict[str, Any], headers: dict[str, str]) -> bytes:
    """Return a whole request."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"content-length: {len(data)}", "", ""]).encode() + data


def get(path: str, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()
