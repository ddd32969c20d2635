"""Newton steps on the linearised model, against retrained optima, autograd and closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

from codec.unlearn import Unlearner, _curvature, baselines
from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._demo import TRAIN, WEIGHT_DECAY, digits, train
from codec.unlearn._newton import follow, missed
from codec.unlearn._problem import Problem
from codec.unlearn._slices import Slices
from codec.unlearn._solve import Solution
from codec.unlearn._units import find_units
from codec.unlearn._update import deletion_step


def softmax_regression(x, y, decay):
    """The minimum of mean cross-entropy plus decay / 2 ||w||^2, by L-BFGS from zero."""
    model = nn.Linear(x.shape[1], 3).double()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_grad=1e-12, tolerance_change=0.0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def objective():
        optimizer.zero_grad()
        penalty = sum(p.square().sum() for p in model.parameters())
        value = nn.functional.cross_entropy(model(x), y) + decay / 2 * penalty
        value.backward()
        return value

    optimizer.step(objective)
    return model


@pytest.fixture(scope="module")
def blobs():
    """Three classes, a softmax regression at its optimum, and one without the last class."""
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(150) % 3
    x = torch.randn(150, 4, dtype=torch.float64, generator=draw) + 1.5 * torch.eye(4, dtype=torch.float64)[y]
    kept = y < 2
    return x, y, softmax_regression(x, y, 0.01), softmax_regression(x[kept], y[kept], 0.01)


def distance(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    with torch.no_grad():
        return math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))


def left_by(step_options, blobs):
    """Distance to the retrained optimum after the class is gone, doing nothing = 1."""
    x, y, model, retrained = blobs
    problem = Problem(model, "cross_entropy", (x, y), weight_decay=0.01)
    params, slices, gone = problem.parameters(), Slices(find_units(problem.model)), (y == 2).nonzero()[:, 0]
    whole = linearise(problem, params, tolerance=0.0) if step_options.pop("linearised") else None
    step = deletion_step(problem, params, gone, slices, damping=0.0, linearisation=whole, max_rise=10.0, **step_options)
    return distance(problem.model_with(slices.add(params, step.delta)), retrained) / distance(model, retrained)


def test_a_class_leaves_a_softmax_regression_where_retraining_without_it_ends(blobs):
    assert left_by({"linearised": True, "tol": 1e-6}, blobs) <= 1e-6
    assert left_by({"linearised": False, "tol": 1e-6}, blobs) > 0.1  # the quadratic model alone stops on the way


def test_by_default_it_ends_near_there(blobs):
    x, y, model, retrained = blobs
    ours = Unlearner(model, "cross_entropy", (x, y), weight_decay=0.01, damping=0.0, random_state=0)
    deletion = ours.forget(target=2)
    assert deletion.accepted
    assert "Newton steps on the linearised model" in deletion.reason
    assert distance(ours.model, retrained) <= 0.1 * distance(model, retrained)


def test_a_few_samples_are_left_to_one_step(blobs):
    x, y, model, _ = blobs
    ours = Unlearner(model, "cross_entropy", (x, y), weight_decay=0.01, selector="all", damping=0.0, random_state=0)
    assert "Newton steps" not in ours.forget([3]).reason


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_loses_a_class_no_longer_names_it(seed):
    x, y = digits()
    x, y, new_x, new_y = x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]
    ours = Unlearner(train(x, y, seed), "cross_entropy", (x, y), weight_decay=WEIGHT_DECAY, random_state=seed)
    deletion = ours.forget(target=7)
    retrained = train(x[y != 7], y[y != 7], seed + 100)
    with torch.no_grad():
        found, again = ours.model(new_x).argmax(1), retrained(new_x).argmax(1)
        named = float((ours.model(x[y == 7]).argmax(1) == 7).double().mean())
    assert deletion.accepted
    assert not bool((again == 7).any())
    assert named <= 0.1  # one Gauss-Newton step leaves .8 of them
    right, right_again = ((guess == new_y).double().mean() for guess in (found, again))
    assert abs(float(right - right_again)) <= 0.015  # two standard errors of the difference, sqrt(2 .01 / 397) each


def linear_model(n=12, classes=3):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, classes)).double()
    data = torch.randn(n, 5, dtype=torch.float64), torch.arange(n) % classes
    return Problem(model, "cross_entropy", data, weight_decay=0.05)


@pytest.mark.parametrize("gone_for_good", [False, True])
@pytest.mark.parametrize("every", [0, 2])
def test_the_force_is_the_gradient_of_the_linearised_models_loss(every, gone_for_good, monkeypatch):
    problem = linear_model()
    params, units = problem.parameters(), find_units(problem.model)
    slices = Slices(units, torch.arange(0, units.n_units, every) if every else None)
    gone = torch.tensor([1, 5])
    kept = torch.tensor([i for i in range(problem.n) if i not in {1, 5}])
    curvature = Curvature(problem, params, kept, slices, linearisation=linearise(problem, params, tolerance=0.0))
    r = curvature._restricted
    assert gone.tolist() == r.forgotten.tolist()
    inputs, targets = problem.fetch(kept)

    def loss(x):
        change = {k: torch.zeros_like(v) for k, v in params.items()} | slices.scatter(x)
        outputs, along = jvp(lambda w: functional_call(problem.model, w, (inputs,)), (dict(params),), (change,))
        return nn.functional.cross_entropy(outputs + along, targets)

    x = torch.randn(slices.size, dtype=torch.float64)
    slope, zero = (torch.autograd.functional.jacobian(loss, at) for at in (x, torch.zeros_like(x)))
    torch.testing.assert_close(r.decode(r.force(r.encode(x))), slope - zero)
    v = torch.randn(slices.size, dtype=torch.float64)
    bend = torch.autograd.functional.hvp(loss, x, v)[1]
    torch.testing.assert_close(r.decode(r.moved(r.encode(x)).product(r.encode(v))), bend)
    b = torch.randn(slices.size, dtype=torch.float64)
    to_the_end = {"tol": 1e-8, "max_iter": 500}
    monkeypatch.setattr(_curvature, "GONE", 0.0 if gone_for_good else 1.0)
    found = curvature.minimise(curvature.solve(b, 0.01, **to_the_end), b, **to_the_end, last=1 / 3)
    share = 1 / 3 if gone_for_good else 1.0
    pull = slices.gather(
        {name: torch.full_like(v, 0.05 + 0.01 * (share if name[0] == "2" else 1.0)) for name, v in params.items()}
    )
    least = torch.autograd.functional.jacobian(loss, found.x) - zero + pull * found.x
    assert float((least - b).norm()) <= 1e-6 * float(b.norm())
    assert found.steps > 1
    small = 1e-3 * b  # the loss is as good as quadratic
    first = curvature.solve(small, 0.01, **to_the_end)
    assert curvature.minimise(first, small, tol=0.2, max_iter=500) is first
    # Also where the damping holds most of it: a layer damped less would look as if two thirds of that were missed.
    first = curvature.solve(small, 1e3, **to_the_end)
    assert curvature.minimise(first, small, tol=0.2, max_iter=500) is first


def test_a_closer_tolerance_solves_the_same_problem():
    """Where the quadratic model is near the last layer is damped as the others are, and always by one's own damping."""
    x, y = (part[:TRAIN] for part in digits())
    model = train(x, y, 0)

    def end(damping, tolerance, **request):
        ours = Unlearner(
            model, "cross_entropy", (x, y), weight_decay=WEIGHT_DECAY, selector="all", damping=damping,
            tolerance=tolerance, random_state=0,
        )  # fmt: skip
        deletion = ours.forget(**request)
        return torch.cat([(ours.parameters[k] - v.detach()).flatten() for k, v in model.named_parameters()]), deletion

    for damping in (0.05, "auto"):
        (loose, _), (close, deletion) = (end(damping, tolerance, ids=[4]) for tolerance in (0.02, 1e-7))
        assert "Newton steps" in deletion.reason
        assert float((close - loose).norm()) < 0.1 * float(close.norm())
    chosen, deletion = end("auto", 0.2, target=7)
    given, _ = end(deletion.damping, 0.2, target=7)
    assert float(given.norm()) < 0.98 * float(chosen.norm())


