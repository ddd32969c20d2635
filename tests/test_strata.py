"""The stratified permutation test and the scores of networks, against enumeration, scipy and closed forms."""

from itertools import pairwise, permutations
from math import comb

import networkx as nx
import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import binomtest, chi2, chi2_contingency, kstest

from codec import _inference_kernels, _strata
from codec import _strata_kernels as kernels
from codec._strata import Coded, StratifiedTest, code_variables, copies_for
from codec._validation import read_table


def coded(*columns):
    stacked = np.stack([np.unique(c, return_inverse=True)[1] for c in columns]).astype(np.int64)
    return Coded(stacked, stacked.max(axis=1) + 1)


def draw_case(rng, n=60, n_strata=4):
    code = np.sort(rng.integers(0, n_strata, n))
    x, y = rng.integers(0, 3, n), rng.integers(0, 2, n)
    start, rows = kernels.varying_strata(np.unique(code, return_inverse=True)[1], int(code.max()) + 1, x, y)
    return start, x[rows], y[rows]


def slow_statistics(start, x, y):
    """Straight from the definitions, table by table."""
    entropy, pairs = 0.0, 0.0
    observed, expected = np.zeros((3, 2)), np.zeros((3, 2))
    for low, high in pairwise(start):
        table = np.zeros((3, 2))
        np.add.at(table, (x[low:high], y[low:high]), 1)
        positive = table[table > 0]
        entropy += (positive * np.log(positive)).sum()
        for row in table:
            if row.sum() > 1:
                pairs += (row * (row - 1)).sum() / (row.sum() - 1)
        observed += table
        expected += np.outer(table.sum(1), table.sum(0)) / table.sum()
    used = expected > 0
    return np.array([entropy, pairs, ((observed - expected)[used] ** 2 / expected[used]).sum()])


def test_statistics_of_every_copy_are_the_definitions(global_random_seed):
    start, x, y = draw_case(np.random.default_rng(global_random_seed))
    steps, scale = _strata._steps(60)
    found = kernels.permuted_statistics(start, x, y, 3, 2, steps, scale, 30, np.uint64(5))
    drawn = _inference_kernels.stratified_permutations(start, np.arange(x.size), 30, np.uint64(5))
    first = slow_statistics(start, x, y)
    slow = np.array([slow_statistics(start, x, y[places]) - first for places in drawn]).T
    assert (found[:, 0] == 0).all()
    np.testing.assert_allclose(found[:, 1:], slow, atol=1e-9)


def test_only_strata_in_which_both_vary_are_kept():
    code = np.array([0, 1, 0, 1, 2, 2, 3, 3])
    x = np.array([0, 1, 1, 1, 0, 1, 0, 1])
    y = np.array([1, 0, 0, 1, 1, 1, 0, 1])
    start, rows = kernels.varying_strata(code, 4, x, y)
    assert start.tolist() == [0, 2, 4]
    assert rows.tolist() == [0, 2, 6, 7]


def test_joint_codes_number_distinct_rows():
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 3, (3, 40))
    code, count = kernels.joint_code(columns, np.array([3, 3, 3]), np.array([0, 2]))
    assert count == len(np.unique(columns[[0, 2]], axis=1).T)
    same = (columns[[0, 2], :, None] == columns[[0, 2], None, :]).all(axis=0)
    assert ((code[:, None] == code[None, :]) == same).all()


def test_pvalue_is_the_share_of_all_permutations():
    """Seven rows: every permutation of y can be listed."""
    x, y = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 0])
    start = np.array([0, 7])
    listed = np.array([slow_statistics(start, x, np.array(order)) for order in permutations(y)]).T
    score = (listed - listed.mean(axis=1, keepdims=True)) / listed.std(axis=1, keepdims=True)
    largest = score.max(axis=0)
    exact = (largest >= largest[0] - 1e-9).mean()
    found = StratifiedTest(coded(x, y), 3)(0, 1, (), 0.001)
    assert found.source == "permutation"
    assert binomtest(round(found.pvalue * (found.n_copies + 1)), found.n_copies + 1, exact).pvalue > 1e-3


def test_level_and_uniformity_given_sparse_strata(global_random_seed):
    """About three rows per stratum, x and y strongly dependent through them."""
    rng = np.random.default_rng([7, global_random_seed])
    pvalues = []
    for seed in range(300):
        s = rng.integers(0, 5, (2, 80))
        both = s.sum(axis=0)
        x, y = (np.where(rng.random(80) < 0.7, both % 3, rng.integers(0, 3, 80)) for _ in range(2))
        pvalues.append(StratifiedTest(coded(x, y, *s), seed)(0, 1, (2, 3), 0.05).pvalue)
    rejected = int((np.array(pvalues) <= 0.05).sum())
    assert binomtest(rejected, 300, 0.05, alternative="greater").pvalue > 1e-3
    assert kstest(pvalues, "uniform", alternative="greater").pvalue > 1e-3  # never too small


