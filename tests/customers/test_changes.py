"""The change log: every write of a tracked row is in it, and no reader misses a late commit."""

import threading
import time
from datetime import timedelta
from unittest import mock, skipUnless

from django.apps import apps
from django.contrib.auth.models import update_last_login
from django.db import connection, connections, transaction
from django.test import TestCase, TransactionTestCase
from django.utils import timezone

from customers.models import (
    Budget,
    Change,
    ChangeCounter,
    Customer,
    Tag,
    Team,
    TeamMembership,
    TrackedModel,
    User,
    record_changes,
)

POSTGRESQL = connection.vendor == "postgresql"


def listed() -> list[tuple[str, str]]:
    return list(Change.objects.order_by("id").values_list("kind", "object_id"))


class WriteTests(TestCase):
    def setUp(self):
        for pk in ("a", "b"):
            Customer.objects.create(pk=pk)
        Change.objects.all().delete()

    def expect(self, *object_ids: str):
        self.assertEqual(
            sorted(listed()), [("customers.customer", object_id) for object_id in sorted(object_ids)]
        )

    def test_save(self):
        Customer.objects.get(pk="a").save()

        self.expect("a")

    def test_save_of_some_fields(self):
        Customer.objects.get(pk="a").save(update_fields=["alias"])

        self.expect("a")

    def test_create(self):
        Customer.objects.create(pk="new")

        self.expect("new")

    def test_get_or_create_and_update_or_create(self):
        Customer.objects.get_or_create(pk="new")
        Customer.objects.get_or_create(pk="new")
        Customer.objects.update_or_create(pk="a", defaults={"alias": "A"})

        self.expect("new", "a")

    def test_delete(self):
        Customer.objects.get(pk="a").delete()

        self.expect("a")

    def test_update_of_many(self):
        Customer.objects.filter(pk__in=["a", "b"]).update(blocked=True)

        self.expect("a", "b")

    def test_an_update_of_nothing_is_no_change(self):
        Customer.objects.filter(pk="nobody").update(blocked=True)

        self.expect()

    def test_delete_of_many(self):
        Customer.objects.all().delete()

        self.expect("a", "b")

    def test_bulk_create(self):
        Customer.objects.bulk_create([Customer(pk="x"), Customer(pk="y")])

        self.expect("x", "y")

    def test_bulk_update(self):
        rows = list(Customer.objects.all())

        Customer.objects.bulk_update(rows, ["alias"])

        self.expect("a", "b")

    def test_a_related_manager(self):
        budget = Budget.objects.create()
        Change.objects.all().delete()

        budget.customers.add(Customer.objects.get(pk="a"))

        self.expect("a")

    def test_rows_without_a_known_id_are_all_rows(self):
        team, user = Team.objects.create(), User.objects.create_user("bob")
        Change.objects.all().delete()

        TeamMembership.objects.bulk_create([TeamMembership(team=team, user=user)])

        [(kind, object_id)] = listed()
        self.assertEqual(kind, "customers.teammembership")
        self.assertIn(object_id, ("", str(TeamMembership.objects.get().pk)))

    def test_more_than_a_thousand_are_written_as_all(self):
        Customer.objects.bulk_create([Customer(pk=f"c{i}") for i in range(1_000)])
        self.assertEqual(len(listed()), 1_000)
        Change.objects.all().delete()

        Customer.objects.update(blocked=True)

        self.expect("")

    def test_what_is_undone_is_no_change(self):
        class Undo(Exception):
            pass

        with self.assertRaises(Undo), transaction.atomic():
            Customer.objects.filter(pk="a").update(blocked=True)
            Customer.objects.create(pk="new")
            raise Undo

        self.expect()

    def test_a_write_that_cannot_be_recorded_is_undone(self):
        customer = Customer.objects.get(pk="a")
        customer.alias = "new"
        writes = [
            customer.save,
            customer.delete,
            lambda: Customer.objects.create(pk="new"),
            lambda: Customer.objects.update(alias="new"),
            lambda: Customer.objects.all().delete(),
            lambda: Customer.objects.bulk_create([Customer(pk="x")]),
        ]
        for write in writes:
            failing = mock.patch("customers.models.change.record_changes", side_effect=RuntimeError)
            with failing, self.assertRaises(RuntimeError):
                write()

            self.assertEqual(set(Customer.objects.values_list("pk", "alias")), {("a", ""), ("b", "")})

    def test_a_log_in_is_none(self):
        user = User.objects.create_user("bob")
        Change.objects.all().delete()

        update_last_login(None, user)

        self.assertEqual(listed(), [])
        user.save()
        self.assertEqual(listed(), [("customers.user", user.pk)])

    def test_every_tracked_model_has_a_manager_that_notices(self):
        tracked = [model for model in apps.get_models() if issubclass(model, TrackedModel)]

        names = {model.__name__ for model in tracked}
        self.assertLessEqual(
            {"Budget", "Customer", "Tag", "Team", "User", "VirtualKey", "Upstream", "Deployment", "Price"},
            names,
        )
        for model in tracked:
            for method in ("update", "delete", "bulk_create"):
                self.assertIn(
                    "TrackedQuerySet",
                    getattr(model._default_manager.get_queryset(), method).__qualname__,
                    model,
                )

    def test_a_key_s_hash_or_secret_is_in_no_change(self):
        from customers.services import create_key

        key, secret = create_key()

        text = " ".join(object_id for _, object_id in listed())
        self.assertNotIn(secret, text)
        self.assertNotIn(key.token_hash, text)


