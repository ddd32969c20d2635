"""Compiled loops for discrete data: strata, permutation statistics of contingency tables, network scores.

As in :mod:`codec._kernels`: no checks, no Python objects, serial and without the GIL; random numbers
come from splitmix64 with a seed passed in. Variables are codes 0, 1, ... in rows of an int64 array.
"""

from __future__ import annotations

from math import lgamma

import numpy as np

from codec._inference_kernels import shuffle
from codec._jit import compiled


# ------------------------------------------------------------------------ strata
@compiled
def join_codes(code, n_codes, column, n_levels):
    """Numbers 0, 1, ... of the distinct pairs (code, column), by first appearance, and how many there are."""
    number = np.full(n_codes * n_levels, -1, np.int64)
    joined = np.empty(code.size, np.int64)
    count = 0
    for i in range(code.size):
        pair = code[i] * n_levels + column[i]
        if number[pair] < 0:
            number[pair] = count
            count += 1
        joined[i] = number[pair]
    return joined, count


@compiled
def joint_code(columns, levels, chosen):
    """Numbers of the distinct rows of the chosen variables, and how many there are."""
    code = np.zeros(columns.shape[1], np.int64)
    count = 1
    for v in chosen:
        code, count = join_codes(code, count, columns[v], levels[v])
    return code, count


@compiled
def varying_strata(code, n_codes, x, y):
    """Rows in strata where neither x nor y is constant: the others say nothing on dependence.

    Returns
    -------
    start, rows : stratum s holds ``rows[start[s]:start[s + 1]]``
    """
    n = code.size
    first = np.full(n_codes, -1, np.int64)
    size = np.zeros(n_codes, np.int64)
    x_varies = np.zeros(n_codes, np.bool_)
    y_varies = np.zeros(n_codes, np.bool_)
    for i in range(n):
        s = code[i]
        if first[s] < 0:
            first[s] = i
        size[s] += 1
        x_varies[s] |= x[i] != x[first[s]]
        y_varies[s] |= y[i] != y[first[s]]
    start = np.empty(n_codes + 1, np.int64)
    place = np.full(n_codes, -1, np.int64)
    n_kept = 0
    total = 0
    for s in range(n_codes):
        if x_varies[s] and y_varies[s]:
            start[n_kept] = total
            place[s] = total
            total += size[s]
            n_kept += 1
    start[n_kept] = total
    rows = np.empty(total, np.int64)
    for i in range(n):
        s = code[i]
        if place[s] >= 0:
            rows[place[s]] = i
            place[s] += 1
    return start[: n_kept + 1].copy(), rows


# ------------------------------------------------------------------------ three statistics
@compiled
def entropy_steps(n, scale):
    """``h(k + 1) - h(k)`` with ``h(k) = k log k`` as an integer multiple of 1 / scale: sums are exact."""
    steps = np.zeros(n, np.int64)
    before = np.int64(0)
    for k in range(1, n):
        after = np.int64(np.rint((k + 1) * np.log(k + 1.0) * scale))
        steps[k] = after - before
        before = after
    return steps


@compiled
def expected_counts(start, x, y, n_x, n_y):
    """Counts expected under independence: summed over strata, and the smallest with positive margins; df."""
    pooled = np.zeros((n_x, n_y))
    least = np.inf
    freedom = 0
    in_x = np.zeros(n_x, np.int64)
    in_y = np.zeros(n_y, np.int64)
    for s in range(start.size - 1):
        in_x[:] = 0
        in_y[:] = 0
        for i in range(start[s], start[s + 1]):
            in_x[x[i]] += 1
            in_y[y[i]] += 1
        size = start[s + 1] - start[s]
        for a in range(n_x):
            for b in range(n_y):
                if in_x[a] > 0 and in_y[b] > 0:
                    expected = in_x[a] * in_y[b] / size
                    pooled[a, b] += expected
                    least = min(least, expected)
        freedom += (np.sum(in_x > 0) - 1) * (np.sum(in_y > 0) - 1)
    return pooled, least, freedom


