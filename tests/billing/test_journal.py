"""The journal's file format, its lock, and what becomes of it when the disk fails."""

import errno
import os
import signal
import subprocess
import sys
import threading
import uuid
import zlib
from pathlib import Path
from unittest import mock

import msgspec
from django.conf import settings
from django.test import SimpleTestCase

from billing.booking import journal as journal_module
from billing.booking.journal import (
    Damage,
    ForeignJournal,
    Journal,
    JournalFull,
    adopt,
    read,
    segment_path,
    segments_of,
)
from billing.booking.records import encode
from tests.billing.making import (
    INSTALLATION,
    START,
    append_call,
    killed,
    make_call,
    make_closed,
    make_folder,
    make_journal,
    make_opened,
    records_in,
)


class JournalCase(SimpleTestCase):
    def setUp(self):
        self.folder = make_folder(self)

    def make(self, **options) -> Journal:
        return make_journal(self, self.folder, **options)


class FormatTests(JournalCase):
    def test_it_reads_back_what_was_appended_in_order(self):
        journal = self.make()
        first, second = make_opened(model="a"), make_opened(model="b", tags=["x"], metadata={"k": [1, None]})

        journal.append(first)
        journal.append(second, make_closed(first))

        self.assertEqual(records_in(journal.path), [first, second, make_closed(first)])

    def test_an_appended_record_survives_a_killed_process_without_a_sync(self):
        journal = self.make()
        opened = make_opened()

        journal.append(opened)

        self.assertEqual(records_in(killed(journal)), [opened])

    def test_a_frame_is_mark_length_checksum_and_payload(self):
        journal = self.make()
        begin = journal.end.offset
        opened = make_opened()
        payload = encode(opened)

        journal.append(opened)

        data = segment_path(journal.path, 1).read_bytes()
        self.assertEqual(data[:4], b"SPJ1")
        self.assertEqual(data[begin : begin + 2], b"\xabR")
        self.assertEqual(int.from_bytes(data[begin + 2 : begin + 6], "little"), len(payload))
        self.assertEqual(int.from_bytes(data[begin + 6 : begin + 10], "little"), zlib.crc32(payload))
        self.assertEqual(data[begin + 10 :], payload)

    def test_each_position_is_where_reading_goes_on(self):
        journal = self.make()
        records = [make_opened(model=f"model-{i}") for i in range(5)]
        journal.append(*records)

        positions = [position for _, position in read(journal.path, START, installation_id=INSTALLATION)]

        for i, position in enumerate(positions):
            self.assertEqual(records_in(journal.path, position), records[i + 1 :])
        self.assertEqual(positions[-1], journal.end)

    def test_reading_stops_where_it_is_told_to(self):
        journal = self.make()
        journal.append(make_opened(model="before"))
        until = journal.end
        journal.append(make_opened(model="behind"))

        records = records_in(journal.path, until=until)

        self.assertEqual([record.model for record in records], ["before"])

    def test_a_record_that_cannot_be_encoded_leaves_no_trace(self):
        journal = self.make()
        end = journal.end

        with self.assertRaises(UnicodeEncodeError):
            journal.append(make_opened(), make_opened(model="\ud800"))

        self.assertEqual(journal.end, end)
        self.assertEqual(records_in(journal.path), [])


