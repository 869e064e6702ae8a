"""GET /customer/info and /end_user/info (contract 5.1)."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.test import TestCase
from django.utils import timezone

from billing.models import HolderType, SpendTotal
from customers.models import Budget, Customer, Team, User
from customers.services import create_key, delete_customers

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}


class CustomerInfoTestCase(TestCase):
    def get(
        self, customer_id: str | None = None, headers: dict[str, str] | None = None, path: str = "customer"
    ):
        query = {} if customer_id is None else {"end_user_id": customer_id}
        return self.client.get(f"/{path}/info", query, headers=MASTER if headers is None else headers)

    def assert_error(self, response: Any, status: int, type_: str, param: str | None = None) -> str:
        self.assertEqual(response.status_code, status)
        error = response.json()["error"]
        self.assertEqual((error["type"], error["param"], error["code"]), (type_, param, str(status)))
        return error["message"]


class ShapeTests(CustomerInfoTestCase):
    def test_it_has_the_contract_s_fields_and_ours(self):
        Customer.objects.create(id="ishaan3", alias="Ishaan", metadata={"plan": "pro"})
        SpendTotal.objects.create(
            holder_type=HolderType.CUSTOMER,
            holder_id="ishaan3",
            cost=Decimal("0.001112"),
            charge=Decimal("0.001413"),
            calls=5,
            failed_calls=1,
            unpriced_calls=2,
            prompt_tokens=1_000,
            completion_tokens=50,
            last_call_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        )

        response = self.get("ishaan3")

        body = response.json()
        self.assertEqual(response.status_code, 200)
        self.assertEqual(response.headers["content-type"], "application/json")
        contract = {
            "user_id": "ishaan3",
            "blocked": False,
            "alias": "Ishaan",
            "spend": 0.001413,
            "allowed_model_region": None,
            "default_model": None,
            "litellm_budget_table": None,
        }
        self.assertEqual({name: body[name] for name in contract}, contract)
        ours = {
            "total_spend": 0.001413,
            "total_cost": 0.001112,
            "total_tokens": 1_050,
            "requests": 5,
            "failed_requests": 1,
            "unpriced_requests": 2,
            "metadata": {"plan": "pro"},
        }
        self.assertEqual({name: body[name] for name in ours}, ours)
        self.assertTrue(body["last_seen_at"].startswith("2026-03-01T12:00:00"))

    def test_money_is_an_exact_decimal_number(self):
        Customer.objects.create(id="exact")
        SpendTotal.objects.create(holder_type=HolderType.CUSTOMER, holder_id="exact")
        for amount, written in (
            ("0.000000001", b"0.000000001"),
            ("123456.000000007", b"123456.000000007"),
            ("0.1", b"0.1"),
            ("25", b"25"),
            ("0", b"0"),
            ("9007199.254740993", b"9007199.254740993"),  # no float has these digits
        ):
            with self.subTest(amount):
                SpendTotal.objects.filter(holder_id="exact").update(charge=Decimal(amount))

                content = self.get("exact").content

                self.assertIn(b'"spend":' + written + b",", content)

    def test_one_without_a_call_has_spent_nothing(self):
        Customer.objects.create(id="new")

        body = self.get("new").json()

        self.assertEqual((body["spend"], body["requests"], body["last_seen_at"]), (0, 0, None))

    def test_a_budget_comes_as_an_object(self):
        budget = Budget.objects.create(max_budget=Decimal("10.5"), budget_duration="30d", rpm_limit=7)
        Customer.objects.create(id="with-budget", budget=budget, blocked=True)

        body = self.get("with-budget").json()

        self.assertTrue(body["blocked"])
        self.assertEqual(body["budget_id"], budget.pk)
        table = body["litellm_budget_table"]
        self.assertEqual(
            (table["max_budget"], table["budget_duration"], table["rpm_limit"]), (10.5, "30d", 7)
        )

    def test_the_older_path_says_the_same(self):
        Customer.objects.create(id="same")

        self.assertEqual(self.get("same").json(), self.get("same", path="end_user").json())

    def test_ids_are_data(self):
        for customer_id in (
            "a b&c=d",
            "Zażółć 🦔",
            "'; DROP TABLE customers_customer; --",
            "x" * 255,
            "../x",
        ):
            with self.subTest(customer_id):
                Customer.objects.create(id=customer_id)

                self.assertEqual(self.get(customer_id).json()["user_id"], customer_id)

    def test_it_takes_two_queries(self):
        Customer.objects.create(id="cheap", budget=Budget.objects.create(max_budget=Decimal(1)))

        with self.assertNumQueries(2):
            self.get("cheap")


class ErrorTests(CustomerInfoTestCase):
    def test_an_unknown_one_is_404(self):
        for customer_id in ("nobody", "a\0b", "x" * 5_000, "\u2028"):
            with self.subTest(customer_id[:10]):
                message = self.assert_error(self.get(customer_id), 404, "not_found", "end_user_id")

                self.assertIn("no customer with id", message)

    def test_a_deleted_one_is_404(self):
        Customer.objects.create(id="gone")
        delete_customers(ids=["gone"], at=timezone.now())

        self.assert_error(self.get("gone"), 404, "not_found", "end_user_id")

    def test_without_an_id_it_is_422(self):
        for customer_id in (None, ""):
            self.assert_error(self.get(customer_id), 422, "validation_error", "end_user_id")

    def test_other_methods_are_405(self):
        response = self.client.post("/customer/info", {}, headers=MASTER)

        self.assertEqual(response.status_code, 405)
        self.assertEqual(response.json()["error"]["code"], "405")


class AccessTests(CustomerInfoTestCase):
    """Alice runs the gateway, Bob is on a team, Charlie has a key and must see nothing."""

    def setUp(self):
        Customer.objects.create(id="acme")

    def key_of(self, role: str | None, **fields: Any) -> dict[str, str]:
        user = role and User.objects.create(username=uuid.uuid4().hex, role=role)
        _, secret = create_key(user=user or None, **fields)
        return {"authorization": f"Bearer {secret}"}

    def test_the_master_key_may_ask_in_every_form(self):
        for headers in (
            MASTER,
            {"x-api-key": settings.MASTER_KEY},
            {"x-litellm-api-key": settings.MASTER_KEY},
        ):
            self.assertEqual(self.get("acme", headers).status_code, 200)

    def test_alice_may(self):
        self.assertEqual(self.get("acme", self.key_of(User.Role.PROXY_ADMIN)).status_code, 200)

    def test_bob_and_charlie_may_not(self):
        team = Team.objects.create()
        for headers in (self.key_of(User.Role.INTERNAL_USER, team=team), self.key_of(None)):
            message = self.assert_error(self.get("acme", headers), 403, "auth_error")

            self.assertNotIn("acme", message)

    def test_nobody_else_may(self):
        yesterday = timezone.now() - timedelta(days=1)
        blocked_team = Team.objects.create(blocked=True)
        for headers, type_, fragment in (
            ({}, "auth_error", "No api key passed in"),
            ({"authorization": settings.MASTER_KEY}, "auth_error", "Malformed API Key"),
            ({"authorization": "Bearer sk-unknown"}, "token_not_found_in_db", "Invalid proxy server token"),
            (self.key_of(User.Role.PROXY_ADMIN, blocked=True), "auth_error", "blocked"),
            (self.key_of(User.Role.PROXY_ADMIN, team=blocked_team), "auth_error", "blocked"),
            (self.key_of(User.Role.PROXY_ADMIN, expires_at=yesterday), "expired_key", "Expired Key"),
        ):
            with self.subTest(fragment):
                response = self.get("acme", headers)

                self.assertEqual(response.status_code, 401)
                error = response.json()["error"]
                self.assertEqual(error["type"], type_)
                self.assertIn(fragment, error["message"])

    def test_a_log_in_to_the_admin_is_no_key(self):
        self.client.force_login(User.objects.create_superuser("alice", password="irrelevant"))

        self.assertEqual(self.get("acme", headers={}).status_code, 401)
