"""GET /spend/logs, /spend/logs/v2 and their companions: calls and daily sums, by contract 6.2 and 6.3."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

from django.conf import settings
from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings

from billing.books.adjustments import adjust
from billing.models import Adjustment, Price, SpendLog
from billing.prices.pricing import resolve
from billing.reporting import log_reading
from billing.reporting.log_reading import find_logs
from billing.usage import Usage
from billing.views import log_objects
from customers.api import Reach
from customers.keys import hash_secret
from customers.models import Team, TeamMembership, User, VirtualKey
from customers.money import from_nano
from tests.billing.making import book_calls, make_call, nano

AT = datetime(2026, 2, 3, 9, 12, 44, 120000, tzinfo=UTC)
DAY = timedelta(days=1)
RANGE = {"start_date": "2026-02-01", "end_date": "2026-02-10"}
ROW = [
    "request_id", "call_type", "api_key", "spend", "total_tokens", "prompt_tokens", "completion_tokens",
    "startTime", "endTime", "completionStartTime", "request_duration_ms", "model", "model_id", "model_group",
    "custom_llm_provider", "api_base", "user", "end_user", "team_id", "organization_id", "cache_hit",
    "cache_key", "request_tags", "requester_ip_address", "session_id", "status", "agent_id",
    "mcp_namespaced_tool_name",
]  # fmt: skip
BODIES = ["messages", "response", "proxy_server_request"]
METADATA = [
    "user_api_key", "user_api_key_alias", "user_api_key_team_id", "user_api_key_team_alias",
    "user_api_key_user_id", "user_api_key_org_id", "spend_logs_metadata", "requester_ip_address", "status",
    "additional_usage_values", "usage_object", "cost_breakdown", "error_information",
]  # fmt: skip
MASTER = settings.MASTER_KEY


def usd(text: str) -> Decimal:
    return Decimal(text)


class LogsTestCase(TestCase):
    """Alice is on team Sales, Bob administers it, Charlie is on none. Each has a key."""

    @classmethod
    def setUpTestData(cls):
        cls.sales = Team.objects.create(id="t-sales", alias="Sales")
        for name in ("alice", "bob", "charlie"):
            User.objects.create(id=name, username=name)
        TeamMembership.objects.create(team=cls.sales, user_id="alice", role="user")
        TeamMembership.objects.create(team=cls.sales, user_id="bob", role="admin")
        cls.alice = cls.make_key("alice", team=cls.sales, alias="acme-prod")
        cls.bob = cls.make_key("bob")
        cls.charlie = cls.make_key("charlie")
        cls.price = Price.objects.create(
            provider="openai",
            model="gpt-4o-mini",
            input_per_mtok_usd="0.15",
            cache_read_per_mtok_usd="0.075",
            output_per_mtok_usd="0.6",
        )

    @staticmethod
    def make_key(user_id: str | None, **fields: Any) -> VirtualKey:
        secret = f"sk-key-of-{user_id or uuid.uuid4()}"
        return VirtualKey.objects.create(
            token_hash=hash_secret(secret), display_name="sk-...", user_id=user_id, **fields
        )

    def book(self, *, cost_usd: str | None = "0.5", closed: Any = None, **fields: Any) -> SpendLog:
        """Book one call of Alice's, and return its row."""
        given: dict[str, Any] = {
            "at": AT, "key_id": self.alice.pk.bytes, "team_id": "t-sales", "user_id": "alice",
            "customer_id": "acme-042", "model": "gpt-4o-mini", **fields,
        }  # fmt: skip
        sent = {
            "provider": "openai",
            "upstream": "openai",
            "upstream_model": "gpt-4o-mini",
            "deployment_id": 7,
        }
        call = make_call(cost_usd=cost_usd, closed={**sent, **(closed or {})}, **given)
        book_calls(call)
        return SpendLog.objects.get(pk=uuid.UUID(bytes=call.opened.call_id))

    def ask(self, path: str, *, key: str = MASTER, expect: int = 200, **query: Any) -> Any:
        response = self.client.get(path, query, headers={"authorization": f"Bearer {key}"})
        self.assertEqual(response.status_code, expect, response.content[:500])
        self.headers = response.headers
        return json.loads(response.content, parse_float=Decimal)

    def rows(self, **query: Any) -> list[dict[str, Any]]:
        return self.ask("/spend/logs", summarize="false", **query)

    def page(self, **query: Any) -> dict[str, Any]:
        return self.ask("/spend/logs/v2", **{**RANGE, **query})

    def found(self, **query: Any) -> list[str]:
        """Return the call ids of a page."""
        return [row["litellm_call_id"] for row in self.page(**query)["data"]]


