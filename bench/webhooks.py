"""
What webhooks cost, and how many a worker delivers: `make bench-webhooks`.

Two figures. Booking: the CPU of the process that books calls, with an endpoint that wants
every call and without. Delivering: events a second from the outbox to a receiver on this
machine, by one worker process; its CPU says how many one core can do. The database is
one of this bench's own, on the PostgreSQL server that BENCH_DATABASE_URL names, or SQLite
(`--sqlite`).
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.machine import describe
from bench.parties import DATABASE_URL, PROJECT_ROOT, clean_environment, free_port, postgresql

NAME = "spend_bench_webhooks"
BAR_PER_SECOND = 500
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.webhooks", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=200, help="calls booked at a time (200)")
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--receive", type=int, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.receive:
        asyncio.run(_receive(wanted.receive))
        return 0
    with tempfile.TemporaryDirectory(prefix="spend-bench-") as folder:
        url = _database(folder, is_sqlite=wanted.sqlite)
        if url is None:
            print("bench: PostgreSQL does not answer (BENCH_DATABASE_URL names another)", file=sys.stderr)
            return 3
        os.environ |= {
            "DATABASE_URL": url, "ENV_FILE": os.devnull, "VAR_DIR": folder, "SECRET_KEY": "x" * 50,
            "MASTER_KEY": "sk-master-of-this-bench", "DJANGO_SETTINGS_MODULE": "spendproject.settings",
            "WEBHOOK_ALLOW_PRIVATE": "true",
        }  # fmt: skip
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=PROJECT_ROOT, check=True)
        port = free_port()
        receiver = subprocess.Popen(
            [sys.executable, "-m", "bench.webhooks", "--receive", str(port)],
            cwd=PROJECT_ROOT,
            env=clean_environment(),
        )
        try:
            return _measure(wanted.events, wanted.batch, f"http://127.0.0.1:{port}/hook")
        finally:
            receiver.kill()


def _database(folder: str, *, is_sqlite: bool) -> str | None:
    if is_sqlite:
        return f"sqlite:///{Path(folder) / 'bench.sqlite3'}"
    server = postgresql(os.environ.get("BENCH_DATABASE_URL", DATABASE_URL))
    if server is None:
        return None
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {NAME}")
        connection.execute(f"CREATE DATABASE {NAME}")
    return urlsplit(server)._replace(path=f"/{NAME}").geturl()


def _measure(events: int, batch: int, url: str) -> int:
    import django

    django.setup()
    from billing.webhooks.endpoints import create_endpoint
    from billing.webhooks.events import forget_receivers

    for name, value in describe():
        print(f"{name}: {value}")
    _book(_calls(2 * batch), batch)
    without = _book(_calls(events), batch)
    create_endpoint(url=url)
    forget_receivers()
    told = _book(_calls(events), batch)
    print(f"booking {events:,} calls in batches of {batch}, CPU of the process that books, each")
    print(f"  without an endpoint  {without * 1e6:6.1f} µs")
    print(f"  with one             {told * 1e6:6.1f} µs   ({(told - without) * 1e6:+.1f} µs)")
    wall, cpu = _deliver(events)
    print(f"delivering {events:,} events to one receiver by one worker process")
    print(
        f"  {events / wall:,.0f} events/s; {cpu / events * 1e6:.0f} µs of CPU each: "
        f"{events / cpu:,.0f} events/s a core"
    )
    return 0 if events / wall >= BAR_PER_SECOND else 1


def _calls(count: int) -> list[Any]:
    from tests.billing.making import make_call

    keys = [uuid.UUID(int=n + 1).bytes for n in range(100)]
    return [
        make_call(
            customer_id=f"customer-{n % 2_000}", key_id=keys[n % 100], team_id=f"team-{n % 10}",
            tags=["a", f"t{n % 20}"], cost_usd="0.001112",
        )
        for n in range(count)
    ]  # fmt: skip


def _book(calls: Sequence[Any], batch: int) -> float:
    """Return the CPU that booking took here, in seconds per call: the median of the batches."""
    from tests.billing.making import book_calls

    took = []
    for start in range(0, len(calls), batch):
        began = time.process_time()
        book_calls(*calls[start : start + batch])
        took.append((time.process_time() - began) / batch)
    return statistics.median(took)


def _deliver(events: int) -> tuple[float, float]:
    """Return how long it takes to deliver what is due, in seconds by the clock and of CPU."""
    from django.db.models import Max

    from billing.models import Delivery
    from billing.sinks.registry import make_sinks
    from billing.webhooks.deliverer import deliver

    began, began_cpu = datetime.now(UTC), time.process_time()
    attempts = deliver(sinks=make_sinks, seconds=600, linger=10)
    cpu = time.process_time() - began_cpu
    last = Delivery.objects.aggregate(last=Max("delivered_at"))["last"]
    left = Delivery.objects.exclude(state=Delivery.State.DELIVERED).count()
    if attempts < events or left:
        raise RuntimeError(f"{attempts} attempts for {events} events, {left} are left")
    return (last - began).total_seconds(), cpu


async def _receive(port: int) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", port, backlog=256)
    async with server:
        await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(_ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


if __name__ == "__main__":
    sys.exit(main())
