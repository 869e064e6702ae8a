"""`manage.py`: what a command changes is signed with its name."""

import sys
from unittest import mock

from django.test import SimpleTestCase

import manage
from customers.actors import current_actor


class ActorTests(SimpleTestCase):
    def test_a_command_acts_under_its_name(self):
        seen = []
        with (
            mock.patch.object(sys, "argv", ["manage.py", "reconcile", "--repair"]),
            mock.patch(
                "django.core.management.execute_from_command_line", lambda argv: seen.append(current_actor())
            ),
        ):
            manage.main()

        self.assertEqual((seen[0].via, seen[0].name), ("command", "manage.py reconcile"))
        self.assertEqual(current_actor().via, "system")
