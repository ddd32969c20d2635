"""One table to search for a blanket: whole, in halves, or split into rows that search and rows that test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from codec._decisions import Decision, Found, translate
from codec._family import Features, with_indicators
from codec._forward import Show, show_progress
from codec._hiton import discrete_blanket
from codec._markov import SearchOptions, find_blanket, keep_mutual, member_pvalues
from codec._notes import warn
from codec._nulls import CLASS_ROWS, pool_rare
from codec._residuals import two_valued
from codec._stability import StabilityResult, stability_selection
from codec._validation import FloatArray, IntArray, Table, constant_columns

DISCRETE_LEVELS = 10  # a column of at most this many whole numbers is discrete ...
UNORDERED_LEVELS = 3  # ... and one of at most this many hardly loses by forgetting their order
MIN_SPLIT_ROWS = 20  # rows that each part of a split must have
SAME = 1e-6  # standard deviations by which values in two units, or in single precision, may differ


def few_whole_numbers(values: FloatArray, most: int = DISCRETE_LEVELS) -> bool:
    """Whether a column counts as discrete."""
    present = values[~np.isnan(values)]
    return bool((present == np.round(present)).all()) and np.unique(present).size <= most


def _classes(y: Table) -> IntArray:
    """Code of every row's classes, of all responses that have some; a single one where none has."""
    with_classes = [v for v, nominal in zip(y.columns, y.nominal, strict=True) if nominal or few_whole_numbers(v)]
    _, code = np.unique([*with_classes, np.zeros(y.n_rows)], axis=1, return_inverse=True)
    return np.asarray(code.ravel(), dtype=np.int64)


def _shared_out(sizes: IntArray, share: float) -> IntArray:
    """How many of each class make up a share of all rows: at least one of two or more, and never all of them."""
    n_kept = np.diff(np.round(share * np.cumsum(sizes)), prepend=0.0)
    return np.where(sizes > 1, np.clip(n_kept, 1, sizes - 1), n_kept).astype(np.int64)


