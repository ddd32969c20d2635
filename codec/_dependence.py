"""The conditional dependence coefficient T(Y, Z | X) and its randomized form.

In integers, with ``A_V = sum_i w(i, N(i))`` over the nearest neighbours ``N(i)`` in V
(:mod:`codec._kernels`), ``M`` and ``D`` of the response (:class:`codec._neighbors.Response`):

    T(Y, Z)     = 1 - n (M - A_Z) / D
    T(Y, Z | X) = 1 - (M - A_XZ) / (M - A_X)

which are equations (2.2) and (2.3) of Azadkia & Chatterjee (2021) after cancelling ``n^2`` and using
``sum_i L_i = sum_i R_i``; for a nominal response, the same with the discrete kernel.
"""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from codec._kernels import spreads
from codec._neighbors import Geometry, Response, lay_columns, make_response, neighbor_sum
from codec._validation import (
    FloatArray,
    NanPolicy,
    Rng,
    Table,
    Ties,
    as_generator,
    check_integer,
    check_neighbors,
    check_option,
    check_positive,
    check_spread,
    constant_columns,
    drop_incomplete,
    read_table,
)

NominalY = Literal["auto"] | bool
ALL_ORDERS = 4  # responses up to which every order is averaged (4! = 24 orders, 32 searches)


# --------------------------------------------------------------------------- the response
@dataclass(frozen=True)
class Term:
    """One univariate coefficient in the sum that makes T for several responses.

    Attributes
    ----------
    response : Response
        The response y_i.
    given : tuple of int
        Which of the other responses stand beside the predictors.
    weight : float
        The coefficient's weight; the constant 1 - sum of weights is added.
    """

    response: Response
    given: tuple[int, ...]
    weight: float


def read_response(y: Any, nominal_y: NominalY) -> Table:
    """Responses in normal form; text and categories without order are nominal."""
    check_option(nominal_y, "nominal_y", ("auto", True, False))
    table = read_table(y, "y", text_is_nominal=True)
    if nominal_y is True:
        table = replace(table, nominal=np.ones_like(table.nominal))
    if nominal_y is False and table.nominal.any():
        name = table.names[int(np.argmax(table.nominal))]
        raise ValueError(
            f"nominal_y is False, but column {name!r} of y holds categories without order; "
            "pass an ordered categorical or nominal_y='auto'."
        )
    return table


def refuse_constant(y: Table) -> None:
    """A response with a single value has no dependence to measure."""
    constant = constant_columns(y)
    if constant.any():
        name = y.names[int(np.argmax(constant))]
        raise ValueError(
            f"y is constant: column {name!r} holds a single value, there is nothing to explain; "
            "pass a response that varies."
        )


def response_terms(y: Table, k: int) -> list[Term]:
    """The univariate coefficients that T of this response is made of.

    For q > 1 responses, T^q(Y | V) averaged over their orders (Ansari & Fuchs 2023, eqs. 6 and 10):

        T^q = 1 - (q - sum_i T(y_i | V, y_1..y_{i-1})) / (q - sum_{i >= 2} T(y_i | y_1..y_{i-1}))

    which is linear in the coefficients of the numerator.
    """
    refuse_constant(y)
    responses = [make_response(values, nominal=bool(flag)) for values, flag in zip(y.columns, y.nominal, strict=True)]
    q = len(responses)
    if q == 1:
        return [Term(responses[0], (), 1.0)]
    weights: dict[tuple[int, tuple[int, ...]], float] = defaultdict(float)
    orders = response_orders(q)
    among = {}
    for order in orders:
        steps = [(i, tuple(sorted(order[:place]))) for place, i in enumerate(order)]
        for i, given in steps[1:]:
            if (i, given) not in among:
                among[i, given] = _coefficient(beside(y, given), responses[i], k)
        scale = q - sum(among[step] for step in steps[1:])
        for step in steps:
            weights[step] += 1.0 / (scale * len(orders))
    return [Term(responses[i], given, weight) for (i, given), weight in weights.items()]


