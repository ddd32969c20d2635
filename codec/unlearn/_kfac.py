"""Kronecker factors of the curvature (K-FAC), weighted by where the curvature is.

The curvature of a layer's weights is approximated by ``A (x) B``: A the second moment of its inputs, B that of
the curvature's factors at its outputs (Martens & Grosse 2015; Grosse & Martens 2016 for convolutions). The
usual A is the mean over samples. In a trained network a tenth of the samples hold most of the curvature, and
A and B are far from independent; here sample i counts in A by its share of the trace of the loss's output
curvature, so that the trace of a single-output layer is exact. As a preconditioner this needs a third of the
iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

from codec.unlearn._problem import Batch, Problem
from codec.unlearn._products import output_curvature, twice_differentiable
from codec.unlearn._unit_rules import by_sample

EXACT_OUTPUTS = 16  # up to as many outputs every factor is used; beyond, random combinations
DRAWS = 8
MOST_OUTPUTS = 512


class NoFactorsError(ValueError):
    """K-FAC is not offered for this model."""


@dataclass(frozen=True)
class Factor:
    """One layer's factors.

    Attributes
    ----------
    weight, bias : str
        Names of its parameters; ``bias`` is empty where there is none that is trained.
    inputs : Tensor (width, width)
        A; the last row and column are the bias's.
    outputs : Tensor (rows, rows)
        The sum over samples that B is the mean of.
    """

    weight: str
    bias: str
    inputs: Tensor
    outputs: Tensor

    def basis(self, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
        """Principal directions of the inputs as columns, largest first, and their eigenvalues.

        Directions at the end that hold together no more than ``tolerance`` of the trace are left out.
        """
        # In single precision the many equal eigenvalues of a rank-deficient factor can keep it from converging.
        found = torch.linalg.eigh(self.inputs.double())
        values, vectors = (part.to(self.inputs.dtype) for part in found)
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        if tolerance <= 0.0:
            return vectors.contiguous(), values
        held = values.double().cumsum(0) / values.double().sum()
        rank = min(int((held < 1.0 - tolerance).sum()) + 1, len(values))
        return vectors[:, :rank].contiguous(), values[:rank]


@dataclass(frozen=True)
class Watched:
    """A layer that K-FAC knows."""

    module: nn.Module
    weight: str
    bias: str

    def inputs(self, x: Tensor, n: int) -> Tensor:
        """Inputs as (n samples, positions, width)."""
        if isinstance(self.module, nn.Conv2d):
            m = self.module
            x = functional.unfold(x, m.kernel_size, m.dilation, _ints(m.padding), m.stride).transpose(1, 2)
        x = self._by_sample(x, n)
        return torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2) if self.bias else x

    def outputs(self, q: Tensor, n: int) -> Tensor:
        """Output cotangents as (n samples, positions, rows)."""
        return self._by_sample(q.flatten(2).transpose(1, 2) if isinstance(self.module, nn.Conv2d) else q, n)

    def _by_sample(self, rows: Tensor, n: int) -> Tensor:
        if isinstance(self.module, nn.Conv2d) and len(rows) % n == 0:
            return rows.reshape(n, -1, rows.shape[-1])
        try:
            return by_sample(rows, n)
        except ValueError as error:
            raise NoFactorsError(f"K-FAC cannot tell the samples apart in {self.weight!r}: {error}") from error


def watched_layers(problem: Problem, names: Sequence[str]) -> list[Watched]:
    """Linear layers and ungrouped convolutions with zero padding whose weight is trained and not shared."""
    shared, wanted = {*problem.tied, *problem.tied.values()}, set(names)
    found = []
    for name, module in problem.model.named_modules():
        weight, bias = (f"{name}.{part}" if name else part for part in ("weight", "bias"))
        plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
        known = isinstance(module, nn.Linear) or (plain and not isinstance(module.padding, str))
        if known and weight in wanted - shared:
            found.append(Watched(module, weight, bias if bias in wanted - shared else ""))
    return found


def kronecker_factors(
    problem: Problem,
    params: Mapping[str, Tensor],
    ids: Tensor,
    names: Sequence[str],
    kind: str = "ggn",
    known: Tensor | None = None,
) -> list[Factor]:
    """Factors of every layer that K-FAC knows, over some samples.

    Parameters
    ----------
    problem : Problem
    params : dict of str to Tensor
    ids : LongTensor
    names : sequence of str
        Parameters to cover.
    kind : {'ggn', 'fisher', 'empirical_fisher'}
    known : Tensor (samples, outputs, outputs), optional
        The loss's output curvature of ``ids``, if it is known.

    Returns
    -------
    list of Factor
        ``inputs`` are weighted means, ``outputs`` sums over ``ids``.

    Raises
    ------
    NoFactorsError
        The model does not give one vector a sample, or too long a one.
    """
    layers = watched_layers(problem, names)
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    total, done = 0.0, 0
    for batch in problem.batches(ids):
        with twice_differentiable(), _tapped(layers) as calls:
            found = problem.outputs({k: v.detach().requires_grad_() for k, v in params.items()}, batch.inputs)
        here = None if known is None else known[done : done + len(batch.ids)]
        curvature = _curvature_of(problem, kind, found.detach(), batch) if here is None else here
        done += len(batch.ids)
        shares = curvature.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0.0)
        total += float(shares.sum())
        pairs = [(i, call) for i, of_layer in enumerate(calls) for call in of_layer]
        if not pairs:  # no layer that K-FAC knows, or none that the model calls as a module
            return []
        for i, call in pairs:
            kept = params[layers[i].weight].dtype  # autocast gives the layer another one
            rows, shares = layers[i].inputs(call.inputs, len(shares)).to(kept), shares.to(kept)
            part = (rows * shares[:, None, None]).flatten(0, 1).T @ rows.flatten(0, 1)
            inputs[i] = inputs[i] + part if i in inputs else part
        for columns in _factor_columns(curvature, batch.ids):
            for (i, _), q in zip(pairs, _pulled(found, [call for _, call in pairs], columns), strict=True):
                rows = layers[i].outputs(q, len(shares)).to(params[layers[i].weight].dtype)
                part = rows.flatten(0, 1).T @ rows.flatten(0, 1) / rows.shape[1]
                outputs[i] = outputs[i] + part if i in outputs else part
    scale = max(total, torch.finfo(torch.float32).tiny)
    return [Factor(layers[i].weight, layers[i].bias, inputs[i] / scale, outputs[i]) for i in sorted(inputs)]


def without(factors: Sequence[Factor], forgotten: Sequence[Factor]) -> list[Factor]:
    """Factors with the outputs of forgotten samples taken away."""
    less = {factor.weight: factor.outputs for factor in forgotten}
    return [replace(f, outputs=f.outputs - less[f.weight]) if f.weight in less else f for f in factors]


# ------------------------------------------------------------------- rows of layers' matrices
@dataclass(frozen=True)
class LayerRows:
    """Some rows of one layer's change, as a matrix: a row an output, columns the inputs, the bias last."""

    weight: str
    bias: str
    rows: Tensor | None
    shape: tuple[int, int]

    def read(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The rows of tensors by name."""
        matrix = layer_matrix(tensors, self.weight, self.bias)
        return matrix if self.rows is None else matrix[self.rows]

    def write(self, matrix: Tensor, into: dict[str, Tensor]) -> None:
        """Put the rows into full tensors, in place."""
        rows = slice(None) if self.rows is None else self.rows
        weight = into[self.weight]
        flat = matrix[:, :-1] if self.bias else matrix
        weight[rows] = flat.reshape(-1, *weight.shape[1:])
        if self.bias:
            into[self.bias][rows] = matrix[:, -1]


def layer_matrix(tensors: Mapping[str, Tensor], weight: str, bias: str) -> Tensor:
    """A layer's tensors as a matrix: a row an output, the bias last."""
    flat = tensors[weight].reshape(len(tensors[weight]), -1)
    return torch.cat([flat, tensors[bias][:, None]], dim=1) if bias else flat


def layer_rows(ones: Mapping[str, Tensor], weight: str, bias: str) -> LayerRows | None:
    """Which rows a vector touches, from its image of ones; None where it touches parts of rows."""
    if weight not in ones or (bias and bias not in ones):
        return None
    touched = layer_matrix(ones, weight, bias) != 0
    rows = touched.any(1)
    if not bool((touched.all(1) == rows).all()):
        return None
    where = None if bool(rows.all()) else rows.nonzero()[:, 0]
    return LayerRows(weight, bias, where, (int(rows.sum()), touched.shape[1]))


class KroneckerBlock:
    """``B (x) A + damping`` of some rows, in the basis of A's principal directions."""

    def __init__(self, outputs: Tensor, values: Tensor, basis: Tensor) -> None:
        self.curvatures, self.rotation = torch.linalg.eigh(outputs)
        self.curvatures = self.curvatures.clamp_min(0.0)
        self.values, self.basis = values, basis

    def solve(self, r: Tensor, damping: float) -> Tensor:
        """Inverse times a matrix in the basis."""
        return self._act(r, lambda t: t / (self.curvatures[:, None] * self.values + damping))

    def product(self, v: Tensor) -> Tensor:
        """Product with a matrix in the basis."""
        return self._act(v, lambda t: t * (self.curvatures[:, None] * self.values))

    def rest(self, r: Tensor, damping: float, left: float) -> Tensor:
        """Inverse times what lies outside the basis, where A's eigenvalues are about ``left``; in full columns."""
        outside = r - (r @ self.basis) @ self.basis.T
        return self._act(outside, lambda t: t / (self.curvatures[:, None] * left + damping))

    def _act(self, matrix: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
        found: Tensor = self.rotation @ scale(self.rotation.T @ matrix)
        return found


# ------------------------------------------------------------------------------- details
def _curvature_of(problem: Problem, kind: str, outputs: Tensor, batch: Batch) -> Tensor:
    if outputs.dim() != 2 or outputs.shape[1] > MOST_OUTPUTS:
        raise NoFactorsError(
            f"K-FAC needs one vector of at most {MOST_OUTPUTS} outputs a sample, the model gives {tuple(outputs.shape)}; "
            "pass selector='gradient_norm' and curvature='ggn'."
        )
    return output_curvature(problem, kind, outputs, batch.targets)


class _Call(NamedTuple):
    """One call of a layer.

    Attributes
    ----------
    inputs, outputs : Tensor
    edge : GradientEdge
        Where the output stands in the graph; the tensor itself moves on when an activation changes it in place.
    """

    inputs: Tensor
    outputs: Tensor
    edge: GradientEdge


@contextmanager
def _tapped(layers: Sequence[Watched]) -> Iterator[list[list[_Call]]]:
    """Every call of the layers that has derivatives, which calls under ``torch.no_grad()`` have not."""
    calls: list[list[_Call]] = [[] for _ in layers]
    with ExitStack() as stack:
        for layer, found in zip(layers, calls, strict=True):

            def note(_: nn.Module, args: Any, kwargs: Any, out: Tensor, found: list[_Call] = found) -> None:
                if out.requires_grad:
                    inputs = args[0] if args else kwargs["input"]
                    found.append(_Call(inputs.detach(), out.detach(), get_gradient_edge(out)))

            stack.callback(layer.module.register_forward_hook(note, with_kwargs=True).remove)
        yield calls


def _pulled(value: Tensor, calls: Sequence[_Call], along: Tensor) -> list[Tensor]:
    """A cotangent of the model's output, pulled back to the layers' outputs; zeros where it does not depend on one."""
    if not value.requires_grad:
        return [torch.zeros_like(call.outputs) for call in calls]
    edges = [call.edge for call in calls]
    found: Sequence[Tensor | None] = torch.autograd.grad(
        value, edges, along.to(value), retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(call.outputs) if q is None else q for call, q in zip(calls, found, strict=True)]


def _factor_columns(curvature: Tensor, ids: Tensor) -> Iterator[Tensor]:
    """Vectors l of each sample whose ``l l^T`` sum up to its C, in expectation where C is large."""
    values, vectors = torch.linalg.eigh(curvature if curvature.dtype == torch.float64 else curvature.float())
    root = vectors * values.clamp_min(0.0).sqrt()[:, None, :]
    if root.shape[2] <= EXACT_OUTPUTS:
        yield from root.unbind(2)
        return
    for draw in range(DRAWS):
        signs = _signs(ids, draw, root.shape[2]).to(root)
        yield torch.einsum("bij,bj->bi", root, signs) / DRAWS**0.5


def _signs(ids: Tensor, draw: int, width: int) -> Tensor:
    """Random signs that depend on the sample's id alone, so that its part can be taken away later."""
    state = ids[:, None] * 0x1F123BB5 + torch.arange(width)[None] * 0x5851F42D + draw * 0x2545F491 + 1
    for shift in (13, 7, 17):  # xorshift
        state = state ^ (state << shift) if shift != 7 else state ^ ((state >> shift) & ((1 << 57) - 1))
    return ((state >> 20) & 1) * 2 - 1


def _ints(padding: Any) -> tuple[int, ...]:
    return tuple(padding) if isinstance(padding, (tuple, list)) else (padding, padding)
