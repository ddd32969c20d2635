"""MarkovBlanketSelector: scikit-learn's contract, frames, names, and the function below it."""

import doctest
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from codec import MarkovBlanketSelector, fisher_z, foci, lfoci


@parametrize_with_checks(
    [
        MarkovBlanketSelector(random_state=0),
        MarkovBlanketSelector(random_state=0, screen=False, allow_nan=True),
        MarkovBlanketSelector("foci"),
        MarkovBlanketSelector("lfoci", random_state=0),
        MarkovBlanketSelector("foci", n_neighbors=3, standardize="rank"),
        MarkovBlanketSelector("foci", stop=False, max_features=1, standardize="bounded", n_jobs=2),
    ]
)
def test_scikit_learn_contract(estimator, check):
    # Every check, none expected to fail. Small checks give X without any relation to y,
    # where an empty selection is right and scikit-learn's own warning belongs to it.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No features were selected")
        check(estimator)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 6)), columns=list("abcdef"))
    return X, X.b**2 + X.e + 0.05 * rng.normal(size=300)


@pytest.fixture
def mixed():
    """A frame of floats, counts, flags, an ordered and an unordered category."""
    rng = np.random.default_rng(1)
    n = 400
    grade = pd.Categorical.from_codes(rng.integers(0, 3, n), ["low", "mid", "high"], ordered=True)
    X = pd.DataFrame(
        {
            "size": rng.normal(size=n),
            "count": rng.poisson(3, n),
            "flag": rng.random(n) < 0.5,
            "grade": grade,
            "colour": pd.Categorical(rng.choice(["red", "green", "blue"], n)),
            "fixed": 7.0,
            "one": pd.Categorical(["same"] * n),
        }
    )
    y = np.where(X.colour == "red", 4.0, 0.0) + X.grade.cat.codes + 0.1 * rng.normal(size=n)
    return X, y


# ----------------------------------------------------------- the function and what is learned


@pytest.mark.parametrize("method", ["foci", "lfoci"])
def test_is_the_function(method, data):
    X, y = data
    X = X.round(1)
    options = {"max_features": 4, "stop": False, "standardize": "bounded", "n_neighbors": 3}
    selector = MarkovBlanketSelector(method, random_state=5, always_include=["f"], **options).fit(X, y)
    select = foci if method == "foci" else lfoci
    path = select(X, y, rng=5, include=["f"], **options)
    np.testing.assert_array_equal(selector.path_.order, path.order)
    np.testing.assert_array_equal(selector.path_.cumulative, path.cumulative)
    assert selector.path_.method == method
    assert sorted(selector.blanket_.tolist()) == sorted([5, *path.order.tolist()])
    assert np.flatnonzero(selector.support_).tolist() == sorted(selector.blanket_.tolist())
    np.testing.assert_array_equal(selector.scores_[path.order], path.conditional)
    rest = np.setdiff1d(np.arange(6), path.order)
    assert np.all(selector.scores_[rest] == 0)


def test_defaults_are_foci_by_scale(data):
    X, y = data
    selector = MarkovBlanketSelector("foci").fit(X, y)
    path = foci(X, y)
    assert selector.blanket_.tolist() == path.order.tolist()
    assert set(selector.blanket_.tolist()) == {1, 4}
    assert isinstance(selector, SelectorMixin)
    assert selector.n_features_in_ == 6
    assert selector.feature_names_in_.tolist() == list("abcdef")
    assert selector.support_.dtype == bool
    assert selector.get_support().tolist() == [False, True, False, False, True, False]
    assert selector.get_support(indices=True).tolist() == [1, 4]
    assert selector.scores_.shape == (6,)


@pytest.mark.parametrize("answer", [("a", "b"), (np.ones(2), np.ones(2)), 0.5, (1.0, 2.0)])
def test_a_test_that_returns_no_pvalue_is_refused(data, answer):
    with pytest.raises(ValueError, match=r"^test .*return \(statistic, pvalue\)"):
        MarkovBlanketSelector(test=lambda *_: answer).fit(*data)


