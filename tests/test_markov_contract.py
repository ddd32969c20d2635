"""The calibrated search as a selector: its errors, what it says about itself, same bits, scikit-learn."""

import ast
import inspect
import pickle
import re

import joblib
import numpy as np
import pandas as pd
import pytest
from markov_cases import chosen, fit, normal, same_fit
from marks import slowly
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from codec import MarkovBlanketSelector, fisher_z


# --------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": 1.0}, "alpha is 1.0; it must be below 1"),
        ({"screen": 0}, "screen"),
        ({"screen": "yes"}, "screen"),
        ({"symmetric": 1}, "symmetric"),
        ({"verbose": "no"}, "verbose"),
        ({"max_features": 0}, "max_features"),
        ({"max_features": 7}, "max_features"),
        ({"test": "fisher_z"}, "test is 'fisher_z'; it must be a function"),
        ({"groups": [[0, 1], [1, 2]]}, "column 'x1' in two groups"),
        ({"groups": [[]]}, "empty group"),
        ({"groups": [["z"]]}, "groups"),
        ({"always_include": ["z"]}, "always_include"),
        ({"split": 0.0}, "split"),
        ({"split": 0.95}, "each part needs at least 20"),
        ({"split": 1.5}, "split is 1.5; it must be below 1"),
        ({"stability": {"halves": 10}}, "stability is"),
        ({"stability": 100}, "stability is 100"),
        ({"stability": np.True_, "split": 0.5}, "stability and split"),
        ({"groups": ["x0", "x1"]}, "groups holds 'x0', which is no group; pass a list of lists"),
        ({"groups": 2}, "groups holds 2, which is no group"),
        ({"stability": {"threshold": 0.4}}, "threshold is 0.4"),
        ({"stability": {"threshold": "x"}}, "threshold is 'x'; it must be a number"),
        ({"stability": {"n_subsamples": 5}}, "must be even"),
        ({"stability": True, "split": 0.5}, "stability and split"),
        ({"n_neighbors": 5}, "n_neighbors is 5, but method is 'auto'; n_neighbors belongs to 'foci' or 'lfoci'"),
        ({"noise": 0.1}, "noise belongs to 'foci' or 'lfoci'"),
        ({"stop": False}, "stop belongs to"),
        ({"standardize": None}, "standardize belongs to"),
        ({"method": "foci", "alpha": 0.01}, "alpha belongs to 'auto'"),
        ({"method": "foci", "screen": False}, "screen belongs to 'auto'"),
        ({"method": "lfoci", "test": fisher_z}, "test belongs to 'auto'"),
        ({"method": "foci", "allow_nan": True}, "allow_nan belongs to 'auto'"),
        ({"method": "best"}, "method is 'best'"),
        ({"nominal_y": "yes"}, "nominal_y"),
        ({"random_state": "x"}, "random_state"),
        ({"random_state": -1}, "random_state is -1; pass None, an int from 0 on"),
        ({"always_include": [("x0", "x1")]}, "always_include names .*, which is no column of X"),
        ({"n_jobs": 0}, "n_jobs"),
    ],
)
def test_wrong_options_are_named(options, error, product):
    with pytest.raises((ValueError, TypeError), match=error):
        fit(*product, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "foci", "stability": False},
        {"method": "foci", "groups": []},
        {"method": "lfoci", "groups": ()},
        {"method": "foci", "allow_nan": np.False_},
        {"method": "foci", "alpha": np.float64(0.05)},
        {"method": "foci", "stability": np.False_},
        {"n_neighbors": np.int64(1)},
        {"stop": np.True_},
    ],
)
def test_options_of_another_method_may_have_their_defaults(options):
    X = normal(60, 2)
    same = fit(X, X[:, 0], method=options.get("method", "auto"))
    assert fit(X, X[:, 0], **options).blanket_.tolist() == same.blanket_.tolist()


