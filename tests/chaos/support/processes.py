"""Looking at processes: who started whom, and how much memory one holds. Linux's /proc only."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    command: str

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def is_alive(self) -> bool:
        """Tell whether it runs; one that has ended and waits for its parent does not."""
        try:
            return _stat(self.pid)[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False


def descendants(pid: int) -> list[Process]:
    """Return the processes below `pid`, parents first."""
    found: list[Process] = []
    parents = {pid}
    everyone = _everyone()
    while children := [process for process in everyone if process.parent in parents]:
        found += children
        parents = {child.pid for child in children}
    return found


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def kill_and_wait(processes: list[Process], *, seconds: float = 10) -> None:
    """End what is left of processes that we started."""
    for process in processes:
        if process.is_alive():
            process.kill()
    deadline = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _everyone() -> list[Process]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append(Process(int(folder.name), int(_stat(int(folder.name))[1]), command.strip()))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _stat(pid: int) -> list[str]:
    """Return /proc's fields behind the name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
