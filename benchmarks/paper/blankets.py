"""Markov blankets of the bullseye: ROC curves of scores for "belongs to the blanket".

    python benchmarks/paper/blankets.py            # minutes
    python benchmarks/paper/blankets.py --quick    # seconds

Six distances from a centre, or points at these distances in the plane or in space; four of the six belong to the
blanket of y. Every method gives each of the six a score; the curve is over the threshold, all data sets pooled.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import _common
import numpy as np
from _common import Figure, Note, Panel, Table
from scipy.special import digamma
from sklearn.metrics import roc_auc_score, roc_curve

from codec import MarkovBlanketSelector, codec, lfoci
from codec.datasets import Simulation, make_bullseye

Array = np.ndarray
GEOMETRIES = {"radii": None, "plane": 2, "space": 3}
# Data sets of each size. Points in space at n = 1,000 would take half as long as all the rest.
FULL = {"radii": {250: 20, 1000: 10}, "plane": {250: 20, 1000: 10}, "space": {250: 20}}
QUICK = {"radii": {100: 2}, "plane": {100: 2}}
ALPHAS = (0.01, 0.05, 0.2, 0.5)
POINTS = range(6)
MEMBERS = (2, 3, 4, 5)


# ---------------------------------------------------------------------- conditional mutual information
def distances(X: Array, columns: Sequence[int]) -> Array:
    """Largest coordinate difference of every two rows, 0 without columns."""
    far = np.zeros((len(X), len(X)))
    for j in columns:
        np.maximum(far, np.abs(X[:, j, None] - X[:, j]), out=far)
    return far


def conditional_information(x: Array, y: Array, z: Array, k: int, *, ties: bool) -> float:
    r"""I(X; Y | Z) in nats by k neighbours, from the distances of every two rows in x, in y and in z.

    .. math:: \psi(k) - \frac1n \sum_i [\psi(n_{xz}(i)) + \psi(n_{yz}(i)) - \psi(n_z(i))]

    Frenzel & Pompe (Phys. Rev. Lett. 99, 204101, 2007, eq. 8): rows, the row itself counted, that are strictly nearer
    than the kth neighbour in the joint space. With `ties`, Mesner & Shalizi (IEEE Trans. Inf. Theory 67(1), 2021,
    Algorithm 1): rows not farther than it, the row itself left out, and k replaced by their number in the joint
    space where that distance is 0.
    """
    xz, yz = np.maximum(x, z), np.maximum(y, z)
    joint = np.maximum(xz, y)
    radius = np.partition(joint, k, axis=1)[:, k, None]  # place 0 is the row itself
    if ties:
        count = [(space <= radius).sum(axis=1) - 1 for space in (xz, yz, z)]
        inside: Any = np.where(radius[:, 0] == 0, (joint <= radius).sum(axis=1) - 1, k)
    else:
        count = [np.maximum((space < radius).sum(axis=1), 1) for space in (xz, yz, z)]
        inside = k
    in_xz, in_yz, in_z = map(digamma, count)
    return float(np.mean(digamma(inside) - in_xz - in_yz + in_z))


def spaces(data: Simulation) -> tuple[Array, list[Array]]:
    """Distances in y and in each of the six, all columns standardized."""
    X = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    y = ((data.y - data.y.mean()) / data.y.std())[:, None]
    return distances(y, [0]), [distances(X, columns) for columns in groups(data)]


def information_given_the_rest(data: Simulation, k: int, *, ties: bool) -> list[float]:
    """I(Y; point | the other points)."""
    y, points = spaces(data)
    rest = [np.maximum.reduce([points[i] for i in POINTS if i != j]) for j in POINTS]
    return [conditional_information(points[j], y, rest[j], k, ties=ties) for j in POINTS]


def information_by_entry(data: Simulation, k: int, *, ties: bool) -> list[float]:
    """Forward selection of the point with the largest I(Y; point | selected): the earlier, the better."""
    y, points = spaces(data)
    z, order = np.zeros_like(y), []
    while left := [j for j in POINTS if j not in order]:
        gains = [conditional_information(points[j], y, z, k, ties=ties) for j in left]
        order.append(left[int(np.argmax(gains))])
        z = np.maximum(z, points[order[-1]])
    return [-float(order.index(j)) for j in POINTS]


# ---------------------------------------------------------------------- scores
def groups(data: Simulation) -> list[list[int]]:
    """Columns of each of the six."""
    return [list(group) for group in data.groups] if data.groups else [[j] for j in POINTS]


def given_the_rest(data: Simulation, k: int) -> list[float]:
    """T(Y, point | the other points) with k neighbours."""
    columns = groups(data)
    return [
        codec(data.y, data.X[:, own], given=np.delete(data.X, own, axis=1), n_neighbors=k) for own in columns
    ]  # fmt: skip


def by_entry(data: Simulation, seed: int) -> list[float]:
    """L-FOCI without its stop: a point is the better the earlier its first column enters."""
    order = list(lfoci(data.X, data.y, stop=False, rng=seed).order)
    return [-float(min(order.index(j) for j in own)) for own in groups(data)]


def chosen(data: Simulation, seed: int, **options: Any) -> Array:
    """Whether each point is selected; by any of its columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing selected
        support = MarkovBlanketSelector(random_state=seed, **options).fit(data.X, data.y).support_
    return np.array([support[own].any() for own in groups(data)])


