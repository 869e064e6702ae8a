"""Slack and e-mail: what people read, and what comes of an attempt."""

import asyncio
import json
import smtplib
import uuid
from decimal import Decimal
from typing import Any
from unittest import mock

import httpx
from django.core import mail
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from billing.alerts.secrets import sealed_url, shown_url, slack_target, unsealed_url
from billing.models import AlertRule, Delivery, Event
from billing.sinks.email import EmailSink, mail_of
from billing.sinks.notice import notice_of
from billing.sinks.slack import SlackSink, message_of
from customers.api.json import write_exact
from spendproject import environment
from tests.billing.making import NOON

URL = "https://hooks.slack.com/services/T0/B0/secret"
BODY = {
    "event": "threshold_crossed",
    "event_message": "Customer Budget: R&D <b> has spent $8.05 of $10.00.",
    "spend": Decimal("8.05"),
    "max_budget": Decimal(10),
    "customer_id": "R&D <b>",
    "period_ends_at": "2026-08-01T00:00:00+00:00",
    "alert_rule": "80 % of a budget",
    "admin_url": "https://gateway.example.com/admin/customers/customer/R&D/",
}
ROW = {"name": "acme", "spend": Decimal("12.5"), "previous_spend": Decimal(10), "change": "+25 %", "calls": 1}
REPORT = {
    "first_day": "2026-07-06",
    "last_day": "2026-07-12",
    "spend": Decimal("20.123456789"),
    "previous_spend": Decimal(10),
    "change": "+101 %",
    "calls": 1234,
    "failed_calls": 2,
    "unpriced_calls": 1,
    "customers": [ROW],
    "models": [{**ROW, "name": "gpt-4o"}],
    "teams": [],
}


def make_event(type: str = "threshold_crossed", **body: Any) -> Event:
    return Event(
        id=uuid.UUID(int=1),
        sequence=1,
        type=type,
        group="customer",
        created_at=NOON,
        text=write_exact({**BODY, **body}),
    )


def send(sink: Any, *, target: str = "", event: Event | None = None) -> Any:
    async def run() -> Any:
        try:
            return await sink.send(Delivery(target=target), event or make_event())
        finally:
            await sink.close()

    return asyncio.run(run())


class NoticeTests(SimpleTestCase):
    def test_it_says_what_is_known_and_leaves_out_what_is_not(self):
        notice = notice_of(make_event())

        self.assertEqual((notice.title, notice.level), ("Budget nearly used up: R&D <b>", "Low"))
        self.assertEqual(
            notice.facts,
            [
                ("Spent", "$8.05"), ("Budget", "$10.00"), ("Period ends", "2026-08-01 00:00 UTC"),
                ("Customer", "R&D <b>"), ("Rule", "80 % of a budget"),
            ],
        )  # fmt: skip

    def test_an_event_of_another_kind_is_readable_too(self):
        notice = notice_of(Event(id=uuid.uuid4(), type="key_created", text='{"event_message": "A key."}'))

        self.assertEqual((notice.title, notice.message, notice.facts), ("Key created", "A key.", []))

    def test_a_report_lists_who_spent_most(self):
        notice = notice_of(make_event("spend_report", report=REPORT))

        self.assertEqual(notice.title, "Spend report: 2026-07-06 to 2026-07-12")
        self.assertIn(("Without a price", "1"), notice.facts)
        self.assertEqual(notice.lists[0].rows, [("acme", "$12.50", "+25 %", "1 call")])


