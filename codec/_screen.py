"""Where a search may start: features that trees or a regression find important.

Both look at all features at once, and neither decides: what they list is tested afterwards.

* **Trees** see functions of any shape, and features that act only together, as far as a greedy tree does.
* **A regression** of the normal scores of y on scores and squared scores of the features, and on products of two
  that stand out from what it leaves, sees each feature given all others: a child of y that is mostly made by
  its other parents, or two factors of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from scipy.special import ndtri
from scipy.stats import f as f_distribution
from scipy.stats import norm, rankdata

from codec._family import Features
from codec._omnibus import standardize_rows
from codec._residuals import embed
from codec._validation import FloatArray, Table

TREES = 100
ROWS = 5_000  # rows that both look at, at most
TERMS_PER_ROW = 0.4  # more terms than this leave the regression nothing to compare with
ROWS_PER_FEATURE = 15  # with fewer rows for each feature, some rows choose among the features
REGRESSED = 300  # features of a regression at most
PRODUCTS = 10  # that a regression adds at most
REGRESSION_SHARE = 0.2  # of the level, half for single features and half for products
HEAVY = (6.0, 16.0)  # kurtosis of a target, and of its square (of a normal one: 15), beyond which an F test ...
HEAVY_ROWS = 25.0  # needs this times as many rows: a class of 20 or so
RIDGE = 1e-6  # of the rows: keeps copies of a column solvable


@dataclass(frozen=True)
class Listed:
    """A feature worth testing.

    Attributes
    ----------
    feature : int
    importance : float
        In the trees; or minus the decimal logarithm of the p-value in the regression.
    stands_out : bool
        Whether the regression names it, which allows for the number of features.
    """

    feature: int
    importance: float
    stands_out: bool

    @property
    def reason(self) -> str:
        return "regression: given all others" if self.stands_out else "trees: beyond all copies"


def list_features(
    y: Table,
    features: Features,
    candidates: Sequence[int],
    given: Sequence[int],
    cap: int,
    alpha: float,
    seed: int,
    n_jobs: int | None,
) -> list[Listed]:
    """Features that trees or the regression name, the first of both before the second of either.

    Parameters
    ----------
    y : Table
    features : Features
    candidates : sequence of int
        Features to look at.
    given : sequence of int
        Features that are in the blanket by decree: the regression adjusts for them.
    cap : int
        Most features that each of the two names.
    alpha : float
        Level of the search; if y is noise, the regression names anything with a chance of a fifth of it.
    seed : int
    n_jobs : int or None

    Returns
    -------
    list of Listed
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(y.n_rows)
    if y.n_rows > ROWS:
        rows = np.sort(rng.choice(y.n_rows, ROWS, replace=False))
    some_y, some = y.take(rows), features.take(rows)
    if np.ptp(some_y.columns, axis=1).max() == 0.0:  # constant in these rows
        return []
    importance, bound = _tree_importance(some_y, some, candidates, rng, n_jobs)
    order = np.argsort(-importance, kind="stable")
    trees = {candidates[i]: float(importance[i]) for i in order[: min(cap, int((importance > bound).sum()))]}
    regression = _named_by_regression(some_y, some, candidates, given, alpha, cap, rng)
    both = dict.fromkeys(v for pair in zip_longest(trees, regression) for v in pair if v is not None)
    return [Listed(v, regression.get(v, trees.get(v, 0.0)), v in regression) for v in both]


