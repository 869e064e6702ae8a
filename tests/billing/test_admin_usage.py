"""The usage pages: one layer of figures behind cards, chart, table and export, for every tab."""

import csv
import io
import json
import re
import threading
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from django.db import connection
from django.http import QueryDict
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.admin.usage.cards import points
from billing.admin.usage.filters import Asked, BadAddress, default, read
from billing.admin.usage.tabs import OVERVIEW, TABS
from billing.models import BudgetPeriod, ReconcileRun
from billing.reporting import reports, words
from billing.reporting.spreadsheets import spreadsheet_safe
from billing.usage import Usage
from customers.models import Budget, Customer, Tag, Team, User
from customers.services import create_key
from tests.admin_pages import AdminTestCase
from tests.billing.making import NOON, book_calls, make_call, nano

TODAY = NOON.date()  # 2026-07-15, a Wednesday
TAB = {tab.slug: tab for tab in TABS}


def ask(query: str, *, today: date = TODAY, tab=OVERVIEW) -> Asked:
    return read(QueryDict(query), today=today, sorts=tab.sorts, stacks=tab.stacks, rows=tab.rows)


class AddressTests(SimpleTestCase):
    def test_no_query_asks_for_thirty_days_with_today(self):
        asked = ask("")

        self.assertEqual((asked.start, asked.end), (date(2026, 6, 16), TODAY))
        self.assertEqual(asked, default(TODAY))

    def test_each_period_has_its_days(self):
        for period, start, end in (
            ("today", TODAY, TODAY),
            ("yesterday", date(2026, 7, 14), date(2026, 7, 14)),
            ("7d", date(2026, 7, 9), TODAY),
            ("90d", date(2026, 4, 17), TODAY),
            ("this-month", date(2026, 7, 1), TODAY),
            ("last-month", date(2026, 6, 1), date(2026, 6, 30)),
        ):
            with self.subTest(period=period):
                asked = ask(f"period={period}")
                self.assertEqual((asked.start, asked.end), (start, end))

    def test_days_that_are_given_count_more_than_a_period(self):
        asked = ask("period=7d&from=2026-03-01&to=2026-03-31")

        self.assertEqual((asked.start, asked.end), (date(2026, 3, 1), date(2026, 3, 31)))

    def test_the_period_before_has_as_many_days_and_a_month_the_month_before(self):
        for query, start, end in (
            ("period=7d", date(2026, 7, 2), date(2026, 7, 8)),
            ("period=today", date(2026, 7, 14), date(2026, 7, 14)),
            ("period=last-month", date(2026, 5, 1), date(2026, 5, 31)),
            ("from=2026-03-01&to=2026-03-31", date(2026, 2, 1), date(2026, 2, 28)),
            ("period=this-month", date(2026, 6, 1), date(2026, 6, 15)),
        ):
            with self.subTest(query=query):
                self.assertEqual(ask(query).before, (start, end))

    def test_what_is_read_is_written_again(self):
        for query in (
            "",
            "?period=7d",
            "?from=2026-03-01&to=2026-03-31",
            "?customer=acme&customer=globex&no=customer",
            "?period=today&model=gpt-4o&tag=a%3Db&stack=customer&rows=day&compare=previous&sort=-calls&q=x&page=3",
        ):
            with self.subTest(query=query):
                asked = ask(query.removeprefix("?"))
                self.assertEqual(asked.query(page=asked.page), query or "?")

    def test_another_order_begins_at_the_first_page(self):
        self.assertEqual(ask("page=3").query(sort="calls"), "?sort=calls")

    def test_empty_fields_ask_for_nothing(self):
        self.assertEqual(ask("customer=&key=&from=&to=&compare=&q=+"), default(TODAY))

    def test_every_mistake_is_told_at_once_with_what_to_do(self):
        for query, expected in (
            ("custmer=acme", "“custmer” is no filter here"),
            ("from=yesterday", "write it as 2026-03-31"),
            ("from=2026-02-30", "write it as 2026-03-31"),
            ("from=2026-03-31&to=2026-03-01", "swap them"),
            ("from=2024-01-01&to=2026-01-01", "at most 366 days"),
            ("from=0001-01-01&to=0001-01-02", "from 2000-01-01"),
            ("period=century", "One of: today"),
            ("period=custom", "Choose the first and the last day"),
            ("customer=a%00b", "can be no customer"),
            (f"customer={'x' * 256}", "at most 255 characters"),
            ("key=mine", "is the id of no key"),
            ("no=model", "One of: customer, team, user, client"),
            ("sort=colour", "sort cannot be “colour”"),
            ("stack=tag", "One of: model, customer"),
            ("rows=hour", "One of: day, day-model"),
            ("compare=all", "One of: previous, customers"),
            ("page=0", "numbered from 1"),
            ("page=99999999999999999999", "numbered from 1"),
            ("page=²", "numbered from 1"),
            ("&".join(f"customer={number}" for number in range(51)), "leave some out"),
        ):
            with self.subTest(query=query[:60]), self.assertRaises(BadAddress) as caught:
                ask(query)
            self.assertIn(expected, str(caught.exception))
        with self.assertRaises(BadAddress) as caught:
            ask("period=century&sort=colour")
        self.assertEqual(len(caught.exception.problems), 2)


