"""Alerts: budgets that cross thresholds while calls are booked, and what the clock brings."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock

from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from billing import checks
from billing.alerts import crossing, schedule
from billing.alerts.schedule import check_rules
from billing.booking.records import CallRecords
from billing.books import adjustments
from billing.budgets.periods import start_afresh
from billing.models import (
    Adjustment,
    Alert,
    AlertRule,
    Delivery,
    DeliveryLane,
    Event,
    SpendLog,
    WebhookEndpoint,
)
from billing.models.delivery import lane_of
from customers.models import Budget, Customer, GatewayLimits, Tag, Team, TeamMembership, User, VirtualKey
from tests.billing.alerts import Kind, afresh, bodies, make_rule, only_rule, told
from tests.billing.budgets import admitted, all_time, july, settle, settle_calls
from tests.billing.making import NOON, book_calls, make_call, make_closed, nano

SLACK_URL = "https://hooks.slack.com/services/T0/B0/secret"


class AlertTestCase(TestCase):
    def setUp(self):
        afresh()
        self.addCleanup(afresh)


def spend(amount: str, limit: str = "10", key=None, **opened) -> None:
    """Have a call admitted under a limit and booked at `amount` USD."""
    settle(admitted((key or july(), limit), amount_usd="0", **opened), cost_usd=amount)


class ThresholdTests(AlertTestCase):
    def test_nothing_is_told_below_the_first_threshold(self):
        spend("7.999999999")

        self.assertEqual(told(), [])

    def test_80_and_100_percent_are_told_once_each_without_configuration(self):
        spend("8")
        spend("1.9")
        spend("0.2")

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.8"), ("budget_crossed", "acme", "1")])
        self.assertEqual(Event.objects.filter(type__endswith="_crossed").count(), 2)

    def test_one_call_may_cross_both(self):
        spend("12")

        self.assertEqual([event for event, _, _ in told()], ["threshold_crossed", "budget_crossed"])

    def test_the_event_has_all_keys_and_exact_amounts(self):
        Customer.objects.create(pk="acme", alias="Acme Ltd")

        spend("8.000000001")

        [body] = bodies()
        expected = {
            "event": "threshold_crossed",
            "event_group": "customer",
            "customer_id": "acme",
            "spend": Decimal("8.000000001"),
            "max_budget": Decimal(10),
            "soft_budget": None,
            "token": None,
            "user_id": None,
            "team_id": None,
            "team_alias": None,
            "organization_id": None,
            "user_email": None,
            "key_alias": None,
            "projected_exceeded_date": None,
            "projected_spend": None,
            "threshold": Decimal("0.8"),
            "alert_rule": "80 % of a budget",
            "period_ends_at": "2026-08-01T00:00:00+00:00",
        }
        self.assertEqual({name: body[name] for name in expected}, expected)
        self.assertEqual(
            body["event_message"],
            "Customer Budget: acme (Acme Ltd) has spent $8.000000001 of $10.00, more than 80 % of the "
            "budget. It starts again at 2026-08-01 00:00 UTC.",
        )
        self.assertTrue(body["admin_url"].endswith("/admin/customers/customer/acme/change/"))

    def test_every_kind_of_holder_is_told(self):
        user = User.objects.create(pk="bob", username="bob", email="bob@example.com")
        team = Team.objects.create(pk="red", alias="Red")
        key = VirtualKey.objects.create(token_hash="a" * 64, display_name="sk-…1234", alias="prod", team=team)
        Tag.objects.create(pk="blue")
        TeamMembership.objects.create(team=team, user=user)
        holders = [
            july("gateway", "gateway"), july("key", str(key.pk)), july("team", "red"), july("user", "bob"),
            july("team_member", "red\nbob"), july("tag", "blue"), july(),
        ]  # fmt: skip
        opened = admitted(
            *((holder, "1") for holder in holders), amount_usd="0", key_id=key.pk.bytes, team_id="red",
            user_id="bob", tags=["blue"],
        )  # fmt: skip

        settle(opened, cost_usd="0.9")

        found = {body["event_group"]: body for body in bodies()}
        self.assertEqual(set(found), {"proxy", "key", "team", "user", "team_member", "tag", "customer"})
        self.assertEqual(
            (found["key"]["token"], found["key"]["key_alias"], found["key"]["team_alias"]),
            ("a" * 64, "prod", "Red"),
        )
        self.assertEqual((found["user"]["user_id"], found["user"]["user_email"]), ("bob", "bob@example.com"))
        self.assertEqual((found["team_member"]["team_id"], found["team_member"]["user_id"]), ("red", "bob"))
        self.assertEqual(found["tag"]["tag"], "blue")

    def test_a_customer_is_compared_by_its_charge_everybody_else_by_the_cost(self):
        opened = admitted((july(), "1"), (july("gateway", "gateway"), "1"), amount_usd="0")

        settle(opened, cost_usd="0.1", charge_nano=nano("0.9"))

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.8")])

    def test_a_raised_limit_opens_a_new_set(self):
        spend("8", limit="10")
        spend("0.1", limit="100")
        spend("71.9", limit="100")

        self.assertEqual([(alert.threshold, int(alert.limit)) for alert in Alert.objects.order_by("limit")],
                         [("0.8", 10), ("0.8", 100)])  # fmt: skip

    def test_a_lowered_limit_is_told_with_the_next_call(self):
        spend("8", limit="100")
        spend("0.5", limit="10")

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.8")])

    def test_a_period_that_starts_afresh_is_told_again(self):
        spend("9")
        start_afresh([july()], at=NOON + timedelta(hours=1))
        spend("9", at=NOON + timedelta(hours=2))

        self.assertEqual(
            [(alert.threshold, alert.generation) for alert in Alert.objects.order_by("generation")],
            [("0.8", 0), ("0.8", 1)],
        )

    def test_a_limit_of_one_model_is_a_budget_of_its_own(self):
        spend("0.9", limit="1", key=july(scope="gpt-4o"))

        self.assertEqual(bodies()[0]["model"], "gpt-4o")
        self.assertIn("of $1.00 for gpt-4o", bodies()[0]["event_message"])

    def test_a_rule_about_one_holder_tells_of_no_other(self):
        only_rule(Kind.BUDGET, threshold=Decimal("0.5"), holder_type="customer", holder_id="other")

        spend("9")

        self.assertEqual(told(), [])

    def test_a_rule_that_is_new_tells_of_what_is_over_it_already(self):
        only_rule(Kind.BUDGET, threshold=Decimal("0.99"))
        spend("7")
        make_rule(Kind.BUDGET, threshold=Decimal("0.6"))

        spend("0.01")

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.6")])

    def test_an_inactive_rule_and_one_that_is_gone_tell_nothing(self):
        spend("0.01")  # the rules are known now
        AlertRule.objects.filter(threshold=1).delete()
        AlertRule.objects.filter(kind=Kind.BUDGET).update(is_active=False)

        spend("20")

        self.assertEqual(told(), [])

    @override_settings(ALERT_TYPES=["spend_reports"])
    def test_alert_types_chooses_kinds(self):
        spend("20")

        self.assertEqual(told(), [])

    def test_an_adjustment_crosses_too(self):
        opened = admitted((july(), "10"), amount_usd="0")
        settle(opened, cost_usd="1")

        adjustments.adjust(
            SpendLog.objects.get(), cost_nano=nano("9"), charge_nano=nano("9"),
            reason=Adjustment.Reason.REPRICING, at=NOON + timedelta(minutes=1),
        )  # fmt: skip

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.8")])

    def test_it_costs_one_statement_less_than_one_while_nothing_is_near(self):
        spend("0.01")
        calls = [
            CallRecords(
                opened := admitted((july(), "10"), amount_usd="0"), make_closed(opened, cost_usd="0.01")
            )
        ]

        with CaptureQueriesContext(
            connection,
        ) as queries:
            settle_calls(*calls)

        self.assertFalse([each["sql"] for each in queries if "billing_alert" in each["sql"]])

    def test_what_goes_wrong_with_alerts_does_not_keep_calls_from_being_booked(self):
        with (
            mock.patch.object(crossing, "raise_alerts", side_effect=ValueError),
            self.assertLogs("billing.alerts.crossing", "ERROR"),
        ):
            spend("9")
        self.assertEqual((SpendLog.objects.count(), told()), (1, []))

        spend("0.01")

        self.assertEqual(told(), [("threshold_crossed", "acme", "0.8")])

    def test_what_was_told_is_remembered_once_it_is_committed(self):
        with self.captureOnCommitCallbacks(execute=True):
            spend("9")
        opened = admitted((july(), "10"), amount_usd="0")

        with CaptureQueriesContext(connection) as queries:
            settle(opened, cost_usd="0.01")

        self.assertFalse([each["sql"] for each in queries if 'INTO "billing_alert"' in each["sql"]])


class RefusalTests(AlertTestCase):
    def refuse(self, *, limit: str = "1", spent: str = "0.97", scope: str = "customer", holder: str = "acme",
               resets_at: str | None = "2026-08-01T00:00:00Z", **opened):  # fmt: skip
        refusal = {
            "scope": scope, "id": holder, "limit": limit, "spent": spent, "held": "0.02", "provisional": "0",
            "hold": "0.05", "mode": "standard", "resets_at": resets_at,
        }  # fmt: skip
        call = make_call(
            cost_usd="0",
            closed={"status": "refused", "http_status": 400, "error_type": "budget_exceeded"},
            metadata={"refusal": refusal},
            **{"customer_id": "acme", **opened},
        )
        book_calls(call)

    def test_the_first_refusal_of_a_period_says_that_the_budget_is_used_up(self):
        only_rule(Kind.BUDGET, threshold=1)
        spend("0.97", limit="1")

        for _ in range(3):
            self.refuse()

        self.assertEqual(told(), [("budget_crossed", "acme", "1")])
        self.assertIn("a call of acme was refused. $0.97 of $1.00 are spent", bodies()[0]["event_message"])
        self.assertIn("hold $0.02, and this one may cost $0.05.", bodies()[0]["event_message"])
        figures = {name: bodies()[0]["refusal"][name] for name in ("limit", "spent", "held", "hold")}
        self.assertEqual(
            figures,
            {"limit": 1, "spent": Decimal("0.97"), "held": Decimal("0.02"), "hold": Decimal("0.05")},
        )

    def test_it_and_what_is_spent_later_are_one_alert(self):
        only_rule(Kind.BUDGET, threshold=1)
        spend("0.97", limit="1")
        self.refuse()

        spend("0.5", limit="1")

        self.assertEqual(told(), [("budget_crossed", "acme", "1")])

    def test_a_raised_limit_that_refuses_is_told_again(self):
        only_rule(Kind.BUDGET, threshold=1)
        spend("0.97", limit="1")
        self.refuse()

        self.refuse(limit="1.01")

        self.assertEqual([event for event, _, _ in told()], ["budget_crossed"] * 2)

    def test_a_team_member_and_an_endless_budget_are_found(self):
        only_rule(Kind.BUDGET, threshold=1)
        spend("0.5", limit="1", key=all_time("team_member", "red\nbob"), team_id="red", user_id="bob")

        self.refuse(scope="team_member", holder="red/bob", resets_at=None, team_id="red", user_id="bob")

        self.assertEqual(told(), [("budget_crossed", "red\nbob", "1")])

    def test_refusals_by_rates_and_unreadable_ones_are_passed_over(self):
        spend("0.5", limit="1")
        closed = {"status": "refused", "error_type": "budget_exceeded"}

        for metadata in (
            {},
            {"refusal": None},
            {"refusal": {"scope": "customer"}},
            {"refusal": {"scope": "x", "id": "y", "limit": "z"}},
        ):
            book_calls(make_call(cost_usd="0", closed=closed, metadata=metadata))
        book_calls(make_call(cost_usd="0", closed={"status": "refused", "error_type": "rate_limit_error"},
                             metadata={"refusal": {"scope": "api_key"}}))  # fmt: skip

        self.assertEqual(told(), [])


class SoftBudgetTests(AlertTestCase):
    def test_a_soft_budget_is_told_when_it_is_spent_and_calls_go_on(self):
        only_rule(Kind.SOFT_BUDGET)
        budget = Budget.objects.create(
            pk="b", max_budget=10, soft_budget=Decimal("2.5"), budget_duration="1mo"
        )
        Customer.objects.create(pk="acme", budget=budget)
        spend("2.4")
        self.assertEqual(told(), [])

        spend("0.1")
        spend("0.1")

        self.assertEqual(told(), [("soft_budget_crossed", "acme", "1")])
        [body] = bodies()
        self.assertEqual(
            (body["spend"], body["soft_budget"], body["max_budget"]),
            (Decimal("2.5"), Decimal("2.5"), Decimal(10)),
        )
        self.assertIn(
            "Soft Budget Crossed: acme has spent $2.50, its soft budget is $2.50.", body["event_message"]
        )

    def test_default_budgets_and_those_of_members_are_found(self):
        only_rule(Kind.SOFT_BUDGET)
        budget = Budget.objects.create(pk="b", max_budget=10, soft_budget=2, budget_duration="1mo")
        GatewayLimits.objects.update_or_create(pk=1, defaults={"customer_budget": budget, "budget": budget})
        team = Team.objects.create(pk="red", member_budget=budget)
        TeamMembership.objects.create(team=team, user=User.objects.create(pk="bob", username="bob"))
        holders = [july(), july("gateway", "gateway"), july("team_member", "red\nbob"), july("key", "master")]

        settle(
            admitted(*((holder, "10") for holder in holders), amount_usd="0", team_id="red", user_id="bob"),
            cost_usd="3",
        )

        self.assertEqual({holder for _, holder, _ in told()}, {"acme", "gateway", "red\nbob"})

    def test_one_that_stands_alone_is_found_by_the_clock(self):
        only_rule(Kind.SOFT_BUDGET)
        budget = Budget.objects.create(pk="b", soft_budget=2, budget_duration="1mo")
        Customer.objects.create(pk="acme", budget=budget)
        book_calls(
            make_call(customer_id="acme", cost_usd="1.5"), make_call(customer_id="other", cost_usd="5")
        )
        self.assertEqual(check_rules(at=NOON), 0)
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))

        self.assertEqual([check_rules(at=NOON) for _ in range(2)], [1, 0])

        self.assertEqual(told(), [("soft_budget_crossed", "acme", "1")])


class ProjectionTests(AlertTestCase):
    def setUp(self):
        super().setUp()
        only_rule(Kind.PROJECTED_EXCEED)

    def test_the_date_and_the_amount_are_told_once(self):
        for day in range(1, 15):
            spend("5", limit="100", at=datetime(2026, 7, day, 12, tzinfo=UTC))
        at = datetime(2026, 7, 15, tzinfo=UTC)

        self.assertEqual([check_rules(at=at), check_rules(at=at + timedelta(days=1))], [1, 0])

        [body] = bodies()
        self.assertEqual(body["event"], "projected_limit_exceeded")
        self.assertEqual((body["spend"], body["max_budget"]), (Decimal(70), Decimal(100)))
        # 7 days of $5 within the last 6 days and no hours: 14 July is the last of them.
        self.assertEqual(body["projected_exceeded_date"], "2026-07-21")
        self.assertGreater(body["projected_spend"], 100)
        self.assertIn("reach its budget of $100.00 on 2026-07-21", body["event_message"])

    def test_a_pace_that_stays_below_the_limit_is_no_news_and_a_first_day_is_too_short(self):
        for day in range(1, 15):
            spend("1", limit="100", at=datetime(2026, 7, day, 12, tzinfo=UTC))
        self.assertEqual(check_rules(at=datetime(2026, 7, 15, tzinfo=UTC)), 0)

        spend(
            "60", key=july("team", "red"), limit="100", team_id="red", at=datetime(2026, 7, 1, 1, tzinfo=UTC)
        )
        self.assertEqual(check_rules(at=datetime(2026, 7, 1, 12, tzinfo=UTC)), 0)


class DayTests(AlertTestCase):
    def test_a_days_spend_over_a_threshold_is_told_once_a_day(self):
        only_rule(Kind.DAILY_SPEND, threshold=50)
        book_calls(make_call(cost_usd="49.99"))
        self.assertEqual(check_rules(at=NOON), 0)
        book_calls(make_call(cost_usd="0.01"))

        self.assertEqual([check_rules(at=NOON), check_rules(at=NOON)], [1, 0])
        book_calls(make_call(cost_usd="51", at=NOON + timedelta(days=1)))
        self.assertEqual(check_rules(at=NOON + timedelta(days=1)), 1)

        self.assertEqual({event for event, _, _ in told()}, {"daily_spend_crossed"})
        self.assertEqual(
            bodies()[0]["event_message"],
            "Daily Spend: the gateway has spent $50.00 on 2026-07-15 (UTC), over $50.00.",
        )

    def test_it_may_be_about_each_holder_of_a_type_or_one(self):
        key = uuid.UUID(int=5)
        book_calls(
            make_call(
                cost_usd="6",
                customer_id="acme",
                team_id="red",
                user_id="bob",
                tags=["x", "y"],
                key_id=key.bytes,
            ),
            make_call(cost_usd="6", customer_id="other", tags=["y"]),
            make_call(cost_usd="1", customer_id="small"),
        )
        expected = {
            "customer": {"acme", "other"}, "team": {"red"}, "user": {"bob"}, "tag": {"x", "y"},
            "key": {str(key), "master"}, "gateway": {"gateway"},
        }  # fmt: skip
        for holder_type, holders in expected.items():
            with self.subTest(holder_type):
                Alert.objects.all().delete()
                only_rule(Kind.DAILY_SPEND, threshold=5, holder_type=holder_type)
                check_rules(at=NOON)
                self.assertEqual({holder for _, holder, _ in told()}, holders)
        for holder_type, holder in (("customer", "acme"), ("tag", "x"), ("key", str(key))):
            with self.subTest(holder):
                Alert.objects.all().delete()
                only_rule(Kind.DAILY_SPEND, threshold=5, holder_type=holder_type, holder_id=holder)
                check_rules(at=NOON)
                self.assertEqual([found for _, found, _ in told()], [holder])

    def test_a_models_usage_is_counted_in_calls_tokens_or_usd(self):
        book_calls(*(make_call(cost_usd="0.5") for _ in range(4)))
        for unit, threshold, is_over in (
            ("calls", 4, True), ("calls", 5, False), ("tokens", 4 * 1200, True),
            ("tokens", 4 * 1200 + 1, False), ("usd", 2, True), ("usd", Decimal("2.01"), False),
        ):  # fmt: skip
            with self.subTest(unit, threshold=threshold):
                only_rule(Kind.MODEL_USAGE, model="gpt-4o", unit=unit, threshold=threshold)
                self.assertEqual(check_rules(at=NOON), int(is_over))
        self.assertIn(
            "4 calls were made with gpt-4o on 2026-07-15 (UTC), over 4 calls.", bodies()[0]["event_message"]
        )

    def test_a_spike_is_a_multiple_of_the_seven_days_before(self):
        only_rule(Kind.SPEND_SPIKE, threshold=3, minimum_usd=10)
        for day in range(1, 8):
            book_calls(make_call(cost_usd="4", at=NOON - timedelta(days=day)))
        book_calls(make_call(cost_usd="12"))
        self.assertEqual(check_rules(at=NOON), 0)
        book_calls(make_call(cost_usd="0.1"))

        self.assertEqual([check_rules(at=NOON), check_rules(at=NOON)], [1, 0])

        self.assertEqual(bodies()[0]["event"], "spend_anomaly")
        self.assertEqual(bodies()[0]["usual_spend"], Decimal(4))

    def test_little_spend_and_who_is_new_are_no_spike(self):
        only_rule(Kind.SPEND_SPIKE, threshold=3, minimum_usd=10, holder_type="customer")
        book_calls(
            make_call(cost_usd="1", customer_id="small", at=NOON - timedelta(days=1)),
            make_call(cost_usd="9.99", customer_id="small"),
            make_call(cost_usd="500", customer_id="new"),
        )

        self.assertEqual(check_rules(at=NOON), 0)

    def test_a_model_without_a_price_is_told_once_a_day(self):
        only_rule(Kind.UNPRICED_MODEL)
        closed = {"provider": "openai", "upstream_model": "gpt-9"}
        book_calls(make_call(cost_usd=None, closed=closed), make_call(closed=closed))

        self.assertEqual([check_rules(at=NOON), check_rules(at=NOON)], [1, 0])

        [body] = bodies()
        self.assertEqual(
            (body["event"], body["model"], body["provider"]), ("failed_tracking_spend", "gpt-9", "openai")
        )
        self.assertIn("1 call of gpt-9 at openai", body["event_message"])

    def test_a_rule_that_breaks_does_not_keep_the_others_from_being_checked(self):
        AlertRule.objects.update(is_active=False)
        broken = make_rule(Kind.SPEND_SPIKE, threshold=3)
        make_rule(Kind.DAILY_SPEND, threshold=1)
        book_calls(make_call(cost_usd="5"))

        with (
            mock.patch.dict(schedule._CHECKS, {Kind.SPEND_SPIKE: mock.Mock(side_effect=ValueError)}),
            self.assertLogs("billing.alerts.schedule", "ERROR") as logs,
        ):
            self.assertEqual(check_rules(at=NOON), 1)

        self.assertIn(f"rule {broken.pk} could not be checked", logs.output[0])


class FailingTests(AlertTestCase):
    def calls(self, count: int, **closed):
        return [
            make_call(at=NOON - timedelta(minutes=1), closed={"upstream": "openai", **closed})
            for _ in range(count)
        ]

    def test_an_upstream_that_fails_half_of_its_calls_is_told_once_an_hour(self):
        only_rule(Kind.UPSTREAM_FAILING, threshold=Decimal("0.5"))
        failed = {"status": "failure", "http_status": 502, "error_message": "no route"}
        book_calls(*self.calls(4, **failed))
        self.assertEqual(check_rules(at=NOON), 0)  # too few
        book_calls(*self.calls(1, **failed), *self.calls(5))

        self.assertEqual([check_rules(at=NOON), check_rules(at=NOON + timedelta(minutes=1))], [1, 0])

        self.assertEqual(
            bodies()[0]["event_message"],
            "Upstream Failing: 5 of 10 calls to openai failed in 5 minutes. The last error: no route",
        )

    def test_what_the_caller_did_wrong_is_no_outage(self):
        only_rule(Kind.UPSTREAM_FAILING, threshold=Decimal("0.5"))
        book_calls(*self.calls(9, status="failure", http_status=400))

        self.assertEqual(check_rules(at=NOON), 0)

    def test_an_endpoint_that_fails_for_a_quarter_of_an_hour_is_told_once(self):
        only_rule(Kind.ENDPOINT_FAILING)
        endpoint = WebhookEndpoint.objects.create(name="books", url="https://books.example.com/hook")
        lane = DeliveryLane.objects.create(
            name=lane_of("webhook", endpoint.pk),
            failures_in_a_row=7,
            failing_since=NOON - timedelta(minutes=14),
        )
        self.assertEqual(check_rules(at=NOON), 0)

        self.assertEqual([check_rules(at=NOON + timedelta(minutes=minute)) for minute in (1, 2)], [1, 0])
        lane.failing_since = NOON + timedelta(hours=3)
        lane.save()
        self.assertEqual(check_rules(at=NOON + timedelta(hours=4)), 1)

        self.assertIn(
            "7 attempts in a row at books have failed since 2026-07-15 11:46", bodies()[0]["event_message"]
        )


@override_settings(
    SLACK_WEBHOOK_URL=SLACK_URL, ALERT_EMAILS=["ops@example.com"], EMAIL_IS_CONFIGURED=True, ALERTING=[]
)
class WhoIsToldTests(AlertTestCase):
    def deliveries(self) -> set[tuple[str, str]]:
        return set(self.of_alerts().values_list("channel", "target"))

    def of_alerts(self):
        return Delivery.objects.filter(event__type="threshold_crossed")

    def endpoint(self, **fields) -> WebhookEndpoint:
        return WebhookEndpoint.objects.create(url="https://example.com/hook", **fields)

    def test_everybody_who_is_configured_is_told(self):
        self.endpoint()

        spend("8")

        self.assertEqual(self.deliveries(), {("webhook", ""), ("slack", ""), ("email", "ops@example.com")})

    def test_a_rule_chooses_its_channels_and_adds_receivers_of_its_own(self):
        endpoint = self.endpoint(event_types=["nothing"])
        rule = only_rule(
            Kind.BUDGET, threshold=Decimal("0.8"), to_webhooks=False, to_slack=False, to_email=False,
            emails=["a@example.com", "b@example.com"], sealed_slack_url="sealed", endpoint=endpoint,
        )  # fmt: skip

        spend("8")

        self.assertEqual(
            self.deliveries(),
            {
                ("webhook", ""),
                ("slack", f"rule {rule.pk}"),
                ("email", "a@example.com"),
                ("email", "b@example.com"),
            },
        )

    def test_an_endpoint_that_is_told_anyway_is_told_once(self):
        only_rule(
            Kind.BUDGET, threshold=Decimal("0.8"), endpoint=self.endpoint(), to_slack=False, to_email=False
        )

        spend("8")

        self.assertEqual(self.of_alerts().count(), 1)

    @override_settings(ALERTING=["slack"])
    def test_alerting_names_the_channels(self):
        self.endpoint()

        spend("8")

        self.assertEqual(self.deliveries(), {("slack", "")})

    @override_settings(EMAIL_IS_CONFIGURED=False, SLACK_WEBHOOK_URL="")
    def test_channels_that_are_not_configured_get_nothing(self):
        spend("8")

        self.assertEqual(self.deliveries(), set())


class SettingsTests(SimpleTestCase):
    def found(self, **settings) -> list[str]:
        with override_settings(**settings):
            return [each.id for each in checks.alerting(None)]

    def test_what_cannot_be_meant_is_told_at_the_start(self):
        self.assertEqual(self.found(), [])
        self.assertEqual(self.found(SPEND_REPORT_FREQUENCY="weekly-ish"), ["billing.E020"])
        self.assertEqual(self.found(ALERTING=["slack", "pigeon"]), ["billing.W020"])
        self.assertEqual(self.found(ALERT_EMAILS=["a@x.org"], EMAIL_IS_CONFIGURED=False), ["billing.W021"])
