"""
The response cache: an identical call gets what the provider said before, for nothing.

Off by default. RESPONSE_CACHE says where answers are kept: `simple`, in each web process's
memory, or `redis`, for all of them together; either is Django's cache `responses`. The call
task asks here before it holds anything (H9) and brings what is worth keeping. What makes two
calls identical, what is never kept and what a caller may ask for is in docs/response-cache.md.

Memory is asked in the event loop, for that takes microseconds; Redis in a thread of its own,
in order, and not for long. A cache that is away is a miss, never an error.

Names of the body's field `cache`: LiteLLM's documentation, "Caching", dynamic cache controls.
"""

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import msgspec
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from billing.booking.records import Opened
from proxy.catalog import Target
from proxy.dialects.base import UNREADABLE, Ask, CacheControl, Dialect
from proxy.errors import BadCall
from proxy.headers import Headers, value_of

logger = logging.getLogger(__name__)

ALIAS = "responses"  # of Django's cache
ANSWER_SECONDS = 0.25  # calls wait for it
_RETRY_SECONDS = 1.0  # between attempts while the cache is away

# Fields of the body that say who asks, by dialect; answers do not depend on them. A dialect that
# is not here is not cached. Answers of the Responses API repeat them, so there they count.
_WHO = ("user", "metadata", "safety_identifier", "litellm_metadata", "tags")
_SAYS_WHO = {
    "openai_chat": _WHO,
    "openai_completions": _WHO,
    "openai_embeddings": _WHO,
    "openai_responses": (),
    "anthropic_messages": _WHO,
}
_COUNTED_OTHERWISE = ("model", "stream", "cache")
# Headers that go upstream and may change an answer.
_MATTERS = (b"anthropic-", b"openai-", b"accept-language")
_NOTHING_SAID = CacheControl()
_ANSWERED = frozenset((None, "completed", "incomplete"))


class Place(NamedTuple):
    """Where the answer of a call is looked for and kept."""

    key: str
    is_read: bool
    is_kept: bool
    ttl_s: int
    max_age_s: float | None  # older answers than that are not wanted


class Kept(msgspec.Struct, array_like=True):
    """An answer as it is kept: what its client got."""

    at_s: float  # Unix time
    call_id: str  # of the call that the provider answered
    response_id: str
    kind: bytes  # its content type
    body: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Kept)
_fields = msgspec.json.Decoder(dict[str, Any])
_canonical = msgspec.json.Encoder(order="sorted")


