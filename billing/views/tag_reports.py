"""
Who uses which tag, and which client tool (contract 5.6, 6.4): /tag/distinct, /tag/summary and the like.

Users are internal users; calls of none count as calls and as no user. A call counts under
each of its tags. A period of the active users ends today, and so does each one before it
on the day before the next: seven days, weeks of 7 days, months of 30 days.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import HolderType, SpendTotal
from billing.reporting.reports import Filters, Tally, count_by, grouped
from billing.views.ranges import days_of, last_days, names_of, today
from billing.views.spend import sum_of
from customers.api import Action, Envelope, ManagementView
from customers.api.schema import described
from customers.models import User
from customers.money import from_nano
from customers.serializers import spend as shapes

_PERIODS = 7
_ANALYSED_DAYS = 30


class TagReport(ManagementView):
    actions = {"GET": Action.READ_ALL_SPEND}
    envelope = Envelope.DETAIL


class DistinctTags(TagReport):
    """List all tags that calls ever carried."""

    @described(answer={"results": [{"tag": "engineering"}]})
    def get(self, request: Request) -> Response:
        totals = SpendTotal.objects.filter(holder_type=HolderType.TAG).order_by("holder_id")
        return Response({"results": [{"tag": tag} for tag in totals.values_list("holder_id", flat=True)]})


class TagSummary(TagReport):
    """Tell how many users, calls and tokens each tag has, and what it cost."""

    @described(
        query=shapes.TagSummaryQuery,
        answer={
            "results": [
                {
                    "tag": "engineering", "unique_users": 3, "total_requests": 13, "successful_requests": 12,
                    "failed_requests": 1, "total_tokens": 21000, "total_spend": 0.42,
                }
            ]
        },
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        given = self.query(shapes.TagSummaryQuery)
        has_days = given.get("start_date") or given.get("end_date")
        days = days_of(given) if has_days else last_days(_ANALYSED_DAYS)
        users_of: dict[str, dict[str, Tally]] = {}
        for (tag, user), sums in grouped(Filters(**days, tags=_tags(given)), ("tag", "user")):
            users_of.setdefault(tag, {})[user] = sums
        rows = []
        for tag, of_tag in users_of.items():
            sums = sum_of(of_tag.values())
            rows.append(
                (sums.cost, tag, {"tag": tag, "unique_users": len(of_tag.keys() - {""}), **_sums(sums)})
            )
        rows.sort(key=lambda row: (-row[0], row[1]))
        return Response({"results": [row for _, _, row in rows]})


class ActiveUsers(TagReport):
    """Tell how many users each tag had on each of the last seven days."""

    days = 1

    @described(
        query=shapes.ActiveUsersQuery,
        answer={
            "results": [
                {"tag": "engineering", "active_users": 3, "date": "2026-02-03", "period_start": "2026-02-03",
                 "period_end": "2026-02-03"}
            ]
        },
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        tags, results = _tags(self.query(shapes.ActiveUsersQuery)), []
        for number in range(_PERIODS):
            end = today() - timedelta(days=number * self.days)
            period = Filters(start=end - timedelta(days=self.days - 1), end=end, tags=tags)
            users = count_by(period, "tag", of="user")
            results += [
                {
                    "tag": tag,
                    "active_users": users[tag],
                    "date": end.isoformat(),
                    "period_start": period.start.isoformat(),
                    "period_end": end.isoformat(),
                }
                for tag in sorted(users)
            ]
        return Response({"results": results})


class WeeklyActiveUsers(ActiveUsers):
    """Tell how many users each tag had in each of the last seven weeks."""

    days = 7


class MonthlyActiveUsers(ActiveUsers):
    """Tell how many users each tag had in each of the last seven months of 30 days."""

    days = 30


class UsersOfClients(TagReport):
    """Tell who used which client tool in the last 30 days, those with the most calls first."""

    @described(
        query=shapes.ClientUsersQuery,
        answer={
            "results": [
                {
                    "user_id": "u-17", "user_email": None, "user_agent": "Claude Code", "total_requests": 13,
                    "successful_requests": 12, "failed_requests": 1, "total_tokens": 21000,
                    "total_spend": 0.42, "spend": 0.42,
                }
            ],
            "total_count": 1, "page": 1, "page_size": 50, "total_pages": 1,
        },
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        given = self.query(shapes.ClientUsersQuery)
        filters = Filters(**last_days(_ANALYSED_DAYS), client_tools=_tags(given))
        groups = grouped(filters, ("user", "client_tool"))
        groups.sort(key=lambda group: (-group.tally.calls, group.names))
        size, start = given["page_size"], (given["page"] - 1) * given["page_size"]
        shown = groups[start : start + size]
        users = User.objects.filter(pk__in={group.names[0] for group in shown})
        emails = dict(users.values_list("pk", "email"))
        return Response(
            {
                "results": [
                    {
                        "user_id": user or None,
                        "user_email": emails.get(user) or None,
                        "user_agent": client_tool or None,
                        **_sums(sums),
                        "spend": from_nano(sums.cost),
                    }
                    for (user, client_tool), sums in shown
                ],
                "total_count": len(groups),
                "page": given["page"],
                "page_size": size,
                "total_pages": -(-len(groups) // size),
            }
        )


def _tags(given: Mapping[str, Any]) -> list[str] | None:
    one, several = given.get("tag_filter"), names_of(given.get("tag_filters"))
    return [*([one] if one else []), *(several or [])] or None


def _sums(sums: Tally) -> dict[str, Any]:
    return {
        "total_requests": sums.calls,
        "successful_requests": sums.calls - sums.failed_calls,
        "failed_requests": sums.failed_calls,
        "total_tokens": sums.prompt_tokens + sums.completion_tokens,
        "total_spend": from_nano(sums.cost),
        "unpriced_requests": sums.unpriced_calls,
        "estimated_requests": sums.estimated_calls,
    }


urlpatterns = [
    path("tag/distinct", DistinctTags.as_view()),
    path("tag/summary", TagSummary.as_view()),
    path("tag/dau", ActiveUsers.as_view()),
    path("tag/wau", WeeklyActiveUsers.as_view()),
    path("tag/mau", MonthlyActiveUsers.as_view()),
    path("tag/user-agent/per-user-analytics", UsersOfClients.as_view()),
]
