"""Kernel ridge regression on landmarks: kernels and penalties by generalized cross-validation, metrics that are learned.

A kernel of many columns needs more rows than there are for a sum of functions of one column each; wide kernels on every
single column beside it follow that. Where residuals of rows next to each other in a column of X are alike, a narrow
kernel on this column is added, which follows what turns often along it, such as a season beside the time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import expit
from scipy.stats import rankdata

from codec._omnibus import near_in_blocks, without_self
from codec._validation import BoolArray, FloatArray, IntArray

BANDWIDTHS = (0.25, 1.0)  # of the median squared distance
ADDITIVE = 1.0  # on every single column, beside the widest of these: from so many columns on,
ADDITIVE_COLUMNS = 4
ADDITIVE_ROWS = 20  # and with so many of the rows below for each; with fewer the fit follows noise
ADDITIVE_LANDMARKS = 14  # of each column
NARROW = (1 / 16, 1 / 64, 1 / 256, 1 / 1024)  # on a single column, along which something turns often, as a season does:
ALIKE = 2.0  # tried where residuals next to each other in it correlate by so many standard deviations
PENALTIES = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0])
UNDERSMOOTHING = 0.3  # the penalty chosen by cross-validation is multiplied by this
N_LANDMARKS = 200  # at most; half of the rows in smaller samples
SELECTION_LANDMARKS = 100  # kernels are chosen with this many of them ...
SELECTION_ROWS = 1000  # ... on this many rows; the chosen ones are fitted with all
METRIC_ROUNDS = 2  # gradients -> metric -> kernel, this often
METRIC_ISOTROPIC = 0.1  # share of the identity in a learned metric
PENALTY_FACTORS = ((30.0, 10.0, 3.0, 1.0), (100.0, 1000.0))  # of logistic regression, over the penalty of least squares
LEAST_SHRINKAGE = 0.01  # functions that least squares keeps less of are left out there
LOGISTIC_ROWS = 5000  # and rows beyond these
NEWTON_STEPS = 20
EXPLAINED = 0.01  # residuals of at most this share of a column's variance may be none but the smoother's error


def standardize(values: FloatArray) -> FloatArray:
    """Mean 0 and standard deviation 1."""
    centred = values - values.mean()
    centred = np.ldexp(centred, -np.frexp(np.ptp(centred))[1])  # squares do not overflow; by a power of two: exact
    return np.asarray(centred / centred.std())


# --------------------------------------------------------------------------- one kernel
@dataclass(frozen=True)
class Kernel:
    """exp(-(x - l)' M (x - l) / h) against landmarks l, beside x itself, centred and diagonalised.

    Attributes
    ----------
    landmarks : ndarray of shape (m, d)
    metric : ndarray of shape (d, d)
    width, bandwidth : float
        h, and h as a multiple of the median squared distance of the landmarks.
    gram : ndarray of shape (m, m)
        Kernel between the landmarks.
    turns : tuple of (int, float)
        Kernels on single columns beside it: which, and their bandwidths as multiples of the median squared distance;
        narrow ones where something turns often, wide ones on all for a sum of functions of one column each.
    loadings : ndarray of shape (m + k m + d, r)
        Coefficients of the orthonormal functions on (kernel values, those of the k turns, x).
    energy : ndarray of shape (r,)
        Eigenvalues of the whitened features' scatter matrix, ascending.
    functions : ndarray of shape (n, r)
        Orthonormal functions of X at the rows.
    """

    landmarks: FloatArray
    metric: FloatArray
    width: float
    bandwidth: float
    gram: FloatArray
    loadings: FloatArray
    energy: FloatArray
    functions: FloatArray
    turns: tuple[tuple[int, float], ...] = ()

    def shrinkage(self, penalty: float) -> FloatArray:
        return np.asarray(self.energy / (self.energy + penalty))


def squared_distances(a: FloatArray, b: FloatArray, metric: FloatArray) -> FloatArray:
    """Squared distances under the metric, shape (len(a), len(b))."""
    moved_a, moved_b = a @ metric, b @ metric
    size_a = np.einsum("ij,ij->i", moved_a, a)
    size_b = np.einsum("ij,ij->i", moved_b, b)
    distances = moved_a @ b.T
    distances *= -2.0
    distances += size_a[:, None]
    distances += size_b[None, :]
    return np.maximum(distances, 0.0, out=distances)


def make_kernel(
    points: FloatArray, landmarks: FloatArray, metric: FloatArray, width: float, turns: Sequence[tuple[int, float]] = ()
) -> Kernel:
    """The kernel whose bandwidth is ``width`` times the median squared distance of the landmarks, and its ``turns``."""
    blocks = [_block(points, landmarks, metric, width)]
    for column, narrow in turns:
        values = points[:, [column]]
        many = N_LANDMARKS if narrow < ADDITIVE else ADDITIVE_LANDMARKS
        n_landmarks = min(max(len(values) // 2, 2), many)
        blocks.append(_block(values, _spread_out(values, n_landmarks), np.eye(1), narrow))
    features = np.concatenate([*(block.near for block in blocks), points], axis=1)
    mean = features.mean(axis=0)
    # Whitening commutes with sums over rows: m x m triangular solves instead of n x m ones.
    scatter = features.T @ features
    scatter -= len(points) * np.outer(mean, mean)
    ends = np.cumsum([0, *(block.near.shape[1] for block in blocks)])
    parts = [slice(start, end) for start, end in pairwise(ends)]
    for part, block in zip(parts, blocks, strict=True):
        scatter[part] = solve_triangular(block.factor, scatter[part], lower=True, check_finite=False)
        scatter[:, part] = solve_triangular(block.factor, scatter[:, part].T, lower=True, check_finite=False).T
    energy, loadings = np.linalg.eigh(scatter)
    kept = energy > 1e-8 * energy[-1]
    energy, loadings = energy[kept], loadings[:, kept] / np.sqrt(energy[kept])
    for part, block in zip(parts, blocks, strict=True):
        loadings[part] = solve_triangular(block.factor.T, loadings[part], lower=False, check_finite=False)
    functions = features @ loadings
    functions -= mean @ loadings
    first = blocks[0]
    return Kernel(landmarks, metric, width, first.bandwidth, first.gram, loadings, energy, functions, (*turns,))


class _Block(NamedTuple):
    """Kernel values against landmarks, and what makes them independent."""

    near: FloatArray
    gram: FloatArray
    factor: FloatArray
    bandwidth: float


def _block(points: FloatArray, landmarks: FloatArray, metric: FloatArray, width: float) -> _Block:
    m = len(landmarks)
    between = squared_distances(landmarks, landmarks, metric)
    upper = between[np.triu_indices(m, 1)]
    middle = float(np.median(upper)) if upper.size else 1.0
    bandwidth = width * (middle or float(upper.mean()) or 1.0)
    gram = _gaussian(between, bandwidth)
    gram[np.diag_indices_from(gram)] += 1e-6 * np.sqrt(m)
    factor = cholesky(gram, lower=True, check_finite=False)
    near = _gaussian(squared_distances(points, landmarks, metric), bandwidth)
    return _Block(near, gram, factor, bandwidth)


def _spread_out(values: FloatArray, n_landmarks: int) -> FloatArray:
    """Values of one column (n, 1) that have as many rows between them, each once."""
    places = np.linspace(0, len(values) - 1, n_landmarks).round().astype(np.intp)
    return np.unique(np.sort(values, axis=0)[places], axis=0)


def _gaussian(distances: FloatArray, bandwidth: float) -> FloatArray:
    return np.exp(np.multiply(distances, -1.0 / bandwidth, out=distances), out=distances)


def gradient_metric(kernel: Kernel, penalty: float, coefficients: FloatArray) -> FloatArray:
    """Mean outer product of the fit's gradients at the landmarks, trace d, a little identity added."""
    m, d = kernel.landmarks.shape
    weights = kernel.loadings @ (kernel.shrinkage(penalty) * coefficients)
    pulls = kernel.gram * weights[:m]  # k(l_i, l_j) c_j
    toward = pulls.sum(axis=1)[:, None] * kernel.landmarks - pulls @ kernel.landmarks
    gradients = (-2.0 / kernel.bandwidth) * (toward @ kernel.metric) + weights[len(weights) - d :]
    outer = gradients.T @ gradients
    trace = float(np.trace(outer))
    if trace <= 0.0:
        return np.eye(d)
    return np.asarray((1.0 - METRIC_ISOTROPIC) * outer * (d / trace) + METRIC_ISOTROPIC * np.eye(d))


# --------------------------------------------------------------------------- choosing kernels
@dataclass(frozen=True, eq=False)
class Choice:
    """The best kernel of one column so far."""

    score: float
    kernel: Kernel
    penalty: float
    coefficients: FloatArray


def best_penalties(kernel: Kernel, columns: FloatArray) -> list[Choice]:
    """For each centred column (q, n) the penalty with the least generalized cross-validation score."""
    n = columns.shape[1]
    coefficients = columns @ kernel.functions
    total = np.einsum("ij,ij->i", columns, columns)
    shrink = kernel.energy[None, :] / (kernel.energy[None, :] + PENALTIES[:, None])
    left = total[:, None] - coefficients**2 @ (2.0 * shrink - shrink**2).T
    freedom = np.maximum(1.0 - (shrink.sum(axis=1) + 1.0) / n, 0.05)
    scores = left / n / freedom**2
    best = scores.argmin(axis=1)
    return [Choice(float(scores[j, b]), kernel, float(PENALTIES[b]), coefficients[j]) for j, b in enumerate(best)]


def _better(first: Sequence[Choice], second: Sequence[Choice]) -> list[Choice]:
    return [b if b.score < a.score else a for a, b in zip(first, second, strict=True)]


def _alike(choice: Choice, column: FloatArray, places: IntArray) -> float:
    """Standard deviations by which residuals of a centred column correlate with those of the next value of X.

    ``places`` are the values' ranks, 0, 1, ...; rows of the same value count by their mean. 0 where hardly anything is
    left, which may be the fit's own error.
    """
    shrunk = choice.kernel.shrinkage(choice.penalty) * choice.coefficients
    left = column - choice.kernel.functions @ shrunk
    if left @ left <= EXPLAINED * (column @ column):
        return 0.0
    means = np.bincount(places, left) / np.sqrt(np.bincount(places))  # of the same variance, if rows are independent
    return float(np.sqrt(len(means)) * (means[1:] @ means[:-1]) / max(means @ means, 1e-300))


class Smoother:
    """Kernel ridge of any columns on the same X; kernels once made are offered to later columns.

    Parameters
    ----------
    points : ndarray of shape (n, d)
        X, standardized (:func:`embed`), d >= 1.
    rng : Generator
        Draws the landmarks.
    """

    def __init__(self, points: FloatArray, rng: np.random.Generator) -> None:
        n, d = points.shape
        enough = ADDITIVE_COLUMNS <= d <= min(n, SELECTION_ROWS) // ADDITIVE_ROWS
        self._singles = d if enough else 0  # of the columns as they came: terms beside them have none
        self._lay(points, rng.permutation(n))

    def _lay(self, points: FloatArray, drawn: IntArray) -> None:
        n, d = points.shape
        self.points, self._drawn = points, drawn
        self._landmarks = points[drawn[: min(max(n // 2, 2), N_LANDMARKS)]]
        self._rows: IntArray | slice = slice(None) if n <= SELECTION_ROWS else np.sort(drawn[:SELECTION_ROWS])
        self._seen = points[self._rows]
        self._few = self._landmarks[:SELECTION_LANDMARKS]
        self._pool = [make_kernel(self._seen, self._few, np.eye(d), width) for width in BANDWIDTHS]
        self._additive = self._with_singles(self._pool[-1]) if self._singles else None
        self._places = [np.unique(values, return_inverse=True)[1] for values in self._seen.T]
        self._turned: dict[tuple[object, ...], Kernel] = {}
        self._refined: dict[int, Kernel] = {}
        self._nearest: IntArray | None = None  # row in X; made when it is asked for

    def fit(
        self,
        columns: FloatArray,
        *,
        learn_metric: bool = True,
        undersmoothing: float = UNDERSMOOTHING,
        turning: bool = True,
    ) -> Fit:
        """Smooth the columns (q, n); each chooses its kernel and penalty among all made so far, and those of `NARROW`."""
        centred = columns - columns.mean(axis=1, keepdims=True)
        seen = self._seen_of(centred)
        choices = best_penalties(self._pool[0], seen)
        for kernel in self._pool[1:]:
            choices = _better(choices, best_penalties(kernel, seen))
        rounds = METRIC_ROUNDS if learn_metric and self.points.shape[1] > 1 else 0
        tried: list[Choice] = []
        for _ in range(rounds):
            for choice in list(choices):
                if choice in tried:  # the last round did not improve this column
                    continue
                tried.append(choice)
                metric = gradient_metric(choice.kernel, choice.penalty, choice.coefficients)
                kernel = make_kernel(self._seen, self._few, metric, BANDWIDTHS[-1])
                self._pool.append(kernel)
                choices = _better(choices, best_penalties(kernel, seen))
        if self._additive is not None:
            choices = _better(choices, best_penalties(self._additive, seen))
        choices = self._turning(choices, seen) if turning else choices
        chosen = list(choices)
        if len(self._few) < len(self._landmarks) or len(self._seen) < len(self.points):
            for members in same_things([choice.kernel for choice in choices]):
                refined = best_penalties(self._refine(choices[members[0]].kernel), centred[members])
                for j, choice in zip(members, refined, strict=True):
                    choices[j] = choice
        return Fit(
            [choice.kernel.functions for choice in choices],
            [choice.kernel.shrinkage(undersmoothing * choice.penalty) for choice in choices],
            choices,
            chosen,
        )

    def leaves_turns(self, fit: Fit, columns: FloatArray) -> bool:
        """Whether a fit without kernels on single columns would try some."""
        seen = self._seen_of(columns - columns.mean(axis=1, keepdims=True))
        pairs = zip(fit.chosen, seen, strict=True)
        return any(_alike(choice, column, places) >= ALIKE for choice, column in pairs for places in self._places)

    def _seen_of(self, centred: FloatArray) -> FloatArray:
        """Columns on the rows on which kernels are chosen, centred there."""
        seen = centred[:, self._rows]
        return np.asarray(seen - seen.mean(axis=1, keepdims=True))

    def _turning(self, choices: list[Choice], seen: FloatArray) -> list[Choice]:
        """Kernels on single columns added where residuals of rows next to each other in that column are alike."""
        for j in range(len(choices)):
            for column, places in enumerate(self._places):
                if _alike(choices[j], seen[j], places) >= ALIKE:
                    for width in NARROW:
                        turning = self._with_turn(choices[j].kernel, column, width)
                        choices[j] = _better([choices[j]], best_penalties(turning, seen[j : j + 1]))[0]
        return choices

    def _with_singles(self, wide: Kernel) -> Kernel:
        """A kernel with a wide one on every single column of X beside it."""
        singles = [(column, ADDITIVE) for column in range(self._singles)]
        return make_kernel(self._seen, self._few, wide.metric, wide.width, singles)

    def _with_turn(self, kernel: Kernel, column: int, width: float) -> Kernel:
        """A kernel with one more on a single column, in place of one that it has there; made once."""
        turns = tuple(sorted({**dict(kernel.turns), column: width}.items()))
        key = id(kernel.metric), kernel.width, turns
        if key not in self._turned:
            self._turned[key] = make_kernel(self._seen, self._few, kernel.metric, kernel.width, turns)
        return self._turned[key]

    def refine_all(self) -> None:
        """Every kernel made so far with all landmarks and rows, so that branches need not make them."""
        if len(self._few) < len(self._landmarks) or len(self._seen) < len(self.points):
            for kernel in [*self._pool, *([] if self._additive is None else [self._additive])]:
                self._refine(kernel)

    def branch(self) -> Smoother:
        """The same kernels; what the branch learns stays with it."""
        branch = copy.copy(self)
        branch._pool, branch._refined, branch._turned = list(self._pool), dict(self._refined), dict(self._turned)
        return branch

    def beside(self, columns: Sequence[FloatArray]) -> Smoother:
        """The same on X with more columns, which are functions of it."""
        more = np.stack([standardize(column) for column in columns], axis=1)
        wider = copy.copy(self)
        wider._lay(np.concatenate([self.points, more], axis=1), self._drawn)
        return wider

    def explains(self, column: FloatArray) -> float:
        """How much of a column is a function of X: 1 less the distance of ranks of nearest rows over that of any rows.

        The coefficient of Chatterjee (2021) with the nearest row in X as the next one: 0 for noise, 1 for a function
        where rows are near enough.
        """
        if self._nearest is None:
            self._nearest = without_self(near_in_blocks(self.points, 1, np.random.default_rng(0)))[:, 0]
        ranks = rankdata(column)
        apart = np.abs(ranks - ranks[self._nearest]).mean()
        return float(1.0 - 3.0 * apart * len(ranks) / (len(ranks) ** 2 - 1))

    def _refine(self, kernel: Kernel) -> Kernel:
        """The chosen kernel with all landmarks on all rows; made once."""
        if id(kernel) not in self._refined:
            self._refined[id(kernel)] = make_kernel(
                self.points, self._landmarks, kernel.metric, kernel.width, kernel.turns
            )
        return self._refined[id(kernel)]


@dataclass(frozen=True)
class Fit:
    """Linear smoothers, one per column: ``S_j v = mean(v) + U_j diag(g_j) U_j' v``.

    Attributes
    ----------
    functions : list of ndarray of shape (n, r_j)
        ``U_j``, orthonormal.
    shrinkage : list of ndarray of shape (r_j,)
        ``g_j``, in [0, 1].
    choices, chosen : list of Choice
        What they are made of, and what that was when it was chosen, with few landmarks on some of the rows.
    """

    functions: list[FloatArray]
    shrinkage: list[FloatArray]
    choices: list[Choice]
    chosen: list[Choice]

    def directions(self, j: int, d: int) -> FloatArray:
        """In which two directions of the first d columns of X column j changes most, (2, d)."""
        choice = self.choices[j]
        metric = gradient_metric(choice.kernel, choice.penalty, choice.coefficients)
        return np.ascontiguousarray(np.linalg.eigh(metric[:d, :d])[1][:, :-3:-1].T)

    def chances(self, j: int, member: BoolArray) -> FloatArray:
        """Fitted probabilities of a class, by logistic regression on the functions of column j."""
        used = self.shrinkage[j] >= LEAST_SHRINKAGE
        shrink, mean = self.shrinkage[j][used], float(member.mean())
        penalty = mean * (1.0 - mean) * (1.0 - shrink) / shrink
        return logistic_ridge(self.functions[j][:, used], penalty, member)

    def smooth(self, rows: FloatArray) -> FloatArray:
        """``S_j`` applied to ``rows[j]``, an array of shape (q, b, n)."""
        smooth = np.empty_like(rows)
        _, b, n = rows.shape
        for members in same_things(self.functions):  # columns of one kernel go through one product
            functions = self.functions[members[0]]
            shrinkage = np.repeat([self.shrinkage[j] for j in members], b, axis=0)
            chosen = rows[members].reshape(-1, n)
            mean = chosen.mean(axis=1, keepdims=True)
            chosen -= mean
            fitted = ((chosen @ functions) * shrinkage) @ functions.T
            fitted += mean
            smooth[members] = fitted.reshape(len(members), b, n)
        return smooth


def logistic_ridge(functions: FloatArray, penalty: FloatArray, member: BoolArray) -> FloatArray:
    """Fitted probabilities of a class given orthonormal functions (n, r) and their relative penalties (r,).

    The penalty is multiplied by the factor with the least approximate leave-one-out deviance: with that of least
    squares the probabilities of a rare class would be far too sure of themselves.
    """
    n = len(functions)
    design = np.concatenate([functions, np.full((n, 1), n**-0.5)], axis=1)
    rows: IntArray | slice = slice(None)
    if n > LOGISTIC_ROWS:
        rows = np.random.default_rng(0).choice(n, LOGISTIC_ROWS, replace=False)
    seen, target = design[rows], member[rows]
    least, best, reached = np.inf, np.zeros(design.shape[1]), 0.0
    for factors in PENALTY_FACTORS:  # down as long as that helps; up if it does not help at all
        for factor in factors:
            ridge = np.append(factor * penalty, 1e-6) * (len(seen) / n)  # the intercept is free
            used = ridge <= (0.25 / LEAST_SHRINKAGE) * (len(seen) / n)
            weights = np.where(used, best, 0.0)
            weights[used], deviance = _newton(seen[:, used], target, ridge[used], weights[used])
            if deviance >= least:
                break
            least, best, reached = deviance, weights, factor
        if reached != factors[0]:
            break
    return np.clip(expit(design @ best), 0.5 / n, 1.0 - 0.5 / n)


def _newton(design: FloatArray, target: BoolArray, ridge: FloatArray, weights: FloatArray) -> tuple[FloatArray, float]:
    """Newton's method, its steps halved until they help; the mean deviance of rows left out, to first order."""

    def loss(w: FloatArray) -> float:
        return float(_deviance(design @ w, target).sum() + 0.5 * (ridge * w) @ w)

    reached = loss(weights)
    for _ in range(NEWTON_STEPS):
        chance = expit(design @ weights)
        noise = chance * (1.0 - chance)
        weighted = design * np.sqrt(noise)[:, None]
        curvature = weighted.T @ weighted
        curvature[np.diag_indices_from(curvature)] += ridge + 1e-9
        factor = cholesky(curvature, lower=True, check_finite=False)
        step = cho_solve((factor, True), design.T @ (target - chance) - ridge * weights, check_finite=False)
        before = reached
        while (reached := loss(weights + step)) > before and np.abs(step).max() > 1e-6:
            step *= 0.5
        weights = weights + step
        if before - reached < 1e-4 * before:
            break
    whitened = solve_triangular(factor, design.T, lower=True, check_finite=False)
    pull = np.einsum("ji,ji->i", whitened, whitened)
    left_out = design @ weights - pull * (target - chance) / np.maximum(1.0 - noise * pull, 0.05)
    return weights, float(_deviance(left_out, target).mean())


def _deviance(logits: FloatArray, target: BoolArray) -> FloatArray:
    return np.asarray(np.logaddexp(0.0, np.where(target, -logits, logits)))


def same_things(things: Sequence[object]) -> list[list[int]]:
    """Places of each distinct object (the very same one), by first appearance."""
    places: dict[int, list[int]] = {}
    for j, thing in enumerate(things):
        places.setdefault(id(thing), []).append(j)
    return list(places.values())
