"""Training loops: how a baseline changes a copy of the model, the same for every seed and every machine state."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from codec._forward import show_progress
from codec._validation import as_generator, check_amount, check_integer, check_positive
from codec.unlearn._distributed import plain_copy
from codec.unlearn._problem import Batch, Problem

State = Mapping[str, Tensor]
Objective = Callable[[Batch], Tensor]
MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]

ONE_LOGIT = (
    "For one logit z pass Problem(..., output=lambda z: torch.nn.functional.pad(z.reshape(-1, 1), (1, 0))) and "
    "'cross_entropy', with classes 0 and 1 as int64: the same loss."
)


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    epochs : int, default 10
        Times through the data, 0 or more.
    lr : float, default 0.01
        Learning rate at the start, positive.
    batch_size : int or None, default 256
        Samples in a step; None: all samples in every step.
    optimizer : {'sgd', 'adam'} or callable, default 'sgd'
        A callable makes a torch optimiser of a list of parameters; it carries its own learning rate and weight decay.
    momentum : float, default 0.9
        Of SGD, at least 0 and below 1.
    schedule : {'constant', 'cosine'} or tuple of int, default 'constant'
        The learning rate over time: ``lr (1 + cos(pi t / epochs)) / 2`` at epoch t for 'cosine'; a tuple names the
        epochs after which it is divided by ten.
    weight_decay : float or None, default None
        None: that of the problem.

    Raises
    ------
    ValueError, TypeError
        A field out of range or of another type.

    Examples
    --------
    >>> from codec.unlearn.baselines import Recipe
    >>> recipe = Recipe(epochs=10, lr=0.1, schedule=(5, 8))
    >>> recipe.factor(4.0), recipe.factor(5.0)
    (1.0, 0.1)
    """

    epochs: int = 10
    lr: float = 0.01
    batch_size: int | None = 256
    optimizer: str | MakeOptimizer = "sgd"
    momentum: float = 0.9
    schedule: str | tuple[int, ...] = "constant"
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        check_integer(self.epochs, "epochs", 0)
        check_positive(self.lr, "lr")
        if check_amount(self.momentum, "momentum") >= 1.0:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and below 1.")
        if self.batch_size is not None:
            check_integer(self.batch_size, "batch_size", 1)
        if self.weight_decay is not None:
            check_amount(self.weight_decay, "weight_decay")
        if not callable(self.optimizer) and self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd', 'adam' or a callable, got {self.optimizer!r}.")
        if isinstance(self.schedule, str) and self.schedule not in {"constant", "cosine"}:
            raise ValueError(f"schedule must be 'constant', 'cosine' or epochs, got {self.schedule!r}.")
        if not isinstance(self.schedule, (str, tuple)):
            raise TypeError(f"schedule is {self.schedule!r}; it must be 'constant', 'cosine' or a tuple of epochs.")
        if isinstance(self.schedule, tuple):
            for epoch in self.schedule:
                check_integer(epoch, "schedule", 0)

    def make_optimizer(self, parameters: list[nn.Parameter], weight_decay: float) -> Optimizer:
        """The optimiser of these parameters."""
        if callable(self.optimizer):
            made = self.optimizer(parameters)
            if not isinstance(made, Optimizer):
                raise TypeError(f"optimizer made a {type(made).__name__}; it must return a torch.optim.Optimizer.")
            return made
        decay = weight_decay if self.weight_decay is None else self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.lr, weight_decay=decay)
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=decay)

    def factor(self, time: float) -> float:
        """Share of the learning rate at a time in epochs."""
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * time / self.epochs))
        if isinstance(self.schedule, tuple):
            return float(0.1 ** sum(time >= epoch for epoch in self.schedule))
        return 1.0


class Pass(NamedTuple):
    """Once through some samples.

    ``in_whole_order``: as one pass through all n samples with the others left out of their batches, so that
    two trainings that differ in a few samples and not in their seed see the rest in the same order.
    """

    ids: Tensor
    objective: Objective
    batch_size: int | None
    in_whole_order: bool = False


