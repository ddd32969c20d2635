"""``python -m codec``: a demonstration on real data, and feature selection for a file.

Messages for the user go to stderr and are one line long; results go to stdout. Exit status: 0 done,
2 the request cannot be carried out, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.metadata
import importlib.util
import io
import os
import re
import shlex
import shutil
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from codec._blanket import MarkovBlanketSelector
from codec._forward import show_progress
from codec._frames import kind_of, printable, text_shown, with_named_index
from codec._selection import SelectionPath, foci, lfoci

READERS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
OPTIONS = {"n_neighbors": "--neighbors", "max_features": "--max-features", "n_jobs": "--jobs", "alpha": "--alpha"}
OLD_PANDAS = int(pd.__version__.partition(".")[0]) < 3  # its default rounds; later ones have no other
PRECISELY: dict[str, Any] = {"float_precision": "round_trip"} if OLD_PANDAS else {}
INDEX_NAME = re.compile(r"Unnamed: 0(\.\d+)*")  # what pandas calls a first column without a name
OTHER_MARK = "the file seems to be separated by other than commas"
ALPHA = 0.05  # level of the tests, unless --alpha says otherwise
N_FOLDS = 5  # of the demonstration; every fold makes its own selection, some seconds
SELECT_EPILOG = """\
The file's first row holds the column names. Numbers and true/false are used as they are. A column of
text is an error until you name it: --categorical compares its values for equality, --drop leaves it out.
A target of text, or one named in --categorical, has classes without order. Several names are separated by
commas; a name that holds a comma stands in an option of its own.

The output file is the table that is printed, as CSV, one row a selected feature in order of entry:
step, feature, column (its place among the features used, from 0), and
  auto         statistic and pvalue of this feature given all other selected ones (of discrete data the share of
               networks with it); the same rows chose the features, so p-values describe, they do not prove
  foci, lfoci  cumulative (T of the target on all features selected so far), conditional (T on this
               feature given those selected before), seconds

example:
  python -m codec select houses.csv --target price --categorical city --drop id --output selected.csv
