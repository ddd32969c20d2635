"""The benchmark of the intervals runs, and its models are what they say."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "bench_intervals.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("bench_intervals")


@pytest.mark.slow
def test_quick_run():
    done = subprocess.run([sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("analytic  line         n=500: ")


def test_every_model_suits_its_methods(bench):
    for draw, _, methods in bench.MODELS.values():
        y, z, x = draw(60, np.random.default_rng(0))
        columns = [np.reshape(part, (60, -1)).shape[1] for part in (z, x) if part is not None]
        assert len(y) == 60
        assert sum(columns) <= 2
        assert "analytic" not in methods or (columns == [1] and len(np.unique(y)) == len(np.unique(z)) == 60)


def test_coverage_counts_the_intervals_that_hold_the_value(bench):
    everything = bench.cell("line", "analytic", 500, 12, bench.truth("line", 5_000))
    nothing = bench.cell("line", "analytic", 500, 12, 2.0)
    assert nothing["coverage"] == 0.0
    assert everything["coverage"] > 0.5
    assert everything["low"] <= everything["coverage"] <= everything["high"]
