"""
How long lists of a million customers take: `make bench-lists`.

Each request goes through the whole of Django in this process: middleware, view, queries,
JSON or page; the network is left out. The customers are made up in a database of this
bench's own, on the PostgreSQL server that BENCH_DATABASE_URL names; it is kept for the
next run, which then starts at once, and dropped with `--drop`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.machine import describe
from bench.parties import DATABASE_URL, PROJECT_ROOT, clean_environment, postgresql

NAME = "spend_bench_lists"
MASTER_KEY = "sk-master-of-this-bench"
BAR_MS = 300

# Ids of three kinds, so that their order says nothing of when they were made; every fourth has no name.
_FILL = """
TRUNCATE customers_customer, billing_spendtotal CASCADE;
INSERT INTO customers_customer
    (id, alias, blocked, allowed_model_region, default_model, metadata, created_at, updated_at)
SELECT
    CASE n %% 3
        WHEN 0 THEN 'customer-' || lpad(n::text, 7, '0')
        WHEN 1 THEN md5(n::text)::uuid::text
        ELSE 'user' || n || '@example' || n %% 977 || '.com' END,
    CASE WHEN n %% 4 = 0 THEN '' ELSE
        (ARRAY['Acme','Globex','Initech','Umbrella','Hooli','Stark','Wayne','Wonka','Tyrell'])[1 + n %% 9]
        || ' '
        || (ARRAY['Berlin','Paris','Oslo','Rome','Lisbon','Madrid','Vienna'])[1 + n %% 7] || ' ' || n END,
    n %% 1000 = 0, '', '', '{}', now() - n * interval '20 seconds', now()
FROM generate_series(1, %(number)s) n;
INSERT INTO billing_spendtotal (holder_type, holder_id, cost, charge, calls, failed_calls, unpriced_calls,
    prompt_tokens, completion_tokens, last_call_at)
SELECT 'customer', id, random() * 1e9, random() * 1e9, 10, 0, 0, 1000, 100, now() FROM customers_customer;
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description="Measure long lists.")
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=30, help="requests of each kind (30)")
    parser.add_argument("--drop", action="store_true", help="drop the database, measure nothing")
    wanted = parser.parse_args()
    server = postgresql(os.environ.get("BENCH_DATABASE_URL", DATABASE_URL))
    if server is None:
        print("bench: PostgreSQL does not answer (BENCH_DATABASE_URL names another)", file=sys.stderr)
        return 1
    if wanted.drop:
        _on(server, f"DROP DATABASE IF EXISTS {NAME}")
        return 0
    url = urlsplit(server)._replace(path=f"/{NAME}").geturl()
    with tempfile.TemporaryDirectory(prefix="bench-lists-") as folder:
        _prepare(server, url, wanted.customers, folder)
        slow = _measure(wanted.customers, wanted.rounds)
    return 1 if slow else 0


def _prepare(server: str, url: str, number: int, folder: str) -> None:
    """Bring up the database, with that many customers, and Django on it."""
    with psycopg.connect(server, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
    if not found:
        _on(server, f"CREATE DATABASE {NAME}")
    environment = {
        **clean_environment(),
        "ENV_FILE": os.devnull,
        "VAR_DIR": folder,
        "MASTER_KEY": MASTER_KEY,
        "SECRET_KEY": "for-this-bench-only-" + "x" * 40,
        "DATABASE_URL": url,
        "STATIC_ROOT": folder,
    }
    for command in (["migrate"], ["collectstatic", "--no-input"]):
        command = [sys.executable, "manage.py", *command, "--verbosity", "0"]
        subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True)
    with psycopg.connect(url, autocommit=True) as connection:
        [count] = connection.execute("SELECT count(*) FROM customers_customer").fetchone() or [0]
        if count != number:
            print(f"bench: making {number:,} customers", flush=True)
            psycopg.ClientCursor(connection).execute(_FILL, {"number": number})
            connection.execute("VACUUM ANALYZE customers_customer")
            connection.execute("VACUUM ANALYZE billing_spendtotal")
    os.environ.update(environment, DJANGO_SETTINGS_MODULE="spendproject.settings")
    import django

    django.setup()


def _measure(number: int, rounds: int) -> bool:
    """Print a line for each kind of request; tell whether one is slower than the bar."""
    print("\n".join(f"{name}: {value}" for name, value in describe()))
    print(f"{number:,} customers, {rounds} requests of each kind, milliseconds\n")
    print(f"{'request':<58}{'p50':>8}{'p95':>8}{'most':>8}")
    slow = False
    for name, request in _requests(number):
        request()  # the first one brings pages and code into memory
        took = sorted(_milliseconds(request) for _ in range(rounds))
        p95 = took[max(0, -(-len(took) * 95 // 100) - 1)]
        slow |= p95 > BAR_MS
        mark = "  over the bar" if p95 > BAR_MS else ""
        print(f"{name:<58}{statistics.median(took):>8.1f}{p95:>8.1f}{took[-1]:>8.1f}{mark}", flush=True)
    return slow


def _requests(number: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    last = number // 100
    common, some, rare, none, short = "customer", "lisbon", f"oslo {number - 16}"[:8], "no such one", "qq"
    api = _api()
    for name, query in (
        ("first page", {"page": 1, "page_size": 100}),
        ("middle page", {"page": last // 2, "page_size": 100}),
        ("last page", {"page": last, "page_size": 100}),
        ("search, common, first page", {"page": 1, "search": common}),
        ("search, common, page 100", {"page": 100, "search": common}),
        ("search, common, last page shown", {"page": 100, "page_size": 100, "search": common}),
        ("search, every tenth, page 10", {"page": 10, "search": some}),
        ("search, rare", {"page": 1, "search": rare}),
        ("search, no hit", {"page": 1, "search": none}),
        ("search, two letters without a hit", {"page": 1, "search": short}),
    ):
        yield f"GET /customer/list: {name}", lambda query=query: api("/customer/list", query)
    admin = _admin()
    path = "/admin/customers/customer/"
    for name, query in (
        ("first page", {}),
        ("last page", {"p": 200}),
        ("blocked", {"blocked__exact": 1}),
        ("search, common", {"q": common}),
        ("search, every tenth", {"q": some}),
        ("search, rare", {"q": rare}),
        ("search, no hit", {"q": none}),
        ("search, two letters without a hit", {"q": short}),
    ):
        yield f"admin: {name}", lambda query=query: admin(path, query)


def _api() -> Callable[[str, dict[str, Any]], Any]:
    from django.test import Client

    client = Client(headers={"authorization": f"Bearer {MASTER_KEY}", "host": "localhost"})
    return lambda path, query: _checked(client.get(path, query))


def _admin() -> Callable[[str, dict[str, Any]], Any]:
    from django.test import Client

    from customers.models import User

    user = User.objects.filter(username="bench").first() or User.objects.create_superuser("bench")
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return lambda path, query: _checked(client.get(path, query))


def _checked(response: Any) -> Any:
    if response.status_code != 200:
        raise RuntimeError(f"{response.status_code}: {response.content[:300]!r}")
    return response


def _milliseconds(request: Callable[[], Any]) -> float:
    started = time.perf_counter()
    request()
    return (time.perf_counter() - started) * 1000


def _on(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)


if __name__ == "__main__":
    sys.exit(main())
