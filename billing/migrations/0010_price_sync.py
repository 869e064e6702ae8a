"""The row about the cost map that prices may be synced from."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0009_log_reading")]

    operations = [
        migrations.CreateModel(
            name="PriceSync",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("is_automatic", models.BooleanField(default=False)),
                ("source", models.CharField(blank=True, max_length=2000)),
                ("checked_at", models.DateTimeField(blank=True, null=True)),
                ("outcome", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="price_sync_single_row")
                ],
            },
        ),
    ]
