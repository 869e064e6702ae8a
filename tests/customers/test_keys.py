"""The secret of a virtual key."""

import hashlib
import logging
import re

from django.test import SimpleTestCase

from customers.keys import (
    MIN_LENGTH,
    HideSecrets,
    abbreviated,
    check_secret,
    display_name,
    generate_secret,
    hash_secret,
    named_hash,
)


class SecretTests(SimpleTestCase):
    def test_it_is_sk_and_22_url_safe_characters(self):
        for _ in range(100):
            self.assertRegex(generate_secret(), re.compile(r"sk-[A-Za-z0-9_-]{22}\Z"))

    def test_no_two_are_alike(self):
        self.assertEqual(len({generate_secret() for _ in range(1_000)}), 1_000)

    def test_it_is_longer_than_what_callers_may_choose(self):
        self.assertGreater(len(generate_secret()), MIN_LENGTH)


class HashTests(SimpleTestCase):
    def test_it_is_the_sha_256_of_the_whole_secret(self):
        secret = generate_secret()

        self.assertEqual(hash_secret(secret), hashlib.sha256(secret.encode()).hexdigest())
        # Made with `printf sk-1234 | sha256sum`: what LiteLLM stores for that key.
        self.assertEqual(
            hash_secret("sk-1234"), "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"
        )

    def test_any_text_that_a_header_may_carry_has_one(self):
        for secret in ("", "sk-ключ", "sk-\udcff"):
            self.assertEqual(len(hash_secret(secret)), 64)


class DisplayTests(SimpleTestCase):
    def test_only_the_last_four_characters_are_shown(self):
        self.assertEqual(display_name("sk-abcdefghijklmnop"), "sk-...mnop")

    def test_what_is_called_a_key_is_told_only_where_it_is_a_hash(self):
        self.assertEqual(abbreviated("a" * 64), "a" * 64)
        self.assertEqual(abbreviated("sk-abcdefghijklmnop"), "sk-...mnop")
        self.assertNotIn("abc", abbreviated("sk-abc"))

    def test_a_log_line_loses_its_secrets_and_nothing_else(self):
        secret = generate_secret()
        for message, arguments, line in (
            ("Not Found: %s", (f"/key/{secret}/regenerate",), "Not Found: /key/sk-.../regenerate"),
            (f"{secret} and {secret}", None, "sk-... and sk-..."),
            ("no key sk-...mnop", None, "no key sk-...mnop"),
            ("%d of %d", (1, 2), "1 of 2"),
        ):
            record = logging.LogRecord("x", logging.INFO, "x", 1, message, arguments, None)

            self.assertTrue(HideSecrets().filter(record))
            self.assertEqual(record.getMessage(), line)


class NamingTests(SimpleTestCase):
    def test_a_key_is_named_by_its_secret_or_its_hash(self):
        secret = generate_secret()

        self.assertEqual(named_hash(secret), hash_secret(secret))
        self.assertEqual(named_hash(hash_secret(secret)), hash_secret(secret))
        for name in ("", "x", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"):
            self.assertIsNone(named_hash(name), name)

    def test_a_chosen_secret_is_printable_and_long_enough(self):
        for secret in ("sk-" + "x" * 13, "sk-" + "~!@#$%^&*()_+=", generate_secret(), "sk-" + "x" * 252):
            check_secret(secret)
        for secret in ("sk-" + "x" * 12, "sk-" + "x" * 253, "pk-" + "x" * 13, "sk-with a space in it",
                       "sk-newline-at-end\n", "sk-ключключключ", ""):  # fmt: skip
            with self.subTest(secret[:20]), self.assertRaises(ValueError):
                check_secret(secret)
