"""
Headless Chromium for the end-to-end tests, driven by its DevTools protocol over a pair of pipes.

    with Chromium(services.chromium()) as browser:
        page = browser.page(width=1280, height=800)
        page.open("http://…")
        page.evaluate("document.title")

No dependency: the protocol is JSON texts, each ended by a zero byte.

Source: https://chromedevtools.github.io/devtools-protocol/ (stable part), `--remote-debugging-pipe`.
"""

import base64
import json
import os
import select
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 30.0
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}


class BrowserError(Exception):
    """Chromium refused a command, a script threw, or something was waited for in vain."""


class Chromium:
    """One browser with a profile of its own, which goes with it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._buffer = b""
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="spend-chromium-", ignore_cleanup_errors=True)
        its_in, self._out = os.pipe()
        self._in, its_out = os.pipe()

        def as_three_and_four() -> None:
            # Away from 3 and 4 first: the pipes may have these numbers already.
            reading, writing = os.dup(its_in), os.dup(its_out)
            while reading < 5 or writing < 5:
                reading, writing = os.dup(reading), os.dup(writing)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        self._process = subprocess.Popen(
            [self._path, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_in)
        os.close(its_out)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._out)  # Chromium ends when the pipe does
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._folder.cleanup()

    def page(self, *, width: int = 1280, height: int = 900) -> "Page":
        """Open a page. Like tabs, all share cookies and the cache, so that files are fetched once."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Give a command and return its result. Raises: BrowserError."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while self._number not in self._answers:
            self.listen(deadline)
        answer = self._answers.pop(self._number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def listen(self, deadline: float) -> None:
        """Wait for the next message and take it."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise BrowserError("Chromium ended" if ready else "Chromium did not answer in time")
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        if "id" in message:
            self._answers[message["id"]] = message
        elif message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].hear(message["method"], message["params"])


class Page:
    """One page. `errors`: what its console and its network had to complain of."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.errors: list[str] = []
        self._loads = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            self.errors.append(
                params["exceptionDetails"].get("exception", {}).get("description", "exception")
            )
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(each.get("value", "")) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def close(self) -> None:
        """Close the page, so that it asks the server for nothing any more."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def set_cookie(self, url: str, name: str, value: str) -> None:
        self.call("Network.setCookie", url=url, name=name, value=value)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded."""
        loads = self._loads
        failed = self.call("Page.navigate", url=url).get("errorText")
        if failed:
            raise BrowserError(f"{url}: {failed}")
        self.wait_load(loads)

    @property
    def loads(self) -> int:
        return self._loads

    def wait_load(self, loads: int) -> None:
        """Wait until the page has loaded more often than `loads` times."""
        deadline = time.monotonic() + _SECONDS
        while self._loads <= loads:
            self._browser.listen(deadline)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression; a promise's is waited for. Raises: BrowserError."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script: str, what: str) -> Any:
        """Wait until an expression is true of the page, and return its value."""
        deadline = time.monotonic() + _SECONDS
        while not (value := self.evaluate(script)):
            if time.monotonic() > deadline:
                raise BrowserError(f"waited in vain for {what}")
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click the first element of a selector, and wait for the page that it leads to."""
        loads = self._loads
        element = f"document.querySelector({json.dumps(selector)})"
        if not self.evaluate(f"!!{element}"):
            raise BrowserError(f"nothing to click at {selector}")
        self.evaluate(f"{element}.click()")
        self.wait_load(loads)

    def type(self, selector: str, text: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        code = _KEYS[key]
        text = {"Enter": "\r", "Space": " "}.get(key)
        down: dict[str, Any] = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=" " if key == "Space" else key, code=key, windowsVirtualKeyCode=code,
                **(down if kind == "keyDown" else {}),
            )  # fmt: skip

    def screenshot(self, target: Path, *, whole: bool = True) -> None:
        """Write a picture of the page, from its top to its end or as far as the window shows."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        target.write_bytes(base64.b64decode(picture["data"]))
