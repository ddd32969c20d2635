"""Curvature against finite differences in float64, dense linear algebra and closed forms; solvers; K-FAC."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._kfac import NoFactorsError, kronecker_factors
from codec.unlearn._problem import Problem
from codec.unlearn._slices import Slices
from codec.unlearn._solve import solve_cg, solve_dense
from codec.unlearn._units import find_units


# ------------------------------------------------------------------------------ models
class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.a, self.na = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.b, self.nb = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = torch.nn.functional.softplus(x + self.nb(self.b(torch.tanh(self.na(self.a(x))))))
        return self.head(x.mean((2, 3)))


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(2, 8, 3, stride=3)
        self.place = nn.Parameter(torch.randn(4, 8) / 3)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        t = self.patch(x).flatten(2).transpose(1, 2) + self.place
        n = self.norm(t)
        t = t + self.attention(n, n, n, need_weights=False)[0]
        return self.head((t + self.mlp(t)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(11, 4, mode="mean")
        self.head = nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.bag(ids)))


class Tied(nn.Module):
    """Embedding and output layer share one matrix."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(torch.tanh(self.mix(self.embed(ids).mean(1))))


def distilbert():
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=13,
        dim=8,
        hidden_dim=12,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=6,
        num_labels=3,
        initializer_range=0.5,
    )
    return transformers.DistilBertForSequenceClassification(config)


def mlp():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.GELU(), nn.Linear(4, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def group_cnn():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3))


def depthwise_cnn():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def images(n, generator):
    return torch.randn(n, 2, 6, 6, dtype=torch.float64, generator=generator)


def vectors(n, generator):
    return torch.randn(n, 5, dtype=torch.float64, generator=generator)


def sequences(n, generator):
    return torch.randn(n, 5, 3, dtype=torch.float64, generator=generator)


def tokens(n, generator):
    return torch.randint(0, 7, (n, 5), generator=generator)


