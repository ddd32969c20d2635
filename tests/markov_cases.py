"""Data and shorthands of the tests of the calibrated search."""

import numpy as np
import pandas as pd

from codec import MarkovBlanketSelector

LEARNED = ("support_", "blanket_", "scores_", "pvalues_", "n_tests_")


def fit(X, y, **options):
    return MarkovBlanketSelector(**{"random_state": 0, **options}).fit(X, y)


def chosen(X, y, **options):
    return sorted(fit(X, y, **options).blanket_.tolist())


def normal(n, p, seed=0):
    return np.random.default_rng(seed).standard_normal((n, p))


def product_of_two():
    """y depends on x1 and x4 through their product, and on nothing else."""
    X = normal(150, 6)
    return X, X[:, 1] * X[:, 4] + 0.3 * normal(150, 1, 1)[:, 0]


def mixed_frame():
    """Numbers, an ordered and an unordered category; y depends on `colour`, `grade` and `size`."""
    rng = np.random.default_rng(3)
    n = 300
    X = pd.DataFrame(
        {
            "size": rng.standard_normal(n),
            "weight": rng.standard_normal(n),
            "grade": pd.Categorical(rng.choice(["low", "mid", "high"], n), ["low", "mid", "high"], ordered=True),
            "colour": pd.Categorical(rng.choice(["red", "green", "blue"], n)),
            "shape": pd.Categorical(rng.choice(["round", "square"], n)),
            "fixed": 7.0,
        }
    )
    y = 2.0 * (X.colour == "red") + X.grade.cat.codes + X["size"] + 0.3 * rng.standard_normal(n)
    return X, y.to_numpy()


def same_fit(a, b):
    for name in LEARNED:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    pd.testing.assert_frame_equal(a.path_.to_frame(), b.path_.to_frame())
