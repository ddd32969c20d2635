"""Where a column jumps as X grows: what no smoother follows, found by what a step beside it would explain.

With S the smoother (a linear one) of a column v, a further term s without a penalty lowers the penalized sum of squares
by ``(s' (I - S) v)^2 / (s' (I - S) s)``. For the steps along a column of X, and for steps times another column, both are
cumulative sums: every gap between two values is tried at the cost of one. What S follows, bends too, gains nothing.
A step where a weighted sum of columns passes a value is found along one direction after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from scipy.special import gammaln

from codec._inference_kernels import squared_sums_above
from codec._validation import FloatArray, IntArray

EXCESS = 0.2  # standard errors that a step must have beyond the largest of as many independent ones: 1 in 20 by chance
HARM = 0.25  # standard errors by which a step shared by two columns, if left, would move their covariance
LARGE_ROWS = 20_000  # beyond, more in proportion: landmarks are few for so many rows, and their errors no jumps
LEAST_ROWS = 0.5  # rows that a step must be worth after what X explains of it
LEAST_SHARE = 0.05  # functions of X that S keeps less of are left out when steps are compared
LEAST_LEFT = 0.1  # of a row beside what its fit follows of it
MOST = 10  # steps of a column that are found at a time
MOST_FACTORS = 6  # columns of X up to which steps times another are tried; of more, steps times a step are
MOST_GAPS = 400  # of a column that are tried at first; those around the best are tried afterwards
START_SHARE = 0.2  # of what a slanted step must gain, before its direction is turned ...
START_TOLD = 0.1  # ... and of what it must gain by the noise of the rows that tell it
FIRST_ANGLE, LAST_ANGLE = 0.2, 0.5  # by so much at first; at last by this over the root of n


def find_jumps(
    points: FloatArray, residual: FloatArray, functions: FloatArray, shrinkage: FloatArray
) -> list[FloatArray]:
    """Steps that explain more of a column than chance would, one after the other given those before.

    Parameters
    ----------
    points : ndarray of shape (n, d)
        X, standardized. Columns of two values have no steps.
    residual : ndarray of shape (n,)
        ``(I - S) v``.
    functions : ndarray of shape (n, r)
        U of the smoother ``S v = mean(v) + U diag(g) U' v``, orthonormal.
    shrinkage : ndarray of shape (r,)
        g.

    Returns
    -------
    list of ndarray of shape (n,)
        0/1 columns, and columns of X above a step and 0 below; empty where nothing jumps.
    """
    scan = Scan(points, residual, functions, shrinkage)
    if not scan.terms:
        return []
    least, variance = bar(residual, shrinkage, np.log(scan.n_steps))
    found: list[FloatArray] = []
    for _ in range(2 * MOST):
        jump = scan.best(0.5 * least * variance)
        if jump is None or jump.gain <= least * variance or len(scan.taken) == MOST:
            break
        if scan.tells(jump, least):
            scan.take(jump)
            found += [jump.above] if scan.terms[jump.term][1] < 0 else [jump.above, jump.column]
        else:
            scan.refuse(jump)
    return found


def find_slanted_jump(
    points: FloatArray, residual: FloatArray, functions: FloatArray, shrinkage: FloatArray, starts: FloatArray
) -> FloatArray | None:
    """A step where a weighted sum of the columns of X passes a value, if it explains more of a column than chance would.

    From each start the direction is turned, by smaller and smaller angles, as long as its best step gains more. Planes
    divide n points in many ways, and the step must exceed what is found by chance among so many.

    Parameters
    ----------
    points, residual, functions, shrinkage
        As of :func:`find_jumps`.
    starts : ndarray of shape (k, d)
        Directions to start from.

    Returns
    -------
    ndarray of shape (n,), or None
        0 on one side, 1 on the other; None, too, where there are no more rows than planes can divide in any way.
    """
    n, d = points.shape
    if d >= n - 1:  # planes divide so few points in every way
        return None
    splits = float(gammaln(n + 1) - gammaln(d + 1) - gammaln(n - d + 1))  # log of the ways to divide the points
    least, variance = bar(residual, shrinkage, splits)
    best = max(
        (_turn(points, start, residual, functions, shrinkage, least, variance) for start in starts), key=Scan.most
    )
    jump = best.best(least * variance) if best.terms else None
    return jump.above if jump is not None and best.tells(jump, least) else None


def _turn(
    points: FloatArray,
    start: FloatArray,
    residual: FloatArray,
    functions: FloatArray,
    shrinkage: FloatArray,
    least: float,
    variance: float,
) -> Scan:
    """The steps along the direction with the largest gain near a start; along the start itself if it gains too little."""
    root = weighted(functions, shrinkage)

    def along(direction: FloatArray) -> Scan:
        return Scan((points @ direction)[:, None], residual, functions, shrinkage, root)

    n, d = points.shape
    best = along(start)
    first = best.best(START_SHARE * least * variance) if best.terms else None
    angle = FIRST_ANGLE if first is not None and best.tells(first, START_TOLD * least) else 0.0
    while angle > LAST_ANGLE / np.sqrt(n):
        across = np.linalg.qr(np.column_stack([start, np.eye(d)]))[0][:, 1:d].T
        before = best
        for turn in np.concatenate([across, -across]):
            direction = np.cos(angle) * start + np.sin(angle) * turn
            tried = along(direction)
            if tried.most() > best.most():
                best, start = tried, direction / np.linalg.norm(direction)
        if best is before:
            angle *= 0.5
    return best


def bar(residual: FloatArray, shrinkage: FloatArray, log_steps: float) -> tuple[float, float]:
    """The gain that a step must exceed, in units of the noise's variance, and this."""
    n = len(residual)
    freedom = n - 1.0 - float((2.0 * shrinkage - shrinkage**2).sum())
    harmless = HARM * np.sqrt(n) * max(1.0, n / LARGE_ROWS)
    least = max((np.sqrt(2.0 * log_steps) + EXCESS) ** 2, harmless)
    return float(least), float(residual @ residual) / max(freedom, 0.3 * n)


