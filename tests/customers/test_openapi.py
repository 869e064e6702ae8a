"""The OpenAPI document: complete, valid, without a warning; and its page."""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import urlencode

import jsonschema
from django.db import transaction
from django.test import SimpleTestCase, TestCase
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from rest_framework.views import APIView

from billing.books.adjustments import initial_spend
from billing.budgets.status import spending_of
from billing.models import Delivery, HolderType
from billing.views import examples
from billing.views.audit import audit_object
from billing.views.budgets import budget_object, budget_row
from billing.views.customers import customer_object
from billing.views.key_objects import key_objects
from billing.views.limits import key_rows
from billing.views.tags import tag_object
from billing.views.team_objects import membership_objects, team_objects
from billing.views.users import user_objects
from customers.api.errors import Envelope
from customers.api.schema import group_of, schema_of
from customers.models import (
    AuditLog,
    Budget,
    Customer,
    HandoutLink,
    Tag,
    Team,
    TeamMembership,
    User,
    VirtualKey,
)
from customers.services import create_key
from customers.services.handout_links import make_handout_link
from proxy.models import Deployment, Upstream
from proxy.urls import urlpatterns as proxied
from tests.billing.making import NOON
from tests.billing.receiving import Receiver, an_event, make_endpoint, posting_to, write
from tests.customers.calling import MASTER, ApiTestCase

# What people open, and the document itself.
_PAGES = {"/", "/ui", "/ui/", "/login", "/openapi.json", "/docs", "/hand-out/{token}/"}
_METHODS = {"get", "post", "patch", "put", "delete"}


def routes(patterns: Any, prefix: str = "/") -> Iterator[tuple[str, URLPattern]]:
    """Yield each route of a URLconf with its pattern, written as the document writes it."""
    for each in patterns:
        if isinstance(each, URLResolver):
            yield from routes(each.url_patterns, prefix + str(each.pattern))
        else:
            yield re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", prefix + str(each.pattern)), each


