"""Budgets: what may be written into one, and what limits those who have none."""

import json
from decimal import Decimal

from django import forms
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, models, transaction
from django.test import SimpleTestCase, TestCase

from customers.durations import Duration
from customers.model_limits import ModelLimit, read_model_limits
from customers.models import Budget, Change, GatewayLimits, VirtualKey
from customers.money import to_nano
from customers.services import create_key


def cleaned(**fields) -> Budget:
    """Return a budget as `full_clean` leaves it."""
    budget = Budget(**fields)
    budget.full_clean()
    return budget


class LimitTests(TestCase):
    def errors(self, **fields) -> dict[str, list[str]]:
        with self.assertRaises(ValidationError) as caught:
            cleaned(**fields)
        return caught.exception.message_dict

    def test_a_budget_may_limit_nothing(self):
        budget = cleaned()

        self.assertIsNone(budget.duration())
        self.assertEqual(budget.model_limits(), {})

    def test_a_duration_is_kept_as_it_was_written(self):
        budget = cleaned(budget_duration="monthly")

        self.assertEqual(budget.budget_duration, "monthly")
        self.assertEqual(budget.duration(), Duration(1, "mo"))

    def test_what_is_no_duration_is_refused(self):
        for text in ("1 month", "-1d", "0d", "99999999999d"):
            self.assertEqual(list(self.errors(budget_duration=text)), ["budget_duration"])

    def test_amounts_are_not_negative_and_nothing_is_an_amount(self):
        cleaned(max_budget=Decimal(0), soft_budget=Decimal(0))
        for field in ("max_budget", "soft_budget"):
            self.assertEqual(list(self.errors(**{field: Decimal("-0.000000001")})), [field])

    def test_a_warning_may_come_later_than_the_limit(self):
        cleaned(max_budget=Decimal(5), soft_budget=Decimal(10))

    def test_rates_are_not_negative(self):
        for field in ("rpm_limit", "tpm_limit", "max_parallel_requests"):
            self.assertEqual(list(self.errors(**{field: -1})), [field])

    def test_limits_by_model_are_errors_of_their_field(self):
        errors = self.errors(
            model_max_budget={"gpt-4o": {"budget_limit": -1}, "o3": [], "fine": {"rpm_limit": 1}}
        )

        self.assertEqual(list(errors), ["model_max_budget"])
        first, second = errors["model_max_budget"]
        self.assertIn("'gpt-4o'", first)
        self.assertIn("budget_limit", first)
        self.assertIn("'o3'", second)


