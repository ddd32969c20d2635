"""Tests of conditional independence: exactness, level, power, closed forms, results, bad input.

Statistical tests have fixed seeds and binomial limits: a test that holds its level fails one of them
less often than once in 10,000 seeds.
"""

import itertools
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from interpreters import assert_no_matrix_of_all_pairs, linux_only
from marks import slowly
from scipy.stats import binom, chi2, chisquare, kstest, norm
from threadpoolctl import threadpool_info, threadpool_limits

from codec import CodecTestResult, codec, codec_test, codec_test_many, fisher_z, g_test
from codec import _inference_kernels as kernels
from codec._dependence import read_response
from codec._graphs import Coefficient
from codec._nulls import Setting, block_sizes, find_strata, make_strata, row_codes
from codec._plans import rank_pvalue, run_sequential, single_thread
from codec._validation import read_table

ONE_IN_10000 = 1e-4


def most(n, p=0.05):
    """How often an event of probability p may happen in n tries."""
    return int(binom.ppf(1.0 - ONE_IN_10000, n, p))


def table(values, name="z"):
    return read_table(values, name)


def confounded(n, rng, d=1, effect=0.0):
    """Y and z both depend on x; effect > 0 makes them depend on each other."""
    x = rng.normal(size=(n, d))
    z = np.sin(x[:, 0]) + 0.7 * rng.normal(size=n)
    y = x[:, 0] ** 2 + 0.7 * rng.normal(size=n) + effect * z
    return y, z, x


# --------------------------------------------------------------------------- the coefficient on fixed graphs
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("nominal", [False, True])
@pytest.mark.parametrize("kind", ["continuous", "lattice", "binary"])
def test_coefficient_on_a_fixed_graph_is_codec(kind, nominal, k):
    rng = np.random.default_rng(3)
    draw = {"continuous": lambda d: rng.normal(size=(60, d)), "lattice": lambda d: rng.integers(0, 3, (60, d)) * 1.0,
            "binary": lambda d: rng.integers(0, 2, (60, d)) * 1.0}[kind]  # fmt: skip
    y, z, x = rng.integers(0, 5, 60) * 1.0, draw(2), draw(2)
    response = table(y, "y")
    response = type(response)(response.columns, np.array([nominal]), response.names, "y")
    for given in (None, x):
        found = Coefficient(response, table(z), None if given is None else table(given, "given"), k, rng).observed()
        assert found == pytest.approx(codec(y, z, given, n_neighbors=k, nominal_y=nominal), abs=1e-12)


def test_too_many_ties_are_sampled():
    z = np.repeat([0.0, 1.0], 50)
    start, target, weight = kernels.neighbor_edges(z[None, :], np.ones(1), np.array([False]), 3, 10, np.uint64(0))
    assert np.all(np.diff(start) == 10)
    assert np.allclose(np.add.reduceat(weight, start[:-1]), 1.0)
    rows = np.repeat(np.arange(100), 10)
    assert np.all(z[rows] == z[target])
    assert np.all(rows != target)
    assert len(set(zip(rows.tolist(), target.tolist(), strict=True))) == 1000


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("nominal", [False, True])
def test_moments_are_those_of_all_permutations(nominal, ties):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 6) * 1.0 if ties or nominal else rng.normal(size=6)
    z = rng.integers(0, 3, (6, 1)) * 1.0 if ties else rng.normal(size=(6, 2))
    response = table(y, "y")
    response = type(response)(response.columns, np.array([nominal]), response.names, "y")
    coefficient = Coefficient(response, table(z), None, 2, rng)
    every = coefficient.values(np.array([list(itertools.permutations(range(6)))]))[0]
    assert coefficient.permutation_moments() == pytest.approx((every.mean(), every.std()), rel=1e-10)


@pytest.mark.parametrize("d", [1, 3])
def test_variance_tends_to_the_published_limit(d):
    """n Var(T) = (2/5)(1 + q) + (4/5) o for K = 1 and no ties (statistics of Shi, Drton & Han)."""
    n = 2000
    rng = np.random.default_rng(0)
    coefficient = Coefficient(table(rng.normal(size=n), "y"), table(rng.normal(size=(n, d))), None, 1, rng)
    near = coefficient.graph.target
    mutual = np.mean(near[near] == np.arange(n))
    degree = np.bincount(near, minlength=n)
    limit = 0.4 * (1.0 + mutual) + 0.8 * np.mean(degree * (degree - 1.0))
    assert n * coefficient.permutation_moments()[1] ** 2 == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize(("d", "k"), [(1, 1), (3, 5), (10, 1)])
def test_asymptotic_pvalue_is_near_the_permutation_one(d, k):
    rng = np.random.default_rng(d)
    z = rng.normal(size=(1000, d))
    y = rng.normal(size=1000)
    coefficient = Coefficient(table(y, "y"), table(z), None, k, rng)
    mean, spread = coefficient.permutation_moments()
    null = np.concatenate(
        [coefficient.values(np.array([[rng.permutation(1000) for _ in range(200)]]))[0] for _ in range(50)]
    )
    for p in (0.5, 0.1, 0.05, 0.01):
        tail = norm.sf((np.quantile(null, 1.0 - p) - mean) / spread)
        assert tail == pytest.approx(p, abs=0.01 + 3 * np.sqrt(p / null.size))
    assert codec_test(y, z, method="asymptotic", n_neighbors=k).pvalue == pytest.approx(
        codec_test(y, z, n_neighbors=k, n_resamples=4999, rng=0).pvalue, abs=0.03
    )


