"""The omnibus statistic: four views of the dependence left between two sets of residuals.

Every term is computed for the observed data and for B resampled copies of one side; all terms are
standardized over all B + 1 values, the observed one included, and the largest is the statistic. If
the B + 1 copies are exchangeable, so are the maxima, and the rank of the observed one is an exact
p-value. Which copies are exchangeable, exactly or nearly, is the business of :mod:`codec._nulls`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from codec import _inference_kernels as kernels
from codec._validation import BoolArray, FloatArray, IntArray

N_COSINES = 4  # frequencies of the copula terms
MAX_MODULATORS = 12  # functions of X that multiply the copula features
ROUNDING = 1e-12  # a term that varies by no more, relatively, is constant ...
SINGLE_ROUNDING = 1e-5  # ... and one made of products in float32 that varies by no more than this
GIVEN_SHARE = 0.1  # weight of X in the squared distances of the residual CODEC graph
MAX_NEIGHBORS = 50  # sqrt(n) neighbours, at most this many
SINGLE_PRECISION_ROWS = 2000  # above: products of cosines in float32
BLOCK_ROWS = 20_000  # near rows are the nearest in a random block of at most so many rows ...
BRUTE_BLOCK_ROWS = 2_000  # ... of so many from this number of columns on:
BRUTE_COLUMNS = 6  # from here on trees prune nothing worth while: all distances ...
BRUTE_ROWS = 20_000  # ... up to this many rows ...
BRUTE_BLOCK = 64  # ... for a block of rows at a time


def standardize_rows(rows: FloatArray) -> FloatArray:
    """Mean 0 and standard deviation 1 along the last axis; constants become 0."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    spread = np.sqrt(np.einsum("...i,...i->...", centred, centred) / rows.shape[-1])[..., None]
    return np.asarray(centred / np.where(spread > 1e-12, spread, np.inf))


def row_ranks(rows: FloatArray) -> FloatArray:
    """Average ranks within each row of an array (b, n)."""
    return np.asarray(kernels.average_ranks(rows, np.argsort(rows, axis=1)))


def nearest_rows(points: FloatArray, k: int, rng: np.random.Generator) -> IntArray:
    """The row itself and its k nearest, (n, k + 1), in no order; ties are broken by a jitter of 1e-7."""
    jittered = points + 1e-7 * rng.standard_normal(points.shape)
    near = np.empty((len(points), k + 1), dtype=np.int64)
    if points.shape[1] >= BRUTE_COLUMNS and len(points) <= BRUTE_ROWS:
        size = np.einsum("ij,ij->i", jittered, jittered)
        place = np.concatenate([-2.0 * jittered, size[:, None]], axis=1).T
        ones = np.ones((BRUTE_BLOCK, 1))
        for low in range(0, len(points), BRUTE_BLOCK):  # squared distances up to the size of the row itself
            rows = jittered[low : low + BRUTE_BLOCK]
            distances = np.concatenate([rows, ones[: len(rows)]], axis=1) @ place
            kernels.smallest_columns(distances, k + 1, near[low : low + BRUTE_BLOCK])
        return near
    tree = cKDTree(jittered)
    near[tree.indices] = tree.query(jittered[tree.indices], k=k + 1)[1]  # near rows one after the other
    return near


