"""Each baseline where the right answer is known: closed forms, one step by hand, limits."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, log_softmax
from torch.nn.utils import prune

from codec.unlearn import baselines
from codec.unlearn._problem import Problem
from codec.unlearn._training import Recipe, reset
from codec.unlearn._units import find_units

DECAY = 0.1
IDS = [3, 7, 20]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(40, 3), torch.arange(40) % 3
RETAIN = torch.tensor([i for i in range(40) if i not in IDS])
FORGET = torch.tensor(IDS)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def classifier(model=None, **options):
    return Problem(model or net(), "cross_entropy", (X, Y), weight_decay=DECAY, **options)


def ridge_solution(ids):
    """Minimum of mean (x w - y)^2 + DECAY / 2 ||w||^2."""
    x, y = X[ids], TARGET[ids]
    return torch.linalg.solve(2 * x.T @ x / len(ids) + DECAY * torch.eye(3).double(), 2 * x.T @ y / len(ids)).T


TARGET = X @ normal(3, 2, seed=1) + 0.1 * normal(40, 2, seed=2)


def ridge():
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(ridge_solution(range(40)))
    return Problem(model, lambda o, t: (o - t).square().sum(1), (X, TARGET), weight_decay=DECAY)


def loss_gradient(model, ids, targets=None):
    """Mean gradient of the cross entropy, by autograd on the module itself."""
    loss = cross_entropy(model(X[ids]), Y[ids] if targets is None else targets)
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def once(**options):
    """One plain step of gradient descent on all samples of a pass."""
    return Recipe(**{"epochs": 1, "lr": 0.1, "batch_size": None, "momentum": 0.0, **options})


def check_step(deletion, model, gradient, rate=0.1, decay=DECAY):
    for name, p in model.named_parameters():
        torch.testing.assert_close(deletion.parameters[name], p.detach() - rate * (gradient[name] + decay * p.detach()))


# --------------------------------------------------------------------------- closed forms
@pytest.mark.parametrize("gradient", ["difference", "retain"])
def test_newton_on_ridge_is_retraining(gradient):
    deletion = baselines.newton(ridge(), IDS, gradient=gradient, curvature="hessian")
    torch.testing.assert_close(deletion.parameters["weight"], ridge_solution(RETAIN), rtol=0, atol=1e-10)
    assert deletion.iterations == 0  # six parameters are solved by a factor
    assert deletion.damping == 0.0


def test_retraining_ridge_reaches_the_closed_form():
    recipe = Recipe(epochs=400, lr=0.05, batch_size=None, momentum=0.9)
    deletion = baselines.retrain(ridge(), IDS, recipe, random_state=0)
    torch.testing.assert_close(deletion.parameters["weight"], ridge_solution(RETAIN), rtol=0, atol=1e-8)


def test_fine_tuning_ridge_reaches_the_closed_form():
    recipe = Recipe(epochs=400, lr=0.05, batch_size=None, momentum=0.9)
    deletion = baselines.fine_tune(ridge(), IDS, recipe)
    torch.testing.assert_close(deletion.parameters["weight"], ridge_solution(RETAIN), rtol=0, atol=1e-8)
    assert deletion.forget_loss[1] > deletion.forget_loss[0]


def test_kfac_is_the_kronecker_product_on_one_layer_of_ridge():
    # One linear layer and squared error: the curvature is 2 I (x) E[x x^T], exactly Kronecker.
    deletion = baselines.kfac(ridge(), IDS)
    torch.testing.assert_close(deletion.parameters["weight"], ridge_solution(RETAIN), rtol=0, atol=1e-6)


def one_layer_of_softmax():
    model = nn.Linear(3, 3).double()
    torch.manual_seed(1)
    nn.init.normal_(model.weight)
    return model


def test_kfac_on_one_layer_of_softmax_is_its_formula():
    """A: inputs and a 1, weighted by the trace of diag(p) - p p^T; G: the mean of these matrices over R."""
    model, mu = one_layer_of_softmax(), 0.2
    p = model(X).softmax(1).detach()
    of_outputs = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    shares = of_outputs.diagonal(dim1=1, dim2=2).sum(1)[RETAIN]
    x = torch.cat([X, torch.ones(40, 1).double()], 1)
    a = (shares[:, None] * x[RETAIN]).T @ x[RETAIN] / shares.sum()
    g = of_outputs[RETAIN].mean(0)
    slopes = p - torch.eye(3).double()[Y]
    b = slopes[RETAIN].T @ x[RETAIN] / len(RETAIN) - slopes.T @ x / 40
    matrix = torch.kron(g, a) + (DECAY + mu) * torch.eye(12).double()
    step = torch.linalg.solve(matrix, b.flatten()).reshape(3, 4)
    deletion = baselines.kfac(classifier(model), IDS, damping=mu)
    torch.testing.assert_close(deletion.parameters["weight"], model.weight.detach() - step[:, :3])
    torch.testing.assert_close(deletion.parameters["bias"], model.bias.detach() - step[:, 3])


def test_kfac_leaves_layers_that_are_not_called_as_modules():
    """Attention multiplies by the weight of its output layer itself; a spare layer is never used."""
    torch.manual_seed(0)
    model = Attentive()
    model.spare = nn.Linear(2, 2)
    deletion = baselines.kfac(classifier(model.double().eval()), IDS, damping=0.1)
    moved = {k for k, p in model.named_parameters() if not torch.equal(deletion.parameters[k], p.detach())}
    assert moved == {"layer.weight", "layer.bias"}


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        return self.scale * x


def test_kfac_and_fisher_noise_say_what_they_need_in_their_own_words():
    for model, y, loss, message in (
        (Scale(), Y, "cross_entropy", "K-FAC knows no layer of this model"),
        (nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double(), Y / 1.0, "mse", "needs one vector of at most"),
    ):
        problem = Problem(model, loss, (X, y.to(X.dtype) if loss == "mse" else y), weight_decay=DECAY)
        with pytest.raises(ValueError, match=rf"{message}.*newton\(..., curvature='ggn'\)") as raised:
            baselines.kfac(problem, IDS)
        assert "selector" not in str(raised.value)
    with pytest.raises(ValueError, match="Fisher forgetting needs integer classes") as raised:
        baselines.fisher_forgetting(ridge(), IDS)
    assert "curvature=" not in str(raised.value)


def test_kfac_leaves_what_has_no_factors_as_it_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    deletion = baselines.kfac(classifier(model), IDS, damping=0.1)
    moved = {k for k, p in model.named_parameters() if not torch.equal(deletion.parameters[k], p.detach())}
    assert moved == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_damping_makes_newton_a_small_gradient_step():
    problem, big = ridge(), 1e8
    deletion = baselines.newton(problem, IDS, damping=big, gradient="retain", curvature="hessian", tol=1e-12)
    w = problem.parameters()["weight"]
    residual = X[RETAIN] @ w.T - TARGET[RETAIN]
    gradient = 2 * residual.T @ X[RETAIN] / len(RETAIN) + DECAY * w
    torch.testing.assert_close((deletion.parameters["weight"] - w) * big, -gradient, rtol=1e-5, atol=1e-9)


# --------------------------------------------------------------------------- one step by hand
def test_one_step_of_fine_tuning():
    model = net()
    check_step(baselines.fine_tune(classifier(model), IDS, once()), model, loss_gradient(model, RETAIN))


def test_the_recipes_weight_decay_is_taken_before_the_problems():
    model = net()
    deletion = baselines.fine_tune(classifier(model), IDS, once(weight_decay=0.0))
    check_step(deletion, model, loss_gradient(model, RETAIN), decay=0.0)


@pytest.mark.parametrize("decay", [None, 2.0])
def test_the_first_step_of_adam_has_the_sign_of_the_gradient_with_weight_decay(decay):
    model = net()
    recipe = once(optimizer="adam", lr=0.01, weight_decay=decay)
    deletion = baselines.fine_tune(classifier(model), IDS, recipe)
    gradient, flips = loss_gradient(model, RETAIN), 0
    for name, p in model.named_parameters():
        slope = gradient[name] + (DECAY if decay is None else decay) * p.detach()
        assert slope.abs().min() > 1e-5  # Adam divides by |slope| + 1e-8
        torch.testing.assert_close(deletion.parameters[name], p.detach() - 0.01 * slope.sign(), rtol=0, atol=2e-5)
        flips += int((slope.sign() != gradient[name].sign()).sum())
    assert flips > 0  # else nothing was tested


def test_one_step_of_ascent():
    model = net()
    gradient = {k: -g for k, g in loss_gradient(model, FORGET).items()}
    deletion = baselines.gradient_ascent(classifier(model), IDS, once())
    check_step(deletion, model, gradient)
    assert deletion.forget_loss[1] > deletion.forget_loss[0]


@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
def test_one_step_of_neg_grad_plus(beta):
    model = net()
    of_retain, of_forget = loss_gradient(model, RETAIN), loss_gradient(model, FORGET)
    gradient = {k: beta * of_retain[k] - (1 - beta) * of_forget[k] for k in of_retain}
    check_step(baselines.neg_grad_plus(classifier(model), IDS, once(), beta=beta), model, gradient)


def test_random_labels_are_wrong_and_uniform():
    from codec.unlearn._training import wrong_labels

    drawn = [wrong_labels(classifier(), torch.arange(40), seed) for seed in range(50)]
    found = torch.tensor([[int(labels[i]) for i in range(40)] for labels in drawn])
    assert (found != Y).all()
    share = ((found - Y) % 3 == 1).double().mean()
    assert abs(share - 0.5) < 4 * (0.25 / found.numel()) ** 0.5


def test_one_step_of_random_labels():
    from codec.unlearn._training import seed_of, wrong_labels

    model = net()
    problem = classifier(model)
    wrong = wrong_labels(problem, FORGET, seed_of(5))
    targets = Y.clone()
    for i, label in wrong.items():
        targets[i] = label
    recipe = once(optimizer="sgd")
    check_step(
        baselines.random_labels(problem, IDS, recipe, random_state=5),
        model,
        loss_gradient(model, torch.arange(40), targets),
    )


def test_salun_moves_the_salient_parameters_alone():
    model = net()
    deletion = baselines.salun(classifier(model), IDS, Recipe(epochs=2, lr=0.1, batch_size=8), threshold=0.5)
    gradient = loss_gradient(model, FORGET)
    sizes = torch.cat([g.abs().flatten() for g in gradient.values()])
    gamma = sizes.sort().values[len(sizes) // 2]
    for name, p in model.named_parameters():
        moved = deletion.parameters[name] != p.detach()
        assert torch.equal(moved, gradient[name].abs() >= gamma)


def test_salun_without_a_threshold_and_without_retained_loss_is_one_step_on_wrong_labels():
    from codec.unlearn._training import seed_of, wrong_labels

    model = net()
    problem = classifier(model)
    wrong = wrong_labels(problem, FORGET, seed_of(2))
    targets = torch.stack([wrong[i] for i in IDS])
    rate = 0.1
    expected = {}
    gradient = loss_gradient(model, FORGET, targets)
    for name, p in model.named_parameters():  # the second step, of weight alpha = 0, only decays
        first = p.detach() - rate * (gradient[name] + DECAY * p.detach())
        expected[name] = first - rate * DECAY * first
    deletion = baselines.salun(problem, IDS, once(), threshold=0.0, alpha=0.0, random_state=2)
    for name, value in expected.items():
        torch.testing.assert_close(deletion.parameters[name], value)


def kl(teacher, student, temperature=1.0):
    logs = [log_softmax(o / temperature, 1) for o in (student, teacher)]
    return kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")


def test_scrub_begins_at_rest_and_then_obeys_the_loss():
    # At the teacher the distance has no slope: the first pass over U moves by weight decay alone, and the
    # pass over R is a step on gamma times the loss plus alpha times the distance to the first point.
    model = net()
    recipe = once(optimizer="sgd")
    deletion = baselines.scrub(
        classifier(model), IDS, recipe, alpha=0.5, gamma=2.0, temperature=2.0, forget_batch_size=3
    )
    student = net()
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(1 - 0.1 * DECAY)
    teacher = model(X[RETAIN]).detach()
    out = student(X[RETAIN])
    loss = 0.5 * 4 * kl(teacher, out, 2.0) + 2 * cross_entropy(out, Y[RETAIN])
    gradient = torch.autograd.grad(loss, list(student.parameters()))
    for (name, p), g in zip(student.named_parameters(), gradient, strict=True):
        torch.testing.assert_close(deletion.parameters[name], p.detach() - 0.1 * (g + DECAY * p.detach()))


def test_one_step_of_bad_teaching():
    model, stranger = net(), net(seed=9)
    deletion = baselines.bad_teacher(
        classifier(model), IDS, once(optimizer="sgd"), retain_share=1.0, initial=stranger.state_dict()
    )
    # the competent teacher is the model itself: no slope on R; the mean is over all 40 samples
    loss = kl(stranger(X[FORGET]).detach(), model(X[FORGET])) * len(IDS) / 40
    gradient = dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, model.parameters()), strict=True))
    check_step(deletion, model, gradient)


def seen_by(method, size, seed, ids=IDS, **options):
    """The batches of so many samples that a method fetches, in order."""
    problem, seen = classifier(), []
    fetch = problem.fetch
    problem.fetch = lambda rows: (seen.append(torch.as_tensor(rows).tolist()), fetch(rows))[1]
    method(problem, ids, random_state=seed, **options)
    return [batch for batch in seen if len(batch) == size]


def test_bad_teaching_shows_a_random_share_of_the_retained_samples():
    """11 of 37 for each seed, each sample as often as any other."""
    n_seeds, share = 40, 11 / 37
    counts = np.zeros(40)
    for seed in range(n_seeds):
        (batch,) = seen_by(baselines.bad_teacher, 14, seed, recipe=once(optimizer="sgd"), retain_share=0.3)
        assert len(set(batch)) == 14
        assert set(IDS) <= set(batch)
        counts[batch] += 1
    deviation = (n_seeds * share * (1 - share)) ** 0.5
    assert np.abs(counts[RETAIN] - n_seeds * share).max() < 4.5 * deviation  # of 37 samples


def test_the_seed_of_bad_teaching_decides_who_its_untrained_teacher_is():
    """One batch, no dropout and no retained samples: only the teacher is drawn."""
    options = {"recipe": once(optimizer="sgd"), "retain_share": 0.0}
    ends = [baselines.bad_teacher(classifier(), IDS, random_state=seed, **options).parameters for seed in (0, 0, 1)]
    assert torch.equal(ends[0]["0.weight"], ends[1]["0.weight"])
    assert not torch.allclose(ends[0]["0.weight"], ends[2]["0.weight"])


def test_the_seed_of_neg_grad_plus_decides_the_order_of_the_forgotten_samples():
    ids = [1, 5, 9, 13, 17]
    recipe = Recipe(epochs=5, lr=0.01, batch_size=2)
    orders = [
        [batch for batch in seen_by(baselines.neg_grad_plus, 2, seed, ids, recipe=recipe) if set(batch) <= set(ids)]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_fisher_noise_has_the_published_deviation():
    # Softmax regression at w = 0: F = E_x E_y [(p_c - 1(y = c))^2 x_j^2] = (2/9) E x_j^2 for three classes
    model = nn.Linear(3, 3, bias=False).double()
    nn.init.zeros_(model.weight)
    problem = classifier(model)
    for power in (0.5, 0.25):
        draws = torch.stack(
            [
                baselines.fisher_forgetting(problem, IDS, alpha=1e-4, power=power, random_state=s).parameters["weight"]
                for s in range(50)
            ]
        )
        expected = 1e-2 * (2 / 9 * X[RETAIN].square().mean(0)) ** -power
        spread = draws.reshape(-1, 3).square().mean(0).sqrt()
        np.testing.assert_allclose(spread, expected, rtol=4 / (2 * 150) ** 0.5)
        assert abs(draws.mean()) < 4 * expected.max() / draws.numel() ** 0.5


def test_fisher_noise_without_variance_is_nothing():
    problem = classifier()
    deletion = baselines.fisher_forgetting(problem, IDS, alpha=0.0)
    assert deletion.distance == 0.0


def test_dampening_by_hand():
    model = net()
    squares = {k: torch.zeros(40, *p.shape).double() for k, p in model.named_parameters()}
    for i in range(40):
        for k, g in loss_gradient(model, [i]).items():
            squares[k][i] = g.square()
    alpha, dampening = 1.2, 0.9
    deletion = baselines.selective_synaptic_dampening(classifier(model), IDS, alpha=alpha, dampening=dampening)
    chosen = 0
    for k, p in model.named_parameters():
        of_all, of_forgotten = squares[k].mean(0), squares[k][IDS].mean(0)
        picked = of_forgotten > alpha * of_all
        expected = torch.where(picked, (dampening * of_all / of_forgotten).clamp(max=1) * p, p).detach()
        torch.testing.assert_close(deletion.parameters[k], expected)
        chosen += int(picked.sum())
    assert 0 < chosen < 38


def test_dampening_of_nothing():
    assert baselines.selective_synaptic_dampening(classifier(), IDS, alpha=1e9).distance == 0.0


# --------------------------------------------------------------------------- units
def test_all_units_at_random_are_the_newton_step():
    problem = classifier()
    full = baselines.newton(problem, IDS, damping=0.1, tol=1e-10)
    units = find_units(problem.model)
    sub = baselines.random_units(problem, IDS, n_units=units.n_units, damping=0.1)
    for name, value in full.parameters.items():
        torch.testing.assert_close(sub.parameters[name], value, rtol=1e-4, atol=1e-6)


def test_the_units_with_the_largest_gradients_are_changed():
    model = net()
    gradient = loss_gradient(model, FORGET)
    norms = torch.cat(
        [(gradient[f"{i}.weight"].square().sum(1) + gradient[f"{i}.bias"].square()).sqrt() for i in (0, 2)]
    )
    deletion = baselines.gradient_norm_units(classifier(model), IDS, n_units=3, damping=0.1)
    assert set(deletion.units) == set(norms.topk(3).indices.tolist())
    np.testing.assert_allclose(deletion.scores, norms[list(deletion.units)].tolist())
    moved = torch.cat([(deletion.parameters[f"{i}.weight"] != model[i].weight).any(1) for i in (0, 2)])
    assert moved.nonzero()[:, 0].tolist() == list(deletion.units)
    assert deletion.labels == find_units(model).labels(deletion.units)


@pytest.mark.slow
def test_random_units_are_uniform():
    counts = np.zeros(8)
    for seed in range(60):
        counts[list(baselines.random_units(classifier(), IDS, n_units=2, damping=1.0, random_state=seed).units)] += 1
    assert counts.sum() == 120
    assert np.abs(counts - 15).max() < 4 * (60 * 0.25 * 0.75) ** 0.5


# --------------------------------------------------------------------------- the paper's step
def test_the_papers_step_is_the_dense_solution_of_its_formula():
    model, earlier = net(), net(seed=1)
    state = {k: p.detach() for k, p in earlier.named_parameters()}
    deletion = baselines.paper_step(classifier(model), [5], damping=0.01, earlier=state)

    def flat(d):
        return torch.cat([d[k].reshape(-1) for k in dict(model.named_parameters())])

    everyone = torch.arange(40)
    y = flat(loss_gradient(model, everyone)) - flat(loss_gradient(earlier, everyone))
    w = flat({k: p.detach() for k, p in model.named_parameters()})
    hessian = torch.outer(y, y) / (w - flat(state)).abs().sum()
    combined = 40 / 39 * hessian + 0.01 * torch.eye(len(y)).double()
    step = torch.linalg.solve(combined, flat(loss_gradient(model, [5]))) / 39
    torch.testing.assert_close(flat(deletion.parameters), w + step)


def test_the_papers_step_is_ascent():
    model = net()
    deletion = baselines.paper_step(classifier(model), [5])
    step = torch.cat([(deletion.parameters[k] - p.detach()).flatten() for k, p in model.named_parameters()])
    gradient = torch.cat([g.flatten() for g in loss_gradient(model, [5]).values()])
    assert torch.cosine_similarity(step, gradient, dim=0) > 0.999


# --------------------------------------------------------------------------- what all share
SHORT = Recipe(epochs=2, lr=0.05, batch_size=8)
ALL = {
    "retrain": lambda p, seed: baselines.retrain(p, IDS, SHORT, random_state=seed),
    "fine_tune": lambda p, seed: baselines.fine_tune(p, IDS, SHORT, random_state=seed),
    "gradient_ascent": lambda p, seed: baselines.gradient_ascent(p, IDS, SHORT, random_state=seed),
    "neg_grad_plus": lambda p, seed: baselines.neg_grad_plus(p, IDS, SHORT, random_state=seed),
    "random_labels": lambda p, seed: baselines.random_labels(p, IDS, SHORT, random_state=seed),
    "salun": lambda p, seed: baselines.salun(p, IDS, SHORT, random_state=seed),
    "scrub": lambda p, seed: baselines.scrub(p, IDS, SHORT, random_state=seed),
    "bad_teacher": lambda p, seed: baselines.bad_teacher(p, IDS, SHORT, random_state=seed),
    "fisher_forgetting": lambda p, seed: baselines.fisher_forgetting(p, IDS, random_state=seed),
    "selective_synaptic_dampening": lambda p, _: baselines.selective_synaptic_dampening(p, IDS, alpha=1.0),
    "newton": lambda p, _: baselines.newton(p, IDS, damping=0.1),
    "kfac": lambda p, _: baselines.kfac(p, IDS, damping=0.1),
    "random_units": lambda p, seed: baselines.random_units(p, IDS, n_units=3, damping=0.1, random_state=seed),
    "gradient_norm_units": lambda p, _: baselines.gradient_norm_units(p, IDS, n_units=3, damping=0.1),
    "paper_step": lambda p, _: baselines.paper_step(p, IDS),
}


def test_every_public_baseline_is_tested():
    assert set(ALL) == set(baselines.__all__) - {"Recipe"}


def dropout_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3)).double()


WITHOUT_DRAWS = {"selective_synaptic_dampening", "newton", "kfac", "gradient_norm_units", "paper_step"}


@pytest.mark.parametrize("name", ALL)
def test_models_and_random_states_are_as_before_and_seeds_decide(name):
    problem = classifier(dropout_net())
    before = {k: v.clone() for k, v in problem.model.state_dict().items()}
    state = torch.get_rng_state()
    first, second, other = (ALL[name](problem, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in problem.model.state_dict().items())
    assert not problem.model.training
    assert all(torch.equal(v, second.parameters[k]) for k, v in first.parameters.items())
    assert all(torch.equal(v, other.parameters[k]) for k, v in first.parameters.items()) == (name in WITHOUT_DRAWS)
    assert set(first.parameters) == set(problem.names)
    assert first.forgotten == tuple(IDS)
    assert first.accepted
    assert first.certificate is None
    assert first.distance > 0
    losses = problem.sample_losses(first.parameters)
    assert first.forget_loss[1] == pytest.approx(float(losses[IDS].mean()))
    assert first.retain_loss[1] == pytest.approx(float(losses[RETAIN].mean()))


def test_running_statistics_move_with_training_and_come_back_in_the_result():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    problem = classifier(model)
    deletion = baselines.fine_tune(problem, IDS, SHORT)
    assert "1.running_mean" in deletion.parameters
    assert torch.equal(problem.model[1].running_mean, torch.zeros(5).double())
    assert problem.sample_losses(deletion.parameters).isfinite().all()


@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_of_retrained_models_know_nothing_of_what_was_forgotten(affine):
    x = X.clone()
    x[IDS] += 1000.0
    norm = nn.BatchNorm1d(3, affine=affine, momentum=None)  # the mean over all batches
    model = nn.Sequential(norm, nn.Linear(3, 3)).double().train()
    model(x)
    problem = Problem(model, "cross_entropy", (x, Y), weight_decay=DECAY)
    deletion = baselines.retrain(problem, IDS, Recipe(epochs=3, lr=0.1, batch_size=None), random_state=0)
    torch.testing.assert_close(deletion.parameters["0.running_mean"], X[RETAIN].mean(0))


def test_parameters_that_a_baseline_leaves_are_copies_too():
    problem = classifier()
    before = {name: value.clone() for name, value in problem.parameters().items()}
    deletion = baselines.gradient_norm_units(problem, IDS, n_units=1, damping=0.1)
    for value in deletion.parameters.values():
        value.zero_()
    for name, value in problem.parameters().items():
        assert torch.equal(value, before[name])


def test_retraining_sees_the_others_in_the_order_of_the_whole():
    problem = classifier()
    seen = []
    fetch = problem.fetch
    problem.fetch = lambda ids: (seen.append(torch.as_tensor(ids).tolist()), fetch(ids))[1]
    for ids in ([3], [7]):
        baselines.retrain(problem, ids, Recipe(epochs=1, batch_size=8), random_state=0)
    orders = [
        [i for batch in part for i in batch if i not in (3, 7)]
        for part in (seen[: len(seen) // 2], seen[len(seen) // 2 :])
    ]
    assert orders[0] == orders[1]


def test_retraining_needs_a_beginning():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(ValueError, match="pass initial="):
        baselines.retrain(classifier(Bare()), IDS, SHORT)
    fresh = {"weight": torch.zeros(3, 3, dtype=torch.float64)}
    assert baselines.retrain(classifier(Bare()), IDS, SHORT, initial=fresh, random_state=0).distance > 0


def hidden(kind):
    """A network whose first weight is made of other tensors, called once."""
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if kind == "pruning":
            prune.l1_unstructured(model[0], "weight", 4)
        else:
            getattr(nn.utils.parametrizations if kind.endswith("new") else nn.utils, kind.split()[0])(model[0])
    model(X)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("weight_norm old", "0.weight_g, 0.weight_v are not drawn"),
        ("spectral_norm old", "0.weight_orig are not drawn"),
        ("pruning", "0.weight_orig are not drawn"),
        ("weight_norm new", "0.parametrizations.weight have no"),
        ("spectral_norm new", "0.parametrizations.weight have no"),
    ],
)
def test_retraining_needs_a_beginning_where_weights_are_made_of_others(kind, name):
    """reset_parameters writes into the weight, and the trained tensors behind it would stay."""
    model = hidden(kind)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"{name} .*pass initial="):
        baselines.retrain(classifier(model), IDS, SHORT, random_state=0)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert baselines.retrain(classifier(model), IDS, SHORT, initial=hidden(kind).state_dict(), random_state=0).accepted


class Attentive(nn.Module):
    """One head of self-attention over the features, and a layer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        rows = torch.stack([x, x.flip(1)], 1)
        return self.layer(self.attention(rows, rows, rows, need_weights=False)[0].mean(1))


