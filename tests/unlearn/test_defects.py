"""What is wrong in the released code of the paper, one by one, and the tests that hold it right here.

==================================================================  ===================================================
Defect                                                              Test
==================================================================  ===================================================
The "Hessian" has rank one and next to no size: every step is       test_the_curvature_turns_the_step
gradient ascent
Gradients are keyed by what a module prints: equal layers collide   test_equal_layers_keep_their_own_gradients
The second gradient is made of the first: a sample's Hessian is 0   test_a_forgotten_sample_has_its_own_curvature
The step goes the wrong way in part of the deletions                test_every_step_goes_the_right_way
The saved gradient is an alias of `.grad`                           test_grad_is_neither_read_nor_written
n is 50,000 whatever the data                                       test_the_step_has_the_size_of_the_data
The removed sample's regulariser is left out                        test_the_removed_regulariser_is_in_the_step
The model is taken for stationary                                   test_a_model_that_is_not_stationary_lands_there_too
The noise is many times the update                                  test_noise_has_the_size_of_the_bound
The noise is on the chosen coordinates alone                        test_noise_is_on_every_coordinate
The noise enters the next deletion                                  test_noise_does_not_enter_the_next_deletion
Norms, embeddings, attention, recurrent layers are not handled      test_every_kind_of_layer_forgets
Train and evaluation mode are changed                               test_modes_and_buffers_are_as_before
Rollback looks at the test set                                      test_a_refused_request_restores_the_weights_by_itself
No run ends nearer to the retrained model than doing nothing        test_many_deletions_end_near_the_retrained_model
==================================================================  ===================================================
"""

import copy
import re

import pytest
import torch
from torch import nn

from codec.unlearn import Unlearner, find_units
from codec.unlearn._curvature import Curvature
from codec.unlearn._point import Point
from codec.unlearn._problem import Problem
from codec.unlearn._slices import Slices

DECAY = 0.05


def test_the_table_names_the_tests_of_this_file():
    named = re.findall(r"\btest_\w+", __doc__)
    assert sorted(named) == sorted(k for k in globals() if k.startswith("test_") and "_table_" not in k)


# ------------------------------------------------------------------------------ logistic regression, by hand
def samples(n=60, d=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=draw, dtype=torch.float64)
    noise = torch.randn(n, generator=draw, dtype=torch.float64)
    return X, (X @ torch.tensor([2.0, -1.0, 0.5, 0.0], dtype=torch.float64) + noise > 0).long()


def logit_loss(output, target):
    return nn.functional.binary_cross_entropy_with_logits(output[:, 0], target.to(output.dtype), reduction="none")


def gradients(w, X, y):
    """Gradient of each sample's loss plus its regulariser, (n, d)."""
    return (torch.sigmoid(X @ w) - y)[:, None] * X + DECAY * w


def hessian(w, X):
    """Mean Hessian, regulariser included."""
    p = torch.sigmoid(X @ w)
    return (X.T * (p * (1 - p))) @ X / len(X) + DECAY * torch.eye(X.shape[1], dtype=X.dtype)


def minimum(X, y):
    w = torch.zeros(X.shape[1], dtype=X.dtype)
    for _ in range(30):
        w = w - torch.linalg.solve(hessian(w, X), gradients(w, X, y).mean(0))
    return w


