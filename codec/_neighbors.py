"""Who is near whom: sums over the K nearest neighbours, for one set of columns or for every candidate.

The seam between the statistics and the search. Above it, nobody knows how neighbours are found;
below it (:mod:`codec._kernels`), nobody knows what the sums are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs

from codec import _kernels
from codec._validation import BoolArray, FloatArray, IntArray, Table

TASKS_PER_WORKER = 4  # candidates are dealt in a few chunks each: even load, little overhead


@dataclass(frozen=True)
class Response:
    """The integer form of one response that the sums run on.

    Attributes
    ----------
    order : ndarray of shape (n,), int
        Row at each place when rows stand in ascending order of label.
    label, weight : ndarray of shape (n,), int64
        In that order. Ordered response: both are ``R_i = #{j : y_j <= y_i}``. Nominal response: the
        code of the class and the number of its members.
    nominal : bool
        Whether the classes have no order.
    total : int
        ``M``: the sum if every neighbour had the row's own response.
    spread : int
        ``D``: ``sum_i L_i (n - L_i)`` with ``L_i = #{j : y_j >= y_i}``; nominal:
        ``sum_c count_c^2 (n - count_c)``. Zero for a constant response.
    """

    order: IntArray
    label: IntArray
    weight: IntArray
    nominal: bool
    total: int
    spread: int

    @property
    def n(self) -> int:
        return self.label.size

    @property
    def one(self) -> int:
        """The unit of sums: a sum ``A`` is handed on as the integer ``A * one``."""
        return int(_kernels.fixed_point(self.n))


def make_response(values: FloatArray, *, nominal: bool) -> Response:
    """Ranks (or class counts) of a response, rows in ascending order."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    codes = codes[order].astype(np.int64)
    counts = counts.astype(np.int64)
    n = values.size
    if nominal:
        weight = counts[codes]
        terms = weight * (n - weight)  # count_c (n - count_c), once per member
        return Response(order, codes, weight, True, exact_sum(weight), exact_sum(terms))
    rank = np.cumsum(counts)[codes]  # R_i, ties "max"
    at_least = n - rank + counts[codes]  # L_i = #{j : y_j >= y_i}
    return Response(order, rank, rank, False, exact_sum(rank), exact_sum(at_least * (n - at_least)))


def exact_sum(values: IntArray) -> int:
    """Sum of non-negative int64 as a Python integer: no overflow, whatever the sum."""
    return (int((values >> 31).sum()) << 31) + int((values & (2**31 - 1)).sum())


@dataclass(frozen=True)
class Geometry:
    """Columns in the order of the response's labels, with the weights of the squared distance."""

    columns: FloatArray
    scale: FloatArray
    nominal: BoolArray


def lay_columns(table: Table, scale: FloatArray, response: Response) -> Geometry:
    """Rows of the table in ascending order of the response."""
    return Geometry(np.ascontiguousarray(table.columns[:, response.order]), scale, table.nominal)


def neighbor_sum(points: Geometry, response: Response, k: int, *, random: bool = False, seed: int = 0) -> int:
    """``K * A * one`` of one point set."""
    chosen = list(range(points.columns.shape[0]))
    return _one_sum(points, chosen, response, k, random, seed)


def candidate_sums(
    points: Geometry,
    response: Response,
    base: Sequence[int],
    candidates: Sequence[int],
    k: int,
    *,
    random: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> list[int]:
    """``K * A * one`` of (base columns, candidate) for every candidate: one step of forward selection."""
    workers = effective_n_jobs(n_jobs)  # type: ignore[arg-type]
    n_tasks = min(len(candidates), TASKS_PER_WORKER * workers)
    parts = np.array_split(np.asarray(candidates), max(1, n_tasks))
    found = Parallel(n_jobs=n_jobs, prefer="threads")(
        delayed(_chunk_sums)(points, response, list(base), part.tolist(), k, random, seed) for part in parts
    )
    return [total for chunk in found for total in chunk]


def _chunk_sums(
    points: Geometry, response: Response, base: list[int], candidates: list[int], k: int, random: bool, seed: int
) -> list[int]:
    return [_one_sum(points, [*base, j], response, k, random, seed) for j in candidates]


def _one_sum(points: Geometry, chosen: list[int], response: Response, k: int, random: bool, seed: int) -> int:
    if len(chosen) == 1 and not random:
        x = points.columns[chosen[0]]
        order = np.argsort(x, kind="stable")
        whole, part = _kernels.sorted_sums(
            x,
            points.scale[chosen[0]],
            points.nominal[chosen[0]],
            order,
            response.label,
            response.weight,
            response.nominal,
            k,
        )
    else:
        whole, part = _kernels.tree_sums(
            points.columns[chosen],
            points.scale[chosen],
            points.nominal[chosen],
            response.label,
            response.weight,
            response.nominal,
            k,
            random,
            np.uint64(seed),
        )
    return int(whole) * response.one + int(part)
