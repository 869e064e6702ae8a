"""Provider bills: exports in the shapes that OpenAI and Anthropic give them, beside what was booked."""

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from tempfile import NamedTemporaryFile

from django.core.management import CommandError, call_command
from django.test import SimpleTestCase, TestCase

from billing.bill_import.comparing import KnownBill, compare_bill, import_bill
from billing.bill_import.formats import BadBill, read_bill
from billing.models import ProviderBill, ProviderBillLine
from billing.usage import Usage
from tests.billing.making import NOON, book_calls, make_call

DAY = date(2026, 7, 15)
# The columns of the exports, in their order; all values are made up.
OPENAI_COSTS = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,quantity_unit,"
    "line_item,user_id,api_key_id,project_id,organization_id,project_name,organization_name,user_email,api_source\n"
    "1784073600,1784160000,2026-07-15T00:00:00+00:00,2026-07-16T00:00:00+00:00,0.600000000400000000,usd,1000,"
    'tokens,"gpt-4o-2024-08-06, input_tokens",,key_secret,proj,org,Proj,Org,someone@example.com,\n'
    "1784073600,1784160000,2026-07-15T00:00:00+00:00,2026-07-16T00:00:00+00:00,0.4,usd,1000,"
    'tokens,"gpt-4o-2024-08-06, output_tokens",,key_secret,proj,org,Proj,Org,someone@example.com,\n'
    "1784160000,1784246400,2026-07-16T00:00:00+00:00,2026-07-17T00:00:00+00:00,,,,,,,,,,,,,\n"
)
OPENAI_USAGE = (
    "start_time,end_time,num_model_requests,input_tokens,output_tokens,input_cached_tokens,project_id,model\n"
    "1784073600,1784160000,3,2000,400,0,proj,gpt-4o-2024-08-06\n"
    "1784073600,1784160000,1,500,100,0,proj,gpt-4o-2024-08-06\n"
)
OPENAI_LINE_ITEMS = "usage_date_utc,model,usage_type,cost_usd\n2026-07-15,gpt-4o-2024-08-06,input,0.25\n"
ANTHROPIC_COSTS = (
    "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,"
    "cost_type,inference_geo,speed\n"
    "2026-07-15,Claude Haiku 4.5,Default,prod,message,≤ 200k,input_no_cache,0.05,0.05,token,not_available,\n"
    "2026-07-15,Claude Haiku 4.5,Default,prod,message,≤ 200k,output,0.02,0.02,token,not_available,\n"
)
ANTHROPIC_TOKENS = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count\n"
    "2026-07-15 10:00,claude-haiku-4-5-20251001,prod,Default,standard,≤ 200k,100,20,3,4,50,0\n"
)


class ReadingTests(SimpleTestCase):
    def test_each_export_is_known_by_its_columns(self):
        for text, form, model, cost, tokens in (
            (OPENAI_COSTS, "openai costs", "gpt-4o-2024-08-06", 1_000_000_000, None),
            (OPENAI_USAGE, "openai usage", "gpt-4o-2024-08-06", None, (2_500, 500, 4)),
            (OPENAI_LINE_ITEMS, "openai line items", "gpt-4o-2024-08-06", 250_000_000, None),
            (ANTHROPIC_COSTS, "anthropic costs", "claude-haiku-4-5", 70_000_000, None),
            (ANTHROPIC_TOKENS, "anthropic tokens", "claude-haiku-4-5-20251001", None, (127, 50, None)),
        ):
            for data in (text.encode(), b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()):
                with self.subTest(form=form):
                    bill = read_bill(data)

                    self.assertEqual(bill.form, form)
                    [(key, line)] = bill.lines.items()
                    self.assertEqual(key, (DAY, model))
                    self.assertEqual(line.cost_nano, cost)
                    self.assertEqual(None if tokens is None else line[1:], tokens)

    def test_what_cannot_be_read_is_told_with_what_is_expected(self):
        for data, said in (
            (b"date,sum\n2026-07-15,3\n", "date, sum. Expected is a CSV export"),
            (b"", "none"),
            (b"\xff\xfe\x00", "no text in UTF-8"),
            (OPENAI_COSTS.replace("0.4,usd", "0.4,eur").encode(), "Line 3: amounts are in 'eur'"),
            (OPENAI_COSTS.replace("0.4,usd", "NaN,usd").encode(), "Line 3: amount_value is 'NaN'"),
            (OPENAI_LINE_ITEMS.replace("2026-07-15", "15 July").encode(), "usage_date_utc is '15 July'"),
            (OPENAI_LINE_ITEMS.splitlines()[0].encode(), "no line with an amount"),
        ):
            with self.subTest(said=said), self.assertRaises(BadBill) as raised:
                read_bill(data)
            self.assertIn(said, str(raised.exception))


