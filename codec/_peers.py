"""Classical tests with the same result type, and this package's test in the clothes of two others.

Fisher's z and the G test are there for comparison; :class:`CITest` goes into pgmpy's constraint-based
learners, :func:`register_causal_learn` makes causal-learn know the test by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import chi2, chi2_contingency, norm

from codec._inference import CodecTestResult, codec_test
from codec._notes import warn
from codec._nulls import block_sizes, make_strata, one_stratum, row_codes
from codec._omnibus import Tables
from codec._plans import Data, MethodName, StatisticName, rank_pvalue, read_data
from codec._validation import FloatArray, IntArray, NanPolicy, Rng, Table, as_generator, check_integer, check_option

SMALL_EXPECTED, FEW_SMALL = 5.0, 0.2  # the limit of G is reached if no more cells than this share expect less rows ...
LEAST_EXPECTED = 1.0  # ... and none less than this (Cochran 1954)
CONDITIONAL = {"local-permutation", "crt"}  # methods that need a condition
LINEAR = "y or z is a linear function of given: nothing is left to correlate."
UNMOVED = (
    "every permutation gives the same G, a column has a value of its own in nearly every row: g_test is for few values, "
    "codec_test takes numbers."
)
ALONE = "every row has an X of its own: there is nothing to permute; merge levels of given."
SPARSE = "rows per cell: the chi-square limit rejects too often; use method='permutation'."
SIGNS = (LINEAR, ALONE, UNMOVED, f".* {SPARSE}")  # to be ignored in searches, where one test of hundreds says nothing


# --------------------------------------------------------------------------- Fisher's z
def fisher_z(y: Any, z: Any, given: Any = None, *, nan_policy: NanPolicy = "raise") -> CodecTestResult:
    """Fisher's z test of the partial correlation: right for Gaussian data and linear dependence only.

    Parameters
    ----------
    y, z : array-like of shape (n,)
        Two numeric columns, in any units.
    given : array-like of shape (n,) or (n, d), optional
        Conditioning variables; categories are used as 0/1 columns. Without them the plain correlation is tested.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.

    Returns
    -------
    CodecTestResult
        ``statistic`` is ``sqrt(n - d - 3) artanh(r)`` with the partial correlation r and the rank d of the conditioning
        columns; two-sided p-value of the standard normal distribution. Where y or z is a linear function of X, nothing
        is left to correlate: 0 and p = 1, with a note.

    Raises
    ------
    ValueError
        ``y`` or ``z`` is constant, has several columns or is nominal; fewer than d + 4 complete rows; missing or
        infinite values; different lengths.
    TypeError
        ``z`` or ``given`` holds text.

    Warns
    -----
    UserWarning
        y or z is a linear function of X; rows with missing values were left out.

    See Also
    --------
    codec_test : a test of any dependence.

    References
    ----------
    .. [1] R. A. Fisher, "The distribution of the partial correlation coefficient", Metron 3, 329-332, 1924 (given
       d variables it is distributed as a correlation of n - d rows).
    .. [2] T. W. Anderson, "An Introduction to Multivariate Statistical Analysis", 3rd edition, Wiley, 2003, sections
       4.2.3 (Fisher's z) and 4.3.2 (the partial correlation).

    Examples
    --------
    >>> import numpy as np
    >>> from codec import fisher_z
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal(200)
    >>> y, z = x + rng.standard_normal((2, 200))
    >>> fisher_z(y, z).pvalue < 0.001, fisher_z(y, z, x).pvalue > 0.05
    (True, True)
    """
    data = read_data(y, z, given, "auto", nan_policy)
    for table in (data.y, data.z):
        if len(table.names) > 1 or table.nominal[0]:
            raise ValueError(f"fisher_z needs one numeric column as {table.argument}; use codec_test.")
    columns = _scaled(np.stack([data.y.columns[0], data.z.columns[0]]))
    design = np.empty((data.n, 0)) if data.given is None else _scaled(_indicators(data.given))
    d = int(np.linalg.matrix_rank(design)) if design.size else 0
    left = columns - design @ np.linalg.lstsq(design, columns, rcond=None)[0] if d else columns
    if data.n - d - 3 <= 0:
        raise ValueError(f"{data.n} rows are too few for {d} conditioning columns; at least {d + 4} are needed.")
    size = np.linalg.norm(left, axis=0)
    if (size <= 1e-10).any():  # of columns of length 1
        return _classical(data, "fisher-z", "normal limit", 0.0, 1.0, notes=(LINEAR,))
    r = np.clip(left[:, 0] @ left[:, 1] / size.prod(), -1.0 + 1e-15, 1.0 - 1e-15)
    value = float(np.sqrt(data.n - d - 3) * np.arctanh(r))
    return _classical(data, "fisher-z", "normal limit", value, float(2.0 * norm.sf(abs(value))))


def _indicators(table: Table) -> FloatArray:
    blocks: list[FloatArray] = []
    for values, nominal in zip(table.columns, table.nominal, strict=True):
        levels = np.unique(values)[1:] if nominal else [None]
        blocks.extend(values if level is None else (values == level).astype(np.float64) for level in levels)
    return np.stack(blocks)


def _scaled(rows: FloatArray) -> FloatArray:
    """As columns of mean 0 and length 1, whatever their units; constants become 0."""
    spans = np.ptp(rows, axis=1, keepdims=True)
    rows = (rows - rows.min(axis=1, keepdims=True)) / np.where(spans > 0.0, spans, 1.0)  # squares do not vanish
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray((rows / np.where(spans > 0.0, length, 1.0)).T)


# --------------------------------------------------------------------------- the G test
def g_test(
    y: Any,
    z: Any,
    given: Any = None,
    *,
    method: Literal["asymptotic", "permutation"] = "permutation",
    n_resamples: int = 999,
    nan_policy: NanPolicy = "raise",
    rng: Rng = None,
) -> CodecTestResult:
    r"""G test (likelihood ratio) of independence within the strata of X, for discrete data.

    Parameters
    ----------
    y, z : array-like of shape (n,) or (n, q)
        Categories or numbers with few values; several columns are taken as one variable, whose classes are their
        combinations.
    given : array-like of shape (n,) or (n, d), optional
        Discrete conditioning variables; rows with the same values form a stratum.
    method : {'permutation', 'asymptotic'}, default 'permutation'
        y permuted within strata, which is exact, or the chi-square limit, which rejects too often when
        cells are nearly empty (level .11-.14 instead of .05 on sparse networks).
    n_resamples : int, default 999
        Permutations. Of no meaning for ``method='asymptotic'``.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    rng : None, int, SeedSequence or Generator, default None
        Seed of the permutations.

    Returns
    -------
    CodecTestResult
        ``statistic`` is G, summed over strata. Where every row is alone in its stratum, nothing can be permuted:
        p = 1, with a note.

    Raises
    ------
    ValueError
        ``y`` or ``z`` is constant; ``method`` is unknown; ``n_resamples`` is below 1; missing or infinite values;
        different lengths.
    TypeError
        ``n_resamples`` is no integer; ``z`` or ``given`` holds text (``y`` may, categories always may).

    Warns
    -----
    UserWarning
        Every row is alone in its stratum; expected counts are too small for the chi-square limit (more than 20 % of
        the cells expect under 5 rows, or one under 1 [3]_); rows with missing values were left out.

    See Also
    --------
    codec_test : a test of any dependence, also of numbers.

    Notes
    -----
    With :math:`n_{abx}` the rows in which y, z and X have the values a, b and x, and :math:`n_{ax}`, :math:`n_{bx}`,
    :math:`n_x` their sums,

    .. math:: G = 2 \sum_x \sum_{a, b} n_{abx} \log \frac{n_{abx} \, n_x}{n_{ax} \, n_{bx}} .

    A stratum with r values of y and c of z, as many as occur in it, adds (r - 1)(c - 1) degrees of freedom to the
    chi-square limit.

    References
    ----------
    .. [1] R. R. Sokal, F. J. Rohlf, "Biometry: the principles and practice of statistics in biological research", 3rd
       edition, W. H. Freeman, 1995, chapter 17.
    .. [2] I. Tsamardinos, L. E. Brown, C. F. Aliferis, "The max-min hill-climbing Bayesian network structure learning
       algorithm", Machine Learning 65(1), 31-78, 2006, :doi:`10.1007/s10994-006-6889-7` (G within strata).
    .. [3] W. G. Cochran, "Some methods for strengthening the common chi-square tests",
       Biometrics 10(4), 417-451, 1954.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import g_test
    >>> rng = np.random.default_rng(0)
    >>> x, z = rng.integers(0, 2, (2, 200))
    >>> g_test(x ^ z, z, x, rng=0).pvalue  # the exclusive or of both
    0.001
    >>> g_test(x ^ z, z, rng=0).pvalue > 0.05  # of z alone it is independent
    True
    """
    check_option(method, "method", ("asymptotic", "permutation"))
    copies = check_integer(n_resamples, "n_resamples", 1)
    data = read_data(y, z, given, "auto", nan_policy)
    codes, levels = row_codes(data.y), row_codes(data.z)
    strata = one_stratum(data.n) if data.given is None else make_strata(row_codes(data.given))
    value, freedom, expected = _stratified_g(codes, levels, strata.code)
    if method == "asymptotic":
        notes = (ALONE,) if strata.alone == 1.0 else _note_on_counts(expected)
        pvalue = float(chi2.sf(value, freedom)) if freedom else 1.0
        return _classical(data, "g", f"chi-square limit, {freedom} degrees of freedom", value, pvalue, notes=notes)
    if strata.alone == 1.0:
        return _classical(data, "g", "stratified", value, 1.0, notes=(ALONE,))
    from codec import _inference_kernels as kernels

    cells = np.unique(levels * (strata.code.max() + 1) + strata.code, return_inverse=True)[1].astype(np.int64)
    tables = Tables(codes, cells)
    parts = [tables.values(np.arange(data.n)[None, :])]
    generator = as_generator(rng)
    for size in block_sizes(copies, data.n):
        seed = np.uint64(generator.integers(2**63))
        parts.append(tables.values(kernels.stratified_permutations(strata.start, strata.rows, size, seed)))
    entropy = np.concatenate(parts)
    null = value + 2.0 * (entropy[1:] - entropy[0])
    pvalue = rank_pvalue(np.concatenate([[value], null]))
    notes = (UNMOVED,) if np.ptp(null) <= 1e-9 * max(value, 1.0) else ()  # the rest is rounding
    return _classical(data, "g", "stratified", value, pvalue, null=null, notes=notes)


def _stratified_g(codes: IntArray, levels: IntArray, strata: IntArray) -> tuple[float, int, FloatArray]:
    """G, its degrees of freedom and the rows expected in each cell, over the strata's own tables."""
    value, freedom, expected = 0.0, 0, [np.empty(0)]
    for s in np.unique(strata):
        inside = strata == s
        table = pd.crosstab(codes[inside], levels[inside]).to_numpy()
        if min(table.shape) > 1:
            found = chi2_contingency(table, correction=False, lambda_="log-likelihood")
            value += float(found.statistic)
            freedom += int(found.dof)
            expected.append(found.expected_freq.ravel())
    return value, freedom, np.concatenate(expected)


def _note_on_counts(expected: FloatArray) -> tuple[str, ...]:
    """A warning sign if the expected counts are too small for the chi-square limit."""
    few = int((expected < SMALL_EXPECTED).sum())
    if few <= FEW_SMALL * expected.size and expected.min(initial=np.inf) >= LEAST_EXPECTED:
        return ()
    least = f"{expected.min():.2g}"
    return (f"{few} of {expected.size} cells expect under {SMALL_EXPECTED:g} rows, the least {least} {SPARSE}",)


def _classical(
    data: Data,
    kind: str,
    method: str,
    value: float,
    pvalue: float,
    *,
    null: FloatArray | None = None,
    notes: tuple[str, ...] = (),
) -> CodecTestResult:
    for note in notes:
        warn(note, stacklevel=3)
    return CodecTestResult(
        statistic=value,
        pvalue=pvalue,
        null_distribution=null,
        n_samples=data.n,
        kind=kind,
        method=method,
        exact=method == "stratified",
        n_resamples=0 if null is None else null.size,
        notes=notes,
        n_omitted=data.n_omitted,
    )


# --------------------------------------------------------------------------- pgmpy
class CITest:
    """The test of this package as a callable for constraint-based learners such as pgmpy's ``PC``.

    Parameters
    ----------
    data : DataFrame
        One column a variable; text is read as categories.
    seed : int, default 0
        Every test draws its copies with this seed: an answer depends on its variables only.
    **options
        Passed to :func:`codec_test`; ``statistic`` is ``'omnibus'`` here, also without conditioning. A
        ``method`` that needs a condition is that of conditional tests; the others permute.

    Attributes
    ----------
    statistic_, p_value_, effect_size_ : float
        Of the last call; the effect size is the statistic. pgmpy reads them. NaN before the first call.

    Raises
    ------
    TypeError
        ``data`` is no pandas DataFrame, :func:`codec_test` has no such option, or ``rng`` is among the options.
    ValueError
        ``statistic`` or ``method`` is unknown, or ``seed`` is negative.

    Notes
    -----
    An instance is called as ``test(X, Y, Z=(), significance_level=0.05)`` with names of columns, Z a list of them, and
    returns whether X and Y look independent given Z: p > ``significance_level``.

    The two variables are put in the order of the columns of ``data``, so that the answer is symmetric.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from codec import CITest
    >>> rng = np.random.default_rng(0)
    >>> a = rng.standard_normal(200)
    >>> data = pd.DataFrame({"a": a, "b": a**2 + rng.standard_normal(200), "c": rng.standard_normal(200)})
    >>> test = CITest(data)
    >>> test("a", "b"), test("a", "c", ["b"])
    (False, True)
    """

    def __init__(self, data: pd.DataFrame, *, seed: int = 0, **options: Any) -> None:
        if not isinstance(data, pd.DataFrame):
            raise TypeError(f"data is {type(data).__name__}; pass a pandas DataFrame.")
        if "rng" in options:
            raise TypeError(f"rng is {options['rng']!r}; pass seed, an integer, so that every test can be repeated.")
        _check_options(options, "CITest")
        self.data = _with_categories(data)
        self.seed = check_integer(seed, "seed", 0)
        self.options = {"statistic": "omnibus", **options}
        self.statistic_ = self.p_value_ = self.effect_size_ = float("nan")

    def test(self, first: Any, second: Any, given: Any = ()) -> CodecTestResult:
        """The full result for two columns and any number of conditioning columns.

        Parameters
        ----------
        first, second : label
            Names of two columns of ``data``, in any order.
        given : label or sequence of labels, default ()
            Names of the conditioning columns; one needs no list.

        Returns
        -------
        CodecTestResult
            As of :func:`codec_test`; the attributes of the last call stay as they are.

        Raises
        ------
        ValueError
            A name is that of no column or of several, and whatever :func:`codec_test` refuses.

        Examples
        --------
        >>> import numpy as np, pandas as pd
        >>> from codec import CITest
        >>> data = pd.DataFrame(np.random.default_rng(0).standard_normal((100, 3)), columns=["a", "b", "c"])
        >>> result = CITest(data, n_resamples=99).test("a", "b", "c")
        >>> result.n_samples, result.pvalue > 0.05
        (100, True)
        """
        given = [given] if pd.api.types.is_scalar(given) else list(given)
        columns = list(self.data.columns)
        for name in (first, second, *given):
            if columns.count(name) != 1:
                raise ValueError(
                    f"{name!r} is the name of {columns.count(name)} columns of data; the columns are "
                    f"{', '.join(map(repr, columns[:8]))}{', ...' * (len(columns) > 8)}."
                )
        place = columns.index
        first, second = sorted((first, second), key=place)
        order = sorted(given, key=place)
        x = self.data[order] if order else None
        options = self.options
        if x is None and options.get("method") in CONDITIONAL:
            options = {name: value for name, value in options.items() if name not in {"method", "sampler"}}
        return codec_test(self.data[first], self.data[second], x, rng=self.seed, **options)

    def __call__(
        self, X: Any, Y: Any, Z: Sequence[Any] | None = (), significance_level: float = 0.05, **_: Any
    ) -> bool:
        """Whether X and Y look independent given Z: p > significance_level."""
        result = self.test(X, Y, () if Z is None else Z)
        self.statistic_ = self.effect_size_ = result.statistic
        self.p_value_ = result.pvalue
        return bool(result.pvalue > significance_level)


def _with_categories(data: pd.DataFrame) -> pd.DataFrame:
    """The frame with text as categories: a variable is y in one test, z or given in another."""
    data = data.copy(deep=False)
    for k, dtype in enumerate(data.dtypes):
        if dtype.kind in "OUS" and pd.api.types.infer_dtype(data.iloc[:, k], skipna=True) in {"string", "bytes"}:
            data.isetitem(k, data.iloc[:, k].astype("category").array)
    return data


def _check_options(options: Mapping[str, Any], caller: str) -> None:
    """Refuse what :func:`codec_test` does not take before the first test is asked for."""
    known = [name for name in inspect.signature(codec_test).parameters if name not in {"y", "z", "given", "rng"}]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{caller} takes no option {unknown[0]!r}; those of codec_test are {', '.join(known)}.")
    check_option(options.get("statistic", "auto"), "statistic", get_args(StatisticName))
    check_option(options.get("method", "auto"), "method", get_args(MethodName))


# --------------------------------------------------------------------------- causal-learn
def _check_cache(known: Mapping[str, Any], name: str, described: str, path: str | None) -> None:
    """Refuse p-values of another test, which causal-learn itself does not notice."""
    for key, mine in (("method_name", name), ("parameters_hash", described)):
        if known.get(key, mine) != mine:
            raise ValueError(
                f"cache_path {path!r} holds p-values of another test ({key} {known[key]!r}, not {mine!r}); pass another path."
            )


def register_causal_learn(name: str = "codec", *, seed: int = 0, **options: Any) -> None:
    """Make causal-learn know the test: afterwards ``pc(data, indep_test=name)`` uses it.

    Parameters
    ----------
    name : str, default 'codec'
        Name in causal-learn's registry; a test that has this name is replaced.
    seed : int, default 0
        Every test draws its copies with this seed: an answer depends on its variables only.
    **options
        Passed to :func:`codec_test`, as by :class:`CITest`.

    Raises
    ------
    ImportError
        causal-learn is not installed.
    TypeError
        :func:`codec_test` has no such option.
    ValueError
        ``statistic`` or ``method`` is unknown, or ``seed`` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from causallearn.utils.cit import CIT
    >>> from codec import register_causal_learn
    >>> rng = np.random.default_rng(0)
    >>> a = rng.standard_normal(200)
    >>> data = np.column_stack([a, a**2 + rng.standard_normal(200), rng.standard_normal(200)])
    >>> register_causal_learn("codec", n_resamples=99)
    >>> test = CIT(data, "codec")
    >>> test(0, 1) < 0.05, test(0, 2, [1]) < 0.05
    (True, False)

    ``pc(data, alpha=0.05, indep_test="codec")`` of ``causallearn.search.ConstraintBased.PC`` then learns a graph by it.
    """
    _check_options(options, "register_causal_learn")
    check_integer(seed, "seed", 0)
    try:
        from causallearn.utils.cit import CIT_Base, register_ci_test
    except ImportError as error:
        raise ImportError("causal-learn is needed: pip install causal-learn") from error

    class RegisteredTest(CIT_Base):  # type: ignore[misc]
        """Columns of an array, by index; answers are remembered."""

        def __init__(self, data: Any, cache_path: str | None = None, **kwargs: Any) -> None:
            if kwargs:
                raise TypeError(
                    f"test {name!r} takes no option {sorted(kwargs)[0]!r} here; pass it to register_causal_learn({name!r}, ...)."
                )
            super().__init__(data, cache_path=cache_path)
            described = f"{seed} {sorted(options.items())}"
            _check_cache(self.pvalue_cache, name, described, cache_path)
            self.check_cache_method_consistent(name, described)
            self.assert_input_data_is_valid(allow_nan=options.get("nan_policy") == "omit")
            self._test = CITest(pd.DataFrame(data), seed=seed, **options)

        def __call__(self, X: Any, Y: Any, condition_set: Any = None) -> float:
            first, second, given, key = self.get_formatted_XYZ_and_cachekey(X, Y, condition_set)
            if key not in self.pvalue_cache:
                self.pvalue_cache[key] = self._test.test(first[0], second[0], given).pvalue
            return float(self.pvalue_cache[key])

    register_ci_test(name, RegisteredTest)