def test_fit_returns_self_and_starts_anew(data):
    X, y = data
    selector = MarkovBlanketSelector("foci", max_features=1)
    assert selector.fit(X, y) is selector
    first = selector.blanket_.copy()
    selector.fit(X.iloc[:, ::-1].set_axis(list("uvwxyz"), axis=1), y)
    assert selector.feature_names_in_.tolist() == list("uvwxyz")
    selector.fit(X, y)
    assert selector.blanket_.tolist() == first.tolist()


def test_not_fitted():
    X = np.ones((3, 2))
    for method in ("transform", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(MarkovBlanketSelector("foci"), method)(X)
    with pytest.raises(NotFittedError):
        MarkovBlanketSelector("foci").get_support()


def test_nothing_is_left_of_a_fit_when_the_next_one_fails(data):
    X, y = data
    selector = MarkovBlanketSelector("foci").fit(X, y)
    with pytest.raises(ValueError, match="y is constant"):
        selector.fit(X[["a", "b"]], np.ones(300))
    for ask in (selector.get_feature_names_out, selector.get_support, lambda: selector.transform(X[["a", "b"]])):
        with pytest.raises(NotFittedError):
            ask()
    assert not hasattr(selector, "path_")
    with pytest.raises(ValueError, match="method"):
        selector.fit(X, y).set_params(method="none").fit(X, y)
    assert not hasattr(selector, "n_features_in_")


def test_a_fit_without_stability_has_none_left(data):
    X, y = data
    selector = MarkovBlanketSelector(random_state=0, stability={"n_subsamples": 2}).fit(X[:40], y[:40])
    assert selector.stability_.n_subsamples == 2
    selector.set_params(method="foci", stability=None).fit(X, y)
    assert not hasattr(selector, "stability_")


def test_parameters_are_stored_as_given():
    include = ["a"]
    selector = MarkovBlanketSelector("foci", always_include=include, standardize=None, n_jobs=3, random_state=1)
    assert selector.always_include is include
    assert selector.get_params()["n_jobs"] == 3
    copy = clone(selector)
    assert copy.get_params() == selector.get_params()
    assert copy.always_include is not None


@pytest.mark.parametrize("method", ["foci", "lfoci"])
def test_random_state(method, data):
    X, y = data
    X = X.round()
    for state in (3, np.random.RandomState(3), np.random.default_rng(3)):
        MarkovBlanketSelector(method, random_state=state).fit(X, y)
    fit = MarkovBlanketSelector(method, random_state=3, stop=False)
    first = fit.fit(X, y).path_.cumulative
    np.testing.assert_array_equal(fit.fit(X, y).path_.cumulative, first)
    np.testing.assert_array_equal(clone(fit).fit(X, y).path_.cumulative, first)
    other = clone(fit).set_params(random_state=4).fit(X, y).path_.cumulative
    assert np.array_equal(other, first) == (method == "foci")


# -------------------------------------------------------------------- names and containers


def test_names_out(data):
    X, y = data
    selector = MarkovBlanketSelector("foci").fit(X, y)
    assert selector.get_feature_names_out().tolist() == ["b", "e"]
    plain = MarkovBlanketSelector("foci").fit(X.to_numpy(), y)
    assert plain.get_feature_names_out().tolist() == ["x1", "x4"]
    assert plain.get_feature_names_out(list("uvwxyz")).tolist() == ["v", "y"]
    assert not hasattr(plain, "feature_names_in_")
    with pytest.raises(ValueError, match="feature names"):
        selector.transform(X.rename(columns={"a": "other"}))


def test_numbers_as_column_names(data):
    X, y = data
    selector = MarkovBlanketSelector("foci").fit(X.set_axis(range(6), axis=1), y)
    assert selector.blanket_.tolist() == foci(X, y).order.tolist()
    assert not hasattr(selector, "feature_names_in_")


@pytest.mark.parametrize("labels", [["u", "v"], ["1", "2"]])
def test_transform_of_nullable_numbers_beside_a_category(labels):
    rng = np.random.default_rng(0)
    x, whole, tick = rng.standard_normal(40), rng.integers(0, 50, 40), rng.random(40) < 0.5
    colour = rng.choice(labels, 40)
    X = pd.DataFrame({
        "x": pd.array([pd.NA, *x[1:]], dtype="Float64"), "whole": pd.array([*whole[:-1], pd.NA], dtype="Int64"),
        "tick": pd.array(tick, dtype="boolean"), "colour": pd.Categorical(colour),
    })  # fmt: skip
    y = np.where(rng.random(40) < 0.5, x, rng.standard_normal(40))
    selector = MarkovBlanketSelector(always_include=list(X), allow_nan=True, screen=False, random_state=0).fit(X, y)
    found = selector.transform(X)
    assert isinstance(found, np.ndarray)
    expected = pd.DataFrame({"x": [np.nan, *x[1:]], "whole": [*whole[:-1], np.nan], "tick": 1.0 * tick})
    np.testing.assert_array_equal(found[:, :3].astype(float), expected.to_numpy())
    assert found[:, 3].tolist() == colour.tolist()
    assert selector.set_output(transform="pandas").transform(X).dtypes.equals(X.dtypes)


def test_transform_keeps_the_columns(data):
    X, y = data
    selector = MarkovBlanketSelector("foci")
    np.testing.assert_array_equal(selector.fit_transform(X, y), X[["b", "e"]])
    np.testing.assert_array_equal(selector.transform(X.iloc[:7]), X[["b", "e"]].iloc[:7])
    back = selector.inverse_transform(selector.transform(X))
    np.testing.assert_array_equal(back[:, [1, 4]], X[["b", "e"]])
    assert np.all(back[:, [0, 2, 3, 5]] == 0)


def with_gaps(X, **options):
    """X with missing values in every column, and a selector of two of the columns that accepts them."""
    X = X.mask(np.random.default_rng(0).random(X.shape) < 0.1)
    options = {"always_include": [1, 4], "max_features": 1, "allow_nan": True, "random_state": 0, **options}
    y = np.random.default_rng(1).standard_normal(len(X))
    return X, MarkovBlanketSelector(**options).fit(X, y)


def test_inverse_transform_keeps_missing_values(data):
    X, selector = with_gaps(data[0], alpha=1e-9)
    kept = X[["b", "e"]].to_numpy()
    assert np.isnan(kept).any()
    tables = [kept, pd.DataFrame(kept, columns=["b", "e"]), pd.DataFrame(kept).astype("Float64"), pl.DataFrame(kept)]
    for table in [selector.transform(X), *tables]:
        back = selector.inverse_transform(table)
        np.testing.assert_array_equal(back[:, [1, 4]], kept)
        assert back.shape == X.shape
        assert np.all(back[:, [0, 2, 3, 5]] == 0)
    for output in ("pandas", "polars"):
        shown = selector.set_output(transform=output).transform(X)
        np.testing.assert_array_equal(selector.inverse_transform(shown)[:, [1, 4]], kept)
    with pytest.raises(ValueError, match="X has a different shape"):
        selector.inverse_transform(kept[:, :1])
    with pytest.raises(ValueError, match="infinity"):
        selector.inverse_transform(np.full((3, 2), np.inf))
    with pytest.raises(NotFittedError):
        clone(selector).inverse_transform(kept)
    strict = MarkovBlanketSelector("foci").fit(*data)
    with pytest.raises(ValueError, match="contains NaN"):
        strict.inverse_transform(kept)


def test_inverse_transform_of_numbers_beside_a_category_with_missing_values(mixed):
    X, selector = with_gaps(mixed[0][["size", "grade", "colour"]], always_include=["size", "colour"])
    chosen = selector.transform(X)
    back = selector.inverse_transform(chosen)
    assert back.shape == X.shape
    pd.testing.assert_frame_equal(pd.DataFrame(back[:, selector.support_]), pd.DataFrame(chosen))
    assert (back[:, ~selector.support_] == 0).all()


def test_set_output(data):
    X, y = data
    chosen = MarkovBlanketSelector("foci").set_output(transform="pandas").fit(X, y).transform(X)
    pd.testing.assert_frame_equal(chosen, X[["b", "e"]])
    chosen = MarkovBlanketSelector("foci").set_output(transform="polars").fit(X, y).transform(X)
    assert isinstance(chosen, pl.DataFrame)
    assert chosen.columns == ["b", "e"]
    np.testing.assert_array_equal(chosen.to_numpy(), X[["b", "e"]])
    frame = pl.from_pandas(X)
    selector = MarkovBlanketSelector("foci").set_output(transform="polars").fit(frame, pl.Series(y))
    assert selector.transform(frame).columns == ["b", "e"]


def test_polars_frames_keep_their_types(mixed):
    X, y = mixed
    X = pl.from_pandas(X.drop(columns="grade"))
    selector = MarkovBlanketSelector("foci", n_neighbors=5).set_output(transform="polars").fit(X, y)
    chosen = selector.transform(X)
    assert "colour" in chosen.columns
    assert chosen.equals(X.select(chosen.columns))
    assert chosen.schema == X.select(chosen.columns).schema
    as_pandas = selector.set_output(transform="pandas").transform(X)
    assert as_pandas["colour"].dtype == "category"
    assert all(dtype.kind in "bif" for name, dtype in as_pandas.dtypes.items() if name != "colour")
    assert as_pandas.to_numpy().tolist() == [list(row) for row in chosen.rows()]
    with pytest.raises(ValueError, match="feature names should match"):
        selector.transform(X.rename({"colour": "paint"}))


def test_mixed_frame(mixed):
    X, y = mixed
    selector = MarkovBlanketSelector("foci", n_neighbors=5).set_output(transform="pandas").fit(X, y)
    chosen = selector.transform(X)
    assert set(X.columns[selector.blanket_[:2]]) == {"grade", "colour"}
    assert chosen.columns.tolist() == X.columns[selector.support_].tolist()
    for name in chosen:
        pd.testing.assert_series_equal(chosen[name], X[name])
    assert selector.n_features_in_ == 7


def test_names_of_several_columns_are_refused_on_the_way(mixed):
    X, y = mixed
    selector = MarkovBlanketSelector("foci").fit(X, y)
    twice = pd.concat([X, X.iloc[:, :1]], axis=1)
    with pytest.raises(ValueError, match=f"X has several columns called '{X.columns[0]}'"):
        selector.transform(twice)


@pytest.mark.parametrize("screen", [True, "all", 2.0, None])
def test_what_a_screen_can_be_is_said(screen):
    with pytest.raises(TypeError, match=r"screen is .*; it must be 'auto', an integer or False\."):
        MarkovBlanketSelector(screen=screen).fit(np.eye(9), np.arange(9.0))


def test_polars_frame_is_the_pandas_frame(mixed):
    X, y = mixed
    options = {"stop": False, "n_neighbors": 3}
    X = X.drop(columns="grade")  # polars 1-to-1: an Enum is a category
    pandas = MarkovBlanketSelector("foci", **options).fit(X, y)
    polars = MarkovBlanketSelector("foci", **options).fit(pl.from_pandas(X), pl.Series(np.asarray(y)))
    assert polars.path_.names == pandas.path_.names
    np.testing.assert_array_equal(polars.path_.cumulative, pandas.path_.cumulative)
    assert polars.get_feature_names_out().tolist() == pandas.get_feature_names_out().tolist()


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_one_column_alone_is_no_table(library):
    with pytest.raises(ValueError, match=r"X is a Series\. Expected 2D array.* pass a frame, X\.to_frame\(\)"):
        MarkovBlanketSelector().fit(
            library.Series("a", np.arange(30.0)) if library is pl else pd.Series(range(30)), [0]
        )


@pytest.mark.parametrize("value", [{"q": 1}, [1, 2]])
def test_records_and_lists_of_polars_are_named(value):
    X = pl.DataFrame({"a": np.arange(30.0), "odd": [value] * 30})
    with pytest.raises(TypeError, match="column 'odd' of X holds objects such as "):
        MarkovBlanketSelector().fit(X, np.arange(30.0))


def test_constant_columns_are_left_out(mixed):
    X, y = mixed
    for standardize in ("scale", "bounded", "rank", None):
        selector = MarkovBlanketSelector("foci", stop=False, standardize=standardize).fit(X, y)
        assert not selector.support_[[5, 6]].any()
        assert selector.support_[:5].all()
        assert selector.n_features_in_ == 7
    without = MarkovBlanketSelector("foci", stop=False).fit(X.drop(columns=["fixed", "one"]), y)
    with_them = MarkovBlanketSelector("foci", stop=False).fit(X, y)
    assert without.path_.names == with_them.path_.names
    np.testing.assert_array_equal(without.path_.cumulative, with_them.path_.cumulative)


def test_only_constant_columns():
    X, y = np.ones((30, 3)), np.arange(30.0)
    selector = MarkovBlanketSelector("foci").fit(X, y)
    assert not selector.support_.any()
    assert len(selector.path_) == 0


def test_empty_selection_warns():
    x = np.arange(20.0)
    selector = MarkovBlanketSelector("foci").fit(x[:, None], np.tile([0.0, 1.0], 10))
    assert not selector.support_.any()
    assert selector.blanket_.shape == (0,)
    assert selector.blanket_.dtype.kind == "i"
    with pytest.warns(UserWarning, match="No features were selected"):
        assert selector.transform(x[:, None]).shape == (20, 0)


def test_inputs_are_not_modified(mixed):
    X, y = mixed
    before, target = X.copy(deep=True), np.array(y)
    for method in ("foci", "lfoci"):
        MarkovBlanketSelector(method, random_state=0).fit(X, y)
    pd.testing.assert_frame_equal(X, before)
    np.testing.assert_array_equal(y, target)
    array = X[["size", "count"]].to_numpy()
    copy = array.copy()
    array.flags.writeable = False
    MarkovBlanketSelector("lfoci", random_state=0).fit(array, y)
    np.testing.assert_array_equal(array, copy)


# ----------------------------------------------------------------------------- responses


def test_classes(data):
    X, _ = data
    y = np.where(X.b > 0.5, "high", np.where(X.e > 0, "mid", "low"))
    selector = MarkovBlanketSelector("foci").fit(X, y)
    assert selector.blanket_.tolist() == foci(X, y).order.tolist()
    codes = np.unique(y, return_inverse=True)[1]
    nominal = MarkovBlanketSelector("foci", nominal_y=True).fit(X, codes)
    np.testing.assert_array_equal(nominal.path_.cumulative, selector.path_.cumulative)


def test_several_responses(data):
    X, y = data
    Y = np.column_stack([y, X.c])
    selector = MarkovBlanketSelector("foci", stop=False).fit(X, Y)
    path = foci(X, Y, stop=False)
    assert selector.blanket_.tolist() == path.order.tolist()
    np.testing.assert_array_equal(selector.path_.cumulative, path.cumulative)


def test_column_vector_y(data):
    X, y = data
    selector = MarkovBlanketSelector("foci").fit(X, np.asarray(y)[:, None])
    assert selector.blanket_.tolist() == foci(X, y).order.tolist()


# ------------------------------------------------------------------------------ together


def test_pipeline(data):
    X, y = data
    pipeline = make_pipeline(
        SimpleImputer(), StandardScaler(), MarkovBlanketSelector("foci"), RandomForestRegressor(20, random_state=0)
    )
    pipeline.fit(X.mask(np.eye(len(X), 6, dtype=bool)), y)
    assert pipeline[:-1].get_feature_names_out().tolist() == ["b", "e"]
    assert pipeline.score(X, y) > 0.8


def test_cross_validation_and_search():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    pipeline = make_pipeline(MarkovBlanketSelector("foci"), DecisionTreeClassifier(random_state=0))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.85
    grid = {"markovblanketselector__max_features": [1, 3], "markovblanketselector__n_neighbors": [1, 10]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    best = search.best_estimator_[0]
    assert best.support_.sum() <= 3


def test_pickle_and_clone(mixed):
    X, y = mixed
    selector = MarkovBlanketSelector("lfoci", random_state=2, n_neighbors=3).fit(X, y)
    again = pickle.loads(pickle.dumps(selector))
    np.testing.assert_array_equal(again.blanket_, selector.blanket_)
    np.testing.assert_array_equal(again.path_.seconds, selector.path_.seconds)
    assert again.path_.names == selector.path_.names
    assert again.get_feature_names_out().tolist() == selector.get_feature_names_out().tolist()
    copy = clone(selector)
    assert not hasattr(copy, "support_")
    assert copy.fit(X, y).blanket_.tolist() == selector.blanket_.tolist()


def test_representation(data):
    X, y = data
    selector = MarkovBlanketSelector("foci", n_neighbors=3)
    assert repr(selector) == "MarkovBlanketSelector(method='foci', n_neighbors=3)"
    assert "MarkovBlanketSelector" in selector.fit(X, y)._repr_html_()


@pytest.mark.slow  # half a minute of fits
def test_examples_of_the_page_give_what_they_show():
    page = Path(__file__).parents[1] / "docs" / "selection.rst"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, run = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert run > 30
    assert failed == 0


# -------------------------------------------------------------------------------- same bits


def assert_same_fit(a, b):
    for name in ("support_", "blanket_", "scores_"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.path_.cumulative, b.path_.cumulative)


@pytest.mark.parametrize("method", ["foci", "lfoci"])
def test_same_bits_for_any_n_jobs(method, mixed):
    X, y = mixed
    options = {"method": method, "stop": False, "random_state": 1, "n_neighbors": 2}
    alone = MarkovBlanketSelector(**options).fit(X, y)
    for n_jobs in (1, 2, -1):
        assert_same_fit(MarkovBlanketSelector(n_jobs=n_jobs, **options).fit(X, y), alone)


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("method", ["foci", "lfoci"])
def test_same_bits_for_joblib_backends(method, backend, mixed):
    X, y = mixed
    options = {"method": method, "max_features": 2, "random_state": 1}
    alone = MarkovBlanketSelector(**options).fit(X, y)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        assert_same_fit(MarkovBlanketSelector(**options).fit(X, y), alone)


def test_same_bits_on_dask(mixed):
    distributed = pytest.importorskip("distributed")
    X, y = mixed
    alone = MarkovBlanketSelector("foci", stop=False).fit(X, y)
    cluster = {"processes": False, "n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(**cluster) as local,
        distributed.Client(local),
        joblib.parallel_config(backend="dask"),
    ):
        assert_same_fit(MarkovBlanketSelector("foci", stop=False).fit(X, y), alone)


# ------------------------------------------------------------------- scikit-learn's callbacks
class Recorder:
    """What scikit-learn tells a callback."""

    def __init__(self):
        self.events = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name.partition(":")[0]))

    def on_fit_task_end(self, estimator, context):
        self.events.append(("end", context.task_name.partition(":")[0]))

    def teardown(self, estimator, context):
        self.events.append("teardown")


