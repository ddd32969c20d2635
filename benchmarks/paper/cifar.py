"""CIFAR-10: many deletions from ResNet-18, VGG-11, MobileNet and DenseNet, and the accuracy on what stays.

FOLDER has cifar10_subset.npz (10,000 images), or the full set as cifar-10-batches-bin. The networks are the published
ones; ``--width`` is the share of their channels, 1 for the paper's size. ``--quick`` takes digits and a few requests.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import _common  # isort: split

import _networks
import torch
from _common import Figure, Note, Panel, Table
from torch import nn

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._training import Recipe

DECAY = 5e-4
TARGET = 0.97  # of its start, what ResNet-18 should keep when all units change
SAME_AUC = 0.02  # membership AUCs that differ by less count as one
PAPER = {"ResNet-18": 0.95, "VGG-11": None, "MobileNet": 0.66, "DenseNet": 0.58}
OURS, FEW, WHOLE = "ours, last layer", "ours, L-FOCI units, one request", "ours, all units, one request"
THEIRS = "the paper's step"
WAYS = {"last layer": OURS, "L-FOCI units": FEW, "all units": WHOLE}
COLUMNS = (
    "residual", "residual / start", "test", "forgotten", "forget loss", *_networks.BESIDE, "refused", "CPU s a deletion",
)  # fmt: skip
Row = dict[str, Any]
Look = Callable[[nn.Module, Sequence[int]], Row]


def networks(width: float) -> dict[str, Callable[[], _networks.Network]]:
    """Each network with a share of its channels; of very few, torch 2.13 corrupts its memory in the faster format."""
    form = torch.channels_last if width >= 1 / 8 else torch.contiguous_format
    makers = {
        "ResNet-18": lambda: _networks.resnet18(round(64 * width)),
        "VGG-11": lambda: _networks.vgg11(round(64 * width)),
        "MobileNet": lambda: _networks.mobilenet(round(32 * width)),
        "DenseNet": lambda: _networks.densenet(max(4, round(12 * width)), depth=4 if width == 1 else 2),
    }
    return {name: lambda make=make: make().to(memory_format=form) for name, make in makers.items()}


def with_head(model: _networks.Network, head: nn.Linear) -> _networks.Network:
    """The network with another last layer."""
    model = copy.deepcopy(model)
    model.head = copy.deepcopy(head)
    return model


def last_layer(
    model: _networks.Network, data: _networks.Data, queue: Sequence[int], marks: Sequence[int]
) -> tuple[list[Row], dict[str, nn.Module]]:
    """One sample a request from the last layer, on features that are computed once; and the paper's step there."""
    features, tested = (_networks.outputs(model.features, x) for x in (data.x, data.test_x))
    heads = _networks.Data(features, data.y, tested, data.test_y)

    def looked(head: nn.Module, gone: Sequence[int]) -> Row:
        return _networks.measured(head, heads, gone)

    unlearner = Unlearner(
        model.head,
        "cross_entropy",
        (features, data.y),
        weight_decay=DECAY,
        selector="all",
        captured=False,
        random_state=0,
    )
    ours = _networks.one_by_one(unlearner, queue, marks, looked)
    problem, theirs = Problem(model.head, "cross_entropy", (features, data.y), weight_decay=DECAY), []
    for k in marks:
        start = time.process_time()
        head = _networks.loaded(problem.model, baselines.paper_step(problem, list(queue[:k])).parameters)
        cost = {"deleted": k, "CPU s a deletion": round((time.process_time() - start) / k, 4), "refused": 0}
        theirs.append(cost | looked(head, queue[:k]))
    rows = [{"model": OURS} | row for row in ours] + [{"model": THEIRS} | row for row in theirs]
    return rows, {OURS: with_head(model, unlearner.model), THEIRS: with_head(model, head)}


def one_request(
    name: str, model: nn.Module, data: _networks.Data, gone: Sequence[int], look: Look, max_units: int | None
) -> tuple[Row, nn.Module]:
    """One request for all of the samples, on units of all layers; all else is the default."""
    unlearner = Unlearner(
        model, "cross_entropy", (data.x, data.y), weight_decay=DECAY, captured=False, max_units=max_units,
        batch_size=250, random_state=0,
    )  # fmt: skip
    start = time.process_time()
    deletion = unlearner.forget(list(gone))
    seconds = round((time.process_time() - start) / len(gone), 4)
    about = {"model": name, "deleted": len(gone), "CPU s a deletion": seconds, "refused": int(not deletion.accepted)}
    return about | look(unlearner.model, gone), unlearner.model


def experiment(
    make: Callable[[], nn.Module],
    data: _networks.Data,
    queue: Sequence[int],
    marks: Sequence[int],
    recipe: Recipe,
    seed: int,
) -> list[Row]:
    """One network: trained, retrained, and every way to delete."""
    gone = list(queue[: max(marks)])
    model = _networks.fit(make, data.x, data.y, recipe, weight_decay=DECAY, seed=seed)

    def look(model: nn.Module, gone: Sequence[int]) -> Row:
        return _networks.measured(model, data, gone)

    at_start = look(model, gone)
    start = time.process_time()
    retrained = _networks.fit(make, data.x, data.y, recipe, weight_decay=DECAY, seed=seed, without=gone)
    seconds = time.process_time() - start
    fixed = {"deleted": len(gone), "refused": 0, "CPU s a deletion": None}
    rows, models = last_layer(model, data, queue, marks)
    for name, most in ((FEW, _networks.few_units(model)), (WHOLE, None)):
        row, models[name] = one_request(name, model, data, gone, look, most)
        rows.append(row)
    spent = {"CPU s a deletion": round(seconds / len(gone), 4)}
    rows += [
        {"model": "retrained"} | fixed | spent | look(retrained, gone),
        {"model": "nothing"} | fixed | at_start,
    ]
    beside = _networks.beside_retrained({"nothing": model, "retrained": retrained} | models, data, gone)
    whole = [row | beside[row["model"]] if row["deleted"] == len(gone) else row for row in rows]
    return [row | {"residual / start": row["residual"] / at_start["residual"]} for row in whole]


