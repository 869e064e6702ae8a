"""Durations and their periods: one calendar rule, and no instant without exactly one period."""

import os
from datetime import UTC, date, datetime, timedelta
from unittest import mock
from zoneinfo import ZoneInfo, available_timezones

from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from customers.durations import ALL_TIME, CurrentPeriods, Duration, Period, parse_duration, period_of
from spendproject import environment as env

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
UTC_ZONE = ZoneInfo("UTC")
MICROSECOND = timedelta(microseconds=1)


def period(text: str, at: datetime, zone: ZoneInfo = UTC_ZONE) -> Period:
    return period_of(parse_duration(text), at, zone)


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)


class WritingTests(SimpleTestCase):
    def test_a_number_and_a_unit(self):
        for text in ("45s", "5m", "12h", "10d", "2w", "3mo", "36h"):
            self.assertEqual(str(parse_duration(text)), text)

    def test_words(self):
        written = [str(parse_duration(word)) for word in ("hourly", "daily", "weekly", "monthly")]

        self.assertEqual(written, ["1h", "1d", "1w", "1mo"])

    def test_writings_of_one_length_are_one_duration(self):
        for one, canonical in (
            ("60s", "1m"),
            ("90s", "90s"),
            ("120m", "2h"),
            ("24h", "1d"),
            ("86400s", "1d"),
            ("48h", "2d"),
            ("7d", "1w"),
            ("168h", "1w"),
            ("14d", "2w"),
            ("30d", "1mo"),
            ("720h", "1mo"),
            ("60d", "60d"),
        ):
            self.assertEqual(parse_duration(one), parse_duration(canonical), one)
            self.assertEqual(str(parse_duration(one)), canonical)

    def test_a_month_is_no_number_of_days_but_thirty(self):
        for days in ("28d", "29d", "31d"):
            self.assertNotEqual(parse_duration(days), parse_duration("1mo"))

    def test_anything_else_is_refused_with_a_message_that_says_what_is_allowed(self):
        for text in (
            "", " ", "1", "d", "0d", "00d", "01d", "-1d", "+1d", "1.5h", "1e3s", "1 d", " 1d", "1d ", "1d\n",
            "1D", "1M", "1y", "1min", "1month", "1d1h", "Daily", "yearly", "\u0661d", "1\uff44", "\u00b2d",
            "None",
        ):  # fmt: skip
            with self.subTest(text=text), self.assertRaisesMessage(ValueError, "write a whole number and a"):
                parse_duration(text)

    def test_a_century_is_the_longest(self):
        for text in ("1200mo", "36525d", "876600h"):
            parse_duration(text)
        for text in ("1201mo", "36526d", "876601h", "99999999999d", "9" * 5_000 + "s"):
            with self.subTest(text=text[:20]), self.assertRaisesMessage(ValueError, "at most 100 years"):
                parse_duration(text)


