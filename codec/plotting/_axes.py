"""Axes, colours and frames that all displays share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT, BEYOND, NOTED = "#1f6f8b", "#b8b8b8", "#d1652a"
LABELS_PER_INCH = 6.0
LONGEST_NAME = 28


def new_axes(n_steps: int, height: float = 3.8) -> Axes:
    """Axes of a new figure, wide enough for the names of that many steps."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'codec[plot]'") from error
    width = max(5.6, math.ceil(2.0 + n_steps / LABELS_PER_INCH * 2.0))
    _, axes = plt.subplots(figsize=(min(width, 16.0), height), layout="constrained")
    return axes


def short(name: object) -> str:
    """A name that leaves room for the plot: its beginning and its end."""
    text = str(name)
    if len(text) <= LONGEST_NAME:
        return text
    kept = LONGEST_NAME - 1
    return f"{text[: kept - kept // 3]}\N{HORIZONTAL ELLIPSIS}{text[-(kept // 3) :]}"


def finish(axes: Axes, columns: int = 2) -> None:
    """Take away the frame, explain the colours."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, fontsize="small")
