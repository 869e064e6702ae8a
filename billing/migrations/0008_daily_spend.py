"""Daily rollups, and the results of comparing them with the log."""

import uuid

import django.db.models.deletion
from django.db import migrations, models

import customers.money


def leave_room_in_pages(apps, schema_editor):
    """Rows are added to all day long: with room beside them, that touches no index."""
    if schema_editor.connection.vendor == "postgresql":
        for table in ("billing_dailyspend", "billing_dailytagspend", "billing_dailyoverview"):
            schema_editor.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0007_lean_holds"),
    ]

    operations = [
        migrations.CreateModel(
            name="DailyOverview",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("day", models.DateField()),
                ("key_id", models.UUIDField()),
                ("team_id", models.CharField(max_length=255)),
                ("model", models.CharField(max_length=255)),
                ("provider", models.CharField(max_length=100)),
                ("upstream_model", models.CharField(max_length=255)),
                ("deployment_id", models.BigIntegerField()),
                ("dialect", models.CharField(max_length=30)),
                ("client_tool", models.CharField(max_length=40)),
                ("cost", customers.money.UsdField(verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(verbose_name="charge, USD")),
                ("calls", models.IntegerField()),
                ("failed_calls", models.IntegerField()),
                ("unpriced_calls", models.IntegerField()),
                ("estimated_calls", models.IntegerField()),
                ("cache_hits", models.IntegerField()),
                ("input_uncached", models.BigIntegerField()),
                ("cache_read", models.BigIntegerField()),
                ("cache_write_5m", models.BigIntegerField()),
                ("cache_write_1h", models.BigIntegerField()),
                ("output_text", models.BigIntegerField()),
                ("reasoning", models.BigIntegerField()),
                ("input_audio", models.BigIntegerField()),
                ("output_audio", models.BigIntegerField()),
                ("input_image", models.BigIntegerField()),
                ("output_image", models.BigIntegerField()),
                ("web_searches", models.BigIntegerField()),
                ("latency_ms_sum", models.BigIntegerField()),
                ("latency_0", models.IntegerField()),
                ("latency_1", models.IntegerField()),
                ("latency_2", models.IntegerField()),
                ("latency_3", models.IntegerField()),
                ("latency_4", models.IntegerField()),
                ("latency_5", models.IntegerField()),
                ("latency_6", models.IntegerField()),
                ("latency_7", models.IntegerField()),
                ("latency_8", models.IntegerField()),
                ("latency_9", models.IntegerField()),
                ("latency_10", models.IntegerField()),
                ("latency_11", models.IntegerField()),
                ("latency_12", models.IntegerField()),
                ("latency_13", models.IntegerField()),
                ("latency_14", models.IntegerField()),
                ("latency_15", models.IntegerField()),
            ],
            options={
                "verbose_name": "daily overview",
            },
        ),
        migrations.CreateModel(
            name="DailyTagSpend",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("day", models.DateField()),
                ("key_id", models.UUIDField()),
                ("team_id", models.CharField(max_length=255)),
                ("model", models.CharField(max_length=255)),
                ("provider", models.CharField(max_length=100)),
                ("upstream_model", models.CharField(max_length=255)),
                ("deployment_id", models.BigIntegerField()),
                ("dialect", models.CharField(max_length=30)),
                ("client_tool", models.CharField(max_length=40)),
                ("cost", customers.money.UsdField(verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(verbose_name="charge, USD")),
                ("calls", models.IntegerField()),
                ("failed_calls", models.IntegerField()),
                ("unpriced_calls", models.IntegerField()),
                ("estimated_calls", models.IntegerField()),
                ("cache_hits", models.IntegerField()),
                ("input_uncached", models.BigIntegerField()),
                ("cache_read", models.BigIntegerField()),
                ("cache_write_5m", models.BigIntegerField()),
                ("cache_write_1h", models.BigIntegerField()),
                ("output_text", models.BigIntegerField()),
                ("reasoning", models.BigIntegerField()),
                ("input_audio", models.BigIntegerField()),
                ("output_audio", models.BigIntegerField()),
                ("input_image", models.BigIntegerField()),
                ("output_image", models.BigIntegerField()),
                ("web_searches", models.BigIntegerField()),
                ("latency_ms_sum", models.BigIntegerField()),
                ("latency_0", models.IntegerField()),
                ("latency_1", models.IntegerField()),
                ("latency_2", models.IntegerField()),
                ("latency_3", models.IntegerField()),
                ("latency_4", models.IntegerField()),
                ("latency_5", models.IntegerField()),
                ("latency_6", models.IntegerField()),
                ("latency_7", models.IntegerField()),
                ("latency_8", models.IntegerField()),
                ("latency_9", models.IntegerField()),
                ("latency_10", models.IntegerField()),
                ("latency_11", models.IntegerField()),
                ("latency_12", models.IntegerField()),
                ("latency_13", models.IntegerField()),
                ("latency_14", models.IntegerField()),
                ("latency_15", models.IntegerField()),
                ("tag_set_id", models.UUIDField()),
            ],
            options={
                "verbose_name": "daily spend by tags",
            },
        ),
        migrations.CreateModel(
            name="ReconcileRun",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("seconds", models.FloatField()),
                ("rows_compared", models.BigIntegerField()),
                ("differences", models.IntegerField()),
                ("repaired", models.BooleanField(default=False)),
                ("examples", models.JSONField(default=list)),
            ],
            options={
                "verbose_name": "reconciliation",
            },
        ),
        migrations.CreateModel(
            name="TagSet",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("tags", models.JSONField()),
            ],
            options={
                "verbose_name": "set of tags",
            },
        ),
        migrations.CreateModel(
            name="DailySpend",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("day", models.DateField()),
                ("key_id", models.UUIDField()),
                ("team_id", models.CharField(max_length=255)),
                ("model", models.CharField(max_length=255)),
                ("provider", models.CharField(max_length=100)),
                ("upstream_model", models.CharField(max_length=255)),
                ("deployment_id", models.BigIntegerField()),
                ("dialect", models.CharField(max_length=30)),
                ("client_tool", models.CharField(max_length=40)),
                ("cost", customers.money.UsdField(verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(verbose_name="charge, USD")),
                ("calls", models.IntegerField()),
                ("failed_calls", models.IntegerField()),
                ("unpriced_calls", models.IntegerField()),
                ("estimated_calls", models.IntegerField()),
                ("cache_hits", models.IntegerField()),
                ("input_uncached", models.BigIntegerField()),
                ("cache_read", models.BigIntegerField()),
                ("cache_write_5m", models.BigIntegerField()),
                ("cache_write_1h", models.BigIntegerField()),
                ("output_text", models.BigIntegerField()),
                ("reasoning", models.BigIntegerField()),
                ("input_audio", models.BigIntegerField()),
                ("output_audio", models.BigIntegerField()),
                ("input_image", models.BigIntegerField()),
                ("output_image", models.BigIntegerField()),
                ("web_searches", models.BigIntegerField()),
                ("latency_ms_sum", models.BigIntegerField()),
                ("latency_0", models.IntegerField()),
                ("latency_1", models.IntegerField()),
                ("latency_2", models.IntegerField()),
                ("latency_3", models.IntegerField()),
                ("latency_4", models.IntegerField()),
                ("latency_5", models.IntegerField()),
                ("latency_6", models.IntegerField()),
                ("latency_7", models.IntegerField()),
                ("latency_8", models.IntegerField()),
                ("latency_9", models.IntegerField()),
                ("latency_10", models.IntegerField()),
                ("latency_11", models.IntegerField()),
                ("latency_12", models.IntegerField()),
                ("latency_13", models.IntegerField()),
                ("latency_14", models.IntegerField()),
                ("latency_15", models.IntegerField()),
                ("tag_set_id", models.UUIDField()),
                ("customer_id", models.CharField(max_length=255)),
                ("user_id", models.CharField(max_length=255)),
            ],
            options={
                "verbose_name": "daily spend",
                "indexes": [
                    models.Index(fields=["customer_id", "day"], name="daily_spend_customer"),
                    models.Index(
                        condition=models.Q(("user_id", ""), _negated=True),
                        fields=["user_id", "day"],
                        name="daily_spend_user",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="TagSetMember",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("tag", models.CharField(max_length=511)),
                (
                    "tag_set",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        to="billing.tagset",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["tag"], name="tag_set_member_tag")],
                "constraints": [
                    models.UniqueConstraint(fields=("tag_set", "tag"), name="tag_set_member_once")
                ],
            },
        ),
        # Backwards there is nothing to do: it goes with the tables.
        migrations.RunPython(leave_room_in_pages, migrations.RunPython.noop),
    ]
