"""Compiled loops of one forward step: what all candidates share is found once.

The nearest neighbour of a row in (X_S, z) is at least as far as it is in X_S alone. So the rows near
it in X_S are listed once, nearest first, and every candidate z walks down that list until the distance
in X_S exceeds the best found: exact, ties included. Where a list ends too early, :func:`finish` goes on
through the tree of X_S, whose boxes get a side for z. Definitions and conventions as in
:mod:`codec._kernels`.
"""

from __future__ import annotations

import numpy as np

from codec._jit import compiled
from codec._kernels import (
    BUCKETS,
    LEAF,
    add_share,
    count_up_to,
    fixed_point,
    kth_bucket,
    kth_smallest,
    pair,
    value_order,
)
from codec._list_kernels import list_space, make_lists, next_leaf, rows_at_once, start_state
from codec._simd import FAR, GROUP, WIDTH, WIDTH_K, scan_list, scan_list_k
from codec._tree_kernels import (
    box_distance,
    compact,
    leaf_distances,
    offer,
    search_space,
    start_offers,
)

BESIDE = 8  # rows on each side that show what a row is expected to lose
AT_RANDOM = 0.3
GUESS = 1.2  # the K-th squared distance is mostly no larger, in units of what is expected
SAMPLE = 512  # values that show how dense a candidate is
MEMORY = 0.1  # weight of a row in what is usual among the rows before


# --------------------------------------------------------------------------- rows worth looking at first
@compiled
def expected_losses(label, weight, nominal):
    """What each row is expected to lose, weight of i less w(i, j), when j is its neighbour.

    Rows stand in the order of a tree: neighbours there are near each other in X_S. A candidate that
    tells much brings other neighbours, so a part is the loss to a row at random.
    """
    n = label.size
    expected = np.empty(n)
    for row in range(n):
        first = max(0, row - BESIDE)
        last = min(n - 1, row + BESIDE)
        lost = np.int64(0)
        for other in range(first, last + 1):
            if other != row:
                lost += weight[row] - pair(label[row], weight[row], label[other], weight[other], nominal)
        own = float(weight[row])
        at_random = own * (n - own) / n if nominal else own * own / (2 * n)
        expected[row] = lost / (last - first) + AT_RANDOM * at_random
    return expected


# --------------------------------------------------------------------------- all candidates, one neighbour
@compiled
def pack(columns, candidates, perm, blocks):
    """Candidate columns in the tree's order, ``width`` of them side by side: (blocks, n, width).

    The caller's array is filled: numpy asks for large pages of memory, which compiled code does not.
    """
    width = blocks.shape[2]
    for b in range(blocks.shape[0]):
        used = min(width, candidates.size - b * width)
        for q in range(perm.size):
            row = perm[q]
            for c in range(used):
                blocks[b, q, c] = columns[candidates[b * width + c], row]


@compiled
def block_ranges(blocks, tree, low, high):
    """Fill in the smallest and largest value of every candidate in every node: (blocks, nodes, width) each."""
    _, _, first, last, n_leaves = tree
    nodes = 2 * n_leaves
    width = blocks.shape[2]
    low[:] = np.inf
    high[:] = -np.inf
    for b in range(blocks.shape[0]):
        for v in range(nodes - 1, 0, -1):
            if v >= n_leaves:
                for q in range(first[v], last[v]):
                    for c in range(width):
                        low[b, v, c] = min(low[b, v, c], blocks[b, q, c])
                        high[b, v, c] = max(high[b, v, c], blocks[b, q, c])
            else:
                for c in range(width):
                    low[b, v, c] = min(low[b, 2 * v, c], low[b, 2 * v + 1, c])
                    high[b, v, c] = max(high[b, 2 * v, c], high[b, 2 * v + 1, c])


