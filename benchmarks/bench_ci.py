"""Level, power and CPU time of the conditional-independence test beside its peers, on the same data.

    python benchmarks/bench_ci.py                       # hours; resumes; benchmarks/results/bench_ci.json
    python benchmarks/bench_ci.py --quick               # a few cells in seconds; writes nothing
    python benchmarks/bench_ci.py --data FOLDER         # adds the discrete networks found there
    python benchmarks/bench_ci.py --only power          # one part: level, hard, power, later, network, edge, cpu
    python benchmarks/bench_ci.py --again codec         # this method once more where its commit is not the current one
    python benchmarks/bench_ci.py --columns 4           # cells with four columns of X or more

Every cell is one way to make data, n and the number of columns of X. Its result holds, for each method,
how many p-values were at most .05 and .01 in how many repetitions, with the 95 % Clopper-Pearson
interval, the Kolmogorov-Smirnov p-values of uniformity (nulls), the mean CPU seconds of a test, and the
commit. "uniformity" is two-sided; "too small" is one-sided, against p-values that are stochastically smaller
than uniform, which is what makes a test invalid. Data with few values make copies that equal the observed
statistic; a valid p-value counts them all and is then larger than uniform. "uniformity, ties at random" is of
the same tests with a random share of them counted.
"coefficient" is the test of the published coefficient, statistic="codec". It and the peers run on the first
repetitions of the same data: KCI and RCIT of causal-learn with their defaults,
Fisher's z, and the generalised covariance measure with kernel ridge residuals. A cell is written as soon
as it is complete, and a second run continues where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _ci_data as data
import _harness
import numpy as np
from scipy.stats import binomtest, kstest, norm
from threadpoolctl import threadpool_limits

RESULT = _harness.RESULTS / "bench_ci.json"
PACKAGES = ["codec", "numpy", "scipy", "numba", "scikit-learn", "causal-learn"]
SEED = 20261123


# ---------------------------------------------------------------------- methods
@dataclass(frozen=True)
class Found:
    """A p-value, and the same with equal copies counted by chance (as it is, of other methods)."""

    pvalue: float
    ties_at_random: float


def with_codec(y: Any, z: Any, x: Any, seed: int, statistic: str = "omnibus") -> Found:
    """The omnibus test with its defaults."""
    from codec import codec_test

    result = codec_test(y, z, given=x, statistic=statistic, rng=seed)
    difference = result.null_distribution - result.statistic
    equal = np.abs(difference) <= 1e-9 * max(1.0, abs(result.statistic))
    above = ((difference > 0) & ~equal).sum()
    share = np.random.default_rng([SEED, seed]).random() * (1 + equal.sum())
    return Found(result.pvalue, float((above + share) / (difference.size + 1)))


def _pvalue(test: Callable[[Any, Any, Any, int], float]) -> Callable[[Any, Any, Any, int], Found]:
    def found(y: Any, z: Any, x: Any, seed: int) -> Found:
        value = test(y, z, x, seed)
        return Found(value, value)

    return found


def _causal_learn(name: str) -> Callable[[Any, Any, Any, int], float]:
    def test(y: Any, z: Any, x: Any, seed: int) -> float:  # noqa: ARG001
        from causallearn.utils.cit import CIT

        columns = np.column_stack([z, y, x])
        return float(CIT(columns, name)(0, 1, list(range(2, columns.shape[1]))))

    return test


def with_gcm(y: Any, z: Any, x: Any, seed: int) -> float:  # noqa: ARG001
    """Shah & Peters (2020): normal test of the residuals' products; Gaussian kernel ridge, GCV."""
    x = data.standardize(x)
    size = (x**2).sum(axis=1)
    distances = np.maximum(size[:, None] + size[None, :] - 2.0 * x @ x.T, 0.0)
    gram = np.exp(-distances / np.median(distances[distances > 0]))
    n = len(x)
    centre = np.eye(n) - 1.0 / n
    energy, basis = np.linalg.eigh(centre @ gram @ centre)
    energy = np.maximum(energy, 0.0)
    products = _ridge_residuals(y, energy, basis) * _ridge_residuals(z, energy, basis)
    return float(2.0 * norm.sf(abs(np.sqrt(n) * products.mean() / products.std())))


def _ridge_residuals(v: Any, energy: Any, basis: Any) -> Any:
    v = v - v.mean()
    coefficients, best = basis.T @ v, (np.inf, None)
    for penalty in np.logspace(-3, 2, 11):
        left = penalty / (energy + penalty)
        score = ((left * coefficients) ** 2).sum() / max(left.mean(), 0.05) ** 2
        if score < best[0]:
            best = (score, left)
    return basis @ (best[1] * coefficients)


