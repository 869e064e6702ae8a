"""Alert rules, those that are there from the start, and what was told."""

import uuid
from decimal import Decimal

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

import customers.money

_RULES = (
    # name, kind, threshold, is it active
    ("80 % of a budget", "budget", Decimal("0.8"), True),
    ("100 % of a budget", "budget", Decimal("1"), True),
    ("Soft budget", "soft_budget", None, True),
    ("Budget will be exceeded", "projected_exceed", None, True),
    ("Model without a price", "unpriced_model", None, True),
    ("Upstream failing", "upstream_failing", Decimal("0.5"), True),
    ("Webhook endpoint failing", "endpoint_failing", None, True),
    ("Weekly spend report", "weekly_report", None, True),
    ("Monthly spend report", "monthly_report", None, True),
    ("Spend spike of the gateway", "spend_spike", Decimal("3"), False),
)


def make_rules(apps, schema_editor):
    rule = apps.get_model("billing", "AlertRule")
    rule.objects.bulk_create(
        rule(
            name=name,
            kind=kind,
            threshold=threshold,
            is_active=is_active,
            holder_type="gateway" if kind == "spend_spike" else "",
            minimum_usd=Decimal(10) if kind == "spend_spike" else None,
            source="default",
        )
        for name, kind, threshold, is_active in _RULES
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0013_outbox")]

    operations = [
        migrations.CreateModel(
            name="AlertRule",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=255)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("budget", "a share of a budget is spent"),
                            ("soft_budget", "a soft budget is spent"),
                            ("projected_exceed", "a budget will probably be exceeded"),
                            ("daily_spend", "a day's spend is over an amount"),
                            ("model_usage", "a model's usage of a day is over a number"),
                            ("spend_spike", "a day's spend is a multiple of the usual"),
                            ("unpriced_model", "a model has no price"),
                            ("upstream_failing", "an upstream is failing"),
                            ("endpoint_failing", "a webhook endpoint is failing"),
                            ("weekly_report", "spend report, by the week"),
                            ("monthly_report", "spend report, by the month"),
                        ],
                        max_length=20,
                    ),
                ),
                (
                    "threshold",
                    models.DecimalField(
                        blank=True,
                        decimal_places=9,
                        max_digits=19,
                        null=True,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                    ),
                ),
                (
                    "unit",
                    models.CharField(
                        choices=[("calls", "calls"), ("tokens", "tokens"), ("usd", "USD")],
                        default="calls",
                        help_text="What a model's usage is counted in.",
                        max_length=10,
                    ),
                ),
                (
                    "minimum_usd",
                    customers.money.UsdField(
                        blank=True,
                        help_text="Of a multiple of the usual: days with less spend are not worth a message.",
                        null=True,
                        validators=[django.core.validators.MinValueValidator(0)],
                        verbose_name="from this amount on, USD",
                    ),
                ),
                (
                    "holder_type",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("gateway", "gateway"),
                            ("team", "team"),
                            ("team_member", "team member"),
                            ("user", "user"),
                            ("key", "key"),
                            ("customer", "customer"),
                            ("tag", "tag"),
                        ],
                        max_length=12,
                        verbose_name="whose",
                    ),
                ),
                (
                    "holder_id",
                    models.CharField(
                        blank=True, help_text="Empty: each of them.", max_length=511, verbose_name="which one"
                    ),
                ),
                (
                    "model",
                    models.CharField(
                        blank=True, help_text="The public name; empty: each model.", max_length=255
                    ),
                ),
                ("to_webhooks", models.BooleanField(default=True, verbose_name="webhooks")),
                (
                    "to_slack",
                    models.BooleanField(
                        default=True, help_text="The channel of SLACK_WEBHOOK_URL.", verbose_name="Slack"
                    ),
                ),
                (
                    "to_email",
                    models.BooleanField(
                        default=True, help_text="The addresses of ALERT_EMAILS.", verbose_name="e-mail"
                    ),
                ),
                (
                    "emails",
                    models.JSONField(blank=True, default=list, verbose_name="also to these addresses"),
                ),
                ("sealed_slack_url", models.TextField(blank=True, editable=False)),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("staff", "made by staff"),
                            ("default", "there from the start"),
                            ("config", "config.yaml"),
                        ],
                        default="staff",
                        editable=False,
                        max_length=10,
                    ),
                ),
                ("checked_at", models.DateTimeField(blank=True, editable=False, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                (
                    "endpoint",
                    models.ForeignKey(
                        blank=True,
                        help_text="Is told whatever events it asks for otherwise.",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="alert_rules",
                        to="billing.webhookendpoint",
                        verbose_name="also to this endpoint",
                    ),
                ),
            ],
            options={
                "verbose_name": "alert rule",
            },
        ),
        migrations.CreateModel(
            name="Alert",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("rule_name", models.CharField(max_length=255, verbose_name="rule")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("budget", "a share of a budget is spent"),
                            ("soft_budget", "a soft budget is spent"),
                            ("projected_exceed", "a budget will probably be exceeded"),
                            ("daily_spend", "a day's spend is over an amount"),
                            ("model_usage", "a model's usage of a day is over a number"),
                            ("spend_spike", "a day's spend is a multiple of the usual"),
                            ("unpriced_model", "a model has no price"),
                            ("upstream_failing", "an upstream is failing"),
                            ("endpoint_failing", "a webhook endpoint is failing"),
                            ("weekly_report", "spend report, by the week"),
                            ("monthly_report", "spend report, by the month"),
                        ],
                        max_length=20,
                    ),
                ),
                ("holder_type", models.CharField(max_length=12, verbose_name="whose")),
                ("holder_id", models.CharField(max_length=511, verbose_name="which one")),
                ("scope", models.CharField(blank=True, max_length=255, verbose_name="model")),
                ("window", models.CharField(max_length=100)),
                ("starts_at", models.DateTimeField(verbose_name="period begins at")),
                ("generation", models.PositiveIntegerField(default=0)),
                ("threshold", models.CharField(max_length=40)),
                ("limit", customers.money.UsdField(default=0, verbose_name="limit, USD")),
                ("spent", customers.money.UsdField(default=0, verbose_name="spent, USD")),
                ("event_type", models.CharField(max_length=40, verbose_name="event")),
                ("event_id", models.UUIDField(db_index=True, null=True)),
                ("message", models.TextField()),
                ("raised_at", models.DateTimeField(db_index=True)),
                (
                    "rule",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="alerts",
                        to="billing.alertrule",
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="alertrule",
            constraint=models.CheckConstraint(
                condition=models.Q(("threshold__isnull", True), ("threshold__gte", 0), _connector="OR"),
                name="alert_rule_not_negative",
            ),
        ),
        migrations.AddIndex(
            model_name="alert",
            index=models.Index(fields=["holder_type", "holder_id", "-raised_at"], name="alert_holder"),
        ),
        migrations.AddConstraint(
            model_name="alert",
            constraint=models.UniqueConstraint(
                fields=(
                    "rule",
                    "holder_type",
                    "holder_id",
                    "scope",
                    "window",
                    "starts_at",
                    "generation",
                    "threshold",
                    "limit",
                ),
                name="alert_once",
            ),
        ),
        migrations.RunPython(make_rules, migrations.RunPython.noop),
    ]
