"""Curvature against finite differences in float64, dense linear algebra and closed forms; solvers; K-FAC."""

import contextlib
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from codec.unlearn import Unlearner
from codec.unlearn._chain import Conv, NoChainError, find_chain
from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._kfac import NoFactorsError, _factor_columns, kronecker_factors
from codec.unlearn._linearisation import Linearisation
from codec.unlearn._point import gradient_norm
from codec.unlearn._problem import Problem
from codec.unlearn._products import Products
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
    torch.testing.assert_close(slow.product(found.x) + 0.1 * found.x, b, rtol=1e-6, atol=1e-8)
    assert found.converged


# -------------------------------------------------------------------- blocks and solvers
def test_diagonal_and_dense_agree_with_products():
    problem = make_problem()
    for kind in ("ggn", "empirical_fisher", "hessian"):
        curvature = Curvature(problem, problem.parameters(), RETAIN, slices_of(problem), kind)
        torch.testing.assert_close(curvature.diagonal(), curvature.dense().diagonal(), rtol=1e-9, atol=1e-12)


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


def test_convolutions_keep_all_directions(monkeypatch):
    """They are kept in their own coordinates: a direction that K-FAC leaves out saves nothing, and no step would go along it."""
    monkeypatch.setattr("codec.unlearn._linearisation.SMALL_LAYER", 2)
    problem = make_problem("CNN, BatchNorm")
    whole = linearise(problem, problem.parameters(), tolerance=0.5)
    left = {layer.weight: isinstance(layer, Conv) for layer in whole.layers if layer.weight in whole.bases}
    for weight, convolution in left.items():
        basis = whole.bases[weight][0]
        assert (basis.shape[0] == basis.shape[1]) == convolution
        assert (whole.directions[weight] < 1e-6) == convolution
    assert set(left.values()) == {True, False}


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


@pytest.mark.parametrize(("excess", "told"), [(0.6, True), (0.1, False)])
def test_a_subsample_that_misses_a_tenth_of_the_right_side_is_told(excess, told):
    """Two samples with curvatures 2 and 2 + 2 excess; either of them alone misses excess / (its own + .2)."""
    x = torch.tensor([[1.0], [(1.0 + excess) ** 0.5]], dtype=torch.float64)
    problem = Problem(nn.Linear(1, 1, bias=False).double(), "mse", (x, torch.zeros_like(x)), weight_decay=0.1)
    slices = Slices(find_units(problem.model))
    curvature = Curvature(problem, problem.parameters(), [0, 1], slices, subsample=1)
    with pytest.warns(RuntimeWarning, match="of 1 of 2 samples misses") if told else contextlib.nullcontext():
        error = curvature.solve(torch.ones(1, dtype=torch.float64), 0.1).subsample_error
    expected = [excess / 2.2, excess / (2.2 + 2.0 * excess)]
    assert any(error == pytest.approx(value) for value in expected)
    assert all((value > 0.1) == told for value in expected)


@pytest.mark.parametrize("width", [3, 20])
def test_factor_columns_sum_up_to_the_curvature_of_the_outputs(width):
    """Of a diagonal C, whatever the signs: with few outputs one column each, beyond 16 random combinations."""
    diagonal = torch.arange(1.0, width + 1.0, dtype=torch.float64)
    C = torch.diag(diagonal).expand(4, -1, -1)
    columns = list(_factor_columns(C, torch.tensor([0, 3, 8, 1000])))
    assert len(columns) == (3 if width == 3 else 8)
    torch.testing.assert_close(sum(column.square() for column in columns), diagonal.expand(4, -1))


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


# ------------------------------------------------------------- what reverse mode treats in a way of its own
def problem_of(model, inputs, classes=3):
    targets = torch.arange(len(inputs)) % classes
    return Problem(model.double(), "cross_entropy", (inputs, targets), weight_decay=0.05)


def by_reverse_mode(problem, slices):
    """Gauss-Newton of the retained samples and the gradient of each, from plain reverse mode."""
    params, (inputs, targets) = problem.parameters(), problem.fetch(RETAIN)

    def outputs(flat):
        return problem.outputs(slices.add(params, flat), inputs)

    zero = torch.zeros(slices.size, dtype=torch.float64)
    p = outputs(zero).softmax(1)
    J = torch.autograd.functional.jacobian(outputs, zero)
    C = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    eye = torch.eye(slices.size, dtype=torch.float64)
    curvature = torch.einsum("bip,bij,bjq->pq", J, C, J) / len(RETAIN) + problem.weight_decay * eye
    scores = p - nn.functional.one_hot(targets, p.shape[1])
    return curvature, torch.einsum("bi,bip->bp", scores, J)


