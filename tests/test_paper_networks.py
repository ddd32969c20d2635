"""The experiments on networks run from their one line, have a retrained row, and repeat bit for bit."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
torch = pytest.importorskip("torch")


def quick(name, folder, monkeypatch):
    """The report of one experiment's quick run, which reads no data from disk."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "paper"))
    return importlib.import_module(name).main(["--quick", "--data", str(folder / "none"), "--output", str(folder)])


def tables(report):
    return {item["name"]: item for item in report["items"] if item["kind"] == "table"}


def rows(table, model):
    """The rows of one model, as dicts."""
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"] if model in row[:2]]


def without_times(report):
    """Every number but the times."""
    found = []
    for table in tables(report).values():
        kept = [i for i, column in enumerate(table["columns"]) if "CPU s" not in column]
        found.append([[row[i] for i in kept] for row in table["rows"]])
    return found


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield quick("mnist", tmp_path_factory.mktemp("mnist"), monkeypatch)


class TestMnist:
    def test_newton_is_nearer_to_retrained_than_everything_else(self, mnist):
        table = tables(mnist)["logistic"]
        distance = {name: rows(table, name)[-1]["distance to retrained"] for name in {row[0] for row in table["rows"]}}
        assert distance.pop("retrained") == 0.0
        newton = distance.pop("Newton step, all weights")
        assert newton < 0.05 * distance["nothing"]
        assert all(newton < other for other in distance.values())

    def test_the_papers_step_collapses_and_ours_does_not(self, mnist):
        table = tables(mnist)["network"]
        retrained = rows(table, "retrained")[-1]["test"]
        assert rows(table, "the paper's step")[-1]["test"] < retrained - 0.3
        for name in ("all units", "L-FOCI", "gradient norm", "K-FAC greedy", "random units"):
            last = rows(table, name)[-1]
            assert last["test"] > retrained - 0.02, name
            assert last["refused"] == 0, name


@pytest.fixture(scope="module")
def kfac(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield quick("kfac", tmp_path_factory.mktemp("kfac"), monkeypatch)


class TestKfac:
    def test_no_direction_beats_the_exact_one_and_kfac_beats_the_diagonal(self, kfac):
        table = tables(kfac)["steps"]
        share = {name: [row["share, best length"] for row in rows(table, name)] for name in ("K-FAC", "diagonal")}
        assert all(0.0 < d < k <= 1.0 for d, k in zip(share["diagonal"], share["K-FAC"], strict=True))
        assert [row["share"] for row in rows(table, "exact GGN")] == [1.0, 1.0]

    def test_chosen_units_hold_more_of_the_step_than_random_ones(self, kfac):
        table = tables(kfac)["units"]
        for name in ("gradient norm", "K-FAC greedy", "L-FOCI"):
            for chosen, drawn in zip(rows(table, name), rows(table, "random"), strict=True):
                assert drawn["captured"] < chosen["captured"] <= 1.0, name

    def test_every_table_has_a_retrained_row(self, kfac, mnist):
        for report in (kfac, mnist):
            assert all(rows(table, "retrained") for table in tables(report).values())


@pytest.fixture(scope="module")
def reid(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield quick("reid", tmp_path_factory.mktemp("reid"), monkeypatch)


class TestReid:
    def test_the_person_is_no_longer_recognised_and_the_others_are(self, reid):
        table = tables(reid)["removed"]
        nothing, retrained = (rows(table, name)[0] for name in ("nothing", "retrained"))
        assert nothing["recognised, removed"] == 1.0
        assert retrained["recognised, removed"] == 0.0
        for name in ("ours, all units", "ours, all units, damping 0.001"):  # the automatic damping forgets part of it
            ours = rows(table, name)[0]
            assert nothing["forget loss"] < ours["forget loss"] < retrained["forget loss"]
            assert ours["recognised, others"] > nothing["recognised, others"] - 0.05
            assert ours["mAP, others"] > nothing["mAP, others"] - 0.05
        assert ours["recognised, removed"] == 0.0

    def test_retrieval_on_a_case_worked_by_hand(self, monkeypatch):
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "paper"))
        reid = importlib.import_module("reid")
        # Camera 0 has persons 0 and 1, camera 1 has 0, 1 and 0, on a line.
        embedding = torch.tensor([[0.0], [5.0], [1.0], [2.0], [3.0]])
        persons = reid.Persons(embedding, torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 0, 1, 1, 1]))
        found = reid.retrieval(embedding, persons, removed=0)
        # Person 0's queries: at 0 finds 0, 1, 0: (1 + 2/3)/2; at 1 finds 0 first: 1; at 3 finds 1 first: 1/2.
        assert found["mAP, removed"] == pytest.approx((5 / 6 + 1 + 1 / 2) / 3)
        assert found["rank-1, removed"] == pytest.approx(2 / 3)
        # Person 1's: at 5 finds 0, 1, 0: 1/2; at 2 finds 0 (2 away), then 1 (3 away): 1/2.
        assert found["mAP, others"] == pytest.approx(1 / 2)
        assert found["rank-1, others"] == 0.0

    @pytest.mark.slow  # that of another network is in test_paper.py
    def test_a_second_run_gives_the_same_numbers(self, reid, tmp_path, monkeypatch):
        again = quick("reid", tmp_path, monkeypatch)
        assert without_times(again) == without_times(reid)
        assert [item for item in again["items"] if item["kind"] == "figure"] == [
            item for item in reid["items"] if item["kind"] == "figure"
        ]