def test_resetting_begins_where_the_constructor_does():
    """torch draws an attention's output layer and then sets its bias to 0."""
    torch.manual_seed(0)
    model = Attentive()
    assert not model.attention.out_proj.bias.any()
    for p in model.parameters():
        nn.init.ones_(p)
    reset(model, 0)
    assert not model.attention.out_proj.bias.any()
    assert not model.attention.in_proj_bias.any()
    assert (model.attention.out_proj.weight != 1.0).all()


class Container(nn.Module):
    """Has no parameter of its own, and its own way to draw those inside."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def reset_parameters(self):
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.layer(x)


def test_resetting_asks_modules_that_hold_only_others_last():
    model = Container()
    reset(model, 0)
    assert torch.equal(model.layer.weight, torch.eye(3))
    model.layer.bias.requires_grad_(False)  # what is frozen inside is not for the outer module to draw
    reset(model, 0)
    assert not torch.equal(model.layer.weight, torch.eye(3))


def test_a_reset_that_asks_for_something_is_none():
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].reset_parameters = lambda scale: scale
    with pytest.raises(ValueError, match=r"0 have no reset_parameters\(\); pass initial="):
        reset(model, 0)


def test_resetting_leaves_frozen_parameters():
    model = net()
    model[0].bias.requires_grad_(False)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    reset(model, 3)
    assert {k for k, p in model.named_parameters() if torch.equal(p, before[k])} == {"0.bias"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: baselines.neg_grad_plus(p, IDS, beta=2.0), "beta"),
        (lambda p: baselines.salun(p, IDS, threshold=-1.0), "threshold"),
        (lambda p: baselines.bad_teacher(p, IDS, retain_share=3.0), "retain_share"),
        (lambda p: baselines.bad_teacher(p, IDS, temperature=0.0), "temperature is 0"),
        (lambda p: baselines.scrub(p, IDS, temperature=-1.0), "temperature is -1"),
        (lambda p: baselines.newton(p, IDS, gradient="sum"), "gradient"),
        (lambda p: baselines.newton(p, IDS, damping=-1.0), "damping is -1"),
        (lambda p: baselines.paper_step(p, IDS, damping=0.0), "damping is 0"),
        (lambda p: baselines.fine_tune(p, [1, 1]), "name each sample once"),
        (lambda p: baselines.salun(p, IDS, alpha=float("nan")), "alpha is nan"),
        (lambda p: baselines.scrub(p, IDS, alpha=-1.0), "alpha is -1"),
        (lambda p: baselines.scrub(p, IDS, gamma=float("nan")), "gamma is nan"),
        (lambda p: baselines.scrub(p, IDS, max_epochs=-1), "max_epochs is -1"),
        (lambda p: baselines.scrub(p, IDS, forget_batch_size=0), "forget_batch_size is 0"),
        (lambda p: baselines.fisher_forgetting(p, IDS, alpha=-1.0), "alpha is -1"),
        (lambda p: baselines.fisher_forgetting(p, IDS, power=float("nan")), "power is nan"),
        (lambda p: baselines.fisher_forgetting(p, IDS, most=-1.0), "most is -1"),
        (lambda p: baselines.selective_synaptic_dampening(p, IDS, alpha=float("nan")), "alpha is nan"),
        (lambda p: baselines.selective_synaptic_dampening(p, IDS, dampening=-1.0), "dampening is -1"),
        (lambda p: baselines.newton(p, IDS, tol=-1.0), "tol is -1"),
        (lambda p: baselines.newton(p, IDS, max_iter=0), "max_iter is 0"),
        (lambda p: baselines.newton(p, IDS, curvature="exact"), "curvature is 'exact'"),
        (lambda p: baselines.gradient_norm_units(p, IDS, n_units=9), "n_units is 9"),
        (
            lambda p: baselines.random_units(p, IDS, n_units=1, units=find_units(nn.Linear(3, 8))),
            "units are those of an",
        ),
        (lambda p: baselines.paper_step(p, IDS, units=find_units(nn.Linear(3, 8))), "units are those of another model"),
        (lambda p: baselines.paper_step(p, IDS, selected=torch.tensor([])), "selected is tensor"),
        (lambda p: baselines.paper_step(p, IDS, selected=[0.5]), r"selected is \[0.5\]"),
        (lambda p: baselines.paper_step(p, IDS, earlier={}), "earlier lacks '0.weight', '0.bias'"),
        (lambda p: baselines.paper_step(p, IDS, earlier=nn.Linear(3, 3).state_dict()), "earlier lacks"),
        (lambda p: baselines.retrain(p, IDS, SHORT, initial=nn.Linear(3, 3).state_dict()), "initial does not fit"),
        (
            lambda p: baselines.bad_teacher(p, IDS, SHORT, initial={}),
            "initial does not fit the model; pass the state_dict",
        ),
        (lambda p: baselines.random_units(p, IDS, n_units=0), "n_units"),
        (lambda p: baselines.fine_tune(p, []), "empty"),
        (lambda p: baselines.fine_tune(p, range(40)), "all 40"),
        (lambda _p: Recipe(lr=0.0), "lr"),
        (lambda _p: Recipe(momentum=1.0), "momentum is 1.0"),
        (lambda _p: Recipe(optimizer="lion"), "optimizer"),
        (lambda _p: Recipe(optimizer=["sgd"]), "optimizer must be"),
        (lambda _p: Recipe(schedule="linear"), "schedule"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(classifier())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: baselines.fine_tune(p.model, IDS), "problem is a Sequential; it must be a codec.unlearn.Problem"),
        (lambda p: baselines.random_units(p.model, IDS, n_units=1), "problem is a Sequential"),
        (lambda p: baselines.fine_tune(p, IDS, 5), "recipe is a int; it must be a Recipe"),
        (lambda p: baselines.retrain(p, IDS, None), "recipe is a NoneType; it must be a Recipe"),
        (lambda p: baselines.neg_grad_plus(p, IDS, None), "recipe is a NoneType"),
        (lambda p: baselines.salun(p, IDS, None), "recipe is a NoneType"),
        (lambda p: baselines.scrub(p, IDS, {"lr": 0.1}), "recipe is a dict"),
        (lambda p: baselines.neg_grad_plus(p, IDS, beta="0.5"), "beta is '0.5'"),
        (lambda p: baselines.scrub(p, IDS, alpha="1"), "alpha is '1'"),
        (lambda p: baselines.selective_synaptic_dampening(p, IDS, alpha="1"), "alpha is '1'"),
        (lambda p: baselines.random_units(p, IDS, n_units=1.5), "n_units is 1.5"),
        (lambda p: baselines.gradient_norm_units(p, IDS, n_units="2"), "n_units is '2'"),
        (lambda p: baselines.paper_step(p, IDS, earlier=p.model), "earlier is a Sequential; pass a dict"),
        (lambda p: baselines.retrain(p, IDS, initial=p.model), r"initial is a Sequential; pass the state_dict\(\)"),
        (lambda p: baselines.fine_tune(p, IDS, Recipe(optimizer=lambda _: None)), "optimizer made a NoneType"),
        (lambda _p: Recipe(schedule=("a",)), "schedule is 'a'"),
        (lambda _p: Recipe(epochs=1.5), "epochs is 1.5"),
        (lambda _p: Recipe(schedule=[3]), r"schedule is \[3\]"),
    ],
)
def test_arguments_of_another_type_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call(classifier())


def test_random_labels_need_classes():
    with pytest.raises(ValueError, match=r"integer class targets, these are torch\.float64; pass classes"):
        baselines.random_labels(ridge(), IDS)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_what_errors_say_of_one_logit_is_the_same_loss(shape):
    """log(1 + e^z) - y z is the cross entropy of the logits (0, z)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 1), nn.Unflatten(1, (1,)) if len(shape) == 2 else nn.Flatten(0)).double()
    y = Y % 2
    plain = Problem(model, nn.BCEWithLogitsLoss(), (X, y.reshape(shape).double()), weight_decay=DECAY)
    two = lambda z: torch.nn.functional.pad(z.reshape(-1, 1), (1, 0))  # noqa: E731
    told = Problem(model, "cross_entropy", (X, y), weight_decay=DECAY, output=two)
    for method in (baselines.random_labels, baselines.scrub, baselines.bad_teacher, baselines.fisher_forgetting):
        with pytest.raises(ValueError, match="For one logit z") as raised:
            method(plain, IDS)
        assert "output=lambda z: torch.nn.functional.pad(z.reshape(-1, 1), (1, 0))) and 'cross" in str(raised.value)
        assert method(told, IDS, random_state=0).distance > 0
    ends = [baselines.fine_tune(p, IDS, SHORT, random_state=0).parameters["0.weight"] for p in (plain, told)]
    torch.testing.assert_close(*ends)


