"""Networks that forget, beside retrained ones: batches of 100, sequences of 100, a small CNN.

Every row has the retrained model, doing nothing and fine-tuning at the step's CPU seconds. Networks are
trained by SGD with momentum and a cosine schedule, weight decay 5e-4, on 4,000 digits (`--quick`: 1,000 of the
digits that scikit-learn carries).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _unlearn_linear import read_idx
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._problem import Problem
from codec.unlearn._slices import Slices
from codec.unlearn._units import find_units
from codec.unlearn._update import captured_decrement, deletion_step, gradient_norm_units

DECAY = 5e-4
SEQUENTIAL_DAMPING = 4 * DECAY  # fixed before the seeds below were looked at, on seed 11
BATCHES = 16  # of an epoch
Row = dict[str, Any]
Params = dict[str, Tensor]


@dataclass(frozen=True)
class Digits:
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(folder: Path, quick: bool, seed: int, image: bool) -> Digits:
    if quick:
        raw = load_digits()
        x, y = torch.tensor(raw.data / 16.0 - 0.3, dtype=torch.float32), torch.tensor(raw.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        train, test = order[:1000], order[1000:]
        parts = x[train], y[train], x[test], y[test]
    else:
        order = np.random.default_rng(1000 + seed).permutation(60_000)[:4000]
        train = [read_idx(folder / f"train-{name}-ubyte.gz")[order] for name in ("images-idx3", "labels-idx1")]
        test = [read_idx(folder / f"t10k-{name}-ubyte.gz")[5000:] for name in ("images-idx3", "labels-idx1")]
        parts = scaled(train[0]), labels(train[1]), scaled(test[0]), labels(test[1])
    if not image:
        return Digits(*parts)
    side = math.isqrt(parts[0].shape[1])
    return Digits(parts[0].view(-1, 1, side, side), parts[1], parts[2].view(-1, 1, side, side), parts[3])


def scaled(raw: np.ndarray) -> Tensor:
    return (torch.tensor(np.asarray(raw, dtype=np.float32)).reshape(len(raw), -1) / 255 - 0.1307) / 0.3081


def labels(raw: np.ndarray) -> Tensor:
    return torch.tensor(np.asarray(raw, dtype=np.int64))


def mlp(data: Digits, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(data.x.shape[1], 100), nn.ReLU(), nn.Linear(100, 10))


def cnn(data: Digits, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    side = math.ceil(math.ceil(data.x.shape[2] / 2) / 2)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * side * side, 10),
    )  # fmt: skip


def train(model: nn.Module, data: Digits, keep: Tensor, seed: int, epochs: int, lr: float = 0.05) -> float:
    """SGD in place; the same order of samples whoever is left out. Returns CPU seconds."""
    start, n = time.process_time(), len(data.x)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=DECAY)
    generator, steps = torch.Generator().manual_seed(seed), BATCHES
    for step in range(epochs * steps):
        if step % steps == 0:
            order = torch.randperm(n, generator=generator)
        rows = order[step % steps :: steps]
        rows = rows[keep[rows]]
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
        optimizer.zero_grad()
        functional.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
        optimizer.step()
    return time.process_time() - start


def finetune(model: nn.Module, params: Params, data: Digits, kept: Tensor, seconds: float) -> Params:
    """SGD on retained samples from the trained weights until the CPU seconds are spent."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.02, momentum=0.9, weight_decay=DECAY)
    start, generator = time.process_time(), torch.Generator().manual_seed(2)
    while time.process_time() - start < seconds:
        rows = kept[torch.randint(0, len(kept), (len(data.x) // BATCHES,), generator=generator)]
        optimizer.zero_grad()
        functional.cross_entropy(functional_call(model, leaves, (data.x[rows],)), data.y[rows]).backward()
        optimizer.step()
    return {name: value.detach() for name, value in leaves.items()}


def figures(name: str, outputs: Callable[[Tensor], Tensor], data: Digits, gone: Tensor, other: Tensor) -> Row:
    """Losses and accuracies; ``other``: the retrained model's test outputs."""
    with torch.no_grad():
        test, forget = outputs(data.test_x), outputs(data.x[gone])
    return {
        "model": name,
        "forget_loss": float(functional.cross_entropy(forget, data.y[gone])),
        "forget_accuracy": float((forget.argmax(1) == data.y[gone]).float().mean()),
        "test_accuracy": float((test.argmax(1) == data.test_y).float().mean()),
        "disagreement": float((test.argmax(1) != other.argmax(1)).float().mean()),
    }


def chosen(losses: Tensor, seed: int, count: int) -> dict[str, Tensor]:
    hard = losses.argsort(descending=True)
    random = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
    return {f"random {count}": random[:count], f"hardest {count}": hard[:count], "hardest 1": hard[:1]}


def requests(folder: Path, quick: bool, seeds: tuple[int, ...], kind: str) -> list[Row]:
    """One request at a time, each from the trained model."""
    make, epochs = (mlp, 40) if kind == "784-100-10" else (cnn, 15)
    found: list[Row] = []
    for seed in seeds:
        data = digits(folder, quick, seed, kind == "CNN")
        model = make(data, seed)
        everyone = torch.ones(len(data.x), dtype=torch.bool)
        train(model, data, everyone, seed, epochs)
        problem = Problem(model, "cross_entropy", (data.x, data.y), weight_decay=DECAY)
        params, slices = problem.parameters(), Slices(find_units(problem.model))
        start = time.process_time()
        whole = linearise(problem, params)
        setup, losses = time.process_time() - start, problem.sample_losses(params)
        every = Curvature(problem, params, torch.arange(problem.n), slices).gradient(torch.arange(problem.n))
        for case, gone in chosen(losses, seed, 20 if quick else 100).items():
            keep = everyone.clone()
            keep[gone] = False
            kept, retrained = keep.nonzero()[:, 0], make(data, seed)
            seconds = train(retrained, data, keep, seed, epochs)
            with torch.no_grad():
                other = retrained(data.test_x)
            about = {"network": kind, "seed": seed, "case": case, "setup_cpu_s": setup}
            found.append(about | {"cpu_s": seconds} | figures("retrained", retrained, data, gone, other))
            found.append(about | {"cpu_s": 0.0} | figures("nothing", model, data, gone, other))
            for repair in (False, True):
                start = time.process_time()
                step = deletion_step(
                    problem,
                    params,
                    gone,
                    slices,
                    linearisation=whole,
                    whole_gradient=every,
                    losses=losses,
                    repair=repair,
                )
                spent, after = time.process_time() - start, slices.add(params, step.delta)
                row = figures(
                    "repaired" if repair else "step", lambda x, w=after, p=problem: p.outputs(w, x), data, gone, other
                )
                found.append(about | {"cpu_s": spent, "damping": step.damping, "accepted": step.accepted} | row)
                if not repair:
                    tuned = finetune(model, params, data, kept, spent)
                    row = figures("fine-tuned", lambda x, w=tuned, p=problem: p.outputs(w, x), data, gone, other)
                    found.append(about | {"cpu_s": spent} | row)
    return found


def sequence(folder: Path, quick: bool, seeds: tuple[int, ...]) -> list[Row]:
    """Sequential deletions, random and hardest in turn, anchored at the trained model."""
    found: list[Row] = []
    for seed in seeds:
        data = digits(folder, quick, seed, False)
        model = mlp(data, seed)
        everyone = torch.ones(len(data.x), dtype=torch.bool)
        train(model, data, everyone, seed, 40)
        problem = Problem(model, "cross_entropy", (data.x, data.y), weight_decay=DECAY)
        params, slices = problem.parameters(), Slices(find_units(problem.model))
        whole, losses = linearise(problem, params), problem.sample_losses(params)
        every = Curvature(problem, params, torch.arange(problem.n), slices).gradient(torch.arange(problem.n))
        half = 5 if quick else 50
        hard = losses.argsort(descending=True)[:half].tolist()
        order = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed)).tolist()
        random = [i for i in order if i not in set(hard)][:half]
        queue, times, x0 = [i for pair in zip(random, hard, strict=True) for i in pair], [], None
        for k in range(1, len(queue) + 1):
            start = time.process_time()
            step = deletion_step(
                problem, params, queue[:k], slices, linearisation=whole, whole_gradient=every, losses=losses, x0=x0,
                damping=SEQUENTIAL_DAMPING, max_rise=math.inf,
            )  # fmt: skip
            x0 = step.delta
            times.append(time.process_time() - start)
        keep, gone, after = everyone.clone(), torch.tensor(queue), slices.add(params, step.delta)
        keep[gone] = False
        others = [mlp(data, seed), mlp(data, seed)]
        for i, retrained in enumerate(others):
            train(retrained, data, keep, seed + i, 40)
        with torch.no_grad():
            other = others[0](data.test_x)
        about = {"network": "784-100-10", "seed": seed, "case": f"sequence of {len(queue)}"}
        for name, outputs in (("retrained", others[0]), ("retrained again", others[1]), ("nothing", model)):
            found.append(about | figures(name, outputs, data, gone, other))
        row = figures("step", lambda x, w=after, p=problem: p.outputs(w, x), data, gone, other)
        found.append(about | {"cpu_s": float(np.median(times)), "mean_cpu_s": float(np.mean(times))} | row)
        operator = Curvature(problem, params, keep.nonzero()[:, 0], slices, linearisation=whole)
        g = operator.gradient(gone[:1]) - every
        share = captured_decrement(operator, g, gradient_norm_units(slices, g, 20), tol=1e-2)
        found.append(about | {"model": "gradient norm, 20 units", "captured_decrement": share})
    return found


def rows(folder: Path, quick: bool) -> list[Row]:
    """Every measurement of networks; ``folder`` has MNIST's files."""
    seeds = (21,) if quick else (21, 22, 23, 24, 25)
    few = seeds[:1] if quick else seeds[:2]
    return [
        *requests(folder, quick, few, "784-100-10"), *requests(folder, quick, few, "CNN"), *sequence(folder, quick, seeds)
    ]  # fmt: skip
