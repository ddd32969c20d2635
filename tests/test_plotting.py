"""Displays: what they store, what they draw, and that they mark where the selection stops."""

import subprocess
import sys

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from codec import MarkovBlanketSelector, SelectionPath, foci
from codec.plotting import SelectionPathDisplay


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
    selector = MarkovBlanketSelector().fit(*data)
    display = SelectionPathDisplay.from_estimator(selector)
    assert display.path is selector.path_
    assert display.line_.get_ydata().tolist() == selector.path_.cumulative.tolist()


def test_from_estimator_needs_a_fitted_one():
    with pytest.raises(NotFittedError):
        SelectionPathDisplay.from_estimator(MarkovBlanketSelector())


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
