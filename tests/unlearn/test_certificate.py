"""Bounds, noise and accounts against finite differences, quadrature, high precision and published figures."""

import json
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from codec.unlearn import Unlearner
from codec.unlearn._certificate import (
    Accountant,
    a_posteriori_bound,
    a_priori_bound,
    audited_epsilon,
    certify,
    certify_newton,
    empirical,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_multiplier,
    logistic_constants,
    moved_bound,
    ridge_constants,
    rounded_up,
    softmax_constants,
    zcdp_epsilon,
)


# --------------------------------------------------------------------------- constants
def softmax(o):
    e = np.exp(o - o.max())
    return e / e.sum()


def softmax_hessian(W, x):
    p = softmax(W @ x)
    return np.kron(np.diag(p) - np.outer(p, p), np.outer(x, x))


def logistic_hessian(w, x):
    p = 1.0 / (1.0 + np.exp(-(w @ x)))
    return p * (1.0 - p) * np.outer(x, x)


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_softmax_hessian_changes_no_faster_than_its_constant(radius):
    rng = np.random.default_rng(0)
    constants = softmax_constants(radius)
    for _ in range(300):
        k, d = rng.integers(2, 6), rng.integers(1, 4)
        x = rng.normal(size=d)
        x *= radius / np.linalg.norm(x)
        V, step = rng.normal(size=(k, d)) * rng.choice([0.1, 1, 3]), rng.normal(size=(k, d)) * rng.choice([0.01, 1])
        change = np.linalg.norm(softmax_hessian(V + step, x) - softmax_hessian(V, x), 2)
        assert change <= constants.hessian_lipschitz * np.linalg.norm(step) * (1 + 1e-9)


def test_constants_of_the_hessian_are_attained():
    # two classes of opposite weights, p = 1/2 + 1/sqrt(12): finite differences reach M, so M cannot be smaller
    logit, h = math.log((0.5 + 12**-0.5) / (0.5 - 12**-0.5)), 1e-6
    x = np.array([2.0])
    V = np.array([[logit / 4], [-logit / 4]])
    step = np.array([[h], [-h]])
    rate = np.linalg.norm(softmax_hessian(V + step, x) - softmax_hessian(V - step, x), 2) / np.linalg.norm(2 * step)
    assert rate == pytest.approx(softmax_constants(2.0).hessian_lipschitz, rel=1e-6)
    w = np.array([logit / 2])
    rate = np.linalg.norm(logistic_hessian(w + h, x) - logistic_hessian(w - h, x), 2) / (2 * h)
    assert rate == pytest.approx(logistic_constants(2.0).hessian_lipschitz, rel=1e-6)


def fit(gradient, hessian, w, rows):
    """Newton to machine precision; small problems only."""
    for _ in range(20):
        w = w - np.linalg.solve(hessian(w, rows), gradient(w, rows))
    return w


