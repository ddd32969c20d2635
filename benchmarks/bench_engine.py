"""Cost of forward selection: against n, p, selected columns, neighbours, threads, and beside scipy.

    python benchmarks/bench_engine.py                        # everything; resumes; tens of minutes
    python benchmarks/bench_engine.py --cases headline,paths # some parts
    python benchmarks/bench_engine.py --max-rows 100000      # only cells of at most so many rows
    python benchmarks/bench_engine.py --quick                # small cells in seconds; writes nothing

CPU seconds on one thread unless a cell says otherwise; whole selections in fresh processes, single steps
one after the other in this one; ratios between measurements of the same run. Both versions must select the same features with the same T, and their sums
must be the same integers wherever no ties make scipy's version wrong; otherwise the script fails.

Data: X standard normal, ``y = x0 x1 + sin(x0 x2)`` (plus noise), raw columns (``standardize=None``), seeds
with which all three features are found. ``benchmarks/results/bench_engine.json`` is written after every
cell. A second run keeps the cells that were measured with the same sources of the engine on the same
machine (``--again``: none), so that an interrupted run continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _engine_work as work
import _harness
import numpy as np

RESULT = _harness.RESULTS / "bench_engine.json"
PACKAGES = ["codec", "numpy", "scipy", "numba", "llvmlite", "joblib"]
ENGINE = [
    "_neighbors.py",
    "_parallel.py",
    "_pruning.py",
    "_forward.py",
    "_selection.py",
    "_simd.py",
    "_kernels.py",
    "_list_kernels.py",
    "_step_kernels.py",
    "_tree_kernels.py",
]


@dataclass(frozen=True)
class Cell:
    """One measurement: its part, its name, its size, and what to do."""

    part: str
    name: str
    n: int
    measure: Callable[[], dict[str, Any]]


def run(here: bool = False, **arguments: Any) -> dict[str, Any]:
    """Do one piece of work in a fresh interpreter, or in this one."""
    return work.run(arguments) if here else _harness.in_fresh_process(__file__, arguments)


# ---------------------------------------------------------------------- parts
# n, p, sd of the noise, seed, runs, candidates of a step that scipy is timed on (None: all), floor of the ratio
HEADLINE = [
    (1000, 100, 0, 1, 3, None, 12),
    (10_000, 100, 0, 1, 3, None, 12),
    (10_000, 100, 1, 18, 3, None, 10),
    (10_000, 1000, 0, 1, 3, 100, 25),
    (1000, 5000, 0, 19665, 3, 1000, 40),
    (100_000, 100, 0, 1, 3, 10, 15),
    (1_000_000, 20, 0, 1, 1, 2, 10),
]
QUICK_HEADLINE = [(300, 10, 0, 1, 1, None, None), (400, 12, 0, 1, 1, 4, None)]


def headline(quick: bool) -> Iterator[Cell]:
    """Whole selections beside scipy."""
    for n, p, noise, seed, runs, some, floor in QUICK_HEADLINE if quick else HEADLINE:
        name = f"{n} x {p}" + (f", noise {noise}" if noise else "")
        yield Cell("headline", name, n, lambda a=(n, p, noise, seed, runs, some, floor): _headline(*a))


def _headline(
    n: int, p: int, noise: float, seed: int, runs: int, some: int | None, floor: float | None
) -> dict[str, Any]:
    data = {"n": n, "p": p, "noise": noise, "seed": seed}
    here = n < 1000 and some is not None
    ours, theirs = [], []
    for _ in range(runs):  # alternating
        ours.append(run(here, kind="selection", **data))
        if len(theirs) < (runs if some is None else 1):
            order = ours[0]["selected"]
            theirs.append(run(here, kind="selection_scipy", **data, order=order, some=some))
    for other in ours[1:] + theirs:
        same_selection(ours[0], other)
    cell = {
        **data,
        "selected": ours[0]["selected"],
        "codec": {
            **{key: _harness.median(ours, key) for key in ("cpu_s", "wall_s", "peak_mib")},
            "cpu_s_runs": [digits(run["cpu_s"]) for run in ours],
        },
        "scipy": {
            **{key: _harness.median(theirs, key) for key in ("cpu_s", "peak_mib")},
            "cpu_s_runs": [digits(run["cpu_s"]) for run in theirs],
            "scaled_from": some,
        },
        "x_mib": digits(8 * n * p / _harness.MIB),
    }
    cell["ratio"] = digits(cell["scipy"]["cpu_s"] / cell["codec"]["cpu_s"])
    cell["floor"] = floor
    return cell


def same_selection(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Fail unless two runs selected the same features with the same T."""
    if a["selected"] != b["selected"] or not np.allclose(a["T"], b["T"], rtol=0.0, atol=1e-12):
        sys.exit(f"selections differ: {a['selected']} {a['T']} and {b['selected']} {b['T']}")


