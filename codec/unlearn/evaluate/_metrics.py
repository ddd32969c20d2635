"""How one classifier's outputs differ from another's: pure functions of logits and labels.

Logits are float arrays of shape (n_samples, n_classes), labels integers of shape (n_samples,). Probabilities are
computed inside, in double precision, so that confident models do not end in ``log(0)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, rel_entr, softmax
from torch import Tensor

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Share of the samples whose largest logit is that of their label.

    ``1 / n sum_i [argmax_k z_ik = y_i]``, z the logits; of equal logits the first class counts.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Finite, or minus infinity for a class that is masked; two classes or more.
    labels : array-like of shape (n_samples,)
        Integers in 0..n_classes - 1.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        Logits of another shape, NaN or plus infinity among them, a row of minus infinity, or labels that are no numbers of classes.

    Examples
    --------
    >>> from codec.unlearn.evaluate import accuracy
    >>> accuracy([[2.0, 1.0], [0.0, 3.0]], [0, 0])
    0.5
    """
    values, classes = check_logits(logits, labels)
    return float(np.mean(values.argmax(1) == classes))


def disagreement(logits: ArrayLike, other: ArrayLike) -> float:
    """Share of the samples that two models put into different classes.

    ``1 / n sum_i [argmax_k z_ik != argmax_k z'_ik]``, z and z' the logits of the two models.

    Parameters
    ----------
    logits, other : array-like of shape (n_samples, n_classes)
        Outputs of the two models on the same samples; two classes or more.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        Shapes that differ or are no such matrices, NaN or plus infinity among the values, or a row of minus infinity.

    Examples
    --------
    >>> from codec.unlearn.evaluate import disagreement
    >>> disagreement([[2.0, 1.0], [0.0, 3.0]], [[2.0, 0.0], [1.0, 0.0]])
    0.5
    """
    first, second = check_pair(logits, other)
    return float(np.mean(first.argmax(1) != second.argmax(1)))


def js_divergence(logits: ArrayLike, other: ArrayLike) -> float:
    """Mean Jensen-Shannon divergence of the predicted distributions, in nats.

    ``JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2`` with ``m = (p + q) / 2`` [1]_; 0 where both models say the same,
    log 2 where they share no class.

    Parameters
    ----------
    logits, other : array-like of shape (n_samples, n_classes)
        Outputs of the two models on the same samples; two classes or more.

    Returns
    -------
    float
        In [0, log 2].

    Raises
    ------
    ValueError
        Shapes that differ or are no such matrices, NaN or plus infinity among the values, or a row of minus infinity.

    References
    ----------
    .. [1] J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory
       37 (1991), 145-151, :doi:`10.1109/18.61115`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import js_divergence
    >>> round(js_divergence([[0.0, 1000.0]], [[1000.0, 0.0]]), 6)
    0.693147
    """
    p, q = (softmax(values, axis=1) for values in check_pair(logits, other))
    m = (p + q) / 2
    return max(0.0, float(np.mean((rel_entr(p, m) + rel_entr(q, m)).sum(1) / 2)))  # rounding may be below 0


def activation_distance(logits: ArrayLike, other: ArrayLike) -> float:
    """Mean Euclidean distance of the predicted distributions.

    ``1 / n sum_i || p(x_i) - q(x_i) ||_2``, on the forgotten samples between the unlearned and the retrained model
    [1]_, p and q the softmax of their logits. Golatkar et al. (2021) take the sum of absolute differences instead.

    Parameters
    ----------
    logits, other : array-like of shape (n_samples, n_classes)
        Outputs of the two models on the same samples; two classes or more.

    Returns
    -------
    float
        In [0, sqrt(2)].

    Raises
    ------
    ValueError
        Shapes that differ or are no such matrices, NaN or plus infinity among the values, or a row of minus infinity.

    References
    ----------
    .. [1] Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023.

    Examples
    --------
    >>> from codec.unlearn.evaluate import activation_distance
    >>> round(activation_distance([[0.0, 1000.0]], [[1000.0, 0.0]]), 6)
    1.414214
    """
    p, q = (softmax(values, axis=1) for values in check_pair(logits, other))
    return float(np.mean(np.linalg.norm(p - q, axis=1)))


