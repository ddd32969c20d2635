"""Attacks on many models: by hand, by brute force from the definitions, by statsmodels, and at their level."""

import numpy as np
import pytest
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from codec.unlearn import evaluate as ev
from codec.unlearn.evaluate._audit import _threshold, cross_fitted_ratios, held_out_ratios

DELTA = 1e-5


def banks(shift=0.0, n=20, m=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (n, m)), rng.normal(0, 1.3, (n, m))


# --------------------------------------------------------------------------- LiRA and U-LiRA
def test_lira_is_the_log_ratio_of_two_normal_densities():
    inside, out = banks(1.0)
    observed = np.array([[0.3, -1.0, 4.0], [0.0, 1.0, 2.0]])
    densities = [norm.pdf(observed, b.mean(0), b.std(0)) for b in (inside, out)]
    found = ev.lira(observed, inside, out, variance="sample")
    np.testing.assert_allclose(found, np.log(densities[0] / densities[1]), rtol=1e-10)
    np.testing.assert_allclose(ev.lira(observed[0], inside, out, variance="sample"), found[0], rtol=1e-14)
    p_member = densities[0] / (densities[0] + densities[1])
    np.testing.assert_allclose(ev.u_lira(observed, inside, out, variance="sample"), p_member, rtol=1e-10)


@pytest.mark.parametrize("n", [20, 63])
def test_fewer_than_64_models_share_one_variance(n):
    inside, out = banks(1.0, n=n)
    pooled = [np.sqrt(np.mean((b - b.mean(0)) ** 2)) for b in (inside, out)]
    expected = norm.logpdf(0.5, inside.mean(0), pooled[0]) - norm.logpdf(0.5, out.mean(0), pooled[1])
    np.testing.assert_allclose(ev.lira(np.full(3, 0.5), inside, out), expected, rtol=1e-10)


@pytest.mark.parametrize("sizes", [(64, 63), (63, 64)])
def test_banks_of_unlike_sizes_are_fitted_alike(sizes):
    """Samples of sd 0.2 and 5; a variance of its own against a pooled one took 2.4 nats for nothing in the first."""
    rng = np.random.default_rng(1)
    spread = np.repeat([0.2, 5.0], 10)
    observed, first, second = (rng.normal(0.0, spread, (n, 20)) for n in (500, *sizes))
    assert np.abs(ev.lira(observed, first, second)[:, :10].mean()) < 0.5
    pooled = ev.u_lira(observed, first, second, variance="pooled")
    np.testing.assert_array_equal(ev.u_lira(observed, first, second), pooled)
    for ratios, again in zip(
        held_out_ratios(first, second), held_out_ratios(first, second, variance="pooled"), strict=True
    ):
        np.testing.assert_array_equal(ratios, again)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_confidences_under_attack_must_be_finite(value):
    inside, out = banks()
    with pytest.raises(ValueError, match="observed holds values that are not finite"):
        ev.lira([value, 0.0, 0.0], inside, out)


def test_64_models_have_a_variance_for_every_sample():
    inside, out = banks(1.0, n=64)
    expected = norm.logpdf(0.5, inside.mean(0), inside.std(0)) - norm.logpdf(0.5, out.mean(0), out.std(0))
    np.testing.assert_allclose(ev.lira(np.full(3, 0.5), inside, out), expected, rtol=1e-10)


def test_offline_lira_is_the_share_of_outside_models_below():
    _, out = banks()
    expected = 1 - norm.sf(0.7, out.mean(0), out.std(0))
    np.testing.assert_allclose(ev.lira(np.full(3, 0.7), None, out, variance="sample"), expected, rtol=1e-12)


@pytest.mark.parametrize("variance", ["sample", "pooled"])
def test_each_shadow_model_is_left_out_of_its_own_fit(variance):
    first, second = banks(0.5, n=7)
    of_first, of_second = held_out_ratios(first, second, variance=variance)
    for i in range(7):
        rest = [np.delete(bank, i, axis=0) for bank in (first, second)]
        np.testing.assert_allclose(of_first[i], ev.lira(first[i], rest[0], second, variance=variance), rtol=1e-9)
        np.testing.assert_allclose(of_second[i], ev.lira(second[i], first, rest[1], variance=variance), rtol=1e-9)


# --------------------------------------------------------------------------- epsilon
@pytest.mark.parametrize("value", [0.1, -7.3, 1e6 / 3])
def test_models_that_are_all_the_same_cannot_be_told_apart(value):
    """The mean of equal numbers may be another number: rounding used to decide, with probability 1."""
    bank = np.full((11, 3), value) + np.arange(3)
    assert (ev.u_lira(bank[0], bank, bank) == 0.5).all()
    assert all((part == 0.0).all() for ratios in (held_out_ratios, cross_fitted_ratios) for part in ratios(bank, bank))