def logistic(w):
    model = nn.Linear(len(w), 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(w[None])
    return model


def deleter(w, X, y, **options):
    settings = {"weight_decay": DECAY, "selector": "all", "random_state": 0, "tolerance": 1e-10, **options}
    return Unlearner(logistic(w), logit_loss, (X, y), **settings)


def without(X, y, ids):
    kept = torch.ones(len(y), dtype=torch.bool)
    kept[torch.as_tensor(ids)] = False
    return X[kept], y[kept]


# ------------------------------------------------------------------------------ the step
def test_the_curvature_turns_the_step():
    """A Newton step in badly scaled coordinates is far from the gradient's direction; ascent is not."""
    X, y = samples()
    X = X * torch.tensor([10.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    w = minimum(X, y)
    ours = deleter(w, X, y, damping=0.0, curvature="hessian")
    ours.forget([3])
    step = ours.parameters["weight"][0] - w
    rest, gone = without(X, y, [3]), gradients(w, X, y)[3] / (len(y) - 1)
    newton = torch.linalg.solve(hessian(w, rest[0]), gone)  # the mean gradient is 0 at the minimum
    torch.testing.assert_close(step, newton, rtol=1e-6, atol=1e-12)
    assert float(torch.cosine_similarity(step, gone, dim=0)) < 0.9


def sixth(evidence, max_units):
    return [5]


def test_equal_layers_keep_their_own_gradients():
    """Three layers that print alike; each of their gradients, and the step of each, by torch alone."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    X, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(4, (30,))
    problem = Problem(model, "cross_entropy", (X, y), weight_decay=0.0)
    found = Point(problem, problem.parameters(), torch.arange(30), "ggn").mean_gradient([7])
    twin = copy.deepcopy(model)
    nn.functional.cross_entropy(twin(X[7:8]), y[7:8]).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    assert len({str(twin[i]) for i in (0, 2, 4)}) == 1
    assert not torch.equal(found["0.weight"], found["2.weight"])
    units = find_units(model)
    middle = Unlearner(model, "cross_entropy", (X, y), weight_decay=0.01, selector=sixth, damping=0.1, random_state=0)
    middle.forget([7])
    changed = {n for n, v in middle.parameters.items() if not torch.equal(v, model.get_parameter(n))}
    assert units.label(5) == "2[1]"
    assert changed == {"2.weight", "2.bias"}


def test_a_forgotten_sample_has_its_own_curvature():
    """``H_R = (n H_S - H_z) / (n - 1)``, with a sample whose curvature is most of the whole."""
    X, y = samples()
    X[5] *= 30.0
    w = torch.tensor([0.02, 0.01, -0.02, 0.03], dtype=torch.float64)
    problem = Problem(logistic(w), logit_loss, (X, y), weight_decay=DECAY)
    slices, params = Slices(find_units(problem.model)), problem.parameters()
    whole = Curvature(problem, params, torch.arange(60), slices, "hessian").dense()
    alone = Curvature(problem, params, torch.tensor([5]), slices, "hessian").dense()
    rest = Curvature(problem, params, torch.tensor([i for i in range(60) if i != 5]), slices, "hessian").dense()
    torch.testing.assert_close(alone, hessian(w, X[5:6]))
    torch.testing.assert_close(rest, (60 * whole - alone) / 59)
    assert float(alone.norm()) > 5.0 * float(rest.norm())


def test_every_step_goes_the_right_way():
    """Each of ten deletions moves towards the model that was trained without the sample."""
    X, y = samples()
    w = minimum(X, y)
    ours = deleter(w, X, y, damping=0.0)
    for i in range(0, 60, 6):
        ours.forget([i])
        wanted = minimum(*without(X, y, [i])) - w
        step = ours.parameters["weight"][0] - w
        assert float(torch.cosine_similarity(step, wanted, dim=0)) > 0.99
        ours.rollback()


def test_grad_is_neither_read_nor_written():
    """Two equal layers with wild `.grad`: the same step as without, and the tensors are those of before."""
    X, y = samples()
    torch.manual_seed(2)
    clean = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    used = copy.deepcopy(clean)
    for parameter in used.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    kept = {name: (p.grad, p.grad.clone()) for name, p in used.named_parameters()}
    ends = []
    for model in (clean, used):
        ours = Unlearner(model, "cross_entropy", (X, y), weight_decay=DECAY, selector="all", random_state=0)
        ours.forget([1])
        ours.forget([2])
        ends.append(ours.parameters)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for name, p in used.named_parameters():
        assert p.grad is kept[name][0]
        assert torch.equal(p.grad, kept[name][1])
    assert all(p.grad is None for p in clean.parameters())


@pytest.mark.parametrize("copies", [1, 4])
def test_the_step_has_the_size_of_the_data(copies):
    """With every sample four times the minimum is the same, and one deletion moves a quarter as far."""
    X, y = samples()
    w = minimum(X, y)
    many = X.repeat(copies, 1), y.repeat(copies)
    ours = deleter(w, *many, damping=0.0)
    ours.forget([3])
    wanted = minimum(*without(*many, [3])) - w
    assert float((ours.parameters["weight"][0] - w - wanted).norm()) < 0.05 * float(wanted.norm())


def test_the_removed_regulariser_is_in_the_step():
    """Without ``m lambda w`` the step of ten samples misses the retrained model by far more."""
    X, y = samples()
    w, gone = minimum(X, y), list(range(10))
    ours = deleter(w, X, y, damping=0.0)
    ours.forget(gone)
    rest = without(X, y, gone)
    wanted = minimum(*rest) - w
    short = torch.linalg.solve(hessian(w, rest[0]), (gradients(w, X, y)[gone] - DECAY * w).sum(0) / 50)
    error = float((ours.parameters["weight"][0] - w - wanted).norm())
    assert error < 0.2 * float((short - wanted).norm())


def test_a_model_that_is_not_stationary_lands_there_too():
    """From a point that no training ended at, ``update='gradient'`` reaches the retrained minimum."""
    X, y = samples()
    w = minimum(X, y) + 0.3
    assert float(gradients(w, X, y).mean(0).norm()) > 0.02
    ours = deleter(w, X, y, update="gradient", convex=True, n_steps=6, damping=0.0)
    ours.forget([3, 4])
    torch.testing.assert_close(ours.parameters["weight"][0], minimum(*without(X, y, [3, 4])), rtol=1e-8, atol=1e-10)


# ------------------------------------------------------------------------------ noise
def released():
    X, y = samples()
    ours = deleter(minimum(X, y), X, y, update="gradient", convex=True, damping=0.0)
    ours.forget([3])
    return ours


def test_noise_has_the_size_of_the_bound():
    """(1, 1e-5): 3.73 times the bound, which is fixed before; not a multiple of the update."""
    X, _ = samples()
    Y = torch.randn(60, 100, dtype=torch.float64)  # 400 weights, each a draw
    H = 2.0 * X.T @ X / Y.numel() + DECAY * torch.eye(4, dtype=X.dtype)
    model = nn.Linear(4, 100, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(H, 2.0 * X.T @ Y / Y.numel()).T)
    options = {"weight_decay": DECAY, "selector": "all", "update": "gradient", "convex": True, "damping": 0.0}
    ours = Unlearner(model, "mse", (X, Y), random_state=0, **options)
    deletion = ours.forget([3])
    bound = 2.0 * deletion.certificate.bound
    noise = torch.stack([ours.release(1.0, 1e-5, bound=bound, random_state=k).weight.detach() for k in range(4)])
    spread = float((noise - ours.parameters["weight"]).std())
    assert spread == pytest.approx(3.73 * bound, rel=0.1)  # 1,600 draws: over five standard errors
    assert spread < 0.2 * deletion.distance


def first(evidence, max_units):
    return [0]


def test_noise_is_on_every_coordinate():
    """Also on rows that no request ever changed."""
    X, y = samples()
    targets = torch.stack([y, 1 - y], 1).double()
    model = nn.Linear(4, 2).double()
    ours = Unlearner(
        model, "mse", (X, targets), weight_decay=DECAY, selector=first, update="gradient", convex=True,
        damping=0.0, random_state=0,
    )  # fmt: skip
    ours.forget([3])
    assert torch.equal(ours.parameters["weight"][1], model.weight[1])
    noisy = ours.release(1.0, 1e-5, bound=20.0, random_state=0)
    assert (noisy.weight != ours.model.weight).all()
    assert (noisy.bias != ours.model.bias).all()


def test_noise_does_not_enter_the_next_deletion():
    one, other = released(), released()
    before = one.parameters
    one.release(1.0, 1e-5, bound=1.0, random_state=0)
    assert torch.equal(before["weight"], one.parameters["weight"])
    for ours in (one, other):
        ours.forget([4])
    assert torch.equal(one.parameters["weight"], other.parameters["weight"])


# ------------------------------------------------------------------------------ every kind of layer
class Sequence(nn.Module):
    """Tokens, a mixer of positions, one class."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Embedding(12, 8, padding_idx=0)
        self.norm = nn.LayerNorm(8)
        recurrent = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
        self.mix = recurrent[kind](8, 8, batch_first=True) if kind in recurrent else None
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if kind == "attention" else None
        self.out = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        h = self.norm(self.embed(input_ids))
        if self.attention is not None:
            h = self.attention(h, h, h, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        else:
            h = self.mix(h)[0]
        keep = attention_mask[..., None].to(h.dtype)
        return self.out((h * keep).sum(1) / keep.sum(1))


def tokens(n=40):
    """Sequences of 3 to 7 tokens, filled up with 0; the class is that of the first token."""
    draw = torch.Generator().manual_seed(3)
    mask = (torch.arange(7) < torch.arange(n)[:, None] % 5 + 3).long()
    ids = torch.randint(1, 12, (n, 7), generator=draw) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, 0] % 3}


def batch_norm_net():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    model[1].running_mean.uniform_(-0.2, 0.2)
    return model


def distilbert():
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=12, dim=8, hidden_dim=12, n_layers=1, n_heads=2, max_position_embeddings=8, num_labels=3
    )
    return transformers.DistilBertForSequenceClassification(config)


def pictures():
    return torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(3)), torch.arange(40) % 3


