"""The spend log: partitioned by month on PostgreSQL, a plain table elsewhere."""

import uuid

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import customers.money
from billing.booking.partitions import TABLE, CreatePartitionedModel


def add_default_partition_and_tag_index(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(f"CREATE TABLE {TABLE}_default PARTITION OF {TABLE} DEFAULT")
        # Read by the Logs page's tag filter.
        schema_editor.execute(f"CREATE INDEX spendlog_tags ON {TABLE} USING gin (tags jsonb_path_ops)")


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0001_prices"),
        ("customers", "0001_customers_keys_teams"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        CreatePartitionedModel(
            name="SpendLog",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("started_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField()),
                ("dialect", models.CharField(max_length=30)),
                ("streamed", models.BooleanField(default=False)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("success", "success"),
                            ("failure", "failure"),
                            ("refused", "refused"),
                            ("interrupted", "interrupted"),
                            ("not_sent", "not sent"),
                            ("quarantined", "quarantined"),
                        ],
                        max_length=12,
                    ),
                ),
                ("http_status", models.PositiveSmallIntegerField(null=True)),
                ("error_type", models.CharField(blank=True, max_length=60)),
                ("error_message", models.CharField(blank=True, max_length=500)),
                ("tags", models.JSONField(default=list)),
                ("session_id", models.CharField(blank=True, max_length=255)),
                ("user_agent", models.CharField(blank=True, max_length=255)),
                ("client_tool", models.CharField(blank=True, max_length=40)),
                ("client_call_id", models.CharField(blank=True, max_length=255)),
                ("client_left", models.BooleanField(default=False)),
                ("model", models.CharField(blank=True, max_length=255)),
                ("deployment_id", models.BigIntegerField(null=True)),
                ("upstream", models.CharField(blank=True, max_length=100)),
                ("provider", models.CharField(blank=True, max_length=100)),
                ("upstream_model", models.CharField(blank=True, max_length=255)),
                ("response_id", models.CharField(blank=True, max_length=255)),
                ("service_tier", models.CharField(blank=True, max_length=30)),
                ("attempts", models.JSONField(default=list)),
                (
                    "usage_source",
                    models.CharField(
                        choices=[
                            ("provider", "provider: the provider's own figures"),
                            ("partial", "partial: the stream ended early; what was seen"),
                            ("estimated", "estimated: no figures were received"),
                            ("cache", "cache: answered without the provider"),
                            ("none", "none: nothing was used"),
                        ],
                        max_length=10,
                    ),
                ),
                ("input_uncached", models.BigIntegerField(default=0)),
                ("cache_read", models.BigIntegerField(default=0)),
                ("cache_write_5m", models.BigIntegerField(default=0)),
                ("cache_write_1h", models.BigIntegerField(default=0)),
                ("output_text", models.BigIntegerField(default=0)),
                ("reasoning", models.BigIntegerField(default=0)),
                ("input_audio", models.BigIntegerField(default=0)),
                ("output_audio", models.BigIntegerField(default=0)),
                ("input_image", models.BigIntegerField(default=0)),
                ("output_image", models.BigIntegerField(default=0)),
                ("web_searches", models.BigIntegerField(default=0)),
                ("cost", customers.money.UsdField(null=True, verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(null=True, verbose_name="charge, USD")),
                ("latency_ms", models.PositiveIntegerField(default=0)),
                (
                    "first_token_ms",
                    models.PositiveIntegerField(null=True, verbose_name="time to first token, ms"),
                ),
                ("metadata", models.JSONField(default=dict)),
                ("request_body", models.TextField(blank=True)),
                ("response_body", models.TextField(blank=True)),
                (
                    "customer",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="spend_logs",
                        to="customers.customer",
                    ),
                ),
                (
                    "key",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="spend_logs",
                        to="customers.virtualkey",
                    ),
                ),
                (
                    "price",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="spend_logs",
                        to="billing.price",
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="spend_logs",
                        to="customers.team",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="spend_logs",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "spend log",
                "verbose_name_plural": "logs",
                "indexes": [
                    models.Index(fields=["customer", "-id"], name="spendlog_customer"),
                    models.Index(fields=["key", "-id"], name="spendlog_key"),
                    models.Index(fields=["team", "-id"], name="spendlog_team"),
                    models.Index(fields=["model", "-id"], name="spendlog_model"),
                    models.Index(
                        condition=models.Q(("status", "success"), _negated=True),
                        fields=["status", "-id"],
                        name="spendlog_status",
                    ),
                ],
            },
        ),
        # Backwards there is nothing to do: both go with the table.
        migrations.RunPython(add_default_partition_and_tag_index, migrations.RunPython.noop),
    ]
