"""The door of unlearning: a trained model, its training data and its loss in one form.

Everything behind this file sees a copy of the model in evaluation mode, parameters as a dict by
name, batches on one device, and one loss a sample. The caller's model and data are never changed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from codec._validation import check_amount, check_integer
from codec.unlearn._data import content_of, copied, described, read_data, spread, to_device
from codec.unlearn._distributed import Group, Team, plain_copy, whole_copy
from codec.unlearn._loss import (
    CLASSES_SECOND,
    CLASSES_SECOND_FUNCTIONS,
    Loss,
    certain,
    is_likelihood,
    is_one_of,
    is_torchs,
    loss_function,
)

PASS_BYTES = {"cpu": 2**28, "cuda": 2**33}  # intermediate results of a pass
DEVICES = ("cpu", "cuda", "mps", "xpu")  # that autocast knows
FLOATS = (torch.float32, torch.float64)
CHECKED = 64  # most samples of the checks, spread over the data
ROUGH = 1e-2  # of outputs: more than rounding differs between two batches, TF32 included
CLOSE = 1e-3  # of losses of the same outputs

P = ParamSpec("P")
R = TypeVar("R")
Parameters = dict[str, Tensor]


def outside_modes(function: Callable[P, R]) -> Callable[P, R]:
    """The function in the modes it was written for, wherever it is called.

    Derivatives are needed under ``torch.inference_mode()``, too, and the model's own precision under autocast.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as modes:
            modes.enter_context(torch.inference_mode(False))
            for kind in DEVICES:
                if torch.is_autocast_enabled(kind):
                    modes.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return run


class Batch(NamedTuple):
    """Some samples on the model's device."""

    ids: Tensor
    inputs: Any
    targets: Any


