"""Dated prices."""

from decimal import Decimal

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Price",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "provider",
                    models.CharField(
                        help_text="The provider's slug: openai, anthropic, google, …", max_length=100
                    ),
                ),
                ("model", models.CharField(help_text="The model's name at the provider.", max_length=255)),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("genai_prices", "genai-prices"),
                            ("cost_map", "synced cost map"),
                            ("admin", "entered by staff"),
                            ("deployment", "override of a deployment"),
                        ],
                        default="admin",
                        editable=False,
                        max_length=20,
                    ),
                ),
                (
                    "effective_from",
                    models.DateTimeField(
                        blank=True,
                        help_text="Valid for calls from this instant on; empty: always.",
                        null=True,
                    ),
                ),
                (
                    "input_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="input, USD per million tokens",
                    ),
                ),
                (
                    "cache_read_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="cache read, USD per million tokens",
                    ),
                ),
                (
                    "cache_write_5m_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="cache write 5 min, USD per million tokens",
                    ),
                ),
                (
                    "cache_write_1h_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="cache write 1 h, USD per million tokens",
                    ),
                ),
                (
                    "output_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="output, USD per million tokens",
                    ),
                ),
                (
                    "reasoning_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="reasoning, USD per million tokens",
                    ),
                ),
                (
                    "input_audio_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="audio input, USD per million tokens",
                    ),
                ),
                (
                    "output_audio_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="audio output, USD per million tokens",
                    ),
                ),
                (
                    "input_image_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="image input, USD per million tokens",
                    ),
                ),
                (
                    "output_image_per_mtok_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="image output, USD per million tokens",
                    ),
                ),
                (
                    "per_request_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="per request, USD",
                    ),
                ),
                (
                    "per_web_search_usd",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=20,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                        verbose_name="per web search, USD",
                    ),
                ),
                (
                    "long_context_tiers",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text='Rates of the whole call above a number of prompt tokens: [{"above_prompt_tokens": 200000, "input_per_mtok_usd": "6"}]. A rate that is left out stays the base rate.',
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("source", "deployment"), _negated=True),
                        fields=("provider", "model", "source", "effective_from"),
                        name="price_once_per_instant",
                        nulls_distinct=False,
                    )
                ],
            },
        ),
    ]
