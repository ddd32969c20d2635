"""Features that depend on other features, and those that depend on none: families that share the level.

Where most features are noise, a search pays for each of them. That a feature depends on no other one is seen without
y, and speaks against it: a parent of y depends on y's children, another parent on the child that it shares with y.
So where few of many features depend on another one, these are a family of their own. Half of the level is theirs, and
the other half that of all others. Shares that y has no part in leave the chance of a false feature as it is (Genovese,
Roeder & Wasserman, Biometrika 93, 2006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codec._family import Features
from codec._screen import expand
from codec._validation import FloatArray, IntArray

MANY = 50  # of fewer features none is a family of its own
FEW = 0.25  # of the features at most: more of them pay no less for having the level halved
BY_CHANCE = 0.05  # chance that a feature which depends on no other is taken for one that does
ROWS = 5_000  # that are looked at, at most
CHUNK = 1_024  # rows of the correlation matrix at a time


@dataclass(frozen=True)
class Families:
    """Parts of the features, with equal shares of the level.

    Attributes
    ----------
    parts : tuple of frozenset of int
    """

    parts: tuple[frozenset[int], ...]

    @property
    def share(self) -> float:
        """Of the level, for each family."""
        return 1.0 / len(self.parts)

    def of(self, feature: int, among: Sequence[int]) -> list[int]:
        """Those of some features that are in one family with this one."""
        mine = next(part for part in self.parts if feature in part)
        return [v for v in among if v in mine]

    def times(self, feature: int, among: Sequence[int]) -> float:
        """What a p-value of one of some features is multiplied by."""
        return len(self.of(feature, among)) / self.share

    def places(self, among: Sequence[int]) -> list[IntArray]:
        """Where the features of each family stand in a list, of the families that are in it."""
        found = [np.flatnonzero([v in part for v in among]) for part in self.parts]
        return [places for places in found if places.size]


def find_families(features: Features, pool: Sequence[int], seed: int) -> Families:
    """One family, or two where few of many features depend on another feature.

    Parameters
    ----------
    features : Features
    pool : sequence of int
        Those that may be selected.
    seed : int
        Rows of large data, and the other order.
    """
    everyone = Families((frozenset(pool),))
    if len(pool) < MANY:
        return everyone
    rng = np.random.default_rng(seed)
    n = features.table.n_rows
    if n > ROWS:
        features = features.take(np.sort(rng.choice(n, ROWS, replace=False)))
    joined = frozenset(pool) & _dependent(features, rng)
    return Families((joined, frozenset(pool) - joined)) if 0 < len(joined) <= FEW * len(pool) else everyone


def _dependent(features: Features, rng: np.random.Generator) -> frozenset[int]:
    """Features whose scores or squared scores correlate more with another one's than with those in another order."""
    blocks = [np.concatenate(expand(features.part([v]))) for v in range(len(features))]
    rows, owners = np.concatenate(blocks), np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    chance = _largest_correlations(rows, rows[:, rng.permutation(rows.shape[1])], owners)
    clear = np.quantile(chance, 1.0 - BY_CHANCE)
    return frozenset(np.flatnonzero(_largest_correlations(rows, rows, owners) > clear).tolist())


def _largest_correlations(rows: FloatArray, others: FloatArray, owners: IntArray) -> FloatArray:
    """Of each feature's rows with those of all other features, times a constant."""
    largest = np.zeros(owners[-1] + 1)
    for low in range(0, len(rows), CHUNK):
        some = owners[low : low + CHUNK]
        correlations = np.abs(rows[low : low + CHUNK] @ others.T)
        correlations[some[:, None] == owners[None, :]] = 0.0
        np.maximum.at(largest, some, correlations.max(axis=1))
    return largest
