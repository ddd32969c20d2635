"""Linear models that forget: distance to the exact retrained optimum, CPU seconds, certificates, releases.

Distances are relative: doing nothing is 1. Quick runs use the digits that scikit-learn carries.
"""

from __future__ import annotations

import copy
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
for name in THREADS:  # before numpy loads
    os.environ.setdefault(name, "1")

import time  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from codec.unlearn._certificate import audited_epsilon  # noqa: E402
from codec.unlearn.linear import RemovableLogisticRegression, RemovableRidge  # noqa: E402

WEIGHT_DECAY = 0.01
Row = dict[str, Any]


# ---------------------------------------------------------------------- data
def read_idx(path: Path) -> np.ndarray:
    """Images (n, 784) or labels (n,) of a file in MNIST's format."""
    with gzip.open(path) as file:
        raw = file.read()
    images = "images" in path.name
    values = np.frombuffer(raw, dtype=np.uint8, offset=16 if images else 8)
    return values.reshape(-1, 784) if images else values


def digits(data: Path, n: int, quick: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, labels, test rows, labels; pixels with MNIST's usual mean and standard deviation."""
    if quick:
        X, y = load_digits(return_X_y=True)
        X = (X / 16.0 - 0.3) / 0.35
        return X[:1200], y[:1200], X[1200:], y[1200:]
    data = data / "mnist"
    X, y = read_idx(data / "train-images-idx3-ubyte.gz"), read_idx(data / "train-labels-idx1-ubyte.gz")
    T, u = read_idx(data / "t10k-images-idx3-ubyte.gz"), read_idx(data / "t10k-labels-idx1-ubyte.gz")
    chosen = np.random.default_rng(0).permutation(len(X))[:n]
    return (X[chosen] / 255.0 - 0.1307) / 0.3081, y[chosen].astype(int), (T / 255.0 - 0.1307) / 0.3081, u.astype(int)


# ---------------------------------------------------------------------- what is compared
def weights(model: RemovableLogisticRegression) -> np.ndarray:
    return np.column_stack([model.coef_, model.intercept_])


def retrained(X: np.ndarray, y: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The exact optimum without some rows, fitted anew."""
    keep = np.setdiff1d(np.arange(len(X)), gone)
    model = RemovableLogisticRegression(WEIGHT_DECAY, tolerance=1e-8).fit(X[keep], y[keep])
    return weights(model)


def paper_step(W: np.ndarray, X1: np.ndarray, y: np.ndarray, gone: np.ndarray, *, chained: bool) -> np.ndarray:
    """The step of the paper's released code, whose Hessian is in effect ``weight_decay I``.

    `chained`: one row after the other, each gradient where the step before ended; else all at the trained weights.
    """
    W, parts = W.copy(), [gone[k : k + 1] for k in range(len(gone))] if chained else [gone]
    for rows in parts:
        logits = X1[rows] @ W.T
        P = np.exp(logits - logits.max(axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        P[np.arange(len(rows)), y[rows]] -= 1.0
        W += P.T @ X1[rows] / (WEIGHT_DECAY * (len(X1) - len(rows)))
    return W


def orders(model: RemovableLogisticRegression, X: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """100 random rows, and the 100 with the largest losses."""
    losses = -model.predict_log_proba(X)[np.arange(len(y)), y]
    return {
        "random": np.random.default_rng(1).permutation(len(y))[:100],
        "hardest": np.argsort(-losses)[:100],
    }


def row(case: str, measured: float, target: float | None = None, **more: Any) -> Row:
    return {"case": case, "measured": float(f"{measured:.4g}"), "target": target} | more


# ---------------------------------------------------------------------- questions
def one_request(data: Path, quick: bool) -> list[Row]:
    """Distance to the retrained optimum after one request; medians over draws of the rows."""
    X, y, _, _ = digits(data, 5_000, quick)
    model = RemovableLogisticRegression(WEIGHT_DECAY, tolerance=1e-8).fit(X, y).prepare()
    start, X1, hardest = weights(model), np.column_stack([X, np.ones(len(X))]), orders(model, X, y)["hardest"]
    rng = np.random.default_rng(7)
    cases = {
        "1 random": [rng.permutation(len(X))[:1] for _ in range(3 if quick else 15)],
        "100 random": [rng.permutation(len(X))[:100] for _ in range(1 if quick else 3)],
        "1 hardest": [hardest[:1]],
        "100 hardest": [hardest],
    }
    targets = {("1 random", 1): 0.005, ("100 random", 1): 0.03, ("1 random", 2): 0.001, ("100 random", 2): 0.001}
    rows = []
    for case, draws in cases.items():
        found: dict[str, list[float]] = {}
        for gone in draws:
            goal = retrained(X, y, gone)
            nothing = np.linalg.norm(start - goal)
            for name, chained in (("together", False), ("one after the other", True)):
                W = paper_step(start, X1, y, gone, chained=chained)
                found.setdefault(f"the paper's step, {name}", []).append(np.linalg.norm(W - goal) / nothing)
            for steps in (1, 2):
                after = copy.deepcopy(model)
                bound = after.forget(gone, steps=steps).certificate.bound
                distance = np.linalg.norm(weights(after) - goal)
                found.setdefault(f"{steps} step{'s' * (steps > 1)}", []).append(distance / nothing)
                found.setdefault(f"bound {steps}", []).append(bound / distance)
        for name, values in found.items():
            if name.startswith("bound"):
                continue
            steps = int(name[0]) if name[0].isdigit() else 0
            more = {"draws": len(draws), "largest": float(f"{max(values):.4g}")}
            if steps:
                more["bound_over_distance"] = float(f"{np.median(found[f'bound {steps}']):.3g}")
            rows.append(row(f"{case}, {name}", float(np.median(values)), targets.get((case, steps)), **more))
    return rows


def sequential(data: Path, quick: bool) -> list[Row]:
    """100 requests of one row, one after another."""
    X, y, _, _ = digits(data, 10_000, quick)
    clock = [time.process_time()]
    model = RemovableLogisticRegression(WEIGHT_DECAY, tolerance=1e-6).fit(X, y)
    clock.append(time.process_time())
    model.prepare()
    clock.append(time.process_time())
    size = f"n = {len(X)}, {weights(model).size} weights"
    rows = [
        row(f"fit, {size}", clock[1] - clock[0], unit="CPU s"),
        row(f"set-up, {size}", clock[2] - clock[1], 15.0, unit="CPU s"),
    ]
    start, n_requests = weights(model), 20 if quick else 100
    for order, chosen in orders(model, X, y).items():
        marks = [k for k in (1, 10, 100) if k <= n_requests] if not quick else [1, n_requests]
        goals = {k: retrained(X, y, chosen[:k]) for k in marks}
        for steps, milliseconds, distance in ((1, 25.0, 0.04), (2, 50.0, 0.006)):
            after = copy.deepcopy(model)
            times, found = [], {}
            for k, i in enumerate(chosen[:n_requests], start=1):
                began = time.process_time()
                after.forget(int(i), steps=steps)
                times.append(time.process_time() - began)
                if k in goals:
                    found[k] = np.linalg.norm(weights(after) - goals[k]) / np.linalg.norm(start - goals[k])
            case = f"{order}, {steps} step{'s' * (steps > 1)}"
            rows.append(row(f"{case}, median", 1e3 * float(np.median(times)), milliseconds, unit="CPU ms"))
            rows.append(row(f"{case}, mean", 1e3 * float(np.mean(times)), unit="CPU ms"))
            rows += [row(f"{case}, distance after {k}", value, distance) for k, value in found.items()]
    return rows


def release(data: Path, quick: bool) -> list[Row]:
    """Points of test accuracy that noise at (1, 1e-5) costs, and the audited epsilon."""
    X, y, T, u = digits(data, 10_000, quick)
    rows = []
    for case, labels, test in (("ten classes", y, u), ("two classes", y >= 5, u >= 5)):
        model = RemovableLogisticRegression(WEIGHT_DECAY).fit(X, labels)
        model.forget(range(10))
        exact = model.score(T, test)
        losses = [exact - model.release(1.0, 1e-5, random_state=s).score(T, test) for s in range(5)]
        sigma = model.accountant_.releases[0].sigma
        rows.append(row(f"points lost, {case}", 100 * float(np.mean(losses)), 0.5, sigma=sigma))
    return [*rows, audit(50 if quick else 5_000)]


def audit(trials: int) -> Row:
    """Attack on releases of a model that just meets its tolerance: along the line between the two models."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 3))
    X[0] = 6.0
    y = (X[:, 0] + rng.normal(size=60) > 0).astype(int)
    y[0] = 0
    first = RemovableLogisticRegression(0.1).fit(X, y)
    first.forget(0, steps=1)
    tolerance = 1.01 * float(first.certificate_.bound)  # nearly the loosest promise that holds after one step
    rough = RemovableLogisticRegression(0.1, tolerance=tolerance).fit(X, y)
    rough.forget(0, steps=1)
    anew = RemovableLogisticRegression(0.1, tolerance=tolerance).fit(X[1:], y[1:])
    away = weights(rough) - weights(anew)
    middle = float(np.vdot(weights(rough) + weights(anew), away)) / 2
    scores = [
        np.array([float(np.vdot(weights(m.release(1.0, 1e-5, random_state=k)), away)) for k in range(trials)])
        for m in (anew, rough)
    ]
    false_positives, false_negatives = int((scores[0] > middle).sum()), int((scores[1] <= middle).sum())
    lower = audited_epsilon(false_positives, trials, false_negatives, trials, delta=1e-5)
    return row("audited lower bound on epsilon = 1", lower, 1.0, trials=trials)


def ridge(_: Path, quick: bool) -> list[Row]:
    """One step against retraining, and how often the certificate covers the true distance."""
    trials, worst, covered = 20 if quick else 200, 0.0, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        n, d, t = rng.integers(30, 300), rng.integers(2, 40), rng.integers(1, 4)
        X, y = rng.normal(size=(n, d)), rng.normal(size=(n, t))
        gone = rng.permutation(n)[: rng.integers(1, n // 2)]
        model = RemovableRidge(0.05).fit(X, y)
        certificate = model.forget(gone, steps=1).certificate
        X1, keep = np.column_stack([X, np.ones(n)]), np.setdiff1d(np.arange(n), gone)
        H = X1[keep].T @ X1[keep] / len(keep) + 0.05 * np.eye(d + 1)
        exact = np.linalg.solve(H, X1[keep].T @ y[keep] / len(keep)).T
        error = np.linalg.norm(np.column_stack([np.atleast_2d(model.coef_), model.intercept_]) - exact)
        worst, covered = max(worst, error / np.linalg.norm(exact)), covered + (error <= certificate.bound)
    return [
        row("one step, largest relative error", worst, 1e-10),
        row(f"trials of {trials} whose bound was too small", trials - covered, 0.0),
    ]


QUESTIONS: dict[str, Callable[[Path, bool], list[Row]]] = {
    "one request": one_request,
    "sequential": sequential,
    "release": release,
    "ridge": ridge,
}
