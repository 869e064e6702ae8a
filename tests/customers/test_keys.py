"""The secret of a virtual key."""

import hashlib
import re

from django.test import SimpleTestCase

from customers.keys import MIN_LENGTH, display_name, generate_secret, hash_secret


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