@pytest.mark.parametrize("method", ["foci", "auto"])
def test_callbacks_hear_of_every_step(method):
    pytest.importorskip("sklearn.callback")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    recorder = Recorder()
    selector = MarkovBlanketSelector(method=method, max_features=2 if method == "foci" else None, random_state=0)
    alone = selector.fit(X, X[:, 0] + X[:, 1]).blanket_
    assert "_callback_fit_ctx" not in vars(selector)
    assert selector.set_callbacks(recorder).fit(X, X[:, 0] + X[:, 1]).blanket_.tolist() == alone.tolist()
    steps = [f"step {k + 1}" for k in range(2)] if method == "foci" else []
    tasks = [event for step in steps for event in (("begin", step), ("end", step))]
    assert recorder.events == ["setup", ("begin", "fit"), *tasks, ("end", "fit"), "teardown"]
    with pytest.raises(ValueError, match="the target y is None"):
        selector.fit(X, None)
    assert recorder.events.count("setup") == recorder.events.count("teardown")


def test_searches_keep_signs_to_themselves_without_filters_of_warnings():
    """Filters belong to the whole process: threads that set and restore them leave those of others behind."""
    X = np.random.default_rng(0).standard_normal((60, 3))
    seen = []

    def test(y, z, given):
        seen.append([one[0] for one in warnings.filters])
        return fisher_z(2.0 * z, z, z)  # which warns, and warnings are errors here

    before = [one[0] for one in warnings.filters]
    MarkovBlanketSelector(test=test, random_state=0).fit(X, X[:, 0])
    assert seen
    assert all(one == before for one in seen)
    with pytest.warns(UserWarning, match="linear function of given"):
        test(None, X[:, 1], None)