class RowTests(LogsTestCase):
    def test_a_row_has_the_fields_of_the_contract_in_their_order_and_ours_behind(self):
        log = self.book(
            cost_usd="0.000282",
            tags=["engineering"],
            session_id="0b0d4f9e",
            closed={
                "usage": Usage(input_uncached=500, cache_read=1000, output_text=220),
                "price_id": self.price.pk,
                "ended_us": int((AT + timedelta(milliseconds=1710)).timestamp() * 1_000_000),
                "first_token_us": 580_000,
                "response_id": "chatcmpl-A1b2C3",
            },
        )

        [row] = self.rows()

        self.assertEqual(list(row)[: len(ROW) + 4], [*ROW, *BODIES, "metadata"])
        metadata = row.pop("metadata")
        expected = {
            "request_id": "chatcmpl-A1b2C3",
            "call_type": "acompletion",
            "api_key": self.alice.token_hash,
            "spend": usd("0.000282"),
            "total_tokens": 1720,
            "prompt_tokens": 1500,
            "completion_tokens": 220,
            "startTime": "2026-02-03T09:12:44.120000Z",
            "endTime": "2026-02-03T09:12:45.830000Z",
            "completionStartTime": "2026-02-03T09:12:44.700000Z",
            "request_duration_ms": 1710,
            "model": "gpt-4o-mini",
            "model_id": "7",
            "model_group": "gpt-4o-mini",
            "custom_llm_provider": "openai",
            "user": "alice",
            "end_user": "acme-042",
            "team_id": "t-sales",
            "organization_id": None,
            "cache_hit": "False",
            "cache_key": "Cache OFF",
            "request_tags": ["engineering"],
            "requester_ip_address": "",
            "session_id": "0b0d4f9e",
            "status": "success",
            "agent_id": None,
            "mcp_namespaced_tool_name": None,
            "messages": {},
            "response": {},
            "proxy_server_request": {},
            "litellm_call_id": str(log.pk),
            "cost": usd("0.000282"),
            "charge": usd("0.000282"),
            "gateway_status": "success",
        }
        self.assertEqual({name: row[name] for name in expected}, expected)
        self.assertEqual(list(metadata), METADATA)
        self.assertEqual(
            metadata,
            {
                "user_api_key": self.alice.token_hash,
                "user_api_key_alias": "acme-prod",
                "user_api_key_team_id": "t-sales",
                "user_api_key_team_alias": "Sales",
                "user_api_key_user_id": "alice",
                "user_api_key_org_id": None,
                "spend_logs_metadata": None,
                "requester_ip_address": "",
                "status": "success",
                "additional_usage_values": {
                    "prompt_tokens_details": {"cached_tokens": 1000},
                    "cache_read_input_tokens": 1000,
                },
                "usage_object": {"prompt_tokens": 1500, "completion_tokens": 220, "total_tokens": 1720},
                "cost_breakdown": {
                    "input_cost": usd("0.15") * 500 / 1_000_000,
                    "cache_read_cost": usd("0.075") * 1000 / 1_000_000,
                    "output_cost": usd("0.6") * 220 / 1_000_000,
                    "total_cost": usd("0.000282"),
                },
                "error_information": None,
            },
        )

    def test_the_parts_of_a_cost_add_up_to_it_to_the_last_nano_dollar(self):
        price = Price.objects.create(
            provider="openai", model="odd", input_per_mtok_usd="0.0333", output_per_mtok_usd="0.0777",
            cache_write_5m_per_mtok_usd="0.0111", per_web_search_usd="0.01", per_request_usd="0.000000001",
        )  # fmt: skip
        price.refresh_from_db()
        usage = Usage(
            input_uncached=7, cache_read=11, cache_write_5m=13, output_text=17, reasoning=19, web_searches=2
        )
        cost = from_nano(resolve(price).cost_nano(usage))
        self.book(cost_usd=str(cost), closed={"usage": usage, "price_id": price.pk})

        [row] = self.rows()

        parts = row["metadata"]["cost_breakdown"]
        self.assertEqual(parts.pop("total_cost"), row["spend"])
        self.assertEqual(sum(parts.values()), row["spend"])
        self.assertEqual(parts["tool_usage_cost"], usd("0.02"))
        self.assertEqual(parts["request_cost"], usd("0.000000001"))

    def test_a_cost_whose_price_does_not_give_it_has_no_parts(self):
        self.book(cost_usd="0.75", closed={"price_id": self.price.pk})
        self.book(cost_usd="0.25", closed={"price_id": 987_654})

        self.assertEqual(
            [row["metadata"]["cost_breakdown"] for row in self.rows()],
            [{"total_cost": usd(text)} for text in self.costs_newest_first()],
        )

    def costs_newest_first(self) -> list[str]:
        return [str(log.cost) for log in SpendLog.objects.order_by("-pk")]

    def test_an_unpriced_call_spends_nothing_and_says_that_its_cost_is_unknown(self):
        self.book(cost_usd=None)

        [row] = self.rows()

        self.assertEqual((row["spend"], row["cost"], row["usage_source"]), (0, None, "unpriced"))
        self.assertIsNone(row["metadata"]["cost_breakdown"])

    def test_a_failed_call_says_why(self):
        self.book(
            cost_usd="0",
            closed={
                "status": "failure", "http_status": 429, "error_type": "rate_limit_error",
                "error_message": "Slow down", "usage": Usage(), "usage_source": "none",
            },
        )  # fmt: skip

        [row] = self.rows()

        self.assertEqual((row["status"], row["spend"], row["total_tokens"]), ("failure", 0, 0))
        self.assertEqual(
            row["metadata"]["error_information"],
            {
                "error_code": "429",
                "error_class": "rate_limit_error",
                "error_message": "Slow down",
                "llm_provider": "openai",
                "traceback": "",
            },
        )

    def test_refused_and_unsent_calls_are_failures_as_in_the_totals(self):
        for status in ("refused", "not_sent"):
            self.book(cost_usd="0", closed={"status": status})
        self.book(closed={"status": "interrupted", "error_type": "interrupted", "http_status": None})

        rows = {row["gateway_status"]: row for row in self.rows()}

        self.assertEqual(
            {name: row["status"] for name, row in rows.items()},
            {"refused": "failure", "not_sent": "failure", "interrupted": "success"},
        )
        self.assertEqual(rows["interrupted"]["metadata"]["error_information"]["error_class"], "interrupted")

    def test_the_master_key_has_a_name_in_place_of_its_hash(self):
        self.book(key_id=None, team_id=None, user_id=None, customer_id=None)

        [row] = self.rows()

        self.assertEqual(row["api_key"], "litellm_proxy_master_key")
        self.assertEqual((row["user"], row["end_user"], row["team_id"]), ("", "", None))
        self.assertNotIn(hash_secret(MASTER), json.dumps(row, default=str))

    def test_a_purged_key_goes_by_its_id(self):
        gone = uuid.UUID(int=17)
        self.book(key_id=gone.bytes)

        [row] = self.rows(api_key=str(gone))

        self.assertEqual(row["api_key"], str(gone))

    def test_a_call_answered_from_the_cache_says_so(self):
        self.book(
            cost_usd="0",
            metadata={"cache_hit": {"key": "abc123", "call_id": "x"}},
            closed={"usage": Usage(), "usage_source": "cache"},
        )

        [row] = self.rows()

        self.assertEqual((row["cache_hit"], row["cache_key"], row["spend"]), ("True", "abc123", 0))

    def test_kept_bodies_are_told_as_they_were_sent(self):
        body = '{"model": "m", "messages": [{"role": "user", "content": "\\u00e9 1.10"}], "n": 1.10}'
        log = self.book(request_body=body)

        [row] = self.rows()
        alone = self.ask(f"/spend/logs/ui/{log.pk}", start_date="2026-02-03 00:00:00")

        for told in (row, alone):
            self.assertEqual(told["messages"], [{"role": "user", "content": "é 1.10"}])
            self.assertEqual(str(told["proxy_server_request"]["n"]), "1.10")
            self.assertEqual(told["response"], {})

    def test_a_body_that_is_no_object_is_told_as_an_empty_one(self):
        for body in ("nope", "[1]", "[" * 5000, '{"a": ', '"x"'):
            log = self.book(request_body=body)
            with self.subTest(body=body[:10]):
                self.assertEqual(
                    self.ask(f"/spend/logs/ui/{log.pk}"),
                    {"messages": {}, "response": {}, "proxy_server_request": {}},
                )

    def test_a_list_has_bodies_as_far_as_they_fit_into_memory(self):
        for minute in range(3):
            self.book(at=AT + timedelta(minutes=minute), request_body='{"input": "12345"}')

        with mock.patch.object(log_objects, "_MAX_BODY_CHARACTERS", 40):
            rows = self.rows()

        self.assertEqual([row["messages"] for row in rows], ["12345", "12345", {}])


