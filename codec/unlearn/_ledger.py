"""Append-only history of deletions on disk, which survives kill -9 at any moment.

A folder holds ``ledger.jsonl``, one entry a line, and one safetensors file per entry with the rows of the
parameters that it changed, as they are afterwards. Values, not differences: reading an entry twice changes
nothing, and what is read is what was written, bit for bit. Each line carries the SHA-256 of itself, of the
line before it and of its file. The file is on disk (fsync) before its line is, so a line never lacks its
file; a crash can leave at most a file without a line, which the next entry replaces, or half a line, which
is taken off when the ledger is opened. A last line that no crash leaves is an error: nothing whole is taken off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load, save
from torch import Tensor

LINES = "ledger.jsonl"
START = "0" * 64  # what the first line calls the line before it
HEAD = b'{"index":0,"previous":"' + START.encode()  # the beginning of every ledger
FORMAT = 1


class LedgerError(RuntimeError):
    """The ledger on disk is damaged, or belongs to another model or process.

    Examples
    --------
    >>> from codec.unlearn import Ledger, LedgerError
    >>> try:
    ...     Ledger.open("no-such-folder", read_only=True)
    ... except LedgerError:
    ...     print("no ledger there")
    no ledger there
    """


@dataclass(frozen=True)
class _Line:
    """One line of the file."""

    index: int
    previous: str
    entry: dict[str, Any]
    tensors: str | None  # SHA-256 of the entry's file

    @property
    def hash(self) -> str:
        return hashlib.sha256(self._body().encode()).hexdigest()

    def _body(self) -> str:
        return json.dumps(vars(self), sort_keys=True, separators=(",", ":"))

    def text(self) -> bytes:
        return (json.dumps({**vars(self), "hash": self.hash}, separators=(",", ":")) + "\n").encode()

    @classmethod
    def read(cls, text: bytes, index: int, previous: str) -> Self:
        """Parse a line that must be number `index` behind a line with hash `previous`."""
        found = json.loads(text)
        said = found.pop("hash")
        line = cls(**found)
        if line.hash != said:
            raise ValueError("its content does not have the hash it carries")
        if (line.index, line.previous) != (index, previous):
            raise ValueError(f"it says to be entry {line.index} behind {line.previous[:8]}, not behind {previous[:8]}")
        return line


class Ledger:
    """History of a model's deletions in a folder. Make one with :meth:`open`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from codec.unlearn import Ledger
    >>> folder = tempfile.TemporaryDirectory()
    >>> before = {"weight": torch.zeros(3, 2)}
    >>> after = {"weight": torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])}
    >>> with Ledger.open(folder.name, before) as ledger:
    ...     ledger.append({"kind": "deletion", "forgotten": [17]}, after, before)
    0
    >>> with Ledger.open(folder.name, before) as ledger:
    ...     ledger.entries(), bool((ledger.replay(before)["weight"] == after["weight"]).all())
    ([{'kind': 'deletion', 'forgotten': [17]}], True)
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, descriptor: int, read_only: bool = False) -> None:
        self._folder, self._descriptor, self._read_only = folder, descriptor, read_only
        self._closing = weakref.finalize(self, os.close, descriptor)  # also where nobody closes it
        self._lines: list[_Line] = []
        self._size = 0  # bytes of whole lines
        self._process = os.getpid()  # a fork has this object and its lock, too

    # ------------------------------------------------------------------ opening
    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        parameters: Mapping[str, Tensor] | None = None,
        *,
        read_only: bool = False,
    ) -> Self:
        """Open a ledger, or begin one.

        Parameters
        ----------
        folder : path
            Made when absent.
        parameters : dict of str to Tensor, optional
            Of the model before its first deletion. A new ledger keeps their hash; an old one refuses others.
        read_only : bool, default False
            Read what is there, also while another process holds the ledger, and change nothing.

        Returns
        -------
        Ledger
            Held by this process until :meth:`close`.

        Raises
        ------
        LedgerError
            If an entry is damaged (the message says which), another process holds the ledger, or it began
            with other parameters.

        Warns
        -----
        UserWarning
            If the last line is damaged, as a crash leaves it; it is taken off.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"folder of a ledger must be a path, got {type(folder).__name__}.")
        path = Path(folder).absolute()  # the process may go elsewhere
        if read_only and not (path / LINES).exists():
            raise LedgerError(f"{path} holds no ledger that could be read.")
        if not read_only:
            path.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT | os.O_APPEND
        ledger = cls(path, os.open(path / LINES, flags, 0o644), read_only)
        try:
            if not read_only:
                ledger._lock()
            ledger._read()
            ledger._check_start(parameters)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Let other processes open the ledger."""
        self._closing()
        self._descriptor = -1

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse copies: two ledgers would write into one file."""
        raise TypeError(
            f"an open ledger ({self._folder}) cannot be copied; save() the unlearner into a folder of its own and resume "
            "that, or begin the copy without ledger=."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LedgerError(
                f"another process, or another Ledger of this one, has {self._folder} open; close it first."
            ) from error

    def _read(self) -> None:
        content = (self._folder / LINES).read_bytes()
        texts = content.splitlines(keepends=True)
        for place, text in enumerate(texts):
            previous = self._lines[-1].hash if self._lines else START
            try:
                if not text.endswith(b"\n"):
                    raise ValueError("it ends in the middle")
                self._lines.append(_Line.read(text, place, previous))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if place < len(texts) - 1 or not _is_torn(text, place):
                    raise LedgerError(
                        f"line {place} of {self._folder / LINES} is damaged, or no line of a ledger of this version "
                        f"({error}); nothing from it on can be trusted. Restore the folder from a copy."
                    ) from error
                self._take_off(text, place)
                return
            self._size += len(text)

    def _take_off(self, text: bytes, place: int) -> None:
        """Remove the last line, which was being written when the process ended."""
        if self._read_only:  # it may still be written
            return
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)
        warnings.warn(
            f"the last line of {self._folder / LINES} (line {place}, {len(text)} bytes) was not written to its end "
            "and was taken off; its request has not happened. Repeat it.",
            UserWarning,
            stacklevel=5,
        )

    def _check_start(self, parameters: Mapping[str, Tensor] | None) -> None:
        said = None if parameters is None else fingerprint(parameters)
        if not self._lines:
            if self._read_only:
                raise LedgerError(f"{self._folder} holds no ledger that could be read.")
            self._write({"format": FORMAT, "parameters": said}, None)
            _sync_folder(self._folder)
        start = self._lines[0].entry
        if start.get("format") != FORMAT:
            raise LedgerError(
                f"{self._folder} has format {start.get('format')!r}; this version of codec reads format {FORMAT}."
            )
        if said and start["parameters"] and said != start["parameters"]:
            raise LedgerError(
                f"{self._folder} began with other parameters than these; open it with the model as it was before "
                "its first deletion."
            )

    # ------------------------------------------------------------------ writing
    def append(
        self,
        entry: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        before: Mapping[str, Tensor] | None = None,
    ) -> int:
        """Write an entry to disk; when this returns, it is there for good.

        Parameters
        ----------
        entry : dict
            What JSON can hold. ``{"undoes": index}`` marks an earlier entry as rolled back.
        tensors : dict of str to Tensor, optional
            Parameters as they are after the entry; those left out are unchanged.
        before : dict of str to Tensor, optional
            The same as they were before: only rows (along dimension 0) that differ are stored.

        Returns
        -------
        int
            The entry's index, from 0.

        Raises
        ------
        ValueError
            If JSON cannot hold the entry, or it undoes what is not standing. Nothing is written.
        LedgerError
            If the ledger is closed, was opened to be read, or its file is no longer where it was.
        """
        if self._descriptor < 0:
            raise LedgerError("this ledger is closed; open it again with Ledger.open(folder).")
        if self._read_only:
            raise LedgerError("this ledger was opened to be read; open it again without read_only.")
        self._check_process()
        self._check_place()
        text = _as_json(entry)
        if "undoes" in text and text["undoes"] not in [index for index, _ in self.standing()]:
            raise ValueError(f"entry['undoes'] is {text['undoes']!r}, which is no standing entry of this ledger.")
        digest = None
        if tensors:
            content = save(_changed(tensors, before))
            digest = hashlib.sha256(content).hexdigest()
            _write_file(self._file(len(self._lines)), content)
        self._write(text, digest)
        return len(self._lines) - 2

    def _write(self, entry: dict[str, Any], digest: str | None) -> None:
        previous = self._lines[-1].hash if self._lines else START
        line = _Line(len(self._lines), previous, entry, digest)
        text = line.text()
        with self.whole():  # a full disk: the line must not stay in part
            os.ftruncate(self._descriptor, self._size)  # what could not be taken off before
            _write_all(self._descriptor, text)
            os.fsync(self._descriptor)
            self._lines.append(line)
            self._size += len(text)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Where the block fails, or is interrupted, its entries are taken off again."""
        self._check_process()
        n_lines, size = len(self._lines), self._size
        try:
            yield
        except BaseException:
            del self._lines[n_lines:]
            self._size = size
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise

    def _check_process(self) -> None:
        """A fork knows nothing of what is written after it, and would cut it off."""
        if os.getpid() != self._process:
            raise LedgerError(
                f"{self._folder} is held by process {self._process}, of which this one is a fork; requests belong to the "
                "process that opened the ledger. Open it in the process that is to write, after forking."
            )

    def _check_place(self) -> None:
        """What goes into a file that was removed is lost."""
        try:
            there = os.path.samestat(os.fstat(self._descriptor), (self._folder / LINES).stat())
        except OSError:
            there = False
        if not there:
            raise LedgerError(
                f"{self._folder / LINES} was moved, removed or replaced while it was open; put it back, or close this "
                "ledger and open the folder where it is now."
            )

    def _file(self, place: int) -> Path:
        return self._folder / f"{place:08d}.safetensors"

    # ------------------------------------------------------------------ reading
    def entries(self) -> list[dict[str, Any]]:
        """Every entry, as it was given."""
        return [json.loads(json.dumps(line.entry)) for line in self._lines[1:]]

    def standing(self) -> list[tuple[int, dict[str, Any]]]:
        """Index, from 0, and content of the entries that undo nothing and were not undone, in order."""
        entries = self.entries()
        undone = {entry["undoes"] for entry in entries if "undoes" in entry}
        return [(k, entry) for k, entry in enumerate(entries) if k not in undone and "undoes" not in entry]

    def replay(self, parameters: Mapping[str, Tensor], n_entries: int | None = None) -> dict[str, Tensor]:
        """Parameters after the first `n_entries` entries (default: all), from those before the first.

        Parameters
        ----------
        parameters : dict of str to Tensor
            Not changed.
        n_entries : int, optional
            To go back: the state after so many entries.

        Returns
        -------
        dict of str to Tensor
            New tensors on the same devices.

        Raises
        ------
        LedgerError
            If a file is missing or damaged, or does not fit the parameters.
        """
        self._check_start(parameters)
        state = {name: tensor.detach().clone() for name, tensor in parameters.items()}
        last = len(self._lines) if n_entries is None else 1 + n_entries
        for line in self._lines[1:last]:
            if line.tensors is not None:
                _put(state, self._tensors(line), line.index - 1)
        return state

    def _tensors(self, line: _Line) -> dict[str, Tensor]:
        path = self._file(line.index)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LedgerError(f"the file {path} of entry {line.index - 1} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != line.tensors:
            raise LedgerError(f"the file {path} of entry {line.index - 1} is damaged: restore it from a copy.")
        return load(content)


# --------------------------------------------------------------------------- tensors
def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and bits, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        tensor = parameters[name].detach()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(_bits(tensor).numpy().tobytes())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    """Bytes of a tensor, one row per index of dimension 0."""
    plain = (tensor.to_dense() if tensor.layout != torch.strided else tensor).detach().cpu().contiguous()
    n_rows = plain.shape[0] if plain.ndim else 1
    return plain.reshape(-1).view(torch.uint8).reshape(n_rows, plain.nbytes // max(n_rows, 1))


def _changed(after: Mapping[str, Tensor], before: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """What is stored: ``values:name``, and ``rows:name`` where not all rows are."""
    stored: dict[str, Tensor] = {}
    for name, tensor in after.items():
        new = tensor.detach().cpu().contiguous()
        old = None if before is None else before.get(name)
        if old is not None and new.ndim and old.shape == new.shape and old.dtype == new.dtype:
            rows = (_bits(new) != _bits(old)).any(dim=1).nonzero().flatten()
            if len(rows) == 0:
                continue
            if len(rows) < len(new):
                stored[f"rows:{name}"] = rows
                new = new[rows]
        stored[f"values:{name}"] = new.clone()
    return stored


def _put(state: dict[str, Tensor], stored: Mapping[str, Tensor], index: int) -> None:
    for key, values in stored.items():
        kind, _, name = key.partition(":")
        if kind != "values":
            continue
        rows = stored.get(f"rows:{name}")
        target = state.get(name)
        fits = target is not None and target.dtype == values.dtype and target.shape[1:] == values.shape[1:]
        if target is None or not fits or (rows is None and target.shape != values.shape):
            raise LedgerError(
                f"entry {index} changes {name!r}, which these parameters do not have with that shape and type; "
                "replay with the parameters the ledger began with."
            )
        if rows is None:
            target.copy_(values)
        else:
            target[rows.to(target.device)] = values.to(target.device)


# --------------------------------------------------------------------------- files
def _is_torn(text: bytes, place: int) -> bool:
    """Whether a crash can have left this last line: the beginning of one, or what the disk put in its place."""
    if place == 0 and text.strip(b"\0") and not HEAD.startswith(text[: len(HEAD)]):
        return False  # somebody else's file
    try:
        json.loads(text)
    except ValueError:
        return True
    return not text.endswith(b"\n")


def _as_json(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry as it will be read again."""
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(entry)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"entry cannot be written as JSON ({error}); use numbers, text, lists and dicts.") from error
    return found


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _write_file(path: Path, content: bytes) -> None:
    """All of it under its name, or nothing: write beside it, fsync, rename, fsync the folder."""
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)  # noqa: PTH105 - beside os.fsync, which has no twin in pathlib
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last; Windows has no such call."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
