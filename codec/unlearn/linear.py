"""Linear models that forget: logistic and ridge regression with deletion, certificate and private release."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from codec._validation import FloatArray, IntArray, check_integer, check_option, check_positive
from codec.unlearn._certificate import (
    Constants,
    logistic_constants,
    ridge_constants,
    softmax_constants,
)
from codec.unlearn._convex import (
    MAX_BLOCKS_BYTES,
    Curvature,
    RidgeProblem,
    SoftmaxProblem,
    minimize,
    newton_step,
    softmax,
)
from codec.unlearn._removable import RemovableLinear

MAX_DENSE = 10_000  # parameters whose dense inverse is kept: 400 MB in float32
TINY = 1e-150  # least norm of a row: squares of smaller numbers are zero


class RemovableLogisticRegression(ClassifierMixin, RemovableLinear):
    """Logistic regression, binary or multinomial, that forgets training rows.

    Minimises the mean cross-entropy plus ``weight_decay / 2`` times the squared weights, the intercept
    included: strong convexity in every weight is what the certificate rests on.

    Parameters
    ----------
    weight_decay : float, default 0.01
        Strength of the regulariser.
    fit_intercept : bool, default True
        Whether to add an intercept.
    tolerance : float, default 1e-4
        Proved distance to the exact minimiser that :meth:`fit` and :meth:`forget` aim at; it also fixes the
        noise of :meth:`release`.
    solver : {'auto', 'dense', 'cg'}, default 'auto'
        How :meth:`forget` solves: with the dense inverse of one Hessian, less the row's own curvature (up to 10,000
        parameters in 'auto'), or by conjugate gradients with class blocks as preconditioner.
    max_iter : int, default 100
        Most Newton steps.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Weights.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts.
    classes_ : ndarray
        Class labels.
    retained_ : ndarray of shape (n_samples,), bool
        Rows that have not been forgotten.
    certificate_ : Certificate
        What is proved about the present weights.
    deletions_ : tuple of Deletion
        Every request so far.
    accountant_ : Accountant
        Every release so far.
    n_iter_ : int
        Newton steps of :meth:`fit`.
    n_features_in_, feature_names_in_
        Number of columns seen in :meth:`fit`, and their names where all are strings.

    Notes
    -----
    The model keeps the training rows, as a rotated float64 copy; those of forgotten rows are overwritten. The inverse that
    requests share belongs to all rows of the fit: it could tell a forgotten one, and stays in memory alone, never in a
    pickle or copy of the model. Where there are more columns than rows the rotation is into the span of all rows of the
    fit. What goes to others is :meth:`release`, which has neither.
    Parameters that are set after :meth:`fit` count from the next fit on: requests, certificates and releases go
    by those of the fit.

    References
    ----------
    .. [1] C. Guo, T. Goldstein, A. Hannun, L. van der Maaten, "Certified data removal from machine learning
       models", ICML 2020, :arxiv:`1911.03030`.
    .. [2] A. Sekhari et al., "Remember what you want to forget", NeurIPS 2021, :arxiv:`2103.03279`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from codec.unlearn.linear import RemovableLogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = RemovableLogisticRegression().fit(X, y)
    >>> deletion = model.forget([3, 77])
    >>> deletion.certificate.bound < 1e-4
    True
    >>> public = model.release(epsilon=1.0, delta=1e-5)
    >>> bool(public.score(X, y) > 0.9)
    True
    """

    def __init__(
        self,
        weight_decay: float = 0.01,
        *,
        fit_intercept: bool = True,
        tolerance: float = 1e-4,
        solver: str = "auto",
        max_iter: int = 100,
    ) -> None:
        self.weight_decay = weight_decay
        self.fit_intercept = fit_intercept
        self.tolerance = tolerance
        self.solver = solver
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to the exact minimiser, within ``tolerance``.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, n_features) and (n_samples,)
            Training rows and their classes.
        """
        weight_decay = check_positive(self.weight_decay, "weight_decay")
        tolerance = check_positive(self.tolerance, "tolerance")
        check_option(self.solver, "solver", ("auto", "dense", "cg"))
        max_iter = check_integer(self.max_iter, "max_iter", 1)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only, {classes.tolist()[0]!r}; a classifier needs samples of two classes."
            )
        self.classes_ = classes
        self._start(SoftmaxProblem(self._with_intercept(X), labels, len(self.classes_), weight_decay))
        self._curvature = Curvature(self._problem, self._kind())
        self._point, steps = minimize(self._problem, 0.1 * tolerance * weight_decay, max_iter)
        self.n_iter_ = max(steps, 1)
        self._publish(self._weights())
        self.certificate_ = self._certify(steps)
        self._warn_if_far("fit")
        return self

    def _kind(self) -> str:
        size, r = math.prod(self._problem.shape), self._problem.shape[1]
        if self.solver == "dense" or (self.solver == "auto" and size <= MAX_DENSE):
            return "dense"
        return "blocks" if 8 * size * r <= MAX_BLOCKS_BYTES else "kfac"

    def prepare(self) -> Self:
        """Make now the inverse or preconditioner that :meth:`forget` keeps; returns self."""
        check_is_fitted(self)
        self._need_rows("prepare")
        self._curvature.make(self._point)  # at the Hessian of all rows, which many deletions share
        return self

    def _refuse(self, rows: IntArray) -> None:
        left = self._problem.class_counts() - self._problem.targets[:, rows].sum(axis=1)
        if left.min() == 0:
            raise ValueError(
                f"forgetting these rows leaves none of class {self._name(int(left.argmin()))}; a model "
                "retrained without them would not know that class: keep one of its rows, or fit again."
            )

    def _name(self, k: int) -> str:
        return repr(self.classes_[k : k + 1].tolist()[0])

    def _kept(self, rows: IntArray) -> Any:
        return self._point, self._problem.rows[rows], self._problem.targets[:, rows]

    def _remove(self, rows: IntArray) -> None:
        problem, before = self._problem, self._point
        self._exact = len(rows) > 1  # many rows change the Hessian: what is kept of it is then a preconditioner
        self._curvature.take_out(before, rows)
        self._point = problem.without(before, rows)
        problem.drop(rows)

    def _restore(self, rows: IntArray, kept: Any) -> None:
        self._point, self._problem.rows[rows], self._problem.targets[:, rows] = kept
        self._problem.retained[rows] = 1.0
        self._settle()

    def _settle(self) -> None:
        self._curvature.settle()

    def _coordinates(self) -> FloatArray:
        return self._point.V

    def _step(self) -> int:
        self._point, products = newton_step(self._curvature, self._point, exact=self._exact)
        return products

    def _gradient_norm(self) -> tuple[float, float]:
        return self._point.norm, self._problem.rounding(self._point)

    def _constants(self) -> Constants:
        constants = logistic_constants if len(self.classes_) == 2 else softmax_constants
        return constants(max(self._problem.radius, TINY))

    def _weights(self) -> FloatArray:
        problem, point = self._problem, self._point
        contrasts = problem.contrasts[1:] if len(self.classes_) == 2 else problem.contrasts
        return np.asarray(contrasts @ problem.span.back(point.V))

    def _publish(self, weights: FloatArray) -> None:
        self.coef_, self.intercept_ = self._parts(weights)

    def decision_function(self, X: Any) -> FloatArray:
        """Logits, (n,) of the second class for two classes, (n, n_classes) otherwise."""
        scores = self._scores(X)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> FloatArray:
        """Probabilities of the classes, (n, n_classes)."""
        scores = self._scores(X)
        if len(self.classes_) == 2:
            scores = np.column_stack([np.zeros(len(scores)), scores])
        return softmax(scores.T.copy()).T

    def predict_log_proba(self, X: Any) -> FloatArray:
        """Logarithms of :meth:`predict_proba`."""
        return np.asarray(np.log(self.predict_proba(X)))

    def predict(self, X: Any) -> Any:
        """The most probable class of each row."""
        scores = self._scores(X)
        chosen = (scores[:, 0] > 0.0).astype(np.int64) if len(self.classes_) == 2 else scores.argmax(axis=1)
        return self.classes_[chosen]


