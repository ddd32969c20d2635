"""What a unit of each kind of layer is: which parameters it owns, and where its activation is read.

A unit is the smallest piece of a layer with an activation of its own: an output row of a Linear layer, a
filter of a convolution, a hidden cell of an LSTM, a head of an attention. It owns the parameters *that
compute its activation*, so a column of the next layer never belongs to it, and no scalar has two owners.

Norm layers are units of their own, one a channel. To attach them to the filter before them one would have
to know the data flow, which the order of the modules does not tell (DenseNet's norms stand before the
convolution that they feed); a rule that is sometimes wrong is worse than one more unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence


class Call(NamedTuple):
    """One call of a module on ``batch`` samples, as a forward hook sees it.

    ``alone`` is the same call in a pass of one sample, if there was one: its shapes tell which axis holds the samples.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    batch: int
    alone: Call | None = None


Reader = Callable[[Call], Tensor]


@dataclass(frozen=True)
class Tap:
    """Where the activations of a layer's units are read.

    Attributes
    ----------
    module : str
        Name of the module whose call is watched (a forward hook with keywords).
    reader : callable
        ``reader(call)`` gives the activations as (batch, positions, n_units). A module that is called several times in one pass (a shared layer, a
        cell of a recurrent loop) gives several blocks of positions.
    """

    module: str
    reader: Reader

    def read(
        self,
        module: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        output: Any,
        batch: int,
        alone: Call | None = None,
    ) -> Tensor:
        """Activations of one call on ``batch`` samples, (batch, positions, n_units)."""
        found = self.reader(Call(module, args, kwargs, output, batch, alone))
        if found.dim() != 3 or found.shape[0] != batch:
            raise ValueError(
                f"the tap of {self.module!r} gave shape {tuple(found.shape)} for {batch} samples; "
                "it must give (batch, positions, n_units)."
            )
        return found


