"""Blankets of CelebA's 40 binary attributes: the calibrated search, FOCI and L-FOCI; CODEC beside L-CODEC.

    python benchmarks/bench_celeba.py --data FOLDER     # resumes; writes benchmarks/results/bench_celeba.json
    python benchmarks/bench_celeba.py --quick           # a made table of 8 binary columns in seconds; writes nothing
    python benchmarks/bench_celeba.py --show            # what is stored

The experiment of Mehta, Pal, Singh & Ravi (CVPR 2022): every attribute is the response once, the other 39
are features, n = 20,000 rows drawn at random. They report 1,100-2,150 s an attribute for CODEC with ties broken
and less than 500 s for L-CODEC, on their machine. FOLDER holds ``celeba_attr.npz``: ``X``, the attributes as
bits, eight to a byte, and ``names``.

Parts:

* ``blankets``: every attribute by ``MarkovBlanketSelector`` with each method; L-FOCI with noise .001.
* ``values``: T(y, z) of every pair of attributes, CODEC and L-CODEC with noise 1e-5 ... 1e-1. Noise 0 is CODEC.
* ``noise``: L-FOCI with the other noise levels and with noise on the features only, on four attributes.
* ``all rows``: one attribute on the whole table.

Nobody knows the true blankets. What a selection is worth is measured on 20,000 other rows: the log loss of
one fixed model (gradient boosting) that sees the selected columns only; ``all columns`` is the same model on
all 39. Agreement of two selections: columns in both over columns in either (Jaccard). CPU seconds of one
thread. Rows are stored as they come.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import _harness
import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from codec import MarkovBlanketSelector, codec, lcodec
from codec.datasets import make_discrete_network

RESULT = _harness.RESULTS / "bench_celeba.json"
PACKAGES = ["codec", "numpy", "scipy", "numba", "scikit-learn", "pandas"]
SEED = 40_000
ROWS = 20_000
HELD_OUT = 20_000
NOISE_LEVELS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
METHODS: dict[str, dict[str, Any]] = {
    "auto": {"method": "auto"},
    "foci": {"method": "foci"},
    **{f"lfoci, noise {noise:g}": {"method": "lfoci", "noise": noise} for noise in NOISE_LEVELS},
    "lfoci, noise 0.001, y as it is": {"method": "lfoci", "nominal_y": True},
}
BLANKETS = ("auto", "foci", "lfoci, noise 0.001")
NOISE_EVERY = 10  # every tenth attribute gets all noise levels
WHOLE = "Smiling"
PARTS = ("blankets", "values", "noise", "all rows")


# ---------------------------------------------------------------------- data
@dataclass(frozen=True)
class Attributes:
    """Rows of binary attributes: those that are searched and those held out."""

    names: tuple[str, ...]
    search: np.ndarray
    held_out: np.ndarray

    def split(self, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features and response of both parts."""
        parts = (self.search, self.held_out)
        return tuple(v for X in parts for v in (np.delete(X, target, axis=1), X[:, target]))  # type: ignore[return-value]


def read(folder: Path, n: int | None) -> Attributes:
    """Draw n random rows and as many others as are held out; None: all rows."""
    with np.load(folder / "celeba_attr.npz") as stored:
        names = tuple(str(name) for name in stored["names"])
        X = np.unpackbits(stored["X"], axis=1)[:, : len(names)].astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(X))
    if n is None:
        return Attributes(names, X, X[:0])
    return Attributes(names, X[order[:n]], X[order[n : n + HELD_OUT]])


def made(n: int) -> Attributes:
    """A chain a -> b -> c -> d, two causes e, f of g, and h alone."""
    step = [[0.85, 0.15], [0.2, 0.8]]
    nodes = {
        "a": ([], [0.5, 0.5]), "b": (["a"], step), "c": (["b"], step), "d": (["c"], step),
        "e": ([], [0.6, 0.4]), "f": ([], [0.5, 0.5]),
        "g": (["e", "f"], [[[0.95, 0.05], [0.3, 0.7]], [[0.3, 0.7], [0.05, 0.95]]]), "h": ([], [0.7, 0.3]),
    }  # fmt: skip
    network = make_discrete_network(nodes, 2 * n, random_state=SEED).network
    assert network is not None
    X = np.column_stack([network.data[name].cat.codes for name in network.data]).astype(np.int64)
    return Attributes(tuple(network.data), X[:n], X[n:])


