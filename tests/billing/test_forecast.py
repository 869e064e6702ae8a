"""Forecasts: one straight line, and none where too little is known."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.test import SimpleTestCase

from billing.budgets.forecast import Forecast, Pace, enough, forecast, pace_of_days

JULY, AUGUST = datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 8, 1, tzinfo=UTC)
AT = datetime(2026, 7, 11, tzinfo=UTC)  # ten days of July are over, 21 are left
WEEK_AGO = AT - timedelta(days=7)


def july(spent: str, limit: str | None = "100", *, recent: Pace | None = None, at=AT, **period) -> Forecast:
    return forecast(
        spent=Decimal(spent),
        limit=None if limit is None else Decimal(limit),
        at=at,
        recent=recent,
        **{"counts_from": JULY, "ends_at": AUGUST, **period},
    )


class ForecastTests(SimpleTestCase):
    def test_without_a_recent_pace_it_is_that_of_the_period(self):
        found = july("50")

        self.assertEqual(found.per_day, Decimal(50) / 10)
        self.assertEqual(found.at_end, 50 + Decimal(5) * 21)
        self.assertEqual(found.exceeds_at, AT + timedelta(days=10))
        self.assertEqual(found.since, JULY)

    def test_a_recent_pace_counts_more_than_the_period_so_far(self):
        found = july("50", recent=Pace(Decimal(7), WEEK_AGO))

        self.assertEqual(found.per_day, 1)
        self.assertEqual(found.at_end, 50 + Decimal(21))
        self.assertIsNone(found.exceeds_at)

    def test_the_limit_counts_as_exceeded_when_it_is_reached_and_not_before(self):
        pace = Pace(Decimal(7), WEEK_AGO)  # $1 a day, for 21 days more

        self.assertIsNone(july("79", recent=pace).exceeds_at)  # reached at the end itself: another period
        self.assertEqual(july("79.5", recent=pace).exceeds_at, AT + timedelta(days=20, hours=12))
        self.assertEqual(july("100", recent=pace).exceeds_at, AT)
        self.assertEqual(july("120", recent=pace).exceeds_at, AT)

    def test_the_day_is_that_of_the_zone(self):
        found = july("99", recent=Pace(Decimal(7), WEEK_AGO))  # reached at midnight UTC, the 12th

        self.assertEqual(found.exceeds_on(UTC), date(2026, 7, 12))
        self.assertEqual(found.exceeds_on(ZoneInfo("America/New_York")), date(2026, 7, 11))
        self.assertIsNone(july("1", recent=Pace(Decimal(0), WEEK_AGO)).exceeds_on(UTC))

    def test_too_little_is_said_by_no_forecast(self):
        two_days = JULY + timedelta(days=2)

        self.assertIsNone(july("50", at=two_days - timedelta(microseconds=1)))
        self.assertIsNotNone(july("50", at=two_days))
        self.assertIsNone(july("50", recent=Pace(Decimal(50), AT - timedelta(days=1))))

    def test_a_period_of_a_day_has_its_own_pace_once_a_quarter_is_over(self):
        day = {"counts_from": AT, "ends_at": AT + timedelta(days=1)}
        recent = Pace(Decimal(700), WEEK_AGO)

        self.assertIsNone(july("3", "10", recent=recent, at=AT + timedelta(hours=5), **day))
        found = july("3", "10", recent=recent, at=AT + timedelta(hours=6), **day)
        self.assertEqual((found.per_day, found.at_end), (Decimal(12), Decimal(12)))
        self.assertEqual(found.exceeds_at, AT + timedelta(hours=20))

    def test_how_much_is_enough_depends_on_the_period(self):
        self.assertEqual(enough(timedelta(hours=1)), timedelta(minutes=15))
        self.assertEqual(enough(timedelta(days=8)), timedelta(days=2))
        self.assertEqual(enough(timedelta(days=31)), timedelta(days=2))
        self.assertEqual(enough(None), timedelta(days=2))

    def test_a_budget_for_all_time_has_a_day_but_no_end(self):
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        found = july("50", recent=Pace(Decimal(14), WEEK_AGO), counts_from=epoch, ends_at=None)

        self.assertIsNone(found.at_end)
        self.assertEqual(found.exceeds_at, AT + timedelta(days=25))

    def test_what_is_farther_than_anybody_knows_is_not_told(self):
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        pace = Pace(Decimal("0.000000001"), WEEK_AGO)

        self.assertIsNone(july("0", "1000000", recent=pace, counts_from=epoch, ends_at=None).exceeds_at)

    def test_without_a_limit_there_is_an_amount_and_no_day(self):
        found = july("50", None)

        self.assertEqual((found.at_end, found.exceeds_at), (50 + Decimal(5) * 21, None))

    def test_corrections_do_not_make_the_pace_run_backwards(self):
        found = july("50", recent=Pace(Decimal(-7), WEEK_AGO))

        self.assertEqual((found.per_day, found.at_end, found.exceeds_at), (0, 50, None))

    def test_amounts_have_nine_places(self):
        found = july("10", recent=Pace(Decimal(1), AT - timedelta(days=3)))

        self.assertEqual(found.per_day, Decimal("0.333333333"))
        self.assertEqual(found.at_end, Decimal(17))


class PaceTests(SimpleTestCase):
    today = date(2026, 7, 11)

    def pace(self, spent: dict[int, str], *, active_before: bool = False) -> Pace | None:
        """spent: by day of July."""
        days = {date(2026, 7, day): Decimal(amount) for day, amount in spent.items()}
        return pace_of_days(days, today=self.today, starts_at=AT, active_before=active_before)

    def test_days_without_calls_count_in_the_pace_of_who_was_there_before(self):
        self.assertEqual(self.pace({11: "7"}, active_before=True), Pace(Decimal(7), AT - timedelta(days=6)))

    def test_the_pace_of_a_new_customer_begins_with_its_first_day(self):
        self.assertEqual(self.pace({10: "3", 11: "7"}), Pace(Decimal(10), AT - timedelta(days=1)))

    def test_only_the_last_seven_days_count(self):
        found = self.pace({4: "1000", 5: "1", 11: "7"}, active_before=True)

        self.assertEqual(found, Pace(Decimal(8), AT - timedelta(days=6)))

    def test_a_quiet_week_is_a_pace_of_nothing_and_nobody_ever_has_none(self):
        self.assertEqual(self.pace({}, active_before=True), Pace(Decimal(0), AT - timedelta(days=6)))
        self.assertIsNone(self.pace({}))