class ListTests(LogsTestCase):
    """GET /spend/logs: which calls."""

    def test_without_dates_it_has_calls_of_all_time_newest_first(self):
        old, new = self.book(at=AT - 400 * DAY), self.book()

        rows = self.ask("/spend/logs")

        self.assertEqual([row["litellm_call_id"] for row in rows], [str(new.pk), str(old.pk)])
        self.assertNotIn("x-litellm-spend-logs-truncated", self.headers)

    def test_the_end_day_is_included_to_its_last_millisecond(self):
        last = datetime(2026, 2, 4, 23, 59, 59, 999000, tzinfo=UTC)
        first = datetime(2026, 2, 3, tzinfo=UTC)
        for at in (first - timedelta(milliseconds=1), first, last, last + timedelta(milliseconds=1)):
            self.book(at=at)

        rows = self.rows(start_date="2026-02-03", end_date="2026-02-04")

        self.assertEqual(
            [row["startTime"] for row in rows], ["2026-02-04T23:59:59.999000Z", "2026-02-03T00:00:00Z"]
        )

    def test_a_lone_start_date_is_until_now_and_a_lone_end_date_from_the_beginning(self):
        old, new = self.book(at=AT - 5 * DAY), self.book()

        from_then_on = self.ask("/spend/logs", start_date="2026-02-03")
        until_then = self.ask("/spend/logs", end_date="2026-02-02")

        self.assertEqual([row["litellm_call_id"] for row in from_then_on], [str(new.pk)])
        self.assertEqual([row["litellm_call_id"] for row in until_then], [str(old.pk)])

    def test_the_users_own_example_works(self):
        self.book()

        self.assertEqual(len(self.ask("/spend/logs?start_date=2025-02-01&summarize=false")), 1)

    def test_filters_are_all_applied(self):
        log = self.book(tags=["a", "b"])
        self.book(user_id="bob", customer_id="other", key_id=self.bob.pk.bytes, team_id=None)

        mine = {
            "api_key": self.alice.token_hash, "user_id": "alice", "end_user": "acme-042",
            "team_id": "t-sales", "tag": "b", "model": "gpt-4o-mini", "status": "success",
        }  # fmt: skip
        self.assertEqual([row["litellm_call_id"] for row in self.rows(**mine)], [str(log.pk)])
        for name in mine:
            with self.subTest(name=name):
                other = "failure" if name == "status" else "another"
                self.assertEqual(self.rows(**{**mine, name: other}), [])
        self.assertEqual(len(self.rows(**dict.fromkeys(mine, ""))), 2)

    def test_a_key_is_given_plain_or_as_its_hash_also_the_one_before_its_rotation(self):
        log = self.book()
        self.book(key_id=None)
        VirtualKey.objects.filter(pk=self.alice.pk).update(previous_token_hash=hash_secret("sk-before"))

        for text in ("sk-key-of-alice", self.alice.token_hash, self.alice.token_hash.upper(), "sk-before"):
            with self.subTest(text=text):
                self.assertEqual([row["litellm_call_id"] for row in self.rows(api_key=text)], [str(log.pk)])

    def test_the_master_key_is_given_plain_hashed_or_by_name(self):
        log = self.book(key_id=None)
        self.book()

        for text in (MASTER, hash_secret(MASTER), "litellm_proxy_master_key"):
            self.assertEqual([row["litellm_call_id"] for row in self.rows(api_key=text)], [str(log.pk)])

    def test_a_call_is_found_by_the_providers_id_by_ours_and_by_the_clients(self):
        log = self.book(client_call_id="mine-1", closed={"response_id": "chatcmpl-1"})
        self.book(client_call_id="mine-2", closed={"response_id": "chatcmpl-2"})
        self.book()

        for text in ("chatcmpl-1", str(log.pk), "mine-1"):
            with self.subTest(text=text):
                self.assertEqual(
                    [row["litellm_call_id"] for row in self.rows(request_id=text)], [str(log.pk)]
                )
        self.assertEqual(self.rows(request_id="unknown"), [])

    def test_ten_thousand_calls_are_the_most_and_a_header_says_that_there_are_more(self):
        logs = [self.book(at=AT + timedelta(minutes=n)) for n in range(3)]

        with mock.patch("billing.views.logs.CAP", 2):
            rows = self.rows()

        self.assertEqual([row["litellm_call_id"] for row in rows], [str(log.pk) for log in logs[:0:-1]])
        self.assertEqual(self.headers["x-litellm-spend-logs-truncated"], "true")

    def test_a_list_takes_as_many_queries_for_one_call_as_for_many(self):
        self.book(tags=["a"], request_body="{}", closed={"price_id": self.price.pk})
        with self.assertNumQueries(6):
            self.rows()
        for n in range(5):
            self.book(at=AT + timedelta(minutes=n), request_body="{}", closed={"price_id": self.price.pk})
        with self.assertNumQueries(6):  # calls, sizes of bodies, bodies, keys, teams, prices
            self.assertEqual(len(self.rows()), 6)


