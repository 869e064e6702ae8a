"""The order of trial: priority, then weight; who failed comes last for a while."""

import random
from collections import Counter
from types import SimpleNamespace
from unittest import mock

from django.test import SimpleTestCase

from proxy.routing import Router


def target(number: int, *, priority: int = 0, weight: int = 1) -> SimpleNamespace:
    return SimpleNamespace(deployment_id=number, priority=priority, weight=weight)


def numbers(targets) -> list[int]:
    return [target.deployment_id for target in targets]


class OrderTests(SimpleTestCase):
    def test_the_lower_priority_number_comes_first(self):
        targets = (target(1, priority=2), target(2, priority=0), target(3, priority=1))

        orders = {tuple(numbers(Router(cooldown_s=5).order(targets))) for _ in range(20)}

        self.assertEqual(orders, {(2, 3, 1)})

    def test_among_equals_the_first_is_drawn_by_weight(self):
        random.seed(7)
        router = Router(cooldown_s=5)
        targets = (target(1, weight=1), target(2, weight=3))

        first = Counter(numbers(router.order(targets))[0] for _ in range(4_000))

        self.assertAlmostEqual(first[2] / 4_000, 3 / (1 + 3), delta=0.03)

    def test_everybody_is_in_it_once(self):
        targets = tuple(target(i, priority=i % 2) for i in range(6))

        order = Router(cooldown_s=5).order(targets)

        self.assertEqual(sorted(numbers(order)), [0, 1, 2, 3, 4, 5])


class CooldownTests(SimpleTestCase):
    def setUp(self):
        self.now = 1_000.0
        patch = mock.patch("proxy.routing.time.monotonic", lambda: self.now)
        patch.start()
        self.addCleanup(patch.stop)
        self.router = Router(cooldown_s=5)
        self.targets = (target(1, priority=0), target(2, priority=1))

    def test_who_failed_comes_last_until_it_has_cooled_down(self):
        self.router.failed(self.targets[0])

        self.assertEqual(numbers(self.router.order(self.targets)), [2, 1])
        self.now += 4.99
        self.assertEqual(numbers(self.router.order(self.targets)), [2, 1])
        self.now += 0.01
        self.assertEqual(numbers(self.router.order(self.targets)), [1, 2])

    def test_who_succeeds_is_forgiven_at_once(self):
        self.router.failed(self.targets[0])

        self.router.succeeded(self.targets[0])

        self.assertEqual(numbers(self.router.order(self.targets)), [1, 2])

    def test_when_all_failed_all_are_still_tried(self):
        for one in self.targets:
            self.router.failed(one)

        self.assertEqual(numbers(self.router.order(self.targets)), [1, 2])
        self.assertEqual(numbers(self.router.order(self.targets[:1])), [1])