def test_the_normal_limit_warns_where_z_is_tied():
    """Two values: T is near a chi-square of one degree of freedom, of which .04 lie beyond 2.33 standard deviations."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    assert chi2.sf(1.0 + norm.isf(0.01) * np.sqrt(2.0), 1) == pytest.approx(0.04, abs=0.005)
    with pytest.warns(UserWarning, match="z has 2 different values in 300 rows"):
        assert "use method='permutation'" in codec_test(y, np.arange(300) % 2, method="asymptotic").describe()
    assert codec_test(y, np.arange(300) % 150, method="asymptotic").notes == ()


# --------------------------------------------------------------------------- permutations
def test_stratified_permutations_are_uniform():
    strata = make_strata(np.array([0, 1, 0, 1, 0]))
    drawn = kernels.stratified_permutations(strata.start, strata.rows, 12_000, np.uint64(5))
    codes = [tuple(row) for row in drawn]
    counts = pd.Series(codes).value_counts()
    assert len(counts) == 12  # 3! times 2!
    assert chisquare(counts).pvalue > ONE_IN_10000


def test_local_permutations_stay_near_and_hardly_repeat():
    near = np.array([[i, (i + 1) % 50, (i - 1) % 50, (i + 2) % 50] for i in range(50)])
    drawn = kernels.local_permutations(near, 200, np.uint64(1))
    assert all(drawn[b, i] in near[i] for b in range(200) for i in range(50))
    assert np.mean([len(set(row)) for row in drawn]) > 45


def test_kernels_equal_their_source(monkeypatch):
    """Compiled and plain Python give the same numbers."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 5, (3, 20)) * 1.0
    order = np.argsort(rows, axis=1)
    near = rng.integers(0, 20, (20, 4)).astype(np.int32)
    assert np.array_equal(kernels.average_ranks(rows, order), kernels.average_ranks.py_func(rows, order))
    assert np.array_equal(kernels.regular_sums(near, rows), kernels.regular_sums.py_func(near, rows))
    codes, cells = rng.integers(0, 3, (2, 20)), rng.integers(0, 4, 20)
    assert np.allclose(
        kernels.table_entropy(codes, cells, 3, 4), kernels.table_entropy.py_func(codes, cells, 3, 4), rtol=1e-14
    )


def test_blocks_cover_all_draws():
    assert sum(block_sizes(999, 1_000_000)) == 999
    assert max(block_sizes(999, 1_000_000)) == 16
    assert block_sizes(50, 10**9) == [1] * 50


def test_rank_pvalue_counts_equal_copies():
    assert rank_pvalue(np.array([1.0, 0.5, 1.0 - 1e-12, 2.0])) == 0.75
    assert rank_pvalue(np.array([3.0, 1.0, 2.0])) == pytest.approx(1 / 3)


def test_permutation_pvalue_is_exact_on_all_data_sets():
    """All orders of y are equally likely under independence: P(p <= a) <= a, counted, not simulated."""
    z = np.array([0.0, 0.3, 1.1, 2.5, 4.0])
    pvalues = []
    for order in itertools.permutations(range(5)):
        for seed in range(4):
            result = codec_test(np.array(order), z, n_neighbors=1, n_resamples=19, rng=[*order, seed])
            pvalues.append(result.pvalue)
    pvalues = np.array(pvalues)
    assert pvalues.size == 480
    assert pvalues.min() == 0.05
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.sum(pvalues <= level) <= most(480, level)


# --------------------------------------------------------------------------- level
def test_unconditional_pvalues_are_uniform():
    rng = np.random.default_rng(0)
    pvalues = [
        codec_test(rng.normal(size=40), rng.normal(size=(40, 2)), n_resamples=199, rng=seed).pvalue
        for seed in range(300)
    ]
    assert kstest(pvalues, "uniform").pvalue > ONE_IN_10000


@pytest.mark.parametrize("statistic", ["codec", "omnibus"])
def test_stratified_pvalues_are_uniform(statistic):
    rng = np.random.default_rng(1)
    pvalues = []
    for seed in range(200):
        x = rng.integers(0, 4, 100)
        y, z = x + rng.normal(size=100), x**2 + rng.normal(size=100)
        result = codec_test(y, z, x, statistic=statistic, n_resamples=99, rng=seed)
        assert result.exact
        assert result.method == "stratified"
        pvalues.append(result.pvalue)
    assert kstest(pvalues, "uniform").pvalue > ONE_IN_10000


