"""The calibrated search for a Markov blanket: screen, shrink, grow, shrink again, ask the children.

1. **Screen** (:mod:`codec._screen`). Trees list features that matter more than every permuted copy; a regression
   names features that stand out given all others, which allows for their number.
2. **Shrink.** From the least important on, each listed feature is tested given the others on the list. One that the
   regression has named stays if its own p-value is at most half of alpha: the more rows there are, the surer is a
   regression of what it cannot follow. Any other stays if, among all p features, at most
   .8 alpha would be expected to reach its value by chance: trees have looked at y, and this is what keeps the
   search honest. Under pure noise a feature must stand out from all p, in the regression (a chance of .2 alpha) or
   in the tests. The last one is tested without a condition.
3. **Grow.** All other features are tested given the members (:mod:`codec._family`); the best enters if the
   family-wise p-value is at most .8 alpha (alpha without a screen).
4. **Look once more** (:mod:`codec._relevance`). Features that a Gaussian process needs beside the members enter, too,
   at half of alpha; the p-value allows for the number of features. There is no such look without members, if y has classes (the
   process has the same noise everywhere), or above 1,000 rows, where it was found to gain nothing.
5. **Shrink again.** Every member is tested given the others, those that entered in step 3 or 4 at the level alpha:
   they have stood out from all others already. Steps 3 to 5 are repeated until the members stay the same.
6. **Children** (:mod:`codec._spouses`), if there is a member. A feature that depends on y clearly once its other
   parents are known, and hardly before, enters with these parents. What a member clearly depends on beside y, and y
   does not without it, is another parent of a child of y. Both stay as long as the child does; a test of y would
   often not see them. With those that entered, steps 3 to 5 are made again. Not above 20,000 rows, where it was
   found to add nothing that is true.

Where few of many features depend on another feature, these share half of the level in steps 2 to 4, and all others the
other half (:mod:`codec._related`).

The copies of other candidates, with which step 2 finds out what chance could reach, are made only where
the feature's own copies leave the decision open. From 1,000 rows on a feature that stands 20 standard deviations
above its own copies stays without them. Above 20,000 rows step 2 begins on 20,000 rows, at the level .2; all
candidates of step 3 are ranked on these rows, and the first ten are tested on all rows; copies of others come from
these rows, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from codec._decisions import Action, Decision, Found
from codec._family import Features, with_response
from codec._forward import Show, interruptible
from codec._judges import (
    LARGE_ROWS,
    NO_TEST,
    RANKING_ROWS,
    Calibrated,
    CITestFunction,
    External,
    Judge,
    Verdict,
)
from codec._nulls import pool_rare
from codec._plans import single_thread
from codec._related import Families, find_families
from codec._relevance import needed_outside
from codec._residuals import two_valued
from codec._screen import REGRESSION_SHARE, ROWS, list_features
from codec._spouses import Children
from codec._validation import FloatArray, Table, constant_columns

NAMED_SHARE = 0.5  # of alpha, for what only a model names: the regression, or a Gaussian process
LAX_LEVEL = 0.2  # at which listed features must pass on these rows
SCREEN_FEATURES = 12  # listed at most, unless asked for more
ROWS_PER_MEMBER = 15  # fewer rows for each member than this leave nothing to smooth with
LOOK_ROWS = 1_000  # more let the tests see all that a Gaussian process does
MAX_ROUNDS = 4  # of growing and shrinking
OTHER_PARENT = "another parent of the last one given"
HIDDEN_CHILD = "depends on y given what hides it"
HIDING_PARENT = "hides the last one given"


# --------------------------------------------------------------------------- the search
@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes
    ----------
    alpha : float
    max_features : int or None
        Members at most, ``always_include`` not counted.
    screen : int
        Features listed at most; 0: no screen.
    always_include : tuple of int
    test : callable or None
        A user's test instead of the calibrated one.
    n_jobs : int or None
    """

    alpha: float = 0.05
    max_features: int | None = None
    screen: int = SCREEN_FEATURES
    always_include: tuple[int, ...] = ()
    test: CITestFunction | None = None
    n_jobs: int | None = None

    @property
    def level(self) -> float:
        """What the regression of the screen leaves of alpha."""
        return self.alpha * (1.0 - REGRESSION_SHARE if self.screen else 1.0)


