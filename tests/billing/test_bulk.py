"""Statements with many rows, and those that PostgreSQL keeps prepared."""

from unittest import skipUnless

from django.db import connection
from django.test import TestCase

from billing.bulk import among, prepared


class PreparedTests(TestCase):
    @skipUnless(connection.vendor == "postgresql", "SQLite keeps no statement beyond its cursor")
    def test_postgresql_keeps_a_statement(self):
        statement = "SELECT 17 + %s::bigint"

        with connection.cursor() as cursor:
            sums = [prepared(cursor, statement, [number]).fetchone()[0] for number in (1, 2, 3)]
            cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT 17 +%'")
            kept = cursor.fetchone()[0]

        self.assertEqual((sums, kept), ([18, 19, 20], 1))

    def test_a_condition_finds_what_is_among_its_values(self):
        condition = among("number", "integer", [2, 3, 5])
        numbers = "SELECT 1 AS number UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4"

        with connection.cursor() as cursor:
            found = prepared(
                cursor,
                f"SELECT number FROM ({numbers}) AS numbers WHERE {condition.sql}",
                condition.parameters,
            ).fetchall()

        self.assertEqual(sorted(found), [(2,), (3,)])