LAYERS = {
    "batch norm": (batch_norm_net, pictures, {"Conv", "Norm", "Linear"}),
    "DistilBERT": (distilbert, tokens, {"Embedding", "Norm", "Linear"}),
    "attention": (lambda: Sequence("attention"), tokens, {"Embedding", "Norm", "Attention", "Linear"}),
    "LSTM": (lambda: Sequence("LSTM"), tokens, {"Embedding", "Norm", "Recurrent", "Linear"}),
    "GRU": (lambda: Sequence("GRU"), tokens, {"Embedding", "Norm", "Recurrent", "Linear"}),
    "RNN": (lambda: Sequence("RNN"), tokens, {"Embedding", "Norm", "Recurrent", "Linear"}),
}


def trained(model, data):
    """A few steps, so that a forgotten sample's loss has somewhere to go."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        if isinstance(data, dict):
            found = model(input_ids=data["input_ids"], attention_mask=data["attention_mask"])
            loss = nn.functional.cross_entropy(getattr(found, "logits", found), data["labels"])
        else:
            loss = nn.functional.cross_entropy(model(data[0]), data[1])
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_forgets(name):
    """L-FOCI chooses from every kind of unit, the chosen rows alone change, the forgotten sample's loss rises."""
    make, data, kinds = LAYERS[name]
    torch.manual_seed(4)
    data = data()
    model = trained(make(), data)
    start = {k: v.detach().clone() for k, v in model.named_parameters()}
    ours = Unlearner(
        model, "cross_entropy", data, weight_decay=1e-3, n_perturbations=40, max_units=12, screen=None, captured=False,
        random_state=0,
    )  # fmt: skip
    assert {layer.kind for layer in ours.units.layers} >= kinds
    hardest = int(ours.problem.sample_losses(ours.problem.parameters()).argmax())
    deletion = ours.forget([hardest])
    assert deletion.accepted, deletion.reason
    assert deletion.forget_loss[1] > deletion.forget_loss[0]
    owned = Slices(ours.units, sorted(deletion.units))
    mask = owned.scatter(torch.ones(owned.size))
    for key, value in ours.parameters.items():
        outside = mask[key] == 0 if key in mask else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value[outside], start[key][outside])


