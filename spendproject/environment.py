"""
Reading the environment: typed helpers, used by `settings.py` alone.

What the environment does not say is filled in from config.yaml (`config_file.py`), and
then from an env file (`.env` beside `manage.py`, written by `manage.py bootstrap`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

from redis.backoff import NoBackoff
from redis.retry import Retry

# A server that vanishes without a word is noticed within half a minute, not the system's
# quarter of an hour: until then the recorder would wait, and no change be read.
_GIVES_UP_SILENCE = {
    "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000,
}  # fmt: skip


# What the process was started with. It wins over both files.
GIVEN = dict(os.environ)


class BadSetting(Exception):
    """A variable has a value that cannot be used; the message says what would do."""


def load_env_file(path: Path) -> None:
    """Put `NAME=value` lines of `path` into the environment where the name is not set."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            os.environ.setdefault(name.strip(), value.strip().strip("\"'"))


def fill(variables: Mapping[str, str]) -> None:
    """Put what config.yaml says into the environment, where the process was given nothing.

    Over the env file, which may only hold what `bootstrap` made up.
    """
    os.environ.update({name: value for name, value in variables.items() if not GIVEN.get(name)})


def text(name: str, default: str = "") -> str:
    """Return the variable, or `default` where it is unset or empty."""
    return os.environ.get(name) or default


def path(name: str, *, base_dir: Path) -> str:
    """Return the variable as a path, taken from `base_dir` where it is relative; empty where it is unset."""
    value = text(name)
    return str(base_dir / value) if value else ""


def boolean(name: str, default: bool = False) -> bool:
    value = text(name).lower()
    if value in ("", "none"):
        return default
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("0", "false", "no", "off"):
        return False
    raise BadSetting(f"{name}={value!r}: write true or false")


def number(name: str, default: float, *, minimum: float = 0) -> float:
    value = text(name)
    try:
        result = float(value) if value else default
    except ValueError:
        raise BadSetting(f"{name}={value!r}: write a number") from None
    if result < minimum:
        raise BadSetting(f"{name}={value!r}: must be at least {minimum:g}")
    return result


def integer(name: str, default: int, *, minimum: int = 0) -> int:
    result = number(name, default, minimum=minimum)
    if result != int(result):
        raise BadSetting(f"{name}={result}: write a whole number")
    return int(result)


def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = text(name, default).lower()
    if value not in allowed:
        raise BadSetting(f"{name}={value!r}: write one of {', '.join(allowed)}")
    return value


def time_zone(name: str, default: str) -> ZoneInfo:
    value = text(name, default)
    try:
        return ZoneInfo(value)
    except (LookupError, ValueError, OSError):  # unknown; no relative path; a folder of zones
        raise BadSetting(f"{name}={value!r}: write an IANA name such as UTC or Europe/Berlin") from None


def names(name: str, default: str = "") -> list[str]:
    """Return a comma-separated list without blanks."""
    return [part.strip() for part in text(name, default).split(",") if part.strip()]


def database(url: str, *, base_dir: Path) -> dict[str, Any]:
    """Return Django's database entry for `sqlite:///path` or `postgres://user:password@host:port/name`."""
    parts = urlsplit(url)
    scheme = parts.scheme.split("+")[0]
    if scheme in ("sqlite", "sqlite3", "file"):
        path = unquote(parts.path[1:])  # three slashes: relative to the project; four: absolute
        if not path:
            raise BadSetting("DATABASE_URL: sqlite:/// needs a file name")
        name = path if path == ":memory:" else str(base_dir / path)
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": name,
            "OPTIONS": {
                # One writer at a time, taken at the start of a transaction: a later
                # upgrade from reader to writer fails at once instead of waiting.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                # FULL: what the ledger has committed survives a power cut. 8 MB of pages a
                # connection: a web process must not grow with its database.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-8000;",
            },
        }
    if scheme in ("postgres", "postgresql"):
        query = dict(parse_qsl(parts.query))
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or query.pop("host", "")),
            "PORT": str(parts.port or ""),
            # Under ASGI each request of Django's own has another thread: a connection kept
            # for the next one would never be used again. The recorder's and the
            # refresher's threads keep theirs by never asking Django to close it.
            "CONN_MAX_AGE": 0,
            "OPTIONS": {
                "connect_timeout": int(query.pop("connect_timeout", 3)),
                **_GIVES_UP_SILENCE,
                **query,
            },
        }
    raise BadSetting(f"DATABASE_URL: unknown scheme {parts.scheme!r}; write sqlite:///path or postgres://…")


class MailServer(NamedTuple):
    """Where mail is handed over. starts_tls: after a greeting in plain text; is_tls: from the first byte."""

    backend: str
    host: str
    port: int
    user: str = ""
    password: str = ""
    starts_tls: bool = False
    is_tls: bool = False


def mail_server() -> MailServer | None:
    """Return what EMAIL_URL says, else LiteLLM's SMTP_HOST and the like; None: no mail is sent.

    smtp://user:password@host:587 (STARTTLS; `?tls=false` without), smtps://host:465,
    console:// writes mails into the log.
    """
    url = text("EMAIL_URL")
    smtp = "django.core.mail.backends.smtp.EmailBackend"
    if not url:
        host = text("SMTP_HOST")
        user, password, tls = text("SMTP_USERNAME"), text("SMTP_PASSWORD"), boolean("SMTP_TLS", True)
        return MailServer(smtp, host, integer("SMTP_PORT", 587), user, password, tls) if host else None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadSetting("EMAIL_URL: write smtp://user:password@host:587") from None
    if parts.scheme == "console":
        return MailServer("django.core.mail.backends.console.EmailBackend", "", 25)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise BadSetting("EMAIL_URL: write smtp://user:password@host:587, smtps://… or console://")
    is_tls = parts.scheme == "smtps"
    has_tls = dict(parse_qsl(parts.query)).get("tls", "true").lower() not in ("false", "0", "no")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    port = port or (465 if is_tls else 587)
    return MailServer(smtp, parts.hostname, port, user, password, has_tls and not is_tls, is_tls)


def response_cache(kind: str, redis_url: str, *, max_bytes: int) -> dict[str, Any]:
    """Return Django's entry of the cache of answers. kind: "redis", else in memory."""
    if kind != "redis":
        return {
            "BACKEND": "proxy.response_cache.SizedMemoryCache",
            "LOCATION": "responses",
            "OPTIONS": {"MAX_BYTES": max_bytes},
        }
    return {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": redis_url,
        "KEY_PREFIX": "responses",
        "OPTIONS": {
            "serializer": "proxy.response_cache.PlainBytes",
            # Calls wait for it: one that does not answer is no cache.
            "socket_timeout": 0.25,
            "socket_connect_timeout": 0.25,
            "retry": Retry(NoBackoff(), 0),
        },
    }
