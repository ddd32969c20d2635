"""CPU time and memory of FOCI beside a ten-line scipy version and xicorpy.

    python benchmarks/bench_foci.py            # all sizes; writes benchmarks/results/bench_foci.json
    python benchmarks/bench_foci.py --quick    # small sizes in seconds; writes nothing

Data: X standard normal, ``y = x0 x1 + sin(x0 x2)``, no ties. All three methods get the same raw columns
(``standardize=None``), one neighbour and one thread, and stop where T no longer grows. They must select
the same features in the same order, or the script fails. Every run is a fresh process; runs of the
methods alternate; the time to import, to compile and to load compiled code is outside the timing (the call that is
timed is the second one of its size); the first two are reported on their own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import _harness
import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

SIZES = [(1000, 100), (2000, 200), (10_000, 100)]
QUICK_SIZES = [(300, 10)]
PACKAGES = ["codec", "numpy", "scipy", "numba", "scikit-learn", "pandas", "xicorpy"]


def make_data(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X and y; the same for every run of a size.

    With this seed the three features are found at every size, so that four steps are timed; one neighbour
    finds them in about half of all draws at n = 1000, and some draws end after one wrong step.
    """
    X = np.random.default_rng([n, p, 1]).normal(size=(n, p))
    return X, X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2])


# ---------------------------------------------------------------------- the three methods
def with_codec(X: np.ndarray, y: np.ndarray) -> list[int]:
    """Select with this package."""
    from codec import foci

    return foci(X, y, standardize=None).order.tolist()


def with_scipy(X: np.ndarray, y: np.ndarray) -> list[int]:
    """Select with a fresh cKDTree per candidate: right on data without ties only."""
    n, p = X.shape
    rank, order = rankdata(y, method="max"), []
    best = rank.sum() - (n * n - 1) / 6  # T > 0: A > M - D / n with D = n (n^2 - 1) / 6
    while len(order) < p:
        scores = np.full(p, -np.inf)
        for j in set(range(p)) - set(order):
            points = X[:, [*order, j]]
            nearest = cKDTree(points).query(points, k=2)[1][:, 1]
            scores[j] = np.minimum(rank, rank[nearest]).sum()
        if scores.max() <= best:
            return order
        best = scores.max()
        order.append(int(scores.argmax()))
    return order


def with_xicorpy(X: np.ndarray, y: np.ndarray) -> list[int]:
    """Select with xicorpy."""
    from xicorpy import select_features_using_foci

    return [int(j) for j in select_features_using_foci(y, X)]


METHODS = {"codec": with_codec, "scipy": with_scipy, "xicorpy": with_xicorpy}


# ---------------------------------------------------------------------- inside a fresh process
def worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure one call; calls before it import, compile, and load what this size needs."""
    method = METHODS[arguments["method"]]
    warm_up = _harness.measure(lambda: method(*make_data(60, 4)))
    if arguments.get("first_call"):
        again = _harness.measure(lambda: method(*make_data(60, 4)))
        return {"first_call_s": warm_up["wall_s"] - again["wall_s"]}
    X, y = make_data(arguments["n"], arguments["p"])
    first = _harness.measure(lambda: method(X[::-1].copy(), y[::-1].copy()))
    return _harness.measure(lambda: method(X, y)) | {"peak_mib": first["peak_mib"]}  # later calls reuse the memory


# ---------------------------------------------------------------------- the report
def compare(n: int, p: int, repeats: int) -> dict[str, Any]:
    """Measure all methods on one size; fail if they select different features."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for _ in range(repeats):
        for name in METHODS:
            runs[name].append(_harness.in_fresh_process(__file__, {"method": name, "n": n, "p": p}))
    picks = {name: [run["result"] for run in of_method] for name, of_method in runs.items()}
    selected = same_picks(picks)
    methods = {
        name: {
            "cpu_s": _harness.median(of_method, "cpu_s"),
            "cpu_s_runs": [float(f"{run['cpu_s']:.4g}") for run in of_method],
            "wall_s": _harness.median(of_method, "wall_s"),
            "peak_mib": _harness.median(of_method, "peak_mib"),
        }
        for name, of_method in runs.items()
    }
    ours = methods["codec"]["cpu_s"]
    ratios = {f"{name} / codec": float(f"{m['cpu_s'] / ours:.3g}") for name, m in methods.items() if name != "codec"}
    return {"n": n, "p": p, "selected": selected, "methods": methods, "cpu_ratios": ratios}


def same_picks(picks: dict[str, list[list[int]]]) -> list[int]:
    """Return the features that every run of every method selected; end the script if they differ."""
    first = picks["codec"][0]
    if any(run != first for runs in picks.values() for run in runs):
        sys.exit(f"the methods select different features: {picks}")
    return first


def first_call_seconds() -> dict[str, float]:
    """Return what the first call costs beside its work: once ever (compiling), once a process (loading)."""
    with tempfile.TemporaryDirectory() as empty:
        seconds = [
            _harness.in_fresh_process(__file__, {"method": "codec", "first_call": True}, NUMBA_CACHE_DIR=empty)
            for _ in range(2)
        ]
    compiling, loading = (round(answer["first_call_s"], 3) for answer in seconds)
    return {"compiling_once_s": compiling, "loading_each_process_s": loading}


def show(result: dict[str, Any]) -> None:
    """Print one size as a table."""
    print(f"\nn = {result['n']:,}, p = {result['p']}: selected {result['selected']}")
    print(f"  {'':10}{'CPU s':>10}{'ratio':>8}{'peak MiB':>10}")
    for name, m in result["methods"].items():
        ratio = m["cpu_s"] / result["methods"]["codec"]["cpu_s"]
        print(f"  {name:10}{m['cpu_s']:>10.4g}{ratio:>8.2f}{m['peak_mib']:>10.1f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one run each")
    parser.add_argument("--repeats", type=int, help="fresh processes per method and size (default 5, quick 1)")
    parser.add_argument("--output", type=Path, help="where to write the JSON report")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return
    repeats = options.repeats or (1 if options.quick else 5)
    report: dict[str, Any] = {
        "benchmark": "bench_foci",
        "question": "CPU seconds and peak memory of FOCI beside a fresh cKDTree per candidate and xicorpy",
        "data": "X standard normal, y = x0 x1 + sin(x0 x2), raw columns, one neighbour",
        "quick": options.quick,
        "repeats": repeats,
        "environment": _harness.environment(PACKAGES),
        "first_call": None if options.quick else first_call_seconds(),
        "results": [],
    }
    if report["first_call"]:
        print(f"first call: {report['first_call']}")
    for n, p in QUICK_SIZES if options.quick else SIZES:
        result = compare(n, p, repeats)
        report["results"].append(result)
        show(result)
    output = options.output or (None if options.quick else _harness.RESULTS / "bench_foci.json")
    if output:
        _harness.write_json(report, output)


if __name__ == "__main__":
    main()