class WordsTests(SimpleTestCase):
    def test_amounts_are_short_but_never_nothing(self):
        for amount, expected in (
            ("0", "$0.00"), ("1234.5678", "$1,234.57"), ("0.25", "$0.250"), ("0.001112", "$0.00111"),
            ("0.000000002", "$0.000000002"), ("-3.5", "-$3.50"),
        ):  # fmt: skip
            self.assertEqual(words.short_usd(Decimal(amount)), expected)

    def test_a_rate_is_rounded_down_so_that_all_means_all(self):
        self.assertEqual(words.percent(99_999, 100_000), "99.9 %")
        self.assertEqual(words.percent(100_000, 100_000), "100 %")
        self.assertEqual(words.percent(1, 100_000), "<0.1 %")
        self.assertEqual(words.percent(0, 100_000), "0 %")
        self.assertEqual(words.percent(0, 0), "-")

    def test_changes_say_which_way(self):
        self.assertEqual(words.change(150, 100), "+50 %")
        self.assertEqual(words.change(98, 100), f"{words.MINUS}2.0 %")
        self.assertEqual(words.change(1, 0), "new")
        self.assertEqual(words.change(0, 0), "-")
        self.assertEqual(words.change(100_001, 100_000), "±0 %")

    def test_counts_have_at_most_three_digits_and_a_letter(self):
        self.assertEqual(
            [words.short_count(number) for number in (987, 12_345, 4_560_000, 1_210_000_000)],
            ["987", "12.3 k", "4.56 M", "1.21 B"],
        )

    def test_a_small_line_begins_at_zero_and_keeps_its_order(self):
        self.assertEqual(points([Decimal(1), Decimal(3)]), "0.0,18.3 100.0,1.0")
        self.assertEqual(points([0, 0, None]), "")

    def test_a_day_without_calls_has_no_rate_to_draw(self):
        self.assertEqual(points([1, None, 1]), "0.0,1.0 100.0,1.0")
        self.assertEqual(points([None, 1, None]), "0.0,1.0 100.0,1.0")

    def test_no_cell_of_an_export_is_a_formula(self):
        for text in ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"):
            self.assertEqual(spreadsheet_safe(text), f"'{text}")
        for value in ("acme", "-1.5", 5, None, "a=b"):
            self.assertEqual(spreadsheet_safe(value), value)


class UsageTestCase(AdminTestCase):
    def setUp(self):
        super().setUp()
        patched = mock.patch("billing.admin.usage.page.timezone.now", return_value=NOON)
        patched.start()
        self.addCleanup(patched.stop)

    def page(self, slug: str = "overview", query: str = ""):
        response = self.client.get(reverse(f"usage:{slug}") + query)
        self.assertEqual(response.status_code, 200, response.content[:2000])
        return response

    def lines(self, slug: str, query: str = "") -> list:
        return self.page(slug, query).context["table"].lines

    def ids(self, slug: str, query: str = "") -> list[str]:
        return [line.id for line in self.lines(slug, query)]

    def exported(self, slug: str, query: str = "") -> list[dict[str, str]]:
        response = self.client.get(reverse("usage:export", args=[slug, "csv"]) + query)
        self.assertEqual(response.status_code, 200, response.content)
        return list(csv.DictReader(io.StringIO(response.content.decode())))