def zrf(logits: ArrayLike, untrained: ArrayLike) -> float:
    """Zero retrain forgetting metric: how near the forgotten samples' outputs are to an untrained model's.

    ``ZRF = 1 - 1 / n_f sum_i JS(M(x_i), T_d(x_i))`` over the forgotten samples, T_d a model with random
    parameters [1]_. It needs no retrained model, and a high value is no success in itself: a retrained model
    still classifies most forgotten samples, so compare with its value and not with 1.

    Parameters
    ----------
    logits, untrained : array-like of shape (n_samples, n_classes)
        Outputs on the forgotten samples; two classes or more.

    Returns
    -------
    float
        In [1 - log 2, 1], JS in nats.

    Raises
    ------
    ValueError
        Shapes that differ or are no such matrices, NaN or plus infinity among the values, or a row of minus infinity.

    References
    ----------
    .. [1] Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023.

    Examples
    --------
    >>> from codec.unlearn.evaluate import zrf
    >>> zrf([[0.0, 0.0]], [[1.0, 1.0]])
    1.0
    """
    return 1.0 - js_divergence(logits, untrained)


def logit_confidence(logits: ArrayLike, labels: ArrayLike) -> Array:
    """Confidence in the label on the logit scale, one value a sample.

    ``phi(p) = log(p / (1 - p))`` with p the probability of the label [1]_, computed as ``z_y - log sum_{k != y}
    exp(z_k)``; the same number is the margin of KLoM [2]_. Over models it is nearly normal, which probabilities
    are not.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Finite, or minus infinity for a class that is masked; two classes or more.
    labels : array-like of shape (n_samples,)
        Integers in 0..n_classes - 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        In nats, 0 where the label has probability 1/2.

    Raises
    ------
    ValueError
        Logits of another shape, NaN or plus infinity among them, a row of minus infinity, or labels that are no numbers of classes.

    References
    ----------
    .. [1] Carlini, Chien, Nasr, Song, Terzis, Tramer, "Membership Inference Attacks From First Principles", IEEE
       S&P 2022, :arxiv:`2112.03570`.
    .. [2] Georgiev, Rinberg, Park, Garg, Ilyas, Madry, Neel, "Attribute-to-Delete: Machine Unlearning via
       Datamodel Matching", 2024, :arxiv:`2410.23232`.

    Examples
    --------
    >>> from codec.unlearn.evaluate import logit_confidence
    >>> logit_confidence([[3.0, 1.0]], [0]).tolist()
    [2.0]
    """
    values, classes = check_logits(logits, labels)
    rows = np.arange(len(values))
    others = values.copy()
    others[rows, classes] = -np.inf
    return np.asarray(values[rows, classes] - logsumexp(others, axis=1), dtype=np.float64)


def log_probabilities(logits: Array) -> tuple[Array, Array]:
    """``log p`` and ``log(1 - p)`` of every class, both without cancellation where p is near 1."""
    logs = log_softmax(logits, axis=1)
    rows, top = np.arange(len(logits)), logits.argmax(1)
    small = logs.copy()
    small[rows, top] = -np.inf
    complement = np.log1p(-np.exp(small))
    complement[rows, top] = logsumexp(small, axis=1)
    logs[rows, top] = np.log1p(-np.exp(complement[rows, top]))
    return logs, complement


# --------------------------------------------------------------------------- the door
def check_logits(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Labels]:
    """Logits as float64 and labels as class numbers."""
    values = _matrix(logits, "logits")
    classes = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if classes.shape != (len(values),) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"labels have shape {classes.shape} and type {classes.dtype}; they must be {len(values)} integers, one for "
            "each row of logits."
        )
    if classes.min() < 0 or classes.max() >= values.shape[1]:
        raise ValueError(f"labels run from {classes.min()} to {classes.max()}; logits have {values.shape[1]} classes.")
    return values, classes.astype(np.int64)


def check_pair(logits: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    """Two models' logits of the same samples."""
    first, second = _matrix(logits, "logits"), _matrix(other, "other")
    if first.shape != second.shape:
        raise ValueError(f"logits have shape {first.shape}, the other model's {second.shape}; they must be equal.")
    return first, second


def _matrix(values: ArrayLike, name: str) -> Array:
    found = as_array(values, name)
    if found.ndim != 2 or found.shape[0] == 0 or found.shape[1] < 2:
        raise ValueError(f"{name} has shape {found.shape}; it must be (n_samples, n_classes) with 2 classes or more.")
    wrong = ill_rows(found)
    if len(wrong):
        raise ValueError(
            f"{name} holds NaN or infinity, or masks every class, in rows {wrong[:5].tolist()}: the model has diverged or "
            "its inputs are missing."
        )
    return found


def ill_rows(logits: Array) -> Labels:
    """Rows that are no logits; minus infinity is a class that is masked, but not every class can be."""
    return np.flatnonzero(~((logits < np.inf).all(axis=1) & (logits > -np.inf).any(axis=1)))


def as_array(values: Any, name: str) -> Array:
    """Numbers in double precision, tensors with their history and of any type among them."""
    known = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    try:
        return np.asarray(known, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is no array of numbers: {error}") from error
