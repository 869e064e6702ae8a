"""Webhooks in the API, in the admin and from the environment; GET /events; /health/services."""

import json
from datetime import timedelta
from typing import Any

import httpx
import jsonschema
from django.conf import settings
from django.test import TestCase, override_settings
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from standardwebhooks import Webhook

from billing.checks import webhook_settings
from billing.models import Delivery, Event, WebhookEndpoint
from billing.webhooks.endpoints import follow_environment, is_secret
from customers.models import AuditLog
from customers.services import create_key
from tests.admin_pages import AdminTestCase
from tests.billing.making import book_calls, make_call
from tests.billing.receiving import (
    Receiver,
    an_event,
    forget_what_is_cached,
    make_endpoint,
    posting_to,
    write,
)

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
URL = "https://receiver.example/hook"


class ApiTestCase(TestCase):
    def setUp(self):
        forget_what_is_cached(self)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
        return self.client.post(
            path, json.dumps(body), content_type="application/json", headers=headers or MASTER
        )

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(path, query, headers=MASTER)

    def made(self, **fields: Any) -> dict[str, Any]:
        response = self.post("/webhook/new", {"url": URL, **fields})
        self.assertEqual(response.status_code, 200, response.content)
        return response.json()


class EndpointTests(ApiTestCase):
    def test_the_secret_is_told_once_and_never_again(self):
        made = self.made(name="billing")

        secret = made.pop("secret")
        self.assertTrue(is_secret(secret))
        Webhook(secret)
        told = [
            self.get("/webhook/info", webhook_id=made["webhook_id"]),
            self.get("/webhook/list"),
            self.post("/webhook/update", {"webhook_id": made["webhook_id"], "name": "x"}),
            self.get("/audit"),
        ]
        for response in told:
            self.assertEqual(response.status_code, 200, response.content)
            self.assertNotIn(secret.removeprefix("whsec_"), response.content.decode())
        endpoint = WebhookEndpoint.objects.get()
        self.assertNotIn(secret.removeprefix("whsec_"), endpoint.sealed_secret)
        kept = AuditLog.objects.filter(kind="billing.webhookendpoint")
        self.assertEqual([entry.action for entry in kept.order_by("pk")], ["created", "updated"])
        self.assertNotIn(endpoint.sealed_secret, json.dumps([entry.after for entry in kept]))

    def test_a_rotation_gives_a_new_secret_and_keeps_the_old_one_for_the_overlap(self):
        made = self.made()

        rotated = self.post(
            "/webhook/rotate_secret", {"webhook_id": made["webhook_id"], "overlap_hours": 2}
        ).json()

        endpoint, now = WebhookEndpoint.objects.get(), timezone.now()
        self.assertEqual(endpoint.signing_secrets(at=now), [rotated["secret"], made["secret"]])
        self.assertEqual(endpoint.signing_secrets(at=now + timedelta(hours=3)), [rotated["secret"]])

    def test_a_private_address_is_refused_with_what_would_allow_it(self):
        response = self.post("/webhook/new", {"url": "http://169.254.169.254/latest"})

        self.assertEqual(response.status_code, 400)
        self.assertIn("WEBHOOK_ALLOW_PRIVATE", response.content.decode())
        made = self.made()
        response = self.post(
            "/webhook/update", {"webhook_id": made["webhook_id"], "url": "http://2130706433/"}
        )
        self.assertEqual(response.status_code, 400)
        self.assertEqual(WebhookEndpoint.objects.get().url, URL)

    def test_only_proxy_admins_may(self):
        _, secret = create_key(key_type="default")
        headers = {"authorization": f"Bearer {secret}"}

        response = self.post("/webhook/new", {"url": URL}, headers)

        self.assertEqual(response.status_code, 403)
        self.assertFalse(WebhookEndpoint.objects.exists())
        self.assertEqual(self.client.get("/events", headers=headers).status_code, 403)

    def test_an_endpoint_that_is_gone_is_404_and_what_it_waited_for_is_given_up(self):
        made = self.made()
        write(an_event())

        self.post("/webhook/delete", {"webhook_id": made["webhook_id"]})

        self.assertEqual(self.get("/webhook/info", webhook_id=made["webhook_id"]).status_code, 404)
        self.assertEqual(Delivery.objects.get().state, "failed")
        self.assertEqual(
            self.get("/webhook/deliveries").json()["data"][0]["last_error"], "The endpoint was deleted."
        )

    def test_wrong_fields_are_422(self):
        for body in ({}, {"url": URL, "max_concurrency": 0}, {"url": URL, "event_types": "all"}):
            with self.subTest(body):
                self.assertEqual(self.post("/webhook/new", body).status_code, 422)


