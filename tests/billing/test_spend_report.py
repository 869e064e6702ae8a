"""The spend report: its figures, when it is sent, and that it is sent once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.test import TestCase, override_settings

from billing.models import AlertRule, Delivery
from billing.reporting.spend_report import LISTED, send_due_reports
from customers.models import Team
from tests.billing.alerts import Kind, afresh, bodies, only_rule
from tests.billing.making import book_calls, make_call

MONDAY = datetime(2026, 7, 13, tzinfo=UTC)  # 6 to 12 July is the week before
HOUR = timedelta(hours=1)


def at(month: int, day: int) -> datetime:
    return datetime(2026, month, day, 12, tzinfo=UTC)


class SpendReportTests(TestCase):
    def setUp(self):
        afresh()

    @override_settings(
        SLACK_WEBHOOK_URL="https://hooks.slack.com/x", ALERT_EMAILS=["a@x.org"], EMAIL_IS_CONFIGURED=True
    )
    def test_the_week_before_is_sent_once_by_slack_and_mail(self):
        only_rule(Kind.WEEKLY_REPORT)
        Team.objects.create(pk="red", alias="Red")
        book_calls(
            make_call(at=at(7, 6), cost_usd="3", customer_id="acme", team_id="red"),
            make_call(at=at(7, 12), cost_usd="1", customer_id="other", model="claude"),
            make_call(at=at(7, 5), cost_usd="2", customer_id="acme", team_id="red"),
            make_call(at=at(7, 13), cost_usd="100"),
        )

        sent = [send_due_reports(at=MONDAY + hours * HOUR) for hours in (0.5, 1, 2, 70)]

        self.assertEqual(sent, [0, 1, 0, 0])
        self.assertEqual(
            set(Delivery.objects.values_list("channel", "target")), {("slack", ""), ("email", "a@x.org")}
        )
        [body] = bodies()
        report = body["report"]
        self.assertEqual(body["event"], "spend_report")
        self.assertEqual((report["first_day"], report["last_day"]), ("2026-07-06", "2026-07-12"))
        self.assertEqual((report["spend"], report["previous_spend"], report["calls"]), (4, 2, 2))
        self.assertEqual(report["change"], "+100 %")
        self.assertEqual(
            [(row["name"], row["spend"], row["change"]) for row in report["customers"]],
            [("acme", Decimal(3), "+50 %"), ("other", Decimal(1), "new")],
        )
        self.assertEqual([row["name"] for row in report["models"]], ["gpt-4o", "claude"])
        self.assertEqual([(row["alias"], row["calls"]) for row in report["teams"]], [("Red", 1)])
        self.assertEqual(
            body["event_message"],
            "Spend Report: $4.00 from 2026-07-06 to 2026-07-12 (+100 % against the period before), 2 calls.",
        )

    def test_the_month_before_is_sent_on_the_first(self):
        only_rule(Kind.MONTHLY_REPORT)
        book_calls(make_call(at=at(6, 1), cost_usd="1"), make_call(at=at(6, 30), cost_usd="1"))

        self.assertEqual(send_due_reports(at=datetime(2026, 7, 1, 1, tzinfo=UTC)), 1)

        report = bodies()[0]["report"]
        self.assertEqual(
            (report["first_day"], report["last_day"], report["spend"]), ("2026-06-01", "2026-06-30", 2)
        )
        self.assertEqual(report["change"], "new")

    def test_nothing_is_sent_of_a_week_without_calls_nor_days_late(self):
        only_rule(Kind.WEEKLY_REPORT)
        self.assertEqual(send_due_reports(at=MONDAY + 2 * HOUR), 0)
        book_calls(make_call(at=at(7, 6)))

        self.assertEqual(send_due_reports(at=MONDAY + timedelta(days=4)), 0)

    def test_it_lists_a_few_of_many(self):
        only_rule(Kind.WEEKLY_REPORT)
        book_calls(
            *(
                make_call(at=at(7, 7), cost_usd=f"{number}", customer_id=f"c{number}")
                for number in range(1, 9)
            )
        )
        book_calls(make_call(at=at(7, 7), cost_usd="50"))  # of no customer

        send_due_reports(at=MONDAY + 2 * HOUR)

        names = [row["name"] for row in bodies()[0]["report"]["customers"]]
        self.assertEqual(names, [f"c{number}" for number in range(8, 8 - LISTED, -1)])

    @override_settings(SPEND_REPORT_FREQUENCY="1d", REPORTING_TIME_ZONE="Europe/Berlin")
    def test_the_frequency_is_a_setting_and_days_are_those_of_the_reporting_zone(self):
        only_rule(Kind.WEEKLY_REPORT)
        book_calls(make_call(at=datetime(2026, 7, 14, 22, tzinfo=UTC)))  # 15 July in Berlin

        self.assertEqual(send_due_reports(at=datetime(2026, 7, 15, 4, tzinfo=UTC)), 0)
        self.assertEqual(send_due_reports(at=datetime(2026, 7, 16, 0, tzinfo=UTC)), 1)

        self.assertEqual(bodies()[0]["report"]["first_day"], "2026-07-15")

    def test_it_is_checked_like_every_rule(self):
        rule = only_rule(Kind.WEEKLY_REPORT)

        send_due_reports(at=MONDAY)

        self.assertEqual(AlertRule.objects.get(pk=rule.pk).checked_at, MONDAY)