@compiled
def log_likelihood_ratio(start, x, y, n_x, n_y):
    """G summed over strata."""
    table = np.zeros((n_x, n_y), np.int64)
    total = 0.0
    for s in range(start.size - 1):
        table[:] = 0
        for i in range(start[s], start[s + 1]):
            table[x[i], y[i]] += 1
        in_x = table.sum(axis=1)
        in_y = table.sum(axis=0)
        size = start[s + 1] - start[s]
        for a in range(n_x):
            for b in range(n_y):
                if table[a, b] > 0:
                    total += table[a, b] * np.log(table[a, b] * size / (in_x[a] * in_y[b]))
    return 2.0 * total


@compiled
def pair_weights(start, x, n_x, scale):
    """``scale / (m - 1)`` of each row, m the rows of its stratum with the same x; 0 for m = 1."""
    weight = np.zeros(x.size, np.int64)
    count = np.zeros(n_x, np.int64)
    for s in range(start.size - 1):
        count[:] = 0
        for i in range(start[s], start[s + 1]):
            count[x[i]] += 1
        for i in range(start[s], start[s + 1]):
            if count[x[i]] > 1:
                weight[i] = np.int64(np.rint(scale / (count[x[i]] - 1)))
    return weight


@compiled
def permuted_statistics(start, x, y, n_x, n_y, steps, scale, n_draws, seed):
    """Three statistics of permutations of y within strata minus those of the data; shape (3, n_draws + 1).

    Column 0 is the data themselves, all 0. One pass over the rows gives all three. The first two are sums of
    integers (multiples of 1 / scale): equal tables have equal values, in whatever order the rows come, and
    a statistic that no permutation changes is exactly 0.

    0. ``sum C log C`` over the cells C of (stratum, x, y): G without its constant.
    1. ``sum C (C - 1) / (m - 1)``, m the rows of (stratum, x): rows whose "neighbour", any row with the
       same x in the same stratum, has the same y; the sum behind nominal CODEC.
    2. ``sum (O - E)^2 / E`` of the tables (x, y) summed over strata.
    """
    found = np.empty((3, n_draws + 1))
    weight = pair_weights(start, x, n_x, scale)
    expected = expected_counts(start, x, y, n_x, n_y)[0].ravel()
    base = x * n_y
    mixed = y.copy()
    count = np.zeros(n_x * n_y, np.int64)
    pooled = np.zeros(n_x * n_y, np.int64)
    state = np.uint64(seed)
    first_entropy, first_pairs, first_squares = np.int64(0), np.int64(0), 0.0
    for b in range(n_draws + 1):
        pooled[:] = 0
        entropy = np.int64(0)
        pairs = np.int64(0)
        for s in range(start.size - 1):
            if b > 0:
                state = shuffle(mixed, start[s], start[s + 1], state)
            for i in range(start[s], start[s + 1]):
                cell = base[i] + mixed[i]
                k = count[cell]
                entropy += steps[k]
                pairs += k * weight[i]
                count[cell] = k + 1
                pooled[cell] += 1
            for i in range(start[s], start[s + 1]):
                count[base[i] + mixed[i]] = 0
        squares = 0.0
        for c in range(pooled.size):
            if expected[c] > 0.0:
                squares += (pooled[c] - expected[c]) ** 2 / expected[c]
        if b == 0:
            first_entropy, first_pairs, first_squares = entropy, pairs, squares
        found[0, b] = (entropy - first_entropy) / scale
        found[1, b] = 2 * (pairs - first_pairs) / scale
        found[2, b] = squares - first_squares
    return found


# ------------------------------------------------------------------------ network scores
BDEU, FNML, BIC = 0, 1, 2


@compiled
def multinomial_regret(n, k):
    """Log of the normalizer of the NML distribution of k categories.

    The approximation of Szpankowski & Weinberger (2012), too large by less than 0.1 for every n and k.
    """
    if k <= 1.0 or n <= 0.0:
        return 0.0
    a = k / n
    c = 0.5 + 0.5 * np.sqrt(1.0 + 4.0 / a)
    return n * (np.log(a) + (a + 2.0) * np.log(c) - 1.0 / c) - 0.5 * np.log(c + 2.0 / a)


