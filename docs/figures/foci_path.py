"""Draw the figure of the README: FOCI chooses the pixels that tell handwritten digits apart.

The pixels are chosen on a training half; the accuracy of a nearest-neighbour classifier on the other
half, which the selection never saw, checks the point where FOCI stops. ``make figures`` runs this.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from codec import foci
from codec.plotting import SelectionPathDisplay

OUTPUT = Path(__file__).parents[1] / "_static" / "foci_digits.png"
N_NEIGHBORS, N_STEPS = 5, 40
INK, BLUE, ORANGE, GREY = "#22303c", "#1f6f8b", "#d1652a", "#b4bcc2"


def compute():
    """Select on one half, classify the other with every prefix of the path."""
    X, y = load_digits(return_X_y=True, as_frame=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=0)
    varying = X_train.columns[X_train.nunique() > 1]
    options = {"n_neighbors": N_NEIGHBORS, "nominal_y": True, "n_jobs": -1}
    path = foci(X_train[varying], y_train, stop=False, max_features=N_STEPS, **options)

    def accuracy(columns):
        model = KNeighborsClassifier().fit(X_train[columns], y_train)
        return model.score(X_test[columns], y_test)

    scores = [accuracy(list(path.names[: k + 1])) for k in range(len(path))]
    return (
        X_train.to_numpy().mean(axis=0).reshape(8, 8),
        path,
        SelectionPathDisplay(path).n_kept,
        scores,
        accuracy(list(X.columns)),
    )


def draw(image, path, n_kept, scores, score_all):
    plt.rcParams.update({"font.size": 10, "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.6, 3.7), width_ratios=(1.75, 1), layout="constrained", facecolor="white"
    )
    draw_path(left, path, n_kept, scores, score_all)
    draw_pixels(right, image, path, n_kept)
    return figure


def draw_path(axes, path, n_kept, scores, score_all):
    steps = np.arange(1, len(path) + 1)
    axes.axvspan(0.5, n_kept + 0.5, color=BLUE, alpha=0.06, linewidth=0)
    axes.axvline(n_kept + 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.axhline(score_all, color=ORANGE, linewidth=1, linestyle=(0, (1, 2)))
    axes.plot(steps[:n_kept], path.cumulative[:n_kept], color=BLUE, marker="o", markersize=4)
    axes.plot(steps[n_kept - 1 :], path.cumulative[n_kept - 1 :], color=GREY, marker="o", markersize=4, zorder=1)
    axes.plot(steps, scores, color=ORANGE, linewidth=1.8)
    axes.text(6.3, 0.50, "T(digit, pixels so far)", color=BLUE)
    axes.text(1.1, 0.85, "accuracy on\nunseen digits", color=ORANGE)
    axes.text(len(path), score_all + 0.012, f"all 64 pixels: {score_all:.1%}", color=ORANGE, ha="right", va="bottom")
    axes.text(n_kept + 1, 0.06, f"FOCI stops by itself\n{n_kept} pixels: {scores[n_kept - 1]:.1%}", va="bottom")
    axes.set(xlim=(0.5, len(path) + 0.5), ylim=(0, 1.07), xlabel="pixels, in order of entry")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.spines[["top", "right"]].set_visible(False)


def draw_pixels(axes, image, path, n_kept):
    axes.imshow(image, cmap="Greys", vmin=0, vmax=24)
    for rank, name in enumerate(path.names[:n_kept], 1):
        row, column = map(int, name.removeprefix("pixel_").split("_"))
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=BLUE, linewidth=1.8)
        axes.add_patch(box)
        axes.text(column, row, str(rank), color=BLUE, ha="center", va="center", fontsize=9, fontweight="bold")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(GREY)
    axes.set_title("the pixels chosen, over the mean image", fontsize=10, color=INK)


if __name__ == "__main__":
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    draw(*compute()).savefig(OUTPUT, dpi=160)
    print(f"wrote {OUTPUT.relative_to(Path.cwd()) if OUTPUT.is_relative_to(Path.cwd()) else OUTPUT}")