def response_orders(q: int) -> list[tuple[int, ...]]:
    """All orders of few responses, the cyclic ones of many."""
    if q <= ALL_ORDERS:
        return list(itertools.permutations(range(q)))
    return [tuple((start + i) % q for i in range(q)) for start in range(q)]


def beside(y: Table, given: Sequence[int]) -> Table:
    chosen = list(given)
    return replace(y, columns=y.columns[chosen], nominal=y.nominal[chosen])


def side_by_side(first: Table, second: Table) -> Table:
    """The columns of both tables."""
    return Table(
        np.concatenate([first.columns, second.columns]),
        np.concatenate([first.nominal, second.nominal]),
        first.names + second.names,
        first.argument,
    )


# --------------------------------------------------------------------------- T from a sum
def unconditional(total: int, response: Response, k: int) -> float:
    """T(Y, V) from ``K * A_V * one``."""
    full = k * response.total * response.one
    return 1.0 - response.n * (full - total) / (k * response.spread * response.one)


def conditional(total: int, before: int, response: Response, k: int) -> float:
    """T(Y, Z | X) from ``K * A_XZ * one`` and ``K * A_X * one``; nan when Y is a function of X here."""
    full = k * response.total * response.one
    if full <= before + response.n:  # nothing left but the rounding of fractions
        return float("nan")
    return 1.0 - (full - total) / (full - before)


def _plain(table: Table, response: Response) -> Geometry:
    """Unweighted distances: the coefficient itself never standardizes."""
    return lay_columns(table, np.ones(len(table.names)), response)


def _coefficient(table: Table, response: Response, k: int, *, random: bool = False, seed: int = 0) -> float:
    total = neighbor_sum(_plain(table, response), response, k, random=random, seed=seed)
    return unconditional(total, response, k)


# --------------------------------------------------------------------------- the public functions
def codec(
    y: Any,
    z: Any,
    given: Any = None,
    *,
    n_neighbors: int = 1,
    ties: Ties = "average",
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    rng: Rng = None,
) -> float:
    r"""Conditional dependence coefficient T(Y, Z) or T(Y, Z | X).

    The population value is 0 if and only if Y is independent of Z given X, and 1 if and only if Y is
    a function of Z given X. The estimate uses no tuning parameter, and no assumption on the
    distribution; it can be slightly negative.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, q)
        Response. Numbers, booleans and ordered categoricals are compared by order; unordered pandas
        categoricals and text are nominal. Several columns: the coefficient of Ansari & Fuchs for q
        responses, averaged over their orders (all orders up to q = 4, the q cyclic ones beyond).
    z : array-like of shape (n,) or (n, p)
        The variables whose influence is measured. Euclidean distance, columns as they are: nothing is
        standardized. An unordered categorical column adds 1 to the squared distance of two rows when
        their levels differ (one-hot columns divided by sqrt(2)).
    given : array-like of shape (n,) or (n, r), optional
        The conditioning variables X. Without them T(Y, Z) is returned.
    n_neighbors : int, default 1
        K: the mean over the K nearest neighbours takes the place of the nearest neighbour. 1 is the
        estimator of the paper; larger values have less variance and more bias.
    ties : {'average', 'random'}, default 'average'
        Neighbours at the same distance: average over all of them (deterministic, the same for every
        order of the rows), or one random draw as in the paper, used in numerator and denominator. The
        draws among the neighbours in X and in (X, Z) use the same random numbers for the same row: a
        constant Z changes nothing.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    rng : None, int, SeedSequence or Generator, default None
        Used by ``ties='random'`` only.

    Returns
    -------
    float
        T, at most 1. ``nan`` with a ``RuntimeWarning`` if Y is a function of X in the sample:
        nothing is left that Z could explain.

    Raises
    ------
    ValueError, TypeError
        A constant ``y``, missing or infinite values, different lengths, fewer than three complete
        rows, ``n_neighbors`` not below the number of rows, text in ``z`` or ``given``.

    Warns
    -----
    RuntimeWarning
        Y is a function of X in the sample; T is ``nan``.
    UserWarning
        Rows with missing values were left out (``nan_policy='omit'``).

    See Also
    --------
    lcodec : the randomized form for data with ties.
    foci : forward selection with this coefficient.

    References
    ----------
    .. [1] M. Azadkia, S. Chatterjee, "A simple measure of conditional dependence", Annals of Statistics
       49(6), 3070-3102, 2021, eqs. (2.2)-(2.3), :doi:`10.1214/21-AOS2073`.
    .. [2] Z. Lin, F. Han, "On boosting the power of Chatterjee's rank correlation", Biometrika 110(2),
       2023 (K neighbours), :doi:`10.1093/biomet/asac048`.
    .. [3] J. Ansari, S. Fuchs, "A simple extension of Azadkia & Chatterjee's rank correlation to
       multi-response vectors", arXiv:2212.01621, 2022, eqs. (6) and (10) (several responses).

    Examples
    --------
    >>> import numpy as np
    >>> from codec import codec
    >>> rng = np.random.default_rng(0)
    >>> x, z = rng.random((2, 2000))
    >>> y = (x + z) % 1.0
    >>> round(codec(y, z), 2), round(codec(y, z, given=x), 2)
    (-0.01, 0.94)
    """
    check_option(ties, "ties", ("average", "random"))
    tables = [read_response(y, nominal_y), read_table(z, "z")]
    if given is not None:
        tables.append(read_table(given, "given"))
    tables, _ = drop_incomplete(tables, nan_policy, stacklevel=2)
    generator = as_generator(rng)
    seed = _draw_seed(generator) if ties == "random" else 0
    return _value(tables, n_neighbors, random=ties == "random", seed=seed)


