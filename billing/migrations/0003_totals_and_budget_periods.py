"""All-time totals, budget periods and holds."""

import django.db.models.deletion
from django.db import migrations, models

import customers.money


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0002_spend_log"),
    ]

    operations = [
        migrations.CreateModel(
            name="SpendTotal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "holder_type",
                    models.CharField(
                        choices=[
                            ("gateway", "gateway"),
                            ("team", "team"),
                            ("team_member", "team member"),
                            ("user", "user"),
                            ("key", "key"),
                            ("customer", "customer"),
                            ("tag", "tag"),
                        ],
                        max_length=12,
                    ),
                ),
                ("holder_id", models.CharField(max_length=511)),
                ("cost", customers.money.UsdField(default=0, verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(default=0, verbose_name="charge, USD")),
                ("calls", models.BigIntegerField(default=0)),
                ("failed_calls", models.BigIntegerField(default=0)),
                ("unpriced_calls", models.BigIntegerField(default=0)),
                ("prompt_tokens", models.BigIntegerField(default=0)),
                ("completion_tokens", models.BigIntegerField(default=0)),
                ("last_call_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "spend total",
                "constraints": [
                    models.UniqueConstraint(fields=("holder_type", "holder_id"), name="spend_total_holder")
                ],
            },
        ),
        migrations.CreateModel(
            name="BudgetPeriod",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "holder_type",
                    models.CharField(
                        choices=[
                            ("gateway", "gateway"),
                            ("team", "team"),
                            ("team_member", "team member"),
                            ("user", "user"),
                            ("key", "key"),
                            ("customer", "customer"),
                            ("tag", "tag"),
                        ],
                        max_length=12,
                    ),
                ),
                ("holder_id", models.CharField(max_length=511)),
                ("scope", models.CharField(blank=True, max_length=255)),
                ("window", models.CharField(max_length=100)),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField(null=True)),
                ("generation", models.PositiveIntegerField(default=0)),
                ("spent_cost", customers.money.UsdField(default=0, verbose_name="spent (cost), USD")),
                ("spent_charge", customers.money.UsdField(default=0, verbose_name="spent (charge), USD")),
                ("held", customers.money.UsdField(default=0, verbose_name="held, USD")),
                ("provisional", customers.money.UsdField(default=0, verbose_name="provisional, USD")),
            ],
            options={
                "verbose_name": "budget period",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("holder_type", "holder_id", "scope", "window", "starts_at", "generation"),
                        name="budget_period_once",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("held__gte", 0)), name="budget_period_held_not_negative"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("provisional__gte", 0)),
                        name="budget_period_provisional_not_negative",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Hold",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("call_id", models.UUIDField()),
                ("amount", customers.money.UsdField(verbose_name="held, USD")),
                ("journal_id", models.UUIDField()),
                ("started_at", models.DateTimeField()),
                ("lease_expires_at", models.DateTimeField(db_index=True)),
                ("attribution", models.JSONField(default=dict)),
                (
                    "period",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="holds",
                        to="billing.budgetperiod",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["journal_id"], name="hold_journal")],
                "constraints": [
                    models.UniqueConstraint(fields=("call_id", "period"), name="hold_once_per_period"),
                    models.CheckConstraint(condition=models.Q(("amount__gte", 0)), name="hold_not_negative"),
                ],
            },
        ),
    ]
