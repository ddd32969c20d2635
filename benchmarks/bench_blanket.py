"""Markov blankets: F1 against the truth, false selections and real tables, beside other selectors.

    python benchmarks/bench_blanket.py                  # hours; resumes; benchmarks/results/bench_blanket.json
    python benchmarks/bench_blanket.py --quick          # a few data sets in seconds; writes nothing
    python benchmarks/bench_blanket.py --data FOLDER    # adds the real tables found there
    python benchmarks/bench_blanket.py --cases networks,models    # some parts
    python benchmarks/bench_blanket.py --show           # what is stored

A row is one way to make data; a cell is a row and a method. Every data set has a seed of its own from 10,000
on, the same for all methods. Each result is stored as soon as it is there, and a second run continues. The
summary holds means, standard errors over data sets (targets of one network count as one) and the mean CPU
seconds of a selection, with the row's target beside them.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _blanket_work as work
import _harness
import numpy as np
from _blanket_work import Task
from scipy.stats import binomtest
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

RESULT = _harness.RESULTS / "bench_blanket.json"
PACKAGES = ["codec", "numpy", "scipy", "numba", "scikit-learn", "pandas"]
SEED = 10_000
PEERS = ("foci", "forest", "mutual information, true k", "mrmr, true k", "boruta")
FOLDS = 5


# ---------------------------------------------------------------------- rows
@dataclass(frozen=True)
class Row:
    """How data sets are made, how many, for which methods, and what is to be reached."""

    part: str
    name: str
    runs: int
    draw: Callable[[int], Task]
    methods: tuple[str, ...] = ("codec", *PEERS)
    target: dict[str, float] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)  # fewer runs for slow methods

    def count(self, method: str) -> int:
        return min(self.runs, self.least.get(method, self.runs))


def networks(name: str, n: int, target: dict[str, float], runs: int = 120, **options: Any) -> Row:
    """Two targets of each network."""
    part = "networks" if not options.get("nominal") else "mixed"

    def draw(i: int) -> Task:
        return work.network_task(SEED + i // 2, n, i % 2, **options)

    methods, least = ("codec", *PEERS), {"boruta": 40}
    if name == "n = 500":
        methods, least = (*methods, "PyImpetus"), {"PyImpetus": 20}
    return Row(part, name, runs, draw, methods, target, least)


def pure_noise(p: int, runs: int, methods: Sequence[str]) -> Row:
    return Row(
        "noise", f"p = {p}", runs, lambda i: work.noise_task(SEED + i, p), tuple(methods), {"non-empty": 0.05},
        {m: 20 for m in methods if not m.startswith("codec")},
    )  # fmt: skip


def simulated_rows() -> Iterator[Row]:
    """Cheap and most wanted first."""
    yield networks("n = 500", 500, {"f1": 0.85, "minus forest": 0.12})
    for model in ("linear", "additive", "product", "logarithm", "power", "square"):
        yield Row("models", model, 20, lambda i, m=model: work.model_task(SEED + i, m), target={"f1": 0.95})
    yield Row("bullseye", "radii", 20, lambda i: work.bullseye_task(SEED + i, None), target={"f1": 0.95})
    yield Row("bullseye", "points in the plane", 20, lambda i: work.bullseye_task(SEED + i, 2), target={"f1": 0.95})
    yield Row("modular", "y = x1 + x2 mod 1", 20, lambda i: work.modular_task(SEED + i))
    yield networks("20 nodes, 40 % nominal", 500, {"f1": 0.83, "minus best peer": 0.10}, 40, nodes=20, nominal=0.4)
    for p in (10, 100, 1000):
        yield pure_noise(p, 400, ("codec", "codec, no screen", "foci", "forest"))


def later_rows() -> Iterator[Row]:
    yield networks("n = 500, 200 noise columns", 500, {"loss": 0.03}, noise=200)
    yield networks("n = 2,000", 2000, {"f1": 0.96, "minus forest": 0.12})


def madelon_row(folder: Path) -> Row:
    X, y = work.TABLES["madelon"](folder)
    return Row("madelon", "20 of 500 columns", 1, lambda _: Task(X, y, work.MADELON))


def run_one(row: Row, method: str, i: int) -> dict[str, Any]:
    """One data set, one method."""
    task = row.draw(i)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        selected = work.SELECTORS[method](task, task.size(), SEED + i)
    cpu = time.process_time() - start
    return {"run": i, "cluster": task.cluster, **work.judge(selected, task), "cpu_s": float(f"{cpu:.3g}")}


# ---------------------------------------------------------------------- summaries
def mean_and_error(runs: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Mean over clusters and its standard error."""
    clusters: dict[int, list[float]] = {}
    for run in runs:
        clusters.setdefault(run["cluster"], []).append(run[key])
    means = np.array([np.mean(values) for values in clusters.values()])
    error = means.std(ddof=1) / np.sqrt(means.size) if means.size > 1 else float("nan")
    return [round(float(np.mean([run[key] for run in runs])), 4), round(float(error), 4)]


