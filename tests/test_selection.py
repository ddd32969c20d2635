"""foci and lfoci against a slow forward selection and by hand."""

import math

import joblib
import numba
import numpy as np
import pandas as pd
import polars as pl
import pytest
import reference_impl as reference
from hypothesis import given, settings
from hypothesis import strategies as st

import codec
from codec import foci, lfoci

CLOSE = {"rtol": 0, "atol": 1e-12}


def assert_same_path(path, exact):
    """Assert that a path is the slow one: order, cumulative and conditional T."""
    assert path.order.tolist() == exact.order
    np.testing.assert_allclose(path.cumulative, np.array(exact.cumulative, float), **CLOSE)
    # None: nothing was left to explain before the step
    conditional = [math.nan if t is None else float(t) for t in exact.conditional]
    np.testing.assert_allclose(path.conditional, conditional, rtol=1e-12, atol=1e-11)


def table(kind, n, p, rng):
    """Draw a table whose columns are not constant."""
    if kind == "continuous":
        return rng.normal(size=(n, p))
    if kind == "lattice":
        X = rng.integers(0, 5, size=(n, p)).astype(float)
    elif kind == "binary":
        X = rng.integers(0, 2, size=(n, p)).astype(float)
    else:  # whole rows repeat
        X = rng.normal(size=(max(3, n // 3), p))[rng.integers(max(3, n // 3), size=n)]
    X[0], X[1] = X[1] + 1, X[0]
    return X


def response(kind, X, rng):
    """Draw a y that depends on the first columns; never constant."""
    n, p = X.shape
    y = X[:, 0] + X[:, p // 2] * X[:, -1]
    if kind == "noisy":
        y = y + 0.3 * rng.normal(size=n)
    elif kind == "counts":
        y = np.round(2 * y)
    elif kind == "classes":
        y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    else:
        y = rng.normal(size=n)
    y[0] = y[1] + 1
    return y


# ------------------------------------------------------- equality with the slow truth


@given(
    kind=st.sampled_from(["continuous", "lattice", "binary", "duplicated"]),
    y_kind=st.sampled_from(["noisy", "counts", "classes", "unrelated"]),
    n=st.integers(5, 40),
    p=st.integers(1, 6),
    n_neighbors=st.sampled_from([1, 2, 4]),
    stop=st.booleans(),
    data=st.data(),
)
def test_raw_columns_equal_slow_selection(kind, y_kind, n, p, n_neighbors, stop, data):
    # standardize=None keeps the distances of discrete data exact: every tie is a tie,
    # and scores are equal exactly when they should be (then the smallest index wins).
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    X = table(kind, n, p, rng)
    y = response(y_kind, X, rng)
    call = {
        "stop": stop,
        "n_neighbors": n_neighbors,
        "standardize": None,
        "nominal_y": y_kind == "classes" and data.draw(st.booleans()),
        "max_features": data.draw(st.none() | st.integers(1, p)),
    }
    assert_same_path(foci(X, y, **call), reference.foci(X, y, **call))


@given(
    kind=st.sampled_from(["continuous", "duplicated"]),
    standardize=st.sampled_from(["scale", "bounded", "rank", None]),
    n=st.integers(6, 40),
    p=st.integers(1, 6),
    category=st.booleans(),
    n_neighbors=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_standardized_columns_equal_slow_selection(kind, standardize, n, p, category, n_neighbors, seed):
    rng = np.random.default_rng(seed)
    units = 10.0 ** rng.integers(-3, 4, size=p)
    X = table(kind, n, p, rng) * units
    y = response("noisy", X / units, rng)
    frame, nominal = pd.DataFrame(X), ()
    if category and standardize != "rank":  # a difference of ranks can weigh like a level, but for the last bit
        codes = rng.permutation(np.arange(n) % 4)
        X[:, 0], nominal = codes, (0,)
        frame[0] = pd.Categorical(np.array(["d", "a", "c", "b"])[codes])
    frame.columns = [f"c{k}" for k in range(p)]
    call = {"stop": False, "standardize": standardize, "n_neighbors": n_neighbors}
    exact = reference.foci(X, y, nominal=nominal, **call)
    assert_same_path(foci(frame, y, **call), exact)


@pytest.mark.parametrize("kind", ["continuous", "lattice", "binary", "duplicated"])
@pytest.mark.parametrize("n_neighbors", [1, 5])
def test_larger_table_equals_slow_selection(kind, n_neighbors, global_random_seed):
    rng = np.random.default_rng([global_random_seed, 1])
    X = table(kind, 300, 12, rng)
    y = response("noisy", X, rng)
    call = {"n_neighbors": n_neighbors, "standardize": None}
    exact = reference.foci(X, y, **call)
    assert_same_path(foci(X, y, **call), exact)
    everything = reference.foci(X, y, stop=False, max_features=8, **call)
    assert_same_path(foci(X, y, stop=False, max_features=8, **call), everything)


@given(
    p=st.integers(2, 6),
    kind=st.sampled_from(["continuous", "lattice"]),
    stop=st.booleans(),
    data=st.data(),
)
def test_include_equals_slow_selection(p, kind, stop, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    X = table(kind, 30, p, rng)
    y = response("noisy", X, rng)
    include = data.draw(st.lists(st.integers(0, p - 1), unique=True, min_size=1, max_size=p - 1))
    free = p - len(include)
    max_features = data.draw(st.none() | st.integers(1, free))
    call = {"stop": stop, "standardize": None, "max_features": max_features}
    path = foci(X, y, include=include, **call)
    assert_same_path(path, reference.foci(X, y, include=include, **call))
    assert set(path.include) == {f"x{k}" for k in include}
    assert not set(path.order.tolist()) & set(include)
    if not stop:
        assert len(path) == (max_features or free)


@pytest.mark.parametrize("kind", ["continuous", "lattice"])
@pytest.mark.parametrize("q", [2, 3])
def test_several_responses_equal_slow_selection(kind, q, global_random_seed):
    rng = np.random.default_rng([global_random_seed, q])
    X = table(kind, 30, 4, rng)
    Y = np.column_stack([response("noisy", np.roll(X, k, axis=1), rng) for k in range(q)])
    if kind == "lattice":
        Y = np.round(Y)
    for stop in (True, False):
        order, cumulative = reference.foci_responses(X, Y, stop=stop)
        path = foci(X, Y, standardize=None, stop=stop)
        assert path.order.tolist() == order
        np.testing.assert_allclose(path.cumulative, np.array(cumulative, float), **CLOSE)
        before = np.array([0, *cumulative[:-1]], float)[: len(order)]
        gain = (path.cumulative - before) / (1 - before)
        np.testing.assert_allclose(path.conditional, gain, rtol=0, atol=1e-11)


def test_values_are_those_of_codec(global_random_seed):
    # Cumulative and conditional T of a path are codec() on the columns in that order.
    rng = np.random.default_rng([global_random_seed, 2])
    X = rng.normal(size=(120, 5))
    y = response("noisy", X, rng)
    path = foci(X, y, standardize=None, stop=False)
    for k, j in enumerate(path.order):
        before = X[:, path.order[:k]] if k else None
        now = codec.codec(y, X[:, path.order[: k + 1]])
        assert path.cumulative[k] == pytest.approx(now, rel=0, abs=1e-12)
        step = codec.codec(y, X[:, j], given=before)
        assert path.conditional[k] == pytest.approx(step, rel=0, abs=1e-12)


def test_recovers_the_features_of_y(global_random_seed):
    # Y is a function of columns 1, 4 and 6 of eight; n is large enough for any seed.
    rng = np.random.default_rng([global_random_seed, 3])
    X = rng.uniform(-1, 1, size=(3000, 8))
    y = 2 * X[:, 4] + X[:, 1] * X[:, 6]
    assert set(foci(X, y, n_neighbors=5).order.tolist()) == {1, 4, 6}


# ------------------------------------------------------------------ equal scores, ties


def test_equal_scores_take_the_smallest_index():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 80))
    y = a + b**2 + 0.1 * rng.normal(size=80)
    X = np.column_stack([b, -a, a, a, 2 * a, 1 - b])
    path = foci(X, y)
    assert path.order.tolist()[:2] == foci(X[:, :2], y).order.tolist()
    assert set(path.order.tolist()[:2]) == {0, 1}
    reverse = foci(X[:, ::-1], y)
    assert set(reverse.order.tolist()[:2]) == {0, 1}


@pytest.mark.parametrize("n_neighbors", [1, 3])
def test_equal_scores_with_ties_take_the_smallest_index(n_neighbors):
    # The same categories under other names: the same neighbours in another row order.
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 7, size=210)
    y = codes % 3 + rng.normal(size=210)
    X = pd.DataFrame({f"c{k}": pd.Categorical(rng.permutation(7)[codes]) for k in range(6)})
    path = foci(X, y, n_neighbors=n_neighbors)
    assert path.order.tolist() == [0]


@pytest.mark.slow
def test_equal_sums_of_different_fractions_are_equal():
    # Cells of 4, 5, 7, ... rows give thirds, quarters, sixths: scores of unlike columns whose
    # fractions add up to the same number. Exactly equal ones must not be told apart.
    rng = np.random.default_rng(19)
    n = 14
    y = rng.permutation(n).astype(float)
    value, _, _ = reference.agreement(y)
    seen, n_pairs = {}, 0
    for _ in range(3000):
        column = np.sort(rng.integers(0, 3, size=n))[rng.permutation(n)].astype(float)
        if np.ptp(column) == 0:
            continue
        score = reference.mean_agreement(value, reference.distances(reference.columns_of(column)))
        other = seen.setdefault(score, column)
        if score.denominator == 1 or np.array_equal(np.argsort(other), np.argsort(column)):
            continue
        n_pairs += 1
        for pair in ([column, other], [other, column]):
            path = foci(np.column_stack(pair), y, stop=False, max_features=1)
            assert path.order.tolist() == [0]
    assert n_pairs > 100


def test_a_column_twice_is_never_chosen_twice():
    rng = np.random.default_rng(6)
    a = rng.normal(size=100)
    assert foci(np.column_stack([a, a]), a + 0.1 * rng.normal(size=100)).order.tolist() == [0]


@given(
    kind=st.sampled_from(["continuous", "lattice", "binary", "duplicated"]),
    standardize=st.sampled_from(["scale", "bounded", "rank", None]),
    n_neighbors=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**32 - 1),
)
def test_row_order_is_irrelevant(kind, standardize, n_neighbors, seed):
    # Also under "scale": a standard deviation summed in another order must not make
    # or break ties between columns that have the same values.
    rng = np.random.default_rng(seed)
    X = table(kind, 40, 4, rng)
    X[:, 3] = rng.permutation(X[:, 2])
    y = response("counts", X, rng)
    order = rng.permutation(40)
    call = {"stop": False, "standardize": standardize, "n_neighbors": n_neighbors}
    reference.assert_identical(foci(X[order], y[order], **call), foci(X, y, **call))


def test_random_ties_follow_the_seed(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 7])
    X = table("lattice", 60, 4, rng)
    y = response("noisy", X, rng)
    call = {"ties": "random", "stop": False}
    first = foci(X, y, rng=3, **call)
    reference.assert_identical(first, foci(X, y, rng=3, **call))
    reference.assert_identical(first, foci(X, y, rng=np.random.default_rng(3), **call))
    reference.assert_identical(first, foci(X, y, rng=3, n_jobs=2, **call))
    others = [tuple(foci(X, y, rng=seed, **call).cumulative) for seed in range(5)]
    assert len(set(others)) > 1


# -------------------------------------------------------------------- standardization


def test_standardize_is_what_it_says(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 8])
    X = rng.normal(size=(90, 5)) * [1, 10, 0.01, 1e4, 3] + [0, 5, 1, -9, 2]
    y = X[:, 0] + X[:, 1] / 10 + X[:, 2] * 100 * rng.normal(size=90)
    by_hand = {
        "scale": (X - X.mean(axis=0)) / X.std(axis=0, ddof=1),
        "bounded": (X - X.min(axis=0)) / np.ptp(X, axis=0),
        "rank": X.argsort(axis=0).argsort(axis=0) + 1.0,
        None: X,
    }
    paths = {}
    for how, table in by_hand.items():
        paths[how] = foci(X, y, standardize=how, stop=False)
        reference.assert_identical(paths[how], foci(table, y, standardize=None, stop=False))
    assert foci(X, y, stop=False).order.tolist() == paths["scale"].order.tolist()
    distinct = {tuple(path.cumulative) for path in paths.values()}
    assert len(distinct) == 4


