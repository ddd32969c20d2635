"""One step of a search: all candidates tested given the same features, with the same copies of y.

The residuals of y on the selected features, the smoother's kernels, the neighbours and the copies of y
are made once and serve every candidate. Every candidate's terms are those of
:class:`codec._omnibus.Omnibus`, each standardized over all B + 1 values, the observed one included, and
the largest is the candidate's value. If no candidate depends on y given the selected ones, the B + 1
arrays of values are exchangeable whatever the dependence among candidates, so that

* the rank of the largest observed value among the copies' largest values is a p-value for the step
  (family-wise), and
* the mean number of candidates whose copies reach a value is what chance alone would select at it.

Graphs for the residual CODEC cost more than all other terms. They are built for the candidates with the
ten largest values **over all B + 1**, a choice that treats the observed data like every copy, and over at
most 10,000 rows; not in a condition of eight columns or more, where a graph was found to add nothing to the other
terms' power.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from codec._nulls import Centred, Setting, block_sizes, find_strata
from codec._omnibus import (
    SINGLE_PRECISION_ROWS,
    Moving,
    Omnibus,
    default_neighbors,
    residual_codec,
    residual_graph,
    standardize_rows,
    without_rounding,
)
from codec._plans import TOLERANCE
from codec._residuals import embed, two_valued
from codec._validation import BoolArray, FloatArray, IntArray, Table, constant_columns

MAX_GRAPHS = 10  # candidates whose residual CODEC is computed ...
GRAPH_ROWS = 10_000  # ... on at most so many random rows ...
GRAPH_COLUMNS = 8  # ... given fewer columns than this: among more, no row is near
FIRST_LOOK = 39  # copies after which a hopeless step is given up
CHUNK_ENTRIES = 4_000_000  # numbers in the columns of a chunk of candidates
CHUNK_CANDIDATES = 32
KEPT_ENTRIES = 64_000_000  # numbers in copies of y that are kept for further candidates; in functions of candidates


# --------------------------------------------------------------------------- the features
@dataclass(frozen=True)
class Features:
    """Columns in groups: a feature is a group, and most groups are one column.

    Attributes
    ----------
    table : Table
    groups : tuple of tuple of int
        Columns of each feature.
    gaps : dict of int to ndarray of shape (n,)
        Rows in which a feature was missing, in part at least; of features without gaps nothing.
    """

    table: Table
    groups: tuple[tuple[int, ...], ...]
    gaps: Mapping[int, BoolArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.groups)

    def part(self, chosen: Sequence[int]) -> Table:
        """The columns of some features side by side."""
        return self.table.pick([j for feature in chosen for j in self.groups[feature]])

    def take(self, rows: IntArray) -> Features:
        gaps = {v: missing[rows] for v, missing in self.gaps.items()}
        return replace(self, table=self.table.take(rows), gaps=gaps)

    def without(self, feature: int) -> Features:
        """The other features, numbered anew; the table stays."""
        groups = self.groups[:feature] + self.groups[feature + 1 :]
        gaps = {v - (v > feature): missing for v, missing in self.gaps.items() if v != feature}
        return replace(self, groups=groups, gaps=gaps)

    def recorded(self, feature: int) -> Features:
        """Rows in which a feature was recorded, without columns that tell nothing there, such as that it was."""
        if feature not in self.gaps:
            return self
        found = self.take(np.flatnonzero(~self.gaps[feature]))
        constant = constant_columns(found.table)
        groups = tuple(tuple(j for j in group if not constant[j]) or group[:1] for group in self.groups)
        return replace(found, groups=groups)


def single_columns(table: Table) -> Features:
    return Features(table, tuple((j,) for j in range(len(table.names))))


def with_response(features: Features, y: Table) -> Features:
    """The response as one more feature, the last."""
    table = features.table
    whole = replace(
        table,
        columns=np.concatenate([table.columns, y.columns]),
        nominal=np.concatenate([table.nominal, y.nominal]),
        names=unique_names((*table.names, *y.names)),
    )
    groups = (*features.groups, tuple(range(len(table.names), len(whole.names))))
    return replace(features, table=whole, groups=groups)


def with_indicators(features: Features) -> Features:
    """Missing numbers become the median, missing categories a category; groups also get what was missing.

    The new columns stand behind the others.
    """
    table = features.table
    missing = np.isnan(table.columns)
    incomplete = np.flatnonzero(missing.any(axis=1))
    if not incomplete.size:
        return features
    columns = table.columns.copy()
    added: list[_Added] = []
    for j in incomplete:
        present = columns[j, ~missing[j]]
        if table.nominal[j]:
            columns[j, missing[j]] = present.max(initial=0.0) + 1.0
            continue
        columns[j, missing[j]] = np.median(present) if present.size else 0.0
        place = next(v for v, group in enumerate(features.groups) if j in group)
        added.append(_Added(f"{table.names[j]} missing", place, missing[j].astype(np.float64)))
    gaps = {v: np.asarray(missing[list(group)].any(axis=0)) for v, group in enumerate(features.groups)}
    gaps = {v: rows for v, rows in gaps.items() if rows.any()}
    return _extend(replace(features, table=replace(table, columns=columns), gaps=gaps), added)


def with_distances(features: Features) -> Features:
    """A group of numbers is a point: it also gets the distance from its mean, in standardized columns.

    A function of the distance alone is independent of every coordinate's linear part, and costly to learn
    from several points at once. The new columns stand behind the others; flags do not count as numbers.
    """
    table = features.table
    added: list[_Added] = []
    for v, group in enumerate(features.groups):
        if len(group) < 2:
            continue
        numbers = [j for j in group if not table.nominal[j] and np.unique(table.columns[j]).size > 2]
        if len(numbers) > 1:
            points = standardize_rows(table.columns[numbers])
            distance = np.sqrt(np.einsum("ji,ji->i", points, points))
            added.append(_Added(f"distance of {table.names[group[0]]}", v, distance))
    return _extend(features, added)


@dataclass(frozen=True)
class _Added:
    """A new column, and the feature that it belongs to."""

    name: str
    feature: int
    values: FloatArray


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of columns side by side; one that is there already gets a number."""
    taken: dict[str, None] = {}
    for name in names:
        numbered = (f"{name} ({k})" for k in itertools.count(2))
        taken[next(new for new in itertools.chain([name], numbered) if new not in taken)] = None
    return tuple(taken)


