"""K-FAC beside the exact curvature, on a network 784-20-10: how much of the exact step it takes, and what is forgotten.

The paper compares its selection with a K-FAC Hessian by the accuracy that is left; here the directions are also
compared on the quadratic model that all of them approximate. Full settings need MNIST's four files in FOLDER/mnist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import _common  # isort: split

import _networks
import torch
from _common import Note, Table
from torch import Tensor, nn

from codec.unlearn import Problem, Unlearner, baselines, find_units
from codec.unlearn._curvature import Curvature
from codec.unlearn._requests import others
from codec.unlearn._slices import Slices
from codec.unlearn._training import Recipe

DECAY = 5e-4
DAMPING = 6 * DECAY
RECIPE = Recipe(epochs=20, lr=0.05, batch_size=250, schedule="cosine")
SELECTORS = {
    "gradient norm": "gradient_norm",
    "K-FAC greedy": "kfac_greedy",
    "greedy, exact": "greedy_decrement",
    "L-FOCI": "lfoci",
    "random": "random",
}
FIGURES = ("forget loss", "forgotten", "residual", "test", "differs from retrained", "CPU s")
Row = dict[str, Any]


def hidden(data: _networks.Data) -> nn.Module:
    """784-20-10, or its small sister."""
    return nn.Sequential(nn.Linear(data.x.shape[1], 20), nn.ReLU(), nn.Linear(20, 10))


class Case:
    """One request on one trained network, and how a model stands after it."""

    def __init__(self, problem: Problem, data: _networks.Data, gone: Sequence[int], retrained: nn.Module) -> None:
        self.problem, self.data, self.gone, self.retrained = problem, data, list(gone), retrained
        self.slices = Slices(find_units(problem.model))
        self.exact = Curvature(problem, problem.parameters(), others(self.gone, problem.n), self.slices)
        everyone, m = torch.arange(problem.n), len(self.gone)
        difference = self.exact.gradient(self.gone) - self.exact.gradient(everyone)
        self.b = difference * (m / (problem.n - m))

    def figures(self, model: nn.Module) -> Row:
        """Accuracies, and how often the test answers differ from the retrained network's."""
        answers = [_networks.answers(_networks.outputs(m, self.data.test_x)) for m in (model, self.retrained)]
        differs = float((answers[0] != answers[1]).double().mean())
        return _networks.measured(model, self.data, self.gone) | {"differs from retrained": differs}

    def moved(self, delta: Tensor) -> nn.Module:
        """The network after a step."""
        return _networks.loaded(self.problem.model, self.slices.add(self.problem.parameters(), delta))

    def directions(self) -> dict[str, Callable[[], Tensor]]:
        """Approximate solutions of ``(H_R + mu I) x = b`` on all weights."""
        kept = self.exact.retain_ids
        return {
            "exact GGN": lambda: self.exact.solve(self.b, DAMPING, tol=1e-4, max_iter=500).x,
            "K-FAC": lambda: (
                Curvature(self.problem, self.exact.params, kept, self.slices, "kfac").solve(self.b, DAMPING).x
            ),
            "diagonal": lambda: self.b / (self.exact.diagonal() + DAMPING),
            "gradient alone": lambda: self.b / (DAMPING + DECAY),
        }

    def steps(self) -> list[Row]:
        """Each direction's share of the exact step's decrease, as it is and at its best length, and what it forgets."""
        found, best = [], None
        for name, direction in self.directions().items():
            start = time.process_time()
            x = direction()
            seconds = time.process_time() - start
            along, bent = float(self.b @ x), float(x @ self.exact.product(x) + DAMPING * (x @ x))
            with_length = time.process_time() - start  # the best length takes a product with the exact curvature
            best = best or along - bent / 2
            shares = {"share": (along - bent / 2) / best, "share, best length": along**2 / (2 * bent) / best}
            for label, length, spent in ((name, 1.0, seconds), (f"{name}, best length", along / bent, with_length)):
                found.append({"model": label, "CPU s": round(spent, 3)} | shares | self.figures(self.moved(length * x)))
        return found[:1] + found[2:]  # the exact step's best length is 1

    def units(self, max_units: int, seed: int) -> list[Row]:
        """The exact step on a third of the units, by who chose them."""
        found = []
        for name, selector in SELECTORS.items():
            unlearner = Unlearner(
                self.problem.model, "cross_entropy", (self.data.x, self.data.y), weight_decay=DECAY, selector=selector,
                max_units=max_units, damping=DAMPING, random_state=seed,
            )  # fmt: skip
            deletion = unlearner.forget(self.gone)
            seconds = round(sum(v for k, v in deletion.timings.items() if k in {"select", "solve"}), 3)
            row = {"model": name, "captured": deletion.captured_decrement, "CPU s": seconds}
            found.append(row | self.figures(unlearner.model))
        return found


