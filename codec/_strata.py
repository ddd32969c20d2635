"""Conditional independence of discrete variables: permutations within strata.

Rows with the same S form a stratum; y is permuted among the rows of a stratum, which is exact whatever
the distribution of S is. Three statistics see the same permutations: G within strata (any dependence,
also one that changes with S), the sum behind nominal CODEC (a level of y that follows from x), and the
tables summed over strata (weak dependence that is the same everywhere, with many sparse strata). Each
is standardized over all B + 1 values, the observed one included, so that the ranks of their maximum are
exactly exchangeable.

Strata in which x or y is constant say nothing and are left out. Where every remaining cell has an
expected count of at least 5 and G is far in the tail of its chi-square limit, the limit is the
p-value and no copy is made: that is what makes large n quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import chdtrc

from codec import _strata_kernels as kernels
from codec._omnibus import standardized_maxima
from codec._plans import rank_pvalue
from codec._validation import FloatArray, IntArray, Table

LEAST_EXPECTED = 5.0  # per cell: Cochran's rule for the chi-square limit
CERTAIN = 1e-6  # the limit replaces permutations below this p-value
FIRST_COPIES = 39  # the first look
MORE_COPIES = 5  # times as many at the next one, unless the p-value is hopeless:
HOPELESS = 0.25  # at least this, or
FAR_HITS = 5  # so many copies reach the observed value and
FAR = 4.0  # the p-value is so many times the level
TINY = 1e-9  # rounding in the sums over tables
COPIES_PER_LEVEL = 10.0  # copies at level alpha: 10 / alpha - 1, so that p = alpha / 10 can be seen

Source = Literal["permutation", "chi-square", "constant"]


# --------------------------------------------------------------------------- coded data
@dataclass(frozen=True)
class Coded:
    """Variables as codes 0, 1, ..., levels - 1.

    Attributes
    ----------
    columns : ndarray of shape (p, n), int64
    levels : ndarray of shape (p,), int64
    """

    columns: IntArray
    levels: IntArray

    @property
    def n_rows(self) -> int:
        return int(self.columns.shape[1])


def code_variables(features: Table, response: Table) -> Coded:
    """The features' levels and, last, those of the response; a missing value is a level of its own.

    Several responses are one variable: their distinct rows are its levels.
    """
    coded = [_levels(values) for values in features.columns]
    answer = _levels(response.columns[0])
    for values in response.columns[1:]:
        other = _levels(values)
        answer = kernels.join_codes(answer, int(answer.max()) + 1, other, int(other.max()) + 1)[0]
    columns = np.ascontiguousarray(np.stack([*coded, answer]))
    return Coded(columns, columns.max(axis=1) + 1)


def _levels(values: FloatArray) -> IntArray:
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64)


class Layout(NamedTuple):
    """x and y of one test, stratum by stratum: what the kernels need."""

    start: IntArray
    x: IntArray
    y: IntArray
    n_x: int
    n_y: int


# --------------------------------------------------------------------------- the test
@dataclass(frozen=True)
class Outcome:
    """Result of one test.

    Attributes
    ----------
    pvalue : float
        Rank of the observed maximum among the copies, or the chi-square limit of G.
    score : float
        The observed statistic in standard deviations of the copies, the largest of the three: strength
        for ranking only.
    source : {'permutation', 'chi-square', 'constant'}
        Where the p-value comes from; ``'constant'``: x or y does not vary in any stratum (p = 1).
    n_copies : int
    """

    pvalue: float
    score: float
    source: Source
    n_copies: int = 0

    def describe(self) -> str:
        """How the p-value was made, for the record of a decision."""
        if self.source == "chi-square":
            return "chi-square limit of G, all expected counts 5 or more"
        if self.source == "constant":
            return "constant within every stratum"
        return f"{self.n_copies} permutations within strata"


NOTHING = Outcome(1.0, 0.0, "constant")


class StratifiedTest:
    """Tests of x independent of y given S on one table, remembered.

    Parameters
    ----------
    data : Coded
        The variables; tests name them by number.
    seed : int
        The permutations of a test depend on it and on (x, y, S), not on the order of the tests.
    shortcut : bool, default True
        Use the chi-square limit where it holds and is decisive.

    Attributes
    ----------
    n_tests : int
        Different hypotheses tested so far.
    """

    def __init__(self, data: Coded, seed: int, *, shortcut: bool = True) -> None:
        self.data = data
        self._seed = seed
        self._shortcut = shortcut
        self._known: dict[tuple[int, int, tuple[int, ...]], Outcome] = {}
        self._codes: dict[tuple[int, ...], tuple[IntArray, int]] = {}
        self._looked: set[tuple[int, int, tuple[int, ...]]] = set()  # at the limit alone

    @property
    def n_tests(self) -> int:
        return len(self._known.keys() | self._looked)

    def __call__(self, x: int, y: int, given: Sequence[int], level: float) -> Outcome:
        """Test one hypothesis, with as many copies as the level needs; y is what is permuted."""
        key = (x, y, tuple(sorted(given)))
        known = self._known.get(key)
        if known is None or _too_coarse(known, level):
            known = self._known[key] = self._test(*key, level)
        return known

    def limit(self, x: int, y: int, given: Sequence[int]) -> Outcome | None:
        """The chi-square limit of G where it holds and is at most 1e-6: no copies, whatever else the data are."""
        self._looked.add((x, y, tuple(sorted(given))))
        layout = self._lay_out(x, y, tuple(sorted(given)))
        return None if layout is None else _chi_square_limit(*layout)

    def _test(self, x: int, y: int, given: tuple[int, ...], level: float) -> Outcome:
        layout = self._lay_out(x, y, given)
        if layout is None:
            return NOTHING
        if self._shortcut:
            limit = _chi_square_limit(*layout)
            if limit is not None:
                return limit
        full = copies_for(level)
        seed = np.uint64(_mix(self._seed, x, y, given))
        n_copies = FIRST_COPIES
        while True:
            outcome = _rank(self._statistics(layout, n_copies, seed))
            if n_copies == full or _hopeless(outcome, level):
                return outcome
            n_copies = min(full, MORE_COPIES * n_copies)

    def _lay_out(self, x: int, y: int, given: tuple[int, ...]) -> Layout | None:
        """Rows of x and y in the strata where both vary, stratum by stratum."""
        columns, levels = self.data.columns, self.data.levels
        start, rows = kernels.varying_strata(*self._code(given), columns[x], columns[y])
        if rows.size == 0:
            return None
        return Layout(start, columns[x][rows], columns[y][rows], int(levels[x]), int(levels[y]))

    def _code(self, given: tuple[int, ...]) -> tuple[IntArray, int]:
        """Strata of S, remembered for small S."""
        found = self._codes.get(given)
        if found is None:
            if len(given) > 1:
                code, count = self._code(given[:-1])
                found = kernels.join_codes(code, count, self.data.columns[given[-1]], self.data.levels[given[-1]])
            else:
                found = kernels.joint_code(self.data.columns, self.data.levels, np.array(given, dtype=np.int64))
            if len(given) <= 1:
                self._codes[given] = found
        return found

    def _statistics(self, layout: Layout, n_copies: int, seed: np.uint64) -> FloatArray:
        steps, scale = _steps(self.data.n_rows)
        return np.asarray(kernels.permuted_statistics(*layout, steps, scale, n_copies, seed))

    def family(self, candidates: Sequence[int], y: int, given: Sequence[int], level: float) -> tuple[Outcome, int]:
        """The strongest candidate, with a p-value for the largest of all: no matter how many there are.

        All candidates see the same permutations of y, so that the copies' maxima have the dependence that
        the candidates have.
        """
        columns, levels = self.data.columns, self.data.levels
        code = self._code(tuple(sorted(given)))
        start, rows = kernels.varying_strata(*code, columns[y], columns[y])
        if rows.size == 0 or not candidates:
            return NOTHING, -1
        seed = np.uint64(_mix(self._seed, -1, y, tuple(sorted(given))))
        scores = []
        for x in candidates:
            layout = Layout(start, columns[x][rows], columns[y][rows], int(levels[x]), int(levels[y]))
            scores.append(standardized_maxima(self._statistics(layout, copies_for(level), seed))[1])
        best = int(np.argmax([score[0] for score in scores]))
        largest = np.max(scores, axis=0)
        return Outcome(rank_pvalue(largest), float(largest[0]), "permutation", largest.size - 1), candidates[best]


def copies_for(level: float) -> int:
    """Copies with which a p-value of a tenth of the level can be seen."""
    return max(FIRST_COPIES, int(np.ceil(COPIES_PER_LEVEL / level)) - 1)


def _hopeless(outcome: Outcome, level: float) -> bool:
    """Whether more copies would not make the test significant: stopping here can only lose power."""
    hits = outcome.pvalue * (outcome.n_copies + 1) - 1
    return outcome.pvalue >= HOPELESS or (hits >= FAR_HITS and outcome.pvalue > FAR * level)


def _too_coarse(known: Outcome, level: float) -> bool:
    """Whether a test that may be significant was made with fewer copies than the level needs."""
    if known.source != "permutation" or known.n_copies >= copies_for(level):
        return False
    return not _hopeless(known, level)


def _rank(values: FloatArray) -> Outcome:
    """Rank p-value of the largest standardized statistic."""
    moving = values[np.ptp(values, axis=1) > TINY]
    if not len(moving):
        return NOTHING
    copies = moving[:, 1:]
    spread = np.maximum(copies.std(axis=1), TINY)
    score = ((moving[:, 0] - copies.mean(axis=1)) / spread).max()
    largest = standardized_maxima(moving)[1]
    return Outcome(rank_pvalue(largest), float(score), "permutation", largest.size - 1)


def _chi_square_limit(start: IntArray, x: IntArray, y: IntArray, n_x: int, n_y: int) -> Outcome | None:
    """The chi-square limit of G where it holds and is far in the tail."""
    _, least, freedom = kernels.expected_counts(start, x, y, n_x, n_y)
    if least < LEAST_EXPECTED:
        return None
    value = kernels.log_likelihood_ratio(start, x, y, n_x, n_y)
    pvalue = float(chdtrc(freedom, value))
    if pvalue > CERTAIN:
        return None
    return Outcome(pvalue, float((value - freedom) / np.sqrt(2.0 * freedom)), "chi-square")


@cache
def _steps(n: int) -> tuple[IntArray, float]:
    """Integer steps of ``k log k`` and their scale, the largest with which no sum overflows."""
    scale = float(2 ** int(np.floor(61 - np.log2(n * (np.log(n) + 2.0)))))
    return np.asarray(kernels.entropy_steps(n, scale)), scale


def _mix(seed: int, x: int, y: int, given: tuple[int, ...]) -> int:
    """A seed for one test."""
    return int(np.random.SeedSequence([seed, x + 1, y, *given]).generate_state(1, np.uint64)[0])
