"""Upstream credentials: encrypted at rest, or named in the environment; shown to nobody."""

import logging
import os
from unittest import mock

from django.db import connection
from django.test import SimpleTestCase, TestCase, override_settings

from proxy.credentials import resolve
from proxy.models import Upstream

SECRET = "sk-very-secret-of-a-provider"


def make_upstream(credential: str) -> Upstream:
    return Upstream.objects.create(
        name="openai", provider="openai", openai_base_url="https://api.test/v1", credential=credential
    )


def stored() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT credential FROM proxy_upstream")
        return cursor.fetchone()[0]


class AtRestTests(TestCase):
    def test_a_credential_is_encrypted_at_rest(self):
        make_upstream(SECRET)

        self.assertTrue(stored().startswith("fernet:"))
        self.assertNotIn("secret", stored())

    def test_it_reads_as_it_was_written(self):
        for credential in (SECRET, "ключ 🙂", "fernet:looks-like-one-of-ours", ""):
            with self.subTest(credential=credential):
                upstream = make_upstream(credential)

                self.assertEqual(Upstream.objects.get().credential, credential)

                upstream.delete()

    def test_the_same_credential_is_never_stored_alike(self):
        upstream = make_upstream(SECRET)
        first = stored()

        upstream.save()

        self.assertNotEqual(stored(), first)

    def test_a_reference_to_the_environment_stays_plain(self):
        make_upstream("os.environ/OPENAI_API_KEY")

        self.assertEqual(stored(), "os.environ/OPENAI_API_KEY")
        self.assertEqual(Upstream.objects.get().credential, "os.environ/OPENAI_API_KEY")

    def test_with_another_secret_key_it_reads_as_empty_and_is_reported(self):
        make_upstream(SECRET)

        with (
            override_settings(SECRET_KEY="another"),
            self.assertLogs("proxy.credentials", logging.ERROR) as logs,
        ):
            credential = Upstream.objects.get().credential

        self.assertEqual(credential, "")
        self.assertIn("SECRET_KEY", logs.output[0])
        self.assertEqual(Upstream.objects.get().credential, SECRET)

    def test_an_upstream_does_not_show_it(self):
        upstream = make_upstream(SECRET)

        for shown in (repr(upstream), str(upstream)):
            self.assertNotIn("secret", shown)


class ResolvingTests(SimpleTestCase):
    def test_a_reference_is_read_from_the_environment(self):
        with mock.patch.dict(os.environ, {"A_KEY": SECRET}):
            self.assertEqual(resolve("os.environ/A_KEY"), SECRET)
        self.assertEqual(resolve("os.environ/NO_SUCH_VARIABLE"), "")

    def test_anything_else_stands_for_itself(self):
        self.assertEqual(resolve(SECRET), SECRET)
        self.assertEqual(resolve(""), "")
