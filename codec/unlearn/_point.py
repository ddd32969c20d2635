"""A place in parameter space where several requests start, and what they share there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._greedy import KfacGreedy, residual_greedy
from codec.unlearn._kfac import kronecker_factors
from codec.unlearn._linearisation import Linearisation
from codec.unlearn._problem import Parameters, Problem
from codec.unlearn._products import GAUSS_NEWTON, Products
from codec.unlearn._slices import Slices
from codec.unlearn._units import Units


class Point:
    """Everything about a point that later requests share: gradients, losses, and the linearised model."""

    def __init__(self, problem: Problem, point: Parameters, ids: Tensor, kind: str) -> None:
        self.problem, self.point, self.n, self.kind = problem, point, len(ids), kind
        self._products = Products(problem, point)
        self.losses = problem.sample_losses(point)
        self._check_losses()
        self.gradient = self.mean_gradient(ids)

    def _check_losses(self) -> None:
        wrong = (~torch.isfinite(self.losses)).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"loss is not finite for training samples {wrong[:5]}{' and others' * (len(wrong) > 5)}; no step can "
                "be taken from there. Check their inputs and targets."
            )

    def mean_gradient(self, ids: Sequence[int] | Tensor) -> Parameters:
        """Mean of ``grad f`` over samples, regulariser included."""
        return objective_gradient(self._products, torch.as_tensor(ids, dtype=torch.long))

    def right_side(self, slices: Slices, ids: Sequence[int]) -> Tensor:
        """``grad F_S - grad F_R`` on the slices: what forgetting the ids changes."""
        m = len(ids)
        return slices.gather(self.mean_gradient(ids)).sub(slices.gather(self.gradient)) * (m / (self.n - m))

    @cached_property
    def linear(self) -> Linearisation | None:
        """The model linearised at the point, where it is a chain of layers."""
        return linearise(self.problem, self.point, self.kind) if self.kind in GAUSS_NEWTON else None

    def kfac_greedy(self, units: Units, gradient: Parameters, kept: Tensor, max_units: int) -> tuple[Tensor, Tensor]:
        """Units chosen together on the decrement of the K-FAC model."""
        if self.linear is None:
            factors, bases = kronecker_factors(self.problem, self.point, kept, self.problem.names), None
        else:
            gone = torch.ones(self.problem.n, dtype=torch.bool)
            gone[kept] = False
            factors, bases = self.linear.factors_without(gone.nonzero()[:, 0]), self.linear.bases
        greedy = KfacGreedy(units, factors, len(kept), self.problem.weight_decay, bases)
        return greedy.select(gradient, max_units)

    def residual_greedy(self, slices: Slices, b: Tensor, kept: Tensor, max_units: int) -> tuple[Tensor, Tensor]:
        """Units chosen one after the other by the residual of the step on those before."""
        curvature = Curvature(self.problem, self.point, kept, slices, self.kind, linearisation=self.linear)
        return residual_greedy(curvature.product, b, slices, max_units)


class SampleLosses:
    """Loss of every training sample at parameters, kept for the last two that were asked for."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._known: list[tuple[Parameters, Tensor]] = []

    def __call__(self, params: Parameters) -> Tensor:
        found = next((losses for known, losses in self._known if known is params), None)
        if found is None:
            found = self.problem.sample_losses(params)
            self.put(params, found)
        return found

    def put(self, params: Parameters, losses: Tensor | None) -> None:
        """Losses that were computed elsewhere, if they were."""
        if losses is not None:
            self._known = [*self._known[-1:], (params, losses)]


def objective_gradient(products: Products, ids: Tensor) -> Parameters:
    """Mean of ``grad f`` over samples, regulariser included."""
    decay, params = products.problem.weight_decay, products.params
    return {k: g + decay * params[k] for k, g in products.mean_gradient(ids).items()}
