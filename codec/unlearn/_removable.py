"""What linear models that forget share: requests, certificates, releases."""

from __future__ import annotations

import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from codec._validation import BoolArray, FloatArray, IntArray, check_integer
from codec.unlearn._certificate import Accountant, Certificate, Constants, certify, check_epsilon_delta, rounded_up
from codec.unlearn._convex import check_rows
from codec.unlearn._deletion import Deletion


class RemovableLinear(BaseEstimator):
    """Requests, certificates and releases of either model."""

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
    def _kept(self, rows: IntArray) -> Any:
        """What :meth:`_restore` needs once the rows are gone."""

    @abstractmethod
    def _remove(self, rows: IntArray) -> None:
        """Take rows out of the problem."""

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
        rows : int, sequence or set of int, or boolean mask of shape (n_samples,)
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
            If the certificate does not reach ``tolerance``; the request is done, also where warnings are errors.
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
        kept = self._kept(chosen)
        try:
            self._remove(chosen)
            taken, products = self._descend(steps)
            clock.append(time.process_time())
            certificate, weights = self._certify(taken), self._weights()
            moved = float(np.linalg.norm(self._coordinates() - before))
        except BaseException:
            self._restore(chosen, kept)
            raise
        bound = math.nan if certificate.bound is None else certificate.bound
        self._settle()
        self._publish(weights)
        self.retained_[chosen] = False
        self.certificate_ = certificate
        deletion = Deletion(
            id=len(self.deletions_) + 1,
            forgotten=tuple(int(row) for row in chosen),
            method="newton",
            selector="all",
            accepted=True,
            reason=f"{taken} Newton step(s); distance to the retrained model <= {rounded_up(bound)}",
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
        before, (norm, rounding) = math.inf, self._gradient_norm()
        while taken < (steps or self._fitted["max_iter"]):
            if steps is None and (
                norm + rounding <= goal or not norm < before
            ):  # there, or as near as rounding lets it
                break
            products, taken = products + self._step(), taken + 1
            before, (norm, rounding) = norm, self._gradient_norm()
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
        if fault := self._fault():
            warnings.warn(
                f"{what} did not come within tolerance = {self._fitted['tolerance']:.3g} of the minimiser, or cannot "
                f"prove it: {fault}. Fit again with the columns of X scaled, or with more than max_iter = "
                f"{self._fitted['max_iter']}, weight_decay or tolerance.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _fault(self) -> str:
        """What is proved where that is not the tolerance; else nothing."""
        bound = self.certificate_.bound
        if bound is None:
            return "no bound is proved"
        far = not bound <= self._fitted["tolerance"]
        return f"the distance to the retrained model is proved to be at most {rounded_up(bound)}" if far else ""

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
        if fault := self._fault():
            raise RuntimeError(
                f"cannot release: {fault}, but tolerance = {self._fitted['tolerance']:.3g} fixes the noise; fit with a "
                "larger tolerance, more max_iter or more weight_decay, or scale the columns of X."
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
