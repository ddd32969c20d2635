"""From models to arrays: every model runs once on every part of the data, on a copy, in evaluation mode."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from codec.unlearn._data import content_of, read_data, spread
from codec.unlearn._deletion import Deletion
from codec.unlearn._distributed import UNCOPIED, copying, plain_copy, uncompiled
from codec.unlearn._loss import Loss
from codec.unlearn._problem import CHECKED, Problem, without_nesting
from codec.unlearn._unlearner import Unlearner
from codec.unlearn.evaluate._metrics import Array, Labels, ill_rows, log_probabilities
from codec.unlearn.evaluate._split import in_memory, n_samples

ORIGINAL, RETRAINED = "original", "retrained"
Train = Callable[[Any, int], nn.Module]


@dataclass(frozen=True)
class Outputs:
    """What one model says about some samples.

    ``logits`` and ``labels`` are None where the targets are no classes. ``rounding``: of the logits, relative.
    """

    losses: Array
    logits: Array | None
    labels: Labels | None
    rounding: float = 0.0

    @property
    def n_classes(self) -> int | None:
        """Logits a sample; None where the targets are no classes."""
        return None if self.logits is None else self.logits.shape[1]

    @cached_property
    def likelihoods(self) -> Array | None:
        """The labels' log-probabilities in double precision, where the losses are minus these; losses round to 0."""
        if self.logits is None or self.labels is None or len(self.broken):
            return None
        found = np.asarray(log_probabilities(self.logits)[0][np.arange(len(self.labels)), self.labels])
        spread = np.abs(np.where(np.isfinite(self.logits), self.logits, 0.0)).max(axis=1)
        return found if bool((np.abs(found + self.losses) <= 8.0 * self.rounding * (1.0 + spread)).all()) else None

    @property
    def like_probabilities(self) -> bool:
        """Whether what is taken for logits are positive numbers that sum to 1."""
        logits = self.logits
        if logits is None:
            return False
        return bool((logits >= 0.0).all() and np.allclose(logits.sum(axis=1), 1.0, rtol=0.0, atol=1e-3))

    @property
    def probabilities(self) -> bool:
        """Whether they are probabilities that no softmax was trained on."""
        return self.like_probabilities and self.likelihoods is None

    @cached_property
    def broken(self) -> Labels:
        """Samples with a loss or logits that are not finite; a class whose logit is minus infinity is masked."""
        bad = ~np.isfinite(self.losses)
        if self.logits is not None:
            bad[ill_rows(self.logits)] = True
        return np.flatnonzero(bad)


class Parts:
    """The parts of the data, each read once; any model can be run on them."""

    def __init__(
        self, model: nn.Module, loss: Loss, data: Mapping[str, Any], *, title: str = "model", **options: Any
    ) -> None:
        self._problems = {name: _problem(name, title, model, loss, part, options) for name, part in data.items()}
        shared = next(iter(self._problems.values())).model
        for problem in self._problems.values():
            problem.model = shared  # one copy is enough

    def problem(self, part: str, model: nn.Module) -> Problem:
        """A part of the data with a copy of this model, in evaluation mode."""
        return _with(self._problems[part], self._own(model, "model"))

    def run(self, model: nn.Module, name: str = "model") -> dict[str, Outputs]:
        """The model's outputs on every part; refused where they change from one call to the next."""
        own = self._own(model, name)
        work = _with(next(iter(self._problems.values())), own)
        try:
            work.check_repeatable(work.parameters())
            found = {part: _run(_with(problem, own)) for part, problem in self._problems.items()}
        except torch.OutOfMemoryError:
            raise
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from error
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(f"{name}: {str(error).replace('train_data', 'the data')}") from error
        if all(outputs.logits is not None for outputs in found.values()):
            return found
        return {part: Outputs(outputs.losses, None, None) for part, outputs in found.items()}

    def _own(self, model: nn.Module, name: str) -> nn.Module:
        """A copy that computes what was trained, see :func:`without_nesting`."""
        device = next(iter(self._problems.values())).device
        own = copy_of(model, name).to(device).eval()
        without_nesting(own)
        return own