class DocumentTests(SimpleTestCase):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        GENERATOR_STATS.reset()
        with redirect_stderr(io.StringIO()) as cls.said:
            cls.document = SchemaGenerator().get_schema(public=True)
        cls.complaints = [*GENERATOR_STATS._warn_cache, *GENERATOR_STATS._error_cache]

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield path, method, operation

    def test_it_is_made_without_a_warning(self):
        self.assertEqual(self.complaints, [])
        self.assertEqual(self.said.getvalue(), "")

    def test_it_is_valid(self):
        self.assertTrue(self.document["openapi"].startswith("3.1"))

        validate_schema(self.document)

    def test_each_reference_leads_somewhere(self):
        def references(value: Any) -> Iterator[str]:
            if isinstance(value, dict):
                if isinstance(value.get("$ref"), str):
                    yield value["$ref"]
                value = list(value.values())
            for item in value if isinstance(value, list) else ():
                yield from references(item)

        for reference in set(references(self.document)):
            _, _, kind, name = reference.split("/")
            self.assertIn(name, self.document["components"][kind], reference)

    def test_it_names_each_route_of_the_api_with_each_method(self):
        for path, pattern in routes(get_resolver().url_patterns):
            if path in _PAGES or path.startswith("/admin/"):
                continue
            view = getattr(pattern.callback, "cls", None)
            expected = {"get"} if view is None else {method.lower() for method in view.actions}
            with self.subTest(path=path):
                self.assertEqual(set(self.document["paths"].get(path, {})), expected)

    def test_it_names_each_proxied_route(self):
        for path, _ in routes(proxied):
            # Told in the description of the first spelling: without /v1, and with the model in the path.
            path = re.sub(r"^/(?:engines|openai/deployments)/\{model\}|^/v1", "", path)
            with self.subTest(path=path):
                self.assertIn(f"/v1{path}", self.document["paths"])

    def test_it_names_no_route_that_is_not_there(self):
        there = {path for patterns in (get_resolver().url_patterns, proxied) for path, _ in routes(patterns)}

        self.assertLessEqual(set(self.document["paths"]), there)

    def test_each_operation_says_what_it_does_and_where_it_is_listed(self):
        listed = {tag["name"] for tag in self.document["tags"]}
        for path, method, operation in self.operations():
            with self.subTest(path=path, method=method):
                self.assertIn(method, _METHODS)
                self.assertTrue(operation["summary"])
                self.assertLessEqual(set(operation["tags"]), listed)

    def test_no_two_operations_share_an_id(self):
        ids = [operation["operationId"] for _, _, operation in self.operations()]

        self.assertEqual(len(ids), len(set(ids)))

    def test_each_operation_says_whether_it_takes_a_key(self):
        open_to_all = {path for path, _, operation in self.operations() if not operation["security"]}

        self.assertEqual(
            open_to_all,
            {
                "/public/litellm_model_cost_map",
                "/routes",
                "/test",
                "/health/liveliness",
                "/health/liveness",
                "/health/readiness",
            },
        )

    def test_each_operation_of_the_api_tells_its_errors(self):
        for path, pattern in routes(get_resolver().url_patterns):
            view = getattr(pattern.callback, "cls", None)
            if path in _PAGES or path.startswith("/admin/") or view is None:
                continue
            kind = "Detail" if view.envelope is Envelope.DETAIL else "Error"
            for method, operation in self.document["paths"][path].items():
                with self.subTest(path=path, method=method):
                    answers = operation["responses"]
                    self.assertLessEqual({"400", "401", "403", "404", "409", "422", "503"}, set(answers))
                    self.assertEqual(answers["400"], {"$ref": f"#/components/responses/{kind}400"})

    def test_each_write_takes_an_idempotency_key_and_bodies_are_json(self):
        for path, pattern in routes(get_resolver().url_patterns):
            view = getattr(pattern.callback, "cls", None)
            if view is None or not issubclass(view, APIView) or not hasattr(view, "actions"):
                continue
            for method, operation in self.document["paths"].get(path, {}).items():
                is_write = method != "get" and not view.reads_by_post
                named = {parameter["name"] for parameter in operation.get("parameters", ())}
                with self.subTest(path=path, method=method):
                    self.assertEqual("Idempotency-Key" in named, is_write)
                    if "requestBody" in operation:
                        self.assertEqual(list(operation["requestBody"]["content"]), ["application/json"])

    def test_money_is_a_number(self):
        limits = self.document["components"]["schemas"]["BudgetFields"]["properties"]

        self.assertEqual(limits["max_budget"]["type"], ["number", "null"])

    def test_where_an_answer_has_two_shapes_both_are_told(self):
        answer = self.document["paths"]["/budget/update"]["post"]["responses"]["200"]

        kinds = [shape["type"] for shape in answer["content"]["application/json"]["schema"]["anyOf"]]
        self.assertEqual(kinds, ["object", "null"])


class SchemaTests(SimpleTestCase):
    def test_a_schema_is_read_from_an_example(self):
        self.assertEqual(
            schema_of([{"spend": Decimal("1.5"), "blocked": True, "models": ["a"], "alias": None}]),
            {
                "type": "array",
                "items": {
                    "type": ["object", "null"],
                    "properties": {
                        "spend": {"type": ["number", "null"]},
                        "blocked": {"type": ["boolean", "null"]},
                        "models": {"type": ["array", "null"], "items": {"type": ["string", "null"]}},
                        "alias": {},
                    },
                },
            },
        )
        self.assertEqual(schema_of(None), {"type": "null"})

    def test_an_answer_itself_is_not_null(self):
        self.assertEqual([schema_of(each)["type"] for each in (1, "a", {}, [])],
                         ["number", "string", "object", "array"])  # fmt: skip

    def test_versions_do_not_make_groups(self):
        self.assertEqual(group_of("/v2/key/info"), group_of("/key/info"))
        self.assertEqual(group_of("/end_user/info"), "Customers")


