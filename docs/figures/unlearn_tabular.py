"""Patients taken out of a logistic regression, with a bound that is proved. ``make figures`` runs this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_breast_cancer
from torch import nn

from codec.unlearn import Unlearner

OUTPUT = Path(__file__).parents[1] / "_static" / "unlearn_tabular.png"
TRAIN, WEIGHT_DECAY, REQUESTS = 400, 0.1, 20
EPSILONS, DELTA, BOUND, COPIES = (0.001, 0.01, 0.1, 1.0), 1e-5, 1e-3, 20


def patients():
    """Thirty standardised measurements, and whether the tumour is benign."""
    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    X = (X - X[:TRAIN].mean(0)) / X[:TRAIN].std(0)
    return torch.tensor(X), torch.tensor(y)


def train(X, y):
    """The minimum of the mean loss plus weight decay, to rounding."""
    model = nn.Linear(X.shape[1], 2).double()
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=1000, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        decay = sum(p.square().sum() for p in model.parameters())
        value = nn.functional.cross_entropy(model(X), y) + WEIGHT_DECAY / 2 * decay
        value.backward()
        return value

    optimizer.step(closure)
    return model


def distance(model, other):
    """Between the parameters."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return float(sum((a - b).square().sum() for a, b in pairs).detach() ** 0.5)


def accuracy(model, X, y):
    """Share of patients that are told right."""
    with torch.no_grad():
        return float((model(X).argmax(1) == y).double().mean())


def compute():
    """Twenty requests of one patient each: true distance and bound after each; accuracy of noisy copies at the end."""
    X, y = patients()
    model = train(X[:TRAIN], y[:TRAIN])
    unlearner = Unlearner(
        model, "cross_entropy", (X[:TRAIN], y[:TRAIN]), weight_decay=WEIGHT_DECAY, selector="all", update="gradient",
        damping=0.0, convex=True, random_state=0,
    )  # fmt: skip
    rows = []
    for patient in range(REQUESTS):
        bound = unlearner.forget(patient).certificate.bound
        retrained = train(X[patient + 1 : TRAIN], y[patient + 1 : TRAIN])
        rows.append((distance(model, retrained), distance(unlearner.model, retrained), bound))
    test = X[TRAIN:], y[TRAIN:]
    released = [
        [accuracy(unlearner.release(eps, DELTA, bound=BOUND, random_state=k), *test) for k in range(COPIES)]
        for eps in EPSILONS
    ]
    return unlearner, np.array(rows), np.array(released), accuracy(unlearner.model, *test)


def draw(rows, released, plain):
    """Left: distances to the retrained model. Right: what the noise of a release costs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained")
    place = np.arange(1, len(rows) + 1)
    for column, label, style in ((0, "nothing done", "o-"), (2, "bound, proved", "_:"), (1, "unlearned", "o-")):
        left.plot(place, rows[:, column], style, markersize=4, label=label)
    left.set(yscale="log", xlabel="patients forgotten, one by one", ylabel="distance to the retrained model")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="small")
    for epsilon, values in zip(EPSILONS, released, strict=True):
        right.plot([epsilon] * len(values), values, "o", color="C1", alpha=0.35, markersize=4, linewidth=0)
    right.plot(EPSILONS, released.mean(1), "-", color="C1", label=f"released copies, δ = {DELTA:g}")
    right.axhline(plain, color="0.4", linewidth=0.9, label="without noise")
    right.set(xscale="log", xlabel="ε of one copy", ylabel="test accuracy")
    right.legend(fontsize="small")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    unlearner, rows, released, plain = compute()
    print(unlearner.deletions[-1].certificate)
    print(rows[[0, -1]], released.mean(1), plain)
    draw(rows, released, plain).savefig(OUTPUT, dpi=140)
    print(f"wrote {OUTPUT.name}")
