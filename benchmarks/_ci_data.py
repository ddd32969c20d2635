"""Data for tests of conditional independence: null hypotheses and alternatives with a known answer.

Every generator returns y, z, x as a function of a Generator, n and the number of columns of x. Post-
nonlinear data: ``z = g1(f1(x) + s e1)``, ``y = g2(f2(x) + s e2)`` with random smooth f (standard
deviation 1), random increasing g, and ``s**-2`` the signal-to-noise ratio.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

Array = np.ndarray
Draw = tuple[Array, Array, Array]


def standardize(values: Array) -> Array:
    """Mean 0, standard deviation 1; constants stay 0."""
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def smooth_function(x: Array, rng: np.random.Generator) -> Array:
    """One of five random smooth functions of one or two directions of x, or of all its columns."""
    n_columns = x.shape[1]
    directions = rng.normal(size=(n_columns, 2))
    u = x @ (directions / np.linalg.norm(directions, axis=0))
    kind = rng.integers(5)
    if kind == 0:
        f = np.sin(1.5 * u[:, 0])
    elif kind == 1:
        f = u[:, 0] * np.abs(u[:, 0])
    elif kind == 2:
        f = np.tanh(3.0 * u[:, 0])
    elif kind == 3:
        f = u[:, 0] * u[:, 1] if n_columns > 1 else u[:, 0] ** 2 - u[:, 0]
    else:
        f = np.sin(x + rng.uniform(0, 3, n_columns)).sum(axis=1)
    return standardize(f)


def outer_function(values: Array, rng: np.random.Generator) -> Array:
    """Identity, tanh, exp, or a signed power."""
    kind = rng.integers(4)
    if kind == 0:
        return values
    if kind == 1:
        return np.tanh(values)
    if kind == 2:
        return np.exp(0.5 * values)
    return np.sign(values) * np.abs(values) ** 1.5


# ---------------------------------------------------------------------- null hypotheses
def draw_given(name: str, n: int, d: int, rng: np.random.Generator) -> Array:
    """X: standard normal unless the name says otherwise."""
    x = rng.normal(size=(n, d))
    if name == "discrete x":
        return rng.integers(0, 3, (n, d)).astype(float)
    if name == "mixed x":
        half = (d + 1) // 2
        x[:, :half] = (x[:, :half] > 0) + (x[:, :half] > 1) * (np.arange(half) % 2)
    elif name == "correlated x":
        x = np.sqrt(0.8) * rng.normal(size=(n, 1)) + np.sqrt(0.2) * x
    return x


def draw_noise(name: str, n: int, rng: np.random.Generator) -> Array:
    """Noise of variance 1 (Cauchy: of scale 1)."""
    if name == "t3 noise":
        return rng.standard_t(3, n) / np.sqrt(3.0)
    if name == "cauchy noise":
        return rng.standard_cauchy(n)
    if name == "chi-square noise":
        return (rng.chisquare(1, n) - 1.0) / np.sqrt(2.0)
    return rng.normal(size=n)


def binary(f: Array, rng: np.random.Generator) -> Array:
    """0/1 with logit 2.5 f."""
    return (rng.random(f.size) < 1.0 / (1.0 + np.exp(-2.5 * f))).astype(float)


def null(name: str, n: int, d: int, rng: np.random.Generator) -> Draw:
    """Y independent of z given x."""
    x = draw_given(name, n, d, rng)
    scaled = standardize(x)
    f, g = smooth_function(scaled, rng), smooth_function(scaled, rng)
    if name in SHARED:
        f = standardize(SHARED[name](scaled)[:, None].astype(float))[:, 0]
    if name in {"shared signal", *SHARED}:
        g = f
    e, h = draw_noise(name, n, rng), draw_noise(name, n, rng)
    if name == "shared scale":
        scale = np.exp(0.8 * smooth_function(scaled, rng))
        e, h = e * scale, h * scale
    s = np.sqrt(0.1) if name in {"snr 10", "shared signal", *SHARED} else np.sqrt(0.5)
    z, y = f + s * e, g + (0.0 if name == "y without noise" else s) * h
    if name in {"snr 2", "snr 10"}:
        z, y = outer_function(z, rng), outer_function(y, rng)
    if name in {"binary z", "binary both"}:
        z = binary(f, rng)
    if name in {"binary y", "binary both"}:
        y = binary(g, rng)
    if name == "shared threshold":
        z, y = (((f > 0.0) != (rng.random(n) < 0.05)).astype(float) for _ in range(2))
    return y, z, x


GRID_NULLS = ("snr 2", "snr 10")
OTHER_NULLS = (
    "t3 noise", "cauchy noise", "chi-square noise", "correlated x", "discrete x", "mixed x",
    "binary z", "binary y", "binary both",
)  # fmt: skip
HARD_NULLS = ("shared signal", "shared scale")
SHARED = {
    "shared jump": lambda x: x[:, 0] > 0.0,
    "shared threshold": lambda x: x[:, 0] > 0.0,  # which y and z tell in 95 of 100 rows
    "sign times a column": lambda x: np.sign(x[:, 0]) * x[:, 1],
    "shared jump of a sum": lambda x: x.sum(axis=1) > 0.0,  # no step along a column
    "shared product": lambda x: x[:, 0] * x[:, 1],  # which no kernel of many columns finds
    "shared tree": lambda x: np.where(
        x[:, 0] > 0.0, np.where(x[:, 1] > 0.5, 4.0, 0.0), np.where(x[:, 2] > -0.3, 2.0, -3.0)
    ),
}
EDGE_NULLS = (  # what no smoother follows, and nothing left to follow; with columns of X
    ("shared jump", 1), ("shared jump", 3), ("shared threshold", 1), ("sign times a column", 2), ("shared tree", 4),
    ("shared jump of a sum", 2), ("shared jump of a sum", 5), ("y without noise", 1),
    ("shared product", 20),
)  # fmt: skip


# ---------------------------------------------------------------------- alternatives
def noise_pair(name: str, x: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Noises of z and y that depend on each other."""
    n = len(x)
    a, e = rng.normal(size=n), rng.normal(size=n)
    if name.startswith("sine"):
        return a, 1.4 * np.sin(int(name[-1]) * np.pi / 2 * a) + 0.5 * e
    if name == "multiplicative":
        return a, e * np.exp(0.8 * a) / 3.0
    if name == "xor with x":
        return a, (np.abs(e) * np.sign(a) * np.sign(x[:, 0]) + 0.6 * rng.normal(size=n)) / 1.15
    if name == "circle":
        angle = rng.uniform(0, 2 * np.pi, n)
        return 1.4 * np.cos(angle) + 0.3 * a, 1.4 * np.sin(angle) + 0.3 * e
    if name == "region":
        return a, np.where(x[:, 0] > 0.6, 1.2 * a + 0.3 * e, e)
    if name == "tails":
        return a, np.where(np.abs(a) > 1.5, a + 0.3 * e, e)
    if name == "weak linear":
        return a, 0.25 * a + e
    if name == "one-sided variance":
        return a, e * (1.0 + 1.5 * (a > 0)) / 1.8
    if name == "shared noise":
        b = 0.6 * rng.normal(size=n)
        return a + b, e + b
    return later_pair(name, a, e, rng)


