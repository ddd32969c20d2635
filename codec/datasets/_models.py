"""Responses as functions of independent columns, of points, of numbers modulo m; post-nonlinear pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec._validation import as_generator
from codec.datasets._simulation import (
    FloatArray,
    RandomState,
    Simulation,
    check_count,
    check_real,
    simulation,
    tanh_network,
)


def _linear(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(3 * x[0] + 2 * x[1] - x[2] + rng.standard_normal(x.shape[1]))


def _additive(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(np.sin(x[0]) + 2 * np.cos(x[1]) + np.exp(x[2]) + rng.standard_normal(x.shape[1]))


def _product(x: FloatArray, rng: np.random.Generator) -> FloatArray:  # noqa: ARG001
    return np.asarray(x[0] * x[1] + np.sin(x[0] * x[2]))


def _logarithm(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    inside = 4 - np.sin(x[0]) + np.abs(x[1]) + x[2] ** 2
    return np.asarray(2 * np.log(inside) + 0.1 * rng.standard_normal(x.shape[1]))


def _power(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(np.abs(x[0] + rng.random(x.shape[1])) ** np.sin(x[1] - x[2]))


def _square(x: FloatArray, rng: np.random.Generator) -> FloatArray:
    return np.asarray(_product(x, rng) + x[3] ** 2)


_MODELS: dict[str, tuple[int, Callable[[FloatArray, np.random.Generator], FloatArray]]] = {
    "linear": (3, _linear),
    "additive": (3, _additive),
    "product": (3, _product),
    "logarithm": (3, _logarithm),
    "power": (3, _power),
    "square": (4, _square),
}


def make_foci_model(
    model: str = "product", n: int = 200, p: int = 10, *, random_state: RandomState = None
) -> Simulation:
    r"""Regression on the first three or four of p independent standard normal columns.

    Parameters
    ----------
    model : {'linear', 'additive', 'product', 'logarithm', 'power', 'square'}, default 'product'
        With :math:`\epsilon` standard normal and U uniform on [0, 1]:

        - linear: :math:`3 X_1 + 2 X_2 - X_3 + \epsilon`
        - additive: :math:`\sin X_1 + 2 \cos X_2 + e^{X_3} + \epsilon`
        - product: :math:`X_1 X_2 + \sin(X_1 X_3)`
        - logarithm: :math:`2 \log(4 - \sin X_1 + |X_2| + X_3^2) + 0.1 \epsilon`
        - power: :math:`|X_1 + U|^{\sin(X_2 - X_3)}`
        - square: :math:`X_1 X_2 + \sin(X_1 X_3) + X_4^2`
    n, p : int, default 200 and 10
        Rows and columns.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        The blanket is the first three columns, four for ``'square'``.

    Raises
    ------
    ValueError
        If the model is unknown, n is below 1 or p is too small for the model.
    TypeError
        If n or p is no integer.

    References
    ----------
    .. [1] M. Azadkia, S. Chatterjee, "A simple measure of conditional dependence", Annals of Statistics
       49(6), 3070-3102, 2021, :doi:`10.1214/21-AOS2073`.
    .. [2] Z. Huang, N. Deb, B. Sen, "Kernel partial correlation coefficient: a measure of conditional
       dependence", Journal of Machine Learning Research 23(216), 1-58, 2022.

    Examples
    --------
    >>> from codec.datasets import make_foci_model
    >>> X, y, blanket = make_foci_model("linear", n=100, p=5, random_state=0)
    >>> X.shape, blanket
    ((100, 5), (0, 1, 2))
    """
    if model not in _MODELS:
        raise ValueError(f"model is {model!r}; it must be one of {', '.join(map(repr, _MODELS))}.")
    k, function = _MODELS[model]
    check_count(n, "n")
    check_count(p, "p", k)
    rng = as_generator(random_state, "random_state")
    X = rng.standard_normal((n, p))
    return simulation(X, function(X.T, rng), range(k))


def make_bullseye(
    n: int = 1000, *, dim: int | None = None, noise: float = 0.075, random_state: RandomState = None
) -> Simulation:
    r"""Six distances from a centre, or six points at these distances in random directions.

    .. math::
        R_1 \sim \tfrac12 U[\tfrac14, \tfrac12] + \tfrac12 U[\tfrac34, 1],\quad R_2 = R_1 + e_2,\quad
        R_3 = R_1 + e_3,\quad R_4 = R_3 + e_4,

        R_5 = \tfrac12 (R_2 + R_4) + e_5,\quad Y = \tfrac12 (R_3 + R_5) + e,\quad
        R_6 = \tfrac12 (R_4 + Y) + e_6

    with independent :math:`e` uniform on [-noise, noise]. The parents of Y are 3 and 5, its child is 6, whose
    other parent is 4. With ``dim``, the features are the coordinates of :math:`R_j V_j`, each :math:`V_j`
    uniform on the sphere: no coordinate alone determines anything, only whole points do.

    Parameters
    ----------
    n : int, default 1000
        Rows.
    dim : int, optional
        Coordinates of a point; the distances themselves when absent.
    noise : float, default 0.075
        Half the width of the noise.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        With ``dim``, ``groups`` holds the columns of each point, and the blanket all columns of four points.

    Raises
    ------
    ValueError
        If n or ``dim`` is below 1, or ``noise`` is negative or not finite.
    TypeError
        If n or ``dim`` is no integer, or ``noise`` no number.

    References
    ----------
    .. [1] M. Azadkia, A. Taeb, P. Bühlmann, "A fast non-parametric approach for local causal structure
       learning", 2021, :arxiv:`2111.14969`.

    Examples
    --------
    >>> from codec.datasets import make_bullseye
    >>> data = make_bullseye(100, dim=2, random_state=0)
    >>> data.groups
    ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11))
    >>> data.blanket
    (4, 5, 6, 7, 8, 9, 10, 11)
    """
    check_count(n, "n")
    noise = check_real(noise, "noise", 0.0)
    rng = as_generator(random_state, "random_state")
    e = rng.uniform(-noise, noise, (6, n))
    inner = rng.random(n) < 0.5
    r1 = np.where(inner, rng.uniform(0.25, 0.5, n), rng.uniform(0.75, 1.0, n))
    r2, r3 = r1 + e[0], r1 + e[1]
    r4 = r3 + e[2]
    r5 = 0.5 * (r2 + r4) + e[3]
    y = 0.5 * (r3 + r5) + e[4]
    radii = np.stack([r1, r2, r3, r4, r5, 0.5 * (r4 + y) + e[5]], axis=1)
    if dim is None:
        return simulation(radii, y, range(2, 6), tuple(f"r{j}" for j in range(1, 7)))
    return simulation(*_points(radii, y, check_count(dim, "dim"), rng))


def _points(
    radii: FloatArray, y: FloatArray, dim: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, range, tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Points at these distances from 0, in directions uniform on the sphere."""
    n, k = radii.shape
    directions = rng.standard_normal((n, k, dim))
    directions *= (radii / np.linalg.norm(directions, axis=2))[:, :, None]
    names = tuple(f"p{j}_{c}" for j in range(1, k + 1) for c in range(1, dim + 1))
    groups = tuple(tuple(range(j * dim, (j + 1) * dim)) for j in range(k))
    return directions.reshape(n, k * dim), y, range(2 * dim, k * dim), names, groups


