"""Write the tables of the page on deletions from the results of `bench_unlearn.py`.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results/bench_unlearn.json``.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

DOCS = Path(__file__).parents[1]
RESULT = DOCS.parent / "benchmarks" / "results" / "bench_unlearn.json"
MODELS = ("retrained", "nothing", "codec", "codec, 20 units", "fine-tuned")
SELECTORS = ("lfoci", "kfac_greedy", "greedy_decrement", "gradient norm", "lfoci-pooled", "random")


def table(head, rows):
    """A list-table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def number(value):
    return f"{value:.3g}"


def rows_of(report, part):
    """Rows of a part with the name of their cell, in their stored order."""
    return [(cell["name"], row) for cell in report["cells"].values() if cell["part"] == part for row in cell["rows"]]


def median(rows, key):
    """Median over seeds, with the least and the largest; a dash where nothing was measured."""
    values = [row[key] for row in rows if key in row]
    if not values:
        return "–"  # noqa: RUF001
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def requests_table(report):
    """Forget loss, test accuracy and CPU of single requests."""
    found = rows_of(report, "requests")
    lines = []
    for name, case in dict.fromkeys((name, row["case"]) for name, row in found):
        for model in MODELS:
            rows = [row for n, row in found if (n, row["case"], row["model"]) == (name, case, model)]
            cpu = median(rows, "first_cpu_s" if model.startswith("codec") else "cpu_s")
            figures = [median(rows, key) for key in ("forget_loss", "test_accuracy", "disagreement")]
            lines.append([f"{name}, {case}", model, *figures, cpu])
    return table(["network, request", "model", "forget loss", "test accuracy", "disagreement", "CPU s"], lines)


def sequence_table(report):
    """A hundred requests, one after the other."""
    found = [row for _, row in rows_of(report, "sequence")]
    keys = ("forget_loss", "forget_accuracy", "test_accuracy", "disagreement", "cpu_s")
    lines = [
        [model, *(median([row for row in found if row["model"] == model], key) for key in keys)]
        for model in ("retrained", "nothing", "codec")
    ]
    head = ["model", "forget loss", "forget accuracy", "test accuracy", "disagreement", "CPU s (of one request)"]
    return table(head, lines)


def captured_table(report):
    """Captured decrement of twenty units."""
    found = rows_of(report, "captured")
    names = sorted(dict.fromkeys(name for name, _ in found))
    lines = []
    for selector in SELECTORS:
        rows = {name: [row for n, row in found if (n, row["model"]) == (name, selector)] for name in names}
        cpu = median([row for part in rows.values() for row in part], "select_cpu_s")
        lines.append([selector, *(median(rows[name], "captured") for name in names), cpu])
    return table(["selector", *names, "CPU s"], lines)


def selection_table(report):
    """Steps of L-FOCI."""
    return table(
        ["case", "measured"], [[row["case"], number(row["measured"])] for _, row in rows_of(report, "selection")]
    )


def damping_table(report):
    """The damping that fits and the one that is chosen."""
    lines = [
        [name, row["case"], *(number(row[key]) for key in ("fits", "auto", "forget_loss", "evaluated"))]
        for name, row in rows_of(report, "damping")
    ]
    head = ["fits", "'auto'", "forget loss / retrained at 'auto'", "'auto' by the evaluated model's gradient"]
    return table(["training", "request", *head], lines)


def linear_table(report):
    """Linear models."""
    lines = []
    for name, row in rows_of(report, "linear"):
        target = "" if row["target"] is None else number(row["target"])
        lines.append([name, row["case"], f"{number(row['measured'])} {row.get('unit', '')}".strip(), target])
    return table(["part", "case", "measured", "target"], lines)


def machine_line(report):
    """Where the numbers come from, in a line."""
    e = report["environment"]
    packages = ", ".join(f"{name} {e['packages'][name]}" for name in ("torch", "numpy", "scipy"))
    when: dict[tuple[str, str], list[str]] = {}
    for cell in report["cells"].values():
        parts = when.setdefault((cell["date"], cell["cpu"]), [])
        parts += [cell["part"]] * (cell["part"] not in parts)
    measured = "; ".join(f"{', '.join(parts)}: {date}, {cpu}" for (date, cpu), parts in sorted(when.items()))
    return f"Measured on one thread, Python {e['python']}; {packages}. {measured[0].upper()}{measured[1:]}.\n"


TABLES = {
    "requests": requests_table,
    "sequence": sequence_table,
    "captured": captured_table,
    "selection": selection_table,
    "damping": damping_table,
    "linear": linear_table,
    "machine": machine_line,
}

if __name__ == "__main__":
    stored = json.loads(RESULT.read_text())
    for name, write in TABLES.items():
        (DOCS / "tables" / f"unlearn_{name}.inc").write_text(write(stored))
    print("wrote the tables of the deletions")
