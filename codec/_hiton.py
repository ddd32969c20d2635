"""The Markov blanket of a discrete variable: tests find who may be near it, networks vote on who is.

Two steps, each good at what the other is bad at:

1. **Tests** (:mod:`codec._strata`). A feature that does not depend on y by an exact permutation test,
   with the Benjamini-Hochberg procedure over all features, gets no edge to y; where no feature does, the
   blanket is empty. Pairs of features are tested in the same way, at the level alpha. Of two that do not both
   depend on y alone each is tested given the other, too: an exclusive or shows only so. More than
   ``WHOLE_TABLE`` variables: HITON-PC (Aliferis et al. 2010) looks for the neighbours of y and for
   theirs, and only these go on, without a look at two together.
2. **Votes.** On each of many bootstrap samples of the rows, greedy search finds a network over the
   variables, with edges between dependent pairs only; two in three maximize BDeu, one factorized NML,
   which errs where BDeu does not. It starts without edges but for those of two that act together, which no single
   edge would find. Each network names a blanket of y; a feature is a member if it
   is in at least ``SHARE`` of them (Friedman, Goldszmidt & Wyner 1999).

:func:`hiton_mb`, the search by tests alone, loses to the vote on every network that was tried: with few
rows per stratum one test that fails to reject drops a member for good, while a score weighs all the
evidence at once. It remains as the peer to compare with.

Limits: three features that act on y only all together are not found, nor two in more than ``WHOLE_TABLE``
variables or where a level is so rare that the limit of G does not hold. Sparse data hide members: with 500 rows and variables of five levels, an oracle that
knew all other members would find half of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import nan

import numpy as np
from joblib import delayed
from numpy.typing import NDArray

from codec import _strata_kernels as kernels
from codec._decisions import Action, Decision, Found
from codec._forward import Show, show_progress
from codec._parallel import in_order
from codec._strata import Coded, Outcome, StratifiedTest, code_variables
from codec._validation import BoolArray, IntArray, Table

WHOLE_TABLE = 64  # up to so many variables, networks are over all of them
NEAR = 20  # beyond: neighbours of y whose own neighbours are looked for
MAX_GIVEN = 2  # variables in a condition of HITON
SHARE = 0.4  # of the networks makes a member: F1 is largest at half of itself (Lipton et al. 2014)
MAX_PARENTS = 5
NETWORKS = 96
NETWORK_ROWS = 480_000  # networks times rows: fewer networks where n is large and they hardly differ
FEWEST_NETWORKS = 8
PAIRS = MAX_PARENTS // 2  # of features that act together only, at most
STRATUM_ROWS = 5  # a member is tested given as many others as leave this many rows per stratum

Test = Callable[[int, int, Sequence[int], float], Outcome]
SILENT: Show = partial(show_progress, "blanket", False)


# --------------------------------------------------------------------------- the blanket
def discrete_blanket(
    features: Table,
    response: Table,
    *,
    alpha: float = 0.05,
    max_features: int | None = None,
    symmetric: bool = False,
    always_include: Sequence[int] = (),
    rng: np.random.Generator,
    n_jobs: int | None = None,
    progress: Show | None = None,
) -> Found:
    """Markov blanket of the response among discrete features.

    Parameters
    ----------
    features, response : Table
        Every distinct value is a level, a missing value too; several responses are one variable.
    alpha : float, default 0.05
        Level of the tests: the chance of a non-empty blanket where no feature depends on the response.
    max_features : int, optional
        Most members, those of ``always_include`` not counted; the ones with most votes stay.
    symmetric : bool, default False
        Keep a member only if the response is in its blanket, too (the AND rule). Networks over the
        whole table are symmetric anyway; from 64 features on, the members' own surroundings are searched.
    always_include : sequence of int
        Columns that are members whatever is found.
    rng : Generator
        Permutations and bootstrap samples.
    n_jobs : int, optional
        Threads over the networks; the result does not depend on it.
    progress : callable, optional
        As :func:`codec._forward.show_progress` after its first two arguments.

    Returns
    -------
    Found
        ``scores`` are shares of the networks; ``pvalues`` test each member given the other members (as many as
        leave 5 rows per stratum). Selection came first: they are descriptive.

    References
    ----------
    .. [1] C. F. Aliferis, A. Statnikov, I. Tsamardinos, S. Mani, X. Koutsoukos, "Local causal and Markov
       blanket induction for causal discovery and feature selection", JMLR 11, 171-234, 2010.
    .. [2] N. Friedman, M. Goldszmidt, A. Wyner, "Data analysis with Bayesian networks: a bootstrap
       approach", UAI 1999, 196-205.
    .. [3] T. Silander, T. Roos, P. Kontkanen, P. Myllymaki, "Factorized normalized maximum likelihood
       criterion for learning Bayesian network structures", PGM 2008, 257-264.

    Examples
    --------
    >>> import numpy as np
    >>> from codec._validation import read_table
    >>> rng = np.random.default_rng(0)
    >>> cause, other = rng.integers(0, 3, (2, 400))
    >>> y = np.where(rng.random(400) < 0.6, cause, rng.integers(0, 3, 400))
    >>> effect = np.where(rng.random(400) < 0.6, y, other)
    >>> table = read_table(np.column_stack([cause, other, effect]), "X")
    >>> found = discrete_blanket(table, read_table(y, "y"), rng=np.random.default_rng(1))
    >>> sorted(found.members)
    [0, 1, 2]
    """
    data = code_variables(features, response)
    y = len(data.levels) - 1
    seed, votes_seed = (int(value) for value in rng.integers(2**63, size=2))
    search = Search(StratifiedTest(data, seed), alpha, votes_seed, n_jobs, progress or SILENT)
    near, pairs = search.dependents(y), search.pairs(y)
    decisions = _screened(search, near, pairs, y)
    if not near and not pairs:
        return _finish(search, y, [], {}, always_include, decisions)
    shares = search.shares(y, pairs)
    near += [v for pair in pairs for v in pair if v not in near]
    elected = sorted((v for v in shares if shares[v] >= SHARE), key=lambda v: (-shares[v], v))
    decisions += [_vote(search, v, shares[v], "entered") for v in elected]
    if not elected:
        elected = search.neighbours(y)
        decisions += [_unexplained(search, v, y) for v in elected]
    decisions += [_vote(search, v, shares.get(v, 0.0), "removed") for v in near if v not in elected]
    if symmetric and not search.whole_table:
        elected = _both_ways(search, y, elected, decisions)
    elected = [v for v in elected if v not in always_include]
    if max_features is not None and len(elected) > max_features:
        reason = f"max_features = {max_features} reached"
        beyond = elected[max_features:]
        decisions += [Decision("removed", v, (), shares[v], nan, len(elected), reason) for v in beyond]
        decisions.append(Decision("stopped", -1, (), nan, nan, len(beyond), reason))
        elected = elected[:max_features]
    return _finish(search, y, elected, shares, always_include, decisions)


@dataclass
class Search:
    """The test, the options, and what surrounds a variable."""

    test: StratifiedTest
    alpha: float
    seed: int
    n_jobs: int | None
    show: Show

    @property
    def n_variables(self) -> int:
        return len(self.test.data.levels)

    @property
    def whole_table(self) -> bool:
        return self.n_variables <= WHOLE_TABLE

    @property
    def n_networks(self) -> int:
        return max(FEWEST_NETWORKS, min(NETWORKS, NETWORK_ROWS // self.test.data.n_rows))

    def marginal(self, u: int, v: int, level: float) -> Outcome:
        """Test of a pair; the same whichever is named first."""
        return self.test(min(u, v), max(u, v), (), level)

    def dependents(self, v: int) -> list[int]:
        """Variables that depend on v by the Benjamini-Hochberg procedure, strongest first."""
        others = [u for u in range(self.n_variables) if u != v]
        level = self.alpha
        found = others
        while True:
            outcomes = {u: self.marginal(u, v, level) for u in found}
            found = [u for u in found if outcomes[u].pvalue <= level]
            if len(found) == len(outcomes) or not found:
                break
            level = self.alpha * len(found) / len(others)
        return sorted(found, key=lambda u: (-outcomes[u].score, u))

    def pairs(self, y: int) -> list[tuple[int, int]]:
        """Pairs without a common variable that depend on y together, and not both alone: each given the other.

        One that depends on y alone may be of a pair with one on which it does not depend; otherwise it could be their
        child, which no pair is needed for. The limit of G decides, at a level that allows for all pairs.
        """
        if not self.whole_table:
            return []
        near = set(self.dependents(y))

        def may_act(u: int, v: int) -> bool:
            return not near & {u, v} or (not near >= {u, v} and self.marginal(u, v, self.alpha).pvalue > self.alpha)

        others = [v for v in range(self.n_variables) if v != y]
        found = []
        for u, v in combinations(others, 2):
            if may_act(u, v) and (first := self.test.limit(u, y, (v,))) and (second := self.test.limit(v, y, (u,))):
                found.append((min(first.score, second.score), (u, v)))
        chosen: list[tuple[int, int]] = []
        for _, couple in sorted(found, key=lambda one: (-one[0], one[1])):
            if not set(couple) & {v for pair in chosen for v in pair}:
                chosen.append(couple)
        return chosen[:PAIRS]

    def neighbours(self, y: int) -> list[int]:
        """Variables that depend on y, given any other of them, too.

        For variables of so many levels that no network can pay for an edge: what depends on something has a blanket.
        """
        return hiton_pc(self.test, y, self.dependents(y), self.alpha, 1)[0]

    def surroundings(self, y: int) -> list[int]:
        """y, its likely neighbours and theirs; the whole table if it is small."""
        if self.whole_table:
            return list(range(self.n_variables))
        found = [y]
        near = self.neighbours(y)[:NEAR]
        found += near
        for v in near:
            found += [u for u in self.neighbours(v) if u not in found]
        return found[:WHOLE_TABLE]

    def allowed(self, variables: Sequence[int]) -> BoolArray:
        """Pairs that may be joined by an edge: dependent ones; for the response, after correction."""
        size = len(variables)
        answer = np.zeros((size, size), dtype=np.bool_)
        for i, j in combinations(range(size), 2):
            answer[i, j] = self.marginal(variables[i], variables[j], self.alpha).pvalue <= self.alpha
        return np.asarray(answer | answer.T)

    def coparents(self, y: int, near: Sequence[int], variables: Sequence[int]) -> list[int]:
        """Variables that depend on y given a variable near it only, as the other parents of a child do."""
        apart = [v for v in variables if v != y and v not in near]
        level = self.alpha / max(1, len(apart))
        return [
            v
            for v in apart
            if any(
                self.marginal(v, c, self.alpha).pvalue <= self.alpha and self.test(v, y, (c,), level).pvalue <= level
                for c in near[:NEAR]
            )
        ]

    def shares(self, y: int, pairs: Sequence[tuple[int, int]] = ()) -> dict[int, float]:
        """Share of the networks in which each variable around y is in its blanket."""
        variables = self.surroundings(y)
        allowed = self.allowed(variables)
        place = variables.index(y)
        together = [v for pair in pairs for v in pair]
        near = self.dependents(y) + together
        near += self.coparents(y, near, variables)
        allowed[place] = allowed[:, place] = np.isin(variables, near)
        start = np.zeros_like(allowed)
        start[place] = np.isin(variables, together)
        counts = self._ballot(variables, allowed, start, place)
        return {v: float(c / self.n_networks) for v, c in zip(variables, counts, strict=True) if v != y}

    def _ballot(self, variables: Sequence[int], allowed: BoolArray, start: BoolArray, place: int) -> IntArray:
        data = self.test.data
        columns = data.columns[variables].astype(np.int32)  # half the memory of every bootstrap sample
        levels = data.levels[variables]
        seeds = np.random.SeedSequence([self.seed, variables[place]]).spawn(self.n_networks)
        tasks = (
            delayed(_blanket_of_sample)(columns, levels, allowed, start, place, seed, k) for k, seed in enumerate(seeds)
        )
        counts = np.zeros(len(variables), dtype=np.int64)
        with self.show(f"{self.n_networks} networks of {len(variables)} variables") as advance:
            for blanket in in_order(tasks, self.n_jobs):
                counts += blanket
                advance(1.0 / self.n_networks)  # here: a bar cannot go to another process
        return counts


def _blanket_of_sample(
    columns: NDArray[np.int32],
    levels: IntArray,
    allowed: BoolArray,
    start: BoolArray,
    place: int,
    seed: np.random.SeedSequence,
    number: int,
) -> BoolArray:
    """Blanket of one variable in the network of a bootstrap sample, the variables in random order.

    Greedy search breaks ties by order: a random one keeps the order of the columns out of the vote.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(columns))
    rows = generator.integers(columns.shape[1], size=columns.shape[1])
    kind = kernels.FNML if number % 3 == 2 else kernels.BDEU
    sample = np.ascontiguousarray(columns[order][:, rows])
    places = np.ix_(order, order)
    shuffled = kernels.climb(sample, levels[order], allowed[places], MAX_PARENTS, kind, start[places])
    parent = np.empty_like(shuffled)
    parent[places] = shuffled
    return blanket_of(parent, place)


