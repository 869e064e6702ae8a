"""Clients that hang up, each at a moment and in a manner of its own."""

import asyncio
import contextlib
import random

from tests.chaos.support.calls import Call
from tests.chaos.support.wire import Connection

BEFORE_HEAD, IN_THE_MIDDLE, AT_THE_END = "before the head", "in the middle", "at the end"
MOMENTS = (BEFORE_HEAD, IN_THE_MIDDLE, IN_THE_MIDDLE, AT_THE_END)
_LAST_WORDS = (b"[DONE]", b"message_stop", b"response.completed")


async def leave_at_random(
    call: Call, key: str, port: int, rng: random.Random, *, moment: str | None = None
) -> str:
    """Make the call and hang up at a random moment; return at which."""
    moment = moment or rng.choice(MOMENTS)
    patience_s, pieces_wanted, manner = rng.uniform(0, 0.35), rng.randrange(1, 12), rng.random()
    connection = await Connection.open(port)
    try:
        await connection.send(call.request(key))
        if moment == BEFORE_HEAD:
            await asyncio.sleep(patience_s)
        else:
            await _read(connection, pieces_wanted if moment == IN_THE_MIDDLE else None)
    except ConnectionError:
        moment = "the gateway hung up first"
    finally:
        await _hang_up(connection, manner)
    return moment


async def _read(connection: Connection, pieces_wanted: int | None) -> None:
    """Read that many pieces, or to the last event: whatever then still comes is left unread."""
    head = await connection.head()
    seen = 0
    async for piece in connection.pieces(head):
        seen += 1
        if seen == pieces_wanted or (pieces_wanted is None and any(word in piece for word in _LAST_WORDS)):
            return


async def _hang_up(connection: Connection, manner: float) -> None:
    if manner < 0.4:
        connection.reset()
    elif manner < 0.6:
        with contextlib.suppress(OSError):  # the gateway may have died
            connection.half_close()
            await asyncio.sleep(0.05)
        connection.close()
    else:
        connection.close()
