"""Linear models that forget: logistic and ridge regression with deletion, certificate and private release."""

from __future__ import annotations

import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from codec._validation import BoolArray, FloatArray, IntArray, check_integer, check_option, check_positive
from codec.unlearn._certificate import (
    Accountant,
    Certificate,
    Constants,
    certify,
    check_epsilon_delta,
    logistic_constants,
    ridge_constants,
    softmax_constants,
)
from codec.unlearn._convex import (
    MAX_BLOCKS_BYTES,
    Curvature,
    RidgeProblem,
    SoftmaxProblem,
    check_rows,
    minimize,
    newton_step,
    softmax,
)
from codec.unlearn._deletion import Deletion

MAX_DENSE = 10_000  # parameters whose dense inverse is kept: 400 MB in float32


class _RemovableLinear(BaseEstimator):
    """What both models share: requests, certificates, releases."""

    fit_intercept: bool
    coef_: Any
    intercept_: Any
    retained_: BoolArray
    deletions_: tuple[Deletion, ...]
    accountant_: Accountant
    certificate_: Certificate
    _problem: Any
    _fitted: dict[str, Any]  # parameters of the fit; set_params() is for the next one

    @abstractmethod
    def _constants(self) -> Constants:
        """Lipschitz constants on the training rows."""

    @abstractmethod
    def _gradient_norm(self) -> tuple[float, float]:
        """Norm of the gradient over the retained rows, and what rounding may hide of it."""

    @abstractmethod
    def _step(self) -> int:
        """One Newton step; returns the Hessian products it took."""

    @abstractmethod
    def _coordinates(self) -> FloatArray:
        """Present weights in the basis of the rows; distances are those of the weights themselves."""

    @abstractmethod
    def prepare(self) -> Self:
        """Make now what the first :meth:`forget` needs; returns self."""

    @abstractmethod
    def _remove(self, rows: IntArray) -> Any:
        """Take rows out of the problem; returns what :meth:`_restore` needs."""

    @abstractmethod
    def _restore(self, rows: IntArray, kept: Any) -> None:
        """Undo :meth:`_remove` and the steps after it."""

    def _settle(self) -> None:
        """Drop what only the request in hand needed."""

    @abstractmethod
    def _weights(self) -> FloatArray:
        """Weights in the caller's coordinates, one row per class or target, the intercept last."""

    @abstractmethod
    def _publish(self, weights: FloatArray) -> None:
        """Set ``coef_`` and ``intercept_``."""

    # ------------------------------------------------------------------ deletion
    def forget(self, rows: int | Sequence[int], *, steps: int | None = None) -> Deletion:
        """Forget training rows.

        Parameters
        ----------
        rows : int or sequence of int
            Positions in the X of :meth:`fit`. Each can be forgotten once.
        steps : int, optional
            Newton steps. Default: as many as the certificate needs to reach ``tolerance``.

        Returns
        -------
        Deletion
            With the certificate, the steps' cost and the distance the weights moved.

        Raises
        ------
        TypeError
            If ``rows`` are no integers.
        ValueError
            If a row is out of range, named twice or forgotten before, or if nothing, or nothing of a class,
            would remain. The model is as before.

        Warns
        -----
        ConvergenceWarning
            If the certificate does not reach ``tolerance``. The rows are forgotten and the request is in
            ``deletions_``, also where warnings are errors.
        """
        check_is_fitted(self)
        self._need_rows("forget")
        chosen = check_rows(rows, self.retained_)
        self._refuse(chosen)
        if steps is not None:
            check_integer(steps, "steps", 1)
        clock, before = [time.process_time()], self._coordinates()
        self.prepare()
        clock.append(time.process_time())
        kept = self._remove(chosen)
        try:
            taken, products = self._descend(steps)
            clock.append(time.process_time())
            certificate, weights = self._certify(taken), self._weights()
            moved = float(np.linalg.norm(self._coordinates() - before))
        except BaseException:
            self._restore(chosen, kept)
            raise
        self._settle()
        self._publish(weights)
        self.retained_[chosen] = False
        self.certificate_ = certificate
        deletion = Deletion(
            id=len(self.deletions_),
            forgotten=tuple(int(row) for row in chosen),
            method="newton",
            selector="all",
            accepted=True,
            reason=f"{taken} Newton step(s); distance to the retrained model <= {certificate.bound:.3g}",
            iterations=products,
            distance=moved,
            timings={"curvature": clock[1] - clock[0], "step": clock[2] - clock[1]},
            certificate=certificate,
        )
        self.deletions_ = (*self.deletions_, deletion)
        if steps is None:  # last: where warnings are errors it raises
            self._warn_if_far("forget")
        return deletion

    def _refuse(self, rows: IntArray) -> None:
        """Raise where the retrained model would be of another kind."""

    def _need_rows(self, what: str) -> None:
        if not hasattr(self, "_problem"):
            raise RuntimeError(
                f"cannot {what}: this is a released copy, which keeps no training data, so no bound holds for it; "
                f"{what} with the model that released it."
            )

    def _descend(self, steps: int | None) -> tuple[int, int]:
        """Newton steps until the bound is met, or a number of them; how many, and their products."""
        taken = products = 0
        goal = self._fitted["tolerance"] * self._problem.weight_decay
        while taken < (steps or self._fitted["max_iter"]):
            norm, rounding = self._gradient_norm()
            if steps is None and norm + rounding <= goal:
                break
            products += self._step()
            taken += 1
            if steps is None and not self._gradient_norm()[0] < norm:  # rounding
                break
        return taken, products

    def _certify(self, steps: int) -> Certificate:
        norm, rounding = self._gradient_norm()
        n = len(self.retained_)
        return certify(
            n,
            n - self._problem.n_retained,
            weight_decay=self._problem.weight_decay,
            gradient_norm=norm,
            rounding=rounding,
            constants=self._constants(),
            measured=(f"{steps} Newton step(s) in the last request",),
        )

    def _warn_if_far(self, what: str) -> None:
        """Tell that the certificate, rounding included, does not reach the tolerance."""
        bound, tolerance = self.certificate_.bound, self._fitted["tolerance"]
        if bound is None or bound > tolerance:
            found = "no bound is proved" if bound is None else f"the distance is proved to be at most {bound:.3g}"
            warnings.warn(
                f"{what} did not come within tolerance = {tolerance:.3g} of the minimiser, or cannot prove it: "
                f"{found}. Fit again with the columns of X scaled, or with more than max_iter = "
                f"{self._fitted['max_iter']}, weight_decay or tolerance.",
                ConvergenceWarning,
                stacklevel=3,
            )

    # ------------------------------------------------------------------ release
    def release(self, epsilon: float, delta: float, random_state: Any = None) -> Self:
        """A copy to publish: Gaussian noise on every coordinate, no training data.

        Parameters
        ----------
        epsilon, delta : float
            Whoever sees the copy can tell it from the release of a model fitted without the forgotten rows
            only as well as (epsilon, delta)-indistinguishability allows.
        random_state : int, SeedSequence, Generator or None, default None
            None draws from the operating system. Whoever knows a seed can take the noise off again. The same
            seed gives other noise at each release since :meth:`fit`, but the same noise after another fit or in
            another model: take another seed there. A SeedSequence is left as it is.

        Returns
        -------
        same class
            Fitted, with ``privacy_`` (a Release); it can neither forget nor release.

        Raises
        ------
        TypeError, ValueError
            If ``random_state`` is something else, or if epsilon or delta is out of range.
        RuntimeError
            If the bound does not reach ``tolerance``, which fixes the noise before the data are looked at.

        Notes
        -----
        The model and the one fitted without the forgotten rows both lie within ``tolerance`` of the same
        minimiser, so they are at most ``2 tolerance`` apart. ``accountant_`` adds the releases up. A copy
        released before a row was forgotten still carries that row.
        """
        check_is_fitted(self)
        self._need_rows("release")
        check_epsilon_delta(epsilon, delta)
        rng = self.accountant_.noise_source(random_state)
        self._reach_tolerance()
        privacy = self.accountant_.add(epsilon, delta, 2.0 * self._fitted["tolerance"])
        copy: Self = clone(self).set_params(**self._fitted)
        for name in ("n_features_in_", "feature_names_in_", "classes_", "_one_target", "_fitted"):
            if hasattr(self, name):
                setattr(copy, name, getattr(self, name))
        weights = self._weights()
        copy._publish(weights + privacy.sigma * rng.standard_normal(weights.shape))
        copy.privacy_ = privacy
        return copy

    def _reach_tolerance(self) -> None:
        taken, _ = self._descend(None)
        if taken:
            self._publish(self._weights())
            self.certificate_ = self._certify(taken)
        bound, tolerance = self.certificate_.bound, self._fitted["tolerance"]
        if bound is None or bound > tolerance:
            raise RuntimeError(
                f"cannot release: the distance to the retrained model is proved to be at most {bound:.3g}, but "
                f"tolerance = {tolerance:.3g} fixes the noise; fit with a larger tolerance, more max_iter "
                "or more weight_decay, or scale the columns of X."
            )

    # ------------------------------------------------------------------ scikit-learn
    def _with_intercept(self, X: FloatArray) -> FloatArray:
        return np.column_stack([X, np.ones(len(X))]) if self.fit_intercept else X

    def _start(self, problem: Any) -> None:
        self._problem, self._fitted = problem, self.get_params(deep=False)
        self.retained_, self._exact = np.ones(len(problem.rows), dtype=np.bool_), False
        self.deletions_ = ()
        self.accountant_ = Accountant()

    def _parts(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coefficients and intercepts."""
        if self._fitted["fit_intercept"]:
            return weights[:, :-1].copy(), weights[:, -1].copy()
        return weights, np.zeros(len(weights))

    def _scores(self, X: Any) -> FloatArray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(X @ np.atleast_2d(self.coef_).T + self.intercept_)


class RemovableLogisticRegression(ClassifierMixin, _RemovableLinear):
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
    The model keeps the training rows, as a rotated float64 copy; those of forgotten rows are overwritten.
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
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_[0]!r}; a classifier needs samples of two classes.")
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
                f"forgetting these rows leaves none of class {self.classes_[int(left.argmin())]!r}; a model "
                "retrained without them would not know that class: keep one of its rows, or fit again."
            )

    def _remove(self, rows: IntArray) -> Any:
        problem, before = self._problem, self._point
        self._exact = len(rows) > 1  # many rows change the Hessian: what is kept of it is then a preconditioner
        kept = (before, problem.rows[rows], problem.targets[:, rows])
        self._curvature.take_out(before, rows)
        self._point = problem.without(before, rows)
        problem.drop(rows)
        return kept

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
        return constants(self._problem.radius)

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


class RemovableRidge(MultiOutputMixin, RegressorMixin, _RemovableLinear):
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

    def _remove(self, rows: IntArray) -> Any:
        problem = self._problem
        kept = (self._V, problem.rows[rows], problem.targets[rows], problem.second.copy())
        problem.drop(rows)
        return kept

    def _restore(self, rows: IntArray, kept: Any) -> None:
        self._V, self._problem.rows[rows], self._problem.targets[rows], self._problem.second = kept
        self._problem.retained[rows] = 1.0

    def _step(self) -> int:
        self._V = self._problem.newton_step(self._V)
        return 0

    def _gradient_norm(self) -> tuple[float, float]:
        return float(np.linalg.norm(self._problem.gradient(self._V))), self._problem.rounding(self._V)

    def _constants(self) -> Constants:
        problem = self._problem
        return ridge_constants(problem.radius, max(problem.target_radius, 1e-300), problem.weight_decay)

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
