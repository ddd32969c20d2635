"""Other parents of a child: graphs whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from marks import slowly
from scipy.stats import binom

from codec import MarkovBlanketSelector, _spouses
from codec._family import single_columns, with_response
from codec._spouses import Children
from codec._validation import read_table
from codec.datasets import make_mlp_network


def children(y, columns, seed=0):
    features = single_columns(read_table(np.column_stack(columns), "X"))
    return Children(read_table(y, "y"), features, 0.05, seed)


def noise(rng, n, k):
    return rng.standard_normal((k, n))


def collider(rng, n=300):
    """y -> C <- S; the mean of y says nothing about S, given C or not."""
    y, s, e, other = noise(rng, n, 4)
    return y, [y**2 + 2.0 * s + 0.3 * e, s, other]


def chain(rng, n=300):
    """y -> C -> S."""
    y, e, f, other = noise(rng, n, 4)
    c = y**2 + 0.5 * e
    return y, [c, c + 0.5 * f, other]


def cause(rng, n=300):
    """S -> C -> y."""
    s, e, f, other = noise(rng, n, 4)
    c = s + 0.5 * e
    return np.sin(c) + 0.3 * f, [c, s, other]


def fork(rng, n=300):
    """y <- C -> S."""
    c, e, f, other = noise(rng, n, 4)
    return c + 0.5 * e, [c, np.sin(2.0 * c) + 0.3 * f, other]


def test_names_the_other_parent_and_only_it(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 11])
    n_found = 0
    for _ in range(20):
        y, columns = collider(rng)
        found = children(y, columns).other_parent(0, [0], [1, 2])
        assert found is None or (found.feature == 1 and found.distance >= 10.0)
        n_found += found is not None
    # y and S are independent; the test at the level .1 says otherwise in a tenth of the data sets, and is asked once.
    assert n_found >= binom.ppf(1e-4, 20, 0.9) - 1


@pytest.mark.parametrize("graph", [chain, cause, fork])
def test_what_the_child_screens_off_is_no_other_parent(graph, global_random_seed):
    rng = np.random.default_rng([global_random_seed, 12])
    found = [children(*graph(rng)).other_parent(0, [0], [1, 2]) for _ in range(10)]
    assert found == [None] * 10


def test_parents_of_another_parent_are_none(global_random_seed):
    # y -> D <- C <- S, D and C known: S acts on C, clearly, and C is no child of y.
    rng = np.random.default_rng([global_random_seed, 13])
    n_false = 0
    for _ in range(20):
        y, s, e, f = noise(rng, 300, 4)
        c = s + 0.5 * e
        found = children(y, [y + c + 0.5 * f, c, s]).other_parent(1, [0, 1], [2])
        n_false += found is not None
    # y and C are independent without D: the test at the level .05 must be wrong.
    assert n_false <= binom.ppf(1.0 - 1e-4, 20, 0.05)


def crowd(rng, n=600):
    """y -> C <- S, with a child G of C on which C depends more than on S, and a parent T of S."""
    y, t, e, f, g = noise(rng, n, 5)
    s = 0.5 * t + e
    c = y + 0.6 * s + 0.6 * f
    return y, [c, c + 0.35 * g, s, t]


@pytest.mark.slow
def test_another_parent_behind_a_child_of_the_child(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 19])
    n_first, n_found = 0, 0
    for _ in range(20):
        y, columns = crowd(rng)
        asked = children(y, columns)
        n_first += asked._step(0, [4]).values([1, 2, 3], 39, far=-np.inf).distance.argmax() == 0
        found = asked.other_parent(0, [0], [1, 2, 3])
        assert found is None or found.feature == 2  # not T: given S it says nothing about C
        n_found += found is not None
    assert n_first >= 15
    assert n_found >= binom.ppf(1e-4, 20, 0.9) - 1  # y and S must pass for independent, as above


def test_a_weak_link_says_nothing():
    rng = np.random.default_rng(1)
    y, s, e = noise(rng, 300, 3)
    assert children(y, [y + s + 0.5 * e, s]).other_parent(0, [0], [1]).feature == 1
    assert children(y, [y + 0.1 * s + 0.5 * e, s]).other_parent(0, [0], [1]) is None
    assert children(y, [0.1 * y + s + 0.5 * e, s]).other_parent(0, [0], [1]) is None


def test_two_links_through_which_nothing_would_show():
    # y <- C <- S with a squared correlation of .02 each: y and S have one of .0005, which 2,000 rows do not show.
    rng = np.random.default_rng(4)
    y, s, e = noise(rng, 2_000, 3)
    asked = children(y, [0.15 * y + 0.15 * s + e, s])
    assert min(asked._on(0, 1, [2]), asked._on(0, 2, [1])) >= 8.0
    assert asked._gains(0, [1], []).get(1, 0.0) < 5.0
    assert asked.other_parent(0, [0], [1]) is None
    assert children(y, [0.5 * y + 0.5 * s + e, s]).other_parent(0, [0], [1]).feature == 1


def test_some_rows_of_many_tell_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    y, columns = collider(rng, 2_000)
    monkeypatch.setattr(_spouses, "ROWS", 500)
    some = children(y, columns)
    assert some.other_parent(0, [0], [1, 2]) == children(y, columns).other_parent(0, [0], [1, 2])
    assert some.other_parent(0, [0], [1, 2]).feature == 1
    monkeypatch.setattr(_spouses, "ROWS", 2_000)
    assert children(y, columns).other_parent(0, [0], [1, 2]).distance > some.other_parent(0, [0], [1, 2]).distance


def test_classes_and_categories_have_children_too():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 400)
    s, e, other = noise(rng, 400, 3)
    c = np.where(y == 1, 1.0, -1.0) * s + 0.2 * e
    found = children(pd.Series(y, dtype="category"), [c, s, other]).other_parent(0, [0], [1, 2])
    assert found is not None
    assert found.feature == 1


def hidden(rng, n=300):
    """y -> C <- S, and C is nearly all S; D is a child of C, T a parent of S."""
    y, t, e, f, g, other = noise(rng, n, 6)
    s = t + 0.5 * e
    c = 10.0 * s + y + 0.3 * f
    return y, [c, s, c + 3.0 * g, t, other]


@pytest.mark.slow
def test_a_child_that_its_other_parent_hides(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 14])
    n_found = 0
    for _ in range(20):
        y, columns = hidden(rng)
        found = children(y, columns).hidden_child([], range(5))
        if found is not None:
            n_found += 1
            assert {found.feature, *found.parents} == {0, 1}  # neither the child's child nor the parent's parent
            assert found.distance >= 6.0
            assert set(found.parents) <= set(found.given)
    assert n_found >= binom.ppf(1e-4, 20, 0.9) - 1  # y and S must pass for independent, as above


def test_nothing_is_hidden_where_y_has_no_child(global_random_seed):
    # S makes C, C makes D; y is noise, or a member of the blanket has told all.
    rng = np.random.default_rng([global_random_seed, 15])
    for _ in range(10):
        y, columns = hidden(rng)
        assert children(rng.permutation(y), columns).hidden_child([], range(5)) is None
        p, e = noise(rng, 300, 2)
        c, s, *_ = columns
        assert children(s + 0.5 * p, [s, c, p + 0.1 * e]).hidden_child([0, 2], [1]) is None


def test_a_child_is_hidden_by_what_another_child_of_it_cannot_stand_for(global_random_seed):
    # without S among the features the child's child D is all that the regression can name: no parent, no entry.
    rng = np.random.default_rng([global_random_seed, 16])
    for _ in range(10):
        y, (c, _, d, _, other) = hidden(rng)
        assert children(y, [c, d, other]).hidden_child([], range(3)) is None


@pytest.mark.parametrize("seed", [0, slowly(1), slowly(2)])
def test_the_search_finds_hidden_children_and_keeps_them(seed):
    y, columns = hidden(np.random.default_rng([seed, 17]))
    X = np.column_stack([*columns, np.random.default_rng([seed, 18]).standard_normal((300, 10))])
    selector = MarkovBlanketSelector(random_state=seed).fit(X, y)
    assert sorted(selector.blanket_.tolist()) == [0, 1]
    same = MarkovBlanketSelector(random_state=seed, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(selector.blanket_, same.blanket_)
    pd.testing.assert_frame_equal(selector.path_.to_frame(), same.path_.to_frame())


@pytest.mark.slow
def test_the_search_names_what_hid_a_child():
    # the network of seed 1036 was looked at when the thresholds were set; here only what the path says of it is asked.
    network = make_mlp_network(2_000, 30, random_state=1036).network
    target = int(np.random.default_rng([1036, 1]).permutation([v for v, b in enumerate(network.blankets) if b])[1])
    data = network.target(target)
    selector = MarkovBlanketSelector(random_state=1036).fit(data.X, data.y)
    decisions = selector.path_.to_frame()
    child = decisions[decisions["reason"] == "depends on y given what hides it"]
    parents = decisions[decisions["reason"] == "hides the last one given"]
    assert len(child) == 1
    assert (child["statistic"] >= 6.0).all()
    assert set(parents["given"].str.split(", ").str[-1]) == set(child["feature"])
    assert {*child["feature"], *parents["feature"]} <= {f"x{v}" for v in data.blanket}
    assert set(selector.blanket_.tolist()) >= set(data.blanket)


def test_the_search_adds_another_parent_and_says_whose():
    # v24 has two parents; a test of one of them given v24 does not see the other.
    network = make_mlp_network(500, 30, random_state=1112).network
    assert set(network.parents[24]) == {2, 16}
    selector = MarkovBlanketSelector(random_state=1112).fit(network.data.drop(columns="v16"), network.data["v16"])
    decisions = selector.path_.to_frame()
    through = decisions[decisions["reason"] == "another parent of the last one given"]
    assert ("v2", "v24") in set(zip(through["feature"], through["given"].str.split(", ").str[-1], strict=True))
    assert "v2" in selector.get_feature_names_out()
    assert set(through["feature"]) <= {f"v{v}" for v in network.blankets[16]}
    assert np.isnan(through["pvalue"]).all()
    assert (through["statistic"] >= 10.0).all()


def test_the_response_is_the_last_feature():
    features = single_columns(read_table(np.arange(6.0).reshape(3, 2), "X"))
    both = with_response(features, read_table(np.array([[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]]), "y"))
    assert both.groups == ((0,), (1,), (2, 3))
    np.testing.assert_array_equal(both.part([2]).columns, [[7.0, 9.0, 11.0], [8.0, 10.0, 12.0]])
    np.testing.assert_array_equal(both.part([0, 1]).columns, features.table.columns)


# --------------------------------------------------------------------------- what a member and others share, and y does not see
def joined(rng):
    """Four columns come from one table, in which a third of the rows has no match; one of them is what y depends on."""
    X = rng.standard_normal((300, 5))
    y = X[:, 0] + 0.5 * rng.standard_normal(300)
    X[rng.random(300) < 0.3, :4] = np.nan
    return X, y


def scaled(rng):
    """x1 is the scale of x0, of which y sees the sign."""
    X = rng.standard_normal((300, 5))
    X[:, 0] *= np.exp(X[:, 1])
    return X, np.sign(X[:, 0]) + 0.5 * rng.standard_normal(300)


def zeroed(rng):
    """Four columns are recorded as zero in the same rows."""
    X = rng.standard_normal((300, 5))
    y = X[:, 0] + 0.5 * rng.standard_normal(300)
    X[rng.random(300) < 0.3, :4] = 0.0
    return X, y


@pytest.mark.parametrize("make", [slowly(joined), slowly(scaled), zeroed])
def test_what_a_member_shares_with_others_makes_them_no_other_parents(make):
    """Any false selection in .60 to .80 of samples before; at .10, six of twelve have a chance of 5e-4."""
    false = 0
    for r in range(12):
        X, y = make(np.random.default_rng(r))
        support = MarkovBlanketSelector(allow_nan=True, random_state=0).fit(X, y).support_
        assert support[0]
        false += bool(support[1:].any())
    assert false < 6


def test_a_child_with_gaps_still_names_its_other_parent():
    found = 0
    for r in range(10):
        rng = np.random.default_rng(r)
        y, columns = collider(rng)
        columns[0][rng.random(300) < 0.2] = np.nan
        selector = MarkovBlanketSelector(allow_nan=True, random_state=0).fit(np.column_stack(columns), y)
        found += selector.support_[:2].all()
    assert found >= 8


@pytest.mark.parametrize("n_recorded", [0, 1, 20, 299])
def test_what_was_hardly_recorded_or_never_differs_is_no_child(n_recorded):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 4))
    y = X[:, 0] + 0.1 * rng.standard_normal(300)
    X[n_recorded:, 1] = np.nan  # few numbers
    X[:, 2] = 1.0  # the same number wherever it is one
    X[n_recorded:, 2] = np.nan
    selector = MarkovBlanketSelector(allow_nan=True, random_state=0, always_include=[1]).fit(X, y)
    assert selector.support_[:2].all()


def test_columns_that_tell_nothing_where_a_member_was_recorded_are_no_other_parents():
    """x1 is missing in the rows of x0, and the same elsewhere; y is one class where x2 was recorded."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 4))
    y = X[:, 0] + 0.1 * rng.standard_normal(200)
    X[:, 1] = 1.0
    X[:10, :2] = np.nan
    assert MarkovBlanketSelector(allow_nan=True, random_state=0).fit(X, y).support_[0]
    X[y < 0, 2] = np.nan
    assert (
        MarkovBlanketSelector(allow_nan=True, random_state=0).fit(X, np.where(y < 0, "a", "b")).support_[[0, 2]].any()
    )