def atan_force(x):
    """Gradient of a convex function whose curvature fades away from x = 2."""
    return torch.atan(x - 2.0) + math.atan(2.0) + 0.1 * x


def dot(one, other):
    return float(one @ other)


def newton_on(b, tol=1e-6):
    right = torch.tensor([b], dtype=torch.float64)

    def solve(x, rest):
        return Solution(rest / (1.0 / (1.0 + (x - 2.0).square()) + 0.1), 1, 0.0, 0.0)

    first = solve(torch.zeros(1, dtype=torch.float64), right)
    return first, follow(first, right, atan_force, solve, dot, tol)


def test_steps_that_overshoot_are_halved():
    b = math.atan(2.0) + 0.2  # the solution is 2; a whole first step would end beyond 4
    first, found = newton_on(b)
    assert float(first.x) > 4.0
    assert float(found.x) == pytest.approx(2.0, abs=1e-5)
    assert found.steps > 1


@pytest.mark.parametrize(("b", "enough"), [(0.01, True), (math.atan(2.0) + 0.2, False)])
def test_a_first_step_answers_the_right_side_where_the_curvature_stays(b, enough):
    first, _ = newton_on(b)
    right = torch.tensor([b], dtype=torch.float64)
    share = float((right - atan_force(first.x)).abs()) / b
    assert (share <= 0.2) is enough
    assert missed(first, right, atan_force, dot) == pytest.approx(share)
    assert missed(first, 0.0 * right, atan_force, dot) == 0.0


