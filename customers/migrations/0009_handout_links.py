import uuid

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Links and read tokens that show one customer's usage: a row each, so that each can be taken back."""

    dependencies = [("customers", "0008_rate_cards")]

    operations = [
        migrations.CreateModel(
            name="HandoutLink",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("page", "page"), ("read_token", "read token")],
                        default="page",
                        max_length=10,
                    ),
                ),
                ("title", models.CharField(blank=True, max_length=100)),
                (
                    "colour",
                    models.CharField(
                        blank=True,
                        max_length=7,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^#[0-9a-f]{6}$", "Write a colour as #0b6e9e."
                            )
                        ],
                    ),
                ),
                ("shows_keys", models.BooleanField(default=False, verbose_name="names keys")),
                ("expires_at", models.DateTimeField()),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                ("created_by", models.CharField(blank=True, max_length=255)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "customer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="handout_links",
                        to="customers.customer",
                    ),
                ),
            ],
            options={
                "verbose_name": "hand-out link",
                "indexes": [
                    models.Index(fields=["customer", "-created_at"], name="handout_link_customer"),
                ],
            },
        ),
    ]
