"""The paper's experiments 1 to 3 in small settings, the JSON, the page and the tables of the documentation."""

import importlib
import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "paper"


@pytest.fixture
def load(monkeypatch):
    """Import a script of the folder."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.syspath_prepend(FOLDER.parent)
    return importlib.import_module


@pytest.fixture
def common(load):
    return load("_common")


def made(common, arguments):
    """An experiment of one line."""
    value = arguments.keep("value", lambda: 0.25 + arguments.seed)
    return [
        common.Table("t", "Shares <of> a_b", ["name", "share", "CPU s"], [["x*", [value, 0.125], 3]], [0.5], "share"),
        common.Figure("f", "A line", [common.Panel("p", lines=[{"label": "ours", "x": [0, 1], "y": [0, value]}])]),
        common.Note("Not run here: no data."),
    ]


def run_made(common, folder, *more, run=made):
    return common.main(
        lambda arguments: run(common, arguments),
        name="mnist", title="Made", options=common.parser(""), arguments=["--output", str(folder), *more],
    )  # fmt: skip


# --------------------------------------------------------------------------- the frame
def test_report_holds_settings_environment_and_items(common, tmp_path):
    report = run_made(common, tmp_path, "--seed", "2")
    assert json.loads((tmp_path / "mnist.json").read_text()) == report
    assert (report["experiment"], report["name"], report["settings"]) == (4, "mnist", {"quick": False, "seed": 2})
    assert [item["kind"] for item in report["items"]] == ["table", "figure", "note"]
    assert report["items"][0]["rows"] == [["x*", [2.25, 0.125], 3]]
    assert {"git", "cpu", "python", "packages"} <= set(report["environment"])
    assert not (tmp_path / "mnist.partial.json").exists()
    assert list(common.load(tmp_path)) == ["mnist"]


def test_a_run_that_was_stopped_continues_with_the_same_settings_only(common, tmp_path):
    def stopped(common, arguments):
        made(common, arguments)
        raise KeyboardInterrupt

    def forbidden(common, arguments):
        return [common.Note(str(arguments.keep("value", lambda: pytest.fail("computed again"))))]

    with pytest.raises(KeyboardInterrupt):
        run_made(common, tmp_path, run=stopped)
    with pytest.raises(pytest.fail.Exception):
        run_made(common, tmp_path, "--seed", "1", run=forbidden)
    assert run_made(common, tmp_path, run=forbidden)["items"][0]["text"] == "0.25"


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": [["a"]]},
        {"paper": [1.0, 2.0], "against": "b"},
        {"paper": [1.0], "against": "c"},
    ],
)
def test_tables_that_do_not_fit_are_refused(common, wrong):
    whole = {"name": "t", "title": "", "columns": ["a", "b"], "rows": [["x", 1]]}
    with pytest.raises(ValueError, match="table t"):
        common.Table(**{**whole, **wrong})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (0.12345, "0.123"), ([0.5, 0.01], "0.5 ± 0.01"), (1234, "1,234"), (0.0, "0"),
        (12345.6, "12,346"), (999.9, "1,000"), (-54321.0, "-54,321"), (2e-5, "2.0e-05"), (True, "True"),
    ],
)  # fmt: skip
def test_cells(common, value, shown):
    assert common.cell(value) == shown


class Page(HTMLParser):
    """Cells, images and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.sources, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for key, value in attributes if key in {"src", "href"}]
        self.inside = tag in {"td", "th", "caption"}
        if self.inside:
            self.cells.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def test_the_page_holds_every_cell_and_nothing_from_outside(common, load, tmp_path):
    run_made(common, tmp_path)
    load("report").main(["--results", str(tmp_path), "--output", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.cells == [
        "Shares <of> a_b", "name", "share", "CPU s", "share, the paper", "x*", "0.25 ± 0.125", "3", "0.5",
    ]  # fmt: skip
    assert len(page.sources) == 1
    assert page.sources[0].startswith("data:image/png;base64,")
    assert "Not run here: no data." in text
    assert "Not run: blankets, celeba, spurious, cifar, kfac, text, faces, reid." in text


def test_tables_of_the_documentation_are_those_of_the_results(common):
    docs = runpy.run_path(str(ROOT / "docs" / "figures" / "paper.py"))
    page = (ROOT / "docs" / "paper.rst").read_text()
    reports = common.load(common.FULL)
    for name in common.EXPERIMENTS:
        assert f".. include:: tables/paper_{name}.inc" in page
        expected = docs["section"](reports[name]) if name in reports else docs["ABSENT"]
        stored = (ROOT / "docs" / "tables" / f"paper_{name}.inc").read_text()
        assert stored == expected, f"{name}: run `python docs/figures/paper.py`"
    for picture in re.findall(r"_static/(paper_\w+\.png)", "".join(map(docs["section"], reports.values()))):
        assert (ROOT / "docs" / "_static" / picture).exists(), picture


def test_stored_results_are_of_full_settings(common):
    for name, report in common.load(common.FULL).items():
        assert report["name"] == name
        assert not report["settings"]["quick"]
        assert any(item["kind"] == "table" for item in report["items"])