def blanket_of(parent: BoolArray, place: int) -> BoolArray:
    """Parents, children and the children's other parents; ``parent[v, u]``: u is a parent of v."""
    children = parent[:, place]
    member = parent[place] | children | parent[children].any(axis=0)
    member[place] = False
    return np.asarray(member)


# --------------------------------------------------------------------------- the record
def _screened(search: Search, near: Sequence[int], pairs: Sequence[tuple[int, int]], y: int) -> list[Decision]:
    """Who depends on y, alone or together with another, or that nobody does."""
    others = [u for u in range(search.n_variables) if u != y]
    alone: list[tuple[int, tuple[int, ...], Outcome, str]]
    alone = [(v, (), search.marginal(v, y, search.alpha), "") for v in near]
    together = [
        (u, (v,), search.test(u, y, (v,), search.alpha), " given the other")
        for pair in pairs
        for u, v in (pair, pair[::-1])
    ]
    if near or pairs:
        return [
            Decision(
                "screened", v, given, o.score, o.pvalue, len(others), f"depends on the response{how} ({o.describe()})"
            )
            for v, given, o, how in (*alone, *together)
        ]
    least = min((search.marginal(u, y, search.alpha).pvalue for u in others), default=1.0)
    reason = "no feature depends on the response (Benjamini-Hochberg)"
    return [Decision("stopped", -1, (), nan, min(1.0, least * len(others)), len(others), reason)]


