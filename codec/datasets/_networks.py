"""Samples of directed acyclic graphs: random ones, linear Gaussian ones, discrete ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from codec._validation import as_generator
from codec.datasets._simulation import (
    FloatArray,
    Network,
    Parents,
    RandomState,
    Simulation,
    check_count,
    check_real,
    scale,
    tanh_network,
)

GAUSSIAN = ("intercept", "coef", "sd")  # what a node of a linear Gaussian network is given by


def make_mlp_network(
    n: int = 500,
    n_nodes: int = 30,
    *,
    target: int | str | None = None,
    mean_parents: float = 1.6,
    noise: float = 0.5,
    products: float = 0.25,
    nominal: float = 0.0,
    random_state: RandomState = None,
) -> Simulation:
    r"""A random graph with random neural networks and products as mechanisms.

    Node v has at most four parents, their number Poisson distributed, drawn among the nodes before it. With
    :math:`f` scaled to standard deviation 1,

    .. math:: X_v = f_v(X_{pa(v)}) + \text{noise} \cdot e_v,\qquad
        f_v(x) = \sum_{h=1}^{8} a_h \tanh(w_h^T x + b_h)

    or, with probability ``products`` where there are two parents or more, all of them numbers,
    :math:`f_v(x) = \mathrm{sign}(x_1 x_2) \sqrt{|x_1 x_2|} + x_3 + x_4`, in which neither of the first two
    parents has an effect of its own. Every numeric node is scaled to mean 0 and standard deviation 1. A
    nominal node has three classes with probabilities proportional to :math:`\exp(f_{vc}(x) / \text{noise})`,
    and enters the mechanisms of its children as indicators.

    Parameters
    ----------
    n, n_nodes : int, default 500 and 30
        Rows and nodes.
    target : int or str, optional
        The response, ``'v7'`` or 7; a random node with a blanket of its own when absent. The same seed gives
        the same network for every target.
    mean_parents : float, default 1.6
        Mean of the Poisson distribution.
    noise : float, default 0.5
        Standard deviation of the noise.
    products : float, default 0.25
        Share of nodes, among those with two parents or more and no nominal one, that multiply.
    nominal : float, default 0
        Share of nodes that are categories without order.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        With ``network``; X is a frame when a feature is nominal.

    Raises
    ------
    ValueError
        If n is below 1 or ``n_nodes`` below 2, ``target`` is no node, ``products`` or ``nominal`` is not in [0, 1],
        ``noise`` is not positive or ``mean_parents`` negative.
    TypeError
        If n or ``n_nodes`` is no integer, ``target`` neither a name nor an integer, or one of the others no number.

    Examples
    --------
    >>> from codec.datasets import make_mlp_network
    >>> X, y, blanket = make_mlp_network(200, 10, target="v4", random_state=1)
    >>> X.shape, blanket
    ((200, 9), (2, 3))
    """
    check_count(n, "n")
    check_count(n_nodes, "n_nodes", 2)
    products, nominal = check_real(products, "products", 0.0, 1.0), check_real(nominal, "nominal", 0.0, 1.0)
    noise = check_real(noise, "noise", 0.0, boundaries="neither")
    mean_parents = check_real(mean_parents, "mean_parents", 0.0)
    rng = as_generator(random_state, "random_state")
    counts = np.minimum(rng.poisson(mean_parents, n_nodes), 4)
    parents = tuple(
        tuple(int(u) for u in rng.choice(v, min(v, int(counts[v])), replace=False)) if v else () for v in range(n_nodes)
    )
    classes = np.zeros(n_nodes, dtype=np.bool_)
    classes[rng.permutation(n_nodes)[: round(nominal * n_nodes)]] = True
    columns: list[NDArray[Any]] = []
    inputs: list[FloatArray] = []  # what a node is to its children
    for v, above in enumerate(parents):
        seen = np.concatenate([inputs[u] for u in above], axis=1) if above else np.empty((n, 0))
        if classes[v]:
            logits = np.stack([tanh_network(seen, rng) for _ in range(3)]) / noise if above else np.zeros((3, n))
            columns.append((logits + rng.gumbel(size=(3, n))).argmax(axis=0))
            inputs.append(np.eye(3)[columns[-1]])
            continue
        both = len(above) >= 2 and not classes[list(above)].any() and rng.random() < products
        f = _products(seen) if both else tanh_network(seen, rng)
        columns.append(scale(f + noise * rng.standard_normal(n) if above else rng.standard_normal(n)))
        inputs.append(columns[-1][:, None])
    return _choose(_network(columns, classes, [f"v{v}" for v in range(n_nodes)], parents), target, rng)


def make_gaussian_network(
    nodes: Mapping[str, Mapping[str, Any]],
    n: int = 500,
    *,
    target: int | str | None = None,
    random_state: RandomState = None,
) -> Simulation:
    r"""Draw from a linear Gaussian network: :math:`X_v = a_v + \sum_u b_{uv} X_u + \sigma_v e_v`.

    Parameters
    ----------
    nodes : mapping of name to mapping
        For every node ``intercept`` (default 0), ``coef`` (parent to coefficient, default none) and ``sd``
        (default 1). The order of the nodes is free.
    n : int, default 500
        Rows.
    target : int or str, optional
        The response; a random node with a blanket when absent.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        With ``network``.

    Raises
    ------
    ValueError
        If there are no nodes, a node has another entry or a negative ``sd``, a parent or ``target`` is no node, the
        graph has a cycle, or n is below 1.
    TypeError
        If a name is no string, or n no integer.

    Examples
    --------
    >>> from codec.datasets import make_gaussian_network
    >>> nodes = {"a": {}, "b": {}, "c": {"coef": {"a": 1.0, "b": -2.0}, "sd": 0.5}}
    >>> data = make_gaussian_network(nodes, 100, target="a", random_state=0)
    >>> [data.names[j] for j in data.blanket]
    ['b', 'c']
    """
    check_count(n, "n")
    rng = as_generator(random_state, "random_state")
    names = _names(nodes)
    checked = {name: _check_gaussian(node, name) for name, node in nodes.items()}
    parents = _parents({name: tuple(coef) for name, (_, coef, _) in checked.items()})
    columns: list[FloatArray] = [np.empty(0)] * len(names)
    for v in _order(parents, names):
        intercept, coef, sd = checked[names[v]]
        noise = sd * rng.standard_normal(n)
        terms = (b * columns[u] for u, b in zip(parents[v], coef.values(), strict=True))
        columns[v] = intercept + noise + sum(terms)
    return _choose(_network(columns, np.zeros(len(names), dtype=np.bool_), names, parents), target, rng)


def make_discrete_network(
    nodes: Mapping[str, tuple[Sequence[str], Any]],
    n: int = 500,
    *,
    target: int | str | None = None,
    random_state: RandomState = None,
) -> Simulation:
    """Draw from a Bayesian network given by its tables of conditional probabilities.

    Parameters
    ----------
    nodes : mapping of name to (parents, table)
        ``table[i, j, ..., k]`` is the probability of class k when the first parent is in class i, the second
        in class j, and so on; shape (classes of each parent..., classes of the node).
    n : int, default 500
        Rows.
    target : int or str, optional
        The response; a random node with a blanket when absent.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        With ``network``; all columns are unordered categoricals with classes 0, 1, ...

    Raises
    ------
    ValueError
        If there are no nodes, a table has the wrong shape, a negative entry or a sum other than one, a parent or
        ``target`` is no node, the graph has a cycle, or n is below 1.
    TypeError
        If a name is no string, or n no integer.

    Examples
    --------
    >>> from codec.datasets import make_discrete_network
    >>> rain = ([], [0.8, 0.2])
    >>> sprinkler = (["rain"], [[0.6, 0.4], [0.99, 0.01]])
    >>> wet = (["sprinkler", "rain"], [[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [0.01, 0.99]]])
    >>> nodes = {"rain": rain, "sprinkler": sprinkler, "wet": wet}
    >>> X, y, blanket = make_discrete_network(nodes, 50, target="rain", random_state=0)
    >>> X.columns.tolist(), blanket
    (['sprinkler', 'wet'], (0, 1))
    """
    check_count(n, "n")
    rng = as_generator(random_state, "random_state")
    names = _names(nodes)
    tables = {name: np.asarray(table, dtype=np.float64) for name, (_, table) in nodes.items()}
    parents = _parents({name: tuple(above) for name, (above, _) in nodes.items()})
    for v, name in enumerate(names):
        _check_table(tables[name], [tables[names[u]].shape[-1] for u in parents[v]], name)
    columns: list[NDArray[Any]] = [np.empty(0)] * len(names)
    for v in _order(parents, names):
        rows = np.broadcast_to(tables[names[v]][tuple(columns[u] for u in parents[v])], (n, tables[names[v]].shape[-1]))
        columns[v] = np.minimum((rng.random((n, 1)) > rows.cumsum(axis=1)).sum(axis=1), rows.shape[1] - 1)
    sizes = [tables[name].shape[-1] for name in names]
    return _choose(_network(columns, np.ones(len(names), dtype=np.bool_), names, parents, sizes), target, rng)


def _products(x: FloatArray) -> FloatArray:
    product = x[:, 0] * x[:, 1]
    return scale(np.sign(product) * np.sqrt(np.abs(product)) + x[:, 2:].sum(axis=1))


def _network(
    columns: Sequence[NDArray[Any]],
    nominal: NDArray[np.bool_],
    names: Sequence[str],
    parents: tuple[tuple[int, ...], ...],
    sizes: Sequence[int] | None = None,
) -> Network:
    frame = {
        name: pd.Categorical(column, categories=range(sizes[v] if sizes else 3)) if nominal[v] else column
        for v, (name, column) in enumerate(zip(names, columns, strict=True))
    }
    return Network(pd.DataFrame(frame), parents)


def _choose(network: Network, target: int | str | None, rng: np.random.Generator) -> Simulation:
    if target is not None:
        return network.target(target)
    possible = [v for v, blanket in enumerate(network.blankets) if blanket]
    return network.target(int(rng.choice(possible)) if possible else 0)


def _names(nodes: Mapping[str, Any]) -> list[str]:
    if not nodes:
        raise ValueError("nodes is empty; name one node at least.")
    for name in nodes:
        if not isinstance(name, str):
            raise TypeError(f"nodes: the name {name!r} is no string; write {str(name)!r}, also among the parents.")
    return list(nodes)


def _check_gaussian(node: Mapping[str, Any], name: str) -> tuple[float, dict[str, float], float]:
    """Intercept, coefficients by parent and standard deviation of a node, whose entries are all known."""
    unknown = [entry for entry in node if entry not in GAUSSIAN]
    if unknown:
        raise ValueError(f"nodes: {name!r} has the entry {unknown[0]!r}; it may have {', '.join(GAUSSIAN)}.")
    coef = node.get("coef", {})
    if not isinstance(coef, Mapping):
        raise TypeError(f"nodes: coef of {name!r} is {coef!r}; it must be a dict of parent to coefficient.")
    found = {u: check_real(b, f"nodes: coef of {u!r} for {name!r}", -np.inf) for u, b in coef.items()}
    intercept = check_real(node.get("intercept", 0.0), f"nodes: intercept of {name!r}", -np.inf)
    return intercept, found, check_real(node.get("sd", 1.0), f"nodes: sd of {name!r}", 0.0)


def _parents(named: Mapping[str, Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    names = list(named)
    for name, above in named.items():
        unknown = [u for u in above if u not in named]
        if unknown:
            raise ValueError(f"nodes: parent {unknown[0]!r} of {name!r} is no node.")
    return tuple(tuple(names.index(u) for u in above) for above in named.values())


def _order(parents: Parents, names: Sequence[str]) -> list[int]:
    """Nodes, parents first."""
    order: list[int] = []
    waiting = list(range(len(parents)))
    while waiting:
        ready = [v for v in waiting if all(u in order for u in parents[v])]
        if not ready:
            raise ValueError(f"nodes: the graph has a cycle through {names[waiting[0]]!r} or its ancestors.")
        order += ready
        waiting = [v for v in waiting if v not in ready]
    return order


def _check_table(table: FloatArray, above: Sequence[int], name: str) -> None:
    if table.ndim != len(above) + 1 or table.shape[:-1] != tuple(above):
        raise ValueError(
            f"nodes: the table of {name!r} has shape {table.shape}; its parents have {tuple(above)} classes, "
            "so it must have these and the node's own number of classes."
        )
    if (table < 0).any() or not np.allclose(table.sum(axis=-1), 1.0, atol=1e-6):
        raise ValueError(f"nodes: the probabilities of {name!r} must be at least 0 and sum to 1 in the last axis.")