class ResponseCache:
    """One web process's way to the kept answers. For one event loop."""

    def __init__(
        self,
        store: BaseCache,
        *,
        name: str,
        seconds: int,
        max_bytes: int,
        secret: str,
        in_thread: bool,
        varies_with: tuple[Any, ...] = (),
    ) -> None:
        """
        seconds: how long answers are kept at most; max_bytes: of a body, and of an answer.
        secret: makes the keys this installation's own, also in a store that others use.
        varies_with: settings that change the bytes of answers.
        """
        self._store = store
        self._name = name
        self._seconds = seconds
        self.max_bytes = max_bytes
        self._salt = hashlib.sha256(secret.encode()).digest()
        self._varies_with = varies_with
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses") if in_thread else None
        self._asks_again_at = 0.0
        self.why_away: str | None = None

    @classmethod
    def of(cls, settings: Any) -> "ResponseCache | None":
        """Return the cache that the settings ask for; None: it is off."""
        if settings.RESPONSE_CACHE == "off":
            return None
        return cls(
            caches[ALIAS],
            name=settings.RESPONSE_CACHE,
            seconds=settings.RESPONSE_CACHE_SECONDS,
            max_bytes=settings.RESPONSE_CACHE_ENTRY_BYTES,
            secret=settings.SECRET_KEY,
            in_thread=settings.RESPONSE_CACHE == "redis",
            varies_with=(settings.INCLUDE_COST_IN_STREAMING_USAGE,),
        )

    @property
    def state(self) -> str:
        """What readiness says of it: where answers are kept, or why none are right now."""
        return self._name if self.why_away is None else f"{self._name} is away ({self.why_away})"

    async def start(self) -> None:
        """Connect, so that no call waits for that. Does not fail where the cache is away."""
        if self._thread is not None:
            await self._ask("")

    def close(self) -> None:
        """Let what is on its way be written, and take no more."""
        if self._thread is not None:
            self.why_away, self._asks_again_at = "closed", math.inf
            self._thread.shutdown(wait=False)

    # -- where a call belongs ------------------------------------------------------------

    def place_of(
        self,
        dialect: Dialect,
        ask: Ask,
        opened: Opened,
        targets: tuple[Target, ...],
        headers: Headers,
        query: str,
    ) -> Place | None:
        """Return where the call's answer belongs; None: it is neither looked for nor kept."""
        says_who = _SAYS_WHO.get(dialect.NAME)
        if says_who is None or len(ask.body) > self.max_bytes:
            return None
        said = ask.said.cache or _NOTHING_SAID
        directives = _directives(headers)
        ttl_s = self._seconds if said.ttl is None else int(min(said.ttl, self._seconds))
        is_read = not (said.no_cache or b"no-cache" in directives)
        is_kept = not (said.no_store or b"no-store" in directives) and ttl_s > 0
        if not is_read and not is_kept:
            return None
        fields = _what_is_asked(dialect, ask.body, says_who)
        if fields is None:
            return None
        parts = [
            dialect.NAME,
            ask.model,
            ask.streamed,
            "master" if opened.key_id is None else opened.key_id.hex(),
            opened.customer_id,
            opened.user_id,
            said.namespace,
            query,
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _that_matter(headers)],
            [(t.deployment_id, dialect.base_url(t), t.upstream_model) for t in targets],
            self._varies_with,
            fields,
        ]
        try:
            written = _canonical.encode(parts)
        except UNREADABLE:  # nested a little less deep than the gateway could read
            return None
        key = hashlib.blake2b(written, digest_size=32, key=self._salt).hexdigest()
        return Place(key, is_read, is_kept, ttl_s, said.max_age)

    # -- finding and keeping ---------------------------------------------------------------

    async def find(self, place: Place) -> Kept | None:
        """Return the answer kept there, if there is one young enough."""
        data = self._store.get(place.key) if self._thread is None else await self._ask(place.key)
        if data is None:
            return None
        try:
            kept = _decoder.decode(data)
        except msgspec.MsgspecError:
            return None  # of another version, or another's
        if place.max_age_s is not None and time.time() - kept.at_s > place.max_age_s:
            return None
        return kept

    def keep(self, place: Place, kept: Kept) -> None:
        """Keep an answer, unless it is too large or the cache is away. Does not wait for it."""
        if len(kept.body) > self.max_bytes:
            return
        data = _encoder.encode(kept)
        if self._thread is None:
            self._store.set(place.key, data, place.ttl_s)
        elif self.why_away is None:
            loop = asyncio.get_running_loop()
            writing = loop.run_in_executor(self._thread, self._store.set, place.key, data, place.ttl_s)
            writing.add_done_callback(self._was_written)

    async def _ask(self, key: str) -> bytes | None:
        """Ask in the thread; while the cache is away, one call a second finds out whether it is back."""
        if self.why_away is not None:
            if time.monotonic() < self._asks_again_at:
                return None
            self._asks_again_at = time.monotonic() + _RETRY_SECONDS
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                data = await loop.run_in_executor(self._thread, self._store.get, key)
        except Exception as error:  # whatever it is, calls go on
            self._is_away(error)
            return None
        if self.why_away is not None:
            self.why_away = None
            logger.warning("the response cache is back")
        return data

    def _was_written(self, writing: asyncio.Future) -> None:
        if not writing.cancelled() and (error := writing.exception()) is not None:
            self._is_away(error)

    def _is_away(self, error: BaseException) -> None:
        is_new = self.why_away is None
        self.why_away = f"{type(error).__name__}: {error}".rstrip(": ")
        self._asks_again_at = time.monotonic() + _RETRY_SECONDS
        if is_new:
            logger.error("the response cache is away, every call goes to its provider: %s", self.why_away)


