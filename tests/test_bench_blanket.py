"""The benchmark of Markov blankets runs, counts rightly, resumes, and its own peers do what they say."""

import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_blanket")


@pytest.fixture
def work(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("_blanket_work")


@pytest.mark.slow
def test_quick_run_shows_each_kind_of_row():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "bench_blanket.py"), "--quick"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["models"] * 3 + ["mixed"] * 2 + ["noise"]


# --------------------------------------------------------------------------- counting
@pytest.mark.parametrize(
    ("selected", "truth", "f1", "precision", "recall"),
    [
        ([0, 1], (0, 1), 1.0, 1.0, 1.0),
        ([0, 1, 2, 3], (0, 1), 4 / 6, 0.5, 1.0),
        ([0], (0, 1), 2 / 3, 1.0, 0.5),
        ([], (0,), 0.0, 0.0, 0.0),
        ([], (), 1.0, 1.0, 1.0),
        ([2], (), 0.0, 0.0, 1.0),
    ],
)
def test_scores_by_hand(work, selected, truth, f1, precision, recall):
    found = work.judge(selected, work.Task(np.zeros((3, 5)), np.zeros(3), truth))
    assert found["f1"] == pytest.approx(f1, abs=1e-4)
    assert (found["precision"], found["recall"]) == (precision, recall)
    assert found["exact"] == (set(selected) == set(truth))


def test_groups_count_once(work):
    task = work.Task(np.zeros((3, 6)), np.zeros(3), (0, 1, 4, 5), ((0, 1), (2, 3), (4, 5)))
    assert work.judge([0, 1, 2], task) == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "exact": 0, "selected": 2}


def test_errors_are_over_clusters(bench):
    runs = [{"cluster": c, "f1": v} for c, v in ((1, 0.0), (1, 1.0), (2, 1.0), (2, 1.0))]
    assert bench.mean_and_error(runs, "f1") == [0.75, 0.25]  # means .5 and 1: sd .354, over sqrt(2)


def test_noise_is_judged_by_what_is_not_empty(bench):
    runs = [
        {"cluster": i, "f1": 0.0, "precision": 0.0, "recall": 1.0, "exact": 0, "selected": int(i < 5), "cpu_s": 1.0}
        for i in range(100)
    ]
    rate, low, high = bench.summary({"part": "noise", "runs": runs})["non-empty"]
    assert rate == 0.05
    assert low < 0.02 < 0.1 < high  # Clopper-Pearson: .016 to .113


# --------------------------------------------------------------------------- rows and the store
def test_rows_are_different_fresh_and_reproducible(bench):
    rows = [*bench.simulated_rows(), *bench.later_rows()]
    assert len({(row.part, row.name) for row in rows}) == len(rows) == 16
    assert min(row.runs for row in rows) >= 20
    for row in rows[:10]:
        first, again, other = row.draw(2), row.draw(2), row.draw(4)
        assert np.array_equal(first.y, again.y)
        assert not np.array_equal(first.y, other.y)
        assert first.truth
        assert first.cluster >= 10_000
    two = [rows[0].draw(i) for i in (0, 1)]
    assert two[0].cluster == two[1].cluster
    assert not np.array_equal(two[0].y, two[1].y)


def test_added_noise_leaves_the_network_as_it_is(bench, work):
    plain, noisy = work.network_task(10_000, 50, 0), work.network_task(10_000, 50, 0, noise=7)
    assert noisy.X.shape[1] == plain.X.shape[1] + 7
    assert np.array_equal(noisy.X[:, : plain.X.shape[1]], plain.X)
    assert noisy.truth == plain.truth


def test_a_second_run_continues(bench, tmp_path, capsys):
    path = tmp_path / "result.json"
    calls = []

    def compute(i):
        calls.append(i)
        return {
            "run": i,
            "cluster": i,
            "f1": 1.0,
            "precision": 1.0,
            "recall": 1.0,
            "exact": 1,
            "selected": 1,
            "cpu_s": 0.1,
        }

    short = bench.Row("models", "linear", 2, None)
    bench.fill(bench.Store(path), short, "codec", compute)
    bench.fill(bench.Store(path), bench.Row("models", "linear", 5, None), "codec", compute)
    assert calls == [0, 1, 2, 3, 4]
    report = json.loads(path.read_text())
    assert report["cells"]["models/linear/codec"]["summary"]["f1"] == [1.0, 0.0]


# --------------------------------------------------------------------------- peers of our own
@pytest.mark.slow
def test_boruta_keeps_the_signal_and_drops_the_noise(work):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 8))
    found = work.with_boruta(work.Task(X, X[:, 1] + X[:, 4] ** 2), 0, 0)
    assert set(found) == {1, 4}


def test_mrmr_avoids_copies_where_information_does_not(work):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 400))
    X = np.column_stack([a, a + 0.05 * rng.standard_normal(400), b, rng.standard_normal(400)])
    task = work.Task(X, 2 * a + b)
    assert set(work.with_information(task, 2, 0)) == {0, 1}
    assert 2 in work.with_mrmr(task, 2, 0)


def test_categories_and_missing_values_become_numbers(work):
    X = pd.DataFrame({"c": pd.Categorical(["u", "v", "u", "w"]), "x": [1.0, np.nan, 3.0, 8.0]})
    numbers, y, nominal = work.Task(X, pd.Series(pd.Categorical([2, 5, 5, 2]))).numbers()
    assert numbers.tolist() == [[0, 1], [1, 3], [0, 3], [2, 8]]
    assert y.tolist() == [0, 1, 1, 0]
    assert nominal.tolist() == [True, False]


def test_downstream_score(work):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 4))
    X[0, 3] = np.nan
    y = pd.Series(pd.Categorical(X[:, 0] > 0))
    train, test = work.Task(X[:150], y[:150].reset_index(drop=True)), (X[150:], y[150:].reset_index(drop=True))
    assert work.downstream(train, [0], test) > 0.95
    assert work.downstream(train, [], test) == 0.5
    assert work.downstream(work.Task(X[:150], X[:150, 0]), [], (X[150:], X[150:, 0])) == 0.0


def test_tables_of_the_page_are_those_of_the_results(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    page = runpy.run_path(str(FOLDER.parent / "docs" / "figures" / "blanket.py"))
    report = json.loads((FOLDER / "results" / "bench_blanket.json").read_text())
    for name, write in page["TABLES"].items():
        stored = (FOLDER.parent / "docs" / "tables" / f"blanket_{name}.inc").read_text()
        assert stored == write(report), f"{name}: run `make figures`"