class AlignmentTests(SimpleTestCase):
    """Wednesday 15 July 2026, 13:45:30 UTC; 15:45:30 in Berlin."""

    at = utc(2026, 7, 15, 13, 45, 30)

    def expect(self, text: str, starts_at: datetime, ends_at: datetime, zone: ZoneInfo = UTC_ZONE):
        found = period(text, self.at, zone)
        self.assertEqual((found.starts_at, found.ends_at), (starts_at, ends_at), text)

    def test_what_divides_the_day_follows_the_clock(self):
        self.expect("1h", utc(2026, 7, 15, 13), utc(2026, 7, 15, 14))
        self.expect("6h", utc(2026, 7, 15, 12), utc(2026, 7, 15, 18))
        self.expect("15m", utc(2026, 7, 15, 13, 45), utc(2026, 7, 15, 14))
        self.expect("20s", utc(2026, 7, 15, 13, 45, 20), utc(2026, 7, 15, 13, 45, 40))

    def test_it_is_the_clock_of_the_zone(self):
        self.expect("6h", utc(2026, 7, 15, 10), utc(2026, 7, 15, 16), BERLIN)  # 12:00 to 18:00
        self.expect("1h", utc(2026, 7, 15, 13, 15), utc(2026, 7, 15, 14, 15), ZoneInfo("Asia/Kathmandu"))

    def test_what_does_not_divide_the_day_starts_afresh_at_midnight(self):
        late = utc(2026, 7, 15, 23, 59)

        self.expect("5h", utc(2026, 7, 15, 10), utc(2026, 7, 15, 15))
        self.assertEqual(period("5h", late)[1:3], (utc(2026, 7, 15, 20), utc(2026, 7, 16)))
        self.assertEqual(period("23h", late)[1:3], (utc(2026, 7, 15, 23), utc(2026, 7, 16)))

    def test_days_begin_at_midnight(self):
        self.expect("1d", utc(2026, 7, 15), utc(2026, 7, 16))
        self.expect("daily", utc(2026, 7, 14, 22), utc(2026, 7, 15, 22), BERLIN)

    def test_weeks_begin_on_monday(self):
        self.expect("1w", utc(2026, 7, 13), utc(2026, 7, 20))
        self.expect("weekly", utc(2026, 7, 12, 22), utc(2026, 7, 19, 22), BERLIN)

    def test_months_begin_on_the_first(self):
        for text in ("1mo", "30d", "monthly"):
            self.expect(text, utc(2026, 7, 1), utc(2026, 8, 1))
        self.expect("1mo", utc(2026, 6, 30, 22), utc(2026, 7, 31, 22), BERLIN)

    def test_quarters_and_years_begin_in_january(self):
        self.expect("3mo", utc(2026, 7, 1), utc(2026, 10, 1))
        self.expect("12mo", utc(2026, 1, 1), utc(2027, 1, 1))

    def test_everything_else_is_counted_from_the_first_of_january_2024(self):
        anchor = date(2024, 1, 1)
        days, months, hours = (date(2026, 7, 15) - anchor).days, 2 * 12 + 6, 36
        since = self.at - utc(2024, 1, 1)

        tenth = utc(2024, 1, 1) + timedelta(days=days - days % 10)
        self.expect("10d", tenth, tenth + timedelta(days=10))
        fortnight = utc(2024, 1, 1) + timedelta(days=days - days % 14)
        self.expect("2w", fortnight, fortnight + timedelta(days=14))
        self.assertEqual(months - months % 5, 30)  # so this one begins in July
        self.expect("5mo", utc(2026, 7, 1), utc(2026, 12, 1))
        passed = utc(2024, 1, 1) + since // timedelta(hours=hours) * timedelta(hours=hours)
        self.expect("36h", passed, passed + timedelta(hours=hours))

    def test_the_anchor_is_a_beginning_of_all(self):
        anchor = datetime(2024, 1, 1, tzinfo=BERLIN).astimezone(UTC)
        for text in ("7s", "7m", "7h", "36h", "1d", "2d", "10d", "1w", "3w", "1mo", "5mo", "12mo", "1200mo"):
            self.assertEqual(period(text, anchor, BERLIN).starts_at, anchor, text)

    def test_before_the_anchor_the_same_rule_holds(self):
        self.assertEqual(period("10d", utc(2023, 12, 31))[1:3], (utc(2023, 12, 22), utc(2024, 1, 1)))
        self.assertEqual(period("5mo", utc(2023, 12, 31))[1:3], (utc(2023, 8, 1), utc(2024, 1, 1)))
        self.assertEqual(period("36h", utc(2023, 12, 31))[1:3], (utc(2023, 12, 30, 12), utc(2024, 1, 1)))

    def test_a_period_excludes_its_end(self):
        midnight = utc(2026, 7, 16)

        self.assertEqual(period("1d", midnight - MICROSECOND).ends_at, midnight)
        self.assertEqual(period("1d", midnight).starts_at, midnight)

    def test_an_instant_may_be_given_in_any_zone(self):
        self.assertEqual(period("1mo", self.at.astimezone(NEW_YORK), BERLIN), period("1mo", self.at, BERLIN))


