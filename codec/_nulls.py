"""Copies of the data as they could have been if Y were independent of Z given X.

=====================  =======================================================  ====================
null                   copies                                                   validity
=====================  =======================================================  ====================
permutation            y permuted over all rows (no X)                          exact
stratified             y permuted among rows with the same X                    exact
Freedman-Lane          fit + scale * locally permuted residuals                 large n, smooth P(Y | X)
category               classes of y drawn from fitted probabilities             large n, smooth P(Y | X)
randomization (CRT)    z drawn from P(Z | X)                                    exact if P(Z | X) is
=====================  =======================================================  ====================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from scipy.special import ndtri

from codec import _inference_kernels as kernels
from codec._frames import as_frame
from codec._kernel_ridge import Fit, Smoother
from codec._omnibus import (
    Moving,
    Omnibus,
    Tables,
    make_modulators,
    make_moving,
    near_in_blocks,
    standardize_rows,
)
from codec._residuals import Residuals, embed, follow_terms, light_tailed, two_valued
from codec._tree_kernels import group_rows
from codec._validation import BoolArray, FloatArray, IntArray, Table, holds_large_integers, read_table

LOCAL_NEIGHBORS = 7  # rows from which a local permutation draws, beside the row itself
STRATUM_ROWS = 3  # X is discrete if it has at least this many rows per distinct value, on average
SHARED = 0.01  # probability that two rows have the same number: from this on a column has few values
CLASS_ROWS = 5  # classes of y with fewer rows are pooled where X is smoothed
TABLE_LEVELS = 20  # y and z of at most this many levels get a contingency-table term
SIGN_COLUMNS = 3  # the situations below distort the level from three columns of X on
SIGNAL_SD = 0.9  # both fitted signals at least this strong (1: all of the column) ...
SIGNAL_CORRELATION = 0.9  # ... and this much the same
SCALE_SD = 0.25  # standard deviation of both fitted log noise scales
SCALE_CORRELATION = 0.65
BLOCK_ENTRIES = 16_000_000  # numbers in a block of copies
NOTHING_LEFT = "{} is a function of given in this sample: nothing is left to test, the p-value is 1."

Sampler = Callable[[Any, np.random.Generator], Any]


# --------------------------------------------------------------------------- strata
@dataclass(frozen=True)
class Centred:
    """Columns (q, n) without their means given X, and which of them have two values."""

    standard: FloatArray
    binary: BoolArray


@dataclass(frozen=True)
class Strata:
    """Rows with the same X: stratum s holds ``rows[start[s]:start[s + 1]]``."""

    code: IntArray
    start: IntArray
    rows: IntArray

    @property
    def alone(self) -> float:
        """Share of the rows whose stratum has no other row."""
        sizes = np.diff(self.start)
        return float(np.sum(sizes == 1) / self.rows.size)

    def center(self, columns: FloatArray) -> Centred:
        """Columns (q, n) minus their stratum means."""
        sizes = np.diff(self.start)
        sums = np.add.reduceat(columns[:, self.rows], self.start[:-1], axis=1)
        return Centred(columns - (sums / sizes)[:, self.code], two_valued(columns))

    def permutations(self, n_draws: int, seed: int) -> IntArray:
        """Which row stands where, permuted within strata; (1, n_draws, n)."""
        return np.asarray(kernels.stratified_permutations(self.start, self.rows, n_draws, np.uint64(seed)))[None]


def make_strata(code: IntArray) -> Strata:
    rows = np.argsort(code, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(code))])
    return Strata(code, start, rows)


def one_stratum(n: int) -> Strata:
    return make_strata(np.zeros(n, dtype=np.int64))


def row_codes(table: Table) -> IntArray:
    """Numbers 0, 1, ... of the distinct rows, by first appearance."""
    return np.asarray(group_rows(table.columns)[0])


def is_category(y: Table) -> bool:
    """Whether y is one column of unordered categories, or of two values."""
    return len(y.names) == 1 and has_categories(y)


def has_categories(table: Table) -> bool:
    """Whether a column holds unordered categories, or two values."""
    return bool(np.any(table.nominal | two_valued(table.columns)))


def one_category(table: Table) -> Table:
    """Several columns of categories or two values as one, whose classes are their combinations."""
    if len(table.names) == 1 or not np.all(table.nominal | two_valued(table.columns)):
        return table
    code = row_codes(table)[None, :].astype(np.float64)
    return replace(table, columns=code, nominal=np.array([True]), names=(" and ".join(table.names),))


def has_few_values(table: Table) -> bool:
    """Whether a column holds categories, or numbers that are mostly shared by several rows."""
    return bool(np.any(table.nominal | two_valued(table.columns) | _coarse(table)))


def _coarse(table: Table) -> BoolArray:
    """Columns of numbers, three or more, that two rows share with a probability of a hundredth or more."""
    n = table.n_rows
    found = np.zeros(len(table.names), dtype=np.bool_)
    for j in np.flatnonzero(~(table.nominal | two_valued(table.columns))):
        size = np.unique(table.columns[j], return_counts=True)[1]
        found[j] = size @ (size - 1.0) >= SHARED * n * (n - 1.0)
    return found


def pool_rare(table: Table) -> Table:
    """Classes of fewer than 5 rows made one: copies drawn from fitted probabilities would repeat what is there once.

    The same table where no column has two of them; without columns of which nothing else is left, unless all are so.
    """
    if not table.nominal.any():
        return table
    columns = table.columns.copy()
    for values, nominal in zip(columns, table.nominal, strict=True):
        if nominal:
            _, code, size = np.unique(values, return_inverse=True, return_counts=True)
            rare = size[code] < CLASS_ROWS
            values[rare] = values[rare].min(initial=np.inf)
    if np.array_equal(columns, table.columns):
        return table
    varying = np.flatnonzero(np.ptp(columns, axis=1))
    return replace(table, columns=columns).pick(varying if varying.size else [0])


def find_strata(given: Table) -> Strata | None:
    """The strata of a discrete X; None where most rows have few or no others with the same X."""
    code = row_codes(given)
    if STRATUM_ROWS * (int(code.max()) + 1) > code.size:
        return None
    return make_strata(code)


# --------------------------------------------------------------------------- copies of y
class Null(Protocol):
    """A source of copies of one side of the data."""

    def observed(self) -> Moving:
        """The data themselves, one row."""

    def draw(self, n_draws: int, seed: int) -> Moving:
        """Copies under the null hypothesis."""


@dataclass(frozen=True)
class IndexNull:
    """Which row's y stands where, for a statistic of the order of y alone; (q or 1, n_draws, n)."""

    n: int
    draw: Callable[[int, int], IntArray]

    def observed(self) -> IntArray:
        return np.arange(self.n)[None, None, :]


