"""What the README and the documentation show runs, and the table of edge cases is complete."""

import doctest
import json
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from marks import slowly

import codec.datasets
import codec.plotting

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.rst"))]


@pytest.mark.parametrize(("page", "at_least"), [slowly("quickstart", 10), slowly("selection", 40), ("edge_cases", 5)])
def test_examples_of_a_page_give_what_they_show(page, at_least, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    failed, run = doctest.testfile(str(ROOT / "docs" / f"{page}.rst"), module_relative=False, optionflags=FLAGS)
    assert run >= at_least
    assert failed == 0


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))
    runpy.run_path(str(script))


@pytest.mark.parametrize("module", [codec, codec.datasets, codec.plotting])
def test_every_public_name_is_on_the_page_of_the_api(module):
    page = (ROOT / "docs" / "api.rst").read_text()
    named = set(re.findall(r"^   (\w+)$", page, re.MULTILINE))
    assert set(module.__all__) - {"__version__"} <= named


@pytest.mark.parametrize(
    ("n_neighbors", "said"), [(1, "one neighbour recovered exactly .* twice"), (5, "five neighbours all eight")]
)
def test_more_neighbours_find_what_the_quickstart_says(n_neighbors, said):
    found = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((1000, 60))
        y = X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2]) + 0.05 * rng.standard_normal(1000)
        found += set(codec.foci(X, y, n_neighbors=n_neighbors).order) == {0, 1, 2}
    assert found == {1: 2, 5: 8}[n_neighbors]
    assert re.search(said, " ".join((ROOT / "docs" / "quickstart.rst").read_text().split()))


def test_every_edge_case_of_r_is_decided():
    cases = json.loads((ROOT / "tests" / "data" / "edge_cases.json").read_text())
    page = (ROOT / "docs" / "edge_cases.rst").read_text()
    named = set(re.findall(r"`([\w.]+)`", page))
    assert [case["id"] for case in cases if case["id"] not in named] == []
    assert len(cases) == 44


@pytest.mark.slow  # processes of a cluster import everything anew
def test_the_distributed_example_runs(tmp_path):
    page = (ROOT / "docs" / "engine.rst").read_text()
    block = re.search(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", page)
    script = tmp_path / "example.py"
    script.write_text(textwrap.dedent(block[1]))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "FOCI" in done.stdout


def test_tables_of_the_engine_are_those_of_the_results(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    engine = runpy.run_path(str(ROOT / "docs" / "figures" / "engine.py"))
    report = json.loads((ROOT / "benchmarks" / "results" / "bench_engine.json").read_text())
    assert len(engine["TABLES"]) >= 5
    for name, write in engine["TABLES"].items():
        stored = (ROOT / "docs" / "tables" / f"engine_{name}.inc").read_text()
        assert stored == write(report), f"{name}: run `make figures`"


def test_tables_of_the_tests_are_those_of_the_results():
    page = runpy.run_path(str(ROOT / "docs" / "figures" / "inference.py"))
    report = json.loads((ROOT / "benchmarks" / "results" / "bench_ci.json").read_text())
    for name, write in page["TABLES"].items():
        stored = (ROOT / "docs" / "tables" / f"inference_{name}.inc").read_text()
        assert stored == write(report), f"{name}: run `make figures`"


def test_seconds_of_the_readme_are_those_of_the_results():
    results = json.loads((ROOT / "benchmarks" / "results" / "bench_foci.json").read_text())["results"]
    cpu = {(r["n"], r["p"]): {name: m["cpu_s"] for name, m in r["methods"].items()} for r in results}
    page = (ROOT / "README.md").read_text()
    row = re.search(r"\| CPU seconds.*\|", page)[0].split("|")
    shown = {"codec": row[2], "xicorpy": row[4], "scipy": re.search(r"`cKDTree` take (.*) seconds", page)[1]}
    for name, cell in shown.items():
        large, small = (float(number) for number in re.findall(r"[\d.]+", cell))
        assert large == float(f"{cpu[10_000, 100][name]:.2g}"), name
        assert small == float(f"{cpu[1000, 100][name]:.2g}"), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    pattern = r"(?:tests|codec|benchmarks|docs)/[\w/]+\.(?:py|json|png|rst)"
    assert [name for name in set(re.findall(pattern, text)) if not (ROOT / name).exists()] == []
