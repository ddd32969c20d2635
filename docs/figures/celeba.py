"""Write the tables of the page on discrete data from stored results.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results``, in the files
``bench_blanket_discrete.json`` and ``bench_celeba.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
FILES = {"discrete": "bench_blanket_discrete", "attributes": "bench_celeba"}
ABSENT = "–"  # noqa: RUF001
COLUMNS = {
    "codec": "codec",
    "HITON, permutations": "HITON, permutations",
    "HITON, G": "HITON, G test",
    "IAMB, G": "IAMB, G test",
    "hill climbing, BIC": "hill climbing, BIC",
    "hill climbing, BIC, pgmpy": "the same, pgmpy",
}


def read():
    """All reports by name."""
    return {name: json.loads((RESULTS / f"{file}.json").read_text()) for name, file in FILES.items()}


def table(head, rows):
    """A list-table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def with_error(pair, digits=3):
    mean, error = pair
    return f"{mean:.{digits}f}" if error is None else f"{mean:.{digits}f} ± {error:.{digits}f}"


def networks_table(reports):
    """F1 of every method on every network and number of rows."""
    rows = reports["discrete"]["rows"]
    cells = {(r["network"], r["n"], r["method"]): r["summary"] for r in rows.values() if "runs" in r}
    places = dict.fromkeys((network, n) for network, n, _ in cells)
    lines = [
        [f"{network}, n = {n:,}", *(with_error(c["f1"]) if (c := cells.get((network, n, m))) else ABSENT for m in COLUMNS)]
        for network, n in places
    ]  # fmt: skip
    return table(["network", *COLUMNS.values()], lines)


def details_table(reports):
    """All figures of the package's own search."""
    rows = [r for r in reports["discrete"]["rows"].values() if "runs" in r and r["method"] == "codec"]
    lines = [
        [
            f"{r['network']}, n = {r['n']:,}",
            *(with_error(r["summary"][key]) for key in ("precision", "recall", "exact")),
            f"{r['summary']['cpu_s']:.2g}",
            r["summary"]["samples"],
        ]
        for r in rows
    ]
    return table(["network", "precision", "recall", "exact", "CPU seconds a target", "samples"], lines)


def selections_table(reports):
    """Sizes, times, losses and agreement: all attributes, those that all methods have, other levels of noise."""
    summary = reports["attributes"]["summary"]
    same, own = summary["same attributes"], summary["selections"]
    lines = [] if same.get("auto") == own["auto"] else [selections_line("auto", own["auto"])]
    lines += [selections_line(method, s) for method, s in same.items()]
    lines += [selections_line(method, s) for method, s in own.items() if method != "auto" and method not in same]
    head = ["method", "attributes", "columns", "CPU seconds: mean (least, most)", "loss above all columns", "agreement"]
    return table(head, lines)


def selections_line(method, s):
    if "selected" not in s:
        return [method, s["attributes"], 39, ABSENT, 0, ABSENT]
    seconds = "{:.3g} ({:.2g}, {:.3g})".format(*s["cpu_s"])
    agreement = ABSENT if s["agreement with foci"] is None else f"{s['agreement with foci']:.2f}"
    return [method, s["attributes"], f"{s['selected']:.1f}", seconds, f"{s['loss above all columns']:+.4f}", agreement]


def values_table(reports):
    """T of pairs of attributes."""
    rows = reports["attributes"]["summary"]["values"]
    lines = [
        [name, f"{r['rank correlation']:.3f}", f"{r['share of T']:.3f}", f"{r['largest difference']:.3f}", f"{1000 * r['cpu_s']:.2g}"]
        for name, r in rows.items()
    ]  # fmt: skip
    return table(
        ["coefficient", "rank correlation", "sum of T over CODEC's", "largest difference", "CPU milliseconds"], lines
    )


def whole_table(reports):
    """One attribute, all rows."""
    rows = [r for r in reports["attributes"]["rows"].values() if "selected" in r and "loss" not in r]
    lines = [[r["attribute"], f"{r['n']:,}", r["method"], len(r["selected"]), f"{r['cpu_s']:.3g}"] for r in rows]
    return table(["attribute", "rows", "method", "columns", "CPU seconds"], lines)


def machine_line(reports):
    """Where the numbers come from, in a line."""
    e = reports["attributes"]["environment"]
    packages = ", ".join(f"{name} {e['packages'][name]}" for name in ("numpy", "scipy", "scikit-learn"))
    return f"Measured {e['date']}, one thread: {e['cpu']}, Python {e['python']}; {packages}.\n"


TABLES = {
    "networks": networks_table,
    "details": details_table,
    "selections": selections_table,
    "values": values_table,
    "whole": whole_table,
    "machine": machine_line,
}

if __name__ == "__main__":
    stored = read()
    for name, write in TABLES.items():
        (DOCS / "tables" / f"celeba_{name}.inc").write_text(write(stored))
    print("wrote the tables of discrete data")
