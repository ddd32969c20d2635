"""What the units do while a sample is perturbed: one row a perturbed copy, one column a unit."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from codec.unlearn._perturb import Custom, Perturbation, choose_perturbation, mask_of, padding_of
from codec.unlearn._problem import Parameters, Problem, pass_bytes
from codec.unlearn._unit_rules import Call
from codec.unlearn._units import Tap, UnitLayer, Units

Reduce = Literal["mean", "max", "norm"]
REDUCTIONS = ("mean", "max", "norm")
BLOCK = 256  # rows that are perturbed together: draws do not depend on the memory limit
REFERENCE = 512  # training samples that spread, marginals and vocabulary are learned from


@dataclass(frozen=True)
class Record:
    """Activations and losses of perturbed samples.

    Attributes
    ----------
    activations : Tensor of shape (N, n_units)
        One value a unit, reduced over positions; zeros of units that no module's output shows.
    losses : Tensor of shape (N,)
        Loss of each row, without weight decay.
    sample : Tensor of shape (N,), int64
        Which of the given samples each row perturbs.
    perturbation : str
        What was chosen: its name, and whether it was automatic.
    reduce : str
        How positions were reduced.
    labels : tuple of str
        Names of the units.
    """

    activations: Tensor
    losses: Tensor
    sample: Tensor
    perturbation: str
    reduce: str
    labels: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a perturbed sample: ``sample``, ``loss`` and one column a unit."""
        frame = pd.DataFrame(self.activations.cpu().numpy(), columns=list(self.labels))
        frame.insert(0, "loss", self.losses.cpu().numpy())
        frame.insert(0, "sample", self.sample.cpu().numpy())
        return frame

    def __repr__(self) -> str:
        n, p = self.activations.shape
        return (
            f"Record: {n} rows of {int(self.sample.max()) + 1} samples, {p} units, {self.perturbation}, {self.reduce}"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"


def record(
    problem: Problem,
    units: Units,
    inputs: Any,
    targets: Any,
    *,
    perturb: str | Custom = "auto",
    n_perturbations: int = 300,
    strength: float | None = None,
    reduce: Reduce = "mean",
    params: Parameters | None = None,
    reference: Sequence[int] | Tensor | None = None,
    memory_limit: int | None = None,
    generator: np.random.Generator | None = None,
) -> Record:
    """Run perturbed copies of samples through the model and keep what every unit gives.

    Parameters
    ----------
    problem : Problem
        The model, its data and its loss.
    units : Units
        Whose activations.
    inputs, targets
        m samples, batch first.
    perturb : str or callable(inputs, n, generator), default 'auto'
        See :func:`codec.unlearn._perturb.choose_perturbation`.
    n_perturbations : int, default 300
        Rows in all, spread evenly over the samples; of more samples than rows, that many are drawn.
    strength : float, optional
        Of the perturbation.
    reduce : {'mean', 'max', 'norm'}, default 'mean'
        One value of a unit's positions (pixels, tokens); padding is left out.
    params : dict of str to Tensor, optional
        Where the model stands. Default: its own parameters.
    reference : sequence of int, optional
        Training samples (those that stay) that spread, marginals and vocabulary are learned from.
        Default: all; of many, an even share.
    memory_limit : int, optional
        Bytes of intermediate results in a pass. Default: 2**28, on CUDA 2**33.
    generator : Generator, optional
        Where the draws come from.

    Returns
    -------
    Record

    Raises
    ------
    ValueError
        An unknown perturbation or reduction, no sample, a loss that is not finite.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {REDUCTIONS}, got {reduce!r}.")
    if n_perturbations < 1:
        raise ValueError(f"n_perturbations is {n_perturbations}; it must be at least 1.")
    if memory_limit is not None and memory_limit < 1:
        raise ValueError(f"memory_limit is {memory_limit}; it must be a positive number of bytes.")
    m = _batch_size(inputs)
    draws = np.random.default_rng() if generator is None else generator
    torch_draws = torch.Generator(problem.device).manual_seed(int(draws.integers(2**63 - 1)))
    perturbation = choose_perturbation(perturb, problem, _reference(problem, reference), strength)
    rows = _rows(m, n_perturbations, draws)
    at = params or problem.parameters()
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), _undisturbed(problem):
        size, alone = _probe(problem, units, at, inputs, memory_limit or pass_bytes(problem.device))
        run = partial(_forward, problem, units, at, reduce, alone)
        for block in torch.split(rows, BLOCK):
            x, y = _take(inputs, block), _take(targets, block)
            parts += _run_block(run, problem.model, perturbation, x, y, size, torch_draws)
    activations, losses = (torch.cat(piece) for piece in zip(*parts, strict=True))
    if not (bool(torch.isfinite(losses).all()) and bool(torch.isfinite(activations).all())):
        raise ValueError(
            "the loss or an activation of a perturbed sample is not finite; pass a smaller strength of the perturbation."
        )
    chosen = f"{perturbation.name} (chosen automatically)" if perturb == "auto" else perturbation.name
    return Record(activations, losses, rows, chosen, reduce, units.all_labels)


# --------------------------------------------------------------------------- rows
def _batch_size(inputs: Any) -> int:
    sizes: set[int] = {len(leaf) for leaf in tree_leaves(inputs)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"inputs hold entries of {sorted(sizes)} samples; pass at least one sample, batch first.")
    return sizes.pop()


def _rows(m: int, n: int, draws: np.random.Generator) -> Tensor:
    """Which sample each row perturbs: all in turn, or n of them."""
    if m > n:
        return torch.from_numpy(np.sort(draws.choice(m, n, replace=False)))
    return torch.arange(n) % m


def _take(tree: Any, rows: Tensor) -> Any:
    return tree_map(lambda leaf: leaf[rows.to(leaf.device)], tree)


def _reference(problem: Problem, reference: Sequence[int] | Tensor | None) -> Any:
    """Inputs of some training samples, evenly spread over those that may be used."""
    ids = torch.arange(problem.n) if reference is None else torch.as_tensor(reference, dtype=torch.long)
    if len(ids) == 0:
        raise ValueError("reference is empty: there is no training sample to learn the perturbation from.")
    place = torch.linspace(0, len(ids) - 1, min(REFERENCE, len(ids))).round().long()
    return problem.fetch(ids[place])[0]


def _run_block(
    run: Callable[[Any, Any], tuple[Tensor, Tensor]],
    model: nn.Module,
    perturbation: Perturbation,
    inputs: Any,
    targets: Any,
    size: int,
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """Perturb the rows of a block together, run them in chunks."""
    changed = perturbation.rows(inputs, generator)
    n = _batch_size(inputs)
    seeds = torch.randint(2**62, (n,), generator=generator, device=generator.device)
    parts = []
    for some in torch.split(torch.arange(n), size):
        x, y = _take(changed, some), _take(targets, some)
        with perturbation.around(model, x, seeds[some]):
            parts.append(run(x, y))
    return parts


# --------------------------------------------------------------------------- passes
@contextmanager
def _undisturbed(problem: Problem) -> Iterator[None]:
    """Evaluation mode within; modes, buffers and torch's random state as before on every way out."""
    modes = [(module, module.training) for module in problem.model.modules()]
    buffers = {name: buffer.clone() for name, buffer in problem.model.named_buffers()}
    devices = [problem.device] if problem.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            problem.model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for name, buffer in problem.model.named_buffers():
                if not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


def _probe(
    problem: Problem, units: Units, params: Parameters, inputs: Any, memory_limit: int
) -> tuple[int, dict[str, list[Call]]]:
    """Run one row: how many rows a pass takes, and every layer's calls, without values."""
    alone: dict[str, list[Call]] = {layer.name: [] for layer in units.layers}
    with _hooks(problem.model, units.layers, 1, lambda name, _, call: alone[name].append(_without_values(call))):
        return _chunk(problem, params, inputs, memory_limit), alone


def _without_values(call: Call) -> Call:
    args, kwargs, output = tree_map(
        lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf,
        (call.args, call.kwargs, call.output),
        is_leaf=lambda leaf: isinstance(leaf, PackedSequence),  # whose lengths torch wants on the CPU
    )
    return call._replace(args=args, kwargs=kwargs, output=output)


def _forward(
    problem: Problem,
    units: Units,
    params: Parameters,
    reduce: Reduce,
    alone: Mapping[str, Sequence[Call]],
    inputs: Any,
    targets: Any,
) -> tuple[Tensor, Tensor]:
    """One pass: (b, n_units) activations and (b,) losses."""
    mask, batch = mask_of(inputs, padding_of(problem.model)), _batch_size(inputs)
    kept: dict[str, list[Tensor]] = {layer.name: [] for layer in units.layers}

    def keep(name: str, tap: Tap, call: Call) -> None:
        turn = len(kept[name])
        same = alone[name][turn] if turn < len(alone[name]) else None
        kept[name].append(_reduced(tap.read(*call._replace(alone=same)), mask, reduce))

    with _hooks(problem.model, units.layers, batch, keep):
        outputs = problem.outputs(params, inputs)
    losses = problem.losses(outputs, targets)
    columns = [_combined(kept[layer.name], reduce, losses.new_zeros(batch, layer.n_units)) for layer in units.layers]
    return torch.cat(columns, dim=1), losses


@contextmanager
def _hooks(
    model: nn.Module, layers: Sequence[UnitLayer], batch: int, keep: Callable[[str, Tap, Call], None]
) -> Iterator[None]:
    """Every call that shows a layer's activations, while the model runs on so many samples."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def listen(name: str, tap: Tap, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        keep(name, tap, Call(module, args, kwargs, output, batch))

    with ExitStack() as stack:
        for layer in layers:
            if layer.tap is not None:
                watch = partial(listen, layer.name, layer.tap)
                handle = modules[layer.tap.module].register_forward_hook(watch, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _reduced(values: Tensor, mask: Tensor | None, reduce: Reduce) -> Tensor:
    """(batch, positions, units) -> (batch, units); padded positions are left out."""
    keep = mask.bool()[..., None] if mask is not None and mask.shape == values.shape[:2] else None
    if reduce == "max":
        return values.amax(1) if keep is None else values.masked_fill(~keep, -torch.inf).amax(1)
    kept = values if keep is None else values.masked_fill(~keep, 0.0)
    if reduce == "norm":
        lengths: Tensor = torch.linalg.vector_norm(kept, dim=1)
        return lengths
    return kept.mean(1) if keep is None else kept.sum(1) / keep.sum(1).clamp(min=1)


def _combined(found: list[Tensor], reduce: Reduce, silent: Tensor) -> Tensor:
    """One value a unit of a module that ran several times; zeros where nothing is read."""
    if not found:
        return silent
    stacked = torch.stack(found).to(silent.dtype)
    if reduce == "max":
        return stacked.amax(0)
    if reduce == "norm":
        return stacked.square().sum(0).sqrt()
    return stacked.mean(0)


def _chunk(problem: Problem, params: Parameters, inputs: Any, memory_limit: int) -> int:
    """Rows of a pass: the most that is alive at once for one row, against the limit.

    While a module runs, its inputs and those of the modules around it are alive, and as much again is allowed
    for what it does in between.
    """
    around: list[int] = [0]
    most = [1]

    def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
        around.append(around[-1] + _n_bytes((args, kwargs)))

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        most.append(around.pop() + _n_bytes(output))

    row = _take(inputs, torch.arange(1))
    with ExitStack() as stack:
        for module in problem.model.modules():
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        problem.outputs(params, row)
    return int(max(1, min(BLOCK, memory_limit // (2 * max(most)))))


def _n_bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
