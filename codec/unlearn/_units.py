"""The units of a model: who owns which parameters, by qualified name, axis and index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from codec.unlearn._distributed import whole_rows
from codec.unlearn._unit_rules import (
    RULES,
    Part,
    Rule,
    Tap,
    UnitLayer,
    attention_heads,
    bare,
    join,
    read_axis,
    unit_layer,
)

__all__ = [
    "Part",
    "Tap",
    "UnitLayer",
    "Units",
    "UnsupportedModuleError",
    "attention_heads",
    "find_units",
    "read_axis",
    "unit_layer",
]


class UnsupportedModuleError(ValueError):
    """Some modules have parameters that cannot be cut into units.

    Attributes
    ----------
    modules : dict of str to str
        Name of each such module, with the reason.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import UnsupportedModuleError, find_units
    >>> try:
    ...     find_units(torch.nn.Embedding(3, 2, max_norm=1.0))
    ... except UnsupportedModuleError as error:
    ...     len(error.modules)
    1
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = dict(modules)
        lines = [f"  {name or '(the model itself)'}: {reason}" for name, reason in modules.items()]
        super().__init__(
            "\n".join(
                [
                    f"{len(lines)} module(s) cannot be cut into units:",
                    *lines,
                    "Change them as said, give them a rule with extra={ModuleType: rule}, freeze their parameters, or "
                    "leave their parameters as they are with unsupported='skip'.",
                ]
            )
        )


