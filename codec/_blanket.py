"""Markov blankets: the scikit-learn selector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from codec._dependence import NominalY, read_response
from codec._selection import Options, select_features
from codec._validation import (
    BoolArray,
    Standardize,
    Table,
    as_generator,
    check_option,
    check_positive,
    columns_by_name,
    read_table,
)


class MarkovBlanketSelector(SelectorMixin, BaseEstimator):
    """Select the features that carry information on y.

    Parameters
    ----------
    method : {'foci', 'lfoci'}, default 'foci'
        Forward selection with the conditional dependence coefficient, exact or after small noise.
    max_features : int, optional
        Most features to select, those of ``include`` not counted. Default: no limit.
    stop : bool, default True
        Stop when no feature raises T; False selects ``max_features`` features.
    standardize : {'scale', 'bounded', 'rank', None}, default 'scale'
        As in :func:`codec.foci`.
    include : iterable of str or int, optional
        Features that are always selected, by name or index.
    n_neighbors : int, default 1
        K neighbours instead of the nearest, as in :func:`codec.codec`.
    noise : float, default 1e-3
        Size of the noise of ``method='lfoci'``, as in :func:`codec.lcodec`.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order; text and unordered categoricals always have.
    n_jobs : int, optional
        Threads over the candidates, or any backend of :func:`joblib.parallel_config`.
    random_state : int, SeedSequence, Generator, RandomState or None, default None
        Seed of ``method='lfoci'``.
    verbose : bool, default False
        Show progress on stderr.

    Attributes
    ----------
    support_ : ndarray of shape (n_features_in_,), bool
        The selected features.
    blanket_ : ndarray of int
        Their columns in order of entry, those of ``include`` first.
    scores_ : ndarray of shape (n_features_in_,)
        T(y, feature | selected before it) at entry; 0 for features that did not enter.
    path_ : SelectionPath
        Every step.
    n_features_in_ : int
        Columns seen in fit.
    feature_names_in_ : ndarray of str
        Their names, when X has names that are all strings.

    See Also
    --------
    codec.foci : the same as a function.

    Notes
    -----
    Constant columns carry no information and are never selected. Missing values are refused: impute
    them in the pipeline.

    References
    ----------
    .. [1] M. Azadkia, S. Chatterjee, "A simple measure of conditional dependence", Annals of Statistics
       49(6), 3070-3102, 2021, :doi:`10.1214/21-AOS2073`.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from codec import MarkovBlanketSelector
    >>> X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    >>> MarkovBlanketSelector(max_features=2).fit(X, y).get_feature_names_out().tolist()
    ['area error', 'worst concave points']
    """

    def __init__(
        self,
        method: str = "foci",
        *,
        max_features: int | None = None,
        stop: bool = True,
        standardize: Standardize = "scale",
        include: Iterable[str | int] | None = None,
        n_neighbors: int = 1,
        noise: float = 1e-3,
        nominal_y: NominalY = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.max_features = max_features
        self.stop = stop
        self.standardize = standardize
        self.include = include
        self.n_neighbors = n_neighbors
        self.noise = noise
        self.nominal_y = nominal_y
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

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
        check_option(self.method, "method", ("foci", "lfoci"))
        features, response = self._read(X, y)
        options = Options(
            method=self.method,
            max_features=self.max_features,
            stop=self.stop,
            standardize=self.standardize,
            include=self.include,
            n_neighbors=self.n_neighbors,
            nan_policy="raise",
            n_jobs=self.n_jobs,
            verbose=self.verbose,
            noise=check_positive(self.noise, "noise") if self.method == "lfoci" else 0.0,
            skip_constant=True,
        )
        self.path_ = select_features(features, response, options, self._generator())
        include = columns_by_name(self.include or [], features.names, "include")
        self.blanket_ = np.concatenate([np.array(include, dtype=np.int64), self.path_.order])
        self.support_ = np.zeros(len(features.names), dtype=np.bool_)
        self.support_[self.blanket_] = True
        self.scores_ = np.zeros(len(features.names))
        self.scores_[self.path_.order] = self.path_.conditional
        return self

    def _read(self, X: Any, y: Any) -> tuple[Table, Table]:
        """Both arguments in normal form; the attributes of the scikit-learn contract are set."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if hasattr(X, "dtypes"):  # a frame: its categories would be lost in an array
            features = read_table(X, "X")
            validate_data(self, X, skip_check_array=True)
        else:
            X = validate_data(self, X, dtype=None)
            features = read_table(X, "X")
        return features, read_response(y, self.nominal_y)

    def _generator(self) -> np.random.Generator:
        """A Generator of any kind of random_state; an int gives the same one at every fit."""
        state = self.random_state
        if isinstance(state, np.random.RandomState):
            state = int(state.randint(2**31))
        return as_generator(state, "random_state")

    def _get_support_mask(self) -> BoolArray:
        check_is_fitted(self)
        support: BoolArray = self.support_
        return support

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags
