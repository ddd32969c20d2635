"""Blankets of CelebA's 40 attributes: CODEC beside L-CODEC over noise levels, and the calibrated search.

    python benchmarks/paper/celeba.py --data FOLDER    # hours; completes benchmarks/results/bench_celeba.json
    python benchmarks/paper/celeba.py --stored         # tables of what is stored there
    python benchmarks/paper/celeba.py --quick          # a made table of 8 binary columns in seconds

Every attribute is the response once, the other 39 are features, n = 20,000. `bench_celeba.py` does the work and
stores every selection; FOLDER holds ``celeba_attr.npz``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import _common
import bench_celeba
import numpy as np
from _common import Figure, Note, Panel, Table

PAPER_SECONDS = {"foci": "1,100-2,150", "lfoci, noise 0.001": "< 500"}
LEVELS = {noise: f"lfoci, noise {noise:g}" for noise in bench_celeba.NOISE_LEVELS}
NAMES = {"auto": "MarkovBlanketSelector", "foci": "CODEC (FOCI)", "codec": "CODEC"}


def label(method: str) -> str:
    """The name a reader sees."""
    return NAMES.get(method, method.replace("lfoci", "L-CODEC (L-FOCI)").replace("lcodec", "L-CODEC"))


def rows_of(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Selections and values by key: made and computed, stored, or stored after computing what is missing."""
    parts = bench_celeba.PARTS
    bench_celeba.warm_up()
    if arguments.quick:
        found = bench_celeba.run(bench_celeba.made(200), None, None, parts)
    elif arguments.stored:
        found = json.loads(bench_celeba.RESULT.read_text())
    else:
        searched, whole = (bench_celeba.read(arguments.data, n) for n in (bench_celeba.ROWS, None))
        found = bench_celeba.run(searched, whole, bench_celeba.RESULT, parts)
    rows: dict[str, dict[str, Any]] = found["rows"]
    return rows


def measured_s(rows: dict[str, dict[str, Any]]) -> float:
    """CPU seconds of all stored selections and values."""
    parts = [part for row in rows.values() for part in (row, *row.values()) if isinstance(part, dict)]
    return float(sum(part.get("cpu_s", 0.0) for part in parts))


def selections(summary: dict[str, Any], n_attributes: int, made: bool, also: str) -> Table:
    """Size, time, agreement and worth of every method's blankets; the note ends with `also`."""
    lines, paper = [], []
    for method, s in summary["selections"].items():
        low, high = s.get("cpu_s", [None] * 3)[1:]
        lines.append(
            [
                label(method),
                s["attributes"],
                s.get("selected"),
                s.get("cpu_s", [None])[0],
                None if low is None else f"{_common.cell(low)}-{_common.cell(high)}",
                s.get("agreement with foci"),
                s.get("same first column as foci"),
                s.get("loss above all columns"),
            ]
        )
        paper.append(PAPER_SECONDS.get(method))
    return Table(
        "selections",
        "Blanket of one attribute among the others",
        [
            "method", "attributes done", "columns", "CPU s an attribute", "CPU s, least-most", "agreement with FOCI",
            "same first column", "loss above all columns",
        ],
        lines,
        () if made else paper,
        "" if made else "CPU s an attribute",
        note=f"Means over the attributes done, of {n_attributes}. Agreement: columns in both over columns in either. "
        "Loss: log loss on other rows of one boosted model that sees the selected columns, minus that of the same model "
        "on all columns; nobody knows the true blankets. The paper's seconds are of its own machine and program."
        f"{also}",
    )  # fmt: skip


def values(summary: dict[str, Any]) -> list[Table]:
    """T of every pair of attributes by L-CODEC beside CODEC, where that was run."""
    lines = [
        [label(method), s["rank correlation"], s["largest difference"], s["share of T"], s["cpu_s"]]
        for method, s in summary["values"].items()
    ]
    table = Table(
        "values",
        "T of every pair of attributes",
        ["method", "rank correlation with CODEC", "largest difference", "sum of T, share of CODEC's", "CPU s a pair"],
        lines,
        note="Noise on a binary response makes its ranks random within a class, whatever the level; 'y as it is': noise "
        "on the other attribute only.",
    )
    return [table] if lines else []


def whole_table(rows: dict[str, dict[str, Any]]) -> list[Table]:
    """One attribute on all rows, where that was run."""
    own = [row for row in rows.values() if "selected" in row and "loss" not in row]
    if not own:
        return []
    title = f"{own[0]['attribute']} on all {own[0]['n']:,} rows"
    lines = [[label(row["method"]), len(row["selected"]), row["cpu_s"]] for row in own]
    return [Table("whole", title, ["method", "columns", "CPU s"], lines)]


