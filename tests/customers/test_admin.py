"""The admin of customers, keys, teams, users, tags and budgets."""

import re
from decimal import Decimal
from unittest import mock

from django.contrib.messages import get_messages
from django.utils import timezone

from billing.models import HolderType, SpendTotal
from customers.keys import hash_secret
from customers.models import Budget, Customer, Tag, Team, TeamMembership, User, VirtualKey
from customers.services import create_key, delete_customers
from tests.admin_pages import NOON, AdminTestCase, make_log

HOSTILE = "<script>alert('x')</script>{{7*7}}"


def make_total(holder_type: HolderType, holder_id: str, spend: str, **fields) -> SpendTotal:
    amounts = {"cost": Decimal(spend), "charge": Decimal(spend), "calls": 1, "last_call_at": NOON}
    return SpendTotal.objects.create(
        holder_type=holder_type, holder_id=holder_id, **{**amounts, **fields}
    )  # fmt: skip


class PagesTests(AdminTestCase):
    def test_every_page_answers_while_there_is_nothing(self):
        for app_label in ("customers", "auth", "axes"):
            self.assert_every_page_answers(app_label)

    def test_every_page_answers_with_rows(self):
        budget = Budget.objects.create(id="free", max_budget=Decimal(5))
        customer = Customer.objects.create(id="ada", budget=budget)
        team = Team.objects.create(id="research")
        TeamMembership.objects.create(team=team, user=self.charlie)
        Tag.objects.create(name="blue")
        create_key(alias="shop", team=team, user=self.charlie, payer_policy="fixed", customer=customer)

        self.assert_every_page_answers("customers")

    def test_an_empty_list_says_how_rows_come_to_be(self):
        response = self.client.get(self.url(Customer, "changelist"))

        self.assertContains(response, "Customers appear by themselves with their first call")

    def test_charlie_sees_no_list_and_no_link_to_one(self):
        self.log_in_charlie()

        for model in (Customer, VirtualKey, Team, User, Tag, Budget):
            with self.subTest(model=model.__name__):
                self.assertEqual(self.client.get(self.url(model, "changelist")).status_code, 403)
        self.assertNotContains(self.client.get("/admin/"), self.url(Customer, "changelist"))

    def test_what_callers_send_is_escaped_everywhere(self):
        customer = Customer.objects.create(id=HOSTILE, alias=HOSTILE)
        make_log(customer=customer, model=HOSTILE, tags=[HOSTILE], error_message=HOSTILE, client_tool=HOSTILE)
        log = customer.spend_logs.get()

        pages = (
            self.url(Customer, "changelist"),
            self.url(Customer, "change", "_3Cscript_3Ealert('x')_3C_2Fscript_3E{{7*7}}"),
            self.url(type(log), "changelist"),
            self.url(type(log), "change", log.pk),
            "/admin/",
        )
        for page in pages:
            with self.subTest(page=page):
                response = self.client.get(page)
                self.assertContains(response, "&lt;script&gt;alert(")
                self.assertNotContains(response, "<script>alert(")