def test_epsilon_of_banks_that_cannot_be_confused_is_that_of_no_error():
    limit = proportion_confint(0, 32, alpha=0.05, method="beta")[1]  # of both rates: no error in 32 models
    apart = [bank + shift for bank, shift in zip(banks(n=64), (50.0, 0.0), strict=True)]
    assert ev.epsilon_of_banks(*apart) == pytest.approx(np.log((1 - DELTA - limit) / limit), rel=1e-9)


def test_one_half_of_the_models_fits_the_attack_and_the_other_counts():
    retrained = banks(n=100)[1]
    shift = np.where(np.arange(100) < 50, 50.0, 0.0)[:, None]
    assert ev.epsilon_of_banks(retrained + shift, retrained) == 0.0  # fitted on models that differ, equal ones counted
    assert ev.epsilon_of_banks(retrained + shift[::-1], retrained) == 0.0  # fitted on equal models: all ratios are 0


def test_the_threshold_lies_between_what_it_tells_apart():
    steps = np.linspace(0.0, 1.0, 20)  # of fewer scores no threshold proves an epsilon
    assert 2.0 < _threshold(3 + steps, 1 + steps, delta=DELTA) < 3.0
    assert -3.0 < _threshold(-2 + steps, -4 + steps, delta=DELTA) < -2.0
    assert _threshold(1 + steps, -1.5 + steps, delta=DELTA) == 0.0  # as good as the middle, 1/4


def test_epsilon_of_equal_banks_is_above_zero_as_seldom_as_its_level_says():
    found = [
        ev.epsilon_of_banks(*np.random.default_rng(seed).normal(size=(2, 24, 5)), confidence_level=0.8)
        for seed in range(60)
    ]
    assert sum(e > 0 for e in found) <= binom.ppf(0.999, 60, 0.2)


# --------------------------------------------------------------------------- the competition's score
def slow_epsilon(unlearned, retrained):
    """The largest epsilon by the definition, threshold after threshold."""

    def rates(positive, negative, called):
        return np.mean([called(c) for c in negative]), np.mean([not called(c) for c in positive])

    ranges = {id(b): max(b) - min(b) for b in (unlearned, retrained)}
    ahead = np.median(retrained) > np.median(unlearned)
    upper, lower = (retrained, unlearned) if ahead else (unlearned, retrained)
    pooled = [*unlearned, *retrained]
    cuts = np.linspace(min(pooled), max(pooled), int(np.ceil((max(pooled) - min(pooled)) * 100)))
    found = [rates(upper, lower, lambda c, t=t: c >= t) for t in cuts]
    narrow, wide = (unlearned, retrained) if ranges[id(unlearned)] < ranges[id(retrained)] else (retrained, unlearned)
    width = ranges[id(narrow)]
    found += [
        rates(narrow, wide, lambda c, a=left, b=right: a <= c <= b)
        for right in np.linspace(max(narrow) - 2, max(narrow) + 2, 400)
        for left in np.linspace(right - width - 2, right - width + 2, 400)[::5]
    ]
    if (0.0, 0.0) in found:
        return 50.0
    logs = [
        np.log(max(1 - DELTA - a, 1e-300)) - np.log(b)
        for fpr, fnr in set(found) if fpr > 0 and fnr > 0 for a, b in ((fpr, fnr), (fnr, fpr))
    ]  # fmt: skip
    return max([0.0, *logs])


@pytest.mark.parametrize("seed", range(2))
def test_epsilons_against_the_definition(seed):
    unlearned, retrained = banks(1.0, n=5, m=1, seed=seed)
    found = ev.forgetting_quality(unlearned, retrained).epsilons[0]
    slow = slow_epsilon(unlearned[:, 0].tolist(), retrained[:, 0].tolist())
    assert found == pytest.approx(slow, rel=1e-9)


def test_forgetting_quality_by_hand():
    """Medians 1.5 and 3.75: from 3 upwards there are 1 of 4 unlearned and 3 of 4 retrained, epsilon log(3)."""
    unlearned, retrained = np.array([[0.0, 1, 2, 3]]).T, np.array([[2.5, 3.5, 4, 5]]).T
    score, epsilons = ev.forgetting_quality(unlearned, retrained)
    assert epsilons[0] == pytest.approx(np.log((1 - DELTA - 0.25) / 0.25), rel=1e-12)
    assert score == 0.25  # log(3) = 1.1 lies in the third bin of width 1/2: 2 / 2^3
    same = np.tile([[0.0], [1.0], [2.0], [3.0]], (1, 2))
    two = np.hstack([unlearned, same[:, :1]]), np.hstack([retrained, same[:, :1]])
    assert ev.forgetting_quality(*two).score == (0.25 + 1.0) / 2
    for delta in (1.0, 2.0, -3.0, np.nan):
        with pytest.raises(ValueError, match="delta is"):
            ev.forgetting_quality(*two, delta=delta)


