"""Sums over nearest neighbours on the model's device: what the statistics core does with trees and lists.

A step of L-FOCI asks, for every candidate, for the K nearest rows in the selected columns and this one.
A device has the width to look at all pairs: a tile of candidates and rows at a time, so that no array of
n x n is kept for a candidate. Sums are the core's integers: on float64 the picks are the same, on
float32 up to distances that only float64 tells apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from codec._forward import Find
from codec._neighbors import Geometry, Response, candidate_sums
from codec._pair_kernels import pair_sums
from codec.unlearn._distributed import Team, share_candidates
from codec.unlearn._problem import pass_bytes

MEMORY = 2**28  # bytes of a tile's distances
COPIES = 4  # arrays of a tile's size that are alive at once

Sums = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


@dataclass
class DeviceSums:
    """Sums ``K * A * one`` of candidates on a device; what forward selection calls at each step.

    Parameters
    ----------
    device : torch.device
        Where the distances are computed.
    dtype : {torch.float64, torch.float32}, default torch.float64
        Of the distances. float32 is what devices are made for; ties of float64 distances are then not told
        from near ties.
    memory_limit : int, default 2**28
        Bytes of the distances that are alive at a time.
    fused : bool, optional
        Compile the pass over pairs into kernels that keep no distance in memory. Default: on CUDA.
    """

    device: torch.device
    dtype: torch.dtype = torch.float64
    memory_limit: int = MEMORY
    fused: bool | None = None
    _points: Geometry | None = field(default=None, init=False, repr=False)
    _columns: Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False)
    _scale: Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False)

    def __call__(
        self, points: Geometry, response: Response, base: Sequence[int], candidates: Sequence[int], k: int
    ) -> list[int]:
        """One sum for every candidate."""
        if response.nominal:
            raise ValueError("the response of a recording is a number; a nominal one has no place on a device.")
        columns, scale = self._laid(points)
        weight = torch.from_numpy(response.weight).to(self.device)
        wanted = torch.as_tensor(candidates, device=self.device)
        whole = torch.zeros(len(wanted), dtype=torch.int64, device=self.device)
        part = torch.zeros_like(whole)
        pass_over, one = self._pass(), response.one
        n, n_rows, n_candidates = response.n, *self._tile(response.n, len(wanted))
        for rows in torch.split(torch.arange(n, device=self.device), n_rows):
            near = self._base_distances(columns, scale, base, rows)
            for some in torch.split(torch.arange(len(wanted), device=self.device), n_candidates):
                j = wanted[some]
                found = pass_over(near, columns[j], scale[j], rows, weight, k, one)
                whole[some] += found[0]
                part[some] += found[1]
        return [w * one + f for w, f in zip(whole.tolist(), part.tolist(), strict=True)]

    def _laid(self, points: Geometry) -> tuple[Tensor, Tensor]:
        """The columns and their scales on the device, checked and moved once for all steps."""
        if self._points is not points:
            if points.nominal.any():
                raise ValueError("activations are numbers; a nominal column has no place on a device.")
            whole = (np.ascontiguousarray(points.columns), points.scale)
            self._columns, self._scale = (torch.from_numpy(v).to(self.device, self.dtype) for v in whole)
            self._points = points
        return self._columns, self._scale

    def _tile(self, n: int, n_candidates: int) -> tuple[int, int]:
        """Rows and candidates whose distances fit into memory."""
        entries = max(1, self.memory_limit // (COPIES * self.dtype.itemsize * n))  # pairs (candidate, row)
        rows = min(n, max(1, entries // min(n_candidates, 16)))
        return rows, max(1, min(n_candidates, entries // rows))

    def _base_distances(self, columns: Tensor, scale: Tensor, base: Sequence[int], rows: Tensor) -> Tensor:
        """Squared distances in the selected columns, (rows, n); a row is not its own neighbour."""
        near = columns.new_zeros(len(rows), columns.shape[1])
        for j in base:  # in the core's order: the same rounding
            gap = columns[j, rows][:, None] - columns[j][None]
            near += scale[j] * (gap * gap)
        near[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        return near

    def _pass(self) -> Sums:
        fused = self.device.type == "cuda" if self.fused is None else self.fused
        return _compiled() if fused else sums_by_sorting


@cache
def _compiled() -> Sums:
    return torch.compile(sums_by_levels, dynamic=True)


def few_rows_sums(
    points: Geometry, response: Response, base: Sequence[int], candidates: Sequence[int], k: int
) -> list[int]:
    """:func:`candidate_sums` over all pairs; faster up to some hundred rows. For numbers, like a recording's."""
    if not base or response.nominal or points.nominal.any():
        return candidate_sums(points, response, base, candidates, k)
    chosen = (np.asarray(base, np.int64), np.asarray(candidates, np.int64))
    whole, part = pair_sums(points.columns, points.scale, *chosen, response.weight, k)
    return [w * response.one + f for w, f in zip(whole.tolist(), part.tolist(), strict=True)]


