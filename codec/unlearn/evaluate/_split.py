"""Retained and forgotten samples of a training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Subset

from codec.unlearn._data import is_column
from codec.unlearn._requests import others, read_ids


def split(data: Any, ids: Any) -> dict[str, Any]:
    """Cut training data into what stays and what is forgotten, as :func:`evaluate` takes them.

    Parameters
    ----------
    data : Dataset, (inputs, targets), or dict of tensors
        Training samples.
    ids : int, sequence or set of int, boolean mask of shape (n_samples,), Tensor or Subset
        Samples to forget, numbered from 0; a Subset must be one of the object ``data``.

    Returns
    -------
    dict
        ``'retain'`` and ``'forget'``, in the form of ``data``; Subsets of a Dataset.

    Raises
    ------
    ValueError, IndexError, TypeError
        No ids, unknown ids, ids that come twice, or nothing would be left.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn.evaluate import split
    >>> parts = split((torch.arange(4.0), torch.tensor([0, 1, 0, 1])), [1])
    >>> parts["retain"][0].tolist(), parts["forget"][1].tolist()
    ([0.0, 2.0, 3.0], [1])
    """
    if isinstance(data, DataLoader) or not hasattr(data, "__len__"):
        raise TypeError(
            f"data is of type {type(data).__name__}; it must be a Dataset with a length, a pair (inputs, targets) or a dict of "
            "tensors. Ids of samples have no meaning in a DataLoader: pass its dataset."
        )
    n = n_samples(data)
    gone = read_ids(ids, n, data)
    if len(set(gone)) < len(gone):
        raise ValueError(f"ids names {len(gone) - len(set(gone))} samples more than once; name each once.")
    kept = others(gone, n)
    if len(kept) == 0:
        raise ValueError(f"all {n} samples are forgotten: nothing is left to keep.")
    return {"retain": _take(data, kept), "forget": _take(data, torch.tensor(gone))}


def in_memory(data: Any) -> bool:
    """Tensors or arrays, not a Dataset or a list of samples."""
    return isinstance(data, (tuple, Mapping)) or (isinstance(data, list) and len(data) == 2)


def n_samples(data: Any) -> int:
    """Number of samples of data in any form."""
    if not in_memory(data):
        return len(data)
    lengths: set[int] = set(tree_leaves(_each(data, len)))
    if len(lengths) != 1:
        raise ValueError(f"data has entries of {sorted(lengths)} samples; all must have the same number.")
    return lengths.pop()


def _take(data: Any, ids: Tensor) -> Any:
    if not in_memory(data):
        return Subset(data, ids.tolist())
    return _each(data, lambda leaf: _rows(leaf, ids))


def _each(data: Any, f: Callable[[Any], Any]) -> Any:
    """``f`` of every array of a pair or dict; a list of numbers is one."""
    if isinstance(data, Mapping):
        return {key: tree_map(f, value, is_leaf=is_column) for key, value in data.items()}
    found = [_each(part, f) if isinstance(part, Mapping) else tree_map(f, part, is_leaf=is_column) for part in data]
    return found if isinstance(data, list) else tuple(found)


def _rows(leaf: Any, ids: Tensor) -> Any:
    if isinstance(leaf, Tensor):
        return leaf[ids.to(leaf.device)]
    return leaf.iloc[ids.numpy()] if isinstance(leaf, (pd.DataFrame, pd.Series)) else np.asarray(leaf)[ids.numpy()]
