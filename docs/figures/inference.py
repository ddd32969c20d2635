"""Write the tables of the page on tests from the results of `bench_ci.py`, `bench_limits.py` and `bench_intervals.py`.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results``.
"""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
NAMES = {"codec": "codec", "kci": "KCI", "rcit": "RCIT", "gcm": "GCM", "fisher-z": "Fisher z"}
PEERS = ("codec", "kci", "rcit", "gcm")
COLUMNS = (1, 3, 5, 10)
LEVELS = {
    "snr 2": "SNR 2", "snr 10": "SNR 10",
    "shared signal": "the same strong signal", "shared scale": "the same noise scale",
}  # fmt: skip
SUSPECT = 0.01  # cells whose p-values are shown by the table of uniformity


def table(head, rows):
    """A list-table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: wrapped", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def number(value, digits=3):
    """Without the leading zero, as the page writes shares."""
    return f"{value:.{digits}f}".removeprefix("0")


def cells_of(report, *parts):
    """Cells of some parts, by name, n and number of columns."""
    return {(c["name"], c["n"], c["d"]): c["methods"] for c in report["cells"].values() if c["part"] in parts}


def rate(methods, method, level="at 0.05"):
    found = (methods or {}).get(method)
    return number(found[level]["rate"]) if found else "–"  # noqa: RUF001


def level_table(report):
    """Post-nonlinear and hard nulls by number of columns."""
    cells = cells_of(report, "level", "hard")
    rows = []
    for name, label in LEVELS.items():
        for n in (200, 500):
            for method in ("codec", "kci"):
                head = f"{label}, n = {n}" if method == "codec" else ""
                rows.append([head, NAMES[method], *(rate(cells.get((name, n, d)), method) for d in COLUMNS)])
    return table(["Null hypothesis", "Test", "1 column of X", *map(str, COLUMNS[1:])], rows)


def other_table(report):
    """Other noise, other X, binary columns."""
    cells = {key: c for key, c in cells_of(report, "level").items() if key[0] not in LEVELS}
    rows = [[name, *(rate(methods, m) for m in PEERS)] for (name, _, _), methods in cells.items()]
    return table(["Null hypothesis", *(NAMES[m] for m in PEERS)], rows)


def edge_table(report):
    """What smoothing does not assume."""
    rows = [
        [f"{name}, {d} column{'s' * (d > 1)}, n = {n}", *(rate(methods, m) for m in PEERS)]
        for (name, n, d), methods in cells_of(report, "edge").items()
    ]
    return table(["Null hypothesis", *(NAMES[m] for m in PEERS)], rows)


def coefficient_table(report):
    """The test of the coefficient beside the default: level where y and z share something, and mean power."""
    tests = ("coefficient", "codec")
    cells = cells_of(report, "hard", "edge")
    rows = []
    for name, d in dict.fromkeys((name, d) for name, _, d in cells):
        both = [" / ".join(rate(cells.get((name, n, d)), m) for n in (200, 500)) for m in tests]
        rows.append([f"{LEVELS.get(name, name)}, {d} column{'s' * (d > 1)}", *both])
    nulls = cells_of(report, "level").values()
    extremes = [[f(c[m]["at 0.05"]["rate"] for c in nulls) for f in (min, max)] for m in tests]
    rows.append([f"the {len(nulls)} other null hypotheses", *(f"{number(a)} to {number(b)}" for a, b in extremes)])
    cells = cells_of(report, "power").values()
    means = [sum(c[m]["at 0.05"]["rate"] for c in cells) / len(cells) for m in tests]
    rows.append([f"**power, mean of {len(cells)} alternatives, n = 200**", *(f"**{number(mean)}**" for mean in means)])
    return table(["Rejected at .05, n = 200 / 500", '`statistic="codec"`', "default"], rows)


def network_line(report):
    """Level on data of discrete networks, in a sentence."""
    rates = ", ".join(
        f"{name} {rate(methods, 'codec')}" for (name, _, _), methods in cells_of(report, "network").items()
    )
    return f"Discrete networks (y, one of its non-descendants, its parents as X), n = 500: {rates}.\n"


def power_table(report):
    """One / three columns of X for every alternative, and the mean of those known from the start."""
    rows = []
    for part, note in (("power", ""), ("later", " (chosen later)")):
        cells = cells_of(report, part)
        for name in dict.fromkeys(name for name, _, _ in cells):
            pair = [[rate(cells.get((name, 200, d)), m) for d in (1, 3)] for m in PEERS]
            rows.append([name + note, *(" / ".join(p) for p in pair)])
        if part == "power":
            means = [sum(c[m]["at 0.05"]["rate"] for c in cells.values()) / len(cells) for m in PEERS]
            rows.append([f"**mean of the {len(cells)}**", *(f"**{number(mean)}**" for mean in means)])
    return table(["Alternative", *(NAMES[m] for m in PEERS)], rows)


def uniformity_table(report):
    """Cells in which the p-values of codec differ from uniform ones."""
    rows = []
    for c in report["cells"].values():
        found = c["methods"]["codec"]
        if "too small" in found and found["uniformity"] < SUSPECT:
            tests = [f"{found[key]:.2g}" for key in ("uniformity", "too small", "uniformity, ties at random")]
            rates = [number(found[key]["rate"]) for key in ("at 0.05", "at 0.01")]
            where = f"{c['name']}, n = {c['n']}" + (f", {c['d']} columns" if c["d"] else "")
            rows.append([where, *rates, *tests])
    return table(["Null hypothesis", "at .05", "at .01", "two-sided", "too small", "ties at random"], rows)


def uniformity_line(report):
    """Whether the smallest of the tests of uniformity says anything, by Holm's correction."""
    found = []
    for parts, where in ((("level", "network"), "without the two hard situations"), (("hard",), "in these")):
        tests = [
            c["methods"]["codec"]["uniformity, ties at random"] for c in report["cells"].values() if c["part"] in parts
        ]
        least = min(tests)
        corrected = number(min(1.0, least * len(tests)), 2)
        found.append(f"the smallest of the {len(tests)} {where} is {least:.2g} ({corrected} after Holm's correction)")
    return f"With ties at random, {'; '.join(found)}.\n"


