"""The demonstration of unlearning: a small network on digits, ten samples deleted, beside a retrained model."""

from __future__ import annotations

import time

import pandas as pd
import torch
from torch import Tensor, nn

from codec.unlearn._deletion import Deletion
from codec.unlearn._unlearner import Unlearner

WEIGHT_DECAY = 5e-4
EPOCHS = 60
BATCH = 100
TRAIN = 1400  # of the 1,797 digits; the others are the test set
FORGOTTEN = 10
CHANGED = 20  # of 42 units


def digits() -> tuple[Tensor, Tensor]:
    """The 8 x 8 digits that scikit-learn carries, one order for everybody."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return torch.tensor(X, dtype=torch.float32)[order] / 16.0, torch.tensor(y)[order]


def train(X: Tensor, y: Tensor, seed: int) -> nn.Module:
    """64-32-10 by SGD with momentum and a cosine schedule."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        for _ in range(EPOCHS):
            for rows in torch.split(torch.randperm(len(y)), BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
    return model.eval()


def compare(models: dict[str, nn.Module], X: Tensor, y: Tensor, forgotten: Tensor) -> pd.DataFrame:
    """Test accuracy, loss on the forgotten samples, and how often a model disagrees with the retrained one."""
    rows = {}
    with torch.no_grad():
        reference = models["retrained"](X[TRAIN:]).argmax(1)
        for name, model in models.items():
            predicted = model(X[TRAIN:]).argmax(1)
            rows[name] = {
                "test accuracy": float((predicted == y[TRAIN:]).double().mean()),
                "forget loss": float(nn.functional.cross_entropy(model(X[forgotten]), y[forgotten])),
                "forget accuracy": float((model(X[forgotten]).argmax(1) == y[forgotten]).double().mean()),
                "differs from retrained": float((predicted != reference).double().mean()),
            }
    return pd.DataFrame(rows).T


def demonstrate() -> tuple[Deletion, pd.DataFrame, dict[str, float]]:
    """Train, delete the ten hardest samples, retrain without them.

    Returns
    -------
    deletion : Deletion
    table : DataFrame
        One row a model.
    seconds : dict of str to float
        CPU seconds of the deletion and of retraining.
    """
    X, y = digits()
    model = train(X[:TRAIN], y[:TRAIN], seed=0)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(X[:TRAIN]), y[:TRAIN], reduction="none")
    ids = losses.argsort(descending=True)[:FORGOTTEN]
    data = X[:TRAIN], y[:TRAIN]
    unlearner = Unlearner(model, "cross_entropy", data, weight_decay=WEIGHT_DECAY, max_units=CHANGED, random_state=0)
    start = time.process_time()
    deletion = unlearner.forget(ids)
    middle = time.process_time()
    kept = torch.ones(TRAIN, dtype=torch.bool)
    kept[ids] = False
    retrained = train(X[:TRAIN][kept], y[:TRAIN][kept], seed=0)
    end = time.process_time()
    models = {
        "trained on all": model,
        "unlearned": unlearner.model,
        "retrained": retrained,
        "retrained, other seed": train(X[:TRAIN][kept], y[:TRAIN][kept], seed=1),
    }
    return deletion, compare(models, X, y, ids), {"deletion": middle - start, "retraining": end - middle}


def text() -> str:
    """The demonstration as text."""
    deletion, table, seconds = demonstrate()
    figures = table.to_string(float_format=lambda v: f"{v:.3f}")
    return (
        f"Deep unlearning: the {FORGOTTEN} hardest of {TRAIN:,} digits are deleted from a network 64-32-10\n\n"
        f"{figures}\n\n"
        f"{len(deletion.units)} of 42 units changed ({', '.join(deletion.labels[:4])}, ...): they hold "
        f"{deletion.captured_decrement:.0%} of the full Newton step's decrease\n"
        f"(as many with the largest gradients: {deletion.captured_by_gradient_norm:.0%}). "
        f"{deletion.reason[0].upper()}{deletion.reason[1:]}.\n"
        f"CPU seconds: deletion {seconds['deletion']:.2f}, retraining {seconds['retraining']:.2f}. "
        "The network is not convex: the result is empirical, no bound is claimed."
    )