# ---------------------------------------------------------------------- one row
def loss(data: Attributes, target: int, columns: Sequence[int]) -> float:
    """Log loss on the rows held out of a model that sees these columns."""
    X, y, X_new, y_new = data.split(target)
    if not len(columns):
        return float(log_loss(y_new, np.full(len(y_new), y.mean()), labels=[0, 1]))
    model = HistGradientBoostingClassifier(max_iter=60, early_stopping=False, random_state=0)
    return float(log_loss(y_new, model.fit(X[:, columns], y).predict_proba(X_new[:, columns])[:, 1], labels=[0, 1]))


def select(data: Attributes, target: int, method: str) -> dict[str, Any]:
    """One selection: names in order, CPU seconds, T of all of them together for FOCI, the loss."""
    X, y, *_ = data.split(target)
    others = [name for v, name in enumerate(data.names) if v != target]
    row: dict[str, Any] = {"attribute": data.names[target], "n": len(X), "method": method}
    columns: Sequence[int] = range(len(others))
    if method != "all columns":
        selector = MarkovBlanketSelector(**METHODS[method], random_state=SEED)
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty selection
            selector.fit(X, y)
        row["cpu_s"] = float(f"{time.process_time() - began:.4g}")
        columns = selector.blanket_.tolist()
        row["selected"] = [others[j] for j in columns]
        if method != "auto":
            row["T"] = round(float(selector.path_.cumulative[-1]), 4) if columns else 0.0
    if len(data.held_out):
        row["loss"] = round(loss(data, target, columns), 5)
    return row


def values(data: Attributes, target: int) -> dict[str, Any]:
    """T(y, z) for all z: CODEC, L-CODEC with every noise level, and with noise on z only."""
    X, y, *_ = data.split(target)
    exact, seconds = timed(lambda z: codec(y, z), X)
    row: dict[str, Any] = {"attribute": data.names[target], "codec": {"T": exact, "cpu_s": seconds}}
    for noise in NOISE_LEVELS:
        found, seconds = timed(lambda z, noise=noise: lcodec(y, z, noise=noise, rng=SEED), X)
        row[f"lcodec, noise {noise:g}"] = {"T": found, "cpu_s": seconds}
    found, seconds = timed(lambda z: lcodec(y, z, nominal_y=True, rng=SEED), X)
    row["lcodec, noise 0.001, y as it is"] = {"T": found, "cpu_s": seconds}
    return row


def timed(measure: Any, X: np.ndarray) -> tuple[list[float], float]:
    began = time.process_time()
    found = [round(float(measure(z)), 5) for z in X.T]
    return found, float(f"{time.process_time() - began:.3g}")


