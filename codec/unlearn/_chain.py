"""Models that are a chain of layers, linearised once: a Gauss-Newton product is two matmuls a layer.

The chain is found by watching one forward pass, so that it does not matter how the model is written: it is
one when every call takes what the call before gave, and is a linear or convolutional layer, a batch norm
with fixed statistics, an elementwise function, a pooling or a change of shape. Everything else has no chain
and is left to automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn import functional
from torch.overrides import TorchFunctionMode, get_default_nowrap_functions

from codec.unlearn._problem import Problem

ELEMENTWISE = frozenset(
    [
        "relu",
        "relu6",
        "gelu",
        "tanh",
        "sigmoid",
        "silu",
        "elu",
        "celu",
        "selu",
        "leaky_relu",
        "softplus",
        "mish",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "logsigmoid",
        "softsign",
    ]
)
RESHAPE = frozenset({"flatten", "unflatten", "view", "reshape"})
LINEAR_MAPS = frozenset({"avg_pool2d", "adaptive_avg_pool2d"})

Call = Callable[[Tensor], Tensor]


class NoChainError(Exception):
    """The model is no chain; the message says which call is to blame."""


class Derivative(Protocol):
    """A call's derivative at the inputs of some samples."""

    def push(self, t: Tensor) -> Tensor:
        """Times a tangent of the input."""

    def pull(self, q: Tensor) -> Tensor:
        """Transposed, times a cotangent of the output."""


class Stage(Protocol):
    """One call of the chain."""

    def run(self, x: Tensor) -> Tensor:
        """The call's value."""

    def derivative(self, x: Tensor) -> Derivative:
        """Its derivative at x."""


# ------------------------------------------------------------------- calls without parameters
@dataclass(frozen=True)
class Scale:
    """A diagonal derivative."""

    factors: Tensor

    def push(self, t: Tensor) -> Tensor:
        return t * self.factors

    def pull(self, q: Tensor) -> Tensor:
        return q * self.factors


@dataclass(frozen=True)
class Elementwise:
    """Any function that acts on each entry alone."""

    call: Call

    def run(self, x: Tensor) -> Tensor:
        return self.call(x)

    def derivative(self, x: Tensor) -> Scale:
        factors: Tensor = vjp(self.call, x)[1](torch.ones_like(x))[0]
        return Scale(factors.detach())


@dataclass(frozen=True)
class Reshape:
    """A change of shape that leaves the samples apart; its own derivative."""

    before: torch.Size
    after: torch.Size

    def run(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.after[1:])

    def derivative(self, _: Tensor) -> Reshape:
        return self

    push = run

    def pull(self, q: Tensor) -> Tensor:
        return q.reshape(-1, *self.before[1:])


@dataclass(frozen=True)
class LinearMap:
    """A linear call without parameters, such as average pooling; its own derivative."""

    call: Call
    before: torch.Size

    def run(self, x: Tensor) -> Tensor:
        return self.call(x)

    def derivative(self, _: Tensor) -> LinearMap:
        return self

    push = run

    def pull(self, q: Tensor) -> Tensor:
        found: Tensor = vjp(self.call, q.new_zeros(len(q), *self.before[1:]))[1](q)[0]
        return found.detach()


@dataclass(frozen=True)
class Places:
    """Max pooling with the places of the maxima fixed."""

    places: Tensor
    before: torch.Size
    after: torch.Size

    def push(self, t: Tensor) -> Tensor:
        return t.flatten(2).gather(2, self.places).reshape(-1, *self.after[1:])

    def pull(self, q: Tensor) -> Tensor:
        zeros = q.new_zeros(len(q), self.before[1], self.before[2:].numel())
        return zeros.scatter_add(2, self.places, q.flatten(2)).reshape(-1, *self.before[1:])


@dataclass(frozen=True)
class MaxPool:
    """Max pooling; the call gives values and places."""

    call: Callable[[Tensor], tuple[Tensor, Tensor]]
    before: torch.Size
    after: torch.Size

    def run(self, x: Tensor) -> Tensor:
        return self.call(x)[0]

    def derivative(self, x: Tensor) -> Places:
        return Places(self.call(x)[1].flatten(2), self.before, self.after)


