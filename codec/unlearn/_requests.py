"""Which training samples a request means."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from codec._validation import check_integer
from codec.unlearn._problem import Problem

Request = int | Sequence[int] | Set[int] | Tensor | Subset[Any]


def read_ids(request: Any, n: int, data: Any = None) -> list[int]:
    """Ids of a request: one id, several, a boolean mask, or a Subset of ``data``; in its order, those of a set sorted.

    ``data`` is the training data as the caller gave them; a Subset counts from 0 there, however deep it is nested.
    """
    in_order = sorted if isinstance(request, Set) else list
    if isinstance(request, Subset):
        request = _indices(request, data)
    elif isinstance(request, Set):
        request = list(request)
    if isinstance(request, (list, tuple)) and len({isinstance(i, (bool, np.bool_)) for i in request}) > 1:
        raise TypeError(f"ids holds numbers and True or False, {list(request)[:5]}; pass ids, or a mask of booleans.")
    values = np.asarray(request.detach().cpu() if isinstance(request, Tensor) else request)
    if values.dtype == np.bool_:
        if values.shape != (n,):
            raise ValueError(f"ids is a mask of shape {values.shape}; it needs one entry for each of the {n} samples.")
        values = np.flatnonzero(values)
    if values.size == 0:
        raise ValueError("ids is empty: there is nothing to forget.")
    if values.ndim > 1 or not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"ids must be integers, got {values.dtype} of shape {values.shape}.")
    if values.size == n > 2 and set(np.unique(values).tolist()) == {0, 1}:
        raise ValueError(
            f"ids holds {n} zeros and ones, as many as there are samples: a mask must be boolean, as mask.astype(bool) or "
            "mask.bool() make it."
        )
    ids = in_order(int(i) for i in np.atleast_1d(values))
    outside = [i for i in ids if not 0 <= i < n]
    if outside:
        raise IndexError(f"ids holds {outside[:5]}; training samples are numbered 0 to {n - 1}.")
    return ids


def _indices(subset: Subset[Any], data: Any) -> Any:
    """Where the samples of a Subset lie in the training data."""
    found, place = np.arange(len(subset)), cast(Any, subset)
    while isinstance(place, Subset) and place is not data:
        found, place = np.asarray(place.indices)[found], place.dataset
    if place is not data:
        raise ValueError(
            f"ids is a Subset of a {type(place).__name__} that is not the training data that were passed (the same "
            "object is needed): its indices may count other samples. Pass the samples' numbers in the training data."
        )
    return found


def fresh_ids(ids: Sequence[int], forgotten: Collection[int], n: int, repeated: str) -> list[int]:
    """The ids that are not yet forgotten; what is asked twice is refused, or ignored on purpose."""
    if repeated not in {"raise", "ignore"}:
        raise ValueError(f"repeated must be 'raise' or 'ignore', got {repeated!r}.")
    gone = set(forgotten)
    twice = _repeated(ids, gone)
    if twice and repeated == "raise":
        raise ValueError(
            f"ids holds {twice[:5]}, asked for twice or forgotten already; name each sample once (Unlearner: or pass "
            "repeated='ignore' to skip such ids)."
        )
    fresh = [i for i in dict.fromkeys(ids) if i not in gone]
    if len(gone) + len(fresh) >= n:
        raise ValueError(f"all {n} training samples would be forgotten: nothing is left to keep. Delete the model.")
    return fresh


def _repeated(ids: Sequence[int], gone: Set[int]) -> list[int]:
    seen, found = set(gone), []
    for i in ids:
        if i in seen:
            found.append(i)
        seen.add(i)
    return found


def ids_of_class(problem: Problem, target: Any, forgotten: Collection[int]) -> list[int]:
    """Training samples of one class that are not yet forgotten."""
    target = check_integer(target.item() if isinstance(target, Tensor) else target, "target", -(2**63))
    if target >= 2**63:
        raise ValueError(f"target is {target}; no class label is that large.")
    found: list[int] = []
    for batch in problem.batches():
        if not isinstance(batch.targets, Tensor) or batch.targets.dim() != 1:
            raise ValueError("target= needs one class label a sample; pass ids instead.")
        found += batch.ids[(batch.targets == target).cpu()].tolist()
    gone = set(forgotten)
    left = [i for i in found if i not in gone]
    if not left:
        raise ValueError(f"target is {target!r}: no training sample of this class is left.")
    return left


def others(ids: Collection[int], n: int) -> Tensor:
    """Ids of all samples but these."""
    kept = torch.ones(n, dtype=torch.bool)
    kept[torch.as_tensor(sorted(ids), dtype=torch.long)] = False
    return kept.nonzero().flatten()
