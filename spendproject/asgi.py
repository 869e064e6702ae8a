"""
The web process: proxied paths go to the lean handler, everything else to Django.

Also start and stop (ASGI's lifespan): the gateway is made before the first call and
drained after the last.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import django
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
django.setup()

from django.conf import settings  # noqa: E402  after setup

from proxy.gateway import Gateway, set_running  # noqa: E402
from proxy.handler import ProxyHandler  # noqa: E402
from proxy.urls import FIRST_SEGMENTS, NOT_PROXIED  # noqa: E402

logger = logging.getLogger(__name__)

# WhiteNoise serves files by ordinary iterators; Django reads them in a thread and warns each time.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

_django = get_asgi_application()
_proxy = ProxyHandler()


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application of the whole site."""
    if scope["type"] == "http":
        if _is_proxied(scope["path"]):
            await _proxy(scope, receive, send)
        else:
            await _django(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _lifespan(receive, send)


@lru_cache(maxsize=4096)
def _is_proxied(path: str) -> bool:
    path = path.lstrip("/")
    return path.partition("/")[0] in FIRST_SEGMENTS and not path.startswith(NOT_PROXIED)


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    try:
        gateway = Gateway(settings)
        await gateway.start()
    except Exception as error:
        logger.exception("the gateway cannot start")
        await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
        return
    set_running(gateway)
    # What exists now lives as long as the process: the collector need not look at it
    # again, nor look often at the short-lived rest (10 to 15 % of CPU per call).
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # While the recorder computes, the loop gets the interpreter back after this long: not 5 ms after
    # each of its own system calls.
    sys.setswitchinterval(0.0002)
    _stop_with_parent()
    with _draining_at_signals(gateway):
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await gateway.stop()
    set_running(None)
    await send({"type": "lifespan.shutdown.complete"})


@contextlib.contextmanager
def _draining_at_signals(gateway: Gateway) -> Iterator[None]:
    """Start the drain's clock when the server is told to stop; the server then does its own part."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    servers_own = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: Any) -> None:
        gateway.loop.call_soon_threadsafe(gateway.begin_drain)
        own = servers_own[signal.Signals(number)]
        if callable(own):
            own(number, frame)

    for number in servers_own:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, own in servers_own.items():
            signal.signal(number, own)


def _stop_with_parent() -> None:
    """Have a worker (WEB_WORKERS > 1) stop, gently, when the process that started it is killed.

    It would go on alone otherwise, and its port could not be taken by those that follow.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