# ---------------------------------------------------------------------- calls with parameters
class LayerDerivative(Derivative, Protocol):
    """The derivative of a layer, by its input and by its parameters.

    A change of the parameters is a matrix: a row an output (all of them, or those in ``rows``), columns the
    inputs, the bias last.
    """

    def tangent(self, change: Tensor, rows: Tensor | None, t: Tensor | None) -> Tensor:
        """``t`` plus what a change of the parameters does to the output."""

    def gradient(self, q: Tensor, rows: Tensor | None) -> Tensor:
        """Transpose of `tangent`."""


class Layer:
    """A call with parameters.

    Attributes
    ----------
    weight, bias : str
        Names of the parameters; ``bias`` is empty where none is trained.
    w, b : Tensor
        Their values.
    """

    def __init__(self, weight: str, bias: str, w: Tensor, b: Tensor | None) -> None:
        self.weight, self.bias, self.w, self.b = weight, bias, w, b

    def run(self, x: Tensor) -> Tensor:
        """The call's value."""
        raise NotImplementedError

    def derivative(self, x: Tensor) -> LayerDerivative:
        """Its derivative at x."""
        raise NotImplementedError

    def full(self, change: Tensor, rows: Tensor | None) -> Tensor:
        """All rows of a change of some."""
        if rows is None:
            return change
        return change.new_zeros(len(self.w), change.shape[1]).index_copy(0, rows, change)


class Linear(Layer):
    """``x W^T + b``; the inputs may be kept in another basis."""

    basis: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.w, self.b)

    def derivative(self, x: Tensor) -> LinearAt:
        if self.bias:
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
        return LinearAt(self, (x if self.basis is None else x @ self.basis).contiguous())


@dataclass(frozen=True)
class LinearAt:
    """A linear layer at its inputs, (b, width)."""

    layer: Linear
    inputs: Tensor

    def push(self, t: Tensor) -> Tensor:
        return t @ self.layer.w.T

    def pull(self, q: Tensor) -> Tensor:
        return q @ self.layer.w

    def tangent(self, change: Tensor, rows: Tensor | None, t: Tensor | None) -> Tensor:
        found = self.inputs @ change.T
        if rows is None:
            return found if t is None else t + found
        base = found.new_zeros(len(found), len(self.layer.w)) if t is None else t
        return base.index_add(1, rows, found)

    def gradient(self, q: Tensor, rows: Tensor | None) -> Tensor:
        return (q if rows is None else q[:, rows]).T @ self.inputs


class Conv(Layer):
    """A convolution, through the library's own kernels."""

    settings: Mapping[str, Any]

    def run(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.w, self.b, **self.settings)

    def derivative(self, x: Tensor) -> ConvAt:
        return ConvAt(self, x)


@dataclass(frozen=True)
class ConvAt:
    """A convolution at its inputs, (b, channels, height, width)."""

    layer: Conv
    inputs: Tensor

    def push(self, t: Tensor) -> Tensor:
        return functional.conv2d(t, self.layer.w, None, **self.layer.settings)

    def pull(self, q: Tensor) -> Tensor:
        return self._backward(q, 0)[0]

    def tangent(self, change: Tensor, rows: Tensor | None, t: Tensor | None) -> Tensor:
        full = self.layer.full(change, rows)
        bias = full[:, -1].contiguous() if self.layer.bias else None
        weight = (full[:, :-1] if self.layer.bias else full).reshape(self.layer.w.shape)
        found = functional.conv2d(self.inputs, weight, bias, **self.layer.settings)
        return found if t is None else found.add_(t)

    def gradient(self, q: Tensor, rows: Tensor | None) -> Tensor:
        matrix = self._backward(q, 1)[1].flatten(1)
        if self.layer.bias:
            matrix = torch.cat([matrix, q.sum((0, 2, 3))[:, None]], dim=1)
        return matrix if rows is None else matrix[rows]

    def _backward(self, q: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
        """Cotangent of the input (0) or of the weight (1)."""
        stride, padding, dilation = (_pair(self.layer.settings[key]) for key in ("stride", "padding", "dilation"))
        groups, mask = self.layer.settings["groups"], [wanted == 0, wanted == 1, False]
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            q, self.inputs, self.layer.w, None, stride, padding, dilation, False, [0, 0], groups, mask
        )
        return found


