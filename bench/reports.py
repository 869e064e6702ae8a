"""
How long usage pages, reports and the Logs page take with ten million calls: `make bench-reports`.

Each request goes through the whole of Django in this process: middleware, view, queries,
JSON or page; the network is left out. What is sent as it is made is timed until its first
part. CPU is that of this process and of the database's that answers it, where that one runs
on this machine: it is the same on a busy machine, where milliseconds are not. The calls are
made up (`manage.py seed_demo`) in a database of this bench's own, on the PostgreSQL server
that BENCH_DATABASE_URL names; the last day of them stands for today: it is not closed. The
database is dropped at the end; with `--keep` the next run starts at once.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg

from bench.machine import describe
from bench.parties import DATABASE_URL, PROJECT_ROOT, clean_environment, postgresql
from bench.sections import REPORTS, put

NAME = "spend_bench_reports"
MASTER_KEY = "sk-master-of-this-bench"
BAR_MS = 300
PAGE = PROJECT_ROOT / "docs" / "benchmarks.md"
RANGES = (30, 90)  # days
TABS = ("", "customers/", "models/", "keys/", "teams/", "users/", "tags/", "clients/")
_SORTS = ("", "-calls", "-failed_calls", "-total_tokens", "-rate")

Ask = Callable[[int], Any]  # one request; the number varies what it asks for


class Timed(NamedTuple):
    """One kind of request: milliseconds of each, by the clock and of CPU, sorted."""

    name: str
    took: list[float]
    cpu: list[float]

    @property
    def p50(self) -> float:
        return statistics.median(self.took)

    @property
    def p95(self) -> float:
        return _at_95(self.took)

    @property
    def cpu_p50(self) -> float:
        return statistics.median(self.cpu)

    @property
    def cpu_p95(self) -> float:
        return _at_95(self.cpu)


def _at_95(values: list[float]) -> float:
    return values[max(0, -(-len(values) * 95 // 100) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reports", description="Measure pages and reports.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20, help="requests of each kind (20)")
    parser.add_argument("--only", default="", help="only kinds with this in their name")
    parser.add_argument("--database", default=NAME, help=f"its name on the server ({NAME})")
    parser.add_argument("--keep", action="store_true", help="leave the database for the next run")
    parser.add_argument("--no-write", action="store_true", help="print only")
    wanted = parser.parse_args()
    server = postgresql(os.environ.get("BENCH_DATABASE_URL", DATABASE_URL))
    if server is None:
        print("bench: PostgreSQL does not answer (BENCH_DATABASE_URL names another)", file=sys.stderr)
        return 1
    url = urlsplit(server)._replace(path=f"/{wanted.database}").geturl()
    with tempfile.TemporaryDirectory(prefix="bench-reports-") as folder:
        try:
            _prepare(server, url, wanted, folder)
            timed = _measure(wanted)
        finally:
            if not wanted.keep:
                _on(server, f"DROP DATABASE IF EXISTS {wanted.database} WITH (FORCE)")
    if not wanted.no_write and not wanted.only:
        put(PAGE, REPORTS, _section(timed, wanted))
        print(f"\nWritten: {PAGE.relative_to(PROJECT_ROOT)}")
    return 1 if any(each.p95 > BAR_MS for each in timed) else 0


def _prepare(server: str, url: str, wanted: argparse.Namespace, folder: str) -> None:
    """Bring up the database, with its calls, and Django on it."""
    with psycopg.connect(server, autocommit=True) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", [wanted.database]
        ).fetchone()
    if not found:
        _on(server, f"CREATE DATABASE {wanted.database}")
    environment = {
        **clean_environment(),
        "ENV_FILE": os.devnull,
        "VAR_DIR": folder,
        "MASTER_KEY": MASTER_KEY,
        "SECRET_KEY": "for-this-bench-only-" + "x" * 40,
        "DATABASE_URL": url,
        "STATIC_ROOT": folder,
    }
    _manage(environment, "migrate", "--verbosity", "0")
    _manage(environment, "collectstatic", "--no-input", "--verbosity", "0")
    if not found:
        _manage(environment, "seed_demo", f"--rows={wanted.rows}", f"--customers={wanted.customers}")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    os.environ.update(environment, DJANGO_SETTINGS_MODULE="spendproject.settings")
    import django

    django.setup()


def _manage(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "manage.py", *arguments], cwd=PROJECT_ROOT, env=environment, check=True)


def _on(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)


# -- measuring --------------------------------------------------------------------------


def _measure(wanted: argparse.Namespace) -> list[Timed]:
    """Print a line for each kind of request, and return them."""
    print("\n".join(f"{name}: {value}" for name, value in describe()))
    print(
        f"{wanted.rows:,} calls of {wanted.customers:,} customers, "
        f"{wanted.rounds} requests of each kind, milliseconds\n"
    )
    print(f"{'request':<72}{'p50':>8}{'p95':>8}{'CPU p50':>9}{'p95':>8}")
    timed = []
    for name, ask in _requests():
        if wanted.only not in name:
            continue
        ask(-1)  # the first one brings code and pages into memory
        took = [_milliseconds(ask, number) for number in range(wanted.rounds)]
        timed.append(each := Timed(name, sorted(wall for wall, _ in took), sorted(cpu for _, cpu in took)))
        mark = "  over the bar" if each.p95 > BAR_MS else ""
        print(
            f"{name:<72}{each.p50:>8.1f}{each.p95:>8.1f}{each.cpu_p50:>9.1f}{each.cpu_p95:>8.1f}{mark}",
            flush=True,
        )
    return timed


def _milliseconds(ask: Ask, number: int) -> tuple[float, float]:
    """Return what one request took by the clock, and of CPU."""
    started, busy = time.perf_counter(), _cpu_ms()
    ask(number)
    return (time.perf_counter() - started) * 1000, _cpu_ms() - busy


def _cpu_ms() -> float:
    """Return what this process and its process of the database have been busy for."""
    from django.db import connection

    connection.ensure_connection()
    # Nanoseconds; `times` counts in hundredths of a second.
    schedule = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat")
    is_here = connection.settings_dict["HOST"] in ("", "localhost", "127.0.0.1") and schedule.exists()
    database = int(schedule.read_text().split()[0]) / 1e6 if is_here else 0.0
    return time.process_time() * 1000 + database


class _Names(NamedTuple):
    """What there is to ask for."""

    last: date
    customers: list[str]
    keys: list[str]
    hashes: list[str]
    teams: list[str]
    users: list[str]
    models: list[str]
    tags: list[str]
    tools: list[str]

    def days(self, length: int, number: int) -> tuple[date, date]:
        """Return so many days that end on the last one, or a little before: no two requests are alike."""
        end = self.last - timedelta(days=number % 5 if length < 90 else 0)
        return max(end - timedelta(days=length - 1), self.last - timedelta(days=89)), end


def _names() -> _Names:
    """Read what there is, and have the last day open, as today is."""
    from billing.demo.seeding import MODELS
    from billing.models import ClosedSpan, DailyOverview, TagSetMember
    from customers.models import Team, User, VirtualKey

    last = DailyOverview.objects.order_by("-pk").values_list("day", flat=True)[0]
    ClosedSpan.objects.filter(last_day__gte=last).delete()
    dice = random.Random(7)
    keys = list(VirtualKey.objects.filter(alias__startswith="demo key").values_list("pk", "token_hash"))
    dice.shuffle(keys)
    return _Names(
        last,
        [f"customer-{int(10 ** dice.uniform(0, 4)):06d}" for _ in range(100)],
        [str(pk) for pk, _ in keys],
        [hash_ for _, hash_ in keys],
        list(Team.objects.values_list("pk", flat=True)),
        list(User.objects.filter(username__startswith="demo").values_list("pk", flat=True)),
        [model.name for model in MODELS],
        list(TagSetMember.objects.order_by("tag").values_list("tag", flat=True).distinct()),
        ["OpenAI SDK", "Claude Code", "Open WebUI"],
    )


def _requests() -> Iterator[tuple[str, Ask]]:
    names = _names()
    yield from _usage_pages(names)
    yield from _other_pages(names)
    yield from _reports(names)
    yield from _activities(names)
    yield from _logs(names)


def _usage_pages(names: _Names) -> Iterator[tuple[str, Ask]]:
    ask = _admin()
    filters = {
        "a customer": ("customer", names.customers), "a key": ("key", names.keys),
        "a team": ("team", names.teams), "a user": ("user", names.users),
        "a model": ("model", names.models), "a tag": ("tag", names.tags), "a client": ("client", names.tools),
    }  # fmt: skip

    def page(tab: str, length: int, **more: Callable[[int], Any]) -> Ask:
        def get(number: int) -> Any:
            start, end = names.days(length, number)
            varied = {name.rstrip("_"): value(number) for name, value in more.items()}
            return ask(f"/admin/usage/{tab}", {"from": str(start), "to": str(end), **varied})

        return get

    for tab in TABS:
        shown = tab.rstrip("/") or "overview"
        for length in RANGES:
            yield f"usage, {shown}, {length} days", page(tab, length)
        if tab:
            yield f"usage, {shown}, 30 days, sorted", page(tab, 30, sort=_of(_SORTS))
        yield f"usage, {shown}, 30 days, compared", page(tab, 30, compare=lambda number: "previous")
        for label, (field, values) in filters.items():
            yield f"usage, {shown}, 30 days, of {label}", page(tab, 30, **{field: _of(values)})
    yield (
        "usage, customers, 30 days, searched",
        page("customers/", 30, q=lambda number: f"{number % 1000:03d}"),
    )
    yield (
        "usage, customers, 30 days, page 1,000",
        page("customers/", 30, page_=lambda number: 1000 + number, sort=lambda number: "-spend"),
    )
    yield (
        "usage, three customers compared, 30 days",
        page("", 30, customer=lambda number: _three(names, number), compare=lambda number: "customers"),
    )


def _three(names: _Names, number: int) -> list[str]:
    return list(dict.fromkeys(names.customers[(number * 3 + at) % 100] for at in range(3)))


def _of(values: Any) -> Callable[[int], Any]:
    return lambda number: values[number % len(values)]


def _other_pages(names: _Names) -> Iterator[tuple[str, Ask]]:
    ask = _admin()
    yield (
        "a customer's page",
        lambda number: ask(f"/admin/customers/customer/{_of(names.customers)(number)}/change/", {}),
    )
    yield "first page of the admin", lambda number: ask("/admin/", {})


def _reports(names: _Names) -> Iterator[tuple[str, Ask]]:
    """The endpoints of the contract's sections 6.1 and 6.4."""
    ask = _api()

    def report(path: str, length: int = 30, **more: Callable[[int], Any]) -> Ask:
        def get(number: int) -> Any:
            start, end = names.days(length, number)
            varied = {name: value(number) for name, value in more.items()}
            return ask(path, {"start_date": str(start), "end_date": str(end), **varied})

        return get

    spend = "/global/spend/report"
    for length in RANGES:
        yield f"{spend} by team, {length} days, first part", report(spend, length)
        yield f"{spend} by api_key, {length} days", report(spend, length, group_by=_of(["api_key"]))
    yield f"{spend} by customer, 30 days, first part", report(spend, group_by=_of(["customer"]))
    yield (
        f"{spend} of a customer",
        report(spend, group_by=_of(["customer"]), customer_id=_of(names.customers)),
    )
    yield f"{spend} of a team", report(spend, team_id=_of(names.teams))
    yield (
        f"{spend} of a team and a customer",
        report(spend, team_id=_of(names.teams), customer_id=_of(names.customers)),
    )
    yield f"{spend} of a key", report(spend, api_key=_of(names.hashes))
    yield f"{spend} of a user", report(spend, internal_user_id=_of(names.users))
    yield "/key/spend/report", report("/key/spend/report", api_key=_of(names.hashes))
    yield "/user/spend/report", report("/user/spend/report", user_id=_of(names.users))
    yield "/team/spend/report, first part", report("/team/spend/report")
    for path in (
        "/spend/keys", "/spend/users", "/global/spend/all_tag_names", "/global/spend",
        "/global/spend/logs", "/global/spend/keys", "/global/spend/teams", "/global/spend/models",
        "/provider/budgets", "/tag/distinct", "/tag/dau", "/tag/wau", "/tag/mau",
        "/tag/user-agent/per-user-analytics", "/global/all_end_users",
    ):  # fmt: skip
        yield path, lambda number, path=path: ask(path, {})
    for path in (
        "/spend/tags", "/global/spend/tags", "/global/spend/provider", "/global/activity",
        "/global/activity/model", "/global/activity/exceptions", "/global/activity/exceptions/deployment",
        "/tag/summary",
    ):  # fmt: skip
        for length in RANGES:
            yield f"{path}, {length} days", report(path, length)
    yield "/global/spend/tags of a tag", report("/global/spend/tags", tags=_of(names.tags))
    post = _api(method="post")
    for length in RANGES:
        yield (
            f"/global/spend/end_users, {length} days",
            lambda number, length=length: post(
                "/global/spend/end_users",
                dict(zip(("startTime", "endTime"), map(str, names.days(length, number)), strict=True)),
            ),
        )