@dataclass(frozen=True)
class Part:
    """What the units of one layer own of one parameter: whole rows along one axis.

    Attributes
    ----------
    parameter : str
        Qualified name of the parameter.
    dim : int
        Axis of the rows, from 0.
    rows : LongTensor (n_units, width)
        Unit u owns ``parameter.index_select(dim, rows[u])``.
    groups : int
        More than 1 for a grouped transposed convolution alone: rows are then those of ``fold(parameter)``,
        where the pairs (group, output channel) stand first.
    """

    parameter: str
    dim: int
    rows: Tensor
    groups: int = 1

    def fold(self, tensor: Tensor) -> Tensor:
        """The tensor with the rows along one axis; itself, but for scalars and grouped transposed ones."""
        if tensor.dim() == 0:
            return tensor.reshape(1)
        if self.groups == 1:
            return tensor
        pairs = tensor.reshape(self.groups, -1, *tensor.shape[1:]).transpose(1, 2)
        return pairs.flatten(0, 1)

    def unfold(self, folded: Tensor, shape: torch.Size) -> Tensor:
        """Undo ``fold``."""
        if self.groups > 1:
            folded = folded.reshape(self.groups, -1, *folded.shape[1:]).transpose(1, 2)
        return folded.reshape(shape)

    def folded_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of ``fold`` of a tensor of this shape."""
        return self.fold(torch.empty(shape, device="meta")).shape


@dataclass(frozen=True)
class UnitLayer:
    """The units of one layer.

    Attributes
    ----------
    name : str
        Name of the module, with what tells several layers of one module apart (``rnn.l0``, ``attn.head``).
    kind : str
        ``Linear``, ``Conv``, ``ConvTranspose``, ``Embedding``, ``Norm``, ``Attention``, ``Recurrent``, ``Projection``,
        ``Bilinear``, ``PReLU``, ``Parameter``, or a user's word. For people; no code may depend on it alone.
    n_units : int
        How many.
    parts : tuple of Part
        What they own.
    tap : Tap or None
        Where their activations are read; None where no module's output is theirs.
    """

    name: str
    kind: str
    n_units: int
    parts: tuple[Part, ...]
    tap: Tap | None = None


Rule = Callable[[str, Any], Iterable[UnitLayer]]


def unit_layer(
    name: str, kind: str, n_units: int, rows: Mapping[str, int | Part], reader: Reader | None, module: str | None = None
) -> UnitLayer:
    """A layer whose unit u owns index u of each named parameter along the axis given for it.

    Parameters
    ----------
    name, kind : str
        Of the layer.
    n_units : int
        How many units.
    rows : mapping of str to int or Part
        Parameter of the module, with the axis of its units; a Part where a unit owns more than one row.
    reader : callable or None
        Reads the activations; see `Tap`.
    module : str, optional
        The module that owns the parameters and is watched. Default: ``name``.
    """
    owner = name if module is None else module
    parts = tuple(
        part if isinstance(part, Part) else Part(join(owner, key), part, torch.arange(n_units)[:, None])
        for key, part in rows.items()
    )
    return UnitLayer(name, kind, n_units, parts, None if reader is None else Tap(owner, reader))


def join(*names: str) -> str:
    """Qualified name; the root module has the empty name."""
    return ".".join(name for name in names if name)


# --------------------------------------------------------------------------- activations
def read_axis(call: Call, *, axis: int, folded: bool = False) -> Tensor:
    """Units along one axis of the output, (batch, positions, n_units); every other axis is positions.

    ``folded``: the samples are in the first axis alone, see `by_sample`.
    """

    def units_last(seen: Call) -> Tensor:
        tensor: Tensor = seen.output[0] if isinstance(seen.output, tuple) else seen.output
        return tensor.movedim(axis, -1)

    return _read_tensor(call, units_last, folded)


def _read_tensor(call: Call, tensor_of: Reader, folded: bool = False) -> Tensor:
    """``by_sample`` of a tensor of the call, beside the same tensor of the call on one sample."""
    alone = None if call.alone is None else tensor_of(call.alone).shape
    return by_sample(tensor_of(call), call.batch, alone, folded)


def by_sample(tensor: Tensor, batch: int, alone: Sequence[int] | None = None, folded: bool = False) -> Tensor:
    """(batch, positions, n_units) of a tensor with the units last.

    Parameters
    ----------
    tensor : Tensor
        Samples come first; second in sequence-first networks; or times positions (windows, tokens in a row).
        What has one row for all samples (embeddings of positions) is repeated.
    batch : int
        How many samples.
    alone : sequence of int, optional
        Shape of the same tensor in a pass of one sample. The axis that is ``batch`` times as long here holds the
        samples; where none is longer, all samples share the tensor. Without it the lengths of the axes decide.
    folded : bool, default False
        The samples are in the first axis alone, as in the maps of convolutions: lengths of others do not matter.
    """
    if tensor.shape[:-1].numel() == 0:
        raise ValueError(_no_axis(tensor.shape, batch))
    axis = _grown_axis(tensor.shape, batch, alone) if alone is not None and batch > 1 else None
    axis = _axis_by_length(tensor.shape, batch, folded) if axis is None else axis
    if axis < 0:
        return tensor.reshape(1, -1, tensor.shape[-1]).expand(batch, -1, -1)
    if axis > 0:
        tensor = torch.unflatten(tensor, axis, (batch, -1)).movedim(axis, 0)
    return tensor.reshape(batch, -1, tensor.shape[-1])


def _grown_axis(shape: Sequence[int], batch: int, alone: Sequence[int]) -> int | None:
    """The one axis that grows with the samples; -1 where the shape stays, None where this does not tell."""
    if len(shape) != len(alone):
        return None
    if tuple(shape) == tuple(alone):
        return -1
    grown = [axis for axis in range(len(shape) - 1) if shape[axis] == batch * alone[axis]]
    return grown[0] if len(grown) == 1 else None


def _axis_by_length(shape: Sequence[int], batch: int, folded: bool) -> int:
    """The axis of the samples by the lengths alone; -1 where one row is all samples'."""
    first, second = shape[0], shape[1] if len(shape) > 2 and not folded else -1
    if first != batch and second == batch:
        return 1
    if first % batch == 0:
        return 0
    if first == 1:
        return -1
    raise ValueError(_no_axis(shape, batch))


def _no_axis(shape: Sequence[int], batch: int) -> str:
    return (
        f"an activation of shape {tuple(shape)} has no axis for the {batch} samples. Modules that are called on some of "
        "the samples alone (routed experts) cannot be recorded: pass a selector that records nothing ('gradient_norm', "
        "'kfac_greedy', ...), or units= without them."
    )


