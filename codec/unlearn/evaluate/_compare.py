"""The one call: original, unlearned and retrained models beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from codec._validation import check_integer
from codec.unlearn._deletion import Deletion
from codec.unlearn._loss import Loss
from codec.unlearn._problem import outside_modes
from codec.unlearn._training import Recipe, reset, seed_of, seeded
from codec.unlearn._unlearner import Unlearner
from codec.unlearn.evaluate._membership import FPR, attack_scores, auc, tpr_at_fpr
from codec.unlearn.evaluate._metrics import accuracy, activation_distance, disagreement, js_divergence, zrf
from codec.unlearn.evaluate._outputs import (
    ORIGINAL,
    RETRAINED,
    Outputs,
    Parts,
    Train,
    all_among,
    as_model,
    copy_of,
    known,
    parameter_distance,
    where,
)
from codec.unlearn.evaluate._relearn import relearn_epochs
from codec.unlearn.evaluate._result import DISTANCES, GAP, Evaluation
from codec.unlearn.evaluate._study import ShadowModels

PARTS = ("retain", "forget", "test")
REMEDY = "Pass forget=split(data, ids)['forget'], ids those that shadow_models forgot, in their order, or train others."
Models = Mapping[str, Any]
Everyone = dict[str, list[nn.Module]]


@outside_modes
def evaluate(
    models: Models,
    *,
    retain: Any,
    forget: Any,
    test: Any,
    loss: Loss = "cross_entropy",
    train: Train | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    nonmembers: Any = None,
    untrained: nn.Module | None = None,
    relearn: Recipe | None = None,
    shadows: ShadowModels | None = None,
    output: Callable[[Any], Tensor] | None = None,
    target_key: str = "labels",
    device: torch.device | str | None = None,
    batch_size: int = 1024,
    random_state: int | None = 0,
) -> Evaluation:
    """Compare unlearned models with the original and, always, with retrained ones.

    Parameters
    ----------
    models : dict of str to model or list of models
        A model is a torch module, an :class:`~codec.unlearn.Unlearner`, or the :class:`~codec.unlearn.Deletion` of a
        baseline, whose parameters are put on a copy of the original. A list has one entry a seed; if there are as
        many deletions as originals, each is put on its own original. ``'original'`` is needed, and ``'retrained'``
        unless ``train`` is given.
    retain, forget, test : Dataset, (inputs, targets), or dict of tensors
        Training samples that stay, training samples that are forgotten, and samples that no model has seen.
    loss : {'cross_entropy', 'mse'} or callable, default 'cross_entropy'
        As in :class:`~codec.unlearn.Problem`.
    train : callable(retain, seed) -> model, optional
        Trains on the retained samples; makes the retrained models, one a seed.
    seeds : sequence of int, default (1, 2, 3)
        Seeds for ``train``, others than the original's. Two or more show how far retrained models differ among
        themselves.
    nonmembers : data, optional
        Samples never seen that the forgotten ones are held against by membership inference. Default: ``test``.
        When a class is forgotten, pass the test samples of that class.
    untrained : nn.Module, optional
        Model with random parameters for ZRF. Default: the original with every module's ``reset_parameters``.
    relearn : Recipe, optional
        How to train for the relearn time, see :func:`relearn_epochs`. Default: it is not measured.
    shadows : ShadowModels, optional
        Result of :func:`shadow_models` for the same forgotten samples, in the same order: every model is attacked
        with them.
    output, target_key, device, batch_size
        As in :class:`~codec.unlearn.Problem`.
    random_state : None, int, SeedSequence or Generator, default 0
        Of ZRF's random model and of relearning.

    Returns
    -------
    Evaluation
        ``.to_frame()`` is the table, ``.gaps()`` the differences to the retrained models, ``.plot()`` and
        ``.to_html(path)`` show them.

    Raises
    ------
    ValueError, TypeError
        No original or no retrained model, or both ``train`` and retrained models; seeds that come twice; a deletion
        without parameters; data that cannot be read; a model whose output changes from one call to the next; an
        original or retrained model that has diverged; probabilities in place of logits, where the loss tells them;
        models with other classes than the original, or that cannot be copied; ``shadows`` of other forgotten samples or
        classes (of the inputs of many samples 64 are looked at).

    Notes
    -----
    Columns; a retrained model is compared with the other retrained ones, which is the noise floor:

    ``{retain,forget,test}_{accuracy,loss}``
        Mean over the samples; losses in the units of ``loss``, without weight decay.
    ``gap``
        Mean of the absolute differences to the mean of the retrained models in retain, forget and test accuracy and in
        the AUC of ``mia_loss``, the average gap of Fan et al. (ICLR 2024). A retrained model is held against one model
        fewer, so its own gap is a little large: by 6 % with three of them, 15 % with two.
    ``{test,forget}_disagreement``, ``js_divergence``, ``activation_distance``, ``parameter_distance``
        Distance to a retrained model, mean over them; ``js_divergence`` (nats) and ``activation_distance`` on the
        forgotten samples.
    ``zrf``
        See :func:`zrf`.
    ``mia_{loss,confidence,entropy,modified_entropy}_{auc,tpr}``
        Membership inference, forgotten samples against those never seen. AUC below 1/2: forgotten samples stand out
        by their large loss. TPR: two-sided, at 1 % false positives.
    ``lira_member``, ``ulira_member``
        With ``shadows``: share of the forgotten samples that LiRA, and U-LiRA with the shadow models of a method of
        the same name, takes for training samples.
    ``relearn_epochs``
        See :func:`relearn_epochs`. Of several originals each model is held against its own where there are as many
        models, else against the mean of their losses; retrained models always against the mean.

    Models run in evaluation mode and compute what was trained: torch's encoders without the nested tensors that they
    make of padded samples where no derivatives are taken, and which put zeros at padded positions.

    Where the targets are not class labels, only the losses, ``mia_loss`` and ``parameter_distance`` are there. A
    model with one logit z for two classes is a classifier with ``loss='cross_entropy'`` and ``output=lambda z:
    torch.cat([torch.zeros_like(z), z], 1)``; the loss is the binary cross entropy.
    Whole numbers as targets, one a sample, are classes where each is the number of an output; pass those of a regression
    with several outputs (quantiles of a rating) as floats.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn.evaluate import evaluate
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(60, 4), torch.randint(3, (60,))
    >>> def train(data, seed):
    ...     torch.manual_seed(seed)
    ...     model, (inputs, targets) = torch.nn.Linear(4, 3), data
    ...     optimizer = torch.optim.LBFGS(model.parameters())
    ...
    ...     def closure():
    ...         optimizer.zero_grad()
    ...         value = torch.nn.functional.cross_entropy(model(inputs), targets)
    ...         value.backward()
    ...         return value
    ...
    ...     optimizer.step(closure)
    ...     return model
    >>> result = evaluate(
    ...     {"original": train((X[:40], y[:40]), 0)},
    ...     retain=(X[5:40], y[5:40]),
    ...     forget=(X[:5], y[:5]),
    ...     test=(X[40:], y[40:]),
    ...     train=train,
    ... )
    >>> result.to_frame()["forget_accuracy"].round(2).to_dict()
    {'original': 0.8, 'retrained': 0.2}
    """
    drawn = _drawn(models, train, seeds)
    if relearn is not None and not isinstance(relearn, Recipe):
        raise TypeError(f"relearn is of type {type(relearn).__name__}; it must be a Recipe.")
    everyone = _resolve(models, train)
    original, seed = everyone[ORIGINAL][0], seed_of(random_state)
    data = {"retain": retain, "forget": forget, "test": test}
    if nonmembers is not None:
        data["nonmembers"] = nonmembers
    options = {"output": output, "target_key": target_key, "device": device, "batch_size": batch_size}
    parts = Parts(original, loss, data, title=f"models[{ORIGINAL!r}]", **options)
    fresh, notes = _fresh(original, untrained, seed)
    if shadows is not None:
        _check_shadows(shadows, forget, target_key)
    if all_among(forget, retain, target_key):
        notes.append(
            "every forgotten sample is among the retained ones, too: take retain and forget from split(data, ids)."
        )
    seen = _run_all(parts, everyone)
    random = parts.run(fresh, "untrained")["forget"] if fresh is not None else None
    _check_classes(seen, random, seen[ORIGINAL][0])
    if train is not None:
        seen |= _run_all(parts, {RETRAINED: [_retrained(train, retain, one) for one in drawn]})
        _check_classes(seen, None, seen[ORIGINAL][0])
    rows = {}
    for name, group in seen.items():
        for run, one in enumerate(group):
            others = [other for other in seen[RETRAINED] if other is not one]
            rows[name, run] = _row(one, others, random)
            if shadows is not None and not one.diverged:
                rows[name, run] |= _attacked(shadows, name, one.outputs["forget"])
            if relearn is not None and not one.diverged:
                work = parts.problem("forget", one.model)
                goal = _goal(seen, name, run)
                rows[name, run]["relearn_epochs"] = relearn_epochs(work, goal, relearn, random_state=seed)
    runs = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["name", "run"]))
    scores = {name: [one.scores for one in group] for name, group in seen.items()}
    return Evaluation(runs, scores, (*notes, *_notes(seen)))


# --------------------------------------------------------------------------- who is compared
def _drawn(models: Models, train: Train | None, seeds: Sequence[int]) -> list[int]:
    """Seeds of the models that are to be trained, none without ``train``; and whether there are models to compare."""
    if not isinstance(models, Mapping):
        raise TypeError(
            f"models is a {type(models).__name__}; it must be a dict by name, the trained model as 'original'."
        )
    if ORIGINAL not in models:
        raise ValueError("models must be a dict by name with the trained model as 'original'.")
    if len({str(name) for name in models}) < len(models):
        raise ValueError(f"models has two names that read alike, of {[*models]}; every row needs a name of its own.")
    if (RETRAINED in models) == (train is not None):
        raise ValueError(
            "a table without a retrained model shows nothing: pass models['retrained'], or train=, a callable "
            "train(retain, seed) that makes them; not both."
        )
    if train is None:
        return []
    if not callable(train):
        raise TypeError(f"train is of type {type(train).__name__}; it must be callable(retain, seed).")
    given: Any = seeds
    if not np.iterable(given) or isinstance(given, str):
        raise TypeError(f"seeds is {seeds!r}; it must be a sequence of int, such as range(3).")
    drawn = [check_integer(seed, "seeds", -(2**63), 2**63 - 1) for seed in seeds]
    if not drawn:
        raise ValueError("seeds is empty: at least one retrained model is needed.")
    if len(set(drawn)) < len(drawn):
        raise ValueError(f"seeds is {drawn}; the same seed twice is the same model, not another one.")
    return drawn


def _resolve(models: Models, train: Train | None) -> Everyone:
    """Every model that was passed by name, the retrained ones last; copies where ``train`` could change them."""
    found = _as_list(models[ORIGINAL])
    if not found or any(isinstance(one, Deletion) for one in found):
        raise ValueError("models['original'] must be the trained model itself, or a list of such models.")
    if any(isinstance(one, Unlearner) and one.forgotten for one in found):
        raise ValueError(
            "models['original'] is an Unlearner that has forgotten samples already; pass the model that it began with."
        )
    originals = [as_model(one, f"models[{ORIGINAL!r}]", one) for one in found]
    everyone = {}
    for name in [*(n for n in models if n != RETRAINED), *([RETRAINED] if RETRAINED in models else [])]:
        group = _as_list(models[name])
        if not group:
            raise ValueError(f"models[{name!r}] is an empty list.")
        title, bases = f"models[{name!r}]", originals if len(group) == len(originals) else originals[:1] * len(group)
        found = [as_model(one, title, base) for one, base in zip(group, bases, strict=True)]
        everyone[str(name)] = found if train is None else [copy_of(one, title) for one in found]
    return everyone


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _retrained(train: Train, retain: Any, seed: int) -> nn.Module:
    """A model of the user's training; torch's global random state starts from the seed and is as before afterwards."""
    with seeded(seed):
        model = train(retain, seed)
    if not isinstance(model, nn.Module):
        raise TypeError(f"train returned {type(model).__name__}; it must return the trained torch module.")
    own = as_model(model, "train's result", model)
    return copy_of(own, "train's result")  # the next call may return the same object


def _fresh(original: nn.Module, untrained: nn.Module | None, seed: int) -> tuple[nn.Module | None, list[str]]:
    """The untrained model of ZRF, or why there is none."""
    if untrained is not None and not isinstance(untrained, nn.Module):
        raise TypeError(f"untrained is of type {type(untrained).__name__}; it must be a torch module.")
    if untrained is not None:
        return untrained, []
    model = copy_of(original, f"models[{ORIGINAL!r}]")
    try:
        reset(model, seed)
    except ValueError as error:
        return None, [f"zrf is not computed: {str(error).replace('initial=, the state_dict of', 'untrained=,')}"]
    return model, []


# --------------------------------------------------------------------------- one row
class _Seen:
    """A model, its outputs, and what they say without any other model."""

    def __init__(self, model: nn.Module, outputs: Mapping[str, Outputs]) -> None:
        self.model, self.outputs = model, outputs
        self.diverged = any(len(part.broken) for part in outputs.values())
        self.scores = {} if self.diverged else _attacks(outputs)
        self.row = {} if self.diverged else {**_levels(outputs), **_inferred(self.scores)}


def _run_all(parts: Parts, everyone: Everyone) -> dict[str, list[_Seen]]:
    """Every model with its outputs; refused where the original or a retrained one has diverged."""
    seen = {name: [_Seen(m, parts.run(m, f"models[{name!r}]")) for m in group] for name, group in everyone.items()}
    for name in {ORIGINAL, RETRAINED} & set(seen):
        _check_finite(name, seen[name])
    return seen


def _row(one: _Seen, retrained: Sequence[_Seen], random: Outputs | None) -> dict[str, float]:
    """Every metric of one model, its distances to these retrained ones among them."""
    forget, row = one.outputs["forget"], dict(one.row)
    if one.diverged:
        return {}
    if forget.logits is not None:
        row["gap"] = _mean([abs(row[key] - _mean([other.row[key] for other in retrained])) for key in GAP])
        distances = [_distances(one.outputs, other.outputs) for other in retrained]
        row |= {name: _mean([d[name] for d in distances]) for name in DISTANCES}
        if random is not None and random.logits is not None:
            row["zrf"] = zrf(forget.logits, random.logits)
    row["parameter_distance"] = _mean([parameter_distance(one.model, other.model) for other in retrained])
    return {name: row[name] for name in sorted(row, key=lambda column: column.startswith("mia_"))}


def _check_finite(name: str, group: Sequence[_Seen]) -> None:
    """Refuse an original or a retrained model with outputs that are not finite."""
    for run, one in enumerate(group):
        for part, outputs in one.outputs.items():
            if len(outputs.broken):
                raise ValueError(
                    f"models[{name!r}], model {run}: its outputs on {part} are not finite {where(outputs)}: it has "
                    "diverged, or the inputs hold NaN or infinity."
                )


def _check_classes(seen: Mapping[str, Sequence[_Seen]], random: Outputs | None, original: _Seen) -> None:
    """Refuse classifiers whose outputs cannot be compared."""
    first = original.outputs["forget"].n_classes
    named = [(f"models[{name!r}]", one.outputs["forget"]) for name, group in seen.items() for one in group]
    for name, outputs in [*named, *([("untrained", random)] if random is not None else [])]:
        if outputs.n_classes != first:
            raise ValueError(
                f"{name} gives {outputs.n_classes or 'no'} logits for classes, the original {first or 'none'}; compare "
                "models with the same classes, a class that is forgotten among them."
            )


def _goal(seen: Mapping[str, Sequence[_Seen]], name: str, run: int) -> float:
    """Loss of the original on the forgotten samples that a model is to learn again."""
    losses = [float(one.outputs["forget"].losses.mean()) for one in seen[ORIGINAL]]
    return losses[run] if len(seen[name]) == len(losses) and name != RETRAINED else _mean(losses)


def _levels(found: Mapping[str, Outputs]) -> dict[str, float]:
    """Accuracy and loss of every part."""
    row = {}
    for part in PARTS:
        outputs = found[part]
        if outputs.logits is not None and outputs.labels is not None:
            row[f"{part}_accuracy"] = accuracy(outputs.logits, outputs.labels)
        row[f"{part}_loss"] = float(outputs.losses.mean())
    return row


def _distances(found: Mapping[str, Outputs], other: Mapping[str, Outputs]) -> dict[str, float]:
    """Distances of the outputs of two classifiers; nothing for other models."""
    first, second = ([o[part].logits for part in ("forget", "test")] for o in (found, other))
    if first[0] is None or second[0] is None or first[1] is None or second[1] is None:
        return {}
    return {
        "test_disagreement": disagreement(first[1], second[1]),
        "forget_disagreement": disagreement(first[0], second[0]),
        "js_divergence": js_divergence(first[0], second[0]),
        "activation_distance": activation_distance(first[0], second[0]),
    }


def _attacks(found: Mapping[str, Outputs]) -> dict[str, tuple[Any, Any]]:
    """Scores of the forgotten samples and of those never seen, by attack."""
    pair = [found["forget"], found.get("nonmembers", found["test"])]
    exact = all(o.likelihoods is not None for o in pair)
    scores: list[dict[str, Any]] = [{"loss": o.likelihoods if exact else -o.losses} for o in pair]
    for mine, o in zip(scores, pair, strict=True):
        if o.logits is not None and o.labels is not None:
            mine |= attack_scores(o.logits, o.labels)
    return {name: (scores[0][name], scores[1][name]) for name in scores[0]}


def _inferred(scores: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    row = {}
    for name, (members, others) in scores.items():
        row[f"mia_{name}_auc"] = auc(members, others)
        row[f"mia_{name}_tpr"] = tpr_at_fpr(members, others)
    return row


def _check_shadows(shadows: Any, forget: Any, target_key: str) -> None:
    """Refuse shadow models of other forgotten samples, as far as that can be known, before anything is trained."""
    if not isinstance(shadows, ShadowModels):
        raise TypeError(f"shadows is of type {type(shadows).__name__}; it must be the result of shadow_models.")
    here = known(forget, target_key)
    if here is None:
        raise ValueError("shadows: attacks with shadow models need class labels as targets.")
    n_samples, n = shadows[ORIGINAL].forget.shape[1], len(here.labels)
    if n != n_samples:
        raise ValueError(f"shadows were trained for {n_samples} forgotten samples; forget has {n}. {REMEDY}")
    there = shadows.samples
    if there is not None and not np.array_equal(there.labels, here.labels):
        wrong = (there.labels != here.labels).nonzero()[0].tolist()
        raise ValueError(f"shadows were trained for samples with other labels than forget's, at {wrong[:5]}. {REMEDY}")
    if there is not None and there.inputs != here.inputs:
        raise ValueError(f"shadows were trained for samples with other inputs than forget's. {REMEDY}")


def _attacked(shadows: ShadowModels, name: str, forget: Outputs) -> dict[str, float]:
    """Share of the forgotten samples that look trained on, to attacks with shadow models."""
    if forget.logits is None or forget.labels is None:
        raise ValueError("shadows: attacks with shadow models need class labels as targets.")
    if shadows.n_classes not in {None, forget.n_classes}:
        raise ValueError(
            f"shadows were trained with {shadows.n_classes} classes, models have {forget.n_classes}; train shadow models "
            "of their form."
        )
    row = {"lira_member": float((shadows.attack(forget.logits, forget.labels) > 0.5).mean())}
    if name in shadows.names and name not in (ORIGINAL, RETRAINED):
        row["ulira_member"] = float((shadows.attack(forget.logits, forget.labels, name) > 0.5).mean())
    return row


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


# --------------------------------------------------------------------------- what the table does not say
def _notes(seen: Mapping[str, Sequence[_Seen]]) -> list[str]:
    notes = []
    if len(seen[RETRAINED]) == 1:
        notes.append("one retrained model: how far two of them differ is not known, so small gaps mean nothing.")
    losses = [one.scores["loss"][1] for one in seen[RETRAINED]]
    if any(np.array_equal(one, other) for one, other in combinations(losses, 2)):
        notes.append("retrained models that are the same: training draws nothing by chance, or ignores its seed.")
    if all(one.outputs["test"].like_probabilities for one in seen[ORIGINAL]):
        notes.append(
            "the original's outputs are probabilities, and the loss takes them for logits: where the model ends in a softmax "
            "that was not trained through this loss, pass output=torch.log."
        )
    never_seen = losses[0]
    if len(never_seen) * FPR < 1:
        notes.append(f"{len(never_seen)} samples never seen: at 1 % the attacks may have no false positive at all.")
    diverged = [name for name, group in seen.items() if any(one.diverged for one in group)]
    if diverged:
        notes.append(
            f"{', '.join(diverged)}: outputs that are not finite; a model has diverged, its row of .runs is empty."
        )
    forms = {tuple((n, p.shape) for n, p in one.model.named_parameters()) for group in seen.values() for one in group}
    if len(forms) > 1:
        notes.append("parameter_distance is missing where a model differs from the retrained ones in its form.")
    return notes
