"""Celery tasks: safe to run twice, and deaf to what a newer sender adds."""

import uuid
from datetime import timedelta

from django.contrib.sessions.models import Session
from django.test import TestCase
from django.utils import timezone

from billing.models import JournalCheckpoint
from billing.tasks import housekeeping
from customers.models import Change, record_changes


class HousekeepingTests(TestCase):
    def test_it_forgets_what_is_old_and_keeps_the_rest_however_often_it_runs(self):
        now = timezone.now()
        record_changes("customers.team", ["old", "young"])
        Change.objects.filter(object_id="old").update(at=now - timedelta(days=8))
        old, young, unfinished = (
            JournalCheckpoint.objects.create(pk=uuid.uuid4(), finished=True) for _ in range(3)
        )
        long_ago = now - timedelta(days=3651)
        JournalCheckpoint.objects.filter(pk=old.pk).update(updated_at=long_ago)
        JournalCheckpoint.objects.filter(pk=unfinished.pk).update(updated_at=long_ago, finished=False)
        Session.objects.create(session_key="gone", session_data="", expire_date=now - timedelta(days=1))

        for _ in range(2):
            housekeeping()

            self.assertEqual(list(Change.objects.values_list("object_id", flat=True)), ["young"])
            self.assertEqual(
                set(JournalCheckpoint.objects.values_list("pk", flat=True)), {young.pk, unfinished.pk}
            )
            self.assertFalse(Session.objects.exists())

    def test_it_takes_the_message_of_a_newer_sender(self):
        housekeeping(later="argument")
