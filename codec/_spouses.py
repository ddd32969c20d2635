"""Children of y and their other parents, seen from the child.

A blanket holds the other parents of y's children. About y they say something only once the child is known, and often
too little for a test of y: a child that y can raise or lower alike leaves the mean of y where it was. About the child
they say a lot. A feature S is another parent of a member C, where C is a child of y, if

1. C depends on S given y and the other members, and clearly so, whichever of the features on which it depends more
   joins them, and if all do: C and S are neighbours;
2. C depends on y given S and the other members, clearly, too;
3. y does not depend on S given the members without C, and more given the members with C: C does not stand between
   y and S, it brings them together. How much more is to be expected, depends on both links: distances from copies
   grow like the number of rows n times a squared correlation, along a chain correlations multiply, and so do distances,
   divided by n. If C stands between y and S, so much is lost by giving C, else so much is gained: the logarithm of the
   likelihood ratio of the two is in proportion to the product of both distances, over n, times the gain. Where nothing
   is gained or lost, y and S depend on different things of C, as its sign and its size, or its value and whether it is
   zero: the gain must come near to what is expected;
4. y and C are neighbours: no member makes them independent by leaving the condition.

With 1 to 3 the links y - C - S are a collider at C (Spirtes, Glymour & Scheines, 2000, the second step of the PC
algorithm), and S is in the blanket of y whatever the power of a test of y given C. Without 4 C could be another parent
itself. This takes what is not seen for independent; 1 and 2 are there so that it would have been seen.

A child that is mostly made by its other parents is hidden in turn: what y does to it is small beside what they do, as
long as they are not in the condition. A feature C outside the blanket is a hidden child of y if

5. a regression of C on y, the members and what C correlates with most names some of the latter, and needs y: the
   p-value allows for the number of candidates;
6. given them and the members C depends on y, and clearly so;
7. one of them at least is another parent: without it in the condition less than half of that dependence is left, and
   3 holds. Without a child of C in the condition there would be more of it.

C enters together with these parents. More than 2,000 rows are not needed for what is clear.

References
----------
Spirtes, Glymour & Scheines, Causation, Prediction, and Search (2000), section 5.4.2, step C.
Pena, Nilsson, Bjoerkegren & Tegner, International Journal of Approximate Reasoning 45 (2007): spouses by way of the
child, with a test of y given the child instead of 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from codec._family import Features, Step, with_response
from codec._screen import expand, regression_pvalues
from codec._validation import FloatArray, IntArray, Table, constant_columns

CLEAR = 8.0  # standard deviations of the dependence of C, on S and on y, above that of copies of C
EVIDENCE = 0.2  # their product, over n, times the standard deviations of y on S that are gained by giving C
SHARES = (0.5, 0.75)  # of what is expected must be gained: up to so many standard deviations, ...
LITTLE, MOST = 1.5, 4.0  # ... and beyond; where more than the second is expected, of the second
ROWS = 2_000  # of more, as many random ones
LEAST_ROWS = 30  # in which a response was recorded
UNSEEN = 0.1  # p-values above this: no dependence of y on S
HIDDEN_LESS = (
    1.0  # standard deviations that may be lost where S hides C, which tells by itself that S is another parent
)
FIRST = 5  # features on which C depends most: who may be another parent
HIDDEN = 6.0  # standard deviations of the dependence of a hidden child on y, from many copies ...
WORTH_MORE_COPIES = 5.0  # ... and from few
ASKED = 200  # candidates that may be hidden children: those that correlate most with y
SEEN = 4.0  # standard deviations of a correlation of a candidate with what may hide it
CORRELATES = 20  # of a hidden child that a regression looks at
NAMED = 1e-6  # p-value in the regression of what may hide a child
HIDING = 5  # features that may hide a child, at most
LEFT = 0.5  # share of the dependence that is left when another parent is not known, at most
CHILD_RESAMPLES = 39
OWN_RESAMPLES = 199
NEIGHBOUR_RESAMPLES = 99


@dataclass(frozen=True)
class OtherParent:
    """A feature and how far a member depends on it at least, in standard deviations above copies."""

    feature: int
    distance: float


@dataclass(frozen=True)
class HiddenChild:
    """A feature that depends on y given what hides it.

    Attributes
    ----------
    feature : int
    distance : float
        How far it depends on y, in standard deviations above copies.
    parents : tuple of int
        Other parents that hide it. Where y shows in neither of two, which is the child cannot be told; both are in the
        blanket.
    given : tuple of int
        Features of the condition.
    """

    feature: int
    distance: float
    parents: tuple[int, ...]
    given: tuple[int, ...]


class Children:
    """Features as responses.

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
        self._last: tuple[int, Features] | None = None  # the feature that was a response last, and its rows

    def other_parent(self, child: int, members: Sequence[int], candidates: Sequence[int]) -> OtherParent | None:
        """The candidate on which a member depends most among the other parents of this member.

        Parameters
        ----------
        child : int
            One of the members.
        members, candidates : sequence of int
        """
        if not self._tells(child):
            return None
        here = self._recorded(child)
        candidates = [v for v in candidates if child not in self._all.gaps or _varies(here.part([v]))]
        if not candidates:
            return None
        rest = [u for u in members if u != child]
        distance = self._step(child, [self._y, *rest]).values(candidates, CHILD_RESAMPLES, far=-np.inf).distance
        strong = [candidates[i] for i in np.argsort(-distance, kind="stable")[:FIRST] if distance[i] >= CLEAR]
        for other, gain in self._gains(child, strong, rest).items():
            if gain <= 0.0:
                continue
            stronger = strong[: strong.index(other)]
            least = self._least_distance(child, other, rest, stronger, float(distance[candidates.index(other)]))
            on_y = self._on(child, self._y, [*rest, other]) if least >= CLEAR else 0.0
            expected = least * on_y / here.table.n_rows
            needed = max(EVIDENCE / expected if expected else np.inf, SHARES[expected > LITTLE] * min(expected, MOST))
            if on_y >= CLEAR and gain >= needed and self._is_neighbour(child, rest):
                return OtherParent(other, least)
        return None

    def hidden_child(self, members: Sequence[int], candidates: Sequence[int]) -> HiddenChild | None:
        """The candidate that is most clearly a child of y once its other parents are known.

        Parameters
        ----------
        members, candidates : sequence of int
        """
        agreement = self._agreement(self._y)
        hidden = []
        for v in sorted(candidates, key=lambda v: -agreement[v])[:ASKED]:
            others = self._may_hide(v, members, candidates) if self._tells(v) else []
            if not others:
                continue
            step = self._step(v, [*members, *others])
            if _distance(step, self._y, CHILD_RESAMPLES) >= WORTH_MORE_COPIES:
                distance = _distance(step, self._y, OWN_RESAMPLES)
                if distance >= HIDDEN:
                    hidden.append((distance, v, others))
        for distance, v, others in sorted(hidden, reverse=True):
            parents = [u for u in others if self._hides(u, v, distance, members, others)]
            if parents:
                return HiddenChild(v, distance, tuple(parents), (*members, *others))
        return None

    def _may_hide(self, child: int, members: Sequence[int], candidates: Sequence[int]) -> list[int]:
        """What a regression of a candidate names beside the members, if the regression needs y, too."""
        agreement = self._agreement(child)
        others = sorted((u for u in candidates if u != child and agreement[u] >= SEEN), key=lambda u: -agreement[u])
        near = others[:CORRELATES]
        if not near:
            return []
        features = self._recorded(child)
        pvalues = regression_pvalues(features.part([child]), features, [self._y, *members, *near], self._level)
        named = [(p, u) for p, u in zip(pvalues[-len(near) :], near, strict=True) if p <= NAMED]
        return [u for _, u in sorted(named)[:HIDING]] if pvalues[0] * len(candidates) <= self._level else []

    def _agreement(self, feature: int) -> FloatArray:
        """The largest correlation of one feature with each, of scores and squares, in its standard deviations."""
        rows, starts = self._expanded
        mine = rows[starts[feature] : starts[feature + 1]]
        largest = np.abs(mine @ rows.T).max(axis=0)
        return np.asarray(np.maximum.reduceat(largest, starts[:-1]) / np.sqrt(rows.shape[1]))

    @cached_property
    def _expanded(self) -> tuple[FloatArray, IntArray]:
        """Scores and squared scores of all features, and where each feature's begin."""
        nothing = np.zeros((1, self._all.table.n_rows))  # a single category has no score
        blocks = [np.concatenate([nothing, *expand(self._all.part([v]))]) for v in range(len(self._all))]
        return np.concatenate(blocks), np.cumsum([0, *(len(block) for block in blocks)])

    def _hides(self, parent: int, child: int, distance: float, members: Sequence[int], others: Sequence[int]) -> bool:
        """Whether a feature is another parent of a candidate without which its dependence on y is not seen."""
        given = [*members, *(u for u in others if u != parent)]
        left = self._on(child, self._y, given)
        return left < LEFT * distance and self._gains(child, [parent], given).get(parent, -np.inf) >= -HIDDEN_LESS

    def _tells(self, response: int) -> bool:
        """Whether what was recorded of a feature differs, in rows enough, and y in these rows."""
        if response not in self._all.gaps:
            return True
        rows = np.flatnonzero(~self._all.gaps[response])
        both = (self._all.part([v]).take(rows) for v in (response, self._y))
        return len(rows) >= LEAST_ROWS and all(map(_varies, both))

    def _recorded(self, response: int) -> Features:
        """All features where one was recorded; those of the last one are kept, it is asked several times."""
        if self._last is None or self._last[0] != response:
            if response not in self._all.gaps:
                return self._all
            self._last = response, self._all.recorded(response)
        return self._last[1]

    def _step(self, response: int, given: Sequence[int]) -> Step:
        """A feature as the response is what was recorded of it: gaps that it shares say nothing of its causes."""
        features = self._recorded(response)
        return Step(features.part([response]), features, sorted(given), self._seed, self._n_jobs)

    def _on(self, child: int, other: int, given: Sequence[int]) -> float:
        """How far a feature depends on another or on y, in standard deviations above its copies."""
        return _distance(self._step(child, given), other, CHILD_RESAMPLES)

    def _gains(self, child: int, others: Sequence[int], rest: Sequence[int]) -> dict[int, float]:
        """Features on which y does not depend, and by how much more it does if a child is given."""
        if not others:
            return {}
        without = self._step(self._y, rest).values(others, OWN_RESAMPLES)
        unseen = [i for i in range(len(others)) if without.pvalue(i) > UNSEEN]
        if not unseen:
            return {}
        given = self._step(self._y, [*rest, child]).values([others[i] for i in unseen], OWN_RESAMPLES)
        return {others[i]: float(own - without.distance[i]) for i, own in zip(unseen, given.distance, strict=True)}

    def _least_distance(
        self, child: int, other: int, rest: Sequence[int], stronger: Sequence[int], distance: float
    ) -> float:
        """How far a child depends on a feature whichever of those on which it depends more is given, and if all are."""
        conditions = [[u] for u in stronger] + ([[*stronger]] if len(stronger) > 1 else [])
        for more in conditions:
            if distance >= CLEAR:
                distance = min(distance, self._on(child, other, [self._y, *rest, *more]))
        return distance

    def _is_neighbour(self, child: int, rest: Sequence[int]) -> bool:
        return all(
            self._step(self._y, [u for u in rest if u != left]).values([child], NEIGHBOUR_RESAMPLES).pvalue(0)
            <= self._level
            for left in rest
        )


def _varies(table: Table) -> bool:
    return not bool(constant_columns(table).all())


def _distance(step: Step, other: int, n_resamples: int) -> float:
    """The same where a step has been made of the feature and the condition."""
    return float(step.values([other], n_resamples, far=-np.inf).distance[0])