def summary(cell: dict[str, Any]) -> dict[str, Any]:
    """Means with standard errors; on pure noise the share of non-empty selections with its interval."""
    runs = cell["runs"]
    keys = ("score", "selected") if "score" in runs[0] else ("f1", "precision", "recall", "exact", "selected")
    report: dict[str, Any] = {"runs": len(runs), **{key: mean_and_error(runs, key) for key in keys}}
    report["cpu_s"] = float(f"{np.mean([run['cpu_s'] for run in runs]):.3g}")
    if cell["part"] == "noise":
        hits = sum(run["selected"] > 0 for run in runs)
        interval = binomtest(hits, len(runs)).proportion_ci()
        report["non-empty"] = [hits / len(runs), round(interval.low, 4), round(interval.high, 4)]
    return report


def show(cell: dict[str, Any]) -> None:
    s = summary(cell)
    if cell["part"] == "noise":
        what = "non-empty {:.3f} [{:.3f}, {:.3f}]".format(*s["non-empty"])
    elif "score" in s:
        what = "score {:.3f} ({:.3f})".format(*s["score"])
    else:
        what = "f1 {:.3f} ({:.3f})".format(*s["f1"])
        what += f" precision {s['precision'][0]:.2f} recall {s['recall'][0]:.2f} exact {s['exact'][0]:.2f}"
    place = f"{cell['part']}: {cell['name']}"
    print(
        f"{place:44s} {cell['method']:27s} {s['runs']:3d} {what}  {s['selected'][0]:.1f} columns  {s['cpu_s']} s",
        flush=True,
    )


