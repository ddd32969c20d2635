"""Training data in one form: samples that lie in memory, or that a Dataset hands out one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_leaves, tree_leaves_with_path, tree_map
from torch.utils.data import Dataset, IterableDataset, default_collate

CACHE_BYTES = 2**31  # a data set whose samples fit is read once and kept
TWICE = 64  # samples that are read twice, to see whether they stay the same


def spread(n: int, most: int) -> Tensor:
    """Ids of so many of n samples, from the first to the last."""
    return torch.linspace(0, n - 1, min(n, most), dtype=torch.float64).round().long()


def content_of(leaf: Any) -> bytes:
    """Type, shape and values of a tensor or an array; what anything else says of itself."""
    if isinstance(leaf, Tensor):
        values = (torch.view_as_real(leaf) if leaf.is_complex() else leaf).detach().cpu().contiguous()
        about = f"{values.dtype} {tuple(values.shape)}".encode()
        return about + values.flatten().view(torch.uint8).numpy().tobytes()
    if not (hasattr(leaf, "__array__") or hasattr(leaf, "__array_interface__")):
        return repr(leaf).encode()
    array = np.asarray(leaf)
    about = f"{array.dtype} {array.shape}".encode()
    return about + (repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())


class Tensors:
    """Samples that lie in memory, batch first."""

    def __init__(self, inputs: Any, targets: Any, device: torch.device) -> None:
        self.inputs, self.targets = as_tensors(inputs), as_tensors(targets)
        lengths = {len(leaf) if leaf.dim() else 0 for leaf in tree_leaves((self.inputs, self.targets))}
        if len(lengths) != 1:
            raise ValueError(f"train_data has entries of {sorted(lengths)} samples; all must have the same number.")
        self.n = lengths.pop()
        if self.n == 0:
            raise ValueError("train_data is empty.")
        elsewhere = {leaf.device for leaf in tree_leaves((self.inputs, self.targets))} - {device, torch.device("cpu")}
        if elsewhere:
            raise ValueError(
                f"train_data lies on {sorted(map(str, elsewhere))}, the model on {device}: bring both to one device, or "
                "keep the data on the CPU."
            )
        if sum(leaf.nbytes for leaf in tree_leaves((self.inputs, self.targets))) <= CACHE_BYTES:
            self.inputs, self.targets = to_device(self.inputs, device), to_device(self.targets, device)

    def __len__(self) -> int:
        return self.n

    def take(self, ids: Tensor) -> tuple[Any, Any]:
        first = int(ids[0]) if len(ids) else 0
        if bool((ids == torch.arange(first, first + len(ids))).all()):  # rows in a row need no copy
            inputs, targets = tree_map(lambda leaf: leaf[first : first + len(ids)], (self.inputs, self.targets))
        else:
            inputs, targets = tree_map(lambda leaf: leaf[ids.to(leaf.device)], (self.inputs, self.targets))
        return inputs, targets


class Samples:
    """Samples that a Dataset hands out one by one."""

    def __init__(self, data: Dataset[Any], target_key: str) -> None:
        self.data = data
        self.target_key = target_key

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def take(self, ids: Tensor) -> tuple[Any, Any]:
        rows = [_row(self.data[i]) for i in ids.tolist()]
        try:
            return _split(default_collate(rows), self.target_key)
        except TypeError as error:
            raise TypeError(f"train_data gives samples that hold what is no number: {error}.") from None
        except RuntimeError as error:
            raise ValueError(
                f"train_data gives samples that cannot be stacked ({error}); pad sequences to one length, or bring "
                "images to one size."
            ) from None


def as_tensors(data: Any) -> Any:
    """Tensors of arrays, pandas objects and lists of numbers; a list or tuple of arrays is several of them."""
    if isinstance(data, Mapping):
        return {key: as_tensors(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)) and not is_column(data):
        return tree_map(as_tensors, data, is_leaf=is_column)
    if isinstance(data, Tensor) and data.layout != torch.strided:
        raise TypeError(f"train_data holds a tensor of layout {data.layout}; pass data.to_dense().")
    try:
        return data if isinstance(data, Tensor) else torch.as_tensor(_array(data), device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"train_data holds what is no number, or rows of several lengths: {error} Encode text and categories as "
            "numbers first."
        ) from None


def _array(data: Any) -> Any:
    """Copies of arrays that torch does not read (in descending order) or warns of (read-only, where they fit)."""
    if hasattr(data, "to_numpy"):
        return np.array(data.to_numpy())
    if not isinstance(data, np.ndarray):
        return data
    backwards = any(stride < 0 for stride in data.strides)
    return data.copy() if backwards or (not data.flags.writeable and data.nbytes <= CACHE_BYTES) else data


def is_column(data: Any) -> bool:
    """Whether this is a list or tuple of numbers, or of lists of them: one array, and not several."""
    return isinstance(data, (list, tuple)) and not any(getattr(leaf, "ndim", 0) for leaf in tree_leaves(data))


def _row(sample: Any) -> Any:
    """A sample whose entries by name are no lists, which torch would take apart into one tensor a position."""
    if not isinstance(sample, Mapping):
        return sample
    return {key: torch.as_tensor(value) if isinstance(value, list) else value for key, value in sample.items()}


def read_data(data: Any, target_key: str, device: torch.device) -> Tensors | Samples:
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return Tensors(data[0], data[1], device)
    if isinstance(data, Mapping):
        return Tensors(*_split(data, target_key), device)
    known = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if not known or isinstance(data, IterableDataset):
        raise TypeError(
            f"train_data must be a Dataset with a length, a pair (inputs, targets) or a dict of tensors, got "
            f"{type(data).__name__}. Ids of samples have no meaning in a DataLoader: pass its dataset."
        )
    if len(data) == 0:
        raise ValueError("train_data is empty.")
    samples = Samples(data, target_key)
    one = samples.take(torch.tensor([0]))
    _check_numbers(one)
    some = spread(len(data), TWICE)
    first, again = (tree_leaves(samples.take(some)) for _ in range(2))
    if not all(content_of(a) == content_of(b) for a, b in zip(first, again, strict=True)):
        raise ValueError("train_data gives another sample at every reading; switch off its random augmentation.")
    if sum(leaf.nbytes for leaf in tree_leaves(one)) * len(samples) > CACHE_BYTES:
        return samples
    return Tensors(*samples.take(torch.arange(len(data))), device)


def _check_numbers(batch: Any) -> None:
    """Refuse entries of a collated batch that are no tensors, such as names of files."""
    wrong = [
        f"{keystr(path[1:]) or 'the sample'} ({type(leaf).__name__})"
        for path, leaf in tree_leaves_with_path(batch)
        if not isinstance(leaf, Tensor)
    ]
    if wrong:
        raise TypeError(f"train_data gives samples that hold what is no number: {', '.join(wrong)}; leave that out.")


def _split(batch: Any, target_key: str) -> tuple[Any, Any]:
    """Inputs and targets of a collated batch."""
    if isinstance(batch, Mapping):
        if target_key not in batch:
            raise ValueError(f"train_data has no entry {target_key!r}, only {sorted(batch)}; pass target_key=.")
        return {key: value for key, value in batch.items() if key != target_key}, batch[target_key]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    raise ValueError("train_data must give (input, target) pairs or dicts.")


def described(tree: Any) -> str:
    """Types, shapes and ranges of tensors."""
    return ", ".join(__described_one(leaf) for leaf in tree_leaves(tree))


def __described_one(leaf: Any) -> str:
    if not isinstance(leaf, Tensor):
        return type(leaf).__name__
    told = f"{str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)}"
    if not leaf.numel() or leaf.is_complex():
        return told
    low, high = leaf.detach().double().aminmax()  # torch has no smallest of unsigned integers of 16 bits and more
    return f"{told} from {low.item():.4g} to {high.item():.4g}"


def copied(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def to_device(tree: Any, device: torch.device) -> Any:
    return tree_map(lambda leaf: _moved(leaf, device) if isinstance(leaf, Tensor) else leaf, tree)


def _moved(leaf: Tensor, device: torch.device) -> Tensor:
    there = leaf.detach().to(device)
    return there.clone() if there.is_inference() else there  # derivatives know no tensors of inference mode
