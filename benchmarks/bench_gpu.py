"""Recording and one step of L-FOCI at the size of ResNet-50, on a CUDA device.

    python benchmarks/bench_gpu.py            # needs a CUDA device; writes benchmarks/results/bench_gpu.json
    python benchmarks/bench_gpu.py --quick    # small sizes, on the CPU where there is no device; writes nothing

The model has ResNet-50's layers (53 convolutions with 26,560 filters, their norms, 1,000 classes) and random
weights. Measured, median of five after one warm-up, the device synchronised: 1,000 perturbed copies of one
224 x 224 image through the model with every unit recorded; one step of L-FOCI over all filters with one and
with ten neighbours (1,000 rows); the peak of the device's memory over both. Convolutions run in TF32, as
torch does unless told otherwise. Targets: 50 ms, 5 ms (one neighbour), 20 GB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _harness
import numpy as np
import torch
from torch import Tensor, nn

from codec._neighbors import lay_columns, make_response
from codec._validation import read_table
from codec.unlearn import Problem, find_units
from codec.unlearn._nearest import default_finder
from codec.unlearn._record import record

TARGETS = {"forwards_ms": 50.0, "step_1_ms": 5.0, "peak_gb": 20.0}
FULL = {"width": 64, "pixels": 224, "classes": 1000, "rows": 1000, "repeats": 5}
QUICK = {"width": 4, "pixels": 32, "classes": 10, "rows": 40, "repeats": 1}


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 beside a shortcut."""

    def __init__(self, n_in: int, width: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(n_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm_two = nn.BatchNorm2d(width)
        self.three, self.norm_three = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.short = (
            nn.Sequential(nn.Conv2d(n_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
            if shortcut
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm_one(self.one(x)))
        h = torch.relu(self.norm_two(self.two(h)))
        return torch.relu(self.norm_three(self.three(h)) + self.short(x))


def resnet50(width: int = 64, classes: int = 1000) -> nn.Sequential:
    """ResNet-50; all widths are multiples of the first."""
    layers = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    n_in = width
    for stage, depth in enumerate([3, 4, 6, 3]):
        inner = width * 2**stage
        for block in range(depth):
            layers.append(Bottleneck(n_in, inner, 2 if stage and not block else 1, not block))
            n_in = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, classes))


def milliseconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median wall time of a call; the first call compiles and is not counted."""
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - began))
    return float(f"{statistics.median(times[1:]):.4g}")


def measure(device: torch.device, sizes: dict[str, int]) -> dict[str, Any]:
    """All figures of one device."""
    torch.manual_seed(0)
    model = resnet50(sizes["width"], sizes["classes"]).to(device)
    images = torch.randn(8, 3, sizes["pixels"], sizes["pixels"])
    problem = Problem(model, "cross_entropy", (images, torch.zeros(8).long()), weight_decay=1e-4)
    units = find_units(problem.model).keep(lambda layer: layer.kind == "Conv")
    inputs, targets = problem.fetch([0])

    def forwards() -> Any:
        generator = np.random.default_rng(0)
        return record(problem, units, inputs, targets, n_perturbations=sizes["rows"], generator=generator)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found = {"n_units": units.n_units, "forwards_ms": milliseconds(forwards, device, sizes["repeats"])}
    recorded = forwards()
    response = make_response(recorded.losses.double().cpu().numpy(), nominal=False)
    table = read_table(recorded.activations.double().cpu().numpy(), "activations")
    points = lay_columns(table, np.ones(units.n_units), response)
    finder, candidates = default_finder(device), list(range(1, units.n_units))
    for k in (1, 10):
        step = milliseconds(lambda k=k: finder(points, response, [0], candidates, k), device, sizes["repeats"])
        found[f"step_{k}_ms"] = step
    if device.type == "cuda":
        found["peak_gb"] = float(f"{torch.cuda.max_memory_allocated(device) / 1e9:.3g}")
    return found


def main() -> None:
    """Measure, print, and keep what was measured on a device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; write only where --output says")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    arguments = parser.parse_args()
    if not (torch.cuda.is_available() or arguments.quick):
        print("no CUDA device: nothing is measured; --quick runs on the CPU")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    sizes = QUICK if arguments.quick else FULL
    found = measure(device, sizes)
    for key, value in found.items():
        told = f" (target {TARGETS[key]:g})" if key in TARGETS and not arguments.quick else ""
        print(f"{key}: {value:g}{told}", flush=True)
    output = arguments.output or (None if arguments.quick else _harness.RESULTS / "bench_gpu.json")
    if output is not None:
        _harness.write_json(
            {
                "quick": arguments.quick,
                "device": name,
                "sizes": sizes,
                "targets": TARGETS,
                "environment": _harness.environment(["codec", "torch", "numpy"]),
                "results": found,
            },
            output,
        )


if __name__ == "__main__":
    main()
