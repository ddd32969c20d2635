"""Displays: what they store, what they draw, and that they mark where the selection stops."""

import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from codec import MarkovBlanketSelector, SelectionPath, foci
from codec._blanket_graph import BlanketGraph, LocalParents
from codec._decisions import BlanketPath, Decision
from codec._stability import StabilityResult, stability_selection
from codec.plotting import (
    AttackDisplay,
    BlanketGraphDisplay,
    BlanketPathDisplay,
    CalibrationDisplay,
    NullDistributionDisplay,
    SelectionPathDisplay,
    StabilityDisplay,
)
from codec.plotting._axes import short
from codec.plotting._blankets import stress_layout


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def data() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(3)
    X = pd.DataFrame(rng.normal(size=(300, 5)), columns=["first", "second", "noise a", "noise b", "noise c"])
    return X, (X["first"] + X["second"]).to_numpy()


def make_path(conditional: list[float], stopped: str = "stopped") -> SelectionPath:
    """A path with these increments; cumulative T by 1 - T_k = (1 - T_{k-1})(1 - increment)."""
    k = len(conditional)
    return SelectionPath(
        order=np.arange(k),
        names=tuple(f"x{j}" for j in range(k)),
        cumulative=1.0 - np.cumprod(1.0 - np.array(conditional)),
        conditional=np.array(conditional, dtype=float),
        seconds=np.zeros(k),
        n_samples=100,
        n_features=max(k, 1),
        n_omitted=0,
        include=(),
        method="foci",
        stopped=stopped,
    )


def test_a_stopped_path_is_kept_whole(data):
    path = foci(*data)
    display = SelectionPathDisplay(path)
    assert display.path is path
    assert display.names == path.names
    assert display.n_kept == len(path)
    np.testing.assert_array_equal(display.cumulative, path.cumulative)
    np.testing.assert_array_equal(display.conditional, path.conditional)
    assert not hasattr(display, "ax_")


def test_the_stop_read_off_a_full_path_is_where_foci_stops(data):
    X, y = data
    full = foci(X, y, stop=False, n_neighbors=3)
    stopped = foci(X, y, n_neighbors=3)
    assert len(full) == 5
    assert SelectionPathDisplay(full).n_kept == len(stopped) < 5


@pytest.mark.parametrize(
    ("increments", "kept"),
    [
        ([], 0),
        ([-0.1], 0),
        ([0.5], 1),
        ([0.5, 0.2], 2),
        ([0.5, 0.0], 1),
        ([0.5, -0.1, 0.3], 1),
        ([0.5, 1.0, np.nan], 2),
    ],
)
def test_steps_kept(increments, kept):
    assert SelectionPathDisplay(make_path(increments)).n_kept == kept


def test_plot_draws_line_bars_and_stop(data):
    X, y = data
    path = foci(X, y, stop=False)
    display = SelectionPathDisplay(path)
    assert display.plot() is display
    axes = display.ax_
    assert display.figure_ is axes.figure
    assert [label.get_text() for label in axes.get_xticklabels()] == list(path.names)
    np.testing.assert_array_equal(display.line_.get_ydata(), path.cumulative[: display.n_kept])
    np.testing.assert_array_equal([bar.get_height() for bar in display.bars_], path.conditional)
    assert display.stop_.get_xdata()[0] == display.n_kept + 0.5
    assert display.stop_.get_label().startswith(f"stop: {display.n_kept} feature")
    kept, beyond = display.bars_[0].get_facecolor(), display.bars_[-1].get_facecolor()
    assert kept != beyond
    low, high = axes.get_ylim()
    assert low <= path.conditional.min()
    assert high >= path.cumulative.max()


def test_dollars_are_dollars():
    from matplotlib import pyplot as plt

    _, axes = plt.subplots()
    axes.set_xticks([0, 1], short(["a$b_$x^", "$"]))
    axes.figure.canvas.draw()
    plt.close(axes.figure)


def test_long_names_are_shortened():
    assert short(["income", "a" * 28]) == ["income", "a" * 28]
    (cut,) = short(["total_assets_" + "x" * 40 + "_2019"])
    assert len(cut) == 28
    assert cut.startswith("total_assets_x")
    assert cut.endswith("_2019")
    middle = [f"quarterly total of something long number {i} in units" for i in range(12)]
    told = short(middle)
    assert len(set(told)) == 12
    assert all(f"number {i} " in name and len(name) <= 28 for i, name in enumerate(told))
    ends = [f"{'a' * 30}{i}{'b' * 40}{j}{'c' * 30}" for i in range(2) for j in range(2)]
    assert len(set(short(ends))) == 4
    assert short(["x" * 60, "x" * 60])[0] == short(["x" * 60])[0]
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(100, 2)), columns=["first " * 12 + "1", "second " * 12 + "2"])
    display = SelectionPathDisplay(foci(X, X.iloc[:, 0] + X.iloc[:, 1], stop=False)).plot()
    ticks = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert sorted(text[:5] for text in ticks) == ["first", "secon"]
    assert max(map(len, ticks)) == 28


