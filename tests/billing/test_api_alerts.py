"""Alert rules and alerts, in the API and in the admin; and whether they are looked after."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from billing.alerts.health import alert_health, forget_old_alerts
from billing.alerts.schedule import check_rules
from billing.alerts.secrets import unsealed_url
from billing.models import Alert, AlertRule, Delivery, WebhookEndpoint
from customers.models import AuditLog, Team, TeamMembership, User
from customers.services import create_key
from tests.admin_pages import AdminTestCase
from tests.billing.alerts import Kind, afresh, make_rule, only_rule
from tests.billing.budgets import admitted, july, settle
from tests.billing.making import NOON
from tests.customers.calling import ApiTestCase, key_of, make_user

URL = "https://hooks.slack.com/services/T0/B0/secret"


def spend(amount: str, customer_id: str = "acme") -> None:
    opened = admitted((july("customer", customer_id), "10"), amount_usd="0", customer_id=customer_id)
    settle(opened, cost_usd=amount)


class RuleApiTests(ApiTestCase):
    def setUp(self):
        afresh()

    def made(self, **fields: Any) -> dict[str, Any]:
        return self.post("/alert/rule/new", {"kind": "budget", "threshold": 0.5, **fields})

    def test_the_rules_that_are_there_from_the_start_are_listed(self):
        rules = self.get("/alert/rule/list")

        self.assertEqual(
            [(rule["kind"], rule["threshold"]) for rule in rules[:2]], [("budget", 0.8), ("budget", 1)]
        )
        self.assertEqual({rule["source"] for rule in rules}, {"default"})

    def test_a_rule_is_made_changed_and_deleted(self):
        rule = self.made(holder_type="customer", holder_id="acme", emails=["a@example.com"])
        self.assertEqual((rule["name"], rule["source"]), ("A share of a budget is spent: acme", "staff"))

        changed = self.post(
            "/alert/rule/update", {"rule_id": rule["rule_id"], "threshold": "0.25", "active": False}
        )
        self.assertEqual(changed, {**rule, "threshold": 0.25, "active": False})
        self.post("/alert/rule/delete", {"rule_id": rule["rule_id"]})

        self.assertFalse(AlertRule.objects.filter(pk=rule["rule_id"]).exists())
        self.assertEqual(
            AuditLog.objects.filter(kind="billing.alertrule", object_id=str(rule["rule_id"])).count(), 3
        )

    def test_a_key_is_named_by_itself_or_its_hash_and_answered_by_its_hash(self):
        key, secret = create_key(alias="prod")

        rules = [self.made(holder_type="key", holder_id=name) for name in (secret, key.token_hash)]

        self.assertEqual({rule["holder_id"] for rule in rules}, {key.token_hash})
        self.assertEqual({rule["name"] for rule in rules}, {"A share of a budget is spent: prod"})
        kept = AlertRule.objects.filter(pk__in=[rule["rule_id"] for rule in rules])
        self.assertEqual({rule.holder_id for rule in kept}, {str(key.pk)})
        self.assertIn(key.token_hash, {rule["holder_id"] for rule in self.get("/alert/rule/list")})

    def test_alerts_of_a_key_are_found_by_its_hash(self):
        only_rule(Kind.BUDGET, threshold=Decimal("0.8"))
        key, secret = create_key()
        opened = admitted((july("key", str(key.pk)), "10"), amount_usd="0", key_id=key.pk.bytes)
        settle(opened, cost_usd="8")

        for name in (secret, key.token_hash):
            found = self.get("/alert/list", {"holder_type": "key", "holder_id": name})
            self.assertEqual([alert["holder_id"] for alert in found["alerts"]], [key.token_hash])
            self.assertEqual(found["alerts"][0]["threshold"], 0.8)
        self.assertEqual(self.get("/alert/list", {"holder_type": "key", "holder_id": "0" * 64})["total"], 0)

    def test_a_member_is_named_by_team_and_user(self):
        make_user("bob/b")
        team = Team.objects.create(id="red/1")
        TeamMembership.objects.create(team=team, user_id="bob/b")

        rule = self.made(holder_type="team_member", holder_id="red/1/bob/b")

        self.assertEqual(rule["holder_id"], "red/1/bob/b")
        self.assertEqual(AlertRule.objects.get(pk=rule["rule_id"]).holder_id, "red/1\nbob/b")

    def test_whom_nothing_would_ever_be_told_of_is_refused(self):
        for holder_type, name in (
            ("key", "prod"), ("key", "sk-unknown-0000000000"), ("team", "green"), ("user", "zoe"),
            ("team_member", "green/zoe"), ("team_member", "green"), ("gateway", "mine"),
        ):  # fmt: skip
            with self.subTest(holder_type=holder_type, name=name):
                rule = {"kind": "budget", "threshold": 1, "holder_type": holder_type, "holder_id": name}
                self.refused("/alert/rule/new", rule, status=400)
        for holder_type in ("customer", "tag"):  # they come with their first call
            self.made(holder_type=holder_type, holder_id="not-yet")

    def test_a_slack_address_is_sealed_and_never_returned(self):
        response = self.send("POST", "/alert/rule/new", {"kind": "budget", "threshold": 1, "slack_url": URL})

        self.assertNotIn(b"secret", response.content)
        rule = AlertRule.objects.get(pk=response.json()["rule_id"])
        self.assertEqual(unsealed_url(rule.sealed_slack_url), URL)
        self.assertTrue(response.json()["has_slack_url"])
        entry = AuditLog.objects.get(kind="billing.alertrule", object_id=str(rule.pk))
        self.assertNotIn(rule.sealed_slack_url, str(entry.after))
        self.assertFalse(
            self.post("/alert/rule/update", {"rule_id": rule.pk, "slack_url": None})["has_slack_url"]
        )

    def test_what_makes_no_rule_is_refused_with_what_to_write(self):
        endless = {"kind": "daily_spend", "threshold": 5, "holder_type": "team_member"}
        for body, param in (
            ({"kind": "budget"}, "threshold"),
            ({"kind": "budget", "threshold": 80}, "threshold"),
            ({"kind": "budget", "threshold": 0}, "threshold"),
            ({"kind": "soft_budget", "threshold": 1}, "threshold"),
            ({"kind": "upstream_failing", "threshold": 5}, "threshold"),
            ({"kind": "model_usage", "threshold": 5}, "model"),
            ({"kind": "budget", "threshold": 1, "holder_id": "x"}, "holder_id"),
            ({"kind": "budget", "threshold": 1, "emails": ["nobody"]}, "emails"),
            ({"kind": "budget", "threshold": 1, "slack_url": "http://169.254.169.254/"}, "slack_url"),
            (endless, "holder_type"),
        ):
            with self.subTest(body):
                self.assertEqual(self.refused("/alert/rule/new", body)["param"], param)
        self.refused("/alert/rule/new", {"kind": "budget", "threshold": 1, "endpoint_id": 99}, status=404)
        self.refused("/alert/rule/update", {"rule_id": 2**62}, status=404)
        self.assertEqual(self.send("POST", "/alert/rule/new", {"kind": "odd"}).status_code, 422)
        self.assertEqual(AlertRule.objects.exclude(source="default").count(), 0)

    def test_a_rule_may_have_an_endpoint_of_its_own(self):
        endpoint = WebhookEndpoint.objects.create(url="https://example.com/x")

        self.assertEqual(self.made(endpoint_id=endpoint.pk)["endpoint_id"], endpoint.pk)

    def test_admins_write_viewers_read_and_nobody_else_does_anything(self):
        viewer = key_of(make_user("vera", role=User.Role.PROXY_ADMIN_VIEWER))
        charlie = key_of(make_user("charlie"))

        self.get("/alert/rule/list", key=viewer)
        self.get("/alert/list", key=viewer)
        self.refused("/alert/rule/new", {"kind": "budget", "threshold": 1}, key=viewer, status=403)
        for path in ("/alert/rule/list", "/alert/list"):
            self.refused(path, method="GET", key=charlie, status=403)

    def test_alerts_are_listed_newest_first_and_filtered(self):
        only_rule(Kind.BUDGET, threshold=Decimal("0.8"))
        for customer in ("acme", "other"):
            spend("8", customer)

        found = self.get("/alert/list", {"holder_type": "customer", "holder_id": "acme"})

        self.assertEqual((found["total"], self.get("/alert/list", {"page_size": 1})["total_pages"]), (1, 2))
        [alert] = found["alerts"]
        self.assertEqual((alert["event"], alert["spent"], alert["limit"]), ("threshold_crossed", 8, 10))
        self.assertTrue(alert["event_id"].startswith("evt_"))
        self.assertEqual(self.get("/alert/list", {"kind": "spend_spike"})["total"], 0)


class AdminTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        afresh()

    def test_a_key_is_named_by_its_hash(self):
        key, _ = create_key()
        add = self.url(AlertRule, "add")

        self.client.post(add, self.form(holder_type="key", holder_id=key.token_hash))
        refused = self.client.post(add, self.form(holder_type="key", holder_id="prod"))

        self.assertEqual(AlertRule.objects.get(name="Half").holder_id, str(key.pk))
        self.assertContains(refused, "There is no such key.")

    def form(self, **fields: Any) -> dict[str, Any]:
        return {
            "name": "Half", "kind": "budget", "threshold": "0.5", "is_active": "on", "holder_type": "",
            "holder_id": "", "model": "", "unit": "calls", "minimum_usd": "", "to_webhooks": "on",
            "to_slack": "on", "to_email": "on", "emails": "a@example.com\nb@example.com", "slack_url": "",
            "endpoint": "", **fields,
        }  # fmt: skip

    def test_a_rule_is_made_and_its_slack_address_kept_until_it_is_forgotten(self):
        response = self.client.post(self.url(AlertRule, "add"), self.form(slack_url=URL))
        self.assertEqual(response.status_code, 302, response.content[-2000:])
        rule = AlertRule.objects.get(name="Half")
        self.assertEqual(
            (rule.emails, unsealed_url(rule.sealed_slack_url)), (["a@example.com", "b@example.com"], URL)
        )

        page = self.url(AlertRule, "change", rule.pk)
        self.assertNotContains(self.client.get(page), "secret")
        self.client.post(page, self.form(name="Half of it"))
        rule.refresh_from_db()
        self.assertEqual((rule.name, bool(rule.sealed_slack_url)), ("Half of it", True))
        self.client.post(page, self.form(name="Half of it", forget_slack_url="on"))
        rule.refresh_from_db()
        self.assertEqual(rule.sealed_slack_url, "")

    def test_a_rule_that_makes_no_sense_is_refused_at_its_field(self):
        response = self.client.post(
            self.url(AlertRule, "add"), self.form(threshold="80", slack_url="http://10.0.0.1/")
        )

        self.assertContains(response, "Write a share: 0.8 for 80 %")
        self.assertContains(response, "10.0.0.1 is a private address")

    @override_settings(ALERT_EMAILS=["ops@example.com"], EMAIL_IS_CONFIGURED=True)
    def test_alerts_say_whether_they_arrived_in_a_fixed_number_of_queries(self):
        only_rule(Kind.BUDGET, threshold=Decimal("0.8"))
        counts = []
        for customer in ("acme", "b", "c"):
            spend("8", customer)
            with CaptureQueriesContext(connection) as queries:
                response = self.client.get(self.url(Alert, "changelist"))
            counts.append(len(queries))
        self.assertEqual(counts[1], counts[2])
        self.assertContains(response, "1 of 1 waiting")
        Delivery.objects.filter(channel="email").update(state="failed", last_error="no such user")

        self.assertContains(self.client.get(self.url(Alert, "changelist")), "1 of 1 failed")
        page = self.client.get(self.url(Alert, "change", Alert.objects.first().pk))
        self.assertContains(page, "no such user")
        self.assertContains(page, "ops@example.com")
        self.assertEqual(
            self.client.post(self.url(Alert, "delete", Alert.objects.first().pk)).status_code, 403
        )

    def test_charlie_sees_neither(self):
        self.log_in_charlie()

        for model in (Alert, AlertRule):
            self.assertEqual(self.client.get(self.url(model, "changelist")).status_code, 403)


class HealthTests(TestCase):
    def setUp(self):
        afresh()

    def test_it_says_whether_the_clock_s_rules_are_checked(self):
        self.assertEqual(alert_health(at=NOON)["status"], "not checked")
        check_rules(at=NOON)

        self.assertEqual(alert_health(at=NOON)["status"], "checked")
        self.assertEqual(alert_health(at=NOON + timedelta(hours=1))["status"], "not checked")
        AlertRule.objects.update(is_active=False)
        self.assertEqual(alert_health(at=NOON)["status"], "off")

    def test_old_alerts_are_forgotten_but_not_those_of_all_time(self):
        rule = make_rule(Kind.BUDGET, threshold=1)
        for window in ("all", "1mo UTC v1"):
            Alert.objects.create(
                rule=rule, kind="budget", holder_type="customer", holder_id="acme", window=window,
                starts_at=NOON, threshold="1", event_type="budget_crossed", message="", raised_at=NOON,
            )  # fmt: skip

        self.assertEqual(forget_old_alerts(at=NOON + timedelta(days=41), keep=timedelta(days=40)), 1)

        self.assertEqual(Alert.objects.get().window, "all")
