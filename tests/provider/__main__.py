"""Run the fake provider: `python -m tests.provider --port 0 [--host H] [--bill-file PATH]`."""

import argparse
import asyncio
import json
import resource
import signal
from pathlib import Path

from tests.provider.connection import Connection
from tests.provider.provider import Provider

try:
    from uvloop import new_event_loop
except ImportError:
    new_event_loop = None


def allow_many_sockets() -> None:
    """Raise the limit of open files as far as we may: each stream is a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve(host: str, port: int, provider: Provider) -> None:
    """Print the address, then serve until SIGTERM or SIGINT; open streams are then dropped."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(lambda: Connection(provider), host, port, backlog=4096)
    address = server.sockets[0].getsockname()
    print(f"provider listening on http://{address[0]}:{address[1]}", flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description="The fake provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--bill-file", type=Path, help="where to write the bill on exit")
    options = parser.parse_args()

    allow_many_sockets()
    provider = Provider()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(options.host, options.port, provider))
    if options.bill_file:
        options.bill_file.write_text(json.dumps(provider.bill.as_dict()))


if __name__ == "__main__":
    main()
