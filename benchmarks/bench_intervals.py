"""Coverage of the 95 % intervals for T, beside a large sample's T.

    python benchmarks/bench_intervals.py            # a quarter of an hour; resumes; benchmarks/results/bench_intervals.json
    python benchmarks/bench_intervals.py --quick    # one cell in seconds; writes nothing

A cell is a model, a method and a number of rows: how many of 1,000 intervals hold T, with the 95 %
Clopper-Pearson interval of that share; their mean width; how far the coefficient's mean is from T, in its standard deviations. T is
the mean of five samples of 200,000 rows. The analytic interval needs one column of z, no X and no ties.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _harness
import numpy as np
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits

from codec import codec, codec_interval

RESULT = _harness.RESULTS / "bench_intervals.json"
PACKAGES = ["codec", "numpy", "scipy", "numba"]
SEED = 20261128
LEVEL = 0.95
WANTED = (0.92, 0.97)
SIZES = {"analytic": (500, 1000, 2000), "bootstrap": (100, 400, 1600)}
Data = tuple[Any, Any, Any]  # y, z, X or None


# ---------------------------------------------------------------------- data
def line(n: int, rng: np.random.Generator) -> Data:
    z = rng.standard_normal(n)
    return z + rng.standard_normal(n), z, None


def tight(n: int, rng: np.random.Generator) -> Data:
    z = rng.standard_normal(n)
    return z + 0.05 * rng.standard_normal(n), z, None


def wave(n: int, rng: np.random.Generator) -> Data:
    z = rng.uniform(-1.0, 1.0, n)
    return np.sin(4.0 * z) + 0.3 * rng.standard_normal(n), z, None


def spread(n: int, rng: np.random.Generator) -> Data:
    z = rng.uniform(-1.0, 1.0, n)
    return (0.2 + np.abs(z)) * rng.standard_normal(n) + np.abs(z), z, None


def product(n: int, rng: np.random.Generator) -> Data:
    z = rng.standard_normal((n, 2))
    return z[:, 0] * z[:, 1] + 0.5 * rng.standard_normal(n), z, None


def given_one(n: int, rng: np.random.Generator) -> Data:
    x, z = rng.standard_normal((2, n))
    return x + z + rng.standard_normal(n), z, x


def five_values(n: int, rng: np.random.Generator) -> Data:
    z = rng.integers(0, 5, n)
    return z + 2.0 * rng.standard_normal(n), z.astype(float), None


def counts(n: int, rng: np.random.Generator) -> Data:
    x, z = rng.standard_normal((2, n))
    return rng.poisson(np.exp(0.7 * x + 0.7 * z)).astype(float), z, x


MODELS: dict[str, tuple[Callable[[int, np.random.Generator], Data], str, tuple[str, ...]]] = {
    "line": (line, "z + noise", ("analytic", "bootstrap")),
    "tight": (tight, "z + noise of sd .05", ("analytic",)),
    "wave": (wave, "sin 4z + noise", ("analytic", "bootstrap")),
    "spread": (spread, "|z| + (.2 + |z|) noise", ("analytic", "bootstrap")),
    "product": (product, "z1 z2 + noise", ("bootstrap",)),
    "five values": (five_values, "z of five values, + noise", ("bootstrap",)),
    "given one": (given_one, "x + z + noise, given x", ("bootstrap",)),
    "counts": (counts, "Poisson counts of x + z, given x", ("bootstrap",)),
}


# ---------------------------------------------------------------------- measuring
def coefficient(data: Data) -> float:
    y, z, x = data
    return float(codec(y, z) if x is None else codec(y, z, x))


def truth(name: str, n: int = 200_000) -> float:
    """T, from large samples of the model."""
    seeds = [np.random.default_rng([SEED, zlib.crc32(name.encode()), 10**6 + k]) for k in range(5)]
    return float(np.mean([coefficient(MODELS[name][0](n, rng)) for rng in seeds]))


def cell(name: str, method: str, n: int, repetitions: int, value: float) -> dict[str, Any]:
    """Intervals of one model, method and size."""
    ends, values = [], []
    for r in range(repetitions):
        y, z, x = data = MODELS[name][0](n, np.random.default_rng([SEED, zlib.crc32(name.encode()), n, r]))
        ends.append(codec_interval(y, z, x, confidence_level=LEVEL, method=method, rng=r))
        values.append(coefficient(data))
    low, high = np.array(ends).T
    hits = int(((low <= value) & (value <= high)).sum())
    share = binomtest(hits, repetitions).proportion_ci()
    return {
        "model": name, "method": method, "n": n, "T": round(value, 4), "repetitions": repetitions,
        "coverage": hits / repetitions, "low": round(share.low, 4), "high": round(share.high, 4),
        "width": float(f"{(high - low).mean():.3g}"),
        "bias": float(f"{(np.mean(values) - value) / np.std(values):.2g}"),
    }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['method']:9s} {row['model']:12s} n={row['n']}: {row['coverage']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        f", width {row['width']}, bias {row['bias']} sd",
        flush=True,
    )


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one cell in seconds; writes nothing")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.quick:
        show(cell("line", "analytic", 500, 20, truth("line", 5_000)))
        return
    keep = _harness.Kept(options.output, {"repetitions": options.repetitions})
    for name, (_, _, methods) in MODELS.items():
        value = keep(f"T/{name}", partial(truth, name))
        for method in methods:
            for n in SIZES[method]:
                show(keep(f"{method}/{name}/{n}", partial(cell, name, method, n, options.repetitions, value)))
    _harness.write_json({"environment": _harness.environment(PACKAGES)} | keep.content(), options.output)


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