def test_random_labels_need_one_class_and_not_a_yes_or_no_for_each():
    several = lambda o, t: binary_cross_entropy_with_logits(o, t.double(), reduction="none").mean(1)  # noqa: E731
    problem = Problem(net(), several, (X, torch.stack([Y, Y, Y], 1) % 2), weight_decay=DECAY)
    for method in (baselines.random_labels, baselines.salun):
        with pytest.raises(ValueError, match=r"need one class a sample or position; .* shape of its outputs, \(3,\)"):
            method(problem, IDS)


def test_random_labels_leave_padded_positions_out_of_the_loss():
    """Of three positions the last is padding, as -100 says; its loss is none, and stays none."""
    from codec.unlearn._training import wrong_labels

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), nn.Unflatten(1, (3, 4))).double()
    loss = lambda o, t: cross_entropy(o.transpose(1, 2), t, reduction="none").sum(1) / 2  # noqa: E731
    y = torch.stack([Y, Y + 1, torch.full_like(Y, -100)], 1)
    problem = Problem(model, loss, (X, y), weight_decay=0.0)
    found = torch.stack(list(wrong_labels(problem, torch.arange(40), 0).values()))
    assert (found[:, 2] == -100).all()
    assert (found[:, :2] != y[:, :2]).all()
    assert set(found[:, :2].flatten().tolist()) == set(range(4))
    moved = baselines.random_labels(problem, IDS, once(optimizer="sgd")).parameters["0.weight"] != model[0].weight
    assert moved[:8].all()
    assert not moved[8:].any()  # the outputs of the padded position


