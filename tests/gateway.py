"""
A real gateway for tests: a web process of its own, with a database of its own.

    with GatewayProcess(provider=provider) as gateway:
        ...                                       # call gateway.url with gateway.master_key
        [row] = gateway.wait_booked(1, customer_id="acme")
        assert row["cost"] == 1_000 * 150         # whole nano-dollars, as stored

The first gateway of a run has `manage.py bootstrap` make a template: database, prices,
upstreams, static files. Each gateway starts from a copy of it. The database is of the
kind the run uses (`tests/settings.py`): a SQLite file or a PostgreSQL database, which
is dropped in the end. The provider is `tests/provider`.
"""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from django.db import connections
from django.db.utils import ConnectionHandler

from customers.money import to_nano
from spendproject import environment
from tests import services
from tests.provider import ProviderProcess
from tests.provider.process import PROJECT_ROOT

START_SECONDS = 60
STOP_SECONDS = 60
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "COVERAGE_PROCESS_START")

# No proxy of the environment's may stand between a test and its own machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class GatewayProcess:
    """One web process (`manage.py serve`): a context manager, or `start()` and `stop()`.

    Keyword arguments in capitals are settings: `GatewayProcess(provider=p, MAX_BODY_MB=1)`.
    """

    # pytest-django forbids the database where a test does not ask for it; `conftest.py`
    # puts its permit here. Outside of pytest none is needed.
    database_permit: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def __init__(self, *, provider: ProviderProcess | None = None, workers: int = 1, **settings: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spend-gateway-"))
        self.master_key = "sk-master-" + uuid.uuid4().hex
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._workers = workers
        self._template = template()
        self.database_url = self._template.copy_database(self.folder)
        self.environment = {
            **_clean_environment(),
            "ENV_FILE": os.devnull,
            "SECRET_KEY": self._template.secret_key,
            "MASTER_KEY": self.master_key,
            "VAR_DIR": str(self.folder),
            "STATIC_ROOT": str(self._template.static),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": services.redis_url(),
            "OPENAI_API_KEY": "sk-openai-of-the-gateway",
            "ANTHROPIC_API_KEY": "sk-ant-of-the-gateway",
            "RECORDER_SECONDS": "0.02",
            **(_upstreams(provider) if provider else {}),
            **{name: str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._connections: ConnectionHandler | None = None

    # -- the process ---------------------------------------------------------------

    def start(self) -> "GatewayProcess":
        """Start it and wait until it answers. Raises: RuntimeError with its log."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--host", "127.0.0.1", "--port", str(self.port),
                 "--workers", str(self._workers)],
                cwd=PROJECT_ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the gateway did not start:\n{self.log_text()[-4000:]}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """End it at once, with SIGKILL: the process and, if it has some, its workers."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def terminate(self, *, timeout_s: float = STOP_SECONDS) -> int:
        """End it gently, with SIGTERM, wait until it is gone, and return its exit status."""
        assert self.process is not None, "the gateway is not running"
        self.process.terminate()
        status = self.process.wait(timeout_s)
        self.process = None
        return status

    def restart(self) -> "GatewayProcess":
        """End it gently if it runs, and start it again on the same port, database and journal."""
        if self.process is not None:
            self.terminate()
        return self.start()

    def stop(self) -> None:
        """Put everything away: process, database, files. Safe to call twice."""
        self.kill()
        if self._connections is not None:
            with type(self).database_permit():
                self._connections.close_all()
            self._connections = None
        self._template.drop_database(self.database_url)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "GatewayProcess":
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self.process is not None, "the gateway is not running"
        return self.process.pid

    @property
    def log_path(self) -> Path:
        return self.folder / "web.log"

    @property
    def journal_dir(self) -> Path:
        return self.folder / "journal"

    def log_text(self) -> str:
        """Return what the process wrote to stdout and stderr, all starts together."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def _answers(self) -> bool:
        try:
            with _opener.open(f"{self.url}/health/liveness", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, OSError):
            return False

    # -- its database --------------------------------------------------------------

    @contextlib.contextmanager
    def orm(self) -> Iterator[None]:
        """Let models and services of this thread work on the gateway's database."""
        if self._connections is None:
            self._connections = ConnectionHandler(
                {"default": environment.database(self.database_url, base_dir=PROJECT_ROOT)}
            )
        own = connections["default"]
        connections["default"] = self._connections["default"]
        try:
            with type(self).database_permit():
                yield
        finally:
            connections["default"] = own

    def execute_orm(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call `function` on the gateway's database and return what it returns."""
        with self.orm():
            return function(*arguments, **options)

    def create_key(self, **fields: Any) -> tuple[Any, str]:
        """Make a virtual key. Returns (the key, its secret)."""
        from customers.services import create_key

        return self.execute_orm(create_key, **fields)

    def rows(self, *, tag: str | None = None, **filters: Any) -> list[dict[str, Any]]:
        """Return spend logs by time, each as a dict; `cost` and `charge` are whole nano-dollars."""
        from billing.models import SpendLog

        with self.orm():
            found = list(SpendLog.objects.filter(**filters).order_by("id").values())
        for row in found:
            for name in ("cost", "charge"):
                row[name] = None if row[name] is None else to_nano(row[name])
        # Not in SQL: SQLite cannot look into a JSON list.
        return [row for row in found if tag is None or tag in row["tags"]]

    def total(self, holder_type: str, holder_id: str) -> dict[str, Any] | None:
        """Return a holder's all-time total, amounts in whole nano-dollars; None where there is none."""
        from billing.models import SpendTotal

        with self.orm():
            found = SpendTotal.objects.filter(holder_type=holder_type, holder_id=holder_id).values().first()
        if found is not None:
            found |= {name: to_nano(found[name]) for name in ("cost", "charge")}
        return found

    def wait_booked(self, count: int, *, timeout_s: float = 10, **filters: Any) -> list[dict[str, Any]]:
        """Wait until `count` calls that match are booked, and return their rows. Raises: TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while len(rows := self.rows(**filters)) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(rows)} of {count} calls are booked\n{self.log_text()[-2000:]}")
            time.sleep(0.02)
        return rows


def is_true_within(seconds: float, condition: Callable[[], Any]) -> bool:
    """Ask again and again until `condition()` holds; tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _upstreams(provider: ProviderProcess) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{provider.url}/v1", "ANTHROPIC_BASE_URL": provider.url}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _clean_environment() -> dict[str, str]:
    """Return what a process of ours needs of the environment, and no setting of the test run's."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


# -- the template --------------------------------------------------------------------


class Template:
    """What `manage.py bootstrap` makes, once per run, for gateways to start from."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="spend-template-"))
        self.static = self._folder / "static"
        self.secret_key = "for-tests-only-" + "x" * 40
        self._server_url = os.environ["DATABASE_URL"]
        self._is_postgresql = self._server_url.startswith("postgres")
        self._sqlite_path = self._folder / "spend.sqlite3"
        self._name = f"spend_test_{uuid.uuid4().hex[:12]}"
        if self._is_postgresql:
            self._on_server(f'CREATE DATABASE "{self._name}"')
        atexit.register(self.remove)
        self._bootstrap()

    def _bootstrap(self) -> None:
        variables = {
            "ENV_FILE": str(self._folder / "env"),
            "VAR_DIR": str(self._folder),
            "SECRET_KEY": self.secret_key,
            "DATABASE_URL": self._url(self._name)
            if self._is_postgresql
            else f"sqlite:///{self._sqlite_path}",
            # Read anew by every gateway: each has a provider of its own.
            "OPENAI_BASE_URL": "os.environ/OPENAI_BASE_URL",
            "ANTHROPIC_BASE_URL": "os.environ/ANTHROPIC_BASE_URL",
        }
        done = subprocess.run(
            [sys.executable, "manage.py", "bootstrap"],
            cwd=PROJECT_ROOT, env={**_clean_environment(), **variables}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"manage.py bootstrap failed:\n{done.stdout}{done.stderr}")

    def copy_database(self, folder: Path) -> str:
        """Return the URL of a new database like the template's, with an installation id of its own."""
        if self._is_postgresql:
            name = f"{self._name}_{uuid.uuid4().hex[:8]}"
            self._on_server(f'CREATE DATABASE "{name}" TEMPLATE "{self._name}"')
            url = self._url(name)
            with psycopg.connect(url) as connection:
                connection.execute("DELETE FROM billing_installation")
            return url
        path = folder / "spend.sqlite3"
        shutil.copyfile(self._sqlite_path, path)
        import sqlite3

        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM billing_installation")
        return f"sqlite:///{path}"

    def drop_database(self, url: str) -> None:
        if self._is_postgresql:
            self._on_server(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    def remove(self) -> None:
        if self._is_postgresql:
            self._on_server(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')
        shutil.rmtree(self._folder, ignore_errors=True)

    def _url(self, name: str) -> str:
        return urlsplit(self._server_url)._replace(path=f"/{name}").geturl()

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement)


_template: Template | None = None


def template() -> Template:
    """Return this run's template, made on first use."""
    global _template
    if _template is None:
        _template = Template()
    return _template
