"""
Who is measured: the provider itself, nginx before it, the gateway before it.

Each is started on loopback with its files in the run's folder and put away in the
end, the gateway's database too. The mock provider is nginx as well, so that calling
it costs as little as anything can; it counts the calls it served, and the gateway's
rows must be as many.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.load import Target
from bench.machine import CannotMeasure, Pinned, process_cpu_s

PROJECT_ROOT = Path(__file__).resolve().parents[1]
DATABASE_URL = "postgres://postgres@127.0.0.1:5432/postgres"
DRAIN_SECONDS = 60.0
EDIT_SECONDS = 1.5  # until an edit is in force everywhere, with a margin
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")

# A chat completion of about 0.9 kB, as providers answer a short question.
ANSWER = json.dumps(
    {
        "id": "chatcmpl-BenchBenchBenchBenchBenchBench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "The quick brown fox jumps over the lazy dog. " * 5,
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 190,
            "completion_tokens": 51,
            "total_tokens": 241,
            "prompt_tokens_details": {"cached_tokens": 128, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
    }
)
# What ANSWER costs: 62 tokens in, 128 from the cache, 51 out, in nano-dollars.
ANSWER_NANO_USD = 62 * 150 + 128 * 75 + 51 * 600

_NGINX = """
worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi; uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi; client_body_buffer_size 128k;
    {rest}
}}
"""
_PROVIDER = """server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /served {{ stub_status; }}
    location / {{ default_type application/json; return 200 '{answer}'; }}
}}"""
_PROXY = """upstream provider {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; }}
}}"""

# No proxy of the environment's may stand between the bench and its own machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, *, timeout: float = 10) -> bytes:
    with _opener.open(url, timeout=timeout) as response:
        return response.read()


def answers(url: str) -> bool:
    """Tell whether an HTTP server is there; what it says does not matter."""
    try:
        get(url)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


def need_tools() -> None:
    """Raises: CannotMeasure that says how to get what is missing."""
    missing = [name for name in ("nginx", "wrk", "taskset") if shutil.which(name) is None]
    if missing:
        raise CannotMeasure(
            f"not found: {', '.join(missing)}. On Debian: apt install nginx-light wrk util-linux"
        )


class Provider:
    """nginx that answers every call with ANSWER."""

    def __init__(self, folder: Path, *, core: int) -> None:
        self.port = free_port()
        self._asked = 0
        rest = _PROVIDER.format(port=self.port, answer=ANSWER)
        self.process = _nginx("provider", folder, rest, core=core)
        self.process.wait_until(lambda: answers(f"http://127.0.0.1:{self.port}/served"))

    def served(self) -> int:
        """Return how many calls it has answered, the questions of this function left out."""
        lines = get(f"http://127.0.0.1:{self.port}/served").decode().splitlines()
        self._asked += 1
        return int(lines[2].split()[2]) - self._asked

    def stop(self) -> None:
        self.process.stop()


class Proxy:
    """nginx that passes every call on: what any gateway costs at the very least."""

    def __init__(self, folder: Path, provider: Provider, *, core: int) -> None:
        self.port = free_port()
        self.process = _nginx(
            "proxy", folder, _PROXY.format(port=self.port, upstream=provider.port), core=core
        )
        self.process.wait_until(lambda: answers(f"http://127.0.0.1:{self.port}/"))

    def stop(self) -> None:
        self.process.stop()


def _nginx(name: str, folder: Path, rest: str, *, core: int) -> Pinned:
    config = folder / f"{name}.conf"
    config.write_text(_NGINX.format(name=name, folder=folder, rest=rest))
    return Pinned(["nginx", "-c", config, "-p", folder], core=core, log=folder / f"{name}.log")


class Gateway:
    """Our gateway with everything on, in a fresh database that `stop` drops."""

    def __init__(
        self, folder: Path, provider: Provider, stream_url: str, *, core: int, database_url: str | None
    ) -> None:
        self._folder = folder
        self.keys_path = folder / "keys"
        self.port = free_port()
        self._server_url = database_url or ""
        self._name = f"bench_{secrets.token_hex(6)}"
        if database_url:
            self._on_server(f'CREATE DATABASE "{self._name}"')
            self._url = urlsplit(database_url)._replace(path=f"/{self._name}").geturl()
        else:
            self._url = f"sqlite:///{folder / 'bench.sqlite3'}"
        try:
            self._start(provider, stream_url, core)
        except BaseException:
            self.stop()
            raise

    def _start(self, provider: Provider, stream_url: str, core: int) -> None:
        self.environment = {
            **clean_environment(),
            "ENV_FILE": os.devnull,
            "VAR_DIR": str(self._folder / "var"),
            "DATABASE_URL": self._url,
            "CELERY_BROKER_URL": "memory://",
            "MASTER_KEY": "sk-" + secrets.token_hex(16),
            "SECRET_KEY": secrets.token_hex(32),
            "OPENAI_API_KEY": "sk-bench",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{provider.port}/v1",
            "LOG_LEVEL": "WARNING",
        }
        self._call("manage.py", "bootstrap")
        self._call("-m", "bench.seed", self.keys_path, stream_url)
        self.process = Pinned(
            [sys.executable, "-m", "bench.named_threads", "serve", "--host", "127.0.0.1",
             "--port", str(self.port), "--workers", "1"],
            core=core, log=self._folder / "gateway.log", environment=self.environment, folder=PROJECT_ROOT,
        )  # fmt: skip
        self.process.wait_until(lambda: answers(f"http://127.0.0.1:{self.port}/health/liveness"))

    def _call(self, *arguments: Any) -> None:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=PROJECT_ROOT, env=self.environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise CannotMeasure(f"{arguments[0]} {arguments[1]} failed:\n{done.stdout}{done.stderr}")

    @property
    def target(self) -> Target:
        return Target(self.port, self.keys_path, tag=self._name)

    def target_at(self, port: int) -> Target:
        """Return another party to send the same calls to."""
        return Target(port, self.keys_path)

    def backlog_bytes(self) -> int:
        """Return how much of the journal is not in the database yet."""
        return self._report()["journal"]["backlog_bytes"]

    def _report(self) -> dict[str, Any]:
        try:
            report = get(f"http://127.0.0.1:{self.port}/health/readiness")
        except urllib.error.HTTPError as error:
            report = error.read()
        return json.loads(report)

    def switch(self, what: str, is_on: bool) -> None:
        """Switch the hot `budget` or `webhooks` on or off (`switches.py`); wait until that is in force."""
        self._call("-m", "bench.switches", what, "on" if is_on else "off")
        time.sleep(EDIT_SECONDS)

    def events(self) -> int:
        """Return how many events have been written to be delivered."""
        return self._row("SELECT count(*), 0 FROM billing_delivery")[0]

    def check_budget(self) -> None:
        """Raises: CannotMeasure where the budget's period is not the sum of what is booked, or holds on."""
        query = (
            "SELECT coalesce(sum(spent_cost), 0), coalesce(sum(held), 0), "
            "(SELECT coalesce(sum(cost), 0) FROM billing_spendlog) FROM billing_budgetperiod"
        )
        spent, held, booked = self._row(query)
        if spent != booked or held:
            raise CannotMeasure(f"the budget says {spent} spent and {held} held; booked is {booked}")

    def drain(self) -> float:
        """Wait until no call is under way and all are booked; return the seconds it took.

        Raises: CannotMeasure.
        """
        begun = time.monotonic()
        while (report := self._report())["calls_under_way"] or report["journal"]["backlog_bytes"]:
            if time.monotonic() - begun > DRAIN_SECONDS:
                raise CannotMeasure(f"not all is booked after {DRAIN_SECONDS:.0f} s:\n{self.process.tail()}")
            time.sleep(0.1)
        return time.monotonic() - begun

    def booked(self, *, streamed: bool) -> tuple[int, int]:
        """Return (rows of calls that cost something, their cost in whole nano-dollars)."""
        where = f"cost > 0 AND {'' if streamed else 'NOT '}streamed"
        rows, cost = self._row(f"SELECT count(*), coalesce(sum(cost), 0) FROM billing_spendlog WHERE {where}")
        return rows, round(cost)

    def _row(self, query: str) -> tuple[Any, ...]:
        if self._server_url:
            with psycopg.connect(self._url) as connection:
                return connection.execute(query).fetchone()
        with contextlib.closing(sqlite3.connect(self._url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(query).fetchone()

    def database_cpu_s(self) -> float | None:
        """Return the CPU seconds of PostgreSQL's own processes for us; None where they cannot be seen."""
        if not self._server_url or urlsplit(self._server_url).hostname not in ("127.0.0.1", "localhost"):
            return None
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
        with psycopg.connect(self._server_url) as connection:
            pids = [pid for (pid,) in connection.execute(query, [self._name])]
        return sum(map(process_cpu_s, pids))

    def database(self) -> str:
        """Return the database's name and version."""
        if not self._server_url:
            return f"SQLite {sqlite3.sqlite_version}"
        with psycopg.connect(self._server_url) as connection:
            version = connection.info.server_version
        return f"PostgreSQL {version // 10_000}.{version % 10_000}"

    def stop(self) -> None:
        if hasattr(self, "process"):
            self.process.stop()
        if self._server_url:
            self._on_server(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement)


def postgresql(url: str) -> str | None:
    """Return `url` if PostgreSQL answers there, else None."""
    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.OperationalError:
        return None
    return url