"""


class InputError(Exception):
    """The request cannot be carried out; the message is the one line the user sees."""


# --------------------------------------------------------------------------- the file
def read_file(path: Path) -> pd.DataFrame:
    """Read CSV (also compressed), TSV or Parquet; everything that can go wrong is an InputError."""
    name = path.name.lower()
    if not name.endswith(READERS):
        raise InputError(f"cannot tell the format of '{path}'; its name must end in {', '.join(READERS)}")
    if not path.exists():
        raise InputError(f"there is no file '{path}'")
    if not path.is_file():
        raise InputError(f"'{path}' is not a file")
    try:
        if name.endswith((".parquet", ".pq")):
            return with_named_index(pd.read_parquet(path))
        return _read_text(path, "\t" if name.endswith((".tsv", ".tsv.gz")) else ",")
    except pd.errors.EmptyDataError:
        raise InputError(f"'{path}' is empty") from None
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except ImportError:
        raise InputError("reading Parquet needs pyarrow: pip install 'codec[parquet]'") from None
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read '{path}': {_one_line(error)}") from None


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    """Read CSV or TSV; the first row is also read as it stands, since the reader changes names."""
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    _refuse_twice(header[header != ""])
    table = pd.read_csv(path, sep=separator, low_memory=False, **PRECISELY)
    if len(table) and not _is_numbered(table.index, path, separator, len(header)):
        n_fields, names = len(header) + table.index.nlevels, f"{len(header)} name{'s' if len(header) > 1 else ''}"
        remedy = OTHER_MARK if _is_marked(header.tolist()) else "give every column a name"
        raise InputError(f"the rows of '{path}' have {n_fields} fields, but its first row has {names}; {remedy}")
    return _without_index_columns(table, header.tolist())


def _is_numbered(index: pd.Index[Any], path: Path, separator: str, n_names: int) -> bool:
    """Whether the reader has numbered the rows, and not taken their first fields for labels, which may be 0, 1, ... too."""
    if not index.equals(pd.RangeIndex(len(index))):
        return False
    first = pd.read_csv(path, sep=separator, header=None, skiprows=1, nrows=1, dtype=str)
    return first.shape[1] <= n_names


def _refuse_twice(names: pd.Series[Any]) -> None:
    """Two columns of one name: the reader would call the second one something else."""
    if names.duplicated().any():
        raise InputError(f"two columns are called '{names[names.duplicated()].iloc[0]}'; rename one of them")


def _without_index_columns(table: pd.DataFrame, header: Sequence[str]) -> pd.DataFrame:
    """Leave out the first column if it has no name, and those before it in an earlier file: what data frames write.

    Other columns without a name and without a value come from a separator at the end of each line.
    """
    named = (j for j, name in enumerate(header) if not (INDEX_NAME.fullmatch(name) or (j == 0 and name == "")))
    n_index = min(next(named, len(header)), table.shape[1] - 1)
    if n_index:
        first = "first column has no name and is left out as a row index"
        several = f"first {n_index} columns have no names of their own and are left out as row indices"
        _note(f"the {first if n_index == 1 else several}")
    blank = [j for j, name in enumerate(header) if j and name == "" and len(table) and table.iloc[:, j].isna().all()]
    if blank:
        _note(f"left out as empty, without a name: column {', '.join(str(j + 1) for j in blank)}")
    return table.iloc[:, [j for j in range(n_index, table.shape[1]) if j not in blank]]


def split_columns(
    table: pd.DataFrame, target: str, categorical: Sequence[str], drop: Sequence[str]
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Features and target with the types that the selection expects."""
    table = table.set_axis([str(label) for label in table.columns], axis=1)
    _refuse_twice(table.columns.to_series())
    categorical, drop = _named(categorical, table), _named(drop, table)
    for option, names in (("--target", [target]), ("--categorical", categorical), ("--drop", drop)):
        for name in names:
            _require_column(table, name, option)
    if target in drop:
        raise InputError(f"'{target}' is both the target and in --drop")
    if both := [name for name in categorical if name in drop]:
        raise InputError(f"'{both[0]}' is both in --categorical and in --drop")
    table = table.drop(columns=list(drop))
    _refuse_objects(table)
    table = table.astype(dict.fromkeys(categorical, "category"))
    features, response = table.drop(columns=target), table[target]
    if features.shape[1] == 0:
        raise InputError("no feature columns are left beside the target")
    if len(table) == 0:
        raise InputError("the table has column names but no rows")
    _refuse_text(features)
    if _is_text(response):
        _refuse_numbers_as_text(response)
        response = response.astype("category")
    return features, response


def _named(arguments: Sequence[str], table: pd.DataFrame) -> list[str]:
    """Names in the arguments of an option: an argument that is a column as it stands, else its parts between commas."""
    parts: list[str] = []
    for argument in arguments:
        parts += [argument] if argument in table.columns else argument.split(",")
    return [part if part in table.columns else part.strip() for part in parts if part.strip()]


def _is_marked(names: Sequence[str]) -> bool:
    """Whether the only name looks like several, between other marks."""
    return len(names) == 1 and any(mark in names[0] for mark in ";\t|")


def _require_column(table: pd.DataFrame, name: str, option: str) -> None:
    if name in table.columns:
        return
    if _is_marked(table.columns.tolist()):
        raise InputError(f"{option}: there is no column '{name}'; {OTHER_MARK}")
    near = difflib.get_close_matches(name, table.columns, n=1)
    shown = ", ".join(f"'{column}'" for column in table.columns[:8]) + (", ..." if table.shape[1] > 8 else "")
    hint = f"did you mean '{near[0]}'?" if near else f"the columns are {shown}"
    raise InputError(f"{option}: there is no column '{name}'; {hint}")


def _is_text(column: pd.Series[Any]) -> bool:
    return column.dtype != "category" and kind_of(column) in {"string", "bytes", "mixed", "mixed-integer"}