def growth(quick: bool) -> Iterator[Cell]:
    """A step of 32 candidates against n."""
    for n in (300, 600) if quick else (10_000, 30_000, 100_000, 300_000, 1_000_000):
        for selected in (2,) if quick else range(4):
            yield step_cell("growth", n, selected, 4 if quick else 32)


def columns(quick: bool) -> Iterator[Cell]:
    """A step against the number of candidates."""
    sizes = {300: [8]} if quick else {1000: [10, 30, 100, 300, 1000, 5000], 10_000: [10, 30, 100, 300, 1000]}
    for n, candidates in sizes.items():
        for m in candidates:
            yield step_cell("columns", n, 2, m)


def depth(quick: bool) -> Iterator[Cell]:
    """A step against the number of selected columns, beside scipy."""
    for selected in (3,) if quick else (0, 1, 2, 3, 4, 6, 8, 11, 15):
        yield step_cell("depth", 300 if quick else 10_000, selected, 4 if quick else 32, some=2)


def neighbors(quick: bool) -> Iterator[Cell]:
    """A step with K neighbours beside `cKDTree.query(k=K + 1)`."""
    n = 300 if quick else 10_000
    floors = {0: 1, 1: 1, 2: 3, 3: 6}
    for k in (5,) if quick else (1, 10, 100):
        for selected in (0, 2) if quick else range(4):
            floor = None if quick or k == 1 else floors[selected]
            yield step_cell("neighbors", n, selected, 4 if quick else 97, k=k, some=3 if quick else 8, floor=floor)


def step_cell(
    part: str, n: int, selected: int, candidates: int, k: int = 1, some: int = 0, floor: float | None = None
) -> Cell:
    """A cell of one step."""

    def measure() -> dict[str, Any]:
        size = {"n": n, "selected": selected, "candidates": candidates, "k": k}
        answer = rounded(run(True, kind="step", **size, some=some))
        if answer.get("scipy_differs"):
            sys.exit(f"sums of a step differ from scipy's: {size}")
        return {**size, **answer, **({"floor": floor} if floor else {})}

    return Cell(part, f"n = {n}, selected {selected}, candidates {candidates}, K = {k}", n, measure)


def threads(quick: bool) -> Iterator[Cell]:
    """Wall seconds with one and two threads, alternating."""
    for n, p in [(300, 10)] if quick else [(10_000, 1000), (100_000, 100)]:
        yield Cell("threads", f"{n} x {p}", n, lambda n=n, p=p: _threads(n, p, 1 if quick else 3))


def _threads(n: int, p: int, runs: int) -> dict[str, Any]:
    walls: dict[int, list[float]] = {1: [], 2: []}
    cpus: dict[int, list[float]] = {1: [], 2: []}
    first, busy = None, os.getloadavg()[0]
    for _ in range(runs):
        for jobs in walls:
            done = run(n < 1000, kind="selection", n=n, p=p, n_jobs=jobs)
            same_selection(first := first or done, done)
            walls[jobs].append(done["wall_s"])
            cpus[jobs].append(done["cpu_s"])
    best = {jobs: min(seconds) for jobs, seconds in walls.items()}
    return {
        "n": n, "p": p, "smallest_wall_s": {str(j): digits(s) for j, s in best.items()},
        "wall_s_runs": {str(j): [digits(s) for s in seconds] for j, seconds in walls.items()},
        "cpu_s": {str(j): digits(np.median(seconds)) for j, seconds in cpus.items()},
        "ratio": digits(best[1] / best[2]), "floor": None if n < 1000 else 1.8,
        "load_before": digits(busy), "note": "smallest wall seconds of each; load: programs running before, all cores",
    }  # fmt: skip


