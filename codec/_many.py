"""Many hypotheses at once, and how many rows a test needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import binomtest

from codec._dependence import NominalY
from codec._frames import take_rows
from codec._inference import codec_test
from codec._jit import interruptible
from codec._notes import silenced, warn
from codec._plans import (
    MethodName,
    NothingToTestError,
    StatisticName,
    collect,
    make_plan,
    prepare,
    rank,
    read_data,
    single_thread,
)
from codec._validation import (
    BoolArray,
    FloatArray,
    IntArray,
    NanPolicy,
    Rng,
    as_generator,
    check_integer,
    check_jobs,
    check_option,
    check_positive,
)

Correction = Literal["holm", "fdr_bh", "fdr_by"]
MIN_SUBSAMPLE = 20  # rows below which a simulated power means nothing


# --------------------------------------------------------------------------- many hypotheses
@dataclass(frozen=True, eq=False)
class CodecTestsResult:
    """Result of :func:`codec_test_many`, one entry for each column of Z.

    Attributes
    ----------
    names : tuple of str
        Column names.
    statistic, pvalue : ndarray of shape (p,)
        As in :class:`CodecTestResult`.
    adjusted : ndarray of shape (p,)
        p-values corrected for the number of columns.
    rejected : ndarray of shape (p,), bool
        ``adjusted <= alpha``.
    correction : {'holm', 'fdr_bh', 'fdr_by'}
        How p-values were corrected.
    alpha : float
        Level of the decisions.
    n_samples, n_resamples : int
        Complete rows; copies of the data.
    kind, method : str
        Statistic and null, as in :class:`CodecTestResult`.
    exact : bool
        Whether every single p-value is valid in finite samples.
    notes : tuple of str
        Warning signs seen in these data.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_test_many
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((200, 3))
    >>> result = codec_test_many(Z[:, 1] ** 2 + 0.3 * rng.standard_normal(200), Z, n_resamples=199, rng=0)
    >>> result.names, result.rejected.tolist()
    (('Z0', 'Z1', 'Z2'), [False, True, False])
    >>> result.to_frame().columns.tolist()
    ['statistic', 'pvalue', 'adjusted', 'rejected']
    """

    names: tuple[str, ...]
    statistic: FloatArray
    pvalue: FloatArray
    adjusted: FloatArray
    rejected: BoolArray
    correction: str
    alpha: float
    n_samples: int
    n_resamples: int
    kind: str
    method: str
    exact: bool
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def to_frame(self) -> pd.DataFrame:
        """One row a column of Z, by its name.

        Returns
        -------
        DataFrame of shape (p, 4)
            Columns ``statistic``, ``pvalue``, ``adjusted`` and ``rejected``.
        """
        columns = {name: getattr(self, name) for name in ("statistic", "pvalue", "adjusted", "rejected")}
        return pd.DataFrame(columns, index=pd.Index(self.names, name="z"))

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(float_format=lambda value: f"{value:.4g}")


def codec_test_many(
    y: Any,
    Z: Any,
    given: Any = None,
    *,
    statistic: StatisticName = "auto",
    method: MethodName = "auto",
    n_resamples: int | None = None,
    n_neighbors: int | None = None,
    correction: Correction = "holm",
    alpha: float = 0.05,
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    n_jobs: int | None = None,
    rng: Rng = None,
) -> CodecTestsResult:
    """Test for every column of Z whether Y is independent of it (given X).

    The residuals of y, the neighbours of X and the copies of y are made once and shared by all columns,
    so that a further column costs its own residuals, graph and sums only.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, q)
        Response, as in :func:`codec_test`.
    Z : array-like of shape (n, p)
        One hypothesis a column: numbers or pandas categories.
    given : array-like of shape (n,) or (n, d), optional
        The conditioning variables X, the same for every column.
    statistic : {'auto', 'codec', 'omnibus'}, default 'auto'
        As in :func:`codec_test`: omnibus with ``given``, else codec.
    method : {'auto', 'permutation', 'local-permutation'}, default 'auto'
        As in :func:`codec_test`; copies of z (``'crt'``) cannot be shared. For the codec statistic ``'auto'`` copies
        every column of Z anew, which takes long, where y has few values or categories and no column of Z has.
    n_resamples : int, optional
        Default: as in :func:`codec_test`, but at least enough for the smallest corrected p-value to be
        ``alpha / 2``.
    n_neighbors : int, optional
        Neighbours of the coefficient. Default: as in :func:`codec_test`.
    correction : {'holm', 'fdr_bh', 'fdr_by'}, default 'holm'
        Holm [1]_ controls the chance of any false rejection, Benjamini-Hochberg [2]_ the expected share of false
        ones among the rejected under independence or positive dependence, Benjamini-Yekutieli [3]_ under
        any dependence (all from statsmodels).
    alpha : float, default 0.05
        Level of the decisions, in (0, 1).
    nominal_y : 'auto' or bool, default 'auto'
        Whether y has classes without order, as in :func:`codec.codec`.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    n_jobs : int, optional
        Threads over columns; one when absent. The result is the same, bit for bit, for every number.
    rng : None, int, SeedSequence or Generator, default None
        The first column gets the p-value that :func:`codec_test` gives it with the same seed and ``n_resamples``,
        where the two make copies of the same side (``result.method``). They may not for the codec statistic and
        ``'auto'``, given X, if Z has columns of several kinds: all of Z decides here.

    Returns
    -------
    CodecTestsResult
        ``pvalue``, ``adjusted``, ``rejected``; ``.to_frame()``.

    Raises
    ------
    ValueError, TypeError
        A constant y or column of Z; ``method='asymptotic'`` or ``'crt'``; ``alpha`` is not a number in (0, 1);
        ``n_jobs`` is 0; and whatever :func:`codec_test` refuses.

    Warns
    -----
    UserWarning
        ``n_resamples`` is so small that a column that stands alone can never be rejected; and as in
        :func:`codec_test`.

    References
    ----------
    .. [1] S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
       6(2), 65-70, 1979.
    .. [2] Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate: a practical and powerful approach to
       multiple testing", Journal of the Royal Statistical Society B 57(1), 289-300, 1995,
       :doi:`10.1111/j.2517-6161.1995.tb02031.x`.
    .. [3] Y. Benjamini, D. Yekutieli, "The control of the false discovery rate in multiple testing under
       dependency", Annals of Statistics 29(4), 1165-1188, 2001, :doi:`10.1214/aos/1013699998`.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_test_many
    >>> rng = np.random.default_rng(0)
    >>> Z = rng.standard_normal((300, 4))
    >>> y = Z[:, 0] ** 2 + Z[:, 1] + 0.3 * rng.standard_normal(300)
    >>> codec_test_many(y, Z, rng=0).rejected
    array([ True,  True, False, False])
    """
    check_option(method, "method", ("auto", "permutation", "local-permutation"))
    check_option(correction, "correction", ("holm", "fdr_bh", "fdr_by"))
    n_jobs = check_jobs(n_jobs)
    if not check_positive(alpha, "alpha") < 1.0:
        raise ValueError(f"alpha is {alpha}; it must be below 1.")
    data = read_data(y, Z, given, nominal_y, nan_policy, second="Z")
    zs = [data.z.pick([j]) for j in range(len(data.z.names))]
    plan = make_plan(data, statistic, method, n_resamples, n_neighbors, None, sequential=False)
    factor = _smallest_factor(len(zs), correction)
    needed = int(np.ceil(2 * factor / alpha))
    if n_resamples is None and plan.n_resamples + 1 < needed:
        plan = replace(plan, n_resamples=needed - 1)
    _warn_coarse(len(zs), factor, plan.n_resamples, alpha)
    generator = as_generator(rng)
    with interruptible(), single_thread():
        null, statistics, notes = prepare(data, plan, zs, generator, n_jobs)
        values = collect(null, statistics, plan, data, generator, n_jobs)
    found = [rank(v, s) for v, s in zip(values, statistics, strict=True)]
    notes = (*notes, *data.copies_note())
    for note in notes:
        warn(note, stacklevel=2)
    pvalue = np.array([f.pvalue for f in found])
    adjusted = adjust(pvalue, correction)
    return CodecTestsResult(
        names=data.z.names,
        statistic=np.array([f.statistic for f in found]),
        pvalue=pvalue,
        adjusted=adjusted,
        rejected=adjusted <= alpha,
        correction=correction,
        alpha=float(alpha),
        n_samples=data.n,
        n_resamples=plan.n_resamples,
        kind=plan.kind,
        method=plan.method,
        exact=plan.method in {"permutation", "stratified"},
        notes=notes,
    )


def adjust(pvalue: FloatArray, correction: str) -> FloatArray:
    """Corrected p-values (statsmodels)."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(pvalue, method=correction)[1], dtype=np.float64)


