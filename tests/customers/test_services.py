"""What is done to keys, customers and teams, and what it leaves alone."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db import connection
from django.forms import model_to_dict, modelform_factory
from django.test import TestCase

from billing.models import SpendLog, SpendTotal
from customers.keys import hash_secret
from customers.models import Budget, Change, Customer, Team, User, VirtualKey
from customers.services import (
    create_key,
    delete_customers,
    delete_keys,
    delete_teams,
    rotate_key,
    set_customers_blocked,
    set_keys_blocked,
    set_teams_blocked,
)
from tests.billing.making import book_calls, make_call, total

NOON = datetime(2026, 7, 15, 12, tzinfo=UTC)


class KeyTests(TestCase):
    def test_a_key_is_known_by_the_hash_of_its_secret_alone(self):
        key, secret = create_key(alias="ci")

        stored = VirtualKey.objects.get()
        self.assertEqual((stored.pk, stored.alias), (key.pk, "ci"))
        self.assertEqual(
            (stored.token_hash, stored.display_name), (hash_secret(secret), f"sk-...{secret[-4:]}")
        )
        for field in VirtualKey._meta.concrete_fields:
            self.assertNotIn(secret, str(getattr(stored, field.attname)))

    def test_a_key_that_always_pays_for_one_customer_needs_one(self):
        with self.assertRaises(ValidationError):
            create_key(payer_policy="fixed")

        self.assertFalse(VirtualKey.objects.exists())

    def test_no_two_keys_have_one_name(self):
        create_key(alias="ci")

        with self.assertRaises(ValidationError):
            create_key(alias="ci")
        for _ in range(2):
            create_key()  # no name at all may be had by many

    def test_a_rotated_key_keeps_everything_but_its_secret(self):
        team = Team.objects.create()
        key, old = create_key(alias="ci", team=team, allowed_models=["gpt-*"])
        before = model_to_dict(VirtualKey.objects.get())

        new = rotate_key(key=key)

        after = VirtualKey.objects.get()
        self.assertNotEqual(old, new)
        self.assertEqual((after.token_hash, after.display_name), (hash_secret(new), f"sk-...{new[-4:]}"))
        self.assertEqual(model_to_dict(after), before)
        self.assertEqual(after.pk, key.pk)

    def test_rotating_writes_back_nothing_that_was_edited_meanwhile(self):
        key, _ = create_key()
        VirtualKey.objects.update(blocked=True)

        rotate_key(key=key)

        self.assertTrue(VirtualKey.objects.get().blocked)

    def test_blocking_says_how_many_it_changed(self):
        keys = [create_key()[0] for _ in range(3)]

        counts = [
            set_keys_blocked(ids=[key.pk for key in keys[:2]], blocked=True),
            set_keys_blocked(ids=[key.pk for key in keys], blocked=True),
            set_keys_blocked(ids=(key.pk for key in keys), blocked=False),
        ]

        self.assertEqual(counts, [2, 1, 3])
        self.assertFalse(VirtualKey.objects.filter(blocked=True).exists())

    def test_a_deleted_key_stays_for_its_history_and_frees_its_name(self):
        key, _ = create_key(alias="ci")
        book_calls(make_call(key_id=key.pk.bytes, cost_usd="0.5"))

        count = delete_keys(ids=[key.pk], at=NOON)
        again = delete_keys(ids=[key.pk], at=NOON + timedelta(days=1))

        stored = VirtualKey.objects.get()
        self.assertEqual((count, again), (1, 0))
        self.assertEqual((stored.deleted_at, stored.blocked, stored.alias), (NOON, True, None))
        self.assertEqual(SpendLog.objects.get().key, stored)
        self.assertEqual(total("key", str(key.pk)), Decimal("0.5"))
        create_key(alias="ci")

    def test_a_deleted_key_cannot_be_unblocked(self):
        key, _ = create_key()
        delete_keys(ids=[key.pk], at=NOON)

        self.assertEqual(set_keys_blocked(ids=[key.pk], blocked=False), 0)
        self.assertTrue(VirtualKey.objects.get().blocked)


class CustomerTests(TestCase):
    """H12: a deleted customer's id stays reserved."""

    def test_a_deleted_customer_keeps_id_totals_and_block(self):
        Customer.objects.create(pk="acme", alias="Acme Inc.")
        book_calls(make_call(customer_id="acme", cost_usd="0.5"))
        set_customers_blocked(ids=["acme"], blocked=True)

        delete_customers(ids=["acme"], at=NOON)
        book_calls(make_call(customer_id="acme", cost_usd="0.25"))  # was in flight

        customer = Customer.objects.get()
        self.assertEqual((customer.pk, customer.blocked, customer.deleted_at), ("acme", True, NOON))
        self.assertEqual(total("customer", "acme"), Decimal("0.5") + Decimal("0.25"))
        self.assertFalse(Customer.objects.listed().exists())
        self.assertEqual(set(Customer.objects.exceptional()), {customer})

    def test_what_makes_a_customer_an_exception(self):
        budget = Budget.objects.create()
        for name, fields in {
            "blocked": {"blocked": True},
            "limited": {"budget": budget},
            "models": {"allowed_models": ["gpt-4o"]},
            "region": {"allowed_model_region": "eu"},
            "plain": {"alias": "Acme", "metadata": {"a": 1}},
        }.items():
            Customer.objects.create(pk=name, **fields)
        book_calls(make_call(customer_id="made by the ledger"))

        found = set(Customer.objects.exceptional().values_list("pk", flat=True))

        self.assertEqual(found, {"blocked", "limited", "models", "region"})

    def test_the_exceptions_are_read_from_their_index(self):
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET LOCAL enable_seqscan = off")
            plan = Customer.objects.exceptional().explain()

        self.assertIn("customer_exceptions", plan)

    def test_deleting_twice_keeps_the_first_instant(self):
        Customer.objects.create(pk="acme")

        counts = [delete_customers(ids=["acme"], at=NOON + timedelta(days=day)) for day in range(2)]

        self.assertEqual(counts, [1, 0])
        self.assertEqual(Customer.objects.get().deleted_at, NOON)

    def test_renaming_changes_the_alias_only(self):
        customer = Customer.objects.create(pk="acme")
        book_calls(make_call(customer_id="acme"))

        customer.alias = "New name"
        customer.save()

        self.assertEqual(Customer.objects.get().pk, "acme")
        self.assertEqual(SpendLog.objects.get().customer.alias, "New name")

    def test_blocking_tells_the_workers(self):
        Customer.objects.create(pk="acme")
        Change.objects.all().delete()

        count = set_customers_blocked(ids=["acme", "nobody"], blocked=True)

        self.assertEqual(count, 1)
        self.assertEqual(
            list(Change.objects.values_list("kind", "object_id")), [("customers.customer", "acme")]
        )


