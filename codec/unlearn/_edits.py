"""Baselines that edit the weights in one go: noise, dampening, Newton steps; and the record of any baseline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec._validation import as_generator, check_amount, check_integer, check_positive
from codec.unlearn._curvature import Curvature, linearise
from codec.unlearn._deletion import Deletion
from codec.unlearn._kfac import NoFactorsError, kronecker_factors
from codec.unlearn._options import units_of
from codec.unlearn._problem import Problem, outside_modes
from codec.unlearn._products import Products, check_curved
from codec.unlearn._requests import Request, fresh_ids, others, read_ids
from codec.unlearn._slices import Slices
from codec.unlearn._training import ONE_LOGIT, State, check_problem, seed_for, whole_state
from codec.unlearn._units import Units, find_units

Choice = tuple[Units, Tensor, tuple[float, ...]]
ROWS = 64  # sample gradients in memory at a time


# --------------------------------------------------------------------------- editing weights
def fisher_forgetting(
    problem: Problem,
    ids: Request,
    *,
    alpha: float = 1e-6,
    power: float = 0.5,
    most: float = 1e3,
    random_state: Any = None,
) -> Deletion:
    """Add noise where the retained samples do not feel it.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors.
    alpha : float, default 1e-6
        Variance of the noise at Fisher information 1, as in the authors' code; at least 0.
    power : float, default 0.5
        The deviation is ``sqrt(alpha) F^-power``: 1/2 in the authors' code; 1/4 in the paper, with
        ``alpha = sqrt(lambda sigma_h^2)``. That code also averages the variances of a row and multiplies those of
        the last layer and of norms by 10, of which the paper says nothing; this does not.
    most : float, default 1000
        Largest 1 / F, positive.
    random_state : None, int, SeedSequence or Generator, default None
        Of the noise.

    Returns
    -------
    Deletion

    Raises
    ------
    ValueError
        ``alpha``, ``power`` or ``most`` out of range, or a problem that has no class a sample.

    References
    ----------
    .. [1] Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020, section 4.1:
       ``S(w) = w + (lambda sigma_h^2)^(1/4) F^(-1/4) n``, F the diagonal Fisher information of the retained
       samples with expected labels.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> baselines.fisher_forgetting(problem, [1], alpha=0.0, random_state=0).distance
    0.0
    """
    check_amount(alpha, "alpha")
    check_amount(power, "power")
    check_positive(most, "most")
    generator = torch.Generator().manual_seed(seed_for(problem, random_state))

    def run(forget: Tensor, retain: Tensor) -> State:
        del forget
        slices = _all_parameters(problem)
        fisher = _fisher_diagonal(problem, slices, retain)
        noise = torch.randn(slices.size, generator=generator, dtype=fisher.dtype).to(fisher.device)
        # S(w) = w + (lambda sigma_h^2)^(1/4) F^(-1/4) n
        step = alpha**0.5 * (fisher + 1e-8).reciprocal().clamp(max=most) ** power * noise
        return slices.add(problem.parameters(), step)

    return record_baseline(problem, ids, "fisher_forgetting", run)


def selective_synaptic_dampening(
    problem: Problem, ids: Request, *, alpha: float = 10.0, dampening: float = 1.0
) -> Deletion:
    """SSD: shrink the parameters that matter far more to the forgotten samples than to all.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors.
    alpha : float, default 10
        A parameter is chosen when it matters more than alpha times as much to the forgotten samples; at least 0.
    dampening : float, default 1
        lambda, at least 0: the less, the less is left of a chosen parameter.

    Returns
    -------
    Deletion

    Raises
    ------
    ValueError
        ``alpha`` or ``dampening`` below 0.

    References
    ----------
    .. [1] Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
       Dampening", AAAI 2024, equations 5 and 6: ``w_i <- min(lambda I_S,i / I_U,i, 1) w_i`` where
       ``I_U,i > alpha I_S,i``. Importances I are mean squares of sample gradients, over the forgotten samples U and
       over all samples S.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> deletion = baselines.selective_synaptic_dampening(problem, [1], alpha=1.0, dampening=0.5)
    >>> after, before = deletion.parameters["weight"], problem.parameters()["weight"]
    >>> bool((after.abs() <= before.abs()).all()), deletion.distance > 0
    (True, True)
    """
    check_amount(alpha, "alpha")
    check_amount(dampening, "dampening")

    def run(forget: Tensor, retain: Tensor) -> State:
        slices = _all_parameters(problem)
        of_all = _importance(problem, slices, torch.cat([forget, retain]).sort().values)
        of_forgotten = _importance(problem, slices, forget)
        # theta_i = beta theta_i where I_U,i > alpha I_D,i   (5);  beta = min(lambda I_D,i / I_U,i, 1)   (6)
        beta = (dampening * of_all / of_forgotten.clamp(min=torch.finfo(of_all.dtype).tiny)).clamp(max=1.0)
        kept = torch.where(of_forgotten > alpha * of_all, beta, 1.0)
        params = problem.parameters()
        return slices.add(params, (kept - 1.0) * slices.gather(params))

    return record_baseline(problem, ids, "selective_synaptic_dampening", run)


# --------------------------------------------------------------------------- Newton steps
def newton(
    problem: Problem,
    ids: Request,
    *,
    damping: float = 0.0,
    gradient: str = "difference",
    curvature: str = "ggn",
    tol: float = 1e-3,
    max_iter: int = 200,
) -> Deletion:
    """One Newton step on all parameters, ``w <- w - (H_R + mu I)^-1 g``.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors.
    damping : float, default 0
        mu, at least 0; networks need it (some six times the weight decay).
    gradient : {'difference', 'retain'}, default 'difference'
        g: ``grad F_R - grad F_S``, which forgets and does not go on training; or ``grad F_R``, the textbook's. They
        are the same at an optimum.
    curvature : {'ggn', 'hessian', 'fisher', 'empirical_fisher', 'kfac', 'secant'}, default 'ggn'
        H_R, of the retained samples: generalised Gauss-Newton; exact Hessian; Fisher information with expected labels;
        the same with observed labels, for comparison; Kronecker factors, as in :func:`kfac`; Hessian by central
        differences.
    tol : float, default 1e-3
        Of conjugate gradients, relative to the norm of g; at least 0.
    max_iter : int, default 200
        Most steps of conjugate gradients, at least 1.

    Returns
    -------
    Deletion

    Raises
    ------
    ValueError
        ``damping`` or ``tol`` below 0, ``max_iter`` below 1, or an unknown ``gradient`` or ``curvature``.

    References
    ----------
    .. [1] Sekhari, Acharya, Kamath, Suresh, "Remember What You Want to Forget", NeurIPS 2021, algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> before, after = baselines.newton(problem, [1], damping=0.1).forget_loss
    >>> after > before
    True
    """
    return _step_on(problem, ids, "newton", "all", None, damping, gradient, curvature, tol, max_iter)


def kfac(problem: Problem, ids: Request, *, damping: float = 0.0, gradient: str = "difference") -> Deletion:
    """One Newton step with Kronecker-factored curvature, ``H_R ~ A (x) G`` layer by layer [1]_.

    Linear layers and ungrouped convolutions are changed; what has no factors (norms, embeddings, attention's own
    parameters, layers that share them) stays as it is.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors.
    damping : float, default 0
        mu, as in :func:`newton`; of ``A (x) G``, not of its factors. Weight decay or damping must be positive.
    gradient : {'difference', 'retain'}, default 'difference'
        As in :func:`newton`.

    Returns
    -------
    Deletion

    Raises
    ------
    ValueError
        No layer that has factors, outputs that are no vector a sample, or neither weight decay nor damping.

    Notes
    -----
    G is that of the generalised Gauss-Newton matrix. In A a sample counts by its share of the trace of the loss's
    curvature in the outputs, and not as in [1]_ by 1 / (n - m): a tenth of a trained network's samples hold most of
    the curvature.

    References
    ----------
    .. [1] Martens, Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015:
       A the second moment of a layer's inputs, G of the gradients of its outputs.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> before, after = baselines.kfac(problem, [1], damping=0.1).forget_loss
    >>> after > before
    True
    """
    return _step_on(problem, ids, "kfac", "all", None, damping, gradient, "kfac", 1e-3, 200)


def random_units(
    problem: Problem,
    ids: Request,
    *,
    n_units: int,
    units: Units | None = None,
    random_state: Any = None,
    damping: float = 0.0,
    gradient: str = "difference",
    curvature: str = "ggn",
) -> Deletion:
    """The Newton step on units drawn at random.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors.
    n_units : int
        Units to change, from 1 to all (else ValueError).
    units : Units, optional
        Cut of the model. Default: that of :func:`codec.unlearn.find_units`.
    random_state : None, int, SeedSequence or Generator, default None
        Of the draw, without replacement.
    damping, gradient, curvature
        As in :func:`newton`, with the same errors.

    Returns
    -------
    Deletion

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> len(baselines.random_units(problem, [1], n_units=2, damping=0.1, random_state=0).units)
    2
    """
    check_problem(problem)
    problem.team.check_seed(random_state)
    every = _units_for(problem, units, n_units)
    rng = as_generator(random_state, "random_state")
    chosen = torch.as_tensor(np.sort(rng.choice(every.n_units, n_units, replace=False)))
    return _step_on(
        problem, ids, "newton", "random", lambda _: (every, chosen, ()), damping, gradient, curvature, 1e-3, 200
    )


def gradient_norm_units(
    problem: Problem,
    ids: Request,
    *,
    n_units: int,
    units: Units | None = None,
    damping: float = 0.0,
    gradient: str = "difference",
    curvature: str = "ggn",
) -> Deletion:
    """The Newton step on the units with the largest gradients of the forgotten samples' loss.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors.
    n_units : int
        Units to change, from 1 to all (else ValueError): those with the largest ``||grad mean_U loss||`` on their
        parameters.
    units : Units, optional
        Cut of the model. Default: that of :func:`codec.unlearn.find_units`.
    damping, gradient, curvature
        As in :func:`newton`, with the same errors.

    Returns
    -------
    Deletion
        ``units`` are in order of their numbers, ``scores`` the norms.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> deletion = baselines.gradient_norm_units(problem, [1], n_units=2, damping=0.1)
    >>> len(deletion.units), 1 in deletion.units
    (2, True)
    """
    check_problem(problem)
    every = _units_for(problem, units, n_units)

    def choose(forget: Tensor) -> Choice:
        slices = Slices(every, torch.arange(every.n_units))
        products = Products(problem, problem.parameters(), slices.parameters)
        norms = slices.unit_sums(slices.gather(products.mean_gradient(forget)).square()).sqrt()
        best = norms.argsort(descending=True, stable=True)[:n_units].sort().values
        return every, best.cpu(), tuple(norms[best].tolist())

    return _step_on(problem, ids, "newton", "gradient_norm", choose, damping, gradient, curvature, 1e-3, 200)


def paper_step(
    problem: Problem,
    ids: Request,
    *,
    units: Units | None = None,
    selected: Tensor | None = None,
    damping: float = 0.01,
    earlier: State | None = None,
) -> Deletion:
    """The step that the released code of the method's paper takes, for comparison only.

    Its Hessian is the rank-one ``y y^T / ||s||_1`` of a difference of gradients y over a difference of
    parameters s, and the sample's own Hessian is exactly zero, so that the step is next to
    ``gradient / (damping (n - 1))``: gradient ascent. One sample after the other, as in its experiments.

    Parameters
    ----------
    problem, ids
        As in :func:`retrain`, with the same errors; ids in the order in which they are forgotten.
    units : Units, optional
        Cut of the model. Default: that of :func:`codec.unlearn.find_units`, without what cannot be cut.
    selected : LongTensor of shape (k,), optional
        Change these units alone, in ascending order. Default: all parameters.
    damping : float, default 0.01
        Its ``l2_reg``, positive.
    earlier : dict of str to Tensor, optional
        Parameters one epoch before the end of training, for y and s. Default: the end point of one step of
        gradient descent on the training loss with rate 0.001, as its code has for a sample.

    Returns
    -------
    Deletion

    Raises
    ------
    ValueError
        ``damping`` is not positive, ``selected`` is empty or names no unit, or ``earlier`` lacks parameters or is where
        the model is.

    References
    ----------
    .. [1] Mehta, Pal, Singh, Ravi, "Deep Unlearning via Randomized Conditionally Independent Hessians", CVPR
       2022, equation 5, as released: ``w <- w + 1 / (n - 1) (n / (n - 1) y y^T / ||s||_1 + damping I)^-1 grad loss``.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> X, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1)
    >>> before, after = baselines.paper_step(problem, [1], damping=1.0).forget_loss
    >>> after > before
    True
    """
    check_problem(problem)
    check_positive(damping, "damping")
    every = units_of(find_units(problem.model, unsupported="skip") if units is None else units, problem.model)
    slices = Slices(every, selected if selected is None else _unit_numbers(selected))
    report: dict[str, Any] = {"damping": damping}
    if slices.selected is not None:
        chosen = slices.selected
        report |= {"selector": "given", "units": tuple(chosen.tolist()), "labels": every.labels(chosen)}
    start = earlier if earlier is None else whole_state(problem, earlier)

    def run(forget: Tensor, retain: Tensor) -> State:
        params: dict[str, Tensor] = problem.parameters()
        y, s = _secant(problem, params, slices, start)
        if not bool(s.any()):
            raise ValueError(
                "earlier holds the parameters that the model has now; the step needs two points: pass those of an epoch "
                "before the end of training, or leave earlier out."
            )
        n = len(forget) + len(retain)
        scale = n / (n - 1) / float(s.abs().sum())  # H = (n H_S - H_z) / (n - 1), H_z = 0
        for i in forget:
            g = slices.gather(Products(problem, params, slices.parameters).mean_gradient(i[None]))
            # (scale y y^T + damping I)^-1 g, by Sherman and Morrison
            inner = scale * (y @ g) / (damping + scale * (y @ y))
            params = slices.add(params, (g - inner * y) / damping, 1 / (n - 1))
        return params

    return record_baseline(problem, ids, "paper_step", run, report=report)


# --------------------------------------------------------------------------- shared
def _step_on(
    problem: Problem,
    ids: Request,
    method: str,
    selector: str,
    choose: Callable[[Tensor], Choice] | None,
    damping: float,
    gradient: str,
    curvature: str,
    tol: float,
    max_iter: int,
) -> Deletion:
    """``w - (H_R + mu I)^-1 g`` on the slices of the chosen units."""
    if gradient not in {"difference", "retain"}:
        raise ValueError(f"gradient must be 'difference' or 'retain', got {gradient!r}.")
    check_amount(damping, "damping")
    check_amount(tol, "tol")
    check_integer(max_iter, "max_iter", 1)
    if curvature in {"ggn", "kfac"}:
        check_curved(problem, curvature)
    report: dict[str, Any] = {"selector": selector, "damping": damping, "step_length": 1.0}

    def run(forget: Tensor, retain: Tensor) -> State:
        params = problem.parameters()
        if choose is not None:
            every, chosen, scores = choose(forget)
            slices = Slices(every, chosen)
            report.update(units=tuple(chosen.tolist()), labels=every.labels(chosen), scores=scores)
        else:
            slices = _with_factors(problem, retain) if curvature == "kfac" else _all_parameters(problem)
        fast = linearise(problem, params, "ggn", tolerance=0.0) if curvature in {"ggn", "kfac"} else None
        local = Curvature(problem, params, retain, slices, curvature, linearisation=fast)
        g = local.gradient(retain)
        if gradient == "difference":
            g = g - local.gradient(torch.arange(problem.n))
        # w - (H_R + mu I)^-1 g, g the gradient of R or its difference to that of all
        found = local.solve(g, damping, tol=tol, max_iter=max_iter)
        report.update(damping=found.damping, iterations=found.iterations)
        return slices.add(params, found.x, -1.0)

    return record_baseline(problem, ids, method, run, report=report)


@outside_modes
def record_baseline(
    problem: Problem,
    ids: Request,
    method: str,
    run: Callable[[Tensor, Tensor], State],
    *,
    report: Mapping[str, Any] | None = None,
) -> Deletion:
    """Run a method and write down what it did; only its own time counts."""
    check_problem(problem)
    sparse = [name for name, module in problem.model.named_modules() if getattr(module, "sparse", False)]
    if sparse:
        raise ValueError(f"model: {sparse[0]!r} gives sparse gradients, which no baseline takes: set sparse=False.")
    wanted = fresh_ids(read_ids(ids, problem.n, problem.source), (), problem.n, "raise")
    forget, retain = torch.tensor(wanted), others(wanted, problem.n)
    start = time.process_time()
    after = run(forget, retain)
    seconds = time.process_time() - start
    after = {name: value.detach().clone() for name, value in after.items()}  # what did not move is the problem's own
    before = problem.parameters()
    losses = [problem.sample_losses(state).cpu() for state in (before, after)]
    moved = sum(float((after[name] - before[name]).square().sum()) for name in problem.names)
    return Deletion(
        **{
            "id": 0,
            "forgotten": tuple(wanted),
            "method": method,
            "selector": "all",
            "accepted": True,
            "reason": "a baseline takes its step unconditionally",
            "retain_loss": (float(losses[0][retain].mean()), float(losses[1][retain].mean())),
            "forget_loss": (float(losses[0][forget].mean()), float(losses[1][forget].mean())),
            "distance": moved**0.5,
            "timings": {method: seconds},
            "parameters": after,
            **(report or {}),
        }
    )


def _all_parameters(problem: Problem) -> Slices:
    return Slices(find_units(problem.model, unsupported="skip"))


def _with_factors(problem: Problem, retain: Tensor) -> Slices:
    """The parameters of the layers that K-FAC knows and the model calls."""
    try:
        factors = kronecker_factors(problem, problem.parameters(), retain[:ROWS], problem.names)
    except NoFactorsError as error:
        raise ValueError(f"{_reason(error)}; newton(..., curvature='ggn') takes any model.") from error
    known = {name for factor in factors for name in (factor.weight, factor.bias)}
    every = find_units(problem.model, unsupported="skip")
    units = every.keep(lambda layer: all(part.parameter in known for part in layer.parts))
    if not units.n_units:
        raise ValueError(
            "K-FAC knows no layer of this model: no linear layer or ungrouped convolution that is called as a module and "
            "has parameters of its own; newton(..., curvature='ggn') takes any model."
        )
    return Slices(units, torch.arange(units.n_units))


def _fisher_diagonal(problem: Problem, slices: Slices, retain: Tensor) -> Tensor:
    """Diagonal Fisher information of the retained samples with expected labels."""
    try:
        return Curvature(problem, problem.parameters(), retain, slices, "fisher").diagonal() - problem.weight_decay
    except ValueError as error:
        raise ValueError(
            f"{_reason(error)}. Fisher forgetting needs integer classes, one a sample, and a loss like 'cross_entropy'. "
            f"{ONE_LOGIT}"
        ) from error


def _reason(error: ValueError) -> str:
    """What was wrong, without advice that is about arguments of other functions."""
    return str(error).partition(";")[0].rstrip(".")


def _importance(problem: Problem, slices: Slices, ids: Tensor) -> Tensor:
    """Mean over samples of the squares of the gradients of their losses."""
    params = problem.parameters()
    products = Products(problem, params, slices.parameters)
    total = {name: torch.zeros_like(params[name]) for name in slices.parameters}
    for batch in problem.batches(ids, ROWS):
        for name, g in products.sample_gradients(batch).items():
            total[name] += g.square().sum(0)
    return slices.gather(total) / len(ids)


def _secant(problem: Problem, params: State, slices: Slices, earlier: State | None) -> tuple[Tensor, Tensor]:
    """Differences of the training gradient and of the parameters between two points."""
    everyone = torch.arange(problem.n)
    here = slices.gather(Products(problem, params, slices.parameters).mean_gradient(everyone))
    other = slices.add(params, here, -1e-3) if earlier is None else earlier
    there = slices.gather(Products(problem, other, slices.parameters).mean_gradient(everyone))
    return here - there, slices.gather(params) - slices.gather(other)


def _unit_numbers(selected: Any) -> Tensor:
    found = torch.as_tensor(selected)
    if found.is_floating_point() or found.dtype == torch.bool or not found.numel():
        raise ValueError(f"selected is {selected!r}; it must hold the numbers of one unit or more, in ascending order.")
    return found


def _units_for(problem: Problem, units: Units | None, n_units: int) -> Units:
    """The cut of the model, of which so many units are asked for."""
    every = units_of("auto" if units is None else units, problem.model)
    check_integer(n_units, "n_units", 1, every.n_units)
    return every
