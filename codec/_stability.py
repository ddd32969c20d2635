"""Stability selection: how often a feature is selected on halves of the data, and what that bounds."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from joblib import delayed

from codec._forward import show_progress
from codec._parallel import in_order
from codec._validation import (
    BoolArray,
    FloatArray,
    IntArray,
    Rng,
    as_generator,
    check_integer,
    check_jobs,
    check_positive,
)

Select = Callable[[IntArray, np.random.Generator], Iterable[int]]
MIN_ROWS = 8  # halves of fewer rows hold nothing to select by


# --------------------------------------------------------------------------- the result
@dataclass(frozen=True, eq=False, repr=False)
class StabilityResult:
    r"""How often each feature was selected, and a bound on the false ones among the stable ones.

    Attributes
    ----------
    frequencies : ndarray of shape (p,)
        Share of the subsamples in which each feature was selected.
    selected : tuple of int
        Features with a frequency of at least ``threshold``, the most frequent first.
    threshold : float
        :math:`\tau`.
    n_subsamples, subsample_size : int
        Halves drawn, in complementary pairs, and rows in each.
    mean_selected : float
        q: mean number of features selected in a subsample, those of ``always_include`` not counted.
    names : tuple of str
        Feature names.
    always_include : tuple of int
        Features that are selected whatever the data say: their frequency is 1, and the bounds are on the others.

    Notes
    -----
    Call a feature *improbable* if the procedure selects it from half of the data with a probability of at
    most q / p, as it would if it chose q of p features blindly. :attr:`expected_false` bounds the expected
    number of improbable features among the selected ones, whatever the procedure and the data [2]_, Theorem 1;
    the same number bounds the expected number of noise features if these are exchangeable and the procedure
    is no worse than blind [1]_, Theorem 1.

    References
    ----------
    .. [1] N. Meinshausen, P. Bühlmann, "Stability selection", Journal of the Royal Statistical Society B
       72(4), 417-473, 2010, :doi:`10.1111/j.1467-9868.2010.00740.x`.
    .. [2] R. D. Shah, R. J. Samworth, "Variable selection with error control: another look at stability
       selection", Journal of the Royal Statistical Society B 75(1), 55-80, 2013,
       :doi:`10.1111/j.1467-9868.2011.01034.x`.

    Examples
    --------
    A selector fitted with ``stability=`` holds one as ``stability_``.

    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector, fisher_z
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 5))
    >>> y = X[:, 1] + X[:, 3] + 0.5 * rng.standard_normal(100)
    >>> options = {"n_subsamples": 6, "threshold": 0.9}
    >>> selector = MarkovBlanketSelector(test=fisher_z, screen=False, stability=options, random_state=0)
    >>> result = selector.fit(X, y).stability_
    >>> sorted(result.selected), result.mean_selected, round(result.expected_false, 2)
    ([1, 3], 2.0, 1.0)
    >>> result.to_frame().columns.tolist()
    ['frequency', 'selected']
    """

    frequencies: FloatArray
    selected: tuple[int, ...]
    threshold: float
    n_subsamples: int
    subsample_size: int
    mean_selected: float
    names: tuple[str, ...] = field(default=())
    always_include: tuple[int, ...] = field(default=())

    @property
    def support(self) -> BoolArray:
        """Which features are stable: ndarray of shape (p,), bool."""
        return self.frequencies >= self.threshold - 1e-12

    @property
    def _n_open(self) -> int:
        """p: features that the data decide about."""
        return len(self.frequencies) - len(self.always_include)

    @property
    def expected_false(self) -> float:
        r""":math:`q^2 / ((2 \tau - 1) p)`, at most p: bound on the expected number of improbable features selected.

        Shah and Samworth (2013), Theorem 1; p does not count those of ``always_include``.
        """
        p = self._n_open
        return min(worst_case_bound(self.mean_selected, p, self.threshold), float(p)) if p else 0.0

    @property
    def expected_false_unimodal(self) -> float:
        """A smaller bound, if the share of pairs of halves that agree on a feature has a unimodal distribution.

        Shah and Samworth (2013), Theorem 2; NaN where the theorem says nothing, as for a threshold near .5.
        """
        p = self._n_open
        return unimodal_bound(self.mean_selected, p, self.threshold, self.n_subsamples // 2) if p else 0.0

    def to_frame(self) -> pd.DataFrame:
        """One row a feature, by its name, the most frequent first.

        Returns
        -------
        DataFrame of shape (p, 2)
            Columns ``frequency`` and ``selected``.
        """
        frame = pd.DataFrame({"frequency": self.frequencies, "selected": self.support}, index=self._labels())
        return frame.sort_values("frequency", ascending=False, kind="stable")

    def _labels(self) -> pd.Index[Any]:
        return pd.Index(self.names or [f"x{j}" for j in range(len(self.frequencies))], name="feature")

    def _title(self) -> str:
        beside = f" beside {len(self.always_include)} always included" if self.always_include else ""
        return (
            f"{len(self.selected)} of {len(self.frequencies)} features selected in at least "
            f"{100.0 * self.threshold:.3g} % of {self.n_subsamples} halves of the data ({self.subsample_size} rows each); "
            f"{self.mean_selected:.1f} selected in a half on average{beside}, "
            f"at most {self.expected_false:.2g} improbable ones expected"
        )

    def __repr__(self) -> str:
        top = self._top()
        return f"{self._title()}\n{top.to_string(float_format='{:.2f}'.format)}" if len(top) else self._title()

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._title())}</p>{self._top().to_html(float_format='{:.2f}'.format)}"

    def _top(self) -> pd.DataFrame:
        """Everything that was ever selected, at most 20 features."""
        frame = self.to_frame()
        return frame[frame["frequency"] > 0].head(max(20, len(self.selected)))


# --------------------------------------------------------------------------- the procedure
def stability_selection(
    select: Select,
    n: int,
    n_features: int,
    *,
    n_subsamples: int = 100,
    threshold: float = 0.6,
    names: Sequence[str] | None = None,
    always_include: Iterable[int] = (),
    rng: Rng = None,
    n_jobs: int | None = None,
    verbose: bool = False,
) -> StabilityResult:
    r"""Select on random halves of the rows, in complementary pairs, and count.

    Parameters
    ----------
    select : callable
        ``select(rows, rng)`` returns the features selected from these rows, as indices.
    n, n_features : int
        Rows and features of the data.
    n_subsamples : int, default 100
        Halves, an even number: each pair of them shares no row.
    threshold : float, default 0.6
        :math:`\tau`, above .5: a feature is selected if its frequency is at least this.
    names : sequence of str, optional
        Feature names; ``x0, x1, ...`` when absent.
    always_include : iterable of int
        Features that ``select`` is told to select: no evidence, and no risk of a false selection.
    rng : int, SeedSequence, Generator or None, default None
        Seed. Each subsample has a stream of its own, so the result is the same for any ``n_jobs``.
    n_jobs : int, optional
        Threads over the subsamples, or any backend of ``joblib.parallel_config``.
    verbose : bool, default False
        Show progress on stderr.

    Returns
    -------
    StabilityResult
        Frequencies, the stable features, the bound; the references are there.

    Raises
    ------
    ValueError
        If the threshold is not in (.5, 1], the number of subsamples is odd or there are fewer than 8 rows.

    Examples
    --------
    >>> import numpy as np
    >>> from codec._stability import stability_selection
    >>> X = np.random.default_rng(0).standard_normal((100, 20))
    >>> y = X[:, 0] + X[:, 1] + X[:, 2] / 4
    >>> def largest_two(rows, rng):
    ...     return np.argsort(-np.abs(X[rows].T @ y[rows]))[:2]
    >>> result = stability_selection(largest_two, 100, 20, rng=0)
    >>> sorted(result.selected), result.mean_selected, round(result.expected_false, 2)
    ([0, 1], 2.0, 1.0)
    """
    if check_integer(n, "n", 1) < MIN_ROWS:
        raise ValueError(f"n is {n}: stability selection needs at least {MIN_ROWS} rows, since it selects in halves.")
    check_integer(n_features, "n_features", 1)
    threshold = check_halves({"n_subsamples": n_subsamples, "threshold": threshold})["threshold"]
    generators = as_generator(rng).spawn(n_subsamples)
    halves = [rows for g in generators[::2] for rows in _complementary_pair(n, g)]
    tasks = (delayed(_count)(select, rows, g, n_features) for rows, g in zip(halves, generators, strict=True))
    counts = np.zeros(n_features, dtype=np.int64)
    with show_progress("stability selection", verbose, f"{n_subsamples} halves") as advance:
        for found in in_order(tasks, check_jobs(n_jobs)):
            counts += found
            advance(1.0 / n_subsamples)
    always = tuple(int(j) for j in always_include)
    counts[list(always)] = 0
    mean_selected = float(counts.sum() / n_subsamples)
    counts[list(always)] = n_subsamples
    frequencies = counts / n_subsamples
    stable = [int(j) for j in np.argsort(-counts, kind="stable") if frequencies[j] >= threshold - 1e-12]
    return StabilityResult(
        frequencies,
        tuple(stable),
        threshold,
        n_subsamples,
        n // 2,
        mean_selected,
        tuple(names) if names is not None else tuple(f"x{j}" for j in range(n_features)),
        always,
    )


def check_threshold(threshold: Any) -> float:
    """A threshold for which there is a bound."""
    value = check_positive(threshold, "threshold")
    if not 0.5 < value <= 1.0:
        raise ValueError(f"threshold is {threshold!r}; it must be above 0.5 and at most 1.")
    return value


def check_halves(options: Mapping[str, Any]) -> dict[str, Any]:
    """``n_subsamples``, a number of halves that come in pairs, and ``threshold``, if they are given."""
    checked: dict[str, Any] = {}
    if "n_subsamples" in options:
        checked["n_subsamples"] = number = check_integer(options["n_subsamples"], "n_subsamples", 2)
        if number % 2:
            raise ValueError(f"n_subsamples is {number}; halves are drawn in pairs, so it must be even.")
    if "threshold" in options:
        checked["threshold"] = check_threshold(options["threshold"])
    return checked


def _complementary_pair(n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Two sets of n // 2 rows without a common one, each in ascending order."""
    order = rng.permutation(n)
    half = n // 2
    return np.sort(order[:half]), np.sort(order[half : 2 * half])


