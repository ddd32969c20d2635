"""The benchmarks run, compare what they say they compare, and tell nothing about the machine's owner."""

import getpass
import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_impl as reference

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def bench_foci(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_foci")


@pytest.fixture(scope="module")
def quick_report(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "report.json"
    command = [sys.executable, str(FOLDER / "bench_foci.py"), "--quick", "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return path.read_text(), done.stdout


def test_quick_run_reports_every_number(quick_report):
    report = json.loads(quick_report[0])
    assert report["quick"] is True
    assert [(r["n"], r["p"]) for r in report["results"]] == [(300, 10), (500, 20)]
    for result in report["results"]:
        assert set(result["methods"]) == {"codec", "scipy", "xicorpy"}
        assert len(result["selected"]) >= 1
        for method in result["methods"].values():
            assert method["cpu_s"] > 0
            assert method["peak_mib"] >= 0
            assert len(method["cpu_s_runs"]) == report["repeats"] == 1
        for name in ("scipy", "xicorpy"):
            expected = result["methods"][name]["cpu_s"] / result["methods"]["codec"]["cpu_s"]
            assert result["cpu_ratios"][f"{name} / codec"] == pytest.approx(expected, rel=0.01)
    assert report["first_call"] is None  # compiling anew takes longer than all of this


def test_report_names_the_environment_and_no_machine(quick_report):
    text, _ = quick_report
    environment = json.loads(text)["environment"]
    assert {"git", "cpu", "threads", "python", "packages", "system", "date"} <= set(environment)
    assert environment["packages"]["numpy"] == np.__version__
    for private in (platform.node(), str(Path.home()), str(FOLDER.parent), f'"{getpass.getuser()}"'):
        assert private not in text


def test_quick_run_writes_only_where_asked(quick_report):
    assert "selected" in quick_report[1]
    stored = FOLDER / "results" / "bench_foci.json"
    assert not stored.exists() or json.loads(stored.read_text())["quick"] is False


def test_methods_select_what_the_definition_selects(bench_foci):
    X, y = bench_foci.make_data(150, 6)
    exact = reference.foci(X, y, standardize=None)
    assert len(exact.order) >= 1
    for method in bench_foci.METHODS.values():
        assert method(X, y) == exact.order


def test_different_picks_end_the_script(bench_foci):
    assert bench_foci.same_picks({"codec": [[0, 1]], "scipy": [[0, 1]]}) == [0, 1]
    for other in ([1, 0], [0], [0, 1, 2]):
        with pytest.raises(SystemExit, match="different features"):
            bench_foci.same_picks({"codec": [[0, 1]], "scipy": [[0, 1], other]})


def test_peak_memory_sees_what_was_allocated(bench_foci):
    measured = bench_foci._harness.measure(lambda: int(np.ones(20_000_000).sum()))
    assert measured["result"] == 20_000_000
    if sys.platform.startswith("linux"):
        assert 140 < measured["peak_mib"] < 200  # 153 MiB, freed again before the end
    assert measured["cpu_s"] > 0