def lcodec(
    y: Any,
    z: Any,
    given: Any = None,
    *,
    noise: float = 1e-3,
    n_draws: int = 1,
    n_neighbors: int = 1,
    nominal_y: NominalY = "auto",
    nan_policy: NanPolicy = "raise",
    rng: Rng = None,
) -> float:
    """Randomized coefficient L-CODEC: CODEC after small independent noise on columns with ties.

    Noise makes every distance different, so that no ties have to be searched or broken. On data
    without ties it equals :func:`codec`.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, q)
        Response, as in :func:`codec`. A nominal response gets no noise.
    z : array-like of shape (n,) or (n, p)
        The variables whose influence is measured, as in :func:`codec`. Nominal columns get no noise; ties that
        remain because of them are averaged.
    given : array-like of shape (n,) or (n, r), optional
        The conditioning variables X, treated as ``z`` is. Without them T(Y, Z) is returned.
    noise : float, default 1e-3
        Standard deviation of the Gaussian noise, as a share of each column's own standard deviation
        (of 1 for a constant column). Only columns with ties are changed.
    n_draws : int, default 1
        Draws of the noise whose coefficients are averaged.
    n_neighbors : int, default 1
        K neighbours instead of the nearest, as in :func:`codec`.
    nominal_y : 'auto' or bool, default 'auto'
        Whether the response has classes without order.
    nan_policy : {'raise', 'omit'}, default 'raise'
        Missing values are an error, or their rows are left out with a warning that says how many.
    rng : None, int, SeedSequence or Generator, default None
        Seed of the noise.

    Returns
    -------
    float
        The mean of T over the draws, at most 1. ``nan`` with a ``RuntimeWarning`` if Y is a function of X in the
        sample.

    Raises
    ------
    ValueError, TypeError
        As in :func:`codec`; ``noise`` is not a positive, finite number; ``n_draws`` is not an integer from 1 on.

    Warns
    -----
    RuntimeWarning, UserWarning
        As in :func:`codec`.

    Notes
    -----
    The noise on a discrete ``y`` is a part of ``y`` that nothing explains: T of a function of Z stays below
    1, the more so the fewer levels ``y`` has. :func:`codec` averages over ties and has no such loss.

    References
    ----------
    .. [1] R. Mehta, S. Pal, V. Singh, S. N. Ravi, "Deep Unlearning via Randomized Conditionally
       Independent Hessians", CVPR 2022, section 3, arXiv:2204.07655.

    Examples
    --------
    >>> import numpy as np
    >>> from codec import lcodec
    >>> rng = np.random.default_rng(0)
    >>> x, z = rng.integers(0, 20, (2, 2000))
    >>> y = (x + z) % 20
    >>> abs(lcodec(y, z, rng=0)) < 0.1, round(lcodec(y, z, given=x, rng=0), 1)
    (True, 0.9)
    """
    noise = check_positive(noise, "noise")
    n_draws = check_integer(n_draws, "n_draws", 1)
    generator = as_generator(rng)
    tables = [read_response(y, nominal_y), read_table(z, "z")]
    if given is not None:
        tables.append(read_table(given, "given"))
    tables, _ = drop_incomplete(tables, nan_policy, stacklevel=2)
    refuse_constant(tables[0])  # before noise hides it
    draws = [_value([add_noise(table, noise, generator) for table in tables], n_neighbors) for _ in range(n_draws)]
    return float(np.mean(draws))


