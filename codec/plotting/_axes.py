"""Axes, colours and frames that all displays share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

KEPT, BEYOND, NOTED = "#1f6f8b", "#b8b8b8", "#d1652a"
LABELS_PER_INCH = 6.0
LONGEST_NAME = 28


def pyplot() -> Any:
    """matplotlib.pyplot, or what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'codec[plot]'") from error
    return plt


def check_drawn(value: object, argument: str, attribute: str, wanted: str) -> None:
    """Refuse what a display cannot draw, by what it holds."""
    if not hasattr(value, attribute):
        raise TypeError(f"{argument} is a {type(value).__name__}; it must be {wanted}.")


def ink() -> str:
    """The colour of text, which is seen on the background whatever the style."""
    from matplotlib import rcParams

    return str(rcParams["text.color"])


def new_axes(n_steps: int, height: float = 3.8) -> Axes:
    """Axes of a new figure, wide enough for the names of that many steps."""
    plt = pyplot()
    width = max(5.6, math.ceil(2.0 + n_steps / LABELS_PER_INCH * 2.0))
    axes: Axes = plt.subplots(figsize=(min(width, 16.0), height), layout="constrained")[1]
    return axes


def short(names: Iterable[object]) -> list[str]:
    """Names that leave room for the plot: of long ones the beginning and the end, or what tells them apart.

    As they are: matplotlib would read what stands between two dollars as a formula.
    """
    whole = [str(name) for name in names]
    alike: dict[str, set[str]] = {}
    for name in whole:
        alike.setdefault(_cut(name), set()).add(name)
    found = [_cut(name) if len(alike[_cut(name)]) == 1 else _told_apart(name, alike[_cut(name)]) for name in whole]
    return [name.replace("$", r"\$") for name in found]


def _told_apart(name: str, others: set[str]) -> str:
    """From a little before the first character in which names differ; whole if that is not enough."""
    start = max(0, len(commonprefix(sorted(others))) - LONGEST_NAME // 3)  # noqa: RUF071 - of text, no path
    found = {other: _cut(f"\N{HORIZONTAL ELLIPSIS}{other[start:]}") for other in others}
    return found[name] if len({*found.values()}) == len(others) else name


def _cut(text: str) -> str:
    kept = LONGEST_NAME - 1
    return (
        text
        if len(text) <= LONGEST_NAME
        else f"{text[: kept - kept // 3]}\N{HORIZONTAL ELLIPSIS}{text[-(kept // 3) :]}"
    )


def finish(axes: Axes, columns: int = 2, lines: Iterable[Line2D] = ()) -> None:
    """Take away the frame, explain the colours: of these lines, whatever they are called, or of all that have a label."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    named = [*lines]
    shown = {"handles": named, "labels": [str(line.get_label()) for line in named]} if named else {}
    if named or axes.get_legend_handles_labels()[0]:
        axes.legend(
            **shown, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, fontsize="small"
        )