# --------------------------------------------------------------------------- several steps by hand
def by_hand(model, steps, rate=0.1):
    """Plain gradient descent with weight decay; each step a loss of the student."""
    student = copy.deepcopy(model)
    for loss in steps:
        gradient = torch.autograd.grad(loss(student), list(student.parameters()))
        with torch.no_grad():
            for p, g in zip(student.parameters(), gradient, strict=True):
                p.sub_(rate * (g + DECAY * p))
    return dict(student.named_parameters())


def check(deletion, expected):
    for name, value in expected.items():
        torch.testing.assert_close(deletion.parameters[name], value.detach())


def test_scrub_climbs_away_from_the_teacher_in_its_first_epochs():
    model, t = net(), 2.0
    teacher = {name: model(X[rows]).detach() for name, rows in (("U", FORGET), ("R", RETAIN))}
    climb = lambda s: -(t**2) * kl(teacher["U"], s(X[FORGET]), t)  # noqa: E731

    def descend(s):
        out = s(X[RETAIN])
        return 0.5 * t**2 * kl(teacher["R"], out, t) + 2.0 * cross_entropy(out, Y[RETAIN])

    deletion = baselines.scrub(
        classifier(model), IDS, once(epochs=3, optimizer="sgd"), gamma=2.0, max_epochs=2, temperature=t
    )
    check(deletion, by_hand(model, [climb, descend, climb, descend, descend]))


