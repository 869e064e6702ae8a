"""
Wake-ups: telling the Celery worker that something is due, without waiting for the broker.

A message says only "look now"; the sweep of the beat finds what no message told (E1). A
thread sends them, at most two a second: whoever commits never waits for a broker that is
away, and a thousand commits make one message.
"""

import logging
import threading
import time

from celery import current_app
from django.conf import settings

logger = logging.getLogger(__name__)

_TASK = "billing.tasks.deliver"
_MESSAGE_SECONDS = 0.5  # one message at most
_AWAY_SECONDS = 10.0  # how long a broker that is away is left alone
_EXPIRES_SECONDS = 30


class _Waker(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="waker", daemon=True)
        self._asked = threading.Event()
        self._is_away = False

    def ask(self) -> None:
        self._asked.set()

    def run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            time.sleep(_MESSAGE_SECONDS if self._send() else _AWAY_SECONDS)

    def _send(self) -> bool:
        try:
            current_app.send_task(_TASK, expires=_EXPIRES_SECONDS, retry=False, ignore_result=True)
        except Exception as error:
            if not self._is_away:
                logger.warning("the broker is away, deliveries wait for the next sweep: %s", error)
            self._is_away = True
            return False
        self._is_away = False
        return True


_waker: _Waker | None = None
_starting = threading.Lock()


def wake_deliverer() -> None:
    """Have the worker look for due deliveries soon. Returns at once, whatever the broker does."""
    global _waker
    if getattr(settings, "CELERY_TASK_ALWAYS_EAGER", False):
        return  # tests run the deliverer themselves
    with _starting:
        if _waker is None or not _waker.is_alive():  # a fork leaves threads behind
            _waker = _Waker()
            _waker.start()
    _waker.ask()
