"""Deletion steps against closed forms and retraining."""

import math

import pytest
import torch
from torch import nn

from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._point import objective_gradient, pull, training_gradient
from codec.unlearn._problem import Problem
from codec.unlearn._products import Products
from codec.unlearn._slices import Slices
from codec.unlearn._units import find_units
from codec.unlearn._update import (
    METHODS,
    _crossing,
    captured_decrement,
    deletion_step,
    doubt,
    gradient_norm_units,
    newton_steps,
)


def ridge(decay=0.1, n=40):
    """A ridge regression at its optimum, with the optimum without some samples, by the normal equations."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator)
    y = x @ torch.randn(4, 2, dtype=torch.float64, generator=generator) + torch.randn(
        n, 2, dtype=torch.float64, generator=generator
    )

    def solve(rows):
        # mean over the two outputs of squared errors + decay/2 ||w||^2: X'X w / n + decay w = X'y / n
        a = torch.cat([x[rows], torch.ones(len(rows), 1, dtype=x.dtype)], dim=1)
        return torch.linalg.solve(
            a.T @ a / len(rows) + decay * torch.eye(5, dtype=x.dtype), a.T @ y[rows] / len(rows)
        ).T

    model = nn.Linear(4, 2).double()
    best = solve(torch.arange(n))
    with torch.no_grad():
        model.weight.copy_(best[:, :-1])
        model.bias.copy_(best[:, -1])
    return Problem(model, "mse", (x, y), weight_decay=decay), solve


def as_matrix(params):
    return torch.cat([params["weight"], params["bias"][:, None]], dim=1)


@pytest.mark.parametrize("method", ["difference", "gradient"])
def test_one_undamped_step_is_ridge_retraining(method):
    problem, solve = ridge()
    slices, params = Slices(find_units(problem.model)), problem.parameters()
    gone = torch.tensor([2, 7, 30])
    kept = torch.tensor([i for i in range(problem.n) if i not in {2, 7, 30}])
    step = deletion_step(problem, params, gone, slices, method=method, damping=0.0)
    assert step.accepted
    assert float((as_matrix(slices.add(params, step.delta)) - solve(kept)).norm()) <= 1e-10
    again = newton_steps(problem, params, gone, slices).delta
    assert float((as_matrix(slices.add(params, again)) - solve(kept)).norm()) <= 1e-10


@pytest.mark.parametrize("method", ["sekhari", "certified_removal"])
def test_the_forgotten_samples_weight_decay_is_in_the_step(method):
    """At a stationary point Sekhari's form and Guo's are exact too, but only with m lambda w."""
    problem, solve = ridge(decay=0.5)
    slices, params = Slices(find_units(problem.model)), problem.parameters()
    step = deletion_step(problem, params, [5], slices, method=method, damping=0.0)
    kept = torch.tensor([i for i in range(problem.n) if i != 5])
    assert float((as_matrix(slices.add(params, step.delta)) - solve(kept)).norm()) <= 1e-10


def network(n=60, decay=0.01):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, dtype=torch.float64, generator=generator)
    y = (x[:, 0] > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    return Problem(model, "cross_entropy", (x, y), weight_decay=decay)


def test_difference_step_solves_its_system_and_is_not_gradient_ascent():
    """With a loss that is quadratic in the outputs; others may take further steps (test_newton)."""
    known = network()
    x, y = known.fetch(torch.arange(60))
    targets = torch.nn.functional.one_hot(y, 2).double()
    problem = Problem(known.model, "mse", (x, targets), weight_decay=0.01)
    params, slices = problem.parameters(), Slices(find_units(problem.model))
    gone, kept = torch.arange(5), torch.arange(5, 60)
    curvature = Curvature(problem, params, kept, slices)
    wanted = curvature.gradient(torch.arange(60)) - curvature.gradient(kept)
    step = deletion_step(problem, params, gone, slices, damping=0.05, tol=1e-9, max_rise=10.0)
    exact = torch.linalg.solve(curvature.dense() + 0.05 * torch.eye(slices.size, dtype=wanted.dtype), wanted)
    torch.testing.assert_close(step.delta, exact, rtol=1e-6, atol=1e-9)
    ascent = deletion_step(problem, params, gone, slices, method="gradient_ascent", damping=0.05, max_rise=10.0)
    assert float(torch.cosine_similarity(step.delta, ascent.delta, dim=0)) < 0.95
    assert step.decrement == pytest.approx(0.5 * float(wanted @ exact), rel=1e-6)


def test_captured_decrement_is_the_ratio_of_dense_solutions():
    problem = network()
    params, slices = problem.parameters(), Slices(find_units(problem.model))
    curvature = Curvature(
        problem, params, torch.arange(5, 60), slices, linearisation=linearise(problem, params, tolerance=0.0)
    )
    g = curvature.gradient(torch.arange(5))
    units = gradient_norm_units(slices, g, 3)
    norms = slices.unit_sums(g.square())
    assert set(units.tolist()) == set(norms.argsort(descending=True)[:3].tolist())
    few, h = Slices(slices.units, units), curvature.dense()
    mask = slices.gather(
        few.scatter(torch.ones(few.size, dtype=g.dtype))
        | {k: torch.zeros_like(v) for k, v in params.items() if k not in few.parameters}
    ).bool()
    part = g[mask] @ torch.linalg.solve(h[mask][:, mask], g[mask])
    assert captured_decrement(curvature, g, units) == pytest.approx(
        float(part / (g @ torch.linalg.solve(h, g))), rel=1e-4
    )


def equal(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_rise": -0.9}, "allowed rise"),
        ({"guard": True, "max_rise": 100.0}, "guard 1 -> 0, more than the allowed drop"),
    ],
    ids=["objective", "guard"],
)
def test_a_step_that_hurts_is_refused_and_leaves_everything_as_it_was(options, reason):
    problem = network()
    params, slices = problem.parameters(), Slices(find_units(problem.model))
    before = {k: v.clone() for k, v in params.items()}
    if "guard" in options:
        options = {**options, "guard": lambda p: 1.0 if equal(p, before) else 0.0}
    step = deletion_step(problem, params, [0, 1], slices, **options)
    assert not step.accepted
    assert reason in step.reason
    assert not step.delta.any()
    assert equal(before, problem.parameters())


def test_a_newton_step_that_overshoots_is_refused():
    """Far out on a logistic loss the curvature is next to nothing: the step goes 477 the other way, by hand."""
    w, decay, x = 10.0, 1e-3, torch.ones(11, 1, dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, w)
    y = torch.tensor([1.0, 0.0] * 5 + [1.0], dtype=torch.float64)[:, None]
    problem = Problem(model, nn.BCEWithLogitsLoss(reduction="none"), (x, y), weight_decay=decay)
    step = newton_steps(problem, problem.parameters(), [10], Slices(find_units(model)))

    def objective(v):  # half of the retained samples of each class
        return 0.5 * (math.log1p(math.exp(-abs(v))) + max(v, 0.0) + math.log1p(math.exp(-abs(v))) + max(-v, 0.0)) + (
            decay / 2 * v**2
        )

    p = 1.0 / (1.0 + math.exp(-w))
    end = w - (p - 0.5 + decay * w) / (p * (1.0 - p) + decay)
    assert end < -400.0
    assert step.retain_objective == pytest.approx((objective(w), objective(end)))
    assert not step.accepted
    small = newton_steps(problem, {"weight": torch.ones(1, 1, dtype=torch.float64)}, [10], Slices(find_units(model)))
    assert small.accepted
    assert small.retain_objective[1] < small.retain_objective[0] == pytest.approx(objective(1.0))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_finite_step(method):
    problem = network()
    slices = Slices(find_units(problem.model), [0, 3, 6])
    step = deletion_step(problem, problem.parameters(), [3, 4], slices, method=method, damping=0.1, max_rise=100.0)
    assert step.delta.shape == (slices.size,)
    assert torch.isfinite(step.delta).all()
    assert step.delta.any()


def test_bad_requests_are_refused():
    problem = network()
    slices, params = Slices(find_units(problem.model)), problem.parameters()
    for ids, match in (([], "at least one"), (range(60), "every sample")):
        with pytest.raises(ValueError, match=match):
            deletion_step(problem, params, torch.tensor(list(ids), dtype=torch.long), slices)
    with pytest.raises(ValueError, match="method is"):
        deletion_step(problem, params, [0], slices, method="magic")
    with pytest.raises(ValueError, match="damping is"):
        deletion_step(problem, params, [0], slices, damping=-1.0)


def test_automatic_damping_by_hand_and_the_least_at_an_optimum():
    """3 times the gradient's norm over the parameters'; 1e-4 is left for a stationary model."""
    problem, solve = ridge()
    given = {"weight": torch.tensor([0.3, 0.0]), "bias": torch.tensor(0.4)}
    assert pull(problem, {"weight": torch.tensor([6.0, 8.0])}, given, torch.arange(40)) == pytest.approx(3 * 0.5 / 10)
    slices, params = Slices(find_units(problem.model)), problem.parameters()
    step = deletion_step(problem, params, [4], slices)
    assert step.damping == 1e-4
    kept = torch.tensor([i for i in range(problem.n) if i != 4])
    nothing = float((as_matrix(params) - solve(kept)).norm())
    assert float((as_matrix(slices.add(params, step.delta)) - solve(kept)).norm()) <= 1e-2 * nothing


def test_what_was_not_learnt_is_damped_more():
    """1 / (1 - r^2), r the mean of one minus the probability, 5 at most; only where the loss is known to tell it."""
    assert doubt(-torch.tensor([0.5, 0.125]).log()) == pytest.approx(1 / (1 - 0.6875**2))
    assert doubt(torch.zeros(3)) == 1.0
    assert doubt(torch.tensor([1e4])) == 5.0
    known = network()
    params, slices = known.parameters(), Slices(find_units(known.model))
    by_loss = known.sample_losses(params).argsort()
    for ids in (by_loss[:3], by_loss[-3:]):
        step = deletion_step(known, params, ids, slices, first_damping=0.5, max_rise=100.0)
        with torch.no_grad():
            x, y = known.fetch(ids)
            chances = torch.softmax(known.model(x), dim=1)[torch.arange(3), y]
        assert step.damping == pytest.approx(0.5 / (1.0 - float(1.0 - chances.mean()) ** 2))
    data = known.fetch(torch.arange(60))
    unknown = Problem(known.model, lambda o, t: torch.nn.functional.cross_entropy(o, t), data, weight_decay=0.01)
    assert deletion_step(unknown, params, ids, slices, first_damping=0.5, max_rise=100.0).damping == 0.5


def normed(n=31, frozen=False):
    """A network with a batch norm that was trained for a few steps."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 4, dtype=torch.float64, generator=generator) + 1.0
    y = (x[:, 0] > 1.0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()
    for _ in range(5):
        model(x)
    model[1].requires_grad_(not frozen)
    return model, (x, y)


@pytest.mark.parametrize("batch_size", [10, 15, 1024])  # 31 = 3 * 10 + 1: no batch of a single sample
def test_the_gradient_that_training_saw_has_the_statistics_of_batches(batch_size):
    model, (x, y) = normed()
    problem = Problem(model, "cross_entropy", (x, y), weight_decay=0.1, batch_size=batch_size)
    params, before = problem.parameters(), {k: v.clone() for k, v in problem.model.state_dict().items()}
    evaluated = objective_gradient(Products(problem, params), torch.arange(31))
    found = training_gradient(problem, params, evaluated, torch.arange(31))
    model.train()
    sizes = {10: 11, 15: 16, 1024: 1024}
    loss = sum(
        torch.nn.functional.cross_entropy(model(part), target, reduction="sum")
        for part, target in zip(torch.split(x, sizes[batch_size]), torch.split(y, sizes[batch_size]), strict=True)
    )
    wanted = torch.autograd.grad(loss / 31, list(model.parameters()))
    for (name, value), gradient in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(value, gradient + 0.1 * params[name])
    assert any(not torch.allclose(found[k], evaluated[k]) for k in found)
    assert all(torch.equal(value, before[name]) for name, value in problem.model.state_dict().items())
    step = deletion_step(problem, params, [3], Slices(find_units(problem.model)), max_rise=100.0)
    length = sum(((w - 1.0) if name == "1.weight" else w).square().sum() for name, w in params.items()) ** 0.5
    size = sum(g.square().sum() for g in found.values()) ** 0.5
    assert step.damping == pytest.approx(3.0 * float(size / length) * doubt(problem.sample_losses(params, [3])))


def test_a_batch_norm_without_scales_was_trained_too():
    model, data = normed()
    model[1] = nn.BatchNorm1d(5, affine=False).double()
    model(data[0])
    problem = Problem(model, "cross_entropy", data, weight_decay=0.1)
    params, ids = problem.parameters(), torch.arange(31)
    gradient = objective_gradient(Products(problem, params), ids)
    assert not torch.allclose(training_gradient(problem, params, gradient, ids)["0.weight"], gradient["0.weight"])


def test_a_batch_norm_that_processes_share_is_one_of_them():
    found = []
    for share in (lambda model: model, nn.SyncBatchNorm.convert_sync_batchnorm):
        model, data = normed()
        problem = Problem(share(model), "cross_entropy", data, weight_decay=0.1, batch_size=15)
        params, ids = problem.parameters(), torch.arange(31)
        found.append(training_gradient(problem, params, objective_gradient(Products(problem, params), ids), ids))
        assert found[0].keys() == found[-1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0.0, atol=0.0)


def test_the_gradient_is_as_it_was_without_a_batch_norm_that_was_trained():
    for problem in (network(), Problem(*normed(frozen=True)[:1], "cross_entropy", normed()[1], weight_decay=0.1)):
        params = problem.parameters()
        gradient = objective_gradient(Products(problem, params), torch.arange(problem.n))
        assert training_gradient(problem, params, gradient, torch.arange(problem.n)) is gradient


def test_automatic_damping_is_doubled_while_the_step_hurts():
    problem = network()
    params, slices = problem.parameters(), Slices(find_units(problem.model))
    first = 0.02
    tried = []

    def guard(moved):
        if all(torch.equal(moved[k], params[k]) for k in params):
            return 1.0
        tried.append(moved)
        return 1.0 if len(tried) == 3 else 0.0

    step = deletion_step(problem, params, [0, 1], slices, first_damping=first, guard=guard, max_rise=100.0)
    assert step.accepted
    assert step.damping == pytest.approx(4 * first * doubt(problem.sample_losses(params, [0, 1])))


def test_the_length_makes_the_forgotten_loss_what_the_linearised_model_predicts():
    problem = network(decay=1e-4)
    params, slices = problem.parameters(), Slices(find_units(problem.model))
    gone = torch.arange(15)
    options = {"damping": 0.015, "max_rise": 1e6, "tol": 1e-8}
    whole = deletion_step(problem, params, gone, slices, **options).delta
    fitted = deletion_step(problem, params, gone, slices, fit_length=True, **options)
    torch.testing.assert_close(fitted.delta, fitted.step_length * whole)
    assert 0.5 <= fitted.step_length <= 2.0
    x, y = problem.fetch(gone)
    small = 1e-6  # J delta by a central difference
    ends = [problem.outputs(slices.add(params, whole, s), x) for s in (small, -small)]
    linear = problem.outputs(params, x) + (ends[0] - ends[1]) / (2 * small)
    wanted = float(nn.functional.cross_entropy(linear, y))
    found = float(problem.sample_losses(slices.add(params, fitted.delta), gone).mean())
    assert abs(found - wanted) <= 0.03 * wanted
    plain = float(problem.sample_losses(slices.add(params, whole), gone).mean())
    assert abs(plain - wanted) > 0.05 * wanted  # else nothing was tested


@pytest.mark.parametrize(
    ("f", "wanted", "length"),
    [
        (lambda a: a**2, 1.0, 1.0),
        (lambda a: a**2, 2.25, 1.5),
        (lambda a: a, 0.75, 0.75),
        (lambda a: a, 5.0, 1.0),
        (lambda a: a, 0.1, 0.5),
    ],
)
def test_a_length_is_found_within_its_bounds(f, wanted, length):
    assert _crossing(f, wanted, 0.5, 2.0) == pytest.approx(length, rel=0.02)


def test_a_length_is_found_to_two_per_cent_of_losses_below_zero():
    """The tolerance is that of the loss's size: where it is there already no other length is tried."""
    assert _crossing(lambda a: a - 3.0, -2.0, 0.5, 2.0) == 1.0
    assert _crossing(lambda a: a - 3.0, -2.02, 0.5, 2.0) == 1.0
    assert abs(_crossing(lambda a: a - 3.0, -2.25, 0.5, 2.0) - 0.75) <= 0.02 * 2.25
