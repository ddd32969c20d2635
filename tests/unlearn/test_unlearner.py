"""Requests from the call to the weights: exact where retraining is exact, and nothing lost on the way."""

import contextlib
import copy
import functools
import gc
import itertools
import math
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from codec.unlearn import LedgerError, Problem, Unlearner, find_units
from codec.unlearn._ledger import Ledger
from codec.unlearn._point import Point, gradient_norm
from codec.unlearn._record import record

N, D, Q = 60, 4, 2


@pytest.fixture
def ridge():
    """Linear model at the minimiser of mean squared error plus weight decay, in double precision."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(N, D, generator=generator, dtype=torch.float64)
    Y = X @ torch.randn(D, Q, generator=generator, dtype=torch.float64) + torch.randn(
        N, Q, generator=generator, dtype=torch.float64
    )
    return solved(X, Y), X, Y


def solved(X, Y, weight_decay=0.1):
    """Closed form: F = 1/(n Q) ||X W - Y||^2 + weight_decay / 2 ||W||^2, bias included."""
    X1 = torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], 1)
    H = 2.0 * X1.T @ X1 / (len(X) * Q) + weight_decay * torch.eye(D + 1, dtype=X.dtype)
    W = torch.linalg.solve(H, 2.0 * X1.T @ Y / (len(X) * Q))
    model = nn.Linear(D, Q).double()
    with torch.no_grad():
        model.weight.copy_(W[:D].T)
        model.bias.copy_(W[D])
    return model


def net(n=80, seed=0):
    """A network of one's own that was trained for a while, and its data."""
    return copy.deepcopy(trained_net(n, seed))


@functools.cache
def trained_net(n, seed):
    torch.manual_seed(seed)
    X, y = torch.randn(n, 5), torch.randint(3, (n,))
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        (
            nn.functional.cross_entropy(model(X), y) + 0.005 * sum(p.square().sum() for p in model.parameters())
        ).backward()
        optimizer.step()
    return model, X, y


def unlearner(model, X, y, **options):
    settings = {"weight_decay": 0.01, "selector": "all", "random_state": 0, **options}
    return Unlearner(model, "cross_entropy", (X, y), **settings)


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("update", ["gradient", "difference", "sekhari"])
def test_ridge_with_all_units_is_retraining(ridge, update):
    model, X, Y = ridge
    ours = Unlearner(model, "mse", (X, Y), weight_decay=0.1, selector="all", update=update, damping=0.0, convex=True)
    ids = [3, 17, 40]
    deletion = ours.forget(ids)
    keep = [i for i in range(N) if i not in ids]
    again = solved(X[keep], Y[keep])
    found = ours.model
    torch.testing.assert_close(found.weight, again.weight, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.bias, again.bias, rtol=0, atol=1e-10)
    assert deletion.accepted
    assert deletion.certificate.kind == "a posteriori"
    distance = torch.cat([(found.weight - again.weight).flatten(), found.bias - again.bias]).norm()
    assert distance.item() <= deletion.certificate.bound


@pytest.mark.parametrize("update", ["difference", "gradient"])
def test_solvers_solve_the_same_system(ridge, update):
    model, X, Y = ridge
    options = {"weight_decay": 0.1, "selector": "all", "update": update, "damping": 0.0, "convex": True}
    found = {}
    for solver in ("auto", "cg", "cholesky"):
        ours = Unlearner(model, "mse", (X, Y), solver=solver, tolerance=1e-10, **options)
        products = ours.forget([3, 17, 40]).iterations
        assert (products > 0) == (solver == "cg")  # few parameters: 'auto' factors
        found[solver] = ours.parameters
    for solver in ("cg", "cholesky"):
        torch.testing.assert_close(found[solver], found["auto"], rtol=0, atol=1e-9)


def test_cholesky_refuses_what_does_not_fit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 90), nn.Tanh(), nn.Linear(90, 2))
    ours = unlearner(model, torch.randn(30, 100), torch.randint(2, (30,)), solver="cholesky")
    with pytest.raises(ValueError, match=r"9272 parameters is not offered .*'cg', or choose fewer units"):
        ours.forget(0)
    assert ours.forgotten == ()
    ours.options.max_units, ours.options.selector = 3, "gradient_norm"
    assert ours.forget(0).accepted


def test_the_order_of_requests_does_not_matter(ridge):
    model, X, Y = ridge
    options = {"weight_decay": 0.1, "selector": "all", "damping": 0.0}
    one, two = (Unlearner(model, "mse", (X, Y), **options) for _ in range(2))
    one.forget([1, 2])
    one.forget(9)
    two.forget([9, 1])
    two.forget(2)
    torch.testing.assert_close(one.parameters, two.parameters, rtol=0, atol=1e-12)


def test_the_callers_model_is_never_changed():
    model, X, y = net()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ours = unlearner(model, X, y)
    ours.forget([0, 1])
    with torch.no_grad():
        ours.model[0].weight.zero_()  # a copy, too
    assert model.training
    assert same(before, model.state_dict())
    assert not same(before, ours.model.state_dict())


@pytest.mark.parametrize(
    "selector", ["lfoci", "lfoci-pooled", "first-pick", "gradient_norm", "kfac_greedy", "greedy_decrement", "random"]
)
def test_only_the_chosen_units_change(selector):
    model, X, y = net()
    ours = unlearner(model, X, y, selector=selector, max_units=4, n_perturbations=100)
    deletion = ours.forget([5, 6, 7])
    assert deletion.accepted
    assert 1 <= len(deletion.units) <= 4
    assert 0.0 < deletion.captured_decrement <= 1.0
    assert 0.0 < deletion.captured_by_gradient_norm <= 1.0
    first = {u for u in deletion.units if u < 16}
    moved = (ours.model[0].weight != model[0].weight).any(1).nonzero().flatten().tolist()
    assert set(moved) <= first
    moved = (ours.model[2].weight != model[2].weight).any(1).nonzero().flatten().tolist()
    assert set(moved) <= {u - 16 for u in deletion.units if u >= 16}