class ChannelNorm(Layer):
    """Batch normalisation with fixed statistics: a scale and a shift of each channel."""

    mean: Tensor
    variance: Tensor
    eps: float

    def run(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.variance, self.w, self.b, eps=self.eps)

    def derivative(self, x: Tensor) -> NormAt:
        return NormAt(self, functional.batch_norm(x, self.mean, self.variance, eps=self.eps))


@dataclass(frozen=True)
class NormAt:
    """A batch norm at its normalised inputs, (b, channels, ...)."""

    layer: ChannelNorm
    inputs: Tensor

    def push(self, t: Tensor) -> Tensor:
        return t * _channels(self.layer.w * (self.layer.variance + self.layer.eps).rsqrt(), t)

    def pull(self, q: Tensor) -> Tensor:
        return self.push(q)

    def tangent(self, change: Tensor, rows: Tensor | None, t: Tensor | None) -> Tensor:
        full = self.layer.full(change, rows)
        found = self.inputs * _channels(full[:, 0], self.inputs)
        if self.layer.bias:
            found += _channels(full[:, 1], self.inputs)
        return found if t is None else found.add_(t)

    def gradient(self, q: Tensor, rows: Tensor | None) -> Tensor:
        axes = [0, *range(2, q.dim())]
        columns = [(q * self.inputs).sum(axes)] + ([q.sum(axes)] if self.layer.bias else [])
        matrix = torch.stack(columns, dim=1)
        return matrix if rows is None else matrix[rows]


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


# ------------------------------------------------------------------------- finding the chain
def find_chain(problem: Problem, params: Mapping[str, Tensor]) -> list[Stage]:
    """The stages of the model.

    Raises
    ------
    NoChainError
        With the call that does not fit.
    """
    inputs, _ = problem.fetch(torch.arange(min(problem.n, 3)))
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise NoChainError("the model takes no single tensor of numbers")
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    first = _Watch(inputs, leaves)
    with torch.enable_grad(), first:  # as in training, so that the watch sees what runs without
        problem.outputs(leaves, inputs)
    if any(value.requires_grad for value in first.constants):
        raise NoChainError("a bias or statistic of a layer is computed from parameters")
    watch = _Watch(inputs, params)
    with torch.enable_grad(), watch:
        outputs = problem.outputs(params, inputs)
    if outputs is not watch.current or outputs.dim() != 2:
        raise NoChainError("the model's output is not one vector a sample from the last call")
    with torch.no_grad():
        replayed = inputs
        for stage in watch.stages:
            replayed = stage.run(replayed)
    if replayed.dtype != outputs.dtype:
        raise NoChainError(f"the model gives {outputs.dtype}, its layers {replayed.dtype}")
    if not torch.allclose(replayed, outputs, rtol=1e-4, atol=1e-5 * float(outputs.abs().max())):
        raise NoChainError("the calls that were seen do not give the model's output")
    layers = [stage for stage in watch.stages if isinstance(stage, Layer)]
    names = [name for layer in layers for name in (layer.weight, layer.bias) if name]
    if not names or len(set(names)) != len(names):
        raise NoChainError("a parameter is used more than once, or no layer has one")
    return watch.stages


