"""What one process of bench_engine measures: a selection, a step, or the same with scipy's trees.

The scipy version builds a fresh `cKDTree` for every candidate. Where that takes minutes it is timed on some
candidates of every step, evenly spread and the winner among them, and its CPU time is scaled to all of
them (``scaled_from`` says from how many). What it computes is compared with what this package computed.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import _harness
import numpy as np
from bench_foci import with_scipy
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from codec import foci
from codec._neighbors import Geometry, Response, candidate_sums, choose_path, make_response

PATHS = ("sort", "tree", "strips", "lists")
SHORT = 4.0  # seconds: a shorter round of measurements is repeated, three in all


# ---------------------------------------------------------------------- data
def signal_data(n: int, p: int, noise: float = 0.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """X standard normal and ``y = x0 x1 + sin(x0 x2) + noise``; the signal is drawn first."""
    rng = np.random.default_rng([n, seed])
    signal, error = rng.normal(size=(n, 3)), rng.normal(size=n)
    X = np.hstack([signal, rng.normal(size=(n, p - 3))])
    return X, response_of(X) + noise * error


def response_of(X: np.ndarray) -> np.ndarray:
    """The signal of three columns."""
    return X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2])


def _clusters(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    return 10.0 * rng.normal(size=(50, p))[rng.integers(50, size=n)] + 1e-3 * rng.normal(size=(n, p))


def _copies(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    return rng.normal(size=(n // 10, p))[np.arange(n) % (n // 10)]


def _one_row(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    X = rng.normal(size=(n, p))
    X[rng.permutation(n)[: 9 * n // 10]] = X[0]
    return X


def _large_column(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    X = rng.normal(size=(n, p))
    X[:, 0] *= 1e12
    return X


GEOMETRIES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "normal": lambda rng, n, p: rng.normal(size=(n, p)),
    "clusters": _clusters,
    "every row ten times": _copies,
    "90 % one row": _one_row,
    "lattice": lambda rng, n, p: rng.integers(10, size=(n, p)).astype(float),
    "Cauchy": lambda rng, n, p: rng.standard_cauchy((n, p)),
    "a column 1e12 times the others": _large_column,
    "0/1 columns": lambda rng, n, p: rng.integers(2, size=(n, p)).astype(float),
}


# ---------------------------------------------------------------------- a whole selection
def selection(n: int, p: int, noise: float = 0.0, seed: int = 1, n_jobs: int = 1, **options: Any) -> dict[str, Any]:
    """FOCI with this package; X itself is not in the peak."""
    warm_up(n_jobs)
    X, y = signal_data(n, p, noise, seed)
    run = _harness.measure(lambda: foci(X, y, standardize=None, n_jobs=n_jobs, **options))
    path = run.pop("result")
    resident = _harness.peak() / _harness.MIB
    return {**run, "resident_mib": resident, "selected": path.order.tolist(), "T": path.cumulative.tolist()}


def selection_scipy(n: int, p: int, noise: float, seed: int, order: Sequence[int], some: int | None) -> dict[str, Any]:
    """FOCI with a fresh tree per candidate; with ``some``, on that many candidates of every step of ``order``."""
    X, y = signal_data(n, p, noise, seed)
    if some is None:
        run = _harness.measure(lambda: with_scipy(X, y))
        picks = run.pop("result")
        return {**run, "selected": picks, "T": [t_of(y, scipy_sum(X, y, picks[: k + 1])) for k in range(len(picks))]}
    cpu, picks, values = 0.0, [], []
    for step in range(len(order) + 1):
        base = list(order[:step])
        left = [j for j in range(p) if j not in base]
        sample = spread(left, some, order[step] if step < len(order) else left[0])
        run = _harness.measure(lambda base=base, sample=sample: [scipy_sum(X, y, [*base, j]) for j in sample])
        cpu += run["cpu_s"] * len(left) / len(sample)
        T = [t_of(y, total) for total in run["result"]]
        if max(T) <= (values[-1] if values else 0.0):
            break
        picks.append(sample[int(np.argmax(T))])
        values.append(max(T))
    return {"cpu_s": cpu, "peak_mib": run["peak_mib"], "selected": picks, "T": values, "scaled_from": some}


def spread(candidates: Sequence[int], some: int, winner: int) -> list[int]:
    """``some`` of the candidates in ascending order: the winner and others evenly spread."""
    others = [j for j in candidates if j != winner]
    places = np.linspace(0, len(others) - 1, min(some - 1, len(others))).astype(int)
    return sorted([winner, *(others[i] for i in places)])


def scipy_sum(X: np.ndarray, y: np.ndarray, columns: Sequence[int], k: int = 1) -> int:
    """``K * A`` of the ten-line version: right on data without ties only."""
    rank = rankdata(y, method="max").astype(np.int64)
    points = X[:, list(columns)]
    nearest = cKDTree(points).query(points, k=k + 1)[1][:, 1:]
    return int(np.minimum(rank[:, None], rank[nearest]).sum())


def t_of(y: np.ndarray, total: int) -> float:
    """T(y, z) from the sum of one neighbour."""
    response = make_response(y, nominal=False)
    return 1.0 - response.n * (response.total - total) / response.spread


@cache
def warm_up(n_jobs: int = 1) -> None:
    """Load (the first time ever: compile) everything outside the timing."""
    X, y = signal_data(300, 20)
    points, response = prepare(X, y)
    for k in (1, 2):
        foci(X, y, max_features=3, stop=False, n_neighbors=k, standardize=None, n_jobs=n_jobs)
        for selected in (0, 1, 2):
            for path in PATHS:
                with suppress(ValueError):
                    candidate_sums(points, response, list(range(selected)), list(range(selected, 20)), k, path=path)


# ---------------------------------------------------------------------- one step
def prepare(X: np.ndarray, y: np.ndarray) -> tuple[Geometry, Response]:
    """What forward selection hands to a step."""
    response = make_response(y, nominal=False)
    p = X.shape[1]
    return Geometry(np.ascontiguousarray(X[response.order].T), np.ones(p), np.zeros(p, bool)), response


def step(n: int, selected: int, candidates: int, k: int = 1, some: int = 0) -> dict[str, Any]:
    """CPU seconds of one step beside ``selected`` columns; with ``some``, beside scipy on so many candidates."""
    warm_up()
    X, y = signal_data(n, max(3, selected + candidates))
    return compare_step(X, y, list(range(selected)), list(range(selected, selected + candidates)), k, some)


def compare_step(
    X: np.ndarray, y: np.ndarray, base: list[int], candidates: list[int], k: int, some: int
) -> dict[str, Any]:
    """One step with this package and with scipy; how many of scipy's sums are wrong (ties)."""
    points, response = prepare(X, y)
    sample = spread(candidates, some, candidates[-1]) if some else []
    ours, quick, *theirs = repeated(
        lambda: candidate_sums(points, response, base, candidates, k),
        lambda: candidate_sums(points, response, base, candidates, k, best_only=True),
        *([lambda: [scipy_sum(X, y, [*base, j], k) for j in sample]] if some else []),
    )
    sums = ours.pop("result")
    if max(quick["result"]) != max(sums):
        raise RuntimeError("the best sum differs from the largest of all sums")
    path = choose_path(points, response.n, base, candidates, k) if base else "sort"
    answer = {"cpu_s": ours["cpu_s"], "best_cpu_s": quick["cpu_s"], "peak_mib": ours["peak_mib"], "path": path}
    for other in theirs:
        expected = [total * response.one for total in other["result"]]
        found = [sums[candidates.index(j)] for j in sample]
        scaled = other["cpu_s"] * len(candidates) / len(sample)
        answer["scipy"] = {"cpu_s": scaled, "peak_mib": other["peak_mib"], "scaled_from": len(sample)}
        answer["scipy_differs"] = sum(a != b for a, b in zip(expected, found, strict=True))
        answer["ratio"] = scaled / ours["cpu_s"]
        answer["best_ratio"] = scaled / quick["cpu_s"]
    return answer


