"""Selectors and data of the benchmark of Markov blankets.

A selector is a function of ``X, y`` (normal form: a float array, unordered categories as codes), what is
known about them and a seed; it returns the columns selected. Peers are those of scikit-learn, and two that
are short and written here because no maintained package gives them: Boruta and mRMR.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_selection import SelectFromModel, mutual_info_classif, mutual_info_regression

Array = np.ndarray
BORUTA_ROUNDS = 30
MRMR_POOL = 50  # candidates that mRMR considers: the most relevant ones


# ---------------------------------------------------------------------- one task
@dataclass(frozen=True)
class Task:
    """Data with a known answer, or with none."""

    X: Any
    y: Any
    truth: tuple[int, ...] = ()
    groups: tuple[tuple[int, ...], ...] | None = None
    cluster: int = 0

    @property
    def classes(self) -> bool:
        """Whether the response has classes."""
        return isinstance(getattr(self.y, "dtype", None), pd.CategoricalDtype)

    def numbers(self) -> tuple[Array, Array, Array]:
        """X and y as numbers, and which columns are codes of categories; missing values become medians."""
        if not isinstance(self.X, pd.DataFrame):
            X, nominal = np.asarray(self.X, dtype=float), np.zeros(self.X.shape[1], dtype=bool)
        else:
            nominal = np.array([isinstance(d, pd.CategoricalDtype) for d in self.X.dtypes])
            columns = [c.cat.codes if is_code else c for (_, c), is_code in zip(self.X.items(), nominal, strict=True)]
            X = np.column_stack([np.asarray(c, dtype=float) for c in columns])
        if np.isnan(X).any():
            X = np.where(np.isnan(X), np.nanmedian(X, axis=0), X)
        y = np.asarray(self.y.cat.codes) if self.classes else np.asarray(self.y, dtype=float)
        return X, y, nominal

    def size(self) -> int:
        """How many columns the answer has."""
        return len(self.truth)


Selector = Callable[[Task, int, int], Sequence[int]]


# ---------------------------------------------------------------------- codec
def _fit(task: Task, **parameters: Any) -> Any:
    from codec import MarkovBlanketSelector

    if task.groups is not None:
        parameters["groups"] = [list(group) for group in task.groups]
    parameters["allow_nan"] = bool(np.any(pd.isna(task.X)))
    return MarkovBlanketSelector(**parameters).fit(task.X, task.y)


def with_codec(task: Task, k: int, seed: int) -> Sequence[int]:  # noqa: ARG001
    """The calibrated procedure with its defaults."""
    return np.flatnonzero(_fit(task, random_state=seed).support_)


def without_screen(task: Task, k: int, seed: int) -> Sequence[int]:  # noqa: ARG001
    """The calibrated procedure, all features tested from the start."""
    return np.flatnonzero(_fit(task, screen=False, random_state=seed).support_)


def with_foci(task: Task, k: int, seed: int) -> Sequence[int]:  # noqa: ARG001
    """Plain FOCI: the nearest neighbour, no test."""
    from codec import MarkovBlanketSelector

    X, _, _ = task.numbers()
    X = task.X if isinstance(task.X, pd.DataFrame) and not task.X.isna().any(axis=None) else X
    return np.flatnonzero(MarkovBlanketSelector(method="foci", random_state=seed).fit(X, task.y).support_)


# ---------------------------------------------------------------------- peers
def _forest(task: Task, seed: int, **parameters: Any) -> Any:
    model = RandomForestClassifier if task.classes else RandomForestRegressor
    return model(random_state=seed, **parameters)


def with_forest(task: Task, k: int, seed: int) -> Sequence[int]:  # noqa: ARG001
    """SelectFromModel of scikit-learn: importance above the mean, 200 trees."""
    X, y, _ = task.numbers()
    return np.flatnonzero(SelectFromModel(_forest(task, seed, n_estimators=200)).fit(X, y).get_support())


def with_boruta(task: Task, k: int, seed: int) -> Sequence[int]:  # noqa: ARG001
    """Boruta (Kursa & Rudnicki 2010): features that beat the best of the shadows often enough.

    Forests of 100 trees of depth 5 (a third of the features a split for numbers, their root for classes) on
    the undecided and accepted features and a shuffled copy of each; a feature scores a hit where its
    importance exceeds the largest of the shadows. After each round two-sided binomial tests at .05,
    Bonferroni over features, accept or reject. 30 rounds instead of 100; what is undecided then is not
    selected.
    """
    X, y, _ = task.numbers()
    rng = np.random.default_rng(seed)
    p = X.shape[1]
    share: Any = "sqrt" if task.classes else 1 / 3
    hits, alive, accepted = np.zeros(p, int), np.ones(p, bool), np.zeros(p, bool)
    for r in range(1, BORUTA_ROUNDS + 1):
        columns = np.flatnonzero(alive)
        shadows = X[:, rng.choice(columns, max(5, columns.size))]
        shadows = rng.permuted(shadows, axis=0)
        model = _forest(task, int(rng.integers(2**31)), n_estimators=100, max_depth=5, max_features=share)
        importance = model.fit(np.hstack([X[:, columns], shadows]), y).feature_importances_
        hits[columns] += importance[: columns.size] > importance[columns.size :].max()
        level = 0.05 / (2 * p)
        accepted |= alive & (binom.sf(hits - 1, r, 0.5) <= level)
        alive &= accepted | (binom.cdf(hits, r, 0.5) > level)
        if not alive.any() or (accepted == alive).all():
            break
    return np.flatnonzero(accepted)


def _information(task: Task, seed: int) -> tuple[Array, Array]:
    """Mutual information of every column with the response."""
    X, y, nominal = task.numbers()
    estimate = mutual_info_classif if task.classes else mutual_info_regression
    return estimate(X, y, discrete_features=nominal, random_state=seed), X


def with_information(task: Task, k: int, seed: int) -> Sequence[int]:
    """The k columns with the largest mutual information, scikit-learn's estimate."""
    return np.argsort(-_information(task, seed)[0])[:k]


