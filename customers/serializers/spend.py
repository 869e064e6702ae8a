"""What the API takes where spend is reported (contract 6.1, 6.4 to 6.6). An empty value filters nothing.

Dates are plain texts here: what is wrong with one is a 400 (`billing/views/ranges.py`).
"""

from rest_framework import serializers

from customers.api.fields import Id, Whole
from customers.api.paging import page_fields

_MOST_NAMES = 100_000  # characters of a list of names


def _filter(help_text: str) -> Id:
    return Id(required=False, allow_blank=True, help_text=help_text)


def _names(help_text: str) -> serializers.CharField:
    return serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=_MOST_NAMES,
        help_text=f"{help_text}, separated by commas.",
    )


def _date(help_text: str) -> serializers.CharField:
    return serializers.CharField(required=False, allow_blank=True, max_length=40, help_text=help_text)


class Days(serializers.Serializer):
    """From which day to which; of the reporting time zone."""

    start_date = _date("The first day, YYYY-MM-DD.")
    end_date = _date("The last day, YYYY-MM-DD, included.")


class ReportQuery(Days):
    """GET /global/spend/report. All filters that are given have to fit."""

    group_by = serializers.ChoiceField(["team", "customer", "api_key"], default="team")
    api_key = _filter("The key, or its hash; litellm_proxy_master_key for calls with the master key.")
    internal_user_id = _filter("A user, not the customer.")
    team_id = _filter("A team.")
    customer_id = _filter("A customer.")


class KeyReportQuery(Days):
    """GET /key/spend/report."""

    api_key = _filter("The key, or its hash; left out: the key that asks.")


class UserReportQuery(Days):
    """GET /user/spend/report."""

    user_id = _filter("The user; left out: the one whose key asks.")


class TeamReportQuery(Days):
    """GET /team/spend/report."""

    team_id = _filter("The team; left out: all that the caller administers.")


class ActivityFilters(Days):
    """What all daily activity can be narrowed down to."""

    model = _filter("A model: the name that callers use, or the one sent upstream.")
    api_key = _filter("The key, or its hash.")


class UserActivityFilters(ActivityFilters):
    user_id = _filter("An internal user, not the customer.")


class TeamActivityFilters(ActivityFilters):
    team_ids = _names("Teams")
    exclude_team_ids = _names("Teams to leave out")


class TagActivityFilters(ActivityFilters):
    tags = _names("Tags, any of which a call carries")


class CustomerActivityFilters(ActivityFilters):
    end_user_ids = _names("Customers")
    exclude_end_user_ids = _names("Customers to leave out")


class UserActivityQuery(UserActivityFilters):
    page, page_size = page_fields(size=50, largest=1000).values()  # days


class TeamActivityQuery(TeamActivityFilters):
    page, page_size = page_fields(size=10, largest=1000).values()


class TagActivityQuery(TagActivityFilters):
    page, page_size = page_fields(size=10, largest=1000).values()


class CustomerActivityQuery(CustomerActivityFilters):
    page, page_size = page_fields(size=10, largest=1000).values()


def _format() -> serializers.ChoiceField:
    return serializers.ChoiceField(["csv", "json"], default="csv")


class UserActivityExport(UserActivityFilters):
    format = _format()


class TeamActivityExport(TeamActivityFilters):
    format = _format()


class TagActivityExport(TagActivityFilters):
    format = _format()


class CustomerActivityExport(CustomerActivityFilters):
    format = _format()


class TagSpendQuery(Days):
    """GET /global/spend/tags."""

    tags = _names("Tags; left out: all")


class LimitQuery(serializers.Serializer):
    """How many names, those with the most spend first."""

    limit = Whole(min_value=1, max_value=1000, default=10)


class KeyLimitQuery(serializers.Serializer):
    """GET /global/spend/keys and /spend/keys."""

    limit = Whole(min_value=1, max_value=10_000, default=1000)


class UserQuery(KeyLimitQuery):
    """GET /spend/users."""

    user_id = _filter("One user alone.")


class KeyQuery(serializers.Serializer):
    """GET /global/spend/logs."""

    api_key = _filter("One key alone: the key, or its hash.")


class EndUsersBody(serializers.Serializer):
    """POST /global/spend/end_users. LiteLLM's names."""

    api_key = Id(required=False, allow_null=True, allow_blank=True, help_text="One key alone.")
    startTime = serializers.CharField(
        required=False, allow_null=True, max_length=40, help_text="The first day; left out: 30 days ago."
    )
    endTime = serializers.CharField(
        required=False, allow_null=True, max_length=40, help_text="The last day, included; left out: today."
    )


class TagSummaryQuery(Days):
    """GET /tag/summary."""

    tag_filter = _filter("One tag alone.")
    tag_filters = _names("Tags, any of which a call carries")


class ActiveUsersQuery(serializers.Serializer):
    """GET /tag/dau, /tag/wau and /tag/mau."""

    tag_filter = _filter("One tag alone.")
    tag_filters = _names("Tags, any of which a call carries")


class ClientUsersQuery(serializers.Serializer):
    """GET /tag/user-agent/per-user-analytics."""

    tag_filter = _filter("One client tool alone: Claude Code.")
    tag_filters = _names("Client tools")
    page, page_size = page_fields(size=50, largest=1000).values()
