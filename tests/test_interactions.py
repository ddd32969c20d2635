"""Products of two columns that a smoother of many columns misses: which are found, and the level of the tests with them."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy.stats import binom
from test_jumps import parts, penalized, smoothed

from codec import codec_test
from codec._interactions import LEAST_NEW, MOST, find_products

N_COLUMNS = 20


def data(function, seed, n=200, noise=1.0, d=N_COLUMNS):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    f = function(x)
    return x, f / f.std() + noise * rng.standard_normal(n), f / f.std() + noise * rng.standard_normal(n)


def names(points, found):
    """Which columns the products are of."""
    every = {(j, k): points[:, j] * points[:, k] for j, k in combinations_with_replacement(range(points.shape[1]), 2)}
    return [next(pair for pair, product in every.items() if np.array_equal(product, one)) for one in found]


@pytest.mark.parametrize(
    ("function", "pairs"),
    [
        (lambda x: x[:, 3] * x[:, 11], {(3, 11)}),
        (lambda x: x[:, 5] ** 2, {(5, 5)}),
        (lambda x: x[:, 0] * x[:, 1] + x[:, 2] * x[:, 3], {(0, 1), (2, 3)}),
    ],
)
def test_the_products_are_found(function, pairs):
    for seed in range(10):
        x, v, _ = data(function, seed, noise=0.7)
        points, column, residuals = smoothed(x, v)
        found = names(points, find_products(*parts(points, column, residuals)))
        assert pairs <= set(found)
        assert len(found) <= len(pairs) + 2


def test_each_is_the_one_that_lowers_the_penalized_sum_of_squares_most():
    x, v, _ = data(lambda x: x[:, 0] * x[:, 1] + x[:, 2] ** 2 - x[:, 3] * x[:, 4], 1, n=150, noise=0.3, d=8)
    points, column, residuals = smoothed(x, v)
    _, left, functions, shrinkage = parts(points, column, residuals)
    found = names(points, find_products(points, left, functions, shrinkage))
    assert 2 <= len(found) <= MOST
    taken = []

    def new(product):  # of more than the smoother follows of it
        away = product - product.mean()
        return penalized(functions, shrinkage, away, taken) > LEAST_NEW * (away @ away)

    for pair in found:
        reached = {
            (j, k): penalized(functions, shrinkage, column, [*taken, points[:, j] * points[:, k]])
            for j, k in combinations_with_replacement(range(8), 2)
            if new(points[:, j] * points[:, k])
        }
        assert min(reached, key=reached.get) == pair
        taken.append(points[:, pair[0]] * points[:, pair[1]])


def test_of_noise_products_are_rare():
    """At most one in twenty by chance, as for steps: within what 60 samples show of that."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(60):
        points, column, residuals = smoothed(rng.standard_normal((200, N_COLUMNS)), rng.standard_normal(200))
        found += bool(find_products(*parts(points, column, residuals)))
    assert found <= binom.ppf(0.9999, 60, 0.05)


def test_few_columns_need_none():
    x, v, _ = data(lambda x: x[:, 0] * x[:, 1], 0, d=6)
    points, column, residuals = smoothed(x, v)
    assert find_products(*parts(points, column, residuals)) == []


def test_one_row_far_out_makes_no_product():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 8))
    x[0, :2], v = 12.0, rng.standard_normal(200)
    v[0] = 30.0
    points, column, residuals = smoothed(x, v)
    found = find_products(*parts(points, column, residuals))
    assert (0, 1) not in names(points, found)


@pytest.mark.parametrize("statistic", ["omnibus", "codec"])
def test_a_shared_product_is_no_evidence(statistic):
    """.35 to .44 of samples were rejected at .05 before; up to .13 is what remains of a signal that no smoother finds."""
    pvalues = []
    for seed in range(30):
        x, y, z = data(lambda x: x[:, 0] * x[:, 1], seed)
        pvalues.append(codec_test(y, z, x, statistic=statistic, rng=seed).pvalue)
    assert np.sum(np.array(pvalues) <= 0.05) <= binom.ppf(0.999, 30, 0.13)
