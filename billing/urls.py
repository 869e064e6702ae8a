"""The API's routes. Those of models are in `proxy/api/`."""

from billing.views import audit, budgets, customers, keys, logs, tags, teams, users

urlpatterns = [
    *customers.urlpatterns,
    *budgets.urlpatterns,
    *keys.urlpatterns,
    *teams.urlpatterns,
    *users.urlpatterns,
    *tags.urlpatterns,
    *audit.urlpatterns,
    *logs.urlpatterns,
]