class PageTests(ApiTestCase):
    def test_the_document_is_served_to_anybody(self):
        response = self.client.get("/openapi.json")

        self.assertEqual(response.status_code, 200)
        self.assertEqual(response.headers["content-type"], "application/json")
        self.assertIn("/customer/new", response.json()["paths"])

    def test_the_page_has_no_inline_script(self):
        response = self.client.get("/docs")

        self.assertEqual(response.status_code, 200)
        page = response.content.decode()
        scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", page, re.DOTALL)
        self.assertTrue(scripts)
        for attributes, content in scripts:
            self.assertIn("src=", attributes)
            self.assertEqual(content.strip(), "")
        self.assertIsNone(re.search(r"\son\w+=", page))

    def test_a_route_that_is_not_there_is_told_as_programs_read_it(self):
        error = self.get("/customers/new", status=404)["error"]

        self.assertEqual((error["type"], error["param"], error["code"]), ("not_found", None, "404"))
        self.assertIn("/openapi.json", error["message"])

    def test_in_the_admin_it_is_a_page(self):
        response = self.client.get("/admin/static-of-nothing.png")

        self.assertNotEqual(response.headers["content-type"], "application/json")


class ExampleTests(TestCase):
    """Each example has exactly the fields that its object has."""

    def setUp(self) -> None:
        self.at = timezone.now()
        self.budget = Budget.objects.create(pk="gold", max_budget=Decimal(100), budget_duration="1mo")
        self.user = User.objects.create(pk="u-17", username="kim", email="kim@example.com")
        self.team = Team.objects.create(pk="t-sales", alias="Sales")
        self.member = TeamMembership.objects.create(team=self.team, user=self.user, budget=self.budget)
        self.key, _ = create_key(user=self.user)

    def assert_is_like(self, told: dict[str, Any], example: dict[str, Any]) -> None:
        self.assertEqual(set(told), set(example))
        for name in {"litellm_budget_table", "budget_period"} & set(told):
            if told[name] is not None:
                self.assertEqual(set(told[name]), set(example[name] or examples.BUDGET_TABLE), name)

    def test_budgets(self):
        self.assert_is_like(budget_row(self.budget, at=self.at), examples.BUDGET)
        self.assert_is_like(budget_object(self.budget, at=self.at), examples.BUDGET_TABLE)

    def test_customers(self):
        customer = Customer.objects.create(pk="acme-042", budget=self.budget)
        initial_spend(customer_id=customer.pk, amount=Decimal(1), at=self.at)
        spending = spending_of(HolderType.CUSTOMER, [(customer.pk, self.budget)], at=self.at)

        told = customer_object(customer, spending[customer.pk], at=self.at)

        self.assertIsNotNone(told["budget_period"])
        self.assert_is_like(told, examples.CUSTOMER)

    def test_tags(self):
        tag = Tag.objects.create(pk="engineering", budget=self.budget)
        spending = spending_of(HolderType.TAG, [(tag.pk, self.budget)], at=self.at)

        self.assert_is_like(tag_object(tag, spending[tag.pk]), examples.TAG)

    def test_keys(self):
        [row] = key_objects([self.key], at=self.at)
        [with_team] = key_rows(VirtualKey.objects.all(), at=self.at)

        self.assert_is_like(row, examples.KEY)
        self.assert_is_like(with_team, examples.KEY_ROW)

    def test_teams(self):
        [row] = team_objects([self.team], at=self.at)
        [membership] = membership_objects([self.member], at=self.at)

        self.assert_is_like(row, examples.TEAM)
        self.assert_is_like(membership, examples.MEMBERSHIP)

    def test_users(self):
        [row] = user_objects([self.user], at=self.at)

        self.assert_is_like(row, examples.USER)

    def test_the_audit_log(self):
        entry = AuditLog.objects.create(action="updated", kind="customers.team", via="api")

        self.assert_is_like(audit_object(entry), examples.AUDIT_ENTRY)


