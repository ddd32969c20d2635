"""Draw the figures and write the tables of the page on the engine from the results of `bench_engine.py`.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results/bench_engine.json``.
"""

# ruff: noqa: RUF001  (the multiplication sign)
from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

DOCS = Path(__file__).parents[1]
RESULT = DOCS.parent / "benchmarks" / "results" / "bench_engine.json"
INK, GREY, LIGHT = "#22303c", "#8c979f", "#d9dee1"
COLOURS = ["#8c979f", "#d1652a", "#1f6f8b", "#123f52"]
STYLE = {"font.size": 10, "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "axes.titlesize": 10,
         "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip


# ---------------------------------------------------------------------- figures
def draw_growth(report):
    """Cost of a step against n, against the candidates, against the selected columns."""
    figure, axes = plt.subplots(1, 3, figsize=(11.4, 3.9), layout="constrained")
    cells = list(report["cells"]["growth"].values())
    for selected, fit in report["exponents"].items():
        mine = sorted((c["n"], c["cpu_s"]) for c in cells if c["selected"] == int(selected))
        n, seconds = np.array(mine).T
        colour = COLOURS[int(selected)]
        axes[0].loglog(n, seconds, "o-", color=colour, markersize=4)
        text = f"{selected} selected: $n^{{{fit['exponent']:.2f}}}$"
        axes[0].plot([], [], "o-", color=colour, markersize=4, label=text)
    axes[0].legend(frameon=False, loc="upper left", fontsize=9)
    axes[0].set_ylim(top=4.0 * max(c["cpu_s"] for c in cells))
    axes[0].set(xlabel="rows n", ylabel="CPU seconds of a step")
    axes[0].set_title("32 candidates", loc="left")
    columns = list(report["cells"]["columns"].values())
    for n, colour in zip(sorted({c["n"] for c in columns}), COLOURS[1:], strict=False):
        p, seconds = np.array(sorted((c["candidates"], c["cpu_s"]) for c in columns if c["n"] == n)).T
        axes[1].loglog(p, 1e9 * seconds / (n * p), "o-", color=colour, markersize=4, label=f"n = {n:,}")
    axes[1].legend(frameon=False, fontsize=9)
    axes[1].set(xlabel="candidates", ylabel="ns per row and candidate")
    axes[1].set_yticks([20, 50, 100, 200, 500], ["20", "50", "100", "200", "500"])
    axes[1].minorticks_off()
    axes[1].set_title("two selected columns", loc="left")
    draw_depth(axes[2], list(report["cells"]["depth"].values()))
    for axis in axes:
        axis.grid(color=LIGHT, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure


def draw_depth(axis, cells):
    """Cost against the number of selected columns, beside scipy."""
    cells = sorted(cells, key=lambda c: c["selected"])
    selected = [c["selected"] for c in cells]
    for label, colour, seconds in (
        ("a fresh cKDTree each", GREY, [c["scipy"]["cpu_s"] for c in cells]),
        ("codec", COLOURS[2], [c["cpu_s"] for c in cells]),
    ):
        axis.semilogy(selected, seconds, "o-", color=colour, markersize=4, label=label)
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    axis.set(xlabel="selected columns", ylabel="CPU seconds of a step")
    axis.set_xticks([0, 3, 6, 9, 12, 15])
    axis.set_title("n = 10,000, 32 candidates", loc="left")


def draw_ratio(report):
    """How many times faster than scipy: whole selections, hard geometries."""
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 3.9), layout="constrained")
    headline = selections(report)
    labels = [f"{c['n']:,} × {c['p']:,}" + (", noisy" if c["noise"] else "") for c in headline]
    bars(axes[0], labels, [c["ratio"] for c in headline], "whole selections, n × p")
    hard = report["cells"]["geometries"]
    bars(axes[1], list(hard), [c["ratio"] for c in hard.values()], "geometries, n = 5,000, 100 columns")
    figure.supxlabel("times the CPU seconds of a fresh cKDTree per candidate", fontsize=10)
    return figure


def bars(axis, labels, values, title):
    """Horizontal bars with their values, from 1 on a logarithmic scale."""
    places = np.arange(len(values))[::-1]
    axis.barh(places, np.array(values) - 1.0, left=1.0, height=0.62, color=COLOURS[2])
    for place, value in zip(places, values, strict=True):
        axis.text(max(value, 1.0) * 1.06, place, f"{value:.1f}" if value < 10 else f"{value:.0f}", va="center")
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500]
    ticks = [t for t in ticks if t <= 1.5 * max(values)]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.set_yticks(places, labels)
    axis.set(xlim=(min(1.0, 0.9 * min(values)), 1.5 * max(values)))
    axis.minorticks_off()
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=LIGHT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)
    axis.set_title(title, fontsize=10, loc="left")


