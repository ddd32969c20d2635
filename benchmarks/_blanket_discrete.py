"""Discrete Bayesian networks with known Markov blankets: data, peers and rows for the benchmark.

    python benchmarks/_blanket_discrete.py --data FOLDER    # resumes; benchmarks/results/bench_blanket_discrete.json
    python benchmarks/_blanket_discrete.py --quick          # one small sample of one network; writes nothing

Networks are ``.bif.gz`` files in a folder ``bif``. Every node is a target once; a sample's F1 is the mean
over its nodes, a row's the mean over samples. Peers: HITON-MB and IAMB with the asymptotic G test at level .01
(a test with fewer than five rows per degree of freedom counts as independence, as is usual), HITON-MB with
this package's permutation test, and hill climbing by BIC over the whole table, which serves all targets,
our own, variables in random order, and pgmpy's where it is installed, whose order changes from run to run.
The row "noise": the features of a network and a y that is one of its columns in random order.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import _harness
import numpy as np
import pandas as pd
from scipy.stats import binomtest, chi2
from threadpoolctl import threadpool_limits

from codec import MarkovBlanketSelector
from codec import _strata_kernels as kernels
from codec._hiton import blanket_of, hiton_mb
from codec._strata import Coded, Outcome, StratifiedTest
from codec.datasets import make_discrete_network

RESULT = _harness.RESULTS / "bench_blanket_discrete.json"
PACKAGES = ["codec", "numpy", "scipy", "numba", "scikit-learn", "pandas", "pgmpy"]
SEED = 30_000
NETWORKS = ("child", "insurance", "alarm")
TARGETS = {("child", 500): 0.88, ("insurance", 500): 0.66, ("alarm", 500): 0.78}
SAMPLES = {500: 10, 2000: 4}
QUICK_SAMPLES = {200: 1}
FEW_SAMPLES = {"HITON, permutations": 2, "hill climbing, BIC, pgmpy": 4}
LEVEL = 0.01  # of the peers' tests
NOISE_RUNS = 400

Array = np.ndarray


# ---------------------------------------------------------------------- networks
@cache
def load(data_folder: Path, name: str) -> dict[str, tuple[list[str], Array]]:
    """Parents and table of every node, as :func:`codec.datasets.make_discrete_network` takes them."""
    text = gzip.decompress((data_folder / "bif" / f"{name}.bif.gz").read_bytes()).decode()
    values = {
        m[1]: [word.strip() for word in m[2].split(",")]
        for m in re.finditer(r"variable\s+(\S+)\s*\{[^}]*?\{([^}]*)\}", text)
    }
    nodes = {}
    for v, given, body in re.findall(r"probability\s*\(\s*([^)|\s]+)\s*(?:\|([^)]*))?\)\s*\{(.*?)\}", text, re.DOTALL):
        parents = [u.strip() for u in given.split(",")] if given.strip() else []
        table = _table(body, [values[u] for u in parents])
        nodes[v] = (parents, table.reshape(*(len(values[u]) for u in parents), len(values[v])))
    return nodes


def sample(nodes: dict[str, tuple[list[str], Array]], n: int, seed: int) -> tuple[Coded, tuple[tuple[int, ...], ...]]:
    """Codes of all nodes, levels that do not occur left out, and the true blankets."""
    network = make_discrete_network(nodes, n, random_state=seed).network
    assert network is not None
    columns = np.stack([network.data[v].cat.codes.to_numpy() for v in network.data]).astype(np.int64)
    return compact(columns), network.blankets


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
    """The package's selector, one fit a target."""
    return [codec_blanket(data.columns, y, seed) for y in range(len(data.levels))]