@pytest.mark.parametrize(
    "options", [{"stability": True}, {"groups": [[0]]}, {"groups": False}, {"symmetric": np.True_}]
)
def test_options_of_another_method_may_have_no_other_values(options):
    X = normal(60, 2)
    with pytest.raises(ValueError, match="belongs to 'auto'"):
        fit(X, X[:, 0], method="foci", **options)


def test_flags_of_numpy_are_flags(product):
    X, y = product
    same_fit(fit(X, y, screen=np.False_), fit(X, y, screen=False))
    same_fit(fit(X, y, stability=np.False_), fit(X, y))
    assert fit(X, y, stability=np.True_, test=fisher_z, screen=False).stability_.n_subsamples == 100


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"n_subsamples": 7}, {"n_subsamples": 4.0}])
def test_wrong_halves_are_refused_before_the_search(options, product):
    def never(*_):
        raise AssertionError("the search has begun")

    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        fit(*product, test=never, stability=options)


def test_too_few_rows_for_halves_are_named():
    X = normal(6, 2)
    with pytest.raises(ValueError, match=r"stability is True for 6 rows; .* needs at least 8"):
        fit(X, X[:, 0], stability=True)
    eight = normal(8, 2)
    assert fit(eight, eight[:, 0], stability={"n_subsamples": 2}).stability_.subsample_size == 4


@pytest.mark.parametrize("method", ["auto", "foci"])
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            ["a", "b", "a", "c", "b", "a"],
            r"X has several columns called 'a', 'b'; every column needs a name of its own",
        ),
        ([0, 1, 2, 3, 3, 4], "columns called '3'"),
        ([("g", "a"), ("g", "b"), ("g", "a"), ("h", "a"), ("h", "b"), ("h", "c")], r"columns called \"\('g', 'a'\)\""),
        ([*"abcdefghi" * 2], "columns called 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', ...; every"),
    ],
)
def test_columns_of_equal_names_are_refused(labels, said, method):
    X = pd.DataFrame(normal(30, len(labels)), columns=labels)
    with pytest.raises(ValueError, match=said):
        fit(X, X.iloc[:, 0].to_numpy(), method=method)


def test_labels_of_several_levels_name_columns(product):
    X, y = product
    frame = pd.DataFrame(X, columns=pd.MultiIndex.from_product([["g", "h", "i"], ["a", "b"]]))
    options = {"always_include": [("g", "b")], "groups": [[("h", "a"), ("h", "b")]], "screen": False}
    by_place = fit(X, y, always_include=[1], groups=[[2, 3]], screen=False)
    np.testing.assert_array_equal(fit(frame, y, **options).scores_, by_place.scores_)


def test_wrong_data_are_named(product):
    X, y = product
    with pytest.raises(ValueError, match="y is constant: column 'y0' holds a single value"):
        fit(X, np.ones(150))
    with pytest.raises(ValueError, match="y is None"):
        fit(X, None)
    with pytest.raises(ValueError, match="X is None"):
        fit(None, y)
    bad = X.copy()
    bad[3, 2] = np.inf
    for allow_nan in (False, True):
        with pytest.raises(ValueError, match="infin"):
            fit(bad, y, allow_nan=allow_nan)
    with pytest.raises(ValueError, match=r"samples|rows"):
        fit(X, y[:-1])


def test_columns_beyond_single_precision_are_read(product):
    X, y = product
    scaled = X.copy()
    scaled[:, 1] *= 1e150
    scaled[:, 2] *= 1e-40
    assert chosen(scaled, y) == chosen(X, y) == [1, 4]


def test_inputs_are_not_modified(table):
    X, y = table
    before, target = X.copy(deep=True), y.copy()
    fit(X, y, groups=[["size", "weight"]], always_include=["shape"])
    pd.testing.assert_frame_equal(X, before)
    np.testing.assert_array_equal(y, target)


