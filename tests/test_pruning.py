"""Candidates that cannot be the best are left alone: the best sums and the selections stay the same integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import _forward, _neighbors, _pruning, foci


# ------------------------------------------------------------------- the race by itself
class Table:
    """Candidates with a known value in every row, at most the row's weight; counts what is looked at."""

    one = 8

    def __init__(self, weight, values, expected):
        self.weight, self.values = np.asarray(weight), np.asarray(values)
        self.rows = _pruning.order_rows(np.asarray(expected, dtype=float), self.weight)
        self.looked = 0

    def some(self, live, rows):
        self.looked += live.size * rows.size
        eighths = self.values[np.ix_(live, rows)].sum(axis=1)
        return eighths // self.one, eighths % self.one

    def alone(self, j):
        self.looked += self.values.shape[1]
        return int(self.values[j].sum())

    def race(self, best=0, cost_alone=1.0):
        work = _pruning.Work(self.some, self.alone, float, cost_alone)
        return _pruning.Race(self.rows, work, self.one, best, np.arange(len(self.values))).run()


@st.composite
def tables(draw):
    n, m = draw(st.integers(1, 300)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = rng.integers(1, draw(st.sampled_from([2, 50, 10**6])), n)
    strength = rng.random(m) ** draw(st.sampled_from([0.1, 1.0, 5.0]))
    kept = np.where(rng.random((m, n)) < strength[:, None], 1.0, rng.random((m, n)))
    values = np.floor(kept * weight * Table.one).astype(np.int64)
    values[m // 2] = values[0]  # a tie
    expected = rng.random(n) if draw(st.booleans()) else weight.astype(float)
    return Table(weight, values, expected)


@given(tables(), st.sampled_from([0.01, 1.0, 100.0]))
@settings(deadline=None)
def test_the_best_are_exact_and_the_others_bounded(table, cost_alone):
    truth = table.values.sum(axis=1).tolist()
    reached = table.race(cost_alone=cost_alone)
    assert sorted(reached) == list(range(len(truth)))
    best = max(truth)
    for j, total in enumerate(truth):
        if reached[j] != total:
            assert total < reached[j] < best - Table.one // 2


@given(tables())
@settings(deadline=None)
def test_a_sum_known_before_rules_out_what_lies_below(table):
    truth = table.values.sum(axis=1).tolist()
    above = max(truth) + 10 * Table.one
    assert all(total < above for total in table.race(best=above).values())


def test_a_strong_winner_saves_most_of_the_work():
    rng = np.random.default_rng(0)
    weight = np.arange(1, 2001)
    values = (rng.random((100, 2000)) * weight * Table.one).astype(np.int64)
    values[37] = weight * Table.one - values[37] // 20
    table = Table(weight, values, weight)
    reached = table.race()
    assert max(reached, key=reached.__getitem__) == 37
    assert table.looked < 0.15 * values.size


def test_noise_alone_costs_no_more_than_all_rows():
    rng = np.random.default_rng(1)
    weight = np.arange(1, 2001)
    values = (rng.random((100, 2000)) * weight * Table.one).astype(np.int64)
    table = Table(weight, values, weight)
    assert table.race() == dict(enumerate(values.sum(axis=1).tolist()))
    assert table.looked == values.size


# ------------------------------------------------------------------- steps of a selection
RNG = np.random.default_rng(5)
GEOMETRIES = {
    "normal": RNG.normal(size=(400, 20)),
    "lattice": RNG.integers(4, size=(400, 20)).astype(float),
    "cauchy": RNG.standard_cauchy((400, 20)),
    "rows five times": np.repeat(RNG.normal(size=(80, 20)), 5, axis=0),
    "equal columns": np.tile(RNG.normal(size=(400, 5)), (1, 4)),
}


@pytest.mark.parametrize("nominal", [False, True])
@pytest.mark.parametrize("base", [[0], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_steps_on_hard_data(name, base, nominal):
    X = GEOMETRIES[name]
    y = X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2])
    response = _neighbors.make_response(np.floor(2 * np.tanh(y)) if nominal else y, nominal=nominal)
    points = _neighbors.Geometry(np.ascontiguousarray(X[response.order].T), np.ones(20), np.zeros(20, bool))
    candidates = [j for j in range(20) if j not in base]
    for k in (1, 5):
        truth = _neighbors.candidate_sums(points, response, base, candidates, k, path="tree")
        quick = _neighbors.candidate_sums(points, response, base, candidates, k, path="lists", best_only=True)
        least = max(truth) - response.n
        assert all(a == b if b >= least else b <= a < least for a, b in zip(quick, truth, strict=True))
        for floor in (max(truth) + response.n, sorted(truth)[len(truth) // 2], min(truth) // 2):
            options = {"path": "lists", "best_only": True, "floor": floor}
            beside = _neighbors.candidate_sums(points, response, base, candidates, k, **options)
            limit = max(least, floor + 1)
            assert all(a == b if b >= limit else b <= a < limit for a, b in zip(beside, truth, strict=True))


def test_what_cannot_exceed_the_floor_saves_most_of_the_work():
    rng = np.random.default_rng(2)
    weight = np.arange(1, 2001)
    values = (rng.random((100, 2000)) * weight * Table.one).astype(np.int64)
    table = Table(weight, values, weight)
    floor = int(0.9 * weight.sum()) * Table.one
    assert all(
        truth <= bound < floor for truth, bound in zip(values.sum(axis=1), table.race(floor).values(), strict=True)
    )
    assert table.looked < 0.45 * values.size


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_selections_are_the_same_with_and_without(noise, monkeypatch):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(1500, 40))
    y = X[:, 0] * X[:, 1] + np.sin(X[:, 0] * X[:, 2]) + noise * rng.normal(size=1500)
    quick = [foci(X, y, n_jobs=n_jobs) for n_jobs in (1, 2)]
    looked = []
    whole = _neighbors.candidate_sums

    def all_sums(*arguments, best_only, floor, **options):
        looked.append((best_only, floor > 0))
        return whole(*arguments, **options)

    monkeypatch.setattr(_forward, "candidate_sums", all_sums)
    full = foci(X, y)
    assert looked == [(True, step > 0) for step in range(len(full) + 1)]
    for path in quick:
        assert path.order.tolist() == full.order.tolist()
        assert path.cumulative.tobytes() == full.cumulative.tobytes()
        assert path.conditional.tobytes() == full.conditional.tobytes()
        assert path.stopped == full.stopped