def test_plot_on_given_axes_with_keywords(data):
    _, axes = plt.subplots()
    display = SelectionPathDisplay.from_path(
        foci(*data), ax=axes, line_kw={"c": "red", "label": "T"}, bar_kw={"alpha": 0.9}
    )
    assert display.ax_ is axes
    assert display.line_.get_color() == "red"
    assert display.line_.get_label() == "T"
    assert display.bars_[0].get_alpha() == 0.9
    assert len(plt.get_fignums()) == 1


def test_plot_in_a_subfigure():
    subfigure = plt.figure().subfigures(1, 2)[0]
    display = SelectionPathDisplay.from_path(make_path([0.5, 0.2]), ax=subfigure.subplots())
    assert display.figure_ is subfigure


def test_from_estimator(data):
    selector = MarkovBlanketSelector("foci").fit(*data)
    display = SelectionPathDisplay.from_estimator(selector)
    assert display.path is selector.path_
    assert display.line_.get_ydata().tolist() == selector.path_.cumulative.tolist()


def test_from_estimator_needs_a_fitted_one():
    with pytest.raises(NotFittedError):
        SelectionPathDisplay.from_estimator(MarkovBlanketSelector())


def test_the_path_of_tests_is_refused_with_the_right_display():
    selector = MarkovBlanketSelector(screen=False, random_state=0).fit(np.eye(30)[:, :2], np.arange(30))
    with pytest.raises(TypeError, match=r"path is a BlanketPath.*BlanketPathDisplay draws"):
        SelectionPathDisplay.from_estimator(selector)


def test_nothing_selected_is_drawn_as_such():
    display = SelectionPathDisplay.from_path(make_path([]))
    assert display.ax_.texts[0].get_text() == "nothing was selected"
    display.figure_.canvas.draw()


@pytest.mark.parametrize("increments", [[0.4], [-0.2, 0.1], [0.5, 1.0, np.nan], [0.1] * 60])
def test_every_path_can_be_drawn(increments):
    display = SelectionPathDisplay.from_path(make_path(increments))
    display.figure_.canvas.draw()
    assert np.isfinite(display.ax_.get_ylim()).all()


def test_importing_loads_no_matplotlib():
    code = "import sys, codec.plotting; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_matplotlib_the_message_says_what_to_install(data, monkeypatch):
    path = foci(*data)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'codec\[plot\]'"):
        SelectionPathDisplay.from_path(path)


# --------------------------------------------------------------------------- blankets
def make_blanket_path(actions, pvalues):
    decisions = tuple(
        Decision(action, j % 3, (), 1.0, p, 3, "") for j, (action, p) in enumerate(zip(actions, pvalues, strict=True))
    )
    return BlanketPath(decisions, (0,), ("a", "b", "c"), "auto", 0.05, 100, 3, 9)


def test_blanket_path_shows_every_test_and_the_stop():
    path = make_blanket_path(
        ["screened", "screened", "removed", "kept", "entered", "stopped"], [np.nan, np.nan, 0.3, 0.001, 0.02, 0.6]
    )
    display = BlanketPathDisplay.from_path(path)
    assert display.n_screened == 2
    assert display.actions == ("removed", "kept", "entered", "stopped")
    assert display.names == ("c", "a", "b", "c")
    for place, action in enumerate(display.actions, 1):
        np.testing.assert_allclose(display.points_[action].get_offsets(), [[place, display.pvalues[place - 1]]])
    assert display.stop_.get_xdata()[0] == 4
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["c", "a", "b", "c"]
    bottom, top = display.ax_.get_ylim()
    assert top < 0.001 < 0.6 < bottom  # small p-values at the top
    display.figure_.canvas.draw()


def test_every_test_of_discrete_data_has_a_mark():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, (200, 3))
    y = np.where(rng.random(200) < 0.7, X[:, 0], rng.integers(0, 3, 200))
    display = BlanketPathDisplay.from_estimator(MarkovBlanketSelector(random_state=0).fit(X, y))
    assert display.actions == ("screened", "kept")
    assert {action: points.get_offsets()[:, 0].tolist() for action, points in display.points_.items()} == {
        "screened": [1.0],
        "kept": [2.0],
    }
    display.figure_.canvas.draw()


