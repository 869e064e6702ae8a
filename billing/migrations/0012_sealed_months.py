"""Sealed balances of removed logs; adjustments say what they took from their log until now."""

from django.db import migrations, models

import customers.money

_COLUMNS = ("deployment_id", "provider", "upstream_model", "dialect", "client_tool")
_OF_LOG = "(SELECT log.{} FROM billing_spendlog AS log WHERE log.id = billing_adjustment.log_id)"
_FILL = (
    f"UPDATE billing_adjustment SET {', '.join(f'{name} = {_OF_LOG.format(name)}' for name in _COLUMNS)} "  # noqa: S608
    "WHERE log_id IN (SELECT id FROM billing_spendlog)"
)
_HOLDER_TYPES = [
    ("gateway", "gateway"),
    ("team", "team"),
    ("team_member", "team member"),
    ("user", "user"),
    ("key", "key"),
    ("customer", "customer"),
    ("tag", "tag"),
]


class Migration(migrations.Migration):
    dependencies = [("billing", "0011_report_indexes")]

    operations = [
        migrations.CreateModel(
            name="SealedMonth",
            fields=[
                ("month", models.DateField(primary_key=True, serialize=False)),
                ("calls", models.BigIntegerField(default=0)),
                ("cost", customers.money.UsdField(default=0, verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(default=0, verbose_name="charge, USD")),
                ("sealed_at", models.DateTimeField(null=True)),
            ],
            options={"verbose_name": "sealed month"},
        ),
        migrations.CreateModel(
            name="SealedBalance",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("month", models.DateField()),
                ("holder_type", models.CharField(choices=_HOLDER_TYPES, max_length=12)),
                ("holder_id", models.CharField(max_length=511)),
                ("cost", customers.money.UsdField(verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(verbose_name="charge, USD")),
                ("calls", models.BigIntegerField()),
                ("failed_calls", models.BigIntegerField()),
                ("unpriced_calls", models.BigIntegerField()),
                ("prompt_tokens", models.BigIntegerField()),
                ("completion_tokens", models.BigIntegerField()),
                ("last_call_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "sealed balance",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("month", "holder_type", "holder_id"), name="sealed_balance_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="SealedPeriod",
            fields=[
                ("period_id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("cost", customers.money.UsdField(verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(verbose_name="charge, USD")),
            ],
            options={"verbose_name": "sealed part of a budget period"},
        ),
        migrations.AddField("reconcilerun", "kept_since", models.DateField(null=True)),
        migrations.AddField("adjustment", "deployment_id", models.BigIntegerField(null=True)),
        migrations.AddField(
            "adjustment", "provider", models.CharField(blank=True, db_default="", max_length=100)
        ),
        migrations.AddField(
            "adjustment", "upstream_model", models.CharField(blank=True, db_default="", max_length=255)
        ),
        migrations.AddField(
            "adjustment", "dialect", models.CharField(blank=True, db_default="", max_length=30)
        ),
        migrations.AddField(
            "adjustment", "client_tool", models.CharField(blank=True, db_default="", max_length=40)
        ),
        migrations.RunSQL(_FILL, migrations.RunSQL.noop),
    ]
