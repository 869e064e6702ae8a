"""What all routes of the API share: JSON, envelopes, idempotency, confinement of keys, audit entries."""

import json
import threading
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import IntegrityError, OperationalError, connections
from django.db.models import ProtectedError
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.urls import path
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory

from customers.allowed_routes import INFO, MANAGEMENT, is_allowed
from customers.api import Action, ApiError, Envelope, ManagementView
from customers.api.fields import FreeObject, Id, Names, Usd, Whole
from customers.api.idempotency import KEEP, forget_answers
from customers.api.json import ExactJSONParser, ExactJSONRenderer
from customers.models import AuditLog, Budget, IdempotentAnswer, Tag, Team, User
from customers.services import create_key

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}


class TagSerializer(serializers.Serializer):
    name = Id()
    amount = Usd(required=False)
    number = Whole(required=False)
    names = Names(required=False)
    note = FreeObject(required=False)


class MakeTag(ManagementView):
    actions = {"POST": Action.WRITE_TAGS, "GET": Action.READ_TAGS}

    def post(self, request: Request) -> Response:
        given = self.body(TagSerializer)
        Tag.objects.create(name=given["name"])
        if given["name"] == "half-done":
            raise ApiError("after the row was made", status=400, type="bad_request", param="name")
        return Response({"name": given["name"], "amount": given.get("amount")}, status=200)

    def get(self, request: Request) -> Response:
        return Response({"query": self.query(TagSerializer)["name"]})


class MakeTagInDetail(MakeTag):
    envelope = Envelope.DETAIL


class Raise(ManagementView):
    actions = {"GET": Action.READ_TAGS}
    error: Exception

    def get(self, request: Request) -> Response:
        raise self.error


urlpatterns = [path("made", MakeTag.as_view()), path("detailed", MakeTagInDetail.as_view())]


class JsonTests(SimpleTestCase):
    def parse(self, body: bytes) -> Any:
        request = APIRequestFactory().post("/", body, content_type="application/json")
        return ExactJSONParser().parse(request)

    def test_numbers_with_a_point_are_decimals(self):
        self.assertEqual(
            self.parse(b'{"a": 0.1, "b": 1e-9, "c": 7}'), {"a": Decimal("0.1"), "b": Decimal("1E-9"), "c": 7}
        )

    def test_an_empty_body_is_an_empty_object(self):
        self.assertEqual(self.parse(b" \n"), {})

    def test_what_no_column_can_store_is_refused(self):
        for body in (
            b"{", b"nope", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": "x\\u0000"}',
            b'{"\\u0000": 1}', b"[" * 100_000, b'{"a": 1e99999999999999999999}',
        ):  # fmt: skip
            with self.subTest(body=body[:30]), self.assertRaises(ParseError):
                self.parse(body)

    def test_an_escaped_backslash_is_not_a_nul(self):
        self.assertEqual(self.parse(b'{"a": "\\\\u0000"}'), {"a": "\\u0000"})

    def test_answers_have_all_digits_of_a_decimal(self):
        rendered = ExactJSONRenderer().render({"a": [Decimal("0.000000001"), Decimal("25.00")], "b": None})

        self.assertEqual(rendered, b'{"a":[0.000000001,25],"b":null}')


class FieldTests(SimpleTestCase):
    def errors(self, **given: Any) -> set[str]:
        serializer = TagSerializer(data={"name": "x", **given})
        return set() if serializer.is_valid() else set(serializer.errors)

    def test_what_they_take(self):
        for given in (
            {"amount": Decimal("0.000000001")}, {"amount": 5}, {"amount": "12.50"}, {"amount": -1},
            {"number": 2**63 - 1},
            {"number": "7"}, {"names": ["a", "b"]}, {"note": {"a": [1, {"b": None}], "c": Decimal("0.5")}},
        ):  # fmt: skip
            with self.subTest(given=given):
                self.assertEqual(self.errors(**given), set())

    def test_what_they_refuse(self):
        deep: dict[str, Any] = {}
        for _ in range(30):
            deep = {"a": deep}
        for name, values in {
            "amount": (
                {"name": 17},
                {"names": [1]},
                True,
                "NaN",
                "Infinity",
                "x",
                [],
                {},
                Decimal("0.0000000001"),
                10**10,
                Decimal("1e99"),
                "",
            ),
            "number": (True, 1.5, "x", 2**63, -(2**63) - 1, [], "1e3"),
            "names": ("a", [[]], ["a\n"], [""], ["x" * 256]),
            "note": ([], "x", 3, deep, {"a": "x" * 100_001}, {"a": 2**70}, {"a": Decimal("1e400")}),
            "name": ("", "x" * 256, "a\nb", "\u2028", {}, [], None),
        }.items():
            for value in values:
                with self.subTest(name=name, value=str(value)[:30]):
                    self.assertEqual(self.errors(**{name: value}), {name})


