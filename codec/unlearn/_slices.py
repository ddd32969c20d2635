"""The parameters of some units as one flat vector: read, write, add, and sum by unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codec.unlearn._unit_rules import Part
from codec.unlearn._units import Units


@dataclass(frozen=True)
class Block:
    """A stretch of the flat vector: some rows of one parameter, in the parameter's own layout.

    Attributes
    ----------
    part : Part
        Parameter, axis and folding of the rows.
    rows : LongTensor (n_rows,) or None
        Which rows, ascending; None: the whole parameter, as it lies in memory.
    owners : LongTensor (n_rows,)
        Place of each row's unit among the selected units; their number: no unit's.
    shape : torch.Size
        Shape of the stretch: the parameter's, or that of the folded parameter with the chosen rows alone.
    start, stop : int
        Where it lies in the flat vector.
    """

    part: Part
    rows: Tensor | None
    owners: Tensor
    shape: torch.Size
    start: int
    stop: int


class Slices:
    """The flat vector of some units' parameters.

    All methods are made of differentiable out-of-place operations, so that `torch.func` transforms go
    through them.

    Parameters
    ----------
    units : Units
        The units of a model.
    selected : sequence of int, optional
        Units of the vector, ascending. Default: every trainable parameter, those of no unit too.

    Attributes
    ----------
    selected : LongTensor (n_selected,) or None
        As given.
    blocks : tuple of Block
        What lies where.
    size : int
        Length of the vector.
    parameters : tuple of str
        Names of the parameters that it touches.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn._units import find_units
    >>> model = torch.nn.Linear(3, 2)
    >>> slices = Slices(find_units(model), [1])
    >>> flat = slices.gather(dict(model.named_parameters()))
    >>> torch.equal(flat, torch.cat([model.weight[1], model.bias[1:]]))
    True
    >>> slices.scatter(torch.tensor([1.0, 2.0, 3.0, 4.0]))["weight"]
    tensor([[0., 0., 0.],
            [1., 2., 3.]])
    """

    def __init__(self, units: Units, selected: Tensor | Sequence[int] | None = None) -> None:
        self.units = units
        self.selected = None if selected is None else _check_selected(units, selected)
        self.blocks = tuple(self._everything() if self.selected is None else self._chosen(self.selected))
        self.size = self.blocks[-1].stop if self.blocks else 0
        self.parameters = tuple(dict.fromkeys(block.part.parameter for block in self.blocks))
        self._moved: dict[torch.device, list[tuple[Tensor | None, Tensor]]] = {}

    @property
    def n_selected(self) -> int:
        """Number of units that `unit_sums` tells apart."""
        return self.units.n_units if self.selected is None else len(self.selected)

    def gather(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The flat vector of tensors that are given by parameter name."""
        pieces = []
        for block, (rows, _) in self._on(tensors):
            tensor = tensors[block.part.parameter]
            if rows is not None:
                tensor = block.part.fold(tensor).index_select(block.part.dim, rows)
            pieces.append(tensor.reshape(-1))
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def scatter(self, flat: Tensor) -> dict[str, Tensor]:
        """Full tensors of every touched parameter: the vector in its places, zeros elsewhere."""
        zeros = {name: flat.new_zeros(self.units.shapes[name]) for name in self.parameters}
        return self.add(zeros, flat)

    def add(self, tensors: Mapping[str, Tensor], flat: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        """New tensors: those given, plus ``scale`` times the vector in its places.

        Untouched tensors are handed on as they are, not copied.
        """
        self._check_flat(flat)
        changed = dict(tensors)
        for block, (rows, _) in self._on({"": flat}):
            piece = flat[block.start : block.stop].reshape(block.shape)
            before = changed[block.part.parameter]
            piece = (piece if scale == 1.0 else piece * scale).to(before.dtype)
            if rows is None:
                after = before + piece
            else:
                after = block.part.fold(before).index_add(block.part.dim, rows, piece)
                after = block.part.unfold(after, before.shape)
            changed[block.part.parameter] = after
        return changed

    def unit_sums(self, flat: Tensor) -> Tensor:
        """Sum of the vector's entries over each selected unit, (n_selected,); every unit if none was selected."""
        self._check_flat(flat)
        sums = flat.new_zeros(self.n_selected + 1)  # the last place takes what no unit owns
        for block, (_, owners) in self._on({"": flat}):
            piece = flat[block.start : block.stop].reshape(block.shape)
            piece = block.part.fold(piece) if block.rows is None else piece
            rows = piece.movedim(block.part.dim, 0).reshape(len(owners), piece.numel() // max(len(owners), 1))
            sums = sums.index_add(0, owners, rows.sum(1))
        return sums[:-1]

    def owners(self) -> Tensor:
        """Place of the owner of each entry among the selected units, (size,); n_selected where there is none."""
        found = torch.empty(self.size, dtype=torch.long)
        for block in self.blocks:
            whole = block.rows is None
            shape = block.part.folded_shape(block.shape) if whole else block.shape
            owners = block.owners.view([-1 if axis == block.part.dim else 1 for axis in range(len(shape))]).expand(
                shape
            )
            owners = block.part.unfold(owners, block.shape) if whole else owners
            found[block.start : block.stop] = owners.reshape(-1)
        return found

    # ----------------------------------------------------------------------- layout
    @cached_property
    def _parts(self) -> dict[str, list[tuple[int, Part]]]:
        """The parts of each parameter, with the first unit of their layer."""
        found: dict[str, list[tuple[int, Part]]] = {}
        for offset, layer in zip(self.units.offsets, self.units.layers, strict=False):
            for part in layer.parts:
                found.setdefault(part.parameter, []).append((offset, part))
        return found

    def _everything(self) -> Iterator[Block]:
        """Whole parameters, in the model's order."""
        start = 0
        for name, shape in self.units.shapes.items():
            parts = self._parts.get(name) or [(0, Part(name, 0, torch.zeros(0, 1, dtype=torch.long)))]
            first = parts[0][1]
            folded = first.folded_shape(shape)
            owners = torch.full((folded[first.dim],), self.units.n_units)
            for offset, part in parts:  # several layers may share a parameter along one axis
                owners[part.rows.reshape(-1)] = _repeat(torch.arange(len(part.rows)) + offset, part.rows)
            stop = start + shape.numel()
            yield Block(first, None, owners, shape, start, stop)
            start = stop

    def _chosen(self, selected: Tensor) -> Iterator[Block]:
        """Rows of the chosen units, layer by layer."""
        start = 0
        layers = self.units.layer_index(selected)
        for index in torch.unique(layers).tolist():
            place = torch.nonzero(layers == index)[:, 0]
            local = selected[place] - self.units.offsets[index]
            for part in self.units.layers[index].parts:
                whole = self.units.shapes[part.parameter]
                folded = part.folded_shape(whole)
                rows, order = part.rows[local].reshape(-1).sort()
                owners = _repeat(place, part.rows)[order]
                shape = torch.Size((*folded[: part.dim], len(rows), *folded[part.dim + 1 :]))
                stop = start + shape.numel()
                every = len(rows) == folded[part.dim]
                yield Block(part, None if every else rows, owners, whole if every else shape, start, stop)
                start = stop

    def _on(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Block, tuple[Tensor | None, Tensor]]]:
        """Blocks, with their indices on the device of the tensors."""
        device = next(iter(tensors.values())).device
        if device not in self._moved:
            self._moved[device] = [
                (None if b.rows is None else b.rows.to(device), b.owners.to(device)) for b in self.blocks
            ]
        return zip(self.blocks, self._moved[device], strict=True)

    def _check_flat(self, flat: Tensor) -> None:
        if flat.shape != (self.size,):
            raise ValueError(f"flat has shape {tuple(flat.shape)}; the vector of these units is ({self.size},).")


def _repeat(units: Tensor, rows: Tensor) -> Tensor:
    """One entry a row for every unit."""
    return units.repeat_interleave(rows.shape[1])


def _check_selected(units: Units, selected: Tensor | Sequence[int]) -> Tensor:
    found = torch.as_tensor(selected, dtype=torch.long).cpu()
    units.layer_index(found)  # in range
    if found.dim() != 1 or bool((found[1:] <= found[:-1]).any()):
        raise ValueError("selected must be a sequence of distinct units in ascending order.")
    return found
