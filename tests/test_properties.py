"""What must hold for all data: invariances, bounds, closed forms and the slow reference.

The slow reference decides ties by the same sums of floating-point numbers as the
definition (`reference_impl.distances`) and adds ranks exactly, so agreement is asked
to 1e-12 also where most distances are tied.
"""

import math
import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
import reference_impl as reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from codec import codec, lcodec

CLOSE = {"rel": 1e-12, "abs": 1e-12}
KINDS = ("continuous", "lattice", "binary", "duplicated", "nominal")


def column(kind, n, rng):
    """Draw a column: floats for the numeric kinds, small integers for a nominal one.

    Floats are multiples of 1/1024: sums of their squared differences are exact, so that two distances which are equal
    are so in whichever order columns are added.
    """
    if kind == "continuous":
        return np.round(1024 * rng.normal(size=n)) / 1024
    if kind == "duplicated":
        return column("continuous", max(2, n // 4), rng)[rng.integers(max(2, n // 4), size=n)]
    return rng.integers({"lattice": 5, "binary": 2, "nominal": 3}[kind], size=n).astype(float)


def not_constant(y):
    """Return y with two different values in it."""
    y = np.array(y)
    if np.all(y == y[0]):
        y[0] += 1
    return y


def levels(codes):
    """Return codes as an unordered category of text: its order of levels is shuffled."""
    names = np.array(["pear", "apple", "fig", "plum", "date"])
    return pd.Categorical(names[codes.astype(int)])


@st.composite
def tables(draw, max_columns=4, kinds=KINDS, min_rows=4, max_rows=40):
    """Return (columns for the reference, the same table for the package, a generator).

    Half of the tables repeat whole rows, so that most neighbours are duplicates.
    """
    n = draw(st.integers(min_rows, max_rows))
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=max_columns))
    repeat = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(max(2, n // 3), size=n) if repeat else np.arange(n)
    values = [column(kind, n, rng)[rows] for kind in chosen]
    plain = [reference.Column(v, kind == "nominal") for v, kind in zip(values, chosen, strict=True)]
    frame = pd.DataFrame(
        {f"c{k}": levels(v) if kind == "nominal" else v for k, (v, kind) in enumerate(zip(values, chosen, strict=True))}
    )
    return plain, frame, rng


def neighbor_counts(n):
    """Return the K under test for n rows: 1, 2, 5 and the root of n."""
    return sorted({k for k in (1, 2, 5, math.isqrt(n)) if k < n})


@st.composite
def responses(draw, n, rng, kinds=("continuous", "lattice", "binary", "nominal")):
    kind = draw(st.sampled_from(kinds))
    y = not_constant(column(kind, n, rng))
    return y, kind == "nominal"


def expect(exact):
    """Return what a slow exact answer means for the package."""
    return pytest.approx(float(exact), **CLOSE)


# ------------------------------------------------------- equality with the slow truth


@given(st.data(), tables())
def test_unconditional_equals_slow_reference(data, table):
    plain, frame, rng = table
    y, nominal = data.draw(responses(len(frame), rng))
    for k in neighbor_counts(len(y)):
        exact = reference.codec(y, plain, n_neighbors=k, nominal_y=nominal)
        assert codec(y, frame, n_neighbors=k, nominal_y=nominal) == expect(exact)


@given(st.data(), tables())
def test_conditional_equals_slow_reference(data, table):
    plain, frame, rng = table
    assume(len(plain) >= 2)
    split = data.draw(st.integers(1, len(plain) - 1))
    y, nominal = data.draw(responses(len(frame), rng))
    x, z = frame.iloc[:, :split], frame.iloc[:, split:]
    for k in neighbor_counts(len(y)):
        exact = reference.codec(y, plain[split:], plain[:split], n_neighbors=k, nominal_y=nominal)
        call = {"given": x, "n_neighbors": k, "nominal_y": nominal}
        if exact is None:
            with pytest.warns(RuntimeWarning):
                assert math.isnan(codec(y, z, **call))
        else:
            assert codec(y, z, **call) == expect(exact)


@pytest.mark.parametrize("kind", ["continuous", "lattice", "binary", "duplicated"])
@pytest.mark.parametrize("n_columns", [1, 2, 3, 6, 14, 15, 16, 30])
def test_larger_tables_equal_slow_reference(kind, n_columns, global_random_seed):
    # Enough rows and columns for every way of searching neighbours (sort, tree, blocks).
    rng = np.random.default_rng([global_random_seed, n_columns])
    n = 257
    X = np.column_stack([column(kind, n, rng) for _ in range(n_columns)])
    y = X[:, 0] + 0.5 * column("lattice", n, rng)
    half = n_columns // 2
    for k in (1, 2, 5, 16):
        assert codec(y, X, n_neighbors=k) == expect(reference.codec(y, X, n_neighbors=k))
        if half:
            exact = reference.codec(y, X[:, half:], X[:, :half], n_neighbors=k)
            value = codec(y, X[:, half:], given=X[:, :half], n_neighbors=k)
            assert value == expect(exact)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
def test_far_from_the_origin(offset, global_random_seed):
    # x^2 - 2 x y + y^2 would lose the neighbours here; differences do not.
    rng = np.random.default_rng(global_random_seed)
    X = offset + rng.integers(0, 7, size=(200, 20)) / 4
    y = X[:, 0] + X[:, 1] + rng.normal(size=200)
    for d in (1, 3, 20):
        assert codec(y, X[:, :d]) == expect(reference.codec(y, X[:, :d]))


@pytest.mark.parametrize("scale", [1e-100, 1e-20, 1e20, 1e150])
def test_extreme_units(scale, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    y, X = rng.normal(size=60), rng.normal(size=(60, 3))
    for d in (1, 3):
        exact = reference.codec(y, X[:, :d])
        assert codec(scale * y, scale * X[:, :d]) == expect(exact)


@pytest.mark.parametrize("kind", ["continuous", "lattice", "duplicated"])
def test_one_column_in_any_position_of_the_sort(kind, global_random_seed):
    # One column takes a path of its own; runs of ties at both ends and in the middle.
    rng = np.random.default_rng(global_random_seed)
    for n in (3, 4, 5, 50, 300):
        z = column(kind, n, rng)
        z[: n // 5] = z.min()
        z[-(n // 5) :] = z.max()
        y = not_constant(column("lattice", n, rng))
        for k in neighbor_counts(n):
            exact = reference.codec(y, z, n_neighbors=k)
            assert codec(y, z, n_neighbors=k) == expect(exact)


@given(st.data(), tables(max_columns=2, max_rows=16))
@settings(max_examples=40)
def test_several_responses_equal_slow_reference(data, table):
    plain, frame, rng = table
    n = len(frame)
    q = data.draw(st.integers(2, 3))
    kind = data.draw(st.sampled_from(["continuous", "lattice"]))
    Y = np.column_stack([not_constant(column(kind, n, rng)) for _ in range(q)])
    for k in (1, 2):
        exact = reference.codec_responses(Y, plain, n_neighbors=k)
        assert codec(Y, frame, n_neighbors=k) == expect(exact)


@given(st.data(), tables(max_columns=3, max_rows=16))
@settings(max_examples=40)
def test_several_responses_given_equal_slow_reference(data, table):
    plain, frame, rng = table
    assume(len(plain) >= 2)
    n = len(frame)
    Y = np.column_stack([not_constant(column("lattice", n, rng)) for _ in range(2)])
    exact = reference.codec_responses(Y, plain[1:], plain[:1])
    x, z = frame.iloc[:, :1], frame.iloc[:, 1:]
    if exact is None:
        with pytest.warns(RuntimeWarning):
            assert math.isnan(codec(Y, z, given=x))
    else:
        assert codec(Y, z, given=x) == expect(exact)


def test_five_responses_average_the_cyclic_orders(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    x = rng.normal(size=30)
    Y = rng.normal(size=(30, 5)) + x[:, None] ** np.arange(5)
    value = codec(Y, x)
    assert value == expect(reference.codec_responses(Y, x))
    assert codec(np.roll(Y, 2, axis=1), x) == pytest.approx(value, **CLOSE)


def test_order_of_up_to_four_responses_is_irrelevant(global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    x = rng.normal(size=25)
    for q in (2, 3, 4):
        Y = rng.integers(0, 4, size=(25, q)) + (x[:, None] > 0)
        value = codec(Y, x)
        assert value == expect(reference.codec_responses(Y, x))
        assert codec(Y[:, ::-1], x) == pytest.approx(value, **CLOSE)


def test_one_column_of_responses_is_a_vector():
    rng = np.random.default_rng(1)
    y, z, x = rng.normal(size=(3, 40))
    assert codec(y[:, None], z) == codec(y, z)
    assert codec(y[:, None], z, given=x) == codec(y, z, given=x)
    assert codec(pd.DataFrame({"y": y}), z) == codec(y, z)


# ------------------------------------------------------------------------ invariances


@given(st.data(), tables())
def test_row_order_is_irrelevant(data, table):
    _, frame, rng = table
    y, nominal = data.draw(responses(len(frame), rng))
    order = rng.permutation(len(y))
    shuffled = frame.iloc[order].reset_index(drop=True)
    for k in neighbor_counts(len(y)):
        call = {"n_neighbors": k, "nominal_y": nominal}
        assert codec(y[order], shuffled, **call) == codec(y, frame, **call)


@given(st.data(), tables())
def test_row_order_is_irrelevant_given(data, table):
    plain, frame, rng = table
    assume(len(plain) >= 2)
    y, nominal = data.draw(responses(len(frame), rng))
    assume(reference.codec(y, plain[1:], plain[:1], nominal_y=nominal) is not None)
    order = rng.permutation(len(y))
    shuffled = frame.iloc[order].reset_index(drop=True)
    moved = codec(y[order], shuffled.iloc[:, 1:], shuffled.iloc[:, 0], nominal_y=nominal)
    assert moved == codec(y, frame.iloc[:, 1:], frame.iloc[:, 0], nominal_y=nominal)


@given(st.data(), tables())
def test_increasing_maps_of_y(data, table):
    _, frame, rng = table
    y, _ = data.draw(responses(len(frame), rng, kinds=("continuous", "lattice")))
    value = codec(y, frame)
    for image in (
        np.exp(y),
        3 * y - 7,
        np.arctan(y),
        np.unique(y, return_inverse=True)[1],
    ):
        assume(len(np.unique(image)) == len(np.unique(y)))
        assert codec(image, frame) == value


@given(st.data(), tables())
def test_names_of_classes_are_irrelevant(data, table):
    _, frame, rng = table
    y = not_constant(column("nominal", len(frame), rng)).astype(int)
    value = codec(y, frame, nominal_y=True)
    renamed = rng.permutation(5)[y]
    assert codec(renamed, frame, nominal_y=True) == value
    assert codec(levels(renamed), frame) == value
    assert codec(np.array(["d", "b", "a", "e", "c"])[y], frame) == value


@given(tables(kinds=("continuous", "lattice", "nominal")))
def test_column_order_is_irrelevant(table):
    plain, frame, rng = table
    y = not_constant(column("continuous", len(frame), rng))
    backwards = frame.iloc[:, ::-1]
    # More than two sums of unequal terms may round apart; the reference decides then.
    assume(reference.codec(y, plain) == reference.codec(y, plain[::-1]) or len(plain) <= 2)
    assert codec(y, backwards) == codec(y, frame)


@given(tables(kinds=("continuous", "lattice")), st.integers(-40, 40))
def test_common_scaling(table, exponent):
    _, frame, rng = table
    y = not_constant(column("lattice", len(frame), rng))
    assert codec(y, frame * 2.0**exponent) == codec(y, frame)


@given(tables(kinds=("lattice",)), st.integers(-1000, 1000))
def test_common_shift(table, shift):
    _, frame, rng = table
    y = not_constant(column("continuous", len(frame), rng))
    assert codec(y, frame + shift) == codec(y, frame)
    assert codec(y, -frame) == codec(y, frame)


@given(st.data(), tables(kinds=("continuous", "lattice")))
def test_a_repeated_column_changes_nothing(data, table):
    plain, frame, rng = table
    assume(len(plain) == 1)
    z = frame["c0"].to_numpy()
    y, nominal = data.draw(responses(len(z), rng))
    value = codec(y, z, nominal_y=nominal)
    assert codec(y, np.column_stack([z, z]), nominal_y=nominal) == value


@given(st.data(), tables(max_columns=1))
def test_what_is_given_adds_nothing(data, table):
    plain, frame, rng = table
    y, nominal = data.draw(responses(len(frame), rng))
    assume(reference.codec(y, plain, plain, nominal_y=nominal) is not None)
    assert codec(y, frame, given=frame, nominal_y=nominal) == 0.0
    constant = np.ones(len(y))
    assert codec(y, constant, given=frame, nominal_y=nominal) == 0.0


@given(st.data(), tables())
def test_at_most_one(data, table):
    plain, frame, rng = table
    y, nominal = data.draw(responses(len(frame), rng))
    for ties in ("average", "random"):
        call = {"ties": ties, "nominal_y": nominal, "rng": 0}
        assert codec(y, frame, **call) <= 1 + 1e-12
        x = column("continuous", len(y), rng)
        assume(reference.codec(y, plain, x, nominal_y=nominal) is not None)
        with warnings.catch_warnings():
            if ties == "random":  # a draw among equally near rows may leave nothing to explain, and T is nan
                warnings.filterwarnings("ignore", "y is a function of given", RuntimeWarning)
            value = codec(y, frame, given=x, **call)
        assert value <= 1 + 1e-12 or (ties == "random" and np.isnan(value))


def test_a_two_level_category_is_its_indicator():
    rng = np.random.default_rng(5)
    flag, other, y = rng.integers(0, 2, 60), rng.normal(size=60), rng.normal(size=60)
    category = pd.DataFrame({"f": pd.Categorical(np.array(["u", "v"])[flag]), "o": other})
    number = pd.DataFrame({"f": flag, "o": other})
    assert codec(y, category) == codec(y, number)
    assert codec(y, category.o, given=category.f) == codec(y, number.o, given=number.f)


def test_equality_distance_is_one_hot_over_root_two():
    rng = np.random.default_rng(6)
    codes, y = rng.integers(0, 4, 80), rng.normal(size=80)
    other = rng.integers(0, 3, 80)
    frame = pd.DataFrame({"c": levels(codes), "o": other})
    # 1 where the levels differ; one-hot columns of 0 and 1 give 2 there. Doubling the
    # squared distance of the other column instead keeps all numbers exact.
    one_hot = np.column_stack([codes[:, None] == np.arange(4), other, other])
    assert codec(y, frame) == expect(reference.codec(y, one_hot.astype(float)))


def test_ordered_category_is_its_codes():
    rng = np.random.default_rng(7)
    codes, y = rng.integers(0, 4, 80), rng.normal(size=80)
    grades = ["bad", "fair", "good", "best"]
    ordered = pd.Categorical.from_codes(codes, categories=grades, ordered=True)
    assert codec(y, ordered) == codec(y, codes)
    assert codec(ordered, y) == codec(codes, y)
    assert codec(pd.Series(ordered), pd.DataFrame({"y": y})) == codec(codes, y)


# ----------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("n", [3, 4, 10, 101])
def test_equally_spaced_identity(n):
    # Z = Y = 1..n: inner points average min(r, r -+ 1) = r - 1/2, the first has 1, the
    # last n - 1, so M - A = n / 2; D = n (n^2 - 1) / 6 and T = 1 - 3 n / (n^2 - 1).
    y = np.arange(1.0, n + 1)
    assert codec(y, y) == pytest.approx(1 - 3 * n / (n**2 - 1), **CLOSE)


@pytest.mark.parametrize("n", [3, 4, 10, 101])
def test_everybody_is_a_neighbor(n):
    # A constant z, or K = n - 1: A = n (n + 1) / 3 for a y without ties: T = -1 / (n - 1)
    rng = np.random.default_rng(n)
    y, z = rng.permutation(n), rng.normal(size=(n, 2))
    expected = pytest.approx(-1 / (n - 1), **CLOSE)
    assert codec(y, np.full(n, 7.0)) == expected
    assert codec(y, z, n_neighbors=n - 1) == expected
    assert codec(y, np.full(n, 7.0), n_neighbors=2) == expected


@pytest.mark.parametrize("nominal", [False, True])
def test_function_of_a_discrete_variable(nominal):
    z = np.tile([0, 3, 5, 9], 6)
    y = np.array([2, 0, 2, 1])[z % 4]
    assert codec(y, z, nominal_y=nominal) == 1.0
    assert codec(y, z, n_neighbors=5, nominal_y=nominal) == 1.0
    assert codec(y, z, ties="random", rng=3, nominal_y=nominal) == 1.0


def test_two_nominal_classes_by_hand():
    # Neighbours 0-1, 2-3, 4-5. Classes a a a b b b. Only rows 2 and 3 disagree:
    # sum p(y_i) = 2 * 1/2 = 1; n sum p^2 (1 - p) = 6 * 2 * 1/8 = 3/2; T = 1 - 2/3.
    y, z = list("aaabbb"), [0, 1, 10, 11, 20, 21]
    assert codec(y, z) == pytest.approx(1 / 3, **CLOSE)


@given(st.data(), tables(max_columns=2, max_rows=15))
def test_nominal_form_as_published(data, table):
    # T = 1 - sum 1(Y_i != Y_N(i)) p(Y_i) / (n sum p^2 (1 - p)); every tied neighbour
    # taken in turn. Here straight from the formula, without M, A and D.
    plain, frame, rng = table
    n = len(frame)
    y = not_constant(column("nominal", n, rng))
    distance = reference.distances(plain)
    p = {c: np.mean(y == c) for c in np.unique(y)}
    loss = 0.0
    for i in range(n):
        nearest = np.flatnonzero(distance[i] == distance[i].min())
        loss += np.mean(y[nearest] != y[i]) * p[y[i]]
    expected = 1 - loss / (n * sum(v**2 * (1 - v) for v in p.values()))
    assert codec(y, frame, nominal_y=True) == pytest.approx(expected, **CLOSE)


def test_unconditional_form_as_published():
    # Q / S of Azadkia and Chatterjee, on tie-free data and with ties in y
    rng = np.random.default_rng(11)
    for y in (rng.normal(size=40), rng.integers(0, 4, 40)):
        z = rng.normal(size=(40, 2))
        n = len(y)
        R = np.array([np.sum(y <= v) for v in y])
        L = np.array([np.sum(y >= v) for v in y])
        distance = ((z[:, None] - z[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distance, np.inf)
        Q = np.sum(np.minimum(R, R[distance.argmin(axis=1)]) - L**2 / n) / n**2
        S = np.sum(L * (n - L)) / n**3
        assert codec(y, z) == pytest.approx(Q / S, **CLOSE)


# ----------------------------------------------------------------------- random draws


def assert_mean(draws, expected):
    """Assert that a mean of draws is right within four of its standard errors."""
    draws = np.asarray(draws)
    error = draws.std(ddof=1) / np.sqrt(len(draws))
    assert error > 0
    assert abs(draws.mean() - float(expected)) <= 4 * error


@pytest.mark.parametrize("n_neighbors", [1, 3])
@pytest.mark.parametrize("kind", ["lattice", "binary", "duplicated"])
def test_random_ties_are_right_on_average(kind, n_neighbors, global_random_seed):
    rng = np.random.default_rng([global_random_seed, 1])
    X = np.column_stack([column(kind, 60, rng) for _ in range(2)])
    if kind == "duplicated":
        X = np.repeat(X[:12], 5, axis=0)  # four equal rows for one or three places
    y = X[:, 0] + rng.normal(size=60)
    exact = reference.codec(y, X, n_neighbors=n_neighbors)
    call = {"ties": "random", "n_neighbors": n_neighbors, "rng": rng}
    assert_mean([codec(y, X, **call) for _ in range(400)], exact)


def test_random_ties_are_right_on_average_given(global_random_seed):
    # The mean of the ratio itself, from the exact distribution of the denominator:
    # differs from the ratio of the means, and from separate draws for both.
    rng = np.random.default_rng([global_random_seed, 2])
    x, z = rng.integers(0, 3, 24), rng.integers(0, 3, 24)
    y = x + z + rng.normal(size=24)  # no ties: a draw can never explain all of y
    exact = reference.expected_random_conditional(y, z, x)
    draws = [codec(y, z, given=x, ties="random", rng=rng) for _ in range(600)]
    assert_mean(draws, exact)
    assert max(draws) <= 1 + 1e-12


def test_random_ties_given_is_one_draw_for_both():
    # Y = f(X, Z): A_XZ = M whatever is drawn, so each single draw is 1 when the
    # denominator uses the neighbours of the numerator.
    rng = np.random.default_rng(8)
    x, z = np.repeat([0, 10, 20], 20), np.tile([0, 1], 30)
    y = x + z
    assert [codec(y, z, given=x, ties="random", rng=rng) for _ in range(20)] == [1.0] * 20


@pytest.mark.parametrize("n_neighbors", [1, 2, 3])
@pytest.mark.parametrize("kind", ["lattice", "binary", "spaced"])
def test_a_draw_is_a_choice_of_rows(kind, n_neighbors):
    # With drawn neighbours K (M - A) is a sum of integers, whatever is drawn; an average is not.
    n = 50
    rng = np.random.default_rng(14)
    z = np.arange(n) if kind == "spaced" else column(kind, n, rng)
    y = rng.permutation(n)
    _, _, d = reference.agreement(y)
    values = [codec(y, z, n_neighbors=n_neighbors, ties="random", rng=rng) for _ in range(30)]
    sums = n_neighbors * (1 - np.array(values)) * d / n
    np.testing.assert_allclose(sums, np.round(sums), rtol=0, atol=1e-6)
    assert len(set(values)) > 1 or (kind, n_neighbors) == ("spaced", 2)


def test_random_neighbors_are_distinct():
    # Three equal rows and K = 2: both others are the neighbours, nothing is left to draw.
    rng = np.random.default_rng(9)
    z, y = np.repeat(np.arange(20) ** 2, 3), rng.normal(size=60)
    exact = codec(y, z, n_neighbors=2)
    for seed in range(10):
        assert codec(y, z, n_neighbors=2, ties="random", rng=seed) == exact


@pytest.mark.parametrize("given_x", [False, True])
def test_without_ties_nothing_is_random(given_x, global_random_seed):
    rng = np.random.default_rng(global_random_seed)
    y, z, x = rng.normal(size=(3, 80))
    x = x if given_x else None
    assert codec(y, z, x, ties="random", rng=1) == codec(y, z, x)
    assert lcodec(y, z, x, noise=0.5, rng=1) == codec(y, z, x)


def function_of_seed(name):
    rng = np.random.default_rng(10)
    y, z, x = rng.integers(0, 4, size=(3, 80))
    if name == "codec":
        return lambda seed: codec(y, z, given=x, ties="random", rng=seed)
    return lambda seed: lcodec(y, z, given=x, n_draws=3, rng=seed)


@pytest.mark.parametrize("name", ["codec", "lcodec"])
def test_seed_fixes_the_draws(name):
    value = function_of_seed(name)
    first = value(7)
    assert value(7) == first
    assert value(np.random.SeedSequence(7)) == first
    assert value(np.random.default_rng(7)) == first
    assert value(np.int64(7)) == first
    assert len({value(seed) for seed in range(5)}) > 1
    rng = np.random.default_rng(7)
    assert len({value(rng) for _ in range(5)}) > 1  # a Generator moves on
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    value(None)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# ---------------------------------------------------------------------------- L-CODEC


@pytest.mark.parametrize("kind", ["lattice", "binary"])
def test_lcodec_tends_to_the_average_over_ties(kind, global_random_seed):
    # Tiny noise makes every one of the tied neighbours equally likely to be the nearest
    # when the ties are duplicates; y has no ties and gets no noise.
    rng = np.random.default_rng([global_random_seed, 3])
    z = np.repeat(np.arange(3.0) if kind == "lattice" else np.arange(2.0), 20)
    y = z + rng.normal(size=len(z))
    exact = reference.codec(y, z)
    draws = [lcodec(y, z, noise=1e-9, rng=rng) for _ in range(400)]
    assert_mean(draws, exact)


def test_lcodec_breaks_the_ties_of_y(global_random_seed):
    # y gets noise too: its ranks become distinct, so T of a function is below 1.
    z = np.repeat(np.arange(4.0), 10)
    assert codec(z, z) == 1.0
    assert lcodec(z, z, noise=1e-6, rng=global_random_seed) < 1.0
    labels = np.array(list("abcd"))[z.astype(int)]
    assert lcodec(labels, z, noise=1e-6, rng=global_random_seed) == 1.0


def test_lcodec_noise_is_relative_to_the_column():
    rng = np.random.default_rng(12)
    y, z = rng.integers(0, 5, size=(2, 100))
    values = {lcodec(y * a, z * b, rng=4) for a, b in product((1, 2.0**20, 2.0**-20), repeat=2)}
    assert len(values) == 1


def test_lcodec_large_noise_leaves_no_dependence(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 4])
    z = rng.integers(0, 4, size=300)
    draws = [lcodec(z, z, noise=1e4, rng=rng) for _ in range(100)]
    # Independent: mean -1 / (n - 1) ~ -0.003, sd of one draw ~ 1 / sqrt(n) = 0.06
    assert abs(np.mean(draws)) < 0.05
    assert lcodec(z, z, noise=1e-4, rng=rng) > 0.5


def test_lcodec_draws_are_averaged(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 5])
    y, z = rng.normal(size=90), rng.integers(0, 3, size=90)
    single = [lcodec(y, z, rng=rng) for _ in range(100)]
    mean_of_25 = [lcodec(y, z, n_draws=25, rng=rng) for _ in range(40)]
    # The sd falls by the root of 25; a factor of 5 with room for 40 values.
    assert np.std(mean_of_25) < np.std(single) / 3
    assert_mean(single, reference.codec(y, z))
    assert_mean(mean_of_25, reference.codec(y, z))


def test_lcodec_given_a_discrete_variable(global_random_seed):
    rng = np.random.default_rng([global_random_seed, 6])
    x, z = rng.integers(0, 3, size=(2, 600))
    y = rng.normal(size=600) + 3 * (x == 1) * (z == 2)
    # Cells of about 67 rows: the noisy value estimates the averaged one. Its sd is near
    # 1 / sqrt(600) = 0.04, that of a mean of 100 draws (the bias of the ratio included)
    # well below 0.02.
    draws = [lcodec(y, z, given=x, noise=1e-6, rng=rng) for _ in range(100)]
    assert np.mean(draws) == pytest.approx(codec(y, z, given=x), abs=0.02)
    assert np.std(draws) > 0


def test_lcodec_leaves_categories_alone():
    # No noise on levels: rows of the same levels stay tied and are averaged.
    rng = np.random.default_rng(13)
    x, z = rng.integers(0, 3, size=(2, 200))
    y = rng.normal(size=200) + 3 * (x == 1) * (z == 2)
    frame = pd.DataFrame({"x": levels(x), "z": levels(z)})
    exact = codec(y, frame.z, given=frame.x)
    assert lcodec(y, frame.z, given=frame.x, noise=0.1, rng=0) == exact
