"""What the experiments on networks share: data, networks, training, and what is measured of a model."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _common  # isort: split

import _unlearn_linear
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from codec.unlearn import Problem, Unlearner, find_units
from codec.unlearn._products import Products
from codec.unlearn._requests import others
from codec.unlearn._search import default_budget
from codec.unlearn._training import Pass, Recipe, loss_of, train
from codec.unlearn.evaluate import evaluate

Make = Callable[[], nn.Module]
Figures = dict[str, float]
BESIDE = {
    "differs from retrained": "test_disagreement",
    "JS divergence": "js_divergence",
    "membership AUC": "mia_loss_auc",
}


@dataclass(frozen=True)
class Data:
    """Samples to train on, and others to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def n(self) -> int:
        """Training samples."""
        return len(self.y)


# ---------------------------------------------------------------------- data
def mnist(folder: Path, n: int, quick: bool) -> Data:
    """N digits of MNIST and its test set; quick: the 8 x 8 digits that scikit-learn carries."""
    x, y, test_x, test_y = _unlearn_linear.digits(folder, n, quick)
    as_float = partial(torch.tensor, dtype=torch.float32)
    return Data(as_float(x), torch.tensor(y), as_float(test_x), torch.tensor(test_y))


def cifar(folder: Path, n: int, quick: bool) -> Data:
    """N images of CIFAR-10 and test images: the binary batches of the full set, or the subset as an npz.

    Quick: 8 x 8 digits in three channels of 32 x 32.
    """
    if quick:
        x, y = load_digits(return_X_y=True)
        images = np.kron(x.reshape(-1, 1, 8, 8), np.ones((1, 3, 4, 4))) / 16.0
        return _split(images, y, n)
    binary = folder / "cifar-10-batches-bin"
    if binary.exists():
        parts = [_cifar_batch(binary / f"data_batch_{i}.bin") for i in range(1, 6)]
        x, y = (np.concatenate(piece) for piece in zip(*parts, strict=True))
        test_x, test_y = _cifar_batch(binary / "test_batch.bin")
    elif (folder / "cifar10_subset.npz").exists():
        with np.load(folder / "cifar10_subset.npz") as file:
            x, y, test_x, test_y = (file[name] for name in ("X_train", "y_train", "X_test", "y_test"))
        x, test_x = (images.transpose(0, 3, 1, 2) for images in (x, test_x))
    else:
        raise SystemExit(f"--data {folder} holds neither cifar-10-batches-bin nor cifar10_subset.npz; try --quick.")
    scaled = [torch.tensor((images / 255.0 - 0.473) / 0.251, dtype=torch.float32) for images in (x[:n], test_x)]
    return Data(scaled[0], torch.tensor(y[:n]).long(), scaled[1], torch.tensor(test_y).long())