def _refuse_objects(table: pd.DataFrame) -> None:
    """Lists, arrays and records, which Parquet may hold, and dates."""
    for name, column in table.items():
        what = "dates or durations" * kind_of(column).startswith(("date", "period", "time"))
        if pd.api.types.is_object_dtype(column):
            odd = next((value for value in column if not isinstance(value, Hashable)), None)
            what = what if odd is None else f"objects such as {str(odd)[:30]!r}"
        if what:
            drop = _as_options("--drop", [str(name)])
            raise InputError(f"column '{name}' holds {what}, neither numbers nor text; use {drop} to leave it out")


def _refuse_text(features: pd.DataFrame) -> None:
    text = [name for name in features.columns if _is_text(features[name])]
    if text:
        one = len(text) == 1
        shown, _ = text_shown(features[text[0]])
        what = f"column{'s' * (not one)} {', '.join(map(repr, text))} hold{'s' * one} {shown}"
        categorical, drop = _as_options("--categorical", text), _as_options("--drop", text)
        raise InputError(f"{what}; use {categorical} for categories or {drop} to leave {'it' if one else 'them'} out")


def _refuse_numbers_as_text(target: pd.Series[Any]) -> None:
    """Numbers and a few marks beside them would have as many classes as numbers."""
    shown, share = text_shown(target)
    if share > 0.5:
        classes = _as_options("--categorical", [str(target.name)])
        raise InputError(f"target '{target.name}' holds {shown}; correct it, or use {classes} for classes")


def _as_options(option: str, names: Sequence[str]) -> str:
    """What to type for these names: in one argument, or in one each where a name holds a comma."""
    arguments = names if any("," in name for name in names) else [",".join(names)]
    return " ".join(f"{option}{'=' if a.startswith('-') else ' '}{shlex.quote(a)}" for a in arguments)