class RouteTests(SimpleTestCase):
    def test_an_entry_is_a_path_a_beginning_or_a_group(self):
        for allowed, path_, expected in (
            ([], "/key/info", True),
            (["/key/info"], "/key/info", True),
            (["/key/info"], "/key/infos", False),
            (["/key/*"], "/key/list", True),
            (["/key/*"], "/customer/list", False),
            (["*"], "/customer/list", True),
            ([INFO], "/customer/list", True),
            (["llm_api_routes"], "/customer/list", False),
        ):
            with self.subTest(allowed=allowed, path=path_):
                self.assertIs(is_allowed(allowed, path_, (INFO, MANAGEMENT)), expected)


@override_settings(ROOT_URLCONF="tests.customers.test_api_foundation")
class ViewTestCase(TestCase):
    def send(self, name: Any = "red", *, path_: str = "/made", headers: Any = None, **fields: Any) -> Any:
        body = json.dumps({"name": name, **fields})
        return self.client.post(
            path_, body, content_type="application/json", headers={**MASTER, **(headers or {})}
        )

    def key(self, **fields: Any) -> dict[str, str]:
        _, secret = create_key(**fields)
        return {"authorization": f"Bearer {secret}"}


class EnvelopeTests(ViewTestCase):
    def test_a_body_of_the_wrong_shape_is_a_list_of_problems(self):
        for path_ in ("/made", "/detailed"):
            response = self.send(name="", amount="x", path_=path_)

            self.assertEqual(response.status_code, 422)
            problems = {tuple(each["loc"]): each["type"] for each in response.json()["detail"]}
            self.assertEqual(problems, {("body", "name"): "blank", ("body", "amount"): "invalid"})

    def test_a_missing_field_is_called_missing_and_a_query_a_query(self):
        response = self.client.get("/made", headers=MASTER)

        self.assertEqual(
            response.json()["detail"],
            [{"type": "missing", "loc": ["query", "name"], "msg": "This field is required."}],
        )

    def test_bodies_that_are_no_object(self):
        for body in ("[]", "3", '"x"', "null", "{", "[[[["):
            with self.subTest(body=body):
                response = self.client.post("/made", body, content_type="application/json", headers=MASTER)
                self.assertIn(response.status_code, (400, 422))

    def test_an_error_of_the_view_is_in_its_envelope(self):
        message = "after the row was made"
        for path_, expected in (
            ("/made", {"error": {"message": message, "type": "bad_request", "param": "name", "code": "400"}}),
            ("/detailed", {"detail": {"error": message}}),
        ):
            response = self.send("half-done", path_=path_)

            self.assertEqual((response.status_code, response.json()), (400, expected))

    def test_errors_of_access_are_in_the_error_envelope_everywhere(self):
        for path_ in ("/made", "/detailed"):
            unknown = self.send(path_=path_, headers={"authorization": "Bearer sk-unknown-unknown"})
            no_key = self.send(path_=path_, headers={"authorization": "Bearer not-a-virtual-key"})
            self.assertEqual((no_key.status_code, no_key.json()["error"]["type"]), (401, "auth_error"))
            self.assertIn("a virtual key, starting with `sk-`", no_key.json()["error"]["message"])
            outsider = self.send(path_=path_, headers=self.key())

            self.assertEqual((unknown.status_code, unknown.json()["error"]["code"]), (401, "401"))
            self.assertEqual((outsider.status_code, outsider.json()["error"]["type"]), (403, "auth_error"))

    def test_an_error_undoes_what_was_done_before_it(self):
        self.send("half-done")

        self.assertFalse(Tag.objects.exists())
        self.assertFalse(AuditLog.objects.exists())

    def test_other_methods_are_405_in_the_envelope(self):
        response = self.client.delete("/made", headers=MASTER)

        self.assertEqual((response.status_code, response.json()["error"]["code"]), (405, "405"))

    def test_what_the_database_refuses_is_told_without_its_words(self):
        for error, status in (
            (IntegrityError("duplicate key value violates secret_constraint"), 409),
            (OperationalError("connection to server at 10.0.0.1 failed"), 503),
            (ProtectedError("no", {Team(alias="red")}), 400),
        ):
            with self.subTest(error=type(error).__name__):
                request = APIRequestFactory().get("/", headers=MASTER)
                with (
                    self.assertLogs("customers.api.errors")
                    if status != 400
                    else self.assertNoLogs("customers")
                ):
                    response = type("Case", (Raise,), {"error": error}).as_view()(request)
                message = response.data["error"]["message"]
                self.assertEqual(response.status_code, status)
                self.assertNotIn("secret_constraint", message)
                self.assertNotIn("10.0.0.1", message)