def test_confidences_of_any_size_are_told_apart():
    """The same four models as above in another unit; 100 thresholds a unit would be 500 billion."""
    unlearned, retrained = 1e9 * np.array([[0.0, 1, 2, 3]]).T, 1e9 * np.array([[2.5, 3.5, 4, 5]]).T
    score, epsilons = ev.forgetting_quality(unlearned, retrained)
    assert epsilons[0] == pytest.approx(np.log((1 - DELTA - 0.25) / 0.25), rel=1e-12)
    assert score == 0.25


def test_forgetting_quality_at_its_ends():
    apart = np.array([[0.0], [1.0], [2.0]])
    assert ev.forgetting_quality(apart, apart).score == 1.0
    assert ev.forgetting_quality(apart, apart + 10).epsilons.tolist() == [50.0]
    assert ev.forgetting_quality(apart, apart + 10).score == 0.0
    spike = np.array([[1.0], [1.001], [1.002]])
    assert ev.forgetting_quality(spike, apart).epsilons.tolist() == [50.0]  # a range below 1 % of the other's
    assert ev.forgetting_quality(np.ones((3, 1)), np.ones((3, 1))).epsilons.tolist() == [0.0]
    assert ev.forgetting_quality(np.ones((3, 1)), np.zeros((3, 1))).epsilons.tolist() == [50.0]


def test_an_epsilon_in_the_last_bin_counts():
    """With three models the bins end at ceil(log 2) = 1; epsilon log(2) lies in the second and last, 2 / 2^2."""
    unlearned, retrained = np.array([[0.0], [1.0], [4.0]]), np.array([[3.0], [5.0], [9.0]])
    score, epsilons = ev.forgetting_quality(unlearned, retrained)
    assert epsilons[0] == pytest.approx(np.log((1 - DELTA - 1 / 3) / (1 / 3)), rel=1e-12)
    assert score == 0.5


def test_competition_score_by_hand():
    assert ev.competition_score(0.8, (0.9, 1.0), (0.6, 0.8)) == pytest.approx(0.8 * 0.9 * 0.75)
    with pytest.raises(ZeroDivisionError):
        ev.competition_score(0.8, (0.9, 1.0), (np.float64(0.6), np.float64(0.0)))
    for wrong in (
        (7.0, (0.9, 1.0), (0.6, 0.8)),
        (np.nan, (0.9, 1.0), (0.6, 0.8)),
        (0.8, 0.9, 0.9),
        (0.8, (-1, 1), (0.6, 0.8)),
    ):
        with pytest.raises(ValueError, match=r"quality|accuracy"):
            ev.competition_score(*wrong)


# --------------------------------------------------------------------------- KLoM
def test_klom_by_hand():
    # shares of the first and the last bin: (1/2, 1/2) against (1/4, 3/4)
    first, second = np.array([[0.0, 0, 1, 1]]).T, np.array([[0.0, 1, 1, 1]]).T
    assert ev.klom(first, second)[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-12)
    assert ev.klom(second, first)[0] == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5), rel=1e-12)


def test_klom_of_models_that_share_no_bin_is_bounded_by_the_floor():
    zeros, ones = np.zeros((3, 1)), np.ones((3, 1))
    assert ev.klom(zeros, ones)[0] == pytest.approx(np.log((1 + 1e-5) / 1e-5), rel=1e-12)
    assert ev.klom(zeros, zeros)[0] == 0.0
    assert ev.klom(zeros - 1e6, zeros - 100)[0] == 0.0  # margins are clipped to [-100, 100]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ev.lira([0.0], np.zeros((1, 1)), np.zeros((2, 1))), "members has shape"),
        (lambda: ev.lira([0.0, 1.0], None, np.zeros((2, 1))), "observed has shape"),
        (lambda: ev.lira([0.0], None, np.zeros((2, 1)), variance="none"), "variance is 'none'"),
        (lambda: ev.lira([0.0], np.zeros((2, 2)), np.zeros((2, 1))), "the banks hold 2 and 1 samples"),
        (lambda: ev.klom(np.full((2, 1), np.inf), np.zeros((2, 1))), "not finite"),
        (lambda: ev.forgetting_quality(np.zeros((3, 1)), np.zeros((4, 1))), "they must be equal"),
    ],
)
def test_what_cannot_be_audited_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