def with_mrmr(task: Task, k: int, seed: int) -> Sequence[int]:
    """Peng, Long & Ding (2005), difference form: relevance less mean redundancy, k columns."""
    relevance, X = _information(task, seed)
    nominal = task.numbers()[2]
    left = list(np.argsort(-relevance)[: max(k, MRMR_POOL)])
    chosen: list[int] = []
    redundancy = np.zeros(X.shape[1])
    while left and len(chosen) < k:
        best = max(left, key=lambda j: relevance[j] - redundancy[j] / max(1, len(chosen)))
        chosen.append(best)
        left.remove(best)
        if left and len(chosen) < k:
            estimate = mutual_info_classif if nominal[best] else mutual_info_regression
            redundancy[left] += estimate(X[:, left], X[:, best], discrete_features=nominal[left], random_state=seed)
    return chosen


def with_pyimpetus(task: Task, k: int, seed: int) -> Sequence[int]:  # noqa: ARG001
    """PPIMBR of PyImpetus with its defaults, numbers only."""
    from PyImpetus import PPIMBR

    X, y, _ = task.numbers()
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    model = PPIMBR(random_state=seed, n_jobs=1, verbose=0)
    model.fit(frame, pd.Series(y, name="y"))
    return sorted(int(name[1:]) for name in model.MB)


SELECTORS: dict[str, Selector] = {
    "codec": with_codec,
    "codec, no screen": without_screen,
    "foci": with_foci,
    "forest": with_forest,
    "boruta": with_boruta,
    "mutual information, true k": with_information,
    "mrmr, true k": with_mrmr,
    "PyImpetus": with_pyimpetus,
}