def _vote(search: Search, v: int, share: float, action: Action) -> Decision:
    reason = f"in the blanket of {round(share * search.n_networks)} of {search.n_networks} networks"
    return Decision(action, v, (), share, nan, search.n_variables - 1, reason)


def _unexplained(search: Search, v: int, y: int) -> Decision:
    outcome = search.marginal(v, y, search.alpha)
    reason = f"no network has a member, but the response depends on it, also given any other ({outcome.describe()})"
    return Decision("entered", v, (), outcome.score, outcome.pvalue, search.n_variables - 1, reason)


def _both_ways(search: Search, y: int, elected: Sequence[int], decisions: list[Decision]) -> list[int]:
    """Members whose own blanket, sought in their own surroundings, has y."""
    kept = []
    for v in elected:
        share = search.shares(v).get(y, 0.0)
        if share >= SHARE:
            kept.append(v)
        else:
            reason = f"the response is in its blanket in {share:.0%} of the networks around it"
            decisions.append(Decision("removed", v, (), share, nan, len(elected), reason))
    return kept


def _finish(
    search: Search,
    y: int,
    elected: Sequence[int],
    shares: dict[int, float],
    always_include: Sequence[int],
    decisions: list[Decision],
) -> Found:
    """Test every member given the others, for the record."""
    members = (*always_include, *elected)
    pvalues = {}
    for v in members:
        given = _affordable(search.test.data, [u for u in members if u != v])
        outcome = search.test(v, y, given, search.alpha)
        pvalues[v] = outcome.pvalue
        why = "always included; " if v in always_include else ""
        reason = f"{why}given other members: {outcome.describe()}"
        decisions.append(Decision("kept", v, given, outcome.score, outcome.pvalue, len(members), reason))
    scores = {v: shares.get(v, 0.0) for v in members}
    return Found(members, tuple(decisions), search.test.n_tests, scores, pvalues)


