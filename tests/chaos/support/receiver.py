"""A receiver of webhooks on a port of its own, which checks every signature with the public library."""

import json
import random
import threading
from collections import Counter
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class ReceiverServer:
    """Refuses the first attempt of each event with the given probability, and takes the second."""

    def __init__(self, *, refuses: float = 0.0, seed: int = 1) -> None:
        self.taken: dict[str, dict[str, Any]] = {}  # by event id
        self.attempts: Counter[str] = Counter()
        self.unsigned: list[str] = []
        self._refuses, self._rng, self._lock = refuses, random.Random(seed), threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(receiver._take(body, dict(self.headers)))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def _take(self, body: bytes, headers: dict[str, str]) -> int:
        event_id = {name.lower(): value for name, value in headers.items()}.get("webhook-id", "")
        try:
            Webhook(SECRET).verify(body, headers)
        except Exception:
            self.unsigned.append(event_id)
            return 401
        with self._lock:
            self.attempts[event_id] += 1
            if self.attempts[event_id] == 1 and self._rng.random() < self._refuses:
                return 500
            self.taken[event_id] = json.loads(body, parse_float=Decimal)
        return 200

    def __enter__(self) -> "ReceiverServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
