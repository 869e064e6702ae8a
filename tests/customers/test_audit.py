"""The audit log: every write by staff leaves an entry, with who did it and without secrets."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import transaction
from django.test import TestCase
from django.utils import timezone

from billing.models import Price
from billing.tasks import housekeeping
from customers.actors import Actor, acting
from customers.api.idempotency import KEEP
from customers.models import (
    AuditLog,
    Budget,
    Customer,
    IdempotentAnswer,
    Tag,
    Team,
    TeamMembership,
    User,
    VirtualKey,
)
from customers.services import create_key, rotate_key, set_customers_blocked
from proxy.models import Deployment, Upstream
from tests.admin_pages import AdminTestCase
from tests.billing.making import book_calls, make_call

MASTER = {"authorization": f"Bearer {settings.MASTER_KEY}"}
SECRET = "sk-secret-of-the-provider"


def latest(kind: str = "customers.tag") -> AuditLog:
    return AuditLog.objects.filter(kind=kind).latest("id")


def make_upstream(**fields: Any) -> Upstream:
    given = {"name": "openai", "provider": "openai", "openai_base_url": "https://api.openai.com/v1"}
    return Upstream.objects.create(**{**given, **fields})


class WhoTests(AdminTestCase):
    """Alice is logged into the admin."""

    def by_api(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        return self.client.post(path, json.dumps(body), content_type="application/json", headers=headers)

    def test_the_master_key_is_told_as_it_is_called(self):
        self.by_api("/tag/new", {"name": "a"}, MASTER)

        entry = latest()
        self.assertEqual(
            (entry.via, entry.user_id, entry.actor, entry.action, entry.object_id, entry.address),
            ("api", "default_user_id", "master key", "created", "a", "127.0.0.1"),
        )

    def test_a_key_is_told_with_its_user_and_the_header_s_name(self):
        user = User.objects.create(username="root", role=User.Role.PROXY_ADMIN)
        _, secret = create_key(user=user, alias="deploy bot")
        headers = {"authorization": f"Bearer {secret}", "litellm-changed-by": "carol@example.com"}

        self.by_api("/tag/new", {"name": "a"}, headers)

        entry = latest()
        self.assertEqual(
            (entry.user_id, entry.actor, entry.changed_by), (user.pk, "deploy bot", "carol@example.com")
        )
        self.assertEqual(Tag.objects.get().created_by, "carol@example.com")

    def test_whoever_is_logged_in_is_told(self):
        form = {"name": "a", "description": "by hand", "budget": ""}
        self.client.post(self.url(Tag, "add"), form)

        entry = latest()
        self.assertEqual(
            (entry.via, entry.user_id, entry.actor, entry.address),
            ("admin", self.alice.pk, "alice", "127.0.0.1"),
        )
        self.client.post(self.url(Tag, "change", "a"), {**form, "description": "again"})
        entry = latest()
        self.assertEqual((entry.before, entry.after), ({"description": "by hand"}, {"description": "again"}))
        self.client.post(self.url(Tag, "delete", "a"), {"post": "yes"})
        self.assertEqual((latest().action, latest().actor), ("deleted", "alice"))

    def test_actions_of_the_admin_are_told_too(self):
        Customer.objects.create(id="acme")

        self.client.post(self.url(Customer, "changelist"), {"action": "block", "_selected_action": ["acme"]})

        entry = latest("customers.customer")
        self.assertEqual((entry.actor, entry.after), ("alice", {"blocked": True}))

    def test_a_log_in_to_the_admin_does_not_speak_for_a_key(self):
        """A browser that sends both is the key."""
        self.by_api("/tag/new", {"name": "a"}, MASTER)

        self.assertEqual((latest().via, latest().actor), ("api", "master key"))

    def test_who_is_told_ends_with_the_request(self):
        self.by_api("/tag/new", {"name": "a"}, MASTER)
        Tag.objects.create(name="b")

        self.assertEqual((latest().object_id, latest().via), ("b", "system"))

    def test_a_command_is_told_by_its_name(self):
        with acting(Actor("command", name="import_tags")):
            Tag.objects.create(name="a")

        self.assertEqual((latest().via, latest().actor), ("command", "import_tags"))

    def test_without_anybody_it_is_the_system(self):
        call_command(
            "createsuperuser", username="eve", email="e@x.test", interactive=False, stdout=StringIO()
        )

        self.assertEqual((latest("customers.user").via, latest("customers.user").actor), ("system", "system"))

    def test_a_log_in_is_no_change(self):
        before = AuditLog.objects.count()
        self.client.logout()

        self.client.post("/admin/login/", {"username": "alice", "password": "correct horse"})

        self.assertTrue(self.client.get("/admin/").wsgi_request.user.is_authenticated)
        self.assertEqual(AuditLog.objects.count(), before)


class WhatTests(TestCase):
    def test_every_kind_of_row_leaves_an_entry_when_made_changed_and_deleted(self):
        team, user = Team.objects.create(id="t"), User.objects.create(username="u")
        upstream = make_upstream()
        rows = [
            (Budget(max_budget=Decimal(5)), {"max_budget": Decimal(6)}),
            (Customer(id="c"), {"alias": "C"}),
            (Tag(name="g"), {"description": "d"}),
            (Team(id="t2"), {"alias": "T"}),
            (User(username="u2"), {"alias": "U"}),
            (TeamMembership(team=team, user=user), {"role": "admin"}),
            (VirtualKey(token_hash="0" * 64, display_name="sk-...0000"), {"alias": "k"}),
            (Price(provider="p", model="m", input_per_mtok_usd=1), {"output_per_mtok_usd": Decimal(2)}),
            (Upstream(name="u", provider="p", openai_base_url="https://x.test"), {"region": "eu"}),
            (Deployment(model_name="m", upstream=upstream), {"weight": 2}),
        ]
        for row, changed in rows:
            with self.subTest(type(row).__name__):
                row.save()
                object_id = str(row.pk)
                for name, value in changed.items():
                    setattr(row, name, value)
                row.save(update_fields=list(changed))
                row.delete()

                entries = AuditLog.objects.filter(kind=row._meta.label_lower, object_id=object_id)
                self.assertEqual(
                    list(entries.order_by("id").values_list("action", flat=True)),
                    ["created", "updated", "deleted"],
                )
                updated = entries.get(action="updated")
                self.assertEqual((set(updated.before), set(updated.after)), (set(changed), set(changed)))

    def test_secrets_are_in_no_entry(self):
        upstream = make_upstream(
            credential=SECRET,
            headers={"x-token": SECRET},
            openai_base_url="https://user:hunter2@gate.test/v1",
        )
        upstream.credential = SECRET + "2"
        upstream.save()
        key, secret = create_key(alias="k")
        hashes = {key.token_hash}
        rotated = rotate_key(key=key)
        hashes.add(key.token_hash)
        user = User.objects.create_user("eve", password="correct horse")
        user.set_password("battery staple")
        user.save()
        told = json.dumps(list(AuditLog.objects.values("before", "after")))

        for hidden in (SECRET, secret, rotated, *hashes, "hunter2", user.password):
            self.assertNotIn(hidden, told)
        self.assertEqual(latest("proxy.upstream").after, {"credential": "(hidden)"})
        self.assertIn("https://(hidden)@gate.test/v1", told)
        self.assertEqual(latest("customers.user").after, {"password": "(hidden)"})

    def test_writes_of_many_rows_are_told_one_by_one(self):
        Customer.objects.bulk_create(Customer(id=f"c{number}") for number in range(3))

        set_customers_blocked(ids=["c0", "c2"], blocked=True)

        entries = AuditLog.objects.filter(kind="customers.customer")
        self.assertEqual(entries.filter(action="created").count(), 3)
        blocked = entries.filter(action="updated")
        self.assertEqual(sorted(blocked.values_list("object_id", flat=True)), ["c0", "c2"])
        self.assertEqual(blocked[0].after, {"blocked": True})

    def test_very_many_are_one_entry_with_their_number(self):
        Customer.objects.bulk_create(Customer(id=f"c{number}") for number in range(1001))

        Customer.objects.update(blocked=True)

        entry = latest("customers.customer")
        self.assertEqual((entry.object_id, entry.after), ("", {"rows": 1001, "fields": ["blocked"]}))

    def test_what_changes_nothing_is_not_told(self):
        tag = Tag.objects.create(name="a")
        before = AuditLog.objects.count()

        tag.save()
        Tag.objects.filter(name="a").update(description="")
        Tag.objects.filter(name="none").delete()

        self.assertEqual(AuditLog.objects.count(), before)

    def test_what_is_rolled_back_leaves_none(self):
        with self.assertRaises(RuntimeError), transaction.atomic():
            Tag.objects.create(name="a")
            raise RuntimeError

        self.assertFalse(AuditLog.objects.exists() or Tag.objects.exists())

    def test_a_refused_call_leaves_none(self):
        body = json.dumps({"name": "a", "max_budget": -1})
        response = self.client.post("/tag/new", body, content_type="application/json", headers=MASTER)

        self.assertEqual(response.status_code, 400)
        self.assertFalse(AuditLog.objects.exists())

    def test_customers_that_appear_with_a_call_leave_none(self):
        book_calls(make_call(customer_id="from-a-call"))

        self.assertTrue(Customer.objects.filter(pk="from-a-call").exists())
        self.assertFalse(AuditLog.objects.filter(kind="customers.customer").exists())


class ReadTests(TestCase):
    """GET /audit."""

    def setUp(self):
        with acting(Actor("admin", user_id="alice", name="alice", address="10.0.0.7")):
            self.tag = Tag.objects.create(name="a")
            Customer.objects.create(id="a", alias="Acme")
        with acting(Actor("api", name="bot", changed_by="carol")):
            self.tag.description = "d"
            self.tag.save()
            self.tag.delete()

    def get(self, headers: dict[str, str] = MASTER, **query: Any) -> Any:
        return self.client.get("/audit", query, headers=headers)

    def listed(self, **query: Any) -> list[tuple[str, str]]:
        response = self.get(**query)
        self.assertEqual(response.status_code, 200, response.content)
        return [(entry["object_type"], entry["action"]) for entry in response.json()["audit_logs"]]

    def test_an_entry_says_who_what_and_when(self):
        body = self.get(object_type="customer", object_id="a").json()

        self.assertEqual(
            {name: body[name] for name in ("total", "page", "page_size", "total_pages")},
            {"total": 1, "page": 1, "page_size": 50, "total_pages": 1},
        )
        entry = body["audit_logs"][0]
        expected = {
            "changed_by": "alice",
            "action": "created",
            "table_name": "LiteLLM_EndUserTable",
            "object_id": "a",
            "before_value": None,
            "object_name": "Acme",
            "via": "admin",
            "address": "10.0.0.7",
        }
        self.assertEqual({name: entry[name] for name in expected}, expected)
        self.assertEqual(entry["updated_values"]["alias"], "Acme")
        self.assertTrue(entry["updated_at"].endswith("Z"))
        self.assertEqual(self.client.get(f"/audit/{entry['id']}", headers=MASTER).json(), entry)

    def test_it_can_be_narrowed(self):
        tag = "customers.tag"
        for query, expected in (
            (
                {"object_id": "a", "object_type": "tag"},
                [(tag, "deleted"), (tag, "updated"), (tag, "created")],
            ),
            ({"object_type": "LiteLLM_TagTable", "action": "updated"}, [(tag, "updated")]),
            ({"object_type": "customers.tag", "changed_by": "carol"}, [(tag, "deleted"), (tag, "updated")]),
            ({"object_type": "tag", "changed_by": "alice"}, [(tag, "created")]),
            ({"object_type": "key"}, []),
            ({"object_id": "none"}, []),
            ({"object_type": "tag", "page": 2, "page_size": 2}, [(tag, "created")]),
            ({"start_date": "2999-01-01"}, []),
            ({"end_date": "1999-01-01"}, []),
        ):
            with self.subTest(query):
                self.assertEqual(self.listed(**query), expected)
        self.assertEqual(len(self.listed(object_id="a")), 4)
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        self.assertEqual(len(self.listed(start_date=today, end_date="9999-12-31")), 4)

    def test_a_key_is_found_by_its_hash(self):
        key, _ = create_key()

        self.assertEqual(
            self.listed(object_type="key", object_id=key.token_hash), [("customers.virtualkey", "created")]
        )

    def test_bad_input_is_refused(self):
        self.assertEqual(self.get(object_type="elephant").status_code, 400)
        for query in (
            {"page": 0},
            {"page_size": 501},
            {"action": "x"},
            {"start_date": "x"},
            {"object_id": "\0"},
        ):
            self.assertEqual(self.get(**query).status_code, 422, query)
        for named in ("0", "9" * 19, "9" * 40):
            self.assertEqual(self.client.get(f"/audit/{named}", headers=MASTER).status_code, 404)

    def test_only_who_runs_the_gateway_reads_it(self):
        for role, status in (
            (User.Role.PROXY_ADMIN, 200),
            (User.Role.PROXY_ADMIN_VIEWER, 200),
            (User.Role.INTERNAL_USER, 403),
            (User.Role.INTERNAL_USER_VIEWER, 403),
        ):
            user = User.objects.create(username=uuid.uuid4().hex, role=role)
            _, secret = create_key(user=user)

            self.assertEqual(self.get({"authorization": f"Bearer {secret}"}).status_code, status, role)
        self.assertEqual(self.client.get("/audit").status_code, 401)

    def test_it_makes_two_queries(self):
        with self.assertNumQueries(2):
            self.get()


class PageTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        with acting(Actor("api", user_id="u-1", name="<b>bot</b>", changed_by="carol", address="10.0.0.7")):
            self.budget = Budget.objects.create(id="tier", max_budget=Decimal(5), budget_duration="1mo")
            self.budget.max_budget = Decimal("6.25")
            self.budget.rpm_limit = 60
            self.budget.save()
            Tag.objects.create(name="a", description="<script>")
            Tag.objects.get().delete()
        make_upstream(credential=SECRET).delete()

    def list_page(self, **query: str) -> Any:
        response = self.client.get(self.url(AuditLog, "changelist"), query)
        self.assertEqual(response.status_code, 200)
        return response

    def entries(self, **query: str) -> list[AuditLog]:
        return list(self.list_page(**query).context["cl"].result_list)

    def test_the_list_tells_each_change_in_words(self):
        response = self.list_page()

        self.assertContains(response, "max budget, USD: $5.00 → $6.25; requests per minute: - → 60")
        self.assertContains(response, "&lt;b&gt;bot&lt;/b&gt;, for carol")
        self.assertContains(response, "max budget, USD: $5.00; budget duration: 1mo")
        self.assertContains(response, self.url(Budget, "change", "tier"))
        self.assertNotContains(response, "<b>bot</b>")
        self.assertNotContains(response, SECRET)

    def test_it_is_narrowed_by_kind_action_way_and_who(self):
        for query, count in (
            ({"kind": "customers.tag"}, 2),
            ({"kind": "customers.tag", "action__exact": "deleted"}, 1),
            ({"via": "admin"}, 0),
            ({"who": "carol", "kind": "customers.budget"}, 2),
            ({"who": "u-1", "kind": "customers.budget"}, 2),
            ({"who": "nobody"}, 0),
            ({"who": "a\0b"}, 0),
            ({"q": "tier"}, 2),
            ({"q": "tie"}, 0),
            ({"q": "a" * 300}, 0),
        ):
            with self.subTest(query):
                self.assertEqual(len(self.entries(**query)), count)

    def test_an_entry_s_page_shows_before_and_after(self):
        entry = latest("customers.budget")

        response = self.client.get(self.url(AuditLog, "change", entry.pk))

        self.assertContains(response, "What changed")
        for text in ("$5.00", "$6.25", "max budget, USD", "10.0.0.7"):
            self.assertContains(response, text)
        for kind in ("customers.tag", "proxy.upstream"):
            page = self.client.get(self.url(AuditLog, "change", latest(kind).pk))
            self.assertContains(page, "What it was")
            self.assertNotContains(page, SECRET)
            self.assertNotContains(page, "<script>&")
        self.assertContains(page, "(hidden)")

    def test_nobody_writes_it_by_hand(self):
        entry = latest("customers.budget")
        count = AuditLog.objects.count()

        self.assertEqual(self.client.get(self.url(AuditLog, "add")).status_code, 403)
        self.assertEqual(
            self.client.post(self.url(AuditLog, "delete", entry.pk), {"post": "yes"}).status_code, 403
        )
        self.client.post(self.url(AuditLog, "change", entry.pk), {"actor": "nobody"})

        entry.refresh_from_db()
        self.assertEqual((AuditLog.objects.count(), entry.actor), (count, "<b>bot</b>"))

    def test_a_row_s_history_is_that_of_the_audit_log(self):
        response = self.client.get(self.url(Budget, "history", "tier"))

        self.assertContains(response, "max budget, USD: $5.00 → $6.25")
        self.assertContains(response, "&lt;b&gt;bot&lt;/b&gt;, for carol")
        fresh = Customer.objects.create(id="seen")
        AuditLog.objects.all().delete()
        self.assertContains(
            self.client.get(self.url(Customer, "history", fresh.pk)), "No change has been noted"
        )

    def test_it_takes_a_fixed_number_of_queries(self):
        self.list_page()
        with self.assertNumQueries(4):
            self.list_page()
        Tag.objects.bulk_create(Tag(name=f"t{number}") for number in range(20))

        with self.assertNumQueries(4):
            self.list_page()

    def test_charlie_may_not_see_it(self):
        self.log_in_charlie()

        self.assertEqual(self.client.get(self.url(AuditLog, "changelist")).status_code, 403)
        self.assertEqual(self.client.get(self.url(Budget, "history", "tier")).status_code, 403)


class HousekeepingTests(TestCase):
    def test_answers_to_be_repeated_are_forgotten_after_a_day_and_entries_never(self):
        Tag.objects.create(name="a")
        AuditLog.objects.update(at=timezone.now() - timedelta(days=4000))
        for name in ("old", "new"):
            IdempotentAnswer.objects.create(caller="master", key=name, request_hash="x")
        IdempotentAnswer.objects.filter(key="old").update(
            created_at=timezone.now() - KEEP - timedelta(minutes=1)
        )

        housekeeping()

        self.assertEqual(list(IdempotentAnswer.objects.values_list("key", flat=True)), ["new"])
        self.assertEqual(AuditLog.objects.count(), 1)