@compiled
def finish(x, row, bound, laid, scale, col_nominal, tree, z, z_low, z_high, z_weight, label, weight, nominal, k, work):
    """Share of one row and candidate, searched through the tree of X_S with a side for z.

    ``bound``: no row beyond this distance can be among the neighbours (inf if nothing is known).
    Returns the sum of w over the strict neighbours, their number, and the same of the tied ones.
    """
    low, high, first, last, n_leaves = tree
    found, sizes, stack, stack_d, near = work
    start_offers(k, sizes)
    here = z[row]
    stack[0] = 1
    stack_d[0] = 0.0
    depth = 1
    while depth > 0:
        depth -= 1
        if stack_d[depth] > bound:
            continue
        v = stack[depth]
        to_near = 0.0
        while v < n_leaves and to_near <= bound:
            v *= 2
            far = v + 1
            gap = max(max(z_low[v] - here, here - z_high[v]), 0.0)
            to_near = box_distance(x, low, high, scale, col_nominal, v) + z_weight * (gap * gap)
            gap = max(max(z_low[far] - here, here - z_high[far]), 0.0)
            to_far = box_distance(x, low, high, scale, col_nominal, far) + z_weight * (gap * gap)
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
        if not leaf_distances(x, laid, scale, col_nominal, a, b, bound, near):
            continue
        for q in range(a, b):
            if near[q - a] > bound or q == row:
                continue
            gap = z[q] - here
            distance = near[q - a] + z_weight * (gap * gap)
            if distance <= bound:
                bound = offer(distance, 1, q, k, bound, sizes, found)
    n_found = compact(found[0], found[1], sizes[0], bound)
    return sum_found(row, bound, n_found, found[0], found[1], label, weight, nominal)


@compiled
def sum_found(row, bound, n_found, found_d, found_i, label, weight, nominal):
    """Sums of w and numbers of the rows nearer than the bound and of those at it."""
    strict = np.int64(0)
    tied = np.int64(0)
    n_strict = 0
    n_tied = 0
    for f in range(n_found):
        if found_d[f] > bound:
            continue
        q = found_i[f]
        value = pair(label[row], weight[row], label[q], weight[q], nominal)
        if found_d[f] < bound:
            strict += value
            n_strict += 1
        else:
            tied += value
            n_tied += 1
    return strict, n_strict, tied, n_tied


@compiled
def tied_in_list(row, lane, best, index, base, bound, groups, block, z_weight, label, weight, nominal):
    """Sum of w over the entries at exactly the best distance, and their number."""
    total = np.int64(0)
    count = 0
    z = block[row, lane]
    for g in range(groups):
        if bound[g] > best:
            break
        for e in range(GROUP * g, GROUP * g + GROUP):
            gap = block[index[e], lane] - z
            if base[e] + z_weight * (gap * gap) == best:
                total += pair(label[row], weight[row], label[index[e]], weight[index[e]], nominal)
                count += 1
    return total, count


