"""Columns of many levels: ids, ratings, and categories that no network can pay for."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from codec import MarkovBlanketSelector


def ratings(n, k, rho, seed):
    """Two columns of k equally frequent values with a normal copula, and four more of noise."""
    rng = np.random.default_rng(seed)
    pair = rng.multivariate_normal([0.0, 0.0], [[1.0, rho], [rho, 1.0]], n).T
    x, y = np.floor(norm.cdf(pair) * k).astype(int)
    return np.column_stack([x, rng.integers(0, k, (n, 4))]), y


def fit(X, y, **options):
    return MarkovBlanketSelector(random_state=0, **options).fit(X, y)


@pytest.mark.parametrize("kind", ["normal", "t2"])
def test_an_id_of_its_own_in_every_row_says_nothing(kind, global_random_seed):
    """All permutations have the same terms, to rounding: selected in 3 of 5, which chance does once in a thousand times."""
    found = 0
    for seed in range(5):
        rng = np.random.default_rng([global_random_seed, seed])
        X = pd.DataFrame({"id": pd.Categorical([f"p{i}" for i in range(200)]), "x": rng.normal(size=200)})
        y = rng.normal(size=200) if kind == "normal" else rng.standard_t(2, 200)
        found += 0 in fit(X, y).blanket_
    assert found < 3


@pytest.mark.parametrize(("k", "n", "rho"), [(10, 150, 0.5), (5, 200, 0.5), (10, 1000, 0.5)])
def test_ratings_have_an_order(k, n, rho, global_random_seed):
    """Fisher's z of the two is 6 or more: found, and all columns shifted by a half are the same table."""
    X, y = ratings(n, k, rho, global_random_seed)
    found = fit(X, y)
    assert found.path_.method != "discrete"
    assert 0 in found.blanket_
    assert list(found.blanket_) == list(fit(X + 0.5, y).blanket_)


def test_three_values_go_to_the_search_for_discrete_data():
    X, y = ratings(300, 3, 0.7, 0)
    found = fit(X, y)
    assert found.path_.method == "discrete"
    assert list(found.blanket_) == [0]


@pytest.mark.parametrize(("k", "n", "rho"), [(10, 1000, 0.5), (10, 200, 0.8)])
def test_categories_of_many_levels_that_depend_are_found(k, n, rho, global_random_seed):
    """No network pays for 81 probabilities; what depends on something has a blanket all the same."""
    X, y = ratings(n, k, rho, global_random_seed)
    table = pd.DataFrame({str(j): pd.Categorical(column) for j, column in enumerate(X.T)})
    found = fit(table, pd.Series(pd.Categorical(y)))
    assert found.path_.method == "discrete"
    assert 0 in found.blanket_
    reasons = [decision.reason for decision in found.path_.decisions if decision.action == "entered"]
    assert all("networks" in reason or "no network" in reason for reason in reasons)
