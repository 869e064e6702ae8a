"""
The services that a run of the suite found: which database, whether Redis.

The database is chosen in `tests/settings.py`. Redis is REDIS_URL from the
environment, else the one on its standard local port, else none.
"""

import os
import shutil
import socket
from functools import lru_cache
from pathlib import Path

import psycopg
import redis
from django.conf import settings

_AXE = Path(__file__).resolve().parent.parent / "var" / "browser" / "axe.min.js"
_REDIS_URL = "redis://127.0.0.1:6379/15"  # the last of its databases: no one's favourite


@lru_cache(maxsize=1)
def redis_url() -> str:
    """Return where Redis answers, or "" where it does not."""
    url = os.environ.get("TEST_REDIS_URL") or os.environ.get("REDIS_URL") or _REDIS_URL
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            client.ping()
    except redis.RedisError:
        return ""
    return url


def answers(host: str, port: int) -> bool:
    """Tell whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def chromium() -> str:
    """Return where Chromium is installed, or "" where it is not."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), "")


def axe() -> Path | None:
    """Return the script that checks pages for accessibility, if `make browser` has fetched it."""
    return _AXE if _AXE.exists() else None


def is_postgresql() -> bool:
    return settings.DATABASES["default"]["ENGINE"].endswith("postgresql")


def description() -> str:
    """Say what the run used, e.g. `PostgreSQL 15 (127.0.0.1:5432), Redis 7`."""
    browser = "" if chromium() else ", no Chromium"
    return f"{_database()}, {_redis()}{browser}"


def missing(required: str) -> list[str]:
    """Return which services named in `required`, such as "postgresql redis rabbitmq", this run lacks."""
    found = {
        "postgresql": is_postgresql,
        "redis": redis_url,
        "rabbitmq": lambda: answers("127.0.0.1", 5672),
        "chromium": chromium,
        "axe": axe,
    }
    unknown = set(required.split()) - set(found)
    if unknown:
        raise ValueError(f"CI_REQUIRES: unknown services {sorted(unknown)}; known are {sorted(found)}")
    return [name for name in required.split() if not found[name]()]


def _database() -> str:
    if not is_postgresql():
        import sqlite3

        return f"SQLite {sqlite3.sqlite_version}"
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        version = connection.info.server_version // 10_000
        return f"PostgreSQL {version} ({connection.info.host}:{connection.info.port})"


def _redis() -> str:
    if not redis_url():
        return "no Redis"
    with redis.Redis.from_url(redis_url()) as client:
        return f"Redis {client.info('server')['redis_version'].split('.')[0]}"