def prepare(features: pd.DataFrame, response: pd.Series[Any], nan_policy: str) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Complete rows, a target that varies, and features without the constant ones."""
    features, response = _complete_rows(features, response, nan_policy)
    if _is_constant(response):
        raise InputError(f"target '{response.name}' is constant ({response.iloc[0]}); there is nothing to explain")
    constant = [name for name in features.columns if _is_constant(features[name])]
    if len(constant) == features.shape[1]:
        raise InputError("every feature column is constant")
    if constant:
        _note(f"left out as constant: {', '.join(constant)}")
    return features.drop(columns=constant), response


def _is_constant(column: pd.Series[Any]) -> bool:
    """Whether there is one value in all rows; that some are missing tells them apart."""
    return len(column) > 0 and bool(column.notna().all()) and bool((column == column.iloc[0]).all())


def _complete_rows(
    features: pd.DataFrame, response: pd.Series[Any], nan_policy: str
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    missing = features.isna()
    incomplete = missing.any(axis=1) | response.isna()
    n_incomplete = int(incomplete.sum())
    if nan_policy == "keep":
        known = response.notna()
        if known.sum() < 3:
            raise InputError(f"target '{response.name}' has {known.sum()} values in {len(features)} rows, too few")
        if not known.all():
            _note(f"left out {(~known).sum()} of {len(features)} rows without a target")
        return features[known], response[known]
    if n_incomplete == 0:
        return features, response
    counts = pd.concat([missing.sum(), pd.Series({response.name: int(response.isna().sum())})])
    name, count = counts.idxmax(), int(counts.max())
    if nan_policy == "raise":
        others = int((counts > 0).sum()) - 1
        more = f" and {others} more column{'s have' if others > 1 else ' has'} some" if others else ""
        raise InputError(
            f"column '{name}' has {count} missing value{'s' if count > 1 else ''}{more}; "
            f"impute them, or pass --nan-policy keep to use what is there, or --nan-policy omit to leave out "
            f"{n_incomplete} of {len(features)} rows"
        )
    if n_incomplete > len(features) - 3:
        raise InputError(
            f"{len(features) - n_incomplete} of {len(features)} rows are complete, too few to select from; "
            f"column '{name}' misses {count} values, --drop it or impute"
        )
    _note(f"left out {n_incomplete} of {len(features)} rows with missing values")
    return features[~incomplete], response[~incomplete]


# --------------------------------------------------------------------------- the output
def check_output(output: Path, source: Path) -> None:
    """Refuse, before the long work, an output file that could not be written after it."""
    if not output.parent.is_dir():
        raise InputError(f"--output: there is no folder '{output.parent}'")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"--output: the folder '{output.parent}' cannot be written to")
    if output.exists() and not output.is_file():
        raise InputError(f"--output: '{output}' is not a regular file")
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError("--output is the input file; choose another name")


def write_atomically(frame: pd.DataFrame, output: Path) -> None:
    """Write the table beside its place, then move it there: never half a file, and open to no one else than before."""
    output = output.resolve()
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as handle:
            if output.exists():
                shutil.copymode(output, part)
            frame.to_csv(handle, lineterminator="\n")
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(output)
    except OSError as error:
        raise InputError(f"cannot write '{output}': {_one_line(error)}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def format_path(path: SelectionPath) -> str:
    """Return the path as a table for the terminal."""
    if len(path) == 0:
        return f"Nothing was selected. {path.stopped}"
    names = [printable(name) for name in path.names]
    width = max(len("feature"), *map(len, names))
    lines = [f"step  {'feature':<{width}}  T(selected)  T(feature | before)  seconds"]
    lines += [
        f"{row.Index:>4}  {name:<{width}}  {row.cumulative:>11.4f}  {row.conditional:>19.4f}  {row.seconds:>7.2f}"
        for name, row in zip(names, path.to_frame().itertuples(), strict=True)
    ]
    what = f"{len(path)} of {path.n_features} features from {path.n_samples:,} rows in {path.seconds.sum():.2f} s"
    return "\n".join([*lines, "", path.stopped, what])


def blanket_frame(selector: MarkovBlanketSelector) -> pd.DataFrame:
    """One row a selected feature: feature, column, statistic, p-value."""
    columns = selector.blanket_
    found = {"feature": selector.feature_names_in_[columns], "column": columns}
    found |= {"statistic": selector.scores_[columns], "pvalue": selector.pvalues_[columns]}
    return pd.DataFrame(found, index=pd.RangeIndex(1, len(columns) + 1, name="step"))


def format_blanket(selector: MarkovBlanketSelector, seconds: float) -> str:
    """Return the blanket as a table for the terminal."""
    path, frame = selector.path_, blanket_frame(selector)
    score = "votes" if path.method == "discrete" else "statistic"
    total = (
        f"{len(frame)} of {path.n_features} features from {path.n_samples:,} rows in {seconds:.1f} s: "
        f"{path.n_tests:,} tests at level {path.alpha:g}"
    )
    if frame.empty:
        return f"Nothing was selected: no feature stands out from chance.\n\n{total}"
    names = [printable(name) for name in frame["feature"]]
    width = max(len("feature"), *map(len, names))
    lines = [f"step  {'feature':<{width}}  {score:>9}  p given the others"]
    lines += [
        f"{row.Index:>4}  {name:<{width}}  {row.statistic:>9.3f}  {row.pvalue:>18.3g}"
        for name, row in zip(names, frame.itertuples(), strict=True)
    ]
    return "\n".join([*lines, "", "The p-values are descriptive: the same rows chose the features.", total])


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split())) or type(error).__name__


def _note(line: str) -> None:
    print(f"codec: {line}", file=sys.stderr)


# --------------------------------------------------------------------------- the two jobs
def run_select(args: argparse.Namespace) -> None:
    """Select the features of a file that carry information on its target."""
    _check_method(args)
    if args.output is not None:
        check_output(args.output, args.file)
    features, response = split_columns(read_file(args.file), args.target, args.categorical, args.drop)
    features, response = prepare(features, response, args.nan_policy)
    try:
        frame, text = (_find_blanket if args.method == "auto" else _find_path)(features, response, args)
    except (TypeError, ValueError) as error:
        raise InputError(_with_option(_one_line(error))) from None
    print(f"{args.file.name}: which columns carry information on '{args.target}'?\n")
    print(text)
    if args.output is not None:
        write_atomically(frame, args.output)
        print(f"written to {args.output}")


def _with_option(line: str) -> str:
    """A message that begins with a parameter, as the command line calls it; columns may be called alike."""
    first, space, rest = line.partition(" ")
    return f"{OPTIONS.get(first, first)}{space}{rest}"


def _check_method(args: argparse.Namespace) -> None:
    """Refuse options that the method would ignore."""
    if args.method == "auto" and args.neighbors is not None:
        raise InputError("--neighbors belongs to --method foci or lfoci")
    if args.method != "auto" and args.alpha is not None:
        raise InputError("--alpha belongs to --method auto; FOCI makes no tests")
    if args.method != "auto" and args.nan_policy == "keep":
        raise InputError("--nan-policy keep belongs to --method auto; FOCI needs complete rows: omit")


def _find_blanket(
    features: pd.DataFrame, response: pd.Series[Any], args: argparse.Namespace
) -> tuple[pd.DataFrame, str]:
    selector = MarkovBlanketSelector(
        alpha=ALPHA if args.alpha is None else args.alpha,
        max_features=args.max_features,
        allow_nan=args.nan_policy == "keep",
        n_jobs=args.jobs,
        random_state=args.seed,
        verbose=sys.stderr.isatty(),
    )
    start = time.perf_counter()
    selector.fit(features, response)
    return blanket_frame(selector), format_blanket(selector, time.perf_counter() - start)


def _find_path(features: pd.DataFrame, response: pd.Series[Any], args: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    path = (foci if args.method == "foci" else lfoci)(
        features,
        response,
        max_features=args.max_features,
        n_neighbors=1 if args.neighbors is None else args.neighbors,
        n_jobs=args.jobs,
        rng=args.seed,
        verbose=sys.stderr.isatty(),
    )
    return path.to_frame(), format_path(path)


def run_demo(args: argparse.Namespace) -> None:
    """Select the Markov blanket of a real data set and show what the selection is worth."""
    from sklearn.datasets import load_breast_cancer

    del args
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    print(f"codec {importlib.metadata.version('codec')}")
    print(f"breast cancer data of scikit-learn: {X.shape[0]} tumours, {X.shape[1]} measurements of cell nuclei")
    print("Which measurements carry the information on whether a tumour is malignant?\n", flush=True)
    _compile(X, y)
    start = time.perf_counter()
    selector = MarkovBlanketSelector(random_state=0, verbose=sys.stderr.isatty()).fit(X, y)
    print(format_blanket(selector, time.perf_counter() - start), end="\n\n", flush=True)
    _show_scores(X, y)
    _show_unlearning()
    print(
        f"""