class ClockChangeTests(SimpleTestCase):
    def lengths_h(self, text: str, zone: ZoneInfo, *day: int) -> list[float]:
        """Return how long the periods of a local day are, in hours."""
        whole = period("1d", datetime(*day, 12, tzinfo=zone), zone)
        lengths, at = [], whole.starts_at
        while at < whole.ends_at:
            found = period(text, at, zone)
            self.assertEqual(found.starts_at, at)
            lengths.append((found.ends_at - at) / timedelta(hours=1))
            at = found.ends_at
        self.assertEqual(at, whole.ends_at)
        return lengths

    def test_days_have_23_or_25_hours(self):
        for zone, spring, autumn in (
            (BERLIN, (2026, 3, 29), (2026, 10, 25)),
            (NEW_YORK, (2026, 3, 8), (2026, 11, 1)),
        ):
            self.assertEqual(self.lengths_h("1d", zone, *spring), [23])
            self.assertEqual(self.lengths_h("1d", zone, *autumn), [25])

    def test_each_hour_is_a_period_also_the_one_that_comes_twice(self):
        self.assertEqual(self.lengths_h("1h", BERLIN, 2026, 3, 29), [1] * 23)
        self.assertEqual(self.lengths_h("1h", BERLIN, 2026, 10, 25), [1] * 25)

    def test_longer_windows_keep_their_length_until_midnight(self):
        self.assertEqual(self.lengths_h("6h", BERLIN, 2026, 3, 29), [6, 6, 6, 5])
        self.assertEqual(self.lengths_h("6h", BERLIN, 2026, 10, 25), [6, 6, 6, 6, 1])
        self.assertEqual(self.lengths_h("6h", BERLIN, 2026, 10, 26), [6, 6, 6, 6])

    def test_where_midnight_is_skipped_the_day_begins_when_it_is(self):
        for name, day, offset_h in (
            ("America/Sao_Paulo", (2018, 11, 4), 3),
            ("Africa/Cairo", (2024, 4, 26), -2),
            ("Asia/Beirut", (2026, 3, 29), -2),
        ):
            zone = ZoneInfo(name)

            found = period("1d", datetime(*day, 12, tzinfo=zone), zone)

            self.assertEqual(found.starts_at, utc(*day) + timedelta(hours=offset_h))
            self.assertEqual(found.starts_at.astimezone(zone).hour, 1)
            self.assertEqual(found.ends_at - found.starts_at, timedelta(hours=23))

    def test_where_midnight_comes_twice_the_day_begins_at_the_first(self):
        self.assertEqual(self.lengths_h("1d", ZoneInfo("America/Havana"), 2026, 11, 1), [25])

    def test_a_minute_of_the_new_day_before_the_old_one_comes_back_belongs_to_the_new_one(self):
        # In Newfoundland the clock went from 00:01 on 4 November 2007 back to 23:01 on the 3rd.
        zone = ZoneInfo("America/St_Johns")
        again_the_third = datetime(2007, 11, 3, 23, 30, fold=1, tzinfo=zone)

        found = period("1d", again_the_third, zone)

        self.assertEqual(found.starts_at.astimezone(zone).date(), date(2007, 11, 4))
        self.assertEqual(found.ends_at - found.starts_at, timedelta(hours=25))

    def test_a_day_that_never_was_has_no_period(self):
        apia = ZoneInfo("Pacific/Apia")  # went from 29 to 31 December 2011

        before = period("1d", datetime(2011, 12, 29, 12, tzinfo=apia), apia)

        after = period("1d", before.ends_at, apia)
        self.assertEqual(after.starts_at.astimezone(apia).date(), date(2011, 12, 31))
        self.assertEqual(after.ends_at - after.starts_at, timedelta(days=1))


LAST_US = 130 * 365 * 86_400 * 1_000_000  # the end of the 21st century
CLOCK_CHANGES = [
    ("Europe/Berlin", utc(2026, 3, 29, 1)),
    ("Europe/Berlin", utc(2026, 10, 25, 1)),
    ("America/New_York", utc(2026, 11, 1, 6)),
    ("America/Sao_Paulo", utc(2018, 11, 4, 3)),
    ("America/Sao_Paulo", utc(2019, 2, 17, 2)),
    ("Africa/Cairo", utc(2024, 4, 25, 22)),
    ("Asia/Beirut", utc(2026, 3, 28, 22)),
    ("America/Havana", utc(2026, 11, 1, 5)),
    ("America/St_Johns", utc(2007, 11, 4, 2, 31)),
    ("Australia/Lord_Howe", utc(2026, 4, 4, 15)),
    ("Antarctica/Troll", utc(2026, 3, 29, 1)),
    ("Pacific/Apia", utc(2011, 12, 30, 10)),
]


def microseconds(at: datetime) -> int:
    return (at - utc(1970, 1, 1)) // MICROSECOND


any_instant = st.tuples(st.sampled_from(sorted(available_timezones())), st.integers(0, LAST_US))
near_a_change = st.sampled_from(CLOCK_CHANGES).flatmap(
    lambda change: st.tuples(
        st.just(change[0]),
        st.integers(-40 * 3_600, 40 * 3_600).map(lambda s: microseconds(change[1] + timedelta(seconds=s))),
    )
)
lengths = {"s": 200_000, "m": 4_000, "h": 200, "d": 800, "w": 100, "mo": 40}
durations = st.sampled_from(sorted(lengths)).flatmap(
    lambda unit: st.integers(1, lengths[unit]).map(lambda number: parse_duration(f"{number}{unit}"))
)