class SummaryTests(LogsTestCase):
    """GET /spend/logs with two dates: sums per day."""

    def summary(self, **query: Any) -> list[dict[str, Any]]:
        return self.ask("/spend/logs", **{"start_date": "2026-02-03", "end_date": "2026-02-04", **query})

    def test_it_has_the_shape_of_the_contract_and_empty_days_up_to_the_end(self):
        self.book(cost_usd="0.42")

        self.assertEqual(
            self.summary(),
            [
                {
                    "startTime": "2026-02-03",
                    "spend": usd("0.42"),
                    "users": {"alice": usd("0.42")},
                    "models": {"gpt-4o-mini": usd("0.42")},
                    self.alice.token_hash: usd("0.42"),
                },
                {"startTime": "2026-02-04", "spend": 0, "users": {}, "models": {}},
            ],
        )

    def test_sums_are_exact_and_the_end_day_counts(self):
        second = {"at": AT + DAY, "key_id": None, "team_id": None, "user_id": None}
        self.book(cost_usd="0.000000001")
        self.book(cost_usd="0.1", user_id="bob")
        self.book(cost_usd="0.2", user_id=None, closed={"upstream_model": "gpt-4o"})
        self.book(cost_usd="7.000000003", **second)
        self.book(cost_usd=None, **second)
        self.book(cost_usd="9", at=AT + 2 * DAY)
        self.book(cost_usd="9", at=AT - DAY)

        self.assertEqual(
            self.summary(),
            [
                {
                    "startTime": "2026-02-03",
                    "spend": usd("0.300000001"),
                    "users": {"alice": usd("0.000000001"), "bob": usd("0.1"), "": usd("0.2")},
                    "models": {"gpt-4o-mini": usd("0.100000001"), "gpt-4o": usd("0.2")},
                    self.alice.token_hash: usd("0.300000001"),
                },
                {
                    "startTime": "2026-02-04",
                    "spend": usd("7.000000003"),
                    "users": {"": usd("7.000000003")},
                    "models": {"gpt-4o-mini": usd("7.000000003")},
                    "litellm_proxy_master_key": usd("7.000000003"),
                },
            ],
        )

    def test_sums_equal_those_of_the_rows_under_every_filter(self):
        other = {"customer_id": "other", "user_id": None, "tags": ["b"], "model": "fast"}
        self.book(cost_usd="0.1", tags=["a", "b"])
        self.book(cost_usd="0.2", **other)
        self.book(cost_usd="0.4", team_id=None, key_id=self.bob.pk.bytes, user_id="bob")
        for query in (
            {}, {"api_key": "sk-key-of-bob"}, {"user_id": "alice"}, {"end_user": "other"}, {"tag": "b"},
            {"team_id": "t-sales"}, {"model": "fast"}, {"model": "gpt-4o-mini", "tag": "a"},
            {"end_user": "acme-042", "user_id": "bob"}, {"end_user": "nobody"},
        ):  # fmt: skip
            with self.subTest(query=query):
                dates = {"start_date": "2026-02-03", "end_date": "2026-02-03"}
                expected = sum(row["spend"] for row in self.rows(**dates, **query))
                days = self.summary(**{**dates, **query})
                self.assertEqual(sum(day["spend"] for day in days), expected)
                for day in days:
                    self.assertEqual(sum(day["users"].values()), expected)
                    self.assertEqual(sum(day["models"].values()), expected)

    def test_one_call_is_summed_up_from_its_row(self):
        log = self.book(cost_usd="0.25")
        self.book(cost_usd="0.5")

        days = self.summary(request_id=str(log.pk))

        self.assertEqual([day["spend"] for day in days], [usd("0.25"), 0])
        self.assertEqual(self.summary(request_id="unknown"), [])

    def test_an_adjustment_counts_on_the_day_it_was_booked(self):
        log = self.book(cost_usd="0.5")
        amount = {"cost_nano": nano("0.75"), "charge_nano": nano("0.75")}
        adjust(log, **amount, reason=Adjustment.Reason.REPRICING, at=AT + DAY)

        self.assertEqual([day["spend"] for day in self.summary()], [usd("0.5"), usd("0.25")])

    def test_it_is_read_from_the_rollups_and_never_from_the_log(self):
        self.book(tags=["a"])
        for query in ({}, {"tag": "a"}, {"user_id": "alice"}, {"end_user": "acme-042"}):
            # Closed days, keys, users, models, what keys are called.
            with self.subTest(query=query), self.assertNumQueries(5):
                self.assertEqual(len(self.summary(**query)), 2)
        SpendLog.objects.all()._raw_delete("default")

        self.assertEqual(self.summary()[0]["spend"], usd("0.5"))

    def test_without_calls_it_is_empty_and_a_far_end_pads_a_year_at_most(self):
        self.assertEqual(self.summary(), [])
        self.book()
        self.assertEqual(len(self.summary(end_date="9999-12-31")), 1 + 366)

    def test_from_one_date_on_it_has_to_be_asked_for(self):
        self.book()

        days = self.ask("/spend/logs", start_date="2026-02-03", summarize="true")

        self.assertEqual((days[0]["startTime"], days[0]["spend"]), ("2026-02-03", usd("0.5")))
        self.assertIn("request_id", self.ask("/spend/logs", start_date="2026-02-03")[0])


