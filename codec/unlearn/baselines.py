"""Other ways to forget, from their papers, for comparison: the same call, the same result.

Every function takes a `Problem` and the ids to forget, works on a copy and returns a `Deletion` whose
``parameters`` are the trainable parameters afterwards (with the buffers that training moved); the model with them is
``problem.model_with(deletion.parameters)``. Defaults are
those of the paper or of its authors' code; the papers tune them for each model, and so must who compares. In
equations R are the retained samples and U the forgotten ones.

None of these proves anything. `retrain` is the reference that every other method is to be held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from codec._validation import check_amount, check_integer, check_positive
from codec.unlearn._deletion import Deletion
from codec.unlearn._edits import (
    fisher_forgetting,
    gradient_norm_units,
    kfac,
    newton,
    paper_step,
    random_units,
    record_baseline,
    selective_synaptic_dampening,
)
from codec.unlearn._problem import Batch, Problem
from codec.unlearn._products import Products
from codec.unlearn._requests import Request
from codec.unlearn._training import (
    Pass,
    Recipe,
    State,
    changed_state,
    check_classes,
    check_recipe,
    check_share,
    class_axis,
    fresh_copy,
    loss_of,
    outputs_of,
    partners,
    relabelled,
    seed_for,
    train,
    working_copy,
    wrong_labels,
)

__all__ = [
    "Recipe",
    "bad_teacher",
    "fine_tune",
    "fisher_forgetting",
    "gradient_ascent",
    "gradient_norm_units",
    "kfac",
    "neg_grad_plus",
    "newton",
    "paper_step",
    "random_labels",
    "random_units",
    "retrain",
    "salun",
    "scrub",
    "selective_synaptic_dampening",
]

RETRAIN = Recipe(epochs=40, lr=0.05, batch_size=250, schedule="cosine")
FINE_TUNE = Recipe(epochs=10, lr=0.01)
ASCENT = Recipe(epochs=5, lr=1e-4)
NEG_GRAD = Recipe(epochs=10, lr=0.01, batch_size=128)
RANDOM_LABELS = Recipe(epochs=3, lr=1e-4, batch_size=128, optimizer="adam", weight_decay=0.0)
SALUN = Recipe(epochs=10, lr=0.1)
SCRUB = Recipe(epochs=10, lr=5e-4, batch_size=32, optimizer="adam", schedule=(5, 8, 9))
BAD_TEACHER = Recipe(epochs=1, lr=1e-4, optimizer="adam", weight_decay=0.0)

Passes = Callable[[int], list[Pass]]


# --------------------------------------------------------------------------- training
def retrain(
    problem: Problem,
    ids: Request,
    recipe: Recipe = RETRAIN,
    *,
    initial: State | None = None,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """Train anew without the samples: what forgetting means, and the price of it.

    Parameters
    ----------
    problem : Problem
        Trained model, loss and training data; not changed.
    ids : int, sequence or set of int, boolean mask of shape (n,), Tensor or Subset
        Samples to forget, numbered from 0.
    recipe : Recipe, default Recipe(epochs=40, lr=0.05, batch_size=250, schedule='cosine')
        How the model was trained; the default is a small network's.
    initial : dict of str to Tensor, optional
        ``state_dict`` of the untrained model. Default: every module's ``reset_parameters``, seeded.
    random_state : None, int, SeedSequence or Generator, default None
        Of the beginning, the order of the samples and dropout. With one seed, trainings with and without
        some samples begin alike and see the others in the same order.
    verbose : bool, default False
        Show progress.

    Returns
    -------
    Deletion

    Raises
    ------
    ValueError, IndexError, TypeError
        No ids, unknown ids, repeated ids, or all; modules that cannot be reset, or an ``initial`` that does not fit;
        another type of problem, recipe or initial.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> baselines.retrain(problem, [1], random_state=0).retain_loss[1] < 0.3
    True
    """
    seed = seed_for(problem, random_state)
    check_recipe(recipe)

    def run(forget: Tensor, retain: Tensor) -> State:
        del forget
        work = fresh_copy(problem, initial, seed)
        once = Pass(retain, loss_of(work), recipe.batch_size, in_whole_order=True)
        train(work, recipe, lambda _: [once], seed, method="retrain", verbose=verbose)
        return changed_state(work, problem)

    return record_baseline(problem, ids, "retrain", run)


def fine_tune(
    problem: Problem,
    ids: Request,
    recipe: Recipe = FINE_TUNE,
    *,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """Go on training on the retained samples alone, in the hope that the others fade.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors.
    recipe : Recipe, default Recipe(epochs=10, lr=0.01)

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020, section 5:
       ``w <- w - eta grad mean_R loss``. Defaults as in the code of Fan et al., ICLR 2024.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> before, after = baselines.fine_tune(problem, [1], random_state=0).retain_loss
    >>> after < before
    True
    """

    def passes(work: Problem, forget: Tensor, retain: Tensor) -> Passes:
        del forget
        # w <- w - eta grad L_R(w), L_R the mean loss of the retained samples
        return lambda _: [Pass(retain, loss_of(work), recipe.batch_size)]

    return _trained(problem, ids, "fine_tune", recipe, passes, random_state, verbose)


def gradient_ascent(
    problem: Problem,
    ids: Request,
    recipe: Recipe = ASCENT,
    *,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """Climb the loss of the forgotten samples.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors.
    recipe : Recipe, default Recipe(epochs=5, lr=0.0001)

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Thudi et al., "Unrolling SGD", EuroS&P 2022; Graves et al., AAAI 2021: ``w <- w + eta grad mean_U loss``.
       Defaults as in the code of Fan et al., ICLR 2024.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> before, after = baselines.gradient_ascent(problem, [1], random_state=0).forget_loss
    >>> after > before
    True
    """

    def passes(work: Problem, forget: Tensor, retain: Tensor) -> Passes:
        del retain
        loss = loss_of(work)
        # w <- w + eta grad L_U(w), L_U the mean loss of the forgotten samples
        return lambda _: [Pass(forget, lambda batch: -loss(batch), recipe.batch_size)]

    return _trained(problem, ids, "gradient_ascent", recipe, passes, random_state, verbose)


def neg_grad_plus(
    problem: Problem,
    ids: Request,
    recipe: Recipe = NEG_GRAD,
    *,
    beta: float = 0.95,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """Descend on the retained and climb on the forgotten samples in one step.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors.
    recipe : Recipe, default Recipe(epochs=10, lr=0.01, batch_size=128)
    beta : float, default 0.95
        Weight of the retained samples, in 0..1; the paper has 0.95 for small sets and 0.9999 for large.

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
       2023, section 4: ``L(w) = beta mean_R loss - (1 - beta) mean_U loss``.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> before, after = baselines.neg_grad_plus(problem, [1], beta=0.5, random_state=0).forget_loss
    >>> after > before
    True
    """
    check_share(beta, "beta")
    seed = seed_for(problem, random_state)

    def passes(work: Problem, forget: Tensor, retain: Tensor) -> Passes:
        loss, partner = loss_of(work), partners(work, forget, recipe.batch_size, seed)
        # L(w) = beta mean_R loss - (1 - beta) mean_U loss, each on a batch
        return lambda _: [Pass(retain, lambda b: beta * loss(b) - (1 - beta) * loss(partner(b)), recipe.batch_size)]

    return _trained(problem, ids, "neg_grad_plus", recipe, passes, seed, verbose)


def random_labels(
    problem: Problem,
    ids: Request,
    recipe: Recipe = RANDOM_LABELS,
    *,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """Train on all samples, the forgotten ones with wrong labels drawn once at random.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors; targets must be integer class labels (else ValueError).
    recipe : Recipe, default Recipe(epochs=3, lr=0.0001, batch_size=128, optimizer='adam', weight_decay=0.0)

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021, "Unlearning": the mean of ``loss(x, y)``
       over R and of ``loss(x, y')`` over U, y' != y. Defaults as in the code of Foster, Schoepf, Brintrup, AAAI 2024.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> before, after = baselines.random_labels(problem, [1], random_state=0).forget_loss
    >>> after > before
    True
    """
    seed = seed_for(problem, random_state)

    def passes(work: Problem, forget: Tensor, retain: Tensor) -> Passes:
        # L = mean over R of loss(x, y) and over U of loss(x, y'), y' != y uniform
        loss = relabelled(work, wrong_labels(problem, forget, seed))
        return lambda _: [Pass(torch.cat([forget, retain]), loss, recipe.batch_size)]

    return _trained(problem, ids, "random_labels", recipe, passes, seed, verbose)


def salun(
    problem: Problem,
    ids: Request,
    recipe: Recipe = SALUN,
    *,
    threshold: float = 0.5,
    alpha: float = 1.0,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """SalUn: random labels, on those parameters alone where the forgotten samples' gradient is large.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors; targets must be integer class labels (else ValueError).
    recipe : Recipe, default Recipe(epochs=10, lr=0.1)
    threshold : float, default 0.5
        Share of the parameters that stay as they are, in 0..1: the smallest ``|gradient|``, of equal ones the first.
    alpha : float, default 1
        Weight of the retained samples' loss, at least 0.

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Fan, Liu, Zhang, Wong, Wei, Liu, "SalUn", ICLR 2024, equations 3 to 5: ``L = mean_U loss(x, y') + alpha
       mean_R loss(x, y)``, y' != y, on the parameters with ``|grad mean_U loss| >= gamma``, gamma a quantile.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> baselines.salun(problem, [1], threshold=1.0, random_state=0).distance
    0.0
    """
    check_share(threshold, "threshold")
    check_amount(alpha, "alpha")
    check_recipe(recipe)
    seed = seed_for(problem, random_state)

    def run(forget: Tensor, retain: Tensor) -> State:
        work = working_copy(problem)
        mask = _salient(problem, forget, threshold)
        loss, wrong = loss_of(work), relabelled(work, wrong_labels(problem, forget, seed))
        # L = E_U loss(x, y' != y) + alpha E_R loss(x, y)   (5): an epoch goes through U, then R
        once = [
            Pass(forget, wrong, recipe.batch_size),
            Pass(retain, lambda batch: alpha * loss(batch), recipe.batch_size),
        ]
        hold = _holder(work, problem.parameters(), mask)
        train(work, recipe, lambda _: once, seed, after_step=hold, method="salun", verbose=verbose)
        return changed_state(work, problem)

    return record_baseline(problem, ids, "salun", run)


def scrub(
    problem: Problem,
    ids: Request,
    recipe: Recipe = SCRUB,
    *,
    alpha: float = 0.5,
    gamma: float = 1.0,
    max_epochs: int = 3,
    temperature: float = 2.0,
    forget_batch_size: int | None = 64,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """SCRUB: a student obeys the trained model on retained samples and disobeys it on forgotten ones.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors; outputs must be of two classes or more (else ValueError).
    recipe : Recipe, default Recipe(epochs=10, lr=0.0005, batch_size=32, optimizer='adam', schedule=(5, 8, 9))
    alpha, gamma : float, defaults 0.5 and 1
        Weights of the distance to the teacher and of the loss, on the retained samples, at least 0.
    max_epochs : int, default 3
        In so many first epochs, a pass that climbs the distance on the forgotten samples comes first.
    temperature : float, default 2
        Of the softmax inside the distance, positive.
    forget_batch_size : int or None, default 64
        Samples in a batch of those passes; None: all.

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, equation 3 and algorithm 1:
       ``min alpha mean_R d + gamma mean_R loss - mean_U d``, ``d = T^2 KL(teacher || student)``, T the temperature;
       defaults as in the authors' code for small sets.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> before, after = baselines.scrub(problem, [1], max_epochs=0, random_state=0).retain_loss
    >>> after < before
    True
    """
    check_amount(alpha, "alpha")
    check_amount(gamma, "gamma")
    check_positive(temperature, "temperature")
    check_integer(max_epochs, "max_epochs", 0)
    if forget_batch_size is not None:
        check_integer(forget_batch_size, "forget_batch_size", 1)

    def passes(work: Problem, forget: Tensor, retain: Tensor) -> Passes:
        check_classes(problem)
        teacher = _fixed(problem)

        # min  alpha/N_r sum_R d + gamma/N_r sum_R loss - 1/N_f sum_U d,   d = T^2 KL(teacher || student)   (3)
        def distance(student: Tensor, batch: Batch) -> Tensor:
            return temperature**2 * _divergence(work, student, teacher(batch), temperature).mean()

        def obey(batch: Batch) -> Tensor:
            student = outputs_of(work, batch)  # once: batch norms and dropout see the batch a single time
            return alpha * distance(student, batch) + gamma * work.losses(student, batch.targets).mean()

        climb = Pass(forget, lambda b: -distance(outputs_of(work, b), b), forget_batch_size)
        descend = Pass(retain, obey, recipe.batch_size)
        return lambda epoch: [climb, descend] if epoch < max_epochs else [descend]

    return _trained(problem, ids, "scrub", recipe, passes, random_state, verbose)


def bad_teacher(
    problem: Problem,
    ids: Request,
    recipe: Recipe = BAD_TEACHER,
    *,
    retain_share: float = 0.3,
    temperature: float = 1.0,
    initial: State | None = None,
    random_state: Any = None,
    verbose: bool = False,
) -> Deletion:
    """A student learns forgotten samples from an untrained teacher and the others from the trained model.

    Parameters
    ----------
    problem, ids, random_state, verbose
        As in :func:`retrain`, with the same errors; outputs must be of two classes or more (else ValueError).
    recipe : Recipe, default Recipe(epochs=1, lr=0.0001, optimizer='adam', weight_decay=0.0)
    retain_share : float, default 0.3
        Share of the retained samples that is shown, in 0..1.
    temperature : float, default 1
        Of the softmax, positive.
    initial : dict of str to Tensor, optional
        ``state_dict`` of the untrained teacher. Default: every module's ``reset_parameters``.

    Returns
    -------
    Deletion

    References
    ----------
    .. [1] Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023, equation 1:
       ``L = (1 - l_u) KL(competent || student) + l_u KL(incompetent || student)``, l_u 1 on U and 0 on R.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem, baselines
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.01)
    >>> baselines.bad_teacher(problem, [1], random_state=0).distance > 0
    True
    """
    check_share(retain_share, "retain_share")
    check_positive(temperature, "temperature")
    seed = seed_for(problem, random_state)

    def passes(work: Problem, forget: Tensor, retain: Tensor) -> Passes:
        check_classes(problem)
        generator = torch.Generator().manual_seed(seed)
        shown = retain[torch.randperm(len(retain), generator=generator)[: round(retain_share * len(retain))]]
        good, bad = _fixed(problem), _fixed(fresh_copy(problem, initial, seed))

        def objective(batch: Batch) -> Tensor:
            is_forgotten = torch.isin(batch.ids, forget).to(problem.device)
            student = outputs_of(work, batch)
            # L = (1 - l_u) KL(competent || student) + l_u KL(incompetent || student)   (1)
            pulls = [_divergence(problem, student, teacher(batch), temperature) for teacher in (good, bad)]
            return torch.where(is_forgotten, pulls[1], pulls[0]).mean()

        return lambda _: [Pass(torch.cat([forget, shown]), objective, recipe.batch_size)]

    return _trained(problem, ids, "bad_teacher", recipe, passes, seed, verbose)


# --------------------------------------------------------------------------- shared
def _trained(
    problem: Problem,
    ids: Request,
    method: str,
    recipe: Recipe,
    passes: Callable[[Problem, Tensor, Tensor], Passes],
    random_state: Any,
    verbose: bool,
) -> Deletion:
    """Train a copy of the trained model by ``passes(work, forget, retain)``."""
    seed = seed_for(problem, random_state)
    check_recipe(recipe)

    def run(forget: Tensor, retain: Tensor) -> State:
        work = working_copy(problem)
        train(work, recipe, passes(work, forget, retain), seed, method=method, verbose=verbose)
        return changed_state(work, problem)

    return record_baseline(problem, ids, method, run)


def _salient(problem: Problem, forget: Tensor, threshold: float) -> dict[str, Tensor]:
    """``m = 1(|gradient of the forgotten samples' loss| >= gamma)`` (3), gamma a quantile over all, ties by place."""
    found = Products(problem, problem.parameters()).mean_gradient(forget)
    sizes = torch.cat([g.abs().reshape(-1) for g in found.values()])
    chosen = torch.ones_like(sizes, dtype=torch.bool)
    chosen[sizes.argsort(stable=True)[: int(threshold * len(sizes))]] = False
    parts = torch.split(chosen, [g.numel() for g in found.values()])
    return {name: part.view_as(found[name]) for name, part in zip(found, parts, strict=True)}


def _holder(work: Problem, start: State, mask: Mapping[str, Tensor]) -> Callable[[], None]:
    """Puts what is not in the mask back after a step: ``w = m (w0 + step) + (1 - m) w0`` (4)."""
    first = {name: value.clone() for name, value in start.items()}
    parameters = dict(work.model.named_parameters())

    def hold() -> None:
        with torch.no_grad():
            for name, kept in mask.items():
                parameters[name].copy_(torch.where(kept, parameters[name], first[name]))

    return hold


def _fixed(problem: Problem) -> Callable[[Batch], Tensor]:
    """Outputs of a teacher that does not learn, in evaluation mode."""
    params = {name: value.clone() for name, value in problem.parameters().items()}

    def outputs(batch: Batch) -> Tensor:
        with torch.no_grad():
            return problem.outputs(params, batch.inputs)

    return outputs


def _divergence(problem: Problem, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the teacher's softmax from the student's, one a sample, mean over its positions."""
    axis = class_axis(problem, student)
    logs = [functional.log_softmax(logits / temperature, dim=axis) for logits in (student, teacher)]
    found = functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(axis)
    return found.reshape(len(found), -1).mean(1)
