"""The benchmark on binary attributes runs on a made table, counts rightly and goes on where it stopped."""

import importlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_celeba")


@pytest.mark.slow
def test_quick_run_finds_the_made_blankets(bench, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_celeba.py", "--quick"])
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("selections") for line in lines) == len(bench.METHODS) + 1
    assert sum(line.startswith("values") for line in lines) == len(bench.NOISE_LEVELS) + 2
    data = bench.made(1000)
    found = {name: set(bench.select(data, data.names.index(name), "auto")["selected"]) for name in "beh"}
    assert found == {"b": {"a", "c"}, "e": {"f", "g"}, "h": set()}


def test_bits_are_read_as_they_were_written(bench, tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (50, 11))
    names = np.array([f"a{j}" for j in range(11)])
    np.savez(tmp_path / "celeba_attr.npz", X=np.packbits(X.astype(np.uint8), axis=1), names=names)
    data = bench.read(tmp_path, None)
    assert data.names == tuple(names)
    assert (data.search == X).all()
    part = bench.read(tmp_path, 30)
    rows = np.concatenate([part.search, part.held_out])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, X))
    features, y, *_ = part.split(3)
    assert (y == part.search[:, 3]).all()
    assert (features[:, 3] == part.search[:, 4]).all()


def test_loss_of_no_columns_is_that_of_the_share(bench):
    data = bench.made(300)
    share = data.search[:, 0].mean()
    assert bench.loss(data, 0, []) == pytest.approx(log_loss(data.held_out[:, 0], np.full(300, share)))
    assert bench.loss(data, 0, [0]) < bench.loss(data, 0, [])


def test_summary_by_hand(bench):
    def row(attribute, method, selected, cpu_s, loss):
        return {"attribute": attribute, "n": 9, "method": method, "selected": selected, "cpu_s": cpu_s, "loss": loss}

    rows = {
        "1": row("a", "foci", ["b", "c"], 4.0, 0.5),
        "2": row("b", "foci", ["a"], 2.0, 0.3),
        "3": row("c", "foci", [], 3.0, 0.7),
        "4": row("a", "auto", ["c"], 1.0, 0.4),
        "5": row("b", "auto", ["a"], 1.0, 0.3),
        "6": {"attribute": "a", "n": 9, "method": "all columns", "loss": 0.35},
        "7": {"attribute": "a", "codec": {"T": [0.1, 0.4, 0.2], "cpu_s": 3.0},
              "lcodec, noise 0.1": {"T": [0.1, 0.3, 0.1], "cpu_s": 6.0}},
        "8": {**row("a", "auto", ["c"], 50.0, 0.0), "n": 99},
    }  # fmt: skip
    del rows["8"]["loss"]
    found = bench.summary(rows)
    auto, foci = found["selections"]["auto"], found["selections"]["foci"]
    assert (auto["agreement with foci"], auto["same first column as foci"]) == (0.75, 0.5)
    assert (foci["selected"], foci["cpu_s"]) == (1.0, [3.0, 2.0, 4.0])
    assert auto["cpu_s"] == [1.0, 1.0, 1.0]
    assert auto["loss above all columns"] == pytest.approx(0.05)
    assert found["mutual"]["foci"] == 0.5
    assert found["same attributes"] == {}
    rows["9"] = row("a", "lfoci, noise 0.001", ["b"], 8.0, 0.45)
    shared = bench.summary(rows)["same attributes"]
    assert {method: line["attributes"] for method, line in shared.items()} == dict.fromkeys(shared, 1)
    assert (shared["auto"]["agreement with foci"], shared["lfoci, noise 0.001"]["loss above all columns"]) == (0.5, 0.1)
    lcodec = found["values"]["lcodec, noise 0.1"]
    assert (lcodec["largest difference"], lcodec["share of T"], lcodec["cpu_s"]) == (0.1, 0.7143, 2.0)
    assert lcodec["rank correlation"] == pytest.approx(np.sqrt(3) / 2, abs=1e-4)


def test_an_interrupted_run_goes_on(bench, tmp_path):
    output = tmp_path / "report.json"
    data = bench.made(100)
    first = bench.run(data, None, output, ["blankets"])
    assert json.loads(output.read_text())["rows"] == first["rows"]
    kept = {**first, "rows": dict(list(first["rows"].items())[:-1])}
    stored = next(iter(kept["rows"].values()))
    stored["cpu_s"] = 77.0
    output.write_text(json.dumps(kept))
    again = bench.run(data, None, output, ["blankets"])
    assert list(again["rows"]) == list(first["rows"])
    assert again["summary"]["selections"]["auto"]["cpu_s"][2] == 77.0


def test_tables_of_the_page_are_those_of_the_results():
    page = runpy.run_path(str(FOLDER.parent / "docs" / "figures" / "celeba.py"))
    reports = page["read"]()
    assert len(page["TABLES"]) == 6
    for name, write in page["TABLES"].items():
        stored = (FOLDER.parent / "docs" / "tables" / f"celeba_{name}.inc").read_text()
        assert stored == write(reports), f"{name}: run `make figures`"