class PageTests(LogsTestCase):
    """GET /spend/logs/v2 and /spend/logs/ui."""

    def test_a_page_has_the_shape_of_the_contract_without_bodies(self):
        self.book(request_body='{"messages": []}')

        for path in ("/spend/logs/v2", "/spend/logs/ui"):
            page = self.ask(path, start_date="2026-02-03 00:00:00", end_date="2026-02-03 23:59:59")

            rows = page.pop("data")
            self.assertEqual(
                page,
                {
                    "total": 1, "page": 1, "page_size": 50, "total_pages": 1, "total_is_capped": False,
                    "searched_since": None,
                },
            )  # fmt: skip
            self.assertEqual(list(rows[0])[: len(ROW) + 1], [*ROW, "metadata"])
            self.assertFalse(rows[0].keys() & set(BODIES))

    def test_an_end_is_included_to_the_end_of_its_second_or_of_its_day(self):
        log = self.book(at=AT)

        for end, expected in (
            ("2026-02-03 09:12:44", [str(log.pk)]),
            ("2026-02-03 09:12:43", []),
            ("2026-02-03T10:12:44+01:00", [str(log.pk)]),
            ("2026-02-03T09:12:44.120Z", [str(log.pk)]),
            ("2026-02-03T09:12:44.119Z", []),
            ("2026-02-03", [str(log.pk)]),
            ("2026-02-02", []),
        ):
            with self.subTest(end=end):
                self.assertEqual(self.found(end_date=end), expected)

    def test_dates_are_required(self):
        for query in ({}, {"start_date": "2026-02-03"}, {"end_date": "2026-02-03"}):
            answer = self.ask("/spend/logs/v2", expect=400, **query)
            self.assertEqual(answer["error"]["type"], "bad_request")
            self.assertIn(answer["error"]["param"], ("start_date", "end_date"))

    def test_pages_follow_each_other_without_a_gap(self):
        ids = [str(self.book(at=AT + timedelta(seconds=n)).pk) for n in range(5)]

        pages = [self.page(page=number, page_size=2) for number in (1, 2, 3, 4)]

        self.assertEqual(
            [[row["litellm_call_id"] for row in page["data"]] for page in pages],
            [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]], []],
        )
        self.assertEqual({(page["total"], page["total_pages"]) for page in pages}, {(5, 3)})

    def test_the_total_is_capped_and_no_page_leads_beyond(self):
        for n in range(4):
            self.book(at=AT + timedelta(seconds=n))

        with mock.patch.object(log_reading, "CAP", 3):
            first, second, third = (self.page(page=number, page_size=2) for number in (1, 2, 3))

        self.assertEqual((first["total"], first["total_pages"], first["total_is_capped"]), (3, 2, True))
        self.assertEqual([len(page["data"]) for page in (first, second, third)], [2, 1, 0])

    def test_filters(self):
        one = self.book(
            cost_usd="0.1", session_id="s1", model="fast", tags=["a"],
            closed={"response_id": "resp_1", "deployment_id": 8, "usage_source": "cache"},
        )  # fmt: skip
        two = self.book(
            cost_usd="0.3", customer_id="other", key_id=self.bob.pk.bytes, team_id=None, user_id="bob",
            closed={
                "status": "failure", "http_status": 500, "error_type": "server_error",
                "error_message": "It is 100% broken", "upstream_model": "gpt-4o",
            },
        )  # fmt: skip
        only = {one: [str(one.pk)], two: [str(two.pk)], None: []}
        for query, expected in (
            ({"api_key": self.bob.token_hash}, two), ({"api_key": "0" * 64}, None),
            ({"user_id": "alice"}, one), ({"request_id": "resp_1"}, one), ({"session_id": "s1"}, one),
            ({"team_id": "t-sales"}, one), ({"end_user": "other"}, two), ({"model": "gpt-4o"}, two),
            ({"model": "fast"}, one),
            ({"model_id": "8"}, one), ({"model_id": "x"}, None), ({"model_id": "9" * 30}, None),
            ({"model_group": "fast"}, one), ({"key_alias": "ACME"}, one), ({"key_alias": "%"}, None),
            ({"min_spend": "0.100000001"}, two), ({"max_spend": "0.299999999"}, one),
            ({"min_spend": "0.3", "max_spend": "0.3"}, two), ({"status_filter": "success"}, one),
            ({"status_filter": "failure"}, two), ({"cache_hit_filter": "true"}, one),
            ({"cache_hit_filter": "False"}, two), ({"error_code": "500"}, two), ({"error_code": "200"}, None),
            ({"error_code": "server_error"}, two), ({"error_code": "99999"}, None),
            ({"error_message": "100% BROKEN"}, two), ({"error_message": "_"}, None), ({"tag": "a"}, one),
            ({"status_filter": "success", "min_spend": "0.2"}, None),
            ({"end_user": "acme-042", "tag": "b"}, None),
        ):  # fmt: skip
            with self.subTest(query=query):
                self.assertEqual(self.found(**query), only[expected])

    def test_sorts(self):
        first = self.book(
            cost_usd="0.2", at=AT,
            closed={"ended_us": int(AT.timestamp() * 1e6) + 9_000_000, "usage": Usage(output_text=5),
                    "upstream_model": "b", "first_token_us": 5_000},
        )  # fmt: skip
        second = self.book(
            cost_usd=None, at=AT + timedelta(seconds=1), model="a",
            closed={"ended_us": int(AT.timestamp() * 1e6) + 2_000_000, "usage": Usage(reasoning=9),
                    "upstream_model": "", "first_token_us": None},
        )  # fmt: skip
        third = self.book(
            cost_usd="0.1", at=AT + timedelta(seconds=2),
            closed={"ended_us": int(AT.timestamp() * 1e6) + 7_000_000, "usage": Usage(input_image=7),
                    "upstream_model": "c", "first_token_us": 3_000},
        )  # fmt: skip
        for sort_by, ascending in (
            ("startTime", (first, second, third)), ("endTime", (second, third, first)),
            ("spend", (second, third, first)), ("total_tokens", (first, third, second)),
            ("request_duration_ms", (second, third, first)), ("model", (second, first, third)),
        ):  # fmt: skip
            ids = [str(log.pk) for log in ascending]
            with self.subTest(sort_by=sort_by):
                self.assertEqual(self.found(sort_by=sort_by, sort_order="asc"), ids)
                self.assertEqual(self.found(sort_by=sort_by), ids[::-1])
        # What is not known is at the end either way.
        expected = [str(log.pk) for log in (third, first, second)]
        self.assertEqual(self.found(sort_by="ttft_ms", sort_order="asc"), expected)
        self.assertEqual(self.found(sort_by="ttft_ms"), [expected[1], expected[0], expected[2]])

    def test_a_sort_looks_at_the_newest_calls_and_says_since_when(self):
        for n in range(4):
            self.book(at=AT + timedelta(minutes=n), cost_usd=f"0.{9 - n}")

        with mock.patch.object(log_reading, "LOOKED_AT", 2):
            page = self.page(sort_by="spend")

        self.assertEqual([row["spend"] for row in page["data"]], [usd("0.7"), usd("0.6")])
        self.assertEqual((page["total"], page["total_is_capped"]), (2, True))
        self.assertEqual(page["searched_since"], "2026-02-03T09:13:44.120000Z")

    def test_a_filter_without_an_index_looks_at_the_newest_calls_of_the_other_filters(self):
        self.book(cost_usd="0.1", customer_id="rare")
        for n in range(3):
            self.book(at=AT + timedelta(minutes=1 + n), cost_usd="0.2")

        with mock.patch.multiple(log_reading, LOOKED_AT=1, LOOKED_AT_SCATTERED=1):
            of_all = self.page(max_spend="0.1")
            of_one = self.page(max_spend="0.1", end_user="rare")

        self.assertEqual((of_all["total"], of_all["total_is_capped"]), (0, True))
        self.assertEqual((of_one["total"], of_one["total_is_capped"]), (1, False))

    def test_a_page_takes_as_many_queries_for_one_call_as_for_many(self):
        for expected in (1, 2, 3):
            self.book(at=AT + timedelta(minutes=expected), closed={"price_id": self.price.pk})
            with self.subTest(calls=expected), self.assertNumQueries(6):
                # count, ids, calls, keys, teams, prices
                self.assertEqual(len(self.page()["data"]), expected)

    def test_a_session_reads_from_its_beginning(self):
        ids = [str(self.book(at=AT + timedelta(minutes=n), session_id="s1").pk) for n in range(3)]
        self.book(session_id="s2")

        page = self.ask("/spend/logs/session/ui", session_id="s1", page_size=2)

        self.assertEqual([row["litellm_call_id"] for row in page["data"]], ids[:2])
        self.assertEqual((page["total"], page["total_pages"], page["total_is_capped"]), (3, 2, False))

    def test_bodies_of_an_unknown_call_are_not_found(self):
        for request_id in ("nope", str(uuid.uuid4()), "a/b", "%00", "x" * 300, "%ed%a0%80"):
            with self.subTest(request_id=request_id):
                answer = self.ask(f"/spend/logs/ui/{request_id}", expect=404)
                self.assertEqual(answer["error"]["type"], "not_found")

    def test_an_id_with_a_slash_is_one_id(self):
        self.book(client_call_id="a/b", request_body='{"prompt": "x"}')

        self.assertEqual(self.ask("/spend/logs/ui/a/b")["messages"], "x")


