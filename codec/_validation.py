"""The door: every array, frame and option is checked and normalised here, once.

Inside the package there is one form only: a :class:`Table` holds float64 columns, one contiguous
row of ``columns`` per variable, categories as integer codes marked in ``nominal``.
"""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import delayed
from numpy.typing import NDArray
from scipy import sparse

from codec._frames import array_of, as_frame, with_categories
from codec._notes import warn
from codec._parallel import in_threads

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Rng = int | np.random.SeedSequence | np.random.Generator | None

MIN_ROWS = 3
ROWS_AT_ONCE = 512  # at least, of an array that is turned into columns
VALUES_AT_ONCE = 2**17
COPIES = "rows are copies of other rows"
HARMLESS = 0.02  # share of rows that are copies: as good as none
MANY_VALUES, HARDLY = 0.25, 0.05  # distinct values of a column, of the rows; chance, of what agrees
DECISIVE = 5.0  # groups of rows that are expected to differ, below which it is open whether they are copies
MANY_COPIES = 0.15  # share of rows, above which open is no
FEW, OFTEN = 10, 0.05  # rows, and their share, up to which a value may be there by copying
EXACT_INTEGERS = 2**53  # below, float64 holds every integer
SMALLEST_SQUARE = 1e-290  # of a column's span: smaller ones leave no digits to the gaps


@dataclass(frozen=True)
class Table:
    """Variables in the package's normal form.

    Attributes
    ----------
    columns : ndarray of shape (p, n), float64
        One contiguous row per variable; NaN marks a missing value.
    nominal : ndarray of shape (p,), bool
        True where a column holds codes of categories without order.
    names : tuple of str
        Column names; ``x0, x1, ...`` when the input carries none.
    argument : str
        The name of the argument the table came from, for messages.
    """

    columns: FloatArray
    nominal: BoolArray
    names: tuple[str, ...]
    argument: str

    @property
    def n_rows(self) -> int:
        return int(self.columns.shape[1])

    def take(self, rows: NDArray[Any]) -> Table:
        return replace(self, columns=np.ascontiguousarray(self.columns[:, rows]))

    def pick(self, chosen: Sequence[int] | IntArray) -> Table:
        """Some of the columns, in this order."""
        names = tuple(self.names[j] for j in chosen)
        return replace(self, columns=self.columns[chosen], nominal=self.nominal[chosen], names=names)


# --------------------------------------------------------------------------- reading one argument
def read_table(data: Any, argument: str, *, text_is_nominal: bool = False, n_jobs: int | None = None) -> Table:
    """Bring an array, list, Series or frame (pandas or polars) to the normal form.

    Parameters
    ----------
    data : array-like of shape (n,) or (n, p)
        The caller's data; never modified.
    argument : str
        The argument's name, for messages.
    text_is_nominal : bool, default False
        Read text as categories (responses); otherwise text is a ``TypeError``.
    n_jobs : int, optional
        Threads that turn the rows of an array into columns.
    """
    if data is None:
        raise ValueError(f"{argument} is None; pass an array or a data frame.")
    if sparse.issparse(data):
        raise TypeError(f"{argument} is a sparse matrix, but dense data is required; use {argument}.toarray().")
    data = as_frame(data, argument)
    if isinstance(data, pd.DataFrame):
        labels = [str(label) for label in data.columns]
        series = [data.iloc[:, k] for k in range(data.shape[1])]
        _check_shape(data.shape, argument)
    else:
        array = _as_array(data, argument)
        prefix = "x" if argument == "X" else argument
        if array.dtype.kind in "bf" or (array.dtype.kind in "iu" and not holds_large_integers(array)):
            columns = _columns_of(array, check_jobs(n_jobs))
            names = tuple(f"{prefix}{k}" for k in range(array.shape[1]))
            return Table(columns, np.zeros(len(names), dtype=np.bool_), names, argument)
        labels = [f"{prefix}{k}" for k in range(array.shape[1])]
        series = [
            pd.Series(array[:, k], dtype=object if array.dtype == object else None) for k in range(array.shape[1])
        ]
    pairs = [
        _read_column(s, f"column {label!r} of {argument}", text_is_nominal)
        for s, label in zip(series, labels, strict=True)
    ]
    columns = np.ascontiguousarray(np.stack([values for values, _ in pairs]))
    nominal = np.array([is_nominal for _, is_nominal in pairs], dtype=np.bool_)
    return Table(columns + 0.0, nominal, tuple(labels), argument)  # + 0.0: -0.0 becomes 0.0