def _directives(headers: Headers) -> set[bytes]:
    said = value_of(b"cache-control", headers)
    return {part.strip().lower() for part in said.split(b",")} if said else set()


def _that_matter(headers: Headers) -> Iterable[tuple[bytes, bytes]]:
    return sorted(pair for pair in headers if pair[0].startswith(_MATTERS))


def _what_is_asked(dialect: Dialect, body: bytes, says_who: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the fields that the answer depends on; None where it depends on more, or does more.

    What a strict budget cannot bound (`dialects/bounds.py`) is fetched or run by the provider,
    or kept there from earlier calls: tomorrow's answer may be another. `store: true` wants an
    effect, not only an answer.
    """
    try:
        fields = _fields.decode(body)
        if fields.get("store") or dialect.unbounded(body):
            return None
    except (*UNREADABLE, BadCall):
        return None
    for name in (*_COUNTED_OTHERWISE, *says_who):
        fields.pop(name, None)
    return fields


class _State(msgspec.Struct):
    status: Any = None
    error: Any = None


_state = msgspec.json.Decoder(_State)


def is_answer(answer: bytes) -> bool:
    """Tell whether a plain 200 is an answer, and not the report of a failure or of work under way."""
    try:
        said = _state.decode(answer)
    except UNREADABLE:
        return False
    return said.error is None and (not isinstance(said.status, str) or said.status in _ANSWERED)


class Copy:
    """A stream's bytes, put by as they pass; nothing, once they are too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._chunks: list[bytes] = []

    def add(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._limit:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def whole(self) -> bytes | None:
        return b"".join(self._chunks) if self._size <= self._limit else None


# -- stores ------------------------------------------------------------------------------

_ENTRY_BYTES = 500  # what an entry takes besides its value


class _Memory:
    """What one location holds: entries by key, the one asked for last at the end."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.entries: OrderedDict[str, tuple[float | None, bytes]] = OrderedDict()  # (expires at, value)
        self.used_bytes = 0

    def drop(self, key: str) -> bool:
        entry = self.entries.pop(key, None)
        if entry is None:
            return False
        self.used_bytes -= len(entry[1]) + _ENTRY_BYTES
        return True


_memories: dict[str, _Memory] = {}  # by location: Django makes a cache object per thread


class SizedMemoryCache(BaseCache):
    """A cache of bytes in this process's memory, bounded in bytes: what was not asked for longest goes first.

    Django's own counts entries, whatever their size, and pickles them. Takes `get`, `set`,
    `delete` and `clear`. OPTIONS: MAX_BYTES.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._max_bytes: int = params["OPTIONS"]["MAX_BYTES"]
        self._memory = _memories.setdefault(location, _Memory())

    @property
    def used_bytes(self) -> int:
        return self._memory.used_bytes

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        key = self.make_and_validate_key(key, version=version)
        memory = self._memory
        with memory.lock:
            entry = memory.entries.get(key)
            if entry is None:
                return default
            if entry[0] is not None and entry[0] <= time.time():
                memory.drop(key)
                return default
            memory.entries.move_to_end(key)
            return entry[1]

    def set(self, key: str, value: bytes, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        key = self.make_and_validate_key(key, version=version)
        size = len(value) + _ENTRY_BYTES
        memory = self._memory
        with memory.lock:
            memory.drop(key)
            if size > self._max_bytes:
                return
            while memory.used_bytes + size > self._max_bytes:
                memory.drop(next(iter(memory.entries)))
            memory.entries[key] = (self.get_backend_timeout(timeout), value)
            memory.used_bytes += size

    def delete(self, key: str, version: int | None = None) -> bool:
        key = self.make_and_validate_key(key, version=version)
        with self._memory.lock:
            return self._memory.drop(key)

    def clear(self) -> None:
        memory = self._memory
        with memory.lock:
            memory.entries.clear()
            memory.used_bytes = 0


class PlainBytes:
    """Bytes as they are. Django would pickle them, and unpickling what is in a shared store runs it."""

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, data: bytes) -> bytes:
        return data
