"""Groups and log-in records, which come with Django and django-axes, in our theme."""

from axes.admin import AccessAttemptAdmin, AccessFailureLogAdmin, AccessLogAdmin
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.models import Group

from customers.admin.common import GatewayAdmin, LedgerAdmin

for model in (Group, AccessAttempt, AccessLog, AccessFailureLog):
    admin.site.unregister(model)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, GatewayAdmin):
    empty_list = "A group is a set of permissions in this admin. Make one, then put users into it."


@admin.register(AccessAttempt)
class LogInAttemptAdmin(AccessAttemptAdmin, GatewayAdmin):
    """Failed log-ins that count towards a lock-out: deleting one lets its user try again."""

    empty_list = "Failed log-ins are counted here until they are forgotten. Delete a row to lift a lock-out."
    list_display = ("attempt_time", "username", "ip_address", "failures_since_start", "status", "user_agent")
    list_filter = ()
    date_hierarchy = None
    has_change_permission = LedgerAdmin.has_change_permission


@admin.register(AccessLog)
class LogInAdmin(AccessLogAdmin, LedgerAdmin):
    empty_list = "Who logged into this admin, and when."
    list_filter = ()
    date_hierarchy = None


@admin.register(AccessFailureLog)
class FailedLogInAdmin(AccessFailureLogAdmin, LedgerAdmin):
    empty_list = "Failed log-ins are listed here where AXES_ENABLE_ACCESS_FAILURE_LOG is set."
    list_filter = ()
    date_hierarchy = None
