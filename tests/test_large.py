"""The search in large data: decided early where more copies could not change the decision, ranked on some rows."""

import numpy as np
import pytest

from codec import MarkovBlanketSelector, _family, _inference_kernels, _judges, _markov, _omnibus
from codec._family import Step, single_columns
from codec._judges import Calibrated
from codec._validation import read_table


@pytest.fixture
def large(monkeypatch):
    """Everything above 400 rows is large."""
    for module in (_judges, _markov):
        monkeypatch.setattr(module, "LARGE_ROWS", 400)
        monkeypatch.setattr(module, "RANKING_ROWS", 300)
    monkeypatch.setattr(_judges, "FAR_ROWS", 400)
    monkeypatch.setattr(_family, "GRAPH_ROWS", 350)
    monkeypatch.setattr(_omnibus, "BLOCK_ROWS", 250)


def product(n, p, rng, noise=0.5):
    X = rng.standard_normal((n, p))
    return X, X[:, 0] * X[:, 3] + X[:, 5] + noise * rng.standard_normal(n)


def judge(X, y, alpha=0.05, seed=0):
    return Calibrated(read_table(y, "y"), single_columns(read_table(X, "X")), alpha, seed, None)


@pytest.mark.parametrize("feature", [0, 1, 2, 5])
def test_deciding_early_decides_the_same(feature, global_random_seed, monkeypatch):
    """The rule written out: all candidates that the level asks for, whatever the member's own copies say."""
    X, y = product(120, 30, np.random.default_rng(global_random_seed), noise=2.0)
    calibrated = judge(X, y)
    verdict = calibrated.member(feature, [7], range(30))
    others = [v for v in range(30) if v not in (feature, 7)]
    chosen = np.random.default_rng([0, feature, 7]).choice(others, 5, replace=False).tolist()
    step = Step(read_table(y, "y"), single_columns(read_table(X, "X")), [7], 0)
    values = step.values([feature, *chosen], 199)
    assert (verdict.adjusted <= 0.05) == (values.expected_false(0, 30) <= 0.05)
    if verdict.adjusted <= 0.05:
        assert verdict.adjusted == values.expected_false(0, 30)
        assert verdict.pvalue == values.pvalue(0)


def test_hopeless_members_cost_one_candidate(monkeypatch):
    X, y = product(120, 30, np.random.default_rng(0))
    monkeypatch.setattr(_judges, "FEW_OTHERS", 2)
    asked = []
    original = Step.values
    monkeypatch.setattr(Step, "values", lambda self, v, *a, **k: asked.append(len(v)) or original(self, v, *a, **k))
    calibrated = judge(X, y)
    assert calibrated.member(9, [0], range(30)).adjusted > 0.05
    assert asked == [1]
    assert calibrated.member(5, [0], range(30)).adjusted <= 0.05
    assert asked == [1, 1, 3, 6]


def test_hopeless_members_see_the_first_copies_only(monkeypatch):
    X, y = product(120, 30, np.random.default_rng(0))
    copies = []
    original = Step.values
    monkeypatch.setattr(Step, "values", lambda self, *a, **k: copies.append(original(self, *a, **k)) or copies[-1])
    calibrated = judge(X, y)
    assert calibrated.member(9, [0, 3, 5], [9]).adjusted > 0.05
    assert calibrated.member(5, [0], [5]).adjusted <= 0.05
    assert [found.values.shape[1] for found in copies] == [40, 200]


def test_members_far_out_get_no_graph(monkeypatch):
    X, y = product(1200, 6, np.random.default_rng(0))
    built = []
    original = _family.residual_graph
    monkeypatch.setattr(_family, "residual_graph", lambda *a: built.append(1) or original(*a))
    assert judge(X, y).member(4, [0], [4]).adjusted > 0.0
    assert built
    built.clear()
    verdict = judge(X, X[:, 4] + 0.1 * y).member(4, [0], range(6))
    assert not built
    assert verdict.pvalue == 1 / 200


def test_a_condition_of_many_columns_gets_no_graph(monkeypatch):
    X, y = product(100, 12, np.random.default_rng(0))
    monkeypatch.setattr(_family, "residual_graph", lambda *_: pytest.fail("a graph was built"))
    assert judge(X, y).member(11, range(1, 9), [11]).adjusted > 0.0


def test_distance_is_counted_in_standard_deviations_of_the_copies():
    terms = np.array([[5.0, 1.0, 3.0, 1.0, 3.0], [1.0, 2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 3.0, 1.0, 3.0]])
    assert _family._distance(terms) == 3.0
    assert _family._distance(terms[1:2]) == 0.0