@dataclass(frozen=True, eq=False)
class Known:
    """By what samples are known again.

    Attributes
    ----------
    labels : ndarray of shape (n_samples,)
        Their classes, in order.
    inputs : str
        Digest of the inputs of samples spread over them, whatever the form and the types of the data.
    """

    labels: Labels
    inputs: str


def known(data: Any, target_key: str) -> Known | None:
    """By what these samples are known again; None where the targets are no whole numbers, one a sample."""
    first = next((leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor)), torch.empty(0))
    samples = read_data(data, target_key, first.device)
    targets = [samples.take(ids)[1] for ids in torch.split(torch.arange(len(samples)), CHECKED)]
    if not all(isinstance(t, Tensor) and t.dim() == 1 and not t.is_floating_point() for t in targets):
        return None
    inputs = tree_leaves(samples.take(spread(len(samples), CHECKED))[0])
    digests = sorted(hashlib.sha256(content_of(_plain(leaf))).hexdigest() for leaf in inputs)
    labels = torch.cat(targets).cpu().numpy().astype(np.int64)
    return Known(labels, hashlib.sha256("".join(digests).encode()).hexdigest()[:16])


def all_among(some: Any, others: Any, target_key: str) -> bool:
    """Whether every one of some samples is among others, inputs and targets to the bit; False unless they lie in memory."""
    if not (in_memory(some) and in_memory(others)):
        return False
    ours, theirs = _bytes(some, target_key), _bytes(others, target_key)
    if [leaf.shape[1] for leaf in ours] != [leaf.shape[1] for leaf in theirs]:
        return False
    alike = np.arange(len(theirs[0]))
    for mine, leaf in zip(reversed(ours), reversed(theirs), strict=True):  # the first sample settles it nearly always
        alike = alike[(leaf[alike] == mine[0]).all(axis=1)]
    return len(alike) > 0 and _digests(ours) <= _digests(theirs)


def _bytes(data: Any, target_key: str) -> list[NDArray[np.uint8]]:
    """Inputs and targets, a row a sample."""
    whole = read_data(data, target_key, torch.device("cpu")).take(torch.arange(n_samples(data)))
    return [leaf.contiguous().reshape(len(leaf), -1).view(torch.uint8).numpy() for leaf in tree_leaves(whole)]


def _digests(leaves: list[NDArray[np.uint8]]) -> set[bytes]:
    return {hashlib.sha256(b"".join(row.tobytes() for row in rows)).digest() for rows in zip(*leaves, strict=True)}


def _plain(leaf: Any) -> Any:
    """Numbers as they are in every type."""
    return leaf.cpu().double() if isinstance(leaf, Tensor) and not leaf.is_complex() else leaf