def paths(quick: bool) -> Iterator[Cell]:
    """Every path forced on the same step: equal integers, and what each costs."""
    for n in (300,) if quick else (1000, 10_000, 100_000):
        for k in (1, 3) if quick else (1, 10):
            for selected in (1, 2) if quick else (0, 1, 2, 3, 5, 8):
                if n == 100_000 and (selected > 3 or k > 1):
                    continue
                size = {"n": n, "selected": selected, "candidates": 4 if quick else 32, "k": k}
                name = f"n = {n}, selected {selected}, K = {k}"
                yield Cell("paths", name, n, lambda s=size: {**s, **rounded(run(True, kind="paths", **s))})


def geometries(quick: bool) -> Iterator[Cell]:
    """Hard geometries beside scipy: steps with 0 to 3 selected columns, and 29 of a 30-dimensional one."""
    n, p, some = (300, 8, 3) if quick else (5000, 100, 6)
    floor = None if quick else 3
    for name in ("normal", "lattice") if quick else work.GEOMETRIES:
        steps = [0, 1, 2] if quick else [0, 1, 2, 3]
        size = {"name": name, "n": n, "p": p, "selected": steps, "some": some}
        yield Cell("geometries", name, n, lambda s=size: _geometry(s, floor))
    if not quick:
        size = {"name": "normal", "n": n, "p": p, "selected": [29], "some": 2}
        yield Cell("geometries", "30 dimensions", n, lambda s=size: _geometry(s, floor))


def _geometry(size: dict[str, Any], floor: float | None) -> dict[str, Any]:
    answer = rounded(run(True, kind="geometry", **size))
    return {"n": size["n"], "p": size["p"], **answer, "floor": floor}


def million(quick: bool) -> Iterator[Cell]:
    """Four steps on a million rows and fifty columns: minutes and memory."""
    n, p = (300, 10) if quick else (1_000_000, 50)
    options = {"max_features": 4, "stop": False}
    yield Cell("million", f"{n} x {p}", n, lambda: rounded(run(quick, kind="selection", n=n, p=p, **options)))


def r_foci(quick: bool) -> Iterator[Cell]:
    """Whole selections beside the R package FOCI, where it is installed."""
    if not work.has_r_foci():
        print("r_foci: left out, Rscript with the package FOCI is not here")
        return
    for n, p in [(300, 10)] if quick else [(1000, 100), (10_000, 100)]:
        yield Cell("r_foci", f"{n} x {p}", n, lambda n=n, p=p: _r_foci(n, p))


def _r_foci(n: int, p: int) -> dict[str, Any]:
    theirs, ours = (run(kind=kind, n=n, p=p) for kind in ("selection_r", "selection"))
    if theirs["selected"] != ours["selected"]:
        sys.exit(f"R selects {theirs['selected']}, codec {ours['selected']}")
    ratio = theirs["cpu_s"] / ours["cpu_s"]
    return rounded({"n": n, "p": p, "r_cpu_s": theirs["cpu_s"], "cpu_s": ours["cpu_s"], "ratio": ratio})


PARTS = {f.__name__: f for f in (headline, neighbors, geometries, paths, growth, columns, depth, threads, million)}
PARTS["r_foci"] = r_foci


