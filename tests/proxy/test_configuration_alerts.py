"""budget_alerts and slack_alerts of config.yaml, as alert rules."""

from decimal import Decimal

from django.conf import settings
from django.test import override_settings

from billing.alerts.secrets import unsealed_url
from billing.models import AlertRule, WebhookEndpoint
from proxy.configuration.alerts import is_slack
from spendproject.config_file import BadConfig
from tests.proxy.test_configuration import ConfigurationTestCase
from tests.test_config_file import BUDGET_ALERTS, SLACK_ALERTS, load


def of_file() -> list[AlertRule]:
    return list(AlertRule.objects.filter(source="config").order_by("pk"))


class AlertRuleTests(ConfigurationTestCase):
    def test_budget_alerts_of_the_users_document_are_rules(self):
        self.apply(BUDGET_ALERTS)

        first, second = of_file()
        self.assertEqual(
            (first.kind, first.threshold, first.emails), ("budget", Decimal("0.8"), ["admin@company.com"])
        )
        self.assertEqual(second.emails, ["admin@company.com", "finance@company.com"])
        self.assertEqual(unsealed_url(second.sealed_slack_url), "https://hooks.slack.com/...")
        self.assertFalse(first.to_webhooks or first.to_slack or first.to_email)

    def test_slack_alerts_of_the_users_document_are_rules(self):
        self.apply(SLACK_ALERTS)

        daily, usage = of_file()
        self.assertEqual((daily.kind, daily.threshold, daily.holder_type), ("daily_spend", 50, "gateway"))
        self.assertEqual(
            (usage.kind, usage.threshold, usage.model, usage.unit),
            ("model_usage", 1000, "grok-code-fast-1", "calls"),
        )
        self.assertEqual(
            {unsealed_url(rule.sealed_slack_url) for rule in (daily, usage)},
            {"https://hooks.slack.com/services/YOUR/SLACK/WEBHOOK"},
        )

    def test_their_names_say_what_they_tell_in_mails(self):
        self.apply(f"{BUDGET_ALERTS}\n{SLACK_ALERTS.strip().removeprefix('litellm_settings:')}")

        names = [rule.name for rule in of_file()]

        self.assertEqual(
            names,
            ["80 % of a budget", "100 % of a budget", "$50.00 a day of the gateway",
             "1,000 calls a day of grok-code-fast-1"],
        )  # fmt: skip

    def test_applying_twice_changes_nothing_and_no_secret_is_shown(self):
        shown = self.apply(BUDGET_ALERTS) + self.apply(SLACK_ALERTS.replace("YOUR", "OURS"))
        ids = [rule.pk for rule in of_file()]

        self.assertEqual(self.apply(SLACK_ALERTS.replace("YOUR", "OURS")), [])

        self.assertEqual([rule.pk for rule in of_file()], ids)
        self.assertNotIn("hooks.slack.com", "".join(shown))

    def test_what_is_gone_is_switched_off_and_comes_back(self):
        self.apply(BUDGET_ALERTS)
        self.apply("litellm_settings: {}")
        self.assertEqual([rule.is_active for rule in of_file()], [False, False])
        self.assertTrue(AlertRule.objects.filter(source="default", is_active=True).exists())

        self.apply(BUDGET_ALERTS)

        self.assertEqual([rule.is_active for rule in of_file()], [True, True])

    def test_a_changed_receiver_is_a_changed_rule(self):
        entry = "litellm_settings: {budget_alerts: [{threshold: 0.5, email: a@example.com}]}"
        self.apply(entry)
        self.apply(entry.replace("a@", "b@"))

        [rule] = of_file()
        self.assertEqual(rule.emails, ["b@example.com"])

    def test_a_webhook_that_is_not_slacks_is_an_endpoint_told_by_its_rule_alone(self):
        text = (
            "litellm_settings: {budget_alerts: ["
            "{threshold: 0.5, webhook: https://books.example.com/hook}, "
            "{threshold: 1, webhook: https://books.example.com/hook}]}"
        )
        self.apply(text)
        self.assertEqual(self.apply(text), [])

        [endpoint] = WebhookEndpoint.objects.all()
        self.assertEqual([rule.endpoint for rule in of_file()], [endpoint, endpoint])
        self.assertEqual(len(endpoint.event_types), 1)
        self.assertNotIn("budget_crossed", endpoint.event_types)

    def test_an_address_within_our_network_is_refused(self):
        for url in ("http://10.0.0.1/slack", "http://10.0.0.1/hook"):
            text = f"litellm_settings: {{budget_alerts: [{{threshold: 1, webhook: '{url}'}}]}}"
            with self.subTest(url), self.assertRaisesRegex(BadConfig, "10.0.0.1 is a private address"):
                self.apply(text)

    def test_mails_without_a_server_are_warned_of(self):
        self.assertFalse(settings.EMAIL_IS_CONFIGURED)
        self.assertIn(
            "alerts by e-mail are sent once EMAIL_URL, or SMTP_HOST, is set", self.warnings(BUDGET_ALERTS)
        )
        with override_settings(EMAIL_IS_CONFIGURED=True):
            self.assertEqual(self.warnings(BUDGET_ALERTS), [])

    def test_channels_and_kinds_are_settings(self):
        config = load(
            self,
            "general_settings: {alerting: [webhook, slack], alert_types: [budget_alerts], "
            "spend_report_frequency: 14d}",
        )

        self.assertEqual(
            config.variables,
            {"ALERTING": "webhook,slack", "ALERT_TYPES": "budget_alerts", "SPEND_REPORT_FREQUENCY": "14d"},
        )

    def test_discord_takes_slacks_messages(self):
        self.assertTrue(is_slack("https://discord.com/api/webhooks/1/x/slack"))
        self.assertFalse(is_slack("https://discord.com/api/webhooks/1/x"))
        self.assertFalse(is_slack("https://slack.com.example.com/x"))