class ComparingTests(TestCase):
    AT = datetime(2026, 8, 1, tzinfo=UTC)

    def keep(self, text: str) -> ProviderBill:
        return import_bill(text.encode(), file_name="C:\\Users\\me\\cost.csv", at=self.AT, by="alice")

    @classmethod
    def setUpTestData(cls):
        def called(model: str, cost: str, provider: str = "openai"):
            closed = {"provider": provider, "upstream_model": model}
            return make_call(cost_usd=cost, model=model, at=NOON, closed=closed)

        book_calls(
            called("gpt-4o", "0.7"),
            called("gpt-4o-2024-08-06", "0.2"),
            called("o9", "0.05"),
            called("claude-haiku-4-5-20251001", "0.07", "anthropic"),
        )

    def test_billed_is_beside_booked_with_coverage_and_the_largest_gap_first(self):
        found = compare_bill(self.keep(OPENAI_COSTS))

        told = [(line.model, line.billed_nano, line.booked_nano, line.gap_nano) for line in found.lines]
        self.assertEqual(
            told,
            [
                ("gpt-4o-2024-08-06", 1_000_000_000, 900_000_000, 100_000_000),
                ("o9", 0, 50_000_000, -50_000_000),
            ],
        )
        self.assertEqual(found.lines[0].coverage, Decimal("0.9"))
        self.assertEqual((found.total.billed_nano, found.total.booked_nano), (10**9, 950_000_000))
        self.assertEqual([line.day for line in found.by_day], [DAY])

    def test_titles_of_models_find_their_calls(self):
        [line] = compare_bill(self.keep(ANTHROPIC_COSTS)).lines

        self.assertEqual((line.billed_nano, line.booked_nano, line.coverage), (70_000_000, 70_000_000, 1))

    def test_an_export_of_tokens_compares_tokens(self):
        book_calls(
            make_call(
                at=NOON,
                closed={
                    "provider": "openai", "upstream_model": "gpt-4o-2024-08-06",
                    "usage": Usage(input_uncached=300, output_text=100),
                },
            )
        )  # fmt: skip

        lines = compare_bill(self.keep(OPENAI_USAGE)).lines
        [line] = [line for line in lines if line.model == "gpt-4o-2024-08-06"]

        self.assertIsNone(line.billed_nano)
        self.assertEqual((line.billed_tokens, line.booked_tokens), (3_000, 2 * 1_200 + 400))

    def test_the_same_file_is_kept_once_and_nothing_but_sums_of_it(self):
        bill = self.keep(OPENAI_COSTS)
        with self.assertRaises(KnownBill) as raised:
            self.keep(OPENAI_COSTS)

        self.assertEqual(raised.exception.bill, bill)
        self.assertEqual(ProviderBillLine.objects.count(), 1)
        kept = json.dumps([*ProviderBill.objects.values(), *ProviderBillLine.objects.values()], default=str)
        for secret in ("key_secret", "someone@example.com", "Proj", "Users"):
            self.assertNotIn(secret, kept)

    def test_the_command_tells_a_table_and_json(self):
        with NamedTemporaryFile("w", suffix=".csv") as file:
            file.write(OPENAI_COSTS)
            file.flush()
            out = io.StringIO()
            call_command("import_bill", file.name, stdout=out)
            self.assertIn("95.0 % of $1.00 are booked", out.getvalue())
            out = io.StringIO()
            call_command("import_bill", file.name, "--json", stdout=out)  # again: it is known

        answer = json.loads(out.getvalue(), parse_float=Decimal)
        self.assertEqual(answer["total"]["gap_usd"], Decimal("0.05"))
        self.assertEqual(answer["by_model"][0]["coverage"], Decimal("0.9"))

    def test_the_command_says_what_is_wrong_with_a_file(self):
        with NamedTemporaryFile("w", suffix=".csv") as file:
            file.write("a,b\n")
            file.flush()
            with self.assertRaisesMessage(CommandError, "Expected is a CSV export"):
                call_command("import_bill", file.name)
        with self.assertRaisesMessage(CommandError, "cannot be read"):
            call_command("import_bill", "/nowhere.csv")
