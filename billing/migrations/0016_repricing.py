"""Re-pricing, closed months, own prices of rate cards, bills of providers."""

import django.db.models.deletion
from django.db import migrations, models

import customers.money


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_price_units"), ("customers", "0008_rate_cards")]

    operations = [
        migrations.CreateModel(
            name="ClosedMonth",
            fields=[
                ("month", models.DateField(primary_key=True, serialize=False)),
                ("closed_at", models.DateTimeField()),
                ("closed_by", models.CharField(blank=True, max_length=255)),
                ("note", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "verbose_name": "closed month",
            },
        ),
        migrations.CreateModel(
            name="ProviderBill",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("provider", models.CharField(max_length=100)),
                ("form", models.CharField(max_length=40)),
                ("file_name", models.CharField(max_length=255)),
                ("digest", models.CharField(max_length=64, unique=True)),
                ("first_day", models.DateField()),
                ("last_day", models.DateField()),
                ("imported_at", models.DateTimeField()),
                ("imported_by", models.CharField(blank=True, max_length=255)),
            ],
            options={
                "verbose_name": "provider bill",
            },
        ),
        migrations.CreateModel(
            name="ProviderBillLine",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("day", models.DateField()),
                ("model", models.CharField(blank=True, max_length=255)),
                ("cost", customers.money.UsdField(null=True, verbose_name="billed, USD")),
                ("input_tokens", models.BigIntegerField(null=True)),
                ("output_tokens", models.BigIntegerField(null=True)),
                ("requests", models.BigIntegerField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Repricing",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("provider", models.CharField(max_length=100)),
                ("model", models.CharField(max_length=255)),
                ("starts_at", models.DateTimeField(null=True)),
                ("ends_at", models.DateTimeField()),
                ("only_unpriced", models.BooleanField(default=True)),
                ("actor", models.CharField(max_length=255)),
                ("note", models.CharField(blank=True, max_length=500)),
                ("created_at", models.DateTimeField()),
                ("finished_at", models.DateTimeField(null=True)),
                ("position", models.UUIDField(null=True)),
                ("calls", models.BigIntegerField(default=0)),
                ("changed_calls", models.BigIntegerField(default=0)),
                ("cost", customers.money.UsdField(default=0, verbose_name="cost, USD")),
                ("charge", customers.money.UsdField(default=0, verbose_name="charge, USD")),
            ],
            options={
                "verbose_name": "re-pricing",
            },
        ),
        migrations.AddField(
            model_name="adjustment",
            name="actor",
            field=models.CharField(blank=True, db_default="", max_length=255),
        ),
        migrations.AddField(
            model_name="adjustment",
            name="price_id",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="adjustment",
            name="repricing_id",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="adjustment",
            name="unpriced_calls",
            field=models.IntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="price",
            name="rate_card",
            field=models.ForeignKey(
                blank=True,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="own_prices",
                to="customers.ratecard",
            ),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="reason",
            field=models.CharField(
                choices=[
                    ("late_journal", "late journal: the call had been booked by its estimate"),
                    ("repricing", "re-pricing"),
                    ("late_call", "late call: its month was closed when it was booked"),
                    ("initial_spend", "initial spend"),
                ],
                max_length=20,
            ),
        ),
        migrations.AddIndex(
            model_name="adjustment",
            index=models.Index(
                condition=models.Q(("repricing_id__isnull", False)),
                fields=["repricing_id", "id"],
                name="adjustment_repricing",
            ),
        ),
        migrations.AddIndex(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("cost__isnull", True)),
                fields=["provider", "upstream_model", "id"],
                name="spendlog_unpriced",
            ),
        ),
        migrations.AddConstraint(
            model_name="price",
            constraint=models.UniqueConstraint(
                condition=models.Q(("rate_card__isnull", False)),
                fields=("rate_card", "provider", "model", "effective_from"),
                name="own_price_once_per_instant",
                nulls_distinct=False,
            ),
        ),
        migrations.AddField(
            model_name="providerbillline",
            name="bill",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="lines", to="billing.providerbill"
            ),
        ),
        migrations.AddConstraint(
            model_name="providerbillline",
            constraint=models.UniqueConstraint(
                fields=("bill", "day", "model"), name="bill_line_once_per_day_and_model"
            ),
        ),
    ]
