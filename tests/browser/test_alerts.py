"""The pages of alert rules and alerts in a real browser: they fit into every width, light and dark."""

from decimal import Decimal

from django.test import override_settings

from billing.models import Alert, AlertRule, Delivery
from tests.billing.alerts import Kind, afresh, make_rule
from tests.billing.budgets import admitted, july, settle
from tests.browser.pages import BrowserTestCase, needs_axe

RULES, ALERTS = "/admin/billing/alertrule/", "/admin/billing/alert/"


class AlertsInABrowser(BrowserTestCase):
    @classmethod
    def make_rows(cls) -> None:
        afresh()
        AlertRule.objects.all().delete()
        make_rule(Kind.BUDGET, name="80 % of a budget", threshold=Decimal("0.8"))
        make_rule(
            Kind.BUDGET,
            name="100 % of a budget",
            threshold=1,
            emails=["finance@example.com"],
            holder_type="customer",
        )
        make_rule(
            Kind.MODEL_USAGE, name="Much grok", threshold=1000, model="grok-code-fast-1", is_active=False
        )
        with override_settings(
            SLACK_WEBHOOK_URL="https://hooks.slack.com/x",
            ALERT_EMAILS=["ops@example.com"],
            EMAIL_IS_CONFIGURED=True,
        ):
            for customer in (
                "acme-042",
                "a-customer-with-a-very-long-name-that-has-no-place-to-break@example.com",
            ):
                opened = admitted((july("customer", customer), "10"), amount_usd="0", customer_id=customer)
                settle(opened, cost_usd="12.345")
        Delivery.objects.filter(channel="slack").update(state="delivered", attempts=1)
        Delivery.objects.filter(target="ops@example.com").update(
            state="failed", attempts=13, last_error="ConnectionRefusedError: no mail server"
        )

    def test_lists_and_pages_fit_into_every_width(self):
        alert, rule = Alert.objects.order_by("pk").first(), AlertRule.objects.order_by("pk").first()
        for path in (
            RULES,
            ALERTS,
            f"{RULES}{rule.pk}/change/",
            f"{ALERTS}{alert.pk}/change/",
            f"{RULES}add/",
        ):
            with self.subTest(path), self.page(path) as page:
                self.assert_no_width_scrolls_sideways(page)

    @needs_axe
    def test_they_are_accessible(self):
        alert = Alert.objects.order_by("pk").first()
        for path in (RULES, ALERTS, f"{ALERTS}{alert.pk}/change/"):
            with self.subTest(path), self.page(path) as page:
                self.assert_axe_finds_nothing(page, "#content-main")