@dataclass(frozen=True)
class StratifiedNull:
    """Residuals permuted within strata."""

    residuals: Centred
    strata: Strata

    def observed(self) -> Moving:
        own = np.arange(self.strata.rows.size)[None, :]
        return make_moving(self.residuals.standard[:, None, :], own, self.residuals.binary)

    def draw(self, n_draws: int, seed: int) -> Moving:
        (drawn,) = self.strata.permutations(n_draws, seed)
        return make_moving(self.residuals.standard[:, drawn], drawn, self.residuals.binary)


@dataclass(frozen=True)
class FreedmanLaneNull:
    """Fitted values plus scale times locally permuted residuals (Freedman & Lane 1983).

    For residuals they are smoothed and scaled anew: the bias of the smoother is repeated in every copy, for the
    mean and for the noise scale.
    """

    y: Table
    columns: FloatArray
    residuals: Residuals
    near: IntArray

    def observed(self) -> Moving:
        return make_moving(self.residuals.of(self.columns[:, None, :]), binary=self.residuals.binary)

    def draw(self, n_draws: int, seed: int) -> Moving:
        return make_moving(self.residuals.of(self._copies(n_draws, seed)), binary=self.residuals.binary)

    def reordered(self, n_draws: int, seed: int) -> IntArray:
        """The rows of y in the order of a copy; of categories, rows of the classes that a copy is nearest to.

        A column without noise keeps its order.
        """
        copies = self._copies(n_draws, seed)
        drawn = np.empty((len(self.y.names), *copies.shape[1:]), dtype=np.int64)
        start = 0  # of the embedded columns of a response
        for j, (values, nominal) in enumerate(zip(self.y.columns, self.y.nominal, strict=True)):
            levels, example = np.unique(values, return_index=True)
            width = len(levels) if nominal and len(levels) > 2 else 1
            block = slice(start, start + width)
            if width > 1:
                zero = self.columns[block].min(axis=1)[:, None, None]
                drawn[j] = example[(copies[block] - zero).argmax(axis=0)]
            elif self.residuals.noiseless[start]:
                drawn[j] = np.arange(len(values))
            else:
                order = np.broadcast_to(values.argsort(kind="stable"), drawn[j].shape)
                np.put_along_axis(drawn[j], copies[start].argsort(axis=1, kind="stable"), order, axis=1)
            start += width
        return drawn

    def _copies(self, n_draws: int, seed: int) -> FloatArray:
        """Copies of the columns, (q, n_draws, n)."""
        drawn = kernels.local_permutations(self.near, n_draws, np.uint64(seed))
        copies = self.residuals.standard[:, drawn]
        copies *= self.residuals.scale[:, None, :]
        copies += self.residuals.location[:, None, :]
        return copies


