"""The benchmark of chunks runs and counts rightly."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "bench_chunks.py"


@pytest.mark.slow
def test_quick_run(tmp_path):
    output = tmp_path / "report.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["quick"] is True
    plain, chunked = report["results"]
    assert (plain["chunks"], plain["same_path"], plain["cpu_ratio"]) == (1, 1.0, 1.0)
    assert chunked["chunks"] == 3
    assert 0 <= chunked["right"] <= 3


def test_rows_count_rightly(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("bench_chunks", SCRIPT)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    found = {(0, 1): ([0, 1, 2], 4.0), (0, 2): ([0, 1, 2], 2.0), (1, 1): ([2, 5], 1.0), (1, 2): ([5], 2.0)}
    monkeypatch.setattr(bench, "one_run", lambda _X, _y, _k, chunks, draw: found[draw, chunks])
    plain, chunked = bench.measure(20, 3, 0.0, 1, [1, 2], 2)
    assert (plain["same_path"], plain["right"], plain["others"], plain["cpu_ratio"]) == (1.0, 2.0, 0.5, 1.0)
    assert (chunked["same_path"], chunked["right"], chunked["others"]) == (0.5, 1.5, 0.5)
    assert chunked["cpu_ratio"] == pytest.approx(1.25)