def _draw_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**63))


def _value(tables: Sequence[Table], n_neighbors: int, *, random: bool = False, seed: int = 0) -> float:
    y, z, *rest = tables
    k = check_neighbors(n_neighbors, y.n_rows)
    for table in tables if len(y.names) > 1 else tables[1:]:  # one response enters by its ranks only
        check_spread(table)
    terms = response_terms(y, k)
    both = side_by_side(rest[0], z) if rest else z
    with_z = _joint(terms, y, both, k, random, seed)
    if not rest:
        return with_z
    if len(terms) == 1:
        value = _conditional_value(terms[0].response, both, rest[0], k, random, seed)
    else:
        without = _joint(terms, y, rest[0], k, random, seed)
        value = (with_z - without) / (1.0 - without) if without < 1.0 else float("nan")
    if np.isnan(value):
        warnings.warn(
            "y is a function of given in this sample: nothing is left that z could explain, T is nan.",
            RuntimeWarning,
            stacklevel=3,
        )
    return value


def _conditional_value(response: Response, both: Table, given: Table, k: int, random: bool, seed: int) -> float:
    total = neighbor_sum(_plain(both, response), response, k, random=random, seed=seed)
    before = neighbor_sum(_plain(given, response), response, k, random=random, seed=seed)
    return conditional(total, before, response, k)


def _joint(terms: Sequence[Term], y: Table, table: Table, k: int, random: bool, seed: int) -> float:
    """T of all responses on the columns of ``table``."""
    values = [
        _coefficient(
            side_by_side(table, beside(y, term.given)) if term.given else table,
            term.response,
            k,
            random=random,
            seed=seed,
        )
        for term in terms
    ]
    return weigh(terms, values)


def weigh(terms: Sequence[Term], values: Sequence[float]) -> float:
    """T of all responses from the coefficients of the terms."""
    if len(terms) == 1:
        return values[0]
    return 1.0 - sum(term.weight * (1.0 - value) for term, value in zip(terms, values, strict=True))


# --------------------------------------------------------------------------- noise
def add_noise(table: Table, noise: float, generator: np.random.Generator) -> Table:
    """Gaussian noise on every ordered column with ties, relative to its standard deviation."""
    columns = table.columns.copy()
    for k, values in enumerate(table.columns):
        draw = generator.standard_normal(values.size)  # always drawn: a column's noise depends on its place only
        if not table.nominal[k] and np.unique(values).size < values.size:
            columns[k] = values + noise * (_spread(values) or 1.0) * draw
    return replace(table, columns=columns)


def _spread(values: FloatArray) -> float:
    """Standard deviation; a power of two, which rounds nothing, keeps the squares of any scale within range."""
    power = int(np.frexp(np.abs(values).max())[1])
    return float(np.ldexp(spreads(np.ldexp(values, -power)[None])[0], power))
