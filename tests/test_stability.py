"""Stability selection: complementary halves, one seed one result, bounds as the solution of their definition."""

import math

import numpy as np
import pytest
from scipy.optimize import linprog

from codec._stability import stability_selection, unimodal_bound, worst_case_bound


def correlations(X, y, k):
    return lambda rows, _: np.argsort(-np.abs(X[rows].T @ y[rows]))[:k]


@pytest.fixture
def data():
    X = np.random.default_rng(1).standard_normal((120, 30))
    return X, X[:, 3] - X[:, 7] + 0.5 * np.random.default_rng(2).standard_normal(120)


def test_halves_come_in_complementary_pairs():
    seen = []
    stability_selection(lambda rows, _: seen.append(rows) or [], 41, 3, n_subsamples=6, rng=0)
    assert len(seen) == 6
    for a, b in zip(seen[::2], seen[1::2], strict=True):
        assert len(a) == len(b) == 20
        assert len(set(a) | set(b)) == 40
        assert (np.diff(a) > 0).all()
    assert not np.array_equal(seen[0], seen[2])


def test_frequencies_are_counts(data):
    turns = iter([[0, 1], [0], [0, 0, 2], [], [0, 1], [1]])
    result = stability_selection(lambda *_: next(turns), 20, 4, n_subsamples=6, threshold=4 / 6, rng=0)
    np.testing.assert_allclose(result.frequencies, [4 / 6, 3 / 6, 1 / 6, 0])
    assert result.selected == (0,)
    assert result.support.tolist() == [True, False, False, False]
    assert result.mean_selected == pytest.approx(8 / 6)
    assert result.subsample_size == 10
    assert result.to_frame().index.tolist() == ["x0", "x1", "x2", "x3"]


def test_what_is_always_included_is_no_evidence(data):
    X, y = data
    plain = stability_selection(correlations(X, y, 4), 120, 30, n_subsamples=20, threshold=0.9, rng=0)

    def with_two_more(rows, rng):
        return [*correlations(X, y, 4)(rows, rng), 30, 31]

    found = stability_selection(with_two_more, 120, 32, always_include=[30, 31], n_subsamples=20, threshold=0.9, rng=0)
    np.testing.assert_array_equal(found.frequencies, [*plain.frequencies, 1.0, 1.0])
    assert set(found.selected) == {*plain.selected, 30, 31}
    assert found.mean_selected == plain.mean_selected == 4
    assert found.expected_false == plain.expected_false == pytest.approx(16 / (0.8 * 30))
    assert found.expected_false_unimodal == plain.expected_false_unimodal
    assert "4.0 selected in a half on average beside 2 always included" in repr(found)


def test_everything_always_included_leaves_nothing_false():
    found = stability_selection(lambda *_: [], 20, 2, always_include=[1, 0], n_subsamples=2, rng=0)
    assert found.selected == (0, 1)
    assert found.expected_false == found.expected_false_unimodal == 0


def test_signals_are_stable_and_named(data):
    X, y = data
    names = [f"gene {j}" for j in range(30)]
    result = stability_selection(correlations(X, y, 2), 120, 30, names=names, rng=0)
    assert set(result.selected) == {3, 7}
    assert result.to_frame().head(2)["frequency"].min() > 0.9
    assert "gene 3" in repr(result)
    assert "gene 7" in result._repr_html_()
    assert result.expected_false == pytest.approx(4 / (0.2 * 30))


def test_one_seed_one_result(data):
    X, y = data

    def noisy(rows, rng):
        return rng.permutation(30)[:3]

    for select in (correlations(X, y, 4), noisy):
        runs = [stability_selection(select, 120, 30, n_subsamples=20, rng=5, n_jobs=jobs) for jobs in (None, 1, 3)]
        assert all(np.array_equal(run.frequencies, runs[0].frequencies) for run in runs)
    other = stability_selection(noisy, 120, 30, n_subsamples=20, rng=6)
    assert not np.array_equal(other.frequencies, runs[0].frequencies)