def test_scrub_shows_its_student_every_batch_once():
    """A norm of the inputs: its mean goes a tenth of the way to that of U, then to that of R, and no further."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    deletion = baselines.scrub(classifier(model), IDS, once(optimizer="sgd"))
    expected = 0.9 * 0.1 * X[FORGET].mean(0) + 0.1 * X[RETAIN].mean(0)
    torch.testing.assert_close(deletion.parameters["0.running_mean"], expected)
    assert int(deletion.parameters["0.num_batches_tracked"]) == 2


def test_scrub_holds_loss_and_distance_against_the_same_dropout():
    """Of a student with two dropout masks the sum of the terms is not that of one; a mask of 0 has no slope in either."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3, bias=False)).double()
    problem = Problem(model, "cross_entropy", (X[:2].abs() + 1.0, Y[:2]), weight_decay=0.0)
    seen = 0
    for seed in range(30):
        recipe = once(optimizer="sgd", weight_decay=0.0)
        moved = baselines.scrub(problem, [0], recipe, max_epochs=0, gamma=1.0, alpha=0.0, random_state=seed)
        both = baselines.scrub(problem, [0], recipe, max_epochs=0, gamma=1.0, alpha=5.0, random_state=seed)
        columns = [(d.parameters["1.weight"] != model[1].weight).any(0) for d in (moved, both)]
        assert torch.equal(*columns)
        seen += int((~columns[0]).sum())
    assert seen > 0


