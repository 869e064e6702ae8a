import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import proxy.credentials
import proxy.models.upstream


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("billing", "0004_journal"),
    ]

    operations = [
        migrations.CreateModel(
            name="Upstream",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=100, unique=True)),
                (
                    "provider",
                    models.CharField(
                        help_text="Whose prices apply: openai, anthropic, google, … as in Prices.",
                        max_length=100,
                    ),
                ),
                (
                    "openai_base_url",
                    models.CharField(
                        blank=True,
                        help_text="Up to and including /v1: https://api.openai.com/v1, or os.environ/NAME.",
                        max_length=500,
                        validators=[proxy.models.upstream.validate_base_url],
                        verbose_name="OpenAI-style base URL",
                    ),
                ),
                (
                    "anthropic_base_url",
                    models.CharField(
                        blank=True,
                        help_text="Without /v1, e.g. https://api.anthropic.com.",
                        max_length=500,
                        validators=[proxy.models.upstream.validate_base_url],
                        verbose_name="Anthropic-style base URL",
                    ),
                ),
                (
                    "credential",
                    proxy.credentials.EncryptedCredentialField(
                        blank=True,
                        help_text="The provider's key, stored encrypted; or os.environ/NAME to read it from the environment.",
                    ),
                ),
                (
                    "headers",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        help_text='Sent with every call, e.g. {"OpenAI-Organization": "org-…"}.',
                    ),
                ),
                ("region", models.CharField(blank=True, max_length=10)),
                ("connect_timeout_s", models.FloatField(default=5, verbose_name="connect timeout, s")),
                ("read_timeout_s", models.FloatField(default=600, verbose_name="read timeout, s")),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("openai_base_url", ""), _negated=True),
                            models.Q(("anthropic_base_url", ""), _negated=True),
                            _connector="OR",
                        ),
                        name="upstream_speaks_a_dialect",
                        violation_error_message="Give at least one base URL.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("connect_timeout_s__gt", 0), ("read_timeout_s__gt", 0)),
                        name="upstream_timeouts_positive",
                        violation_error_message="Timeouts are longer than 0 seconds.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Deployment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("model_name", models.CharField(max_length=255, verbose_name="public model name")),
                (
                    "upstream_model",
                    models.CharField(
                        blank=True,
                        help_text="The name sent upstream; empty: the name that was asked for.",
                        max_length=255,
                    ),
                ),
                ("priority", models.PositiveSmallIntegerField(default=0, help_text="Lower is tried first.")),
                (
                    "weight",
                    models.PositiveIntegerField(
                        default=1, validators=[django.core.validators.MinValueValidator(1)]
                    ),
                ),
                (
                    "base_model",
                    models.CharField(
                        blank=True,
                        help_text="The model whose price applies, where the name does not tell.",
                        max_length=255,
                    ),
                ),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "price",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: the provider's price of the upstream model.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deployments",
                        to="billing.price",
                        verbose_name="price override",
                    ),
                ),
                (
                    "upstream",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deployments",
                        to="proxy.upstream",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("weight__gte", 1)), name="deployment_weight_positive"
                    )
                ],
            },
        ),
    ]
