"""The table of an evaluation, and how it shows itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from codec._validation import check_amount
from codec.unlearn._report import figure_html, page_html
from codec.unlearn.evaluate._metrics import Array
from codec.unlearn.evaluate._outputs import RETRAINED

BOUNDS = ("mean", "low", "high")
DISTANCES = ("test_disagreement", "forget_disagreement", "js_divergence", "activation_distance")
GAP = ("retain_accuracy", "forget_accuracy", "test_accuracy", "mia_loss_auc")  # what `gap` is the mean over


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Metrics of several models beside retrained ones.

    Attributes
    ----------
    runs : DataFrame
        One row a model, index (name, run), one column a metric; see :func:`evaluate` for the columns.
    scores : dict of str to list of dict
        For each model the scores of its membership attacks: by attack, forgotten samples and those never seen.
    notes : tuple of str
        What could not be computed, and what the table cannot show.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn.evaluate import evaluate, split
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(30, 2), torch.arange(30) % 2
    >>> models = [torch.nn.Linear(2, 2) for _ in range(4)]
    >>> parts = split((X[:20], y[:20]), [3, 7])
    >>> result = evaluate({"original": models[0], "retrained": models[1:]}, **parts, test=(X[20:], y[20:]))
    >>> result.names, result.runs.shape[0], list(result.gaps().index)
    (('original', 'retrained'), 4, ['original'])
    >>> result.to_frame(intervals=True)["forget_accuracy"].columns.to_list()
    ['mean', 'low', 'high']
    """

    runs: pd.DataFrame
    scores: Mapping[str, Sequence[Mapping[str, Any]]]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, the retrained last."""
        return tuple(dict.fromkeys(self.runs.index.get_level_values("name")))

    def to_frame(self, *, intervals: bool = False, confidence_level: float = 0.95) -> pd.DataFrame:
        """One row a name: the mean over its models.

        Parameters
        ----------
        intervals : bool, default False
            Columns (metric, 'mean' | 'low' | 'high') with Student's interval over the models of a name; NaN where
            there is one model only, or where models that differ agree by chance, as shares of few samples do. Distances of the retrained models are those to each other, so their rows are not
            independent: their standard errors are the jackknife's, which needs three models.
        confidence_level : float, default 0.95
            Of the interval, in (0, 1).

        Returns
        -------
        DataFrame
            Index: the names; columns: the metrics, or pairs of a metric and a bound.

        Raises
        ------
        ValueError
            ``confidence_level`` is out of range.
        """
        groups = self.runs.groupby(level="name", sort=False)
        means = groups.mean()
        if not intervals:
            return means
        count = groups.count()
        errors = self._errors()
        errors = errors.where((errors > 0) | self._equal(), np.nan)
        return _with_bounds(means, errors * student.ppf(_upper(confidence_level), (count - 1).where(count > 1)))

    def gaps(self, *, confidence_level: float = 0.95) -> pd.DataFrame:
        """Every metric minus its mean over the retrained models, with Welch's interval.

        That of a distance is wider than it need be: both means lean on the same retrained models.

        Parameters
        ----------
        confidence_level : float, default 0.95
            Of the interval, in (0, 1).

        Returns
        -------
        DataFrame
            One row a name other than the retrained, columns (metric, 'mean' | 'low' | 'high'). NaN bounds where a
            side has one model only, or where models that differ agree in a metric by chance on both sides. A gap whose interval holds 0 is not shown to be one.

        Raises
        ------
        ValueError
            ``confidence_level`` is out of range.
        """
        means, variances = self.to_frame(), self._errors().pow(2)
        counts = self.runs.groupby(level="name", sort=False).count()
        others = [name for name in self.names if name != RETRAINED]
        gap = means.loc[others] - means.loc[RETRAINED]
        total = variances.loc[others] + variances.loc[RETRAINED]
        terms = variances.pow(2) / (counts - 1).where(counts > 1)
        freedom = total.pow(2) / (terms.loc[others] + terms.loc[RETRAINED])
        half = total.pow(0.5).mul(student.ppf(_upper(confidence_level), freedom))
        equal = self._equal()
        return _with_bounds(gap, half.where(total > 0, total.where(equal.loc[others] & equal.loc[RETRAINED])))

    def _equal(self) -> pd.DataFrame:
        """Whether the models of a name are one model, by their losses: then no spread is no chance."""
        losses = [column for column in self.runs if str(column).endswith("_loss")]
        groups = self.runs[losses].groupby(level="name", sort=False)
        same = (groups.max() == groups.min()).all(axis=1)
        return pd.DataFrame(dict.fromkeys(self.runs, same))

    def _errors(self) -> pd.DataFrame:
        """Standard errors of the means."""
        errors = self.runs.groupby(level="name", sort=False).sem()
        rows = self.runs.loc[RETRAINED]
        n = len(rows)
        pairwise = [column for column in (*DISTANCES, "parameter_distance") if column in rows]
        # mean of d(i, k) over pairs, U: leaving model i out changes it by 2 (U - mean_k d(i, k)) / (n - 2)
        errors.loc[RETRAINED, pairwise] *= 2 * (n - 1) / (n - 2) if n > 2 else np.nan
        if "gap" in rows:
            errors.loc[RETRAINED, "gap"] = _gap_error(rows[list(GAP)].to_numpy())
        return errors

    def plot(self, metrics: str | Sequence[str] | None = None, axes: Any = None) -> Any:
        """Every model beside the range of the retrained ones, one panel a metric.

        Parameters
        ----------
        metrics : str or sequence of str, optional
            Columns to show. Default: those that matter most.
        axes : sequence of matplotlib Axes, optional
            Where to draw, one a metric.

        Returns
        -------
        codec.plotting.EvaluationDisplay
        """
        from codec.plotting import EvaluationDisplay

        metrics = [metrics] if isinstance(metrics, str) else metrics
        return EvaluationDisplay(self.runs, metrics=metrics, reference=RETRAINED).plot(axes)

    def to_html(self, path: str | Path | None = None, *, title: str = "What was forgotten") -> str:
        """A page with the table, the differences to the retrained models and the plot; no other file is needed."""
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        body = (
            f"{self._repr_html_()}{figure_html(lambda: self.plot().figure_, 'models beside the range of retrained ones')}"
            f"<h2>Differences to the retrained models</h2>{_table(self.gaps()).T.to_html()}"
            f"{f'<h2>Notes</h2><ul>{notes}</ul>' if notes else ''}"
        )
        return page_html(title, body, path)

    def _repr_html_(self) -> str:
        return str(_table(self.to_frame(intervals=True)).T.to_html())

    def __repr__(self) -> str:
        return str(self.to_frame().T.to_string(float_format=lambda v: f"{v:.4g}"))


def _gap_error(rows: Array) -> float:
    """Standard error of the mean gap of models to each other, by leaving each out; NaN for two models or fewer."""
    n = len(rows)
    if n < 3:
        return float("nan")
    left = np.array([_mean_gap(np.delete(rows, i, axis=0)) for i in range(n)])
    return float(np.sqrt((n - 1) / n * np.square(left - left.mean()).sum()))


def _mean_gap(rows: Array) -> float:
    """Mean absolute difference of each row to the mean of the others."""
    others = (rows.sum(axis=0) - rows) / (len(rows) - 1)
    return float(np.abs(rows - others).mean())


def _upper(confidence_level: float) -> float:
    if not 0.0 < check_amount(confidence_level, "confidence_level") < 1.0:
        raise ValueError(f"confidence_level is {confidence_level}; it must lie between 0 and 1.")
    return (1.0 + confidence_level) / 2


def _with_bounds(means: pd.DataFrame, half: pd.DataFrame) -> pd.DataFrame:
    """Columns (metric, mean | low | high), the metrics in their order."""
    parts = dict(zip(BOUNDS, (means, means - half, means + half), strict=True))
    return pd.concat(parts, axis=1).swaplevel(axis=1).reindex(columns=pd.MultiIndex.from_product([means, BOUNDS]))


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and half width as text."""
    metrics = list(dict.fromkeys(frame.columns.get_level_values(0)))
    cells = {
        metric: [
            f"{mean:.4g}" if np.isnan(high) else f"{mean:.4g} ± {high - mean:.2g}"
            for mean, high in zip(frame[metric, "mean"], frame[metric, "high"], strict=True)
        ]
        for metric in metrics
    }
    return pd.DataFrame(cells, index=frame.index)
