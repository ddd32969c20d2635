"""MNIST, one deletion after the other: logistic regression and a network 784-100-10, beside retrained models.

The paper deletes 1,000 of 50,000 digits and reports accuracies that hold up; here every number stands beside the
model that was trained without the deleted digits. Full settings need MNIST's four files in FOLDER/mnist.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import _common  # isort: split

import _networks
import torch
from _common import Figure, Note, Panel, Table
from torch import Tensor, nn

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._training import Recipe
from codec.unlearn.linear import RemovableLogisticRegression

LOGISTIC_DECAY, NETWORK_DECAY = 0.01, 5e-4
RECIPE = Recipe(epochs=20, lr=0.05, batch_size=250, schedule="cosine")
SELECTORS = {
    "all units": "all",
    "gradient norm": "gradient_norm",
    "random units": "random",
    "K-FAC greedy": "kfac_greedy",
    "L-FOCI": "lfoci",
}
MOST_LFOCI = 300  # deletions by L-FOCI from the logistic regression, where it costs most; the others go to the end
COLUMNS = (
    "distance to retrained", "sample gradient", "residual gradient", "forget loss", "forgotten", "residual", "test",
    "CPU s a deletion", "refused",
)  # fmt: skip
Look = Callable[[nn.Module, Sequence[int]], dict[str, float]]


def looker(problem: Problem, data: _networks.Data, retrained: Callable[[Sequence[int]], nn.Module]) -> Look:
    """What is measured of a model after some deletions."""

    def look(model: nn.Module, gone: Sequence[int]) -> dict[str, float]:
        params, other = _networks.parameters(model), _networks.parameters(retrained(gone))
        distance = float(sum((params[k] - other[k]).square().sum() for k in params) ** 0.5)
        norms = _networks.gradient_norms(problem, params, gone)
        return _networks.finite({"distance to retrained": distance} | norms | _networks.measured(model, data, gone))

    return look


def references(
    problem: Problem, queue: Sequence[int], marks: Sequence[int], look: Look, others: dict[str, Any]
) -> dict[str, list[dict[str, float]]]:
    """Rows of models that are made anew at every mark: nothing done, retrained, the paper's step."""

    def paper(gone: Sequence[int]) -> nn.Module:
        return _networks.loaded(problem.model, baselines.paper_step(problem, list(gone)).parameters)

    makers = others | {"nothing": lambda _: problem.model, "the paper's step": paper}
    return {
        name: [{"deleted": k, "CPU s a deletion": None, "refused": 0} | look(make(queue[:k]), queue[:k]) for k in marks]
        for name, make in makers.items()
    }