class EmptyTests(UsageTestCase):
    def test_every_tab_says_what_to_do_while_there_is_no_call(self):
        for tab in TABS:
            with self.subTest(tab=tab.slug):
                self.assertContains(self.page(tab.slug), "No call in these days")

    def test_filters_that_nothing_passes_say_so(self):
        self.assertContains(self.page("customers", "?customer=nobody"), "No call passes these filters")

    def test_a_bad_address_is_a_400_that_keeps_the_filters_at_hand(self):
        response = self.client.get(reverse("usage:customers") + "?customre=acme")

        self.assertContains(response, "is no filter here", status_code=400)
        self.assertContains(response, "Start again with the last 30 days", status_code=400)

    def test_a_bad_export_is_a_400_in_words(self):
        for path in ("customers/export.csv?sort=x", "customers/export.xml", "nothing/export.csv"):
            with self.subTest(path=path):
                self.assertEqual(self.client.get(f"/admin/usage/{path}").status_code, 400)

    def test_an_export_of_nothing_has_a_total_of_nothing(self):
        rows = self.exported("customers")

        self.assertEqual([row["row"] for row in rows], ["none", "total"])
        self.assertEqual({row["spend_usd"] for row in rows}, {"0"})

    def test_those_without_the_permission_are_refused_and_strangers_log_in(self):
        paths = [reverse(f"usage:{tab.slug}") for tab in TABS]
        paths += [reverse("usage:export", args=["customers", "csv"]), reverse("usage:suggest", args=["key"])]
        for path in paths:
            with self.subTest(path=path):
                self.log_in_charlie()
                self.assertEqual(self.client.get(path).status_code, 403)
                self.client.logout()
                self.assertRedirects(
                    self.client.get(path),
                    f"{reverse('admin:login')}?next={path}",
                    fetch_redirect_response=False,
                )

    def test_the_sidebar_leads_here_for_those_who_may(self):
        self.assertContains(self.client.get(reverse("admin:index")), reverse("usage:overview"))
        self.log_in_charlie()
        self.assertNotContains(self.client.get(reverse("admin:index")), reverse("usage:overview"))


