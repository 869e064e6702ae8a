"""UUIDv7: ordered by the instant they were made for."""

import uuid
from datetime import UTC, datetime, timedelta

from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from customers.ids import first_uuid7_at, uuid7_at, uuid7_bytes, uuid7_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_milliseconds = st.integers(0, 4_102_444_800_000)  # to the year 2100


class Uuid7Tests(SimpleTestCase):
    @settings(database=None)
    @given(milliseconds=_milliseconds)
    def test_it_is_a_uuid_of_version_7(self, milliseconds):
        made = uuid7_at(milliseconds)

        self.assertEqual((made.version, made.variant), (7, uuid.RFC_4122))
        self.assertEqual(made.int >> 80, milliseconds)

    def test_two_of_one_millisecond_differ(self):
        self.assertEqual(len({uuid7_at(1) for _ in range(1_000)}), 1_000)

    @settings(database=None)
    @given(earlier=_milliseconds, later=_milliseconds)
    def test_they_are_ordered_by_time(self, earlier, later):
        if earlier < later:
            self.assertLess(uuid7_at(earlier), uuid7_at(later))

    def test_its_spelling_is_the_usual_one(self):
        for _ in range(100):
            raw = uuid7_bytes(1_784_000_000_000)

            self.assertEqual(uuid7_text(raw), str(uuid.UUID(bytes=raw)))


class InstantTests(SimpleTestCase):
    @settings(database=None, max_examples=500)
    @given(milliseconds=_milliseconds)
    def test_the_first_of_a_millisecond_is_exactly_of_that_millisecond(self, milliseconds):
        at = EPOCH + timedelta(milliseconds=milliseconds)

        self.assertEqual(first_uuid7_at(at).int >> 80, milliseconds)

    @settings(database=None)
    @given(milliseconds=st.integers(1, 4_102_444_800_000))
    def test_the_first_is_a_bound_between_one_millisecond_and_the_next(self, milliseconds):
        bound = first_uuid7_at(EPOCH + timedelta(milliseconds=milliseconds))

        self.assertLessEqual(bound, uuid7_at(milliseconds))
        self.assertGreater(bound, uuid7_at(milliseconds - 1))

    def test_nothing_is_older_than_the_first_of_1970(self):
        self.assertEqual(first_uuid7_at(datetime(166, 3, 25, tzinfo=UTC)), first_uuid7_at(EPOCH))

    def test_a_zone_does_not_matter(self):
        tokyo = datetime.fromisoformat("2026-07-15T21:00:00.123+09:00")

        self.assertEqual(first_uuid7_at(tokyo), first_uuid7_at(tokyo.astimezone(UTC)))