def _extend(features: Features, added: Sequence[_Added]) -> Features:
    """More columns behind the others."""
    if not added:
        return features
    table = features.table
    groups = [list(group) for group in features.groups]
    for place, column in enumerate(added, len(table.names)):
        groups[column.feature].append(place)
    whole = replace(
        table,
        columns=np.concatenate([table.columns, [column.values for column in added]]),
        nominal=np.concatenate([table.nominal, np.zeros(len(added), dtype=np.bool_)]),
        names=unique_names((*table.names, *(column.name for column in added))),
    )
    return replace(features, table=whole, groups=tuple(tuple(group) for group in groups))


# --------------------------------------------------------------------------- the values of a step
@dataclass(frozen=True)
class Values:
    """Largest standardized term of every candidate, observed and in every copy.

    Attributes
    ----------
    candidates : tuple of int
    values : ndarray of shape (candidates, B + 1)
        The observed ones in column 0.
    distance : ndarray of shape (candidates,)
        How far the observed value of the farthest term lies above its copies, in their standard deviations.
    """

    candidates: tuple[int, ...]
    values: FloatArray
    distance: FloatArray

    @property
    def best(self) -> int:
        """Place of the candidate with the largest observed value."""
        return int(self.values[:, 0].argmax())

    def best_of(self, places: IntArray) -> int:
        """That of the largest among some."""
        return int(places[self.values[places, 0].argmax()])

    def statistic(self, place: int) -> float:
        return float(self.values[place, 0])

    def family_pvalue(self, place: int, rivals: IntArray | slice = slice(None)) -> float:
        """Share of the B + 1 data sets in which any candidate, or one of these, reaches this one's observed value."""
        return self._share(self.reached(place)[rivals].any(axis=0))

    def pvalue(self, place: int) -> float:
        """Share of the B + 1 data sets in which this candidate reaches its observed value."""
        return self._share(self.reached(place)[place])

    def expected_false(self, place: int, n_features: int | None = None) -> float:
        """How many of ``n_features`` features without dependence reach this one's observed value.

        Estimated by the candidates' copies; never less than their resolution, and never less than
        what one candidate alone gives, ``n_features`` times its p-value, would be at that resolution.
        """
        n_candidates, n_values = self.values.shape
        weight = (n_features or n_candidates) / n_candidates
        return float(weight * (1 + int(self.reached(place).sum())) / n_values)

    def beside(self, others: Values) -> Values:
        """These and other candidates with as many copies."""
        return Values(
            self.candidates + others.candidates,
            np.concatenate([self.values, others.values]),
            np.concatenate([self.distance, others.distance]),
        )

    def reached(self, place: int) -> BoolArray:
        """Which copies of which candidates reach this one's observed value."""
        bound = self.values[place, 0]
        return np.asarray(self.values[:, 1:] >= bound - TOLERANCE * max(1.0, abs(bound)))

    def _share(self, reached: Any) -> float:
        return float((1 + reached.sum()) / self.values.shape[1])


