"""
Identifiers: UUIDv7 for rows that are read in the order of time.

Layout: RFC 9562, section 5.7: 48 bits of Unix milliseconds, then random bits.
Python gains `uuid.uuid7` in 3.14; we support 3.11.
"""

import random
import uuid
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_7 = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_A = 0xFFF << 64
_RANDOM_B = (1 << 62) - 1
# Ids must not collide, but are no secrets. Optimization: no call into the kernel for each.
_dice = random.Random()  # noqa: S311  seeded by the system, in each process anew


def uuid7_bytes(milliseconds: int) -> bytes:
    """Return the 16 bytes of a new UUIDv7 of the given Unix time in milliseconds."""
    bits = _dice.getrandbits(80)
    value = milliseconds << 80 | _VERSION_7 | (bits & _RANDOM_A) | _VARIANT | (bits & _RANDOM_B)
    return value.to_bytes(16, "big")


def uuid7_at(milliseconds: int) -> uuid.UUID:
    """Return a new UUIDv7 of the given Unix time in milliseconds."""
    return uuid.UUID(bytes=uuid7_bytes(milliseconds))


def uuid7_text(value: bytes) -> str:
    """Return the usual spelling of a UUID's 16 bytes. Optimization: a fifth of `str(UUID(...))`."""
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def first_uuid7_at(at: datetime) -> uuid.UUID:
    """Return the smallest UUIDv7 of that millisecond: a bound for range queries. Before 1970: of all."""
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)  # whole numbers: a float is off by one at times
    return uuid.UUID(int=max(0, milliseconds) << 80 | _VERSION_7 | _VARIANT)
