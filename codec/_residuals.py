"""What X explains, taken out: kernel ridge on landmarks with a learned metric, and noise scales.

A column is smoothed on X by Nystroem kernel ridge with a linear part. The kernel and the penalty are
chosen by generalized cross-validation, then the penalty is reduced (undersmoothing): bias in both
residuals, not variance, is what breaks the level of a residual test. Three things go beyond plain
kernel ridge, and all were kept for what they do to the level on hard null hypotheses:

* the metric of the kernel is learned from the gradients of a first fit (Radhakrishnan, Beaglehole,
  Pandit & Belkin, Science 383, 2024), so that a function of few directions of X is found in many;
* residuals are divided by a fitted conditional noise scale: the square of a smooth of the roots of their
  absolute values. The squared mean root of normal noise tells its scale with little more variance than the mean
  absolute value (.72 against .57; the mean logarithm 1.23, Davidian & Carroll, JASA 1987), and outliers hardly
  move it;
* steps of X at which a column jumps, and products of two of many columns, become columns of X (:mod:`codec._jumps`,
  :mod:`codec._interactions`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from codec._interactions import find_products
from codec._jumps import LARGE_ROWS, find_jumps, find_slanted_jump
from codec._kernel_ridge import EXPLAINED, Smoother, standardize
from codec._validation import BoolArray, FloatArray, Table

LIGHT_KURTOSIS = 6.0  # columns of more are drawn in towards normal scores
SCALE_LIMIT = 20.0  # noise scales stay within this factor of their middle, both ways
SMOOTHER_PENALTY = 100.0  # of the functions that products of residuals are compared with, over the fit's own
LEAST_SHARE = 0.02  # functions with less than this share of the largest are left out there
TERM_ROUNDS = 4  # of finding products, then steps of X that a fit misses, and smoothing anew; one from LARGE_ROWS on
STILL_EXPLAINED = (
    0.4  # and small residuals are, if X explains at least so much of them: T of their ranks and the nearest row's
)


def embed(table: Table) -> FloatArray:
    """Columns of mean 0 and variance 1, heavy tails drawn in, categories as 0/1 blocks, constants left out; (n, d).

    Two rows of a categorical column are, like those of a numeric column, at mean squared distance 2.
    """
    blocks: list[FloatArray] = []
    for values, nominal in zip(table.columns, table.nominal, strict=True):
        if nominal:
            levels = np.unique(values)
            block = (values[:, None] == levels[None, :]).astype(np.float64)
            unlike = 1.0 - float(np.sum(block.mean(axis=0) ** 2))
            if len(levels) == 2:  # one column says what two would
                block, unlike = block[:, 1:], 0.5 * unlike
            if len(levels) > 1:
                blocks.append((block - block.mean(axis=0)) / np.sqrt(unlike))
        elif values.min() < values.max():
            blocks.append(light_tailed(values)[:, None])
    if not blocks:
        return np.empty((table.n_rows, 0))
    return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def light_tailed(values: FloatArray) -> FloatArray:
    """The column standardized; the heavier its tails, the more its normal scores take the place of the values.

    With k the kurtosis, the values weigh ``min(1, 6 / k)^2``: columns with tails up to those of a Laplace
    distribution stay as they are, and one outlier far out moves nothing.
    """
    standard = standardize(values)
    share = min(1.0, LIGHT_KURTOSIS / float(np.mean(standard**4))) ** 2
    if share == 1.0:
        return standard
    scores = standardize(ndtri((rankdata(values) - 0.5) / values.size))
    return standardize(share * standard + (1.0 - share) * scores)


def two_valued(columns: FloatArray) -> BoolArray:
    """Which columns (rows of the array) have two values only."""
    ends = columns.min(axis=1, keepdims=True), columns.max(axis=1, keepdims=True)
    return np.asarray(((columns == ends[0]) | (columns == ends[1])).all(axis=1))


# --------------------------------------------------------------------------- location and scale
def follow_terms(smoother: Smoother, columns: FloatArray) -> tuple[Smoother, Residuals]:
    """Residuals of the columns (q, n), and the smoother on X with its products and steps that they need beside it."""
    residuals = Residuals(smoother, columns, turning=False)  # kernels on single columns would blur the jumps
    d = smoother.points.shape[1]
    rounds = TERM_ROUNDS if columns.shape[1] <= LARGE_ROWS else 1
    for find in (partial(Residuals.products, d=d), Residuals.jumps, partial(Residuals.slanted_jumps, d=d)):
        for _ in range(rounds):
            terms = find(residuals)
            if not terms:
                break
            smoother = smoother.beside(terms)
            residuals = Residuals(smoother, columns, turning=False)
    if smoother.leaves_turns(residuals.fit, columns):
        residuals = Residuals(smoother, columns, learn_metric=False)  # what was learned is in the pool
    return smoother, residuals


class Residuals:
    """Columns minus what X explains, divided by a fitted noise scale; and the same for resampled columns.

    Columns of two values are not divided: copies of them are drawn with their own noise scale.

    Attributes
    ----------
    fit : Fit
        Of the columns.
    location, scale : ndarray of shape (q, n)
        Fitted values and noise scales (relative, between 1/20 and 20).
    noiseless : ndarray of shape (q,), bool
        Columns that are functions of X: what the smoother leaves of them is its own error, a function of X again.
    standard : ndarray of shape (q, n)
        Residuals over scales; 0 for columns without noise, of which nothing is left to explain.
    binary : ndarray of shape (q,), bool
        Columns of two values, whose noise scale is a function of their mean.

    Parameters
    ----------
    learn_metric : bool, default True
        Whether these columns add kernels of their own to those of the smoother.
    turning : bool, default True
        Whether kernels on single columns are tried.
    """

    def __init__(
        self, smoother: Smoother, columns: FloatArray, *, learn_metric: bool = True, turning: bool = True
    ) -> None:
        self.binary = two_valued(columns)
        self._columns, self._points = columns, smoother.points
        self.fit = smoother.fit(columns, learn_metric=learn_metric, turning=turning)
        self.location = self.fit.smooth(columns[:, None, :])[:, 0]
        raw = columns - self.location
        roots = np.sqrt(np.abs(raw))
        self._scale_fit = smoother.fit(roots, learn_metric=False, undersmoothing=1.0, turning=False)
        self.scale = self._scales(raw[:, None, :])[:, 0]
        self.standard = raw / self.scale
        small = raw.var(axis=1) <= EXPLAINED * columns.var(axis=1)
        self.noiseless = small & ~self.binary
        for j in np.flatnonzero(self.noiseless):
            self.noiseless[j] = smoother.explains(self.standard[j]) >= STILL_EXPLAINED
        self.standard[self.noiseless] = 0.0

    def of(self, rows: FloatArray) -> FloatArray:
        """Standardized residuals of resampled columns (q, b, n): smoothed and scaled anew."""
        raw = rows - self.fit.smooth(rows)
        raw /= self._scales(raw)
        raw[self.noiseless] = 0.0
        return np.asarray(raw)

    def jumps(self) -> list[FloatArray]:
        """Steps of X at which a column jumps, each once."""
        return self._missed(find_jumps, self._points)

    def products(self, d: int) -> list[FloatArray]:
        """Products of two of the first d columns of X that a column depends on and the fit misses, each once."""
        return self._missed(find_products, self._points[:, :d])

    def _missed(self, find: Callable[..., list[FloatArray]], points: FloatArray) -> list[FloatArray]:
        raw = self._columns - self.location
        fits = zip(raw, self.fit.functions, self.fit.shrinkage, self.noiseless, strict=True)
        found: dict[bytes, FloatArray] = {}
        for residual, functions, shrinkage, noiseless in fits:
            if not noiseless:
                terms = find(points, residual, functions, shrinkage)
                found.update((term.tobytes(), term) for term in terms)
        return list(found.values())

    def slanted_jumps(self, d: int) -> list[FloatArray]:
        """A step of each column that jumps where a sum of the first d columns of X passes a value."""
        raw = self._columns - self.location
        found = []
        for j in np.flatnonzero(~self.noiseless).tolist() if d > 1 else ():
            starts = self.fit.directions(j, d)
            step = find_slanted_jump(self._points[:, :d], raw[j], self.fit.functions[j], self.fit.shrinkage[j], starts)
            if step is not None:
                found.append(step)
        return found

    def smooth_functions(self) -> list[FloatArray]:
        """For each column the functions of X that a much smoother fit still uses, times their share of it."""
        chosen = []
        for functions, shrinkage in zip(self.fit.functions, self.fit.shrinkage, strict=True):
            energy = shrinkage / np.maximum(1.0 - shrinkage, 1e-12)  # in units of the penalty
            share = energy / (energy + SMOOTHER_PENALTY)
            used = share >= LEAST_SHARE * share.max()
            chosen.append(functions[:, used] * np.sqrt(share[used]))
        return chosen

    def _scales(self, raw: FloatArray) -> FloatArray:
        roots = np.sqrt(np.abs(raw))
        roots = self._scale_fit.smooth(roots)
        roots /= np.maximum(roots.mean(axis=-1, keepdims=True), 1e-150)
        roots[self.binary] = 1.0  # the few rows that a near certainty gets wrong would outweigh all others
        np.clip(roots, SCALE_LIMIT**-0.5, SCALE_LIMIT**0.5, out=roots)
        return np.square(roots, out=roots)
