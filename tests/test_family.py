"""One step of the search: values counted by hand, exchangeable copies, and what must not change them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from codec import _family
from codec._family import Features, Step, Values, single_columns, with_distances, with_indicators, with_response
from codec._validation import read_table


def features(X):
    return single_columns(read_table(X, "X"))


def step_values(X, y, given=(), candidates=None, seed=0, n_resamples=99, **options):
    table = features(X)
    candidates = [j for j in range(len(table)) if j not in given] if candidates is None else candidates
    return Step(read_table(y, "y"), table, given, seed, **options).values(candidates, n_resamples)


def grid(found):
    """Candidates by copies, the observed data first."""
    return found.values  # noqa: PD011


# --------------------------------------------------------------------------- values
def test_p_values_are_counted_by_hand():
    #                  observed, then four copies
    values = Values((7, 3), np.array([[2.0, 1.0, 2.5, 0.0, 1.0], [1.0, 3.0, 0.5, 2.0, 0.5]]), np.zeros(2))
    assert values.best == 0
    assert values.statistic(0) == 2.0
    assert values.pvalue(0) == 2 / 5  # one copy of its own reaches 2.0
    assert values.family_pvalue(0) == 4 / 5  # in three copies one of the two candidates reaches 2.0
    assert values.expected_false(0) == 4 / 5  # three of eight values, and the resolution: (1 + 3) / 5
    assert values.expected_false(0, 20) == 8.0  # ten times as many features
    assert values.pvalue(1) == 3 / 5
    assert values.family_pvalue(1) == 1.0


def test_ties_count_as_reached():
    values = Values((0,), np.array([[1.0, 1.0, 1.0 - 1e-13, 0.9]]), np.zeros(1))
    assert values.pvalue(0) == 3 / 4


def test_terms_below_their_mean_count_nothing():
    terms = np.array([[3.0, 0.0, 0.0, 3.0, 1.5], [0.0, 8.0, 0.0, 0.0, 2.0]])  # means 1.5 and 2, variances 1.8 and 9.6
    expected = [[1.5**2 / 1.8, 0.0, 0.0, 1.5**2 / 1.8, 0.0], [0.0, 6.0**2 / 9.6, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(_family._squares(terms), expected, atol=1e-12)


# --------------------------------------------------------------------------- exchangeability
@pytest.mark.parametrize("given", [(), (0,)])
def test_level_of_a_family(given, global_random_seed, monkeypatch):
    # y is independent of every candidate, alone and given x0; three dependent candidates. With 9 copies
    # P(p <= .1) is 1 / 10 without a condition, and near it after smoothing. Each copy is a block of its own:
    # if blocks had a seed in common, all copies would be alike and P were 1 / 2. Five standard errors allowed.
    monkeypatch.setattr(_family, "block_sizes", lambda n_draws, _: [1] * n_draws)
    rng = np.random.default_rng(global_random_seed)
    hits = 0
    for seed in range(40):
        X = rng.standard_normal((40, 1)) + 0.5 * rng.standard_normal((40, 4))
        y = rng.standard_normal(40)
        if given:  # the candidates themselves depend on y through x0 only
            y += X[:, 0]
            X[:, 1:] = X[:, :1] + rng.standard_normal((40, 3))
        values = step_values(X, y, given, seed=seed, n_resamples=9)
        hits += values.family_pvalue(values.best) <= 0.1
    assert hits <= 40 * 0.1 + 5.0 * np.sqrt(40 * 0.1 * 0.9)


@pytest.mark.parametrize("given", [(), (0,)])
def test_all_copies_of_all_blocks_differ(given):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 8)), rng.standard_normal(50)
    found = step_values(X, y, given, n_resamples=99)  # blocks of 39 and 60 copies
    assert np.unique(grid(found).round(9), axis=1).shape[1] == 100


def test_a_family_is_as_strict_as_its_size_demands():
    # The same candidate among more noise: its own p-value stays, the family's can only grow.
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 40))
    y = 0.6 * X[:, 0] + rng.standard_normal(100)  # among the ten that get a graph
    few = step_values(X, y, candidates=[0, 1, 2])
    many = step_values(X, y, candidates=list(range(40)))
    assert few.statistic(0) == pytest.approx(many.statistic(0), rel=1e-9)
    assert few.pvalue(0) == many.pvalue(0)
    assert few.family_pvalue(0) <= many.family_pvalue(0)


# --------------------------------------------------------------------------- what must not matter
@pytest.mark.parametrize("given", [(), (1, 4)])
def test_order_of_the_candidates_does_not_matter(given):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((90, 8))
    y = X[:, 2] ** 2 + X[:, 1] + rng.standard_normal(90)
    order = [j for j in range(8) if j not in given]
    plain = step_values(X, y, given, order)
    turned = step_values(X, y, given, order[::-1])
    np.testing.assert_allclose(grid(turned)[::-1], grid(plain), rtol=1e-9, atol=1e-9)
    assert turned.candidates[turned.best] == plain.candidates[plain.best]


def test_a_copy_changes_no_decision():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((90, 4))
    y = X[:, 1] + rng.standard_normal(90)
    plain = step_values(X, y)
    copied = step_values(np.column_stack([X, X[:, 1]]), y)
    np.testing.assert_allclose(grid(copied)[:4], grid(plain), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(grid(copied)[4], grid(plain)[1], rtol=1e-4, atol=1e-3)  # ties of its graph aside
    assert copied.family_pvalue(1) == pytest.approx(plain.family_pvalue(1), abs=0.01)


def test_chunks_of_many_candidates_change_nothing():
    rng = np.random.default_rng(3)
    X = rng.standard_normal((80, 70))
    y = X[:, 65] + 0.5 * rng.standard_normal(80)
    whole = step_values(X, y, n_resamples=39)
    part = step_values(X, y, candidates=list(range(60, 70)), n_resamples=39)
    np.testing.assert_allclose(grid(whole)[65], grid(part)[5], rtol=1e-9)
    assert whole.best == 65
    np.testing.assert_array_equal(grid(step_values(X, y, n_resamples=39, n_jobs=2)), grid(whole))


def test_hopeless_steps_are_given_up_and_others_never():
    rng = np.random.default_rng(4)
    gave_up = 0

    def hopeless(first):
        assert grid(first).shape[1] == 40
        return first.reached(first.best).any(axis=0).sum() > 10

    for seed in range(10):
        X, y = rng.standard_normal((60, 4)), rng.standard_normal(60)
        found = Step(read_table(y, "y"), features(X), (), seed).values(range(4), 199, hopeless)
        n_values = grid(found).shape[1]
        assert n_values in {40, 200}
        gave_up += n_values == 40
        assert (n_values == 200) or 40 * found.family_pvalue(found.best) - 1 > 10
        clear = Step(read_table(X[:, 1], "y"), features(X), (), seed).values(range(4), 199, hopeless)
        assert grid(clear).shape == (4, 200)
        assert clear.family_pvalue(1) == 1 / 200
    assert gave_up > 0


def test_progress_adds_up_to_one():
    rng = np.random.default_rng(5)
    step = Step(read_table(rng.standard_normal(50), "y"), features(rng.standard_normal((50, 3))), (), 0)
    done = []
    step.values(range(3), 99, advance=done.append)
    assert sum(done) == pytest.approx(1.0)


# --------------------------------------------------------------------------- columns that join a group
def test_indicators_by_hand():
    X = pd.DataFrame(
        {
            "a": [1.0, np.nan, 3.0, 8.0],
            "b": [1.0, 2.0, 3.0, 4.0],
            "c": pd.Categorical(["u", None, "v", "u"]),
            "d": [np.nan] * 4,
        }
    )
    plain = Features(read_table(X, "X"), ((0, 1), (2,), (3,)))
    whole = with_indicators(plain)
    assert whole.groups == ((0, 1, 4), (2,), (3, 5))
    assert whole.table.names == ("a", "b", "c", "d", "a missing", "d missing")
    np.testing.assert_array_equal(whole.table.columns[0], [1, 3, 3, 8])  # the median of 1, 3, 8
    np.testing.assert_array_equal(whole.table.columns[2], [0, 2, 1, 0])  # a level of its own
    np.testing.assert_array_equal(whole.table.columns[3:], [[0] * 4, [0, 1, 0, 0], [1] * 4])
    assert whole.table.nominal.tolist() == [False, False, True, False, False, False]
    assert np.isnan(plain.table.columns[0, 1])  # what was given is as it was
    complete = Features(read_table(X[["b"]], "X"), ((0,),))
    assert with_indicators(complete) is complete


def test_indicators_and_distances_of_columns_of_equal_names():
    X = pd.DataFrame(
        [[1.0, np.nan, 0.0, 1.0], [np.nan, 2.0, 4.0, 5.0], [3.0, 8.0, 1.0, 2.0]], columns=["a", "a", "a missing", "b"]
    )
    plain = Features(read_table(X, "X"), ((0,), (1,), (2, 3)))
    whole = with_indicators(plain)
    assert whole.groups == ((0, 4), (1, 5), (2, 3))
    assert whole.table.names == ("a", "a (2)", "a missing", "b", "a missing (2)", "a missing (3)")
    np.testing.assert_array_equal(whole.table.columns[4:], [[0, 1, 0], [1, 0, 0]])
    points = Features(read_table(np.arange(12.0).reshape(3, 4) ** 2, "X"), ((0, 1), (2, 3)))
    points = replace(points, table=replace(points.table, names=("p", "q", "p", "q")))
    whole = with_distances(points)
    assert whole.groups == ((0, 1, 4), (2, 3, 5))
    assert whole.table.names[4:] == ("distance of p", "distance of p (2)")


def test_a_response_of_a_features_name_has_its_own():
    whole = with_response(features(np.eye(3)), read_table(pd.Series([1.0, 2.0, 4.0], name="x1"), "y"))
    assert whole.table.names == ("x0", "x1", "x2", "x1 (2)")


def test_distances_by_hand():
    X = np.array([[3.0, 0.0, 0.0, 1.0], [-3.0, 0.0, 1.0, 2.0], [0.0, 4.0, 0.0, 4.0], [0.0, -4.0, 1.0, 3.0]])
    whole = with_distances(Features(read_table(X, "X"), ((0, 1), (2,), (3,))))
    assert whole.groups == ((0, 1, 4), (2,), (3,))
    # Means 0, standard deviations 3 / sqrt(2) and 4 / sqrt(2): every point is sqrt(2) from the middle.
    np.testing.assert_allclose(whole.table.columns[4], [np.sqrt(2.0)] * 4)
    for groups in (((0, 2), (1,), (3,)), ((0,), (1,), (2,), (3,))):  # a number beside a flag is no point
        plain = Features(read_table(X, "X"), groups)
        assert with_distances(plain) is plain