@pytest.mark.parametrize("what", ["product", "copy", "weak and common"])
def test_power(what):
    rng = np.random.default_rng(1)
    s, x = rng.integers(0, 2, (2, 400))
    noise = rng.random(400)
    if what == "product":
        y = np.where(noise < 0.7, x ^ s, rng.integers(0, 2, 400))
    elif what == "copy":
        y = np.where(noise < 0.4, x, rng.integers(0, 4, 400))
    else:
        s = rng.integers(0, 60, 400)
        y = np.where(noise < 0.3, x, rng.integers(0, 2, 400))
    assert StratifiedTest(coded(x, y, s), 0)(0, 1, (2,), 0.01).pvalue <= 0.01


def test_chi_square_limit_is_that_of_scipy_and_used_only_where_it_holds():
    rng = np.random.default_rng(2)
    s, x = rng.integers(0, 2, (2, 600))
    y = np.where(rng.random(600) < 0.4, x, rng.integers(0, 3, 600))
    total, freedom = 0.0, 0
    for level in (0, 1):
        table = np.zeros((2, 3))
        np.add.at(table, (x[s == level], y[s == level]), 1)
        answer = chi2_contingency(table, lambda_="log-likelihood", correction=False)
        total, freedom = total + answer.statistic, freedom + answer.dof
    found = StratifiedTest(coded(x, y, s), 0)(0, 1, (2,), 0.05)
    assert found.source == "chi-square"
    assert found.pvalue == pytest.approx(chi2.sf(total, freedom), rel=1e-9)
    assert "chi-square" in found.describe()
    few = StratifiedTest(coded(x[:40], y[:40], s[:40]), 0)(0, 1, (2,), 0.05)
    assert few.source == "permutation"
    assert "permutations" in few.describe()


def test_nothing_to_test_is_no_evidence():
    s = np.arange(20)
    found = StratifiedTest(coded(s % 2, s % 3, s), 0)(0, 1, (2,), 0.05)
    assert found.pvalue == 1.0
    assert found.source == "constant"
    assert "constant" in found.describe()


def test_more_copies_where_the_level_asks_for_them_and_results_do_not_depend_on_the_order():
    rng = np.random.default_rng(3)
    x, y, s = rng.integers(0, 2, (3, 50))
    y = np.where(rng.random(50) < 0.7, x, y)
    first, second = (StratifiedTest(coded(x, y, s), 9, shortcut=False) for _ in range(2))
    coarse = first(0, 1, (), 0.05)
    fine = first(0, 1, (), 0.005)
    assert coarse.n_copies == copies_for(0.05) == 199
    assert fine.n_copies == 1999
    second(1, 0, (2,), 0.05)
    assert second(0, 1, (), 0.05) == coarse
    assert first.n_tests == 1


def test_codes_of_mixed_columns_missing_values_and_several_responses():
    features = read_table(np.array([[3.0, np.nan], [1.0, 2.0], [3.0, np.nan]]), "X")
    response = read_table(np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0]]), "y")
    data = code_variables(features, response)
    assert data.levels.tolist() == [2, 2, 3]
    assert data.columns[0].tolist() == [1, 0, 1]
    assert data.columns[1, 0] == data.columns[1, 2] != data.columns[1, 1]


# ------------------------------------------------------------------------ networks
def test_bdeu_score_is_the_dirichlet_integral():
    rng = np.random.default_rng(4)
    columns = rng.integers(0, 3, (3, 50)).astype(np.int32)
    levels = np.array([3, 3, 3])
    code, count = kernels.joint_code(columns, levels, np.array([0, 1]))
    found = kernels.local_score(code, count, 9.0, columns[2], 3, kernels.BDEU)
    table = np.zeros((9, 3))
    np.add.at(table, (columns[0] * 3 + columns[1], columns[2]), 1)
    rows = gammaln(1 / 9) - gammaln(1 / 9 + table.sum(axis=1))
    cells = gammaln(1 / 27 + table) - gammaln(1 / 27)
    assert found == pytest.approx(rows.sum() + cells.sum(), rel=1e-12)


def test_bdeu_does_not_see_the_direction_of_an_edge():
    rng = np.random.default_rng(5)
    columns = rng.integers(0, 3, (2, 60)).astype(np.int32)
    totals = []
    for parent, child in ((0, 1), (1, 0)):
        nothing = kernels.local_score(np.zeros(60, np.int64), 1, 1.0, columns[parent], 3, kernels.BDEU)
        code, count = kernels.joint_code(columns, np.array([3, 3]), np.array([parent]))
        totals.append(nothing + kernels.local_score(code, count, 3.0, columns[child], 3, kernels.BDEU))
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_regret_of_a_binary_variable(n):
    """The normalizer summed over all tables; the approximation is too large by less than 0.1 for any n."""
    exact = sum(comb(n, h) * (h / n) ** h * ((n - h) / n) ** (n - h) for h in range(n + 1))
    assert 0.0 < kernels.multinomial_regret(float(n), 2.0) - np.log(exact) < 0.1


