"""
Monthly partitions of the spend log on PostgreSQL; elsewhere a plain table.

Partitions are ranges of the UUIDv7 primary key, whose first 48 bits are the
milliseconds of `started_at`. A default partition takes what no month covers, so
that a clock far off delays nothing.
"""

import logging
import uuid
from datetime import UTC, datetime
from typing import Any

from django.db import DatabaseError, connections, migrations, transaction

from customers.ids import first_uuid7_at

logger = logging.getLogger(__name__)
TABLE = "billing_spendlog"


def month_start(at: datetime) -> datetime:
    at = at.astimezone(UTC)
    return datetime(at.year, at.month, 1, tzinfo=UTC)


def next_month(start: datetime) -> datetime:
    return datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)


def partition_name(month: datetime) -> str:
    return f"{TABLE}_{month:%Y_%m}"


def ensure_partitions(*, at: datetime, using: str = "default") -> None:
    """Make the partitions of `at`'s month and of the next one, where they are missing."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    month = month_start(at)
    for start in (month, next_month(month)):
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass(%s)", [partition_name(start)])
            if cursor.fetchone()[0] is not None:
                continue
        try:
            with transaction.atomic(using=using), connection.cursor() as cursor:
                cursor.execute(create_statement(start))
        except DatabaseError as error:
            # Another worker was first, or the default partition already holds rows of
            # that month. Either way rows have a place to go.
            logger.warning("partition %s was not made: %s", partition_name(start), error)


def partition_months(*, using: str = "default") -> list[datetime]:
    """Return the months that have a partition, in their order; none where there are no partitions."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid "
            "WHERE inhparent = %s::regclass AND child.relname ~ '_[0-9]{4}_[0-9]{2}$'",
            [TABLE],
        )
        names = [name for (name,) in cursor.fetchall()]
    return sorted(datetime(int(name[-7:-3]), int(name[-2:]), 1, tzinfo=UTC) for name in names)


def partition_bounds(month: datetime) -> tuple[uuid.UUID, uuid.UUID]:
    """Return the first id of a month's partition, and the first one behind it."""
    # The same bounds as those of queries by time: the planner then leaves out every other month.
    return first_uuid7_at(month), first_uuid7_at(next_month(month))


def create_statement(month: datetime) -> str:
    """Return the statement that makes `month`'s partition."""
    start, end = partition_bounds(month)
    return (
        f"CREATE TABLE IF NOT EXISTS {partition_name(month)} PARTITION OF {TABLE} "
        f"FOR VALUES FROM ('{start}') TO ('{end}')"
    )


class CreatePartitionedModel(migrations.CreateModel):
    """CreateModel, with the table partitioned by range of its primary key on PostgreSQL."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        model = to_state.apps.get_model(app_label, self.name)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        statement, parameters = schema_editor.table_sql(model)
        schema_editor.execute(f"{statement} PARTITION BY RANGE (id)", parameters or None)
        schema_editor.deferred_sql.extend(schema_editor._model_indexes_sql(model))