def probes(slices, n=4):
    """Directions at random: matrices that differ anywhere differ along each of them, with probability one."""
    return direction(n * slices.size, 5).view(n, -1)


def products_with(problem, slices, kind="ggn", along=None, **options):
    """Products of the curvature with some directions, `probes` if none are given, as rows."""
    curvature = Curvature(problem, problem.parameters(), RETAIN, slices, kind, **options)
    return torch.stack([curvature.product(row) for row in (probes(slices) if along is None else along)])


def check_reverse_mode(problem, slices):
    """Products and sample gradients are those of plain reverse mode; the Hessian is symmetric."""
    expected, gradients = by_reverse_mode(problem, slices)
    torch.testing.assert_close(products_with(problem, slices), probes(slices) @ expected, rtol=1e-9, atol=1e-12)
    hessian = products_with(problem, slices, "hessian") @ probes(slices).T
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-12)
    products = Products(problem, problem.parameters(), slices.parameters)
    batch = next(problem.batches(RETAIN))
    each = products.sample_gradients(batch)
    for i, row in enumerate(gradients):
        found = slices.gather({name: value[i] for name, value in each.items()})
        torch.testing.assert_close(found, row, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(slices.gather(products.gradient(batch)), gradients.sum(0), rtol=1e-9, atol=1e-12)


IN_PLACE = {
    "Linear": (lambda act: nn.Sequential(nn.Linear(5, 4), act, nn.Linear(4, 3)), vectors),
    "Linear, Dropout": (
        lambda act: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5, act.inplace), act, nn.Linear(4, 3)), vectors,
    ),
    "Conv2d": (lambda act: nn.Sequential(nn.Conv2d(2, 3, 2, stride=3), act, nn.Flatten(), nn.Linear(12, 3)), images),
    "first": (lambda act: nn.Sequential(act, nn.Linear(5, 4), act, nn.Linear(4, 3)), vectors),
}  # fmt: skip
MORE_ACTIVATIONS = [("Linear", kind) for kind in (nn.LeakyReLU, nn.Hardtanh, nn.SELU, nn.SiLU)]


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, kind) for name in IN_PLACE for kind in (nn.ReLU, nn.ELU)), *MORE_ACTIVATIONS]
)
def test_activations_in_place_change_nothing(name, kind):
    make, inputs = IN_PLACE[name]
    problems = [problem_of(make(kind(inplace=flag)), inputs(9, torch.Generator().manual_seed(0))) for flag in (0, 1)]
    problems[1].model.load_state_dict(problems[0].model.state_dict())
    slices = slices_of(problems[0])
    factors = [kronecker_factors(p, p.parameters(), RETAIN, p.names) for p in problems]
    assert [f.weight for f in factors[0]] == [f.weight for f in factors[1]]
    for one, other in zip(*factors, strict=True):
        torch.testing.assert_close(one.inputs, other.inputs, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(one.outputs, other.outputs, rtol=1e-12, atol=1e-14)
    for curvature in ("ggn", "hessian"):
        torch.testing.assert_close(*(products_with(p, slices, curvature) for p in problems), rtol=1e-12, atol=1e-14)
    check_reverse_mode(problems[1], slices)
    linear = linearise(problems[1], problems[1].parameters(), tolerance=0.0)
    assert (linear is None) == (name == "first")
    if linear is not None:
        found = products_with(problems[1], slices, linearisation=linear)
        torch.testing.assert_close(found, products_with(problems[1], slices), rtol=1e-9, atol=1e-12)


def test_factors_of_a_layer_before_an_activation_in_place_by_hand():
    """B is the mean of ``(M W2^T) C (W2 M)``, M the mask of the activation."""
    problem = problem_of(IN_PLACE["Linear"][0](nn.ReLU(inplace=True)), vectors(9, torch.Generator().manual_seed(0)))
    first, last = problem.model[0], problem.model[2]
    with torch.no_grad():
        inputs = problem.fetch(RETAIN)[0]
        mask = (first(inputs) > 0.0).double()
        p = problem.model(inputs.clone()).softmax(1)
        J = last.weight * mask[:, None, :]
        expected = torch.einsum("bip,bij,bjq->pq", J, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], J)
    found = kronecker_factors(problem, problem.parameters(), RETAIN, problem.names)
    torch.testing.assert_close(found[0].outputs, expected)