def _count(select: Select, rows: IntArray, rng: np.random.Generator, n_features: int) -> IntArray:
    chosen = np.unique(np.fromiter(select(rows, rng), dtype=np.int64))
    count = np.zeros(n_features, dtype=np.int64)
    count[chosen] = 1
    return count


# --------------------------------------------------------------------------- bounds
def worst_case_bound(mean_selected: float, n_features: int, threshold: float) -> float:
    r"""Shah & Samworth (2013), Theorem 1 with :math:`\theta = q / p`: :math:`q^2 / ((2 \tau - 1) p)`."""
    return mean_selected**2 / ((2.0 * threshold - 1.0) * n_features)


def unimodal_bound(mean_selected: float, n_features: int, threshold: float, n_pairs: int) -> float:
    r"""Shah & Samworth (2013), Theorem 2: :math:`C(\tau, B)\, q^2 / p`; NaN where the theorem is silent.

    The share of pairs in which both halves select a feature is assumed to have a unimodal distribution on
    {0, 1 / B, ..., 1}. Its mean is at most :math:`\theta^2`, and a frequency of :math:`\tau` needs a share of at
    least :math:`2 \tau - 1`.
    """
    theta = mean_selected / n_features
    half_step = 1.0 / (2.0 * n_pairs)
    lowest = min(0.5 + theta**2, 0.5 + half_step + 0.75 * theta**2)
    if theta > 1.0 / math.sqrt(3.0) or threshold <= lowest:
        return math.nan
    if threshold <= 0.75:
        constant = 1.0 / (2.0 * (2.0 * threshold - 1.0 - half_step))
    else:
        constant = 4.0 * (1.0 - threshold + half_step) / (1.0 + 2.0 * half_step)
    return constant * mean_selected**2 / n_features
