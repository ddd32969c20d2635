"""Write the tables and draw the figures of the page on the paper's experiments from their results.

``make figures`` runs this. It measures nothing: every number is in ``benchmarks/results/paper``.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent / "benchmarks" / "paper"))

import _common  # noqa: E402

ABSENT = "Not run here yet; `make paper` runs it in small settings.\n"


def escape(text):
    """Text that reStructuredText takes as it is; what stands between backticks is a literal."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        for mark in "\\*|_":
            parts[i] = parts[i].replace(mark, "\\" + mark)
    return "``".join(parts)


def list_table(item):
    """A list-table, the paper's numbers in the last column."""
    lines = [f".. list-table:: {escape(item['title'])}", "   :header-rows: 1", ""]
    for row in _common.grid(item):
        lines += [f"   {'* -' if i == 0 else '  -'} {escape(cell)}" for i, cell in enumerate(row)]
    return "\n".join([*lines, "", escape(item["note"]), ""])


def image(name, item):
    """The place of a figure."""
    words = f"{escape(item['title'])}. {escape(item['note'])}".rstrip()
    place = f".. figure:: _static/paper_{name}_{item['name']}.png"
    return "\n".join([place, f"   :alt: {item['title']}", "   :width: 100%", "", f"   {words}", ""])


def machine(report):
    e, packages = report["environment"], report["environment"]["packages"]
    used = ", ".join(f"{name} {packages[name]}" for name in ("numpy", "scikit-learn", "torch") if packages.get(name))
    minutes = f"{report['cpu_s']:,.0f} CPU seconds"
    return f"Measured {e['date']}, seed {report['settings']['seed']}, {minutes} of one thread: {e['cpu']}; {used}.\n"


def section(report):
    """Everything of one experiment; of further runs the tables and notes."""
    show = {
        "table": list_table,
        "figure": lambda item: image(report["name"], item),
        "note": lambda item: escape(item["text"]) + "\n",
    }
    words = [*(show[item["kind"]](item) for item in report["items"]), machine(report)]
    for more in report.get("more", ()):
        words += [*(show[item["kind"]](item) for item in more["items"] if item["kind"] != "figure"), machine(more)]
    return "\n".join(words)


if __name__ == "__main__":
    reports = _common.load(_common.FULL)
    for name in _common.EXPERIMENTS:
        words = section(reports[name]) if name in reports else ABSENT
        (DOCS / "tables" / f"paper_{name}.inc").write_text(words)
        for item in reports.get(name, {"items": []})["items"]:
            if item["kind"] == "figure":
                _common.draw(item).savefig(DOCS / "_static" / f"paper_{name}_{item['name']}.png", dpi=130)
    print(f"wrote tables and figures of {', '.join(reports) or 'nothing'}")
