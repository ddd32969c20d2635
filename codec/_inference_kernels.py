"""Compiled loops of the tests: fixed graphs, local permutations, ranks of many rows.

As in :mod:`codec._kernels`: no checks, no Python objects, serial and without the GIL; random numbers
come from splitmix64 with a seed passed in, so that a result depends on nothing but its seed.
"""

from __future__ import annotations

import numpy as np

from codec._jit import compiled
from codec._tree_kernels import lay_out, random_bits, search, search_space, split_at


# ------------------------------------------------------------------------ random numbers
@compiled
def below(state, n):
    """Return the next state and an integer in [0, n), n < 2^32 (Lemire's multiplication)."""
    state, bits = random_bits(state)
    return state, np.int64(((bits >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@compiled
def shuffle(values, low, high, state):
    """Fisher-Yates on ``values[low:high]``; returns the next state."""
    for i in range(high - 1, low, -1):
        state, j = below(state, i - low + 1)
        values[i], values[low + j] = values[low + j], values[i]
    return state


# ------------------------------------------------------------------------ permutations
@compiled
def stratified_permutations(start, rows, n_draws, seed):
    """Uniform permutations within strata: ``rows[start[s]:start[s + 1]]`` is stratum s.

    Returns an (n_draws, n) array of which row takes whose value.
    """
    n = rows.size
    drawn = np.empty((n_draws, n), np.int64)
    state = np.uint64(seed)
    mixed = rows.copy()
    for b in range(n_draws):
        for s in range(start.size - 1):
            state = shuffle(mixed, start[s], start[s + 1], state)
        for q in range(n):
            drawn[b, rows[q]] = mixed[q]
    return drawn


@compiled
def local_permutations(neighbors, n_draws, seed):
    """Each row takes the value of an unused row among its neighbours, rows in random order.

    ``neighbors`` is (n, k) and includes the row itself. A row whose neighbours are all
    used takes a used one, so that a draw is nearly, not always, a permutation (Runge 2018,
    algorithm 1).
    """
    n, k = neighbors.shape
    drawn = np.empty((n_draws, n), np.int64)
    state = np.uint64(seed)
    order = np.arange(n)
    places = np.arange(k)
    used = np.zeros(n, np.bool_)
    for b in range(n_draws):
        state = shuffle(order, 0, n, state)
        used[:] = False
        for i in order:
            taken = -1
            for left in range(k, 0, -1):  # neighbours in random order, no more of them than needed
                state, pick = below(state, left)
                j = neighbors[i, places[pick]]
                if taken < 0:
                    taken = j
                if not used[j]:
                    taken = j
                    break
                places[pick], places[left - 1] = places[left - 1], places[pick]
            used[taken] = True
            drawn[b, i] = taken
    return drawn


# ------------------------------------------------------------------------ fixed graphs
@compiled
def sample_first(values, n, cap, state):
    """Bring a sample of ``cap`` of the first ``n`` values to the front; all of them if n <= cap."""
    if n <= cap:
        return state
    for t in range(cap):
        state, j = below(state, n - t)
        values[t], values[t + j] = values[t + j], values[t]
    return state


@compiled
def grown(values, size, needed):
    """The array with room for ``needed`` more entries after ``size``."""
    if size + needed <= values.size:
        return values
    larger = np.empty(max(2 * values.size, size + needed), values.dtype)
    larger[:size] = values[:size]
    return larger


@compiled
def neighbor_edges(points, scale, col_nominal, k, cap, seed):
    """The K-nearest-neighbour graph in compressed rows, ties shared.

    A strict neighbour weighs 1/K; the rows at exactly the K-th distance share the
    remaining places equally. More than ``cap`` of those are represented by a sample of
    ``cap``. Distances and ties are those of :func:`codec._tree_kernels.tree_sums`.

    Returns
    -------
    start : (n + 1) int64; the edges of row i are ``start[i]:start[i + 1]``
    target : int32 row at the other end
    weight : float64, sum 1 over the edges of a row
    """
    n = points.shape[1]
    laid, tree, first, rows = lay_out(points, scale, col_nominal)
    count = first[1:] - first[:-1]
    work = search_space(laid.shape[1], k)
    found_d = work[0][0]
    found_g = work[0][1]
    x = np.empty(laid.shape[0])
    tied = np.empty(n, np.int64)
    low = np.empty(n, np.int64)  # where the edges of a row begin, in the order of the tree
    n_edges = np.empty(n, np.int64)
    n_strict = np.empty(n, np.int64)
    target = np.empty(n * (k + 2), np.int32)
    state = np.uint64(seed)
    size = 0
    for p in range(laid.shape[1]):
        for c in range(x.size):
            x[c] = laid[c, p]
        count[p] -= 1  # its own row
        n_found, bound = search(x, laid, count, scale, col_nominal, tree, k, work)
        count[p] += 1
        for i in rows[first[p] : first[p + 1]]:
            low[i] = size
            n_tied = 0
            for f in range(n_found):
                g = found_g[f]
                target = grown(target, size, first[g + 1] - first[g])
                for j in rows[first[g] : first[g + 1]]:
                    if j != i and found_d[f] < bound:
                        target[size] = j
                        size += 1
                    elif j != i:
                        tied[n_tied] = j
                        n_tied += 1
            n_strict[i] = size - low[i]
            state = sample_first(tied, n_tied, cap, state)
            n_tied = min(n_tied, cap)
            target = grown(target, size, n_tied)
            target[size : size + n_tied] = tied[:n_tied]
            size += n_tied
            n_edges[i] = size - low[i]
    return in_row_order(low, n_edges, n_strict, target, k)


@compiled
def in_row_order(low, n_edges, n_strict, target, k):
    """Edges of row 0, row 1, ... with their weights."""
    n = low.size
    start = np.zeros(n + 1, np.int64)
    for i in range(n):
        start[i + 1] = start[i] + n_edges[i]
    sorted_target = np.empty(start[n], np.int32)
    weight = np.empty(start[n], np.float64)
    for i in range(n):
        for e in range(n_edges[i]):
            sorted_target[start[i] + e] = target[low[i] + e]
            if e < n_strict[i]:
                weight[start[i] + e] = 1.0 / k
            else:
                weight[start[i] + e] = (k - n_strict[i]) / (k * (n_edges[i] - n_strict[i]))
    return start, sorted_target, weight


@compiled
def graph_sums(start, target, weight, label, value, nominal):
    """``A = sum_i sum_e weight_e w(i, target_e)`` for every row of ``label`` and ``value``.

    ``w(i, j)`` is ``min(value_i, value_j)``, for a nominal response ``value_i`` where the
    labels agree and 0 elsewhere.
    """
    n_draws, n = value.shape
    sums = np.empty(n_draws)
    for b in range(n_draws):
        total = 0.0
        for i in range(n):
            part = 0.0
            own = value[b, i]
            for e in range(start[i], start[i + 1]):
                j = target[e]
                if not nominal:
                    part += weight[e] * min(own, value[b, j])
                elif label[b, i] == label[b, j]:
                    part += weight[e] * own
            total += part
        sums[b] = total
    return sums


# ------------------------------------------------------------------------ ranks and tables
@compiled
def average_ranks(rows, order):
    """Average ranks (1..n) within each row; ``order`` is the argsort of each row."""
    n_draws, n = rows.shape
    ranks = np.empty((n_draws, n))
    for b in range(n_draws):
        low = 0
        while low < n:
            high = low + 1
            while high < n and rows[b, order[b, high]] == rows[b, order[b, low]]:
                high += 1
            for q in range(low, high):
                ranks[b, order[b, q]] = 0.5 * (low + high + 1)
            low = high
    return ranks


@compiled
def table_entropy(codes, cell, n_codes, n_cells):
    """``sum O log O`` over the cells (code, cell) of a contingency table, for every row of codes."""
    n_draws, n = codes.shape
    sums = np.empty(n_draws)
    count = np.zeros(n_codes * n_cells, np.int64)
    for b in range(n_draws):
        count[:] = 0
        for i in range(n):
            count[codes[b, i] * n_cells + cell[i]] += 1
        total = 0.0
        for c in range(count.size):
            if count[c] > 1:
                total += count[c] * np.log(count[c])
        sums[b] = total
    return sums


@compiled
def regular_sums(near, value):
    """``sum_i sum_k min(value_i, value_near(i, k))`` for every row of ``value``."""
    n_draws, n = value.shape
    sums = np.empty(n_draws)
    for b in range(n_draws):
        row = value[b]
        total = 0.0
        for i in range(n):
            own = row[i]
            part = 0.0
            for k in range(near.shape[1]):
                part += min(own, row[near[i, k]])
            total += part
        sums[b] = total
    return sums


# ------------------------------------------------------------------------ the nearest of many rows
@compiled
def smallest_columns(distances, k, near):
    """The columns of the k smallest numbers of every row, in no order, into ``near``.

    Columns are looked at in stretches of 64, most of which hold nothing below the k-th smallest so far; what is
    below is kept without a branch and thinned out when four times k have come together.
    """
    n = distances.shape[1]
    values = np.empty(4 * k + 65, distances.dtype)
    places = np.empty(values.size, np.int64)
    for i in range(distances.shape[0]):
        row = distances[i]
        bound = np.inf
        kept = 0
        for start in range(0, n, 64):
            stop = min(start + 64, n)
            below = 0
            for j in range(start, stop):
                below += row[j] < bound
            if below == 0:
                continue
            for j in range(start, stop):
                values[kept] = row[j]
                places[kept] = j
                kept += row[j] < bound
            if kept >= 4 * k:
                split_at(values, places, 0, kept, k - 1)
                bound = values[k - 1]
                kept = k
        if kept > k:
            split_at(values, places, 0, kept, k - 1)
        near[i] = places[:k]


# ------------------------------------------------------------------------ steps
@compiled
def squared_sums_above(rows, factors, order, gaps):
    """For each gap in an order the squared length of the sum of the rows behind it, each times its factor.

    ``factors``: (k, n), a result for each of the k.
    """
    k, r = factors.shape[0], rows.shape[1]
    total = np.zeros((k, r))
    squared = np.empty((k, gaps.size))
    g = gaps.size - 1
    for place in range(order.size - 1, gaps[0] - 1, -1):
        row = order[place]
        for f in range(k):
            times = factors[f, row]
            for c in range(r):
                total[f, c] += times * rows[row, c]
        if place == gaps[g]:
            for f in range(k):
                length = 0.0
                for c in range(r):
                    length += total[f, c] * total[f, c]
                squared[f, g] = length
            g -= 1
    return squared