class ConfinementTests(ViewTestCase):
    def test_a_key_s_type_and_routes_confine_it_whatever_its_role(self):
        admin = User.objects.create_user("alice", role=User.Role.PROXY_ADMIN)
        for fields, may_read, may_write in (
            ({}, True, True),
            ({"key_type": "management"}, True, True),
            ({"key_type": "read_only"}, True, False),
            ({"key_type": "llm_api"}, False, False),
            ({"allowed_routes": ["/made"]}, True, True),
            ({"allowed_routes": ["/spend/*"]}, False, False),
        ):
            with self.subTest(**fields):
                headers = self.key(user=admin, **fields)
                read = self.client.get("/made?name=x", headers=headers).status_code
                written = self.send(f"tag-{fields}", headers=headers).status_code
                self.assertEqual((read, written), (200 if may_read else 403, 200 if may_write else 403))

    def test_a_viewer_reads_and_does_not_write(self):
        viewer = User.objects.create_user("vera", role=User.Role.PROXY_ADMIN_VIEWER)
        headers = self.key(user=viewer)

        self.assertEqual(self.client.get("/made?name=x", headers=headers).status_code, 200)
        self.assertEqual(self.send(headers=headers).status_code, 403)

    def test_the_key_of_a_deactivated_user_is_refused(self):
        headers = self.key(user=User.objects.create_user("gone", role=User.Role.PROXY_ADMIN, is_active=False))

        self.assertEqual(self.client.get("/made?name=x", headers=headers).status_code, 401)


class AuditTests(ViewTestCase):
    def test_an_entry_says_who_did_what_from_where(self):
        self.send("red", headers={"litellm-changed-by": "kim@example.com"})

        entry = AuditLog.objects.get()
        self.assertEqual(
            (
                entry.action,
                entry.kind,
                entry.object_id,
                entry.via,
                entry.user_id,
                entry.actor,
                entry.changed_by,
            ),
            ("created", "customers.tag", "red", "api", "default_user_id", "master key", "kim@example.com"),
        )
        self.assertEqual((entry.address, entry.before, entry.after["name"]), ("127.0.0.1", {}, "red"))

    def test_an_update_tells_what_differs(self):
        budget = Budget.objects.create(id="gold", max_budget=Decimal(1))
        AuditLog.objects.all().delete()
        budget.max_budget = Decimal("2.5")
        budget.save()

        entry = AuditLog.objects.get()
        self.assertEqual((entry.action, entry.via), ("updated", "system"))
        self.assertEqual(
            (entry.before, entry.after), ({"max_budget": "1.000000000"}, {"max_budget": "2.500000000"})
        )

    def test_a_save_that_changes_nothing_is_no_entry(self):
        tag = Tag.objects.create(name="red")
        AuditLog.objects.all().delete()
        tag.save()

        self.assertFalse(AuditLog.objects.exists())

    def test_secrets_are_hidden(self):
        key, secret = create_key(alias="prod")
        user = User.objects.create_user("kim", password="correct horse")

        told = json.dumps(list(AuditLog.objects.values_list("before", "after")))
        for hidden in (secret, key.token_hash, user.password):
            self.assertNotIn(hidden, told)

    def test_bulk_writes_are_told_row_by_row_up_to_a_thousand(self):
        Tag.objects.bulk_create(Tag(name=f"t{i}") for i in range(3))
        Tag.objects.filter(name__in=["t0", "t1"]).update(description="new")
        Tag.objects.all().delete()

        counts = [
            AuditLog.objects.filter(action=action).count() for action in ("created", "updated", "deleted")
        ]
        self.assertEqual(counts, [3, 2, 3])
        AuditLog.objects.all().delete()
        Tag.objects.bulk_create(Tag(name=f"t{i}") for i in range(1001))
        self.assertEqual(AuditLog.objects.get().after, {"rows": 1001, "fields": []})


