"""Bad input: the type of the error, whom it names, what came and what to do; inputs stay as they are."""

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from codec import (
    MarkovBlanketSelector,
    codec,
    codec_interval,
    codec_test,
    codec_test_many,
    fisher_z,
    foci,
    lcodec,
    lfoci,
)
from codec._validation import columns_by_name

N = 20


def select(y, X, **options):
    return MarkovBlanketSelector(**{"method": "foci", **options}).fit(X, y).path_


# name -> (call(y, predictors, **options), what the predictors are called)
CALLS = {
    "codec": (codec, "z"),
    "lcodec": (lcodec, "z"),
    "foci": (lambda y, X, **options: foci(X, y, **options), "X"),
    "lfoci": (lambda y, X, **options: lfoci(X, y, **options), "X"),
    "selector": (select, "X"),
}
CONDITIONAL = {
    "codec": lambda given, **options: codec(Y, Z, given=given, **options),
    "lcodec": lambda given, **options: lcodec(Y, Z, given=given, **options),
}

rng = np.random.default_rng(0)
Y, Z = rng.normal(size=N), rng.normal(size=(N, 3))
GOOD_FRAME = pd.DataFrame(Z, columns=["age", "height", "weight"])


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param][0]


def changed(table, value, place=(3, 1)):
    copy = np.array(table)
    copy[place] = value
    return copy


def assert_refused(function, *names, kinds=(ValueError, TypeError)):
    """Assert that a call fails and that the message holds every word."""
    with pytest.raises(kinds) as caught:
        function()
    message = str(caught.value)
    for name in names:
        assert str(name) in message, f"{name!r} is not in: {message}"
    assert len(message) > 20


# ------------------------------------------------------------------------- predictors

BAD_PREDICTORS = {
    "infinite": (changed(Z, np.inf), ValueError, ["infinity"]),
    "minus infinite": (changed(Z, -np.inf), ValueError, ["infinity"]),
    "nan": (changed(Z, np.nan), ValueError, ["NaN"]),
    "complex": (Z + 1j, (ValueError, TypeError), ["omplex"]),
    "sparse": (sparse.csr_array(Z), TypeError, ["parse", "toarray"]),
    "three dimensions": (Z[None], ValueError, ["3"]),
    "no column": (np.empty((N, 0)), ValueError, ["0"]),
    "no row": (np.empty((0, 3)), ValueError, ["0"]),
    "ragged": ([[1.0, 2.0]] * (N - 1) + [[1.0]], ValueError, []),
    "text": (np.full((N, 2), "red"), (ValueError, TypeError), []),
    "objects": (np.full((N, 2), object()), TypeError, ["number"]),
    "dictionaries": (np.array([{"a": 1}] * N)[:, None], TypeError, ["number"]),
    "one row too few": (Z[1:], ValueError, [N, N - 1]),
    "nothing": (None, (ValueError, TypeError), []),
}


@pytest.mark.parametrize("bad", BAD_PREDICTORS)
def test_bad_predictors(bad, call):
    data, kinds, words = BAD_PREDICTORS[bad]
    assert_refused(lambda: call(Y, data), *words, kinds=kinds)


@pytest.mark.parametrize("bad", BAD_PREDICTORS)
@pytest.mark.parametrize("name", ["codec", "lcodec", "foci", "lfoci"])
def test_bad_predictors_are_named(bad, name):
    function, argument = CALLS[name]
    assert_refused(lambda: function(Y, BAD_PREDICTORS[bad][0]), argument)


@pytest.mark.parametrize("bad", [bad for bad in BAD_PREDICTORS if bad != "nothing"])
@pytest.mark.parametrize("name", CONDITIONAL)
def test_bad_given(bad, name):
    data, kinds, words = BAD_PREDICTORS[bad]
    assert_refused(lambda: CONDITIONAL[name](data), "given", *words, kinds=kinds)


@pytest.mark.parametrize("scalar", [3.0, 7, {"a": 1}])
def test_scalars(scalar, call):
    assert_refused(lambda: call(Y, scalar))
    assert_refused(lambda: call(scalar, Z))


# --------------------------------------------------------------------------- response

