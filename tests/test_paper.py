"""The paper's experiments 1 to 3 in small settings, the JSON, the page and the tables of the documentation."""

import importlib
import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import digamma

from codec.datasets import make_bullseye

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


def test_seeds_become_means_and_standard_errors(common):
    runs = [
        [{"model": "a", "loss": 1.0, "map": [[1]]}, {"model": "b", "loss": 3}],
        [{"model": "a", "loss": 2.0, "map": [[2]]}, {"model": "b", "loss": None}],
    ]
    assert common.over_seeds(runs) == [{"model": "a", "loss": (1.5, 0.5), "map": [[1]]}, {"model": "b", "loss": None}]
    assert common.over_seeds(runs[:1]) == runs[0]
    assert (common.mean((1.5, 0.5)), common.mean(2)) == (1.5, 2)
    parser = common.parser("")
    common.seeds(parser)
    for line, seeds, words in (
        ("--seed 4", (4, 5, 6), "; mean ± standard error over 3 seeds"), ("--quick", (0,), ""), ("--repeat 2", (0, 1), "2 seeds"),
    ):  # fmt: skip
        arguments = parser.parse_args(line.split())
        assert tuple(common.seeds_of(arguments)) == seeds
        assert words in common.repeated(arguments)


def test_a_further_run_stands_below(common, load, tmp_path):
    run_made(common, tmp_path)
    run_made(common, tmp_path / "other", "--seed", "3")
    (found,) = common.load(tmp_path).values()
    assert [more["settings"]["seed"] for more in found["more"]] == [3]
    text = load("report").page({"mnist": found})
    assert text.index("0.25 ± 0.12") < text.index("3.25 ± 0.12")
    docs = runpy.run_path(str(ROOT / "docs" / "figures" / "paper.py"))
    assert docs["section"](found).count(".. list-table::") == 2
    assert docs["section"](found).count(".. figure::") == 1


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
        (None, "-"), ([0.79412, 0.02611], "0.794 ± 0.026"), (0.12345, "0.123"), ([0.5, 0.01], "0.5 ± 0.01"), ([0.01, 2e-17], "0.01 ± 0"), (1234, "1,234"), (0.0, "0"),
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
        "Shares <of> a_b", "name", "share", "CPU s", "share, the paper", "x*", "0.25 ± 0.12", "3", "0.5",
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


# --------------------------------------------------------------------------- experiment 1: Markov blankets
def chebyshev(x):
    """Distances of every two rows in the maximum norm, by SciPy."""
    return cdist(x.reshape(len(x), -1), x.reshape(len(x), -1), "chebyshev")


def information(blankets, x, y, z, k, *, ties):
    return blankets.conditional_information(chebyshev(x), chebyshev(y), chebyshev(z), k, ties=ties)


@pytest.mark.parametrize("ties", [False, True])
def test_information_of_gaussian_variables(load, ties):
    # x = z + a, y = z + a + b: cov(x, y | z) = var(x | z) = 1, var(y | z) = 2, so I = -log(1 - 1/2) / 2.
    blankets = load("blankets")
    z, a, b, free = np.random.default_rng(0).standard_normal((4, 1500))
    assert information(blankets, z + a, z + a + b, z, 5, ties=ties) == pytest.approx(np.log(2) / 2, abs=0.06)
    assert information(blankets, z + free, z + a, z, 5, ties=ties) == pytest.approx(0, abs=0.06)


def test_information_of_bits_needs_the_estimator_for_ties(load):
    # y = x + z modulo 2: one bit given z, nothing without it.
    blankets = load("blankets")
    x, z = np.random.default_rng(0).integers(0, 2, (2, 1000)).astype(float)
    y = (x + z) % 2
    assert information(blankets, x, y, z, 7, ties=True) == pytest.approx(np.log(2), abs=0.01)
    assert information(blankets, x, y, np.zeros(1000), 7, ties=True) == pytest.approx(0, abs=0.01)
    assert abs(information(blankets, x, y, z, 7, ties=False) - np.log(2)) > 1


