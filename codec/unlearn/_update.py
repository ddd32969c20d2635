"""The step that takes samples out of a trained model.

Trained networks are not stationary, so a Newton step on the retained samples' gradient mostly goes on
training. The default step is the one on what the deletion changed, the difference gradient
``grad F_R(w0) - grad F_S(w0) = (m grad F_S - sum_U grad f) / (n - m)``, taken once, damped, from the anchor w0
for the set of all forgotten samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codec._validation import check_option
from codec.unlearn._curvature import Curvature
from codec.unlearn._linearisation import Linearisation
from codec.unlearn._newton import LAST
from codec.unlearn._point import LEAST_DAMPING, objective_gradient, pull
from codec.unlearn._problem import Problem
from codec.unlearn._products import Products
from codec.unlearn._slices import Slices
from codec.unlearn._solve import Solution

METHODS = (
    "difference",
    "gradient",
    "chained",
    "sekhari",
    "certified_removal",
    "gradient_ascent",
    "paper_step",
)
SYSTEMLESS = ("gradient_ascent", "paper_step")  # methods that solve no linear system
SOLVERS = ("auto", "cg", "cholesky")
DOUBT = 5.0  # of 'auto': most damping of samples that were not learnt, over that of others
DOUBLINGS = 9  # of 'auto', while the step hurts
LENGTHS = (0.5, 2.0)  # of a step whose length is fitted

Guard = Callable[[Mapping[str, Tensor]], float]


@dataclass(frozen=True)
class Step:
    """A change of the parameters of some units.

    Attributes
    ----------
    delta : Tensor, (size,)
        What to add to the slices; zero where the step was refused.
    damping : float
        mu of ``(H_R + mu I)^-1``.
    step_length : float
        Factor of the damped solution, see ``fit_length`` of `deletion_step`.
    decrement : float
        ``1/2 g^T (H_R + mu I)^-1 g``, the predicted decrease.
    iterations : int
        Products with the curvature.
    accepted : bool
    reason : str
        Why, in words; negative curvature that was met is told here.
    retain_objective : (float, float)
        Mean loss of the retained samples plus weight decay, before and after.
    guard : (float, float) or None
        Validation score before and after.
    losses : Tensor (n,) or None
        Loss of every sample after the step, where it was computed.
    """

    delta: Tensor
    damping: float
    step_length: float
    decrement: float
    iterations: int
    accepted: bool
    reason: str
    retain_objective: tuple[float, float]
    guard: tuple[float, float] | None = None
    losses: Tensor | None = None


def deletion_step(
    problem: Problem,
    params: Mapping[str, Tensor],
    forgotten: Sequence[int] | Tensor,
    slices: Slices,
    *,
    method: str = "difference",
    curvature: str = "ggn",
    solver: str = "auto",
    linearisation: Linearisation | None = None,
    damping: float | str = "auto",
    first_damping: float | None = None,
    fit_length: bool = False,
    whole_gradient: Tensor | None = None,
    losses: Tensor | None = None,
    already: Sequence[int] | Tensor = (),
    x0: Tensor | None = None,
    tol: float = 0.1,
    max_iter: int = 100,
    max_rise: float = 0.5,
    guard: Guard | None = None,
    max_drop: float = 0.01,
    present: Mapping[str, Tensor] | None = None,
) -> Step:
    """One damped step that takes samples out.

    Parameters
    ----------
    problem : Problem
    params : dict of str to Tensor
        Where the step starts: the anchor.
    forgotten : ids
        Every sample to take out of the model that ``params`` is.
    slices : Slices
        Parameters that may change.
    method : str, default 'difference'
        'difference': the difference gradient. 'gradient': the retained samples' gradient, for convex models.
        'chained': the difference gradient at parameters from which ``already`` was taken out. 'sekhari': the
        forgotten samples' gradient alone, which takes ``grad F_S = 0`` for granted. 'certified_removal': another name
        of it, the Newton update of Guo et al. (ICML 2020). 'gradient_ascent': no curvature. 'paper_step': the
        released code's rank-one secant, for comparison only.
    curvature : str, default 'ggn'
        Kind of `Curvature`.
    solver : {'auto', 'cg', 'cholesky'}, default 'auto'
        Of its linear system; 'auto': Cholesky up to 128 parameters.
    linearisation : Linearisation, optional
    damping : float or 'auto', default 'auto'
        'auto': ``first_damping``, raised for samples that were not learnt (`doubt`) and at least 1e-4, then doubled
        until the retained objective rises by no more than ``max_rise`` of its size and the guard holds.
    first_damping : float, optional
        Where 'auto' begins for samples that the model has learnt. Default: `pull` of the model.
    fit_length : bool, default False
        Whether the step is made longer or shorter, within a factor of two, until the forgotten samples' loss is what
        the model linearised at ``params`` predicts for the whole step.
    whole_gradient : Tensor, (size,), optional
        Mean gradient of all samples but ``already``, with weight decay; computed if not given.
    losses : Tensor (n,), optional
        Loss of every sample at ``params``; computed if not given.
    already : ids
        Samples that ``params`` is without.
    x0 : Tensor, optional
        Last request's ``delta``: where conjugate gradients start.
    tol, max_iter
        Of conjugate gradients.
    max_rise : float, default 0.5
        Most rise of the retained objective, relative to its size.
    guard : callable, optional
        Validation score of parameters, larger is better.
    max_drop : float, default 0.01
        Most that the score may fall below that of ``present``.
    present : dict of str to Tensor, optional
        The parameters as they are, from which ``params`` may be several requests away. Default: ``params``.

    Returns
    -------
    Step

    Raises
    ------
    ValueError
        Unknown method, nothing forgotten or nothing retained, or a damping that is no positive number.
    """
    work = _Work(problem, params, forgotten, already, slices, losses, present)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(map(repr, METHODS))}.")
    operator = Curvature(problem, params, work.retained, slices, curvature, linearisation=linearisation)
    b = work.right_side(operator, method, whole_gradient)
    if damping == "auto":
        first_damping = damping_for(problem, work.gone, work.pull() if first_damping is None else first_damping)
    best: Step | None = None
    for mu in _dampings(damping, first_damping):
        last = LAST if damping == "auto" else 1.0  # a number is taken at its word
        solution = _direction(work, operator, b, method, mu, x0, tol, max_iter, solver, last)
        length = work.fitted_length(solution.x) if fit_length else 1.0
        best = work.judge(solution, length, b, max_rise, guard, max_drop)
        if best.accepted:
            return best
        x0 = solution.x
    if best is None:
        raise ValueError("damping offers no candidate.")
    return replace(best, delta=torch.zeros_like(best.delta))


def check_solver(solver: str, curvature: str, method: str) -> None:
    """Refuse a solver that the curvature or the method has no use for."""
    check_option(solver, "solver", SOLVERS)
    alone = [f"curvature={curvature!r}"] * (curvature == "kfac") + [f"update={method!r}"] * (method in SYSTEMLESS)
    if solver != "auto" and alone:
        raise ValueError(f"solver is {solver!r}, but {alone[0]} has no linear system to solve; leave solver='auto'.")


def doubt(losses: Tensor) -> float:
    """How much more a step is damped where the model has not learnt what it is to forget: ``1 / (1 - r^2)``.

    r is the mean over the samples of one minus the probability of the target; 5 at most. What was never learnt acted
    through a network that had yet to become what it is; linearised where training ended, that network takes such samples
    for more than they were. Measured, not derived (docs, "What is measured").

    Parameters
    ----------
    losses : Tensor (m,)
        Negative log-probabilities of the forgotten samples' targets.
    """
    known = float(losses.neg().exp().mean())
    return 1.0 / max(known * (2.0 - known), 1.0 / DOUBT)


def damping_for(problem: Problem, losses: Tensor, whole: float) -> float:
    """Where 'auto' begins for samples of these losses (m,), ``whole`` for those that the model has learnt."""
    return max(LEAST_DAMPING, whole * (doubt(losses) if problem.likelihood else 1.0))


def newton_steps(
    problem: Problem,
    params: Mapping[str, Tensor],
    forgotten: Sequence[int] | Tensor,
    slices: Slices,
    *,
    n_steps: int = 1,
    curvature: str = "ggn",
    solver: str = "auto",
    tol: float = 1e-8,
    max_iter: int = 500,
    guard: Guard | None = None,
    max_drop: float = 0.01,
) -> Step:
    """Exact Newton steps on the retained objective, for convex models.

    Each takes gradient and curvature anew; no damping beyond the weight decay. Accepted if the objective does not rise
    and the guard holds.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}; it must be at least 1.")
    work = _Work(problem, params, forgotten, (), slices, torch.zeros(problem.n))
    moved, solutions = dict(params), []
    for _ in range(n_steps):
        operator = Curvature(problem, moved, work.retained, slices, curvature)
        found = operator.solve(-operator.gradient(work.retained), tol=tol, max_iter=max_iter, method=solver)
        moved = slices.add(moved, found.x)
        solutions.append(found)
    before, after = work.objective(params), work.objective(moved)
    said = f"retained objective {before:.6g} -> {after:.6g} in {n_steps} Newton steps"
    scores = None if guard is None else (guard(params), guard(moved))
    fallen = scores is not None and not scores[1] >= scores[0] - max_drop
    if scores is not None and fallen:
        said += f"; guard {scores[0]:.4g} -> {scores[1]:.4g}, more than the allowed drop of {max_drop:.4g}"
    ok = after <= before + 1e-6 * abs(before) and not fallen  # the slack is for rounding
    total, products = torch.stack([s.x for s in solutions]).sum(0), sum(s.iterations for s in solutions)
    delta = total if ok else torch.zeros_like(total)
    return Step(delta, 0.0, 1.0, before - after, products, ok, said, (before, after), scores)


