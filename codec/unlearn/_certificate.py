"""What is proved about a deletion, what is assumed, what is only measured; noise for release and its account.

Notation: S are the n training samples, U the m that are forgotten, R = S without U,
``f(w, z) = loss + weight_decay / 2 ||w||^2`` and F the mean of f. The minimisers of F_S and F_R are
``w_S`` and ``w_R``; ``w_R`` is the model retrained without U.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from types import NoneType
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from codec._validation import as_generator, check_amount, check_integer, check_positive

RELEASES = 0x52454C45  # keeps the noise's seeds apart from the children that the caller's SeedSequence spawns
CURVATURE_CHANGE = 1.0 / (6.0 * math.sqrt(3.0))  # max of p (1 - p) |1 - 2 p|, at p = 1/2 +- 1/sqrt(12)


# --------------------------------------------------------------------------- constants of a loss
@dataclass(frozen=True)
class Constants:
    """Lipschitz constants of a loss, and where they come from.

    Attributes
    ----------
    lipschitz : float
        L: every sample has ``||grad f(w_S, z)|| <= L``, its share of the regulariser included.
    hessian_lipschitz : float
        M: ``||hess f(v, z) - hess f(w, z)|| <= M ||v - w||`` for all v and w.
    source : str
        The assumption they rest on, in words.
    """

    lipschitz: float
    hessian_lipschitz: float
    source: str


def logistic_constants(radius: float) -> Constants:
    """Binary logistic regression: ``L = 2 radius`` and ``M = radius^3 / (6 sqrt(3))``.

    Parameters
    ----------
    radius : float
        Largest norm of a row, the intercept's 1 included.

    Notes
    -----
    With p the predicted probability, the gradient of the loss is ``(p - y) x``, at most ``radius``. At the
    minimiser, ``weight_decay w_S`` is the mean of these gradients with the other sign, so it is at most
    ``radius`` as well, and f has ``L = 2 radius``. The Hessian ``p (1 - p) x x^T`` changes along a direction
    u by ``p (1 - p)(1 - 2 p) (x^T u) x x^T``; the first three factors are at most ``1 / (6 sqrt(3))``.

    Examples
    --------
    >>> logistic_constants(1.0).lipschitz
    2.0
    """
    radius = check_positive(radius, "radius")
    source = f"logistic loss, every row has ||x|| <= {rounded_up(radius, 4)}"
    return Constants(2.0 * radius, CURVATURE_CHANGE * radius * radius * radius, source)


def softmax_constants(radius: float) -> Constants:
    """Multinomial: ``L = 2 sqrt(2) radius`` and ``M = sqrt(2) radius^3 / (3 sqrt(3))``.

    Parameters
    ----------
    radius : float
        Largest norm of a row, the intercept's 1 included.

    Notes
    -----
    The gradient ``(p - e_y) x^T`` has norm at most ``sqrt(2) radius``; the regulariser doubles it as in
    :func:`logistic_constants`. The third derivative of log-sum-exp along logits o is the third central
    moment of o under p. A symmetric trilinear form is largest on equal arguments (Banach 1938), and for
    ``||o|| = 1`` the values of o span at most ``sqrt(2)``. Given its mean, a third central moment is linear
    in the distribution, so it is largest on two points, where it is ``p (1 - p)(1 - 2 p) span^3``. Hence
    ``M = radius^3 2 sqrt(2) / (6 sqrt(3))``.

    Examples
    --------
    >>> round(softmax_constants(1.0).hessian_lipschitz, 4)
    0.2722
    """
    radius = check_positive(radius, "radius")
    steepest, source = 2.0 * math.sqrt(2.0), f"softmax loss, every row has ||x|| <= {rounded_up(radius, 4)}"
    return Constants(steepest * radius, steepest * CURVATURE_CHANGE * radius * radius * radius, source)


def ridge_constants(radius: float, target_radius: float, weight_decay: float) -> Constants:
    """Ridge regression, ``loss = ||W x - y||^2 / 2``: ``M = 0``, a Newton step is exact.

    Parameters
    ----------
    radius : float
        Largest norm of a row of X, the intercept's 1 included.
    target_radius : float
        Largest norm of a row of targets.
    weight_decay : float
        The regulariser's strength.

    Notes
    -----
    ``weight_decay / 2 ||w_S||^2 <= F_S(w_S) <= F_S(0) <= target_radius^2 / 2`` bounds the weights, these
    bound the residuals and so the gradients.
    """
    radius = check_positive(radius, "radius")
    target_radius = check_positive(target_radius, "target_radius")
    weight_decay = check_positive(weight_decay, "weight_decay")
    weights = target_radius / math.sqrt(weight_decay)
    lipschitz = radius * (radius * weights + target_radius) + weight_decay * weights
    norms = f"||x|| <= {rounded_up(radius, 4)}, ||y|| <= {rounded_up(target_radius, 4)}"
    return Constants(lipschitz, 0.0, f"squared loss, every row has {norms}")


# --------------------------------------------------------------------------- bounds
def moved_bound(constants: Constants, weight_decay: float, n: int, m: int, gradient_norm: float = 0.0) -> float:
    """How far the minimiser moves when m of n samples go: ``m L / (weight_decay (n - m))``.

    Parameters
    ----------
    constants : Constants
        Of the loss.
    weight_decay : float
        Strong convexity of f.
    n, m : int
        Samples in all, and those to forget.
    gradient_norm : float, default 0.0
        ``||grad F_S||`` at the trained model; 0 at its minimiser. It lengthens the bound to
        ``(n gradient_norm + m (L + gradient_norm)) / (weight_decay (n - m))``.

    References
    ----------
    .. [1] A. Sekhari, J. Acharya, G. Kamath, A. T. Suresh, "Remember what you want to forget: algorithms
       for machine unlearning", NeurIPS 2021, :arxiv:`2103.03279`, lemma 6.
    """
    weight_decay = check_positive(weight_decay, "weight_decay")
    m = check_integer(m, "m", 0, check_integer(n, "n", 1) - 1)
    # grad F_R = [n grad F_S - sum_U grad f] / (n - m); strong convexity turns it into a distance
    return (n * gradient_norm + m * (constants.lipschitz + gradient_norm)) / (weight_decay * (n - m))


def a_priori_bound(constants: Constants, weight_decay: float, n: int, m: int, gradient_norm: float = 0.0) -> float:
    """``gamma = M m^2 L^2 / (2 weight_decay^3 (n - m)^2)``: error of one exact Newton step on F_R.

    The arguments are those of :func:`moved_bound`. A Newton step on a ``weight_decay``-strongly convex function with
    M-Lipschitz Hessian ends within ``M / (2 weight_decay)`` times the squared distance it started from.

    Examples
    --------
    >>> round(a_priori_bound(logistic_constants(1.0), 0.1, n=1000, m=1), 9)
    0.000192836
    """
    moved = moved_bound(constants, weight_decay, n, m, gradient_norm)
    return constants.hessian_lipschitz * moved * moved / (2.0 * weight_decay)  # inf where it overflows, as ** does not


def a_posteriori_bound(gradient_norm: float, weight_decay: float, rounding: float = 0.0) -> float:
    """``||w - w_R|| <= ||grad F_R(w)|| / weight_decay``, whatever produced w.

    Parameters
    ----------
    gradient_norm : float
        Measured norm of the gradient over the retained samples, regulariser included.
    weight_decay : float
        Strong convexity of F_R.
    rounding : float, default 0.0
        Bound on what rounding may have hidden of the gradient.

    Examples
    --------
    >>> a_posteriori_bound(3e-6, weight_decay=0.5)
    6e-06
    """
    return (gradient_norm + rounding) / check_positive(weight_decay, "weight_decay")


# --------------------------------------------------------------------------- the printed block
@dataclass(frozen=True)
class Certificate:
    """What holds after a deletion.

    Attributes
    ----------
    kind : {'a posteriori', 'a priori', 'empirical'}
        Which bound is claimed; 'empirical': none.
    bound : float or None
        Proved Euclidean distance of the parameters w to those of the model retrained without the forgotten samples;
        'a posteriori' it is ``||grad F_R(w)|| / weight_decay``, F_R the objective of the retained samples.
    n, m : int
        Training samples before, and how many are forgotten.
    proved, assumed, measured : tuple of str
        The statements, a sentence each.

    Examples
    --------
    >>> import numpy as np
    >>> from codec.unlearn.linear import RemovableRidge
    >>> X = np.eye(3).repeat(8, axis=0)
    >>> print(RemovableRidge(0.1).fit(X, X[:, 0]).forget(3).certificate)
    Certificate (a posteriori): 1 of 24 samples forgotten
      proved    distance to the retrained model <= ... ((||grad F_R|| + rounding) / weight decay)
      assumed   the loss is convex in the weights, so F_R is strongly convex with 0.1
                squared loss, every row has ||x|| <= 1.415, ||y|| <= 1
      measured  ||grad F_R|| = ...
    """

    kind: str
    bound: float | None
    n: int
    m: int
    proved: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()

    def _parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        nothing = ("nothing: no bound on the distance to a retrained model is known here",)
        return (("proved", self.proved or nothing), ("assumed", self.assumed), ("measured", self.measured))

    def __str__(self) -> str:
        lines = [f"Certificate ({self.kind}): {self.m} of {self.n} samples forgotten"]
        for title, sentences in self._parts():
            for place, sentence in enumerate(sentences):
                lines.append(f"  {title if place == 0 else '':<9} {sentence}")
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """One row per statement: ``kind`` ('proved', 'assumed' or 'measured') and the sentence, ``statement``."""
        rows = [(title, sentence) for title, sentences in self._parts() for sentence in sentences]
        return pd.DataFrame(rows, columns=["kind", "statement"])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def certify(
    n: int,
    m: int,
    *,
    weight_decay: float,
    gradient_norm: float,
    rounding: float = 0.0,
    constants: Constants | None = None,
    assumed: Sequence[str] = (),
    measured: Sequence[str] = (),
) -> Certificate:
    """Certificate of kind 'a posteriori': convex loss, gradient measured at the model.

    Parameters
    ----------
    n, m : int
        Training samples before, and how many are forgotten.
    weight_decay : float
        Strong convexity of F_R; positive.
    gradient_norm : float
        ``||grad F_R||`` at the model.
    rounding : float, default 0.0
        What rounding may hide of it.
    constants : Constants, optional
        Of the loss: the certificate then says what was known beforehand.
    assumed, measured : sequence of str
        Further sentences on what is taken for granted, and on what was measured.
    """
    bound = a_posteriori_bound(gradient_norm, weight_decay, rounding)
    over = " (||grad F_R|| / weight decay)" if rounding == 0.0 else " ((||grad F_R|| + rounding) / weight decay)"
    taken = [f"the loss is convex in the weights, so F_R is strongly convex with {weight_decay:.3g}", *assumed]
    found = [f"||grad F_R|| = {gradient_norm:.3g}" + (f", rounding <= {rounded_up(rounding, 1)}" if rounding else "")]
    if constants is not None:
        prior = rounded_up(a_priori_bound(constants, weight_decay, n, m))
        taken.append(constants.source)
        found.append(f"known beforehand: one exact Newton step from the minimiser of F_S ends within {prior}")
    return Certificate(
        kind="a posteriori",
        bound=bound,
        n=n,
        m=m,
        proved=(f"distance to the retrained model <= {rounded_up(bound)}{over}",) if bound < math.inf else (),
        assumed=tuple(taken),
        measured=(*found, *measured),
    )


def rounded_up(bound: float, digits: int = 3) -> str:
    """So many digits that are not below the bound."""
    found = Context(prec=digits, rounding=ROUND_CEILING).create_decimal_from_float(bound * (1.0 - 1e-12))
    return f"{float(found):.{digits}g}"


def certify_newton(n: int, m: int, *, weight_decay: float, constants: Constants, gradient_norm: float) -> Certificate:
    """Certificate of kind 'a priori': of one exact Newton step, from constants alone.

    `gradient_norm` is ``||grad F_S||`` before the step; the other arguments are those of :func:`certify`.
    """
    bound = a_priori_bound(constants, weight_decay, n, m, gradient_norm)
    return Certificate(
        kind="a priori",
        bound=bound,
        n=n,
        m=m,
        proved=(f"distance to the retrained model <= {rounded_up(bound)} (M m^2 L^2 / (2 weight_decay^3 (n - m)^2))",),
        assumed=(
            f"the loss is convex in the weights, so F_R is strongly convex with {weight_decay:.3g}",
            constants.source,
            "the Newton step was solved exactly",
        ),
        measured=(f"||grad F_S|| = {gradient_norm:.3g} before the step",),
    )


def empirical(n: int, m: int, *, reason: str, measured: Sequence[str] = ()) -> Certificate:
    """The certificate of a model for which nothing is proved.

    `reason` says why there is no bound, `measured` what was measured instead.

    Examples
    --------
    >>> print(empirical(4000, 1, reason="the loss is not convex in the weights"))
    Certificate (empirical): 1 of 4000 samples forgotten
      proved    nothing: no bound on the distance to a retrained model is known here
      assumed   the loss is not convex in the weights
    """
    return Certificate("empirical", None, n, m, assumed=(reason,), measured=tuple(measured))


# --------------------------------------------------------------------------- the Gaussian mechanism
def check_epsilon_delta(epsilon: Any, delta: Any) -> tuple[float, float]:
    """A positive epsilon and a delta within (0, 1)."""
    epsilon, delta = check_positive(epsilon, "epsilon"), check_positive(delta, "delta")
    if epsilon < 1e-9:  # rounding takes the digits of the difference that is delta
        raise ValueError(f"epsilon is {epsilon}; it must be at least 1e-9, below which no noise can be computed.")
    if delta >= 1.0:
        raise ValueError(f"delta is {delta}; it must be below 1, and should be far below 1 / n_samples.")
    return epsilon, delta


def gaussian_delta(multiplier: float, epsilon: float) -> float:
    """Smallest delta for which noise of ``multiplier`` times the distance is (epsilon, delta)-close.

    With s the multiplier: ``Phi(1/(2 s) - epsilon s) - e^epsilon Phi(-1/(2 s) - epsilon s)`` [1]_.

    References
    ----------
    .. [1] B. Balle, Y.-X. Wang, "Improving the Gaussian mechanism for differential privacy: analytical
       calibration and optimal denoising", ICML 2018, :arxiv:`1805.06530`, theorem 8.
    """
    half, tail = 1.0 / (2.0 * multiplier), epsilon * multiplier
    above, below = special.log_ndtr(half - tail), epsilon + special.log_ndtr(-half - tail)
    # as exp(above) (1 - exp(below - above)): the difference of two small numbers keeps its digits
    return float(-math.exp(above) * math.expm1(min(below - above, 0.0)))


def gaussian_multiplier(epsilon: float, delta: float) -> float:
    """Least noise multiplier s of the analytic Gaussian mechanism.

    Parameters
    ----------
    epsilon, delta : float
        The guarantee.

    Returns
    -------
    float
        s with ``gaussian_delta(s, epsilon) == delta``; noise of standard deviation s times the distance
        makes two models that far apart (epsilon, delta)-indistinguishable.

    Examples
    --------
    >>> round(gaussian_multiplier(1.0, 1e-5), 2)  # the classical sqrt(2 log(1.25 / delta)) / epsilon is 4.84
    3.73
    """
    epsilon, delta = check_epsilon_delta(epsilon, delta)
    low, high = -1.0, 1.0
    while gaussian_delta(math.exp(low), epsilon) < delta:
        low -= 1.0
    while gaussian_delta(math.exp(high), epsilon) > delta:
        high += 1.0
    root = optimize.brentq(lambda t: gaussian_delta(math.exp(t), epsilon) - delta, low, high, xtol=1e-14, rtol=1e-14)
    return math.exp(float(root))


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    """Smallest epsilon that noise of ``multiplier`` times the distance gives at this delta.

    Examples
    --------
    >>> round(gaussian_epsilon(gaussian_multiplier(1.0, 1e-5), 1e-5), 6)
    1.0
    """
    multiplier = check_positive(multiplier, "multiplier")
    check_epsilon_delta(1.0, delta)
    if gaussian_delta(multiplier, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(multiplier, high) > delta:
        high *= 2.0
    return float(optimize.brentq(lambda e: gaussian_delta(multiplier, e) - delta, 0.0, high, xtol=1e-13, rtol=1e-13))


# --------------------------------------------------------------------------- several releases
def zcdp_epsilon(rho: float, delta: float) -> float:
    """Smallest known epsilon of a rho-zCDP mechanism at this delta.

    ``inf over a > 1 of a rho + log(1 / (a delta)) / (a - 1) + log(1 - 1/a)``, at least 0 [1]_.

    References
    ----------
    .. [1] C. L. Canonne, G. Kamath, T. Steinke, "The discrete Gaussian for differential privacy",
       NeurIPS 2020, :arxiv:`2004.00010`, corollary 13.

    Examples
    --------
    >>> round(zcdp_epsilon(0.1, 1e-6), 3)  # rho + 2 sqrt(rho log(1 / delta)) is 2.451
    2.142
    """
    check_epsilon_delta(1.0, delta)
    if rho == 0.0:
        return 0.0

    def epsilon(t: float) -> float:  # a = 1 + e^t
        a = 1.0 + math.exp(t)
        return a * rho - math.log(a * delta) / (a - 1.0) + math.log1p(-1.0 / a)

    guess = 0.5 * math.log(math.log(1.0 / delta) / rho)  # where rho + 2 sqrt(rho log(1/delta)) is reached
    found = optimize.minimize_scalar(epsilon, bounds=(guess - 5.0, guess + 5.0), options={"xatol": 1e-10})
    return max(0.0, float(found.fun))


@dataclass(frozen=True)
class Release:
    """One published copy: how far two models may be apart, and the noise that was added."""

    sensitivity: float
    sigma: float
    epsilon: float
    delta: float

    @property
    def rho(self) -> float:
        """Of one Gaussian release, in zCDP: ``sensitivity^2 / (2 sigma^2)``."""
        return self.sensitivity**2 / (2.0 * self.sigma**2)


class Accountant:
    """Privacy spent by several releases of one model; entries can only be added.

    Notes
    -----
    Gaussian releases of ``rho_i``-zCDP compose to ``sum rho_i``, also when later ones depend on earlier ones
    [1]_. Composed Gaussians are again as far apart as one Gaussian with ``multiplier = 1 / sqrt(2 rho)``
    [2]_, which :meth:`epsilon` uses: it is exact and never above :func:`zcdp_epsilon`.

    References
    ----------
    .. [1] M. Bun, T. Steinke, "Concentrated differential privacy: simplifications, extensions, and lower
       bounds", TCC 2016, :arxiv:`1605.02065`.
    .. [2] J. Dong, A. Roth, W. J. Su, "Gaussian differential privacy", JRSS B 84, 2022, :arxiv:`1905.02383`,
       corollary 3.3.

    Examples
    --------
    >>> accountant = Accountant()
    >>> _ = accountant.add(1.0, 1e-5, sensitivity=0.01)
    >>> _ = accountant.add(1.0, 1e-5, sensitivity=0.01)
    >>> round(accountant.epsilon(1e-5), 3), round(accountant.zcdp_epsilon(1e-5), 3)
    (1.465, 1.596)
    """

    def __init__(self, releases: Sequence[Release] = ()) -> None:
        self._releases = list(releases)

    @property
    def releases(self) -> tuple[Release, ...]:
        """Every release so far, in order."""
        return tuple(self._releases)

    @property
    def rho(self) -> float:
        """Total zCDP."""
        return math.fsum(release.rho for release in self._releases)

    def add(self, epsilon: float, delta: float, sensitivity: float) -> Release:
        """Enter a release; returns it with the noise it needs (``sigma``)."""
        sensitivity = check_positive(sensitivity, "sensitivity")
        sigma = sensitivity * gaussian_multiplier(epsilon, delta)
        self._releases.append(Release(sensitivity, sigma, float(epsilon), float(delta)))
        return self._releases[-1]

    def noise_source(self, random_state: Any) -> np.random.Generator:
        """Source of the next release's noise: its number is part of the seed, so that no two releases share noise.

        It has all bits of a seed, or 128 that a Generator draws; a SeedSequence stays as it is.
        """
        if isinstance(random_state, np.random.Generator):
            random_state = int.from_bytes(random_state.bytes(16), "little")
        if not isinstance(random_state, (np.random.SeedSequence, int, np.integer, NoneType)) or random_state is True:
            raise TypeError(
                f"random_state is {random_state!r}; pass None, an int from 0 on, a SeedSequence or a Generator."
            )
        seed: Any = as_generator(random_state, "random_state").bit_generator.seed_seq
        key = (*seed.spawn_key, RELEASES, len(self._releases))
        return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=key, pool_size=seed.pool_size))

    def epsilon(self, delta: float) -> float:
        """Exact epsilon of all releases together at this delta."""
        return gaussian_epsilon(1.0 / math.sqrt(2.0 * self.rho), delta) if self._releases else 0.0

    def zcdp_epsilon(self, delta: float) -> float:
        """Epsilon of all releases together by :func:`zcdp_epsilon`."""
        return zcdp_epsilon(self.rho, delta)

    def to_frame(self) -> pd.DataFrame:
        """One row per release."""
        rows = [(r.sensitivity, r.sigma, r.epsilon, r.delta, r.rho) for r in self._releases]
        return pd.DataFrame(rows, columns=["sensitivity", "sigma", "epsilon", "delta", "rho"], dtype=float)

    def to_json(self) -> str:
        """State as text; floats keep every digit."""
        return json.dumps([vars(release) for release in self._releases])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Accountant with the releases of :meth:`to_json`."""
        return cls([Release(**entry) for entry in json.loads(text)])


