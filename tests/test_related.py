"""Features that depend on others share the level with those that depend on none."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from codec import MarkovBlanketSelector
from codec._family import Features, Step, single_columns
from codec._judges import Calibrated, External
from codec._related import MANY, Families, find_families
from codec._validation import read_table


def chain(rng, n, p):
    """Each column correlates with the one before it."""
    rows = rng.standard_normal((p, n))
    for j in range(1, p):
        rows[j] += rows[j - 1]
    return rows.T


def families(X):
    features = single_columns(read_table(X, "X"))
    return find_families(features, range(len(features)), 0).parts


def test_by_hand():
    two = Families((frozenset({1, 4}), frozenset({0, 2, 3})))
    assert two.share == 0.5
    assert two.of(4, [0, 1, 2, 4]) == [1, 4]
    assert two.times(4, [0, 1, 2, 4]) == 4.0  # two features at half of the level
    assert two.times(0, [0, 1, 2, 4]) == 4.0
    assert [places.tolist() for places in two.places([0, 4, 2])] == [[1], [0, 2]]
    assert [places.tolist() for places in two.places([2, 0])] == [[0, 1]]
    one = Families((frozenset({0, 1}),))
    assert (one.share, one.times(1, [0, 1])) == (1.0, 2.0)


def test_few_that_depend_on_each_other_are_a_family(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    related, alone = families(np.column_stack([chain(rng, 500, 10), rng.standard_normal((500, 190))]))
    assert related >= set(range(10))
    assert related | alone == set(range(200))
    assert not related & alone
    assert len(related - set(range(10))) <= 30  # 9.5 are expected


def test_one_family_where_few_features_or_many_of_them_depend_on_others():
    rng = np.random.default_rng(0)
    few = np.column_stack([chain(rng, 300, 10), rng.standard_normal((300, MANY - 11))])
    assert families(few) == (frozenset(range(MANY - 1)),)
    assert families(chain(rng, 300, MANY)) == (frozenset(range(MANY)),)
    half = np.column_stack([chain(rng, 300, 30), rng.standard_normal((300, 30))])
    assert families(half) == (frozenset(range(60)),)


def test_squares_and_categories_are_seen_and_columns_of_one_feature_are_none_of_others():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.standard_normal((400, 80))).add_prefix("x")
    X["x1"] = X["x0"] ** 2 + 0.1 * X["x1"]
    X["x3"] = pd.Categorical(np.where(X["x2"] > 0.0, "high", "low"))
    related, _ = families(X)
    assert {0, 1, 2, 3} <= related
    X["x5"] = X["x4"]
    table = read_table(X, "X")
    pairs = Features(table, (*((j,) for j in range(4)), (4, 5), *((j,) for j in range(6, 80))))
    related, alone = find_families(pairs, range(79), 0).parts
    assert {0, 1, 2, 3} <= related
    assert 4 in alone


def test_wide_and_long_tables_are_looked_at_in_parts():
    rng = np.random.default_rng(2)
    wide = np.column_stack([rng.standard_normal((100, 1200)), chain(rng, 100, 8)])
    related = families(wide)[0]
    assert set(range(1203, 1208)) <= related
    assert len(related) <= 120
    long = np.column_stack([chain(rng, 6000, 5), rng.standard_normal((6000, 60))])
    assert set(range(5)) <= families(long)[0]


def test_the_best_of_each_family_is_held_to_its_share():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((150, 12)), rng.standard_normal(150)
    y += 0.5 * X[:, 1] + 0.55 * X[:, 9]
    features = single_columns(read_table(X, "X"))
    two = Families((frozenset(range(3)), frozenset(range(3, 12))))
    judge = Calibrated(read_table(y, "y"), features, 0.9, 7, None)  # a level at which nothing ends early
    found = judge.best(range(12), [], two, lambda _: None)
    rows = Step(read_table(y, "y"), features, [], 7).values(range(12), judge._n_resamples).values  # noqa: PD011
    expected = {}
    for part in (np.arange(3), np.arange(3, 12)):
        place = int(part[rows[part, 0].argmax()])
        copies = rows[part][:, 1:].max(axis=0)
        expected[place] = 2.0 * (1 + (copies >= rows[place, 0]).sum()) / (1 + copies.size)
    assert set(expected) == {1, 9}
    assert found.feature == min(expected, key=expected.get)
    assert found.verdict.adjusted == pytest.approx(min(expected.values()))


def test_a_users_test_pays_for_its_family():
    pvalues = {"x0": 0.02, "x1": 0.5, "x2": 0.015, "x3": 0.5, "x4": 0.5, "x5": 0.5}

    def test(y, z, given):
        return 1.0, pvalues[f"x{round(float(z[0, 0]))}"]

    X = np.arange(6.0) + np.zeros((20, 6))
    X[1] += 0.1  # constant columns are not tested
    judge = External(test, read_table(np.arange(20.0), "y"), single_columns(read_table(X, "X")), 0.05, 0)
    two = Families((frozenset({0, 1}), frozenset({2, 3, 4, 5})))
    found = judge.best(range(6), [], two, lambda _: None)
    assert (found.feature, found.verdict.adjusted) == (0, pytest.approx(2 * 2 * 0.02))
    one = Families((frozenset(range(6)),))
    assert judge.best(range(6), [], one, lambda _: None).feature == 2
    assert judge.member(2, [], [2, 3, 4, 5], 0.5).adjusted == pytest.approx(2 * 4 * 0.015)


@pytest.mark.slow
def test_noise_is_selected_no_more_often(global_random_seed):
    """At the level .2, one in ten thousand seeds may fail."""
    hits = 0
    for run in range(30):
        rng = np.random.default_rng([global_random_seed, run])
        X = np.column_stack([chain(rng, 80, 8), rng.standard_normal((80, 52))])
        hits += MarkovBlanketSelector(alpha=0.2, random_state=run).fit(X, rng.standard_normal(80)).support_.any()
    assert hits <= binom.ppf(1.0 - 1e-4, 30, 0.2)


def test_the_path_tells_of_how_many_and_at_what_share():
    rng = np.random.default_rng([5, 0])
    X = np.column_stack([chain(rng, 200, 6), rng.standard_normal((200, 300))])
    y = np.abs(X[:, 0]) + rng.standard_normal(200)
    path = MarkovBlanketSelector(random_state=0).fit(X, y).path_.to_frame()
    shared = path["reason"].str.contains(" at half of the level: ")
    assert path["n_candidates"][shared].sum() == 306  # one of each family was tested
    assert path["n_candidates"][shared].min() < 40
