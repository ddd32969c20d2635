"""Models that forgot, beside the range of retrained ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from codec.plotting._axes import BEYOND, KEPT, NOTED, finish, new_axes, short

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

SHOWN = ("forget_accuracy", "forget_loss", "test_accuracy", "mia_loss_auc", "js_divergence", "test_disagreement")
TITLES = {
    "mia_loss_auc": "membership by loss, AUC",
    "js_divergence": "forget JS divergence from retrained",
    "test_disagreement": "test disagreement with retrained",
}
METHODS = ("#7a4fa3", KEPT, "#3d9a50", "#c23b6b", "#8a7a1f", "#4f79d1")  # colours of methods; the others are fixed
STYLES = ("-", "--", ":", "-.")  # of one colour
COLUMNS = 3


class EvaluationDisplay:
    """Every model as a point, one panel a metric, the range of the retrained models as a band.

    A model inside the band cannot be told from a retrained one by that metric.

    Parameters
    ----------
    runs : DataFrame
        One row a model, index (name, run), one column a metric: ``Evaluation.runs``.
    metrics : sequence of str, optional
        Columns to show. Default: those of six that are there.
    reference : str, default 'retrained'
        Name of the models whose range is the band.

    Attributes
    ----------
    metrics : tuple of str
        Columns shown.
    names : tuple of str
        Models, from top to bottom.
    axes_ : ndarray of matplotlib.axes.Axes
        The axes of the last :meth:`plot`, one a metric.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.

    Raises
    ------
    ValueError
        If ``runs`` has no such column or no model called ``reference``.

    Examples
    --------
    >>> import pandas as pd
    >>> from codec.plotting import EvaluationDisplay
    >>> index = pd.MultiIndex.from_tuples([("original", 0), ("retrained", 0)], names=["name", "run"])
    >>> EvaluationDisplay(pd.DataFrame({"forget_loss": [0.1, 0.7]}, index=index)).metrics
    ('forget_loss',)
    """

    axes_: Any
    figure_: Figure

    def __init__(
        self, runs: pd.DataFrame, *, metrics: Sequence[str] | None = None, reference: str = "retrained"
    ) -> None:
        metrics = [metrics] if isinstance(metrics, str) else metrics
        missing = [metric for metric in metrics or () if metric not in runs]
        if missing:
            raise ValueError(f"metrics holds {missing[0]!r}; the columns are {', '.join(map(str, runs.columns))}.")
        self.runs, self.reference = runs, reference
        known = [m for m in SHOWN if m in runs] or list(runs.columns[:COLUMNS])
        self.metrics: tuple[str, ...] = tuple(metrics) if metrics else tuple(known)
        self.names: tuple[str, ...] = tuple(dict.fromkeys(runs.index.get_level_values(0)))
        if reference not in self.names:
            raise ValueError(f"reference is {reference!r}; the models are {', '.join(map(str, self.names))}.")

    def plot(self, axes: Sequence[Axes] | None = None) -> EvaluationDisplay:
        """Draw the panels.

        Parameters
        ----------
        axes : sequence of matplotlib.axes.Axes, optional
            Where to draw, one a metric; a new figure when absent.

        Returns
        -------
        display : EvaluationDisplay
            The object itself.

        Raises
        ------
        ValueError
            If ``axes`` does not hold one for every metric.
        ImportError
            If matplotlib is missing.
        """
        self.axes_ = np.ravel(np.asarray(self._new_axes() if axes is None else axes, dtype=object))
        if len(self.axes_) != len(self.metrics):
            raise ValueError(f"axes holds {len(self.axes_)} axes for {len(self.metrics)} metrics.")
        self.figure_ = cast("Figure", self.axes_[0].figure)
        for place, (ax, metric) in enumerate(zip(self.axes_, self.metrics, strict=True)):
            self._panel(ax, metric, named=axes is not None or place % COLUMNS == 0)
        return self

    def _new_axes(self) -> list[Axes]:
        first = new_axes(0)  # says what to install where matplotlib is absent
        figure = cast("Figure", first.figure)
        figure.clear()
        rows = math.ceil(len(self.metrics) / COLUMNS)
        columns = min(COLUMNS, len(self.metrics))
        figure.supxlabel(f"each point is a model, the band is the range of the {self.reference} ones", fontsize="small")
        figure.set_size_inches(1.6 + 3.1 * columns, rows * (0.9 + 0.27 * len(self.names)))
        return [figure.add_subplot(rows, columns, i + 1) for i in range(len(self.metrics))]

    def _panel(self, ax: Axes, metric: str, *, named: bool) -> None:
        places = np.arange(len(self.names))
        for place, name in zip(places, self.names, strict=True):
            values = self.runs.loc[[name], metric].to_numpy(dtype=float)
            colour = "0.35" if name == self.reference else NOTED if name == "original" else KEPT
            ax.scatter(values, np.full(len(values), place), s=16, color=colour, alpha=0.55, linewidth=0, zorder=2)
            known = values[~np.isnan(values)]
            ax.scatter(known.mean() if len(known) else np.nan, place, s=120, marker="|", color=colour, zorder=3)
        band = self.runs.loc[[self.reference], metric].to_numpy(dtype=float)
        if not np.isnan(band).all():
            ax.axvspan(np.nanmin(band), np.nanmax(band), color=BEYOND, alpha=0.3, linewidth=0, zorder=0)
            ax.axvline(float(np.nanmean(band)), color="0.5", linewidth=0.8, zorder=1)
        ax.set_yticks(places, short(self.names) if named else [""] * len(places))
        ax.set_ylim(len(places) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.set_title(TITLES.get(metric, str(metric).replace("_", " ")), fontsize="small")
        ax.locator_params(axis="x", nbins=4)
        ax.margins(x=0.08)
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)


class AttackDisplay:
    """ROC curves of attacks on logarithmic axes, where few false positives can be seen.

    Parameters
    ----------
    scores : dict of str to (array-like, array-like)
        By name, the scores of members, shape (m,), and of non-members, shape (k,), larger for likely members.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.
    lines_ : dict of str to matplotlib.lines.Line2D
        The curve of each name.

    References
    ----------
    .. [1] N. Carlini, S. Chien, M. Nasr, S. Song, A. Terzis, F. Tramer, "Membership inference attacks from first
       principles", IEEE Symposium on Security and Privacy, 2022, 1897-1914, :doi:`10.1109/SP46214.2022.9833649` (ROC
       curves on logarithmic axes).

    Examples
    --------
    >>> from codec.plotting import AttackDisplay
    >>> AttackDisplay({"codec": ([2.0, 3.0], [0.0, 1.0])}).plot().ax_.get_xlabel()
    'false positive rate'
    """

    ax_: Axes
    figure_: Figure
    lines_: dict[str, Line2D]

    def __init__(self, scores: Mapping[str, tuple[Any, Any]]) -> None:
        if not scores:
            raise ValueError("scores is empty; pass scores of members and non-members by name.")
        self.scores = {name: _sorted(name, pair) for name, pair in scores.items()}

    def plot(self, ax: Axes | None = None) -> AttackDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : AttackDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        self.ax_ = axes = new_axes(0, height=4.6) if ax is None else ax
        self.figure_ = cast("Figure", axes.figure)
        least = min(0.1, 1.0 / max(len(others) for _, others in self.scores.values()))
        self.lines_ = {}
        labels = short(self.scores)
        for place, (label, (name, (members, others))) in enumerate(zip(labels, self.scores.items(), strict=True)):
            fpr, tpr = _rates(members, others)
            colour = {"original": NOTED, "retrained": "0.35"}.get(name, METHODS[place % len(METHODS)])
            style = STYLES[place // len(METHODS) % len(STYLES)]
            (self.lines_[name],) = axes.step(fpr, tpr, where="post", color=colour, linestyle=style, label=label)
        axes.plot([least, 1.0], [least, 1.0], color="0.7", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set(xscale="log", yscale="log", xlim=(least, 1.0), ylim=(least, 1.05))
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        finish(axes, columns=3, lines=self.lines_.values())
        return self


def _sorted(name: str, pair: tuple[Any, Any]) -> tuple[NDArray[Any], ...]:
    if not hasattr(pair, "__len__") or len(pair) != 2:
        raise ValueError(f"scores[{name!r}] must be a pair: scores of members, and of non-members.")
    found = tuple(np.sort(np.ravel(np.asarray(scores, dtype=float))) for scores in pair)
    if any(not len(scores) or np.isnan(scores).any() for scores in found):
        raise ValueError(f"scores[{name!r}] needs members and non-members, and a number for each of them.")
    return found


def _rates(members: NDArray[Any], others: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Shares at or above every threshold, from sorted scores."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    rates = [(len(s) - np.searchsorted(s, thresholds)) / len(s) for s in (others, members)]
    return rates[0], rates[1]
