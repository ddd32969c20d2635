"""Which units to change: L-FOCI of the loss on the activations, and what it is compared with.

A selector sees :class:`Evidence`: gradient norms, and on demand the recording, the K-FAC model and exact
curvature. It gives a :class:`Ranking`, units in the order of choice.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from codec._dependence import read_response
from codec._forward import Find
from codec._selection import Options, SelectionPath, select_features
from codec._validation import Table, constant_columns
from codec.unlearn._kfac import NoFactorsError
from codec.unlearn._nearest import default_finder, few_rows_sums
from codec.unlearn._record import Record
from codec.unlearn._units import Units

SELECTORS = (
    "lfoci", "lfoci-pooled", "first-pick", "gradient_norm", "kfac_greedy", "greedy_decrement", "random", "all",
)  # fmt: skip
RECORDING = ("lfoci", "lfoci-pooled", "first-pick")  # those that look at recordings, for nearest neighbours
LEAST_ROWS = 3  # that nearest neighbours are found among
LEAST_BUDGET = 20  # units that are changed by default, or the root of their number
GROWTH = 200  # share of the units that a request may change by default, over its share of the samples
SCREEN = 1.25  # candidates that the screen lets through, for each unit that L-FOCI may choose
FEW = 512  # rows up to which all pairs are looked at
NOISE = 1e-3  # of L-FOCI, relative to a unit's deviation; where values tie

Pick = Callable[[int], tuple[Tensor, Tensor]]  # of a number of units: units in order, and their scores


@dataclass(frozen=True)
class Evidence:
    """What a selector may look at.

    Attributes
    ----------
    units : Units
    gradient_norms : Tensor of shape (n_units,)
        Norm of each unit's part of the step's right-hand side.
    record : callable, optional
        Gives the :class:`Record`; called by selectors that need it.
    kfac : callable, optional
        ``KfacGreedy.select`` with the gradient filled in; the screen of 'lfoci'.
    joint : callable, optional
        The same with exchanges on the exact curvature; what 'kfac_greedy' takes where it is given.
    residual : callable, optional
        ``residual_greedy`` with product and gradient filled in.
    """

    units: Units
    gradient_norms: Tensor
    record: Callable[[], Record] | None = None
    kfac: Pick | None = None
    joint: Pick | None = None
    residual: Pick | None = None


@dataclass(frozen=True)
class Ranking:
    """Units in the order in which a selector chose them.

    Attributes
    ----------
    units : Tensor of shape (k,), int64
    scores : Tensor of shape (k,)
        The selector's own: T of the unit given those before it in its layer, a norm, a decrement.
    method : str
        The selector and its settings in words, and what it recorded.
    labels : tuple of str
        Names of the units.
    """

    units: Tensor
    scores: Tensor
    method: str
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.units)

    def to_frame(self) -> pd.DataFrame:
        """One row a unit, in order."""
        return pd.DataFrame({"unit": self.units.tolist(), "label": self.labels, "score": self.scores.tolist()})

    def _repr_html_(self) -> str:
        return f"<h4>{html.escape(self.method)}</h4>{self.to_frame().to_html(index=False)}"


Selector = str | Callable[[Evidence, int], Sequence[int] | Tensor]
Scope = Literal["layer", "all"]
Screen = int | Literal["auto"] | None
ScreenBy = Literal["auto", "gradient_norm", "kfac_greedy"]


def default_budget(n_units: int, share: float = 0.0) -> int:
    """Units that are changed unless the caller says: 20, or the root of their number; more of a large request.

    One sample is carried by few units, a class by all: from half a percent of the samples on every unit may
    change.
    """
    return min(n_units, max(LEAST_BUDGET, math.isqrt(n_units), math.ceil(GROWTH * share * n_units)))


def search(
    evidence: Evidence,
    *,
    selector: Selector = "lfoci",
    max_units: int | None = None,
    share: float = 0.0,
    scope: Scope = "layer",
    screen: Screen = "auto",
    screen_by: ScreenBy = "auto",
    n_neighbors: int = 10,
    noise: float = NOISE,
    find: Find | None = None,
    n_jobs: int | None = None,
    generator: np.random.Generator | None = None,
) -> Ranking:
    """Choose the units of a deletion.

    Parameters
    ----------
    evidence : Evidence
    selector : str or callable(evidence, max_units), default 'lfoci'
        'lfoci': forward selection of the loss on the activations of each layer, K neighbours, a fixed number
        of units, among those that a screen lets through. 'lfoci-pooled': as the paper has it, all
        units in one pool, one neighbour, an early stop. 'first-pick': its first unit. 'gradient_norm': the
        largest. 'kfac_greedy': joint selection on the decrement of the K-FAC model, then exchanges that
        raise the exact one. 'greedy_decrement': joint selection on the exact one. 'random', 'all'.
    max_units : int, optional
        Most units. Default: 20, or the root of their number if that is more; of a request of more samples in
        proportion, and all of them without a choice from half a percent of the samples on.
    share : float, default 0
        Of the samples in the request.
    scope : {'layer', 'all'}, default 'layer'
        One pool for each layer, or one for all; of 'lfoci' alone.
    screen : 'auto', int or None, default 'auto'
        Candidates of 'lfoci' that the screen lets through: 1.25 for each unit to choose, or a number. None: no
        screen; every unit is a candidate, and a layer has its share of ``max_units``.
    screen_by : {'auto', 'gradient_norm', 'kfac_greedy'}, default 'auto'
        Whose first units those are; 'auto': the K-FAC model's where there is one, else the gradient norm's.
        With a screen each layer may have as many units as it has among the first ``max_units`` of them.
    n_neighbors : int, default 10
        K of 'lfoci'.
    noise : float, default 1e-3
        Of L-FOCI, as in :func:`codec.lfoci`.
    find : callable, optional
        Who finds neighbours. Default: the engine of the core; on CUDA the device.
    n_jobs : int, optional
        Threads of the engine.
    generator : Generator, optional
        For noise and random units.

    Returns
    -------
    Ranking

    Raises
    ------
    ValueError
        An unknown option, or evidence that the selector needs and does not get.

    References
    ----------
    .. [1] R. Mehta, S. Pal, V. Singh, S. N. Ravi, "Deep Unlearning via Randomized Conditionally Independent
       Hessians", CVPR 2022, algorithm 2, arXiv:2204.07655.
    """
    n = evidence.units.n_units
    check_search(selector, scope, screen, screen_by, max_units, n_neighbors, n)
    draws = np.random.default_rng() if generator is None else generator
    budget = min(n, max_units) if max_units is not None else default_budget(n, share)
    if callable(selector):
        return _of_user(evidence, selector, budget)
    if max_units is None and GROWTH * share >= 1.0 and selector not in {"lfoci-pooled", "first-pick"}:
        return _ranking(evidence, torch.arange(n), evidence.gradient_norms, f"{selector}: all, for so large a request")
    settings = Settings(n_neighbors, noise, find, n_jobs, draws)
    if selector == "lfoci":
        return _screened(evidence, budget, scope, screen, screen_by, settings)
    if selector in {"lfoci-pooled", "first-pick"}:
        limit = 1 if selector == "first-pick" else max_units or n
        return _pooled(evidence, selector, limit, settings)
    if selector in {"kfac_greedy", "greedy_decrement"}:
        pick = evidence.joint or evidence.kfac if selector == "kfac_greedy" else evidence.residual
        units, scores = _given(pick, selector)(budget)
        return _ranking(evidence, units, scores, selector)
    if selector == "gradient_norm":
        units, scores = _largest(evidence.gradient_norms, budget)
        return _ranking(evidence, units, scores, selector)
    if selector == "random":
        units = torch.from_numpy(draws.permutation(n)[:budget])
        return _ranking(evidence, units, torch.full((budget,), torch.nan), selector)
    return _ranking(evidence, torch.arange(n), evidence.gradient_norms, "all")


def check_search(
    selector: Selector,
    scope: str,
    screen: Screen,
    screen_by: str,
    max_units: int | None,
    n_neighbors: int,
    n_units: int,
) -> None:
    """Refuse options that no search can be made with."""
    if not (callable(selector) or selector in SELECTORS):
        raise ValueError(f"selector must be one of {SELECTORS} or a callable(evidence, max_units), got {selector!r}.")
    if scope not in {"layer", "all"}:
        raise ValueError(f"scope must be 'layer' or 'all', got {scope!r}.")
    if screen_by not in {"auto", "gradient_norm", "kfac_greedy"}:
        raise ValueError(f"screen_by must be 'auto', 'gradient_norm' or 'kfac_greedy', got {screen_by!r}.")
    if n_units == 0:
        raise ValueError("model has no unit that can be chosen.")
    words: dict[str, tuple[Any, ...]] = {"max_units": (None,), "screen": (None, "auto"), "n_neighbors": ()}
    for name, value in (("max_units", max_units), ("screen", screen), ("n_neighbors", n_neighbors)):
        if value not in words[name] and not (isinstance(value, (int, np.integer)) and value >= 1):
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1.")


def _given(evidence: Any, selector: str) -> Any:
    if evidence is None:
        raise ValueError(f"selector {selector!r} needs evidence that is not there; pass another selector.")
    return evidence


def _ranking(evidence: Evidence, units: Tensor, scores: Tensor, method: str) -> Ranking:
    units = units.cpu()
    return Ranking(units, scores.cpu(), method, evidence.units.labels(units))


def _of_user(evidence: Evidence, selector: Callable[[Evidence, int], Any], budget: int) -> Ranking:
    name, given = getattr(selector, "__name__", type(selector).__name__), selector(evidence, budget)
    try:
        found = torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError):
        raise TypeError(f"selector {name} gave {given!r}; it must give a sequence of numbers of units.") from None
    whole = not (found.is_floating_point() or found.dtype == torch.bool)
    if found.dim() != 1 or not whole or not 0 < len(found) == len(set(found.tolist())):
        raise ValueError(f"selector {name} must give distinct numbers of units, at least one; got {found.tolist()}.")
    if int(found.min()) < 0 or int(found.max()) >= evidence.units.n_units:
        raise ValueError(f"selector {name} gave units outside 0..{evidence.units.n_units - 1}: {found.tolist()}.")
    return _ranking(evidence, found.long(), torch.full((len(found),), torch.nan), name)


def _largest(norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest; ties: the first unit."""
    order = norms.argsort(descending=True, stable=True)[:k]
    return order, norms[order]


