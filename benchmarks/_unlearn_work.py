"""Networks that forget, through the public class, beside retrained ones.

Networks are trained by SGD with momentum and a cosine schedule on 4,000 digits (quick: 1,000 of the digits that
scikit-learn carries). A retrained network starts at the same weights and leaves the forgotten samples out of the
same batches; further ones draw other batches, which shows how far two retrained networks are apart.
"""

from __future__ import annotations

import copy
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

from codec.unlearn import Deletion, Unlearner
from codec.unlearn._point import objective_gradient, training_gradient
from codec.unlearn._products import Products

DECAY = 5e-4
BATCHES = 16  # of an epoch
IDX = ("images-idx3", "labels-idx1")  # files of MNIST
SELECTORS = ("lfoci", "kfac_greedy", "greedy_decrement", "lfoci-pooled", "random")
Row = dict[str, Any]


# ---------------------------------------------------------------------- data and networks
@dataclass(frozen=True)
class Digits:
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits(folder: Path, quick: bool, seed: int, *, alike: bool = False) -> Digits:
    """Training and test rows; every seed draws other training rows.

    Test rows are the last half of the test file, all from one of the two sources that the training file mixes.
    ``alike``: as many others of the training file instead, so that a sample's kind does not tell whether it was seen.
    """
    if quick:
        raw = load_digits()
        x, y = torch.tensor(raw.data / 16.0 - 0.3, dtype=torch.float32), torch.tensor(raw.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        train, test = order[:1000], order[1000:]
        return Digits(x[train], y[train], x[test], y[test])
    order = np.random.default_rng(1000 + seed).permutation(60_000)
    train = [read_idx(folder / "mnist" / f"train-{name}-ubyte.gz") for name in IDX]
    if alike:
        test = [part[order[4000:9000]] for part in train]
    else:
        test = [read_idx(folder / "mnist" / f"t10k-{name}-ubyte.gz")[5000:] for name in IDX]
    x, y = (part[order[:4000]] for part in train)
    return Digits(scaled(x), labels(y), scaled(test[0]), labels(test[1]))


def scaled(raw: np.ndarray) -> Tensor:
    return (torch.tensor(np.asarray(raw, dtype=np.float32)) / 255 - 0.1307) / 0.3081


def labels(raw: np.ndarray) -> Tensor:
    return torch.tensor(np.asarray(raw, dtype=np.int64))


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn(width: int, norm: Callable[[int], nn.Module] | None = None) -> nn.Module:
    """Two strided convolutions and a linear layer; the rows of pixels are made square first."""
    side = math.isqrt(width)
    last = math.ceil(math.ceil(side / 2) / 2)
    norms = [[norm(channels)] if norm else [] for channels in (8, 16)]
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, 8, 5, 2, 2), *norms[0], nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2),
        *norms[1], nn.ReLU(), nn.Flatten(), nn.Linear(16 * last * last, 10),
    )  # fmt: skip


def normed_cnn(width: int) -> nn.Module:
    """The same with batch norms."""
    return cnn(width, nn.BatchNorm2d)


@dataclass(frozen=True)
class Network:
    """How a network is made and trained."""

    make: Callable[[int], nn.Module]
    epochs: int
    decay: float = DECAY
    rate: float = 0.05
    to_optimum: bool = False  # L-BFGS after SGD, to a gradient of nearly 0

    def trained(self, data: Digits, seed: int, keep: Tensor | None = None, order: int = 0) -> tuple[nn.Module, float]:
        """The network and the CPU seconds; ``order`` draws other batches, the first weights stay."""
        torch.manual_seed(seed)
        model = self.make(data.x.shape[1])
        start, n, steps = time.process_time(), len(data.x), self.epochs * BATCHES
        kept = torch.ones(n, dtype=torch.bool) if keep is None else keep
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate, momentum=0.9, weight_decay=self.decay)
        generator = torch.Generator().manual_seed(1_000 * seed + order)
        for step in range(steps):
            if step % BATCHES == 0:
                shuffled = torch.randperm(n, generator=generator)
            rows = shuffled[step % BATCHES :: BATCHES]
            rows = rows[kept[rows]]
            optimizer.param_groups[0]["lr"] = self.rate / 2 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            functional.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
            optimizer.step()
        if self.to_optimum:
            minimise(model, data.x[kept], data.y[kept], self.decay)
        return model.eval(), time.process_time() - start