# ---------------------------------------------------------------------- what is shown
def after(found: dict[str, list[Row]], most: int, title: str) -> Table:
    """Every model after the last deletion."""
    rows = [(name, row) for name, rows in found.items() for row in rows if row["deleted"] == most]
    paper = [PAPER[name] if row["model"] == OURS else None for name, row in rows]
    cells = [[name, row["model"], *(row[c] for c in COLUMNS)] for name, row in rows]
    return Table("after", title, ["network", "model", *COLUMNS], cells, paper=paper, against="residual", note=NOTE)


def path(found: dict[str, list[Row]]) -> Figure:
    """Residual accuracy along the deletions."""

    def panel(name: str, rows: list[Row]) -> Panel:
        lines = []
        for model in (OURS, THEIRS):
            some = [row for row in rows if row["model"] == model]
            lines.append({"label": model, "x": [r["deleted"] for r in some], "y": [r["residual"] for r in some]})
        marks = [
            {"label": row["model"], "x": [row["deleted"]], "y": [row["residual"]]}
            for row in rows
            if row["model"] in {WHOLE, "retrained"}
        ]
        return Panel(name, "deleted", "accuracy on what stays", lines=lines, marks=marks, xlog=True)

    return Figure("path", "Accuracy on what stays, along the deletions", [panel(*item) for item in found.items()])


def finding(found: dict[str, list[Row]]) -> Note:
    """What is kept, and what is forgotten."""
    said = []
    for name, rows in found.items():
        last = {row["model"]: row for row in rows if row["deleted"] == max(r["deleted"] for r in rows)}
        seen = {"at the start": "nothing"} | WAYS | {"retrained": "retrained"}
        aucs = ", ".join(f"{label} {last[model]['membership AUC']:.2f}" for label, model in seen.items())
        kept = ", ".join(f"{last[model]['residual / start']:.3f} ({label})" for label, model in WAYS.items())
        said.append(f"{name} keeps {kept} of its residual accuracy; membership AUC: {aucs}.")
        if name == "ResNet-18":
            said.append(beside_target(last))
        if abs(last["nothing"]["membership AUC"] - last["retrained"]["membership AUC"]) < SAME_AUC:
            said.append(f"{name} starts at the AUC of a retrained network, so that nothing can be seen there.")
    return Note(
        " ".join(
            [*said, "The last layer alone keeps the network and hardly forgets: the features still know the images."]
        )
    )


def beside_target(last: dict[str, Row]) -> str:
    """How all units compare with the target, and with retraining."""
    kept, retrained = (last[model]["residual / start"] for model in (WHOLE, "retrained"))
    words = "misses" if kept < TARGET else "reaches"
    return (
        f"On all units it {words} the target of {TARGET:g} of its start: the request keeps {kept:.3f}, and a network that was "
        f"retrained without the images keeps {retrained:.3f}."
    )


def run(arguments: Any) -> list[Any]:
    """All networks, or those that are named."""
    quick = arguments.quick
    data = _networks.cifar(arguments.data, 120 if quick else arguments.n, quick)
    marks = [1, 6] if quick else [1, 10, 100, 300, 1000]
    recipe = Recipe(epochs=6 if quick else 8, lr=0.05, batch_size=30 if quick else 100, schedule="cosine")
    queue = torch.randperm(data.n, generator=torch.Generator().manual_seed(arguments.seed)).tolist()
    width = 1 / 32 if quick else arguments.width
    wanted = {name: make for name, make in networks(width).items() if name in arguments.networks}
    found = {
        name: arguments.keep(name, partial(experiment, make, data, queue, marks, recipe, arguments.seed))
        for name, make in wanted.items()
    }
    size = f"{data.n:,} images, {width:.3g} of the channels, {max(marks):,} deleted"
    if quick:
        return [after(found, max(marks), f"After the last deletion: {size}"), path(found)]
    parameters = {name: sum(p.numel() for p in make().parameters()) for name, make in wanted.items()}
    sizes = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
    missing = ", ".join(name for name in PAPER if name not in wanted)
    note = Note(
        f"Weights: {sizes}. The paper has 50,000 images and networks of full width; its numbers are for those."
        + (f" Not run here for want of time: {missing}." if missing else "")
    )
    return [after(found, max(marks), f"After the last deletion: {size}"), path(found), finding(found), note]


NOTE = (
    "Residual: accuracy on the training images that stay. The last layer forgets one image a request, on features that "
    "stay as they are. The others answer one request for all of the images: on units of every layer that L-FOCI chooses, as "
    "many as the default takes for a single image, and on all units, the default for so many. "
    + _networks.STEP.format(where="the last layer")
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    options = _common.parser(__doc__)
    options.add_argument("--n", type=int, default=4_000, help="training images")
    options.add_argument("--width", type=float, default=1 / 8, help="share of the networks' channels")
    options.add_argument("--networks", nargs="+", default=list(PAPER), choices=list(PAPER), help="default: all")
    title = "CIFAR-10: many deletions"
    return _common.main(run, name="cifar", title=title, options=options, arguments=arguments)


if __name__ == "__main__":
    main()
