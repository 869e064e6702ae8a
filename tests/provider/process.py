"""Start the fake provider as a subprocess and talk to its control routes."""

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# No proxy of the environment's may stand between a test and its own machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ProviderProcess:
    """The fake provider in its own process: a context manager, or `start()` and `stop()`."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, bill_file: str | Path | None = None
    ) -> None:
        self._arguments = ["--host", host, "--port", str(port)]
        if bill_file is not None:
            self._arguments += ["--bill-file", str(bill_file)]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> "ProviderProcess":
        """Start it and wait until it listens; `url` is then `http://host:port`, without /v1."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.provider", *self._arguments],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        if "listening on" not in line:
            self.stop()
            raise RuntimeError("the fake provider did not start; its stderr says why")
        self.url = line.split()[-1]
        return self

    def stop(self) -> None:
        """End it, gently first. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> "ProviderProcess":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def bill(self, *, tag: str | None = None, entries: bool = True) -> dict[str, Any]:
        """Return the bill, of one `fake.tag` if given; without its entries if you need only the sums."""
        query = {"entries": int(entries)} | ({"tag": tag} if tag is not None else {})
        return self._ask("GET", "/__bill?" + urllib.parse.urlencode(query))

    def settled_bill(self, *, tag: str | None = None, timeout_s: float = 5.0) -> dict[str, Any]:
        """Wait until no entry is open any more, then return the bill; raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (bill := self.bill(tag=tag, entries=False))["open"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{bill['open']} entries of the bill are still open")
            time.sleep(0.01)
        return self.bill(tag=tag)

    def reset(self) -> None:
        """Forget bill, requests, default behaviour and failure counts."""
        self._ask("POST", "/__reset")

    def behave(self, **defaults: Any) -> None:
        """Replace the default behaviour; without arguments, back to normal."""
        self._ask("POST", "/__behave", defaults)

    def requests(self) -> list[dict[str, Any]]:
        """Return the last 1000 requests, oldest first."""
        return self._ask("GET", "/__requests")["requests"]

    def live(self) -> int:
        """Return the number of open streams."""
        return self._ask("GET", "/__live")["streams"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with _opener.open(request, timeout=30) as response:
            return json.load(response)
