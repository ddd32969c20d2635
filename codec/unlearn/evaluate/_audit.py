"""Telling unlearned from retrained models by the outputs of many of each.

A bank is an array of shape (n_models, n_samples): the logit-scaled confidence of every model in the label of every
forgotten sample (`logit_confidence`). Rows are models trained from different seeds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, rel_entr
from scipy.stats import norm

from codec._validation import check_amount, check_option
from codec.unlearn._certificate import audited_epsilon
from codec.unlearn._training import check_share
from codec.unlearn.evaluate._metrics import Array, as_array

DELTA = 1e-5
TINY = 1e-30  # added to standard deviations, as in the code of Carlini et al.
POOLED_BELOW = 64  # models; a variance of its own for every sample needs more
CAP = 50.0  # of epsilon, in the released code of the competition
PER_UNIT = 100  # thresholds, there
MOST = 10**6  # thresholds; beyond, one between any two values is as good
BUFFER = 2.0  # around the ends of an interval, there
BUCKET = 0.5  # of epsilon, there
BINS, FLOOR, CLIP = 20, 1e-5, 100.0  # in the released code of KLoM


# --------------------------------------------------------------------------- likelihood ratios
def lira(observed: ArrayLike, members: ArrayLike | None, nonmembers: ArrayLike, *, variance: str = "auto") -> Array:
    """Likelihood ratio attack: log likelihood ratio that the observed model was trained on each sample.

    ``log Lambda = log N(phi; mu_in, sigma_in^2) - log N(phi; mu_out, sigma_out^2)``, each normal distribution fitted
    to the shadow models trained with and without the sample [1]_. Offline, without shadow models that were trained
    on the samples: ``Lambda = 1 - P(Z > phi)``, ``Z ~ N(mu_out, sigma_out^2)``.

    Parameters
    ----------
    observed : array-like of shape (n_samples,) or (n_observed, n_samples)
        Logit-scaled confidences of the models under attack, see :func:`logit_confidence`.
    members : array-like of shape (n_models, n_samples) or None
        Those of shadow models trained on the samples, 2 or more; None: the offline attack.
    nonmembers : array-like of shape (n_models, n_samples)
        Those of shadow models that never saw them, 2 or more.
    variance : {'auto', 'sample', 'pooled'}, default 'auto'
        A variance for every sample, or the mean of these for all, which few models need; 'auto': one for all where
        the smaller bank has fewer than 64 models. Both banks are fitted alike.

    Returns
    -------
    ndarray of the shape of ``observed``
        In nats, larger for likely members; offline: in [0, 1].

    Raises
    ------
    ValueError
        A bank of another shape or with too few models, values that are not finite (of the model under attack, too),
        different samples, or an unknown ``variance``.

    References
    ----------
    .. [1] Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First Principles", IEEE
       S&P 2022, algorithm 1, :arxiv:`2112.03570`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import lira
    >>> lira([1.0], [[0.0], [2.0]], [[-2.0], [0.0]]).round(6).tolist()
    [2.0]
    """
    out = _bank(nonmembers, "nonmembers")
    seen = as_array(observed, "observed")
    if seen.ndim not in (1, 2) or seen.shape[-1] != out.shape[1]:
        raise ValueError(f"observed has shape {seen.shape}; its last axis must be the {out.shape[1]} samples.")
    if not np.isfinite(seen).all():
        raise ValueError(
            "observed holds values that are not finite; a class that is masked leaves no confidence to judge."
        )
    inside = None if members is None else _bank(members, "members")
    variance = _resolved(variance, out if inside is None else inside, out)
    if inside is None:
        return np.asarray(norm.cdf(seen, *_fit(out, variance)))
    _same_samples(inside, out)
    return np.asarray(norm.logpdf(seen, *_fit(inside, variance)) - norm.logpdf(seen, *_fit(out, variance)))


def u_lira(observed: ArrayLike, unlearned: ArrayLike, retrained: ArrayLike, *, variance: str = "auto") -> Array:
    """U-LiRA: probability that each sample was in the training set and then unlearned.

    ``p_member = N(phi; mu_U, sigma_U^2) / (N(phi; mu_U, sigma_U^2) + N(phi; mu_R, sigma_R^2))``, fitted to shadow
    models that were trained with the samples and unlearned them, and to models trained without them [1]_. Above 1/2
    the attack says "member".

    Parameters
    ----------
    observed, variance
        As in :func:`lira`.
    unlearned, retrained : array-like of shape (n_models, n_samples)
        Logit-scaled confidences of the shadow models, 2 or more of each.

    Returns
    -------
    ndarray of the shape of ``observed``
        In [0, 1]; 1/2 where unlearned and retrained models cannot be told apart.

    Raises
    ------
    ValueError
        As in :func:`lira`.

    References
    ----------
    .. [1] Hayes, Shumailov, Triantafillou, Khalifa, Papernot, "Inexact Unlearning Needs More Careful Evaluations to
       Avoid a False Sense of Privacy", 2024, algorithm 1, :arxiv:`2403.01218`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import u_lira
    >>> u_lira([0.0], [[0.0], [2.0]], [[-2.0], [0.0]]).tolist()
    [0.5]
    """
    return np.asarray(expit(lira(observed, unlearned, retrained, variance=variance)))


def held_out_ratios(unlearned: ArrayLike, retrained: ArrayLike, *, variance: str = "auto") -> tuple[Array, Array]:
    """Log likelihood ratios of U-LiRA for the shadow models themselves, each left out of the fit of its own bank.

    Returns
    -------
    of_unlearned, of_retrained : ndarray of shape (n_models, n_samples)
        Larger for what looks unlearned.
    """
    first, second = _bank(unlearned, "unlearned", 3), _bank(retrained, "retrained", 3)
    _same_samples(first, second)
    variance = _resolved(variance, first, second)
    whole = [_fit(bank, variance) for bank in (first, second)]
    alone = [_fit_without_each(bank, variance) for bank in (first, second)]
    return (
        np.asarray(norm.logpdf(first, *alone[0]) - norm.logpdf(first, *whole[1])),
        np.asarray(norm.logpdf(second, *whole[0]) - norm.logpdf(second, *alone[1])),
    )


def cross_fitted_ratios(unlearned: ArrayLike, retrained: ArrayLike, *, variance: str = "auto") -> tuple[Array, Array]:
    """The same with each half of both banks judged by shadow models of the other half.

    Models that are left out of the fit of their own bank alone look like the other one: of banks that are alike, 64
    models of one sample each, the AUC would be .45.

    Returns
    -------
    of_unlearned, of_retrained : ndarray of shape (n_models, n_samples)
        Larger for what looks unlearned.
    """
    banks = _bank(unlearned, "unlearned", 4), _bank(retrained, "retrained", 4)
    _same_samples(*banks)
    (a, c), (b, d) = (np.array_split(bank, [len(bank) // 2]) for bank in banks)

    def joined(early: Array, late: Array) -> Array:
        return np.concatenate([lira(early, c, d, variance=variance), lira(late, a, b, variance=variance)])

    return joined(a, c), joined(b, d)


def _fit(bank: Array, variance: str) -> tuple[Array, Array]:
    """Mean and standard deviation of every sample; around the first model, so that equal ones have neither rounding."""
    away = bank - bank[0]
    return bank[0] + away.mean(axis=0), np.sqrt(_shared(away.var(axis=0), variance)) + TINY


def _fit_without_each(bank: Array, variance: str) -> tuple[Array, Array]:
    """The same for every model from the others: (n_models, n_samples) each."""
    n, mean = len(bank) - 1, bank[0] + (bank - bank[0]).mean(axis=0)
    away = bank - mean
    shift = -away / n
    variances = np.maximum((np.square(away).sum(axis=0) - np.square(away)) / n - np.square(shift), 0.0)
    return mean + shift, np.sqrt(_shared(variances, variance)) + TINY


def _resolved(variance: str, first: Array, second: Array) -> str:
    """'sample' or 'pooled', the same for both banks: a ratio of unlike fits differs where the banks do not."""
    check_option(variance, "variance", ("auto", "sample", "pooled"))
    few = min(len(first), len(second)) < POOLED_BELOW
    return ("pooled" if few else "sample") if variance == "auto" else variance


def _shared(variances: Array, variance: str) -> Array:
    """One variance for all samples where they share it."""
    if variance == "sample":
        return variances
    return np.broadcast_to(variances.mean(axis=-1, keepdims=True), variances.shape)


# --------------------------------------------------------------------------- epsilon
def epsilon_of_banks(
    unlearned: ArrayLike, retrained: ArrayLike, *, delta: float = DELTA, confidence_level: float = 0.95
) -> float:
    """Audited epsilon of two banks by one attack on whole models.

    The attack adds up the log likelihood ratios of U-LiRA over the samples. The first half of each bank fits it and
    sets its threshold; the other half counts its errors, so that the trials are independent. With the exact upper
    limits of its error rates ``epsilon = log max((1 - delta - FPR) / FNR, (1 - delta - FNR) / FPR)`` [1]_.

    Parameters
    ----------
    unlearned, retrained : array-like of shape (n_models, n_samples)
        Logit-scaled confidences, 6 models or more of each.
    delta : float, default 1e-5
        At least 0 and below 1.
    confidence_level : float, default 0.95
        Of the bound, in (0, 1).

    Returns
    -------
    float
        Lower bound, see :func:`audited_epsilon`. 64 + 64 models that are never confused prove 2.1, 512 + 512 prove 4.2.

    Raises
    ------
    ValueError
        A bank of another shape or with too few models, values that are not finite, banks of different samples,
        or a delta or ``confidence_level`` out of range.

    References
    ----------
    .. [1] M. Jagielski, J. Ullman, A. Oprea, "Auditing differentially private machine learning", NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from codec.unlearn.evaluate import epsilon_of_banks
    >>> retrained = np.random.default_rng(0).normal(size=(64, 3))
    >>> epsilon_of_banks(retrained + 9.0, retrained) > 2.0, epsilon_of_banks(retrained, retrained)
    (True, 0.0)
    """
    first, second = _bank(unlearned, "unlearned", 6), _bank(retrained, "retrained", 6)
    _same_samples(first, second)
    halves = [(bank[: len(bank) // 2], bank[len(bank) // 2 :]) for bank in (first, second)]
    tuned = [ratios.sum(axis=1) for ratios in held_out_ratios(halves[0][0], halves[1][0])]
    threshold = _threshold(tuned[0], tuned[1], delta=delta)
    scores = [lira(later, halves[0][0], halves[1][0]).sum(axis=1) for _, later in halves]
    return audited_epsilon(
        int((scores[1] > threshold).sum()),
        len(scores[1]),
        int((scores[0] <= threshold).sum()),
        len(scores[0]),
        delta=delta,
        confidence_level=confidence_level,
    )


def _threshold(positives: Array, negatives: Array, *, delta: float) -> float:
    """The threshold with the largest epsilon on these scores; between values, and 0 where it is as good."""
    values = np.unique(np.concatenate([positives, negatives]))
    candidates = [0.0, *((values[1:] + values[:-1]) / 2)]
    found = [
        audited_epsilon(
            int((negatives > t).sum()), len(negatives), int((positives <= t).sum()), len(positives), delta=delta
        )
        for t in candidates
    ]
    return float(candidates[int(np.argmax(found))])


# --------------------------------------------------------------------------- the competition's score
class ForgettingQuality(NamedTuple):
    """Result of :func:`forgetting_quality`.

    Attributes
    ----------
    score : float
        F, in [0, 1]; 1 for models like retrained ones.
    epsilons : ndarray of shape (n_samples,)
        Epsilon of every forgotten sample, in [0, 50].

    Examples
    --------
    >>> from codec.unlearn.evaluate import forgetting_quality
    >>> score, epsilons = forgetting_quality([[0.0], [1.0], [2.0]], [[0.0], [1.0], [2.0]])
    >>> score, epsilons.shape
    (1.0, (1,))
    """

    score: float
    epsilons: Array


def forgetting_quality(unlearned: ArrayLike, retrained: ArrayLike, *, delta: float = DELTA) -> ForgettingQuality:
    """Forgetting quality of the NeurIPS 2023 unlearning competition.

    For every forgotten sample s, ``epsilon_s`` is the largest ``max(log((1 - delta - FPR) / FNR), log((1 - delta -
    FNR) / FPR))`` over attacks with one threshold and with an interval; 0 errors of both kinds: the cap, 50; attacks
    with 0 errors of one kind do not count. ``H(s) = 2 / 2^n(s)`` with ``n(s)`` = 1, 2, ... the number of the bin of
    width 1/2 that holds epsilon_s, 0 beyond the bins; ``F = 1 / |S| sum_s H(s)`` [1]_. The thresholds and the number
    of bins (up to ``ceil(log(n_models - 1))``) are those of the released code.

    Parameters
    ----------
    unlearned, retrained : array-like of shape (n_models, n_samples)
        Logit-scaled confidences; as many models of each, at least 3. The competition has 512.
    delta : float, default 1e-5
        Of (epsilon, delta).

    Returns
    -------
    ForgettingQuality
        ``score`` and ``epsilons``.

    Raises
    ------
    ValueError
        Banks of different shapes or with fewer than 3 models, values that are not finite, or a delta that is not in
        [0, 1).

    References
    ----------
    .. [1] Triantafillou et al., "Are we making progress in unlearning? Findings from the first NeurIPS unlearning
       competition", 2024, :arxiv:`2406.09073`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import forgetting_quality
    >>> same = [[0.0], [1.0], [2.0]]
    >>> forgetting_quality(same, same).score
    1.0
    """
    first, second = _bank(unlearned, "unlearned", 3), _bank(retrained, "retrained", 3)
    if first.shape != second.shape:
        raise ValueError(f"unlearned has shape {first.shape}, retrained {second.shape}; they must be equal.")
    if not 0.0 <= check_amount(delta, "delta") < 1.0:
        raise ValueError(f"delta is {delta!r}; it must be 0 or more, and below 1.")
    found = np.array([_sample_epsilon(u, r, delta) for u, r in zip(first.T, second.T, strict=True)])
    n_bins = int(math.ceil(math.log(len(first) - 1)) / BUCKET)
    number = np.floor(found / BUCKET).astype(np.int64)  # 0 for the first bin
    return ForgettingQuality(float(np.where(number < n_bins, 0.5**number, 0.0).mean()), found)


def competition_score(
    quality: float, retain_accuracy: tuple[float, float], test_accuracy: tuple[float, float]
) -> float:
    """Final score of the NeurIPS 2023 competition: ``F * RA_U / RA_R * TA_U / TA_R``.

    Parameters
    ----------
    quality : float
        F of :func:`forgetting_quality`.
    retain_accuracy, test_accuracy : tuple of (float, float)
        Mean accuracy of the unlearned and of the retrained models, RA_U and RA_R, TA_U and TA_R.

    Returns
    -------
    float
        0 or more; 1 for models like retrained ones.

    Raises
    ------
    ZeroDivisionError
        The retrained models have an accuracy of 0.
    ValueError, TypeError
        What is no share in [0, 1], or no pair of them.

    References
    ----------
    .. [1] Triantafillou et al., 2024, :arxiv:`2406.09073`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import competition_score
    >>> competition_score(0.5, (0.9, 0.9), (0.4, 0.8))
    0.25
    """
    check_share(quality, "quality")
    for name, pair in (("retain_accuracy", retain_accuracy), ("test_accuracy", test_accuracy)):
        if np.shape(pair) != (2,):
            raise ValueError(f"{name} is {pair!r}; it must be a pair, of the unlearned and of the retrained models.")
        for share in pair:
            check_share(share, name)
    retain, test = ([float(value) for value in pair] for pair in (retain_accuracy, test_accuracy))
    return quality * (retain[0] / retain[1]) * (test[0] / test[1])


def _sample_epsilon(unlearned: Array, retrained: Array, delta: float) -> float:
    """Largest epsilon over the attacks on one sample."""
    ranges = np.ptp(unlearned), np.ptp(retrained)
    if max(ranges) > 0.0 and min(ranges) / max(ranges) < 0.01:
        return CAP  # one of the distributions is a spike
    if max(ranges) == 0.0:
        return 0.0 if unlearned[0] == retrained[0] else CAP
    upper, lower = (retrained, unlearned) if np.median(retrained) > np.median(unlearned) else (unlearned, retrained)
    narrow, wide = (unlearned, retrained) if ranges[0] < ranges[1] else (retrained, unlearned)
    fpr, fnr = np.hstack([_one_threshold(upper, lower), _interval(narrow, wide)])
    return min(CAP, _largest_epsilon(fpr, fnr, delta))


def _one_threshold(upper: Array, lower: Array) -> Array:
    """FPR and FNR of "from here upwards it is the one with the larger median"."""
    values = np.unique(np.concatenate([upper, lower]))
    low, high = values[0], values[-1]
    number = math.ceil((high - low) * PER_UNIT)
    thresholds = np.linspace(low, high, number) if number <= MOST else values
    below = [np.searchsorted(np.sort(bank), thresholds, side="left") / len(bank) for bank in (upper, lower)]
    return np.array([1.0 - below[1], below[0]])


def _interval(narrow: Array, wide: Array) -> Array:
    """FPR and FNR of "between these two it is the narrower one"."""
    width = np.ptp(narrow)
    low, high = narrow.min() + width - BUFFER, narrow.max() + BUFFER
    right = np.linspace(low, high, math.ceil((high - low) * PER_UNIT))
    left = right[:, None] - width + np.linspace(-BUFFER, BUFFER, math.ceil(2 * BUFFER * PER_UNIT))
    inside = []
    for bank in (narrow, wide):
        ordered = np.sort(bank)
        upto = np.searchsorted(ordered, right, side="right")[:, None]
        inside.append(np.maximum(upto - np.searchsorted(ordered, left, side="left"), 0).ravel() / len(bank))
    return np.array([inside[1], 1.0 - inside[0]])


def _largest_epsilon(fpr: Array, fnr: Array, delta: float) -> float:
    if ((fpr <= 0.0) & (fnr <= 0.0)).any():
        return math.inf
    counts = (fpr > 0.0) & (fnr > 0.0)
    false, missed = np.maximum(fpr[counts], TINY), np.maximum(fnr[counts], TINY)
    tops = np.maximum(1 - delta - false, TINY), np.maximum(1 - delta - missed, TINY)
    found = np.maximum(np.log(tops[0]) - np.log(missed), np.log(tops[1]) - np.log(false))
    return max(0.0, float(found.max(initial=0.0)))


# --------------------------------------------------------------------------- KLoM
def klom(unlearned: ArrayLike, retrained: ArrayLike) -> Array:
    """KL divergence of margins, one value a sample, in nats.

    ``KLoM(x) = D_KL(margins of x over unlearned models || margins of x over retrained models)`` from histograms of
    20 bins over the common range, margins clipped to [-100, 100] and empty bins of the second raised to 1e-5, as in
    the authors' code [1]_ (which leaves out the largest value; here it counts in the last bin). The margin is
    :func:`logit_confidence`. Values depend on the number of models: 100 of each in the paper.

    Parameters
    ----------
    unlearned, retrained : array-like of shape (n_models, n_samples)
        Logit-scaled confidences, 2 models or more of each; their numbers may differ.

    Returns
    -------
    ndarray of shape (n_samples,)
        0 or more; 0 where the histograms are the same.

    Raises
    ------
    ValueError
        A bank of another shape or with too few models, values that are not finite, or banks of different samples.

    References
    ----------
    .. [1] Georgiev, Rinberg, Park, Garg, Ilyas, Madry, Neel, "Attribute-to-Delete: Machine Unlearning via
       Datamodel Matching", 2024, appendix E.1, :arxiv:`2410.23232`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import klom
    >>> klom([[0.0], [1.0]], [[0.0], [1.0]]).tolist()
    [0.0]
    """
    first, second = _bank(unlearned, "unlearned"), _bank(retrained, "retrained")
    _same_samples(first, second)
    pairs = zip(np.clip(first, -CLIP, CLIP).T, np.clip(second, -CLIP, CLIP).T, strict=True)
    return np.array([_histogram_divergence(p, q) for p, q in pairs])


def _histogram_divergence(p: Array, q: Array) -> float:
    low, high = min(p.min(), q.min()), max(p.max(), q.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (p, q)]
    floored = np.where(shares[0] > 0.0, np.maximum(shares[1], FLOOR), shares[1])
    return float(rel_entr(shares[0], floored / floored.sum()).sum())


# --------------------------------------------------------------------------- the door
def _bank(values: ArrayLike, name: str, least: int = 2) -> Array:
    found = as_array(values, name)
    if found.ndim != 2 or found.shape[0] < least or found.shape[1] == 0:
        raise ValueError(f"{name} has shape {found.shape}; it must be (n_models, n_samples), {least} models or more.")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds values that are not finite.")
    return found


def _same_samples(first: Array, second: Array) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"the banks hold {first.shape[1]} and {second.shape[1]} samples; they must be the same.")
