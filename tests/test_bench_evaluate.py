"""The comparison of all ways to forget: who is in it, how it is ranked, and that it continues and repeats."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "bench_evaluate.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("bench_evaluate")


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("_harness")


# --------------------------------------------------------------------------- what is measured
@pytest.fixture(scope="module")
def case():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        bench = importlib.import_module("bench_evaluate")
        return bench.Case(bench.settings(Path("none"), quick=True)["mnist"], 51)


def test_requests_are_what_they_say(bench, case):
    names = bench.requests(20)
    ids = {name: case.ids(name) for name in names}
    assert [len(ids[name]) for name in names[:3]] == [1, 20, 20]
    losses = case.problem.sample_losses(case.problem.parameters())
    assert losses[ids["20 hardest"]].min() >= np.delete(losses.numpy(), ids["20 hardest"]).max()
    assert ids["1 hardest"] == [int(losses.argmax())]
    own = (case.data.y == bench.CLASS).nonzero()[:, 0].tolist()
    assert sorted(ids["one class"]) == own
    assert len(ids["5 % of a class"]) == round(len(own) / 20)
    assert set(ids["5 % of a class"]) <= set(own)


def test_samples_never_seen_are_like_those_seen(bench, monkeypatch):
    # Files of digits whose pixels are their numbers; those of the test file are negative.
    def read(path):
        numbers = np.arange(60_000)[:, None] if "train" in path.name else -np.arange(1, 10_001)[:, None]
        return numbers if "images" in path.name else numbers[:, 0]

    monkeypatch.setattr(bench._unlearn_work, "read_idx", read)
    data = bench.settings(Path("none"), quick=False)["mnist"].read(51)
    assert (len(set(data.y.tolist())), len(set(data.test_y.tolist()))) == (4000, 5000)
    assert not set(data.y.tolist()) & set(data.test_y.tolist())
    assert int(data.test_y.min()) >= 0
    for x, y in ((data.x, data.y), (data.test_x, data.test_y)):
        np.testing.assert_allclose(x[:, 0] * 0.3081 + 0.1307, y / 255, atol=1e-4)


def test_images_never_seen_are_all_others_of_the_training_file(bench, monkeypatch):
    networks = bench._networks
    numbers, test_file = torch.arange(10_000), -torch.ones(2_000)
    monkeypatch.setattr(networks, "cifar", lambda *_: networks.Data(numbers, numbers, test_file, test_file))
    data = bench.settings(Path("none"), quick=False)["cifar"].read(51)
    assert (len(data.x), len(data.test_x)) == (2_000, 8_000)
    torch.testing.assert_close(torch.cat([data.y, data.test_y]).sort().values, numbers)
    torch.testing.assert_close((data.x, data.test_x), (data.y, data.test_y))


def test_every_selector_and_every_baseline_is_there(bench, case):
    from codec.unlearn import baselines
    from codec.unlearn._search import SELECTORS

    methods = set(case.methods([0]))
    assert {bench.DEFAULT, *(bench.NAMES[selector] for selector in SELECTORS)} <= methods
    assert set(baselines.__all__) - {"Recipe", "retrain"} <= methods  # retrained: by `baselines.retrain`


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "cpu_s"} for row in rows]


@pytest.mark.slow
def test_a_request_has_a_row_for_everybody_and_repeats_bit_for_bit(bench, case):
    rows = case.rows("one class")
    assert [row["model"] for row in rows] == ["original", "another seed", *case.methods([0]), "retrained"]
    by_name = {row["model"]: row for row in rows}
    assert all(set(bench.METRICS) < set(row) for row in rows)
    assert by_name["retrained"]["forget_accuracy"] == 0.0  # it has never seen the class
    assert by_name["another seed"]["forget_loss"] != by_name["original"]["forget_loss"]
    assert by_name["original"]["cpu_s"] == 0.0 < by_name["retrained"]["cpu_s"]
    assert without_times(case.rows("one class")) == without_times(rows)


@pytest.mark.slow
def test_the_command_runs_small_and_writes_nothing(tmp_path):
    output = tmp_path / "none.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--only", "mnist", "--output", str(output),
         "--methods", "codec, default", "newton", "fine_tune"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for request in ("1 hardest", "20 random", "20 hardest", "one class", "5 % of a class"):
        assert f"\nmnist, {request}\n" in done.stdout
    assert not output.exists()


@pytest.mark.slow
def test_the_command_runs_small_on_images():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--only", "cifar"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\ncifar, 5 random\n" in done.stdout


# --------------------------------------------------------------------------- how it is shown
def row(model, gap, auc=0.5, test=0.9, seconds=1.0):
    return {"model": model, "gap": gap, "mia_loss_auc": auc, "test_accuracy": test, "cpu_s": seconds}


PARTS = {
    "mnist/1/1 hardest": [row("a", 0.2, 0.6), row("b", 0.1), row("c", None, None, None), row("retrained", 0.01, 0.5, 0.8)],
    "mnist/2/1 hardest": [row("a", 0.4, 0.7), row("b", 0.1), row("c", 0.0), row("retrained", 0.01, 0.4, 0.9)],
    "mnist/1/one class": [row("a", 0.1), row("b", 0.2), row("c", 0.3), row("retrained", 0.01)],
    "cifar/1/1 hardest": [row("a", 0.9), row("retrained", 0.01)],
}  # fmt: skip


def test_ranking_by_hand(bench):
    rows = bench.ranked(PARTS, "mnist", "1 hardest")
    assert [r["model"] for r in rows] == ["retrained", "b", "a", "c"]  # who diverged once comes last
    found = {r["model"]: r for r in rows}
    assert found["a"]["gap"] == pytest.approx((0.3, 0.1))  # standard error: 0.2 / sqrt(2) / sqrt(2)
    assert found["a"]["auc_off"] == pytest.approx(((0.1 + 0.3) / 2, 0.1))
    assert found["a"]["test_off"] == pytest.approx(((0.1 + 0.0) / 2, 0.05))
    own = [row("a", 0.2, 0.6), row("retrained", 0.01) | {"auc_off": 0.3}]  # of one retrained network off the others
    assert [r["auc_off"] for r in bench.differences(own)] == pytest.approx([0.1, 0.3])
    assert found["c"]["gap"] is found["c"]["auc_off"] is None
    assert (found["a"]["seeds"], found["a"]["cpu_s"]) == (2, (1.0, 0.0))
    assert bench.requests_of(PARTS) == [("mnist", "1 hardest"), ("mnist", "one class"), ("cifar", "1 hardest")]


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return runpy.run_path(str(ROOT / "docs" / "figures" / "comparison.py"))


def test_order_over_requests_and_targets_by_hand(page):
    found = page["overall"](page["tables_of"](PARTS, "mnist"))
    assert list(found) == ["retrained", "b", "a", "c"]
    assert page["near"](found["a"]) == [1, 1]  # AUC .2 and 0 off; test accuracy .05 and 0 off
    assert page["near"](found["c"]) == [1, 1]  # diverged in the first request


def test_tables_and_figure_are_those_of_the_results(page):
    reports = page["stored"]()
    assert page["SUMMARY"].read_text() == page["whole"](reports, page["surer"]())
    assert page["DETAILS"].read_text() == page["details"](page["parts_of"](reports))
    assert page["PICTURE"].exists()
    seeds = {name: {key.split("/")[1] for key in report["parts"]} for name, report in reports.items()}
    assert len(seeds["mnist"]) >= 3
    for name, report in page["surer"]().items():
        more = {key.split("/")[1] for key in report["parts"]}
        assert more >= seeds[name]
        assert len(more) >= 10
        assert {"31", "32", "33", "34", "35", "36", "41", "42"}.isdisjoint(more)  # those that rules were found on


def test_what_is_off_by_hand(page):
    def seed(ours, retrained):
        own = row("retrained", 0.01, 0.5, 0.9) | {"auc_off": retrained, "test_off": -retrained}
        return [row(page["DEFAULT"], 0.1, 0.5 + ours, 0.9 + ours / 10), own]

    parts = {"cifar/1/one class": seed(0.03, 0.01), "cifar/2/one class": seed(0.05, 0.01)}
    table = page["off"]({"parts": parts}, "cifar")
    cells = [line[7:].replace("\u00a0", " ") for line in table.splitlines() if line[5:6] == "-"]
    assert cells[7:14] == ["one class", "0.100", "0.4 ± 0.1", "0.040 ± 0.010", "0.010", "-1.0", "0.010"]
    assert cells[14:] == ["near enough", "", "1 of 1", "0 of 1", "", "0 of 1", "1 of 1"]


# --------------------------------------------------------------------------- what is kept
def test_parts_are_kept_for_the_same_code_and_settings_alone(harness, monkeypatch, tmp_path):
    def value(settings, sources):
        monkeypatch.setattr(harness, "sources", lambda: sources)
        asked = []
        found = harness.Kept(tmp_path / "kept.json", settings)("part", lambda: asked.append(1) or 0.1)
        return found, bool(asked)

    assert value({"n": 1}, "a") == (0.1, True)
    assert value({"n": 1}, "a") == (0.1, False)
    assert value({"n": 2}, "a") == (0.1, True)  # and what was there is gone
    assert value({"n": 2}, "b") == (0.1, True)
    assert value({"n": 2}, "b") == (0.1, False)


def test_sources_change_with_the_package_and_the_scripts_that_are_loaded(harness, monkeypatch, tmp_path):
    for folder in ("codec", "benchmarks"):
        (tmp_path / folder).mkdir()
    package, script = tmp_path / "codec" / "a.py", tmp_path / "benchmarks" / "b.py"
    package.write_text("1")
    script.write_text("1")
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    seen = [harness.sources()]
    script.write_text("2")
    assert harness.sources() == seen[0]  # not loaded
    monkeypatch.syspath_prepend(tmp_path / "benchmarks")
    importlib.import_module("b")
    seen.append(harness.sources())
    script.write_text("3")
    seen.append(harness.sources())
    package.write_text("2")
    seen.append(harness.sources())
    monkeypatch.delitem(sys.modules, "b")
    assert len(set(seen)) == 4