def split_rows(response: Table, share: float | None, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Rows of the search and rows held out; of every class of y some in both, if it has two."""
    rows = np.arange(response.n_rows)
    if share is None:
        return rows, rows[:0]
    order, code = rng.permutation(rows), _classes(response)
    n_kept = _shared_out(np.bincount(code), share)
    kept = np.sort(np.concatenate([order[code[order] == c][:n] for c, n in enumerate(n_kept)]))
    held = np.setdiff1d(rows, kept)
    if min(kept.size, held.size) < MIN_SPLIT_ROWS:
        raise ValueError(
            f"split is {share}: {kept.size} of {rows.size} rows would be searched and "
            f"{held.size} tested; each part needs at least {MIN_SPLIT_ROWS}."
        )
    for part, use in ((kept, "searched"), (held, "tested")):
        if constant_columns(response.take(part)).all():
            raise ValueError(
                f"split is {share}: y is constant in the {part.size} rows that would be {use}; "
                "pass a share nearer to .5, another random_state, or no split."
            )
    return kept, held


def _telling(y: Table, any_classes: bool) -> Table:
    """The responses that vary in these rows, and of which copies are not all the same: some class is there twice.

    A rare class may be absent from some rows; a test of the user's own may know any classes.
    """
    silent = constant_columns(y)
    for j in np.flatnonzero(y.nominal & (not any_classes)):
        silent[j] |= np.unique(y.columns[j]).size == y.n_rows
    return y.pick(np.flatnonzero(~silent)) if silent.any() else y


# --------------------------------------------------------------------------- columns that say the same
def copies_among(features: Features, always: Sequence[int], classes: bool) -> dict[int, int]:
    """Features that say the same as an earlier one, and which; those that are always included come before all others.

    A smoother takes out what the condition explains, but never all of it: what is left of a column, given its copy,
    agrees with what is left of y. Numbers say the same if they are the same in other units; columns of classes, or of
    two values, if they divide the rows alike.
    """
    labels = _labels(features.table, classes)
    first: dict[frozenset[int], int] = {}
    copies: dict[int, int] = {}
    for v in [*always, *(v for v in range(len(features)) if v not in always)]:
        said = frozenset(labels[list(features.groups[v])].tolist()) - {-1}
        if said and first.setdefault(said, v) != v and v not in always:
            copies[v] = first[said]
    return copies


def _labels(table: Table, classes: bool) -> IntArray:
    """A number for each column, the same for columns that say the same; -1 for constant ones."""
    labels = np.full(len(table.names), -1)
    as_classes = table.nominal | two_valued(table.columns) | classes
    varying = ~constant_columns(table)
    numbers = np.flatnonzero(varying & ~as_classes)
    labels[numbers] = _linear_labels(table.columns, numbers)
    known: dict[bytes, int] = {}
    for j in np.flatnonzero(varying & as_classes):
        key = pd.factorize(table.columns[j], use_na_sentinel=False)[0].astype(np.int32).tobytes()
        labels[j] = known.setdefault(key, int(j))
    return labels


def _linear_labels(columns: FloatArray, chosen: IntArray) -> IntArray:
    """For each column the first one that it is a linear function of; only columns of equal projections are compared."""
    direction = np.random.default_rng(0).standard_normal(columns.shape[1])
    size = np.array([abs(_standardized(columns[j]) @ direction) for j in chosen])
    labels, near = chosen.copy(), SAME * float(np.abs(direction).sum())
    order = np.lexsort((chosen, size))
    for i, place in enumerate(order):
        for other in order[i + 1 :]:
            if size[other] - size[place] > near:
                break
            if _is_linear(columns[chosen[place]], columns[chosen[other]]):
                labels[[place, other]] = min(labels[place], labels[other])
    return labels


def _is_linear(a: FloatArray, b: FloatArray) -> bool:
    a, b = _standardized(a), _standardized(b)
    return bool((np.abs(a - b) <= SAME).all() or (np.abs(a + b) <= SAME).all())


def _standardized(values: FloatArray) -> FloatArray:
    centred = values - values.mean()
    return np.asarray(centred / centred.std())


def _without(features: Features, copies: Mapping[int, int]) -> tuple[Features, list[int]]:
    """The other features, and what they are called in the whole."""
    kept = [v for v in range(len(features)) if v not in copies]
    columns = sorted(j for v in kept for j in features.groups[v])
    place = {j: i for i, j in enumerate(columns)}
    groups = tuple(tuple(place[j] for j in features.groups[v]) for v in kept)
    gaps = {i: features.gaps[v] for i, v in enumerate(kept) if v in features.gaps}
    return Features(features.table.pick(columns), groups, gaps), kept


# --------------------------------------------------------------------------- the table
class Task:
    """One table to search, whole or in part."""

    def __init__(
        self, features: Features, response: Table, discrete: bool, options: SearchOptions, selector: Any
    ) -> None:
        self.features = features
        self.response = response
        self.discrete = discrete
        self.options = options
        self.symmetric = bool(selector.symmetric)
        self.show = partial(show_progress, "blanket", bool(selector.verbose))

    def find(self, rows: IntArray, rng: np.random.Generator, *, quiet: bool = False) -> Found:
        """The blanket in some rows; features are groups."""
        whole = rows.size == self.response.n_rows
        y = self._telling(rows)
        if not y.names:
            stopped = Decision("stopped", -1, (), np.nan, np.nan, len(self.features), "y has no class of two rows")
            return Found(self.options.always_include, (stopped,), 0, {}, {})
        features = self.features if whole else self.features.take(rows)
        show = partial(show_progress, "blanket", False) if quiet else self.show
        copies = copies_among(features, self.options.always_include, self.discrete)
        if not copies:
            return self._search(y, features, self.options, rng, show)
        features, kept = _without(features, copies)
        always = tuple(kept.index(v) for v in self.options.always_include)
        found = translate(self._search(y, features, replace(self.options, always_include=always), rng, show), kept)
        n, why = len(self.features), "says the same as the one given"
        removed = [Decision("removed", v, (same,), np.nan, np.nan, n, why) for v, same in sorted(copies.items())]
        return replace(found, decisions=(*removed, *found.decisions))

    def _telling(self, rows: IntArray) -> Table:
        y = self.response if rows.size == self.response.n_rows else self.response.take(rows)
        return _telling(y, self.options.test is not None)

    def _search(
        self, y: Table, features: Features, options: SearchOptions, rng: np.random.Generator, show: Show
    ) -> Found:
        if self.discrete:
            return discrete_blanket(
                features.table, y, alpha=options.alpha, max_features=options.max_features,
                symmetric=self.symmetric, always_include=options.always_include, rng=rng,
                n_jobs=options.n_jobs, progress=show,
            )  # fmt: skip
        found = find_blanket(y, features, options, rng, show)
        return keep_mutual(y, features, found, options, rng, show) if self.symmetric else found

    def test_members(self, found: Found, rows: IntArray, rng: np.random.Generator) -> Found:
        """The same members with statistics and p-values from these rows."""
        # the search for discrete data takes a missing value for a level, the tests for a column of its own
        features = with_indicators(self.features) if self.discrete else self.features
        y, features = self._telling(rows), features.take(rows)
        if not y.names:
            return replace(found, scores={}, pvalues={})
        tested = [v for v in found.members if not constant_columns(features.part([v])).all()]
        values = member_pvalues(y, features, tested, self.options, rng)
        return replace(
            found,
            n_tests=found.n_tests + len(tested),
            scores={v: statistic for v, (statistic, _) in values.items()},
            pvalues={v: pvalue for v, (_, pvalue) in values.items()},
        )

    def stable_members(self, result: StabilityResult) -> tuple[int, ...]:
        """Features that are always included, then the most frequent of the stable ones."""
        always = self.options.always_include
        stable = [v for v in result.selected if v not in always]
        return (*always, *stable[: self.options.max_features])

    def stability(self, names: Sequence[str], options: dict[str, Any], rng: np.random.Generator) -> StabilityResult:
        def select(rows: IntArray, generator: np.random.Generator) -> Iterable[int]:
            return self.find(rows, generator, quiet=True).members

        verbose = self.show.args[1]
        n, p = self.response.n_rows, len(self.features)
        return stability_selection(
            select, n, p, names=names, always_include=self.options.always_include, rng=rng,
            n_jobs=self.options.n_jobs, verbose=verbose, **options,
        )  # fmt: skip


def refuse_missing(y: Table) -> None:
    """No option of the selector is a remedy for missing responses."""
    n_missing = np.isnan(y.columns).sum(axis=1)
    if n_missing.any():
        k = int(np.argmax(n_missing > 0))
        raise ValueError(
            f"y contains NaN: column {y.names[k]!r} has {n_missing[k]} missing value(s); "
            "y must be complete, leave these rows out."
        )


def warn_of_rare_classes(y: Table, stacklevel: int) -> None:
    """Numbers stored as text, most often; ``stacklevel`` as the caller would give it."""
    if y.nominal.all() and np.ptp(pool_rare(y).columns, axis=1).max() == 0.0 and not constant_columns(y).any():
        n_classes = np.unique(y.columns[0]).size
        warn(
            f"y has {n_classes} classes in {y.n_rows} rows, none of them with {CLASS_ROWS}: given other features nothing "
            "can be tested. Pass numbers if y is a number stored as text, or merge classes.",
            stacklevel=stacklevel + 1,
        )