def make_judge(y: Table, features: Features, options: SearchOptions, seed: int) -> Judge:
    if options.test is not None:
        return External(options.test, y, features, options.level, seed)
    return Calibrated(y, features, options.level, seed, options.n_jobs)


def find_blanket(y: Table, features: Features, options: SearchOptions, rng: np.random.Generator, show: Show) -> Found:
    """Search for the Markov blanket of y among the features.

    Parameters
    ----------
    y : Table
        One response or several, which are then explained together.
    features : Features
    options : SearchOptions
    rng : Generator
        One draw seeds everything.
    show : callable
        Progress, as :func:`codec._forward.show_progress` after its first two arguments.

    Returns
    -------
    Found
        Features are indices of ``features.groups``.
    """
    seed, screen_seed = (int(s) for s in rng.integers(2**63, size=2))
    search = _Search(y, features, options, make_judge(y, features, options, seed), show, screen_seed)
    with interruptible(), single_thread():
        return search.run()


@dataclass
class _Search:
    """Members and decisions so far."""

    y: Table
    features: Features
    options: SearchOptions
    judge: Judge
    show: Show
    seed: int  # of the rows of large data that the screen looks at
    members: list[int] = field(default_factory=list)
    entered: set[int] = field(default_factory=set)  # stand out from all others, or the regression has named them
    named: set[int] = field(default_factory=set)  # by the regression, of those that entered
    decisions: list[Decision] = field(default_factory=list)
    n_tests: int = 0

    def __post_init__(self) -> None:
        self.always = list(self.options.always_include)
        constant = constant_columns(self.features.table)
        self.pool = [
            v
            for v, group in enumerate(self.features.groups)
            if v not in self.options.always_include and not constant[list(group)].all()
        ]
        self.families: Families = find_families(self.features, self.pool, self.seed)
        self.limit = max(1, self.y.n_rows // ROWS_PER_MEMBER - len(self.always))
        if self.options.max_features is not None:
            self.limit = min(self.limit, self.options.max_features)
        self.known: dict[tuple[int, frozenset[int], bool], Verdict] = {}
        self.needed: set[int] = set()  # by the last look at all others; tested after all others when shrinking
        self.looked: set[frozenset[int]] = set()
        self.child_of: dict[int, int] = {}  # of members that a child has named: the child, of itself, too
        self.searched: set[frozenset[int]] = set()  # for hidden children
        self.asked: set[tuple[int, frozenset[int]]] = set()  # for other parents
        classes = self.y.nominal | two_valued(self.y.columns)
        self.may_look = self.options.test is None and self.y.n_rows <= LOOK_ROWS and not classes.any()

    def run(self) -> Found:
        if self.options.screen and len(self.pool) > 1:
            self.screen()
            if self.members and isinstance(self.judge, Calibrated) and self.y.n_rows > LARGE_ROWS:
                self.thin(self.judge.on_some_rows(LAX_LEVEL))
            self.shrink()
        self.settle()
        for _ in range(MAX_ROUNDS):
            before = len(self.members)
            self.ask_children()
            if len(self.members) == before:
                break
            self.shrink()
            self.settle()
        return self.finish()

    def settle(self) -> None:
        """Grow, look and shrink until the members stay the same."""
        for _ in range(MAX_ROUNDS):
            before = set(self.members)
            self.grow()
            self.look()
            self.shrink()
            if set(self.members) == before:
                return

    def screen(self) -> None:
        cap = min(self.options.screen, self.limit) if self.options.test is None else self.options.screen
        cap = max(1, min(cap, self.y.n_rows // ROWS_PER_MEMBER))
        with self.show(f"screen: {len(self.pool)} features"):
            listed = list_features(
                _with_common_classes(self.y),
                self.features,
                self.pool,
                self.always,
                cap,
                self.options.alpha,
                self.seed,
                self.options.n_jobs,
            )
        if self.options.test is None:
            listed = listed[: self.limit]
        for one in listed:
            self.note("screened", one.feature, (), Verdict(one.importance, np.nan, np.nan), len(self.pool), one.reason)
        self.members = [one.feature for one in listed]
        self.named = {one.feature for one in listed if one.stands_out}
        self.entered = set(self.named)

    def thin(self, lax: Judge) -> None:
        """Large data: what the screen listed is tested on some rows first, at a level that only clear cases miss."""
        with self.show(f"shrink: {len(self.members)} on {RANKING_ROWS:,} rows") as advance:
            share = 1.0 / len(self.members)
            for v in self.members[::-1]:
                others = [u for u in [*self.always, *self.members] if u != v]
                verdict = lax.member(v, others, [v])
                self.n_tests += 1
                if verdict.pvalue > LAX_LEVEL:
                    self.members.remove(v)
                    self.entered.discard(v)
                    self.named.discard(v)
                    self.note("removed", v, others, verdict, 1, f"on {RANKING_ROWS:,} rows: p {verdict.pvalue:.3g}")
                advance(share)

    def shrink(self) -> None:
        """Test members from the last on, given all others, until a whole round removes none."""
        while self.members:
            removed = False
            order = [v for v in self.members if v in self.needed] + [v for v in self.members if v not in self.needed]
            with self.show(f"shrink: {len(self.members)} members") as advance:
                share = 1.0 / len(self.members)
                for v in order[::-1]:
                    removed |= not self.stays(v)
                    advance(share)
            if not removed:
                return

    def stays(self, v: int) -> bool:
        if self.child_of.get(v) in self.members:
            return True
        others = [u for u in [*self.always, *self.members] if u != v]
        among, share = ([v], 1.0) if v in self.entered else (self.families.of(v, self.pool), self.families.share)
        key = (v, frozenset(others), v in self.entered)
        new = key not in self.known
        if new:
            self.known[key] = self.priced(self.judge.member(v, others, among, share), len(among))
            self.n_tests += 1
        verdict = self.known[key]
        kept = verdict.adjusted <= self.options.alpha * (NAMED_SHARE if v in self.named else 1.0)
        if not kept:
            self.members.remove(v)
            self.entered.discard(v)
            self.named.discard(v)
        if new:
            half = " at half of the level" if share < 1.0 else ""
            what = "p" if len(among) == 1 else f"expected by chance among {len(among)}{half}:"
            self.note("kept" if kept else "removed", v, others, verdict, len(among), f"{what} {verdict.adjusted:.3g}")
        return kept

    def priced(self, verdict: Verdict, n_among: int) -> Verdict:
        """One of many features pays for the part of the level that the regression has used."""
        factor = self.options.alpha / self.options.level if n_among > 1 else 1.0
        return replace(verdict, adjusted=verdict.adjusted * factor)

    def grow(self) -> None:
        """Add the best candidate as long as it stands out from all candidates."""
        while len(self.members) < self.limit:
            candidates = [v for v in self.pool if v not in self.members]
            given = [*self.always, *self.members]
            if not candidates:
                self.stop(-1, given, NO_TEST, 0, "no candidate is left")
                return
            with self.show(f"grow: {len(candidates)} candidates, {len(given)} members") as advance:
                best = self.judge.best(candidates, given, self.families, advance)
            verdict = self.priced(best.verdict, 2)
            self.n_tests += len(candidates)
            if verdict.adjusted > self.options.alpha:
                self.stop(best.feature, given, verdict, len(candidates), "the best candidate does not stand out")
                return
            self.note("entered", best.feature, given, verdict, len(candidates), "stands out from all candidates")
            self.members.append(best.feature)
            self.entered.add(best.feature)
        self.stop(-1, self.members, NO_TEST, 0, f"the limit of {self.limit} members is reached")

    def look(self) -> None:
        """Add what a Gaussian process needs beside the members, once for the same members."""
        given = [*self.always, *self.members]
        candidates = [v for v in self.pool if v not in self.members]
        room = self.limit - len(self.members)
        known = frozenset(given)
        if not (self.may_look and self.members and candidates and room > 0) or known in self.looked:
            return
        self.looked.add(known)
        with self.show(f"look once more: {len(candidates)} candidates, {len(given)} members"):
            level = NAMED_SHARE * self.options.alpha
            found = needed_outside(self.y, self.features, given, candidates, level, self.families)[:room]
        self.n_tests += len(candidates)
        for one in found:
            verdict = Verdict(one.gain, one.pvalue, one.pvalue * self.families.times(one.feature, candidates))
            self.note("entered", one.feature, given, verdict, len(candidates), "a Gaussian process needs it")
        if not found:
            self.stop(-1, given, NO_TEST, len(candidates), "a Gaussian process needs no other feature")
        new = [one.feature for one in found]
        self.members += new
        self.entered.update(new)
        self.needed.update(new)

    def ask_children(self) -> None:
        """Add children that their other parents hide, and other parents of members that are children."""
        if self.children is not None:
            self.add_hidden_children(self.children)
            self.add_other_parents(self.children)

    @cached_property
    def children(self) -> Children | None:
        """Features as responses, the same for all rounds; None where children are not asked."""
        if isinstance(self.judge, Calibrated) and self.y.n_rows <= LARGE_ROWS:
            return self.judge.children(self.options.alpha)
        return None

    def add_hidden_children(self, children: Children) -> None:
        """Add children of y that other parents hide, with these parents, as long as there are any.

        Not without members: what is selected where y is noise is for the tests alone to say.
        """
        while 0 < len(self.members) <= self.limit - 2:
            given = [*self.always, *self.members]
            candidates = [v for v in self.pool if v not in self.members]
            if frozenset(given) in self.searched:
                return
            self.searched.add(frozenset(given))
            with self.show(f"hidden children: {len(candidates)} candidates, {len(given)} members"):
                found = children.hidden_child(given, candidates)
            self.n_tests += len(candidates)
            if found is None:
                self.stop(-1, given, NO_TEST, len(candidates), "other parents hide no child")
                return
            verdict = replace(NO_TEST, statistic=found.distance)
            self.note("entered", found.feature, found.given, verdict, len(candidates), HIDDEN_CHILD)
            self.join(found.feature, found.feature)
            for v in found.parents[: self.limit - len(self.members)]:
                self.note("entered", v, [*given, found.feature], NO_TEST, len(candidates), HIDING_PARENT)
                self.join(v, found.feature)

    def add_other_parents(self, children: Children) -> None:
        """Add other parents of members that are children of y, as long as there are any."""
        members = tuple(self.members)
        n_none = 0  # candidates of members without another parent
        for i, child in enumerate(members, 1):
            with self.show(f"other parents: member {i} of {len(members)}"):
                while (n_candidates := self.ask(child)) and self.add_other_parent(children, child):
                    pass
            n_none += n_candidates
        if n_none:
            self.stop(-1, [*self.always, *self.members], NO_TEST, n_none, "no member has another parent")

    def ask(self, child: int) -> int:
        """How many candidates to be another parent of a member there are; 0 if it was asked before."""
        key = (child, frozenset(self.members))
        n_candidates = len(self.pool) - len(self.members)
        if len(self.members) >= self.limit or key in self.asked:
            return 0
        self.asked.add(key)
        self.n_tests += n_candidates
        return n_candidates

    def add_other_parent(self, children: Children, child: int) -> bool:
        given = [*self.always, *self.members]
        candidates = [v for v in self.pool if v not in self.members]
        found = children.other_parent(child, given, candidates)
        if found is None:
            return False
        verdict = replace(NO_TEST, statistic=found.distance)
        given = [*(u for u in given if u != child), child]
        self.note("entered", found.feature, given, verdict, len(candidates), OTHER_PARENT)
        self.join(found.feature, child)
        return True

    def join(self, v: int, child: int) -> None:
        """A new member that is there for what a child says: the child itself, or another parent of it."""
        self.members.append(v)
        self.entered.add(v)
        self.child_of[v] = child

    def stop(self, v: int, given: Sequence[int], verdict: Verdict, n: int, reason: str) -> None:
        self.note("stopped", v, given, verdict, n, reason)

    def note(self, action: Action, v: int, given: Sequence[int], verdict: Verdict, n: int, reason: str) -> None:
        pvalue = float(np.minimum(1.0, verdict.adjusted)) if action in {"entered", "stopped"} else verdict.pvalue
        self.decisions.append(Decision(action, v, tuple(given), verdict.statistic, pvalue, n, reason))

    def finish(self) -> Found:
        """Members with the tests given all others; for those that were searched the last shrink has made them."""
        scores, pvalues = {}, {}
        constant = constant_columns(self.features.table)
        for v in [*self.always, *self.members]:
            if constant[list(self.features.groups[v])].all():
                continue
            verdict = self.last(v)
            scores[v], pvalues[v] = verdict.statistic, verdict.pvalue
        return Found((*self.always, *self.members), tuple(self.decisions), self.n_tests, scores, pvalues)

    def last(self, v: int) -> Verdict:
        others = frozenset(u for u in [*self.always, *self.members] if u != v)
        found = [self.known[key] for key in self.known if key[:2] == (v, others)]
        if found:
            return found[-1]
        self.n_tests += 1
        return self.judge.member(v, sorted(others), [v])


def _with_common_classes(y: Table) -> Table:
    """Of more classes than half of the rows only the common ones: trees learn nothing of a class that is there once."""
    n_classes = [np.unique(values).size for values in y.columns[y.nominal]]
    return pool_rare(y) if max(n_classes, default=0) > min(y.n_rows, ROWS) / 2 else y


# --------------------------------------------------------------------------- given a blanket
def member_pvalues(
    y: Table, features: Features, members: Sequence[int], options: SearchOptions, rng: np.random.Generator
) -> dict[int, tuple[float, float]]:
    """Statistic and p-value of each member given the other members, on rows that took no part in the search."""
    judge = make_judge(y, features, options, int(rng.integers(2**63)))
    with interruptible(), single_thread():
        found = {v: judge.member(v, [u for u in members if u != v], [v]) for v in members}
    return {v: (verdict.statistic, verdict.pvalue) for v, verdict in found.items()}


def keep_mutual(
    y: Table, features: Features, found: Found, options: SearchOptions, rng: np.random.Generator, show: Show
) -> Found:
    """The AND rule: only members in whose own blanket y is, tested given each other."""
    both = with_response(features, y)
    kept, decisions, n_tests = [], list(found.decisions), found.n_tests
    for v in found.members:
        if v in options.always_include:
            kept.append(v)
            continue
        others = both.without(v)
        theirs = find_blanket(
            features.part([v]), others,
            SearchOptions(options.alpha, None, options.screen, (), options.test, options.n_jobs),
            rng, show,
        )  # fmt: skip
        n_tests += theirs.n_tests
        if len(others) - 1 in theirs.members:
            kept.append(v)
        else:
            decisions.append(
                Decision("removed", v, (), np.nan, np.nan, len(others), "y is not in this feature's blanket")
            )
    if len(kept) == len(found.members):
        return replace(found, n_tests=n_tests)
    found = replace(found, members=tuple(kept), decisions=tuple(decisions), n_tests=n_tests)
    return _tested_again(y, features, found, options, rng)


def _tested_again(
    y: Table, features: Features, found: Found, options: SearchOptions, rng: np.random.Generator
) -> Found:
    """The members given each other, now that some have left."""
    tested = [v for v in found.members if v in found.scores]
    values = member_pvalues(y, features, tested, options, rng)
    decisions = [
        Decision("kept", v, tuple(u for u in tested if u != v), *value, 1, f"given those that stay: p {value[1]:.3g}")
        for v, value in values.items()
    ]
    return replace(
        found,
        decisions=(*found.decisions, *decisions),
        n_tests=found.n_tests + len(tested),
        scores={v: statistic for v, (statistic, _) in values.items()},
        pvalues={v: pvalue for v, (_, pvalue) in values.items()},
    )


def spread_values(
    values: dict[int, float], groups: Sequence[Sequence[int]], n_columns: int, empty: float
) -> FloatArray:
    """Values of features at all their columns."""
    spread = np.full(n_columns, empty)
    for feature, value in values.items():
        spread[list(groups[feature])] = value
    return spread
