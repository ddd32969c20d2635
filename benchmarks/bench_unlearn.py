"""Deletions from networks and linear models beside retraining.

    python benchmarks/bench_unlearn.py                  # minutes; resumes; benchmarks/results/bench_unlearn.json
    python benchmarks/bench_unlearn.py --quick          # the digits of scikit-learn, seconds; writes nothing
    python benchmarks/bench_unlearn.py --only sequence  # one part
    python benchmarks/bench_unlearn.py --show           # what is stored, beside the targets

A cell is a part, what it is measured on, and a seed. Each is stored as soon as it is there, and a second run
continues. CPU seconds are of one thread, all ratios of a cell from one process. `--data` is a folder with
MNIST's four files in `mnist/`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _harness
import _unlearn_linear as linear  # sets one thread before numpy's libraries start
import _unlearn_selection as selection
import _unlearn_work as work
import numpy as np
import torch

RESULT = _harness.RESULTS / "bench_unlearn.json"
PACKAGES = ("codec", "torch", "numpy", "scipy", "scikit-learn")
SEEDS = (31, 32, 33, 34, 35)  # little was chosen on these, see docs/unlearning.rst
WHERE = ("date", "git", "cpu")  # of the environment, in every cell: parts can be measured anew
PARTS = ("requests", "sequence", "captured", "selection", "damping", "linear")
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """Rows that are measured together."""

    part: str
    name: str
    seed: int
    compute: Callable[[], list[Row]]

    @property
    def key(self) -> str:
        return f"{self.part}/{self.name}/{self.seed}"


def cells(folder: Path, quick: bool) -> Iterator[Cell]:
    """Everything there is to measure."""
    for seed in SEEDS[:1] if quick else SEEDS:
        for name in work.NETWORKS:
            yield Cell("requests", name, seed, partial(work.requests, folder, quick, name, seed))
        yield Cell("sequence", "784-100-10", seed, partial(work.sequence, folder, quick, "784-100-10", seed))
        for name in list(work.CAPTURED)[: 1 if quick else None]:
            yield Cell("captured", name, seed, partial(work.captured, folder, quick, name, seed))
    yield Cell("selection", "L-FOCI", SEEDS[0], partial(selection.selection, folder, quick, SEEDS[0]))
    for name in () if quick else work.TRAININGS:
        yield Cell("damping", name, SEEDS[0], partial(work.damping, folder, quick, name, SEEDS[0]))
    for name, question in linear.QUESTIONS.items():
        yield Cell("linear", name, 0, partial(question, folder, quick))


# ---------------------------------------------------------------------- summaries
def medians(stored: dict[str, Any], part: str, name: str) -> dict[tuple[str, str], Row]:
    """Medians over seeds, by case and model, and the values behind those of the forget loss."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for cell in stored.values():
        if (cell["part"], cell["name"]) == (part, name):
            for row in cell["rows"]:
                runs.setdefault((row["case"], row["model"]), []).append(row)
    found = {}
    for key, rows in runs.items():
        numbers = [k for k, v in rows[0].items() if isinstance(v, int | float) and not isinstance(v, bool)]
        found[key] = {k: float(np.median([row[k] for row in rows])) for k in numbers} | {"seeds": len(rows)}
    return found


def judged(what: str, value: float, low: float | None, high: float | None, seeds: int) -> Row:
    met = (low is None or value >= low) and (high is None or value <= high)
    return {"what": what, "measured": float(f"{value:.4g}"), "low": low, "high": high, "met": bool(met), "seeds": seeds}


def ratios(stored: dict[str, Any], name: str, case: str, key: str, other: str | None = None) -> list[float]:
    """Of each seed: a number of the step's row over the retrained network's."""
    found = []
    for cell in stored.values():
        if (cell["part"], cell["name"]) == ("requests", name):
            rows = {row["model"]: row for row in cell["rows"] if row["case"] == case}
            found += [rows["codec"][key] / rows["retrained"][other or key]] if rows else []
    return found