def test_a_step_of_no_use_at_any_length_leaves_the_first_solution():
    first = Solution(torch.tensor([1.0]), 3, 0.0, 0.0)
    found = follow(first, torch.tensor([1.0]), torch.neg, lambda *_: first, dot, 0.1)
    assert found is first


# --------------------------------------------------------------------------- nothing is left out where a step is to be exact
def wide_ridge(n=300, d=120, decay=1e-4):
    """Correlated columns, more than a layer's inputs that are kept whole; the model at its optimum, and one without."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0]
    x = (torch.randn(n, d, generator=generator) * torch.logspace(0, -2, d)).double() @ turn
    y = x @ torch.randn(d, 1, generator=generator).double() * 3 + 0.1 * torch.randn(n, 1, generator=generator).double()

    def optimum(rows):
        curvature = 2 * x[rows].T @ x[rows] / len(rows) + decay * torch.eye(d).double()
        return torch.linalg.solve(curvature, 2 * x[rows].T @ y[rows] / len(rows)).T

    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(optimum(torch.arange(n)))
    return model, (x, y), decay, optimum(torch.arange(20, n))


@pytest.mark.parametrize("solver", ["auto", "cholesky"])
def test_an_undamped_step_of_wide_ridge_is_retraining(solver):
    """With 2 % of the trace left out it ended .94 of the way off, and Cholesky's was refused."""
    model, data, decay, wanted = wide_ridge()
    options = {"weight_decay": decay, "selector": "all", "damping": 0.0, "tolerance": 1e-10, "solver": solver}
    unlearner = Unlearner(model, "mse", data, random_state=0, **options)
    assert unlearner.forget(range(20)).accepted
    torch.testing.assert_close(unlearner.model.weight.detach(), wanted, rtol=0, atol=1e-6)


def test_the_newton_baseline_of_wide_ridge_is_retraining():
    model, data, decay, wanted = wide_ridge()
    problem = Problem(model, "mse", data, weight_decay=decay)
    for kind in ("ggn", "hessian"):
        found = baselines.newton(problem, range(20), curvature=kind, tol=1e-10, max_iter=2000)
        torch.testing.assert_close(found.parameters["weight"], wanted, rtol=0, atol=1e-6)


def test_a_model_at_its_optimum_has_the_step_of_the_whole_curvature():
    """Automatic damping is next to nothing there: what is left out would be the step's largest part."""
    model, data, decay, _ = wide_ridge()
    unlearner = Unlearner(model, "mse", data, weight_decay=decay, selector="all", tolerance=1e-8, random_state=0)
    mu = unlearner.forget(range(20)).damping
    found = baselines.newton(Problem(model, "mse", data, weight_decay=decay), range(20), damping=mu, curvature="hessian",
                             tol=1e-10, max_iter=2000)  # fmt: skip
    torch.testing.assert_close(unlearner.model.weight.detach(), found.parameters["weight"], rtol=0, atol=1e-5)


def test_the_newton_step_of_wide_softmax_takes_the_exact_hessian():
    """The generalised Gauss-Newton matrix of a linear classifier is its Hessian."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 90, generator=generator).double() * torch.logspace(0.5, -1.5, 90)
    y = (x[:, :3] + torch.randn(200, 3, generator=generator).double()).argmax(1)
    problem = Problem(nn.Linear(90, 3).double(), "cross_entropy", (x, y), weight_decay=1e-3)
    steps = [baselines.newton(problem, range(10), curvature=kind, gradient="retain", tol=1e-10, max_iter=2000).parameters
             for kind in ("ggn", "hessian")]  # fmt: skip
    torch.testing.assert_close(steps[0]["weight"], steps[1]["weight"], rtol=1e-6, atol=1e-7)
