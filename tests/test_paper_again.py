"""Every experiment of the paper, run twice from its command line: all numbers but the times are the same bits."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "paper"
NAMES = ("blankets", "celeba", "spurious", "mnist", "cifar", "kfac", "text", "faces", "reid")
TIME = "CPU s"


def test_all_experiments_are_here(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    assert importlib.import_module("_common").EXPERIMENTS == NAMES


def repeated(item):
    """An item of a report without its times."""
    if item["kind"] == "table":
        kept = [j for j, column in enumerate(item["columns"]) if TIME not in column]
        return {
            **item,
            "columns": [item["columns"][j] for j in kept],
            "rows": [[row[j] for j in kept] for row in item["rows"]],
        }
    if item["kind"] == "figure":
        return {**item, "panels": [p for p in item["panels"] if TIME not in p["xlabel"] + p["ylabel"]]}
    return item


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name, tmp_path):
    if name in {"mnist", "cifar", "kfac", "text", "faces", "reid", "spurious"}:
        pytest.importorskip("torch")
    if name == "text":
        pytest.importorskip("transformers")
    reports = []
    for k in range(2):
        folder = tmp_path / str(k)
        command = [
            sys.executable,
            str(FOLDER / f"{name}.py"),
            "--quick",
            "--data",
            str(tmp_path),
            "--output",
            str(folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads((folder / f"{name}.json").read_text()))
    first, second = ([repeated(item) for item in report["items"]] for report in reports)
    assert first == second
    assert reports[0]["sources"] == reports[1]["sources"]
