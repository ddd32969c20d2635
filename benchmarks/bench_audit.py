"""U-LiRA on forgotten digits: 64 networks that unlearned, 64 that never saw the samples, and what tells them apart.

    python benchmarks/bench_audit.py            # a minute; benchmarks/results/bench_audit.json
    python benchmarks/bench_audit.py --quick    # 8 + 8 networks, seconds; writes nothing

64-32-10 networks on 700 of the digits of scikit-learn, the 20 with the largest loss forgotten. `--cache FOLDER`
keeps what is done, so that a run that is killed goes on; `--jobs` are processes of one thread each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _harness
import torch
from torch.nn.functional import cross_entropy

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._demo import WEIGHT_DECAY, digits
from codec.unlearn._demo import train as train_digits
from codec.unlearn.evaluate import shadow_models

PACKAGES = ("codec", "torch", "numpy", "scipy", "scikit-learn", "joblib")
N_TRAIN, N_TEST, N_FORGET = 700, 397, 20


class Methods:
    """How the samples are forgotten; carried to other processes."""

    def __init__(self, data, forget):
        self.data, self.forget = data, forget

    def codec(self, model, seed):
        unlearner = Unlearner(
            model, "cross_entropy", self.data,
            weight_decay=WEIGHT_DECAY, selector="all", captured=False, random_state=seed,
        )  # fmt: skip
        unlearner.forget(self.forget)
        return unlearner

    def fine_tune(self, model, seed):
        return baselines.fine_tune(self.problem(model), self.forget, random_state=seed)

    def problem(self, model):
        return Problem(model, "cross_entropy", self.data, weight_decay=WEIGHT_DECAY)


def train(data, seed):
    return train_digits(data[0], data[1], seed)


def measure(n_models, n_jobs, cache):
    """Rows by name, wall seconds of the shadow models, and what the result shows."""
    X, y = digits()
    data, test = (X[:N_TRAIN], y[:N_TRAIN]), (X[-N_TEST:], y[-N_TEST:])
    model = train(data, 0)
    with torch.no_grad():
        losses = cross_entropy(model(data[0]), data[1], reduction="none")
    forget = losses.argsort(descending=True)[:N_FORGET].tolist()
    methods = Methods(data, forget)
    start = time.perf_counter()
    shadows = shadow_models(
        train,
        {"codec": methods.codec, "fine-tune": methods.fine_tune},
        data, forget, test=test, n_models=n_models, n_jobs=n_jobs, cache=cache,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return shadows, {"wall_s": round(seconds, 1), "rows": shadows.to_frame().T.to_dict()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 + 8 networks; writes nothing")
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    n_models, n_jobs = (8, 1) if arguments.quick else (arguments.models, arguments.jobs)
    shadows, found = measure(n_models, n_jobs, arguments.cache)
    print(shadows)
    print(f"{n_models} + {n_models} networks, {n_jobs} processes: {found['wall_s']} seconds")
    if not arguments.quick:
        report = {
            "environment": _harness.environment(PACKAGES),
            "n_models": n_models, "n_jobs": n_jobs, "n_train": N_TRAIN, "n_forget": N_FORGET, **found,
        }  # fmt: skip
        _harness.write_json(report, _harness.RESULTS / "bench_audit.json")


if __name__ == "__main__":
    main()
