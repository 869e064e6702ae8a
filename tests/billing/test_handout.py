"""Usage that is handed out: one customer's, to whoever has the link or the token, and nothing else."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from unittest import mock

from django.core.exceptions import ValidationError
from django.core.signing import Signer
from django.test import SimpleTestCase, TestCase, override_settings
from django.urls import reverse

from billing.checks import handout_frame_ancestors
from billing.handout.page import urlpatterns as page_routes
from customers.keys import HideSecrets
from customers.models import AuditLog, Budget, Customer, GatewayLimits, HandoutLink
from customers.services import create_key
from customers.services.handout_links import (
    LONGEST,
    HandoutOver,
    UnknownHandout,
    find_handout_link,
    make_handout_link,
    revoke_handout_links,
)
from tests.admin_pages import AdminTestCase
from tests.billing.budgets import admitted, july, settle
from tests.billing.making import NOON, book_calls, make_call, nano

PAGE, READ_TOKEN = HandoutLink.Kind.PAGE.value, HandoutLink.Kind.READ_TOKEN.value
WEEK = timedelta(days=7)
AWKWARD = ("acme/eu & <b>", "кот/日本 🐈", "a?b=c#d", "..", "x" * 255)


def hand_out(
    customer: Customer, kind: str = PAGE, *, at: datetime = NOON, **fields
) -> tuple[HandoutLink, str]:
    return make_handout_link(customer=customer, kind=kind, **{"expires_at": at + WEEK, "at": at, **fields})


class HandoutTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.acme = Customer.objects.create(id="acme", alias="Acme Corp")
        cls.globex = Customer.objects.create(id="globex")

    def setUp(self):
        super().setUp()
        self.at(NOON)

    def at(self, instant: datetime) -> None:
        patched = mock.patch("billing.handout.page.timezone.now", return_value=instant)
        patched.start()
        self.addCleanup(patched.stop)

    def page(self, token: str, query: str = "", *, status: int = 200):
        response = self.client.get(f"/hand-out/{token}/{query}")
        self.assertEqual(response.status_code, status)
        return response

    def read(self, token: str, path: str = "/customer/usage.json", **query):
        return self.client.get(path, query, headers={"authorization": f"Bearer {token}"})


class TokenTests(HandoutTestCase):
    def test_what_is_handed_out_names_its_link_and_nobody_else_can_make_it(self):
        for customer_id in AWKWARD:
            with self.subTest(customer_id=customer_id):
                customer = Customer.objects.create(id=customer_id)
                link, token = hand_out(customer)

                self.assertEqual(find_handout_link(token, kind=PAGE, at=NOON).customer, customer)
                self.assertRegex(token, r"^sk-page-[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}$")
                self.assertNotIn(link.pk.hex, token)

    def test_whatever_was_changed_is_unknown_without_a_query(self):
        _, token = hand_out(self.acme)
        _, others = hand_out(self.globex)
        prefix, _, signature = token.partition(".")
        changed = [
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(len(token) - 1)
        ]
        made_up = Signer(key="another secret", salt=f"customers.handout_links.{PAGE}", sep=".")
        unsigned = prefix.removeprefix("sk-page-")

        for each in (
            *changed, "", prefix, f"{prefix}.", f".{signature}", token + "x", token * 5, token.upper(),
            f"{others.partition('.')[0]}.{signature}", "sk-page-" + made_up.sign(unsigned), "кот",
            "sk-page-\udc80", f"sk-read-{unsigned}.{signature}",
        ):  # fmt: skip
            with self.subTest(each=each), self.assertNumQueries(0), self.assertRaises(UnknownHandout):
                find_handout_link(each, kind=PAGE, at=NOON)

    def test_a_signed_id_that_is_no_row_is_unknown(self):
        link, token = hand_out(self.acme)
        link.delete()

        with self.assertRaises(UnknownHandout):
            find_handout_link(token, kind=PAGE, at=NOON)

    def test_a_link_is_no_read_token_nor_the_other_way_round(self):
        for kind, other in ((PAGE, READ_TOKEN), (READ_TOKEN, PAGE)):
            _, token = hand_out(self.acme, kind)
            swapped = (
                token.replace("sk-page-", "sk-?-")
                .replace("sk-read-", "sk-page-")
                .replace("sk-?-", "sk-read-")
            )
            for each in (token, swapped):
                with self.subTest(kind=kind, each=each[:8]), self.assertRaises(UnknownHandout):
                    find_handout_link(each, kind=other, at=NOON)

    def test_it_ends_at_its_instant_and_not_before(self):
        _, token = hand_out(self.acme)

        find_handout_link(token, kind=PAGE, at=NOON + WEEK - timedelta(microseconds=1))
        with self.assertRaises(HandoutOver):
            find_handout_link(token, kind=PAGE, at=NOON + WEEK)

    def test_taken_back_is_over_for_this_link_alone(self):
        link, token = hand_out(self.acme)
        _, other = hand_out(self.acme)

        self.assertEqual(revoke_handout_links(links=[link.pk], customer_id="acme", at=NOON), 1)

        with self.assertRaises(HandoutOver):
            find_handout_link(token, kind=PAGE, at=NOON)
        find_handout_link(other, kind=PAGE, at=NOON)
        self.assertEqual(revoke_handout_links(links=[link.pk], customer_id="acme", at=NOON), 0)

    def test_nobody_takes_back_what_is_another_customers(self):
        link, token = hand_out(self.acme)

        self.assertEqual(revoke_handout_links(links=[link.pk], customer_id="globex", at=NOON), 0)
        find_handout_link(token, kind=PAGE, at=NOON)

    def test_a_deleted_customers_links_are_over(self):
        _, token = hand_out(self.acme)
        Customer.objects.filter(pk="acme").update(deleted_at=NOON)

        with self.assertRaises(HandoutOver):
            find_handout_link(token, kind=PAGE, at=NOON)

    @override_settings(SECRET_KEY="another one")
    def test_another_secret_key_ends_them_all(self):
        with override_settings(SECRET_KEY="the one before"):
            _, token = hand_out(self.acme)

        with self.assertRaises(UnknownHandout):
            find_handout_link(token, kind=PAGE, at=NOON)

    def test_what_cannot_be_is_refused(self):
        for fields in (
            {"expires_at": NOON}, {"expires_at": NOON + LONGEST + timedelta(seconds=1)}, {"kind": "key"},
            {"colour": "red"}, {"colour": "#12345"}, {"colour": "#123456;}"}, {"colour": "#123456\n"},
            {"title": "x" * 101},
        ):  # fmt: skip
            with self.subTest(fields=fields), self.assertRaises((ValidationError, ValueError)):
                hand_out(self.acme, **{"kind": PAGE, **fields})
        self.assertFalse(HandoutLink.objects.exists())

    def test_each_is_audited_and_no_entry_has_what_was_handed_out(self):
        link, token = hand_out(self.acme)
        revoke_handout_links(links=[link.pk], customer_id="acme", at=NOON)

        entries = AuditLog.objects.filter(kind="customers.handoutlink", object_id=str(link.pk)).order_by("id")

        self.assertEqual([entry.action for entry in entries], ["created", "updated"])
        self.assertEqual(entries[0].after["customer_id"], "acme")
        self.assertEqual(set(entries[1].after), {"revoked_at"})
        told = str([(entry.before, entry.after) for entry in entries])
        for part in re.split(r"[.]", token.removeprefix("sk-page-")):
            self.assertNotIn(part, told)

    def test_log_lines_hide_it(self):
        import logging

        for kind in (PAGE, READ_TOKEN):
            _, token = hand_out(self.acme, kind)
            record = logging.LogRecord("x", 30, "x", 1, "Gone: %s", (f"/hand-out/{token}/",), None)

            HideSecrets().filter(record)

            self.assertNotIn(token.partition(".")[0], record.getMessage())


class PageTests(HandoutTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.key, _ = create_key(alias="secret-project")
        book_calls(
            make_call(
                cost_usd="1", customer_id="acme", model="o3", closed={"charge_nano": nano("1.5")},
                key_id=cls.key.pk.bytes, tags=["internal-tag"], team_id="red-team", user_id="bob@x.test",
            ),
            make_call(cost_usd="2", customer_id="acme", model="gpt-4o", at=NOON - timedelta(days=2)),
            make_call(cost_usd=None, customer_id="acme", model="in-house"),
            make_call(cost_usd="4", customer_id="acme", model="gpt-4o", at=NOON - timedelta(days=20)),
            make_call(cost_usd="8.25", customer_id="globex", model="globex-only"),
        )  # fmt: skip

    def test_it_shows_what_the_customer_is_charged_this_month(self):
        response = self.page(hand_out(self.acme)[1])

        cards = {label: text for label, text, _ in response.context["cards"]}
        self.assertEqual(cards["Spend, USD"], "$3.50*")
        self.assertEqual(cards["Requests"], "3")
        self.assertEqual(
            [(line["name"], line["spend"]) for line in response.context["models"]],
            [("gpt-4o", "$2.00"), ("o3", "$1.50"), ("in-house", "$0.00*")],
        )
        self.assertContains(response, "1 request without a price yet: not in the spend.")
        self.assertContains(response, "Usage from 2026-07-01 to 2026-07-15, days in UTC")

    def test_days_cards_and_models_are_one_sum(self):
        response = self.page(hand_out(self.acme)[1])

        rows = response.context["rows"]
        amounts = [Decimal(amount.removeprefix("$")) for _, amounts in rows for amount in amounts]
        self.assertEqual(len(rows), 15)
        self.assertEqual(sum(amounts), response.context["total"].charge)
        self.assertEqual(len(response.context["drawn"].blocks), 2)
        self.assertEqual(response.context["drawn"].top, 2)

    def test_another_month_is_a_link_away(self):
        _, token = hand_out(self.acme)
        months = {each["label"]: each["query"] for each in self.page(token).context["months"]}

        june = self.page(token, months["Jun 2026"])

        self.assertEqual(june.context["total"].charge, 4)
        self.assertContains(june, "Usage from 2026-06-01 to 2026-06-30")
        self.assertEqual(len(months), 12)
        self.assertContains(self.page(token, "?month=2026-01"), "No request in this month")
        self.assertContains(self.page(token, "?month=2027-01"), "No request in this month")
        for wrong in ("2026-13", "july", "2026-7", "1999-01", "2026-07-01", "²026-07"):
            self.assertContains(
                self.page(token, f"?month={wrong}", status=400), "There is no such month", status_code=400
            )

    def test_nothing_of_anybody_else_is_on_it(self):
        Budget.objects.create(id="the-gateways", max_budget=Decimal(1000))
        limits = GatewayLimits.current()
        limits.budget_id = "the-gateways"
        limits.save()
        for shows_keys in (False, True):
            text = self.page(hand_out(self.acme, shows_keys=shows_keys)[1]).content.decode()
            with self.subTest(shows_keys=shows_keys):
                for unwanted in (
                    "globex", "8.25", "internal-tag", "red-team", "bob@x.test", "the-gateways", "1,000.00",
                    "$1.00", "admin", str(self.key.pk), self.key.display_name,
                ):  # fmt: skip
                    self.assertNotIn(unwanted, text)
                self.assertEqual("secret-project" in text, shows_keys)

    def test_a_default_that_a_key_gives_its_customers_does_not_name_the_key(self):
        self.key.customer_budget = Budget.objects.create(id="internal-tier", max_budget=Decimal(10))
        self.key.save()

        text = self.page(hand_out(self.acme)[1]).content.decode()

        self.assertIn("of $10.00", text)
        self.assertNotIn("secret-project", text)
        self.assertNotIn("internal-tier", text)

    def test_the_budget_is_shown_with_its_forecast(self):
        self.acme.budget = Budget.objects.create(id="pro", max_budget=Decimal(12), budget_duration="1mo")
        self.acme.save()
        for day in range(10):
            settle(admitted((july(), "12"), at=NOON - timedelta(days=day, hours=1)), cost_usd="0.5")

        response = self.page(hand_out(self.acme)[1])

        [limit] = response.context["limits"]
        self.assertContains(response, "the limit is reached on")
        self.assertEqual(limit["limit"], "$12.00")
        self.assertTrue(limit["drawing"].is_over)

    def test_title_and_colour_are_the_links_own(self):
        plain = self.page(hand_out(self.acme)[1])
        dressed = self.page(hand_out(self.acme, title="<Our> usage", colour="#AA2266")[1])

        self.assertContains(plain, "<h1>Acme Corp</h1>")
        self.assertNotContains(plain, "<style")
        self.assertContains(dressed, "<h1>&lt;Our&gt; usage</h1>")
        self.assertContains(dressed, "--accent: #aa2266;")

    def test_it_works_for_any_id(self):
        for customer_id in AWKWARD:
            with self.subTest(customer_id=customer_id):
                book_calls(make_call(cost_usd="0.125", customer_id=customer_id))
                customer = Customer.objects.get(pk=customer_id)

                response = self.page(hand_out(customer)[1])

                self.assertEqual(response.context["total"].charge, Decimal("0.125"))
                self.assertNotContains(response, "<b>")

    def test_what_it_answers_with_keeps_it_to_itself(self):
        _, token = hand_out(self.acme, colour="#aa2266")
        pages = (self.page(token), self.page("nothing", status=404), self.page(token, "?month=x", status=400))
        for response in pages:
            with self.subTest(status=response.status_code):
                self.assertEqual(response["Referrer-Policy"], "no-referrer")
                self.assertEqual(response["Cache-Control"], "private, no-store")
                self.assertEqual(response["X-Robots-Tag"], "noindex, nofollow")
                self.assertContains(
                    response, '<meta name="robots" content="noindex', status_code=response.status_code
                )
                policy = response["Content-Security-Policy"]
                self.assertIn("default-src 'none'", policy)
                self.assertNotIn("script-src", policy)
                self.assertNotIn("unsafe", policy)
                self.assertEqual(response.cookies, {})

    def test_it_has_no_script_nothing_inline_and_nothing_from_elsewhere(self):
        response = self.page(hand_out(self.acme, colour="#aa2266")[1])
        text = response.content.decode()

        self.assertNotIn("<script", text)
        self.assertNotIn("<form", text)
        self.assertEqual(re.findall(r"\sstyle=|\son[a-z]+=", text), [])
        self.assertEqual(re.findall(r'(?:src|href)="(?!/static/|\?month=)[^"]*', text), [])
        [nonce] = re.findall(r'<style nonce="([^"]+)"', text)
        self.assertIn(f"'nonce-{nonce}'", response["Content-Security-Policy"])
        again = self.page(hand_out(self.acme, colour="#aa2266")[1]).content.decode()
        self.assertNotIn(nonce, again)

    def test_no_site_may_frame_it_until_one_is_named(self):
        _, token = hand_out(self.acme)

        alone = self.page(token)
        with override_settings(HANDOUT_FRAME_ANCESTORS=["https://app.acme.test", "https://*.globex.test"]):
            framed, unknown = self.page(token), self.page("nothing", status=404)
            elsewhere = self.client.get(reverse("admin:login"))

        self.assertIn("frame-ancestors 'none'", alone["Content-Security-Policy"])
        self.assertEqual(alone["X-Frame-Options"], "DENY")
        for response in (framed, unknown):
            self.assertIn(
                "frame-ancestors https://app.acme.test https://*.globex.test",
                response["Content-Security-Policy"],
            )
            self.assertNotIn("X-Frame-Options", response)
        self.assertIn("frame-ancestors 'none'", elsewhere["Content-Security-Policy"])
        self.assertEqual(elsewhere["X-Frame-Options"], "DENY")

    def test_a_link_that_is_over_or_unknown_says_so_and_nothing_of_whom(self):
        link, token = hand_out(self.acme)
        revoke_handout_links(links=[link.pk], customer_id="acme", at=NOON)
        self.assertContains(self.page(token, status=410), "no longer in force", status_code=410)
        _, expiring = hand_out(self.acme)
        self.at(NOON + WEEK)

        for response in (self.page(expiring, status=410), self.page(expiring[:-1], status=404)):
            self.assertNotIn("acme", response.content.decode().lower())
        self.assertContains(self.page("x", status=404), "not known here", status_code=404)

    def test_it_can_only_be_read(self):
        _, token = hand_out(self.acme)

        for method in ("post", "put", "delete", "patch"):
            self.assertEqual(getattr(self.client, method)(f"/hand-out/{token}/").status_code, 405)
        self.assertEqual(self.client.head(f"/hand-out/{token}/").status_code, 200)

    def test_its_address_is_what_the_admin_hands_out(self):
        _, token = hand_out(self.acme)

        self.assertEqual(reverse("handout-page", args=[token]), f"/hand-out/{token}/")
        self.assertEqual(len(page_routes), 1)

    def test_it_makes_as_many_queries_however_much_there_is(self):
        _, token = hand_out(self.acme, shows_keys=True)
        self.page(token)
        few = self.queries(token)
        for number in range(60):
            key, _ = create_key(alias=f"key {number}")
            book_calls(make_call(customer_id="acme", model=f"m{number}", key_id=key.pk.bytes))
        many = self.queries(token)

        self.assertEqual(len(many), len(few))
        self.assertLessEqual(len(many), 12)
        self.assertFalse([each for each in many if "billing_spendlog" in each])
        self.assertLess(self.page(token).content.count(b"<tr>"), 180)

    def queries(self, token: str) -> list[str]:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        with CaptureQueriesContext(connection) as captured:
            self.page(token)
        # Reports ask which of their days are summed up already; that is theirs to pin.
        return [each["sql"] for each in captured if "billing_closedspan" not in each["sql"]]


class ReadTokenTests(HandoutTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.key, cls.secret = create_key(alias="shop")
        cls.acme.budget = Budget.objects.create(
            id="pro", max_budget=Decimal("12.5"), budget_duration="1mo", rpm_limit=60
        )
        cls.acme.save()
        settle(
            admitted((july(), "12.5"), at=NOON - timedelta(hours=1), model="o3", key_id=cls.key.pk.bytes),
            cost_usd="1", charge_nano=nano("1.5"),
        )  # fmt: skip
        book_calls(
            make_call(cost_usd="4", customer_id="acme", at=NOON - timedelta(days=20)),
            make_call(cost_usd="8.25", customer_id="globex"),
        )

    def test_it_tells_the_usage_of_its_customer(self):
        response = self.read(hand_out(self.acme, READ_TOKEN)[1])
        told = response.json()

        self.assertEqual(response["Cache-Control"], "private, no-store")
        self.assertEqual((told["customer_id"], told["alias"], told["currency"]), ("acme", "Acme Corp", "USD"))
        self.assertEqual((told["start_date"], told["end_date"]), ("2026-07-01", "2026-07-15"))
        self.assertEqual(told["total"]["spend"], 1.5)
        self.assertEqual([(day["date"], day["spend"]) for day in told["days"]], [("2026-07-15", 1.5)])
        self.assertEqual([(each["model"], each["api_requests"]) for each in told["models"]], [("o3", 1)])
        self.assertIsNone(told["keys"])
        self.assertNotIn("8.25", response.content.decode())
        named = self.read(hand_out(self.acme, READ_TOKEN, shows_keys=True)[1]).json()
        self.assertEqual([each["key_alias"] for each in named["keys"]], ["shop"])

    def test_days_can_be_chosen(self):
        _, token = hand_out(self.acme, READ_TOKEN)

        june = self.read(token, start_date="2026-06-01", end_date="2026-06-30").json()
        since = self.read(token, end_date="2026-06-30").json()

        self.assertEqual(june["total"]["spend"], 4)
        self.assertEqual(since["start_date"], "2026-06-01")
        for query, status in (
            ({"start_date": "yesterday"}, 422),
            ({"start_date": "2026-07-02", "end_date": "2026-07-01"}, 400),
            ({"start_date": "2025-01-01", "end_date": "2026-07-01"}, 400),
            ({"start_date": "0001-01-01", "end_date": "0001-01-02"}, 400),
        ):
            with self.subTest(query=query):
                self.assertEqual(self.read(token, **query).status_code, status)

    def test_another_customers_id_in_the_request_changes_nothing(self):
        _, token = hand_out(self.acme, READ_TOKEN)

        response = self.client.get(
            "/customer/usage.json?customer_id=globex&end_user=globex&user_id=globex",
            headers={"authorization": f"Bearer {token}", "x-litellm-customer-id": "globex"},
        )

        self.assertEqual(response.json()["customer_id"], "acme")
        self.assertNotIn("8.25", response.content.decode())

    def test_it_tells_the_budget_exactly(self):
        admitted((july(), "12.5"), at=NOON, amount_usd="0.25")
        response = self.read(hand_out(self.acme, READ_TOKEN)[1], "/customer/budget.json")
        told = response.json()

        [budget] = told["budgets"]
        self.assertEqual(
            [
                budget[name]
                for name in ("model", "budget_duration", "max_budget", "spent", "held", "remaining")
            ],
            [None, "1mo", 12.5, 1.5, 0.25, 10.75],
        )
        self.assertEqual(
            (budget["starts_at"], budget["ends_at"]), ("2026-07-01T00:00:00Z", "2026-08-01T00:00:00Z")
        )
        self.assertEqual(
            told["rate_limits"], [{"rpm_limit": 60, "tpm_limit": None, "max_parallel_requests": None}]
        )
        self.assertEqual(set(budget["forecast"]), {"per_day", "at_end", "exceeds_on"})

    def test_a_customer_without_limits_has_none(self):
        told = self.read(hand_out(self.globex, READ_TOKEN)[1], "/customer/budget.json").json()

        self.assertEqual((told["budgets"], told["rate_limits"]), ([], []))

    def test_whoever_has_no_token_in_force_is_refused(self):
        link, token = hand_out(self.acme, READ_TOKEN)
        _, of_a_page = hand_out(self.acme, PAGE)
        for path in ("/customer/usage.json", "/customer/budget.json"):
            for header in (
                "", "Bearer", "Bearer ", f"Bearer {token[:-1]}", f"Basic {token}", token,
                "Bearer sk-read-\xff", f"Bearer {of_a_page}", f"Bearer {self.secret}",
                "Bearer sk-master-key-of-the-tests",
            ):  # fmt: skip
                with self.subTest(path=path, header=header):
                    response = self.client.get(path, headers={"authorization": header} if header else {})
                    self.assertEqual(response.status_code, 401, response.content)
                    self.assertEqual(response.json()["error"]["type"], "auth_error")
            revoked = hand_out(self.acme, READ_TOKEN)
            revoke_handout_links(links=[revoked[0].pk], customer_id="acme", at=NOON)
            self.assertEqual(self.read(revoked[1], path).status_code, 401)
        self.at(NOON + WEEK)
        self.assertEqual(self.read(token).status_code, 401)
        self.assertTrue(HandoutLink.objects.filter(pk=link.pk, revoked_at=None).exists())

    def test_it_reads_nothing_else_and_changes_nothing(self):
        _, token = hand_out(self.acme, READ_TOKEN)

        for path in (
            "/customer/info?end_user_id=acme",
            "/customer/list",
            "/key/list",
            "/spend/logs",
            "/audit",
        ):
            with self.subTest(path=path):
                self.assertEqual(self.read(token, path).status_code, 401)
        for method in ("post", "put", "patch", "delete"):
            answer = getattr(self.client, method)(
                "/customer/usage.json", headers={"authorization": f"Bearer {token}"}
            )
            self.assertEqual(answer.status_code, 405)

    def test_amounts_have_all_their_digits(self):
        book_calls(make_call(cost_usd="0.000000001", customer_id="globex"))

        response = self.read(hand_out(self.globex, READ_TOKEN)[1])

        self.assertIn(b'"spend":8.250000001,', response.content)


class HandingOutTests(AdminTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.customer = Customer.objects.create(id="acme/eu", alias="Acme")
        cls.other = Customer.objects.create(id="globex")

    def links_url(self, customer: str = "acme%2Feu") -> str:
        return f"{reverse('usage:handout-links')}?customer={customer}"

    def make(self, status: int = 200, **fields):
        response = self.client.post(self.links_url(), {"kind": PAGE, "days": "7", **fields})
        self.assertEqual(response.status_code, status, response.content[:500])
        return response

    def revoke(self, customer: str = "acme/eu", link: object = ""):
        return self.client.post(reverse("usage:handout-revoke"), {"customer": customer, "link": str(link)})

    def test_a_link_is_made_shown_once_opened_and_taken_back(self):
        response = self.make(title="Your usage", has_colour="on", colour="#AA2266", shows_keys="on")
        made = response.context["made"]

        link = HandoutLink.objects.get()
        self.assertEqual((link.title, link.colour, link.shows_keys), ("Your usage", "#aa2266", True))
        self.assertEqual(link.created_by, self.alice.pk)
        self.assertAlmostEqual(link.expires_at - link.created_at, WEEK, delta=timedelta(minutes=1))
        self.assertContains(response, "&lt;iframe src=&quot;http://localhost:4000/hand-out/sk-page-")
        self.assertNotContains(response, "<iframe")
        path = made["handed_out"].removeprefix("http://localhost:4000")
        self.client.logout()
        self.assertContains(self.client.get(path), "<h1>Your usage</h1>")
        self.client.force_login(self.alice, backend="django.contrib.auth.backends.ModelBackend")
        listed = self.client.get(self.links_url())
        self.assertContains(listed, "Your usage")
        self.assertNotContains(listed, path)
        self.assertEqual(self.revoke(link=link.pk).status_code, 302)
        self.assertEqual(self.client.get(path).status_code, 410)
        self.assertContains(self.client.get(self.links_url()), "taken back")
        entries = AuditLog.objects.filter(kind="customers.handoutlink").order_by("id")
        self.assertEqual(
            [(entry.action, entry.actor) for entry in entries], [("created", "alice"), ("updated", "alice")]
        )

    def test_a_read_token_is_made_with_the_call_that_uses_it(self):
        made = self.make(kind=READ_TOKEN).context["made"]

        self.assertIn(f'-H "Authorization: Bearer {made["handed_out"]}"', made["call"])
        self.assertEqual(HandoutLink.objects.get().colour, "")
        told = self.client.get(
            "/customer/usage.json", headers={"authorization": f"Bearer {made['handed_out']}"}
        )
        self.assertEqual(told.json()["customer_id"], "acme/eu")

    def test_all_are_taken_back_at_once_and_of_this_customer_alone(self):
        for customer in (self.customer, self.customer, self.other):
            hand_out(customer, at=datetime.now(UTC))

        self.revoke()

        in_force = HandoutLink.objects.filter(revoked_at=None)
        self.assertEqual([link.customer_id for link in in_force], ["globex"])

    def test_another_customers_link_is_not_taken_back_by_its_id(self):
        link, _ = hand_out(self.other, at=datetime.now(UTC))

        self.revoke(link=link.pk)

        link.refresh_from_db()
        self.assertIsNone(link.revoked_at)
        self.assertEqual(self.revoke(link="nonsense").status_code, 404)
        self.assertEqual(self.revoke(link=uuid.uuid4()).status_code, 302)

    def test_mistakes_are_told_and_what_was_written_stays(self):
        for fields, expected in (
            ({"days": "5000"}, "Choose when it expires."),
            ({"days": ""}, "Choose when it expires."),
            ({"has_colour": "on", "colour": "red"}, "Write a colour as #0b6e9e."),
            ({"title": "x" * 101}, "at most 100 characters"),
            ({"kind": "key"}, "not a valid choice"),
        ):
            with self.subTest(fields=fields):
                response = self.make(400, **{"title": "Mine", **fields})
                self.assertContains(response, expected, status_code=400)
                if "title" not in fields:
                    self.assertContains(response, 'value="Mine"', status_code=400)
        self.assertFalse(HandoutLink.objects.exists())

    def test_it_takes_the_permission_to_change_customers(self):
        from django.contrib.auth.models import Permission

        self.charlie.user_permissions.add(Permission.objects.get(codename="view_spendlog"))
        self.log_in_charlie()
        link, _ = hand_out(self.customer, at=datetime.now(UTC))

        self.assertEqual(self.client.get(self.links_url()).status_code, 403)
        self.make(403)
        self.assertEqual(self.revoke(link=link.pk).status_code, 403)
        page = f"{reverse('usage:customer')}?customer=acme%2Feu"
        self.assertNotContains(self.client.get(page), reverse("usage:handout-links"))
        self.charlie.user_permissions.add(Permission.objects.get(codename="change_customer"))
        self.assertContains(self.client.get(page), reverse("usage:handout-links"))
        self.assertEqual(self.client.get(self.links_url()).status_code, 200)
        self.client.logout()
        self.assertEqual(self.client.get(self.links_url()).status_code, 302)

    def test_who_is_not_there_has_no_links(self):
        Customer.objects.filter(pk="globex").update(deleted_at=datetime.now(UTC))

        for customer in ("nobody", "globex", "", "a%00b"):
            self.assertEqual(self.client.get(self.links_url(customer)).status_code, 404)

    def test_a_request_from_another_site_makes_nothing(self):
        from django.test import Client

        strict = Client(enforce_csrf_checks=True)
        strict.force_login(self.alice, backend="django.contrib.auth.backends.ModelBackend")

        self.assertEqual(strict.post(self.links_url(), {"kind": PAGE, "days": "7"}).status_code, 403)
        self.assertFalse(HandoutLink.objects.exists())


class SettingTests(SimpleTestCase):
    def test_what_is_no_origin_is_refused_when_the_server_starts(self):
        for origin, is_one in (
            ("https://app.example.com", True),
            ("https://*.example.com:8443", True),
            ("http://localhost:3000", True),
            ("*", False),
            ("app.example.com", False),
            ("https://a.test; script-src *", False),
            ("https://a.test/path", False),
            ("'self'", False),
            ("javascript:alert(1)", False),
        ):
            with self.subTest(origin=origin), override_settings(HANDOUT_FRAME_ANCESTORS=[origin]):
                self.assertEqual(
                    [each.id for each in handout_frame_ancestors(None)], [] if is_one else ["billing.E010"]
                )
