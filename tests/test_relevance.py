"""The Gaussian process that looks at all features once more: scikit-learn's likelihood, differences, chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from codec._family import Features, single_columns, with_indicators
from codec._relevance import Form, Process, make_targets, needed_outside
from codec._validation import read_table


@pytest.fixture
def blocks() -> list[np.ndarray]:
    """Three features of one, two and one columns."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(d, 40)) for d in (1, 2, 1)]


def test_likelihood_and_gradient_are_those_of_scikit_learn(blocks):
    rng = np.random.default_rng(1)
    targets = rng.normal(size=(2, 40)) + np.sin(blocks[0])
    parameters = np.array([-0.4, 0.3, -1.2, 0.2, -0.7])
    value, gradient = Process(targets, blocks).gradient(parameters)

    per_column = parameters[[0, 1, 1, 2]]
    kernel = ConstantKernel(np.exp(0.2)) * RBF(np.exp(-0.5 * per_column)) + WhiteKernel(np.exp(-0.7))
    model = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(np.concatenate(blocks).T, targets.T)
    theirs, slopes = model.log_marginal_likelihood(kernel.theta, eval_gradient=True)  # s, four length scales, t
    assert value == pytest.approx(theirs + 40 * np.log(2.0 * np.pi), rel=1e-10)  # 2 targets, n / 2 log 2 pi each
    scales = -0.5 * slopes[1:5]  # a weight is 1 / scale^2
    assert gradient == pytest.approx([scales[0], scales[1] + scales[2], scales[3], slopes[0], slopes[5]], rel=1e-8)
    assert Process(targets, blocks).likelihood(parameters) == pytest.approx(value, rel=1e-12)


def test_slopes_are_differences_of_the_likelihood(blocks):
    rng = np.random.default_rng(2)
    y = rng.normal(size=40)
    logs = np.array([-0.4, 0.1, -0.6])
    alone, together = Process(y[None, :], blocks[:1]).slopes(logs)

    def likelihood(weight: float, size: float, x: np.ndarray) -> float:
        distance = (blocks[0].T - blocks[0]) ** 2
        K = np.exp(0.1 - 0.5 * (np.exp(-0.4) * distance + weight * (x[:, None] - x) ** 2))
        K += size * np.exp(-0.5 * 0.1 * distance) * np.outer(x, x) + np.exp(-0.6) * np.eye(40)
        return -0.5 * (y @ np.linalg.solve(K, y) + np.linalg.slogdet(K)[1])

    h = 1e-5
    for x in blocks[1]:
        by_weight = (likelihood(h, 0.0, x) - likelihood(-h, 0.0, x)) / (2.0 * h)
        by_size = (likelihood(0.0, h, x) - likelihood(0.0, -h, x)) / (2.0 * h)
        assert alone.values(x[None, :])[0] == pytest.approx(by_weight, rel=1e-5)
        assert together.values(x[None, :])[0] == pytest.approx(by_size, rel=1e-5)


def test_forms_know_what_noise_gives():
    rng = np.random.default_rng(7)
    half = rng.normal(size=(30, 30))
    form = Form(half + half.T, rng.normal(size=30))
    values = form.values(rng.normal(size=(20_000, 30)))
    mean, deviation = form.of_noise()
    assert abs(values.mean() - mean) < 5.0 * deviation / np.sqrt(20_000)
    assert values.std() == pytest.approx(deviation, rel=0.05)


def test_targets_say_everything_about_y_once():
    rng = np.random.default_rng(3)
    y = rng.normal(size=(200, 2))
    y = np.column_stack([y, 3.0 * y[:, 0], np.ones(200)])  # a copy and a constant
    targets = make_targets(read_table(y, "y"))
    assert targets.shape == (2, 200)
    assert targets @ targets.T / 200 == pytest.approx(np.eye(2), abs=1e-10)


def draw(seed: int, n: int, p: int) -> tuple[np.ndarray, Features, np.random.Generator]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return X, single_columns(read_table(X, "X")), rng


def test_finds_what_acts_beside_many_members():
    X, features, rng = draw(4, 400, 30)
    y = X[:, :6].sum(axis=1) + 1.2 * X[:, 0] * np.tanh(2.0 * X[:, 7]) + rng.normal(size=400)
    found = needed_outside(read_table(y, "y"), features, range(6), range(6, 30), 0.05)
    assert [one.feature for one in found] == [7]
    assert found[0].pvalue * 24 <= 0.05
    assert found[0].gain > 3.0
    # Half of chi2 with one degree of freedom: the weight of a feature is at its bound or above it.
    assert found[0].pvalue == pytest.approx(norm.sf(np.sqrt(2.0 * found[0].gain)), rel=1e-9, abs=0.0)


def test_names_no_more_by_chance_than_the_level_says():
    n_runs, level = 60, 0.2
    names = 0
    for seed in range(n_runs):
        X, features, rng = draw(seed, 80, 12)
        y = np.sin(2.0 * X[:, 0]) + X[:, 1] + 0.5 * rng.standard_t(5, size=80)
        names += bool(needed_outside(read_table(y, "y"), features, (0, 1), range(2, 12), level))
    assert names <= binom.ppf(1.0 - 1e-4, n_runs, level)


def test_rows_that_are_there_twice_count_once():
    X, _, rng = draw(8, 60, 6)
    y = X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=60)
    once, thrice = (
        needed_outside(read_table(np.repeat(y, k), "y"), single_columns(read_table(np.repeat(X, k, axis=0), "X")), (0,), range(1, 6), 0.05)
        for k in (1, 3)
    )  # fmt: skip
    assert once == thrice
    assert {one.feature for one in once} <= {1, 2}


def test_constant_features_are_not_needed():
    rng = np.random.default_rng(6)
    constant = single_columns(read_table(np.column_stack([rng.normal(size=50), np.ones(50)]), "X"))
    assert needed_outside(read_table(rng.normal(size=50), "y"), constant, (0,), (1,), 0.05) == []


@pytest.mark.parametrize(("gap", "slope"), [(0.05, 1.0), (0.1, 3.0), (0.3, 3.0)])
def test_a_member_with_gaps_names_no_noise(gap, slope):
    """A third to two thirds of samples named some, of six columns of noise; at .025 four of 25 have a chance of .003."""
    named = 0
    for r in range(25):
        rng = np.random.default_rng(r)
        X = rng.standard_normal((200, 7))
        y = slope * X[:, 0] + 0.2 * rng.standard_normal(200)
        X[rng.random(200) < gap, 0] = np.nan
        features = with_indicators(single_columns(read_table(X, "X")))
        named += bool(needed_outside(read_table(y, "y"), features, [0], list(range(1, 7)), 0.025))
    assert named < 4


def test_a_member_that_is_hardly_ever_recorded_ends_the_look():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 3))
    y = X[:, 0] + X[:, 1]
    X[40:, 0] = np.nan
    features = with_indicators(single_columns(read_table(X, "X")))
    assert needed_outside(read_table(y, "y"), features, [0], [1, 2], 0.025) == []
