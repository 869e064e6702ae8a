"""
The arithmetic of a sliding minute made of two counters.

Of the minute that ends now, the clock's current minute covers the last `elapsed_ms`
and the previous one the rest; what was counted in the previous one is taken to be
spread evenly. All in whole numbers: memory and Redis (whose script does the same
sum) decide alike, to the last request. Times are milliseconds.
"""

WINDOW_MS = 60_000


def has_room(limit: int, current: int, previous: int, elapsed_ms: int, amount: int) -> bool:
    """Tell whether `amount` more keeps within the limit.

    current, previous: what is counted in this clock minute, of which `elapsed_ms` have
    passed, and in the one before.
    """
    return (limit - current - amount) * WINDOW_MS >= previous * (WINDOW_MS - elapsed_ms)


def remaining(limit: int, current: int, previous: int, elapsed_ms: int) -> int:
    """Return how much more keeps within the limit; never below 0."""
    fading = -(previous * (elapsed_ms - WINDOW_MS) // WINDOW_MS)  # rounded up
    return max(0, limit - current - fading)


def wait_ms(limit: int, current: int, previous: int, elapsed_ms: int, amount: int) -> int | None:
    """Return when `amount` has room if nobody else takes, from now; None: never."""
    if amount > limit:
        return None
    if current + amount <= limit:
        return max(0, _fades_at(limit - current - amount, previous) - elapsed_ms)
    return WINDOW_MS - elapsed_ms + _fades_at(limit - amount, current)


def _fades_at(room: int, previous: int) -> int:
    """Return how far into a minute the previous one weighs no more than `room`."""
    return max(0, WINDOW_MS - room * WINDOW_MS // previous) if previous else 0