@pytest.mark.parametrize("standardize", ["scale", "bounded", "rank", None])
def test_two_level_category_weighs_like_its_indicator(standardize):
    rng = np.random.default_rng(9)
    flag = rng.random(100) < 0.2
    X = pd.DataFrame(rng.normal(size=(100, 3)), columns=list("abc"))
    y = X.a * np.where(flag, 1, -1) + 0.1 * rng.normal(size=100)
    text = X.assign(f=pd.Categorical(np.where(flag, "yes", "no")))
    call = {"standardize": standardize, "stop": False}
    reference.assert_identical(foci(text, y, **call), foci(X.assign(f=flag), y, **call))


# -------------------------------------------------------------------- stopping, limits


def test_stops_before_the_step_that_adds_nothing():
    rng = np.random.default_rng(10)
    X = rng.normal(size=(200, 6))
    y = X[:, 3] + 0.2 * rng.normal(size=200)
    short, full = foci(X, y), foci(X, y, stop=False)
    k = len(short)
    assert 1 <= k < 6
    assert full.order.tolist()[:k] == short.order.tolist()
    assert full.cumulative[k] <= full.cumulative[k - 1]
    assert np.all(np.diff(short.cumulative) > 0)
    assert len(full) == 6
    assert np.all(short.conditional > 0)


