"""Shadow models: many models that saw the forgotten samples and unlearned them, and as many that never saw them.

Every model has a seed of its own and is done by itself, in any process and in any order; with a cache it is on disk
when it is done. A run that is killed goes on where it stopped and ends with the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path
from torch.utils.data import Subset

from codec._forward import show_progress
from codec._validation import as_generator, check_integer, check_jobs
from codec.unlearn._data import content_of, spread
from codec.unlearn._distributed import uncompiled
from codec.unlearn._loss import Loss, loss_function
from codec.unlearn._problem import CHECKED, outside_modes
from codec.unlearn._training import seeded
from codec.unlearn.evaluate._metrics import Array, accuracy, logit_confidence
from codec.unlearn.evaluate._outputs import ORIGINAL, RETRAINED, Known, Parts, Train, as_model, copy_of, known, where
from codec.unlearn.evaluate._split import in_memory, n_samples, split
from codec.unlearn.evaluate._study import LEAST_MODELS, Bank, ShadowModels

Unlearn = Callable[[nn.Module, int], Any]
FORMAT = 3
CHUNKS = 8  # a worker gets its share in so many pieces; with each piece the data travel once


@dataclass(frozen=True)
class _Work:
    """What every job needs."""

    train: Train
    unlearn: Mapping[str, Unlearn]
    everyone: Any
    parts: Mapping[str, Any]
    loss: Loss
    options: Mapping[str, Any]
    entropy: int
    folder: Path | None
    dtype: torch.dtype


class _Job(NamedTuple):
    """One training: with the forgotten samples (then everything is unlearned from it), or without."""

    kind: str
    number: int
    wanted: tuple[str, ...]  # rows that are not there yet


@outside_modes
def shadow_models(
    train: Train,
    unlearn: Mapping[str, Unlearn],
    data: Any,
    forget: Any,
    *,
    test: Any,
    loss: Loss = "cross_entropy",
    n_models: int = 64,
    cache: str | Path | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    verbose: bool = False,
    output: Callable[[Any], Tensor] | None = None,
    target_key: str = "labels",
    device: torch.device | str | None = None,
    batch_size: int = 1024,
) -> ShadowModels:
    """Train models with and without the forgotten samples, unlearn, and keep what all say of the samples.

    ``n_models`` models are trained on all data, each is unlearned by every method, and ``n_models`` are trained on
    the retained samples alone; the seed is all that differs within a group. What attacks make of them is in the
    result.

    Parameters
    ----------
    train : callable(data, seed) -> model
        Trains a classifier on all or on the retained samples.
    unlearn : dict of str to callable(model, seed) -> model, Unlearner or Deletion
        Methods that forget the samples; each gets a copy of every model trained on all data.
    data : Dataset, (inputs, targets), or dict of tensors
        All training samples.
    forget : int, sequence or set of int, boolean mask of shape (n_samples,), Tensor or Subset
        Samples to forget, numbered from 0 as in ``data``.
    test : Dataset, (inputs, targets), or dict of tensors
        Samples that no model has seen.
    loss : {'cross_entropy', 'mse'} or callable, default 'cross_entropy'
        As in :class:`~codec.unlearn.Problem`.
    n_models : int, default 64
        Models of each group, at least 8.
    cache : path, optional
        Folder where the outputs of every model are kept as they come. A second call takes what is there, also with
        more models or another method. Other data, samples to forget or seeds are refused (of a Dataset 64 samples
        are looked at); whether ``train``, ``output`` or a method has changed it cannot know, so take a new folder then.
    n_jobs : int, optional
        Processes, as joblib has it; each with one thread, whatever joblib's back end is set to. The result is the same
        for every number.
    random_state : int, default 0
        Seed of all seeds.
    verbose : bool, default False
        Show progress.
    output, target_key, device, batch_size
        As in :class:`~codec.unlearn.Problem`.

    Returns
    -------
    ShadowModels
        ``.to_frame()``: LiRA, U-LiRA, the competition's score, KLoM and audited epsilon of every method.

    Raises
    ------
    ValueError, IndexError, TypeError
        No method, fewer than 8 models, a name that is taken, targets that are no class labels, samples to forget that
        are unknown, repeated, none or all, a model that has diverged or cannot be copied, or a cache of other data,
        seeds, samples or default type of numbers, or that cannot be read.

    Warns
    -----
    UserWarning
        Models of different seeds are the same.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn.evaluate import shadow_models
    >>> _ = torch.manual_seed(0)
    >>> X, y = torch.randn(30, 2), torch.arange(30) % 2
    >>> def train(data, seed):
    ...     model = torch.nn.Linear(2, 2)
    ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    ...         optimizer.step()
    ...     return model
    >>> nothing = lambda model, seed: model
    >>> shadows = shadow_models(
    ...     train, {"nothing": nothing}, (X[:20], y[:20]), [0, 1], test=(X[20:], y[20:]), n_models=8
    ... )
    >>> list(shadows.to_frame().index)
    ['original', 'nothing', 'retrained']
    """
    check_integer(n_models, "n_models", LEAST_MODELS)
    check_integer(random_state, "random_state", 0)
    check_jobs(n_jobs)
    _check_methods(unlearn)
    parts = {**_split(data, forget), "test": test}
    forgotten, _ = _check_early(train, parts, loss, batch_size, target_key)
    options = {"output": output, "target_key": target_key, "device": device, "batch_size": batch_size}
    folder = None if cache is None else _open(Path(cache), parts, random_state, target_key)
    work = _Work(train, dict(unlearn), data, parts, loss, options, random_state, folder, torch.get_default_dtype())
    names = (ORIGINAL, *unlearn)
    found = {(name, k): _read(folder, name, k) for name in (*names, RETRAINED) for k in range(n_models)}
    jobs = [
        _Job(kind, k, missing)
        for k in range(n_models)
        for kind, rows in ((ORIGINAL, names), (RETRAINED, (RETRAINED,)))
        if (missing := tuple(name for name in rows if found[name, k] is None))
    ]
    found |= _run_all(work, jobs, n_jobs, verbose)
    rows = {name: [row for k in range(n_models) if (row := found[name, k])] for name in (*names, RETRAINED)}
    banks = {name: _bank(group) for name, group in rows.items()}
    for name in (ORIGINAL, RETRAINED):
        _warn_of_equal(name, banks[name])
    return ShadowModels(banks, forgotten, _n_classes(rows))


def _split(data: Any, forget: Any) -> dict[str, Any]:
    try:
        return split(data, forget)
    except (ValueError, IndexError, TypeError) as error:  # what is called ids there is called forget here
        raise type(error)(str(error).replace("ids", "forget", 1)) from error


def _check_early(train: Any, parts: Mapping[str, Any], loss: Loss, batch_size: int, target_key: str) -> list[Known]:
    """Refuse what can be known to be wrong before anything is trained or kept; what tells forget and test."""
    if not callable(train):
        raise TypeError(f"train is of type {type(train).__name__}; it must be callable(data, seed).")
    loss_function(loss)
    check_integer(batch_size, "batch_size", 1)
    told = []
    for name in ("forget", "test"):
        try:
            found = known(parts[name], target_key)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {str(error).replace('train_data', 'the data')}") from error
        if found is None:
            raise ValueError(f"{name}: shadow models need one class label, a whole number, a sample.")
        told.append(found)
    return told


# --------------------------------------------------------------------------- the work
def _run_all(
    work: _Work, jobs: Sequence[_Job], n_jobs: int | None, verbose: bool
) -> dict[tuple[str, int], dict[str, Array] | None]:
    """All jobs, in pieces; those already on disk are not among them."""
    found: dict[tuple[str, int], dict[str, Array] | None] = {}
    size = math.ceil(len(jobs) / (CHUNKS * effective_n_jobs(1 if n_jobs is None else n_jobs))) or 1
    pieces = [jobs[i : i + size] for i in range(0, len(jobs), size)]
    # torch's random states and its number of threads belong to a process: threads would share them
    run = Parallel(n_jobs=n_jobs, backend="loky", return_as="generator_unordered")
    with show_progress("shadow models", verbose, "trainings") as advance:
        for piece in run(delayed(_run_piece)(work, piece) for piece in pieces):
            found |= piece
            advance(1.0 / len(pieces))
    return found


def _run_piece(work: _Work, jobs: Sequence[_Job]) -> dict[tuple[str, int], dict[str, Array]]:
    found = {}
    with _settings_of(work):
        for job in jobs:
            for name, row in _run(work, job):
                if work.folder is not None:
                    _write(work.folder, name, job.number, row)
                found[name, job.number] = row
    return found


def _run(work: _Work, job: _Job) -> Iterator[tuple[str, dict[str, Array]]]:
    """One training and what follows from it."""
    seed = _seed(work.entropy, job.kind, job.number)
    samples = work.everyone if job.kind == ORIGINAL else work.parts["retain"]
    with seeded(seed):
        model = work.train(samples, seed)
    if not isinstance(model, nn.Module):
        raise TypeError(f"train returned {type(model).__name__}; it must return the trained torch module.")
    model = uncompiled(model)
    parts = Parts(model, work.loss, work.parts, title="train's result", **work.options)
    for name in job.wanted:
        changed = model if name == job.kind else _unlearned(work, name, model, job.number)
        yield name, _outputs(parts, changed, f"{name}, model {job.number}")


def _unlearned(work: _Work, name: str, model: nn.Module, number: int) -> nn.Module:
    seed = _seed(work.entropy, name, number)
    with seeded(seed):
        return as_model(work.unlearn[name](copy_of(model, "train's result"), seed), f"unlearn[{name!r}]", model)


def _outputs(parts: Parts, model: nn.Module, title: str) -> dict[str, Array]:
    """What is kept of one model."""
    row = {}
    for part, outputs in parts.run(model).items():
        if outputs.logits is None or outputs.labels is None:
            raise ValueError(f"{part}: shadow models need one class label and one row of logits a sample.")
        if len(outputs.broken):
            raise ValueError(
                f"{title}: its outputs on {part} are not finite {where(outputs)}: the model has diverged, or the inputs hold "
                "NaN or infinity."
            )
        row[f"{part}_accuracy"] = np.array([accuracy(outputs.logits, outputs.labels)])
        if part != "retain":
            row[f"{part}_confidence"] = logit_confidence(outputs.logits, outputs.labels)
        row["n_classes"] = np.array([float(outputs.logits.shape[1])])
    return row


def _seed(entropy: int, name: str, number: int) -> int:
    """A seed of its own for every method and model, whatever others are there."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return int(as_generator(np.random.SeedSequence(entropy, spawn_key=(key, number))).integers(2**31))