# ---------------------------------------------------------------------- counting
def judge(selected: Sequence[int], task: Task) -> dict[str, Any]:
    """Precision, recall, F1 and exactness; a group counts once, as selected if any of its columns is."""
    groups = task.groups or tuple((j,) for j in range(task.X.shape[1]))
    of = {j: g for g, members in enumerate(groups) for j in members}
    found, truth = {of[int(j)] for j in selected}, {of[j] for j in task.truth}
    right = len(found & truth)
    precision = right / len(found) if found else float(not truth)
    recall = right / len(truth) if truth else 1.0
    f1 = 2 * right / (len(found) + len(truth)) if found or truth else 1.0
    return {
        "f1": round(f1, 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "exact": int(found == truth),
        "selected": len(found),
    }


# ---------------------------------------------------------------------- simulated tasks
def network_task(seed: int, n: int, which: int, *, nodes: int = 30, noise: int = 0, nominal: float = 0.0) -> Task:
    """One of the targets of a random network; ``noise`` columns that belong to nothing beside it."""
    from codec.datasets import make_mlp_network

    network = make_mlp_network(n, nodes, nominal=nominal, random_state=seed).network
    rng = np.random.default_rng([seed, 1])
    targets = rng.permutation([v for v, blanket in enumerate(network.blankets) if blanket])
    data = network.target(int(targets[which]))
    X = np.hstack([data.X, rng.standard_normal((n, noise))]) if noise else data.X
    return Task(X, data.y, data.blanket, cluster=seed)


def model_task(seed: int, model: str, n: int = 200, p: int = 10) -> Task:
    from codec.datasets import make_foci_model

    X, y, blanket = make_foci_model(model, n, p, random_state=seed)
    return Task(X, y, blanket, cluster=seed)


def bullseye_task(seed: int, dim: int | None) -> Task:
    from codec.datasets import make_bullseye

    data = make_bullseye(1000, dim=dim, random_state=seed)
    return Task(data.X, data.y, data.blanket, data.groups if dim else None, cluster=seed)


def modular_task(seed: int) -> Task:
    from codec.datasets import make_modular_sum

    X, y, blanket = make_modular_sum(500, 10, random_state=seed)
    return Task(X, y, blanket, cluster=seed)


def noise_task(seed: int, p: int, n: int = 200) -> Task:
    """Nothing to find."""
    rng = np.random.default_rng(seed)
    return Task(rng.standard_normal((n, p)), rng.standard_normal(n), cluster=seed)


# ---------------------------------------------------------------------- real tables
MADELON = (28, 48, 64, 105, 128, 153, 241, 281, 318, 336, 338, 378, 433, 442, 451, 453, 455, 472, 475, 493)


def _npz(folder: Path, name: str) -> tuple[Any, Any]:
    stored = np.load(folder / "scikit_feature" / f"{name}.npz")
    return stored["X"].astype(float), pd.Series(pd.Categorical(stored["y"].ravel()))


def _polish(folder: Path, name: str) -> tuple[Any, Any]:
    text = gzip.decompress((folder / f"{name}.arff.gz").read_bytes()).decode()
    table = pd.read_csv(io.StringIO(text.lower().partition("@data")[2]), header=None, na_values="?")
    return table.iloc[:, :-1].to_numpy(float), pd.Series(pd.Categorical(table.iloc[:, -1]))


def _spambase(folder: Path) -> tuple[Any, Any]:
    table = pd.read_csv(folder / "spambase.csv.gz")
    return table.iloc[:, :-1].to_numpy(float), pd.Series(pd.Categorical(table.iloc[:, -1]))


def _communities(folder: Path) -> tuple[Any, Any]:
    table = pd.read_csv(folder / "communities.data.gz", header=None, na_values="?")
    return table.iloc[:, 5:-1].to_numpy(float), table.iloc[:, -1].to_numpy(float)


TABLES: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "colon": lambda folder: _npz(folder, "colon"),
    "leukemia": lambda folder: _npz(folder, "leukemia"),
    "communities": _communities,
    "spambase": _spambase,
    "polish 1year": lambda folder: _polish(folder, "polish_1year"),
    "polish 5year": lambda folder: _polish(folder, "polish_5year"),
    "madelon": lambda folder: _npz(folder, "madelon"),
    "ALLAML": lambda folder: _npz(folder, "ALLAML"),
    "lymphoma": lambda folder: _npz(folder, "lymphoma"),
    "arcene": lambda folder: _npz(folder, "arcene"),
}


def downstream(task: Task, columns: Sequence[int], test: tuple[Any, Any]) -> float:
    """Score of a forest of 300 trees on other rows: area under the curve (two classes), accuracy, or R2."""
    X, y, _ = task.numbers()
    middle = np.nanmedian(np.asarray(task.X, dtype=float), axis=0)
    X_test = np.where(np.isnan(test[0]), middle, test[0])
    y_test = np.asarray(test[1].cat.codes) if task.classes else test[1]
    columns = list(columns)
    if not columns:
        return (
            0.5
            if len(np.unique(y)) == 2
            else float(np.mean(y_test == np.bincount(y).argmax()))
            if task.classes
            else 0.0
        )
    model = _forest(task, 0, n_estimators=300).fit(X[:, columns], y)
    if task.classes and len(np.unique(y)) == 2:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(y_test, model.predict_proba(X_test[:, columns])[:, 1]))
    return float(model.score(X_test[:, columns], y_test))