@compiled
def list_sums(laid, scale, col_nominal, tree, blocks, ranges, z_weights, label, weight, nominal, wanted, rows):
    """A for every candidate over some rows, in ascending order; one neighbour.

    ``label`` and ``weight`` stand in the tree's order, ``rows`` are places in it. Returns whole, part of shape (blocks * WIDTH,)
    and the number of (row, candidate) pairs that went on through the tree.
    """
    d, n = laid.shape
    one = fixed_point(n)
    whole = np.zeros(blocks.shape[0] * WIDTH, np.int64)
    part = np.zeros(blocks.shape[0] * WIDTH, np.int64)
    value = label.astype(np.float64)
    lists, work = list_space(wanted, d, tree[4])
    index, base, bound, groups, reach = lists
    best = np.empty(WIDTH)
    best_value = np.empty(WIDTH)
    second = np.empty(WIDTH)
    x = np.empty(d)
    finish_work = search_space(n, 1)
    state = start_state(next_leaf(rows[0], tree[4], tree), wanted, scale, col_nominal, tree)
    n_finished = 0
    sums = np.zeros((blocks.shape[0], WIDTH))  # integers below 2^53: exact
    at_once = rows_at_once(wanted)
    for begin in range(0, rows.size, at_once):
        batch = rows[begin : begin + at_once]
        make_lists(batch, state, wanted, laid, scale, col_nominal, tree, lists, work)
        for b in range(blocks.shape[0]):
            for slot in range(batch.size):
                row = batch[slot]
                scan_list(blocks, z_weights, b, row, lists, slot, value, best, best_value, second)
                open_ = 0
                for c in range(WIDTH):
                    open_ += (best[c] > reach[slot]) | (second[c] == best[c])
                if open_ == 0:
                    if nominal:
                        for c in range(WIDTH):
                            sums[b, c] += weight[row] if best_value[c] == value[row] else 0.0
                    else:
                        for c in range(WIDTH):
                            sums[b, c] += min(value[row], best_value[c])
                    continue
                for c in range(WIDTH):
                    if best[c] > reach[slot]:
                        n_finished += 1
                        for k in range(d):
                            x[k] = laid[k, row]
                        _, _, total, count = finish(
                            x, row, best[c], laid, scale, col_nominal, tree, blocks[b][:, c], ranges[0][b][:, c],
                            ranges[1][b][:, c], z_weights[b, c], label, weight, nominal, 1, finish_work,
                        )  # fmt: skip
                    elif second[c] == best[c]:
                        total, count = tied_in_list(
                            row, c, best[c], index[slot], base[slot], bound[slot], groups[slot], blocks[b],
                            z_weights[b, c], label, weight, nominal,
                        )  # fmt: skip
                    else:
                        other = np.int64(best_value[c])
                        total = pair(label[row], weight[row], other, other, nominal)
                        count = 1
                    share = add_share(0, 1, total, count, one)
                    whole[b * WIDTH + c] += share[0]
                    part[b * WIDTH + c] += share[1]
    for b in range(blocks.shape[0]):
        for c in range(WIDTH):
            whole[b * WIDTH + c] += np.int64(sums[b, c])
    return whole, part, n_finished


# --------------------------------------------------------------------------- all candidates, a few neighbours
@compiled
def lane_sums(row, kth, n_kept, kept, kept_index, value, total, count, label, weight, nominal):
    """Sums of w over the kept entries within the K-th distance of each lane, and their numbers."""
    for e in range(n_kept):
        j = kept_index[e]
        value[e] = pair(label[row], weight[row], label[j], weight[j], nominal)
    for c in range(WIDTH_K):
        total[c] = 0.0
        count[c] = 0.0
    for e in range(n_kept):
        for c in range(WIDTH_K):
            within = kept[e, c] <= kth[c]
            total[c] += value[e] if within else 0.0
            count[c] += 1.0 if within else 0.0


@compiled
def strict_in_lane(lane, kth, n_kept, kept, value):
    """Sum of w over the kept entries nearer than the K-th distance, and their number."""
    total = np.int64(0)
    count = 0
    for e in range(n_kept):
        if kept[e, lane] < kth:
            total += np.int64(value[e])
            count += 1
    return total, count


@compiled
def list_sums_few(laid, scale, col_nominal, tree, blocks, ranges, z_weights, label, weight, nominal, k, wanted, rows):
    """As :func:`list_sums`, K * A for a few neighbours; blocks of WIDTH_K candidates."""
    d, n = laid.shape
    one = fixed_point(n)
    whole = np.zeros(blocks.shape[0] * WIDTH_K, np.int64)
    part = np.zeros(blocks.shape[0] * WIDTH_K, np.int64)
    lists, work = list_space(wanted, d, tree[4])
    reach = lists[4]
    best = np.empty((k, WIDTH_K))
    kth = best[k - 1]
    kept = np.empty((lists[0].shape[1], WIDTH_K))
    kept_index = np.empty(lists[0].shape[1], np.uint32)
    value = np.empty(lists[0].shape[1])
    total = np.empty(WIDTH_K)
    count = np.empty(WIDTH_K)
    x = np.empty(d)
    finish_work = search_space(n, k)
    state = start_state(next_leaf(rows[0], tree[4], tree), wanted, scale, col_nominal, tree)
    n_finished = 0
    at_once = rows_at_once(wanted)
    for begin in range(0, rows.size, at_once):
        batch = rows[begin : begin + at_once]
        make_lists(batch, state, wanted, laid, scale, col_nominal, tree, lists, work)
        for b in range(blocks.shape[0]):
            for slot in range(batch.size):
                row = batch[slot]
                n_kept = scan_list_k(blocks, z_weights, b, row, lists, slot, best, kept, kept_index)
                lane_sums(row, kth, n_kept, kept, kept_index, value, total, count, label, weight, nominal)
                for c in range(WIDTH_K):
                    j = b * WIDTH_K + c
                    if kth[c] == FAR or kth[c] > reach[slot]:
                        n_finished += 1
                        for axis in range(d):
                            x[axis] = laid[axis, row]
                        sums = finish(
                            x, row, np.inf if kth[c] == FAR else kth[c], laid, scale, col_nominal, tree, blocks[b][:, c],
                            ranges[0][b][:, c], ranges[1][b][:, c], z_weights[b, c], label, weight, nominal, k, finish_work,
                        )  # fmt: skip
                        share = add_share(sums[0], k - sums[1], sums[2], sums[3], one)
                        whole[j] += share[0]
                        part[j] += share[1]
                    elif count[c] == k:
                        whole[j] += np.int64(total[c])
                    else:
                        strict, n_strict = strict_in_lane(c, kth[c], n_kept, kept, value)
                        share = add_share(
                            strict, k - n_strict, np.int64(total[c]) - strict, np.int64(count[c]) - n_strict, one
                        )
                        whole[j] += share[0]
                        part[j] += share[1]
    return whole, part, n_finished