@pytest.mark.parametrize(
    ("kind", "d"),
    [
        ("binary z", 1), ("nominal y", 3),
        slowly("continuous", 1), slowly("binary y", 3),
        slowly("continuous", 3), slowly("binary y", 1), slowly("binary z", 3), slowly("nominal y", 1),
    ],
)  # fmt: skip
def test_omnibus_holds_its_level(kind, d):
    rng = np.random.default_rng(d)
    hits = 0
    for seed in range(60):
        y, z, x = confounded(120, rng, d)
        if kind == "binary y":
            y = (y > 1.0).astype(float)
        if kind == "binary z":
            z = z > 0
        if kind == "nominal y":
            y = pd.Categorical(np.digitize(y, [0.3, 1.2]))
        hits += codec_test(y, z, x, n_resamples=39, rng=seed).pvalue <= 0.05
    assert hits <= most(60)


def test_codec_statistic_holds_its_level():
    rng = np.random.default_rng(4)
    hits = sum(
        codec_test(*confounded(150, rng), statistic="codec", n_resamples=99, rng=seed).pvalue <= 0.05
        for seed in range(80)
    )
    assert hits <= most(80)


@pytest.mark.parametrize(
    "kind", ["several", slowly("numbers"), slowly("counts"), slowly("two values"), slowly("three classes")]
)
def test_codec_statistic_holds_its_level_beside_a_shared_signal(kind):
    """Nearest rows of (x, z) know more of a signal in both than those of x; copies of y must have it as well."""
    rng = np.random.default_rng(5)
    hits, n = 0, 30
    for seed in range(n):
        x = rng.normal(size=(200, 3))
        signal = np.tanh(2.0 * x[:, 0]) + x[:, 1] * x[:, 2]
        z, y = signal + 0.4 * rng.normal(size=(2, 200))
        if kind == "counts":
            y = np.round(2.0 * y)
        elif kind == "two values":
            y = (y > 0.0).astype(float)
        elif kind == "three classes":
            y = pd.Series(np.digitize(y, [-0.7, 0.7])).astype("category")
        elif kind == "several":
            y = pd.DataFrame({"a": y, "b": pd.Series(np.digitize(y, [-0.7, 0.7])).astype("category"), "c": y > 0.0})
        hits += codec_test(y, z, x, statistic="codec", n_resamples=99, rng=seed).pvalue <= 0.05
    assert hits <= most(n)


def few_values(kind, f, rng):
    """Columns of few values that depend on f: what is left of them tells their fitted value."""
    e = rng.normal(size=f.size)
    return {
        "five": lambda: np.digitize(f + 0.5 * e, [-1.5, -0.5, 0.5, 1.5]),
        "rounded": lambda: np.round(f + 0.5 * e),
        "binomial": lambda: rng.binomial(2, 1.0 / (1.0 + np.exp(-2.0 * f))),
        "censored": lambda: np.maximum(f + 0.3 * e, 0.0),
        "two columns": lambda: np.column_stack([f + 0.5 * e > 0.0, f + 0.5 * rng.normal(size=f.size) > 0.0]),
        "two": lambda: f + 0.5 * e > 0.0,
        "numbers": lambda: f + 0.1 * e,
        "three": lambda: np.digitize(f + 0.1 * e, [-0.5, 0.5]),
    }[kind]()


@pytest.mark.filterwarnings("ignore:y and z look like the same", "ignore:the noise of y and of z")
@pytest.mark.parametrize(
    ("y", "z", "statistic"),
    [
        ("censored", "censored", "omnibus"), ("three", "numbers", "codec"), slowly("five", "five", "omnibus"),
        slowly("rounded", "rounded", "omnibus"), slowly("binomial", "binomial", "omnibus"),
        slowly("two columns", "two", "omnibus"),
    ],
)  # fmt: skip
def test_few_values_of_the_same_function_are_no_evidence(y, z, statistic):
    """Plain residuals and continuous copies: .43 to .96 of such null hypotheses were rejected."""
    hits, n = 0, 30
    for seed in range(n):
        rng = np.random.default_rng([seed, 14])
        x = rng.normal(size=(200, 3))
        f = x.sum(axis=1) / np.sqrt(3.0)
        first, second = few_values(y, f, rng), few_values(z, f, rng)
        hits += codec_test(first, second, x, statistic=statistic, n_resamples=39, rng=seed).pvalue <= 0.05
    assert hits <= most(n, 0.07)


def test_few_values_that_depend_on_each_other_are_found():
    found = 0
    for seed in range(10):
        rng = np.random.default_rng([seed, 15])
        x, noise = rng.normal(size=(300, 2)), rng.normal(size=300)
        y, z = (
            np.digitize(x[:, 0] + 0.8 * noise + 0.6 * rng.normal(size=300), [-1.5, -0.5, 0.5, 1.5]) for _ in range(2)
        )
        found += codec_test(y, z, x, rng=seed).pvalue <= 0.05
    assert found >= 9