def repeated(*works: Callable[[], Any]) -> list[dict[str, Any]]:
    """Measure each, in turn, three times if short (medians count); the peak is that of the first run."""
    rounds = [[_harness.measure(work) for work in works]]
    while len(rounds) < 3 and sum(run["cpu_s"] for run in rounds[0]) < SHORT:
        rounds.append([_harness.measure(work) for work in works])
    return [
        {**runs[0], "cpu_s": float(np.median([run["cpu_s"] for run in runs]))} for runs in zip(*rounds, strict=True)
    ]


# ---------------------------------------------------------------------- every path, hard geometries
def paths(n: int, selected: int, candidates: int, k: int) -> dict[str, Any]:
    """CPU seconds of one step on every path that serves it; fails unless all give the same integers."""
    warm_up()
    points, response = prepare(*signal_data(n, max(3, selected + candidates)))
    base, rest = list(range(selected)), list(range(selected, selected + candidates))
    runs = on_every_path(points, response, base, rest, k)
    chosen = choose_path(points, n, base, rest, k) if base else "sort"
    return {"chosen": chosen, "cpu_s": {name: run["cpu_s"] for name, run in runs.items()}, "equal": True}


def on_every_path(
    points: Geometry, response: Response, base: list[int], candidates: list[int], k: int
) -> dict[str, dict[str, Any]]:
    """One step on every path that serves it."""
    runs = {}
    for name in PATHS:
        try:
            (runs[name],) = repeated(lambda p=name: candidate_sums(points, response, base, candidates, k, path=p))
        except ValueError:  # a path says what it does not serve
            continue
    if any(run["result"] != runs["tree"]["result"] for run in runs.values()):
        raise RuntimeError(f"the paths {list(runs)} give different sums")
    return runs