def test_max_features_cuts_the_path():
    rng = np.random.default_rng(11)
    X = rng.normal(size=(80, 5))
    y = response("noisy", X, rng)
    full = foci(X, y, stop=False)
    for k in range(1, 6):
        path = foci(X, y, stop=False, max_features=k)
        assert path.order.tolist() == full.order.tolist()[:k]
        np.testing.assert_array_equal(path.cumulative, full.cumulative[:k])
    assert len({path.stopped for path in (full, foci(X, y, max_features=1))}) == 2


def test_nothing_to_find():
    # One increasing column, an alternating y: every neighbour disagrees, T < 0.
    x = np.arange(20.0)
    path = foci(x[:, None], np.tile([0.0, 1.0], 10) + x / 1000)
    assert len(path) == 0
    assert path.order.shape == path.cumulative.shape == path.conditional.shape == (0,)
    assert path.names == ()
    assert path.stopped
    assert len(path.to_frame()) == 0
    assert repr(path).startswith(
        "FOCI: 0 of 1 features (n = 20)\nnothing selected\nStopped: no single feature has T > 0"
    )
    assert "0 of 1 features" in path._repr_html_()


def test_a_function_of_the_chosen_leaves_nothing():
    # T = 1 after the first step: stop=True ends there; the rest has nothing to explain.
    x = np.tile(np.arange(4.0), 10)
    X = np.column_stack([np.repeat([0.0, 1.0], 20), x])
    y = x**2
    path = foci(X, y)
    assert path.order.tolist() == [1]
    assert path.cumulative.tolist() == [1.0]
    full = foci(X, y, stop=False)
    assert full.order.tolist() == [1, 0]
    assert full.cumulative.tolist() == [1.0, 1.0]
    assert math.isnan(full.conditional[1])


