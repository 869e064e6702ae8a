"""Daily activity and its exports, by contract 6.6 and decisions 11 and 26: every figure against the log."""

import asyncio
import csv
from collections import defaultdict
from decimal import Decimal
from io import StringIO
from typing import Any
from unittest import mock

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.test import AsyncRequestFactory, SimpleTestCase
from rest_framework.request import Request

from billing.booking.rollups import FAILED
from billing.models import SpendLog
from billing.views import activity as activity_views
from billing.views import exports as export_views
from billing.views.streaming import streamed
from tests.billing.test_api_spend import RANGE, ZERO, SpendTestCase, model_of

KINDS = ("user", "team", "customer", "end_user")
COLUMN = {"user": "user_id", "team": "team_id", "customer": "customer_id", "end_user": "customer_id"}
METRICS = [
    "spend", "prompt_tokens", "completion_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "total_tokens", "successful_requests", "failed_requests", "api_requests", "unpriced_requests",
    "estimated_requests", "cache_hits",
]  # fmt: skip
METADATA = [
    "total_spend", "total_prompt_tokens", "total_completion_tokens", "total_tokens", "total_api_requests",
    "total_successful_requests", "total_failed_requests", "total_cache_read_input_tokens",
    "total_cache_creation_input_tokens", "page", "total_pages", "has_more",
]  # fmt: skip
ENDPOINTS = {"openai_chat": "/v1/chat/completions", "anthropic_messages": "/v1/messages"}


def counted(log: SpendLog) -> dict[str, int]:
    """Return what one call adds to the metrics, without its spend."""
    usage = log.usage
    failed = int(log.status in FAILED)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "successful_requests": 1 - failed,
        "failed_requests": failed,
        "api_requests": 1,
        "unpriced_requests": int(log.cost is None),
        "estimated_requests": int(log.usage_source in ("partial", "estimated")),
        "cache_hits": int(log.usage_source == "cache"),
    }


class ActivityTestCase(SpendTestCase):
    def activity(self, kind: str, **query: Any) -> Any:
        return self.ask(f"/{kind}/daily/activity", **{**RANGE, **query})

    def expected(self, of: Any, *, charge: bool, where: Any = lambda log: True) -> dict[Any, Any]:
        """Return full metrics by what `of` says of (call, day); it may say several, in a list."""
        sums: dict[Any, Any] = defaultdict(lambda: dict.fromkeys(METRICS, 0))
        for log, day, cost, charged, calls in self.facts():
            if not where(log):
                continue
            named = of(log, day)
            for name in named if isinstance(named, list) else [named]:
                sums[name]["spend"] += charged if charge else cost
                for measure, value in counted(log).items() if calls else ():
                    sums[name][measure] += value
        return dict(sums)


