"""Linear models that forget: equal to models fitted without the rows, and what their certificates say."""

import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from codec.unlearn._certificate import (
    a_priori_bound,
    audited_epsilon,
    gaussian_multiplier,
    logistic_constants,
    softmax_constants,
)
from codec.unlearn._convex import Downdated, FrozenInverse, RidgeProblem, SoftmaxProblem, minimize
from codec.unlearn.linear import RemovableLogisticRegression, RemovableRidge


@parametrize_with_checks([RemovableRidge(), RemovableLogisticRegression()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def table(seed, n=120, p=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return X, X @ rng.normal(size=p) + rng.normal(size=n), rng


def flat(model):
    """All weights, the intercepts last."""
    return np.r_[model.coef_.ravel(), np.ravel(model.intercept_)]


def distance(a, b):
    return float(np.linalg.norm(flat(a) - flat(b)))


def test_ridge_is_that_of_scikit_learn_and_forgetting_is_retraining(global_random_seed):
    X, y, rng = table(global_random_seed)
    model = RemovableRidge(weight_decay=0.3, fit_intercept=False).fit(X, y)
    peer = Ridge(alpha=0.3 * len(X), fit_intercept=False).fit(X, y)  # alpha is n times the mean's weight decay
    np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-10)
    rows = rng.choice(len(X), 7, replace=False)
    model.forget(rows)
    kept = np.delete(np.arange(len(X)), rows)
    again = Ridge(alpha=0.3 * len(kept), fit_intercept=False).fit(X[kept], y[kept])
    np.testing.assert_allclose(model.coef_, again.coef_, atol=1e-10)


def test_ridge_with_intercept_and_several_targets(global_random_seed):
    X, y, _ = table(global_random_seed)
    Y = np.column_stack([y, y**2])
    model = RemovableRidge(weight_decay=0.1).fit(X, Y)
    model.forget([0, 5])
    again = RemovableRidge(weight_decay=0.1).fit(X[np.r_[1:5, 6:120]], Y[np.r_[1:5, 6:120]])
    assert np.abs(model.coef_ - again.coef_).max() < 1e-10
    assert np.abs(model.intercept_ - again.intercept_).max() < 1e-10


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_is_that_of_scikit_learn_and_forgets(n_classes, global_random_seed):
    X, y, rng = table(global_random_seed, n=200)
    labels = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))
    options = {"weight_decay": 0.05, "fit_intercept": False, "tolerance": 1e-8}
    model = RemovableLogisticRegression(**options).fit(X, labels)
    peer = LogisticRegression(C=1.0 / (0.05 * len(X)), fit_intercept=False, tol=1e-10, max_iter=2000).fit(X, labels)
    np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), atol=1e-5)
    before = clone(model).fit(X, labels)
    rows = rng.choice(len(X), 10, replace=False)
    kept = np.delete(np.arange(len(X)), rows)
    again = RemovableLogisticRegression(**options).fit(X[kept], labels[kept])
    model.forget(rows)
    assert distance_of(model, again) <= 1e-5 * distance_of(before, again)


def distance_of(a, b):
    return float(np.linalg.norm(a.coef_ - b.coef_))


def test_the_certificate_covers_the_true_distance_in_every_trial():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng([7, seed])
        X = rng.normal(size=(60, 3)) * rng.uniform(0.5, 2.0)
        y = (X[:, 0] + rng.normal(size=60) > 0).astype(int)
        decay = float(10.0 ** rng.uniform(-2, 0))
        model = RemovableLogisticRegression(weight_decay=decay, tolerance=1e-3).fit(X, y)
        rows = rng.choice(60, int(rng.integers(1, 6)), replace=False)
        kept = np.delete(np.arange(60), rows)
        deletion = model.forget(rows, steps=1)
        exact = RemovableLogisticRegression(weight_decay=decay, tolerance=1e-10).fit(X[kept], y[kept])
        covered += distance(model, exact) <= deletion.certificate.bound + 1e-10
    assert covered == 200


def test_several_steps_come_nearer():
    X, y, _ = table(3, n=300)
    labels = (y > 0).astype(int)
    rows = np.arange(60)
    exact = RemovableLogisticRegression(weight_decay=0.01, tolerance=1e-10).fit(X[60:], labels[60:])
    gaps = []
    for steps in (1, 2, 3):
        model = RemovableLogisticRegression(weight_decay=0.01, tolerance=1e-6).fit(X, labels)
        model.forget(rows, steps=steps)
        gaps.append(distance(model, exact))
    assert gaps[2] < gaps[1] < gaps[0]


