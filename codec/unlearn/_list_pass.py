"""The neighbour pass of a CUDA device: each row's list of rows, nearest in the selected columns first.

A candidate adds to a distance, so a row's list is left as soon as the selected columns alone are farther
than the K-th best: what the engine of the core does, with a block of candidates in the place of one. Needs
Triton, which comes with torch's CUDA builds for Linux.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

CANDIDATES = 32  # of a program: one for each of its threads; their values at 1,000 rows fit into a processor's cache
SPLIT = 32  # programs that share the rows of one block of candidates
CHUNK = 8  # entries of a list between two looks at whether to go on


def sums_by_lists(
    near: Tensor, columns: Tensor, scale: Tensor, wanted: Tensor, rows: Tensor, weight: Tensor, k: int, one: int
) -> tuple[Tensor, Tensor]:
    """Whole and fractional sums of each candidate over these rows.

    Parameters
    ----------
    near : Tensor (r, n), fewer than 2**31 entries
        Squared distances of the rows in the selected columns; infinite to themselves.
    columns, scale : Tensor (p, n) and (p,)
        All columns, the values of a row side by side in memory, and the weights of their squared differences.
    wanted : Tensor (c,), int64
        Candidates: columns of ``values``.
    rows : Tensor (r,)
    weight : Tensor (n,), int64
        Ranks ``R`` of the response, ascending: ``w(i, j) = R_min(i, j)``.
    k, one : int
        Neighbours, at most 64 and fewer than n, and the unit of fractions.
    """
    (p, n), c, r = columns.shape, len(wanted), len(rows)
    distance, order = near.sort(dim=1)
    whole = torch.zeros(c, dtype=torch.int64, device=near.device)
    part = torch.zeros_like(whole)
    wide = _processors(near.device.index)
    _pass[(triton.cdiv(triton.cdiv(c, CANDIDATES), wide) * wide * SPLIT,)](
        distance, order.int(), weight[order].int(), columns.T.contiguous(), scale, wanted.int(), rows.int(), weight, whole, part,
        n, p, c, r, one, wide,
        K=k, CANDIDATES=CANDIDATES, SPLIT=SPLIT, CHUNK=CHUNK, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return whole, part


@cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


@triton.jit
def _pass(
    distance, order, listed, values, scale, wanted, rows, weight, whole, part, n, p, c, r, one, wide,
    K: tl.constexpr, CANDIDATES: tl.constexpr, SPLIT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    # Programs are dealt to the processors in turn: those of one block of candidates come to the same one.
    pid = tl.program_id(0)
    place = (pid // (wide * SPLIT) * wide + pid % wide) * CANDIDATES + tl.arange(0, CANDIDATES)
    there = place < c
    column = tl.load(wanted + place, mask=there, other=0)
    factor = tl.load(scale + column)
    sums = tl.zeros([CANDIDATES], tl.int64)
    parts = tl.zeros([CANDIDATES], tl.int64)
    for row in range(pid // wide % SPLIT, r, SPLIT):
        i = tl.load(rows + row)
        own = tl.load(values + i.to(tl.int64) * p + column)
        at = row * n
        last, end = _kth(distance + at, order + at, values, column, factor, own, n, p, K, CANDIDATES, CHUNK)
        rank = tl.load(weight + i).to(tl.int32)
        low = tl.zeros([CANDIDATES], tl.int32)
        count = tl.zeros([CANDIDATES], tl.int32)
        for t in range(0, end, CHUNK):
            for u in tl.static_range(CHUNK):
                d = _distance(distance + at, order + at, values, column, factor, own, t + u, n, p)
                near = d <= last
                low += tl.where(near, tl.minimum(rank, tl.load(listed + at + t + u, mask=t + u < n, other=0)), 0)
                count += near.to(tl.int32)
        if tl.max(tl.where(there, count, K)) == K:
            sums += low
        else:
            share, rest = _shared(
                distance + at, order + at, listed + at, values, column, factor, own, last, rank, end, n, p, one,
                K, CANDIDATES,
            )  # fmt: skip
            sums += share
            parts += rest
    tl.atomic_add(whole + place, sums, mask=there)
    tl.atomic_add(part + place, parts, mask=there)


@triton.jit
def _distance(distance, order, values, column, factor, own, t, n, p):
    """Squared distances to the t-th row of the list, infinite past its end."""
    j = tl.load(order + t, mask=t < n, other=0)
    base = tl.load(distance + t, mask=t < n, other=float("inf"))
    gap = own - tl.load(values + j.to(tl.int64) * p + column)
    return base + factor * (gap * gap)


@triton.jit
def _kth(
    distance, order, values, column, factor, own, n, p,
    K: tl.constexpr, CANDIDATES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The K-th smallest distance of each candidate, and how much of the list it took."""
    best = (tl.full([CANDIDATES], float("inf"), own.dtype),) * K  # ascending
    t = 0
    base = tl.load(distance)
    while (t < n) & (base <= tl.max(best[K - 1])):
        for u in tl.static_range(CHUNK):
            d = _distance(distance, order, values, column, factor, own, t + u, n, p)
            best = _inserted(best, d, K)
        t += CHUNK
        base = tl.load(distance + t, mask=t < n, other=float("inf"))
    return best[K - 1], tl.minimum(t, n)


@triton.jit
def _inserted(best, d, K: tl.constexpr):
    """The K smallest of ``best`` and d, ascending."""
    found = ()
    for i in tl.static_range(K):
        found = found + (tl.minimum(best[i], d),)  # type: ignore[assignment]  # noqa: RUF005 - Triton has no star
        d = tl.maximum(best[i], d)
    return found


@triton.jit
def _shared(
    distance, order, listed, values, column, factor, own, last, rank, end, n, p, one,
    K: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """Sums where rows tie at the K-th distance: they share the places that are left, rounded as the core does."""
    inside = tl.zeros([CANDIDATES], tl.int64)
    tied = tl.zeros([CANDIDATES], tl.int64)
    n_inside = tl.zeros([CANDIDATES], tl.int64)
    n_tied = tl.zeros([CANDIDATES], tl.int64)
    for t in range(end):
        d = _distance(distance, order, values, column, factor, own, t, n, p)
        low = tl.minimum(rank, tl.load(listed + t)).to(tl.int64)
        inside += tl.where(d < last, low, 0)
        n_inside += (d < last).to(tl.int64)
        tied += tl.where(d == last, low, 0)
        n_tied += (d == last).to(tl.int64)
    n_tied = tl.maximum(n_tied, 1)
    product = (K - n_inside) * tied
    share = product // n_tied
    return inside + share, ((product - share * n_tied) * one + n_tied // 2) // n_tied
