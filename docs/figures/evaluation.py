"""Draw the figure of the guide on checking a deletion, and write its table from the results of `bench_audit.py`.

``make figures`` runs this.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from codec.unlearn import Problem, Unlearner, baselines
from codec.unlearn._demo import digits
from codec.unlearn._demo import train as fit
from codec.unlearn.evaluate import evaluate, split

DOCS = Path(__file__).parents[1]
RESULT = DOCS.parent / "benchmarks" / "results" / "bench_audit.json"
TABLE = DOCS / "tables" / "audit.inc"
N_TRAIN, DECAY = 1400, 5e-4
DIGITS = {"n_models": 0, "lira_member": 2, "ulira_accuracy": 2, "ulira_auc": 2, "ulira_tpr": 2, "worst_auc": 2}
DIGITS |= {"audited_epsilon": 1, "forgetting_quality": 2, "competition_score": 2, "klom_forget": 1, "klom_test": 1}
DIGITS |= {"forget_accuracy": 2, "test_accuracy": 3}


def table(report):
    """A sentence on what was run, and a list-table, one row a metric."""
    names = list(report["rows"])
    head = (
        f"{report['n_forget']} forgotten of {report['n_train']} digits, 64-32-10 networks, {report['n_models']} of each "
        f"kind, {report['n_jobs']} processes: {report['wall_s']:.0f} seconds (`benchmarks/bench_audit.py`).\n\n"
    )
    lines = [".. list-table::", "   :header-rows: 1", ""]
    rows = [["", *names]]
    rows += [[f"`{m}`", *(_cell(report["rows"][n][m], digits) for n in names)] for m, digits in DIGITS.items()]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return head + "\n".join(lines) + "\n"


def _cell(value, digits):
    return "–" if value is None or value != value else f"{value:.{digits}f}"  # noqa: RUF001 - NaN


def figure():
    X, y = digits()
    data, test = (X[:N_TRAIN], y[:N_TRAIN]), (X[N_TRAIN:], y[N_TRAIN:])
    original = fit(*data, 0)
    with torch.no_grad():
        ids = cross_entropy(original(data[0]), data[1], reduction="none").argsort(descending=True)[:30].tolist()
    unlearner = Unlearner(original, "cross_entropy", data, weight_decay=DECAY, selector="all", random_state=0)
    unlearner.forget(ids)
    problem = Problem(original, "cross_entropy", data, weight_decay=DECAY)
    tuned = [baselines.fine_tune(problem, ids, random_state=seed) for seed in range(3)]
    models = {"original": original, "codec": unlearner, "fine-tune": tuned}
    result = evaluate(models, **split(data, ids), test=test, train=lambda part, s: fit(*part, s), seeds=range(1, 6))
    return result.plot().figure_


if __name__ == "__main__":
    TABLE.write_text(table(json.loads(RESULT.read_text())))
    figure().savefig(DOCS / "_static" / "evaluation.png", dpi=140)
    print("wrote audit.inc and evaluation.png")