def make_modular_sum(
    n: int = 500,
    p: int = 10,
    *,
    n_terms: int = 2,
    modulus: int | None = None,
    flip: float = 0.0,
    random_state: RandomState = None,
) -> Simulation:
    r"""The sum of the first columns modulo m: no proper subset of them says anything about y.

    .. math:: Y = (X_1 + \dots + X_k) \bmod m

    with independent X, uniform on {0, ..., m - 1}; without ``modulus`` uniform on [0, 1) with m = 1. Since
    :math:`X_k` is uniform, Y is uniform and independent of any k - 1 of the terms, and a function of all k.

    Parameters
    ----------
    n, p : int, default 500 and 10
        Rows and columns.
    n_terms : int, default 2
        Columns in the sum.
    modulus : int, optional
        m; 2 gives the exclusive or.
    flip : float, default 0
        Share of responses replaced by uniform noise.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        The blanket is the first ``n_terms`` columns; empty for ``flip=1``.

    Raises
    ------
    ValueError
        If n or ``n_terms`` is below 1, p is below ``n_terms``, ``modulus`` is below 2 or ``flip`` is not in [0, 1].
    TypeError
        If n, p, ``n_terms`` or ``modulus`` is no integer, or ``flip`` no number.

    Examples
    --------
    >>> from codec.datasets import make_modular_sum
    >>> X, y, blanket = make_modular_sum(4, 3, modulus=2, random_state=0)
    >>> bool((y == (X[:, 0] + X[:, 1]) % 2).all()), blanket
    (True, (0, 1))
    """
    check_count(n, "n")
    check_count(p, "p", check_count(n_terms, "n_terms"))
    flip = check_real(flip, "flip", 0.0, 1.0)
    rng = as_generator(random_state, "random_state")
    m = 1 if modulus is None else check_count(modulus, "modulus", 2)

    def uniform(shape: Any) -> NDArray[Any]:
        return np.asarray(rng.random(shape) if modulus is None else rng.integers(0, m, shape))

    X = uniform((n, p))
    y = np.where(rng.random(n) < flip, uniform(n), X[:, :n_terms].sum(axis=1) % m)
    return simulation(X, y, range(n_terms) if flip < 1.0 else ())


