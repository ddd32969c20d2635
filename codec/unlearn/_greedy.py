"""Joint forward selection of units on the decrement of a quadratic model.

The Newton step on the units P lowers the model by ``1/2 g_P^T (H_PP + mu I)^-1 g_P``. Greedy selection adds
the unit that raises it most: with the Kronecker-factored curvature exactly and in milliseconds, with the
exact curvature by the residual of the step so far. Exchanges mend on the exact curvature what was chosen on
the Kronecker-factored one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.unlearn._kfac import Factor, NoFactorsError, layer_matrix
from codec.unlearn._slices import Slices
from codec.unlearn._units import Units

TAIL = 1e-4  # directions of the inputs with less curvature than this share of the damping have none
FLOOR = 1e-6  # of the damping: what rounding may leave of a conditional variance
EXCHANGES = 3  # most units that are exchanged for others


@dataclass(frozen=True)
class Layer:
    """One layer's factors in the principal directions of its inputs.

    Attributes
    ----------
    weight, bias : str
        Names of its parameters.
    units : LongTensor (rows,)
        Unit of each row; -1 where the row is no unit's.
    basis : Tensor (width, r)
        Directions with curvature.
    values : Tensor (r,)
        Their share, largest first.
    outputs : Tensor (rows, rows)
        Curvature between the rows, a mean over samples.
    """

    weight: str
    bias: str
    units: Tensor
    basis: Tensor
    values: Tensor
    outputs: Tensor

    def split(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Coordinates (r, rows) in the directions, and the square (rows,) of what lies outside them."""
        matrix = layer_matrix(tensors, self.weight, self.bias)
        within = matrix @ self.basis
        outside = (matrix.square().sum(1) - within.square().sum(1)).clamp_min(0.0)
        return within.T.double(), outside.double()