class IdempotencyTests(ViewTestCase):
    ONCE = {"idempotency-key": "order-17"}

    def test_the_same_call_again_is_answered_and_not_done(self):
        first = self.send(amount=0.001, headers=self.ONCE)
        again = self.send(amount=0.001, headers=self.ONCE)

        self.assertEqual((first.status_code, again.status_code), (200, 200))
        self.assertEqual(first.content, again.content)
        self.assertEqual(again.headers["idempotency-replayed"], "true")
        self.assertNotIn("idempotency-replayed", first.headers)
        self.assertEqual(Tag.objects.count(), 1)

    def test_another_body_is_409(self):
        self.send("red", headers=self.ONCE)
        response = self.send("blue", headers=self.ONCE)

        self.assertEqual((response.status_code, response.json()["error"]["param"]), (409, "Idempotency-Key"))
        self.assertEqual(list(Tag.objects.values_list("name", flat=True)), ["red"])

    def test_another_route_is_409(self):
        self.send("red", headers=self.ONCE)

        self.assertEqual(self.send("red", path_="/detailed", headers=self.ONCE).status_code, 409)

    def test_keys_are_each_caller_s_own(self):
        admin = User.objects.create_user("alice", role=User.Role.PROXY_ADMIN)
        self.send("red", headers=self.ONCE)

        self.assertEqual(self.send("blue", headers={**self.ONCE, **self.key(user=admin)}).status_code, 200)

    def test_a_refused_call_frees_its_key(self):
        self.assertEqual(self.send("half-done", headers=self.ONCE).status_code, 400)
        self.assertEqual(self.send("red", headers=self.ONCE).status_code, 200)

    def test_answers_are_not_readable_in_the_database(self):
        self.send("very-secret", headers=self.ONCE)

        self.assertNotIn(b"very-secret", bytes(IdempotentAnswer.objects.get().body))

    def test_an_answer_that_cannot_be_read_any_more_is_not_done_again(self):
        self.send("red", headers=self.ONCE)
        with override_settings(SECRET_KEY="another-secret-key-than-before-" + "x" * 30):
            response = self.send("red", headers=self.ONCE)

        self.assertEqual((response.status_code, Tag.objects.count()), (409, 1))

    def test_a_bad_key_is_400(self):
        self.assertEqual(self.send(headers={"idempotency-key": "x" * 256}).status_code, 400)

    def test_answers_are_forgotten_after_a_day(self):
        self.send("red", headers=self.ONCE)
        made_at = IdempotentAnswer.objects.get().created_at

        self.assertEqual(forget_answers(at=made_at + KEEP), 0)
        self.assertEqual(forget_answers(at=made_at + KEEP * 1.01), 1)


@override_settings(ROOT_URLCONF="tests.customers.test_api_foundation")
class IdempotencyRaceTests(TransactionTestCase):
    def test_of_calls_at_the_same_time_one_is_done_and_all_are_answered_alike(self):
        answers = []

        def send() -> None:
            try:
                response = self.client_class().post(
                    "/made", '{"name": "red"}', content_type="application/json",
                    headers={**MASTER, "idempotency-key": "race"},
                )  # fmt: skip
                answers.append((response.status_code, response.content))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        self.assertEqual(set(answers), {(200, b'{"name":"red","amount":null}')})
        self.assertEqual((len(answers), Tag.objects.count()), (8, 1))
