"""Features outside a blanket that a Gaussian process needs: the last look before a search ends.

Tests ask about one candidate at a time, and with many members each sees little. One model of all of them sees more:
targets made of y are a smooth function of the features plus noise, a Gaussian process with the covariance

    K = s exp(-1/2 sum_v theta_v |x_v - x_v'|^2) + t 1,

a weight theta_v for each feature v ("automatic relevance determination"). Members are fitted; every other feature has
the weight 0. Those for which the log marginal likelihood would rise most steeply are fitted together with the members.
Twice the likelihood that a fit loses without one feature is, if the feature is not needed, about 0 or chi-squared with
one degree of freedom with equal chances, since the weight lies on the boundary (Self & Liang, Journal of the American
Statistical Association 82, 1987). The model is a rough one: what it names is tested afterwards.

References
----------
Rasmussen & Williams, Gaussian Processes for Machine Learning (2006): marginal likelihood, eq. (2.30); its gradient,
eq. (5.9); the weights, eq. (5.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack
from scipy.optimize import minimize
from scipy.stats import chi2

from codec._family import Features
from codec._related import Families
from codec._residuals import embed
from codec._screen import expand
from codec._validation import FloatArray, IntArray, Table, first_of_equal

FITTED = 8  # outsiders that are fitted together with the members
CHUNK = 512  # outsiders whose slopes are computed at a time
LOWEST, HIGHEST = np.log(1e-4), 3.0  # logarithm of a weight; columns have the variance 1
SIGNAL = (np.log(0.05), np.log(100.0))  # of s; targets have the variance 1
NOISE = (np.log(0.01), np.log(2.0))  # of t
START, START_SIGNAL, START_NOISE = np.log(0.1), 0.0, np.log(0.3)
START_OUTSIDE = np.log(0.01)
STEPS, STEPS_WITHOUT = 20, 6  # of a fit; of a fit without one feature
TOLERANCE = 1e-5  # of the likelihood, relative
CLEAR_GAIN = 3.0  # only features that seem to gain this much are worth a fit without them
LEAST_ROWS = 50  # in which all members are known
LEAST_SHARE = 1e-6  # of the largest singular value: targets below say the same as others


@dataclass(frozen=True)
class Needed:
    """A feature that the model needs beside the members.

    Attributes
    ----------
    feature : int
    gain : float
        Log marginal likelihood that is lost without it.
    pvalue : float
        Of twice the gain.
    """

    feature: int
    gain: float
    pvalue: float


def needed_outside(
    y: Table,
    features: Features,
    members: Sequence[int],
    candidates: Sequence[int],
    level: float,
    families: Families | None = None,
) -> list[Needed]:
    """Candidates that a Gaussian process needs beside the members, the most needed first.

    Parameters
    ----------
    y : Table
    features : Features
    members, candidates : sequence of int
        At least one member.
    level : float
        A feature is named if its p-value times the number of candidates is at most this.
    families : Families, optional
        Of the candidates: their number is then that of one family, over its share of the level.
    """
    rows = first_of_equal([*y.columns, *features.table.columns])  # a row that is there twice would explain itself
    y, features = y.take(rows), features.take(rows)
    rows = _complete(features, members)
    if len(rows) < LEAST_ROWS:
        return []
    y, features = y.take(rows), features.take(rows)
    targets = make_targets(y)
    known = [_block(features, v) for v in members]
    alone = Process(targets, known)
    fitted = alone.fit(alone.start(), STEPS)
    forms = alone.slopes(fitted.parameters)
    chunks = [candidates[low : low + CHUNK] for low in range(0, len(candidates), CHUNK)]
    scores = np.concatenate([_scores(forms, [_block(features, v) for v in chunk]) for chunk in chunks])
    first = [candidates[i] for i in np.argsort(-scores, kind="stable")[:FITTED] if scores[i] > 0.0]
    gains = _gains(targets, known, [_block(features, v) for v in first], fitted)
    pvalues = 0.5 * chi2.sf(2.0 * gains, 1)
    times = [len(candidates) if families is None else families.times(v, candidates) for v in first]
    order = [i for i in np.argsort(-gains, kind="stable") if pvalues[i] * times[i] <= level]
    return [Needed(first[i], float(gains[i]), float(pvalues[i])) for i in order]


def _complete(features: Features, members: Sequence[int]) -> IntArray:
    """Rows without gaps in members: where one is not known, what it does is noise, and the noise here is the same everywhere."""
    gaps = [features.gaps[v] for v in members if v in features.gaps]
    return np.flatnonzero(~np.any(gaps, axis=0)) if gaps else np.arange(features.table.n_rows)


def make_targets(y: Table) -> FloatArray:
    """Normal scores of all responses, uncorrelated and of variance 1; (q, n)."""
    _, sizes, rows = np.linalg.svd(expand(y)[0], full_matrices=False)
    return np.asarray(rows[sizes > LEAST_SHARE * sizes.max(initial=1e-300)] * np.sqrt(y.n_rows))


def _block(features: Features, v: int) -> FloatArray:
    return embed(features.part([v])).T


def _scores(forms: Sequence[Form], blocks: Sequence[FloatArray]) -> FloatArray:
    """How far a feature lies above what noise would give, in standard deviations: the largest over forms."""
    rows = np.concatenate(blocks)
    owners = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    sizes = np.bincount(owners, minlength=len(blocks))
    found = []
    for form in forms:
        mean, deviation = form.of_noise()
        excess = np.bincount(owners, form.values(rows) - mean, len(blocks))
        found.append(excess / (deviation * np.sqrt(np.maximum(sizes, 1))))
    return np.asarray(np.max(found, axis=0))


def _gains(targets: FloatArray, known: list[FloatArray], new: list[FloatArray], alone: Fitted) -> FloatArray:
    """What all features together lose without each of the new ones."""
    gains = np.zeros(len(new))
    if not new:
        return gains
    together = Process(targets, [*known, *new])
    begin = np.insert(alone.parameters, [len(known)] * len(new), START_OUTSIDE)
    full = together.fit(begin, STEPS)
    for i in range(len(new)):
        rest = Process(targets, [*known, *new[:i], *new[i + 1 :]])
        begin = np.delete(full.parameters, len(known) + i)
        gains[i] = full.likelihood - rest.likelihood(begin)
        if gains[i] > CLEAR_GAIN:
            gains[i] = full.likelihood - rest.fit(begin, STEPS_WITHOUT).likelihood
    return np.maximum(gains, 0.0)


# --------------------------------------------------------------------------- the model
@dataclass(frozen=True)
class Fitted:
    """Logarithms of the weights, of s and of t; and the log marginal likelihood there."""

    parameters: FloatArray
    likelihood: float


@dataclass(frozen=True)
class Form:
    """The function ``x' M x + d' x^2`` of a column x."""

    matrix: FloatArray
    diagonal: FloatArray

    def values(self, rows: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("ji,ji->j", rows @ self.matrix, rows) + rows**2 @ self.diagonal)

    def of_noise(self) -> tuple[float, float]:
        """Mean and standard deviation where x is standard normal noise."""
        squares = np.diag(self.matrix) + self.diagonal
        variance = 2.0 * ((self.matrix**2).sum() - (np.diag(self.matrix) ** 2).sum() + (squares**2).sum())
        return float(squares.sum()), float(np.sqrt(variance))


class Process:
    """Targets (q, n) that share one covariance; blocks (d_v, n), one for each feature."""

    def __init__(self, targets: FloatArray, blocks: Sequence[FloatArray]) -> None:
        self._targets = targets
        self._points = np.concatenate(blocks)
        self._owners = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
        self._n_features = len(blocks)

    def start(self) -> FloatArray:
        return np.array([*[START] * self._n_features, START_SIGNAL, START_NOISE])

    def fit(self, begin: FloatArray, n_steps: int) -> Fitted:
        """Maximum of the marginal likelihood by L-BFGS-B, or what so many steps reach of it."""
        bounds = [*[(LOWEST, HIGHEST)] * self._n_features, SIGNAL, NOISE]
        found = minimize(
            self._loss,
            begin,
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"maxiter": n_steps, "ftol": TOLERANCE},
        )
        return Fitted(found.x, -float(found.fun))

    def likelihood(self, parameters: FloatArray) -> float:
        """Log marginal likelihood, up to a constant."""
        factor = self._factor(self._signal(parameters), parameters)
        return self._value(factor, cho_solve((factor, True), self._targets.T, check_finite=False))

    def gradient(self, parameters: FloatArray) -> tuple[float, FloatArray]:
        """Log marginal likelihood and its gradient."""
        signal, pull, value = self._pulls(parameters)
        trace = np.trace(pull)
        pull *= signal
        weights = np.exp(parameters[: self._n_features])
        slopes = np.bincount(self._owners, Form(pull, -pull.sum(axis=1)).values(self._points), self._n_features)
        return value, np.array([*0.5 * weights * slopes, 0.5 * pull.sum(), 0.5 * np.exp(parameters[-1]) * trace])

    def slopes(self, parameters: FloatArray) -> tuple[Form, Form]:
        """Slopes of the likelihood, as functions of a column x that is not in the model.

        The first by the weight of x at 0 sees what x does alone. The second by the variance, at 0, of a function of
        the members times x sees that x changes what members do; the function has the weights of the start.
        """
        signal, pull, _ = self._pulls(parameters)
        alone = 0.5 * pull * signal
        together = 0.5 * pull * self._signal(self.start())
        return Form(alone, -alone.sum(axis=1)), Form(together, np.zeros(len(pull)))

    def _loss(self, parameters: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = self.gradient(parameters)
        return -value, -gradient

    def _signal(self, parameters: FloatArray) -> FloatArray:
        """Covariance of the function."""
        points = self._points * np.exp(0.5 * parameters[self._owners])[:, None]
        half = 0.5 * np.einsum("ji,ji->i", points, points)
        signal = points.T @ points
        signal -= half[:, None]
        signal -= half[None, :]
        np.exp(np.minimum(signal, 0.0, out=signal), out=signal)
        signal *= np.exp(parameters[-2])
        return np.asarray(signal)

    @staticmethod
    def _factor(signal: FloatArray, parameters: FloatArray) -> FloatArray:
        """Cholesky factor of the covariance with the noise."""
        noisy = signal.copy()
        noisy[np.diag_indices_from(noisy)] += np.exp(parameters[-1])
        return np.asarray(cholesky(noisy.T, lower=True, overwrite_a=True, check_finite=False))

    def _value(self, factor: FloatArray, solved: FloatArray) -> float:
        fit = 0.5 * np.sum(solved * self._targets.T)
        return float(-fit - len(self._targets) * np.log(np.diag(factor)).sum())

    def _pulls(self, parameters: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """The function's covariance S; A = K^-1 Y'Y K^-1 - q K^-1, twice the slope by K; and the likelihood."""
        signal = self._signal(parameters)
        factor = self._factor(signal, parameters)
        solved = cho_solve((factor, True), self._targets.T, check_finite=False)
        value = self._value(factor, solved)
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
        inverse = inverse + np.tril(inverse, -1).T
        pull = solved @ solved.T - len(self._targets) * inverse
        return signal, pull, value
