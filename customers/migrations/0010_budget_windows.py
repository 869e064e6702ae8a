"""Budgets get further windows: several durations at once, each with a limit of its own."""

import django.core.serializers.json
from django.db import migrations, models

import customers.models.budget


class Migration(migrations.Migration):
    dependencies = [("customers", "0009_handout_links")]

    operations = [
        migrations.AddField(
            model_name="budget",
            name="budget_limits",
            field=models.JSONField(
                "further windows",
                blank=True,
                decoder=customers.models.budget.ExactDecoder,
                default=list,
                encoder=django.core.serializers.json.DjangoJSONEncoder,
                help_text='Each limits besides those above: [{"budget_duration": "1d", "max_budget": "5"}].',
            ),
        ),
    ]
