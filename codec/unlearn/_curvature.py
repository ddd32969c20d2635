"""The curvature of the retained samples on the parameters of some units: products, blocks, solutions.

``H_R = 1/(n - m) sum over retained samples of their curvature + weight_decay I``: the forgotten samples' own
curvature is not in it, which matters as soon as they are hard (it is what held the model where it is).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from codec.unlearn._chain import NoChainError
from codec.unlearn._kfac import (
    KroneckerBlock,
    LayerRows,
    NoFactorsError,
    kronecker_factors,
    layer_rows,
)
from codec.unlearn._linearisation import LEFT_OUT, Linearisation, Restricted, restrict
from codec.unlearn._newton import GONE, ROUGH, follow, missed
from codec.unlearn._problem import Batch, Problem
from codec.unlearn._products import GAUSS_NEWTON, Products, Tensors, output_curvature
from codec.unlearn._slices import Slices
from codec.unlearn._solve import Product, Solution, solve_cg, solve_dense

KINDS = (*GAUSS_NEWTON, "hessian", "secant", "kfac")
DENSE_SIZE = 128  # blocks up to here are made whole and factored
MOST_DENSE = 8192
BYTES = 2**28  # of the sample gradients that are held at a time

Preconditioner = str | Callable[[float], Product] | None


def linearise(
    problem: Problem,
    params: Mapping[str, Tensor],
    kind: str = "ggn",
    *,
    tolerance: float = LEFT_OUT,
    max_bytes: int = 2**31,
) -> Linearisation | None:
    """The model linearised at a point where it is a chain of layers (`Linearisation`), else None.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn._problem import Problem
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> problem = Problem(model, "cross_entropy", (torch.randn(9, 2), torch.zeros(9).long()), weight_decay=0.1)
    >>> linearise(problem, problem.parameters()).layers[0].weight
    '0.weight'
    """
    try:
        return Linearisation(problem, params, kind, tolerance=tolerance, max_bytes=max_bytes)
    except (NoChainError, NoFactorsError):
        return None


class Curvature:
    """Curvature of the objective over the retained samples, restricted to slices.

    Parameters
    ----------
    problem : Problem
    params : dict of str to Tensor
        The point.
    retain_ids : LongTensor
        Samples that are kept; the others' curvature is not in the products.
    slices : Slices
        Parameters of the vectors.
    kind : {'ggn', 'hessian', 'fisher', 'empirical_fisher', 'kfac', 'secant'}, default 'ggn'
        Generalised Gauss-Newton; exact Hessian; Fisher information with expected labels; the same with the
        observed labels (not a Fisher information, far from the Hessian where the model fits: for comparison);
        Kronecker factors; Hessian by central differences of the gradient.
    linearisation : Linearisation, optional
        Makes products at the same point cheap; used where it fits.
    subsample : int, optional
        Estimate the curvature on as many retained samples. A Hessian of a subsample is a trap (half of the
        samples: two thirds of the error of doing nothing), so every solution states its ``subsample_error``
        and warns above 0.1.
    generator : torch.Generator, optional
        Draws the subsample.

    Attributes
    ----------
    n : int
        Retained samples.
    fast : bool
        Whether products use the linearisation.

    Raises
    ------
    ValueError
        Unknown kind, nothing retained, a subsample out of range, or parameters that K-FAC does not know.
    """

    def __init__(
        self,
        problem: Problem,
        params: Mapping[str, Tensor],
        retain_ids: Sequence[int] | Tensor,
        slices: Slices,
        kind: str = "ggn",
        *,
        linearisation: Linearisation | None = None,
        subsample: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.problem, self.slices, self.kind = problem, slices, kind
        self.params = {name: value.detach() for name, value in params.items()}
        self.retain_ids = torch.as_tensor(retain_ids, dtype=torch.long)
        self.n = len(self.retain_ids)
        if kind not in KINDS:
            raise ValueError(f"curvature is {kind!r}; it must be one of {', '.join(map(repr, KINDS))}.")
        if self.n == 0:
            raise ValueError("no sample is retained: a curvature needs at least one.")
        if subsample is not None and not 1 <= subsample <= self.n:
            raise ValueError(f"subsample is {subsample}; it must lie in 1..{self.n}, the retained samples.")
        self.products = Products(problem, params, slices.parameters)
        self.linearisation = linearisation
        self.subsample = subsample
        self._ids = self.retain_ids
        if subsample is not None:
            order = torch.randperm(self.n, generator=generator)[:subsample]
            self._ids = self.retain_ids[order.sort().values]
        self._restricted = self._fit(linearisation)
        self._dense: Tensor | None = None
        if kind == "kfac":
            self._check_factors()

    def _fit(self, linearisation: Linearisation | None) -> Restricted | None:
        if linearisation is None or self.subsample is not None:
            return None
        if self.kind != linearisation.kind and self.kind != "kfac":
            return None
        same = all(torch.equal(self.params[name], value) for name, value in linearisation.params.items())
        if not same:
            raise ValueError("linearisation belongs to other parameters; linearise again at these.")
        forgotten = torch.ones(self.problem.n, dtype=torch.bool)
        forgotten[self.retain_ids] = False
        return restrict(linearisation, self.slices, forgotten.nonzero()[:, 0], self.n)

    @property
    def fast(self) -> bool:
        """Whether products use the linearisation."""
        return self._restricted is not None

    # ------------------------------------------------------------------------ gradients
    def gradient(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Mean over samples of the gradient of ``loss + weight_decay / 2 ||w||^2``, flat."""
        chosen = torch.as_tensor(ids, dtype=torch.long)
        if not len(chosen):
            raise ValueError("ids is empty: a mean gradient needs at least one sample.")
        return self.slices.gather(self._regularized(self.products.mean_gradient(chosen), self.params))

    # ------------------------------------------------------------------------- products
    def product(self, v: Tensor) -> Tensor:
        """``H_R v`` on the slices, weight decay included."""
        return self._data_product(v) + self.problem.weight_decay * v

    def _data_product(self, v: Tensor) -> Tensor:
        if self.kind == "kfac":
            return self._through_blocks(v, lambda block, m: block.product(m), lambda rest: torch.zeros_like(rest))
        if self._restricted is not None:
            return self._restricted.decode(self._restricted.product(self._restricted.encode(v)))
        return self._mean_product(v, self._ids)

    def _mean_product(self, v: Tensor, ids: Tensor) -> Tensor:
        if self.kind == "secant":
            return self._secant(v, ids)
        return self.slices.gather(self.products.mean_product(ids, self.slices.scatter(v), self.kind))

    def _secant(self, v: Tensor, ids: Tensor) -> Tensor:
        """``(g(w + h v) - g(w - h v)) / 2h``: error O(h^2), so h is the cube root of the rounding."""
        length = float(v.norm())
        if length == 0.0:
            return torch.zeros_like(v)
        size = float(self.slices.gather(self.params).norm())
        h = torch.finfo(v.dtype).eps ** (1 / 3) * (1.0 + size) / length
        ends = []
        for sign in (h, -h):
            moved = Products(self.problem, self.slices.add(self.params, v, sign), self.slices.parameters)
            ends.append(self.slices.gather(moved.mean_gradient(ids)))
        quotient: Tensor = (ends[0] - ends[1]) / (2.0 * h)
        return quotient

    def dense(self) -> Tensor:
        """``H_R`` on the slices as a matrix, symmetric.

        Raises
        ------
        ValueError
            More than 8,192 parameters.
        """
        if self._dense is None:
            size = self.slices.size
            if size > MOST_DENSE:
                raise ValueError(
                    f"a dense curvature of {size} parameters is not offered (at most {MOST_DENSE}); solve with 'cg', or "
                    "choose fewer units."
                )
            eye = torch.eye(size, dtype=self._dtype, device=self.problem.device)
            found = torch.stack([self.product(row) for row in eye])
            self._dense = (found + found.T) / 2.0
        return self._dense

    def diagonal(self) -> Tensor:
        """Diagonal of `dense`, without making it where the curvature is a sum of squares of sample gradients."""
        if self.kind == "kfac" or self.kind not in GAUSS_NEWTON:
            return self.dense().diagonal().clone()
        total = torch.zeros(self.slices.size, dtype=self._dtype, device=self.problem.device)
        for batch in self.problem.batches(self._ids, self._rows_at_a_time()):
            for column in self._output_roots(batch).unbind(2):
                gradients = self.products.sample_gradients(
                    Batch(batch.ids, batch.inputs, column), lambda o, c: (o.reshape(-1) * c).sum()
                )
                total += self.slices.gather({name: g.square().sum(0) for name, g in gradients.items()})
        return total / len(self._ids) + self.problem.weight_decay

    def _output_roots(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            outputs = self.problem.outputs(self.params, batch.inputs)
        if outputs.dim() != 2:
            raise ValueError("the diagonal needs a model with one vector of outputs a sample.")
        values, vectors = torch.linalg.eigh(output_curvature(self.problem, self.kind, outputs, batch.targets))
        roots: Tensor = vectors * values.clamp_min(0.0).sqrt()[:, None, :]
        return roots

    def _rows_at_a_time(self) -> int:
        one = sum(self.params[name].nbytes for name in self.slices.parameters)
        return max(1, min(self.problem.batch_size, BYTES // max(one, 1)))

    # ------------------------------------------------------------------------ solutions
    def solve(
        self,
        b: Tensor,
        damping: float = 0.0,
        *,
        x0: Tensor | None = None,
        tol: float = 1e-2,
        max_iter: int = 100,
        preconditioner: Preconditioner = "auto",
        method: str = "auto",
    ) -> Solution:
        """Solve ``(H_R + damping I) x = b`` on the slices.

        Parameters
        ----------
        b : Tensor, (size,)
        damping : float, default 0
            Added to the weight decay that is in H_R.
        x0 : Tensor, optional
            First guess of conjugate gradients.
        tol : float, default 1e-2
            Relative residual in the preconditioner's norm.
        max_iter : int, default 100
        preconditioner : {'auto', 'kfac', 'jacobi', 'dense', None} or callable, default 'auto'
            'auto': K-FAC where a linearisation carries its factors, else none. 'dense': the Cholesky factor of
            the whole block at this damping (to be reused through a callable that gives, for a damping, a product).
        method : {'auto', 'cg', 'cholesky'}, default 'auto'
            'auto': Cholesky up to 128 parameters.

        Returns
        -------
        Solution
            Where negative curvature was met, with the damping that was raised past it.
        """
        if b.shape != (self.slices.size,):
            raise ValueError(f"b has shape {tuple(b.shape)}; the slices have {self.slices.size} parameters.")
        if damping < 0.0:
            raise ValueError(f"damping is {damping}; it must be 0 or more.")
        if method not in {"auto", "cg", "cholesky"}:
            raise ValueError(f"method is {method!r}; it must be 'auto', 'cg' or 'cholesky'.")
        if self.kind == "kfac":
            found = self._solve_factors(b, damping)
        elif method == "cholesky" or (method == "auto" and self.slices.size <= DENSE_SIZE):
            found = solve_dense(self.dense(), b, damping)
        elif self._restricted is not None and preconditioner in {"auto", "kfac"}:
            found = self._solve_restricted(self._restricted, b, damping, x0, tol, max_iter)
        else:
            inverse = self._inverse(preconditioner)
            found = solve_cg(self.product, b, damping, x0=x0, tol=tol, max_iter=max_iter, preconditioner=inverse)
        return self._with_check(found, b)

    def minimise(self, first: Solution, b: Tensor, *, tol: float, max_iter: int, last: float = 1.0) -> Solution:
        """Go on from what `solve` answers for ``b`` to where the linearised model's objective less ``b^T x`` is least.

        The objective is that of the retained samples, with the solution's damping; outputs are linear in the change,
        the loss is taken as it is. The first solution is kept where it misses no more than ``tol`` of ``b``, and where
        no linearisation fits. Where it misses more than `_newton.GONE`, the last layer has the share ``last`` of the
        damping.
        """
        r = self._restricted
        if r is None or self.kind not in {"ggn", "fisher"}:
            return first
        start, right = replace(first, x=r.encode(first.x)), r.encode(b)
        decay = self.problem.weight_decay
        least = decay + first.damping

        def inverse(x: Tensor) -> Tensor:
            return r.precondition(x, max(least, self._floor))

        def inner(one: Tensor, other: Tensor) -> float:
            return float(one @ inverse(other))

        share = missed(start, right, lambda x: r.force(x) + least * x, inner)
        if share <= tol:
            return first
        least_last = decay + (last if share > GONE else 1.0) * first.damping

        def more(x: Tensor, rest: Tensor) -> Solution:
            here = r.moved(x)
            return solve_cg(
                lambda v: here.product(v) + r.damped(v, least, least_last), rest,
                tol=ROUGH, max_iter=max_iter, preconditioner=lambda _: inverse,
            )  # fmt: skip

        found = follow(start, right, lambda x: r.force(x) + r.damped(x, least, least_last), more, inner, tol)
        return replace(found, x=first.x + r.decode(found.x - start.x)) if found.steps > 1 else first

    def _solve_restricted(
        self, r: Restricted, b: Tensor, damping: float, x0: Tensor | None, tol: float, max_iter: int
    ) -> Solution:
        guess = None if x0 is None else r.encode(x0)
        found = self._solve_coordinates(r, r.encode(b), damping, guess, tol, max_iter)
        least = max(self.problem.weight_decay + found.damping, self._floor)
        return replace(found, x=r.decode(found.x) + r.outside(b, least))

    def _solve_coordinates(
        self, r: Restricted, b: Tensor, damping: float, x0: Tensor | None, tol: float, max_iter: int
    ) -> Solution:
        decay = self.problem.weight_decay
        return solve_cg(
            lambda x: r.product(x) + decay * x,
            b,
            damping,
            x0=x0,
            tol=tol,
            max_iter=max_iter,
            preconditioner=lambda mu: lambda x: r.precondition(x, max(decay + mu, self._floor)),
        )

    def _solve_factors(self, b: Tensor, damping: float) -> Solution:
        least = self.problem.weight_decay + damping
        if least <= 0.0:
            raise ValueError("K-FAC alone needs weight decay or damping above 0.")
        x = self._through_blocks(b, lambda block, m: block.solve(m, least), lambda rest: rest / least)
        return Solution(x, 0, 0.0, damping, method="kfac")

    def _inverse(self, preconditioner: Preconditioner) -> Callable[[float], Product] | None:
        if callable(preconditioner) or preconditioner is None:
            return preconditioner
        if preconditioner == "auto":
            return None
        if preconditioner == "jacobi":
            diagonal = self.diagonal().clamp_min(self._floor)
            return lambda mu: lambda v: v / (diagonal + mu)
        if preconditioner == "dense":
            return self._dense_inverse
        if preconditioner == "kfac":
            return self._kfac_inverse
        raise ValueError(f"preconditioner is {preconditioner!r}; it must be 'auto', 'kfac', 'jacobi', 'dense' or None.")

    def _dense_inverse(self, damping: float) -> Product:
        identity = torch.eye(self.slices.size, dtype=self._dtype, device=self.problem.device)
        factor, failed = torch.linalg.cholesky_ex(self.dense() + max(damping, self._floor) * identity)
        if failed:  # indefinite: any positive matrix preconditions; conjugate gradients will see the curvature
            return lambda v: v
        return lambda v: torch.cholesky_solve(v[:, None], factor)[:, 0]

    def _kfac_inverse(self, damping: float) -> Product:
        least = max(self.problem.weight_decay + damping, self._floor)
        return lambda v: self._through_blocks(v, lambda block, m: block.solve(m, least), lambda rest: rest / least)

    def _with_check(self, found: Solution, b: Tensor) -> Solution:
        if self.subsample is None:
            return found
        difference = self._mean_product(found.x, self.retain_ids) - self._mean_product(found.x, self._ids)
        error = float(difference.norm() / b.norm().clamp_min(torch.finfo(b.dtype).tiny))
        if error > 0.1:
            warnings.warn(
                f"The curvature of {self.subsample} of {self.n} samples misses the full one by {error:.2f} of the right "
                "side at the solution; use more samples.",
                RuntimeWarning,
                stacklevel=3,
            )
        return replace(found, subsample_error=error)

    # ---------------------------------------------------------------------------- K-FAC
    @cached_property
    def _blocks(self) -> list[tuple[LayerRows, KroneckerBlock]]:
        """Rows and block of each layer that K-FAC knows and the slices touch in whole rows."""
        kind = self.kind if self.kind in GAUSS_NEWTON else "ggn"
        ones = self.slices.scatter(torch.ones(self.slices.size, device=self.problem.device))
        found = []
        for factor in kronecker_factors(self.problem, self.params, self._ids, self.slices.parameters, kind):
            which = layer_rows(ones, factor.weight, factor.bias)
            if which is None:
                continue
            basis, values = factor.basis()
            outputs = factor.outputs / len(self._ids)
            if which.rows is not None:
                outputs = outputs[which.rows][:, which.rows]
            found.append((which, KroneckerBlock(outputs, values, basis)))
        return found

    def _check_factors(self) -> None:
        covered = {name for which, _ in self._blocks for name in (which.weight, which.bias)}
        missing = [name for name in self.slices.parameters if name not in covered]
        if missing:
            raise ValueError(
                f"K-FAC knows whole rows of linear layers and ungrouped convolutions, not {', '.join(missing)}; use "
                "curvature='ggn', or leave these units out."
            )

    def _through_blocks(
        self, v: Tensor, act: Callable[[KroneckerBlock, Tensor], Tensor], other: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Act with each layer's block; ``other`` takes what no block knows."""
        tensors: Tensors = self.slices.scatter(v)
        into = {name: other(value) for name, value in tensors.items()}
        for which, block in self._blocks:
            rows = which.read(tensors).to(block.basis.dtype)  # layers may differ in it
            which.write(act(block, rows @ block.basis) @ block.basis.T, into)
        return self.slices.gather(into)

    # -------------------------------------------------------------------------- details
    def _regularized(self, gradient: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensors:
        return {name: g + self.problem.weight_decay * params[name] for name, g in gradient.items()}

    @property
    def _dtype(self) -> torch.dtype:
        return self.params[self.slices.parameters[0]].dtype

    @property
    def _floor(self) -> float:
        """What stands for a damping of zero in a preconditioner."""
        return 1e-8