def later_pair(name: str, a: Array, e: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Alternatives chosen after the design of the test was fixed."""
    n = a.size
    if name == "cross":
        return a, rng.choice([-1.0, 1.0], n) * a + 0.4 * e
    if name == "absolute value":
        return a, 1.2 * np.abs(a) + 0.9 * e
    if name == "t copula":
        scale = np.sqrt(2.0 / rng.chisquare(2, n))
        return [rankdata(v * scale) / (n + 1) * 4 - 2 for v in (a, e)]
    raise ValueError(f"{name!r} is no alternative")


ALTERNATIVES = (
    "multiplicative", "xor with x", "sine 1", "sine 2", "sine 3", "sine 4", "circle", "region", "tails",
    "weak linear", "one-sided variance", "shared noise",
)  # fmt: skip
LATER_ALTERNATIVES = ("cross", "absolute value", "t copula")


def alternative(name: str, n: int, d: int, rng: np.random.Generator) -> Draw:
    """Y depends on z given x."""
    x = rng.normal(size=(n, d))
    f, g = smooth_function(x, rng), smooth_function(x, rng)
    e, h = noise_pair(name, x, rng)
    return g + 0.7 * h, f + 0.7 * e, x


# ---------------------------------------------------------------------- discrete networks
def network_null(path: Path) -> Callable[[int, np.random.Generator], tuple[pd.Series, pd.Series, pd.DataFrame]]:
    """A generator of (y, z, parents of y) with z no descendant and no parent of y; needs pgmpy."""
    import networkx as nx
    from pgmpy.readwrite import BIFReader

    model = BIFReader(string=gzip.decompress(path.read_bytes()).decode()).get_model()
    graph = nx.DiGraph(model.edges())
    children = [node for node in graph if graph.in_degree(node)]

    def draw(n: int, rng: np.random.Generator) -> tuple[pd.Series, pd.Series, pd.DataFrame]:
        seed = int(rng.integers(2**31))
        data = model.simulate(n, seed=seed, show_progress=False).astype("category")
        for _ in range(1000):
            y = children[rng.integers(len(children))]
            parents = list(graph.predecessors(y))
            others = sorted(set(graph) - {y, *parents} - nx.descendants(graph, y))
            if others:
                z = others[rng.integers(len(others))]
                if len(data[y].cat.categories) > 1 and len(data[z].cat.categories) > 1:
                    return data[y], data[z], data[parents]
        raise RuntimeError("no testable triple found")

    return draw