def _columns_of(array: NDArray[Any], n_jobs: int | None) -> FloatArray:
    """The columns of an array one after the other, some rows at a time, which caches hold."""
    columns = np.empty(array.shape[::-1])
    size = max(ROWS_AT_ONCE, VALUES_AT_ONCE // len(columns))
    runs = (slice(a, a + size) for a in range(0, len(array), size))
    in_threads([delayed(_turn)(array[run], columns[:, run]) for run in runs], n_jobs)
    return columns


def _turn(rows: NDArray[Any], out: FloatArray) -> None:
    np.add(rows.T, 0.0, out=out)  # -0.0 becomes 0.0


def without_mask(data: Any) -> Any:
    """Masked values are missing values."""
    if not isinstance(data, np.ma.MaskedArray):
        return data
    if data.dtype.kind in "cmM":  # refused, whatever is masked
        return np.asarray(data)
    if data.dtype.kind in "bf" or (data.dtype.kind in "iu" and not holds_large_integers(data)):
        return np.ma.filled(data.astype(np.float64), np.nan)
    return np.ma.filled(data.astype(object), np.nan)


def _as_array(data: Any, argument: str) -> NDArray[Any]:
    data = without_mask(data)
    try:
        array = array_of(data)
    except ValueError as error:
        raise ValueError(f"{argument} is not a rectangular array: {error}") from None
    if array.dtype.kind == "V":
        raise TypeError(f"{argument} is a structured array; pass a data frame, or its fields as columns.")
    if array.ndim == 1:
        array = array[:, None]
    _check_shape(array.shape, argument)
    return array


def _check_shape(shape: tuple[int, ...], argument: str) -> None:
    if len(shape) != 2:
        raise ValueError(f"{argument} has {len(shape)} dimensions; expected an array of shape (n,) or (n, p).")
    if shape[0] == 0 or shape[1] == 0:
        raise ValueError(
            f"{argument} is empty: found {shape[0]} sample(s) and {shape[1]} column(s); "
            "at least one row and one column are required."
        )


def _read_column(series: pd.Series[Any], what: str, text_is_nominal: bool) -> tuple[FloatArray, bool]:
    """Float64 values of one column and whether they are codes without order."""
    series = with_categories(series)
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _codes(np.asarray(series.cat.codes)), not dtype.ordered
    if dtype.kind in "iu":
        return _integers(series, what), False
    if dtype.kind in "bf":
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan)), False
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {what} is complex; pass its real parts.")
    if dtype.kind in "mM":
        raise TypeError(f"{what} holds dates or durations; convert it to numbers first.")
    return _read_objects(series, what, text_is_nominal)


def _integers(series: pd.Series[Any], what: str) -> FloatArray:
    """Float64 values of integers; large ones are counted from the smallest: order and differences are all that counts."""
    present = series.notna().to_numpy(dtype=np.bool_)
    try:
        values = np.array(series.to_numpy(dtype=np.float64, na_value=np.nan))
    except OverflowError:  # larger than any floating-point number
        values = np.where(present, np.inf, np.nan)
    if np.abs(values[present]).max(initial=0.0) >= EXACT_INTEGERS:
        whole = np.array([int(value) for value in series[present]], dtype=object)
        try:
            values[present] = (whole - whole.min()).astype(np.float64)
        except OverflowError:
            values[present] = 0.0
        if np.unique(values[present]).size < len(set(whole)):
            raise ValueError(
                f"{what} holds integers from {whole.min()} to {whole.max()}, and floating-point numbers do not tell "
                "all of them apart; pass their ranks, or smaller integers."
            )
    return values


