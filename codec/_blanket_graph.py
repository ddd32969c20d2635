"""The Markov blanket of every variable, as one graph; local causal parents."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import delayed
from sklearn.base import clone

from codec._blanket import MarkovBlanketSelector, generator_of
from codec._forward import show_progress
from codec._inference import codec_test
from codec._notes import silenced
from codec._parallel import in_order
from codec._validation import (
    MIN_ROWS,
    BoolArray,
    FloatArray,
    Table,
    check_flag,
    check_jobs,
    check_option,
    check_positive,
    columns_by_name,
    count_once,
    drop_incomplete,
    list_of_columns,
    read_table,
    refuse_equal_names,
)

Rule = Literal["and", "or"]
SHOWN = 25  # rows of a graph that are printed


# --------------------------------------------------------------------------- the result
@dataclass(frozen=True)
class LocalParents:
    """What :func:`markov_blanket_graph` with ``parents=True`` says about the causes of one variable.

    Attributes
    ----------
    parents : tuple of int
        Direct causes; empty when they cannot be told.
    candidates : tuple of int
        At most one of these is a direct cause.
    reason : str
        One clause.
    """

    parents: tuple[int, ...]
    candidates: tuple[int, ...]
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class BlanketGraph:
    """Every variable's Markov blanket.

    Attributes
    ----------
    names : tuple of str
        The variables.
    found : ndarray of shape (d, d), bool
        ``found[i, j]``: j was selected for i.
    pvalues : ndarray of shape (d, d)
        The selector's descriptive p-value of j in the blanket of i; NaN where there is none.
    rule : {'and', 'or'}
        Whether both variables must select each other for an edge, or one of them.
    local_parents : tuple of LocalParents or None
        For every variable, if asked for: ``parents``, its direct causes; ``candidates``, at most one of which is a
        direct cause; ``reason``, one clause. Variables by index.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from codec import MarkovBlanketSelector, fisher_z, markov_blanket_graph
    >>> a, b, e, f = np.random.default_rng(0).standard_normal((4, 200))
    >>> X = pd.DataFrame({"a": a, "b": b, "c": a + b + 0.5 * e, "d": a + b + 0.5 * e + 0.5 * f})
    >>> selector = MarkovBlanketSelector(test=fisher_z, screen=False)
    >>> graph = markov_blanket_graph(X, selector=selector, parents=True, random_state=0)
    >>> graph.blankets
    {'a': ('b', 'c'), 'b': ('a', 'c'), 'c': ('a', 'b', 'd'), 'd': ('c',)}
    >>> graph.matrix.shape, graph.n_edges
    ((4, 4), 4)
    >>> graph.parents_to_frame().loc["c", "parents"]
    'a, b'
    >>> graph.to_networkx().number_of_edges()
    4
    """

    names: tuple[str, ...]
    found: BoolArray
    pvalues: FloatArray
    rule: Rule
    local_parents: tuple[LocalParents, ...] | None = None

    @property
    def matrix(self) -> BoolArray:
        """The symmetric adjacency matrix of the rule: ndarray of shape (d, d), bool."""
        return self.found & self.found.T if self.rule == "and" else self.found | self.found.T

    @property
    def blankets(self) -> dict[str, tuple[str, ...]]:
        """Neighbours of every variable in the graph: dict of str to tuple of str."""
        matrix = self.matrix
        return {name: self._named(np.flatnonzero(matrix[i])) for i, name in enumerate(self.names)}

    @property
    def n_edges(self) -> int:
        """Pairs of variables in each other's blanket."""
        return int(self.matrix.sum()) // 2

    def to_frame(self) -> pd.DataFrame:
        """One row a pair of variables of which one selected the other.

        Returns
        -------
        DataFrame of shape (number of pairs, 6)
            Columns ``a`` and ``b``, the names; ``mutual``, whether both did; ``edge``, whether the rule joins them;
            ``pvalue_b_for_a``, the p-value of b in the blanket of a, and ``pvalue_a_for_b``.
        """
        pairs = np.argwhere(np.triu(self.found | self.found.T, 1))
        i, j = pairs.T
        return pd.DataFrame(
            {
                "a": pd.Series(self._named(i), dtype=str),
                "b": pd.Series(self._named(j), dtype=str),
                "mutual": self.found[i, j] & self.found[j, i],
                "edge": self.matrix[i, j],
                "pvalue_b_for_a": self.pvalues[i, j],
                "pvalue_a_for_b": self.pvalues[j, i],
            }
        )

    def parents_to_frame(self) -> pd.DataFrame:
        """One row a variable: its parents, candidates, and why.

        Returns
        -------
        DataFrame of shape (d, 3)
            Columns ``parents``, ``at most one of`` and ``reason``; names joined by commas.

        Raises
        ------
        ValueError
            If the graph was made without ``parents=True``.
        """
        if self.local_parents is None:
            raise ValueError("parents were not asked for: call markov_blanket_graph(..., parents=True).")
        rows = [
            (", ".join(self._named(p.parents)), ", ".join(self._named(p.candidates)), p.reason)
            for p in self.local_parents
        ]
        index = pd.Index(self.names, name="variable")
        return pd.DataFrame(rows, index=index, columns=["parents", "at most one of", "reason"])

    def to_networkx(self) -> Any:
        """The graph for networkx.

        Returns
        -------
        networkx.Graph
            Undirected; nodes are names, edges have the attribute ``mutual``: whether both selected each other.

        Raises
        ------
        ImportError
            If networkx is missing.
        """
        nx = _networkx()
        graph = nx.Graph()
        graph.add_nodes_from(self.names)
        for i, j in np.argwhere(np.triu(self.matrix, 1)):
            graph.add_edge(self.names[i], self.names[j], mutual=bool(self.found[i, j] and self.found[j, i]))
        return graph

    def _named(self, indices: Iterable[Any]) -> tuple[str, ...]:
        return tuple(self.names[int(j)] for j in indices)

    def _title(self) -> str:
        one_way = int((self.found ^ self.found.T).sum()) // 2
        return (
            f"Markov blankets of {len(self.names)} variables: {self.n_edges} edges "
            f"(rule: {self.rule}; {one_way} pairs selected in one direction only)"
        )

    def _table(self) -> pd.DataFrame:
        rows = {name: ", ".join(blanket) or "-" for name, blanket in self.blankets.items()}
        return pd.DataFrame({"blanket": rows}).rename_axis("variable").head(SHOWN)

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._table().to_string(max_colwidth=80)}{self._more()}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._title())}</p>{self._table().to_html()}<p>{self._more()}</p>"

    def _more(self) -> str:
        n_more = len(self.names) - SHOWN
        return f"\nand {n_more} more: .blankets has all" if n_more > 0 else ""