class Words(nn.Module):
    """A lookup with padding, summed over the places; the row of the padding is not zero."""

    def __init__(self, lookup):
        super().__init__()
        self.table = nn.Embedding(5, 3, padding_idx=1)
        nn.init.normal_(self.table.weight)
        self.lookup, self.head = lookup, nn.Linear(3, 5)
        if lookup == "tied":
            self.head.weight = self.table.weight
        if lookup in {"sum", "mean"}:
            self.bag = nn.EmbeddingBag(5, 3, mode=lookup, padding_idx=1, _weight=self.table.weight)

    def forward(self, ids):
        if self.lookup == "function":
            return self.head(nn.functional.embedding(ids, self.table.weight, -4).mean(1).tanh())
        if self.lookup == "bag function":
            found = nn.functional.embedding_bag(ids, self.table.weight, mode="sum", padding_idx=-4)
            return self.head(found.tanh())
        found = self.bag(ids) if hasattr(self, "bag") else self.table(ids).mean(1)
        return self.head(found.tanh())


@pytest.mark.parametrize("lookup", ["module", "tied", "function", "sum", "mean", "bag function"])
def test_padding_rows_have_no_derivative_in_any_mode(lookup):
    ids = torch.randint(0, 5, (9, 4), generator=torch.Generator().manual_seed(0))
    assert bool((ids == 1).any())
    problem = problem_of(Words(lookup), ids, 5)
    slices = Slices(find_units(problem.model))
    check_reverse_mode(problem, slices)
    if lookup == "tied":  # the row is a row of the last layer too
        return
    table = slices.scatter(torch.arange(1.0, slices.size + 1))["table.weight"][1].long() - 1
    along = torch.cat([torch.eye(slices.size, dtype=torch.float64)[table], probes(slices, 2)])
    for kind in ("ggn", "hessian"):
        found = products_with(problem, slices, kind, along) - problem.weight_decay * along
        assert not found[: len(table)].any()
        torch.testing.assert_close(found[:, table], torch.zeros_like(found[:, table]), rtol=0, atol=1e-15)
    curvature = Curvature(problem, problem.parameters(), RETAIN, slices)
    b = slices.gather(Products(problem, problem.parameters()).mean_gradient(torch.tensor([2, 5])))
    for method in ("cg", "cholesky"):
        assert not curvature.solve(b, 0.1, method=method).x[table].any()


