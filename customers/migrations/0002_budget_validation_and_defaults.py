import django.core.serializers.json
import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import customers.models.budget
import customers.money


class Migration(migrations.Migration):
    dependencies = [
        ("customers", "0001_customers_keys_teams"),
    ]

    operations = [
        migrations.AlterField(
            model_name="budget",
            name="budget_duration",
            field=models.CharField(
                blank=True,
                help_text="1d, 1w, 1mo, 12h, … or daily, weekly, monthly; empty: for all time.",
                max_length=20,
                validators=[customers.models.budget.validate_duration],
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="max_budget",
            field=customers.money.UsdField(
                blank=True,
                null=True,
                validators=[django.core.validators.MinValueValidator(0)],
                verbose_name="max budget, USD",
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="model_max_budget",
            field=models.JSONField(
                blank=True,
                decoder=customers.models.budget.ExactDecoder,
                default=dict,
                encoder=django.core.serializers.json.DjangoJSONEncoder,
                help_text='Each optional: {"gpt-4o": {"budget_limit": "5", "time_period": "1d", "rpm_limit": 60, "tpm_limit": 100000}}.',
                verbose_name="limits by model",
            ),
        ),
        migrations.AlterField(
            model_name="budget",
            name="soft_budget",
            field=customers.money.UsdField(
                blank=True,
                null=True,
                validators=[django.core.validators.MinValueValidator(0)],
                verbose_name="soft budget, USD",
            ),
        ),
        migrations.CreateModel(
            name="GatewayLimits",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "budget",
                    models.ForeignKey(
                        blank=True,
                        help_text="Limits the calls of everybody together.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="gateway",
                        to="customers.budget",
                        verbose_name="budget of the gateway",
                    ),
                ),
                (
                    "customer_budget",
                    models.ForeignKey(
                        blank=True,
                        help_text="Limits each customer that has no budget of its own, nor one from the call's key.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="gateway_defaulting_customers",
                        to="customers.budget",
                        verbose_name="budget of customers",
                    ),
                ),
            ],
            options={
                "verbose_name": "gateway limits",
                "verbose_name_plural": "gateway limits",
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="gateway_limits_single_row")
                ],
            },
        ),
        migrations.AddField(
            model_name="virtualkey",
            name="customer_budget",
            field=models.ForeignKey(
                blank=True,
                help_text="Limits each customer of this key that has no budget of its own.",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="keys_defaulting_customers",
                to="customers.budget",
                verbose_name="budget of its customers",
            ),
        ),
    ]