def holds_large_integers(data: Any) -> bool:
    """Whether integers are so large that they are counted from the smallest."""
    columns = [data.iloc[:, k] for k in range(data.shape[1])] if isinstance(data, pd.DataFrame) else [np.asarray(data)]
    for column in columns:
        if column.dtype.kind in "iu" and column.size and max(-int(column.min()), int(column.max())) >= EXACT_INTEGERS:
            return True
    return False


def _read_objects(series: pd.Series[Any], what: str, text_is_nominal: bool) -> tuple[FloatArray, bool]:
    present = series[series.notna()]
    sample = next(iter(present), None)
    kinds = {type(value) for value in present}
    if all(issubclass(kind, numbers.Integral) for kind in kinds):
        return _integers(series, what), False
    if all(issubclass(kind, (numbers.Real, np.bool_, Decimal)) for kind in kinds):
        try:
            values = np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
        except (ArithmeticError, ValueError) as error:  # beyond any floating-point number, or a signal
            raise ValueError(
                f"{what} holds numbers such as {sample!r}, and one that no floating-point number is near to ({error}); "
                "pass their ranks."
            ) from error
        if np.unique(values[series.notna()]).size < len(set(present)):
            raise ValueError(
                f"{what} holds numbers such as {sample!r}, and floating-point numbers do not tell all of them apart; "
                "pass their ranks, or fewer digits."
            )
        return values, False
    if not all(issubclass(kind, (str, bytes)) for kind in kinds):
        raise TypeError(
            f"{what} holds objects such as {sample!r}; each value must be a number "
            "(argument must be a string or a number)."
        )
    if text_is_nominal:
        return _codes(pd.factorize(series, sort=True)[0]), True
    raise TypeError(
        f'{what} holds text such as {sample!r}; use .astype("category"), of polars .cast(pl.Categorical), for categories '
        "or leave the column out."
    )


def _codes(codes: NDArray[Any]) -> FloatArray:
    values = codes.astype(np.float64)
    values[codes < 0] = np.nan
    return values


# --------------------------------------------------------------------------- several arguments
def drop_incomplete(tables: Sequence[Table], nan_policy: str, *, stacklevel: int = 3) -> tuple[list[Table], int]:
    """Equal lengths, no infinity; missing values are an error or their rows are left out.

    ``stacklevel`` is that of a warning that the caller would give itself.

    Returns
    -------
    tables : list of Table
        The complete rows of every table.
    n_omitted : int
        How many rows were left out.
    """
    check_option(nan_policy, "nan_policy", ("raise", "omit"))
    first = tables[0]
    for table in tables:
        if table.n_rows != first.n_rows:
            raise ValueError(
                f"{first.argument} and {table.argument} have different lengths "
                f"(found inconsistent numbers of samples: {first.n_rows} and {table.n_rows}); "
                "every argument needs one row per sample."
            )
    suspect = [table for table in tables if not _has_finite_sum(table)]
    for table in suspect:
        _refuse_infinite(table)
    keep = np.ones(first.n_rows, dtype=np.bool_)
    for table in suspect:
        missing = np.isnan(table.columns)
        if nan_policy == "raise" and missing.any():
            k = int(np.argmax(missing.any(axis=1)))
            raise ValueError(
                f"{table.argument} contains NaN: column {table.names[k]!r} has "
                f"{int(missing[k].sum())} missing value(s); impute them, or pass nan_policy='omit' "
                "or allow_nan=True where there is such a parameter."
            )
        keep &= ~missing.any(axis=0)
    n_omitted = int(first.n_rows - keep.sum())
    if keep.sum() < MIN_ROWS:
        raise ValueError(
            f"{first.argument} has {first.n_rows} row(s), {int(keep.sum())} of them complete; "
            f"nearest neighbours need at least {MIN_ROWS} (n_samples={first.n_rows})."
        )
    if n_omitted:
        warn(f"{n_omitted} of {first.n_rows} rows have missing values and were left out.", stacklevel=stacklevel + 1)
        return [table.take(keep) for table in tables], n_omitted
    return list(tables), 0