def minimise(model: nn.Module, x: Tensor, y: Tensor, decay: float) -> None:
    """Full-batch L-BFGS on the loss with weight decay."""
    leaves = list(model.parameters())
    optimizer = torch.optim.LBFGS(
        leaves,
        max_iter=400,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,
        tolerance_change=1e-14,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = functional.cross_entropy(model(x), y)
        loss = loss + decay / 2 * sum(leaf.square().sum() for leaf in leaves)
        loss.backward()
        return loss

    optimizer.step(closure)


NETWORKS = {"784-100-10": Network(mlp, 40), "small CNN": Network(cnn, 15)}
CAPTURED = {
    "weight decay 0.01": Network(mlp, 40, 0.01),
    "weight decay 0.01, at its optimum": Network(mlp, 40, 0.01, to_optimum=True),
    "weight decay 0.0005": Network(mlp, 40),
}
TRAININGS = {
    "784-100-10, 40 epochs": Network(mlp, 40),
    "784-100-10, 10 epochs": Network(mlp, 10),
    "784-100-10, 40 epochs at a fifth of the rate": Network(mlp, 40, rate=0.01),
    "small CNN, 15 epochs": Network(cnn, 15),
    "small CNN, 15 epochs at .3 of the rate": Network(cnn, 15, rate=0.015),
    "small CNN, 45 epochs": Network(cnn, 45),
    "small CNN with batch norms, 5 epochs": Network(normed_cnn, 5),
    "small CNN with batch norms, 15 epochs": Network(normed_cnn, 15),
}


def finetuned(model: nn.Module, data: Digits, kept: Tensor, seconds: float) -> nn.Module:
    """SGD on retained samples from the trained weights until the CPU seconds are spent."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.02, momentum=0.9, weight_decay=DECAY)
    start, generator = time.process_time(), torch.Generator().manual_seed(2)
    while time.process_time() - start < seconds:
        rows = kept[torch.randint(0, len(kept), (len(data.x) // BATCHES,), generator=generator)]
        optimizer.zero_grad()
        functional.cross_entropy(functional_call(model, leaves, (data.x[rows],)), data.y[rows]).backward()
        optimizer.step()
    found = copy.deepcopy(model)
    found.load_state_dict({name: value.detach() for name, value in leaves.items()})
    return found


# ---------------------------------------------------------------------- what is measured
class Bench:
    """One trained network, its samples in order of loss, and the class that forgets them."""

    def __init__(self, folder: Path, quick: bool, network: Network, seed: int) -> None:
        self.network, self.seed = network, seed
        self.data = digits(folder, quick, seed)
        self.model, self.train_cpu = network.trained(self.data, seed)
        with torch.no_grad():
            losses = functional.cross_entropy(self.model(self.data.x), self.data.y, reduction="none")
        self.hardest = losses.argsort(descending=True)
        self.random = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))

    def unlearner(self, **options: Any) -> Unlearner:
        given = {"weight_decay": self.network.decay, "random_state": self.seed, "selector": "all"} | options
        return Unlearner(self.model, "cross_entropy", (self.data.x, self.data.y), **given)

    def kept(self, gone: Tensor) -> Tensor:
        mask = torch.ones(len(self.data.x), dtype=torch.bool)
        mask[gone] = False
        return mask

    def retrained(self, gone: Tensor, count: int) -> tuple[list[nn.Module], float]:
        """Several, the first with the batches of the trained network; the mean CPU seconds."""
        found = [self.network.trained(self.data, self.seed, self.kept(gone), order) for order in range(count)]
        return [model for model, _ in found], float(np.mean([cpu for _, cpu in found]))

    def figures(self, model: nn.Module, gone: Tensor, other: nn.Module) -> Row:
        """Losses and accuracies; ``other`` is the retrained network."""
        data = self.data
        with torch.no_grad():
            test, forget, again = model(data.test_x), model(data.x[gone]), other(data.test_x)
        return {
            "forget_loss": float(functional.cross_entropy(forget, data.y[gone])),
            "forget_accuracy": float((forget.argmax(1) == data.y[gone]).float().mean()),
            "test_accuracy": float((test.argmax(1) == data.test_y).float().mean()),
            "disagreement": float((test.argmax(1) != again.argmax(1)).float().mean()),
        }


def timed(unlearner: Unlearner, gone: list[int]) -> tuple[Deletion, float]:
    start = time.process_time()
    deletion = unlearner.forget(gone)
    return deletion, time.process_time() - start


def references(bench: Bench, gone: Tensor) -> tuple[list[Row], nn.Module]:
    """Rows of two retrained networks and of doing nothing, and the first of the two."""
    models, cpu = bench.retrained(gone, 2)
    each = [bench.figures(model, gone, models[0]) for model in models]
    spread = {"forget_losses": [row["forget_loss"] for row in each], "cpu_s": cpu}
    mean = {key: float(np.mean([row[key] for row in each])) for key in each[0]}
    mean["disagreement"] = float(np.mean([row["disagreement"] for row in each[1:]]))  # between two of them
    return [
        {"model": "retrained"} | mean | spread,
        {"model": "nothing", "cpu_s": 0.0} | bench.figures(bench.model, gone, models[0]),
    ], models[0]


def requests(folder: Path, quick: bool, name: str, seed: int) -> list[Row]:
    """One request at a time, each from the trained network: all units, twenty units, fine-tuning."""
    bench = Bench(folder, quick, NETWORKS[name], seed)
    count = 20 if quick else 100
    cases = {f"random {count}": bench.random[:count], "hardest 1": bench.hardest[:1]}
    if not quick:
        cases |= {f"hardest {count}": bench.hardest[:count], "hardest, second": bench.hardest[1:2]}
    rows: list[Row] = []
    for case, gone in cases.items():
        found, other = references(bench, gone)
        unlearner = bench.unlearner()
        _, first = timed(unlearner, gone.tolist())
        unlearner.rollback()
        deletion, cpu = timed(unlearner, gone.tolist())
        found.append(
            {"model": "codec", "cpu_s": cpu, "first_cpu_s": first, "damping": deletion.damping}
            | {"iterations": deletion.iterations, "accepted": deletion.accepted}
            | bench.figures(unlearner.model, gone, other)
        )
        few = bench.unlearner(selector="lfoci", max_units=20, captured=False)
        deletion, cpu = timed(few, gone.tolist())
        about = {"model": "codec, 20 units", "first_cpu_s": cpu, "accepted": deletion.accepted}
        found.append(about | bench.figures(few.model, gone, other))
        tuned = finetuned(bench.model, bench.data, bench.kept(gone).nonzero()[:, 0], first)
        found.append({"model": "fine-tuned", "cpu_s": first} | bench.figures(tuned, gone, other))
        rows += [{"case": case} | row for row in found]
    return rows


def sequence(folder: Path, quick: bool, name: str, seed: int) -> list[Row]:
    """Requests of one sample, random and hardest in turn, each answered for everything forgotten so far."""
    bench = Bench(folder, quick, NETWORKS[name], seed)
    half = 5 if quick else 50
    hard = bench.hardest[:half].tolist()
    random = [i for i in bench.random.tolist() if i not in set(hard)][:half]
    queue = [i for pair in zip(random, hard, strict=True) for i in pair]
    unlearner = bench.unlearner()
    times = [timed(unlearner, [i])[1] for i in queue]
    refused = sum(not deletion.accepted for deletion in unlearner.deletions)
    found, other = references(bench, torch.tensor(queue))
    cpu = {"cpu_s": float(np.median(times)), "mean_cpu_s": float(np.mean(times)), "first_cpu_s": times[0]}
    about = {"model": "codec", "refused": refused, "damping": unlearner.deletions[-1].damping}
    found.append(about | cpu | bench.figures(unlearner.model, torch.tensor(queue), other))
    return [{"case": f"{len(queue)} requests"} | row for row in found]


def captured(folder: Path, quick: bool, name: str, seed: int) -> list[Row]:
    """Share of the full Newton decrease that twenty units have, by selector, and the CPU of choosing them."""
    bench = Bench(folder, quick, CAPTURED[name], seed)
    half = 1 if quick else 3
    queue = {"random": bench.random[:half].tolist(), "hardest": bench.hardest[:half].tolist()}
    rows = []
    for selector in SELECTORS[:2] if quick else SELECTORS:
        unlearner = bench.unlearner(selector=selector, max_units=20)
        unlearner.forget(queue["random"][0])  # what later requests share
        unlearner.rollback()
        for case, ids in queue.items():
            found, times = [], []
            for i in ids:
                deletion = unlearner.forget(i)
                found.append(deletion)
                times.append(deletion.timings["select"])
                if deletion.accepted:
                    unlearner.rollback()
            row = {"case": case, "model": selector, "select_cpu_s": float(np.median(times))}
            row["captured"] = float(np.mean([d.captured_decrement for d in found]))
            rows.append(row)
            if selector == "lfoci":
                share = float(np.mean([d.captured_by_gradient_norm for d in found]))
                rows.append({"case": case, "model": "gradient norm", "captured": share})
    return rows


def damping(folder: Path, quick: bool, name: str, seed: int) -> list[Row]:
    """At which damping a deletion has the retrained forget loss, beside what is chosen.

    "evaluated": what would be chosen with the gradient of the model in evaluation mode.
    """
    bench = Bench(folder, quick, TRAININGS[name], seed)
    unlearner = bench.unlearner()
    problem, everyone = unlearner.problem, torch.arange(len(bench.data.x))
    params = problem.parameters()
    gradient = objective_gradient(Products(problem, params), everyone)
    ratio = norm(gradient) / norm(training_gradient(problem, params, gradient, everyone))
    cases = {
        "random 100": bench.random[:100],
        "hardest, third": bench.hardest[2:3],
        "hardest, 21st": bench.hardest[20:21],
    }
    rows = []
    for case, gone in cases.items():
        wanted = references(bench, gone)[0][0]["forget_loss"]
        unlearner.options.damping = "auto"
        chosen = unlearner.forget(gone.tolist())
        unlearner.rollback()
        row = {"case": case, "model": name, "auto": chosen.damping, "evaluated": ratio * chosen.damping}
        row["forget_loss"] = chosen.forget_loss[1] / wanted
        rows.append(row | {"fits": fitting(unlearner, gone.tolist(), wanted)})
    return rows


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors.values()]).norm())


def fitting(unlearner: Unlearner, gone: list[int], wanted: float) -> float:
    """The damping at which the forget loss is as wanted, between two that are twofold apart."""
    above, mu = None, 0.256
    while mu > 2.5e-4:
        unlearner.options.damping = mu
        deletion = unlearner.forget(gone)
        if not deletion.accepted:
            break
        unlearner.rollback()
        loss = deletion.forget_loss[1]
        if loss >= wanted:
            return mu if above is None else mu * 2.0 ** (math.log(loss / wanted) / math.log(loss / above))
        above, mu = loss, mu / 2.0
    return mu  # no less damping was tried, or accepted