class AccessTests(LogsTestCase):
    """Who sees which calls."""

    def setUp(self):
        self.of_alice = self.book(session_id="s1", request_body='{"prompt": "secret"}')
        self.of_bob = self.book(user_id="bob", key_id=self.bob.pk.bytes, team_id=None)
        self.of_all = {str(self.of_alice.pk), str(self.of_bob.pk)}

    def seen(self, name: str) -> set[str]:
        """Return the ids of the calls that are in any list of whoever has the key."""
        key = f"sk-key-of-{name}"
        rows = self.ask("/spend/logs", key=key)
        page = self.ask("/spend/logs/v2", key=key, **RANGE)
        sorted_page = self.ask("/spend/logs/ui", key=key, sort_by="spend", **RANGE)
        lists = [
            {row["litellm_call_id"] for row in some} for some in (rows, page["data"], sorted_page["data"])
        ]
        self.assertEqual(lists, [lists[0]] * 3)
        total = sum(day["spend"] for day in self.ask("/spend/logs", key=key, **RANGE))
        self.assertEqual(total, usd("0.5") * len(rows))
        return lists[0]

    def test_admins_and_viewers_see_all_calls_with_their_charge(self):
        for role in ("proxy_admin", "proxy_admin_viewer"):
            User.objects.filter(pk="charlie").update(role=role)
            self.assertEqual(self.seen("charlie"), self.of_all)
            self.assertIn("charge", self.ask("/spend/logs", key="sk-key-of-charlie")[0])

    def test_a_user_sees_its_own_calls_without_their_charge(self):
        self.assertEqual(self.seen("alice"), {str(self.of_alice.pk)})
        self.assertNotIn("charge", self.ask("/spend/logs", key="sk-key-of-alice")[0])

    def test_who_administers_a_team_sees_its_calls_too(self):
        self.assertEqual(self.seen("bob"), self.of_all)

    def test_a_key_without_a_user_sees_its_own_calls(self):
        service = self.make_key(None, team=self.sales)
        VirtualKey.objects.filter(pk=service.pk).update(token_hash=hash_secret("sk-key-of-service"))
        log = self.book(key_id=service.pk.bytes, user_id=None)

        self.assertEqual(self.seen("service"), {str(log.pk)})

    def test_an_outsider_sees_nothing_whatever_it_asks_for(self):
        self.assertEqual(self.seen("charlie"), set())
        key = "sk-key-of-charlie"
        for query in (
            {"user_id": "alice"}, {"team_id": "t-sales"}, {"api_key": self.alice.token_hash},
            {"request_id": str(self.of_alice.pk)}, {"end_user": "acme-042"},
        ):  # fmt: skip
            self.assertEqual(self.ask("/spend/logs", key=key, **query), [])
            self.assertEqual(self.ask("/spend/logs", key=key, **RANGE, **query), [])
            self.assertEqual(self.ask("/spend/logs/v2", key=key, **RANGE, **query)["total"], 0)
        self.assertEqual(self.ask("/spend/logs/session/ui", key=key, session_id="s1")["data"], [])

    def test_another_ones_call_is_not_found_in_the_words_for_one_that_is_not_there(self):
        own = self.ask(f"/spend/logs/ui/{self.of_alice.pk}", key="sk-key-of-alice")
        self.assertEqual(own["messages"], "secret")

        others = self.ask(f"/spend/logs/ui/{self.of_alice.pk}", key="sk-key-of-charlie", expect=404)
        nobodys = self.ask(f"/spend/logs/ui/{uuid.uuid4()}", key="sk-key-of-charlie", expect=404)

        self.assertEqual(others, nobodys)

    def test_without_a_key_nothing_is_read(self):
        for path in ("/spend/logs", "/spend/logs/v2", "/spend/logs/ui/x", "/spend/logs/session/ui"):
            self.assertEqual(self.client.get(path).status_code, 401)


