"""What every benchmark needs: the environment, CPU time, peak memory, fresh processes, JSON.

CPU time is `time.process_time`: the seconds all threads of the process computed, not the seconds
other programs made it wait. The median of several runs is reported, each in a fresh interpreter, so
that no run finds the warm caches or the fragmented memory of another one.

Peak memory is the high-water mark of the resident set, reset just before the measured call (Linux:
``/proc/self/clear_refs``), minus the resident set at that moment. `tracemalloc` would not do: it sees
neither the arrays of compiled loops nor the trees that scipy builds in C++. Where the mark cannot be
reset, ``ru_maxrss`` is used, which includes what the imports needed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
MIB = 2**20


# ---------------------------------------------------------------------- environment
def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Return what a reader needs to compare numbers; no paths, no names of machines or people."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "git": git_hash(),
        "cpu": cpu_model(),
        "logical_cpus": os.cpu_count(),
        "threads": 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in packages},
    }


def git_hash() -> str:
    """Return the commit, with ``+`` behind it when files of the package differ from it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", "codec", "benchmarks/*.py")
    return (commit or "unknown") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(name: str) -> str | None:
    """Return the version of a package, None if it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


# ---------------------------------------------------------------------- one measurement
def measure(work: Callable[[], Any]) -> dict[str, Any]:
    """Return result, CPU seconds, wall seconds and peak memory of one call."""
    gc.collect()
    gc.freeze()  # what is there stays: the next collection takes no time for it
    before = reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"result": result, "cpu_s": cpu, "wall_s": wall, "peak_mib": max(0.0, peak() - before) / MIB}


def reset_peak() -> float:
    """Start a new high-water mark; return the bytes resident now (0 where that is impossible)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return 0.0


def peak() -> float:
    """Return the high-water mark of the resident set in bytes."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return float(line.split()[1]) * 1024
    raise OSError(field)


# ---------------------------------------------------------------------- fresh processes
def in_fresh_process(script: str, arguments: dict[str, Any], **variables: str) -> dict[str, Any]:
    """Run ``script --worker ARGUMENTS`` in a new single-threaded interpreter; read its last line of JSON."""
    done = subprocess.run(
        [sys.executable, script, "--worker", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **dict.fromkeys(THREADS, "1"), **variables},
    )
    if done.returncode:
        raise RuntimeError(f"the worker for {arguments} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def median(runs: Sequence[dict[str, Any]], key: str) -> float:
    """Return the median of one number over runs, to four digits."""
    return float(f"{statistics.median(run[key] for run in runs):.4g}")


# ---------------------------------------------------------------------- results
def write_json(report: dict[str, Any], path: Path) -> None:
    """Write a report, every innermost row on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_laid_out(report) + "\n")


def _laid_out(value: Any, indent: str = "") -> str:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if not any(isinstance(part, dict | list | tuple) for part in parts):
        return json.dumps(value)
    names = [f"{json.dumps(str(key))}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    inner = indent + "  "
    lines = ",\n".join(f"{inner}{name}{_laid_out(part, inner)}" for name, part in zip(names, parts, strict=True))
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n{lines}\n{indent}{end}"


# ---------------------------------------------------------------------- long runs
def sources() -> str:
    """Return a digest of the code that computes: the package, and what is loaded of this folder."""
    loaded = {Path(file) for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    ours = {path for path in loaded if path.is_relative_to(ROOT / "benchmarks")}
    digest = hashlib.sha256()
    for path in sorted({*(ROOT / "codec").rglob("*.py"), *ours}):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass
class Kept:
    """Parts of a long run, written as they are done; the same code with the same settings continues there.

    Without a path nothing is written.
    """

    path: Path | None
    settings: dict[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)
    before: float = 0.0

    def __post_init__(self) -> None:
        stored = json.loads(self.path.read_text()) if self.path is not None and self.path.exists() else {}
        self.start, self.sources = time.process_time(), sources()
        if (stored.get("settings"), stored.get("sources")) == (self.settings, self.sources):
            self.parts, self.before = stored["parts"], stored.get("cpu_s", 0.0)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of this run and of those it continues."""
        return round(self.before + time.process_time() - self.start, 1)

    def content(self) -> dict[str, Any]:
        """What is written."""
        return {"settings": self.settings, "sources": self.sources, "cpu_s": self.cpu_s, "parts": self.parts}

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the part of this name (something JSON can hold), computed unless it is there."""
        if key not in self.parts:
            self.parts[key] = json.loads(json.dumps(compute()))
            if self.path is not None:
                write_json(self.content(), self.path)
            print(f"  {key}", flush=True)
        return self.parts[key]