@dataclass(frozen=True)
class Jump:
    """One further term of a smoother.

    Attributes
    ----------
    term, place : int
        Which of the terms of the scan, and which of its gaps.
    above : ndarray of shape (n,)
        1 above the gap, 0 below.
    column : ndarray of shape (n,)
        The term s: the same, or times another column.
    remainder : ndarray of shape (n,)
        ``(I - S) s``, given the terms taken before.
    size : float
        ``s' (I - S) s``, given them.
    gain, weight : float
        What it lowers the penalized sum of squares by, and its coefficient.
    """

    term: int
    place: int
    above: FloatArray
    column: FloatArray
    remainder: FloatArray
    size: float
    gain: float
    weight: float


class Scan:
    """What steps would explain given those taken.

    Attributes
    ----------
    orders : dict of int to ndarray of shape (n,)
        Rows in the order of a column, of the columns that have steps.
    gaps : dict of int to ndarray
        Places in that order before which a step is tried.
    terms : list of (int, int)
        The column along which a step is taken, and the one that it is multiplied by; -1: none.
    n_steps : int
        Steps at all gaps, of all terms.
    size, pull : list of ndarray
        For each term ``s' (I - S) s`` and ``s' (I - S) v`` of the steps at its gaps.

    Parameters
    ----------
    points, residual, functions, shrinkage
        As of :func:`find_jumps`.
    root : ndarray, optional
        What :func:`weighted` makes of the smoother, for many scans of one.
    """

    def __init__(
        self,
        points: FloatArray,
        residual: FloatArray,
        functions: FloatArray,
        shrinkage: FloatArray,
        root: FloatArray | None = None,
    ) -> None:
        n, d = points.shape
        self.points, self.functions, self.shrinkage = points, functions, shrinkage
        self.residual = residual - residual.mean()
        self.taken: list[Jump] = []
        self.orders: dict[int, IntArray] = {}
        self.gaps: dict[int, IntArray] = {}
        n_gaps = 0
        for j in range(d):
            order = _order(points[:, j])
            gaps = 1 + np.flatnonzero(np.diff(points[order, j]) > 0.0)
            if gaps.size > 1:  # a column of two values is a step
                self.orders[j], self.gaps[j] = order, gaps[:: -(-gaps.size // MOST_GAPS)]
                n_gaps += gaps.size
        steps = [k for k in range(d) if k not in self.orders]
        factors = range(d) if d <= MOST_FACTORS else steps[-MOST_FACTORS:]
        self.terms = [(j, k) for j in self.orders for k in [-1, *factors] if k != j]
        self.n_steps = n_gaps * (len(self.terms) // max(1, len(self.orders)))
        root = weighted(functions, shrinkage) if root is None else root
        self.size: list[FloatArray] = []
        self.pull: list[FloatArray] = []
        for j, group in groupby(range(len(self.terms)), key=lambda t: self.terms[t][0]):
            columns = np.stack([self._factor(t) for t in group])
            explained = squared_sums_above(root, columns, self.orders[j], self.gaps[j])
            for factor, length in zip(columns, explained, strict=True):
                self.size.append(self._above(j, factor**2) - self._above(j, factor) ** 2 / n - length)
                self.pull.append(self._above(j, self.residual * factor))

    @cached_property
    def leverage(self) -> FloatArray:
        """How much a row's fit follows the row itself."""
        return leverage(self.functions, self.shrinkage)

    def most(self) -> float:
        """The largest gain at the gaps."""
        return max(
            (float(_gains(pull, size).max()) for pull, size in zip(self.pull, self.size, strict=True)), default=0.0
        )

    def _factor(self, term: int) -> FloatArray:
        k = self.terms[term][1]
        return np.ones(len(self.points)) if k < 0 else self.points[:, k]

    def _above(self, j: int, values: FloatArray) -> FloatArray:
        """Sums over the rows above each gap of a column."""
        blocks = np.add.reduceat(values[self.orders[j]], self.gaps[j])
        return np.asarray(blocks[::-1].cumsum()[::-1])

    def best(self, least: float) -> Jump | None:
        """The step with the largest gain, at its exact place; none if it gains less."""
        gains = [_gains(pull, size) for pull, size in zip(self.pull, self.size, strict=True)]
        term = int(np.argmax([gain.max() for gain in gains]))
        place = int(gains[term].argmax())
        if gains[term][place] <= least:
            return None
        j = self.terms[term][0]
        around = self.gaps[j][max(place - 1, 0) : place + 2]
        values = self.points[self.orders[j], j]
        near = np.arange(around[0], around[-1] + 1)
        return self._exact(term, place, near[values[near] > values[near - 1]])

    def _exact(self, term: int, place: int, gaps: IntArray) -> Jump:
        """The step at the one of some gaps, close to one another, that gains most."""
        n, order, factor = len(self.points), self.orders[self.terms[term][0]], self._factor(term)
        above = np.zeros(n)
        above[order[gaps[-1] :]] = 1.0
        between = order[gaps[0] : gaps[-1]]

        def sums(values: FloatArray) -> FloatArray:
            """Products of values (n, k) with the step at each gap; rows between the gaps are added to the last one's."""
            last = (above * factor) @ values
            if not between.size:
                return last[None, :]
            blocks = np.add.reduceat(values[between] * factor[between, None], gaps[:-1] - gaps[0])
            return np.concatenate([last + blocks[::-1].cumsum(axis=0)[::-1], last[None, :]])

        before = [jump.remainder / np.sqrt(jump.size) for jump in self.taken]
        along = sums(self.functions)
        others = sums(np.stack([np.ones(n), factor, self.residual, *before], axis=1))
        size = others[:, 1] - others[:, 0] ** 2 / n - along**2 @ self.shrinkage - (others[:, 3:] ** 2).sum(axis=1)
        gain = _gains(others[:, 2], size)
        i = int(gain.argmax())
        above[order[gaps[i] :]] = 1.0
        column = above * factor
        remainder = column - others[i, 0] / n - self.functions @ (self.shrinkage * along[i])
        for shared, own in zip(others[i, 3:], before, strict=True):
            remainder -= shared * own
        weight = float(others[i, 2] / size[i]) if gain[i] > 0.0 else 0.0
        return Jump(term, place, above, column, remainder, float(size[i]), float(gain[i]), weight)

    def tells(self, jump: Jump, least: float) -> bool:
        """Whether a step gains so much in units of the noise of the rows that tell it."""
        root = np.sqrt(jump.size)
        return jump.gain > least * noise_of(jump.remainder / root, jump.weight * root, self.residual, self.leverage)

    def take(self, jump: Jump) -> None:
        """Everything else given this one, too."""
        self.taken.append(jump)
        self.leverage = self.leverage + jump.remainder**2 / jump.size
        self.residual = self.residual - jump.weight * jump.remainder
        for t, (j, _) in enumerate(self.terms):
            shared = self._above(j, jump.remainder * self._factor(t))
            self.pull[t] -= jump.weight * shared
            self.size[t] -= shared**2 / jump.size

    def refuse(self, jump: Jump) -> None:
        """No step there nor beside it."""
        self.size[jump.term][max(0, jump.place - 1) : jump.place + 2] = 0.0


def leverage(functions: FloatArray, shrinkage: FloatArray) -> FloatArray:
    """How much a row's fit follows the row itself."""
    return np.asarray(np.einsum("ij,ij,j->i", functions, functions, shrinkage) + 1.0 / len(functions))


def noise_of(term: FloatArray, weight: float, residual: FloatArray, pull: FloatArray) -> float:
    """Noise variance of the rows that tell a term, each left out of its own fit: the gain by chance.

    ``term`` is ``(I - S) s`` over the root of ``s' (I - S) s``, ``weight`` its coefficient, ``pull`` the leverage before.
    """
    left = (residual - weight * term) / np.maximum(1.0 - pull - term**2, LEAST_LEFT)
    return float(term**2 @ left**2)


def weighted(functions: FloatArray, shrinkage: FloatArray) -> FloatArray:
    """Functions that S keeps a share of, times its root: squared lengths of their sums are what S follows of a step."""
    used = shrinkage >= LEAST_SHARE
    return np.ascontiguousarray(functions[:, used] * np.sqrt(shrinkage[used]))


def _order(values: FloatArray) -> IntArray:
    """Rows by value, equal ones as they came; the fast way where no two are equal."""
    order = np.argsort(values)
    ordered = values[order]
    rises = ordered[1:] > ordered[:-1]
    if rises.all():
        return order
    runs = len(values) * np.concatenate([[0], np.cumsum(rises)])
    return np.asarray(np.sort(runs + order) - runs)


def _gains(pull: FloatArray, size: FloatArray) -> FloatArray:
    worth = size >= LEAST_ROWS
    return np.where(worth, pull**2 / np.where(worth, size, 1.0), 0.0)
