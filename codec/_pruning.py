"""Which candidates can still be the best: sums over some rows, and a bound for the rows not looked at.

A row adds at most its weight to the sum of a candidate: w(i, j) <= weight of i. So a candidate's sum over
the rows looked at and the weights of all others bound what it can reach. Once the sum of a likely winner
is known, every candidate whose bound lies below it is left alone. Rows that are likely to lose much come
first: few of them are then enough. A sum that has to be exceeded, T of the features selected so far, serves as
well: mostly it ends a selection early. All in integers; what is left out is never the best, nor equal to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from codec._validation import BoolArray, FloatArray, IntArray

FIRST = 24  # one row in so many is looked at for every candidate
FEWEST = 64  # rows of the first layer
MARGIN = 1.03  # more loss than the winner's that a layer is meant to reach
LAYERS = 4  # most layers: what survives those is looked at in all rows
NORMAL_TAIL = 1.28  # standard deviations below the mean of a normal variable hold TAIL
LEAST_SAVED = 0.05  # of the work: layers of rows cost about that much
TAIL = 0.1  # share of the candidates that a layer need not rule out


@dataclass(frozen=True)
class Rows:
    """The rows in the order in which they are looked at.

    Attributes
    ----------
    order : ndarray of shape (n,), int
        Rows, the largest expected loss first.
    share : ndarray of shape (n + 1,)
        Part of the expected loss that the first 0, 1, ... rows hold.
    weight : ndarray of shape (n + 1,), int64
        Sum of the weights of the first 0, 1, ... rows.
    """

    order: IntArray
    share: FloatArray
    weight: IntArray

    @property
    def n(self) -> int:
        return self.order.size

    def holding(self, share: float) -> int:
        """The fewest rows that hold this part of the expected loss."""
        return int(np.searchsorted(self.share, share)) if share < 1.0 else self.n


def order_rows(expected: FloatArray, weight: IntArray) -> Rows:
    """Rows by their expected loss, in 2^16 steps, which numpy sorts by radix; equal ones stay in their order."""
    steps = np.rint(expected * (65535.0 / max(float(expected.max()), 1e-300)))
    order = np.argsort((65535.0 - steps).astype(np.uint16), kind="stable")
    share = np.concatenate([[0.0], np.cumsum(expected[order])])
    return Rows(order, share / max(share[-1], 1e-300), np.concatenate([[0], np.cumsum(weight[order])]))


@dataclass(frozen=True)
class Work:
    """How sums are found and what that costs.

    Attributes
    ----------
    some : callable
        Sums of candidates over some rows: whole and part, a sum is ``whole + part / one``.
    alone : callable
        The sum of one candidate over all rows, times ``one``.
    cost_some : callable
        Cost of a row for a number of candidates together; ``cost_alone``: of a row and one candidate.
    """

    some: Callable[[IntArray, IntArray], tuple[IntArray, IntArray]]
    alone: Callable[[int], int]
    cost_some: Callable[[int], float]
    cost_alone: float


@dataclass
class Race:
    """Candidates on their way through the rows.

    Attributes
    ----------
    one : int
        Unit of sums: they are kept times ``one``.
    best : int
        The largest sum that is known, or that is asked to be exceeded.
    live : ndarray, int
        Candidates that can still be the best; ``whole``, ``part``: their sums over the rows seen.
    reached : dict of int to int
        Sums of candidates that are finished; of those that are ruled out, what they cannot exceed.
    """

    rows: Rows
    work: Work
    one: int
    best: int
    live: IntArray
    seen: int = 0
    reached: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.whole = np.zeros(self.live.size, np.int64)
        self.part = np.zeros(self.live.size, np.int64)

    def run(self) -> dict[int, int]:
        """Sums of the best candidates, bounds of the others."""
        self._look(min(self.rows.n, max(FEWEST, self.rows.n // FIRST)))
        if self.live.size > 1:
            leader, known = self._leader_loss(), self._known_loss()
            if self._pays(min(leader, known), leads=leader < known):
                if leader < known:
                    self._finish(int(self.live[np.argmax(self.whole)]))
                self._look_in_layers()
        if self.live.size:
            self._look(self.rows.n)
        return self.reached

    def _look_in_layers(self) -> None:
        """Rule out candidates, look at more rows for the others, until few are left or layers stop helping."""
        for _ in range(LAYERS):
            self._rule_out()
            until = self._next()
            if self.live.size == 0 or self._are_few(until):
                break
            self._look(until)
        while self.live.size and self._are_few(self._next()):
            self._finish(int(self.live[0]))
            self._rule_out()

    def _look(self, until: int) -> None:
        """Add the sums over the next rows; after the last row they are complete."""
        whole, part = self.work.some(self.live, self.rows.order[self.seen : until])
        self.whole += whole
        self.part += part
        self.seen = until
        if self.seen == self.rows.n:
            finished = zip(self.live.tolist(), self.whole.tolist(), self.part.tolist(), strict=True)
            for j, total, fraction in finished:
                self._reach(j, total * self.one + fraction)
            self._keep(np.zeros(self.live.size, bool))

    def _keep(self, stay: BoolArray) -> None:
        self.live, self.whole, self.part = self.live[stay], self.whole[stay], self.part[stay]

    def _reach(self, j: int, total: int) -> None:
        self.reached[j] = total
        self.best = max(self.best, total)

    def _finish(self, j: int) -> None:
        self._reach(j, self.work.alone(j))
        self._keep(self.live != j)

    def _bounds(self) -> IntArray:
        """What each candidate cannot exceed, rounded up to whole units."""
        unseen = int(self.rows.weight[-1] - self.rows.weight[self.seen])
        return np.asarray(self.whole + self.part // self.one + (1 + unseen))

    def _rule_out(self) -> None:
        """Drop whoever stays below the best, by more than a unit: sums closer than rounding are equal."""
        bounds = self._bounds()
        stay = bounds >= self.best // self.one - 1
        for j, most in zip(self.live[~stay].tolist(), bounds[~stay].tolist(), strict=True):
            self.reached[j] = most * self.one
        self._keep(stay)

    def _are_few(self, until: int) -> bool:
        """Whether a search each costs the candidates that are left less than the next rows do."""
        rows = (until - self.seen) / self.rows.n
        return self.live.size * self.work.cost_alone < rows * self.work.cost_some(self.live.size)

    def _losses(self) -> FloatArray:
        return np.asarray(self.rows.weight[self.seen] - self.whole, dtype=np.float64)

    def _rows_for(self, loss: float) -> int:
        """Rows after which most candidates are expected to have lost as much."""
        if self.live.size == 0:
            return self.seen
        slow = max(float(np.quantile(self._losses(), TAIL)), 1e-300)
        return self.rows.holding(MARGIN * loss * self.rows.share[self.seen] / slow)

    def _leader_loss(self) -> float:
        """What the best candidate is expected to lose in all rows, by the rows seen."""
        losses = self._losses()
        middle = float(np.median(losses))
        spread = (middle - float(np.quantile(losses, TAIL))) / NORMAL_TAIL
        # the smallest of many losses is small by chance, too
        loss = min(middle, float(losses.min()) + spread * np.sqrt(2.0 * np.log(losses.size)))
        return float(loss / max(self.rows.share[self.seen], 1e-300))

    def _known_loss(self) -> float:
        """What a candidate must not lose to reach the best sum that is known."""
        return float(self.rows.weight[-1] - self.best // self.one)

    def _pays(self, loss: float, *, leads: bool) -> bool:
        """Whether ruling out who loses as much saves more than layers cost, and the leader's sum if it is needed."""
        saved = (1.0 - TAIL) * (1.0 - self._rows_for(loss) / self.rows.n)
        whole = self.work.cost_some(self.live.size)
        return saved * whole > (1.1 * self.work.cost_alone if leads else LEAST_SAVED * whole)

    def _next(self) -> int:
        """Where the next layer ends."""
        least = self.seen + max(FEWEST // 4, self.rows.n // FIRST)
        return min(self.rows.n, max(least, self._rows_for(self._known_loss())))
