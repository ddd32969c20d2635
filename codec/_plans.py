"""From a call to a plan, and from a plan to p-values: the steps that all tests share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from threading import Lock
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import ThreadpoolController

from codec._dependence import NominalY, read_response
from codec._frames import take_rows
from codec._graphs import Coefficient, RedrawnCoefficient
from codec._notes import warn
from codec._nulls import (
    NumberedNull,
    Sampler,
    Setting,
    Strata,
    block_sizes,
    find_strata,
    has_few_values,
    is_category,
    one_stratum,
    reordered_draws,
    sampler_draws,
)
from codec._omnibus import Omnibus, default_neighbors, standardized_maxima
from codec._validation import (
    FloatArray,
    NanPolicy,
    Table,
    check_flag,
    check_integer,
    check_neighbors,
    check_option,
    check_spread,
    constant_columns,
    copies_note,
    drop_incomplete,
    read_table,
    rows_without_copies,
)

StatisticName = Literal["auto", "codec", "omnibus"]
MethodName = Literal["auto", "permutation", "asymptotic", "local-permutation", "crt"]

FIXED_RESAMPLES, RESAMPLES = 999, 199  # of a coefficient whose neighbours stay; otherwise
MANY_EDGES = 500_000  # from 10,000 rows on, the default number of neighbours falls from 50 to 5
ASYMPTOTIC_NEIGHBORS = 5  # more make the null distribution skew: off by .016 instead of .007 at n = 1,000
REDRAWN = {"crt", "crt-nearest"}  # methods that copy z
SEQUENTIAL_BLOCK = 20  # copies between two looks
SEQUENTIAL_HITS = 10  # stop when this many copies reach the observed value (Besag & Clifford 1991)
SEQUENTIAL_CALIBRATION = 50  # copies that only standardize the terms, so that a look needs no others
ALONE_LIMIT = 0.2  # warn if more than this share of the rows is alone in its stratum
TOLERANCE = 1e-9  # copies this close (relatively) to the observed value count as reaching it


@cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


class _SingleThread:
    """One linear-algebra thread while a caller is inside, in any thread: the last one out restores their number."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _threadpools().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_SINGLE_THREAD = _SingleThread()


def single_thread() -> _SingleThread:
    """A context with one linear-algebra thread: sums in one order, no contest between workers."""
    return _SINGLE_THREAD


class TermValue(NamedTuple):
    """One term of the omnibus statistic: its standardized value and its own p-value."""

    score: float
    pvalue: float


# --------------------------------------------------------------------------- data and plan
class NothingToTestError(ValueError):
    """y or z holds a single value, or y is a function of the condition."""


@dataclass(frozen=True)
class Data:
    """Complete rows of the three tables, and what a sampler gets to see of z and X."""

    y: Table
    z: Table
    given: Table | None
    raw_z: Any
    raw_given: Any
    n_omitted: int

    @property
    def n(self) -> int:
        return self.y.n_rows

    def copies_note(self) -> tuple[str, ...]:
        """A warning if rows are there twice."""
        rows = rows_without_copies([table for table in (self.z, self.given, self.y) if table is not None])
        if rows is None:
            return ()
        return (f"{copies_note(self.n - rows.size, self.n)}: the test takes rows for independent, pass each once.",)

    @property
    def entries(self) -> int:
        """Numbers that one copy of y takes: residuals, ranks, cosines of every column."""
        columns = [
            np.unique(v).size if nominal else 1 for v, nominal in zip(self.y.columns, self.y.nominal, strict=True)
        ]
        return 8 * self.n * sum(columns)


def read_data(y: Any, z: Any, given: Any, nominal_y: NominalY, nan_policy: NanPolicy, *, second: str = "z") -> Data:
    """Complete rows; constants are refused."""
    tables = [read_response(y, nominal_y), read_table(z, second)]
    if given is not None:
        tables.append(read_table(given, "given"))
    complete, n_omitted = drop_incomplete(tables, nan_policy)
    for table in complete:
        check_spread(table)
    for table in complete[:2]:
        constant = constant_columns(table)
        if constant.any():
            name = table.names[int(np.argmax(constant))]
            raise NothingToTestError(
                f"{table.argument} is constant (column {name!r} holds a single value): nothing to test."
            )
    if n_omitted:
        keep = np.flatnonzero(~np.any([np.isnan(t.columns).any(axis=0) for t in tables], axis=0))
        z, given = take_rows(z, keep), None if given is None else take_rows(given, keep)
    return Data(complete[0], complete[1], complete[2] if given is not None else None, z, given, n_omitted)


@dataclass(frozen=True)
class Plan:
    """What is computed, and how copies are made."""

    kind: str
    method: str
    n_resamples: int
    n_neighbors: int
    sequential: bool
    strata: Strata | None


