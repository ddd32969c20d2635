"""Jumps of y and z as X grows: where they are, what they explain, and the level of the tests with them."""

import numpy as np
import pytest
from marks import slowly
from scipy.stats import binom

from codec import MarkovBlanketSelector, codec_test
from codec._jumps import MOST_GAPS, Scan, find_jumps, find_slanted_jump
from codec._kernel_ridge import Smoother
from codec._residuals import Residuals, embed, follow_terms
from codec._validation import read_table


def smoothed(x, v, seed=0):
    """Points, the standardized column, and its residuals."""
    points = embed(read_table(x, "x"))
    column = np.ascontiguousarray(embed(read_table(v, "v")).T)
    return points, column[0], Residuals(Smoother(points, np.random.default_rng(seed)), column, turning=False)


def parts(points, v, residuals):
    return points, v - residuals.location[0], residuals.fit.functions[0], residuals.fit.shrinkage[0]


def penalized(functions, shrinkage, v, more):
    """Least ``|v - a - U b - s c|^2 + sum b^2 (1 - g) / g``, by least squares with the penalty as further rows."""
    used = shrinkage > 1e-12
    n, r = len(v), int(used.sum())
    design = np.column_stack([np.ones(n), functions[:, used], *more])
    penalty = np.zeros((r, design.shape[1]))
    penalty[:, 1 : r + 1] = np.diag(np.sqrt((1 - shrinkage[used]) / shrinkage[used]))
    left = np.concatenate([v, np.zeros(r)])
    whole = np.vstack([design, penalty])
    return float(np.sum((left - whole @ np.linalg.lstsq(whole, left, rcond=None)[0]) ** 2))


def test_what_a_step_gains_is_what_it_lowers_the_penalized_sum_of_squares_by():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 2))
    v = np.sin(x[:, 0]) + 2.0 * (x[:, 1] > 0.3) + 0.3 * rng.standard_normal(80)
    points, column, residuals = smoothed(x, v)
    _, left, functions, shrinkage = parts(points, column, residuals)
    scan = Scan(points, left, functions, shrinkage)
    taken = []
    for _ in range(3):  # given the steps before, too
        jump = scan.best(0.0)
        before = penalized(functions, shrinkage, column, taken)
        after = penalized(functions, shrinkage, column, [*taken, jump.column])
        assert jump.gain == pytest.approx(before - after, rel=1e-6)
        scan.take(jump)
        taken.append(jump.column)


def test_no_other_gap_gains_more():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 1))
    points, column, residuals = smoothed(x, 3.0 * (x[:, 0] > -0.2) + rng.standard_normal(60))
    _, left, functions, shrinkage = parts(points, column, residuals)
    best = Scan(points, left, functions, shrinkage).best(0.0)
    none = penalized(functions, shrinkage, column, [])
    gains = {}
    for cut in np.sort(x[:, 0])[:-1]:
        step = (x[:, 0] > cut).astype(float)
        s = step - step.mean()
        if s @ s - shrinkage @ (functions.T @ s) ** 2 >= 0.5:  # worth half a row
            gains[cut] = none - penalized(functions, shrinkage, column, [step])
    assert best.gain == pytest.approx(max(gains.values()), rel=1e-6)


@pytest.mark.parametrize("n", [300, 10 * MOST_GAPS])
@pytest.mark.parametrize("at", [0.0, -0.8])
def test_a_jump_is_found_where_it_is(n, at):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((n, 2))
    points, column, residuals = smoothed(x, np.sin(x[:, 1]) + 5.0 * (x[:, 0] > at) + rng.standard_normal(n))
    found = find_jumps(*parts(points, column, residuals))
    assert np.mean(found[0] != (x[:, 0] > at)) <= 2 / n


def test_a_jump_whose_size_depends_on_another_column_is_found():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 2))
    points, column, residuals = smoothed(x, 3.0 * np.sign(x[:, 0]) * x[:, 1] + rng.standard_normal(400))
    above, product = find_jumps(*parts(points, column, residuals))[:2]
    assert np.mean(above != (x[:, 0] > 0.0)) <= 0.01
    np.testing.assert_allclose(product, above * points[:, 1])


