"""Errors that no view answers: in the admin a page, else what programs read; neither tells what broke."""

from unittest import mock

from django.conf import settings
from django.test import Client, TestCase

from billing.admin.holders import CustomerSpendAdmin
from billing.views.customers import CustomerInfo
from customers.models import User

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
BROKEN = RuntimeError("the password is hunter2")


class ErrorTests(TestCase):
    def setUp(self):
        self.client = Client(raise_request_exception=False)
        self.client.force_login(User.objects.create_superuser("alice"))

    def assert_told(self, response, status: int, kind: str) -> None:
        error = response.json()["error"]
        self.assertEqual(list(error), ["message", "type", "param", "code"])
        self.assertEqual((response.status_code, error["type"], error["code"]), (status, kind, str(status)))

    def test_organisations_are_answered_as_by_litellm_without_a_licence(self):
        for path in ("/organization/list", "/organization/info?organization_id=o"):
            response = self.client.get(path, headers=MASTER)

            self.assert_told(response, 403, "permission_error")
            self.assertIn("teams", response.json()["error"]["message"])

    def test_what_breaks_in_the_api_is_told_as_an_error_of_its_own(self):
        with mock.patch.object(CustomerInfo, "get", side_effect=BROKEN), self.assertLogs("django.request"):
            response = self.client.get("/customer/info?end_user_id=acme", headers=MASTER)

        self.assert_told(response, 500, "internal_server_error")
        self.assertNotIn("hunter2", response.text)

    def test_what_breaks_in_the_admin_is_told_on_a_page(self):
        broken = mock.patch.object(CustomerSpendAdmin, "get_queryset", side_effect=BROKEN)
        with broken, self.assertLogs("django.request"):
            response = self.client.get("/admin/customers/customer/")

        self.assertContains(response, "Something failed", status_code=500)
        self.assertNotIn("hunter2", response.text)

    def test_a_body_beyond_the_limit_is_413(self):
        with self.settings(MAX_BODY_BYTES=100), self.assertLogs("django.request"):
            response = self.client.post(
                "/customer/new", {"user_id": "a" * 100}, content_type="application/json", headers=MASTER
            )

        self.assert_told(response, 413, "invalid_request_error")

    def test_routes_are_listed_without_a_key(self):
        routes = {each["path"]: each["methods"] for each in self.client.get("/routes").json()["routes"]}

        self.assertEqual((routes["/customer/new"], routes["/v1/chat/completions"]), (["POST"], ["POST"]))
        self.assertEqual(self.client.get("/test").json(), {"route": "/test"})

    def test_an_unknown_route_is_404_in_its_form(self):
        self.assert_told(self.client.get("/customer/none", headers=MASTER), 404, "not_found")
        page = self.client.get("/admin/customers/none/")

        self.assertEqual(page["Content-Type"], "text/html; charset=utf-8")
        self.assertContains(page, "There is no such page", status_code=404)
        self.assertContains(page, 'href="/admin/"', status_code=404)

    def test_what_staff_may_not_see_is_told_on_a_page(self):
        self.client.force_login(User.objects.create_user("bob", is_staff=True))

        page = self.client.get("/admin/customers/customer/")

        self.assertContains(page, "You may not see or do this", status_code=403)

    def test_a_request_for_another_host_is_400_in_its_form(self):
        with self.settings(ALLOWED_HOSTS=["gateway.example.com"]), self.assertLogs("django.security"):
            response = self.client.get("/customer/list", headers={**MASTER, "host": "evil.example"})

            page = self.client.get("/admin/", headers={"host": "evil.example"})

        self.assert_told(response, 400, "invalid_request_error")
        self.assertContains(page, "cannot be read", status_code=400)