@pytest.mark.parametrize("ties", [False, True])
def test_information_by_loops(load, ties):
    blankets = load("blankets")
    rng = np.random.default_rng(3)
    x, y, z = rng.integers(0, 4, (3, 40)) + (0 if ties else rng.random((3, 40)))
    k, total = 3, 0.0
    for i in range(40):
        far = [
            [max(abs(v[i] - v[j]) for v in space) for j in range(40) if j != i]
            for space in ((x, y, z), (x, z), (y, z), (z,))
        ]
        radius = sorted(far[0])[k - 1]
        if ties:
            count = [sum(d <= radius for d in f) for f in far]
            psi = [digamma(count[0] if radius == 0 else k), *(digamma(c) for c in count[1:])]
        else:
            psi = [digamma(k), *(digamma(sum(d < radius for d in f) + 1) for f in far[1:])]
        total += psi[0] - psi[1] - psi[2] + psi[3]
    assert information(blankets, x, y, z, k, ties=ties) == pytest.approx(total / 40)


def test_points_count_by_their_columns(load):
    blankets = load("blankets")
    data = make_bullseye(60, dim=2, random_state=0)
    _, far = blankets.spaces(data)
    scaled = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    assert np.allclose(far[4], chebyshev(scaled[:, [8, 9]]))
    assert sorted(blankets.by_entry(data, 0))[-1] == 0  # the first column in is column 0 of the order
    assert tuple(sorted({j // 2 for j in data.blanket})) == blankets.MEMBERS


@pytest.mark.slow
def test_markov_blankets_in_small_settings(load, tmp_path):
    report = load("blankets").main(["--quick", "--output", str(tmp_path)])
    auc, answers, figure, note = report["items"]
    scores = {row[0]: row[1][0] for row in auc["rows"]}
    assert set(scores) == set(load("blankets").SCORES)
    assert scores["MarkovBlanketSelector, levels .01 to .5"] > 0.8  # the six distances, chance is .5
    assert all(0 <= row[2] <= 1 and 0 <= row[3] <= 1 for row in answers["rows"])
    assert len(figure["panels"]) == 2
    for panel in figure["panels"]:
        assert all(line["x"][0] == line["y"][0] == 0 and line["x"][-1] == line["y"][-1] == 1 for line in panel["lines"])
    assert note["text"].startswith("Largest area")


# --------------------------------------------------------------------------- experiment 2: binary attributes
def test_attributes_in_small_settings(load, tmp_path):
    report = load("celeba").main(["--quick", "--output", str(tmp_path)])
    selections, values, figure, note = report["items"]
    rows = {row[0]: row for row in selections["rows"]}
    assert rows["CODEC (FOCI)"][5:7] == [1, 1]  # agrees with itself
    assert rows["L-CODEC (L-FOCI), noise 0.001"][5] < 1
    assert selections["paper"] == []  # the paper's seconds are not of a made table
    assert values["rows"][0][:2] == ["CODEC", 1]
    assert [line["label"] for line in figure["panels"][1]["lines"]] == ["L-CODEC", "CODEC"]
    assert "MarkovBlanketSelector 1," in note["text"]  # the made network: every edge is found from both ends


def test_attributes_stored_so_far_stand_beside_the_paper(load, common, tmp_path):
    report = load("celeba").main(["--stored", "--output", str(tmp_path)])
    table = report["items"][0]
    stored = json.loads(load("bench_celeba").RESULT.read_text())["summary"]["selections"]
    assert len(table["rows"]) == len(table["paper"]) == len(stored)
    assert {row[0]: row[3] for row in table["rows"]}["MarkovBlanketSelector"] == stored["auto"]["cpu_s"][0]
    # The time and the machine are those of the stored measurement, not of showing it.
    assert report["cpu_s"] > sum(s["cpu_s"][0] * s["attributes"] for s in stored.values() if "cpu_s" in s)
    assert report["environment"] == json.loads(load("bench_celeba").RESULT.read_text())["environment"]
    docs = runpy.run_path(str(ROOT / "docs" / "figures" / "paper.py"))
    assert f"{report['cpu_s']:,.0f} CPU seconds" in docs["section"](report)
    assert "Some rows are means over 40, some over 4 attributes" in table["note"]


def test_noise_levels_are_compared_on_the_same_attributes(load):
    celeba = load("celeba")
    sets = {"foci": ["p", "q"]} | {method: ["p"] for method in celeba.LEVELS.values()}
    rows = {f"a {m}": {"attribute": "a", "method": m, "selected": s, "loss": 0.5} for m, s in sets.items()}
    # Attribute b has one level alone, on which L-CODEC finds everything: it does not count.
    rows |= {f"b {m}": rows["a foci"] | {"attribute": "b", "method": m} for m in ("foci", "lfoci, noise 0.001")}
    summary = {"selections": {"foci": {"attributes": 2}, "lfoci, noise 0.1": {"attributes": 1}}}
    words = celeba.same_attributes(rows, summary)
    assert words.startswith(" Some rows are means over 2, some over 1 attributes (attributes done).")
    assert (
        "(1), agreement with FOCI by level is 0.5 (1e-05), 0.5 (0.0001), 0.5 (0.001), 0.5 (0.01), 0.5 (0.1)." in words
    )
    assert celeba.same_attributes(rows, {"selections": {"foci": {"attributes": 2}}}) == ""


def test_attributes_without_data_say_so(load, tmp_path):
    report = load("celeba").main(["--data", str(tmp_path / "none"), "--output", str(tmp_path)])
    assert [item["text"] for item in report["items"]] == ["Not run here: none holds no celeba_attr.npz."]


# --------------------------------------------------------------------------- experiment 3: spurious features
@pytest.fixture
def spurious(load):
    return load("_spurious_work")


def test_planted_attributes_follow_the_class_in_training_only(spurious):
    task = spurious.made(20_000, 0)
    y, a = task.train.y, task.train.attributes
    agreement = [np.mean(column == y) for column in a.T]
    assert agreement[:3] == pytest.approx([0.85] * 3, abs=0.01)
    assert agreement[3:6] == pytest.approx([0.85**2 + 0.15**2] * 3, abs=0.015)  # a copy: both agree or both differ
    assert agreement[6:] == pytest.approx([0.5] * 6, abs=0.015)
    assert [np.mean(v == task.test.y) for v in task.test.attributes.T] == pytest.approx([0.5] * 12, abs=0.035)
    assert task.names[2:4] == ("planted 3", "copy 1")


def test_marks_are_where_they_should_be(spurious):
    images = np.zeros((2, 8, 8))
    images[:, 3, 3] = 0.5
    drawn = spurious.marked(images, np.array([[0] * 8, [1, 0, 0, 1, 0, 1, 0, 0]]))
    assert images.sum() == 1
    assert np.argwhere(drawn[0]).tolist() == [[3, 3]]
    assert np.argwhere(drawn[1]).tolist() == [[0, 0], [2, 7], [3, 3], [6, 0]]
    large = spurious.marked(np.ones((1, 28, 28)) * np.arange(28), np.ones((1, 8), int))
    assert (large[0][:, :3] == 27).sum() == (large[0][:, 25:] == 27).sum() - 28 + 4 * 3 == 36


def test_weights_make_an_attribute_say_nothing(spurious):
    y = np.array([0] * 6 + [1] * 4)
    a = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 0])[:, None]
    w = spurious.balance(y, a)[:, 0]
    for c in (0, 1):
        for v in (0, 1):
            assert w[(y == c) & (a[:, 0] == v)].sum() / 10 == pytest.approx((y == c).mean() * (a == v).mean())


def test_the_reversal_turns_the_gradient_of_the_heads_round(spurious):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = spurious.Classifier(torch.nn.Linear(4, 3), 3, 2)
    x, weight = torch.randn(5, 4), model.features.weight
    logits, shown = model.both(x, 0.7)
    (both,) = torch.autograd.grad(logits.square().sum() + shown.square().sum(), weight)
    h = model.features(x)
    heads = torch.cat([head(h) for head in model.heads], dim=1)
    (label,) = torch.autograd.grad(model.label(h).square().sum(), weight, retain_graph=True)
    (other,) = torch.autograd.grad(heads.square().sum(), weight)
    assert torch.allclose(both, label - 0.7 * other, atol=1e-5)
    assert torch.equal(shown, heads)
    assert model.both(x, 0.7)[1].shape == (5, 2)


def test_accuracies_by_hand(spurious):
    torch = pytest.importorskip("torch")
    x = np.array([[2.0, 0], [0, 2], [2, 0], [0, 2]])  # predicted 0, 1, 0, 1
    samples = spurious.Samples(x, np.array([0, 1, 1, 1]), np.array([[1], [1], [0], [0]]))
    found = spurious.accuracies(torch.nn.Identity(), spurious.Task(samples, samples, ("a",)))
    assert (found["train"], found["test"]) == (0.75, 0.75)
    assert (found["with"], found["without"]) == ([1.0], [0.5])
    assert (found["agreeing"], found["against"]) == ([1.0], [pytest.approx(2 / 3)])


@pytest.fixture(scope="module")
def quick_spurious(tmp_path_factory):
    """The experiment in small settings, run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        folder = str(tmp_path_factory.mktemp("spurious"))
        return importlib.import_module("spurious").main(["--quick", "--output", folder])


@pytest.mark.slow
def test_spurious_features_in_small_settings(quick_spurious):
    accuracy, choice, *attributes, finding, absent = quick_spurious["items"]
    chosen = {(row[0], row[1]): row[2:] for row in choice["rows"]}
    for data, p in (("made", 12), ("digits with marks", 8)):
        assert chosen[data, "MarkovBlanketSelector"] == [3, 3, 1]  # the planted ones, no copy, no coin
        assert chosen[data, "all"] == [p, 3, 0]
    test = {tuple(row[:3]): row[4] for row in accuracy["rows"]}
    for heads in ("plain", "balanced"):
        assert test["made", "MarkovBlanketSelector", heads] > test["made", "none", "-"] + 0.02
    assert [len(table["rows"]) for table in attributes] == [12, 8]
    assert finding["text"].startswith("Test accuracy, best first.")
    assert "not run here" in absent["text"]


def test_the_best_strength_of_each_rule_by_hand(load):
    lines = [{"label": "all", "x": [1, 2], "y": [0.5, 0.75]}, {"label": "none", "x": [1, 2], "y": [0.8, 0.7]}]
    text = load("spurious").at_best([{"title": "made", "lines": lines}]).text
    assert text.endswith("made: none 0.800, all 0.750.")


def test_another_seed_draws_other_data(spurious):
    assert np.array_equal(spurious.made(50, 0).train.x, spurious.made(50, 0).train.x)
    assert not np.array_equal(spurious.made(50, 0).train.x, spurious.made(50, 1).train.x)


def test_images_of_a_folder(load, spurious, tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (60, 3))
    for i, row in enumerate(bits, start=1):  # attribute a: red; b: green; c: blue
        image.new("RGB", (20, 24), tuple(int(40 + 200 * v) for v in row)).save(tmp_path / f"{i:06}.jpg")
    np.savez(tmp_path / "celeba_attr.npz", X=np.packbits(bits, axis=1), names=np.array(["a", "b", "c"]))
    task = spurious.images(tmp_path, tmp_path / "celeba_attr.npz", "b", 30, 16, 0)
    assert task.names == ("a", "c")
    assert task.train.x.shape == task.test.x.shape == (30, 3, 16, 16)
    for samples in (task.train, task.test):
        bright = samples.x.mean(axis=(2, 3)) > 0
        assert np.array_equal(bright, np.insert(samples.attributes, 1, samples.y, axis=1))
    with pytest.raises(FileNotFoundError, match=r"holds no \.jpg"):
        spurious.images(tmp_path / "none", tmp_path / "celeba_attr.npz", "b", 30, 16, 0)
    model = spurious.train(task, (0,), seed=0, epochs=40, strength=0.3, build=spurious.convolutions)
    assert spurious.accuracies(model, task)["test"] > 0.8