def test_bad_teaching_pulls_back_what_stays():
    model, stranger, t = net(), net(seed=9), 2.0
    targets = model(X).detach()
    targets[FORGET] = stranger(X[FORGET]).detach()
    deletion = baselines.bad_teacher(
        classifier(model), IDS, once(epochs=3, optimizer="sgd"), retain_share=1.0, temperature=t,
        initial=stranger.state_dict(),
    )  # fmt: skip
    check(deletion, by_hand(model, 3 * [lambda s: kl(targets, s(X), t)]))


def test_salun_weighs_what_stays():
    from codec.unlearn._training import seed_of, wrong_labels

    model = net()
    problem = classifier(model)
    wrong = wrong_labels(problem, FORGET, seed_of(2))
    targets = torch.stack([wrong[i] for i in IDS])
    steps = [
        lambda s: cross_entropy(s(X[FORGET]), targets),
        lambda s: 0.7 * cross_entropy(s(X[RETAIN]), Y[RETAIN]),
    ]
    check(baselines.salun(problem, IDS, once(), threshold=0.0, alpha=0.7, random_state=2), by_hand(model, steps))


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.0])
def test_salun_keeps_the_share_that_it_names_where_gradients_tie(threshold):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x = torch.cat([X, torch.zeros(40, 3).double()], 1)  # pixels that are always black: gradients of zero
    problem = Problem(model, "cross_entropy", (x, Y), weight_decay=DECAY)
    deletion = baselines.salun(problem, [3], once(), threshold=threshold, random_state=0)
    moved = sum(int((deletion.parameters[k] != p).sum()) for k, p in model.named_parameters())
    n = sum(p.numel() for p in model.parameters())
    assert moved == n - int(threshold * n)


