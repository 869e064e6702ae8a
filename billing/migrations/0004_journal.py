"""The installation's identity and the journals' checkpoints."""

import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0003_totals_and_budget_periods"),
    ]

    operations = [
        migrations.CreateModel(
            name="Installation",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("installation_id", models.UUIDField(default=uuid.uuid4)),
                ("reporting_time_zone", models.CharField(max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="installation_single_row")
                ],
            },
        ),
        migrations.CreateModel(
            name="JournalCheckpoint",
            fields=[
                ("journal_id", models.UUIDField(primary_key=True, serialize=False)),
                ("segment", models.PositiveIntegerField(default=0)),
                ("position", models.BigIntegerField(default=0)),
                ("finished", models.BooleanField(default=False)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "journal checkpoint",
            },
        ),
    ]
