"""The benchmark of the tests runs, counts rightly and makes the data it says it makes."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codec import codec

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_ci")


@pytest.fixture
def data(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("_ci_data")


@pytest.mark.slow
def test_quick_run_shows_level_and_power():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "bench_ci.py"), "--quick"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["level", "power"]


def test_rates_have_their_binomial_interval(bench):
    found = [bench.Found(p, p) for p in [0.005] * 3 + [0.03] * 2 + [0.5] * 95]
    report = bench.summary(found, cpu=1.0, warned=2, null=True)
    assert report["at 0.05"]["rate"] == 0.05
    assert report["at 0.01"]["rate"] == 0.03
    assert report["at 0.05"]["low"] < 0.02 < 0.1 < report["at 0.05"]["high"]  # Clopper-Pearson: .016 to .113
    assert report["uniformity"] < 1e-6
    assert report["cpu_s"] == 0.01


def test_only_what_is_missing_runs(bench):
    cell = bench.Cell("level", "snr 2", 60, 1, {"codec": 4, "gcm": 3})
    first = bench.run_cell(cell, {}, bench.missing(cell, {}, None, "old"), "old")
    assert {m: r["repetitions"] for m, r in first["methods"].items()} == {"codec": 4, "gcm": 3}
    assert bench.missing(cell, first, None, "new") == {}
    assert bench.missing(cell, first, "codec", "old") == {}
    assert bench.missing(cell, first, "codec", "new") == {"codec": 4}
    first["methods"]["gcm"]["repetitions"] = 2
    assert bench.missing(cell, first, None, "new") == {"gcm": 3}


def test_equal_copies_are_counted_by_chance(bench):
    rng = np.random.default_rng(3)
    halves = np.repeat([0, 1], 8)
    tied = [bench.with_codec(*(rng.permutation(halves) for _ in range(3)), seed) for seed in range(40)]
    assert all(0.0 < found.ties_at_random < found.pvalue <= 1.0 for found in tied)
    y, z, x = rng.normal(size=(3, 50))
    one = bench.with_codec(y, z, x, 0)  # nothing is tied: a share of the observed value's own place is counted
    assert 0.0 < one.pvalue - one.ties_at_random < 1 / 100


def test_cells_are_all_different_and_reproducible(bench):
    cells = list(bench.all_cells({}, 10, 5))
    assert len({cell.key for cell in cells}) == len(cells) == 85
    first, again = cells[0].draw(3, {}), cells[0].draw(3, {})
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_data_outside_what_smoothing_assumes(data):
    rng = np.random.default_rng(1)
    for _ in range(5):
        y, _, x = data.null("y without noise", 500, 1, rng)
        assert codec(y, x, rng=0) > 0.9
        y, z, x = data.null("shared jump", 500, 1, rng)
        above = x[:, 0] > x[:, 0].mean()
        for side in (y, z):
            noise = np.concatenate([side[above] - side[above].mean(), side[~above] - side[~above].mean()]).std()
            assert 4.0 < (side[above].mean() - side[~above].mean()) / noise < 8.0


def test_every_kind_of_data_has_its_shape(data):
    rng = np.random.default_rng(0)
    nulls = (*data.GRID_NULLS, *data.OTHER_NULLS, *data.HARD_NULLS)
    for name, d in data.EDGE_NULLS:
        y, z, x = data.null(name, 50, d, rng)
        assert y.shape == z.shape == (50,)
        assert x.shape == (50, d)
        assert np.isfinite(y).all()
    for make, names in ((data.null, nulls), (data.alternative, data.ALTERNATIVES + data.LATER_ALTERNATIVES)):
        for name in names:
            for d in (1, 3):
                y, z, x = make(name, 50, d, rng)
                assert y.shape == z.shape == (50,)
                assert x.shape == (50, d)
                assert np.isfinite(y).all()
    with pytest.raises(ValueError, match="no alternative"):
        data.alternative("nothing", 50, 1, rng)


def test_gcm_sees_a_linear_dependence_and_keeps_quiet_without(bench):
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(3, 200))
    assert bench.with_gcm(x + a, x + a + b, x[:, None], 0) < 0.001
    assert bench.with_gcm(x + a, x + b, x[:, None], 0) > 0.01