class CustomerListTests(AdminTestCase):
    def setUp(self):
        super().setUp()
        for name in ("a-none", "b-little", "c-much", "d-none"):
            Customer.objects.create(id=name)
        make_total(HolderType.CUSTOMER, "b-little", "0.000046", calls=3)
        make_total(HolderType.CUSTOMER, "c-much", "1234.5", calls=9)
        make_total(HolderType.KEY, "a-none", "999")  # another holder that happens to have the id

    def listed(self, query: str = "") -> list[str]:
        response = self.client.get(self.url(Customer, "changelist") + query)
        return [customer.pk for customer in response.context["cl"].result_list]

    def test_it_shows_exact_spend_in_a_fixed_number_of_queries(self):
        self.client.get(self.url(Customer, "changelist"))

        with self.assertNumQueries(6):  # session, user, the capped count, the page, default, budget periods
            response = self.client.get(self.url(Customer, "changelist"))

        self.assertContains(response, "$0.000046")
        self.assertContains(response, "$1,234.50")
        self.assertNotContains(response, "$999")

    def test_it_sorts_by_spend_and_those_who_never_called_come_last(self):
        spend = 1 + list(self.admin_columns()).index("spend")

        self.assertEqual(self.listed(f"?o=-{spend}"), ["c-much", "b-little", "d-none", "a-none"])
        self.assertEqual(self.listed(f"?o={spend}"), ["b-little", "c-much", "d-none", "a-none"])

    def test_it_sorts_by_last_seen(self):
        last_seen = 1 + list(self.admin_columns()).index("last_seen")
        SpendTotal.objects.filter(holder_id="b-little").update(last_call_at=timezone.now())

        self.assertEqual(self.listed(f"?o=-{last_seen}")[:2], ["b-little", "c-much"])

    def test_its_pages_by_spend_have_every_customer_once(self):
        spend = 1 + list(self.admin_columns()).index("spend")
        Customer.objects.bulk_create([Customer(id=f"e-{number}") for number in range(100)])

        pages = [self.listed(f"?o=-{spend}&p={page}") for page in (1, 2, 3)]

        self.assertEqual([len(page) for page in pages], [50, 50, 4])
        self.assertEqual(len({pk for page in pages for pk in page}), 104)

    def admin_columns(self) -> tuple[str, ...]:
        return self.client.get(self.url(Customer, "changelist")).context["cl"].model_admin.list_display

    def test_it_finds_by_the_beginning_of_the_id_and_by_name(self):
        Customer.objects.filter(pk="a-none").update(alias="Ada Lovelace")

        self.assertEqual(self.listed("?q=c-mu"), ["c-much"])
        self.assertEqual(self.listed("?q=lovelace"), ["a-none"])
        self.assertEqual(self.listed("?q=a%C2%85"), [])

    def test_it_filters_the_blocked(self):
        Customer.objects.filter(pk="c-much").update(blocked=True)

        self.assertEqual(self.listed("?blocked__exact=1"), ["c-much"])

    def test_it_counts_no_further_than_the_cap(self):
        with mock.patch("customers.admin.paging.CAP", 2):
            response = self.client.get(self.url(Customer, "changelist"))

        self.assertEqual(response.context["cl"].paginator.count, 2)
        self.assertContains(response, "more than 2")


class CustomerTests(AdminTestCase):
    def form(self, **fields) -> dict:
        return {"alias": "", "default_model": "", "allowed_model_region": "", "metadata": "{}", **fields}

    def test_its_page_shows_totals_and_latest_calls_with_a_link_to_the_logs(self):
        customer = Customer.objects.create(id="ada")
        make_total(HolderType.CUSTOMER, "ada", "2.50", unpriced_calls=1)
        log = make_log(customer=customer, cost=Decimal("0.5"))

        response = self.client.get(self.url(Customer, "change", "ada"))

        self.assertContains(response, "$2.50")
        self.assertContains(response, "Unpriced calls, not in the spend")
        self.assertContains(response, self.url(type(log), "change", log.pk))
        self.assertContains(response, "/admin/billing/spendlog/?customer=ada")

    def test_its_id_is_written_once(self):
        self.client.post(self.url(Customer, "add"), self.form(id="ada"))
        self.client.post(self.url(Customer, "change", "ada"), self.form(id="eve", alias="Ada"))

        self.assertEqual(list(Customer.objects.values_list("id", "alias")), [("ada", "Ada")])

    def test_it_refuses_an_id_with_a_control_character(self):
        response = self.client.post(self.url(Customer, "add"), self.form(id="a\u0085da"))

        self.assertContains(response, "without control characters")
        self.assertFalse(Customer.objects.exists())

    def test_a_form_writes_back_nothing_that_it_did_not_change(self):
        Customer.objects.create(id="ada", alias="Ada")
        slow = self.url(Customer, "change", "ada")
        Customer.objects.filter(pk="ada").update(default_model="demo")

        self.client.post(slow, self.form(alias="Countess", default_model="demo"))

        self.assertEqual(Customer.objects.values_list("alias", "default_model").get(), ("Countess", "demo"))

    def test_cleared_metadata_is_an_empty_object(self):
        Customer.objects.create(id="ada", metadata={"plan": "pro"})

        self.client.post(self.url(Customer, "change", "ada"), self.form(metadata=""))

        self.assertEqual(Customer.objects.get().metadata, {})

    def test_metadata_must_be_an_object(self):
        Customer.objects.create(id="ada")

        response = self.client.post(self.url(Customer, "change", "ada"), self.form(metadata="[1]"))

        self.assertContains(response, "Write a JSON object")

    def test_the_action_blocks_and_says_how_many(self):
        for name in ("ada", "bob"):
            Customer.objects.create(id=name)
        Customer.objects.create(id="eve", blocked=True)
        chosen = {"action": "block", "_selected_action": ["ada", "eve"]}

        response = self.client.post(self.url(Customer, "changelist"), chosen)

        self.assertEqual(
            set(Customer.objects.filter(blocked=True).values_list("pk", flat=True)), {"ada", "eve"}
        )
        self.assertIn("1 blocked", str(next(iter(get_messages(response.wsgi_request)))))

    def test_deleting_hides_it_and_keeps_everything(self):
        customer = Customer.objects.create(id="ada", blocked=True)
        create_key(alias="shop", payer_policy="fixed", customer=customer)
        make_log(customer=customer)
        make_total(HolderType.CUSTOMER, "ada", "2.50")

        self.assertContains(self.client.get(self.url(Customer, "delete", "ada")), "Its id stays reserved")
        self.client.post(self.url(Customer, "delete", "ada"), {"post": "yes"})

        customer.refresh_from_db()
        self.assertIsNotNone(customer.deleted_at)
        self.assertTrue(customer.blocked)
        self.assertEqual(SpendTotal.objects.get().charge, Decimal("2.50"))
        self.assertNotContains(self.client.get(self.url(Customer, "changelist")), ">ada<")
        self.assertContains(self.client.get(self.url(Customer, "changelist") + "?deleted=only"), ">ada<")
        self.assertContains(
            self.client.post(self.url(Customer, "add"), self.form(id="ada")), "already exists"
        )  # fmt: skip

    def test_deleting_the_selected_ones_is_the_same(self):
        Customer.objects.create(id="ada")

        self.client.post(
            self.url(Customer, "changelist"),
            {"action": "delete_selected", "_selected_action": ["ada"], "post": "yes"},
        )

        self.assertIsNotNone(Customer.objects.get().deleted_at)

    def test_forms_do_not_offer_the_deleted(self):
        for name in ("ada", "adele"):
            Customer.objects.create(id=name)
        delete_customers(ids=["adele"], at=NOON)
        field = {"app_label": "customers", "model_name": "virtualkey", "field_name": "customer", "term": "ad"}

        response = self.client.get("/admin/autocomplete/", field)

        self.assertEqual([row["id"] for row in response.json()["results"]], ["ada"])