def _smallest_factor(n_tests: int, correction: str) -> float:
    """What multiplies the smallest of the p-values if it stands alone."""
    dependence = sum(1.0 / i for i in range(1, n_tests + 1)) if correction == "fdr_by" else 1.0
    return n_tests * dependence


def _warn_coarse(n_tests: int, factor: float, n_resamples: int, alpha: float) -> None:
    if factor > alpha * (n_resamples + 1):
        warn(
            f"with {n_resamples} copies the smallest corrected p-value of {n_tests} columns is "
            f"{factor / (n_resamples + 1):.3g}, above alpha = {alpha}: a column that stands alone can never be "
            f"rejected; use n_resamples of at least {int(np.ceil(factor / alpha)) - 1}.",
            stacklevel=3,
        )


# --------------------------------------------------------------------------- sample size
class _Power(NamedTuple):
    power: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class PowerCurve:
    """Simulated power by sample size.

    Attributes
    ----------
    n_samples : ndarray of shape (k,), int
        Sizes in rows, ascending.
    power : ndarray of shape (k,)
        Share of the simulated data sets whose p-value was at most ``alpha``.
    low, high : ndarray of shape (k,)
        Ends of the 95 % interval of Clopper and Pearson [1]_.
    alpha : float
        Level.
    n_simulations : int
        Data sets per size.

    References
    ----------
    .. [1] C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the
       binomial", Biometrika 26(4), 404-413, 1934, :doi:`10.1093/biomet/26.4.404`.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import power_curve
    >>> def model(n, rng):
    ...     z = rng.standard_normal(n)
    ...     return z**2 + rng.standard_normal(n), z
    >>> curve = power_curve(model, [30, 60, 120], n_simulations=20, rng=0, n_resamples=99)
    >>> curve.to_frame().shape
    (3, 4)
    >>> 30 < curve.required(0.8) <= 120
    True
    """

    n_samples: IntArray
    power: FloatArray
    low: FloatArray
    high: FloatArray
    alpha: float
    n_simulations: int

    def to_frame(self) -> pd.DataFrame:
        """One row a size.

        Returns
        -------
        DataFrame of shape (k, 4)
            Columns ``n_samples``, ``power``, ``low`` and ``high``.
        """
        return pd.DataFrame({name: getattr(self, name) for name in ("n_samples", "power", "low", "high")})

    def required(self, power: float = 0.8) -> float:
        """Rows at which a power is reached: a line through the monotone curve.

        Parameters
        ----------
        power : float, default 0.8
            The power wanted, in (0, 1].

        Returns
        -------
        float
            Number of rows, not rounded; the smallest size if its power is enough, ``nan`` if that of no size is.

        Raises
        ------
        ValueError, TypeError
            ``power`` is not in (0, 1], or is no number.

        Examples
        --------
        >>> import numpy as np
        >>> from codec import PowerCurve
        >>> power, low, high = np.array([[0.5, 0.9], [0.4, 0.8], [0.6, 1.0]])
        >>> curve = PowerCurve(np.array([100, 200]), power, low, high, alpha=0.05, n_simulations=100)
        >>> round(curve.required(0.7)), curve.required(0.95)
        (150, nan)
        """
        from sklearn.isotonic import IsotonicRegression

        if not check_positive(power, "power") <= 1.0:
            raise ValueError(f"power is {power}; it must be at most 1.")
        smooth = IsotonicRegression().fit_transform(self.n_samples, self.power)
        reaches = np.flatnonzero(smooth >= power)
        if reaches.size == 0:
            return float("nan")
        k = int(reaches[0])
        if k == 0:
            return float(self.n_samples[0])
        share = (power - smooth[k - 1]) / (smooth[k] - smooth[k - 1])
        return float(self.n_samples[k - 1] + share * (self.n_samples[k] - self.n_samples[k - 1]))