def make_plan(
    data: Data,
    statistic: str,
    method: str,
    n_resamples: int | None,
    n_neighbors: int | None,
    sampler: Sampler | None,
    sequential: bool,
) -> Plan:
    check_option(statistic, "statistic", get_args(StatisticName))
    check_option(method, "method", get_args(MethodName))
    check_flag(sequential, "sequential")
    if sampler is not None and not callable(sampler):
        raise TypeError(f"sampler is {sampler!r}; it must be a callable sampler(given, rng).")
    if sampler is not None and method != "crt":
        raise ValueError(f"a sampler is given, but method is {method!r}; samplers belong to method='crt'.")
    if sequential and method in {"crt", "asymptotic"}:
        raise ValueError(f"sequential=True needs copies one by one; method={method!r} has none.")
    kind = statistic if statistic != "auto" else "codec" if data.given is None else "omnibus"
    strata = one_stratum(data.n) if data.given is None else find_strata(data.given)
    copying = _choose_method(data, kind, method, strata, sampler)
    if n_resamples is None:
        n_resamples = FIXED_RESAMPLES if kind == "codec" and copying not in REDRAWN else RESAMPLES
    copies = check_integer(n_resamples, "n_resamples", 1)
    if copies < 19 and method != "asymptotic":
        warn(
            f"n_resamples is {copies}: the p-value cannot be less than {1 / (copies + 1):.2g}; use at least 19 "
            "for the level .05 and 99 for .01.",
            stacklevel=3,
        )
    if n_neighbors is None:
        n_neighbors = default_neighbors(data.n)
        if kind == "codec":  # 999 copies of each edge
            n_neighbors = min(n_neighbors, max(5, MANY_EDGES // data.n))
        if method == "asymptotic":
            n_neighbors = min(n_neighbors, ASYMPTOTIC_NEIGHBORS)
    k = check_neighbors(n_neighbors, data.n)
    return Plan(kind, copying, copies, k, sequential, strata)


def _choose_method(data: Data, kind: str, method: str, strata: Strata | None, sampler: Sampler | None) -> str:
    if data.given is None:
        if method in {"local-permutation", "crt"}:
            raise ValueError(f"method={method!r} needs given: without it, method='permutation' is exact.")
        if method == "asymptotic" and (kind != "codec" or len(data.y.names) > 1):
            raise ValueError("method='asymptotic' is for the codec statistic and one response.")
        return "asymptotic" if method == "asymptotic" else "permutation"
    if method == "asymptotic":
        raise ValueError(
            "method='asymptotic' is for tests without given: the known limit given X holds only if y is "
            "independent of x and z together; use 'auto'."
        )
    if method == "crt":
        return "crt" if sampler is not None else "crt-nearest"
    if strata is None and method == "permutation":
        raise ValueError(
            "method='permutation' given X permutes among rows with the same X, and here most rows have few "
            "or no others; use method='local-permutation', or round X to fewer levels."
        )
    if strata is not None and method != "local-permutation":
        return "stratified"
    if kind == "codec" and method == "auto" and has_few_values(data.y) and not has_few_values(data.z):
        return "crt-nearest"  # numbers tell more of what X makes of them than classes do
    return "category" if is_category(data.y) else "freedman-lane"


# --------------------------------------------------------------------------- running it
Statistic = Omnibus | Coefficient | RedrawnCoefficient


def prepare(
    data: Data,
    plan: Plan,
    zs: list[Table],
    generator: np.random.Generator,
    n_jobs: int | None = None,
    sampler: Sampler | None = None,
) -> tuple[Any, list[Any], tuple[str, ...]]:
    """The null, the statistic of every z, and warning signs."""
    setting_seed, graph_seed = (int(seed) for seed in generator.integers(2**63, size=2))
    strata = plan.strata if plan.method in {"permutation", "stratified"} else None
    notes = _stratum_notes(strata)
    if plan.kind == "codec" and plan.method in REDRAWN:
        redrawn = [_redrawn(data, z, plan.n_neighbors, sampler, setting_seed, graph_seed) for z in zs]
        notes = (*notes, *(note for _, signs in redrawn for note in signs))
        return NumberedNull(), [statistic for statistic, _ in redrawn], tuple(dict.fromkeys(notes))
    setting = Setting(data.y, data.given, strata, np.random.default_rng(setting_seed))
    notes = (*notes, *setting.pooled_note(data.y))
    data = replace(data, y=setting.response)
    if plan.kind == "codec":
        statistics = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(_coefficient)(data, z, plan.n_neighbors, graph_seed) for z in zs
        )
        return setting.index_null(), statistics, (*notes, *setting.noiseless_note("y"))
    pairs = Parallel(n_jobs=n_jobs, prefer="threads")(
        delayed(_omnibus)(setting, z, plan.n_neighbors, graph_seed) for z in zs
    )
    notes = (*notes, *(note for _, signs in pairs for note in signs))
    return setting.null(), [statistic for statistic, _ in pairs], tuple(dict.fromkeys(notes))


def _coefficient(data: Data, z: Table, k: int, seed: int) -> Coefficient:
    coefficient = Coefficient(data.y, z, data.given, k, np.random.default_rng(seed))
    if not np.isfinite(coefficient.observed()):
        raise NothingToTestError("y is a function of given in this sample: nothing is left that z could explain.")
    return coefficient


def _redrawn(
    data: Data, z: Table, k: int, sampler: Sampler | None, setting_seed: int, graph_seed: int
) -> tuple[RedrawnCoefficient, tuple[str, ...]]:
    if sampler is not None:
        draw = sampler_draws(sampler, data.raw_z, z, data.raw_given)
        return RedrawnCoefficient(_coefficient(data, z, k, graph_seed), draw), ()
    assert data.given is not None
    made = reordered_draws(z, data.given, np.random.default_rng(setting_seed))
    return RedrawnCoefficient(_coefficient(data, made.z, k, graph_seed), made.draw), made.notes


def _omnibus(setting: Setting, z: Table, k: int, seed: int) -> tuple[Omnibus, tuple[str, ...]]:
    anchor = setting.anchor(z)
    return setting.omnibus(z, anchor, k, np.random.default_rng(seed)), setting.warning_signs(anchor)


def _stratum_notes(strata: Strata | None) -> tuple[str, ...]:
    if strata is None or strata.alone <= ALONE_LIMIT:
        return ()
    return (
        f"{strata.alone:.0%} of the rows have an X of their own and carry no information on the hypothesis; "
        "merge rare levels of given.",
    )


def collect(
    null: Any,
    statistics: list[Statistic],
    plan: Plan,
    data: Data,
    generator: np.random.Generator,
    n_jobs: int | None = None,
) -> list[FloatArray]:
    """Terms of the data and of every copy, one array (terms, B + 1) for each statistic."""
    observed = null.observed()
    parts = [[statistic.values(observed)] for statistic in statistics]
    for size in block_sizes(plan.n_resamples, data.entries):
        copies = null.draw(size, int(generator.integers(2**63)))
        found = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(_values)(statistic, copies) for statistic in statistics
        )
        for part, values in zip(parts, found, strict=True):
            part.append(values)
    return [np.concatenate(part, axis=1) for part in parts]


