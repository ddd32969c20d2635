"""What the README and the documentation show runs, and the table of edge cases is complete."""

import doctest
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.rst"))]


def test_examples_of_the_quickstart_give_what_they_show(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    failed, run = doctest.testfile(str(ROOT / "docs" / "quickstart.rst"), module_relative=False, optionflags=FLAGS)
    assert run > 10
    assert failed == 0


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))
    runpy.run_path(str(script))


def test_every_edge_case_of_r_is_decided():
    cases = json.loads((ROOT / "tests" / "data" / "edge_cases.json").read_text())
    page = (ROOT / "docs" / "edge_cases.rst").read_text()
    named = set(re.findall(r"`([\w.]+)`", page))
    assert [case["id"] for case in cases if case["id"] not in named] == []
    assert len(cases) == 44


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    pattern = r"(?:tests|codec|benchmarks|docs)/[\w/]+\.(?:py|json|png|rst)"
    assert [name for name in set(re.findall(pattern, text)) if not (ROOT / name).exists()] == []
