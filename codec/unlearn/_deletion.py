"""What one deletion did, in one record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from html import escape
from typing import Any, Self

import pandas as pd
from torch import Tensor

from codec.unlearn._certificate import Certificate

NAN = float("nan")


@dataclass(frozen=True)
class Deletion:
    """One request, done or refused.

    Attributes
    ----------
    id : int
        Number of the request, from 1; 0 of baselines.
    forgotten : tuple of int
        Training samples of this request.
    method, selector : str
        How the model was changed, and who chose the units.
    accepted : bool
        Whether the model was changed.
    reason : str
        Why, in words.
    units : tuple of int
        Units that this request chose; empty when a method has no units, or takes all. An update that starts at an
        anchor changes those of the earlier requests since then too.
    labels : tuple of str
        Their names, ``layer[index]``.
    scores : tuple of float
        The selector's score of each.
    captured_decrement : float
        Share of the full Newton decrease that a step on the changed units has, those of earlier requests included, in
        [0, 1].
    captured_by_gradient_norm : float
        The same for as many units with the largest gradients.
    retain_loss, forget_loss : tuple of (float, float)
        Mean loss before and after.
    guard : tuple of (float, float) or None
        The caller's validation score just before this request and after it.
    damping, step_length : float
        mu of ``(H + mu I)^-1`` and the factor of the step.
    iterations : int
        Products with the curvature.
    distance : float
        Euclidean length of the change of the parameters.
    timings : dict of str to float
        CPU seconds of each part.
    certificate : Certificate or None
        None: nothing is proved, the result is empirical.
    parameters : dict of str to Tensor or None
        The trainable parameters afterwards, of methods that keep no model of their own.

    Notes
    -----
    Losses are means over samples of the loss alone, without weight decay. What was not computed is NaN.

    Examples
    --------
    >>> import torch
    >>> from codec.unlearn import Unlearner
    >>> X, y = torch.eye(3).repeat(8, 1), torch.arange(24) % 3
    >>> unlearner = Unlearner(torch.nn.Linear(3, 3), "cross_entropy", (X, y), weight_decay=0.1, selector="all")
    >>> deletion = unlearner.forget([3, 7])
    >>> deletion.id, deletion.forgotten, deletion.method, deletion.accepted
    (1, (3, 7), 'difference, ggn', True)
    >>> deletion.forget_loss[1] > deletion.forget_loss[0], deletion.certificate
    (True, None)
    """

    id: int
    forgotten: tuple[int, ...]
    method: str
    selector: str
    accepted: bool
    reason: str
    units: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    captured_decrement: float = NAN
    captured_by_gradient_norm: float = NAN
    retain_loss: tuple[float, float] = (NAN, NAN)
    forget_loss: tuple[float, float] = (NAN, NAN)
    guard: tuple[float, float] | None = None
    damping: float = NAN
    step_length: float = NAN
    iterations: int = 0
    distance: float = NAN
    timings: Mapping[str, float] = field(default_factory=dict, hash=False)
    certificate: Certificate | None = None
    parameters: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def summary(self) -> dict[str, Any]:
        """The main figures as plain numbers and words."""
        return {
            "id": self.id,
            "n_forgotten": len(self.forgotten),
            "method": self.method,
            "selector": self.selector,
            "n_units": len(self.units),
            "accepted": self.accepted,
            "captured_decrement": self.captured_decrement,
            "captured_by_gradient_norm": self.captured_by_gradient_norm,
            "retain_loss_before": self.retain_loss[0],
            "retain_loss_after": self.retain_loss[1],
            "forget_loss_before": self.forget_loss[0],
            "forget_loss_after": self.forget_loss[1],
            "damping": self.damping,
            "step_length": self.step_length,
            "iterations": self.iterations,
            "distance": self.distance,
            "seconds": math.fsum(self.timings.values()),
            "certificate": "certified" if _is_proved(self.certificate) else "empirical",
            "reason": self.reason,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a unit that this request chose, in order: ``unit``, ``label``, ``score``."""
        scores = self.scores or (NAN,) * len(self.units)
        columns = {"unit": (self.units, int), "label": (self.labels, str), "score": (scores, float)}
        return pd.DataFrame({name: pd.Series(list(values), dtype=kind) for name, (values, kind) in columns.items()})

    def to_dict(self) -> dict[str, Any]:
        """Everything but the parameters, as Python's `json` can hold it: what was not computed is NaN there, too."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "parameters"}
        if self.certificate is not None:
            content["certificate"] = {f.name: getattr(self.certificate, f.name) for f in fields(self.certificate)}
        content["timings"] = dict(self.timings)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`, also after JSON made lists of tuples."""
        read = _tuples(content)
        if read.get("certificate") is not None:
            read["certificate"] = Certificate(**_tuples(read["certificate"]))
        return cls(**read)

    def __str__(self) -> str:
        rows = [f"{key:<26}{_text(value)}" for key, value in self.summary().items()]
        return "\n".join(["Deletion", *rows])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(key)}</th><td>{escape(_text(value))}</td></tr>" for key, value in self.summary().items()
        )
        return f"<table><caption>Deletion</caption><tbody>{rows}</tbody></table>"


class Timer:
    """CPU seconds by name: `Deletion.timings`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def _is_proved(certificate: Certificate | None) -> bool:
    """Whether a bound is stated: one that is no number, or infinite, is none."""
    return certificate is not None and certificate.bound is not None and math.isfinite(certificate.bound)


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, as JSON has them, back to tuples; NaN back to the one that equals itself in comparisons of tuples."""

    def read(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(map(read, value))
        return NAN if isinstance(value, float) and math.isnan(value) else value

    return {key: read(value) for key, value in content.items()}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