# --------------------------------------------------------------------------- the step
class Step:
    """Everything about y given some features that does not depend on the candidate.

    Parameters
    ----------
    y : Table
        Response, one or more columns.
    features : Features
    given : sequence of int
        Features of the condition.
    seed : int
        Landmarks, ties and copies.
    n_jobs : int, optional
        Threads over chunks of candidates.
    """

    def __init__(
        self, y: Table, features: Features, given: Sequence[int], seed: int, n_jobs: int | None = None
    ) -> None:
        self._features = features
        self._n_jobs = n_jobs
        setting_seed, self._draw_seed, self._graph_seed = (
            int(s) for s in np.random.default_rng(seed).integers(2**63, size=3)
        )
        condition = features.part(given) if len(given) else None
        strata = None if condition is None else find_strata(condition)
        self._setting = Setting(y, condition, strata, np.random.default_rng(setting_seed))
        self._null = self._setting.null()
        self._entries = 8 * y.n_rows * len(self._setting.columns)
        self._copies: dict[int, list[Moving]] = {}  # by the number of them

    def values(
        self,
        candidates: Sequence[int],
        n_resamples: int,
        settled: Callable[[Values], bool] | None = None,
        far: float = np.inf,
        advance: Callable[[float], None] | None = None,
    ) -> Values:
        """The candidates' values.

        Parameters
        ----------
        candidates : sequence of int
        n_resamples : int
            B
        settled : callable, optional
            Told the values with the first 39 copies; True if others would not change the decision.
        far : float, default inf
            No graphs if the best candidate stands this many standard deviations above its first 39 copies without.
        advance : callable, optional
            Told the share of the copies that is done.
        """
        panel = _Panel(self._setting, self._features, candidates, self._graph_seed, self._n_jobs)
        panel.add(self._null.observed())
        draws = np.random.default_rng(self._draw_seed)
        kept = self._copies.setdefault(n_resamples, [])
        keep = n_resamples * self._entries <= KEPT_ENTRIES
        first = min(FIRST_LOOK, n_resamples)
        sizes = [*block_sizes(first, self._entries), *block_sizes(n_resamples - first, self._entries)]
        done, graphs = 0, True
        for i, size in enumerate(sizes):
            seed = int(draws.integers(2**63))
            copies = kept[i] if i < len(kept) else self._null.draw(size, seed)
            if keep and i == len(kept):
                kept.append(copies)
            panel.add(copies)
            done += size
            if advance is not None:
                advance(size / n_resamples)
            if done == first:
                plain = panel.values(graphs=False)
                graphs = plain.distance[plain.best] < far
                if graphs and settled is not None and settled(found := panel.values()):
                    return found
        return panel.values(graphs=graphs)