class ModelLimitTests(SimpleTestCase):
    def read(self, **entry) -> ModelLimit:
        return read_model_limits({"gpt-4o": entry})["gpt-4o"]

    def message(self, value) -> str:
        with self.assertRaises(ValidationError) as caught:
            read_model_limits(value)
        [message] = caught.exception.messages
        return message

    def test_all_that_can_be_limited(self):
        limit = self.read(budget_limit=5, time_period="1d", tpm_limit=100_000, rpm_limit=60)

        self.assertEqual(limit, ModelLimit(to_nano(5), Duration(1, "d"), tpm_limit=100_000, rpm_limit=60))

    def test_litellm_s_other_names(self):
        self.assertEqual(
            self.read(max_budget=20, budget_duration="30d"), self.read(budget_limit=20, time_period="30d")
        )

    def test_one_thing_under_both_names_is_refused(self):
        for pair in (
            {"budget_limit": 5, "max_budget": 5},
            {"rpm_limit": 1, "budget_duration": "1d", "time_period": None},
        ):
            self.assertIn("given twice", self.message({"gpt-4o": pair}))

    def test_what_is_left_out_or_null_is_not_limited(self):
        self.assertEqual(self.read(budget_limit="5"), ModelLimit(limit_nano=to_nano(5)))
        self.assertEqual(
            self.read(rpm_limit=0, budget_limit=None, time_period=None, tpm_limit=None),
            ModelLimit(rpm_limit=0),
        )
        self.assertEqual(read_model_limits(None), {})

    def test_amounts_are_numbers_or_text_exact_to_the_nano_dollar(self):
        for amount, nano in (
            (5, 5 * 10**9),
            (0, 0),
            (0.1, 10**8),
            (5.0, 5 * 10**9),
            (1e-9, 1),
            (Decimal("0.000000001"), 1),
            ("12345678.000000001", 12_345_678 * 10**9 + 1),
        ):
            self.assertEqual(self.read(budget_limit=amount).limit_nano, nano)

    def test_what_is_no_exact_amount_is_refused_not_rounded(self):
        for amount in (
            -1, "-0.5", 1e-10, "0.0000000001", "", "five", "NaN", "Infinity", 1e300, True, [], {},
            "9999999999",
        ):  # fmt: skip
            with self.subTest(amount=amount):
                message = self.message({"gpt-4o": {"budget_limit": amount}})
                self.assertIn("'gpt-4o': budget_limit", message)

    def test_a_wrong_duration_says_what_is_allowed(self):
        for text in ("1 month", 30, True, ["1d"]):
            message = self.message({"gpt-4o": {"budget_limit": 5, "time_period": text}})
            self.assertIn("'gpt-4o': time_period", message)
            self.assertIn("write a whole number and a unit", message)

    def test_rates_are_whole_numbers_that_fit(self):
        for name in ("rpm_limit", "tpm_limit"):
            for value in (-1, 1.5, "60", True, 2**63):
                self.assertIn(f"'gpt-4o': {name}", self.message({"gpt-4o": {name: value}}))

    def test_an_entry_that_limits_nothing_is_a_mistake(self):
        for entry in ({}, {"time_period": "1d"}, {"rpm_limit": None}):
            self.assertIn("give budget_limit, tpm_limit or rpm_limit", self.message({"gpt-4o": entry}))

    def test_an_unknown_key_is_named(self):
        self.assertIn("'max_bugdet' is unknown", self.message({"gpt-4o": {"max_bugdet": 5, "rpm_limit": 1}}))

    def test_a_model_s_name_is_never_empty_as_the_scope_of_all_models_is(self):
        for model in ("", "a\nb", "x" * 256, "\ud800"):
            self.assertIn("printable characters", self.message({model: {"rpm_limit": 1}}))

    def test_only_an_object_of_objects_will_do(self):
        for value in ([], "", "gpt-4o", 5, True):
            self.assertIn("Write an object by model", self.message(value))
        for entry in (None, 5, "5", []):
            self.assertIn("'gpt-4o': write an object", self.message({"gpt-4o": entry}))