def _has_finite_sum(table: Table) -> bool:
    """Then no value is missing or infinite; one pass over the data, and nearly always the answer."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(table.columns.sum()))


def _refuse_infinite(table: Table) -> None:
    infinite = np.isinf(table.columns)
    if infinite.any():
        k = int(np.argmax(infinite.any(axis=1)))
        raise ValueError(
            f"{table.argument} contains infinity: column {table.names[k]!r} has "
            f"{int(infinite[k].sum())} infinite value(s); replace them by finite ones or by ranks."
        )


def rows_without_copies(tables: Sequence[Table]) -> IntArray | None:
    """The rows that are no copies of earlier ones; None where hardly any is, or chance may have made equal rows.

    Only a value that few rows share, in a column of many values, tells of copies: not the zeros of an inflated count,
    a censored time, or a missing value. Rows without one are left out of all that. Of several tables the last is the
    response.
    """
    columns = [column for table in tables for column in table.columns]
    n = tables[0].n_rows
    if n - first_of_equal(columns).size <= HARMLESS * n:
        return None
    coded = [np.unique(column, return_inverse=True, return_counts=True) for column in columns]
    rare = np.array([_tells(values, count, n)[code] for values, code, count in coded])
    telling = np.flatnonzero(rare.any(axis=0))
    if not telling.size:
        return None
    copies = np.delete(telling, first_of_equal([column[telling] for column in columns]))
    open_from = len(columns)
    if len(tables) > 1 and copies.size > MANY_COPIES * n:
        open_from -= len(tables[-1].names)
    if copies.size <= HARMLESS * n or _agree_by_chance([code for _, code, _ in coded], rare, open_from):
        return None
    return np.delete(np.arange(n), copies)


def _tells(values: FloatArray, count: IntArray, n: int) -> NDArray[np.bool_]:
    """Which values of a column tell of copies."""
    return (values.size >= MANY_VALUES * n) & (count <= max(FEW, OFTEN * n)) & ~np.isnan(values)


def _agree_by_chance(codes: Sequence[IntArray], rare: NDArray[np.bool_], open_from: int) -> bool:
    """Whether rows that are equal but for one column agree in that as well because any two rows often do.

    Several rows of a patient, a place or a rounded amount have the same X, and a y that takes few values makes many of
    them equal, but others of them differ in y; rows that were copied agree in every column. Where hardly any group of
    rows is expected to differ nobody can tell; in a column from ``open_from`` on this counts as chance.
    """
    draw = np.random.default_rng(0)  # equal sums of random words: equal rows
    words = [draw.integers(2**64, size=int(code.max()) + 1, dtype=np.uint64)[code] for code in codes]
    whole: NDArray[np.uint64] = np.add.reduce(words)
    n_telling = rare.sum(axis=0)
    for j, (word, tells) in enumerate(zip(words, rare, strict=True)):
        rows = n_telling > tells  # some other column tells of copies
        key = (whole - word)[rows]
        count, sizes, equal = (np.unique(k, return_counts=True)[1] for k in (word[rows], key, whole[rows]))
        own, elsewhere, both = (float((c * (c - 1.0)).sum()) for c in (count, sizes, equal))
        n_pairs = float(key.size) * (key.size - 1.0)
        if (own - both) / max(n_pairs - elsewhere, 1.0) * elsewhere < HARDLY * both or not both:
            continue  # chance makes hardly any of the pairs that agree
        tied, share = np.unique(sizes, return_counts=True), count / key.size
        expected = sum(n * (1.0 - float((share**size).sum())) for size, n in zip(*tied, strict=True))
        if _mixed(key, whole[rows]) > expected / 4.0 or (expected < DECISIVE and j >= open_from):
            return True
    return False


def _mixed(key: NDArray[np.uint64], whole: NDArray[np.uint64]) -> int:
    """Groups of equal keys in which the whole rows differ."""
    order = np.argsort(key, kind="stable")
    start = np.flatnonzero(np.r_[True, key[order][1:] != key[order][:-1]])
    low, high = (bound.reduceat(whole[order], start) for bound in (np.minimum, np.maximum))
    return int((low != high).sum())


def count_once(tables: Sequence[Table], stacklevel: int) -> list[Table]:
    """The tables without the copies of rows, and a warning if there were any."""
    rows = rows_without_copies(tables)
    if rows is None:
        return list(tables)
    n = tables[0].n_rows
    warn(f"{copies_note(n - rows.size, n)}; each row counts once.", stacklevel=stacklevel + 1)
    return [table.take(rows) for table in tables]


def copies_note(n_copies: int, n_rows: int) -> str:
    """What to say of rows that are there twice."""
    return f"{n_copies} of {n_rows} {COPIES}, which are no further evidence"


def first_of_equal(columns: Sequence[FloatArray]) -> IntArray:
    """The first row of every set of rows that agree in all columns."""
    n = columns[0].size
    again, group = np.arange(n), np.zeros(n, dtype=np.int64)
    for column in columns:  # which rows agree so far; of continuous data few after the first column
        _, code = np.unique(column[again], return_inverse=True)
        _, group, count = np.unique(group * (code.max() + 1) + code, return_inverse=True, return_counts=True)
        again, group = again[count[group] > 1], group[count[group] > 1]
        if again.size == 0:
            return np.arange(n)
    copies = np.delete(again, np.unique(group, return_index=True)[1])
    return np.delete(np.arange(n), copies)


def check_spread(table: Table) -> None:
    """Squared distances must neither overflow nor vanish."""
    with np.errstate(over="ignore", under="ignore"):
        spread = np.ptp(table.columns, axis=1)
        squared = table.columns.shape[0] * spread * spread
    wrong = ~np.isfinite(squared) | ((spread > 0.0) & (squared < SMALLEST_SQUARE))
    if wrong.any():
        k = int(np.argmax(wrong))
        what = "vanish, multiply" if spread[k] < 1.0 else "overflow, divide"
        raise ValueError(
            f"column {table.names[k]!r} of {table.argument} spans {spread[k]:.3g}: squared distances "
            f"{what} the column by a constant."
        )


def constant_columns(table: Table) -> BoolArray:
    """Which columns hold a single value; most differ in the first rows already."""
    constant = np.asarray((table.columns[:, :9] == table.columns[:, :1]).all(axis=1))
    constant[constant] = (table.columns[constant] == table.columns[constant, :1]).all(axis=1)
    return constant


# --------------------------------------------------------------------------- options
def check_option(value: Any, argument: str, allowed: Iterable[Any]) -> None:
    """Refuse a value that is not among the allowed ones (``True`` is not ``1``)."""
    allowed = tuple(allowed)
    if not any(type(value) is type(option) and value == option for option in allowed):
        options = ", ".join(repr(option) for option in allowed)
        raise ValueError(f"{argument} is {value!r}; it must be one of {options}.")


def check_integer(value: Any, argument: str, low: int, high: int | None = None) -> int:
    """Return an int within [low, high]; anything else names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} is {value!r}; it must be an integer.")
    number = int(value)
    if number < low or (high is not None and number > high):
        limit = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{argument} is {number}; it must be {limit}.")
    return number


