"""Blankets of discrete variables: networks with known answers, levels, options, invariances."""

import threading
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from codec import _hiton
from codec._hiton import Search, blanket_of, discrete_blanket, hiton_mb, hiton_pc
from codec._strata import Outcome, StratifiedTest, code_variables
from codec._validation import read_table


def moral_blankets(graph):
    """Neighbours in the moral graph."""
    moral = nx.Graph(graph.edges)
    moral.add_nodes_from(graph)
    for v in graph:
        moral.add_edges_from(combinations(graph.predecessors(v), 2))
    return {v: set(moral[v]) for v in graph}


def oracle(graph):
    """A test that knows the graph."""

    def test(x, y, given, level):
        apart = nx.is_d_separator(graph, {x}, {y}, set(given))
        distance = nx.shortest_path_length(graph.to_undirected(), x, y) if not apart else 0
        return Outcome(1.0 if apart else 0.0, 10.0 - distance, "permutation")

    return test


GRAPHS = {
    "chain": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "collider": [(0, 2), (1, 2), (2, 3), (4, 1)],
    "diamond": [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)],
    "asia": [(0, 1), (2, 3), (2, 4), (1, 5), (3, 5), (5, 6), (5, 7), (4, 7)],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_search_by_tests_with_an_oracle_finds_every_blanket(name):
    graph = nx.DiGraph(GRAPHS[name])
    truth = moral_blankets(graph)
    found = {y: set(hiton_mb(oracle(graph), y, len(graph), 0.05)) for y in graph}
    assert all(found[y] >= truth[y] for y in graph)
    # Without the AND rule a descendant may stay that only a variable outside of the blanket separates.
    assert {y: {v for v in found[y] if y in found[v]} for y in graph} == truth


def test_neighbours_with_an_oracle_and_what_separates_the_others():
    graph = nx.DiGraph(GRAPHS["chain"])
    members, separators = hiton_pc(oracle(graph), 2, [0, 1, 3, 4], 0.05)
    assert sorted(members) == [1, 3]
    assert separators == {0: (1,), 4: (3,)}


def test_blanket_of_a_network_is_that_of_its_moral_graph():
    rng = np.random.default_rng(0)
    parent = np.tril(rng.random((9, 9)) < 0.3, -1)
    graph = nx.DiGraph((int(u), int(v)) for v, u in np.argwhere(parent))
    graph.add_nodes_from(range(9))
    for v, truth in moral_blankets(graph).items():
        assert set(np.flatnonzero(blanket_of(parent, v))) == truth


# ------------------------------------------------------------------------ simulated tables
def noisy(values, levels, rng, keep=0.7):
    return np.where(rng.random(values.size) < keep, values % levels, rng.integers(0, levels, values.size))


def tables(X, y):
    return read_table(X, "X"), read_table(y, "y")


def find(X, y, seed=0, **options):
    return discrete_blanket(*tables(X, y), rng=np.random.default_rng(seed), **options)


def simulate(n, rng):
    """Parents 0 and 1, child 2, the child's other parent 3; 4 is a grandchild, 5, 6, 7 are noise."""
    a, b = rng.integers(0, 3, (2, n))
    y = noisy(np.maximum(a, b), 3, rng, 0.8)
    spouse = rng.integers(0, 2, n)
    child = noisy(np.maximum(y, 2 * spouse), 3, rng, 0.85)
    grandchild = noisy(child, 3, rng)
    return np.column_stack([a, b, child, spouse, grandchild, *rng.integers(0, 3, (3, n))]), y


def test_parents_children_and_spouses_are_found(global_random_seed):
    X, y = simulate(3000, np.random.default_rng(global_random_seed))
    found = find(X, y, global_random_seed)
    assert set(found.members) == {0, 1, 2, 3}
    assert all(_hiton.SHARE <= found.scores[v] <= 1.0 for v in found.members)
    assert set(found.pvalues) == set(found.members)
    assert max(found.pvalues.values()) <= 0.05


