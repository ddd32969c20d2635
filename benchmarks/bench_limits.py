"""Where the test's level does not hold, how far it is off, and what single parts of the test do for it.

    python benchmarks/bench_limits.py            # half an hour; resumes; benchmarks/results/bench_limits.json
    python benchmarks/bench_limits.py --quick    # a few tests of every situation in a minute; writes nothing

In every situation y and z are independent given X, so the share of p-values of at most .05 should be .05. `bench_ci.py` has
the levels of what the test was made for; here are situations at the edge of that. "without" has the same data and one
part of the test switched off. Noise has a variance of .1 beside a signal of variance 1 unless the name says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import _harness
import numpy as np
import pandas as pd
from _ci_data import standardize
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits

from codec import _kernel_ridge, codec_test
from codec._kernel_ridge import Smoother
from codec._nulls import Setting
from codec._residuals import Residuals

RESULT = _harness.RESULTS / "bench_limits.json"
PACKAGES = ["codec", "numpy", "scipy", "numba"]
SEED = 20261130
Data = tuple[Any, Any, Any]
PARTS = {  # of the test, and what switches them off
    "products": (Residuals, "products", lambda *_, **__: []),
    "narrow kernels": (Smoother, "leaves_turns", lambda *_: False),
    "kernels on every column": (_kernel_ridge, "ADDITIVE_COLUMNS", 10**6),
    "ties broken by chance": (Setting, "untied", lambda _, z: z),
}


# ---------------------------------------------------------------------- data
def shared(
    function: Callable[[Any], Any], d: int, n: int, rng: np.random.Generator, *, noise: float = 0.1**0.5
) -> Data:
    """Both have the same function of d normal columns, and noise of this standard deviation."""
    x = rng.normal(size=(n, d))
    y, z = standardize(function(x)) + noise * rng.normal(size=(2, n))
    return y, z, x


def heavy(kind: str, d: int, n: int, rng: np.random.Generator) -> Data:
    """A sum of d heavy-tailed columns in both."""
    x = rng.lognormal(size=(n, d)) if kind == "lognormal" else rng.standard_t(3, (n, d))
    y, z = standardize(x.sum(axis=1)) + 0.1**0.5 * rng.normal(size=(2, n))
    return y, z, x


def season(cycles: int, others: int, n: int, rng: np.random.Generator) -> Data:
    """The same cycles along time in both, with noise of variance 1; time and other columns given."""
    time = np.arange(n)
    y, z = np.sin(2.0 * np.pi * cycles * time / n) + rng.normal(size=(2, n))
    return y, z, np.column_stack([time, rng.normal(size=(n, others))])


def levels(q: int, n: int, rng: np.random.Generator) -> Data:
    """The same function of three columns, each in q equal parts of its own noise."""
    y, z, x = shared(three, 3, n, rng)
    return *(np.searchsorted(np.quantile(v, np.arange(1, q) / q), v).astype(float) for v in (y, z)), x


def classes_beside_numbers(n: int, rng: np.random.Generator) -> Data:
    """Y: a response of four categories and one of numbers, z of four categories; all tell the same function."""
    (a, z, x), b = levels(4, n, rng), rng.normal(size=n)
    number = standardize(three(x)) + 0.1**0.5 * b
    y = pd.DataFrame({"a": pd.Categorical(a.astype(int)), "b": number})
    return y, pd.Series(pd.Categorical(z.astype(int))), x


def mixture(x: Any) -> Any:
    return standardize(np.sin(1.5 * x[:, 0])) + standardize(x[:, 1] * x[:, 2])


def three(x: Any) -> Any:
    return np.sin(1.5 * x[:, 0]) + x[:, 1] + 0.5 * x[:, 2]


def bent(x: Any) -> Any:
    return np.sin(1.5 * x[:, 0]) + np.tanh(2.0 * x[:, 1])


def waves(x: Any) -> Any:
    return np.sin(1.5 * x).sum(axis=1)


@dataclass(frozen=True)
class Situation:
    """A true hypothesis, in words, and how it is tested."""

    name: str
    n: int
    draw: Callable[[int, np.random.Generator], Data]
    options: dict[str, Any] = field(default_factory=dict)
    without: str | None = None

    @property
    def key(self) -> str:
        said = "".join(f", {key}={value}" for key, value in self.options.items())
        return f"{self.name}, n = {self.n}{said}" + (f", without {self.without}" if self.without else "")


SITUATIONS = (
    Situation("a function of two columns", 120, partial(shared, bent, 2)),
    Situation("a function of two columns", 120, partial(shared, bent, 2), {"sequential": True}),
    Situation("a function of two columns", 120, partial(shared, bent, 2), {"method": "crt"}),
    Situation("sines of five columns", 200, partial(shared, waves, 5)),
    Situation("sines of five columns", 200, partial(shared, waves, 5), without="kernels on every column"),
    Situation("sines of ten columns", 200, partial(shared, waves, 10)),
    Situation("sines of ten columns", 200, partial(shared, waves, 10), without="kernels on every column"),
    Situation("sines of twenty columns", 500, partial(shared, waves, 20)),
    Situation("sines of twenty columns", 500, partial(shared, waves, 20), without="kernels on every column"),
    Situation("sines of twenty columns", 200, partial(shared, waves, 20)),
    Situation("a sum of three lognormal columns", 200, partial(heavy, "lognormal", 3)),
    Situation("a sum of five lognormal columns", 200, partial(heavy, "lognormal", 5)),
    Situation("a sum of five columns of Student's t, three degrees of freedom", 200, partial(heavy, "t", 5)),
    Situation("a product of two of twenty columns", 200, partial(shared, lambda x: x[:, 0] * x[:, 1], 20)),
    Situation("a product of two of twenty columns", 200, partial(shared, lambda x: x[:, 0] * x[:, 1], 20), without="products"),
    Situation("a sum of three of twenty columns", 200, partial(shared, lambda x: x[:, :3].sum(axis=1), 20)),
    Situation("a sine of one and a product of two of twenty columns", 120, partial(shared, mixture, 20)),
    Situation("a sine of one and a product of two of twenty columns", 300, partial(shared, mixture, 20)),
    Situation("a product of three of twenty columns", 200, partial(shared, lambda x: x[:, :3].prod(axis=1), 20)),
    *(Situation("a function of three columns, noise a twentieth of it", n, partial(shared, three, 3, noise=0.05)) for n in (40, 100, 200)),
    Situation("ten cycles beside time", 120, partial(season, 10, 0)),
    Situation("ten cycles beside time", 120, partial(season, 10, 0), without="narrow kernels"),
    Situation("five cycles beside time and another column", 120, partial(season, 5, 1)),
    Situation("five cycles beside time and another column", 120, partial(season, 5, 1), without="narrow kernels"),
    Situation("ten cycles beside time and three others", 200, partial(season, 10, 3)),
    Situation("twenty cycles beside time", 120, partial(season, 20, 0)),
    Situation("fifty cycles beside time", 500, partial(season, 50, 0)),
    *(Situation(f"{q} levels of a function of three columns", 200, partial(levels, q), without=w)
      for q in (3, 5) for w in (None, "ties broken by chance")),
    Situation("categories beside numbers, z of categories", 200, classes_beside_numbers),
)  # fmt: skip


# ---------------------------------------------------------------------- measuring
@contextlib.contextmanager
def switched_off(part: str | None) -> Iterator[None]:
    """The test without one of its parts."""
    if part is None:
        yield
    else:
        owner, name, nothing = PARTS[part]
        with patch.object(owner, name, nothing):
            yield


def level(situation: Situation, repetitions: int) -> dict[str, Any]:
    """How often a true hypothesis is rejected at .05, and how often the test warns."""
    rejected = warned = 0
    seed = zlib.crc32(f"{situation.name}/{situation.n}".encode())  # the same data whatever is switched off
    with switched_off(situation.without), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for r in range(repetitions):
            y, z, x = situation.draw(situation.n, np.random.default_rng([SEED, seed, r]))
            rejected += codec_test(y, z, given=x, rng=r, **situation.options).pvalue <= 0.05
            warned += any(issubclass(w.category, UserWarning) for w in caught)
            caught.clear()
    share = binomtest(rejected, repetitions).proportion_ci()
    return {
        "situation": situation.name, "n": situation.n, "options": situation.options, "without": situation.without,
        "repetitions": repetitions, "level": rejected / repetitions, "low": round(share.low, 4),
        "high": round(share.high, 4), "warned": warned / repetitions,
    }  # fmt: skip


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few tests of every situation; writes nothing")
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    repetitions = 3 if options.quick else options.repetitions
    keep = _harness.Kept(None if options.quick else options.output, {"repetitions": repetitions})
    for situation in SITUATIONS:
        row = keep(situation.key, partial(level, situation, repetitions))
        print(f"{row['level']:.3f} [{row['low']:.3f}, {row['high']:.3f}], warned {row['warned']:.2f}", flush=True)
    if not options.quick:
        _harness.write_json({"environment": _harness.environment(PACKAGES)} | keep.content(), options.output)


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
