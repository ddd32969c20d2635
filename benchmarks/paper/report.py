"""One HTML page with every table and figure of the experiments beside the paper's numbers.

    python benchmarks/paper/report.py            # benchmarks/results/paper -> build/paper.html
    python benchmarks/paper/report.py --quick    # build/paper, what `make paper` ran, -> build/paper-quick.html

The page needs no other file: figures are drawn into it.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _common

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 .2rem; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.paper { background: #fff6e5; } .small { color: #666; font-size: .88rem; } img { max-width: 100%; }
.wide { overflow-x: auto; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; } figure { margin: 1rem 0; }
"""
SOURCE = "Mehta, Pal, Singh, Ravi, Deep Unlearning via Randomized Conditionally Independent Hessians, CVPR 2022"


def table(item: dict[str, Any]) -> str:
    """A table; the paper's column is shaded."""
    header, *rows = _common.grid(item)
    last = len(item["columns"])

    def line(tag: str, cells: Sequence[str]) -> str:
        marked = (f"<{tag}{' class=paper' if j >= last else ''}>{html.escape(c)}</{tag}>" for j, c in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    body = "\n".join([line("th", header), *(line("td", row) for row in rows)])
    title = html.escape(item["title"])
    return f"<div class=wide><table><caption>{title}</caption>\n{body}\n</table></div>\n{small(item['note'])}"


def small(words: str) -> str:
    return f"<p class=small>{html.escape(words)}</p>" if words else ""


def figure(item: dict[str, Any]) -> str:
    """A figure, drawn into the page."""
    buffer = io.BytesIO()
    _common.draw(item).savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    title = html.escape(item["title"])
    image = f'<img alt="{html.escape(item["title"], quote=True)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{title}</figcaption></figure>{small(item['note'])}"


def note(item: dict[str, Any]) -> str:
    return f"<p>{html.escape(item['text'])}</p>"


SHOW = {"table": table, "figure": figure, "note": note}


def section(report: dict[str, Any]) -> str:
    """One experiment."""
    env = report["environment"]
    mode = "quick settings" if report["settings"]["quick"] else "full settings"
    packages = ", ".join(f"{name} {version}" for name, version in env["packages"].items() if version)
    where = (
        f"{mode}, seed {report['settings']['seed']}; {report['cpu_s']} CPU-s on {env['cpu']}, one thread; {packages}"
    )
    items = "\n".join(SHOW[item["kind"]](item) for item in report["items"])
    more = "\n".join(SHOW[item["kind"]](item) for other in report.get("more", ()) for item in other["items"])
    return f"<h2>{report['experiment']}. {html.escape(report['title'])}</h2>\n{small(where)}\n{items}\n{more}"


def page(reports: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    missing = [name for name in _common.EXPERIMENTS if name not in reports]
    rest = f"Not run: {', '.join(missing)}." if missing else ""
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><title>What the paper reports, what we measure</title>\n"
        f"<style>{STYLE}</style>\n<h1>What the paper reports, what we measure</h1>\n<p>The paper: {SOURCE}. "
        f"Its numbers stand in the shaded column, as printed there.</p>\n{small(rest)}\n"
        + "\n".join(section(report) for report in reports.values())
        + "\n</html>\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="what `make paper` ran")
    parser.add_argument("--results", type=Path, help="folder of the JSON files")
    parser.add_argument("--output", type=Path, help="the page")
    options = parser.parse_args(arguments)
    results = options.results or (_common.QUICK if options.quick else _common.FULL)
    name = "paper-quick.html" if options.quick else "paper.html"
    output = options.output or _common.QUICK.parent / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(_common.load(results)))
    print(f"wrote {output.name}: {output}")


if __name__ == "__main__":
    main()