@pytest.mark.parametrize("n", [0, 1, 80])
def test_every_blanket_path_can_be_drawn(n):
    display = BlanketPathDisplay.from_path(make_blanket_path(["removed"] * n, [0.5] * n))
    display.figure_.canvas.draw()
    assert not hasattr(display, "stop_")
    if not n:
        assert display.ax_.texts[0].get_text() == "no test was made"


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("alpha", [1e-3, 1e-14, 0.2])
def test_the_level_lies_within_the_axes(alpha, n):
    path = make_blanket_path(["removed"] * n, [0.5] * n)
    axes = BlanketPathDisplay.from_path(replace(path, alpha=alpha)).ax_
    bottom, top = axes.get_ylim()
    assert top < alpha < bottom
    assert top == 0.5 * min(0.01, alpha)


def test_blanket_path_refuses_the_path_of_foci(data):
    with pytest.raises(TypeError, match="SelectionPathDisplay"):
        BlanketPathDisplay.from_path(foci(*data))
    with pytest.raises(NotFittedError):
        BlanketPathDisplay.from_estimator(MarkovBlanketSelector())


def test_stability_display_marks_the_stable_ones():
    turns = iter([[0, 1], [0], [0], [0, 2]])
    result = stability_selection(lambda *_: next(turns), 20, 4, n_subsamples=4, threshold=0.75, rng=0)
    display = StabilityDisplay.from_result(result)
    assert display.names == ("x0", "x1", "x2")
    assert [bar.get_width() for bar in display.bars_] == [1.0, 0.25, 0.25]
    assert display.threshold_.get_xdata()[0] == 0.75
    assert display.bars_[0].get_facecolor() != display.bars_[1].get_facecolor()
    assert len(StabilityDisplay(result, n_features=1).names) == 1
    assert "1 feature at 0.75 or above" in display.threshold_.get_label()


def test_stability_display_needs_stability(data):
    with pytest.raises(ValueError, match="stability=True"):
        StabilityDisplay.from_estimator(MarkovBlanketSelector("foci").fit(*data))


def make_graph(joined, **kwargs):
    joined = np.array(joined, dtype=bool)
    names = tuple(f"v{j}" for j in range(len(joined)))
    return BlanketGraph(names, joined, np.full(joined.shape, np.nan), "or", **kwargs)


def test_graph_display_draws_edges_and_arrows():
    joined = [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]]  # 2 selects 3, 3 does not select 2
    local = [LocalParents((), (), "")] * 4
    local[2] = LocalParents((0, 1), (), "")
    display = BlanketGraphDisplay.from_graph(make_graph(joined, local_parents=tuple(local)))
    assert len(display.ax_.lines) == 1
    assert display.ax_.lines[0].get_linestyle() != "-"
    arrows = [text for text in display.ax_.texts if text.arrow_patch is not None]
    assert len(arrows) == 2
    assert [text.get_text() for text in display.ax_.texts if text.get_text()] == ["v0", "v1", "v2", "v3"]
    display.figure_.canvas.draw()
    plain = BlanketGraphDisplay.from_graph(make_graph(joined))
    assert len(plain.ax_.lines) == 3


def test_graph_display_from_estimator(data):
    display = BlanketGraphDisplay.from_estimator(MarkovBlanketSelector("foci", max_features=1), data[0], rule="or")
    assert display.graph.names == tuple(data[0].columns)


def test_layout_of_a_path_is_a_line_and_of_a_square_a_square():
    """Stress 0 is possible for a path: distances on the page are path lengths."""
    path = np.eye(4, k=1) + np.eye(4, k=-1) > 0
    places = stress_layout(path)
    lengths = np.abs(np.subtract.outer(range(4), range(4)))
    np.testing.assert_allclose(np.linalg.norm(places[:, None] - places, axis=2), lengths, atol=0.05)
    square = np.roll(np.eye(4, dtype=bool), 1, axis=1)
    square |= square.T
    places = stress_layout(square)
    sides = np.linalg.norm(places - np.roll(places, 1, axis=0), axis=1)
    np.testing.assert_allclose(sides, sides[0], rtol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_layout_without_edges_is_finite(d):
    assert np.isfinite(stress_layout(np.zeros((d, d), dtype=bool))).all()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "scores is empty"),
        ({"a": ([1.0, np.nan], [0.0])}, "a number for each"),
        ({"a": ([], [0.0])}, "needs members and non-members"),
        ({"a": ([1.0], [])}, "needs members and non-members"),
    ],
)
def test_scores_that_make_no_curve_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        AttackDisplay(scores)


def test_no_two_curves_look_alike():
    display = AttackDisplay({f"m{i}": ([1.0, 2.0], [0.0, 1.5]) for i in range(20)}).plot()
    assert len({(line.get_color(), line.get_linestyle()) for line in display.lines_.values()}) == 20


def test_names_with_an_underscore_are_in_the_legend():
    display = AttackDisplay({"_m": ([1.0, 2.0], [0.0, 1.5]), "b": ([1.0, 2.0], [0.0, 1.5])}).plot()
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["_m", "b"]


