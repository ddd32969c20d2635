"""Discrete Bayesian networks with known Markov blankets: data, peers and rows for the benchmark.

    python benchmarks/_blanket_discrete.py --data FOLDER    # resumes; results/bench_blanket_discrete.json

Networks are ``.bif.gz`` files in a folder ``bif``; the true blankets stand in ``markov_blankets.json.gz``
beside it. Every node is a target once; a sample's F1 is the mean over its nodes, a row's the mean over
samples. Peers: HITON-MB and IAMB with the asymptotic G test at level .01 (a test with fewer than five rows per
degree of freedom counts as independence, as is usual), HITON-MB with this package's permutation test, and
hill climbing by BIC over the whole table. Methods that see the whole table at once share it among targets.
"Noise" rows: the features of a network and a y that is one of its columns in random order.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import _harness
import numpy as np
from scipy.stats import binomtest, chi2

from codec import _strata_kernels as kernels
from codec._hiton import blanket_of, discrete_blanket, hiton_mb
from codec._strata import Coded, Outcome, StratifiedTest
from codec._validation import read_table

RESULT = _harness.RESULTS / "bench_blanket_discrete.json"
SEED = 20_000
NETWORKS = ("child", "insurance", "alarm")
TARGETS = {("child", 500): 0.88, ("insurance", 500): 0.66, ("alarm", 500): 0.78}
SAMPLES = {500: 10, 2000: 4}
QUICK_SAMPLES = {200: 1}
FEW_SAMPLES = {"HITON, permutations": 2}
LEVEL = 0.01  # of the peers' tests
NOISE_RUNS = 400

Array = np.ndarray


# ---------------------------------------------------------------------- networks
@dataclass(frozen=True)
class Network:
    """Variables in topological order; ``tables[v]`` has one row of probabilities a configuration of parents."""

    names: tuple[str, ...]
    levels: tuple[int, ...]
    parents: tuple[tuple[int, ...], ...]
    tables: tuple[Array, ...]
    blankets: tuple[frozenset[int], ...]

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Codes of shape (p, n)."""
        codes = np.zeros((len(self.names), n), dtype=np.int64)
        for v, (parents, table) in enumerate(zip(self.parents, self.tables, strict=True)):
            row = np.zeros(n, dtype=np.int64)
            for u in parents:
                row = row * self.levels[u] + codes[u]
            bounds = np.cumsum(table, axis=1)[row]
            u01 = rng.random(n) * bounds[:, -1]
            codes[v] = (u01[:, None] >= bounds[:, :-1]).sum(axis=1)
        return codes


@cache
def load(data_folder: Path, name: str) -> Network:
    """Read one network and its blankets."""
    text = gzip.decompress((data_folder / "bif" / f"{name}.bif.gz").read_bytes()).decode()
    blankets = json.loads(gzip.decompress((data_folder / "markov_blankets.json.gz").read_bytes()))[name]
    values = {
        m[1]: [word.strip() for word in m[2].split(",")]
        for m in re.finditer(r"variable\s+(\S+)\s*\{[^}]*?\{([^}]*)\}", text)
    }
    blocks = re.findall(r"probability\s*\(\s*([^)|\s]+)\s*(?:\|([^)]*))?\)\s*\{(.*?)\}", text, re.DOTALL)
    parents = {v: [u.strip() for u in given.split(",")] if given.strip() else [] for v, given, _ in blocks}
    tables = {v: _table(body, [values[u] for u in parents[v]]) for v, _, body in blocks}
    order = _topological(parents)
    at = {v: k for k, v in enumerate(order)}
    return Network(
        names=tuple(order),
        levels=tuple(len(values[v]) for v in order),
        parents=tuple(tuple(at[u] for u in parents[v]) for v in order),
        tables=tuple(tables[v] for v in order),
        blankets=tuple(frozenset(at[u] for u in blankets["markov_blanket"][v]) for v in order),
    )


def _table(body: str, parent_values: list[list[str]]) -> Array:
    """Rows in the order in which the last parent changes fastest."""
    rows = {}
    for key, numbers in re.findall(r"(table|\([^)]*\))\s*([^;]*);", body):
        at = 0
        if key != "table":
            for word, options in zip(key.strip("()").split(","), parent_values, strict=True):
                at = at * len(options) + options.index(word.strip())
        rows[at] = [float(number) for number in numbers.split(",")]
    return np.array([rows[at] for at in range(len(rows))])


