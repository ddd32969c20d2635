"""Tests of "Y is independent of Z given X": one function, one result, many hypotheses.

The public functions read the data, choose statistic and null (:func:`_plan`) and hand over to
:mod:`codec._omnibus` or :mod:`codec._graphs` for the statistic and :mod:`codec._nulls` for the copies.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import norm

from codec._dependence import NominalY, read_response
from codec._graphs import Coefficient
from codec._intervals import ConfidenceInterval, interval_of_tables
from codec._nulls import (
    LOCAL_NEIGHBORS,
    IndexNull,
    NearestSampler,
    Sampler,
    Setting,
    Strata,
    block_sizes,
    centred_copies,
    draw_tables,
    find_strata,
    one_stratum,
    row_codes,
    take_rows,
)
from codec._omnibus import Omnibus, default_neighbors, make_moving, nearest_rows, standardized_maxima
from codec._residuals import embed
from codec._validation import (
    FloatArray,
    NanPolicy,
    Rng,
    Table,
    as_generator,
    check_flag,
    check_integer,
    check_neighbors,
    check_option,
    check_spread,
    constant_columns,
    drop_incomplete,
    read_table,
)

StatisticName = Literal["auto", "codec", "omnibus"]
MethodName = Literal["auto", "permutation", "asymptotic", "local-permutation", "crt"]
Correction = Literal["holm", "fdr_bh", "fdr_by"]

RESAMPLES = {"codec": 999, "omnibus": 199}
SEQUENTIAL_BLOCK = 20  # copies between two looks
SEQUENTIAL_HITS = 10  # stop when this many copies reach the observed value (Besag & Clifford 1991)
SEQUENTIAL_CALIBRATION = 50  # copies that only standardize the terms, so that a look needs no others
ALONE_LIMIT = 0.2  # warn if more than this share of the rows is alone in its stratum
TOLERANCE = 1e-9  # copies this close (relatively) to the observed value count as reaching it


class TermValue(NamedTuple):
    """One term of the omnibus statistic: its standardized value and its own p-value."""

    score: float
    pvalue: float


# --------------------------------------------------------------------------- the result
@dataclass(frozen=True)
class CodecTestResult:
    """Result of :func:`codec_test`; unpacks as ``(statistic, pvalue)``.

    Attributes
    ----------
    statistic : float
        T(Y, Z) or T(Y, Z | X) for the codec statistic; the largest standardized term for the omnibus.
    pvalue : float
        Never 0: at least 1 / (n_resamples + 1), except for the asymptotic method.
    null_distribution : ndarray of shape (n_resamples,) or None
        The statistic of the resampled data; None for the asymptotic method.
    n_samples : int
        Complete rows.
    kind : {'codec', 'omnibus'}
        The statistic used.
    method : str
        How copies of the data were made.
    exact : bool
        Whether the p-value is valid in finite samples (for a sampler: if it is the true one).
    n_resamples : int
        Copies made.
    terms : dict of str to TermValue
        The terms of the omnibus statistic, each with its own p-value (not corrected for their number).
    notes : tuple of str
        What the user should know about this result; also issued as warnings where they matter.
    n_omitted : int
        Rows left out for missing values.
    """

    statistic: float
    pvalue: float
    null_distribution: FloatArray | None = field(repr=False)
    n_samples: int
    kind: str
    method: str
    exact: bool
    n_resamples: int
    terms: dict[str, TermValue] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    n_omitted: int = 0
    _tables: tuple[Table, Table, Table | None] | None = field(default=None, repr=False, compare=False)
    _n_neighbors: int = field(default=1, repr=False)

    def __iter__(self) -> Iterator[float]:
        yield self.statistic
        yield self.pvalue

    def describe(self) -> str:
        """What was computed, and how far the p-value can be trusted, in sentences."""
        lines = [
            f"{_STATISTIC_WORDS[self.kind]} = {self.statistic:.4g}, p = {self.pvalue:.4g}, n = {self.n_samples}.",
            f"Null distribution: {_METHOD_WORDS.get(self.method, self.method)}"
            + (f", {self.n_resamples} copies." if self.null_distribution is not None else "."),
        ]
        if self.terms:
            parts = ", ".join(f"{name} {t.score:.2f} (p = {t.pvalue:.3g})" for name, t in self.terms.items())
            lines.append(f"Terms: {parts}.")
        lines.append(
            "Validity: exact in finite samples."
            if self.exact
            else "Validity: approximate; no test holds its level for every continuous distribution (Shah & Peters 2020)."
        )
        if self.null_distribution is not None and self.pvalue <= 1.0 / (self.n_resamples + 1):
            lines.append("No copy reached the observed value: raise n_resamples for a smaller p-value.")
        if self.n_omitted:
            lines.append(f"{self.n_omitted} rows with missing values were left out.")
        return "\n".join([*lines, *self.notes])

    def confidence_interval(
        self, confidence_level: float = 0.95, *, method: str = "auto", rng: Rng = None
    ) -> ConfidenceInterval:
        """Confidence interval for the population coefficient; see :func:`codec_interval`."""
        if self.kind != "codec" or self._tables is None:
            raise ValueError(
                "an interval belongs to the codec statistic, and this result holds a standardized maximum; "
                "use codec_test(..., statistic='codec') or codec_interval(y, z, given)."
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
    "local": f"y permuted among the {LOCAL_NEIGHBORS} nearest rows of X, neighbours fixed",
    "freedman-lane": "fitted values plus locally permuted residuals of y, smoothed anew",
    "category": "classes of y drawn from their fitted probabilities given X, smoothed anew",
    "crt": "z drawn anew from the sampler",
    "crt-nearest": "z drawn anew from the nearest rows of X",
}


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
    method : {'auto', 'permutation', 'asymptotic', 'local-permutation', 'crt'}, default 'auto'
        ``'permutation'``: y permuted over all rows, or, for a discrete X, among the rows with the same
        X; exact. ``'asymptotic'``: codec without ``given``, one response: normal, with the exact mean
        and variance given the neighbour graph. ``'local-permutation'``: y, or its residuals, permuted
        among near rows of X; approximate. ``'crt'``: z drawn anew from ``sampler``; exact if the
        sampler draws from the true P(Z | X). ``'auto'``: exact permutation where there is one, else
        local permutation.
    n_resamples : int, default 999 (codec) or 199 (omnibus)
        Copies of the data. The p-value cannot be less than ``1 / (n_resamples + 1)``.
    n_neighbors : int, default sqrt(n), between 5 and 50
        Neighbours of the coefficient, or of the omnibus' residual CODEC.
    sampler : callable, optional
        For ``method='crt'``: ``sampler(given, rng)`` returns a draw shaped like ``z`` from
        P(Z | X = given). Without one, z is drawn from the 7 nearest rows of X, which is approximate.
    sequential : bool, default False
        Stop as soon as 10 copies reach the observed value (Besag & Clifford). Cheap when the hypothesis
        holds, and exactly as valid; the p-value is then coarser.
    nominal_y, nan_policy : see :func:`codec.codec`
    rng : None, int, SeedSequence or Generator, default None
        The copies, the landmarks of the smoother, ties. The same seed gives the same bits for every
        number of threads.

    Returns
    -------
    CodecTestResult
        ``statistic``, ``pvalue``, ``null_distribution``, ``describe()``; unpacks as
        ``(statistic, pvalue)``.

    Raises
    ------
    ValueError, TypeError
        Constant y or z, options that exclude each other, too few rows or distinct values of X, a sampler
        that returns something not shaped like z, and whatever :func:`codec.codec` refuses.

    Warns
    -----
    UserWarning
        When a warning sign of the two situations is seen in which no residual test holds its level
        (see Notes); when many rows are alone in their stratum; when ``n_resamples`` is too small for a
        p-value of .05.

    Notes
    -----
    With a continuous X, a test that holds its level for every distribution has no power (Shah & Peters
    2020). Given X, the omnibus test relies on smooth dependence on X. Its level suffers (see the
    documentation for figures) when y and z are the same strong function of five or more columns of X,
    and when their noise scales are the same strongly varying function of five or more columns.

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
    >>> from codec._inference import codec_test
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
    data = _read(y, z, given, nominal_y, nan_policy)
    plan = _plan(data, statistic, method, n_resamples, n_neighbors, sampler, sequential)
    generator = as_generator(rng)
    if plan.method == "asymptotic":
        return _asymptotic(data, plan, generator)
    if plan.method in {"crt", "crt-nearest"}:
        return _randomization(data, plan, sampler, generator)
    null, statistics, notes = _prepare(data, plan, [data.z], generator)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    if plan.sequential:
        found = _run_sequential(null, statistics[0], plan, data.n, generator)
    else:
        values = _collect(null, statistics, plan, data.n, generator, n_jobs=None)[0]
        found = _rank(values, statistics[0].names)
    return _result(data, plan, found, notes)


# --------------------------------------------------------------------------- data and plan
@dataclass(frozen=True)
class _Data:
    """Complete rows of the three tables, and what a sampler gets to see of z and X."""

    y: Table
    z: Table
    given: Table | None
    raw_z: Any
    raw_given: Any
    n_omitted: int

    @property
    def n(self) -> int:
        return self.y.n_rows


def _read(y: Any, z: Any, given: Any, nominal_y: NominalY, nan_policy: NanPolicy) -> _Data:
    tables = [read_response(y, nominal_y), read_table(z, "z")]
    if given is not None:
        tables.append(read_table(given, "given"))
    complete, n_omitted = drop_incomplete(tables, nan_policy)
    for table in complete:
        check_spread(table)
    for table in complete[:2]:
        constant = constant_columns(table)
        if constant.any():
            name = table.names[int(np.argmax(constant))]
            raise ValueError(f"{table.argument} is constant (column {name!r} holds a single value): nothing to test.")
    if n_omitted:
        keep = np.flatnonzero(~np.any([np.isnan(t.columns).any(axis=0) for t in tables], axis=0))
        z, given = take_rows(z, keep), None if given is None else take_rows(given, keep)
    return _Data(complete[0], complete[1], complete[2] if given is not None else None, z, given, n_omitted)


@dataclass(frozen=True)
class _Plan:
    """What is computed, and how copies are made."""

    kind: str
    method: str
    n_resamples: int
    n_neighbors: int
    sequential: bool
    strata: Strata | None


def _plan(
    data: _Data,
    statistic: str,
    method: str,
    n_resamples: int | None,
    n_neighbors: int | None,
    sampler: Sampler | None,
    sequential: bool,
) -> _Plan:
    check_option(statistic, "statistic", ("auto", "codec", "omnibus"))
    check_option(method, "method", ("auto", "permutation", "asymptotic", "local-permutation", "crt"))
    check_flag(sequential, "sequential")
    kind = statistic if statistic != "auto" else "codec" if data.given is None else "omnibus"
    copies = check_integer(RESAMPLES[kind] if n_resamples is None else n_resamples, "n_resamples", 1)
    if copies < 19 and method != "asymptotic":
        warnings.warn(
            f"n_resamples is {copies}: the p-value cannot be less than {1 / (copies + 1):.2g}; use at least 19 "
            "for the level .05 and 99 for .01.",
            UserWarning,
            stacklevel=4,
        )
    k = check_neighbors(default_neighbors(data.n) if n_neighbors is None else n_neighbors, data.n)
    if sampler is not None and method != "crt":
        raise ValueError(f"a sampler is given, but method is {method!r}; samplers belong to method='crt'.")
    if sequential and method in {"crt", "asymptotic"}:
        raise ValueError(f"sequential=True needs copies one by one; method={method!r} has none.")
    strata = one_stratum(data.n) if data.given is None else find_strata(data.given)
    return _Plan(kind, _choose_method(data, kind, method, strata, sampler), copies, k, sequential, strata)


def _choose_method(data: _Data, kind: str, method: str, strata: Strata | None, sampler: Sampler | None) -> str:
    if data.given is None:
        if method in {"local-permutation", "crt"}:
            raise ValueError(f"method={method!r} needs given: without it, method='permutation' is exact.")
        if method == "asymptotic" and (kind != "codec" or len(data.y.names) > 1):
            raise ValueError("method='asymptotic' is for the codec statistic and one response.")
        return "asymptotic" if method == "asymptotic" else "permutation"
    if method == "asymptotic":
        raise ValueError(
            "method='asymptotic' is for tests without given: the known limit given X holds only if y is "
            "independent of x and z together; use 'auto'."
        )
    if method == "crt":
        return "crt" if sampler is not None else "crt-nearest"
    if strata is None and method == "permutation":
        raise ValueError(
            "method='permutation' given X permutes among rows with the same X, and here most rows have few "
            "or no others; use method='local-permutation', or round X to fewer levels."
        )
    if strata is not None and method != "local-permutation":
        return "stratified"
    if kind == "codec":
        return "local"
    nominal = len(data.y.names) == 1 and (data.y.nominal[0] or row_codes(data.y).max() == 1)
    return "category" if nominal else "freedman-lane"


# --------------------------------------------------------------------------- running it
_Statistic = Omnibus | Coefficient


def _prepare(
    data: _Data, plan: _Plan, zs: list[Table], generator: np.random.Generator
) -> tuple[Any, list[_Statistic], tuple[str, ...]]:
    """The null of y, the statistic of every z, and what the user should know."""
    setting_seed, graph_seed = generator.integers(2**63, size=2)
    statistics: list[_Statistic] = []
    exact = plan.method in {"permutation", "stratified"}
    notes = _stratum_notes(plan.strata) if plan.method == "stratified" else ()
    if plan.kind == "codec":
        for z in zs:
            rng = np.random.default_rng(graph_seed)
            coefficient = Coefficient(data.y, z, data.given, plan.n_neighbors, rng)
            _refuse_determined(coefficient)
            statistics.append(coefficient)
        near = None
        if not exact and data.given is not None:
            k = min(LOCAL_NEIGHBORS, data.n - 1)
            near = nearest_rows(embed(data.given), k, np.random.default_rng(setting_seed))
        return IndexNull(data.n, plan.strata if exact else None, near), statistics, notes
    setting = Setting(data.y, data.given, plan.strata if exact else None, np.random.default_rng(setting_seed))
    for z in zs:
        anchor = setting.anchor(z)
        notes = (*notes, *setting.warning_signs(anchor))
        rng = np.random.default_rng(graph_seed)
        statistics.append(setting.omnibus(z, anchor, plan.n_neighbors, rng))
    return setting.null(), statistics, tuple(dict.fromkeys(notes))


def _refuse_determined(coefficient: Coefficient) -> None:
    if not np.isfinite(coefficient.observed()):
        raise ValueError("y is a function of given in this sample: nothing is left that z could explain.")


def _stratum_notes(strata: Strata | None) -> tuple[str, ...]:
    if strata is None or strata.alone <= ALONE_LIMIT:
        return ()
    return (
        f"{strata.alone:.0%} of the rows have an X of their own and carry no information on the hypothesis; "
        "merge rare levels of given.",
    )


def _collect(
    null: Any,
    statistics: list[_Statistic],
    plan: _Plan,
    n: int,
    generator: np.random.Generator,
    n_jobs: int | None,
) -> list[FloatArray]:
    """Terms of the data and of every copy, one array (terms, B + 1) for each statistic."""
    observed = null.observed()
    parts = [[statistic.values(observed)] for statistic in statistics]
    for size in block_sizes(plan.n_resamples, n * 8):
        copies = null.draw(size, int(generator.integers(2**63)))
        found = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(_values)(statistic, copies) for statistic in statistics
        )
        for part, values in zip(parts, found, strict=True):
            part.append(values)
    return [np.concatenate(part, axis=1) for part in parts]


def _values(statistic: _Statistic, copies: Any) -> FloatArray:
    return statistic.values(copies)


@dataclass(frozen=True)
class _Found:
    """A statistic among its copies."""

    statistic: float
    pvalue: float
    copies: FloatArray
    terms: dict[str, TermValue]
    stopped: bool = False


def _rank(values: FloatArray, names: tuple[str, ...]) -> _Found:
    """The observed value (column 0) among its copies; several terms: the largest standardized one."""
    if len(values) == 1:
        return _Found(float(values[0, 0]), rank_pvalue(values[0]), values[0, 1:], {})
    scores, largest = standardized_maxima(values)
    terms = {name: TermValue(float(score[0]), rank_pvalue(score)) for name, score in zip(names, scores, strict=True)}
    return _Found(float(largest[0]), rank_pvalue(largest), largest[1:], terms)


def rank_pvalue(values: FloatArray) -> float:
    """``(1 + #{copies >= observed}) / (B + 1)``; rounding errors count as equality."""
    return float((1 + reached(values).sum()) / values.size)


def reached(values: FloatArray) -> Any:
    """Which copies (1..B) reach the observed value (0)."""
    return values[1:] >= values[0] - TOLERANCE * max(1.0, abs(values[0]))


def _run_sequential(null: Any, statistic: _Statistic, plan: _Plan, n: int, generator: np.random.Generator) -> _Found:
    """Stop at 10 copies that reach the observed value: p = 10 / number of copies (Besag & Clifford)."""
    shift, scale = np.zeros((1, 1)), np.ones((1, 1))
    values = statistic.values(null.observed())
    if len(values) > 1:
        # Terms are standardized by copies that take no part in the comparison: exchangeability is kept.
        seed = int(generator.integers(2**63))
        calibration = statistic.values(null.draw(SEQUENTIAL_CALIBRATION, seed))
        shift = calibration.mean(axis=1, keepdims=True)
        scale = np.maximum(calibration.std(axis=1, keepdims=True), 1e-300)
    largest = ((values - shift) / scale).max(axis=0)
    for size in block_sizes(plan.n_resamples, n * 8, at_most=SEQUENTIAL_BLOCK):
        values = statistic.values(null.draw(size, int(generator.integers(2**63))))
        largest = np.concatenate([largest, ((values - shift) / scale).max(axis=0)])
        hits = np.flatnonzero(reached(largest))
        if hits.size >= SEQUENTIAL_HITS:
            last = int(hits[SEQUENTIAL_HITS - 1]) + 1
            return _Found(float(largest[0]), SEQUENTIAL_HITS / last, largest[1 : last + 1], {}, stopped=True)
    return _Found(float(largest[0]), rank_pvalue(largest), largest[1:], {})


def _result(data: _Data, plan: _Plan, found: _Found, notes: tuple[str, ...]) -> CodecTestResult:
    if found.stopped:
        notes = (
            *notes,
            f"Stopped after {found.copies.size} of {plan.n_resamples} copies: {SEQUENTIAL_HITS} had "
            "reached the observed value.",
        )
    return CodecTestResult(
        statistic=found.statistic,
        pvalue=found.pvalue,
        null_distribution=found.copies,
        n_samples=data.n,
        kind=plan.kind,
        method=plan.method,
        exact=plan.method in {"permutation", "stratified", "crt"},
        n_resamples=found.copies.size,
        terms=found.terms,
        notes=notes,
        n_omitted=data.n_omitted,
        _tables=(data.y, data.z, data.given),
        _n_neighbors=plan.n_neighbors,
    )


def _asymptotic(data: _Data, plan: _Plan, generator: np.random.Generator) -> CodecTestResult:
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
        n_omitted=data.n_omitted,
        _tables=(data.y, data.z, None),
        _n_neighbors=plan.n_neighbors,
    )


