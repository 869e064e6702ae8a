"""An e-mail is one user's, in any case; the audit log is found by who changed something."""

from typing import Any

from django.core.management import CommandError
from django.db import migrations, models
from django.db.models import Count, Q
from django.db.models.functions import Lower


def refuse_shared_emails(apps: Any, schema_editor: Any) -> None:
    """Raises: CommandError that names the users who share one. Nobody can tell whose it is but the operator."""
    users = apps.get_model("customers", "User").objects.using(schema_editor.connection.alias)
    named = users.exclude(email="").annotate(lowered=Lower("email"))
    shared = named.values("lowered").annotate(number=Count("pk")).filter(number__gt=1)
    found = named.filter(lowered__in=shared.values("lowered")).order_by("lowered", "date_joined", "pk")
    told = [f"{user.email}: user {user.pk}" for user in found[:20]]
    if told:
        raise CommandError(
            "From here on an e-mail is one user's. These users share one:\n  "
            + "\n  ".join(told)
            + "\nTake it from all but one (set customers_user.email to '' where the id is theirs), then start again."
        )


class Migration(migrations.Migration):
    dependencies = [("customers", "0006_customers_by_search")]

    operations = [
        migrations.RunPython(refuse_shared_emails, migrations.RunPython.noop, elidable=True),
        migrations.AddConstraint(
            model_name="user",
            constraint=models.UniqueConstraint(
                Lower("email"),
                condition=Q(("email", ""), _negated=True),
                name="user_email_in_any_case",
                violation_error_message="A user with this e-mail exists already.",
            ),
        ),
        migrations.AddIndex(
            model_name="auditlog",
            index=models.Index(fields=["actor", "-id"], name="audit_log_actor"),
        ),
        migrations.AddIndex(
            model_name="auditlog",
            index=models.Index(fields=["user_id", "-id"], name="audit_log_user"),
        ),
        migrations.AddIndex(
            model_name="auditlog",
            index=models.Index(fields=["changed_by", "-id"], name="audit_log_changed_by"),
        ),
    ]
