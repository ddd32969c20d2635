"""Lists of the rows near each row in X_S, nearest first: what all candidates of a step share.

Definitions and conventions as in :mod:`codec._kernels`.
"""

from __future__ import annotations

import numpy as np

from codec._jit import compiled
from codec._kernels import LARGEST, LEAF
from codec._simd import GROUP
from codec._tree_kernels import MAX_DEPTH, box_distance, leaf_distances

LIST_BUCKETS = 256
LIST_CACHE = 2**21  # bytes of lists kept at once, about a second-level cache
ATTEMPTS = 12


# --------------------------------------------------------------------------- lists of near rows
@compiled
def near_leaves(leaf, radius, scale, col_nominal, tree, stack, leaves):
    """Leaves whose box lies within the squared radius of this leaf's box."""
    low, high, _, _, n_leaves = tree
    d = low.shape[1]
    stack[0] = 1
    depth = 1
    m = 0
    while depth > 0:
        depth -= 1
        v = stack[depth]
        total = 0.0
        for c in range(d):
            if not col_nominal[c]:
                gap = max(max(low[v, c] - high[leaf, c], low[leaf, c] - high[v, c]), 0.0)
                total += scale[c] * (gap * gap)
            elif low[v, c] == high[v, c] and low[leaf, c] == high[leaf, c] and low[v, c] != low[leaf, c]:
                total += scale[c]
        if total > radius:
            continue
        if v >= n_leaves:
            leaves[m] = v
            m += 1
        else:
            stack[depth] = 2 * v + 1
            stack[depth + 1] = 2 * v
            depth += 2
    return m


@compiled
def near_rows(x, row, radius, laid, scale, col_nominal, tree, leaves, n_near, distance, found_d, found_i):
    """Positions within the squared radius of x, ``row`` left out; -1 when they do not fit."""
    low, high, first, last, _ = tree
    m = np.uint64(0)
    capacity = np.uint64(found_i.size - LEAF)
    for t in range(n_near):
        v = leaves[t]
        if box_distance(x, low, high, scale, col_nominal, v) > radius:
            continue
        a = first[v]
        b = last[v]
        if not leaf_distances(x, laid, scale, col_nominal, a, b, radius, distance):
            continue
        if m > capacity:
            return -1
        if a <= row < b:
            distance[row - a] = np.inf
        start = np.uint64(a)
        for i in range(np.uint64(b - a)):
            found_i[m] = start + i
            found_d[m] = distance[i]
            m += np.uint64(distance[i] <= radius)
    return np.int64(m)