def worst_line(report):
    """How many cells there are, and the extremes."""
    nulls = [c for c in report["cells"].values() if c["part"] in {"level", "network"}]
    rates = [c["methods"]["codec"]["at 0.05"]["rate"] for c in nulls]
    strict = max(c["methods"]["codec"]["at 0.01"]["rate"] for c in nulls)
    return (
        f"Over the {len(nulls)} cells without the two hard situations, codec rejects between {number(min(rates))} and "
        f"{number(max(rates))} of true hypotheses at .05, and at most {number(strict)} at .01.\n"
    )


def cpu_table(report):
    """CPU seconds of one test."""
    methods = {"codec": "codec", "codec, sequential": "codec, `sequential=True`", "kci": "KCI"}
    rows = [
        [f"{row['n']:,}", *(f"{row[m]:.3g}" if m in row else "–" for m in methods)]  # noqa: RUF001
        for row in report["cpu"]["rows"]
    ]
    return table(["n", *methods.values()], rows)


def machine_line(report):
    """Where the numbers come from, in a line."""
    e = report["environment"]
    packages = ", ".join(f"{name} {e['packages'][name]}" for name in ("numpy", "scipy", "numba", "causal-learn"))
    return f"Measured {e['date']}: {e['cpu']}, one thread, Python {e['python']}; {packages}.\n"


TABLES = {
    "level": level_table,
    "other": other_table,
    "edge": edge_table,
    "coefficient": coefficient_table,
    "network": network_line,
    "worst": worst_line,
    "uniformity": uniformity_table,
    "uniform": uniformity_line,
    "power": power_table,
    "cpu": cpu_table,
    "machine": machine_line,
}

INTERVALS = {
    "line": "z + noise",
    "tight": "z + noise of sd .05",
    "wave": "sin 4z + noise",
    "spread": "\\|z\\| + (.2 + \\|z\\|) noise",
    "product": "z₁ z₂ + noise",
    "five values": "five values of z, + noise",
    "given one": "x + z + noise, given x",
    "counts": "Poisson counts, given x",
}


def interval_table(report):
    """Coverage of 95 % intervals, with the mean width, by model and size."""
    rows = {}
    for key, cell in report["parts"].items():
        if key.startswith("T/"):
            continue
        size = ("fewest", "more", "most")[[500, 1000, 2000, 100, 400, 1600].index(cell["n"]) % 3]
        row = rows.setdefault((cell["method"], cell["model"]), {"T": cell["T"]})
        row[size] = f"{number(cell['coverage'])} ({cell['width']:.2g})"
    lines = [
        [INTERVALS[model], number(row["T"], 2), method, *(row.get(size, "–") for size in ("fewest", "more", "most"))]  # noqa: RUF001
        for (method, model), row in sorted(rows.items(), key=lambda item: item[0][0])
    ]
    head = ["y", "T", "Method", "n = 500, m out of n 100", "1,000, 400", "2,000, 1,600"]
    return table(head, lines)


def limits_table(report):
    """Levels where they do not hold, how often the test warns, and what it would be without one of its parts."""
    rows = {}
    for row in report["parts"].values():
        call = ", ".join(f"`{key}={value!r}`" for key, value in row["options"].items())
        shown = rows.setdefault((row["situation"], row["n"], call), {})
        shown["without" if row["without"] else "with"] = row
    lines = []
    for (situation, n, call), shown in rows.items():
        found, other = shown["with"], shown.get("without")
        lines.append(
            [situation + (f" ({call})" if call else ""), f"{n}", number(found["level"], 2), number(found["warned"], 2),
             f"{number(other['level'], 2)} without {other['without']}" if other else ""]
        )  # fmt: skip
    return table(["What y and z share", "Rows", "Level", "Warned", ""], lines)


if __name__ == "__main__":
    stored = json.loads((RESULTS / "bench_ci.json").read_text())
    for name, write in TABLES.items():
        (DOCS / "tables" / f"inference_{name}.inc").write_text(write(stored))
    intervals = json.loads((RESULTS / "bench_intervals.json").read_text())
    (DOCS / "tables" / "inference_intervals.inc").write_text(interval_table(intervals))
    limits = json.loads((RESULTS / "bench_limits.json").read_text())
    (DOCS / "tables" / "inference_limits.inc").write_text(limits_table(limits))
    print("wrote the tables of the tests")
