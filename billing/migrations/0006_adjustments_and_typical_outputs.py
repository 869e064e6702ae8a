"""Corrections of what was booked, and how long a model's answers usually are."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import customers.money


def _loose_foreign_key(to):
    return models.ForeignKey(
        blank=True,
        db_constraint=False,
        db_index=False,
        null=True,
        on_delete=django.db.models.deletion.DO_NOTHING,
        related_name="adjustments",
        to=to,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0005_periods_that_start_afresh"),
        ("customers", "0001_customers_keys_teams"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Adjustment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("log_id", models.UUIDField(db_index=True, null=True)),
                ("started_at", models.DateTimeField(db_index=True)),
                ("booked_at", models.DateTimeField()),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("late_journal", "late journal: the call had been booked by its estimate"),
                            ("repricing", "re-pricing"),
                            ("initial_spend", "initial spend"),
                        ],
                        max_length=20,
                    ),
                ),
                ("note", models.CharField(blank=True, max_length=500)),
                ("tags", models.JSONField(default=list)),
                ("model", models.CharField(blank=True, max_length=255)),
                ("cost", customers.money.UsdField(verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(verbose_name="charge, USD")),
                ("customer", _loose_foreign_key("customers.customer")),
                ("key", _loose_foreign_key("customers.virtualkey")),
                ("team", _loose_foreign_key("customers.team")),
                ("user", _loose_foreign_key(settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name="TypicalOutput",
            fields=[
                ("upstream_model", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("calls", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "typical output",
            },
        ),
    ]
