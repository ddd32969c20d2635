"""Neighbours of a sample: the same input many times, each a little different.

A perturbation works on a block of rows, every row a copy of one sample. What it may know of the data
(spread, means, marginals, vocabulary) is learned once from a few hundred training samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from codec.unlearn._problem import Problem

TOKENS = "input_ids"  # what Hugging Face calls the tokens
MASK = "attention_mask"
SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk", "decoder_start")  # *_token_id of a configuration
NAMES = ("auto", "gaussian", "occlusion", "tokens", "embedding", "resample")
CALLED = 64  # samples that show which positions an embedding reads
SHARES = {"gaussian": 0.1, "occlusion": 0.25, "tokens": 0.15, "embedding": 0.1, "resample": 0.3}
CHANGES = {
    "gaussian": "floats",
    "occlusion": "floats of shape (samples, channels, *space)",
    "resample": "every input but the mask",
}
INSTEAD = {
    "gaussian": "bring them to floats, or pass perturb='resample' or a callable",
    "occlusion": "bring images to floats of this shape, or pass perturb='resample' or a callable",
    "resample": "pass a callable",
}

Custom = Callable[[Any, int, torch.Generator], Any]


@dataclass(frozen=True)
class Perturbation:
    """What happens to rows that are copies of samples; every draw comes from the generator.

    Attributes
    ----------
    name : str
        In words.
    rows : callable
        ``rows(inputs, generator)``: each row changed on its own.
    inside : callable, optional
        ``inside(model, inputs, seeds)``: a context in which the model changes them itself, each row from its
        own seed: passes may be of any size.
    """

    name: str
    rows: Callable[[Any, torch.Generator], Any]
    inside: Callable[[nn.Module, Any, Tensor], AbstractContextManager[None]] | None = None

    def around(self, model: nn.Module, inputs: Any, seeds: Tensor) -> AbstractContextManager[None]:
        """The context of a pass."""
        return nullcontext() if self.inside is None else self.inside(model, inputs, seeds)


# --------------------------------------------------------------------------- floats
def gaussian(reference: Any, share: float) -> Perturbation:
    """Normal noise of ``share`` times the data's standard deviation, one a channel or flat feature."""

    def noisy(leaf: Tensor, sd: Tensor, generator: torch.Generator) -> Tensor:
        return leaf + share * sd * _normal(leaf, generator)

    return _by_leaf("gaussian", reference, _spread, noisy)


