"""Face identification: one identity is removed image by image from a VGG-style network; the others must stay.

FOLDER/faces/<identity>/*.jpg or png are the user's images (n identities of 30 images and more, read with Pillow, grey,
32 x 32); without them faces are drawn: an identity is its proportions, an image its pose, light and expression.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _common  # isort: split

import _harness
import _networks
import numpy as np
import torch
from _common import Figure, Note, Panel, Table, mean, over_seeds, repeated, seeds, seeds_of
from torch import Tensor, nn

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._training import Recipe

DECAY = 5e-4
SIDE = 32
PAPER = 0.15  # residual accuracy after 20 removals
FIGURES = ("identity", "residual", "forgotten", "forget loss", "residual training", "refused", "CPU s")
Row = dict[str, Any]


# ---------------------------------------------------------------------- faces
def drawn(n_identities: int, n_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey faces (n, 1, 32, 32) and their identities, image by image in turn."""
    rng = np.random.default_rng(seed)
    proportions = rng.uniform(-1.0, 1.0, (n_identities, 9))
    images = [_face(p, rng) for p in proportions for _ in range(n_images)]
    labels = np.repeat(np.arange(n_identities), n_images)
    return torch.tensor(np.stack(images), dtype=torch.float32)[:, None], torch.tensor(labels)