def check_neighbors(n_neighbors: Any, n_rows: int) -> int:
    """A number of neighbours that the rows can give."""
    k = check_integer(n_neighbors, "n_neighbors", 1)
    if k >= n_rows:
        raise ValueError(
            f"n_neighbors is {k}, but only {n_rows} complete rows are there; "
            f"it must be smaller than the number of rows (n_samples={n_rows})."
        )
    if k * n_rows * n_rows >= 2**62:
        raise ValueError(
            f"n_neighbors is {k} for {n_rows} rows; the integer sums hold up to n_neighbors = "
            f"{(2**62 - 1) // n_rows**2} there."
        )
    return k


def check_jobs(n_jobs: Any) -> int | None:
    """None, or an integer other than 0, as joblib has it."""
    if n_jobs is None:
        return None
    number = check_integer(n_jobs, "n_jobs", -(2**31))
    if number == 0:
        raise ValueError("n_jobs is 0; it must be None, a positive number of workers, or -1 for all.")
    return number


def check_positive(value: Any, argument: str) -> float:
    """Return a finite float > 0."""
    if not 0.0 < _number(value, argument) < np.inf:
        raise ValueError(f"{argument} is {value}; it must be positive and finite.")
    return float(value)


def check_amount(value: Any, argument: str) -> float:
    """Return a finite float >= 0."""
    if not 0.0 <= _number(value, argument) < np.inf:
        raise ValueError(f"{argument} is {value}; it must be 0 or more and finite.")
    return float(value)


