"""Rows that are there twice."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris

from codec import MarkovBlanketSelector, codec_test, codec_test_many
from codec._blanket_graph import markov_blanket_graph
from codec._validation import read_table, rows_without_copies


def _data(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 6))
    return X, X[:, 0] + X[:, 1] * X[:, 2] + rng.standard_normal(n)


def _rows(*arrays: np.ndarray) -> np.ndarray | None:
    return rows_without_copies([read_table(array, "X") for array in arrays])


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.05, 2.0), missing=st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_rows_are_those_of_pandas(seed: int, share: float, missing: bool) -> None:
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.integers(0, 2, 80), rng.standard_normal((80, 2))])
    if missing:
        X[rng.random(X.shape) < 0.1] = np.nan
    X = X[np.r_[np.arange(80), rng.integers(80, size=int(np.ceil(share * 80)))]]
    X = X[rng.permutation(len(X))]
    y = np.where(np.isnan(X[:, 0]), 0.5, X[:, 0])
    frame = pd.DataFrame(np.column_stack([X, y]))
    nothing_but_a_category = np.isnan(X[:, 1:]).all(axis=1)  # no row is known by it
    expected = np.flatnonzero(~frame.duplicated().to_numpy() | nothing_but_a_category)
    np.testing.assert_array_equal(_rows(X, y), expected)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["one decimal", "two decimals", "ages", "categories", "distinct"])
def test_rows_that_agree_by_chance_are_no_copies(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 300)
    ages = rng.integers(18, 90, 300)
    tables = {
        "one decimal": rng.standard_normal(300).round(1),
        "two decimals": rng.standard_normal(300).round(2),
        "ages": np.column_stack([ages, 2026 - ages]),  # one is a function of the other
        "categories": rng.integers(0, 3, (300, 3)),
        "distinct": rng.standard_normal((300, 2)),
    }
    assert _rows(tables[kind], y) is None


def _inflated(rng: np.random.Generator, n: int, p: int, zeros: float) -> np.ndarray:
    """Columns with a value that many rows share, as of rain, spending or a detector's limit."""
    return rng.exponential(size=(n, p)) * (rng.random((n, 1)) >= zeros)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("zeros", [0.1, 0.15, 0.25, 0.5])