@pytest.mark.parametrize("size", [1, 2, 4, 5, None])
def test_neg_grad_plus_sees_every_forgotten_sample_as_often(size):
    problem, seen = classifier(), []
    fetch = problem.fetch
    ids = [1, 5, 9, 13, 17]
    problem.fetch = lambda rows: (seen.append(torch.as_tensor(rows).tolist()), fetch(rows))[1]
    baselines.neg_grad_plus(problem, ids, Recipe(epochs=5, lr=0.01, batch_size=size), random_state=0)
    batches = [batch for batch in seen if set(batch) <= set(ids)]
    assert {len(batch) for batch in batches} == {size or 5}
    counts = np.bincount(np.concatenate(batches))[ids]
    assert counts.max() - counts.min() <= 1
    if size == 2:
        assert len({tuple(batch) for batch in batches}) > 5  # in new orders


def test_neg_grad_plus_keeps_its_loss_while_an_optimiser_asks_several_times():
    """L-BFGS asks up to five times in each of the five steps of an epoch."""
    problem, seen = classifier(), []
    fetch = problem.fetch
    ids = [1, 5, 9, 13, 17]
    problem.fetch = lambda rows: (seen.append(torch.as_tensor(rows).tolist()), fetch(rows))[1]
    lbfgs = Recipe(epochs=1, batch_size=7, optimizer=lambda ps: torch.optim.LBFGS(ps, lr=0.1, max_iter=5))
    baselines.neg_grad_plus(problem, ids, lbfgs, random_state=0)
    assert sum(len(batch) == 5 and set(batch) == set(ids) for batch in seen) == 5


def test_fisher_information_is_that_of_the_retained_samples_and_bounded():
    """One seed has one noise n, so the ratio of sqrt(a) F^(-1/2) n to sqrt(a) F^(-1/4) n is F^(-1/4)."""
    x = X.clone()
    x[FORGET] *= 100.0
    x[:, 2] *= 1e-3  # F 7e-8: 1 / F is cut off at 1000
    model = nn.Linear(3, 3, bias=False).double()
    nn.init.zeros_(model.weight)
    problem = Problem(model, "cross_entropy", (x, Y), weight_decay=DECAY)
    steps = [
        baselines.fisher_forgetting(problem, IDS, power=power, random_state=0).parameters["weight"]
        for power in (0.5, 0.25)
    ]
    fisher = 2 / 9 * x[RETAIN].square().mean(0) + 1e-8
    expected = fisher.reciprocal().clamp(max=1e3) ** 0.25
    assert bool(expected[2] == 1000**0.25)
    torch.testing.assert_close(steps[0] / steps[1], expected.expand(3, 3))


# --------------------------------------------------------------------------- models and losses of other kinds
def test_a_single_sample_goes_through_batch_norms_with_running_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    model(X)
    model.eval()
    problem = classifier(model)
    expected = {k: -g for k, g in loss_gradient(model, [3]).items()}
    check_step(baselines.gradient_ascent(problem, [3], once()), model, expected)
    for method in (baselines.neg_grad_plus, baselines.salun, baselines.scrub, baselines.random_labels):
        assert method(problem, [3], SHORT, random_state=0).distance > 0
    one_left = Recipe(epochs=1, lr=0.05, batch_size=19)  # 39 = 2 * 19 + 1
    for method in (baselines.retrain, baselines.fine_tune):
        assert method(problem, [3], one_left, random_state=0).distance > 0


def test_batch_norms_train_again_after_a_batch_of_a_single_sample():
    """Two epochs of a batch of two and a batch of one: the first alone counts."""
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    problem = Problem(model, "cross_entropy", (X[:6], Y[:6]), weight_decay=DECAY)
    deletion = baselines.fine_tune(problem, [0, 2, 4], Recipe(epochs=2, lr=0.01, batch_size=2), random_state=0)
    assert int(deletion.parameters["1.num_batches_tracked"]) == 2