def test_every_decision_is_recorded():
    X, y = simulate(1500, np.random.default_rng(1))
    found = find(X, y)
    actions = {action: [d.feature for d in found.decisions if d.action == action] for action in ("entered", "kept")}
    assert tuple(actions["entered"]) == tuple(actions["kept"]) == found.members
    removed = {d.feature for d in found.decisions if d.action == "removed"}
    assert 4 in removed
    assert not removed & set(found.members)
    assert found.n_tests >= 9 * 8 / 2
    kept = next(d for d in found.decisions if d.action == "kept")
    assert set(kept.given) <= set(found.members) - {kept.feature}
    assert kept.pvalue == found.pvalues[kept.feature]
    assert all(d.reason for d in found.decisions)


def test_result_depends_on_the_seed_alone(global_random_seed):
    X, y = simulate(400, np.random.default_rng(global_random_seed))
    first = find(X, y, 3)
    assert repr(find(X, y, 3, n_jobs=2)) == repr(first)
    renamed = find(X[:, :] * -7 + 2, np.array(["x", "w", "a"])[y].astype(object) == "w", 3)
    again = find(X, y == 1, 3)
    assert renamed.scores == pytest.approx(again.scores)
    assert renamed.members == again.members


def test_progress_is_told_where_the_search_was_called():
    # A bar belongs to this process; workers, which may be other processes, never get hold of it.
    told = []

    @contextmanager
    def progress(what):
        yield lambda share: told.append((what, share, threading.current_thread()))

    X, y = simulate(200, np.random.default_rng(0))
    found = find(X, y, 3, n_jobs=2, progress=progress)
    assert repr(found) == repr(find(X, y, 3))
    assert sum(share for _, share, _ in told) == pytest.approx(len({what for what, _, _ in told}))
    assert {thread for _, _, thread in told} == {threading.current_thread()}


def test_options():
    X, y = simulate(1500, np.random.default_rng(2))
    full = find(X, y)
    fewer = find(X, y, max_features=2)
    last = {d.feature: d.action for d in fewer.decisions if d.action in {"entered", "removed"}}
    assert {v for v, action in last.items() if action == "entered"} == set(fewer.members)
    assert fewer.members == full.members[:2]
    assert any(d.action == "stopped" and "max_features" in d.reason for d in fewer.decisions)
    forced = find(X, y, always_include=(7,))
    assert forced.members[0] == 7
    assert set(forced.members) == {*full.members, 7}
    assert any("always included" in d.reason for d in forced.decisions)


def test_dependents_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 150)
    X = np.column_stack([noisy(y, 2, rng, keep) for keep in np.linspace(0, 0.5, 25)])
    search = Search(StratifiedTest(code_variables(*tables(X, y)), 0), 0.1, 0, None, _hiton.SILENT)
    found = search.dependents(25)
    pvalues = [search.marginal(v, 25, 0.1).pvalue for v in range(25)]
    assert sorted(found) == np.flatnonzero(multipletests(pvalues, 0.1, "fdr_bh")[0]).tolist()
    assert 3 <= len(found) <= 22


def test_other_parents_are_tested_at_a_level_that_allows_for_their_number():
    """Ten variables (1 to 10) beside the neighbour 0 of y = 11: each at 0.05 / 10."""
    pvalues = {1: 0.004, 2: 0.005, 3: 0.006, 4: 0.03}
    levels = set()

    def test(x, y, given, level):
        if not given:
            return Outcome(0.0, 1.0, "permutation")
        assert (y, given) == (11, (0,))
        levels.add(level)
        return Outcome(pvalues.get(x, 0.5), 1.0, "permutation")

    assert Search(test, 0.05, 0, None, _hiton.SILENT).coparents(11, [0], range(12)) == [1, 2]
    assert levels == {0.05 / 10}


def test_networks_are_of_bootstrap_samples_and_a_third_by_normalized_likelihood(monkeypatch):
    """Every row is there once: of 512 rows a sample with repetition has 512 (1 - 1 / e) = 324, give or take 7."""
    kinds, distinct = [], []
    original = _hiton.kernels.climb

    def spy(sample, levels, allowed, limit, kind, start):
        kinds.append(kind)
        distinct.append(np.unique(sample, axis=1).shape[1])
        assert sample.shape == (10, 512)
        return original(sample, levels, allowed, limit, kind, start)

    monkeypatch.setattr(_hiton.kernels, "climb", spy)
    rows = (np.arange(512)[:, None] >> np.arange(9)) & 1
    find(rows, rows[:, 3])
    assert (kinds.count(_hiton.kernels.FNML), kinds.count(_hiton.kernels.BDEU)) == (32, 64)
    assert 290 < min(distinct) <= max(distinct) < 360  # five standard errors
    assert np.mean(distinct) == pytest.approx(512 * (1.0 - np.exp(-1.0)), abs=5.0 * 7.0 / np.sqrt(96))