class FigureTests(ActivityTestCase):
    def test_every_figure_of_every_breakdown_is_the_logs(self):
        for kind in KINDS:
            charge = kind in ("customer", "end_user")
            results = self.activity(kind)["results"]
            entity = COLUMN[kind]
            for name, of in (
                ("models", model_of),
                ("model_groups", lambda log: log.model),
                ("providers", lambda log: log.provider),
                ("endpoints", lambda log: ENDPOINTS[log.dialect]),
                ("entities", lambda log, entity=entity: getattr(log, entity) or ""),
            ):
                with self.subTest(kind=kind, breakdown=name):
                    told, by_key = {}, {}
                    for day in results:
                        for each, sums in day["breakdown"][name].items():
                            told[day["date"], each] = sums["metrics"]
                            for key, of_key in sums["api_key_breakdown"].items():
                                by_key[day["date"], each, key] = of_key["metrics"]

                    self.assertEqual(
                        told, self.expected(lambda log, day, of=of: (day, of(log)), charge=charge)
                    )
                    self.assertEqual(
                        by_key,
                        self.expected(
                            lambda log, day, of=of: (day, of(log), self.key_name(log)), charge=charge
                        ),
                    )
            keys = {
                (day["date"], key): told["metrics"]
                for day in results
                for key, told in day["breakdown"]["api_keys"].items()
            }
            self.assertEqual(keys, self.expected(lambda log, day: (day, self.key_name(log)), charge=charge))
            days = {day["date"]: day["metrics"] for day in results}
            self.assertEqual(days, self.expected(lambda log, day: day, charge=charge))

    def test_the_breakdown_of_one_is_its_part_of_the_breakdown_of_all(self):
        one = {"user": {"user_id": "bob"}, "team": {"team_ids": "t-sales"}, "tag": {"tags": "a"}}
        one["customer"] = {"end_user_ids": "acme"}
        for kind, query in one.items():
            [name] = query.values()
            of_all = {
                day["date"]: day["breakdown"]["entities"][name]
                for day in self.activity(kind)["results"]
                if name in day["breakdown"]["entities"]
            }
            of_one = {
                day["date"]: day["breakdown"]["entities"] for day in self.activity(kind, **query)["results"]
            }
            with self.subTest(kind=kind):
                self.assertTrue(of_all)
                self.assertEqual(of_one, {day: {name: told} for day, told in of_all.items()})

    def test_the_totals_are_of_the_whole_range_whatever_the_page(self):
        for kind in (*KINDS, "tag"):
            first, second = (self.activity(kind, page=page, page_size=2) for page in (1, 2))

            self.assertEqual([day["date"] for day in first["results"]], ["2026-02-05", "2026-02-03"])
            self.assertEqual([day["date"] for day in second["results"]], ["2026-02-02", "2026-02-01"])
            self.assertEqual(
                [(told["metadata"]["total_pages"], told["metadata"]["has_more"]) for told in (first, second)],
                [(2, True), (2, False)],
            )
            for name in METRICS:
                total = f"total_{name.removeprefix('total_')}"
                days = [day["metrics"][name] for day in (*first["results"], *second["results"])]
                self.assertEqual(first["metadata"][total], sum(days), (kind, name))
                self.assertEqual(second["metadata"][total], sum(days), (kind, name))
            self.assertEqual(self.activity(kind, page=3, page_size=2)["results"], [])

    def test_the_shape_is_the_contracts_with_our_fields_behind(self):
        told = self.activity("customer")

        self.assertEqual(list(told), ["results", "metadata"])
        self.assertLessEqual(set(METADATA), set(told["metadata"]))
        day = told["results"][0]
        self.assertEqual(list(day), ["date", "metrics", "breakdown"])
        self.assertEqual(list(day["metrics"]), METRICS)
        self.assertLessEqual(
            {"mcp_servers", "models", "model_groups", "providers", "endpoints", "api_keys", "entities"},
            set(day["breakdown"]),
        )
        acme = day["breakdown"]["entities"]["acme"]
        self.assertEqual((acme["metadata"], list(acme["metrics"])), ({"alias": "Acme Ltd"}, METRICS))
        alice = self.keys["alice"].token_hash
        self.assertEqual(
            day["breakdown"]["api_keys"][alice]["metadata"],
            {"key_alias": "alice", "team_id": None, "user_id": "alice"},
        )

    def test_calls_without_an_entity_stay_visible(self):
        for kind in KINDS:
            column, charge = COLUMN[kind], kind in ("customer", "end_user")
            expected = self.expected(
                lambda log, day: None, charge=charge, where=lambda log, c=column: getattr(log, c) is None
            )
            self.assertEqual(self.activity(kind)["metadata"]["unattributed"], expected[None])

    def test_the_filters_are_exact(self):
        for kind, query, where in (
            ("user", {"user_id": "bob"}, lambda log: log.user_id == "bob"),
            ("team", {"team_ids": "t-sales,none"}, lambda log: log.team_id == "t-sales"),
            ("team", {"exclude_team_ids": "t-sales"}, lambda log: log.team_id != "t-sales"),
            ("customer", {"end_user_ids": "acme, gamma"}, lambda log: log.customer_id in ("acme", "gamma")),
            ("customer", {"exclude_end_user_ids": "acme"}, lambda log: log.customer_id != "acme"),
            ("team", {"model": "gpt-4o"}, lambda log: log.model == "gpt-4o"),
            ("team", {"model": "upstream-x"}, lambda log: log.upstream_model == "upstream-x"),
            ("customer", {"model": "gpt-4o"}, lambda log: log.model == "gpt-4o"),
            ("customer", {"model": "upstream-x"}, lambda log: log.upstream_model == "upstream-x"),
            ("customer", {"model": "never called"}, lambda log: False),
            ("user", {"api_key": "sk-key-of-bob"}, lambda log: log.key_id == self.keys["bob"].pk),
            ("user", {"api_key": "sk-nobodys"}, lambda log: False),
        ):
            with self.subTest(kind=kind, query=query):
                told = self.activity(kind, **query)

                expected = self.expected(lambda log, day: day, charge=kind == "customer", where=where)
                self.assertEqual({day["date"]: day["metrics"] for day in told["results"]}, expected)

    def test_what_is_not_listed_is_told_as_the_rest(self):
        with (
            mock.patch.object(activity_views, "MOST_ENTITIES", 1),
            mock.patch.object(activity_views, "MOST_KEYS", 2),
            mock.patch.object(activity_views, "MOST_KEYS_OF_ONE", 1),
        ):
            for day in self.activity("customer")["results"]:
                breakdown = day["breakdown"]
                self.assertEqual(len(breakdown["entities"]), 2)  # the first one, and calls of none
                self.assertEqual(len(breakdown["api_keys"]), 2)
                for listed, rest in (("entities", "other_entities"), ("api_keys", "other_api_keys")):
                    for name in METRICS:
                        shown = sum(each["metrics"][name] for each in breakdown[listed].values())
                        left = breakdown[rest]["metrics"][name]
                        self.assertEqual(shown + left, day["metrics"][name])
                for model in breakdown["models"].values():
                    self.assertLessEqual(len(model["api_key_breakdown"]), 1)

    def test_aggregated_is_all_pages_in_one(self):
        for kind in (*KINDS, "tag"):
            whole = self.ask(f"/{kind}/daily/activity/aggregated", **RANGE)

            self.assertEqual(whole["results"], self.activity(kind, page_size=1000)["results"])
            self.assertEqual((whole["metadata"]["total_pages"], whole["metadata"]["has_more"]), (1, False))

    def test_the_number_of_queries_does_not_grow(self):
        for kind, queries in (("user", 11), ("team", 11), ("customer", 11), ("tag", 9)):
            for page_size in (1, 4):
                with self.subTest(kind=kind, page_size=page_size), self.assertNumQueries(queries):
                    self.activity(kind, page_size=page_size)


