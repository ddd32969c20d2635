"""Every metric of one model against a case by hand, brute force, or scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import roc_auc_score, roc_curve

from codec.unlearn import evaluate as ev

LOG2 = np.log(2)
HALVES = np.zeros((1, 2))  # p = (1/2, 1/2)
QUARTER = np.array([[0.0, np.log(3)]])  # p = (1/4, 3/4)


def softmax(logits):
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True)


@pytest.fixture
def outputs():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 4)) * 3, rng.normal(size=(50, 4)) * 3, rng.integers(4, size=50)


# --------------------------------------------------------------------------- between two models
def test_accuracy_and_disagreement_by_hand():
    first = np.array([[3.0, 0, 0], [0, 2, 1], [0, 1, 2], [1, 0, 0]])
    other = np.array([[3.0, 0, 0], [0, 1, 2], [0, 1, 2], [0, 0, 1]])
    assert ev.accuracy(first, [0, 1, 1, 0]) == 0.75
    assert ev.disagreement(first, other) == 0.5
    assert ev.disagreement(first, first) == 0.0


def test_js_divergence_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4), m = (3/8, 5/8)
    by_hand = (0.5 * np.log(4 / 3) + 0.5 * np.log(4 / 5)) / 2 + (0.25 * np.log(2 / 3) + 0.75 * np.log(6 / 5)) / 2
    assert ev.js_divergence(HALVES, QUARTER) == pytest.approx(by_hand, rel=1e-14)
    assert ev.js_divergence(HALVES, HALVES) == 0.0


def test_js_divergence_is_the_square_of_scipys_distance(outputs):
    first, other, _ = outputs
    distances = [jensenshannon(p, q) ** 2 for p, q in zip(softmax(first), softmax(other), strict=True)]
    assert ev.js_divergence(first, other) == pytest.approx(np.mean(distances), rel=1e-12)
    assert ev.js_divergence(first, other) == pytest.approx(ev.js_divergence(other, first), rel=1e-14)


def test_js_divergence_of_nearly_equal_models_is_not_negative():
    """Rounding used to leave sums of -1e-17."""
    rng = np.random.default_rng(0)
    for size in np.repeat(10.0 ** np.arange(-16, -6), 50):
        logits = rng.normal(size=(1, 4)) * 3
        assert 0.0 <= ev.js_divergence(logits, logits + size * rng.normal(size=(1, 4))) <= 100 * max(size, 1e-16)


def test_models_without_a_common_class_have_js_log_2_even_where_probabilities_underflow():
    assert ev.js_divergence([[1e4, 0.0]], [[0.0, 1e4]]) == pytest.approx(LOG2, rel=1e-15)


def test_activation_distance_by_hand():
    # (1/2, 1/2) - (1/4, 3/4) = (1/4, -1/4): sqrt(2) / 4; and 0 for the second sample
    first, other = np.vstack([HALVES, HALVES]), np.vstack([QUARTER, HALVES])
    assert ev.activation_distance(first, other) == pytest.approx(np.sqrt(2) / 8, rel=1e-14)


def test_zrf_is_one_for_an_untrained_model_and_one_minus_log_2_at_worst():
    assert ev.zrf(QUARTER, QUARTER) == 1.0
    assert ev.zrf([[1e4, 0.0]], [[0.0, 1e4]]) == pytest.approx(1 - LOG2)


def test_logit_confidence_is_log_odds(outputs):
    logits, _, labels = outputs
    p = softmax(logits)[np.arange(50), labels]
    np.testing.assert_allclose(ev.logit_confidence(logits, labels), np.log(p / (1 - p)), rtol=1e-9)
    # p = 1 - 1e-43 is 1.0 in double precision; the log odds are not infinite
    assert ev.logit_confidence([[100.0, 0.0]], [0]).tolist() == [100.0]


# --------------------------------------------------------------------------- attacks
def test_scores_by_hand():
    # F = (1/4, 3/4), y = 1: Mentr = -(1/4) log(3/4) - (1/4) log(3/4);  y = 0: -(3/4) log(1/4) - (3/4) log(1/4)
    assert ev.confidence(QUARTER, [1])[0] == pytest.approx(0.75)
    assert ev.entropy(QUARTER, [1])[0] == pytest.approx(0.25 * np.log(4) + 0.75 * np.log(4 / 3))
    assert ev.modified_entropy(QUARTER, [1])[0] == pytest.approx(0.5 * np.log(4 / 3))
    assert ev.modified_entropy(QUARTER, [0])[0] == pytest.approx(1.5 * np.log(4))


def test_scores_against_the_formulas(outputs):
    logits, _, labels = outputs
    p, rows = softmax(logits), np.arange(50)
    np.testing.assert_allclose(ev.entropy(logits, labels), scipy_entropy(p, axis=1), rtol=1e-12)
    others = np.ones_like(p, dtype=bool)
    others[rows, labels] = False
    by_formula = -(1 - p[rows, labels]) * np.log(p[rows, labels]) - np.where(others, p * np.log(1 - p), 0).sum(1)
    np.testing.assert_allclose(ev.modified_entropy(logits, labels), by_formula, rtol=1e-9)


def test_modified_entropy_of_a_sure_model_knows_right_from_wrong():
    right, wrong = (ev.modified_entropy([[800.0, 0.0, 0.0]], [y])[0] for y in (0, 1))
    assert right == 0.0
    assert wrong == pytest.approx(1600 - LOG2, rel=1e-12)  # -log(p_y) - log(1 - p_0), p_y = e^-800, 1 - p_0 = 2 e^-800


@pytest.mark.parametrize("gap", [40.0, 50.0, 300.0])
def test_entropies_of_a_sure_model_lose_no_digits(gap):
    """F = (1 - q, q) with q = e^-gap: -(1 - q) log(1 - q) - q log q = q + gap q, and twice -q log(1 - q), to first order.

    log(1 - q) used to be rounded to 0, which halved the modified entropy.
    """
    q = np.exp(-gap)
    assert ev.entropy([[gap, 0.0]], [0])[0] == pytest.approx((1 + gap) * q, rel=1e-12, abs=0.0)
    assert ev.modified_entropy([[gap, 0.0]], [0])[0] == pytest.approx(2 * q**2, rel=1e-12, abs=0.0)


def test_a_class_that_is_masked_adds_nothing_to_the_entropies():
    masked = [[0.0, 0.0, -np.inf]]  # F = (1/2, 1/2, 0)
    assert ev.entropy(masked, [0])[0] == pytest.approx(LOG2, rel=1e-15)
    assert ev.modified_entropy(masked, [0])[0] == pytest.approx(LOG2, rel=1e-15)
    assert ev.modified_entropy(masked, [2])[0] == np.inf  # -log F_y


def scores(seed, ties):
    rng = np.random.default_rng(seed)
    members, others = rng.normal(0.5, 1, 80), rng.normal(0, 1, 130)
    return (members.round(1), others.round(1)) if ties else (members, others)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_the_share_of_pairs_and_sklearns(ties):
    members, others = scores(1, ties)
    pairs = np.sign(members[:, None] - others) / 2 + 0.5
    truth = np.r_[np.ones(80), np.zeros(130)]
    assert ev.auc(members, others) == pytest.approx(pairs.mean(), rel=1e-14)
    assert ev.auc(members, others) == pytest.approx(roc_auc_score(truth, np.r_[members, others]), rel=1e-14)


@pytest.mark.parametrize("ties", [False, True])
def test_roc_is_sklearns(ties):
    members, others = scores(2, ties)
    fpr, tpr, _ = roc_curve(np.r_[np.ones(80), np.zeros(130)], np.r_[members, others], drop_intermediate=False)
    mine = ev.roc(members, others)
    np.testing.assert_allclose(mine[0], fpr, atol=1e-15)
    np.testing.assert_allclose(mine[1], tpr, atol=1e-15)
    assert np.trapezoid(mine[1], mine[0]) == pytest.approx(ev.auc(members, others), rel=1e-13)


def test_tpr_at_fpr_by_hand_and_on_both_sides():
    others = np.arange(100.0)  # one false positive is allowed at 1 %
    assert ev.tpr_at_fpr([99.5, 98.5, 97.5, 50], others, two_sided=False) == 0.5  # above 98: 1 of 100 others
    low = [-1.0, 0.5, 50.0, 60.0]  # below 1: one other, two members
    assert ev.tpr_at_fpr(low, others, two_sided=False) == 0.0
    assert ev.tpr_at_fpr(low, others) == 0.5
    assert ev.tpr_at_fpr([9.0, 9.0], others[:10]) == 0.0  # equal to the largest of ten others: never called alone


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="labels run from 0 to 2; logits have 2 classes"):
        ev.accuracy(np.zeros((2, 2)), [0, 2])
    with pytest.raises(ValueError, match="they must be 2 integers"):
        ev.modified_entropy(np.zeros((2, 2)), [0.5, 1.0])
    with pytest.raises(ValueError, match="they must be equal"):
        ev.disagreement(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="2 classes or more"):
        ev.js_divergence([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="holds NaN"):
        ev.accuracy([[np.nan, 0.0]], [0])
    with pytest.raises(ValueError, match="nonmembers must be one score"):
        ev.auc([1.0], [])
    with pytest.raises(ValueError, match="fpr is 2"):
        ev.tpr_at_fpr([1.0], [1.0], 2)


# --------------------------------------------------------------------------- what comes in
@pytest.mark.parametrize("metric", [ev.js_divergence, ev.zrf, ev.activation_distance, ev.disagreement])
def test_a_row_with_every_class_masked_is_refused(metric):
    with pytest.raises(ValueError, match=r"logits holds NaN or infinity, or masks every class, in rows \[1\]"):
        metric([[0.0, 1.0], [-np.inf, -np.inf]], [[0.0, 1.0], [0.0, 1.0]])


def test_tensors_with_history_and_of_any_type_are_taken():
    logits = torch.tensor([[1.0, 0.5], [-2.0, 4.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    known = ev.logit_confidence(logits.detach().numpy(), labels.numpy())
    np.testing.assert_allclose(ev.logit_confidence(logits, labels), known, rtol=1e-15)
    np.testing.assert_allclose(ev.logit_confidence(logits.bfloat16(), labels), known, rtol=1e-15)
    assert ev.auc(logits[:, 0], logits[:, 1]) == ev.auc([1.0, -2.0], [0.5, 4.0])
    with pytest.raises(TypeError, match="logits is no array of numbers"):
        ev.logit_confidence([["a", "b"]], [0])


@pytest.mark.parametrize(("fpr", "error"), [("a", TypeError), (np.nan, ValueError), (1.5, ValueError)])
def test_a_false_positive_rate_is_a_share(fpr, error):
    with pytest.raises(error, match="fpr is"):
        ev.tpr_at_fpr([1.0], [0.0], fpr)