def _cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = np.fromfile(path, dtype=np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _split(x: np.ndarray, y: np.ndarray, n: int) -> Data:
    """A fixed random order; the first n to train on, as many to test on."""
    order = np.random.default_rng(0).permutation(len(y))
    inputs, labels = torch.tensor(x[order], dtype=torch.float32), torch.tensor(y[order]).long()
    return Data(inputs[:n], labels[:n], inputs[n : 2 * n], labels[n : 2 * n])


# ---------------------------------------------------------------------- networks
class Network(nn.Module):
    """Features and a linear head."""

    def __init__(self, features: nn.Module, n_features: int, n_classes: int = 10) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(n_features, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


class Add(nn.Module):
    """``relu(f(x) + g(x))``."""

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x: Tensor) -> Tensor:
        """The residual block's output."""
        return functional.relu(self.f(x) + self.g(x))


class Concatenate(nn.Module):
    """``[x, f(x)]``."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        """The dense layer's output."""
        return torch.cat([x, self.f(x)], dim=1)


def _conv(c: int, d: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(c, d, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(d)]


def _pooled() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def resnet18(width: int = 64, n_classes: int = 10) -> Network:
    """He et al. 2016, with the 3 x 3 first layer that is usual for CIFAR."""
    layers: list[nn.Module] = [*_conv(3, width), nn.ReLU()]
    c = width
    for i in range(4):
        for stride in (1 if i == 0 else 2, 1):
            d = width * 2**i
            f = nn.Sequential(*_conv(c, d, stride=stride), nn.ReLU(), *_conv(d, d))
            g = nn.Identity() if stride == 1 and c == d else nn.Sequential(*_conv(c, d, 1, stride))
            layers.append(Add(f, g))
            c = d
    return Network(nn.Sequential(*layers, *_pooled()), c, n_classes)


def vgg11(width: int = 64, n_classes: int = 10, channels: int = 3) -> Network:
    """Simonyan and Zisserman 2015, with batch normalisation and one linear layer."""
    layers: list[nn.Module] = []
    c = channels
    for factors in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
        for factor in factors:
            layers += [*_conv(c, width * factor), nn.ReLU()]
            c = width * factor
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return Network(nn.Sequential(*layers, *_pooled()), c, n_classes)


def mobilenet(width: int = 32, n_classes: int = 10) -> Network:
    """Howard et al. 2017: a convolution of each channel, then one of 1 x 1; first layer with stride 1."""
    layers: list[nn.Module] = [*_conv(3, width), nn.ReLU()]
    c = width
    shape = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))
    for factor, stride in shape:
        layers += [*_conv(c, c, stride=stride, groups=c), nn.ReLU(), *_conv(c, width * factor, 1), nn.ReLU()]
        c = width * factor
    return Network(nn.Sequential(*layers, *_pooled()), c, n_classes)


