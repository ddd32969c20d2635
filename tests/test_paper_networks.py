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


@pytest.fixture
def load(monkeypatch):
    """Import a script of the folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "paper"))
    return importlib.import_module


def test_outputs_that_are_not_finite_are_never_right(load):
    networks = load("_networks")
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[2.0, 1.0], [nan, nan], [0.0, nan], [inf, 0.0], [0.0, 1.0]])
    assert networks.answers(logits).tolist() == [0, -1, -1, -1, 1]
    assert networks.accuracy(logits, torch.tensor([0, 0, 0, 0, 0])) == pytest.approx(1 / 5)


def test_notes_say_where_ours_is_behind(load):
    networks = load("_networks")
    rows = {
        "nothing": {"CPU s": None, "F1": (0.9, 0.01)}, "retrained": {"CPU s": (10.0, 1.0), "F1": (0.95, 0.01)},
        "ours, quick": {"CPU s": (9.0, 1.0), "F1": (0.85, 0.01)}, "ours, good": {"CPU s": (20.0, 2.0), "F1": (0.9, 0.0)},
        "fine-tuning": {"CPU s": (30.0, 0.0), "F1": (0.1, 0.0)},
    }  # fmt: skip
    assert networks.shortfalls(rows, "F1") == (
        "Ours takes longer than one retraining (10 ± 1 CPU s): good 20 ± 2. "
        "Ours ends with a lower F1 than doing nothing (0.9 ± 0.01): quick 0.85 ± 0.01."
    )
    assert networks.shortfalls({k: v for k, v in rows.items() if "ours" not in k}, "F1") == ""
    faces = load("faces")
    path = {"nothing": [{"residual": 0.9}] * 2, "retrained": [{"CPU s": 4.0}, {"CPU s": 3.0}]}
    assert faces.behind(path | {"ours, all units": [{}, {"CPU s": 3.0, "residual": 0.9}]}) == []
    (found,) = faces.behind(path | {"ours, all units": [{}, {"CPU s": 5.0, "residual": 0.9}]})
    assert found.text == (
        "Ours takes longer than one retraining (3 CPU s): all units 5. "
        "Its times are of all 2 requests together; retraining after each of them takes 7 CPU s."
    )
    text = load("text")
    same = {"micro F1": 0.9, "macro F1": 0.8}
    removal = [{"model": "nothing"} | same, {"model": "retrained", "CPU s": 4.0} | same]
    assert text.behind([*removal, {"model": "ours, L-FOCI", "CPU s": 3.0} | same]) == []
    (found,) = text.behind([*removal, {"model": "ours, L-FOCI", "CPU s": 3.0, "micro F1": 0.9, "macro F1": 0.7}])
    assert found.text == "Ours ends with a lower macro F1 than doing nothing (0.8): L-FOCI 0.7."


def test_cifar_compares_with_the_target_and_with_retraining(load):
    cifar = load("cifar")

    def rows(whole, at_start):
        kept = {cifar.OURS: 1.0, cifar.FEW: 1.0, cifar.WHOLE: whole, "retrained": 0.918, "nothing": 1.0}
        auc = dict.fromkeys(kept, 0.5) | {"nothing": at_start}
        return [{"model": m, "deleted": 9, "residual / start": kept[m], "membership AUC": auc[m]} for m in kept]

    words = cifar.finding({"ResNet-18": rows(0.92, 0.65), "DenseNet": rows(0.5, 0.51)}).text
    assert (
        "On all units it misses the target of 0.97 of its start: the request keeps 0.920, and a network that was retrained "
        "without the images keeps 0.918."
    ) in words
    assert words.count("misses") == 1
    assert "DenseNet starts at the AUC of a retrained network, so that nothing can be seen there." in words
    assert "ResNet-18 starts" not in words
    assert "On all units it reaches the target" in cifar.finding({"ResNet-18": rows(0.98, 0.65)}).text


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


@pytest.mark.slow
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

    def test_the_best_length_costs_a_product_more(self, kfac):
        table = tables(kfac)["steps"]
        for name in ("K-FAC", "diagonal", "gradient alone"):
            pairs = zip(rows(table, name), rows(table, f"{name}, best length"), strict=True)
            assert all(longer["CPU s"] >= one["CPU s"] for one, longer in pairs), name
        assert rows(table, "gradient alone, best length")[0]["CPU s"] > 0.0

    def test_notes_say_what_the_papers_step_is(self, kfac, mnist, reid):
        for report in (kfac, mnist, reid):
            shown = [table for table in tables(report).values() if rows(table, "the paper's step")]
            assert shown
            assert all("baselines.paper_step) on all parameters" in table["note"] for table in shown)

    def test_every_table_has_a_retrained_row(self, kfac, mnist):
        for report in (kfac, mnist):
            assert all(rows(table, "retrained") for table in tables(report).values())


@pytest.fixture(scope="module")
def reid(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield quick("reid", tmp_path_factory.mktemp("reid"), monkeypatch)


@pytest.mark.slow
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

    def test_a_model_that_has_diverged_finds_and_recognises_nobody(self, reid):
        row = rows(tables(reid)["removed"], "the paper's step")[0]
        assert row["forget loss"] is None
        assert row["recognised, removed"] == row["recognised, others"] == 0.0
        assert all(row[name] is None for name in row if name.startswith(("rank-1", "mAP")))

    def test_the_note_has_the_damping_of_the_rows(self, reid, load):
        table = tables(reid)["removed"]
        names = ("ours, L-FOCI", "ours, gradient norm", "ours, all units")
        found = sorted(row["damping"] for name in names for row in rows(table, name))
        cell = load("_common").cell
        assert f"the automatic one was {cell(found[0])} to {cell(found[-1])} over all seeds" in table["note"]
        assert rows(table, "nothing")[0]["damping"] is None
        assert "automatic one" not in load("reid").note([[{"model": names[0], "recognised, removed": 1.0}]])  # old rows

    def test_images_that_are_sorted_by_camera_are_split_into_both(self, load, tmp_path):
        image = pytest.importorskip("PIL.Image")
        reid = load("reid")
        # Cameras of persons 1 and 2; 3 has a single image of another camera, 4 one image less than are asked for.
        for person, cameras in (
            (1, [1] * 9 + [2] * 7),
            (2, [3] * 20 + [5] * 2),
            (3, [1] * 20 + [2]),
            (4, [1, 2] * 7 + [1]),
        ):
            for i, camera in enumerate(cameras):
                colour = (60 * person, 20 * camera, 10 * i)
                image.new("RGB", (8, 16), colour).save(tmp_path / f"{person:04}_c{camera}s1_{i:06}_00.png")
        persons = reid.given(tmp_path, 16)
        assert persons.who.tolist() == [0] * 16 + [1] * 16
        assert persons.camera[:16].tolist().count(2) == 7
        assert persons.camera[16:].tolist().count(5) == 2
        assert len(persons.x.flatten(1).unique(dim=0)) == 32
        work = reid.Experiment(persons, 10, 16, 2, 1, 0)
        for part in (work.training, work.test):
            assert [set(part.camera[part.who == p].tolist()) for p in (0, 1)] == [{1, 2}, {3, 5}]
        found = reid.retrieval(work.test.x.flatten(1), work.test, removed=0)
        assert all(0.0 <= value <= 1.0 for value in found.values())
        with pytest.raises(SystemExit, match="no person with 30 images"):
            reid.given(tmp_path, 30)

    def test_retrieval_of_embeddings_that_are_not_finite(self, load):
        reid = load("reid")
        persons = reid.Persons(torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
        for wrong in (float("nan"), float("inf"), 1e30):  # the last one's distances are too large
            found = reid.retrieval(torch.tensor([[0.0], [1.0], [wrong], [3.0]]), persons, removed=0)
            assert found == dict.fromkeys(("rank-1, removed", "rank-1, others", "mAP, removed", "mAP, others"))

    def test_retrieval_on_a_case_worked_by_hand(self, load):
        reid = load("reid")
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
    theirs = rows(table, "the paper's step")[0]
    assert theirs["forget loss"] is None  # it has diverged: nobody is recognised, the removed identity neither
    assert theirs["identity"] == theirs["residual"] == theirs["forgotten"] == theirs["residual training"] == 0.0