class TornAndDamagedTests(JournalCase):
    def setUp(self):
        super().setUp()
        journal = self.make()
        self.records = [make_opened(model=name) for name in ("first", "second", "third")]
        self.ends = []
        for record in self.records:
            journal.append(record)
            self.ends.append(journal.end.offset)
        self.path = killed(journal)
        self.segment = segment_path(self.path, 1)
        self.bytes = self.segment.read_bytes()

    def test_a_torn_last_frame_is_the_end_of_the_file_wherever_it_is_torn(self):
        for length in range(self.ends[1], self.ends[2]):
            self.segment.write_bytes(self.bytes[:length])

            self.assertEqual(records_in(self.path), self.records[:2], f"cut to {length} bytes")

    def test_zeros_behind_the_last_frame_are_the_end_of_the_file(self):
        self.segment.write_bytes(self.bytes + bytes(4096))

        self.assertEqual(records_in(self.path), self.records)

    def test_any_damaged_byte_in_the_middle_is_reported_and_the_rest_is_read(self):
        begin, end = self.ends[0], self.ends[1]
        for at in range(begin, end):
            broken = bytearray(self.bytes)
            broken[at] ^= 0xFF
            self.segment.write_bytes(broken)

            found = records_in(self.path)

            self.assertEqual(
                found, [self.records[0], Damage(1, begin, end - begin), self.records[2]], f"byte {at}"
            )

    def test_a_whole_frame_that_holds_no_record_is_damage_too(self):
        payload = msgspec.msgpack.encode({"no": "record"})
        begin = self.ends[2]
        self.segment.write_bytes(self.bytes + journal_module._frame(payload))

        found = records_in(self.path)

        self.assertEqual(found, [*self.records, Damage(1, begin, 10 + len(payload))])

    def test_a_torn_header_is_an_empty_segment(self):
        header_end = 8 + int.from_bytes(self.bytes[4:8], "little")
        for length in (0, 3, 8, header_end - 1):
            self.segment.write_bytes(self.bytes[:length])

            self.assertEqual(records_in(self.path), [], f"cut to {length} bytes")


class DiskFailureTests(JournalCase):
    def test_a_short_write_seals_the_segment_and_the_record_is_written_again_behind_it(self):
        journal = self.make()
        before, record, after = (
            make_opened(model="before"),
            make_opened(model="torn"),
            make_opened(model="after"),
        )
        journal.append(before)

        with mock.patch("billing.booking.journal.os.write", _write_half), self.assertRaises(JournalFull):
            journal.append(record)
        journal.append(record)
        journal.append(after)

        self.assertEqual(segments_of(journal.path), [1, 2])
        self.assertEqual(records_in(journal.path), [before, record, after])

    def test_of_several_records_cut_short_none_counts_as_written(self):
        journal = self.make()
        records = [make_opened(model="whole"), make_opened(model="torn")]
        whole = len(journal_module._frame(encode(records[0])))

        with (
            mock.patch(
                "billing.booking.journal.os.write", lambda fd, data: os.pwrite(fd, data[: whole + 5], 0)
            ),
            self.assertRaises(JournalFull),
        ):
            journal.append(*records)
        journal.append(*records)

        self.assertEqual(records_in(journal.path), records)

    def test_a_full_disk_refuses_the_record_and_the_next_one_goes_to_a_new_segment(self):
        journal = self.make()
        refused, taken = make_opened(model="refused"), make_opened(model="taken")

        with (
            mock.patch("billing.booking.journal.os.write", side_effect=_no_space()),
            self.assertRaises(JournalFull),
        ):
            journal.append(refused)
        journal.append(taken)

        self.assertEqual(records_in(journal.path), [taken])
        self.assertEqual(journal.end.segment, 2)

    def test_a_disk_that_stays_full_costs_no_descriptors_and_leaves_no_files(self):
        journal = self.make()
        with mock.patch("billing.booking.journal.os.write", side_effect=_no_space()):
            with self.assertRaises(JournalFull):
                journal.append(make_opened())
            before = _open_descriptors()

            for _ in range(5):
                with self.assertRaises(JournalFull):
                    journal.append(make_opened())

        self.assertEqual(_open_descriptors(), before)
        self.assertEqual(segments_of(journal.path), [1])

    def test_a_folder_that_cannot_be_synced_refuses_the_record_as_a_full_disk_does(self):
        journal = self.make(segment_bytes=1)
        journal.append(make_opened(model="before"))

        with mock.patch("billing.booking.journal.os.fsync", side_effect=OSError(errno.EIO, "io")):
            with self.assertRaises(JournalFull):
                journal.append(make_opened(model="refused"))
        journal.append(make_opened(model="taken"))

        self.assertEqual([record.model for record in records_in(journal.path)], ["before", "taken"])

    def test_a_failed_sync_seals_the_segment_and_claims_nothing(self):
        journal = self.make()
        journal.sync()
        synced = journal.synced
        journal.append(make_opened(model="in doubt"))

        with mock.patch("billing.booking.journal.os.fdatasync", side_effect=OSError(errno.EIO, "io")):
            with self.assertRaises(OSError):
                journal.sync()
        claimed = journal.synced
        journal.append(make_opened(model="behind"))

        self.assertEqual(claimed, synced)
        self.assertEqual(journal.end.segment, 2)

    def test_a_sealed_segment_that_cannot_be_synced_holds_the_position_back(self):
        journal = self.make(segment_bytes=1)
        journal.append(make_opened(model="in the sealed one"))
        sealed = journal._fd
        journal.append(make_opened(model="in the next one"))
        claimed = journal.synced

        with mock.patch("billing.booking.journal.os.fdatasync", _failing_for(sealed)):
            for _ in range(2):
                with self.assertRaises(OSError):
                    journal.sync()
                self.assertEqual(journal.synced, claimed)

        self.assertEqual(journal.sync(), journal.end)


