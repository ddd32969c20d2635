"""Confidence intervals for the coefficient, each in the range where theory and simulation support it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from codec._dependence import NominalY, read_response
from codec._graphs import Coefficient
from codec._notes import warn
from codec._validation import (
    FloatArray,
    NanPolicy,
    Rng,
    Table,
    as_generator,
    check_option,
    check_positive,
    check_spread,
    constant_columns,
    drop_incomplete,
    read_table,
)

ANALYTIC_ROWS = 500
ANALYTIC_MIN_ROWS = 4  # products at lag 3
ANALYTIC_HIGHEST = 0.97  # T: beyond, the normal limit is far
BOOTSTRAP_SAMPLES = 400
BOOTSTRAP_MIN_ROWS = 100
BOOTSTRAP_ROWS = 400
RAREST_ROWS, RARE_ROWS = 2, 5  # of a subsample, of other values of y than the most frequent: at least, well
BOOTSTRAP_HIGHEST = 0.8  # T of two columns
BOOTSTRAP_MAX_COLUMNS = 2  # beyond, the bias of nearest neighbours is as large as the interval


class ConfidenceInterval(NamedTuple):
    """Lower and upper end; unpacks as ``(low, high)``.

    Attributes
    ----------
    low, high : float
        The ends, within [-1, 1], on the scale of T.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_interval
    >>> rng = np.random.default_rng(0)
    >>> z = rng.standard_normal(500)
    >>> interval = codec_interval(z + rng.standard_normal(500), z)
    >>> low, high = interval
    >>> interval.low == low, bool(low < high)
    (True, True)
    """

    low: float
    high: float


def codec_interval(
    y: Any,
    z: Any,
    given: Any = None,
    *,
    confidence_level: float = 0.95,
    method: str = "auto",
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    rng: Rng = None,
) -> ConfidenceInterval:
    """Confidence interval for T(Y, Z) or T(Y, Z | X), one nearest neighbour.

    Parameters
    ----------
    y : array-like of shape (n,)
        Response. The analytic interval needs values without ties.
    z : array-like of shape (n,) or (n, p)
        The variables whose influence is measured, as in :func:`codec.codec`.
    given : array-like of shape (n,) or (n, r), optional
        The conditioning variables X. Without them the interval is for T(Y, Z).
    confidence_level : float, default 0.95
        Coverage wanted, in (0, 1).
    method : {'auto', 'analytic', 'bootstrap'}, default 'auto'
        ``'analytic'``: the variance estimator of Lin and Han for one continuous z, no ``given``, around
        the coefficient of the right neighbour (Chatterjee's) times (n + 1) / (n - 2), which is 1 for a function. ``'bootstrap'``: m out of n rows without
        replacement, m = floor(n^(2/3)), for at most two columns of z and ``given`` together and at
        least 100 rows; below 400 it warns that it is too wide. ``'auto'`` takes the first that applies.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    rng : None, int, SeedSequence or Generator, default None
        Draws the subsamples.

    Returns
    -------
    ConfidenceInterval
        ``low`` and ``high``, within [-1, 1]. It describes T, not a test: at independence or at a
        functional relation, the ends of the range, the normal limit is not valid; use
        :func:`codec_test` for the hypothesis T = 0.

    Raises
    ------
    ValueError
        Several responses; a constant y or z; y a function of ``given`` in the sample, or so nearly that the interval
        would lie below -1; ``confidence_level`` not in (0, 1); for the bootstrap more than two columns of z and
        ``given``, fewer than 100 rows, or fewer than two rows a subsample with another value of y than the most frequent;
        for the analytic interval fewer than four rows, ties in y or z, or several columns. The ordinary (n out of n)
        bootstrap is refused: it repeats rows, a repeated row is its own nearest neighbour, and it fails for this
        coefficient [2]_.
    TypeError
        ``confidence_level`` is no number, z or ``given`` holds text.

    Warns
    -----
    UserWarning
        Fewer than 500 rows (analytic) or 400 rows (bootstrap), at which the interval covers less, or is wider, than it
        should; T above .97 (analytic) or, with two columns, .8 (bootstrap); fewer than five rows a subsample with another
        value of y than the most frequent; rows with missing values were left out.

    References
    ----------
    .. [1] Z. Lin, F. Han, "Limit theorems of Chatterjee's rank correlation", 2022,
       :arxiv:`2204.08031`.
    .. [2] Z. Lin, F. Han, "On the failure of the bootstrap for Chatterjee's rank correlation",
       Biometrika 111(3), 2024, :doi:`10.1093/biomet/asae004`.
    .. [3] H. Dette, M. Kroll, "A simple bootstrap for Chatterjee's rank correlation", Biometrika, 2024,
       :doi:`10.1093/biomet/asae045`.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_interval
    >>> rng = np.random.default_rng(0)
    >>> z = rng.standard_normal(500)
    >>> y = z**2 + 0.5 * rng.standard_normal(500)
    >>> low, high = codec_interval(y, z)
    >>> low < 0.5 < high
    True
    """
    tables = [read_response(y, nominal_y), read_table(z, "z")]
    if given is not None:
        tables.append(read_table(given, "given"))
    tables, _ = drop_incomplete(tables, nan_policy, stacklevel=2)
    return interval_of_tables(
        tables[0], tables[1], tables[2] if given is not None else None, confidence_level, method, as_generator(rng)
    )


def interval_of_tables(
    y: Table, z: Table, given: Table | None, confidence_level: float, method: str, rng: np.random.Generator
) -> ConfidenceInterval:
    """The interval of checked data."""
    if not 0.0 < check_positive(confidence_level, "confidence_level") < 1.0:
        raise ValueError(f"confidence_level is {confidence_level!r}; it must be a number between 0 and 1.")
    if str(method) in ("n-out-of-n", "percentile", "BCa", "basic"):
        raise ValueError(
            f"method is {method!r}: resampling n of n rows repeats rows, a repeated row is its own nearest "
            "neighbour, and the bootstrap fails for this coefficient (Lin & Han 2024); use method='bootstrap' "
            "(m out of n, without replacement) or 'analytic'."
        )
    check_option(method, "method", ("auto", "analytic", "bootstrap"))
    if len(y.names) > 1:
        raise ValueError(
            f"y has {len(y.names)} columns; an interval is for one response, and no T of several has a known one: "
            "pass the columns of y one by one."
        )
    if constant_columns(y).any():
        raise ValueError("y is constant: T is not defined.")
    if constant_columns(z).all():
        raise ValueError("z is constant: it tells nothing of y, T is 0 and needs no interval.")
    reason = _analytic_obstacle(y, z, given)
    if method == "analytic" and reason:
        raise ValueError(f"the analytic interval needs {reason}; use method='bootstrap'.")
    if method != "bootstrap" and not reason:
        if y.n_rows < ANALYTIC_MIN_ROWS:
            raise ValueError(
                f"y has {y.n_rows} rows; the analytic interval needs at least {ANALYTIC_MIN_ROWS}, and "
                f"{ANALYTIC_ROWS} to cover as often as it says."
            )
        fault = "the analytic interval covers less than it says (.90 to .96 instead of .95 at 200)"
        _warn_below(ANALYTIC_ROWS, y.n_rows, fault)
        center, spread = right_neighbor(y.columns[0], z.columns[0])
        _warn_above(
            ANALYTIC_HIGHEST, center, "the analytic interval covers less than it says (.83 to .98 instead of .95)"
        )
    else:
        center, spread = subsampled(y, z, given, rng)
        fault = "the bootstrap interval is wider than it need be (it covers .96 to .99 instead of .95 at 100)"
        _warn_below(BOOTSTRAP_ROWS, y.n_rows, fault)
        if len(z.names) + (0 if given is None else len(given.names)) > 1:
            fault = "neighbours in two columns are too far away for an interval (it covers .9 at .8, .2 at .95)"
            _warn_above(BOOTSTRAP_HIGHEST, center, fault)
    # The variance is an estimate with a relative error near sqrt(24 / n): n / 12 degrees of freedom.
    half = float(student.ppf(0.5 + confidence_level / 2.0, y.n_rows / 12.0)) * spread
    if center + half < -1.0:
        raise ValueError(
            f"T is {center:.3g} in this sample, and no interval around it reaches -1: rows that are near in z and given "
            "together are far apart in given, which tells nearly all of y. Bring z and given to like units, take more "
            "rows, or test with codec_test."
        )
    return ConfidenceInterval(max(center - half, -1.0), min(center + half, 1.0))


def _warn_above(most: float, center: float, fault: str) -> None:
    if center > most:
        warn(f"T is {center:.3g} in this sample: {fault} above {most:g}.", stacklevel=4)


def _warn_below(least: int, n: int, fault: str) -> None:
    if n < least:
        warn(f"{n} rows: {fault} below {least} rows.", stacklevel=4)


def _check_rare_values(y: Table, m: int) -> None:
    """Refuse, or warn of, a y of which subsamples of m rows hardly hold another value than the most frequent."""
    largest = int(np.unique(y.columns[0], return_counts=True)[1].max())
    others = m * (1.0 - largest / y.n_rows)
    what = f"y has the same value in {largest} of {y.n_rows} rows, and a subsample {others:.1f} others"
    if others < RAREST_ROWS:
        raise ValueError(
            f"{what}, which say nothing on the variance; at least {RAREST_ROWS} are needed. Test with codec_test."
        )
    if others < RARE_ROWS:
        warn(
            f"{what}: the bootstrap interval covers less than it says (.88 to .93 instead of .95) below {RARE_ROWS}.",
            stacklevel=5,
        )


def _analytic_obstacle(y: Table, z: Table, given: Table | None) -> str:
    if given is not None:
        return "no conditioning variables"
    if len(z.names) > 1:
        return "one column of z"
    if z.nominal[0] or y.nominal[0]:
        return "ordered y and z"
    if np.unique(y.columns[0]).size < y.n_rows or np.unique(z.columns[0]).size < z.n_rows:
        return "y and z without ties"
    return ""


# --------------------------------------------------------------------------- analytic
def right_neighbor(y: FloatArray, z: FloatArray) -> tuple[float, float]:
    r"""Chatterjee's coefficient over the largest value that n rows can have, and its standard error, no ties.

    Ranks of n rows are further apart than their limits: the mean of ``xi`` is near ``T (n - 2) / (n + 1)``, its value for
    a function of z. What is left out, 3 T / n, is more than the width of the interval where T is near 1.

    In the order of z, ``xi`` is to first order the sum of ``W_i = min(F(y_i), F(y_{i+1})) + G(y_i)``,
    ``G(t) = P(min(Y, Y') >= t)`` (the effect of y_i on the other ranks): 1-dependent with a mean that
    follows z (Lin & Han 2022). Hence ``n Var(xi) -> 36 (Var(W_i) + 2 (E W_i W_{i+1} - E W_i W_{i+2}))``:
    products at lags 2 and 3 hold the variation of the mean alone. Their plug-in estimator of the same
    limit needs thousands of rows to cover; this one some hundreds.
    """
    n = y.size
    rank = np.empty(n)
    rank[np.argsort(y)] = np.arange(1.0, n + 1.0)
    r = rank[np.argsort(z)]
    xi = (1.0 - 3.0 * np.abs(np.diff(r)).sum() / (n * n - 1.0)) * (n + 1.0) / (n - 2.0)
    lower = np.minimum(r[:-1], r[1:])
    reached = (n - 1.0) - np.searchsorted(np.sort(lower), r[:-1], side="left")
    reached -= lower >= r[:-1]  # the pairs that y_i itself is part of say nothing on the others
    reached[1:] -= lower[:-1] >= r[1:-1]
    w = lower / n + reached / (n - 3.0)
    w -= w.mean()
    lag = [float(w[: w.size - k] @ w[k:]) for k in range(4)]
    variance = (lag[0] + 2.0 * lag[1] - lag[2] - lag[3]) / w.size
    floor = 1.0 / n  # W of a function of z still varies by single ranks
    return float(xi), 6.0 * float(np.sqrt(max(variance, floor / n) / n))


# --------------------------------------------------------------------------- m out of n
def subsampled(y: Table, z: Table, given: Table | None, rng: np.random.Generator) -> tuple[float, float]:
    """T and its standard error ``sqrt(m / n) sd(T*_m)`` from subsamples of m rows.

    m = floor(n^(2/3)): subsamples of sqrt(n) rows are so small that their T varies by more than the limit says (1.4
    times at n = 100), those of n / 3 have so many rows in common that it varies by less.
    """
    n = y.n_rows
    n_columns = len(z.names) + (0 if given is None else len(given.names))
    if n_columns > BOOTSTRAP_MAX_COLUMNS:
        raise ValueError(
            f"z and given have {n_columns} columns together; beyond {BOOTSTRAP_MAX_COLUMNS} the bias of nearest "
            "neighbours is larger than the width of an interval: none is valid. Reduce the columns, or test "
            "with codec_test."
        )
    if n < BOOTSTRAP_MIN_ROWS:
        raise ValueError(
            f"{n} rows: subsamples of {_subsample_size(n)} say nothing on the variance; at least "
            f"{BOOTSTRAP_MIN_ROWS} rows are needed."
        )
    m = _subsample_size(n)
    _check_rare_values(y, m)
    for table in (z,) if given is None else (z, given):
        check_spread(table)
    center = Coefficient(y, z, given, 1, rng).observed()
    if np.isnan(center):
        raise ValueError(
            "y is a function of given in this sample: nothing is left that z could explain, T has no value."
        )
    draws: list[float] = []
    while len(draws) < BOOTSTRAP_SAMPLES:
        rows = rng.choice(n, m, replace=False)
        part = y.take(rows)
        if constant_columns(part).any():
            continue
        value = Coefficient(part, z.take(rows), None if given is None else given.take(rows), 1, rng).observed()
        if np.isfinite(value):
            draws.append(value)
    return center, float(np.sqrt(m / n) * np.std(draws, ddof=1))


def _subsample_size(n: int) -> int:
    return int(round(n ** (2 / 3), 9))  # of 1,000 rows the power is 99.99...
