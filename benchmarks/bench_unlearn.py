"""Deletions from networks and linear models beside retraining.

    python benchmarks/bench_unlearn.py            # minutes; benchmarks/results/bench_unlearn.json
    python benchmarks/bench_unlearn.py --quick    # the digits of scikit-learn, seconds; writes nothing

CPU seconds are of one thread, all ratios from one run. `--data` is a folder with MNIST's four files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _harness
import _unlearn_linear  # sets one thread before numpy's libraries start
import _unlearn_work
import torch

PACKAGES = ("codec", "torch", "numpy", "scipy", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data" / "mnist")
    parser.add_argument("--quick", action="store_true", help="small data, seconds; writes nothing")
    parser.add_argument("--only", choices=("network", "linear"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = {"environment": _harness.environment(PACKAGES)}
    if arguments.only != "linear":
        report["network"] = _unlearn_work.rows(arguments.data, arguments.quick)
    if arguments.only != "network":
        report["linear"] = _unlearn_linear.rows(arguments.data, arguments.quick)
    for part in ("network", "linear"):
        for row in report.get(part, []):
            print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
    if not arguments.quick and arguments.only is None:
        _harness.write_json(report, _harness.RESULTS / "bench_unlearn.json")


if __name__ == "__main__":
    main()