def default_finder(device: torch.device) -> Find:
    """Who finds neighbours of what lies on a device: the device itself, or the engine of the core."""
    if device.type != "cuda":
        return candidate_sums
    return DeviceSums(device, torch.float32, memory_limit=pass_bytes(device))


def shared_finder(team: Team, device: torch.device) -> Find | None:
    """The same where several processes share the candidates; None for one."""
    return share_candidates(default_finder(device), team, device) if team.size > 1 else None


def _distances(near: Tensor, columns: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
    """(candidates, rows, n)."""
    gap = columns[:, rows, None] - columns[:, None, :]
    return near + scale[:, None, None] * (gap * gap)


def sums_by_sorting(
    near: Tensor, columns: Tensor, scale: Tensor, rows: Tensor, weight: Tensor, k: int, one: int
) -> tuple[Tensor, Tensor]:
    """Whole and fractional sums of each candidate over these rows, by the k + 1 smallest distances.

    Parameters
    ----------
    near : Tensor (r, n)
        Squared distances of the rows in the selected columns.
    columns, scale : Tensor (c, n) and (c,)
        The candidates and the weights of their squared differences.
    rows : Tensor (r,)
    weight : Tensor (n,), int64
        Ranks ``R`` of the response, ascending: ``w(i, j) = R_min(i, j)``.
    k, one : int
        Neighbours, and the unit of fractions.
    """
    distance = _distances(near, columns, scale, rows)
    if k + 1 < distance.shape[-1]:
        value, index = distance.topk(k + 1, dim=-1, largest=False)
        tied = value[..., k] == value[..., k - 1]
    else:  # everyone is a neighbour
        index = distance.topk(k, dim=-1, largest=False).indices
        tied = torch.zeros_like(distance[..., 0], dtype=torch.bool)
    own = weight[rows][None, :, None]
    sums = torch.minimum(own, weight[index[..., :k]]).sum(-1)
    part = torch.zeros_like(sums)
    where = tied.nonzero(as_tuple=True)
    if len(where[0]):
        other = torch.minimum(own[0, where[1]], weight[None])
        sums[where], part[where] = _shared(distance[where], other, value[where][:, k - 1, None], k, one)
    return sums.sum(-1), part.sum(-1)


def _shared(distance: Tensor, other: Tensor, last: Tensor, k: int, one: int) -> tuple[Tensor, Tensor]:
    """Sums of rows with ties at the k-th distance ``last``: the tied ones share the places that are left."""
    inside, at = distance < last, distance == last
    places, n_tied = k - inside.sum(-1), at.sum(-1)
    return _add_share((inside * other).sum(-1), places, (at * other).sum(-1), n_tied, one)


def _add_share(strict: Tensor, places: Tensor, tied: Tensor, n_tied: Tensor, one: int) -> tuple[Tensor, Tensor]:
    """``strict + places * tied / n_tied``, whole and in units of 1 / one, as the core rounds it."""
    product = places * tied
    whole = product // n_tied
    return strict + whole, ((product - whole * n_tied) * one + n_tied // 2) // n_tied


def sums_by_levels(
    near: Tensor, columns: Tensor, scale: Tensor, rows: Tensor, weight: Tensor, k: int, one: int
) -> tuple[Tensor, Tensor]:
    """The same by the k smallest levels, each a minimum over the row: compiled, no distance is stored."""
    distance = _distances(near, columns, scale, rows)
    last = distance.amin(-1, keepdim=True)
    for _ in range(k - 1):  # the next level, unless the levels so far hold k rows
        enough = (distance <= last).sum(-1, keepdim=True) >= k
        above = torch.where(distance > last, distance, torch.inf).amin(-1, keepdim=True)
        last = torch.where(enough, last, above)
    other = torch.minimum(weight[rows][:, None], weight[None])
    sums, part = _shared(distance, other[None], last, k, one)
    return sums.sum(-1), part.sum(-1)