def worst_share(tau, theta, n_pairs, *, unimodal):
    """Largest P(share of agreeing pairs >= 2 tau - 1) with mean theta^2: a linear programme for each mode."""
    grid = np.arange(n_pairs + 1) / n_pairs
    reached = -(grid >= 2 * tau - 1 - 1e-12).astype(float)
    best = 0.0
    for mode in range(n_pairs + 1) if unimodal else [0]:
        rises = np.zeros((n_pairs, n_pairs + 1))
        for i in range(n_pairs):
            sign = 1.0 if i < mode else -1.0
            rises[i, [i, i + 1]] = sign, -sign
        order = {"A_ub": rises, "b_ub": np.zeros(n_pairs)} if unimodal else {}
        found = linprog(reached, A_eq=[np.ones(n_pairs + 1), grid], b_eq=[1.0, theta**2], **order)
        if found.success:
            best = max(best, -found.fun)
    return best


@pytest.mark.parametrize("theta", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("tau", [0.6, 0.7, 0.75, 0.8, 0.9, 1.0])
def test_bounds_are_the_worst_distributions(tau, theta):
    """q of p features selected, so theta = q / p; the bound is theta^2 p times the worst case over theta^2."""
    p, n_pairs = 1000, 20
    q = theta * p
    worst = worst_share(tau, theta, n_pairs, unimodal=False)
    assert worst_case_bound(q, p, tau) == pytest.approx(p * worst, rel=1e-6)
    bound = unimodal_bound(q, p, tau, n_pairs)
    worst = worst_share(tau, theta, n_pairs, unimodal=True)
    assert bound == pytest.approx(p * worst, rel=1e-6)
    assert bound < worst_case_bound(q, p, tau)


def test_unimodal_bound_is_silent_outside_its_theorem():
    assert math.isnan(unimodal_bound(600, 1000, 0.9, 50))  # theta > 3^-1/2
    assert math.isnan(unimodal_bound(300, 1000, 0.55, 50))  # tau <= 1/2 + theta^2, 1/2 + 1 / 2B + 3/4 theta^2


def test_improbable_features_keep_within_the_bound():
    """All features are noise: E(selected) <= bound, over 60 data sets."""
    found, bounds = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((60, 20)), rng.standard_normal(60)
        result = stability_selection(correlations(X, y, 4), 60, 20, n_subsamples=40, threshold=0.75, rng=seed)
        found.append(len(result.selected))
        bounds.append(result.expected_false)
    assert max(bounds) == pytest.approx(16 / (0.5 * 20))
    assert np.mean(found) + 2 * np.std(found) / np.sqrt(60) < bounds[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threshold": 0.5}, "threshold is 0.5"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"n_subsamples": 5}, "n_subsamples is 5"),
        ({"n_subsamples": 0}, "n_subsamples is 0"),
        ({"n": 7}, "n is 7: stability selection needs at least 8 rows"),
        ({"n": 0}, "n is 0"),
        ({"n_jobs": 0}, "n_jobs is 0"),
    ],
)
def test_wrong_arguments_are_named(changed, message):
    arguments = {"n": 50, "n_features": 3, **changed}
    with pytest.raises(ValueError, match=message):
        stability_selection(lambda *_: [], **arguments)


def test_a_seed_sequence_stays_as_it_is():
    def noisy(rows, rng):
        return rng.permutation(30)[:3]

    seed = np.random.SeedSequence(5, spawn_key=(1,), pool_size=8)
    seed.spawn(2)
    runs = [stability_selection(noisy, 40, 30, n_subsamples=20, rng=seed) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].frequencies, runs[1].frequencies)
    assert seed.n_children_spawned == 2
    generator = np.random.default_rng(seed)  # with the state that the seed has
    same = stability_selection(noisy, 40, 30, n_subsamples=20, rng=generator)
    np.testing.assert_array_equal(same.frequencies, runs[0].frequencies)


def test_two_results_can_be_compared():
    first, second = (stability_selection(lambda *_: [0], 20, 3, n_subsamples=2, rng=0) for _ in range(2))
    assert first == first
    assert first != second
