"""Losses written in several ways are one loss, and what is another one, or has no curvature, is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._chain import NoChainError, find_chain


def trained(n: int = 60) -> tuple[nn.Sequential, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    y = (x[:, :3] + 0.7 * torch.randn(n, 3, generator=generator)).argmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, (x, y)


@pytest.mark.parametrize("curvature", ["ggn", "kfac"])
def test_a_loss_without_curvature_is_refused(curvature):
    """NLLLoss is linear in log-probabilities: a step on it would go up the gradient alone."""
    model, data = trained()
    with pytest.raises(ValueError, match="CrossEntropyLoss"):
        Unlearner(nn.Sequential(*model, nn.LogSoftmax(1)), nn.NLLLoss(), data, weight_decay=0.01, curvature=curvature)
    with pytest.raises(ValueError, match="linear in the outputs"):
        Unlearner(nn.Linear(6, 2), nn.L1Loss(), (data[0], torch.ones(60, 2)), weight_decay=0.01, curvature=curvature)


@pytest.mark.parametrize("method", [baselines.newton, baselines.kfac, baselines.gradient_norm_units])
def test_baselines_refuse_it_too(method):
    model, data = trained()
    problem = Problem(nn.Sequential(*model, nn.LogSoftmax(1)), nn.NLLLoss(), data, weight_decay=0.01)
    options = {"n_units": 2} if method is baselines.gradient_norm_units else {}
    with pytest.raises(ValueError, match="CrossEntropyLoss"):
        method(problem, [0], **options)


def test_cross_entropy_of_log_probabilities_is_the_one_of_logits():
    """What the refusal says: the same deletion."""
    model, data = trained()
    found = []
    for one in (model, nn.Sequential(*model, nn.LogSoftmax(1))):
        unlearner = Unlearner(one, nn.CrossEntropyLoss(), data, weight_decay=0.01, selector="all", random_state=0)
        unlearner.forget(range(3))
        found.append(torch.cat([p.flatten() for p in unlearner.model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_confident_classes_have_a_curvature():
    """Probabilities that single precision rounds to 1 are not taken for a linear loss."""
    model, data = trained()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(100.0)
    Unlearner(model, "cross_entropy", data, weight_decay=0.01)


@pytest.mark.parametrize(
    ("module", "function", "targets"),
    [
        (nn.CrossEntropyLoss(), functional.cross_entropy, torch.arange(40 * 36).reshape(40, 6, 6) % 3),
        (
            nn.BCEWithLogitsLoss(),
            functional.binary_cross_entropy_with_logits,
            (torch.arange(40 * 108).reshape(40, 3, 6, 6) % 5 > 2).float(),
        ),
    ],
)
def test_functions_are_what_their_modules_are(module, function, targets):
    """By position a mean of likelihoods is no likelihood, whichever is passed: the same step."""
    x = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Conv2d(1, 3, 3, padding=1)
    found = []
    for loss in (module, function):
        problem = Problem(model, loss, (x, targets), weight_decay=0.01)
        assert not problem.likelihood
        found.append(problem.sample_losses(problem.parameters()))
    torch.testing.assert_close(*found, rtol=0.0, atol=0.0)


class Focal(nn.CrossEntropyLoss):
    """A loss of its own that is derived from torch's."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        each = functional.cross_entropy(outputs, targets, reduction="none")
        return ((1.0 - torch.exp(-each)) ** 2 * each).mean()


def test_a_loss_derived_from_torchs_is_no_likelihood():
    model, data = trained()
    assert Problem(model, nn.CrossEntropyLoss(), data, weight_decay=0.01).likelihood
    assert not Problem(model, Focal(), data, weight_decay=0.01).likelihood


def test_ignored_positions_are_refused_one_by_one_too():
    tokens = torch.arange(60).reshape(10, 6) % 3
    tokens[:, 4:] = -100
    x = torch.randn(10, 4, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Conv1d(4, 3, 1)
    for reduction in ("mean", "none"):
        with pytest.raises(ValueError, match=r"ignore_index -100|ignored or masked positions"):
            Problem(model, nn.CrossEntropyLoss(reduction=reduction), (x, tokens[:, :]), weight_decay=0.01)


def test_classes_are_on_the_second_axis_where_the_targets_say_so():
    """The same teacher's step for a callable as for torch's module."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 1, 6, 6, generator=generator), torch.randint(3, (30, 6, 6), generator=generator)
    model = nn.Conv2d(1, 3, 3, padding=1)
    found = []
    for loss in (nn.CrossEntropyLoss(), lambda o, t: functional.cross_entropy(o, t, reduction="none").mean((1, 2))):
        problem = Problem(model, loss, (x, y), weight_decay=0.01)
        assert problem.classes_second
        for method in (baselines.random_labels, baselines.bad_teacher):
            deletion = method(problem, [1, 2, 3], random_state=0)
            found.append(torch.cat([p.flatten() for p in deletion.parameters.values()]))
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1], found[3], rtol=1e-4, atol=1e-6)


class Prototypes(nn.Module):
    """2 x w - |w|^2, the bias made of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.w, -0.5 * self.w.square().sum(1))


def test_a_bias_that_is_computed_from_the_weight_is_no_constant():
    _, data = trained()
    problem = Problem(Prototypes(), "cross_entropy", data, weight_decay=0.1)
    with pytest.raises(NoChainError, match="computed from parameters"):
        find_chain(problem, problem.parameters())


def test_a_frozen_bias_is_a_constant():
    model, data = trained()
    model[2].bias.requires_grad_(False)
    problem = Problem(model, "cross_entropy", data, weight_decay=0.1)
    assert len(find_chain(problem, problem.parameters())) == 3


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_a_mask_of_zeros_and_ones_is_refused(dtype):
    model, data = trained()
    unlearner = Unlearner(model, "cross_entropy", data, weight_decay=0.01)
    for repeated in ("raise", "ignore"):
        with pytest.raises(ValueError, match="boolean"):
            unlearner.forget((data[1] == 1).to(dtype), repeated=repeated)


class Halved(nn.Module):
    """Layers that run in bfloat16, outputs of either type."""

    def __init__(self, net: nn.Module, *, back: bool) -> None:
        super().__init__()
        self.net, self.back = net, back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = self.net(x)
        return out.float() if self.back else out


@pytest.mark.parametrize("back", [True, False])
def test_a_model_that_computes_in_bfloat16_forgets_like_the_same_in_single_precision(back):
    model, data = trained()
    found = []
    for one in (model, Halved(model, back=back)):
        unlearner = Unlearner(one, "cross_entropy", data, weight_decay=0.05, damping=0.1, random_state=0)
        deletion = unlearner.forget([0])
        found.append(deletion.distance)
    assert found[1] == pytest.approx(found[0], rel=0.1)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze()


def test_a_squeeze_of_all_axes_is_refused_by_name():
    _, data = trained()
    with pytest.raises(ValueError, match=r"squeeze\(-1\)"):
        Problem(Squeezed(), nn.BCEWithLogitsLoss(), (data[0], (data[1] > 0).float()), weight_decay=0.01)
