"""Linear systems with a curvature: conjugate gradients and Cholesky, with negative curvature seen and said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

ATTEMPTS = 30  # raises of the damping, each at least twofold


@dataclass(frozen=True)
class Solution:
    """An answer to ``(H + damping I) x = b``.

    Attributes
    ----------
    x : Tensor, (size,)
    iterations : int
        Products with H; 0 when a factor was used.
    residual : float
        ``||b - (H + damping I) x|| / ||b||``, of the preconditioned residual where there is a preconditioner.
    damping : float
        What was added to the diagonal: the wanted damping, or more where negative curvature asked for it.
    negative_curvature : float
        The lowest ``p^T H p / p^T p + wanted damping`` that was met, if negative; else 0.
    method : str
        'cg' or 'cholesky'.
    converged : bool
        Whether the tolerance was reached.
    subsample_error : float
        ``||(H - H_sub) x|| / ||b||`` where H is estimated on a subsample; else 0.
    steps : int
        Newton steps; more than one where H was not constant on the way (`Curvature.minimise`).
    """

    x: Tensor
    iterations: int
    residual: float
    damping: float
    negative_curvature: float = 0.0
    method: str = "cg"
    converged: bool = True
    subsample_error: float = 0.0
    steps: int = 1


def solve_cg(
    product: Product,
    b: Tensor,
    damping: float = 0.0,
    *,
    x0: Tensor | None = None,
    tol: float = 1e-2,
    max_iter: int = 100,
    preconditioner: Callable[[float], Product] | None = None,
) -> Solution:
    """Conjugate gradients; where a direction of negative curvature appears, the damping is raised past it.

    Parameters
    ----------
    product : callable
        H times a vector.
    b : Tensor, (size,)
    damping : float, default 0
    x0 : Tensor, optional
        First guess.
    tol : float, default 1e-2
        Stop at this (preconditioned) residual, relative to that of x = 0 or, if that is less, of the first guess:
        a request is not lost beside those that the guess holds already.
    max_iter : int, default 100
    preconditioner : callable, optional
        Gives, for a damping, the product with an approximate inverse of ``H + damping I``.

    Returns
    -------
    Solution

    Raises
    ------
    ArithmeticError
        A product is not finite, or no damping within 2**30 times the curvature met makes the matrix positive.
    """
    worst, iterations, wanted = 0.0, 0, damping
    for _ in range(ATTEMPTS):
        x, used, residual, met = _cg(product, b, damping, x0, tol, max_iter, preconditioner)
        iterations += used
        if met >= 0.0:
            return Solution(x, iterations, residual, damping, worst, "cg", residual <= tol)
        worst = min(worst, met - (damping - wanted))
        damping, x0 = max(2.0 * damping, damping - 2.0 * met), None
    raise ArithmeticError(f"curvature stays negative at damping {damping:.3g}: the products are not those of a matrix.")


def _cg(
    product: Product,
    b: Tensor,
    damping: float,
    x0: Tensor | None,
    tol: float,
    max_iter: int,
    preconditioner: Callable[[float], Product] | None,
) -> tuple[Tensor, int, float, float]:
    """One run; the last value is a negative Rayleigh quotient of the damped matrix, or 0."""
    apply = preconditioner(damping) if preconditioner else _same
    scale = float(b @ apply(b))
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    if scale <= 0.0:
        return torch.zeros_like(b), 0, 0.0, 0.0
    r = b.clone() if x0 is None else b - product(x) - damping * x
    iterations = 0 if x0 is None else 1
    z = apply(r)
    p, size = z, float(r @ z)
    scale = min(scale, max(size, torch.finfo(b.dtype).eps ** 2 * scale))
    while size > tol**2 * scale and iterations < max_iter:
        hp = product(p) + damping * p
        iterations += 1
        bend = float(p @ hp)
        if bend != bend:
            raise ArithmeticError(
                "a curvature product is not finite; check the model's outputs on the retained samples."
            )
        if bend <= 0.0:
            return x, iterations, (size / scale) ** 0.5, bend / float(p @ p) - torch.finfo(b.dtype).tiny
        step = size / bend
        x = x + step * p
        r = r - step * hp
        z = apply(r)
        size, before = float(r @ z), size
        p = z + (size / before) * p
    return x, iterations, max(size / scale, 0.0) ** 0.5, 0.0


def _same(v: Tensor) -> Tensor:
    return v


def solve_dense(matrix: Tensor, b: Tensor, damping: float = 0.0) -> Solution:
    """Cholesky; an indefinite matrix is lifted by twice its lowest eigenvalue."""
    wanted, lowest = damping, 0.0
    lifted, failed = _factor(matrix, damping)
    if failed:
        lowest = float(torch.linalg.eigvalsh(matrix)[0]) + damping
        damping += max(2.0 * -lowest, 1e-7 * float(matrix.diagonal().abs().max()))
        lifted, failed = _factor(matrix, damping)
    if failed:
        raise ArithmeticError(
            f"the curvature block has no Cholesky factor at damping {damping:.3g}; give more damping."
        )
    x = torch.cholesky_solve(b[:, None], lifted)[:, 0]
    residual = float((b - matrix @ x - damping * x).norm() / b.norm().clamp_min(torch.finfo(b.dtype).tiny))
    return Solution(x, 0, residual, damping, min(lowest, 0.0) if damping > wanted else 0.0, "cholesky")


def _factor(matrix: Tensor, damping: float) -> tuple[Tensor, bool]:
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    factor, info = torch.linalg.cholesky_ex(matrix + damping * eye)
    return factor, bool(info)
