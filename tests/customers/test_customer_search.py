"""The admin's search for customers, and what it reads."""

from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers.models import Customer, User


class AdminSearchTests(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("alice", password="irrelevant"))
        Customer.objects.create(id="c-1", alias="Acme Berlin")
        Customer.objects.create(id="c-2", alias="Acme Paris")
        Customer.objects.create(id="BERLIN-3")
        Customer.objects.create(id="c-4", alias="Acme Berlin", deleted_at=timezone.now())

    def found(self, term: str) -> set[str]:
        response = self.client.get("/admin/customers/customer/", {"q": term})
        self.assertEqual(response.status_code, 200)
        return {customer.pk for customer in response.context["cl"].result_list}

    def test_it_finds_every_word_in_id_or_name_in_any_case(self):
        for term, expected in (
            ("acme", {"c-1", "c-2"}), ("berlin", {"c-1", "BERLIN-3"}), ("berlin ACME", {"c-1"}),
            ("-2", set()), ("c-", {"c-1", "c-2"}), ("B", {"BERLIN-3"}),
            ("ac paris", {"c-2"}), ("%", set()), ("nobody", set()), ("a\u2028b", set()), ("x" * 300, set()),
            ("  ", {"c-1", "c-2", "BERLIN-3"}),
        ):  # fmt: skip
            with self.subTest(term[:10]):
                self.assertEqual(self.found(term), expected)

    def test_a_form_s_drop_down_offers_no_deleted_ones(self):
        response = self.client.get(
            "/admin/autocomplete/",
            {
                "term": "berlin",
                "app_label": "customers",
                "model_name": "virtualkey",
                "field_name": "customer",
            },
        )

        self.assertEqual({each["id"] for each in response.json()["results"]}, {"c-1", "BERLIN-3"})


class PagingTests(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("alice", password="irrelevant"))

    def test_a_deep_page_reads_sums_of_its_own_rows_alone(self):
        Customer.objects.bulk_create(Customer(id=f"c-{number:03}") for number in range(120))

        with CaptureQueriesContext(connection) as queries:
            response = self.client.get("/admin/customers/customer/", {"p": 3, "o": "1"})

        self.assertEqual(
            [row.pk for row in response.context["cl"].result_list], [f"c-{n:03}" for n in range(100, 120)]
        )
        [page] = [query["sql"] for query in queries if "billing_spendtotal" in query["sql"]]
        self.assertNotIn("billing_spendtotal", page[page.index(" OFFSET ") - 300 :])


class IndexTests(TestCase):
    def test_a_deep_page_of_a_search_is_read_from_the_index(self):
        page = Customer.objects.listed().matching("acme").order_by("pk").values("pk")[100:150]
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET LOCAL enable_seqscan = off")
                cursor.execute("SET LOCAL enable_bitmapscan = off")
            plan = page.explain()

        self.assertIn("customer_search", plan)
        if connection.vendor == "postgresql":
            self.assertIn("Index Only Scan", plan)