class _Panel:
    """Candidates beside copies of y, growing block by block."""

    def __init__(
        self, setting: Setting, features: Features, candidates: Sequence[int], seed: int, n_jobs: int | None
    ) -> None:
        self._setting = setting
        self._features = features
        self._candidates = tuple(candidates)
        self._seed = seed
        self._n_jobs = n_jobs
        self._n_graphs = MAX_GRAPHS if setting.points.shape[1] < GRAPH_COLUMNS else 0
        self._functions = [f.astype(self._dtype(features)) for f in setting.varying]
        self._n = features.table.n_rows
        self._terms: list[list[FloatArray]] = [[] for _ in self._candidates]
        self._omnibus: dict[int, Omnibus] = {}
        self._rounding: dict[int, FloatArray] = {}
        self._ranks: list[FloatArray] = []
        self._codec: dict[int, tuple[IntArray, list[FloatArray]]] = {}
        self._graph_rows: IntArray | None = None
        if self._n > GRAPH_ROWS:
            drawn = np.random.default_rng(seed).choice(self._n, GRAPH_ROWS, replace=False)
            self._graph_rows = np.sort(drawn)
        if len(candidates) > CHUNK_CANDIDATES:
            setting.share_kernels()
        size = max(1, min(CHUNK_CANDIDATES, CHUNK_ENTRIES // self._n))
        self._chunks = [range(a, min(a + size, len(candidates))) for a in range(0, len(candidates), size)]
        anchors = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(self._anchors)(chunk) for chunk in self._chunks)
        self._rows = [anchor for chunk in anchors for anchor in chunk]

    @staticmethod
    def _dtype(features: Features) -> type[np.floating[Any]]:
        return np.float32 if features.table.n_rows > SINGLE_PRECISION_ROWS else np.float64

    def _anchors(self, chunk: range) -> list[Centred]:
        """Standardized residuals of each candidate of a chunk."""
        blocks = [embed(self._setting.untied(self._features.part([self._candidates[i]]))).T for i in chunk]
        rows = standardize_rows(self._setting.anchors(np.ascontiguousarray(np.concatenate(blocks))))
        rows = rows.astype(self._dtype(self._features))
        parts = np.split(rows, np.cumsum([len(block) for block in blocks])[:-1])
        return [Centred(part, two_valued(block)) for part, block in zip(parts, blocks, strict=True)]

    def add(self, moving: Moving) -> None:
        """The terms that need no graph, for one block of copies."""
        found = Parallel(n_jobs=self._n_jobs, prefer="threads")(
            delayed(self._products)(chunk, moving) for chunk in self._chunks
        )
        for i, terms in enumerate(terms for chunk in found for terms in chunk):
            self._terms[i].append(terms)
        rows = self._graph_rows
        self._ranks.append(moving.ranks if rows is None else np.ascontiguousarray(moving.ranks[:, :, rows]))

    def _products(self, chunk: range, moving: Moving) -> list[FloatArray]:
        found = []
        for i in chunk:
            statistic = self._statistic(i)
            self._rounding[i] = statistic.rounding
            found.append(statistic.values(moving))
        return found

    def _statistic(self, i: int) -> Omnibus:
        """The terms of one candidate; kept where that takes little memory."""
        if i in self._omnibus:
            return self._omnibus[i]
        rows = self._rows[i]
        anchor = replace(rows, standard=rows.standard.astype(np.float64))
        rng = np.random.default_rng(0)  # breaks ties in graphs, and there is none
        made = self._setting.omnibus(self._features.part([self._candidates[i]]), anchor, None, rng, self._functions)
        if made.n_entries * len(self._candidates) <= KEPT_ENTRIES:
            self._omnibus[i] = made
        return made

    def values(self, *, graphs: bool = True) -> Values:
        """Values with all copies added so far."""
        terms = [
            without_rounding(np.concatenate(parts, axis=1), self._rounding[i]) for i, parts in enumerate(self._terms)
        ]
        squares = np.stack([_squares(rows).sum(axis=0) for rows in terms])
        distance = np.array([_distance(rows) for rows in terms])
        chosen = np.argsort(-squares.max(axis=1), kind="stable")[: self._n_graphs if graphs else 0]
        found = Parallel(n_jobs=self._n_jobs, prefer="threads")(delayed(self._graph_term)(int(i)) for i in chosen)
        for i, sums in zip(chosen, found, strict=True):
            squares[i] += _squares(sums)
            distance[i] = max(distance[i], _distance(sums[None, :]))
        return Values(self._candidates, np.sqrt(squares), distance)

    def _graph_term(self, i: int) -> FloatArray:
        """Residual CODEC of one candidate, observed and copies; blocks once computed are kept."""
        if not self._rows[i].standard.any():  # a function of the condition
            return np.zeros(sum(ranks.shape[1] for ranks in self._ranks))
        if i not in self._codec:
            rng = np.random.default_rng([self._seed, self._candidates[i]])
            rows = slice(None) if self._graph_rows is None else self._graph_rows
            points, residuals = self._setting.points[rows], self._rows[i].standard[:, rows].astype(np.float64)
            near = residual_graph(residuals, points, default_neighbors(len(points)), rng)
            self._codec[i] = (near, [])
        near, done = self._codec[i]
        done.extend(residual_codec(near, ranks) for ranks in self._ranks[len(done) :])
        return np.concatenate(done)


def _squares(terms: FloatArray) -> FloatArray:
    """Squares of the positive standardized values: one strong view of the dependence counts, and so do many weak."""
    return np.asarray(np.maximum(standardize_rows(terms), 0.0) ** 2)


def _distance(terms: FloatArray) -> float:
    """The largest distance of a term (row) in column 0 above the other columns, in their standard deviations."""
    copies = terms[:, 1:]
    spread = copies.std(axis=1)
    above = terms[:, 0] - copies.mean(axis=1)
    return float(np.divide(above, spread, out=np.zeros(len(terms)), where=spread > 0.0).max())