# --------------------------------------------------------------------------- the function
def markov_blanket_graph(
    X: Any,
    *,
    rule: Rule = "and",
    selector: Any = None,
    parents: bool = False,
    alpha: float = 0.05,
    n_jobs: int | None = None,
    random_state: Any = None,
    verbose: bool = False,
) -> BlanketGraph:
    """Find the Markov blanket of every variable.

    In a graphical model, j is in the blanket of i exactly when i is in that of j. Found from data, the two
    answers can differ; ``rule`` says what makes an edge.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Variables; a pandas or polars frame may hold categoricals. Constant ones are in no blanket.
    rule : {'and', 'or'}, default 'and'
        ``'and'``: both select each other, fewer false edges. ``'or'``: one of them does, fewer missed ones.
    selector : MarkovBlanketSelector, optional
        Its parameters are used for every variable; any selector with ``get_support`` will do. Default:
        ``MarkovBlanketSelector()``. Its ``always_include`` and ``groups`` name columns of X; the variable whose blanket
        is sought is left out of them. With its ``allow_nan=True``, so are the rows in which this variable is missing.
    parents : bool, default False
        Also look for each variable's direct causes (see Notes).
    alpha : float, default 0.05
        Level of the tests of independence between would-be parents, in (0, 1).
    n_jobs : int, optional
        Threads over the variables, or any backend of ``joblib.parallel_config``. Default: one thread, or what that
        sets.
    random_state : int, SeedSequence, Generator, RandomState or None, default None
        Seed, by default the selector's; each variable gets a stream of its own, so the result is the same for any
        ``n_jobs``.
    verbose : bool, default False
        Show progress on stderr.

    Returns
    -------
    BlanketGraph
        Blankets, adjacency matrix, networkx graph, parents if asked for.

    Raises
    ------
    ValueError
        If X has one column only, several of the same name, or missing values that the selector does not accept; if
        ``rule`` is unknown, ``alpha`` is not in (0, 1), or ``n_jobs`` is 0.
    TypeError
        If ``parents`` is not True or False, a column holds text, or ``selector`` has no ``get_support``.

    Warns
    -----
    UserWarning
        If more than 2 % of the rows are copies of others; each row counts once.

    See Also
    --------
    codec.MarkovBlanketSelector : the blanket of one response.

    Notes
    -----
    *Local parents* follow DAG-FOCI [1]_, with the blankets of the selector instead of those of FOCI. Two
    members of the blanket of y are joined when they are in each other's blanket, and the connected parts of
    this graph are examined:

    - several variables of which all pairs are independent (no test at ``alpha`` rejects, each pair by
      :func:`codec.codec_test`): the parents of y, which are in each other's blanket because y is their common
      child, if there is exactly one such part (not one that its complete rows cannot test, as they are fewer than
      three or leave a variable constant);
    - a single variable: a parent or a child without other parents; without a part of the first kind at most
      one of them is a parent, since two parents would be joined;
    - any other part holds a child and its other parents.

    This is right if: the data come from a directed acyclic graph in which **no cycle of edges, directions
    ignored, passes through y**; every common cause of two variables is among the columns; independences
    are those of the graph (faithfulness); and the blankets and tests are right. Where one of these fails,
    what is called a parent may be none.

    References
    ----------
    .. [1] M. Azadkia, A. Taeb, P. Bühlmann, "A fast non-parametric approach for local causal structure
       learning", 2021, :arxiv:`2111.14969`.
    .. [2] N. Meinshausen, P. Bühlmann, "High-dimensional graphs and variable selection with the lasso", Annals
       of Statistics 34(3), 1436-1462, 2006, :doi:`10.1214/009053606000000281` (the two rules).

    Examples
    --------
    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector, markov_blanket_graph
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.standard_normal((2, 400))
    >>> c = a * b + 0.1 * rng.standard_normal(400)
    >>> d = c + 0.1 * rng.standard_normal(400)
    >>> X = np.column_stack([a, b, c, d])
    >>> graph = markov_blanket_graph(X, rule="or", selector=MarkovBlanketSelector("foci", n_neighbors=10))
    >>> graph.blankets["x2"]
    ('x0', 'x1', 'x3')
    """
    check_option(rule, "rule", ("and", "or"))
    check_flag(parents, "parents")
    check_flag(verbose, "verbose")
    if check_positive(alpha, "alpha") >= 1.0:
        raise ValueError(f"alpha is {alpha!r}; it must be below 1.")
    table = read_table(X, "X")
    d = len(table.names)
    if d < 2:
        raise ValueError(f"X has {d} column; a graph needs at least two.")
    refuse_equal_names(table.names, "X")
    (table,) = count_once([table], stacklevel=2)
    selector = MarkovBlanketSelector() if selector is None else selector
    if isinstance(selector, MarkovBlanketSelector) and not _accepts_nan(selector):
        drop_incomplete([table], "raise")
    if not hasattr(selector, "get_support"):
        raise TypeError(
            f"selector is {selector!r}; it must be a selector with get_support, such as MarkovBlanketSelector."
        )
    rng = generator_of(getattr(selector, "random_state", None) if random_state is None else random_state)
    found, pvalues = _all_blankets(table, selector, rng.integers(2**31, size=d).tolist(), check_jobs(n_jobs), verbose)
    local = None
    if parents:
        mutual = found & found.T
        local = tuple(_local_parents(table, found[y], mutual, alpha, rng) for y in range(d))
    return BlanketGraph(table.names, found, pvalues, rule, local)