class SyncTests(JournalCase):
    def test_what_is_not_synced_yet_lies_behind_the_synced_position(self):
        journal = self.make()
        journal.append(make_opened(model="synced"))
        journal.sync()

        journal.append(make_opened(model="not yet"))

        records = records_in(journal.path, until=journal.synced)
        self.assertEqual([record.model for record in records], ["synced"])

    def test_it_brings_each_file_to_the_disk_before_it_says_so(self):
        journal = self.make(segment_bytes=1)
        touched = [os.fstat(journal._fd).st_ino]
        for name in ("a", "b", "c"):
            journal.append(make_opened(model=name))
            touched.append(os.fstat(journal._fd).st_ino)
        synced = []

        def fdatasync(fd):
            self.assertLess(journal.synced, journal.end)
            synced.append(os.fstat(fd).st_ino)

        with mock.patch("billing.booking.journal.os.fdatasync", fdatasync):
            position = journal.sync()

        self.assertEqual(synced, touched)
        self.assertEqual(position, journal.end)

    def test_a_record_appended_while_a_sync_runs_waits_for_the_next_one(self):
        journal = self.make()
        journal.append(make_opened(model="before"))
        target = journal.end

        def fdatasync(fd):
            journal.append(make_opened(model="meanwhile"))

        with mock.patch("billing.booking.journal.os.fdatasync", fdatasync):
            position = journal.sync()

        self.assertEqual(position, target)
        self.assertEqual(journal.sync(), journal.end)

    def test_a_segment_sealed_while_a_sync_runs_is_synced_by_the_next_one(self):
        journal = self.make(segment_bytes=1)
        journal.append(make_opened(model="before"))
        sealed = os.fstat(journal._fd).st_ino
        target = journal.end

        def fdatasync(fd):
            journal.append(make_opened(model="in a new segment"))

        with mock.patch("billing.booking.journal.os.fdatasync", fdatasync):
            position = journal.sync()
        again = []
        with mock.patch("billing.booking.journal.os.fdatasync", lambda fd: again.append(os.fstat(fd).st_ino)):
            journal.sync()

        self.assertEqual(position, target)
        self.assertEqual(again[0], sealed)

    def test_appending_and_syncing_in_two_threads_never_claims_more_than_there_is(self):
        journal = self.make(segment_bytes=2_000)
        is_done = threading.Event()
        problems = []

        def sync():
            while not is_done.is_set():
                position = journal.sync()
                size = segment_path(journal.path, position.segment).stat().st_size
                if position.offset > size:
                    problems.append((position, size))

        syncer = threading.Thread(target=sync)
        syncer.start()
        calls = [append_call(journal, make_call()) for _ in range(300)]
        is_done.set()
        syncer.join()

        self.assertEqual(problems, [])
        self.assertEqual(journal.sync(), journal.end)
        self.assertEqual(len(records_in(journal.path, until=journal.synced)), 3 * len(calls))