class DeliveryTests(ApiTestCase):
    def test_the_log_has_request_answer_and_attempts_and_can_be_replayed(self):
        endpoint, _ = make_endpoint()
        (event_id,) = write(an_event(), an_event())[:1]
        Delivery.objects.filter(event_id=event_id).update(
            state="failed", next_attempt_at=None, attempts=13, last_status=500, last_answer="no"
        )

        (listed,) = self.get("/webhook/deliveries", webhook_id=endpoint.pk, state="failed").json()["data"]
        one = self.get("/webhook/delivery", delivery_id=listed["delivery_id"]).json()

        self.assertEqual((listed["attempts"], listed["last_status"], listed["last_answer"]), (13, 500, "no"))
        self.assertEqual(one["request"]["headers"]["webhook-id"], f"evt_{event_id.hex}")
        self.assertEqual(one["request"]["body"]["id"], f"evt_{event_id.hex}")
        self.assertEqual(
            self.post("/webhook/replay", {"webhook_id": endpoint.pk}).json(),
            {"replayed": 1, "has_more": False},
        )
        self.assertEqual(Delivery.objects.get(event_id=event_id).state, "due")
        self.assertEqual(self.post("/webhook/replay", {"delivery_id": 10**9}).status_code, 404)

    def test_pages_go_on_before_the_last_one(self):
        make_endpoint()
        write(*[an_event() for _ in range(5)])

        first = self.get("/webhook/deliveries", limit=3).json()
        second = self.get("/webhook/deliveries", limit=3, before=first["next_before"]).json()

        ids = [each["delivery_id"] for each in first["data"] + second["data"]]
        self.assertEqual(ids, sorted(ids, reverse=True))
        self.assertEqual((len(ids), second["next_before"]), (5, None))


class TestingTests(ApiTestCase):
    def test_health_services_posts_litellms_test_event_and_tells_what_came_of_it(self):
        _, secret = make_endpoint()
        receiver = Receiver()

        with posting_to(receiver):
            response = self.get("/health/services", service="webhook")

        self.assertEqual((response.status_code, response.json()["status"]), (200, "success"))
        body = receiver.verify(secret)
        self.assertEqual(
            (body["event"], body["event_group"], body["spend"], body["max_budget"]),
            ("budget_crossed", "key", 1, 0),
        )
        self.assertEqual(Delivery.objects.get().state, "delivered")

    def test_a_test_that_fails_says_why_and_is_not_tried_again(self):
        endpoint, _ = make_endpoint()

        with posting_to(Receiver(lambda request: httpx.Response(503, text="later"))):
            response = self.post("/webhook/test", {"webhook_id": endpoint.pk})

        self.assertEqual((response.status_code, response.json()["status"]), (422, "failure"))
        self.assertEqual(response.json()["results"][0]["answer"], "later")
        delivery = Delivery.objects.get()
        self.assertEqual((delivery.state, delivery.attempts, delivery.next_attempt_at), ("failed", 1, None))
        document = SchemaGenerator().get_schema(public=True)
        for path, method in (("/webhook/test", "post"), ("/health/services", "get")):
            told = document["paths"][path][method]["responses"]["422"]["$ref"].rpartition("/")[2]
            schema = document["components"]["responses"][told]["content"]["application/json"]["schema"]
            jsonschema.validate(response.json(), {**schema, "components": document["components"]})

    def test_without_an_endpoint_it_is_422_as_in_litellm(self):
        self.assertEqual(self.get("/health/services", service="webhook").status_code, 422)
        self.assertEqual(self.get("/health/services", service="pigeons").status_code, 422)