# --------------------------------------------------------------------------- trees
def _tree_importance(
    y: Table, features: Features, candidates: Sequence[int], rng: np.random.Generator, n_jobs: int | None
) -> tuple[FloatArray, float]:
    """Importance of each feature in extremely randomized trees, and the largest of a permuted copy."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

    blocks = [features.part([v]).columns for v in candidates]
    shadows = [block[:, rng.permutation(y.n_rows)] for block in blocks]
    design = _unit_range(np.concatenate([*blocks, *shadows])).T
    classes = len(y.names) == 1 and bool(y.nominal[0])
    model = (ExtraTreesClassifier if classes else ExtraTreesRegressor)(
        TREES,
        max_features=1.0 if design.shape[1] <= 200 else 1.0 / 3.0,
        min_samples_leaf=3,
        n_jobs=n_jobs,
        random_state=int(rng.integers(2**31)),
    )
    target = y.columns[0] if classes else embed(y)
    importance = model.fit(design, target.squeeze()).feature_importances_
    starts = np.concatenate([[0], np.cumsum([len(block) for block in (*blocks, *shadows)])[:-1]])
    both = np.add.reduceat(importance, starts)
    return both[: len(candidates)], float(both[len(candidates) :].max())


def _unit_range(rows: FloatArray) -> FloatArray:
    """Every row from 0 to 1: scikit-learn's trees hold numbers in single precision, and cut each feature's range."""
    low = rows.min(axis=1, keepdims=True)
    width = rows.max(axis=1, keepdims=True) - low
    return np.asarray((rows - low) / np.where(width > 0.0, width, 1.0))


# --------------------------------------------------------------------------- the regression
def _named_by_regression(
    y: Table,
    features: Features,
    candidates: Sequence[int],
    given: Sequence[int],
    alpha: float,
    cap: int,
    rng: np.random.Generator,
) -> dict[int, float]:
    """Features whose p-value allows for the number of features, smallest first: minus its decimal logarithm.

    Where the features are too many for the rows, half of the rows choose among them and the other half tests:
    the best of many explain noise together, which makes any test in the same rows too optimistic.
    """
    level = 0.5 * REGRESSION_SHARE * alpha
    if len(candidates) > y.n_rows // ROWS_PER_FEATURE:
        order = rng.permutation(y.n_rows)
        half, rest = np.sort(order[: y.n_rows // 2]), np.sort(order[y.n_rows // 2 :])
        candidates = _chosen(y.take(half), features.take(half), candidates, given, alpha, rest.size // ROWS_PER_FEATURE)
        y, features = y.take(rest), features.take(rest)
    pvalues = regression_pvalues(y, features, [*given, *candidates], level)[len(given) :]
    order = np.argsort(pvalues, kind="stable")[:cap]
    named = [i for i in order if pvalues[i] <= level / len(candidates)]
    return {candidates[i]: float(-np.log10(max(pvalues[i], 1e-300))) for i in named}


def _chosen(
    y: Table, features: Features, candidates: Sequence[int], given: Sequence[int], alpha: float, n_chosen: int
) -> list[int]:
    """The best features in a regression on as many as the rows allow, those that correlate most with y."""
    targets = np.concatenate(expand(y))
    agreement = [
        max(np.abs(rows @ targets.T).max(initial=0.0) for rows in expand(features.part([v]))) for v in candidates
    ]
    first = [candidates[i] for i in np.argsort(-np.array(agreement), kind="stable")[:REGRESSED]]
    pvalues = regression_pvalues(y, features, [*given, *first], alpha)[len(given) :]
    return [first[i] for i in np.argsort(pvalues, kind="stable")[:n_chosen]]


def regression_pvalues(y: Table, features: Features, ordered: Sequence[int], level: float) -> FloatArray:
    """The p-value of each feature given the others, 1 of those for which the rows are too few: the last ones.

    Products of any two enter if they stand out at the level.
    """
    return _Surface(y, features, ordered).explain(level)


class _Surface:
    """Targets made of y regressed on scores and squares, of the first features if rows are few, and products of any."""

    def __init__(self, y: Table, features: Features, ordered: Sequence[int]) -> None:
        everyone = [expand(features.part([v])) for v in ordered]
        sizes = np.cumsum([sum(len(rows) for rows in block) for block in everyone])
        blocks = everyone[: int(np.searchsorted(sizes, TERMS_PER_ROW * y.n_rows, side="right"))]
        self._targets = np.concatenate([_regular(rows, limit) for rows, limit in zip(expand(y), HEAVY, strict=True)])
        nothing = np.empty((0, y.n_rows))
        self._simple = np.concatenate([nothing, *(scores for scores, _ in everyone)])
        self._owners = np.repeat(np.arange(len(everyone)), [len(scores) for scores, _ in everyone])
        self._terms = np.concatenate([nothing, *(rows for block in blocks for rows in block)])
        self._term_owners: list[tuple[int, ...]] = [
            (place,) for place, block in enumerate(blocks) for rows in block for _ in rows
        ]
        self._n_features = len(everyone)
        self._fit()

    def _fit(self) -> None:
        gram = self._terms @ self._terms.T
        gram[np.diag_indices_from(gram)] += RIDGE * self._terms.shape[1]
        self._inverse = np.linalg.inv(gram)
        self._coefficients = self._inverse @ (self._terms @ self._targets.T)  # (terms, targets)
        self._left = self._targets - self._coefficients.T @ self._terms

    def explain(self, level: float) -> FloatArray:
        """The p-values when products that stand out have been added."""
        if not self._targets.size:  # constant in these rows, or too rare for an F test
            return np.ones(self._n_features)
        for _ in range(PRODUCTS):
            if not self.add_product(level):
                break
        return self.pvalues()

    def add_product(self, level: float) -> bool:
        """Add the product that agrees most with what is left, if that is no chance among all."""
        if self._n_features < 2:
            return False
        best, chosen = 0.0, (0, 0)
        for left in self._left:
            weighted = self._simple * left
            spread = np.sqrt((weighted**2) @ (self._simple**2).T)
            z = np.abs(weighted @ self._simple.T) / np.maximum(spread, 1e-12)
            z[self._owners[:, None] >= self._owners[None, :]] = 0.0
            i, j = divmod(int(z.argmax()), len(z))
            if z[i, j] > best:
                best, chosen = float(z[i, j]), (i, j)
        n_pairs = 0.5 * self._owners.size**2 * len(self._left)
        if 2.0 * norm.sf(best) * n_pairs > level:
            return False
        product = standardize_rows(self._simple[[chosen[0]]] * self._simple[[chosen[1]]])
        self._terms = np.concatenate([self._terms, product])
        self._term_owners.append((int(self._owners[chosen[0]]), int(self._owners[chosen[1]])))
        self._fit()
        return True

    def pvalues(self) -> FloatArray:
        """Of each feature: all terms that it is part of, F test, the smallest over targets times their number."""
        freedom = self._terms.shape[1] - len(self._terms) - 1
        variance = np.maximum((self._left**2).sum(axis=1) / freedom, 1e-300)
        found = np.ones(self._n_features)
        for place in range(self._n_features):
            own = [t for t, owners in enumerate(self._term_owners) if place in owners]
            if own:
                part = self._coefficients[own]
                sums = np.einsum("tq,tq->q", part, np.linalg.solve(self._inverse[np.ix_(own, own)], part))
                pvalues = f_distribution.sf(sums / len(own) / variance, len(own), freedom)
                found[place] = min(1.0, float(pvalues.min()) * len(pvalues))
        return found


def _regular(targets: FloatArray, limit: float) -> FloatArray:
    """Those that vary, and not in a few rows only."""
    targets = targets[np.ptp(targets, axis=1) > 0.0]
    kurtosis = np.mean(targets**4, axis=1) / np.mean(targets**2, axis=1) ** 2
    return np.asarray(targets[(kurtosis <= limit) | (targets.shape[1] >= HEAVY_ROWS * kurtosis)])


def expand(table: Table) -> tuple[FloatArray, FloatArray]:
    """Normal scores and indicators of classes; and squared scores."""
    scores, squares = [np.empty((0, table.n_rows))], [np.empty((0, table.n_rows))]
    for j, nominal in enumerate(table.nominal):
        if nominal:
            scores.append(embed(table.pick([j])).T)
            continue
        score = standardize_rows(ndtri((rankdata(table.columns[j]) - 0.5) / table.n_rows)[None, :])
        scores.append(score)
        squares.append(standardize_rows(score**2))
    return np.concatenate(scores), np.concatenate(squares)