def _topological(parents: dict[str, list[str]]) -> list[str]:
    order: list[str] = []
    while len(order) < len(parents):
        order += [v for v, given in parents.items() if v not in order and all(u in order for u in given)]
    return order


def compact(codes: Array) -> Coded:
    """Levels that a sample does not have are left out."""
    columns = np.stack([np.unique(c, return_inverse=True)[1] for c in codes]).astype(np.int64)
    return Coded(columns, columns.max(axis=1) + 1)


# ---------------------------------------------------------------------- methods: blankets of all nodes
@dataclass
class GTest:
    """Asymptotic G test with degrees of freedom from the strata's own margins."""

    data: Coded
    known: dict[tuple[int, int, tuple[int, ...]], Outcome] = field(default_factory=dict)

    def __call__(self, x: int, y: int, given: Sequence[int], level: float) -> Outcome:  # noqa: ARG002
        key = (min(x, y), max(x, y), tuple(sorted(given)))
        if key not in self.known:
            self.known[key] = self._test(*key)
        return self.known[key]

    def _test(self, x: int, y: int, given: tuple[int, ...]) -> Outcome:
        columns, levels = self.data.columns, self.data.levels
        code, n_strata = kernels.joint_code(columns, levels, np.array(given, dtype=np.int64))
        if self.data.n_rows < 5 * (levels[x] - 1) * (levels[y] - 1) * n_strata:
            return Outcome(1.0, 0.0, "chi-square")
        shape = (n_strata, levels[x], levels[y])
        table = np.zeros(shape)
        np.add.at(table, (code, columns[x], columns[y]), 1.0)
        in_x, in_y = table.sum(axis=2, keepdims=True), table.sum(axis=1, keepdims=True)
        expected = in_x * in_y / table.sum(axis=(1, 2), keepdims=True)
        seen = table > 0
        value = 2.0 * (table[seen] * np.log(table[seen] / expected[seen])).sum()
        freedom = ((np.maximum((in_x > 0).sum(axis=1) - 1, 0)) * np.maximum((in_y > 0).sum(axis=2) - 1, 0)).sum()
        if freedom == 0:
            return Outcome(1.0, 0.0, "constant")
        return Outcome(float(chi2.sf(value, freedom)), float(value / freedom), "chi-square")


def iamb(test: Callable[..., Outcome], y: int, n_variables: int, alpha: float) -> list[int]:
    """Incremental association Markov blanket (Tsamardinos, Aliferis & Statnikov 2003)."""
    members: list[int] = []
    while True:
        rest = [v for v in range(n_variables) if v != y and v not in members]
        outcomes = {v: test(v, y, members, alpha) for v in rest}
        best = max(rest, key=lambda v: outcomes[v].score, default=-1)
        if best < 0 or outcomes[best].pvalue > alpha:
            break
        members.append(best)
    for v in list(members):
        if test(v, y, [u for u in members if u != v], alpha).pvalue > alpha:
            members.remove(v)
    return members


def with_codec(data: Coded, seed: int) -> list[set[int]]:
    """The package's procedure, one call a target."""
    return [codec_blanket(data.columns, y, [seed, y]) for y in range(len(data.levels))]


def codec_blanket(columns: Array, y: int, seed: Sequence[int]) -> set[int]:
    others = [v for v in range(len(columns)) if v != y]
    features, response = read_table(columns[others].T, "X"), read_table(columns[y], "y")
    found = discrete_blanket(features, response, rng=np.random.default_rng(seed))
    return {others[j] for j in found.members}


def with_hiton_g(data: Coded, seed: int) -> list[set[int]]:  # noqa: ARG001
    p, test = len(data.levels), GTest(data)
    return [set(hiton_mb(test, y, p, LEVEL)) for y in range(p)]


def with_iamb_g(data: Coded, seed: int) -> list[set[int]]:  # noqa: ARG001
    p, test = len(data.levels), GTest(data)
    return [set(iamb(test, y, p, LEVEL)) for y in range(p)]


def with_hiton_permutations(data: Coded, seed: int) -> list[set[int]]:
    p, test = len(data.levels), StratifiedTest(data, seed)
    return [set(hiton_mb(test, y, p, LEVEL)) for y in range(p)]


def with_bic(data: Coded, seed: int) -> list[set[int]]:  # noqa: ARG001
    p = len(data.levels)
    parent = kernels.climb(data.columns, data.levels, ~np.eye(p, dtype=bool), 5, kernels.BIC)
    return [set(np.flatnonzero(blanket_of(parent, y)).tolist()) for y in range(p)]


