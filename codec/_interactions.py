"""Products of two columns of X, and squares, that a smoother of many columns misses.

With S the smoother (a linear one) of a column v, a further term s without a penalty lowers the penalized sum of squares
by ``(s' (I - S) v)^2 / (s' (I - S) s)``, as for the steps of :mod:`codec._jumps`. A kernel of few columns bends along
products by itself; among twenty it has not enough rows to find the two that matter.
"""

from __future__ import annotations

import numpy as np

from codec._jumps import MOST_FACTORS, bar, leverage, noise_of
from codec._validation import FloatArray

MOST_TRIED = 50  # products whose gain is computed: those with the largest one if S followed nothing of them
MOST = 5  # products of a column that are found at a time
LEAST_NEW = 0.05  # of a product's own variance that S must leave of it


def find_products(
    points: FloatArray, residual: FloatArray, functions: FloatArray, shrinkage: FloatArray
) -> list[FloatArray]:
    """Products that explain more of a column than chance would, one after the other given those before.

    Parameters
    ----------
    points : ndarray of shape (n, d)
        X, standardized.
    residual : ndarray of shape (n,)
        ``(I - S) v``.
    functions, shrinkage : ndarray of shape (n, r), (r,)
        U and g of the smoother ``S v = mean(v) + U diag(g) U' v``.

    Returns
    -------
    list of ndarray of shape (n,)
        Products of two columns of X, or of one with itself; empty where none gains enough or X has few columns.
    """
    d = points.shape[1]
    if d <= MOST_FACTORS:
        return []
    least, variance = bar(residual, shrinkage, np.log(d * (d + 1) / 2))
    residual = residual - residual.mean()
    products = _nearest_to(points, residual)
    centred = products - products.mean(axis=0)
    left = centred - functions @ (shrinkage[:, None] * (functions.T @ centred))  # (I - S) s
    pull = leverage(functions, shrinkage)
    size = np.einsum("ij,ij->j", centred, left)
    open_ = size > LEAST_NEW * np.einsum("ij,ij->j", centred, centred)
    found: list[FloatArray] = []
    while open_.any() and len(found) < MOST:
        gain = np.where(open_, (products.T @ residual) ** 2 / np.where(open_, size, 1.0), 0.0)
        k = int(gain.argmax())
        if gain[k] <= least * variance:
            break
        open_[k] = False
        root = np.sqrt(size[k])
        term, weight = left[:, k] / root, float(products[:, k] @ residual / root)
        if gain[k] <= least * noise_of(term, weight, residual, pull):  # a few rows alone tell it
            continue
        found.append(products[:, k])
        pull, residual = pull + term**2, residual - weight * term
        shared = products.T @ term
        left, size = left - np.outer(term, shared), size - shared**2
        open_ &= size > LEAST_NEW * np.einsum("ij,ij->j", centred, centred)
    return found


def _nearest_to(points: FloatArray, residual: FloatArray) -> FloatArray:
    """The products that correlate most with a residual, (n, k)."""
    first, second = np.triu_indices(points.shape[1])
    pull = (points.T @ (points * residual[:, None]))[first, second]
    squares = points**2
    length = (squares.T @ squares)[first, second]
    order = np.argsort(-(pull**2) / np.maximum(length, 1e-300), kind="stable")[:MOST_TRIED]
    return points[:, first[order]] * points[:, second[order]]