def on_the_same(rows: dict[str, dict[str, Any]]) -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """Selections by attribute and method, and the attributes that have all noise levels."""
    found = {(row["attribute"], row["method"]): row for row in rows.values() if "loss" in row}
    methods = ["foci", *LEVELS.values()]
    return found, [
        name for name in dict.fromkeys(name for name, _ in found) if all((name, m) in found for m in methods)
    ]


def same_attributes(rows: dict[str, dict[str, Any]], summary: dict[str, Any]) -> str:
    """Over which attributes the rows are means; the agreement of all noise levels on the same ones."""
    counts = sorted({s["attributes"] for s in summary["selections"].values()}, reverse=True)
    if len(counts) == 1:
        return ""
    words = f" Some rows are means over {', some over '.join(map(str, counts))} attributes (attributes done)"
    found, names = on_the_same(rows)
    if not names:
        return words + "."
    shares = [
        np.mean([bench_celeba.jaccard(found[name, m]["selected"], found[name, "foci"]["selected"]) for name in names])
        for m in LEVELS.values()
    ]
    listed = ", ".join(f"{_common.cell(float(share))} ({noise:g})" for share, noise in zip(shares, LEVELS, strict=True))
    return f"{words}. On those that have all levels of noise ({len(names)}), agreement with FOCI by level is {listed}."


def by_noise(rows: dict[str, dict[str, Any]]) -> list[Figure]:
    """Agreement with CODEC and seconds over the noise, on the attributes that have all noise levels."""
    found, names = on_the_same(rows)
    if not names:
        return []
    levels = list(LEVELS)

    def line(name: str, measure: Callable[[dict[str, Any], dict[str, Any]], float]) -> dict[str, Any]:
        means = [
            float(np.mean([measure(found[attribute, method], found[attribute, "foci"]) for attribute in names]))
            for method in LEVELS.values()
        ]
        return {"label": name, "x": levels, "y": means}

    agreement = [
        line("same columns", lambda row, exact: bench_celeba.jaccard(row["selected"], exact["selected"])),
        line("same first column", lambda row, exact: row["selected"][:1] == exact["selected"][:1]),
    ]
    seconds = [line("L-CODEC", lambda row, _: row["cpu_s"]), line("CODEC", lambda _, exact: exact["cpu_s"])]
    panels = [
        Panel("agreement of the selections with CODEC", "noise", "share", agreement, xlog=True),
        Panel("time of a selection", "noise", "CPU seconds", seconds, xlog=True),
    ]
    title = f"L-CODEC over the noise level, means over {len(names)} attributes"
    return [Figure("noise", title, panels, across=2)]


def run(arguments: argparse.Namespace) -> list[Any]:
    """Tables of what is stored or made."""
    if not arguments.quick and not arguments.stored and not (arguments.data / "celeba_attr.npz").exists():
        return [Note(f"Not run here: {arguments.data.name} holds no celeba_attr.npz.")]
    rows = rows_of(arguments)
    also = ""
    if not arguments.quick:  # the rows were measured when they were stored, most of them not in this run
        arguments.keep.before, arguments.keep.start = measured_s(rows), time.process_time()
        arguments.environment = json.loads(bench_celeba.RESULT.read_text())["environment"]
        also = " The CPU seconds of all are those of the selections and of T; the boosted models are not counted."
    summary = bench_celeba.summary(rows)
    attributes = len({row["attribute"] for row in rows.values()})
    table = selections(summary, attributes, arguments.quick, same_attributes(rows, summary) + also)
    return [table, *values(summary), *whole_table(rows), *by_noise(rows), finding(summary)]


def finding(summary: dict[str, Any]) -> Note:
    """What the agreement says, from the numbers."""
    mutual = {label(m): share for m, share in summary["mutual"].items() if share is not None}
    shares = ", ".join(f"{name} {_common.cell(share)}" for name, share in mutual.items())
    return Note(
        f"Of the pairs in which one attribute selects the other, both select each other in a share of: {shares}."
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = _common.parser(__doc__)
    options.add_argument("--stored", action="store_true", help="compute nothing, show what is stored")
    return _common.main(run, name="celeba", title="Attributes of CelebA", options=options, arguments=arguments)


if __name__ == "__main__":
    main()
