"""What a call probably used: from what was sent, what was seen, and what was learned."""

from django.test import SimpleTestCase

from billing.booking.estimates import DEFAULT_OUTPUT_TOKENS, Estimator
from billing.usage import Usage


class BeforeTests(SimpleTestCase):
    def test_four_bytes_are_a_token_until_more_is_known(self):
        estimate = Estimator().before("gpt-4o", body_bytes=4_000, max_output_tokens=None)

        self.assertEqual(estimate, (4_000 // 4, DEFAULT_OUTPUT_TOKENS))

    def test_more_output_than_was_asked_for_is_not_expected(self):
        estimator = Estimator()

        self.assertEqual(estimator.before("m", body_bytes=40, max_output_tokens=7), (10, 7))
        self.assertEqual(
            estimator.before("m", body_bytes=40, max_output_tokens=10**6), (10, DEFAULT_OUTPUT_TOKENS)
        )

    def test_something_is_always_expected(self):
        self.assertEqual(Estimator().before("m", body_bytes=0, max_output_tokens=1), (1, 1))

    def test_it_learns_from_what_the_provider_reported(self):
        estimator = Estimator()

        estimator.learn(
            "m", body_bytes=1_000, usage=Usage(input_uncached=100, cache_read=100, output_text=30)
        )

        self.assertEqual(
            estimator.before("m", body_bytes=5_000, max_output_tokens=None), (5_000 * 200 // 1_000, 30)
        )
        self.assertEqual(
            estimator.before("other", body_bytes=4, max_output_tokens=None), (1, DEFAULT_OUTPUT_TOKENS)
        )

    def test_one_odd_call_moves_it_a_little_only(self):
        estimator = Estimator()
        estimator.learn("m", body_bytes=1_000, usage=Usage(input_uncached=250, output_text=100))

        estimator.learn("m", body_bytes=1_000, usage=Usage(input_uncached=250, output_text=1_100))

        self.assertEqual(
            estimator.before("m", body_bytes=1_000, max_output_tokens=None), (250, 100 + 1_000 // 10)
        )

    def test_models_that_callers_make_up_do_not_fill_the_memory(self):
        estimator = Estimator()

        for i in range(2_500):
            estimator.learn(f"made-up-{i}", body_bytes=10, usage=Usage(input_uncached=1))

        self.assertLessEqual(len(estimator._models), 1_000)


class PartialTests(SimpleTestCase):
    def partial(self, estimator, *, seen=None, deltas=0, characters=0):
        return estimator.partial(
            "m", body_bytes=400, seen=seen or Usage(), deltas=deltas, characters=characters
        )

    def test_a_delta_is_a_token_until_more_is_known(self):
        self.assertEqual(
            self.partial(Estimator(), deltas=50, characters=200),
            Usage(input_uncached=400 // 4, output_text=50),
        )

    def test_long_deltas_are_counted_by_their_characters(self):
        estimator = Estimator()

        self.assertEqual(self.partial(estimator, deltas=10, characters=120).output_text, 10)  # 12 each: short
        self.assertEqual(self.partial(estimator, deltas=10, characters=124).output_text, 124 // 4)

    def test_it_learns_how_many_tokens_a_delta_is(self):
        estimator = Estimator()
        estimator.learn(
            "m", body_bytes=400, usage=Usage(input_uncached=80, output_text=60, reasoning=40), deltas=50
        )

        self.assertEqual(
            self.partial(estimator, deltas=10), Usage(input_uncached=80, output_text=10 * 100 // 50)
        )

    def test_what_the_provider_has_said_is_kept(self):
        seen = Usage(input_uncached=10, cache_read=5, cache_write_1h=3, output_text=40)

        self.assertEqual(self.partial(Estimator(), seen=seen, deltas=50), seen._replace(output_text=50))
        self.assertEqual(self.partial(Estimator(), seen=seen, deltas=20), seen)

    def test_nothing_seen_is_no_output(self):
        self.assertEqual(self.partial(Estimator()), Usage(input_uncached=100))


class WholeTests(SimpleTestCase):
    def test_a_text_is_counted_by_its_bytes(self):
        usage = Estimator().whole("m", body_bytes=400, answer_bytes=800, is_text=True)

        self.assertEqual(usage, Usage(input_uncached=400 // 4, output_text=800 // 4))

    def test_vectors_are_no_output(self):
        usage = Estimator().whole("m", body_bytes=400, answer_bytes=80_000, is_text=False)

        self.assertEqual(usage, Usage(input_uncached=100))