def occlusion(reference: Any, share: float) -> Perturbation:
    """A square of ``share`` of each side covered with the data's mean, at a random place; (b, c, *space) alone."""

    def covered(leaf: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
        return torch.where(_window(leaf, share, generator), mean, leaf)

    return _by_leaf("occlusion", reference, lambda leaf: _mean(leaf) if leaf.dim() >= 3 else None, covered)


def resample(reference: Any, share: float) -> Perturbation:
    """Features, each with probability ``share`` and at least one, replaced by draws from their marginals."""

    def drawn(leaf: Tensor, pool: Tensor, generator: torch.Generator) -> Tensor:
        return _drawn(leaf, pool, share, generator)

    return _by_leaf("resample", reference, lambda leaf: leaf, drawn)


def _by_leaf(
    name: str,
    reference: Any,
    learn: Callable[[Tensor], Tensor | None],
    change: Callable[[Tensor, Tensor, torch.Generator], Tensor],
) -> Perturbation:
    """Every tensor of the inputs changed by what is learned of it; the mask, and what has None, stay."""
    mask, before = mask_of(reference, None), tree_flatten(reference)[0]
    known = [None if leaf is mask else learn(leaf) for leaf in before]
    if all(fact is None for fact in known):
        found = ", ".join(f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}" for leaf in before)
        raise ValueError(f"perturb={name!r} changes {CHANGES[name]}; the inputs are {found}: {INSTEAD[name]}.")

    def rows(inputs: Any, generator: torch.Generator) -> Any:
        leaves, tree = tree_flatten(inputs)
        changed = [
            leaf if fact is None else change(leaf, fact, generator) for leaf, fact in zip(leaves, known, strict=True)
        ]
        return tree_unflatten(changed, tree)

    return Perturbation(name, rows)


def _window(leaf: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """True inside the square, (b, 1, *space)."""
    inside = torch.ones((len(leaf),) + (1,) * (leaf.dim() - 1), dtype=torch.bool, device=leaf.device)
    for axis in range(2, leaf.dim()):
        size = leaf.shape[axis]
        length = max(1, round(share * size))
        start = torch.randint(size - length + 1, (len(leaf), 1), generator=generator, device=leaf.device)
        place = torch.arange(size, device=leaf.device)
        shape = (len(leaf), *(1 if d != axis else size for d in range(1, leaf.dim())))
        inside = inside & ((place >= start) & (place < start + length)).view(shape)
    return inside


def _drawn(leaf: Tensor, pool: Tensor, share: float, generator: torch.Generator) -> Tensor:
    flat, source = leaf.reshape(len(leaf), -1), pool.reshape(len(pool), -1)
    donor = torch.randint(len(source), flat.shape, generator=generator, device=leaf.device)
    chosen = _some(torch.ones_like(flat, dtype=torch.bool), share, generator)
    return torch.where(chosen, source.gather(0, donor), flat).view_as(leaf)


# --------------------------------------------------------------------------- tokens
def replace_tokens(vocabulary: Tensor, protected: Tensor, share: float) -> Perturbation:
    """Tokens, each with probability ``share`` and at least one, replaced by others of the vocabulary.

    Protected tokens and padding stay, and are never put in.
    """

    def rows(inputs: Any, generator: torch.Generator) -> Any:
        tokens, mask = tokens_of(inputs), mask_of(inputs, None)
        free = ~torch.isin(tokens, protected)
        if mask is not None:
            free &= mask.bool()
        pick = torch.randint(len(vocabulary), tokens.shape, generator=generator, device=tokens.device)
        changed = torch.where(_some(free, share, generator), vocabulary[pick], tokens)
        return tree_map(lambda leaf: changed if leaf is tokens else leaf, inputs)

    return Perturbation("tokens", rows)


def embedding_noise(share: float) -> Perturbation:
    """Normal noise of ``share`` times the table's standard deviation on what the tokens' embedding gives."""
    return Perturbation("embedding", lambda inputs, _: inputs, partial(_noisy_embeddings, share))


@contextmanager
def _noisy_embeddings(share: float, model: nn.Module, inputs: Any, seeds: Tensor) -> Iterator[None]:
    tokens, changed = tokens_of(inputs), []

    def noisy(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        axis = _axis_of_samples(args[0] if args else kwargs.get("input"), tokens)
        if axis is None:
            return None  # embeddings of positions and segments
        changed.append(module)
        sd = module.weight.detach().std()  # type: ignore[operator]
        draws = (torch.Generator(output.device).manual_seed(seed) for seed in seeds.tolist())
        noise = torch.stack(
            [_normal(row, draw) for row, draw in zip(output.transpose(0, axis), draws, strict=True)], dim=axis
        )
        return output + share * sd.to(output.dtype) * noise

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(noisy, with_kwargs=True).remove)
        yield
    if not changed:
        raise ValueError(
            f"perturb='embedding' changes what an nn.Embedding gives for the tokens, but no nn.Embedding of the model was "
            f"called on them as they are, {tuple(tokens.shape)}, or transposed; pass perturb='tokens' or a callable."
        )


def _axis_of_samples(ids: Tensor | None, tokens: Tensor) -> int | None:
    """Where the samples are in the tokens as an embedding gets them: as they are, or transposed."""
    for axis in range(min(tokens.dim(), 2)):
        turned = tokens.transpose(0, axis)
        if ids is not None and ids.shape == turned.shape and torch.equal(ids, turned):
            return axis
    return None


# --------------------------------------------------------------------------- the user's
def custom(function: Custom) -> Perturbation:
    """``function(inputs, n, generator)`` gives n rows; it gets n rows that repeat the samples."""

    def rows(inputs: Any, generator: torch.Generator) -> Any:
        before, tree = tree_flatten(inputs)
        n = len(before[0])
        changed = function(tree_map(torch.clone, inputs), n, generator)
        after, new_tree = tree_flatten(changed)
        if new_tree != tree or any(not isinstance(a, Tensor) or len(a) != n for a in after):
            raise ValueError(
                f"perturb must return inputs of the same structure with {n} rows; it is called as "
                "perturb(inputs, n, generator) with inputs that hold n rows already."
            )
        return changed

    return Perturbation("custom", rows)


# --------------------------------------------------------------------------- which one
MAKERS: dict[str, Callable[[Any, float], Perturbation]] = {
    "gaussian": gaussian,
    "occlusion": occlusion,
    "resample": resample,
}


def choose_perturbation(
    perturb: str | Custom, problem: Problem, reference: Any, share: float | None = None
) -> Perturbation:
    """The perturbation by name, by the kind of the data, or the caller's.

    Parameters
    ----------
    perturb : {'auto', 'gaussian', 'occlusion', 'tokens', 'embedding', 'resample'} or callable
        'auto': tokens for integers that an embedding reads, noise for floats with a channel axis (images,
        series), resampling for flat features, and for integers of which one embedding reads some positions alone and
        has not the rows for the others.
    reference : inputs
        Some training samples: what the data's spread, marginals and vocabulary are learned from.
    share : float, optional
        Strength. Default: .1 of the standard deviation, a quarter of each side, 15 % of the tokens, .1 of
        the embeddings' deviation, 30 % of the features.
    """
    if callable(perturb):
        return custom(perturb)
    if perturb not in NAMES:
        raise ValueError(f"perturb must be one of {NAMES} or a callable(inputs, n, generator), got {perturb!r}.")
    if share is not None and not share > 0.0:
        raise ValueError(f"the strength of a perturbation is {share}; it must be above 0.")
    name = _automatic(problem, reference) if perturb == "auto" else perturb
    if name in MAKERS:
        return MAKERS[name](reference, share or SHARES[name])
    tokens = tokens_of(reference)  # refuses inputs without
    if name == "embedding":
        return embedding_noise(share or SHARES[name])
    protected = _protected(problem.model, tokens)
    return replace_tokens(_vocabulary(reference, protected), protected, share or SHARES[name])


def _automatic(problem: Problem, reference: Any) -> str:
    """Which perturbation the data asks for, by dtype and shape."""
    leaves = _but_mask(reference)
    reads_tokens = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in problem.model.modules())
    if reads_tokens and any(map(_holds_integers, leaves)):
        return "resample" if _reads_categories(problem, reference) else "tokens"
    if any(leaf.is_floating_point() and leaf.dim() >= 3 for leaf in leaves):
        return "gaussian"
    return "resample"


def _reads_categories(problem: Problem, reference: Any) -> bool:
    """Whether a table reads some positions of the tokens and is too small for what stands at others."""
    tables = [m for m in problem.model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    largest = int(tokens_of(reference).max())
    small = [table for table in tables if table.num_embeddings <= largest]
    few = tree_map(lambda leaf: leaf[:CALLED], reference)
    columns = tokens_of(few).reshape(len(tokens_of(few)), -1).T.tolist()
    calls: list[Tensor] = []
    with ExitStack() as stack, torch.no_grad():
        for table in small:
            stack.callback(table.register_forward_pre_hook(lambda _, args: calls.extend(args[:1])).remove)
        if small:
            problem.outputs(problem.parameters(), few)
    read = [ids.reshape(len(ids), -1).T.tolist() for ids in calls if ids.dim() and len(ids) == len(columns[0])]
    return any(len(found) < len(columns) and all(column in columns for column in found) for found in read)


def tokens_of(inputs: Any) -> Tensor:
    """The integer tensor that holds the tokens."""
    if isinstance(inputs, Mapping) and TOKENS in inputs:
        tokens: Tensor = inputs[TOKENS]
        return tokens
    found = [leaf for leaf in _but_mask(inputs) if _holds_integers(leaf)]
    if not found:
        raise ValueError("this perturbation needs tokens, but no input is an integer tensor; pass perturb='gaussian'.")
    return max(found, key=Tensor.dim)  # the first of them; lengths of sequences have one axis, the tokens two


def mask_of(inputs: Any, padding: int | None) -> Tensor | None:
    """1 where a position holds a token, 0 where it is padding; None when nothing tells.

    A mask of other axes, such as one of pairs of positions, does not tell.
    """
    mask = _given_mask(inputs)
    tokens = tokens_of(inputs) if any(map(_holds_integers, _but_mask(inputs))) else None
    if mask is not None and (tokens is None or mask.shape == tokens.shape):
        return mask
    return None if padding is None or tokens is None else tokens != padding


def _given_mask(inputs: Any) -> Tensor | None:
    return inputs.get(MASK) if isinstance(inputs, Mapping) else None


def _but_mask(inputs: Any) -> list[Tensor]:
    """The tensors of the inputs without the mask."""
    mask = _given_mask(inputs)
    return [leaf for leaf in tree_flatten(inputs)[0] if leaf is not mask]


def _holds_integers(leaf: Tensor) -> bool:
    return not (leaf.is_floating_point() or leaf.is_complex() or leaf.dtype == torch.bool)


def padding_of(model: nn.Module) -> int | None:
    """The token that fills up: of an embedding of the model, else of its configuration."""
    tables = (m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    found = [m.padding_idx for m in tables if m.padding_idx is not None]
    return found[0] if found else getattr(getattr(model, "config", None), "pad_token_id", None)


def _protected(model: nn.Module, tokens: Tensor) -> Tensor:
    """Special tokens of the model's configuration, and padding."""
    config = getattr(model, "config", None)
    ids = [padding_of(model), *(getattr(config, f"{name}_token_id", None) for name in SPECIAL)]
    found = sorted({i for i in ids if isinstance(i, int)})
    return torch.tensor(found, dtype=tokens.dtype, device=tokens.device)


def _vocabulary(reference: Any, protected: Tensor) -> Tensor:
    """Tokens that occur, without protected ones and padding."""
    tokens, mask = tokens_of(reference), mask_of(reference, None)
    seen: Tensor = torch.unique(tokens if mask is None else tokens[mask.bool()])
    seen = seen[~torch.isin(seen, protected)]
    if len(seen) < 2:
        raise ValueError("the training samples hold fewer than two tokens that may be replaced; pass a callable.")
    return seen


# --------------------------------------------------------------------------- draws and moments
def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _some(free: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Of the free places of each row every one with probability ``share``, at least one."""
    draw = torch.rand(free.shape, generator=generator, device=free.device).masked_fill(~free, 2.0)
    smallest: Tensor = draw.amin(tuple(range(1, free.dim())), keepdim=True) if free.dim() > 1 else draw
    return free & ((draw < share) | (draw == smallest))


def _axes(leaf: Tensor) -> list[int]:
    """Everything but the channel (axis 1): of flat features that is the feature."""
    return [d for d in range(leaf.dim()) if d != 1]


def _spread(leaf: Tensor) -> Tensor | None:
    """Standard deviations; what does not vary in the data gets no noise."""
    return leaf.std(_axes(leaf), keepdim=True, correction=0) if leaf.is_floating_point() else None


def _mean(leaf: Tensor) -> Tensor | None:
    return leaf.mean(_axes(leaf), keepdim=True) if leaf.is_floating_point() else None