def _activities(names: _Names) -> Iterator[tuple[str, Ask]]:
    """The endpoints of the contract's section 6.6."""
    ask = _api()
    of_one = {
        "user": ("user_id", names.users), "team": ("team_ids", names.teams), "tag": ("tags", names.tags),
        "customer": ("end_user_ids", names.customers),
    }  # fmt: skip
    for entity, (field, values) in of_one.items():
        path = f"/{entity}/daily/activity"

        def page(number: int, path: str = path, **more: Any) -> Any:
            start, end = names.days(30, number)
            given = {name: value(number) for name, value in more.items()}
            size = (
                {} if "aggregated" in path or "export" in path else {"page": 1 + number % 3, "page_size": 10}
            )
            return ask(path, {"start_date": str(start), "end_date": str(end), **size, **given})

        one = {field: _of(values)}
        yield f"{path}, 10 of 30 days", page
        yield f"{path}, 10 of 30 days, of one", lambda number, page=page, one=one: page(number, **one)
        yield (
            f"{path}, 10 of 30 days, of a model",
            lambda number, page=page: page(number, model=_of(names.models)),
        )
        yield (
            f"{path}, 10 of 30 days, of a key",
            lambda number, page=page: page(number, api_key=_of(names.hashes)),
        )
        yield (
            f"{path}/aggregated, 30 days, of one",
            lambda number, page=page, path=path, one=one: page(number, f"{path}/aggregated", **one),
        )
        yield (
            f"{path}/export, 30 days, first part",
            lambda number, page=page, path=path: page(number, f"{path}/export"),
        )