def _face(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One image: head, hair, eyes, brows, nose and mouth of these proportions."""
    v, u = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    turn, scale = rng.normal(0, 0.08), rng.normal(1.0, 0.05)
    u, v = (u - rng.normal(0, 0.05)) / scale, (v - rng.normal(0, 0.05)) / scale
    u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)

    def spot(x: float, y: float, width: float, height: float) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(np.clip(12 * (((u - x) / width) ** 2 + ((v - y) / height) ** 2 - 1), -30, 30)))

    mood = rng.normal(0, 0.3)
    face = 0.55 + 0.2 * p[0]
    image = face * spot(0, 0.05, 0.62 + 0.1 * p[1], 0.85)
    image += (0.15 + 0.3 * p[2] - image) * spot(0, -0.85 + 0.12 * p[3], 0.75, 0.35)
    for side in (-1, 1):
        apart = side * (0.27 + 0.07 * p[4])
        image -= 0.45 * spot(apart, -0.1, 0.1 + 0.03 * p[5], 0.07)
        image -= 0.3 * spot(apart, -0.27 - 0.05 * p[6] - 0.03 * mood, 0.15, 0.04)
    image -= 0.2 * spot(0, 0.15, 0.05, 0.18 + 0.07 * p[7])
    image -= 0.4 * spot(0, 0.5 + 0.04 * mood, 0.25 + 0.09 * p[8], 0.06 + 0.03 * abs(mood))
    light = 1.0 + 0.25 * (rng.normal() * u + rng.normal() * v) + rng.normal(0, 0.1)
    return (image * light + rng.normal(0, 0.06, image.shape) - 0.35) / 0.3


def given(folder: Path, n_images: int) -> tuple[Tensor, Tensor]:
    """The user's faces, the same number of each identity."""
    from PIL import Image

    images, labels = [], []
    for identity in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in identity.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        if len(files) >= n_images:
            pixels = [np.asarray(Image.open(file).convert("L").resize((SIDE, SIDE))) for file in files[:n_images]]
            images += pixels
            labels += [len(labels) // n_images] * n_images
    if not images:
        raise SystemExit(f"{folder} holds no identity with {n_images} images or more.")
    return torch.tensor(np.stack(images) / 255.0 - 0.5, dtype=torch.float32)[:, None] / 0.25, torch.tensor(labels)


def read(folder: Path, quick: bool, seed: int) -> tuple[_networks.Data, str]:
    """Two thirds of each identity's images to train on; and where the faces are from."""
    n_identities, n_images = (12, 15) if quick else (30, 30)
    users = folder / "faces"
    theirs = not quick and users.exists()
    x, y = given(users, n_images) if theirs else drawn(n_identities, n_images, seed)
    first = torch.arange(len(y)) % n_images < 2 * n_images // 3
    source = f"{int(y.max()) + 1} {'given' if theirs else 'drawn'} identities, {n_images} images each"
    return _networks.Data(x[first], y[first], x[~first], y[~first]), source


# ---------------------------------------------------------------------- the experiment
def look(model: nn.Module, data: _networks.Data, gone: Sequence[int]) -> Row:
    """Test accuracy on the identity that goes, and on all others."""
    logits, own = _networks.outputs(model, data.test_x), data.test_y == 0
    found = _networks.measured(model, data, gone)
    return {
        "identity": _networks.accuracy(logits[own], data.test_y[own]),
        "residual": _networks.accuracy(logits[~own], data.test_y[~own]),
        "forgotten": found["forgotten"],
        "forget loss": found["forget loss"],
        "residual training": found["residual"],
    }


def in_batches(unlearner: Unlearner, batches: Sequence[Sequence[int]], data: _networks.Data) -> list[Row]:
    """What stands after each request."""
    rows, seconds, refused = [], 0.0, 0
    for batch in batches:
        start = time.process_time()
        refused += not unlearner.forget(batch).accepted
        seconds += time.process_time() - start
        removed = sum(d.accepted * len(d.forgotten) for d in unlearner.deletions)
        gone = [i for d in unlearner.deletions for i in d.forgotten]
        cost = {"removed": len(gone), "CPU s": round(seconds, 3), "refused": refused, "in the model": removed}
        rows.append(cost | look(unlearner.model, data, gone))
    return rows


def experiment(
    data: _networks.Data, size: int, width: int, recipe: Recipe, seed: int, keep: _harness.Kept
) -> dict[str, list[Row]]:
    """Identity 0 goes, `size` images a request, in every way."""
    n_identities = int(data.y.max()) + 1

    def trained(gone: Sequence[int] = (), other: int = 0) -> nn.Module:
        make = partial(_networks.vgg11, width, n_identities, channels=1)
        return _networks.fit(make, data.x, data.y, recipe, weight_decay=DECAY, seed=seed + other, without=gone)

    queue = (data.y == 0).nonzero()[:, 0].tolist()
    batches = [queue[i : i + size] for i in range(0, len(queue), size)]
    model = trained()
    problem = Problem(model, "cross_entropy", (data.x, data.y), weight_decay=DECAY)
    few = _networks.few_units(model)
    settings = {"weight_decay": DECAY, "captured": False, "max_units": few, "random_state": seed}
    ways = {"ours, L-FOCI": "lfoci", "ours, gradient norm": "gradient_norm", "ours, all units": "all"}

    def ours(selector: str) -> list[Row]:
        unlearner = Unlearner(model, "cross_entropy", (data.x, data.y), selector=selector, **settings)
        return in_batches(unlearner, batches, data)

    found = {name: keep(f"{seed}, {name}", partial(ours, selector)) for name, selector in ways.items()}

    def others(other: str) -> list[Row]:
        rows, gone = [], []
        for batch in batches:
            gone += batch
            if "seed" in other and len(gone) < len(queue):
                continue  # the noise between seeds, once
            start = time.process_time()
            if other == "the paper's step":
                after = _networks.loaded(model, baselines.paper_step(problem, gone).parameters)
            else:
                after = model if other == "nothing" else trained(gone, int("seed" in other))
            cost = {"removed": len(gone), "refused": 0, "CPU s": round(time.process_time() - start, 3)}
            rows.append(cost | look(after, data, gone))
        return rows

    for name in ("the paper's step", "nothing", "retrained", "retrained, other seed"):
        found[name] = keep(f"{seed}, {name}", partial(others, name))
    return found


def reach(last: dict[str, Row]) -> Note:
    """How far the identity is forgotten, beside retraining."""
    ours, retrained = ({k: mean(v) for k, v in last[name].items()} for name in ("ours, L-FOCI", "retrained"))
    return Note(
        f"The identity is recognised on {ours['identity']:.0%} of its test images, the others on {ours['residual']:.1%} "
        f"(retrained {retrained['identity']:.0%} and {retrained['residual']:.1%}). The loss of its training images rises to "
        f"{ours['forget loss']:.1f} where the retrained network, which has never seen them, has {retrained['forget loss']:.1f}: "
        "damped steps unlearn the answer, not all that made it certain."
    )


def behind(found: dict[str, list[Row]]) -> list[Note]:
    """Where ours takes longer than retraining, or ends with a lower accuracy on the others than doing nothing."""
    words = _networks.shortfalls({name: rows[-1] for name, rows in found.items()}, "residual")
    each = sum(mean(row["CPU s"]) for row in found["retrained"])
    n = len(found["retrained"])
    cost = (
        f"Its times are of all {n} requests together; retraining after each of them takes {_common.cell(each)} CPU s."
    )
    return [Note(f"{words} {cost}")] if words else []


def run(arguments: Any) -> list[Any]:
    """One network and one identity a seed."""
    size, width = (5, 4) if arguments.quick else (4, 8)
    recipe = Recipe(epochs=20, lr=0.05, batch_size=20 if arguments.quick else 40, schedule="cosine")
    runs = []
    for seed in seeds_of(arguments):
        data, source = read(arguments.data, arguments.quick, seed)
        runs.append(experiment(data, size, width, recipe, seed, arguments.keep))
    found = {name: over_seeds([run[name] for run in runs]) for name in runs[0]}
    last = {name: rows[-1] for name, rows in found.items()}
    most = round(mean(last["retrained"]["removed"]))
    cells = [[name, *(row[c] for c in FIGURES)] for name, row in last.items()]
    paper = [PAPER if name == "ours, L-FOCI" and most == 20 else None for name in last]
    panels = [
        Panel(
            title,
            "images removed",
            "accuracy",
            lines=[
                {"label": name, "x": [mean(r["removed"]) for r in rows], "y": [mean(r[c]) for r in rows]}
                for name, rows in found.items()
            ],
        )
        for title, c in (("the identity that goes", "identity"), ("all others", "residual"))
    ]
    return [
        Table("removed", f"All {most} images of one identity removed: {source}{repeated(arguments)}", ["model", *FIGURES], cells, paper=paper, against="residual", note=NOTE),
        Figure("path", "Test accuracy while one identity goes", panels, across=2),
        reach(last),
        *([] if arguments.quick else [*behind(found), Note(SIZES)]),
    ]  # fmt: skip


NOTE = (
    "Identity and residual: test images of the identity that goes, and of all others. The units of L-FOCI and of "
    "the gradient norm are of all layers; all else is the default, the automatic damping too. Every seed has other faces. "
    + _networks.STEP_ON_ALL
)
SIZES = (
    "The paper takes VGG-Face and celebrities; here faces are drawn and the network is VGG-11 with an eighth of the "
    "channels. Not run here: photographs, which FOLDER/faces takes."
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    options = _common.parser(__doc__)
    seeds(options)
    title = "Faces: removal of one identity"
    return _common.main(run, name="faces", title=title, options=options, arguments=arguments)


if __name__ == "__main__":
    main()
