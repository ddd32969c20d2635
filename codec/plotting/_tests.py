"""Null distributions and p-values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from codec.plotting._axes import KEPT, check_drawn, finish, ink, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from codec._inference import CodecTestResult


class NullDistributionDisplay:
    """The null distribution of a test as a histogram, the observed value as a line.

    Parameters
    ----------
    result : CodecTestResult
        The result of :func:`codec.codec_test` with a method that makes copies of the data.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.
    line_ : matplotlib.lines.Line2D
        The observed value.

    Raises
    ------
    ValueError
        If the result is that of the asymptotic method, which makes no copies.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_test
    >>> from codec.plotting import NullDistributionDisplay
    >>> z = np.random.default_rng(0).standard_normal(100)
    >>> display = NullDistributionDisplay.from_result(codec_test(z**2, z, rng=0))
    >>> display.ax_.get_xlabel()
    'statistic under the null hypothesis'
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, result: CodecTestResult) -> None:
        check_drawn(result, "result", "null_distribution", "the result of one test, such as codec_test")
        if result.null_distribution is None:
            raise ValueError("the asymptotic method makes no copies of the data: there is no distribution to draw.")
        self.result = result

    def plot(self, ax: Axes | None = None, *, bins: int = 30) -> NullDistributionDisplay:
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        bins : int, default 30
            Bins of the histogram.

        Returns
        -------
        display : NullDistributionDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        self.ax_ = new_axes(0) if ax is None else ax
        self.figure_ = cast("Figure", self.ax_.figure)
        result = self.result
        label = f"{result.n_resamples} copies of the data"
        self.ax_.hist(np.asarray(result.null_distribution), bins=bins, color=KEPT, alpha=0.35, label=label)
        label = f"observed, p = {result.pvalue:.3g}"
        self.line_ = self.ax_.axvline(result.statistic, color=ink(), linewidth=1.5, label=label)
        self.ax_.set_xlabel("statistic under the null hypothesis")
        self.ax_.set_ylabel("copies")
        finish(self.ax_)
        return self

    @classmethod
    def from_result(cls, result: CodecTestResult, *, ax: Axes | None = None, **kwargs: Any) -> NullDistributionDisplay:
        """Draw the result of :func:`codec.codec_test`.

        Parameters
        ----------
        result : CodecTestResult
            The test to show.
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.
        **kwargs : dict
            Passed to :meth:`plot`: ``bins``.

        Returns
        -------
        display : NullDistributionDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If the result is that of the asymptotic method, which makes no copies.
        """
        return cls(result).plot(ax, **kwargs)


class CalibrationDisplay:
    """P-values of many tests of true hypotheses against the uniform distribution (a QQ plot).

    The band holds each ordered p-value of a valid test with 95 % probability (its distribution is a
    beta distribution). Points below the diagonal mean that the test rejects too often.

    Parameters
    ----------
    pvalues : array-like of shape (k,)
        One p-value a data set, all made under the null hypothesis and independent of each other.

    Attributes
    ----------
    pvalues : ndarray of shape (k,)
        Ascending.
    expected, low, high : ndarray of shape (k,)
        Mean and 95 % limits of the ordered p-values of a valid test: the j-th of k has the distribution
        Beta(j, k + 1 - j).
    ax_ : matplotlib.axes.Axes
        The axes of the last :meth:`plot`.
    figure_ : matplotlib.figure.Figure
        The figure of the last :meth:`plot`.

    Raises
    ------
    ValueError
        If there are no p-values, or some are missing or not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from codec.plotting import CalibrationDisplay
    >>> display = CalibrationDisplay(np.random.default_rng(0).random(50)).plot()
    >>> bool(np.mean((display.low <= display.pvalues) & (display.pvalues <= display.high)) > 0.8)
    True
    """

    ax_: Axes
    figure_: Figure

    def __init__(self, pvalues: Any) -> None:
        from scipy.stats import beta

        self.pvalues: NDArray[np.float64] = np.sort(np.ravel(found := np.asarray(pvalues, dtype=np.float64)))
        outside = ~((self.pvalues >= 0.0) & (self.pvalues <= 1.0))
        if found.ndim != 1 or self.pvalues.size == 0 or outside.any():
            raise ValueError("pvalues must be a list of numbers between 0 and 1.")
        k = self.pvalues.size
        place = np.arange(1, k + 1)
        self.expected = place / (k + 1)
        self.low, self.high = (beta.ppf(q, place, k + 1 - place) for q in (0.025, 0.975))

    def plot(self, ax: Axes | None = None) -> CalibrationDisplay:
        """Draw the ordered p-values, the diagonal and its band.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; a new figure when absent.

        Returns
        -------
        display : CalibrationDisplay
            The object itself.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        self.ax_ = new_axes(0) if ax is None else ax
        self.figure_ = cast("Figure", self.ax_.figure)
        self.ax_.fill_between(self.expected, self.low, self.high, color="0.88", label="95 % of valid tests")
        self.ax_.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
        self.ax_.plot(self.expected, self.pvalues, color=KEPT, linewidth=1.6, label=f"{self.pvalues.size} p-values")
        self.ax_.set_xlabel("expected under the null hypothesis")
        self.ax_.set_ylabel("p-value")
        self.ax_.set_aspect("equal")
        finish(self.ax_)
        return self