@dataclass(frozen=True)
class Units:
    """Every unit of a model, numbered from 0, layer by layer. Made by :func:`find_units`.

    Attributes
    ----------
    layers : tuple of UnitLayer
        In the order of the model's modules; each has ``name``, ``kind``, ``n_units`` and ``parts``, what its units own.
    shapes : dict of str to torch.Size
        Every distinct trainable parameter of the model, covered or not, in the model's order.

    Raises
    ------
    ValueError
        Two units own the same scalar, or a layer names rows or parameters that the model does not have.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import find_units
    >>> units = find_units(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)))
    >>> units
    Units(n_units=6, layers=2, uncovered=0)
    >>> units.to_frame()[["layer", "kind", "n_units", "n_parameters"]]
      layer    kind  n_units  n_parameters
    0     0  Linear        4            16
    1     2  Linear        2            10
    >>> units.keep(lambda layer: layer.name == "2").uncovered
    ('0.weight', '0.bias')
    """

    layers: tuple[UnitLayer, ...]
    shapes: Mapping[str, torch.Size]

    def __post_init__(self) -> None:
        _check_owners(self.layers, self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First unit of each layer, and the number of units last: one more than there are layers."""
        sizes = [layer.n_units for layer in self.layers]
        return tuple(sum(sizes[:i]) for i in range(len(sizes) + 1))

    @property
    def n_units(self) -> int:
        """Units of all layers."""
        return self.offsets[-1]

    @cached_property
    def covered(self) -> tuple[str, ...]:
        """Parameters of which some units own a part."""
        owned = {part.parameter for layer in self.layers for part in layer.parts}
        return tuple(name for name in self.shapes if name in owned)

    @cached_property
    def uncovered(self) -> tuple[str, ...]:
        """Trainable parameters of no unit."""
        return tuple(name for name in self.shapes if name not in set(self.covered))

    def layer_index(self, units: Tensor | Sequence[int]) -> Tensor:
        """Number of each unit's layer, from 0: int64, as many as ``units``. ValueError: no such unit."""
        found = torch.as_tensor(units, dtype=torch.long)
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < self.n_units:
            raise ValueError(f"units must lie in 0..{self.n_units - 1}, got {found.min()}..{found.max()}.")
        return torch.bucketize(found, torch.tensor(self.offsets[1:]), right=True)

    def layer_of(self, unit: int) -> UnitLayer:
        """Layer of one unit, a UnitLayer. ValueError: no such unit."""
        return self.layers[int(self.layer_index([unit]))]

    def label(self, unit: int) -> str:
        """Name of one unit, ``layer[index]``. ValueError: no such unit."""
        return self.labels([unit])[0]

    def labels(self, units: Tensor | Sequence[int]) -> tuple[str, ...]:
        """Names of units, one each. ValueError: no such unit."""
        self.layer_index(units)  # refuses what is out of range
        return tuple(self.all_labels[unit] for unit in torch.as_tensor(units).tolist())

    @cached_property
    def all_labels(self) -> tuple[str, ...]:
        """Names of all units."""
        return tuple(f"{layer.name or '(model)'}[{i}]" for layer in self.layers for i in range(layer.n_units))

    def sizes(self) -> Tensor:
        """Number of scalars that each unit owns, int64 of shape (n_units,)."""
        return torch.cat([torch.zeros(0, dtype=torch.long), *map(self._layer_sizes, self.layers)])

    def _layer_sizes(self, layer: UnitLayer) -> Tensor:
        sizes = torch.zeros(layer.n_units, dtype=torch.long)
        for part in layer.parts:
            shape = part.folded_shape(self.shapes[part.parameter])
            sizes += part.rows.shape[1] * (shape.numel() // shape[part.dim])
        return sizes

    def keep(self, wanted: Callable[[UnitLayer], bool]) -> Units:
        """The units of the layers for which ``wanted(layer)`` is true; what the others owned is then uncovered."""
        return replace(self, layers=tuple(layer for layer in self.layers if wanted(layer)))

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: ``layer``, ``kind``, ``n_units``, ``n_parameters``, ``parameters``, ``recorded``."""
        scalars = [int(self._layer_sizes(layer).sum()) for layer in self.layers]
        frame = pd.DataFrame(
            {
                "layer": [layer.name for layer in self.layers],
                "kind": [layer.kind for layer in self.layers],
                "n_units": [layer.n_units for layer in self.layers],
                "n_parameters": scalars,
                "parameters": [", ".join(part.parameter for part in layer.parts) for layer in self.layers],
                "recorded": [layer.tap is not None for layer in self.layers],
            }
        )
        words = dict.fromkeys(("layer", "kind", "parameters"), str)
        return frame.astype(words | {"n_units": int, "n_parameters": int, "recorded": bool})  # also without rows

    def __repr__(self) -> str:
        return f"Units(n_units={self.n_units}, layers={len(self.layers)}, uncovered={len(self.uncovered)})"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False))


def find_units(
    model: nn.Module, *, unsupported: str = "raise", extra: Mapping[type[nn.Module], Rule] | None = None
) -> Units:
    """Cut the trainable parameters of a model into units.

    Parameters
    ----------
    model : nn.Module
        Any model; only shapes are read, so it may lie on the meta device.
    unsupported : {'raise', 'skip'}, default 'raise'
        What to do with modules that cannot be cut: name all of them, or leave their parameters alone.
    extra : mapping of module type to rule, optional
        ``rule(name, module)`` gives the layers of such a module, made with ``unit_layer(name, kind, n_units, rows,
        reader)`` of `codec.unlearn._units`; ``rows`` names the parameters of the module, with the axis of their units.
        A rule goes before the built-in ones and holds for subclasses.

    Returns
    -------
    Units

    Raises
    ------
    UnsupportedModuleError
        Some modules cannot be cut, and ``unsupported='raise'``.
    TypeError
        ``model`` is no torch module.
    ValueError
        ``unsupported`` is neither of its values, or a rule gives a scalar to two units, or names what is no parameter.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import find_units
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> units = find_units(model)
    >>> units.n_units, units.label(5), units.sizes().tolist()
    (6, '2[1]', [4, 4, 4, 4, 5, 5])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch nn.Module, got {type(model).__name__}.")
    if unsupported not in {"raise", "skip"}:
        raise ValueError(f"unsupported must be 'raise' or 'skip', got {unsupported!r}.")
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    lazy = {name for name, p in trainable.items() if isinstance(p, UninitializedParameter)}
    modules = dict(model.named_modules(remove_duplicate=False))
    layers: list[UnitLayer] = []
    faults: dict[str, str] = {}
    free = dict(trainable)  # what no unit owns yet: a tied parameter goes to the module that comes first
    for name, module in model.named_modules():
        own = [key for key, _ in module.named_parameters(prefix=name, recurse=False) if key in free]
        fault = _fault(module, [free[key] for key in own])
        if fault:
            faults[name] = fault
            for key in own:
                del free[key]
            continue
        claimed = [_claim(layer, free) for layer in _layers_of(name, module, extra or {}, modules)]
        layers += [layer for layer in claimed if layer.parts]
        for part in (part for layer in claimed for part in layer.parts):
            free.pop(part.parameter, None)
        layers += [bare(key, free.pop(key)) for key in own if key in free]
    if faults and unsupported == "raise":
        raise UnsupportedModuleError(faults)
    return Units(tuple(layers), {key: p.shape for key, p in trainable.items() if key not in lazy})


# --------------------------------------------------------------------------- finding
def _fault(module: nn.Module, own: Sequence[nn.Parameter]) -> str:
    """Why this module's own trainable parameters cannot be cut; empty if they can."""
    if not own:
        return ""
    if any(isinstance(p, UninitializedParameter) for p in own):
        return "its parameters have no shape yet: run one batch through the model first."
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted, its layers cannot be seen: pass the model before torch.jit.script."
    if any(p.is_complex() for p in own):
        return "complex parameters: write them as real and imaginary parts."
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
        return "max_norm changes the weight in the forward pass: set max_norm=None (the rows are scaled by then)."
    if getattr(module, "sparse", False):
        return "it gives sparse gradients: set sparse=False."
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        return "torch has no second derivatives of bags of mode='max': use 'sum' or 'mean'."
    if getattr(module, "scale_grad_by_freq", False):
        return "a sample's gradient depends on its batch: set scale_grad_by_freq=False."
    if not all(whole_rows(p) for p in own):
        return "its parameters are sharded along another axis than 0: shard rows (FSDP2 does), or gather them."
    return ""


def _layers_of(
    name: str, module: nn.Module, extra: Mapping[Any, Rule], modules: Mapping[str, nn.Module]
) -> tuple[UnitLayer, ...]:
    """What the first rule for one of the module's types says; nothing without a rule."""
    for table in (extra, RULES):
        for cls in type(module).__mro__:
            rule = table.get(cls) or table.get(f"{cls.__module__}.{cls.__qualname__}")
            if rule is not None:
                layers = tuple(rule(name, module))
                if table is extra:
                    _check_names(layers, modules)
                return layers
    return ()


def _check_names(layers: Sequence[UnitLayer], modules: Mapping[str, nn.Module]) -> None:
    for layer in layers:
        for part in layer.parts:
            owner, _, role = part.parameter.rpartition(".")
            if not hasattr(modules.get(owner), role):
                raise ValueError(f"layer {layer.name!r} names {part.parameter!r}, which the model has not.")


def _claim(layer: UnitLayer, free: Mapping[str, nn.Parameter]) -> UnitLayer:
    """The layer with those of its parts that are trainable and nobody's yet."""
    return replace(layer, parts=tuple(found for part in layer.parts for found in _originals(part, free)))


def _originals(part: Part, free: Mapping[str, nn.Parameter]) -> list[Part]:
    """The part itself, or the trainable tensors from which a parametrization makes it, row by row."""
    if part.parameter in free:
        return [part]
    owner, _, role = part.parameter.rpartition(".")
    stem = join(owner, "parametrizations", role, "original")
    older = {f"{part.parameter}{suffix}" for suffix in ("_orig", "_g", "_v")}
    names = [key for key in free if key.startswith(stem) or key in older]
    return [replace(part, parameter=key) for key in names if _has_rows(part, free[key].shape)]


def _has_rows(part: Part, shape: torch.Size) -> bool:
    """Whether a tensor of this shape has the rows of the part, all of them and no others."""
    if part.groups > 1 and (len(shape) < 2 or shape[0] % part.groups):
        return False
    return part.dim < len(shape) and part.folded_shape(shape)[part.dim] == part.rows.numel()


# --------------------------------------------------------------------------- checking
def _check_owners(layers: Sequence[UnitLayer], shapes: Mapping[str, torch.Size]) -> None:
    """No scalar with two owners, no part outside its parameter."""
    taken: dict[str, list[tuple[str, Part]]] = {}
    for layer in layers:
        for part in layer.parts:
            _check_part(layer, part, shapes)
            for other, earlier in taken.setdefault(part.parameter, []):
                same_axis = (part.dim, part.groups) == (earlier.dim, earlier.groups)
                if not same_axis or torch.isin(part.rows, earlier.rows).any():
                    raise ValueError(f"units of {other!r} and of {layer.name!r} both own a part of {part.parameter!r}.")
            taken[part.parameter].append((layer.name, part))


def _check_part(layer: UnitLayer, part: Part, shapes: Mapping[str, torch.Size]) -> None:
    if part.parameter not in shapes:
        raise ValueError(f"layer {layer.name!r} names {part.parameter!r}, which is no trainable parameter.")
    shape = part.folded_shape(shapes[part.parameter])
    rows = part.rows
    if part.dim >= len(shape) or rows.dim() != 2 or len(rows) != layer.n_units:
        raise ValueError(
            f"layer {layer.name!r}: rows of {part.parameter!r} must be ({layer.n_units}, width) along an axis of "
            f"{tuple(shape)}, got {tuple(rows.shape)} along axis {part.dim}."
        )
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < shape[part.dim]:
        raise ValueError(f"layer {layer.name!r}: rows of {part.parameter!r} must lie in 0..{shape[part.dim] - 1}.")
    if torch.unique(rows).numel() != rows.numel():
        raise ValueError(f"layer {layer.name!r}: two of its units own one row of {part.parameter!r}.")