class RemovableRidge(MultiOutputMixin, RegressorMixin, RemovableLinear):
    """Ridge regression, one target or several, that forgets training rows exactly.

    Minimises the mean of half the squared residuals plus ``weight_decay / 2`` times the squared weights,
    the intercept included. The loss is quadratic: one Newton step on the downdated second moment is the
    retrained model.

    Parameters
    ----------
    weight_decay : float, default 0.01
        Strength of the regulariser; scikit-learn's ``Ridge(alpha)`` has ``alpha = n weight_decay``.
    fit_intercept : bool, default True
        Whether to add an intercept.
    tolerance : float, default 1e-4
        Proved distance to the exact minimiser; it also fixes the noise of :meth:`release`.
    max_iter : int, default 5
        Most Newton steps; more than one only takes back what rounding left.

    Attributes
    ----------
    coef_, intercept_
        Weights, (n_features,) or (n_targets, n_features), and intercepts, a float or (n_targets,).
    retained_, certificate_, deletions_, accountant_, n_iter_, n_features_in_, feature_names_in_
        As in :class:`RemovableLogisticRegression`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from codec.unlearn.linear import RemovableRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = RemovableRidge(1e-4).fit(X, y)
    >>> deletion = model.forget(range(10))
    >>> deletion.certificate.bound < 1e-4
    True
    """

    def __init__(
        self,
        weight_decay: float = 0.01,
        *,
        fit_intercept: bool = True,
        tolerance: float = 1e-4,
        max_iter: int = 5,
    ) -> None:
        self.weight_decay = weight_decay
        self.fit_intercept = fit_intercept
        self.tolerance = tolerance
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to the exact minimiser.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, n_features) and (n_samples,) or (n_samples, n_targets)
            Training rows and their responses.
        """
        weight_decay = check_positive(self.weight_decay, "weight_decay")
        check_positive(self.tolerance, "tolerance")
        check_integer(self.max_iter, "max_iter", 1)
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        targets = np.asarray(y, dtype=np.float64)
        self._one_target = targets.ndim == 1
        targets = targets.reshape(len(X), -1)
        self._start(RidgeProblem(self._with_intercept(X), targets, weight_decay))
        self._V = np.zeros((targets.shape[1], self._problem.rows.shape[1]))
        steps, _ = self._descend(None)
        self.n_iter_ = max(steps, 1)
        self._publish(self._weights())
        self.certificate_ = self._certify(steps)
        self._warn_if_far("fit")
        return self

    def prepare(self) -> Self:
        """Nothing: the second moment is there since :meth:`fit`."""
        return self

    def _coordinates(self) -> FloatArray:
        return self._V

    def _kept(self, rows: IntArray) -> Any:
        problem = self._problem
        return self._V, problem.rows[rows], problem.targets[rows], problem.second.copy(), problem.summed

    def _remove(self, rows: IntArray) -> None:
        self._problem.drop(rows)

    def _restore(self, rows: IntArray, kept: Any) -> None:
        problem = self._problem
        self._V, problem.rows[rows], problem.targets[rows], problem.second, problem.summed = kept
        problem.retained[rows] = 1.0

    def _step(self) -> int:
        self._V = self._problem.newton_step(self._V)
        return 0

    def _gradient_norm(self) -> tuple[float, float]:
        return float(np.linalg.norm(self._problem.gradient(self._V))), self._problem.rounding(self._V)

    def _constants(self) -> Constants:
        problem = self._problem
        return ridge_constants(max(problem.radius, TINY), max(problem.target_radius, TINY), problem.weight_decay)

    def _weights(self) -> FloatArray:
        return np.asarray(self._problem.span.back(self._V))

    def _publish(self, weights: FloatArray) -> None:
        coef, intercept = self._parts(weights)
        self.coef_ = coef[0] if self._one_target else coef
        self.intercept_ = float(intercept[0]) if self._one_target else intercept

    def predict(self, X: Any) -> FloatArray:
        """Predicted responses, (n,) or (n, n_targets) as in :meth:`fit`."""
        scores = self._scores(X)
        return scores[:, 0] if self._one_target else scores

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