def make_post_nonlinear(
    kind: str = "null",
    n: int = 200,
    dim: int = 3,
    *,
    noise: float = 0.7,
    random_state: RandomState = None,
) -> Simulation:
    r"""Two variables that a third one influences, for tests of conditional independence.

    .. math:: X = g_1(f_1(Z) + \sigma e_1),\qquad Y = g_2(f_2(Z) + \sigma e_2)

    with standard normal Z of ``dim`` columns, random smooth :math:`f` (tanh networks of 8 units, standard
    deviation 1) and random increasing :math:`g` (identity, tanh, cube root, sinh).

    Parameters
    ----------
    kind : {'null', 'shared', 'squared'}, default 'null'
        null: independent standard normal noise. shared: :math:`(e_j + 0.6 b) / \sqrt{1.36}` with one normal b
        in both. squared: :math:`e_2` is multiplied by :math:`|e_1|`, so that no correlation is left.
    n, dim : int, default 200 and 3
        Rows and columns of Z.
    noise : float, default 0.7
        :math:`\sigma`.
    random_state : int, SeedSequence, Generator or None, default None
        Seed.

    Returns
    -------
    Simulation
        Columns ``x, z1, z2, ...``. The blanket of y is Z under ``'null'``, and all columns otherwise.

    Raises
    ------
    ValueError
        If ``kind`` is unknown, n or ``dim`` is below 1, or ``noise`` is negative or not finite.
    TypeError
        If n or ``dim`` is no integer, or ``noise`` no number.

    Examples
    --------
    >>> from codec import codec_test
    >>> from codec.datasets import make_post_nonlinear
    >>> X, y, _ = make_post_nonlinear("shared", n=200, dim=1, random_state=0)
    >>> codec_test(y, X[:, 0], given=X[:, 1:], n_resamples=99, rng=0).pvalue < 0.05
    True
    """
    if kind not in {"null", "shared", "squared"}:
        raise ValueError(f"kind is {kind!r}; it must be one of 'null', 'shared', 'squared'.")
    check_count(n, "n")
    check_count(dim, "dim")
    noise = check_real(noise, "noise", 0.0)
    rng = as_generator(random_state, "random_state")
    z = rng.standard_normal((n, dim))
    e = rng.standard_normal((2, n))
    if kind == "shared":
        e = (e + 0.6 * rng.standard_normal(n)) / np.sqrt(1.36)
    elif kind == "squared":
        e[1] *= np.abs(e[0])
    outer = (lambda v: v, np.tanh, np.cbrt, np.sinh)
    x, y = (outer[rng.integers(4)](tanh_network(z, rng) + noise * e[j]) for j in range(2))
    names = ("x", *(f"z{j}" for j in range(1, dim + 1)))
    return simulation(np.column_stack([x, z]), y, range(kind == "null", dim + 1), names)