@dataclass(frozen=True)
class CategoryNull:
    """Classes of y drawn from their fitted probabilities given X; for residuals smoothed and scaled anew.

    For one binary or nominal y: the residuals of a class are no noise that could be moved to another
    row, because their distribution depends on X through the probability.
    """

    columns: FloatArray
    residuals: Residuals
    cumulative: FloatArray
    example: IntArray  # a row of each class

    def observed(self) -> Moving:
        return make_moving(self.residuals.of(self.columns[:, None, :]), binary=self.residuals.binary)

    def draw(self, n_draws: int, seed: int) -> Moving:
        (drawn,) = self.reordered(n_draws, seed)
        return make_moving(self.residuals.of(self.columns[:, drawn]), binary=self.residuals.binary)

    def reordered(self, n_draws: int, seed: int) -> IntArray:
        """A row of the class that each row has in a copy, (1, n_draws, n)."""
        u = np.random.default_rng(seed).random((n_draws, self.columns.shape[1]))
        drawn = np.zeros(u.shape, dtype=np.int64)
        for bound in self.cumulative[:-1]:
            drawn += u > bound
        return np.asarray(self.example[drawn][None])


def category_null(values: FloatArray, columns: FloatArray, fit: Fit, residuals: Residuals) -> CategoryNull:
    """Probabilities of the classes: each by its own logistic regression; of two, one."""
    classes, first, code = np.unique(values, return_index=True, return_inverse=True)
    if len(classes) == 2:
        second = fit.chances(0, code == 1)
        chance = np.stack([1.0 - second, second])
    else:
        chance = np.stack([fit.chances(j, code == j) for j in range(len(classes))])
        chance /= chance.sum(axis=0)
    return CategoryNull(columns, residuals, np.cumsum(chance, axis=0), first)