def test_a_release_has_the_noise_of_the_mechanism():
    X, y, _ = table(0)
    model = RemovableRidge(weight_decay=0.1, tolerance=1e-3).fit(X, y)
    model.forget([4])
    copies = [model.release(1.0, 1e-5, random_state=k) for k in range(400)]
    noise = np.array([np.r_[c.coef_.ravel() - model.coef_.ravel(), c.intercept_ - model.intercept_] for c in copies])
    expected = 2e-3 * gaussian_multiplier(1.0, 1e-5)  # two models within the tolerance are twice it apart
    assert noise.std() == pytest.approx(expected, rel=0.1)  # 2,000 draws: six standard errors
    assert len(model.accountant_.releases) == 400
    with pytest.raises(RuntimeError, match="released copy"):
        copies[0].forget([1])


def test_an_audit_stays_below_epsilon(global_random_seed):
    """A distinguisher that knows both models guesses from noisy copies; its lower bound must not pass epsilon.

    The tolerance lets the model keep the whole influence of the row, so that the noise alone hides it; a twentieth
    of the noise is refuted.
    """
    rng = np.random.default_rng(global_random_seed)
    X = rng.normal(size=(120, 4))
    y = X.sum(axis=1) + rng.normal(size=120) > 0
    X[0], y[0] = 2.0, False
    options = {"weight_decay": 1.0, "tolerance": 0.035}
    unlearned = RemovableLogisticRegression(**options).fit(X, y)
    assert unlearned.forget(0).distance == 0.0
    retrained = RemovableLogisticRegression(**options).fit(X[1:], y[1:])
    assert 0.5 * 0.035 < distance(unlearned, retrained) < 0.035
    away = flat(unlearned) - flat(retrained)
    middle = (flat(unlearned) + flat(retrained)) @ away / 2
    taken = [
        sum(flat(model.release(1.0, 1e-2, random_state=rng)) @ away > middle for _ in range(300))
        for model in (unlearned, retrained)
    ]
    assert audited_epsilon(int(taken[1]), 300, 300 - int(taken[0]), 300, delta=1e-2) <= 1.0


SEEDS = {
    "int": lambda: 5,
    "sequence": lambda: np.random.SeedSequence(5),
    "child": lambda: np.random.SeedSequence(5, pool_size=8).spawn(2)[1],
    "generator": lambda: np.random.default_rng(5),
}


def noise_of(model, random_state):
    copy = model.release(1.0, 1e-5, random_state=random_state)
    return (flat(copy) - flat(model)) / copy.privacy_.sigma


@pytest.mark.parametrize("make", SEEDS.values(), ids=SEEDS.keys())
def test_no_two_releases_share_noise(make):
    """Else the difference of two copies would be the exact change of the weights."""
    X, y, _ = table(0)
    model, twin = RemovableRidge().fit(X, y), RemovableRidge().fit(X, y)
    noise = []
    for row in range(3):
        noise.append(noise_of(model, make()))
        np.testing.assert_array_equal(noise[-1], noise_of(twin, make()))  # a seed still repeats a whole run
        model.forget(row)
        twin.forget(row)
    assert np.abs(noise[0] - noise[1]).max() > 0.01
    assert np.abs(noise[0] - noise[2]).max() > 0.01
    assert np.abs(noise[1] - noise[2]).max() > 0.01


def test_a_seed_sequence_of_the_caller_stays_as_it_is():
    X, y, _ = table(0)
    model, seed = RemovableRidge().fit(X, y), np.random.SeedSequence(5)
    before = seed.state
    first, second = noise_of(model, seed), noise_of(model, seed)
    assert seed.state == before
    assert np.abs(first - second).max() > 0.01
    for stream in (seed, *seed.spawn(2)):  # what the caller may draw, and show, elsewhere
        drawn = np.random.default_rng(stream).standard_normal(5)
        assert min(np.abs(first - drawn).max(), np.abs(second - drawn).max()) > 0.01


def test_every_bit_of_a_seed_counts():
    X, y, _ = table(0)
    noise = [noise_of(RemovableRidge().fit(X, y), 5 + high) for high in (0, 2**32, 2**63, 2**64, 2**127)]
    assert all(np.abs(a - b).max() > 0.01 for k, a in enumerate(noise) for b in noise[:k])