def _randomization(
    data: _Data, plan: _Plan, sampler: Sampler | None, generator: np.random.Generator
) -> CodecTestResult:
    """Conditional randomization: y stays, z is drawn anew (Candes et al. 2018)."""
    if data.given is None:  # pragma: no cover - refused by the plan
        raise ValueError("method='crt' needs given.")
    setting_seed, graph_seed = generator.integers(2**63, size=2)
    if sampler is None:
        sampler = NearestSampler(data.raw_z, embed(data.given), np.random.default_rng(setting_seed))
    draws = draw_tables(sampler, data.raw_z, data.z, data.raw_given, plan.n_resamples, generator)
    if plan.kind == "codec":
        rng = np.random.default_rng(graph_seed)
        values = [Coefficient(data.y, z, data.given, plan.n_neighbors, rng).observed() for z in (data.z, *draws)]
        if not np.isfinite(values).all():
            raise ValueError("y is a function of given in this sample: nothing is left that z could explain.")
        return _result(data, plan, _rank(np.array([values]), ("T",)), ())
    setting = Setting(data.y, data.given, plan.strata, np.random.default_rng(setting_seed))
    statistic = Omnibus(setting.own_residuals(), setting.points, plan.n_neighbors, np.random.default_rng(graph_seed))
    copies = centred_copies(data.z, draws)
    parts = []
    start = 0
    for size in block_sizes(copies.shape[1], data.n * 8):
        parts.append(statistic.values(make_moving(copies[:, start : start + size])))
        start += size
    return _result(data, plan, _rank(np.concatenate(parts, axis=1), statistic.names), ())
