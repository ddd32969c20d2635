"""Selection in chunks of rows: the median of what each finds."""

import re

import joblib
import numpy as np
import pandas as pd
import pytest
import reference_impl as reference

from codec import foci, lfoci


def chunk_table(n=900):
    rng = np.random.default_rng(21)
    X = pd.DataFrame(rng.normal(size=(n, 8)), columns=[f"g{k}" for k in range(8)])
    X["levels"] = pd.Categorical(rng.choice(list("uvw"), n))
    return X, X.g1 * X.g4 + X.g6 + (X.levels == "u") + 0.1 * rng.normal(size=n)


@pytest.mark.parametrize("select", [foci, lfoci])
@pytest.mark.parametrize("ties", ["average", "random"])
def test_one_chunk_is_the_plain_selection(select, ties):
    X, y = chunk_table()
    call = {"rng": 3, "stop": False, "max_features": 4}
    if select is foci:
        call["ties"] = ties
    reference.assert_identical(select(X, y, chunks=1, **call), select(X, y, **call))
    reference.assert_identical(select(X, y, chunks=None, **call), select(X, y, **call))


@pytest.mark.parametrize("include", [None, ["g3", "levels"]])
@pytest.mark.parametrize("chunks", [2, 5])
def test_chunks_by_hand(chunks, include):
    # Disjoint random rows, a selection on each with the weights of the whole table, the union, all rows.
    X, y = chunk_table()
    call = {"standardize": None, "n_neighbors": 3, "include": include}
    path = foci(X, y, chunks=chunks, rng=5, **call)
    rows = np.array_split(np.random.default_rng(5).permutation(len(X)), chunks)
    assert sum(r.size for r in rows) == len(X)
    picks = [foci(X.iloc[np.sort(r)], y.iloc[np.sort(r)], **call).names for r in rows]
    union = set().union(*picks)
    kept = [name for name in X.columns if name in union or name in (include or [])]
    plain = foci(X[kept], y, **call)
    assert path.names == plain.names
    np.testing.assert_array_equal(path.cumulative, plain.cumulative)
    np.testing.assert_array_equal(path.conditional, plain.conditional)
    assert [X.columns[j] for j in path.order] == list(path.names)
    assert path.include == tuple(include or ())
    assert path.n_features == X.shape[1]
    assert path.n_samples == len(X)
    free = X.shape[1] - len(include or [])
    assert path.stopped.endswith(f"Candidates were the {len(union)} of {free} that {chunks} chunks of the rows picked.")


def test_chunks_that_pick_everything_give_the_plain_path():
    X, y = chunk_table()
    for standardize in ("scale", "rank"):
        call = {"stop": False, "standardize": standardize}
        path, plain = foci(X, y, chunks=3, rng=0, **call), foci(X, y, **call)
        assert path.order.tolist() == plain.order.tolist()
        np.testing.assert_array_equal(path.cumulative, plain.cumulative)


@pytest.mark.slow
def test_chunks_follow_the_seed_and_no_worker():
    X, y = chunk_table()
    for select, options in ((foci, {}), (foci, {"ties": "random"}), (lfoci, {})):
        call = {"chunks": 4, "rng": 7, "stop": False, "max_features": 3, **options}
        alone = select(X, y, **call)
        for n_jobs in (2, -1):
            reference.assert_identical(select(X, y, n_jobs=n_jobs, **call), alone)
        with joblib.parallel_config(backend="loky", n_jobs=2):
            reference.assert_identical(select(X, y, **call), alone)


def test_chunks_of_several_responses():
    X, y = chunk_table(150)
    X = X[["g0", "g1", "g6", "levels"]]
    Y = np.column_stack([y, X.g0 + X.g1])
    path = foci(X, Y, chunks=2, rng=0, stop=False)
    np.testing.assert_array_equal(path.cumulative, foci(X, Y, stop=False).cumulative)


def test_chunks_where_a_column_is_constant():
    # A rare flag is constant in most chunks; the scale is that of the whole table.
    X, y = chunk_table()
    X["rare"] = np.arange(len(X)) < 2
    assert "g6" in foci(X, y, chunks=6, rng=0).names


def test_chunks_that_cannot_be():
    X, y = chunk_table(60)
    for chunks, error in ((0, ValueError), (21, ValueError), (1.5, TypeError), ("two", TypeError)):
        with pytest.raises(error, match="chunks is"):
            foci(X, y, chunks=chunks)
    with pytest.raises(ValueError, match="between 1 and 5"):
        foci(X, y, chunks=6, n_neighbors=10)
    with pytest.raises(ValueError, match="y is constant in a chunk of 20 rows; pass a smaller number of chunks"):
        foci(X, np.arange(60) == 7, chunks=3)


def test_chunks_that_find_nothing():
    # A constant column, which no chunk picks; one that may look useful in a chunk, but not in the end.
    y = np.tile([0.0, 1.0], 30)
    for column, n_picked in ((np.zeros(60), "0"), (np.arange(60.0), "[01]")):
        path = foci(column[:, None], y, chunks=2, rng=0, standardize=None)
        assert len(path) == 0
        assert re.search(f"Candidates were the {n_picked} of 1 that 2 chunks", path.stopped)


def test_chunks_show_their_progress(capfd):
    X, y = chunk_table(200)
    foci(X, y, chunks=2, rng=0, verbose=True)
    err = capfd.readouterr().err
    assert "foci on 2 chunks of rows" in err
    assert "foci step 1" in err