class TeamTests(TestCase):
    def test_a_deleted_team_stays_for_its_history_and_stops_its_keys(self):
        team = Team.objects.create(alias="red")
        create_key(team=team)
        book_calls(make_call(team_id=team.pk, cost_usd="0.5"))

        counts = [delete_teams(ids=[team.pk], at=NOON) for _ in range(2)]

        team.refresh_from_db()
        self.assertEqual(counts, [1, 0])
        self.assertEqual((team.deleted_at, team.blocked), (NOON, True))
        self.assertEqual(SpendLog.objects.get().team, team)
        self.assertEqual(total("team", team.pk), Decimal("0.5"))

    def test_blocking_says_how_many_it_changed(self):
        team = Team.objects.create()

        counts = [set_teams_blocked(ids=[team.pk], blocked=blocked) for blocked in (True, True, False)]

        self.assertEqual(counts, [1, 0, 1])


class FormTests(TestCase):
    """H11: a form that is open while calls are booked writes no total back."""

    def test_saving_a_form_does_not_move_totals(self):
        user = User.objects.create_user("bob")
        team = Team.objects.create()
        customer = Customer.objects.create(pk="acme")
        key, _ = create_key(team=team, user=user)
        call = {"customer_id": "acme", "key_id": key.pk.bytes, "team_id": team.pk, "user_id": user.pk}
        book_calls(make_call(cost_usd="0.5", **call))

        for row in (customer, key, team, user):
            form_class = modelform_factory(type(row), fields="__all__")
            form = form_class(_filled(form_class(instance=row)), instance=row)  # somebody opens the page …
            book_calls(make_call(cost_usd="0.25", **call))  # … calls go on …
            before = _totals()
            self.assertTrue(form.is_valid(), form.errors)
            form.save()  # … and saves

            self.assertEqual(_totals(), before, type(row).__name__)
        self.assertEqual(total("customer", "acme"), Decimal("0.5") + 4 * Decimal("0.25"))

    def test_none_of_these_rows_has_a_column_for_spend(self):
        for model in (Customer, VirtualKey, Team, User):
            names = {field.name for field in model._meta.get_fields()}

            self.assertEqual({name for name in names if "spend" in name} - {"spend_logs"}, set(), model)


def _filled(form) -> dict[str, object]:
    """Return what a browser posts of a form that nobody touched."""
    values = {bound.html_name: bound.field.prepare_value(bound.value()) for bound in form}
    return {name: value for name, value in values.items() if value not in (None, False)}


def _totals() -> dict[tuple[str, str], Decimal]:
    return {(row.holder_type, row.holder_id): row.cost for row in SpendTotal.objects.all()}