def _along(axis: int, folded: bool = False) -> Reader:
    return partial(read_axis, axis=axis, folded=folded)


def _read_whole(call: Call) -> Tensor:
    """One unit of the whole output."""
    return _read_tensor(call, lambda seen: seen.output[..., None])


def _ids_last(call: Call) -> Tensor:
    """What an embedding looks up, with an axis of one unit."""
    ids: Tensor = call.args[0] if call.args else call.kwargs["input"]
    return ids[..., None]


def _read_embedding(call: Call) -> Tensor:
    """How often a row is looked up: its share of the sample's positions, (batch, 1, n_units).

    An embedding's output has no axis of rows; a row acts on a sample exactly through this share. Ids in one axis
    that do not grow with the samples, or do not go into them, are shared by all (tables of positions).
    """
    ids = _ids_last(call)
    if ids.dim() == 2 and len(ids) % call.batch:
        ids = ids[None].expand(call.batch, -1, -1)[..., 0].long()
    else:
        ids = _read_tensor(call, _ids_last)[..., 0].long()
    shares = torch.full(ids.shape, 1 / ids.shape[1], device=ids.device)
    counts = shares.new_zeros(call.batch, call.module.num_embeddings)
    return counts.scatter_add_(1, ids, shares)[:, None]


def _read_bag(call: Call) -> Tensor:
    """The weight with which a bag adds each row, (batch, 1, n_units); for the maximum, the row's share."""
    named = _named(call, ("input", "offsets", "per_sample_weights"))
    ids: Tensor = named["input"]
    weights: Tensor | None = named.get("per_sample_weights")
    if ids.dim() == 2:
        bags = torch.arange(call.batch, device=ids.device).repeat_interleave(ids.shape[1])
    else:
        starts: Tensor = named["offsets"][: call.batch].contiguous()
        bags = torch.bucketize(torch.arange(len(ids), device=ids.device), starts, right=True) - 1
    values = torch.ones(ids.numel(), device=ids.device) if weights is None else weights.reshape(-1)
    counts = values.new_zeros(call.batch, call.module.num_embeddings)
    counts = counts.index_put((bags, ids.reshape(-1).long()), values, accumulate=True)
    if call.module.mode != "sum":
        counts = counts / torch.bincount(bags, minlength=call.batch).clamp(min=1)[:, None]
    return counts[:, None]


_ATTENTION = [
    "query",
    "key",
    "value",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "average_attn_weights",
    "is_causal",
]


def _read_heads(call: Call) -> Tensor:
    """Length of each head's output at each query, (batch, queries, heads).

    The module's own output has mixed the heads; the same function with the identity in place of the last
    projection has not. The length does not change when a head's inner coordinates are rotated.
    """
    named, module = _named(call, _ATTENTION), call.module
    inputs = [named[key].transpose(0, 1) if module.batch_first else named[key] for key in _ATTENTION[:3]]
    heads, _ = functional.multi_head_attention_forward(
        inputs[0],
        inputs[1],
        inputs[2],
        module.embed_dim,
        module.num_heads,
        module.in_proj_weight,
        module.in_proj_bias,
        module.bias_k,
        module.bias_v,
        module.add_zero_attn,
        0.0,
        torch.eye(module.embed_dim).to(inputs[0]),
        None,
        training=False,
        key_padding_mask=named.get("key_padding_mask"),
        need_weights=named.get("need_weights", True),
        attn_mask=named.get("attn_mask"),
        use_separate_proj_weight=not module._qkv_same_embed_dim,
        q_proj_weight=module.q_proj_weight,
        k_proj_weight=module.k_proj_weight,
        v_proj_weight=module.v_proj_weight,
        is_causal=named.get("is_causal", False),
    )
    split: Tensor = heads.transpose(0, 1).reshape(call.batch, -1, module.num_heads, module.head_dim)
    lengths: Tensor = torch.linalg.vector_norm(split, dim=-1)
    return lengths


def _read_heads_of_input(call: Call, *, n_heads: int) -> Tensor:
    """Length of each head's part of what goes into the watched module."""
    found = _read_tensor(call, lambda seen: seen.args[0])
    lengths: Tensor = torch.linalg.vector_norm(found.reshape(*found.shape[:2], n_heads, -1), dim=-1)
    return lengths


