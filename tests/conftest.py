"""What all tests share: one thread, seeds, hypothesis profiles and the folder of R's answers."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that the tests can `import reference_impl`

DEFAULT_SEED = 42


def _seeds(text: str | None) -> list[int]:
    """Read CODEC_TESTS_SEEDS: unset (one fixed seed), "any" (one random seed), "all" (0-99), "7" or "3-11"."""
    if not text:
        return [DEFAULT_SEED]
    if text == "any":
        return [int(np.random.default_rng().integers(100))]
    if text == "all":
        return list(range(100))
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


@pytest.fixture(params=_seeds(os.environ.get("CODEC_TESTS_SEEDS")), ids=lambda seed: f"seed{seed}")
def global_random_seed(request: pytest.FixtureRequest) -> int:
    """Seed of a test that must pass for every seed from 0 to 99."""
    return request.param


# A build must not fail by chance: CI draws the same examples every time. CODEC_TESTS_EXAMPLES=2000 searches longer.
examples = {"deadline": None, "max_examples": int(os.environ.get("CODEC_TESTS_EXAMPLES", "100"))}
hypothesis.settings.register_profile("local", **examples)
hypothesis.settings.register_profile("ci", derandomize=True, database=None, **examples)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    np.seterr(over="ignore")  # hashes and random bits wrap around on purpose; Python's scalars would warn


@pytest.fixture
def product():
    """Six columns and a y that two of them make together."""
    from markov_cases import product_of_two

    return product_of_two()


@pytest.fixture
def table():
    """Numbers and categories, three of which make y."""
    from markov_cases import mixed_frame

    return mixed_frame()
