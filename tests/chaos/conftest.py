"""Fixtures of the fault tests: each has its own provider and its own gateway, for it breaks them."""

import random
from collections.abc import Iterator

import pytest

from tests.chaos.support import scale
from tests.provider import ProviderProcess


@pytest.fixture
def rng() -> random.Random:
    """What a test draws from. Run it again with the CHAOS_SEED that a failure shows."""
    seed = scale.seed()
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def provider() -> Iterator[ProviderProcess]:
    with ProviderProcess() as process:
        yield process