@compiled
def table_score(table, n_codes, n_y, q, n, kind):
    """Local score of a variable: ``table[j * n_y + c]`` counts its level c in configuration j of its parents.

    ``q`` is the number of configurations that the parents' levels allow, ``n_codes`` of those seen.
    """
    score = 0.0
    prior = 1.0 / (q * n_y)  # BDeu with an equivalent sample size of 1 (Heckerman et al. 1995)
    cell_zero = lgamma(prior)
    row_zero = lgamma(1.0 / q)
    for j in range(n_codes):
        m = 0
        for c in range(n_y):
            k = table[j * n_y + c]
            if k > 0:
                m += k
                score += lgamma(k + prior) - cell_zero if kind == BDEU else k * np.log(k)
        if m > 0:
            score -= lgamma(m + 1.0 / q) - row_zero if kind == BDEU else m * np.log(m)
            if kind == FNML:
                score -= multinomial_regret(float(m), float(n_y))
    if kind == BIC:
        score -= 0.5 * np.log(n) * (n_y - 1) * q
    return score


@compiled
def local_score(code, n_codes, q, y, n_y, kind):
    """Score of y given parents in dense codes."""
    table = np.zeros(n_codes * n_y, np.int64)
    for i in range(y.size):
        table[code[i] * n_y + y[i]] += 1
    return table_score(table, n_codes, n_y, q, y.size, kind)


@compiled
def change_gains(columns, levels, v, parent, allowed, max_parents, kind, gains):
    """Gain of adding or removing each u as a parent of v, into ``gains``; -inf where it is not allowed."""
    p, n = columns.shape
    chosen = np.flatnonzero(parent)
    code, n_codes = joint_code(columns, levels, chosen)
    q = 1.0
    for u in chosen:
        q *= levels[u]
    y = columns[v]
    n_y = levels[v]
    now = local_score(code, n_codes, q, y, n_y, kind)
    for u in range(p):
        gains[u] = -np.inf
        if parent[u]:
            fewer = chosen[chosen != u]
            less, n_less = joint_code(columns, levels, fewer)
            gains[u] = local_score(less, n_less, q / levels[u], y, n_y, kind) - now
        elif u != v and allowed[u] and chosen.size < max_parents:
            x = columns[u]
            n_x = levels[u]
            if n_codes * n_x * n_y > 64 * n + 4096:  # so many cells for so few rows never pay
                continue
            table = np.zeros(n_codes * n_x * n_y, np.int64)
            for i in range(n):
                table[(code[i] * n_x + x[i]) * n_y + y[i]] += 1
            gains[u] = table_score(table, n_codes * n_x, n_y, q * n_x, n, kind) - now


@compiled
def descendants(parent):
    """``reach[u, v]``: a directed path leads from u to v (or u is v); ``parent[v, u]``: u is a parent of v."""
    p = parent.shape[0]
    reach = parent.T.copy()
    for u in range(p):
        reach[u, u] = True
    for w in range(p):
        for u in range(p):
            if reach[u, w]:
                for v in range(p):
                    reach[u, v] |= reach[w, v]
    return reach


@compiled
def reversible(parent, reach, u, v):
    """Whether the edge from u to v can be turned: no other path leads from u to v."""
    others = parent[:, u] & reach[:, v]
    return np.sum(others) == others[v]


@compiled
def climb(columns, levels, allowed, max_parents, kind, start):
    """Greedy search for a network: the best of all additions, removals and reversals, until none gains.

    ``start`` and the answer are ``parent``: parent[v, u] is True where u is a parent of v. Gains that differ by
    rounding count as equal, and the first one is taken.
    """
    p = columns.shape[0]
    parent = start.copy()
    gains = np.empty((p, p))
    for v in range(p):
        change_gains(columns, levels, v, parent[v], allowed[v], max_parents, kind, gains[v])
    while True:
        reach = descendants(parent)
        best = 1e-8
        child, other, turn = -1, -1, False
        for v in range(p):
            for u in range(p):
                if parent[v, u]:
                    if gains[v, u] > best + 1e-8:
                        best, child, other, turn = gains[v, u], v, u, False
                    both = gains[v, u] + gains[u, v]
                    if both > best + 1e-8 and reversible(parent, reach, u, v):
                        best, child, other, turn = both, v, u, True
                elif gains[v, u] > best + 1e-8 and not reach[v, u] and not parent[u, v]:
                    best, child, other, turn = gains[v, u], v, u, False
        if child < 0:
            return parent
        parent[child, other] = not parent[child, other]
        change_gains(columns, levels, child, parent[child], allowed[child], max_parents, kind, gains[child])
        if turn:
            parent[other, child] = True
            change_gains(columns, levels, other, parent[other], allowed[other], max_parents, kind, gains[other])