def by_level(data: Simulation, seed: int) -> list[float]:
    """The calibrated selector: at how many of the levels a point is selected."""
    own = groups(data) if data.groups else None
    return np.sum([chosen(data, seed, alpha=alpha, groups=own) for alpha in ALPHAS], axis=0).astype(float).tolist()


SCORES: dict[str, Callable[[Simulation, int], list[float]]] = {
    "CMI given the rest, Frenzel-Pompe": lambda data, _: information_given_the_rest(data, 7, ties=False),
    "CMI given the rest, Mesner-Shalizi": lambda data, _: information_given_the_rest(data, 7, ties=True),
    "CMI, order of entry, Frenzel-Pompe": lambda data, _: information_by_entry(data, 7, ties=False),
    "CMI, order of entry, Mesner-Shalizi": lambda data, _: information_by_entry(data, 7, ties=True),
    "T given the rest, 1 neighbour": lambda data, _: given_the_rest(data, 1),
    "T given the rest, √n neighbours": lambda data, _: given_the_rest(data, round(len(data.y) ** 0.5)),
    "L-FOCI, order of entry": by_entry,
    "MarkovBlanketSelector, levels .01 to .5": by_level,
}
ANSWERS: dict[str, Callable[[Simulation, int], Array]] = {
    "L-FOCI": lambda data, seed: chosen(data, seed, method="lfoci"),
    "MarkovBlanketSelector": lambda data, seed: chosen(data, seed, groups=groups(data) if data.groups else None),
}


# ---------------------------------------------------------------------- the experiment
def one(geometry: str, n: int, seed: int) -> dict[str, Any]:
    """Scores and answers of every method on one data set, with CPU seconds."""
    data = make_bullseye(n, dim=GEOMETRIES[geometry], random_state=seed)

    def timed(method: Callable[[Simulation, int], Any]) -> dict[str, Any]:
        start = time.process_time()
        values = method(data, seed)
        return {"values": [float(v) for v in values], "cpu_s": time.process_time() - start}

    return {
        "scores": {name: timed(method) for name, method in SCORES.items()},
        "answers": {name: timed(method) for name, method in ANSWERS.items()},
    }


def mean_and_error(values: Sequence[float]) -> list[float]:
    """Mean over data sets and its standard error."""
    return [float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))]


def auc_row(name: str, runs: dict[Any, list[dict[str, Any]]]) -> list[Any]:
    """Area under the curve of each data set, mean and error for every geometry and n."""
    truth = np.isin(POINTS, MEMBERS)
    cells = [mean_and_error([roc_auc_score(truth, r["scores"][name]["values"]) for r in rs]) for rs in runs.values()]
    seconds = [r["scores"][name]["cpu_s"] for r in list(runs.values())[-1]]
    return [name, *cells, float(np.median(seconds))]