def test_parameters_of_no_unit_stay():
    """Also when every unit may change, after a rollback, and in what the step is said to have of the whole one."""
    model, X, y = net()
    head = find_units(model).keep(lambda layer: layer.name == "2")
    ours = unlearner(model, X, y, units=head)
    first, second = ours.forget([5]), ours.forget([6])
    assert 0.0 < second.captured_decrement < 1.0
    ours.rollback(1)
    for after in (ours.parameters, ours.model.state_dict()):
        assert torch.equal(after["0.weight"], model[0].weight)
        assert torch.equal(after["0.bias"], model[0].bias)
        assert not torch.equal(after["2.weight"], model[2].weight)
    assert first.units == ()


def test_forget_loss_rises_and_retain_loss_stays():
    model, X, y = net()
    losses = nn.functional.cross_entropy(model(X), y, reduction="none")
    hardest = losses.argsort(descending=True)[:4].tolist()
    deletion = unlearner(model, X, y).forget(hardest)
    assert deletion.forget_loss[1] > deletion.forget_loss[0]
    assert deletion.retain_loss[1] < deletion.retain_loss[0] + 0.02
    expected = losses[hardest].mean().item()
    assert deletion.forget_loss[0] == pytest.approx(expected, rel=1e-5)


def test_a_class_a_mask_and_repeated_ids():
    model, X, y = net()
    ours = unlearner(model, X, y)
    deletion = ours.forget(target=2)
    assert set(deletion.forgotten) == set(np.flatnonzero(y.numpy() == 2))
    with pytest.raises(ValueError, match="forgotten already"):
        ours.forget(deletion.forgotten[0])
    other = int(np.flatnonzero(y.numpy() == 1)[0])
    assert ours.forget([deletion.forgotten[0], other], repeated="ignore").forgotten == (other,)
    with pytest.raises(ValueError, match="either ids or target"):
        ours.forget()


def test_bad_requests_leave_everything_as_it_was():
    model, X, y = net()
    ours = unlearner(model, X, y)
    before = ours.parameters
    for request in ([], [99], range(80), [0, 0], [0.5]):
        with pytest.raises((ValueError, IndexError, TypeError)):
            ours.forget(request)
    assert same(before, ours.parameters)
    assert ours.deletions == ()
    assert ours.history.empty


def test_the_guard_refuses():
    model, X, y = net()
    ours = unlearner(model, X, y, guard=lambda m: 0.9 if same(m.state_dict(), model.state_dict()) else 0.5)
    before = ours.parameters
    deletion = ours.forget([1])
    assert not deletion.accepted
    assert deletion.guard == (0.9, 0.5)
    assert "refused" in deletion.reason
    assert "guard 0.9 -> 0.5" in deletion.reason
    assert same(before, ours.parameters)
    assert ours.forgotten == ()


def gaussian_nll(output, target):
    mean, log_variance = output.T
    return nn.functional.gaussian_nll_loss(mean, target, log_variance.exp(), reduction="none")


def test_a_loss_below_zero_can_be_forgotten():
    """A likelihood's objective is about log .05 + 1/2 = -2.5; one sample moves it by far less than half of that."""
    X = torch.randn(100, 2, dtype=torch.float64)
    y = X[:, 0] + 0.05 * torch.randn(100, dtype=torch.float64)
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.0, 2.0 * np.log(0.05)]))
    deletion = Unlearner(model, gaussian_nll, (X, y), weight_decay=1e-4, selector="all", random_state=0).forget([3])
    assert deletion.accepted, deletion.reason
    assert max(deletion.retain_loss) < -2.0


@pytest.mark.parametrize("accepts", [True, False])
def test_the_guard_judges_newton_steps(ridge, accepts):
    model, X, Y = ridge
    scores = iter([0.9, 0.9 if accepts else 0.5])
    options = {"weight_decay": 0.1, "selector": "all", "update": "gradient", "convex": True}
    ours = Unlearner(model, "mse", (X, Y), guard=lambda _: next(scores), **options)
    before = ours.parameters
    deletion = ours.forget([1])
    assert deletion.accepted == accepts
    assert deletion.guard == (0.9, 0.9 if accepts else 0.5)
    assert ("guard 0.9 -> 0.5, more than the allowed drop of 0.02" in deletion.reason) != accepts
    assert same(before, ours.parameters) != accepts


def test_the_guard_judges_each_request_by_the_weights_just_before_it():
    """Small drops add up: with a fixed damping each request alone is held against guard_drop."""
    model, X, y = net()
    start = nn.utils.parameters_to_vector(model.parameters()).detach()

    def score(net):
        return -float((nn.utils.parameters_to_vector(net.parameters()).detach() - start).norm())

    free = unlearner(model, X, y, damping=0.05, budget=0.5, guard=score, guard_drop=1e9)
    scores = [score(free.model)]
    for i in range(8):
        free.forget(i)
        scores.append(score(free.model))
    most = 1.001 * max(a - b for a, b in itertools.pairwise(scores))
    assert scores[0] - scores[-1] > 1.5 * most
    ours = unlearner(model, X, y, damping=0.05, budget=0.5, guard=score, guard_drop=most)
    for i in range(8):
        deletion = ours.forget(i)
        assert deletion.accepted, deletion.reason
        assert deletion.guard == pytest.approx((scores[i], scores[i + 1]), abs=1e-6)
    ours.options.guard_drop = 1e-4
    ours.rollback(1)  # the score rises
    assert ours.forgotten == tuple(range(1, 8))