def test_rare_classes_beside_numbers_are_copied():
    """A column whose classes are all pooled has no part in copies of the order of y or z."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1))
    both = pd.DataFrame({"id": pd.Categorical([f"row {i}" for i in range(60)]), "number": rng.normal(size=60)})
    with pytest.warns(UserWarning, match="classes of z with fewer"):
        copied = codec_test(rng.normal(size=60), both, x, statistic="codec", method="crt", n_resamples=39, rng=0)
    assert np.unique(copied.null_distribution).size > 30
    with pytest.warns(UserWarning, match="classes of y with fewer"):
        ordered = codec_test(
            both, rng.normal(size=60), x, statistic="codec", method="local-permutation", n_resamples=39, rng=0
        )
    assert ordered.pvalue > 0.025


@pytest.mark.filterwarnings("ignore:classes of y with fewer")
@pytest.mark.parametrize("statistic", [slowly("omnibus"), "codec"])
def test_rare_classes_are_no_evidence(statistic):
    """Half of the rows in classes of one or two rows: copies that repeat them differ from data that cannot."""
    hits, n = 0, 60
    for seed in range(n):
        rng = np.random.default_rng([seed, 12])
        y = rng.permutation(np.concatenate([rng.integers(0, 3, 50), np.arange(3, 33), np.arange(33, 43).repeat(2)]))
        x = rng.normal(size=(100, 2))
        z = (
            pd.Series(rng.integers(0, 3, 100)).astype("category")
            if statistic == "codec"
            else x[:, 0] + rng.normal(size=100)
        )
        text = [f"class {value}" for value in y]
        hits += codec_test(text, z, x, statistic=statistic, n_resamples=39, rng=seed).pvalue <= 0.05
    assert hits <= most(n)


def test_rare_classes_are_pooled_and_said_to_be():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 1))
    text = np.array(["a", "b"])[rng.integers(0, 2, 120)].astype(object)
    text[:6] = [f"rare {i}" for i in range(6)]
    with pytest.warns(UserWarning, match="fewer than 5 rows were taken as one"):
        pooled = codec_test(text, rng.normal(size=120), x, rng=0)
    assert "taken as one" in pooled.describe()
    with pytest.raises(ValueError, match="no class of y has 5 rows"):
        codec_test([f"row {i}" for i in range(120)], rng.normal(size=120), x, rng=0)
    once = pd.Series(np.repeat(["a", "b", "c"], 40))
    assert codec_test(once, rng.normal(size=120), x, rng=0).notes == ()


def test_copies_of_the_order_of_y():
    """Numbers: each row once, in the order of fit + noise. Without noise, and within strata: what is known."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    smooth = 3.0 * np.tanh(x[:, 0])
    y = pd.DataFrame({"number": smooth + 0.3 * rng.normal(size=300), "class": np.where(smooth > 0.0, "up", "down")})
    y["three"] = pd.cut(smooth, [-np.inf, -1.0, 1.0, np.inf], labels=["low", "middle", "high"], ordered=False)
    response = read_response(y, "auto")
    drawn = Setting(response, read_table(x, "given"), None, rng).index_null().draw(20, 1)
    assert drawn.shape == (3, 20, 300)
    assert np.array_equal(np.sort(drawn[0], axis=1), np.tile(np.arange(300), (20, 1)))
    copies = y["number"].to_numpy()[drawn[0]]
    assert np.corrcoef(copies.mean(axis=0), smooth)[0, 1] > 0.98
    assert np.std(copies - smooth) == pytest.approx(0.3, rel=0.15)
    for name, rows in zip(["class", "three"], drawn[1:], strict=True):
        assert np.mean(y[name].to_numpy()[rows] == y[name].to_numpy()) > 0.85


def test_codec_statistic_of_a_function_of_given():
    x, z = np.random.default_rng(0).normal(size=(2, 400))
    with pytest.warns(UserWarning, match="y is a function of given"):
        assert codec_test(np.sin(2.0 * x), z, x, statistic="codec", n_resamples=99, rng=0).pvalue == 1.0


def test_codec_statistic_where_rounding_is_all_that_is_left():
    rng = np.random.default_rng(1)
    x, z = rng.integers(0, 4, 67), rng.normal(size=67)
    with pytest.warns(RuntimeWarning, match="function of given"):
        assert np.isnan(codec(x**2, z, x, n_neighbors=6))
    with pytest.raises(ValueError, match="function of given"):
        codec_test(x**2, z, x, statistic="codec", n_neighbors=6)


def test_copies_that_are_functions_of_given_count_against_the_data():
    """The largest T is 1; copies without a second class have none."""
    x, e = np.random.default_rng(0).normal(size=(2, 60))
    z = pd.Series(np.where(e > 0.0, "up", "down")).astype("category")
    y = np.isin(np.arange(60), [3, 40])
    result = codec_test(y, z, x, statistic="codec", rng=0)
    assert result.method == "category"
    assert np.sum(result.null_distribution == 1.0) > 50
    assert result.null_distribution.max() == 1.0
    assert np.isfinite(result.null_distribution).all()
    assert result.pvalue > 0.05