class TagTests(ActivityTestCase):
    def test_a_call_counts_under_each_of_its_tags_and_once_where_it_is_deduplicated(self):
        told = self.activity("tag")

        by_tag = {
            (day["date"], tag): sums["metrics"]
            for day in told["results"]
            for tag, sums in day["breakdown"]["entities"].items()
        }
        self.assertEqual(
            by_tag, self.expected(lambda log, day: [(day, tag) for tag in log.tags], charge=False)
        )
        days = {day["date"]: day["metrics"] for day in told["results"]}
        self.assertEqual(days, self.expected(lambda log, day: [day for _ in log.tags], charge=False))
        once = self.expected(lambda log, day: bool(log.tags), charge=False)
        self.assertEqual(told["metadata"]["deduplicated"], once[True])
        self.assertEqual(told["metadata"]["unattributed"], once[False])

    def test_of_several_tags_each_counts(self):
        told = self.activity("tag", tags="a,b")

        days = {day["date"]: day["metrics"] for day in told["results"]}
        self.assertEqual(
            days, self.expected(lambda log, day: [day for tag in log.tags if tag in "ab"], charge=False)
        )
        once = self.expected(lambda log, day: None, charge=False, where=lambda log: {"a", "b"} & {*log.tags})
        self.assertEqual(told["metadata"]["deduplicated"], once[None])
        self.assertEqual(set(told["results"][0]["breakdown"]["entities"]), {"a", "b"})


class AccessTests(ActivityTestCase):
    def test_users_see_their_own_calls_and_nobody_elses(self):
        own = self.activity("user", key="sk-key-of-charlie")

        expected = self.expected(
            lambda log, day: day, charge=False, where=lambda log: log.user_id == "charlie"
        )
        self.assertEqual({day["date"]: day["metrics"] for day in own["results"]}, expected)
        self.assertEqual(self.activity("user", key="sk-key-of-charlie", user_id="charlie"), own)
        for path in ("", "/aggregated", "/export"):
            self.ask(
                f"/user/daily/activity{path}", key="sk-key-of-charlie", user_id="alice", status=404, **RANGE
            )

    def test_whoever_administers_a_team_sees_it_and_others_their_own_calls(self):
        sales = self.activity("team", key="sk-key-of-alice")
        self.assertEqual(sales["results"], self.activity("team", team_ids="t-sales")["results"])
        self.activity("team", key="sk-key-of-alice", team_ids="t-sales,t-labs", status=404)

        told = self.activity("team", key="sk-key-of-bob", team_ids="t-sales")
        expected = self.expected(
            lambda log, day: day,
            charge=False,
            where=lambda log: (log.team_id, log.user_id) == ("t-sales", "bob"),
        )
        self.assertEqual({day["date"]: day["metrics"] for day in told["results"]}, expected)

    def test_tags_and_customers_are_for_those_who_see_all_spend(self):
        for kind in ("tag", "customer", "end_user"):
            for path in ("", "/aggregated", "/export"):
                self.ask(f"/{kind}/daily/activity{path}", key="sk-key-of-alice", status=403, **RANGE)

    def test_what_cannot_be_told_is_refused_and_says_why(self):
        for query, status in (
            ({"start_date": ""}, 400),
            ({"end_date": "03.02.2026"}, 400),
            ({"start_date": "2026-03-01"}, 400),
            ({"page": 0}, 422),
            ({"page": "one"}, 422),
            ({"page_size": 1001}, 422),
            ({"page": 10**30}, 422),
            ({"model": "a\nb"}, 422),
        ):
            for kind in (*KINDS, "tag"):
                with self.subTest(kind=kind, query=query):
                    self.assertIn("detail", self.activity(kind, status=status, **query))
        self.ask("/user/daily/activity/export", status=422, format="xlsx", **RANGE)
        years = {"start_date": "2024-01-01", "end_date": "2026-02-05"}
        self.ask("/user/daily/activity/aggregated", status=400, **years)


