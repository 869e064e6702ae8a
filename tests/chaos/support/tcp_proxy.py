"""
A wire between a gateway and its database that a test can cut, and mend.

`stop()` is a stopped server: connections break, new ones are refused. `hang()` is a
network that swallows everything: connections are taken, nothing passes, nobody is
told. `resume()` ends either; what was held back then passes. It runs in a thread.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any


class DatabaseWire:
    """A context manager. Clients connect to `port` on 127.0.0.1 in the server's stead."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="database-wire", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def __enter__(self) -> "DatabaseWire":
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def stop(self) -> None:
        self._do(self._cut)

    def hang(self) -> None:
        self._loop.call_soon_threadsafe(self._passes.clear)

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self._passes.set)
        self._do(self._listen)

    # -- in the thread -----------------------------------------------------------------

    def _do(self, work: Callable[[], Awaitable[Any]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(timeout=10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._passes.wait()
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            self._writers.add(server_writer)
            try:
                await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))
            finally:
                self._writers.discard(server_writer)
                server_writer.transport.abort()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
