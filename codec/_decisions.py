"""What a search for a Markov blanket decided, and why."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

SHOWN = 2  # features of a condition that the printed table names
Action = Literal["screened", "entered", "removed", "kept", "stopped"]


@dataclass(frozen=True)
class Decision:
    """One decision of the search.

    Attributes
    ----------
    action : {'screened', 'entered', 'removed', 'kept', 'stopped'}
        ``'screened'``: put on the list that is then tested; ``'kept'``, ``'removed'``: a member tested
        given other features; ``'entered'``: a candidate that was added; ``'stopped'``: no further one was.
    feature : int
        Column, or group of columns; -1 when the decision concerns none.
    given : tuple of int
        Features of the condition.
    statistic : float
        What was compared; NaN without a test.
    pvalue : float
        For ``'entered'`` and ``'stopped'`` adjusted for the number of candidates; NaN without a test.
    n_candidates : int
        Features that the decision was made among.
    reason : str
        One clause.
    """

    action: Action
    feature: int
    given: tuple[int, ...]
    statistic: float
    pvalue: float
    n_candidates: int
    reason: str


@dataclass(frozen=True)
class Found:
    """A blanket and how it was found; features are columns, or groups of columns.

    Attributes
    ----------
    members : tuple of int
        In order of entry.
    decisions : tuple of Decision
    n_tests : int
        Hypotheses tested: every candidate of a step counts.
    scores, pvalues : dict of int to float
        Statistic and p-value of each member given the other members.
    """

    members: tuple[int, ...]
    decisions: tuple[Decision, ...]
    n_tests: int
    scores: dict[int, float]
    pvalues: dict[int, float]


@dataclass(frozen=True, repr=False)
class BlanketPath:
    """Every decision of a search, with names.

    Attributes
    ----------
    decisions : tuple of Decision
        In order. Each has the attributes ``action`` (``'screened'``, ``'entered'``, ``'removed'``, ``'kept'`` or
        ``'stopped'``), ``feature`` (an index into ``names``, -1 for none), ``given`` (a tuple of them), ``statistic``
        and ``pvalue`` (NaN without a test), ``n_candidates`` and ``reason``.
    members : tuple of int
        The blanket in order of entry.
    names : tuple of str
        Name of every feature or group of columns.
    method : str
        How the blanket was sought.
    alpha : float
        Level of the decisions.
    n_samples, n_features, n_tests : int
        Rows used, features offered (a group of columns is one), hypotheses tested.

    Examples
    --------
    A fitted :class:`MarkovBlanketSelector` holds one as ``path_``.

    >>> import numpy as np
    >>> from codec import MarkovBlanketSelector, fisher_z
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 5))
    >>> y = X[:, 1] + X[:, 3] + 0.5 * rng.standard_normal(200)
    >>> path = MarkovBlanketSelector(test=fisher_z, screen=False, random_state=0).fit(X, y).path_
    >>> sorted(path.members), path.decisions[0].action
    ([1, 3], 'entered')
    >>> path.to_frame().loc[1, ["action", "feature"]].tolist()
    ['entered', 'x3']
    """

    decisions: tuple[Decision, ...]
    members: tuple[int, ...]
    names: tuple[str, ...]
    method: str
    alpha: float
    n_samples: int
    n_features: int
    n_tests: int

    def __len__(self) -> int:
        return len(self.decisions)

    def to_frame(self) -> pd.DataFrame:
        """One row a decision, numbered from 1.

        Returns
        -------
        DataFrame of shape (len(decisions), 7)
            Columns ``action``, ``feature``, ``given``, ``statistic``, ``pvalue``, ``n_candidates`` and ``reason``;
            features by name.
        """
        return pd.DataFrame(
            {
                "action": [d.action for d in self.decisions],
                "feature": [self._name(d.feature) for d in self.decisions],
                "given": [", ".join(self._name(j) for j in d.given) for d in self.decisions],
                "statistic": np.array([d.statistic for d in self.decisions], dtype=np.float64),
                "pvalue": np.array([d.pvalue for d in self.decisions], dtype=np.float64),
                "n_candidates": np.array([d.n_candidates for d in self.decisions], dtype=np.int64),
                "reason": [d.reason for d in self.decisions],
            },
            index=pd.RangeIndex(1, len(self) + 1, name="decision"),
        )

    def _name(self, feature: int) -> str:
        return self.names[feature] if feature >= 0 else ""

    def _title(self) -> str:
        return (
            f"{self.method}: {len(self.members)} of {self.n_features} features, {self.n_tests:,} tests "
            f"at level {self.alpha:g} (n = {self.n_samples:,})"
        )

    def _blanket(self) -> str:
        return ", ".join(self._name(j) for j in self.members) or "nothing was selected"

    def _short(self) -> pd.DataFrame:
        """The frame to look at: of a long condition its size and the last two features."""
        frame = self.to_frame()
        shown = [", ".join(self._name(j) for j in d.given[-SHOWN:]) for d in self.decisions]
        hidden = [len(d.given) - SHOWN for d in self.decisions]
        frame["given"] = [f"{n} more, {names}" if n > 0 else names for n, names in zip(hidden, shown, strict=True)]
        return frame

    def __repr__(self) -> str:
        table = "no decision was needed"
        if self.decisions:
            table = self._short().to_string(float_format="{:.4g}".format, na_rep="")
        return f"{self._title()}\n{table}\nBlanket: {self._blanket()}"

    def _repr_html_(self) -> str:
        table = self._short().to_html(float_format="{:.4g}".format, na_rep="") if self.decisions else ""
        return f"<p>{html.escape(self._title())}</p>{table}<p>{html.escape('Blanket: ' + self._blanket())}</p>"


def translate(found: Found, index: Sequence[int]) -> Found:
    """The same with feature ``j`` called ``index[j]``: results for a part of the features, in the whole."""
    at = [int(i) for i in index]
    return Found(
        members=tuple(at[j] for j in found.members),
        decisions=tuple(
            replace(d, feature=at[d.feature] if d.feature >= 0 else -1, given=tuple(at[j] for j in d.given))
            for d in found.decisions
        ),
        n_tests=found.n_tests,
        scores={at[j]: value for j, value in found.scores.items()},
        pvalues={at[j]: value for j, value in found.pvalues.items()},
    )
