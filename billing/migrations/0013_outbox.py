"""Events, the endpoints that are told of them, and the deliveries between them."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0012_sealed_months")]

    operations = [
        migrations.CreateModel(
            name="EventCounter",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="event_counter_single_row")
                ],
            },
        ),
        migrations.CreateModel(
            name="Event",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("sequence", models.BigIntegerField(unique=True)),
                ("type", models.CharField(max_length=40)),
                ("group", models.CharField(db_column="event_group", max_length=20)),
                ("customer_id", models.CharField(blank=True, max_length=255)),
                ("created_at", models.DateTimeField()),
                ("text", models.TextField()),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("customer_id__gt", "")),
                        fields=["customer_id", "sequence"],
                        name="event_of_customer",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="WebhookEndpoint",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(blank=True, max_length=100)),
                (
                    "url",
                    models.CharField(
                        help_text="Where events are posted: https://…", max_length=2000, verbose_name="URL"
                    ),
                ),
                (
                    "event_types",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text='Which events, e.g. ["spend_tracked", "budget_crossed"]. Empty: all.',
                        verbose_name="events",
                    ),
                ),
                (
                    "customer_ids",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text='Only events about these customers, e.g. ["acme-042"]. Empty: about anybody.',
                        verbose_name="customers",
                    ),
                ),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                (
                    "max_concurrency",
                    models.PositiveSmallIntegerField(
                        default=16,
                        help_text="How many posts the receiver gets at the same time, at most.",
                        verbose_name="posts at a time",
                    ),
                ),
                (
                    "source",
                    models.CharField(
                        choices=[("staff", "staff"), ("environment", "WEBHOOK_URL")],
                        default="staff",
                        editable=False,
                        max_length=12,
                    ),
                ),
                ("sealed_secret", models.TextField(editable=False)),
                ("sealed_previous_secret", models.TextField(blank=True, editable=False)),
                ("previous_secret_until", models.DateTimeField(blank=True, editable=False, null=True)),
                ("disabled_reason", models.CharField(blank=True, editable=False, max_length=200)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name": "webhook endpoint",
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("source", "environment")),
                        fields=("source",),
                        name="webhook_endpoint_one_of_environment",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("max_concurrency__gte", 1), ("max_concurrency__lte", 100)),
                        name="webhook_endpoint_concurrency",
                        violation_error_message="Between 1 and 100 posts at a time.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="DeliveryLane",
            fields=[
                ("name", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("holder", models.UUIDField(null=True)),
                ("held_until", models.DateTimeField(null=True)),
                ("paused_until", models.DateTimeField(null=True)),
                ("failures_in_a_row", models.PositiveIntegerField(default=0)),
                ("failing_since", models.DateTimeField(null=True)),
                ("last_success_at", models.DateTimeField(null=True)),
            ],
            options={"verbose_name": "delivery lane"},
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "channel",
                    models.CharField(
                        choices=[("webhook", "webhook"), ("slack", "Slack"), ("email", "e-mail")],
                        max_length=8,
                    ),
                ),
                ("target", models.CharField(blank=True, max_length=320)),
                ("lane", models.CharField(max_length=40)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("due", "waiting"),
                            ("leased", "under way"),
                            ("delivered", "delivered"),
                            ("failed", "failed"),
                        ],
                        default="due",
                        max_length=10,
                    ),
                ),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("since", models.DateTimeField()),
                ("next_attempt_at", models.DateTimeField(null=True)),
                ("lease", models.UUIDField(null=True)),
                ("last_attempt_at", models.DateTimeField(null=True)),
                ("last_status", models.PositiveSmallIntegerField(null=True)),
                ("last_answer", models.TextField(blank=True)),
                ("last_error", models.CharField(blank=True, max_length=500)),
                ("failures", models.JSONField(default=list)),
                ("delivered_at", models.DateTimeField(null=True)),
                (
                    "event",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="billing.event",
                    ),
                ),
                (
                    "endpoint",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="deliveries",
                        to="billing.webhookendpoint",
                    ),
                ),
            ],
            options={
                "verbose_name": "webhook delivery",
                "verbose_name_plural": "webhook deliveries",
                "indexes": [
                    models.Index(
                        condition=models.Q(("next_attempt_at__isnull", False)),
                        fields=["lane", "next_attempt_at", "id"],
                        name="delivery_open",
                    ),
                    models.Index(
                        condition=models.Q(("state", "failed")), fields=["lane", "id"], name="delivery_failed"
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("event", "lane", "target"), name="delivery_once")
                ],
            },
        ),
    ]