What next
  your own table   {_python()} -m codec select FILE.csv --target COLUMN
  its options      {_python()} -m codec select --help
  in Python        from codec import MarkovBlanketSelector
                   make_pipeline(StandardScaler(), MarkovBlanketSelector(), KNeighborsClassifier())"""
    )


def _show_unlearning() -> None:
    """Deletion from a small network, where torch is installed."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("safetensors") is None:
        print("\nWith torch installed (pip install 'codec[unlearn]'), a deletion from a small network is shown here.")
        return
    from codec.unlearn._demo import text

    print("\n" + text(), flush=True)


def _compile(X: pd.DataFrame, y: pd.Series[Any]) -> None:
    """Have numba compile before anything is timed; say so when that takes more than a few seconds."""
    note = threading.Timer(
        4.0, print, ["(First run: the kernels are compiled and cached, some 20 s.)\n"], {"flush": True}
    )
    note.start()
    try:
        MarkovBlanketSelector(random_state=0).fit(X.iloc[:200, -4:], y[:200])
        MarkovBlanketSelector("foci", n_neighbors=10, max_features=3, stop=False).fit(X, y)
    finally:
        note.cancel()


def _python() -> str:
    """How to call this interpreter: by its path when its environment is not the active one."""
    if sys.prefix == sys.base_prefix or "VIRTUAL_ENV" in os.environ:
        return "python"
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _show_scores(X: pd.DataFrame, y: pd.Series[Any]) -> None:
    """Cross-validate a small model with and without a selection; selection inside every fold."""
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = list(StratifiedKFold(N_FOLDS, shuffle=True, random_state=0).split(X, y))
    print(f"Is it enough? Accuracy of a nearest-neighbour classifier, {N_FOLDS}-fold cross-validation,")
    print("features chosen anew inside every fold:", flush=True)
    for what, selector in (
        (f"all {X.shape[1]} features", "passthrough"),
        ("Markov blanket", MarkovBlanketSelector(random_state=0)),
        ("FOCI", MarkovBlanketSelector("foci", n_neighbors=10)),
    ):
        model = make_pipeline(StandardScaler(), selector, KNeighborsClassifier())
        scores, sizes = [], []
        with show_progress("cross-validation:", sys.stderr.isatty(), what) as advance:
            for train, test in folds:
                model.fit(X.iloc[train], y.iloc[train])
                scores.append(model.score(X.iloc[test], y.iloc[test]))
                sizes.append(model[-1].n_features_in_)
                advance(1.0 / N_FOLDS)
        label = what if selector == "passthrough" else f"{what} ({min(sizes)}-{max(sizes)} features)"
        error = np.std(scores, ddof=1) / np.sqrt(N_FOLDS)
        print(f"  {label:<30} {np.mean(scores):.3f} +- {error:.3f}", flush=True)