def block_sizes(n_draws: int, entries_per_draw: int, *, at_most: int | None = None) -> list[int]:
    """Sizes of the blocks in which copies are made: bounded memory."""
    size = max(1, min(n_draws, BLOCK_ENTRIES // entries_per_draw, at_most or n_draws))
    full, rest = divmod(n_draws, size)
    return [size] * full + ([rest] if rest else [])


# --------------------------------------------------------------------------- what y and X give
class Setting:
    """Y and X, prepared once for tests of any number of Z.

    Parameters
    ----------
    y, given : Table
        ``given`` may be None: no conditioning.
    strata : Strata or None
        Rows with the same X, where copies are made among them; None: X is smoothed.
    rng : Generator
        Landmarks and ties.

    Attributes
    ----------
    response : Table
        Y, rare classes pooled where X is smoothed.
    y : Table
        The same, columns of categories as one.
    points : ndarray of shape (n, d)
        X in standardized form.
    strata : Strata or None
    """

    def __init__(self, y: Table, given: Table | None, strata: Strata | None, rng: np.random.Generator) -> None:
        self.points = np.empty((y.n_rows, 0)) if given is None else embed(given)
        self.strata = one_stratum(y.n_rows) if self.points.shape[1] == 0 else strata
        self.response = y if self.strata is not None else pool_rare(y)
        self.y = self.response if self.strata is not None else pool_rare(one_category(self.response))
        if self.strata is None:
            self._draws = rng.spawn(1)[0].random(y.n_rows)
            self._smoother, self.residuals = follow_terms(Smoother(self.points, rng), self.columns)
            self._tie_rng = rng

    @cached_property
    def columns(self) -> FloatArray:
        """Y in standardized form, (q, n); zeros where nothing of it is left."""
        columns = np.ascontiguousarray(embed(self.y).T)
        return columns if len(columns) else np.zeros((1, self.y.n_rows))

    @cached_property
    def _has_coarse(self) -> bool:
        return bool(_coarse(self.y).any())

    @cached_property
    def _near(self) -> IntArray:
        return near_in_blocks(self.points, min(LOCAL_NEIGHBORS, self.y.n_rows - 1), self._tie_rng)

    @cached_property
    def _modulators(self) -> FloatArray:
        return make_modulators(self.points)

    def null(self) -> Null:
        """Copies of the residuals of y."""
        if self.strata is not None:
            return StratifiedNull(self.strata.center(self.columns), self.strata)
        return self._smooth_null()

    def index_null(self) -> IndexNull:
        """Which row's y stands where in copies of y."""
        draw = self._smooth_null().reordered if self.strata is None else self.strata.permutations
        return IndexNull(self.y.n_rows, draw)

    def _smooth_null(self) -> FreedmanLaneNull | CategoryNull:
        if is_category(self.y):
            fit = self._smoother.fit(self.columns, learn_metric=False, undersmoothing=1.0)
            return category_null(self.y.columns[0], self.columns, fit, self.residuals)
        return FreedmanLaneNull(self.y, self.columns, self.residuals, self._near)

    def own_residuals(self) -> Residuals | Centred:
        """Residuals of y, for copies of z."""
        if self.strata is not None:
            return self.strata.center(self.columns)
        return self.residuals

    def anchor(self, z: Table) -> Residuals | Centred:
        """Residuals of z given X."""
        columns = np.ascontiguousarray(embed(self.untied(z)).T)
        if self.strata is not None:
            return self.strata.center(columns)
        return follow_terms(self._smoother.branch(), columns)[1]

    def untied(self, z: Table) -> Table:
        """Z with ties broken by chance where y and z both have few values and X is smoothed.

        What is left of a column of few values tells its fitted value. Where both sides do that they agree, and copies
        of y, which are no longer of few values, do not.
        """
        if self.strata is not None or not self._has_coarse:
            return z
        columns = z.columns.copy()
        for j in np.flatnonzero(_coarse(z)):
            place = np.empty(z.n_rows)
            place[np.lexsort((self._draws, columns[j]))] = np.arange(z.n_rows)
            columns[j] = ndtri((place + 0.5) / z.n_rows)
        return replace(z, columns=columns)

    def anchors(self, columns: FloatArray) -> FloatArray:
        """Residuals of many columns (q, n) given X, with the kernels that y chose or could have chosen."""
        if self.strata is not None:
            return self.strata.center(columns).standard
        return Residuals(self._smoother.branch(), columns, learn_metric=False).standard

    def share_kernels(self) -> None:
        """Make what :meth:`anchors` would make at every call."""
        if self.strata is None:
            self._smoother.refine_all()

    def pooled_note(self, given: Table) -> tuple[str, ...]:
        """What is said where rare classes of y, as it was given, were pooled; an error if nothing is left."""
        name = given.argument
        if self.response is given:
            return ()
        if np.ptp(self.response.columns, axis=1).max() == 0.0:
            raise ValueError(
                f"no class of {name} has {CLASS_ROWS} rows or more: given a continuous X nothing can be tested; merge "
                f"classes, or pass numbers if {name} has an order."
            )
        return (f"classes of {name} with fewer than {CLASS_ROWS} rows were taken as one.",)

    def noiseless_note(self, name: str) -> tuple[str, ...]:
        """What is said where y, or what stands for it here, is a function of X."""
        noiseless = self.strata is None and bool(self.residuals.noiseless.all())
        return (NOTHING_LEFT.format(name),) if noiseless else ()

    def warning_signs(self, anchor: Residuals | Centred) -> tuple[str, ...]:
        """What the fits say where nothing is left to test, and on two situations in which no test holds its level."""
        if self.strata is not None or not isinstance(anchor, Residuals):
            return ()
        if self.residuals.noiseless.all() or anchor.noiseless.all():
            return (NOTHING_LEFT.format("y or z"),)
        if self.points.shape[1] < SIGN_COLUMNS:
            return ()
        notes = []
        if _alike(self.residuals.location, anchor.location, SIGNAL_SD, SIGNAL_CORRELATION):
            notes.append(
                "y and z look like the same strong function of given: the part of it that no smoother finds "
                "makes their residuals correlate, and a small p-value may mean just that. Use more rows, "
                "fewer columns of given, or method='crt' with a sampler."
            )
        scales = [np.log(side.scale[~side.binary]) for side in (self.residuals, anchor)]
        if _alike(scales[0], scales[1], SCALE_SD, SCALE_CORRELATION):
            notes.append(
                "the noise of y and of z grows and shrinks with the same function of given: what remains of "
                "it makes their squares correlate, and a small p-value may mean just that. Use logarithms or "
                "ranks of y and z, more rows, or method='crt' with a sampler."
            )
        return tuple(notes)

    @cached_property
    def varying(self) -> list[FloatArray]:
        """The smoothest functions of X that y was found to depend on, by decreasing weight; empty for strata."""
        return [] if self.strata is not None else self.residuals.smooth_functions()

    def omnibus(
        self,
        z: Table,
        anchor: Residuals | Centred,
        n_neighbors: int | None,
        rng: np.random.Generator,
        functions: Sequence[FloatArray] = (),
    ) -> Omnibus:
        """The statistic of z."""
        return Omnibus(
            anchor.standard,
            self.points,
            n_neighbors,
            rng,
            self._tables(z),
            functions,
            self._modulators,
            anchor.binary,
        )

    def _tables(self, z: Table) -> Tables | None:
        if self.strata is None:
            return None
        y_code, z_code = row_codes(self.y), row_codes(z)
        if max(y_code.max(), z_code.max()) >= TABLE_LEVELS:
            return None
        cells = z_code * (self.strata.code.max() + 1) + self.strata.code
        return Tables(y_code, np.unique(cells, return_inverse=True)[1].astype(np.int64))


def _alike(first: FloatArray, second: FloatArray, least_sd: float, least_correlation: float) -> bool:
    """Whether a row of one and a row of the other both vary much, and together."""
    strong = [rows[rows.std(axis=1) >= least_sd] for rows in (first, second)]
    if not (len(strong[0]) and len(strong[1])):
        return False
    a, b = (standardize_rows(rows) for rows in strong)
    return bool(np.abs(a @ b.T / a.shape[1]).max() >= least_correlation)


# --------------------------------------------------------------------------- copies of z
@dataclass(frozen=True)
class NumberedNull:
    """Copies by number, for a statistic that makes them itself; 0 is the data."""

    def observed(self) -> IntArray:
        return np.zeros(1, dtype=np.int64)

    def draw(self, n_draws: int, seed: int) -> IntArray:
        return np.random.default_rng(seed).integers(1, 2**63, size=n_draws)


@dataclass(frozen=True)
class Redrawn:
    """Z, rare classes pooled, and copies of it by number, made as those of y are; and what is to be said of it."""

    z: Table
    draw: Callable[[int], Table]
    notes: tuple[str, ...]


def reordered_draws(z: Table, given: Table, rng: np.random.Generator) -> Redrawn:
    setting = Setting(z, given, None, rng)
    null, own = setting.index_null(), setting.response

    def draw(number: int) -> Table:
        rows = np.broadcast_to(null.draw(1, number)[:, 0], own.columns.shape)
        return replace(own, columns=np.take_along_axis(own.columns, rows, axis=1))

    return Redrawn(own, draw, (*setting.pooled_note(z), *setting.noiseless_note("z")))


def sampler_draws(sampler: Sampler, z: Any, z_table: Table, given: Any) -> Callable[[int], Table]:
    """Z of a number, drawn by the sampler and checked against z."""
    if holds_large_integers(as_frame(z, "z")):
        raise ValueError(
            "z holds integers of 2**53 or more, which floating-point numbers do not hold; subtract a number from z and "
            "from the sampler's draws."
        )
    return lambda number: _checked_draw(sampler(given, np.random.default_rng(number)), z, z_table)


def _checked_draw(drawn: Any, z: Any, z_table: Table) -> Table:
    table = read_table(_with_categories(drawn, as_frame(z, "z")), "the sampler's draw")
    if table.columns.shape != z_table.columns.shape:
        raise ValueError(
            f"the sampler returned {table.n_rows} row(s) and {len(table.names)} column(s); z has "
            f"{z_table.n_rows} and {len(z_table.names)}: sampler(given, rng) must return an array "
            "shaped like z."
        )
    if not np.isfinite(table.columns).all():
        raise ValueError("the sampler returned missing or infinite values, or categories that z does not have.")
    if (table.nominal != z_table.nominal).any():
        raise ValueError(
            "the sampler returned numbers for a categorical z (or the reverse); return the same kind of columns."
        )
    return table


def _with_categories(drawn: Any, z: Any) -> Any:
    """The draw with the categories of z, by label: codes are comparable; labels that z does not have are missing."""
    if not isinstance(z, pd.DataFrame) or not any(isinstance(dtype, pd.CategoricalDtype) for dtype in z.dtypes):
        return drawn
    drawn = as_frame(drawn, "the sampler's draw")
    if not isinstance(drawn, pd.DataFrame):
        if np.ndim(drawn) not in {1, 2}:
            return drawn
        drawn = pd.DataFrame(np.asarray(drawn))
    if drawn.shape[1] != z.shape[1]:
        return drawn
    columns = {}
    for k, dtype in enumerate(z.dtypes):
        columns[k] = drawn.iloc[:, k]
        if isinstance(dtype, pd.CategoricalDtype):
            codes = dtype.categories.get_indexer(pd.Index(np.asarray(columns[k])))
            columns[k] = pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=drawn.index)
    return pd.DataFrame(columns)


def centred_copies(z: Table, draws: list[Table]) -> FloatArray:
    """Z and its copies minus their mean over all B + 1 at each row: symmetric, hence exact; (q, B + 1, n)."""
    rows: list[FloatArray] = []
    for k, nominal in enumerate(z.nominal):
        stack = np.stack([table.columns[k] for table in (z, *draws)])
        if nominal:
            rows.extend((stack == level).astype(np.float64) for level in np.unique(stack))
        else:
            rows.append(light_tailed(stack.ravel()).reshape(stack.shape))
    copies = np.stack(rows)
    return np.asarray(copies - copies.mean(axis=1, keepdims=True))