def answer_rows(runs: dict[Any, list[dict[str, Any]]]) -> list[list[Any]]:
    """What is selected by default: share of members, share of others, F1."""
    rows = []
    for (geometry, n), found in runs.items():
        for name in ANSWERS:
            picked = np.array([r["answers"][name]["values"] for r in found], dtype=bool)
            members = picked[:, MEMBERS].sum(axis=1)
            f1 = mean_and_error(2 * members / (picked.sum(axis=1) + len(MEMBERS)))
            others = np.delete(picked, MEMBERS, axis=1)
            seconds = float(np.median([r["answers"][name]["cpu_s"] for r in found]))
            rows.append(
                [f"{geometry}, n = {n:,}", name, float(picked[:, MEMBERS].mean()), float(others.mean()), f1, seconds]
            )
    return rows


def curves(geometry: str, n: int, runs: Sequence[dict[str, Any]]) -> Panel:
    """One curve a method, all data sets pooled; the default answers as points."""
    truth = np.tile(np.isin(POINTS, MEMBERS), len(runs))
    lines, marks = [], []
    for name in SCORES:
        false, true, _ = roc_curve(truth, np.concatenate([r["scores"][name]["values"] for r in runs]))
        lines.append({"label": name, "x": false.round(4).tolist(), "y": true.round(4).tolist()})
    for name in ANSWERS:
        picked = np.concatenate([r["answers"][name]["values"] for r in runs])
        marks.append(
            {"label": f"{name}: its answer", "x": [picked[~truth].mean()], "y": [picked[truth].mean()]}
        )  # fmt: skip
    return Panel(f"{geometry}, n = {n:,}", "others selected", "members selected", lines, marks, diagonal=True)


def counted(plan: dict[str, dict[int, int]]) -> str:
    """How many data sets of each size."""
    return " and ".join(f"{count} data sets of n = {n:,}" for n, count in plan["radii"].items())


def run(arguments: argparse.Namespace) -> list[Any]:
    """All geometries and sizes."""
    plan = QUICK if arguments.quick else FULL
    runs = {
        (kind, n): [
            arguments.keep(f"{kind} {n} {i}", lambda k=kind, n=n, i=i: one(k, n, 1000 * arguments.seed + i))
            for i in range(count)
        ]
        for kind, counts in plan.items()
        for n, count in counts.items()
    }
    table = Table(
        "auc",
        "Area under the ROC curve: which of the six belong to the blanket",
        ["score", *(f"{kind}, n = {n:,}" for kind, n in runs), "CPU s, the last column"],
        [auc_row(name, runs) for name in SCORES],
        note=f"Mean ± standard error over {counted(plan)}; .5 is chance, and below it "
        "points outside the blanket score higher. The paper shows curves; no number of it is quoted. "
        "CMI takes k = 7 neighbours. 'Given the rest': each of the six given the five others. 'Order of entry': "
        "forward selection of all six. L-FOCI sees coordinates one at a time, the others see whole points.",
    )
    answers = Table(
        "answers",
        "What is selected with the defaults",
        ["data", "method", "members selected", "others selected", "F1", "CPU s"],
        answer_rows(runs),
    )
    panels = [curves(kind, max(counts), runs[kind, max(counts)]) for kind, counts in plan.items()]
    figure = Figure("roc", "ROC curves, all data sets pooled", panels, across=3)
    return [table, answers, figure, finding(table)]


def finding(table: Table) -> Note:
    """Which score is best where, from the table itself."""
    best = [max(table.rows, key=lambda row: row[j][0]) for j in range(1, len(table.columns) - 1)]
    words = "; ".join(
        f"{table.columns[j]}: {row[0]} ({_common.cell(row[j])})" for j, row in enumerate(best, start=1)
    )  # fmt: skip
    return Note(f"Largest area for each kind of data: {words}.")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    return _common.main(
        run,
        name="blankets",
        title="Markov blankets of the bullseye",
        options=_common.parser(__doc__),
        arguments=arguments,
    )


if __name__ == "__main__":
    main()