METHODS: dict[str, Callable[[Any, Any, Any, int], Found]] = {
    "codec": with_codec,
    "coefficient": partial(with_codec, statistic="codec"),
    "kci": _pvalue(_causal_learn("kci")),
    "rcit": _pvalue(_causal_learn("rcit")),
    "fisher-z": _pvalue(_causal_learn("fisherz")),
    "gcm": _pvalue(with_gcm),
}


# ---------------------------------------------------------------------- cells
@dataclass(frozen=True)
class Cell:
    """One table entry: how data are made, and how often each method runs on them."""

    part: str
    name: str
    n: int
    d: int
    repetitions: dict[str, int]

    @property
    def key(self) -> str:
        return f"{self.part}/{self.name}/n={self.n}/d={self.d}"

    def draw(self, repetition: int, networks: dict[str, Any]) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng([SEED, zlib.crc32(self.key.encode()), repetition])
        if self.part == "network":
            return networks[self.name](self.n, rng)
        make = data.alternative if self.part in {"power", "later"} else data.null
        for _ in range(100):  # a binary column may come out constant
            y, z, x = make(self.name, self.n, self.d, rng)
            if y.std() > 0 and z.std() > 0:
                return y, z, x
        raise RuntimeError(f"{self.key} gives constants only")


def all_cells(networks: dict[str, Any], repetitions: int, peers: int) -> Iterator[Cell]:
    """The full table, the most wanted first."""

    def runs(n: int, most: int = repetitions) -> dict[str, int]:
        slow = min(most, peers if n <= 200 else peers // 3)
        few = min(most, peers)
        return {"codec": most, "coefficient": few, "kci": slow, "rcit": few, "fisher-z": most, "gcm": slow}

    def hard(n: int, d: int) -> dict[str, int]:
        """Both tests are near .05 beside one column: more repetitions, and of KCI as many as of codec."""
        return {**runs(n), "codec": 4 * repetitions, "kci": 4 * repetitions} if d == 1 else runs(n)

    for name in data.HARD_NULLS:
        for d in (1, 3, 5):
            yield Cell("hard", name, 200, d, hard(200, d))
    for name in data.GRID_NULLS:
        for d in (1, 3, 5, 10):
            yield Cell("level", name, 200, d, runs(200))
    for part, names in (("power", data.ALTERNATIVES), ("later", data.LATER_ALTERNATIVES)):
        for name in names:
            for d in (1, 3):
                yield Cell(part, name, 200, d, runs(200, min(repetitions, peers)))
    for name in data.OTHER_NULLS:
        yield Cell("level", name, 200, 3, runs(200))
    for name in networks:
        yield Cell("network", name, 500, 0, {"codec": repetitions})
    for name in data.GRID_NULLS:
        for d in (1, 3, 5, 10):
            yield Cell("level", name, 500, d, runs(500))
    for name in data.HARD_NULLS:
        for d in (1, 3, 5):
            yield Cell("hard", name, 500, d, hard(500, d))
    few = {method: max(1, peers // 10) for method in ("kci", "rcit", "gcm")}  # at 1.00 in most cells
    for name, d in data.EDGE_NULLS:
        for n in (200, 500):
            yield Cell("edge", name, n, d, {**runs(n), **few})


def missing(cell: Cell, stored: dict[str, Any], again: str | None, commit: str) -> dict[str, int]:
    """Methods that have too few repetitions in this cell, and the one to run again unless this commit did."""
    known = stored.get("methods", {})
    return {
        method: wanted
        for method, wanted in cell.repetitions.items()
        if known.get(method, {}).get("repetitions", 0) < wanted
        or (method == again and known[method].get("git") != commit)
    }


def run_cell(cell: Cell, networks: dict[str, Any], methods: dict[str, int], commit: str) -> dict[str, Any]:
    """These methods on one cell."""
    result: dict[str, Any] = {"part": cell.part, "name": cell.name, "n": cell.n, "d": cell.d, "methods": {}}
    for method, repetitions in methods.items():
        found, cpu, warned = [], 0.0, 0
        for r in range(repetitions):
            y, z, x = cell.draw(r, networks)
            start = time.process_time()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found.append(METHODS[method](y, z, x, r))
            cpu += time.process_time() - start
            warned += any(w.category is UserWarning for w in caught)
        report = summary(found, cpu, warned, null=cell.part not in {"power", "later"})
        result["methods"][method] = {**report, "git": commit}
    return result


def summary(found: list[Found], cpu: float, warned: int, *, null: bool) -> dict[str, Any]:
    """Rejections with binomial intervals."""
    pvalues = np.array([f.pvalue for f in found])
    n = pvalues.size
    report: dict[str, Any] = {"repetitions": n, "cpu_s": float(f"{cpu / n:.3g}"), "warned": warned}
    for level in (0.05, 0.01):
        hits = int((pvalues <= level).sum())
        interval = binomtest(hits, n).proportion_ci()
        report[f"at {level}"] = {"rate": hits / n, "low": round(interval.low, 4), "high": round(interval.high, 4)}
    if null:
        report["uniformity"] = float(f"{kstest(pvalues, 'uniform').pvalue:.3g}")
        report["too small"] = float(f"{kstest(pvalues, 'uniform', alternative='greater').pvalue:.3g}")
        broken = kstest([f.ties_at_random for f in found], "uniform").pvalue
        report["uniformity, ties at random"] = float(f"{broken:.3g}")
    return report


# ---------------------------------------------------------------------- CPU time
def time_tests(sizes: list[int], kci_sizes: list[int]) -> list[dict[str, Any]]:
    """CPU seconds at d = 3 under a null, medians of several runs; every run on its own data."""
    from codec import codec_test

    rows = []
    for n in sizes:
        runs = 11 if n <= 2000 else 3
        row: dict[str, Any] = {"n": n, "d": 3}
        methods = {
            "codec": lambda y, z, x: codec_test(y, z, given=x, rng=0),
            "codec, sequential": lambda y, z, x: codec_test(y, z, given=x, sequential=True, rng=0),
        }
        if n in kci_sizes:
            methods["kci"] = lambda y, z, x: METHODS["kci"](y, z, x, 0)
        for method, test in methods.items():
            cpu = []
            for r in range(runs if method != "kci" or n < 2000 else 3):
                y, z, x = data.null("snr 2", n, 3, np.random.default_rng([SEED, n, r]))
                start = time.process_time()
                test(y, z, x)
                cpu.append(time.process_time() - start)
            row[method] = float(f"{np.median(cpu):.3g}")
        rows.append(row)
        print(row, flush=True)
    return rows


# ---------------------------------------------------------------------- the script
def load_networks(folder: Path | None) -> dict[str, Any]:
    """Generators for the discrete networks, none without the folder or pgmpy."""
    if folder is None:
        return {}
    return {
        name: data.network_null(folder / "bif" / f"{name}.bif.gz")
        for name in ("child", "insurance", "alarm")
        if (folder / "bif" / f"{name}.bif.gz").exists()
    }


def show(result: dict[str, Any]) -> None:
    """One line a cell."""
    rates = "  ".join(
        f"{method} {m['at 0.05']['rate']:.3f}/{m['at 0.01']['rate']:.3f} ({m['repetitions']}, {m['cpu_s'] * 1e3:.0f} ms"
        + (f", {m['warned']} warned)" if m["warned"] else ")")
        for method, m in result["methods"].items()
    )
    print(f"{result['part']:7s} {result['name']:20s} n={result['n']} d={result['d']}: {rates}", flush=True)


def main() -> None:
    """Run the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cells, few repetitions, nothing written")
    parser.add_argument("--data", type=Path, help="folder with bif/*.bif.gz")
    parser.add_argument("--only", help="one part: hard, level, power, later, network, edge or cpu")
    parser.add_argument("--again", choices=METHODS, help="a method whose cells of other commits are run again")
    parser.add_argument("--columns", type=int, default=0, help="cells with so many columns of X or more")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--peers", type=int, default=300, help="repetitions of the slow methods")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.quick:
        for cell in (
            Cell("level", "snr 2", 100, 1, {"codec": 20, "gcm": 20}),
            Cell("power", "shared noise", 100, 1, {"codec": 20, "gcm": 20}),
        ):
            show(run_cell(cell, {}, cell.repetitions, ""))
        return
    done = json.loads(options.output.read_text()) if options.output.exists() else {"cells": {}}
    networks = load_networks(options.data)
    METHODS["codec"](*data.null("snr 2", 100, 3, np.random.default_rng(0)), 0)  # compile
    commit = _harness.git_hash()
    for cell in all_cells(networks, options.repetitions, options.peers):
        stored = done["cells"].get(cell.key, {})
        methods = missing(cell, stored, options.again, commit)
        if not methods or options.only not in {None, cell.part} or cell.d < options.columns:
            continue
        result = run_cell(cell, networks, methods, commit)
        show(result)
        result["methods"] = {**stored.get("methods", {}), **result["methods"]}
        done["cells"][cell.key] = result
        done["environment"] = _harness.environment(PACKAGES)
        _harness.write_json(done, options.output)
    timed = "cpu" in done and (options.again is None or done["cpu"]["git"] == commit)
    if options.only in {None, "cpu"} and not options.columns and not timed:
        done["cpu"] = {"git": commit, "rows": time_tests([200, 500, 2000, 10_000, 100_000], [200, 500, 2000])}
        _harness.write_json(done, options.output)


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
