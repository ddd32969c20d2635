"""Requests, what stands of them, and the weights; with a ledger every change is on disk before it is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from codec.unlearn._certificate import Accountant, Release
from codec.unlearn._deletion import Deletion
from codec.unlearn._distributed import Team
from codec.unlearn._ledger import LINES, Ledger, fingerprint
from codec.unlearn._problem import Parameters

P = ParamSpec("P")
R = TypeVar("R")


def one_at_a_time(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The method of an object with a ``_lock``, which other threads wait for."""

    @wraps(method)
    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return run


class History:
    """State of an unlearner.

    Parameters
    ----------
    start : dict of str to Tensor
        Trainable parameters before the first request.
    entropy : int
        Seed of every random choice.
    anchored : bool
        Whether steps start at an anchor. Without one, all that stands counts as done before the next step.
    settings : callable
        Gives a dict of what must be the same when the history is resumed; JSON must hold it. Asked for a ledger alone.
    team : Team, optional
        Processes that have the same history; the first of them keeps it on disk. Default: this one alone.

    Attributes
    ----------
    weights : dict of str to Tensor
        The parameters as they are now.
    anchor : dict of str to Tensor
        The parameters where steps start.
    deletions : list of Deletion
        Every request done; number k stands at place k - 1.
    standing : list of int
        Numbers of the requests that were accepted and not taken back.
    pending : list of tuple of int
        Requests that wait.
    accountant : Accountant
        Releases so far; taking a request back does not take them back.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        entropy: int,
        *,
        anchored: bool,
        settings: Callable[[], Mapping[str, Any]],
        team: Team | None = None,
    ) -> None:
        self._team = Team() if team is None else team
        self.start = clone(start)
        self.weights = clone(start)
        self.anchor = self.weights
        self.entropy = entropy
        self.deletions: list[Deletion] = []
        self.standing: list[int] = []
        self.pending: list[tuple[int, ...]] = []
        self.accountant = Accountant()
        self._settings = settings
        self._anchored = anchored
        self._settled = 0  # standing requests that were done before the anchor
        self._before: tuple[int, Parameters] | None = None  # both as they were, while a new anchor is not on disk
        self._previous: tuple[int, Parameters] | None = None  # the last request, and the weights before it
        self._ledger: Ledger | None = None

    # ------------------------------------------------------------------------ disk
    def begin(self, folder: str | Path) -> None:
        """Keep everything in a new folder from now on."""
        with self._team.together():
            if self._team.rank == 0:
                self._ledger = self._new_ledger(folder, f"continue it with Unlearner.resume({str(folder)!r}, ...)")

    def resume(self, folder: str | Path, *, keep: bool = True) -> None:
        """Become the history that a folder holds, and go on there; or only read it."""
        if not (Path(folder) / LINES).exists():
            raise ValueError(_no_unlearner(folder))
        ledger = Ledger.open(folder, self.start, read_only=not keep)
        try:
            self._read(ledger, folder)
        except BaseException:
            ledger.close()
            raise
        if keep:
            self._ledger = ledger

    def save(self, folder: str | Path) -> None:
        """Write everything into a new folder; its last entry has the weights, and without it nothing is resumed."""
        with self._team.together():
            if self._team.rank == 0:
                self._save(folder)

    def _save(self, folder: str | Path) -> None:
        with self._new_ledger(folder, "pass another folder", saved=True) as ledger:
            for deletion in self.deletions:
                ledger.append({"kind": "deletion", "waited": False, "deletion": deletion.to_dict()})
            for number in [d.id for d in self.deletions if d.accepted and d.id not in self.standing]:
                ledger.append({"kind": "rollback", "request": number})
            for request in self.pending:
                ledger.append({"kind": "submitted", "ids": list(request)})
            for release in self.accountant.releases:
                ledger.append({"kind": "release", "release": vars(release)})
            ledger.append({"kind": "anchor", "requests": self._settled}, self.anchor, self.start)
            state = self.anchor
            if self._previous is not None:
                number, state = self._previous
                ledger.append({"kind": "previous", "request": number}, state, self.anchor)
            ledger.append({"kind": "weights"}, self.weights, state)

    def close(self) -> None:
        """Let other processes open the folder."""
        if self._ledger is not None:
            self._ledger.close()

    def _new_ledger(self, folder: str | Path, advice: str, *, saved: bool = False) -> Ledger:
        ledger = Ledger.open(folder, self.start)
        try:
            if ledger.entries():
                raise ValueError(f"ledger {str(folder)!r} holds requests already; {advice}.")
            ledger.append({"kind": "start", "entropy": str(self.entropy), "settings": self._settings(), "saved": saved})
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _read(self, ledger: Ledger, folder: str | Path) -> None:
        entries = ledger.entries()
        if not entries or entries[0].get("kind") != "start":
            raise ValueError(_no_unlearner(folder))
        if entries[0].get("saved") and all(entry["kind"] != "weights" for entry in entries):
            raise ValueError(
                f"folder {str(folder)!r} holds the beginning of a save that was interrupted; delete it and save again."
            )
        self._check_settings(entries[0]["settings"], folder)
        self.entropy = int(entries[0]["entropy"])
        last: tuple[int, int] | None = None  # a request, and how many entries have the weights before it
        for place, entry in enumerate(entries):
            self._replay(entry, partial(ledger.replay, self.start, place if "anchored" in entry else place + 1))
            last = _last_request(entry, place, last)
        self.weights = ledger.replay(self.start)
        self._previous = None if last is None else (last[0], ledger.replay(self.start, last[1]))

    def _check_settings(self, said: Mapping[str, Any], folder: str | Path) -> None:
        settings = self._settings()
        wrong = [
            f"{key}={value!r}, not {settings.get(key)!r}" for key, value in said.items() if settings.get(key) != value
        ]
        if wrong:
            told = ""
            if "data" in said and settings.get("data") != said["data"]:
                told = " Data are known by 64 samples: another order gives others, and so does a Dataset that draws by chance."
            raise ValueError(
                f"folder {str(folder)!r} was begun with {', '.join(wrong)}; pass what it was begun with.{told}"
            )

    def _replay(self, entry: Mapping[str, Any], weights: Callable[[], Parameters]) -> None:
        kind = entry["kind"]
        if kind == "submitted":
            self.pending.append(tuple(entry["ids"]))
        elif kind == "withdrawn":
            self.pending.pop(entry["place"])
        elif kind == "rollback":
            self.standing.remove(entry["request"])
        elif kind == "anchor":
            self._settled, self.anchor = entry["requests"], weights()
        elif kind == "release":
            self.accountant = Accountant([*self.accountant.releases, Release(**entry["release"])])
        elif kind == "deletion":
            if "anchored" in entry:
                self._settled, self.anchor = entry["anchored"], weights()
            self._take(Deletion.from_dict(entry["deletion"]), entry["waited"])
        elif kind not in {"start", "previous", "weights"}:
            raise ValueError(f"this version of codec knows no entry of kind {kind!r}; use the one that wrote it.")

    # ------------------------------------------------------------------------ changes
    def check_same(self, ids: tuple[int, ...]) -> None:
        """Refuse a request that is another one in another process, or finds another history there."""
        if self._team.size > 1:
            facts = {"ids": str(ids), "the requests before": str((len(self.deletions), self.standing, self.pending))}
            facts["the weights"] = fingerprint(self.weights)
            self._team.check_same(facts, "every process must run the same requests")

    def submit(self, ids: tuple[int, ...]) -> None:
        """A request that waits."""
        with self._whole():
            self._write({"kind": "submitted", "ids": list(ids)})
            self.pending.append(ids)

    def withdraw(self, place: int) -> None:
        """A request that waits no longer."""
        with self._whole():
            self._write({"kind": "withdrawn", "place": place})
            self.pending.pop(place)

    def enter(self, deletion: Deletion, weights: Parameters, waited: bool) -> None:
        """A request that was done, and the parameters after it; one that was refused leaves the anchor where it was."""
        entry = {"kind": "deletion", "waited": waited, "deletion": deletion.to_dict()}
        with self._whole():
            if self._before is not None and not deletion.accepted:
                self._keep_anchor()
            elif self._before is not None:  # in the one entry: on disk is both or neither
                entry["anchored"] = self._settled
            self._write(entry, weights if deletion.accepted else None)
            self._before = None
            self._take(deletion, waited)
            if deletion.accepted:
                self._previous, self.weights = (deletion.id, self.weights), weights

    def take_back(self, number: int, weights: Parameters) -> None:
        """A request that stands no longer, and the parameters without it."""
        with self._whole():
            self._write({"kind": "rollback", "request": number}, weights)
            self.standing.remove(number)
            self._previous, self.weights = None, weights

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """A change on disk and here, or neither, be it interrupted between the two."""
        lists = {name: list(getattr(self, name)) for name in ("deletions", "standing", "pending")}
        before = vars(self) | lists
        try:
            with nullcontext() if self._ledger is None else self._ledger.whole(), self._team.together():
                yield
        except BaseException:
            vars(self).update(before)
            raise

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request; where it fails the anchor is what it was."""
        try:
            yield
        except BaseException:
            self._keep_anchor()
            raise

    def _keep_anchor(self) -> None:
        if self._before is not None:
            (self._settled, self.anchor), self._before = self._before, None

    def renew_anchor(self) -> None:
        """Steps start at the present parameters from now on; on disk with the request that asks for it."""
        self._before = self._settled, self.anchor
        self._settled, self.anchor = len(self.standing), self.weights

    @property
    def news(self) -> str:
        """What the request in hand must tell beside its own reason."""
        told = "; anchored anew before it, the budget was spent: earlier requests cannot be taken back"
        return told if self._before is not None else ""

    def release(self, epsilon: float, delta: float, sensitivity: float) -> Release:
        """Enter a release before the copy is handed out."""
        after = Accountant(self.accountant.releases)
        found = after.add(epsilon, delta, sensitivity)
        with self._whole():
            self._write({"kind": "release", "release": vars(found)})
            self.accountant = after
            return found

    def _take(self, deletion: Deletion, waited: bool) -> None:
        if waited:
            self.pending.pop(0)
        self.deletions.append(deletion)
        if deletion.accepted:
            self.standing.append(deletion.id)

    def _write(self, entry: Mapping[str, Any], weights: Parameters | None = None) -> None:
        if self._ledger is not None:
            self._ledger.append(entry, weights, self.weights)

    # ------------------------------------------------------------------------ reading
    @property
    def point(self) -> Parameters:
        """Where the next step starts."""
        return self.anchor if self._anchored else self.weights

    @property
    def before_anchor(self) -> tuple[Deletion, ...]:
        """Standing requests that the starting point has done already."""
        return self.of(self.standing[: self._settled] if self._anchored else self.standing)

    @property
    def since_anchor(self) -> tuple[Deletion, ...]:
        """Standing requests that a step from the starting point must do again."""
        return self.of(self.standing[self._settled :] if self._anchored else ())

    @property
    def forgotten(self) -> tuple[int, ...]:
        """Samples of the standing requests, in order."""
        return tuple(ids_of(self.of(self.standing)))

    def before(self, number: int) -> Parameters | None:
        """Weights before a request, which are kept of the last one alone."""
        return self._previous[1] if self._previous is not None and self._previous[0] == number else None

    def of(self, numbers: list[int] | tuple[int, ...]) -> tuple[Deletion, ...]:
        """Requests by number."""
        return tuple(self.deletions[k - 1] for k in numbers)


