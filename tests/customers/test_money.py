"""Money at rest: exact, whole nano-dollars, never a float."""

import json
from decimal import Decimal

from django import forms
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db.models import ExpressionWrapper, F, Max, Sum, Value
from django.test import SimpleTestCase, TestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from customers.models import Budget
from customers.money import TooPrecise, UsdField, from_nano, plain_usd, to_nano

NANO = Decimal("0.000000001")
LARGEST = Decimal(2**63 - 1).scaleb(-9)


class ConversionTests(SimpleTestCase):
    def test_dollars_are_a_billion_nano_dollars(self):
        self.assertEqual(to_nano(Decimal("1.5")), 1_500_000_000)
        self.assertEqual(to_nano(Decimal("-0.000000001")), -1)
        self.assertEqual(to_nano(25), 25_000_000_000)
        self.assertEqual(from_nano(1_500_000_000), Decimal("1.5"))

    @settings(database=None)
    @given(nano=st.integers(-(2**63), 2**63 - 1))
    def test_every_amount_comes_back_as_it_was(self, nano):
        self.assertEqual(to_nano(from_nano(nano)), nano)

    def test_more_than_nine_places_are_refused_not_rounded(self):
        for amount in ("0.0000000001", "1.0000000005", "0.000000001" + "0" * 30 + "1"):
            with self.subTest(amount=amount), self.assertRaises(TooPrecise):
                to_nano(Decimal(amount))

    def test_zeros_behind_the_ninth_place_are_no_places(self):
        self.assertEqual(to_nano(Decimal("0.1000000000000")), 100_000_000)
        self.assertEqual(to_nano(Decimal("1E+3")), 1_000 * 10**9)

    def test_a_float_is_refused_even_a_round_one(self):
        for amount in (0.1, 1.0):
            with self.assertRaises(TypeError):
                to_nano(amount)

    def test_amounts_are_written_plainly(self):
        written = [
            plain_usd(Decimal(amount))
            for amount in ("0.001112000", "25", "25.0", "100", "1E-9", "0", "-0.50", "1E+3")
        ]

        self.assertEqual(written, ["0.001112", "25", "25", "100", "0.000000001", "0", "-0.5", "1000"])


class FieldTests(SimpleTestCase):
    field = UsdField(null=True)

    def test_it_takes_decimals_whole_numbers_and_text(self):
        for value in (Decimal("1.5"), "1.5"):
            self.assertEqual(self.field.get_prep_value(value), 1_500_000_000)
            self.assertEqual(self.field.to_python(value), Decimal("1.5"))
        self.assertEqual(self.field.get_prep_value(2), 2_000_000_000)
        self.assertIsNone(self.field.get_prep_value(None))

    def test_it_refuses_what_is_no_exact_amount(self):
        for value in (
            0.5,
            "half",
            Decimal("0.0000000001"),
            Decimal("NaN"),
            Decimal("Infinity"),
            "1e99",
            LARGEST + NANO,
            -LARGEST - 2 * NANO,
            [],
            {},
        ):
            with self.subTest(value=value), self.assertRaises(ValidationError):
                self.field.to_python(value)

    def test_it_refuses_a_float_on_its_way_to_the_database(self):
        with self.assertRaises(TypeError):
            self.field.get_prep_value(0.5)

    def test_the_largest_amounts_fit(self):
        self.assertEqual(self.field.to_python(LARGEST), LARGEST)
        self.assertEqual(self.field.get_prep_value(LARGEST), 2**63 - 1)

    def test_a_form_reads_decimals(self):
        field = UsdField(null=True, blank=True).formfield()

        self.assertIsInstance(field, forms.DecimalField)
        self.assertEqual(field.clean("0.000000001"), NANO)
        self.assertIsNone(field.clean(""))
        for value in ("0.0000000001", "a lot", "NaN"):
            with self.assertRaises(ValidationError):
                field.clean(value)


class StorageTests(TestCase):
    def test_an_amount_is_stored_to_the_nano_dollar(self):
        Budget.objects.create(id="b", max_budget=Decimal("1234567890.123456789"))

        self.assertEqual(Budget.objects.get().max_budget, Decimal("1234567890.123456789"))

    def test_sums_are_exact(self):
        # In floats, ten times 0.1 is 0.9999999999999999.
        Budget.objects.bulk_create(
            [Budget(max_budget=Decimal("0.1")) for _ in range(10)] + [Budget(max_budget=NANO)]
        )

        found = Budget.objects.aggregate(Sum("max_budget"), Max("max_budget"))

        self.assertEqual(found["max_budget__sum"], 10 * Decimal("0.1") + NANO)
        self.assertEqual(found["max_budget__max"], Decimal("0.1"))

    def test_a_sum_of_nothing_is_none(self):
        self.assertIsNone(Budget.objects.aggregate(total=Sum("max_budget"))["total"])

    def test_filters_and_arithmetic_are_in_dollars(self):
        Budget.objects.create(id="small", max_budget=Decimal("0.5"))
        Budget.objects.create(id="large", max_budget=Decimal("1.5"))

        Budget.objects.filter(pk="small").update(
            max_budget=F("max_budget") + Value(Decimal("0.25"), UsdField())
        )

        self.assertEqual(Budget.objects.get(max_budget__gt=Decimal(1)).pk, "large")
        self.assertEqual(Budget.objects.get(pk="small").max_budget, Decimal("0.5") + Decimal("0.25"))
        doubled = ExpressionWrapper(F("max_budget") + F("max_budget"), UsdField())
        self.assertEqual(Budget.objects.annotate(doubled=doubled).get(pk="large").doubled, 2 * Decimal("1.5"))

    def test_a_model_form_saves_what_was_written(self):
        form = forms.modelform_factory(Budget, fields=["id", "max_budget", "mode"])(
            {"id": "b", "max_budget": "10.000000001", "mode": "standard"}
        )

        self.assertTrue(form.is_valid(), form.errors)
        form.save()
        self.assertEqual(Budget.objects.get().max_budget, Decimal("10.000000001"))

    def test_an_amount_that_does_not_fit_is_an_error_of_the_form(self):
        form = forms.modelform_factory(Budget, fields=["id", "max_budget", "mode"])(
            {"id": "b", "max_budget": "9999999999", "mode": "standard"}
        )

        self.assertEqual(list(form.errors), ["max_budget"])

    def test_a_fixture_keeps_it(self):
        Budget.objects.create(id="b", max_budget=Decimal("0.000000001"))

        text = serializers.serialize("json", Budget.objects.all())
        [loaded] = serializers.deserialize("json", text)

        self.assertIsInstance(json.loads(text)[0]["fields"]["max_budget"], str)
        self.assertEqual(loaded.object.max_budget, NANO)
