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

from codec._jit import compiled

BUCKETS = 128  # of a selection; 16 octaves
LEAF = 32  # most rows in a leaf: four AVX-512 or eight AVX2 vectors of doubles
LARGEST = np.finfo(np.float64).max  # of all distances but one: a row itself is at infinity


# --------------------------------------------------------------------------- the accumulator
@compiled
def fixed_point(n):
    """The unit of fractions, a power of two: neither ``n * one`` nor a sum of n fractions overflows."""
    bits = 61
    while n > 0:
        bits -= 1
        n >>= 1
    return np.int64(1) << bits


@compiled
def add_share(strict, places, tied, n_tied, one):
    """``strict + places * tied / n_tied`` as an integer and a fraction in units of 1 / one."""
    if n_tied == places:
        return strict + tied, np.int64(0)
    product = places * tied
    whole = product // n_tied
    return strict + whole, ((product - whole * n_tied) * one + n_tied // 2) // n_tied


@compiled
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


@compiled
def reorder(columns, order, out):
    """Fill ``out`` with the rows in the order given."""
    for c in range(columns.shape[0]):
        for q in range(order.size):
            out[c, q] = columns[c, order[q]]


# --------------------------------------------------------------------------- sums over a group of rows
@compiled
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


@compiled
def group_sum(low, high, own_label, own_weight, label, prefix, nominal):
    """Sum of w(i, j) over the members ``low:high`` (labels ascending, ``prefix`` = running sums)."""
    up_to = count_up_to(label, low, high, own_label)
    if nominal:
        return own_weight * (up_to - count_up_to(label, low, high, own_label - 1))
    return prefix[low + up_to] - prefix[low] + own_weight * (high - low - up_to)


@compiled
def pair(own_label, own_weight, other_label, other_weight, nominal):
    """w(i, j)."""
    if nominal:
        return own_weight if own_label == other_label else 0
    return min(own_weight, other_weight)


@compiled
def running_sums(values):
    """0, v_0, v_0 + v_1, ..."""
    sums = np.empty(values.size + 1, np.int64)
    sums[0] = 0
    for i in range(values.size):
        sums[i + 1] = sums[i] + values[i]
    return sums


# --------------------------------------------------------------------------- sorting a column
@compiled
def merge_order(x):
    """Stable argsort by merging runs of doubling length (numpy's takes seconds to compile)."""
    n = x.size
    order = np.arange(n)
    merged = np.empty(n, np.int64)
    run = 1
    while run < n:
        for a in range(0, n, 2 * run):
            middle = min(a + run, n)
            end = min(a + 2 * run, n)
            left = a
            right = middle
            for q in range(a, end):
                if left < middle and (right >= end or x[order[left]] <= x[order[right]]):
                    merged[q] = order[left]
                    left += 1
                else:
                    merged[q] = order[right]
                    right += 1
        order, merged = merged, order
        run *= 2
    return order


@compiled
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
        return merge_order(x)
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
        return merge_order(x)
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
@compiled
def sorted_sums(columns, scale, col_nominal, chosen, label, weight, nominal, k):
    """K * A of each chosen column by itself: whole and part, one entry a column."""
    whole = np.zeros(chosen.size, np.int64)
    part = np.zeros(chosen.size, np.int64)
    everyone = running_sums(weight)
    for e in range(chosen.size):
        c = chosen[e]
        order = value_order(columns[c])
        if k == 1 and not nominal and not col_nominal[c]:
            total = untied_sum(columns[c], scale[c], order, weight)
            if total >= 0:
                whole[e] = total
                continue
        whole[e], part[e] = column_sum(columns[c], scale[c], col_nominal[c], order, label, weight, everyone, nominal, k)
    return whole, part


@compiled
def untied_sum(x, scale, order, weight):
    """A of one column and an ordered response, one neighbour; -1 where values or distances could tie.

    Rows come in ascending order of weight: of two rows, the first has the smaller one.
    """
    n = x.size
    row = order[0]
    after = order[1]
    gap = x[after] - x[row]
    squared = scale * (gap * gap)
    total = weight[min(row, after)]
    tied = squared < 1e-290
    for q in range(1, n - 1):
        before = row
        row = after
        after = order[q + 1]
        to_left = gap
        from_left = squared
        gap = x[after] - x[row]
        squared = scale * (gap * gap)
        total += weight[min(row, before if from_left < squared else after)]
        # beyond a gap that is tiny beside the next one stands a row whose distance rounds to the same
        tied |= (from_left == squared) | (squared < 1e-290) | (min(gap, to_left) * 2.0**50 < max(gap, to_left))
    return -1 if tied else total + weight[min(row, after)]


@compiled
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
        touching = False  # a gap beside whose square underflows: a tie with the twins
        if twins >= k and not x_nominal:
            for h in (max(g - 1, 0), min(g + 1, m - 1)):
                gap = values[h] - values[g]
                touching |= h != g and scale * (gap * gap) == 0.0
        for q in range(start[g], start[g + 1]):
            own = np.int64(0)
            if twins > 0:
                own = group_sum(start[g], start[g + 1], labels[q], weights[q], labels, prefix, nominal)
                own -= weights[q]
            if twins >= k and not touching:
                share = add_share(0, k, own, twins, one)
            elif x_nominal:
                all_ = group_sum(0, n, labels[q], weights[q], label, everyone, nominal)
                share = add_share(own, k - twins, all_ - weights[q] - own, n - 1 - twins, one)
            else:
                share = walk(values, scale, start, m, g, q, own, labels, weights, prefix, nominal, k, one)
            whole += share[0]
            part += share[1]
    return whole, part


@compiled
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


@compiled
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


# --------------------------------------------------------------------------- the k-th smallest of many
@compiled
def kth_smallest(values, n, k):
    """The k-th smallest (from 1) of ``values[:n]``, which are reordered: selection, insertion for few."""
    left = 0
    right = n - 1
    k -= 1
    while right - left > 24:
        pivot = values[(left + right) >> 1]
        i = left
        j = right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            return values[k]
    for i in range(left + 1, right + 1):
        value = values[i]
        j = i
        while j > left and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    return values[k]


@compiled
def kth_bucket(bits, n, k, buckets):
    """Which of ``bits[:n]`` hold the k-th smallest.

    ``bits``: non-negative doubles read as integers, which keeps their order. Buckets are 1/8 of an
    octave wide and reach 16 octaves below the largest; counting does not branch, selection does.

    Returns
    -------
    below : values nearer than the bucket
    largest, smallest : the bucket holds ``smallest < bits <= largest``; smallest is -1 for the last one
    """
    top = bits[0]
    for e in range(n):
        top = max(top, bits[e])
    for b in range(buckets.size):
        buckets[b] = 0
    deepest = buckets.size - 1
    for e in range(n):
        buckets[np.uint64(min((top - bits[e]) >> 49, deepest))] += 1
    total = n
    b = 0
    while total - buckets[b] >= k:
        total -= buckets[b]
        b += 1
    largest = top - (np.int64(b) << 49)
    return total - buckets[b], largest, largest - (np.int64(1) << 49) if b < deepest else np.int64(-1)


# --------------------------------------------------------------------------- one selected column, K = 1
@compiled
def strip_sums(x, x_weight, z, z_weight, label, weight, nominal, strip, row_from, row_to):
    """A of (x, z) over the rows ``row_from:row_to``, one neighbour; rows in ascending order of x.

    Strips of ``strip`` rows along x are sorted by z; a row looks along z in its own strip and in the
    strips beside it until the distance to a strip alone exceeds the best.
    """
    n = x.size
    one = fixed_point(n)
    n_strips = (n + strip - 1) // strip
    zs = np.empty(n)
    xs = np.empty(n)
    labels = np.empty(n, np.int64)
    weights = np.empty(n, np.int64)
    for s in range(n_strips):
        a = s * strip
        b = min(n, a + strip)
        order = value_order(z[a:b])
        for q in range(a, b):
            r = a + order[q - a]
            zs[q] = z[r]
            xs[q] = x[r]
            labels[q] = label[r]
            weights[q] = weight[r]
    pointer = np.empty(n_strips, np.int64)
    whole = np.int64(0)
    part = np.int64(0)
    for s in range(row_from // strip, (row_to + strip - 1) // strip):
        for t in range(n_strips):
            pointer[t] = t * strip
        for q in range(s * strip, min(n, (s + 1) * strip)):
            found = along(
                q, q + 1, min(n, (s + 1) * strip), 1, np.inf, 0, 0, zs, xs, x_weight, z_weight, labels, weights, nominal
            )
            found = along(q, q - 1, s * strip - 1, -1, *found, zs, xs, x_weight, z_weight, labels, weights, nominal)
            for side in (1, -1):
                t = s + side
                while 0 <= t < n_strips:
                    a = t * strip
                    b = min(n, a + strip)
                    gap = x[a] - xs[q] if side > 0 else xs[q] - x[b - 1]
                    if x_weight * (gap * gap) > found[0]:
                        break
                    r = pointer[t]
                    while r < b and zs[r] < zs[q]:
                        r += 1
                    pointer[t] = r
                    found = along(q, r, b, 1, *found, zs, xs, x_weight, z_weight, labels, weights, nominal)
                    found = along(q, r - 1, a - 1, -1, *found, zs, xs, x_weight, z_weight, labels, weights, nominal)
                    t += side
            share = add_share(0, 1, found[1], found[2], one)
            whole += share[0]
            part += share[1]
    return whole, part


@compiled
def along(q, r, end, step, best, total, count, zs, xs, x_weight, z_weight, labels, weights, nominal):
    """Walk along z from r until ``end`` or until z alone exceeds the best; (best, sum of w, ties)."""
    while r != end:
        gap = zs[r] - zs[q]
        from_z = z_weight * (gap * gap)
        if from_z > best:
            break
        gap = xs[r] - xs[q]
        d = x_weight * (gap * gap) + from_z
        if d < best:
            best = d
            total = np.int64(0)
            count = 0
        if d == best:
            total += pair(labels[q], weights[q], labels[r], weights[r], nominal)
            count += 1
        r += step
    return best, total, count
