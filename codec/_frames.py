"""Frames of pandas and polars: what a table is before its columns are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

INTEGERS = {f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
OBJECTS = "String", "Utf8", "Object", "Decimal", "Int128", "UInt128"  # of polars: Python has their values, numpy not
NESTED = {"List", "Array", "Struct"}  # which are refused, with one of their values
TIMES = {"Date", "Datetime", "Duration", "Time"}


def printable(text: str) -> str:
    """Text without what would break a line or command a terminal: such characters as Python writes them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_polars(data: Any) -> bool:
    """Whether this is polars' own; polars need not be installed."""
    return type(data).__module__.partition(".")[0] == "polars"


def as_frame(data: Any, argument: str) -> Any:
    """Pandas and polars data as a pandas frame; anything else as it is."""
    if is_polars(data):
        data = _from_polars(data)
    refuse_foreign_frame(data, argument)
    if isinstance(data, (pd.Index, pd.api.extensions.ExtensionArray)):
        data = pd.Series(data)
    if isinstance(data, pd.Series):
        data = data.to_frame(data.name if data.name is not None else argument)
    return data


def refuse_foreign_frame(data: Any, argument: str) -> None:
    """Frames of other libraries would be read as bare arrays, without names, their categories as numbers."""
    ours = isinstance(data, (pd.DataFrame, pd.Series)) or is_polars(data)
    if not ours and (hasattr(data, "columns") or hasattr(data, "column_names")):
        remedy = next(
            (f"{name}()" for name in ("to_pandas", "compute") if hasattr(data, name)), "pandas.DataFrame(...)"
        )
        raise TypeError(
            f"{argument} is a {type(data).__module__.partition('.')[0]} {type(data).__name__}; pass an array, or a frame "
            f"of pandas or polars ({remedy} makes one)."
        )


def refuse_series(data: Any, argument: str) -> None:
    """One column alone is no table: it has neither names nor a number of columns."""
    if isinstance(data, pd.Series) or (is_polars(data) and not hasattr(data, "columns")):
        raise ValueError(
            f"{argument} is a Series. Expected 2D array, got 1D array instead: pass a frame, {argument}.to_frame()."
        )


def array_of(data: Any) -> NDArray[Any]:
    """An array; numbers and NaN in a list with text stay what they are."""
    array = np.asarray(data)
    return np.asarray(data, dtype=object) if array.dtype.kind in "US" and not isinstance(data, np.ndarray) else array


def take_rows(data: Any, rows: NDArray[np.int64]) -> Any:
    """Rows of an array, list or frame."""
    if is_polars(data):
        return data[rows]
    if isinstance(data, (pd.DataFrame, pd.Series)):
        return data.iloc[rows]
    if isinstance(data, (pd.Index, pd.api.extensions.ExtensionArray)):  # an array would lose categories and their order
        return data.take(rows)
    return array_of(data)[rows]


def with_named_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The levels of an index that have names are columns like others, but for those that a column has, too."""
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    return frame.reset_index(named) if named else frame


def kind_of(column: pd.Series[Any]) -> str:
    """What the values are, whatever the type: "floating", "string", "date" ..."""
    return pd.api.types.infer_dtype(column, skipna=True)


def text_shown(column: pd.Series[Any]) -> tuple[str, float]:
    """What text a column holds, one value that is no number before all others; and the share of numbers."""
    present = column.dropna()
    numbers = pd.to_numeric(present.astype(str).str.strip(), errors="coerce").notna()
    n_numbers = int(numbers.sum())
    if n_numbers == len(present):  # of more digits than the reader takes for a number
        return f"text such as {str(present.iloc[0])[:30]!r}", 1.0
    beside = f" beside {n_numbers} number{'s' * (n_numbers > 1)}" if n_numbers else ""
    return f"text such as {str(present[~numbers].iloc[0])[:30]!r}{beside}", n_numbers / len(present)


def with_categories(series: pd.Series[Any]) -> pd.Series[Any]:
    """A column of Arrow's dictionaries as pandas' categories, ordered if it says so; any other as it is."""
    dictionary = isinstance(series.dtype, pd.ArrowDtype) and str(series.dtype).startswith("dictionary")
    return series.astype("category") if dictionary else series


def without_nullable(frame: pd.DataFrame) -> pd.DataFrame:
    """Nullable numbers and booleans as floats, where there are categories, too; dense where few values are not missing.

    Scikit-learn makes no array of such a frame.
    """
    if any(isinstance(dtype, pd.SparseDtype) and dtype.fill_value != 0 for dtype in frame.dtypes):
        frame = _by_column(frame, lambda s: s.astype(s.dtype.subtype) if isinstance(s.dtype, pd.SparseDtype) else s)
    if not any(isinstance(dtype, pd.CategoricalDtype) for dtype in frame.dtypes):
        return frame
    return _by_column(frame, lambda s: s.astype(np.float64) if _needs_float(s.dtype) else s)


def _by_column(frame: pd.DataFrame, change: Callable[[pd.Series[Any]], pd.Series[Any]]) -> pd.DataFrame:
    return pd.concat([change(s) for _, s in frame.items()], axis=1).set_axis(frame.columns, axis=1)


def _needs_float(dtype: Any) -> bool:
    return dtype.kind == "b" or (isinstance(dtype, pd.api.extensions.ExtensionDtype) and dtype.kind in "iuf")


def _from_polars(data: Any) -> pd.DataFrame | pd.Series[Any]:
    if hasattr(data, "collect"):
        raise TypeError("a polars LazyFrame holds no data yet; call its collect() first.")
    if not hasattr(data, "get_columns"):
        return _polars_series(data)
    return pd.DataFrame({s.name: _polars_series(s) for s in data.get_columns()})


def _polars_series(series: Any) -> pd.Series[Any]:
    kind = str(series.dtype).partition("(")[0]
    if kind in {"Categorical", "Enum"}:
        return pd.Series(pd.Categorical(series.cast(str).to_list()), name=series.name)
    if kind in OBJECTS or kind in NESTED:
        return pd.Series(series.to_list(), name=series.name, dtype=object)
    if kind == "Boolean":
        return pd.Series(series.to_list(), name=series.name, dtype="boolean")
    if series.null_count() and kind in INTEGERS:
        values = np.asarray(series.fill_null(0).to_numpy())
        return pd.Series(pd.arrays.IntegerArray(values, np.array(series.is_null().to_numpy())), name=series.name)
    if series.null_count() and kind not in TIMES:  # which are refused, as they are without nulls
        series = series.cast(float)
    return pd.Series(np.asarray(series.to_numpy()), name=series.name)