def _all_blankets(
    table: Table, selector: Any, seeds: Sequence[int], n_jobs: int | None, verbose: bool
) -> tuple[BoolArray, FloatArray]:
    """Who selects whom, and the p-values; one fit a variable that is not constant."""
    frame = to_frame(table)
    varying = [v for v, values in enumerate(table.columns) if np.unique(values[~np.isnan(values)]).size > 1]
    d = len(table.names)
    found, pvalues = np.zeros((d, d), dtype=np.bool_), np.full((d, d), np.nan)
    tasks = (delayed(_blanket)(frame, v, selector, seeds[v]) for v in varying)
    with show_progress("blankets", verbose, f"of {d} variables") as advance:
        results = in_order(tasks, n_jobs)
        for v, (support, values) in zip(varying, results, strict=True):
            others = np.delete(np.arange(d), v)
            found[v, others], pvalues[v, others] = support, values
            advance(1.0 / len(varying))
    return found, pvalues


def to_frame(table: Table) -> pd.DataFrame:
    """A pandas frame of the normal form, with unordered categories where there were some."""
    columns = [
        _categories(column) if nominal else pd.Series(column)
        for column, nominal in zip(table.columns, table.nominal, strict=True)
    ]
    return pd.concat(columns, axis=1).set_axis([str(name) for name in table.names], axis=1)


