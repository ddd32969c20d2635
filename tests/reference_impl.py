"""A slow NumPy reference, written from the definitions and from nothing else.

No module of ``codec`` is imported here. Every sum of ranks is a Python integer or a `fractions.Fraction`,
so two scores are equal exactly when the definition makes them equal.

Distances are squared Euclidean distances, added up over the columns in their order as
``weight * (difference * difference)``; a nominal column contributes ``weight`` where the levels differ.

References
----------
Azadkia, M. and Chatterjee, S. (2021). A simple measure of conditional dependence. Annals of Statistics 49(6).
Ansari, J. and Fuchs, S. (2022). A simple extension of Azadkia & Chatterjee's rank correlation to multi-response
vectors. arXiv 2212.01621.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from fractions import Fraction
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata


class Column(NamedTuple):
    """One column of a table: values, is it nominal, its weight in the squared distance."""

    values: np.ndarray
    nominal: bool = False
    weight: float = 1.0


def columns_of(table, nominal=(), weights=None):
    """Turn a 1-d or 2-d array (or a list of columns) into `Column` objects."""
    if isinstance(table, list) and (not table or isinstance(table[0], Column)):
        return table
    table = np.asarray(table)
    table = table.reshape(len(table), -1)
    weights = np.ones(table.shape[1]) if weights is None else weights
    return [Column(table[:, k], k in nominal, float(weights[k])) for k in range(table.shape[1])]


def squared_gaps(column):
    """Return the n x n contributions of one column to the squared distance."""
    values = np.asarray(column.values)
    if column.nominal:
        return column.weight * (values[:, None] != values[None, :]).astype(float)
    difference = values.astype(float)[:, None] - values.astype(float)[None, :]
    return column.weight * (difference * difference)


def distances(columns):
    """Return the full matrix of squared distances; a point is never its own neighbour: inf on the diagonal."""
    n = len(columns[0].values)
    total = np.zeros((n, n))
    for column in columns:
        total = total + squared_gaps(column)
    np.fill_diagonal(total, np.inf)
    return total


def neighbor_sets(distance, n_neighbors):
    """Split the neighbours of each row in the certain ones and those tied at the K-th distance.

    Returns
    -------
    certain, tied : (n, n) bool arrays
    places : (n,) int array, the number of places left for the tied ones
    """
    kth = np.sort(distance, axis=1)[:, n_neighbors - 1][:, None]
    certain = distance < kth
    return certain, distance == kth, n_neighbors - certain.sum(axis=1)


def agreement(y, nominal=False):
    """Return (V, M, D): pairwise values V_ij, and the integers M and D of ``T = 1 - n (M - A) / D``.

    Ordered: V_ij = min(R_i, R_j), R_i = #{j : y_j <= y_i}, L_i = #{j : y_j >= y_i}.
    Nominal: V_ij = 1(y_i = y_j) c(y_i), c the count of the class.
    """
    y = np.asarray(y)
    n = len(y)
    if nominal:
        same = y[:, None] == y[None, :]
        count = same.sum(axis=1)
        sizes = [int(c) for c in np.unique(y, return_counts=True)[1]]
        return (
            same * count[:, None],
            sum(c * c for c in sizes),
            sum(c * c * (n - c) for c in sizes),
        )
    rank = np.array([int(np.sum(y <= v)) for v in y], dtype=np.int64)
    upper = [int(np.sum(y >= v)) for v in y]
    return (
        np.minimum(rank[:, None], rank[None, :]),
        int(rank.sum()),
        sum(v * (n - v) for v in upper),
    )


def mean_agreement(value, distance, n_neighbors=1):
    """Return A = sum_i mean over the neighbours j of i of V_ij, exactly; tied ones share the last places."""
    certain, tied, places = neighbor_sets(distance, n_neighbors)
    sure = (certain * value).sum(axis=1)
    shared = (tied * value).sum(axis=1)
    size = tied.sum(axis=1)
    total = Fraction(0)
    for t in np.unique(size):
        rows = size == t
        numerator = sum(
            int(s) * int(t) + int(r) * int(v) for s, r, v in zip(sure[rows], places[rows], shared[rows], strict=True)
        )
        total += Fraction(numerator, int(t) * n_neighbors)
    return total


def codec(y, z, given=None, *, n_neighbors=1, nominal_y=False):
    """T(Y, Z) or T(Y, Z | X) with ties averaged, as a `Fraction` (None where the denominator is 0)."""
    value, m, d = agreement(y, nominal_y)
    z = columns_of(z)
    if given is None:
        return 1 - len(value) * (m - mean_agreement(value, distances(z), n_neighbors)) / Fraction(d)
    given = columns_of(given)
    a_x = mean_agreement(value, distances(given), n_neighbors)
    a_xz = mean_agreement(value, distances(given + z), n_neighbors)
    return None if m == a_x else 1 - (m - a_xz) / (m - a_x)


def response_orders(q):
    """Return the orders of the responses that are averaged: all for q <= 4, the cyclic ones beyond."""
    if q <= 4:
        return list(permutations(range(q)))
    return [tuple((start + k) % q for k in range(q)) for start in range(q)]


def codec_responses(responses, z, given=None, *, n_neighbors=1):
    """T^q(Y | Z) of Ansari and Fuchs averaged over orders, or its conditional form.

    ``T^q(Y|X) = 1 - (q - sum_i T(Y_i | X, Y_1..Y_{i-1})) / (q - sum_{i>=2} T(Y_i | Y_1..Y_{i-1}))``.
    """
    responses = columns_of(responses)
    z = columns_of(z)
    if given is not None:
        given = columns_of(given)
        base = codec_responses(responses, given, n_neighbors=n_neighbors)
        union = codec_responses(responses, given + z, n_neighbors=n_neighbors)
        return None if base == 1 else (union - base) / (1 - base)
    q = len(responses)
    total = Fraction(0)
    for order in response_orders(q):
        with_z, without = Fraction(0), Fraction(0)
        for place, i in enumerate(order):
            before = [responses[k] for k in order[:place]]
            with_z += codec(responses[i].values, z + before, n_neighbors=n_neighbors)
            if before:
                without += codec(responses[i].values, before, n_neighbors=n_neighbors)
        total += 1 - (q - with_z) / (q - without)
    return total / len(response_orders(q))


def standardized(X, how, nominal=()):
    """Return the columns of X with the weight that `foci` gives them."""
    X = np.asarray(X, dtype=float)
    n = len(X)
    columns = []
    for k in range(X.shape[1]):
        values, weight = X[:, k], 1.0
        if k in nominal and how in ("scale", "rank"):
            share = np.unique(values, return_counts=True)[1] / n
            weight = 2 * (n - 1) / n / (1 - np.sum(share**2))  # two rows: a mean squared distance of 2
        elif k not in nominal:
            if how == "rank":
                values = rankdata(values)
            if how in ("scale", "rank"):  # sorted: the last bit must not depend on the order of rows
                weight = 1 / np.std(np.sort(values), ddof=1) ** 2
            elif how == "bounded":
                weight = 1 / np.ptp(values) ** 2
        columns.append(Column(values, k in nominal, float(weight)))
    largest = max(column.weight for column in columns)  # T is the same; equal columns weigh exactly 1
    return [column._replace(weight=column.weight / largest) for column in columns]


class Path(NamedTuple):
    """What the forward selection finds: order of entry, T after each step, and T given what was there before."""

    order: list
    cumulative: list
    conditional: list


def foci(
    X,
    y,
    *,
    max_features=None,
    stop=True,
    standardize="scale",
    include=(),
    n_neighbors=1,
    nominal_y=False,
    nominal=(),
):
    """Forward selection by T(Y, X_S): the largest first, equal ones by the smallest index.

    Stops where the first T is not positive or the sum A does not increase.
    """
    columns = standardized(X, standardize, nominal)
    gaps = [squared_gaps(c) for c in columns]
    value, m, d = agreement(y, nominal_y)
    n = len(value)
    base = np.zeros((n, n))
    for j in include:
        base = base + gaps[j]
    np.fill_diagonal(base, np.inf)
    # Without any feature the condition of the first step is T > 0, that is A > M - D / n.
    previous = mean_agreement(value, base, n_neighbors) if len(include) else m - Fraction(d, n)
    order, cumulative, conditional = [], [], []
    left = [j for j in range(len(columns)) if j not in include]
    while left and (max_features is None or len(order) < max_features):
        score, minus_j = max((mean_agreement(value, base + gaps[j], n_neighbors), -j) for j in left)
        if stop and score <= previous:
            break
        j = -minus_j
        order.append(j)
        left.remove(j)
        cumulative.append(1 - n * (m - score) / Fraction(d))
        conditional.append(None if m == previous else 1 - (m - score) / (m - previous))
        base, previous = base + gaps[j], score
    return Path(order, cumulative, conditional)


def foci_responses(X, responses, *, max_features=None, stop=True, n_neighbors=1):
    """Forward selection by the multi-response T^q, on raw columns (``standardize=None``)."""
    columns, responses = columns_of(X), columns_of(responses)
    order, cumulative, previous = [], [], Fraction(0)
    left = list(range(len(columns)))
    while left and (max_features is None or len(order) < max_features):
        score, minus_j = max(
            (
                codec_responses(
                    responses,
                    [columns[k] for k in [*order, j]],
                    n_neighbors=n_neighbors,
                ),
                -j,
            )
            for j in left
        )
        if stop and score <= previous:
            break
        order.append(-minus_j)
        left.remove(-minus_j)
        cumulative.append(score)
        previous = score
    return order, cumulative


def expected_random_conditional(y, z, given):
    """E[T(Y, Z | X)] when N(i) (in X) and M(i) (in X, Z) are one uniform draw each, K = 1, exactly.

    T = (A_XZ - A_X) / (M - A_X) with A_XZ and A_X independent sums, so the mean needs E[A_XZ] and the whole
    distribution of the integer A_X, which a convolution over the rows gives.
    """
    value, m, _ = agreement(y)
    given, z = columns_of(given), columns_of(z)
    mean_union = mean_agreement(value, distances(given + z))
    _, tied, _ = neighbor_sets(distances(given), 1)
    distribution = {0: Fraction(1)}
    for i in range(len(value)):
        options = value[i, tied[i]]
        updated = defaultdict(Fraction)
        for total, probability in distribution.items():
            for v in options:
                updated[total + int(v)] += probability / len(options)
        distribution = updated
    if m in distribution:
        raise ZeroDivisionError("some draws leave nothing to explain")
    return sum(p * (mean_union - a) / (m - a) for a, p in distribution.items())


def assert_identical(a, b):
    """Assert that two paths agree in every bit, the clock apart."""
    for field in dataclasses.fields(a):
        if field.name != "seconds":
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