def train(
    work: Problem,
    recipe: Recipe,
    passes: Callable[[int], Sequence[Pass]],
    seed: int,
    *,
    after_step: Callable[[], None] | None = None,
    method: str = "train",
    verbose: bool = False,
) -> None:
    """Train the model of ``work`` in place; ``passes(epoch)`` says what an epoch is."""
    check_recipe(recipe)
    order = torch.Generator().manual_seed(seed)
    parameters = dict(work.model.named_parameters())
    optimizer = recipe.make_optimizer([parameters[name] for name in work.names], work.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    with training_mode(work, seed), show_progress(method, verbose, "epochs") as advance:
        for epoch in range(recipe.epochs):
            every = [(p, ids) for p in passes(epoch) for ids in _batches(work.n, p, order)]
            for step, (p, ids) in enumerate(every):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * recipe.factor(epoch + step / len(every))
                _step(optimizer, p.objective, Batch(ids, *work.fetch(ids)))
                if after_step is not None:
                    after_step()
            advance(1.0 / recipe.epochs)


def _batches(n: int, p: Pass, generator: torch.Generator) -> list[Tensor]:
    """Ids of the batches of one pass, in random order; in order where all samples make one batch."""
    if p.batch_size is None:
        return [p.ids]
    if not p.in_whole_order:
        return list(torch.split(p.ids[torch.randperm(len(p.ids), generator=generator)], p.batch_size))
    wanted = torch.zeros(n, dtype=torch.bool)
    wanted[p.ids] = True
    whole = torch.split(torch.randperm(n, generator=generator), p.batch_size)
    return [kept for kept in (ids[wanted[ids]] for ids in whole) if len(kept)]


def _step(optimizer: Optimizer, objective: Objective, batch: Batch) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        value = objective(batch)
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(closure)


@contextmanager
def training_mode(work: Problem, seed: int) -> Iterator[None]:
    """Dropout on, running statistics free to move; the global random state is as before afterwards."""
    with seeded(seed):
        work.model.train()
        try:
            yield
        finally:
            work.model.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the global random states from a seed; they are as before afterwards, on every device that is in use."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def working_copy(problem: Problem) -> Problem:
    """The problem with a model of its own."""
    work = copy.copy(problem)
    work.model = plain_copy(problem.model)
    return work


def check_problem(problem: Any) -> None:
    """Refuse a bare model, which knows neither its data nor its loss."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem is a {type(problem).__name__}; it must be a codec.unlearn.Problem(model, loss, data, weight_decay=...)."
        )


def check_recipe(recipe: Any) -> None:
    """Refuse what does not say how to train."""
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is a {type(recipe).__name__}; it must be a Recipe, such as Recipe(epochs=5, lr=0.01).")


def check_share(value: Any, argument: str) -> None:
    """Refuse what is no number in 0..1."""
    if check_amount(value, argument) > 1.0:
        raise ValueError(f"{argument} is {value}; it must lie in 0..1.")


def whole_state(problem: Problem, earlier: Any) -> State:
    """Every trainable parameter of a state that the caller gave, as the model has them."""
    here = problem.parameters()
    if not isinstance(earlier, Mapping):
        raise TypeError(
            f"earlier is a {type(earlier).__name__}; pass a dict of parameters by name, such as state_dict()."
        )
    wrong = [name for name, p in here.items() if name not in earlier or earlier[name].shape != p.shape]
    if wrong:
        raise ValueError(
            f"earlier lacks {', '.join(map(repr, wrong[:3]))}{', ...' * (len(wrong) > 3)}, or has them in another shape; "
            "pass the state_dict() of the same model."
        )
    return {name: earlier[name].detach().to(p) for name, p in here.items()}


def loss_of(work: Problem) -> Objective:
    """Mean loss of a batch at the model's own parameters."""
    return lambda batch: work.losses(outputs_of(work, batch), batch.targets).mean()


def outputs_of(work: Problem, batch: Batch) -> Tensor:
    """Outputs of the model as it is; a single sample has no variance, so batch norms take their running statistics."""
    alone = len(batch.ids) == 1
    norms = [m for m in work.model.modules() if isinstance(m, _BatchNorm) and m.training] if alone else []
    for norm in norms:
        norm.eval()
    try:
        return work.outputs({}, batch.inputs)
    finally:
        for norm in norms:
            norm.train()


def class_axis(problem: Problem, outputs: Tensor) -> int:
    """Where the classes are: the second axis for torch's cross entropy, else the last.

    Raises
    ------
    ValueError
        Outputs without an axis of two classes or more.
    """
    axis = 1 if problem.classes_second and outputs.dim() > 2 else outputs.dim() - 1
    if outputs.dim() < 2 or outputs.shape[axis] < 2:
        raise ValueError(
            f"the method needs an output for each of two classes or more; the model's have shape {tuple(outputs.shape)}. "
            f"{ONE_LOGIT}"
        )
    return axis


def check_classes(problem: Problem) -> None:
    """Refuse outputs that no softmax makes probabilities of: yes or no for each, or numbers of a regression."""
    batch = next(problem.batches(torch.arange(min(problem.n, 8))))
    with torch.no_grad():
        outputs = problem.outputs(problem.parameters(), batch.inputs)
    axis, targets = class_axis(problem, outputs), batch.targets
    if problem.classes_second or not isinstance(targets, Tensor):
        return
    if targets.shape != outputs.shape:
        if targets.is_floating_point():
            raise ValueError(
                f"the method compares probabilities of classes, and the targets are numbers of shape {tuple(targets.shape[1:])} "
                f"a sample for outputs of shape {tuple(outputs.shape[1:])}, which are no classes then. Use a baseline without a "
                "teacher, such as fine_tune or neg_grad_plus."
            )
        return
    total = targets.double().sum(axis)
    if (targets < 0).any() or not torch.allclose(total, torch.ones_like(total), atol=1e-3):
        raise ValueError(
            "the method compares probabilities of classes, and the targets say that the outputs are no classes: a sample "
            f"has one for each of its outputs, {tuple(outputs.shape[1:])}, and they are no probabilities. Use a baseline "
            "without a teacher, such as fine_tune or neg_grad_plus."
        )


def changed_state(work: Problem, problem: Problem) -> dict[str, Tensor]:
    """Trainable parameters after training, and the buffers that training has moved."""
    before = dict(problem.model.named_buffers())
    moved = {name: b for name, b in work.model.named_buffers() if not torch.equal(b, before[name])}
    return {name: value.detach().clone() for name, value in {**work.parameters(), **moved}.items()}


def seed_of(random_state: Any) -> int:
    """One seed for torch of a seed, a Generator or None."""
    return int(as_generator(random_state, "random_state").integers(2**63))


def seed_for(problem: Problem, random_state: Any) -> int:
    """The seed of a baseline; processes that share the problem must be given one."""
    check_problem(problem)
    problem.team.check_seed(random_state)
    return seed_of(random_state)


# --------------------------------------------------------------------------- a new beginning
def reset(model: nn.Module, seed: int) -> None:
    """Draw the trainable parameters anew, by each module's own ``reset_parameters``, and begin statistics anew.

    A module has its turn after those inside it, as in its constructor: it may have drawn their parameters in a way
    of its own. Running statistics of modules with frozen parameters stay, as those parameters do.

    Raises
    ------
    ValueError
        Some modules have trainable parameters and no such method, or one that does not draw them: it writes into what
        weight_norm, spectral_norm or pruning have made of them. The model is of no use then.
    """
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    modules = {
        name: m for name, m in model.named_modules() if any(p.requires_grad for p in m.parameters(recurse=False))
    }
    without = [name or type(module).__name__ for name, module in modules.items() if _reset_method(module) is None]
    if without:
        raise ValueError(
            f"{', '.join(without)} have no reset_parameters(); pass initial=, the state_dict of a fresh model."
        )
    every = dict(model.named_parameters())
    place = next(model.parameters()).device
    model.cpu()  # the same draws on every device
    with seeded(seed), torch.no_grad():
        for parameter in every.values():
            if parameter.requires_grad:
                parameter.fill_(torch.nan)  # what is not drawn stays so
        for method in _reset_methods(model, set()):
            method()
        for module in model.modules():
            anew: Callable[[], None] | None = getattr(module, "reset_running_stats", None)
            if anew is not None and not list(module.parameters(recurse=False)):
                anew()
        for name, value in frozen.items():
            every[name].copy_(value)
    kept = [name for name, parameter in every.items() if parameter.requires_grad and bool(parameter.isnan().any())]
    if kept:
        raise ValueError(
            f"{', '.join(kept)} are not drawn by reset_parameters() (weight_norm, spectral_norm and pruning hide weights "
            "from it); pass initial=, the state_dict of a fresh model."
        )
    model.to(place)


def _reset_methods(module: nn.Module, seen: set[nn.Module]) -> Iterator[Callable[[], None]]:
    """Of the modules inside and then of the module; none of one that holds only others, some of them frozen."""
    seen.add(module)
    for child in module.children():
        if child not in seen:
            yield from _reset_methods(child, seen)
    own, every = (list(module.parameters(recurse)) for recurse in (False, True))
    method = _reset_method(module)
    if method is not None and (any(p.requires_grad for p in own) or (every and all(p.requires_grad for p in every))):
        yield method


def _reset_method(module: nn.Module) -> Callable[[], None] | None:
    """What draws a module's parameters anew and asks for nothing."""
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if not callable(found):
        return None
    wanted = [
        p for p in inspect.signature(found).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return found if all(p.default is not p.empty for p in wanted) else None


def fresh_copy(problem: Problem, initial: Mapping[str, Tensor] | None, seed: int) -> Problem:
    """The problem with an untrained model of its own."""
    work = working_copy(problem)
    if initial is None:
        reset(work.model, seed)
        return work
    if not isinstance(initial, Mapping):
        raise TypeError(f"initial is a {type(initial).__name__}; pass the state_dict() of an untrained model.")
    try:
        work.model.load_state_dict(initial)
    except RuntimeError as error:
        raise ValueError(
            f"initial does not fit the model; pass the state_dict() of an untrained model of the same form. {error}"
        ) from None
    return work


# --------------------------------------------------------------------------- what a batch is held against
def partners(work: Problem, ids: Tensor, size: int | None, seed: int) -> Callable[[Batch], Batch]:
    """For a batch, one of these samples: again and again in new orders, each sample as often as any other.

    The same batch has the same partner: an optimiser may ask several times in a step.
    """
    endless, last = _endless(work, ids, size, seed), list[Batch]()

    def partner(batch: Batch) -> Batch:
        if not last or last[0] is not batch:
            last[:] = [batch, next(endless)]
        return last[1]

    return partner


def _endless(work: Problem, ids: Tensor, size: int | None, seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    size, ahead = min(size or len(ids), len(ids)), ids[:0]
    while True:
        if len(ahead) < size:
            ahead = torch.cat([ahead, ids[torch.randperm(len(ids), generator=generator)]])
        yield Batch(ahead[:size], *work.fetch(ahead[:size]))
        ahead = ahead[size:]


def relabelled(work: Problem, wrong: Mapping[int, Tensor]) -> Objective:
    """Mean loss with other labels for some samples."""

    def objective(batch: Batch) -> Tensor:
        targets = batch.targets.clone()
        for place, i in enumerate(batch.ids.tolist()):
            if i in wrong:
                targets[place] = wrong[i]
        return work.losses(outputs_of(work, batch), targets).mean()

    return objective


def wrong_labels(problem: Problem, ids: Tensor, seed: int) -> dict[int, Tensor]:
    """For each sample a label drawn uniformly from all but its own; no class (a padded position's -100) stays."""
    targets = _class_targets(problem, ids)
    with torch.no_grad():
        outputs = problem.outputs(problem.parameters(), problem.fetch(ids[:1])[0])
        n_classes = outputs.shape[class_axis(problem, outputs)]
    if targets.shape[1:] == outputs.shape[1:]:
        raise ValueError(
            "random labels need one class a sample or position; a sample's targets have the shape of its outputs, "
            f"{tuple(outputs.shape[1:])}: a yes or no for each output, of which there is no other class to draw."
        )
    shift = torch.as_tensor(np.random.default_rng(seed).integers(1, n_classes, size=tuple(targets.shape)))
    is_class = (targets >= 0) & (targets < n_classes)
    wrong = torch.where(is_class, (targets + shift.to(targets.device)) % n_classes, targets)
    return dict(zip(ids.tolist(), wrong, strict=True))


def _class_targets(problem: Problem, ids: Tensor) -> Tensor:
    found = [batch.targets for batch in problem.batches(ids)]
    other = [part for part in found if not isinstance(part, Tensor) or part.is_floating_point()]
    if other:
        kind = other[0].dtype if isinstance(other[0], Tensor) else type(other[0]).__name__
        raise ValueError(
            f"random labels need integer class targets, these are {kind}; pass classes as int64, numbered from 0. {ONE_LOGIT}"
        )
    return torch.cat(found)