def _logs(names: _Names) -> Iterator[tuple[str, Ask]]:
    """The Logs page, and the endpoints of the contract's sections 6.2 and 6.3."""
    ask, admin = _api(), _admin()
    page = "/admin/billing/spendlog/"
    at = datetime.combine(names.last, datetime.min.time(), UTC)
    for label, field, values in (
        ("a customer", "customer", names.customers), ("a key", "key", names.keys),
        ("a team", "team", names.teams), ("a model", "model", names.models), ("a tag", "tag", names.tags),
    ):  # fmt: skip
        yield (
            f"Logs, of {label}",
            lambda number, field=field, values=values: admin(
                page, {_log_filter(field): values[number % len(values)]}
            ),
        )
    yield "Logs, newest", lambda number: admin(page, {})
    yield "Logs, failures", lambda number: admin(page, {"status": "failed"})
    yield (
        "Logs, from a day on, weeks back",
        lambda number: admin(
            page,
            {
                "started_at_from": (at - timedelta(days=20 + number)).isoformat(),
                "started_at_to": (at - timedelta(days=19 + number)).isoformat(),
            },
        ),
    )

    def sums(number: int, length: int = 30, **more: Any) -> Any:
        start, end = names.days(length, number)
        return ask("/spend/logs", {"start_date": str(start), "end_date": str(end), **more})

    for length in RANGES:
        yield f"/spend/logs, sums of {length} days", lambda number, length=length: sums(number, length)
    yield "/spend/logs, sums of a user", lambda number: sums(number, user_id=_of(names.users)(number))
    yield "/spend/logs, sums of a tag", lambda number: sums(number, tag=_of(names.tags)(number))

    def rows(number: int, **more: Any) -> Any:
        start, end = names.days(30, number)
        dates = {"start_date": f"{start} 00:00:00", "end_date": f"{end} 00:00:00"}
        return ask("/spend/logs/v2", {**dates, **more})

    yield "/spend/logs/v2, newest", rows
    yield "/spend/logs/v2, page 200", lambda number: rows(number, page=200)
    yield "/spend/logs/v2, of a customer", lambda number: rows(number, end_user=_of(names.customers)(number))
    yield "/spend/logs/v2, of a team", lambda number: rows(number, team_id=_of(names.teams)(number))
    yield "/spend/logs/v2, dearest first", lambda number: rows(number, sort_by="spend")