# -------------------------------------------------------------------------- same bits


@pytest.fixture(scope="module")
def mixed():
    """A table of 12 columns of all kinds, larger than what joblib sends by memmap."""
    rng = np.random.default_rng(13)
    n = 12_000
    X = pd.DataFrame(rng.normal(size=(n, 9)), columns=[f"g{k}" for k in range(9)])
    X["levels"] = pd.Categorical(rng.choice(list("uvw"), n))
    X["count"] = rng.poisson(2, n)
    X["flag"] = rng.random(n) < 0.5
    y = X.g0 * X.g1 + X["count"] + (X.levels == "u")
    return X, y


def small(mixed):
    X, y = mixed
    return X.iloc[:400], y.iloc[:400]


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
@pytest.mark.parametrize("select", [foci, lfoci])
def test_same_bits_for_any_n_jobs(select, n_jobs, mixed):
    X, y = small(mixed)
    call = {"rng": 5, "stop": False, "max_features": 4, "n_neighbors": 3}
    alone = select(X, y, **call)
    reference.assert_identical(select(X, y, n_jobs=n_jobs, **call), alone)


@pytest.mark.parametrize("backend", ["threading", "loky", "sequential"])
@pytest.mark.parametrize("select", [foci, lfoci])
def test_same_bits_for_joblib_backends(select, backend, mixed):
    X, y = small(mixed)
    call = {"rng": 5, "stop": False, "max_features": 3}
    alone = select(X, y, **call)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        reference.assert_identical(select(X, y, **call), alone)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="the kernels run as Python")