# --------------------------------------------------------------------------- at the edges
def graph_of(found):
    d = len(found)
    return BlanketGraph(tuple(f"x{j}" for j in range(d)), np.array(found, dtype=bool), np.full((d, d), 0.01), "and")


def one_decision(action, pvalue, alpha):
    return BlanketPath((Decision(action, 0, (), 9.0, pvalue, 1, ""),), (0,), ("x0",), "auto", alpha, 100, 1, 1)


@pytest.mark.parametrize("found", [[[0, 1], [1, 0]], [[0, 1, 1], [1, 0, 0], [1, 0, 0]], [[0]]])
def test_graphs_on_a_line_have_room_for_their_nodes(found):
    display = BlanketGraphDisplay.from_graph(graph_of(found))
    display.figure_.canvas.draw()
    room = display.ax_.get_window_extent()
    places = display.ax_.transData.transform(display.positions)
    assert min(room.width, room.height) > 200
    assert (places > [room.x0 + 5, room.y0 + 5]).all()
    assert (places < [room.x1 - 5, room.y1 - 5]).all()


def test_marks_and_names_are_seen_on_dark_backgrounds():
    with plt.style.context("dark_background"):
        display = BlanketGraphDisplay.from_graph(graph_of([[0, 1], [1, 0]]))
        stroke = display.ax_.texts[0].get_path_effects()[0]
        assert mpl.colors.to_rgb(stroke._gc["foreground"]) == (0.0, 0.0, 0.0)
        path = one_decision("stopped", 0.5, 0.05)
        drawn = BlanketPathDisplay.from_path(path).points_["stopped"]
        assert mpl.colors.to_rgb(drawn.get_facecolor()[0]) == (1.0, 1.0, 1.0)


def test_the_whole_line_is_inside_the_axes():
    path = replace(make_path([-0.1, -0.2, 0.05]), cumulative=np.array([-0.1, -0.3, -0.25]))
    low, high = SelectionPathDisplay.from_path(path).ax_.get_ylim()
    assert low < -0.3
    assert high > 0.05


def test_names_and_the_legend_of_stability_fit_the_figure():
    names = ("mean fractal dimension", "worst concave points")
    result = StabilityResult(np.array([1.0, 0.98]), (0, 1), 0.625, 100, 284, 2.1, names)
    assert "at least 62.5 % of" in repr(result)
    display = StabilityDisplay.from_result(result)
    display.figure_.canvas.draw()
    assert display.ax_.get_legend().get_window_extent().x1 < display.figure_.bbox.x1


def test_all_stable_features_are_shown_unless_fewer_are_asked_for():
    result = StabilityResult(np.ones(25), tuple(range(25)), 0.6, 10, 20, 25.0)
    assert len(StabilityDisplay(result).names) == 25
    assert len(StabilityDisplay(result, n_features=3).names) == 3
    with pytest.raises(ValueError, match="n_features is -1; it must be at least 1"):
        StabilityDisplay(result, n_features=-1)


@pytest.mark.parametrize("alpha", [0.05, 1e-13])
def test_the_smallest_p_values_stand_beyond_the_level(alpha):
    path = one_decision("entered", 1e-173, alpha)
    display = BlanketPathDisplay.from_path(path)
    height = display.points_["entered"].get_offsets()[0, 1]
    assert height == min(1e-12, alpha / 10)
    assert display.ax_.get_ylim()[1] < height


def test_few_non_members_have_axes():
    low, high = AttackDisplay({"a": ([1.0, 2.0], [0.0])}).plot().ax_.get_xlim()
    assert low <= 0.1 < high


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda: AttackDisplay({"a": [1, 2, 3]}), r"scores\['a'\] must be a pair"),
        (lambda: AttackDisplay({"a": 1.0}), r"scores\['a'\] must be a pair"),
        (lambda: CalibrationDisplay(0.5), "pvalues must be a list"),
        (lambda: StabilityDisplay(None), "result is a NoneType; it must be the stability_"),
        (lambda: BlanketGraphDisplay(None), "graph is a NoneType; it must be the result of"),
        (lambda: NullDistributionDisplay([0.5]), "result is a list; it must be the result of one test"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw, said):
    with pytest.raises((TypeError, ValueError), match=said):
        draw()


def test_tables_without_rows_have_the_types_of_those_with():
    rng = np.random.default_rng(4)
    found = foci(rng.normal(size=(200, 2)), rng.normal(size=200))
    nothing = replace(
        found,
        order=found.order[:0],
        names=(),
        **{name: getattr(found, name)[:0] for name in ("cumulative", "conditional", "seconds")},
    )
    assert nothing.to_frame()["feature"].str.upper().tolist() == []
    for some, none in ((found, nothing), (graph_of([[0, 1], [1, 0]]), graph_of([[0, 0], [0, 0]]))):
        assert none.to_frame().dtypes.to_dict() == some.to_frame().dtypes.to_dict()