def _log_filter(name: str) -> str:
    from billing.admin.budgeted import LOG_FILTERS
    from billing.models import HolderType

    return name if name == "model" else LOG_FILTERS[HolderType(name)]


def _api(method: str = "get") -> Callable[[str, dict[str, Any]], Any]:
    from django.test import Client

    client = Client(headers={"authorization": f"Bearer {MASTER_KEY}", "host": "localhost"})
    kind = {} if method == "get" else {"content_type": "application/json"}
    return lambda path, given: _checked(getattr(client, method)(path, given, **kind), path)


def _admin() -> Callable[[str, dict[str, Any]], Any]:
    from django.test import Client

    from customers.models import User

    user = User.objects.filter(username="bench").first() or User.objects.create_superuser("bench")
    client = Client(headers={"host": "localhost"})
    client.force_login(user)
    return lambda path, given: _checked(client.get(path, given), path)


def _checked(response: Any, path: str) -> Any:
    """Wait for the answer, or the first part of one that is sent as it is made."""
    if response.status_code != 200:
        raise RuntimeError(f"{path}: {response.status_code}: {response.content[:300]!r}")
    if response.streaming:
        parts = iter(response.streaming_content)
        for part in parts:
            if len(part) > 100:  # not the bracket, nor the heads of the columns
                break
        response.close()
    return response


