"""
The machine: its cores, and processes pinned to them with the CPU time they took.

CPU time is the kernel's (`/proc`), in seconds, of a process with its threads and
descendants, those that have ended included. Linux only.
"""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 60


class CannotMeasure(RuntimeError):
    """Something the benchmarks need is missing. The message says what to do."""


def cores() -> tuple[int, int]:
    """Return (the core of what is measured, the core of what puts load on it)."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise CannotMeasure("two cores are needed: one to be measured, one for the load and the provider")
    return usable[0], usable[1]


def describe() -> list[tuple[str, str]]:
    """Return what the page says of the machine: no host name, no path."""
    return [
        ("CPU", f"{_cpu_model()}, {os.cpu_count()} cores"),
        ("system", f"Linux {platform.release().split('-')[0]}, {platform.machine()}"),
        ("Python", platform.python_version()),
        ("load average at the start", f"{os.getloadavg()[0]:.2f}"),
        ("nginx, wrk", f"{_version('nginx', '-v')}, {_version('wrk', '-v')}"),
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(command: str, option: str) -> str:
    if shutil.which(command) is None:
        return "none"
    done = subprocess.run([command, option], capture_output=True, text=True)
    first = (done.stdout + done.stderr).splitlines()[0]
    return first.partition(": nginx/")[2] or " ".join(first.split()[1:2])


class Pinned:
    """A process of ours on one core, in a session of its own; what it prints goes to `log`."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        core: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self.name = log.stem
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
                env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def wait_until(self, is_up: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait until `is_up()`. Raises: CannotMeasure with the end of the log; the process is then ended."""
        deadline = time.monotonic() + seconds
        while not is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise CannotMeasure(f"{self.name} did not start:\n{self.tail()}")
            time.sleep(0.05)

    def tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-1500:]

    def pause(self) -> None:
        """Let it stand still while others are measured."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it, gently first. Safe to call twice."""
        if self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.resume()
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it left behind, too: the group is its own
        self.process.wait()

    def cpu_s(self) -> float:
        return sum(_cpu_s(pid) for pid in family(self.pid))

    def cpu_by_thread(self) -> dict[str, float]:
        """Return CPU seconds by the threads' names; the main thread's is its process's."""
        found: dict[str, float] = {}
        for pid in family(self.pid):
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    name = "main" if task.name == str(pid) else (task / "comm").read_text().strip()
                    found[name] = found.get(name, 0.0) + _own_cpu_s(task / "stat")
        return found


def family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                members += map(int, children.read_text().split())
    return members


def process_cpu_s(pid: int) -> float:
    """Return one process's CPU seconds, 0 where it is gone."""
    try:
        return _own_cpu_s(Path(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _own_cpu_s(stat: Path) -> float:
    return sum(_times(stat)[:2]) / TICKS


def _cpu_s(pid: int) -> float:
    """Return one process's CPU seconds and those of its children that have ended."""
    try:
        return sum(_times(Path(f"/proc/{pid}/stat"))) / TICKS
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _times(stat: Path) -> list[int]:
    """Return utime, stime, cutime, cstime. The name before them may hold anything, so count from its end."""
    return [int(field) for field in stat.read_text().rpartition(")")[2].split()[11:15]]


@contextlib.contextmanager
def standing_still(*processes: Pinned) -> Iterator[None]:
    """Stop `processes` for a while, so that they take nothing of the core they share."""
    for process in processes:
        process.pause()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.resume()