def near_in_blocks(points: FloatArray, k: int, rng: np.random.Generator) -> IntArray:
    """The row itself and its k nearest in its random block of rows, (n, k + 1).

    Residuals need near rows to be exchanged or compared with, not the nearest ones; the search grows faster than n,
    and in many columns no row is near.
    """
    size = max(BLOCK_ROWS if points.shape[1] < BRUTE_COLUMNS else BRUTE_BLOCK_ROWS, 2 * k + 2)
    n_blocks = -(-len(points) // size)
    if n_blocks == 1:
        return nearest_rows(points, k, rng)
    near = np.empty((len(points), k + 1), dtype=np.int64)
    for rows in np.array_split(rng.permutation(len(points)), n_blocks):
        near[rows] = rows[nearest_rows(points[rows], k, rng)]
    return near


def default_neighbors(n: int) -> int:
    """sqrt(n), between 5 and 50, fewer in tiny samples."""
    return min(max(5, int(np.sqrt(n))), MAX_NEIGHBORS, max(1, (n - 1) // 2))


# --------------------------------------------------------------------------- the resampled side
@dataclass(frozen=True)
class Moving:
    """Residual rows of the resampled side, with what every term needs of them.

    Attributes
    ----------
    standard : ndarray of shape (q, b, n)
        Rows of mean 0 and standard deviation 1.
    ranks : ndarray of shape (q, b, n)
    cosines : ndarray of shape (q, 4, b, n)
        ``cos(pi k (rank - 1/2) / n)``.
    drawn : ndarray of shape (b, n) or None
        Which row's residual stands where, if the copies are plain permutations.
    """

    standard: FloatArray
    ranks: FloatArray
    cosines: FloatArray
    drawn: IntArray | None = None


def make_moving(rows: FloatArray, drawn: IntArray | None = None, binary: BoolArray | None = None) -> Moving:
    """What the terms need of residual rows (q, b, n).

    ``binary`` (q,): residuals of columns of two values. Their ranks tell the fitted probabilities rather than the
    classes, so that a rare class would hardly show: they stand for themselves in place of the ranks and the
    first cosine.
    """
    standard = standardize_rows(rows)
    ranks = np.stack([row_ranks(block) for block in standard])
    table = cosine_table(rows.shape[-1])
    places = (2.0 * ranks).astype(np.int64) - 2
    cosines = np.stack([table.take(block, axis=1) for block in places])  # in one piece, for the products
    if binary is not None and binary.any():
        ranks[binary] = standard[binary]
        cosines[binary, 0] = standard[binary] * np.sqrt(0.5)
        cosines[binary, 1:] = 0.0
    constant = ~standard.any(axis=-1)
    if constant.any():  # their sums would differ by rounding, which is all that they differ by
        cosines.swapaxes(1, 2)[constant] = 0.0
    return Moving(standard, ranks, cosines, drawn)


@lru_cache(maxsize=8)
def cosine_table(n: int) -> Any:
    """``cos(pi k u)`` at the n average ranks and the halves between them, (4, 2 n - 1)."""
    u = (np.arange(2 * n - 1) / 2 + 0.5) / n
    table = np.cos(np.pi * np.arange(1, N_COSINES + 1)[:, None] * u)
    return table.astype(np.float32 if n > SINGLE_PRECISION_ROWS else np.float64)


# --------------------------------------------------------------------------- the terms
class Omnibus:
    """The terms of the statistic for one fixed side.

    Parameters
    ----------
    anchor : ndarray of shape (q, n)
        Residuals of the side that is not resampled.
    points : ndarray of shape (n, d)
        X, standardized; d may be 0.
    n_neighbors : int or None
        Neighbours of the residual CODEC; None leaves that term out.
    rng : Generator
        Breaks ties in the graph.
    tables : Tables, optional
        Adds the contingency-table term of discrete data.
    functions : list of ndarray of shape (n, r), optional
        Adds the covariance times functions of X, given for each row of the moving side.
    modulators : ndarray of shape (m, n), optional
        What :func:`make_modulators` makes of ``points``, where many statistics share it.
    binary : ndarray of shape (q,), bool, optional
        As in :func:`make_moving`, for the rows of ``anchor``.

    Attributes
    ----------
    names : tuple of str
        ``covariance``: root of the summed squared, studentized residual covariances.
        ``copula``: squared cosine coefficients of the joint ranks, frequencies 1 to 4.
        ``copula x given``: the same times cosines of the ranks of X.
        ``covariance x given``: squared covariances of the product of both residuals with functions of X.
        ``codec``: residual CODEC on the graph of (anchor, X).
        ``table``: G of y and z within the strata of X.
    """

    def __init__(
        self,
        anchor: FloatArray,
        points: FloatArray,
        n_neighbors: int | None,
        rng: np.random.Generator,
        tables: Tables | None = None,
        functions: Sequence[FloatArray] = (),
        modulators: FloatArray | None = None,
        binary: BoolArray | None = None,
    ) -> None:
        n = anchor.shape[1]
        self._anchor = standardize_rows(anchor)
        self._squares = self._anchor**2
        fixed = make_moving(anchor[:, None, :], binary=binary).cosines[:, :, 0]  # (q, 4, n)
        waves = make_modulators(points) if modulators is None else modulators
        modulators = np.concatenate([np.ones((1, n)), waves])
        products = fixed.reshape(-1, 1, n) * modulators
        self._features = np.ascontiguousarray(products.reshape(-1, n).T.astype(fixed.dtype))
        self._n_modulators = len(modulators)
        frequency = np.arange(1, N_COSINES + 1)
        self._weights = 1.0 / np.sqrt(np.outer(frequency, frequency))
        self._near = None
        if n_neighbors is not None and self._anchor.any():  # a function of X, which is 0, has no graph
            self._near = residual_graph(self._anchor, points, n_neighbors, rng)
        self._tables = tables
        self._functions = [[f * row[:, None].astype(f.dtype) for row in self._anchor] for f in functions]
        self.names = (
            ("covariance", "copula")
            + (("copula x given",) if self._n_modulators > 1 else ())
            + (("covariance x given",) if len(functions) else ())
            + (("codec",) if self._near is not None else ())
            + (("table",) if tables is not None else ())
        )

    @property
    def n_entries(self) -> int:
        """Numbers that it holds."""
        products = sum(int(f.size) for group in self._functions for f in group)
        return 2 * int(self._anchor.size) + int(self._features.size) + products

    @property
    def rounding(self) -> FloatArray:
        """For every term the variation, relative to its size, that is the rounding of its products."""
        single = {"copula", "copula x given"} if self._features.dtype == np.float32 else set()
        if any(f.dtype == np.float32 for group in self._functions for f in group):
            single.add("covariance x given")
        return np.array([SINGLE_ROUNDING if name in single else ROUNDING for name in self.names])

    def values(self, moving: Moving) -> FloatArray:
        """The terms for each resampled row, (terms, b)."""
        rows = [self._covariance(moving), *self._copula(moving)]
        if len(self._functions):
            rows.append(self._varying_covariance(moving))
        if self._near is not None:
            rows.append(residual_codec(self._near, moving.ranks))
        if self._tables is not None and moving.drawn is not None:
            rows.append(self._tables.values(moving.drawn))
        return np.stack(rows)

    def _covariance(self, moving: Moving) -> FloatArray:
        product = moving.standard @ self._anchor.T  # (q_y, b, q_z)
        spread = (moving.standard**2) @ self._squares.T
        return np.asarray(np.sqrt((product**2 / np.maximum(spread, 1e-300)).sum(axis=(0, 2))))

    def _varying_covariance(self, moving: Moving) -> FloatArray:
        """``sum_k (r_y r_z)' f_k``, squared: a covariance that changes its sign with X averages out otherwise."""
        total = np.zeros(moving.standard.shape[1])
        for rows, products in zip(moving.standard, self._functions, strict=True):
            for functions in products:
                found = rows.astype(functions.dtype, copy=False) @ functions
                total += np.einsum("bk,bk->b", found, found)
        return total

    def _copula(self, moving: Moving) -> Iterator[FloatArray]:
        q, k, b, n = moving.cosines.shape
        found = moving.cosines.reshape(-1, n) @ self._features
        found = found.reshape(q, k, b, -1, N_COSINES, self._n_modulators).astype(np.float64)
        squares = np.einsum("kl,qkbzlm->mb", self._weights, found**2)
        yield squares[0]
        if self._n_modulators > 1:
            yield squares[1:].sum(axis=0)


def residual_graph(anchor: FloatArray, points: FloatArray, n_neighbors: int, rng: np.random.Generator) -> IntArray:
    """The nearest rows in the standardized residuals (q, n) and, with a lower weight, in X (n, d)."""
    place = np.concatenate([np.sqrt(GIVEN_SHARE) * points, anchor.T], axis=1)
    return without_self(near_in_blocks(place, n_neighbors, rng))


def residual_codec(near: IntArray, ranks: FloatArray) -> FloatArray:
    """CODEC of the ranks of moving residuals (q, b, n) on a fixed graph, up to constants."""
    return np.asarray(sum(kernels.regular_sums(near, rows) for rows in ranks))


def make_modulators(points: FloatArray) -> FloatArray:
    """cos(pi u), cos(2 pi u) of the rank of each column of X, standardized, at most 12."""
    n, d = points.shape
    if d == 0:
        return np.empty((0, n))
    u = (rankdata(points, axis=0).T - 0.5) / n
    waves = np.concatenate([np.cos(np.pi * u), np.cos(2.0 * np.pi * u)])
    return standardize_rows(waves[:MAX_MODULATORS])


def without_self(near: IntArray) -> IntArray:
    """Drop the row itself by its index; the farthest where it is not among its nearest (copies)."""
    n, width = near.shape
    own = near == np.arange(n)[:, None]
    own[~own.any(axis=1), width - 1] = True
    return np.ascontiguousarray(near[~own].reshape(n, width - 1).astype(np.int32))


@dataclass(frozen=True)
class Tables:
    """G of y and z within strata, up to a constant that no permutation within strata changes.

    Attributes
    ----------
    codes : ndarray of shape (n,)
        Level of y, 0 .. n_codes - 1.
    cells : ndarray of shape (n,)
        Combination of z and stratum, 0 .. n_cells - 1.
    """

    codes: IntArray
    cells: IntArray

    def values(self, drawn: IntArray) -> FloatArray:
        n_codes, n_cells = int(self.codes.max()) + 1, int(self.cells.max()) + 1
        return np.asarray(kernels.table_entropy(self.codes[drawn], self.cells, n_codes, n_cells))


# --------------------------------------------------------------------------- the maximum
def standardized_maxima(values: FloatArray, rounding: float | FloatArray = ROUNDING) -> tuple[FloatArray, FloatArray]:
    """Terms (t, B + 1) standardized over all their values, and the largest of each column; constants become 0."""
    scores = standardize_rows(without_rounding(values, rounding))
    return scores, scores.max(axis=0)


def without_rounding(values: FloatArray, rounding: float | FloatArray = ROUNDING) -> FloatArray:
    """Terms (t, B + 1), those 0 that vary by no more, relatively, than rounding lets them."""
    constant = np.ptp(values, axis=-1) <= rounding * np.abs(values).max(axis=-1)
    return np.where(constant[:, None], 0.0, values)