@pytest.mark.parametrize("raised", [True, False])
def test_a_damping_that_takes_earlier_deletions_back_is_told(raised):
    model, X, y = net()
    scores = iter([1.0, 1.0, 1.0, *([0.0] * (6 if raised else 0)), 1.0])  # before, once, and after every damping
    ours = unlearner(model, X, y, budget=0.5, guard=lambda _: next(scores))
    first = ours.forget([0, 1, 2])
    before = ours.model
    second = ours.forget([3])
    assert second.accepted
    assert "raised" not in first.reason
    assert ("earlier deletions are taken back in part" in second.reason) == raised
    if raised:
        losses = [nn.functional.cross_entropy(m(X[:3]), y[:3]).item() for m in (before, ours.model)]
        assert losses[1] < losses[0]
        assert f"mean loss of their samples {losses[0]:.4g} -> {losses[1]:.4g}" in second.reason
        assert f"damping raised from {first.damping:.3g} to {second.damping:.3g}" in second.reason
        chances = [torch.softmax(model(X[:m]), dim=1)[range(m), y[:m]].mean().item() for m in (3, 4)]
        more = [1.0 / (1.0 - (1.0 - chance) ** 2) for chance in chances]
        assert second.damping == pytest.approx(64 * first.damping * more[1] / more[0])


@pytest.mark.parametrize(("share", "told"), [(0.97, False), (0.2, True)])
def test_little_that_is_taken_back_is_not_told(share, told):
    model, X, y = net()
    ours = unlearner(model, X, y, budget=0.5)
    first = ours.forget([0, 1, 2])
    start = dict(model.named_parameters())
    less = {k: start[k].detach() + share * (w - start[k].detach()) for k, w in ours.parameters.items()}
    step = SimpleNamespace(damping=1.01 * first.damping)
    assert bool(ours._steps.taken_back(step, less)) == told


def test_rollback_is_as_if_the_request_had_never_come():
    model, X, y = net()
    ours, other = (unlearner(model, X, y, tolerance=1e-4) for _ in range(2))
    start = ours.parameters
    ours.forget([1, 2])
    ours.forget([3])
    other.forget([3])
    ours.rollback(1)
    assert ours.forgotten == (3,)
    for name, value in other.parameters.items():  # both to the tolerance of the solver
        moved = (value - start[name]).norm()
        assert float((ours.parameters[name] - value).norm()) <= 0.01 * float(moved)
    ours.rollback()
    assert same(start, ours.parameters)
    with pytest.raises(ValueError, match="nothing to take back"):
        ours.rollback()


@pytest.mark.parametrize("way", ["in memory", "ledger", "saved"])
@pytest.mark.parametrize("update", ["difference", "gradient", "chained"])
def test_the_last_request_is_undone_bit_for_bit(update, way, tmp_path):
    """At the default tolerance, with a refused request behind it, and after the process ended."""
    model, X, y = net()
    falling, refusing = itertools.count(0, -1), []
    options = {"update": update, "weight_decay": 0.01, "selector": "all"}
    folder = tmp_path / "ledger"
    guard = {"guard": lambda _: next(falling) if refusing else 1.0}
    ours = unlearner(model, X, y, ledger=folder if way == "ledger" else None, **guard, **options)
    ours.forget([1, 2])
    before = ours.parameters
    assert ours.forget([3]).accepted
    refusing.append(True)
    assert not ours.forget([4]).accepted
    if way == "saved":
        ours.save(folder)
    ours.close()
    if way != "in memory":
        ours = Unlearner.resume(folder, model, "cross_entropy", (X, y), **options)
    ours.rollback()
    assert same(before, ours.parameters)
    assert ours.forgotten == (1, 2)
    if update != "difference":
        with pytest.raises(ValueError, match=f"update='{update}' steps on from where the model is"):
            ours.rollback()
    ours.close()


def test_rollback_of_an_earlier_request_starts_from_nothing():
    """At the default tolerance too the one that remains is solved as it would have been alone."""
    model, X, y = net()
    ours, other = (unlearner(model, X, y, solver="cg") for _ in range(2))
    for ids in ([1, 2], [3]):
        ours.forget(ids)
    other.forget([3])
    ours.rollback(1)
    assert same(other.parameters, ours.parameters)


def test_requests_queue_and_survive_in_the_ledger(tmp_path):
    model, X, y = net()
    folder = tmp_path / "ledger"
    options = {"selector": "gradient_norm", "max_units": 5, "captured": False}
    ours = unlearner(model, X, y, ledger=folder, **options)
    ours.submit([1, 2])
    ours.submit(7)
    with pytest.raises(ValueError, match="asked for twice"):
        ours.submit(7)
    ours.run()
    ours.forget(target=1)
    ours.rollback(1)
    ours.submit([11])
    ours.close()
    again = Unlearner.resume(folder, model, "cross_entropy", (X, y), weight_decay=0.01, **options)
    assert same(ours.parameters, again.parameters)
    assert again.forgotten == ours.forgotten
    assert again.pending == ((11,),)
    assert [d.units for d in again.deletions] == [d.units for d in ours.deletions]
    a, b = ours_after(ours), again.run()[0]
    assert a.units == b.units
    assert same(ours.parameters, again.parameters)
    again.close()
    with pytest.raises(ValueError, match=r"Unlearner\.resume"):
        unlearner(model, X, y, ledger=folder)


def ours_after(ours):
    """The same request without the ledger, which another process holds by now."""
    ours._history._ledger = None
    return ours.run()[0]


@pytest.mark.parametrize("update", ["difference", "chained"])
def test_what_waits_may_be_forgotten_at_once(update, tmp_path):
    """The rest of a request is done, and one of which nothing is left is dropped, from the folder too."""
    model, X, y = net()
    ours = unlearner(model, X, y, update=update, ledger=tmp_path)
    for ids in ([3], [4, 5], [6]):
        ours.submit(ids)
    ours.forget([3, 5])
    assert [d.forgotten for d in ours.run()] == [(4,), (6,)]
    assert ours.forgotten == (3, 5, 4, 6)
    ours.close()
    with contextlib.closing(
        Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), weight_decay=0.01, selector="all", update=update)
    ) as again:
        assert again.forgotten == (3, 5, 4, 6)
        assert again.pending == ()
        assert same(again.parameters, ours.parameters)


