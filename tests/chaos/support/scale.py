"""
How much a fault test does: little in the normal suite, the bars' own numbers with CHAOS=long.

CHAOS_SEED settles what is drawn at random; a failing test prints the one it had.
"""

import os
import secrets
from typing import TypeVar

IS_LONG = os.environ.get("CHAOS") == "long"
_Number = TypeVar("_Number", int, float)


def scaled(short: _Number, long: _Number) -> _Number:
    return long if IS_LONG else short


def seed() -> int:
    return int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
