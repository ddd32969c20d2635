"""Gradients and curvature products of any model, by automatic differentiation.

Everything here sums over the samples of a batch, knows no weight decay, and takes and gives tensors by
parameter name. A Gauss-Newton product is ``J^T C J v`` (J the outputs' Jacobian, C the loss's curvature in
the outputs): a forward-mode derivative, C, and a backward pass.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from codec.unlearn._problem import Batch, Problem

GAUSS_NEWTON = ("ggn", "fisher", "empirical_fisher")

Tensors = dict[str, Tensor]


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Calls that have second derivatives, the same ones in forward and in reverse mode.

    Raises
    ------
    ValueError
        Of what is done within: torch has no second derivative of a call of the model or the loss.
    """
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False), torch.enable_grad(), _PlainCalls():
        try:
            yield
        except NotImplementedError as error:
            raise ValueError(
                f"model has no second derivative in torch ({error}); write the call that has none with others. For torch.cdist "
                "of a and b: (a[..., None, :] - b[..., None, :, :]).norm(dim=-1)."
            ) from error


class _PlainCalls(TorchFunctionMode):
    """Embeddings made of differentiable calls, and no derivative of what runs under ``torch.no_grad()``.

    torch has no second derivative of the fused kernel of embedding bags, and its forward mode goes through padding
    rows and through ``torch.no_grad()``, where reverse mode stops.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_grad_enabled():
            return _plain(func, args, kwargs or {})
        with forward_ad._set_fwd_grad_enabled(False):
            return _plain(func, args, kwargs or {})


def _plain(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is functional.embedding_bag:
        given = _arguments(func, args, kwargs)
        if given["max_norm"] is None and given["mode"] in {"sum", "mean"}:
            return _plain_bag(**given)
    out = func(*args, **kwargs)
    if func is functional.embedding:
        given = _arguments(func, args, kwargs)
        if given["padding_idx"] is not None:
            padding = given["input"] == given["padding_idx"] % len(given["weight"])
            return torch.where(padding[..., None], out.detach(), out)
    return out


def _arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call by name, with the defaults."""
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    return given.arguments


def _plain_bag(
    input: Tensor,  # noqa: A002 - torch's name
    weight: Tensor,
    offsets: Tensor | None,
    mode: str,
    per_sample_weights: Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
    **_: Any,
) -> Tensor:
    if padding_idx is None:
        counts = torch.ones_like(input, dtype=weight.dtype)
    else:
        counts = (input != padding_idx % len(weight)).to(weight.dtype)
    shares = counts if per_sample_weights is None else counts * per_sample_weights
    rows = functional.embedding(input, weight) * shares[..., None]
    if input.dim() == 2:
        sums, sizes = rows.sum(1), counts.sum(1)
    else:
        if offsets is None:
            raise ValueError("an embedding bag of a flat list of ids needs offsets.")
        starts = offsets[:-1] if include_last_offset else offsets
        bags = torch.bucketize(torch.arange(len(input), device=input.device), starts, right=True) - 1
        sums = rows.new_zeros(len(starts), rows.shape[1]).index_add(0, bags, rows)
        sizes = counts.new_zeros(len(starts)).index_add(0, bags, counts)
    return sums / sizes.clamp_min(1.0)[:, None] if mode == "mean" else sums