@pytest.mark.slow
def test_shared_signal_keeps_the_level_and_warns():
    """The same strong function in y and z: plain residuals reject in a third of such data."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        x = rng.normal(size=(200, 3))
        f = np.sin(1.5 * x @ [0.6, 0.6, -0.5])
        y, z = (f / f.std() + np.sqrt(0.1) * rng.normal(size=200) for _ in range(2))
        with pytest.warns(UserWarning, match="same strong function"):
            hits += codec_test(y, z, x, n_resamples=39, rng=seed).pvalue <= 0.05
    assert hits <= most(60)


@pytest.mark.filterwarnings("ignore:y and z look like", "ignore:the noise of y and of z")
@pytest.mark.parametrize("tail", [slowly(np.exp, id="exp"), pytest.param(lambda v: v**3, id="cube")])
def test_heavy_tails_change_neither_level_nor_power(tail):
    """With plainly standardized columns an outlier hides how all other rows differ: every such null is rejected."""
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(60):
        x = rng.normal(size=(200, 3))
        f = np.sin(1.5 * x @ [0.6, 0.6, -0.5])
        y, z = (f / f.std() + np.sqrt(0.1) * rng.normal(size=200) for _ in range(2))
        hits += codec_test(y, z, tail(2.0 * x), n_resamples=39, rng=seed).pvalue <= 0.05
    assert hits <= most(60, 0.1)
    a, e = rng.normal(size=(2, 300))
    x = rng.normal(size=(300, 2))
    y, z = np.sin(x[:, 0]) + a * e, x[:, 1] ** 2 + a
    assert codec_test(tail(2.0 * y), tail(2.0 * z), tail(2.0 * x), rng=0).pvalue <= 0.01


def test_shared_scale_warns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    scale = np.exp(1.2 * np.sin(1.5 * x[:, 0]))
    with pytest.warns(UserWarning, match="grows and shrinks"):
        result = codec_test(scale * rng.normal(size=400), scale * rng.normal(size=400), x, n_resamples=39, rng=0)
    assert "grows and shrinks" in result.describe()


def test_true_sampler_is_exact():
    rng = np.random.default_rng(2)

    def sampler(x, generator):
        return np.sin(x[:, 0]) + 0.7 * generator.normal(size=len(x))

    pvalues = [
        codec_test(*confounded(60, rng), method="crt", sampler=sampler, n_resamples=39, rng=seed).pvalue
        for seed in range(200)
    ]
    assert kstest(pvalues, "uniform").pvalue > ONE_IN_10000


@pytest.mark.slow
def test_copies_without_a_sampler_keep_the_level_and_find_a_rare_dependence():
    rng = np.random.default_rng(8)
    hits = 0
    for seed in range(80):
        x = rng.normal(size=(150, 3))
        f = np.sin(1.5 * x @ [0.6, 0.6, -0.5])
        y, z = (f + 0.5 * rng.normal(size=150) for _ in range(2))
        hits += codec_test(y, z > 0.0, x, method="crt", n_resamples=39, rng=seed).pvalue <= 0.05
    assert hits <= most(80)
    x, z, e = rng.normal(size=(3, 400))
    result = codec_test(np.exp(3.0 * z * x) + e, pd.Categorical(z > 1.3), x, method="crt", rng=0)
    assert result.pvalue <= 0.01
    assert result.method == "crt-nearest"
    assert not result.exact


# --------------------------------------------------------------------------- power
@pytest.mark.parametrize(
    ("noise", "statistic", "method"),
    [
        ("linear", "omnibus", "auto"),
        ("variance", "omnibus", "auto"),
        ("interaction", "omnibus", "auto"),
        ("linear", "codec", "auto"),
        ("linear", "omnibus", "crt"),
    ],
)
def test_power(noise, statistic, method):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(400, 2))
    a, e = rng.normal(size=(2, 400))
    b = {"linear": a + 0.3 * e, "variance": e * np.exp(a), "interaction": a * np.sign(x[:, 0]) + 0.3 * e}[noise]
    result = codec_test(np.sin(x[:, 0]) + b, x[:, 1] ** 2 + a, x, statistic=statistic, method=method, rng=0)
    assert result.pvalue <= 0.01


def test_several_columns_and_mixed_types():
    rng = np.random.default_rng(6)
    n = 300
    group = pd.Categorical(rng.choice(["a", "b", "c"], n))
    given = pd.DataFrame({"group": group, "size": rng.normal(size=n)})
    shift = group.codes + given["size"].to_numpy()
    z = pd.DataFrame({"number": shift + rng.normal(size=n), "kind": pd.Categorical(rng.choice(["u", "v"], n))})
    y = np.column_stack([shift + rng.normal(size=n), rng.normal(size=n) + 2.0 * (z["kind"] == "u")])
    assert codec_test(y, z, given, rng=0).pvalue == 0.005
    assert codec_test(y[:, 0], z, given, rng=0).pvalue > 0.01
    labels = np.where(y[:, 1] > 1, "high", "low")
    assert codec_test(labels, z, given, rng=0).method == "category"
    assert codec_test(labels, z, given, rng=0).pvalue == 0.005


def test_discrete_data_find_an_interaction():
    rng = np.random.default_rng(0)
    x, z = rng.integers(0, 2, (2, 200))
    noisy = np.where(rng.random(200) < 0.2, rng.integers(0, 2, 200), x ^ z)
    result = codec_test(noisy, z, x, rng=0)
    assert result.pvalue == 0.005
    assert set(result.terms) >= {"covariance", "table"}


# --------------------------------------------------------------------------- results
def test_result_unpacks_describes_and_pickles():
    rng = np.random.default_rng(0)
    result = codec_test(*confounded(100, rng), rng=0)
    statistic, pvalue = result
    assert (statistic, pvalue) == (result.statistic, result.pvalue)
    assert result.null_distribution.shape == (199,)
    assert result.n_samples == 100
    text = result.describe()
    assert "approximate" in text
    assert "smoothed anew" in text
    assert "<table>" in result._repr_html_()
    again = pickle.loads(pickle.dumps(result))
    assert again.pvalue == result.pvalue
    assert pvalue == rank_pvalue(np.concatenate([[statistic], result.null_distribution]))
    with pytest.raises(ValueError, match="holds that of 'omnibus'"):
        result.confidence_interval()


def test_descriptions_say_what_was_done():
    rng = np.random.default_rng(0)
    y, z, x = confounded(100, rng)
    assert "Shah" in codec_test(y, z, x, n_resamples=19, rng=0).describe()
    for limit in (codec_test(y, z, method="asymptotic"), fisher_z(y, z, x), g_test(y > 0, z > 0, method="asymptotic")):
        assert "a limit for many rows" in limit.describe()
        assert "Shah" not in limit.describe()
    kinds = pd.Series(np.where(z > 0.0, "up", "down")).astype("category")
    for statistic in ("codec", "omnibus"):
        options = {"method": "crt", "statistic": statistic, "n_resamples": 19, "rng": 0}
        assert "classes drawn from their fitted probabilities" in codec_test(y, kinds, x, **options).describe()
        assert "fitted values plus residuals" in codec_test(y, z, x, **options).describe()


def test_same_seed_same_bits_whatever_the_threads():
    rng = np.random.default_rng(0)
    y, z, x = confounded(300, rng, 3)
    Z = np.column_stack([z, rng.normal(size=(300, 3))])
    found = []
    for threads, n_jobs in ((1, 1), (2, 2), (2, 4)):
        with threadpool_limits(threads):
            single = codec_test(y, z, x, rng=7)
            many = codec_test_many(y, Z, x, n_resamples=199, n_jobs=n_jobs, rng=7)
        found.append((single.statistic, single.null_distribution.tobytes(), many.statistic.tobytes()))
    assert found[0] == found[1] == found[2]
    assert many.statistic[0] == single.statistic


def test_overlapping_calls_restore_the_threads_of_linear_algebra():
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        first, second = single_thread(), single_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == {2}


def test_inputs_are_not_changed():
    rng = np.random.default_rng(0)
    data = confounded(80, rng)
    copies = [part.copy() for part in data]
    codec_test(*data, rng=0)
    assert all(np.array_equal(a, b) for a, b in zip(data, copies, strict=True))


def test_missing_values():
    rng = np.random.default_rng(0)
    y, z, x = confounded(100, rng)
    y[3], z[10] = np.nan, np.nan
    with pytest.raises(ValueError, match="NaN"):
        codec_test(y, z, x)
    with pytest.warns(UserWarning, match="2 of 100 rows"):
        result = codec_test(y, z, x, nan_policy="omit", rng=0)
    assert (result.n_samples, result.n_omitted) == (98, 2)
    keep = ~(np.isnan(y) | np.isnan(z))
    assert result.pvalue == codec_test(y[keep], z[keep], x[keep], rng=0).pvalue
    with pytest.warns(UserWarning, match="rows"):
        codec_test(y, z, x, nan_policy="omit", method="crt", n_resamples=19, rng=0)


def test_sequential_stops_early_under_the_null_only():
    rng = np.random.default_rng(0)
    y, z, x = confounded(150, rng)
    result = codec_test(y, z, x, sequential=True, n_resamples=999, rng=0)
    assert result.stopped
    assert result.n_resamples < 999
    assert result.pvalue == 10 / result.n_resamples
    assert "Stopped early" in result.describe()
    strong = codec_test(y + 2 * z, z, x, sequential=True, n_resamples=99, rng=0)
    assert (strong.pvalue, strong.stopped) == (0.01, False)
    hits = [codec_test(*confounded(60, rng), sequential=True, n_resamples=99, rng=seed).pvalue for seed in range(150)]
    assert np.sum(np.array(hits) <= 0.05) <= most(150)


@pytest.mark.parametrize(
    ("reaching", "pvalue", "used"),
    [
        (range(30, 40), 10 / 40, 40),  # exactly ten, the last copy is the tenth
        (range(31, 40), 10 / 41, 40),  # nine: all copies count, and the data
        (range(10), 10 / 10, 10),
        (range(5, 40, 2), 10 / 24, 24),  # the tenth is copy 5 + 2 * 9, counted from 0; later ones do not count
    ],
)
def test_sequential_pvalue_by_hand(reaching, pvalue, used):
    copies = iter([float(i in set(reaching)) for i in range(40)])
    null = SimpleNamespace(observed=lambda: [1.0], draw=lambda size, _: [next(copies) for _ in range(size)])
    statistic = SimpleNamespace(values=lambda drawn: np.array([drawn]))
    plan, data = SimpleNamespace(n_resamples=40), SimpleNamespace(entries=1)
    found = run_sequential(null, statistic, plan, data, np.random.default_rng(0))
    assert found.pvalue == pytest.approx(pvalue)
    assert found.stopped == (len(reaching) >= 10)
    assert len(found.copies) == used


def test_sequential_terms_that_differ_by_rounding_are_constant():
    """With a class of its own for every row, permutations change nothing: no p-value is small."""
    z = pd.Series([f"row {i}" for i in range(20)]).astype("category")
    pvalues = [
        codec_test(np.arange(20) % 2, z, statistic="omnibus", sequential=True, n_resamples=99, rng=seed).pvalue
        for seed in range(40)
    ]
    assert np.sum(np.array(pvalues) <= 0.05) <= most(40)


def test_pvalue_is_never_zero():
    z = np.arange(50.0)
    assert codec_test(z, z, n_resamples=99, rng=0).pvalue == 0.01


@linux_only
@pytest.mark.slow
def test_memory_is_linear_in_rows():
    """A matrix of all pairs of 20,000 rows would take 3,200 MB."""
    setup = """
    from codec import codec_test
    X = np.random.default_rng(0).normal(size=(20_000, 3))
    y = X[:, 0] + np.random.default_rng(1).normal(size=20_000)
    def work(X, y):
        z = X[:, 1] + np.random.default_rng(2).normal(size=len(y))
        codec_test(y, z, X, n_resamples=39, rng=0)
    """
    assert_no_matrix_of_all_pairs(setup, 600)


# --------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"statistic": "best"}, ValueError, "statistic is 'best'"),
        ({"method": "exact"}, ValueError, "method is 'exact'"),
        ({"method": "asymptotic"}, ValueError, "tests without given"),
        ({"method": "permutation"}, ValueError, "rows with the same X"),
        ({"n_resamples": 0}, ValueError, "n_resamples is 0"),
        ({"n_resamples": 9.5}, TypeError, "n_resamples"),
        ({"n_neighbors": 100}, ValueError, "n_neighbors is 100"),
        ({"sampler": lambda x, _: x}, ValueError, "samplers belong to"),
        ({"sequential": True, "method": "crt"}, ValueError, "copies one by one"),
        ({"sequential": 1}, TypeError, "sequential"),
        ({"rng": "seed"}, (TypeError, ValueError), "rng"),
    ],
)
def test_bad_options(options, error, message):
    y, z, x = confounded(60, np.random.default_rng(0))
    with pytest.raises(error, match=message):
        codec_test(y, z, x, **options)


@pytest.mark.parametrize("method", ["local-permutation", "crt"])
def test_methods_that_need_given(method):
    y, z, _ = confounded(60, np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs given"):
        codec_test(y, z, method=method)


def test_constants_and_functions_of_given():
    y, z, x = confounded(60, np.random.default_rng(0))
    with pytest.raises(ValueError, match="y is constant"):
        codec_test(np.ones(60), z, x)
    with pytest.raises(ValueError, match="z is constant"):
        codec_test(y, np.ones(60), x)
    group = np.repeat([0, 1, 2], 20)
    with pytest.raises(ValueError, match="function of given"):
        codec_test(group, z, group, statistic="codec")
    assert codec_test(group, z, group, rng=0).pvalue == 1.0
    assert codec_test(y, z, np.ones(60), rng=0).exact


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda _, rng: rng.normal(size=10), "shaped like z"),
        (lambda _, rng: rng.normal(size=(60, 2)), "shaped like z"),
        (lambda _x, _rng: np.full(60, np.nan), "missing or infinite"),
    ],
)
def test_bad_samplers(sampler, message):
    y, z, x = confounded(60, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        codec_test(y, z, x, method="crt", sampler=sampler, n_resamples=19)


def test_sampler_of_categories():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    z = pd.Series(pd.Categorical(rng.choice(["u", "v", "w"], 80)))
    result = codec_test(
        x + rng.normal(size=80), z, x, method="crt", n_resamples=39, rng=0,
        sampler=lambda x, generator: generator.choice(["u", "v", "w"], len(x)),
    )  # fmt: skip
    assert result.exact
    for statistic in ("codec", "omnibus"):
        near = codec_test(x, z, x + rng.normal(size=80), method="crt", statistic=statistic, n_resamples=39, rng=0)
        assert near.method == "crt-nearest"
        assert not near.exact


@pytest.mark.parametrize("statistic", ["codec", "omnibus"])
def test_categories_of_a_draw_are_those_of_z_by_label(statistic):
    """However the sampler numbers its labels, the draws are the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    labels = np.array(["low", "mid", "high"])
    kind = pd.CategoricalDtype(labels)
    z = pd.Series(rng.choice(labels, 80)).astype(kind)
    y = x + rng.normal(size=80)

    def answer(z, form):
        def sampler(x, generator):
            return form(generator.choice(labels, len(x)))

        result = codec_test(y, z, x, method="crt", sampler=sampler, statistic=statistic, n_resamples=39, rng=0)
        return result.statistic, result.pvalue

    same = [lambda v: pd.Series(v, dtype=kind), lambda v: pd.Series(v).astype("category"), pd.Categorical]
    found = {answer(z, form) for form in [np.asarray, *same]}
    frame = z.to_frame("z")
    found |= {answer(frame, lambda v, make=make: pd.DataFrame({"z": make(v)})) for make in [np.asarray, *same]}
    assert len(found) == 1
    with pytest.raises(ValueError, match="categories that z does not have"):
        answer(z, lambda v: pd.Series(np.char.upper(v)).astype("category"))