class EventsTests(ApiTestCase):
    def test_whoever_asks_for_what_comes_next_gets_everything_once_with_the_same_ids(self):
        make_endpoint()
        for n in range(4):
            book_calls(*[make_call(customer_id=f"c{m}", cost_usd="0.5") for m in range(n + 1)])

        seen, after = [], 0
        while True:
            page = self.get("/events", after=after, limit=3).json()
            seen += page["data"]
            after = page["next_after"]
            if not page["has_more"]:
                break

        events = Event.objects.order_by("sequence")
        self.assertEqual([body["id"] for body in seen], [event.wire_id for event in events])
        self.assertEqual([body["sequence"] for body in seen], list(range(1, 11)))
        self.assertEqual(page["oldest_sequence"], 1)
        self.assertEqual(self.get("/events", after=after).json()["data"], [])

    def test_it_can_be_confined_to_a_customer_and_a_type(self):
        make_endpoint()
        book_calls(make_call(customer_id="acme"), make_call(customer_id="other"))
        write(an_event(customer_id="acme"))

        of_acme = self.get("/events", customer_id="acme").json()["data"]
        tracked = self.get("/events", customer_id="acme", type="spend_tracked").json()["data"]

        self.assertEqual((len(of_acme), len(tracked)), (2, 1))

    def test_amounts_keep_their_digits(self):
        make_endpoint()
        book_calls(make_call(customer_id="acme", cost_usd="0.000000001"))

        self.assertIn('"spend":0.000000001,', self.get("/events").content.decode())


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@override_settings(WEBHOOK_URL=URL, WEBHOOK_SECRET=SECRET)
class EnvironmentTests(ApiTestCase):
    def test_the_environment_makes_one_endpoint_however_often_it_is_followed(self):
        for _ in range(3):
            follow_environment()

        endpoint = WebhookEndpoint.objects.get()
        self.assertEqual((endpoint.url, endpoint.is_active, endpoint.source), (URL, True, "environment"))
        self.assertEqual(endpoint.signing_secrets(at=timezone.now()), [SECRET])
        with self.assertNumQueries(1):
            follow_environment()

    def test_another_secret_overlaps_with_the_one_before(self):
        follow_environment()

        with override_settings(WEBHOOK_SECRET="bmV3IHNlY3JldCBvZiBhIHRlc3Q="):
            follow_environment()
            follow_environment()

        secrets = WebhookEndpoint.objects.get().signing_secrets(at=timezone.now())
        self.assertEqual(secrets, ["bmV3IHNlY3JldCBvZiBhIHRlc3Q=", SECRET])

    def test_without_the_variable_it_is_off_and_with_it_on_again(self):
        follow_environment()

        with override_settings(WEBHOOK_URL=""):
            follow_environment()
            self.assertFalse(WebhookEndpoint.objects.get().is_active)
        follow_environment()

        self.assertTrue(WebhookEndpoint.objects.get().is_active)

    def test_what_staff_or_the_receiver_switched_off_stays_off_until_the_url_changes(self):
        follow_environment()
        WebhookEndpoint.objects.update(is_active=False, disabled_reason="The receiver answered 410 Gone.")

        follow_environment()
        self.assertFalse(WebhookEndpoint.objects.get().is_active)
        with override_settings(WEBHOOK_URL=URL + "/2"):
            follow_environment()

        self.assertTrue(WebhookEndpoint.objects.get().is_active)

    def test_alerting_without_webhook_is_a_no(self):
        with override_settings(ALERTING=["slack"]):
            follow_environment()
            self.assertFalse(WebhookEndpoint.objects.exists())
        with override_settings(ALERTING=["slack", "webhook"]):
            follow_environment()
        self.assertTrue(WebhookEndpoint.objects.exists())


class AdminTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        forget_what_is_cached(self)

    def test_an_endpoint_is_made_and_shows_its_secret_once(self):
        url = reverse("admin:billing_webhookendpoint_add")

        page = self.client.post(
            url, {"name": "billing", "url": URL, "is_active": "on", "event_types": "", "customer_ids": "acme",
                  "max_concurrency": "4"},
        )  # fmt: skip

        endpoint = WebhookEndpoint.objects.get()
        (secret,) = endpoint.signing_secrets(at=timezone.now())
        self.assertContains(page, secret)
        self.assertEqual(endpoint.customer_ids, ["acme"])
        self.assertNotContains(
            self.client.get(reverse("admin:billing_webhookendpoint_change", args=[endpoint.pk])), secret[6:]
        )
        self.assertContains(self.client.get(reverse("admin:billing_webhookendpoint_changelist")), "billing")

    def test_a_private_address_is_refused_in_the_form(self):
        page = self.client.post(
            reverse("admin:billing_webhookendpoint_add"),
            {"url": "http://10.0.0.1/", "is_active": "on", "max_concurrency": "4"},
        )

        self.assertContains(page, "WEBHOOK_ALLOW_PRIVATE")
        self.assertFalse(WebhookEndpoint.objects.exists())

    def test_actions_ask_first_and_then_do_it(self):
        endpoint, _ = make_endpoint()
        write(an_event())
        Delivery.objects.update(state="failed", next_attempt_at=None)
        receiver = Receiver()

        for name in ("send_test", "new_secret", "replay_failed"):
            url = reverse(f"admin:billing_webhookendpoint_{name}", args=[endpoint.pk])
            with self.subTest(name), posting_to(receiver):
                self.assertEqual(self.client.get(url).status_code, 200)
                self.assertLess(self.client.post(url).status_code, 400)

        self.assertEqual(len(receiver.requests), 1)
        self.assertEqual(len(WebhookEndpoint.objects.get().signing_secrets(at=timezone.now())), 2)
        self.assertEqual(Delivery.objects.filter(state="due").count(), 1)

    def test_deliveries_and_events_can_be_read_and_one_be_replayed(self):
        make_endpoint()
        book_calls(make_call(customer_id="acme", cost_usd="0.000000001"))
        delivery = Delivery.objects.get()
        Delivery.objects.update(
            state="delivered", next_attempt_at=None, attempts=2, last_status=200,
            last_attempt_at=timezone.now(),
            failures=[{"at": "2026-07-15T12:00:00.000+00:00", "status": 500, "error": "<b>", "ms": 3}],
        )  # fmt: skip

        page = self.client.get(reverse("admin:billing_delivery_change", args=[delivery.pk]))
        self.assertContains(page, "0.000000001")
        self.assertNotContains(page, "<b>")
        self.assertContains(self.client.get(reverse("admin:billing_delivery_changelist")), "acme")
        self.assertContains(self.client.get(reverse("admin:billing_event_changelist")), "acme")
        self.client.post(reverse("admin:billing_delivery_replay", args=[delivery.pk]))
        self.assertEqual(Delivery.objects.get().state, "due")

    def test_who_may_nothing_sees_and_does_nothing(self):
        endpoint, _ = make_endpoint()
        self.client.force_login(self.charlie, backend="django.contrib.auth.backends.ModelBackend")

        for name in ("changelist", "add"):
            self.assertEqual(
                self.client.get(reverse(f"admin:billing_webhookendpoint_{name}")).status_code, 403
            )
        response = self.client.post(reverse("admin:billing_webhookendpoint_new_secret", args=[endpoint.pk]))
        self.assertIn(response.status_code, (302, 403, 404))
        self.assertEqual(len(WebhookEndpoint.objects.get().signing_secrets(at=timezone.now())), 1)


class SettingsTests(TestCase):
    def test_what_could_not_work_is_refused_at_the_start(self):
        for id_, wrong in (
            ("billing.E020", {"WEBHOOK_SECRET": "not base64 !"}),
            ("billing.E020", {"WEBHOOK_SECRET": "c2hvcnQ="}),
            ("billing.E021", {"WEBHOOK_ALLOW_PRIVATE": ["yes please"]}),
            ("billing.E022", {"WEBHOOK_URL": "http://10.0.0.1/"}),
        ):
            with self.subTest(wrong), override_settings(**wrong):
                self.assertEqual([error.id for error in webhook_settings(None)], [id_])

    def test_what_works_is_taken(self):
        with override_settings(
            WEBHOOK_SECRET=SECRET, WEBHOOK_URL="http://10.0.0.1/", WEBHOOK_ALLOW_PRIVATE=["10.0.0.0/8"]
        ):
            self.assertEqual(webhook_settings(None), [])