# --------------------------------------------------------------------------- L-FOCI
@dataclass(frozen=True)
class Settings:
    """What every run of L-FOCI is given."""

    n_neighbors: int
    noise: float
    find: Find | None
    n_jobs: int | None
    generator: np.random.Generator


def _screened(
    evidence: Evidence, budget: int, scope: Scope, screen: Screen, by: ScreenBy, settings: Settings
) -> Ranking:
    """A screen by gradients first, L-FOCI in each layer after; without a screen gradients are not looked at."""
    n = evidence.units.n_units
    if screen is None:
        passed, name = torch.arange(n), ""
        likely = torch.linspace(0, n - 1, budget).round().long()  # the budget spread evenly over the units
    else:
        width = math.ceil(SCREEN * budget) if screen == "auto" else screen
        passed, name = _passed(evidence, min(n, max(width, budget)), by)
        likely = passed[:budget]
    record: Record = _given(evidence.record, "lfoci")()
    pools = _pools(evidence.units, passed, scope)
    quotas = _quotas(pools, likely)
    found = [_within(record, pool, quota, settings) for pool, quota in zip(pools, quotas, strict=True)]
    units, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    how = f"lfoci, {scope} scope, {settings.n_neighbors} neighbours, "
    how += f"{len(passed)} of {n} units by {name}" if name else "no screen"
    return _ranking(evidence, units, scores, f"{how}; {record.perturbation}")


