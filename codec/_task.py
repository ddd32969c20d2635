"""One table to search for a blanket: whole, in halves, or split into rows that search and rows that test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from codec._decisions import Found
from codec._family import Features, with_indicators
from codec._forward import show_progress
from codec._hiton import discrete_blanket
from codec._markov import SearchOptions, find_blanket, keep_mutual, member_pvalues
from codec._notes import warn
from codec._nulls import CLASS_ROWS, pool_rare
from codec._stability import StabilityResult, stability_selection
from codec._validation import FloatArray, IntArray, Table, constant_columns

DISCRETE_LEVELS = 10  # a column of at most this many whole numbers is discrete
MIN_SPLIT_ROWS = 20  # rows that each part of a split must have


def few_whole_numbers(values: FloatArray) -> bool:
    """Whether a column counts as discrete."""
    present = values[~np.isnan(values)]
    return bool((present == np.round(present)).all()) and np.unique(present).size <= DISCRETE_LEVELS


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


def _varying(y: Table) -> Table:
    """The responses that vary in these rows; a rare class may be absent from them."""
    return y.pick(np.flatnonzero(~constant_columns(y)))


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
        y = self.response if whole else _varying(self.response.take(rows))
        features = self.features if whole else self.features.take(rows)
        show = partial(show_progress, "blanket", False) if quiet else self.show
        if self.discrete:
            return discrete_blanket(
                features.table, y, alpha=self.options.alpha, max_features=self.options.max_features,
                symmetric=self.symmetric, always_include=self.options.always_include, rng=rng,
                n_jobs=self.options.n_jobs, progress=show,
            )  # fmt: skip
        found = find_blanket(y, features, self.options, rng, show)
        return keep_mutual(y, features, found, self.options, rng, show) if self.symmetric else found

    def test_members(self, found: Found, rows: IntArray, rng: np.random.Generator) -> Found:
        """The same members with statistics and p-values from these rows."""
        # the search for discrete data takes a missing value for a level, the tests for a column of its own
        features = with_indicators(self.features) if self.discrete else self.features
        y, features = _varying(self.response.take(rows)), features.take(rows)
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
            if constant_columns(self.response.take(rows)).all():  # a rare class is absent from this half
                return ()
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


def warn_of_rare_classes(y: Table) -> None:
    """Numbers stored as text, most often."""
    if y.nominal.all() and np.ptp(pool_rare(y).columns, axis=1).max() == 0.0 and not constant_columns(y).any():
        n_classes = np.unique(y.columns[0]).size
        warn(
            f"y has {n_classes} classes in {y.n_rows} rows, none of them with {CLASS_ROWS}: given other features nothing "
            "can be tested. Pass numbers if y is a number stored as text, or merge classes.",
            stacklevel=4,
        )
