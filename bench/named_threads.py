"""
Run `manage.py` with the threads' names known to the system: `python -m bench.named_threads serve`.

The bench tells the recorder's CPU time from the loop's by these names. Python gives
them to the system itself from 3.14 on; here it costs one write when a thread starts.
"""

import contextlib
import os
import sys
import threading
from pathlib import Path

_start = threading.Thread.start


def _start_named(thread: threading.Thread) -> None:
    _start(thread)
    # One that has ended already needs no name.
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{thread.native_id}/comm").write_text(thread.name[:15])


if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    threading.Thread.start = _start_named
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "spendproject.settings")
    execute_from_command_line(["manage.py", *sys.argv[1:]])