def densenet(growth: int = 12, n_classes: int = 10, depth: int = 4) -> Network:
    """Huang et al. 2017, bottleneck and compression by half, three blocks of `depth` layers."""
    c = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, c, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range(depth):
            narrow = [nn.BatchNorm2d(c), nn.ReLU(), *_conv(c, 4 * growth, 1), nn.ReLU()]
            layers.append(Concatenate(nn.Sequential(*narrow, nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))))
            c += growth
        layers += [nn.BatchNorm2d(c), nn.ReLU()]
        if block < 2:
            layers += [nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
            c //= 2
    return Network(nn.Sequential(*layers, *_pooled()), c, n_classes)


# ---------------------------------------------------------------------- training
def made(make: Make, seed: int) -> nn.Module:
    """A fresh network of this seed; torch's random state is as before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def fit(
    make: Make,
    x: Any,
    y: Any,
    recipe: Recipe,
    *,
    weight_decay: float,
    seed: int,
    without: Sequence[int] = (),
    loss: Any = "cross_entropy",
) -> nn.Module:
    """Train a fresh network; the same beginning and order of samples whoever is left out."""
    work = Problem(made(make, seed), loss, (x, y), weight_decay=weight_decay)
    passes = [Pass(others(list(without), work.n), loss_of(work), recipe.batch_size, in_whole_order=True)]
    train(work, recipe, lambda _: passes, seed)
    return work.model


def few_units(model: nn.Module) -> int:
    """What the default changes for one sample; for a large request it may change every unit."""
    return default_budget(find_units(model).n_units)


def loaded(model: nn.Module, state: Any) -> nn.Module:
    """A copy of the model with other parameters."""
    model = copy.deepcopy(model)
    model.load_state_dict({**model.state_dict(), **state})
    return model


# ---------------------------------------------------------------------- measuring
def outputs(model: nn.Module, x: Any, size: int = 500) -> Tensor:
    """The model's outputs in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.split(x, size)])


def answers(logits: Tensor) -> Tensor:
    """The class that each row answers; -1, which is none, where a row is not finite: the model has diverged."""
    return logits.argmax(1).where(logits.isfinite().all(1), -1)


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of right answers; a row that is not finite is never right."""
    return float((answers(logits) == y).double().mean())


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for what is no number: the model has diverged."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def measured(model: nn.Module, data: Data, gone: Sequence[int]) -> Figures:
    """Accuracies, and the loss of the forgotten samples."""
    logits, kept = outputs(model, data.x), others(list(gone), data.n)
    forgotten = torch.as_tensor(gone)
    return finite(
        {
            "forget loss": float(functional.cross_entropy(logits[forgotten], data.y[forgotten])),
            "forgotten": accuracy(logits[forgotten], data.y[forgotten]),
            "residual": accuracy(logits[kept], data.y[kept]),
            "test": accuracy(outputs(model, data.test_x), data.test_y),
        }
    )


def beside_retrained(models: dict[str, Any], data: Data, gone: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Each model's distance to the retrained one, and what membership inference finds; "nothing" is the original."""
    forgotten, kept = torch.as_tensor(gone), others(list(gone), data.n)
    result = evaluate(
        {"original" if name == "nothing" else name: model for name, model in models.items()},
        retain=(data.x[kept], data.y[kept]), forget=(data.x[forgotten], data.y[forgotten]), test=(data.test_x, data.test_y),
        batch_size=250,
    )  # fmt: skip
    frame = result.to_frame().rename(index={"original": "nothing"})
    return {name: finite({k: float(frame.loc[name, column]) for k, column in BESIDE.items()}) for name in models}


def gradient_norms(problem: Problem, params: dict[str, Tensor], gone: Sequence[int]) -> Figures:
    """Norms of the mean gradient over the forgotten samples, and over the retained ones with weight decay."""
    products = Products(problem, params)
    found = {"sample gradient": torch.as_tensor(gone), "residual gradient": others(list(gone), problem.n)}
    return {name: _objective_gradient(problem, products, params, ids) for name, ids in found.items()}


def _objective_gradient(problem: Problem, products: Products, params: dict[str, Tensor], ids: Tensor) -> float:
    parts = products.mean_gradient(ids)
    return float(sum((g + problem.weight_decay * params[k]).square().sum() for k, g in parts.items()) ** 0.5)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def one_by_one(
    unlearner: Unlearner,
    queue: Sequence[int],
    marks: Sequence[int],
    look: Callable[[nn.Module, Sequence[int]], Figures],
) -> list[Figures]:
    """Delete samples one a request; what `look` finds after `marks` requests, CPU seconds and refusals so far."""
    found, seconds, refused = [], 0.0, 0
    for k, i in enumerate(queue[: max(marks)], start=1):
        start = time.process_time()
        refused += not unlearner.forget([i]).accepted
        seconds += time.process_time() - start
        if k in marks:
            cost = {"deleted": k, "CPU s a deletion": round(seconds / k, 4), "refused": refused}
            found.append(cost | look(unlearner.model, queue[:k]))
    return found


# ---------------------------------------------------------------------- what notes say
STEP = (
    'The row "the paper\'s step" is the formula of the released code (codec.unlearn.baselines.paper_step) on {where}, '
    "without its choice of units and with this data's number of samples; the paper's own numbers are for its choice of units."
)
STEP_ON_ALL = STEP.format(where="all parameters")


def shortfalls(rows: dict[str, dict[str, Any]], *scores: str) -> str:
    """Where ours takes longer than retraining or ends with a lower score than doing nothing; empty where nowhere."""
    limits = [("CPU s", "retrained", 1, "takes longer than one retraining ({} CPU s)")]
    limits += [(score, "nothing", -1, f"ends with a lower {score} than doing nothing ({{}})") for score in scores]
    said = []
    for column, reference, sign, words in limits:
        limit = rows[reference][column]
        behind = ", ".join(
            f"{name.removeprefix('ours, ')} {_common.cell(row[column])}"
            for name, row in rows.items()
            if name.startswith("ours") and sign * (_common.mean(row[column]) - _common.mean(limit)) > 0
        )
        said += [f"Ours {words.format(_common.cell(limit))}: {behind}."] if behind else []
    return " ".join(said)