# --------------------------------------------------------------------------- what it says about itself
@pytest.mark.parametrize("options", [{}, {"screen": False}, {"always_include": [2]}, {"max_features": 1}])
def test_the_path_tells_the_whole_story(options, global_random_seed):
    X = normal(200, 8, global_random_seed)
    y = X[:, 1] * X[:, 4] + X[:, 6] + 0.3 * normal(200, 1, 1000 + global_random_seed)[:, 0]
    selector = fit(X, y, **options)
    path = selector.path_
    members, n_tests = [], 0
    for before, d in zip([None, *path.decisions[:-1]], path.decisions, strict=True):
        if d.action in {"screened", "entered"}:
            members.append(d.feature)
        elif d.action == "removed":
            members.remove(d.feature)
        if d.action in {"entered", "stopped"}:
            through_a_child = d.reason.startswith("another parent")
            one_step = before is not None and before.given == d.given  # several may enter in one
            n_tests += d.n_candidates * (not one_step or through_a_child or d.action == "stopped")
            assert d.feature < 0 or through_a_child or (d.pvalue <= path.alpha) == (d.action == "entered")
        elif d.action in {"kept", "removed"}:
            n_tests += 1
            assert d.feature not in d.given
            assert 0 < d.pvalue <= 1
    always = options.get("always_include", [])
    assert selector.blanket_.tolist() == [*always, *members] == list(path.members)
    assert n_tests <= selector.n_tests_ <= n_tests + len(always)  # always: one test each, in the end
    assert path.n_tests == selector.n_tests_
    selected = selector.support_
    assert (selector.scores_[members] > 0).all()
    assert (selector.scores_[~selected] == 0).all()
    assert np.isnan(selector.pvalues_[~selected]).all()
    others = [d for d in path.decisions if d.action == "kept" and d.feature in selector.blanket_]
    for v in set(members):  # what is learned is the last test of each member given all others
        last = [d for d in others if d.feature == v][-1]
        assert set(last.given) == set(selector.blanket_.tolist()) - {v}
        assert (selector.scores_[v], selector.pvalues_[v]) == (last.statistic, last.pvalue)


def test_the_path_shows_itself(table):
    X, y = table
    path = fit(X, y).path_
    frame = path.to_frame()
    assert len(frame) == len(path) == len(path.decisions)
    assert frame.columns.tolist() == ["action", "feature", "given", "statistic", "pvalue", "n_candidates", "reason"]
    text = repr(path)
    assert text.splitlines()[-1] == "Blanket: " + ", ".join(path.names[v] for v in path.members)
    assert "3 of 6 features" in text
    assert "at level 0.05 (n = 300)" in text
    named = fit(X.rename(columns={"size": "<b>size"}), y).path_
    assert "<b>" not in named._repr_html_()
    assert "&lt;b&gt;size" in named._repr_html_()


def test_progress_is_shown_on_request(product, capsys):
    fit(*product)
    assert capsys.readouterr().err == ""
    fit(*product, verbose=True)
    assert "blanket" in capsys.readouterr().err


def test_documented_defaults_are_those_of_the_signature():
    parameters = inspect.signature(MarkovBlanketSelector).parameters
    page = inspect.getdoc(MarkovBlanketSelector)
    for name, parameter in parameters.items():
        line = next(line for line in page.splitlines() if line.startswith(f"{name} : "))
        stated = re.search(r"default (\S+)$", line)
        assert (ast.literal_eval(stated[1]) if stated else None) == parameter.default, name
        assert ("optional" in line) == (stated is None)


# --------------------------------------------------------------------------- same seed, same result
def test_same_bits_for_any_n_jobs(table):
    X, y = table
    alone = fit(X, y)
    for n_jobs in (1, 2):
        same_fit(fit(X, y, n_jobs=n_jobs), alone)