class SlackMessageTests(SimpleTestCase):
    def test_names_are_shown_as_they_are(self):
        message = message_of(make_event(customer_id="<!channel> *x*", event_message="<!channel> & *x*"))

        text = json.dumps(message)
        self.assertNotIn("<!channel>", text)
        self.assertIn(
            "&lt;!channel&gt; &amp; \u200b*\u200bx\u200b*\u200b", message["blocks"][1]["text"]["text"]
        )

    def test_it_has_a_title_a_sentence_facts_and_a_link(self):
        blocks = message_of(make_event())["blocks"]

        self.assertEqual([block["type"] for block in blocks], ["header", "section", "section", "context"])
        self.assertIn({"type": "mrkdwn", "text": "*Spent*\n$8.05"}, blocks[2]["fields"])
        self.assertIn("|Open in the admin>", blocks[3]["elements"][0]["text"])

    def test_it_stays_within_slacks_limits(self):
        rows = [{**ROW, "name": "x" * 255}] * 5
        report = {**REPORT, "customers": rows, "models": rows, "teams": rows}

        message = message_of(make_event("spend_report", event_message="y" * 5000, report=report))

        self.assertLessEqual(len(message["blocks"][0]["text"]["text"]), 150)
        for block in message["blocks"][1:]:
            self.assertLessEqual(len(block.get("text", {}).get("text", "")), 3000)
            self.assertLessEqual(len(block.get("fields", [])), 10)


@override_settings(SLACK_WEBHOOK_URL=URL)
class SlackSinkTests(TransactionTestCase):
    def post(self, answer: Any, **options: Any) -> Any:
        self.requests: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            if isinstance(answer, Exception):
                raise answer
            return answer

        transport = httpx.MockTransport(handle)
        with mock.patch("billing.sinks.slack.GuardedTransport", return_value=transport):
            return send(SlackSink(), **options)

    def test_a_message_that_slack_takes_is_delivered(self):
        outcome = self.post(httpx.Response(200, text="ok"))

        self.assertTrue(outcome.ok)
        self.assertEqual(str(self.requests[0].url), URL)
        self.assertEqual(json.loads(self.requests[0].content), message_of(make_event()))

    def test_too_many_messages_are_tried_again_when_slack_says(self):
        outcome = self.post(httpx.Response(429, headers={"retry-after": "30"}))

        self.assertEqual((outcome.ok, outcome.retry_after, outcome.permanent), (False, 30.0, False))

    def test_an_address_that_is_gone_is_not_tried_again(self):
        self.assertTrue(self.post(httpx.Response(404, text="no_service")).permanent)

    def test_a_network_that_is_down_is_and_the_address_is_not_told(self):
        outcome = self.post(httpx.ConnectError("no route"))

        self.assertEqual((outcome.ok, outcome.permanent), (False, False))
        self.assertNotIn("secret", outcome.error)

    def test_a_rule_has_an_address_of_its_own(self):
        own = "https://hooks.slack.com/services/T0/B0/own"
        rule = AlertRule.objects.create(
            name="r", kind="budget", threshold=1, sealed_slack_url=sealed_url(own)
        )

        outcome = self.post(httpx.Response(200), target=slack_target(rule.pk))

        self.assertTrue(outcome.ok)
        self.assertEqual(str(self.requests[0].url), own)

    def test_a_rule_that_lost_its_address_fails_for_good(self):
        outcome = self.post(httpx.Response(200), target=slack_target(4711))

        self.assertTrue(outcome.permanent)
        self.assertIn("rule 4711", outcome.error)


class SecretTests(SimpleTestCase):
    def test_an_address_is_sealed_and_only_its_host_is_shown(self):
        sealed = sealed_url(URL)

        self.assertNotIn("secret", sealed)
        self.assertEqual((unsealed_url(sealed), shown_url(sealed)), (URL, "https://hooks.slack.com/…"))

    def test_an_address_inside_our_network_is_refused(self):
        for url in ("http://127.0.0.1/x", "http://2130706433/", "http://[::ffff:10.0.0.1]/", "nonsense"):
            with self.subTest(url), self.assertRaises(ValueError):
                sealed_url(url)


