"""Lists of near rows and the two loops in vector instructions that go through them."""

import numpy as np
import pytest

from codec import _kernels, _list_kernels, _neighbors, _simd, _step_kernels, _tree_kernels


# ------------------------------------------------------------------- the two LLVM loops
def lists_to_scan(rng, kind, width):
    """Blocks of candidates and lists of rows: blocks, weights, lists."""
    group, n, slots, most = _simd.GROUP, 60, 5, 12
    blocks = rng.normal(size=(2, n, width))
    base = np.sort(rng.exponential(size=(slots, group * most)), axis=1)
    if kind == "lattice":
        blocks, base = np.round(blocks), np.round(2 * base)
    groups = rng.integers(0, 3 if kind == "few entries" else most + 1, size=slots)
    bound = base[:, ::group].copy()
    if kind == "far bounds":  # a scan that ends at once, or never
        bound *= rng.choice([0.0, 1e300], size=bound.shape)
    for slot in range(slots):  # the last group is filled up
        end = group * groups[slot]
        base[slot, max(0, end - int(rng.integers(group))) : end] = np.inf
    index = rng.integers(0, n, size=base.shape).astype(np.uint32)
    return blocks, rng.uniform(0.5, 2, size=(2, width)), (index, base, bound, groups, np.zeros(slots))


@pytest.mark.parametrize("kind", ["continuous", "lattice", "few entries", "far bounds"])
def test_scan_of_a_list_equals_its_meaning(kind):
    rng = np.random.default_rng([sum(map(ord, kind))])
    for _ in range(40):
        blocks, weights, lists = lists_to_scan(rng, kind, _simd.WIDTH)
        value = rng.integers(0, 99, size=blocks.shape[1]).astype(float)
        for block, slot in ((0, 0), (1, 3), (1, 4)):
            row = int(rng.integers(blocks.shape[1]))
            found = [np.full((3, _simd.WIDTH), np.nan) for _ in range(2)]
            for scan, out in zip((_simd.scan_list, _simd.scan_list_python), found, strict=True):
                scan(blocks, weights, block, row, lists, slot, value, *out)
            np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ["continuous", "lattice", "few entries", "far bounds"])
def test_scan_for_several_neighbors_equals_its_meaning(kind):
    rng = np.random.default_rng([1, sum(map(ord, kind))])
    for turn in range(40):
        blocks, weights, lists = lists_to_scan(rng, kind, _simd.WIDTH_K)
        k, entries = 1 + turn % 13, lists[0].shape[1]
        for block, slot in ((0, 0), (1, 3), (1, 4)):
            row, found = int(rng.integers(blocks.shape[1])), []
            for scan in (_simd.scan_list_k, _simd.scan_list_k_python):
                best, kept = np.full((k, _simd.WIDTH_K), np.nan), np.zeros((entries, _simd.WIDTH_K))
                index = np.zeros(entries, np.uint32)
                count = scan(blocks, weights, block, row, lists, slot, best, kept, index)
                found.append((best, kept[:count], index[:count]))
            for one, other in zip(*found, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["continuous", "lattice", "few entries"])
def test_any_guess_leads_to_the_same_neighbors(kind):
    rng = np.random.default_rng([2, sum(map(ord, kind))])
    for k in (1, 2, 7, 20):
        blocks, weights, (index, base, bound, groups, _) = lists_to_scan(rng, kind, 1)
        z, weight, row, entries = blocks[1, :, 0].copy(), float(weights[1, 0]), 11, base.shape[1]
        for slot in range(len(groups)):
            used = np.flatnonzero(np.isfinite(base[slot, : _simd.GROUP * groups[slot]]))
            distance = base[slot, used] + weight * (z[index[slot, used]] - z[row]) ** 2
            expected = np.sort(distance)[k - 1] if used.size >= k else np.inf
            for guess in (-1.0, 0.0, expected, 1.3 * expected, 1e300, np.inf, np.nan):
                found_d, found_i = np.empty(entries), np.zeros(entries, np.uint32)
                work = np.empty(entries), found_d, found_i, np.empty(entries), np.empty(_kernels.BUCKETS, np.int64)
                n_found, kth = _step_kernels.k_nearest_in_list(
                    row, z, weight, k, guess, index[slot], base[slot], bound[slot], groups[slot], work
                )  # fmt: skip
                assert kth == expected
                within = found_d[:n_found] <= kth
                np.testing.assert_array_equal(np.sort(found_d[:n_found][within]), np.sort(distance[distance <= kth]))
                assert set(found_i[:n_found][within]) == set(index[slot, used][distance <= kth])


@pytest.mark.parametrize("d", [1, 2])
def test_lists_hold_everything_within_their_reach(d):
    # Each row once, itself never; what is left out lies beyond the reach; bounds are bounds.
    rng = np.random.default_rng(d)
    for n, wanted, columns in [
        (50, 7, rng.normal(size=(d, 50))),
        (50, 60, rng.normal(size=(d, 50))),
        (9, 3, np.round(rng.normal(size=(d, 9)))),
        (200, 20, rng.standard_cauchy(size=(d, 200))),
    ]:
        nominal, scale = np.zeros(d, bool), rng.uniform(0.5, 2, size=d)
        perm, *tree = _tree_kernels.build_tree(columns, scale, nominal)
        laid = columns[:, np.argsort(columns[0])] if d == 1 else columns[:, perm]
        lists, work = _list_kernels.list_space(wanted, d, tree[-1])
        rows = np.arange(min(n, lists[0].shape[0]))
        leaf = _list_kernels.next_leaf(0, tree[-1], tuple(tree))
        state = _list_kernels.start_state(leaf, wanted, scale, nominal, tuple(tree))
        _list_kernels.make_lists(rows, state, wanted, laid, scale, nominal, tuple(tree), lists, work)
        for slot in rows:
            index, base, bound, groups, reach = (part[slot] for part in lists)
            used = np.flatnonzero(np.isfinite(base[: _simd.GROUP * groups]))
            distance = np.sum(scale[:, None] * (laid - laid[:, [slot]]) ** 2, axis=0)
            assert slot not in index[used]
            assert len(set(index[used])) == used.size
            np.testing.assert_array_equal(base[used], distance[index[used]])
            assert (distance[np.setdiff1d(np.arange(n), [slot, *index[used]])] > reach).all()
            for g in range(groups):
                assert bound[g] <= base[_simd.GROUP * g : _simd.GROUP * groups].min()


# ------------------------------------------------------------------- when lists are chosen
def test_rows_that_repeat_are_left_to_the_tree():
    rng = np.random.default_rng(4)
    distinct, base, candidates = rng.normal(size=(40, 500)), [0, 1], list(range(2, 40))
    repeated = np.tile(distinct, 10)
    mixed = np.vstack([repeated[:2], rng.normal(size=(38, 5000))])  # repeated without the candidate alone
    for columns, path, n_copies in ((distinct, "lists", 1.0), (repeated, "tree", 10.0), (mixed, "lists", 1.0)):
        points = _neighbors.Geometry(columns, np.ones(40), np.zeros(40, bool))
        assert _neighbors.choose_path(points, columns.shape[1], base, candidates, 1) == path
        assert _neighbors.n_copies(points, base, candidates) == n_copies
