"""Names of columns and the SelectionPath: what a selection returns and shows."""

import contextlib
import dataclasses
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
import reference_impl as reference

import codec
from codec import _forward, _selection, foci, lfoci

# -------------------------------------------------------------------- names, the result


@pytest.fixture
def example():
    rng = np.random.default_rng(12)
    X = pd.DataFrame(rng.normal(size=(150, 4)), columns=["a", "b <i>", "c & d", "e"])
    y = X["b <i>"] ** 2 + 0.5 * X["c & d"] + 0.05 * rng.normal(size=150)
    return X, y


def test_names(example):
    X, y = example
    path = foci(X, y, stop=False)
    assert [X.columns[j] for j in path.order] == list(path.names)
    array = foci(X.to_numpy(), y, stop=False)
    assert list(array.names) == [f"x{j}" for j in array.order]
    assert array.order.tolist() == path.order.tolist()
    polars = foci(pl.DataFrame(dict(X.items())), pl.Series(y), stop=False)
    reference.assert_identical(polars, path)
    assert all(isinstance(name, str) for name in path.names)


def test_include_by_name_and_index(example):
    X, y = example
    by_name = foci(X, y, include=["e", "a"], stop=False)
    by_index = foci(X, y, include=[3, 0], stop=False)
    reference.assert_identical(by_name, by_index)
    assert set(by_name.include) == {"a", "e"}
    assert sorted(by_name.order.tolist()) == [1, 2]
    assert foci(X, y).include == ()
    reference.assert_identical(foci(X, y, include=[]), foci(X, y))
    # The base counts: T of the first step is T given the included columns.
    raw = foci(X, y, include=[0], stop=False, standardize=None)
    first = X.iloc[:, raw.order[0]]
    expected = codec.codec(y, first, given=X.a)
    assert raw.conditional[0] == pytest.approx(expected, abs=1e-12)
    with_base = codec.codec(y, X.iloc[:, [0, raw.order[0]]])
    assert raw.cumulative[0] == pytest.approx(with_base, abs=1e-12)


def test_fields(example):
    X, y = example
    path = foci(X, y, stop=False)
    assert path.n_samples == 150
    assert path.n_features == 4
    assert path.n_omitted == 0
    assert path.method == "foci"
    assert lfoci(X, y, rng=0).method == "lfoci"
    assert len(path) == len(path.names) == len(path.order) == 4
    assert path.order.dtype.kind == "i"
    assert path.cumulative.dtype == path.conditional.dtype == np.float64
    assert path.seconds.shape == (4,)
    assert np.all(path.seconds >= 0)
    assert path.stopped == "Stopped: no candidate is left."
    assert foci(X, y, max_features=1).stopped == "Stopped: max_features = 1 reached."


def test_frozen(example):
    path = foci(*example)
    with pytest.raises(dataclasses.FrozenInstanceError):
        path.order = np.array([0])
    with pytest.raises(ValueError, match="read-only"):
        path.order[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        path.cumulative[0] = 3


def test_to_frame(example):
    path = foci(*example, stop=False)
    frame = path.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 4
    flat = frame.reset_index()
    for expected in (path.names, path.cumulative, path.conditional, path.seconds):
        matches = [c for c in flat if list(flat[c]) == list(expected)]
        assert matches, f"no column holds {expected}"


def test_repr(example):
    path = foci(*example, stop=False)
    text = repr(path)
    for name, t in zip(path.names, path.cumulative, strict=True):
        assert name in text
        assert f"{t:.3f}"[:4] in text
    html = path._repr_html_()
    assert "b &lt;i&gt;" in html
    assert "c &amp; d" in html
    assert "<i>" not in html


def test_html_escapes_included_names(example):
    X, y = example
    html = foci(X, y, include=["b <i>"])._repr_html_()
    assert "<i>" not in html


@pytest.mark.parametrize("bars", [True, False], ids=["tqdm", "plain"])
def test_verbose(bars, example, capfd, monkeypatch):
    X, y = example
    quiet = foci(X, y)
    assert capfd.readouterr() == ("", "")
    if not bars:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # as where tqdm is not installed
    loud = foci(X, y, verbose=True)
    reference.assert_identical(loud, quiet)
    out, err = capfd.readouterr()
    assert out == ""
    # a bar or a line for each step, the last of which found nothing to add
    before = [f", T = {t:.4f}" for t in loud.cumulative]
    titles = [f"foci step {k + 1}: {k} selected{t}" for k, t in enumerate(["", *before])]
    shown = [part.partition(" |")[0] for part in err.replace("\r", "\n").splitlines()]
    assert list(dict.fromkeys(filter(None, shown))) == titles
    assert err.count("100%") >= len(titles) if bars else len(shown) == len(titles)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_within_a_step(q, n_jobs, monkeypatch):
    # Shares of a step arrive while it runs, none is negative, and they add up to one.
    steps = []

    @contextlib.contextmanager
    def record(method, verbose, what):
        shares = []
        yield shares.append
        steps.append((what.partition(",")[0], shares))

    monkeypatch.setattr(_selection, "show_progress", record)
    rng = np.random.default_rng(20)
    X = rng.normal(size=(300, 40))
    foci(X, X[:, :q], include=[39], stop=False, max_features=3, n_jobs=n_jobs)
    assert [what for what, _ in steps] == [f"step {k}: {k} selected" for k in (1, 2, 3)]
    for _, shares in steps:
        assert len(shares) > 2
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("by_numba", [True, False])
def test_interrupt_that_numba_wraps(by_numba, example, monkeypatch):
    # Ctrl-C while a compiled function boxes its results arrives as a SystemError.
    def sums(*_, **__):
        try:
            raise KeyboardInterrupt if by_numba else ZeroDivisionError
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr(_forward, "candidate_sums", sums)
    with pytest.raises(KeyboardInterrupt if by_numba else SystemError):
        foci(*example)