@pytest.mark.parametrize("noise", ["normal", "t3", "scale"])
def test_smooth_functions_seldom_jump(noise):
    """By chance in less than one of ten; more than 28 of 150 would be beyond 4 standard errors."""
    found = 0
    for seed in range(150):
        rng = np.random.default_rng([seed, 4])
        x = rng.standard_normal((200, 2))
        e = rng.standard_t(3, 200) if noise == "t3" else rng.standard_normal(200)
        e = e * np.exp(0.8 * x[:, 0]) if noise == "scale" else e
        found += len(find_jumps(*parts(*smoothed(x, np.tanh(2.0 * x[:, 0]) + x[:, 1] ** 2 + 0.5 * e)))) > 0
    assert found <= 28


@pytest.mark.parametrize(("n", "d", "size", "at"), [(300, 2, 6.0, 0.0), (500, 5, 6.0, 0.5), (400, 2, 3.0, -0.5)])
def test_a_jump_is_found_where_a_sum_of_columns_passes_a_value(n, d, size, at):
    """The side of nearly all rows; noise alone hides that of a row next to the line."""
    wrong = []
    for seed in range(10):
        rng = np.random.default_rng([seed, 10])
        x = rng.standard_normal((n, d))
        weights = rng.standard_normal(d)
        above = x @ weights > at * np.linalg.norm(weights)
        v = np.tanh(x[:, 0]) + size * above + rng.standard_normal(n)
        points, column, residuals = smoothed(x, v)
        step = find_slanted_jump(*parts(points, column, residuals), residuals.fit.directions(0, d))
        wrong.append(1.0 if step is None else min(np.mean(step != above), np.mean(step == above)))
    assert np.median(wrong) <= 0.02
    assert np.mean(np.array(wrong) > 0.05) <= 0.1


@pytest.mark.parametrize("d", [19, 20, 30])
def test_more_columns_than_rows_have_no_slanted_jumps(d):
    x = np.random.default_rng(0).standard_normal((20, d))
    points, column, residuals = smoothed(x, np.where(x[:, 0] > 0.0, 5.0, -5.0))
    assert find_slanted_jump(*parts(points, column, residuals), np.eye(d)[:2]) is None


@pytest.mark.parametrize("function", [np.sin, np.tanh, lambda u: u * np.abs(u)], ids=["sine", "tanh", "square"])
@pytest.mark.parametrize("noise", ["normal", "scale", "t3"])
def test_smooth_functions_of_a_sum_have_no_slanted_jumps(function, noise):
    """At most 3 of 20: a rate of 1 in 50 gives more once in 1,600 times."""
    found = 0
    for seed in range(20):
        rng = np.random.default_rng([seed, 11])
        x = rng.standard_normal((300, 3))
        u = x @ rng.standard_normal(3)
        e = rng.standard_t(3, 300) if noise == "t3" else rng.standard_normal(300)
        e = e * np.exp(0.8 * x[:, 0]) if noise == "scale" else e
        points, column, residuals = smoothed(x, 2.0 * function(u) + e)
        found += find_slanted_jump(*parts(points, column, residuals), residuals.fit.directions(0, 3)) is not None
    assert found <= 3


def test_what_a_slanted_step_gains_is_what_no_direction_near_it_gains_more_of():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 2))
    points, column, residuals = smoothed(x, 5.0 * (x.sum(axis=1) > 0.0) + rng.standard_normal(200))
    _, left, functions, shrinkage = parts(points, column, residuals)
    step = find_slanted_jump(points, left, functions, shrinkage, residuals.fit.directions(0, 2))
    none = penalized(functions, shrinkage, column, [])
    gain = none - penalized(functions, shrinkage, column, [step])
    for angle in np.linspace(0.0, np.pi, 61):
        other = Scan(points @ [[np.cos(angle)], [np.sin(angle)]], left, functions, shrinkage).best(0.0)
        assert gain >= 0.9 * other.gain


