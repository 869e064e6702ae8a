"""The API's routes. Those of models are in `proxy/api/`."""

from billing.handout import api as handout_api
from billing.handout import page as handout_page
from billing.views import (
    activity,
    alerts,
    audit,
    budgets,
    customers,
    events,
    exports,
    keys,
    logs,
    spend,
    spend_reads,
    tag_reports,
    tags,
    team_members,
    teams,
    users,
    webhooks,
)

urlpatterns = [
    *customers.urlpatterns,
    *budgets.urlpatterns,
    *keys.urlpatterns,
    *team_members.urlpatterns,  # before teams: their last route takes any name
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
    *alerts.urlpatterns,
    *handout_api.urlpatterns,
    *handout_page.urlpatterns,
    *webhooks.urlpatterns,
    *events.urlpatterns,
]