@contextmanager
def _settings_of(work: _Work) -> Iterator[None]:
    """One thread and the caller's type of numbers: the same bits in every process."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(work.dtype)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _bank(rows: Sequence[dict[str, Array]]) -> Bank:
    confidences = (np.stack([row[f"{part}_confidence"] for row in rows]) for part in ("forget", "test"))
    accuracies = (np.concatenate([row[f"{part}_accuracy"] for row in rows]) for part in ("retain", "forget", "test"))
    return Bank(*confidences, *accuracies)


def _warn_of_equal(name: str, bank: Bank) -> None:
    distinct = len(np.unique(bank.forget, axis=0))
    if distinct < len(bank.forget):
        warnings.warn(
            f"train gives {name!r} models that are the same, {distinct} different ones of {len(bank.forget)}: it draws nothing "
            "by chance, or ignores its seed. Attacks and epsilon take them for independent and mean nothing then.",
            UserWarning,
            stacklevel=3,
        )


def _n_classes(rows: Mapping[str, Sequence[dict[str, Array]]]) -> int | None:
    """Of all models; None where they differ."""
    found = {int(row["n_classes"][0]) for group in rows.values() for row in group}
    return found.pop() if len(found) == 1 else None


# --------------------------------------------------------------------------- the cache
def _open(folder: Path, parts: Mapping[str, Any], random_state: int, target_key: str) -> Path:
    """The folder, made or recognised by what it says of its data."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cache {str(folder)!r} is a file; pass a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(torch.get_default_dtype())
    data = {name: _fingerprint(part) for name, part in parts.items()}
    settings = {"format": FORMAT, "random_state": random_state, "target_key": target_key, "dtype": dtype, **data}
    path = folder / "settings.json"
    if path.exists():
        if _settings(path) != settings:
            raise ValueError(
                f"cache {str(folder)!r} holds shadow models of other data, targets, samples, seeds or torch.get_default_dtype(); "
                "pass another folder."
            )
    elif any(folder.glob(f"*-{'?' * 8}-{'?' * 5}.safetensors")):
        raise ValueError(
            f"cache {str(folder)!r} holds outputs of models but no settings.json, which says of what data; pass another "
            "folder."
        )
    else:
        _replace(path, json.dumps(settings, indent=1).encode())
    return folder