BAD_RESPONSES = {
    "infinite": (changed(Y, np.inf, 3), ValueError, ["infinity"]),
    "nan": (changed(Y, np.nan, 3), ValueError, ["NaN"]),
    "complex": (Y + 1j, (ValueError, TypeError), ["omplex"]),
    "sparse": (sparse.csr_array(Y[:, None]), TypeError, ["parse"]),
    "three dimensions": (Y[:, None, None], ValueError, ["3"]),
    "empty": (np.empty(0), ValueError, ["0"]),
    "constant": (np.full(N, 4.0), ValueError, ["constant"]),
    "constant text": (np.full(N, "red"), ValueError, ["constant"]),
    "constant category": (pd.Series(["red"] * N, dtype="category"), ValueError, ["constant"]),
    "constant flag": (np.zeros(N, dtype=bool), ValueError, ["constant"]),
    "one constant response": (np.column_stack([Y, np.ones(N)]), ValueError, ["constant"]),
    "objects": (np.full(N, object()), TypeError, ["number"]),
    "text and numbers": (np.array(["red", 1] * (N // 2), dtype=object), TypeError, []),
    "too short": (Y[1:], ValueError, [N, N - 1]),
    "nothing": (None, (ValueError, TypeError), []),
    "dates": (pd.date_range("2020-01-01", periods=N).to_series(), TypeError, ["date"]),
}


@pytest.mark.parametrize("bad", BAD_RESPONSES)
def test_bad_response(bad, call):
    data, kinds, words = BAD_RESPONSES[bad]
    assert_refused(lambda: call(data, Z), "y", *words, kinds=kinds)


def test_both_tables_are_named_when_lengths_differ():
    assert_refused(lambda: codec(Y, Z[1:]), "y", "z", N, N - 1)
    assert_refused(lambda: codec(Y, Z, given=Z[2:]), "given", N, N - 2)
    assert_refused(lambda: foci(Z[1:], Y), "y", "X", N, N - 1)


def test_text_for_numbers_is_refused_on_request(call):
    text = np.array(list("ab") * (N // 2))
    assert_refused(lambda: call(text, Z, nominal_y=False), "nominal_y")


# ----------------------------------------------------------------------- too few rows


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows(n, call):
    assert_refused(lambda: call(Y[:n], Z[:n]), n, kinds=ValueError)


def test_three_rows_are_enough(call):
    call(np.array([1.0, 3.0, 2.0]), Z[:3])


def test_all_rows_equal():
    same = np.ones((N, 2))
    assert codec(Y, same) == pytest.approx(-1 / (N - 1), abs=1e-12)
    assert lcodec(Y, same, rng=0) <= 1
    for standardize in ("scale", "bounded", "rank"):
        assert_refused(lambda how=standardize: foci(same, Y, standardize=how), "x0", "constant")
        assert_refused(lambda how=standardize: lfoci(same, Y, standardize=how), "x0", "constant")
    assert len(foci(same, Y, standardize=None)) == 0


def test_constant_column_is_named():
    frame = GOOD_FRAME.assign(height=1.0)
    for function in (foci, lfoci):
        assert_refused(lambda f=function: f(frame, Y), "height", "X", "constant", kinds=ValueError)
    text = GOOD_FRAME.assign(height=pd.Categorical(["one"] * N))
    assert_refused(lambda: foci(text, Y), "height", "constant", kinds=ValueError)


# ----------------------------------------------------------------------------- options

BAD_OPTIONS = {
    "n_neighbors": [0, -1, N, N + 5, 1.5, "many", None, True, np.nan],
    "nominal_y": ["yes", None, 3],
}
EXTRA_OPTIONS = {
    "codec": {"ties": ["min", None, 1], "nan_policy": ["propagate", None], "rng": ["a", -1, 1.5]},
    "lcodec": {
        "noise": [0, -1e-3, np.nan, np.inf, "small", None],
        "n_draws": [0, -1, 1.5, None],
        "nan_policy": ["propagate", None],
        "rng": ["a", -1, 1.5],
    },
    "foci": {
        "ties": ["min", None],
        "standardize": ["none", "z-score", 3, True],
        "max_features": [0, -1, 4, 1.5, "all"],
        "include": [["no such"], [3], [-1], [0, 0], [1.5], [None], "no such"],
        "nan_policy": ["propagate", None],
        "stop": ["no", None, 2],
        "verbose": ["loud", None],
        "n_jobs": ["all", 0, 1.5],
        "rng": ["a", -1, 1.5],
    },
}
EXTRA_OPTIONS["lfoci"] = {
    **{k: v for k, v in EXTRA_OPTIONS["foci"].items() if k != "ties"},
    "noise": EXTRA_OPTIONS["lcodec"]["noise"],
}
EXTRA_OPTIONS["selector"] = {
    **{k: v for k, v in EXTRA_OPTIONS["foci"].items() if k not in ("ties", "nan_policy", "rng", "include")},
    "always_include": EXTRA_OPTIONS["foci"]["include"],
    "method": ["FOCI", "mfoci", None, 3],
}
CASES = [
    (name, option, value)
    for name in CALLS
    for option, values in {**BAD_OPTIONS, **EXTRA_OPTIONS[name]}.items()
    for value in values
]


@pytest.mark.parametrize(("name", "option", "value"), CASES)
def test_bad_option(name, option, value):
    function = CALLS[name][0]
    shown = value[0] if isinstance(value, list) else value
    words = [option] if shown is None or shown is True else [option, shown]
    assert_refused(lambda: function(Y, Z, **{option: value}), *words)


@pytest.mark.parametrize("noise", [-1, np.nan, "small"])
def test_bad_noise_of_the_selector(noise):
    assert_refused(lambda: select(Y, Z, method="lfoci", noise=noise), "noise", noise)


@pytest.mark.parametrize("state", ["a", -1, 1.5])
def test_bad_random_state_of_the_selector(state):
    assert_refused(lambda: select(Y, Z, method="lfoci", random_state=state), "random_state", state)


def test_unknown_keywords_and_places():
    for function in (codec, lcodec):
        with pytest.raises(TypeError):
            function(Y, Z, Z, 3)
        with pytest.raises(TypeError, match="bandwidth"):
            function(Y, Z, bandwidth=3)
    for function in (foci, lfoci):
        with pytest.raises(TypeError):
            function(Z, Y, 2)
        with pytest.raises(TypeError, match="numCores"):
            function(Z, Y, numCores=3)
    with pytest.raises(TypeError):
        MarkovBlanketSelector("foci", 3)


def test_neighbors_are_counted_after_rows_are_dropped():
    holes = changed(Z, np.nan)
    with pytest.warns(UserWarning, match="missing"):
        assert_refused(lambda: codec(Y, holes, n_neighbors=N - 1, nan_policy="omit"), "n_neighbors", N - 1)
    with pytest.warns(UserWarning, match="missing"):
        assert codec(Y, holes, n_neighbors=N - 2, nan_policy="omit") == pytest.approx(-1 / (N - 2))


# ---------------------------------------------------------------------- missing values

HOLES = GOOD_FRAME.copy()
HOLES.loc[[2, 5, 6], "height"] = np.nan
HOLES_Y = pd.Series(np.where(np.arange(N) == 9, np.nan, Y), name="income")
COMPLETE = ~(HOLES.isna().any(axis=1) | HOLES_Y.isna()).to_numpy()


@pytest.mark.parametrize("name", ["codec", "lcodec", "foci", "lfoci"])
def test_missing_values_name_the_column_and_the_count(name):
    function, argument = CALLS[name]
    assert_refused(lambda: function(Y, HOLES), argument, "height", 3, "omit", kinds=ValueError)
    assert_refused(lambda: function(HOLES_Y, GOOD_FRAME), "y", "income", 1, kinds=ValueError)
    assert_refused(lambda: function(Y, HOLES.to_numpy()), argument, f"{argument.replace('X', 'x')}1", 3)


def test_missing_values_in_given():
    for function in CONDITIONAL.values():
        assert_refused(lambda f=function: f(HOLES), "given", "height", 3, kinds=ValueError)


def test_missing_values_of_the_selector():
    assert_refused(lambda: select(Y, HOLES), "X", "NaN", kinds=ValueError)
    assert_refused(lambda: select(HOLES_Y, GOOD_FRAME), "y", "NaN", kinds=ValueError)


def test_omit_is_the_complete_rows():
    y, x = HOLES_Y[COMPLETE], HOLES[COMPLETE]
    for call in (
        lambda a, b, **k: codec(a, b, **k),
        lambda a, b, **k: codec(a, b[["age"]], given=b[["height"]], **k),
        lambda a, b, **k: lcodec(a, b, rng=0, **k),
        lambda a, b, **k: foci(b, a, stop=False, **k).cumulative.tolist(),
        lambda a, b, **k: lfoci(b, a, stop=False, rng=0, **k).cumulative.tolist(),
    ):
        with pytest.warns(UserWarning, match=r"\b4\b.*\b20\b") as caught:
            value = call(HOLES_Y, HOLES, nan_policy="omit")
        assert len(caught) == 1
        assert caught[0].filename == __file__  # the warning points at the caller
        assert value == call(y, x)
    with pytest.warns(UserWarning, match="missing"):
        path = foci(HOLES, HOLES_Y, nan_policy="omit")
    assert (path.n_samples, path.n_omitted) == (N - 4, 4)


def test_omit_without_missing_values_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert codec(Y, Z, nan_policy="omit") == codec(Y, Z)
        assert foci(Z, Y, nan_policy="omit").n_omitted == 0


def test_omit_leaves_too_few_rows():
    y = np.full(N, np.nan)
    y[:2] = 1.0, 2.0
    for name in ("codec", "lcodec", "foci", "lfoci"):
        assert_refused(lambda f=CALLS[name][0]: f(y, Z, nan_policy="omit"), 2, 3, kinds=ValueError)


def test_omit_can_make_y_constant():
    y = np.ones(N)
    y[0], z = 2.0, changed(Z, np.nan, (0, 0))
    with pytest.warns(UserWarning, match="missing"):
        assert_refused(lambda: codec(y, z, nan_policy="omit"), "y", "constant", kinds=ValueError)


def test_omit_can_make_a_column_constant():
    frame = GOOD_FRAME.assign(height=np.r_[5.0, np.ones(N - 1)], age=changed(Z, np.nan, (0, 0))[:, 0])
    with pytest.warns(UserWarning, match="missing"):
        assert_refused(lambda: foci(frame, Y, nan_policy="omit"), "height", "constant", kinds=ValueError)


def test_infinity_is_not_missing():
    for name in ("codec", "lcodec", "foci", "lfoci"):
        assert_refused(
            lambda f=CALLS[name][0]: f(Y, changed(Z, np.inf), nan_policy="omit"), "infinity", 1, kinds=ValueError
        )


@pytest.mark.parametrize(
    "column",
    [
        pd.array([1, None] * (N // 2), dtype="Int64"),
        pd.array([1.5, None] * (N // 2), dtype="Float64"),
        pd.array([True, None] * (N // 2), dtype="boolean"),
        pd.Categorical(["a", None] * (N // 2)),
        np.array([1.0, None] * (N // 2), dtype=object),
    ],
    ids=["Int64", "Float64", "boolean", "category", "object"],
)
def test_every_kind_of_missing_value_is_seen(column):
    frame = GOOD_FRAME.assign(height=column)
    for name in ("codec", "lcodec", "foci", "lfoci"):
        function = CALLS[name][0]
        assert_refused(lambda f=function: f(Y, frame), "height", N // 2, kinds=ValueError)
        assert_refused(lambda f=function: f(pd.Series(column), Z), "y", N // 2, kinds=ValueError)
    polars = pl.from_pandas(frame) if not isinstance(column, np.ndarray) else None
    if polars is not None:
        assert_refused(lambda: codec(Y, polars), "height", N // 2, kinds=ValueError)
        assert_refused(lambda: codec(polars["height"], Z), "y", N // 2, kinds=ValueError)


def test_missing_text_of_y():
    text = pd.Series(["a", "b", None, "c"] * (N // 4))
    frames = pl.Series(["a", "b", None, "c"] * (N // 4))
    for y in (text, text.astype("category"), text.astype("string"), text.to_numpy(), frames):
        assert_refused(lambda y=y: codec(y, Z), "y", N // 4, kinds=ValueError)
        with pytest.warns(UserWarning, match=str(N // 4)):
            value = codec(y, Z, nan_policy="omit")
        assert value == codec(text.dropna(), Z[text.notna().to_numpy()])


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_a_missing_value_among_listed_text_is_no_class(missing):
    """As an array the list would hold the text "nan"."""
    labels = np.random.default_rng(0).choice(list("uvw"), N).tolist()
    listed = [missing, *labels[1:]]
    assert_refused(lambda: codec(listed, Z), "y contains NaN: column 'y0' has 1 missing value")
    for data in (listed, tuple(listed)):
        with pytest.warns(UserWarning, match=f"1 of {N} rows have missing values and were left out"):
            assert codec(data, Z, nan_policy="omit") == codec(np.array(labels[1:]), Z[1:])


def test_numbers_among_listed_text_are_no_classes():
    """As an array the list would hold text alone."""
    labels = np.random.default_rng(0).choice(list("uvw"), N).tolist()
    assert_refused(lambda: codec([1.5, *labels[1:]], Z), "column 'y0' of y", "objects such as 1.5", kinds=TypeError)
    rows = [list(row) for row in zip(labels, Y.tolist(), strict=True)]
    frame = pd.DataFrame({"class": labels, "number": Y})
    assert codec(rows, Z) == codec(frame, Z)


def test_structured_arrays_are_refused():
    fields = np.zeros(N, dtype=[("a", float), ("b", float)])
    assert_refused(lambda: codec(fields, Z), "y is a structured array", kinds=TypeError)
    assert_refused(lambda: codec(Y, fields), "z is a structured array", kinds=TypeError)


def test_masked_values_are_missing():
    masked = np.ma.masked_array(Z, mask=np.zeros_like(Z, dtype=bool))
    assert codec(Y, masked) == codec(Y, Z)
    masked[3, 1] = np.ma.masked
    assert_refused(lambda: codec(Y, masked), "z1", 1, kinds=ValueError)
    with pytest.warns(UserWarning, match=r"\b1\b"):
        value = codec(Y, masked, nan_policy="omit")
    keep = np.arange(N) != 3
    assert value == codec(Y[keep], Z[keep])


# ------------------------------------------------------------- text, names, odd columns


def test_text_columns_are_named_with_a_remedy():
    frame = GOOD_FRAME.assign(colour=["red", "blue"] * (N // 2))
    for data in (frame, frame.astype({"colour": "string"}), pl.from_pandas(frame)):
        for name in ("codec", "lcodec", "foci", "lfoci", "selector"):
            assert_refused(lambda f=CALLS[name][0], d=data: f(Y, d), "colour", 'astype("category")', kinds=TypeError)
    assert_refused(lambda: codec(Y, Z, given=frame), "given", "colour", kinds=TypeError)
    foci(frame.astype({"colour": "category"}), Y)


def test_date_columns_are_named():
    frame = GOOD_FRAME.assign(born=pd.date_range("2020-01-01", periods=N))
    assert_refused(lambda: codec(Y, frame), "born", "date", kinds=TypeError)
    assert_refused(lambda: foci(frame, Y), "born", "date", kinds=TypeError)
    frame["born"] -= frame["born"].min()
    assert_refused(lambda: foci(frame, Y), "born", kinds=TypeError)


@pytest.mark.parametrize("scale", [1e155, 1e200, 1e300])
def test_overflowing_units_are_refused(scale):
    frame = GOOD_FRAME.assign(height=GOOD_FRAME.height * scale)
    assert_refused(lambda: codec(Y, frame), "height", "z", "overflow", kinds=ValueError)
    assert_refused(lambda: codec(Y, Z, given=frame), "height", "given", kinds=ValueError)
    assert_refused(lambda: foci(frame, Y), "height", "X", kinds=ValueError)


@pytest.mark.parametrize("scale", [1e-158, 1e-200, 1e-300])
def test_tiny_units(scale):
    # Squares underflow: either the right number or an error that names the column.
    for X in (Z[:, :1], Z):
        value, message = outcome(lambda X=X: codec(Y, X * scale))
        assert value == codec(Y, X) or "z0" in message


def outcome(function):
    """Return the value of a call and "", or None and the message of its ValueError."""
    try:
        return function(), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("scale", [1e200, 1e300])
def test_units_of_y_are_irrelevant(scale):
    # Only the ranks of one response are used.
    assert codec(Y * scale, Z) == codec(Y, Z)
    assert foci(Z, Y * scale).order.tolist() == foci(Z, Y).order.tolist()


# ---------------------------------------------------------------- forms of good input


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "fortran": np.asfortranarray,
    "read-only": read_only,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=1)[::2, ::2],
    "reversed twice": lambda a: a[::-1].copy()[::-1],
    "list": lambda a: a.tolist(),
    "tuples": lambda a: tuple(map(tuple, a.tolist())),
    "frame": pd.DataFrame,
    "odd index": lambda a: pd.DataFrame(a, index=np.arange(len(a))[::-1]),
    "polars": lambda a: pl.DataFrame({f"x{k}": a[:, k] for k in range(a.shape[1])}),
    "object": lambda a: a.astype(object),
    "Float64": lambda a: pd.DataFrame(a).astype("Float64"),
    "arrow": lambda a: pd.DataFrame(a).astype("double[pyarrow]"),
    "big-endian": lambda a: a.astype(">f8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_form_of_the_predictors_is_irrelevant(form):
    X = FORMS[form](Z)
    assert codec(Y, X) == codec(Y, Z)
    assert codec(Y, Z[:, :1], given=X) == codec(Y, Z[:, :1], given=Z)
    path, plain = foci(X, Y, stop=False), foci(Z, Y, stop=False)
    assert path.order.tolist() == plain.order.tolist()
    np.testing.assert_array_equal(path.cumulative, plain.cumulative)


@pytest.mark.parametrize("form", ["list", "read-only", "Series", "odd index", "polars", "column", "Float64", "masked"])
def test_form_of_y_is_irrelevant(form):
    y = {
        "list": Y.tolist(),
        "read-only": read_only(Y),
        "Series": pd.Series(Y, name="income"),
        "odd index": pd.Series(Y, index=np.arange(N)[::-1]),
        "polars": pl.Series("income", Y),
        "column": Y[:, None],
        "Float64": pd.Series(Y, dtype="Float64"),
        "masked": np.ma.masked_array(Y),
    }[form]
    assert codec(y, Z) == codec(Y, Z)
    np.testing.assert_array_equal(foci(Z, y, stop=False).cumulative, foci(Z, Y, stop=False).cumulative)


DECIMALS = [Decimal(k * k % 83) / 10 for k in range(N)]


@pytest.mark.parametrize(
    "form",
    [list, pd.Series, pl.Series, lambda d: pd.Series(d, dtype=pd.ArrowDtype(pa.decimal128(5, 1)))],
    ids=["list", "pandas", "polars", "arrow"],
)
def test_decimals_are_numbers(form):
    assert codec(Y, form(DECIMALS)) == codec(Y, [float(d) for d in DECIMALS])
    assert codec(form(DECIMALS), Z) == codec([float(d) for d in DECIMALS], Z)
    missing = form([None, *DECIMALS[1:]])
    with pytest.warns(UserWarning, match="1 of"):
        assert codec(Y, missing, nan_policy="omit") == codec(Y[1:], form(DECIMALS[1:]))


def test_decimals_that_floats_confuse_are_refused():
    beyond = [10**400, *map(float, Y[1:])]
    assert_refused(lambda: codec(Y, beyond), "z", "no floating-point number", kinds=ValueError)
    close = [Decimal(1) + Decimal(k).scaleb(-25) for k in range(N)]
    assert_refused(lambda: codec(Y, close), "z", "numbers such as Decimal", "ranks", kinds=ValueError)


def test_whole_numbers_of_any_size_are_told_apart_or_refused():
    for start in (2**60, 10**400):
        assert codec(Y, [start + k * k for k in range(N)]) == codec(Y, [k * k for k in range(N)])
    mixed = np.array([*(2**60 + k for k in range(N - 1)), 0.5], dtype=object)  # a list would be rounded by numpy
    assert_refused(lambda: codec(Y, mixed), "z", "ranks", kinds=ValueError)
    assert_refused(lambda: codec(Y, [*range(N - 2), 0, 10**400]), "z", "ranks", kinds=ValueError)


@pytest.mark.parametrize("standardize", [None, "scale", "bounded", "rank"])
@pytest.mark.parametrize("size", [1e155, 1e-200])
def test_several_responses_beyond_the_range_of_squares_are_refused(standardize, size):
    responses = np.column_stack([Y, size * Z[:, 0]])
    assert_refused(lambda: foci(Z, responses, standardize=standardize), "y1", kinds=ValueError)


@pytest.mark.parametrize("standardize", ["scale", "bounded"])
def test_columns_too_far_apart_to_be_weighed_are_refused(standardize):
    both = np.column_stack([1e-90 * Z[:, 0], 1e90 * Z[:, 1]])
    assert_refused(lambda: foci(both, Y, standardize=standardize), "x1", "divide", kinds=ValueError)


@pytest.mark.parametrize("scale", [1e160, 1e-200, 1e308])
def test_noise_follows_a_response_of_any_scale(scale):
    y, z = np.arange(N) % 4 / 4, np.arange(N) // 5  # a quarter: products with powers of ten differ by rounding alone
    assert lcodec(scale * y, z, rng=0) == pytest.approx(lcodec(y, z, rng=0), abs=1e-12)


def test_polars_integers_of_128_bits():
    whole = np.arange(N)[::-1] ** 2
    large = pl.Series([2**70 + int(k) for k in whole], dtype=pl.Int128)
    assert codec(Y, large) == codec(Y, whole)


def test_one_column_forms():
    z = Z[:, 0]
    for form in (z, z[:, None], z.tolist(), pd.Series(z), pd.DataFrame({"a": z}), pl.Series("a", z)):
        assert codec(Y, form) == codec(Y, z)
        assert codec(Y, Z[:, 1], given=form) == codec(Y, Z[:, 1], given=z)


def test_small_floats_keep_their_values():
    # float32 and float16 are converted without rounding; their ties are theirs.
    for dtype in (np.float32, np.float16):
        assert codec(Y, Z.astype(dtype)) == codec(Y, Z.astype(dtype).astype(float))
        assert codec(Y.astype(dtype), Z) == codec(Y.astype(dtype).astype(float), Z)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, bool])
def test_integers_and_flags_are_numbers(dtype):
    X = rng.integers(0, 2, size=(N, 2)).astype(dtype)
    assert codec(Y, X) == codec(Y, X.astype(float))
    assert codec(X[:, 0], Z) == codec(X[:, 0].astype(float), Z)
    frame = pd.DataFrame(X)
    assert codec(Y, frame) == codec(Y, X.astype(float))
    if dtype is bool:
        assert codec(Y, frame.astype("boolean")) == codec(Y, X.astype(float))


def test_minus_zero_is_zero():
    z = np.array([0.0, -0.0] * (N // 2))
    assert codec(Y, z) == codec(Y, np.zeros(N))
    assert codec(np.where(Y > 0, 1.0, z), Z) == codec(np.where(Y > 0, 1.0, 0.0), Z)
    pairs = np.column_stack([z, np.arange(N) // 4])
    assert codec(Y, pairs) == codec(Y, np.abs(pairs))


CODES = np.arange(N) % 3
COLOURS = np.array(["red", "green", "blue"])[CODES]


@pytest.mark.parametrize(
    "labels",
    [
        COLOURS,
        COLOURS.astype(object),
        COLOURS.tolist(),
        pd.Series(COLOURS),
        pd.Series(COLOURS, dtype="string"),
        pd.Series(COLOURS, dtype="category"),
        pd.Categorical(COLOURS),
        pd.Series(CODES).astype("category"),
        pd.Categorical(CODES, categories=[2, 0, 1]),
        pd.Categorical(COLOURS, categories=["blue", "none", "red", "green", "grey"]),
        pl.Series(COLOURS),
        pl.Series(COLOURS, dtype=pl.Categorical),
        pd.DataFrame({"y": pd.Categorical(COLOURS)}),
    ],
    ids=lambda labels: f"{type(labels).__module__.split('.')[0]}-{type(labels).__name__}",
)
def test_forms_of_nominal_y(labels):
    expected = codec(CODES, Z, nominal_y=True)
    assert expected != codec(CODES, Z)
    assert codec(labels, Z) == expected
    assert codec(labels, Z, nominal_y=True) == expected
    assert_refused(lambda: codec(labels, Z, nominal_y=False), "nominal_y")


@pytest.mark.parametrize(
    "levels",
    [
        pd.Series(COLOURS, dtype="category"),
        pd.Categorical(COLOURS),
        pd.Categorical(CODES),
        pd.DataFrame({"c": pd.Categorical(COLOURS, categories=["green", "none", "blue", "red"])}),
        pl.Series("c", COLOURS, dtype=pl.Categorical),
        pl.Series("c", COLOURS, dtype=pl.Enum(["blue", "green", "red"])),
        pl.DataFrame({"c": COLOURS}).cast(pl.Categorical),
        pd.Series(pd.arrays.ArrowExtensionArray(pa.array(COLOURS.tolist()).dictionary_encode())),
        pd.Series(pd.arrays.ArrowExtensionArray(pa.array(CODES).dictionary_encode())),
    ],
    ids=lambda levels: f"{type(levels).__module__.split('.')[0]}-{type(levels).__name__}",
)
def test_forms_of_nominal_predictors(levels):
    one_hot = (CODES[:, None] == np.arange(3)).astype(float)
    for k in (1, 10):  # 10 neighbours: more than there are rows of the same level
        assert codec(Y, levels, n_neighbors=k) == codec(Y, one_hot, n_neighbors=k)
    assert codec(Y, levels, n_neighbors=10) != codec(Y, CODES, n_neighbors=10)


# ------------------------------------------------------------------ nothing is changed


def test_inputs_are_never_modified(call):
    z = np.round(Z, 1)
    y = np.round(Y)
    frame = pd.DataFrame(z, columns=list("abc")).assign(c=pd.Categorical(CODES), f=CODES > 0)
    before = z.copy(), y.copy(), frame.copy(deep=True)
    options = [{}, {"n_neighbors": 3}]
    for option in options:
        call(y, z, **option)
        call(y, frame, **option)
    np.testing.assert_array_equal(z, before[0])
    np.testing.assert_array_equal(y, before[1])
    pd.testing.assert_frame_equal(frame, before[2])


def test_inputs_are_never_modified_by_omit_and_noise():
    holes, y = HOLES.copy(), HOLES_Y.copy()
    for call in (codec, lcodec):
        with pytest.warns(UserWarning, match="missing"):
            call(y, holes, nan_policy="omit")
    for call in (foci, lfoci):
        with pytest.warns(UserWarning, match="missing"):
            call(holes, y, nan_policy="omit")
    pd.testing.assert_frame_equal(holes, HOLES)
    pd.testing.assert_series_equal(y, HOLES_Y)


def test_global_random_state_is_left_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    lcodec(np.round(Y), np.round(Z))
    codec(Y, np.round(Z), ties="random")
    lfoci(np.round(Z) + np.arange(N)[:, None] % 2, np.round(Y))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("form", [np.asarray, list, pd.Series, lambda v: pd.Series(v, dtype="Int64")])
@pytest.mark.parametrize("offset", [2**60, -(2**60), 2**64])
def test_large_integers_are_not_rounded(form, offset):
    """T depends on order and differences alone."""
    y = np.arange(200)
    z = np.random.default_rng(0).permutation(200)
    if offset == 2**64 and form is not list:
        offset = 2**62
    shifted = [int(v) + offset for v in z]
    assert codec(y, form(shifted)) == codec(y, z)
    assert codec(form(shifted), y) == codec(z, y)
    both = np.column_stack([shifted, z])
    assert codec(y, both) == codec(y, np.column_stack([z, z]))


def test_integers_that_no_float_tells_apart_are_refused():
    with pytest.raises(ValueError, match=r"column 'z0' of z holds integers from 0 to .* their ranks"):
        codec(np.arange(20), [0, *range(2**60, 2**60 + 19)])
    z = 2**60 + np.arange(80)
    with pytest.raises(ValueError, match="subtract a number from z"):
        codec_test(np.arange(80.0), z, np.arange(80.0), method="crt", sampler=lambda _x, rng: rng.permutation(z))


OMIT = {"nan_policy": "omit"}
GAPS = np.where(np.arange(501) == 7, np.nan, np.random.default_rng(0).normal(size=501))
FULL = np.random.default_rng(1).normal(size=501)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: codec(GAPS, FULL, **OMIT), "left out"),
        (lambda: lcodec(GAPS, FULL, **OMIT), "left out"),
        (lambda: codec_interval(GAPS, FULL, **OMIT), "left out"),
        (lambda: codec_test(GAPS, FULL, n_resamples=19, **OMIT), "left out"),
        (lambda: codec_test_many(GAPS, FULL, n_resamples=19, **OMIT), "left out"),
        (lambda: fisher_z(GAPS, FULL, **OMIT), "left out"),
        (lambda: foci(FULL[:, None], GAPS, **OMIT), "left out"),
        (lambda: codec_test(FULL, GAPS[::-1] > 0, n_resamples=9), "n_resamples is 9"),
    ],
)
def test_warnings_point_to_the_call(ask, message):
    """To this file, however far down they come from: the lambda's own line."""
    with pytest.warns(UserWarning, match=message) as found:
        ask()
    places = [(w.filename, w.lineno) for w in found if message in str(w.message)]
    assert places == [(__file__, ask.__code__.co_firstlineno)]


def test_a_name_of_several_columns_is_ambiguous():
    with pytest.raises(ValueError, match="include names 'a', the name of several columns of X"):
        columns_by_name(["a"], ["a", "a", "c"], "include")
    assert columns_by_name([1, "c"], ["a", "a", "c"], "include") == [1, 2]


@pytest.mark.parametrize("columns", [["flag", "kind", "size"], ["kind", "flag"]])
def test_transform_of_booleans_beside_text_categories(columns):
    """An array of objects, as of any frame that mixes numbers and categories."""
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"flag": draws.random(60) < 0.5, "kind": pd.Categorical(draws.choice(list("uv"), 60))})
    frame["size"] = draws.normal(size=60)
    found = MarkovBlanketSelector("foci", always_include=columns).fit_transform(frame[columns], frame["size"])
    assert found.dtype == object
    assert found[:, columns.index("flag")].tolist() == frame["flag"].tolist()
    assert found[:, columns.index("kind")].tolist() == frame["kind"].tolist()


def test_ordered_categories_keep_their_order_through_parquet(tmp_path):
    draws = np.random.default_rng(0)
    u = draws.normal(size=200)
    grade = pd.Series(
        pd.cut(u + draws.normal(size=200), [-9, -0.7, 0.7, 9], labels=["low", "mid", "high"]), name="grade"
    )
    grade.to_frame().to_parquet(tmp_path / "grades.parquet")
    for backend in ("pyarrow", "numpy_nullable"):
        read = pd.read_parquet(tmp_path / "grades.parquet", dtype_backend=backend)["grade"]
        for k in (1, 3):
            assert (
                codec(read, u, n_neighbors=k)
                == codec(grade, u, n_neighbors=k)
                == codec(grade.cat.codes, u, n_neighbors=k)
            )
            assert codec(u, read, n_neighbors=k) == codec(u, grade, n_neighbors=k)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_sparse_columns_are_transformed_whatever_fills_them(fill):
    draws = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draws.normal(size=60), "b": draws.normal(size=60)})
    selector = MarkovBlanketSelector("foci").fit(frame.astype(pd.SparseDtype(float, fill)), frame["a"] ** 2)
    found = selector.transform(frame.astype(pd.SparseDtype(float, fill)))
    np.testing.assert_array_equal(found.toarray() if fill == 0.0 else found, frame.loc[:, selector.get_support()])


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime, pl.Duration, pl.Time])
def test_times_are_refused_whether_or_not_one_is_missing(dtype):
    for first in (0, None):
        column = pl.Series("when", [first, *range(1, N)], dtype=pl.Int64).cast(dtype)
        assert_refused(lambda c=column: codec(Y, c, nan_policy="omit"), "when", kinds=TypeError)


@pytest.mark.parametrize(
    "form",
    [
        lambda v: pl.Series("z", [None, *v], dtype=pl.Int64),
        lambda v: pl.Series("z", [None, *v], dtype=pl.UInt64),
        lambda v: np.ma.masked_array([0, *v], mask=np.arange(len(v) + 1) == 0),
    ],
)
def test_large_integers_with_a_missing_one_are_not_rounded(form):
    z = np.random.default_rng(0).permutation(60)
    with pytest.warns(UserWarning, match="left out"):
        found = codec(np.arange(61), form([2**60 + int(v) for v in z]), nan_policy="omit")
    assert found == codec(np.arange(60), z)


def test_masked_text_is_text():
    labels = np.random.default_rng(0).choice(list("uvw"), N)
    masked = np.ma.masked_array(labels, mask=np.arange(N) == 0)
    assert_refused(lambda: codec(Y, masked, nan_policy="omit"), "column 'z0' of z", "text", kinds=TypeError)
    with pytest.warns(UserWarning, match="left out"):
        assert codec(masked, Z, nan_policy="omit") == codec(labels[1:], Z[1:])
    dates = np.ma.masked_array(np.arange(N).astype("datetime64[D]"), mask=np.arange(N) == 0)
    assert_refused(lambda: codec(Y, dates, nan_policy="omit"), "z0", "dates", kinds=TypeError)


@pytest.mark.parametrize("make", [lambda frame: pa.Table.from_pandas(frame), lambda frame: dask_frame(frame)])
def test_frames_of_other_libraries_are_refused(make):
    """As arrays they would have no names, and categories would be numbers."""
    frame = pd.DataFrame(Z).add_prefix("column ")
    for call in (
        lambda: codec(Y, make(frame)),
        lambda: foci(make(frame), Y),
        lambda: MarkovBlanketSelector("foci").fit(make(frame), Y),
        lambda: MarkovBlanketSelector("foci").fit(frame, Y).transform(make(frame)),
    ):
        assert_refused(call, "pass an array, or a frame of pandas or polars", kinds=TypeError)


def dask_frame(frame):
    return pytest.importorskip("dask.dataframe").from_pandas(frame, npartitions=2)