class RequestExampleTests(ApiTestCase):
    """What the document shows can be sent, and is answered in the shape that stands beside it."""

    secret = "sk-EXAMPLE0000000000000xQ"
    # What a path's or a query's required parameter is, for the rows below.
    values: ClassVar[dict[str, str]] = {
        "team_id": "t-sales",
        "user_id": "u-17",
        "key": secret,
        "named": "7",
        "budget_id": "gold",
        "end_user_id": "acme-042",
        "start_date": "2026-02-01",
        "end_date": "2026-02-03",
        "webhook_id": "3",
        "delivery_id": "41",
        "service": "webhook",
    }
    # What the master key, which has neither a row nor a user, has to say besides.
    asked: ClassVar[dict[str, dict[str, str]]] = {
        "/key/info": {"key": secret},
        "/v2/user/info": {"user_id": "u-17"},
    }
    # Where the rows below would be in the way: what else is sent.
    instead: ClassVar[dict[str, dict[str, Any]]] = {
        "/budget/new": {"budget_id": "new"},
        "/budget/delete": {"id": "unused"},
        "/customer/new": {"user_id": "new"},
        "/end_user/new": {"user_id": "new"},
        "/tag/new": {"name": "new"},
        "/team/new": {"team_id": "new"},
        "/team/member_add": {"member": {"user_id": "new"}},
    }

    def setUp(self) -> None:
        gold = Budget.objects.create(pk="gold", max_budget=Decimal(100))
        acme = Customer.objects.create(pk="acme-042")
        at = timezone.now()
        _, self.read_token = make_handout_link(
            customer=acme, kind=HandoutLink.Kind.READ_TOKEN, at=at, expires_at=at + timedelta(days=1)
        )
        Tag.objects.create(pk="engineering")
        kim = User.objects.create(pk="u-17", username="kim")
        team = Team.objects.create(pk="t-sales", allowed_models=["gpt-4o-mini", "o3"])
        TeamMembership.objects.create(team=team, user=kim, budget=gold)
        self.key, _ = create_key(secret=self.secret, budget=gold)
        Budget.objects.create(pk="unused")
        upstream = Upstream.objects.create(name="openai", provider="openai", openai_base_url="https://a.test")
        Deployment.objects.create(model_name="gpt-4o-mini", public_id="7", upstream=upstream)
        self._make_webhook()
        self.document = self.client.get("/openapi.json").json()

    def _make_webhook(self) -> None:
        endpoint, _ = make_endpoint(pk=3)
        (event_id,) = write(an_event(webhook=False))
        Delivery.objects.create(
            pk=41, event_id=event_id, channel="webhook", endpoint=endpoint, lane="webhook:3", since=NOON
        )
        posts = posting_to(Receiver())
        posts.__enter__()
        self.addCleanup(posts.__exit__, None, None, None)

    def sent(self, path: str, operation: dict[str, Any]) -> tuple[str, Any]:
        """Return the address and the body of a request as the document shows it."""
        address = re.sub(r"\{(\w+)\}", lambda found: self.values[found[1]], path)
        asked = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
        names = [each["name"] for each in asked if each.get("required") or each["name"].endswith("_date")]
        query = {name: self.values[name] for name in names}
        query |= self.asked.get(path, {})
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        body = next(iter(content.get("examples", {}).values()), {"value": {}})["value"]
        return f"{address}?{urlencode(query)}", {**body, **self.instead.get(path, {})}

    def test_each_works(self):
        shown = [
            (path, method, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
            if _is_shown(path, operation)
        ]
        self.assertGreater(len(shown), 60)
        for path, method, operation in shown:
            address, body = self.sent(path, operation)
            with self.subTest(path=path, method=method), suppress(_Undone), transaction.atomic():
                takes_read_token = operation["security"] == [{"read_token": []}]
                response = self.send(
                    method.upper(), address, body, key=self.read_token if takes_read_token else MASTER
                )
                self.assertEqual(response.status_code, 200, response.content)
                answer = operation["responses"]["200"]["content"]["application/json"]
                jsonschema.validate(response.json(), answer["schema"])
                self.assert_has_the_same_fields(response.json(), answer["examples"])
                raise _Undone

    def assert_has_the_same_fields(self, told: Any, shown: dict[str, Any]) -> None:
        example = next(iter(shown.values()))["value"]
        if isinstance(told, list) and isinstance(example, list) and told and example:
            told, example = told[0], example[0]
        if isinstance(told, dict) and isinstance(example, dict):
            self.assertEqual(set(told), set(example))


class _Undone(Exception):
    """Takes back what a request did."""


def _is_shown(path: str, operation: dict[str, Any]) -> bool:
    """Tell whether the rows above are enough for an example: it is of the API, and not about spend."""
    is_report = re.search("spend|activity|audit/", path.removesuffix("/reset_spend"))
    is_elsewhere = operation["tags"][0] in ("Proxied calls", "Spend")
    return bool(operation["security"]) and not is_elsewhere and not is_report