def test_a_request_that_cannot_be_done_is_withdrawn(tmp_path):
    model, X, y = net()
    ours = unlearner(model, X, y, ledger=tmp_path)
    ours.submit(range(60))
    ours.submit([60])
    ours.forget(range(60, 80))
    with pytest.raises(ValueError, match="nothing is left to keep"):
        ours.run()
    assert ours.forgotten == tuple(range(60, 80))
    with pytest.raises(IndexError, match="place is 2; 2 requests wait"):
        ours.withdraw(2)
    assert ours.withdraw(0) == tuple(range(60))
    ours.close()
    with contextlib.closing(
        Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), weight_decay=0.01, selector="all")
    ) as again:
        assert again.pending == ((60,),)
        assert again.run() == ()
        assert again.pending == ()


def test_save_and_resume(tmp_path):
    model, X, y = net()
    ours = unlearner(model, X, y, budget=0.02)
    for ids in ([1, 2], [3], [4]):  # the second spends the budget: the model is anchored anew
        ours.forget(ids)
    ours.save(tmp_path / "copy")
    again = Unlearner.resume(
        tmp_path / "copy", model, "cross_entropy", (X, y), weight_decay=0.01, selector="all", budget=0.02
    )
    assert same(ours.parameters, again.parameters)
    assert ours.forget([9]).distance == again.forget([9]).distance
    again.close()


def test_resuming_needs_the_same_problem(ridge, tmp_path):
    model, X, y = net()
    with contextlib.closing(unlearner(model, X, y, ledger=tmp_path)):
        pass
    resume = {"weight_decay": 0.01, "selector": "all"}
    with pytest.raises(ValueError, match="begun with n=80, not 79"):
        Unlearner.resume(tmp_path, model, "cross_entropy", (X[1:], y[1:]), **resume)
    with pytest.raises(ValueError, match=r"weight_decay=0\.01, not 0\.1, update='difference', not 'chained'"):
        Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), weight_decay=0.1, update="chained")
    with pytest.raises(LedgerError, match="other parameters"):
        Unlearner.resume(tmp_path, net(seed=1)[0], "cross_entropy", (X, y), **resume)
    with contextlib.closing(Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), **resume)):  # nobody holds it
        pass


def test_resuming_needs_the_same_choices(tmp_path):
    """With another selector the next request would undo what was done; folders of before that do not say are read."""
    model, X, y = net()
    folder = tmp_path / "ledger"
    options = {"weight_decay": 0.01, "selector": "all"}
    Unlearner(model, "cross_entropy", (X, y), ledger=folder, random_state=0, **options).close()
    head = find_units(model).keep(lambda layer: layer.name == "2")
    one_hot = nn.functional.one_hot(y).float()
    for changes, message in (
        ({"selector": "lfoci"}, "selector='all', not 'lfoci'"),
        ({"selector": lambda *_: [0]}, "selector='all', not '<lambda>'"),
        ({"units": head}, "units='19, .*', not '3, .*'"),
        ({"loss": "mse", "data": (X, one_hot)}, "loss='cross_entropy', not 'mse'"),
        ({"loss": nn.MSELoss(), "data": (X, one_hot)}, "loss='cross_entropy', not 'MSELoss'"),
    ):
        given = {"loss": "cross_entropy", "data": (X, y), **options, **changes}
        with pytest.raises(ValueError, match=message):
            Unlearner.resume(folder, model, given.pop("loss"), given.pop("data"), **given)
    with Ledger.open(tmp_path / "old", dict(model.named_parameters())) as old:
        old.append(
            {"kind": "start", "entropy": "0", "settings": {"n": 80, "weight_decay": 0.01, "update": "difference"}}
        )
    for path in (folder, tmp_path / "old"):
        Unlearner.resume(path, model, "cross_entropy", (X, y), ledger=path, **options).close()


def test_resuming_needs_the_same_samples(tmp_path):
    """In another order the ids of requests that wait would be other people's."""
    model, X, y = net()
    options = {"weight_decay": 0.01, "selector": "all"}
    Unlearner(model, "cross_entropy", (X, y), ledger=tmp_path, **options).close()
    other = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    for data in ((X[other], y[other]), (X + 1e-3, y), (X, (y + 1) % 3)):
        with pytest.raises(ValueError, match="begun with data="):
            Unlearner.resume(tmp_path, model, "cross_entropy", data, **options)
    for same in ([X.clone(), y.clone()], TensorDataset(X, y)):
        Unlearner.resume(tmp_path, model, "cross_entropy", same, **options).close()
    with pytest.raises(ValueError, match="begun with data="):
        Unlearner.resume(tmp_path, model, "cross_entropy", TensorDataset(X[other], y[other]), **options)


@pytest.mark.parametrize(
    ("tolerance", "error"),
    [(1.0, ValueError), (0.0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)],
)
def test_a_tolerance_that_would_delete_nothing(tolerance, error):
    model, X, y = net()
    with pytest.raises(error, match="tolerance is"):
        unlearner(model, X, y, tolerance=tolerance)


@pytest.mark.parametrize("target", ["2", 1.5, True])
def test_a_class_is_an_integer(target):
    with pytest.raises(TypeError, match="target is"):
        unlearner(*net()).forget(target=target)


def test_resuming_needs_the_folder(tmp_path):
    model, X, y = net()
    options = {"weight_decay": 0.01, "selector": "all"}
    with pytest.raises(ValueError, match="holds no unlearner"):
        Unlearner.resume(tmp_path / "leger", model, "cross_entropy", (X, y), **options)
    assert not list(tmp_path.iterdir())
    Unlearner(model, "cross_entropy", (X, y), ledger=tmp_path / "ledger", **options).close()
    with pytest.raises(ValueError, match=r"ledger is '.*other'; the ledger goes on in '.*ledger'"):
        Unlearner.resume(tmp_path / "ledger", model, "cross_entropy", (X, y), ledger=tmp_path / "other", **options)


def test_a_request_that_fails_does_not_move_the_anchor(tmp_path):
    model, X, y = net()
    broken = []

    def guard(_):
        if broken:
            raise RuntimeError("no score")
        return 1.0

    ours = unlearner(model, X, y, budget=0.02, guard=guard, ledger=tmp_path)
    start = ours.parameters
    ours.forget([1, 2])
    broken.append(True)
    content = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(RuntimeError, match="no score"):  # this request would anchor the model anew
        ours.forget([3])
    assert (tmp_path / "ledger.jsonl").read_bytes() == content
    ours.rollback()  # and after that the first could not be taken back
    assert same(start, ours.parameters)
    ours.close()