# -- telling ------------------------------------------------------------------------------


def _section(timed: list[Timed], wanted: argparse.Namespace) -> str:
    over = [each for each in timed if each.p95 > BAR_MS]
    said = "all met" if not over else f"**{len(over)} of {len(timed)} not met**"
    busy = [each for each in timed if each.cpu_p95 > BAR_MS]
    said_of_cpu = "all met" if not busy else f"{len(busy)} of {len(timed)} not met"
    lines = [
        f"Written by `make bench-reports` on {datetime.now(UTC).date()}: {wanted.rows:,} calls of "
        f"{wanted.customers:,} customers in 90 days, PostgreSQL, {wanted.rounds} requests of each kind, "
        "no two with the same filters and days. Milliseconds inside one process, network left out; CPU is "
        "that process's and the database's for it. "
        f"Bar: {BAR_MS} ms at p95 by the clock: {said}; by CPU: {said_of_cpu}.",
        "",
        "| machine |  |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in describe()),
        "",
        "| request | p50 | p95 | CPU, p50 | CPU, p95 |  |",
        "|---|---|---|---|---|---|",
        *(
            f"| {each.name} | {each.p50:.0f} | {each.p95:.0f} | {each.cpu_p50:.0f} | {each.cpu_p95:.0f} "
            f"| {'' if each.p95 <= BAR_MS else '**over**'} |"
            for each in timed
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