def captured_decrement(operator: Curvature, g: Tensor, part: Sequence[int] | Tensor, tol: float = 1e-3) -> float:
    """Share of the full Newton decrease ``1/2 g^T H^-1 g`` that a step on some units alone has, in [0, 1].

    Parameters
    ----------
    operator : Curvature
        On all the units.
    g : Tensor, (size,)
        Gradient on all the units.
    part : ids of units, ascending
    tol : float, default 1e-3
        Of both solutions.
    """
    whole = float(g @ operator.solve(g, tol=tol, max_iter=1000).x)
    if whole <= 0.0:
        return 1.0
    few = Slices(operator.slices.units, part)
    linearisation = operator.linearisation
    restricted = Curvature(
        operator.problem, operator.params, operator.retain_ids, few, operator.kind, linearisation=linearisation
    )
    g_part = few.gather(operator.slices.scatter(g))
    return min(1.0, float(g_part @ restricted.solve(g_part, tol=tol, max_iter=1000).x) / whole)


def gradient_norm_units(slices: Slices, g: Tensor, n_units: int) -> Tensor:
    """The units with the largest gradients, ascending: the budget's plain alternative."""
    sums = slices.unit_sums(g.square())
    places = sums.topk(min(n_units, len(sums))).indices.sort().values.cpu()
    return places if slices.selected is None else slices.selected[places]