def test_columns_of_one_or_two_values_have_no_steps():
    rng = np.random.default_rng(5)
    x = np.column_stack([rng.integers(0, 2, 200), rng.integers(0, 2, 200)])
    v = 3.0 * x[:, 0] + rng.standard_normal(200)
    assert find_jumps(*parts(*smoothed(x, v))) == []


def test_the_smoother_is_kept_where_nothing_jumps_and_told_the_steps_where_something_does():
    rng = np.random.default_rng(6)
    x = embed(read_table(rng.standard_normal((300, 1)), "x"))
    smoother = Smoother(x, np.random.default_rng(0))
    assert follow_terms(smoother, np.sin(x.T) + rng.standard_normal((1, 300)))[0] is smoother
    wider, residuals = follow_terms(smoother, 6.0 * (x.T > 0.1) + rng.standard_normal((1, 300)))
    np.testing.assert_array_equal(wider.points[:, :1], x)
    assert wider.points.shape[1] > 1
    near = np.abs(x[:, 0] - 0.1) < 0.3
    assert residuals.standard[0, near].std() < 1.5


def shared(name, n, rng):
    x = rng.standard_normal(
        (n, {"two columns": 2, "tree": 4, "one of three": 3, "sum": 2, "sum of four": 4}.get(name, 1))
    )
    if name == "threshold":
        return *((x[:, 0] > 0) != (rng.random(n) < 0.05) for _ in range(2)), x
    f = 6.0 * (x[:, 0] > 0.5)
    if name == "two columns":
        f = 3.0 * np.sign(x[:, 0]) * x[:, 1]
    if name.startswith("sum"):
        f = 6.0 * (x.sum(axis=1) > 0.0)
    if name == "tree":
        f = np.where(x[:, 0] > 0, np.where(x[:, 1] > 0.5, 4.0, 0.0), np.where(x[:, 2] > -0.3, 2.0, -3.0))
    return f + rng.standard_normal(n), f + rng.standard_normal(n), x


@pytest.mark.filterwarnings("ignore:y and z look like the same")
@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("jump", 24), ("tree", 24),
        *(slowly(name, 150) for name in ("jump", "one of three", "threshold", "two columns", "tree", "sum", "sum of four")),
    ],
)  # fmt: skip
def test_level_where_y_and_z_jump_at_the_same_place(name, n):
    """At .05, with a bound of probability .0001. Smoothing alone rejects in 13 to 100 of 100."""
    hits = 0
    for seed in range(n):
        y, z, x = shared(name, 600, np.random.default_rng([seed, 7]))
        hits += codec_test(y, z, x, rng=seed).pvalue <= 0.05
    assert hits <= binom.ppf(1.0 - 1e-4, n, 0.05)


@pytest.mark.filterwarnings("ignore:y and z look like the same")
def test_power_beside_a_jump_stays():
    for seed in range(10):
        rng = np.random.default_rng([seed, 8])
        x = rng.standard_normal((400, 2))
        z = 6.0 * (x[:, 0] > 0) + rng.standard_normal(400)
        y = 6.0 * (x[:, 0] > 0) + (z - 6.0 * (x[:, 0] > 0)) ** 2 + rng.standard_normal(400)
        assert codec_test(y, z, x, rng=seed).pvalue <= 0.01


@pytest.mark.slow
def test_a_feature_that_jumps_where_y_does_is_not_selected():
    """y and the second column follow the side of the first: nothing but the first tells anything."""
    false = 0
    for seed in range(6):
        rng = np.random.default_rng([seed, 9])
        x = rng.standard_normal((500, 4))
        side = x[:, 0] > 0.0
        x[:, 1] = 4.0 * side + rng.standard_normal(500)
        y = 4.0 * side + rng.standard_normal(500)
        found = MarkovBlanketSelector(random_state=seed).fit(x, y).blanket_
        assert 0 in found
        false += len(found) > 1
    assert false <= 2
