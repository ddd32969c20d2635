"""What a caller of the unlearner may choose, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any, cast

import numpy as np
from torch import nn

from codec._validation import as_generator, check_amount, check_flag, check_integer, check_option, check_positive
from codec.unlearn._curvature import KINDS
from codec.unlearn._point import check_double
from codec.unlearn._problem import Problem
from codec.unlearn._products import check_curved
from codec.unlearn._search import LEAST_ROWS, RECORDING, Scope, Screen, Selector, check_search
from codec.unlearn._units import Units, find_units
from codec.unlearn._update import METHODS, check_solver

WITHOUT_ANCHOR = {"gradient", "chained"}  # updates that step on from where the model is

Guard = Callable[[nn.Module], float]


@dataclass
class Options:
    """How requests are done; what each means is told at :class:`codec.unlearn.Unlearner`."""

    selector: Selector
    scope: Scope
    perturb: Any
    n_perturbations: int
    max_units: int | None
    screen: Screen
    n_neighbors: int
    curvature: str
    solver: str
    damping: str | float
    update: str
    n_steps: int
    convex: bool
    guard: Guard | None
    guard_drop: float
    captured: bool
    tolerance: float
    budget: float

    def facts(self) -> dict[str, str]:
        """Every option in a word, by which those of several processes are held against each other."""
        plain = (str, int, float, bool, NoneType, tuple, list)
        return {k: repr(v) if isinstance(v, plain) else name_of(v) for k, v in vars(self).items()}

    @property
    def exact(self) -> bool:
        """Whether a request takes Newton steps without damping."""
        return self.update == "gradient" and self.convex

    def check(self, weight_decay: float) -> None:
        """Refuse what needs no look at the model."""
        check_amount(weight_decay, "weight_decay")
        check_integer(self.n_perturbations, "n_perturbations", 1)
        check_flag(self.captured, "captured")
        check_flag(self.convex, "convex")
        check_amount(self.guard_drop, "guard_drop")
        if self.guard is not None and not callable(self.guard):
            raise TypeError(f"guard is {self.guard!r}; it must be a callable guard(model) that returns a score.")
        check_option(self.update, "update", METHODS)
        check_option(self.curvature, "curvature", KINDS)
        check_solver(self.solver, self.curvature, self.update)
        _check_steps(self.n_steps, self.exact, self.convex, weight_decay, self.budget)
        _check_damping(self.damping, self.exact)
        if not 0.0 < check_positive(self.tolerance, "tolerance") < 1.0:
            raise ValueError(
                f"tolerance is {self.tolerance}; it must be below 1, where no step at all would be enough."
            )

    def check_problem(self, problem: Problem) -> None:
        """Refuse a model or loss that these options cannot be carried out for."""
        if self.curvature in {"ggn", "hessian", "kfac"}:
            check_curved(problem, self.curvature)
        if self.convex:
            _check_statistics(problem.model)
            check_double(problem)

    def check_selection(self, n_units: int) -> None:
        """Refuse a selection that this many units do not allow."""
        check_search(self.selector, self.scope, self.screen, "auto", self.max_units, self.n_neighbors, n_units)
        if self.selector in RECORDING and self.n_perturbations < LEAST_ROWS:
            raise ValueError(
                f"n_perturbations is {self.n_perturbations}; selector={self.selector!r} looks for nearest neighbours "
                f"among the perturbed copies, of which it needs at least {LEAST_ROWS}."
            )


def units_of(units: Any, model: nn.Module) -> Units:
    """The units that were passed, if they are this model's; or those that are found."""
    if isinstance(units, Units):
        _check_shapes(units, model)
        return units
    if units != "auto":
        raise ValueError(f"units is {units!r}; it must be 'auto' or what codec.unlearn.find_units(model) gives.")
    return find_units(model)


def _check_shapes(units: Units, model: nn.Module) -> None:
    """Refuse units that were cut of another model, or of this one with other parameters frozen."""
    theirs = {name: tuple(shape) for name, shape in units.shapes.items()}
    ours = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    wrong = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if wrong:
        told = [f"{name!r} ({theirs.get(name, 'none')} there, {ours.get(name, 'none')} here)" for name in wrong[:3]]
        raise ValueError(
            f"units are those of another model: {len(wrong)} trainable parameters differ, {', '.join(told)}"
            f"{', ...' * (len(wrong) > 3)}. Pass codec.unlearn.find_units(model) of this model, without torch.compile."
        )


def entropy_of(random_state: Any) -> int:
    """What seeds every draw, of a seed, a SeedSequence, a Generator or None."""
    if random_state is None:
        return cast(int, np.random.SeedSequence().entropy)
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        return check_integer(random_state, "random_state", 0)
    return int(as_generator(random_state, "random_state").integers(2**63))


def name_of(choice: Any) -> str:
    """A loss or selector in a word."""
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)


def _check_statistics(model: nn.Module) -> None:
    """Refuse norms that keep statistics of the training data: no bound holds for those, and no noise is on them."""
    kept = [
        name
        for name, module in model.named_modules()
        if getattr(module, "running_mean", None) is not None
        and (not (own := list(module.parameters(recurse=False))) or any(p.requires_grad for p in own))
    ]
    if kept:
        raise ValueError(
            f"model keeps running statistics of the training data in {', '.join(kept[:3])}{', ...' * (len(kept) > 3)}; "
            "with convex=True no bound holds for them. Use a norm without them, such as LayerNorm, or, if they never "
            "saw the training data, freeze the norm's parameters or put its outputs in the data."
        )


def assumed_of_loss(problem: Problem) -> tuple[str, ...]:
    """What is assumed of a loss that is not torch's own: it may hold a number of all samples."""
    if type(problem._loss.loss).__module__.startswith("torch.nn."):
        return ()
    return (
        "a factor in the loss that is made of all samples, as for class weights or masked tokens, stays in retraining",
    )


def assumed_of_buffers(model: nn.Module) -> tuple[str, ...]:
    """What a certificate takes for granted of values that training may have set beside the parameters."""
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    buffers = [name for name, _ in model.named_buffers() if not name.endswith("num_batches_tracked")]
    return tuple(
        f"the {kind} of the model ({', '.join(names[:3])}{', ...' * (len(names) > 3)}) do not depend on the training data"
        for kind, names in (("buffers", buffers), ("frozen parameters", frozen))
        if names
    )


def _check_damping(damping: Any, undamped: bool) -> None:
    """Refuse what is no damping, and damping that no step would take."""
    if damping == "auto":
        return
    if isinstance(damping, str):
        raise ValueError(f"damping is {damping!r}; it must be 'auto' or a number of 0 or more.")
    check_amount(damping, "damping")
    if undamped and damping > 0.0:
        raise ValueError(
            f"damping is {damping}, but update='gradient' with convex=True takes Newton steps without damping; leave "
            "damping='auto'."
        )


def _check_steps(n_steps: int, several: bool, convex: bool, weight_decay: float, budget: float) -> None:
    """Refuse steps that no update takes, a certificate that nothing proves, and an anchor that never moves."""
    check_integer(n_steps, "n_steps", 1)
    if n_steps > 1 and not several:
        raise ValueError(f"n_steps is {n_steps}; it must be 1, or more with update='gradient' and convex=True.")
    if convex and weight_decay <= 0.0:
        raise ValueError("convex=True needs weight_decay above 0: no bound holds without strong convexity.")
    if not 0.0 < check_positive(budget, "budget") < 1.0:
        raise ValueError(f"budget is {budget}; it must lie between 0 and 1.")
