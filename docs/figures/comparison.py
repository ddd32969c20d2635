"""Write the tables and draw the figure of every way to forget, from the results of `bench_evaluate.py`.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results/bench_evaluate_*.json``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent / "benchmarks"))

import bench_evaluate as bench  # noqa: E402

SUMMARY = DOCS / "tables" / "comparison.inc"
DETAILS = DOCS / "tables" / "comparison_details.inc"
PICTURE = DOCS / "_static" / "comparison.png"
DEFAULT, BEST = bench.DEFAULT, bench.NAMES["all"]
OURS = (DEFAULT, *bench.NAMES.values())
OUR_STEP = ("newton", "kfac", "random_units", "gradient_norm_units")  # baselines that take our gradient and damping
AUC, TEST = 0.02, 0.005  # how near to the retrained networks it should be
TITLES = {name: setting.title for name, setting in bench.settings(Path(), quick=False).items()}


# ---------------------------------------------------------------------- numbers
def tables_of(parts, name):
    """The ranked rows of every request of a set."""
    return {request: bench.ranked(parts, name, request) for part, request in bench.requests_of(parts) if part == name}


def value(row, key):
    return np.inf if row[key] is None else row[key][0]


def overall(tables):
    """Methods in the order of their mean gap over the requests."""
    names = [row["model"] for row in next(iter(tables.values()))]
    found = {name: [next(row for row in rows if row["model"] == name) for rows in tables.values()] for name in names}
    return dict(sorted(found.items(), key=lambda item: float(np.mean([value(row, "gap") for row in item[1]]))))


def near(rows):
    """In how many requests AUC and test accuracy are as near as they should be."""
    return [sum(abs(value(row, key)) <= most for row in rows) for key, most in (("auc_off", AUC), ("test_off", TEST))]


# ---------------------------------------------------------------------- text
def number(cell, digits, factor=1.0, *, error=True):
    if cell is None:
        return "–"  # noqa: RUF001 - diverged
    mean, spread = (factor * part for part in cell)
    if abs(mean) >= 1000:
        return f"{mean:.0e}"
    words = f"{round(mean, digits) + 0.0:.{digits}f}"  # no -0
    return f"{words}\u00a0±\u00a0{spread:.{digits}f}" if error and spread else words


def list_table(header, rows, title=""):
    lines = [f".. list-table:: {title}".rstrip(), "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def shown(name):
    """Ours in bold, baselines as code."""
    return f"**{name}**" if name in OURS else name if name in bench.REFERENCES else f"`{name}`"


def summary(parts, name):
    """One row a method: its gap in each request, how often it is near enough, and its time."""
    tables = tables_of(parts, name)
    header = ["", *tables, f"AUC within {AUC}", f"test within {100 * TEST:g} point", "CPU s"]
    rows = []
    for method, found in overall(tables).items():
        gaps = [number((value(row, "gap"), 0.0) if row["gap"] else None, 3) for row in found]
        reached = [f"{count} of {len(found)}" for count in near(found)]
        rows.append([shown(method), *gaps, *reached, f"{np.median([row['cpu_s'][0] for row in found]):.2g}"])
    return list_table(header, rows, f"{TITLES[name]}; {seeds_of(parts, name)}")


def seeds_of(parts, name):
    counts = Counter(request for part, _, request in (key.split("/") for key in parts) if part == name)
    least = min(counts.values())
    more = [f"{request}: {count}" for request, count in counts.items() if count > least]
    return f"{least} seed{'s' if least > 1 else ''}" + (f" ({', '.join(more)})" if more else "")


def ahead(parts, name):
    """For every request, which baselines are nearer to the retrained networks than ours."""
    lines = []
    for request, rows in tables_of(parts, name).items():
        order = [row["model"] for row in rows if row["model"] not in bench.REFERENCES]
        places = {method: order.index(method) for method in (DEFAULT, BEST) if method in order}
        others = [method for method in order if method not in OURS]
        before = {m: [o for o in others if order.index(o) < place] for m, place in places.items()}
        said = [f"*{request}*: " + ", ".join(f"{WORDS[m]} {_place(order, m)}" for m in places)]
        said += [f"ahead of {WORDS[m]}: {', '.join(map(shown, before[m])) or 'no baseline'}" for m in places]
        lines.append(f"* {'; '.join(said)}.")
    return "\n".join(lines) + "\n"


WORDS = {BEST: "all units", DEFAULT: "the default"}


def _place(order, method):
    return f"{order.index(method) + 1} of {len(order)}"


def of_class(parts, name):
    """What the removal of a class does not reach."""
    rows = {row["model"]: row for row in tables_of(parts, name)["one class"]}
    ours, retrained = rows[DEFAULT], rows["retrained"]
    return (
        f"{TITLES[name]}: by default the loss of the class rises from {value(rows['original'], 'forget_loss'):.2g} to "
        f"{value(ours, 'forget_loss'):.2g}, the retrained networks have {value(retrained, 'forget_loss'):.2g}; "
        f"{value(ours, 'forget_accuracy'):.0%} of its training samples are still recognised, by the retrained networks "
        f"{value(retrained, 'forget_accuracy'):.0%}.\n"
    )


def details(parts):
    """Every number of every request."""
    columns = {  # number, digits, factor, whether with the error
        "gap": ("gap", 4, 1.0, True), "forget loss": ("forget_loss", 2, 1.0, True),
        "forget accuracy": ("forget_accuracy", 2, 1.0, False), "test, points off": ("test_off", 1, 100.0, True),
        "AUC off": ("auc_off", 3, 1.0, True), "disagreement, %": ("test_disagreement", 1, 100.0, False),
        "JS": ("js_divergence", 3, 1.0, False), "CPU s": ("cpu_s", 2, 1.0, False),
    }  # fmt: skip
    found = []
    for name, request in bench.requests_of(parts):
        rows = [
            [
                shown(row["model"]),
                *(number(row[key], d, factor, error=error) for key, d, factor, error in columns.values()),
            ]
            for row in bench.ranked(parts, name, request)
        ]
        found.append(list_table(["", *columns], rows, f"{TITLES[name]}: {request}"))
    return "\n".join(found)


def stored():
    """The results of every set."""
    return {name: json.loads(bench.result_of(name).read_text()) for name in bench.SETS}


def surer():
    """The default alone on more seeds than all methods."""
    return {name: json.loads(bench.result_of(f"{name}_seeds").read_text()) for name in bench.SETS}


def off(report, name):
    """How far the default and one retrained network are from the other retrained ones, by request."""
    parts, header = (
        report["parts"],
        ["", *(f"{who}, {what}" for who in ("default", "retrained") for what in OFF_COLUMNS)],
    )
    rows, tables = [], tables_of(parts, name)
    for request, found in tables.items():
        by_name = {row["model"]: row for row in found}
        cells = [
            number(by_name[who][key], *form) for who in (DEFAULT, "retrained") for key, *form in OFF_COLUMNS.values()
        ]
        rows.append([request, *cells])
    counts = [near([next(row for row in found if row["model"] == who) for found in tables.values()])
              for who in (DEFAULT, "retrained")]  # fmt: skip
    reached = [f"{count} of {len(tables)}" for auc, test in counts for count in (test, auc)]
    rows.append(["near enough", *(cell for pair in (reached[:2], reached[2:]) for cell in ("", *pair))])
    return list_table(header, rows, f"{TITLES[name]}; {seeds_of(parts, name)}, the default alone")


OFF_COLUMNS = {"gap": ("gap", 3), "test, points off": ("test_off", 1, 100.0), "AUC off": ("auc_off", 3)}


def parts_of(reports):
    return {key: rows for report in reports.values() for key, rows in report["parts"].items()}


def whole(reports, more):
    """Everything that the guide includes."""
    parts, lines = parts_of(reports), []
    for name, report in reports.items():
        e = report["environment"]
        lines.append(f"{TITLES[name]}: {e['date']}, {e['cpu']}, one thread; torch {e['packages']['torch']}.")
    pieces = [
        *(f"{summary(parts, name)}\n{ahead(parts, name)}" for name in reports),
        *(off(more[name], name) for name in more),
    ]
    return "\n".join([*pieces, *(of_class(parts, name) for name in reports), "Measured: " + " ".join(lines) + "\n"])


# ---------------------------------------------------------------------- figure
def figure(parts):
    """The gap of every method, one mark a request, beside the noise floor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    names = list(dict.fromkeys(name for name, _ in bench.requests_of(parts)))
    picture = Figure(figsize=(6.2 * len(names), 6.6), layout="constrained")
    FigureCanvasAgg(picture)
    colours, marks = ("#1f6f8b", "#d1652a", "#5b8c3a", "#8c4f9f", "#c9a227"), "osD^v"
    for place, name in enumerate(names, start=1):
        axes, tables = picture.add_subplot(1, len(names), place), tables_of(parts, name)
        methods = [method for method in overall(tables) if method != "retrained"]
        floor = [value(row, "gap") for row in overall(tables)["retrained"]]
        axes.axvspan(min(floor), max(floor), color="0.88", zorder=0, label="retrained, among themselves")
        for (request, rows), colour, mark in zip(tables.items(), colours, marks, strict=False):
            gaps = {row["model"]: value(row, "gap") for row in rows}
            y = np.arange(len(methods))
            axes.plot([gaps[m] for m in methods], y, mark, color=colour, ms=5, alpha=0.85, label=request)
        axes.set_title(TITLES[name].replace(", ", "\n", 1), fontsize=10)
        axes.set(xscale="log", xlabel="gap to the retrained networks")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", labelsize="x-small")
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() in OURS else "normal")
        axes.invert_yaxis()
        axes.grid(axis="x", color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
    handles = picture.axes[0].get_legend_handles_labels()
    picture.legend(*handles, loc="outside lower center", ncols=3 * len(names), frameon=False, fontsize=8)
    return picture


if __name__ == "__main__":
    reports = stored()
    SUMMARY.write_text(whole(reports, surer()))
    DETAILS.write_text(details(parts_of(reports)))
    figure(parts_of(reports)).savefig(PICTURE, dpi=120)
    print("wrote comparison.inc, comparison_details.inc and comparison.png")
