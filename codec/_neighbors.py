"""Who is near whom: sums over the K nearest neighbours, for one set of columns or for every candidate.

The seam between the statistics and the search. Above it, nobody knows how neighbours are found;
below it (:mod:`codec._kernels`), nobody knows what the sums are for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from joblib import delayed

from codec import _kernels, _step_kernels, _tree_kernels
from codec._parallel import Task, in_order, in_threads
from codec._pruning import Race, Work, order_rows
from codec._simd import WIDTH, WIDTH_K
from codec._validation import BoolArray, FloatArray, IntArray, Table

MIN_TASKS = 8  # tasks of a step at least: even load on a few workers
LOOKED_AT = 0.5  # share of the rows that tell the best candidate of lists from the others
WORTH_COPYING = 0.75  # candidates left: a smaller share of a block is copied into a new one
EXTRA = 20  # candidates that cost as much as what all of them share
SMALL = 1e5  # rows times candidates of a step that are not worth sharing: some milliseconds
WORTH_RUNS = 10_000  # rows whose search is cut into runs
ROWS_PER_TASK = 4e6  # rows times candidates of a task: a fraction of a second
LIST_BYTES = 2**28  # candidates are copied in the order of the tree, this many bytes at a time
LIST_FACTOR = {  # length of lists by selected columns: see list_length
    "one": (5.0, 9.0, 11.0, 12.0, 12.0),
    "few": (5.0, 8.0, 10.0, 10.0, 10.0),
    "many": (3.0, 4.0, 5.0, 5.0, 5.0),
}
FEW = 25  # neighbours that are kept in order for eight candidates at once; more are sought in buckets
SHOWN = 3  # candidates that show how often rows repeat
TIED = 40.0  # nanoseconds: a row at no distance, or at that of others, in a list
STRIP_FACTOR = 3.0  # rows of a strip in units of sqrt(n)


class Sent:
    """A dataclass that tells its true size: dask then sends it to a worker once a step, not with every task."""

    def __sizeof__(self) -> int:
        return _n_bytes(vars(self).values())


def _n_bytes(values: Iterable[Any]) -> int:
    total = 0
    for value in values:
        if isinstance(value, np.ndarray):
            total += value.nbytes
        else:
            total += _n_bytes(value) if isinstance(value, tuple) else sys.getsizeof(value)
    return total


@dataclass(frozen=True)
class Response(Sent):
    """The integer form of one response that the sums run on.

    Attributes
    ----------
    order : ndarray of shape (n,), int
        Row at each place when rows stand in ascending order of label.
    label, weight : ndarray of shape (n,), int64
        In that order. Ordered response: both are ``R_i = #{j : y_j <= y_i}``. Nominal response: the
        code of the class and the number of its members.
    nominal : bool
        Whether the classes have no order.
    total : int
        ``M``: the sum if every neighbour had the row's own response.
    spread : int
        ``D``: ``sum_i L_i (n - L_i)`` with ``L_i = #{j : y_j >= y_i}``; nominal:
        ``sum_c count_c^2 (n - count_c)``. Zero for a constant response.
    """

    order: IntArray
    label: IntArray
    weight: IntArray
    nominal: bool
    total: int
    spread: int

    @property
    def n(self) -> int:
        return self.label.size

    @property
    def one(self) -> int:
        """The unit of sums: a sum ``A`` is handed on as the integer ``A * one``."""
        return int(_kernels.fixed_point(self.n))


def make_response(values: FloatArray, *, nominal: bool) -> Response:
    """Ranks (or class counts) of a response, rows in ascending order."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    codes = np.concatenate([[0], np.cumsum(ascending[1:] != ascending[:-1])]).astype(np.int64)
    counts = np.bincount(codes).astype(np.int64)
    n = values.size
    if nominal:
        weight = counts[codes]
        terms = weight * (n - weight)  # count_c (n - count_c), once per member
        return Response(order, codes, weight, True, exact_sum(weight), exact_sum(terms))
    rank = np.cumsum(counts)[codes]  # R_i, ties "max"
    at_least = n - rank + counts[codes]  # L_i = #{j : y_j >= y_i}
    return Response(order, rank, rank, False, exact_sum(rank), exact_sum(at_least * (n - at_least)))