def _settings(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cache: {str(path)!r} cannot be read ({error}); pass another folder.") from error


def _fingerprint(data: Any) -> str:
    """Of every value of data in memory; of a Dataset, of its length, a Subset's indices, and samples spread over it."""
    digest = hashlib.sha256(str(n_samples(data)).encode())
    leaves = data if in_memory(data) else [data[int(i)] for i in spread(len(data), CHECKED)]
    indices = [torch.as_tensor(data.indices)] if isinstance(data, Subset) else []
    for path, leaf in tree_flatten_with_path([indices, leaves])[0]:
        digest.update(keystr(path).encode() + content_of(leaf))
    return digest.hexdigest()


def _path(folder: Path, name: str, number: int) -> Path:
    safe = "".join(c if c.isalnum() else "_" for c in name)
    return folder / f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}-{number:05d}.safetensors"


def _read(folder: Path | None, name: str, number: int) -> dict[str, Array] | None:
    if folder is None or not (path := _path(folder, name, number)).exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            names, kept = sorted(file.keys()), (file.metadata() or {}).get("digest")
            row = {name: file.get_tensor(name) for name in names}
        if kept != _digest(row):
            raise ValueError("its content is not what was written")
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"cache: {str(path)!r} is damaged ({error}); delete it, and its model is trained again."
        ) from error
    return row


def _write(folder: Path, name: str, number: int, row: dict[str, Array]) -> None:
    _replace(_path(folder, name, number), save(row, {"digest": _digest(row)}))


def _digest(row: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for key in sorted(row):
        digest.update(f"{key} {row[key].dtype} {row[key].shape}".encode() + row[key].tobytes())
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """A file is there as a whole, or not at all."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _check_methods(unlearn: Mapping[str, Unlearn]) -> None:
    if not isinstance(unlearn, Mapping):
        raise TypeError(f"unlearn is a {type(unlearn).__name__}; it must be a dict by name of callable(model, seed).")
    if not unlearn:
        raise ValueError("unlearn is empty: pass at least one method, a dict by name of callable(model, seed).")
    taken = {ORIGINAL, RETRAINED} & set(unlearn)
    if taken:
        raise ValueError(f"unlearn holds {sorted(taken)[0]!r}, the name of a row that is always there.")
    for name, method in unlearn.items():
        if not isinstance(name, str):
            raise TypeError(f"unlearn has {name!r} as a name; names must be text.")
        if not callable(method):
            raise TypeError(f"unlearn[{name!r}] is of type {type(method).__name__}; it must be callable(model, seed).")