class VirtualKeyTests(AdminTestCase):
    def form(self, **fields) -> dict:
        return {
            "alias": "shop",
            "payer_policy": "trusted",
            "allowed_models": "",
            "model_aliases": "{}",
            "key_type": "default",
            "allowed_routes": "",
            "tags": "",
            "metadata": "{}",
            **fields,
        }

    def secret_in(self, response) -> str:
        return re.search(r'id="secret" type="text" value="(sk-[\w-]+)"', response.content.decode())[1]

    def test_the_list_makes_a_fixed_number_of_queries(self):
        team = Team.objects.create(id="research")
        keys = [create_key(alias=f"key {number}", team=team, user=self.charlie)[0] for number in range(3)]
        make_total(HolderType.KEY, str(keys[0].pk), "7.25")
        self.client.get(self.url(VirtualKey, "changelist"))

        with self.assertNumQueries(4):  # session, user, the capped count, the page
            response = self.client.get(self.url(VirtualKey, "changelist"))

        self.assertContains(response, "$7.25")

    def test_a_new_key_may_be_confined_to_routes_and_have_names_for_models(self):
        fields = self.form(
            key_type="management",
            allowed_routes="/customer/*\ninfo_routes",
            model_aliases='{"fast": "gpt-4o"}',
        )

        self.secret_in(self.client.post(self.url(VirtualKey, "add"), fields))

        key = VirtualKey.objects.get()
        self.assertEqual(
            (key.key_type, key.allowed_routes, key.model_aliases),
            ("management", ["/customer/*", "info_routes"], {"fast": "gpt-4o"}),
        )

    def test_routes_and_names_that_are_none_are_refused(self):
        for wrong, said in (
            ({"allowed_routes": "customer"}, "neither a path"),
            ({"model_aliases": '{"fast": 4}'}, "Write names of models"),
            ({"model_aliases": "[]"}, "Write a JSON object"),
        ):
            with self.subTest(wrong):
                response = self.client.post(self.url(VirtualKey, "add"), self.form(**wrong))
                self.assertContains(response, said)
        self.assertFalse(VirtualKey.objects.exists())

    def test_a_new_key_shows_its_secret_once(self):
        response = self.client.post(self.url(VirtualKey, "add"), self.form())

        secret, key = self.secret_in(response), VirtualKey.objects.get()
        self.assertEqual(key.token_hash, hash_secret(secret))
        self.assertIn("no-store", response["Cache-Control"])
        self.assertNotIn(secret, str(response.cookies))
        self.assertNotIn(secret, str(dict(self.client.session)))
        for page in (self.url(VirtualKey, "changelist"), *self.pages_of(key)):
            self.assertNotContains(self.client.get(page), secret)

    def pages_of(self, key: VirtualKey) -> list[str]:
        return [self.url(VirtualKey, page, key.pk) for page in ("change", "history", "delete", "rotate")]

    def test_lists_are_written_one_name_per_line(self):
        models = "gpt-4o\r\n\r\n  demo \r\ngpt-4o"

        self.client.post(self.url(VirtualKey, "add"), self.form(allowed_models=models, tags="blue"))

        key = VirtualKey.objects.get()
        self.assertEqual((key.allowed_models, key.tags), (["gpt-4o", "demo"], ["blue"]))

    def test_it_refuses_names_that_are_none(self):
        for names in ("x" * 256, "a\u0085b"):
            with self.subTest(names=names[:3]):
                response = self.client.post(self.url(VirtualKey, "add"), self.form(tags=names))
                self.assertContains(response, "is no name")
        self.assertFalse(VirtualKey.objects.exists())

    def test_two_keys_may_have_no_name(self):
        for _ in range(2):
            self.client.post(self.url(VirtualKey, "add"), self.form(alias=""))

        self.assertEqual(VirtualKey.objects.filter(alias=None).count(), 2)

    def test_a_fixed_payer_needs_a_customer(self):
        response = self.client.post(self.url(VirtualKey, "add"), self.form(payer_policy="fixed"))

        self.assertContains(response, "needs a customer")

    def test_editing_keeps_the_secret(self):
        key, secret = create_key(alias="shop")

        self.client.post(self.url(VirtualKey, "change", key.pk), self.form(alias="web shop", blocked="on"))

        key.refresh_from_db()
        self.assertEqual((key.alias, key.blocked, key.token_hash), ("web shop", True, hash_secret(secret)))

    def test_rotating_asks_first_and_then_shows_the_new_secret_once(self):
        key, old = create_key(alias="shop")
        rotate = self.url(VirtualKey, "rotate", key.pk)

        self.assertContains(self.client.get(rotate), "stops working")
        key.refresh_from_db()
        self.assertEqual(key.token_hash, hash_secret(old))
        response = self.client.post(rotate)

        key.refresh_from_db()
        new = self.secret_in(response)
        self.assertNotEqual(new, old)
        self.assertEqual(key.token_hash, hash_secret(new))
        self.assertNotContains(self.client.get(self.url(VirtualKey, "history", key.pk)), new)

    def test_charlie_cannot_rotate(self):
        key, secret = create_key(alias="shop")
        self.log_in_charlie()

        response = self.client.post(self.url(VirtualKey, "rotate", key.pk))

        key.refresh_from_db()
        self.assertEqual((response.status_code, key.token_hash), (403, hash_secret(secret)))

    def test_deleting_retires_it(self):
        key, _ = create_key(alias="shop")

        self.client.post(self.url(VirtualKey, "delete", key.pk), {"post": "yes"})

        key.refresh_from_db()
        self.assertTrue(key.blocked)
        self.assertIsNotNone(key.deleted_at)
        self.assertEqual(self.client.get(self.url(VirtualKey, "rotate", key.pk)).status_code, 404)