# ---------------------------------------------------------------------- numbers
def digits(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def rounded(value: Any) -> Any:
    """Every float inside to four digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return digits(value) if isinstance(value, float) else value


def exponents(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Least squares of log seconds on log n, for each number of selected columns."""
    fits = {}
    for selected in sorted({cell["selected"] for cell in cells.values()}):
        of_size = [cell for cell in cells.values() if cell["selected"] == selected]
        n, seconds = (np.log([cell[key] for cell in of_size]) for key in ("n", "cpu_s"))
        if n.size > 1:
            fits[str(selected)] = {
                "exponent": digits(np.polyfit(n, seconds, 1)[0]),
                "n": sorted(cell["n"] for cell in of_size),
            }
    return fits


# ---------------------------------------------------------------------- the report
def engine_key(environment: dict[str, Any]) -> str:
    """Changes with the engine's sources, the processor and the versions: cells of one key compare."""
    folder = _harness.ROOT / "codec"
    sources = b"".join((folder / name).read_bytes() for name in ENGINE if (folder / name).exists())
    machine = json.dumps([environment[key] for key in ("cpu", "system", "python", "packages")])
    return hashlib.sha256(sources + machine.encode()).hexdigest()[:12]


class Report:
    """The JSON file: environments by key, cells by part and name."""

    def __init__(self, path: Path | None, quick: bool) -> None:
        self.path = path
        stored = json.loads(path.read_text()) if path and path.exists() else {}
        self.content: dict[str, Any] = {
            "benchmark": "bench_engine",
            "question": "CPU seconds of exact forward selection: growth, and ratio to a fresh cKDTree per candidate",
            "data": "X standard normal, y = x0 x1 + sin(x0 x2) + noise, raw columns, one thread unless said",
            "quick": quick,
            "environments": stored.get("environments", {}),
            "exponents": {},
            "cells": stored.get("cells", {}),
        }

    def holds(self, cell: Cell, key: str) -> bool:
        """Whether the cell was measured with this engine."""
        found = self.content["cells"].get(cell.part, {}).get(cell.name)
        return found is not None and found["environment"] == key

    def add(self, cell: Cell, result: dict[str, Any], key: str, environment: dict[str, Any]) -> None:
        """Store a cell, drop environments that no cell refers to, write the file."""
        cells = self.content["cells"]
        cells.setdefault(cell.part, {})[cell.name] = {**result, "environment": key}
        self.content["environments"].setdefault(key, environment)
        used = {found["environment"] for part in cells.values() for found in part.values()}
        self.content["environments"] = {k: e for k, e in self.content["environments"].items() if k in used}
        self.content["exponents"] = exponents(cells.get("growth", {}))
        if self.path:
            _harness.write_json(self.content, self.path)


def show(cell: Cell, result: dict[str, Any]) -> None:
    """Print one line."""
    facts = []
    if "ratio" in result:
        facts.append(f"ratio {result['ratio']:.3g}")
    if result.get("floor"):
        facts.append(f"(at least {result['floor']}: {'met' if result['ratio'] >= result['floor'] else 'MISSED'})")
    cpu = result.get("cpu_s", result.get("codec", {}).get("cpu_s"))
    facts.append(f"CPU s {cpu}")
    facts += [f"{key} {result[key]}" for key in ("path", "chosen", "peak_mib", "scipy_differs") if key in result]
    print(f"{cell.part:11}{cell.name:52}{'  '.join(facts)}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cells in seconds")
    parser.add_argument("--cases", default=",".join(PARTS), help="parts, with commas between: %(default)s")
    parser.add_argument("--max-rows", type=int, default=10**9, help="leave out cells with more rows")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--output", type=Path, help="the JSON report to continue")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work.run(json.loads(options.worker))))
        return
    names = options.cases.split(",")
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report = Report(options.output or (None if options.quick else RESULT), options.quick)
    environment = _harness.environment(PACKAGES)
    key = engine_key(environment)
    for name in names:
        for cell in PARTS[name](options.quick):
            if cell.n > options.max_rows or (report.holds(cell, key) and not options.again):
                continue
            result = cell.measure()
            if engine_key(environment) != key:
                sys.exit("the engine's sources changed during the run; start it again, what is finished is kept")
            report.add(cell, result, key, environment)
            show(cell, result)
    if report.content["exponents"]:
        print("exponents of n:", {s: fit["exponent"] for s, fit in report.content["exponents"].items()})


if __name__ == "__main__":
    main()