class RevisionTests(TestCase):
    def test_each_write_draws_the_next_revision(self):
        record_changes("kind", ["1", "2"])
        record_changes("kind", ["3"])

        revisions = list(Change.objects.order_by("id").values_list("object_id", "revision"))
        first = revisions[0][1]
        self.assertEqual(revisions, [("1", first), ("2", first), ("3", first + 1)])

    def test_the_counter_is_made_when_it_is_missing(self):
        ChangeCounter.objects.all().delete()

        record_changes("kind", ["1"])
        record_changes("kind", ["2"])

        self.assertEqual(ChangeCounter.objects.get().value, 2)

    def test_forgetting_old_changes_does_not_turn_the_counter_back(self):
        record_changes("kind", ["1"])
        before = Change.objects.get().revision
        Change.objects.filter(at__lt=timezone.now() + timedelta(days=1)).delete()

        record_changes("kind", ["2"])

        self.assertEqual(Change.objects.get().revision, before + 1)


def _announcing(event: threading.Event):
    """Return a wrapper of queries that sets `event` as soon as anything is written."""

    def execute(run, sql, params, many, context):
        if sql.startswith("UPDATE"):
            event.set()
        return run(sql, params, many, context)

    return execute


@skipUnless(POSTGRESQL, "SQLite has one writer: no transaction can commit late")
class LateCommitTests(TransactionTestCase):
    def setUp(self):
        Tag.objects.create(name="first")  # the counter is there

    def test_two_who_write_several_rows_do_not_wait_in_a_circle(self):
        """One has written a budget and goes on to the team, which the other is about to write."""
        team = Team.objects.create(alias="red")
        is_waiting = threading.Event()
        failed: list[Exception] = []

        def block():
            with connection.execute_wrapper(_announcing(is_waiting)):
                try:
                    Team.objects.filter(pk=team.pk).update(blocked=True)
                except Exception as error:
                    failed.append(error)
            connections.close_all()

        with transaction.atomic():
            Budget.objects.create(max_budget=1)
            blocking = threading.Thread(target=block)
            blocking.start()
            is_waiting.wait(10)
            time.sleep(0.2)  # by now it waits for the counter
            team.alias = "blue"
            team.save(update_fields=["alias"])
        blocking.join(10)

        team.refresh_from_db()
        self.assertEqual((failed, team.alias, team.blocked), ([], "blue", True))

    def test_a_reader_never_misses_a_change_that_commits_late(self):
        """Slow draws a revision and lingers; quick must not become visible before it."""
        has_written, may_commit = threading.Event(), threading.Event()
        seen, last = [], Change.objects.latest("id").revision

        def write_slowly():
            with transaction.atomic():
                Tag.objects.create(name="slow")
                has_written.set()
                may_commit.wait(10)
            connections.close_all()

        def write_quickly():
            Tag.objects.create(name="quick")
            connections.close_all()

        slow, quick = threading.Thread(target=write_slowly), threading.Thread(target=write_quickly)
        slow.start()
        has_written.wait(10)
        quick.start()
        for i in range(30):
            if i == 10:
                may_commit.set()
            for change in Change.objects.filter(revision__gt=last).order_by("revision"):
                seen.append(change.object_id)
                last = change.revision
            time.sleep(0.02)
        slow.join()
        quick.join()

        self.assertEqual(seen, ["slow", "quick"])

    def test_many_writers_at_once_lose_nothing_to_a_reader(self):
        is_done = threading.Event()
        seen = []

        def write(number):
            for i in range(15):
                with transaction.atomic():
                    Tag.objects.create(name=f"{number}-{i}")
                    time.sleep(0.001 * (number % 3))
            connections.close_all()

        def follow():
            last = 0
            while True:
                stop = is_done.is_set()
                for revision, name in Change.objects.filter(revision__gt=last).values_list(
                    "revision", "object_id"
                ):
                    seen.append(name)
                    last = max(last, revision)
                if stop:
                    break
            connections.close_all()

        reader = threading.Thread(target=follow)
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        reader.start()
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        is_done.set()
        reader.join()

        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual(set(seen), {"first"} | {f"{number}-{i}" for number in range(4) for i in range(15)})