# ---------------------------------------------------------------------- logistic regression
def as_linear(fitted: RemovableLogisticRegression) -> nn.Module:
    """The same model for torch."""
    model = nn.Linear(fitted.coef_.shape[1], len(fitted.classes_))
    weights = {"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)}
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    return model


def newton_one_by_one(
    fitted: RemovableLogisticRegression, queue: Sequence[int], marks: Sequence[int], look: Look
) -> list[dict[str, float]]:
    """The package's linear model, one Newton step a deletion."""
    model, found, seconds = copy.deepcopy(fitted).prepare(), [], 0.0
    for k, i in enumerate(queue[: max(marks)], start=1):
        seconds += sum(model.forget(int(i), steps=1).timings.values())
        if k in marks:
            cost = {"deleted": k, "CPU s a deletion": round(seconds / k, 4), "refused": 0}
            found.append(cost | look(as_linear(model), queue[:k]))
    return found


def logistic(arguments: Any, data: _networks.Data, queue: Sequence[int], marks: Sequence[int]) -> dict[str, Any]:
    """Every way to delete from a softmax regression."""

    def trained(gone: Sequence[int] = ()) -> RemovableLogisticRegression:
        keep = torch.ones(data.n, dtype=torch.bool)
        keep[list(gone)] = False
        return RemovableLogisticRegression(LOGISTIC_DECAY, tolerance=1e-6).fit(
            data.x[keep].numpy(), data.y[keep].numpy()
        )

    fitted, exact = trained(), {}

    def retrained(gone: Sequence[int]) -> nn.Module:
        if len(gone) not in exact:
            exact[len(gone)] = as_linear(trained(gone))
        return exact[len(gone)]

    problem = Problem(as_linear(fitted), "cross_entropy", (data.x, data.y), weight_decay=LOGISTIC_DECAY)
    look = looker(problem, data, retrained)
    found = arguments.keep(
        "logistic, references", lambda: references(problem, queue, marks, look, {"retrained": retrained})
    )
    name = "Newton step, all weights"
    found[name] = arguments.keep(f"logistic, {name}", lambda: newton_one_by_one(fitted, queue, marks, look))
    for name, selector in (
        ("L-FOCI, 3 of 10 rows", "lfoci"),
        ("gradient norm, 3 rows", "gradient_norm"),
        ("random, 3 rows", "random"),
    ):
        few = [k for k in marks if selector != "lfoci" or k <= MOST_LFOCI]
        make = partial(unlearner, problem, data, selector, LOGISTIC_DECAY, max_units=3, damping=0.0)
        found[name] = arguments.keep(
            f"logistic, {name}", lambda make=make, few=few: _networks.one_by_one(make(), queue, few, look)
        )
    return found


# ---------------------------------------------------------------------- network
def unlearner(problem: Problem, data: _networks.Data, selector: str, decay: float, **options: Any) -> Unlearner:
    """An unlearner that leaves out what only a report needs."""
    settings = {"selector": selector, "weight_decay": decay, "captured": False, "random_state": 0}
    return Unlearner(problem.model, "cross_entropy", (data.x, data.y), **settings | options)


def network(arguments: Any, data: _networks.Data, queue: Sequence[int], marks: Sequence[int]) -> dict[str, Any]:
    """Every selector on one hidden layer."""
    hidden = 16 if arguments.quick else 100

    def trained(gone: Sequence[int] = (), seed: int = arguments.seed) -> nn.Module:
        return _networks.fit(
            lambda: nn.Sequential(nn.Linear(data.x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 10)),
            data.x, data.y, RECIPE, weight_decay=NETWORK_DECAY, seed=seed, without=gone,
        )  # fmt: skip

    exact: dict[int, nn.Module] = {}

    def retrained(gone: Sequence[int]) -> nn.Module:
        if len(gone) not in exact:
            exact[len(gone)] = trained(gone)
        return exact[len(gone)]

    problem = Problem(trained(), "cross_entropy", (data.x, data.y), weight_decay=NETWORK_DECAY)
    look = looker(problem, data, retrained)
    others = {"retrained": retrained, "retrained, other seed": lambda gone: trained(gone, arguments.seed + 1)}
    found = arguments.keep("network, references", lambda: references(problem, queue, marks, look, others))
    for name, selector in SELECTORS.items():
        make = partial(unlearner, problem, data, selector, NETWORK_DECAY)
        found[name] = arguments.keep(
            f"network, {name}", lambda make=make: _networks.one_by_one(make(), queue, marks, look)
        )
    return found


# ---------------------------------------------------------------------- what is shown
def table(name: str, title: str, found: dict[str, Any], note: str) -> Table:
    rows = [[label, row["deleted"], *(row[c] for c in COLUMNS)] for label, rows in found.items() for row in rows]
    return Table(name, title, ["model", "deleted", *COLUMNS], rows, note=note)


def figure(name: str, title: str, found: dict[str, Any]) -> Figure:
    def panel(column: str) -> Panel:
        lines = [
            {"label": k, "x": [r["deleted"] for r in rows], "y": [r[column] for r in rows]} for k, rows in found.items()
        ]
        return Panel(column, "deleted", column, lines=lines, xlog=True)

    return Figure(name, title, [panel(c) for c in ("residual gradient", "forgotten", "test")], across=3)


def run(arguments: Any) -> list[Any]:
    """Both models; the same queue of random digits for everybody."""
    n_logistic, n_network = (1200, 1200) if arguments.quick else (10_000, 5_000)
    marks = [1, 8] if arguments.quick else [1, 10, 100, 300, 1000]
    items: list[Any] = []
    for name, title, work, n in (
        ("logistic", "Logistic regression", logistic, n_logistic),
        ("network", "784-100-10", network, n_network),
    ):
        data = _networks.mnist(arguments.data, n, arguments.quick)
        order: Tensor = torch.randperm(data.n, generator=torch.Generator().manual_seed(arguments.seed))
        found = work(arguments, data, order[: max(marks)].tolist(), marks)
        size = f"{data.n:,} digits, {max(marks):,} random ones deleted one a request"
        items += [table(name, f"{title}: {size}", found, note=NOTES[name]), figure(name, f"{title}, {size}", found)]
    return [*items, Note(SIZES)] if not arguments.quick else items


NOTES = {
    "logistic": "Sample gradient: norm of the objective's mean gradient over the deleted digits; residual gradient: over "
    "those that stay, 0 at the optimum without the deleted. Requests add up, so that the rows of 3 units soon change all. "
    + _networks.STEP_ON_ALL,
    "network": "Two trainings that differ in the seed alone are further apart than what any deletion moves: distance is no "
    "goal for networks. Selectors change 20 of 110 units a request; what earlier requests changed stays open. "
    + _networks.STEP_ON_ALL,
}
SIZES = (
    "The paper deletes from 50,000 digits; here the logistic regression has 10,000 and the network 5,000, so that 1,000 "
    "deletions are 10 % and 20 % of the training set, a harder case. L-FOCI on the logistic regression stops at 300 deletions."
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    options = _common.parser(__doc__)
    title = "MNIST: sequential deletions"
    return _common.main(run, name="mnist", title=title, options=options, arguments=arguments)


if __name__ == "__main__":
    main()