def power_curve(
    source: Callable[[int, np.random.Generator], Sequence[Any]] | Sequence[Any],
    n_samples: int | Sequence[int],
    *,
    alpha: float = 0.05,
    n_simulations: int = 100,
    n_jobs: int | None = None,
    rng: Rng = None,
    **options: Any,
) -> PowerCurve:
    """Power of :func:`codec_test` by sample size, by simulation.

    Parameters
    ----------
    source : callable or (y, z) or (y, z, given)
        A model: ``source(n, rng)`` returns ``(y, z)`` or ``(y, z, given)`` with n rows. Or data at hand,
        from which n rows are drawn without replacement (repeated rows would be each other's nearest
        neighbours); then n is at most half of the rows, beyond which samples are too much alike.
    n_samples : int or sequence of int
        Sizes in rows, each at least 20.
    alpha : float, default 0.05
        Level of the test, in (0, 1).
    n_simulations : int, default 100
        Data sets per size. The standard error of a power of .8 is .04 for 100, .013 for 1,000.
    n_jobs : int, optional
        Processes over data sets; one when absent. The result does not depend on it.
    rng : None, int, SeedSequence or Generator, default None
        Seed.
    **options
        Passed to :func:`codec_test`.

    Returns
    -------
    PowerCurve
        ``power`` with intervals; ``.required(0.8)``; ``.to_frame()``. A data set in which y or z is constant, or
        y is a function of the condition, counts as not rejected (p = 1).

    Raises
    ------
    ValueError
        A size is below 20, or above half of the rows of data at hand; ``alpha`` is not in (0, 1); ``source`` returns
        another number of rows than asked for; there is nothing to test in any data set; and whatever
        :func:`codec_test` refuses.
    TypeError
        ``source`` is neither a function nor a tuple of two or three parts; :func:`codec_test` has no such option.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import power_curve
    >>> def model(n, rng):
    ...     z = rng.standard_normal(n)
    ...     return z**2 + rng.standard_normal(n), z
    >>> curve = power_curve(model, [30, 100], n_simulations=20, rng=0)
    >>> bool(curve.power[0] < curve.power[1])
    True
    """
    asked = n_samples if np.iterable(n_samples) else [n_samples]
    sizes = sorted(check_integer(n, "n_samples", MIN_SUBSAMPLE) for n in asked)
    if not sizes:
        raise ValueError("n_samples is empty; pass at least one size.")
    check_integer(n_simulations, "n_simulations", 1)
    if not check_positive(alpha, "alpha") < 1.0:
        raise ValueError(f"alpha is {alpha}; it must be below 1.")
    n_jobs = check_jobs(n_jobs)
    model = source if callable(source) else _Subsamples(source, sizes[-1])
    seeds = np.random.SeedSequence(int(as_generator(rng).integers(2**63))).spawn(len(sizes) * n_simulations)
    with interruptible():
        pvalues = Parallel(n_jobs=n_jobs)(
            delayed(_simulate)(model, sizes[k // n_simulations], seed, options) for k, seed in enumerate(seeds)
        )
    if np.isnan(pvalues).all():
        raise ValueError(
            "source gives a constant y or z, or a y that is a function of given, in every simulated data set: nothing "
            "to test."
        )
    hits = (np.reshape(pvalues, (len(sizes), n_simulations)) <= alpha).sum(axis=1)
    intervals = [binomtest(int(h), n_simulations).proportion_ci() for h in hits]
    return PowerCurve(
        np.array(sizes),
        hits / n_simulations,
        np.array([interval.low for interval in intervals]),
        np.array([interval.high for interval in intervals]),
        float(alpha),
        n_simulations,
    )


class _Subsamples:
    """Rows of data at hand, drawn without replacement."""

    def __init__(self, data: Sequence[Any], largest: int) -> None:
        self.data = _parts(data)
        n_rows = [_n_rows(part) for part in self.data]
        if not n_rows or -1 in n_rows:
            raise TypeError("source must be a function of (n, rng), or a tuple (y, z) or (y, z, given) of arrays.")
        if len(set(n_rows)) > 1:
            raise ValueError(f"source has parts of {n_rows} rows; y, z and given need the same number.")
        self.n_rows = n_rows[0]
        if 2 * largest > self.n_rows:
            raise ValueError(
                f"n_samples asks for {largest} rows of {self.n_rows}; samples of more than half of the rows are too "
                "much alike to estimate power: pass a model (a function of n and rng) for larger sizes."
            )

    def __call__(self, n: int, rng: np.random.Generator) -> Sequence[Any]:
        rows = rng.choice(self.n_rows, n, replace=False)
        return [take_rows(part, rows) for part in self.data]


def _parts(data: Any) -> Sequence[Any]:
    """(y, z) or (y, z, given), without a condition that is None; nothing of anything else."""
    if not isinstance(data, (tuple, list)) or len(data) not in {2, 3}:
        return ()
    return data[:2] if data[-1] is None else data


def _n_rows(part: Any) -> int:
    """Rows of an array, list or frame; -1 of a single value."""
    try:
        return len(part)
    except TypeError:
        return -1


def _simulate(
    model: Callable[[int, np.random.Generator], Sequence[Any]],
    n: int,
    seed: np.random.SeedSequence,
    options: dict[str, Any],
) -> float:
    """The p-value of one data set; NaN, which rejects nothing, if there is nothing to test in it."""
    rng = np.random.default_rng(seed)
    data = _parts(model(n, rng))
    if not data or any(_n_rows(part) != n for part in data):
        raise ValueError(f"source({n}, rng) must return (y, z) or (y, z, given), each with {n} rows.")
    with silenced(".*"):  # the same sign in hundreds of data sets
        try:
            return codec_test(*data, rng=rng, **options).pvalue
        except NothingToTestError:
            return float("nan")
