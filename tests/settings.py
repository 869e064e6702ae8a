"""
The project's settings, with the secrets a test run needs.

The database is TEST_DATABASE_URL, else PostgreSQL where it answers on its standard
local port, else SQLite: a fresh machine needs nothing, and the run says at its end
what it ran on (`tests/conftest.py`).
"""

import atexit
import os
import shutil
import socket
import tempfile


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _database_url() -> str:
    named = os.environ.get("TEST_DATABASE_URL")
    if named:
        return named
    if _answers(5432):
        return "postgres://postgres@127.0.0.1:5432/postgres"
    return "sqlite:///" + os.path.join(_FOLDER, "tests.sqlite3")


_FOLDER = tempfile.mkdtemp(prefix="spend-tests-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
os.mkdir(os.path.join(_FOLDER, "static"))  # whitenoise warns where there is none
os.environ["ENV_FILE"] = os.devnull
os.environ["SECRET_KEY"] = "for-tests-only-" + "x" * 40
os.environ["MASTER_KEY"] = "sk-master-key-of-the-tests"
os.environ["VAR_DIR"] = _FOLDER
os.environ["DATABASE_URL"] = _database_url()

from spendproject.settings import *  # noqa: E402, F403

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
if DATABASES["default"]["ENGINE"].endswith("postgresql"):  # noqa: F405
    # Two runs on one server do not meet.
    DATABASES["default"]["TEST"] = {"NAME": f"test_spend_{os.getpid()}"}  # noqa: F405
else:
    # A file, as in life: several connections, WAL and a busy handler. Django's default is in memory.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(_FOLDER, "test.sqlite3")}  # noqa: F405
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CELERY_TASK_ALWAYS_EAGER = True