# ---------------------------------------------------------------------- the store
class Store:
    """The results so far; written at most every five seconds, and at the end of each cell.

    Only what this run computed is written: the rest is read anew, so that two runs of different parts do
    not undo one another.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.written = path, 0.0
        self.report = self._stored()
        self.touched: set[str] = set()

    def _stored(self) -> dict[str, Any]:
        stored: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {"cells": {}}
        return stored

    def cell(self, part: str, name: str, method: str, target: dict[str, float]) -> dict[str, Any]:
        key = f"{part}/{name}/{method}"
        cells: dict[str, Any] = self.report["cells"]
        return cells.setdefault(key, {"part": part, "name": name, "method": method, "target": target, "runs": []})

    def save(self, changed: str, *, force: bool = False) -> None:
        """Write; ``changed`` is the key of a cell, or of a part of the report."""
        self.touched.add(changed)
        if not force and time.monotonic() - self.written < 5.0:
            return
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            report = self._stored()
            for key in self.touched & set(self.report["cells"]):
                report["cells"][key] = self.report["cells"][key]
                report["cells"][key]["summary"] = summary(report["cells"][key])
            for key in self.touched - set(self.report["cells"]):
                report[key] = {**report.get(key, {}), **self.report[key]}
            report["environment"] = _harness.environment(PACKAGES)
            partial_file = self.path.with_suffix(".partial")
            _harness.write_json(report, partial_file)
            partial_file.replace(self.path)
        finally:
            os.close(folder)
        self.report["cells"] = report["cells"]
        self.written = time.monotonic()


def fill(store: Store, row: Row, method: str, compute: Callable[[int], dict[str, Any]]) -> None:
    """Complete a cell."""
    key = f"{row.part}/{row.name}/{method}"
    cell = store.cell(row.part, row.name, method, row.target)
    missing = range(len(cell["runs"]), row.count(method))
    for i in missing:
        cell["runs"].append(compute(i))
        store.save(key)
    if len(missing):
        store.save(key, force=True)
        show(cell)


# ---------------------------------------------------------------------- real tables
def table_rows(folder: Path, names: Sequence[str]) -> Iterator[tuple[Row, Callable[[str, int], dict[str, Any]]]]:
    """Cross-validated score of one model on what is selected in the training rows."""
    for name in names:
        X, y = work.TABLES[name](folder)
        classes = hasattr(y, "cat")
        split = (StratifiedKFold if classes else KFold)(FOLDS, shuffle=True, random_state=SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class with fewer rows than folds
            folds = list(split.split(X, y.cat.codes if classes else y))
        methods = ("all columns", "codec", "forest", "mutual information, 20", "mrmr, 20", "boruta")
        least = {"boruta": 1} if X.shape[1] > 2000 else {}
        row = Row("tables", name, FOLDS, lambda _: Task(X, y), methods, least=least)  # noqa: B023
        yield row, partial(run_fold, X, y, folds)


def run_fold(X: Any, y: Any, folds: Sequence[Any], method: str, i: int) -> dict[str, Any]:
    train, test = folds[i]
    rows = (lambda v, at: v.iloc[at].reset_index(drop=True)) if hasattr(y, "cat") else (lambda v, at: v[at])
    task = Task(X[train], rows(y, train), cluster=i)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method == "all columns":
            selected: Sequence[int] = range(X.shape[1])
        else:
            base = {"mutual information, 20": "mutual information, true k", "mrmr, 20": "mrmr, true k"}.get(
                method, method
            )
            selected = work.SELECTORS[base](task, min(20, X.shape[1]), SEED + i)
    cpu = time.process_time() - start
    score = work.downstream(task, selected, (X[test], rows(y, test)))
    return {"run": i, "cluster": i, "score": round(score, 4), "selected": len(selected), "cpu_s": float(f"{cpu:.3g}")}


# ---------------------------------------------------------------------- scale
def scale(n: int, p: int) -> dict[str, Any]:
    """A network of 30 nodes and noise columns: seconds and memory of one selection (in a process of its own)."""
    task = work.network_task(SEED, n, 0, noise=p - 29)
    work.with_codec(work.network_task(SEED, 300, 0), 0, 0)  # compile
    measured = _harness.measure(lambda: work.with_codec(task, 0, SEED))
    return {
        **work.judge(measured.pop("result"), task),
        **{key: float(f"{value:.4g}") for key, value in measured.items()},
        "x_mib": task.X.nbytes / _harness.MIB,
    }


def run_scale(store: Store) -> None:
    """Sizes up to the largest promised."""
    done = store.report.setdefault("scale", {})
    for n, p in ((10_000, 100), (100_000, 500)):
        key = f"n={n}/p={p}"
        if key not in done:
            done[key] = {"n": n, "p": p, **_harness.in_fresh_process(__file__, {"n": n, "p": p})}
            print(done[key], flush=True)
            store.save("scale", force=True)


# ---------------------------------------------------------------------- the script
def installed(method: str) -> bool:
    """Whether a method can run; PyImpetus 4.1.2 also needs seaborn and tqdm, which it does not declare."""
    return method != "PyImpetus" or all(find_spec(name) for name in ("PyImpetus", "seaborn", "tqdm"))


def run_rows(store: Store, rows: Iterator[Row], methods: set[str] | None) -> None:
    for row in rows:
        for method in row.methods:
            if (methods is None or method in methods) and installed(method):
                fill(store, row, method, partial(run_one, row, method))


def quick() -> None:
    """Two data sets of some rows."""
    rows = [
        Row("models", "linear", 2, lambda i: work.model_task(SEED + i, "linear"), ("codec", "foci", "forest")),
        Row("mixed", "8 nodes", 2, lambda i: work.network_task(SEED + i, 200, 0, nodes=8, nominal=0.4), ("codec", "mrmr, true k")),
        pure_noise(5, 2, ("codec",)),
    ]  # fmt: skip
    for row in rows:
        for method in row.methods:
            runs = [run_one(row, method, i) for i in range(row.runs)]
            show({"part": row.part, "name": row.name, "method": method, "runs": runs})


PARTS = (
    "networks",
    "models",
    "bullseye",
    "modular",
    "mixed",
    "noise",
    "madelon",
    "tables",
    "later",
    "scale",
)


def main() -> None:
    """Run the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few data sets, nothing written")
    parser.add_argument("--show", action="store_true", help="print what is stored")
    parser.add_argument("--data", type=Path, help="folder with scikit_feature/, spambase.csv.gz, bif/ and so on")
    parser.add_argument("--cases", help=f"parts, separated by commas: {', '.join(PARTS)}")
    parser.add_argument("--methods", help="methods, separated by semicolons")
    parser.add_argument("--tables", help="names of real tables, separated by commas")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(scale(**json.loads(options.worker))))
        return
    if options.quick:
        quick()
        return
    store = Store(options.output)
    if options.show:
        for cell in store.report["cells"].values():
            show(cell)
        return
    cases = set(options.cases.split(",")) if options.cases else set(PARTS)
    if not cases <= set(PARTS):
        parser.error(f"--cases has {', '.join(sorted(cases - set(PARTS)))}; parts are {', '.join(PARTS)}")
    run_all(store, cases, set(options.methods.split(";")) if options.methods else None, options)


def run_all(store: Store, cases: set[str], methods: set[str] | None, options: argparse.Namespace) -> None:
    """The parts asked for, in the order in which they are wanted."""
    folder = options.data
    run_rows(store, (row for row in simulated_rows() if row.part in cases), methods)
    if folder is not None and "madelon" in cases:
        run_rows(store, iter([madelon_row(folder)]), methods)
    if folder is not None and "tables" in cases:
        names = options.tables.split(",") if options.tables else list(work.TABLES)
        for row, compute in table_rows(folder, names):
            for method in row.methods:
                if methods is None or method in methods:
                    fill(store, row, method, partial(compute, method))
    if "later" in cases:
        run_rows(store, later_rows(), methods)
    if "scale" in cases:
        run_scale(store)


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main()
