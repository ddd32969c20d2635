"""Markov blankets: the scikit-learn selector."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags
from sklearn.utils._set_output import _get_output_config  # as SelectorMixin.transform does
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from codec._decisions import BlanketPath
from codec._dependence import NominalY, read_response, refuse_constant
from codec._family import Features, with_distances, with_indicators
from codec._forward import Advance, Show, show_progress
from codec._frames import as_frame, is_polars, refuse_foreign_frame, refuse_series, without_nullable
from codec._markov import SCREEN_FEATURES, SearchOptions, spread_values
from codec._selection import Options, select_features
from codec._stability import MIN_ROWS, check_halves
from codec._task import UNORDERED_LEVELS, Task, few_whole_numbers, refuse_missing, split_rows, warn_of_rare_classes
from codec._validation import (
    BoolArray,
    FloatArray,
    Standardize,
    Table,
    as_generator,
    check_flag,
    check_integer,
    check_jobs,
    check_option,
    check_positive,
    check_spread,
    columns_by_name,
    count_once,
    drop_incomplete,
    list_of_columns,
    read_table,
    refuse_equal_names,
    without_mask,
)

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    CALLER = 4  # stack level of who calls fit, seen from what fit calls: the callbacks have a frame of their own
except ImportError:  # before scikit-learn 1.9
    CALLER = 3

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method: Any) -> Any:
        """Nothing to call."""
        return method


FORWARD_ONLY = {"stop": True, "standardize": "scale", "n_neighbors": 1, "noise": 1e-3}
AUTO_ONLY = {
    "alpha": 0.05,
    "screen": "auto",
    "symmetric": False,
    "groups": None,
    "test": None,
    "split": None,
    "stability": None,
    "allow_nan": False,
}
SAME_AS_NONE: dict[str, tuple[Any, ...]] = {"groups": ([], ()), "stability": (False,)}


class MarkovBlanketSelector(CallbackSupportMixin, SelectorMixin, BaseEstimator):
    """Select the Markov blanket of y: the features that carry all the information on it.

    The default needs no tuning. It tests features given other features, with
    the number of features taken into account: if y is independent of all features, the chance to
    select anything is about ``alpha``.

    Parameters
    ----------
    method : {'auto', 'foci', 'lfoci'}, default 'auto'
        ``'auto'``: the calibrated search (see Notes). ``'foci'``, ``'lfoci'``: forward selection with the
        conditional dependence coefficient until nothing raises it, exact or after small noise.
    alpha : float, default 0.05
        Level of the decisions of ``method='auto'``.
    max_features : int, optional
        Most features to select, those of ``always_include`` not counted; with ``stability`` in each half, and of the
        stable ones the most frequent. Default: no limit; the calibrated search stops at one feature for 15 rows,
        since more leave nothing to test with.
    screen : 'auto', int or False, default 'auto'
        How many features, at most, trees may propose before the tests begin, and a regression as many; ``'auto'``:
        12. False: none, everything is found by adding one feature at a time, which misses those that act only
        together.
    symmetric : bool, default False
        Keep a feature only if y is in the blanket of the feature, too (the AND rule). Fewer false
        selections and more missed ones; costs one search for each selected feature.
    groups : list of lists of str or int, optional
        Columns that enter together, by name or index: one-hot blocks, coordinates. Columns
        not named stand alone. Of several numbers in a group, their distance from the mean counts, too.
    test : callable, optional
        ``test(y, z, given)`` with the first three arguments of :func:`codec.codec_test` returns (statistic,
        p-value) or an object that unpacks so; used in place of the calibrated test, with
        Bonferroni's correction. It is also passed ``n_resamples`` and ``rng`` if it has them, unless it is a
        :func:`functools.partial` that sets them. ``z`` and ``given`` are arrays of shape (n, d), or frames where
        columns are categories; ``given`` may be None. ``z`` has several columns where it is a group, or a number with
        missing values: the median in their place, and 0/1 for what was missing. Constant columns of ``z`` are left
        out. :func:`codec.codec_test` takes all of this, :func:`codec.g_test` whatever is discrete,
        :func:`codec.fisher_z` one numeric column as y and as z.
    split : float, optional
        Share of the rows, such as .5, that the search uses; ``pvalues_`` then come from the other rows and are
        valid whatever was selected. Each class of y is divided in this way.
    stability : bool or dict, optional
        True: select the features found in at least 60 % of 100 random halves of the data; for a bound on
        the false ones see :class:`codec.StabilityResult`. A dict changes that: ``n_subsamples`` (even), ``threshold``
        (above .5).
    always_include : iterable of str or int, optional
        Features that are always selected, by name or index (a group: by any of its columns). An integer is a
        position, also in a frame whose labels are integers; these are names as text: ``"2"``.
    allow_nan : bool, default False
        Accept missing values in X (``method='auto'``): see Notes.
    stop : bool, default True
        FOCI: stop when no feature raises T; False selects ``max_features`` features.
    standardize : {'scale', 'bounded', 'rank', None}, default 'scale'
        FOCI: as in :func:`codec.foci`.
    n_neighbors : int, default 1
        FOCI: K neighbours instead of the nearest, as in :func:`codec.codec`.
    noise : float, default 1e-3
        Size of the noise of ``method='lfoci'``, as in :func:`codec.lcodec`.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order; text and unordered categoricals always have.
    n_jobs : int, optional
        Threads over the candidates, or any backend of :func:`joblib.parallel_config`. The result is the
        same for every number.
    random_state : int, SeedSequence, Generator, RandomState or None, default None
        Seed of the copies of the data, the trees, the noise.
    verbose : bool, default False
        Show progress on stderr.

    Attributes
    ----------
    support_ : ndarray of shape (n_features_in_,), bool
        The selected features.
    blanket_ : ndarray of int
        Their columns in order of entry, those of ``always_include`` first; with ``stability`` by frequency.
    scores_ : ndarray of shape (n_features_in_,)
        The statistic of each selected feature given the other selected ones, 0 elsewhere. Discrete data,
        without ``split`` and ``stability``: the share of networks. FOCI: T(y, feature | selected before it).
    pvalues_ : ndarray of shape (n_features_in_,)
        p-value of each selected feature given the other selected ones, NaN elsewhere. **Descriptive**:
        the same rows chose the features, so small values were to be expected; use ``split`` for valid ones. Children
        and their other parents (see Notes) may have large ones.
    path_ : BlanketPath or SelectionPath
        Every decision of the search, ``.to_frame()``; for FOCI every step.
    n_tests_ : int
        Hypotheses that were tested.
    stability_ : StabilityResult
        Only with ``stability``; the decisions of ``path_`` are then those of the search in all rows.
    n_features_in_ : int
        Columns seen in fit.
    feature_names_in_ : ndarray of str
        Their names, when X has names that are all strings.

    See Also
    --------
    codec.foci : forward selection as a function.
    codec.markov_blanket_graph : the blankets of all variables.

    Notes
    -----
    *The calibrated search.* Extremely randomized trees list features more important than permuted copies of all
    features, and a regression on normal scores, their squares and products lists those that stand out given all
    others. Listed features are tested given the others on the list, the least important first: those of the
    regression, which has allowed for the number of features, at half the level ``alpha``, the others against what
    chance could reach among **all** features. Then the best of the other features is added as long as it stands out
    from all of them under the same copies of y. Where y is a number and the rows are at most 1,000, features
    that a Gaussian process [4]_ needs beside the members are added as well, after Bonferroni's correction and at half
    the level. Every member is tested again. Finally, up to 20,000 rows, the children of y are examined. A feature that
    clearly depends on y given its other parents, but hardly otherwise, enters with those parents; and the feature on
    which a member clearly depends beside y and the other members, and which y does not depend on without that member,
    is another parent of it [5]_. They enter by what is said about the child; their own
    p-values may be large. y and features are compared after what the condition explains of them is taken out; the
    terms of :func:`codec.codec_test` and one more are combined. Tables in which y and all features are categories or
    hold at most 3 whole numbers go to a search for discrete data instead, which knows no order: stratified permutation
    tests find the features that may be near y, alone or two together, and networks learned on bootstrap samples vote on
    which are. ``screen`` has no meaning there.

    *Several responses* are explained together: a feature is selected if it carries information on any.

    *Missing values.* With ``allow_nan=True`` a missing number becomes the median and a missing category
    a category, and whether it was missing is tested and selected along with the column. What is tested is
    then the information that was **recorded**: tests stay valid whatever makes values missing, but a
    feature that is often missing explains less, so that others which replace it are rightly selected
    beside it. ``transform`` leaves missing values as they are. y must be complete.

    *Nothing selected* is an answer: no feature stands out from chance. ``transform`` then returns no columns, with a
    warning, and the next step of a pipeline refuses them. Name columns in ``always_include`` where a model needs some.

    *Callbacks* of scikit-learn 1.9 and newer are supported (``set_callbacks``): each step of FOCI and L-FOCI is a
    task, the calibrated search is one task as a whole. What a callback answers does not stop a search.

    *Rows that are there twice*, if more than 2 %, are counted once by the calibrated search, with a warning; a copy is no
    further evidence. Rows that agree because the columns have few values are not taken for copies; tables of categories
    are left as they are.

    Constant columns carry no information and are never selected, unless ``always_include`` names them or the group
    that they belong to is selected, which enters as a whole. Dependence that holds by a deterministic relation among
    features leaves none of them necessary. Of columns that say the same (copies, other units, other names of the same
    classes) the search sees the first, or those of ``always_include``: the blanket holds one or none.

    References
    ----------
    .. [1] M. Azadkia, S. Chatterjee, "A simple measure of conditional dependence", Annals of Statistics
       49(6), 3070-3102, 2021, :doi:`10.1214/21-AOS2073`.
    .. [2] D. Margaritis, S. Thrun, "Bayesian network induction via local neighborhoods", NIPS 12, 1999 (growing
       and shrinking).
    .. [3] P. Geurts, D. Ernst, L. Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006,
       :doi:`10.1007/s10994-006-6226-1`.
    .. [4] C. E. Rasmussen, C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT Press, 2006, section 5.1
       (automatic relevance determination).
    .. [5] P. Spirtes, C. Glymour, R. Scheines, "Causation, Prediction, and Search", MIT Press, 2000, section 5.4.2
       (colliders).

    Examples
    --------
    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((300, 6))
    >>> y = X[:, 1] * X[:, 4] + 0.3 * rng.standard_normal(300)
    >>> selector = MarkovBlanketSelector(random_state=0).fit(X, y)
    >>> selector.get_support(indices=True)
    array([1, 4])
    """

    path_: Any  # BlanketPath, or SelectionPath of FOCI
    scores_: FloatArray
    pvalues_: FloatArray

    def __init__(
        self,
        method: str = "auto",
        *,
        alpha: float = 0.05,
        max_features: int | None = None,
        screen: Any = "auto",
        symmetric: bool = False,
        groups: Iterable[Iterable[str | int]] | None = None,
        test: Callable[..., Any] | None = None,
        split: float | None = None,
        stability: bool | dict[str, Any] | None = None,
        always_include: Iterable[str | int] | None = None,
        allow_nan: bool = False,
        stop: bool = True,
        standardize: Standardize = "scale",
        n_neighbors: int = 1,
        noise: float = 1e-3,
        nominal_y: NominalY = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.alpha = alpha
        self.max_features = max_features
        self.screen = screen
        self.symmetric = symmetric
        self.groups = groups
        self.test = test
        self.split = split
        self.stability = stability
        self.always_include = always_include
        self.allow_nan = allow_nan
        self.stop = stop
        self.standardize = standardize
        self.n_neighbors = n_neighbors
        self.noise = noise
        self.nominal_y = nominal_y
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: Any, y: Any) -> Self:
        """Select features.

        Parameters
        ----------
        X : array-like of shape (n, p)
            Features; a pandas or polars frame may hold categoricals.
        y : array-like of shape (n,) or (n, q)
            Response.

        Returns
        -------
        self
            The fitted selector.
        """
        self._forget()
        check_option(self.method, "method", ("auto", "foci", "lfoci"))
        self._refuse_foreign_options()
        features, response = self._read(X, y)
        steps = self._begin_callbacks(X, y)
        if self.method == "auto":
            self._search(features, response)
        else:
            self._select_forward(features, response)
        if steps is not None:
            steps.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def _forget(self) -> None:
        """Nothing of an earlier fit is left, even if this one fails."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "support_")

    def _begin_callbacks(self, X: Any, y: Any) -> Any:
        """The context whose tasks are the steps of a forward selection; None without callbacks."""
        if not getattr(self, "_skl_callbacks", None) and not hasattr(self, "_parent_callback_ctx"):
            return None
        context = self._init_callback_context(max_subtasks=0 if self.method == "auto" else None)
        return context.call_on_fit_task_begin(estimator=self, X=X, y=y)

    def _shown(self, show: Show) -> Show:
        """Steps that are also tasks of scikit-learn's callbacks, where there are any."""
        context = getattr(self, "_callback_fit_ctx", None)
        if context is None:
            return show

        @contextmanager
        def both(what: str) -> Iterator[Advance]:
            task = context.subcontext(task_name=what).call_on_fit_task_begin(estimator=self)
            with show(what) as advance:
                yield advance
            task.call_on_fit_task_end(estimator=self)

        return both

    # ----------------------------------------------------------------------- the calibrated search
    def _search(self, table: Table, response: Table) -> None:
        """Check the rest, search, and set the learned attributes."""
        rng = generator_of(self.random_state)
        n_columns = len(table.names)
        discrete = self._discrete(table, response)
        if not discrete:
            table, response = count_once([table, response], stacklevel=CALLER)
        groups = self._given_groups(table)
        features = Features(table, groups)
        features = features if discrete else with_indicators(features)  # there a missing value is a level
        features = features if self.test is not None else with_distances(features)
        task = Task(features, response, discrete, self._options(table, groups), self)
        stability = self._stability_options(response.n_rows)
        names = tuple(" + ".join(table.names[j] for j in group) for group in groups)
        share = None if self.split is None else _check_share(self.split, "split")
        kept_rows, held_rows = split_rows(response, share, rng)
        found = task.find(kept_rows, rng)
        if stability is not None:
            self.stability_ = task.stability(names, stability, rng)
            found = replace(found, members=task.stable_members(self.stability_))
        if stability is not None or held_rows.size:
            found = task.test_members(found, held_rows if held_rows.size else np.arange(response.n_rows), rng)
        self.path_ = BlanketPath(
            found.decisions, found.members, names, "discrete" if task.discrete else "auto", task.options.alpha,
            kept_rows.size, len(names), found.n_tests,
        )  # fmt: skip
        self.n_tests_ = found.n_tests
        columns = [[j for j in group if j < n_columns] for group in features.groups]
        self.scores_ = spread_values(found.scores, columns, n_columns, 0.0)
        self.pvalues_ = spread_values(found.pvalues, columns, n_columns, np.nan)
        self.blanket_ = np.array([j for v in found.members for j in columns[v]], dtype=np.int64)
        self.support_ = np.zeros(n_columns, dtype=np.bool_)
        self.support_[self.blanket_] = True

    def _options(self, table: Table, groups: Sequence[Sequence[int]]) -> SearchOptions:
        alpha = _check_share(self.alpha, "alpha")
        check_flag(self.symmetric, "symmetric")
        check_flag(self.verbose, "verbose")
        limit = self.max_features
        if limit is not None:
            limit = check_integer(limit, "max_features", 1, len(table.names))
        cap = SCREEN_FEATURES
        if _is_flag(self.screen, False):
            cap = 0
        elif not (isinstance(self.screen, str) and self.screen == "auto"):
            if _is_flag(self.screen, True) or not isinstance(self.screen, numbers.Integral):
                raise TypeError(f"screen is {self.screen!r}; it must be 'auto', an integer or False.")
            cap = check_integer(self.screen, "screen", 1)
        if self.test is not None and not callable(self.test):
            raise TypeError(f"test is {self.test!r}; it must be a function of y, z and given.")
        always: list[int] = []
        for j in self._always_included(table):
            feature = next(v for v, group in enumerate(groups) if j in group)
            always += [feature] if feature not in always else []
        return SearchOptions(alpha, limit, cap, tuple(always), self.test, check_jobs(self.n_jobs))

    def _given_groups(self, table: Table) -> tuple[tuple[int, ...], ...]:
        """Every column in one group, groups by their first column."""
        given = list_of_columns(self.groups, "groups")
        if alone := [group for group in given if isinstance(group, (str, numbers.Integral))]:
            raise TypeError(f"groups holds {alone[0]!r}, which is no group; pass a list of lists of names or indices.")
        groups = [tuple(columns_by_name(list_of_columns(g, "groups"), table.names, "groups")) for g in given]
        named = [j for group in groups for j in group]
        if len(set(named)) < len(named):
            twice = next(j for j in named if named.count(j) > 1)
            raise ValueError(f"groups names column {table.names[twice]!r} in two groups; each may be in one.")
        if not all(groups):
            raise ValueError("groups holds an empty group; leave it out.")
        groups += [(j,) for j in range(len(table.names)) if j not in set(named)]
        return tuple(sorted(groups, key=min))

    def _always_included(self, table: Table) -> list[int]:
        return columns_by_name(list_of_columns(self.always_include, "always_include"), table.names, "always_include")

    def _discrete(self, table: Table, response: Table) -> bool:
        """Whether the search for discrete data applies."""
        plain = self.test is None and not list_of_columns(self.groups, "groups")
        return plain and all(
            nominal or few_whole_numbers(values, UNORDERED_LEVELS)
            for t in (response, table)
            for values, nominal in zip(t.columns, t.nominal, strict=True)
        )

    def _stability_options(self, n_rows: int) -> dict[str, Any] | None:
        if self.stability is None or _is_flag(self.stability, False):
            return None
        if self.split is not None:
            raise ValueError("stability and split are both given; each makes its own use of the rows, choose one.")
        options: Any = {} if _is_flag(self.stability, True) else self.stability
        if not isinstance(options, dict) or not set(options) <= {"n_subsamples", "threshold"}:
            raise ValueError(
                f"stability is {self.stability!r}; it must be True or a dict with n_subsamples and threshold."
            )
        if n_rows < MIN_ROWS:
            raise ValueError(
                f"stability is {self.stability!r} for {n_rows} rows; it selects in halves of them and needs at least "
                f"{MIN_ROWS}. Pass more rows, or stability=None."
            )
        return check_halves(options)

    # ----------------------------------------------------------------------- FOCI and L-FOCI
    def _select_forward(self, features: Table, response: Table) -> None:
        include = self._always_included(features)
        options = Options(
            method=self.method,
            max_features=self.max_features,
            stop=self.stop,
            standardize=self.standardize,
            include=include,
            n_neighbors=self.n_neighbors,
            nan_policy="raise",
            n_jobs=self.n_jobs,
            verbose=self.verbose,
            noise=check_positive(self.noise, "noise") if self.method == "lfoci" else 0.0,
            skip_constant=True,
            show=self._shown(partial(show_progress, self.method, self.verbose)),
        )
        path = select_features(features, response, options, generator_of(self.random_state))
        self.path_ = path
        self.blanket_ = np.concatenate([np.array(include, dtype=np.int64), path.order])
        self.support_ = np.zeros(len(features.names), dtype=np.bool_)
        self.support_[self.blanket_] = True
        self.scores_ = np.zeros(len(features.names))
        self.scores_[path.order] = path.conditional
        self.pvalues_ = np.full(len(features.names), np.nan)
        self.n_tests_ = 0

    # ----------------------------------------------------------------------- reading
    def _refuse_foreign_options(self) -> None:
        """An option of the other procedure would be ignored; say so instead."""
        foreign = FORWARD_ONLY if self.method == "auto" else AUTO_ONLY
        for name, default in foreign.items():
            value = getattr(self, name)
            if not any(_same(value, equivalent) for equivalent in (default, *SAME_AS_NONE.get(name, ()))):
                right = "'foci' or 'lfoci'" if self.method == "auto" else "'auto'"
                raise ValueError(f"{name} is {value!r}, but method is {self.method!r}; {name} belongs to {right}.")

    def _read(self, X: Any, y: Any) -> tuple[Table, Table]:
        """Both arguments in normal form; the attributes of the scikit-learn contract are set."""
        check_flag(self.allow_nan, "allow_nan")
        if X is None:
            raise ValueError("X is None; pass a table of shape (n_samples, n_features).")
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        refuse_foreign_frame(X, "X")
        refuse_series(X, "X")
        if hasattr(X, "dtypes"):  # a frame: its categories would be lost in an array
            refuse_equal_names(getattr(X, "columns", ()), "X")
            features = read_table(X, "X")
            validate_data(self, X, skip_check_array=True)
        else:
            # missing values are refused below, with the remedy
            X = validate_data(self, without_mask(X), dtype=None, ensure_all_finite="allow-nan")
            features = read_table(X, "X")
        response = read_response(y, self.nominal_y)
        refuse_missing(response)
        if self.method != "auto":
            return features, response
        warn_of_rare_classes(response, stacklevel=CALLER)
        present = replace(features, columns=np.nan_to_num(features.columns, nan=0.0, posinf=np.inf, neginf=-np.inf))
        drop_incomplete([response, present if self.allow_nan else features], "raise")
        check_spread(present)
        check_spread(response)
        refuse_constant(response)
        return features, response

    def _accepts_nan(self) -> bool:
        return bool(self.allow_nan) and self.method == "auto"

    def transform(self, X: Any) -> Any:
        """The selected columns of X.

        Parameters
        ----------
        X : array-like of shape (n, p)
            Columns as in fit.

        Returns
        -------
        ndarray of shape (n, n_selected) or DataFrame
            A frame after ``set_output``, with the types of X if X is a frame; else an array, of objects where a frame
            mixes numbers and categories; of a sparse matrix, or a frame of sparse columns whose fill value is 0, a sparse matrix.
        """
        refuse_foreign_frame(X, "X")
        refuse_equal_names(getattr(X, "columns", ()), "X")
        output = _get_output_config("transform", self)["dense"]
        if output == "polars" and is_polars(X):  # a pandas frame is kept by scikit-learn
            validate_data(self, X, reset=False, skip_check_array=True)
            return self._transform(X)
        if output == "pandas" and is_polars(X):
            X = as_frame(X, "X")
        if isinstance(X, pd.DataFrame) and output == "default":
            X = without_nullable(X)
        return super().transform(X)

    def inverse_transform(self, X: Any) -> Any:
        """The columns of X where they were before :meth:`transform`, beside columns of zeros.

        Parameters
        ----------
        X : array-like of shape (n, n_selected)
            What :meth:`transform` returned; values may be missing if ``allow_nan``.

        Returns
        -------
        ndarray of shape (n, p)
            Zeros stand for features that were not selected.
        """
        X = without_nullable(X) if isinstance(X, pd.DataFrame) else X
        if not self._accepts_nan():
            return super().inverse_transform(X)
        check_array(X, dtype=None, accept_sparse=True, ensure_all_finite="allow-nan")
        with config_context(assume_finite=True):  # it would refuse missing values
            return super().inverse_transform(X)

    def _get_support_mask(self) -> BoolArray:
        check_is_fitted(self)
        support: BoolArray = self.support_
        return support

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = self._accepts_nan()
        return tags


def generator_of(random_state: Any) -> np.random.Generator:
    """A Generator of any kind of random_state; an int or SeedSequence, which stays as it is, always gives the same."""
    if isinstance(random_state, np.random.RandomState):
        random_state = int(random_state.randint(2**31))
    return as_generator(random_state, "random_state")


def _is_flag(value: Any, flag: bool) -> bool:
    """Whether this is True, or False, as Python or numpy has it."""
    return isinstance(value, (bool, np.bool_)) and bool(value) is flag


def _same(value: Any, default: Any) -> bool:
    """Whether an option has this value; numpy's numbers and flags are those of Python."""
    value = value.item() if isinstance(value, np.generic) else value
    return value is default or (isinstance(value, (str, int, float, list, tuple)) and value == default)


def _check_share(value: Any, argument: str) -> float:
    share = check_positive(value, argument)
    if share >= 1.0:
        raise ValueError(f"{argument} is {value}; it must be below 1.")
    return share