@pytest.mark.parametrize("n", [30, 130, 700])
def test_all_distances_find_the_same_rows_as_a_tree(n, monkeypatch):
    points = np.random.default_rng(n).standard_normal((n, 7))
    points[::9, :3] = 0.0
    brute, tree = [], []
    for found, columns in ((brute, 6), (tree, 99)):
        monkeypatch.setattr(_omnibus, "BRUTE_COLUMNS", columns)
        found.extend(set(rows) for rows in _omnibus.nearest_rows(points, 20, np.random.default_rng(0)).tolist())
    assert brute == tree
    assert all(i in rows and len(rows) == 21 for i, rows in enumerate(brute))


def test_the_smallest_columns_by_sorting():
    rng = np.random.default_rng(3)
    distances = np.concatenate(
        [rng.standard_normal((5, 1000)), np.sort(rng.integers(0, 9, (5, 1000)), axis=1)[:, ::-1]]
    )
    near = np.empty((10, 30), np.int64)
    for kernel in (_inference_kernels.smallest_columns, _inference_kernels.smallest_columns.py_func):
        kernel(distances, 30, near)
        found = np.sort(np.take_along_axis(distances, near, axis=1), axis=1)
        np.testing.assert_array_equal(found, np.sort(distances, axis=1)[:, :30])
        assert all(len(set(row)) == 30 for row in near.tolist())


def test_what_is_listed_is_tested_on_some_rows_first(large):
    X, y = product(1500, 40, np.random.default_rng(2))
    path = MarkovBlanketSelector(random_state=0).fit(X, y).path_.to_frame()
    thinned = path[path["reason"].str.startswith("on 300 rows")]
    assert (thinned["action"] == "removed").all()
    assert (thinned["pvalue"] > 0.2).all()


def test_near_rows_are_the_nearest_of_a_block(monkeypatch):
    monkeypatch.setattr(_omnibus, "BLOCK_ROWS", 100)
    points = np.random.default_rng(5).standard_normal((250, 3))
    near = _omnibus.near_in_blocks(points, 4, np.random.default_rng(0))
    blocks = np.array_split(np.random.default_rng(0).permutation(250), 3)
    for rows in blocks:
        assert len(rows) <= 100
        for i in rows:
            order = rows[np.argsort(((points[rows] - points[i]) ** 2).sum(axis=1))]
            assert near[i].tolist() == order[:5].tolist()


def test_blocks_hold_all_the_neighbours_asked_for(monkeypatch):
    monkeypatch.setattr(_omnibus, "BRUTE_BLOCK_ROWS", 10)
    near = _omnibus.near_in_blocks(np.random.default_rng(5).standard_normal((101, 7)), 30, np.random.default_rng(0))
    assert all(len(set(rows)) == 31 for rows in near.tolist())


def test_fewer_copies_after_more_are_those_of_a_new_step():
    X, y = product(80, 6, np.random.default_rng(0))
    steps = [Step(read_table(y, "y"), single_columns(read_table(X, "X")), [0], 3) for _ in range(2)]
    steps[0].values([1, 2], 99)
    np.testing.assert_array_equal(steps[0].values([1, 2], 19).values, steps[1].values([1, 2], 19).values)


def test_the_blanket_is_found_and_far_members_are_not_compared(large, global_random_seed, monkeypatch):
    X, y = product(1500, 40, np.random.default_rng(global_random_seed))
    asked = []
    original = Step.values
    monkeypatch.setattr(Step, "values", lambda self, v, *a, **k: asked.append(len(v)) or original(self, v, *a, **k))
    selector = MarkovBlanketSelector(random_state=0).fit(X, y)
    assert sorted(selector.blanket_) == [0, 3, 5]
    assert sum(count > _judges.SHORTLIST for count in asked) <= 4  # the rankings of all candidates


def test_what_the_screen_misses_enters_from_the_ranking(large):
    X, y = product(1500, 40, np.random.default_rng(1))
    selector = MarkovBlanketSelector(random_state=0, screen=False).fit(X, y - X[:, 0] * X[:, 3] + X[:, 9])
    assert sorted(selector.blanket_) == [5, 9]


def test_large_data_of_which_the_screen_lists_nothing(large, monkeypatch):
    monkeypatch.setattr(_markov, "list_features", lambda *_: [])
    X = np.random.default_rng(0).standard_normal((420, 4))
    found = MarkovBlanketSelector(random_state=0).fit(X, X[:, 2] ** 3)
    assert found.blanket_.tolist() == [2]  # what is left to the growing


@pytest.mark.slow
def test_noise_is_not_selected_in_large_data(large):
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((420, 25)), rng.standard_t(3, 420)
        hits += bool(MarkovBlanketSelector(random_state=seed).fit(X, y).blanket_.size)
    assert hits <= 4  # binomial, 20 of .05: .997


@pytest.mark.slow
def test_same_bits_for_any_n_jobs_in_large_data(large):
    X, y = product(600, 20, np.random.default_rng(3))
    one, two = (MarkovBlanketSelector(random_state=0, n_jobs=jobs).fit(X, y) for jobs in (1, 2))
    assert one.path_.to_frame().equals(two.path_.to_frame())
