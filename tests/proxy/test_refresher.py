"""What staff edits reaches the memory, and a database that is away changes nothing there."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from unittest import mock, skipUnless

from django.db import OperationalError, connection, connections, transaction
from django.test import TestCase, TransactionTestCase

from billing.models import Price
from customers.keys import hash_secret
from customers.models import Customer, Team, User
from customers.services import create_key, set_customers_blocked, set_keys_blocked
from proxy.callers import Callers, load_callers
from proxy.models import Deployment, Upstream
from proxy.refresher import Refresher

POSTGRESQL = connection.vendor == "postgresql"


class WithRefresher:
    def setUp(self):
        super().setUp()
        executor = ThreadPoolExecutor(max_workers=1)
        self.addCleanup(executor.shutdown)
        self.callers = Callers(executor, hard_life_s=3600)
        self.refresher = Refresher(self.callers, interval=0.01)

    def know(self, secret: str) -> str:
        """Put a key into the memory, as its first call does. Returns: its hash."""
        token_hash = hash_secret(secret)
        self.callers._keys.update(load_callers([token_hash]))
        return token_hash


class ThreadTests(WithRefresher, TransactionTestCase):
    def test_a_blocked_key_is_blocked_in_memory(self):
        key, secret = create_key()
        self.refresher.load()
        self.refresher.start()
        self.addCleanup(self.refresher.stop)
        token_hash = self.know(secret)

        set_keys_blocked(ids=[key.pk], blocked=True)

        wait_until(lambda: self.callers.known(token_hash).blocked)


class TickTests(WithRefresher, TestCase):
    def test_a_team_s_change_reaches_its_keys(self):
        team = Team.objects.create()
        _, secret = create_key(team=team)
        self.refresher.load()
        token_hash = self.know(secret)

        team.allowed_models = ["gpt-4o"]
        team.save()
        self.refresher._tick()

        self.assertEqual(self.callers.known(token_hash).team_models, {"gpt-4o"})

    def test_a_blocked_customer_is_blocked_in_memory_and_let_in_again(self):
        Customer.objects.create(pk="acme")
        self.refresher.load()

        set_customers_blocked(ids=["acme"], blocked=True)
        self.refresher._tick()
        self.assertTrue(self.callers.customer_rules["acme"].blocked)
        set_customers_blocked(ids=["acme"], blocked=False)
        self.refresher._tick()

        self.assertNotIn("acme", self.callers.customer_rules)

    def test_what_was_blocked_before_the_start_is_known(self):
        Customer.objects.create(pk="acme", blocked=True)

        self.refresher.load()

        self.assertTrue(self.callers.customer_rules["acme"].blocked)

    def test_a_new_deployment_and_a_new_price_are_in_the_catalog(self):
        self.refresher.load()
        upstream = Upstream.objects.create(
            name="one", provider="openai", openai_base_url="https://one.test/v1"
        )
        Deployment.objects.create(model_name="gpt-4o", upstream=upstream)
        self.refresher._tick()
        [target] = self.refresher.catalog.targets("gpt-4o")
        self.assertIsNone(self.refresher.catalog.price_of(target, "gpt-4o", at_s=time.time()))

        Price.objects.create(provider="openai", model="gpt-4o", input_per_mtok_usd=Decimal(1))

        self.refresher._tick()
        self.assertIsNotNone(self.refresher.catalog.price_of(target, "gpt-4o", at_s=time.time()))

    def test_a_deleted_upstream_is_served_no_more(self):
        upstream = Upstream.objects.create(
            name="one", provider="openai", openai_base_url="https://one.test/v1"
        )
        Deployment.objects.create(model_name="gpt-4o", upstream=upstream)
        self.refresher.load()

        upstream.delete()
        self.refresher._tick()

        self.assertEqual(self.refresher.catalog.targets("gpt-4o"), ())

    def test_nothing_is_read_again_where_nothing_changed(self):
        self.refresher.load()
        User.objects.create_user("bob")
        self.refresher._tick()

        with self.assertNumQueries(1):
            self.refresher._tick()

    def test_what_changes_while_it_loads_is_read_by_the_first_tick(self):
        load_catalog = mock.Mock(side_effect=lambda: Customer.objects.create(pk="late", blocked=True))
        with (
            mock.patch("proxy.refresher.load_catalog", load_catalog),
            mock.patch.object(self.callers, "reload_customers"),
        ):
            self.refresher.load()

        self.refresher._tick()

        self.assertIn("late", self.callers.customer_rules)

    def test_a_change_of_very_many_reloads_all(self):
        self.refresher.load()
        Customer.objects.bulk_create([Customer(pk=f"c{i}", blocked=True) for i in range(1_001)])

        self.refresher._tick()

        self.assertEqual(len(self.callers.customer_rules), 1_001)


class AwayTests(WithRefresher, TransactionTestCase):
    def test_what_is_in_memory_stays_and_its_age_is_known(self):
        Customer.objects.create(pk="acme", blocked=True)
        self.refresher.load()
        fresh_at = self.callers.fresh_at

        with mock.patch("proxy.refresher.Change.objects.filter", side_effect=OperationalError("away")):
            with self.assertLogs("proxy.refresher", logging.ERROR) as logs:
                for _ in range(3):
                    self.refresher._attempt(self.refresher._tick)

        self.assertEqual(len(logs.output), 1)
        self.assertIn("acme", self.callers.customer_rules)
        self.assertEqual(self.callers.fresh_at, fresh_at)

    def test_what_changed_meanwhile_is_read_when_it_is_back(self):
        Customer.objects.create(pk="acme")
        self.refresher.load()
        fresh_at = self.callers.fresh_at
        with mock.patch("proxy.refresher.Change.objects.filter", side_effect=OperationalError("away")):
            with self.assertLogs("proxy.refresher", logging.ERROR):
                self.refresher._attempt(self.refresher._tick)
        set_customers_blocked(ids=["acme"], blocked=True)

        with self.assertLogs("proxy.refresher", logging.INFO):
            self.refresher._attempt(self.refresher._tick)

        self.assertIn("acme", self.callers.customer_rules)
        self.assertGreater(self.callers.fresh_at, fresh_at)

    def test_a_reload_that_fails_is_made_up_for(self):
        Customer.objects.create(pk="acme")
        self.refresher.load()
        set_customers_blocked(ids=["acme"], blocked=True)

        with mock.patch.object(self.callers, "reload_customers", side_effect=OperationalError("away")):
            with self.assertLogs("proxy.refresher", logging.ERROR):
                self.refresher._attempt(self.refresher._tick)
        self.refresher._attempt(self.refresher._tick)

        self.assertIn("acme", self.callers.customer_rules)


@skipUnless(POSTGRESQL, "SQLite has one writer: no transaction can commit late")
class LateCommitTests(WithRefresher, TransactionTestCase):
    def test_a_change_that_commits_late_is_not_missed(self):
        """The slow writer draws its revision first; the quick one must not overtake it unseen."""
        for pk in ("slow", "quick"):
            Customer.objects.create(pk=pk)
        self.refresher.load()
        has_written, may_commit = threading.Event(), threading.Event()

        def write_slowly():
            with transaction.atomic():
                set_customers_blocked(ids=["slow"], blocked=True)
                has_written.set()
                may_commit.wait(10)
            connections.close_all()

        def write_quickly():
            set_customers_blocked(ids=["quick"], blocked=True)
            connections.close_all()

        slow, quick = threading.Thread(target=write_slowly), threading.Thread(target=write_quickly)
        slow.start()
        has_written.wait(10)
        quick.start()
        for _ in range(10):
            self.refresher._tick()
            time.sleep(0.02)
        may_commit.set()
        slow.join()
        quick.join()
        self.refresher._tick()

        self.assertEqual(set(self.callers.customer_rules), {"slow", "quick"})


def wait_until(is_true, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.01)