def codec_blanket(columns: Array, y: int, seed: int) -> set[int]:
    if np.ptp(columns[y]) == 0:
        return set()
    others = [v for v in range(len(columns)) if v != y]
    selector = MarkovBlanketSelector(random_state=np.random.SeedSequence([seed, y]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty blanket
        return {others[j] for j in selector.fit(columns[others].T, columns[y]).blanket_}


def with_hiton_g(data: Coded, seed: int) -> list[set[int]]:  # noqa: ARG001
    p, test = len(data.levels), GTest(data)
    return [set(hiton_mb(test, y, p, LEVEL)) for y in range(p)]


def with_iamb_g(data: Coded, seed: int) -> list[set[int]]:  # noqa: ARG001
    p, test = len(data.levels), GTest(data)
    return [set(iamb(test, y, p, LEVEL)) for y in range(p)]


def with_hiton_permutations(data: Coded, seed: int) -> list[set[int]]:
    p, test = len(data.levels), StratifiedTest(data, seed)
    return [set(hiton_mb(test, y, p, LEVEL)) for y in range(p)]


def with_bic(data: Coded, seed: int) -> list[set[int]]:
    p = len(data.levels)
    order = np.random.default_rng(seed).permutation(p)
    nothing = np.zeros((p, p), dtype=bool)
    parent = kernels.climb(data.columns[order], data.levels[order], ~np.eye(p, dtype=bool), 5, kernels.BIC, nothing)
    place = np.argsort(order)
    return [set(order[blanket_of(parent, place[y])].tolist()) for y in range(p)]


def with_pgmpy(data: Coded, seed: int) -> list[set[int]]:  # noqa: ARG001
    from pgmpy.estimators import BIC, HillClimbSearch

    frame = pd.DataFrame({str(v): pd.Categorical(codes) for v, codes in enumerate(data.columns)})
    graph = HillClimbSearch(frame).estimate(scoring_method=BIC(frame), show_progress=False)
    return [{int(u) for u in graph.get_markov_blanket(str(v))} for v in range(len(data.levels))]


METHODS = {
    "codec": with_codec,
    "HITON, G": with_hiton_g,
    "IAMB, G": with_iamb_g,
    "HITON, permutations": with_hiton_permutations,
    "hill climbing, BIC": with_bic,
    "hill climbing, BIC, pgmpy": with_pgmpy,
}
if importlib.util.find_spec("pgmpy") is None:
    del METHODS["hill climbing, BIC, pgmpy"]


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


def score(nodes: dict[str, tuple[list[str], Array]], method: str, n: int, seed: int) -> dict[str, float]:
    """One sample, every node a target: means over nodes and CPU seconds a target."""
    data, blankets = sample(nodes, n, seed)
    began = time.process_time()
    found = METHODS[method](data, seed)
    seconds = (time.process_time() - began) / len(found)
    nodes_scores = [compare_sets(f, frozenset(t)) for f, t in zip(found, blankets, strict=True)]
    means = {key: float(np.mean([each[key] for each in nodes_scores])) for key in nodes_scores[0]}
    return {"seed": seed, **{key: round(value, 4) for key, value in means.items()}, "cpu_s": float(f"{seconds:.3g}")}


def summary(samples: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean over samples and its standard error of each figure, and the mean CPU seconds a target."""
    report: dict[str, Any] = {"samples": len(samples)}
    for key in ("f1", "precision", "recall", "exact"):
        values = np.array([each[key] for each in samples])
        error = round(float(values.std(ddof=1) / np.sqrt(values.size)), 4) if values.size > 1 else None
        report[key] = [round(float(values.mean()), 4), error]
    report["cpu_s"] = float(f"{np.mean([each['cpu_s'] for each in samples]):.3g}")
    return report


def cells(quick: bool) -> Iterator[tuple[str, int, str, int]]:
    """Network, rows, method, number of samples."""
    for name in NETWORKS[:1] if quick else NETWORKS:
        for n, count in (QUICK_SAMPLES if quick else SAMPLES).items():
            for method in METHODS:
                yield name, n, method, min(count, FEW_SAMPLES.get(method, count))


def noise(data_folder: Path, seed: int) -> bool:
    """Whether anything is selected for a y that depends on nothing: a node in random order."""
    rng = np.random.default_rng([seed, 500])
    columns = sample(load(data_folder, "child"), 500, seed)[0].columns.copy()
    y = seed % len(columns)
    columns[y] = rng.permutation(columns[y])
    return bool(codec_blanket(columns, y, seed))


def run(data_folder: Path, stored: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    """Compute what is missing in this benchmark's own file, storing every sample; return all rows.

    Parameters
    ----------
    data_folder : Path
        With ``bif/``.
    stored : dict
        Rows kept elsewhere; those in this benchmark's file go before.
    quick : bool
        One small sample, nothing read or written.
    """
    kept = json.loads(RESULT.read_text())["rows"] if RESULT.exists() and not quick else {}
    rows: dict[str, Any] = {} if quick else {**stored, **kept}
    for name, n, method, count in cells(quick):
        key = f"{name}, n = {n}, {method}"
        row = rows.setdefault(
            key, {"network": name, "n": n, "method": method, "target": TARGETS.get((name, n)), "runs": []}
        )
        missing = range(len(row["runs"]), count)
        for i in missing:
            row["runs"].append(score(load(data_folder, name), method, n, SEED + i))
            row["summary"] = summary(row["runs"])
            save(rows, quick)
        if len(missing):
            print(key, row["summary"], flush=True)
    if not quick:
        add_noise(rows, data_folder)
    return rows


def add_noise(rows: dict[str, Any], data_folder: Path) -> None:
    row = rows.setdefault("noise", {"method": "codec", "network": "child", "n": 500, "target": 0.05, "hits": []})
    for i in range(len(row["hits"]), NOISE_RUNS):
        row["hits"].append(int(noise(data_folder, SEED + i)))
        interval = binomtest(sum(row["hits"]), len(row["hits"])).proportion_ci()
        row["summary"] = {
            "runs": len(row["hits"]),
            "non-empty": [round(v, 4) for v in (np.mean(row["hits"]), interval.low, interval.high)],
        }
        if i % 20 == 19:
            save(rows, False)


def save(rows: dict[str, Any], quick: bool) -> None:
    if not quick:
        report = {"benchmark": "bench_blanket_discrete", "environment": _harness.environment(PACKAGES)}
        _harness.write_json({**report, "rows": rows}, RESULT)


def main() -> None:
    """Compute what is missing, sample by sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="one small sample; writes nothing")
    options = parser.parse_args()
    rows = run(options.data, {}, options.quick)
    for key, row in rows.items():
        print(f"{key:45s}", row["summary"])


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