class TeamTests(AdminTestCase):
    def test_the_list_counts_members_and_keys_in_a_fixed_number_of_queries(self):
        for name in ("research", "sales"):
            team = Team.objects.create(id=name)
            TeamMembership.objects.create(team=team, user=self.alice)
            TeamMembership.objects.create(team=team, user=self.charlie)
            create_key(alias=name, team=team)
        self.client.get(self.url(Team, "changelist"))

        with self.assertNumQueries(5):  # session, user, two counts, the page
            response = self.client.get(self.url(Team, "changelist"))

        self.assertEqual(
            [(t.member_count, t.key_count) for t in response.context["cl"].result_list], [(2, 1)] * 2
        )

    def test_nobody_is_on_it_twice(self):
        team = Team.objects.create(id="research")
        TeamMembership.objects.create(team=team, user=self.charlie)
        members = {"TOTAL_FORMS": 1, "INITIAL_FORMS": 0, "0-user": self.charlie.pk, "0-role": "admin"}
        form = {"alias": "Research", "allowed_models": "", "tags": "", "metadata": "{}"}

        response = self.client.post(
            self.url(Team, "change", team.pk),
            {**form, **{f"memberships-{name}": value for name, value in members.items()}},
        )

        self.assertContains(response, "on the team already")

    def test_members_are_edited_on_its_page(self):
        team = Team.objects.create(id="research")
        members = {"TOTAL_FORMS": 1, "INITIAL_FORMS": 0, "0-user": self.charlie.pk, "0-role": "admin"}
        form = {"alias": "Research", "allowed_models": "demo", "tags": "", "metadata": "{}"}

        self.client.post(
            self.url(Team, "change", team.pk),
            {**form, **{f"memberships-{name}": value for name, value in members.items()}},
        )

        self.assertEqual(TeamMembership.objects.get().user, self.charlie)
        self.assertEqual(Team.objects.get().allowed_models, ["demo"])