class Frozen(nn.Module):
    """The first layers run without gradients although their parameters ask for them."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.features, self.mix, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        if self.how == "none":
            return self.head(self.mix(self.features(x).tanh()).tanh())
        if self.how == "detach":
            return self.head(self.mix(self.features(x).tanh()).tanh().detach())
        with torch.no_grad():
            found = self.mix(self.features(x).tanh()).tanh()
        if self.how == "twice":  # of a layer that runs with gradients too
            found = self.mix(found)
        return self.head(found)


@pytest.mark.parametrize("how", ["none", "detach", "no_grad", "twice"])
def test_what_runs_without_gradients_is_constant_in_any_mode(how):
    problem = problem_of(Frozen(how), vectors(9, torch.Generator().manual_seed(0)))
    params, units = problem.parameters(), find_units(problem.model)
    check_reverse_mode(problem, Slices(units))
    check_reverse_mode(problem, Slices(units, [0, 1]))  # of the first layer alone
    assert (linearise(problem, params) is None) == (how != "none")
    factors = {f.weight: f for f in kronecker_factors(problem, params, RETAIN, problem.names)}
    expected = {"twice": {"mix.weight", "head.weight"}, "no_grad": {"head.weight"}}
    assert {name for name, f in factors.items() if f.outputs.any()} == expected.get(
        how, {"head.weight"} if how == "detach" else {"features.weight", "mix.weight", "head.weight"}
    )


def test_a_model_without_gradients_is_refused():
    class Constant(nn.Linear):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(ValueError, match="loss does not depend on the trainable parameters"):
        problem_of(Constant(5, 3), vectors(9, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("selector", ["kfac_greedy", "gradient_norm", "all"])
def test_layers_that_run_without_gradients_stay_as_they_are(selector):
    problem = problem_of(Frozen("no_grad"), vectors(40, torch.Generator().manual_seed(0)))
    before = problem.parameters()
    options = {"weight_decay": 0.05, "selector": selector, "max_units": 3, "random_state": 0}
    ours = Unlearner(problem.model, "cross_entropy", problem.source, **options)
    assert ours.forget([3]).accepted
    after = dict(ours.model.named_parameters())
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["head.weight", "head.bias"]


def test_inputs_scaled_without_gradients_leave_a_chain():
    class Scaled(nn.Sequential):
        def forward(self, x):
            with torch.no_grad():
                x = nn.functional.softsign(x)
            return super().forward(x)

    problem = problem_of(Scaled(nn.Linear(5, 3)), vectors(9, torch.Generator().manual_seed(0)))
    assert len(find_chain(problem, problem.parameters())) == 2


class Keywords(nn.Module):
    """Layers and functions that are called by keyword."""

    def __init__(self, keywords):
        super().__init__()
        self.keywords, self.a, self.b = keywords, nn.Conv2d(2, 3, 2, stride=3), nn.Linear(12, 3)

    def forward(self, x):
        if self.keywords:
            return self.b(input=torch.flatten(input=torch.tanh(input=self.a(input=x)), start_dim=1))
        return self.b(torch.tanh(self.a(x)).flatten(1))


def test_layers_called_by_keyword():
    inputs = images(9, torch.Generator().manual_seed(0))
    problems = [problem_of(Keywords(flag), inputs) for flag in (False, True)]
    problems[1].model.load_state_dict(problems[0].model.state_dict())
    plain, named = (kronecker_factors(p, p.parameters(), RETAIN, p.names) for p in problems)
    assert [f.weight for f in named] == ["a.weight", "b.weight"]
    for one, other in zip(plain, named, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.outputs, other.outputs)
    slices = slices_of(problems[1])
    linear = linearise(problems[1], problems[1].parameters(), tolerance=0.0)
    found = products_with(problems[1], slices, linearisation=linear)
    torch.testing.assert_close(found, products_with(problems[0], slices), rtol=1e-9, atol=1e-12)


def test_layers_that_share_a_bias_are_no_chain():
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].bias = model[0].bias
    problem = problem_of(model, vectors(9, torch.Generator().manual_seed(0)))
    params, slices = problem.parameters(), Slices(find_units(problem.model))
    with pytest.raises(NoChainError, match="more than once"):
        find_chain(problem, params)
    check_reverse_mode(problem, slices)
    curvature = Curvature(problem, params, RETAIN, slices, linearisation=linearise(problem, params))
    b = direction(slices.size)
    found = curvature.solve(b, 0.1, method="cg", tol=1e-10, max_iter=500)
    torch.testing.assert_close(curvature.product(found.x) + 0.1 * found.x, b, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_a_pruned_layer_in_double_precision():
    layer = nn.Linear(5, 3)
    prune.random_unstructured(layer, "weight", amount=0.4)
    X, y = torch.randn(9, 5), torch.arange(9) % 3
    problem = Problem(layer, "cross_entropy", (X, y), weight_decay=0.05)
    params = problem.parameters()
    Products(problem, params).sample_gradients(next(problem.batches()))  # leaves a weight of its own in the layer
    found, _ = gradient_norm(problem, params, RETAIN)
    leaves = {name: value.double().requires_grad_() for name, value in params.items()}
    weight = leaves["weight_orig"] * layer.weight_mask
    outputs = nn.functional.linear(X[RETAIN].double(), weight, leaves["bias"])
    loss = nn.functional.cross_entropy(outputs, y[RETAIN]) + 0.025 * sum(w.square().sum() for w in leaves.values())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))]).norm()
    assert found == pytest.approx(float(expected), rel=1e-12)
    options = {"weight_decay": 0.05, "selector": "all", "update": "gradient", "convex": True}
    assert Unlearner(layer, "cross_entropy", (X, y), **options).forget([1]).accepted


def hinge(output, target):
    return (1.0 - output[:, 0] * target).clamp_min(0.0)


def test_the_hessian_of_a_loss_without_second_derivatives_is_the_weight_decay():
    X = vectors(9, torch.Generator().manual_seed(0))
    problem = Problem(nn.Linear(5, 1).double(), hinge, (X, X[:, 0].sign()), weight_decay=0.1)
    slices = Slices(find_units(problem.model))
    for kind in ("hessian", "ggn"):
        torch.testing.assert_close(products_with(problem, slices, kind), 0.1 * probes(slices))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
def test_the_memory_of_a_linearisation_has_the_output_curvature_in_it(dtype, size):
    data = torch.randn(50, 3, dtype=dtype), torch.arange(50) % 20
    problem = Problem(nn.Linear(3, 20).to(dtype), "cross_entropy", data, weight_decay=0.1)
    need = size * 50 * (3 + 2 * 20 * 20)
    Linearisation(problem, problem.parameters(), tolerance=0.0, max_bytes=need)
    with pytest.raises(NoChainError, match="output curvature take about"):
        Linearisation(problem, problem.parameters(), tolerance=0.0, max_bytes=need - 1)
