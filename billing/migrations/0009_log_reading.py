"""Indexes by which the API reads the spend log.

On PostgreSQL calls cannot be booked while they are made; journals keep them meanwhile.
"""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0008_daily_spend"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddIndex(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("user__isnull", False)), fields=["user", "-id"], name="spendlog_user"
            ),
        ),
        migrations.AddIndex(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("session_id__gt", "")),
                fields=["session_id", "-id"],
                name="spendlog_session",
            ),
        ),
        migrations.AddIndex(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("response_id__gt", "")), fields=["response_id"], name="spendlog_response"
            ),
        ),
        migrations.AddIndex(
            model_name="spendlog",
            index=models.Index(
                condition=models.Q(("client_call_id__gt", "")),
                fields=["client_call_id"],
                name="spendlog_client_call",
            ),
        ),
    ]
