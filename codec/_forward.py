"""The loop of forward selection: which candidate comes next, when to stop, what is shown meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from codec._dependence import Term, conditional, unconditional, weigh
from codec._jit import interruptible as interruptible
from codec._neighbors import Geometry, Response, candidate_sums, neighbor_sum

BAR = "{desc} |{bar}| {percentage:3.0f}% [{elapsed}<{remaining}]"  # of a step: its share done, its time


# --------------------------------------------------------------------------- the loop
Advance = Callable[[float], None]  # told the share of the step that is done, in pieces that add up to 1


# Sums ``K * A * one`` of (base columns, candidate) for every candidate: points, response, base, candidates, K.
Find = Callable[[Geometry, Response, Sequence[int], Sequence[int], int], list[int]]


class Show(Protocol):
    def __call__(self, what: str) -> AbstractContextManager[Advance]: ...


@dataclass(frozen=True)
class Score:
    """T of a feature set, with what exact comparison needs."""

    sums: tuple[int, ...]
    value: float
    rounding: int  # sums that differ by no more than this are equal: each row's fraction is rounded once

    def exceeds(self, other: Score | None) -> bool:
        """Strictly larger: by the integers for one response, by T for several."""
        if other is None:
            return self.value > 0.0
        if len(self.sums) > 1:
            return self.value > other.value
        return self.sums[0] > other.sums[0] + self.rounding


@dataclass(frozen=True)
class Problem:
    """Everything a step needs: the columns once per response, in that response's order."""

    terms: Sequence[Term]
    points: Sequence[Geometry]
    n_features: int
    k: int
    random: bool
    seed: int
    n_jobs: int | None
    find: Find | None = None  # who finds the candidates' neighbours instead of this machine's processors

    def _base(self, term: Term, selected: Sequence[int]) -> list[int]:
        return [*selected, *(self.n_features + i for i in term.given)]

    def score(self, selected: Sequence[int]) -> Score:
        """T of the response on the selected columns."""
        sums = []
        for term, points in zip(self.terms, self.points, strict=True):
            base = self._base(term, selected)
            chosen = Geometry(points.columns[base], points.scale[base], points.nominal[base])
            sums.append(neighbor_sum(chosen, term.response, self.k, random=self.random, seed=self.seed))
        return self._score(sums)

    def best(
        self, selected: Sequence[int], candidates: Sequence[int], floor: Score | None, advance: Advance
    ) -> tuple[int, Score]:
        """The candidate with the largest T beside the selected ones (ties: the first), and its score.

        Where none exceeds ``floor``, what is returned does not either, and may be any candidate.
        """
        pairs = zip(self.terms, self.points, strict=True)
        found = [self._sums(term, points, selected, candidates, floor, advance) for term, points in pairs]
        if len(found) == 1:  # by the integers; sums that differ by their rounding are equal
            least = max(found[0]) - self.terms[0].response.n
            place = next(i for i, total in enumerate(found[0]) if total >= least)
        else:
            place = int(np.argmax([self._score(sums).value for sums in zip(*found, strict=True)]))
        return candidates[place], self._score([sums[place] for sums in found])

    def _sums(
        self,
        term: Term,
        points: Geometry,
        selected: Sequence[int],
        candidates: Sequence[int],
        floor: Score | None,
        advance: Advance,
    ) -> list[int]:
        """Sums of every candidate for one term."""
        base = self._base(term, selected)
        if self.find is not None:
            return self.find(points, term.response, base, candidates, self.k)
        return candidate_sums(
            points,
            term.response,
            base,
            candidates,
            self.k,
            random=self.random,
            seed=self.seed,
            n_jobs=self.n_jobs,
            advance=lambda share: advance(share / len(self.terms)),
            best_only=len(self.terms) == 1,
            floor=floor.sums[0] + floor.rounding if floor else 0,
        )

    def _score(self, sums: Sequence[int]) -> Score:
        pairs = zip(sums, self.terms, strict=True)
        values = [unconditional(total, term.response, self.k) for total, term in pairs]
        return Score(tuple(sums), weigh(self.terms, values), self.terms[0].response.n)

    def increment(self, after: Score, before: Score | None) -> float:
        """T(y, feature | selected before)."""
        if before is None:
            return after.value
        if len(self.terms) == 1:
            return conditional(after.sums[0], before.sums[0], self.terms[0].response, self.k)
        return (after.value - before.value) / (1.0 - before.value) if before.value < 1.0 else float("nan")


@dataclass(frozen=True)
class Step:
    """A feature that entered."""

    feature: int
    score: Score
    conditional: float
    seconds: float


def forward_select(
    problem: Problem,
    include: Sequence[int],
    candidates: Sequence[int],
    names: Sequence[str],
    max_features: int,
    stop: bool,
    show: Show,
) -> tuple[list[Step], str]:
    """Add the feature with the largest T until none raises it (Azadkia & Chatterjee 2021, section 5)."""
    selected = list(include)
    candidates = list(candidates)
    current = problem.score(selected) if selected else None
    steps: list[Step] = []
    while candidates and len(steps) < max_features:
        began = time.perf_counter()
        reached = f", T = {current.value:.4f}" if current else ""
        with interruptible(), show(f"step {len(steps) + 1}: {len(selected)} selected{reached}") as advance:
            feature, score = problem.best(selected, candidates, current if stop else None, advance)
        if stop and not score.exceeds(current):
            if current is None:
                at_best = f"the best candidate, {names[feature]!r}, would give {score.value:.4f}"
                return steps, f"Stopped: no single feature has T > 0 ({at_best})."
            return steps, f"Stopped: none of the other candidates raises T above {current.value:.4f}."
        increment = problem.increment(score, current)
        steps.append(Step(feature, score, increment, time.perf_counter() - began))
        selected.append(feature)
        candidates.remove(feature)
        current = score
    if candidates:
        return steps, f"Stopped: max_features = {max_features} reached."
    return steps, "Stopped: no candidate is left."


@contextmanager
def show_progress(method: str, verbose: bool, what: str) -> Iterator[Advance]:
    """A bar for one step when tqdm is installed, a line otherwise, nothing unless asked."""
    if not verbose:
        yield _ignore
        return
    title = f"{method} {what}"
    try:
        from tqdm.auto import tqdm
    except ImportError:
        sys.stderr.write(title + "\n")
        yield _ignore
        return
    with tqdm(total=1.0, desc=title, file=sys.stderr, bar_format=BAR) as bar:

        def advance(share: float) -> None:
            bar.update(share)

        yield advance
        bar.update(1.0 - bar.n)  # shares are rounded


def _ignore(_share: float) -> None:
    """Progress that nobody asked for."""