def _affordable(data: Coded, others: Sequence[int]) -> tuple[int, ...]:
    """As many of the others, the first ones first, as leave enough rows per stratum on average."""
    given: tuple[int, ...] = ()
    code, count = np.zeros(data.n_rows, dtype=np.int64), 1
    for u in others:
        finer, more = kernels.join_codes(code, count, data.columns[u], int(data.levels[u]))
        if STRATUM_ROWS * more <= data.n_rows:
            given, code, count = (*given, u), finer, more
    return given


# --------------------------------------------------------------------------- search by tests alone
def hiton_pc(
    test: Test, y: int, candidates: Sequence[int], alpha: float, max_given: int = MAX_GIVEN
) -> tuple[list[int], dict[int, tuple[int, ...]]]:
    """Parents and children of y by HITON-PC.

    Parameters
    ----------
    test : callable
        ``test(x, y, given, level)``, an object with a ``pvalue``.
    candidates : sequence of int
        Variables that depend on y, strongest first.
    max_given : int, default 2
        Variables in a condition.

    Returns
    -------
    members : list of int
    separators : dict
        For every candidate that left: variables given which it does not depend on y.
    """
    members: list[int] = []
    separators: dict[int, tuple[int, ...]] = {}

    def separated(v: int, pool: Sequence[int], through: int | None) -> bool:
        for size in range(1, max_given + 1):
            for given in combinations(pool, size):
                if (through is None or through in given) and test(v, y, given, alpha).pvalue > alpha:
                    separators[v] = given
                    return True
        return False

    for v in candidates:
        if separated(v, members, None):
            continue
        members.append(v)
        for u in members[-2::-1]:
            if separated(u, [w for w in members if w != u], v):
                members.remove(u)
    return members, separators


