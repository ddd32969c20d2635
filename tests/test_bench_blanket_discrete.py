"""The benchmark of discrete networks reads their files, scores rightly, stores every sample and goes on from there."""

import gzip
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
BIF = """network unknown { }
variable a { type discrete [ 2 ] { yes, no }; }
variable b { type discrete [ 3 ] { low, mid, high }; }
variable c { type discrete [ 2 ] { yes, no }; }
probability ( a ) { table 0.3, 0.7; }
probability ( c ) { table 0.5, 0.5; }
probability ( b | a, c ) {
  (yes, yes) 0.8, 0.1, 0.1;
  (no, yes) 0.1, 0.8, 0.1;
  (yes, no) 0.1, 0.1, 0.8;
  (no, no) 0.2, 0.3, 0.5;
}
"""


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("_blanket_discrete")
    (tmp_path / "bif").mkdir()
    for name in ("child", "tiny"):
        (tmp_path / "bif" / f"{name}.bif.gz").write_bytes(gzip.compress(BIF.encode()))
    module.load.cache_clear()
    monkeypatch.setattr(module, "RESULT", tmp_path / "report.json")
    return module


def test_files_of_networks_are_read(bench, tmp_path):
    nodes = bench.load(tmp_path, "tiny")
    assert {v: parents for v, (parents, _) in nodes.items()} == {"a": [], "c": [], "b": ["a", "c"]}
    assert nodes["b"][1][1, 0].tolist() == [0.1, 0.8, 0.1]
    data, blankets = bench.sample(nodes, 20_000, 0)
    assert blankets == ((1, 2), (0, 2), (0, 1))
    a, c, b = data.columns
    assert np.bincount(b[(a == 1) & (c == 1)], minlength=3) / ((a == 1) & (c == 1)).sum() == pytest.approx(
        [0.2, 0.3, 0.5], abs=0.03
    )


def test_scores_by_hand(bench):
    assert bench.compare_sets({0, 1}, frozenset({1, 2, 3}))["f1"] == pytest.approx(0.4)
    assert bench.compare_sets(set(), frozenset())["f1"] == 1.0
    found = bench.compare_sets({0}, frozenset({0, 1}))
    assert (found["precision"], found["recall"], found["exact"]) == (1.0, 0.5, 0.0)


def test_the_peers_test_is_the_textbook_one(bench):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (2, 400))
    data = bench.compact(np.stack([x, y]))
    table = np.zeros((3, 3))
    np.add.at(table, (x, y), 1)
    pvalue = chi2_contingency(table, lambda_="log-likelihood").pvalue
    assert bench.GTest(data)(0, 1, (), 0.05).pvalue == pytest.approx(pvalue)


def test_an_interrupted_run_goes_on(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "NETWORKS", ("tiny",))
    monkeypatch.setattr(bench, "SAMPLES", {60: 2})
    monkeypatch.setattr(bench, "NOISE_RUNS", 20)
    monkeypatch.setattr(bench, "METHODS", {"hill climbing, BIC": bench.with_bic})
    first = bench.run(tmp_path, {})
    key = "tiny, n = 60, hill climbing, BIC"
    assert [run["seed"] for run in first[key]["runs"]] == [bench.SEED, bench.SEED + 1]
    kept = json.loads(bench.RESULT.read_text())
    del kept["rows"][key]["runs"][1]
    kept["rows"][key]["runs"][0]["f1"] = 0.0
    bench.RESULT.write_text(json.dumps(kept))
    again = bench.run(tmp_path, {})[key]
    assert again["runs"][1]["f1"] == first[key]["runs"][1]["f1"]
    assert again["summary"]["f1"][0] == pytest.approx(first[key]["runs"][1]["f1"] / 2, abs=1e-4)