@pytest.mark.parametrize("wrong", [True, -1, 0.5, "5", [1, 2]])
def test_what_is_no_seed_is_told(wrong):
    X, y, _ = table(0)
    model = RemovableRidge().fit(X, y)
    with pytest.raises((TypeError, ValueError), match="random_state is"):
        model.release(1.0, 1e-5, random_state=wrong)
    assert not model.accountant_.releases


CHANGES = [{"weight_decay": 1e3}, {"tolerance": 1e3}, {"tolerance": 1e-14}, {"fit_intercept": False}, {"max_iter": 0}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("kind", [RemovableRidge, RemovableLogisticRegression])
@pytest.mark.parametrize("steps", [None, 1])
def test_parameters_set_after_the_fit_are_for_the_next_fit(change, kind, steps):
    X, y, _ = table(5)
    models = [kind(weight_decay=0.01, tolerance=1e-2).fit(X, y > 0) for _ in range(2)]
    models[0].set_params(**change)
    deletions = [model.forget(range(40), steps=steps) for model in models]
    copies = [model.release(1.0, 1e-5, random_state=0) for model in models]
    for a, b in (models, copies):
        np.testing.assert_array_equal(flat(a), flat(b))
        np.testing.assert_array_equal(a.predict(X), b.predict(X))
    assert deletions[0].certificate == deletions[1].certificate
    assert deletions[0].distance > 0.0
    assert copies[0].privacy_ == copies[1].privacy_
    assert copies[0].get_params() == copies[1].get_params()


def test_the_bound_is_that_of_the_fitted_weight_decay():
    X, y, _ = table(6)
    model = RemovableLogisticRegression(0.01).fit(X, y > 0).set_params(weight_decay=1e3)
    exact = RemovableLogisticRegression(0.01, tolerance=1e-10).fit(X[5:], y[5:] > 0)
    assert distance(model, exact) > 1e-3
    bound = model.forget(range(5), steps=1).certificate.bound
    assert 1e-7 < distance(model, exact) <= bound


def hidden_direction(seed):
    """Fifty rows whose second column is too small for the basis of their span, and a response that it is part of."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(50, 2))
    y = X.sum(axis=1) + rng.normal(size=50)
    X[:, 1] *= 1e-7
    return X, y


def mean_gradient(X, residuals, W, weight_decay):
    """In the caller's coordinates, of rows (n, d), residuals (n, k) and weights (k, d)."""
    return residuals.T @ X / len(X) + weight_decay * W


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rounding_covers_what_left_out_directions_hide_of_the_softmax_gradient(n_classes, global_random_seed):
    X, y = hidden_direction(global_random_seed)
    labels = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))
    problem = SoftmaxProblem(X, labels, n_classes, 0.01)
    assert problem.shape[1] == 1
    at = minimize(problem, 1e-13, 100)[0]
    for first in (0, 10):
        logits = X[first:] @ problem.span.back(at.V).T @ problem.contrasts.T
        residuals = softmax(logits, axis=1) - np.eye(n_classes)[labels[first:]]
        gradient = mean_gradient(X[first:], residuals @ problem.contrasts, problem.span.back(at.V), 0.01)
        assert np.abs(gradient[:, 1]).max() > 1e-12  # of size 1e-8: more than float64 hides
        assert np.linalg.norm(gradient) <= at.norm + problem.rounding(at)
        at = problem.without(at, np.arange(10))
        problem.drop(np.arange(10))


def test_rounding_covers_what_left_out_directions_hide_of_the_ridge_gradient(global_random_seed):
    X, y = hidden_direction(global_random_seed)
    problem = RidgeProblem(X, y[:, None], 0.01)
    assert problem.rows.shape[1] == 1
    V = problem.newton_step(np.zeros((1, 1)))
    for first in (0, 10):
        W = problem.span.back(V)
        gradient = mean_gradient(X[first:], X[first:] @ W.T - y[first:, None], W, 0.01)
        assert np.abs(gradient[:, 1]).max() > 1e-12  # of size 1e-7: more than float64 hides
        assert np.linalg.norm(gradient) <= np.linalg.norm(problem.gradient(V)) + problem.rounding(V)
        problem.drop(np.arange(10))
        V = problem.newton_step(V)


