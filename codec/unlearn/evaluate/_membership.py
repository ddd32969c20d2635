"""Membership inference on one model: which samples it was trained on.

Every score is larger for samples that look like members. After a good deletion the forgotten samples look like
samples never seen: AUC 1/2. An AUC below 1/2 is a leak as well (over-forgotten samples stand out by their *large*
loss), which is why an attack is read two-sided.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from codec._validation import check_amount
from codec.unlearn.evaluate._metrics import Array, as_array, check_logits, log_probabilities, logit_confidence

FPR = 0.01


def confidence(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Probability of the label, ``F(x)_y``, one value a sample; members have large ones [1]_.

    F is the softmax of the logits.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Finite, or minus infinity for a class that is masked; two classes or more.
    labels : array-like of shape (n_samples,)
        Integers in 0..n_classes - 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        In [0, 1].

    Raises
    ------
    ValueError
        Logits of another shape, NaN or plus infinity among them, a row of minus infinity, or labels that are no numbers of classes.

    References
    ----------
    .. [1] Song, Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security
       2021, :arxiv:`2003.10595`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import confidence
    >>> confidence([[0.0, 0.0]], [1]).tolist()
    [0.5]
    """
    values, classes = check_logits(logits, labels)
    return np.asarray(np.exp(log_probabilities(values)[0][np.arange(len(values)), classes]))


def entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Entropy of the prediction in nats, ``-sum_i F(x)_i log F(x)_i``; members have small ones [1]_.

    F is the softmax of the logits. ``labels`` are not used; they make the call the same for every score.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Finite, or minus infinity for a class that is masked; two classes or more.
    labels : array-like of shape (n_samples,)
        Integers in 0..n_classes - 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        In [0, log(n_classes)].

    Raises
    ------
    ValueError
        Logits of another shape, NaN or plus infinity among them, a row of minus infinity, or labels that are no numbers of classes.

    References
    ----------
    .. [1] Song, Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security
       2021, :arxiv:`2003.10595`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import entropy
    >>> entropy([[0.0, 0.0]], [1]).round(6).tolist()
    [0.693147]
    """
    values, _ = check_logits(logits, labels)
    logs, _ = log_probabilities(values)
    return np.asarray(-(np.exp(logs) * np.where(np.isneginf(logs), 0.0, logs)).sum(1))


def modified_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Modified entropy of the prediction in nats; members have small ones.

    ``Mentr(F(x), y) = -(1 - F(x)_y) log F(x)_y - sum_{i != y} F(x)_i log(1 - F(x)_i)`` [1]_. Unlike the entropy
    it knows the label: a confident right prediction has 0, a confident wrong one infinity.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Finite, or minus infinity for a class that is masked; two classes or more.
    labels : array-like of shape (n_samples,)
        Integers in 0..n_classes - 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        0 or more.

    Raises
    ------
    ValueError
        Logits of another shape, NaN or plus infinity among them, a row of minus infinity, or labels that are no numbers of classes.

    References
    ----------
    .. [1] Song, Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security
       2021, :arxiv:`2003.10595`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import modified_entropy
    >>> modified_entropy([[0.0, 0.0]], [1]).round(6).tolist()
    [0.693147]
    """
    values, classes = check_logits(logits, labels)
    logs, complement = log_probabilities(values)
    rows = np.arange(len(values))
    terms = -np.exp(logs) * complement  # F_i log(1 - F_i), i != y
    terms[rows, classes] = -np.exp(complement[rows, classes]) * logs[rows, classes]  # (1 - F_y) log F_y
    return np.asarray(terms.sum(1))


def attack_scores(logits: ArrayLike, labels: ArrayLike) -> dict[str, Array]:
    """The scores of the three attacks on a classifier's outputs, larger for members, by name.

    The confidence is on the logit scale: the same order, without ties where probabilities round to 1.
    """
    return {
        "confidence": logit_confidence(logits, labels),
        "entropy": -entropy(logits, labels),
        "modified_entropy": -modified_entropy(logits, labels),
    }


def auc(members: ArrayLike, nonmembers: ArrayLike) -> float:
    """Area under the ROC curve: ``P(member > non-member) + P(equal) / 2`` (Mann-Whitney).

    Parameters
    ----------
    members, nonmembers : array-like of shape (n,)
        Scores, larger for likely members.

    Returns
    -------
    float
        In [0, 1]. 1/2: the attack learns nothing. Below 1/2: members look *less* like members than others do.

    Raises
    ------
    ValueError
        No scores, another shape, or NaN among them.

    Examples
    --------
    >>> from codec.unlearn.evaluate import auc
    >>> auc([3.0, 1.0], [2.0, 1.0])
    0.625
    """
    first, second = _scores(members, nonmembers)
    ranks = rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))


def roc(members: ArrayLike, nonmembers: ArrayLike) -> tuple[Array, Array]:
    """False and true positive rates of all thresholds, from none to all called members.

    Parameters
    ----------
    members, nonmembers : array-like of shape (n,)
        Scores, larger for likely members.

    Returns
    -------
    fpr, tpr : ndarray of shape (n_thresholds,)
        In [0, 1], one more than there are distinct scores: a threshold above all of them comes first.

    Raises
    ------
    ValueError
        No scores, another shape, or NaN among them.

    Examples
    --------
    >>> from codec.unlearn.evaluate import roc
    >>> fpr, tpr = roc([3.0, 1.0], [2.0, 1.0])
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    first, second = _scores(members, nonmembers)
    thresholds = np.unique(np.concatenate([first, second]))[::-1]
    counts = [(len(s) - np.searchsorted(np.sort(s), thresholds)) / len(s) for s in (second, first)]
    fpr, tpr = (np.concatenate([[0.0], rates]) for rates in counts)
    return fpr, tpr


def tpr_at_fpr(members: ArrayLike, nonmembers: ArrayLike, fpr: float = FPR, *, two_sided: bool = True) -> float:
    """Largest true positive rate of a threshold whose false positive rate is at most ``fpr`` [1]_.

    Parameters
    ----------
    members, nonmembers : array-like of shape (n,)
        Scores, larger for likely members.
    fpr : float, default 0.01
        In 0..1. With fewer than ``1 / fpr`` non-members no false positive at all is allowed.
    two_sided : bool, default True
        The attacker may also call the *smallest* scores members; the better side counts.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        No scores, another shape, NaN among them, or ``fpr`` out of range.

    References
    ----------
    .. [1] Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022, :arxiv:`2112.03570`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import tpr_at_fpr
    >>> tpr_at_fpr([3.0, 1.0], [2.0, 1.0]), tpr_at_fpr([0.0, 0.0], [2.0, 1.0])
    (0.5, 1.0)
    """
    if not check_amount(fpr, "fpr") <= 1.0:
        raise ValueError(f"fpr is {fpr}; it must lie in 0..1.")
    first, second = _scores(members, nonmembers)
    sides = [(first, second), (-first, -second)] if two_sided else [(first, second)]
    rates = [roc(*side) for side in sides]
    return max(float(hits[false <= fpr].max()) for false, hits in rates)


def _scores(members: ArrayLike, nonmembers: ArrayLike) -> tuple[Array, Array]:
    found = [as_array(values, name) for name, values in (("members", members), ("nonmembers", nonmembers))]
    for name, values in zip(("members", "nonmembers"), found, strict=True):
        if values.ndim != 1 or values.size == 0 or np.isnan(values).any():
            raise ValueError(f"{name} must be one score a sample without NaN, got shape {values.shape}.")
    return found[0], found[1]