def copy_of(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model; a TypeError that says what in it cannot be copied."""
    with copying(model, name):
        return plain_copy(model)


def as_model(value: Any, name: str, original: nn.Module) -> nn.Module:
    """The model that a module, an unlearner or a deletion means; all of a model that is frozen as a whole is trainable.

    Raises
    ------
    TypeError
        It is none of them.
    ValueError
        A deletion that does not carry its parameters, or those of another model.
    """
    if isinstance(value, nn.Module):
        model = uncompiled(value)
        frozen = not any(p.requires_grad for p in model.parameters())  # for use: what was trained is not known
        return _trainable(copy_of(model, name)) if frozen else model
    if isinstance(value, Unlearner):
        return value.model
    if not isinstance(value, Deletion):
        raise TypeError(
            f"{name} is of type {type(value).__name__}; it must be a torch module, an Unlearner, a Deletion, "
            "or a list of them."
        )
    if value.parameters is None:
        raise ValueError(
            f"{name} is a Deletion without parameters, as Unlearner.forget gives it; pass the unlearner, or a "
            "copy of its model."
        )
    model = copy_of(original, f"models[{ORIGINAL!r}]")
    unknown = set(value.parameters) - set(model.state_dict())
    if unknown:
        raise ValueError(f"{name} holds {sorted(unknown)[:3]}, which the original model has not.")
    try:
        model.load_state_dict(dict(value.parameters), strict=False)
    except RuntimeError as error:
        raise ValueError(f"{name} is a Deletion of a model of another form than the original: {error}") from error
    return model


def _trainable(model: nn.Module) -> nn.Module:
    """The model with all parameters trainable that can be; whole numbers of quantized ones cannot."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return model


def parameter_distance(model: nn.Module, other: nn.Module) -> float:
    """Euclidean distance of the parameters, frozen ones among them, in double precision.

    ``sqrt(sum_k (w_k - v_k)^2)`` over all scalars of the parameters w and v, found by name; buffers do not count. Two
    networks trained alike from different seeds lie far apart, so this is no goal for networks.

    Parameters
    ----------
    model, other : nn.Module
        Models whose parameters have the same names and shapes.

    Returns
    -------
    float
        0 or more; NaN for models of different form.

    Raises
    ------
    TypeError
        One of them is no module.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn.evaluate import parameter_distance
    >>> zeros, ones = (torch.nn.Linear(4, 1, bias=False) for _ in range(2))
    >>> _ = torch.nn.init.zeros_(zeros.weight), torch.nn.init.ones_(ones.weight)
    >>> parameter_distance(zeros, ones)
    2.0
    """
    for name, value in (("model", model), ("other", other)):
        if not isinstance(value, nn.Module):
            raise TypeError(f"{name} is of type {type(value).__name__}; it must be a torch module.")
    first, second = ({name: p.detach() for name, p in m.named_parameters()} for m in (model, other))
    if {name: p.shape for name, p in first.items()} != {name: p.shape for name, p in second.items()}:
        return float("nan")
    squares = [float((_wide(first[name]) - _wide(second[name])).abs().square().sum()) for name in first]
    return math.sqrt(math.fsum(squares))


def where(outputs: Outputs) -> str:
    """Which samples are broken, in words."""
    rows = outputs.broken
    return f"for sample{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:5]))}{' and others' * (len(rows) > 5)} of {len(outputs.losses)}"


# --------------------------------------------------------------------------- private
def _problem(name: str, title: str, model: nn.Module, loss: Loss, part: Any, options: Mapping[str, Any]) -> Problem:
    try:
        return Problem(model, loss, part, weight_decay=0.0, **options)
    except (ValueError, *UNCOPIED) as error:
        if isinstance(error, UNCOPIED):
            copy_of(model, title)  # says so where it is the model that cannot be copied
        if not isinstance(error, (ValueError, TypeError)):
            raise
        raise type(error)(f"{name}: {str(error).replace('train_data', 'the data')}") from error


def _with(problem: Problem, model: nn.Module) -> Problem:
    """The data of a problem with another model."""
    work = copy.copy(problem)
    work.model = model
    work.names = tuple(name for name, p in model.named_parameters() if p.requires_grad)
    return work


def _run(work: Problem) -> Outputs:
    outputs: list[Tensor] = []
    losses: list[Tensor] = []
    targets: list[Any] = []
    with torch.no_grad():
        for batch in work.batches():
            found = work.outputs({}, batch.inputs)
            outputs.append(found)
            losses.append(work.losses(found, batch.targets))
            targets.append(batch.targets)
    known = _numbers(torch.cat(losses))
    if not all(map(_are_classes, outputs, targets)):
        return Outputs(known, None, None)
    logits, labels = _numbers(torch.cat(outputs)), torch.cat(targets).cpu().numpy().astype(np.int64)
    made = Outputs(known, logits, labels, torch.finfo(outputs[0].dtype).eps)
    if made.probabilities:
        raise ValueError(
            "model gives probabilities (no value is negative, every row adds up to 1), and logits are compared; pass "
            "output=torch.log, with a loss of log-probabilities such as torch.nn.NLLLoss()."
        )
    return made


def _are_classes(output: Tensor, target: Any) -> bool:
    """One class label and one row of logits a sample; counts that are no numbers of outputs are no classes."""
    return (
        isinstance(target, Tensor)
        and target.dim() == 1
        and not target.is_floating_point()
        and target.dtype != torch.bool
        and output.dim() == 2
        and output.shape[1] > 1
        and 0 <= int(target.min()) <= int(target.max()) < output.shape[1]
    )


def _wide(values: Tensor) -> Tensor:
    """In double precision, complex or not."""
    return values.cpu().to(torch.complex128 if values.is_complex() else torch.float64)


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().double().numpy())
