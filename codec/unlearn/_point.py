"""A place in parameter space where several requests start, and what they share there."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._distributed import plain_copy
from codec.unlearn._greedy import KfacGreedy, exchange, residual_greedy
from codec.unlearn._kfac import kronecker_factors
from codec.unlearn._linearisation import LEFT_OUT, Linearisation
from codec.unlearn._problem import Batch, Parameters, Problem
from codec.unlearn._products import GAUSS_NEWTON, Products
from codec.unlearn._slices import Slices
from codec.unlearn._units import Units

ROUGH = 0.2  # tolerance of the steps that exchanges are judged by
LEAST_DAMPING = 1e-4  # of 'auto': what is left for a model at its optimum
PULL = 3.0  # damping over ||grad F_S|| / ||w||
PROBE = 1e-9  # change of the weights, over their largest, that single precision does not show
ROUNDINGS = 10.0  # of operations, in changes of the weights by one part in 2^52
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # their scales start at 1


class Point:
    """Everything about a point that later requests share: gradients, losses, and the linearised model.

    ``exact``: nothing of the linearised model is left out, as for a damping of the user's own.
    """

    def __init__(self, problem: Problem, point: Parameters, ids: Tensor, kind: str, *, exact: bool = False) -> None:
        self.problem, self.point, self.n, self.kind, self.exact = problem, point, len(ids), kind, exact
        self._products = Products(problem, point)
        self._ids = ids
        self.losses = problem.checked_losses(point)
        self.gradient = self.mean_gradient(ids)

    def mean_gradient(self, ids: Sequence[int] | Tensor) -> Parameters:
        """Mean of ``grad f`` over samples, regulariser included."""
        return objective_gradient(self._products, torch.as_tensor(ids, dtype=torch.long))

    def right_side(self, slices: Slices, ids: Sequence[int]) -> Tensor:
        """``grad F_S - grad F_R`` on the slices: what forgetting the ids changes."""
        m = len(ids)
        return slices.gather(self.mean_gradient(ids)).sub(slices.gather(self.gradient)) * (m / (self.n - m))

    @cached_property
    def pull(self) -> float:
        """Damping that the training asks for, see `pull`."""
        return pull(self.problem, self.point, self.gradient, self._ids)

    @cached_property
    def linear(self) -> Linearisation | None:
        """The model linearised at the point, where it is a chain of layers."""
        if self.kind not in GAUSS_NEWTON:
            return None
        exact = self.exact or self.pull <= LEAST_DAMPING  # nothing then hides what is left out
        return linearise(self.problem, self.point, self.kind, tolerance=0.0 if exact else LEFT_OUT)

    def kfac_greedy(
        self, units: Units, gradient: Parameters, kept: Tensor, max_units: int, *, exact: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Units chosen together on the decrement of the K-FAC model.

        ``exact``: exchanged on the exact curvature afterwards, where the linearised model makes its products cheap.
        """
        if self.linear is None:
            factors, bases = kronecker_factors(self.problem, self.point, kept, self.problem.names), None
        else:
            gone = torch.ones(self.problem.n, dtype=torch.bool)
            gone[kept] = False
            factors, bases = self.linear.factors_without(gone.nonzero()[:, 0]), self.linear.bases
        greedy = KfacGreedy(units, factors, len(kept), self.problem.weight_decay, bases)
        found = greedy.select(gradient, max_units)
        return self._exchanged(greedy, found, units, gradient, kept) if exact and self.linear is not None else found

    def _exchanged(
        self, greedy: KfacGreedy, found: tuple[Tensor, Tensor], units: Units, gradient: Parameters, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        everything = Slices(units)

        def curvature(slices: Slices) -> Curvature:
            return Curvature(self.problem, self.point, kept, slices, self.kind, linearisation=self.linear)

        def solve(chosen: Sequence[int], before: Tensor | None) -> Tensor:
            few = Slices(units, chosen)
            guess = None if before is None else few.gather(everything.scatter(before))
            x = curvature(few).solve(few.gather(gradient), x0=guess, tol=ROUGH).x
            return everything.gather({k: torch.zeros_like(v) for k, v in self.point.items()} | few.scatter(x))

        whole = curvature(everything)
        return exchange(greedy, found, solve, whole.product, everything.gather(gradient), everything)

    def residual_greedy(self, slices: Slices, b: Tensor, kept: Tensor, max_units: int) -> tuple[Tensor, Tensor]:
        """Units chosen one after the other by the residual of the step on those before."""
        curvature = Curvature(self.problem, self.point, kept, slices, self.kind, linearisation=self.linear)
        return residual_greedy(curvature.product, b, slices, max_units)


class SampleLosses:
    """Loss of every training sample at parameters, kept for the two that were asked for last."""

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
            others = [pair for pair in self._known if pair[0] is not params]
            self._known = [*others[-1:], (params, losses)]


class InTraining(Problem):
    """The same problem with batch norms as in training: each batch has a mean and a variance of its own."""

    def __init__(self, problem: Problem, norms: Sequence[str]) -> None:
        vars(self).update(vars(problem))
        self.model = plain_copy(problem.model)
        for name in norms:
            norm: Any = self.model.get_submodule(name).train()
            if isinstance(norm, nn.SyncBatchNorm):  # each batch alone, whatever the number of processes
                vars(norm)["forward"] = MethodType(nn.modules.batchnorm._BatchNorm.forward, norm)

    def share(self, ids: Sequence[int] | Tensor | None = None) -> Tensor:
        """All of the samples: batches are dealt out whole, and so the same for any number of processes."""
        return torch.arange(self.n) if ids is None else torch.as_tensor(ids, dtype=torch.long)

    def batches(self, ids: Sequence[int] | Tensor | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of the samples that fall to this process, none of a single sample."""
        chosen, size = self.share(ids), max(2, size or self.batch_size)
        while len(chosen) % size == 1:
            size += 1
        for part in torch.split(chosen, size)[self.team.rank :: self.team.size]:
            yield Batch(part, *self.fetch(part))


class InDouble(Problem):
    """The same problem with model, data and loss in double precision."""

    def __init__(self, problem: Problem) -> None:
        vars(self).update(vars(problem))
        self.model = plain_copy(problem.model).double()
        if isinstance(getattr(problem._loss, "loss", None), nn.Module):  # it may hold weights of classes
            self._loss = copy.deepcopy(problem._loss)
            cast(Any, self._loss).loss.double()

    def fetch(self, ids: Sequence[int] | Tensor) -> tuple[Any, Any]:
        """Inputs and targets of the samples; real numbers in double precision."""
        inputs, targets = tree_map(_double, super().fetch(ids))
        return inputs, targets


def check_double(problem: Problem) -> None:
    """Refuse what is not computed in double precision, as `gradient_norm` does: no bound would hold.

    A change of the weights that single precision does not show must change the losses as one does that it shows.
    """
    exact = InDouble(problem)
    try:
        batch = next(exact.batches(size=8))
        with torch.no_grad():
            outputs = [exact.outputs(p, batch.inputs) for p in _beside(exact.parameters())]
            losses = [exact.losses(out, batch.targets) for out in outputs]
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"convex=True needs the gradient in double precision, where model or loss fail ({error}). Let their "
            "constants take the type of the inputs, or pass model and train_data in double precision."
        ) from error
    near, far = losses[0] - losses[1], (losses[2] - losses[3]) / 1e3
    size = float(max(part.abs().max() for part in (*outputs, *losses)))
    rounding = ROUNDINGS * len(near) * torch.finfo(torch.float64).eps * size
    single = {outputs[0].dtype, losses[0].dtype} != {torch.float64}
    if single or float((near - far).norm()) > 1e-2 * float(far.norm()) + rounding:
        raise ValueError(
            "convex=True needs the gradient in double precision, and model or loss round to a lower one on the way "
            "(.float() does): bounds would hold for what they compute, not for the loss. Leave the type of the inputs as it "
            "is."
        )


def _beside(params: Parameters) -> Iterator[Parameters]:
    """Parameters beside these, where no output is as small as the change: changed by +-`PROBE`, and 1,000 times that."""
    generator = torch.Generator().manual_seed(0)
    size = {name: float(w.abs().max() or 1.0) for name, w in params.items()}
    place, change = (
        {
            name: size[name] * torch.randn(w.shape, dtype=w.dtype, generator=generator).to(w.device)
            for name, w in params.items()
        }
        for _ in range(2)
    )
    for factor in (PROBE, -PROBE, 1e3 * PROBE, -1e3 * PROBE):
        yield {name: w + 0.1 * place[name] + factor * change[name] for name, w in params.items()}


def gradient_norm(problem: Problem, params: Parameters, ids: Tensor) -> tuple[float, float]:
    """Norm of the mean of ``grad f`` over samples in double precision, and an estimate of what rounding hides of it.

    Each operation rounds about as much as a change of every weight by one part in 2^52 does, so the gradient is taken
    at such weights too; ten times the difference allows for the operations on the way.
    """
    double, eps = InDouble(problem), torch.finfo(torch.float64).eps

    def flat(change: float) -> Tensor:
        signs = torch.Generator().manual_seed(0)
        moved = {
            name: w.double()
            * (1.0 + change * (2.0 * torch.randint(2, w.shape, generator=signs) - 1.0).double().to(w.device))
            for name, w in params.items()
        }
        return torch.cat([g.flatten() for g in objective_gradient(Products(double, moved), ids).values()])

    gradient = flat(0.0)
    norm, hidden = float(gradient.norm()), float((flat(eps) - gradient).norm())
    return norm, ROUNDINGS * hidden + eps * (len(gradient) ** 0.5 + norm)


def training_gradient(problem: Problem, params: Parameters, gradient: Parameters, ids: Tensor) -> Parameters:
    """The objective's gradient over samples as training saw it: batch norms with the statistics of batches.

    Their running statistics leave a gradient that training never saw, several times as long and nearly at right angles
    to the other.

    Parameters
    ----------
    problem : Problem
    params : dict of str to Tensor
    gradient : dict of str to Tensor
        That of the model in evaluation mode: the answer where no batch norm was trained.
    ids : Tensor
    """
    norms = [name for name, module in problem.model.named_modules() if _uses_batches(module)]
    if not norms or len(ids) < 2:
        return gradient
    return objective_gradient(Products(InTraining(problem, norms), params), ids)


def pull(problem: Problem, params: Parameters, gradient: Parameters, ids: Tensor) -> float:
    """Damping for a model that was trained for a while: ``3 ||grad F_S|| / ||w||``.

    Training that ends at a gradient other than zero ends where a stronger pull towards the start would have ended:
    ``grad F_S + mu (w - start) = 0`` has ``mu = ||grad F_S|| / ||w - start||``. The same pull acted on the samples
    that stay, so it damps the step. Scales of norms start at 1; elsewhere the start is not known, ``w`` stands for the
    distance from it, and the factor 3 is measured (docs, "What is measured").

    Parameters
    ----------
    problem, params, gradient, ids
        As in `training_gradient`, whose gradient is the one that counts.
    """
    seen = training_gradient(problem, params, gradient, ids)
    scales = {f"{name}.weight".lstrip(".") for name, m in problem.model.named_modules() if isinstance(m, NORMS)}
    moved = {name: value - 1.0 if name in scales else value for name, value in params.items()}
    size, length = (float(sum(t.double().square().sum() for t in part.values())) for part in (seen, moved))
    return PULL * (size / length) ** 0.5 if length > 0.0 else 0.0


def _uses_batches(module: nn.Module) -> bool:
    """Whether a module is a batch norm that was trained with the statistics of batches."""
    scales = list(module.parameters())
    trained = not scales or any(p.requires_grad for p in scales)
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and trained


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def objective_gradient(products: Products, ids: Tensor) -> Parameters:
    """Mean of ``grad f`` over samples, regulariser included."""
    decay, params = products.problem.weight_decay, products.params
    return {k: g + decay * params[k] for k, g in products.mean_gradient(ids).items()}