def test_bic_and_fnml_are_likelihood_minus_penalty():
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, 90)
    counts = np.bincount(y)
    likelihood = (counts * np.log(counts / 90)).sum()
    code = np.zeros(90, np.int64)
    assert kernels.local_score(code, 1, 1.0, y, 3, kernels.BIC) == pytest.approx(likelihood - np.log(90))
    regret = kernels.multinomial_regret(90.0, 3.0)
    assert kernels.local_score(code, 1, 1.0, y, 3, kernels.FNML) == pytest.approx(likelihood - regret)


def total_score(columns, levels, parent, kind):
    total = 0.0
    for v in range(len(columns)):
        chosen = np.flatnonzero(parent[v])
        code, count = kernels.joint_code(columns, levels, chosen)
        total += kernels.local_score(code, count, float(np.prod(levels[chosen])), columns[v], levels[v], kind)
    return total


@pytest.mark.parametrize("kind", [kernels.BDEU, kernels.FNML, kernels.BIC])
def test_climbing_ends_where_no_change_helps(kind, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    a, b, c = rng.integers(0, 2, (3, 200))
    d, e = np.where(rng.random(200) < 0.8, a | b, 1 - a), np.where(rng.random(200) < 0.7, c, b)
    columns = np.stack([a, b, c, d, e]).astype(np.int32)
    levels = columns.max(axis=1) + 1
    allowed = ~np.eye(5, dtype=bool)
    parent = kernels.climb(columns, levels, allowed, 3, kind, np.zeros_like(allowed))
    graph = nx.DiGraph((u, v) for v, u in np.argwhere(parent))
    assert parent.any()
    assert nx.is_directed_acyclic_graph(graph)
    best = total_score(columns, levels, parent, kind)
    for v, u in np.argwhere(allowed):
        other = parent.copy()
        other[v, u] = not other[v, u]
        if nx.is_directed_acyclic_graph(nx.DiGraph((s, t) for t, s in np.argwhere(other))) and other[v].sum() <= 3:
            assert total_score(columns, levels, other, kind) <= best + 1e-6


def test_climbing_keeps_of_the_edges_it_starts_with_those_that_help():
    rng = np.random.default_rng(4)
    a, b, c = rng.integers(0, 2, (3, 300)).astype(np.int32)
    columns = np.stack([a, b, c, a ^ b])
    levels = np.array([2, 2, 2, 2])
    allowed = ~np.eye(4, dtype=bool)
    start = np.zeros((4, 4), dtype=bool)
    assert not kernels.climb(columns, levels, allowed, 3, kernels.BDEU, start)[3].any()
    start[3, [0, 1]] = True  # an exclusive or
    start[2, 0] = True  # no dependence
    before = start.copy()
    parent = kernels.climb(columns, levels, allowed, 3, kernels.BDEU, start)
    assert parent.sum() == 2
    assert parent[3].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(start, before)


def test_descendants_and_reversible_edges_are_those_of_the_graph():
    rng = np.random.default_rng(8)
    parent = np.tril(rng.random((7, 7)) < 0.4, -1)
    graph = nx.DiGraph((int(u), int(v)) for v, u in np.argwhere(parent))
    graph.add_nodes_from(range(7))
    reach = kernels.descendants(parent)
    for u in range(7):
        assert set(np.flatnonzero(reach[u])) == nx.descendants(graph, u) | {u}
    for u, v in list(graph.edges):
        turned = graph.copy()
        turned.remove_edge(u, v)
        turned.add_edge(v, u)
        assert kernels.reversible(parent, reach, u, v) == nx.is_directed_acyclic_graph(turned)


def test_edges_that_are_not_allowed_or_too_many_are_not_made():
    rng = np.random.default_rng(9)
    a = rng.integers(0, 2, 100).astype(np.int32)
    columns = np.stack([a, a, a])
    levels = np.array([2, 2, 2])
    allowed = np.zeros((3, 3), dtype=bool)
    assert not kernels.climb(columns, levels, allowed, 3, kernels.BDEU, np.zeros_like(allowed)).any()
    allowed[0, 1] = allowed[1, 0] = True
    parent = kernels.climb(columns, levels, allowed, 3, kernels.BDEU, np.zeros_like(allowed))
    assert parent.sum() == parent[0, 1] + parent[1, 0] == 1
    assert not kernels.climb(columns, levels, ~np.eye(3, dtype=bool), 0, kernels.BDEU, np.zeros_like(allowed)).any()
