"""
The product as `make run` runs it: web, worker and beat under supervisor, one test's own.

The command is that of the Makefile; folder, port and database are the test's, given
in the environment as an operator would.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.support.processes import Process, descendants, kill_and_wait
from tests.gateway import START_SECONDS, GatewayProcess
from tests.provider.process import PROJECT_ROOT


class SupervisedGateway(GatewayProcess):
    """A gateway whose web process may be killed: it comes back by itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.environment |= {"HOST": "127.0.0.1", "PORT": str(self.port)}
        for name in ("queue", "control"):
            (self.folder / "broker" / name).mkdir(parents=True)

    def start(self) -> "SupervisedGateway":
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("supervisord"), "-c", "spendproject/supervisord.conf",
                 "--pidfile", self.folder / "supervisord.pid"],
                cwd=PROJECT_ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.wait_until_it_answers()
        return self

    def wait_until_it_answers(self, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not self._answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the web process does not come back:\n{self.log_text()[-4000:]}")
            time.sleep(0.05)

    def running(self, *words: str) -> list[Process]:
        """Return our processes whose command has all of `words`."""
        return [
            process for process in descendants(self.pid) if all(word in process.command for word in words)
        ]

    def the(self, *words: str) -> Process:
        """Return the topmost of them."""
        return self.running(*words)[0]

    def kill(self) -> None:
        """End everything at once: supervisor first, lest it starts again what is killed."""
        if self.process is None:
            return
        below = descendants(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        kill_and_wait(below)
