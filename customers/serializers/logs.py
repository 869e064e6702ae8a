"""What the API takes where the spend log is read (contract 6.2, 6.3). An empty value filters nothing.

Dates are plain texts here: what is wrong with one is a 400 (`billing/reporting/log_reading.py`).
"""

from rest_framework import serializers

from customers.api.fields import Id, Usd
from customers.api.paging import page_fields

SORTS = ("startTime", "endTime", "spend", "total_tokens", "request_duration_ms", "model", "ttft_ms")


def _filter(help_text: str) -> Id:
    return Id(required=False, allow_blank=True, help_text=help_text)


def _date(help_text: str) -> serializers.CharField:
    return serializers.CharField(required=False, allow_blank=True, max_length=40, help_text=help_text)


class LogFilters(serializers.Serializer):
    """What all lists of calls can be narrowed down to; of several filters all have to fit."""

    api_key = _filter("The key, or its hash; litellm_proxy_master_key for calls with the master key.")
    user_id = _filter("An internal user, not the customer.")
    request_id = _filter("The provider's id of the answer, our call id, or the client's own.")
    end_user = _filter("A customer.")
    team_id = _filter("A team.")
    tag = _filter("A tag, exactly as the call carried it.")
    model = _filter("A model: the name that callers use, or the one sent upstream.")


class SpendLogsQuery(LogFilters):
    """GET /spend/logs."""

    start_date = _date("The first day, YYYY-MM-DD.")
    end_date = _date("The last day, YYYY-MM-DD, included; left out: until now.")
    summarize = serializers.BooleanField(
        default=None,
        allow_null=True,
        help_text="With both dates sums per day, unless false; with a start date alone if true; else calls.",
    )
    status = serializers.ChoiceField(
        ["success", "failure"], required=False, allow_blank=True, help_text="Of calls, not of sums per day."
    )


class LogPageQuery(LogFilters):
    """GET /spend/logs/v2 and /spend/logs/ui."""

    start_date = _date("YYYY-MM-DD HH:MM:SS in UTC, or a day.")
    end_date = _date("As start_date; included, to the end of that second, or of that day.")
    session_id = _filter("A session: x-litellm-session-id, or what a coding agent tells.")
    model_id = _filter("A deployment's number.")
    model_group = _filter("A model, by the name that callers use.")
    key_alias = _filter("A piece of a key's name.")
    min_spend = Usd(required=False, help_text="USD a call, at least.")
    max_spend = Usd(required=False, help_text="USD a call, at most.")
    status_filter = serializers.ChoiceField(["success", "failure"], required=False, allow_blank=True)
    cache_hit_filter = serializers.ChoiceField(
        ["true", "false", "True", "False", "hit", "miss"],
        required=False,
        allow_blank=True,
        help_text="Whether the call was answered from the response cache.",
    )
    error_code = _filter("Of a failed call: its HTTP status, or its type of error.")
    error_message = _filter("A piece of a failed call's error message.")
    sort_by = serializers.ChoiceField(SORTS, default="startTime")
    sort_order = serializers.ChoiceField(["asc", "desc"], default="desc")
    page, page_size = page_fields(size=50, largest=1000).values()


class SessionQuery(serializers.Serializer):
    """GET /spend/logs/session/ui."""

    session_id = Id()
    page, page_size = page_fields(size=50, largest=1000).values()
