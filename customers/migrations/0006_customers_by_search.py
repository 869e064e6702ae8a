"""Customers found by a part of their id or name; their own models and region among the exceptions."""

from typing import Any

import django.db.models.functions.text
from django.db import DatabaseError, migrations, models, transaction

TRIGRAMS = (
    "CREATE INDEX customer_search_trigrams ON customers_customer "
    "USING gin (search_text gin_trgm_ops) WHERE deleted_at IS NULL"
)


def add_trigrams(apps: Any, schema_editor: Any) -> None:
    """Index the search by trigrams where PostgreSQL has pg_trgm and lets us use it.

    Without it all still works; a search for what is rare then reads the whole index
    `customer_search`. docs/api/customers.md tells how to add it later.
    """
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        try:
            with transaction.atomic(using=connection.alias):
                cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
                cursor.execute(TRIGRAMS)
        except DatabaseError:  # not installed, or not ours to create
            return


def drop_trigrams(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX IF EXISTS customer_search_trigrams")


class Migration(migrations.Migration):
    dependencies = [
        ("customers", "0005_idempotent_answers"),
    ]

    operations = [
        migrations.RemoveIndex(model_name="customer", name="customer_exceptions"),
        migrations.AddField(
            model_name="customer",
            name="search_text",
            field=models.GeneratedField(
                db_persist=True,
                expression=django.db.models.functions.text.Left(
                    django.db.models.functions.text.Lower(
                        django.db.models.functions.text.Concat("id", models.Value("\n"), "alias")
                    ),
                    400,
                ),
                output_field=models.CharField(max_length=400),
            ),
        ),
        migrations.AlterField(
            model_name="customer",
            name="allowed_model_region",
            field=models.CharField(
                blank=True,
                choices=[("eu", "EU"), ("us", "US")],
                help_text="Calls go to upstreams of this region alone.",
                max_length=10,
                verbose_name="region",
            ),
        ),
        migrations.AlterField(
            model_name="customer",
            name="default_model",
            field=models.CharField(
                blank=True,
                help_text="Serves calls for a model that the region does not have.",
                max_length=255,
            ),
        ),
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(
                fields=["id"],
                name="customer_exceptions",
                condition=models.Q(
                    ("blocked", True),
                    ("budget__isnull", False),
                    models.Q(("allowed_models", []), _negated=True),
                    models.Q(("allowed_model_region", ""), _negated=True),
                    _connector="OR",
                ),
            ),
        ),
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(
                fields=["id", "search_text"], name="customer_search", condition=models.Q(("deleted_at", None))
            ),
        ),
        migrations.RunPython(add_trigrams, drop_trigrams),
    ]