class _Watch(TorchFunctionMode):
    """Follow one tensor through a forward pass."""

    def __init__(self, inputs: Tensor, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.current = inputs
        self.seen = [inputs]  # holding them keeps their identities apart
        self.names = {id(value): name for name, value in params.items()}
        self.stages: list[Stage] = []
        self.constants: list[Tensor] = []  # what layers take beside inputs and parameters

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        shape = self.current.shape
        ours = [a for a in (*args, *kwargs.values()) if any(a is s for s in self.seen)]
        make = self._maker(func, args, kwargs) if ours else None
        out = func(*args, **kwargs)
        if not ours or not isinstance(out, Tensor) or func in get_default_nowrap_functions():
            return out
        name = getattr(func, "__name__", str(func))
        if len(ours) != 1 or ours[0] is not self.current or make is None:
            raise NoChainError(f"the call of {name!r} is no link of a chain")
        if out.shape[:1] != shape[:1]:
            raise NoChainError(f"{name!r} mixes samples")
        stage = make(out.shape)
        if stage is not None:
            self.stages.append(stage)
        if not torch.is_grad_enabled() and any(isinstance(one, Layer) for one in self.stages):
            raise NoChainError(f"{name!r} is called under torch.no_grad(), where derivatives stop")
        self.current = out
        self.seen.append(out)
        return out

    def _maker(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Callable[[torch.Size], Stage | None] | None:
        """How to make the stage once the value's shape is known; None where the call does not fit."""
        name, shape, rest = getattr(func, "__name__", ""), self.current.shape, args[1:]
        kwargs = {key: value for key, value in kwargs.items() if value is not self.current}
        if name in ELEMENTWISE and not any(isinstance(a, Tensor) for a in rest):
            plain = {key: value for key, value in kwargs.items() if key != "inplace"}
            return lambda _: Elementwise(lambda x: func(x, *rest, **plain))
        if "dropout" in name and not kwargs.get("training", True):
            return lambda _: None
        if name in RESHAPE:
            return lambda after: Reshape(shape, after)
        if name in LINEAR_MAPS:
            return lambda _: LinearMap(lambda x: func(x, *rest, **kwargs), shape)
        if name == "max_pool2d" and not kwargs.get("return_indices", False):
            both = {**kwargs, "return_indices": True}
            return lambda after: MaxPool(lambda x: functional.max_pool2d(x, *rest, **both), shape, after)
        layer = {"linear": self._linear, "conv2d": self._conv, "batch_norm": self._norm}.get(name)
        stage = layer(args, kwargs) if layer and len(shape) > 1 else None
        return None if stage is None else lambda _: stage

    def _linear(self, args: Any, kwargs: dict[str, Any]) -> Layer | None:
        weight, bias = _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 2, "bias")
        if self.current.dim() != 2 or not self._trained(weight):
            return None
        return Linear(self.names[id(weight)], self._name(bias), weight, bias)

    def _conv(self, args: Any, kwargs: dict[str, Any]) -> Layer | None:
        weight, bias = _argument(args, kwargs, 1, "weight"), _argument(args, kwargs, 2, "bias")
        defaults = (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))
        settings = {key: _argument(args, kwargs, 3 + i, key, value) for i, (key, value) in enumerate(defaults)}
        if self.current.dim() != 4 or isinstance(settings["padding"], str) or not self._trained(weight):
            return None
        layer = Conv(self.names[id(weight)], self._name(bias), weight, bias)
        layer.settings = settings
        return layer

    def _norm(self, args: Any, kwargs: dict[str, Any]) -> Layer | None:
        keys = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = {"training": False, "eps": 1e-5, "bias": None, **dict(zip(keys, args, strict=False)), **kwargs}
        if given["training"] or not self._trained(given.get("weight")):
            return None
        layer = ChannelNorm(self.names[id(given["weight"])], self._name(given["bias"]), given["weight"], given["bias"])
        self.constants += [part for part in (given["running_mean"], given["running_var"]) if part is not None]
        layer.mean, layer.variance, layer.eps = given["running_mean"], given["running_var"], given["eps"]
        return layer

    def _trained(self, tensor: Tensor | None) -> bool:
        return tensor is not None and id(tensor) in self.names

    def _name(self, tensor: Tensor | None) -> str:
        if tensor is None:
            return ""
        if id(tensor) not in self.names:
            self.constants.append(tensor)
        return self.names.get(id(tensor), "")


def _argument(args: Any, kwargs: dict[str, Any], place: int, key: str, default: Any = None) -> Any:
    return args[place] if len(args) > place else kwargs.get(key, default)