def request_targets(stored: dict[str, Any]) -> Iterator[Row]:
    """Cost and forget loss of single requests."""
    mlp, cnn = "784-100-10", "small CNN"
    for case, least in (("random 100", 0.55), ("hardest 100", 0.5)):
        loss = ratios(stored, mlp, case, "forget_loss")
        if not loss:
            continue
        cpu = medians(stored, "requests", mlp)[case, "codec"]
        share = float(np.median(ratios(stored, mlp, case, "cpu_s")))
        worst = max(loss, key=lambda r: abs(np.log(r)))
        yield judged(f"{mlp}, {case}: forget loss / retrained", float(np.median(loss)), least, 1 / least, len(loss))
        yield judged(f"{mlp}, {case}: the same, seed farthest from 1", worst, least, 1 / least, len(loss))
        yield judged(f"{mlp}, {case}: CPU s", cpu["cpu_s"], None, 0.35, len(loss))
        yield judged(f"{mlp}, {case}: CPU / retrained", share, None, 0.25, len(loss))
        yield judged(f"{mlp}, {case}: CPU s with set-up", cpu["first_cpu_s"], None, 0.35, len(loss))
    for case in ("random 100", "hardest 100", "hardest 1", "hardest, second"):
        loss = ratios(stored, cnn, case, "forget_loss")
        if loss:
            worst = max(loss, key=lambda r: abs(np.log(r)))
            share = float(np.median(ratios(stored, cnn, case, "first_cpu_s", "cpu_s")))
            yield judged(f"{cnn}, {case}: forget loss / retrained", float(np.median(loss)), 0.5, 1.5, len(loss))
            yield judged(f"{cnn}, {case}: the same, seed farthest from 1", worst, 0.5, 1.5, len(loss))
            yield judged(f"{cnn}, {case}: CPU with set-up / retrained", share, None, 1.0, len(loss))


def sequence_targets(stored: dict[str, Any]) -> Iterator[Row]:
    """A hundred requests, one after the other."""
    found = medians(stored, "sequence", "784-100-10")
    for case in dict.fromkeys(case for case, _ in found):
        step, retrained = found[case, "codec"], found[case, "retrained"]
        gap = {key: abs(step[key] - retrained[key]) for key in ("forget_accuracy", "test_accuracy")}
        yield judged(f"{case}: CPU s a request, median", step["cpu_s"], None, 0.06, step["seeds"])
        yield judged(f"{case}: CPU s a request, mean", step["mean_cpu_s"], None, 0.06, step["seeds"])
        yield judged(f"{case}: forget accuracy off by", gap["forget_accuracy"], None, 0.05, step["seeds"])
        yield judged(f"{case}: test accuracy off by", gap["test_accuracy"], None, 0.005, step["seeds"])
        yield judged(f"{case}: disagreement", step["disagreement"], None, 0.013, step["seeds"])


def captured_targets(stored: dict[str, Any]) -> Iterator[Row]:
    """Share of the decrement in twenty units; random and hardest samples together."""
    for case, network in work.CAPTURED.items():
        default, joint = (0.62, 0.70) if network.decay == 0.01 else (0.44, 0.53)
        found = medians(stored, "captured", case)
        for model, low in (("lfoci", default), ("kfac_greedy", joint)):
            rows = [row for (_, name), row in found.items() if name == model]
            if rows:
                seeds, share = rows[0]["seeds"], float(np.mean([row["captured"] for row in rows]))
                yield judged(f"{case}: captured by {model}", share, low, None, seeds)
                cpu = float(np.mean([row["select_cpu_s"] for row in rows]))
                high = 0.06 if model == "lfoci" else None
                yield judged(f"{case}: CPU s to select, {model}", cpu, None, high, seeds)


def summary(stored: dict[str, Any]) -> list[Row]:
    """What was to be reached beside what was, medians over seeds."""
    linear_rows = [
        judged(f"{cell['name']}: {row['case']}", row["measured"], None, row["target"], 1)
        for cell in stored.values()
        if cell["part"] == "linear"
        for row in cell["rows"]
        if row["target"] is not None
    ]
    steps = [
        judged(row["case"], row["measured"], row["low"], row["high"], 1)
        for cell in stored.values()
        if cell["part"] == "selection"
        for row in cell["rows"]
    ]
    return [*request_targets(stored), *sequence_targets(stored), *captured_targets(stored), *steps, *linear_rows]


# ---------------------------------------------------------------------- running
def show(name: str, row: Row) -> None:
    text = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if not isinstance(v, list))
    print(f"{name}: {', '.join(text)}", flush=True)


def main() -> None:
    """Measure the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="small data, seconds; writes nothing")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--most", type=int, help="cells to measure now; a later run continues")
    parser.add_argument("--show", action="store_true", help="print what is stored")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = options.output.exists() and not options.quick
    report = json.loads(options.output.read_text()) if kept else {"cells": {}}
    stored: dict[str, Any] = report["cells"]
    here = _harness.environment(PACKAGES)
    wanted = () if options.show else cells(options.data, options.quick)
    missing = [cell for cell in wanted if cell.key not in stored and options.only in {None, cell.part}]
    for cell in missing[: options.most]:
        rows = cell.compute()
        where = {key: here[key] for key in WHERE}
        stored[cell.key] = {"part": cell.part, "name": cell.name, "seed": cell.seed, **where, "rows": rows}
        for row in rows:
            show(cell.key, row)
        if not options.quick:
            report |= {"environment": here, "summary": summary(stored)}
            _harness.write_json(report, options.output)
    for row in () if options.quick else summary(stored):
        show("met" if row["met"] else "MISSED", row)


if __name__ == "__main__":
    main()
