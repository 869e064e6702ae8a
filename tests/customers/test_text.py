"""Text from outside: ids are refused, descriptions are repaired."""

from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from customers.text import MAX_ID_LENGTH, clean_line, is_clean_id, is_clean_text

BAD = ["\0", "\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\x9f", "\u2028", "\u2029", "\ud800", "\udfff"]


class IdTests(SimpleTestCase):
    def test_printable_text_of_every_script_is_an_id(self):
        for value in ("acme", "a b", "a/b:c@d.e", "Müller & Söhne", "客户", "🙂", "\u00a0", "~"):
            self.assertTrue(is_clean_id(value), repr(value))

    def test_a_control_character_anywhere_makes_none(self):
        for bad in BAD:
            for value in (bad, bad + "a", "a" + bad, "é" + bad + "b"):
                self.assertFalse(is_clean_id(value), repr(value))

    def test_its_length_is_from_1_to_255_characters(self):
        lengths = [is_clean_id("é" * length) for length in (0, 1, MAX_ID_LENGTH, MAX_ID_LENGTH + 1)]

        self.assertEqual(lengths, [False, True, True, False])
        self.assertEqual(MAX_ID_LENGTH, 255)

    def test_a_blank_at_either_end_makes_none(self):
        for value in (" ", " a", "a ", "  "):
            self.assertFalse(is_clean_id(value), repr(value))


class LineTests(SimpleTestCase):
    def test_a_clean_line_stays_as_it_is(self):
        for value in ("", "curl/8.5", "Grüße 🙂"):
            self.assertEqual(clean_line(value), value)

    def test_what_cannot_be_stored_is_replaced(self):
        for bad in BAD:
            self.assertEqual(clean_line(f"a{bad}b"), "a\N{REPLACEMENT CHARACTER}b", repr(bad))

    def test_it_is_cut_to_its_limit(self):
        self.assertEqual(clean_line("x" * 300), "x" * 255)
        self.assertEqual(clean_line("x" * 300, 7), "x" * 7)
        self.assertEqual(clean_line("é\n" * 300, 7), "é\N{REPLACEMENT CHARACTER}" * 3 + "é")

    @settings(database=None)
    @given(value=st.text(st.characters(codec=None), max_size=400))
    def test_any_text_becomes_a_storable_line(self, value):
        line = clean_line(value)

        line.encode("utf-8")
        self.assertEqual(len(line), min(len(value), 255))
        self.assertTrue(line == "" or is_clean_text(line))
        self.assertEqual(clean_line(line), line)
