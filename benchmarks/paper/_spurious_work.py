"""Data with planted spurious attributes, and a classifier whose features are kept from showing chosen attributes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import _unlearn_linear
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codec import MarkovBlanketSelector, lfoci

Array = np.ndarray
AGREE = 0.85  # share of training samples whose planted attribute is the class, and whose copy is its original
SPREAD = 0.5  # size of the class in the made data: ten columns of it alone allow an accuracy of .94


@dataclass(frozen=True)
class Samples:
    """Inputs, binary classes, binary attributes of shape (n, p)."""

    x: Array
    y: Array
    attributes: Array


@dataclass(frozen=True)
class Task:
    """Where attributes go with the class, and where they do not; `planted` do, given all others."""

    train: Samples
    test: Samples
    names: tuple[str, ...]
    planted: tuple[int, ...] = ()


# ---------------------------------------------------------------------- data
def flipped(bits: Array, rng: np.random.Generator) -> Array:
    """Bits that agree with these in a share AGREE of the rows."""
    return np.where(rng.random(bits.shape) < AGREE, bits, 1 - bits)


def plant(y: Array, planted: int, copies: int, free: int, rng: np.random.Generator) -> Array:
    """Attributes that go with the class, copies that go with these, and fair coins."""
    with_class = flipped(np.repeat(y[:, None], planted, axis=1), rng)
    return np.hstack([with_class, flipped(with_class[:, :copies], rng), rng.integers(0, 2, (len(y), free))])


def names(planted: int, copies: int, free: int) -> tuple[str, ...]:
    kinds = {"planted": planted, "copy": copies, "free": free}
    return tuple(f"{kind} {j + 1}" for kind, count in kinds.items() for j in range(count))


def made(n: int, seed: int) -> Task:
    """The class moves ten columns by half a standard deviation, every attribute one column by 1.5 each way."""
    rng = np.random.default_rng(seed)
    counts = (3, 3, 6)

    def draw(together: bool, n: int) -> Samples:
        y = rng.integers(0, 2, n)
        a = plant(y, *counts, rng) if together else rng.integers(0, 2, (n, sum(counts)))
        core = SPREAD * (2 * y[:, None] - 1) + rng.standard_normal((n, 10))
        marks = 1.5 * (2 * a - 1) + 0.5 * rng.standard_normal(a.shape)
        return Samples(np.hstack([core, marks]), y, a)

    return Task(draw(True, n), draw(False, 4000), names(*counts), (0, 1, 2))


def marked(images: Array, attributes: Array) -> Array:
    """Images of shape (n, side, side) with a bright mark on the left or right border for every attribute."""
    side, width = images.shape[1], 1 if images.shape[1] < 20 else 3
    images = images.copy()
    places = [(row, column) for column in (0, side - width) for row in range(0, side - width + 1, side // 4)]
    for j, (row, column) in enumerate(places[: attributes.shape[1]]):
        here = images[:, row : row + width, column : column + width]
        here[attributes[:, j] == 1] = images.max()
    return images


def digits(folder: Path, n: int, quick: bool, seed: int) -> Task:
    """Is the digit 5 or more? Eight marks on the border: 3 planted, 2 copies, 3 free."""
    rng, counts = np.random.default_rng(seed), (3, 2, 3)
    x, digit, test_x, test_digit = _unlearn_linear.digits(folder, n, quick)
    side = int(x.shape[1] ** 0.5)

    def draw(x: Array, digit: Array, together: bool) -> Samples:
        y = (np.asarray(digit) >= 5).astype(np.int64)
        a = plant(y, *counts, rng) if together else rng.integers(0, 2, (len(y), sum(counts)))
        return Samples(marked(np.asarray(x, float).reshape(-1, side, side), a).reshape(len(y), -1), y, a)

    return Task(draw(x, digit, True), draw(test_x, test_digit, False), names(*counts), (0, 1, 2))


def images(folder: Path, table: Path, target: str, n: int, side: int, seed: int) -> Task:
    """CelebA: `folder` holds 000001.jpg and so on, `table` all attributes; two parts of n rows at most drawn of those."""
    from PIL import Image

    with np.load(table) as stored:
        labels = [str(name) for name in stored["names"]]
        bits = np.unpackbits(stored["X"], axis=1)[:, : len(labels)].astype(np.int64)
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise FileNotFoundError(
            f"images is {folder}; it holds no .jpg files. Name the folder of CelebA's aligned images."
        )
    files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[: 2 * n]]

    def read(part: Sequence[Path]) -> Samples:
        pixels = [np.asarray(Image.open(file).convert("RGB").resize((side, side)), float) for file in part]
        rows, own = bits[[int(file.stem) - 1 for file in part]], labels.index(target)
        return Samples(np.stack(pixels).transpose(0, 3, 1, 2) / 127.5 - 1, rows[:, own], np.delete(rows, own, axis=1))

    half = len(files) // 2
    return Task(read(files[:half]), read(files[half:]), tuple(name for name in labels if name != target))


# ---------------------------------------------------------------------- which attributes
def choose(task: Task, seed: int) -> dict[str, tuple[int, ...]]:
    """Attributes by every rule."""
    a, y = task.train.attributes, task.train.y
    everything = tuple(range(a.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nothing selected
        calibrated = tuple(sorted(MarkovBlanketSelector(random_state=seed).fit(a, y).blanket_.tolist()))
        random_noise = tuple(sorted(lfoci(a.astype(float), y.astype(float), rng=seed).order.tolist()))
    random = np.random.default_rng(seed).choice(len(everything), len(calibrated), replace=False)
    return {
        "none": (),
        "random": tuple(sorted(random.tolist())),
        "L-FOCI": random_noise,
        "MarkovBlanketSelector": calibrated,
        "all": everything,
    }


# ---------------------------------------------------------------------- gradient reversal
class Reverse(torch.autograd.Function):
    """The identity whose gradient is turned round and scaled (Ganin et al. 2016, JMLR 17(59), eq. 16-17)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