def logistic_problem(seed, n=60, d=3, weight_decay=0.3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X *= (rng.uniform(0.3, 1.0, n) / np.linalg.norm(X, axis=1))[:, None]
    y = (rng.random(n) < 1 / (1 + np.exp(-3 * X[:, 0]))).astype(float)

    def gradient(w, rows):
        return X[rows].T @ (1 / (1 + np.exp(-X[rows] @ w)) - y[rows]) / len(rows) + weight_decay * w

    def hessian(w, rows):
        p = 1 / (1 + np.exp(-X[rows] @ w))
        return (X[rows].T * (p * (1 - p))) @ X[rows] / len(rows) + weight_decay * np.eye(d)

    return X, y, gradient, hessian


@pytest.mark.parametrize("m", [1, 5, 20])
def test_bounds_hold_for_logistic_regression(m):
    # 60 problems; the chain of the theory: gradients, move of the minimiser, one Newton step, gradient at the end
    for seed in range(60):
        X, y, gradient, hessian = logistic_problem(seed)
        n, everything, retained = len(y), np.arange(len(y)), np.arange(m, len(y))
        constants = logistic_constants(np.linalg.norm(X, axis=1).max())
        w = fit(gradient, hessian, np.zeros(3), everything)
        retrained = fit(gradient, hessian, w, retained)
        assert max(np.linalg.norm(gradient(w, [i])) for i in everything) <= constants.lipschitz
        assert np.linalg.norm(w - retrained) <= moved_bound(constants, 0.3, n, m)
        newton = w - np.linalg.solve(hessian(w, retained), gradient(w, retained))
        error = np.linalg.norm(newton - retrained)
        assert error <= a_priori_bound(constants, 0.3, n, m)
        assert error <= a_posteriori_bound(np.linalg.norm(gradient(newton, retained)), 0.3)
        # from a model that is not at its minimiser
        v = w + 0.1
        norm = np.linalg.norm(gradient(v, everything))
        assert np.linalg.norm(v - retrained) <= moved_bound(constants, 0.3, n, m, norm)
        newton = v - np.linalg.solve(hessian(v, retained), gradient(v, retained))
        assert np.linalg.norm(newton - retrained) <= a_priori_bound(constants, 0.3, n, m, norm)


def test_bounds_hold_for_ridge():
    rng = np.random.default_rng(1)
    for _ in range(50):
        X, y = rng.normal(size=(30, 4)), 5 * rng.normal(size=30)
        w = np.linalg.solve(X.T @ X / 30 + 0.2 * np.eye(4), X.T @ y / 30)
        retrained = np.linalg.solve(X[3:].T @ X[3:] / 27 + 0.2 * np.eye(4), X[3:].T @ y[3:] / 27)
        constants = ridge_constants(np.linalg.norm(X, axis=1).max(), np.abs(y).max(), 0.2)
        gradients = X * (X @ w - y)[:, None] + 0.2 * w
        assert np.linalg.norm(gradients, axis=1).max() <= constants.lipschitz
        assert np.linalg.norm(w - retrained) <= moved_bound(constants, 0.2, 30, 3)
        assert a_priori_bound(constants, 0.2, 30, 3) == 0.0


def test_a_priori_bound_is_the_published_formula():
    constants = softmax_constants(1.5)
    L, M = constants.lipschitz, constants.hessian_lipschitz
    expected = M * 7**2 * L**2 / (2 * 0.05**3 * (500 - 7) ** 2)
    assert a_priori_bound(constants, 0.05, 500, 7) == pytest.approx(expected, rel=1e-12)


def test_lipschitz_constants_by_hand():
    assert logistic_constants(3.0).lipschitz == 6.0  # |p - y| <= 1: at most 3, and the regulariser's share as much
    assert softmax_constants(3.0).lipschitz == pytest.approx(6 * math.sqrt(2), rel=1e-14)  # ||p - e_y|| <= sqrt(2)
    # ||w|| <= 1 / sqrt(1/4) = 2, |residual| <= 2 + 1, and the regulariser's share 2 / 4
    assert ridge_constants(1.0, 1.0, 0.25).lipschitz == 3.5


def test_moved_bound_from_a_model_beside_its_minimiser_by_hand():
    # L = 2; 10 * .5 of the gradient that was left and 2 (2 + .5) of the samples that go, over .1 * 8
    assert moved_bound(logistic_constants(1.0), 0.1, 10, 2, 0.5) == pytest.approx(12.5, rel=1e-14)
    assert moved_bound(logistic_constants(1.0), 0.1, 10, 2) == pytest.approx(5.0, rel=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moved_bound(logistic_constants(1.0), 0.0, 10, 1), "weight_decay is 0.0; it must be positive"),
        (lambda: moved_bound(logistic_constants(1.0), 0.1, 10, 10), "m is 10; it must be between 0 and 9"),
        (lambda: logistic_constants(float("inf")), "radius is inf; it must be positive and finite"),
        (lambda: gaussian_multiplier(0.0, 1e-5), "epsilon is 0.0; it must be positive"),
        (lambda: gaussian_multiplier(1.0, 1.0), "delta is 1.0; it must be below 1"),
        (lambda: audited_epsilon(11, 10, 0, 10, 0.0), "n_false_positives is 11; it must be between 0 and 10"),
        (lambda: audited_epsilon(1, 10, 0, 10, 1.0), r"delta is 1.0; it must lie within \[0, 1\)"),
        (lambda: audited_epsilon(1, 10, 0, 10, 0.1, 1.0), "confidence_level is 1.0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------- the printed block
def test_printed_bounds_are_not_below_what_is_proved():
    for norm in (1.2341e-6, 9.9999e-5, 1.0e-4, 3.3333, 0.0):
        found = certify(100, 1, weight_decay=1.0, gradient_norm=norm)
        printed = float(found.proved[0].split("<= ")[1].split()[0])
        assert found.bound * (1 - 1e-9) <= printed <= 1.011 * found.bound


def test_certificate_prints_what_is_proved_assumed_measured():
    certificate = certify(
        100, 3, weight_decay=0.1, gradient_norm=1e-4, rounding=1e-6, constants=logistic_constants(2.0), measured=["two"]
    )
    assert certificate.bound == pytest.approx(1.01e-3)
    text = str(certificate)
    assert text.index("proved") < text.index("<= 0.00101") < text.index("assumed") < text.index("measured")
    assert "||x|| <= 2" in text
    assert text.endswith("two")
    frame = certificate.to_frame()
    assert frame["kind"].tolist() == ["proved", "assumed", "assumed", "measured", "measured", "measured"]
    assert "&lt;=" in certificate._repr_html_()


def test_certificate_of_a_newton_step_and_of_a_network():
    constants = logistic_constants(1.0)
    newton = certify_newton(100, 2, weight_decay=0.5, constants=constants, gradient_norm=1e-3)
    assert newton.bound == a_priori_bound(constants, 0.5, 100, 2, 1e-3)
    assert "solved exactly" in str(newton)
    nothing = empirical(100, 2, reason="the loss is not convex", measured=["retain loss .1"])
    assert nothing.bound is None
    assert "proved    nothing" in str(nothing)
    assert nothing.to_frame().iloc[0]["kind"] == "proved"


# --------------------------------------------------------------------------- noise
def exact_delta(s, epsilon):
    with mpmath.workdps(60):
        s, epsilon = mpmath.mpf(s), mpmath.mpf(epsilon)
        cdf = mpmath.ncdf
        return cdf(1 / (2 * s) - epsilon * s) - mpmath.exp(epsilon) * cdf(-1 / (2 * s) - epsilon * s)


@pytest.mark.parametrize(("epsilon", "delta", "figure"), [(0.1, 0.01, 9.54), (1.0, 1e-5, 3.73)])
def test_multiplier_is_the_published_figure(epsilon, delta, figure):
    assert round(gaussian_multiplier(epsilon, delta), 2) == figure


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("delta", [0.3, 1e-5, 1e-12])
def test_multiplier_solves_the_formula_of_balle_and_wang(epsilon, delta):
    s = gaussian_multiplier(epsilon, delta)
    assert float(exact_delta(s, epsilon)) == pytest.approx(delta, rel=1e-8)
    assert gaussian_epsilon(s, delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize(("s", "epsilon"), [(0.2, 0.0), (3.0, 0.5), (8.0, 2.0), (0.05, 100.0)])
def test_delta_keeps_its_digits(s, epsilon):
    assert gaussian_delta(s, epsilon) == pytest.approx(float(exact_delta(s, epsilon)), rel=1e-9)


def test_large_noise_needs_no_epsilon():
    assert gaussian_epsilon(1e6, 0.01) == 0.0


# --------------------------------------------------------------------------- accounts
def test_two_releases_are_as_private_as_the_account_says():
    # delta(epsilon) = integral of max(p - e^epsilon q, 0), p and q two-dimensional Gaussians that far apart
    accountant = Accountant()
    first = accountant.add(0.8, 1e-2, sensitivity=2.0)
    second = accountant.add(1.5, 1e-3, sensitivity=0.1)
    shift = (first.sensitivity / first.sigma, second.sensitivity / second.sigma)
    epsilon = accountant.epsilon(1e-2)

    grid = np.linspace(-9, 9, 1201)
    a, b = np.meshgrid(grid, grid)
    p = stats.norm.pdf(a) * stats.norm.pdf(b)
    q = stats.norm.pdf(a + shift[0]) * stats.norm.pdf(b + shift[1])
    delta = integrate.simpson(integrate.simpson(np.maximum(p - math.exp(epsilon) * q, 0.0), x=grid), x=grid)
    assert delta == pytest.approx(1e-2, rel=1e-3)
    assert accountant.epsilon(1e-2) <= accountant.zcdp_epsilon(1e-2)


@pytest.mark.parametrize("rho", [1e-5, 0.01, 0.5, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_zcdp_conversion_is_the_infimum(rho, delta):
    a = 1 + np.exp(np.linspace(-8, 18, 400_001))
    with np.errstate(all="raise"):
        brute = np.min(a * rho - np.log(a * delta) / (a - 1) + np.log1p(-1 / a))
    found = zcdp_epsilon(rho, delta)
    assert found == pytest.approx(max(brute, 0.0), rel=1e-6, abs=1e-12)
    assert gaussian_epsilon(1 / math.sqrt(2 * rho), delta) <= found + 1e-12
    assert found <= rho + 2 * math.sqrt(rho * math.log(1 / delta))  # Bun and Steinke 2016, proposition 1.3


def test_one_release_costs_what_it_promises_and_k_add_up():
    accountant = Accountant()
    assert accountant.epsilon(1e-5) == accountant.zcdp_epsilon(1e-5) == accountant.rho == 0.0
    release = accountant.add(1.0, 1e-5, sensitivity=0.5)
    assert release.sigma == pytest.approx(0.5 * gaussian_multiplier(1.0, 1e-5))
    assert accountant.epsilon(1e-5) == pytest.approx(1.0, rel=1e-9)
    for _ in range(3):
        accountant.add(1.0, 1e-5, sensitivity=0.5)
    assert accountant.rho == pytest.approx(4 * release.rho)
    assert len(accountant.releases) == len(accountant.to_frame()) == 4


def test_account_survives_as_text():
    accountant = Accountant()
    accountant.add(0.1, 1e-7, sensitivity=1 / 3)
    accountant.add(2.0, 1e-3, sensitivity=1e-9)
    again = Accountant.from_json(json.dumps(json.loads(accountant.to_json())))
    assert again.releases == accountant.releases
    again.add(1.0, 1e-5, sensitivity=1.0)
    assert len(accountant.releases) == 2


def test_every_part_of_a_seed_sequence_makes_its_own_noise():
    whole = np.random.SeedSequence(5)
    seeds = [whole, *whole.spawn(2), np.random.SeedSequence(5, pool_size=8), np.random.SeedSequence(6)]
    noise = [Accountant().noise_source(seed).standard_normal(4) for seed in seeds]
    assert all(np.abs(a - b).min() > 1e-6 for k, a in enumerate(noise) for b in noise[:k])
    again = np.random.SeedSequence(5).spawn(2)[1]
    np.testing.assert_array_equal(Accountant().noise_source(again).standard_normal(4), noise[2])


# --------------------------------------------------------------------------- audit
def test_audit_uses_exact_limits():
    fpr = stats.binomtest(3, 200).proportion_ci(0.95, method="exact").high
    fnr = stats.binomtest(150, 180).proportion_ci(0.95, method="exact").high
    expected = max(math.log((1 - 0.01 - fnr) / fpr), math.log((1 - 0.01 - fpr) / fnr))
    assert audited_epsilon(3, 200, 150, 180, delta=0.01) == pytest.approx(expected, rel=1e-9)
    assert audited_epsilon(200, 200, 180, 180, delta=0.0) == 0.0
    assert audited_epsilon(100, 200, 100, 200, delta=0.0) == 0.0


def test_audit_stays_below_the_truth_and_finds_a_broken_mechanism():
    rng = np.random.default_rng(2)
    s, trials, n = gaussian_multiplier(1.0, 1e-3), 400, 2000
    for scale, refuted in ((1.0, False), (0.3, True)):
        without = rng.normal(0, s * scale, size=(trials, n)) > 0.5 + 2 * s * scale
        missed = rng.normal(1, s * scale, size=(trials, n)) <= 0.5 + 2 * s * scale
        bounds = [
            audited_epsilon(int(a.sum()), n, int(b.sum()), n, delta=1e-3) for a, b in zip(without, missed, strict=True)
        ]
        above = np.mean(np.array(bounds) > 1.0)
        assert above > 0.9 if refuted else above <= 0.05


def test_a_bound_that_is_no_number_releases_nothing():
    """The square root of a squared error has no derivative where nothing is missed."""
    model = nn.Linear(2, 2).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x, y = torch.randn(9, 2, dtype=torch.float64), torch.ones(9, 2, dtype=torch.float64)
    y[3] = 0.0
    unlearner = Unlearner(
        model, lambda o, t: ((o - t) ** 2).sum(1).sqrt(), (x, y), weight_decay=0.1, convex=True, selector="all"
    )
    with pytest.raises(ValueError, match="no release: the certificate's bound is nan"):
        unlearner.release(1.0, 1e-5, bound=1e-6)
    assert not unlearner.accountant.releases


@pytest.mark.parametrize("digits", [1, 3, 4])
def test_no_printed_bound_is_below_what_it_bounds(digits):
    for value in (1.2341e-6, 1.00049, 9.9951, 2.0**0.5, 5e-324, 123456.7):
        printed = float(rounded_up(value, digits))
        assert value * (1 - 1e-9) <= printed <= value * (1 + 10.0 ** (1 - digits)) * (1 + 1e-9)
    assert rounded_up(0.1) == "0.1"


def test_every_bound_of_a_certificate_is_printed_from_above():
    constants = ridge_constants(math.sqrt(2.0), 1.00004, 0.1)  # to four digits 1.414 and 1, both too small
    assert "||x|| <= 1.415, ||y|| <= 1.001" in constants.source
    found = certify(100, 1, weight_decay=1.0, gradient_norm=1e-3, rounding=1.4e-7, constants=logistic_constants(1.0))
    assert "rounding <= 2e-07" in found.measured[0]
    prior = a_priori_bound(logistic_constants(1.0), 1.0, 100, 1)
    assert float(found.measured[1].rsplit(" ", 1)[1]) >= prior


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_proves_nothing(norm):
    assert "proved    nothing" in str(certify(100, 1, weight_decay=1.0, gradient_norm=norm))


def test_noise_that_cannot_be_computed_is_refused():
    """At epsilon = 1e-12 and delta = 1e-100 the noise had a delta of 5e-41; 1e-9 still has six digits."""
    with pytest.raises(ValueError, match="epsilon is 1e-12; it must be at least 1e-9"):
        gaussian_multiplier(1e-12, 1e-100)
    assert float(exact_delta(gaussian_multiplier(1e-9, 1e-9), 1e-9)) == pytest.approx(1e-9, rel=1e-5)


@pytest.mark.parametrize("where", ["output", "loss", "model"])
def test_what_rounds_to_single_precision_on_the_way_has_no_certificate(where):
    class Rounding(nn.Linear):
        def forward(self, x):
            return super().forward(x).float().double()

    def rounded(o, t):
        return nn.functional.cross_entropy(o.float(), t, reduction="none")

    X, y = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    options = {"weight_decay": 0.1, "selector": "all", "convex": True, "random_state": 0}
    model = (Rounding if where == "model" else nn.Linear)(4, 3).double()
    loss = rounded if where == "loss" else "cross_entropy"
    output = {"output": lambda o: o.float()} if where == "output" else {}
    with pytest.raises(ValueError, match=r"round to a lower one on the way|needs the gradient in double"):
        Unlearner(model, loss, (X, y), **options, **output)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(ValueError, match=r"round to a lower one on the way|needs the gradient in double"):
        Unlearner(model, loss, (X, y), **options, **output)
    for kind in (torch.float32, torch.float64):  # what computes in the type of its inputs
        Unlearner(nn.Linear(4, 3).to(kind), "cross_entropy", (X.to(kind), y), **options)


def test_what_a_certificate_takes_for_granted_of_frozen_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    model[0].requires_grad_(False)
    model.register_buffer("index", torch.arange(3))
    X, y = torch.randn(30, 4), torch.arange(30) % 3
    ours = Unlearner(model, "cross_entropy", (X, y), weight_decay=0.1, selector="all", convex=True, update="gradient")
    assumed = ours.forget([0]).certificate.assumed
    assert "the buffers of the model (index) do not depend on the training data" in assumed
    assert "the frozen parameters of the model (0.weight, 0.bias) do not depend on the training data" in assumed