@pytest.mark.slow
def test_same_bits_when_loky_sends_memmaps(mixed):
    # Above 1 MB joblib hands arrays to its processes as read-only memmaps.
    X, y = mixed
    call = {"max_features": 2}
    alone = foci(X, y, **call)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        reference.assert_identical(foci(X, y, **call), alone)


def test_same_bits_on_dask(mixed):
    distributed = pytest.importorskip("distributed")
    X, y = small(mixed)
    call = {"rng": 5, "stop": False, "max_features": 3}
    cluster = {
        "processes": False,
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": ":0",
    }
    with distributed.LocalCluster(**cluster) as local, distributed.Client(local):
        for select in (foci, lfoci):
            alone = select(X, y, **call)
            with joblib.parallel_config(backend="dask"):
                reference.assert_identical(select(X, y, **call), alone)


# ------------------------------------------------------------------------------ lfoci


def test_lfoci_without_ties_is_foci(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 14])
    X = rng.normal(size=(100, 5))
    y = response("noisy", X, rng)
    a, b = lfoci(X, y, stop=False, noise=0.3, rng=0), foci(X, y, stop=False)
    assert a.order.tolist() == b.order.tolist()
    np.testing.assert_allclose(a.cumulative, b.cumulative, **CLOSE)


def test_lfoci_follows_the_seed():
    rng = np.random.default_rng(15)
    X = table("lattice", 80, 4, rng)
    y = response("counts", X, rng)
    first = lfoci(X, y, stop=False, rng=1)
    reference.assert_identical(first, lfoci(X, y, stop=False, rng=1))
    reference.assert_identical(first, lfoci(X, y, stop=False, rng=np.random.SeedSequence(1)))
    values = {tuple(lfoci(X, y, stop=False, rng=k).cumulative) for k in range(4)}
    assert len(values) == 4


def test_lfoci_finds_discrete_features(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 16])
    X = rng.integers(0, 3, size=(2000, 6))
    y = 3 * X[:, 1] + X[:, 4] + rng.normal(scale=0.3, size=2000)
    path = lfoci(X, y, rng=global_random_seed, n_neighbors=5)
    assert path.order.tolist()[:2] == [1, 4]
    # Every column in another unit: noise follows the column's sd
    units = 2.0 ** np.array([3, -5, 0, 9, -20, 4])
    again = lfoci(X * units, y, rng=global_random_seed, n_neighbors=5)
    reference.assert_identical(path, again)


# ---------------------------------------------------------------------------- nominal y


def test_nominal_y_in_every_form():
    rng = np.random.default_rng(17)
    X = rng.normal(size=(120, 4))
    codes = np.digitize(X[:, 2], [-0.5, 0.5]) * 2 % 3
    text = np.array(["m", "k", "z"])[codes]
    exact = reference.foci(X, codes, nominal_y=True)
    assert 2 in exact.order
    for y in (text, text.astype(object), pd.Series(text), pd.Categorical(text), pl.Series(text)):
        assert_same_path(foci(X, y), exact)
    assert_same_path(foci(X, codes, nominal_y=True), exact)
    assert_same_path(foci(X, codes), reference.foci(X, codes))


def test_arguments_are_left_alone():
    rng = np.random.default_rng(18)
    X = rng.normal(size=(50, 3))
    y = rng.integers(0, 3, 50)
    frame = pd.DataFrame({"a": X[:, 0], "b": pd.Categorical(y), "c": X[:, 1]})
    copies = X.copy(), y.copy(), frame.copy(deep=True)
    include = [1]
    for select in (foci, lfoci):
        select(X, y, include=include, rng=0)
        select(frame, y, include=["b"], rng=0)
    np.testing.assert_array_equal(X, copies[0])
    np.testing.assert_array_equal(y, copies[1])
    pd.testing.assert_frame_equal(frame, copies[2])
    assert include == [1]


@settings(max_examples=25)
@given(n=st.integers(3, 6), p=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_smallest_tables(n, p, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    y = rng.permutation(n)
    for stop in (True, False):
        exact = reference.foci(X, y, stop=stop)
        assert_same_path(foci(X, y, stop=stop), exact)


def test_integers_are_positions_also_where_labels_are_integers():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 3)), columns=[2, 0, 1])
    y = X[2] + X[1]
    assert foci(X, y, include=[2], max_features=1).include == ("1",)
    assert foci(X, y, include=["2"], max_features=1).include == ("2",)
