"""How fast a model learns again what it was to forget."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch

from codec._validation import check_amount
from codec.unlearn._problem import Problem, outside_modes
from codec.unlearn._training import Pass, Recipe, check_problem, loss_of, seed_of, train, working_copy

RELEARN = Recipe(epochs=100, lr=0.01)


@outside_modes
def relearn_epochs(
    problem: Problem, goal: float, recipe: Recipe = RELEARN, *, margin: float = 0.05, random_state: Any = None
) -> float:
    """Epochs of training on the forgotten samples until their loss is the original model's again.

    The first epoch after which ``L(forget) <= L_original(forget) + margin |L_original(forget)|`` [1]_ [2]_; 0 where that
    holds already, and infinity where the recipe's epochs are not enough. A model that relearns faster than a
    retrained one has kept something of the samples.

    Parameters
    ----------
    problem : Problem
        The model, and the forgotten samples as its data. A copy is trained.
    goal : float
        Mean loss of the original model on the forgotten samples.
    recipe : Recipe, default Recipe(epochs=100, lr=0.01)
        How to train; its epochs are the most that are tried. Without a weight decay of its own it has the problem's.
    margin : float, default 0.05
        Share of the goal that the loss may stay above it.
    random_state : None, int, SeedSequence or Generator, default None
        Of the order of the samples and of dropout.

    Returns
    -------
    float
        Whole epochs, 0 or more, or infinity.

    Raises
    ------
    TypeError, ValueError
        ``problem`` is no Problem, ``recipe`` no Recipe, ``goal`` no finite number, or ``margin`` negative.

    References
    ----------
    .. [1] Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020.
    .. [2] Golatkar, Achille, Ravichandran, Polito, Soatto, "Mixed-Privacy Forgetting in Deep Networks", CVPR 2021.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem
    >>> from codec.unlearn.evaluate import relearn_epochs
    >>> problem = Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.eye(2), torch.arange(2)), weight_decay=0.0)
    >>> relearn_epochs(problem, 9.0), 0 < relearn_epochs(problem, 0.3) < float("inf")
    (0.0, True)
    """
    check_problem(problem)
    given: Any = goal
    if not isinstance(given, numbers.Real) or not math.isfinite(goal):
        raise ValueError(f"goal is {goal!r}; it must be a finite number, the original model's loss.")
    check_amount(margin, "margin")
    work, everyone = working_copy(problem), torch.arange(problem.n)
    enough = goal + margin * abs(goal)
    reached: list[int] = []

    def loss() -> float:
        with torch.no_grad():
            work.model.eval()
            return float(work.sample_losses(work.parameters()).double().mean())

    def passes(epoch: int) -> list[Pass]:
        if not reached and loss() <= enough:
            reached.append(epoch)
        work.model.train()
        return [] if reached else [Pass(everyone, loss_of(work), recipe.batch_size)]

    train(work, recipe, passes, seed_of(random_state), method="relearn")
    if not reached and loss() <= enough:
        reached.append(recipe.epochs)
    return float(reached[0]) if reached else float("inf")