def _read_attention(call: Call) -> Tensor:
    """Rows of the last projection: the module's output."""
    output: Tensor = call.output[0] if call.module.batch_first else call.output[0].transpose(0, 1)
    return output.reshape(call.batch, -1, call.module.embed_dim)


def _named(call: Call, names: Sequence[str]) -> dict[str, Any]:
    """Arguments of a call by name."""
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def _read_recurrent(call: Call, *, index: int, cell: bool) -> Tensor:
    """Hidden units of one direction of one layer.

    The last layer's are read at every step. Of the layers below, and of packed sequences, torch hands out
    the last state alone; of an LSTM with a projection, the cell state.
    """
    sequence, state = call.output
    directions = 1 + call.module.bidirectional
    last = index >= directions * (call.module.num_layers - 1)
    if last and not cell and not isinstance(sequence, PackedSequence):
        steps: Tensor = sequence.chunk(directions, dim=-1)[index % directions]
        return (steps if call.module.batch_first else steps.transpose(0, 1)).reshape(call.batch, -1, steps.shape[-1])
    states: Tensor = state[int(cell)] if isinstance(state, tuple) else state
    final: Tensor = states[index]
    return final.reshape(call.batch, -1, final.shape[-1])  # positions where the sentences of a sample are folded


# --------------------------------------------------------------------------- rules
def _linear(name: str, module: Any) -> Iterable[UnitLayer]:
    yield unit_layer(name, "Linear", module.out_features, {"weight": 0, "bias": 0}, _along(-1))


def _bilinear(name: str, module: Any) -> Iterable[UnitLayer]:
    yield unit_layer(name, "Bilinear", module.out_features, {"weight": 0, "bias": 0}, _along(-1))


def _conv1d_of_transformers(name: str, module: Any) -> Iterable[UnitLayer]:
    yield unit_layer(name, "Linear", module.nf, {"weight": 1, "bias": 0}, _along(-1))


def _conv(name: str, module: Any) -> Iterable[UnitLayer]:
    axis = -1 - len(module.kernel_size)
    yield unit_layer(name, "Conv", module.out_channels, {"weight": 0, "bias": 0}, _along(axis, folded=True))


def _conv_transpose(name: str, module: Any) -> Iterable[UnitLayer]:
    """The weight is (in, out / groups, ...): an output channel is an index of axis 1 within its group."""
    n, groups = module.out_channels, module.groups
    axis = -1 - len(module.kernel_size)
    weight = Part(join(name, "weight"), 0 if groups > 1 else 1, torch.arange(n)[:, None], groups)
    yield unit_layer(name, "ConvTranspose", n, {"weight": weight, "bias": 0}, _along(axis, folded=True))


def _embedding(name: str, module: Any) -> Iterable[UnitLayer]:
    reader = _read_bag if isinstance(module, nn.EmbeddingBag) else _read_embedding
    yield unit_layer(name, "Embedding", module.num_embeddings, {"weight": 0}, reader)


def _norm(name: str, module: Any) -> Iterable[UnitLayer]:
    """One unit a channel: axis 1 of the output, or the first normalised axis of layer and RMS norms."""
    if module.weight is None:
        return
    shape = getattr(module, "normalized_shape", None)
    axis = 1 if shape is None else -len(shape)
    yield unit_layer(name, "Norm", len(module.weight), {"weight": 0, "bias": 0}, _along(axis, folded=shape is None))


def _prelu(name: str, module: Any) -> Iterable[UnitLayer]:
    n = module.num_parameters
    yield unit_layer(name, "PReLU", n, {"weight": 0}, _along(1, folded=True) if n > 1 else _read_whole)


def _attention(name: str, module: Any) -> Iterable[UnitLayer]:
    """A head owns its rows of the query, key and value projections; the last projection has rows of its own."""
    width, heads = module.embed_dim, module.num_heads
    one = torch.arange(width).view(heads, -1)
    packed = torch.cat([one, one + width, one + 2 * width], dim=1)
    rows = {
        "in_proj_weight": Part(join(name, "in_proj_weight"), 0, packed),
        "in_proj_bias": Part(join(name, "in_proj_bias"), 0, packed),
        **{key: Part(join(name, key), 0, one) for key in ("q_proj_weight", "k_proj_weight", "v_proj_weight")},
        **{key: Part(join(name, key), 2, one) for key in ("bias_k", "bias_v")},
    }
    yield unit_layer(join(name, "head"), "Attention", heads, rows, _read_heads, module=name)
    last = {"out_proj.weight": 0, "out_proj.bias": 0}
    yield unit_layer(join(name, "out_proj"), "Linear", width, last, _read_attention, module=name)