class _Work:
    """What every method needs of one request."""

    def __init__(
        self,
        problem: Problem,
        params: Mapping[str, Tensor],
        forgotten: Sequence[int] | Tensor,
        already: Sequence[int] | Tensor,
        slices: Slices,
        losses: Tensor | None,
        now: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.problem, self.params, self.slices = problem, dict(params), slices
        self._now = self.params if now is None else now
        self._score: float | None = None  # of the parameters as they are: the same for every damping
        gone = torch.as_tensor(already, dtype=torch.long)
        present = torch.ones(problem.n, dtype=torch.bool)
        present[gone] = False
        self.forgotten = torch.as_tensor(sorted(set(torch.as_tensor(forgotten).tolist())), dtype=torch.long)
        if not len(self.forgotten) or not bool(present[self.forgotten].all()):
            raise ValueError("forgotten must be samples that are still in the model, at least one.")
        self.everyone = present.nonzero()[:, 0]
        present[self.forgotten] = False
        self.retained = present.nonzero()[:, 0]
        if not len(self.retained):
            raise ValueError("forgotten holds every sample: nothing would be retained.")
        known = problem.sample_losses(params) if losses is None else losses
        self.before = float(known[self.retained].mean()) + problem.regularizer(params)
        self.gone = known[self.forgotten]

    def pull(self) -> float:
        """`pull` of the model that the step starts from."""
        gradient = objective_gradient(Products(self.problem, self.params), self.everyone)
        return pull(self.problem, self.params, gradient, self.everyone)

    def right_side(self, operator: Curvature, method: str, whole: Tensor | None) -> Tensor:
        """Minus the gradient that the step goes along; the forgotten samples' weight decay is in it."""
        m, n = len(self.forgotten), len(self.everyone)
        gone = operator.gradient(self.forgotten)
        if method in {"sekhari", "certified_removal", "gradient_ascent", "paper_step"}:
            return gone * (m / (n - m))
        every = operator.gradient(self.everyone) if whole is None else whole
        if method == "gradient":
            return (m * gone - n * every) / (n - m)
        return (gone - every) * (m / (n - m))

    def fitted_length(self, x: Tensor) -> float:
        """The factor at which the forgotten samples' loss is what the linearised model predicts for all of x.

        A step is shortened down to half, and made longer, up to twice, only where that suffices.
        """
        problem, direction = self.problem, self.slices.scatter(x)
        products = Products(problem, self.params, self.slices.parameters)
        with torch.no_grad():
            found = [
                problem.losses(products.linearised(batch, direction), batch.targets)
                for batch in problem.batches(self.forgotten)
            ]
        wanted = problem.team.of_first(float(torch.cat(found).mean()))  # how often losses are asked for hangs on it

        def loss(length: float) -> float:
            return float(problem.sample_losses(self.slices.add(self.params, x, length), self.forgotten).mean())

        return _crossing(loss, wanted, *LENGTHS)

    def objective(self, params: Mapping[str, Tensor]) -> float:
        """Mean loss of the retained samples plus weight decay."""
        losses = self.problem.sample_losses(params, self.retained)
        return float(losses.mean()) + self.problem.regularizer(params)

    def judge(
        self, found: Solution, length: float, b: Tensor, max_rise: float, guard: Guard | None, max_drop: float
    ) -> Step:
        """The step, accepted if the retained objective and the guard allow it."""
        moved = self.slices.add(self.params, found.x, length)
        losses = self.problem.sample_losses(moved)
        after = float(losses[self.retained].mean()) + self.problem.regularizer(moved)
        scores = None if guard is None else (self._present_score(guard), guard(moved))
        risen = not after <= self.before + max_rise * abs(self.before)  # also where it is not a number
        fallen = scores is not None and not scores[1] >= scores[0] - max_drop
        reasons = [f"retained objective {self.before:.4g} -> {after:.4g}"]
        if risen:
            reasons.append(f"more than the allowed rise of {max_rise:.0%}")
        if scores is not None and fallen:
            reasons.append(f"guard {scores[0]:.4g} -> {scores[1]:.4g}, more than the allowed drop of {max_drop:.4g}")
        if found.steps > 1:
            reasons.append(f"{found.steps} Newton steps on the linearised model")
        if found.negative_curvature < 0.0:
            reasons.append(
                f"negative curvature {found.negative_curvature:.3g} met, damping raised to {found.damping:.3g}"
            )
        decrement = 0.5 * float(b @ found.x)
        ok, text = not (risen or fallen), "; ".join(reasons)
        objective, delta = (self.before, after), length * found.x
        return Step(delta, found.damping, length, decrement, found.iterations, ok, text, objective, scores, losses)

    def _present_score(self, guard: Guard) -> float:
        if self._score is None:
            self._score = guard(self._now)
        return self._score


def _direction(
    work: _Work,
    operator: Curvature,
    b: Tensor,
    method: str,
    mu: float,
    x0: Tensor | None,
    tol: float,
    max_iter: int,
    solver: str,
    last: float,
) -> Solution:
    least = mu + work.problem.weight_decay
    if method == "gradient_ascent":
        return Solution(b / least, 0, 0.0, mu, method="ascent")
    if method == "paper_step":
        return Solution(_rank_one(work, b, least), 0, 0.0, mu, method="secant")
    first = operator.solve(b, mu, x0=x0, tol=tol, max_iter=max_iter, method=solver)
    return operator.minimise(first, b, tol=tol, max_iter=max_iter, last=last) if method == "difference" else first


def _rank_one(work: _Work, b: Tensor, damping: float) -> Tensor:
    """``(y y^T / ||s||_1 + damping I)^-1 b``, y the change of the forgotten gradient along s (Sherman-Morrison)."""
    slices, problem = work.slices, work.problem
    ends = []
    for h in (0.0, 1e-3):
        there = Products(problem, slices.add(work.params, b, h), slices.parameters)
        ends.append(slices.gather(there.mean_gradient(work.forgotten)))
    y, length = ends[1] - ends[0], float(1e-3 * b.abs().sum())
    if length == 0.0:
        return torch.zeros_like(b)
    bent: Tensor = (b - y * ((y @ b) / (damping * length + y @ y))) / damping
    return bent


def _dampings(damping: float | str, first: float | None) -> tuple[float, ...]:
    if damping == "auto" and first is not None:
        return tuple(first * 2.0**k for k in range(DOUBLINGS + 1))
    if isinstance(damping, str) or not damping >= 0.0:
        raise ValueError(f"damping is {damping!r}; it must be 'auto' or a number of 0 or more.")
    return (float(damping),)


def _crossing(f: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where f takes a value, to two per cent of it, between low and high; 1 where it has it there already.

    f need not grow: 1 where nothing up to ``high`` is enough, ``low`` where even that is too much. Secants between
    two places that enclose it; a place that stays twice counts half (Illinois), and none comes too near the last.
    """
    close, side = 0.02 * abs(wanted), 0
    over, there = f(1.0) - wanted, 1.0
    if abs(over) <= close:
        return 1.0
    if over < 0.0:
        (low, under), (high, over) = (1.0, over), (high, f(high) - wanted)
        if over < 0.0:
            return 1.0
    else:
        (low, under), high = (low, f(low) - wanted), 1.0
        if under > 0.0:
            return low
    for _ in range(6):
        share = min(max(-under / (over - under), 0.1), 0.9) if over > under else 0.5
        there = low + share * (high - low)
        rest = f(there) - wanted
        if abs(rest) <= close:
            break
        if rest < 0.0:
            over, side = (over / 2.0 if side < 0 else over), -1
            low, under = there, rest
        else:
            under, side = (under / 2.0 if side > 0 else under), 1
            high, over = there, rest
    return there