def test_pure_noise_selects_nothing_most_of_the_time(global_random_seed):
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng([seed, global_random_seed])
        hits += bool(find(rng.integers(0, 3, (100, 8)), rng.integers(0, 2, 100), seed).members)
    assert binomtest(hits, 100, 0.05, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("levels", [2, 3])
def test_two_features_that_act_together_only_are_found(levels, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    features = rng.integers(0, levels, (600, 9))
    y = (features[:, 2] + features[:, 7]) % levels
    y[:60] = rng.integers(0, levels, 60)
    found = find(features, y, global_random_seed)
    assert {2, 7} <= set(found.members)
    assert all(found.scores[v] > 0.9 for v in (2, 7))
    assert found.pvalues[2] <= 1e-6
    assert any(d.action == "screened" and (d.feature, d.given) == (2, (7,)) for d in found.decisions)


def test_one_of_a_pair_may_depend_on_y_alone(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    features = rng.integers(0, 2, (800, 9))
    features[:, 7] = rng.random(800) < 0.2
    y = features[:, 2] ^ features[:, 7]  # depends on 2, and on 7 given 2 only
    found = find(features, y, global_random_seed)
    assert {2, 7} <= set(found.members)


def test_pairs_share_no_feature_and_noise_has_none(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    features = rng.integers(0, 2, (500, 8))
    features[:, 6] = features[:, 0] ^ (rng.random(500) < 0.1)  # says the same as 0, less clearly
    y = (features[:, 0] ^ features[:, 1]) + 2 * (features[:, 2] ^ features[:, 3])
    data = code_variables(*tables(features, y))
    assert sorted(Search(StratifiedTest(data, 0), 0.05, 0, None, _hiton.SILENT).pairs(8)) == [(0, 1), (2, 3)]
    assert set(find(features, y, 1).members) == {0, 1, 2, 3}
    for seed in range(40):
        rng = np.random.default_rng([global_random_seed, seed])
        data = code_variables(*tables(rng.integers(0, 2, (150, 8)), rng.integers(0, 2, 150)))
        assert not Search(StratifiedTest(data, seed), 0.05, 0, None, _hiton.SILENT).pairs(8)


def test_an_empty_blanket_says_why():
    rng = np.random.default_rng(0)
    found = find(rng.integers(0, 2, (60, 2)), rng.integers(0, 2, 60), 1)
    assert found.members == ()
    assert found.decisions[-1].action == "stopped"
    assert "depends" in found.decisions[-1].reason


@pytest.mark.slow
def test_more_variables_than_one_network_holds(monkeypatch):
    """Only the surroundings of y are searched: the same members as in the whole table, fewer tests."""
    X, y = simulate(1500, np.random.default_rng(3))
    X = np.column_stack([X, np.random.default_rng(4).integers(0, 3, (1500, 15))])
    whole = find(X, y)
    monkeypatch.setattr(_hiton, "WHOLE_TABLE", 12)
    part = find(X, y)
    both_ways = find(X, y, symmetric=True)
    assert set(part.members) == set(whole.members) == {0, 1, 2, 3}
    assert set(both_ways.members) <= set(part.members)
    assert {0, 1, 2} <= set(both_ways.members)
    assert part.n_tests < whole.n_tests


@pytest.mark.slow
def test_wide_noise_adds_no_members():
    X, y = simulate(500, np.random.default_rng(6))
    X = np.column_stack([X, np.random.default_rng(7).integers(0, 2, (500, 300))])
    found = find(X, y)
    assert {0, 1, 2} <= set(found.members)
    assert len([v for v in found.members if v >= 8]) <= 1


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "bif").exists(), reason="the networks are not here")
def test_child_network():
    """About a minute; other seeds than those of the benchmark and of the development."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import _blanket_discrete

    found = _blanket_discrete.score(_blanket_discrete.load(DATA, "child"), "codec", 2000, 31)
    assert found["f1"] >= 0.93