# --------------------------------------------------------------------------- all candidates, many neighbours
@compiled
def distances_in_list(row, z, z_weight, index, base, end, out):
    """Distances of a row to the first entries of its list."""
    here = z[row]
    for e in range(end):
        gap = z[index[e]] - here
        out[e] = base[e] + z_weight * (gap * gap)


@compiled
def entries_within(limit, row, z, z_weight, index, base, bound, groups, n_entries, work):
    """Entries of a list that lie within a distance, and their number."""
    distance, found_d, found_i, _, _ = work
    group = 0
    while group < groups and bound[group] <= limit:
        group += 1
    end = min(GROUP * group, n_entries)
    distances_in_list(row, z, z_weight, index, base, end, distance)
    kept = np.uint64(0)
    for e in range(end):
        found_d[kept] = distance[e]
        found_i[kept] = index[e]
        kept += np.uint64(distance[e] <= limit)
    return np.int64(kept)


@compiled
def k_nearest_in_list(row, z, z_weight, k, guess, index, base, bound, groups, work):
    """Entries within the K-th distance of a list, their number and that distance (inf: too few entries).

    Few entries lie within a guess at the distance. Where they are fewer than K, the K-th distance among
    the nearest in X_S is a limit.
    """
    distance, found_d, _, scratch, buckets = work
    n_entries = GROUP * groups
    while n_entries > 0 and base[n_entries - 1] == np.inf:
        n_entries -= 1
    n_found = entries_within(guess, row, z, z_weight, index, base, bound, groups, n_entries, work)
    if n_found < k:
        head = min(n_entries, 2 * k + 2 * LEAF)
        limit = np.full(1, np.inf)
        if head >= k:
            distances_in_list(row, z, z_weight, index, base, head, distance)
            limit.view(np.int64)[0] = kth_bucket(distance.view(np.int64), head, k, buckets)[1]
        n_found = entries_within(limit[0], row, z, z_weight, index, base, bound, groups, n_entries, work)
        if head < k:
            return n_found, np.inf
    bits = found_d.view(np.int64)
    below, largest, smallest = kth_bucket(bits, n_found, k, buckets)
    kept = np.uint64(0)
    for e in range(n_found):
        scratch[kept] = found_d[e]
        kept += np.uint64((bits[e] <= largest) & (bits[e] > smallest))
    return n_found, kth_smallest(scratch, np.int64(kept), k - below)


