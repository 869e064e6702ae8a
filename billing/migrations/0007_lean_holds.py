"""Holds without the indexes and checks that each call under a budget would pay for."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_adjustments_and_typical_outputs"),
    ]

    operations = [
        migrations.RemoveIndex(model_name="hold", name="hold_journal"),
        migrations.AlterField(
            model_name="hold",
            name="period",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="holds",
                to="billing.budgetperiod",
            ),
        ),
    ]
