"""How a Markov blanket was found, how stable it is, and the blankets of all variables as a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sklearn.utils.validation import check_is_fitted

from codec._validation import check_integer
from codec.plotting._axes import BEYOND, KEPT, NOTED, check_drawn, finish, ink, new_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from codec._blanket import MarkovBlanketSelector
    from codec._blanket_graph import BlanketGraph
    from codec._decisions import BlanketPath
    from codec._stability import StabilityResult

MARKS = {  # marker, face, edge
    "screened": ("D", "none", KEPT),
    "kept": ("o", KEPT, KEPT),
    "entered": ("^", NOTED, NOTED),
    "removed": ("o", "none", "0.55"),
    "stopped": ("X", None, None),  # in the colour of text
}
LABELS = 40  # tests whose features are all named
SMALLEST = 1e-12  # p-values below stand there, or a tenth of the level, where that is less


class BlanketPathDisplay:
    """The tests of a search for a Markov blanket in their order, with the point where it stopped.

    Small p-values stand at the top. Diamonds are features that the first tests of discrete data have listed,
    filled circles members that were kept, triangles features that entered, empty circles features that were
    removed; the cross is the best remaining candidate when the search stopped, with the p-value of the whole
    step. P-values below 1e-12, or below a tenth of a level that is smaller still, stand at that height.

    Parameters
    ----------
    path : BlanketPath
        ``path_`` of a fitted selector with the calibrated procedure.

    Attributes
    ----------
    pvalues : ndarray of shape (n_tests,)
        Of the decisions that rest on a test.
    actions, names : tuple of str
        What was decided, and on which feature.
    n_screened : int
        Features on the first list.
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.
    points_ : dict of str to matplotlib.collections.PathCollection
        The marks of each action.
    stop_ : matplotlib.lines.Line2D
        The line at the stopping point; absent when the search never stopped by a test.

    Raises
    ------
    TypeError
        If the path is that of ``method='foci'`` or ``'lfoci'``.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector, fisher_z
    >>> from codec.plotting import BlanketPathDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 3))
    >>> y = X[:, 1] + 0.5 * rng.standard_normal(100)
    >>> selector = MarkovBlanketSelector(test=fisher_z, screen=False, random_state=0).fit(X, y)
    >>> display = BlanketPathDisplay.from_estimator(selector)
    >>> display.names[0], display.actions[:2]
    ('x1', ('entered', 'stopped'))
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, path: BlanketPath) -> None:
        if not hasattr(path, "decisions"):
            raise TypeError(
                f"path is a {type(path).__name__}, which holds no decisions; pass the path_ of a selector with "
                "method='auto'. SelectionPathDisplay draws the path of 'foci' and 'lfoci', from_estimator a "
                "selector's."
            )
        self.path = path
        tested = [d for d in path.decisions if not np.isnan(d.pvalue)]
        self.pvalues: NDArray[np.float64] = np.array([d.pvalue for d in tested], dtype=np.float64)
        self.actions: tuple[str, ...] = tuple(d.action for d in tested)
        self.names: tuple[str, ...] = tuple(path.names[d.feature] if d.feature >= 0 else "" for d in tested)
        self.n_screened = sum(d.action == "screened" for d in path.decisions)

    def plot(self, ax: Axes | None = None) -> BlanketPathDisplay:
        """Draw the tests.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : BlanketPathDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        self.ax_ = new_axes(len(self.names)) if ax is None else ax
        self.figure_ = cast("Figure", self.ax_.figure)
        if not self.names:
            self.ax_.text(0.5, 0.5, "no test was made", transform=self.ax_.transAxes, ha="center", va="center")
        self._draw_points()
        self._draw_stop()
        self._label()
        return self

    def _draw_points(self) -> None:
        steps, actions = np.arange(1, len(self.names) + 1), np.array(self.actions)
        heights = self._heights()
        self.ax_.vlines(steps, heights, 1.0, color="0.9", linewidth=1.0, zorder=0.5)
        self.points_ = {}
        for action, (marker, face, edge) in MARKS.items():
            here = actions == action
            if here.any():
                label = f"{action} ({int(here.sum())})" if action != "stopped" else "stopped at"
                self.points_[action] = self.ax_.scatter(
                    steps[here], heights[here], s=46, marker=marker, label=label,
                    facecolor=face or ink(), edgecolor=edge or ink(),
                )  # fmt: skip

    def _heights(self) -> NDArray[np.float64]:
        return np.maximum(self.pvalues, min(SMALLEST, self.path.alpha / 10.0))

    def _draw_stop(self) -> None:
        at = [i for i, action in enumerate(self.actions, 1) if action == "stopped"]
        if at:
            self.stop_ = self.ax_.axvline(at[-1], color="0.35", linestyle=(0, (4, 3)), linewidth=1.0, zorder=0.6)

    def _label(self) -> None:
        axes, n = self.ax_, len(self.names)
        axes.axhline(self.path.alpha, color="0.6", linewidth=0.8, zorder=0.5)
        axes.annotate(
            f"level {self.path.alpha:g}", (1.0, self.path.alpha), xycoords=("axes fraction", "data"),
            xytext=(-2, 3), textcoords="offset points", ha="right", fontsize="small", color="0.4",
        )  # fmt: skip
        axes.set_yscale("log")
        axes.set_ylim(1.35, 0.5 * min(0.01, self.path.alpha, *self._heights()))
        axes.set_xlim(0.3, max(n, 1) + 0.7)
        named = [i for i in range(n) if n <= LABELS or self.actions[i] != "removed"]
        axes.set_xticks(
            [i + 1 for i in named],
            short(self.names[i] for i in named),
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_ylabel("p-value")
        finish(axes)

    @classmethod
    def from_path(cls, path: BlanketPath, *, ax: Axes | None = None) -> BlanketPathDisplay:
        """Draw the decisions of a search.

        Parameters
        ----------
        path : BlanketPath
            ``path_`` of a fitted selector with the calibrated procedure.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : BlanketPathDisplay
            What was drawn.

        Raises
        ------
        TypeError
            If the path is that of ``method='foci'`` or ``'lfoci'``.
        """
        return cls(path).plot(ax)

    @classmethod
    def from_estimator(cls, estimator: MarkovBlanketSelector, *, ax: Axes | None = None) -> BlanketPathDisplay:
        """Draw the search of a fitted selector.

        Parameters
        ----------
        estimator : MarkovBlanketSelector
            Fitted with the calibrated procedure.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : BlanketPathDisplay
            What was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the selector is not fitted.
        TypeError
            If it was fitted with ``method='foci'`` or ``'lfoci'``.
        """
        check_is_fitted(estimator, "path_")
        return cls.from_path(cast("Any", estimator.path_), ax=ax)


class StabilityDisplay:
    """Selection frequencies over halves of the data, with the threshold.

    Parameters
    ----------
    result : StabilityResult
        ``stability_`` of a selector fitted with ``stability=``.
    n_features : int, optional
        Features shown at most, the most frequent first. Default: 20, or all that are stable.

    Attributes
    ----------
    names : tuple of str
        Features shown.
    frequencies : ndarray of shape (n_shown,)
        Their frequencies.
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.
    bars_ : matplotlib.container.BarContainer
        One bar a feature.
    threshold_ : matplotlib.lines.Line2D
        The threshold.

    Raises
    ------
    TypeError, ValueError
        If ``result`` is not a StabilityResult, or ``n_features`` no positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector, fisher_z
    >>> from codec.plotting import StabilityDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 5))
    >>> y = X[:, 1] + X[:, 3] + 0.5 * rng.standard_normal(100)
    >>> selector = MarkovBlanketSelector(test=fisher_z, screen=False, stability={"n_subsamples": 6}, random_state=0)
    >>> display = StabilityDisplay.from_estimator(selector.fit(X, y))
    >>> sorted(display.names), display.frequencies.tolist()
    (['x1', 'x3'], [1.0, 1.0])
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, result: StabilityResult, *, n_features: int | None = None) -> None:
        check_drawn(result, "result", "frequencies", "the stability_ of a selector fitted with stability=")
        most = max(20, len(result.selected)) if n_features is None else check_integer(n_features, "n_features", 1)
        self.result = result
        frame = result.to_frame()
        shown = frame[frame["frequency"] > 0].head(most)
        self.names: tuple[str, ...] = tuple(str(name) for name in shown.index)
        self.frequencies: NDArray[np.float64] = shown["frequency"].to_numpy()

    def plot(self, ax: Axes | None = None) -> StabilityDisplay:
        """Draw the frequencies.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : StabilityDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        self.ax_ = axes = new_axes(0, height=1.6 + 0.24 * len(self.names)) if ax is None else ax
        self.figure_ = cast("Figure", axes.figure)
        stable = self.frequencies >= self.result.threshold - 1e-12
        places = np.arange(len(self.names))
        self.bars_ = axes.barh(places, self.frequencies, height=0.7, color=np.where(stable, KEPT, BEYOND).tolist())
        self.threshold_ = axes.axvline(
            self.result.threshold, color="0.35", linestyle=(0, (4, 3)), linewidth=1.0, label=self._legend()
        )
        axes.set_yticks(places, short(self.names))
        axes.set_ylim(len(self.names) - 0.4, -0.6)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel("share of the halves of the data")
        axes.tick_params(axis="y", length=0)
        finish(axes)
        return self

    def _legend(self) -> str:
        noun = "feature" if len(self.result.selected) == 1 else "features"
        return (
            f"{len(self.result.selected)} {noun} at {self.result.threshold:g} or above;\n"
            f"at most {self.result.expected_false:.2g} improbable ones expected"
        )

    @classmethod
    def from_result(cls, result: StabilityResult, *, ax: Axes | None = None, **kwargs: Any) -> StabilityDisplay:
        """Draw a result of stability selection.

        Parameters
        ----------
        result : StabilityResult
            ``stability_`` of a selector fitted with ``stability=``.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        **kwargs : dict
            Passed to the constructor: ``n_features``.

        Returns
        -------
        display : StabilityDisplay
            What was drawn.
        """
        return cls(result, **kwargs).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: MarkovBlanketSelector, *, ax: Axes | None = None, **kwargs: Any
    ) -> StabilityDisplay:
        """Draw the frequencies of a selector fitted with ``stability=``.

        Parameters
        ----------
        estimator : MarkovBlanketSelector
            Fitted with ``stability=``.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        **kwargs : dict
            Passed to the constructor: ``n_features``.

        Returns
        -------
        display : StabilityDisplay
            What was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the selector is not fitted.
        ValueError
            If it was fitted without ``stability``.
        """
        check_is_fitted(estimator, "support_")
        result = getattr(estimator, "stability_", None)
        if result is None:
            raise ValueError("the selector has no stability_: fit it with stability=True.")
        return cls.from_result(result, ax=ax, **kwargs)


class BlanketGraphDisplay:
    r"""The graph of all blankets.

    Solid lines join variables that select each other, dotted ones (rule ``'or'``) those of which one selects
    the other. Arrows lead from parents to children where local parents were found. Distances on the page
    approximate path lengths in the graph (stress majorization from a circle, so the picture is always the same).

    Parameters
    ----------
    graph : BlanketGraph
        The result of :func:`codec.markov_blanket_graph`.

    Attributes
    ----------
    positions : ndarray of shape (d, 2)
        Where the variables stand.
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.
    nodes_ : matplotlib.collections.PathCollection
        One mark a variable.

    Notes
    -----
    The places minimize :math:`\sum_{i < j} d_{ij}^{-2} (\lVert x_i - x_j \rVert - d_{ij})^2`, the stress of [1]_, with
    the path lengths :math:`d_{ij}`.

    References
    ----------
    .. [1] E. R. Gansner, Y. Koren, S. North, "Graph drawing by stress majorization", Graph Drawing 2004,
       LNCS 3383, 239-250, :doi:`10.1007/978-3-540-31843-9_25`.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector, fisher_z, markov_blanket_graph
    >>> from codec.plotting import BlanketGraphDisplay
    >>> a, b, e = np.random.default_rng(0).standard_normal((3, 100))
    >>> X = np.column_stack([a, b, a + b + 0.5 * e])
    >>> selector = MarkovBlanketSelector(test=fisher_z, screen=False)
    >>> graph = markov_blanket_graph(X, selector=selector, random_state=0)
    >>> display = BlanketGraphDisplay.from_graph(graph)
    >>> display.positions.shape, graph.n_edges
    ((3, 2), 3)
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, graph: BlanketGraph) -> None:
        check_drawn(graph, "graph", "matrix", "the result of markov_blanket_graph")
        self.graph = graph
        self.positions = stress_layout(graph.matrix)

    def plot(self, ax: Axes | None = None) -> BlanketGraphDisplay:
        """Draw the graph.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : BlanketGraphDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        self.ax_ = axes = new_axes(0, height=5.6) if ax is None else ax
        self.figure_ = cast("Figure", axes.figure)
        self._draw_edges()
        x, y = self.positions.T
        joined = self.graph.matrix.any(axis=1)
        self.nodes_ = axes.scatter(x, y, s=70, color=np.where(joined, KEPT, BEYOND).tolist(), zorder=3)
        self._draw_names()
        axes.set_aspect("equal", adjustable="datalim")  # two nodes, or all on a line, keep the axes' size
        axes.margins(0.12)
        axes.set_axis_off()
        return self

    def _draw_names(self) -> None:
        from matplotlib.patheffects import AbstractPathEffect, withStroke

        halo: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground=self.figure_.get_facecolor())]
        for name, place in zip(short(self.graph.names), self.positions, strict=True):
            text = self.ax_.annotate(name, place, (0, 7), textcoords="offset points", ha="center", fontsize="small")
            text.set_path_effects(halo)
            text.set_zorder(4)

    def _draw_edges(self) -> None:
        found, causes = self.graph.found, self._causes()
        for i, j in np.argwhere(np.triu(self.graph.matrix, 1)):
            if (i, j) in causes or (j, i) in causes:
                continue
            style = "-" if found[i, j] and found[j, i] else (0, (1, 2))
            self.ax_.plot(*self.positions[[i, j]].T, color="0.6", linewidth=1.3, linestyle=style, zorder=1)
        for cause, effect in causes:
            arrow = {"arrowstyle": "-|>", "color": NOTED, "linewidth": 1.6, "shrinkA": 5, "shrinkB": 5}
            self.ax_.annotate("", self.positions[effect], self.positions[cause], arrowprops=arrow, zorder=2)

    def _causes(self) -> set[tuple[int, int]]:
        local = self.graph.local_parents or ()
        return {(cause, effect) for effect, found in enumerate(local) for cause in found.parents}

    @classmethod
    def from_graph(cls, graph: BlanketGraph, *, ax: Axes | None = None) -> BlanketGraphDisplay:
        """Draw the result of :func:`codec.markov_blanket_graph`.

        Parameters
        ----------
        graph : BlanketGraph
            The graph to show.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : BlanketGraphDisplay
            What was drawn.
        """
        return cls(graph).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: MarkovBlanketSelector, X: Any, *, ax: Axes | None = None, **kwargs: Any
    ) -> BlanketGraphDisplay:
        """Find the blanket of every column of X with the parameters of a selector, and draw the graph.

        Parameters
        ----------
        estimator : MarkovBlanketSelector
            Need not be fitted.
        X : array-like of shape (n, d)
            Variables.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        **kwargs : dict
            Passed to :func:`codec.markov_blanket_graph`.

        Returns
        -------
        display : BlanketGraphDisplay
            What was drawn.

        Raises
        ------
        ValueError, TypeError
            Whatever :func:`codec.markov_blanket_graph` refuses.
        """
        from codec._blanket_graph import markov_blanket_graph

        return cls.from_graph(markov_blanket_graph(X, selector=estimator, **kwargs), ax=ax)


def stress_layout(joined: NDArray[np.bool_], n_steps: int = 200) -> NDArray[np.float64]:
    """Places whose distances approximate path lengths: weighted stress d^-2 (|x_i - x_j| - d)^2, by SMACOF."""
    from scipy.sparse.csgraph import shortest_path

    d = len(joined)
    length = shortest_path(joined.astype(np.float64), directed=False, unweighted=True)
    reached = np.isfinite(length)
    length[~reached] = length[reached].max(initial=0.0) + 1.5  # parts without a path: apart, and not far
    angle = 2.0 * np.pi * np.arange(d) / d
    places = max(length.max(initial=1.0), 1.0) / 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    weight = np.where(length > 0.0, 1.0 / np.maximum(length, 0.5) ** 2, 0.0)
    inverse = np.linalg.pinv(np.diag(weight.sum(axis=1)) - weight)
    for _ in range(n_steps):
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        ratio = weight * length / np.maximum(apart, 1e-9)
        places = inverse @ ((np.diag(ratio.sum(axis=1)) - ratio) @ places)
    return np.asarray(places)
