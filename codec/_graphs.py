"""CODEC with its neighbour graphs fixed: the coefficient of any permutation of y in O(edges).

The graphs depend on (X, Z) alone. Built once, they turn every resampled coefficient into a sum over
edges, and make its mean and variance over all permutations of y closed forms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from codec import _inference_kernels as kernels
from codec._dependence import side_by_side
from codec._neighbors import make_response
from codec._validation import FloatArray, IntArray, Table

ROUNDING = 1e-12  # what is left of y given X, or of a variance, up to this share of the whole is the rounding of sums
MAX_TIED_EDGES = 4_000_000  # edges to tied neighbours; more are represented by a sample


@dataclass(frozen=True)
class Graph:
    """K nearest neighbours in compressed rows; see :func:`codec._inference_kernels.neighbor_edges`."""

    start: IntArray
    target: IntArray
    weight: FloatArray

    @property
    def n(self) -> int:
        return self.start.size - 1

    def sums(self, label: FloatArray, value: FloatArray, *, nominal: bool) -> FloatArray:
        """``A`` for every row of ``label`` and ``value`` (b, n)."""
        return np.asarray(kernels.graph_sums(self.start, self.target, self.weight, label, value, nominal))


def neighbor_graph(table: Table, k: int, rng: np.random.Generator) -> Graph:
    """The graph of :func:`codec.codec`: columns as they are, ties shared."""
    d, n = table.columns.shape
    cap = max(k, min(n, MAX_TIED_EDGES // n))
    seed = np.uint64(rng.integers(2**63))
    return Graph(*kernels.neighbor_edges(table.columns, np.ones(d), table.nominal, k, cap, seed))


@dataclass(frozen=True)
class RankedResponse:
    """Labels and values of :class:`codec._neighbors.Response`, in the order of the rows."""

    label: FloatArray
    value: FloatArray
    nominal: bool
    total: int
    spread: int


def rank_response(values: FloatArray, *, nominal: bool) -> RankedResponse:
    response = make_response(values, nominal=nominal)
    label, value = np.empty((2, values.size))
    label[response.order] = response.label
    value[response.order] = response.weight
    return RankedResponse(label, value, nominal, response.total, response.spread)


class Coefficient:
    """T(Y, Z) or T(Y, Z | X) of resampled responses; for several responses the mean of their T.

    Parameters
    ----------
    y, z, given : Table
        The data; ``given`` may be None.
    n_neighbors : int
        K
    rng : Generator
        Samples tied neighbours where there are too many to keep.
    """

    def __init__(self, y: Table, z: Table, given: Table | None, n_neighbors: int, rng: np.random.Generator) -> None:
        self.responses = [
            rank_response(values, nominal=bool(flag)) for values, flag in zip(y.columns, y.nominal, strict=True)
        ]
        self.given, self.k = given, n_neighbors
        self.base = None if given is None else neighbor_graph(given, n_neighbors, rng)
        self.graph = self._graph_of(z, rng)

    names = ("T",)

    def _graph_of(self, z: Table, rng: np.random.Generator) -> Graph:
        return neighbor_graph(z if self.given is None else side_by_side(self.given, z), self.k, rng)

    def beside(self, z: Table, rng: np.random.Generator) -> Coefficient:
        """The coefficient of the same y and X with another z."""
        other = copy.copy(self)
        other.graph = self._graph_of(z, rng)
        return other

    def observed(self) -> float:
        """T of the data; nan where y is a function of X."""
        return float(self._mean(np.arange(self.graph.n)[None, None, :])[0])

    def values(self, drawn: IntArray) -> FloatArray:
        """T with response q of row ``drawn[q, b, i]`` at row i, for every b; shape (1, b).

        ``drawn`` of shape (1, b, n) is the same for all responses. A draw in which y is a function of X has no T: it
        gets the largest, 1, and counts against the data.
        """
        found = self._mean(drawn)
        return np.where(np.isnan(found), 1.0, found)[None, :]

    def _mean(self, drawn: IntArray) -> FloatArray:
        places = np.broadcast_to(drawn, (len(self.responses), *drawn.shape[1:]))
        found = [self._values(response, rows) for response, rows in zip(self.responses, places, strict=True)]
        return np.asarray(np.mean(found, axis=0))

    def _values(self, response: RankedResponse, drawn: IntArray) -> FloatArray:
        label, value = response.label[drawn], response.value[drawn]
        total = value.sum(axis=1)  # drawn classes may repeat a row
        missing = total - self.graph.sums(label, value, nominal=response.nominal)
        if self.base is None:
            return np.asarray(1.0 - self.graph.n * missing / response.spread)
        left = total - self.base.sums(label, value, nominal=response.nominal)
        left[left <= ROUNDING * total] = np.nan
        return np.asarray(1.0 - missing / left)

    def permutation_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of T(Y, Z) over all n! permutations of y (one response)."""
        (response,) = self.responses
        mean, variance = permutation_moments(self.graph, response)
        scale = self.graph.n / response.spread
        return 1.0 - scale * (response.total - mean), scale * float(np.sqrt(max(variance, 0.0)))