@pytest.mark.parametrize("kind", [RemovableRidge, RemovableLogisticRegression])
def test_the_callers_data_are_as_before(kind):
    X, y, _ = table(2)
    y = y if kind is RemovableRidge else (y > 0).astype(float)
    X_before, y_before = X.copy(), y.copy()
    kind().fit(X, y).forget([0, 1])
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "empty"),
        ([120], ValueError, "0 to 119"),
        ([-1], ValueError, "0 to 119"),
        ([3, 3], ValueError, "twice"),
        ([0.5], TypeError, "integer"),
        (range(120), ValueError, "no training data"),
    ],
)
def test_bad_requests_leave_the_model_as_it_was(rows, error, message):
    X, y, _ = table(2)
    model = RemovableRidge().fit(X, y)
    before = model.coef_.copy()
    with pytest.raises(error, match=message):
        model.forget(list(rows))
    np.testing.assert_array_equal(model.coef_, before)
    assert model.retained_.all()


@pytest.mark.parametrize("model", [RemovableLogisticRegression(1e-4), RemovableRidge(1e-6)], ids=["logistic", "ridge"])
def test_columns_too_large_for_the_tolerance_are_told(model):
    """Rounding alone then hides more of the gradient than the tolerance allows."""
    X, y, _ = table(2)
    y = (y > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="fit did not come within tolerance"):
        model.fit(X * 1e9, y)
    assert model.certificate_.bound is None or model.certificate_.bound > model.tolerance
    with pytest.warns(ConvergenceWarning, match="forget did not come within tolerance"):
        model.forget(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone(model).set_params(weight_decay=0.01).fit(X, y).forget(0)


@pytest.mark.parametrize("model", [RemovableLogisticRegression(1e-4), RemovableRidge(1e-6)], ids=["logistic", "ridge"])
def test_warnings_as_errors_leave_a_whole_record(model):
    X, y, _ = table(2)
    with pytest.warns(ConvergenceWarning, match="fit did not come within tolerance"):
        model = clone(model).fit(X * 1e9, (y > 0).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning, match="forget did not come within tolerance"):
            model.forget(5)
    np.testing.assert_array_equal(np.flatnonzero(~model.retained_), [5])
    assert [deletion.forgotten for deletion in model.deletions_] == [(5,)]
    assert model.certificate_ == model.deletions_[0].certificate
    assert model.certificate_.m == 1


@pytest.mark.parametrize("rows", [[5, 6], [7]], ids=["the same rows", "another row"])
@pytest.mark.parametrize("kind", [RemovableRidge, RemovableLogisticRegression])
def test_a_request_that_fails_leaves_the_model_as_it_was(kind, rows, monkeypatch):
    X, y, _ = table(2)
    model, twin = kind().fit(X, y > 0), kind().fit(X, y > 0)
    before = flat(model)
    with monkeypatch.context() as patch:
        patch.setattr("codec.unlearn._removable.certify", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.forget([5, 6])
    np.testing.assert_array_equal(flat(model), before)
    assert model.retained_.all()
    assert not model.deletions_
    model.forget(rows)
    twin.forget(rows)
    np.testing.assert_allclose(flat(model), flat(twin), rtol=1e-9)
    assert model.certificate_.m == len(rows)


def test_a_row_can_be_forgotten_once_and_a_class_cannot_vanish():
    X = table(2)[0]
    labels = np.zeros(120, dtype=int)
    labels[:2] = 1
    model = RemovableLogisticRegression().fit(X, labels)
    model.forget(0)
    with pytest.raises(ValueError, match="forgotten before"):
        model.forget(0)
    with pytest.raises(ValueError, match="class"):
        model.forget(1)
    assert len(model.deletions_) == 1


def hard_row(seed, n_classes):
    """A table whose first row has a large part of the Hessian to itself."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 4))
    y = rng.integers(n_classes, size=200)
    X[0] *= 4.0
    return X, y


def one_step_error(X, y, **options):
    """Of deleting row 0 in one step, as a share of the distance to the model fitted without it."""
    model = RemovableLogisticRegression(0.02, tolerance=1e-10, **options).fit(X, y)
    again = RemovableLogisticRegression(0.02, tolerance=1e-10).fit(X[1:], y[1:])
    nothing = distance_of(model, again)
    model.forget(0, steps=1)
    return distance_of(model, again) / nothing


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_one_row_takes_its_own_curvature_with_it(n_classes, monkeypatch):
    """Newton's step with the Hessian of the rows that stay is far nearer than with that of all rows."""
    tables = [hard_row([n_classes, seed], n_classes) for seed in range(8)]
    errors = [one_step_error(X, y) for X, y in tables]
    monkeypatch.setattr("codec.unlearn._convex.Curvature.take_out", lambda *_: None)
    frozen = [one_step_error(X, y) for X, y in tables]
    assert np.median(errors) < 0.4 * np.median(frozen)


def test_woodburys_identity_against_a_dense_inverse():
    rng = np.random.default_rng(0)
    problem = SoftmaxProblem(rng.normal(size=(40, 3)), rng.integers(2, size=40), 2, 0.05)
    at = problem.point(rng.normal(size=problem.shape))
    found = Downdated.made(FrozenInverse.made(problem, at), problem, at, 7)
    p = at.probabilities[1]
    whole = (problem.rows * (p * (1 - p))[:, None]).T @ problem.rows / 40 + 0.05 * np.eye(3)
    less = whole - p[7] * (1 - p[7]) * np.outer(problem.rows[7], problem.rows[7]) / 40
    g = rng.normal(size=problem.shape)
    for _ in range(2):  # the second time with the images of the first
        np.testing.assert_allclose(found(g), np.linalg.solve(less, g[0])[None], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_products_two_at_a_time_read_one_half(n, dtype):
    rng = np.random.default_rng(n)
    H = rng.normal(size=(n, n))
    H = (H + H.T).astype(dtype)
    half = np.asfortranarray(np.where(np.tri(n, dtype=bool), H, np.nan))  # what is above is not read
    vectors = [rng.normal(size=n) * 10.0**e for e in (0, -60, 3)]
    for count in (1, 2, 3):
        found = FrozenInverse(half).of_all(vectors[:count])
        assert len(found) == count
        for v, product in zip(vectors, found, strict=False):
            np.testing.assert_allclose(product, H @ v, rtol=0, atol=1e4 * np.finfo(dtype).eps * np.abs(v).max())


def test_nothing_of_a_forgotten_row_is_kept():
    X, y = hard_row(1, 3)
    model = RemovableLogisticRegression(0.02).fit(X, y)
    model.forget(0)
    assert model._curvature.downdated is None
    assert not model._problem.rows[0].any()


@pytest.mark.parametrize("kind", [RemovableLogisticRegression, RemovableRidge])
def test_a_release_without_any_bound_is_refused(kind):
    X, y, _ = table(2)
    model = kind().fit(X, y > 0)
    model.certificate_ = dataclasses.replace(model.certificate_, bound=None)
    with pytest.raises(RuntimeError, match="cannot release: no bound is proved"):
        model.release(1.0, 1e-5)


@pytest.mark.parametrize("solver", ["auto", "dense", "cg"])
def test_a_step_from_the_minimiser_itself_stays_there(solver):
    """Three pairs of opposite labels: the gradient is zero, exactly."""
    X, y = np.ones((6, 1)), np.array([0, 1] * 3)
    model = RemovableLogisticRegression(0.1, fit_intercept=False, solver=solver).fit(X, y)
    deletion = model.forget([0, 1], steps=1)
    assert model.coef_.item() == deletion.distance == 0.0


@pytest.mark.parametrize("kind", [RemovableRidge, RemovableLogisticRegression])
@pytest.mark.parametrize("size", [0.0, 1e-200])
def test_rows_of_nothing_have_a_model_of_nothing(kind, size):
    X, y = np.full((6, 2), size), np.array([0, 1] * 3)
    model = kind(fit_intercept=False).fit(X, y)
    assert not model.forget(0).distance
    assert not model.coef_.any()


def test_ridge_without_its_largest_row_has_the_digits_of_the_others():
    """Taken out of the sum of squares alone, a row of size 1e5 leaves 1e-6 of rounding."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    X[0] *= 1e5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = RemovableRidge(1e-3, fit_intercept=False).fit(X, y)
    model.forget(0, steps=1)
    exact = np.linalg.solve(X[1:].T @ X[1:] / 49 + 1e-3 * np.eye(3), X[1:].T @ y[1:] / 49)
    assert np.linalg.norm(model.coef_ - exact) < 1e-12


def test_ridge_with_weight_decay_below_rounding_can_forget():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(6, 3)) * 1e6, rng.normal(size=6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = RemovableRidge(1e-9, fit_intercept=False).fit(X, y)
            bound = model.forget([0, 1, 2, 3, 4]).certificate.bound
        exact = X[5] * y[5] / (X[5] @ X[5] + 1e-9)
        assert np.linalg.norm(model.coef_ - exact) <= bound


def test_requests_are_numbered_from_one():
    X, y, _ = table(0)
    model = RemovableRidge().fit(X, y)
    assert [model.forget(row).id for row in (4, 2)] == [1, 2]


def test_the_reason_does_not_state_less_than_the_bound():
    X, y, _ = table(0)
    model = RemovableLogisticRegression().fit(X, y > 0)
    for row in range(20):
        deletion = model.forget(row, steps=1)
        assert float(deletion.reason.rsplit(" ", 1)[1]) >= deletion.certificate.bound * (1 - 1e-9)


@pytest.mark.parametrize("names", [["no", "yes"], [0, 1]])
def test_a_class_is_named_as_the_caller_names_it(names):
    X = table(2)[0]
    labels = np.array([names[0]] * 119 + [names[1]])
    model = RemovableLogisticRegression().fit(X, labels)
    with pytest.raises(ValueError, match=f"none of class {names[1]!r};"):
        model.forget(119)
    with pytest.raises(ValueError, match=f"y has one class only, {names[0]!r};"):
        clone(model).fit(X[:119], labels[:119])


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("kind", [RemovableRidge, RemovableLogisticRegression])
def test_rows_that_could_not_be_taken_out_are_as_before(kind, n_rows, monkeypatch):
    """The weights had moved, or a sample's curvature was kept, when taking rows out ended half way."""
    X, y, _ = table(2)
    model, twin = kind().fit(X, y > 0).prepare(), kind().fit(X, y > 0)
    with monkeypatch.context() as patch:
        patch.setattr(type(model._problem), "drop", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.forget(range(n_rows))
    assert model._gradient_norm() == twin._gradient_norm()
    assert getattr(getattr(model, "_curvature", None), "downdated", None) is None
    np.testing.assert_array_equal(flat(model), flat(twin))


def test_pickles_and_copies_hold_no_inverse_of_forgotten_rows():
    """n (H - wd I) less the others' curvature would be s x x^T of the row that is gone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    model = RemovableLogisticRegression(0.01).fit(X, (X[:, 0] + rng.normal(size=200) > 0).astype(int)).prepare()
    assert pickle.loads(pickle.dumps(model))._curvature.kept is not None  # nothing is gone yet
    model.forget(7)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other._curvature.kept is None
        assert other._curvature.downdated is None
        assert other.forget(8).certificate.bound <= 1e-4
    assert model._curvature.kept is not None  # where it makes the next request fast


def test_a_fit_that_is_refused_leaves_the_model_as_it_was():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), np.array(["a", "b"])[rng.integers(2, size=40)]
    model = RemovableLogisticRegression(0.1).fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="one class only, 'b'"):
        model.fit(X[y == "b"], y[y == "b"])
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("kind", [RemovableRidge, RemovableLogisticRegression])
def test_rows_may_be_a_set_or_a_mask(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = X[:, 0] + rng.normal(size=40)
    models = [kind(0.1).fit(X, y > 0.0 if kind is RemovableLogisticRegression else y) for _ in range(3)]
    mask = np.isin(np.arange(40), [3, 7, 21])
    for model, rows in zip(models, ([3, 7, 21], {21, 3, 7}, mask), strict=True):
        assert model.forget(rows).certificate.m == 3
        np.testing.assert_array_equal(model.coef_, models[0].coef_)
        np.testing.assert_array_equal(model.retained_, ~mask)
    with pytest.raises(ValueError, match=r"rows is a mask of shape \(4,\)"):
        models[0].forget(mask[:4])


@pytest.mark.parametrize("scale", [1e80, 1e130])
def test_bounds_of_huge_rows_are_no_error(scale):
    X = scale * np.random.default_rng(0).normal(size=(30, 2))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert RemovableRidge(1e-3).fit(X, X[:, 0] / scale).forget(0).certificate.bound >= 0.0
    for constants in (logistic_constants(scale), softmax_constants(scale)):
        assert a_priori_bound(constants, 1e-3, n=30, m=1) == np.inf
