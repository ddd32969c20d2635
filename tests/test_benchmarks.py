"""The benchmarks run, compare what they say they compare, and tell nothing about the machine's owner."""

import getpass
import importlib
import json
import platform
import re
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
    assert [(r["n"], r["p"]) for r in report["results"]] == [(300, 10)]
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


@pytest.mark.slow
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


# ------------------------------------------------------------------- bench_engine
@pytest.fixture
def bench_engine(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_engine")


@pytest.fixture(scope="module")
def quick_engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "engine.json"
    command = [sys.executable, str(FOLDER / "bench_engine.py"), "--quick", "--output", str(path)]
    outputs = []
    for _ in range(2):  # the second run finds every cell
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    return path.read_text(), outputs


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_quick_run_of_the_engine_fills_every_part_and_is_resumed(quick_engine):
    text, (first, second) = quick_engine
    report = json.loads(text)
    parts = {"headline", "neighbors", "geometries", "paths", "growth", "columns", "depth", "threads", "million"}
    assert parts <= set(report["cells"])
    assert "headline" in first
    assert "headline" not in second
    for part in report["cells"].values():
        for cell in part.values():
            assert cell["environment"] in report["environments"]
    for cell in report["cells"]["headline"].values():
        assert cell["ratio"] == pytest.approx(cell["scipy"]["cpu_s"] / cell["codec"]["cpu_s"], rel=0.01)
    assert all(cell["equal"] and len(cell["cpu_s"]) >= 2 for cell in report["cells"]["paths"].values())
    assert report["cells"]["geometries"]["normal"]["scipy_differs"] == 0
    for private in (platform.node(), str(Path.home()), str(FOLDER.parent), f'"{getpass.getuser()}"'):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", text)


def test_results_of_the_engine_are_those_of_the_full_run():
    report = json.loads((FOLDER / "results" / "bench_engine.json").read_text())
    assert report["quick"] is False
    for part in ("neighbors", "depth"):
        assert all(cell["scipy_differs"] == 0 for cell in report["cells"][part].values())


def test_exponents_are_those_of_a_power_law(bench_engine):
    cells = {str(n): {"n": n, "selected": 2, "cpu_s": 3e-6 * n**1.25} for n in (100, 1000, 30_000)}
    fit = bench_engine.exponents(cells)
    assert fit == {"2": {"exponent": pytest.approx(1.25), "n": [100, 1000, 30_000]}}


def test_selections_that_differ_end_the_script(bench_engine):
    same = {"selected": [0, 1], "T": [0.1, 0.4]}
    bench_engine.same_selection(same, dict(same))
    for other in ({"selected": [1, 0], "T": [0.1, 0.4]}, {"selected": [0, 1], "T": [0.1, 0.4 + 1e-9]}):
        with pytest.raises(SystemExit, match="selections differ"):
            bench_engine.same_selection(same, other)


def test_scipy_on_some_candidates_finds_what_it_finds_on_all(bench_engine):
    work = bench_engine.work
    found = work.selection_scipy(300, 12, 0.0, 1, [], None)
    some = work.selection_scipy(300, 12, 0.0, 1, found["selected"], 3)
    assert len(found["selected"]) >= 1
    assert some["selected"] == found["selected"]
    assert some["T"] == pytest.approx(found["T"], abs=1e-12)
    assert work.spread([0, 2, 4, 6, 8, 10], 3, 4) == [0, 4, 10]


def test_a_changed_engine_is_measured_anew(bench_engine, tmp_path):
    report = bench_engine.Report(tmp_path / "report.json", quick=True)
    cell = bench_engine.Cell("growth", "a", 100, lambda: {"n": 100, "selected": 0, "cpu_s": 1.0})
    report.add(cell, cell.measure(), "old", {"git": "1"})
    again = bench_engine.Report(tmp_path / "report.json", quick=True)
    assert again.holds(cell, "old")
    assert not again.holds(cell, "new")
    again.add(cell, cell.measure(), "new", {"git": "2"})
    assert json.loads((tmp_path / "report.json").read_text())["environments"] == {"new": {"git": "2"}}