@compiled
def bucket_list(m, radius, d, found_d, found_i, index, base, bound, place, smallest, bucket):
    """Order a list by buckets of distance; pads it to whole groups. Returns the groups."""
    n_buckets = max(1, min(LIST_BUCKETS, m // 2))
    for b in range(n_buckets):
        place[b] = 0
        smallest[b] = np.inf
    per_unit = 1.0 / radius if radius > 1e-300 else 0.0  # not infinite
    for q in range(m):
        share = found_d[q] * per_unit  # equal counts: distance^d is uniform
        if d == 1:
            share = np.sqrt(share)
        elif d >= 3:
            share *= np.sqrt(share) if d == 3 else share
        b = min(n_buckets - 1, int(share * n_buckets))
        bucket[q] = b
        place[b] += 1
        smallest[b] = min(smallest[b], found_d[q])
    begin = 0
    for b in range(n_buckets):
        size = place[b]
        place[b] = begin
        begin += size
    for b in range(n_buckets - 2, -1, -1):  # no later bucket lies nearer
        smallest[b] = min(smallest[b], smallest[b + 1])
    for q in range(m):
        b = bucket[q]
        e = place[b]
        place[b] = e + 1
        index[e] = found_i[q]
        base[e] = found_d[q]
        if e % GROUP == 0:
            bound[e // GROUP] = smallest[b]
    while m % GROUP:
        index[m] = 0
        base[m] = np.inf
        m += 1
    return m // GROUP


@compiled
def box_size(leaf, scale, col_nominal, low, high):
    """Squared diagonal of a node's box."""
    total = 0.0
    for c in range(low.shape[1]):
        gap = high[leaf, c] - low[leaf, c]
        total += scale[c] * (min(gap, 1.0) if col_nominal[c] else gap * gap)
    return total


@compiled
def start_state(leaf, wanted, scale, col_nominal, tree):
    """First guess of a list's squared radius, and the size of the leaf it was made for."""
    low, high, first, last, _ = tree
    v = leaf
    while v > 1 and last[v] - first[v] < wanted:
        v >>= 1
    state = np.empty(2)
    state[0] = 0.25 * box_size(v, scale, col_nominal, low, high)
    state[1] = box_size(leaf, scale, col_nominal, low, high)
    return state


@compiled
def next_leaf(row, leaf, tree):
    """The leaf of a row, at or behind ``leaf``."""
    last = tree[3]
    while last[leaf] <= row:
        leaf += 1
    return leaf


@compiled
def near_lists(rows, state, wanted, laid, scale, col_nominal, tree, lists, work):
    """Lists of some rows in ascending order, about ``wanted`` entries each.

    ``state``: squared radius that gave the last list, and the size of its leaf. Fills ``lists``, a place
    a row: index, base, bound, groups and squared radius (inf: everyone is in).
    """
    low, high, _, _, n_leaves = tree
    index, base, bound, groups, reach = lists
    stack, leaves, distance, found_d, found_i, place, smallest, bucket, x = work
    d, n = laid.shape
    leaf = -1
    covered = -1.0
    n_near = 0
    for slot in range(rows.size):
        row = rows[slot]
        own = next_leaf(row, max(leaf, n_leaves), tree)
        if own != leaf:
            leaf = own
            covered = -1.0
            size = box_size(leaf, scale, col_nominal, low, high)
            if state[1] > 0.0 and size > 0.0:
                state[0] *= min(max(size / state[1], 1e-6), 1e6)
            if size > 0.0:
                state[1] = size
        for c in range(d):
            x[c] = laid[c, row]
        radius = state[0]
        m = -1
        for attempt in range(ATTEMPTS):
            if attempt > 0:
                if m < 0 or m > 3 * wanted:
                    radius *= (0.3 if m < 0 else wanted / m) ** (2.0 / d)
                    covered = -1.0
                elif m < wanted // 3 and m < n - 1:
                    radius = max(radius, 1e-300) * min(16.0, (wanted / max(m, 0.05 * wanted)) ** (2.0 / d))
                    radius = min(radius, LARGEST)  # the row itself is at infinity
                else:
                    break
            if radius > covered:
                covered = radius * 1.2
                n_near = near_leaves(leaf, covered, scale, col_nominal, tree, stack, leaves)
            m = near_rows(x, row, radius, laid, scale, col_nominal, tree, leaves, n_near, distance, found_d, found_i)
        if m < 0:  # too many at no distance, or a density that changes too fast: no list
            groups[slot] = 0
            reach[slot] = -1.0
            continue
        groups[slot] = bucket_list(
            m, radius, d, found_d, found_i, index[slot], base[slot], bound[slot], place, smallest, bucket
        )
        reach[slot] = np.inf if m == n - 1 else radius
        if m > 0:
            state[0] = radius * min(1.25, max(0.8, (wanted / m) ** (2.0 / d)))


@compiled
def sorted_lists(rows, wanted, laid, scale, lists):
    """The same for one selected column, rows in ascending order: a merge of both sides, a group at a time."""
    index, base, bound, groups, reach = lists
    n = laid.shape[1]
    weight = scale[0]
    for slot in range(rows.size):
        row = rows[slot]
        here = laid[0, row]
        left = row
        right = row + 1  # the rows left:right are listed, and the row itself
        to_left, to_right = side_distances(here, weight, left, right, laid)
        g = 0
        while right - left - 1 < wanted and right - left < n:
            bound[slot, g] = min(to_left, to_right)
            start = left - GROUP if to_left < to_right else right
            for e in range(GROUP):
                q = start + e
                gap = laid[0, min(max(q, 0), n - 1)] - here
                index[slot, GROUP * g + e] = q if 0 <= q < n else 0
                base[slot, GROUP * g + e] = weight * (gap * gap) if 0 <= q < n else np.inf
            if to_left < to_right:
                left = max(0, left - GROUP)
            else:
                right = min(n, right + GROUP)
            to_left, to_right = side_distances(here, weight, left, right, laid)
            g += 1
        groups[slot] = g
        # the nearest row left out may lie at the distance of the last one, 0 included
        reach[slot] = np.inf if right - left == n else np.nextafter(min(to_left, to_right), -1.0)


@compiled
def side_distances(here, weight, left, right, laid):
    """Squared distances to the nearest rows on both sides of ``left:right``, inf where there is none."""
    n = laid.shape[1]
    to_left = np.inf
    to_right = np.inf
    if left > 0:
        gap = here - laid[0, left - 1]
        to_left = weight * (gap * gap)
    if right < n:
        gap = laid[0, right] - here
        to_right = weight * (gap * gap)
    return to_left, to_right


@compiled
def make_lists(rows, state, wanted, laid, scale, col_nominal, tree, lists, work):
    """Lists of some rows, by the way that suits the selected columns."""
    if laid.shape[0] == 1 and not col_nominal[0]:
        sorted_lists(rows, wanted, laid, scale, lists)
    else:
        near_lists(rows, state, wanted, laid, scale, col_nominal, tree, lists, work)


@compiled
def rows_at_once(wanted):
    """Rows whose lists are made together: a block's rows are then read from memory less often."""
    return LEAF * max(1, min(16, LIST_CACHE // (12 * LEAF * wanted)))


@compiled
def list_space(wanted, d, n_leaves):
    """Lists of some rows and scratch arrays of :func:`near_lists`."""
    capacity = 4 * wanted + 8 * LEAF
    rows = rows_at_once(wanted)
    lists = (
        np.empty((rows, capacity), np.uint32),
        np.empty((rows, capacity)),
        np.empty((rows, capacity // GROUP + 1)),
        np.empty(rows, np.int64),
        np.empty(rows),
    )
    work = (
        np.empty(MAX_DEPTH, np.int64),
        np.empty(n_leaves, np.int64),
        np.empty(LEAF),
        np.empty(capacity),
        np.empty(capacity, np.uint32),
        np.empty(LIST_BUCKETS, np.int64),
        np.empty(LIST_BUCKETS),
        np.empty(capacity, np.uint32),
        np.empty(d),
    )
    return lists, work
