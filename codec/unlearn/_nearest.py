"""Sums over nearest neighbours on the model's device: what the statistics core does with trees and lists.

A step of L-FOCI asks, for every candidate, for the K nearest rows in the selected columns and this one.
A device has the width to look at all pairs: a tile of candidates and rows at a time, so that no array of
n x n is kept for a candidate; where Triton is installed, at those that lists of rows leave to look at. Sums are the core's integers: on float64 the picks are the same, on
float32 up to distances that only float64 tells apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

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

MOST_LISTED = 64  # neighbours whose distances fit into a thread's registers
LIST_BYTES = 40  # of a pair while lists are made: distances, places in 64 and in 32 bits, both before and after

Sums = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


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
    lists : bool, optional
        Whether one kernel runs along lists of rows, :mod:`codec.unlearn._list_pass`. Default: on CUDA, where
        Triton is installed; else all pairs are looked at.
    """

    device: torch.device
    dtype: torch.dtype = torch.float64
    memory_limit: int = MEMORY
    lists: bool | None = None
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
        wanted = torch.frombuffer(array("q", candidates), dtype=torch.int64).to(self.device)
        sums = torch.zeros(2, len(wanted), dtype=torch.int64, device=self.device)
        pass_over, one = _list_pass() if self._by_lists(k) else sums_by_sorting, response.one
        n_rows, n_candidates = self._tile(response.n, len(wanted), k)
        for rows in torch.split(torch.arange(response.n, device=self.device), n_rows):
            near = self._base_distances(columns, scale, base, rows)
            for some in torch.split(torch.arange(len(wanted), device=self.device), n_candidates):
                sums[:, some] += torch.stack(pass_over(near, columns, scale, wanted[some], rows, weight, k, one))
        whole, part = sums.tolist()
        return [w * one + f for w, f in zip(whole, part, strict=True)] if any(part) else [w * one for w in whole]

    def _laid(self, points: Geometry) -> tuple[Tensor, Tensor]:
        """The columns and their scales on the device, checked and moved once for all steps."""
        if self._points is not points:
            if points.nominal.any():
                raise ValueError("activations are numbers; a nominal column has no place on a device.")
            whole = (np.ascontiguousarray(points.columns), points.scale)
            columns, self._scale = (torch.from_numpy(v).to(self.device, self.dtype) for v in whole)
            self._columns = columns.T.contiguous().T if self._by_lists(1) else columns
            self._points = points
        return self._columns, self._scale

    def _by_lists(self, k: int) -> bool:
        wanted = self.device.type == "cuda" and _has_triton() if self.lists is None else self.lists
        return wanted and k <= MOST_LISTED

    def _tile(self, n: int, n_candidates: int, k: int) -> tuple[int, int]:
        """Rows and candidates whose distances fit into memory."""
        if self._by_lists(k):
            return max(1, self.memory_limit // (LIST_BYTES * n)), n_candidates
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


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _list_pass() -> Sums:
    from codec.unlearn._list_pass import sums_by_lists

    return sums_by_lists


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
    near: Tensor, columns: Tensor, scale: Tensor, wanted: Tensor, rows: Tensor, weight: Tensor, k: int, one: int
) -> tuple[Tensor, Tensor]:
    """Whole and fractional sums of each candidate over these rows, by the k + 1 smallest distances.

    Parameters
    ----------
    near : Tensor (r, n)
        Squared distances of the rows in the selected columns; infinite to themselves.
    columns, scale : Tensor (p, n) and (p,)
        All columns, and the weights of their squared differences.
    wanted : Tensor (c,), int64
        The candidates.
    rows : Tensor (r,)
    weight : Tensor (n,), int64
        Ranks ``R`` of the response, ascending: ``w(i, j) = R_min(i, j)``.
    k, one : int
        Neighbours, and the unit of fractions.
    """
    distance = _distances(near, columns[wanted], scale[wanted], rows)
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
