"""
Which deployment answers: priority, then weight; failures cool a deployment down.

A deployment that just failed is tried last for a few seconds, never left out: one
provider failure must not take down the only deployment of a model. What may be
retried at all is decided in `calls.py` (only what is provably unbilled).
"""

import random
import time

from proxy.catalog import Target


class Router:
    """Orders a model's targets for one call. One per web process."""

    def __init__(self, *, cooldown_s: float) -> None:
        self._cooldown_s = cooldown_s
        self._failed_at: dict[int, float] = {}

    def order(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """Return the targets in the order of trial: healthy first, by priority, by weighted draw."""
        if len(targets) == 1:
            return targets
        now = time.monotonic()
        return tuple(sorted(targets, key=lambda target: self._rank(target, now)))

    def failed(self, target: Target) -> None:
        self._failed_at[target.deployment_id] = time.monotonic()

    def succeeded(self, target: Target) -> None:
        if self._failed_at:
            self._failed_at.pop(target.deployment_id, None)

    def failed_s_ago(self, deployment_id: int) -> float | None:
        """Return how long ago the deployment last failed; None: never, or it has succeeded since."""
        failed_at = self._failed_at.get(deployment_id)
        return None if failed_at is None else time.monotonic() - failed_at

    def _rank(self, target: Target, now: float) -> tuple[bool, int, float]:
        failed_at = self._failed_at.get(target.deployment_id)
        is_cooling = failed_at is not None and now - failed_at < self._cooldown_s
        # Efraimidis and Spirakis: the largest u^(1/weight) draws by weight, without replacement.
        draw = random.random() ** (1 / target.weight)  # noqa: S311  not for secrets
        return is_cooling, target.priority, -draw
