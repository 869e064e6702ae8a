"""
Units beside tokens, and service tiers: what a price says of them, and what a call used.

`units` of a log is null where there are none, as in nearly every row: adding it rewrites nothing.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_alerts")]

    operations = [
        migrations.AddField(
            model_name="price",
            name="unit_rates",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text=(
                    'USD of what is not in the fields above: {"input_audio_ms": "0.0001"}. By the '
                    "second for …_ms, by the million for characters, pixels and tokens, apiece for "
                    "images, queries and pages; a kind behind a colon: output_images:1024x1024, "
                    "web_searches:high."
                ),
            ),
        ),
        migrations.AddField(
            model_name="price",
            name="service_tiers",
            field=models.JSONField(
                blank=True,
                default=dict,
                help_text=(
                    'Rates by the tier that served the call: {"flex": {"input_per_mtok_usd": '
                    '"1.25"}}; also priority and batch, with long_context_tiers and unit_rates of '
                    "their own. What a tier leaves out stays; of batch it is halved. A multiplier "
                    'of all token rates: {"speed:fast": {"multiplier": "2"}}, {"geo:us": …}.'
                ),
            ),
        ),
        migrations.AlterField(
            model_name="price",
            name="model",
            field=models.CharField(
                max_length=255,
                help_text=(
                    "The model's name at the provider. One that ends in * is the price of every "
                    "model with that beginning which has none of its own."
                ),
            ),
        ),
        migrations.AddField(
            model_name="spendlog",
            name="units",
            field=models.JSONField(blank=True, null=True),
        ),
    ]