def test_a_request_that_is_refused_does_not_move_the_anchor(tmp_path):
    model, X, y = net()
    scores = iter([1.0, 1.0, 1.0, 0.0, *[0.0] * 20])
    ours = unlearner(model, X, y, budget=0.02, guard=lambda _: next(scores), ledger=tmp_path / "ledger", damping=0.1)
    start = ours.parameters
    ours.forget([1, 2])
    refused = ours.forget([3])  # this request would anchor the model anew
    assert not refused.accepted
    assert "anchored anew" not in refused.reason
    shutil.copytree(tmp_path / "ledger", tmp_path / "copy")
    again = Unlearner.resume(
        tmp_path / "copy", model, "cross_entropy", (X, y), weight_decay=0.01, selector="all", budget=0.02
    )
    for one in (ours, again):
        one.rollback(np.int64(1))
        assert same(start, one.parameters)
        one.close()


def test_a_full_disk_leaves_anchor_and_weights_as_they_were(tmp_path, monkeypatch):
    """The anchor stands in the line of the request that moved it: both are on disk, or neither."""
    model, X, y = net()
    options = {"weight_decay": 0.01, "selector": "all", "budget": 0.02, "random_state": 0}
    ours = Unlearner(model, "cross_entropy", (X, y), ledger=tmp_path, **options)
    start = ours.parameters
    ours.forget([1, 2])
    before = ours.parameters
    lines = (tmp_path / "ledger.jsonl").read_text().count("\n")

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("codec.unlearn._ledger._write_all", full)
        with pytest.raises(OSError, match="no space"):
            ours.forget([3])
    assert (tmp_path / "ledger.jsonl").read_text().count("\n") == lines
    assert same(before, ours.parameters)
    ours.close()
    again = Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), **options)
    again.rollback()
    assert same(start, again.parameters)
    again.forget([9])
    fresh = Unlearner(model, "cross_entropy", (X, y), **options)
    fresh.forget([9])
    for name, value in fresh.parameters.items():
        torch.testing.assert_close(again.parameters[name], value)
    again.close()


def test_a_new_anchor_is_resumed(tmp_path):
    model, X, y = net()
    options = {"weight_decay": 0.01, "selector": "all", "budget": 0.02, "random_state": 0}
    whole = Unlearner(model, "cross_entropy", (X, y), **options)
    for ids in ([1, 2], [3], [4]):
        if ids == [1, 2]:
            ours = Unlearner(model, "cross_entropy", (X, y), ledger=tmp_path, **options)
        else:
            ours = Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), **options)
        whole.forget(ids)
        ours.forget(ids)
        assert same(whole.parameters, ours.parameters)
        ours.close()
    again = Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), **options)
    with pytest.raises(ValueError, match="request 1 cannot be taken back"):
        again.rollback(1)
    again.rollback(2)
    whole.rollback(2)
    assert same(whole.parameters, again.parameters)
    again.close()


def test_a_save_that_was_interrupted_is_not_resumed(tmp_path, monkeypatch):
    model, X, y = net()
    ours = unlearner(model, X, y)
    ours.forget([1])
    ours.forget([2])
    append = Ledger.append

    def interrupted(self, entry, *rest):
        if entry["kind"] == "anchor":
            raise KeyboardInterrupt
        return append(self, entry, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ours.save(tmp_path / "half")
    with pytest.raises(ValueError, match="beginning of a save that was interrupted"):
        Unlearner.resume(tmp_path / "half", model, "cross_entropy", (X, y), weight_decay=0.01, selector="all")
    ours.save(tmp_path / "whole")
    again = Unlearner.resume(tmp_path / "whole", model, "cross_entropy", (X, y), weight_decay=0.01, selector="all")
    assert same(ours.parameters, again.parameters)
    again.close()


def test_the_ledger_stays_where_it_is(tmp_path, monkeypatch):
    model, X, y = net()
    monkeypatch.chdir(tmp_path)
    ours = unlearner(model, X, y, ledger="kept")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ours.forget([1])
    ours.close()
    assert not list((tmp_path / "elsewhere").iterdir())
    again = Unlearner.resume(
        tmp_path / "kept", model, "cross_entropy", (X, y), weight_decay=0.01, selector="all", random_state=0
    )
    assert same(ours.parameters, again.parameters)
    again.close()


def test_two_unlearners_never_write_into_one_ledger(tmp_path):
    model, X, y = net()
    ours = unlearner(model, X, y, ledger=tmp_path)
    with pytest.raises(TypeError, match=r"an open ledger .* cannot be copied"):
        copy.deepcopy(ours)
    plain = unlearner(model, X, y)
    plain.forget([1])
    assert same(copy.deepcopy(plain).parameters, plain.parameters)
    del ours  # nobody can close it any more
    unlearner_again = Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), weight_decay=0.01, selector="all")
    unlearner_again.close()


@pytest.mark.parametrize("kept", [False, True])
def test_memory_is_free_without_a_garbage_collection(kept, tmp_path):
    # A linearisation takes gigabytes; Python looks for cycles of objects when it likes.
    model, X, y = net()
    ours = unlearner(model, X, y, ledger=tmp_path if kept else None)
    ours.forget([1, 2])
    ours.rollback()
    ours.forget([3])
    assert ours.report().to_html()
    held = weakref.ref(ours), weakref.ref(ours.problem), weakref.ref(ours._steps)
    gc.disable()
    try:
        del ours
        assert [ref() for ref in held] == [None] * 3
    finally:
        gc.enable()


def test_resuming_needs_the_same_frozen_layers(tmp_path):
    model, X, y = net()
    model[0].requires_grad_(False)
    options = {"weight_decay": 0.01, "selector": "all", "random_state": 0}
    Unlearner(model, "cross_entropy", (X, y), ledger=tmp_path, **options).close()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(2.0)
    with pytest.raises(ValueError, match="was begun with fixed="):
        Unlearner.resume(tmp_path, other, "cross_entropy", (X, y), **options)
    Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), **options).close()