def text(n, generator):
    ids = torch.randint(1, 13, (n, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[:, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Case:
    make: object
    inputs: object
    classes: int = 3


CASES = {
    "MLP": Case(mlp, vectors),
    "CNN, BatchNorm": Case(cnn, images),
    "CNN, GroupNorm": Case(group_cnn, images),
    "depthwise CNN": Case(depthwise_cnn, images),
    "ResNet block": Case(ResidualBlock, images),
    "ViT block": Case(VisionTransformer, images),
    "DistilBERT": Case(distilbert, text),
    "LSTM": Case(lambda: Recurrent(nn.LSTM), sequences),
    "GRU": Case(lambda: Recurrent(nn.GRU), sequences),
    "embedding bag": Case(Bag, tokens),
    "tied weights": Case(Tied, tokens, 7),
}


def make_problem(name="MLP", n=9, weight_decay=0.05, seed=0):
    case = CASES[name]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = case.make().double()
    for module in model.modules():  # running statistics that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    inputs = case.inputs(n, generator)
    targets = torch.randint(0, case.classes, (n,), generator=generator)
    if isinstance(inputs, dict):
        data = {**inputs, "labels": targets}
        return Problem(model, "cross_entropy", data, weight_decay=weight_decay)
    return Problem(model, "cross_entropy", (inputs, targets), weight_decay=weight_decay)


def slices_of(problem, every=3):
    """A third of the units; every parameter where ``every`` is 0."""
    units = find_units(problem.model, unsupported="skip")
    return Slices(units, torch.arange(0, units.n_units, every) if every else None)


def direction(size, seed=1):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


RETAIN = torch.tensor([0, 1, 3, 4, 6, 7, 8])


def extrapolated(difference, h=1e-3):
    """Central differences at h and h/2, with the h^2 term cancelled (Richardson)."""
    return (4.0 * difference(h / 2) - difference(h)) / 3.0


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


# ------------------------------------------------------------------- finite differences
@pytest.mark.parametrize("name", CASES)
def test_hessian_is_the_difference_quotient_of_gradients(name):
    problem = make_problem(name)
    params, slices = problem.parameters(), slices_of(problem)
    v = direction(slices.size)

    def gradient(h):
        moved = slices.add(params, v, h)
        leaves = {k: p.clone().requires_grad_() for k, p in moved.items()}
        inputs, targets = problem.fetch(RETAIN)
        loss = problem.losses(problem.outputs(leaves, inputs), targets).mean()
        loss = loss + problem.weight_decay / 2 * sum(p.square().sum() for p in leaves.values())
        found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return slices.gather(dict(zip(leaves, found, strict=True)))

    wanted = extrapolated(lambda h: (gradient(h) - gradient(-h)) / (2 * h))
    curvature = Curvature(problem, params, RETAIN, slices, "hessian")
    assert relative(curvature.product(v), wanted) <= 1e-5
    assert relative(Curvature(problem, params, RETAIN, slices, "secant").product(v), wanted) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_is_jacobian_by_differences_of_outputs(name):
    problem = make_problem(name)
    params, slices = problem.parameters(), slices_of(problem)
    inputs, _ = problem.fetch(RETAIN)

    def outputs(v, h):
        with torch.no_grad():
            return problem.outputs(slices.add(params, v, h), inputs)

    def tangent(v):
        return extrapolated(lambda h: (outputs(v, h) - outputs(v, -h)) / (2 * h))

    p = outputs(torch.zeros(slices.size, dtype=torch.float64), 0.0).softmax(1)
    v, w = direction(slices.size), direction(slices.size, 2)
    tv, tw = tangent(v), tangent(w)
    # cross-entropy: C = diag(p) - p p^T, and w^T J^T C J v needs outputs alone
    data = float((tw * (p * (tv - (p * tv).sum(1, keepdim=True)))).sum()) / len(RETAIN)
    wanted = data + problem.weight_decay * float(w @ v)
    for kind in ("ggn", "fisher"):
        found = float(w @ Curvature(problem, params, RETAIN, slices, kind).product(v))
        assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["MLP", "CNN, BatchNorm", "depthwise CNN"])
@pytest.mark.parametrize("kind", ["ggn", "fisher", "empirical_fisher"])
@pytest.mark.parametrize("every", [0, 3])
def test_linearised_chain_equals_automatic_differentiation(name, kind, every):
    problem = make_problem(name)
    params, slices = problem.parameters(), slices_of(problem, every)
    whole = linearise(problem, params, kind, tolerance=0.0)
    fast = Curvature(problem, params, RETAIN, slices, kind, linearisation=whole)
    slow = Curvature(problem, params, RETAIN, slices, kind)
    assert fast.fast
    assert not slow.fast
    v = direction(slices.size)
    torch.testing.assert_close(fast.product(v), slow.product(v), rtol=1e-10, atol=1e-12)
    b = direction(slices.size, 3)
    found = fast.solve(b, 0.1, tol=1e-10, max_iter=500, method="cg")
    exact = torch.linalg.solve(slow.dense() + 0.1 * torch.eye(len(b), dtype=b.dtype), b)
    torch.testing.assert_close(found.x, exact, rtol=1e-6, atol=1e-8)
    assert found.converged


# -------------------------------------------------------------------- blocks and solvers
def test_diagonal_and_dense_agree_with_products():
    problem = make_problem()
    for kind in ("ggn", "empirical_fisher", "hessian"):
        curvature = Curvature(problem, problem.parameters(), RETAIN, slices_of(problem), kind)
        torch.testing.assert_close(curvature.diagonal(), curvature.dense().diagonal(), rtol=1e-9, atol=1e-12)


def test_forgotten_samples_own_curvature_is_gone():
    problem = make_problem()
    params, slices = problem.parameters(), slices_of(problem)
    every = Curvature(problem, params, torch.arange(9), slices).dense()
    gone = Curvature(problem, params, [2, 5], slices).dense()
    kept = Curvature(problem, params, RETAIN, slices).dense()
    torch.testing.assert_close(9 * every, 2 * gone + 7 * kept)


def test_factors_after_requests_with_and_without_kept_samples():
    problem = make_problem("MLP", n=30)
    whole = linearise(problem, problem.parameters(), tolerance=0.5)
    kept = whole.ids[:2]
    left_out = next(i for i in range(problem.n) if i not in whole.held)
    without_kept = [f.outputs for f in whole.factors_without(kept)]
    for factor, first in zip(whole.factors_without(torch.tensor([left_out])), whole.factors, strict=True):
        assert torch.equal(factor.outputs, first.outputs)  # nothing of it was ever in them
    again = [f.outputs for f in whole.factors_without(kept)]
    assert all(torch.equal(a, b) for a, b in zip(again, without_kept, strict=True))
    assert any(not torch.equal(a, f.outputs) for a, f in zip(again, whole.factors, strict=True))


def test_identical_layers_keep_their_own_gradients():
    """The released code keyed gradients by the text of the module: equal layers collided."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    data = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    problem = Problem(model, "cross_entropy", data, weight_decay=0.0)
    slices = Slices(find_units(problem.model))
    found = slices.scatter(Curvature(problem, problem.parameters(), [0], slices).gradient(torch.arange(6)))
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize("solver", ["cg", "cholesky"])
def test_negative_curvature_is_seen_said_and_lifted(solver):
    values = torch.tensor([3.0, 1.0, -0.5], dtype=torch.float64)
    matrix, b = torch.diag(values), torch.ones(3, dtype=torch.float64)
    solve = solve_dense(matrix, b) if solver == "cholesky" else solve_cg(lambda v: matrix @ v, b, tol=1e-10)
    assert solve.negative_curvature < 0.0
    assert solve.damping > 0.5
    torch.testing.assert_close((matrix + solve.damping * torch.eye(3, dtype=torch.float64)) @ solve.x, b)


@pytest.mark.parametrize("preconditioner", [None, "jacobi", "dense", "kfac"])
def test_preconditioners_change_the_way_not_the_answer(preconditioner):
    problem = make_problem()
    curvature = Curvature(problem, problem.parameters(), RETAIN, slices_of(problem))
    b = direction(curvature.slices.size)
    found = curvature.solve(b, 0.02, method="cg", preconditioner=preconditioner, tol=1e-10, max_iter=500)
    torch.testing.assert_close(curvature.product(found.x) + 0.02 * found.x, b, rtol=1e-6, atol=1e-7)


def test_kronecker_curvature_solves_its_own_products_and_refuses_what_it_does_not_know():
    problem = make_problem()
    curvature = Curvature(problem, problem.parameters(), RETAIN, slices_of(problem), "kfac")
    b = direction(curvature.slices.size)
    x = curvature.solve(b, 0.1).x
    torch.testing.assert_close(curvature.product(x) + 0.1 * x, b)
    norms = make_problem("CNN, GroupNorm")
    with pytest.raises(ValueError, match=r"1\.weight"):
        Curvature(norms, norms.parameters(), RETAIN, slices_of(norms, 0), "kfac")


def test_a_subsample_of_the_curvature_says_what_it_misses():
    problem = make_problem()
    slices = slices_of(problem)
    generator = torch.Generator().manual_seed(0)
    curvature = Curvature(problem, problem.parameters(), RETAIN, slices, subsample=2, generator=generator)
    b = direction(slices.size)
    found = curvature.solve(b, 0.01)
    full = Curvature(problem, problem.parameters(), RETAIN, slices).dense()
    wanted = float(((full - curvature.dense()) @ found.x).norm() / b.norm())
    assert found.subsample_error == pytest.approx(wanted, rel=1e-6)
    assert wanted > 0.0


def test_a_small_request_is_not_lost_beside_what_the_guess_holds():
    """A hundredth more of the right side is solved for, however loose the tolerance of the whole."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(30, 30, dtype=torch.float64, generator=generator)
    matrix = root @ root.T / 30 + 0.1 * torch.eye(30, dtype=torch.float64)
    b, more = torch.randn(2, 30, dtype=torch.float64, generator=generator)
    before = torch.linalg.solve(matrix, b)
    found = solve_cg(lambda v: matrix @ v, b + 0.01 * more, x0=before, tol=0.2)
    left = (b + 0.01 * more - matrix @ found.x).norm()
    assert found.converged
    assert float(left) <= 0.2 * 0.01 * float(more.norm())


# ------------------------------------------------------------------- layers as K-FAC meets them
class Bare(nn.Module):
    """A linear layer that is not called as a module."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, dtype=torch.float64))

    def forward(self, x):
        return nn.functional.linear(x, self.weight)


def test_a_chain_whose_layers_no_hook_sees_has_products_but_no_factors():
    problem = Problem(Bare(), "cross_entropy", (direction(27).view(9, 3), torch.arange(9) % 2), weight_decay=0.1)
    params = problem.parameters()
    assert kronecker_factors(problem, params, torch.arange(9), problem.names) == []
    slices = Slices(find_units(problem.model))
    curvature = Curvature(problem, params, RETAIN, slices, linearisation=linearise(problem, params))
    b = direction(slices.size)
    assert curvature.fast
    torch.testing.assert_close(
        curvature.solve(b, tol=1e-9, method="cg").x, torch.linalg.solve(curvature.dense(), b), rtol=1e-6, atol=1e-8
    )


class Maps(nn.Module):
    """A linear layer on all places of a map, channels last; the places as they are or in a row."""

    def __init__(self, flat):
        super().__init__()
        self.flat, self.stem, self.mix, self.out = flat, nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        maps = self.stem(x).permute(0, 2, 3, 1)
        return self.out(torch.tanh(self.mix(maps.flatten(1, 2) if self.flat else maps)).flatten(1, -2).mean(1))


class Sequences(nn.Module):
    """An encoder layer with the places first or the samples first."""

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first, self.out = batch_first, nn.Linear(4, 3)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=batch_first)

    def forward(self, x):
        found = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.out(found.mean(1))


@pytest.mark.parametrize(("make", "shape"), [(Maps, (1, 5, 5)), (Maps, (1, 6, 6)), (Sequences, (5, 4))])
def test_factors_do_not_depend_on_how_a_layers_places_are_laid(make, shape):
    found = []
    x = direction(7 * torch.Size(shape).numel()).view(7, *shape)
    models = [make(flag).double() for flag in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        problem = Problem(model, "cross_entropy", (x, torch.arange(7) % 3), weight_decay=0.1)
        found.append(kronecker_factors(problem, problem.parameters(), torch.arange(7), problem.names))
    assert [f.weight for f in found[0]] == [f.weight for f in found[1]]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.inputs, other.inputs)
        torch.testing.assert_close(one.outputs, other.outputs)


def test_places_that_are_no_samples_have_no_factors():
    class Odd(nn.Sequential):
        def forward(self, x):
            return x @ super().forward(torch.ones(2, 3, dtype=x.dtype)).sum(0)

    model = Odd(nn.Linear(3, 6), nn.Unflatten(1, (3, 2))).double()
    problem = Problem(model, "cross_entropy", (direction(27).view(9, 3), torch.arange(9) % 2), weight_decay=0.1)
    with pytest.raises(NoFactorsError, match="cannot tell the samples apart"):
        kronecker_factors(problem, problem.parameters(), torch.arange(9), problem.names)


def test_a_loss_without_forward_derivatives_has_its_curvature_in_a_linearised_chain():
    targets = 3.0 * direction(18).view(9, 2)
    data = direction(27).view(9, 3), targets
    problem = Problem(nn.Linear(3, 2).double(), nn.HuberLoss(), data, weight_decay=0.1)
    linear = linearise(problem, problem.parameters(), tolerance=0.0)
    expected = ((problem.model(data[0]) - targets).abs() < 1.0).double() / 2  # second derivative of the mean of two
    torch.testing.assert_close(torch.cat(linear.curvature).diagonal(dim1=1, dim2=2), expected)
    torch.testing.assert_close(linear.traces, expected.sum(1))


def test_labels_of_one_byte_have_a_curvature():
    found = []
    model = nn.Linear(3, 2).double()
    for dtype in (torch.uint8, torch.long):
        data = direction(27).view(9, 3), (torch.arange(9) % 2).to(dtype)
        problem = Problem(model, "cross_entropy", data, weight_decay=0.1)
        found.append(torch.cat(linearise(problem, problem.parameters()).curvature))
    torch.testing.assert_close(*found)


def test_empirical_fisher_of_outputs_without_an_axis_is_the_sum_of_squared_gradients():
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    x, y = direction(27).view(9, 3), direction(9)
    problem = Problem(model, "mse", (x, y), weight_decay=0.0)
    slices = Slices(find_units(problem.model))
    rows = torch.cat([x, torch.ones(9, 1, dtype=x.dtype)], 1) * 2.0 * (problem.model(x) - y)[:, None]
    curvature = Curvature(problem, problem.parameters(), torch.arange(9), slices, "empirical_fisher")
    torch.testing.assert_close(curvature.dense(), (rows.T @ rows / 9).detach())