def _number(value: Any, argument: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} is {value!r}; it must be a number.")
    return float(value)


def check_flag(value: Any, argument: str) -> bool:
    """Return a bool; a truthy object is refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} is {value!r}; it must be True or False.")
    return bool(value)


def as_generator(rng: Any, argument: str = "rng") -> np.random.Generator:
    """Generator of a seed, SeedSequence or Generator; the global state is never used.

    A SeedSequence counts the streams that are made of it, so a copy is taken.
    """
    if isinstance(rng, np.random.SeedSequence):
        rng = np.random.SeedSequence(
            rng.entropy, spawn_key=rng.spawn_key, pool_size=rng.pool_size, n_children_spawned=rng.n_children_spawned
        )
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{argument} is {rng!r}; pass None, an int from 0 on, a SeedSequence or a Generator."
        ) from None


def refuse_equal_names(names: Iterable[Any], argument: str) -> None:
    """Refuse columns that a name cannot tell apart."""
    equal = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if equal:
        shown = ", ".join(map(repr, equal[:8])) + (", ..." if len(equal) > 8 else "")
        raise ValueError(
            f"{argument} has several columns called {shown}; every column needs a name of its own, rename them."
        )


def list_of_columns(chosen: Any, argument: str) -> list[Any]:
    """What was chosen, one alone too; an iterator would be empty when it is read again."""
    if chosen is None:
        return []
    if isinstance(chosen, (str, numbers.Integral)):
        return [chosen]
    if isinstance(chosen, Iterator) or not isinstance(chosen, Iterable):
        what = "can be read only once" if isinstance(chosen, Iterator) else "holds no columns"
        raise TypeError(f"{argument} is {chosen!r}, which {what}; pass a list of names or indices.")
    return list(chosen)


def columns_by_name(chosen: Any, names: Sequence[str], argument: str) -> list[int]:
    """Column indices of a list of names or indices, in the order given, each once."""
    if isinstance(chosen, (str, numbers.Integral)):
        chosen = [chosen]
    indices: list[int] = []
    for item in chosen:
        index = _column_index(item, names, argument)
        if index in indices:
            raise ValueError(f"{argument} names column {item!r} twice.")
        indices.append(index)
    return indices


def _column_index(item: Any, names: Sequence[str], argument: str) -> int:
    if isinstance(item, tuple):  # a label of several levels; names are strings
        item = str(item)
    if isinstance(item, str):
        if item not in names:
            raise ValueError(f"{argument} names {item!r}, which is no column of X.")
        if list(names).count(item) > 1:
            raise ValueError(f"{argument} names {item!r}, the name of several columns of X; pass the column's index.")
        return list(names).index(item)
    return check_integer(item, argument, 0, len(names) - 1)


Ties = Literal["average", "random"]
NanPolicy = Literal["raise", "omit"]
Standardize = Literal["scale", "bounded", "rank"] | None