# --------------------------------------------------------------------------- the command line
class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"codec: {message} (see {self.prog} --help)\n")


def _integer(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"'{text}' is not an integer of at least {low}")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = _Parser(
        prog="python -m codec",
        description="Find the features that carry all the information on a target (its Markov blanket).",
        epilog="Without a command: a demonstration on real data that scikit-learn carries.",
    )
    parser.add_argument("--version", action="version", version=f"codec {importlib.metadata.version('codec')}")
    parser.set_defaults(run=run_demo)
    commands = parser.add_subparsers(title="commands", metavar="select")
    select = commands.add_parser(
        "select",
        help="select the features of a CSV, TSV or Parquet file",
        description="Select the columns of FILE that carry information on the target column.",
        epilog=SELECT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    select.set_defaults(run=run_select, categorical=[], drop=[])
    add, positive, natural = select.add_argument, partial(_integer, low=1), partial(_integer, low=0)
    add("file", type=Path, metavar="FILE", help="a table: " + ", ".join(READERS))
    add("--target", required=True, metavar="COLUMN", help="the column to explain")
    add("--output", type=Path, metavar="FILE.csv", help="also write the table of selected features here")
    add("--method", choices=("auto", "foci", "lfoci"), default="auto", help="auto: the tested Markov blanket (default); "
        "foci: whatever raises T; lfoci: the same after small noise")  # fmt: skip
    add("--alpha", type=float, metavar="A", help=f"auto: level of the tests (default: {ALPHA})")
    add("--max-features", type=positive, metavar="N", help="select at most N features (default: no limit)")
    add("--neighbors", type=positive, metavar="K", help="foci, lfoci: nearest neighbours; 1 (default) is R's FOCI, "
        "10 or more finds weaker dependence in noisy data")  # fmt: skip
    add("--categorical", action="append", metavar="COL,..", help="columns that hold categories")
    add("--drop", action="append", metavar="COL,..", help="columns to leave out, such as an id")
    add("--nan-policy", choices=("raise", "omit", "keep"), default="raise", help="rows with missing values: an "
        "error (default), left out, or kept: that a value is missing is then information, too")  # fmt: skip
    add("--seed", type=natural, default=0, metavar="N", help="seed of the tests, or of lfoci's noise (default: 0)")
    add("--jobs", type=int, metavar="N", help="threads; -1: all cores (default: one)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when absent.

    Returns
    -------
    status : int
        0 done, 2 the request cannot be carried out, 130 interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # column names that a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _note(_one_line(Warning(message)))
            args = make_parser().parse_args(argv)
            args.run(args)
        sys.stdout.flush()
    except InputError as error:
        _note(printable(str(error)))
        return 2
    except KeyboardInterrupt:
        _note("interrupted")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


if __name__ == "__main__":
    sys.exit(main())
