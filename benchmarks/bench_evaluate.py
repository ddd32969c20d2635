"""Every selector and every baseline on the same networks and requests, beside retrained ones, ranked.

    python benchmarks/bench_evaluate.py                  # an hour; resumes; benchmarks/results/bench_evaluate_*.json
    python benchmarks/bench_evaluate.py --quick          # the digits of scikit-learn, seconds; writes nothing
    python benchmarks/bench_evaluate.py --only mnist     # one set
    python benchmarks/bench_evaluate.py --show           # what is stored, ranked
    python benchmarks/bench_evaluate.py --only cifar --methods "codec, default" --seeds 51 ... 60 --output FILE  # a few, surer

784-100-10 on 4,000 digits of MNIST, every seed with training digits of its own; VGG-11 with an eighth of its channels on
2,000 images of CIFAR-10. `--data` is a folder with `mnist/` and `cifar10_subset.npz`. Our part has the defaults of
:class:`codec.unlearn.Unlearner`; beside it every selector with 20 units, or the root of their number; baselines have their published settings, and Newton steps the
damping that ours begins with. Retrained networks come from other seeds than the network that forgets, and are held
against each other too: that is the noise floor; in test accuracy and AUC the first of them is held against the others.
"Another seed" is a network that was trained on everything from another seed. Order: the average gap of Fan et al. (ICLR
2024), the mean absolute difference to the retrained networks in retain, forget and test accuracy and in the AUC of the
loss attack.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "paper"))

import _harness
import _unlearn_work  # sets one thread before numpy's libraries start

import _networks  # isort: skip
import numpy as np
import torch
from torch import nn

from codec.unlearn import Problem, Unlearner, baselines, find_units
from codec.unlearn._point import objective_gradient, pull
from codec.unlearn._products import Products
from codec.unlearn._search import SELECTORS, default_budget
from codec.unlearn._training import Recipe
from codec.unlearn._update import damping_for
from codec.unlearn.evaluate import evaluate, split

SETS = ("mnist", "cifar")
PACKAGES = ("codec", "torch", "numpy", "scipy", "scikit-learn")
DECAY = 5e-4
CLASS = 9  # the class that goes
N_RETRAINED = 3
NAMES = {
    "lfoci": "codec, L-FOCI",
    "lfoci-pooled": "codec, L-FOCI pooled",
    "first-pick": "codec, first pick",
    "gradient_norm": "codec, gradient norm",
    "kfac_greedy": "codec, K-FAC greedy",
    "greedy_decrement": "codec, greedy decrement",
    "random": "codec, random units",
    "all": "codec, all units",
}
REFERENCES = ("original", "another seed", "retrained")  # what no method has changed
DEFAULT = "codec, default"  # L-FOCI where the request is small, all units from half a percent of the samples on
METRICS = (
    "gap", "retain_accuracy", "forget_loss", "forget_accuracy", "test_accuracy", "mia_loss_auc", "test_disagreement",
    "js_divergence",
)  # fmt: skip
OFF = {"test_off": "test_accuracy", "auc_off": "mia_loss_auc"}  # from the retrained networks, in these metrics
Row = dict[str, Any]


# ---------------------------------------------------------------------- what is trained
@dataclass(frozen=True)
class Setting:
    """Data and network of one set."""

    title: str
    seeds: tuple[int, ...]  # nothing was chosen on these
    read: Callable[[int], Any]
    make: Callable[[Any], nn.Module]
    recipe: Recipe
    many: int
    without: tuple[str, ...] = ()  # selectors that take too long


def settings(folder: Path, quick: bool) -> dict[str, Setting]:
    """The sets, small if quick."""

    def mlp(data: Any) -> nn.Module:
        hidden = 16 if quick else 100
        return nn.Sequential(nn.Linear(data.x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def vgg(_: Any) -> nn.Module:
        return _networks.vgg11(2 if quick else 8)

    def images(seed: int) -> _networks.Data:
        """Test images are the others of the training file: of the same kind, and four times as many as in the test file."""
        whole = _networks.cifar(folder, 400 if quick else 10_000, quick)
        n = 200 if quick else 2_000
        seen, unseen = torch.randperm(whole.n, generator=torch.Generator().manual_seed(seed)).tensor_split([n])
        return _networks.Data(whole.x[seen], whole.y[seen], whole.x[unseen], whole.y[unseen])

    digits = partial(_unlearn_work.digits, folder, quick, alike=True)
    short = Recipe(epochs=5, lr=0.05, batch_size=50, schedule="cosine")
    return {
        "mnist": Setting("784-100-10, 4,000 digits of MNIST", (51,) if quick else (51, 52, 53), digits, mlp,
                         short if quick else baselines.RETRAIN, 20 if quick else 100),
        "cifar": Setting("VGG-11, an eighth of the channels, 2,000 images of CIFAR-10", (51,) if quick else (51, 52, 53), images, vgg,
                         short if quick else Recipe(epochs=10, lr=0.05, batch_size=100, schedule="cosine"), 5 if quick else 100, ("greedy_decrement",)),
    }  # fmt: skip


def requests(many: int) -> tuple[str, ...]:
    """What is asked for, in words."""
    return "1 hardest", f"{many} random", f"{many} hardest", "one class", "5 % of a class"


class Case:
    """A trained network, what it is asked to forget, and every way to do it."""

    def __init__(self, setting: Setting, seed: int, only: Sequence[str] | None = None) -> None:
        self.setting, self.seed, self.only, self.data = setting, seed, only, setting.read(seed)
        fit = partial(
            _networks.fit,
            partial(setting.make, self.data),
            self.data.x,
            self.data.y,
            setting.recipe,
            weight_decay=DECAY,
        )
        self.model, self.another = fit(seed=seed), fit(seed=1000 * seed - 1)
        self.train = (self.data.x, self.data.y)
        self.problem = Problem(self.model, "cross_entropy", self.train, weight_decay=DECAY, batch_size=250)

    def ids(self, request: str) -> list[int]:
        """Samples of a request."""
        losses = self.problem.sample_losses(self.problem.parameters())
        hardest, many = losses.argsort(descending=True, stable=True), self.setting.many
        shuffled = torch.randperm(len(losses), generator=torch.Generator().manual_seed(self.seed))
        own = shuffled[self.data.y[shuffled] == CLASS]
        samples = hardest[:1], shuffled[:many], hardest[:many], own, own[: max(1, round(len(own) / 20))]
        return dict(zip(requests(many), samples, strict=True))[request].tolist()

    def ours(self, ids: list[int], **options: Any) -> Unlearner:
        """Defaults but for the options; without the captured decrement, which only a report needs."""
        unlearner = Unlearner(
            self.model, "cross_entropy", self.train,
            weight_decay=DECAY, captured=False, batch_size=250, random_state=self.seed, **options,
        )  # fmt: skip
        unlearner.forget(ids)
        return unlearner

    @cached_property
    def pull(self) -> float:
        """The damping of the network, whatever is forgotten."""
        params, everyone = self.problem.parameters(), torch.arange(self.problem.n)
        return pull(self.problem, params, objective_gradient(Products(self.problem, params), everyone), everyone)

    def methods(self, ids: list[int]) -> dict[str, Callable[[list[int]], Any]]:
        """Every selector and every baseline, or those that were asked for, for a request."""
        losses = self.problem.sample_losses(self.problem.parameters(), ids)
        damping = {"damping": damping_for(self.problem, losses, self.pull)}
        n_units = default_budget(find_units(self.model).n_units)
        few = damping | {"n_units": n_units}
        seeded = {"random_state": self.seed}
        published = {
            baselines.fine_tune: seeded, baselines.gradient_ascent: seeded, baselines.neg_grad_plus: seeded,
            baselines.random_labels: seeded, baselines.salun: seeded, baselines.scrub: seeded,
            baselines.bad_teacher: seeded, baselines.fisher_forgetting: seeded,
            baselines.selective_synaptic_dampening: {}, baselines.newton: damping | {"tol": 0.05}, baselines.kfac: damping,
            baselines.random_units: few | seeded, baselines.gradient_norm_units: few, baselines.paper_step: {},
        }  # fmt: skip
        chosen = [s for s in SELECTORS if s not in self.setting.without]
        mine = {DEFAULT: self.ours} | {NAMES[s]: partial(self.ours, selector=s, max_units=n_units) for s in chosen}
        every = mine | {
            method.__name__: partial(method, self.problem, **options) for method, options in published.items()
        }
        return {name: run for name, run in every.items() if self.only is None or name in self.only}

    def rows(self, request: str) -> list[Row]:
        """A row for each method on one request, and those of `REFERENCES`."""
        ids = self.ids(request)
        models: dict[str, Any] = {}
        more: dict[str, Row] = {name: {"cpu_s": 0.0} for name in REFERENCES}
        for method, run in self.methods(ids).items():
            models[method], seconds = timed(partial(run, ids))
            more[method] = {"cpu_s": seconds}
            if isinstance(models[method], Unlearner):
                done = models[method].deletions[-1]
                more[method] |= {"refused": not done.accepted, "damping": done.damping}
        again = partial(baselines.retrain, self.problem, ids, self.setting.recipe)
        anew = [timed(partial(again, random_state=1000 * self.seed + k)) for k in range(N_RETRAINED)]
        more["retrained"] |= {"cpu_s": float(np.mean([seconds for _, seconds in anew]))}
        data = self.data
        alike = data.test_y == CLASS
        never_seen = {"nonmembers": (data.test_x[alike], data.test_y[alike])} if "class" in request else {}
        result = evaluate(
            {"original": self.model, "another seed": self.another} | models | {"retrained": [deletion for deletion, _ in anew]},
            **split(self.train, ids), test=(data.test_x, data.test_y), **never_seen, batch_size=250,
        )  # fmt: skip
        frame = result.to_frame()
        first, *others = result.runs.loc["retrained", [*OFF.values()]].to_numpy()  # one as if it were a method
        more["retrained"] |= dict(zip(OFF, map(finite, first - np.mean(others, axis=0)), strict=True))
        return [
            {"model": model} | {key: finite(frame.loc[model, key]) for key in METRICS} | more[model]
            for model in frame.index
        ]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = run()
    return found, round(time.process_time() - start, 4)


def finite(value: Any) -> float | None:
    """None for a model that has diverged."""
    return float(value) if np.isfinite(value) else None


# ---------------------------------------------------------------------- what is shown
def differences(rows: Sequence[Row]) -> list[Row]:
    """Rows of one request with what is off from the retrained networks; those have the first of them off the others."""
    retrained = next(row for row in rows if row["model"] == "retrained")
    return [{k: minus(row[column], retrained[column]) for k, column in OFF.items()} | row for row in rows]


def minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def ranked(parts: dict[str, list[Row]], name: str, request: str) -> list[Row]:
    """Means over seeds and their standard errors, the smallest gap first; who diverged comes last."""
    runs: dict[str, list[Row]] = {}
    for key, rows in parts.items():
        if key.split("/")[::2] == [name, request]:
            for row in differences(rows):
                runs.setdefault(row["model"], []).append(row)
    found = [{"model": model, "seeds": len(rows)} | means(rows) for model, rows in runs.items()]
    return sorted(found, key=lambda row: math.inf if row["gap"] is None else row["gap"][0])


def means(rows: Sequence[Row]) -> Row:
    """Mean and standard error of every number; None where a run diverged."""
    found: Row = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "model"):
        values = [row[key] for row in rows if key in row]
        if any(value is None for value in values):
            found[key] = None
        else:
            error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
            found[key] = (float(np.mean(values)), error)
    return found


def requests_of(parts: dict[str, list[Row]]) -> list[tuple[str, str]]:
    """Pairs of set and request, in the order in which they were measured."""
    return list(dict.fromkeys((key.split("/")[0], key.split("/")[2]) for key in parts))


def show(parts: dict[str, list[Row]]) -> None:
    """The ranked tables."""
    columns = ("gap", "forget_loss", "forget_accuracy", "test_off", "auc_off", "test_disagreement", "cpu_s")
    for name, request in requests_of(parts):
        print(f"\n{name}, {request}\n{'':34}" + "".join(f"{c[:15]:>18}" for c in columns))
        for row in ranked(parts, name, request):
            cells = ("-" if row[c] is None else f"{row[c][0]:.4g} ± {row[c][1]:.1g}" for c in columns)
            print(f"{row['model']:34}" + "".join(f"{cell:>18}" for cell in cells))


def result_of(name: str) -> Path:
    """Where the results of a set are kept."""
    return _harness.RESULTS / f"bench_evaluate_{name}.json"


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_harness.ROOT.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="small data, seconds; writes nothing")
    parser.add_argument("--only", choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those that are reported")
    parser.add_argument("--methods", nargs="+", help="some alone, beside the retrained ones; needs --output")
    parser.add_argument("--requests", nargs="+", help="some alone, such as 'one class'; needs --output")
    parser.add_argument("--show", action="store_true", help="print what is stored")
    parser.add_argument("--output", type=Path, help="instead of benchmarks/results/bench_evaluate_SET.json")
    options = parser.parse_args()
    if (options.methods or options.requests) and not options.output:
        parser.error("--methods and --requests need --output: the stored tables hold all of them")
    torch.set_num_threads(1)
    wanted = [name for name in SETS if options.only in {None, name}]
    if options.show:
        for name in wanted:
            show(json.loads((options.output or result_of(name)).read_text())["parts"])
        return
    for name in wanted:
        setting = settings(options.data, options.quick)[name]
        output = options.output or result_of(name)
        keep = _harness.Kept(
            None if options.quick else output,
            {"quick": options.quick} | ({"methods": options.methods} if options.methods else {}),
        )
        for seed in options.seeds or setting.seeds:
            case = cache(partial(Case, setting, seed, options.methods))  # trained only if something is missing
            asked = options.requests or requests(setting.many)[: 2 if options.quick and name == "cifar" else None]
            for request in asked:
                keep(f"{name}/{seed}/{request}", lambda case=case, request=request: case().rows(request))
        show(keep.parts)
        if not options.quick:
            _harness.write_json({"environment": _harness.environment(PACKAGES)} | keep.content(), output)


if __name__ == "__main__":
    main()