class RotationTests(JournalCase):
    def test_a_segment_that_is_long_enough_is_followed_by_another(self):
        journal = self.make(segment_bytes=400)
        records = [make_opened(model=f"model-{i:03}") for i in range(20)]

        for record in records:
            journal.append(record)

        self.assertGreater(len(segments_of(journal.path)), 3)
        self.assertEqual(records_in(journal.path), records)

    def test_every_segment_says_which_it_is(self):
        journal = self.make(segment_bytes=1)
        for _ in range(3):
            journal.append(make_opened())

        for number in segments_of(journal.path):
            data = segment_path(journal.path, number).read_bytes()
            header = msgspec.msgpack.decode(data[8 : 8 + int.from_bytes(data[4:8], "little")])

            self.assertEqual(
                header,
                {"installation": INSTALLATION.bytes, "journal": journal.id.bytes, "segment": number},
            )

    def test_reading_goes_over_the_border_from_any_position(self):
        journal = self.make(segment_bytes=1)
        records = [make_opened(model=name) for name in ("a", "b", "c")]
        positions = []
        for record in records:
            journal.append(record)
            positions.append(journal.end)

        self.assertEqual([position.segment for position in positions], [2, 3, 4])
        for i, position in enumerate(positions):
            self.assertEqual(records_in(journal.path, position), records[i + 1 :])
            self.assertEqual(records_in(journal.path, until=position), records[: i + 1])