def sequences(
    problem: Problem, data: _networks.Data, queue: Sequence[int], marks: Sequence[int], retrain: Any
) -> list[Row]:
    """One sample a request: exact curvature, K-FAC, and the paper's step, beside retraining."""
    look, found = partial(lambda model, gone: _networks.measured(model, data, gone)), []
    for name, kind in (("exact GGN", "ggn"), ("K-FAC", "kfac")):
        unlearner = Unlearner(
            problem.model, "cross_entropy", (data.x, data.y), weight_decay=DECAY, selector="all", curvature=kind,
            captured=False, random_state=0,
        )  # fmt: skip
        found += [{"model": name} | row for row in _networks.one_by_one(unlearner, queue, marks, look)]
    for k in marks:
        gone = list(queue[:k])
        paper = _networks.loaded(problem.model, baselines.paper_step(problem, gone).parameters)
        for name, model in (("the paper's step", paper), ("retrained", retrain(gone)), ("nothing", problem.model)):
            found.append({"model": name, "deleted": k, "CPU s a deletion": None, "refused": 0} | look(model, gone))
    return found


def table(name: str, title: str, rows: Sequence[Row], columns: Sequence[str], note: str = "") -> Table:
    """Some entries of rows."""
    return Table(name, title, list(columns), [[row.get(c) for c in columns] for row in rows], note=note)


def finding(steps: Sequence[Row], sequence: Sequence[Row]) -> Note:
    """Who ends nearer to the retrained network, K-FAC or the exact curvature."""
    found = {(row["request"], row["model"]): row["forget loss"] for row in steps}
    requests = {row["request"] for row in steps}
    gaps = {
        name: sum(
            abs(found[r, name] - found[r, "retrained"]) < abs(found[r, "nothing"] - found[r, "retrained"])
            for r in requests
        )
        for name in ("exact GGN", "K-FAC", "K-FAC, best length")
    }
    nearer = sum(
        abs(found[r, "K-FAC, best length"] - found[r, "retrained"]) < abs(found[r, "exact GGN"] - found[r, "retrained"])
        for r in requests
    )
    most = max(row["deleted"] for row in sequence)
    test = {row["model"]: row["test"] for row in sequence if row["deleted"] == most}
    accuracies = ", ".join(f"{name} {value:.3f}" for name, value in test.items())
    better = ", ".join(f"{name} in {count}" for name, count in gaps.items())
    return Note(
        f"Nearer to the retrained forget loss than doing nothing, of {len(requests)} requests: {better}. K-FAC at its best "
        f"length is nearer than the exact step in {nearer}: on the quadratic model the exact step is the best, and with this "
        f"damping it goes too far on the network. Test accuracy after {most:,} deletions: {accuracies}."
    )


def run(arguments: Any) -> list[Any]:
    """Three requests and one sequence, all from one trained network."""
    data = _networks.mnist(arguments.data, 1200 if arguments.quick else 5_000, arguments.quick)
    many, marks = (20, [1, 10]) if arguments.quick else (100, [1, 10, 100])

    def trained(gone: Sequence[int] = (), seed: int = arguments.seed) -> nn.Module:
        make = partial(hidden, data)
        return _networks.fit(make, data.x, data.y, RECIPE, weight_decay=DECAY, seed=seed, without=gone)

    problem = Problem(trained(), "cross_entropy", (data.x, data.y), weight_decay=DECAY)
    hardest = problem.sample_losses(problem.parameters()).argsort(descending=True, stable=True).tolist()
    queue = torch.randperm(data.n, generator=torch.Generator().manual_seed(arguments.seed)).tolist()
    requests = {"1 hardest": hardest[:1], f"{many} hardest": hardest[:many]}
    if not arguments.quick:
        requests[f"{many} random"] = queue[:many]
    steps, units = [], []
    for name, gone in requests.items():

        def work(gone: Sequence[int] = gone) -> tuple[list[Row], list[Row]]:
            case = Case(problem, data, gone, trained(gone))
            models = {"retrained": case.retrained, "retrained, other seed": trained(gone, arguments.seed + 1)}
            fixed = [{"model": k} | case.figures(m) for k, m in (models | {"nothing": problem.model}).items()]
            return [*fixed, *case.steps()], [*fixed, *case.units(10, arguments.seed)]

        for rows, part in zip((steps, units), arguments.keep(f"request of {name}", work), strict=True):
            rows += [{"request": name} | row for row in part]
    sequence = arguments.keep("sequence", lambda: sequences(problem, data, queue, marks, trained))
    size = f"{data.n:,} digits, {data.x.shape[1]}-20-10"
    return [
        table("steps", f"All weights: {size}", steps, ["request", "model", "share", "share, best length", *FIGURES], STEPS),
        table("units", f"10 of 30 units: {size}", units, ["request", "model", "captured", *FIGURES], UNITS),
        table(
            "sequence", f"One sample a request: {size}", sequence,
            ["model", "deleted", "forget loss", "forgotten", "residual", "test", "refused", "CPU s a deletion"],
            _networks.STEP_ON_ALL,
        ),
        finding(steps, sequence),
        *([] if arguments.quick else [Note(SIZES)]),
    ]  # fmt: skip


STEPS = (
    "Share: decrease of the quadratic model with the exact curvature, by the exact step's; negative where a step of length "
    "1 goes up. Damping is 6 times the weight decay everywhere. The time at the best length includes the product with the "
    "exact curvature that finds it."
)
UNITS = "Captured: share of the full step's decrease that the 10 units have. The step on them uses the exact curvature."
SIZES = "The paper has 50,000 digits and 1,000 deletions; here 5,000 and 100."


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    options = _common.parser(__doc__)
    title = "K-FAC beside the exact curvature"
    return _common.main(run, name="kfac", title=title, options=options, arguments=arguments)


if __name__ == "__main__":
    main()
