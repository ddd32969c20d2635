"""On a CUDA device: the results of the CPU up to float32, and nothing left behind. ``make gpu`` runs this."""

import numpy as np
import pytest
import torch
from torch import nn

from codec.unlearn import Problem, Unlearner, find_units
from codec.unlearn._record import record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def full_precision():
    """float32 sums, not TF32: what is compared with the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def data(n=60):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, 2, 8, 8, generator=draw), torch.randint(3, (n,), generator=draw)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def same(inputs, n, generator):
    return inputs


def test_a_record_is_that_of_the_cpu():
    found = []
    for device in ("cpu", "cuda"):
        problem = Problem(net(), "cross_entropy", data(), weight_decay=0.0, device=device)
        units = find_units(problem.model)
        found.append(record(problem, units, *problem.fetch([1, 2]), perturb=same, n_perturbations=6))
    assert found[1].activations.is_cuda
    torch.testing.assert_close(found[1].activations.cpu(), found[0].activations, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1].losses.cpu(), found[0].losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.parametrize("selector", ["all", "gradient_norm", "kfac_greedy"])
def test_a_deletion_is_that_of_the_cpu(selector, curvature):
    ends = []
    for device in ("cpu", "cuda"):
        ours = Unlearner(
            net(), "cross_entropy", data(), weight_decay=0.01, selector=selector, max_units=4, curvature=curvature,
            damping=0.1, tolerance=1e-5, device=device, random_state=0,
        )  # fmt: skip
        deletions = [ours.forget([3]), ours.forget([5, 7])]
        ends.append(([d.units for d in deletions], ours.parameters))
    assert ends[0][0] == ends[1][0]
    for name, value in ends[0][1].items():
        torch.testing.assert_close(ends[1][1][name].cpu(), value, rtol=1e-3, atol=1e-4)


def test_lfoci_runs_on_the_device_and_repeats_itself():
    rankings = []
    for _ in range(2):
        ours = Unlearner(net(), "cross_entropy", data(), weight_decay=0.01, device="cuda", screen=None, random_state=0)
        deletion = ours.forget([3])
        rankings.append(deletion.units)
        assert next(ours.model.parameters()).is_cuda
    assert rankings[0] == rankings[1]


def test_model_on_the_device_and_data_on_the_cpu(tmp_path):
    model = net().cuda()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options = {"weight_decay": 0.01, "selector": "all", "random_state": 0}
    ours = Unlearner(model, "cross_entropy", data(), ledger=tmp_path, **options)
    ours.forget([3])
    ours.close()
    again = Unlearner.resume(tmp_path, model, "cross_entropy", data(), **options)
    assert all(torch.equal(again.parameters[key], value) for key, value in ours.parameters.items())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    again.close()


def test_data_on_the_device_and_model_on_the_cpu_is_refused():
    X, y = data()
    with pytest.raises(ValueError, match="bring both to one device"):
        Problem(net(), "cross_entropy", (X.cuda(), y.cuda()), weight_decay=0.0)


def test_a_pass_keeps_to_its_memory():
    problem = Problem(net(), "cross_entropy", data(), weight_decay=0.0, device="cuda")
    units, one = find_units(problem.model), problem.fetch([0])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    limit = 2**22
    record(problem, units, *one, n_perturbations=2000, memory_limit=limit, generator=np.random.default_rng(0))
    rows = 2000 * units.n_units * 4
    assert torch.cuda.max_memory_allocated() - before <= 4 * limit + 4 * rows
    assert torch.cuda.memory_allocated() - before <= 2**20