@pytest.mark.parametrize("kind", [int, np.int64])
def test_numbers_of_requests_may_be_numpys(kind, tmp_path):
    model, X, y = net()
    ours = unlearner(model, X, y, ledger=tmp_path)
    ours.forget([1])
    ours.submit([2])
    assert ours.withdraw(kind(0)) == (2,)
    ours.forget([3])
    ours.rollback(kind(1))
    assert ours.forgotten == (3,)
    for call, name in ((lambda: ours.rollback("1"), "id is '1'"), (lambda: ours.withdraw(0.5), "place is 0.5")):
        with pytest.raises(TypeError, match=name):
            call()
    ours.close()


def test_noise_has_all_bits_of_its_seed():
    """Seeds that agree in their low 32 bits gave the same noise; so few may be tried one by one."""
    from codec.unlearn._certificate import Accountant
    from codec.unlearn._history import with_noise

    zero = {"w": torch.zeros(400, dtype=torch.float64), "v": torch.zeros(3, 2)}
    drawn = [with_noise(zero, 2.0, Accountant().noise_source(5 + (k << 32)))["w"] for k in range(2)]
    assert float((drawn[0] - drawn[1]).abs().min()) > 0.0
    assert float(drawn[0].std()) == pytest.approx(2.0, abs=0.3)
    again = with_noise(zero, 2.0, Accountant().noise_source(5))
    assert torch.equal(again["w"], drawn[0])
    assert again["v"].dtype == torch.float32
    assert not torch.equal(again["v"].flatten(), again["w"][:6].float())


@pytest.mark.parametrize("scale", [1.0, 1e3, 1.6e9])
def test_rounding_of_the_gradient_is_within_its_estimate(scale):
    """Against the gradient in fractions; the columns may be time stamps."""
    generator = torch.Generator().manual_seed(0)
    X = (1.0 + 0.1 * torch.rand(30, 2, generator=generator, dtype=torch.float64)) * scale
    Y = torch.randn(30, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(2 * X.T @ X / 30 + 0.1 * torch.eye(2).double(), 2 * X.T @ Y / 30).T)
    problem = Problem(model, "mse", (X, Y), weight_decay=0.1)
    norm, rounding = gradient_norm(problem, problem.parameters(), torch.arange(30))
    rows, targets, w = X.tolist(), Y[:, 0].tolist(), [Fraction(v) for v in model.weight[0].tolist()]
    residuals = [
        sum(Fraction(a) * b for a, b in zip(row, w, strict=True)) - Fraction(t)
        for row, t in zip(rows, targets, strict=True)
    ]
    exact = [
        2 * sum(r * Fraction(row[j]) for r, row in zip(residuals, rows, strict=True)) / 30 + Fraction(0.1) * w[j]
        for j in range(2)
    ]
    true = math.sqrt(sum(g * g for g in exact))
    assert abs(norm - true) <= rounding
    assert rounding <= 1e-6 * scale


def test_the_user_is_told_of_a_new_anchor_and_of_progress(capsys):
    model, X, y = net()
    ours = unlearner(model, X, y, budget=0.02)
    for ids in ([1, 2], [3], [4]):
        ours.submit(ids)
    deletions = ours.run(verbose=True)
    assert ["anchored anew" in deletion.reason for deletion in deletions] == [False, True, False]
    assert "Unlearner 3 requests" in capsys.readouterr().err
    with pytest.raises(ValueError, match="request 1 cannot be taken back"):
        ours.rollback(1)
    ours.submit([5])
    ours.run()
    assert capsys.readouterr().err == ""


def test_the_budget_is_a_share_of_the_samples_that_the_anchor_has(ridge):
    """A quarter of 60 is 15, of the 44 that are left at the second anchor 11; at the bound the anchor stays."""
    model, X, Y = ridge
    ours = Unlearner(model, "mse", (X, Y), weight_decay=0.1, selector="all", damping=0.0, budget=0.25)
    requests = (range(15), [15], [16], range(17, 27), [27], [28])  # 15, 16; then 1, 11, 12 since the second anchor
    told = ["anchored anew" in ours.forget(ids).reason for ids in requests]
    assert told == [False, False, True, False, False, True]


@pytest.mark.parametrize("selector", ["lfoci", "greedy_decrement"])
def test_forgotten_samples_stay_out_of_the_selection(selector, monkeypatch):
    """Those of before and those of the request: of the reference of the perturbation, and of the curvature."""
    model, X, y = net()
    seen = []

    def spy(of, place):
        def call(*args, **options):
            seen.append(options["reference"] if place is None else args[place])
            return of(*args, **options)

        return call

    monkeypatch.setattr("codec.unlearn._steps.record", spy(record, None))
    for name in ("kfac_greedy", "residual_greedy"):
        monkeypatch.setattr(Point, name, spy(getattr(Point, name), 3))  # self, units, gradient, samples
    ours = unlearner(model, X, y, selector=selector, max_units=3, n_perturbations=20, captured=False)
    for ids, gone in (([3], {3}), ([7, 8], {3, 7, 8})):
        ours.forget(ids)
        assert len(seen) == (2 if selector == "lfoci" else 1)
        for kept in seen:
            assert kept.tolist() == [i for i in range(80) if i not in gone]
        seen.clear()


def test_what_was_released_stays_spent(ridge, tmp_path):
    linear, A, B = ridge
    options = {"weight_decay": 0.1, "selector": "all", "update": "gradient", "damping": 0.0, "convex": True}
    ours = Unlearner(linear, "mse", (A, B), ledger=tmp_path / "ledger", **options)
    ours.forget([0])
    for _ in range(2):
        ours.release(1.0, 1e-5, bound=1e-6)
    ours.save(tmp_path / "copy")
    ours.close()
    for folder in ("ledger", "copy"):
        again = Unlearner.resume(tmp_path / folder, linear, "mse", (A, B), **options)
        assert again.accountant.releases == ours.accountant.releases
        assert again.accountant.epsilon(1e-5) == pytest.approx(1.465, abs=1e-3)  # 1.0 alone; sqrt(2) of its noise
        again.close()