def test_modes_and_buffers_are_as_before():
    torch.manual_seed(4)
    model = batch_norm_net().train()
    model[1].eval()  # a frozen norm inside a model that trains
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    ours = Unlearner(model, "cross_entropy", pictures(), weight_decay=0.01, n_perturbations=30, random_state=0)
    ours.forget([0])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    for key, value in ours.model.named_buffers():
        assert torch.equal(value, state[key])


# ------------------------------------------------------------------------------ sequences of requests
def test_a_refused_request_restores_the_weights_by_itself():
    """The guard is the caller's, on data of its own; without one nothing but training samples is looked at."""
    X, y = samples()
    w = minimum(X, y)
    scores = iter([1.0, 1.0, 1.0, 0.5])  # before and after, of two requests
    ours = deleter(w, X, y, guard=lambda _: next(scores), damping=0.0)
    assert ours.forget([1]).accepted
    after_one = ours.parameters
    refused = ours.forget([2])
    assert not refused.accepted
    assert refused.guard == (1.0, 0.5)
    assert torch.equal(ours.parameters["weight"], after_one["weight"])
    assert ours.forgotten == (1,)


@pytest.mark.slow
def test_many_deletions_end_near_the_retrained_model():
    """Thirty of 60 samples, one after the other: a tenth of the way that doing nothing is off."""
    X, y = samples()
    w = minimum(X, y)
    ours = deleter(w, X, y, update="gradient", convex=True, n_steps=2, damping=0.0)
    for i in range(30):
        ours.forget([i])
    wanted = minimum(X[30:], y[30:])
    assert float((ours.parameters["weight"][0] - wanted).norm()) < 1e-6 * float((w - wanted).norm())
    one_step = deleter(w, X, y, damping=0.0, budget=0.1)
    for i in range(30):
        one_step.forget([i])
    assert float((one_step.parameters["weight"][0] - wanted).norm()) < 0.1 * float((w - wanted).norm())