class LockTests(JournalCase):
    def test_every_start_makes_a_journal_of_its_own(self):
        one, other = self.make(), self.make()

        self.assertNotEqual(one.path, other.path)
        self.assertEqual(uuid.UUID(one.path.name), one.id)

    def test_it_takes_no_calls_where_files_cannot_be_locked(self):
        with (
            mock.patch("billing.booking.journal.fcntl.flock", side_effect=OSError(errno.ENOLCK, "no locks")),
            self.assertRaises(JournalFull),
        ):
            Journal(self.folder, INSTALLATION)

    def test_it_never_opens_a_journal_that_is_there_already(self):
        there = self.make()

        with (
            mock.patch("billing.booking.journal.uuid.uuid4", return_value=there.id),
            self.assertRaises(OSError),
        ):
            Journal(self.folder, INSTALLATION)

        self.assertEqual(segments_of(there.path), [1])

    def test_another_process_cannot_adopt_the_journal_of_a_living_one(self):
        journal = self.make()
        os.close(os.open(journal.path, os.O_RDONLY))  # a lockf lock would be gone with this

        self.assertEqual(_adopted_elsewhere(journal.path), "None")

    def test_a_killed_process_lets_go_of_its_journal(self):
        process = _process_with_journal(self.folder)
        self.addCleanup(process.stdout.close)
        path = Path(process.stdout.readline().strip())

        while_alive = adopt(path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        orphan = adopt(path)

        self.assertIsNone(while_alive)
        self.assertEqual(orphan.id, uuid.UUID(path.name))
        self.assertEqual([record.model for record in records_in(path)], ["of the killed"])
        orphan.release()

    def test_of_two_adopters_one_gets_it(self):
        path = killed(self.make())

        first, second = adopt(path), adopt(path)
        first.release()
        third = adopt(path)

        self.assertIsNone(second)
        self.assertIsNotNone(third)
        third.release()

    def test_nobody_can_adopt_a_journal_that_is_being_made(self):
        adopted = []
        lock = journal_module._lock

        def lock_late(path):
            for found in self.folder.iterdir():
                orphan = adopt_with(lock, found)
                if orphan is not None:
                    adopted.append(found)
            return lock(path)

        with mock.patch("billing.booking.journal._lock", lock_late):
            self.make()

        self.assertEqual(adopted, [])

    def test_a_folder_replaced_between_opening_and_locking_is_not_ours(self):
        path = killed(self.make())
        flock = journal_module.fcntl.flock

        def flock_after_a_swap(fd, operation):
            path.rename(path.with_name("aside"))
            path.mkdir()
            flock(fd, operation)

        with mock.patch("billing.booking.journal.fcntl.flock", flock_after_a_swap):
            orphan = adopt(path)

        self.assertIsNone(orphan)

    def test_what_is_no_journal_is_not_adopted(self):
        (self.folder / "notes").mkdir()
        (self.folder / str(uuid.uuid4())).write_text("a file")

        for path in (*self.folder.iterdir(), self.folder / str(uuid.uuid4())):
            self.assertIsNone(adopt(path), path)


class ForeignTests(JournalCase):
    def setUp(self):
        super().setUp()
        journal = self.make()
        journal.append(make_opened())
        self.path = killed(journal)
        self.segment = segment_path(self.path, 1)

    def test_a_journal_of_another_installation_is_not_read(self):
        with self.assertRaises(ForeignJournal):
            list(read(self.path, START, installation_id=uuid.uuid4()))

    def test_a_format_of_the_future_is_not_read(self):
        self.segment.write_bytes(b"SPJ2" + self.segment.read_bytes()[4:])

        with self.assertRaises(ForeignJournal):
            records_in(self.path)

    def test_a_header_of_a_damaged_length_is_no_empty_segment(self):
        data = self.segment.read_bytes()
        self.segment.write_bytes(data[:4] + (1 << 30).to_bytes(4, "little") + data[8:] + bytes(512))

        with self.assertRaises(ForeignJournal):
            records_in(self.path)

    def test_a_header_that_cannot_be_read_is_nothing_of_ours(self):
        data = self.segment.read_bytes()
        for broken in (b"\xc1" * 20, msgspec.msgpack.encode([1] * 18)):
            self.segment.write_bytes(data[:4] + len(broken).to_bytes(4, "little") + broken + data[8:])

            with self.assertRaises(ForeignJournal):
                records_in(self.path)


class OrphanTests(JournalCase):
    def test_an_adopter_cuts_the_torn_frame_off_and_writes_behind_the_last_whole_one(self):
        journal = self.make()
        opened = make_opened()
        journal.append(opened)
        behind = journal.end
        path = killed(journal)
        with segment_path(path, 1).open("ab") as file:
            file.write(journal_module._frame(encode(make_opened()))[:-3])
        orphan = adopt(path)

        end = orphan.finish([make_closed(opened)], behind=behind)

        self.assertEqual(records_in(path), [opened, make_closed(opened)])
        self.assertEqual(end.offset, segment_path(path, 1).stat().st_size)
        orphan.release()

    def test_what_an_adopter_writes_is_on_the_disk_before_it_goes_on(self):
        journal = self.make()
        opened = make_opened()
        journal.append(opened)
        behind = journal.end
        orphan = adopt(killed(journal))
        sizes = []

        with mock.patch("billing.booking.journal.os.fsync", lambda fd: sizes.append(os.fstat(fd).st_size)):
            end = orphan.finish([make_closed(opened)], behind=behind)

        self.assertEqual(sizes, [end.offset])
        orphan.release()

    def test_a_removed_journal_leaves_nothing(self):
        journal = self.make(segment_bytes=1)
        for _ in range(3):
            journal.append(make_opened())
        orphan = adopt(killed(journal))

        orphan.remove()
        orphan.release()

        self.assertEqual(list(self.folder.iterdir()), [])


def adopt_with(lock, path):
    """Try to adopt `path` by the real lock, and let it go again."""
    with mock.patch("billing.booking.journal._lock", lock):
        orphan = adopt(path)
    if orphan is not None:
        orphan.release()
    return orphan


def _write_half(fd: int, data: bytes) -> int:
    return os.pwrite(fd, data[: len(data) // 2], 0)  # the file is open for appending: the place is ignored


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, "no space left on device")


def _failing_for(broken: int):
    fdatasync = os.fdatasync

    def fail(fd):
        if fd == broken:
            raise OSError(errno.EIO, "input/output error")
        fdatasync(fd)

    return fail


def _open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def _python(program: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=settings.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )


def _adopted_elsewhere(path: Path) -> str:
    """Return what a second process gets when it tries to adopt."""
    program = (
        "import sys, pathlib; from billing.booking.journal import adopt; "
        "print(adopt(pathlib.Path(sys.argv[1])))"
    )
    with _python(program, str(path)) as process:
        return process.communicate(timeout=30)[0].strip()


def _process_with_journal(folder: Path) -> subprocess.Popen:
    program = """
import pathlib, sys, time, uuid
from billing.booking.journal import Journal
from billing.booking.records import Opened
journal = Journal(pathlib.Path(sys.argv[1]), uuid.UUID(sys.argv[2]))
journal.append(Opened(b"0" * 16, 1, "openai_chat", "of the killed", False))
print(journal.path, flush=True)
time.sleep(60)
"""
    return _python(program, str(folder), str(INSTALLATION))