# --------------------------------------------------------------------------- audit
def audited_epsilon(
    n_false_positives: int,
    n_negatives: int,
    n_false_negatives: int,
    n_positives: int,
    delta: float,
    confidence_level: float = 0.95,
) -> float:
    """Lower confidence bound on epsilon from the errors of one fixed attack.

    Parameters
    ----------
    n_false_positives, n_negatives : int
        Models without the sample that the attack took for models with it, of how many.
    n_false_negatives, n_positives : int
        Models with the sample (forgotten later) that the attack missed, of how many.
    delta : float
        At least 0 and below 1.
    confidence_level : float, default 0.95
        Of the bound, in (0, 1).

    Returns
    -------
    float
        At least 0. An epsilon that is claimed but lies below it is refuted.

    Raises
    ------
    ValueError
        A count outside 0 to its total, no models, or a delta or ``confidence_level`` out of range.

    Notes
    -----
    (epsilon, delta)-closeness implies ``FPR + e^epsilon FNR >= 1 - delta`` and the same with FPR and FNR
    exchanged. Both rates are replaced by their exact (Clopper-Pearson) upper limits, each at half the error.

    References
    ----------
    .. [1] P. Kairouz, S. Oh, P. Viswanath, "The composition theorem for differential privacy", ICML 2015.
    .. [2] M. Jagielski, J. Ullman, A. Oprea, "Auditing differentially private machine learning", NeurIPS 2020.

    Examples
    --------
    >>> from codec.unlearn.evaluate import audited_epsilon
    >>> round(audited_epsilon(0, 100, 0, 100, delta=0.0), 3)
    3.281
    """
    if not check_amount(delta, "delta") < 1.0:
        raise ValueError(f"delta is {delta!r}; it must lie within [0, 1).")
    if not 0.0 < check_amount(confidence_level, "confidence_level") < 1.0:
        raise ValueError(f"confidence_level is {confidence_level!r}; it must lie within (0, 1).")
    error = (1.0 - confidence_level) / 2.0
    fpr = _upper_limit(n_false_positives, n_negatives, "n_false_positives", error)
    fnr = _upper_limit(n_false_negatives, n_positives, "n_false_negatives", error)
    ratios = ((1.0 - delta - fpr) / fnr, (1.0 - delta - fnr) / fpr)
    return max(0.0, math.log(max(*ratios, 1.0)))


def _upper_limit(count: int, total: int, argument: str, error: float) -> float:
    """Clopper-Pearson: the rate at which so few errors have probability ``error``."""
    total = check_integer(total, "number of models", 1)
    count = check_integer(count, argument, 0, total)
    return 1.0 if count == total else float(stats.beta.isf(error, count + 1, total - count))