class KfacGreedy:
    """Greedy selection on ``B (x) A + damping I``, layer by layer.

    Parameters
    ----------
    units : Units
    factors : sequence of Factor
        K-FAC of the layers; their outputs are sums over ``n`` samples. Layers without are left out, and so are
        those whose units own several rows of the weight, or rows of a layer before.
    n : int
        Samples behind the factors.
    damping : float
        Weight decay and damping together, above 0.
    bases : dict of str to (Tensor, Tensor), optional
        `Factor.basis` of the factors that have been diagonalised before, by weight.

    Notes
    -----
    In the directions that diagonalise A = V diag(a) V^T the model falls apart into one problem of rows for
    each direction, ``(a_j B_PP + damping I)^-1``. Adding a unit is one column of the Cholesky factor of each;
    a unit's gain is its squared residual over its conditional variance, summed over the directions.
    """

    def __init__(
        self,
        units: Units,
        factors: Sequence[Factor],
        n: int,
        damping: float,
        bases: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        if not damping > 0.0:
            raise NoFactorsError(
                f"damping is {damping}; selection by K-FAC needs weight_decay above 0, or pass selector='gradient_norm'."
            )
        self.damping = float(damping)
        self.n_units = units.n_units
        owners = _units_of_rows(units, [f.weight for f in factors])
        known = bases or {}
        self.layers = [
            self._layer(f, owners[f.weight], n, known.get(f.weight) or f.basis()) for f in factors if f.weight in owners
        ]
        if not self.layers:
            raise NoFactorsError(
                "K-FAC knows no layer of this model (Linear, Conv2d, called as modules); pass selector='gradient_norm'."
            )

    def _layer(self, factor: Factor, units: Tensor, n: int, directions: tuple[Tensor, Tensor]) -> Layer:
        basis, values = directions
        outputs = factor.outputs / n
        alive = values * outputs.diagonal().max() > TAIL * self.damping
        return Layer(factor.weight, factor.bias, units, basis[:, alive], values[alive], outputs)

    def select(self, gradient: Mapping[str, Tensor], max_units: int) -> tuple[Tensor, Tensor]:
        """Units in the order in which they enter, and what each adds to ``g^T (H + mu I)^-1 g``.

        Parameters
        ----------
        gradient : dict of str to Tensor
            Right-hand side of the step, by parameter name.
        max_units : int
        """
        parts = [_Rows(layer, gradient, self.damping) for layer in self.layers]
        chosen: list[int] = []
        gains: list[float] = []
        for _ in range(min(max_units, sum(int((layer.units >= 0).sum()) for layer in self.layers))):
            part = max(parts, key=lambda one: float(one.gain.max()))
            row = int(part.gain.argmax())
            chosen.append(int(part.units[row]))
            gains.append(float(part.gain[row]))
            part.add(row)
        return torch.tensor(chosen, dtype=torch.long), torch.tensor(gains)

    def worth(self, step: Mapping[str, Tensor], residual: Mapping[str, Tensor], inside: Sequence[int]) -> Tensor:
        """What each unit means to ``g^T (H + mu I)^-1 g``, (n_units,); -inf where K-FAC knows nothing.

        Parameters
        ----------
        step, residual : dict of str to Tensor
            ``(H + mu I)^-1 g`` on the units inside, and what it leaves of g on all.
        inside : sequence of int
            Of these what is lost without one of them, of the others what one would bring.
        """
        found = torch.full((self.n_units,), -torch.inf, dtype=torch.float64)
        for layer in self.layers:
            row_of = {unit: row for row, unit in enumerate(layer.units.tolist())}
            chosen = torch.tensor([row_of[u] for u in inside if u in row_of], dtype=torch.long)
            worth, owned = self._worth(layer, step, residual, chosen.to(layer.outputs.device)), layer.units >= 0
            found[layer.units[owned]] = worth[owned]
        return found

    def _worth(
        self, layer: Layer, step: Mapping[str, Tensor], residual: Mapping[str, Tensor], chosen: Tensor
    ) -> Tensor:
        (x, x_outside), (r, r_outside) = layer.split(step), layer.split(residual)
        values, outputs = layer.values.double()[:, None, None], layer.outputs.double()
        eye = torch.eye(len(chosen), dtype=values.dtype, device=values.device)
        inverse = torch.linalg.inv(values * outputs[chosen][:, chosen] + self.damping * eye)
        told = values * outputs[chosen]  # (directions, inside, rows): curvature between those inside and all
        variance = values[:, 0] * outputs.diagonal() + self.damping - (told * (inverse @ told)).sum(1)
        found: Tensor = (r.square() / variance.clamp_min(FLOOR * self.damping)).sum(0) + r_outside / self.damping
        alone = (x[:, chosen].square() / inverse.diagonal(dim1=1, dim2=2)).sum(0)
        found[chosen] = alone + x_outside[chosen] * self.damping
        return found.cpu()


def exchange(
    greedy: KfacGreedy,
    found: tuple[Tensor, Tensor],
    solve: Callable[[Sequence[int], Tensor | None], Tensor],
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    slices: Slices,
) -> tuple[Tensor, Tensor]:
    """Let one unit go for another that means more by K-FAC, as long as the exact decrement rises.

    Parameters
    ----------
    greedy : KfacGreedy
    found : (Tensor, Tensor)
        Its choice and what each unit added.
    solve : callable(units, first guess)
        The exact step on some units as a flat vector of all; a rough one will do.
    product : callable
        ``(H + mu I) v`` on the flat vector of all units.
    gradient : Tensor (slices.size,)
        Right-hand side.
    slices : Slices
        The flat vector of all units.

    Returns
    -------
    units, gains : Tensor
        In the order in which they entered.
    """
    trial = dict(zip(*(part.tolist() for part in found), strict=True))
    best, most, step = trial, -torch.inf, None
    for _ in range(EXCHANGES + 1):
        step = solve(sorted(trial), step)
        residual = gradient - product(step)
        decrement = float(step @ (gradient + residual))  # 2 g^T x - x^T H x: off by the square of x's error alone
        if decrement <= most:
            break
        best, most = trial, decrement
        inside = sorted(trial)
        worth = greedy.worth(slices.scatter(step), slices.scatter(residual), inside)
        goes = inside[int(worth[inside].argmin())]
        others = worth.index_fill(0, torch.tensor(inside), -torch.inf)
        comes = int(others.argmax())
        if not float(others[comes]) > float(worth[goes]):
            break
        trial = {unit: gain for unit, gain in trial.items() if unit != goes} | {comes: float(others[comes])}
    return torch.tensor(list(best), dtype=torch.long), torch.tensor(list(best.values()))


def _units_of_rows(units: Units, weights: Sequence[str]) -> dict[str, Tensor]:
    """Unit of each row, -1 for none, of the weights whose units own one row each and none of a weight before."""
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for weight in weights:
        parts = [
            (offset, part)
            for offset, layer in zip(units.offsets, units.layers, strict=False)
            for part in layer.parts
            if part.parameter == weight
        ]
        if not parts or any(part.dim != 0 or part.groups != 1 or part.rows.shape[1] != 1 for _, part in parts):
            continue
        owners = torch.full((units.shapes[weight][0],), -1)
        for offset, part in parts:
            owners[part.rows[:, 0]] = offset + torch.arange(len(part.rows))
        own = set(owners[owners >= 0].tolist())
        if not own & taken:
            found[weight] = owners
            taken |= own
    return found


class _Rows:
    """The rows of one layer that are still outside, given those inside."""

    def __init__(self, layer: Layer, gradient: Mapping[str, Tensor], damping: float) -> None:
        self.units, self.damping = layer.units, damping
        self.outputs = layer.outputs.double()
        self.values = layer.values.double()[:, None]
        self.residual, outside = layer.split(gradient)
        # What lies outside the directions has the curvature ``damping`` alone: no row touches another there.
        self.outside = outside / damping
        self.variance = self.values * self.outputs.diagonal() + damping
        self.columns: list[Tensor] = []
        self.inside = (layer.units < 0).to(outside.device)  # rows of no unit cannot enter
        self.gain = self._gain()

    def _gain(self) -> Tensor:
        gain = (self.residual.square() / self.variance).sum(0) + self.outside
        return gain.masked_fill(self.inside, -torch.inf)

    def add(self, row: int) -> None:
        """One more column of the Cholesky factor, for every direction."""
        column = self.values * self.outputs[row]
        column[:, row] += self.damping
        for before in self.columns:
            column.addcmul_(before, before[:, row, None], value=-1.0)
        deviation = self.variance[:, row, None].sqrt()
        column /= deviation
        self.residual.addcmul_(column, self.residual[:, row, None] / deviation, value=-1.0)
        self.variance.addcmul_(column, column, value=-1.0).clamp_min_(FLOOR * self.damping)
        self.columns.append(column)
        self.inside[row] = True
        self.gain = self._gain()


def residual_greedy(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    slices: Slices,
    max_units: int,
    *,
    per_round: int = 1,
    iterations: int = 10,
    tolerance: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """Add the unit with the largest residual of the step on the units so far, and solve again.

    Parameters
    ----------
    product : callable
        ``(H + mu I) v`` on the flat vector of all units.
    gradient : Tensor (slices.size,)
        Right-hand side.
    slices : Slices
        The flat vector of all units.
    max_units : int
    per_round : int, default 1
        Units that enter before the step is solved again.
    iterations, tolerance
        Of the conjugate gradients of each round, started at the step so far.

    Returns
    -------
    units : LongTensor (max_units,)
        In the order in which they entered.
    scores : Tensor (max_units,)
        Norm of each unit's residual when it entered.
    """
    owner = slices.owners().to(gradient.device)
    step, residual = torch.zeros_like(gradient), gradient
    inside = torch.zeros(slices.n_selected + 1, dtype=torch.bool, device=gradient.device)
    units: list[int] = []
    scores: list[float] = []
    while len(units) < min(max_units, slices.n_selected):
        size = slices.unit_sums(residual.square()).sqrt().masked_fill(inside[:-1], -1.0)
        best = size.topk(min(per_round, max_units - len(units)))
        units += best.indices.tolist()
        scores += best.values.tolist()
        inside[best.indices] = True
        if len(units) < max_units:
            step, residual = _solve_inside(product, gradient, step, residual, inside[owner], iterations, tolerance)
    return torch.tensor(units, dtype=torch.long), torch.tensor(scores)


def _solve_inside(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    step: Tensor,
    residual: Tensor,
    inside: Tensor,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Conjugate gradients on the entries inside; the step and the residual of all entries."""
    error = residual * inside
    direction, size = error.clone(), error.dot(error)
    goal = tolerance**2 * (gradient * inside).square().sum()
    for _ in range(iterations):
        if size <= goal:
            break
        image = product(direction)
        curvature = direction.dot(image)
        if curvature <= 0.0:  # an indefinite curvature: the step so far stands
            break
        length = size / curvature
        step, residual = step + length * direction, residual - length * image
        error = residual * inside
        size, before = error.dot(error), size
        direction = error + size / before * direction
    return step, residual
