"""Compiled loops of one search: the distinct rows in a kd-tree, the K nearest, ties by mean or draw.

Definitions and conventions as in :mod:`codec._kernels`.
"""

from __future__ import annotations

import numpy as np

from codec._jit import compiled
from codec._kernels import (
    LEAF,
    add_share,
    fixed_point,
    group_sum,
    pair,
    running_sums,
)

MAX_DEPTH = 128  # of a search's stack; a tree over 2^31 rows has 26 levels


# --------------------------------------------------------------------------- identical rows
@compiled
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


@compiled
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
@compiled
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


@compiled
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


@compiled
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


@compiled
def leaf_distances(x, points, scale, col_nominal, a, b, bound, out):
    """Distances from x to the positions a..b-1; False as soon as all of them exceed ``bound``.

    Unsigned places: the compiler need not care for negative ones and can use vectors.
    """
    d = x.size
    start = np.uint64(a)
    size = np.uint64(b - a)
    for c in range(d):
        xc = x[c]
        sc = scale[c]
        if col_nominal[c]:
            for i in range(size):
                apart = sc if points[c, start + i] != xc else 0.0
                out[i] = apart if c == 0 else out[i] + apart
        elif c == 0:
            for i in range(size):
                gap = points[c, start + i] - xc
                out[i] = sc * (gap * gap)
        else:
            for i in range(size):
                gap = points[c, start + i] - xc
                out[i] += sc * (gap * gap)
        if c % 4 == 3 and c + 1 < d:
            n_in = 0
            for i in range(size):
                n_in += out[i] <= bound
            if n_in == 0:
                return False
    return True


@compiled
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


@compiled
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


@compiled
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


@compiled
def start_offers(k, sizes):
    """Nothing found yet."""
    sizes[0] = 0
    sizes[1] = 4 * k + 4 * LEAF
    sizes[2] = 0
    sizes[3] = 0


@compiled
def search(x, points, count, scale, col_nominal, tree, k, work):
    """All groups within the K-th smallest distance of x.

    ``count`` holds the rows of each group that are neighbours (of the group of x: all but one). Fills
    ``found`` of ``work``; returns the number of groups and the K-th distance.
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
            if count[q] > 0:
                bound = offer(near[q - a], count[q], q, k, bound, sizes, found)
    return compact(found[0], found[1], sizes[0], bound), bound


@compiled
def compact(found_d, found_g, n_found, bound):
    """Keep the entries within ``bound``."""
    kept = 0
    for q in range(n_found):
        if found_d[q] <= bound:
            found_d[kept] = found_d[q]
            found_g[kept] = found_g[q]
            kept += 1
    return kept


@compiled
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


@compiled
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


@compiled
def tree_sums(laid_out, scale, col_nominal, label, weight, nominal, k, random, seed, place_from, place_to):
    """K * A over the rows of some groups of :func:`lay_out`; ``random`` draws the tied neighbours."""
    laid, tree, start, rows = laid_out
    n = rows.size
    m = laid.shape[1]
    one = fixed_point(n)
    labels = label[rows]
    weights = weight[rows]
    prefix = running_sums(weights)
    count = start[1:] - start[:-1]
    work = search_space(m, k)
    found_d = work[0][0]
    found_g = work[0][1]
    x = np.empty(laid.shape[0])
    whole = np.int64(0)
    part = np.int64(0)
    for p in range(place_from, place_to):
        for c in range(x.size):
            x[c] = laid[c, p]
        count[p] -= 1  # its own row
        n_found, bound = search(x, laid, count, scale, col_nominal, tree, k, work)
        count[p] += 1
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
@compiled
def random_bits(state):
    """One step of splitmix64 (Steele, Lea & Flood 2014)."""
    state += np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@compiled
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


@compiled
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
