"""Where a caller's key is read from: the order and the forms of LiteLLM (contract 1.1)."""

import base64

from django.test import SimpleTestCase

from customers.request_keys import MalformedKey, read_secret

ORDER = [
    "x-litellm-api-key",
    "authorization",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
]


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def read(**headers: str) -> str | None:
    return read_secret({name.replace("_", "-"): value for name, value in headers.items()}.get)


class OrderTests(SimpleTestCase):
    def test_the_first_header_that_has_one_counts(self):
        headers = {name: f"Bearer sk-{name}" if name == "authorization" else f"sk-{name}" for name in ORDER}

        for name in ORDER:
            self.assertEqual(read_secret(headers.get), f"sk-{name}")
            del headers[name]
        self.assertIsNone(read_secret(headers.get))

    def test_an_empty_header_is_none(self):
        headers = dict.fromkeys(ORDER[:3], "") | {"x-api-key": "sk-1"}

        self.assertEqual(read_secret(headers.get), "sk-1")

    def test_a_provider_s_own_token_may_stand_in_authorization(self):
        secret = read(x_litellm_api_key="sk-ours", authorization="AWS4-HMAC-SHA256 Credential=theirs")

        self.assertEqual(secret, "sk-ours")

    def test_the_operator_s_own_header_comes_before_all_others(self):
        headers = {
            "x-our-key": "Bearer sk-ours",
            "x-litellm-api-key": "sk-1",
            "authorization": "sk-malformed",
        }

        self.assertEqual(read_secret(headers.get, own_header="x-our-key"), "sk-ours")
        self.assertEqual(read_secret(headers.get, own_header="x-other"), "sk-1")
        headers["x-our-key"] = " sk-bare "
        self.assertEqual(read_secret(headers.get, own_header="x-our-key"), "sk-bare")


class FormTests(SimpleTestCase):
    def test_authorization_carries_a_scheme(self):
        for value in ("Bearer sk-1", "bearer sk-1", "BEARER sk-1", "Bearer   sk-1  ", " Bearer sk-1"):
            self.assertEqual(read(authorization=value), "sk-1", value)

    def test_anything_else_in_it_is_malformed(self):
        for value in ("sk-1", "Bearer", "Bearer ", "Token sk-1", "AWS4-HMAC-SHA256 x"):
            with self.subTest(value=value), self.assertRaises(MalformedKey):
                read(authorization=value)

    def test_basic_credentials_carry_the_key_as_password(self):
        self.assertEqual(read(authorization=basic("user:sk-1")), "sk-1")
        self.assertEqual(read(authorization=basic(":sk-1")), "sk-1")
        self.assertEqual(read(authorization=basic("user:sk-with:colon")), "sk-with:colon")

    def test_basic_may_carry_the_plain_key_too(self):
        self.assertEqual(read(authorization="Basic sk-1"), "sk-1")
        self.assertEqual(read(authorization="Basic !not base64!"), "!not base64!")
        self.assertEqual(read(authorization="Basic " + base64.b64encode(b"\xff\xfe").decode()), "//4=")

    def test_our_own_header_takes_every_form(self):
        for value in ("sk-1", " sk-1 ", "Bearer sk-1", "bearer sk-1", "Basic sk-1", basic("u:sk-1")):
            self.assertEqual(read(x_litellm_api_key=value), "sk-1", value)

    def test_the_other_headers_are_raw(self):
        for name in ORDER[2:]:
            self.assertEqual(read_secret({name: " sk-1 "}.get), "sk-1", name)

    def test_the_short_cut_reads_what_the_long_way_reads(self):
        for secret in ("sk-1", "sk-a b", "sk-", "sk-é"):
            self.assertEqual(
                read(authorization=f"Bearer {secret} "), read(authorization=f"bearer {secret} "), secret
            )
