"""The API's routes. Those of models are in `proxy/api/`."""

from billing.views import (
    activity,
    audit,
    budgets,
    customers,
    exports,
    keys,
    logs,
    spend,
    spend_reads,
    tag_reports,
    tags,
    teams,
    users,
)

urlpatterns = [
    *customers.urlpatterns,
    *budgets.urlpatterns,
    *keys.urlpatterns,
    *teams.urlpatterns,
    *users.urlpatterns,
    *tags.urlpatterns,
    *audit.urlpatterns,
    *logs.urlpatterns,
    *spend.urlpatterns,
    *activity.urlpatterns,
    *exports.urlpatterns,
    *spend_reads.urlpatterns,
    *tag_reports.urlpatterns,
]
