"""The guide on checking a deletion runs, its table is that of the results, and its benchmark runs."""

import doctest
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from codec.unlearn import evaluate

ROOT = Path(__file__).parents[2]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_examples_of_the_guide_give_what_they_show():
    failed, run = doctest.testfile(str(ROOT / "docs" / "evaluation.rst"), module_relative=False, optionflags=FLAGS)
    assert run >= 10
    assert failed == 0


def test_the_table_is_that_of_the_results(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    script = runpy.run_path(str(ROOT / "docs" / "figures" / "evaluation.py"))
    report = json.loads((ROOT / "benchmarks" / "results" / "bench_audit.json").read_text())
    assert script["TABLE"].read_text() == script["table"](report)
    assert report["n_models"] >= 64
    assert report["wall_s"] < 600  # 64 + 64 small models in ten minutes on two cores


def test_the_guide_and_the_reference_name_what_there_is():
    listed = (ROOT / "docs" / "api.rst").read_text()
    assert [name for name in evaluate.__all__ if f"\n   {name}\n" not in listed] == []


@pytest.mark.slow
def test_the_benchmark_runs_small():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_audit.py"), "--quick"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 + 8 networks" in done.stdout