class RedrawnCoefficient:
    """T(Y, Z | X) with Z drawn anew, by the number of the draw; number 0 is the data.

    Parameters
    ----------
    own : Coefficient
        That of the data.
    draw : callable
        Z of a number.
    """

    names = ("T",)

    def __init__(self, own: Coefficient, draw: Callable[[int], Table]) -> None:
        self.own, self.draw = own, draw

    def values(self, numbers: IntArray) -> FloatArray:
        """T for every number; shape (1, b)."""
        return np.array([[self._of(int(number)) for number in numbers]])

    def _of(self, number: int) -> float:
        if number == 0:
            return self.own.observed()
        return self.own.beside(self.draw(number), np.random.default_rng(number)).observed()


def permutation_moments(graph: Graph, response: RankedResponse) -> tuple[float, float]:
    r"""Exact mean and variance of ``A`` over all permutations of the response on a fixed graph.

    With ``h(i, j)`` the pair value and ``w`` the pair weights, ``A = sum_{i<j} w_ij h``; two pairs share
    both ends, one end or none, so that three covariances and three sums of weights suffice. For K = 1,
    no ties and n to infinity this is ``(2/5)(1 + q) + (4/5) o`` (Azadkia & Chatterjee 2021; Shi, Drton
    & Han 2022) divided by n.
    """
    n = graph.n
    row, squares = _pair_sums(response)
    s1, s3 = float(row.sum()), float(row @ row)
    pairs, triples = n * (n - 1.0), n * (n - 1.0) * (n - 2.0)
    mean = s1 / pairs
    same = squares / pairs - mean**2
    shared = (s3 - squares) / triples - mean**2
    apart = 0.0
    if n > 3:
        apart = (s1 * s1 - 4.0 * s3 + 2.0 * squares) / (triples * (n - 3.0)) - mean**2
    w_same, strength = _weights_of_pairs(graph)
    w_total = float(graph.weight.sum())
    w_shared = strength - 2.0 * w_same
    w_apart = w_total**2 - w_same - w_shared
    terms = (w_same * same, w_shared * shared, w_apart * apart)
    variance = sum(terms)
    return w_total * mean, variance if variance > ROUNDING * max(map(abs, terms)) else 0.0


def _weights_of_pairs(graph: Graph) -> tuple[float, float]:
    """Sum of squared weights of pairs, and of squared strengths of rows.

    A pair {i, j} weighs the sum of its two directed edges; the strength of a row is the sum over its pairs, 1 of its
    own edges and those that come in.
    """
    edges = csr_array((graph.weight, graph.target, graph.start), shape=(graph.n, graph.n))
    strength = 1.0 + np.bincount(graph.target, graph.weight, minlength=graph.n)
    return float(graph.weight @ graph.weight + edges.multiply(edges.T).sum()), float(strength @ strength)


def _pair_sums(response: RankedResponse) -> tuple[FloatArray, float]:
    """``sum_{j != i} h(i, j)`` for every i, and ``sum_{i != j} h(i, j)^2``; values scaled by 1/n."""
    n = response.value.size
    if response.nominal:
        count = response.value
        return (count - 1.0) * count, float(((count - 1.0) * count**2).sum())
    v = np.sort(response.value)
    above = np.arange(n - 1, -1, -1)
    row = np.concatenate([[0.0], np.cumsum(v)[:-1]]) + above * v
    squares = np.concatenate([[0.0], np.cumsum(v**2)[:-1]]) + above * v**2
    return row, float(squares.sum())
