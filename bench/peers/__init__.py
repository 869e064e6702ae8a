"""
Other gateways, measured in the same rounds: `python -m bench --peers litellm,portkey,mlflow`.

Each module has the same three functions and installs into a folder of the run's own,
by package name and pinned version:

    install(folder)                         download and install; raises RuntimeError
    command(folder, port, provider_url)     the command that serves, and its environment
    target(port, keys_path, provider_url)   how it is called

and `WHAT`, one line for the page: version and settings. None of them keeps accounts
here: their own database is off, so that they are shown at their fastest.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.load import Target

NAMES = ("litellm", "portkey", "mlflow")


class Serving(NamedTuple):
    command: Sequence[str | Path]
    environment: Mapping[str, str]


class Peer(Protocol):
    WHAT: str

    def install(self, folder: Path) -> None: ...
    def command(self, folder: Path, port: int, provider_url: str) -> Serving: ...
    def target(self, port: int, keys_path: Path, provider_url: str) -> Target: ...


def peer(name: str) -> Peer:
    if name not in NAMES:
        raise ValueError(f"no such peer: {name}; known are {', '.join(NAMES)}")
    return import_module(f"bench.peers.{name}")


def pip_install(folder: Path, *requirements: str) -> None:
    """Install into a virtual environment of its own at `folder`/venv."""
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    run([folder / "venv/bin/pip", "install", "-q", "--disable-pip-version-check", *requirements], folder)


def run(command: Sequence[str | Path], folder: Path) -> None:
    """Raises: RuntimeError with the last line that tells what went wrong."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