class StorageTests(TestCase):
    def stored(self, budget: Budget) -> dict:
        """Return the limits by model as the database has them."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT model_max_budget FROM customers_budget WHERE id = %s", [budget.pk])
            return json.loads(cursor.fetchone()[0])

    def test_limits_are_stored_in_one_form_with_amounts_as_text(self):
        budget = cleaned(
            model_max_budget={
                "b": {"max_budget": 20.50, "budget_duration": "30d", "tpm_limit": None},
                "a": {"budget_limit": "5.000", "time_period": "", "rpm_limit": 60},
            }
        )
        budget.save()

        self.assertEqual(
            self.stored(budget),
            {
                "b": {"budget_limit": "20.5", "time_period": "1mo"},
                "a": {"budget_limit": "5", "rpm_limit": 60},
            },
        )

    def test_the_stored_form_reads_as_what_was_meant_and_is_cleaned_to_itself(self):
        budget = cleaned(model_max_budget={"gpt-4o": {"max_budget": 0.1, "budget_duration": "daily"}})
        budget.save()

        read = Budget.objects.get()

        self.assertEqual(read.model_limits(), {"gpt-4o": ModelLimit(10**8, Duration(1, "d"))})
        read.full_clean()
        self.assertEqual(read.model_max_budget, budget.model_max_budget)

    def test_a_row_written_without_validation_still_reads_exactly(self):
        Budget.objects.create(model_max_budget={"gpt-4o": {"budget_limit": Decimal("0.1")}})

        self.assertEqual(Budget.objects.get().model_limits(), {"gpt-4o": ModelLimit(10**8)})


class FormTests(TestCase):
    Form = forms.modelform_factory(Budget, fields=["id", "mode", "budget_duration", "model_max_budget"])

    def form(self, limits: str) -> forms.ModelForm:
        return self.Form({"id": "b", "mode": "standard", "budget_duration": "1w", "model_max_budget": limits})

    def test_a_number_keeps_digits_that_a_float_would_lose(self):
        form = self.form('{"gpt-4o": {"budget_limit": 99999999.000000001}}')

        self.assertTrue(form.is_valid(), form.errors)
        form.save()
        self.assertEqual(
            Budget.objects.get().model_limits()["gpt-4o"].limit_nano, to_nano(Decimal("99999999.000000001"))
        )

    def test_a_tenth_place_that_a_float_would_lose_is_refused(self):
        form = self.form('{"gpt-4o": {"budget_limit": 99999999.0000000001}}')

        self.assertEqual(list(form.errors), ["model_max_budget"])
        self.assertIn("99999999.0000000001", str(form["model_max_budget"]))  # shown again for correction

    def test_no_limits_by_model(self):
        for text in ("", "{}", "null"):
            form = self.form(text)

            self.assertTrue(form.is_valid(), form.errors)
            self.assertEqual(form.save(commit=False).model_max_budget, {})


class GatewayLimitsTests(TestCase):
    def test_the_row_is_made_when_it_is_first_asked_for(self):
        limits = GatewayLimits.current()

        self.assertIsNone(limits.budget)
        self.assertIsNone(limits.customer_budget)
        self.assertEqual(GatewayLimits.current(), limits)
        self.assertEqual(GatewayLimits.objects.count(), 1)

    def test_it_is_read_with_its_budgets_in_one_query(self):
        limits = GatewayLimits.current()
        limits.budget = Budget.objects.create(id="all")
        limits.customer_budget = Budget.objects.create(id="each")
        limits.save()

        with self.assertNumQueries(1):
            found = GatewayLimits.current()
            self.assertEqual((found.budget.pk, found.customer_budget.pk), ("all", "each"))

    def test_there_is_no_second_row(self):
        GatewayLimits.current()

        with self.assertRaises(IntegrityError), transaction.atomic():
            GatewayLimits.objects.create(pk=2)

    def test_an_edit_is_a_change_that_workers_hear_of(self):
        limits = GatewayLimits.current()
        Change.objects.all().delete()

        limits.save()

        self.assertEqual(
            list(Change.objects.values_list("kind", "object_id")), [("customers.gatewaylimits", "1")]
        )


class ProtectionTests(TestCase):
    def test_a_budget_that_limits_somebody_cannot_be_deleted(self):
        budget = Budget.objects.create()
        limits = GatewayLimits.current()
        key, _ = create_key(customer_budget=budget)
        limited = (
            (GatewayLimits, limits.pk, "budget"),
            (GatewayLimits, limits.pk, "customer_budget"),
            (VirtualKey, key.pk, "customer_budget"),
        )
        VirtualKey.objects.update(customer_budget=None)
        for model, pk, field in limited:
            model.objects.filter(pk=pk).update(**{field: budget})

            with self.subTest(model=model.__name__, field=field), self.assertRaises(models.ProtectedError):
                budget.delete()

            model.objects.filter(pk=pk).update(**{field: None})
        budget.delete()

    def test_a_budget_knows_the_keys_whose_customers_it_limits(self):
        budget = Budget.objects.create()
        key, _ = create_key(customer_budget=budget)

        self.assertEqual(list(budget.keys_defaulting_customers.all()), [key])
        self.assertEqual(list(budget.keys.all()), [])