class TilingTests(SimpleTestCase):
    """Periods of one window lie end to end: every instant is in exactly one."""

    @settings(database=None, deadline=None, max_examples=500)
    @given(place=any_instant | near_a_change, duration=durations)
    def test_each_instant_is_in_one_period_and_the_next_begins_where_it_ends(self, place, duration):
        zone, at_us = ZoneInfo(place[0]), place[1]
        at = utc(1970, 1, 1) + at_us * MICROSECOND

        found = period_of(duration, at, zone)

        self.assertTrue(found.starts_at <= at < found.ends_at)
        self.assertTrue(found.contains(at_us))
        self.assertEqual(period_of(duration, found.starts_at, zone), found)
        self.assertEqual(period_of(duration, found.ends_at - MICROSECOND, zone), found)
        following = period_of(duration, found.ends_at, zone)
        self.assertEqual(following.starts_at, found.ends_at)
        self.assertEqual(following.window, found.window)
        preceding = period_of(duration, found.starts_at - MICROSECOND, zone)
        self.assertEqual(preceding.ends_at, found.starts_at)

    @settings(database=None, deadline=None)
    @given(place=any_instant | near_a_change)
    def test_a_day_begins_where_the_date_changes_first(self, place):
        zone = ZoneInfo(place[0])
        at = utc(1970, 1, 1) + place[1] * MICROSECOND

        found = period("1d", at, zone)

        first, before = found.starts_at.astimezone(zone), (found.starts_at - MICROSECOND).astimezone(zone)
        self.assertLess(before.date(), first.date())
        last = (found.ends_at - MICROSECOND).astimezone(zone)
        self.assertEqual(last.date(), first.date())

    @settings(database=None, deadline=None)
    @given(
        place=any_instant | near_a_change, unit=st.sampled_from(["d", "w", "mo"]), number=st.integers(1, 40)
    )
    def test_days_weeks_and_months_begin_at_the_first_instant_of_a_day(self, place, unit, number):
        zone = ZoneInfo(place[0])
        found = period(f"{number}{unit}", utc(1970, 1, 1) + place[1] * MICROSECOND, zone)

        self.assertEqual(period("1d", found.starts_at, zone).starts_at, found.starts_at)


class WindowTests(SimpleTestCase):
    at = utc(2026, 7, 15, 12)

    def test_it_names_duration_zone_and_rule(self):
        self.assertEqual(period("monthly", self.at, BERLIN).window, "1mo Europe/Berlin v1")

    def test_equal_durations_have_equal_windows(self):
        self.assertEqual(period("24h", self.at), period("daily", self.at))
        self.assertEqual(period("30d", self.at), period("1mo", self.at))

    def test_windows_that_begin_together_are_told_apart(self):
        first = utc(2024, 1, 1)
        windows = {period(text, first).window for text in ("1d", "1w", "1mo", "12h", "10d", "12mo")}

        self.assertEqual(len(windows), 6)

    def test_another_zone_is_another_window(self):
        self.assertNotEqual(
            period("1d", self.at, BERLIN).window, period("1d", self.at, ZoneInfo("Europe/Paris")).window
        )

    def test_the_longest_fits_its_column(self):
        longest = max(available_timezones(), key=len)

        self.assertLessEqual(len(period("3155759999s", self.at, ZoneInfo(longest)).window), 100)

    def test_without_a_duration_there_is_one_period_for_all_time(self):
        found = period_of(None, self.at, BERLIN)

        self.assertEqual(found, ALL_TIME)
        self.assertEqual(found[:3], ("all", utc(1970, 1, 1), None))
        self.assertTrue(found.contains(0))
        self.assertTrue(found.contains(2**63))


class CurrentPeriodsTests(SimpleTestCase):
    day = Duration(1, "d")

    def test_it_answers_as_the_calendar_does(self):
        current = CurrentPeriods(BERLIN)
        midnight_us = microseconds(datetime(2026, 7, 16, tzinfo=BERLIN))

        for at_us in (midnight_us - 1, midnight_us, midnight_us + 1, midnight_us - 1):  # also backwards
            for duration in (self.day, Duration(1, "h"), None):
                expected = period_of(duration, utc(1970, 1, 1) + at_us * MICROSECOND, BERLIN)
                self.assertEqual(current.at(duration, at_us), expected)

    def test_within_a_period_nothing_is_computed_again(self):
        current = CurrentPeriods(BERLIN)
        noon_us = microseconds(utc(2026, 7, 15, 12))

        self.assertIs(current.at(self.day, noon_us), current.at(self.day, noon_us + 1))


class SettingTests(SimpleTestCase):
    def test_the_zone_is_an_iana_name(self):
        with mock.patch.dict(os.environ, BUDGET_TIME_ZONE="Europe/Berlin"):
            self.assertEqual(env.time_zone("BUDGET_TIME_ZONE", "UTC"), BERLIN)
        with mock.patch.dict(os.environ, BUDGET_TIME_ZONE=""):
            self.assertEqual(env.time_zone("BUDGET_TIME_ZONE", "UTC"), UTC_ZONE)

    def test_a_name_that_is_none_is_refused_with_the_name_of_the_setting(self):
        for name in ("Berlin", "Europe", "../etc/passwd", "UTC+1", "/"):
            with mock.patch.dict(os.environ, BUDGET_TIME_ZONE=name):
                with self.subTest(name), self.assertRaisesMessage(env.BadSetting, "BUDGET_TIME_ZONE="):
                    env.time_zone("BUDGET_TIME_ZONE", "UTC")