class BadInputTests(LogsTestCase):
    def test_bad_dates_are_told_how_to_be_written(self):
        for path in ("/spend/logs", "/spend/logs/v2"):
            for text in (
                "yesterday",
                "2026-02-30",
                "03.02.2026",
                "20260203T",
                "2026-02-03 25:00:00",
                "1e9",
                "0",
            ):
                for name in ("start_date", "end_date"):
                    with self.subTest(path=path, text=text, name=name):
                        answer = self.ask(path, expect=400, **{**RANGE, name: text})
                        self.assertEqual(answer["error"]["param"], name)
                        self.assertIn("YYYY-MM-DD", answer["error"]["message"])

    def test_dates_at_the_ends_of_time_are_taken(self):
        self.book()
        for start, end in (
            ("0001-01-01", "9999-12-31"),
            ("1969-12-31", "2026-02-03"),
            ("0001-01-01 00:00:00", "9999-12-31 23:59:59"),
            ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"),
        ):
            with self.subTest(start=start):
                self.assertEqual(len(self.found(start_date=start, end_date=end)), 1)
        self.assertEqual(len(self.ask("/spend/logs", start_date="0001-01-01", end_date="2026-02-03")), 1)
        with override_settings(REPORTING_TIME_ZONE="Pacific/Auckland"):
            self.assertEqual(len(self.rows(start_date="0001-01-01", end_date="9999-12-31")), 1)

    def test_days_are_those_of_the_reporting_time_zone(self):
        with override_settings(REPORTING_TIME_ZONE="Pacific/Auckland"):  # thirteen hours ahead
            self.book(at=datetime(2026, 2, 3, 11, 30, tzinfo=UTC))
            dates = {"start_date": "2026-02-04", "end_date": "2026-02-04"}

            self.assertEqual(len(self.rows(**dates)), 1)
            self.assertEqual(self.ask("/spend/logs", **dates)[0]["startTime"], "2026-02-04")
            self.assertEqual(len(self.found(**dates)), 1)

    def test_the_start_comes_before_the_end(self):
        for path in ("/spend/logs", "/spend/logs/v2"):
            answer = self.ask(path, expect=400, start_date="2026-02-04", end_date="2026-02-03")
            self.assertEqual(answer["error"]["param"], "start_date")

    def test_sums_per_day_have_no_status(self):
        query = {**RANGE, "status": "failure"}
        response = self.client.get("/spend/logs", query, headers={"authorization": f"Bearer {MASTER}"})

        self.assertEqual(response.status_code, 400)
        self.assertEqual(response.json()["error"]["param"], "status")

    def test_values_of_the_wrong_shape_are_422(self):
        for query in (
            {"page": 0}, {"page": -1}, {"page": "x"}, {"page": 10**30}, {"page_size": 0}, {"page_size": 1001},
            {"page_size": "1.5"}, {"min_spend": "x"}, {"max_spend": "NaN"}, {"min_spend": "1e400"},
            {"min_spend": "0.0000000001"}, {"sort_by": "cost"}, {"sort_order": "up"},
            {"status_filter": "odd"},
            {"cache_hit_filter": "maybe"}, {"end_user": "a\0b"}, {"user_id": "x" * 256}, {"tag": "a\nb"},
            {"request_id": "\0"}, {"start_date": "\0"}, {"error_message": "\u2028"},
        ):  # fmt: skip
            with self.subTest(query=query):
                answer = self.ask("/spend/logs/v2", expect=422, **{**RANGE, **query})
                self.assertEqual(answer["detail"][0]["loc"], ["query", next(iter(query))])
        self.ask("/spend/logs", expect=422, summarize="perhaps")
        self.ask("/spend/logs/session/ui", expect=422)

    def test_odd_texts_find_nothing(self):
        self.book()
        for text in ("%", "_", "\\", "'", '"', "{}", "[]", "🦆", "\ud7ff", "-1", "NULL", "sk-", "0" * 64):
            for name in (
                "api_key", "user_id", "request_id", "session_id", "team_id", "end_user", "model", "model_id",
                "model_group", "key_alias", "error_code", "error_message", "tag",
            ):  # fmt: skip
                with self.subTest(name=name, text=text):
                    self.assertEqual(self.found(**{name: text}), [])