def test_the_noise_of_two_releases_does_not_cancel(ridge, tmp_path):
    """With one seed: their difference has the noise of both, also where the process ended between them."""
    model, X, Y = ridge
    options = {"weight_decay": 0.1, "selector": "all", "update": "gradient", "convex": True}
    Unlearner(model, "mse", (X, Y), ledger=tmp_path, **options).close()
    noise = []
    for _ in range(2):
        ours = Unlearner.resume(tmp_path, model, "mse", (X, Y), **options)
        noise.append(ours.release(1.0, 1e-5, bound=1.0, random_state=7).weight.detach() - model.weight.detach())
        ours.close()
    assert float((noise[1] - noise[0]).abs().min()) > 1e-3  # sigma is 3.7


@pytest.mark.parametrize("selector", ["all", pytest.param("kfac_greedy", marks=pytest.mark.slow)])
def test_a_run_that_is_resumed_at_every_request_has_the_same_bits(selector, tmp_path):
    """Conjugate gradients with what the process keeps between requests, and without."""
    model, X, y = net()
    options = {"selector": selector, "max_units": 15}
    whole = unlearner(model, X, y, **options)
    given = {"weight_decay": 0.01, **options}
    Unlearner(model, "cross_entropy", (X, y), random_state=0, ledger=tmp_path, **given).close()
    for k in range(5):
        assert whole.forget([3 * k]).iterations > 0 or selector == "kfac_greedy"
        parts = Unlearner.resume(tmp_path, model, "cross_entropy", (X, y), **given)
        parts.forget([3 * k])
        parts.close()
        assert same(whole.parameters, parts.parameters)
    assert whole.deletions[-1].iterations > 0


# --------------------------------------------------------------------------- kill -9
REQUESTS = 24


def killable(folder):
    """Go on where the ledger ends: what a process does that may be killed at any moment."""
    model, X, y = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half a line, taken off
        options = {"weight_decay": 0.01, "selector": "kfac_greedy", "max_units": 4, "budget": 0.1}
        try:
            ours = Unlearner.resume(folder, model, "cross_entropy", (X, y), **options)
        except ValueError:  # it holds no unlearner yet
            ours = Unlearner(model, "cross_entropy", (X, y), random_state=0, ledger=folder, **options)
    for k in range(len(ours.deletions), REQUESTS):
        ours.forget([2 * k])
        print(k, flush=True)  # noqa: T201
    ours.close()
    return ours


@pytest.mark.slow  # python -m pytest tests/unlearn/test_unlearner.py -m slow
def test_killed_processes_end_at_the_same_weights(tmp_path):
    expected = killable(tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_unlearner as t; "
        "t.torch.set_num_threads(1); t.killable(pathlib.Path(sys.argv[1]))"
    )
    rng, done = random.Random(1), []
    for last in (0, 4, 9, 13, 17):  # at some moment of the requests behind this one
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "killed")], stdout=subprocess.PIPE)
        next(line for line in child.stdout if int(line) >= last)
        time.sleep(rng.uniform(0.0, 0.1))
        child.kill()
        child.communicate()
        done.append((tmp_path / "killed" / "ledger.jsonl").read_bytes().count(b'"deletion":{'))
    assert sum(0 < k < REQUESTS for k in done) >= 3  # in the middle
    found = killable(tmp_path / "killed")
    assert [d.forgotten for d in found.deletions] == [(2 * k,) for k in range(REQUESTS)]
    assert same(expected.parameters, found.parameters)


def test_the_same_seed_gives_the_same_weights():
    model, X, y = net()
    one, two = (unlearner(model, X, y, selector="lfoci", max_units=4, n_perturbations=60) for _ in range(2))
    for ours in (one, two):
        ours.forget([3, 4])
    assert one.deletions[0].units == two.deletions[0].units
    assert same(one.parameters, two.parameters)


def softmax_minimum(X, y, decay):
    """Weights (2, p) without an intercept, by Newton steps that are halved until the objective falls."""
    p, Y = X.shape[1], nn.functional.one_hot(y).to(X.dtype)

    def objective(w):
        return nn.functional.cross_entropy(X @ w.view(2, p).T, y) + decay / 2 * w.square().sum()

    w = torch.zeros(2 * p, dtype=X.dtype)
    for _ in range(60):
        P = (X @ w.view(2, p).T).softmax(1)
        bend = (torch.diag_embed(P) - P[:, :, None] * P[:, None]).transpose(0, 2)  # (2, 2, n)
        hessian = torch.einsum("abn,ni,nj->aibj", bend, X, X).reshape(2 * p, 2 * p) / len(X)
        gradient = ((P - Y).T @ X).flatten() / len(X) + decay * w
        step, share = torch.linalg.solve(hessian + decay * torch.eye(2 * p, dtype=X.dtype), gradient), 1.0
        while objective(w - share * step) > objective(w) and share > 1e-9:
            share /= 2
        w = w - share * step
    return w.view(2, p)


def wide(n=200, scale=3e3):
    """Two classes far apart, in large numbers."""
    sign = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    X = torch.stack([sign * scale * (1.0 + 0.1 * torch.rand(n)), 0.01 * scale * torch.randn(n)], 1)
    return X, (sign > 0).long()


def test_the_bound_of_a_float32_model_holds():
    """Of large features single precision sees a gradient that is smaller than it is."""
    X, y = wide()
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(softmax_minimum(X.double(), y, 0.1))
    retrained = softmax_minimum(X[3:].double(), y[3:], 0.1)
    for loss in ("cross_entropy", nn.CrossEntropyLoss(weight=torch.ones(2), reduction="none")):
        options = {"selector": "all", "update": "gradient", "convex": True, "n_steps": 5}
        ours = Unlearner(model, loss, (X, y), weight_decay=0.1, **options)
        bound = ours.forget([0, 1, 2]).certificate.bound
        distance = (ours.parameters["weight"].double() - retrained).norm()
        assert 1e-6 < float(distance) <= bound <= 1e-3