def _passed(evidence: Evidence, width: int, by: ScreenBy) -> tuple[Tensor, str]:
    """The first units of the screen, and its name; units that K-FAC does not know follow by gradient norm."""
    by_norm = _largest(evidence.gradient_norms, evidence.units.n_units)[0].cpu()
    if by == "gradient_norm" or (by == "auto" and evidence.kfac is None):
        return by_norm[:width], "gradient norm"
    try:
        first = _given(evidence.kfac, "kfac_greedy")(width)[0].cpu()
    except NoFactorsError:
        if by == "auto":
            return by_norm[:width], "gradient norm"
        raise
    rest = by_norm[~torch.isin(by_norm, first)]
    return torch.cat([first, rest])[:width], "K-FAC decrement"


def _pools(units: Units, passed: Tensor, scope: Scope) -> list[Tensor]:
    """Candidates by layer, or together, in their order."""
    if scope == "all":
        return [passed]
    layer = units.layer_index(passed)
    return [passed[layer == index] for index in sorted(set(layer.tolist()))]


def _quotas(pools: Sequence[Tensor], likely: Tensor) -> list[int]:
    """Units of each pool: as many as the likely ones take of it."""
    return [int(torch.isin(pool, likely).sum()) for pool in pools]


def _within(record: Record, pool: Tensor, quota: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """L-FOCI in one pool; units without a recording, or without a varying one, come last."""
    if quota == 0:
        return pool[:0], torch.zeros(0)
    path = _select(record, pool, quota, False, settings)
    chosen = torch.as_tensor([] if path is None else path.order.copy(), dtype=torch.long)
    scores = torch.as_tensor([] if path is None else path.conditional.copy(), dtype=torch.float32)
    rest = torch.tensor([i for i in range(len(pool)) if i not in set(chosen.tolist())], dtype=torch.long)
    rest = rest[: quota - len(chosen)]
    return pool[torch.cat([chosen, rest])], torch.cat([scores, torch.full((len(rest),), torch.nan)])


def _pooled(evidence: Evidence, selector: str, limit: int, settings: Settings) -> Ranking:
    """All units together, one neighbour, until no unit raises T; at least one unit."""
    record: Record = _given(evidence.record, selector)()
    everyone = torch.arange(evidence.units.n_units)
    settings = Settings(1, settings.noise, settings.find, settings.n_jobs, settings.generator)
    path = _select(record, everyone, limit, limit > 1, settings)
    if path is not None and len(path) == 0:
        path = _select(record, everyone, 1, False, settings)
    if path is None:
        raise ValueError(
            f"{selector} has nothing to choose from: the loss or all activations are the same for every perturbed "
            "copy; pass a stronger perturbation or another selector."
        )
    units, scores = torch.from_numpy(path.order.copy()), torch.from_numpy(path.conditional.copy()).float()
    return _ranking(evidence, units, scores, f"{selector}, 1 neighbour; {record.perturbation}")


def _select(record: Record, pool: Tensor, limit: int, stop: bool, settings: Settings) -> SelectionPath | None:
    """The statistics core's L-FOCI; None when nothing varies."""
    device = record.activations.device
    columns = record.activations[:, pool.to(device)].T.contiguous().double().cpu().numpy()
    table = Table(columns, np.zeros(len(columns), np.bool_), tuple(map(str, pool.tolist())), "activations")
    response = read_response(record.losses.double().cpu().numpy(), False)
    if constant_columns(table).all() or constant_columns(response).all():
        return None
    find = settings.find
    if find is None and device.type == "cuda":
        find = default_finder(device)
    elif find is None and len(record.losses) <= FEW:
        find = few_rows_sums
    options = Options(
        method="lfoci",
        max_features=min(limit, len(pool)),
        stop=stop,
        standardize="scale",
        include=None,
        n_neighbors=min(settings.n_neighbors, len(record.losses) - 1),
        nan_policy="raise",
        n_jobs=settings.n_jobs,
        verbose=False,
        noise=settings.noise,
        skip_constant=True,
        find=find,
    )
    return select_features(table, response, options, settings.generator)
