"""Other parents of the children of y, seen through the child.

A blanket holds the other parents of y's children. About y they say something only once the child is known, and often
too little for a test of y: a child that y can raise or lower alike leaves the mean of y where it was. About the child
they say a lot. A feature S is another parent of a member C, where C is a child of y, if

1. C depends on S given y and the other members, and clearly so;
2. C depends on y given S and the other members, clearly, too: weak links could hide what y and S would share if C
   stood between them;
3. y does not depend on S given the members without C, and not by much more than given the members with C:
   C does not stand between y and S, it brings them together;
4. y and C are neighbours: no member makes them independent by leaving the condition.

With 1 to 3 the links y - C - S are a collider at C (Spirtes, Glymour & Scheines, 2000, the second step of the PC
algorithm), and S is in the blanket of y whatever the power of a test of y given C. Without 4 C could be another parent
itself. This takes what is not seen for independent; 1 and 2 are there so that it would have been seen. More than 5,000
rows are not needed for what is clear.

References
----------
Spirtes, Glymour & Scheines, Causation, Prediction, and Search (2000), section 5.4.2, step C.
Pena, Nilsson, Bjoerkegren & Tegner, International Journal of Approximate Reasoning 45 (2007): spouses by way of the
child, with a test of y given the child instead of 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codec._family import Features, Step, with_response
from codec._validation import Table

CLEAR = 10.0  # standard deviations of the dependence of C, on S and on y, above that of copies of C
ROWS = 5_000  # of more, as many random ones
UNSEEN = 0.1  # p-values above this: no dependence of y on S
MARGIN = 1.0  # standard deviations by which the dependence of y on S may be less given C than without it
CHILD_RESAMPLES = 39
OWN_RESAMPLES = 199
NEIGHBOUR_RESAMPLES = 99


@dataclass(frozen=True)
class OtherParent:
    """A feature and how far a member depends on it, in standard deviations above copies."""

    feature: int
    distance: float


class Children:
    """Members as responses.

    Parameters
    ----------
    y : Table
    features : Features
    level : float
        At which y and a member must depend on one another to be neighbours.
    seed : int
        Copies.
    n_jobs : int, optional
        Threads over chunks of candidates.
    """

    def __init__(self, y: Table, features: Features, level: float, seed: int, n_jobs: int | None = None) -> None:
        if y.n_rows > ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(y.n_rows, ROWS, replace=False))
            y, features = y.take(rows), features.take(rows)
        self._all = with_response(features, y)
        self._y = len(features)
        self._level, self._seed, self._n_jobs = level, seed, n_jobs

    def other_parent(self, child: int, members: Sequence[int], candidates: Sequence[int]) -> OtherParent | None:
        """The candidate on which a member depends most, if it is another parent of this member.

        Parameters
        ----------
        child : int
            One of the members.
        members, candidates : sequence of int
        """
        rest = [u for u in members if u != child]
        values = self._step(child, [self._y, *rest]).values(candidates, CHILD_RESAMPLES, far=-np.inf)
        place = int(values.distance.argmax())
        other, distance = candidates[place], float(values.distance[place])
        found = (
            distance >= CLEAR
            and self._depends_on_y(child, [*rest, other])
            and self._brings_together(child, other, rest)
            and self._is_neighbour(child, rest)
        )
        return OtherParent(other, distance) if found else None

    def _step(self, response: int, given: Sequence[int]) -> Step:
        return Step(self._all.part([response]), self._all, sorted(given), self._seed, self._n_jobs)

    def _depends_on_y(self, child: int, given: Sequence[int]) -> bool:
        values = self._step(child, given).values([self._y], CHILD_RESAMPLES, far=-np.inf)
        return bool(values.distance[0] >= CLEAR)

    def _brings_together(self, child: int, other: int, rest: Sequence[int]) -> bool:
        without = self._step(self._y, rest).values([other], OWN_RESAMPLES)
        if without.pvalue(0) <= UNSEEN:
            return False
        given = self._step(self._y, [*rest, child]).values([other], OWN_RESAMPLES)
        return bool(given.distance[0] >= without.distance[0] - MARGIN)

    def _is_neighbour(self, child: int, rest: Sequence[int]) -> bool:
        return all(
            self._step(self._y, [u for u in rest if u != left]).values([child], NEIGHBOUR_RESAMPLES).pvalue(0)
            <= self._level
            for left in rest
        )