def exact_sum(values: IntArray) -> int:
    """Sum of non-negative int64 as a Python integer: no overflow, whatever the sum."""
    return (int((values >> 31).sum()) << 31) + int((values & (2**31 - 1)).sum())


@dataclass(frozen=True)
class Geometry(Sent):
    """Columns in the order of the response's labels, with the weights of the squared distance."""

    columns: FloatArray
    scale: FloatArray
    nominal: BoolArray


def lay_columns(table: Table, scale: FloatArray, response: Response, n_jobs: int | None = None) -> Geometry:
    """Rows of the table in ascending order of the response."""
    columns = np.empty_like(table.columns)
    p = len(columns)
    size = max(1, p if columns.size < SMALL else -(-p // MIN_TASKS))
    tasks = [
        delayed(_kernels.reorder)(table.columns[a : a + size], response.order, columns[a : a + size])
        for a in range(0, p, size)
    ]
    in_threads(tasks, n_jobs)
    return Geometry(columns, scale, table.nominal)


def neighbor_sum(points: Geometry, response: Response, k: int, *, random: bool = False, seed: int = 0) -> int:
    """``K * A * one`` of one point set."""
    chosen = list(range(points.columns.shape[0]))
    if len(chosen) == 1 and not random:
        whole, part = _sorted(points, chosen, response, k)
        return _scaled(whole, part, response.one)[0]
    once, fraction = _tree_sum(points, chosen, response, k, random, seed)
    return once * response.one + fraction


def candidate_sums(
    points: Geometry,
    response: Response,
    base: Sequence[int],
    candidates: Sequence[int],
    k: int,
    *,
    random: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
    path: str | None = None,
    advance: Callable[[float], None] | None = None,
    best_only: bool = False,
    floor: int = 0,
) -> list[int]:
    """``K * A * one`` of (base columns, candidate) for every candidate: one step of forward selection.

    Parameters
    ----------
    path : {'sort', 'tree', 'strips', 'lists'}, optional
        How the neighbours are found; chosen by :func:`choose_path` unless given. The result is the same.
    advance : callable, optional
        Told the share of the step that is done as work proceeds.
    best_only : bool, default False
        The largest sum is asked for, and the sums that are not smaller by more than ``n``, which rounding
        could explain; of other candidates a bound below those is returned where that saves work.
    floor : int, default 0
        With ``best_only``: the same holds of sums that do not exceed this one.
    """
    totals: dict[int, int] = {}
    step = Step(points, response, list(base), list(candidates), k, random, seed, n_jobs)
    for name, group in _paths(step, path, best_only):
        tell = partial(_tell, advance, len(group) / len(candidates))
        part = replace(step, candidates=group)
        if best_only and name == "lists":
            totals |= _race(part, max(totals.values(), default=floor), tell)
        else:
            totals |= zip(group, _scaled(*_run(part, _PLANS[name](part), tell), response.one), strict=True)
    return [totals[j] for j in candidates]


def _tell(advance: Callable[[float], None] | None, share: float, part: float) -> None:
    """That a part of a share of the step is done."""
    if advance is not None and part > 0.0:
        advance(share * part)


def _nobody(_part: float) -> None:
    """Progress that is not told: of what nobody expected."""


def _run(step: Step, tasks: list[Task], tell: Callable[[float], None], part: float = 1.0) -> tuple[IntArray, IntArray]:
    """Whole and part of the sums of all tasks, which do a part of what there is to do for the candidates."""
    sums = np.zeros((2, step.points.columns.shape[0]), np.int64)
    small = part * step.response.n * (len(step.candidates) + EXTRA) < SMALL or len(tasks) == 1
    alone = (function(*arguments, **options) for function, arguments, options in tasks)
    for candidates, whole, fraction in alone if small else in_order(tasks, step.n_jobs):
        sums[0, candidates] += whole
        sums[1, candidates] += fraction
        tell(part / len(tasks))
    return sums[0, step.candidates], sums[1, step.candidates]


@dataclass(frozen=True)
class Step(Sent):
    """One step: which candidates beside which base columns."""

    points: Geometry
    response: Response
    base: list[int]
    candidates: list[int]
    k: int
    random: bool
    seed: int
    n_jobs: int | None = None


# --------------------------------------------------------------------------- which path
def _paths(step: Step, path: str | None, best_only: bool) -> list[tuple[str, list[int]]]:
    """Candidates by the path that serves them: nominal ones have no place between other values."""
    if path is not None:
        return _at_once(path, step.candidates, step)
    if step.random:
        return _at_once("tree", step.candidates, step)
    if not step.base:
        return [("sort", step.candidates)]
    nominal = [j for j in step.candidates if step.points.nominal[j]]
    ordered = [j for j in step.candidates if not step.points.nominal[j]]
    chosen = "tree"
    if ordered:
        chosen = choose_path(step.points, step.response.n, step.base, ordered, step.k, best_only=best_only)
    lumpy = [j for j in ordered if chosen == "strips" and is_lumpy(step.points.columns[j])]
    smooth = [j for j in ordered if j not in set(lumpy)]
    return [*_at_once(chosen, smooth, step), *_at_once("tree", nominal + lumpy, step)]


def _at_once(path: str, candidates: list[int], step: Step) -> list[tuple[str, list[int]]]:
    """Lists copy their candidates in the order of the tree: a limited number of bytes at a time.

    In a large tree, one candidate at a time is enough work for all workers.
    """
    most = len(candidates)
    if path == "tree" and 10 * step.response.n > ROWS_PER_TASK:
        most = 1
    if path == "lists":
        most = max(WIDTH, LIST_BYTES // (8 * step.response.n) // WIDTH * WIDTH)
    return [(path, candidates[a : a + most]) for a in range(0, len(candidates), max(1, most))]


def choose_path(
    points: Geometry, n: int, base: list[int], candidates: list[int], k: int, *, best_only: bool = False
) -> str:
    """The cheapest exact path of a step with selected columns, by the measured cost of each.

    Nanoseconds a row of one core of 2020s server processors; their ratios decide.
    """
    d, m = len(base), len(candidates)
    crowd = crowding(points, base)
    copies = n_copies(points, base, candidates) if crowd > 1 else 1.0
    cost = {"tree": m * tree_cost(n, d + 1, k) / copies, "lists": list_cost(n, d, m, k) + TIED * (copies - 1.0) * m}
    if best_only:
        cost["lists"] *= LOOKED_AT
    if d == 1 and k == 1 and not points.nominal[base[0]]:
        cost["strips"] = 200.0 * m
    if crowd > list_length(n, d, k, m) // 2:  # most neighbours at no distance
        return "tree"
    return min(cost, key=lambda name: cost[name])


def how_many(k: int) -> str:
    """Which loop goes through the lists: for one neighbour, a few or many."""
    return "one" if k == 1 else "few" if k <= FEW else "many"


def tree_cost(n: int, d: int, k: int) -> float:
    """One search of the K nearest in a tree over n rows of d columns, the building included."""
    near = 250.0 * 1.55**d * (0.5 + 0.5 * np.log2(n) / 13.0)
    return float(min(near, 0.8 * n * d) + 140.0 * (k - 1))


def list_cost(n: int, d: int, n_candidates: int, k: int) -> float:
    """One list of near rows in d columns, scanned for every candidate."""
    wanted = list_length(n, d, k, n_candidates)
    build = min(2.8 * 1.95**d * wanted, 1.5 * n * d)
    n_blocks = -(-n_candidates // block_width(k))
    if k == 1:
        return build + 5.0 * n_candidates + n_blocks * (200.0 + 0.8 * wanted)
    if k <= FEW:
        return build + WIDTH_K * n_blocks * (40.0 + 31.0 * k + (1.0 + 0.03 * k) * rows_held(n, d, k))
    return build + n_candidates * (630.0 + 0.95 * wanted + 5.6 * k)


def rows_held(n: int, d: int, k: int) -> float:
    """About how many rows the ball of the K-th neighbour in d + 1 columns holds in d of them."""
    return float(n ** (1 / (d + 1)) * k ** (d / (d + 1)))


def list_length(n: int, d: int, k: int, n_candidates: int) -> int:
    """Entries of a row's list: a multiple of the rows that a scan is expected to look at.

    Longer ones take more time to find and end too early for fewer candidates.
    """
    factors = LIST_FACTOR[how_many(k)]
    factor = factors[min(d, len(factors)) - 1]
    if k <= FEW:
        factor *= min(2.5, max(0.8, (n_candidates / 100.0) ** 0.25))
    return int(min(n - 1, factor * rows_held(n, d, k) + 16.0))


def crowding(points: Geometry, base: list[int]) -> int:
    """The most rows that share one value of the base columns: lists need neighbours at a distance."""
    group, first = _tree_kernels.group_rows(points.columns[base])
    return int(np.bincount(group, minlength=first.size).max())


def n_copies(points: Geometry, base: list[int], candidates: list[int]) -> float:
    """How many rows share one value of base columns and candidate, on average; judged by a few candidates."""
    some = candidates[:: -(-len(candidates) // SHOWN)]
    distinct = [_tree_kernels.group_rows(points.columns[[*base, j]])[1].size for j in some]
    return float(points.columns.shape[1] * len(distinct) / sum(distinct))


def is_lumpy(column: FloatArray) -> bool:
    """Whether single values hold more than a hundredth of the rows, judged by a thousand of them."""
    sample = column[:: max(1, column.size // 1000)]
    return bool(np.unique(sample, return_counts=True)[1].max() > sample.size / 100 + 1)


# --------------------------------------------------------------------------- the tasks of each path
Plan = Callable[["Step"], list[Task]]
Sums = tuple[
    list[int] | IntArray, IntArray, IntArray
]  # candidates, whole and part of their sums over the rows of a task


def _chunks(candidates: list[int], n: int) -> list[list[int]]:
    """Candidates in runs of a fraction of a second (Ctrl-C is heard between), enough for all workers."""
    size = max(1, min(int(ROWS_PER_TASK / (10 * n)), len(candidates) // MIN_TASKS))
    return [candidates[a : a + size] for a in range(0, len(candidates), size)]


def _plan_sort(step: Step) -> list[Task]:
    if step.base or step.random:
        raise ValueError("sorting serves single columns without a draw")
    return [delayed(_sort)(step, chunk) for chunk in _chunks(step.candidates, step.response.n)]


def _sort(step: Step, candidates: list[int]) -> Sums:
    return candidates, *_sorted(step.points, candidates, step.response, step.k)


def _plan_tree(step: Step) -> list[Task]:
    return [delayed(_tree)(step, chunk) for chunk in _chunks(step.candidates, step.response.n)]


def _tree(step: Step, candidates: list[int]) -> Sums:
    n_jobs = step.n_jobs if len(step.candidates) == 1 else 1
    shared = (step.response, step.k, step.random, step.seed, n_jobs)
    sums = [_tree_sum(step.points, [*step.base, j], *shared) for j in candidates]
    whole, part = np.array(sums).T
    return candidates, whole, part


def _plan_strips(step: Step) -> list[Task]:
    """One selected column and one neighbour: rows in its order once, then one candidate a task."""
    points, response, base, candidates = step.points, step.response, step.base, step.candidates
    if step.k != 1 or step.random or len(base) != 1 or points.nominal[base + candidates].any():
        raise ValueError("strips need one selected column, one neighbour, no draw and no nominal column")
    order = _kernels.value_order(points.columns[base[0]])
    laid = Strips(
        points.columns[base[0]][order], float(points.scale[base[0]]), order, response.label[order],
        response.weight[order], response.nominal,
    )  # fmt: skip
    return [delayed(_strip)(laid, points.columns[j], float(points.scale[j]), j) for j in candidates]


@dataclass(frozen=True)
class Strips(Sent):
    """Rows in ascending order of the selected column."""

    x: FloatArray
    scale: float
    order: IntArray
    label: IntArray
    weight: IntArray
    nominal: bool


def _strip(laid: Strips, column: FloatArray, scale: float, j: int) -> Sums:
    n = laid.x.size
    width = max(_kernels.LEAF, int(STRIP_FACTOR * np.sqrt(n)))
    whole, part = _kernels.strip_sums(
        laid.x, laid.scale, column[laid.order], scale, laid.label, laid.weight, laid.nominal, width, 0, n
    )
    return [j], np.array([whole]), np.array([part])


@dataclass(frozen=True)
class Selected(Sent):
    """The tree of the selected columns; rows in its order."""

    perm: IntArray
    laid: FloatArray
    scale: FloatArray
    col_nominal: BoolArray
    tree: tuple[Any, ...]
    label: IntArray
    weight: IntArray
    nominal: bool
    k: int
    wanted: int


@dataclass(frozen=True)
class Block(Sent):
    """Candidates in the order of the tree, ready for the list kernels."""

    candidates: IntArray
    values: FloatArray
    ranges: tuple[FloatArray, FloatArray]
    weights: FloatArray


def _plan_lists(step: Step) -> list[Task]:
    """Lists of near rows shared by all candidates; a task is a run of rows in the order of the tree."""
    selected = _selected(step)
    return _list_tasks(selected, _block(step, selected), np.arange(step.response.n))


def _selected(step: Step) -> Selected:
    points, response, base = step.points, step.response, step.base
    if step.random or not base or points.nominal[step.candidates].any():
        raise ValueError("lists need a selected column, no draw and no nominal candidate")
    columns, scale, col_nominal = points.columns[base], points.scale[base], points.nominal[base]
    perm, *tree = _tree_kernels.build_tree(columns, scale, col_nominal)
    if len(base) == 1 and not col_nominal[0]:  # a list is then a merge of both sides
        perm = _kernels.value_order(columns[0])
    return Selected(
        perm=perm, laid=np.ascontiguousarray(columns[:, perm]), scale=scale, col_nominal=col_nominal,
        tree=tuple(tree), label=response.label[perm], weight=response.weight[perm], nominal=response.nominal,
        k=step.k, wanted=list_length(response.n, len(base), step.k, len(step.candidates)),
    )  # fmt: skip


def _list_tasks(selected: Selected, block: Block, rows: IntArray) -> list[Task]:
    """Sums of the candidates over some rows, given as places in the tree's order, ascending."""
    n_runs = _n_runs(rows.size, len(block.candidates), selected.k)
    return [delayed(_run_of_rows)(selected, block, part) for part in np.array_split(rows, n_runs)]


def _block(step: Step, selected: Selected) -> Block:
    width, candidates = block_width(step.k), step.candidates
    n_blocks = -(-len(candidates) // width)
    values = np.zeros((n_blocks, step.response.n, width))
    low, high = (np.empty((n_blocks, 2 * selected.tree[-1], width)) for _ in range(2))
    weights = np.ones(n_blocks * width)
    weights[: len(candidates)] = step.points.scale[candidates]
    size = n_blocks if values.size < SMALL else -(-n_blocks // MIN_TASKS)
    tasks = [
        delayed(_fill)(step, selected, candidates[a * width : (a + size) * width], values, low, high, a)
        for a in range(0, n_blocks, size)
    ]
    in_threads(tasks, step.n_jobs)
    return Block(np.array(candidates), values, (low, high), weights.reshape(-1, width))


def block_width(k: int) -> int:
    """Candidates that are looked at together."""
    return {"one": WIDTH, "few": WIDTH_K, "many": 1}[how_many(k)]


def _fill(
    step: Step,
    selected: Selected,
    candidates: list[int],
    values: FloatArray,
    low: FloatArray,
    high: FloatArray,
    at: int,
) -> None:
    """Copy candidates, the first of them into block ``at``."""
    until = at - (-len(candidates) // values.shape[2])
    chosen = np.asarray(candidates)
    _step_kernels.pack(step.points.columns, chosen, selected.perm, values[at:until])
    _step_kernels.block_ranges(values[at:until], selected.tree, low[at:until], high[at:until])


def _n_runs(n_rows: int, n_candidates: int, k: int) -> int:
    """Runs of rows: enough for all workers, each a fraction of a second (Ctrl-C is heard between)."""
    return int(min(-(-n_rows // _kernels.LEAF), max(MIN_TASKS, n_rows * (n_candidates + EXTRA) * k / ROWS_PER_TASK)))


def _run_of_rows(selected: Selected, block: Block, rows: IntArray) -> Sums:
    shared = (
        selected.laid, selected.scale, selected.col_nominal, selected.tree, block.values, block.ranges, block.weights,
        selected.label, selected.weight, selected.nominal,
    )  # fmt: skip
    if selected.k == 1:
        whole, part, _ = _step_kernels.list_sums(*shared, selected.wanted, rows)
    else:
        list_sums = _step_kernels.list_sums_few if selected.k <= FEW else _step_kernels.list_sums_many
        whole, part, _ = list_sums(*shared, selected.k, selected.wanted, rows)
    m = len(block.candidates)
    return block.candidates, whole[:m], part[:m]


def _race(step: Step, best: int, tell: Callable[[float], None]) -> dict[int, int]:
    """Sums of the best candidates, bounds of the others: see :mod:`codec._pruning`."""
    n, d, one = step.response.n, len(step.base), step.response.one
    selected = _selected(step)
    block = _block(step, selected)

    def some(candidates: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
        nonlocal block
        these = replace(step, candidates=candidates.tolist())
        if candidates.size < WORTH_COPYING * len(block.candidates):
            block = _block(these, selected)
        return _run(these, _list_tasks(selected, block, np.sort(rows)), tell, rows.size / n)

    def alone(j: int) -> int:
        this = replace(step, candidates=[j])
        whole, part = _run(this, _PLANS[choose_path(step.points, n, step.base, [j], step.k)](this), _nobody)
        return _scaled(whole, part, one)[0]

    expected = _step_kernels.expected_losses(selected.label, selected.weight, selected.nominal)
    work = Work(some, alone, lambda m: list_cost(n, d, m, step.k), tree_cost(n, d + 1, step.k))
    race = Race(order_rows(expected, step.k * selected.weight), work, one, best, np.array(step.candidates))
    reached = race.run()
    tell(1.0 - race.seen / n)
    return reached


_PLANS: dict[str, Plan] = {
    "sort": _plan_sort,
    "tree": _plan_tree,
    "strips": _plan_strips,
    "lists": _plan_lists,
}


# --------------------------------------------------------------------------- single point sets
def _sorted(points: Geometry, chosen: list[int], response: Response, k: int) -> tuple[IntArray, IntArray]:
    """Whole and part of each column by itself."""
    whole, part = _kernels.sorted_sums(
        points.columns, points.scale, points.nominal, np.asarray(chosen), response.label, response.weight,
        response.nominal, k,
    )  # fmt: skip
    return whole, part


def _tree_sum(
    points: Geometry,
    chosen: list[int],
    response: Response,
    k: int,
    random: bool,
    seed: int,
    n_jobs: int | None = None,
) -> tuple[int, int]:
    """Whole and part of all chosen columns together; many rows in runs, between which Ctrl-C is heard."""
    scale, nominal = points.scale[chosen], points.nominal[chosen]
    laid_out = _tree_kernels.lay_out(points.columns[chosen], scale, nominal)
    size = laid_out[0].shape[1]
    ends = np.linspace(0, size, (1 if response.n < WORTH_RUNS else _n_runs(size, 1, k)) + 1).astype(int).tolist()
    shared = (laid_out, scale, nominal, response.label, response.weight, response.nominal, k, random, np.uint64(seed))
    tasks = [delayed(_tree_kernels.tree_sums)(*shared, a, b) for a, b in pairwise(ends)]
    sums = in_threads(tasks, n_jobs)
    return sum(int(whole) for whole, _ in sums), sum(int(part) for _, part in sums)


def _scaled(whole: IntArray, part: IntArray, one: int) -> list[int]:
    return [int(w) * one + int(f) for w, f in zip(whole.tolist(), part.tolist(), strict=True)]