def _categories(codes: FloatArray) -> pd.Series[Any]:
    return pd.Series(codes).astype("category")


def _blanket(frame: pd.DataFrame, v: int, selector: Any, seed: int) -> tuple[BoolArray, FloatArray]:
    fitted = clone(selector)
    if "random_state" in fitted.get_params():
        fitted.set_params(random_state=seed)
    y, keep = frame.iloc[:, v], [j for j in range(frame.shape[1]) if j != v]
    X = frame.iloc[:, keep]
    if isinstance(fitted, MarkovBlanketSelector):
        fitted.set_params(**_without(fitted, v, list(frame.columns)))
        if _accepts_nan(fitted):
            X, y = X[y.notna()], y[y.notna()]
    with silenced(".*"):  # one of many fits
        fitted.fit(X, y)
    values = getattr(fitted, "pvalues_", None)
    support = np.asarray(fitted.get_support())
    return support, np.where(support, values, np.nan) if values is not None else np.full(len(keep), np.nan)


def _accepts_nan(selector: MarkovBlanketSelector) -> bool:
    return bool(selector.__sklearn_tags__().input_tags.allow_nan)


def _without(selector: MarkovBlanketSelector, v: int, names: Sequence[str]) -> dict[str, Any]:
    """The options that speak of columns, for the table without column v."""

    def others(chosen: Any, argument: str) -> list[int]:
        columns = columns_by_name(list_of_columns(chosen, argument), names, argument)
        return [j - (j > v) for j in columns if j != v]

    groups = [others(group, "groups") for group in list_of_columns(selector.groups, "groups")]
    most = selector.max_features
    return {
        "always_include": others(selector.always_include, "always_include") or None,
        "groups": [group for group in groups if group] or None,
        "max_features": most - 1 if most == len(names) else most,
    }


# --------------------------------------------------------------------------- parents
def _local_parents(
    table: Table, blanket: BoolArray, mutual: BoolArray, alpha: float, rng: np.random.Generator
) -> LocalParents:
    """The rule of DAG-FOCI for one variable."""
    members = [int(j) for j in np.flatnonzero(blanket)]
    parts = connected_parts(members, mutual)
    single = tuple(part[0] for part in parts if len(part) == 1)
    independent = [part for part in parts if len(part) > 1 and _all_independent(table, part, alpha, rng)]
    if len(independent) == 1:
        return LocalParents(independent[0], (), "independent of each other, but in each other's blanket")
    if len(independent) > 1:
        return LocalParents((), (), f"{len(independent)} groups look like parents, and only one can be")
    if not single:
        return LocalParents((), (), "no part of the blanket looks like parents" if members else "the blanket is empty")
    return LocalParents((), single, "one parent, or children without other parents")


def connected_parts(members: Sequence[int], joined: BoolArray) -> list[tuple[int, ...]]:
    """Connected components of the graph on some of the nodes; each ascending."""
    left, parts = set(members), []
    while left:
        part, border = set[int](), {min(left)}
        while border:
            part |= border
            border = {j for j in left - part if any(joined[i, j] for i in border)}
        parts.append(tuple(sorted(part)))
        left -= part
    return parts


def _all_independent(table: Table, part: Sequence[int], alpha: float, rng: np.random.Generator) -> bool:
    frame = to_frame(table)
    complete = frame.iloc[:, list(part)].dropna()
    if len(complete) < MIN_ROWS or (complete.nunique() < 2).any():  # there is nothing to test them by
        return False
    return all(
        codec_test(complete.iloc[:, i], complete.iloc[:, [j]], statistic="codec", rng=rng).pvalue > alpha
        for i, j in combinations(range(len(part)), 2)
    )


def _networkx() -> Any:
    try:
        import networkx
    except ImportError as error:
        raise ImportError("the graph needs networkx: pip install 'codec[graph]'") from error
    return networkx
