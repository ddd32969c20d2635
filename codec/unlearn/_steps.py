"""The steps of one request: who is chosen, how far the model moves, what that does, what is proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.unlearn._certificate import Certificate, certify, rounded_up
from codec.unlearn._curvature import Curvature
from codec.unlearn._deletion import NAN, Timer
from codec.unlearn._history import History, ids_of
from codec.unlearn._nearest import shared_finder
from codec.unlearn._options import Options, assumed_of_buffers, assumed_of_loss
from codec.unlearn._point import Point, SampleLosses, gradient_norm
from codec.unlearn._problem import Parameters, Problem
from codec.unlearn._record import record
from codec.unlearn._requests import others
from codec.unlearn._search import Evidence, Ranking, search
from codec.unlearn._slices import Slices
from codec.unlearn._units import Units
from codec.unlearn._update import Step, captured_decrement, deletion_step, gradient_norm_units, newton_steps

TOLD = 0.9  # of the loss of earlier deletions, below which what is taken back is told


class Steps:
    """What a request takes, for one problem, its units and the options; the history is read, never written.

    Parameters
    ----------
    problem : Problem
    units : Units
    options : Options
    history : History
    """

    def __init__(self, problem: Problem, units: Units, options: Options, history: History) -> None:
        self.problem, self.units, self.options, self.history = problem, units, options, history
        self.losses = SampleLosses(problem)
        self._prepared: Point | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What is prepared can be made again, and holds functions that no copy can."""
        return vars(self) | {"_prepared": None}

    @property
    def budget_is_spent(self) -> bool:
        """Whether more was forgotten since the anchor than one step should do."""
        return len(ids_of(self.history.since_anchor)) > self.options.budget * len(self._at_anchor())

    def prepare(self, timer: Timer) -> Point:
        """What stays the same while the anchor stays."""
        if self._prepared is None or self._prepared.point is not self.history.point:
            with timer("prepare"):
                exact = self.options.damping != "auto"  # a number is taken at its word
                self._prepared = Point(
                    self.problem, self.history.point, self._at_anchor(), self.options.curvature, exact=exact
                )
        return self._prepared

    def rank(self, prepared: Point, ids: Sequence[int], draws: np.random.Generator) -> Ranking:
        """Units by what they carry of the samples."""
        everything = Slices(self.units)
        b = prepared.right_side(everything, ids)
        norms = everything.unit_sums(b.square()).sqrt()
        inputs, targets = self.problem.fetch(list(ids))
        kept = others([*self.history.forgotten, *ids], self.problem.n)
        recorded = partial(
            record, self.problem, self.units, inputs, targets, perturb=self.options.perturb,
            n_perturbations=self.options.n_perturbations, params=self.history.weights, reference=kept, generator=draws,
        )  # fmt: skip
        kfac = partial(prepared.kfac_greedy, self.units, everything.scatter(b), kept)
        evidence = Evidence(
            self.units,
            norms,
            recorded,
            kfac,
            partial(kfac, exact=True),
            partial(prepared.residual_greedy, everything, b, kept),
        )
        return search(
            evidence,
            selector=self.options.selector,
            max_units=self.options.max_units,
            share=len(ids) / self.problem.n,
            scope=self.options.scope,
            screen=self.options.screen,
            n_neighbors=self.options.n_neighbors,
            find=shared_finder(self.problem.team, self.problem.device),
            generator=draws,
        )

    def slices(self, units: Tensor) -> Slices:
        """The parameters that may change: those of the units, or all where every unit may and nothing is left out."""
        return Slices(self.units, None if self._everything else units)

    @property
    def _everything(self) -> bool:
        return self.options.selector == "all" and not self.units.uncovered

    def touched(self, units: Tensor) -> Tensor:
        """Units of every standing request since the anchor, and these."""
        before = [u for deletion in self.history.since_anchor for u in deletion.units]
        return torch.tensor(sorted({*before, *units.tolist()}), dtype=torch.long)

    def solve(self, prepared: Point, slices: Slices, gone: Sequence[int], guess: Parameters) -> Step:
        """The step for all samples forgotten since the point it starts from; conjugate gradients start at ``guess``."""
        before = ids_of(self.history.before_anchor)
        if self.options.exact:
            return newton_steps(
                self.problem,
                self.history.weights,
                [*before, *gone],
                slices,
                n_steps=self.options.n_steps,
                curvature=self.options.curvature,
                solver=self.options.solver,
                guard=None if self.options.guard is None else self._guarded,
                max_drop=self.options.guard_drop,
            )
        return deletion_step(
            self.problem,
            prepared.point,
            gone,
            slices,
            method=self.options.update,
            curvature=self.options.curvature,
            solver=self.options.solver,
            linearisation=prepared.linear,
            damping=self.options.damping,
            first_damping=prepared.pull,
            fit_length=self.options.update == "difference" and not self.options.convex,
            whole_gradient=slices.gather(prepared.gradient),
            losses=prepared.losses,
            already=before,
            x0=slices.gather(guess) - slices.gather(prepared.point),
            guard=None if self.options.guard is None else self._guarded,
            max_drop=self.options.guard_drop,
            present=self.history.weights,
            tol=self.options.tolerance,
        )

    def _guarded(self, params: Mapping[str, Tensor]) -> float:
        """The caller's score of a model with these parameters."""
        if self.options.guard is None:
            return NAN
        score: Any = self.options.guard(self.problem.model_with(params))
        try:
            return self.problem.team.of_first(float(score))
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"guard returned {score!r}; it must return a number, the score of the model.") from None

    def measure(
        self, prepared: Point, ids: Sequence[int], weights: Parameters, ranking: Ranking, gone: Sequence[int]
    ) -> dict[str, Any]:
        """Losses before and after, and what share of the full Newton decrease the units have."""
        kept, old = others([*ids_of(self.history.before_anchor), *gone], self.problem.n), self.history.weights
        before, after = self.losses(old), self.losses(weights)
        moved = sum(float((weights[k] - old[k]).square().sum()) for k in weights) ** 0.5
        captured, by_norm = self._captured(prepared, ranking, gone, kept)
        return {
            "retain_loss": (float(before[kept].mean()), float(after[kept].mean())),
            "forget_loss": (float(before[list(ids)].mean()), float(after[list(ids)].mean())),
            "distance": moved,
            "captured_decrement": captured,
            "captured_by_gradient_norm": by_norm,
        }

    def taken_back(self, step: Step, weights: Parameters) -> str:
        """What a damping above that of the request before takes from what was forgotten since the anchor, in words.

        Samples that were not learnt raise it a little; a loss that falls by less than a tenth is not told.
        """
        earlier = self.history.since_anchor
        if not earlier or not step.damping > earlier[-1].damping:
            return ""
        ids = ids_of(earlier)
        before, after = (float(self.losses(w)[ids].mean()) for w in (self.history.weights, weights))
        if not after < TOLD * before:
            return ""
        return (
            f"; damping raised from {earlier[-1].damping:.3g} to {step.damping:.3g}, earlier deletions are taken back in "
            f"part: mean loss of their samples {before:.4g} -> {after:.4g}"
        )

    def _captured(self, prepared: Point, ranking: Ranking, gone: Sequence[int], kept: Tensor) -> tuple[float, float]:
        """Captured decrement of the units changed since the anchor, and of as many with the largest gradients."""
        if self._everything:
            return 1.0, 1.0
        if not self.options.captured or self.options.curvature == "secant":
            return NAN, NAN
        everything = Slices(self.units)
        b = prepared.right_side(everything, gone)
        chosen = self.touched(ranking.units)
        largest = gradient_norm_units(everything, b, len(chosen))
        whole = Curvature(
            self.problem, prepared.point, kept, everything, self.options.curvature, linearisation=prepared.linear
        )
        return captured_decrement(whole, b, chosen, tol=0.02), captured_decrement(whole, b, largest, tol=0.02)

    def certificate(self, weights: Parameters, gone: Sequence[int]) -> Certificate:
        """A posteriori, from the gradient measured over the retained samples in double precision."""
        problem = self.problem
        norm, rounding = gradient_norm(problem, weights, others(gone, problem.n))
        return certify(
            problem.n,
            len(gone),
            weight_decay=problem.weight_decay,
            gradient_norm=norm,
            rounding=rounding,
            assumed=(
                f"rounding hides at most {rounded_up(rounding, 1)} of ||grad F_R||, which is an estimate",
                *assumed_of_buffers(problem.model),
                *assumed_of_loss(problem),
            ),
        )

    def _at_anchor(self) -> Tensor:
        """Samples that the starting point still has."""
        return others(ids_of(self.history.before_anchor), self.problem.n)
