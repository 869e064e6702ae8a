"""/budget/* (contract 5.2)."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.utils import timezone

from billing.models import BudgetPeriod
from customers.models import AuditLog, Budget, Customer, GatewayLimits, Tag, Team, User
from customers.services import create_key, delete_customers
from tests.customers.exact_calls import UNCLEAN_IDS, ExactApiTestCase, instant

# The contract's row, in its order.
CONTRACT = (
    "budget_id", "max_budget", "soft_budget", "max_parallel_requests", "tpm_limit", "rpm_limit",
    "model_max_budget", "budget_duration", "budget_reset_at", "created_at", "created_by", "updated_at",
    "updated_by",
)  # fmt: skip
GOLD = {
    "budget_id": "gold",
    "max_budget": 100.0,
    "soft_budget": 80.0,
    "tpm_limit": 100_000,
    "rpm_limit": 300,
    "model_max_budget": {"gpt-4o": {"max_budget": 20.0, "budget_duration": "1d"}},
    "budget_duration": "30d",
}


def next_month() -> datetime:
    today = timezone.now().astimezone(UTC)
    return datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC)


class NewTests(ExactApiTestCase):
    def test_it_answers_with_the_contract_s_row(self):
        body = self.done(self.post("/budget/new", GOLD))

        self.assertEqual(tuple(body)[: len(CONTRACT)], CONTRACT)
        self.assertEqual({name: body[name] for name in GOLD}, GOLD)
        self.assertIsNone(body["max_parallel_requests"])
        self.assertEqual(instant(body["budget_reset_at"]), next_month())
        self.assertEqual((body["created_by"], body["updated_by"]), ("default_user_id", "default_user_id"))
        self.assertAlmostEqual(instant(body["created_at"]), timezone.now(), delta=timedelta(seconds=30))
        self.assertEqual(
            (body["mode"], body["is_private"], body["tpd_limit"], body["temp_budget_increase"]),
            ("standard", False, None, None),
        )

    def test_the_row_can_be_sent_back(self):
        made = self.done(self.post("/budget/new", GOLD))

        again = self.done(self.post("/budget/update", made))

        self.assertEqual({**made, "updated_at": ""}, {**again, "updated_at": ""})

    def test_an_id_is_made_where_there_is_none(self):
        ids = {
            self.done(self.post("/budget/new", body))["budget_id"]
            for body in ({}, {"max_budget": 1}, {"budget_id": None})
        }

        self.assertEqual(ids, set(Budget.objects.values_list("pk", flat=True)))
        self.assertEqual(len(ids), 3)

    def test_amounts_are_exact(self):
        self.post_raw("/budget/new", b'{"budget_id": "exact", "max_budget": 9007199.254740993}')

        self.assertEqual(Budget.objects.get().max_budget, Decimal("9007199.254740993"))
        self.assertIn(b'"max_budget":9007199.254740993,', self.response.content)

    def test_amounts_by_model_are_exact(self):
        body = b'{"model_max_budget": {"gpt-4o": {"budget_limit": 9007199.254740993, "time_period": "1d"}}}'

        self.post_raw("/budget/new", body)

        self.assertIn(b'{"gpt-4o":{"max_budget":9007199.254740993,', self.response.content)

    def test_the_words_for_durations_work(self):
        for written in ("hourly", "daily", "weekly", "monthly", "12h", "3mo", ""):
            with self.subTest(written):
                body = self.done(self.post("/budget/new", {"budget_duration": written}))

                self.assertEqual(body["budget_duration"], written or None)
                self.assertEqual(body["budget_reset_at"] is None, written == "")

    def test_an_id_that_is_taken_is_refused(self):
        self.post("/budget/new", {"budget_id": "gold", "max_budget": 1})

        message = self.assert_detail(self.post("/budget/new", {"budget_id": "gold", "max_budget": 2}), 400)

        self.assertIn("exists already", message)
        self.assertEqual(Budget.objects.get().max_budget, 1)

    def test_what_makes_no_sense_is_400(self):
        for body in (
            {"max_budget": -0.01}, {"soft_budget": -1}, {"budget_duration": "fortnight"},
            {"budget_duration": "0d"}, {"budget_duration": "99999999999d"}, {"rpm_limit": -1},
            {"tpm_limit": -1},
            {"max_parallel_requests": -1},
            {"model_max_budget": {"gpt-4o": 5}}, {"model_max_budget": {"gpt-4o": {"budget_limit": -5}}},
            {"model_max_budget": {"gpt-4o": {"budget_limit": 1, "time_period": "never"}}},
            {"model_max_budget": {"": {"budget_limit": 1}}},
            {"model_max_budget": {"gpt-4o": {"tpm_limit": 1.5}}},
            {"temp_budget_increase": 5}, {"temp_budget_expiry": "2030-01-01T00:00:00Z"},
            {"temp_budget_increase": -5, "temp_budget_expiry": "2030-01-01T00:00:00Z"},
            {"tpd_limit": 5},
        ):  # fmt: skip
            with self.subTest(body=body):
                message = self.assert_detail(self.post("/budget/new", body), 400)

                self.assertGreater(len(message), 20)
        self.assertFalse(Budget.objects.exists())
        self.assertFalse(AuditLog.objects.exists())

    def test_what_has_the_wrong_shape_is_422(self):
        for name, values in {
            "budget_id": (*UNCLEAN_IDS, [], {}, True),
            "max_budget": ("lots", True, [], {}, "NaN", "1e400", 0.0000000001, 10**30),
            "rpm_limit": (1.5, "many", True, [], 10**30),
            "tpm_limit": (2**63,),
            "max_parallel_requests": ("x", {}),
            "budget_duration": ([], {}, "x" * 21),
            "model_max_budget": ("gpt-4o", [], 5),
            "mode": ("lax", 1),
            "temp_budget_expiry": ("soon", 5, [], "0001-01-01T00:00:00+14:00"),
        }.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.assert_invalid(self.post("/budget/new", {name: value}), "body", name)
        self.assertFalse(Budget.objects.exists())

    def test_a_body_that_is_no_object_is_refused(self):
        for body in (
            b"[]",
            b'"gold"',
            b"17",
            b"{",
            b"\xff",
            b'{"budget_id": "\\ud800"}',
            b'{"a": "\\u0000"}',
        ):
            with self.subTest(body=body):
                status, _ = self.post_raw("/budget/new", body)

                self.assertIn(status, (400, 422))

    def test_more_parallel_calls_than_the_column_holds_are_no_crash(self):
        status, _ = self.post("/budget/new", {"max_parallel_requests": 2**31})

        self.assertIn(status, (200, 400))  # SQLite's column is wider


class UpdateTests(ExactApiTestCase):
    def setUp(self):
        self.done(self.post("/budget/new", GOLD))

    def test_only_what_is_sent_changes(self):
        before = Budget.objects.get()

        body = self.done(self.post("/budget/update", {"budget_id": "gold", "max_budget": 50}))

        self.assertEqual({name: body[name] for name in GOLD}, {**GOLD, "max_budget": 50})
        self.assertEqual(instant(body["created_at"]), before.created_at)
        self.assertGreater(instant(body["updated_at"]), before.updated_at)

    def test_nothing_and_zero_are_values(self):
        self.post("/budget/update", {"budget_id": "gold", "max_budget": 0, "rpm_limit": 0, "tpm_limit": None})
        body = self.done(
            self.post(
                "/budget/update",
                {"budget_id": "gold", "budget_duration": None, "model_max_budget": None, "soft_budget": None},
            )
        )

        self.assertEqual(
            (body["max_budget"], body["rpm_limit"], body["tpm_limit"], body["soft_budget"]),
            (0, 0, None, None),
        )
        self.assertEqual(
            (body["budget_duration"], body["budget_reset_at"], body["model_max_budget"]), (None, None, None)
        )

    def test_another_duration_has_another_reset(self):
        body = self.done(self.post("/budget/update", {"budget_id": "gold", "budget_duration": "1d"}))

        tomorrow = (timezone.now() + timedelta(days=1)).date()
        self.assertEqual(instant(body["budget_reset_at"]).date(), tomorrow)

    def test_a_temporary_increase_is_given_and_taken_away(self):
        given = {
            "budget_id": "gold",
            "temp_budget_increase": 5.5,
            "temp_budget_expiry": "2030-01-01T00:00:00Z",
        }

        body = self.done(self.post("/budget/update", given))
        self.assert_detail(
            self.post("/budget/update", {"budget_id": "gold", "temp_budget_expiry": None}), 400
        )
        after = self.done(
            self.post(
                "/budget/update",
                {"budget_id": "gold", "temp_budget_increase": None, "temp_budget_expiry": None},
            )
        )

        self.assertEqual(body["temp_budget_increase"], Decimal("5.5"))
        self.assertEqual(instant(body["temp_budget_expiry"]), datetime(2030, 1, 1, tzinfo=UTC))
        self.assertIsNone(after["temp_budget_increase"])

    def test_without_an_id_it_is_400(self):
        for body in ({}, {"max_budget": 1}, {"budget_id": None}):
            self.assertIn("budget_id", self.assert_detail(self.post("/budget/update", body), 400))

    def test_an_unknown_id_is_null(self):
        self.assertEqual(self.post("/budget/update", {"budget_id": "nobody's", "max_budget": 1}), (200, None))
        self.assertEqual(Budget.objects.count(), 1)

    def test_what_is_refused_changes_nothing(self):
        self.assert_detail(
            self.post("/budget/update", {"budget_id": "gold", "max_budget": 1, "budget_duration": "x"}), 400
        )

        self.assertEqual(Budget.objects.get().max_budget, 100)

    def test_the_audit_log_says_who_it_was(self):
        headers = self.key_of(User.Role.PROXY_ADMIN)
        admin = User.objects.get()

        body = self.done(self.post("/budget/update", {"budget_id": "gold", "max_budget": 7}, headers))

        self.assertEqual((body["created_by"], body["updated_by"]), ("default_user_id", admin.pk))
        entry = AuditLog.objects.filter(kind="customers.budget").latest("pk")
        self.assertEqual((entry.user_id, entry.object_id), (admin.pk, "gold"))
        self.assertEqual(list(entry.after), ["max_budget"])


class ReadingTests(ExactApiTestCase):
    def setUp(self):
        for number in range(3):
            Budget.objects.create(id=f"b{number}", max_budget=number)
        Budget.objects.create(id="a-private", is_private=True)

    def test_info_returns_those_that_are_asked_for(self):
        body = self.done(self.post("/budget/info", {"budgets": ["b2", "nobody's", "a-private", "b2"]}))

        self.assertEqual([row["budget_id"] for row in body], ["b2", "a-private"])
        self.assertEqual(tuple(body[0])[: len(CONTRACT)], CONTRACT)

    def test_info_of_none_is_400(self):
        self.assertIn("budgets", self.assert_detail(self.post("/budget/info", {"budgets": []}), 400))
        self.assert_invalid(self.post("/budget/info", {}), "body", "budgets")
        self.assert_invalid(self.post("/budget/info", {"budgets": "b1"}), "body", "budgets")

    def test_list_has_those_that_may_be_shared(self):
        rows = self.done(self.get("/budget/list"))
        all_rows = self.done(self.get("/budget/list", include_private="true"))

        self.assertEqual([row["budget_id"] for row in rows], ["b0", "b1", "b2"])
        self.assertEqual([row["budget_id"] for row in all_rows], ["a-private", "b0", "b1", "b2"])
        self.assertTrue(all_rows[0]["is_private"])

    def test_reading_takes_one_query(self):
        with self.assertNumQueries(1):
            self.get("/budget/list")
        with self.assertNumQueries(1):
            self.post("/budget/info", {"budgets": ["b0", "b1"]})

    def test_settings_tell_what_each_field_is(self):
        Budget.objects.create(id="gold", max_budget=Decimal("12.5"), budget_duration="1d")

        body = self.done(self.get("/budget/settings", budget_id="gold"))

        fields = {row["field_name"]: row for row in body}
        self.assertEqual(
            set(fields["max_budget"]),
            {
                "field_name",
                "field_type",
                "field_description",
                "field_value",
                "stored_in_db",
                "field_default_value",
            },
        )
        self.assertEqual(
            [
                (fields[name]["field_value"], fields[name]["stored_in_db"])
                for name in ("max_budget", "rpm_limit")
            ],
            [(Decimal("12.5"), True), (None, False)],
        )
        self.assertTrue(
            {
                "max_budget",
                "soft_budget",
                "budget_duration",
                "tpm_limit",
                "rpm_limit",
                "max_parallel_requests",
            }
            <= set(fields)
        )

    def test_settings_of_none_are_no_settings(self):
        self.assertIn("nobody's", self.assert_detail(self.get("/budget/settings", budget_id="nobody's"), 404))
        self.assert_invalid(self.get("/budget/settings"), "query", "budget_id")


class DeleteTests(ExactApiTestCase):
    def test_it_returns_the_row_that_is_gone(self):
        self.post("/budget/new", GOLD)

        body = self.done(self.post("/budget/delete", {"id": "gold"}))

        self.assertEqual((body["budget_id"], body["max_budget"]), ("gold", 100))
        self.assertFalse(Budget.objects.exists())

    def test_an_unknown_id_is_null(self):
        self.assertEqual(self.post("/budget/delete", {"id": "nobody's"}), (200, None))

    def test_without_an_id_it_is_422(self):
        self.assert_invalid(self.post("/budget/delete", {}), "body", "id")

    def test_one_that_limits_somebody_stays_and_says_whom(self):
        gold, silver = Budget.objects.create(id="gold"), Budget.objects.create(id="silver")
        Customer.objects.bulk_create([Customer(id=f"c{number}", budget=gold) for number in range(3)])
        create_key(budget=gold)
        create_key(customer_budget=gold)
        Tag.objects.create(name="x", budget=gold)
        Team.objects.create(id="red", member_budget=gold)
        limits = GatewayLimits.current()
        limits.customer_budget = silver
        limits.save()

        message = self.assert_detail(self.post("/budget/delete", {"id": "gold"}), 400)

        for said in (
            "3 customers",
            "1 virtual key,",
            "1 virtual key (budget of its customers)",
            "1 tag",
            "1 team (budget of its members)",
        ):
            self.assertIn(said, message)
        self.assertIn(
            "gateway limits", self.assert_detail(self.post("/budget/delete", {"id": "silver"}), 400)
        )
        self.assertEqual(Budget.objects.count(), 2)

    def test_holders_that_were_deleted_do_not_keep_it(self):
        Customer.objects.create(id="acme", budget=Budget.objects.create(id="gold"))
        delete_customers(ids=["acme"], at=timezone.now())

        self.done(self.post("/budget/delete", {"id": "gold"}))

        self.assertIsNone(Customer.objects.get().budget_id)

    def test_what_was_spent_of_it_stays(self):
        customer = Customer.objects.create(id="acme", budget=Budget.objects.create(id="gold", max_budget=5))
        at = timezone.now()
        BudgetPeriod.objects.create(
            holder_type="customer",
            holder_id="acme",
            window="all",
            starts_at=at,
            counts_from=at,
            spent_charge=Decimal(3),
        )
        customer.budget = None
        customer.save()

        self.done(self.post("/budget/delete", {"id": "gold"}))

        self.assertEqual(BudgetPeriod.objects.get().spent, 3)


class AccessTests(ExactApiTestCase):
    """Alice runs the gateway, a viewer looks on, Charlie must see nothing."""

    def setUp(self):
        Budget.objects.create(id="gold", max_budget=1)

    def test_a_viewer_reads_and_writes_nothing(self):
        viewer = self.key_of(User.Role.PROXY_ADMIN_VIEWER)

        self.done(self.get("/budget/list", viewer))
        self.done(self.post("/budget/info", {"budgets": ["gold"]}, viewer))
        for path, body in (
            ("/budget/new", {}),
            ("/budget/update", {"budget_id": "gold", "max_budget": 9}),
            ("/budget/delete", {"id": "gold"}),
        ):
            self.assert_error(self.post(path, body, viewer), 400, "auth_error")
        self.assertEqual(Budget.objects.get().max_budget, 1)

    def test_charlie_sees_nothing(self):
        for headers in (self.key_of(User.Role.INTERNAL_USER), self.key_of(None)):
            for answered in (
                self.get("/budget/list", headers),
                self.get("/budget/settings", headers, budget_id="gold"),
                self.post("/budget/info", {"budgets": ["gold"]}, headers),
                self.post("/budget/new", {}, headers),
                self.post("/budget/delete", {"id": "gold"}, headers),
            ):
                self.assertNotIn("gold", self.assert_error(answered, 400, "auth_error"))

    def test_nobody_gets_in_without_a_key(self):
        self.assert_error(self.get("/budget/list", {}), 401, "auth_error")