def _values(statistic: Statistic, copies: Any) -> FloatArray:
    return statistic.values(copies)


@dataclass(frozen=True)
class Found:
    """A statistic among its copies."""

    statistic: float
    pvalue: float
    copies: FloatArray
    terms: dict[str, TermValue]
    stopped: bool = False


def rank(values: FloatArray, statistic: Statistic) -> Found:
    """The observed value (column 0) among its copies; several terms: the largest standardized one."""
    if not isinstance(statistic, Omnibus):
        return Found(float(values[0, 0]), rank_pvalue(values[0]), values[0, 1:], {})
    scores, largest = standardized_maxima(values, statistic.rounding)
    terms = {
        n: TermValue(float(score[0]), rank_pvalue(score)) for n, score in zip(statistic.names, scores, strict=True)
    }
    return Found(float(largest[0]), rank_pvalue(largest), largest[1:], terms)


def rank_pvalue(values: FloatArray) -> float:
    """``(1 + #{copies >= observed}) / (B + 1)``; rounding errors count as equality."""
    return float((1 + reached(values).sum()) / values.size)


def reached(values: FloatArray) -> Any:
    """Which copies (1..B) reach the observed value (0)."""
    return values[1:] >= values[0] - TOLERANCE * max(1.0, abs(values[0]))


def run_sequential(null: Any, statistic: Statistic, plan: Plan, data: Data, generator: np.random.Generator) -> Found:
    """Stop at 10 copies that reach the observed value: p = 10 / number of copies (Besag & Clifford)."""
    shift, scale = np.zeros((1, 1)), np.ones((1, 1))
    values = statistic.values(null.observed())
    if isinstance(statistic, Omnibus):
        # Terms are standardized by copies that take no part in the comparison: exchangeability is kept.
        seed = int(generator.integers(2**63))
        calibration = statistic.values(null.draw(SEQUENTIAL_CALIBRATION, seed))
        shift = calibration.mean(axis=1, keepdims=True)
        spread = calibration.std(axis=1, keepdims=True)
        rounding = statistic.rounding[:, None] * np.maximum(1.0, np.abs(shift))
        scale = np.where(spread > rounding, spread, np.inf)  # constants become 0
    largest = ((values - shift) / scale).max(axis=0)
    for size in block_sizes(plan.n_resamples, data.entries, at_most=SEQUENTIAL_BLOCK):
        values = statistic.values(null.draw(size, int(generator.integers(2**63))))
        largest = np.concatenate([largest, ((values - shift) / scale).max(axis=0)])
        hits = np.flatnonzero(reached(largest))
        if hits.size >= SEQUENTIAL_HITS:
            last = int(hits[SEQUENTIAL_HITS - 1]) + 1
            return Found(float(largest[0]), SEQUENTIAL_HITS / last, largest[1 : last + 1], {}, stopped=True)
    return Found(float(largest[0]), rank_pvalue(largest), largest[1:], {})