def test_zeros_that_many_rows_share_are_no_copies(zeros: float, p: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = _inflated(rng, 300, p, zeros)
    assert _rows(X, _inflated(rng, 300, 1, zeros)) is None  # independent
    assert _rows(X, rng.exponential(size=300) * (X[:, 0] > 0)) is None  # y is zero where X is


def test_copies_beside_zeros_are_found() -> None:
    rng = np.random.default_rng(0)
    X, y = _inflated(rng, 300, 2, 0.2), _inflated(rng, 300, 1, 0.2)
    again = np.flatnonzero((X[:, 0] > 0) | (y[:, 0] > 0))
    kept = _rows(np.r_[X, X[again]], np.r_[y, y[again]])
    np.testing.assert_array_equal(kept, np.arange(300))


def test_zeros_in_common_are_not_found_to_be_dependent() -> None:
    """Of a hundred, five are expected at level .05, and twelve are less likely than .002."""
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        X, y = _inflated(rng, 300, 1, 0.25), _inflated(rng, 300, 1, 0.25)[:, 0]
        found += MarkovBlanketSelector(random_state=seed).fit(X, y).support_.any()
    assert found < 12


@pytest.mark.parametrize("seed", range(5))
def test_zeros_that_depend_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = _inflated(rng, 300, 1, 0.25)
    y = rng.exponential(size=300) * (X[:, 0] > 0)
    assert MarkovBlanketSelector(random_state=seed).fit(X, y).support_.all()


def _units(rng: np.random.Generator, sizes: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of units that have the same X each, and a y of two values."""
    X = np.repeat(rng.standard_normal((sizes.size, 2)), sizes, axis=0)
    return X, (rng.random(len(X)) < share).astype(float)


def _amounts(rng: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Whole amounts, most of them near one value, and a rare event."""
    x = np.where(rng.random(n) < 0.6, np.round(15 * rng.standard_normal(n) + 300), np.round(rng.uniform(0, 1500, n)))
    return x[:, None], (rng.random(n) < share).astype(float)


@pytest.mark.parametrize("seed", range(20))
def test_several_rows_of_a_unit_or_an_amount_are_measurements(seed: int) -> None:
    rng = np.random.default_rng(seed)
    few_are_large = np.r_[np.full(20, 16), np.ones(160, int)]
    for table in (
        _units(rng, few_are_large, 0.1), _units(rng, few_are_large, 0.3), _units(rng, np.full(60, 4), 0.2),
        _amounts(rng, 1000, 0.015), _amounts(rng, 500, 0.02),
    ):  # fmt: skip
        assert _rows(*table) is None


@pytest.mark.parametrize("seed", range(10))
def test_copies_are_found_in_many_kinds_of_tables(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, few = rng.standard_normal((100, 3)), rng.integers(0, 2, 100)
    tables = [
        (x, x[:, 0] > 0.3),
        (x[:, :1], few),
        (x, np.minimum(x[:, 0], 0.5)),
        (_inflated(rng, 100, 3, 0.5), x[:, 0]),
    ]
    for X, y in tables:
        np.testing.assert_array_equal(_rows(np.r_[X, X], np.r_[y, y]), np.arange(100))
        again = rng.integers(100, size=100)
        assert _rows(X[again], y[again]).size == np.unique(again).size
    minority = np.r_[np.arange(100), np.repeat(np.arange(10), 7)]
    np.testing.assert_array_equal(_rows(x[minority], (np.arange(100) < 10)[minority]), np.arange(100))


def test_units_of_which_one_is_measured_are_not_found_to_be_dependent() -> None:
    found = 0
    for seed in range(20):
        X, y = _units(np.random.default_rng(seed), np.r_[np.full(20, 16), np.ones(160, int)], 0.1)
        found += MarkovBlanketSelector(random_state=seed).fit(X, y).support_.any()
    assert found < 6  # of 20; of level .05 with probability .0003


def test_the_two_equal_flowers_of_iris_are_left() -> None:
    X, y = load_iris(return_X_y=True)
    assert pd.DataFrame(np.column_stack([X, y])).duplicated().sum() == 1
    assert _rows(X, y) is None


def test_repeated_measurements_of_y_are_no_copies() -> None:
    X, y = _data(0)
    noise = np.random.default_rng(1).standard_normal(y.size)
    assert _rows(np.r_[X, X], np.r_[y, y + noise]) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_table_written_twice_gives_the_same_blanket(seed: int) -> None:
    X, y = _data(seed)
    once = MarkovBlanketSelector(random_state=seed).fit(X, y)
    twice = MarkovBlanketSelector(random_state=seed)
    with pytest.warns(UserWarning, match=r"200 of 400 rows are copies of other rows"):
        twice.fit(np.r_[X, X], np.r_[y, y])
    np.testing.assert_array_equal(once.blanket_, twice.blanket_)
    np.testing.assert_array_equal(once.pvalues_, twice.pvalues_)
    assert twice.path_.n_samples == 200


def test_halves_of_split_share_no_row() -> None:
    X, y = _data(4)
    once = MarkovBlanketSelector(random_state=0, split=0.5).fit(X, y)
    with pytest.warns(UserWarning, match="copies"):
        twice = MarkovBlanketSelector(random_state=0, split=0.5).fit(np.r_[X, X], np.r_[y, y])
    np.testing.assert_array_equal(once.pvalues_, twice.pvalues_)  # of 100 rows that the search has not seen


def test_a_graph_of_a_table_written_twice() -> None:
    X, y = _data(5)
    table = np.column_stack([X[:, :3], y])
    once = markov_blanket_graph(table, random_state=0)
    with pytest.warns(UserWarning, match="200 of 400 rows are copies"):
        twice = markov_blanket_graph(np.r_[table, table], random_state=0)
    np.testing.assert_array_equal(once.matrix, twice.matrix)


def test_tests_say_that_rows_are_copies() -> None:
    X, y = _data(6)
    X2, y2 = np.r_[X, X[:50]], np.r_[y, y[:50]]
    with pytest.warns(UserWarning, match=r"50 of 250 rows are copies .* pass each once"):
        result = codec_test(y2, X2[:, 5], X2[:, :2], rng=0)
    assert any("copies" in note for note in result.notes)
    with pytest.warns(UserWarning, match="50 of 250 rows are copies"):
        codec_test_many(y2, X2[:, 3:], X2[:, :3], rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codec_test(y, X[:, 5], X[:, :2], rng=0)
