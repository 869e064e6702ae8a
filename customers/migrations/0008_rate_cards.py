"""Rate cards: what customers pay, where it is not what the provider bills."""

from decimal import Decimal

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("customers", "0007_unique_emails")]

    operations = [
        migrations.CreateModel(
            name="RateCard",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                (
                    "multiplier",
                    models.DecimalField(
                        decimal_places=6,
                        default=Decimal("1"),
                        help_text="The charge of a call is its cost, multiplied by this: 1.2 adds 20 %, 0.9 takes off 10 %. It stands in place of COST_MARGINS.",
                        max_digits=9,
                        validators=[
                            django.core.validators.MinValueValidator(Decimal("0")),
                            django.core.validators.MaxValueValidator(Decimal("100")),
                        ],
                    ),
                ),
                ("description", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "rate card",
            },
        ),
        migrations.RemoveIndex(
            model_name="customer",
            name="customer_exceptions",
        ),
        migrations.AddConstraint(
            model_name="ratecard",
            constraint=models.CheckConstraint(
                condition=models.Q(("multiplier__gte", 0)), name="rate_card_multiplier_not_negative"
            ),
        ),
        migrations.AddField(
            model_name="customer",
            name="rate_card",
            field=models.ForeignKey(
                blank=True,
                help_text="What it pays; none: what the providers bill.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="customers",
                to="customers.ratecard",
            ),
        ),
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(
                condition=models.Q(
                    ("blocked", True),
                    ("budget__isnull", False),
                    ("rate_card__isnull", False),
                    models.Q(("allowed_models", []), _negated=True),
                    models.Q(("allowed_model_region", ""), _negated=True),
                    _connector="OR",
                ),
                fields=["id"],
                name="customer_exceptions",
            ),
        ),
    ]
