"""A chain of layers linearised at one point over all its samples, kept for every later request.

What a Gauss-Newton product needs of the data (inputs of the layers, local derivatives, the loss's output
curvature) does not change while the point stays. Forgotten samples have their output curvature set to zero,
so nothing is computed anew between requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import cast

import torch
from torch import Tensor

from codec.unlearn._chain import (
    Derivative,
    Layer,
    LayerDerivative,
    Linear,
    NoChainError,
    Stage,
    find_chain,
)
from codec.unlearn._kfac import (
    Factor,
    KroneckerBlock,
    LayerRows,
    kronecker_factors,
    layer_rows,
    without,
)
from codec.unlearn._problem import Problem
from codec.unlearn._products import output_curvature, output_slope
from codec.unlearn._slices import Slices

MOST_OUTPUTS = 128
LEFT_OUT = 0.02  # share of the curvature's trace that is left out for speed, twice; where nothing hides it, see `Point`
SMALL_LAYER = 64  # no direction of so few inputs is left out


class Linearisation:
    """What Gauss-Newton products at one point need of the data.

    Parameters
    ----------
    problem : Problem
    params : dict of str to Tensor
        The point.
    kind : {'ggn', 'fisher', 'empirical_fisher'}, default 'ggn'
    tolerance : float, default 0.02
        Share of the curvature's trace that may be left out twice: with the samples that have the least, and
        with the last principal directions of the inputs of wide linear layers. 0: nothing is left out.
    max_bytes : int, default 2 GiB
        Most memory of what is kept.

    Attributes
    ----------
    ids : LongTensor
        Samples that are kept, ascending.
    traces : Tensor (n,)
        Trace of the loss's output curvature of every sample.
    left_out : float
        Share of the trace of the samples that are not kept.
    directions : dict of str to float
        Share of the trace of the directions that are left out, by weight.

    Raises
    ------
    NoChainError
        The model is no chain of known layers, has too many outputs or needs too much memory.
    """

    def __init__(
        self,
        problem: Problem,
        params: Mapping[str, Tensor],
        kind: str = "ggn",
        *,
        tolerance: float = LEFT_OUT,
        max_bytes: int = 2**31,
    ) -> None:
        self.problem, self.kind = problem, kind
        self.params = {name: value.detach().clone() for name, value in params.items()}
        self.stages: list[Stage] = find_chain(problem, self.params)
        self.layers = [stage for stage in self.stages if isinstance(stage, Layer)]
        self.traces = self._traces()
        self.ids = _enough(self.traces, tolerance)
        self.left_out = 1.0 - float(self.traces[self.ids].sum() / self.traces.sum())
        mine = problem.share(self.ids)  # each process keeps its part and adds up the products
        self.place = torch.full((problem.n,), -1)
        self.place[mine] = torch.arange(len(mine))
        self.held = set(self.ids.tolist())
        self._check_memory(max_bytes)
        self.factors = kronecker_factors(problem, self.params, self.ids, problem.names, kind)
        linear = {layer.weight for layer in self.layers if isinstance(layer, Linear)}  # convolutions gain no time
        wide = {f.weight for f in self.factors if len(f.inputs) > SMALL_LAYER} & linear
        self.bases = {f.weight: f.basis(tolerance if f.weight in wide else 0.0) for f in self.factors}
        self.directions = {f.weight: _left(f, self.bases[f.weight][1]) for f in self.factors}
        for layer in self.layers:
            if isinstance(layer, Linear) and layer.weight in self.bases:
                layer.basis = self.bases[layer.weight][0]
        self.chunks, self.outputs, self.curvature = self._keep(mine)
        self._taken: tuple[list[int], list[Factor]] = ([], [])

    # ------------------------------------------------------------------------ set-up
    def _traces(self) -> Tensor:
        found = []
        with torch.no_grad():
            for batch in self.problem.batches():
                outputs = self.problem.outputs(self.params, batch.inputs)
                if outputs.shape[1] > MOST_OUTPUTS:
                    raise NoChainError(f"the model has {outputs.shape[1]} outputs, more than {MOST_OUTPUTS}")
                curvature = output_curvature(self.problem, self.kind, outputs, batch.targets)
                found.append(curvature.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0.0).cpu())
        return torch.cat(found)

    def _check_memory(self, max_bytes: int) -> None:
        x, _ = self.problem.fetch(self.ids[:1])
        numbers = 0
        with torch.no_grad():
            for stage in self.stages:
                numbers += x.numel()
                x = stage.run(x)
        numbers += 2 * x.shape[1] ** 2  # the loss's output curvature, and again without the forgotten samples
        need = x.element_size() * numbers * len(self.ids)
        if need > max_bytes:
            raise NoChainError(
                f"its layers' inputs and the loss's output curvature take about {need / 2**20:.0f} MiB, more than "
                f"{max_bytes / 2**20:.0f}"
            )

    def _keep(self, ids: Tensor) -> tuple[list[list[Derivative]], list[tuple[Tensor, Tensor]], list[Tensor]]:
        """The stages' derivatives, outputs with targets, and the output curvature, of each batch of the samples."""
        chunks, outputs, curvature = [], [], []
        with torch.no_grad():
            for batch in self.problem.batches(ids):
                x, derivatives = batch.inputs, []
                for stage in self.stages:
                    derivatives.append(stage.derivative(x))
                    x = stage.run(x)
                chunks.append(derivatives)
                outputs.append((x, batch.targets))
                curvature.append(output_curvature(self.problem, self.kind, x, batch.targets))
        return chunks, outputs, curvature

    # ------------------------------------------------------------------------ requests
    def without_rows(self, chunks: list[Tensor], forgotten: Tensor) -> list[Tensor]:
        """Something of every kept sample, with the rows of the forgotten samples zero."""
        places = self.place[forgotten]
        places = places[places >= 0]
        if not len(places):
            return chunks
        found, start = [], 0
        for chunk in chunks:
            here = places[(places >= start) & (places < start + len(chunk))] - start
            found.append(chunk.index_fill(0, here.to(chunk.device), 0.0) if len(here) else chunk)
            start += len(chunk)
        return found

    def factors_without(self, forgotten: Tensor) -> list[Factor]:
        """K-FAC factors with the forgotten samples' outputs taken away."""
        held = sorted(self.held & set(forgotten.tolist()))
        if held != self._taken[0]:  # all at once, whatever came before: a resumed run must have the same bits
            ids = torch.tensor(held, dtype=torch.long)
            self._taken = held, self._factors_of(ids) if held else []
        return without(self.factors, self._taken[1])

    def _factors_of(self, ids: Tensor) -> list[Factor]:
        known = self._curvature_of(ids)
        return kronecker_factors(self.problem, self.params, ids, self.problem.names, self.kind, known)

    def _curvature_of(self, ids: Tensor) -> Tensor | None:
        """The output curvature of samples; None where another process keeps some of it."""
        places = self.place[ids]
        if bool((places < 0).any()):
            return None
        sizes = torch.tensor([len(chunk) for chunk in self.curvature]).cumsum(0)
        chunk = torch.searchsorted(sizes, places, right=True)
        first = torch.cat([sizes.new_zeros(1), sizes])[chunk]
        pairs = zip(chunk.tolist(), (places - first).tolist(), strict=True)
        return torch.stack([self.curvature[c][row] for c, row in pairs])

    def rows_of(self, slices: Slices) -> list[LayerRows | None] | None:
        """Rows of every layer that the slices touch; None where they touch anything but whole rows."""
        ones = slices.scatter(torch.ones(slices.size, device=self.problem.device))
        found = [layer_rows(ones, layer.weight, layer.bias) for layer in self.layers]
        covered = {name for r in found if r for name in (r.weight, r.bias)}
        return found if set(slices.parameters) <= covered else None

    def product(
        self, changes: Sequence[Tensor | None], rows: Sequence[LayerRows | None], curvature: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Sum over the kept samples of ``J^T C J`` times changes of the layers' rows."""
        pushed = zip(curvature, self.tangents(changes, rows), strict=True)
        return self.pulled((torch.bmm(c, t[:, :, None])[:, :, 0] for c, t in pushed), rows)

    def tangents(self, changes: Sequence[Tensor | None], rows: Sequence[LayerRows | None]) -> Iterator[Tensor]:
        """``J`` times changes of the layers' rows, for each batch of the kept samples."""
        return (self._tangent(changes, rows, derivatives) for derivatives in self.chunks)

    def pulled(self, cotangents: Iterable[Tensor], rows: Sequence[LayerRows | None]) -> list[Tensor | None]:
        """Sum over the kept samples of ``J^T`` times cotangents of their outputs, by layer."""
        totals: list[Tensor | None] = [None] * len(self.layers)
        for derivatives, q in zip(self.chunks, cotangents, strict=True):
            for i, part in self._gradients(q, rows, derivatives).items():
                before = totals[i]
                totals[i] = part if before is None else before + part
        self.problem.team.add([total for total in totals if total is not None])
        return totals

    def _tangent(
        self, changes: Sequence[Tensor | None], rows: Sequence[LayerRows | None], derivatives: Sequence[Derivative]
    ) -> Tensor:
        """Derivative of the outputs along changes of the layers."""
        t: Tensor | None = None
        index = -1
        for stage, here in zip(self.stages, derivatives, strict=True):
            t = None if t is None else here.push(t)
            if isinstance(stage, Layer):
                index += 1
                change, which = changes[index], rows[index]
                if change is not None and which is not None:
                    t = cast(LayerDerivative, here).tangent(change, which.rows, t)
        if t is None:
            raise ValueError("the slices touch no layer of the chain.")
        return t

    def _gradients(
        self, q: Tensor, rows: Sequence[LayerRows | None], derivatives: Sequence[Derivative]
    ) -> dict[int, Tensor]:
        """Transpose of `_tangent`, by number of the layer."""
        found: dict[int, Tensor] = {}
        index = len(self.layers)
        lowest = min(i for i, which in enumerate(rows) if which is not None)
        for stage, here in zip(reversed(self.stages), reversed(derivatives), strict=True):
            if isinstance(stage, Layer):
                index -= 1
                which = rows[index]
                if which is not None:
                    found[index] = cast(LayerDerivative, here).gradient(q, which.rows)
                if index == lowest:
                    break
            q = here.pull(q)
        return found


class Restricted:
    """A linearisation restricted to slices and to retained samples, in the coordinates of its layers' bases."""

    def __init__(
        self, whole: Linearisation, slices: Slices, rows: Sequence[LayerRows | None], forgotten: Tensor, n: int
    ) -> None:
        self.whole, self.slices, self.rows, self.n = whole, slices, rows, n
        self.forgotten = forgotten
        self.curvature = whole.without_rows(whole.curvature, forgotten)
        self.bases = [
            layer.basis if isinstance(layer, Linear) and which is not None else None
            for layer, which in zip(whole.layers, rows, strict=True)
        ]
        self._blocks: list[KroneckerBlock | None] | None = None

    # coordinates: one matrix a touched layer, laid flat one after the other
    def encode(self, flat: Tensor) -> Tensor:
        """Coordinates of a flat vector."""
        tensors = self.slices.scatter(flat)
        return torch.cat([_rotate(w.read(tensors), q).reshape(-1) for w, q in self._touched()])

    def decode(self, x: Tensor) -> Tensor:
        """Flat vector of coordinates."""
        into = {name: x.new_zeros(self.whole.params[name].shape) for name in self.slices.parameters}
        for (which, basis), matrix in zip(self._touched(), self.split(x), strict=True):
            which.write(matrix if basis is None else matrix @ basis.T, into)
        return self.slices.gather(into)

    def split(self, x: Tensor) -> list[Tensor]:
        """The matrices of the touched layers."""
        shapes = [(w.shape[0], w.shape[1] if q is None else q.shape[1]) for w, q in self._touched()]
        pieces = torch.split(x, [a * b for a, b in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def product(self, x: Tensor) -> Tensor:
        """Mean curvature over the retained samples times coordinates."""
        return self._mean(self.whole.product(self._changes(x), self.rows, self.curvature))

    def force(self, x: Tensor) -> Tensor:
        """What the retained samples' mean gradient gains along coordinates, outputs taken for linear, the loss as it is.

        ``1/n sum J^T [l'(f + J x) - l'(f)]``; its derivative at 0 is `product`.
        """
        whole = self.whole
        gained = [
            output_slope(whole.problem, f + t, y) - output_slope(whole.problem, f, y)
            for (f, y), t in zip(whole.outputs, whole.tangents(self._changes(x), self.rows), strict=True)
        ]
        return self._mean(whole.pulled(whole.without_rows(gained, self.forgotten), self.rows))

    def moved(self, x: Tensor) -> Restricted:
        """The same with the loss's output curvature at ``f + J x``: its product is the derivative of `force` there."""
        whole, found = self.whole, copy(self)
        curvature = [
            output_curvature(whole.problem, whole.kind, f + t, y)
            for (f, y), t in zip(whole.outputs, whole.tangents(self._changes(x), self.rows), strict=True)
        ]
        found.curvature = whole.without_rows(curvature, self.forgotten)
        return found

    def damped(self, x: Tensor, damping: float, last: float) -> Tensor:
        """Coordinates times a damping, another one on the last layer."""
        factors = [last if which is self.rows[-1] else damping for which, _ in self._touched()]
        return torch.cat([(mu * piece).reshape(-1) for mu, piece in zip(factors, self.split(x), strict=True)])

    def _changes(self, x: Tensor) -> list[Tensor | None]:
        """The matrix of every layer, None where it stays as it is."""
        matrices = iter(self.split(x))
        return [None if which is None else next(matrices) for which in self.rows]

    def _mean(self, sums: Sequence[Tensor | None]) -> Tensor:
        """Coordinates of sums over samples, over the retained samples."""
        return torch.cat([m.reshape(-1) for m in sums if m is not None]) / self.n

    def _touched(self) -> list[tuple[LayerRows, Tensor | None]]:
        return [(w, q) for w, q in zip(self.rows, self.bases, strict=True) if w is not None]

    # ------------------------------------------------------------------------ K-FAC
    def blocks(self) -> list[KroneckerBlock | None]:
        """The Kronecker block of each touched layer; None where K-FAC does not know the layer."""
        if self._blocks is None:
            factors = {f.weight: f for f in self.whole.factors_without(self.forgotten)}
            self._blocks = [self._block(which, factors.get(which.weight)) for which, _ in self._touched()]
        return self._blocks

    def _block(self, which: LayerRows, factor: Factor | None) -> KroneckerBlock | None:
        if factor is None:
            return None
        basis, values = self.whole.bases[which.weight]
        outputs = factor.outputs / self.n
        if which.rows is not None:
            outputs = outputs[which.rows][:, which.rows]
        return KroneckerBlock(outputs, values, basis)

    def precondition(self, x: Tensor, damping: float) -> Tensor:
        """K-FAC's inverse times coordinates."""
        found = []
        for (_, basis), block, r in zip(self._touched(), self.blocks(), self.split(x), strict=True):
            if block is None:
                found.append(r / damping)
            elif basis is None:  # a convolution, kept in its own coordinates
                found.append(block.solve(r @ block.basis, damping) @ block.basis.T)
            else:
                found.append(block.solve(r, damping))
        return torch.cat([m.reshape(-1) for m in found])

    def outside(self, flat: Tensor, damping: float) -> Tensor:
        """The part of the solution in the directions that are left out, by K-FAC; a flat vector."""
        tensors = self.slices.scatter(flat)
        into = {name: flat.new_zeros(self.whole.params[name].shape) for name in self.slices.parameters}
        for (which, basis), block in zip(self._touched(), self.blocks(), strict=True):
            if basis is None or block is None or basis.shape[1] == basis.shape[0]:
                continue
            left = self.whole.directions[which.weight] * float(block.values.sum()) / (basis.shape[0] - basis.shape[1])
            which.write(block.rest(which.read(tensors), damping, left), into)
        return self.slices.gather(into)


def restrict(whole: Linearisation, slices: Slices, forgotten: Tensor, n: int) -> Restricted | None:
    """The linearisation on these slices; None where they are not whole rows of its layers."""
    rows = whole.rows_of(slices)
    return None if rows is None else Restricted(whole, slices, rows, forgotten, n)


def _rotate(matrix: Tensor, basis: Tensor | None) -> Tensor:
    return matrix if basis is None else matrix @ basis


def _enough(traces: Tensor, tolerance: float) -> Tensor:
    """Samples that hold all but ``tolerance`` of the trace, ascending; all of them if that saves under a tenth."""
    order = traces.argsort(descending=True, stable=True)
    held = traces[order].double().cumsum(0) / traces.double().sum().clamp_min(1e-300)
    count = min(int((held < 1.0 - tolerance).sum()) + 1, len(traces))
    if tolerance <= 0.0 or count > 0.9 * len(traces):
        return torch.arange(len(traces))
    return order[:count].sort().values


def _left(factor: Factor, values: Tensor) -> float:
    whole = float(factor.inputs.diagonal().sum())
    return max(0.0, 1.0 - float(values.sum()) / whole) if whole > 0.0 else 0.0
