"""The minimum of a linearised model's objective, where its quadratic model is not enough.

A Gauss-Newton step takes the loss for quadratic in the outputs. Where samples go whose like nobody else holds, a
whole class for one, the curvature that holds the outputs back fades on the way: the retained samples stop caring for
the logit of a class that is gone, and the quadratic model stops far from where retraining would end. The model stays
linearised at its starting point; only the loss is taken as it is.

Training without the class would have pushed its logit down from the first batch on, most of all in the last layer,
which the pull towards the trained weights (`_point.pull`) does not know. There it is a third, a measured factor
(docs, "A class that goes").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from codec.unlearn._solve import Product, Solution

ROUGH = 0.5  # tolerance of each further step
CLOSE = 0.02  # residual at which further steps end, relative to the right side's
STEPS = 30
HALVINGS = 4
LAST = 1 / 3  # of the automatic damping, on the last layer
GONE = 0.2  # of what a request adds, missed by the quadratic model: from here on nobody else holds the like of it

Inner = Callable[[Tensor, Tensor], float]


def missed(first: Solution, b: Tensor, force: Product, inner: Inner) -> float:
    """Share of b that the quadratic model's solution of ``force(x) = b`` misses, along b.

    Conjugate gradients leave a residual at right angles to b, however early they stop. What is left along b is
    the quadratic model's own error: 1/e where the curvature fades as that of an exponential does.
    """
    whole = inner(b, b)
    return abs(inner(b, b - force(first.x))) / whole if whole > 0.0 else 0.0


def follow(
    first: Solution,
    b: Tensor,
    force: Product,
    solve: Callable[[Tensor, Tensor], Solution],
    inner: Inner,
    tol: float,
) -> Solution:
    """Newton steps for ``force(x) = b`` that go on from the first.

    Parameters
    ----------
    first : Solution
        The quadratic model's.
    b : Tensor, (size,)
    force : callable
        Gradient of a convex function, zero at 0.
    solve : callable(x, right side)
        ``H(x)^-1`` times the right side.
    inner : callable
        Product of two residuals, in which conjugate gradients are preconditioned.
    tol : float
        Of the first solution.

    Returns
    -------
    Solution
        ``steps`` tells how many there were.
    """
    whole = inner(b, b)
    x, rest, step, iterations = torch.zeros_like(b), b, first, first.iterations
    for count in range(1, STEPS + 1):
        found = _lower(x, step.x, b, force, inner, inner(rest, rest))
        if found is None:
            return replace(first, x=x, iterations=iterations, steps=count - 1) if count > 1 else first
        x, rest = found
        left = (inner(rest, rest) / whole) ** 0.5
        if left <= min(tol, CLOSE) or count == STEPS:
            break
        step = solve(x, rest)
        iterations += step.iterations
    return replace(first, x=x, iterations=iterations, residual=left, steps=count)


def _lower(
    x: Tensor, step: Tensor, b: Tensor, force: Product, inner: Inner, size: float
) -> tuple[Tensor, Tensor] | None:
    """The end of the step, or of its half, quarter, ..., that leaves less than there is; with what it leaves."""
    for halving in range(HALVINGS + 1):
        end = x + step / 2.0**halving
        rest = b - force(end)
        if inner(rest, rest) < size:
            return end, rest
    return None