class FiguresTests(UsageTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.key, _ = create_key(alias="shop")
        yesterday, last_month = NOON - timedelta(days=1), NOON - timedelta(days=40)
        book_calls(
            make_call(
                cost_usd="1", customer_id="acme", team_id="red", tags=["a", "b"], key_id=cls.key.pk.bytes
            ),
            make_call(cost_usd="2", customer_id="acme", model="o3", user_id="bob", at=yesterday, tags=["b"]),
            make_call(
                cost_usd="4", customer_id="globex", client_tool="curl", closed={"charge_nano": nano("5")}
            ),
            make_call(cost_usd="8", at=yesterday),
            make_call(cost_usd=None, customer_id="initech"),
            make_call(cost_usd="0", customer_id="acme", closed={"status": "refused", "usage": Usage()}),
            make_call(cost_usd="0.5", customer_id="acme", at=last_month),
        )

    def card(self, response, label: str) -> dict[str, str]:
        return next(card for card in response.context["cards"] if card["label"].startswith(label))

    def test_cards_are_what_the_calls_add_up_to(self):
        response = self.page()

        self.assertEqual(self.card(response, "Spend")["text"], "$15.00*")
        self.assertEqual(self.card(response, "Requests")["text"], "6")
        self.assertEqual(self.card(response, "Success")["text"], "83.3 %")
        self.assertEqual(self.card(response, "Tokens")["title"], "6,000")

    def test_the_change_is_from_the_period_before(self):
        response = self.page(query="?customer=acme")

        self.assertEqual(self.card(response, "Charged")["text"], "$3.00")
        self.assertEqual(self.card(response, "Charged")["change"], "+500 %")

    def test_pages_about_customers_tell_the_charge_and_others_the_cost(self):
        for slug, query, expected in (
            ("overview", "", 15), ("models", "", 15), ("customers", "", 16),
            ("models", "?customer=globex", 5),
        ):  # fmt: skip
            with self.subTest(slug=slug, query=query):
                foot = self.page(slug, query).context["table"].foot
                self.assertEqual((foot[-1].kind, foot[-1].spend), ("total", expected))

    def test_the_lines_and_the_calls_of_none_add_up_to_the_total(self):
        for slug in ("customers", "models", "keys", "teams", "users", "clients", "overview"):
            with self.subTest(slug=slug):
                table = self.page(slug).context["table"]
                *parts, total = [*table.lines, *table.foot]
                self.assertEqual(sum(line.spend for line in parts), total.spend)
                self.assertEqual(sum(line.figures.calls for line in parts), total.figures.calls)

    def test_unattributed_is_a_line_even_where_it_is_nothing(self):
        foot = self.page("customers").context["table"].foot
        today = self.page("customers", "?period=today").context["table"].foot

        self.assertEqual((foot[0].kind, foot[0].label, foot[0].spend), ("none", "Unattributed", 8))
        self.assertEqual((today[0].kind, today[0].spend), ("none", 0))

    def test_tags_do_not_add_up_and_it_says_so(self):
        table = self.page("tags").context["table"]

        self.assertEqual([(line.id, line.spend) for line in table.lines], [("b", 3), ("a", 1)])
        self.assertEqual([(line.label, line.spend) for line in table.foot], [("Untagged", 12), ("Total", 15)])
        self.assertIn("counts under each of its tags", table.foot[-1].note)

    def test_chart_and_table_say_what_the_cards_say(self):
        for slug, stack in (("overview", "model"), ("overview", "customer"), ("customers", ""), ("tags", "")):
            with self.subTest(slug=slug, stack=stack):
                response = self.page(slug, f"?stack={stack}")
                chart = response.context["chart"]
                drawn = sum(Decimal(value) for each in chart["data"]["series"] for value in each["values"])
                self.assertEqual(drawn, response.context["summary"].spend(response.context["total"]))

    def test_the_chart_has_the_calls_of_none_and_its_figures_as_a_table(self):
        response = self.page("customers")

        chart = response.context["chart"]
        self.assertEqual([each.kind for each in chart["series"]], ["name", "name", "name", "none"])
        self.assertEqual(len(chart["data"]["days"]), 30)
        self.assertContains(response, '<script id="usage-chart-data" type="application/json">')
        self.assertContains(response, "The figures of the chart as a table")
        self.assertContains(
            response,
            '<th scope="row">2026-07-14</th><td>$0.00</td><td>$2.00</td><td>$0.00</td><td>$8.00</td></tr>',
        )

    def test_a_page_has_no_script_of_its_own(self):
        scripts = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>", self.page("customers").content.decode())

        self.assertEqual(scripts, [' id="usage-chart-data" type="application/json"'])

    def test_unpriced_and_estimated_calls_are_told(self):
        response = self.page("customers")

        self.assertContains(response, "* 1 call of models without a price: not in the spend.")
        self.assertContains(response, "none: providers told what was used.")
        line = next(line for line in self.lines("customers") if line.id == "initech")
        self.assertEqual(line.spend_text, "$0.00*")

    def test_an_amount_on_a_page_has_its_exact_figure_beside_it(self):
        book_calls(make_call(cost_usd="0.123456789", customer_id="exact"))

        self.assertContains(self.page("customers"), 'title="$0.123456789"')

    def test_filters_leave_out_the_rest(self):
        for query, expected in (
            ("?customer=acme", 3), ("?customer=acme&customer=globex", 8), ("?no=customer", 8),
            ("?customer=acme&no=customer", 11), (f"?key={self.key.pk}", 1), ("?key=master", 14),
            ("?team=red", 1), ("?user=bob", 2), ("?model=o3", 2), ("?tag=b", 3), ("?client=curl", 4),
            ("?customer=acme&model=o3", 2), ("?no=client&no=team&no=user", 8), ("?period=today", 5),
        ):  # fmt: skip
            with self.subTest(query=query):
                response = self.page(query=query)
                self.assertEqual(response.context["table"].foot[-1].spend, expected)

    def test_filters_are_chips_that_take_themselves_out(self):
        response = self.page("customers", "?customer=acme&customer=globex&period=7d")

        chips = response.context["bar"]["chips"]
        self.assertEqual([chip["text"] for chip in chips], ["acme", "globex"])
        self.assertEqual(chips[0]["url"], reverse("usage:customers") + "?period=7d&customer=globex")

    def test_a_filter_stays_from_tab_to_tab_and_sort_and_search_do_not(self):
        tabs = self.page("customers", "?customer=acme&period=7d&sort=-calls&q=ac&page=2").context["tabs"]

        self.assertEqual(tabs[2]["url"], reverse("usage:models") + "?period=7d&customer=acme")

    def test_the_table_is_sorted_by_what_is_asked_for(self):
        for query, expected in (
            ("", ["globex", "acme", "initech"]),
            ("?sort=-calls", ["acme", "globex", "initech"]),
            ("?sort=name", ["acme", "globex", "initech"]),
            ("?sort=-name", ["initech", "globex", "acme"]),
            ("?sort=spend", ["initech", "acme", "globex"]),
            ("?sort=-failed_calls", ["acme", "globex", "initech"]),
            ("?sort=-rate", ["globex", "acme", "initech"]),
        ):
            with self.subTest(query=query):
                self.assertEqual(self.ids("customers", query), expected)

    def test_days_are_sorted_and_split_by_model_on_demand(self):
        self.assertEqual(self.ids("overview"), ["2026-07-15", "2026-07-14"])
        self.assertEqual(self.ids("overview", "?sort=-spend"), ["2026-07-14", "2026-07-15"])
        by_model = self.lines("overview", "?rows=day-model")
        self.assertEqual(
            [(line.id, line.model, line.spend) for line in by_model],
            [("2026-07-15", "gpt-4o", 5), ("2026-07-14", "gpt-4o", 8), ("2026-07-14", "o3", 2)],
        )

    def test_search_finds_parts_of_ids_in_any_case_and_nothing_by_a_pattern(self):
        Customer.objects.filter(pk="globex").update(alias="Umbrella")

        self.assertEqual(self.ids("customers", "?q=GLOB"), ["globex"])
        self.assertEqual(self.ids("customers", "?q=brella"), ["globex"])
        self.assertEqual(self.ids("customers", "?q=%25"), [])
        self.assertEqual(self.ids("customers", "?q=_cme"), [])
        self.assertEqual(self.ids("keys", "?q=SHO"), [str(self.key.pk)])
        self.assertEqual(self.ids("keys", "?q=master"), ["master"])

    def test_what_a_search_leaves_out_is_a_line(self):
        *_, rest, none, total = self.page("customers", "?q=acme").context["table"].foot

        self.assertEqual((rest.kind, rest.spend), ("rest", 5))
        self.assertEqual((none.spend, total.spend), (8, 16))

    def test_holders_are_called_by_their_names_and_lead_on(self):
        Team.objects.create(id="red", alias="Red team")

        key = next(line for line in self.lines("keys") if line.id != "master")
        [team] = self.lines("teams")
        self.assertEqual((key.label, team.label), ("shop", "Red team"))
        self.assertEqual(team.holder_url, "/admin/customers/team/red/change/")

    def test_holders_are_linked_only_for_those_who_may_see_them(self):
        from django.contrib.auth.models import Permission

        self.charlie.user_permissions.add(Permission.objects.get(codename="view_spendlog"))
        self.log_in_charlie()

        self.assertEqual({line.holder_url for line in self.lines("customers")}, {""})

    def test_from_usage_to_why_a_customer_cost_that_is_three_clicks(self):
        first = self.page("overview", "?from=2026-07-01&to=2026-07-31")
        second = self.client.get(first.context["tabs"][1]["url"])
        line = next(line for line in second.context["table"].lines if line.id == "acme")

        third = self.client.get(line.url)

        self.assertEqual(third.context["total"].charge, 3)
        drawn = third.context["chart"]["data"]
        self.assertEqual(
            {each["name"]: each["values"][13:15] for each in drawn["series"]},
            {"o3": ["2", "0"], "gpt-4o": ["0", "1"]},
        )
        rows = third.context["categories"]["rows"]
        self.assertEqual(
            [(row["name"], row["spend"]) for row in rows], [("o3", "$2.00"), ("gpt-4o", "$1.00")]
        )
        logs = self.client.get(rows[0]["logs_url"]).context["cl"].result_list
        self.assertEqual([(log.customer_id, log.model, log.charge) for log in logs], [("acme", "o3", 2)])

    def test_a_line_leads_to_its_calls_and_nowhere_where_the_logs_cannot_find_them(self):
        acme = next(line for line in self.lines("customers", "?period=today") if line.id == "acme")
        logs = self.client.get(acme.logs_url).context["cl"].result_list
        self.assertEqual(len(logs), acme.figures.calls)
        [curl] = self.lines("clients", "?period=today")
        logs = self.client.get(curl.logs_url).context["cl"].result_list
        self.assertEqual([log.client_tool for log in logs], ["curl"])
        self.assertEqual({line.logs_url for line in self.lines("keys", "?key=master")}, {""})
        self.assertEqual({line.logs_url for line in self.lines("models", "?team=red&team=blue")}, {""})

    @override_settings(REPORTING_TIME_ZONE="Europe/Berlin")
    def test_calls_are_looked_for_in_the_days_of_the_reporting_zone(self):
        query = parse_qs(urlsplit(self.page().context["logs_url"]).query)

        self.assertEqual(query["started_at_from"], ["2026-06-16T00:00:00+02:00"])
        self.assertEqual(query["started_at_to"], ["2026-07-16T00:00:00+02:00"])

    @override_settings(REPORTING_TIME_ZONE="Asia/Tokyo")
    def test_today_is_that_of_the_reporting_zone(self):
        late = datetime(2026, 7, 15, 20, tzinfo=UTC)
        with mock.patch("billing.admin.usage.page.timezone.now", return_value=late):
            response = self.page()

        self.assertEqual(response.context["asked"].end, date(2026, 7, 16))
        self.assertContains(response, "days in Asia/Tokyo")

    def test_the_period_before_is_drawn_on_demand(self):
        series = self.page(query="?compare=previous&customer=acme").context["chart"]["series"]

        self.assertEqual([each.kind for each in series][-1], "before")
        self.assertEqual(series[-1].total, Decimal("0.5"))

    def test_customers_are_compared_side_by_side(self):
        response = self.page("customers", "?customer=acme&customer=globex&compare=customers")

        comparison = response.context["comparison"]
        self.assertEqual(comparison["customers"], ["acme", "globex"])
        self.assertEqual(comparison["rows"][0][1], ["$3.00", "$5.00"])
        self.assertFalse(response.context["chart"]["is_stacked"])
        self.assertContains(
            self.page("customers", "?compare=customers"), "Choose two customers or more in the filter"
        )

    def test_the_export_is_the_table(self):
        for slug in TAB:
            with self.subTest(slug=slug):
                table = self.page(slug).context["table"]
                rows = self.exported(slug)
                shown = [*table.lines, *table.foot]
                self.assertEqual([row["row"] for row in rows], [line.kind for line in shown])
                self.assertEqual([Decimal(row["spend_usd"]) for row in rows], [line.spend for line in shown])
                self.assertEqual(
                    [int(row["requests"]) for row in rows], [line.figures.calls for line in shown]
                )

    def test_the_export_as_json_says_what_it_is_of(self):
        response = self.client.get(reverse("usage:export", args=["customers", "json"]) + "?customer=acme")

        document = json.loads(response.content)
        self.assertEqual((document["from"], document["to"]), ("2026-06-16", "2026-07-15"))
        self.assertEqual(document["filters"], {"customer": ["acme"]})
        self.assertEqual(
            [(row["row"], row["spend_usd"]) for row in document["rows"]], [("name", "3"), ("total", "3")]
        )
        self.assertIn(
            'filename="usage-customers-2026-06-16-2026-07-15.json"', response["Content-Disposition"]
        )

    def test_a_customer_that_is_called_like_a_formula_is_none_in_a_spreadsheet(self):
        book_calls(make_call(cost_usd="1", customer_id="=HYPERLINK(1)"))

        self.assertIn("'=HYPERLINK(1)", [row["customer"] for row in self.exported("customers")])
        self.assertContains(self.page("customers"), "=HYPERLINK(1)")

    def test_names_are_escaped(self):
        book_calls(make_call(cost_usd="1", customer_id="<script>alert(1)</script>", model="</script><b>"))

        for slug in ("customers", "models", "overview"):
            self.assertNotContains(self.page(slug, "?stack=customer"), "<script>alert")

    def test_it_says_when_the_sums_were_verified(self):
        self.assertContains(self.page(), "Not verified yet")
        run = ReconcileRun.objects.create(started_at=NOON, seconds=1, rows_compared=9, differences=0)
        self.assertContains(self.page(), "Verified 2026-07-15 12:00 UTC against the log: 0 differences.")
        run.differences = 3
        run.save()
        self.assertContains(self.page(), "3 differences")

    def test_what_litellm_calls_usage_leads_here(self):
        response = self.client.get("/ui/?login=success&page=new_usage")

        self.assertRedirects(response, reverse("usage:overview"))

    def test_filters_are_suggested_what_there_is(self):
        Team.objects.create(id="red", alias="Red team")
        for name, part, expected in (
            ("customer", "LOB", [{"value": "globex", "label": ""}]),
            ("key", "sho", [{"value": str(self.key.pk), "label": "shop"}]),
            ("key", "mast", [{"value": "master", "label": "master key"}]),
            ("team", "ed te", [{"value": "red", "label": "Red team"}]),
            ("model", "O3", [{"value": "o3", "label": ""}]),
            ("tag", "b", [{"value": "b", "label": ""}]),
            ("client", "cu", [{"value": "curl", "label": ""}]),
            ("customer", "nobody", []),
        ):
            with self.subTest(name=name, part=part):
                response = self.client.get(reverse("usage:suggest", args=[name]), {"q": part})
                self.assertEqual(response.json(), {"results": expected})

    def test_suggestions_refuse_nonsense_in_words(self):
        self.assertEqual(self.client.get(reverse("usage:suggest", args=["colour"])).status_code, 404)
        for part in ("a\0", "x" * 256):
            response = self.client.get(reverse("usage:suggest", args=["team"]), {"q": part})
            self.assertEqual(response.status_code, 400)


class BudgetTests(UsageTestCase):
    def test_a_holder_with_a_budget_has_its_bar(self):
        budget = Budget.objects.create(id="pro", max_budget=Decimal(10))
        Customer.objects.create(id="acme", budget=budget)
        book_calls(make_call(cost_usd="1", customer_id="acme"), make_call(cost_usd="2", customer_id="globex"))

        response = self.page("customers")

        bars = {line.id: line.bar for line in response.context["table"].lines}
        self.assertEqual((bars["acme"].limit, bars["globex"]), (10, None))
        self.assertContains(response, "spend-bar-column")
        self.assertFalse(BudgetPeriod.objects.exists())  # looking makes none


class ManyTests(UsageTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        budget = Budget.objects.create(id="pro", max_budget=Decimal(10))
        key, _ = create_key(alias="shop", budget=budget)
        who = {"key_id": key.pk.bytes, "team_id": "red", "user_id": str(cls.alice.pk)}
        Team.objects.create(id="red", budget=budget)
        Tag.objects.create(name="t60", budget=budget)
        User.objects.filter(pk=cls.alice.pk).update(budget=budget)
        Customer.objects.create(id="customer-60", budget=budget)
        book_calls(
            *(
                make_call(
                    cost_usd=f"{number}.5", customer_id=f"customer-{number:02d}", tags=[f"t{number}"], **who
                )
                for number in range(1, 61)
            )
        )

    def test_it_pages_on_the_server_and_the_rest_is_a_line(self):
        first, third = self.page("customers"), self.page("customers", "?page=3")

        self.assertEqual(len(first.context["table"].lines), 25)
        self.assertEqual([line.id for line in third.context["table"].lines][-1], "customer-01")
        for response in (first, third):
            table = response.context["table"]
            self.assertEqual(table.of, 60)
            shown = sum(line.spend for line in table.lines)
            self.assertEqual(shown + table.foot[0].spend, table.foot[-1].spend)
        self.assertContains(first, "1 to 25 of 60 lines")

    def test_a_page_too_far_is_the_last_one(self):
        table = self.page("customers", "?page=99").context["table"]

        self.assertEqual((table.page, len(table.lines)), (3, 10))

    def test_the_export_has_all_pages_in_the_order_shown(self):
        rows = self.exported("customers", "?sort=name")

        self.assertEqual(
            [row["customer"] for row in rows if row["row"] == "name"],
            [f"customer-{number:02d}" for number in range(1, 61)],
        )

    def test_an_export_that_is_too_long_is_refused_in_words(self):
        with mock.patch("billing.admin.usage.page.MOST_LINES", 59):
            response = self.client.get(reverse("usage:export", args=["customers", "csv"]))

        self.assertContains(response, "choose fewer days, or set a filter", status_code=400)

    def test_a_chart_draws_the_first_and_adds_up_the_others(self):
        series = self.page("customers").context["chart"]["series"]

        self.assertEqual([each.kind for each in series], ["name"] * 7 + ["rest"])
        self.assertEqual(
            sum(each.total for each in series), sum(number + Decimal("0.5") for number in range(1, 61))
        )

    def test_pages_make_as_many_queries_however_many_rows_there_are(self):
        expected = {
            # session, user, by day now and before; then what the tab has besides
            "overview": 10, "customers": 14, "models": 11, "keys": 13, "teams": 13, "users": 13, "tags": 17,
            "clients": 11,
        }  # fmt: skip
        self.page("overview")
        for slug, queries in expected.items():
            with self.subTest(slug=slug), CaptureQueriesContext(connection) as captured:
                self.page(slug)
            with self.subTest(slug=slug):
                self.assertEqual(len(captured), queries, "\n".join(each["sql"][:100] for each in captured))
                self.assertFalse([each for each in captured if "billing_spendlog" in each["sql"]])


class EveryTabTests(UsageTestCase):
    def test_every_tab_takes_every_sort_stack_and_comparison(self):
        key, _ = create_key(alias="shop")
        user = User.objects.create_user("dora", password="x")
        book_calls(
            make_call(
                customer_id="acme", key_id=key.pk.bytes, team_id="red", user_id=str(user.pk), tags=["a"],
                client_tool="curl",
            ),
            make_call(cost_usd=None, key_id=uuid.uuid4().bytes, model=""),
        )  # fmt: skip
        for tab in TABS:
            for query in (
                *(f"?sort={sign}{name}" for name in tab.sorts for sign in ("", "-")),
                *(f"?stack={name}" for name in tab.stacks),
                *(f"?rows={name}" for name in tab.rows),
                "?compare=previous", "?compare=customers", "?q=a",
                f"?customer=acme&key={key.pk}&team=red&user={user.pk}&model=gpt-4o&tag=a&client=curl",
            ):  # fmt: skip
                with self.subTest(tab=tab.slug, query=query):
                    self.page(tab.slug, query)


class RankingTests(TestCase):
    """What the pages read besides the reports that all have: `billing/reporting/reports.py`, its end."""

    @classmethod
    def setUpTestData(cls):
        book_calls(
            make_call(cost_usd="4", customer_id="acme", tags=["a"]),
            make_call(cost_usd="2", customer_id="acme", at=NOON - timedelta(days=1)),
            make_call(cost_usd="3", customer_id="100%", closed={"charge_nano": nano("9")}),
            make_call(cost_usd="1", tags=["a", "b"]),
            make_call(cost_usd="0", customer_id="idle", closed={"usage": Usage(), "status": "refused"}),
        )

    days = reports.Filters(start=TODAY - timedelta(days=1), end=TODAY)

    def ranked(self, dimension="customer", *, order="cost", limit=9, **terms) -> reports.Ranking:
        return reports.ranked(self.days, dimension, order=order, limit=limit, **terms)

    def test_names_are_in_the_order_of_one_sum_without_the_calls_of_none(self):
        for order, expected in (
            ("cost", ["acme", "100%", "idle"]), ("charge", ["100%", "acme", "idle"]),
            ("calls", ["acme", "100%", "idle"]), ("failed_calls", ["idle", "100%", "acme"]),
            ("total_tokens", ["acme", "100%", "idle"]), ("name", ["idle", "acme", "100%"]),
            ("rate", ["100%", "acme", "idle"]),
        ):  # fmt: skip
            with self.subTest(order=order):
                self.assertEqual(self.ranked(order=order)[:2], (expected, 3))

    def test_what_has_no_rate_is_last_in_either_order(self):
        self.assertEqual(self.ranked(order="rate", ascending=True).names, ["acme", "100%", "idle"])

    def test_a_page_knows_of_the_others_also_where_it_is_too_far(self):
        self.assertEqual(self.ranked(limit=1, offset=1), (["100%"], 3, True))
        self.assertEqual(self.ranked(limit=1, offset=7)[:2], ([], 3))

    def test_a_search_is_for_a_part_and_not_for_a_pattern(self):
        self.assertEqual(self.ranked(search="0%").names, ["100%"])
        self.assertEqual(self.ranked(search="%c").names, [])
        self.assertEqual(self.ranked(search="x", alike=["idle"]).names, ["idle"])
        self.assertEqual(self.ranked("key", search="x", alike=["master"]).names, ["master"])

    def test_another_order_is_refused(self):
        with self.assertRaises(reports.BadReport):
            self.ranked(order="colour")

    def test_amounts_are_told_by_name_and_by_day(self):
        self.assertEqual(reports.amounts(self.days, "customer")["100%"], (3, 9))
        by_day = reports.amounts_by_day(self.days, "customer")
        self.assertEqual(by_day["acme"], {TODAY: (4, 4), TODAY - timedelta(days=1): (2, 2)})

    def test_calls_without_a_tag_are_found(self):
        self.assertEqual(reports.untagged(self.days).cost, 5)
        for_one = reports.Filters(start=TODAY, end=TODAY, customers=["100%"])
        self.assertEqual(reports.untagged(for_one).charge, 9)

    def test_parts_add_up_and_what_is_less_is_the_rest(self):
        whole = reports.totals(self.days)
        parts = [row.figures for row in reports.by(self.days, "customer")]

        self.assertEqual(reports.added(parts, is_charged=False), whole)
        rest = reports.less(whole, parts[:2])
        self.assertEqual(rest, reports.added(parts[2:], is_charged=False))
        self.assertEqual(reports.less(whole, parts).calls, 0)
        self.assertIsNone(reports.added([], is_charged=False).p95_ms)


class OneInstantTests(TransactionTestCase):
    def test_reports_within_see_nothing_that_is_booked_meanwhile(self):
        today = reports.Filters(start=TODAY, end=TODAY)
        book_calls(make_call(cost_usd="1"))
        with reports.one_instant():
            before = reports.totals(today)
            booking = threading.Thread(target=self._book)
            booking.start()
            booking.join()
            self.assertEqual(reports.totals(today), before)

        self.assertEqual(reports.totals(today).cost, 3)

    def _book(self) -> None:
        book_calls(make_call(cost_usd="2"))
        connection.close()

    def test_a_page_that_fails_leaves_no_transaction_behind(self):
        with self.assertRaises(ZeroDivisionError), reports.one_instant():
            raise ZeroDivisionError
        with reports.one_instant():
            reports.totals(reports.Filters(start=TODAY, end=TODAY))

        self.assertFalse(connection.in_atomic_block)
