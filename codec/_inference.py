"""The test of "Y is independent of Z given X" and its result.

The data are read and a statistic and a null chosen in :mod:`codec._plans`; the statistics live in
:mod:`codec._omnibus` and :mod:`codec._graphs`, the copies of the data in :mod:`codec._nulls`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from codec._dependence import NominalY
from codec._graphs import Coefficient
from codec._intervals import ConfidenceInterval, interval_of_tables
from codec._jit import interruptible
from codec._notes import warn
from codec._nulls import Sampler, Setting, block_sizes, centred_copies, is_category, row_codes, sampler_draws
from codec._omnibus import Omnibus, make_moving
from codec._plans import (
    REDRAWN,
    SEQUENTIAL_HITS,
    Data,
    Found,
    MethodName,
    Plan,
    StatisticName,
    TermValue,
    collect,
    make_plan,
    prepare,
    rank,
    read_data,
    run_sequential,
    single_thread,
)
from codec._validation import FloatArray, NanPolicy, Rng, Table, as_generator

TIED_LEVELS = 100  # of z; with fewer, T is skew: the level at .01 is .041 for 2, .024 for 10, .015 for 100
RARE_ROWS = 200  # with another value than y's most frequent one; with fewer, T is skew: .024 for 10, .015 for 200


# --------------------------------------------------------------------------- the result
@dataclass(frozen=True, eq=False)
class CodecTestResult:
    """Result of :func:`codec_test`, :func:`fisher_z` or :func:`g_test`; unpacks as ``(statistic, pvalue)``.

    Attributes
    ----------
    statistic : float
        T(Y, Z) or T(Y, Z | X) for the codec statistic; the largest standardized term for the omnibus.
    pvalue : float
        With copies of the data never 0: at least 1 / (n_resamples + 1). That of a limit (asymptotic, Fisher's z, G) can
        be 0 where floating-point numbers end.
    null_distribution : ndarray of shape (n_resamples,) or None
        The statistic of the resampled data; None for the asymptotic method.
    n_samples : int
        Complete rows.
    kind : {'codec', 'omnibus', 'fisher-z', 'g'}
        The statistic used; the last two are those of :func:`fisher_z` and :func:`g_test`.
    method : str
        How copies of the data were made, or the limit: ``'permutation'``, ``'asymptotic'``, ``'stratified'``,
        ``'freedman-lane'``, ``'category'``, ``'crt'`` or ``'crt-nearest'``, which :meth:`describe` explains; of
        :func:`fisher_z` and :func:`g_test` also the name of their limit.
    exact : bool
        Whether the p-value is valid in finite samples (for a sampler: if it is the true one).
    n_resamples : int
        Copies made.
    stopped : bool
        Whether a sequential test stopped before all copies were made.
    terms : dict of str to TermValue
        The terms of the omnibus statistic by name, each a named tuple of ``score``, the standardized value, and
        ``pvalue``, not corrected for their number. Empty for other statistics and for sequential tests.
    notes : tuple of str
        Warning signs seen in these data; also issued as warnings.
    n_omitted : int
        Rows left out for missing values.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_test
    >>> rng = np.random.default_rng(0)
    >>> x, z = rng.standard_normal((2, 200))
    >>> result = codec_test(z**2 + x, z, given=x, n_resamples=99, rng=0)
    >>> result.pvalue, result.exact, result.null_distribution.shape
    (0.01, False, (99,))
    >>> list(result.terms)
    ['covariance', 'copula', 'copula x given', 'codec']
    >>> result.terms["copula"].pvalue
    0.01
    >>> print(result.describe())
    Omnibus statistic (largest standardized term) = ..., p = 0.01, n = 200.
    Null distribution: ...
    """

    statistic: float
    pvalue: float
    null_distribution: FloatArray | None = field(repr=False)
    n_samples: int
    kind: str
    method: str
    exact: bool
    n_resamples: int
    stopped: bool = False
    terms: dict[str, TermValue] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    n_omitted: int = 0
    _tables: tuple[Table, Table, Table | None] | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[float]:
        yield self.statistic
        yield self.pvalue

    def describe(self) -> str:
        """What was computed, and how far the p-value can be trusted, in sentences.

        Returns
        -------
        str
            Several lines.
        """
        lines = [
            f"{_STATISTIC_WORDS[self.kind]} = {self.statistic:.4g}, p = {self.pvalue:.4g}, n = {self.n_samples}.",
            f"Null distribution: {self._method_words()}"
            + (", smoothed anew" if self.kind == "omnibus" and self.method in _SMOOTHED else "")
            + (f", {self.n_resamples} copies." if self.null_distribution is not None else "."),
        ]
        if self.terms:
            parts = ", ".join(f"{name} {t.score:.2f} (p = {t.pvalue:.3g})" for name, t in self.terms.items())
            lines.append(f"Terms: {parts}.")
        lines.append(f"Validity: {self._validity_words()}")
        if self.stopped:
            lines.append(f"Stopped early: {SEQUENTIAL_HITS} copies had reached the observed value.")
        if self.null_distribution is not None and self.pvalue <= 1.0 / (self.n_resamples + 1):
            lines.append("No copy reached the observed value: raise n_resamples for a smaller p-value.")
        if self.n_omitted:
            lines.append(f"{self.n_omitted} rows with missing values were left out.")
        return "\n".join([*lines, *self.notes])

    def _method_words(self) -> str:
        if self.method == "crt-nearest" and self._tables is not None and is_category(self._tables[1]):
            return "copies of z: classes drawn from their fitted probabilities given X"
        return _METHOD_WORDS.get(self.method, self.method)

    def _validity_words(self) -> str:
        if self.exact:
            return "exact in finite samples."
        if self.method in _SMOOTHED:
            return (
                "approximate; given a continuous X no test holds its level for every distribution (Shah & Peters 2020)."
            )
        return "approximate: a limit for many rows."

    def confidence_interval(
        self, confidence_level: float = 0.95, *, method: str = "auto", rng: Rng = None
    ) -> ConfidenceInterval:
        """Confidence interval for the population coefficient, from the rows of the test.

        It is that of :func:`codec_interval`, with one nearest neighbour: :attr:`statistic` has ``n_neighbors`` of them
        and may lie outside.

        Parameters
        ----------
        confidence_level : float, default 0.95
            Coverage wanted, in (0, 1).
        method : {'auto', 'analytic', 'bootstrap'}, default 'auto'
            As in :func:`codec_interval`.
        rng : None, int, SeedSequence or Generator, default None
            Draws the subsamples of the bootstrap.

        Returns
        -------
        ConfidenceInterval
            ``low`` and ``high``, within [-1, 1].

        Raises
        ------
        ValueError
            The statistic is not the codec statistic, and whatever :func:`codec_interval` refuses.

        Examples
        --------
        >>> import numpy as np
        >>> from codec import codec_test
        >>> rng = np.random.default_rng(0)
        >>> z = rng.standard_normal(500)
        >>> result = codec_test(z**2 + 0.5 * rng.standard_normal(500), z, n_resamples=99, rng=0)
        >>> low, high = result.confidence_interval()
        >>> low < result.statistic < high
        True
        """
        if self.kind != "codec" or self._tables is None:
            raise ValueError(
                f"an interval belongs to the codec statistic, and this result holds that of {self.kind!r}; use codec_test(..., statistic='codec') or codec_interval(y, z, given)."
            )
        y, z, given = self._tables
        return interval_of_tables(y, z, given, confidence_level, method, as_generator(rng))

    def _repr_html_(self) -> str:
        rows = [("statistic", f"{self.statistic:.4g}"), ("p-value", f"{self.pvalue:.4g}"), ("n", str(self.n_samples))]
        rows += [("kind", self.kind), ("method", self.method), ("exact", "yes" if self.exact else "no")]
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
        return f"<table>{cells}</table>"


_STATISTIC_WORDS = {
    "codec": "Coefficient T of conditional dependence",
    "omnibus": "Omnibus statistic (largest standardized term)",
    "fisher-z": "Fisher's z of the partial correlation",
    "g": "G statistic within strata",
}
_METHOD_WORDS = {
    "permutation": "y permuted over all rows, neighbours fixed",
    "asymptotic": "normal, with the exact mean and variance over all permutations of y",
    "stratified": "y permuted among rows with the same X",
    "freedman-lane": "fitted values plus residuals of y, permuted among near rows of X",
    "category": "classes of y drawn from their fitted probabilities given X",
    "crt": "z drawn anew from the sampler",
    "crt-nearest": "copies of z: fitted values plus residuals permuted among near rows of X",
}
_SMOOTHED = {"freedman-lane", "category", "crt-nearest"}


# --------------------------------------------------------------------------- the public function
def codec_test(
    y: Any,
    z: Any,
    given: Any = None,
    *,
    statistic: StatisticName = "auto",
    method: MethodName = "auto",
    n_resamples: int | None = None,
    n_neighbors: int | None = None,
    sampler: Sampler | None = None,
    sequential: bool = False,
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    rng: Rng = None,
) -> CodecTestResult:
    r"""Test of the hypothesis that Y is independent of Z (given X).

    Parameters
    ----------
    y : array-like of shape (n,) or (n, q)
        Numbers, booleans, ordered or unordered categories, text; several columns are tested together.
    z : array-like of shape (n,) or (n, p)
        Numbers or pandas categories; several columns are tested together
        (:func:`codec_test_many` tests them one by one).
    given : array-like of shape (n,) or (n, d), optional
        The conditioning variables X. Numbers or pandas categories.
    statistic : {'auto', 'codec', 'omnibus'}, default 'auto'
        ``'codec'``: the coefficient T with ``n_neighbors`` neighbours. ``'omnibus'``: the largest of
        four standardized views of the residuals on X (covariance, copula, copula times functions of
        X, residual CODEC); much more powerful given X. ``'auto'``: omnibus with ``given``, else codec.
        Of several responses ``'codec'`` takes the mean of their T, each y alone, which misses what only all of
        them together tell; :func:`codec.codec` does not.
    method : {'auto', 'permutation', 'asymptotic', 'local-permutation', 'crt'}, default 'auto'
        ``'permutation'``: y permuted over all rows, or, for a discrete X, among the rows with the same
        X; exact. ``'asymptotic'``: codec without ``given``, one response: normal, with the exact mean
        and variance given the neighbour graph. ``'local-permutation'``: copies of y are fitted values plus
        residuals, permuted among near rows of X; categories are drawn from fitted probabilities;
        approximate. ``'crt'``: z drawn anew from ``sampler``; exact if the sampler draws from the true
        P(Z | X). ``'auto'``: exact permutation where there is one, else local permutation; of z for the
        codec statistic where y has categories or few values and no column of z has.
    n_resamples : int, default 999 (codec) or 199 (omnibus)
        Copies of the data; 199 of the codec statistic, too, where z is copied. The p-value cannot be less than
        ``1 / (n_resamples + 1)``.
    n_neighbors : int, default sqrt(n), between 5 and 50
        Neighbours of the coefficient, or of the omnibus' residual CODEC. The default of the asymptotic
        method is 5, as more make the null distribution skew; that of the coefficient falls from 50 to 5
        between 10,000 and 100,000 rows.
    sampler : callable, optional
        For ``method='crt'``: ``sampler(given, rng)`` returns a draw shaped like ``z`` from
        P(Z | X = given). Without one, copies of z are made from the data as otherwise those of y;
        approximate.
    sequential : bool, default False
        Stop as soon as 10 copies reach the observed value (Besag & Clifford). Cheap when the hypothesis
        holds, and exactly as valid; the p-value is then coarser.
    nominal_y : 'auto' or bool, default 'auto'
        Whether y has classes without order, as in :func:`codec.codec`.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    rng : None, int, SeedSequence or Generator, default None
        The copies, the landmarks of the smoother, ties. With ``statistic='codec'`` also which neighbours are looked
        at where a row has more than 4,000,000 / n tied ones; the statistic is then close to :func:`codec`, not equal.
        The same seed gives the same bits for every number of threads.

    Returns
    -------
    CodecTestResult
        ``statistic``, ``pvalue``, ``null_distribution``, ``describe()``; unpacks as
        ``(statistic, pvalue)``.

    Raises
    ------
    ValueError, TypeError
        Constant y or z, options that exclude each other, too few rows or distinct values of X, a sampler
        that returns something not shaped like z, a z whose rows are all equally near (for ``'asymptotic'``: every
        permutation of y gives the same T then), and whatever :func:`codec.codec` refuses.

    Warns
    -----
    UserWarning
        When a warning sign of the two situations is seen in which no residual test holds its level (see Notes); when
        rows are copies of others; when many rows are alone in their stratum; when ``n_resamples`` is too small for a
        p-value of .05.

    Notes
    -----
    With a continuous X, a test that holds its level for every distribution has no power (Shah & Peters
    2020). Given X, the omnibus test relies on smooth dependence on X, but for jumps where a column of X or a
    weighted sum of columns passes a value, and for products of two columns. Its level at .05 rises where y and z are
    the same strong function of ten columns of X (about .25 at n = 200; .05 for five light-tailed ones, .17 for five
    lognormal ones), or of few among twenty (.10 for the product of two, .15 for a sum of three, .7 for the product of
    three), and of one column that turns very often over its range, as a season does in a long series: give the
    phase beside the time. Where their noise scales are the same strongly varying function, it was .05 to .07.

    Columns with heavy tails (kurtosis above 6) are drawn in towards their normal scores first.

    References
    ----------
    .. [1] R. D. Shah, J. Peters, "The hardness of conditional independence testing and the generalised
       covariance measure", Annals of Statistics 48(3), 2020, :doi:`10.1214/19-AOS1857`.
    .. [2] D. Freedman, D. Lane, "A nonstochastic interpretation of reported significance levels",
       J. Business & Economic Statistics 1(4), 1983, :doi:`10.1080/07350015.1983.10509354`.
    .. [3] E. Candes, Y. Fan, L. Janson, J. Lv, "Panning for gold: model-X knockoffs", JRSS B 80(3),
       2018 (conditional randomization), :doi:`10.1111/rssb.12265`.
    .. [4] J. Besag, P. Clifford, "Sequential Monte Carlo p-values", Biometrika 78(2), 1991,
       :doi:`10.1093/biomet/78.2.301`.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec_test
    >>> rng = np.random.default_rng(0)
    >>> x, noise = rng.standard_normal((2, 300))
    >>> z = np.sin(x) + noise
    >>> y = x**2 + rng.standard_normal(300)
    >>> result = codec_test(y, z, given=x, rng=0)
    >>> result.pvalue > 0.05  # z tells nothing on y that x does not
    True
    >>> statistic, pvalue = codec_test(y + noise * z, z, given=x, rng=0)
    >>> pvalue
    0.005
    """
    data = read_data(y, z, given, nominal_y, nan_policy)
    plan = make_plan(data, statistic, method, n_resamples, n_neighbors, sampler, sequential)
    with single_thread():
        result = _run(data, plan, sampler, as_generator(rng))
    result = replace(result, notes=(*result.notes, *data.copies_note()))
    for note in result.notes:
        warn(note, stacklevel=2)
    return result


@interruptible()
def _run(data: Data, plan: Plan, sampler: Sampler | None, generator: np.random.Generator) -> CodecTestResult:
    if plan.method == "asymptotic":
        return _asymptotic(data, plan, generator)
    if plan.method in REDRAWN and plan.kind == "omnibus":
        return _randomization(data, plan, sampler, generator)
    null, statistics, notes = prepare(data, plan, [data.z], generator, sampler=sampler)
    if plan.sequential:
        found = run_sequential(null, statistics[0], plan, data, generator)
    else:
        found = rank(collect(null, statistics, plan, data, generator)[0], statistics[0])
    return _result(data, plan, found, notes)


def _result(data: Data, plan: Plan, found: Found, notes: tuple[str, ...]) -> CodecTestResult:
    return CodecTestResult(
        statistic=found.statistic,
        pvalue=found.pvalue,
        null_distribution=found.copies,
        n_samples=data.n,
        kind=plan.kind,
        method=plan.method,
        exact=plan.method in {"permutation", "stratified", "crt"},
        n_resamples=found.copies.size,
        stopped=found.stopped,
        terms=found.terms,
        notes=notes,
        n_omitted=data.n_omitted,
        _tables=(data.y, data.z, data.given),
    )


def _asymptotic(data: Data, plan: Plan, generator: np.random.Generator) -> CodecTestResult:
    coefficient = Coefficient(data.y, data.z, None, plan.n_neighbors, generator)
    mean, spread = coefficient.permutation_moments()
    value = coefficient.observed()
    if spread <= 0.0:
        raise ValueError("every permutation of y gives the same T (all rows of z are equally near): nothing to test.")
    return CodecTestResult(
        statistic=value,
        pvalue=float(norm.sf((value - mean) / spread)),
        null_distribution=None,
        n_samples=data.n,
        kind="codec",
        method="asymptotic",
        exact=False,
        n_resamples=0,
        notes=_notes_on_ties(data),
        n_omitted=data.n_omitted,
        _tables=(data.y, data.z, None),
    )


def _notes_on_ties(data: Data) -> tuple[str, ...]:
    """Warning signs that the coefficient is not normal: few values of z, or hardly any row but of one value of y."""
    fault = "the coefficient is far from normal then, and small p-values are too small; use method='permutation'."
    notes: tuple[str, ...] = ()
    levels = int(row_codes(data.z).max()) + 1
    if levels < TIED_LEVELS and 2 * levels <= data.n:
        notes = (f"z has {levels} different values in {data.n} rows: {fault}",)
    largest = int(np.unique(data.y.columns[0], return_counts=True)[1].max())
    if data.n - largest < min(RARE_ROWS, largest):
        notes = (*notes, f"y has the same value in {largest} of {data.n} rows: {fault}")
    return notes


def _randomization(data: Data, plan: Plan, sampler: Sampler | None, generator: np.random.Generator) -> CodecTestResult:
    """Conditional randomization of the omnibus: y stays, z is drawn anew (Candes et al. 2018).

    Without a sampler copies of z are made as otherwise those of y: draws from fitted values and residuals are no
    draws from P(Z | X), and what the fit missed must be missed in the copies as well.
    """
    if sampler is None:
        swapped = replace(data, y=data.z, z=data.y)
        null, (statistic,), notes = prepare(swapped, plan, [data.y], generator)
        return _result(data, plan, rank(collect(null, [statistic], plan, swapped, generator)[0], statistic), notes)
    setting_seed, graph_seed = generator.integers(2**63, size=2)
    draw = sampler_draws(sampler, data.raw_z, data.z, data.raw_given)
    draws = [draw(int(number)) for number in generator.integers(2**63, size=plan.n_resamples)]
    setting = Setting(data.y, data.given, plan.strata, np.random.default_rng(setting_seed))
    rng = np.random.default_rng(graph_seed)
    own = setting.own_residuals()
    statistic = Omnibus(own.standard, setting.points, plan.n_neighbors, rng, binary=own.binary)
    copies = centred_copies(data.z, draws)
    parts = []
    start = 0
    for size in block_sizes(copies.shape[1], 8 * data.n * len(copies)):
        parts.append(statistic.values(make_moving(copies[:, start : start + size])))
        start += size
    return _result(data, plan, rank(np.concatenate(parts, axis=1), statistic), ())
