"""Write the tables and draw the figure of the page on selectors from the results of `bench_blanket.py`.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results/bench_blanket.json``
and, for discrete networks, ``bench_blanket_discrete.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

DOCS = Path(__file__).parents[1]
RESULT = DOCS.parent / "benchmarks" / "results" / "bench_blanket.json"
DISCRETE = RESULT.with_name("bench_blanket_discrete.json")
COLOURS = {
    "codec": "#1f6f8b", "foci": "#8fb8c6", "forest": "#d1652a", "boruta": "#e3a583",
    "mutual information, true k": "#8c979f", "mrmr, true k": "#c4cacf",
    "PyImpetus": "#a08fb8",
}  # fmt: skip
FOLDS = 5
HEADS = {"foci": "plain FOCI"}
KNOWN = ("networks", "models", "bullseye", "modular", "mixed", "madelon")
CHOSEN = ("all columns", "codec", "forest", "mutual information, 20", "mrmr, 20", "boruta")


def pick(report, parts, methods):
    """Rows in their stored order, and the methods that have results there."""
    cells = [c for c in report["cells"].values() if c["part"] in parts and c["method"] in methods]
    rows = list(dict.fromkeys((c["part"], c["name"]) for c in cells))
    present = [m for m in methods if any(c["method"] == m for c in cells)]
    return rows, present, {(c["part"], c["name"], c["method"]): c["summary"] for c in cells}


def table(head, rows):
    """A list-table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def with_error(pair):
    mean, error = pair
    return f"{mean:.2f}" if error is None or np.isnan(error) else f"{mean:.2f} ± {error:.2f}"


def truth_table(report):
    rows, methods, cells = pick(report, KNOWN, tuple(COLOURS))
    lines = [
        [f"{part}: {name}", *(with_error(c["f1"]) if (c := cells.get((part, name, m))) else "–" for m in methods)]  # noqa: RUF001
        for part, name in rows
    ]
    return table(["data", *(HEADS.get(m, m) for m in methods)], lines)


def noise_table(report):
    rows, methods, cells = pick(report, ("noise",), ("codec", "codec, no screen", "foci", "forest"))
    lines = [
        [name, *("{:.3f} [{:.3f}, {:.3f}]".format(*c["non-empty"]) if (c := cells.get((part, name, m))) else "–" for m in methods)]  # noqa: RUF001
        for part, name in rows
    ]  # fmt: skip
    return table(["columns", *(HEADS.get(m, m) for m in methods)], lines)


def with_columns(summary):
    """Score and mean number of columns; how many folds, if not all."""
    folds = "" if summary["runs"] == FOLDS else f"; {summary['runs']} of {FOLDS} folds"
    return f"{summary['score'][0]:.3f} ({summary['selected'][0]:.0f}{folds})"


def real_table(report):
    rows, methods, cells = pick(report, ("tables",), CHOSEN)
    lines = [
        [name, *(with_columns(c) if (c := cells.get((part, name, m))) else "–" for m in methods)]  # noqa: RUF001
        for part, name in rows
    ]
    return table(["table", *methods], lines)


def scale_table(report):
    """Time and memory of one selection in a large table."""
    lines = [
        [f"{s['n']:,}", s["p"], f"{s['cpu_s']:.0f}", f"{s['peak_mib'] / 1024:.2f}", f"{s['x_mib'] / 1024:.2f}", f"{s['f1']:.2f}"]
        for s in report.get("scale", {}).values()
    ]  # fmt: skip
    if not lines:
        return "Not measured yet: `python benchmarks/bench_blanket.py --cases scale`.\n"
    return table(["rows", "columns", "CPU seconds", "memory beside X, GiB", "X, GiB", "F1"], lines)


def machine_line(report):
    """Where the numbers come from, in a line."""
    e = report["environment"]
    packages = ", ".join(f"{name} {e['packages'][name]}" for name in ("numpy", "scipy", "scikit-learn"))
    return f"Measured {e['date']}: {e['cpu']}, Python {e['python']}; {packages}.\n"


def draw_truth(report):
    """F1 of every method on every kind of data, with standard errors."""
    rows, methods, cells = pick(report, KNOWN[:-1], tuple(COLOURS))
    figure, axis = plt.subplots(figsize=(8.4, 0.52 * len(rows) + 1.2), layout="constrained")
    offsets = np.linspace(-0.3, 0.3, len(methods))
    for method, offset in zip(methods, offsets, strict=True):
        points = [(i, cells[(*row, method)]["f1"]) for i, row in enumerate(rows) if (*row, method) in cells]
        places = np.array([i for i, _ in points]) + offset
        values, errors = np.nan_to_num(np.array([pair for _, pair in points])).T
        axis.errorbar(
            values, places, xerr=errors, fmt="o", color=COLOURS[method], markersize=5, label=HEADS.get(method, method)
        )
    axis.set_yticks(range(len(rows)), [f"{part}: {name}" for part, name in rows])
    axis.set(xlim=(0, 1.02), ylim=(len(rows) - 0.5, -0.5), xlabel="F1 against the true blanket")
    axis.grid(axis="x", color="#d9dee1", linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=9)
    return figure


def discrete_table(report):
    """Mean F1 over all nodes as targets, and samples."""
    rows = [row for row in report["rows"].values() if "f1" in row["summary"]]  # not that of pure noise
    cells = {(row["network"], row["n"], row["method"]): row["summary"] for row in rows}
    methods = list(dict.fromkeys(method for *_, method in cells))
    data = list(dict.fromkeys((network, n) for network, n, _ in cells))
    lines = [
        [f"{network}, n = {n:,}", *(with_error(c["f1"]) if (c := cells.get((network, n, m))) else "–" for m in methods)]  # noqa: RUF001
        for network, n in data
    ]
    return table(["network", *methods], lines)


TABLES = {"truth": truth_table, "noise": noise_table, "real": real_table, "scale": scale_table, "machine": machine_line}

if __name__ == "__main__":
    stored = json.loads(RESULT.read_text())
    for name, write in TABLES.items():
        (DOCS / "tables" / f"blanket_{name}.inc").write_text(write(stored))
    discrete = json.loads(DISCRETE.read_text())
    (DOCS / "tables" / "blanket_discrete.inc").write_text(discrete_table(discrete))
    draw_truth(stored).savefig(DOCS / "_static" / "blanket_truth.png", dpi=150)
    print("wrote the figure and tables of the selectors")
