"""What every experiment of the paper shares: options, tables and figures as data, drawing, the JSON.

An experiment is a script with ``run(arguments)``, which returns tables, figures and notes, and a ``main()`` that
hands it to :func:`main`. Figures are numbers in the JSON; :func:`draw` makes the picture, so that the page and the
documentation show the same. Import this module before numpy: it limits the libraries below numpy to one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import _harness

os.environ.update({name: "1" for name in _harness.THREADS if name not in os.environ})

EXPERIMENTS = ("blankets", "celeba", "spurious", "mnist", "cifar", "kfac", "text", "faces", "reid")
FULL = _harness.RESULTS / "paper"
QUICK = _harness.ROOT / "build" / "paper"
PACKAGES = ("codec", "numpy", "scipy", "scikit-learn", "numba", "torch", "transformers")
TIME = "CPU s"  # a column whose name holds this is a time: all others are the same for the same seed


# ---------------------------------------------------------------------- what an experiment returns
@dataclass(frozen=True)
class Table:
    """Rows of numbers beside the paper's.

    A cell is a number, a text, None, or a pair (mean, standard error). `paper` holds one cell a row, the number the
    paper reports for the column `against`; leave both out where it reports none.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    paper: Sequence[Any] = ()
    against: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.name}: {len(self.columns)} columns, but a row is {wrong[0]}.")
        if self.paper and (len(self.paper) != len(self.rows) or self.against not in self.columns):
            raise ValueError(f"table {self.name}: paper needs a cell for each row and a column to stand against.")


@dataclass(frozen=True)
class Panel:
    """One pair of axes: lines {label, x, y}, marks {label, x, y}, an image (rows of numbers), or bars {label, y}."""

    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    lines: Sequence[dict[str, Any]] = ()
    marks: Sequence[dict[str, Any]] = ()
    bars: Sequence[dict[str, Any]] = ()
    image: Sequence[Sequence[float]] = ()
    xlog: bool = False
    diagonal: bool = False


@dataclass(frozen=True)
class Figure:
    """Panels side by side, in rows of `across`."""

    name: str
    title: str
    panels: Sequence[Panel]
    across: int = 4
    note: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph: what was found, what was not run and why."""

    text: str


Item = Table | Figure | Note


# ---------------------------------------------------------------------- several seeds
def over_seeds(runs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several seeds as one: numbers as (mean, standard error), None where one is None; texts as they are.

    The rows of a single seed stay as they are.
    """
    if len(runs) == 1:
        return list(runs[0])
    return [{key: _over([row.get(key) for row in same]) for key in same[0]} for same in zip(*runs, strict=True)]


def _over(values: Sequence[Any]) -> Any:
    if any(value is None for value in values):
        return None
    if isinstance(values[0], (str, list)):
        return values[0]
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def mean(cell: Any) -> Any:
    """The number of a cell without its standard error."""
    return cell[0] if isinstance(cell, (list, tuple)) else cell


def seeds(options: argparse.ArgumentParser) -> None:
    """The option of experiments that are repeated."""
    options.add_argument("--repeat", type=int, help="seeds, from --seed on; 3, or 1 if quick")


def seeds_of(arguments: argparse.Namespace) -> range:
    """The seeds of an experiment that is repeated."""
    return range(arguments.seed, arguments.seed + (arguments.repeat or (1 if arguments.quick else 3)))


def repeated(arguments: argparse.Namespace) -> str:
    """What stands behind a title when cells are means over seeds."""
    n_seeds = len(seeds_of(arguments))
    return f"; mean ± standard error over {n_seeds} seeds" if n_seeds > 1 else ""


# ---------------------------------------------------------------------- the script
def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all experiments have; a script may add its own."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data", help="folder with data")
    options.add_argument("--quick", action="store_true", help="small settings, seconds")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--output", type=Path, help="folder of the JSON; benchmarks/results/paper, build/paper if quick"
    )
    return options


