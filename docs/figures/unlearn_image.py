"""Digits with wrong labels, taken out of a small convolutional network. ``make figures`` runs this."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn

from codec.unlearn import Unlearner
from codec.unlearn.evaluate import evaluate

OUTPUT = Path(__file__).parents[1] / "_static" / "unlearn_image.png"
TRAIN, WRONG, WEIGHT_DECAY = 1000, 40, 5e-4


def digits():
    """8 x 8 images in one order, and the labels; 40 of the first 1,000 are wrong."""
    images, labels = load_digits(return_X_y=True)
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=draw)
    X, y = torch.tensor(images, dtype=torch.float32)[order].view(-1, 1, 8, 8) / 16.0, torch.tensor(labels)[order]
    wrong = torch.randperm(TRAIN, generator=draw)[:WRONG]
    y[wrong] = (y[wrong] + torch.randint(1, 10, (WRONG,), generator=draw)) % 10
    return X, y, wrong


def train(data, seed):
    """Two convolutions and a linear layer, by SGD with momentum and a falling rate."""
    X, y = data
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    for _ in range(50):
        for rows in torch.split(torch.randperm(len(y)), 50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def compute():
    """The deletion, and the models beside those that never saw the wrong labels."""
    X, y, wrong = digits()
    keep = torch.ones(TRAIN, dtype=torch.bool)
    keep[wrong] = False
    model = train((X[:TRAIN], y[:TRAIN]), 0)
    unlearner = Unlearner(
        model, "cross_entropy", (X[:TRAIN], y[:TRAIN]), weight_decay=WEIGHT_DECAY, selector="all", random_state=0
    )
    deletion = unlearner.forget(wrong)
    result = evaluate(
        {"original": model, "unlearned": unlearner},
        retain=(X[:TRAIN][keep], y[:TRAIN][keep]),
        forget=(X[wrong], y[wrong]),
        test=(X[TRAIN:], y[TRAIN:]),
        train=train,
    )
    with torch.no_grad():
        said = unlearner.model(X[wrong]).argmax(1)
    return deletion, result, X[wrong], y[wrong], said


def draw(result, images, labels, said):
    """Twelve of the images, what they were called and are called now; below, the models."""
    figure = plt.figure(figsize=(10.5, 3.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.0, 1.25))
    for axis, image, label, new in zip(upper.subplots(1, 12), images, labels, said, strict=False):
        axis.imshow(image[0].numpy(), cmap="gray_r")
        axis.set_title(f"{label} → {new}", fontsize="small")
        axis.set_axis_off()
    result.plot(["forget_accuracy", "test_accuracy", "test_disagreement"], lower.subplots(1, 3))
    for axis in lower.axes[1:]:
        axis.set_yticklabels([])
    return figure


if __name__ == "__main__":
    deletion, result, *found = compute()
    draw(result, *found).savefig(OUTPUT, dpi=140)
    print(deletion)
    print(result)
    print(f"wrote {OUTPUT.name}")
