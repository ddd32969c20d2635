"""Forward selection by the conditional dependence coefficient: FOCI and L-FOCI."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from joblib import delayed
from scipy.stats import rankdata

from codec._dependence import (
    NominalY,
    add_noise,
    beside,
    read_response,
    refuse_constant,
    response_terms,
    side_by_side,
)
from codec._forward import Find, Problem, Show, Step, forward_select, show_progress
from codec._kernels import spreads
from codec._neighbors import lay_columns
from codec._parallel import in_order
from codec._validation import (
    MIN_ROWS,
    SMALLEST_SQUARE,
    FloatArray,
    IntArray,
    NanPolicy,
    Rng,
    Standardize,
    Table,
    Ties,
    as_generator,
    check_flag,
    check_integer,
    check_jobs,
    check_neighbors,
    check_option,
    check_positive,
    check_spread,
    columns_by_name,
    constant_columns,
    drop_incomplete,
    list_of_columns,
    read_table,
)


# --------------------------------------------------------------------------- the result
@dataclass(frozen=True, eq=False, repr=False)
class SelectionPath:
    """What forward selection chose, step by step.

    Attributes
    ----------
    order : ndarray of shape (k,), int
        Column of the feature that entered at each step.
    names : tuple of str
        Their names.
    cumulative : ndarray of shape (k,)
        T(y, selected so far): what R's ``foci`` calls ``stepT``.
    conditional : ndarray of shape (k,)
        T(y, feature | selected before): the increment, as the CVPR 2022 paper reports it.
    seconds : ndarray of shape (k,)
        Wall-clock time of each step, in seconds.
    n_samples, n_features, n_omitted : int
        Complete rows used, columns offered, rows left out for missing values.
    include : tuple of str
        Features that were selected beforehand.
    method : str
        ``'foci'`` or ``'lfoci'``.
    stopped : str
        One sentence: why the selection ended.

    Examples
    --------
    :func:`foci` and :func:`lfoci` return one, and so does a selector with ``method='foci'`` as ``path_``.

    >>> import numpy as np
    >>> from codec import foci
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 5))
    >>> y = X[:, 1] * X[:, 3] + 0.1 * rng.standard_normal(300)
    >>> path = foci(X, y, n_neighbors=5)
    >>> path.names, path.cumulative.round(2).tolist()
    (('x3', 'x1'), [0.06, 0.75])
    >>> path.to_frame()["column"].tolist()
    [3, 1]
    """

    order: IntArray
    names: tuple[str, ...]
    cumulative: FloatArray
    conditional: FloatArray
    seconds: FloatArray
    n_samples: int
    n_features: int
    n_omitted: int
    include: tuple[str, ...]
    method: str
    stopped: str

    def __post_init__(self) -> None:
        for array in (self.order, self.cumulative, self.conditional, self.seconds):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.order)

    def to_frame(self) -> pd.DataFrame:
        """One row a step, numbered from 1.

        Returns
        -------
        DataFrame of shape (k, 5)
            Columns ``feature``, ``column``, ``cumulative``, ``conditional`` and ``seconds``.
        """
        return pd.DataFrame(
            {
                "feature": pd.Series(list(self.names), dtype=str).array,
                "column": self.order,
                "cumulative": self.cumulative,
                "conditional": self.conditional,
                "seconds": self.seconds,
            },
            index=pd.RangeIndex(1, len(self) + 1, name="step"),
        )

    def _title(self) -> str:
        rows = f"n = {self.n_samples:,}"
        if self.n_omitted:
            rows += f", {self.n_omitted:,} incomplete rows left out"
        beforehand = f" after {', '.join(self.include)}" if self.include else ""
        return f"{self.method.upper()}: {len(self)} of {self.n_features} features{beforehand} ({rows})"

    def __repr__(self) -> str:
        table = self.to_frame().to_string(float_format="{:.4f}".format) if len(self) else "nothing selected"
        return f"{self._title()}\n{table}\n{self.stopped}"

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(float_format="{:.4f}".format) if len(self) else "<p>nothing selected</p>"
        return f"<h4>{html.escape(self._title())}</h4>{table}<p>{html.escape(self.stopped)}</p>"


# --------------------------------------------------------------------------- geometry
def standardized(table: Table, standardize: Standardize) -> tuple[Table, FloatArray]:
    """The columns (ranks, if asked) and the weights of their squared differences.

    Weights multiply after subtracting, so equal gaps between values stay exactly equal distances.
    A nominal column is weighted so that its mean squared distance is that of a scaled column, 2.
    """
    check_option(standardize, "standardize", ("scale", "bounded", "rank", None))
    if standardize is None:
        return table, np.ones(len(table.names))
    if standardize == "rank":
        ranks = [c if flag else rankdata(c) for c, flag in zip(table.columns, table.nominal, strict=True)]
        table = replace(table, columns=np.ascontiguousarray(ranks))
    if standardize == "bounded":
        spread = np.where(table.nominal, 1.0, np.ptp(table.columns, axis=1))
    else:
        spread = spreads(table.columns)
        for j in np.flatnonzero(table.nominal):
            spread[j] = _nominal_spread(table.columns[j])
    spread[constant_columns(table)] = 1.0  # all differences are zero
    with np.errstate(over="ignore", divide="ignore"):
        weights = 1.0 / spread**2
        shares = weights / weights.max()  # equal columns weigh exactly 1: their equal gaps tie
    extreme = ~np.isfinite(weights) | ~(shares > SMALLEST_SQUARE)
    if extreme.any():
        worst = int(np.argmax(extreme))
        what = "little to be scaled; multiply" if spread[worst] < 1.0 else "much to be scaled; divide"
        raise ValueError(f"column {table.names[worst]!r} of {table.argument} varies too {what} it first.")
    return table, shares


def _nominal_spread(codes: FloatArray) -> float:
    """Root of half the mean squared difference of two rows, which for numbers is the standard deviation."""
    n = codes.size
    shares = np.unique(codes, return_counts=True)[1] / n
    return float(np.sqrt((1.0 - np.sum(shares**2)) * n / (n - 1) / 2))


# --------------------------------------------------------------------------- all rows, or chunks of them
@dataclass(frozen=True)
class Search:
    """A forward selection that has not run yet.

    Attributes
    ----------
    response : Table
        The responses as they came.
    columns : Table
        The standardized features; several responses stand behind them.
    weights : ndarray
        Of the squared difference in each column.
    names : tuple of str
        Of the features.
    include, candidates : list of int
        Features that are selected beforehand, and that may enter.
    max_features, stop, k, random, find
        As asked for.
    """

    response: Table
    columns: Table
    weights: FloatArray
    names: tuple[str, ...]
    include: list[int]
    candidates: list[int]
    max_features: int
    stop: bool
    k: int
    random: bool
    find: Find | None = None

    def on_rows(self, rows: IntArray) -> Search:
        return replace(self, response=self.response.take(rows), columns=self.columns.take(rows))

    def on_features(self, kept: list[int]) -> Search:
        """The same with these features alone, numbered anew."""
        stay = [*kept, *range(len(self.names), len(self.columns.names))]
        return replace(
            self,
            columns=beside(self.columns, stay),
            weights=self.weights[stay],
            names=tuple(self.names[j] for j in kept),
            include=[kept.index(j) for j in self.include],
            candidates=[i for i, j in enumerate(kept) if j not in self.include],
        )

    def run(self, generator: np.random.Generator, n_jobs: int | None, show: Show) -> tuple[list[Step], str]:
        terms = response_terms(self.response, self.k)
        problem = Problem(
            terms=terms,
            points=[lay_columns(self.columns, self.weights, term.response, n_jobs) for term in terms],
            n_features=len(self.names),
            k=self.k,
            random=self.random,
            seed=int(generator.integers(2**63)) if self.random else 0,
            n_jobs=n_jobs,
            find=self.find,
        )
        return forward_select(problem, self.include, self.candidates, self.names, self.max_features, self.stop, show)


def pick_in_chunks(
    search: Search, chunks: int, generator: np.random.Generator, n_jobs: int | None, show: Show
) -> list[int]:
    """Features that a selection on at least one of the random chunks of rows picks."""
    rows = np.array_split(generator.permutation(search.columns.n_rows), chunks)
    seeds = generator.integers(2**63, size=chunks).tolist()
    jobs = (delayed(_picks)(search.on_rows(np.sort(r)), seed) for r, seed in zip(rows, seeds, strict=True))
    picked: set[int] = set()
    with show(f"on {chunks} chunks of rows") as advance:
        for found in in_order(jobs, n_jobs):
            picked.update(found)
            advance(1.0 / chunks)
    return sorted(picked)


def _picks(search: Search, seed: int) -> list[int]:
    """What one chunk picks; runs in a worker."""
    if constant_columns(search.response).any():
        raise ValueError(f"y is constant in a chunk of {search.columns.n_rows} rows; pass a smaller number of chunks.")
    steps, _ = search.run(np.random.default_rng(seed), 1, partial(show_progress, "", False))
    return [step.feature for step in steps]


# --------------------------------------------------------------------------- the public functions
def foci(
    X: Any,
    y: Any,
    *,
    max_features: int | None = None,
    stop: bool = True,
    standardize: Standardize = "scale",
    include: Iterable[str | int] | None = None,
    n_neighbors: int = 1,
    ties: Ties = "average",
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    n_jobs: int | None = None,
    rng: Rng = None,
    verbose: bool = False,
    chunks: int | None = None,
) -> SelectionPath:
    r"""Feature Ordering by Conditional Independence.

    Starting from ``include``, adds the feature with the largest T(y, selected + feature), which is
    also the one with the largest T(y, feature | selected), and stops when no feature raises it.

    Parameters
    ----------
    X : array-like of shape (n, p)
        Features: numbers, booleans, pandas or polars frames; unordered categoricals by equality.
    y : array-like of shape (n,) or (n, q)
        Response, as in :func:`codec`.
    max_features : int, optional
        Most features to select (those of ``include`` not counted). Default: no limit.
    stop : bool, default True
        Stop when T no longer increases; False ranks up to ``max_features`` features.
    standardize : {'scale', 'bounded', 'rank', None}, default 'scale'
        Divide each column by its standard deviation (n - 1), by its range, or replace it by its ranks
        and scale. A nominal column is weighted to the mean squared distance of a scaled one.
    include : iterable of str or int, optional
        Features selected beforehand, by name or index. An integer is a position, also in a frame whose labels are
        integers; these are names as text: ``"2"``.
    n_neighbors : int, default 1
        K neighbours instead of the nearest: more power on noisy data, see :func:`codec`.
    ties : {'average', 'random'}, default 'average'
        Neighbours at the same distance, as in :func:`codec`.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    n_jobs : int, optional
        Threads over the candidates, or any backend of ``joblib.parallel_config``. Default: one thread, or what that
        sets. The result is the same for every number and backend.
    rng : None, int, SeedSequence or Generator, default None
        Used by ``ties='random'`` and by ``chunks``.
    verbose : bool, default False
        Show progress on stderr: a bar for each step (a line where tqdm is not installed).
    chunks : int, optional
        For tables larger than a worker's share: select on that many disjoint random chunks of the rows,
        each a task of joblib, then on all rows among the features that any chunk picked. It saves memory
        in the workers, not CPU time, and a feature that no chunk picks is lost: see Notes.

    Returns
    -------
    SelectionPath
        Order, names, cumulative and conditional T of every step.

    Raises
    ------
    ValueError, TypeError
        As in :func:`codec`; a constant column has no scale, unless ``standardize=None``; ``include`` names a column
        that is not there, or one twice; ``max_features`` is not between 1 and p; ``chunks`` leaves too few rows in
        a chunk, or y is constant in one.

    Notes
    -----
    What ``chunks`` loses, in ten draws of ``y = x0 x1 + sin(x0 x2) + sd * e`` with 30 normal features
    (``benchmarks/bench_chunks.py``): draws with the path of the plain selection, right features found (of
    3, mean), and CPU time relative to the plain selection, for 4 and for 16 chunks. Keep some thousand rows
    in each chunk; where T is small against its noise, paths differ in either direction.

    ==========  ====  ===  ===========  =======  ============  ========  =============
    n           sd    K    right plain  same, 4  right, CPU 4  same, 16  right, CPU 16
    ==========  ====  ===  ===========  =======  ============  ========  =============
    10,000      0     10   3.0          10       3.0, 0.8      10        3.0, 0.6
    10,000      1     10   3.0          10       3.0, 0.9      10        3.0, 1.4
    10,000      1     1    1.2          1        2.1, 1.2      3         1.8, 1.9
    2,000       1     10   2.4          5        2.1, 1.4      10        2.4, 2.0
    ==========  ====  ===  ===========  =======  ============  ========  =============

    References
    ----------
    .. [1] M. Azadkia, S. Chatterjee, "A simple measure of conditional dependence", Annals of Statistics
       49(6), 3070-3102, 2021, section 5, :doi:`10.1214/21-AOS2073`.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import foci
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((1000, 10))
    >>> y = X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2])
    >>> foci(X, y, n_neighbors=10).order.tolist()
    [0, 1, 2]
    """
    options = Options(
        method="foci",
        max_features=max_features,
        stop=stop,
        standardize=standardize,
        include=include,
        n_neighbors=n_neighbors,
        nan_policy=nan_policy,
        n_jobs=n_jobs,
        verbose=verbose,
        ties=ties,
        chunks=chunks,
    )
    return select_features(read_table(X, "X", n_jobs=n_jobs), read_response(y, nominal_y), options, as_generator(rng))


def lfoci(
    X: Any,
    y: Any,
    *,
    noise: float = 1e-3,
    max_features: int | None = None,
    stop: bool = True,
    standardize: Standardize = "scale",
    include: Iterable[str | int] | None = None,
    n_neighbors: int = 1,
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    n_jobs: int | None = None,
    rng: Rng = None,
    verbose: bool = False,
    chunks: int | None = None,
) -> SelectionPath:
    """FOCI with L-CODEC: forward selection after small noise on columns with ties.

    Parameters
    ----------
    X : array-like of shape (n, p)
        Features, as in :func:`foci`.
    y : array-like of shape (n,) or (n, q)
        Response, as in :func:`codec`.
    noise : float, default 1e-3
        Standard deviation of the noise relative to each column's own, as in :func:`lcodec`.
    max_features : int, optional
        Most features to select (those of ``include`` not counted). Default: no limit.
    stop : bool, default True
        Stop when T no longer increases; False ranks up to ``max_features`` features.
    standardize : {'scale', 'bounded', 'rank', None}, default 'scale'
        Scale of the columns, as in :func:`foci`; after the noise.
    include : iterable of str or int, optional
        Features selected beforehand, by name or index, as in :func:`foci`.
    n_neighbors : int, default 1
        K neighbours instead of the nearest, as in :func:`codec`.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    n_jobs : int, optional
        Threads over the candidates, or any backend of ``joblib.parallel_config``, as in :func:`foci`.
    rng : None, int, SeedSequence or Generator, default None
        Seed of the noise and of ``chunks``.
    verbose : bool, default False
        Show progress on stderr.
    chunks : int, optional
        Select on that many random chunks of the rows first, as in :func:`foci`.

    Returns
    -------
    SelectionPath
        Order, names, cumulative and conditional T of every step.

    Raises
    ------
    ValueError, TypeError
        As in :func:`foci`; ``noise`` is not a positive, finite number.

    References
    ----------
    .. [1] R. Mehta, S. Pal, V. Singh, S. N. Ravi, "Deep Unlearning via Randomized Conditionally
       Independent Hessians", CVPR 2022, section 3, arXiv:2204.07655.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import lfoci
    >>> rng = np.random.default_rng(0)
    >>> X = rng.integers(0, 2, (500, 6))
    >>> sorted(lfoci(X, X[:, 1] + X[:, 4], rng=0).order[:2].tolist())
    [1, 4]
    """
    options = Options(
        method="lfoci",
        max_features=max_features,
        stop=stop,
        standardize=standardize,
        include=include,
        n_neighbors=n_neighbors,
        nan_policy=nan_policy,
        n_jobs=n_jobs,
        verbose=verbose,
        noise=check_positive(noise, "noise"),
        chunks=chunks,
    )
    return select_features(read_table(X, "X", n_jobs=n_jobs), read_response(y, nominal_y), options, as_generator(rng))


@dataclass(frozen=True)
class Options:
    """What forward selection is asked for; checked in :func:`select_features`."""

    method: str
    max_features: int | None
    stop: bool
    standardize: Standardize
    include: Iterable[str | int] | None
    n_neighbors: int
    nan_policy: NanPolicy
    n_jobs: int | None
    verbose: bool
    ties: Ties = "average"
    noise: float = 0.0
    skip_constant: bool = False
    chunks: int | None = None
    find: Find | None = None
    show: Show | None = None


def select_features(
    features: Table, response: Table, options: Options, generator: np.random.Generator
) -> SelectionPath:
    """Check the options, prepare the columns, run the loop, wrap the result."""
    check_option(options.ties, "ties", ("average", "random"))
    stop, verbose = check_flag(options.stop, "stop"), check_flag(options.verbose, "verbose")
    (response, features), n_omitted = drop_incomplete([response, features], options.nan_policy)
    k = check_neighbors(options.n_neighbors, features.n_rows)
    names = features.names
    include = columns_by_name(list_of_columns(options.include, "include"), names, "include")
    limit = len(names) - len(include)
    if options.max_features is not None:
        limit = min(limit, check_integer(options.max_features, "max_features", 1, len(names)))
    candidates = _candidates(features, include, options)
    most = max(1, features.n_rows // max(MIN_ROWS, k + 1))  # chunks with a row more than neighbours
    chunks = check_integer(options.chunks, "chunks", 1, most) if options.chunks is not None else 1
    if options.noise:
        refuse_constant(response)
        response = add_noise(response, options.noise, generator)
        features = add_noise(features, options.noise, generator)
    check_spread(features)
    if len(response.names) > 1:  # then they are columns beside the features
        check_spread(response)
    columns, weights = _standardized_columns(features, response, options.standardize)
    random, n_jobs = options.ties == "random", check_jobs(options.n_jobs)
    search = Search(response, columns, weights, names, include, candidates, limit, stop, k, random, options.find)
    show = options.show or partial(show_progress, options.method, verbose)
    kept, note = list(range(len(names))), ""
    if chunks > 1:
        picked = pick_in_chunks(search, chunks, generator, n_jobs, show)
        note = f" Candidates were the {len(picked)} of {len(candidates)} that {chunks} chunks of the rows picked."
        kept = sorted({*include, *picked})
        search = search.on_features(kept)
    steps, stopped = search.run(generator, n_jobs, show)
    return SelectionPath(
        order=np.array([kept[step.feature] for step in steps], dtype=np.int64),
        names=tuple(names[kept[step.feature]] for step in steps),
        cumulative=np.array([step.score.value for step in steps], dtype=np.float64),
        conditional=np.array([step.conditional for step in steps], dtype=np.float64),
        seconds=np.array([step.seconds for step in steps], dtype=np.float64),
        n_samples=features.n_rows,
        n_features=len(names),
        n_omitted=n_omitted,
        include=tuple(names[j] for j in include),
        method=options.method,
        stopped=stopped + note,
    )


def _candidates(features: Table, include: Sequence[int], options: Options) -> list[int]:
    """Columns that may enter; a constant one has no scale."""
    constant = constant_columns(features)
    if constant.any() and options.standardize is not None and not options.skip_constant:
        name = features.names[int(np.argmax(constant))]
        raise ValueError(
            f"column {name!r} of {features.argument} is constant and has no scale; "
            "leave it out or pass standardize=None."
        )
    skipped = constant if options.skip_constant else np.zeros_like(constant)
    return [j for j in range(len(features.names)) if j not in set(include) and not skipped[j]]


def _standardized_columns(features: Table, response: Table, standardize: Standardize) -> tuple[Table, FloatArray]:
    """The features, behind them several responses, and the weights of all."""
    features, weights = standardized(features, standardize)
    if len(response.names) == 1:
        return features, weights
    response, response_weights = standardized(response, standardize)
    return side_by_side(features, response), np.concatenate([weights, response_weights])
