"""The commands of the daily routine: what was spent, on what, by whom, and the prices it is based on."""

import csv
import http.server
import json
import os
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from unittest import mock

from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import SimpleTestCase, TestCase

from billing.management.asking import days_of
from billing.management.tables import as_csv, as_json, printable
from billing.models import DailyOverview, Price, PriceSync
from billing.prices import cost_map
from billing.prices.pricing import PriceBook
from billing.prices.sync import RUNS_AT, automatic, next_run, set_automatic, sync_if_automatic
from billing.tasks import sync_prices as nightly_task
from billing.usage import Usage
from customers.models import AuditLog, Budget, Customer, User, VirtualKey
from customers.money import from_nano
from proxy.configuration.providers import PROVIDERS
from tests.billing.making import NOON, book_calls, make_call, nano

M = 1_000_000
DAYS = ("--from", "2026-07-15", "--to", "2026-07-16")
# A whole cost map as LiteLLM publishes it (over 4,000 models): too large to keep here.
FULL_MAP = Path(os.environ.get("COST_MAP_FILE", "cost_map.json"))


class Terminal(StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def run(command: str, *arguments: str, out=None) -> str:
    output = out or StringIO()
    call_command(command, *arguments, stdout=output)
    return output.getvalue()


def as_document(command: str, *arguments: str) -> dict:
    return json.loads(run(command, *arguments, "--json"), parse_float=Decimal, parse_int=Decimal)


def lines(document: dict, kind: str = "name", rows: str = "rows") -> list[dict]:
    return [row for row in document[rows] if row["row"] == kind]


class SpendTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.key = VirtualKey.objects.create(alias="web", token_hash="a" * 64)
        User.objects.create(username="bob", id="bob", alias="Bob the builder")
        book_calls(
            make_call(
                cost_usd="1.000000001", customer_id="acme", team_id="red", tags=["a", "b"],
                key_id=cls.key.pk.bytes,
            ),
            make_call(cost_usd="2", customer_id="acme", model="other", user_id="bob", tags=["b"]),
            make_call(cost_usd="4", customer_id="beta", closed={"charge_nano": nano("5")}),
            make_call(cost_usd="8", at=NOON + timedelta(days=1), model="third"),
            make_call(cost_usd=None, at=NOON + timedelta(days=1), closed={"usage_source": "partial"}),
            make_call(cost_usd="0", at=NOON + timedelta(days=1), closed={"status": "refused"}),
        )  # fmt: skip

    def test_it_shows_what_each_model_cost_the_dearest_first_and_the_total(self):
        document = as_document("spend", *DAYS)

        self.assertEqual(
            [(row["model"], row["spend_usd"]) for row in lines(document)],
            [("third", 8), ("gpt-4o", Decimal("5.000000001")), ("other", 2)],
        )
        [total] = lines(document, "total")
        self.assertEqual(total["spend_usd"], Decimal("15.000000001"))
        self.assertEqual((total["requests"], total["failed"], total["share"]), (6, 1, 1))

    def test_json_has_every_digit_of_an_amount_as_a_number(self):
        self.assertIn('"spend_usd": 5.000000001,', run("spend", *DAYS, "--json"))

    def test_each_dimension_adds_up_to_the_same_total(self):
        for by in ("model", "key", "team", "user", "provider", "day"):
            with self.subTest(by):
                document = as_document("spend", *DAYS, "--by", by)

                parts = [row["cost_usd"] for row in document["rows"] if row["row"] != "total"]
                self.assertEqual(sum(parts), Decimal("15.000000001"))

    def test_customers_are_told_what_they_are_charged(self):
        document = as_document("spend", *DAYS, "--by", "customer")

        self.assertEqual(document["spend_is"], "charge")
        self.assertEqual(
            [(row["customer"], row["spend_usd"]) for row in lines(document)],
            [("beta", 5), ("acme", Decimal("3.000000001"))],
        )

    def test_calls_of_nobody_have_a_line_of_their_own(self):
        document = as_document("spend", *DAYS, "--by", "customer", "--limit", "1")

        [none] = lines(document, "none")
        self.assertEqual((none["spend_usd"], none["requests"]), (8, 3))

    def test_names_beyond_the_limit_are_one_line(self):
        document = as_document("spend", *DAYS, "--limit", "1")

        self.assertEqual([row["model"] for row in lines(document)], ["third"])
        [rest] = lines(document, "rest")
        self.assertEqual(rest["spend_usd"], Decimal("7.000000001"))

    def test_by_tag_a_call_counts_under_each_and_once_in_the_total(self):
        document = as_document("spend", *DAYS, "--by", "tag", "--limit", "1")

        self.assertEqual(
            [(row["row"], row["tag"], row["spend_usd"]) for row in document["rows"]],
            [
                ("name", "b", Decimal("3.000000001")),
                ("none", None, 12),
                ("total", None, Decimal("15.000000001")),
            ],
        )
        self.assertIn("1 more", run("spend", *DAYS, "--by", "tag", "--limit", "1"))

    def test_days_are_in_their_order_and_a_limit_keeps_the_last(self):
        every = as_document("spend", *DAYS, "--by", "day")
        last = as_document("spend", *DAYS, "--by", "day", "--limit", "1")

        self.assertEqual([row["day"] for row in lines(every)], ["2026-07-15", "2026-07-16"])
        self.assertEqual([row["day"] for row in lines(last)], ["2026-07-16"])

    def test_each_filter_leaves_out_the_rest(self):
        for arguments, expected in (
            (("--customer", "acme"), "3.000000001"),
            (("--customer", "acme", "--customer", "beta"), "7.000000001"),
            (("--customer", ""), "8"),
            (("--key", "web"), "1.000000001"),
            (("--key", str(self.key.pk)), "1.000000001"),
            (("--key", "master"), "14"),
            (("--team", "red"), "1.000000001"),
            (("--user", "bob"), "2"),
            (("--tag", "a", "--tag", "b"), "3.000000001"),
            (("--model", "other"), "2"),
            (("--from", "2026-07-16"), "8"),
        ):
            with self.subTest(arguments):
                [total] = lines(as_document("spend", *DAYS, *arguments), "total")

                self.assertEqual(total["cost_usd"], Decimal(expected))

    def test_the_notes_tell_what_is_unattributed_unpriced_and_estimated(self):
        told = run("spend", *DAYS)

        self.assertIn("Unattributed  $8.00 (53.3 %) of 3 requests", told)
        self.assertIn("Unpriced      1 request ", told)
        self.assertIn("Estimated     1 request ", told)

    def test_the_notes_are_there_even_if_there_is_nothing(self):
        told = run("spend", "--from", "2020-01-01", "--to", "2020-01-02")

        self.assertIn("No calls.", told)
        for note in ("Unattributed  $0.00", "Unpriced      0", "Estimated     0"):
            self.assertIn(note, told)

    def test_a_pipe_gets_plain_text_and_a_terminal_colours_and_bars(self):
        plain, shown = run("spend", *DAYS), run("spend", *DAYS, out=Terminal())

        self.assertNotIn("\x1b", plain)
        self.assertNotIn("█", plain)
        self.assertIn("\x1b[", shown)
        self.assertIn("█", shown)
        for told in (plain, shown):
            self.assertIn("$5.000000001", told)
        self.assertNotIn("\x1b", run("spend", *DAYS, "--no-color", out=Terminal()))

    def test_a_narrow_terminal_cuts_no_amount(self):
        with mock.patch.dict("os.environ", {"COLUMNS": "30"}):
            self.assertIn("$15.000000001", run("spend", *DAYS, out=Terminal()))

    def test_keys_are_told_by_their_names_and_by_their_ids_to_programs(self):
        self.assertIn("web", run("spend", *DAYS, "--by", "key"))
        ids = [row["key"] for row in lines(as_document("spend", *DAYS, "--by", "key"))]
        self.assertEqual(ids, ["master", str(self.key.pk)])

    def test_csv_has_the_same_figures(self):
        rows = list(csv.DictReader(StringIO(run("spend", *DAYS, "--csv"))))

        self.assertEqual([row["row"] for row in rows], ["name", "name", "name", "total"])
        self.assertEqual(rows[1]["spend_usd"], "5.000000001")

    def test_a_day_has_its_total_and_what_it_is_made_of(self):
        document = as_document("daily_activity", *DAYS)

        self.assertEqual(
            [(row["day"], row["spend_usd"]) for row in lines(document)],
            [("2026-07-15", Decimal("7.000000001")), ("2026-07-16", 8)],
        )
        parts = [(row["day"], row["model"], row["key"], row["spend_usd"]) for row in lines(document, "part")]
        self.assertEqual(
            parts[:3],
            [
                ("2026-07-15", "gpt-4o", "master", 4),
                ("2026-07-15", "other", "master", 2),
                ("2026-07-15", "gpt-4o", str(self.key.pk), Decimal("1.000000001")),
            ],
        )
        self.assertEqual(sum(part[3] for part in parts), Decimal("15.000000001"))

    def test_parts_of_a_day_beyond_the_limit_are_one_line(self):
        document = as_document("daily_activity", *DAYS, "--limit", "1")

        [rest] = [row for row in lines(document, "rest") if row["day"] == "2026-07-15"]
        self.assertEqual(rest["spend_usd"], Decimal("3.000000001"))
        self.assertIn("All others", run("daily_activity", *DAYS, "--limit", "1"))

    def test_a_users_spend_is_told_by_model_by_day_of_all_time_and_of_its_budget(self):
        User.objects.filter(pk="bob").update(budget=Budget.objects.create(id="ten", max_budget=Decimal(10)))

        document = as_document("user_spend", "--user-id", "bob", *DAYS)
        told = run("user_spend", "--user-id", "bob", *DAYS)

        self.assertEqual((document["id"], document["all_time"]), ("bob", {"spend_usd": 2, "requests": 1}))
        self.assertEqual([row["model"] for row in lines(document, rows="by_model")], ["other"])
        self.assertEqual([row["day"] for row in lines(document, rows="by_day")], ["2026-07-15"])
        self.assertEqual([limit["limit_usd"] for limit in document["budget"]], [10])
        self.assertIn("User bob (Bob the builder)", told)
        self.assertIn("$10.00", told)

    def test_a_customers_spend_is_its_charge(self):
        document = as_document("user_spend", "--customer-id", "beta", *DAYS)

        self.assertEqual(document["all_time"]["spend_usd"], 5)
        self.assertEqual(lines(document, "total", rows="by_model")[0]["spend_usd"], 5)

    def test_a_users_csv_says_what_each_row_is_by(self):
        rows = list(csv.DictReader(StringIO(run("user_spend", "--user-id", "bob", *DAYS, "--csv"))))

        self.assertEqual(
            [(row["by"], row["name"], row["row"]) for row in rows],
            [
                ("model", "other", "name"), ("model", "", "total"),
                ("day", "2026-07-15", "name"), ("day", "", "total"),
            ],
        )  # fmt: skip

    def test_the_figures_are_those_of_the_rollups_and_not_of_the_log(self):
        DailyOverview.objects.update(cost=Decimal(3))

        [total] = lines(as_document("spend", *DAYS), "total")
        self.assertEqual(total["cost_usd"], 3 * DailyOverview.objects.count())


class RefusalTests(TestCase):
    def test_who_does_not_exist_is_told(self):
        for command, arguments in (
            ("spend", ("--user", "nobody")),
            ("spend", ("--customer", "nobody")),
            ("spend", ("--team", "nobody")),
            ("spend", ("--tag", "nobody")),
            ("spend", ("--key", "nobody")),
            ("spend", ("--key", "00000000-0000-0000-0000-000000000009")),
            ("spend", ("--user", "a\0b")),
            ("spend", ("--key", "a\0b")),
            ("user_spend", ("--user-id", "nobody")),
            ("user_spend", ("--customer-id", "nobody")),
            ("daily_activity", ("--team", "nobody")),
        ):
            with self.subTest((command, arguments)):
                with self.assertRaisesRegex(CommandError, "There is no .*manage.py spend --by") as caught:
                    run(command, *arguments)
                self.assertEqual(caught.exception.returncode, 1)

    def test_a_customer_without_a_call_is_no_error(self):
        Customer.objects.create(id="new")

        self.assertIn("No calls.", run("user_spend", "--customer-id", "new"))

    def test_a_secret_is_refused_and_not_repeated(self):
        with self.assertRaises(CommandError) as caught:
            run("spend", "--key", "sk-very-secret")

        self.assertNotIn("very", str(caught.exception))

    def test_wrong_days_and_numbers_are_told(self):
        for arguments, message in (
            (("--from", "15.07.2026"), "no day: write YYYY-MM-DD"),
            (("--to", "2026-02-30"), "no day"),
            (("--to", "9999-12-31"), "too late"),
            (("--to", "0001-01-02"), "too early"),
            (("--from", "2026-07-16", "--to", "2026-07-15"), "swap them"),
            (("--from", "2026-07-16", "--days", "3"), "not both"),
            (("--days", "0"), "--days"),
            (("--days", "many"), "--days"),
            (("--limit", "0"), "--limit"),
        ):
            with self.subTest(arguments):
                with self.assertRaisesRegex(CommandError, message):
                    run("spend", *arguments)

    def test_nobodys_spend_is_not_everybodys(self):
        with self.assertRaisesRegex(CommandError, "Say whose"):
            run("user_spend", "--user-id", "")

    def test_help_has_examples(self):
        for name in ("spend", "daily_activity", "user_spend", "sync_prices"):
            with self.subTest(name), mock.patch("sys.stdout", StringIO()) as output:
                with self.assertRaises(SystemExit):
                    call_command(name, "--help")
                self.assertIn(f"\nexamples:\n  manage.py {name} ", output.getvalue())


class WritingTests(SimpleTestCase):
    def test_days_said_without_a_start_end_with_the_last(self):
        days = days_of({"end": "2026-07-15", "days": "7"}, now=NOON)
        default = days_of({}, now=NOON)

        self.assertEqual([day.isoformat() for day in days], ["2026-07-09", "2026-07-15"])
        self.assertEqual([day.isoformat() for day in default], ["2026-06-16", "2026-07-15"])

    def test_a_day_is_one_of_the_reporting_time_zone(self):
        late = datetime(2026, 7, 15, 23, tzinfo=UTC)

        with self.settings(REPORTING_TIME_ZONE="Europe/Berlin"):
            self.assertEqual(days_of({"start": "today"}, now=late)[0].isoformat(), "2026-07-16")

    def test_no_amount_is_written_with_an_exponent(self):
        written = as_json({"usd": Decimal("1E-9"), "all": [Decimal("0E-9"), Decimal("1E+3")]})

        self.assertIn("0.000000001", written)
        self.assertEqual(json.loads(written)["all"], [0, 1000])

    def test_a_spreadsheet_computes_nothing(self):
        written = as_csv([{"tag": "=1+1", "spend_usd": Decimal("-0.5")}])

        self.assertEqual(written, "tag,spend_usd\n'=1+1,-0.5\n")

    def test_a_name_cannot_write_to_the_terminal(self):
        self.assertEqual(
            printable("a\x1b[31mb\n"), "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}"
        )


# -- prices ------------------------------------------------------------------------------


def entry(provider: str = "openai", **rates) -> dict:
    return {"litellm_provider": provider, "mode": "chat", **rates}


GPT = {"gpt-x": entry(input_cost_per_token=2.5e-06, output_cost_per_token=1e-05)}


class MapTests(SimpleTestCase):
    def parsed(self, said) -> cost_map.CostMap:
        return cost_map.parse(json.dumps(said).encode(), "the map")

    def one(self, name: str, said: dict) -> Price:
        [price] = self.parsed({name: said}).prices
        return price

    def test_rates_per_token_become_rates_per_million_exactly(self):
        price = self.one(
            "gpt-x",
            entry(
                input_cost_per_token=2.5e-06, output_cost_per_token="1e-05",
                cache_read_input_token_cost=1.25e-07, cache_creation_input_token_cost_above_1hr=6e-06,
                search_context_cost_per_query={"search_context_size_medium": 0.035}, supports_vision=True,
            ),
        )  # fmt: skip

        self.assertEqual((price.provider, price.model, price.source), ("openai", "gpt-x", "cost_map"))
        self.assertEqual((price.input_per_mtok_usd, price.output_per_mtok_usd), (Decimal("2.5"), 10))
        self.assertEqual(
            (price.cache_read_per_mtok_usd, price.cache_write_1h_per_mtok_usd), (Decimal("0.125"), 6)
        )
        self.assertEqual(price.per_web_search_usd, Decimal("0.035"))

    def test_long_context_rates_become_tiers(self):
        price = self.one(
            "gemini/gemini-x",
            entry(
                "gemini", input_cost_per_token=1e-06, output_cost_per_token=2e-06,
                input_cost_per_token_above_200k_tokens=3e-06,
                input_cost_per_token_above_200k_tokens_priority=9e-06,
            ),
        )  # fmt: skip

        self.assertEqual((price.provider, price.model), ("google", "gemini-x"))
        self.assertEqual(
            price.long_context_tiers, [{"above_prompt_tokens": 200_000, "input_per_mtok_usd": "3"}]
        )

    def test_tiered_pricing_stands_in_for_the_rates_per_token(self):
        tiers = [
            {"range": [0, 256e3], "input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07},
            {"range": [256e3, 1e6], "input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06},
        ]

        price = self.one("dashscope/qwen", entry("dashscope", input_cost_per_token=9, tiered_pricing=tiers))

        self.assertEqual(price.input_per_mtok_usd, Decimal("0.05"))
        self.assertEqual(
            price.long_context_tiers,
            [{"above_prompt_tokens": 256_000, "input_per_mtok_usd": "0.25", "output_per_mtok_usd": "2"}],
        )

    def test_what_has_no_rate_of_ours_is_left_out_and_not_free(self):
        found = self.parsed(
            {
                **GPT,
                "sample_spec": entry(input_cost_per_token=0),
                "video": {
                    "litellm_provider": "openai",
                    "mode": "video_generation",
                    "input_cost_per_furlong": 1,
                },
                "by-second": entry(input_cost_per_second=0.1),
                "by-picture": entry(input_cost_per_token=0, output_cost_per_image=0.04),
                "of-nobody": {"mode": "chat", "input_cost_per_token": 1e-06},
                "free": entry("ollama", input_cost_per_token=0, output_cost_per_token=0),
            }
        )

        self.assertEqual([price.model for price in found.prices], ["free", "gpt-x"])
        self.assertEqual(found.left_out, 4)

    def test_an_entry_with_a_wrong_rate_is_named_and_the_others_are_read(self):
        for wrong in (-1, "much", True, [], 1e300, {"a": 1}):
            with self.subTest(wrong):
                found = self.parsed({**GPT, "odd": entry(input_cost_per_token=wrong)})

                self.assertEqual(([price.model for price in found.prices], found.wrong), (["gpt-x"], ["odd"]))

    def test_of_two_entries_for_one_model_the_one_with_its_provider_counts(self):
        found = self.parsed(
            {
                "chat": entry("deepseek", input_cost_per_token=1e-06),
                "deepseek/chat": entry("deepseek", input_cost_per_token=2e-06),
                "azure_ai/big": entry("azure_ai", input_cost_per_token=3e-06),
                "azure/big": entry("azure", input_cost_per_token=4e-06),
            }
        )

        self.assertEqual(
            {price.model: price.input_per_mtok_usd for price in found.prices}, {"chat": 2, "big": 4}
        )

    def test_providers_have_the_names_that_deployments_have(self):
        for name, provider in PROVIDERS.items():
            if name in ("custom_openai", "openai_like", "ollama_chat"):  # no names of a map
                continue
            with self.subTest(name):
                self.assertEqual(
                    self.one(f"{name}/m", entry(name, input_cost_per_token=1)).provider, provider.slug
                )

    def test_no_map_is_one_clear_error(self):
        for body in (
            b"", b"{", b"[1]", b"null", b"{}", b'{"a": 1}', b'{"a": {"b": NaN}}', b"\xff\xfe", b"[" * 100_000,
            b"<html>", json.dumps({"a": entry()}).encode(),
        ):  # fmt: skip
            with self.subTest(body[:20]):
                with self.assertRaisesRegex(cost_map.BadCostMap, "^the map (is|has) no"):
                    cost_map.parse(body, "the map")

    def test_an_address_is_shown_without_what_may_be_secret(self):
        self.assertEqual(
            cost_map.shown("https://me:secret@example.com:8443/map.json?token=secret#x"),
            "https://example.com:8443/map.json",
        )

    def test_the_whole_published_map_is_read(self):
        if not FULL_MAP.exists():
            self.skipTest("COST_MAP_FILE names no cost map: the small ones above have its shapes")

        found = cost_map.load(str(FULL_MAP))

        prices = {(price.provider, price.model): price for price in found.prices}
        self.assertGreater(len(prices), 3_000)
        self.assertEqual(found.wrong, [])
        sonnet = prices["anthropic", "claude-sonnet-4-5"]
        self.assertEqual((sonnet.input_per_mtok_usd, sonnet.cache_write_1h_per_mtok_usd), (3, 6))
        gemini = prices["google", "gemini-2.5-pro"]
        self.assertEqual(gemini.long_context_tiers[0]["output_per_mtok_usd"], "15")


class Maps(http.server.BaseHTTPRequestHandler):
    """Serves /map and /big; /moved leads to /map; all else is not there."""

    def do_GET(self):
        body = {"/map": json.dumps(GPT).encode(), "/big": b" " * 200_000}.get(self.path)
        self.send_response(302 if self.path == "/moved" else 200 if body is not None else 404)
        if self.path == "/moved":
            self.send_header("location", "/map")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


class FetchTests(SimpleTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Maps)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.url = f"http://127.0.0.1:{cls.server.server_port}"

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()
        super().tearDownClass()

    def test_it_is_read_from_where_an_address_leads(self):
        for path in ("/map", "/moved"):
            self.assertEqual([price.model for price in cost_map.load(self.url + path).prices], ["gpt-x"])

    def test_what_cannot_be_had_is_told(self):
        for source, message in (
            (f"{self.url}/none?secret", "it answers 404"),
            ("http://127.0.0.1:1/map", "ConnectError"),
            ("ftp://127.0.0.1/map", "only http and https"),
            ("http://[", "cannot be"),
            ("/no/such/file", "No such file"),
            ("/tmp", "directory"),
            ("a\0b", "cannot be read"),
        ):
            with self.subTest(source):
                with self.assertRaisesRegex(cost_map.BadCostMap, message) as caught:
                    cost_map.fetch(source)
                self.assertNotIn("secret", str(caught.exception))

    def test_too_much_is_refused(self):
        with mock.patch.object(cost_map, "MOST_BYTES", 100_000):
            with self.assertRaisesRegex(cost_map.BadCostMap, "more than"):
                cost_map.fetch(f"{self.url}/big")


class SyncTests(TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="spend-map-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "map.json")
        self.write(GPT)

    def write(self, said) -> None:
        self.path.write_text(json.dumps(said) if isinstance(said, dict) else said)

    def sync(self, *arguments: str) -> str:
        return run("sync_prices", "--from", str(self.path), *arguments)

    def cost(self, at: datetime) -> Decimal:
        price = PriceBook(Price.objects.all()).find("openai", "gpt-x", at_s=at.timestamp())
        return from_nano(price.cost_nano(Usage(input_uncached=1_000)))

    def test_it_adds_what_is_new_and_then_nothing_more(self):
        first, again = self.sync(), self.sync()

        self.assertIn("1 new, 0 changed, 0 gone, 0 unchanged", first)
        self.assertIn("openai/gpt-x  2.5 in, 10 out", first)
        self.assertIn("0 new, 0 changed, 0 gone, 1 unchanged", again)
        self.assertEqual(Price.objects.count(), 1)

    def test_a_changed_rate_counts_from_now_on_and_the_past_keeps_its_own(self):
        self.sync()
        [before] = Price.objects.all()
        self.write({"gpt-x": {**GPT["gpt-x"], "input_cost_per_token": 2e-06}})

        told = self.sync()

        now = datetime.now(UTC)
        self.assertIn("input_per_mtok 2.5 → 2", told)
        self.assertEqual(self.cost(now - timedelta(hours=1)), Decimal("2.5") * 1_000 / M)
        self.assertEqual(self.cost(now), Decimal(2) * 1_000 / M)
        before.refresh_from_db()
        self.assertEqual((before.input_per_mtok_usd, before.effective_from), (Decimal("2.5"), None))

    def test_a_model_that_had_another_price_keeps_it_for_the_past(self):
        Price.objects.create(
            provider="openai", model="gpt-x", source="genai_prices", input_per_mtok_usd=Decimal(9)
        )

        self.sync()

        now = datetime.now(UTC)
        self.assertEqual(self.cost(now - timedelta(hours=1)), Decimal(9) * 1_000 / M)
        self.assertEqual(self.cost(now), Decimal("2.5") * 1_000 / M)

    def test_it_tells_which_new_prices_take_over_from_a_packaged_one(self):
        for model, rate, source in (
            ("gpt-x", "9", "genai_prices"), ("same", "2.5", "genai_prices"),
            ("ours", "9", "genai_prices"), ("ours", "7", "admin"),
        ):  # fmt: skip
            Price.objects.create(
                provider="openai", model=model, source=source,
                input_per_mtok_usd=Decimal(rate), output_per_mtok_usd=Decimal(10),
            )  # fmt: skip
        self.write(dict.fromkeys(("gpt-x", "same", "ours", "unheard-of"), GPT["gpt-x"]))

        told = self.sync("--dry-run")

        self.assertIn("4 new, USD", told)
        self.assertIn("1 of these take over from a packaged price that is another\n  openai/gpt-x  ", told)
        self.assertIn("input_per_mtok 9 → 2.5", told)

    def test_what_staff_entered_still_wins(self):
        Price.objects.create(provider="openai", model="gpt-x", input_per_mtok_usd=Decimal(7))

        self.sync()

        self.assertEqual(self.cost(datetime.now(UTC)), Decimal(7) * 1_000 / M)

    def test_a_model_that_is_gone_is_told_and_keeps_its_price(self):
        self.sync()
        self.write({"gpt-y": GPT["gpt-x"]})

        told = self.sync()

        self.assertIn("1 new, 0 changed, 1 gone", told)
        self.assertIn("gone; their last price stays\n  openai/gpt-x", told)
        self.assertEqual(self.cost(datetime.now(UTC)), Decimal("2.5") * 1_000 / M)

    def test_a_clock_that_was_put_back_loses_no_price(self):
        self.sync()
        future = datetime.now(UTC) + timedelta(days=1)
        Price.objects.filter(model="gpt-x").update(effective_from=future)
        self.write({"gpt-x": {**GPT["gpt-x"], "input_cost_per_token": 2e-06}})

        self.sync()
        again = self.sync()

        self.assertIn("0 changed", again)
        self.assertEqual(self.cost(future + timedelta(seconds=1)), Decimal(2) * 1_000 / M)

    def test_a_dry_run_writes_nothing(self):
        told = self.sync("--dry-run", "--auto", "on")

        self.assertIn("1 new", told)
        self.assertIn("Nothing was written", told)
        self.assertFalse(Price.objects.exists() or PriceSync.objects.exists())

    def test_what_is_no_map_writes_nothing(self):
        self.write("{")

        with self.assertRaisesRegex(CommandError, "no JSON"):
            self.sync("--auto", "on")
        self.assertFalse(Price.objects.exists() or PriceSync.objects.exists())

    def test_the_switch_says_when_it_runs_next_and_from_where(self):
        told = self.sync("--auto", "on")

        self.assertRegex(told, r"on: next at \d{4}-\d\d-\d\d 03:00 UTC, from .*map.json")
        self.assertEqual((automatic().is_automatic, automatic().source), (True, str(self.path.resolve())))
        self.assertIn("nightly sync is off", run("sync_prices", "--auto", "off"))
        self.assertFalse(automatic().is_automatic)
        entries = AuditLog.objects.filter(kind="billing.pricesync").order_by("id")
        self.assertEqual([entry.after["is_automatic"] for entry in entries], [True, False])

    def test_a_secret_address_is_not_kept(self):
        for source in ("https://me:pw@example.com/map", "https://example.com/map?token=x"):
            with self.subTest(source), self.assertRaisesRegex(CommandError, "may be a secret"):
                run("sync_prices", "--from", source, "--auto", "on")
        self.assertFalse(PriceSync.objects.exists())

    def test_the_nightly_task_follows_the_map_where_it_is_switched_on(self):
        nightly_task()
        self.assertFalse(Price.objects.exists())

        set_automatic(is_on=True, source=str(self.path))
        nightly_task()

        self.assertEqual(Price.objects.get().source, "cost_map")
        self.assertEqual(automatic().outcome, "1 new, 0 changed, 0 gone, 0 unchanged")

    def test_a_night_without_the_map_is_kept_in_mind_and_changes_nothing(self):
        set_automatic(is_on=True, source="/no/such/map.json")

        with self.assertLogs("billing.prices.sync", "ERROR"):
            self.assertIsNone(sync_if_automatic(at=NOON))

        self.assertEqual(automatic().checked_at, NOON)
        self.assertIn("No such file", automatic().outcome)
        self.assertFalse(Price.objects.exists())

    def test_the_time_that_is_told_is_the_time_of_the_schedule(self):
        schedule = settings.CELERY_BEAT_SCHEDULE["sync-prices"]["schedule"]

        self.assertEqual((schedule.hour, schedule.minute), ({RUNS_AT.hour}, {RUNS_AT.minute}))
        self.assertEqual(next_run(NOON), datetime(2026, 7, 16, 3, tzinfo=UTC))
        self.assertEqual(next_run(NOON.replace(hour=2)), datetime(2026, 7, 15, 3, tzinfo=UTC))