class Positions(nn.Module):
    """Five classes at each of seven positions, (b, 5, 7), as torch's cross entropy has it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 35)

    def forward(self, x):
        return self.layer(x).reshape(-1, 5, 7)


def test_classes_are_the_second_axis_of_cross_entropy():
    from codec.unlearn._training import wrong_labels

    torch.manual_seed(0)
    model, y = Positions().double(), torch.randint(5, (40, 7))
    problem = Problem(model, "cross_entropy", (X, y), weight_decay=DECAY)
    found = torch.stack(list(wrong_labels(problem, torch.arange(40), 0).values()))
    assert set(found.flatten().tolist()) == set(range(5))
    assert (found != y).all()
    assert baselines.random_labels(problem, IDS, SHORT, random_state=0).distance > 0
    torch.manual_seed(1)
    stranger = Positions().double()
    deletion = baselines.bad_teacher(
        problem, IDS, once(optimizer="sgd"), retain_share=1.0, initial=stranger.state_dict()
    )
    targets = model(X).detach()
    targets[FORGET] = stranger(X[FORGET]).detach()
    flat = lambda z: z.transpose(1, 2).reshape(-1, 5)  # noqa: E731
    check(deletion, by_hand(model, [lambda s: kl(flat(targets), flat(s(X)))]))


def test_classes_are_the_last_axis_of_a_loss_of_ones_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 14), nn.Unflatten(1, (2, 7))).double()  # two positions, seven classes
    loss = lambda o, t: cross_entropy(o.transpose(1, 2), t, reduction="none").mean(1)  # noqa: E731
    problem = Problem(model, loss, (X, torch.randint(7, (40, 2))), weight_decay=DECAY)
    from codec.unlearn._training import wrong_labels

    found = torch.stack(list(wrong_labels(problem, torch.arange(40), 0).values()))
    assert set(found.flatten().tolist()) == set(range(7))


@pytest.mark.parametrize("method", [baselines.scrub, baselines.bad_teacher])
def test_distances_to_a_teacher_need_classes(method):
    model = nn.Linear(3, 1).double()
    problem = Problem(model, nn.BCEWithLogitsLoss(), (X, (Y[:, None] > 0).double()), weight_decay=DECAY)
    with pytest.raises(ValueError, match="two classes or more"):
        method(problem, IDS, SHORT)


def test_the_papers_step_says_what_it_changed_and_refuses_one_point():
    model = net()
    problem = classifier(model)
    deletion = baselines.paper_step(problem, [5], selected=torch.tensor([1, 6]))
    assert (deletion.units, deletion.selector, deletion.damping) == ((1, 6), "given", 0.01)
    assert deletion.labels == find_units(model).labels(torch.tensor([1, 6]))
    with pytest.raises(ValueError, match="earlier holds the parameters that the model has now"):
        baselines.paper_step(problem, [5], earlier=dict(model.named_parameters()))


@pytest.mark.parametrize("name", sorted(set(ALL) - WITHOUT_DRAWS))
def test_processes_that_share_work_need_a_seed(name, monkeypatch):
    problem = classifier()
    monkeypatch.setattr(problem.team, "group", object())
    with pytest.raises(ValueError, match="random_state is None; processes that share work need one seed"):
        ALL[name](problem, None)


def test_schedules():
    cosine, steps = Recipe(epochs=4, schedule="cosine"), Recipe(epochs=4, schedule=(2, 3))
    assert [cosine.factor(t) for t in (0, 2)] == pytest.approx([1.0, 0.5])
    assert [steps.factor(t) for t in (0, 2, 3.5)] == pytest.approx([1.0, 0.1, 0.01])


def test_an_optimiser_of_ones_own():
    problem = classifier()
    recipe = Recipe(epochs=1, batch_size=None, optimizer=lambda ps: torch.optim.LBFGS(ps, max_iter=50))
    deletion = baselines.fine_tune(problem, IDS, recipe)
    assert deletion.retain_loss[1] < deletion.retain_loss[0]


@pytest.mark.parametrize("method", [baselines.scrub, baselines.bad_teacher])
def test_teachers_are_of_classes_alone(method):
    answers = (normal(40, 3) > 0.0).float()
    for loss, targets in ((nn.BCEWithLogitsLoss(), answers), ("mse", normal(40, 3))):
        with pytest.raises(ValueError, match="outputs are no classes"):
            method(Problem(net(), loss, (X, targets), weight_decay=DECAY), IDS, SHORT, random_state=0)
    mixed = torch.softmax(normal(40, 3), 1)
    for loss in (nn.CrossEntropyLoss(), lambda o, t: cross_entropy(o, t, reduction="none")):
        assert method(Problem(net(), loss, (X, mixed), weight_decay=DECAY), IDS, SHORT, random_state=0).accepted


@pytest.mark.parametrize("method", ["retrain", "fine_tune", "scrub"])
def test_the_model_of_a_baseline_has_the_statistics_that_training_moved(method):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    problem = Problem(model, "cross_entropy", (X * 5 + 3, Y), weight_decay=DECAY)
    deletion = getattr(baselines, method)(problem, IDS, random_state=0)
    found = problem.model_with(deletion.parameters)
    assert not torch.equal(found[1].running_mean, model[1].running_mean)
    loss = cross_entropy(found((X * 5 + 3)[RETAIN]), Y[RETAIN])
    assert float(loss.detach()) == pytest.approx(deletion.retain_loss[1], rel=1e-12)
    problem.model.register_buffer("count", torch.zeros(1), persistent=False)  # no state_dict has it
    assert problem.model_with({"count": torch.ones(1)}).count.item() == 1.0
    for name in ("9.weight", "1.weight"):  # the second would be spread over all channels
        with pytest.raises(ValueError, match=rf"params holds \['{name}'\], which the model has not"):
            problem.model_with({name: torch.ones(1)})


@pytest.mark.parametrize("method", ["scrub", "bad_teacher"])
def test_teachers_know_no_mean_and_variance(method):
    """Two outputs and one number a sample, as in a Gaussian likelihood, are no classes."""

    def gaussian(output, target):
        return (output[:, 1:] + (output[:, :1] - target).square() / output[:, 1:].exp())[:, 0]

    problem = Problem(nn.Linear(3, 2).double(), gaussian, (X, TARGET[:, :1]), weight_decay=DECAY)
    with pytest.raises(ValueError, match="the targets are numbers of shape"):
        getattr(baselines, method)(problem, IDS)


def test_fisher_information_of_weighted_samples_is_refused_by_name():
    def weighted(output, target):
        return target[1] * cross_entropy(output, target[0], reduction="none")

    problem = Problem(net(), weighted, (X, (Y, torch.ones(40).double())), weight_decay=DECAY)
    with pytest.raises(ValueError, match="one class a sample"):
        baselines.newton(problem, IDS, curvature="fisher")
    with pytest.raises(ValueError, match="one class a sample"):
        baselines.fisher_forgetting(problem, IDS)


def test_sparse_gradients_are_refused_by_name():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    problem = Problem(model, "cross_entropy", (torch.arange(80).view(40, 2) % 9, Y), weight_decay=DECAY)
    for method in (baselines.retrain, baselines.random_labels, baselines.newton):
        with pytest.raises(ValueError, match=r"model: '0' gives sparse gradients.*set sparse=False"):
            method(problem, IDS)
