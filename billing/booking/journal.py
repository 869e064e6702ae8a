"""
The journal: what a web process knows of its calls, on disk before the database.

One process, one journal: a folder named by a UUID, locked (flock) for as long as
the process lives, holding numbered segments. A segment is a header and frames:

    header  b"SPJ1", 4 bytes little-endian length, msgpack {installation, journal, segment}
    frame   b"\\xabR", 4 bytes length, 4 bytes CRC-32 of the payload, payload (a record)

A frame is in the kernel when `append` returns: it survives a killed process. It is
on the disk once `sync` has returned: it survives a power cut. Only synced bytes are
booked, so that a power cut cannot take away what the database already has. A torn
last frame is the end of a file; a bad frame before that is reported, never skipped
in silence. No record is ever changed; an old file is only appended to by whoever
adopts it, under its lock. What the records mean is in `records.py`; booking is in
`recorder.py`.
"""

import contextlib
import errno
import fcntl
import logging
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from billing.booking.records import Record, decode, encode

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
_MAGIC = b"SPJ1"
_FRAME_MARK = b"\xabR"
_FRAME_HEAD = struct.Struct("<2sII")
_HEADER_HEAD = struct.Struct("<4sI")
MAX_RECORD_BYTES = 64 * 1024 * 1024
_MAX_HEADER_BYTES = 512
_header = msgspec.msgpack.Decoder(dict[str, Any])


class Position(NamedTuple):
    """A place in a journal: everything before it was read or booked."""

    segment: int
    offset: int


class JournalFull(OSError):
    """The journal cannot be written (disk full, or failing): no new call may start."""


class ForeignJournal(Exception):
    """A journal of another installation, or in a format this version does not know."""


class Damage(NamedTuple):
    """Bytes of a segment that are no frame."""

    segment: int
    offset: int
    length: int