def geometry(name: str, n: int, p: int, selected: Sequence[int], some: int) -> dict[str, Any]:
    """Steps on a hard geometry beside scipy; all paths compared on a part of the rows."""
    warm_up()
    rng = np.random.default_rng([n, p, 7])
    X = GEOMETRIES[name](rng, n, p)
    y = response_of(X) + rng.normal(size=n)  # noise: copies of a row have responses of their own
    part = prepare(X[: n // 5], y[: n // 5])
    steps = []
    for size in selected:
        base, rest = list(range(size)), list(range(size, p))
        steps.append({"selected": size, **compare_step(X, y, base, rest, 1, some)})
        on_every_path(*part, base, rest[:20], 1)
    ours, theirs = (sum(s["cpu_s"] for s in part) for part in (steps, [s["scipy"] for s in steps]))
    return {
        "cpu_s": ours, "ratio": theirs / ours, "smallest_ratio": min(s["ratio"] for s in steps),
        "scipy_differs": sum(s["scipy_differs"] for s in steps),
        "scipy_compared": sum(s["scipy"]["scaled_from"] for s in steps), "steps": steps,
    }  # fmt: skip


# ---------------------------------------------------------------------- R
R_SCRIPT = """
library(FOCI)
d <- as.matrix(read.csv("data.csv"))
X <- d[, -1]
time <- system.time(found <- foci(d[, 1], X, standardize = "none", numCores = 1))
cat(sum(time[c("user.self", "sys.self", "user.child", "sys.child")]), found$selectedVar$index - 1)
"""


def has_r_foci() -> bool:
    """Whether Rscript and the R package FOCI are here."""
    command = ["Rscript", "-e", "library(FOCI)"]
    return bool(shutil.which("Rscript")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def selection_r(n: int, p: int, noise: float = 0.0, seed: int = 1) -> dict[str, Any]:
    """FOCI with the R package."""
    X, y = signal_data(n, p, noise, seed)
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(
            Path(folder) / "data.csv", np.column_stack([y, X]), "%.17g", ",",
            header=",".join(["y", *(f"x{j}" for j in range(p))]), comments="",
        )  # fmt: skip
        done = subprocess.run(["Rscript", "-e", R_SCRIPT], cwd=folder, capture_output=True, text=True, check=True)
    cpu, *picks = done.stdout.split()
    return {"cpu_s": float(cpu), "selected": [int(j) for j in picks]}


KINDS = {f.__name__: f for f in (selection, selection_scipy, selection_r, step, paths, geometry)}


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Do one piece of work in this process."""
    return KINDS[arguments.pop("kind")](**arguments)