def hiton_mb(test: Test, y: int, n_variables: int, alpha: float, max_given: int = MAX_GIVEN) -> list[int]:
    """Markov blanket of y by HITON-MB: neighbours, then spouses.

    A spouse is a variable that some condition separates from y and that the same condition with a
    common child does not (at alpha divided by the number of such variables), nor the child with any one
    other member.
    """
    everyone = [v for v in range(n_variables) if v != y]
    outcomes = {v: test(v, y, (), alpha) for v in everyone}
    strong = sorted((v for v in everyone if outcomes[v].pvalue <= alpha), key=lambda v: (-outcomes[v].score, v))
    members, separators = hiton_pc(test, y, strong, alpha, max_given)
    separators |= {v: () for v in everyone if outcomes[v].pvalue > alpha}
    child_of: dict[int, int] = {}
    for child in members:
        apart = [v for v in everyone if v not in members and v not in child_of and v in separators]
        level = alpha / max(1, len(apart))
        for v in apart:
            if test(v, child, (), alpha).pvalue > alpha and test(v, child, (y,), alpha).pvalue > alpha:
                continue
            given = tuple(u for u in separators[v] if u != child)
            if test(v, y, (*given, child), level).pvalue <= level:
                child_of[v] = child
    for v in list(child_of):
        child = child_of[v]
        pool = [u for u in (*members, *child_of) if u not in (v, child)]
        if any(test(v, y, (child, u), alpha).pvalue > alpha for u in pool):
            del child_of[v]
    return [*members, *child_of]