# ---------------------------------------------------------------------- tables
def number(value):
    """Three digits, thousands with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 0.1 else f"{value:.3g}"


def table(head, rows):
    """A list-table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def selections(report):
    """Whole selections by the size of the table."""
    return sorted(report["cells"]["headline"].values(), key=lambda c: (c["n"] * c["p"], c["n"], c["noise"]))


def ratio_table(report):
    rows = [
        [
            f"{c['n']:,} × {c['p']:,}" + (f", noise of sd {c['noise']}" if c["noise"] else ""),
            len(c["selected"]), number(c["codec"]["cpu_s"]),
            number(c["scipy"]["cpu_s"]) + (" [#some]_" if c["scipy"]["scaled_from"] else ""),
            number(c["ratio"]), number(c["codec"]["peak_mib"]), number(c["x_mib"]),
        ]
        for c in selections(report)
    ]  # fmt: skip
    return table(["n × p", "selected", "codec, s", "scipy, s", "ratio", "peak, MiB", "X itself, MiB"], rows)


def neighbors_table(report):
    cells = report["cells"]["neighbors"].values()
    rows = []
    for k in sorted({c["k"] for c in cells}):
        mine = sorted((c for c in cells if c["k"] == k), key=lambda c: c["selected"])
        rows.append(
            [
                f"K = {k}",
                *(f"{number(c['cpu_s'])} s, {number(c['ratio'])} ×; {number(c['best_ratio'])} ×" for c in mine),
            ]
        )
    return table(["", *(f"{s} selected" for s in sorted({c["selected"] for c in cells}))], rows)


def geometries_table(report):
    rows = [
        [name, number(c["cpu_s"]), number(c["ratio"]), number(c["smallest_ratio"]),
         f"{c['scipy_differs']} of {c['scipy_compared']}"]
        for name, c in report["cells"]["geometries"].items()
    ]  # fmt: skip
    return table(["data", "codec, s", "ratio", "of the slowest step", "sums that scipy gets wrong"], rows)


def paths_table(report):
    cells = sorted(report["cells"]["paths"].values(), key=lambda c: (c["n"], c["k"], c["selected"]))
    names = ("sort", "strips", "lists", "tree")
    rows = []
    for c in cells:
        per = 1e9 / (c["n"] * c["candidates"])
        costs = [
            (f"**{number(c['cpu_s'][m] * per)}**" if m == c["chosen"] else number(c["cpu_s"][m] * per))
            if m in c["cpu_s"]
            else "–"
            for m in names
        ]
        rows.append([f"{c['n']:,}", c["selected"], c["k"], *costs])
    return table(["n", "selected", "K", *names], rows)


def threads_table(report):
    rows = [
        [f"{c['n']:,} × {c['p']:,}", number(c["smallest_wall_s"]["1"]), number(c["smallest_wall_s"]["2"]),
         number(c["ratio"]), number(c["load_before"]) if "load_before" in c else "–"]
        for c in report["cells"]["threads"].values()
    ]  # fmt: skip
    return table(["n × p", "one thread, s", "two threads, s", "ratio", "programs running beside"], rows)


def machine_line(report):
    """Where the numbers come from, in a line."""
    machines = {(e["cpu"], e["logical_cpus"], e["python"]) for e in report["environments"].values()}
    packages = {tuple(f"{k} {e['packages'][k]}" for k in ("numpy", "scipy", "numba"))
                for e in report["environments"].values()}  # fmt: skip
    dates = sorted({e["date"] for e in report["environments"].values()})
    where = "; ".join(f"{cpu}, {cores} logical processors, Python {python}" for cpu, cores, python in sorted(machines))
    return f"Measured {' and '.join(dates)}: {where}; {'; '.join(', '.join(p) for p in sorted(packages))}.\n"


TABLES = {
    "ratio": ratio_table, "neighbors": neighbors_table, "geometries": geometries_table, "paths": paths_table,
    "threads": threads_table, "machine": machine_line,
}  # fmt: skip
FIGURES = {"growth": draw_growth, "ratio": draw_ratio}

if __name__ == "__main__":
    stored = json.loads(RESULT.read_text())
    for name, write in TABLES.items():
        (DOCS / "tables" / f"engine_{name}.inc").write_text(write(stored))
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            draw(stored).savefig(DOCS / "_static" / f"engine_{name}.png", dpi=150)
    print("wrote the figures and tables of the engine")