def main(
    run: Callable[[argparse.Namespace], Sequence[Item]],
    *,
    name: str,
    title: str,
    options: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Parse, run, print the tables, write NAME.json; return what was written.

    `run` finds in `arguments` what the parser read and ``keep``, a :class:`_harness.Kept`; where it shows what was measured
    before, it leaves the ``environment`` of that there.
    """
    parsed = options.parse_args(arguments)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    folder = parsed.output or (QUICK if parsed.quick else FULL)
    settings = {key: value for key, value in vars(parsed).items() if not isinstance(value, Path) and key != "output"}
    parsed.keep = _harness.Kept(folder / f"{name}.partial.json", settings)
    items = list(run(parsed))
    report = {
        "experiment": EXPERIMENTS.index(name) + 1,
        "name": name,
        "title": title,
        "settings": settings,
        "sources": parsed.keep.sources,
        "cpu_s": parsed.keep.cpu_s,
        "environment": getattr(parsed, "environment", None) or _harness.environment(PACKAGES),
        "items": [{"kind": type(item).__name__.lower(), **asdict(item)} for item in items],
    }
    for item in items:
        print(text(item), flush=True)
    path = folder / f"{name}.json"
    _harness.write_json(report, path)
    parsed.keep.path.unlink(missing_ok=True)
    stored: dict[str, Any] = json.loads(path.read_text())
    return stored


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports in a folder by name, in the order of the experiments; ``more`` are runs in folders below it."""
    paths = {name: folder / f"{name}.json" for name in EXPERIMENTS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    for name, report in found.items():
        report["more"] = [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{name}.json"))]
    return found


# ---------------------------------------------------------------------- tables as text
def cell(value: Any) -> str:
    """Three digits of a number; of a pair mean ± error, two digits of the error."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        mean, error = value
        return f"{cell(mean)} ± {error if error > 1e-12 * abs(mean) else 0:.2g}"  # rounding is no error
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 99.95 else f"{value:.3g}" if size >= 1e-3 or not size else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def grid(table: dict[str, Any]) -> list[list[str]]:
    """Header and rows of a table as text, the paper's numbers last."""
    header, rows = list(table["columns"]), [[cell(value) for value in row] for row in table["rows"]]
    if table["paper"]:
        header.append(f"{table['against']}, the paper")
        rows = [[*row, cell(value)] for row, value in zip(rows, table["paper"], strict=True)]
    return [header, *rows]


def text(item: Item) -> str:
    """What the terminal shows."""
    if isinstance(item, Note):
        return item.text
    if isinstance(item, Figure):
        return f"[figure {item.name}: {item.title}]"
    lines = grid(asdict(item))
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = ["  ".join(part.ljust(w) for part, w in zip(line, width, strict=True)).rstrip() for line in lines]
    return "\n".join([item.title, *body, item.note]).rstrip() + "\n"


# ---------------------------------------------------------------------- figures
DECADES = 1e4  # a panel whose lines span more has a logarithmic axis
COLOURS = ("#1f6f8b", "#d1652a", "#5b8c3a", "#8c4f9f", "#c9a227", "#b03a48", "#4a4a4a", "#56b4c9")


def looks(panels: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of every label, the same in all panels."""
    labels = dict.fromkeys(item["label"] for panel in panels for item in (*panel["lines"], *panel["marks"]))
    dashes = ("-", "--", ":")
    return {
        label: {"color": COLOURS[i % len(COLOURS)], "ls": dashes[i // len(COLOURS) % len(dashes)]}
        for i, label in enumerate(labels)
    }


def draw(figure: dict[str, Any]) -> Any:
    """A matplotlib figure of the numbers of a report; one legend for all panels."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    panels = figure["panels"]
    across = min(figure["across"], len(panels))
    down, look = -(-len(panels) // across), looks(panels)
    columns = max(1, min(3, across, len(look)))
    height = 3.0 * down + 0.22 * -(-len(look) // columns)
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}):
        picture = Picture(figsize=(max(3.6 * across, 5.4), height), layout="constrained")
        FigureCanvasAgg(picture)
        handles: dict[str, Any] = {}
        for place, panel in enumerate(panels):
            handles |= _draw_panel(picture.add_subplot(down, across, place + 1), panel, look)
        if handles:
            picture.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)
    return picture


def _draw_panel(axes: Any, panel: dict[str, Any], look: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Draw; return what the legend names."""
    from matplotlib.ticker import NullFormatter

    handles = {}
    if panel["image"]:
        axes.imshow(panel["image"], cmap="magma")
        axes.set_axis_off()
    for line in panel["lines"]:
        marker = "o" if len(line["x"]) <= 8 and not panel["diagonal"] else None
        (handles[line["label"]],) = axes.plot(
            line["x"], line["y"], lw=1.6, marker=marker, ms=4, alpha=0.9, **look[line["label"]]
        )
    for mark in panel["marks"]:
        colour = look[mark["label"]]["color"]
        (handles[mark["label"]],) = axes.plot(mark["x"], mark["y"], "D", ms=6, color=colour, mec="white", zorder=5)
    if panel["bars"]:
        axes.barh([bar["label"] for bar in panel["bars"]], [bar["y"] for bar in panel["bars"]], color=COLOURS[0])
        axes.invert_yaxis()
    if panel["diagonal"]:
        axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":", zorder=0)
    sizes = [abs(v) for line in panel["lines"] for v in line["y"] if v]
    if sizes and max(sizes) > DECADES * min(sizes):
        axes.set_yscale("log")
    if panel["xlog"]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(title=panel["title"], xlabel=panel["xlabel"], ylabel=panel["ylabel"])
    return handles