class Journal:
    """The journal of this process. `append` is for the event loop, `sync` for one other thread."""

    def __init__(
        self, folder: Path, installation_id: uuid.UUID, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Create a new journal below `folder`. Raises: OSError where that cannot be written."""
        self.id = uuid.uuid4()
        self.path = folder / str(self.id)
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            raise FileExistsError(errno.EEXIST, "never append to what is there", str(self.path))
        # Locked under a name that nobody adopts: between making and locking it, another
        # process would take it for that of a dead one.
        unlocked = folder / f"new-{self.id}"
        unlocked.mkdir()
        self._lock_fd = _lock(unlocked)
        if self._lock_fd is None:
            raise JournalFull(errno.ENOLCK, "our new journal cannot be locked")
        unlocked.rename(self.path)
        self._installation_id = installation_id
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()  # guards the file descriptors at a change of segment
        self._segment = 0
        self._unsynced: list[int] = []  # sealed segments' descriptors, still to be synced and closed
        self._fd = -1
        self._offset = 0
        self._synced = Position(0, 0)
        self._failed = False
        self._new_segment()
        self.begin = self.end  # nothing is in it yet
        _sync_folder(folder)

    @property
    def synced(self) -> Position:
        """Up to where the journal is on disk."""
        return self._synced

    @property
    def end(self) -> Position:
        return Position(self._segment, self._offset)

    def append(self, *records: Record) -> None:
        """Write the records in one go. Raises: JournalFull; then none of them counts as written."""
        data = b"".join([_frame(encode(record)) for record in records])
        if self._failed or self._offset > self._segment_bytes:
            self._new_segment()
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._failed = True
            raise JournalFull(error.errno, "the journal cannot be written") from error
        if written != len(data):
            # A short write leaves a torn frame: this segment ends there (J5). The whole
            # ones in front of it go too: whoever called us will write them again.
            self._failed = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._offset)
            raise JournalFull(errno.ENOSPC, "the disk took only part of a record")
        self._offset += written

    def sync(self) -> Position:
        """Bring everything appended so far to the disk and return up to where. Raises: OSError."""
        with self._mutex:
            sealed, self._unsynced = self._unsynced, []
            fd, target = self._fd, self.end
        while sealed:
            try:
                os.fdatasync(sealed[0])
            except OSError:
                with self._mutex:
                    self._unsynced = sealed + self._unsynced
                raise
            os.close(sealed.pop(0))
        if target != self._synced:
            try:
                os.fdatasync(fd)
            except OSError:
                # The kernel may have dropped the pages: nothing more goes into this file.
                self._failed = True
                raise
            self._synced = target
        return self._synced

    def close(self) -> None:
        self.sync()
        with self._mutex:
            os.close(self._fd)
            if self._lock_fd is not None:
                os.close(self._lock_fd)
            self._fd = -1

    def _new_segment(self) -> None:
        number = self._segment + 1
        header = msgspec.msgpack.encode(
            {"installation": self._installation_id.bytes, "journal": self.id.bytes, "segment": number}
        )
        data = _HEADER_HEAD.pack(_MAGIC, len(header)) + header
        path = segment_path(self.path, number)
        fd = -1
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
            if os.write(fd, data) != len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
            _sync_folder(self.path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
                path.unlink(missing_ok=True)
            raise JournalFull(error.errno, "a new journal segment cannot be made") from error
        with self._mutex:
            if self._fd >= 0:
                self._unsynced.append(self._fd)
            self._fd, self._segment, self._offset = fd, number, len(data)
            self._failed = False


def segment_path(journal: Path, number: int) -> Path:
    return journal / f"{number:08d}.seg"


def segments_of(journal: Path) -> list[int]:
    """Return the numbers of the segments that are still there, ascending."""
    return sorted(int(path.stem) for path in journal.glob("*.seg") if path.stem.isdigit())


def read(
    journal: Path, start: Position, *, installation_id: uuid.UUID, until: Position | None = None
) -> Iterator[tuple[Record | Damage, Position]]:
    """Yield each record from `start` on with the position behind it, and damage where it lies.

    until: stop there; None reads to the last whole frame.
    Raises: ForeignJournal.
    """
    for number in segments_of(journal):
        if number < start.segment or (until and number > until.segment):
            continue
        with segment_path(journal, number).open("rb") as file:
            begin = _check_header(file.read(_MAX_HEADER_BYTES), installation_id)
            if number == start.segment:
                begin = max(begin, start.offset)
            file.seek(begin)
            data = file.read(max(0, until.offset - begin) if until and number == until.segment else -1)
        for item, offset in _frames(data, number, begin):
            yield item, Position(number, offset)


def _frames(data: bytes, number: int, base: int) -> Iterator[tuple[Record | Damage, int]]:
    """Yield the records in `data`, at `base` in segment `number`, each with the offset behind it."""
    at = 0
    while at < len(data):
        payload = _payload_at(data, at)
        if payload is None:
            resume = _next_frame(data, at + 1)
            if resume is None:
                return  # a torn tail: the end of the file
            yield Damage(number, base + at, resume - at), base + resume
            at = resume
            continue
        behind = at + _FRAME_HEAD.size + len(payload)
        try:
            record: Record | Damage = decode(payload)
        except msgspec.MsgspecError:
            record = Damage(number, base + at, behind - at)
        yield record, base + behind
        at = behind


def _payload_at(data: bytes, at: int) -> bytes | None:
    """Return the payload of the whole, undamaged frame at `at`, or None."""
    begin = at + _FRAME_HEAD.size
    if begin > len(data):
        return None
    mark, length, crc = _FRAME_HEAD.unpack_from(data, at)
    if mark != _FRAME_MARK or length > MAX_RECORD_BYTES or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    return payload if zlib.crc32(payload) == crc else None


def _next_frame(data: bytes, at: int) -> int | None:
    """Return where the next whole frame begins at or behind `at`, or None."""
    while (found := data.find(_FRAME_MARK, at)) >= 0:
        if _payload_at(data, found) is not None:
            return found
        at = found + 1
    return None


def _frame(payload: bytes) -> bytes:
    return _FRAME_HEAD.pack(_FRAME_MARK, len(payload), zlib.crc32(payload)) + payload


def _check_header(data: bytes, installation_id: uuid.UUID) -> int:
    """Return where the frames begin. Raises: ForeignJournal."""
    if len(data) < _HEADER_HEAD.size:
        return len(data)  # torn while it was made: nothing in it
    magic, length = _HEADER_HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ForeignJournal("unknown format")
    end = _HEADER_HEAD.size + length
    if len(data) < min(end, _MAX_HEADER_BYTES):
        return len(data)
    try:
        header = _header.decode(data[_HEADER_HEAD.size : end])
    except msgspec.MsgspecError:
        raise ForeignJournal("its header cannot be read") from None
    if header.get("installation") != installation_id.bytes:
        raise ForeignJournal("belongs to another installation")
    return end


def _lock(journal: Path) -> int | None:
    """Lock a journal's folder and return the descriptor, or None where another process has it.

    flock, not lockf: a lockf lock is gone as soon as any descriptor of the file is
    closed. The inode is compared afterwards: the folder may have been removed, and
    one of the same name made, between opening and locking.
    """
    try:
        fd = os.open(journal, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(journal).st_ino == os.fstat(fd).st_ino:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Orphan:
    """A journal whose process is gone, locked by us so that nobody else adopts it."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.id = uuid.UUID(path.name)
        self._lock_fd = lock_fd

    def finish(self, records: list[Record], *, behind: Position) -> Position:
        """Append `records` behind the last whole frame, sync, and return the journal's end.

        Bytes of a torn frame behind `behind` are cut off first. Doing this twice is
        safe: the second time the records are there and none is missing.
        """
        path = segment_path(self.path, behind.segment)
        with path.open("r+b") as file:
            file.truncate(behind.offset)
            file.seek(behind.offset)
            file.write(b"".join([_frame(encode(record)) for record in records]))
            file.flush()
            os.fsync(file.fileno())
            return Position(behind.segment, file.tell())

    def release(self) -> None:
        os.close(self._lock_fd)

    def remove(self) -> None:
        """Delete the journal's files. Only for one that is booked to its end."""
        for number in segments_of(self.path):
            segment_path(self.path, number).unlink()
        self.path.rmdir()


def adopt(path: Path) -> Orphan | None:
    """Lock the journal at `path`, or return None while its process lives."""
    try:
        uuid.UUID(path.name)
    except ValueError:
        return None
    fd = _lock(path)
    return None if fd is None else Orphan(path, fd)