def _no_unlearner(folder: str | Path) -> str:
    return f"folder {str(folder)!r} holds no unlearner; begin one with ledger={str(folder)!r}."


def digest(words: Iterable[str]) -> str:
    """A few characters that stand for a list of words."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _last_request(entry: Mapping[str, Any], place: int, known: tuple[int, int] | None) -> tuple[int, int] | None:
    """The last request that changed the weights, and how many entries go before; what ``entry`` makes of it."""
    kind = entry["kind"]
    if kind == "deletion":
        return (entry["deletion"]["id"], place) if entry["deletion"]["accepted"] else known
    if kind == "previous":
        return entry["request"], place + 1
    return None if kind in {"rollback", "anchor"} else known


def clone(params: Mapping[str, Tensor]) -> Parameters:
    """Copies without a graph."""
    return {name: value.detach().clone() for name, value in params.items()}


def with_noise(params: Mapping[str, Tensor], sigma: float, draw: np.random.Generator) -> Parameters:
    """Copies with independent normal noise on every coordinate.

    From numpy's generator, which has all bits of its seed: torch's on the CPU has 32 of them, few enough to try all.
    The sum is rounded once, at its end: what is rounded before it is no longer normal.
    """
    noise = {name: torch.from_numpy(np.asarray(draw.standard_normal(tuple(w.shape)))) for name, w in params.items()}
    return {name: (w.detach().cpu().double() + sigma * noise[name]).to(w) for name, w in params.items()}


def ids_of(deletions: tuple[Deletion, ...]) -> list[int]:
    """Samples of requests, in order."""
    return [i for deletion in deletions for i in deletion.forgotten]
