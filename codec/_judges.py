"""Who decides in the search for a blanket: the calibrated test, or a user's.

A judge tests one member given others, or all candidates at once and names the best. What is compared with the level
allows for the number of features that a choice was made among.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from codec._family import Features, Step, Values, unique_names
from codec._notes import silenced
from codec._peers import SIGNS
from codec._related import Families
from codec._spouses import Children
from codec._validation import COPIES, Table, constant_columns

N_RESAMPLES = 199
LARGE_ROWS = 20_000  # from here on fewer copies: every real dependence is far outside
LARGE_RESAMPLES = 59
FEW_OTHERS = 16  # candidates whose copies are made before those of all that are needed
FAR = 20.0  # standard deviations above its own copies: neither graphs nor others are needed ...
FAR_ROWS = 1_000  # ... from so many rows on
SHORTLIST = 10  # candidates that are tested on all rows of large data, ranked on RANKING_ROWS
RANKING_ROWS = 20_000
RANKING_RESAMPLES = 19

CITestFunction = Callable[..., Any]


@dataclass(frozen=True)
class Verdict:
    """Value of a test, its own p-value, and what is compared with alpha."""

    statistic: float
    pvalue: float
    adjusted: float


NO_TEST = Verdict(np.nan, np.nan, np.nan)


class Judge(Protocol):
    """Decides about one member, or among many candidates."""

    def member(self, feature: int, given: Sequence[int], among: Sequence[int], share: float = 1.0) -> Verdict:
        """Test one feature that stands for a choice among ``among`` (itself included), which has a share of the level."""

    def best(
        self, candidates: Sequence[int], given: Sequence[int], families: Families, advance: Callable[[float], None]
    ) -> _Best:
        """The candidate that is clearest in its family; its ``adjusted`` p-value allows for their number and share."""


@dataclass(frozen=True)
class _Best:
    feature: int
    verdict: Verdict


class Calibrated:
    """The omnibus statistic, all candidates under the same copies of y."""

    def __init__(self, y: Table, features: Features, level: float, seed: int, n_jobs: int | None) -> None:
        self._y, self._features, self._level = y, features, level
        self._seed, self._n_jobs = seed, n_jobs
        self._far = FAR if y.n_rows >= FAR_ROWS else np.inf
        usual = N_RESAMPLES if y.n_rows < LARGE_ROWS else LARGE_RESAMPLES
        self._n_resamples = max(usual, int(np.ceil(2.0 / level)) - 1)

    def member(self, feature: int, given: Sequence[int], among: Sequence[int], share: float = 1.0) -> Verdict:
        return self._judge(self.step(given), feature, given, among, share)

    def _judge(self, step: Step, feature: int, given: Sequence[int], among: Sequence[int], share: float) -> Verdict:
        """Verdict on one feature; the copies of others are made only while those made leave the decision open."""
        level = self._level * share
        chosen = self._others(feature, given, among, level)
        weight = len(among) / (len(chosen) + 1)

        def hopeless(first: Values) -> bool:
            return bool(weight * (1 + first.reached(0).sum()) > level * (self._n_resamples + 1))

        values = own = step.values([feature], self._n_resamples, hopeless, self._far)
        for n_others in (0, FEW_OTHERS, len(chosen)):
            if n_others:
                values = self._with_others(step, own, chosen[:n_others], given, hopeless)
            # The number expected by chance if no copy of the others still to come reached the feature.
            least = len(values.candidates) / (len(chosen) + 1) * values.expected_false(0, len(among))
            if n_others >= len(chosen) or least > level or values.distance[0] >= self._far:
                break
        return Verdict(values.statistic(0), values.pvalue(0), least / share)

    def _with_others(
        self, step: Step, own: Values, others: Sequence[int], given: Sequence[int], hopeless: Callable[[Values], bool]
    ) -> Values:
        """Values of a feature and of others; the latter on some rows of large data: chance knows no number of rows."""
        if self._y.n_rows <= LARGE_ROWS:
            return step.values([*own.candidates, *others], self._n_resamples, hopeless)
        found = self.on_some_rows(self._level).step(given).values(others, self._n_resamples)
        return own.beside(found)

    def step(self, given: Sequence[int]) -> Step:
        """Everything about y given some features."""
        return Step(self._y, self._features, sorted(given), self._seed, self._n_jobs)

    def _others(self, feature: int, given: Sequence[int], among: Sequence[int], level: float) -> list[int]:
        """As many random other candidates as make the resolution half of the level."""
        others = [v for v in among if v != feature and v not in given]
        asked = int(np.ceil(2.0 * len(among) / (level * (self._n_resamples + 1)))) - 1
        rng = np.random.default_rng([self._seed, feature, *sorted(given)])
        found: list[int] = rng.choice(others, min(len(others), asked), replace=False).tolist()
        return found

    def children(self, level: float) -> Children:
        """Features as responses."""
        return Children(self._y, self._features, level, self._seed, self._n_jobs)

    def best(
        self, candidates: Sequence[int], given: Sequence[int], families: Families, advance: Callable[[float], None]
    ) -> _Best:
        if self._y.n_rows > LARGE_ROWS and len(candidates) > SHORTLIST:
            return self._best_of_many(candidates, given, families, advance)
        step, parts = self.step(given), families.places(candidates)

        def hopeless(first: Values) -> bool:
            most = self._level * families.share * (self._n_resamples + 1)
            return all(first.reached(first.best_of(part))[part].any(axis=0).sum() > most for part in parts)

        values = step.values(candidates, self._n_resamples, hopeless, self._far, advance)
        firsts = {place: part for part in parts for place in [values.best_of(part)]}
        adjusted = {place: values.family_pvalue(place, part) / families.share for place, part in firsts.items()}
        place = min(adjusted, key=lambda place: (adjusted[place], -values.statistic(place)))
        verdict = Verdict(values.statistic(place), values.pvalue(place), min(1.0, adjusted[place]))
        return _Best(candidates[place], verdict)

    def on_some_rows(self, level: float) -> Calibrated:
        """The same for random rows of large data, always the same ones."""
        return Calibrated(*self._some_rows, level, self._seed, self._n_jobs)

    @cached_property
    def _some_rows(self) -> tuple[Table, Features]:
        """Copied once: every member of large data asks for them."""
        rng = np.random.default_rng(self._seed)
        rows = np.sort(rng.choice(self._y.n_rows, RANKING_ROWS, replace=False))
        return self._y.take(rows), self._features.take(rows)

    def _best_of_many(
        self, candidates: Sequence[int], given: Sequence[int], families: Families, advance: Callable[[float], None]
    ) -> _Best:
        """Large data: candidates are ranked on some rows; the best of the first ones is judged among all, as a member.

        Looking at y to make the list is what the screen does, too; the verdict allows for it in the same way.
        """
        ranked = self.on_some_rows(self._level).step(given).values(candidates, RANKING_RESAMPLES, advance=advance)
        first = np.argsort(-ranked.distance, kind="stable")[:SHORTLIST]
        step = self.step(given)
        values = step.values([candidates[i] for i in first], self._n_resamples, far=self._far)
        feature = values.candidates[values.best]
        rivals = families.of(feature, candidates)
        return _Best(feature, self._judge(step, feature, given, rivals, families.share))


class External:
    """A user's test, Bonferroni over the candidates."""

    def __init__(self, test: CITestFunction, y: Table, features: Features, level: float, seed: int) -> None:
        self._test, self._features, self._level = test, features, level
        self._y = to_data(y)
        if isinstance(self._y, np.ndarray) and self._y.shape[1] == 1:
            self._y = self._y[:, 0]
        self._seed = seed
        try:
            self._known = set(inspect.signature(test).parameters)
        except (TypeError, ValueError):  # built-in functions have none
            self._known = set()
        if isinstance(test, partial):  # what the user has set stays
            self._known -= set(test.keywords)

    def _ask(self, feature: int, given: Sequence[int], n_tests: float) -> tuple[float, float]:
        options: dict[str, Any] = {}
        if "rng" in self._known:
            options["rng"] = np.random.default_rng([self._seed, feature, *sorted(given)])
        if "n_resamples" in self._known:
            options["n_resamples"] = max(N_RESAMPLES, int(np.ceil(2.0 * n_tests / self._level)) - 1)
        z = self._features.part([feature])
        z = z.pick(np.flatnonzero(~constant_columns(z)))  # a constant tells nothing, and tests refuse it
        condition = to_data(self._features.part(sorted(given))) if len(given) else None
        try:
            with silenced(f".* {COPIES}", *SIGNS):  # copies are counted once already, before gaps were filled
                statistic, pvalue = map(float, self._test(self._y, to_data(z), condition, **options))
        except (TypeError, ValueError) as error:
            raise ValueError(_refusal(error, self._y, z, condition)) from error
        if not 0.0 <= pvalue <= 1.0:
            raise ValueError(f"test returned the p-value {pvalue!r}; it must return (statistic, pvalue).")
        return statistic, pvalue

    def member(self, feature: int, given: Sequence[int], among: Sequence[int], share: float = 1.0) -> Verdict:
        return self._judge(feature, given, len(among) / share)

    def _judge(self, feature: int, given: Sequence[int], times: float) -> Verdict:
        statistic, pvalue = self._ask(feature, given, times)
        return Verdict(statistic, pvalue, min(1.0, pvalue * times))

    def best(
        self, candidates: Sequence[int], given: Sequence[int], families: Families, advance: Callable[[float], None]
    ) -> _Best:
        found: dict[int, Verdict] = {}
        for part in families.places(candidates):
            for v in (candidates[place] for place in part):
                found[v] = self._judge(v, given, part.size / families.share)
                advance(1.0 / len(candidates))
        best = min(found, key=lambda v: (found[v].adjusted, found[v].pvalue, -found[v].statistic))
        return _Best(best, found[best])


def _refusal(error: Exception, y: Any, z: Table, given: Any) -> str:
    """What a user's test was called with when it failed."""
    n_responses = y.shape[1] if y.ndim > 1 else 1
    n_given = 0 if given is None else given.shape[1]
    return (
        f"test failed for z = {' and '.join(map(repr, z.names))}, {n_given} column(s) given, {n_responses} column(s) "
        f"of y: {error} A test must take every y, z and given of the search, and return (statistic, pvalue): a group, "
        "or a number with missing values, has several columns, and categories come in frames. Pass a test that does, "
        "or test=None."
    )


def to_data(table: Table) -> Any:
    """An array (n, d), or a pandas frame where columns are categories without order."""
    if not table.nominal.any():
        return table.columns.T.copy()
    columns = (
        pd.Categorical(values) if nominal else values
        for values, nominal in zip(table.columns, table.nominal, strict=True)
    )
    return pd.DataFrame(dict(enumerate(columns))).set_axis(list(unique_names(table.names)), axis=1)
