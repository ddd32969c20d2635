"""Linear models that forget: equal to models fitted without the rows, and what their certificates say."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from codec.unlearn._certificate import audited_epsilon, gaussian_multiplier
from codec.unlearn._convex import Downdated, FrozenInverse, SoftmaxProblem
from codec.unlearn.linear import RemovableLogisticRegression, RemovableRidge


@parametrize_with_checks([RemovableRidge(), RemovableLogisticRegression()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def table(seed, n=120, p=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return X, X @ rng.normal(size=p) + rng.normal(size=n), rng


def distance(a, b):
    return float(np.linalg.norm(np.column_stack([a.coef_ - b.coef_, np.atleast_1d(a.intercept_ - b.intercept_)])))


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


def test_an_audit_stays_below_epsilon():
    """A distinguisher that knows both models guesses from noisy copies; its lower bound must not pass epsilon."""
    X, y, _ = table(1)
    options = {"weight_decay": 0.1, "tolerance": 1e-3}
    unlearned = RemovableRidge(**options).fit(X, y)
    unlearned.forget([8])
    retrained = RemovableRidge(**options).fit(np.delete(X, 8, 0), np.delete(y, 8))
    direction = np.ones(X.shape[1])
    scores = [
        [float(m.release(1.0, 1e-2, random_state=k).coef_.ravel() @ direction) for k in range(300)]
        for m in (unlearned, retrained)
    ]
    cut = float(np.median(np.concatenate(scores)))
    false_positives = int(sum(s > cut for s in scores[1]))
    false_negatives = int(sum(s <= cut for s in scores[0]))
    assert audited_epsilon(false_positives, 300, false_negatives, 300, delta=1e-2) <= 1.0


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