METHODS = {
    "codec": with_codec,
    "HITON, G": with_hiton_g,
    "IAMB, G": with_iamb_g,
    "HITON, permutations": with_hiton_permutations,
    "hill climbing, BIC": with_bic,
}


# ---------------------------------------------------------------------- rows
def compare_sets(found: set[int], truth: frozenset[int]) -> dict[str, float]:
    """F1, precision, recall, exactness of one blanket; both empty: all 1."""
    common = len(found & truth)
    return {
        "f1": 2 * common / (len(found) + len(truth)) if found or truth else 1.0,
        "precision": common / len(found) if found else float(not truth),
        "recall": common / len(truth) if truth else 1.0,
        "exact": float(found == truth),
    }


def score(network: Network, method: str, n: int, seed: int) -> list[dict[str, float]]:
    """One sample, every node a target."""
    data = compact(network.sample(n, np.random.default_rng([seed, n])))
    began = time.process_time()
    found = METHODS[method](data, seed)
    seconds = (time.process_time() - began) / len(found)
    return [{**compare_sets(f, t), "cpu_s": seconds} for f, t in zip(found, network.blankets, strict=True)]


def summary(samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over samples, the standard error of F1, and F1 of each sample."""
    f1 = [s["f1"] for s in samples]
    error = float(np.std(f1, ddof=1) / np.sqrt(len(f1))) if len(f1) > 1 else None
    means = {key: round(float(np.mean([s[key] for s in samples])), 4) for key in samples[0]}
    return {**means, "f1_error": error and round(error, 4), "samples": len(f1), "f1_samples": [round(v, 4) for v in f1]}


def rows(data_folder: Path, quick: bool = False, seeds: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Every network, number of rows and method."""
    return list(iterate(data_folder, quick, seeds, {}))


def iterate(
    data_folder: Path, quick: bool, seeds: Sequence[int] | None, stored: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows one by one; stored ones are not computed again."""
    for name in NETWORKS[:1] if quick else NETWORKS:
        network = load(data_folder, name)
        for n, count in (QUICK_SAMPLES if quick else SAMPLES).items():
            for method in METHODS:
                key = f"{name}, n = {n}, {method}"
                if key in stored:
                    yield stored[key]
                    continue
                used = (seeds or range(SEED, SEED + count))[: FEW_SAMPLES.get(method, count)]
                nodes = [score(network, method, n, seed) for seed in used]
                samples = [{k: float(np.mean([node[k] for node in s])) for k in s[0]} for s in nodes]
                yield {"row": key, "network": name, "n": n, "method": method, "target": TARGETS.get((name, n)),
                       **summary(samples)}  # fmt: skip
    if not quick:
        key = f"child, n = 500, y in random order, {NOISE_RUNS} runs"
        yield stored[key] if key in stored else {"row": key, **noise(data_folder)}


def noise(data_folder: Path) -> dict[str, Any]:
    """How often anything is selected for a y that depends on nothing."""
    network, hits = load(data_folder, "child"), 0
    for seed in range(SEED, SEED + NOISE_RUNS):
        rng = np.random.default_rng([seed, 500])
        columns = compact(network.sample(500, rng)).columns
        y = seed % len(columns)
        columns[y] = rng.permutation(columns[y])
        hits += bool(codec_blanket(columns, y, [seed, y]))
    interval = binomtest(hits, NOISE_RUNS).proportion_ci()
    return {"method": "codec", "non_empty": hits / NOISE_RUNS, "interval": [round(v, 4) for v in interval],
            "target": 0.05}  # fmt: skip


def run(data_folder: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """Rows by name; those stored, here or in this benchmark's own file, are kept."""
    if RESULT.exists():
        stored = {**json.loads(RESULT.read_text())["rows"], **stored}
    return {row["row"]: row for row in iterate(data_folder, False, None, stored)}


def main() -> None:
    """Compute what is missing, row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="one small sample; writes nothing")
    options = parser.parse_args()
    stored = json.loads(RESULT.read_text())["rows"] if RESULT.exists() and not options.quick else {}
    found: dict[str, Any] = {}
    for row in iterate(options.data, options.quick, None, stored):
        found[row["row"]] = row
        print(row["row"], {k: row.get(k) for k in ("f1", "f1_error", "precision", "recall", "cpu_s", "non_empty")})
        if not options.quick:
            packages = ["codec", "numpy", "scipy", "numba"]
            report = {"benchmark": "bench_blanket_discrete", "environment": _harness.environment(packages)}
            _harness.write_json({**report, "rows": found}, RESULT)


if __name__ == "__main__":
    main()
