"""
Summaries of days that are over: what long reports read. Daily sums by tags are one of them now.

Also `billing_sum` on PostgreSQL: its own SUM of big integers adds up as `numeric`, in a state of its
own for each group, and takes several times as long. This one fails on overflow instead.
"""

from typing import Any

from django.db import migrations, models

import customers.money

SUMS = (
    "calls", "failed_calls", "unpriced_calls", "estimated_calls", "cache_hits", "input_uncached", "cache_read",
    "cache_write_5m", "cache_write_1h", "output_text", "reasoning", "input_audio", "output_audio",
    "input_image", "output_image", "web_searches", "latency_ms_sum", *(f"latency_{n}" for n in range(16)),
)  # fmt: skip
DIMENSIONS = {
    "customer_id": 255, "user_id": 255, "team_id": 255, "model": 255, "provider": 100, "upstream_model": 255,
    "dialect": 30, "client_tool": 40,
}  # fmt: skip


def _dimension(name: str) -> models.Field:
    if name == "deployment_id":
        return models.BigIntegerField()
    return models.CharField(max_length=DIMENSIONS[name]) if name in DIMENSIONS else models.UUIDField()


def _summary(name: str, dimensions: str, *indexes: models.Index) -> migrations.CreateModel:
    return migrations.CreateModel(
        name=name,
        fields=[
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            ("span", models.IntegerField()),
            ("day", models.DateField()),
            *((each, _dimension(each)) for each in dimensions.split()),
            ("cost", customers.money.UsdField()),
            ("charge", customers.money.UsdField()),
            *((each, models.BigIntegerField(null=True)) for each in SUMS),
        ],
        options={"indexes": [*indexes]},
    )


def _span(name: str) -> models.Index:
    return models.Index(fields=["span"], name=f"{name.lower()}_span")


def _make_sum(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(
            "CREATE AGGREGATE billing_sum(bigint) "
            "(SFUNC = int8pl, STYPE = bigint, INITCOND = '0', COMBINEFUNC = int8pl, PARALLEL = SAFE)"
        )


def _drop_sum(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP AGGREGATE billing_sum(bigint)")


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0010_price_sync"),
    ]

    operations = [
        migrations.RunPython(_make_sum, _drop_sum),
        migrations.DeleteModel(
            name="DailyTagSpend",
        ),
        migrations.CreateModel(
            name="ClosedSpan",
            fields=[
                ("id", models.IntegerField(primary_key=True, serialize=False)),
                ("day", models.DateField()),
                ("last_day", models.DateField()),
                ("closed_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "closed span",
            },
        ),
        _summary(
            "SummaryByModel",
            "model provider upstream_model deployment_id dialect client_tool",
            _span("SummaryByModel"),
        ),
        _summary(
            "SummaryByTags",
            "tag_set_id",
            _span("SummaryByTags"),
            models.Index(fields=["tag_set_id", "span"], name="summary_tags"),
        ),
        _summary("SummaryByUser", "user_id key_id team_id", _span("SummaryByUser")),
        _summary(
            "SummaryByKey",
            "key_id team_id model provider upstream_model dialect",
            _span("SummaryByKey"),
            models.Index(fields=["key_id", "span"], name="summary_key"),
        ),
        _summary(
            "SummaryByTagsAndModel",
            "tag_set_id model provider upstream_model dialect client_tool",
            _span("SummaryByTagsAndModel"),
        ),
        _summary(
            "SummaryByUserAndModel",
            "user_id key_id team_id model provider upstream_model dialect client_tool",
            _span("SummaryByUserAndModel"),
            models.Index(fields=["user_id", "span"], name="summary_user"),
        ),
        _summary(
            "SummaryByTagsAndUser",
            "tag_set_id key_id team_id user_id",
            _span("SummaryByTagsAndUser"),
            models.Index(fields=["tag_set_id", "span"], name="summary_tags_user"),
        ),
        _summary(
            "SummaryWithoutCustomer",
            "tag_set_id user_id key_id team_id model provider upstream_model deployment_id dialect client_tool",
            _span("SummaryWithoutCustomer"),
            models.Index(fields=["key_id", "span"], name="summary_all_key"),
            models.Index(fields=["user_id", "span"], name="summary_all_user"),
            models.Index(fields=["tag_set_id", "span"], name="summary_all_tags"),
        ),
        _summary(
            "SummaryByCustomer",
            "customer_id",
            models.Index(
                fields=["span"],
                include=["customer_id", "cost", "charge", "calls", "failed_calls"],
                name="summary_customer_order",
            ),
            models.Index(fields=["span", "charge"], name="summary_customer_most"),
            models.Index(fields=["customer_id", "span"], name="summary_customer"),
        ),
        _summary(
            "SummaryByCustomerAndModel",
            "customer_id model provider upstream_model dialect",
            models.Index(
                fields=["span", "model"],
                include=["customer_id", "cost", "charge", "calls"],
                name="summary_customer_of_model",
            ),
            models.Index(fields=["customer_id", "span"], name="summary_customer_model"),
        ),
        _summary(
            "SummaryByCaller",
            "customer_id key_id team_id user_id tag_set_id client_tool",
            models.Index(fields=["span", "key_id"], name="summary_caller_key"),
            models.Index(fields=["customer_id", "span"], name="summary_caller"),
        ),
    ]