class Problem:
    """What a model was trained to do: minimise the mean loss over its data plus weight decay.

    The objective is ``F(w) = 1/n sum_i loss(w, z_i) + weight_decay / 2 ||w||^2`` over the trainable
    parameters w.

    Parameters
    ----------
    model : nn.Module
        Trained model; a copy is taken.
    loss : {'cross_entropy', 'mse'} or callable
        ``loss(output, target)``: one value a sample, or their mean (then a sample's own loss is that of
        a batch of one). A torch loss module is used with ``reduction='none'``; one of 'sum' is refused.
    data : Dataset, (inputs, targets), or dict of tensors
        Training samples, n along the first axis of every tensor; arrays, pandas objects and lists of numbers are read
        as tensors. A dict (or a Dataset of dicts) gives the model its entries as keywords, all but ``target_key``. They
        are read when they are needed and not copied: leave them as they are.
    weight_decay : float
        lambda of the objective, at least 0; for SGD, torch's ``weight_decay``.
    output : callable, optional
        Makes the tensor that the loss takes of what the model returns. Default: the tensor itself, or the
        ``logits`` of a Hugging Face output.
    target_key : str, default 'labels'
        The target's entry of dict data.
    device : torch.device or str, optional
        Where to compute. Default: where the model is.
    batch_size : int, default 1024
        Most samples in one pass.
    group : ProcessGroup, optional
        Processes of torch.distributed that share the work (`torch.distributed.group.WORLD`: all). Each must make
        the same calls with the same model, data and seed; sums over samples then differ from those of one
        process by rounding alone. Parameters that are cut between rows (FSDP2, DTensor) are gathered.

    Attributes
    ----------
    model : nn.Module
        The copy, in evaluation mode.
    names : tuple of str
        Trainable parameters; a tied tensor stands once, under its first name.
    tied : dict of str to str
        Other names of tied tensors, with the first.
    n : int
        Training samples.
    source : object
        The training data as they were given.
    likelihood : bool
        Whether ``exp(-loss)`` is known to be the probability that the model gives a target: for torch's cross
        entropies, as modules or functions, without smoothing of labels.
    classes_second : bool
        Whether classes are the second axis of outputs, as torch's cross entropy and likelihood of classes have it.
    team : Team
        The processes.

    Raises
    ------
    ValueError
        No trainable parameter, half precision, no data, data that the model or the loss cannot take, a loss that is
        not finite, a loss without a gradient in the parameters, a model whose output changes from one call to the next
        or with the other samples of the batch, or a
        loss that is not the mean of its values for single samples (class weights, ignored positions,
        ``reduction='sum'``), or has trainable parameters of its own.
    TypeError
        Data that hold no numbers, or a loss that is the class of one.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Problem
    >>> X, y = torch.eye(3), torch.arange(3)
    >>> problem = Problem(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.01)
    >>> problem.n, problem.names, problem.sample_losses(problem.parameters()).shape
    (3, ('weight', 'bias'), torch.Size([3]))
    """

    @outside_modes
    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        *,
        weight_decay: float,
        output: Callable[[Any], Tensor] | None = None,
        target_key: str = "labels",
        device: torch.device | str | None = None,
        batch_size: int = 1024,
        group: Group | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch nn.Module, got {type(model).__name__}.")
        self.weight_decay = check_amount(weight_decay, "weight_decay")
        self.batch_size = check_integer(batch_size, "batch_size", 1)
        self.team = Team(group)
        self.source = data
        self.model = whole_copy(model).eval()
        self.names, self.tied = _trainable(self.model)
        self._elsewhere = _elsewhere(self.model, self.tied)
        self.device = _device(self.model, device)
        self.model.to(self.device)
        self._nesting = without_nesting(self.model)
        self._output = output or _tensor_of
        self._loss = loss_function(loss)
        self.likelihood = is_likelihood(loss)
        self.classes_second = is_torchs(loss, CLASSES_SECOND) or is_one_of(loss, CLASSES_SECOND_FUNCTIONS)
        self._data = read_data(data, target_key, self.device)
        self._writes = False
        self.n = len(self._data)
        self.team.device = self.device
        if self.team.size > 1:
            self.team.check_same(self._facts(), "give every process the same model and the same data, in one order")
        self.check()

    def parameters(self) -> Parameters:
        """The trainable parameters by name, detached; the model's own tensors, not copies."""
        every = dict(self.model.named_parameters())
        return {name: every[name].detach() for name in self.names}

    def model_with(self, params: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the model with these parameters, and buffers where some are given, by name.

        Of a baseline: ``problem.model_with(deletion.parameters)``; training moves the running statistics of norms, too.
        """
        named = (self.model.named_parameters, self.model.named_buffers)
        shapes = {name: value.shape for every in named for name, value in every(remove_duplicate=False)}
        wrong = sorted(name for name, value in params.items() if shapes.get(name) != value.shape)
        if wrong:
            raise ValueError(f"params holds {wrong[:3]}, which the model has not, or not in this shape.")
        model = plain_copy(self.model)
        for name in self._nesting:
            setattr(model.get_submodule(name), "use_nested_tensor", True)  # noqa: B010 - unknown to Module
        with torch.no_grad():
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                if name in params:
                    value.copy_(params[name])
        return model

    def buffers(self) -> Parameters:
        """What else a call needs: buffers and frozen parameters."""
        frozen = {name: p.detach() for name, p in self.model.named_parameters() if name not in set(self.names)}
        return {**frozen, **dict(self.model.named_buffers())}

    def fetch(self, ids: Sequence[int] | Tensor) -> tuple[Any, Any]:
        """Inputs and targets of the samples, stacked along the first axis, on the device."""
        inputs, targets = self._data.take(torch.as_tensor(ids, dtype=torch.long))
        return to_device(inputs, self.device), to_device(targets, self.device)

    def _facts(self) -> dict[str, str]:
        """What must be the same in every process of a group."""
        state = {**self.parameters(), **self.buffers()}
        return {
            **{name: hashlib.sha256(content_of(value)).hexdigest() for name, value in state.items()},
            "weight_decay": repr(self.weight_decay),
            "the number of training samples": str(self.n),
            "the training data": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """16 hex digits of samples spread over the data, by which the same data in the same order are known again."""
        found = hashlib.sha256()
        for leaf in tree_leaves(self._data.take(self._spread(CHECKED))):
            found.update(content_of(leaf))
        return found.hexdigest()[:16]

    def batches(self, ids: Sequence[int] | Tensor | None = None, size: int | None = None) -> Iterator[Batch]:
        """The samples (default: all) in order, ``size`` at a time (default: ``batch_size``)."""
        chosen = torch.arange(self.n) if ids is None else torch.as_tensor(ids, dtype=torch.long)
        for part in torch.split(chosen, size or self.batch_size):
            if len(part):
                yield Batch(part, *self.fetch(part))

    def share(self, ids: Sequence[int] | Tensor | None = None) -> Tensor:
        """Ids of the samples (default: all) that are this process's part of a sum, int64."""
        chosen = torch.arange(self.n) if ids is None else torch.as_tensor(ids, dtype=torch.long)
        return chosen[self.team.share(len(chosen))]

    def outputs(self, params: Mapping[str, Tensor], inputs: Any) -> Tensor:
        """What the loss takes, of the model with these trainable parameters, (b, ...)."""
        state = self.buffers()
        if self._writes:
            inputs = copied(inputs)
            if not self.model.training:  # in training they are meant to move
                state = state | copied(dict(self.model.named_buffers()))
        return self._called({**state, **params}, inputs)

    def _called(self, given: Parameters, inputs: Any) -> Tensor:
        """The call itself; torch's own way with tied tensors loses a module that stands in two places."""
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (_as_args(inputs), {})
        others = {name: given[first] for name, first in self._elsewhere.items() if first in given}
        try:
            found = functional_call(self.model, given | others, args, kwargs, tie_weights=False)
        except TypeError as error:
            passed = (
                "entries of a dict are passed by name, but for the targets" if kwargs else "inputs are passed in order"
            )
            raise ValueError(
                f"model cannot take the inputs of train_data, {described(inputs)}: {error} ({passed})."
            ) from error
        return self._output(found)

    def losses(self, outputs: Tensor, targets: Any) -> Tensor:
        """One loss a sample, (b,), without weight decay."""
        return self._loss(outputs, targets)

    def sample_losses(
        self,
        params: Mapping[str, Tensor],
        ids: Sequence[int] | Tensor | None = None,
        *,
        look: Callable[[Tensor, Any, Tensor], None] | None = None,
    ) -> Tensor:
        """Losses of the samples (default: all n) at these parameters, (n,) or (len(ids),), without weight decay.

        ``look`` is called with outputs, targets and losses of every batch of this process.
        """
        n = self.n if ids is None else len(ids)
        whole, mine = next(iter(params.values())).new_zeros(n), self.team.share(n)
        found = [whole[:0]]
        with torch.no_grad():
            for batch in self.batches(self.share(ids)):
                outputs = self.outputs(params, batch.inputs)
                found.append(self.losses(outputs, batch.targets))
                if look is not None:
                    look(outputs, batch.targets, found[-1])
        whole[mine] = torch.cat(found)
        self.team.add([whole])
        return whole

    def checked_losses(self, params: Mapping[str, Tensor]) -> Tensor:
        """Losses of all samples; refused where one is not finite, or a batch's loss is not the mean of its samples'.

        Few ignored targets, or a rare class with a weight of its own, are not seen on a few samples.
        """
        wrong: list[str] = []

        def check(outputs: Tensor, targets: Any, losses: Tensor) -> None:
            if not wrong:
                wrong.extend(self._no_mean(outputs, targets, losses))

        with self._explained():
            losses = self.sample_losses(params, look=check)
        infinite = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if infinite:
            raise ValueError(
                f"loss is not finite for training samples {infinite[:5]}{' and others' * (len(infinite) > 5)}; no step "
                "can be taken from there. Check their inputs and targets."
            )
        anywhere = losses.new_tensor([float(len(wrong))])
        self.team.add([anywhere])
        if anywhere > 0.0:
            raise ValueError(wrong[0] if wrong else "loss is not the mean of one loss a sample in another process.")
        return losses

    def regularizer(self, params: Mapping[str, Tensor]) -> float:
        """``weight_decay / 2 ||w||^2``."""
        return self.weight_decay / 2 * sum(float(p.square().sum()) for p in params.values())

    def _spread(self, most: int) -> Tensor:
        return spread(self.n, most)

    def check(self) -> None:
        """Refuse what no derivative can be taken of, and what is no mean of one loss a sample, with a ValueError."""
        params = self.parameters()
        with torch.no_grad(), self._explained():
            self._writes = self._writes_in_place(params)
            self.check_repeatable(params)
            self._check_apart(params)
            self._check_losses(params)
            self._check_gradient(params)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What torch says of data that the model or the loss cannot take, with the data it is about."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:
            inputs, targets = (described(tree) for tree in self.fetch(self._spread(CHECKED)))
            weights = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in self.parameters().values()}))
            raise ValueError(
                f"train_data does not fit the model or the loss, which fails on some samples: {error}\n"
                f"Inputs are {inputs}; targets are {targets}; the model's parameters are {weights}. Bring the inputs to "
                "the type of the parameters, and the targets to what the loss takes: for 'cross_entropy' classes as "
                "int64, from 0 to one less than the model's outputs; for 'mse' numbers of the shape and type of the "
                "outputs."
            ) from error

    def _writes_in_place(self, params: Parameters) -> bool:
        """Whether a call of the model changes its inputs or buffers in place; then every call gets copies."""
        inputs, state = copied((self.fetch(torch.arange(min(self.n, 8)))[0], dict(self.model.named_buffers())))
        leaves = [leaf for leaf in tree_leaves((inputs, state)) if isinstance(leaf, Tensor)]
        before = [leaf._version for leaf in leaves]
        self._called({**self.buffers(), **state, **params}, inputs)
        return before != [leaf._version for leaf in leaves]

    def check_repeatable(self, params: Mapping[str, Tensor]) -> None:
        """Refuse a model that gives a first batch two outputs, with a ValueError."""
        ids = torch.arange(min(self.n, 8))
        with torch.no_grad():
            first, second = (self.outputs(params, self.fetch(ids)[0]) for _ in range(2))
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):  # NaN is refused elsewhere
            raise ValueError(
                "model or train_data is not deterministic: the same samples gave two outputs although the model is "
                "in evaluation mode. Switch off dropout that is forced on and random augmentation of the data."
            )

    def _check_apart(self, params: Parameters) -> None:
        """Refuse samples of one batch that act on each other, in the model or in the loss."""
        ids = self._spread(min(CHECKED, max(8, self.batch_size)))
        size, half = len(ids), (len(ids) + 1) // 2
        inputs, targets = self.fetch(ids)
        outputs = self.outputs(params, inputs)
        fewer = self.outputs(params, self.fetch(ids[:half])[0])
        if (outputs.shape[:1], fewer.shape[:1]) != ((size,), (half,)):
            raise ValueError(
                f"model gives outputs of shape {tuple(outputs.shape)} for {size} samples; their first axis must be that of "
                "the samples. Pass output= to bring it there, such as output=lambda o: o.transpose(0, 1)."
            )
        if not _agree(outputs[:half], fewer, ROUGH):
            raise ValueError(
                f"model gives a sample another output when other samples are in its batch ({size} or {half}): no "
                "sample has a loss of its own then. Statistics of the batch in evaluation mode do this (batch norm "
                "with track_running_stats=False); train with running statistics, or with another norm."
            )
        alone = self.outputs(params, self.fetch(ids[:1])[0]).shape
        if alone != (1, *outputs.shape[1:]):
            raise ValueError(
                f"model gives outputs of shape {tuple(outputs.shape)} for {size} samples and {tuple(alone)} for a single one; "
                "it must keep the axis of the samples. A .squeeze() that takes away all axes of length 1 does this: name the "
                "axis, .squeeze(-1)."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of shapes that broadcast; what comes of them is refused
            self._check_loss(outputs, targets, half)

    def _check_loss(self, outputs: Tensor, targets: Any, half: int) -> None:
        losses, rounding = self.losses(outputs, targets), _rounding(outputs)
        self.classes_second |= _classes_second(outputs, targets)
        self.likelihood &= self._loss.one_value and all(map(certain, tree_leaves(targets)))
        if losses.shape == (len(outputs),):
            fewer = self.losses(outputs[:half], tree_map(lambda leaf: leaf[:half], targets))
            if not _agree(losses[:half], fewer, CLOSE, rounding):
                raise ValueError(
                    f"loss of a sample changes with the other samples in its batch; {_shapes(outputs, targets)}. Where the two should be the "
                    "same, bring them to one shape: targets[:, None], or output=lambda o: o.squeeze(-1). From losses that "
                    "compare the samples of a batch (contrastive ones) no sample can be deleted."
                )
        for wrong in self._no_mean(outputs, targets, losses):
            raise ValueError(wrong)

    def _no_mean(self, outputs: Tensor, targets: Any, losses: Tensor) -> list[str]:
        """What to say where the loss of a batch is not the mean of its samples'; else nothing."""
        whole, mean, size = self._loss.whole(outputs, targets), losses.mean(), losses.abs().mean()
        ignored = getattr(self._loss.loss, "ignore_index", None) if whole.dim() else None
        if ignored is not None and isinstance(targets, Tensor) and bool((targets == ignored).any()):
            return [
                f"loss has reduction='none' and targets hold its ignore_index {ignored}: their zeros would count in the mean "
                "over positions, and they did not in training. Pass a callable that gives one value a sample: the sum over "
                "its positions, times n, divided by all positions that count."
            ]
        close = whole.dim() or (mean - whole).abs() <= CLOSE * size + _rounding(outputs)
        if close or not torch.isfinite(whole):  # not close where the mean is not finite
            return []
        return [
            f"loss is {float(whole):.4g} for {len(losses)} samples together, but its mean over them one by one is "
            f"{float(mean):.4g}; what was trained on must be the mean of one loss a sample. Class weights, ignored or "
            f"masked positions, reduction='sum' and shapes that broadcast do this ({_shapes(outputs, targets)}), and "
            "losses that compare the samples of a batch (contrastive ones), of which no sample can be deleted. Pass a "
            "callable that gives one value a sample, scaled so that their mean is what was trained on; for class weights "
            "w: lambda o, t: cross_entropy(o, t, weight=w, reduction='none') * n / w[y].sum(), y all n targets."
        ]

    def _check_losses(self, params: Parameters) -> None:
        ids = torch.arange(min(self.n, 8))
        inputs, targets = self.fetch(ids)
        losses = self.losses(self.outputs(params, inputs), targets)
        if losses.shape != (len(ids),):
            raise ValueError(
                f"loss gave shape {tuple(losses.shape)} for {len(ids)} samples; it must give one value a sample, or the "
                "mean over samples."
            )
        if not torch.isfinite(losses).all():
            raise ValueError("loss is not finite on the first samples; check the model's parameters and the targets.")

    @torch.enable_grad()
    def _check_gradient(self, params: Parameters) -> None:
        """Refuse losses that no parameter changes: nothing could be forgotten, and nothing would say so."""
        inputs, targets = self.fetch(self._spread(CHECKED))
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        found: Sequence[Tensor] = ()
        with torch.backends.cudnn.flags(
            enabled=False
        ):  # cuDNN has no derivatives of recurrent layers in evaluation mode
            losses = self.losses(self.outputs(leaves, inputs), targets)
            if losses.requires_grad:
                found = torch.autograd.grad(losses.sum(), [*leaves.values()], materialize_grads=True)
        if bool(losses.any()) and not any(bool(g.to_dense().any()) for g in found):
            raise ValueError(
                "loss does not depend on the trainable parameters of the model in evaluation mode: every gradient is "
                "zero. Adapters that are merged by .eval(), weights that are kept from one call to the next, .detach() and "
                "losses that count errors do this; unmerge the adapters, or pass the loss that was trained on."
            )


def _classes_second(outputs: Tensor, targets: Any) -> bool:
    """Whether integer targets have the shape of the outputs without the second axis, and not without the last."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or outputs.dim() < 3:
        return False
    return outputs.shape[:1] + outputs.shape[2:] == targets.shape != outputs.shape[:-1]


def pass_bytes(device: torch.device) -> int:
    """Bytes that intermediate results may take on a device unless the caller says."""
    return PASS_BYTES.get(device.type, PASS_BYTES["cpu"])


# --------------------------------------------------------------------------- the model
def _trainable(model: nn.Module) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the distinct trainable parameters, and the other names of tied ones."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter {name!r} of a lazy module has no values yet; train the model first.")
        if not parameter.requires_grad:
            continue
        if parameter.dtype not in FLOATS:
            raise ValueError(
                f"parameter {name!r} is {parameter.dtype}; second derivatives need float32 or float64: call "
                "model.float() first."
            )
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    if not first:
        raise ValueError("model has no parameter with requires_grad=True: there is nothing to change.")
    return tuple(first.values()), tied


def _elsewhere(model: nn.Module, tied: Mapping[str, str]) -> dict[str, str]:
    """Of the tied names, with their first: one for each other module that holds the tensor."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def place(name: str) -> tuple[int, str]:
        owner, _, role = name.rpartition(".")
        return id(modules[owner]), role

    taken, found = {place(first) for first in tied.values()}, {}
    for name, first in tied.items():
        if place(name) not in taken:
            taken.add(place(name))
            found[name] = first
    return found


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    found = {p.device for p in model.parameters()} | {b.device for b in model.buffers()}
    if torch.device("meta") in found:
        raise ValueError("model is on the meta device: it has no values. Load its weights first.")
    if device is not None:
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without CUDA
            raise ValueError(f"device is {device!r}, which cannot be used here: {error}") from error
    if len(found) > 1:
        raise ValueError(f"model lies on several devices ({sorted(map(str, found))}); pass device= to bring it to one.")
    return found.pop()


def _tensor_of(output: Any) -> Tensor:
    """The tensor that the loss takes."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise TypeError(f"model returned {type(output).__name__}; pass output= to pick the tensor that the loss takes.")


def without_nesting(model: nn.Module) -> list[str]:
    """Switch off the nested tensors that encoders make of padded samples, but not where derivatives are taken.

    They have zeros at padded positions: pooled over all of them, the model would be another one in passes without
    derivatives than in training. Names of the encoders; modules that were saved by an older torch do not say.
    """
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False):
            module.use_nested_tensor = False
            names.append(name)
    return names


def _as_args(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


# --------------------------------------------------------------------------- the checks
def _agree(one: Tensor, other: Tensor, share: float, rounding: float = 0.0) -> bool:
    """Whether two tensors differ by no more than a share of the largest entry; what is not finite is left out."""
    if one.shape != other.shape:
        return False
    finite = torch.isfinite(one) & torch.isfinite(other)
    gap, size = ((part * finite).nan_to_num().abs().max() for part in (one - other, one))
    return bool(gap <= share * size + rounding)


def _shapes(outputs: Tensor, targets: Any) -> str:
    return f"outputs have shape {tuple(outputs.shape)}, targets {[tuple(t.shape) for t in tree_leaves(targets)]}"


def _rounding(outputs: Tensor) -> float:
    """What rounding of the outputs may change in a loss."""
    return 8.0 * torch.finfo(outputs.dtype).eps * float(outputs.nan_to_num(posinf=0.0, neginf=0.0).abs().max())
