"""One step of L-FOCI on a thousand perturbed copies, beside a fresh search of neighbours for every candidate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _unlearn_work as work
import numpy as np
from scipy.stats import rankdata
from sklearn.neighbors import NearestNeighbors

from codec import foci
from codec.unlearn._record import record

Row = dict[str, Any]
STEPS = 3
LARGE = 4_800  # filters of ResNet-18


def recording(folder: Path, quick: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations of all 110 units of the fully connected network, in standard deviations, and losses."""
    bench = work.Bench(folder, quick, work.NETWORKS["784-100-10"], seed)
    unlearner = bench.unlearner()
    inputs, targets = unlearner.problem.fetch(bench.hardest[:1])
    rows = 100 if quick else 1_000
    draws = np.random.default_rng(seed)
    found = record(unlearner.problem, unlearner.units, inputs, targets, n_perturbations=rows, generator=draws)
    columns = found.activations.double().numpy()
    spread = columns.std(0)
    noise = 1e-3 * np.where(spread > 0.0, spread, 1.0) * draws.standard_normal(columns.shape)  # as L-FOCI does
    return (columns + noise) / (columns + noise).std(0, ddof=1), found.losses.double().numpy()


def by_fresh_searches(columns: np.ndarray, losses: np.ndarray, steps: int) -> list[int]:
    """Forward selection with one neighbour that searches anew for every candidate, as the paper's code does."""
    ranks, chosen = rankdata(losses, "max"), []
    for _ in range(steps):
        best, pick = -1.0, -1
        for j in [j for j in range(columns.shape[1]) if j not in chosen]:
            table = columns[:, [*chosen, j]]
            near = NearestNeighbors(n_neighbors=1).fit(table).kneighbors(return_distance=False)[:, 0]
            total = float(np.minimum(ranks, ranks[near]).sum())
            best, pick = (total, j) if total > best else (best, pick)
        chosen.append(pick)
    return chosen


def timed(columns: np.ndarray, losses: np.ndarray, k: int) -> tuple[float, list[int]]:
    """CPU seconds a step, and the units."""
    start = time.process_time()
    path = foci(columns, losses, stop=False, max_features=STEPS, n_neighbors=k, standardize=None)
    return (time.process_time() - start) / STEPS, path.order.tolist()


def selection(folder: Path, quick: bool, seed: int) -> list[Row]:
    """CPU of a step for 110 units beside fresh searches, and for as many as ResNet-18 has."""
    columns, losses = recording(folder, quick, seed)
    timed(columns, losses, 1)  # compiled code is loaded
    ours, picks = timed(columns, losses, 1)
    start = time.process_time()
    others = by_fresh_searches(columns, losses, STEPS)
    theirs = (time.process_time() - start) / STEPS
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal((len(losses), 50)) @ rng.standard_normal((50, LARGE // (40 if quick else 1)))
    wide = np.maximum(wide, 0.0) + 1e-3 * rng.standard_normal(wide.shape)
    answer = (wide[:, 0] - wide[:, 1]) ** 2 + rng.standard_normal(len(losses))
    n = f"n = {len(losses)}"
    return [
        {"case": f"{n}, p = 110: a step, CPU ms", "measured": 1e3 * ours, "low": None, "high": None},
        {"case": f"{n}, p = 110: fresh searches over it", "measured": theirs / ours, "low": 20.0, "high": None},
        {"case": f"{n}, p = 110: picks that differ", "measured": float(picks != others), "low": None, "high": 0.0},
        *(
            {"case": f"{n}, p = {wide.shape[1]}, {k} neighbours: a step, CPU s"}
            | {"measured": timed(wide, answer, k)[0], "low": None, "high": 2.5}
            for k in (1, 10)
        ),
    ]