def test_what_has_no_double_precision_is_refused():
    X, y = wide()
    weights = torch.ones(2)

    def loss(output, target):
        return nn.functional.cross_entropy(output, target, weight=weights, reduction="none")

    model = nn.Linear(2, 2)
    Unlearner(model, loss, (X, y), weight_decay=0.1, selector="all")
    with pytest.raises(ValueError, match="convex=True needs the gradient in double precision"):
        Unlearner(model, loss, (X, y), weight_decay=0.1, selector="all", convex=True)


def test_release_needs_a_bound(ridge):
    model, X, y = net()
    with pytest.raises(ValueError, match="no bound"):
        unlearner(model, X, y).release(1.0, 1e-5, bound=1.0)
    linear, A, B = ridge
    ours = Unlearner(
        linear, "mse", (A, B), weight_decay=0.1, selector="all", update="gradient", damping=0.0, convex=True
    )
    ours.forget([0])
    with pytest.raises(ValueError, match="above the 1e-30"):
        ours.release(1.0, 1e-5, bound=1e-30)
    for k in range(3):  # of what size the noise is: test_defects
        ours.release(1.0, 1e-5, bound=1e-6, random_state=k)
    assert len(ours.accountant.releases) == 3
    assert ours.accountant.epsilon(1e-5) > 1.0


def test_a_report_and_a_history():
    model, X, y = net()
    ours = unlearner(model, X, y)
    ours.forget([1])
    assert "1 request, 1 stand" in ours.report().to_html()
    assert ours.history["accepted"].tolist() == [True]


class Scaled(nn.Linear):
    """A linear model of inputs that are scaled by a buffer."""

    def __init__(self):
        super().__init__(5, 3)
        self.register_buffer("scale", torch.ones(5))

    def forward(self, x):
        return super().forward(x / self.scale)


def test_statistics_of_the_data_are_refused_or_named():
    """What a norm keeps of the forgotten samples is no parameter: no bound holds for it, no noise is on it."""
    _, X, y = net()
    options = {"weight_decay": 0.1, "selector": "all", "convex": True}
    for affine in (True, False):
        norm = nn.BatchNorm1d(5, affine=affine)
        with pytest.raises(ValueError, match="keeps running statistics of the training data in 0;"):
            unlearner(nn.Sequential(norm, nn.Linear(5, 3)), X, y, **options)
    frozen = nn.BatchNorm1d(5).requires_grad_(False)
    for model, name in ((nn.Sequential(frozen, nn.Linear(5, 3)), "0.running_mean, 0.running_var"), (Scaled(), "scale")):
        assumed = unlearner(model, X, y, **options).forget([0]).certificate.assumed
        assert f"the buffers of the model ({name}) do not depend on the training data" in assumed
    assert len(unlearner(nn.Linear(5, 3), X, y, **options).forget([0]).certificate.assumed) == 2
    half = nn.BatchNorm1d(5)
    half.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="keeps running statistics"):
        unlearner(nn.Sequential(half, nn.Linear(5, 3)), X, y, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update": "newton"}, "update"),
        ({"n_steps": 2}, "n_steps"),
        ({"budget": 0.0}, "budget"),
        ({"update": "gradient", "convex": True, "damping": 0.1}, r"damping is 0\.1, .* leave damping='auto'"),
        ({"convex": True, "weight_decay": 0.0}, "weight_decay"),
        ({"solver": "lu"}, "solver is 'lu'"),
        ({"solver": "cg", "curvature": "kfac"}, "curvature='kfac' has no linear system"),
        ({"solver": "cholesky", "update": "gradient_ascent"}, "update='gradient_ascent' has no linear system"),
    ],
)
def test_options_are_checked(options, message):
    model, X, y = net()
    with pytest.raises(ValueError, match=message):
        unlearner(model, X, y, **options)


def test_units_of_another_model_are_refused():
    model, X, y = net()
    for other in (
        nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)),  # other shapes
        nn.Sequential(nn.Tanh(), nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)),  # other names
        nn.Sequential(nn.Linear(5, 16).requires_grad_(False), nn.ReLU(), nn.Linear(16, 3)),  # other parameters frozen
    ):
        with pytest.raises(
            ValueError, match=r"units are those of another model: .*'0.weight' \(.* there, \(16, 5\) here"
        ):
            unlearner(model, X, y, units=find_units(other))
    fewer = find_units(model).keep(lambda layer: layer.name == "2")
    assert unlearner(model, X, y, units=fewer).forget(0).accepted


def test_no_warning_on_the_way():
    model, X, y = net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unlearner(model, X, y, selector="lfoci", n_perturbations=50).forget([1])


def test_requests_of_several_threads_follow_each_other():
    model, X, y = net()
    ours = unlearner(model, X, y)
    threads = [threading.Thread(target=ours.forget, args=([i],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ours.forgotten) == list(range(6))
    assert [deletion.id for deletion in ours.deletions] == [1, 2, 3, 4, 5, 6]


def test_a_report_has_a_certificate_again_after_a_request_was_taken_back():
    X, y = torch.randn(40, 4), torch.arange(40) % 3
    ours = Unlearner(nn.Linear(4, 3), "cross_entropy", (X, y), weight_decay=0.1, selector="all", convex=True)
    ours.forget([0])
    ours.rollback()
    assert "A request was taken back" in ours.report().to_html()
    ours.forget([1])
    assert "A request was taken back" not in ours.report().to_html()
    assert "retrained model" in ours.report().to_html().split("<h2>Certificate</h2>")[1]


def test_the_accountant_that_is_shown_is_a_copy():
    X, y = torch.randn(40, 4), torch.arange(40) % 3
    ours = Unlearner(nn.Linear(4, 3), "cross_entropy", (X, y), weight_decay=0.1, selector="all", convex=True)
    ours.accountant.add(1.0, 1e-5, 1.0)
    assert ours.accountant.rho == 0.0