@override_settings(EMAIL_IS_CONFIGURED=True)
class EmailTests(SimpleTestCase):
    def test_it_has_a_text_and_html_with_names_as_they_are(self):
        message = mail_of(make_event(), "ops@example.com")

        html = message.alternatives[0][0]
        self.assertEqual(message.subject, "[Spend gateway] Budget nearly used up: R&D <b>")
        self.assertIn("Customer Budget: R&D <b> has spent $8.05", message.body)
        self.assertIn("R&amp;D &lt;b&gt; has spent", html)
        self.assertNotIn("<b>", html)
        self.assertIn("Spent: $8.05", message.body)

    def test_a_name_cannot_add_a_header(self):
        message = mail_of(make_event(customer_id="x\r\nBcc: evil@example.com"), "ops@example.com")

        self.assertNotIn("\n", message.subject)

    def test_a_report_lists_everything(self):
        message = mail_of(make_event("spend_report", report=REPORT), "ops@example.com")

        for text in ("acme", "gpt-4o", "$12.50", "+25 %", "1,234"):
            self.assertIn(text, message.body)
            self.assertIn(text, message.alternatives[0][0])
        self.assertNotIn("Teams", message.body)

    def test_it_is_sent_to_the_target_alone(self):
        outcome = send(EmailSink(), target="ops@example.com")

        self.assertTrue(outcome.ok)
        self.assertEqual([message.to for message in mail.outbox], [["ops@example.com"]])

    def test_what_the_server_refuses_for_good_is_not_tried_again(self):
        for code, is_permanent in ((550, True), (451, False)):
            refused = smtplib.SMTPRecipientsRefused({"x@example.com": (code, b"no such user")})
            with mock.patch("billing.sinks.email.EmailMultiAlternatives.send", side_effect=refused):
                outcome = send(EmailSink(), target="x@example.com")
            self.assertEqual((outcome.ok, outcome.permanent, outcome.status), (False, is_permanent, code))

    def test_a_server_that_is_away_is_tried_again(self):
        for error in (ConnectionRefusedError("no"), smtplib.SMTPAuthenticationError(535, b"bad")):
            with mock.patch("billing.sinks.email.EmailMultiAlternatives.send", side_effect=error):
                outcome = send(EmailSink(), target="x@example.com")
            self.assertEqual((outcome.ok, outcome.permanent), (False, False))

    @override_settings(EMAIL_IS_CONFIGURED=False)
    def test_without_a_server_it_fails_for_good(self):
        self.assertTrue(send(EmailSink(), target="x@example.com").permanent)


class MailServerTests(SimpleTestCase):
    def server(self, **variables: str) -> Any:
        with mock.patch.dict("os.environ", variables):
            return environment.mail_server()

    def test_one_variable_says_it_all(self):
        server = self.server(EMAIL_URL="smtp://me%40x:p%2Fw@mail.example.com:2525")
        self.assertEqual(
            (server.host, server.port, server.user, server.password, server.starts_tls, server.is_tls),
            ("mail.example.com", 2525, "me@x", "p/w", True, False),
        )
        server = self.server(EMAIL_URL="smtps://mail.example.com")
        self.assertEqual((server.port, server.starts_tls, server.is_tls), (465, False, True))
        self.assertFalse(self.server(EMAIL_URL="smtp://mail.example.com?tls=false").starts_tls)
        self.assertIn("console", self.server(EMAIL_URL="console://").backend)

    def test_litellms_variables_do_too(self):
        server = self.server(SMTP_HOST="mail", SMTP_USERNAME="u", SMTP_PASSWORD="p", SMTP_TLS="False")

        self.assertEqual(
            (server.host, server.port, server.user, server.starts_tls), ("mail", 587, "u", False)
        )

    def test_nothing_is_no_server_and_nonsense_is_refused(self):
        self.assertIsNone(self.server(EMAIL_URL=""))
        for url in ("mail.example.com", "http://x", "smtp://", "smtp://x:port"):
            with self.subTest(url), self.assertRaises(environment.BadSetting):
                self.server(EMAIL_URL=url)