class PlanTests(LogsTestCase):
    """Filters and ids are found by an index: the log may have any number of rows."""

    def indexes_of(self, **given: Any) -> str:
        """Return the names of the indexes by which the calls are read."""
        found = find_logs(given, reach=Reach(is_all=True), between=log_reading.Range(None, None))
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL enable_seqscan = off")  # else it reads an empty table as a whole
        plan = found.logs.order_by().values_list("pk").explain()
        return " ".join(re.findall(r"(?:INDEX|Scan using|Index Scan on) (\S+)", plan))

    def test_each_is_read_by_its_index(self):
        for given, column in (
            ({"user_id": "u"}, "user"),
            ({"session_id": "s"}, "session"),
            ({"end_user": "c"}, "customer"),
            ({"team_id": "t"}, "team"),
            ({"request_id": "r"}, "response"),
            ({"request_id": "r"}, "client_call"),
            ({"status_filter": "failure"}, "status"),
            ({"model_group": "m"}, "model"),
        ):
            with self.subTest(given=given, column=column):
                self.assertIn(column, self.indexes_of(**given))


class ExampleTests(SimpleTestCase):
    def test_the_example_of_the_document_has_the_fields_of_a_row(self):
        self.assertEqual(list(log_objects.FULL_EXAMPLE)[: len(ROW) + 4], [*ROW, *BODIES, "metadata"])
        self.assertEqual(list(log_objects.LIST_EXAMPLE["metadata"]), METADATA)
        parts = dict(log_objects.LIST_EXAMPLE["metadata"]["cost_breakdown"])
        self.assertEqual(parts.pop("total_cost"), sum(parts.values()))