def forward_derivative(
    f: Callable[[Any], Tensor], at: tuple[Any, ...], along: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """Value and derivative of f along a direction; torch's own deprecations are its own affair."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        found = jvp(f, at, along)
    return found[0].detach(), found[1].detach()


def pulled_back(
    value: Tensor, by: Sequence[Any], along: Tensor | None = None, *, create_graph: bool = False, keep: bool = False
) -> tuple[Tensor, ...]:
    """Derivatives of a value, times a cotangent; zeros where it does not depend on a tensor.

    Parameters
    ----------
    value : Tensor
    by : sequence of Tensor
    along : Tensor, optional
        The cotangent, of the shape of the value; a value of one number needs none.
    create_graph, keep : bool, default False
        Whether the derivatives have derivatives, and whether the value's graph is used again.
    """
    if not value.requires_grad:
        return tuple(torch.zeros_like(one) for one in by)
    return torch.autograd.grad(
        value, by, along, retain_graph=create_graph or keep, create_graph=create_graph, materialize_grads=True
    )


class Products:
    """Derivatives of the loss at fixed parameters.

    Parameters
    ----------
    problem : Problem
    params : dict of str to Tensor
        Every trainable parameter; the point of all derivatives.
    names : sequence of str, optional
        Parameters to differentiate by. Default: all.
    """

    def __init__(self, problem: Problem, params: Mapping[str, Tensor], names: Sequence[str] | None = None) -> None:
        self.problem = problem
        self.params = {name: value.detach() for name, value in params.items()}
        self.names = tuple(self.params if names is None else names)
        # torch has no forward-mode rule for some layers (LSTM); the first failure settles it.
        self.forward_mode = True

    # ------------------------------------------------------------------ first derivatives
    def gradient(self, batch: Batch) -> Tensors:
        """Sum over the batch of the gradients of the losses."""
        with twice_differentiable():
            leaves = self._leaves()
            loss = self.problem.losses(self._outputs(leaves, batch), batch.targets).sum()
            found = pulled_back(loss, list(leaves.values()))
        return dict(zip(self.names, found, strict=True))

    def mean_gradient(self, ids: Tensor) -> Tensors:
        """Mean over the samples of the gradients of the losses."""
        return self._mean(self.gradient, ids)

    def _mean(self, of_batch: Callable[[Batch], Tensors], ids: Tensor) -> Tensors:
        """Mean over the samples of what is a sum over a batch; each process of the team does its share."""
        total = {name: torch.zeros_like(self.params[name]) for name in self.names}
        for batch in self.problem.batches(self.problem.share(ids)):
            for name, part in of_batch(batch).items():
                total[name] += part
        self.problem.team.add(total.values())
        return {name: value / len(ids) for name, value in total.items()}

    def sample_gradients(self, batch: Batch, scalar: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensors:
        """One gradient a sample, (b, ...) each.

        ``scalar(outputs of one sample, targets of one sample)`` takes the place of the loss.
        """
        value = scalar or (lambda o, t: self.problem.losses(o[None], tree_map(lambda leaf: leaf[None], t))[0])

        def of_one(leaves: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
            one = tree_map(lambda leaf: leaf[None], inputs)
            return value(self.problem.outputs({**self.params, **leaves}, one)[0], targets)

        leaves = {name: self.params[name] for name in self.names}
        with twice_differentiable():
            try:
                mapped = vmap(grad(of_one), in_dims=(None, 0, 0))(leaves, batch.inputs, batch.targets)
            except RuntimeError:  # no vmap rule (GRU): one by one
                mapped = self._one_by_one(of_one, batch)
        return {name: mapped[name].detach() for name in self.names}

    def _one_by_one(self, of_one: Callable[..., Tensor], batch: Batch) -> Tensors:
        rows: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for i in range(len(batch.ids)):
            leaves = self._leaves()
            inputs, targets = (tree_map(lambda leaf, i=i: leaf[i], x) for x in (batch.inputs, batch.targets))
            found = pulled_back(of_one(leaves, inputs, targets), list(leaves.values()))
            for name, value in zip(self.names, found, strict=True):
                rows[name].append(value)
        return {name: torch.stack(values) for name, values in rows.items()}

    # ------------------------------------------------------------------ curvature
    def hessian(self, batch: Batch, v: Mapping[str, Tensor]) -> Tensors:
        """Sum of the losses' Hessians times v, by reverse over reverse (works for every layer)."""
        with twice_differentiable():
            leaves = self._leaves()
            loss = self.problem.losses(self._outputs(leaves, batch), batch.targets).sum()
            first = pulled_back(loss, list(leaves.values()), create_graph=True)
            found = pulled_back(self._dot(first, v), list(leaves.values()))
        return dict(zip(self.names, found, strict=True))

    def gauss_newton(self, batch: Batch, v: Mapping[str, Tensor], kind: str = "ggn") -> Tensors:
        """Sum over the batch of ``J^T C J v``; ``kind`` chooses C (`output_product`)."""
        with twice_differentiable():
            leaves = self._leaves()
            outputs, tangent = self._jvp(leaves, v, batch)
            pulled = output_product(self.problem, kind, outputs.detach(), batch.targets, tangent)
            found = pulled_back(outputs, list(leaves.values()), pulled)
        return dict(zip(self.names, found, strict=True))

    def product(self, batch: Batch, v: Mapping[str, Tensor], kind: str) -> Tensors:
        """The product of one kind of curvature: 'hessian' or one of `GAUSS_NEWTON`."""
        return self.hessian(batch, v) if kind == "hessian" else self.gauss_newton(batch, v, kind)

    def mean_product(self, ids: Tensor, v: Mapping[str, Tensor], kind: str) -> Tensors:
        """Mean over the samples of the product of one kind of curvature."""
        return self._mean(lambda batch: self.product(batch, v, kind), ids)

    def linearised(self, batch: Batch, v: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the model linearised at the point, when its parameters change by v."""
        with twice_differentiable():
            outputs, change = self._jvp(self._leaves(), v, batch)
        return outputs.detach() + change

    def _jvp(self, leaves: Tensors, v: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs, with their graph, and their derivative along v."""
        outputs = self._outputs(leaves, batch)
        if self.forward_mode:
            try:
                constants = {name: leaf.detach() for name, leaf in leaves.items()}
                wanted = {name: v[name].to(leaf.dtype) for name, leaf in leaves.items()}
                return outputs, forward_derivative(lambda w: self._outputs(w, batch), (constants,), (wanted,))[1]
            except (RuntimeError, NotImplementedError):
                self.forward_mode = False
        # J v = d/du (u^T J v): the derivative of a backward pass by what it was given.
        probe = torch.zeros_like(outputs, requires_grad=True)
        pulled = pulled_back(outputs, list(leaves.values()), probe, create_graph=True)
        (tangent,) = pulled_back(self._dot(pulled, v), [probe], keep=True)
        return outputs, tangent.detach()

    def _dot(self, tensors: Sequence[Tensor], v: Mapping[str, Tensor]) -> Tensor:
        parts = [(g * v[name]).sum() for name, g in zip(self.names, tensors, strict=True)]
        return torch.stack(parts).sum()

    def _leaves(self) -> Tensors:
        return {name: self.params[name].detach().requires_grad_() for name in self.names}

    def _outputs(self, leaves: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return self.problem.outputs({**self.params, **leaves}, batch.inputs)


# --------------------------------------------------------------------- the loss's own curvature
def output_product(problem: Problem, kind: str, outputs: Tensor, targets: Tensor, tangent: Tensor) -> Tensor:
    """C times a tangent of the outputs, sample by sample.

    'ggn': the Hessian of the loss in the outputs. 'fisher': the expectation of ``s s^T`` over labels drawn
    from the model, s the loss's gradient; exact, for classes and a loss that is a negative log-likelihood.
    'empirical_fisher': ``s s^T`` at the observed label, which is not a Fisher information.
    """
    if kind == "ggn":
        return _loss_hessian_product(problem, outputs, targets, tangent)
    if kind == "empirical_fisher":
        score = output_slope(problem, outputs.detach(), targets).detach()
        return score * _inner(score, tangent)
    classes = _classes(problem, outputs, targets)
    total = torch.zeros_like(outputs)
    for label, probability in enumerate(classes.unbind(1)):
        score = output_slope(problem, outputs.detach(), torch.full_like(targets, label)).detach()
        total += _column(probability, outputs) * score * _inner(score, tangent)
    return total


def check_curved(problem: Problem, kind: str) -> None:
    """Refuse a loss of which torch has no second derivative, or which has none that is not 0, with a ValueError."""
    batch = next(problem.batches(torch.arange(min(problem.n, 8))))
    with torch.no_grad():
        outputs = problem.outputs(problem.parameters(), batch.inputs)
    try:
        tangent = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
        near_zero = (0.1 * outputs, outputs)  # confident classes have no curvature that single precision shows
        curved = [output_product(problem, "ggn", o, batch.targets, tangent).any() for o in near_zero]
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"loss has no second derivative in torch ({error}); pass one that is made of other calls, or curvature="
            "'empirical_fisher', which needs gradients alone."
        ) from error
    if kind != "hessian" and not any(curved):
        raise ValueError(
            f"loss is linear in the outputs of the model: curvature={kind!r} is 0, and the step would be one of gradient "
            "ascent. After a LogSoftmax pass CrossEntropyLoss() in place of NLLLoss(): of log-probabilities it has the "
            "same values and the same gradients. Or choose curvature='hessian' or 'empirical_fisher'."
        )


def output_curvature(problem: Problem, kind: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """C as matrices, (b, c, c), of models with one vector of c outputs a sample."""
    width = outputs.shape[1]
    units = torch.eye(width, dtype=outputs.dtype, device=outputs.device)[:, None].expand(width, len(outputs), width)
    try:
        columns = vmap(lambda unit: output_product(problem, kind, outputs, targets, unit))(units)
    except (RuntimeError, NotImplementedError):  # a loss without a vmap rule
        columns = torch.stack([output_product(problem, kind, outputs, targets, unit) for unit in units])
    return columns.permute(1, 2, 0).contiguous()


def _loss_hessian_product(problem: Problem, outputs: Tensor, targets: Tensor, tangent: Tensor) -> Tensor:
    def slope(o: Tensor) -> Tensor:
        return output_slope(problem, o, targets)

    try:
        return forward_derivative(slope, (outputs,), (tangent,))[1].to(outputs.dtype)  # targets may be double
    except (RuntimeError, NotImplementedError):
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (first,) = torch.autograd.grad(problem.losses(leaf, targets).sum(), [leaf], create_graph=True)
            if not first.requires_grad:  # a loss that is linear in the outputs
                return torch.zeros_like(outputs)
            found: Tensor = torch.autograd.grad((first * tangent).sum(), [leaf], materialize_grads=True)[0]
        return found.to(outputs.dtype)


def output_slope(problem: Problem, outputs: Tensor, targets: Tensor) -> Tensor:
    """Gradient of every sample's loss in its outputs."""
    score: Tensor = grad(lambda x: problem.losses(x, targets).sum())(outputs)
    return score


def _classes(problem: Problem, outputs: Tensor, targets: Tensor) -> Tensor:
    """Probabilities of the classes, (b, c)."""
    given: Any = targets
    if not isinstance(given, Tensor) or given.is_floating_point() or given.dim() != 1 or outputs.dim() != 2:
        raise ValueError("the true Fisher information is offered for one class a sample; use curvature='ggn'.")
    losses = [problem.losses(outputs, torch.full_like(targets, c)) for c in range(outputs.shape[1])]
    found = torch.stack(losses, dim=1).neg().exp()
    if not torch.allclose(found.sum(1), torch.ones_like(found[:, 0]), atol=1e-3):
        raise ValueError("loss is not a negative log-likelihood of the classes; use curvature='ggn'.")
    return found


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return _column((a * b).reshape(len(a), -1).sum(1), a)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))
