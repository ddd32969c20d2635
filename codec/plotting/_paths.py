"""The path of a forward selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sklearn.utils.validation import check_is_fitted

from codec.plotting._axes import BEYOND, KEPT, new_axes, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from codec._blanket import MarkovBlanketSelector
    from codec._selection import SelectionPath


class SelectionPathDisplay:
    """The path of a forward selection: cumulative T as a line, each step's gain as bars.

    The point where the stopping rule of FOCI ends the selection is marked; steps beyond it, which
    only a path of ``stop=False`` has, are drawn in grey.

    Parameters
    ----------
    path : SelectionPath
        The result of :func:`codec.foci` or :func:`codec.lfoci`.

    Attributes
    ----------
    names : tuple of str
        The features in order of entry.
    cumulative : ndarray of shape (n_steps,)
        T(Y, selected features) after each step.
    conditional : ndarray of shape (n_steps,)
        T(Y, new feature | features selected before) of each step.
    n_kept : int
        Steps before the first one that adds nothing: where the stopping rule ends.
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.
    line_ : matplotlib.lines.Line2D
        The line of cumulative T.
    bars_ : matplotlib.container.BarContainer
        The bars of conditional T.
    stop_ : matplotlib.lines.Line2D
        The mark of the stopping point; absent when nothing was selected.

    Raises
    ------
    TypeError
        If the path is that of ``method='auto'``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from codec import foci
    >>> from codec.plotting import SelectionPathDisplay
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> display = SelectionPathDisplay(foci(X, y, n_neighbors=10, stop=False))
    >>> display.n_kept
    3
    >>> figure = display.plot().figure_
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, path: SelectionPath) -> None:
        if not hasattr(path, "cumulative"):
            raise TypeError(
                f"path is a {type(path).__name__}, which holds no values of T; pass the path of foci or lfoci. "
                "BlanketPathDisplay draws the path of method='auto', from_estimator a selector's."
            )
        self.path = path
        self.names: tuple[str, ...] = tuple(path.names)
        self.cumulative: NDArray[np.float64] = np.asarray(path.cumulative, dtype=np.float64)
        self.conditional: NDArray[np.float64] = np.asarray(path.conditional, dtype=np.float64)
        self.n_kept = _steps_kept(self.conditional)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        line_kw: dict[str, Any] | None = None,
        bar_kw: dict[str, Any] | None = None,
    ) -> SelectionPathDisplay:
        """Draw the path.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure wide enough for the names when absent.
        line_kw, bar_kw : dict, optional
            Keywords for ``Axes.plot`` of the line and ``Axes.bar`` of the bars.

        Returns
        -------
        display : SelectionPathDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        steps = np.arange(1, len(self.names) + 1)
        kept = steps <= self.n_kept
        self.ax_ = new_axes(len(steps)) if ax is None else ax
        from matplotlib.cbook import normalize_kwargs  # spells out aliases such as c for color
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        self.figure_ = cast("Figure", self.ax_.figure)
        colors = np.where(kept, KEPT, BEYOND).tolist()
        self.bars_ = self.ax_.bar(
            steps,
            np.nan_to_num(self.conditional),
            **{"color": colors, "alpha": 0.35, "label": "gain of the step", **normalize_kwargs(bar_kw or {}, Patch)},
        )
        (self.line_,) = self.ax_.plot(
            steps[kept],
            self.cumulative[kept],
            **{"color": KEPT, "marker": "o", "label": "T of all so far", **normalize_kwargs(line_kw or {}, Line2D)},
        )
        self._draw_beyond(steps)
        self._draw_stop()
        self._label(steps)
        return self

    def _draw_beyond(self, steps: NDArray[np.int64]) -> None:
        first = max(self.n_kept - 1, 0)
        if self.n_kept < len(steps):
            self.ax_.plot(steps[first:], self.cumulative[first:], color=BEYOND, marker="o", zorder=1.5)

    def _draw_stop(self) -> None:
        """Mark the end of the selection: a line between the last step kept and the next."""
        if not self.names:
            text = "nothing was selected"
            self.ax_.text(0.5, 0.5, text, transform=self.ax_.transAxes, ha="center", va="center")
            return
        noun = "feature" if self.n_kept == 1 else "features"
        self.stop_ = self.ax_.axvline(
            self.n_kept + 0.5,
            color="0.35",
            linestyle=(0, (4, 3)),
            linewidth=1.0,
            label=f"stop: {self.n_kept} {noun}",
        )

    def _label(self, steps: NDArray[np.int64]) -> None:
        axes = self.ax_
        axes.set_xticks(steps, short(self.names), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_ylabel("dependence T")
        axes.set_xlim(0.4, max(len(steps), 1) + 0.8)
        drawn = np.concatenate([self.cumulative, np.nan_to_num(self.conditional), [0.0]])
        highest = float(np.nanmax(drawn))
        axes.set_ylim(1.05 * float(np.nanmin(drawn)), 1.08 * max(1e-9, highest) if self.names else 1.0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if self.names:
            axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0.5)
            axes.legend(
                frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize="small", borderaxespad=0.2
            )

    @classmethod
    def from_path(cls, path: SelectionPath, *, ax: Axes | None = None, **kwargs: Any) -> SelectionPathDisplay:
        """Draw the result of :func:`codec.foci` or :func:`codec.lfoci`.

        Parameters
        ----------
        path : SelectionPath
            The selection to show.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SelectionPathDisplay
            What was drawn.

        Raises
        ------
        TypeError
            If the path is that of ``method='auto'``.
        """
        return cls(path).plot(ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: MarkovBlanketSelector, *, ax: Axes | None = None, **kwargs: Any
    ) -> SelectionPathDisplay:
        """Draw the path of a fitted selector.

        Parameters
        ----------
        estimator : MarkovBlanketSelector
            Fitted with ``method='foci'`` or ``'lfoci'``.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        display : SelectionPathDisplay
            What was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the selector is not fitted.
        TypeError
            If it was fitted with ``method='auto'``.
        """
        check_is_fitted(estimator, "path_")
        return cls.from_path(estimator.path_, ax=ax, **kwargs)


def _steps_kept(conditional: NDArray[np.float64]) -> int:
    """Count the steps before the first whose conditional T is not positive (or not defined).

    The unconditional Q of the union increases exactly when the conditional T is positive, so this
    is the stopping rule of FOCI read off a path.
    """
    beyond = ~(conditional > 0.0)
    return int(np.argmax(beyond)) if beyond.any() else len(conditional)
