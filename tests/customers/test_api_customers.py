"""/customer/* and /end_user/* (contract 5.1)."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch

from django.utils import timezone

from billing.models import Adjustment, BudgetPeriod, HolderType, SpendTotal
from billing.views import customers as view
from customers.models import AuditLog, Budget, Change, Customer, Team, User
from customers.services import delete_customers
from proxy.models import Deployment, Upstream
from tests.billing.budgets import check_the_books
from tests.customers.exact_calls import MASTER, UNCLEAN_IDS, ExactApiTestCase, instant

# The contract's object, in its order; and its budget.
CONTRACT = (
    "user_id", "blocked", "alias", "spend", "allowed_model_region", "default_model", "models", "budget_id",
    "object_permission_id", "object_permission", "litellm_budget_table",
)  # fmt: skip
TABLE = (
    "budget_id", "soft_budget", "max_budget", "max_parallel_requests", "tpm_limit", "rpm_limit", "tpd_limit",
    "model_max_budget", "budget_duration", "allowed_models", "temp_budget_increase", "temp_budget_expiry",
    "budget_reset_at", "created_at",
)  # fmt: skip


def spent(customer_id: str, charge: str, **fields: Any) -> None:
    SpendTotal.objects.create(
        holder_type=HolderType.CUSTOMER, holder_id=customer_id, charge=Decimal(charge), **fields
    )


def make_deployment(name: str) -> None:
    upstream, _ = Upstream.objects.get_or_create(
        name="openai", defaults={"provider": "openai", "openai_base_url": "https://provider.test/v1"}
    )
    Deployment.objects.create(model_name=name, upstream=upstream)


class NewTests(ExactApiTestCase):
    def test_the_smallest_request_makes_a_customer(self):
        body = self.done(self.post("/customer/new", {"user_id": "acme-042"}))

        self.assertEqual(tuple(body)[: len(CONTRACT)], CONTRACT)
        expected = {
            **dict.fromkeys(CONTRACT),
            "user_id": "acme-042",
            "blocked": False,
            "spend": 0,
            "models": [],
        }
        self.assertEqual({name: body[name] for name in CONTRACT}, expected)
        self.assertEqual(self.done(self.get("/customer/info", end_user_id="acme-042")), body)

    def test_it_takes_all_that_the_contract_names(self):
        make_deployment("gpt-4o-mini")
        given = {
            "user_id": "acme-042",
            "alias": "Acme Ltd",
            "blocked": True,
            "max_budget": 50.0,
            "budget_duration": "30d",
            "soft_budget": 40,
            "max_parallel_requests": 3,
            "tpm_limit": 1000,
            "rpm_limit": 60,
            "model_max_budget": {"gpt-4o": {"max_budget": 5, "budget_duration": "1d"}},
            "budget_reset_at": "2030-01-01T00:00:00Z",
            "spend": 1.2345,
            "allowed_model_region": "eu",
            "default_model": "gpt-4o-mini",
            "models": ["gpt-4o", "gpt-4o-mini"],
            "object_permission": {"vector_stores": []},
            "metadata": {"plan": "pro", "seats": [1, 2.5, None]},
            "something_else": True,
        }

        body = self.done(self.post("/customer/new", given))

        for name in (
            "alias",
            "blocked",
            "spend",
            "allowed_model_region",
            "default_model",
            "models",
            "metadata",
        ):
            self.assertEqual(body[name], json.loads(json.dumps(given[name]), parse_float=Decimal))
        table = body["litellm_budget_table"]
        self.assertEqual(tuple(table)[: len(TABLE)], TABLE)
        for name in ("max_budget", "budget_duration", "soft_budget", "max_parallel_requests", "tpm_limit",
                     "rpm_limit", "model_max_budget"):  # fmt: skip
            self.assertEqual(table[name], given[name])
        self.assertEqual(table["budget_id"], body["budget_id"])
        self.assertGreater(instant(table["budget_reset_at"]), timezone.now())
        self.assertTrue(Budget.objects.get().is_private)
        self.assertEqual(Budget.objects.get().created_by, "default_user_id")

    def test_a_shared_budget_can_be_attached(self):
        Budget.objects.create(id="gold", max_budget=100, budget_duration="1mo")

        body = self.done(self.post("/customer/new", {"user_id": "acme", "budget_id": "gold"}))

        self.assertEqual((body["budget_id"], body["litellm_budget_table"]["max_budget"]), ("gold", 100))
        self.assertEqual(body["budget_period"]["limit"], 100)

    def test_an_initial_spend_is_an_adjustment(self):
        body = self.done(self.post_raw("/customer/new", b'{"user_id": "acme", "spend": 5.000000001}'))

        self.assertEqual(body["spend"], Decimal("5.000000001"))
        adjustment = Adjustment.objects.get()
        self.assertEqual(
            (adjustment.reason, adjustment.customer_id, adjustment.charge),
            ("initial_spend", "acme", Decimal("5.000000001")),
        )

    def test_an_initial_spend_counts_in_its_budget(self):
        with self.captureOnCommitCallbacks(execute=True):
            body = self.done(
                self.post(
                    "/customer/new",
                    {"user_id": "acme", "spend": 5, "max_budget": 8, "budget_duration": "1mo"},
                )
            )
        info = self.done(self.get("/customer/info", end_user_id="acme"))

        self.assertEqual(body["spend"], 5)
        self.assertEqual((info["budget_period"]["spent"], info["budget_period"]["remaining"]), (5, 3))
        self.assertEqual(info["litellm_budget_table"]["budget_reset_at"], info["budget_period"]["ends_at"])
        check_the_books()

    def test_one_that_exists_is_refused(self):
        Customer.objects.create(id="acme", alias="Acme")

        message = self.assert_error(
            self.post("/customer/new", {"user_id": "acme", "alias": "Other", "spend": 5}),
            400,
            "bad_request",
            "user_id",
        )

        self.assertIn("/customer/update", message)
        self.assertEqual(Customer.objects.get().alias, "Acme")
        self.assertFalse(Adjustment.objects.exists())

    def test_one_that_was_deleted_comes_back_with_its_spend_and_its_block(self):
        Customer.objects.create(id="acme", alias="Acme", blocked=True, allowed_models=["gpt-4o"])
        spent("acme", "3")
        delete_customers(ids=["acme"], at=timezone.now())

        self.assert_error(
            self.post("/customer/new", {"user_id": "acme", "spend": 1}), 400, "bad_request", "spend"
        )
        body = self.done(self.post("/customer/new", {"user_id": "acme", "max_budget": 9}))

        self.assertEqual((body["spend"], body["blocked"], body["alias"], body["models"]), (3, True, None, []))
        self.assertEqual(body["litellm_budget_table"]["max_budget"], 9)
        self.done(self.post("/customer/delete", {"user_ids": ["acme"]}))
        self.assertFalse(
            self.done(self.post("/customer/new", {"user_id": "acme", "blocked": False}))["blocked"]
        )

    def test_a_budget_of_its_own_and_a_shared_one_exclude_each_other(self):
        Budget.objects.create(id="gold")

        self.assert_invalid(
            self.post("/customer/new", {"user_id": "a", "budget_id": "gold", "max_budget": 1}), "body"
        )
        self.assert_error(
            self.post("/customer/new", {"user_id": "a", "budget_id": "gold", "rpm_limit": 1}),
            400, "bad_request", "budget_id",
        )  # fmt: skip
        self.assertFalse(Customer.objects.exists())

    def test_an_unknown_budget_is_404(self):
        self.assert_error(
            self.post("/customer/new", {"user_id": "a", "budget_id": "none"}), 404, "not_found", "budget_id"
        )

    def test_an_unknown_default_model_is_422(self):
        make_deployment("gpt-4o")
        make_deployment("claude-*")

        self.assert_invalid(
            self.post("/customer/new", {"user_id": "a", "default_model": "gpt-5"}), "body", "default_model"
        )
        for model in ("gpt-4o", "claude-sonnet-4-5"):
            self.done(self.post("/customer/new", {"user_id": model, "default_model": model}))

    def test_what_makes_no_sense_is_400_and_makes_nothing(self):
        for fields, param in (
            ({"budget_duration": "fortnight", "max_budget": 1}, "budget_duration"),
            ({"max_budget": -1}, "max_budget"),
            ({"max_budget": 5, "spend": -0.000000001}, "spend"),
            ({"spend": 100_000_001}, "spend"),
            ({"rpm_limit": -1}, "rpm_limit"),
            ({"model_max_budget": {"gpt-4o": 7}}, "model_max_budget"),
            ({"tpd_limit": 10}, "tpd_limit"),
            (
                {
                    "max_budget": 9e9,
                    "temp_budget_increase": 9e9,
                    "temp_budget_expiry": "9999-12-31T23:59:59Z",
                },
                "temp_budget_increase",
            ),
        ):
            with self.subTest(fields=fields):
                self.assert_error(
                    self.post("/customer/new", {"user_id": "acme", **fields}), 400, "bad_request", param
                )
        self.assertFalse(Customer.objects.exists())
        self.assertFalse(Budget.objects.exists())
        self.assertFalse(AuditLog.objects.exists())
        self.assertFalse(Change.objects.exists())

    def test_what_has_the_wrong_shape_is_422(self):
        for name, values in {
            "user_id": (*UNCLEAN_IDS, None, [], {}, True),
            "alias": ("a\nb", "x" * 256, [], {}),
            "blocked": ("perhaps", None, [], 7),
            "max_budget": ("lots", True, [], "NaN", 10**30),
            "spend": ("lots", True, "Infinity"),
            "budget_id": (*UNCLEAN_IDS, []),
            "rpm_limit": (1.5, 2**63, "many"),
            "allowed_model_region": ("mars", 5),
            "models": ("gpt-4o", [""], [None], {}, ["x"] * 1001),
            "metadata": ("text", [], 7, {"a": 10**30}),
            "default_model": ([], {}),
        }.items():
            for value in values:
                with self.subTest(name=name, value=str(value)[:40]):
                    answered = self.post("/customer/new", {"user_id": "acme", **{name: value}})

                    self.assertEqual(answered[0], 422, answered[1])
                    self.assertEqual(answered[1]["detail"][0]["loc"][:2], ["body", name])
        self.assert_invalid(self.post("/customer/new", {}), "body", "user_id")
        self.assertFalse(Customer.objects.exists())

    def test_ids_are_data(self):
        for customer_id in ("a b&c=d", "Zażółć 🦔", "'; DROP TABLE x; --", "x" * 255, "../x", "100%", "a\\b"):
            with self.subTest(customer_id):
                self.done(self.post("/customer/new", {"user_id": customer_id}))

                body = self.done(self.get("/customer/info", end_user_id=customer_id))
                self.assertEqual(body["user_id"], customer_id)

    def test_the_longest_id_and_name_fit_into_every_index(self):
        customer_id = "".join(chr(0x1F300 + number) for number in range(255))
        name = "".join(chr(0x20000 + 7 * number) for number in range(255))

        body = self.done(self.post("/customer/new", {"user_id": customer_id, "alias": name}))

        self.assertEqual((body["user_id"], body["alias"]), (customer_id, name))

    def test_what_is_sent_twice_happens_once(self):
        body = json.dumps({"user_id": "acme", "spend": 5})
        answers = [
            self.client.post(
                "/customer/new",
                body,
                content_type="application/json",
                headers={**MASTER, "idempotency-key": "k1"},
            )
            for _ in range(2)
        ]

        self.assertEqual([answer.status_code for answer in answers], [200, 200])
        self.assertEqual(answers[0].content, answers[1].content)
        self.assertEqual(SpendTotal.objects.get(holder_id="acme").charge, 5)


class InfoTests(ExactApiTestCase):
    def test_it_has_the_contract_s_fields_and_ours(self):
        Customer.objects.create(id="ishaan3", alias="Ishaan", metadata={"plan": "pro"})
        spent(
            "ishaan3",
            "0.001413",
            cost=Decimal("0.001112"),
            calls=5,
            failed_calls=1,
            unpriced_calls=2,
            prompt_tokens=1_000,
            completion_tokens=50,
            last_call_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        )

        body = self.done(self.get("/customer/info", end_user_id="ishaan3"))

        self.assertEqual(self.response.headers["content-type"], "application/json")
        contract = {
            "user_id": "ishaan3",
            "blocked": False,
            "alias": "Ishaan",
            "spend": Decimal("0.001413"),
            "allowed_model_region": None,
            "default_model": None,
            "models": [],
            "litellm_budget_table": None,
        }
        self.assertEqual({name: body[name] for name in contract}, contract)
        ours = {
            "budget_period": None,
            "total_spend": Decimal("0.001413"),
            "total_cost": Decimal("0.001112"),
            "total_tokens": 1_050,
            "requests": 5,
            "failed_requests": 1,
            "unpriced_requests": 2,
            "metadata": {"plan": "pro"},
        }
        self.assertEqual({name: body[name] for name in ours}, ours)
        self.assertEqual(instant(body["last_seen_at"]), datetime(2026, 3, 1, 12, tzinfo=UTC))

    def test_money_is_an_exact_decimal_number(self):
        Customer.objects.create(id="exact")
        spent("exact", "0")
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

                self.get("/customer/info", end_user_id="exact")

                self.assertIn(b'"spend":' + written + b",", self.response.content)

    def test_the_older_path_says_the_same(self):
        Customer.objects.create(id="same")

        self.assertEqual(
            self.get("/customer/info", end_user_id="same"), self.get("/end_user/info", end_user_id="same")
        )

    def test_it_takes_three_queries(self):
        Customer.objects.create(id="cheap", budget=Budget.objects.create(max_budget=Decimal(1)))

        with self.assertNumQueries(3):
            self.get("/customer/info", end_user_id="cheap")

    def test_an_unknown_one_is_404(self):
        for customer_id in ("nobody", "x" * 5_000, "\u2028"):
            with self.subTest(customer_id[:10]):
                answered = self.get("/customer/info", end_user_id=customer_id)

                self.assertIn(
                    "no customer with id", self.assert_error(answered, 404, "not_found", "end_user_id")
                )

    def test_a_deleted_one_is_404(self):
        Customer.objects.create(id="gone")
        delete_customers(ids=["gone"], at=timezone.now())

        self.assert_error(self.get("/customer/info", end_user_id="gone"), 404, "not_found", "end_user_id")

    def test_without_an_id_it_is_422(self):
        self.assert_invalid(self.get("/customer/info"), "query", "end_user_id")
        for customer_id in ("", "a\0b"):
            self.assert_invalid(self.get("/customer/info", end_user_id=customer_id), "query", "end_user_id")

    def test_other_methods_are_405(self):
        self.assertEqual(self.post("/customer/info", {})[1]["error"]["code"], "405")


class UpdateTests(ExactApiTestCase):
    def setUp(self):
        self.done(
            self.post(
                "/customer/new",
                {"user_id": "acme", "alias": "Acme", "max_budget": 10, "rpm_limit": 5, "metadata": {"a": 1}},
            )
        )

    def update(self, **fields: Any) -> Any:
        return self.done(self.post("/customer/update", {"user_id": "acme", **fields}))

    def test_only_what_is_sent_changes(self):
        before = self.done(self.get("/customer/info", end_user_id="acme"))

        after = self.update(alias="Acme Ltd")

        changed = {name for name in before if before[name] != after[name]}
        self.assertEqual(changed, {"alias", "updated_at"})

    def test_nothing_zero_and_empty_are_values(self):
        make_deployment("gpt-4o")
        self.update(blocked=True, models=["gpt-4o"], default_model="gpt-4o", allowed_model_region="us")

        body = self.update(
            alias=None, blocked=False, models=[], default_model=None, allowed_model_region=None,
            metadata={}, max_budget=0, rpm_limit=None, budget_duration="1d", tpm_limit=7, soft_budget=1,
        )  # fmt: skip

        self.assertEqual(
            [body[name] for name in ("alias", "blocked", "models", "default_model", "allowed_model_region")],
            [None, False, [], None, None],
        )
        self.assertEqual(body["metadata"], {})
        table = body["litellm_budget_table"]
        self.assertEqual(
            [
                table[name]
                for name in ("max_budget", "rpm_limit", "budget_duration", "tpm_limit", "soft_budget")
            ],
            [0, None, "1d", 7, 1],
        )

    def test_a_private_budget_is_edited_in_place(self):
        before = Budget.objects.get().pk

        body = self.update(max_budget=20)

        self.assertEqual((body["budget_id"], Budget.objects.count()), (before, 1))

    def test_a_shared_budget_is_cloned_before_it_is_edited(self):
        Budget.objects.create(id="gold", max_budget=100, budget_duration="1mo")
        Customer.objects.create(id="other", budget_id="gold")
        self.update(budget_id="gold")

        body = self.update(max_budget=50)

        self.assertNotEqual(body["budget_id"], "gold")
        table = body["litellm_budget_table"]
        self.assertEqual((table["max_budget"], table["budget_duration"]), (50, "1mo"))
        self.assertEqual(Budget.objects.get(pk="gold").max_budget, 100)
        self.assertEqual(Customer.objects.get(pk="other").budget_id, "gold")

    def test_a_budget_is_detached_with_null(self):
        body = self.update(budget_id=None)

        self.assertEqual((body["budget_id"], body["litellm_budget_table"]), (None, None))

    def test_a_limit_makes_a_budget_where_there_is_none(self):
        self.update(budget_id=None)

        self.assertEqual(self.update(max_budget=None)["budget_id"], None)
        self.assertEqual(self.update(rpm_limit=3)["litellm_budget_table"]["rpm_limit"], 3)

    def test_what_was_spent_is_kept_when_the_limit_changes(self):
        at = timezone.now()
        with self.captureOnCommitCallbacks(execute=True):
            self.update(budget_duration="1mo")
        BudgetPeriod.objects.filter(ends_at__gt=at).update(spent_charge=Decimal(4))

        with self.captureOnCommitCallbacks(execute=True):
            self.update(max_budget=20)

        period = self.done(self.get("/customer/info", end_user_id="acme"))["budget_period"]
        self.assertEqual((period["limit"], period["spent"], period["remaining"]), (20, 4, 16))

    def test_a_temporary_increase_is_shown_while_it_lasts(self):
        until = timezone.now() + timedelta(hours=1)
        raised = self.update(temp_budget_increase=5, temp_budget_expiry=until.isoformat())
        ended = self.update(temp_budget_expiry=(until - timedelta(hours=2)).isoformat())

        self.assertEqual(raised["budget_period"]["limit"], 15)
        self.assertEqual(raised["litellm_budget_table"]["max_budget"], 10)
        self.assertEqual(ended["budget_period"]["limit"], 10)

    def test_an_unknown_or_deleted_one_is_404(self):
        delete_customers(ids=["acme"], at=timezone.now())
        for customer_id in ("nobody", "acme"):
            self.assert_error(
                self.post("/customer/update", {"user_id": customer_id, "alias": "x"}),
                404,
                "not_found",
                "user_id",
            )

    def test_what_is_refused_changes_nothing(self):
        before = self.done(self.get("/customer/info", end_user_id="acme"))

        self.assert_error(
            self.post("/customer/update", {"user_id": "acme", "alias": "New", "max_budget": -1}),
            400, "bad_request", "max_budget",
        )  # fmt: skip
        self.assert_invalid(
            self.post("/customer/update", {"user_id": "acme", "alias": "New", "default_model": "none"}),
            "body", "default_model",
        )  # fmt: skip
        self.assert_invalid(self.post("/customer/update", {"alias": "New"}), "body", "user_id")

        self.assertEqual(self.done(self.get("/customer/info", end_user_id="acme")), before)

    def test_the_audit_log_tells_what_changed_and_no_more(self):
        self.update(alias="Acme Ltd")

        entry = AuditLog.objects.filter(kind="customers.customer").latest("pk")
        self.assertEqual((entry.before, entry.after), ({"alias": "Acme"}, {"alias": "Acme Ltd"}))


class DeleteTests(ExactApiTestCase):
    def test_it_says_how_many(self):
        Customer.objects.bulk_create([Customer(id="a"), Customer(id="b"), Customer(id="c")])

        body = self.done(self.post("/customer/delete", {"user_ids": ["a", "b", "a"]}))

        self.assertEqual(body["deleted_customers"], 2)
        self.assertIn("2 customers", body["message"])
        self.assertEqual([row["user_id"] for row in self.done(self.get("/customer/list"))], ["c"])

    def test_one_that_is_missing_keeps_all(self):
        Customer.objects.bulk_create([Customer(id="a"), Customer(id="gone", deleted_at=timezone.now())])
        for missing in ("nobody", "gone"):
            message = self.assert_error(
                self.post("/customer/delete", {"user_ids": ["a", missing]}), 404, "not_found", "user_ids"
            )

            self.assertIn(missing, message)
        self.assertEqual(Customer.objects.listed().count(), 1)

    def test_one_with_a_budget_and_spend_can_be_deleted(self):
        self.post("/customer/new", {"user_id": "acme", "max_budget": 5, "spend": 2})

        self.done(self.post("/customer/delete", {"user_ids": ["acme"]}))

        self.assertEqual(SpendTotal.objects.get().charge, 2)

    def test_what_has_the_wrong_shape_is_422(self):
        for path in ("/customer/delete", "/customer/block", "/customer/unblock"):
            for body in (
                {},
                {"user_ids": []},
                {"user_ids": "a"},
                {"user_ids": [""]},
                {"user_ids": ["a"] * 1001},
            ):
                with self.subTest(path=path, body=str(body)[:40]):
                    self.assertEqual(self.post(path, body)[0], 422)


class BlockTests(ExactApiTestCase):
    def test_it_blocks_and_makes_those_that_are_unknown(self):
        Customer.objects.bulk_create([Customer(id="b"), Customer(id="c", blocked=True)])

        body = self.done(self.post("/customer/block", {"user_ids": ["b", "new", "c", "b"]}))

        self.assertEqual(
            [(row["user_id"], row["blocked"]) for row in body["blocked_users"]],
            [("b", True), ("new", True), ("c", True)],
        )
        self.assertEqual(tuple(body["blocked_users"][0])[: len(CONTRACT)], CONTRACT)
        self.assertEqual(Customer.objects.filter(blocked=True).count(), 3)

    def test_workers_hear_of_it(self):
        self.done(self.post("/customer/block", {"user_ids": ["new"]}))

        self.assertEqual(Change.objects.get().object_id, "new")

    def test_a_deleted_one_comes_back_blocked(self):
        Customer.objects.create(id="gone", deleted_at=timezone.now())

        self.done(self.post("/customer/block", {"user_ids": ["gone"]}))

        self.assertTrue(self.done(self.get("/customer/info", end_user_id="gone"))["blocked"])

    def test_unblocking_clears_the_flag(self):
        self.post("/customer/block", {"user_ids": ["a", "b"]})

        body = self.done(self.post("/customer/unblock", {"user_ids": ["a"]}))

        self.assertEqual(body["blocked_users"], [])
        self.assertEqual(
            [(row["user_id"], row["blocked"]) for row in body["unblocked_users"]], [("a", False)]
        )
        self.assertTrue(Customer.objects.get(pk="b").blocked)

    def test_unblocking_one_that_is_missing_unblocks_none(self):
        self.post("/customer/block", {"user_ids": ["a"]})

        self.assert_error(
            self.post("/customer/unblock", {"user_ids": ["a", "nobody"]}), 404, "not_found", "user_ids"
        )

        self.assertTrue(Customer.objects.get().blocked)


class ListTests(ExactApiTestCase):
    def setUp(self):
        Customer.objects.bulk_create(
            [Customer(id=f"c{number}", alias=f"Acme {number}" if number % 2 else "") for number in range(5)]
            + [Customer(id="gone", alias="Acme", deleted_at=timezone.now())]
        )

    def ids(self, **query: Any) -> list[str]:
        return [row["user_id"] for row in self.done(self.get("/customer/list", **query))]

    def test_unpaged_it_has_all_by_their_ids(self):
        self.assertEqual(self.ids(), ["c0", "c1", "c2", "c3", "c4"])
        self.assertEqual(self.response.headers["x-total-count"], "5")
        self.assertNotIn("x-total-pages", self.response.headers)

    def test_rows_are_whole_customers(self):
        self.assertEqual(
            self.done(self.get("/customer/list"))[1], self.done(self.get("/customer/info", end_user_id="c1"))
        )

    def test_pages_come_with_totals_in_headers(self):
        self.assertEqual(self.ids(page=2, page_size=2), ["c2", "c3"])
        headers = self.response.headers
        self.assertEqual((headers["x-total-count"], headers["x-total-pages"]), ("5", "3"))
        self.assertNotIn("x-total-is-at-least", headers)
        self.assertEqual(self.ids(page=3, page_size=2), ["c4"])
        self.assertEqual(self.ids(page=4, page_size=2), [])
        self.assertEqual(self.ids(page=1), ["c0", "c1", "c2", "c3", "c4"])
        self.assertEqual(self.ids(page_size=1), ["c0"])

    def test_a_search_finds_a_part_of_id_or_name_in_any_case(self):
        for part, found in (
            ("ACME", ["c1", "c3"]), ("me 3", ["c3"]), ("C", ["c0", "c1", "c2", "c3", "c4"]), ("4", ["c4"]),
            ("%", []), ("_", []), ("\\", []), ("nobody", []), ("", ["c0", "c1", "c2", "c3", "c4"]),
        ):  # fmt: skip
            with self.subTest(part):
                self.assertEqual(self.ids(search=part), found)
        self.assertEqual(self.ids(search="acme", page=2, page_size=1), ["c3"])
        self.assertEqual(self.response.headers["x-total-count"], "2")

    def test_a_search_takes_its_characters_as_they_are(self):
        Customer.objects.create(id="100%_off\\", alias="it's")

        for part in ("0%", "%_o", "f\\", "t's"):
            self.assertEqual(self.ids(search=part), ["100%_off\\"])

    def test_a_search_does_not_reach_from_the_id_into_the_name(self):
        Customer.objects.create(id="ab", alias="cd")

        self.assertEqual(self.ids(search="bc"), [])

    def test_a_renamed_customer_is_found_by_its_new_name(self):
        customer = Customer.objects.get(pk="c1")
        customer.alias = "Globex"
        customer.save(update_fields=["alias"])

        self.assertEqual((self.ids(search="globex"), self.ids(search="acme 1")), (["c1"], []))

    def test_it_takes_a_fixed_number_of_queries(self):
        budget = Budget.objects.create(max_budget=5)
        Customer.objects.update(budget=budget)
        for number in (1, 5):
            with self.subTest(number), self.assertNumQueries(4):  # rows, count, totals, periods
                self.get("/customer/list", page=1, page_size=number)
        with self.assertNumQueries(3):  # whoever sees the last page has counted
            self.get("/customer/list", page=1, page_size=6)
        with self.assertNumQueries(3):
            self.get("/customer/list")

    def test_too_many_for_one_answer_are_asked_for_in_pages(self):
        with patch.object(view, "MOST_UNPAGED", 4):
            message = self.assert_error(self.get("/customer/list"), 400, "bad_request", "page")
            found = self.ids(search="acme")

        self.assertIn("page=1", message)
        self.assertEqual(found, ["c1", "c3"])

    def test_a_count_that_was_given_up_says_so(self):
        with patch.object(view, "MOST_COUNTED", 4), patch.object(view, "MOST_FOUND", 1):
            self.ids(page=1, page_size=1, search="acme")
            self.assertEqual(self.response.headers["x-total-is-at-least"], "true")
            self.assertEqual(self.response.headers["x-total-count"], "1")
            self.ids(page=1, page_size=2)

        headers = self.response.headers
        self.assertEqual(
            (headers["x-total-count"], headers["x-total-pages"], headers["x-total-is-at-least"]),
            ("4", "2", "true"),
        )

    def test_a_page_of_a_search_beyond_what_is_counted_is_to_be_narrowed(self):
        with patch.object(view, "MOST_FOUND", 2):
            self.assertEqual(self.ids(page=2, page_size=1, search="c"), ["c1"])
            message = self.assert_error(
                self.get("/customer/list", page=3, page_size=1, search="c"), 400, "bad_request", "page"
            )
            self.assertEqual(self.ids(page=3, page_size=1), ["c2"])  # no search: an index leads there

        self.assertIn("narrow the search", message)

    def test_pages_that_make_no_sense_are_422(self):
        for name, values in {
            "page": (0, -1, "one", 1.5, 2**70),
            "page_size": (0, 101, "all"),
            "search": ("a\0b", "x" * 256, "a\nb"),
        }.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.assert_invalid(self.get("/customer/list", **{name: value}), "query", name)


class AccessTests(ExactApiTestCase):
    """Alice runs the gateway, Bob is on a team, Charlie has a key and must see nothing."""

    def setUp(self):
        Customer.objects.create(id="acme")

    def answers(self, headers: dict[str, str]) -> dict[str, tuple[int, Any]]:
        return {
            "info": self.get("/customer/info", headers, end_user_id="acme"),
            "list": self.get("/customer/list", headers),
            "new": self.post("/customer/new", {"user_id": "new"}, headers),
            "update": self.post("/customer/update", {"user_id": "acme", "alias": "x"}, headers),
            "block": self.post("/customer/block", {"user_ids": ["acme"]}, headers),
            "unblock": self.post("/customer/unblock", {"user_ids": ["acme"]}, headers),
            "delete": self.post("/customer/delete", {"user_ids": ["acme"]}, headers),
        }

    def test_alice_may_do_all(self):
        for headers in (MASTER, self.key_of(User.Role.PROXY_ADMIN)):
            self.assertEqual({answer[0] for answer in self.answers(headers).values()}, {200})
            Customer.objects.filter(pk="acme").update(deleted_at=None)
            Customer.objects.filter(pk="new").delete()

    def test_a_viewer_reads(self):
        answers = self.answers(self.key_of(User.Role.PROXY_ADMIN_VIEWER))

        self.assertEqual([answers.pop("info")[0], answers.pop("list")[0]], [200, 200])
        for answer in answers.values():
            self.assert_error(answer, 403, "auth_error")
        self.assertEqual(list(Customer.objects.values_list("pk", "alias", "blocked")), [("acme", "", False)])

    def test_bob_and_charlie_may_not(self):
        team = Team.objects.create()
        for headers in (self.key_of(User.Role.INTERNAL_USER, team=team), self.key_of(None)):
            for name, answer in self.answers(headers).items():
                message = self.assert_error(answer, 401 if name == "list" else 403, "auth_error")

                self.assertNotIn("acme", message)

    def test_nobody_else_may(self):
        yesterday = timezone.now() - timedelta(days=1)
        blocked_team = Team.objects.create(blocked=True)
        for headers, type_, fragment in (
            ({}, "auth_error", "No api key passed in"),
            ({"authorization": MASTER["authorization"].removeprefix("Bearer ")}, "auth_error", "Malformed"),
            ({"authorization": "Bearer sk-unknown"}, "token_not_found_in_db", "Invalid proxy server token"),
            (self.key_of(User.Role.PROXY_ADMIN, blocked=True), "auth_error", "blocked"),
            (self.key_of(User.Role.PROXY_ADMIN, team=blocked_team), "auth_error", "blocked"),
            (self.key_of(User.Role.PROXY_ADMIN, expires_at=yesterday), "expired_key", "Expired Key"),
        ):
            with self.subTest(fragment):
                status, body = self.get("/customer/info", headers, end_user_id="acme")

                self.assertEqual((status, body["error"]["type"]), (401, type_))
                self.assertIn(fragment, body["error"]["message"])

    def test_a_log_in_to_the_admin_is_no_key(self):
        self.client.force_login(User.objects.create_superuser("alice", password="irrelevant"))

        self.assertEqual(self.get("/customer/info", {}, end_user_id="acme")[0], 401)