@pytest.mark.parametrize("backend", ["threading", slowly("loky")])
def test_same_bits_for_joblib_backends(backend, product):
    alone = fit(*product)
    with joblib.parallel_config(backend=backend, n_jobs=2):
        same_fit(fit(*product), alone)


def test_random_state(product):
    X, y = product
    for make in (int, np.random.RandomState, np.random.default_rng, np.random.SeedSequence):
        same_fit(fit(X, y, random_state=make(3)), fit(X, y, random_state=make(3)))
    assert not np.array_equal(fit(X, y).scores_, fit(X, y, random_state=1).scores_)
    selector = MarkovBlanketSelector(random_state=5)
    first = selector.fit(X, y).scores_
    np.testing.assert_array_equal(selector.fit(X, y).scores_, first)


@pytest.mark.parametrize("options", [{}, {"stability": {"n_subsamples": 4}}, {"split": 0.5}])
def test_a_seed_sequence_is_a_seed(options, product):
    X, y = product
    seed = np.random.SeedSequence(0, spawn_key=(3,))
    first, again = (fit(X, y, random_state=seed, **options) for _ in range(2))
    same_fit(first, again)
    if options.get("stability"):
        np.testing.assert_array_equal(first.stability_.frequencies, again.stability_.frequencies)
    assert seed.n_children_spawned == 0
    same_fit(first, fit(X, y, random_state=np.random.default_rng(np.random.SeedSequence(0, spawn_key=(3,))), **options))


def test_scale_and_place_of_the_data_do_not_matter(product):
    X, y = product
    plain = fit(X, y)
    moved = fit(8.0 * X - 2.0, 0.25 * y + 4.0)
    assert moved.blanket_.tolist() == plain.blanket_.tolist()
    np.testing.assert_allclose(moved.scores_, plain.scores_, rtol=1e-6)


def test_pickle_and_clone(table):
    X, y = table
    selector = fit(X, y, groups=[["size", "weight"]])
    same_fit(pickle.loads(pickle.dumps(selector)), selector)
    copy = clone(selector)
    assert not hasattr(copy, "support_")
    same_fit(copy.fit(X, y), selector)


# --------------------------------------------------------------------------- in scikit-learn
def test_grid_over_alpha_and_column_transformer(table):
    X, y = table
    X, target = X.drop(columns="fixed"), (y > np.median(y)).astype(int)
    encode = ColumnTransformer(
        [
            ("numbers", MarkovBlanketSelector(random_state=0), ["size", "weight"]),
            ("classes", OneHotEncoder(), ["colour", "grade", "shape"]),
        ],
        verbose_feature_names_out=False,
    )
    pipeline = make_pipeline(encode, LogisticRegression())
    pipeline.fit(X, target)
    assert pipeline[0].named_transformers_["numbers"].get_feature_names_out().tolist() == ["size"]
    grid = {"columntransformer__numbers__alpha": [0.01, 0.2], "columntransformer__numbers__screen": ["auto", False]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, target)
    assert search.best_score_ > 0.7
    assert len(search.cv_results_["params"]) == 4


def test_cross_validation_selects_in_every_fold(product):
    X, y = product
    seen = []

    class Spy(MarkovBlanketSelector):
        def fit(self, X, y):
            seen.append(len(X))
            return super().fit(X, y)

    # scikit-learn reads the parameters from the signature of the class
    Spy.__init__ = MarkovBlanketSelector.__init__
    scores = cross_val_score(make_pipeline(Spy(random_state=0), LogisticRegression()), X, y > 0, cv=3)
    assert len(scores) == 3
    assert seen == [100, 100, 100]


def test_rows_need_no_order():
    # Copies and landmarks are drawn by row: p-values change, a clear decision does not.
    X = normal(200, 5)
    y = X[:, 2] + 0.3 * normal(200, 1, 1)[:, 0]
    order = np.random.default_rng(0).permutation(200)
    assert chosen(X, y) == chosen(X[order], y[order]) == [2]
