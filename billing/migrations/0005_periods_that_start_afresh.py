"""Generations of budget periods, and holds that outlive their lease as provisional ones."""

from django.db import migrations, models
from django.db.models import F

import customers.money


def count_from_the_start(apps, schema_editor):
    apps.get_model("billing", "BudgetPeriod").objects.update(counts_from=F("starts_at"))


def give_provisional_holds_a_lease(apps, schema_editor):
    """An older version knows none without: as if they had run out."""
    holds = apps.get_model("billing", "Hold").objects
    holds.filter(lease_expires_at__isnull=True).update(lease_expires_at=F("started_at"))


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0004_journal"),
    ]

    operations = [
        migrations.AddField(
            model_name="budgetperiod",
            name="counts_from",
            field=models.DateTimeField(null=True),
        ),
        migrations.RunPython(count_from_the_start, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="budgetperiod",
            name="counts_from",
            field=models.DateTimeField(),
        ),
        migrations.AddField(
            model_name="budgetperiod",
            name="last_limit",
            field=customers.money.UsdField(null=True, verbose_name="limit of the last call admitted, USD"),
        ),
        migrations.AddIndex(
            model_name="budgetperiod",
            index=models.Index(fields=["holder_type", "holder_id", "ends_at"], name="budget_period_holder"),
        ),
        migrations.AddConstraint(
            model_name="budgetperiod",
            constraint=models.CheckConstraint(
                condition=models.Q(("counts_from__gte", models.F("starts_at"))),
                name="budget_period_counts_from_its_start",
            ),
        ),
        migrations.AddConstraint(
            model_name="budgetperiod",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("ends_at__isnull", True), ("ends_at__gt", models.F("counts_from")), _connector="OR"
                ),
                name="budget_period_ends_after_it_begins",
            ),
        ),
        migrations.AlterField(
            model_name="hold",
            name="attribution",
            field=models.JSONField(null=True),
        ),
        migrations.AlterField(
            model_name="hold",
            name="lease_expires_at",
            field=models.DateTimeField(db_index=True, null=True),
        ),
        migrations.RunPython(migrations.RunPython.noop, give_provisional_holds_a_lease),
    ]