class ExportTests(ActivityTestCase):
    def exported(self, kind: str, **query: Any) -> list[dict[str, str]]:
        response = self.client.get(
            f"/{kind}/daily/activity/export",
            {**RANGE, **query},
            headers={"authorization": f"Bearer {settings.MASTER_KEY}"},
        )
        self.assertEqual(response.status_code, 200)
        self.answered = response
        return list(csv.DictReader(StringIO(b"".join(response.streaming_content).decode(), newline="")))

    def test_every_row_is_the_logs(self):
        for kind in KINDS:
            charge, column = kind in ("customer", "end_user"), COLUMN[kind]
            name = "customer" if charge else kind

            expected = self.expected(
                lambda log, day, c=column: (
                    day, getattr(log, c) or "", self.key_name(log), log.model, model_of(log),
                    ENDPOINTS[log.dialect],
                ),
                charge=charge,
            )  # fmt: skip
            self.assertEqual(
                sum_by(self.exported(kind), name),
                {key: (sums["spend"], sums["api_requests"]) for key, sums in expected.items()},
            )

    def test_json_has_the_same_rows(self):
        rows = self.exported("team")
        told = self.ask("/team/daily/activity/export", format="json", **RANGE)

        self.assertEqual(
            [(row["date"], row["entity"], row["api_key"], row["spend"], row["total_tokens"]) for row in told],
            [
                (
                    row["date (UTC)"], row["team"], row["api_key (hash)"], Decimal(row["spend (USD)"]),
                    int(row["total_tokens (tokens)"]),
                )
                for row in rows
            ],
        )  # fmt: skip

    def test_untagged_calls_are_in_the_export_of_tags(self):
        rows = self.exported("tag")

        expected = self.expected(lambda log, day: list(log.tags) or [""], charge=False)
        for tag, sums in expected.items():
            spent = sum(Decimal(row["spend (USD)"]) for row in rows if row["tag"] == tag)
            self.assertEqual(spent, sums["spend"], tag)

    def test_a_spreadsheet_computes_no_cell(self):
        customers = {row["customer"] for row in self.exported("customer")}
        self.assertIn("'=beta", customers)
        self.assertNotIn("=beta", customers)
        for start in "=+-@\t\r":
            self.assertEqual(export_views._cell(start + "1"), "'" + start + "1")

    def test_amounts_below_zero_stay_numbers(self):
        spent = [row["spend (USD)"] for row in self.exported("customer", end_user_ids="acme")]

        self.assertTrue(all(Decimal(each) is not None for each in spent))
        self.assertTrue(any(each.startswith("-") for each in spent), "the adjustment outweighs its group")

    def test_it_is_a_file_and_sent_in_parts(self):
        whole = self.exported("customer")
        self.assertEqual(
            self.answered["Content-Disposition"],
            'attachment; filename="customer-2026-02-01-2026-02-05.csv"',
        )
        with mock.patch.object(export_views, "_MOST_CALLS", 10):
            self.assertEqual(self.exported("customer"), whole)

    def test_nothing_is_a_head_without_rows(self):
        nothing = {"start_date": "2020-01-01", "end_date": "2020-01-02"}
        self.assertEqual(self.exported("team", **nothing), [])
        self.assertEqual(self.ask("/team/daily/activity/export", format="json", **nothing), [])


def sum_by(rows: list[dict[str, str]], name: str) -> dict[Any, Any]:
    """Return (spend, calls) of an export's rows, whichever provider they are of."""
    sums: dict[Any, Any] = {}
    for row in rows:
        entity = row[name].removeprefix("'")
        key = (
            row["date (UTC)"], entity, row["api_key (hash)"], row["model_group"], row["model"],
            row["endpoint"],
        )  # fmt: skip
        spend, calls = sums.get(key, (ZERO, 0))
        sums[key] = spend + Decimal(row["spend (USD)"]), calls + int(row["api_requests (requests)"])
    return sums


class StreamingTests(SimpleTestCase):
    def test_under_asgi_each_part_is_sent_when_it_is_made(self):
        made = []

        def parts():
            for part in (b"a", b"b", b"c"):
                made.append(part)
                yield part

        request = AsyncRequestFactory().get("/")
        self.assertIsInstance(request, ASGIRequest)
        response = streamed(Request(request), parts(), content_type="text/plain")
        self.assertEqual(made, [b"a"])

        async def read() -> list[bytes]:
            return [part async for part in response.streaming_content]

        self.assertEqual(asyncio.run(read()), [b"a", b"b", b"c"])
