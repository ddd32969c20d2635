"""Compiled loops: sums over exact nearest neighbours, in integers.

What every kernel here computes, for rows i = 0..n-1 of points with d columns,

    K * A = sum_i  ( sum over the strict neighbours j of w(i, j)
                     + places left * mean over the tied neighbours j of w(i, j) ),

where the strict neighbours of i are the rows nearer than its K-th smallest distance, the tied ones
lie at exactly that distance, i itself is left out by its index, and w(i, j) is

    min(R_i, R_j)                    for an ordered response (``label`` = ``weight`` = rank R),
    count(class of i) * 1(same)      for a nominal one (``label`` = class, ``weight`` = its count).

The squared distance is *defined* as the float64 value of ``sum_k s_k * (x_ik - x_jk)**2`` added in
column order (a nominal column adds ``s_k`` where the codes differ). Rounding is monotone, so a bound
computed from a box in the same order never exceeds the distance of a point inside: pruning is exact,
ties included.

Two conventions hold throughout: points are stored by column (d, n), and **rows come in ascending
order of label**, so that the members of any group of rows, kept in row order, are sorted by label.

A result is ``(whole, part)``: K * A = whole + part / one, where ``one = fixed_point(n)`` is a power of
two. Tied neighbours give fractions; each is rounded once, to a multiple of 1 / one, so that the sum of
integers does not depend on the order of rows, the thread or the path that found the neighbours.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LEAF = 32  # most rows in a leaf: four AVX-512 or eight AVX2 vectors of doubles
MAX_DEPTH = 128  # of a search's stack; a tree over 2^31 rows has 26 levels


# --------------------------------------------------------------------------- the accumulator
@njit(cache=True, nogil=True)
def fixed_point(n):
    """The unit of fractions, a power of two: neither ``n * one`` nor a sum of n fractions overflows."""
    bits = 61
    while n > 0:
        bits -= 1
        n >>= 1
    return np.int64(1) << bits


@njit(cache=True, nogil=True)
def add_share(strict, places, tied, n_tied, one):
    """``strict + places * tied / n_tied`` as an integer and a fraction in units of 1 / one."""
    if n_tied == places:
        return strict + tied, np.int64(0)
    product = places * tied
    whole = product // n_tied
    return strict + whole, ((product - whole * n_tied) * one + n_tied // 2) // n_tied


@njit(cache=True, nogil=True)
def spreads(columns):
    """Standard deviation (n - 1) of each column; compensated sums do not depend on the order of rows."""
    p, n = columns.shape
    result = np.empty(p)
    for c in range(p):
        mean = 0.0
        for power in range(2):
            total = 0.0
            lost = 0.0  # Neumaier's compensation
            for i in range(n):
                term = columns[c, i]
                if power == 1:
                    term = (term - mean) * (term - mean)
                new = total + term
                lost += (total - new) + term if abs(total) >= abs(term) else (term - new) + total
                total = new
            if power == 0:
                mean = (total + lost) / n
            else:
                result[c] = np.sqrt((total + lost) / (n - 1))
    return result


# --------------------------------------------------------------------------- sums over a group of rows
@njit(cache=True, nogil=True)
def count_up_to(label, low, high, value):
    """Number of entries <= value in the ascending ``label[low:high]``."""
    start = low
    while low < high:
        middle = (low + high) >> 1
        if label[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low - start


@njit(cache=True, nogil=True)
def group_sum(low, high, own_label, own_weight, label, prefix, nominal):
    """Sum of w(i, j) over the members ``low:high`` (labels ascending, ``prefix`` = running sums)."""
    up_to = count_up_to(label, low, high, own_label)
    if nominal:
        return own_weight * (up_to - count_up_to(label, low, high, own_label - 1))
    return prefix[low + up_to] - prefix[low] + own_weight * (high - low - up_to)


@njit(cache=True, nogil=True)
def pair(own_label, own_weight, other_label, other_weight, nominal):
    """w(i, j)."""
    if nominal:
        return own_weight if own_label == other_label else 0
    return min(own_weight, other_weight)


@njit(cache=True, nogil=True)
def running_sums(values):
    """0, v_0, v_0 + v_1, ..."""
    sums = np.empty(values.size + 1, np.int64)
    sums[0] = 0
    for i in range(values.size):
        sums[i + 1] = sums[i] + values[i]
    return sums


# --------------------------------------------------------------------------- sorting a column
@njit(cache=True, nogil=True)
def value_order(x):
    """Stable argsort: n buckets of equal width and insertion; mergesort when the buckets are uneven."""
    n = x.size
    order = np.empty(n, np.int64)
    lowest = x[0]
    highest = x[0]
    for i in range(n):
        lowest = min(lowest, x[i])
        highest = max(highest, x[i])
    if not highest > lowest:
        for i in range(n):
            order[i] = i
        return order
    per_unit = n * (1.0 - 1e-12) / (highest - lowest)
    if not np.isfinite(per_unit):
        return np.argsort(x, kind="mergesort")
    place = np.zeros(n + 1, np.int32)
    bucket = np.empty(n, np.int32)
    for i in range(n):
        b = np.int32((x[i] - lowest) * per_unit)
        bucket[i] = b
        place[b] += 1
    crowding = 0
    begin = 0
    for b in range(n):
        size = np.int64(place[b])
        crowding += size * size
        place[b] = begin
        begin += size
    if crowding > 24 * n:
        return np.argsort(x, kind="mergesort")
    values = np.empty(n)
    for i in range(n):
        q = place[bucket[i]]
        place[bucket[i]] += 1
        values[q] = x[i]
        order[q] = i
    for q in range(1, n):
        value = values[q]
        if values[q - 1] > value:
            row = order[q]
            r = q
            while r > 0 and values[r - 1] > value:
                values[r] = values[r - 1]
                order[r] = order[r - 1]
                r -= 1
            values[r] = value
            order[r] = row
    return order


# --------------------------------------------------------------------------- one dimension
@njit(cache=True, nogil=True)
def sorted_sums(columns, scale, col_nominal, label, weight, nominal, k):
    """K * A of every column by itself: whole and part, one entry a column."""
    p, n = columns.shape
    whole = np.zeros(p, np.int64)
    part = np.zeros(p, np.int64)
    everyone = running_sums(weight)
    for c in range(p):
        order = value_order(columns[c])
        whole[c], part[c] = column_sum(columns[c], scale[c], col_nominal[c], order, label, weight, everyone, nominal, k)
    return whole, part


@njit(cache=True, nogil=True)
def column_sum(x, scale, x_nominal, order, label, weight, everyone, nominal, k):
    """K * A for one column, whose stable argsort is ``order``."""
    n = x.size
    one = fixed_point(n)
    values = np.empty(n)  # distinct values
    labels = np.empty(n, np.int64)
    weights = np.empty(n, np.int64)
    start = np.empty(n + 1, np.int64)  # first position of each distinct value
    m = 0
    for q in range(n):
        row = order[q]
        labels[q] = label[row]
        weights[q] = weight[row]
        if m == 0 or x[row] != values[m - 1]:
            values[m] = x[row]
            start[m] = q
            m += 1
    start[m] = n
    prefix = running_sums(weights)
    whole = np.int64(0)
    part = np.int64(0)
    for g in range(m):
        twins = start[g + 1] - start[g] - 1
        if k == 1 and twins == 0 and not x_nominal:  # most often one value beside it is nearest
            near = nearer_side(values, scale, g, m)
            if near >= 0 and start[near + 1] - start[near] == 1:
                whole += pair(labels[start[g]], weights[start[g]], labels[start[near]], weights[start[near]], nominal)
                continue
        for q in range(start[g], start[g + 1]):
            own = np.int64(0)
            if twins > 0:
                own = group_sum(start[g], start[g + 1], labels[q], weights[q], labels, prefix, nominal)
                own -= weights[q]
            if twins >= k:
                share = add_share(0, k, own, twins, one)
            elif x_nominal:
                all_ = group_sum(0, n, labels[q], weights[q], label, everyone, nominal)
                share = add_share(own, k - twins, all_ - weights[q] - own, n - 1 - twins, one)
            else:
                share = walk(values, scale, start, m, g, q, own, labels, weights, prefix, nominal, k, one)
            whole += share[0]
            part += share[1]
    return whole, part


@njit(cache=True, nogil=True)
def nearer_side(values, scale, g, m):
    """The distinct value next to value g that is strictly nearest, -1 where distances tie."""
    left = np.inf
    right = np.inf
    if g > 0:
        gap = values[g] - values[g - 1]
        left = scale * (gap * gap)
    if g + 1 < m:
        gap = values[g + 1] - values[g]
        right = scale * (gap * gap)
    if left < right:
        if g > 1:  # two gaps can differ and round to one square
            gap = values[g] - values[g - 2]
            if scale * (gap * gap) == left:
                return -1
        return g - 1
    if right < left:
        if g + 2 < m:
            gap = values[g + 2] - values[g]
            if scale * (gap * gap) == right:
                return -1
        return g + 1
    return -1


@njit(cache=True, nogil=True)
def walk(values, scale, start, m, g, q, own, labels, weights, prefix, nominal, k, one):
    """Share of the row at position q: groups of equal distance, from the nearest outwards."""
    here = values[g]
    left = g - 1
    right = g + 1
    n_near = 0
    near = np.int64(0)  # sum over the levels that are complete
    level = 0.0
    level_n = start[g + 1] - start[g] - 1
    level_sum = own
    while True:
        to_left = np.inf
        to_right = np.inf
        if left >= 0:
            gap = values[left] - here
            to_left = scale * (gap * gap)
        if right < m:
            gap = values[right] - here
            to_right = scale * (gap * gap)
        nearest = min(to_left, to_right)
        if nearest > level:
            if n_near + level_n >= k:
                return add_share(near, k - n_near, level_sum, level_n, one)
            n_near += level_n
            near += level_sum
            level = nearest
            level_n = 0
            level_sum = 0
        h = left
        if to_left <= to_right:
            left -= 1
        else:
            h = right
            right += 1
        a = start[h]
        b = start[h + 1]
        level_n += b - a
        if b - a == 1:
            level_sum += pair(labels[q], weights[q], labels[a], weights[a], nominal)
        else:
            level_sum += group_sum(a, b, labels[q], weights[q], labels, prefix, nominal)


# --------------------------------------------------------------------------- identical rows
@njit(cache=True, nogil=True)
def group_rows(points):
    """Group of each row (numbered by first appearance) and the first row of each group.

    Open addressing over the bit patterns; rows are compared exactly.
    """
    d, n = points.shape
    bits = points.view(np.uint64)
    size = 1
    while size < 2 * n:
        size *= 2
    slots = np.full(size, -1, np.int64)
    group = np.empty(n, np.int64)
    first = np.empty(n, np.int64)
    m = 0
    for i in range(n):
        h = np.uint64(0x9E3779B97F4A7C15)
        for c in range(d):
            h = (h ^ bits[c, i]) * np.uint64(0xBF58476D1CE4E5B9)
            h ^= h >> np.uint64(29)
        h = (h ^ (h >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
        slot = np.int64((h ^ (h >> np.uint64(31))) & np.uint64(size - 1))
        while True:
            g = slots[slot]
            if g < 0:
                slots[slot] = m
                group[i] = m
                first[m] = i
                m += 1
                break
            same = True
            for c in range(d):
                if points[c, first[g]] != points[c, i]:
                    same = False
                    break
            if same:
                group[i] = g
                break
            slot = (slot + 1) & (size - 1)
    return group, first[:m].copy()


@njit(cache=True, nogil=True)
def members_of(group, m):
    """``start`` (m + 1) and rows of each group, rows ascending within a group."""
    start = np.zeros(m + 1, np.int64)
    for i in range(group.size):
        start[group[i] + 1] += 1
    for g in range(m):
        start[g + 1] += start[g]
    rows = np.empty(group.size, np.int64)
    fill = start[:-1].copy()
    for i in range(group.size):
        rows[fill[group[i]]] = i
        fill[group[i]] += 1
    return start, rows


# --------------------------------------------------------------------------- the kd-tree
@njit(cache=True, nogil=True)
def split_at(key, perm, low, high, middle):
    """Hoare's selection: afterwards key[low:middle] <= key[middle] <= key[middle:high]."""
    left = low
    right = high - 1
    while left < right:
        pivot = key[(left + right) >> 1]
        i = left
        j = right
        while i <= j:
            while key[i] < pivot:
                i += 1
            while key[j] > pivot:
                j -= 1
            if i <= j:
                key[i], key[j] = key[j], key[i]
                perm[i], perm[j] = perm[j], perm[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@njit(cache=True, nogil=True)
def build_tree(points, scale, col_nominal):
    """Balanced kd-tree in heap order (root 1), split at the median of the widest column.

    Returns
    -------
    perm : row at each position of the tree's order
    low, high : (nodes, d) bounding boxes
    first : (nodes + 1) first position of each node; node v ends where ``last[v]`` says
    n_leaves : nodes ``n_leaves .. 2 n_leaves - 1`` are the leaves
    """
    d, m = points.shape
    n_leaves = 1
    while n_leaves * LEAF < m:
        n_leaves *= 2
    nodes = 2 * n_leaves
    perm = np.arange(m)
    low = np.empty((nodes, d))
    high = np.empty((nodes, d))
    first = np.zeros(nodes, np.int64)
    last = np.zeros(nodes, np.int64)
    last[1] = m
    key = np.empty(m)
    for v in range(1, nodes):
        a = first[v]
        b = last[v]
        widest = -1.0
        column = 0
        for c in range(d):
            smallest = np.inf
            largest = -np.inf
            for q in range(a, b):
                value = points[c, perm[q]]
                smallest = min(smallest, value)
                largest = max(largest, value)
            low[v, c] = smallest
            high[v, c] = largest
            gap = largest - smallest
            width = scale[c] * (min(gap, 1.0) if col_nominal[c] else gap * gap)
            if width > widest:
                widest = width
                column = c
        if v < n_leaves:
            for q in range(a, b):
                key[q] = points[column, perm[q]]
            middle = (a + b) >> 1
            split_at(key, perm, a, b, middle)
            first[2 * v] = a
            last[2 * v] = middle
            first[2 * v + 1] = middle
            last[2 * v + 1] = b
    return perm, low, high, first, last, n_leaves


@njit(cache=True, nogil=True)
def box_distance(x, low, high, scale, col_nominal, v):
    """A lower bound of the computed distance from x to every point of node v."""
    total = 0.0
    for c in range(x.size):
        if col_nominal[c]:
            if low[v, c] == high[v, c] and low[v, c] != x[c]:
                total += scale[c]
        else:
            gap = max(max(low[v, c] - x[c], x[c] - high[v, c]), 0.0)
            total += scale[c] * (gap * gap)
    return total


@njit(cache=True, nogil=True)
def leaf_distances(x, points, scale, col_nominal, a, b, bound, out):
    """Distances from x to the positions a..b-1; False as soon as all of them exceed ``bound``."""
    d = x.size
    for q in range(b - a):
        out[q] = 0.0
    for c in range(d):
        xc = x[c]
        sc = scale[c]
        if col_nominal[c]:
            for q in range(a, b):
                out[q - a] += sc if points[c, q] != xc else 0.0
        else:
            for q in range(a, b):
                gap = points[c, q] - xc
                out[q - a] += sc * (gap * gap)
        if c % 4 == 3 and c + 1 < d:
            n_in = 0
            for q in range(b - a):
                n_in += out[q] <= bound
            if n_in == 0:
                return False
    return True


@njit(cache=True, nogil=True)
def heap_push(heap_d, heap_c, size, distance, count):
    """Push onto a max-heap of distances with multiplicities."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap_d[parent] >= distance:
            break
        heap_d[i] = heap_d[parent]
        heap_c[i] = heap_c[parent]
        i = parent
    heap_d[i] = distance
    heap_c[i] = count


@njit(cache=True, nogil=True)
def heap_pop(heap_d, heap_c, size):
    """Remove the largest distance of a max-heap with ``size`` entries."""
    distance = heap_d[size - 1]
    count = heap_c[size - 1]
    size -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap_d[child + 1] > heap_d[child]:
            child += 1
        if heap_d[child] <= distance:
            break
        heap_d[i] = heap_d[child]
        heap_c[i] = heap_c[child]
        i = child
    heap_d[i] = distance
    heap_c[i] = count


@njit(cache=True, nogil=True)
def offer(distance, count, g, k, bound, sizes, found):
    """Take a group within the bound; returns the K-th smallest distance so far (inf: fewer than K rows).

    ``sizes``: entries found, when to compact them, entries of the heap, rows in the heap.
    """
    found_d, found_g, heap_d, heap_c = found
    if k == 1:
        if distance < bound:
            bound = distance
            sizes[0] = 0
    else:
        heap_push(heap_d, heap_c, sizes[2], distance, count)
        sizes[2] += 1
        sizes[3] += count
        while sizes[3] - heap_c[0] >= k:
            sizes[3] -= heap_c[0]
            heap_pop(heap_d, heap_c, sizes[2])
            sizes[2] -= 1
        if sizes[3] >= k:
            bound = heap_d[0]
        if distance > bound:
            return bound
        if sizes[0] >= sizes[1]:
            sizes[0] = compact(found_d, found_g, sizes[0], bound)
            sizes[1] = max(sizes[1], 2 * sizes[0])
    found_d[sizes[0]] = distance
    found_g[sizes[0]] = g
    sizes[0] += 1
    return bound


@njit(cache=True, nogil=True)
def start_offers(k, sizes):
    """Nothing found yet."""
    sizes[0] = 0
    sizes[1] = 4 * k + 4 * LEAF
    sizes[2] = 0
    sizes[3] = 0


@njit(cache=True, nogil=True)
def search(p, x, points, count, scale, col_nominal, tree, k, work):
    """All groups within the K-th smallest distance of the group at position p.

    ``count`` holds the rows of each group; the group's own row is left out once.
    Fills ``found`` of ``work``; returns the number of groups and the K-th distance.
    """
    low, high, first, last, n_leaves = tree
    found, sizes, stack, stack_d, near = work
    start_offers(k, sizes)
    bound = np.inf
    stack[0] = 1
    stack_d[0] = 0.0
    depth = 1
    while depth > 0:
        depth -= 1
        if stack_d[depth] > bound:
            continue
        v = stack[depth]
        to_near = 0.0
        while v < n_leaves and to_near <= bound:  # down to the nearer child, the other one waits
            v *= 2
            far = v + 1
            to_near = box_distance(x, low, high, scale, col_nominal, v)
            to_far = box_distance(x, low, high, scale, col_nominal, far)
            if to_far < to_near:
                v, far = far, v
                to_near, to_far = to_far, to_near
            if to_far <= bound:
                stack[depth] = far
                stack_d[depth] = to_far
                depth += 1
        if to_near > bound:
            continue
        a = first[v]
        b = last[v]
        if not leaf_distances(x, points, scale, col_nominal, a, b, bound, near):
            continue
        for q in range(a, b):
            if near[q - a] > bound:
                continue
            c = count[q]
            if q == p:
                c -= 1
                if c == 0:
                    continue
            bound = offer(near[q - a], c, q, k, bound, sizes, found)
    return compact(found[0], found[1], sizes[0], bound), bound


@njit(cache=True, nogil=True)
def compact(found_d, found_g, n_found, bound):
    """Keep the entries within ``bound``."""
    kept = 0
    for q in range(n_found):
        if found_d[q] <= bound:
            found_d[kept] = found_d[q]
            found_g[kept] = found_g[q]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def search_space(m, k):
    """Scratch arrays of :func:`search` among m groups."""
    found = (
        np.empty(m, np.float64),
        np.empty(m, np.int64),
        np.empty(k + 2, np.float64),
        np.empty(k + 2, np.int64),
    )
    return (
        found,
        np.empty(4, np.int64),
        np.empty(MAX_DEPTH, np.int64),
        np.empty(MAX_DEPTH, np.float64),
        np.empty(LEAF, np.float64),
    )


@njit(cache=True, nogil=True)
def lay_out(points, scale, col_nominal):
    """Distinct rows in the tree's order, and the rows of each.

    Returns the distinct points (d, m), the tree, and ``start, rows``: the rows of the group at
    position p are ``rows[start[p]:start[p + 1]]``, ascending.
    """
    group, first_row = group_rows(points)
    m = first_row.size
    d = points.shape[0]
    distinct = points
    if m < points.shape[1]:
        distinct = np.empty((d, m))
        for c in range(d):
            for g in range(m):
                distinct[c, g] = points[c, first_row[g]]
    perm, low, high, first, last, n_leaves = build_tree(distinct, scale, col_nominal)
    position = np.empty(m, np.int64)
    for p in range(m):
        position[perm[p]] = p
    for i in range(group.size):
        group[i] = position[group[i]]
    start, rows = members_of(group, m)
    laid = np.empty((d, m))
    for c in range(d):
        for p in range(m):
            laid[c, p] = distinct[c, perm[p]]
    return laid, (low, high, first, last, n_leaves), start, rows


@njit(cache=True, nogil=True)
def tree_sums(points, scale, col_nominal, label, weight, nominal, k, random, seed):
    """K * A for points of any dimension; ``random`` draws the tied neighbours instead of averaging."""
    n = points.shape[1]
    laid, tree, start, rows = lay_out(points, scale, col_nominal)
    m = laid.shape[1]
    one = fixed_point(n)
    labels = label[rows]
    weights = weight[rows]
    prefix = running_sums(weights)
    count = np.diff(start)
    work = search_space(m, k)
    found_d = work[0][0]
    found_g = work[0][1]
    x = np.empty(laid.shape[0])
    whole = np.int64(0)
    part = np.int64(0)
    for p in range(m):
        for c in range(x.size):
            x[c] = laid[c, p]
        n_found, bound = search(p, x, laid, count, scale, col_nominal, tree, k, work)
        for q in range(start[p], start[p + 1]):
            strict = np.int64(0)
            tied = np.int64(0)
            n_strict = 0
            n_tied = 0
            for f in range(n_found):
                g = found_g[f]
                a = start[g]
                b = start[g + 1]
                size = b - a
                if size == 1:
                    value = pair(labels[q], weights[q], labels[a], weights[a], nominal)
                else:
                    value = group_sum(a, b, labels[q], weights[q], labels, prefix, nominal)
                if g == p:
                    value -= weights[q]
                    size -= 1
                if found_d[f] < bound:
                    strict += value
                    n_strict += size
                else:
                    tied += value
                    n_tied += size
            if random and n_tied > k - n_strict:
                tied = draw(
                    rows[q], p, q, n_found, bound, k - n_strict, n_tied, start, labels, weights, nominal, work, seed
                )
                n_tied = k - n_strict
            share = add_share(strict, k - n_strict, tied, n_tied, one)
            whole += share[0]
            part += share[1]
    return whole, part


# --------------------------------------------------------------------------- ties by a draw
@njit(cache=True, nogil=True)
def random_bits(state):
    """One step of splitmix64 (Steele, Lea & Flood 2014)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def draw(row, p, q, n_found, bound, places, n_tied, start, labels, weights, nominal, work, seed):
    """Sum of w over ``places`` of the tied neighbours, drawn without replacement (Floyd's sampling)."""
    state, z = random_bits(seed ^ (np.uint64(row) * np.uint64(0xD1B54A32D192ED03)))
    chosen = np.empty(places, np.int64)
    total = np.int64(0)
    for t in range(places):
        top = n_tied - places + t
        state, z = random_bits(state)
        pick = np.int64(z % np.uint64(top + 1))
        for s in range(t):
            if chosen[s] == pick:
                pick = top
                break
        chosen[t] = pick
        total += nth_tied(pick, p, q, n_found, bound, start, labels, weights, nominal, work)
    return total


@njit(cache=True, nogil=True)
def nth_tied(pick, p, q, n_found, bound, start, labels, weights, nominal, work):
    """w(i, j) for the ``pick``-th row j at the bound distance, the row itself skipped."""
    found_d = work[0][0]
    found_g = work[0][1]
    for f in range(n_found):
        if found_d[f] == bound:
            g = found_g[f]
            size = start[g + 1] - start[g] - (g == p)
            if pick < size:
                j = start[g] + pick
                if g == p and j >= q:
                    j += 1
                return pair(labels[q], weights[q], labels[j], weights[j], nominal)
            pick -= size
    return np.int64(0)
