"""What ``foci(..., chunks=)`` loses and saves beside the plain selection.

    python benchmarks/bench_chunks.py            # writes benchmarks/results/bench_chunks.json
    python benchmarks/bench_chunks.py --quick    # small sizes in seconds; writes nothing

Data: X standard normal, ``y = x0 x1 + sin(x0 x2) + noise * e``; features 0, 1 and 2 are the right ones.
Each draw is selected from with every number of chunks. Reported: the share of draws in which the path is
the plain one, the right features found (of 3) and others found, and CPU time relative to the plain
selection of the same draw (median over the draws; kernels are compiled before).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import _harness
import numpy as np

from codec import foci

SETTINGS = [(10_000, 30, 0.0, 10), (10_000, 30, 1.0, 10), (10_000, 30, 1.0, 1), (2000, 30, 1.0, 10)]
CHUNKS = [1, 2, 4, 8, 16]
QUICK = [(600, 6, 0.5, 3)]
QUICK_CHUNKS = [1, 3]
RIGHT = {0, 1, 2}


def make_data(n: int, p: int, noise: float, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Return X and y."""
    rng = np.random.default_rng([n, p, draw])
    X = rng.normal(size=(n, p))
    return X, X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2]) + noise * rng.normal(size=n)


def one_run(X: np.ndarray, y: np.ndarray, k: int, chunks: int, draw: int) -> tuple[list[int], float]:
    """Return the features in order of entry and the CPU seconds."""
    began = time.process_time()
    path = foci(X, y, n_neighbors=k, chunks=chunks, rng=draw)
    return path.order.tolist(), time.process_time() - began


def measure(n: int, p: int, noise: float, k: int, all_chunks: list[int], n_draws: int) -> list[dict[str, Any]]:
    """Return a row of results for every number of chunks."""
    runs: dict[int, list[tuple[list[int], float]]] = {chunks: [] for chunks in all_chunks}
    for draw in range(n_draws):
        X, y = make_data(n, p, noise, draw)
        for chunks in all_chunks:
            runs[chunks].append(one_run(X, y, k, chunks, draw))
    plain = runs[1]
    rows = []
    for chunks, found in runs.items():
        pairs = list(zip(found, plain, strict=True))
        rows.append(
            {
                "n": n,
                "p": p,
                "noise": noise,
                "n_neighbors": k,
                "chunks": chunks,
                "draws": n_draws,
                "same_path": float(np.mean([a[0] == b[0] for a, b in pairs])),
                "right": float(np.mean([len(RIGHT & set(a[0])) for a in found])),
                "others": float(np.mean([len(set(a[0]) - RIGHT) for a in found])),
                "cpu_ratio": float(np.median([a[1] / b[1] for a, b in pairs])),
            }
        )
    return rows


def main() -> None:
    """Measure all settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; write only where --output says")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--draws", type=int, help="data sets of every setting (default: 10, quick: 2)")
    arguments = parser.parse_args()
    settings, all_chunks = (QUICK, QUICK_CHUNKS) if arguments.quick else (SETTINGS, CHUNKS)
    n_draws = arguments.draws or (2 if arguments.quick else 10)
    results = []
    for n, p, noise, k in settings:
        measure(n // 10, p, noise, k, all_chunks[:1], 1)  # compile or load the kernels
        rows = measure(n, p, noise, k, all_chunks, n_draws)
        results += rows
        for row in rows:
            print("  ".join(f"{name}={value:g}" for name, value in row.items()), flush=True)
    output = arguments.output or (None if arguments.quick else _harness.RESULTS / "bench_chunks.json")
    if output is not None:
        packages = ["codec", "numpy", "numba", "joblib"]
        report = {"quick": arguments.quick, "environment": _harness.environment(packages), "results": results}
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
