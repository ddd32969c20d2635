"""Compiled loops over all pairs of few rows: no tree, no lists.

With some hundred rows a row's distances to all others are a few dozen vector operations. What takes time is to
find the K-th smallest: a limit that few distances are within, kept from candidate to candidate, leaves little to
sort. Definitions and sums as in :mod:`codec._kernels`, ties included.
"""

from __future__ import annotations

import numpy as np

from codec._jit import compiled
from codec._kernels import LARGEST, add_share, fixed_point, kth_smallest

NEARBY = 4  # times K rows or more, near in the columns selected before, that a candidate's K nearest are sought in
HALVINGS = 24  # of the interval in which a limit is looked for


@compiled
def add_distances(near, z, scale, row, out):
    """Squared distances with one more column."""
    here = z[row]
    for q in range(near.size):
        gap = z[q] - here
        out[q] = near[q] + scale * (gap * gap)


@compiled
def add_to_distances(near, z, scale, row):
    """The same in place: with one array for both the loop would not be a vector loop."""
    here = z[row]
    for q in range(near.size):
        gap = z[q] - here
        near[q] += scale * (gap * gap)


@compiled
def number_within(distance, limit):
    """How many distances are not above the limit."""
    count = np.int64(0)
    for q in range(distance.size):
        count += np.int64(distance[q] <= limit)
    return count


@compiled
def close_limit(distance, limit, k):
    """A limit above 0 that K to 2 K distances are within, or more where many are equal."""
    low = 0.0
    count = number_within(distance, limit)
    while count < k and limit < LARGEST:
        low = limit
        limit = min(2.0 * limit, LARGEST)
        count = number_within(distance, limit)
    wide = limit
    for _ in range(HALVINGS):
        if count <= 2 * k:
            return limit
        middle = (low + limit) / 2.0
        fewer = number_within(distance, middle)
        if fewer < k:
            low = middle
        else:
            limit = middle
            count = fewer
    return wide


@compiled
def kth_of_few(values, n, k):
    """The k-th smallest of ``values[:n]`` by counting, without a branch that depends on them."""
    found = np.inf
    for f in range(n):
        value = values[f]
        within = np.int64(0)
        for g in range(n):
            within += np.int64(values[g] <= value)
        found = min(found, value if within >= k else np.inf)
    return found


@compiled
def sums_of_row(distance, weight, own, limit, k, kept, kept_weight, scratch, one):
    """K * A of one row: whole and part."""
    n_kept = np.uint64(0)
    for q in range(distance.size):
        kept[n_kept] = distance[q]
        kept_weight[n_kept] = weight[q]
        n_kept += np.uint64(distance[q] <= limit)
    m = np.int64(n_kept)
    if m <= 2 * k:
        kth = kth_of_few(kept, m, k)
    else:
        for f in range(m):
            scratch[f] = kept[f]
        kth = kth_smallest(scratch, m, k)
    strict = np.int64(0)
    tied = np.int64(0)
    n_strict = np.int64(0)
    n_tied = np.int64(0)
    for f in range(m):
        value = min(own, kept_weight[f])
        less = np.int64(kept[f] < kth)
        same = np.int64(kept[f] == kth)
        strict += less * value
        n_strict += less
        tied += same * value
        n_tied += same
    return add_share(strict, k - n_strict, tied, n_tied, one)


@compiled
def rows_within(near, weight, limit, who, some, some_weight):
    """Numbers, distances and weights of the rows that are within a limit; how many there are."""
    n_some = np.uint64(0)
    for q in range(near.size):
        who[n_some] = q
        n_some += np.uint64(near[q] <= limit)
    m = np.int64(n_some)
    for f in range(m):
        some[f] = near[who[f]]
        some_weight[f] = weight[who[f]]
    return m


@compiled
def add_some_distances(near, who, m, z, scale, here, out):
    """Squared distances of the first m of some rows with one more column."""
    for f in range(m):
        gap = z[who[f]] - here
        out[f] = near[f] + scale * (gap * gap)


@compiled
def pair_sums(columns, scale, base, candidates, weight, k):
    """K * A for every candidate beside the base columns, whole and part; numbers only.

    A candidate only adds to the distances in the base columns. Where its K nearest of the rows that are near in these
    are within that limit, no other row can be among them.
    """
    n = columns.shape[1]
    one = fixed_point(n)
    whole = np.zeros(candidates.size, np.int64)
    part = np.zeros(candidates.size, np.int64)
    near = np.empty(n)
    distance = np.empty(n)
    kept = np.empty(n)
    scratch = np.empty(n)
    kept_weight = np.empty(n, np.int64)
    who = np.empty(n, np.int64)
    some = np.empty(n)
    some_weight = np.empty(n, np.int64)
    wide, limit = 1.0, 1.0
    for row in range(n):
        near[:] = 0.0
        for b in base:
            add_to_distances(near, columns[b], scale[b], row)
        near[row] = np.inf  # a row is not its own neighbour
        wide = close_limit(near, wide, min(NEARBY * k, n - 1))
        m = rows_within(near, weight, wide, who, some, some_weight)
        for c in range(candidates.size):
            z, unit = columns[candidates[c]], scale[candidates[c]]
            add_some_distances(some, who, m, z, unit, z[row], distance)
            limit = close_limit(distance[:m], limit, k)
            if limit <= wide:
                share = sums_of_row(distance[:m], some_weight, weight[row], limit, k, kept, kept_weight, scratch, one)
            else:
                add_distances(near, z, unit, row, distance)
                limit = close_limit(distance, limit, k)
                share = sums_of_row(distance, weight, weight[row], limit, k, kept, kept_weight, scratch, one)
            whole[c] += share[0]
            part[c] += share[1]
    return whole, part