# ---------------------------------------------------------------------- what is asked for
def cells(names: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Part, method, attribute; the cheap ones first."""
    everyone = range(len(names))
    if "blankets" in parts:
        for method in ("auto", "all columns"):
            yield from (("blankets", method, target) for target in everyone)
    if "values" in parts:
        yield from (("values", "values", target) for target in everyone)
    if "all rows" in parts:
        whole = names.index(WHOLE) if WHOLE in names else 0
        yield from (("all rows", method, whole) for method in BLANKETS)
    if "blankets" in parts:
        mixed = np.random.default_rng(SEED).permutation(len(names)).tolist()  # a part of them is a fair sample
        yield from (("blankets", method, target) for target in mixed for method in BLANKETS[1:])
    if "noise" in parts:
        for target in everyone[::NOISE_EVERY]:
            yield from (("noise", method, target) for method in METHODS if method != "auto")


def compute(data: Attributes, method: str, target: int) -> dict[str, Any]:
    return values(data, target) if method == "values" else select(data, target, method)


# ---------------------------------------------------------------------- summaries
def jaccard(first: Sequence[str], second: Sequence[str]) -> float:
    """Columns in both over columns in either; 1 where both are empty."""
    a, b = set(first), set(second)
    return len(a & b) / len(a | b) if a | b else 1.0


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every method on its attributes, all methods on the attributes that they have in common, and the values."""
    chosen = {(row["attribute"], row["method"]): row for row in rows.values() if "loss" in row}
    shared = [name for name, m in chosen if m == "auto" and all((name, other) in chosen for other in BLANKETS)]
    methods = list(dict.fromkeys(method for _, method in chosen))
    everyone = dict.fromkeys(name for name, _ in chosen)
    return {
        "selections": {m: selections(chosen, m, everyone) for m in methods},
        "same attributes": {m: selections(chosen, m, shared) for m in ("all columns", *BLANKETS) if shared},
        "mutual": mutual(chosen),
        "values": summary_of_values(rows),
    }


def selections(chosen: dict[tuple[str, str], dict[str, Any]], method: str, names: Iterable[str]) -> dict[str, Any]:
    """Means over attributes: size, time, loss, agreement with FOCI."""
    own = [chosen[name, method] for name in names if (name, method) in chosen]
    report: dict[str, Any] = {"attributes": len(own), "loss": mean(row["loss"] for row in own)}
    if method == "all columns":
        return report
    seconds = [row["cpu_s"] for row in own]
    both = [(row, other) for row in own if (other := chosen.get((row["attribute"], "foci")))]
    full = [(row, other) for row in own if (other := chosen.get((row["attribute"], "all columns")))]
    return report | {
        "selected": mean(len(row["selected"]) for row in own),
        "cpu_s": [float(f"{v:.3g}") for v in (np.mean(seconds), min(seconds), max(seconds))],
        "loss above all columns": mean(row["loss"] - other["loss"] for row, other in full),
        "agreement with foci": mean(jaccard(row["selected"], other["selected"]) for row, other in both),
        "same first column as foci": mean(row["selected"][:1] == other["selected"][:1] for row, other in both),
    }


def mean(numbers: Any) -> float | None:
    found = [float(v) for v in numbers]
    return round(float(np.mean(found)), 4) if found else None


def mutual(chosen: dict[tuple[str, str], dict[str, Any]]) -> dict[str, float | None]:
    """Of the pairs of attributes in which one selects the other, the share that select each other."""
    report = {}
    for method in BLANKETS:
        sets = {name: set(row["selected"]) for (name, m), row in chosen.items() if m == method}
        ways = [(b in sets[a]) + (a in sets[b]) for a, b in combinations(sets, 2)]
        report[method] = mean(way == 2 for way in ways if way)
    return report


def summary_of_values(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """L-CODEC beside CODEC: rank correlation over features, mean over attributes, and seconds a pair."""
    own = [row for row in rows.values() if "codec" in row]
    report = {}
    for method in [key for key in own[0] if "codec" in key] if own else []:
        pairs = [(row["codec"]["T"], row[method]["T"]) for row in own]
        report[method] = {
            "rank correlation": round(float(np.mean([spearmanr(a, b).statistic for a, b in pairs])), 4),
            "largest difference": round(float(max(np.abs(np.subtract(a, b)).max() for a, b in pairs)), 4),
            "share of T": round(float(np.sum([b for _, b in pairs]) / np.sum([a for a, _ in pairs])), 4),
            "cpu_s": float(f"{np.sum([row[method]['cpu_s'] for row in own]) / sum(len(a) for a, _ in pairs):.3g}"),
        }
    return report


def show(report: dict[str, Any]) -> None:
    for part, lines in report["summary"].items():
        for name, line in lines.items():
            print(f"{part:15s} {name:32s} {line}")
    for row in report["rows"].values():
        if "selected" in row and "loss" not in row:
            print(
                f"all rows    {row['attribute']}, {row['method']:24s} {row['cpu_s']} s, {len(row['selected'])} columns"
            )


# ---------------------------------------------------------------------- the script
def run(data: Attributes, whole: Attributes | None, output: Path | None, parts: Sequence[str]) -> dict[str, Any]:
    """Compute what is missing; stored after every row."""
    rows = json.loads(output.read_text())["rows"] if output and output.exists() else {}
    report: dict[str, Any] = {"benchmark": "bench_celeba", "rows": rows}
    for part, method, target in cells(data.names, parts):
        table = whole if part == "all rows" else data
        key = f"n = {len(table.search)}, {data.names[target]}, {method}" if table else ""
        if table and key not in rows:
            rows[key] = compute(table, method, target)
            if output:
                _harness.write_json(
                    {**report, "summary": summary(rows), "environment": _harness.environment(PACKAGES)}, output
                )
    return {**report, "summary": summary(rows)}


def warm_up() -> None:
    """Compile."""
    data = made(100)
    for method in METHODS:
        select(data, 0, method)
    values(data, 0)


def main() -> None:
    """Compute the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="a made table, nothing written")
    parser.add_argument("--show", action="store_true", help="print what is stored")
    parser.add_argument("--parts", help=f"separated by commas: {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.show:
        show(json.loads(options.output.read_text()))
        return
    if options.quick:
        show(run(made(200), None, None, PARTS))
        return
    parts = options.parts.split(",") if options.parts else list(PARTS)
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts has {', '.join(sorted(set(parts) - set(PARTS)))}; parts are {', '.join(PARTS)}")
    warm_up()
    whole = read(options.data, None) if "all rows" in parts else None
    show(run(read(options.data, ROWS), whole, options.output, parts))


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