def _recurrent(name: str, module: Any) -> Iterable[UnitLayer]:
    """A hidden unit owns its row of every gate; a projection (LSTM) has rows of its own."""
    hidden, directions = module.hidden_size, 1 + module.bidirectional
    gates = _gates(hidden, {"LSTM": 4, "GRU": 3}.get(module.mode, 1))
    for index in range(module.num_layers * directions):
        tag = f"l{index // directions}" + ("_reverse" if index % directions else "")
        keys = (f"weight_ih_{tag}", f"weight_hh_{tag}", f"bias_ih_{tag}", f"bias_hh_{tag}")
        rows = {key: Part(join(name, key), 0, gates) for key in keys}
        reader = partial(_read_recurrent, index=index, cell=module.proj_size > 0)
        yield unit_layer(join(name, tag), "Recurrent", hidden, rows, reader, module=name)
        if module.proj_size:
            reader = partial(_read_recurrent, index=index, cell=False)
            last = {f"weight_hr_{tag}": 0}
            yield unit_layer(join(name, f"{tag}_projection"), "Projection", module.proj_size, last, reader, module=name)


def _cell(name: str, module: Any) -> Iterable[UnitLayer]:
    gates = _gates(module.hidden_size, len(module.weight_hh) // module.hidden_size)
    keys = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    rows = {key: Part(join(name, key), 0, gates) for key in keys}
    yield unit_layer(name, "Recurrent", module.hidden_size, rows, _along(-1))


def _gates(hidden: int, n_gates: int) -> Tensor:
    """Rows of hidden unit u: u, hidden + u, ..."""
    return torch.arange(hidden)[:, None] + hidden * torch.arange(n_gates)


def bare(name: str, parameter: nn.Parameter) -> UnitLayer:
    """A parameter of a module that no rule knows: units along its first axis, without a place to read them."""
    n = parameter.shape[0] if parameter.dim() else 1
    return UnitLayer(name, "Parameter", n, (Part(name, 0, torch.arange(n)[:, None]),))


def attention_heads(query: str, key: str, value: str, output: str, *, n_heads: str | int) -> Rule:
    """A rule for attention with separate Linear projections: units are heads instead of rows.

    A head owns its rows of the query, key and value projections; the output projection keeps its rows. The
    activation is the length of the head's part of what goes into the output projection.

    Parameters
    ----------
    query, key, value, output : str
        Names of the Linear projections inside the module.
    n_heads : str or int
        How many heads, or the module's attribute that says so.

    Examples
    --------
    ``find_units(model, extra={DistilBertSelfAttention: attention_heads("q_lin", "k_lin", "v_lin", "out_lin",
    n_heads="n_heads")})``
    """

    def rule(name: str, module: Any) -> Iterable[UnitLayer]:
        heads = getattr(module, n_heads) if isinstance(n_heads, str) else n_heads
        width = getattr(module, output).in_features
        one = torch.arange(width).view(heads, -1)
        parts = tuple(Part(join(name, k, role), 0, one) for k in (query, key, value) for role in ("weight", "bias"))
        tap = Tap(join(name, output), partial(_read_heads_of_input, n_heads=heads))
        yield UnitLayer(join(name, "head"), "Attention", heads, parts, tap)

    return rule


RULES: dict[type[nn.Module] | str, Rule] = {
    nn.Linear: _linear,
    nn.Bilinear: _bilinear,
    nn.modules.conv._ConvTransposeNd: _conv_transpose,
    nn.modules.conv._ConvNd: _conv,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.modules.batchnorm._NormBase: _norm,
    nn.GroupNorm: _norm,
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
    nn.PReLU: _prelu,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    # Known by its name: the package may be absent.
    "transformers.pytorch_utils.Conv1D": _conv1d_of_transformers,
}