def test_warnings_about_copies_and_lonely_rows():
    y, z, _ = confounded(60, np.random.default_rng(0))
    with pytest.warns(UserWarning, match=r"cannot be less than 0\.1"):
        codec_test(y, z, n_resamples=9, rng=0)
    lonely = np.concatenate([np.zeros(42), np.arange(1, 19)])
    with pytest.warns(UserWarning, match="30% of the rows"):
        codec_test(y, z, lonely, rng=0)


def test_strata_are_found():
    assert find_strata(table(np.repeat([1.0, 2.0], 10), "given")).alone == 0.0
    assert find_strata(table(np.arange(20.0), "given")) is None
    assert list(row_codes(table(np.array([3.0, 1.0, 3.0]), "given"))) == [0, 1, 0]


def test_no_warning_on_ordinary_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = codec_test(*confounded(200, np.random.default_rng(0), 4), rng=0)
    assert isinstance(result, CodecTestResult)
    assert result.notes == ()


def test_two_results_can_be_compared():
    y, z = np.random.default_rng(0).standard_normal((2, 30))
    first, second = (codec_test(y, z, n_resamples=19, rng=0) for _ in range(2))
    assert first == first
    assert first != second


@pytest.mark.parametrize("statistic", ["codec", "omnibus"])
def test_categories_of_a_draw_are_those_of_z_after_rows_are_left_out(statistic):
    """As an array of objects z would have no categories, and the codes of the draws would not be its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    labels = np.array(["low", "mid", "high"])
    z = pd.Categorical(rng.choice(labels, 80), categories=labels)
    y = np.where(np.arange(80) == 3, np.nan, x + rng.normal(size=80))

    def sampler(x, generator):
        return generator.choice(labels, len(x))

    options = {"method": "crt", "sampler": sampler, "statistic": statistic, "n_resamples": 39, "rng": 0}
    rows = np.arange(80) != 3
    with pytest.warns(UserWarning, match="left out"):
        found = codec_test(y, z, x, nan_policy="omit", **options)
    assert tuple(found) == tuple(codec_test(y[rows], z[rows], x[rows], **options))


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_are_all_equally_near_are_refused(seed):
    """Every permutation gives the same T, and what rounding leaves of its variance is no scale."""
    y, z = np.random.default_rng(seed).normal(size=(2, 40))
    for rows, options in ((z, {"n_neighbors": 39}), (pd.Series(pd.Categorical(np.arange(40))), {})):
        with pytest.raises(ValueError, match="every permutation of y gives the same T"):
            codec_test(y, rows, statistic="codec", method="asymptotic", **options)


def test_asymptotic_warns_of_a_rare_class_of_y():
    rng = np.random.default_rng(0)
    z = rng.normal(size=1000)
    for y in (np.arange(1000) < 5, pd.Categorical(np.where(np.arange(1000) < 5, "rare", "usual"))):
        with pytest.warns(UserWarning, match="y has the same value in 995 of 1000 rows: .* use method='permutation'"):
            assert len(codec_test(y, z, method="asymptotic").notes) == 1
    for y in (np.arange(1000) < 500, rng.normal(size=1000), rng.integers(0, 9, 1000)):
        assert codec_test(y, z, method="asymptotic").notes == ()
    assert codec_test(z[:50], z[50:100], method="asymptotic").notes == ()


def nothing_to_see(n, seed):
    """Y varies where z does not, so that every copy has the covariances and the table of the data."""
    rng = np.random.default_rng(seed)
    given = np.arange(n) // (n // 4)
    y = np.where(given == 0, 0.1 * rng.integers(0, 5, n), 0.0) + 0.3 * given
    return y, np.where(given == 1, 0.7 * rng.integers(0, 7, n), 1.0), given


@pytest.mark.parametrize("n", [400, 3000])
def test_copies_that_differ_by_rounding_are_equal(n):
    """From 2,000 rows on products are made in float32; the residual CODEC breaks ties by chance, and alone decides."""
    for seed in range(3):
        result = codec_test(*nothing_to_see(n, seed), n_resamples=39, rng=seed)
        constant = {name for name, term in result.terms.items() if (term.score, term.pvalue) == (0.0, 1.0)}
        assert constant == set(result.terms) - {"codec"}
        assert result.pvalue in {1.0, result.terms["codec"].pvalue}


@pytest.mark.parametrize("seed", [4, 7])
def test_a_sequential_test_does_not_see_rounding(seed):
    """It was 18 and 25 times as large as its spread over the copies that terms are standardized by."""
    assert codec_test(*nothing_to_see(3000, seed), n_resamples=39, sequential=True, rng=seed).statistic < 5.0