class UserTests(AdminTestCase):
    def test_a_user_is_made_with_a_password(self):
        password = "a long enough one 42"

        self.client.post(
            self.url(User, "add"),
            {"username": "bob", "usable_password": "true", "password1": password, "password2": password,
             "alias": "Bob", "email": "bob@example.com", "role": "internal_user"},
        )  # fmt: skip

        bob = User.objects.get(username="bob")
        self.assertTrue(bob.check_password(password))
        self.assertEqual(bob.alias, "Bob")

    def test_a_password_can_be_changed(self):
        password = "another long one 42"

        response = self.client.post(
            f"/admin/customers/user/{self.charlie.pk}/password/",
            {"usable_password": "true", "password1": password, "password2": password},
        )

        self.charlie.refresh_from_db()
        self.assertEqual(response.status_code, 302)
        self.assertTrue(self.charlie.check_password(password))

    def test_deleting_keeps_the_row_and_stops_its_keys_and_its_log_in(self):
        key, _ = create_key(user=self.charlie)

        page = self.client.get(self.url(User, "delete", self.charlie.pk))
        self.client.post(self.url(User, "delete", self.charlie.pk), {"post": "yes"})

        self.assertContains(page, "Its keys stop working")
        self.charlie.refresh_from_db()
        key.refresh_from_db()
        self.assertFalse(self.charlie.is_active)
        self.assertIsNotNone(self.charlie.deleted_at)
        self.assertIsNotNone(key.deleted_at)
        self.assertNotContains(self.client.get(self.url(User, "changelist")), self.charlie.pk)

    def test_the_last_superuser_cannot_be_deleted(self):
        admin = User.objects.get(is_superuser=True)

        page = self.client.get(self.url(User, "delete", admin.pk))
        self.client.post(self.url(User, "delete", admin.pk), {"post": "yes"})
        chosen = {"action": "delete_selected", "_selected_action": [admin.pk, self.charlie.pk], "post": "yes"}
        self.client.post(self.url(User, "changelist"), chosen)

        self.assertContains(page, "the last superuser")
        self.assertFalse(User.objects.exclude(deleted_at=None).exists())

    def test_role_and_models_are_edited_and_the_password_stays(self):
        self.client.post(
            self.url(User, "change", self.charlie.pk),
            {"username": "charlie", "role": "proxy_admin_viewer", "allowed_models": "demo", "metadata": "{}",
             "is_active": "on"},
        )  # fmt: skip

        self.charlie.refresh_from_db()
        self.assertEqual((self.charlie.role, self.charlie.allowed_models), ("proxy_admin_viewer", ["demo"]))
        self.assertTrue(self.charlie.check_password("battery staple"))

    def test_the_list_makes_a_fixed_number_of_queries(self):
        self.client.get(self.url(User, "changelist"))

        with self.assertNumQueries(5):  # session, user, two counts, the page
            self.client.get(self.url(User, "changelist"))

    def test_a_log_in_without_a_page_to_go_to_leads_to_the_overview(self):
        self.client.logout()

        response = self.client.post("/admin/login/", {"username": "alice", "password": "correct horse"})

        self.assertRedirects(response, "/admin/")