@pytest.mark.slow
class TestText:
    @pytest.fixture
    def text(self, tmp_path, monkeypatch):
        pytest.importorskip("transformers")
        return quick("text", tmp_path, monkeypatch)

    def test_the_removed_class_is_gone_and_the_others_stay(self, text):
        table = tables(text)["class"]
        retrained = rows(table, "retrained")[0]
        for name in ("ours, all units", "ours, L-FOCI", "ours, gradient norm"):
            row = rows(table, name)[0]
            assert row["removed class"] == row["forgotten"] == 0.0, name
            assert row["micro F1"] > retrained["micro F1"] - 0.05, name
        assert rows(table, "nothing")[0]["removed class"] > 0.9

    def test_all_copies_together_spend_the_budget(self, text):
        table = tables(text)["budget"]
        for row in table["rows"]:
            row = dict(zip(table["columns"], row, strict=True))
            assert row["spent"] == pytest.approx(row["budget"], rel=1e-6)
            assert row["unlearned"] == pytest.approx(row["retrained"], abs=1e-12)


@pytest.mark.slow
def test_cifar_runs_and_no_network_of_ours_collapses(tmp_path, monkeypatch):
    report = quick("cifar", tmp_path, monkeypatch)
    table = tables(report)["after"]
    networks = {row[0] for row in table["rows"]}
    assert networks == {"ResNet-18", "VGG-11", "MobileNet", "DenseNet"}
    for network in networks:
        found = {row["model"]: row for row in rows(table, network)}
        assert "retrained" in found
        ours = [name for name in found if name.startswith("ours")]
        assert len(ours) == 3
        assert all(found[name]["residual / start"] > 0.8 for name in ours), network


@pytest.mark.slow
def test_the_identity_goes_and_the_other_faces_stay(tmp_path, monkeypatch):
    report = quick("faces", tmp_path, monkeypatch)
    table = tables(report)["removed"]
    found = {
        row["model"]: row for row in rows(table, "nothing") + rows(table, "retrained") + rows(table, "ours, L-FOCI")
    }
    assert found["retrained"]["identity"] == 0.0
    assert found["nothing"]["forget loss"] < found["ours, L-FOCI"]["forget loss"] < found["retrained"]["forget loss"]
    assert found["ours, L-FOCI"]["residual"] > found["nothing"]["residual"] - 0.05
    assert rows(table, "the paper's step")[0]["residual"] < 0.2
