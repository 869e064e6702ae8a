"""The in-process copy of keys and customers: fresh, and still there while the database is not."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from unittest import mock

from django.db import OperationalError, connections
from django.test import TestCase
from django.utils import timezone

from customers.keys import hash_secret
from customers.models import Budget, Customer, Team, User, VirtualKey
from customers.services import create_key, delete_keys, rotate_key, set_keys_blocked
from proxy import callers as callers_module
from proxy.authentication import Authenticator
from proxy.callers import MASTER, Caller, Callers, CustomerRule, load_callers
from proxy.errors import DatabaseAway, ExpiredKey, InvalidKey, KeyBlocked, TeamBlocked


class CallersCase(TestCase):
    def setUp(self):
        keeping = mock.patch("proxy.callers.close_old_connections")
        keeping.start()
        self.addCleanup(keeping.stop)
        # The pool's thread sees this test's uncommitted rows: it is lent the connection.
        lent = connections["default"]
        lent.inc_thread_sharing()
        self.addCleanup(lent.dec_thread_sharing)
        self.executor = ThreadPoolExecutor(1, initializer=lambda: connections.__setitem__("default", lent))
        self.addCleanup(self.executor.shutdown)
        self.callers = Callers(self.executor, hard_life_s=3600)

    def find(self, secret: str):
        return asyncio.run(self.callers.find(hash_secret(secret)))

    def authenticate(self, secret: str):
        authenticator = Authenticator(self.callers, master_key="sk-master")
        return asyncio.run(authenticator.authenticate({"authorization": f"Bearer {secret}"}))

    def database_is_away(self):
        return mock.patch("proxy.callers.load_callers", side_effect=OperationalError("away"))


class LoadingTests(CallersCase):
    def test_a_key_is_read_once_and_then_known(self):
        _, secret = create_key()

        before = self.callers.known(hash_secret(secret))
        found = self.find(secret)
        with self.database_is_away():
            known = self.callers.known(hash_secret(secret))

        self.assertIsNone(before)
        self.assertIs(known, found)

    def test_hundreds_of_calls_with_a_new_key_look_it_up_once(self):
        _, secret = create_key()

        async def call(count: int) -> list:
            return await asyncio.gather(*(self.callers.find(hash_secret(secret)) for _ in range(count)))

        with mock.patch("proxy.callers.load_callers", wraps=load_callers) as load:
            found = asyncio.run(call(500))

        self.assertEqual(load.call_count, 1)
        self.assertEqual({caller.key_name for caller in found}, {found[0].key_name})

    def test_a_key_made_while_it_is_looked_up_is_looked_up_again(self):
        async def call() -> list:
            first = asyncio.ensure_future(self.callers.find("hash"))
            await asyncio.sleep(0)  # it has asked; what it is told is older than the key
            return await asyncio.gather(first, self.callers.find("hash"))

        made = Caller(key_name="new")
        with mock.patch("proxy.callers.load_callers", side_effect=[{}, {"hash": made}]):
            with mock.patch.object(self.callers, "_remember"):  # as where keys changed meanwhile
                found = asyncio.run(call())

        self.assertEqual(found, [None, made])

    def test_a_call_that_leaves_takes_no_other_s_answer_along(self):
        _, secret = create_key()

        async def call() -> Caller | None:
            first = asyncio.ensure_future(self.callers.find(hash_secret(secret)))
            await asyncio.sleep(0)
            second = asyncio.ensure_future(self.callers.find(hash_secret(secret)))
            await asyncio.sleep(0)
            first.cancel()
            return await second

        self.assertIsNotNone(asyncio.run(call()))

    def test_a_caller_is_what_its_key_and_its_team_say(self):
        team = Team.objects.create(alias="red", allowed_models=["gpt-*"], tags=["team", "both"])
        user = User.objects.create_user("bob")
        customer = Customer.objects.create(pk="acme")
        expires = timezone.now() + timedelta(days=1)
        key, secret = create_key(
            alias="ci", team=team, user=user, customer=customer, payer_policy="fixed",
            allowed_models=["gpt-4o"], tags=["key", "both"], expires_at=expires,
        )  # fmt: skip

        with self.assertNumQueries(1):
            caller = load_callers([hash_secret(secret)])[hash_secret(secret)]

        self.assertEqual((caller.key_id, caller.key_name, caller.is_master), (key.pk.bytes, "ci", False))
        self.assertEqual(
            (caller.team_id, caller.user_id, caller.fixed_customer_id), (team.pk, user.pk, "acme")
        )
        self.assertEqual((caller.key_models, caller.team_models), ({"gpt-4o"}, {"gpt-*"}))
        self.assertEqual(caller.tags, ("key", "both", "team"))
        self.assertEqual(caller.expires_at_s, expires.timestamp())
        self.assertEqual((caller.blocked, caller.team_blocked), (False, False))

    def test_a_trusted_key_fixes_no_customer(self):
        _, secret = create_key(customer=Customer.objects.create(pk="acme"))

        self.assertIsNone(self.find(secret).fixed_customer_id)

    def test_the_event_loop_asks_nothing_itself(self):
        threads = []

        def load(hashes):
            threads.append(threading.current_thread())
            return {}

        with mock.patch("proxy.callers.load_callers", load):
            self.find("sk-unknown")

        self.assertNotIn(threading.current_thread(), threads)
        self.assertEqual(len(threads), 1)

    def test_the_memory_is_bounded(self):
        with mock.patch.object(callers_module, "_MAX_KEYS", 3):
            secrets = [create_key()[1] for _ in range(5)]
            for secret in secrets:
                self.find(secret)

            known = [self.callers.known(hash_secret(secret)) is not None for secret in secrets]

        self.assertEqual(known, [False, False, True, True, True])


class UnknownTests(CallersCase):
    def test_an_unknown_key_is_asked_for_once(self):
        with mock.patch("proxy.callers.load_callers", return_value={}) as load:
            for _ in range(3):
                self.assertIsNone(self.find("sk-unknown"))

        self.assertEqual(load.call_count, 1)

    def test_it_is_forgotten_when_keys_change(self):
        secret = "sk-made-up-by-hand"
        self.assertIsNone(self.find(secret))
        VirtualKey.objects.create(token_hash=hash_secret(secret), display_name="sk-...hand")

        self.callers.reload_keys()

        self.assertIsNotNone(self.find(secret))

    def test_made_up_keys_do_not_fill_the_memory(self):
        with (
            mock.patch.object(callers_module, "_MAX_UNKNOWN", 3),
            mock.patch("proxy.callers.load_callers", return_value={}) as load,
        ):
            for i in range(5):
                self.find(f"sk-{i}")
            self.find("sk-4")  # remembered
            self.find("sk-0")  # dropped, and asked for again

        self.assertLessEqual(len(self.callers._unknown), 3)
        self.assertEqual(load.call_count, 5 + 1)


class ReloadTests(CallersCase):
    def test_a_block_reaches_the_memory(self):
        key, secret = create_key()
        self.find(secret)

        set_keys_blocked(ids=[key.pk], blocked=True)
        self.callers.reload_keys()

        with self.assertRaises(KeyBlocked):
            self.authenticate(secret)

    def test_a_blocked_or_retired_team_takes_its_keys_along(self):
        for change in ({"blocked": True}, {"deleted_at": timezone.now()}):
            team = Team.objects.create()
            _, secret = create_key(team=team)
            self.find(secret)

            Team.objects.filter(pk=team.pk).update(**change)
            self.callers.reload_keys()

            with self.assertRaises(TeamBlocked):
                self.authenticate(secret)

    def test_a_rotated_key_is_known_by_its_new_secret_only(self):
        key, old = create_key()
        self.find(old)

        new = rotate_key(key=key)
        self.callers.reload_keys()

        self.assertEqual(self.authenticate(new).key_id, key.pk.bytes)
        with self.assertRaises(InvalidKey):
            self.authenticate(old)

    def test_a_deleted_key_is_no_key(self):
        key, secret = create_key()
        self.find(secret)

        delete_keys(ids=[key.pk], at=timezone.now())
        self.callers.reload_keys()

        with self.assertRaises(InvalidKey):
            self.authenticate(secret)

    def test_an_expiry_counts_without_any_change(self):
        _, secret = create_key(expires_at=timezone.now() + timedelta(seconds=0.2))
        self.authenticate(secret)

        time.sleep(0.25)

        with self.assertRaises(ExpiredKey):
            self.authenticate(secret)

    def test_a_key_blocked_while_it_is_being_read_is_not_remembered_as_open(self):
        key, secret = create_key()
        load = callers_module.load_callers

        def load_and_be_overtaken(hashes):
            found = load(hashes)
            set_keys_blocked(ids=[key.pk], blocked=True)
            with mock.patch("proxy.callers.load_callers", load):
                self.callers.reload_keys()  # the refresher, before the event loop has the answer
            return found

        with mock.patch("proxy.callers.load_callers", load_and_be_overtaken):
            self.find(secret)

        with self.assertRaises(KeyBlocked):
            self.authenticate(secret)

    def test_a_key_made_while_it_is_looked_for_is_not_remembered_as_unknown(self):
        secret = "sk-made-up-by-hand"
        load = callers_module.load_callers

        def load_and_be_overtaken(hashes):
            found = load(hashes)
            VirtualKey.objects.create(token_hash=hash_secret(secret), display_name="sk-...hand")
            self.callers.reload_keys()
            return found

        with mock.patch("proxy.callers.load_callers", load_and_be_overtaken):
            self.find(secret)

        self.assertIsNotNone(self.find(secret))

    def test_many_known_keys_are_read_again_a_thousand_at_a_time(self):
        hashes = [f"{i:064x}" for i in range(2_500)]
        self.callers._keys = dict.fromkeys(hashes, MASTER)
        asked = []

        def load(some):
            asked.append(len(some))
            return dict.fromkeys(some, MASTER)

        with mock.patch("proxy.callers.load_callers", load):
            self.callers.reload_keys()

        self.assertEqual(asked, [1_000, 1_000, 500])
        self.assertEqual(len(self.callers._keys), 2_500)


class AwayTests(CallersCase):
    """C5: the database is away."""

    def test_a_known_key_goes_on(self):
        key, secret = create_key()
        self.find(secret)

        with self.database_is_away():
            caller = self.authenticate(secret)

        self.assertEqual(caller.key_id, key.pk.bytes)

    def test_an_unknown_one_is_told_to_come_back_not_that_it_is_invalid(self):
        _, secret = create_key()

        with self.database_is_away(), self.assertRaises(DatabaseAway) as caught:
            self.authenticate(secret)

        self.assertEqual((caught.exception.status, caught.exception.type), (503, "no_db_connection"))

    def test_it_is_known_as_soon_as_the_database_is_back(self):
        key, secret = create_key()
        with self.database_is_away(), self.assertRaises(DatabaseAway):
            self.authenticate(secret)

        self.assertEqual(self.authenticate(secret).key_id, key.pk.bytes)

    def test_a_database_that_hangs_counts_as_away(self):
        is_released = threading.Event()
        with (
            mock.patch.object(callers_module, "_LOAD_SECONDS", 0.05),
            mock.patch("proxy.callers.load_callers", lambda hashes: is_released.wait(10)),
            self.assertRaises(DatabaseAway),
        ):
            self.find("sk-any")
        is_released.set()

    def test_what_is_known_is_not_believed_for_ever(self):
        _, secret = create_key()
        self.find(secret)

        self.callers.fresh_at = time.monotonic() - 3599
        self.authenticate(secret)
        self.callers.fresh_at = time.monotonic() - 3601

        with self.assertRaises(DatabaseAway):
            self.authenticate(secret)

    def test_the_master_key_needs_no_database(self):
        with self.database_is_away():
            self.assertIs(self.authenticate("sk-master"), MASTER)


class CustomerTests(CallersCase):
    def test_only_the_exceptions_are_kept(self):
        Customer.objects.create(pk="plain")
        Customer.objects.create(pk="blocked", blocked=True)
        Customer.objects.create(pk="limited", budget=Budget.objects.create())
        Customer.objects.create(pk="deleted and blocked", blocked=True, deleted_at=timezone.now())

        self.callers.reload_customers()

        self.assertEqual(
            self.callers.customer_rules,
            {
                "blocked": CustomerRule(blocked=True),
                "limited": CustomerRule(blocked=False),
                "deleted and blocked": CustomerRule(blocked=True),
            },
        )

    def test_those_that_changed_are_read_alone(self):
        one, other = (Customer.objects.create(pk=pk, blocked=True) for pk in ("one", "other"))
        self.callers.reload_customers()
        Customer.objects.update(blocked=False)

        self.callers.reload_customers([one.pk])

        self.assertEqual(set(self.callers.customer_rules), {other.pk})
