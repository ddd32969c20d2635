"""What a simulation returns, and the blankets of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_scalar

FloatArray = NDArray[np.float64]
RandomState = int | np.random.SeedSequence | np.random.Generator | None
Parents = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Simulation:
    """Data and the answer; unpacks to ``X, y, blanket``.

    Attributes
    ----------
    X : ndarray of shape (n, p) or DataFrame
        Features; a frame when some are categories.
    y : ndarray or Series of shape (n,)
        Response; a Series of unordered categories when it is nominal.
    blanket : tuple of int
        Columns of X that make y independent of all others, none of them superfluous; ascending.
    names : tuple of str
        Names of the columns of X.
    groups : tuple of tuple of int
        Columns that belong together; each column alone unless said otherwise.
    network : Network or None
        The graph the data come from, with the response among its nodes.

    Examples
    --------
    >>> from codec.datasets import make_gaussian_network
    >>> nodes = {"a": {}, "b": {"coef": {"a": 1.0}}, "c": {"coef": {"b": 1.0}}}
    >>> data = make_gaussian_network(nodes, 50, target="c", random_state=0)
    >>> X, y, blanket = data
    >>> X.shape, blanket, data.names
    ((50, 2), (1,), ('a', 'b'))
    >>> data.to_frame().columns.tolist()
    ['a', 'b', 'y']
    """

    X: Any
    y: Any
    blanket: tuple[int, ...]
    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    network: Network | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.X, self.y, self.blanket))

    def to_frame(self) -> pd.DataFrame:
        """Features and response, the response last and called ``y``.

        Returns
        -------
        DataFrame of shape (n, p + 1)
            The columns of X by name, and ``y``.

        Raises
        ------
        ValueError
            If a feature is called ``y``.
        """
        if "y" in self.names:
            raise ValueError("a feature is called 'y', as the response would be; rename it, or join X and y yourself.")
        frame = self.X if isinstance(self.X, pd.DataFrame) else pd.DataFrame(self.X, columns=list(self.names))
        return frame.assign(y=self.y)


@dataclass(frozen=True, eq=False)
class Network:
    """A sample of all nodes of a directed acyclic graph.

    Attributes
    ----------
    data : DataFrame of shape (n, d)
        One column a node; categories are unordered categoricals.
    parents : tuple of tuple of int
        The parents of every node.

    Examples
    --------
    >>> from codec.datasets import make_gaussian_network
    >>> nodes = {"a": {}, "b": {"coef": {"a": 1.0}}, "c": {"coef": {"b": 1.0}}}
    >>> network = make_gaussian_network(nodes, 50, random_state=0).network
    >>> network.parents, network.blankets
    (((), (0,), (1,)), ((1,), (0, 2), (1,)))
    >>> X, y, blanket = network.target("b")
    >>> X.shape, blanket
    ((50, 2), (0, 1))
    """

    data: pd.DataFrame
    parents: tuple[tuple[int, ...], ...]

    @property
    def blankets(self) -> tuple[tuple[int, ...], ...]:
        """The Markov blanket of every node: tuple of tuples of int, as of :func:`markov_blankets`."""
        return markov_blankets(self.parents)

    def target(self, node: int | str) -> Simulation:
        """One node as the response, all others as features.

        Parameters
        ----------
        node : int or str
            Index or name.

        Returns
        -------
        Simulation
            Columns of X keep the order of the nodes.

        Raises
        ------
        ValueError
            If there is no such node.
        TypeError
            If ``node`` is neither a name nor an integer.
        """
        names = [str(name) for name in self.data.columns]
        index = _index_of(node, names)
        X, y = self.data.drop(columns=self.data.columns[index]), self.data.iloc[:, index]
        nominal = any(isinstance(dtype, pd.CategoricalDtype) for dtype in X.dtypes)
        blanket = tuple(v - (v > index) for v in self.blankets[index])
        return Simulation(
            X if nominal else X.to_numpy(),
            y if isinstance(y.dtype, pd.CategoricalDtype) else y.to_numpy(),
            blanket,
            tuple(names[:index] + names[index + 1 :]),
            tuple((j,) for j in range(X.shape[1])),
            self,
        )


def _index_of(node: Any, names: Sequence[str]) -> int:
    if isinstance(node, str):
        if node not in names:
            raise ValueError(f"target is {node!r}, which is no node; nodes are {', '.join(names[:8])}, ...")
        return names.index(node)
    if isinstance(node, bool) or not isinstance(node, (int, np.integer)):
        raise TypeError(f"target is {node!r}; it must be the name of a node or its index, an integer.")
    if not 0 <= node < len(names):
        raise ValueError(f"target is {node}; it must be between 0 and {len(names) - 1}.")
    return int(node)


def markov_blankets(parents: Parents) -> tuple[tuple[int, ...], ...]:
    """Parents, children and other parents of the children, for every node of a graph.

    Parameters
    ----------
    parents : sequence of sequences of int
        ``parents[v]`` are the parents of node v, indices from 0 on. That the graph has no cycle is not checked.

    Returns
    -------
    tuple of tuple of int
        The blanket of each node, ascending.

    Raises
    ------
    IndexError
        If a parent is no node.

    References
    ----------
    .. [1] J. Pearl, "Probabilistic Reasoning in Intelligent Systems",
       Morgan Kaufmann, 1988, section 3.3.

    Examples
    --------
    >>> from codec.datasets import markov_blankets
    >>> markov_blankets([[], [], [0, 1], [2]])  # 0 -> 2 <- 1, 2 -> 3
    ((1, 2), (0, 2), (0, 1, 3), (2,))
    """
    found: list[set[int]] = [set() for _ in parents]
    for child, above in enumerate(parents):
        family = {child, *above}
        for v in above:
            found[v] |= family
        found[child] |= family
    return tuple(tuple(sorted(blanket - {v})) for v, blanket in enumerate(found))


def simulation(
    X: NDArray[Any],
    y: NDArray[Any],
    blanket: Sequence[int],
    names: tuple[str, ...] | None = None,
    groups: tuple[tuple[int, ...], ...] | None = None,
) -> Simulation:
    columns = range(X.shape[1])
    return Simulation(
        X, y, tuple(blanket), names or tuple(f"x{j}" for j in columns), groups or tuple((j,) for j in columns)
    )


def check_real(value: Any, name: str, low: float, high: float | None = None, *, boundaries: str = "both") -> float:
    """A finite number of any kind, numpy's scalars included."""
    number = float(check_scalar(value, name, Real, min_val=low, max_val=high, include_boundaries=boundaries))
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}; it must be finite.")
    return number


def check_count(value: Any, name: str, low: int = 1) -> int:
    return int(check_scalar(value, name, (int, np.integer), min_val=low))


def scale(values: FloatArray) -> FloatArray:
    spread = values.std()
    return np.asarray((values - values.mean()) / (spread if spread > 0.0 else 1.0))


def tanh_network(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A random network of 8 units, scaled to mean 0 and standard deviation 1 on these rows."""
    weights = 1.5 * rng.standard_normal((x.shape[1], 8))
    return scale(np.tanh(x @ weights + rng.standard_normal(8)) @ rng.standard_normal(8))