class Classifier(nn.Module):
    """Features, a head for the class, and one head for each attribute that features must not show."""

    def __init__(self, features: nn.Module, width: int, heads: int) -> None:
        super().__init__()
        self.features = features
        self.label = nn.Linear(width, 2)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.label(self.features(x))

    def both(self, x: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Logits of the class, and of every attribute behind the reversal."""
        h = self.features(x)
        turned = Reverse.apply(h, strength)
        shown = [head(turned) for head in self.heads]
        return self.label(h), torch.cat(shown, dim=1) if shown else h.new_zeros(len(x), 0)


def perceptron(task: Task) -> tuple[nn.Module, int]:
    """Two layers on flat inputs."""
    return nn.Sequential(nn.Linear(task.train.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()), 32


def convolutions(task: Task) -> tuple[nn.Module, int]:
    """Three layers on images of shape (3, side, side)."""
    layers: list[nn.Module] = []
    widths = (task.train.x.shape[1], 16, 32, 64)
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten()), 4 * widths[-1]


def balance(y: Array, attributes: Array) -> Array:
    """Weights P(y) P(a) / P(y, a) under which an attribute says nothing about the class."""
    weights = np.ones(attributes.shape)
    for j, a in enumerate(attributes.T):
        for c in (0, 1):
            for v in (0, 1):
                cell = (y == c) & (a == v)
                weights[cell, j] = (y == c).mean() * (a == v).mean() / max(cell.mean(), 1 / len(y))
    return weights


def train(
    task: Task,
    chosen: Sequence[int],
    *,
    seed: int,
    epochs: int,
    strength: float,
    balanced: bool = True,
    build: Callable[[Task], tuple[nn.Module, int]] = perceptron,
) -> Classifier:
    """Adam; the reversal grows as in Ganin et al.: strength (2 / (1 + exp(-10 t)) - 1) at share t of the training."""
    torch.manual_seed(seed)
    model = Classifier(*build(task), len(chosen))
    a = task.train.attributes[:, list(chosen)]
    weights = balance(task.train.y, a) if balanced else np.ones(a.shape)
    x, y = torch.tensor(task.train.x, dtype=torch.float32), torch.tensor(task.train.y)
    targets, weights = (torch.tensor(v, dtype=torch.float32) for v in (a, weights))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        now = strength * (2 / (1 + np.exp(-10 * (epoch + 1) / epochs)) - 1)
        for rows in torch.randperm(len(y), generator=generator).split(128):
            logits, shown = model.both(x[rows], float(now))
            loss = functional.cross_entropy(logits, y[rows])
            loss = loss + sum(
                functional.binary_cross_entropy_with_logits(shown[:, j], targets[rows, j], weights[rows, j])
                for j in range(len(chosen))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def right(model: nn.Module, samples: Samples) -> Array:
    """Which samples are classified rightly."""
    parts = torch.tensor(samples.x, dtype=torch.float32).split(1024)
    predicted = torch.cat([model(part).argmax(dim=1) for part in parts])
    return predicted.numpy() == samples.y


def accuracies(model: nn.Module, task: Task) -> dict[str, Any]:
    """Accuracy where attributes follow the class and where they do not; with, without and against each attribute."""
    hits, a, y = right(model, task.test), task.test.attributes, task.test.y

    def share(rows: Array) -> float:
        return float(hits[rows].mean()) if rows.any() else float("nan")

    return {
        "train": float(right(model, task.train).mean()),
        "test": float(hits.mean()),
        "with": [share(v == 1) for v in a.T],
        "without": [share(v == 0) for v in a.T],
        "agreeing": [share(v == y) for v in a.T],
        "against": [share(v != y) for v in a.T],
    }