@compiled
def sorted_samples(columns):
    """Some values of every column, ascending."""
    step = max(1, columns.shape[1] // SAMPLE)
    samples = np.empty((columns.shape[0], (columns.shape[1] - 1) // step + 1))
    for j in range(columns.shape[0]):
        some = columns[j, ::step].copy()
        samples[j] = some[value_order(some)]
    return samples


@compiled
def spacing(sample, value):
    """Mean gap between the values of a sorted sample around a value."""
    place = count_up_to(sample, 0, sample.size, value)
    first = max(0, place - BESIDE)
    last = min(sample.size - 1, place + BESIDE)
    return (sample[last] - sample[first]) / (last - first)


@compiled
def levels(k, d, bound, groups, out):
    """What the distances in X_S, by the lists, contribute to the expected K-th distance of each row."""
    for slot in range(out.size):
        level = bound[slot, min(k // (2 * GROUP), groups[slot] - 1)] if groups[slot] > 0 else 0.0
        out[slot] = level ** (d / (d + 1))


@compiled
def sum_within(row, bound, n_found, found_d, found_i, weight):
    """Sum of the smaller ranks over the rows within the bound, and their number; no branch."""
    own = weight[row]
    total = np.int64(0)
    count = np.int64(0)
    for f in range(n_found):
        within = np.int64(found_d[f] <= bound)
        total += within * min(own, weight[found_i[f]])
        count += within
    return total, count


@compiled
def list_sums_many(laid, scale, col_nominal, tree, blocks, ranges, z_weights, label, weight, nominal, k, wanted, rows):
    """As :func:`list_sums`, K * A for many neighbours; blocks of one candidate."""
    d, n = laid.shape
    one = fixed_point(n)
    whole = np.zeros(blocks.shape[0], np.int64)
    part = np.zeros(blocks.shape[0], np.int64)
    lists, work = list_space(wanted, d, tree[4])
    index, base, bound, groups, reach = lists
    found_d = np.empty(index.shape[1])
    found_i = np.empty(index.shape[1], np.uint32)
    list_work = (
        np.empty(index.shape[1]),
        found_d,
        found_i,
        np.empty(index.shape[1]),
        np.empty(BUCKETS, np.int64),
    )
    x = np.empty(d)
    finish_work = search_space(n, k)
    state = start_state(next_leaf(rows[0], tree[4], tree), wanted, scale, col_nominal, tree)
    columns = blocks.reshape(blocks.shape[0], n)  # contiguous columns: the compiler can gather
    samples = sorted_samples(columns)
    usual = np.zeros(blocks.shape[0])  # K-th distance in units of the expected one
    level = np.empty(rows_at_once(wanted))
    n_finished = 0
    at_once = rows_at_once(wanted)
    for begin in range(0, rows.size, at_once):
        batch = rows[begin : begin + at_once]
        make_lists(batch, state, wanted, laid, scale, col_nominal, tree, lists, work)
        levels(k, d, bound, groups, level[: batch.size])
        for j in range(blocks.shape[0]):
            z = columns[j]
            for slot in range(batch.size):
                row = batch[slot]
                expected = level[slot] * spacing(samples[j], z[row]) ** (2 / (d + 1))  # of uniform density nearby
                n_found, kth = k_nearest_in_list(
                    row, z, z_weights[j, 0], k, GUESS * usual[j] * expected, index[slot], base[slot], bound[slot],
                    groups[slot], list_work,
                )  # fmt: skip
                if expected > 0.0 and kth < np.inf:
                    usual[j] += (kth / expected - usual[j]) * (MEMORY if usual[j] > 0.0 else 1.0)
                if kth <= reach[slot]:
                    if not nominal:
                        total, count = sum_within(row, kth, n_found, found_d, found_i, weight)
                        if count == k:
                            whole[j] += total
                            continue
                    sums = sum_found(row, kth, n_found, found_d, found_i, label, weight, nominal)
                else:
                    n_finished += 1
                    for c in range(d):
                        x[c] = laid[c, row]
                    sums = finish(
                        x, row, kth, laid, scale, col_nominal, tree, blocks[j][:, 0], ranges[0][j][:, 0], ranges[1][j][:, 0],
                        z_weights[j, 0], label, weight, nominal, k, finish_work,
                    )  # fmt: skip
                share = add_share(sums[0], k - sums[1], sums[2], sums[3], one)
                whole[j] += share[0]
                part[j] += share[1]
    return whole, part, n_finished
